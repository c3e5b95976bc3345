//! The objects of a pack, by name. Deltas are resolved once, into a spool file beside the pack.
//!
//! # Invariants
//! - Memory does not depend on the size of objects or on chains of deltas: bases are read from the spool, and results
//!   are written to it as they come.
//! - The spool is never larger than what the pack was charged for.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::ZlibDecoder;
use gix_hash::{Hasher, ObjectId};
use gix_object::Kind;

use super::super::error::{Flaw, RemoteError, Surplus};
use super::Watch;
use super::pack::{Base, Entry, MOST_HELD, Pack, create, naming, varint};

const BUFFER: usize = 64 << 10;

/// Bytes read from the pack at once for one object; most objects are smaller.
const READ: usize = 8 << 10;

/// No entry.
const NONE: u32 = u32::MAX;

pub(super) struct Objects {
    pack: File,
    spool: File,
    entries: Vec<Entry>,
    /// Names and the entries that have them, in order.
    names: Vec<(ObjectId, u32)>,
}

impl Objects {
    /// Resolves all entries to objects.
    pub(super) fn resolve(pack: Pack, scratch: &Path, watch: &Watch<'_>) -> Result<Self, RemoteError> {
        let spool = Spool { file: create(scratch, "objects")?, end: 0, buffer: Vec::with_capacity(BUFFER) };
        let mut children = Children::of(&pack.entries);
        let mut resolver = Resolver { pack: pack.file, entries: pack.entries, spool, watch };
        resolver.all(&mut children)?;
        let Resolver { pack, entries, spool, .. } = resolver;
        let mut names = Vec::with_capacity(entries.len());
        for (number, entry) in entries.iter().enumerate() {
            // An unresolved entry waits for a base that was not sent, or for itself.
            let (_, id) = entry.object.ok_or(Flaw::Missing)?;
            names.push((id, number as u32));
        }
        names.sort_unstable();
        Ok(Self { pack, spool: spool.file, entries, names })
    }

    /// Returns the type and size of an object.
    pub(super) fn find(&self, id: &ObjectId) -> Result<(Kind, u64), RemoteError> {
        let entry = self.entry(id)?;
        let (kind, _) = entry.object.ok_or(Flaw::Missing)?;
        Ok((kind, entry.size))
    }

    /// Reads a small object of this type.
    pub(super) fn read(&self, id: &ObjectId, kind: Kind) -> Result<Vec<u8>, RemoteError> {
        let (found, size) = self.find(id)?;
        if found != kind {
            return Err(Flaw::Pack.into());
        }
        if size > MOST_HELD {
            return Err(Surplus::Trees.into());
        }
        let mut object = Vec::with_capacity(size as usize);
        self.copy(id, |part| {
            object.extend_from_slice(part);
            Ok(())
        })?;
        Ok(object)
    }

    /// Passes a whole object to `each`, a part at a time.
    pub(super) fn copy(
        &self,
        id: &ObjectId,
        each: impl FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        let entry = self.entry(id)?;
        match entry.spooled {
            Some(offset) => parts(At { file: &self.spool, offset }, entry.size, each),
            None => parts(inflated(&self.pack, entry), entry.size, each),
        }
    }

    fn entry(&self, id: &ObjectId) -> Result<&Entry, RemoteError> {
        let at = self.names.binary_search_by_key(id, |(id, _)| *id).map_err(|_| Flaw::Missing)?;
        Ok(&self.entries[self.names[at].1 as usize])
    }
}

/// The entries that are built on others.
struct Children {
    /// For each entry, the first one that is built on it.
    first: Vec<u32>,
    /// For each entry, the next one that is built on the same base.
    next: Vec<u32>,
    /// Entries whose base is given by name, sorted by that name.
    waiting: Vec<(ObjectId, u32)>,
    /// At the first entry of each name in `waiting`: whether those entries were taken.
    found: Vec<bool>,
}

