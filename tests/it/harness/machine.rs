//! What the kernel knows of a process and of a folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The most memory that a process held, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// The memory that a process holds, in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process has memory");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("it is a number");
    kib << 10
}

/// How many file descriptors a process has open, but for those of the database, which opens more when it is busy.
pub(crate) fn open_files(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    // A descriptor may be closed while they are counted.
    let files = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    files.filter(|file| !is_database(file)).count()
}

/// How many bytes of disk a folder takes, holes left out.
///
/// The database is left out too: its log grows by a few pages in each transaction, and shrinks when it likes.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    // A file may go while the folder is read.
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
