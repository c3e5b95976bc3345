//! A store in memory: the reference that the other stores are compared with, and that can lose its power. For tests.
//!
//! What it holds is there twice: as it is now, and as it is after a power cut. Every operation changes the first; what
//! is flushed of one id makes the second like the first in that. So whatever was not flushed is gone after a cut, which
//! is the worst that a disk may do.
//!
//! # Crash
//! Between any two steps of an operation the power may go. An operation that it takes never ends, like one of a process
//! that is no more.

mod sparse;
pub(super) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tokio::sync::Notify;

use self::sparse::Sparse;
use super::{
    BlockStore, Boxed, CHANGED, Capabilities, Draft, DraftOptions, Image, Ledger, LostImage, PieceMap, PieceRead,
    ReadBack, Record, Removal, Reservation, Resumed, Run, StoreError, Swept, is_zero, piece_digest, stored_digest,
    zero_piece,
};
use crate::domain::{
    ByteCount, Clock as _, ContentId, Extent, Extents, PIECE, Pieces, SystemClock, TenantId, UnixTime, VolumeId,
};
use crate::io::{ALIGN, Block, SharedBlock, SharedFile};

/// A store in memory. Clones share it.
#[derive(Clone)]
pub(super) struct MemoryStore {
    capabilities: Capabilities,
    state: Arc<Mutex<State>>,
    ledger: Arc<Ledger>,
    /// Rung when the power goes.
    cut: Arc<Notify>,
}

struct State {
    now: Held,
    /// What is left after a power cut.
    durable: Held,
    room: u64,
    /// Names the drafts, so that a write to one that was replaced changes nothing.
    drafts: u64,
    /// What the next flush fails with.
    flush_fault: Option<Errno>,
    /// Steps that are left until the power goes.
    left: Option<u64>,
}

#[derive(Clone, Default)]
struct Held {
    images: BTreeMap<ContentId, Arc<Stored>>,
    drafts: BTreeMap<ContentId, Begun>,
    lost: BTreeMap<ContentId, Arc<Stored>>,
}

/// A published image.
#[derive(Clone)]
struct Stored {
    bytes: Sparse,
    size: ByteCount,
    pieces: Pieces,
    record: Record,
    since: UnixTime,
}

/// A draft.
#[derive(Clone)]
struct Begun {
    serial: u64,
    bytes: Sparse,
    /// What of it is there, as of the last checkpoint, of one that is kept.
    map: Option<PieceMap>,
}

impl State {
    /// Makes what is held under this id durable, as it is.
    fn flush(&mut self, id: ContentId) -> io::Result<()> {
        if let Some(fault) = self.flush_fault.take() {
            return Err(fault.into());
        }
        copy(id, &self.now.images, &mut self.durable.images);
        copy(id, &self.now.drafts, &mut self.durable.drafts);
        copy(id, &self.now.lost, &mut self.durable.lost);
        Ok(())
    }

    /// What bytes may be taken from under this id, and how many there are.
    fn source(&self, id: ContentId) -> Option<(Sparse, ByteCount)> {
        let draft = || self.now.drafts.get(&id).filter(|begun| begun.map.is_some());
        match self.now.images.get(&id) {
            Some(stored) => Some((stored.bytes.clone(), stored.size)),
            None => draft().map(|begun| (begun.bytes.clone(), begun.bytes.end())),
        }
    }

    /// The bytes that all of it takes.
    fn taken(&self) -> u64 {
        let mut seen = HashSet::new();
        let images = self.now.images.values().chain(self.now.lost.values()).map(|stored| &stored.bytes);
        let all = images.chain(self.now.drafts.values().map(|begun| &begun.bytes));
        all.map(|bytes| bytes.taken_beside(&mut seen)).sum()
    }
}

fn copy<T: Clone>(id: ContentId, from: &BTreeMap<ContentId, T>, to: &mut BTreeMap<ContentId, T>) {
    match from.get(&id) {
        Some(held) => to.insert(id, held.clone()),
        None => to.remove(&id),
    };
}

