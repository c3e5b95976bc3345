//! Trees: directories unpacked from a tar stream, and packed into one. Knows no HTTP, no tenants and no database.
//!
//! Everything here blocks, and is meant for one blocking thread per stream; bytes come and go by [`std::io::Read`] and
//! [`std::io::Write`]. One pass, nothing spooled.
//!
//! # Invariants
//! - Every name is resolved beneath the root's descriptor and through no symbolic link, whatever the archive says.
//! - Nothing is changed by a name that could be a link: modes, owners, times and attributes are set through
//!   descriptors of what was just made, or by calls that do not follow.
//! - Of two readings that other tools have of the same bytes, neither is taken: what is ambiguous is refused. `archive`
//!   lists the rules.
//! - Memory is bounded by [`Limits`], not by the archive.
//!
//! # Cancellation
//! An error of the reader or the writer ends the work at once; that is how a caller cancels. What was unpacked until
//! then lies beneath the root: the caller gives a draft directory, and removes it with [`remove()`].
//!
//! # Crash
//! Nothing is durable before [`sync`] has succeeded.

mod account;
mod archive;
mod digests;
mod directories;
mod encoding;
mod error;
mod file;
mod header;
mod large;
mod name;
mod pack;
mod pax;
mod remove;
mod sparse;
mod stream;
mod unpack;

use std::io;
use std::os::fd::AsFd;

pub use self::archive::{Archive, Kind, Member};
pub use self::digests::{DigestLog, Digests, DigestsError};
pub use self::encoding::{Decoder, DecoderLimits, Encoder};
pub use self::error::{Budget, Flaw, Place, Rule, UnpackCause, UnpackError};
pub use self::file::put_file;
pub use self::name::TreePath;
pub use self::pack::{PackCause, PackError, PackLimits, Packed, check, pack};
pub use self::pax::Time;
pub use self::remove::remove;
pub use self::unpack::{Unpacked, unpack, unpack_digested};

/// Name and value of an extended attribute.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// Attributes that are kept in both directions; `security.capability` by policy.
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

/// What one stream has open at most: the directories that are kept, the socket, the digests, and the files of the
/// moment.
pub const DESCRIPTORS_PER_STREAM: u64 = directories::KEPT as u64 + 10;

/// How much an archive may hold. All are hard: what goes beyond is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members of the archive. Each may cost an inode.
    pub entries: u64,
    /// Bytes that take space on the disk: data in blocks of 4 KiB, a block for each directory, for the attributes of
    /// each member and for long links, and 1 KiB for a member that has no block. What a later member replaces
    /// stays counted. The 40 bytes of its digest are among what a member costs at least.
    pub bytes: u64,
    /// Free bytes of the file system that are never taken, whatever the archive holds.
    pub reserve: u64,
    /// The sizes of all files together, holes counted.
    pub apparent: u64,
    /// Components of a name.
    pub depth: usize,
    /// Bytes of a whole name. Never more than a path may have on Linux, whatever is set.
    pub name: usize,
    /// Bytes of a symbolic link's target; the same bound.
    pub link: usize,
    /// Extended attributes of one member, names and values, in bytes.
    pub attributes: usize,
    /// One extended header, in bytes. It is held in memory.
    pub extended: usize,
    /// Runs of data in one sparse file. 16 bytes of memory each.
    pub extents: usize,
}

/// Members that the smallest volume may have; its bytes bound them too.
const FEWEST: u64 = 1024;

impl Limits {
    /// For a volume of so many bytes. Of these there is a member for every 4 KiB, so that who has a part of the disk
    /// has no more than about this part of its inodes (ext4 makes one for every 16 KiB, others as they are needed). The
    /// rest is more than trees of programs, mail or media have, and bounds the memory of one stream to about 21 MiB, 10
    /// more if it is compressed, and 4 more with [`LargeWrites::Direct`].
    pub fn of_volume(bytes: u64) -> Self {
        Self {
            entries: (bytes / 4096).clamp(FEWEST, 10_000_000),
            bytes,
            reserve: 0,
            // A sparse file costs its later readers by its apparent size.
            apparent: bytes.saturating_mul(16),
            depth: 255,
            name: name::LONGEST,
            link: name::LONGEST,
            // What listxattr can tell of one file.
            attributes: 64 << 10,
            extended: 1 << 20,
            extents: 1 << 18,
        }
    }
}

/// Whose the files become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// Whoever unpacks.
    #[default]
    Ignore,
    /// The numbers in the archive. Needs root's rights over files: to give them away, and to work on them after.
    Keep,
}

/// What becomes of attributes that are not kept: of the namespaces `trusted.`, `security.` and `system.`, and those of
/// links, pipes and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignAttributes {
    /// They are left out, and counted.
    #[default]
    Drop,
    /// The archive is refused.
    Refuse,
}

/// How large files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargeWrites {
    /// Through the page cache.
    #[default]
    Cached,
    /// Past it, where the file system can.
    Direct,
}

/// What is taken over from an archive, and how. The default gives nobody more than the right to read and run what is
/// theirs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Owners of files.
    pub owners: Owners,
    /// Whether set-user-ID and set-group-ID are kept; otherwise they are cleared, and counted.
    pub set_id: bool,
    /// Whether device nodes are made (needs privilege); otherwise an archive that has one is refused.
    pub devices: bool,
    /// Whether `security.capability` is kept (needs privilege); otherwise it is as foreign as the rest of its space.
    pub capabilities: bool,
    /// Attributes that are not kept.
    pub foreign: ForeignAttributes,
    /// How large files are written.
    pub large: LargeWrites,
}

/// Makes everything beneath `root` durable. The descriptor must have been opened (not `O_PATH`) before the tree was
/// unpacked: failures of write-back since then are reported by it.
///
/// It flushes the whole file system, other writers included, which still takes less than an fsync per file.
pub fn sync(root: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(root)?)
}
