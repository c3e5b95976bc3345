//! Gives a large upload's body to its handler straight from the socket, past hyper.
//!
//! hyper reads a body into its own buffers, from which it has to be copied once more into the blocks that are written.
//! So the transport stops hyper's reads as soon as the framing guard has seen a head with a large `Content-Length`:
//! hyper has read the start of the body by then, the rest is on the socket. The handler either takes it from there
//! ([`Tapped`]), or drops it, and hyper reads on as usual.
//!
//! hyper still does everything else: it parses the head, sends 100 (Continue), and writes the answer. It never sees the
//! end of the body, so its conversation ends with the answer. The connection then begins another one on the same
//! socket, at the next head ([`Tap::resume`]).
//!
//! hyper reads chunked bodies, small ones, and all bodies over TLS and HTTP/2.
//!
//! # Invariants
//! - The bytes of a body go to the handler or to hyper, never to both. Once the handler has taken one, hyper gets none
//!   until the body is complete, and never any if it is not completed.
//! - The handler takes exactly the bytes that the guard counted as the rest of the body.
//!
//! # Cancellation
//! Dropping a [`Tapped`] from which nothing was taken returns the body to hyper.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::net::TcpStream;

use super::framing::FramingGuard;

/// The least size of a tapped body. hyper reads smaller ones, since ending its conversation would cost more than the
/// copy.
const LEAST: u64 = 256 << 10;

/// One connection's tap; shared by its transport and its requests.
#[derive(Debug)]
pub(super) struct Tap {
    socket: Arc<TcpStream>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    at: At,
    /// The number of heads that were examined.
    heads: u64,
    /// Wakes hyper, which wants to read.
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// hyper may read.
    Closed,
    /// A body is offered, and nothing was taken from it.
    Offered { request: u64, given: u64, left: u64 },
    /// A handler takes the body.
    Taken,
    /// The body was taken to its end, and another request may follow.
    Complete,
}

impl Tap {
    pub(super) fn new(socket: Arc<TcpStream>) -> Arc<Self> {
        let state = State { at: At::Closed, heads: 0, reader: None };
        Arc::new(Self { socket, state: Mutex::new(state) })
    }

    /// Whether hyper must wait; it is woken when it may read.
    pub(super) fn holds_back(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let holds = !matches!(state.at, At::Closed);
        if holds {
            state.reader = Some(cx.waker().clone());
        }
        holds
    }

    /// Checks the guard after new bytes: the head of a large body makes an offer.
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

    /// Returns the body of a request, if it can be taken from the socket. `is_last` if the peer wants no further answer
    /// on this connection.
    pub(super) fn offer(self: &Arc<Self>, request: u64, is_last: bool) -> Option<Tapped> {
        match self.lock().at {
            At::Offered { request: offered, given, left } if offered == request => {
                Some(Tapped { tap: self.clone(), given, left, is_begun: false, is_last })
            }
            _ => None,
        }
    }

    /// Lets hyper read again after a body that was taken completely and was not the last; `false` if there was none.
    pub(super) fn resume(&self) -> bool {
        let mut state = self.lock();
        let complete = matches!(state.at, At::Complete);
        if complete {
            state.at = At::Closed;
        }
        complete
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body, or the rest of one, that can be taken from the socket.
#[derive(Debug)]
pub(super) struct Tapped {
    tap: Arc<Tap>,
    given: u64,
    left: u64,
    is_begun: bool,
    is_last: bool,
}

impl Tapped {
    /// Returns the number of bytes at the body's start that hyper has read.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Ends the connection with this body.
    pub(super) fn end_connection(&mut self) {
        self.is_last = true;
    }

    /// Waits until bytes can be taken, or the body is complete (`false`).
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.left > 0 {
            ready!(self.tap.socket.poll_read_ready(cx))?;
        }
        Poll::Ready(Ok(self.left > 0))
    }

    /// Takes the available bytes, possibly none. Fails if the peer has closed.
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
