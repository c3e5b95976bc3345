//! Packs a tree into a tar stream: pax format, the same bytes for the same tree.
//!
//! A directory comes before its entries, which are in the byte order of their names. The root is `./`. Modes, owners
//! (numbers), modification times to the nanosecond, extended attributes of files and directories, hard links, symbolic
//! links, pipes, devices, and holes (GNU's PAX format 1.0) are kept. Sockets are left out, and counted.
//!
//! # Invariants
//! - The tree does not change meanwhile. If a file does, that is an error, and the stream ends without its end marker,
//!   so that no reader takes it for complete.
//! - In a tree with digests, each file and link is compared as it is packed, and their number at the end. A difference
//!   is an error too; the last bytes of a file are written only after its comparison.
//! - No link is followed, no mount is entered, and no device or pipe is opened.
//! - `unpack`, GNU tar and Python read the output alike.

mod attributes;
mod output;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    Advice, AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fadvise, fstat, major, minor, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;
use tar::EntryType;

use self::output::{Output, Written};
use super::digests::{Digest, Digests, DigestsError, FileDigester};
use super::directories::BENEATH;
use super::error::shown;
use super::pax::Time;
use super::sparse::write_map;
use crate::domain::Extent;

/// Directories that are kept open; their ancestors are opened again on the way back.
const KEPT: usize = 32;

/// The unit in which holes are looked for.
const GRANULE: u64 = 4096;

/// The memory for one name, apart from its bytes.
const NAME_COST: usize = 48;

/// Limits of packing.
#[derive(Clone, Copy, Debug)]
pub struct PackLimits {
    /// Bytes of memory for names: those of directories that are being read, and those of files with further hard links.
    pub memory: usize,
    /// Runs of data in one sparse file. If there are more, small holes are packed as zeros.
    pub extents: usize,
}

impl Default for PackLimits {
    /// Enough for directories of a million files, and for as many runs as are unpacked.
    fn default() -> Self {
        Self { memory: 64 << 20, extents: 1 << 18 }
    }
}

/// Totals of a finished pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Members of the archive.
    pub members: u64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Sockets, which tar cannot represent.
    pub skipped: u64,
}

/// A tree that was not packed, or only in part.
#[derive(Debug, thiserror::Error)]
#[error("\"{name}\": {cause}")]
pub struct PackError {
    /// The path at which it failed, escaped and cut.
    pub name: String,
    /// The cause.
    #[source]
    pub cause: PackCause,
}

