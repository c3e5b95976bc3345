//! Space that is kept for making room: a file beside the database that is given up when the disk is full.
//!
//! Removing writes, too: the log, the entry of a folder. So a disk without a free byte could not be emptied by those
//! whose things fill it.
//!
//! # Invariants
//! - While little is left, or the file is given up, what only adds is refused ([`Ballast::admit`]); what removes, ends
//!   or tells a state is carried out. The file comes back as soon as there is room for it.
//!
//! Everything here may block, for about as long as `SQLite`'s own writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use crate::domain::ByteCount;

/// With less than this part of the ballast's size free, the disk counts as full.
const FULL_PART: u64 = 4;

/// What is written to see whether anything can be.
const MARK: &[u8] = b"This space is given up when the disk is full, so that volumes can be removed then.\n";

/// The space kept for one database. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ballast(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    size: u64,
    file: Mutex<File>,
    is_out: AtomicBool,
}

impl Ballast {
    /// No space is kept, and nothing is refused: for who works beside a server.
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps so much space in this file, which an earlier process may have left; 0 keeps none. A disk that is full now
    /// is no error: the space is taken when there is room.
    pub fn open(path: &Path, size: ByteCount) -> io::Result<Self> {
        if size == ByteCount::ZERO {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(Self::none()),
            };
        }
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let held = Held { size: size.get(), file: Mutex::new(file), is_out: AtomicBool::new(true) };
        let is_there = {
            let file = held.file();
            let metadata = file.metadata()?;
            let is_there = metadata.len() == held.size && metadata.blocks() * 512 >= held.size;
            if !is_there {
                file.set_len(0)?;
            }
            is_there
        };
        held.is_out.store(!is_there, Ordering::Release);
        let ballast = Self(Some(Arc::new(held)));
        ballast.make_room();
        let _ = ballast.take_back();
        Ok(ballast)
    }

    /// Whether the space is given up.
    pub fn is_out(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.is_out.load(Ordering::Acquire))
    }

    /// Whether what only adds may be written.
    pub(super) fn admit(&self) -> io::Result<()> {
        let Some(held) = &self.0 else { return Ok(()) };
        self.take_back()?;
        if held.free()? < held.size / FULL_PART { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Gives the space up if the disk is full, for a write that makes room.
    pub(super) fn make_room(&self) {
        let Some(held) = &self.0 else { return };
        if held.free().is_ok_and(|free| free < held.size / FULL_PART) {
            self.give_up();
        }
    }

    /// Gives the space up; whether there was any.
    pub(super) fn give_up(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        let file = held.file();
        if held.is_out.load(Ordering::Acquire) || file.set_len(0).is_err() {
            return false;
        }
        held.is_out.store(true, Ordering::Release);
        true
    }

    /// Takes the space again if it is given up and there is room for it.
    fn take_back(&self) -> io::Result<()> {
        let Some(held) = &self.0 else { return Ok(()) };
        if !held.is_out.load(Ordering::Acquire) {
            return Ok(());
        }
        let file = held.file();
        if !held.is_out.load(Ordering::Acquire) {
            return Ok(());
        }
        if free_beside(&file)? < held.size + held.size / FULL_PART {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Err(error) = allocate(&file, 0, held.size) {
            // What was allocated of it is not kept: it is all or nothing.
            let _ = file.set_len(0);
            return Err(error);
        }
        held.is_out.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether files can be written, and more than what removes.
    pub(super) fn check(&self) -> io::Result<()> {
        let Some(held) = &self.0 else { return Ok(()) };
        self.admit()?;
        held.file().write_all_at(MARK, 0)
    }

    /// Whether the file system refuses one more block to whom it belongs: a quota of it shows nowhere else, and
    /// `SQLite` tells it as an error of the disk.
    pub(super) fn is_full(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        let file = held.file();
        let Ok(length) = file.metadata().map(|metadata| metadata.len()) else { return false };
        let refused = allocate(&file, length, 1 << 16).err();
        let _ = file.set_len(length);
        refused.is_some_and(|error| is_full(&error))
    }
}

impl Held {
    fn file(&self) -> MutexGuard<'_, File> {
        // Its length is set or not; there is nothing between.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) -> io::Result<u64> {
        free_beside(&self.file())
    }
}

/// The free bytes of the file system of this file.
fn free_beside(file: &File) -> io::Result<u64> {
    let told = fstatvfs(file)?;
    Ok(told.f_bavail.saturating_mul(told.f_frsize))
}

/// Whether this says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Allocates blocks; by writing them where the file system cannot otherwise, with bytes that do not compress.
fn allocate(file: &File, from: u64, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        other => return Ok(other?),
    }
    let mut part = vec![0; 1 << 16];
    let mut end = from;
    while end < from + length {
        rand::fill(&mut part[..]);
        let most = usize::try_from(from + length - end).unwrap_or(usize::MAX).min(part.len());
        file.write_all_at(&part[..most], end)?;
        end += most as u64;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(dir: &tempfile::TempDir) -> Ballast {
        Ballast::open(&dir.path().join("ballast"), ByteCount::mib(1)).unwrap()
    }

    fn blocks(dir: &tempfile::TempDir) -> u64 {
        std::fs::metadata(dir.path().join("ballast")).unwrap().blocks() * 512
    }

    #[test]
    fn the_space_is_on_the_disk_until_it_is_given_up_and_comes_back_with_the_room() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = kept(&dir);
        assert!(!ballast.is_out() && blocks(&dir) >= 1 << 20);
        ballast.make_room();
        assert!(!ballast.is_out(), "there is room");
        assert!(ballast.give_up() && !ballast.give_up(), "once");
        assert!(ballast.is_out() && blocks(&dir) == 0);
        ballast.check().unwrap();
        assert!(!ballast.is_out() && blocks(&dir) >= 1 << 20);
        assert!(!ballast.is_full());
        drop(ballast);
        assert!(!kept(&dir).is_out(), "of the process before");
        Ballast::open(&dir.path().join("ballast"), ByteCount::ZERO).unwrap().check().unwrap();
        assert!(!dir.path().join("ballast").exists());
    }

    #[test]
    fn a_quota_of_the_file_system_is_a_full_disk() {
        for number in [Errno::DQUOT, Errno::NOSPC] {
            assert!(is_full(&number.into()), "{number}");
        }
        assert!(!is_full(&Errno::IO.into()));
    }
}
