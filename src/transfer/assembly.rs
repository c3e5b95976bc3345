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

use std::future::{Future, pending};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::checksum::{ChecksumStates, check};
use super::digest::{DigestLane, DigestState};
use super::error::ReceiveError;
use super::feed::{ByteSource, Sink, feed};
use super::progress::{Phase, Progress, Stop};
use super::receive::Allowance;
use super::writer::{Beginning, DraftWriter, SharedMap, lock};
use crate::domain::{
    Algorithms, ByteCount, Checks, Checksum, Digests, Extent, Extents, Fault, FaultKind, PIECE, Pieces,
};
use crate::io::Pool;
use crate::store::{Draft, MOST_EXTENTS, Piece, PieceMap, StoreError, Stretch, Unfinished, piece_digest};

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

    /// The parts that come at present.
    pub fn parts(&self) -> Vec<Arc<Progress>> {
        self.state().parts.iter().map(|live| live.progress.clone()).collect()
    }

    /// The draft that is put together.
    pub fn draft(&self) -> &Arc<dyn Draft> {
        &self.draft
    }

    /// Sets the size of the drive, of which more must not have come.
    pub fn set_size(&self, size: ByteCount) -> Result<(), Fault> {
        let end = lock(&self.map).extents().ranges().last().map_or(0, |last| last.end);
        if end > size.get() {
            return Err(Fault::new(FaultKind::Conflict, format!("more than {size} bytes have come")));
        }
        let _ = self.size.set(size.get());
        Ok(())
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
        self.check(&range)?;
        let (number, beginning) = self.take_over(&range, &progress).await?;
        let is_withheld = !checks.is_empty();
        let checks = is_withheld.then(|| (ChecksumStates::new(&checks.algorithms()), checks.asserted));
        let beginning = Beginning { is_withheld, ..beginning };
        let (draft, pool, depth) = (self.draft.clone(), self.pool.clone(), self.options.depth);
        let writer = DraftWriter::part(draft, pool, depth, progress.clone(), beginning);
        let part = DrivePart { assembly: self.clone(), number, end: range.end, writer: Some(writer), checks, progress };
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
        let algorithms = checks.algorithms();
        let states = ChecksumStates::new(&algorithms);
        let mut sink = Compared { states, left: range.end - range.start, space: vec![0; 64 << 10], progress };
        feed(source, &mut sink, progress).await.map_err(Fault::from)?;
        if sink.left > 0 {
            return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
        }
        let came = sink.states.finish();
        check(&came, &checks.asserted)?;
        check(&came, &source.checksums()?)?;
        let size = ByteCount::new(range.end).unwrap_or(ByteCount::MAX);
        let mut read = self.draft.read_back(size).await?;
        let there = self.tracker.spawn_blocking(move || {
            let mut states = ChecksumStates::new(&algorithms);
            for index in range.start / PIECE..range.end.div_ceil(PIECE) {
                let piece = read.piece(index)?;
                let within = |at: u64| (at.saturating_sub(index * PIECE) as usize).min(piece.bytes.len());
                states.update(&piece.bytes[within(range.start)..within(range.end)]);
            }
            Ok(states.finish())
        });
        let there = there.await.map_err(Fault::internal)?.map_err(|error: std::io::Error| StoreError::from(error))?;
        if there == came {
            return Ok(());
        }
        let told = "other bytes have come here before; a part without a checksum replaces them";
        Err(Fault::new(FaultKind::Conflict, told))
    }

    /// Makes these bytes zero. Durable when it returns.
    pub async fn zero(self: &Arc<Self>, extent: Extent, progress: Arc<Progress>) -> Result<(), Fault> {
        let range = extent.range();
        self.check(&range)?;
        let (number, _) = self.take_over(&range, &progress).await?;
        let assembly = self.clone();
        let zeroed = self.tracker.spawn(async move {
            let zeroed = async {
                assembly.may_change(range.clone()).await?;
                assembly.draft.zero(extent).await.map_err(StoreError::from)?;
                let mut stretch = Stretch::at(range.start);
                stretch.write_zeros(extent.len);
                if assembly.size.get() == Some(&range.end) {
                    stretch.end();
                }
                lock(&assembly.map).add(range, stretch.take_digested());
                assembly.store_map(false).await
            };
            let zeroed = zeroed.await;
            assembly.end_part(number, None);
            zeroed
        });
        zeroed.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    /// Takes no more parts, ends those that are coming, and digests what was not digested on the way. A drive of which
    /// bytes are missing is [`FaultKind::Conflict`], and goes on taking parts. `wanted` has all of it read back, unless it came
    /// in order and that was known before.
    pub async fn finish(self: &Arc<Self>, size: ByteCount, wanted: Algorithms) -> Result<Assembled, Fault> {
        self.close().await;
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
        let map = self.map.clone();
        let digested = self.tracker.spawn_blocking(move || {
            let mut state = DigestState::new(wanted);
            for index in 0..read.count() {
                let is_known = matches!(lock(&map).piece(index, size), Piece::Whole(_));
                if is_known && wanted.is_empty() {
                    continue;
                }
                let piece = read.piece(index)?;
                if !is_known {
                    lock(&map).set_digest(index, piece_digest(piece.bytes));
                }
                state.update(piece.bytes);
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

    /// Bytes of this range are about to be written: what checkpoints say of their digests is no longer so.
    async fn may_change(self: &Arc<Self>, range: Range<u64>) -> Result<(), Fault> {
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

/// A part that is being received. Dropping it ends it.
pub struct DrivePart {
    assembly: Arc<Assembly>,
    number: u64,
    end: u64,
    /// `None` once it is at its end.
    writer: Option<DraftWriter>,
    /// The checksums of what has come, and those that it should have.
    checks: Option<(ChecksumStates, Vec<Checksum>)>,
    progress: Arc<Progress>,
}

impl DrivePart {
    /// Receives the bytes until the source ends, and makes them durable; also those that came before it broke off.
    /// Returns the offset behind the last byte. More bytes than the part has are refused; from `room` on `allowance` is
    /// asked for more.
    pub async fn receive(
        mut self,
        source: &mut impl ByteSource,
        room: u64,
        allowance: &mut impl Allowance,
    ) -> Result<u64, Fault> {
        let Some(writer) = &mut self.writer else { return Err(Fault::internal("a part was received twice")) };
        let due = Due { since: Instant::now(), from: writer.position(), running: None };
        let (assembly, progress) = (&self.assembly, &*self.progress);
        let states = self.checks.as_mut().map(|(states, _)| states);
        let mut sink = Bounded { writer, end: self.end, room, allowance, due, states, assembly, progress };
        let received = feed(source, &mut sink, &self.progress).await.map_err(Fault::from);
        let received = received.and_then(|()| self.verify(source));
        let ended = match self.ending() {
            Some(ending) => ending.await.unwrap_or_else(|crash| Err(Fault::internal(crash))),
            None => Err(Fault::internal("a part was ended twice")),
        };
        received?;
        ended
    }

    /// Counts the bytes of a part with checksums, if they have them.
    fn verify(&mut self, source: &impl ByteSource) -> Result<(), Fault> {
        let (Some((states, asserted)), Some(writer)) = (self.checks.take(), &mut self.writer) else { return Ok(()) };
        let came = states.finish();
        check(&came, &asserted)?;
        check(&came, &source.checksums()?)?;
        writer.release();
        Ok(())
    }

    /// Ends the part on a task of its own.
    fn ending(&mut self) -> Option<JoinHandle<Result<u64, Fault>>> {
        let mut writer = self.writer.take()?;
        let (assembly, number) = (self.assembly.clone(), self.number);
        Some(self.assembly.tracker.spawn(async move {
            let settled = writer.settle(assembly.size.get().copied()).await.map_err(Fault::from);
            let end = writer.position();
            let stored = assembly.store_map(false).await;
            // What was not settled has left a gap, and no digest goes on behind it.
            assembly.end_part(number, (settled.is_ok() && !writer.is_withheld()).then(|| writer.into_end()));
            settled.and(stored).map(|()| end)
        }))
    }
}

impl Drop for DrivePart {
    fn drop(&mut self) {
        drop(self.ending());
    }
}

/// When the next checkpoint is due.
struct Due {
    since: Instant,
    from: u64,
    running: Option<JoinHandle<Result<(), Fault>>>,
}

/// A writer that takes no more than its part has, and has checkpoints written.
struct Bounded<'a, A> {
    writer: &'a mut DraftWriter,
    end: u64,
    room: u64,
    allowance: &'a mut A,
    due: Due,
    states: Option<&'a mut ChecksumStates>,
    assembly: &'a Arc<Assembly>,
    progress: &'a Progress,
}

impl<A: Allowance> Bounded<'_, A> {
    /// Begins a checkpoint when one is due and none is being written; fails when the last one has.
    async fn look_after_checkpoint(&mut self) -> Result<(), ReceiveError> {
        let options = self.assembly.options;
        let is_late = self.due.since.elapsed() >= options.checkpoint_time;
        if is_late {
            // So slow that what came may be in a block still.
            self.writer.write_out().await?;
        }
        let is_due = is_late || self.writer.position() - self.due.from >= options.checkpoint_bytes;
        if !is_due || self.due.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        if let Some(running) = self.due.running.take() {
            let stored = running.await.unwrap_or_else(|crash| Err(Fault::internal(crash)));
            stored.map_err(ReceiveError::Refused)?;
        }
        let assembly = self.assembly.clone();
        let running = self.assembly.tracker.spawn(async move { assembly.store_map(false).await });
        self.due = Due { since: Instant::now(), from: self.writer.position(), running: Some(running) };
        Ok(())
    }
}

impl<A: Allowance> Sink for Bounded<'_, A> {
    fn is_filling(&self) -> bool {
        self.writer.is_filling()
    }

    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        self.writer.space().await
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let end = self.writer.position() + taken as u64;
        if end > self.end {
            let told = "the body is longer than the part";
            return Err(ReceiveError::Refused(Fault::new(FaultKind::BadFraming, told)));
        }
        if end > self.room {
            let extended = self.progress.during(Phase::Disk, self.allowance.extend(end));
            self.room = extended.await.map_err(ReceiveError::Refused)?;
        }
        self.progress.add_bytes(taken as u64);
        if let Some(states) = &mut self.states {
            states.update(self.writer.next_bytes(taken));
        }
        self.writer.advance(taken).await?;
        self.look_after_checkpoint().await
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        self.writer.write_out().await?;
        self.look_after_checkpoint().await
    }
}

/// Takes bytes that are there already.
struct Compared<'a> {
    states: ChecksumStates,
    left: u64,
    space: Vec<u8>,
    progress: &'a Progress,
}

impl Sink for Compared<'_> {
    fn is_filling(&self) -> bool {
        false
    }

    fn ended(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        Ok(&mut self.space)
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let Some(left) = self.left.checked_sub(taken as u64) else {
            let told = "the body is longer than the part";
            return Err(ReceiveError::Refused(Fault::new(FaultKind::BadFraming, told)));
        };
        self.left = left;
        self.progress.add_bytes(taken as u64);
        self.states.update(&self.space[..taken]);
        Ok(())
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::domain::{ContentId, TenantId, VolumeId};
    use crate::io::IoEngine;
    use crate::store::{BlockStore, DraftOptions, LocalSettings, LocalStore, Record};
    use crate::transfer::{Broken, ChunkSource, Chunks};

    const SIZE: usize = (PIECE as usize) * 2 + 5_000;

    /// Of drives whose size is known.
    struct Fixed;

    impl Allowance for Fixed {
        async fn extend(&mut self, _: u64) -> Result<u64, Fault> {
            panic!("there is room for all")
        }
    }

    /// A store with one draft that is kept.
    struct Scene {
        store: LocalStore,
        id: ContentId,
        assembly: Arc<Assembly>,
        _dir: TempDir,
    }

    fn options(store: &LocalStore) -> DraftOptions {
        let reservation = store.space().reserve(ByteCount::new(SIZE as u64).unwrap()).unwrap();
        let record = Record { volume: VolumeId::random(), tenant: TenantId::random(), name: "disk".to_owned() };
        DraftOptions { expected: ByteCount::new(SIZE as u64), reservation, record, is_kept: true }
    }

    fn assembled(draft: Arc<dyn Draft>, map: PieceMap) -> Arc<Assembly> {
        let options = PartOptions {
            depth: 2,
            checkpoint_bytes: 1 << 20,
            checkpoint_time: Duration::from_mins(1),
            digests: Algorithms::ALL,
        };
        let pool = Pool::new(ByteCount::mib(16));
        Assembly::new(draft, map, ByteCount::new(SIZE as u64), (pool, options), TaskTracker::new())
    }

    impl Scene {
        async fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let store = LocalStore::open(dir.path(), IoEngine::threads(1), LocalSettings::default()).unwrap();
            let id = ContentId::random();
            let draft = store.draft(id, options(&store)).await.unwrap();
            Self { assembly: assembled(draft, PieceMap::default()), store, id, _dir: dir }
        }

        /// Goes on as another process would.
        async fn restart(&mut self) {
            let (draft, map) = self.store.resume(self.id, options(&self.store)).await.unwrap();
            self.assembly = assembled(draft, map);
        }

        /// Sends a part that breaks off behind these chunks, or ends there.
        async fn send(&self, range: Range<usize>, chunks: Vec<Bytes>, breaks: bool) -> Result<u64, Fault> {
            let range = range.start as u64..range.end as u64;
            let part = self.assembly.part(range, Checks::default(), progress()).await?;
            let mut source = ChunkSource::from(Given { chunks: chunks.into(), end: End::of(breaks) });
            part.receive(&mut source, u64::MAX, &mut Fixed).await
        }

        async fn durable(&self) -> Vec<Range<u64>> {
            self.assembly.durable().await.unwrap().ranges().to_vec()
        }
    }

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::fetching(VolumeId::random()))
    }

    struct Given {
        chunks: VecDeque<Bytes>,
        end: End,
    }

    enum End {
        Proper,
        Broken,
        Never,
    }

    impl End {
        fn of(breaks: bool) -> Self {
            if breaks { Self::Broken } else { Self::Proper }
        }
    }

    impl Chunks for Given {
        async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
            match (self.chunks.pop_front(), &self.end) {
                (Some(chunk), _) => Ok(Some(chunk)),
                (None, End::Proper) => Ok(None),
                (None, End::Broken) => Err("the line is cut".into()),
                (None, End::Never) => pending().await,
            }
        }
    }

    fn there(ranges: &[(u64, u64)]) -> Vec<Range<u64>> {
        ranges.iter().map(|(start, end)| *start..*end).collect()
    }

    fn noise(range: Range<usize>, seed: u8) -> Vec<u8> {
        range.map(|at| (at % 251) as u8 ^ seed | 1).collect()
    }

    fn chunks_of(content: &[u8], size: usize) -> Vec<Bytes> {
        content.chunks(size).map(Bytes::copy_from_slice).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A part from here, so long, of which so many thousandths come.
        Part {
            start: usize,
            len: usize,
            comes: usize,
            seed: u8,
        },
        Zero {
            start: usize,
            len: usize,
        },
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = || prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|sector| sector * 4096)];
        let len = || prop_oneof![1..SIZE, 1..20_000usize];
        let comes = prop_oneof![Just(1000usize), 0..1000usize];
        prop_oneof![
            6 => (place(), len(), comes, 1..99u8).prop_map(|(start, len, comes, seed)| Step::Part { start, len, comes, seed }),
            1 => (place(), len()).prop_map(|(start, len)| Step::Zero { start, len }),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_drive_is_what_its_parts_were_in_whatever_order_they_came(steps in prop::collection::vec(step(), 1..12)) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let mut scene = Scene::new().await;
                let (mut model, mut there) = (vec![0u8; SIZE], Extents::default());
                for step in steps {
                    match step {
                        Step::Part { start, len, comes, seed } => {
                            let end = (start + len).min(SIZE);
                            let came = start + (end - start) * comes / 1000;
                            let content = noise(start..came, seed);
                            let sent = scene.send(start..end, chunks_of(&content, 700_001), comes < 1000).await;
                            assert_eq!(sent.is_ok(), comes == 1000, "{sent:?}");
                            model[start..came].copy_from_slice(&content);
                            there.insert(start as u64..came as u64);
                        }
                        Step::Zero { start, len } => {
                            let end = (start + len).min(SIZE);
                            let extent = Extent { offset: start as u64, len: (end - start) as u64 };
                            scene.assembly.zero(extent, progress()).await.unwrap();
                            model[start..end].fill(0);
                            there.insert(start as u64..end as u64);
                        }
                        Step::Restart => scene.restart().await,
                    }
                    assert_eq!(scene.durable().await, there.ranges());
                }
                let size = ByteCount::new(SIZE as u64).unwrap();
                while let Some(gap) = there.first_gap(0..SIZE as u64) {
                    let unfinished = scene.assembly.finish(size, Algorithms::NONE).await.unwrap_err();
                    assert_eq!(unfinished.kind, FaultKind::Conflict);
                    let gap = gap.start as usize..gap.end as usize;
                    let content = noise(gap.clone(), 7);
                    scene.send(gap.clone(), chunks_of(&content, 1 << 20), false).await.unwrap();
                    model[gap.clone()].copy_from_slice(&content);
                    there.insert(gap.start as u64..gap.end as u64);
                }
                let assembled = scene.assembly.finish(size, Algorithms::ALL).await.unwrap();
                let digests = model.chunks(PIECE as usize).map(piece_digest).collect::<Vec<_>>();
                assert!(assembled.pieces.0.iter().zip(&digests).all(|(one, other)| one == other));
                let mut digests = DigestState::new(Algorithms::ALL);
                digests.update(&model);
                assert_eq!(assembled.digests, digests.finish());
                scene.assembly.draft.publish(size, assembled.pieces).await.unwrap();
                let image = scene.store.open(scene.id).await.unwrap();
                let mut read = image.read_back().await.unwrap();
                for (index, piece) in model.chunks(PIECE as usize).enumerate() {
                    let read = read.piece(index as u64).unwrap();
                    assert!(read.is_whole && read.bytes == piece, "piece {index}");
                }
                let refused = scene.send(0..5, chunks_of(&[1; 5], 5), false).await.unwrap_err();
                assert_eq!(refused.kind, FaultKind::Conflict);
            });
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_overlaps_ends_the_earlier_one_whose_late_bytes_never_land() {
        let scene = Scene::new().await;
        let part = scene.assembly.part(0..1 << 20, Checks::default(), progress()).await.unwrap();
        let (late, gate) = tokio::sync::oneshot::channel::<()>();
        let first = scene.assembly.tracker.spawn(async move {
            let mut source = Gated { first: Some(Bytes::from(vec![1; 5_000])), gate: Some(gate) };
            part.receive(&mut ChunkSource::from(&mut source), u64::MAX, &mut Fixed).await
        });
        while scene.durable().await.is_empty() {
            // The first part comes.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let elsewhere = scene.send(1 << 20..2 << 20, chunks_of(&noise(0..1 << 20, 3), 1 << 20), false);
        elsewhere.await.unwrap();
        assert!(!first.is_finished(), "disjoint parts do not disturb each other");
        let second = noise(1_000..500_000, 2);
        scene.send(1_000..500_000, chunks_of(&second, 100_000), false).await.unwrap();
        let fault = first.await.unwrap().unwrap_err();
        assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
        assert!(late.send(()).is_err(), "it still takes bytes");
        assert_eq!(scene.durable().await, there(&[(0, 500_000), (1 << 20, 2 << 20)]));
        let mut read = scene.assembly.draft.read_back(ByteCount::new(SIZE as u64).unwrap()).await.unwrap();
        let bytes = read.piece(0).unwrap().bytes;
        assert!(bytes[..1_000] == [1; 1_000] && bytes[1_000..500_000] == second);
    }

    /// Gives one chunk, and another when it is told to.
    struct Gated {
        first: Option<Bytes>,
        gate: Option<tokio::sync::oneshot::Receiver<()>>,
    }

    impl Chunks for &mut Gated {
        async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
            if let Some(first) = self.first.take() {
                return Ok(Some(first));
            }
            if let Some(gate) = &mut self.gate {
                let _ = gate.await;
                self.gate = None;
                return Ok(Some(Bytes::from(vec![9; 300_000])));
            }
            Ok(None)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_is_dropped_counts_what_came() {
        let scene = Scene::new().await;
        let part = scene.assembly.part(100..1 << 20, Checks::default(), progress()).await.unwrap();
        let chunks = chunks_of(&noise(0..77_777, 1), 10_000).into();
        let mut source = ChunkSource::from(Given { chunks, end: End::Never });
        let cut = tokio::time::timeout(Duration::from_secs(1), part.receive(&mut source, u64::MAX, &mut Fixed)).await;
        assert!(cut.is_err(), "it waits for more");
        // The next part waits for the end of that one.
        scene.send(0..100, chunks_of(&[1; 100], 100), false).await.unwrap();
        scene.send(77_877..77_900, chunks_of(&[1; 23], 23), false).await.unwrap();
        assert_eq!(scene.durable().await, there(&[(0, 77_900)]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_in_order_are_digested_on_the_way_and_what_is_written_over_is_digested_anew() {
        let scene = Scene::new().await;
        let size = ByteCount::new(SIZE as u64).unwrap();
        let content = noise(0..SIZE, 1);
        let mut at = 0;
        for len in [1_000_001, 5_000_000, 999, SIZE] {
            let end = (at + len).min(SIZE);
            scene.send(at..SIZE, chunks_of(&content[at..end], 300_000), end < SIZE).await.ok();
            at = end;
        }
        let is_whole = |index| matches!(lock(&scene.assembly.map).piece(index, size), Piece::Whole(_));
        assert!([0, 1, 2].into_iter().all(is_whole));
        // A part goes on in the middle of a piece; another changes the start of that piece meanwhile, and ends nobody.
        scene.send(0..3_000_000, chunks_of(&noise(0..1_000_000, 2), 100_000), true).await.unwrap_err();
        let going_on = scene.assembly.part(1_000_000..PIECE, Checks::default(), progress()).await.unwrap();
        scene.send(0..10, chunks_of(&[5; 10], 10), false).await.unwrap();
        let rest = chunks_of(&content[1_000_000..PIECE as usize], 100_000);
        let mut rest = ChunkSource::from(Given { chunks: rest.into(), end: End::of(false) });
        assert_eq!(going_on.receive(&mut rest, u64::MAX, &mut Fixed).await.unwrap(), PIECE);
        assert!(!is_whole(0) && is_whole(1));
        let assembled = scene.assembly.finish(size, Algorithms::NONE).await.unwrap();
        let mut expected = content;
        expected[..1_000_000].copy_from_slice(&noise(0..1_000_000, 2));
        expected[..10].fill(5);
        assert_eq!(assembled.pieces.0, expected.chunks(PIECE as usize).map(piece_digest).collect::<Vec<_>>());
    }

    /// A crash may come right after its first byte.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_piece_that_a_part_may_write_over_has_no_digest_in_the_checkpoint() {
        let scene = Scene::new().await;
        let (size, first) = (ByteCount::new(SIZE as u64).unwrap(), PIECE as usize);
        scene.send(0..SIZE, chunks_of(&noise(0..SIZE, 1), 1 << 20), false).await.unwrap();
        let _going_on = scene.assembly.part(PIECE - 1..PIECE + 10, Checks::default(), progress()).await.unwrap();
        let (_, map) = scene.store.resume(scene.id, options(&scene.store)).await.unwrap();
        let pieces = [0, 1, 2].map(|index| map.piece(index, size));
        let last = piece_digest(&noise(0..SIZE, 1)[2 * first..]);
        assert_eq!(pieces, [Piece::Undigested, Piece::Undigested, Piece::Whole(last)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_is_refused_and_leaves_what_is_there() {
        let scene = Scene::new().await;
        let over = scene.send(0..10, chunks_of(&[1; 20], 7), false).await.unwrap_err();
        assert_eq!(over.kind, FaultKind::BadFraming);
        assert_eq!(scene.durable().await, there(&[(0, 7)]));
        let behind = scene.send(SIZE - 5..SIZE + 1, chunks_of(&[1; 6], 6), false).await.unwrap_err();
        assert_eq!(behind.kind, FaultKind::Invalid);
        for n in 1..MOST_EXTENTS {
            let at = n * 100;
            lock(&scene.assembly.map).add(at as u64..at as u64 + 1, Vec::new());
        }
        let scattered = scene.send(50..60, chunks_of(&[1; 10], 10), false).await.unwrap_err();
        assert_eq!(scattered.kind, FaultKind::TooLarge);
        scene.send(7..17, chunks_of(&[1; 10], 10), false).await.unwrap();
    }
}
