//! A draft that is put together from parts, which come in any order, over several connections at once, and over days.
//!
//! # Invariants
//! - Of two parts that have a byte in common, the earlier has ended before the later one writes.
//! - A byte that was told to be durable is in a checkpoint, and stays in every later one.
//! - No checkpoint has the digest of a piece that a part may be writing over.
//!
//! # Cancellation
//! A part that is dropped ends as one does whose line is cut: on a task of its own, what was handed to the disk is
//! waited for, flushed, and counted.

mod fill;
mod part;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::checksum::ChecksumStates;
use super::compare::compare;
use super::digest::{DigestLane, DigestState};
use super::feed::ByteSource;
use super::progress::{Progress, Stop};
use super::writer::{Beginning, DraftWriter, SharedMap, lock};
use crate::domain::{Algorithms, Blake3, ByteCount, Checks, Digests, Extents, Fault, FaultKind, PIECE, Pieces};
use crate::io::Pool;
use crate::store::{Draft, MOST_EXTENTS, Piece, PieceMap, StoreError, Stretch, Unfinished, piece_digest, zero_piece};

pub use fill::{Filling, Proof};
pub use part::DrivePart;

/// How parts are received.
#[derive(Clone, Copy, Debug)]
pub struct PartOptions {
    /// The most writes in flight for one part.
    pub depth: usize,
    /// A part has a checkpoint each time that so many bytes have come, or
    pub checkpoint_bytes: u64,
    /// this time has passed, whichever is first. So much is repeated after a crash. Each flushes the disk.
    pub checkpoint_time: Duration,
    /// The digests of all bytes that will be asked for, to be computed while parts come in order.
    pub digests: Algorithms,
}

/// See the module.
pub struct Assembly {
    draft: Arc<dyn Draft>,
    pool: Pool,
    options: PartOptions,
    /// The size of the drive, once it is known.
    size: OnceLock<u64>,
    tracker: TaskTracker,
    /// What is on the disk.
    map: SharedMap,
    state: Mutex<State>,
    /// Held while a checkpoint is written.
    checkpoint: tokio::sync::Mutex<()>,
    /// Rung when a part has ended.
    ended: Notify,
}

struct State {
    /// What the last checkpoint has.
    durable: Extents,
    parts: Vec<Live>,
    next: u64,
    /// Where the last part ended, and the digest of its last piece.
    carried: Option<Stretch>,
    /// The digests of all bytes before this offset.
    lane: Option<(u64, DigestLane)>,
    /// The part that has the lane meanwhile, and where it began.
    digesting: Option<(u64, u64)>,
    /// The BLAKE3 of whole pieces on the disk that have other bytes than zeros, as far as it is known: these pieces are
    /// not read back for the digest of the list of pieces.
    known: BTreeMap<u64, Blake3>,
    /// Whether no more parts are taken.
    is_closed: bool,
}

/// A part that is being received.
struct Live {
    number: u64,
    range: Range<u64>,
    progress: Arc<Progress>,
    /// Whether bytes before it, in the piece in which it begins, are written over: a digest of that piece which goes on
    /// from an earlier part is of other bytes.
    is_changed: Arc<AtomicBool>,
}

/// What an assembly has come to.
#[derive(Debug)]
pub struct Assembled {
    /// The digests of the drive's pieces.
    pub pieces: Pieces,
    /// The digests of all its bytes, as far as they were asked for.
    pub digests: Digests,
}

