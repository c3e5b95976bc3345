//! The contents of trees: what a store of them promises, and the one that keeps the promise in a directory.
//!
//! A content is first a *draft*, which nobody can open, then published whole, once. Which content is visible, and of
//! which tree, is not known here: whoever knows keeps the ids.
//!
//! A store is asked for whole contents. What it does with the files of one is its own, so that thousands of small files
//! cost no call each.
//!
//! # Invariants
//! - A content never changes once it was published, and one that is being read stays whole until that ends.
//!
//! # Crash
//! After a crash a store holds published contents, each complete, and leftovers that [`TreeStore::sweep`] removes.
//!
//! Everything here blocks.

mod local;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{Ledger, Removal};
use crate::domain::{ByteCount, ContentId, TenantId, UnixTime, Volume};
use crate::tree::{Limits, PackError, PackLimits, Packed, Policy, UnpackError, Unpacked};

pub use local::LocalTrees;

/// A backend that holds the contents of trees.
pub trait TreeStore: Send + Sync {
    /// The account of its space, from which an archive has what it takes.
    fn space(&self) -> &Arc<Ledger>;

    /// Begins a content. What an earlier attempt left under this id is removed.
    fn begin(&self, id: ContentId) -> io::Result<Box<dyn TreeDraft>>;

    /// Opens a content to be read. It stays whole as long as this lives, removed or not.
    fn open(&self, id: ContentId) -> Result<Box<dyn OpenTree>, TreeReadError>;

    /// Takes a content out of sight, in a moment whatever its size; [`TreeStore::empty_trash`] does the work later.
    /// Removing what is not there succeeds; whether it was there.
    fn remove(&self, id: ContentId) -> io::Result<bool>;

    /// Unlinks what was removed and nobody reads any more; whether that is all of it. What fails keeps nothing else
    /// from going; the last failure is told.
    fn empty_trash(&self) -> io::Result<bool>;

    /// The ids of all contents that were unpacked to their end, as far as that is known.
    fn contents(&self) -> io::Result<Vec<ContentId>>;

    /// Writes the records of contents that have none, of an earlier version; from now on, a content without one was
    /// never whole. How many it wrote.
    fn complete_records(&self, held: &[(ContentId, TreeRecord)]) -> io::Result<usize>;

    /// Sets aside every content that `keep` refuses and that is whole, or may be; removes the others. What was set
    /// aside and is kept again comes back; what was set aside before `forget_before` is removed.
    fn sweep(&self, keep: &dyn Fn(ContentId) -> bool, forget_before: UnixTime) -> io::Result<SweptTrees>;

    /// Removes what was set aside before `forget_before`, as [`TreeStore::sweep`] does, but for what `keep` wants; how
    /// much it was. Safe at any time: nothing new is set aside but by a sweep.
    fn forget_old(&self, keep: &dyn Fn(ContentId) -> bool, forget_before: UnixTime) -> io::Result<usize>;

    /// The contents that were set aside.
    fn lost(&self) -> io::Result<Vec<LostTree>>;

    /// Shows a content that was set aside.
    fn bring_back(&self, id: ContentId) -> io::Result<()>;

    /// Removes a content that was set aside; [`TreeStore::empty_trash`] does the work later.
    fn forget(&self, id: ContentId) -> io::Result<()>;
}

/// A content that is being made. Dropping it without [`TreeDraft::publish`] leaves a leftover for
/// [`TreeStore::remove`] or the sweep.
pub trait TreeDraft {
    /// Puts all into it that an archive holds, and notes the digest of each file.
    fn unpack(&mut self, archive: &mut dyn Read, limits: &Limits, policy: &Policy) -> Result<Unpacked, UnpackError>;

    /// Puts one file into it, and notes its digest.
    fn put_file(&mut self, bytes: &mut dyn Read, name: &str, limits: &Limits) -> Result<Unpacked, UnpackError>;

    /// Makes it durable, with its digests and its record.
    fn publish(self: Box<Self>, record: &TreeRecord) -> io::Result<()>;
}

/// A content that is being read.
pub trait OpenTree: Send {
    /// Packs all of it, and compares each file with its digest.
    fn pack(&self, into: &mut dyn Write, limits: &PackLimits) -> Result<Packed, PackError>;

    /// Compares all of it with its digests, from the file `compared` on, which is counted up. `pace` is told the bytes
    /// of each read, and ends it with an error. `None` of a content that was stored without digests.
    fn check(
        &self,
        compared: &AtomicU64,
        pace: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Option<Result<Packed, PackError>>;

    /// Tells whether it was removed meanwhile, and takes its space only as long as it is read; also when it is not open
    /// any more.
    fn removal(&self) -> Removal;
}

/// What is kept beside the content of a tree, durable with it, so that a tree can be made of it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRecord {
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The tree's name.
    pub name: String,
    /// The tree's size.
    pub size: ByteCount,
}

impl From<&Volume> for TreeRecord {
    fn from(tree: &Volume) -> Self {
        Self { tenant: tree.tenant, name: tree.name.clone(), size: tree.size }
    }
}

/// A content that no tree holds, set aside.
#[derive(Clone, Debug)]
pub struct LostTree {
    /// Its id.
    pub id: ContentId,
    /// Whose it was; `None` when that cannot be read.
    pub record: Option<TreeRecord>,
}

/// Totals of one sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweptTrees {
    /// Contents that were removed: none of them was whole.
    pub removed: usize,
    /// Contents that were set aside.
    pub set_aside: usize,
    /// What these take on the disk.
    pub bytes: u64,
    /// Contents that were set aside earlier and are back.
    pub returned: usize,
    /// Contents that were set aside earlier and are removed now.
    pub forgotten: usize,
}

/// A content that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeReadError {
    /// There is none.
    #[error("it is not there")]
    Missing,
    /// What it was stored with is damaged.
    #[error("{0}")]
    Damaged(&'static str),
    /// The disk failed.
    #[error("the file system failed")]
    Io(#[source] io::Error),
}
