//! Sockets: listeners, TLS, framing, routing, drain. The only floor that names hyper.

mod activity;
mod admission;
mod answers;
mod body;
mod connection;
mod cors;
mod events;
mod form_body;
mod framing;
mod handle;
mod head;
mod incoming;
mod interim;
mod list;
pub(crate) mod listener;
mod moved;
mod origin;
mod proxy;
mod regions;
mod sendfile;
mod shares;
mod tap;
mod timing;
pub(crate) mod tls;
mod under_way;
mod watched;
mod windows;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Logins;
use crate::control::Control;
use crate::dialect::{Places, Side};
use crate::domain::TenantId;
use crate::metrics::Metrics;
use activity::Patience;
use admission::Admission;
use answers::Answers;
use cors::Cors;
use shares::Shares;
use tls::SideTls;
use windows::Windows;

pub(crate) use proxy::Proxies;

/// The answer to a connection that is not served.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What every connection shares.
pub(crate) struct Server {
    /// The use cases.
    pub(crate) control: Arc<Control>,
    /// The ways to prove who is calling.
    pub(crate) logins: Logins,
    /// The certificates for TLS, if any.
    pub(crate) tls: SideTls,
    /// The metrics that the server updates.
    pub(crate) metrics: Arc<Metrics>,
    /// Time limits and numbers of connections.
    pub(crate) limits: ServerLimits,
    /// The configured URLs at which clients reach each side.
    pub(crate) public: PublicUrls,
    /// The other sites whose scripts may use this server.
    cors: Cors,
    /// The proxies that are trusted to report the client's address.
    pub(crate) proxies: Proxies,
    /// The tasks of the connections.
    connections: TaskTracker,
    /// The memory for answers that are not sent yet.
    answers: Arc<Answers>,
    /// The windows of HTTP/2 connections.
    windows: Windows,
    /// Requests in progress: of each tenant, and of each address that proxies report per request.
    tenants: Arc<Shares<TenantId>>,
    addresses: Arc<Shares<IpAddr>>,
    /// Of the requests of each tenant those that watch transfers, which last.
    watching: Arc<Shares<TenantId>>,
    /// Whether a lack of descriptors was logged, which happens only once.
    has_told_of_files: AtomicBool,
}

/// Limits of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    /// Longest wait for a head, for a buffered body, and between requests.
    pub(crate) head: Duration,
    /// Longest time in which a peer takes no byte of an answer.
    pub(crate) idle: Duration,
    /// The most connections at once.
    pub(crate) connections: usize,
    /// The most connections at once from one address.
    pub(crate) connections_per_address: usize,
    /// Whether large bodies may be taken past hyper.
    pub(crate) tap: bool,
}

/// The configured URLs; see [`crate::config::Endpoint::public_url`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicUrls {
    /// The URL of the direct side.
    pub(crate) direct: Option<String>,
    /// The URL of the control side.
    pub(crate) control: Option<String>,
    /// The URL of an identity service elsewhere.
    pub(crate) identity: Option<String>,
    /// The origins of other sites whose scripts may use this server.
    pub(crate) origins: Vec<String>,
}

/// The listeners: one for both sides, or one for each.
pub(crate) enum Listeners {
    /// One listener for both sides.
    Shared(TcpListener),
    /// One listener for each side.
    Split {
        /// The data plane.
        direct: TcpListener,
        /// The metadata side.
        control: TcpListener,
    },
}

/// The addresses that the sides are bound to.
#[derive(Clone, Copy, Debug)]
struct Bound {
    direct: SocketAddr,
    control: SocketAddr,
}

/// The share of one tenant: three quarters, as of other limits.
const fn share_of(total: usize) -> usize {
    let share = total / 4 * 3;
    if share == 0 { 1 } else { share }
}

impl Server {
    /// Returns a server over these parts.
    pub(crate) fn new(
        control: Arc<Control>,
        logins: Logins,
        tls: SideTls,
        limits: ServerLimits,
        (public, proxies): (PublicUrls, Proxies),
    ) -> Arc<Self> {
        let metrics = control.metrics().clone();
        let cors = Cors::new(public.origins.clone());
        Arc::new(Self {
            control,
            logins,
            tls,
            metrics,
            limits,
            public,
            cors,
            proxies,
            connections: TaskTracker::new(),
            answers: Answers::new(),
            windows: Windows::new(),
            tenants: Shares::new(share_of(limits.connections)),
            addresses: Shares::new(limits.connections_per_address),
            watching: Shares::new(events::share_of(limits.connections)),
            has_told_of_files: AtomicBool::new(false),
        })
    }

