//! Contents of drives as sparse files on a local file system.
//!
//! ```text
//! root/drives/<content>/image     the bytes; holes where they are zero
//! root/drives/<content>/pieces    their piece digests, see `sidecar`
//! root/drives/<content>           a drive that was uploaded with one piece: the bytes; the digest in an attribute
//! root/incoming/<content>         a draft or an unfinished clone, in either form
//! root/incoming/<content>/map.*   what of a draft that is kept is there, see `kept`
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

mod copies;
mod files;
mod flush;
mod holes;
mod kept;
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

use self::copies::Source;
use self::files::length;
use self::kept::Kept;
use self::readback::{LocalReadBack, is_unlinked};
use self::steps::{Begun, Form, Opened, Steps};
use super::{
    BlockStore, Boxed, Capabilities, Draft, DraftOptions, Image, Ledger, LostImage, PieceMap, ReadBack, Record,
    Removal, Reservation, Resumed, Run, StoreError, Swept, data_runs, is_zero,
};
use crate::domain::{ByteCount, ContentId, CrashPoints, Extent, Pieces, Shortage, UnixTime};
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
    /// While this is on, what there is of that is the database's, and no bytes are written.
    pub shortage: Shortage,
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

    /// Counts the contents that a directory holds in which such a store may be. Opens none, and makes nothing.
    pub fn count(root: &Path) -> io::Result<usize> {
        steps::count(root)
    }

    /// Takes over what a version before contents had jobs hold, as far as it is that of jobs that are still to be done;
    /// removes the rest.
    pub async fn take_over_held(
        &self,
        is_wanted: impl Fn(ContentId) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        self.step(move |steps| steps.take_over_held(&is_wanted)).await
    }

    fn drafted(&self, id: ContentId, begun: Begun, kept: Option<Kept>, options: DraftOptions) -> Arc<dyn Draft> {
        let Begun { file, direct, form } = begun;
        let file = SharedFile::from(file);
        Arc::new(LocalDraft {
            store: self.clone(),
            id,
            engine_file: self.engine.adopt(file.clone()),
            file,
            form,
            direct,
            kept: kept.map(Arc::new),
            reservation: Arc::new(options.reservation),
            record: options.record,
            unproven: Arc::default(),
            ended: AtomicBool::new(false),
        })
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
            let (expected, is_kept) = (options.expected, options.is_kept);
            let (begun, kept) = self
                .step(move |steps| {
                    let begun = steps.begin_draft(id, expected, is_kept)?;
                    let kept = if is_kept { Some(steps.keep(id)?) } else { None };
                    Ok((begun, kept))
                })
                .await?;
            Ok(self.drafted(id, begun, kept, options))
        })
    }

    fn resume(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Resumed, StoreError>> {
        Box::pin(async move {
            let expected = options.expected;
            let (begun, kept, map) = self.step(move |steps| steps.resume_draft(id, expected)).await?;
            Ok((self.drafted(id, begun, Some(kept), options), map))
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

    fn read_source(&self, id: ContentId) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        self.step(move |steps| {
            let Source { file, .. } = steps.open_source(id)?;
            let size = length(&file)?;
            Ok(Box::new(LocalReadBack::cached(file, size)) as Box<dyn ReadBack>)
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
    /// Of a draft that is kept.
    kept: Option<Arc<Kept>>,
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
        let is_kept = self.kept.is_some();
        if is_kept && !range.end.is_multiple_of(ALIGN) {
            return Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) });
        }
        if let Err(refused) = self.reservation.admit_write() {
            // Bytes are missing for good, unless it is kept: then they are not in its map, and are written again.
            self.unproven.fetch_add(usize::from(!is_kept), Ordering::AcqRel);
            return Box::pin(async { Err(refused) });
        }
        self.unproven.fetch_add(1, Ordering::AcqRel);
        let (runs, came) = match &self.kept {
            Some(kept) => kept.write(bytes, offset),
            None => (data_runs(bytes).collect(), range.len() as u64),
        };
        let not_zero: usize = runs.iter().map(ExactSizeIterator::len).sum();
        let claim = match self.reservation.claim(came.min(not_zero as u64)) {
            Ok(claim) => claim,
            Err(refused) => {
                if let Some(kept) = &self.kept {
                    kept.did_not_come(offset..offset + range.len() as u64);
                    self.unproven.fetch_sub(1, Ordering::AcqRel);
                }
                return Box::pin(async { Err(refused) });
            }
        };
        let mut writes = Vec::with_capacity(1);
        for run in runs {
            let start = range.start + run.start;
            let mut end = range.start + run.end;
            if self.direct {
                // Only the last run of the last block: granules and blocks are multiples already.
                end = end.next_multiple_of(ALIGN);
            }
            writes.push(self.engine_file.write_at(data.clone(), start..end, offset + run.start as u64));
        }
        let (reservation, unproven) = (Arc::clone(&self.reservation), Arc::clone(&self.unproven));
        Box::pin(async move {
            let mut outcome = Ok(());
            for write in writes {
                outcome = outcome.and(write.await);
            }
            outcome = outcome.inspect_err(|error| reservation.note_failure(error));
            let came = if outcome.is_ok() { came } else { 0 };
            reservation.settle_write(claim, ByteCount::new(came).unwrap_or(ByteCount::MAX));
            if outcome.is_ok() || is_kept {
                unproven.fetch_sub(1, Ordering::AcqRel);
            }
            outcome
        })
    }

    fn write_edge(&self, bytes: Vec<u8>, offset: u64) -> Boxed<'static, io::Result<()>> {
        let end = offset + bytes.len() as u64;
        let is_within = bytes.is_empty() || offset / ALIGN as u64 == (end - 1) / ALIGN as u64;
        let Some(kept) = self.kept.clone().filter(|_| is_within) else {
            return Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) });
        };
        let (file, reservation) = (self.file.clone(), Arc::clone(&self.reservation));
        if let Err(refused) = reservation.admit_write() {
            return Box::pin(async { Err(refused) });
        }
        let write = tokio::task::spawn_blocking(move || {
            let claim = reservation.claim(bytes.len() as u64)?;
            let written = kept.write_edge(&file, &bytes, offset);
            reservation.settle_write(claim, *written.as_ref().unwrap_or(&ByteCount::ZERO));
            written.map(|_| ())
        });
        Box::pin(async { write.await? })
    }

    fn zero(&self, extent: Extent) -> Boxed<'static, io::Result<()>> {
        let Some(kept) = self.kept.clone() else {
            return Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) });
        };
        let (file, reservation) = (self.file.clone(), Arc::clone(&self.reservation));
        let zero = tokio::task::spawn_blocking(move || {
            let came = kept.zero(&file, extent)?;
            reservation.settle_zeros(came);
            Ok(())
        });
        Box::pin(async { zero.await? })
    }

    fn copy(&self, source: ContentId, from: Extent, to: u64) -> Boxed<'static, io::Result<()>> {
        let Some(kept) = self.kept.clone() else {
            return Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) });
        };
        let (id, steps, reservation) = (self.id, self.store.steps.clone(), Arc::clone(&self.reservation));
        let copy = tokio::task::spawn_blocking(move || {
            let copied = steps.copy_into_draft((id, &*kept), source, (from, to), &reservation);
            copied.inspect_err(|error| reservation.note_failure(error))
        });
        Box::pin(async { copy.await? })
    }

    fn checkpoint(&self, map: PieceMap) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(kept) = self.kept.clone() else { return Err(refused("the draft is not kept")) };
            if self.ended.load(Ordering::Acquire) || kept.is_lost() {
                return Err(refused("the draft was published, or lost, before"));
            }
            let (id, file) = (self.id, self.file.clone());
            self.store.step(move |steps| steps.checkpoint(id, &file, &kept, &map)).await
        })
    }

    fn read_back(&self, size: ByteCount) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        let (id, form) = (self.id, self.form);
        Box::pin(async move {
            let file = self.store.step(move |steps| steps.open_draft(id, form)).await?;
            Ok(Box::new(LocalReadBack::new(file.into(), size, Pieces::default())) as Box<dyn ReadBack>)
        })
    }

    fn reserve_more(&self, bytes: ByteCount) -> Result<(), StoreError> {
        self.reservation.extend(bytes)
    }

    fn publish(&self, size: ByteCount, pieces: Pieces) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let is_lost = self.kept.as_ref().is_some_and(|kept| kept.is_lost());
            if self.ended.swap(true, Ordering::AcqRel) || is_lost {
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