impl Children {
    fn of(entries: &[Entry]) -> Self {
        let mut first = vec![NONE; entries.len()];
        let mut next = first.clone();
        let mut waiting = Vec::new();
        for (number, entry) in (0..).zip(entries) {
            match entry.base {
                Base::None => {}
                Base::Entry(base) => {
                    next[number as usize] = std::mem::replace(&mut first[base as usize], number);
                }
                Base::Id(id) => waiting.push((id, number)),
            }
        }
        waiting.sort_unstable();
        Self { first, next, found: vec![false; waiting.len()], waiting }
    }

    /// Adds all entries that are built on `base`, each paired with it.
    fn push(&mut self, base: u32, id: ObjectId, into: &mut Vec<(u32, u32)>) {
        let mut child = self.first[base as usize];
        while child != NONE {
            into.push((child, base));
            child = self.next[child as usize];
        }
        let start = self.waiting.partition_point(|(waited, _)| *waited < id);
        let mut waiting = self.waiting[start..].iter().take_while(|(waited, _)| *waited == id).peekable();
        // An object that is in the pack a million times resolves its waiting entries once.
        if waiting.peek().is_some() && !std::mem::replace(&mut self.found[start], true) {
            into.extend(waiting.map(|(_, child)| (*child, base)));
        }
    }
}

struct Resolver<'a> {
    pack: File,
    entries: Vec<Entry>,
    spool: Spool,
    watch: &'a Watch<'a>,
}

impl Resolver<'_> {
    /// Resolves the deltas from each whole object on.
    fn all(&mut self, children: &mut Children) -> Result<(), RemoteError> {
        let mut open = Vec::new();
        for root in 0..self.entries.len() as u32 {
            let Entry { base: Base::None, object: Some((kind, id)), .. } = self.entries[root as usize] else {
                continue;
            };
            children.push(root, id, &mut open);
            if !open.is_empty() {
                self.watch.check()?;
                self.spool_whole(root)?;
            }
            while let Some((child, base)) = open.pop() {
                self.watch.check()?;
                let id = self.apply(child, base, kind)?;
                children.push(child, id, &mut open);
            }
        }
        Ok(())
    }

    fn spool_whole(&mut self, number: u32) -> Result<(), RemoteError> {
        let Self { pack, entries, spool, watch } = self;
        let entry = &mut entries[number as usize];
        let start = spool.end;
        parts(inflated(pack, entry), entry.size, |part| {
            watch.check()?;
            spool.write(part)
        })?;
        spool.flush()?;
        entry.spooled = Some(start);
        Ok(())
    }

    /// Makes an object from its base, which is in the spool. Its type is that of the base.
    fn apply(&mut self, child: u32, base: u32, kind: Kind) -> Result<ObjectId, RemoteError> {
        let entry = &self.entries[child as usize];
        let from = &self.entries[base as usize];
        let from = Span { start: from.spooled.ok_or(Flaw::Pack)?, size: from.size };
        let start = self.spool.end;
        let mut target = Target { spool: &mut self.spool, naming: naming(kind, entry.size), left: entry.size };
        let mut delta = BufReader::with_capacity(BUFFER, inflated(&self.pack, entry).take(entry.inflated));
        if number(&mut delta)? != from.size || number(&mut delta)? != entry.size {
            return Err(Flaw::Pack.into());
        }
        while let Some(op) = byte(&mut delta)? {
            self.watch.check()?;
            if op & 0x80 != 0 {
                let (offset, size) = span(op, &mut delta)?;
                target.copy(from, offset, size)?;
            } else if op != 0 {
                target.insert(u64::from(op), &mut delta)?;
            } else {
                return Err(Flaw::Pack.into());
            }
        }
        if target.left != 0 {
            return Err(Flaw::Pack.into());
        }
        let id = target.naming.try_finalize().map_err(|_| Flaw::Pack)?;
        self.spool.flush()?;
        let entry = &mut self.entries[child as usize];
        entry.object = Some((kind, id));
        entry.spooled = Some(start);
        Ok(id)
    }
}

/// A base in the spool.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    size: u64,
}

