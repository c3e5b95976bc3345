//! Interim answers while a request is in progress: what its handler tells meanwhile, and tests of a peer that closed
//! its side of the connection.
//!
//! Such a peer may wait for its answer, or be gone. TCP shows the difference only when the peer is sent something. A
//! probe of the kernel (`SO_KEEPALIVE`) is not enough, since the peer's kernel acknowledges it for a minute after the
//! peer has closed; it answers data with a reset. So the peer is sent 100 (Continue), which every client skips: RFC
//! 9110 section 15.2.1 lets clients discard it unasked, and some know no other interim answer.
//!
//! # Invariants
//! - An interim answer is sent before the answer, never within one: it is due only while a request is in progress, and
//!   taken only after all earlier bytes were written.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A complete interim answer.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The time before a peer is first tested. Most answers are ready earlier.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause between tests; pauses double up to it.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether an interim answer is due; shared by a connection, its transport and its requests.
#[derive(Debug, Default)]
pub(super) struct Interim {
    state: AtomicU8,
    /// The answer that is due; without one, 100 (Continue) is.
    head: Mutex<Option<Bytes>>,
}

/// No request is in progress, or its answer has begun.
const IDLE: u8 = 0;
const WORKING: u8 = 1;
const DUE: u8 = 2;

impl Interim {
    /// Marks a request of HTTP/1.1, whose peer accepts interim answers, as in progress until the guard is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Working {
        self.state.store(WORKING, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Makes an interim answer due if a request is in progress.
    pub(super) fn ask(&self) {
        self.step(WORKING, DUE);
    }

    /// Makes 104 (Upload Resumption Supported) with these fields due if a request is in progress. One that has not been
    /// written stays: the first tells more than later ones.
    pub(super) fn tell(&self, fields: &HeaderMap) {
        if self.state.load(Ordering::Relaxed) == IDLE {
            return;
        }
        self.head().get_or_insert_with(|| resumable(fields));
        self.state.store(DUE, Ordering::Relaxed);
    }

    /// Returns the interim answer that is to be written now.
    pub(super) fn take(&self) -> Option<Bytes> {
        self.step(DUE, WORKING).then(|| self.head().take().unwrap_or(Bytes::from_static(CONTINUE)))
    }

    fn head(&self) -> MutexGuard<'_, Option<Bytes>> {
        // Each change is one assignment.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// See [`Interim::work`].
#[derive(Debug)]
pub(super) struct Working(Arc<Interim>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.state.store(IDLE, Ordering::Relaxed);
        *self.0.head() = None;
    }
}

/// hyper knows the status by no name, and sends none itself.
fn resumable(fields: &HeaderMap) -> Bytes {
    let mut head = b"HTTP/1.1 104 Upload Resumption Supported\r\n".to_vec();
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// The times at which a peer is tested.
#[derive(Debug)]
pub(super) struct Trials {
    /// Set once the peer has closed its side.
    next: Option<Instant>,
    pause: Duration,
}

impl Trials {
    pub(super) fn new() -> Self {
        Self { next: None, pause: FIRST }
    }

    /// Waits until the next test of the peer. Cancel safe.
    pub(super) async fn next(&mut self, socket: &TcpStream) {
        let next = if let Some(next) = self.next {
            next
        } else {
            // Unlike other interests, this one is woken by the peer's end, and not by its bytes.
            let _ = socket.ready(Interest::PRIORITY).await;
            *self.next.insert(Instant::now() + self.pause)
        };
        tokio::time::sleep_until(next).await;
        self.pause = (self.pause * 2).min(LONGEST);
        self.next = Some(Instant::now() + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn one_is_due_only_while_a_request_is_worked_on() {
        let interim = Arc::new(Interim::default());
        interim.ask();
        assert_eq!(interim.take(), None);
        let working = interim.work();
        assert_eq!(interim.take(), None);
        interim.ask();
        assert_eq!((interim.take().as_deref(), interim.take()), (Some(CONTINUE), None));
        interim.ask();
        drop(working);
        assert_eq!(interim.take(), None);
    }

    #[test]
    fn what_a_handler_tells_first_is_not_lost_to_what_it_tells_later() {
        let interim = Arc::new(Interim::default());
        let fields =
            |offset: u64| HeaderMap::from_iter([(http::HeaderName::from_static("upload-offset"), offset.into())]);
        interim.tell(&fields(1));
        let working = interim.work();
        assert_eq!(interim.take(), None, "it told that while no request was in progress");
        interim.tell(&fields(2));
        interim.tell(&fields(3));
        interim.ask();
        let head = &b"HTTP/1.1 104 Upload Resumption Supported\r\nupload-offset: 2\r\n\r\n"[..];
        assert_eq!((interim.take().as_deref(), interim.take()), (Some(head), None));
        interim.tell(&fields(4));
        drop(working);
        let _next = interim.work();
        interim.ask();
        assert_eq!(interim.take().as_deref(), Some(CONTINUE));
    }

    #[tokio::test]
    async fn a_peer_is_tried_once_it_closed_its_side_and_less_and_less_often() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        peer.write_all(b"what is not read").await.unwrap();
        socket.readable().await.unwrap();
        let mut trials = Trials::new();
        let waits = async |trials: &mut Trials| {
            let before = trials.pause;
            tokio::time::timeout(Duration::from_hours(1), trials.next(&socket)).await.is_ok().then_some(before)
        };
        tokio::time::pause();
        assert_eq!(waits(&mut trials).await, None);
        peer.shutdown().await.unwrap();
        tokio::time::resume();
        let _ = socket.ready(Interest::PRIORITY).await;
        tokio::time::pause();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(waits(&mut trials).await, Some(Duration::from_secs(seconds)));
        }
    }
}