    /// Serves until `stop`. Then it accepts no more, and lets every connection end after its current request.
    ///
    /// `kill` closes the remaining connections; [`Server::ended`] waits until there are none.
    pub(crate) fn start(
        self: &Arc<Self>,
        listeners: Listeners,
        stop: &CancellationToken,
        kill: &CancellationToken,
    ) -> std::io::Result<()> {
        let admission = Admission::new(self.limits.connections, self.limits.connections_per_address);
        let (bound, listeners) = match listeners {
            Listeners::Shared(listener) => {
                let address = listener.local_addr()?;
                (Bound { direct: address, control: address }, vec![(listener, None)])
            }
            Listeners::Split { direct, control } => (
                Bound { direct: direct.local_addr()?, control: control.local_addr()? },
                vec![(direct, Some(Side::Direct)), (control, Some(Side::Control))],
            ),
        };
        for (listener, side) in listeners {
            let (server, until, kill) = (self.clone(), stop.clone(), kill.clone());
            let places = self.connection_places(admission.clone(), side);
            // A restarted task accepts with the same socket, which closes with this closure.
            let listener = Arc::new(listener);
            self.control.supervisor().run("listener", stop, move || {
                let (server, stop, kill) = (server.clone(), until.clone(), kill.clone());
                let serve = move |stream, peer, place| {
                    let socket = connection::Socket { stream, peer, side, bound };
                    let task = connection::serve(server.clone(), (socket, place), stop.clone(), kill.clone());
                    server.connections.spawn(task);
                };
                listener::accept(listener.clone(), places.clone(), until.clone(), serve)
            });
        }
        Ok(())
    }

    /// Waits, after a stop, until every connection has ended: earlier requests are answered, and their answers are
    /// handed to the kernel.
    pub(crate) async fn ended(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Addresses of proxies have no share. Many clients may be behind one, and each has a share of its own as soon as
    /// the proxy reports its address.
    fn connection_places(self: &Arc<Self>, admission: Arc<Admission>, side: Option<Side>) -> listener::Places {
        let (server, refusing) = (self.clone(), self.clone());
        listener::Places {
            admission,
            is_exempt: Arc::new(move |address| server.proxies.is_trusted(address)),
            refuse: Arc::new(move |stream, peer| refusing.refuse(&stream, peer, side)),
        }
    }

    /// Answers a connection that gets no place.
    fn refuse(&self, stream: &TcpStream, peer: SocketAddr, side: Option<Side>) {
        self.metrics.connections_refused.inc();
        tracing::debug!(%peer, "refused: its address has all the connections that one may have");
        if self.tls.of(side).is_none() {
            // The send buffer is empty, so this does not block.
            let _ = rustix::net::send(stream, BUSY, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn patience(&self) -> Patience {
        Patience { head: self.limits.head, idle: self.limits.idle }
    }

    /// Returns the URLs of both sides for a peer that reached this server at `local`.
    fn places(&self, local: SocketAddr, bound: Bound, side: Option<Side>) -> Places {
        // A listener on the wildcard address is reached at the address that this peer used.
        let own = |side: Side, bound: SocketAddr| {
            let scheme = if self.tls.of(Some(side)).is_some() { "https" } else { "http" };
            let ip = if bound.ip().is_unspecified() { local.ip().to_canonical() } else { bound.ip() };
            format!("{scheme}://{}", SocketAddr::new(ip, bound.port()))
        };
        let control = self.public.control.clone().unwrap_or_else(|| own(Side::Control, bound.control));
        Places {
            control_relative: self.public.control.is_none() && side != Some(Side::Direct),
            direct_relative: self.public.direct.is_none() && side != Some(Side::Control),
            direct: self.public.direct.clone().unwrap_or_else(|| own(Side::Direct, bound.direct)),
            identity: self.public.identity.clone().unwrap_or_else(|| control.clone()),
            control,
        }
    }
}
