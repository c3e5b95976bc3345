//! Removes a tree, of any depth and with any modes.
//!
//! # Invariants
//! - No link is followed and no mount is entered.
//! - Descriptors and names in memory are bounded: a directory that lies too deep is moved to the top, and removed
//!   there.
//!
//! # Crash
//! Calling it again removes what is left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::directories::{BENEATH, unlock};

/// The depth, and so the number of open descriptors, beyond which directories are moved up.
const DEPTH: usize = 32;

/// Names of subdirectories that are held per level.
const NAMES: usize = 256;

/// A directory whose content is being removed.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    /// Subdirectories that were found and are not removed yet.
    below: Vec<Vec<u8>>,
    /// Whether there may be further entries.
    more: bool,
}

/// Removes `name` from `parent`, with everything in it. A missing name is no error.
pub fn remove(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let parent = parent.as_fd();
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(stat) if !FileType::from_raw_mode(stat.st_mode).is_dir() => {
            return Ok(unlinkat(parent, name, AtFlags::empty())?);
        }
        Ok(_) => {}
    }
    let mut levels = vec![Level::open(parent, name.to_vec())?];
    let mut moved = 0_u64;
    while let Some(level) = levels.last_mut() {
        if let Some(below) = level.below.pop() {
            let opened = Level::open(&level.fd, below)?;
            if levels.len() < DEPTH {
                levels.push(opened);
            } else {
                move_up(&levels, &opened.name, &mut moved)?;
                // The first level has got an entry that its sweep has not seen.
                levels[0].more = true;
            }
        } else if level.more {
            level.sweep()?;
        } else if let Some(empty) = levels.pop() {
            let above = levels.last().map_or(parent, |above| above.fd.as_fd());
            match unlinkat(above, empty.name.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) => {}
                // Listing a directory that changes meanwhile may miss entries.
                Err(Errno::NOTEMPTY | Errno::EXIST) => levels.push(Level { more: true, ..empty }),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Moves a directory of the deepest level into the first.
fn move_up(levels: &[Level], name: &[u8], moved: &mut u64) -> io::Result<()> {
    let [first, .., deepest] = levels else { return Err(io::ErrorKind::InvalidInput.into()) };
    loop {
        *moved += 1;
        let free = format!("moved-up-{moved}");
        match renameat_with(&deepest.fd, name, &first.fd, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            outcome => return Ok(outcome?),
        }
    }
}

impl Level {
    /// Opens a directory, and makes its content removable.
    fn open(parent: impl AsFd, name: Vec<u8>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat2(&parent, name.as_slice(), flags, Mode::empty(), BENEATH);
        let fd = match open() {
            Err(Errno::ACCESS) => {
                unlock(&parent, &name)?;
                open()
            }
            opened => opened,
        }?;
        let mode = fstat(&fd)?.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            fchmod(&fd, Mode::from_raw_mode(mode | 0o700))?;
        }
        Ok(Self { fd, name, below: Vec::new(), more: true })
    }

    /// Removes everything that is no directory, and collects some of the directories.
    fn sweep(&mut self) -> io::Result<()> {
        self.more = false;
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            // Some file systems do not report the type in the listing.
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => {
                    let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode).is_dir()
                }
                _ => false,
            };
            if !is_directory {
                unlinkat(&self.fd, name, AtFlags::empty())?;
            } else if self.below.len() < NAMES {
                self.below.push(name.to_vec());
            } else {
                self.more = true;
            }
        }
        Ok(())
    }
}
