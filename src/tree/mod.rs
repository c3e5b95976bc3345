//! Trees: directories unpacked from a tar stream, and packed into them. Knows no HTTP, no tenants and no database.
//!
//! All functions block, and are meant for one blocking thread per stream, which reads by [`std::io::Read`] and writes
//! by [`std::io::Write`]. They need one pass and spool nothing.
//!
//! # Invariants
//! - Every name is resolved beneath the root's descriptor and through no symbolic link, whatever the archive says.
//! - Nothing is changed by a name that could be a link: modes, owners, times and attributes are set through
//!   descriptors of what was just made, or by calls that do not follow.
//! - Input that other tools read in two ways is refused, never interpreted. `archive` lists the rules.
//! - Memory is bounded by [`Limits`], not by the archive.
//!
//! # Cancellation
//! An error of the reader or the writer ends the work at once, so a caller cancels by returning one. What was unpacked
//! until then stays beneath the root: the caller gives a draft directory, and removes it with [`remove()`].
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

/// The most descriptors that one stream has open: the kept directories, the socket, the digests, and the files of the
/// current member.
pub const DESCRIPTORS_PER_STREAM: u64 = directories::KEPT as u64 + 10;

/// Limits on the content of an archive. All are hard: an archive beyond one is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members of the archive. Each may cost an inode.
    pub entries: u64,
    /// Bytes that take space on the disk: data in blocks of 4 KiB, a block for each directory, for the attributes of
    /// each member and for long links, and 1 KiB for a member that has no block. Members that later ones replace stay
    /// counted. The least charge of a member includes the 40 bytes of its digest.
    pub bytes: u64,
    /// Free bytes of the file system that are never taken, whatever the archive holds.
    pub reserve: u64,
    /// The sum of the file sizes, holes included.
    pub apparent: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of a path. Linux limits it too, whatever is set here.
    pub name: usize,
    /// Bytes of a symbolic link's target. Linux limits it too.
    pub link: usize,
    /// Bytes of one member's extended attributes, names and values.
    pub attributes: usize,
    /// Bytes of one extended header, which is held in memory.
    pub extended: usize,
    /// Runs of data in one sparse file, of 16 bytes of memory each.
    pub extents: usize,
}

/// Members that even the smallest volume may have; its bytes limit them too.
const FEWEST: u64 = 1024;

impl Limits {
    /// Limits for a volume of so many bytes. It may have a member for every 4 KiB, so that a tenant with a share of the
    /// disk has about the same share of its inodes (ext4 makes one for every 16 KiB, others make them on demand). The
    /// other limits exceed what trees of programs, mail or media need, and bound the memory of one stream to about 21
    /// MiB, 10 more if it is compressed, and 4 more with [`LargeWrites::Direct`].
    pub fn of_volume(bytes: u64) -> Self {
        Self {
            entries: (bytes / 4096).clamp(FEWEST, 10_000_000),
            bytes,
            reserve: 0,
            // The apparent size of a sparse file is what later readers pay for.
            apparent: bytes.saturating_mul(16),
            depth: 255,
            name: name::LONGEST,
            link: name::LONGEST,
            // The most that listxattr returns for one file.
            attributes: 64 << 10,
            extended: 1 << 20,
            extents: 1 << 18,
        }
    }
}

/// The owner of unpacked files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// The user of this process.
    #[default]
    Ignore,
    /// The numbers in the archive. This needs root's rights over files: to change their owner, and to work on them
    /// afterwards.
    Keep,
}

/// The treatment of attributes that are not kept: those of the namespaces `trusted.`, `security.` and `system.`, and
/// those of links, pipes and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignAttributes {
    /// They are dropped, and counted.
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
    /// Past the page cache, where the file system allows it.
    Direct,
}

/// What is kept of an archive's metadata, and how files are written. The default gives nobody more rights than to read
/// and run their own files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// The owner of files.
    pub owners: Owners,
    /// Whether set-user-ID and set-group-ID bits are kept; otherwise they are cleared, and counted.
    pub set_id: bool,
    /// Whether device nodes are made (which needs privilege); otherwise an archive with one is refused.
    pub devices: bool,
    /// Whether `security.capability` is kept (which needs privilege); otherwise it is treated like the rest of its
    /// namespace.
    pub capabilities: bool,
    /// The treatment of attributes that are not kept.
    pub foreign: ForeignAttributes,
    /// How large files are written.
    pub large: LargeWrites,
}

/// Makes everything beneath `root` durable. The descriptor must have been opened (not `O_PATH`) before the tree was
/// unpacked: it reports failures of write-back since then.
///
/// It flushes the whole file system, other writers included, and still takes less time than an fsync per file.
pub fn sync(root: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(root)?)
}
