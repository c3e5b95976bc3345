//! Receives a pack: writes it to a file, splits it into entries, and names its whole objects.
//!
//! # Invariants
//! - The declared size of an entry is checked before it is inflated, and is then its exact size.
//! - Only the list of entries is held; data passes through a buffer.
//! - The pack matches the checksum at its end.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use flate2::{Decompress, FlushDecompress, Status};
use gix_hash::{Hasher, ObjectId};
use gix_object::Kind;

use super::super::error::{Flaw, RemoteError, Surplus};
use super::Watch;

/// The most entries of a pack. Each takes about 200 bytes of memory, including its resolution.
pub(super) const MOST_OBJECTS: u32 = 1_000_000;

/// The most bytes of a directory, commit or tag, which are read into memory. A directory of 300,000 files has as much.
pub(super) const MOST_HELD: u64 = 16 << 20;

/// The bytes that all objects of a pack may have beyond twice the bytes of the policy. Files are in the tree at least
/// once; the rest is for directories, commits, and the instructions of deltas.
const BESIDES: u64 = 64 << 20;

const HASH: usize = 20;
const BUFFER: usize = 64 << 10;

/// The most bytes of a delta's two sizes.
const DELTA_HEAD: usize = 20;

/// The base of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The entry is whole.
    None,
    /// An earlier entry, by its number.
    Entry(u32),
    /// An object by its name, which may come later.
    Id(ObjectId),
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// The offsets in the pack of the entry and of its compressed data.
    start: u64,
    pub(super) data: u64,
    /// The inflated length of the data: of the object, or of the instructions of the delta.
    pub(super) inflated: u64,
    /// The length of the object.
    pub(super) size: u64,
    pub(super) base: Base,
    /// Its type and name; those of a delta are unknown before its base is resolved.
    pub(super) object: Option<(Kind, ObjectId)>,
    /// The offset of the object in the spool, if it is there.
    pub(super) spooled: Option<u64>,
}

/// A pack in a file.
pub(super) struct Pack {
    pub(super) file: File,
    pub(super) entries: Vec<Entry>,
}

impl Pack {
    /// Reads a pack of at most `most` bytes, and of at most twice as many and [`BESIDES`] when inflated.
    pub(super) fn receive(
        reader: &mut dyn BufRead,
        scratch: &Path,
        most: u64,
        watch: &Watch<'_>,
    ) -> Result<Self, RemoteError> {
        let file = create(scratch, "pack")?;
        let mut receiver = Receiver {
            reader,
            file: BufWriter::with_capacity(BUFFER, file),
            hasher: gix_hash::hasher(gix_hash::Kind::Sha1),
            at: 0,
            most,
            watch,
        };
        let [b'P', b'A', b'C', b'K', version @ ..] = receiver.bytes::<8>()? else { return Err(Flaw::Pack.into()) };
        if !matches!(u32::from_be_bytes(version), 2 | 3) {
            return Err(Flaw::Pack.into());
        }
        let count = u32::from_be_bytes(receiver.bytes()?);
        if count > MOST_OBJECTS {
            return Err(Surplus::Objects.into());
        }
        // The count is not trusted: the list grows as entries come.
        let mut entries = Vec::new();
        let mut inflater = Inflater { state: Decompress::new(true), buffer: vec![0; BUFFER].into() };
        let mut left = most.saturating_mul(2).saturating_add(BESIDES);
        for _ in 0..count {
            let entry = receiver.entry(&entries, &mut inflater, &mut left)?;
            entries.push(entry);
        }
        receiver.trailer()?;
        let file = receiver.file.into_inner().map_err(|error| RemoteError::Scratch(error.into_error()))?;
        Ok(Self { file, entries })
    }
}

/// Creates a file in the scratch directory, for writing and reading.
pub(super) fn create(scratch: &Path, name: &str) -> Result<File, RemoteError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).open(scratch.join(name)).map_err(RemoteError::Scratch)
}

struct Inflater {
    state: Decompress,
    buffer: Box<[u8]>,
}

struct Receiver<'r> {
    reader: &'r mut dyn BufRead,
    file: BufWriter<File>,
    hasher: Hasher,
    /// Bytes of the pack read so far.
    at: u64,
    most: u64,
    watch: &'r Watch<'r>,
}

