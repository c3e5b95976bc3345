//! The progress of a transfer, told to a client for as long as the transfer is under way.
//!
//! # Invariants
//! - An event is made when the one before was taken, and no sooner than [`LOOK`] after it.
//! - A stream ends with its transfer, with the login that asked for it, and with the server.
//! - A tenant has a share of streams, which is a small part of its share of requests.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Server;
use super::body::{AnswerPart, PartSource};
use super::head::resolved;
use super::list::Asked;
use crate::auth::Grounds;
use crate::control::Watch;
use crate::dialect::Reply;
use crate::domain::{Fault, FaultKind, Guard, Outcome};

/// The time between two looks at a transfer.
const LOOK: Duration = Duration::from_millis(500);

/// The time between two looks at a login, which is that in which commands of an operator take effect elsewhere, too.
const LOOK_AT_LOGIN: Duration = Duration::from_secs(5);

/// The longest time in which nothing is sent: most proxies close what is silent for a minute, some for half of one.
const QUIET: Duration = Duration::from_secs(15);

/// The most streams of one tenant.
const MOST: usize = 64;

/// The streams of one tenant: a sixteenth of the connections, but for large servers.
pub(super) fn share_of(connections: usize) -> usize {
    (connections / 16).clamp(1, MOST)
}

/// Who asked for a stream, which ends with that login.
pub(super) struct Watcher {
    pub(super) guard: Guard,
    pub(super) grounds: Grounds,
    pub(super) client: IpAddr,
}

/// See the module.
pub(super) struct Events {
    server: Arc<Server>,
    asked: Asked,
    watcher: Watcher,
    watch: Watch,
    /// The mark of what was told last.
    told: String,
    /// The rate that was told last.
    rate: u64,
    sent_at: Instant,
    login_seen_at: Instant,
    is_over: bool,
}

impl Events {
    /// Returns the events after the one with this mark and rate.
    pub(super) fn new(
        server: &Arc<Server>,
        asked: Asked,
        watcher: Watcher,
        (watch, told, rate): (Watch, String, u64),
    ) -> Self {
        let now = Instant::now();
        let server = server.clone();
        Self { server, asked, watcher, watch, told, rate, sent_at: now, login_seen_at: now, is_over: false }
    }

    async fn part(&mut self) -> Result<Option<AnswerPart>, Fault> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
            if self.server.control.is_draining() || !self.is_known().await? {
                return Ok(None);
            }
            let seen = match self.watch.look().await {
                // What has ended long ago is forgotten.
                Err(fault) if fault.kind == FaultKind::NotFound => return Ok(None),
                seen => seen?,
            };
            self.is_over = seen.transfer.state.has_ended();
            let mark = seen.mark();
            let is_quiet = self.sent_at.elapsed() >= QUIET.min(self.server.limits.idle / 3);
            let is_new = mark != self.told || is_quiet && seen.rate != self.rate;
            if !is_new && !is_quiet {
                continue;
            }
            (self.told, self.rate, self.sent_at) = (mark, seen.rate, Instant::now());
            let bytes = self.encoded(&Outcome::Watched { seen: Box::new(seen), is_known: !is_new })?;
            let (tenant, within) = (self.asked.tenant, self.server.limits.idle);
            let room = self.server.answers.room_within(tenant, bytes.len(), within).await?;
            return Ok(Some((bytes, room)));
        }
    }

    /// Reports whether the login that asked for the stream still holds.
    async fn is_known(&mut self) -> Result<bool, Fault> {
        if self.login_seen_at.elapsed() < LOOK_AT_LOGIN {
            return Ok(true);
        }
        self.login_seen_at = Instant::now();
        let Watcher { guard, grounds, client } = &self.watcher;
        self.server.logins.still_holds(grounds, (*guard, &self.asked.parts), *client).await
    }

    fn encoded(&self, outcome: &Outcome) -> Result<Bytes, Fault> {
        let Asked { answer, parts, places, .. } = &self.asked;
        answer.encode(&resolved(parts, None).call, outcome, places).map(Reply::into_body)
    }
}

impl PartSource for Events {
    async fn next(mut self) -> (Self, Option<io::Result<AnswerPart>>) {
        let part = self.part().await.map_err(io::Error::other).transpose();
        (self, part)
    }
}
