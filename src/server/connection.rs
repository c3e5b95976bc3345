//! One connection: TLS if there is any, then HTTP/1.1 or HTTP/2 until it ends.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::Activity;
use super::body::Body;
use super::framing::FramingGuard;
use super::handle::{self, Connection};
use super::regions::FileRegions;
use super::sendfile::SendfileStream;
use super::tap::Tap;
use super::watched::{Progress, Watched};
use super::{Bound, Server};
use crate::dialect::Side;
use crate::transfer::Transport;

/// A PROXY header is one packet and a handshake a few; a peer that needs longer, or longer than for a head, is stalling.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Streams at once on one HTTP/2 connection. Each may hold a block, and a browser opens fewer.
const STREAMS: u32 = 32;

/// What one HTTP/2 upload may send ahead of what we have taken: the bandwidth-delay product of 10 Gbit/s at 1 ms.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all streams of a connection together, which bounds its memory (I12).
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The most bytes of an HTTP/2 request's header fields; HTTP/1.1 has hyper's buffer limit.
const HEADER_LIST: u32 = 16 << 10;

/// A peer that is told to go gets this long to hear it.
const GOODBYE: Duration = Duration::from_secs(1);

/// An accepted socket.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    /// Who connected: a proxy, perhaps.
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

/// Why a connection was cut.
const IDLE: &str = "the peer sent no request, or took no answer, for too long";

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
    let Socket { mut stream, peer, side, bound } = socket;
    let beginning = HANDSHAKE.min(server.limits.head);
    let peer = tokio::time::timeout(beginning, server.proxies.peer_of(&mut stream, peer)).await??;
    let places = server.places(stream.local_addr()?, bound, side);
    let written = Arc::new(Progress::default());
    let mut connection = Connection {
        activity: Activity::new(),
        peer,
        side,
        places,
        framing: None,
        requests: AtomicU64::new(0),
        regions: None,
        tap: None,
        transport: Some(Arc::new(Meter { written: written.clone(), regions: None })),
        kill: kill.clone(),
    };
    let Some(tls) = &server.tls else {
        let (guard, framing) = FramingGuard::new();
        let regions = FileRegions::default();
        let socket = Arc::new(stream);
        let tap = server.limits.tap.then(|| Tap::new(socket.clone(), written.clone()));
        let stream = SendfileStream::new(socket, regions.clone());
        let stream = Watched::new(stream, Some(guard), written.clone()).tapped_by(tap.clone());
        connection.framing = Some(framing);
        connection.transport = Some(Arc::new(Meter { written: written.clone(), regions: Some(regions.clone()) }));
        connection.regions = Some(regions);
        connection.tap = tap;
        return speak_http1(server, stream, &written, connection, stop).await;
    };
    let stream = tokio::time::timeout(beginning, tls.acceptor().accept(stream)).await??;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        // Its streams share the connection, so each counts its own bytes.
        connection.transport = None;
        return speak_http2(server, Watched::new(stream, None, written.clone()), &written, connection, stop).await;
    }
    let (guard, framing) = FramingGuard::new();
    connection.framing = Some(framing);
    speak_http1(server, Watched::new(stream, Some(guard), written.clone()), &written, connection, stop).await
}

async fn speak_http1<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    mut stream: Watched<S>,
    moved: &Progress,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let activity = connection.activity.clone();
    let idle = activity.until_idle(moved, server.patience());
    let service = service_fn(answers(server, connection));
    tokio::pin!(idle);
    // A body that was taken past hyper ends a conversation, and not the connection.
    loop {
        let mut conversation = http1::Builder::new()
            // `until_idle` does it, and knows when an answer was taken.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(&mut stream), &service);
        tokio::select! {
            result = poll_fn(|cx| conversation.poll_without_shutdown(cx)) => result?,
            () = idle.as_mut() => return Err(IDLE.into()),
            () = stop.cancelled() => {
                Pin::new(&mut conversation).graceful_shutdown();
                tokio::select! {
                    result = poll_fn(|cx| conversation.poll_without_shutdown(cx)) => result?,
                    () = idle.as_mut() => return Err(IDLE.into()),
                }
            }
        }
        drop(conversation);
        if !stream.resume() {
            break;
        }
    }
    Ok(tokio::time::timeout(GOODBYE, stream.shutdown()).await??)
}

async fn speak_http2<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    stream: Watched<S>,
    moved: &Progress,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let activity = connection.activity.clone();
    let idle = activity.until_idle(moved, server.patience());
    let service = service_fn(answers(server, connection));
    let conversation = http2::Builder::new(Tracked(server.control.tracker().clone()))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(conversation, idle);
    tokio::select! {
        result = conversation.as_mut() => return Ok(result?),
        () = idle.as_mut() => {
            conversation.as_mut().graceful_shutdown();
            return tokio::time::timeout(GOODBYE, conversation).await.map_err(|_| IDLE)?.map_err(Into::into);
        }
        () = stop.cancelled() => conversation.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        result = conversation => Ok(result?),
        () = idle => Err(IDLE.into()),
    }
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
