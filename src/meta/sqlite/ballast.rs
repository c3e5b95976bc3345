//! Space that is kept for making room: a file beside the database that is removed when the disk is full.
//!
//! Removing writes, too: the log, the entry of a folder. So a disk without a free byte could not be emptied by those
//! whose things fill it.
//!
//! # Invariants
//! - While little is left, or the file is gone, what only adds is refused ([`Ballast::admit`]); what removes, ends
//!   or tells a state is carried out. The file comes back as soon as there is room for it.
//! - What is given up is the database's alone: while the file is gone, a [`Shortage`] has those refused who write bytes
//!   of volumes. Else what fills the disk would take it within a moment.
//!
//! Everything here may block, for about as long as `SQLite`'s own writes.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, fstatvfs, open, openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::domain::{ByteCount, Shortage};

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
    folder: File,
    /// The file in it. Nobody has it open for long: it is given up by being unlinked, which Btrfs does for who is at
    /// the end of their quota, too. It refuses them a new length, a file and another name.
    name: CString,
    /// What is tried to see whether there is room.
    probe: CString,
    /// One at a time takes the space again, or tries for room.
    turn: Mutex<()>,
    /// On while the space is given up.
    shortage: Shortage,
}

impl Ballast {
    /// No space is kept, and nothing is refused: for who works beside a server.
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps so much space in this file, which an earlier process may have left; 0 keeps none. A disk that is full now
    /// is no error: the space is taken when there is room.
    pub fn open(path: &Path, size: ByteCount) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let held = Held {
            size: size.get(),
            folder: open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into(),
            name: CString::new(name.as_bytes())?,
            probe: CString::new([name.as_bytes(), b".probe"].concat())?,
            turn: Mutex::default(),
            shortage: Shortage::default(),
        };
        held.shortage.set(true);
        held.remove(&held.probe)?;
        if held.size > 0 && held.taken().is_some_and(|taken| taken >= held.size) {
            held.shortage.set(false);
        } else {
            held.remove(&held.name)?;
        }
        if held.size == 0 {
            return Ok(Self::none());
        }
        let ballast = Self(Some(Arc::new(held)));
        ballast.make_room();
        let _ = ballast.take_back();
        if ballast.is_refused() {
            // The database cannot be opened without room.
            ballast.give_up();
        }
        Ok(ballast)
    }

    /// Whether space is kept, also while it is given up.
    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// What is on while the space is given up; never where none is kept.
    pub fn shortage(&self) -> Shortage {
        self.0.as_ref().map(|held| held.shortage.clone()).unwrap_or_default()
    }

    /// Whether the space is given up.
    pub(super) fn is_out(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.shortage.is_on())
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

    /// Gives the space up; whether there was any. Takes no lock and allocates nothing: the handler of a signal does it.
    pub(super) fn give_up(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        // Before, so that nobody else has what becomes free; and after, since who takes the space again turns this off
        // and looks for the file last.
        held.shortage.set(true);
        held.shortage.note();
        let was_there = unlinkat(&held.folder, held.name.as_c_str(), AtFlags::empty()).is_ok();
        held.shortage.set(true);
        was_there
    }

    /// Takes the space again if it is given up and there is room for it.
    fn take_back(&self) -> io::Result<()> {
        let Some(held) = &self.0 else { return Ok(()) };
        if !held.shortage.is_on() {
            return Ok(());
        }
        let _turn = held.turn();
        if !held.shortage.is_on() {
            return Ok(());
        }
        if held.free()? < held.size + held.size / FULL_PART {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // What must be free beside it is tried for, too: a quota shows nowhere.
        let taken = held.file(&held.name, OFlags::CREATE).and_then(|file| {
            allocate(&file, 0, held.size + held.size / FULL_PART)?;
            file.set_len(held.size)
        });
        if let Err(error) = taken {
            // What was allocated of it is not kept: it is all or nothing.
            let _ = held.remove(&held.name);
            return Err(error);
        }
        held.shortage.set(false);
        if held.taken().is_none() {
            // Given up between the two.
            held.shortage.set(true);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Whether files can be written, and more than what removes.
    pub(super) fn check(&self) -> io::Result<()> {
        let Some(held) = &self.0 else { return Ok(()) };
        self.admit()?;
        match held.file(&held.name, OFlags::empty()) {
            // Given up since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(io::ErrorKind::StorageFull.into()),
            opened => opened?.write_all_at(MARK, 0),
        }
    }

    /// Whether the file system refuses so much to whom it belongs that it counts as full, or did so a moment ago: a
    /// quota of it shows nowhere else, and `SQLite` tells it as an error of the disk. By the time that is looked at,
    /// another upload may have given back what it had taken.
    pub(super) fn is_full(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        held.shortage.is_on() || held.shortage.is_recent() || self.is_refused()
    }

    /// Whether the file system takes no writes any more, as one does that has met an error of its disk.
    pub(super) fn is_read_only(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        let _turn = held.turn();
        // Its flags do not say so after an error.
        let tried = held.file(&held.probe, OFlags::CREATE);
        let _ = held.remove(&held.probe);
        tried.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Whether the file system refuses so much now.
    fn is_refused(&self) -> bool {
        let Some(held) = &self.0 else { return false };
        let _turn = held.turn();
        let tried = held.file(&held.probe, OFlags::CREATE).and_then(|file| allocate(&file, 0, held.size / FULL_PART));
        let _ = held.remove(&held.probe);
        let is_full = tried.is_err_and(|error| is_full(&error));
        if is_full {
            held.shortage.note();
        }
        is_full
    }
}

impl Held {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &CString, more: OFlags) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        Ok(openat(&self.folder, name.as_c_str(), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn remove(&self, name: &CString) -> io::Result<()> {
        match unlinkat(&self.folder, name.as_c_str(), AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// How many bytes of disk the file takes; `None` if it is not there, or not of its length.
    fn taken(&self) -> Option<u64> {
        let told = statat(&self.folder, self.name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_whole = FileType::from_raw_mode(told.st_mode).is_file() && u64::try_from(told.st_size) == Ok(self.size);
        is_whole.then_some(u64::try_from(told.st_blocks).ok()? * 512)
    }

    /// The free bytes of the file system.
    fn free(&self) -> io::Result<u64> {
        let told = fstatvfs(&self.folder)?;
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }
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
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn kept(dir: &tempfile::TempDir) -> Ballast {
        Ballast::open(&dir.path().join("ballast"), ByteCount::mib(1)).unwrap()
    }

    fn blocks(dir: &tempfile::TempDir) -> u64 {
        std::fs::metadata(dir.path().join("ballast")).map_or(0, |told| told.blocks() * 512)
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
        drop(ballast);
        assert!(!kept(&dir).is_out(), "of the process before");
        Ballast::open(&dir.path().join("ballast"), ByteCount::ZERO).unwrap().check().unwrap();
        assert!(!dir.path().join("ballast").exists());
    }

    #[test]
    fn who_writes_bytes_is_refused_from_before_the_space_is_given_up_until_it_is_back() {
        assert!(!Ballast::none().shortage().is_on());
        let dir = tempfile::tempdir().unwrap();
        let ballast = kept(&dir);
        let shortage = ballast.shortage();
        assert!(!shortage.is_on() && !ballast.is_full());
        ballast.give_up();
        assert!(shortage.is_on() && ballast.is_full());
        ballast.give_up();
        assert!(shortage.is_on(), "also when there was nothing to give up");
        ballast.admit().unwrap();
        assert!(!shortage.is_on() && ballast.is_full(), "an error that is told late is of that shortage");
        drop(ballast);
        assert!(!kept(&dir).shortage().is_on(), "of the process before");
        // More than there is.
        let large = ByteCount::new(1 << 50).unwrap();
        let ballast = Ballast::open(&dir.path().join("large"), large).unwrap();
        assert!(ballast.shortage().is_on() && ballast.check().is_err());
    }

    #[test]
    fn a_quota_of_the_file_system_is_a_full_disk() {
        for number in [Errno::DQUOT, Errno::NOSPC] {
            assert!(is_full(&number.into()), "{number}");
        }
        assert!(!is_full(&Errno::IO.into()));
    }
}
