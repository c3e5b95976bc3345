//! Interim answers to a peer that closed its side of the connection, while its request is worked on.
//!
//! Such a peer may wait for its answer, or be gone for good: TCP tells the one from the other only when the peer is
//! sent something, and a probe of the kernel's (`SO_KEEPALIVE`) is not enough, as the peer's kernel acknowledges it for
//! a minute after the peer has closed. What is gone answers data with a reset. So such a peer is sent what every client
//! passes over: 100 (Continue), which RFC 9110 section 15.2.1 lets a client discard that did not ask for it, and which
//! some take that know no other interim answer.
//!
//! # Invariants
//! - An interim answer stands before its answer, never in one: it is due only while a request is worked on, and taken
//!   only when all before it was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The whole of one.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long an answer may take before its peer is tried. Most are there before.
const FIRST: Duration = Duration::from_secs(1);

/// The pauses double up to this.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether one is due; shared by a connection, its transport and its requests.
#[derive(Debug, Default)]
pub(super) struct Interim(AtomicU8);

/// No request is worked on, or its answer has begun.
const IDLE: u8 = 0;
const WORKING: u8 = 1;
const DUE: u8 = 2;

impl Interim {
    /// A request of HTTP/1.1, whose peer takes interim answers, is worked on until the guard is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Working {
        self.0.store(WORKING, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Has one sent if a request is worked on.
    pub(super) fn ask(&self) {
        self.step(WORKING, DUE);
    }

    /// Whether one is to be written now.
    pub(super) fn take(&self) -> bool {
        self.step(DUE, WORKING)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// See [`Interim::work`].
#[derive(Debug)]
pub(super) struct Working(Arc<Interim>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.store(IDLE, Ordering::Relaxed);
    }
}

/// When a peer is to be tried.
#[derive(Debug)]
pub(super) struct Trials {
    /// Since the peer closed its side.
    next: Option<Instant>,
    pause: Duration,
}

impl Trials {
    pub(super) fn new() -> Self {
        Self { next: None, pause: FIRST }
    }

    /// Waits until the peer is to be tried. Cancel-safe.
    pub(super) async fn next(&mut self, socket: &TcpStream) {
        let next = if let Some(next) = self.next {
            next
        } else {
            // Of all interests, this one alone is woken by the peer's end and not by its bytes.
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
        assert!(!interim.take());
        let working = interim.work();
        assert!(!interim.take());
        interim.ask();
        assert!(interim.take() && !interim.take());
        interim.ask();
        drop(working);
        assert!(!interim.take());
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
