//! Digests of what was sent or received, from the first byte to the last.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use reqwest::header::HeaderMap;
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};
use sha2::{Digest as _, Sha256};

use super::scan;
use crate::domain::{PIECE, PieceListState};

/// The bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// A digest of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// What other tools compute, too.
    Sha256,
    /// Faster by far.
    Blake3,
    /// Of the list of pieces: holes are not read.
    PieceList,
}

impl Algorithm {
    /// Every algorithm.
    pub(crate) const ALL: [Self; 3] = [Self::Sha256, Self::Blake3, Self::PieceList];

    /// The name on the wire.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Blake3 => "blake3",
            Self::PieceList => "blake3-pieces",
        }
    }
}

/// A digest that is being computed.
pub(super) enum Digester {
    Sha256(Sha256),
    // Some two KiB.
    Blake3(Box<blake3::Hasher>),
    PieceList(Box<PieceListState>),
}

impl Digester {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::PieceList => Self::PieceList(Box::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Blake3(digest) => {
                digest.update(bytes);
            }
            Self::PieceList(digest) => digest.update(bytes),
        }
    }

    /// Returns it in hex.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(digest) => hex::encode(digest.finalize()),
            Self::Blake3(digest) => digest.finalize().to_string(),
            Self::PieceList(digest) => hex::encode(digest.finish()),
        }
    }
}

/// Returns the SHA-256 of the whole that an answer tells (RFC 9530), in hex; `None` if it tells none.
pub(super) fn told(headers: &HeaderMap) -> Option<String> {
    let field = headers.get("repr-digest")?;
    let mut members: Dictionary = Parser::new(field.as_bytes()).parse().ok()?;
    match members.swap_remove(Algorithm::Sha256.name())? {
        ListEntry::Item(Item { bare_item: BareItem::ByteSequence(bytes), .. }) => Some(hex::encode(bytes)),
        _ => None,
    }
}

/// Returns the digest of the list of pieces of a file of this size, in hex, without reading its holes. Blocks.
pub(crate) fn piece_list_of(file: &File, size: u64) -> io::Result<String> {
    of_file(Algorithm::PieceList, file, size)
}

/// Returns the digest of the first `size` bytes of a file, in hex. Blocks.
pub(super) fn of_file(algorithm: Algorithm, file: &File, size: u64) -> io::Result<String> {
    let mut digest = Digester::new(algorithm);
    let mut holes = match algorithm {
        Algorithm::PieceList => scan::holes(file, size)?.into_iter().peekable(),
        _ => Vec::new().into_iter().peekable(),
    };
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        if let Digester::PieceList(list) = &mut digest
            && at.is_multiple_of(PIECE)
        {
            while holes.next_if(|hole| hole.end <= at).is_some() {}
            let hole = holes.peek().filter(|hole| hole.start <= at).map_or(at, |hole| hole.end);
            let count = if hole == size { (hole - at).div_ceil(PIECE) } else { (hole - at) / PIECE };
            if count > 0 {
                list.zero_pieces(count);
                at = size.min(at + count * PIECE);
                continue;
            }
        }
        let len = (size - at).min(CHUNK as u64);
        let chunk = &mut chunk[..len as usize];
        file.read_exact_at(chunk, at)?;
        digest.update(chunk);
        at += len;
    }
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_file_has_the_digests_that_other_tools_compute() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdef", 0).unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let blake3 = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(of_file(Algorithm::Sha256, &file, 3).unwrap(), sha256);
        assert_eq!(of_file(Algorithm::Blake3, &file, 3).unwrap(), blake3);
        assert!(of_file(Algorithm::Sha256, &file, 7).is_err(), "the file is shorter");
    }

    #[test]
    fn holes_count_in_the_list_of_pieces_as_zeros_do() {
        let size = 9 * PIECE + 77;
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(size).unwrap();
        for (at, byte) in [(3 * PIECE + 5, b"x"), (7 * PIECE - 1, b"y")] {
            sparse.write_all_at(byte, at).unwrap();
        }
        let mut bytes = vec![0; size as usize];
        sparse.read_exact_at(&mut bytes, 0).unwrap();
        let mut whole = Digester::new(Algorithm::PieceList);
        whole.update(&bytes);
        assert_eq!(of_file(Algorithm::PieceList, &sparse, size).unwrap(), whole.finish());
    }

    #[test]
    fn the_digest_of_an_answer_is_read() {
        let told = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("repr-digest", HeaderValue::from_static(text));
            super::told(&headers)
        };
        assert_eq!(told("sha-512=:AA==:, sha-256=:AQI=:").as_deref(), Some("0102"));
        assert_eq!(told("sha-512=:AA==:"), None);
        assert_eq!(told("sha-256=x"), None);
        assert_eq!(super::told(&HeaderMap::new()), None);
    }
}
