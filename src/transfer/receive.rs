//! Receives one upload into a draft. Knows blocks and offsets; knows nothing of HTTP or tenants.
//!
//! # Cancellation
//! Dropping `receive` is safe at any await: submitted writes end by themselves, and the draft is never published.

use std::future::{Future, pending};

use super::error::ReceiveError;
use super::feed::{ByteSource, Sink, feed};
use super::progress::{Phase, Progress};
use super::writer::{DraftWriter, Written};
use crate::domain::Fault;

/// Limits the size of a stream.
pub trait Allowance: Send {
    /// Asks for room up to `end` bytes; returns the new end of the room, at least `end`.
    fn extend(&mut self, end: u64) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Receives until the source ends. `room` is the number of bytes that may come before `allowance` is asked.
pub async fn receive(
    source: &mut impl ByteSource,
    writer: DraftWriter,
    room: u64,
    allowance: &mut impl Allowance,
    progress: &Progress,
) -> Result<Written, ReceiveError> {
    let mut bounded = Bounded { writer, room, allowance, progress };
    feed(source, &mut bounded, progress).await?;
    bounded.writer.finish().await
}

/// A writer that asks for room before it writes.
struct Bounded<'a, A> {
    writer: DraftWriter,
    room: u64,
    allowance: &'a mut A,
    progress: &'a Progress,
}

impl<A: Allowance> Sink for Bounded<'_, A> {
    fn is_filling(&self) -> bool {
        self.writer.is_filling()
    }

    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        self.writer.space().await
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let end = self.writer.position() + taken as u64;
        if end > self.room {
            let extended = self.progress.during(Phase::Disk, self.allowance.extend(end));
            self.room = extended.await.map_err(ReceiveError::Refused)?;
        }
        self.progress.add_bytes(taken as u64);
        self.writer.advance(taken).await
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        self.writer.park().await
    }
}