/// An object that is being made.
struct Target<'a> {
    spool: &'a mut Spool,
    naming: Hasher,
    left: u64,
}

impl Target<'_> {
    /// Appends a part of the base.
    fn copy(&mut self, base: Span, offset: u64, size: u64) -> Result<(), RemoteError> {
        if offset + size > base.size {
            return Err(Flaw::Pack.into());
        }
        self.take(size)?;
        let mut buffer = [0; 8 << 10];
        let (mut at, end) = (base.start + offset, base.start + offset + size);
        while at < end {
            let part = buffer.len().min((end - at) as usize);
            self.spool.file.read_exact_at(&mut buffer[..part], at).map_err(RemoteError::Scratch)?;
            self.put(&buffer[..part])?;
            at += part as u64;
        }
        Ok(())
    }

    /// Appends bytes that the delta holds.
    fn insert(&mut self, size: u64, delta: &mut impl BufRead) -> Result<(), RemoteError> {
        self.take(size)?;
        let mut buffer = [0; 127];
        let bytes = &mut buffer[..size as usize];
        delta.read_exact(bytes).map_err(of_pack)?;
        self.put(bytes)
    }

    fn take(&mut self, size: u64) -> Result<(), RemoteError> {
        self.left = self.left.checked_sub(size).ok_or(Flaw::Pack)?;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        self.naming.update(bytes);
        self.spool.write(bytes)
    }
}

/// A file that grows.
struct Spool {
    file: File,
    /// The length of everything written to it.
    end: u64,
    /// The end of it, which is not yet in the file.
    buffer: Vec<u8>,
}

impl Spool {
    fn write(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RemoteError> {
        let at = self.end - self.buffer.len() as u64;
        self.file.write_all_at(&self.buffer, at).map_err(RemoteError::Scratch)?;
        self.buffer.clear();
        Ok(())
    }
}

/// A file from an offset on.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn inflated<'a>(pack: &'a File, entry: &Entry) -> impl Read + use<'a> {
    ZlibDecoder::new(BufReader::with_capacity(READ, At { file: pack, offset: entry.data }))
}

/// Passes exactly `size` bytes to `each`, a part at a time.
fn parts(
    mut reader: impl Read,
    size: u64,
    mut each: impl FnMut(&[u8]) -> Result<(), RemoteError>,
) -> Result<(), RemoteError> {
    let mut buffer = vec![0; BUFFER.min(size as usize)];
    let mut left = size;
    while left > 0 {
        let part = buffer.len().min(left as usize);
        reader.read_exact(&mut buffer[..part]).map_err(of_pack)?;
        each(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Classifies an error of reading. The pack was inflated before, so other errors than these, which deltas with a wrong
/// end cause, are the disk's.
fn of_pack(error: io::Error) -> RemoteError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Flaw::Pack.into(),
        _ => RemoteError::Scratch(error),
    }
}

/// Returns the next byte, if there is one.
fn byte(delta: &mut impl BufRead) -> Result<Option<u8>, RemoteError> {
    let byte = delta.fill_buf().map_err(of_pack)?.first().copied();
    delta.consume(usize::from(byte.is_some()));
    Ok(byte)
}

fn number(delta: &mut impl BufRead) -> Result<u64, RemoteError> {
    let mut digits = Vec::new();
    loop {
        let digit = byte(delta)?.ok_or(Flaw::Pack)?;
        digits.push(digit);
        if digit & 0x80 == 0 || digits.len() > 9 {
            return varint(&mut &*digits);
        }
    }
}

/// Reads the offset and size of a copy: `op` says which of their seven bytes follow; the others are zero.
fn span(op: u8, delta: &mut impl BufRead) -> Result<(u64, u64), RemoteError> {
    let mut parts = [0; 7];
    for (bit, part) in parts.iter_mut().enumerate() {
        if op & (1 << bit) != 0 {
            *part = byte(delta)?.ok_or(Flaw::Pack)?;
        }
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte));
    let (offset, size) = parts.split_at(4);
    Ok((number(offset), if number(size) == 0 { 0x10000 } else { number(size) }))
}