impl Assembly {
    /// Goes on with a draft that is kept, of which a checkpoint has this map.
    pub fn new(
        draft: Arc<dyn Draft>,
        map: PieceMap,
        size: Option<ByteCount>,
        (pool, options): (Pool, PartOptions),
        tracker: TaskTracker,
    ) -> Arc<Self> {
        let durable = map.extents().clone();
        Arc::new(Self {
            draft,
            pool,
            options,
            size: size.map(|size| OnceLock::from(size.get())).unwrap_or_default(),
            tracker,
            map: Arc::new(Mutex::new(map)),
            state: Mutex::new(State {
                durable,
                parts: Vec::new(),
                next: 0,
                carried: None,
                lane: None,
                digesting: None,
                known: BTreeMap::new(),
                is_closed: false,
            }),
            checkpoint: tokio::sync::Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Returns the bytes that are durable, which is every byte that is on the disk by now.
    pub async fn durable(self: &Arc<Self>) -> Result<Extents, Fault> {
        self.store_map(false).await?;
        Ok(self.state().durable.clone())
    }

    /// Ends the parts that have any of these bytes, and waits until what has come of them is counted.
    pub async fn end_parts(&self, range: &Range<u64>) {
        self.until_ended(range).await;
    }

    /// Ends the part with this progress, and waits until what has come of it is counted.
    pub async fn end_part_of(&self, progress: &Arc<Progress>) {
        self.until_none(|live| Arc::ptr_eq(&live.progress, progress)).await;
    }

    /// Returns the offset of the first byte that was not told to be durable.
    pub fn settled(&self) -> u64 {
        self.state().durable.first_gap(0..u64::MAX).map_or(u64::MAX, |gap| gap.start)
    }

    /// Returns the bytes that were told to be durable, and the count of those that have come by now. Makes nothing
    /// durable.
    pub fn come(&self) -> (Extents, u64) {
        let mut come = lock(&self.map).extents().clone();
        let state = self.state();
        for Live { range, progress, .. } in &state.parts {
            come.insert(range.start..range.end.min(range.start.saturating_add(progress.bytes())));
        }
        (state.durable.clone(), come.total())
    }

    /// The parts that come at present.
    pub fn parts(&self) -> Vec<Arc<Progress>> {
        self.state().parts.iter().map(|live| live.progress.clone()).collect()
    }

    /// The draft that is put together.
    pub fn draft(&self) -> &Arc<dyn Draft> {
        &self.draft
    }

    /// The size of the drive, once it is known.
    pub fn size(&self) -> Option<ByteCount> {
        self.size.get().copied().and_then(ByteCount::new)
    }

    /// Refuses a size of the drive when more bytes have come.
    pub fn check_size(&self, size: ByteCount) -> Result<(), Fault> {
        let end = lock(&self.map).extents().ranges().last().map_or(0, |last| last.end);
        if end > size.get() {
            return Err(Fault::new(FaultKind::Conflict, format!("more than {size} bytes have come")));
        }
        Ok(())
    }

    /// Sets the size of the drive, for good. Parts that come take no byte behind it.
    pub fn set_size(&self, size: ByteCount) {
        let _ = self.size.set(size.get());
    }

    /// Takes no more parts, and ends those that are coming.
    pub async fn close(&self) {
        self.state().is_closed = true;
        self.until_ended(&(0..u64::MAX)).await;
    }

    /// Takes parts again after [`Assembly::finish`].
    pub fn reopen(&self) {
        self.state().is_closed = false;
    }

    /// Begins a part with these bytes. Parts that have any of them in common are ended first. Of one with checksums
    /// nothing is counted until all of it has come and has them, so none of its bytes may be there already: see
    /// [`Assembly::compare`].
    pub async fn part(
        self: &Arc<Self>,
        range: Range<u64>,
        checks: Checks,
        progress: Arc<Progress>,
    ) -> Result<DrivePart, Fault> {
        let is_withheld = !checks.is_empty();
        self.begin(range, checks, (is_withheld, false), progress).await
    }

    /// As [`Assembly::part`], of which nothing is counted until all of its bytes have come, and no more.
    pub async fn whole_part(
        self: &Arc<Self>,
        range: Range<u64>,
        checks: Checks,
        progress: Arc<Progress>,
    ) -> Result<DrivePart, Fault> {
        self.begin(range, checks, (true, true), progress).await
    }

    async fn begin(
        self: &Arc<Self>,
        range: Range<u64>,
        checks: Checks,
        (is_withheld, is_whole): (bool, bool),
        progress: Arc<Progress>,
    ) -> Result<DrivePart, Fault> {
        self.check(&range)?;
        let (number, beginning) = self.take_over(&range, &progress).await?;
        let checks = is_withheld.then(|| (ChecksumStates::new(&checks.algorithms()), checks.asserted));
        let beginning = Beginning { is_withheld, ..beginning };
        let (draft, pool, depth) = (self.draft.clone(), self.pool.clone(), self.options.depth);
        let writer = Some(DraftWriter::part(draft, pool, depth, progress.clone(), beginning));
        let part = DrivePart { assembly: self.clone(), number, end: range.end, is_whole, writer, checks, progress };
        self.may_change(range).await?;
        Ok(part)
    }

    /// Receives bytes that are all there already, with checksums, and compares: nothing is written. Other bytes than
    /// those that are there are [`FaultKind::Conflict`].
    pub async fn compare(
        self: &Arc<Self>,
        range: Range<u64>,
        checks: Checks,
        source: &mut impl ByteSource,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let size = ByteCount::new(range.end).unwrap_or(ByteCount::MAX);
        let read = self.draft.read_back(size).await?;
        compare(Some(read), (range, checks), source, progress, &self.tracker).await
    }

    /// Takes no more parts, ends those that are coming, and digests what was not digested on the way. A drive of which
    /// bytes are missing, or more have come, is [`FaultKind::Conflict`], and goes on taking parts. `wanted` has all of
    /// it read back, unless it came in order and that was known before.
    pub async fn finish(self: &Arc<Self>, size: ByteCount, wanted: Algorithms) -> Result<Assembled, Fault> {
        self.close().await;
        // What was on its way to the disk when the size was told.
        self.check_size(size).inspect_err(|_| self.reopen())?;
        let missing = lock(&self.map).extents().first_gap(0..size.get());
        if let Some(gap) = missing {
            self.reopen();
            let told = format!("bytes {} to {} have not come", gap.start, gap.end - 1);
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let lane = self.state().lane.take().filter(|(end, _)| *end == size.get());
        let on_the_way = match lane {
            Some((_, lane)) => lane.finish().await,
            None => Digests::NONE,
        };
        let is_known = on_the_way.algorithms().or(wanted) == on_the_way.algorithms();
        let read_back = self.read_back(size, if is_known { Algorithms::NONE } else { wanted }).await?;
        let digests = on_the_way.or(read_back);
        let map = lock(&self.map).clone();
        let pieces = map.finish(size).map_err(|unfinished: Unfinished| Fault::internal(unfinished))?;
        Ok(Assembled { pieces, digests })
    }

    /// Digests every piece without a digest, or all bytes.
    async fn read_back(self: &Arc<Self>, size: ByteCount, wanted: Algorithms) -> Result<Digests, Fault> {
        let is_digested = |index: &u64| matches!(lock(&self.map).piece(*index, size), Piece::Whole(_));
        if wanted.is_empty() && (0..Pieces::spanned_by(size)).all(|index| is_digested(&index)) {
            return Ok(Digests::NONE);
        }
        let mut read = self.draft.read_back(size).await?;
        let (map, known) = (self.map.clone(), self.state().known.clone());
        let digested = self.tracker.spawn_blocking(move || {
            let is_known = |index| matches!(lock(&map).piece(index, size), Piece::Whole(_));
            let (mut state, mut index) = (DigestState::new(wanted), 0);
            while index < read.count() {
                if wanted == Algorithms::PIECES {
                    let data = read.next_in_doubt(index)?.unwrap_or(read.count());
                    for hole in (index..data).filter(|hole| !is_known(*hole)) {
                        lock(&map).set_digest(hole, zero_piece());
                    }
                    state.zero_pieces(data - index);
                    index = data;
                    if let Some(digest) = known.get(&index).filter(|_| is_known(index)) {
                        state.known_piece(digest);
                        index += 1;
                        continue;
                    }
                }
                if index < read.count() && !(is_known(index) && wanted.is_empty()) {
                    let piece = read.piece(index)?;
                    if !is_known(index) {
                        lock(&map).set_digest(index, piece_digest(piece.bytes));
                    }
                    state.update(piece.bytes);
                }
                index += 1;
            }
            Ok(state.finish())
        });
        digested.await.map_err(Fault::internal)?.map_err(|error: std::io::Error| StoreError::from(error).into())
    }

    /// Refuses a part that cannot be.
    fn check(&self, range: &Range<u64>) -> Result<(), Fault> {
        if range.start > range.end || self.size.get().is_some_and(|size| range.end > *size) {
            return Err(Fault::new(FaultKind::Invalid, "the part lies behind the end of the drive"));
        }
        let (map, parts) = (lock(&self.map), self.state().parts.len());
        let is_scattered = map.admits(range.start).is_err()
            || map.extents().ranges().len() + parts >= MOST_EXTENTS && !map.extents().touches(range.start);
        if is_scattered {
            let told = format!("{MOST_EXTENTS} parts with gaps between them have come; fill the gaps first");
            return Err(Fault::new(FaultKind::TooLarge, told));
        }
        Ok(())
    }

    /// Ends the parts that have any of these bytes, and then takes their place. Returns the stretch that goes on where
    /// the last part ended, or a new one.
    async fn take_over(&self, range: &Range<u64>, progress: &Arc<Progress>) -> Result<(u64, Beginning), Fault> {
        loop {
            self.until_ended(range).await;
            let mut state = self.state();
            if state.is_closed {
                return Err(Fault::new(FaultKind::Conflict, "the transfer is complete and takes no more parts"));
            }
            if state.parts.iter().any(|live| overlaps(&live.range, range)) {
                continue;
            }
            let number = state.next;
            state.next += 1;
            let carried = state.carried.take().filter(|stretch| stretch.position() == range.start);
            for live in state.parts.iter().filter(|live| overlaps(&live.carried_piece(), range)) {
                live.is_changed.store(true, Ordering::Release);
            }
            let is_changed = Arc::<AtomicBool>::default();
            let live = Live { number, range: range.clone(), progress: progress.clone(), is_changed };
            let lane = state.lane_at(number, range.start, self.options.digests);
            let (stretch, map) = (carried.unwrap_or_else(|| Stretch::at(range.start)), self.map.clone());
            let is_changed = live.is_changed.clone();
            state.parts.push(live);
            return Ok((number, Beginning { stretch, map, lane, is_changed, is_withheld: false }));
        }
    }

    /// Ends the parts that have any of these bytes, and waits until their last byte is counted.
    async fn until_ended(&self, range: &Range<u64>) {
        self.until_none(|live| overlaps(&live.range, range)).await;
    }

    /// Ends these parts, and waits until their last byte is counted.
    async fn until_none(&self, is_meant: impl Fn(&Live) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let state = self.state();
                let mut meant = state.parts.iter().filter(|live| is_meant(live)).peekable();
                if meant.peek().is_none() {
                    return;
                }
                meant.for_each(|live| live.progress.stop(Stop::TakenOver));
            }
            ended.await;
        }
    }

    /// Bytes of this range are about to be written: what is known of their digests is no longer so.
    async fn may_change(self: &Arc<Self>, range: Range<u64>) -> Result<(), Fault> {
        let pieces = range.start / PIECE..range.end.div_ceil(PIECE);
        self.state().known.extract_if(pieces, |_, _| true).for_each(drop);
        let is_over = {
            let mut map = lock(&self.map);
            let is_over = map.has_digests(range.clone());
            map.forget_digests(range);
            is_over
        };
        if is_over { self.store_map(true).await } else { Ok(()) }
    }

    /// Writes a checkpoint, if there is something new in it or if it `must` be. Goes on when it is dropped.
    async fn store_map(self: &Arc<Self>, must: bool) -> Result<(), Fault> {
        let assembly = self.clone();
        let stored = self.tracker.spawn(async move {
            let _alone = assembly.checkpoint.lock().await;
            let map = lock(&assembly.map).clone();
            let durable = map.extents().clone();
            if !must && assembly.state().durable == durable {
                return Ok(());
            }
            assembly.draft.checkpoint(map).await?;
            assembly.state().durable = durable;
            Ok(())
        });
        stored.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    fn end_part(&self, number: u64, end: Option<(Stretch, Option<DigestLane>)>) {
        {
            let mut state = self.state();
            let place = state.parts.iter().position(|live| live.number == number);
            let live = place.map(|place| state.parts.swap_remove(place));
            let is_changed = live.is_some_and(|live| live.is_changed.load(Ordering::Acquire));
            let (stretch, lane) = end.unzip();
            let stretch = stretch.filter(|_| !is_changed);
            if state.digesting.take_if(|(part, _)| *part == number).is_some() {
                state.lane = stretch.as_ref().map(Stretch::position).zip(lane.flatten());
            }
            state.carried = stretch;
        }
        self.ended.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The digests of all bytes up to a part that begins here, if they are known; they are the part's from now on.
    fn lane_at(&mut self, number: u64, start: u64, wanted: Algorithms) -> Option<DigestLane> {
        // What was digested is written over.
        self.digesting.take_if(|(_, began)| start < *began);
        self.lane.take_if(|(end, _)| start < *end);
        let lane = match self.lane.take_if(|(end, _)| start == *end) {
            Some((_, lane)) => Some(lane),
            None if start == 0 && self.digesting.is_none() => DigestLane::new(wanted),
            None => None,
        };
        if lane.is_some() {
            self.digesting = Some((number, start));
        }
        lane
    }
}

impl Live {
    /// The bytes of the piece in which it begins that an earlier part has brought.
    fn carried_piece(&self) -> Range<u64> {
        let start = self.range.start;
        start - start % PIECE..start
    }
}

fn overlaps(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests;
