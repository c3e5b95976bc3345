//! The format of an object: a chunk of a drive, compressed, and a stamp that identifies it.
//!
//! ```text
//! a zstd frame with checksum      the bytes of the chunk
//! a skippable frame (RFC 8878 section 3.1.2), 112 bytes:
//!   magic, length                 4 + 4 bytes
//!   "LONGSHO1"                    8
//!   backup id                     16
//!   number, length of the chunk   8 + 8, little-endian
//!   SHA-256 of the frame          32
//!   SHA-256 of the five above     32
//! ```
//! The digest is that of the frame, which is what is stored and is short for a mostly empty drive; the frame's own
//! checksum verifies that it decodes to what was put into it. Any zstd decompresses an object to its chunk. A later run
//! of the same backup reads only the stamp to learn that an object exists and what its digest is, since objects are
//! stored whole or not at all.

use std::io::{self, Write as _};

use bytes::{Buf as _, Bytes};
use sha2::Digest as _;
use zstd::stream::raw::{self, DParameter, Operation as _};

use crate::domain::{BackupId, Sha256};

/// The length of a stamp.
pub(super) const STAMP: usize = 112;

const SKIPPABLE: [u8; 4] = 0x184D_2A5C_u32.to_le_bytes();
const NAME: &[u8; 8] = b"LONGSHO1";

/// The largest window of a zstd frame: the 8 MiB that RFC 8878 recommends every decoder to support, which suffices for
/// each level up to 19.
const WINDOW_LOG: u32 = 23;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Returns the most bytes of the object of a chunk of this length.
pub(super) fn most_stored(plain: u64) -> u64 {
    (frame_bound(plain) + STAMP) as u64
}

fn frame_bound(plain: u64) -> usize {
    zstd::compress_bound(plain as usize)
}

/// The identity of an object: its backup, its chunk, and the digest of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) backup: BackupId,
    pub(super) number: u64,
    /// The length of the chunk.
    pub(super) plain: u64,
    /// Of the frame.
    pub(super) sha256: Sha256,
}

impl Stamp {
    pub(super) fn encode(&self) -> [u8; STAMP] {
        let mut bytes = Vec::with_capacity(STAMP);
        bytes.extend_from_slice(&SKIPPABLE);
        bytes.extend_from_slice(&(STAMP as u32 - 8).to_le_bytes());
        bytes.extend_from_slice(NAME);
        bytes.extend_from_slice(self.backup.as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.plain.to_le_bytes());
        bytes.extend_from_slice(&self.sha256.0);
        let check = digest(&bytes[8..]);
        bytes.extend_from_slice(&check.0);
        bytes.try_into().expect("the fields are 112 bytes")
    }

    /// Decodes a stamp; `None` if these bytes are not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP] = bytes.try_into().ok()?;
        let stamp = Self {
            backup: BackupId::from_bytes(bytes[16..32].try_into().ok()?),
            number: u64::from_le_bytes(bytes[32..40].try_into().ok()?),
            plain: u64::from_le_bytes(bytes[40..48].try_into().ok()?),
            sha256: Sha256(bytes[48..80].try_into().ok()?),
        };
        (stamp.encode() == *bytes).then_some(stamp)
    }
}

/// Returns the SHA-256 of these bytes.
pub(super) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// Compresses one chunk. Blocks: for threads that may.
pub(super) struct Encoder {
    level: i32,
    /// The length of the chunk.
    plain: u64,
    taken: u64,
    /// Zeros at the end of the bytes taken, which are not compressed yet.
    zeros: u64,
    /// `None` as long as all bytes are zero.
    frame: Option<zstd::Encoder<'static, Vec<u8>>>,
}

/// An object to be stored.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// Of the frame.
    pub(super) sha256: Sha256,
}

impl Encoder {
    /// Returns an encoder for a chunk of this length.
    pub(super) fn new(level: i32, plain: u64) -> Self {
        Self { level, plain, taken: 0, zeros: 0, frame: None }
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if is_zero(bytes) {
            self.take_zeros(bytes.len() as u64);
            return Ok(());
        }
        self.taken += bytes.len() as u64;
        self.settle_zeros()?;
        self.compress(bytes)
    }

    /// Takes the next `len` bytes, which are zero.
    pub(super) fn take_zeros(&mut self, len: u64) {
        self.taken += len;
        self.zeros += len;
    }

    /// Returns the object of the chunk, which was taken whole; `None` if all of it is zero.
    pub(super) fn finish(mut self, backup: BackupId, number: u64) -> io::Result<Option<Encoded>> {
        if self.taken != self.plain {
            return Err(io::Error::other("a piece of a drive has another length than it should"));
        }
        if self.frame.is_some() {
            self.settle_zeros()?;
        }
        let Some(frame) = self.frame else { return Ok(None) };
        let mut bytes = frame.finish()?;
        let sha256 = digest(&bytes);
        let stamp = Stamp { backup, number, plain: self.plain, sha256 };
        bytes.extend_from_slice(&stamp.encode());
        Ok(Some(Encoded { bytes, sha256 }))
    }