impl MemoryStore {
    /// An empty store with this much room, that can do this much.
    pub(super) fn new(room: ByteCount, capabilities: Capabilities) -> Self {
        let state = State {
            now: Held::default(),
            durable: Held::default(),
            room: room.get(),
            drafts: 0,
            flush_fault: None,
            left: None,
        };
        let state = Arc::new(Mutex::new(state));
        let asked = state.clone();
        let free = move || {
            let state = lock(&asked);
            Ok(ByteCount::new(state.room.saturating_sub(state.taken())).unwrap_or(ByteCount::MAX))
        };
        Self { capabilities, state, ledger: Ledger::new(free, ByteCount::ZERO), cut: Arc::default() }
    }

    /// Loses what was not flushed. Drafts that are open from before are those of a process that is no more.
    pub(super) fn lose_power(&self) {
        let mut state = self.state();
        state.now = state.durable.clone();
    }

    /// Makes the power go after so many steps.
    pub(super) fn lose_power_after(&self, steps: u64) {
        self.state().left = Some(steps);
    }

    /// Waits until the power has gone.
    pub(super) async fn power_lost(&self) {
        self.cut.notified().await;
    }

    /// A step has been done, and the next has not begun.
    async fn step(&self) {
        let is_cut = {
            let mut state = self.state();
            state.left = state.left.map(|left| left.saturating_sub(1));
            state.left == Some(0)
        };
        if is_cut {
            self.state().left = None;
            self.lose_power();
            self.cut.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn drafted(&self, id: ContentId, serial: u64, options: DraftOptions, came: Extents) -> Arc<dyn Draft> {
        let DraftOptions { reservation, record, is_kept, .. } = options;
        let writes = Arc::new(Mutex::new(Writes { came, ..Writes::default() }));
        Arc::new(MemoryDraft {
            store: self.clone(),
            id,
            serial,
            reservation: Arc::new(reservation),
            record,
            is_kept,
            writes,
        })
    }

    fn flush(&self, id: ContentId) -> Result<(), StoreError> {
        Ok(self.state().flush(id)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Publishes an image and makes that durable.
    async fn publish(&self, id: ContentId, stored: Stored) -> Result<(), StoreError> {
        {
            let mut state = self.state();
            if state.now.images.contains_key(&id) {
                return Err(refused(io::ErrorKind::AlreadyExists));
            }
            state.now.drafts.remove(&id);
            state.now.images.insert(id, Arc::new(stored));
        }
        self.step().await;
        self.flush(id)?;
        self.step().await;
        Ok(())
    }

    /// Lets `change` move an image, and makes that durable.
    async fn moved(
        &self,
        id: ContentId,
        change: impl FnOnce(&mut Held) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        change(&mut self.state().now)?;
        self.step().await;
        self.flush(id)?;
        self.step().await;
        Ok(())
    }

    async fn copy(
        &self,
        source: ContentId,
        (target, size): (ContentId, ByteCount),
        record: Record,
    ) -> Result<(), StoreError> {
        if self.state().now.images.contains_key(&target) {
            return self.flush(target);
        }
        self.ledger.admit_write()?;
        // What an earlier attempt left.
        self.state().now.drafts.remove(&target);
        let from = self.state().now.images.get(&source).cloned().ok_or(StoreError::Missing(source))?;
        let mut bytes = from.bytes.clone();
        if !self.capabilities.shares_clones {
            from.check(source)?;
            let reservation = self.ledger.reserve(ByteCount::new(bytes.taken()).unwrap_or(ByteCount::MAX))?;
            bytes = bytes.unshared();
            drop(reservation);
        }
        bytes.truncate(size.get());
        self.publish(target, Stored { bytes, size, pieces: from.pieces.clone(), record, since: now() }).await
    }

    async fn swept(
        &self,
        keep: &(dyn Fn(ContentId) -> bool + Send + Sync),
        is_running: &(dyn Fn(ContentId) -> bool + Send + Sync),
        forget_before: UnixTime,
    ) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let lost: Vec<_> = self.state().now.lost.iter().map(|(id, stored)| (*id, stored.since)).collect();
        for (id, since) in lost {
            let is_there = self.state().now.images.contains_key(&id);
            if keep(id) && !is_there {
                self.bring_back(id).await?;
                swept.returned += 1;
            } else if since < forget_before {
                self.forget(id).await?;
                swept.forgotten += 1;
            }
        }
        for id in self.ids() {
            if !keep(id) {
                let taken = |stored: Arc<Stored>| stored.bytes.taken();
                swept.bytes += self.state().now.images.get(&id).cloned().map_or(0, taken);
                self.moved(id, |held| move_image(id, &mut held.images, &mut held.lost)).await?;
                swept.set_aside.push(id);
            }
        }
        let drafts: Vec<_> = self.state().now.drafts.keys().copied().collect();
        for id in drafts.into_iter().filter(|id| !keep(*id) || !is_running(*id)) {
            self.moved(id, |held| {
                held.drafts.remove(&id);
                Ok(())
            })
            .await?;
            swept.removed.push(id);
        }
        Ok(swept)
    }

    fn ids(&self) -> Vec<ContentId> {
        self.state().now.images.keys().copied().collect()
    }
}

/// Moves an image, which is younger then.
fn move_image(
    id: ContentId,
    from: &mut BTreeMap<ContentId, Arc<Stored>>,
    to: &mut BTreeMap<ContentId, Arc<Stored>>,
) -> Result<(), StoreError> {
    if to.contains_key(&id) {
        return Err(refused(io::ErrorKind::AlreadyExists));
    }
    let mut stored = from.remove(&id).ok_or(StoreError::Missing(id))?;
    Arc::make_mut(&mut stored).since = now();
    to.insert(id, stored);
    Ok(())
}

impl Stored {
    /// Compares each piece with its digest.
    fn check(&self, id: ContentId) -> Result<(), StoreError> {
        let mut piece = Vec::new();
        let is_whole = (0..Pieces::spanned_by(self.size)).all(|index| self.read_piece(index, &mut piece));
        if is_whole { Ok(()) } else { Err(StoreError::Damaged(id, CHANGED)) }
    }

    /// The bytes of a piece; whether they are as they were stored.
    fn read_piece(&self, index: u64, piece: &mut Vec<u8>) -> bool {
        let extent = self.extent(index);
        piece.resize(extent.len as usize, 0);
        self.bytes.read(extent.offset, piece);
        piece_digest(piece) == stored_digest(&self.pieces, index)
    }

    fn extent(&self, index: u64) -> Extent {
        let offset = index * PIECE;
        Extent { offset, len: self.size.get().saturating_sub(offset).min(PIECE) }
    }
}

impl BlockStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn space(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn draft(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Arc<dyn Draft>, StoreError>> {
        Box::pin(async move {
            let serial = {
                let mut state = self.state();
                state.drafts += 1;
                let serial = state.drafts;
                let map = options.is_kept.then(PieceMap::default);
                state.now.drafts.insert(id, Begun { serial, bytes: Sparse::default(), map });
                serial
            };
            self.step().await;
            if options.is_kept {
                self.flush(id)?;
                self.step().await;
            }
            Ok(self.drafted(id, serial, options, Extents::default()))
        })
    }

    fn resume(&self, id: ContentId, options: DraftOptions) -> Boxed<'_, Result<Resumed, StoreError>> {
        Box::pin(async move {
            let (serial, map) = {
                let mut state = self.state();
                state.drafts += 1;
                let serial = state.drafts;
                let begun = state.now.drafts.get_mut(&id).ok_or(StoreError::Missing(id))?;
                let map = begun.map.clone().ok_or(StoreError::Missing(id))?;
                begun.serial = serial;
                begun.bytes.keep_only(map.extents());
                (serial, map)
            };
            self.step().await;
            self.flush(id)?;
            self.step().await;
            let came = map.extents().clone();
            Ok((self.drafted(id, serial, options, came), map))
        })
    }

    fn open(&self, id: ContentId) -> Boxed<'_, Result<Arc<dyn Image>, StoreError>> {
        let stored = self.state().now.images.get(&id).cloned();
        let open = |stored| Arc::new(MemoryImage { store: self.clone(), id, stored }) as Arc<dyn Image>;
        let opened = stored.map(open).ok_or(StoreError::Missing(id));
        Box::pin(async { opened })
    }

    fn clone_image(
        &self,
        source: ContentId,
        target: ContentId,
        size: ByteCount,
        record: Record,
    ) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.copy(source, (target, size), record))
    }

