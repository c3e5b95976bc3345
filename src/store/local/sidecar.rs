//! The piece digests of an image, and the record of whose it was.
//!
//! The digests of a drive that is a folder are a file beside its image:
//! ```text
//! 8 bytes   "LSPIECES"
//! u32       version, 1
//! u32       zero
//! u64       number of pieces
//! u128 ...  the XXH3-128 of each
//! u128      the XXH3-128 of all of the above
//! ```
//! The record is in an attribute of the image, and so are the digests of a drive that is one file:
//! ```text
//! 4 bytes   "LSP2", or "LSP3"
//! u32       number of pieces
//! u128 ...  the XXH3-128 of each
//! 16 bytes  the tenant's id
//! 16 bytes  the volume's id; in "LSP3", else it is that of the content
//! ...       the name, in UTF-8
//! u64       the lower half of the XXH3-128 of all of the above
//! ```
//! An attribute with the content of such a file is what earlier versions have written.
//!
//! Numbers are little-endian. All is written once, in a draft, and never changed: growing a drive changes no
//! piece.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{OFlags, XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use twox_hash::XxHash3_128;

use super::files::create_file;
use crate::domain::{ByteCount, ContentId, Pieces, TenantId, VolumeId};
use crate::store::{Record, StoreError};

const MAGIC: &[u8; 8] = b"LSPIECES";
const VERSION: u32 = 1;
const HEAD: usize = 24;
const DIGEST: usize = 16;
/// Short, so that its name, its value and their headers fit into the 96 bytes that an ext4 inode of 256 has for them,
/// with one piece and a drive's name of up to 16 bytes.
const ATTRIBUTE: &str = "user.pieces";
/// Where the record is of an image whose digests are a file.
const RECORD: &str = "user.record";
const ATTACHED_MAGIC: &[u8; 4] = b"LSP2";
/// With the id of a volume.
const OF_VOLUME: &[u8; 4] = b"LSP3";
const ATTACHED_HEAD: usize = 8;
const ID: usize = 16;
/// The longest name that a record has; what is longer is cut.
const LONGEST_NAME: usize = 1_024;
pub(super) const MISSING: &str = "its piece digests are missing";
const TOO_MANY: &str = "its piece digests are too many";
const DAMAGED: &str = "its piece digests are damaged";
/// No attribute is larger (`XATTR_SIZE_MAX`, xattr(7)).
const MOST_ATTACHED: u64 = 64 << 10;

/// Writes and flushes a new sidecar.
pub(super) fn write(path: &Path, pieces: &Pieces) -> io::Result<()> {
    let mut file = create_file(path, OFlags::empty())?;
    file.write_all(&encode(pieces))?;
    file.sync_all()
}

/// Attaches the digests and the record to an image. They are durable when its file was flushed, attributes included:
/// `fsync`, not `fdatasync`.
pub(super) fn attach(image: &File, pieces: &Pieces, record: &Record, id: ContentId) -> io::Result<()> {
    Ok(fsetxattr(image, ATTRIBUTE, &encode_attached(pieces, record, id), XattrFlags::empty())?)
}

