//! Chunks: the equal stretches in which some clients send a drive.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ByteCount;

/// One of the stretches of equal size into which a drive is cut. The last one has what is left as well: a drive of 5
/// MiB in chunks of 2 MiB has one of 2 MiB and one of 3 MiB, and one that is smaller than a chunk has one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its number, counted from 0.
    pub number: u64,
    /// The size of every chunk but the last.
    pub size: u64,
}

impl Chunk {
    /// Returns how many chunks of this size there are of a drive.
    pub const fn count(self, drive: ByteCount) -> u64 {
        match drive.get().checked_div(self.size) {
            Some(0) | None => 1,
            Some(count) => count,
        }
    }

    /// Returns its bytes; `None` if the drive has fewer chunks.
    pub fn within(self, drive: ByteCount) -> Option<Range<u64>> {
        let count = self.count(drive);
        let start = self.number.checked_mul(self.size).filter(|_| self.number < count && self.size > 0)?;
        let end = if self.number + 1 == count { drive.get() } else { start + self.size };
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn within(number: u64, size: u64, drive: u64) -> Option<Range<u64>> {
        Chunk { number, size }.within(ByteCount::new(drive).unwrap())
    }

    #[test]
    fn the_last_chunk_is_the_largest() {
        assert_eq!(within(0, 2, 5), Some(0..2));
        assert_eq!(within(1, 2, 5), Some(2..5));
        assert_eq!(within(2, 2, 5), None);
        assert_eq!(within(0, 9, 5), Some(0..5));
        assert_eq!(within(1, 9, 5), None);
        assert_eq!(within(1, 5, 10), Some(5..10));
        assert_eq!(within(0, 0, 5), None);
        assert_eq!(within(u64::MAX, u64::MAX, 5), None);
    }

    proptest! {
        #[test]
        fn chunks_are_the_drive_without_gaps(size in 1u64..50, drive in 1u64..500) {
            let (mut end, count) = (0, Chunk { number: 0, size }.count(ByteCount::new(drive).unwrap()));
            for number in 0..count {
                let chunk = within(number, size, drive).unwrap();
                prop_assert_eq!(chunk.start, end);
                prop_assert!(chunk.end - chunk.start >= size.min(drive) && chunk.end - chunk.start < 2 * size.max(drive));
                end = chunk.end;
            }
            prop_assert_eq!((end, within(count, size, drive)), (drive, None));
        }

        #[test]
        fn no_chunk_panics(number: u64, size: u64, drive in 0..i64::MAX as u64) {
            let _ = within(number, size, drive);
        }
    }
}