/// Why a tree was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackCause {
    /// The writer failed: the peer broke off, or the work was cancelled.
    #[error("the stream broke off")]
    Sink(#[source] io::Error),
    /// The disk failed.
    #[error("the file system failed")]
    Disk(#[source] io::Error),
    /// A file changed while it was read.
    #[error("it changed while it was read")]
    Changed,
    /// The tree differs from what was stored.
    #[error("{0}")]
    Damaged(&'static str),
    /// The digests of the tree cannot be read.
    #[error("what it was stored with cannot be read")]
    Digests(#[source] DigestsError),
    /// See [`PackLimits::memory`].
    #[error("too many names to hold")]
    Memory,
}

impl PackError {
    /// Describes the damage of the stored tree, if that is the cause.
    pub fn damage(&self) -> Option<String> {
        let why = match &self.cause {
            PackCause::Damaged(why) => why,
            PackCause::Disk(error) | PackCause::Digests(DigestsError::Io(error))
                if error.raw_os_error() == Some(Errno::IO.raw_os_error()) =>
            {
                "the disk cannot read it"
            }
            _ => return None,
        };
        Some(format!("\"{}\": {why}", self.name))
    }
}

impl From<DigestsError> for PackCause {
    fn from(error: DigestsError) -> Self {
        match error {
            DigestsError::Damaged => Self::Damaged("the digests of the volume are damaged"),
            error => Self::Digests(error),
        }
    }
}

impl From<Errno> for PackCause {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}

/// Packs everything beneath `root`, and the mode and time of `root` itself; compares it with its digests, if it has
/// any.
pub fn pack(
    root: impl AsFd,
    digests: Option<&Digests>,
    writer: impl Write,
    limits: &PackLimits,
) -> Result<Packed, PackError> {
    pack_from(root.as_fd(), digests.map(|digests| Checks::new(digests, None)), writer, limits)
}

/// Compares everything beneath `root` with its digests, as [`pack`] does, but reads from the disk, not from the page
/// cache. `pace` is called with the number of bytes read, at least once for each MiB; an error of it ends the work.
///
/// `compared` is the number of files and links that earlier checks have compared, and is increased here. Those are only
/// checked to exist.
pub fn check(
    root: impl AsFd,
    digests: &Digests,
    limits: &PackLimits,
    compared: &AtomicU64,
    pace: impl FnMut(u64) -> io::Result<()>,
) -> Result<Packed, PackError> {
    pack_from(root.as_fd(), Some(Checks::new(digests, Some(compared))), Paced(pace), limits)
}

/// A writer that discards the archive, and paces the reads.
struct Paced<P>(P);

impl<P: FnMut(u64) -> io::Result<()>> Write for Paced<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Callers would retry a write after `Interrupted`.
        (self.0)(bytes.len() as u64).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack_from(
    root: BorrowedFd<'_>,
    checks: Option<Checks<'_>>,
    writer: impl Write,
    limits: &PackLimits,
) -> Result<Packed, PackError> {
    let mut packer = Packer {
        root,
        checks,
        limits: *limits,
        output: Output::new(writer),
        levels: Vec::new(),
        links: HashMap::new(),
        held: 0,
        done: Packed::default(),
    };
    let mut path = Vec::new();
    packer.tree(&mut path).map_err(|cause| PackError { name: shown(&path), cause })?;
    Ok(packer.done)
}

/// The digests that a tree is compared with, and the state of the comparison.
struct Checks<'a> {
    digests: &'a Digests,
    /// The number of paths that were found.
    found: u64,
    /// The number of paths that earlier checks have compared; the order of a tree is always the same.
    before: u64,
    /// The count to increase, when the tree is checked and not packed: see [`check`].
    compared: Option<&'a AtomicU64>,
}

impl<'a> Checks<'a> {
    fn new(digests: &'a Digests, compared: Option<&'a AtomicU64>) -> Self {
        let before = compared.map_or(0, |compared| compared.load(Ordering::Relaxed));
        Self { digests, found: 0, before, compared }
    }

    /// Whether the path that was found last, and everything up to the next one, was compared earlier.
    fn is_behind(&self) -> bool {
        0 < self.before && self.found <= self.before
    }

    /// Records that the path that was found last is as it was stored.
    fn note_compared(&self) {
        if let Some(compared) = self.compared {
            compared.fetch_max(self.found, Ordering::Relaxed);
        }
    }

    /// Returns the digest that a path must have.
    fn expect(&mut self, path: &[u8]) -> Result<Digest, PackCause> {
        let found = self.digests.find(path)?.ok_or(PackCause::Damaged("it was not stored"))?;
        self.found += 1;
        Ok(found)
    }

    /// Checks that a link has its stored target.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), PackCause> {
        if self.expect(path)? != Digest::of_link(target) {
            return Err(DIFFERS);
        }
        self.note_compared();
        Ok(())
    }

    /// Checks that no path is missing.
    fn finish(&self) -> Result<(), PackCause> {
        if self.found == self.digests.count() {
            Ok(())
        } else {
            Err(PackCause::Damaged("files or links that were stored are missing"))
        }
    }
}

const DIFFERS: PackCause = PackCause::Damaged("its bytes are not those that were stored");

/// A directory that is being read.
struct Level {
    path: Rc<[u8]>,
    fd: Option<OwnedFd>,
    /// Names that are left to pack; the next one is the last.
    names: Vec<Box<[u8]>>,
}

/// A file with several names, one of which was packed.
struct Link {
    above: Rc<[u8]>,
    name: Box<[u8]>,
    /// The number of names that are still to come.
    left: u64,
    digest: Option<Digest>,
}

struct Packer<'a, W> {
    root: BorrowedFd<'a>,
    checks: Option<Checks<'a>>,
    limits: PackLimits,
    output: Output<W>,
    levels: Vec<Level>,
    links: HashMap<(u64, u64), Link>,
    held: usize,
    done: Packed,
}

