//! Probes of what this machine and a directory can do, for the start and for `longshore doctor`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::pool::{ALIGN, Pool};
use super::ring::Ring;
use crate::domain::ByteCount;

/// The prefix of the names of the files of probes.
const SCRATCH: &str = ".probe-";

/// Checks that `io_uring` moves bytes here; else returns the reason. Container runtimes often forbid it.
pub fn io_uring() -> io::Result<()> {
    Ring::start(1).map(drop)
}

/// Checks that files in `dir` can be written past the page cache (`O_DIRECT`); else returns the reason.
pub fn direct_io(dir: &Path) -> io::Result<()> {
    let file = scratch(dir, OFlags::DIRECT)?;
    let mut block = Pool::new(ByteCount::mib(1)).try_take().ok_or(io::ErrorKind::OutOfMemory)?;
    block[..ALIGN].fill(0);
    file.write_all_at(&block[..ALIGN], 0)
}

/// Checks that files in `dir` can share extents (`FICLONE`), so that a clone costs no copy; else returns the reason.
pub fn reflink(dir: &Path) -> io::Result<()> {
    let source = scratch(dir, OFlags::empty())?;
    source.write_all_at(&[1; ALIGN], 0)?;
    let target = scratch(dir, OFlags::empty())?;
    Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
}

/// Checks that files in `dir` can carry attributes of users (xattr(7)); else returns the reason.
pub fn attributes(dir: &Path) -> io::Result<()> {
    let file = scratch(dir, OFlags::empty())?;
    Ok(rustix::fs::fsetxattr(&file, "user.probe", &[1; 64], rustix::fs::XattrFlags::empty())?)
}

/// Returns the bytes that an unprivileged process may still write to the file system of `dir`.
pub fn free_space(dir: &Path) -> io::Result<ByteCount> {
    let stat = rustix::fs::statvfs(dir)?;
    // A network file system may report more than a file can hold.
    Ok(ByteCount::new(stat.f_bavail.saturating_mul(stat.f_frsize)).unwrap_or(ByteCount::MAX))
}

/// The inodes that images leave free: for removals, and for the files of the database, without which there is no start.
/// On small file systems a 64th of all. Archives leave twice as many, so that they keep no images out.
const KEPT_INODES: u64 = 4096;

/// Whether the file system of `dir` has more inodes than are kept.
pub fn has_inodes(dir: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statvfs(dir)?;
    // Some file systems make inodes as they need them, and report none.
    Ok(stat.f_files == 0 || stat.f_favail >= KEPT_INODES.min(stat.f_files / 64))
}

/// Removes the files that probes left in `dir` when their process was killed.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes()) {
            ignore_missing(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// Opens a file without a name, which is gone when it is closed.
fn scratch(dir: &Path, flags: OFlags) -> io::Result<File> {
    let path: PathBuf = dir.join(format!("{SCRATCH}{}", uuid::Uuid::new_v4()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    let file = options.open(&path);
    // Some file systems refuse the flags of an open only after they made the file.
    ignore_missing(fs::remove_file(&path))?;
    file
}

/// The files of a probe are removed by a start that runs beside it, which must not fail the probe.
fn ignore_missing(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for (name, outcome) in [
            ("direct", direct_io(dir.path())),
            ("reflink", reflink(dir.path())),
            ("attributes", attributes(dir.path())),
        ] {
            println!("{name}: {outcome:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_killed_probes_left_is_cleared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".probe-0", ".probe-9d3a", "probe-1", ".other"] {
            fs::write(dir.path().join(name), b"left by a crash").unwrap();
        }
        clear(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".other", "probe-1"]);
    }

    #[test]
    fn a_probe_of_a_missing_directory_is_an_error() {
        let dir = Path::new("/does/not/exist");
        assert!(direct_io(dir).is_err());
        assert!(reflink(dir).is_err());
        assert!(attributes(dir).is_err());
        assert!(free_space(dir).is_err());
    }

    #[test]
    fn the_kernel_s_own_files_take_no_direct_io_and_have_no_space() {
        assert!(direct_io(Path::new("/proc/self")).is_err());
        assert_eq!(free_space(Path::new("/proc")).unwrap(), ByteCount::ZERO);
    }
}
