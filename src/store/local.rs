//! Drives as sparse files on a local file system.
//!
//! ```text
//! root/drives/<id>/image     the bytes; holes where they are zero
//! root/drives/<id>/pieces    their piece digests, see `sidecar`
//! root/incoming/<id>/        a draft or an unfinished clone, the same files
//! root/trash/<id>-<random>/  removed, and being unlinked
//! ```
//!
//! # Crash
//! A directory enters `drives/` by one rename, after everything in it was flushed, and leaves by one rename. So after
//! a crash `drives/` holds whole drives only, and what the other two hold is leftovers.
//!
//! # Cancellation
//! When a future is dropped, its step on disk goes on if it has begun, and never begins if it has not. Steps on one id
//! exclude each other, so a removal that follows finds whatever the step left, published or not.

mod holes;
mod sidecar;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio_util::task::AbortOnDropHandle;

use super::{BlockStore, Boxed, Draft, DraftOptions, Image, Ledger, Reservation, Run, StoreError, data_runs, is_zero};
use crate::domain::{ByteCount, CrashPoints, Extent, Pieces, VolumeId};
use crate::io::{ALIGN, Block, EngineFile, IoEngine, SharedBlock, probe};

/// Drafts smaller than this are written through the page cache: they are cheap either way, and their first reader
/// finds them there.
const DIRECT_FROM: ByteCount = ByteCount::mib(16);

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
#[derive(Clone, Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

impl LocalStore {
    /// Opens the store in `root`, which is made if it is missing. One process at a time; the caller sees to that.
    pub fn open(root: &Path, engine: IoEngine, settings: LocalSettings) -> Result<Self, StoreError> {
        let [drives, incoming, trash] = ["drives", "incoming", "trash"].map(|name| root.join(name));
        for dir in [&drives, &incoming, &trash] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        sync_dir(root)?;
        let can_direct = match settings.direct {
            Direct::Never => false,
            Direct::Auto => probe::direct_io(&incoming).is_ok(),
            Direct::Always => probe::direct_io(&incoming).map(|()| true)?,
        };
        let asked = incoming.clone();
        let ledger = Ledger::new(move || probe::free_space(&asked), settings.reserve);
        let busy = Busy::default();
        let LocalSettings { direct, crash, .. } = settings;
        let shared = Shared { drives, incoming, trash, engine, direct, can_direct, ledger, busy, crash };
        Ok(Self { shared: Arc::new(shared) })
    }

    #[cfg(test)]
    pub(super) fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Runs a step on the disk where it may block.
    fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Boxed<'static, Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(blocking(move || work(&shared)))
    }
}

impl BlockStore for LocalStore {
    fn reserve(&self, bytes: ByteCount) -> Result<Reservation, StoreError> {
        self.shared.ledger.reserve(bytes)
    }

    fn draft(&self, id: VolumeId, options: DraftOptions) -> Boxed<'_, Result<Arc<dyn Draft>, StoreError>> {
        Box::pin(async move {
            let wanted = match self.shared.direct {
                Direct::Auto => options.expected.is_none_or(|bytes| bytes >= DIRECT_FROM),
                Direct::Always => true,
                Direct::Never => false,
            };
            let (file, direct) = self.step(move |shared| shared.begin_draft(id, wanted)).await?;
            let file = Arc::new(file);
            let draft = LocalDraft {
                store: self.clone(),
                id,
                engine_file: self.shared.engine.adopt(Arc::clone(&file)),
                file,
                direct,
                reservation: Arc::new(options.reservation),
                unproven: Arc::default(),
                ended: AtomicBool::new(false),
            };
            Ok(Arc::new(draft) as Arc<dyn Draft>)
        })
    }

    fn open(&self, id: VolumeId) -> Boxed<'_, Result<Arc<dyn Image>, StoreError>> {
        Box::pin(async move {
            let (dir, file) = self.step(move |shared| shared.open_image(id, false)).await?;
            let size = length(&file)?;
            let file = Arc::new(file);
            let engine_file = self.shared.engine.adopt(Arc::clone(&file));
            Ok(Arc::new(LocalImage { id, dir, size, file, engine_file }) as Arc<dyn Image>)
        })
    }

    fn clone_image(&self, source: VolumeId, target: VolumeId) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            // A copy may take minutes. Whoever drops this future wants it to end.
            let wanted = Arc::new(());
            let still_wanted = Arc::downgrade(&wanted);
            let outcome = self.step(move |shared| {
                shared.clone_image(source, target, &|| match still_wanted.strong_count() {
                    0 => Err(io::ErrorKind::Interrupted.into()),
                    _ => Ok(()),
                })
            });
            let outcome = outcome.await;
            drop(wanted);
            outcome
        })
    }

    fn grow(&self, id: VolumeId, size: ByteCount) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |shared| shared.grow(id, size))
    }

    fn remove(&self, id: VolumeId) -> Boxed<'_, Result<(), StoreError>> {
        self.step(move |shared| shared.remove(id))
    }

    fn sweep(
        &self,
        keep: Arc<dyn Fn(VolumeId) -> bool + Send + Sync>,
        is_running: Arc<dyn Fn(VolumeId) -> bool + Send + Sync>,
    ) -> Boxed<'_, Result<Vec<VolumeId>, StoreError>> {
        self.step(move |shared| shared.sweep(&*keep, &*is_running))
    }
}

