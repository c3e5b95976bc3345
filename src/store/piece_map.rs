//! What of a drive is there while it is being filled, and the digests of the pieces that are whole.
//!
//! Bytes come in runs, each from where [`PieceMap::seek`] puts it; runs may come in any order and overlap. What comes
//! later counts.
//!
//! # Digests
//! A piece that one run brought from its first byte to its last is digested on the way, while its bytes are in the
//! processor's cache. Of any other piece ([`Piece::Undigested`]) the bytes must be read back: the state of the digest
//! cannot be written down, and a state for each run that was left would be memory without a bound. So a run that is cut
//! off costs the reading of one piece, and its continuation that of none but the same.
//!
//! # Bounds
//! No more than [`MOST_EXTENTS`] extents are apart: a run that would begin another is refused. Digests take 16 bytes a
//! piece up to the last that has one, which is 4 MiB for 1 TiB of a drive; as much as the stored digests themselves.

mod encoding;

#[cfg(test)]
mod tests;

use std::ops::Range;

use twox_hash::XxHash3_128;

use super::pieces::{write_zeros, zero_piece};
use crate::domain::{ByteCount, Extents, PIECE, Pieces};

/// The most extents that are apart. 64 KiB of memory; far above the number of runs that help a transfer.
pub const MOST_EXTENTS: usize = 4096;

/// See the module.
#[derive(Default)]
pub struct PieceMap {
    /// The bytes that are there.
    there: Extents,
    /// The pieces whose digest is known.
    digested: Extents,
    /// Their digests, by index; of other pieces anything.
    digests: Vec<u128>,
    /// Where the run goes on.
    position: u64,
    /// The digest of the run's last piece up to `position`; none when the run began within that piece.
    state: Option<XxHash3_128>,
}

/// What is there of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing.
    Missing,
    /// These ranges of the drive, and not all of it.
    Mixed(Vec<Range<u64>>),
    /// All of it, in several runs: it is digested by reading it back, see [`PieceMap::set_digest`].
    Undigested,
    /// All of it, with this digest.
    Whole(u128),
}

/// There are too many extents apart for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MOST_EXTENTS} parts of the drive have come, with gaps between them")]
pub struct Scattered;

/// Why a map gives no digests yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// These are the first bytes that have not come.
    #[error("bytes {0:?} are missing")]
    Missing(Range<u64>),
    /// This is the first piece that must be read back.
    #[error("piece {0} is not digested")]
    Undigested(u64),
}

impl PieceMap {
    /// Where the next bytes of the run go.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Begins a run at this offset, which must be within the drive.
    pub fn seek(&mut self, offset: u64) -> Result<(), Scattered> {
        if offset == self.position {
            return Ok(());
        }
        if self.there.ranges().len() >= MOST_EXTENTS && !self.there.touches(offset) {
            return Err(Scattered);
        }
        self.position = offset;
        self.state = None;
        Ok(())
    }

    /// Takes the next bytes of the run.
    pub fn write(&mut self, mut bytes: &[u8]) {
        self.there.insert(self.position..self.position + bytes.len() as u64);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at((self.left_of_piece() as usize).min(bytes.len()));
            self.advance(now.len() as u64, |state| state.write(now));
            bytes = later;
        }
    }

    /// Takes the next `len` bytes of the run, which are zero.
    pub fn write_zeros(&mut self, mut len: u64) {
        self.there.insert(self.position..self.position + len);
        while len > 0 {
            let whole = len / PIECE;
            if self.position.is_multiple_of(PIECE) && whole > 0 {
                let first = self.position / PIECE;
                self.keep_digests(first..first + whole, zero_piece());
                self.position += whole * PIECE;
                len %= PIECE;
                continue;
            }
            let now = len.min(self.left_of_piece());
            self.advance(now, |state| write_zeros(state, now));
            len -= now;
        }
    }

    fn left_of_piece(&self) -> u64 {
        PIECE - self.position % PIECE
    }

    /// Goes `len` bytes on within a piece; `digest` has its state take them.
    fn advance(&mut self, len: u64, digest: impl FnOnce(&mut XxHash3_128)) {
        let index = self.position / PIECE;
        if self.position.is_multiple_of(PIECE) {
            self.state = Some(XxHash3_128::new());
        }
        // What was there may be other bytes.
        self.digested.remove(index..index + 1);
        self.position += len;
        if let Some(state) = &mut self.state {
            digest(state);
        }
        if self.position.is_multiple_of(PIECE)
            && let Some(state) = self.state.take()
        {
            self.keep_digests(index..index + 1, state.finish_128());
        }
    }

    fn keep_digests(&mut self, pieces: Range<u64>, digest: u128) {
        let (start, end) = (pieces.start as usize, pieces.end as usize);
        if self.digests.len() < end {
            self.digests.resize(end, digest);
        }
        self.digests[start..end].fill(digest);
        self.digested.insert(pieces);
    }

    /// Keeps the digest of a piece that was read back.
    pub fn set_digest(&mut self, index: u64, digest: u128) {
        self.keep_digests(index..index + 1, digest);
    }

    /// What is there of a piece of a drive of this size.
    pub fn piece(&self, index: u64, size: ByteCount) -> Piece {
        let bytes = index * PIECE..((index + 1) * PIECE).min(size.get());
        if self.digested.first_gap(index..index + 1).is_none() {
            return Piece::Whole(self.digests[index as usize]);
        }
        let there: Vec<_> = self.there.within(bytes.clone()).collect();
        match &there[..] {
            [] => Piece::Missing,
            [all] if *all == bytes => Piece::Undigested,
            _ => Piece::Mixed(there),
        }
    }

    /// The bytes that are there.
    pub fn extents(&self) -> &Extents {
        &self.there
    }

    /// The digests of a drive of which these are the bytes up to `size`, behind which it is zero.
    pub fn finish(mut self, size: ByteCount) -> Result<Pieces, Unfinished> {
        debug_assert!(self.there.ranges().last().is_none_or(|last| last.end <= size.get()), "bytes behind the drive");
        if let Some(gap) = self.there.first_gap(0..size.get()) {
            return Err(Unfinished::Missing(gap));
        }
        if self.position == size.get()
            && let Some(mut state) = self.state.take()
        {
            write_zeros(&mut state, self.left_of_piece());
            let index = self.position / PIECE;
            self.keep_digests(index..index + 1, state.finish_128());
        }
        let count = Pieces::spanned_by(size);
        if let Some(gap) = self.digested.first_gap(0..count) {
            return Err(Unfinished::Undigested(gap.start));
        }
        let mut digests = self.digests;
        digests.truncate(count as usize);
        let zero = zero_piece();
        digests.truncate(digests.iter().rposition(|digest| *digest != zero).map_or(0, |last| last + 1));
        Ok(Pieces(digests))
    }
}