/// Attaches the record alone, where the file system has attributes; durable as [`attach`] is.
pub(super) fn attach_record(image: &File, record: &Record, id: ContentId) -> io::Result<()> {
    match fsetxattr(image, RECORD, &encode_attached(&Pieces::default(), record, id), XattrFlags::empty()) {
        // Without one, whoever has lost the database must say whose drive it was.
        Err(Errno::OPNOTSUPP) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The record that is attached to an image, if there is one and every byte of it is as it was written.
pub(super) fn record(image: &File, id: ContentId) -> Option<Record> {
    let mut bytes = vec![0; usize::try_from(MOST_ATTACHED).ok()?];
    let len = fgetxattr(image, RECORD, &mut bytes[..]).or_else(|_| fgetxattr(image, ATTRIBUTE, &mut bytes[..])).ok()?;
    decode_attached(&bytes[..len], id).map(|(_, record)| record)
}

/// Reads what is attached to the image of a drive of this size; damaged unless every byte of it is as it was written.
pub(super) fn attached(image: &File, id: ContentId, size: ByteCount) -> Result<Pieces, StoreError> {
    let most = most(size) + (2 * ID + LONGEST_NAME) as u64;
    let mut bytes = vec![0; usize::try_from(most.min(MOST_ATTACHED)).unwrap_or(usize::MAX)];
    let len = match fgetxattr(image, ATTRIBUTE, &mut bytes[..]) {
        Err(Errno::NODATA) => return Err(StoreError::Damaged(id, MISSING)),
        Err(Errno::RANGE) => return Err(StoreError::Damaged(id, TOO_MANY)),
        outcome => outcome.map_err(io::Error::from)?,
    };
    let bytes = &bytes[..len];
    let pieces = decode_attached(bytes, id).map(|(pieces, _)| pieces).or_else(|| decode(bytes));
    let pieces = pieces.ok_or(StoreError::Damaged(id, DAMAGED))?;
    if pieces.0.len() as u64 > Pieces::spanned_by(size) {
        return Err(StoreError::Damaged(id, TOO_MANY));
    }
    Ok(pieces)
}

/// A drive never shrinks, so what a good one holds is never longer than this; a bad one must not fill the memory.
fn most(size: ByteCount) -> u64 {
    (Pieces::spanned_by(size) + 1) * DIGEST as u64 + HEAD as u64
}

/// Reads the sidecar of a drive of this size; damaged unless every byte of it is as it was written.
pub(super) fn read(path: &Path, id: ContentId, size: ByteCount) -> Result<Pieces, StoreError> {
    let damaged = |why| StoreError::Damaged(id, why);
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(no_link).open(path) {
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

fn encode_attached(Pieces(digests): &Pieces, record: &Record, id: ContentId) -> Vec<u8> {
    let is_first = ContentId::first_of(record.volume) == id;
    let mut bytes = if is_first { ATTACHED_MAGIC.to_vec() } else { OF_VOLUME.to_vec() };
    // As many as a drive has pieces of 4 MiB.
    bytes.extend_from_slice(&u32::try_from(digests.len()).unwrap_or(u32::MAX).to_le_bytes());
    for digest in digests {
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    bytes.extend_from_slice(record.tenant.as_bytes());
    if !is_first {
        bytes.extend_from_slice(record.volume.as_bytes());
    }
    bytes.extend_from_slice(&record.name.as_bytes()[..record.name.floor_char_boundary(LONGEST_NAME)]);
    bytes.extend_from_slice(&short_digest(&bytes).to_le_bytes());
    bytes
}

fn decode_attached(bytes: &[u8], id: ContentId) -> Option<(Pieces, Record)> {
    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    let is_of_volume = content.starts_with(OF_VOLUME);
    if u64::from_le_bytes(*checksum) != short_digest(content) || !(is_of_volume || content.starts_with(ATTACHED_MAGIC))
    {
        return None;
    }
    let count = u32::from_le_bytes(*content.get(4..)?.first_chunk()?) as usize;
    let (digests, rest) = content.get(ATTACHED_HEAD..)?.split_at_checked(count.checked_mul(DIGEST)?)?;
    let (tenant, rest) = rest.split_first_chunk::<ID>()?;
    let (volume, name) = if is_of_volume { rest.split_first_chunk::<ID>()? } else { (id.as_bytes(), rest) };
    let (volume, tenant) = (VolumeId::from_bytes(*volume), TenantId::from_bytes(*tenant));
    let record = Record { volume, tenant, name: std::str::from_utf8(name).ok()?.to_owned() };
    let digests = digests.as_chunks::<DIGEST>().0.iter().map(|digest| u128::from_le_bytes(*digest));
    Some((Pieces(digests.collect()), record))
}

#[expect(clippy::cast_possible_truncation, reason = "half of a digest")]
fn short_digest(bytes: &[u8]) -> u64 {
    XxHash3_128::oneshot(bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_of_what_is_attached_is_damage() {
        for (count, name, is_first) in [(0, "", true), (1, "disk.img", false), (3, "a name of some length", true)] {
            let pieces = Pieces((0..count).map(|n| u128::MAX / (n + 3)).collect());
            let volume = VolumeId::random();
            let id = if is_first { ContentId::first_of(volume) } else { ContentId::random() };
            let record = Record { volume, tenant: TenantId::random(), name: name.to_owned() };
            let good = encode_attached(&pieces, &record, id);
            assert_eq!(decode_attached(&good, id), Some((pieces, record)));
            assert_eq!(decode(&good), None);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_attached(&bad, id).is_none() && decode(&bad).is_none(), "bit {bit}");
            }
            for len in 0..good.len() {
                assert_eq!(decode_attached(&good[..len], id), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn one_piece_and_a_short_name_fit_into_an_inode() {
        let volume = VolumeId::random();
        let id = ContentId::first_of(volume);
        let record = Record { volume, tenant: TenantId::random(), name: "x".repeat(16) };
        // The header of all, of this one with its name, and the end (ext4(5): 4, 16 and 8, 4).
        assert!(encode_attached(&Pieces(vec![1]), &record, id).len() + 32 <= 96);
        let long = Record { name: "\u{e9}".repeat(2_000), ..record };
        let (_, cut) = decode_attached(&encode_attached(&Pieces::default(), &long, id), id).unwrap();
        assert_eq!(cut.name.len(), LONGEST_NAME);
    }

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
