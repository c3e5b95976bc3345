//! The paths for whoever runs the server: whether it lives, whether it is ready, and its metrics.
//!
//! They need no login, take any query, and are answered while the server stops or is full.

use http::{Method, StatusCode};

use super::{Call, Dialect, Endpoint, Entry, Operation, Places, Reply, Route, Side, basic, direct, reply};
use crate::domain::Outcome;

pub(super) static DIALECT: Dialect = Dialect {
    name: "operational",
    routes: ROUTES,
    // What lies beneath them is of no API.
    has_path: |_| false,
    fault: direct::fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

static ROUTES: &[Route] = &[
    Route { pattern: "/healthz", allow: "GET, HEAD", endpoints: &[probe(Probe::Health, "whether the server lives")] },
    Route { pattern: "/readyz", allow: "GET, HEAD", endpoints: &[probe(Probe::Ready, "whether it takes requests")] },
    Route { pattern: "/metrics", allow: "GET, HEAD", endpoints: &[probe(Probe::Metrics, "its metrics")] },
];

/// What is asked of a server by whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it lives.
    Health,
    /// Whether it is ready.
    Ready,
    /// Its metrics.
    Metrics,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It lives.
    Alive,
    /// Whether it is ready.
    Ready(bool),
    /// Its metrics, as text.
    Metrics(String),
}

impl Report {
    /// The reply that tells it.
    pub fn reply(self) -> Reply {
        const PLAIN: &str = "text/plain; charset=utf-8";
        match self {
            Self::Alive => reply(StatusCode::OK, PLAIN, "ok\n"),
            Self::Ready(true) => reply(StatusCode::OK, PLAIN, "ready\n"),
            Self::Ready(false) => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n"),
            Self::Metrics(text) => {
                reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
        }
    }
}

impl Probe {
    /// Itself, as one for every request.
    pub(super) const fn op(self) -> &'static dyn Operation {
        match self {
            Self::Health => &Self::Health,
            Self::Ready => &Self::Ready,
            Self::Metrics => &Self::Metrics,
        }
    }
}

/// It is answered by a [`Report`].
impl Operation for Probe {
    fn encode(&self, _: &Call, _: &Outcome, _: &Places) -> Option<Reply> {
        None
    }
}

const fn probe(probe: Probe, summary: &'static str) -> Endpoint {
    // Its numbers tell of every tenant: they are not for the side that is open to the world.
    let side = if matches!(probe, Probe::Metrics) { Side::Control } else { Side::Either };
    Endpoint { method: Method::GET, media: None, side, summary, entry: Entry::Probe(probe) }
}