impl Receiver<'_> {
    fn entry(&mut self, before: &[Entry], inflater: &mut Inflater, left: &mut u64) -> Result<Entry, RemoteError> {
        let start = self.at;
        let (kind, declared) = self.head()?;
        let (kind, base) = match kind {
            1 => (Some(Kind::Commit), Base::None),
            2 => (Some(Kind::Tree), Base::None),
            3 => (Some(Kind::Blob), Base::None),
            4 => (Some(Kind::Tag), Base::None),
            6 => {
                let base = start.checked_sub(self.distance()?).ok_or(Flaw::Pack)?;
                let base = before.binary_search_by_key(&base, |entry| entry.start).map_err(|_| Flaw::Pack)?;
                (None, Base::Entry(base as u32))
            }
            7 => (None, Base::Id(ObjectId::Sha1(self.bytes::<HASH>()?))),
            _ => return Err(Flaw::Pack.into()),
        };
        let data = self.at;
        self.charge(left, declared)?;
        match kind {
            Some(Kind::Blob) if declared > self.most => return Err(self.too_large().into()),
            Some(Kind::Commit | Kind::Tree | Kind::Tag) if declared > MOST_HELD => return Err(Surplus::Trees.into()),
            _ => {}
        }
        let mut entry = Entry { start, data, inflated: declared, size: declared, base, object: None, spooled: None };
        if let Some(kind) = kind {
            let mut naming = naming(kind, declared);
            self.inflate(inflater, declared, |part| naming.update(part))?;
            entry.object = Some((kind, naming.try_finalize().map_err(|_| Flaw::Pack)?));
        } else {
            let mut head = Vec::with_capacity(DELTA_HEAD);
            self.inflate(inflater, declared, |part| {
                head.extend_from_slice(&part[..part.len().min(DELTA_HEAD - head.len())]);
            })?;
            let mut head = &*head;
            varint(&mut head)?;
            entry.size = varint(&mut head)?;
            self.charge(left, entry.size)?;
        }
        Ok(entry)
    }

    /// Subtracts a declared size from what is left for all entries.
    fn charge(&self, left: &mut u64, declared: u64) -> Result<(), RemoteError> {
        *left = left.checked_sub(declared).filter(|_| declared <= self.most.max(MOST_HELD)).ok_or(self.too_large())?;
        Ok(())
    }

    const fn too_large(&self) -> Surplus {
        Surplus::Bytes(self.most)
    }

    /// Reads the type and size of an entry.
    fn head(&mut self) -> Result<(u8, u64), RemoteError> {
        let [mut byte] = self.bytes()?;
        let kind = (byte >> 4) & 7;
        let mut size = u64::from(byte & 15);
        let mut shift = 4;
        while byte & 0x80 != 0 {
            [byte] = self.bytes()?;
            // The largest file has 63 bits.
            if shift > 56 {
                return Err(Flaw::Pack.into());
            }
            size |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok((kind, size))
    }

    /// Reads the distance from an entry back to its base.
    fn distance(&mut self) -> Result<u64, RemoteError> {
        let [mut byte] = self.bytes()?;
        let mut distance = u64::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            [byte] = self.bytes()?;
            if distance >= 1 << 56 {
                return Err(Flaw::Pack.into());
            }
            distance = ((distance + 1) << 7) | u64::from(byte & 0x7f);
        }
        Ok(distance)
    }

    /// Inflates exactly `size` bytes.
    fn inflate(&mut self, inflater: &mut Inflater, size: u64, mut each: impl FnMut(&[u8])) -> Result<(), RemoteError> {
        let Inflater { state, buffer } = inflater;
        state.reset(true);
        loop {
            self.watch.check()?;
            let input = self.reader.fill_buf().map_err(RemoteError::of_read)?;
            if input.is_empty() {
                return Err(RemoteError::BrokeOff(None));
            }
            let (read, written) = (state.total_in(), state.total_out());
            let status = state.decompress(input, buffer, FlushDecompress::None).map_err(|_| Flaw::Pack)?;
            let read = (state.total_in() - read) as usize;
            let written = (state.total_out() - written) as usize;
            if state.total_out() > size {
                return Err(Flaw::Pack.into());
            }
            each(&buffer[..written]);
            self.consume(read)?;
            if status == Status::StreamEnd {
                return if state.total_out() == size { Ok(()) } else { Err(Flaw::Pack.into()) };
            }
            if read == 0 && written == 0 {
                return Err(Flaw::Pack.into());
            }
        }
    }

    /// Consumes bytes of the reader's buffer: hashes them and writes them to the file.
    fn consume(&mut self, bytes: usize) -> Result<(), RemoteError> {
        let taken = &self.reader.fill_buf().map_err(RemoteError::of_read)?[..bytes];
        self.hasher.update(taken);
        self.file.write_all(taken).map_err(RemoteError::Scratch)?;
        self.reader.consume(bytes);
        self.at += bytes as u64;
        if self.at > self.most { Err(self.too_large().into()) } else { Ok(()) }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RemoteError> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            let buffered = self.reader.fill_buf().map_err(RemoteError::of_read)?;
            if buffered.is_empty() {
                return Err(RemoteError::BrokeOff(None));
            }
            let part = buffered.len().min(N - filled);
            bytes[filled..filled + part].copy_from_slice(&buffered[..part]);
            self.consume(part)?;
            filled += part;
        }
        Ok(bytes)
    }

    fn trailer(&mut self) -> Result<(), RemoteError> {
        let sum = self.hasher.clone().try_finalize().map_err(|_| Flaw::Pack)?;
        if sum == ObjectId::Sha1(self.bytes()?) { Ok(()) } else { Err(Flaw::Pack.into()) }
    }
}

/// Returns a hasher for the name of an object, which begins with its type and size. Objects made to collide with
/// another are detected at the end.
pub(super) fn naming(kind: Kind, size: u64) -> Hasher {
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(kind.as_bytes());
    hasher.update(format!(" {size}\0").as_bytes());
    hasher
}

/// Splits a size off the beginning of a delta.
pub(super) fn varint(head: &mut &[u8]) -> Result<u64, RemoteError> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = head.split_first().ok_or(Flaw::Pack)?;
        *head = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Flaw::Pack.into())
}