    fn read_source(&self, id: ContentId) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        let read = self.state().source(id).ok_or(StoreError::Missing(id)).map(|(bytes, size)| {
            let stored = Stored { bytes, size, pieces: Pieces::default(), record: nobody(), since: now() };
            let removal: Removal = Box::new(|| false);
            Box::new(MemoryReadBack { stored: Arc::new(stored), removal, piece: Vec::new() }) as Box<dyn ReadBack>
        });
        Box::pin(async { read })
    }

    fn grow(&self, id: ContentId, size: ByteCount) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if !self.capabilities.grows {
                return Err(StoreError::Unsupported);
            }
            self.moved(id, |held| {
                let stored = held.images.get_mut(&id).ok_or(StoreError::Missing(id))?;
                if stored.size > size {
                    return Err(refused(io::ErrorKind::InvalidInput));
                }
                Arc::make_mut(stored).size = size;
                Ok(())
            })
            .await
        })
    }

    fn remove(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.moved(id, move |held| {
            held.images.remove(&id);
            held.drafts.remove(&id);
            Ok(())
        }))
    }

    fn empty_trash(&self) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn sweep(
        &self,
        keep: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        is_running: Arc<dyn Fn(ContentId) -> bool + Send + Sync>,
        forget_before: UnixTime,
    ) -> Boxed<'_, Result<Swept, StoreError>> {
        Box::pin(async move { self.swept(&*keep, &*is_running, forget_before).await })
    }

    fn images(&self) -> Boxed<'_, Result<Vec<ContentId>, StoreError>> {
        Box::pin(async { Ok(self.ids()) })
    }

    fn stored_at(&self, id: ContentId) -> Boxed<'_, Result<UnixTime, StoreError>> {
        let since = self.state().now.images.get(&id).map(|stored| stored.since).ok_or(StoreError::Missing(id));
        Box::pin(async { since })
    }

    fn lost(&self) -> Boxed<'_, Result<Vec<LostImage>, StoreError>> {
        let told = |(id, stored): (&ContentId, &Arc<Stored>)| LostImage {
            id: *id,
            size: stored.size,
            record: Some(stored.record.clone()),
        };
        let lost = self.state().now.lost.iter().map(told).collect();
        Box::pin(async { Ok(lost) })
    }

    fn bring_back(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.moved(id, move |held| move_image(id, &mut held.lost, &mut held.images)))
    }

    fn forget(&self, id: ContentId) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.moved(id, move |held| {
            held.lost.remove(&id);
            Ok(())
        }))
    }
}

