//! Contents of drives as sparse files on a local file system.
//!
//! ```text
//! root/drives/<content>/image     the bytes; holes where they are zero
//! root/drives/<content>/pieces    their piece digests, see `sidecar`
//! root/drives/<content>           what was uploaded in one piece: the bytes, the digest in an attribute
//! root/incoming/<content>         a draft or an unfinished clone, in either form
//! root/trash/<content>-<random>   removed, and being unlinked
//! root/lost/<content>             what nobody knows, set aside
//! ```
//! A copy of these directories must keep extended attributes and holes (`cp --archive`, `rsync --archive --xattrs
//! --sparse`).
//!
//! # Crash
//! Nothing that a process before has left is appended to. Bytes and digests are flushed before they have a place in
//! `drives/`, and a draft whose flush failed never gets one; names are in the file system's journal, which stops at a
//! write that fails, so that a later flush of them does not lie.
//!
//! A content enters `drives/` by one rename, after everything in it was flushed, and leaves by one rename. So after
//! a crash `drives/` holds whole contents only, and what the other two hold is leftovers.
//!
//! # Cancellation
//! When a future is dropped, its step on disk goes on if it has begun, and never begins if it has not. Steps on one id
//! exclude each other, so a removal that follows finds whatever the step left, published or not.

mod files;
mod flush;
mod holes;
mod lost;
mod readback;
mod sidecar;
mod steps;
#[cfg(test)]
pub(super) mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::task::AbortOnDropHandle;

use self::files::length;
use self::readback::{LocalReadBack, is_unlinked};
use self::steps::{Begun, Form, Opened, Steps};
use super::{
    BlockStore, Boxed, Capabilities, Draft, DraftOptions, Image, Ledger, LostImage, ReadBack, Record, Removal,
    Reservation, Run, StoreError, Swept, data_runs, is_zero,
};
use crate::domain::{ByteCount, ContentId, CrashPoints, Extent, Pieces, UnixTime};
use crate::io::{ALIGN, Block, EngineFile, IoEngine, SharedBlock, SharedFile};

/// Whether drafts are written past the page cache (`O_DIRECT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Large drafts are, where the file system can.
    #[default]
    Auto,
    /// All are; a file system that cannot is refused.
    Always,
    /// None are.
    Never,
}

/// How a local store works.
#[derive(Clone, Debug, Default)]
pub struct LocalSettings {
    /// Whether drafts are written past the page cache.
    pub direct: Direct,
    /// Free space that is never given to drives.
    pub reserve: ByteCount,
    /// Where a test ends the process.
    pub crash: CrashPoints,
}

/// A store in one directory. Clones share it.
#[derive(Clone)]
pub struct LocalStore {
    engine: IoEngine,
    steps: Arc<Steps>,
}

impl LocalStore {
    /// Opens the store in `root`, which is made if it is missing. One process at a time; the caller sees to that.
    pub fn open(root: &Path, engine: IoEngine, settings: LocalSettings) -> Result<Self, StoreError> {
        Ok(Self { engine, steps: Arc::new(Steps::open(root, settings)?) })
    }

    /// Takes over what a version before contents had jobs hold, as far as it is that of jobs that are still to be done;
    /// removes the rest.
    pub async fn take_over_held(
        &self,
        is_wanted: impl Fn(ContentId) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        self.step(move |steps| steps.take_over_held(&is_wanted)).await
    }

    /// Runs a step on the disk where it may block.
    fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Steps) -> Result<T, StoreError> + Send + 'static,
    ) -> Boxed<'static, Result<T, StoreError>> {
        let steps = Arc::clone(&self.steps);
        Box::pin(blocking(move || work(&steps)))
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("engine", &self.engine.name()).finish_non_exhaustive()
    }
}

