//! Moves bytes from a source into the blocks of a sink. Knows neither their content nor their destination.
//!
//! # Cancellation
//! Dropping [`feed`] loses bytes that were taken from the source and not handed over.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::error::{Broken, ReceiveError};
use super::progress::{Phase, Progress, Stop};
use crate::domain::{Checksum, Digests, Fault};

/// A pause of the peer after which its block is handed over as it is. Longer than the gaps of a fast stream, far
/// shorter than the idle limit.
const PARK: Duration = Duration::from_millis(250);

/// The most bytes to receive before other tasks of the thread get a turn: less than a millisecond's worth.
const TURN: usize = 1 << 20;

/// A source of bytes.
pub trait ByteSource: Send {
    /// Waits until bytes are available, or the proper end (`false`). Cancel safe.
    fn ready(&mut self) -> impl Future<Output = Result<bool, Broken>> + Send;

    /// Moves available bytes to the start of `into`; returns how many, or 0 if there are none now.
    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken>;

    /// The checksums of its bytes that the peer sends behind the last one.
    fn checksums(&self) -> Result<Vec<Checksum>, Fault> {
        Ok(Vec::new())
    }

    /// The digests of all bytes that the peer asserts behind the last one.
    fn asserted(&self) -> Result<Digests, Fault> {
        Ok(Digests::NONE)
    }

    /// The digests that the peer asserts behind the last byte of what these are only a part of.
    fn of_whole(&self) -> Result<Digests, Fault> {
        Ok(Digests::NONE)
    }
}

/// A source of chunks.
pub trait Chunks: Send {
    /// Returns the next chunk; `None` after the proper end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Broken>> + Send;
}

/// Makes a [`ByteSource`] of chunks.
#[derive(Debug)]
pub struct ChunkSource<C> {
    chunks: C,
    chunk: Bytes,
}

impl<C> From<C> for ChunkSource<C> {
    fn from(chunks: C) -> Self {
        Self { chunks, chunk: Bytes::new() }
    }
}

impl<C: Chunks> ByteSource for ChunkSource<C> {
    async fn ready(&mut self) -> Result<bool, Broken> {
        while self.chunk.is_empty() {
            match self.chunks.next().await? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let taken = self.chunk.len().min(into.len());
        self.chunk.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}

/// The receiver of the bytes.
pub(super) trait Sink: Send {
    /// Whether it holds a block that may be handed over before it is full.
    fn is_filling(&self) -> bool;

    /// Waits until the receiver accepts no more. Cancel safe.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;

    /// Returns the space for the next bytes, never empty. Waits for a block while it holds none (I3).
    fn space(&mut self) -> impl Future<Output = Result<&mut [u8], ReceiveError>> + Send;

    /// Accepts bytes that were put at the start of that space.
    fn advance(&mut self, taken: usize) -> impl Future<Output = Result<(), ReceiveError>> + Send;

    /// Hands the block over as it is, since the peer pauses.
    fn park(&mut self) -> impl Future<Output = Result<(), ReceiveError>> + Send;
}

/// Feeds `sink` until the source ends.
pub(super) async fn feed(
    source: &mut impl ByteSource,
    sink: &mut impl Sink,
    progress: &Progress,
) -> Result<(), ReceiveError> {
    let mut turn = 0;
    loop {
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
        let is_filling = sink.is_filling();
        let wait = progress.during(Phase::Peer, async {
            tokio::select! {
                biased;
                // Checked first, so that a peer that never pauses can be stopped too.
                stop = progress.until_stopped() => Wait::Stopped(stop),
                () = sink.ended() => Wait::Ended,
                ready = source.ready() => Wait::Ready(ready),
                () = tokio::time::sleep(PARK), if is_filling => Wait::Paused,
            }
        });
        match wait.await {
            Wait::Ready(Ok(true)) => {}
            Wait::Ready(Ok(false)) => return Ok(()),
            Wait::Ready(Err(error)) => return Err(ReceiveError::Source(error)),
            Wait::Stopped(stop) => return Err(ReceiveError::Stopped(stop)),
            Wait::Ended => return Err(ReceiveError::Ended),
            Wait::Paused => {
                sink.park().await?;
                continue;
            }
        }
        let space = sink.space().await?;
        let most = space.len().min(TURN);
        let taken = source.take(&mut space[..most]).map_err(ReceiveError::Source)?;
        sink.advance(taken).await?;
        turn += taken;
    }
}

enum Wait {
    Ready(Result<bool, Broken>),
    Stopped(Stop),
    Ended,
    Paused,
}
