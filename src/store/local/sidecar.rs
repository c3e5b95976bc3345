//! The piece digests of an image: a file beside it, or an attribute of it with the same content.
//!
//! ```text
//! 8 bytes   "LSPIECES"
//! u32       version, 1
//! u32       zero
//! u64       number of pieces
//! u128 ...  the XXH3-128 of each
//! u128      the XXH3-128 of all of the above
//! ```
//! Numbers are little-endian. It is written once, in a draft, and never changed: growing a drive changes no
//! piece.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fs::{OFlags, XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use twox_hash::XxHash3_128;

use crate::domain::{ByteCount, Pieces, VolumeId};
use crate::store::StoreError;

const MAGIC: &[u8; 8] = b"LSPIECES";
const VERSION: u32 = 1;
const HEAD: usize = 24;
const DIGEST: usize = 16;
/// Short, so that name, value and their headers fit into the 96 bytes that an ext4 inode of 256 has for them.
const ATTRIBUTE: &str = "user.pieces";
const MISSING: &str = "its piece digests are missing";
const TOO_MANY: &str = "its piece digests are too many";
const DAMAGED: &str = "its piece digests are damaged";
/// No attribute is larger (`XATTR_SIZE_MAX`, xattr(7)).
const MOST_ATTACHED: u64 = 64 << 10;

/// Writes and flushes a new sidecar.
pub(super) fn write(path: &Path, pieces: &Pieces) -> io::Result<()> {
    let mut file = super::steps::create_file(path, OFlags::empty())?;
    file.write_all(&encode(pieces))?;
    file.sync_all()
}

/// Attaches the digests to an image. They are durable when its file was flushed, attributes included: `fsync`, not
/// `fdatasync`.
pub(super) fn attach(image: &File, pieces: &Pieces) -> io::Result<()> {
    Ok(fsetxattr(image, ATTRIBUTE, &encode(pieces), XattrFlags::empty())?)
}

/// Reads what is attached to the image of a drive of this size; damaged unless every byte of it is as it was written.
pub(super) fn attached(image: &File, id: VolumeId, size: ByteCount) -> Result<Pieces, StoreError> {
    let mut bytes = vec![0; usize::try_from(most(size).min(MOST_ATTACHED)).unwrap_or(usize::MAX)];
    let len = match fgetxattr(image, ATTRIBUTE, &mut bytes[..]) {
        Err(Errno::NODATA) => return Err(StoreError::Damaged(id, MISSING)),
        Err(Errno::RANGE) => return Err(StoreError::Damaged(id, TOO_MANY)),
        outcome => outcome.map_err(io::Error::from)?,
    };
    decode(&bytes[..len]).ok_or(StoreError::Damaged(id, DAMAGED))
}

/// A drive never shrinks, so what a good one holds is never longer than this; a bad one must not fill the memory.
fn most(size: ByteCount) -> u64 {
    (Pieces::spanned_by(size) + 1) * DIGEST as u64 + HEAD as u64
}

/// Reads the sidecar of a drive of this size; damaged unless every byte of it is as it was written.
pub(super) fn read(path: &Path, id: VolumeId, size: ByteCount) -> Result<Pieces, StoreError> {
    let damaged = |why| StoreError::Damaged(id, why);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The drive may have been removed meanwhile, which is no damage.
            let removed = !path.with_file_name("image").exists();
            return Err(if removed { StoreError::Missing(id) } else { damaged(MISSING) });
        }
        file => file?,
    };
    let most = most(size);
    if file.metadata()?.len() > most {
        return Err(damaged(TOO_MANY));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    decode(&bytes).ok_or_else(|| damaged(DAMAGED))
}

fn encode(Pieces(digests): &Pieces) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + (digests.len() + 1) * DIGEST);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(digests.len() as u64).to_le_bytes());
    for digest in digests {
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    bytes.extend_from_slice(&XxHash3_128::oneshot(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Pieces> {
    let (content, checksum) = bytes.split_last_chunk::<DIGEST>()?;
    if u128::from_le_bytes(*checksum) != XxHash3_128::oneshot(content) {
        return None;
    }
    let (digests, []) = content.get(HEAD..)?.as_chunks::<DIGEST>() else { return None };
    let pieces = Pieces(digests.iter().map(|digest| u128::from_le_bytes(*digest)).collect());
    // Magic, version and count are right when they are what we would write.
    (encode(&pieces)[..HEAD] == content[..HEAD]).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        for count in [0, 1, 3] {
            let pieces = Pieces((0..count).map(|n| u128::MAX / (n + 3)).collect());
            let good = encode(&pieces);
            assert_eq!(decode(&good), Some(pieces));
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&bad), None, "bit {bit}");
            }
            for len in 0..good.len() {
                assert_eq!(decode(&good[..len]), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn a_header_of_another_kind_is_damage_though_its_checksum_is_right() {
        for (at, byte) in [(0, b'X'), (8, 2), (12, 1), (16, 9)] {
            let mut bytes = encode(&Pieces(vec![5]));
            bytes[at] = byte;
            let content = bytes.len() - DIGEST;
            let checksum = XxHash3_128::oneshot(&bytes[..content]).to_le_bytes();
            bytes[content..].copy_from_slice(&checksum);
            assert_eq!(decode(&bytes), None, "byte {at}");
        }
    }
}
