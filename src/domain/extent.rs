//! Byte counts and ranges.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The unit of the stored piece digests, in bytes.
pub const PIECE: u64 = 4 << 20;

/// A number of bytes. At most `i64::MAX`, so that it fits a database integer and a file offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ByteCount(u64);

/// A number that is no number of bytes of anything here.
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
    /// The most bytes anything here can have.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// `bytes` bytes; `None` above [`ByteCount::MAX`].
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= Self::MAX.0 { Some(Self(bytes)) } else { None }
    }

    /// `n` MiB.
    pub const fn mib(n: u32) -> Self {
        Self((n as u64) << 20)
    }

    /// The count as a plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole GiB, rounded up.
    pub const fn gib_up(self) -> u64 {
        self.0.div_ceil(1 << 30)
    }

    /// The sum, or `None` above [`ByteCount::MAX`].
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0)
    }

    /// What is left after taking `other` away, at least zero.
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

impl Extent {
    /// The whole of a volume of this size.
    pub const fn whole(size: ByteCount) -> Self {
        Self { offset: 0, len: size.get() }
    }

    /// The byte after the last.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// As a half-open range.
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }
}
