//! An open file with many users, which blocks none of them when it is closed.
//!
//! Closing the last descriptor of a removed file frees its inode and blocks, and waits for the file system: for a tenth
//! of a second when the disk is busy. So such a file is closed on a blocking thread. Any other file is closed where its
//! last clone is dropped.

use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, LazyLock};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::runtime::Handle;

/// The length of [`SharedFile::hole`].
pub const HOLE: u64 = 1 << 30;

/// An open file. Clones share it.
#[derive(Clone, Debug)]
pub struct SharedFile(Arc<Held>);

/// The file; `None` only while it is dropped.
#[derive(Debug)]
struct Held(Option<File>);

impl From<File> for SharedFile {
    fn from(file: File) -> Self {
        Self(Arc::new(Held(Some(file))))
    }
}

impl SharedFile {
    /// A file of [`HOLE`] zeros in memory that takes up none: the kernel sends its one page of zeros for all of it. It
    /// is the same file for all callers, and nobody writes to it. `None` on a system that has no such files.
    pub fn hole() -> Option<Self> {
        static FILE: LazyLock<Option<SharedFile>> = LazyLock::new(|| {
            let file = File::from(memfd_create("hole", MemfdFlags::CLOEXEC).ok()?);
            file.set_len(HOLE).ok()?;
            Some(file.into())
        });
        FILE.clone()
    }
}

#[cfg(test)]
impl SharedFile {
    /// Returns the number of clones.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Deref for SharedFile {
    type Target = File;

    fn deref(&self) -> &File {
        self.0.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(file) = self.0.take() else { return };
        let is_removed = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if is_removed && let Ok(runtime) = Handle::try_current() {
            // A runtime that is shutting down drops the closure, and with it the file, here.
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;

    /// Returns the path behind a descriptor, if it is open.
    fn target(descriptor: i32) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()
    }

    /// Descriptor numbers are not reused meanwhile: each test has a process of its own.
    #[test]
    fn a_removed_file_is_closed_by_a_blocking_thread_and_any_other_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let open = || SharedFile::from(File::create(&path).unwrap());
        runtime.block_on(async {
            let kept = open();
            let descriptor = kept.as_raw_fd();
            drop(kept);
            assert_eq!(target(descriptor), None);

            let removed = open();
            let descriptor = removed.as_raw_fd();
            let there = target(descriptor);
            std::fs::remove_file(&path).unwrap();
            let (go, gate) = mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || gate.recv());
            drop(removed);
            assert!(target(descriptor).is_some_and(|now| now != *there.as_ref().unwrap()), "it waits for the thread");
            go.send(()).unwrap();
            busy.await.unwrap().unwrap();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(target(descriptor), None);
        });
    }
}