impl BlockStore for LocalStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { shares_clones: self.steps.can_share, grows: true, kernel_file: true }
    }

    fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    fn space(&self) -> &Arc<Ledger> {
        &self.steps.ledger
    }

    fn draft(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Arc<dyn Draft>, StoreError>> {
        Box::pin(async move {
            let DraftOptions { expected, reservation, record } = options;
            let Begun { file, direct, form } = self.step(move |steps| steps.begin_draft(id, expected)).await?;
            let file = SharedFile::from(file);
            let draft = LocalDraft {
                store: self.clone(),
                id,
                engine_file: self.engine.adopt(file.clone()),
                file,
                form,
                direct,
                reservation: Arc::new(reservation),
                record,
                unproven: Arc::default(),
                ended: AtomicBool::new(false),
            };
            Ok(Arc::new(draft) as Arc<dyn Draft>)
        })
    }

    fn open(&self, id: ContentId) -> Boxed<'_, Result<Arc<dyn Image>, StoreError>> {
        Box::pin(async move {
            let opened = self.step(move |steps| steps.open_image(id, false)).await?;
            let size = length(&opened.file)?;
            let engine_file = self.engine.adopt(opened.file.clone());
            Ok(Arc::new(LocalImage { id, size, opened: Arc::new(opened), engine_file }) as Arc<dyn Image>)
        })
    }

    fn clone_image(
        &self,
        source: ContentId,
        target: ContentId,
        size: ByteCount,
        record: Record,
    ) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            // A copy may take minutes. Whoever drops this future wants it to end.
            let wanted = Arc::new(());
            let still_wanted = Arc::downgrade(&wanted);
            let outcome = self.step(move |steps| {
                steps.clone_image(source, (target, size), &record, &|| match still_wanted.strong_count() {
                    0 => Err(io::ErrorKind::Interrupted.into()),
                    _ => Ok(()),
                })
            });
            let outcome = outcome.await;
            drop(wanted);
            outcome
        })
    }

    fn grow(&self, id: ContentId, size: ByteCount) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |steps| steps.grow(id, size))
    }

    fn remove(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |steps| steps.remove(id))
    }

    fn empty_trash(&self) -> Boxed<'_, Result<(), StoreError>> {
        self.step(Steps::empty_trash)
    }

    fn sweep(
        &self,
        keep: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        is_running: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        forget_before: UnixTime,
    ) -> Boxed<'_, Result<Swept, StoreError>> {
        self.step(move |steps| steps.sweep(&*keep, &*is_running, forget_before))
    }

    fn images(&self) -> Boxed<'_, Result<Vec<ContentId>, StoreError>> {
        self.step(|steps| Ok(steps::ids_in(&steps.drives)?))
    }

    fn stored_at(&self, id: ContentId) -> Boxed<'_, Result<UnixTime, StoreError>> {
        self.step(move |steps| steps.stored_at(id))
    }

    fn lost(&self) -> Boxed<'_, Result<Vec<LostImage>, StoreError>> {
        self.step(Steps::lost_images)
    }

    fn bring_back(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |steps| steps.bring_back(id))
    }

    fn forget(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |steps| steps.forget(id))
    }
}

struct LocalDraft {
    store: LocalStore,
    id: ContentId,
    file: SharedFile,
    form: Form,
    engine_file: EngineFile,
    direct: bool,
    reservation: Arc<Reservation>,
    record: Record,
    /// Writes not known to have succeeded: running, failed, or dropped before they told.
    unproven: Arc<AtomicUsize>,
    /// Set by the first attempt to publish, which is the last (I5).
    ended: AtomicBool,
}

