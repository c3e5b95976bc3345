//! One connection: TLS if there is any, then HTTP/1.1 or HTTP/2 until it ends.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use super::framing::FramingGuard;
use super::handle::{self, Connection};
use super::sendfile::{FileRegions, SendfileStream};
use super::watched::{Progress, Watched};
use super::{Bound, Server};
use crate::dialect::Side;
use crate::transfer::Transport;

/// A handshake is a few packets; a peer that needs longer is stalling.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Streams at once on one HTTP/2 connection. Each may hold a block, and a browser opens fewer.
const STREAMS: u32 = 32;

/// What one HTTP/2 upload may send ahead of what we have taken: the bandwidth-delay product of 10 Gbit/s at 1 ms.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all streams of a connection together, which bounds its memory (I12).
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The most bytes of an HTTP/2 request's header fields; HTTP/1.1 has hyper's buffer limit.
const HEADER_LIST: u32 = 16 << 10;

/// A peer that answers no ping for this long is gone.
const PING: Duration = Duration::from_secs(20);

/// An accepted socket.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) side: Option<Side>,
    pub(super) bound: Bound,
}

/// Serves a connection until it ends, `stop` and the end of its request, or `kill`.
pub(super) async fn serve(server: Arc<Server>, socket: Socket, stop: CancellationToken, kill: CancellationToken) {
    let kill = kill.child_token();
    server.metrics.connections.inc();
    let ended = kill.run_until_cancelled(Box::pin(speak(&server, socket, &stop, &kill))).await;
    server.metrics.connections.dec();
    if let Some(Err(error)) = ended {
        // Peers break off all the time; the transfer's own line says what was lost.
        tracing::debug!(%error, "connection ended");
    }
}

/// Reads the counts of a connection.
struct Meter {
    written: Arc<Progress>,
    regions: Option<FileRegions>,
}

impl Transport for Meter {
    fn sent(&self) -> u64 {
        self.written.written()
    }

    fn disk_wait(&self) -> (Duration, bool) {
        self.regions.as_ref().map_or((Duration::ZERO, false), FileRegions::disk_wait)
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn speak(server: &Arc<Server>, socket: Socket, stop: &CancellationToken, kill: &CancellationToken) -> Ended {
    let Socket { stream, peer, side, bound } = socket;
    let places = server.places(stream.local_addr()?, bound, side);
    let written = Arc::new(Progress::default());
    let mut connection = Connection {
        peer,
        side,
        places,
        framing: None,
        requests: AtomicU64::new(0),
        regions: None,
        transport: Some(Arc::new(Meter { written: written.clone(), regions: None })),
        kill: kill.clone(),
    };
    let Some(tls) = &server.tls else {
        let (guard, framing) = FramingGuard::new();
        let regions = FileRegions::default();
        let stream = SendfileStream::new(stream, regions.clone());
        connection.framing = Some(framing);
        connection.transport = Some(Arc::new(Meter { written: written.clone(), regions: Some(regions.clone()) }));
        connection.regions = Some(regions);
        return speak_http1(server, Watched::new(stream, Some(guard), written), connection, stop).await;
    };
    let stream = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await??;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        // Its streams share the connection, so each counts its own bytes.
        connection.transport = None;
        return speak_http2(server, Watched::new(stream, None, written), connection, stop).await;
    }
    let (guard, framing) = FramingGuard::new();
    connection.framing = Some(framing);
    speak_http1(server, Watched::new(stream, Some(guard), written), connection, stop).await
}

async fn speak_http1<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    stream: Watched<S>,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let service = service_fn(answers(server, connection));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(server.limits.head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(conversation);
    tokio::select! {
        result = conversation.as_mut() => return Ok(result?),
        () = stop.cancelled() => conversation.as_mut().graceful_shutdown(),
    }
    Ok(conversation.await?)
}

async fn speak_http2<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    stream: Watched<S>,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let service = service_fn(answers(server, connection));
    let conversation = http2::Builder::new(Tracked(server.control.tracker().clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(conversation);
    tokio::select! {
        result = conversation.as_mut() => return Ok(result?),
        () = stop.cancelled() => conversation.as_mut().graceful_shutdown(),
    }
    Ok(conversation.await?)
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

fn answers(server: &Arc<Server>, connection: Connection) -> impl Fn(Request<Incoming>) -> Answer + use<> {
    let (server, connection) = (server.clone(), Arc::new(connection));
    move |request| {
        let answer = handle::answer(server.clone(), connection.clone(), request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Runs hyper's own tasks in our tracker.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