struct MemoryDraft {
    store: MemoryStore,
    id: ContentId,
    serial: u64,
    reservation: Arc<Reservation>,
    record: Record,
    is_kept: bool,
    writes: Arc<Mutex<Writes>>,
}

#[derive(Default)]
struct Writes {
    /// Not known to have succeeded.
    unproven: usize,
    is_ended: bool,
    /// The bytes that came: what is written again takes no more space.
    came: Extents,
}

impl MemoryDraft {
    /// Puts bytes into the draft, if it was not replaced or removed.
    fn put(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.store.state();
        if let Some(begun) = state.now.drafts.get_mut(&self.id).filter(|begun| begun.serial == self.serial) {
            begun.bytes.write(offset, bytes);
        }
        if state.taken() > state.room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Boxed<'static, io::Result<()>> {
        self.writes().unproven += 1;
        let data = if is_zero(bytes) { 0 } else { bytes.len() as u64 };
        let outcome = self.reservation.admit_write().and_then(|()| self.reservation.claim(data)).and_then(|claim| {
            let put = self.put(offset, bytes);
            let came = if put.is_ok() { self.come(offset..offset + bytes.len() as u64) } else { ByteCount::ZERO };
            self.reservation.settle_write(claim, came);
            put
        });
        let (writes, is_kept) = (self.writes.clone(), self.is_kept);
        Box::pin(async move {
            if outcome.is_ok() || is_kept {
                lock(&writes).unproven -= 1;
            }
            outcome
        })
    }

    /// Puts bytes of another image or draft into this one.
    fn take_over(&self, source: ContentId, from: Extent, to: u64) -> io::Result<()> {
        self.reservation.admit_write()?;
        let claim = self.reservation.claim(from.len)?;
        let copied = self.copied(source, from, to);
        let came = if copied.is_ok() { self.come(to..to + from.len) } else { ByteCount::ZERO };
        self.reservation.settle_write(claim, came);
        copied
    }

