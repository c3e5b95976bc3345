//! Small disks with a real file system, each in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Scratch;
use crate::skipped::skipped;

/// A file system on a loop device, unmounted when this is dropped.
pub(crate) struct Disk {
    mounted: Scratch,
    /// Holds the file behind the device.
    _file: Scratch,
}

impl Disk {
    /// Makes and mounts a disk of `mib` MiB with `mkfs`, a program and its arguments. If that is not possible, prints a
    /// line about it and returns `None`.
    pub(crate) fn mount(mkfs: &[&str], mib: u64) -> Option<Self> {
        let (mounted, file) = (Scratch::new(), Scratch::new());
        let device = file.join("device");
        File::create(&device).and_then(|device| device.set_len(mib << 20)).expect("a sparse file can be made");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&device))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&device).arg(mounted.path()))?;
        Some(Self { mounted, _file: file })
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Fills it to the last block; returns the file that does.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("a file can be made");
        let mut part = vec![1; 1 << 20];
        while !part.is_empty() {
            // In smaller and smaller parts, down to single bytes of the last block.
            if file.write_all(&part).and_then(|()| file.sync_data()).is_err() {
                part.truncate(part.len() / 2);
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since a server that is still ending holds files open. The loop device is freed with the last of them.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn run(command: &mut Command) -> Option<()> {
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            skipped(format!("cannot mount: {command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skipped(format!("cannot mount: {command:?}: {error}"));
            None
        }
    }
}
