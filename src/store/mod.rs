//! Contents on a backend: what a store promises, and the stores that keep the promise. Those of drives here, each an
//! *image*; those of trees in `trees`.
//!
//! The bytes of an image are first a *draft*, which nobody can open, then published whole, once. Of which volume it is
//! the content, if of any, is not known here: a store holds bytes and their piece digests; it knows no names or states,
//! and of tenants only what space is set aside for them.
//!
//! # Crash
//! After a crash a store holds published images, each complete, and leftovers that [`BlockStore::sweep`] removes.

mod checked;
mod local;
#[cfg(test)]
mod memory;
mod piece_map;
mod pieces;
mod reservation;
mod trees;

#[cfg(test)]
mod conformance;

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use crate::domain::{ByteCount, ContentId, Extent, Fault, FaultKind, Pieces, TenantId, UnixTime, Volume, VolumeId};
use crate::io::{Block, SharedBlock, SharedFile};

pub use crate::domain::{GRANULE, data_runs, is_zero};
pub use checked::CheckedImage;
pub use local::{Direct, LocalSettings, LocalStore};
pub use piece_map::{Digested, MOST_EXTENTS, Piece, PieceMap, Scattered, Stretch, Unfinished};
pub use pieces::{piece_digest, stored_digest, zero_piece};
pub use reservation::{Ledger, Reservation};
pub use trees::{LocalTrees, LostTree, OpenTree, SweptTrees, TreeDraft, TreeReadError, TreeRecord, TreeStore};

/// What the methods of the traits return: one box per call, which is noise beside a block of 2 MiB.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a store can do beyond what every store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A clone shares the bytes of its source, and so takes neither their time nor their space.
    pub shares_clones: bool,
    /// Images grow in place; else [`BlockStore::grow`] fails with [`StoreError::Unsupported`].
    pub grows: bool,
    /// Images have a file; else [`Image::file`] is `None`.
    pub kernel_file: bool,
}

/// Tells whether something that was opened was removed since, so that only those have it who have it open.
pub type Removal = Box<dyn Fn() -> bool + Send + Sync>;

/// A backend that holds the contents of drives.
pub trait BlockStore: Send + Sync {
    /// What it can do. Does not change while the store is open.
    fn capabilities(&self) -> Capabilities;

    /// Whether it can still read and write at all.
    fn is_alive(&self) -> bool {
        true
    }

    /// The account of its space, from which a draft has what it takes, so that uploads admitted together cannot fill
    /// the store together. That of a store which cannot tell its space admits everything, and the backend alone
    /// refuses.
    fn space(&self) -> &Arc<Ledger>;

