//! What of a drive is there while it is being filled, and the digests of the pieces that are whole.
//!
//! Bytes come in stretches. Each [`Stretch`] digests its own bytes; [`PieceMap::add`] takes them over when they are on
//! the disk. Stretches may come in any order, at the same time, and overlap. What is added later counts.
//!
//! # Digests
//! A piece that one stretch brought from its first byte to its last is digested on the way, while its bytes are in the
//! processor's cache. Of any other piece ([`Piece::Undigested`]) the bytes must be read back: the state of the digest
//! cannot be written down, and a state for each stretch that was left would be memory without a bound. So a stretch
//! that is cut off costs the reading of one piece, and its continuation that of none but the same.
//!
//! # Bounds
//! No more than [`MOST_EXTENTS`] extents are apart: a stretch that would begin another is refused. Digests take 16
//! bytes a piece up to the last that has one, which is 4 MiB for 1 TiB of a drive; as much as the stored digests
//! themselves.

mod encoding;

#[cfg(test)]
mod tests;

use std::ops::Range;

use twox_hash::XxHash3_128;

use super::pieces::{write_zeros, zero_piece};
use crate::domain::{ByteCount, Extents, PIECE, Pieces};

/// The most extents that are apart. 64 KiB of memory; far above the number of runs that help a transfer.
pub const MOST_EXTENTS: usize = 4096;

/// Consecutive pieces that have the same digest.
pub type Digested = (Range<u64>, u128);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct PieceMap {
    /// The bytes that are there.
    there: Extents,
    /// The pieces whose digest is known.
    digested: Extents,
    /// Their digests, by index; of other pieces anything.
    digests: Vec<u128>,
}

/// Consecutive bytes from one writer, and the digests of the pieces that it has completed.
#[derive(Default)]
pub struct Stretch {
    /// The offset of the next byte.
    position: u64,
    /// The digest of the last piece up to `position`; none when the stretch began within that piece.
    state: Option<XxHash3_128>,
    digested: Vec<Digested>,
}

/// What is there of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing.
    Missing,
    /// These ranges of the drive, and not all of it.
    Mixed(Vec<Range<u64>>),
    /// All of it, in several stretches: it is digested by reading it back, see [`PieceMap::set_digest`].
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

impl Stretch {
    /// A stretch that begins at this offset.
    pub fn at(offset: u64) -> Self {
        Self { position: offset, ..Self::default() }
    }

    /// The offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at((self.left_of_piece() as usize).min(bytes.len()));
            self.advance(now.len() as u64, |state| state.write(now));
            bytes = later;
        }
    }

    /// Takes the next `len` bytes, which are zero.
    pub fn write_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let whole = len / PIECE;
            if self.position.is_multiple_of(PIECE) && whole > 0 {
                let first = self.position / PIECE;
                self.digested.push((first..first + whole, zero_piece()));
                self.position += whole * PIECE;
                len %= PIECE;
                continue;
            }
            let now = len.min(self.left_of_piece());
            self.advance(now, |state| write_zeros(state, now));
            len -= now;
        }
    }

    /// Completes the last piece of a drive that ends here: it is zero behind its end.
    pub fn end(&mut self) {
        if let Some(mut state) = self.state.take() {
            write_zeros(&mut state, self.left_of_piece());
            let index = self.position / PIECE;
            self.digested.push((index..index + 1, state.finish_128()));
        }
    }

    /// Returns the digests of the pieces that were completed since the last call.
    pub fn take_digested(&mut self) -> Vec<Digested> {
        std::mem::take(&mut self.digested)
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
        self.position += len;
        if let Some(state) = &mut self.state {
            digest(state);
        }
        if self.position.is_multiple_of(PIECE)
            && let Some(state) = self.state.take()
        {
            self.digested.push((index..index + 1, state.finish_128()));
        }
    }
}

impl PieceMap {
    /// Whether a stretch may begin at this offset.
    pub fn admits(&self, offset: u64) -> Result<(), Scattered> {
        let is_full = self.there.ranges().len() >= MOST_EXTENTS;
        if is_full && !self.there.touches(offset) { Err(Scattered) } else { Ok(()) }
    }

    /// Adds bytes of a stretch that are on the disk, and the digests of the pieces that were completed by them or by
    /// bytes of the same stretch that were added before.
    pub fn add(&mut self, bytes: Range<u64>, digested: Vec<Digested>) {
        if bytes.is_empty() && digested.is_empty() {
            return;
        }
        // What was there may be other bytes.
        self.digested.remove(bytes.start / PIECE..bytes.end.div_ceil(PIECE));
        self.there.insert(bytes);
        for (pieces, digest) in digested {
            self.keep_digests(pieces, digest);
        }
    }

    /// Forgets the digests of the pieces in which these bytes lie, since they are about to change.
    pub fn forget_digests(&mut self, bytes: Range<u64>) {
        self.digested.remove(bytes.start / PIECE..bytes.end.div_ceil(PIECE));
    }

    /// Whether the digest of any piece in which these bytes lie is known.
    pub fn has_digests(&self, bytes: Range<u64>) -> bool {
        self.digested.within(bytes.start / PIECE..bytes.end.div_ceil(PIECE)).next().is_some()
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
    pub fn finish(self, size: ByteCount) -> Result<Pieces, Unfinished> {
        debug_assert!(self.there.ranges().last().is_none_or(|last| last.end <= size.get()), "bytes behind the drive");
        if let Some(gap) = self.there.first_gap(0..size.get()) {
            return Err(Unfinished::Missing(gap));
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