    fn settle_zeros(&mut self) -> io::Result<()> {
        while self.zeros > 0 {
            let now = self.zeros.min(ZEROS.len() as u64);
            self.zeros -= now;
            self.compress(&ZEROS[..now as usize])?;
        }
        Ok(())
    }

    fn compress(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut frame = match self.frame.take() {
            Some(frame) => frame,
            None => self.begin()?,
        };
        let result = frame.write_all(bytes);
        self.frame = Some(frame);
        result
    }

    fn begin(&self) -> io::Result<zstd::Encoder<'static, Vec<u8>>> {
        // Room for the longest frame, so that it is never copied to grow; pages that are not written take no memory.
        let room = Vec::with_capacity(frame_bound(self.plain) + STAMP);
        let mut frame = zstd::Encoder::new(room, self.level)?;
        frame.include_checksum(true)?;
        frame.set_pledged_src_size(Some(self.plain))?;
        Ok(frame)
    }
}

/// Why a frame cannot be decoded.
const BROKEN: &str = "an object cannot be decompressed";
const TOO_LONG: &str = "an object holds more bytes than its piece";
const TOO_SHORT: &str = "an object holds fewer bytes than its piece";
const CHANGED: &str = "an object holds other bytes than were backed up";

/// Decompresses one chunk, and never more than its length. Blocks: for threads that may.
pub(super) struct Decoder {
    frame: raw::Decoder<'static>,
    digest: sha2::Sha256,
    /// Bytes of the chunk not yet decoded.
    left: u64,
    /// Whether the last step filled all its room, so that more output may follow without more input.
    is_pressed: bool,
    is_done: bool,
}

impl Decoder {
    /// Returns a decoder for a chunk of this length.
    pub(super) fn new(plain: u64) -> io::Result<Self> {
        let mut frame = raw::Decoder::new()?;
        frame.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { frame, digest: sha2::Sha256::default(), left: plain, is_pressed: false, is_done: false })
    }

    /// Whether the frame has ended.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether more output needs more input.
    pub(super) fn is_hungry(&self) -> bool {
        !self.is_pressed
    }

    /// Returns the bytes of the chunk not yet decoded.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Decodes from the front of `input` until it is used up, `out` is full, or the frame ends. Returns the number of
    /// bytes decoded.
    pub(super) fn fill(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<usize, &'static str> {
        let mut filled = 0;
        while !(self.is_done || input.is_empty() && self.is_hungry()) {
            // After all bytes of the chunk the frame must end: one more byte is an error.
            let mut surplus = [0];
            let is_last = self.left == 0;
            let room = (out.len() - filled).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let into = if is_last { &mut surplus[..] } else { &mut out[filled..filled + room] };
            if into.is_empty() {
                break;
            }
            let fed = !input.is_empty();
            let status = self.frame.run_on_buffers(input, into).map_err(|_| BROKEN)?;
            let came = status.bytes_written;
            if is_last && came > 0 {
                return Err(TOO_LONG);
            }
            if fed && status.bytes_read == 0 && came == 0 && status.remaining != 0 {
                return Err(BROKEN);
            }
            self.digest.update(&input[..status.bytes_read]);
            self.is_pressed = came == into.len();
            self.is_done = status.remaining == 0;
            self.left -= came as u64;
            filled += came;
            input.advance(status.bytes_read);
        }
        Ok(filled)
    }

    /// Checks that the chunk is whole and that its frame has this digest.
    pub(super) fn finish(self, sha256: Sha256) -> Result<(), &'static str> {
        if self.left > 0 {
            return Err(TOO_SHORT);
        }
        if Sha256(self.digest.finalize().into()) == sha256 { Ok(()) } else { Err(CHANGED) }
    }
}

