//! Gives a large upload's body to its handler straight from the socket, past hyper.
//!
//! hyper reads a body into buffers of its own, and from there it has to be copied once more into the blocks that are
//! written. So the transport holds hyper's reads back as soon as the framing guard has seen a head with a large
//! `Content-Length`: what hyper has read by then is the start of the body, the rest is on the socket. The handler
//! either takes it from there ([`Tapped`]), or lets go and has hyper read on as if nothing had been.
//!
//! hyper still does everything else: it parses the head, sends 100 (Continue), and writes the answer. It never learns
//! that the body ended, so its conversation ends with the answer, and the connection begins another on the same
//! socket, at the next head ([`Tap::resume`]).
//!
//! Chunked bodies, small ones, TLS and HTTP/2 are hyper's to read.
//!
//! # Invariants
//! - The bytes of a body go to the handler or to hyper, never to both: once the handler took one, hyper is given none
//!   until the body is complete, and none ever if it never is.
//! - What the guard counted as the rest of the body is what the handler takes, to the byte.
//!
//! # Cancellation
//! Dropping a [`Tapped`] of which nothing was taken gives the body back to hyper.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::net::TcpStream;

use super::framing::FramingGuard;
use super::moved::Moved;

/// Smaller bodies are hyper's: ending its conversation would cost more than the copy.
const LEAST: u64 = 256 << 10;

/// One connection's tap; shared by its transport and its requests.
#[derive(Debug)]
pub(super) struct Tap {
    socket: Arc<TcpStream>,
    moved: Arc<Moved>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    at: At,
    /// The number of heads that were looked at.
    heads: u64,
    /// hyper, which wants to read.
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// hyper reads.
    Closed,
    /// A body of which nothing was taken.
    Offered { request: u64, given: u64, left: u64 },
    /// A handler takes it.
    Taken,
    /// It was taken to its end, and another request may follow.
    Complete,
}

impl Tap {
    pub(super) fn new(socket: Arc<TcpStream>, moved: Arc<Moved>) -> Arc<Self> {
        let state = State { at: At::Closed, heads: 0, reader: None };
        Arc::new(Self { socket, moved, state: Mutex::new(state) })
    }

    /// Whether hyper must wait; it is woken when it need not.
    pub(super) fn holds_back(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let holds = !matches!(state.at, At::Closed);
        if holds {
            state.reader = Some(cx.waker().clone());
        }
        holds
    }

    /// Looks at what the guard has just been fed: opens at the head of a large body.
    pub(super) fn look(&self, guard: &FramingGuard) {
        let mut state = self.lock();
        let heads = guard.heads();
        if heads == state.heads {
            return;
        }
        state.heads = heads;
        if let Some((length, left)) = guard.sized_body()
            && left >= LEAST
        {
            state.at = At::Offered { request: heads - 1, given: length - left, left };
        }
    }

    /// The body of a request, if it can be taken from the socket. `is_last` when the peer wants no answer after this.
    pub(super) fn offer(self: &Arc<Self>, request: u64, is_last: bool) -> Option<Tapped> {
        match self.lock().at {
            At::Offered { request: offered, given, left } if offered == request => {
                Some(Tapped { tap: self.clone(), given, left, is_begun: false, is_last })
            }
            _ => None,
        }
    }

    /// Lets hyper read again after a body that was taken whole and was not the last; false if there was none.
    pub(super) fn resume(&self) -> bool {
        let mut state = self.lock();
        let complete = matches!(state.at, At::Complete);
        if complete {
            state.at = At::Closed;
        }
        complete
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of it is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body, or what is left of it, that can be taken from the socket.
#[derive(Debug)]
pub(super) struct Tapped {
    tap: Arc<Tap>,
    given: u64,
    left: u64,
    is_begun: bool,
    is_last: bool,
}

impl Tapped {
    /// How many bytes of the body's start hyper has.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Waits until bytes can be taken, or the body is complete (`false`).
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.left > 0 {
            ready!(self.tap.socket.poll_read_ready(cx))?;
        }
        Poll::Ready(Ok(self.left > 0))
    }

    /// Takes the bytes that are there, perhaps none. Fails when the peer has closed.
    pub(super) fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        if room == 0 {
            return Ok(0);
        }
        if !self.is_begun {
            self.is_begun = true;
            self.tap.lock().at = At::Taken;
        }
        let taken = match self.tap.socket.try_read(&mut into[..room]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        self.tap.moved.add_read(taken as u64);
        self.left -= taken as u64;
        if self.left == 0 && !self.is_last {
            self.tap.lock().at = At::Complete;
        }
        Ok(taken)
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let mut state = self.tap.lock();
        if !self.is_begun {
            state.at = At::Closed;
        }
        if let Some(reader) = state.reader.take() {
            drop(state);
            reader.wake();
        }
    }
}
