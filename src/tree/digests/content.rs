//! The digest of one path's content.
//!
//! The digest of a file is that of a list: the number and the digest of each part of 64 KiB that is not all zeros. So a
//! hole costs nothing, and the positions of holes do not matter.

use twox_hash::XxHash3_128;

/// The size of the parts in which a file is digested.
const PART: u64 = 64 << 10;

static ZEROS: [u8; PART as usize] = [0; PART as usize];

/// A seed that keeps the targets of links apart from the bytes of files.
const OF_LINK: u64 = 1;

/// The size and the digest of a file's bytes or of a link's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tree) struct Digest {
    pub(in crate::tree) size: u64,
    pub(super) sum: u128,
}

impl Digest {
    pub(in crate::tree) fn of_link(target: &[u8]) -> Self {
        Self { size: target.len() as u64, sum: XxHash3_128::oneshot_with_seed(OF_LINK, target) }
    }
}

/// Digests the bytes of a file, which come in order.
pub(in crate::tree) struct FileDigester {
    /// Bytes so far.
    size: u64,
    /// The size of the file, if it is known: a part that comes as a whole needs no state.
    expected: u64,
    parts: Parts,
    /// A part that is not complete yet.
    open: Option<OpenPart>,
}

struct OpenPart {
    state: XxHash3_128,
    is_zero: bool,
}

impl FileDigester {
    /// Begins the digest of a file of this size; [`u64::MAX`] if that is unknown.
    pub(in crate::tree) fn of_size(expected: u64) -> Self {
        Self { size: 0, expected, parts: Parts::default(), open: None }
    }

    /// Adds the next bytes.
    pub(in crate::tree) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let begun = self.size % PART;
            let (now, later) = bytes.split_at(bytes.len().min((PART - begun) as usize));
            bytes = later;
            let end = self.size + now.len() as u64;
            if begun == 0 && (end.is_multiple_of(PART) || end == self.expected) {
                if !is_zero(now) {
                    self.parts.add(self.size / PART, XxHash3_128::oneshot(now));
                }
                self.size = end;
                continue;
            }
            let open = self.open.get_or_insert_with(|| OpenPart { state: XxHash3_128::new(), is_zero: true });
            open.state.write(now);
            open.is_zero = open.is_zero && is_zero(now);
            self.size = end;
            if end.is_multiple_of(PART) {
                self.close_part();
            }
        }
    }

    /// Adds zeros up to this offset in the file.
    pub(in crate::tree) fn zeros_to(&mut self, end: u64) {
        while self.size < end {
            if self.size.is_multiple_of(PART) && end - self.size >= PART {
                self.size = end - end % PART;
                continue;
            }
            let now = (end - self.size).min(PART - self.size % PART);
            self.update(&ZEROS[..now as usize]);
        }
    }

    pub(in crate::tree) fn finish(mut self) -> Digest {
        self.close_part();
        Digest { size: self.size, sum: self.parts.finish() }
    }

    fn close_part(&mut self) {
        if let Some(OpenPart { state, is_zero: false }) = self.open.take() {
            self.parts.add((self.size - 1) / PART, state.finish_128());
        }
    }
}

/// The digest of the parts that are not all zeros. Files of one part need no state.
#[derive(Default)]
enum Parts {
    #[default]
    None,
    First([u8; 24]),
    More(Box<XxHash3_128>),
}

impl Parts {
    fn add(&mut self, number: u64, digest: u128) {
        let mut line = [0; 24];
        line[..8].copy_from_slice(&number.to_le_bytes());
        line[8..].copy_from_slice(&digest.to_le_bytes());
        match self {
            Self::None => *self = Self::First(line),
            Self::First(first) => {
                let mut state = XxHash3_128::new();
                state.write(first);
                state.write(&line);
                *self = Self::More(Box::new(state));
            }
            Self::More(state) => state.write(&line),
        }
    }

    fn finish(self) -> u128 {
        match self {
            Self::None => XxHash3_128::oneshot(&[]),
            Self::First(line) => XxHash3_128::oneshot(&line),
            Self::More(state) => state.finish_128(),
        }
    }
}

/// Whether the bytes of a part, or of its beginning, are all zeros.
fn is_zero(bytes: &[u8]) -> bool {
    // The first byte decides for most files.
    bytes.first().is_none_or(|first| *first == 0) && bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        let mut digester = FileDigester::of_size(bytes.len() as u64);
        digester.update(bytes);
        digester.finish()
    }

    fn in_runs(runs: &[(bool, usize)]) -> (Vec<u8>, Digest) {
        let (mut whole, mut digester) = (Vec::new(), FileDigester::of_size(u64::MAX));
        for (is_hole, len) in runs {
            let start = whole.len();
            whole.resize(start + len, 0);
            if *is_hole {
                digester.zeros_to(whole.len() as u64);
            } else {
                (start..).zip(&mut whole[start..]).for_each(|(at, byte)| *byte = (at / 7 % 3) as u8);
                digester.update(&whole[start..]);
            }
        }
        (whole, digester.finish())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_has_one_digest_however_its_bytes_and_holes_come(
            runs in proptest::collection::vec((any::<bool>(), prop_oneof![0..70_000_usize, 0..400_000_usize]), 0..6)
        ) {
            let (whole, stored) = in_runs(&runs);
            prop_assert_eq!(stored, digest(&whole));
        }

        #[test]
        fn another_byte_or_length_is_another_digest(at in 0..200_000_usize, bit in 0..8, zeros: bool) {
            let byte = |at: usize| if zeros { 0 } else { (at % 251) as u8 };
            let mut whole: Vec<u8> = (0..200_000).map(byte).collect();
            let first = digest(&whole);
            prop_assert_ne!(first, digest(&whole[..at]));
            whole[at] ^= 1_u8 << bit;
            prop_assert_ne!(first, digest(&whole));
        }
    }

    #[test]
    fn a_hole_of_exbibytes_costs_nothing() {
        let mut digester = FileDigester::of_size(u64::MAX);
        digester.update(&[1; 1000]);
        digester.zeros_to(u64::MAX / 2);
        assert_eq!(digester.finish().size, u64::MAX / 2);
    }

    #[test]
    fn a_link_has_not_the_digest_of_a_file() {
        assert_ne!(Digest::of_link(b"target"), digest(b"target"));
        assert_ne!(Digest::of_link(b""), digest(b""));
    }
}