impl Draft for LocalDraft {
    fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Boxed<'static, io::Result<()>> {
        debug_assert!(range.start.is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64), "aligned by contract");
        let (Some(bytes), Some(padding)) = (data.get(range.clone()), padding(&data, range.end)) else {
            return Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) });
        };
        if !is_zero(padding) {
            // A block holds what its last user left in it, and the drive may be longer than this write (I11).
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::InvalidInput, "the padding is not zero")) });
        }
        self.unproven.fetch_add(1, Ordering::AcqRel);
        let mut writes = Vec::with_capacity(1);
        for run in data_runs(bytes) {
            let start = range.start + run.start;
            let mut end = range.start + run.end;
            if self.direct {
                // Only the last run of the last block: granules and blocks are multiples already.
                end = end.next_multiple_of(ALIGN);
            }
            writes.push(self.engine_file.write_at(data.clone(), start..end, offset + run.start as u64));
        }
        let came = ByteCount::new(range.len() as u64).unwrap_or(ByteCount::MAX);
        let (reservation, unproven) = (Arc::clone(&self.reservation), Arc::clone(&self.unproven));
        Box::pin(async move {
            let mut outcome = Ok(());
            for write in writes {
                outcome = outcome.and(write.await);
            }
            outcome?;
            reservation.settle(came);
            unproven.fetch_sub(1, Ordering::AcqRel);
            Ok(())
        })
    }

    fn reserve_more(&self, bytes: ByteCount) -> Result<(), StoreError> {
        self.reservation.extend(bytes)
    }

    fn publish(&self, size: ByteCount, pieces: Pieces) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if self.ended.swap(true, Ordering::AcqRel) {
                return Err(refused("the draft was published, or lost, before"));
            }
            if self.unproven.load(Ordering::Acquire) > 0 {
                return Err(refused("a write of the draft failed or has not ended"));
            }
            if pieces.0.len() as u64 > Pieces::spanned_by(size) {
                return Err(refused("more pieces than the size spans"));
            }
            // One step on one thread: for a small draft, each change of threads costs more than what it waits for.
            let (id, form, file, record) = (self.id, self.form, self.file.clone(), self.record.clone());
            self.store.step(move |steps| steps.publish_draft(id, form, &file, size, (&pieces, &record))).await
        })
    }
}

#[derive(Debug)]
struct LocalImage {
    id: ContentId,
    size: ByteCount,
    opened: Arc<Opened>,
    engine_file: EngineFile,
}

impl Image for LocalImage {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, block: Block, len: usize, offset: u64) -> Boxed<'_, (Block, io::Result<()>)> {
        let read = self.engine_file.read_at(block, len, offset);
        Box::pin(async move {
            let (block, outcome) = read.await;
            let whole = outcome.and_then(|n| if n == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            (block, whole)
        })
    }

    fn runs(&self, within: Extent) -> Boxed<'_, io::Result<Vec<Run>>> {
        let file = self.opened.file.clone();
        let size = self.size;
        Box::pin(async move {
            if within.offset.checked_add(within.len).is_none_or(|end| end > size.get()) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            tokio::task::spawn_blocking(move || holes::runs(&file, within)).await?
        })
    }

    fn pieces(&self) -> Boxed<'_, Result<Pieces, StoreError>> {
        let (opened, id, size) = (Arc::clone(&self.opened), self.id, self.size);
        Box::pin(blocking(move || opened.pieces(id, size)))
    }

    fn written(&self) -> Option<UnixTime> {
        self.opened.file.metadata().ok()?.modified().ok().map(UnixTime::from)
    }

    fn removal(&self) -> Removal {
        let file = self.opened.file.clone();
        Box::new(move || is_unlinked(&file))
    }

    fn read_back(&self) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        Box::pin(async {
            let pieces = self.pieces().await?;
            Ok(Box::new(LocalReadBack::new(self.opened.file.clone(), self.size, pieces)) as Box<dyn ReadBack>)
        })
    }

    fn file(&self) -> Option<SharedFile> {
        Some(self.opened.file.clone())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let step = AbortOnDropHandle::new(tokio::task::spawn_blocking(work));
    step.await.unwrap_or_else(|lost| Err(StoreError::Io(lost.into())))
}

/// The bytes from `end` up to the next multiple of [`ALIGN`].
fn padding(data: &[u8], end: usize) -> Option<&[u8]> {
    data.get(end..end.checked_next_multiple_of(ALIGN)?)
}

fn refused(why: &'static str) -> StoreError {
    StoreError::Io(io::Error::new(io::ErrorKind::InvalidInput, why))
}
