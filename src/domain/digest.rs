//! Digests of a drive: one for the whole, and one for each piece.

use std::fmt;

use super::{ByteCount, PIECE};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The XXH3-128 digest of every 4 MiB piece of a drive, in order.
///
/// A piece is digested as if zeros filled it up to 4 MiB, and the zero pieces at the end are left out. So growing a
/// drive changes none of them, and a blank drive has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(pub Vec<u128>);

impl Pieces {
    /// The number of pieces that a drive of this size spans.
    pub fn spanned_by(size: ByteCount) -> u64 {
        size.get().div_ceil(PIECE)
    }
}