#[derive(Debug)]
struct Shared {
    drives: PathBuf,
    incoming: PathBuf,
    trash: PathBuf,
    engine: IoEngine,
    direct: Direct,
    can_direct: bool,
    ledger: Arc<Ledger>,
    busy: Busy,
    crash: CrashPoints,
}

/// The steps on disk. All of them block.
impl Shared {
    /// Makes an empty draft; tells whether its file is written past the page cache.
    fn begin_draft(&self, id: VolumeId, direct: bool) -> Result<(File, bool), StoreError> {
        let _claim = self.busy.claim(id);
        let dir = self.begin(id)?;
        let direct = direct && self.can_direct;
        let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        match create_file(&dir.join("image"), flags) {
            Ok(file) => Ok((file, direct)),
            // The file system may take direct I/O in one directory and refuse it in another (encryption, layers).
            Err(error) if direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                remove_if_there(fs::remove_file(dir.join("image")))?;
                Ok((create_file(&dir.join("image"), OFlags::empty())?, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// An empty directory in `incoming/`.
    fn begin(&self, id: VolumeId) -> Result<PathBuf, StoreError> {
        if let Some(earlier) = self.hide(&self.incoming, id)? {
            remove_if_there(fs::remove_dir_all(earlier))?;
        }
        let dir = place(&self.incoming, id);
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Makes what `incoming/` holds under this id visible. Its image must be flushed.
    fn publish(&self, id: VolumeId, pieces: &Pieces) -> Result<(), StoreError> {
        let (from, to) = (place(&self.incoming, id), place(&self.drives, id));
        sidecar::write(&from.join("pieces"), pieces)?;
        self.crash.hit("publish: pieces flushed");
        sync_dir(&from)?;
        self.crash.hit("publish: draft directory flushed");
        fs::rename(&from, &to)?;
        self.crash.hit("publish: renamed");
        if let Err(error) = sync_dir(&self.drives) {
            // Seen by everyone and perhaps gone tomorrow: better not seen.
            let _ = fs::rename(&to, &from);
            return Err(error.into());
        }
        self.crash.hit("publish: drives flushed");
        sync_dir(&self.incoming)?;
        self.crash.hit("publish: incoming flushed");
        Ok(())
    }

    fn open_image(&self, id: VolumeId, write: bool) -> Result<(PathBuf, File), StoreError> {
        let dir = place(&self.drives, id);
        match OpenOptions::new().read(true).write(write).open(dir.join("image")) {
            Ok(file) => Ok((dir, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(id)),
            Err(error) => Err(error.into()),
        }
    }

    fn clone_image(
        &self,
        source: VolumeId,
        target: VolumeId,
        go_on: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let _claim = self.busy.claim(target);
        if place(&self.drives, target).try_exists()? {
            // An earlier run got this far, and then nobody could write it down.
            sync_dir(&self.drives)?;
            return Ok(());
        }
        let outcome = self.copy_image(source, target, go_on);
        if outcome.is_err() {
            // Half a copy may be what fills the disk. What is not removed here is a leftover for the sweeper.
            let _ = self.discard(&self.incoming, target);
        }
        outcome
    }

    /// Copies, flushes and publishes. Leaves a draft when it fails.
    fn copy_image(
        &self,
        source: VolumeId,
        target: VolumeId,
        go_on: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let (source_dir, from) = self.open_image(source, false)?;
        let size = length(&from)?;
        let pieces = sidecar::read(&source_dir.join("pieces"), source, size)?;
        let to = create_file(&self.begin(target)?.join("image"), OFlags::empty())?;
        self.crash.hit("clone: begun");
        if !holes::share(&from, &to)? {
            let allocated = ByteCount::new(from.metadata()?.blocks().saturating_mul(512)).unwrap_or(ByteCount::MAX);
            let reservation = self.ledger.reserve(allocated)?;
            to.set_len(size.get())?;
            holes::copy(&from, &to, size, &mut |copied| {
                reservation.settle(copied);
                go_on()
            })?;
        }
        self.crash.hit("clone: copied");
        to.sync_all()?;
        self.crash.hit("clone: image flushed");
        self.publish(target, &pieces)
    }

    fn grow(&self, id: VolumeId, size: ByteCount) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        let (_, image) = self.open_image(id, true)?;
        if length(&image)? > size {
            return Err(StoreError::Io(io::Error::new(io::ErrorKind::InvalidInput, "a drive never shrinks")));
        }
        image.set_len(size.get())?;
        self.crash.hit("grow: length set");
        image.sync_all()?;
        self.crash.hit("grow: image flushed");
        Ok(())
    }

    fn remove(&self, id: VolumeId) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        self.discard(&self.drives, id)?;
        self.discard(&self.incoming, id)
    }

    /// Removes what one directory holds under this id, first from sight, durably, and then from the disk.
    fn discard(&self, dir: &Path, id: VolumeId) -> Result<(), StoreError> {
        let hidden = self.hide(dir, id)?;
        self.crash.hit("remove: renamed");
        // Also when nothing was there: an earlier run may have ended between its rename and this.
        sync_dir(dir)?;
        self.crash.hit("remove: flushed");
        if let Some(hidden) = hidden {
            remove_if_there(fs::remove_dir_all(hidden))?;
            self.crash.hit("remove: unlinked");
        }
        Ok(())
    }

    /// Moves what one directory holds under this id to the trash; answers where it is then.
    fn hide(&self, dir: &Path, id: VolumeId) -> io::Result<Option<PathBuf>> {
        // A random name: the trash may still hold the last thing that had this id.
        let hidden = self.trash.join(format!("{id}-{}", uuid::Uuid::new_v4()));
        match fs::rename(place(dir, id), &hidden) {
            Ok(()) => Ok(Some(hidden)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sweep(
        &self,
        keep: &dyn Fn(VolumeId) -> bool,
        is_running: &dyn Fn(VolumeId) -> bool,
    ) -> Result<Vec<VolumeId>, StoreError> {
        let mut removed = Vec::new();
        // A row is written before its bytes and these are listed before the rows are asked, so what is listed and has
        // no row now will never have one.
        for id in ids_in(&self.drives)? {
            if !keep(id) {
                self.remove(id)?;
                removed.push(id);
            }
        }
        for id in ids_in(&self.incoming)? {
            if !keep(id) || !is_running(id) {
                let _claim = self.busy.claim(id);
                self.discard(&self.incoming, id)?;
                removed.push(id);
            }
        }
        for entry in fs::read_dir(&self.trash)? {
            remove_if_there(fs::remove_dir_all(entry?.path()))?;
        }
        removed.sort_unstable();
        removed.dedup();
        Ok(removed)
    }
}

#[derive(Debug)]
struct LocalDraft {
    store: LocalStore,
    id: VolumeId,
    file: Arc<File>,
    engine_file: EngineFile,
    direct: bool,
    reservation: Arc<Reservation>,
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
            let file = Arc::clone(&self.file);
            blocking(move || Ok(file.set_len(size.get())?)).await?;
            self.store.shared.crash.hit("publish: length set");
            // fdatasync flushes a changed length too: the data could not be read back without it (fdatasync(2)).
            self.engine_file.sync().await?;
            self.store.shared.crash.hit("publish: image flushed");
            let id = self.id;
            let publish = move |shared: &Shared| {
                let _claim = shared.busy.claim(id);
                shared.publish(id, &pieces)
            };
            self.store.step(publish).await
        })
    }
}

#[derive(Debug)]
struct LocalImage {
    id: VolumeId,
    dir: PathBuf,
    size: ByteCount,
    file: Arc<File>,
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
        let file = Arc::clone(&self.file);
        let size = self.size;
        Box::pin(async move {
            if within.offset.checked_add(within.len).is_none_or(|end| end > size.get()) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            tokio::task::spawn_blocking(move || holes::runs(&file, within)).await?
        })
    }

    fn pieces(&self) -> Boxed<'_, Result<Pieces, StoreError>> {
        let (path, id, size) = (self.dir.join("pieces"), self.id, self.size);
        Box::pin(blocking(move || sidecar::read(&path, id, size)))
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(Arc::clone(&self.file))
    }
}

/// The ids on which a step is under way. Steps on one id wait for each other, on threads that may block.
#[derive(Debug, Default)]
struct Busy {
    ids: Mutex<HashSet<VolumeId>>,
    freed: Condvar,
}

impl Busy {
    fn claim(&self, id: VolumeId) -> Claim<'_> {
        let mut ids = self.ids();
        while !ids.insert(id) {
            ids = self.freed.wait(ids).unwrap_or_else(PoisonError::into_inner);
        }
        Claim { busy: self, id }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<VolumeId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Claim<'a> {
    busy: &'a Busy,
    id: VolumeId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.busy.ids().remove(&self.id);
        self.busy.freed.notify_all();
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

fn place(dir: &Path, id: VolumeId) -> PathBuf {
    dir.join(id.to_string())
}

fn ids_in(dir: &Path) -> io::Result<Vec<VolumeId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        // What is not named by an id is not ours to remove.
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<VolumeId>().ok()));
    }
    Ok(ids)
}

fn create_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)
}

fn length(file: &File) -> io::Result<ByteCount> {
    Ok(ByteCount::new(file.metadata()?.len()).unwrap_or(ByteCount::MAX))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_if_there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
