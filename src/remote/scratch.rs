//! Room on the disk for what a fetch needs while it runs. Nothing in it outlives its fetch, and what a process that
//! died has left is removed at the next start.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A directory in which every fetch has one of its own. Clones share it.
#[derive(Clone, Debug)]
pub struct ScratchSpace {
    root: PathBuf,
}

impl ScratchSpace {
    /// Opens the space at `root`, empty. One process at a time; the caller sees to that.
    pub fn open(root: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => make(root)?,
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Makes an empty directory for one fetch.
    pub fn begin(&self) -> io::Result<Scratch> {
        let path = self.root.join(uuid::Uuid::new_v4().simple().to_string());
        make(&path)?;
        Ok(Scratch { path })
    }
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// The directory of one fetch. It is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed at the next start.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::error!(%error, "a scratch directory was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_with_its_fetch_or_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("scratch");
        let count = || fs::read_dir(&root).unwrap().count();
        let space = ScratchSpace::open(&root).unwrap();
        let (one, other) = (space.begin().unwrap(), space.begin().unwrap());
        fs::write(one.path().join("pack"), "bytes").unwrap();
        assert_eq!(count(), 2);
        drop(one);
        assert_eq!(count(), 1);
        std::mem::forget(other);
        ScratchSpace::open(&root).unwrap();
        assert_eq!(count(), 0);
    }
}
