//! The digest `blake3-pieces`, which a sparse drive has as fast as its data is read.
//!
//! It is the BLAKE3 of a list with 32 bytes for each 4 MiB piece of the bytes, in order: the BLAKE3 of the piece, or 32
//! zero bytes where the piece has zeros only. The last piece may be shorter. It goes with the size, which it does not
//! have in it.

use super::zero::is_zero;
use super::{Blake3, PIECE};

/// What stands in the list for a piece of zeros.
const ZERO: [u8; 32] = [0; 32];

/// The digest in progress.
#[derive(Clone, Default)]
pub struct PieceListState {
    list: blake3::Hasher,
    piece: blake3::Hasher,
    /// The bytes of the piece that have come.
    length: u64,
    /// Whether one of them is not zero. Until then none is digested.
    has_data: bool,
}

impl PieceListState {
    /// Adds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(PIECE - self.length).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.add(now);
            if self.length == PIECE {
                self.end_piece();
            }
            bytes = rest;
        }
    }

    /// Adds whole pieces of zeros, the last of which may be shorter. Only at the start of a piece.
    pub fn zero_pieces(&mut self, count: u64) {
        debug_assert_eq!(self.length, 0, "a piece has begun");
        for _ in 0..count {
            self.list.update(&ZERO);
        }
    }

    /// Adds a whole piece that has other bytes than zeros and this BLAKE3. Only at the start of a piece.
    pub fn known_piece(&mut self, digest: &Blake3) {
        debug_assert_eq!(self.length, 0, "a piece has begun");
        self.list.update(&digest.0);
    }

    /// Returns the digest.
    pub fn finish(mut self) -> [u8; 32] {
        if self.length > 0 {
            self.end_piece();
        }
        self.list.finalize().into()
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.has_data || !is_zero(bytes) {
            if !self.has_data {
                self.catch_up();
            }
            self.piece.update(bytes);
        }
        self.length += bytes.len() as u64;
    }

    /// Digests the zeros that have come before the first other byte.
    fn catch_up(&mut self) {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        let mut left = self.length;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.piece.update(&ZEROS[..now as usize]);
            left -= now;
        }
        self.has_data = true;
    }

    fn end_piece(&mut self) {
        if self.has_data {
            self.list.update(self.piece.finalize().as_bytes());
            self.piece.reset();
        } else {
            self.list.update(&ZERO);
        }
        (self.length, self.has_data) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the module's text has it.
    fn plainly(bytes: &[u8]) -> [u8; 32] {
        let pieces = bytes.chunks(PIECE as usize);
        let entry = |piece: &[u8]| if piece.iter().all(|byte| *byte == 0) { ZERO } else { blake3::hash(piece).into() };
        blake3::hash(&pieces.flat_map(entry).collect::<Vec<u8>>()).into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_is_that_of_the_list_however_the_bytes_come(
            pieces in prop::collection::vec(prop::option::of(0..PIECE as usize), 1..4),
            short in 0..PIECE as usize,
            cuts in prop::collection::vec(1..3 * PIECE as usize, 0..6),
        ) {
            let mut bytes = vec![0; pieces.len() * PIECE as usize];
            for (at, data) in pieces.iter().enumerate() {
                if let Some(data) = data {
                    bytes[at * PIECE as usize + data] = 7;
                }
            }
            bytes.truncate(bytes.len() - short);
            let mut state = PieceListState::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, left) = rest.split_at(cut.min(rest.len()));
                state.update(now);
                rest = left;
            }
            state.update(rest);
            prop_assert_eq!(state.finish(), plainly(&bytes));
        }
    }

    #[test]
    fn pieces_of_zeros_or_of_a_known_digest_need_not_be_read() {
        let data = [5; 100];
        let mut bytes = vec![0; 3 * PIECE as usize];
        bytes.extend(data);
        bytes.resize(4 * PIECE as usize + 9, 0);
        let mut state = PieceListState::default();
        state.zero_pieces(3);
        let piece = &bytes[3 * PIECE as usize..4 * PIECE as usize];
        let mut known = state.clone();
        known.known_piece(&Blake3(blake3::hash(piece).into()));
        state.update(piece);
        for mut state in [state, known] {
            state.zero_pieces(1);
            assert_eq!(state.finish(), plainly(&bytes));
        }
    }
}
