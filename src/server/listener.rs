//! Accepts connections, as many at once as there are places, whatever errors single ones cause.
//!
//! A connection that waits for a place delays those behind it, in the kernel's backlog. A failed accept does not end
//! the loop: without free descriptors it pauses, since the pending connection would make the listener ready again at
//! once.
//!
//! # Cancellation
//! Dropping `accept` loses no connection but the one that waits for a place.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::admission::{Admission, Place, ShareIsTaken};

/// Connections that wait in the kernel, and so the size of a burst. The kernel limits it to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// The pause after a first failure; it doubles up to [`LONGEST_PAUSE`] with further ones.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A peer that vanishes is noticed after the idle time and a few probes: two minutes, less than common firewalls and
/// NATs keep a silent connection.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Listens on `address`. Must be called within a runtime.
///
/// A restart may reuse the address while old connections are closing. Two servers may not share it: with `SO_REUSEPORT`
/// a stale one would silently take half of the connections.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Hands every connection to `serve`, which must not block, until `stop`; then closes the listener.
///
/// Each connection holds a place, which several listeners may share, until the place is dropped. Connections that get
/// none are passed to `refuse`.
pub(super) async fn accept(
    listener: Arc<TcpListener>,
    places: Places,
    stop: CancellationToken,
    serve: impl FnMut(TcpStream, SocketAddr, Place),
) {
    accept_from(listener, places, stop, serve).await;
}

/// The places of a listener's connections.
#[derive(Clone)]
pub(super) struct Places {
    /// All places.
    pub(super) admission: Arc<Admission>,
    /// Addresses whose connections count against no share.
    pub(super) is_exempt: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Closes a connection that has no place.
    pub(super) refuse: Arc<dyn Fn(TcpStream, SocketAddr) + Send + Sync>,
}

/// A source of connections.
trait Source {
    fn next(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Source for Arc<TcpListener> {
    async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept().await
    }
}

async fn accept_from(
    mut source: impl Source,
    places: Places,
    stop: CancellationToken,
    mut serve: impl FnMut(TcpStream, SocketAddr, Place),
) {
    let mut pause = None;
    let next = async {
        loop {
            match source.next().await {
                Ok((stream, peer)) => {
                    pause = None;
                    if let Err(error) = tune(&stream) {
                        // These fail only for a connection that is gone; its reads will report that.
                        debug!(%peer, %error, "socket options refused");
                    }
                    let counted = Some(peer.ip()).filter(|address| !(places.is_exempt)(*address));
                    match places.admission.place(counted).await {
                        Ok(place) => serve(stream, peer, place),
                        Err(ShareIsTaken) => (places.refuse)(stream, peer),
                    }
                }
                Err(error) if is_of_one_connection(&error) => debug!(%error, "connection lost before it was accepted"),
                Err(error) => {
                    let length = longer(pause);
                    if pause.replace(length).is_none() {
                        warn!(%error, "cannot accept connections; retrying");
                    }
                    tokio::time::sleep(length).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = next => {}
    }
}

fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE))
}

/// Network errors of a single connection that accept(2) passes on, to be treated like `EAGAIN`.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::WouldBlock
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

/// Sends answers without delay, and detects dead peers.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rustix::io::Errno;
    use tokio::sync::mpsc;

    use super::*;

    fn local() -> (Arc<TcpListener>, SocketAddr) {
        let listener = Arc::new(bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn places(total: usize, share: usize) -> Places {
        let refuse = |stream, _| drop(stream);
        Places {
            admission: Admission::new(total, share),
            is_exempt: Arc::new(|address| address.is_multicast()),
            refuse: Arc::new(refuse),
        }
    }

    #[tokio::test]
    async fn known_callers_hold_back_the_next_connection_until_one_ends() {
        let (listener, address) = local();
        let stop = CancellationToken::new();
        let (send, mut accepted) = mpsc::unbounded_channel();
        let accepting = accept(listener, places(2, 9), stop.clone(), move |stream, peer, place| {
            place.standing().know();
            send.send((stream, peer, place)).unwrap();
        });
        let client = async {
            let clients = [
                TcpStream::connect(address).await.unwrap(),
                TcpStream::connect(address).await.unwrap(),
                TcpStream::connect(address).await.unwrap(),
            ];
            let first = accepted.recv().await.unwrap();
            let _second = accepted.recv().await.unwrap();
            // The loop runs on this thread, so it has had its turns and accepted nothing.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(accepted.try_recv().is_err());
            assert_eq!(first.1, clients[0].local_addr().unwrap());
            assert!(first.0.nodelay().unwrap());
            assert!(sockopt::socket_keepalive(&first.0).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&first.0).unwrap(), KEEPALIVE_IDLE);
            drop(first);
            let third = accepted.recv().await.unwrap();
            assert_eq!(third.1, clients[2].local_addr().unwrap());
            stop.cancel();
        };
        tokio::join!(accepting, client);
    }

    #[tokio::test]
    async fn stop_ends_the_loop_and_closes_the_listener() {
        let (listener, address) = local();
        let stop = CancellationToken::new();
        let accepting = accept(listener, places(0, 1), stop.clone(), |_, _, _| {});
        tokio::join!(accepting, async { stop.cancel() });
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        bind(address).unwrap();
    }

    #[tokio::test]
    async fn second_server_cannot_share_the_address() {
        let (_listener, address) = local();
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// Fails with these errors, then accepts.
    struct Failing(VecDeque<Errno>, Arc<TcpListener>);

    impl Source for Failing {
        async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
            match self.0.pop_front() {
                Some(errno) => Err(errno.into()),
                None => self.1.accept().await,
            }
        }
    }

    #[tokio::test]
    async fn loop_survives_lost_connections_and_missing_descriptors() {
        let (listener, address) = local();
        let errors = [Errno::CONNABORTED, Errno::MFILE, Errno::PROTO, Errno::NFILE];
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let mut served = 0;
        let accepting = accept_from(Failing(errors.into(), listener), places(1, 1), stop, |_, _, _place| {
            served += 1;
            ended.cancel();
        });
        let ((), client) = tokio::join!(accepting, TcpStream::connect(address));
        client.unwrap();
        assert_eq!(served, 1);
    }

    #[test]
    fn pauses_grow_to_a_second_and_only_lost_connections_go_without() {
        let mut pauses = vec![longer(None)];
        for _ in 0..20 {
            pauses.push(longer(pauses.last().copied()));
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[20]), (FIRST_PAUSE, LONGEST_PAUSE));
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::HOSTUNREACH] {
            assert!(is_of_one_connection(&errno.into()), "{errno:?}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::BADF] {
            assert!(!is_of_one_connection(&errno.into()), "{errno:?}");
        }
    }
}
