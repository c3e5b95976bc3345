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
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Patience};
use super::admission::Place;
use super::body::Body;
use super::framing::FramingGuard;
use super::handle::{self, Connection};
use super::incoming::{LINGER, LINGER_MOST};
use super::interim::{Interim, Trials};
use super::moved::Moved;
use super::regions::FileRegions;
use super::sendfile::SendfileStream;
use super::tap::Tap;
use super::watched::Watched;
use super::{Bound, Server};
use crate::dialect::Side;
use crate::metrics::Metrics;
use crate::transfer::Transport;

/// The longest wait for a PROXY header (one packet) or a handshake (a few). Peers that need longer are stalling; the
/// limit for a head applies, too.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head, on HTTP/1.1 with its first line; longer ones are answered with 431. Enough for
/// the largest usual cookies and tokens, and small enough to be held for every connection at once (I12).
const HEAD: u32 = 16 << 10;

/// The most that hyper reads at a time of an upload over HTTP/1.1, and its buffer. Larger ones gain nothing.
const BUFFER: usize = 128 << 10;

/// The time that a peer gets to read an answer to a refused connection, or after a stop.
const GOODBYE: Duration = Duration::from_secs(1);

/// An accepted socket.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    /// The address of the peer, which may be a proxy.
    pub(super) peer: SocketAddr,
    pub(super) side: Option<Side>,
    pub(super) bound: Bound,
}

/// Serves a connection until it ends, until `stop` and the end of its request, or until `kill`.
pub(super) async fn serve(
    server: Arc<Server>,
    (socket, place): (Socket, Place),
    stop: CancellationToken,
    kill: CancellationToken,
) {
    let kill = kill.child_token();
    server.metrics.connections.inc();
    // Dropped, and so counted, even if this panics.
    let _counted = Counted(server.metrics.clone());
    let ended = tokio::select! {
        biased;
        () = kill.cancelled() => None,
        () = place.evicted() => Some(Err(EVICTED.into())),
        ended = Box::pin(speak(&server, socket, &place, &stop, &kill)) => Some(ended),
    };
    if let Some(Err(error)) = ended {
        // Peers close early all the time; the log line of the transfer says what was lost.
        tracing::debug!(%error, "connection ended");
    }
}