    fn copied(&self, source: ContentId, from: Extent, to: u64) -> io::Result<()> {
        let mut state = self.store.state();
        let (bytes, size) = state.source(source).ok_or(io::ErrorKind::NotFound)?;
        if state.now.images.contains_key(&source) && size.get() < from.end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let shares = self.store.capabilities.shares_clones;
        if let Some(begun) = state.now.drafts.get_mut(&self.id).filter(|begun| begun.serial == self.serial) {
            begun.bytes.take_over(&bytes, from, to, shares);
        }
        drop(bytes);
        if state.taken() > state.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Notes bytes that came; returns how many of them came for the first time.
    fn come(&self, range: Range<u64>) -> ByteCount {
        let mut writes = self.writes();
        let before: u64 = writes.came.within(range.clone()).map(|part| part.end - part.start).sum();
        let new = range.end - range.start - before;
        writes.came.insert(range);
        ByteCount::new(new).unwrap_or(ByteCount::MAX)
    }

    /// A failed flush is never retried (I5).
    fn flush_or_lose(&self) -> Result<(), StoreError> {
        let flushed = self.store.flush(self.id);
        self.writes().is_ended |= flushed.is_err();
        flushed
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        lock(&self.writes)
    }

    /// Checks that this may be published, which it may once.
    fn end(&self, size: ByteCount, pieces: &Pieces) -> Result<(), StoreError> {
        let mut writes = self.writes();
        let was_ended = std::mem::replace(&mut writes.is_ended, true);
        if was_ended || writes.unproven > 0 || pieces.0.len() as u64 > Pieces::spanned_by(size) {
            return Err(refused(io::ErrorKind::InvalidInput));
        }
        Ok(())
    }
}

impl Draft for MemoryDraft {
    fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Boxed<'static, io::Result<()>> {
        let padding = data.get(range.end..range.end.next_multiple_of(ALIGN));
        let is_fit = padding.is_some_and(is_zero) && (!self.is_kept || range.end.is_multiple_of(ALIGN));
        match data.get(range) {
            Some(bytes) if is_fit => self.write(offset, bytes),
            _ => refuse(),
        }
    }

    fn write_edge(&self, bytes: Vec<u8>, offset: u64) -> Boxed<'static, io::Result<()>> {
        let is_within = offset as usize % ALIGN + bytes.len() <= ALIGN;
        if self.is_kept && is_within { self.write(offset, &bytes) } else { refuse() }
    }

    fn zero(&self, extent: Extent) -> Boxed<'static, io::Result<()>> {
        if !self.is_kept {
            return refuse();
        }
        if let Some(begun) = self.store.state().now.drafts.get_mut(&self.id).filter(|begun| begun.serial == self.serial)
        {
            begun.bytes.zero(extent.range());
        }
        self.reservation.settle_zeros(self.come(extent.range()));
        Box::pin(async { Ok(()) })
    }

    fn copy(&self, source: ContentId, from: Extent, to: u64) -> Boxed<'static, io::Result<()>> {
        if !self.is_kept {
            return refuse();
        }
        let (copied, store) = (self.take_over(source, from, to), self.store.clone());
        Box::pin(async move {
            store.step().await;
            copied
        })
    }

    fn checkpoint(&self, map: PieceMap) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if !self.is_kept || self.writes().is_ended {
                return Err(refused(io::ErrorKind::InvalidInput));
            }
            // First the bytes, then what is said of them.
            self.flush_or_lose()?;
            self.store.step().await;
            if let Some(begun) =
                self.store.state().now.drafts.get_mut(&self.id).filter(|begun| begun.serial == self.serial)
            {
                begun.map = Some(map);
            }
            self.store.step().await;
            self.flush_or_lose()?;
            self.store.step().await;
            Ok(())
        })
    }

    fn read_back(&self, size: ByteCount) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        let state = self.store.state();
        let begun = state.now.drafts.get(&self.id).filter(|begun| begun.serial == self.serial);
        let stored = begun.map(|begun| Stored {
            bytes: begun.bytes.clone(),
            size,
            pieces: Pieces::default(),
            record: self.record.clone(),
            since: now(),
        });
        let read = stored.ok_or(StoreError::Missing(self.id)).map(|stored| {
            let removal: Removal = Box::new(|| false);
            Box::new(MemoryReadBack { stored: Arc::new(stored), removal, piece: Vec::new() }) as Box<dyn ReadBack>
        });
        Box::pin(async { read })
    }

    fn reserve_more(&self, bytes: ByteCount) -> Result<(), StoreError> {
        self.reservation.extend(bytes)
    }

    fn publish(&self, size: ByteCount, pieces: Pieces) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.end(size, &pieces)?;
            let bytes = {
                let mut state = self.store.state();
                let begun = state.now.drafts.get_mut(&self.id).filter(|begun| begun.serial == self.serial);
                let begun = begun.ok_or(refused(io::ErrorKind::NotFound))?;
                begun.bytes.truncate(size.get());
                begun.bytes.clone()
            };
            self.store.step().await;
            self.store.flush(self.id)?;
            self.store.step().await;
            let record = self.record.clone();
            self.store.publish(self.id, Stored { bytes, size, pieces, record, since: now() }).await
        })
    }
}