/// Whether every byte is zero.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::testing::noise;

    fn encode(data: &[u8]) -> Option<Encoded> {
        let mut encoder = Encoder::new(1, data.len() as u64);
        for part in data.chunks(10_000) {
            encoder.take(part).unwrap();
        }
        encoder.finish(BackupId::from_bytes([7; 16]), 3).unwrap()
    }

    /// Decodes the frame of an object, in parts of these sizes.
    fn decode(frame: &[u8], plain: u64, input: usize, output: usize) -> Result<(Vec<u8>, Sha256), &'static str> {
        let mut decoder = Decoder::new(plain).unwrap();
        let mut data = Vec::new();
        let mut parts = frame.chunks(input);
        let mut next = Bytes::new();
        while !decoder.is_done() {
            if next.is_empty() && decoder.is_hungry() {
                next = Bytes::copy_from_slice(parts.next().ok_or("cut")?);
            }
            let mut out = vec![0; output];
            let came = decoder.fill(&mut next, &mut out)?;
            data.extend_from_slice(&out[..came]);
            assert!(data.len() as u64 <= plain, "never more than the chunk");
        }
        let sha256 = digest(frame);
        decoder.finish(sha256)?;
        Ok((data, sha256))
    }

    #[test]
    fn an_object_is_a_zstd_file_of_the_chunk() {
        let data = [noise(100_000, 1), vec![0; 200_000], noise(5, 2)].concat();
        let object = encode(&data).unwrap();
        assert!(zstd::decode_all(&*object.bytes).unwrap() == data);
        assert_eq!(object.sha256, digest(&object.bytes[..object.bytes.len() - STAMP]));
        assert!(object.bytes.len() as u64 <= most_stored(data.len() as u64));
    }

    #[test]
    fn a_chunk_of_zeros_is_no_object() {
        assert!(encode(&vec![0; 300_001]).is_none());
        assert!(encode(&[]).is_none());
        let mut one = vec![0; 300_001];
        one[300_000] = 1;
        assert!(encode(&one).is_some());
    }

    #[test]
    fn a_chunk_of_another_length_is_refused() {
        let mut encoder = Encoder::new(1, 10);
        encoder.take(b"short").unwrap();
        assert!(encoder.finish(BackupId::from_bytes([0; 16]), 1).is_err());
    }

    #[test]
    fn a_stamp_is_read_only_as_it_was_written() {
        let stamp = Stamp { backup: BackupId::random(), number: 77, plain: 52_428_800, sha256: digest(b"x") };
        let bytes = stamp.encode();
        assert_eq!(Stamp::decode(&bytes), Some(stamp));
        for at in 0..STAMP {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Stamp::decode(&changed), None, "{at}");
        }
        assert_eq!(Stamp::decode(&bytes[1..]), None);
        assert_eq!(Stamp::decode(&[]), None);
    }

    #[test]
    fn an_object_ends_in_its_stamp() {
        let data = noise(5000, 3);
        let object = encode(&data).unwrap();
        let (frame, stamp) = object.bytes.split_at(object.bytes.len() - STAMP);
        let stamp = Stamp::decode(stamp).unwrap();
        assert_eq!((stamp.number, stamp.plain, stamp.sha256), (3, 5000, digest(frame)));
    }

    #[test]
    fn noise_fits_the_room_that_is_kept_for_it() {
        for len in [1, 1000, 128 << 10, 1 << 20] {
            let object = encode(&noise(len, 4)).unwrap();
            assert!(object.bytes.len() as u64 <= most_stored(len as u64), "{len}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_length_of_the_chunk() {
        let bomb = zstd::encode_all(&*vec![0; 64 << 20], 1).unwrap();
        for output in [1, 1000, 1 << 20] {
            assert_eq!(decode(&bomb, 1000, 1 << 16, output).unwrap_err(), TOO_LONG);
        }
        assert_eq!(decode(&bomb, 0, 1 << 16, 10).unwrap_err(), TOO_LONG);
    }

    #[test]
    fn a_frame_that_needs_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&noise(1 << 20, 5)).unwrap();
        let large = encoder.finish().unwrap();
        assert_eq!(decode(&large, 1 << 20, 1 << 16, 1 << 16).unwrap_err(), BROKEN);
    }

    #[test]
    fn a_frame_cut_short_or_too_short_is_refused() {
        let frame = zstd::encode_all(&*noise(10_000, 6), 1).unwrap();
        for cut in [0, 1, 5, 100, frame.len() - 1] {
            assert!(decode(&frame[..cut], 10_000, 333, 777).is_err(), "{cut}");
        }
        assert_eq!(decode(&frame, 10_001, 333, 777).unwrap_err(), TOO_SHORT);
        assert_eq!(decode(&frame, 9999, 333, 777).unwrap_err(), TOO_LONG);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_chunk_comes_back_however_it_is_cut(
            runs in proptest::collection::vec((any::<bool>(), 1usize..40_000), 1..8),
            input in 1usize..50_000,
            output in 1usize..50_000,
        ) {
            let mut data = Vec::new();
            for (n, (is_zero, len)) in runs.into_iter().enumerate() {
                data.extend(if is_zero { vec![0; len] } else { noise(len, n as u64 + 1) });
            }
            match encode(&data) {
                None => prop_assert!(is_zero(&data)),
                Some(object) => {
                    let frame = &object.bytes[..object.bytes.len() - STAMP];
                    let (back, sha256) = decode(frame, data.len() as u64, input, output).unwrap();
                    prop_assert!(back == data);
                    prop_assert_eq!(sha256, object.sha256);
                }
            }
        }
    }
}