impl<W: Write> Packer<'_, W> {
    /// Packs the whole tree. When it fails, `path` is the one at which it did.
    fn tree(&mut self, path: &mut Vec<u8>) -> Result<(), PackCause> {
        self.directory(open_directory(self.root, b".")?, path)?;
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            self.held -= name.len() + NAME_COST;
            path.clear();
            path.extend_from_slice(&level.path);
            let fd = match level.fd.take() {
                Some(fd) => fd,
                None => open_directory(self.root, path)?,
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let at = self.levels.len() - 1;
            self.one(&fd, &name, path)?;
            self.levels[at].fd = Some(fd);
            if let Some(above) = self.levels.len().checked_sub(KEPT + 1) {
                self.levels[above].fd = None;
            }
        }
        path.clear();
        self.checks.as_ref().map_or(Ok(()), Checks::finish)?;
        self.done.bytes = self.output.finish()?;
        Ok(())
    }

    fn one(&mut self, above: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), PackCause> {
        let stat = statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.directory(open_directory(above.as_fd(), name)?, path),
            FileType::RegularFile => self.file(above, name, path, &stat),
            FileType::Symlink => {
                let target = readlinkat(above, name, Vec::new())?;
                self.checks.as_mut().map_or(Ok(()), |checks| checks.link(path, target.to_bytes()))?;
                self.member(&Written { link: target.to_bytes(), ..Written::new(EntryType::Symlink, path, &stat) })
            }
            FileType::Fifo => self.member(&Written::new(EntryType::Fifo, path, &stat)),
            kind @ (FileType::BlockDevice | FileType::CharacterDevice) => {
                let kind = if kind == FileType::BlockDevice { EntryType::Block } else { EntryType::Char };
                let device = (major(stat.st_rdev), minor(stat.st_rdev));
                self.member(&Written { device, ..Written::new(kind, path, &stat) })
            }
            FileType::Socket | FileType::Unknown => {
                self.done.skipped += 1;
                Ok(())
            }
        }
    }

    fn directory(&mut self, fd: OwnedFd, path: &[u8]) -> Result<(), PackCause> {
        let stat = fstat(&fd)?;
        let attributes = attributes::read(&fd)?;
        let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        name.push(b'/');
        self.member(&Written { attributes, ..Written::new(EntryType::Directory, &name, &stat) })?;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.hold(name.len())?;
                names.push(Box::from(name));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { path: path.into(), fd: Some(fd), names });
        Ok(())
    }

    fn file(&mut self, above: &OwnedFd, name: &[u8], path: &[u8], seen: &Stat) -> Result<(), PackCause> {
        if seen.st_nlink > 1 && self.linked(name, path, seen)? {
            return Ok(());
        }
        // If it has become a pipe, `NONBLOCK` keeps this from waiting for the other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat2(above, name, flags, Mode::empty(), BENEATH)?);
        let stat = fstat(&file)?;
        if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
            return Err(PackCause::Changed);
        }
        let size = u64::try_from(stat.st_size).map_err(|_| PackCause::Changed)?;
        let expected = self.checks.as_mut().map(|checks| checks.expect(path)).transpose()?;
        if expected.is_some_and(|expected| expected.size != size) {
            return Err(PackCause::Damaged("its size is not the one that was stored"));
        }
        if self.is_behind() {
            return Ok(());
        }
        if self.is_checking() {
            // Cached bytes prove nothing about the disk. Pages that cannot be dropped are read as they are.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut member =
            Written { attributes: attributes::read(&file)?, ..Written::new(EntryType::Regular, path, &stat) };
        let whole = [Extent { offset: 0, len: size }];
        // There are holes if the file has fewer blocks than its size needs.
        let holes = u64::try_from(stat.st_blocks).unwrap_or(0) < size / 512;
        let extents = if holes { self.extents(&file, size)? } else { None };
        if let Some(extents) = &extents {
            let map = map_of(extents, size);
            let data: u64 = extents.iter().map(|extent| extent.len).sum();
            member.sparse = Some(size);
            member.size = map.len() as u64 + data;
            self.member(&member)?;
            self.output.write(&map)?;
        } else {
            member.size = size;
            self.member(&member)?;
        }
        let mut digester = expected.map(|_| FileDigester::of_size(size));
        for extent in extents.as_deref().unwrap_or(&whole) {
            self.output.copy(*extent, |into, offset| {
                let read = file.read_at(into, offset)?;
                if let Some(digester) = &mut digester {
                    digester.zeros_to(offset);
                    digester.update(&into[..read]);
                }
                Ok(read)
            })?;
        }
        let digest = digester.map(|mut digester| {
            digester.zeros_to(size);
            digester.finish()
        });
        if digest != expected {
            return Err(DIFFERS);
        }
        if let Some(checks) = &self.checks {
            checks.note_compared();
        }
        if self.is_checking() {
            // Nobody else has asked for these pages.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        self.output.pad()?;
        let after = fstat(&file)?;
        let state = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if state(&after) == state(&stat) { Ok(()) } else { Err(PackCause::Changed) }
    }

    /// Packs a file as a hard link, if another name of it was packed; otherwise records this name.
    fn linked(&mut self, name: &[u8], path: &[u8], stat: &Stat) -> Result<bool, PackCause> {
        let key = (stat.st_dev, stat.st_ino);
        let Some(mut link) = self.links.remove(&key) else {
            self.hold(name.len())?;
            let digest = self.checks.as_ref().map_or(Ok(None), |checks| checks.digests.find(path))?;
            let above = self.levels.last().map_or_else(|| [].into(), |level| Rc::clone(&level.path));
            self.links.insert(key, Link { above, name: name.into(), left: stat.st_nlink - 1, digest });
            return Ok(false);
        };
        if let Some(checks) = &mut self.checks {
            if link.digest != Some(checks.expect(path)?) {
                return Err(DIFFERS);
            }
            checks.note_compared();
        }
        let target = if link.above.is_empty() { link.name.to_vec() } else { [&*link.above, &link.name].join(&b'/') };
        self.member(&Written { link: &target, ..Written::new(EntryType::Link, path, stat) })?;
        link.left -= 1;
        if link.left == 0 {
            self.held -= link.name.len() + NAME_COST;
        } else {
            self.links.insert(key, link);
        }
        Ok(true)
    }

    /// Finds the runs of data of a file, in whole granules; `None` if it has no holes.
    fn extents(&self, file: &File, size: u64) -> Result<Option<Vec<Extent>>, PackCause> {
        let mut granule = GRANULE;
        loop {
            if let Some(extents) = runs(file, size, granule, self.limits.extents)? {
                let data: u64 = extents.iter().map(|extent| extent.len).sum();
                return Ok((data < size).then_some(extents));
            }
            granule = granule.saturating_mul(4);
        }
    }

    fn member(&mut self, member: &Written<'_>) -> Result<(), PackCause> {
        self.done.members += 1;
        if self.is_behind() {
            return Ok(());
        }
        self.output.member(member)
    }

    fn is_checking(&self) -> bool {
        self.checks.as_ref().is_some_and(|checks| checks.compared.is_some())
    }

    fn is_behind(&self) -> bool {
        self.checks.as_ref().is_some_and(Checks::is_behind)
    }

    fn hold(&mut self, name: usize) -> Result<(), PackCause> {
        self.held += name + NAME_COST;
        if self.held > self.limits.memory { Err(PackCause::Memory) } else { Ok(()) }
    }
}

fn open_directory(parent: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, path, flags, Mode::empty(), BENEATH)
}

/// Finds the runs of data, in whole granules; `None` if there are more than `most`.
fn runs(file: &File, size: u64, granule: u64, most: usize) -> Result<Option<Vec<Extent>>, PackCause> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(vec![Extent { offset: 0, len: size }])),
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        let start = data / granule * granule;
        let end = hole.checked_next_multiple_of(granule).unwrap_or(size).min(size);
        if let Some(last) = runs.last_mut().filter(|last| last.offset + last.len >= start) {
            last.len = end.max(last.offset + last.len) - last.offset;
        } else if runs.len() == most {
            return Ok(None);
        } else if start < end {
            runs.push(Extent { offset: start, len: end - start });
        }
        at = hole.max(at + 1);
    }
    Ok(Some(runs))
}

/// The map that comes before the data. An empty run gives the end of a file that ends in a hole, as in GNU tar.
fn map_of(extents: &[Extent], size: u64) -> Vec<u8> {
    let end = extents.last().map_or(0, |last| last.offset + last.len);
    if end == size {
        return write_map(extents);
    }
    write_map(&[extents, &[Extent { offset: size, len: 0 }]].concat())
}

fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}
