//! Charges an unpacked tree against its limits and against the room that the file system has left.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::fstatvfs;

use super::error::{Budget, UnpackCause};
use super::{Attribute, Limits};
use crate::domain::Extent;

/// The unit in which file systems allocate space.
pub(super) const DISK_BLOCK: u64 = 4096;

/// The charge for a member without blocks: its inode and its name take up to 512 bytes each, since directories are half
/// full.
pub(super) const INODE: u64 = 1024;

/// Inodes between two checks of the room that the file system has left. A check takes about a microsecond, and 256
/// archives at once take fewer than [`KEPT_INODES`] between theirs.
const LOOK_EVERY: u64 = 16;

/// Inodes that are left for removals and for the server's own files; on small file systems a 32nd of all.
const KEPT_INODES: u64 = 8192;

/// The limits, and what is spent of them.
pub(super) struct Account {
    limits: Limits,
    /// A descriptor on the file system.
    disk: OwnedFd,
    inodes: u64,
    bytes: u64,
    apparent: u64,
}

impl Account {
    pub(super) fn open(root: BorrowedFd<'_>, limits: &Limits) -> Result<Self, UnpackCause> {
        let disk = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
        Ok(Self { limits: *limits, disk, inodes: 0, bytes: 0, apparent: 0 })
    }

    /// Charges an inode, or another name of one. Callers charge at least [`INODE`] bytes with it.
    pub(super) fn inode(&mut self) -> Result<(), UnpackCause> {
        if self.inodes.is_multiple_of(LOOK_EVERY) {
            self.look()?;
        }
        self.inodes += 1;
        if self.inodes > self.limits.entries { Err(Budget::Entries.into()) } else { Ok(()) }
    }

    pub(super) fn directory(&mut self) -> Result<(), UnpackCause> {
        self.inode()?;
        Ok(self.spend(DISK_BLOCK)?)
    }

    /// Charges the attributes of one member, as file systems store those that do not fit into the inode.
    pub(super) fn attributes<'a>(&mut self, attributes: impl Iterator<Item = &'a Attribute>) -> Result<(), Budget> {
        let bytes: usize = attributes.map(|(name, value)| name.len() + value.len()).sum();
        self.spend((bytes as u64).next_multiple_of(DISK_BLOCK))
    }

    /// Refuses when the file system has less room than must be left.
    fn look(&self) -> Result<(), UnpackCause> {
        let disk = fstatvfs(&self.disk)?;
        // Some file systems make inodes on demand, and report none.
        if disk.f_files > 0 && disk.f_favail < KEPT_INODES.min(disk.f_files / 32) {
            return Err(UnpackCause::NoRoom("files"));
        }
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.limits.reserve {
            return Err(UnpackCause::NoRoom("data"));
        }
        Ok(())
    }

    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), Budget> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes { Err(Budget::Bytes) } else { Ok(()) }
    }

    pub(super) fn file(&mut self, size: u64, extents: Option<&[Extent]>) -> Result<(), UnpackCause> {
        self.inode()?;
        let whole = [Extent { offset: 0, len: size }];
        let blocks = |extent: &Extent| {
            let end = extent.offset.saturating_add(extent.len).div_ceil(DISK_BLOCK);
            end.saturating_sub(extent.offset / DISK_BLOCK)
        };
        let blocks = extents.unwrap_or(&whole).iter().map(blocks).fold(0, u64::saturating_add);
        self.spend(blocks.saturating_mul(DISK_BLOCK).max(INODE))?;
        self.apparent = self.apparent.saturating_add(size);
        if self.apparent > self.limits.apparent { Err(Budget::Apparent.into()) } else { Ok(()) }
    }
}