struct MemoryImage {
    store: MemoryStore,
    id: ContentId,
    stored: Arc<Stored>,
}

impl Image for MemoryImage {
    fn size(&self) -> ByteCount {
        self.stored.size
    }

    fn read_at(&self, mut block: Block, len: usize, offset: u64) -> Boxed<'_, (Block, io::Result<()>)> {
        let is_inside = offset.checked_add(len as u64).is_some_and(|end| end <= self.stored.size.get());
        let outcome = match block.get_mut(..len) {
            Some(into) if is_inside => {
                self.stored.bytes.read(offset, into);
                Ok(())
            }
            Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        Box::pin(async { (block, outcome) })
    }

    fn runs(&self, within: Extent) -> Boxed<'_, io::Result<Vec<Run>>> {
        let is_inside = within.offset.checked_add(within.len).is_some_and(|end| end <= self.stored.size.get());
        let runs = if is_inside { Ok(self.stored.bytes.runs(within)) } else { Err(io::ErrorKind::InvalidInput.into()) };
        Box::pin(async { runs })
    }

    fn pieces(&self) -> Boxed<'_, Result<Pieces, StoreError>> {
        let pieces = self.stored.pieces.clone();
        Box::pin(async { Ok(pieces) })
    }

    fn written(&self) -> Option<UnixTime> {
        Some(self.stored.since)
    }

    fn removal(&self) -> Removal {
        let (store, id) = (self.store.clone(), self.id);
        Box::new(move || !store.state().now.images.contains_key(&id))
    }

    fn read_back(&self) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
        let (stored, removal) = (self.stored.clone(), self.removal());
        Box::pin(async { Ok(Box::new(MemoryReadBack { stored, removal, piece: Vec::new() }) as Box<dyn ReadBack>) })
    }

    fn file(&self) -> Option<SharedFile> {
        None
    }
}

struct MemoryReadBack {
    stored: Arc<Stored>,
    removal: Removal,
    piece: Vec<u8>,
}

impl MemoryReadBack {
    /// How many bytes of a piece are data.
    fn data(&self, index: u64) -> u64 {
        let runs = self.stored.bytes.runs(self.stored.extent(index));
        runs.iter().filter(|run| !run.hole).map(|run| run.extent.len).sum()
    }
}

impl ReadBack for MemoryReadBack {
    fn count(&self) -> u64 {
        Pieces::spanned_by(self.stored.size)
    }

    fn is_removed(&self) -> bool {
        (self.removal)()
    }

    fn next_in_doubt(&self, from: u64) -> io::Result<Option<u64>> {
        let is_in_doubt =
            |index: &u64| self.data(*index) > 0 || stored_digest(&self.stored.pieces, *index) != zero_piece();
        Ok((from..self.count()).find(is_in_doubt))
    }

    fn piece(&mut self, index: u64) -> io::Result<PieceRead<'_>> {
        let is_whole = self.stored.read_piece(index, &mut self.piece);
        let read = self.data(index);
        Ok(PieceRead { bytes: &self.piece, read, is_whole })
    }
}

fn now() -> UnixTime {
    SystemClock.now()
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in it fails the test.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The record of what is only read.
fn nobody() -> Record {
    let (volume, tenant) = (VolumeId::from_bytes([0; 16]), TenantId::from_bytes([0; 16]));
    Record { volume, tenant, name: String::new() }
}

fn refuse() -> Boxed<'static, io::Result<()>> {
    Box::pin(async { Err(io::ErrorKind::InvalidInput.into()) })
}

fn refused(kind: io::ErrorKind) -> StoreError {
    StoreError::Io(kind.into())
}
