//! A map as bytes, for what goes on after a restart:
//!
//! ```text
//! magic "LSPIEMAP"                   8 bytes
//! version                            u32, 1
//! extents that are there: count e    u32
//! runs of digested pieces: count r   u64
//! extents                            e times first byte and byte behind the last, u64 each
//! runs                               r times first piece and piece behind the last, u64 each
//! digests of these pieces            u128 each, in order
//! XXH3-128 of all before             u128
//! ```
//! Numbers are little-endian. Stretches are no part of it: a piece in which one was is read back, or comes again.

use std::ops::Range;

use twox_hash::XxHash3_128;

use super::{MOST_EXTENTS, PieceMap};
use crate::domain::{ByteCount, Extents, PIECE, Pieces};

const MAGIC: &[u8; 8] = b"LSPIEMAP";
const VERSION: u32 = 1;
const HEAD: usize = 24;
const RANGE: usize = 16;
const DIGEST: usize = 16;

impl PieceMap {
    /// The map as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (extents, runs) = (self.there.ranges(), self.digested.ranges());
        let count = self.digested.total() as usize;
        let mut bytes = Vec::with_capacity(HEAD + (extents.len() + runs.len()) * RANGE + (count + 1) * DIGEST);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(extents.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(runs.len() as u64).to_le_bytes());
        for range in extents.iter().chain(runs) {
            bytes.extend_from_slice(&range.start.to_le_bytes());
            bytes.extend_from_slice(&range.end.to_le_bytes());
        }
        for digest in runs.iter().flat_map(|run| &self.digests[run.start as usize..run.end as usize]) {
            bytes.extend_from_slice(&digest.to_le_bytes());
        }
        bytes.extend_from_slice(&XxHash3_128::oneshot(&bytes).to_le_bytes());
        bytes
    }

    /// The map of a drive of this size that was encoded; `None` unless every byte is as it was written, and what they
    /// say can be. Takes no more memory than such a map has.
    pub fn decode(bytes: &[u8], size: ByteCount) -> Option<Self> {
        let (content, checksum) = bytes.split_last_chunk::<DIGEST>()?;
        if u128::from_le_bytes(*checksum) != XxHash3_128::oneshot(content) {
            return None;
        }
        let (head, rest) = content.split_at_checked(HEAD)?;
        let extents = u32::from_le_bytes(*head.get(12..)?.first_chunk()?) as usize;
        let runs = usize::try_from(u64::from_le_bytes(*head.get(16..)?.first_chunk()?)).ok()?;
        if !head.starts_with(MAGIC) || head[8..12] != VERSION.to_le_bytes() || extents > MOST_EXTENTS {
            return None;
        }
        let (extents, rest) = rest.split_at_checked(extents * RANGE)?;
        let (runs, digests) = rest.split_at_checked(runs.checked_mul(RANGE)?)?;
        let there = decode_ranges(extents, size.get())?;
        let digested = decode_ranges(runs, Pieces::spanned_by(size))?;
        let (digests, []) = digests.as_chunks::<DIGEST>() else { return None };
        let are_there = |run: &Range<u64>| {
            let bytes = run.start * PIECE..run.end.saturating_mul(PIECE).min(size.get());
            there.first_gap(bytes).is_none()
        };
        if digests.len() as u64 != digested.total() || !digested.ranges().iter().all(are_there) {
            return None;
        }
        let mut map = Self { there, digested, digests: Vec::new() };
        let mut digests = digests.iter().map(|digest| u128::from_le_bytes(*digest));
        for run in map.digested.ranges() {
            map.digests.resize(run.start as usize, 0);
            map.digests.extend(digests.by_ref().take((run.end - run.start) as usize));
        }
        Some(map)
    }
}

/// Ranges up to `end`, as a set keeps them.
fn decode_ranges(bytes: &[u8], end: u64) -> Option<Extents> {
    let (numbers, []) = bytes.as_chunks::<8>() else { return None };
    let (pairs, []) = numbers.as_chunks::<2>() else { return None };
    let ranges = pairs.iter().map(|pair| u64::from_le_bytes(pair[0])..u64::from_le_bytes(pair[1])).collect();
    Extents::from_sorted(ranges).filter(|set| set.ranges().last().is_none_or(|last| last.end <= end))
}
