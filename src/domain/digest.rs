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
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "SHA-256",
            Self::Blake3 => "BLAKE3",
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
}

impl Algorithms {
    /// No algorithm.
    pub const NONE: Self = Self { sha256: false, blake3: false };
    /// Every algorithm.
    pub const ALL: Self = Self { sha256: true, blake3: true };

    /// Whether none is in the set.
    pub const fn is_empty(self) -> bool {
        !self.sha256 && !self.blake3
    }

    /// The algorithms of either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { sha256: self.sha256 || other.sha256, blake3: self.blake3 || other.blake3 }
    }
}

/// The digests of the same bytes by several algorithms, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// The SHA-256.
    pub sha256: Option<Sha256>,
    /// The BLAKE3.
    pub blake3: Option<Blake3>,
}

impl Digests {
    /// No digest.
    pub const NONE: Self = Self { sha256: None, blake3: None };

    /// Whether none is known.
    pub const fn is_empty(&self) -> bool {
        self.algorithms().is_empty()
    }

    /// The algorithms whose digests are known.
    pub const fn algorithms(&self) -> Algorithms {
        Algorithms { sha256: self.sha256.is_some(), blake3: self.blake3.is_some() }
    }

    /// These digests, and those of `other` by the algorithms that these lack.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { sha256: self.sha256.or(other.sha256), blake3: self.blake3.or(other.blake3) }
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
        let both = Digests { sha256, blake3 };
        for other in [Digests::NONE, both, Digests { sha256, blake3: None }, Digests { sha256: None, blake3 }] {
            assert_eq!((both.contradiction(&other), other.contradiction(&both)), (None, None), "{other:?}");
            assert_eq!(other.or(both), both);
        }
        let wrong = Digests { sha256: Some(Sha256([2; 32])), blake3 };
        assert_eq!(both.contradiction(&wrong), Some(Algorithm::Sha256));
        let wrong = Digests { sha256, blake3: Some(Blake3([1; 32])) };
        assert_eq!(both.contradiction(&wrong), Some(Algorithm::Blake3));
    }
}
