//! The digests of the pieces of a drive: made of a stream, and compared with what is read.

use twox_hash::XxHash3_128;

use crate::domain::{PIECE, Pieces};

/// 64 KiB of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Digests the pieces of a stream, at about the speed of memory.
#[derive(Default)]
pub struct PieceDigester {
    state: XxHash3_128,
    filled: u64,
    pieces: Vec<u128>,
}

impl PieceDigester {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(PIECE - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.state.write(now);
            self.filled += now.len() as u64;
            if self.filled == PIECE {
                self.close_piece();
            }
            bytes = later;
        }
    }

    /// Takes the next `len` bytes of the stream, which are zero.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            if self.filled == 0 && len >= PIECE {
                self.pieces.push(zero_piece());
                len -= PIECE;
                continue;
            }
            let now = len.min(PIECE - self.filled).min(ZEROS.len() as u64);
            self.update(&ZEROS[..now as usize]);
            len -= now;
        }
    }

    /// The pieces, by the definition of [`Pieces`].
    pub fn finish(mut self) -> Pieces {
        if self.filled > 0 {
            self.update_zeros(PIECE - self.filled);
        }
        let zero = zero_piece();
        while self.pieces.last() == Some(&zero) {
            self.pieces.pop();
        }
        Pieces(self.pieces)
    }

    fn close_piece(&mut self) {
        self.pieces.push(self.state.finish_128());
        self.state = XxHash3_128::new();
        self.filled = 0;
    }
}

/// The digest of a piece of zeros.
pub fn zero_piece() -> u128 {
    static ZERO: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
    *ZERO.get_or_init(|| {
        let mut state = XxHash3_128::new();
        for _ in 0..PIECE / ZEROS.len() as u64 {
            state.write(&ZEROS);
        }
        state.finish_128()
    })
}

/// The digest of one piece, of which these are the bytes up to the end of its drive.
pub fn piece_digest(bytes: &[u8]) -> u128 {
    let mut digester = PieceDigester::default();
    digester.update(bytes);
    // A piece of zeros finishes as none, as the zero pieces at the end of a drive do.
    digester.finish().0.first().copied().unwrap_or_else(zero_piece)
}

/// The digest that a piece should have.
pub fn stored_digest(Pieces(digests): &Pieces, index: u64) -> u128 {
    let stored = usize::try_from(index).ok().and_then(|index| digests.get(index));
    stored.copied().unwrap_or_else(zero_piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_do_not_depend_on_zeros_at_the_end() {
        let data: Vec<u8> = (0..PIECE + 1000).map(|i| (i % 251) as u8).collect();
        let mut short = PieceDigester::default();
        short.update(&data);
        let mut grown = PieceDigester::default();
        grown.update(&data);
        grown.update_zeros(3 * PIECE);
        let pieces = short.finish();
        assert_eq!(pieces.0.len(), 2);
        assert_eq!(pieces, grown.finish());
    }

    #[test]
    fn a_blank_drive_has_no_pieces() {
        let mut digester = PieceDigester::default();
        digester.update_zeros(2 * PIECE + 5);
        assert_eq!(digester.finish(), Pieces::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn pieces_do_not_depend_on_how_the_stream_is_cut(cuts in proptest::collection::vec(1usize..2_000_000, 1..8)) {
            let data: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| (i * 31 % 253) as u8).collect();
            let mut whole = PieceDigester::default();
            whole.update(&data);
            let mut parts = PieceDigester::default();
            let mut rest = &data[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut);
                parts.update(now);
                rest = later;
            }
            prop_assert_eq!(whole.finish(), parts.finish());
        }
    }

    #[test]
    fn a_piece_by_itself_has_the_digest_that_it_has_in_its_drive() {
        let data: Vec<u8> = (0..2 * PIECE + 1000).map(|i| if i < PIECE { 0 } else { (i % 251) as u8 }).collect();
        let mut digester = PieceDigester::default();
        digester.update(&data);
        let pieces = digester.finish();
        for (index, piece) in (0..).zip(data.chunks(PIECE as usize)) {
            assert_eq!(piece_digest(piece), stored_digest(&pieces, index), "{index}");
        }
        assert_eq!(stored_digest(&pieces, 3), zero_piece());
    }
}
