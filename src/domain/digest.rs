//! Digests of a drive: those of the whole, and one of each piece.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ByteCount, PIECE};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blake3(pub [u8; 32]);

impl fmt::Debug for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// An algorithm by which all bytes of a drive are digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// BLAKE3 with its default length.
    Blake3,
    /// BLAKE3 of the list of the pieces' BLAKE3: see [`PieceListState`](super::PieceListState).
    PieceList,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA-256",
            Self::Blake3 => "BLAKE3",
            Self::PieceList => "BLAKE3 of its pieces",
        })
    }
}

/// A set of algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// Whether SHA-256 is one of them.
    pub sha256: bool,
    /// Whether BLAKE3 is one of them.
    pub blake3: bool,
    /// Whether that of the list of pieces is one of them.
    pub pieces: bool,
}

impl Algorithms {
    /// No algorithm.
    pub const NONE: Self = Self { sha256: false, blake3: false, pieces: false };
    /// Every algorithm.
    pub const ALL: Self = Self { sha256: true, blake3: true, pieces: true };
    /// That of the list of pieces, for which a hole need not be read.
    pub const PIECES: Self = Self { pieces: true, ..Self::NONE };

    /// Whether none is in the set.
    pub const fn is_empty(self) -> bool {
        !self.sha256 && !self.blake3 && !self.pieces
    }

    /// The algorithms of either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            sha256: self.sha256 || other.sha256,
            blake3: self.blake3 || other.blake3,
            pieces: self.pieces || other.pieces,
        }
    }
}

/// The digests of the same bytes by several algorithms, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// The SHA-256.
    pub sha256: Option<Sha256>,
    /// The BLAKE3.
    pub blake3: Option<Blake3>,
    /// The BLAKE3 of the list of pieces.
    pub pieces: Option<Blake3>,
}

impl Digests {
    /// No digest.
    pub const NONE: Self = Self { sha256: None, blake3: None, pieces: None };

    /// Whether none is known.
    pub const fn is_empty(&self) -> bool {
        self.algorithms().is_empty()
    }

    /// The algorithms whose digests are known.
    pub const fn algorithms(&self) -> Algorithms {
        Algorithms { sha256: self.sha256.is_some(), blake3: self.blake3.is_some(), pieces: self.pieces.is_some() }
    }

    /// These digests, and those of `other` by the algorithms that these lack.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            sha256: self.sha256.or(other.sha256),
            blake3: self.blake3.or(other.blake3),
            pieces: self.pieces.or(other.pieces),
        }
    }

    /// An algorithm by which both know a digest, and not the same: these are digests of other bytes.
    pub fn contradiction(&self, other: &Self) -> Option<Algorithm> {
        fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        if differ(self.sha256, other.sha256) {
            Some(Algorithm::Sha256)
        } else if differ(self.blake3, other.blake3) {
            Some(Algorithm::Blake3)
        } else if differ(self.pieces, other.pieces) {
            Some(Algorithm::PieceList)
        } else {
            None
        }
    }
}

/// The XXH3-128 digest of every 4 MiB piece of a drive, in order.
///
/// A piece is digested as if zeros filled it up to 4 MiB, and the zero pieces at the end are left out. So growing a
/// drive changes none of them, and a blank drive has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces(pub Vec<u128>);

impl Pieces {
    /// Returns the number of pieces that a drive of this size spans.
    pub fn spanned_by(size: ByteCount) -> u64 {
        size.get().div_ceil(PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_contradict_each_other_by_the_algorithms_that_both_have() {
        let (sha256, blake3) = (Some(Sha256([1; 32])), Some(Blake3([2; 32])));
        let pieces = Some(Blake3([3; 32]));
        let both = Digests { sha256, blake3, pieces };
        let some = [
            Digests { sha256, ..Digests::NONE },
            Digests { blake3, ..Digests::NONE },
            Digests { pieces, ..Digests::NONE },
        ];
        for other in [Digests::NONE, both].into_iter().chain(some) {
            assert_eq!((both.contradiction(&other), other.contradiction(&both)), (None, None), "{other:?}");
            assert_eq!(other.or(both), both);
        }
        let wrong = Digests { sha256: Some(Sha256([2; 32])), ..both };
        assert_eq!(both.contradiction(&wrong), Some(Algorithm::Sha256));
        let wrong = Digests { blake3: Some(Blake3([1; 32])), ..both };
        assert_eq!(both.contradiction(&wrong), Some(Algorithm::Blake3));
        let wrong = Digests { pieces: Some(Blake3([1; 32])), ..both };
        assert_eq!(both.contradiction(&wrong), Some(Algorithm::PieceList));
    }
}
