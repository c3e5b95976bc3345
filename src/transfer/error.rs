//! Errors of receiving a stream.

use std::io;

use super::progress::Stop;
use crate::domain::{Fault, FaultKind};
use crate::store::StoreError;

/// The error of a source that ended early.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Why a stream is not complete.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer closed the stream early.
    #[error("the peer broke off")]
    Source(#[source] Broken),
    /// The transfer was stopped.
    #[error("stopped: {0:?}")]
    Stopped(Stop),
    /// A write failed.
    #[error("a write failed")]
    Write(#[source] io::Error),
    /// There is no room for more.
    #[error("refused: {0}")]
    Refused(Fault),
    /// The receiver has ended, and reports the reason itself.
    #[error("the stream is not taken any more")]
    Ended,
}

impl From<ReceiveError> for Fault {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Refused(fault) => fault,
            ReceiveError::Write(error) => StoreError::from(error).into(),
            ReceiveError::Stopped(stop) => stop.into(),
            ReceiveError::Ended => Self::internal(error),
            // The source tells what is wrong with its bytes.
            ReceiveError::Source(error) => match error.downcast::<Self>() {
                Ok(fault) => *fault,
                Err(error) => {
                    Self::new(FaultKind::BodyIncomplete, "the body ended before it was complete").because(error)
                }
            },
        }
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::PeerTooSlow => Self::new(FaultKind::PeerTooSlow, "too little data for too long"),
            Stop::Deleted | Stop::Removed => Self::new(FaultKind::Cancelled, "it was deleted during the transfer"),
            Stop::SessionEnded => Self::new(FaultKind::Gone, "the session has ended"),
            Stop::TakenOver => Self::new(FaultKind::Conflict, "another connection sends these bytes now"),
            Stop::Draining => Self::new(FaultKind::Unavailable, "the server is stopping"),
        }
    }
}
