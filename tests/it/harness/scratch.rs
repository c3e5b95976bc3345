//! Folders for the files of a test: on the disk of the target folder, or in memory of a fixed size.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::skipped::skipped;

/// A folder that is removed with its content when this is dropped.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// Makes a folder on the disk of the target folder, where images have room.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("it-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Self(dir.expect("the target folder takes a new folder"))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of a name in it.
    pub(crate) fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path().join(name.as_ref())
    }
}

/// A file system in memory, unmounted when this is dropped: a small disk that can be filled.
pub(crate) struct Tmpfs(Scratch);

impl Tmpfs {
    /// Mounts `mib` MiB. If mounting is not allowed, prints a line about it and returns `None`.
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let dir = Scratch::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "longshore-test"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                skipped(format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skipped(format!("cannot mount: {error}"));
                None
            }
        }
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, since a server that is still ending holds files open.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
