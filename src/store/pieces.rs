//! The digest of a piece of a drive: what it is of zeros, of bytes at hand, and what is stored.

use std::sync::OnceLock;

use twox_hash::XxHash3_128;

use crate::domain::{PIECE, Pieces};

/// 64 KiB of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The digest of a piece of zeros.
pub fn zero_piece() -> u128 {
    static ZERO: OnceLock<u128> = OnceLock::new();
    *ZERO.get_or_init(|| piece_digest(&[]))
}

/// The digest of one piece, of which these are the bytes up to the end of its drive.
pub fn piece_digest(bytes: &[u8]) -> u128 {
    debug_assert!(bytes.len() as u64 <= PIECE, "bytes of one piece");
    let mut state = XxHash3_128::new();
    state.write(bytes);
    write_zeros(&mut state, PIECE.saturating_sub(bytes.len() as u64));
    state.finish_128()
}

/// The digest that a piece should have.
pub fn stored_digest(Pieces(digests): &Pieces, index: u64) -> u128 {
    let stored = usize::try_from(index).ok().and_then(|index| digests.get(index));
    stored.copied().unwrap_or_else(zero_piece)
}

/// Has a digest take the next `len` bytes, which are zero.
pub(super) fn write_zeros(state: &mut XxHash3_128, mut len: u64) {
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        state.write(&ZEROS[..now as usize]);
        len -= now;
    }
}

/// The digests of a drive that holds this.
#[cfg(test)]
pub(super) fn pieces_of(content: &[u8]) -> Pieces {
    let mut digests: Vec<u128> = content.chunks(PIECE as usize).map(piece_digest).collect();
    digests.truncate(digests.iter().rposition(|digest| *digest != zero_piece()).map_or(0, |last| last + 1));
    Pieces(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_digested_with_zeros_up_to_its_end() {
        let mut piece = vec![0; PIECE as usize];
        assert_eq!(piece_digest(&piece), zero_piece());
        piece[..1000].fill(7);
        assert_eq!(piece_digest(&piece[..1000]), piece_digest(&piece));
        assert_eq!(piece_digest(&piece), XxHash3_128::oneshot(&piece));
    }

    #[test]
    fn a_piece_that_no_digest_is_stored_of_is_zero() {
        let pieces = pieces_of(&[&vec![0; PIECE as usize], &b"x"[..], &vec![0; PIECE as usize * 3]].concat());
        assert_eq!(pieces.0.len(), 2);
        let digests = [0, 1, 2, 3, u64::MAX].map(|index| stored_digest(&pieces, index));
        assert_eq!(digests, [zero_piece(), piece_digest(b"x"), zero_piece(), zero_piece(), zero_piece()]);
    }
}
