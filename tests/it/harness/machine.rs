//! Reports of the kernel about a process or a folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Returns the peak memory of a process, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// Returns the memory of a process, in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// Returns the memory that a process has taken, in bytes, without that of its program, whose size is the compiler's.
pub(crate) fn taken_memory(pid: u32) -> u64 {
    status(pid, "RssAnon:")
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process has memory");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("it is a number");
    kib << 10
}

/// Returns the number of open descriptors of a process, except those of the database, which opens more under load.
pub(crate) fn open_files(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    // A descriptor may be closed while they are counted.
    let files = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    files.filter(|file| !is_database(file)).count()
}

/// Returns the bytes of disk space that a folder takes, without holes.
///
/// The database is not counted: its log grows by a few pages with each transaction, and shrinks at any time.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    // A file may be removed while the folder is read.
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if metadata.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        return entries.flatten().map(|entry| disk_usage(&entry.path())).sum();
    }
    if is_database(path) { 0 } else { metadata.blocks() * 512 }
}

fn is_database(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("meta.sqlite"))
}
