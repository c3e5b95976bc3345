//! Byte counts and ranges.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The size of a piece, the unit of stored digests, in bytes.
pub const PIECE: u64 = 4 << 20;

/// A number of bytes: at most `i64::MAX`, so that it fits a database integer and a file offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ByteCount(u64);

/// The error of a number above [`ByteCount::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more bytes than anything can have")]
pub struct TooManyBytes;

impl TryFrom<u64> for ByteCount {
    type Error = TooManyBytes;

    fn try_from(bytes: u64) -> Result<Self, TooManyBytes> {
        Self::new(bytes).ok_or(TooManyBytes)
    }
}

impl From<ByteCount> for u64 {
    fn from(count: ByteCount) -> Self {
        count.0
    }
}

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);
    /// The largest number of bytes.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Returns a number of bytes; `None` above [`ByteCount::MAX`].
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= Self::MAX.0 { Some(Self(bytes)) } else { None }
    }

    /// Returns `n` MiB.
    pub const fn mib(n: u32) -> Self {
        Self((n as u64) << 20)
    }

    /// Returns the plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of GiB, rounded up.
    pub const fn gib_up(self) -> u64 {
        self.0.div_ceil(1 << 30)
    }

    /// Returns the sum; `None` above [`ByteCount::MAX`].
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0)
    }

    /// Returns the difference, or zero when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// A range of a volume's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

impl Extent {
    /// Returns the extent of a whole volume of this size.
    pub const fn whole(size: ByteCount) -> Self {
        Self { offset: 0, len: size.get() }
    }

    /// Returns the offset behind the last byte.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Returns the extent as a half-open range.
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }
}
