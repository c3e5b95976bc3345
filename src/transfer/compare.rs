//! Compares bytes that come with those that came before. Writes nothing.

use std::future::{Future, pending};
use std::io;
use std::ops::Range;

use tokio_util::task::TaskTracker;

use super::checksum::{ChecksumStates, check};
use super::error::ReceiveError;
use super::feed::{ByteSource, Sink, feed};
use super::progress::Progress;
use crate::domain::{Checks, Fault, FaultKind, PIECE};
use crate::store::{ReadBack, StoreError};

/// Receives the bytes of this range, which must have their checksums, and compares them with what is stored there, by
/// the algorithms of these. Other bytes are [`FaultKind::Conflict`]. Without anything to compare them with, they are
/// counted only.
pub async fn compare(
    stored: Option<Box<dyn ReadBack>>,
    (range, checks): (Range<u64>, Checks),
    source: &mut impl ByteSource,
    progress: &Progress,
    tracker: &TaskTracker,
) -> Result<(), Fault> {
    let algorithms = checks.algorithms();
    let states = ChecksumStates::new(&algorithms);
    let mut sink = Compared { states, left: range.end - range.start, space: vec![0; 64 << 10], progress };
    feed(source, &mut sink, progress).await.map_err(Fault::from)?;
    if sink.left > 0 {
        return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
    }
    let came = sink.states.finish();
    check(&came, &checks.asserted)?;
    check(&came, &source.checksums()?)?;
    let Some(mut stored) = stored else { return Ok(()) };
    let there = tracker.spawn_blocking(move || {
        let mut states = ChecksumStates::new(&algorithms);
        for index in range.start / PIECE..range.end.div_ceil(PIECE) {
            let piece = stored.piece(index)?;
            let within = |at: u64| (at.saturating_sub(index * PIECE) as usize).min(piece.bytes.len());
            states.update(&piece.bytes[within(range.start)..within(range.end)]);
        }
        Ok(states.finish())
    });
    let there = there.await.map_err(Fault::internal)?.map_err(|error: io::Error| StoreError::from(error))?;
    if there == came {
        return Ok(());
    }
    let told = "other bytes have come here before; a part without a checksum replaces them";
    Err(Fault::new(FaultKind::Conflict, told))
}

/// Takes bytes that are there already.
struct Compared<'a> {
    states: ChecksumStates,
    left: u64,
    space: Vec<u8>,
    progress: &'a Progress,
}

impl Sink for Compared<'_> {
    fn is_filling(&self) -> bool {
        false
    }

    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        Ok(&mut self.space)
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let Some(left) = self.left.checked_sub(taken as u64) else {
            let told = "the body is longer than the part";
            return Err(ReceiveError::Refused(Fault::new(FaultKind::BadFraming, told)));
        };
        self.left = left;
        self.progress.add_bytes(taken as u64);
        self.states.update(&self.space[..taken]);
        Ok(())
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        Ok(())
    }
}