    /// Begins an image that nobody can open. A draft left by an earlier attempt under this id is replaced.
    fn draft(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Arc<dyn Draft>, StoreError>>;

    /// Goes on with a draft that is kept ([`DraftOptions::is_kept`]) as of its last checkpoint: what came after that is
    /// zero again, and has to be written again. The map is that of the checkpoint, and is durable also if whoever wrote
    /// it was never told so. [`StoreError::Missing`] when there is no such draft, also when it was published.
    ///
    /// The reservation counts from now on: `options.expected` less what is there is what may still come.
    fn resume(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Resumed, StoreError>>;

    /// Opens a published image.
    fn open(&self, id: ContentId) -> Boxed<'_, Result<Arc<dyn Image>, StoreError>>;

    /// Publishes a copy of the first bytes of `source`, and zeros behind its end, as an image of this size under the id
    /// `target`: shared extents where the file system can, else a copy that keeps holes, of which each piece is
    /// compared with its digest ([`StoreError::Damaged`]). Durable when it returns. May be run again after a crash.
    fn clone_image(
        &self,
        source: ContentId,
        target: ContentId,
        size: ByteCount,
        record: Record,
    ) -> Boxed<'_, Result<(), StoreError>>;

    /// Begins to read a published image or a draft that is kept, to find out what of it [`Draft::copy`] is to take
    /// over: also from a cache, where what was read stays. What others write to a draft meanwhile may be read or not,
    /// and of neither is it known whether a piece is whole.
    fn read_source(&self, id: ContentId) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>>;

    /// Grows a published image; what is added reads as zero. Durable when it returns. May be run again. Only a store
    /// that [`Capabilities::grows`] does.
    fn grow(&self, id: ContentId, size: ByteCount) -> Boxed<'_, Result<(), StoreError>>;

    /// Removes an image or draft; durable when it returns. Removing what is not there succeeds.
    fn remove(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>>;

    /// Goes on with removals that a failure has cut short.
    fn empty_trash(&self) -> Boxed<'_, Result<(), StoreError>>;

    /// Removes every draft whose id `keep` or `is_running` refuses, and sets aside every image whose id `keep` refuses:
    /// nobody sees it any more, and it is there. What was set aside and is known again comes back; what was set aside
    /// before `forget_before` is removed.
    fn sweep(
        &self,
        keep: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        is_running: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        forget_before: UnixTime,
    ) -> Boxed<'_, Result<Swept, StoreError>>;

    /// The ids of all published images.
    fn images(&self) -> Boxed<'_, Result<Vec<ContentId>, StoreError>>;

    /// When a published image was stored, or was brought back.
    fn stored_at(&self, id: ContentId) -> Boxed<'_, Result<UnixTime, StoreError>>;

    /// The images that were set aside.
    fn lost(&self) -> Boxed<'_, Result<Vec<LostImage>, StoreError>>;

    /// Publishes an image again that was set aside. Durable when it returns.
    fn bring_back(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>>;

    /// Removes an image that was set aside.
    fn forget(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>>;
}

/// What is kept beside an image, durable with it, so that a volume can be made of it again when nobody knows it any
/// more. It is as the volume was when its bytes were stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The volume that it was stored for.
    pub volume: VolumeId,
    /// The tenant that owned it.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
}

impl From<&Volume> for Record {
    fn from(volume: &Volume) -> Self {
        Self { volume: volume.id, tenant: volume.tenant, name: volume.name.clone() }
    }
}

/// An image that was set aside.
#[derive(Clone, Debug)]
pub struct LostImage {
    /// Its id.
    pub id: ContentId,
    /// Its size.
    pub size: ByteCount,
    /// Whose it was; `None` when nothing that can be read is kept beside it.
    pub record: Option<Record>,
}

/// Totals of one sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Drafts that were removed.
    pub removed: Vec<ContentId>,
    /// Images that were set aside.
    pub set_aside: Vec<ContentId>,
    /// What these take on the disk.
    pub bytes: u64,
    /// Images that were set aside earlier and are back.
    pub returned: usize,
    /// Images that were set aside earlier and are removed now.
    pub forgotten: usize,
}

/// How a draft will be filled.
#[derive(Debug)]
pub struct DraftOptions {
    /// The number of bytes that will come, when it is known; picks between direct and buffered I/O.
    pub expected: Option<ByteCount>,
    /// The space set aside for it. Each byte written, or skipped as a hole, is settled from it.
    pub reservation: Reservation,
    /// What is kept beside it.
    pub record: Record,
    /// Whether it outlives whoever fills it: it takes checkpoints and writes in any order, and [`BlockStore::resume`]
    /// goes on with it. Durable when [`BlockStore::draft`] returns.
    pub is_kept: bool,
}

/// A draft that is gone on with, and what of it is there.
pub type Resumed = (Arc<dyn Draft>, PieceMap);

/// An image that is being filled. Dropping it without [`Draft::publish`] leaves a leftover for
/// [`BlockStore::remove`] or the sweeper.
pub trait Draft: Send + Sync {
    /// Writes `data[range]` at `offset`. Zero runs become holes.
    ///
    /// `offset` and `range.start` are multiples of [`crate::io::ALIGN`]. `range.end` need not be, in the last write of
    /// a draft that is not kept; the block's bytes from there up to the next multiple must be zero.
    ///
    /// A draft that is not kept is written in ascending order. One that is kept is written in any order, again and by
    /// several at once; which of two writes at once of the same byte stays is not known.
    ///
    /// The write is submitted before this returns, and goes on when the future is dropped.
    fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Boxed<'static, io::Result<()>>;

    /// Writes bytes that lie within one sector of [`crate::io::ALIGN`] of a draft that is kept, and leaves the rest of
    /// the sector as it is. Reads and writes the sector: for the ends of parts only.
    fn write_edge(&self, bytes: Vec<u8>, offset: u64) -> Boxed<'static, io::Result<()>>;

    /// Makes bytes of a draft that is kept zero, and frees what they took where the backend can.
    fn zero(&self, extent: Extent) -> Boxed<'static, io::Result<()>>;

    /// Takes bytes of a published image, or of another draft that is kept, over into a draft that is kept, where they
    /// begin at `to`: shared with the source where the backend can, else copied. Holes stay holes, and what nothing was
    /// written to behind the last byte of a draft is one. An image that ends before is
    /// [`io::ErrorKind::UnexpectedEof`], a source that is not there [`io::ErrorKind::NotFound`]. After a failure any of
    /// the bytes may be there, as after a write that failed.
    ///
    /// Which bytes are taken of a draft that others write to meanwhile is not known. Goes on when the future is
    /// dropped.
    fn copy(&self, source: ContentId, from: Extent, to: u64) -> Boxed<'static, io::Result<()>>;

    /// Flushes what was written to a draft that is kept, then stores this map, whose bytes must all have been written
    /// and awaited before. Durable when it returns. One at a time. After a failure the draft is lost (I5).
    fn checkpoint(&self, map: PieceMap) -> Boxed<'_, Result<(), StoreError>>;

    /// Begins to read back what was written, as of a drive of this size: to digest pieces that no stretch has brought
    /// whole. That a piece is whole is not known here.
    fn read_back(&self, size: ByteCount) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>>;

    /// Sets more space aside for a draft whose length is not known.
    fn reserve_more(&self, bytes: ByteCount) -> Result<(), StoreError>;

    /// Flushes the bytes, fixes the size, stores the pieces and makes the image visible to [`BlockStore::open`], in an
    /// order that survives a crash at any point. Refused where an image was published under this id before. Durable
    /// when it returns. All writes must have been awaited and have succeeded before: else, and after a failure of this
    /// itself, the draft is lost and every attempt is refused (I5), and what there is of it is to be removed.
    fn publish(&self, size: ByteCount, pieces: Pieces) -> Boxed<'_, Result<(), StoreError>>;
}

/// A published image.
pub trait Image: Send + Sync {
    /// Its exact size.
    fn size(&self) -> ByteCount;

    /// Fills `block[..len]` with the bytes at `offset`, which is any; an error when the image ends before. The block
    /// always comes back.
    fn read_at(&self, block: Block, len: usize, offset: u64) -> Boxed<'_, (Block, io::Result<()>)>;

    /// The runs of data and holes that cover `within`, in order. Never calls data a hole.
    fn runs(&self, within: Extent) -> Boxed<'_, io::Result<Vec<Run>>>;

    /// The piece digests stored with it; fails when they are missing or damaged.
    fn pieces(&self) -> Boxed<'_, Result<Pieces, StoreError>>;

    /// When its bytes were stored, if that is known.
    fn written(&self) -> Option<UnixTime>;

    /// Tells whether it was removed since it was opened; also when it is not open any more.
    fn removal(&self) -> Removal;

    /// Begins to read it back: from what holds its bytes, and not from a cache, which may have what is not there.
    fn read_back(&self) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>>;

    /// The open file behind it, in a store that has [`Capabilities::kernel_file`]: a hint, for the kernel's own copy to
    /// a socket.
    fn file(&self) -> Option<SharedFile>;
}

/// An image that is read back piece by piece, and compared with what was stored. All of it blocks, and is for a thread
/// whose reads nobody waits for. It holds one piece, and the digests of all.
pub trait ReadBack: Send {
    /// How many pieces there are.
    fn count(&self) -> u64;

    /// Whether the image was removed: it would keep its space until the last byte was read.
    fn is_removed(&self) -> bool;

    /// The first piece from this one on that is not known to be good without reading it: all before it are holes, and
    /// were stored so.
    fn next_in_doubt(&self, from: u64) -> io::Result<Option<u64>>;

    /// Reads a piece.
    fn piece(&mut self, index: u64) -> io::Result<PieceRead<'_>>;
}

/// One piece of an image that is read back.
#[derive(Debug)]
pub struct PieceRead<'a> {
    /// What it holds.
    pub bytes: &'a [u8],
    /// How many of them were read. Holes are not.
    pub read: u64,
    /// Whether it is as it was stored.
    pub is_whole: bool,
}

/// A part of an image that is all data or all hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The range of bytes.
    pub extent: Extent,
    /// Whether it reads as zero without touching the disk.
    pub hole: bool,
}

/// Why a store could not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Free space, less what is set aside, does not hold it.
    #[error("no space left on the store")]
    NoSpace,
    /// The file system cannot hold a file of this size.
    #[error("the file system holds no file of this size")]
    TooLarge,
    /// No image has this id.
    #[error("no image {0}")]
    Missing(ContentId),
    /// The image or its pieces are not as they were stored.
    #[error("image {0} is damaged: {1}")]
    Damaged(ContentId, &'static str),
    /// The store does not do this: see [`Capabilities`].
    #[error("the store does not do this")]
    Unsupported,
    /// The backend failed.
    #[error("the store failed")]
    Io(#[source] io::Error),
}

/// Why an image is damaged whose bytes have not the digests that they were stored with.
pub const CHANGED: &str = "bytes of it are not those that were stored";
/// Why an image is damaged of which the disk gives back an error.
pub const UNREADABLE: &str = "the disk cannot read all of its bytes";

impl StoreError {
    /// What a failure to read an image means.
    pub fn of_read(id: ContentId, error: io::Error) -> Self {
        if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
            // A block that the disk cannot read any more is lost, and trying again tells nothing new.
            Self::Damaged(id, UNREADABLE)
        } else {
            Self::Io(error)
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ => Self::Io(error),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::new(FaultKind::NoSpace, "the storage has no room for this").because(error),
            StoreError::TooLarge => Self::new(FaultKind::TooLarge, "the storage cannot hold a drive of this size"),
            StoreError::Missing(_) | StoreError::Unsupported | StoreError::Io(_) => Self::internal(error),
            StoreError::Damaged(..) => {
                Self::new(FaultKind::Corrupt, "the stored bytes are damaged and are not served").because(error)
            }
        }
    }
}