/// Counts an open connection until it is dropped.
struct Counted(Arc<Metrics>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Reasons for closing a connection.
const STOPPING: &str = "the server stops, and no request had begun";
const IDLE: &str = "the peer sent no request, or took no answer, for too long";
const EVICTED: &str = "all connections are taken, and this one had not shown whose it is";

/// The counts of a connection that a transfer has to itself.
struct Meter {
    written: Arc<Moved>,
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

async fn speak(
    server: &Arc<Server>,
    socket: Socket,
    place: &Place,
    stop: &CancellationToken,
    kill: &CancellationToken,
) -> Ended {
    let Socket { mut stream, peer, side, bound } = socket;
    let beginning = HANDSHAKE.min(server.limits.head);
    let told = tokio::time::timeout(beginning, server.proxies.peer_of(&mut stream, peer));
    let standing = place.standing();
    let proxy = peer;
    let peer = tokio::select! {
        peer = told => peer??,
        () = after(stop, GOODBYE) => return Err(STOPPING.into()),
    };
    if peer != proxy
        && !server.proxies.is_trusted(peer.ip())
        && let Err(taken) = place.is_of(peer.ip())
    {
        server.refuse(&stream, peer, side);
        return Err(taken.into());
    }
    let places = server.places(stream.local_addr()?, bound, side);
    let written = Arc::new(Moved::default());
    let interim = Arc::new(Interim::default());
    let mut connection = Connection {
        activity: standing.activity.clone(),
        standing,
        peer,
        side,
        places,
        framing: None,
        requests: AtomicU64::new(0),
        regions: None,
        tap: None,
        transport: Some(Arc::new(Meter { written: written.clone(), regions: None })),
        moved: written.clone(),
        interim: interim.clone(),
        kill: kill.clone(),
    };
    let Some(tls) = server.tls.of(side) else {
        let (guard, framing) = FramingGuard::new();
        let regions = FileRegions::default();
        let socket = Arc::new(stream);
        let tap = server.limits.tap.then(|| Tap::new(socket.clone()));
        let stream = SendfileStream::new(socket.clone(), regions.clone());
        let stream = Watched::new(stream, Some(guard), written.clone()).tapped_by(tap.clone()).with_interim(interim);
        connection.framing = Some(framing);
        connection.transport = Some(Arc::new(Meter { written: written.clone(), regions: Some(regions.clone()) }));
        connection.regions = Some(regions);
        connection.tap = tap;
        return speak_http1(server, (stream, &socket), &written, connection, stop).await;
    };
    let socket = Arc::new(stream);
    let handshake = tls.acceptor().accept(SendfileStream::new(socket.clone(), FileRegions::default()));
    let stream = tokio::select! {
        done = tokio::time::timeout(beginning, handshake) => done??,
        () = after(stop, GOODBYE) => return Err(STOPPING.into()),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        // The streams share the connection, so each counts its own bytes.
        connection.transport = None;
        return speak_http2(server, Watched::new(stream, None, written.clone()), &written, connection, stop).await;
    }
    let (guard, framing) = FramingGuard::new();
    connection.framing = Some(framing);
    let stream = Watched::new(stream, Some(guard), written.clone()).with_interim(interim);
    speak_http1(server, (stream, &socket), &written, connection, stop).await
}

/// Serves HTTP/1.1. A peer may close its side after its last request and still gets every answer (RFC 9112 section 9.6,
/// RFC 9293 section 3.6). A peer that has closed both sides looks the same until it is sent something, so interim
/// answers are sent.
async fn speak_http1<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    (mut stream, socket): (Watched<S>, &TcpStream),
    moved: &Moved,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let activity = connection.activity.clone();
    let idle = activity.until_idle(moved, server.patience());
    // hyper reads nothing while a request is in progress, so a reset is only seen at the socket.
    let gone = socket.ready(Interest::ERROR);
    let interim = connection.interim.clone();
    let mut trials = Trials::new();
    let service = service_fn(answers(server, connection));
    let unused = unused(&activity, moved, server, stop);
    tokio::pin!(idle, gone, unused);
    // A body that was taken past hyper ends a conversation, but not the connection.
    loop {
        let mut conversation = http1::Builder::new()
            // `until_idle` replaces it, and knows when an answer was taken.
            .header_read_timeout(None)
            .half_close(true)
            .max_header_size(HEAD as usize)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(&mut stream), &service);
        let mut stops = false;
        let ended = loop {
            tokio::select! {
                result = poll_fn(|cx| conversation.poll_without_shutdown(cx)) => break result,
                () = idle.as_mut() => return Err(IDLE.into()),
                () = unused.as_mut() => return Err(STOPPING.into()),
                () = trials.next(socket) => interim.ask(),
                _ = gone.as_mut() => return Err("the peer has reset the connection".into()),
                () = stop.cancelled(), if !stops => {
                    stops = true;
                    Pin::new(&mut conversation).graceful_shutdown();
                }
            }
        };
        drop(conversation);
        match ended {
            Ok(()) if stream.resume() => {}
            Ok(()) => return part(&mut stream).await,
            // hyper has answered the malformed request.
            Err(error) if error.is_parse() => {
                part(&mut stream).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Closes a connection whose peer may still be sending. Its bytes are read for a while: otherwise the socket would be
/// reset, and the peer would lose the last answer (RFC 9112 section 9.6).
async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Watched<S>) -> Ended {
    tokio::time::timeout(GOODBYE, stream.shutdown()).await??;
    if !stream.is_between_requests() {
        let _ = tokio::time::timeout(LINGER, stream.drain(LINGER_MOST)).await;
    }
    Ok(())
}

async fn speak_http2<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Arc<Server>,
    stream: Watched<S>,
    moved: &Moved,
    connection: Connection,
    stop: &CancellationToken,
) -> Ended {
    let activity = connection.activity.clone();
    let idle = activity.until_idle(moved, server.patience());
    let window = server.windows.open(Some(connection.peer.ip()).filter(|peer| !server.proxies.is_trusted(*peer)));
    let service = service_fn(answers(server, connection));
    let conversation = http2::Builder::new(Tracked(server.control.tracker().clone()))
        .max_concurrent_streams(window.streams)
        .initial_stream_window_size(window.stream)
        .initial_connection_window_size(window.connection)
        .max_header_list_size(HEAD)
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
        () = unused(&activity, moved, server, stop) => Err(STOPPING.into()),
    }
}

/// Waits for `time` after `stop`.
async fn after(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// Waits, once the server stops, until nothing is in progress on the connection. A request that is partly received at
/// the stop may still be completed.
async fn unused(activity: &Activity, moved: &Moved, server: &Server, stop: &CancellationToken) {
    after(stop, GOODBYE).await;
    activity.until_idle(moved, Patience { head: GOODBYE, ..server.patience() }).await;
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

fn answers(server: &Arc<Server>, connection: Connection) -> impl Fn(Request<Incoming>) -> Answer + use<> {
    let (server, connection) = (server.clone(), Arc::new(connection));
    move |request| {
        let answer = handle::answer(server.clone(), connection.clone(), request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// Runs hyper's own tasks in the server's tracker.
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
