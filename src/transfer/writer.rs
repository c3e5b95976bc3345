//! Writes a draft. Bytes go into aligned blocks of the pool and are digested there at once; each full block is
//! submitted, with several writes in flight. Knows nothing about the source of the bytes.
//!
//! Writing continues from the offset that [`DraftWriter::seek`] sets. Bytes of a peer are put into
//! [`DraftWriter::space`]; callers with filled blocks hand them over with [`DraftWriter::write`]; zeros need no block.
//!
//! # Invariants
//! - A writer waits for a block only while it holds none that is not submitted (I3).
//! - A peer that pauses holds no block: its bytes are written, and less than a sector is kept aside.
//!
//! # Cancellation
//! Dropping a writer or one of its futures is safe at any await: submitted writes end by themselves, and the draft is
//! never published.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::digest::{DigestLane, Next};
use super::error::ReceiveError;
use super::progress::{Phase, Progress};
use crate::domain::{Algorithms, Digests, Fault, FaultKind, PIECE};
use crate::io::{ALIGN, BLOCK, Block, Pool, SharedBlock};
use crate::store::{Boxed, Digested, Draft, PieceMap, Stretch};

/// The longest time for which a slowly filled block is held while others wait for one.
const PARK_PRESSED: Duration = Duration::from_secs(1);

/// Options of a writer.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The most writes in flight.
    pub depth: usize,
    /// The digests of the stream to compute.
    pub digests: Algorithms,
}

/// The result of a writer, which is not flushed yet.
pub struct Written {
    /// The end of the last stretch.
    pub end: u64,
    /// The pieces that were written.
    pub map: PieceMap,
    /// The digests of the stream that were asked for, if the bytes came in order from the first one.
    pub digests: Digests,
}

/// A map that several writers of one draft fill.
pub(super) type SharedMap = Arc<Mutex<PieceMap>>;

/// See the module's documentation.
pub struct DraftWriter {
    draft: Arc<dyn Draft>,
    pool: Pool,
    progress: Arc<Progress>,
    depth: usize,
    /// The offset of the next block: a multiple of `ALIGN`, except after the last write.
    offset: u64,
    /// Bytes at the start of the next block that are not written: a part may begin within a sector.
    head: usize,
    block: Option<Filling>,
    /// The bytes of a parked block after its last full sector.
    aside: Vec<u8>,
    writes: VecDeque<Submitted>,
    /// Whether a write has failed.
    has_failed: bool,
    /// The first piece of which it has all bytes.
    first: u64,
    /// See [`Beginning::is_changed`].
    is_changed: Arc<AtomicBool>,
    /// What is on the disk and not in the map, since it is not known to be right.
    withheld: Option<Withheld>,
    stretch: Stretch,
    /// What is on the disk.
    map: SharedMap,
    digests: Option<DigestLane>,
}

struct Filling {
    block: Block,
    filled: usize,
    since: Instant,
}

/// What a part begins with.
#[derive(Default)]
pub(super) struct Beginning {
    /// Where it begins.
    pub stretch: Stretch,
    /// What is on the disk.
    pub map: SharedMap,
    /// The digests of all bytes before it, if they are wanted and all have come in order.
    pub lane: Option<DigestLane>,
    /// Set when bytes before it, in the piece in which it begins, are written over.
    pub is_changed: Arc<AtomicBool>,
    /// Whether its bytes are kept out of the map until [`DraftWriter::release`].
    pub is_withheld: bool,
}

/// Bytes that are on the disk, and the digests of the pieces that they complete.
#[derive(Default)]
struct Withheld {
    bytes: Option<Range<u64>>,
    digested: Vec<Digested>,
}

/// A write in flight.
struct Submitted {
    bytes: Range<u64>,
    /// The digests of the pieces that it completes.
    digested: Vec<Digested>,
    write: Boxed<'static, io::Result<()>>,
}

impl DraftWriter {
    /// Begins at offset 0 of a new draft.
    pub fn new(draft: Arc<dyn Draft>, pool: Pool, options: WriteOptions, progress: Arc<Progress>) -> Self {
        let lane = DigestLane::new(options.digests);
        Self::part(draft, pool, options.depth, progress, Beginning { lane, ..Beginning::default() })
    }

    /// Begins a part of a draft that is kept where the stretch is, which is any offset.
    pub(super) fn part(
        draft: Arc<dyn Draft>,
        pool: Pool,
        depth: usize,
        progress: Arc<Progress>,
        Beginning { stretch, map, lane, is_changed, is_withheld }: Beginning,
    ) -> Self {
        let head = (stretch.position() % ALIGN as u64) as usize;
        Self {
            draft,
            pool,
            progress,
            depth,
            offset: stretch.position() - head as u64,
            head,
            block: None,
            // In place of the bytes that belong to others.
            aside: vec![0; head],
            writes: VecDeque::with_capacity(depth),
            has_failed: false,
            withheld: is_withheld.then(Withheld::default),
            first: stretch.position().div_ceil(PIECE),
            is_changed,
            stretch,
            map,
            digests: lane,
        }
    }

    /// Returns the offset of the next bytes.
    pub fn position(&self) -> u64 {
        self.stretch.position()
    }

    /// Returns the last bytes that were put into the space, so many of them, before [`DraftWriter::advance`].
    pub(super) fn next_bytes(&self, count: usize) -> &[u8] {
        self.block.as_ref().map_or(&[], |filling| &filling.block[filling.filled..filling.filled + count])
    }

    /// Whether a block is partly filled.
    pub fn is_filling(&self) -> bool {
        self.block.is_some()
    }

    /// Continues at this offset, a multiple of [`ALIGN`]. Refused while an incomplete sector is pending.
    pub fn seek(&mut self, offset: u64) -> Result<(), ReceiveError> {
        if offset == self.position() {
            return Ok(());
        }
        if self.block.is_some() || !self.aside.is_empty() || !offset.is_multiple_of(ALIGN as u64) {
            return Err(ReceiveError::Write(io::ErrorKind::InvalidInput.into()));
        }
        let scattered = |error| Fault::new(FaultKind::TooLarge, "too many parts with gaps between them").because(error);
        lock(&self.map).admits(offset).map_err(|error| ReceiveError::Refused(scattered(error)))?;
        self.stretch = Stretch::at(offset);
        self.offset = offset;
        self.digests = None;
        Ok(())
    }

    /// Returns the space for the next bytes; never empty.
    pub async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        let filling = match self.block.take() {
            Some(filling) => filling,
            None => self.next_block().await?,
        };
        let filling = self.block.insert(filling);
        Ok(&mut filling.block[filling.filled..])
    }

    /// Accepts bytes that were put into that space, and digests them while they are in the processor's cache.
    pub async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let Some(mut filling) = self.block.take() else { return Ok(()) };
        self.stretch.write(&filling.block[filling.filled..filling.filled + taken]);
        filling.filled += taken;
        if filling.filled == BLOCK {
            return self.submit(filling.block.freeze(), BLOCK).await;
        }
        let is_slow = self.pool.is_pressed() && filling.since.elapsed() > PARK_PRESSED;
        self.block = Some(filling);
        if is_slow { self.park().await } else { Ok(()) }
    }

    /// Writes `block[..len]` at `offset`, under the rules of [`Draft::write_at`].
    pub async fn write(&mut self, offset: u64, block: SharedBlock, len: usize) -> Result<(), ReceiveError> {
        self.seek(offset)?;
        self.stretch.write(&block[..len]);
        self.submit(block, len).await
    }

    /// Declares `len` bytes at `offset`, where nothing was written, to be zero: they become a hole.
    pub fn skip(&mut self, offset: u64, len: u64) -> Result<(), ReceiveError> {
        self.seek(offset)?;
        self.stretch.write_zeros(len);
        self.digests = None;
        // After the writes before it, whose bytes may be of the same piece.
        self.note(offset..offset + len, Box::pin(async { Ok(()) }));
        self.note_digests();
        self.offset += len;
        Ok(())
    }

    /// Takes a block, and copies the bytes that were kept aside to its start.
    async fn next_block(&mut self) -> Result<Filling, ReceiveError> {
        let block = tokio::select! {
            biased;
            block = self.progress.during(Phase::Memory, self.pool.take()) => block,
            stop = self.progress.until_stopped() => return Err(ReceiveError::Stopped(stop)),
        };
        let mut filling = Filling { block, filled: self.aside.len(), since: Instant::now() };
        filling.block[..self.aside.len()].copy_from_slice(&self.aside);
        self.aside.clear();
        Ok(filling)
    }

    /// Writes the full sectors of the block and releases it.
    pub async fn park(&mut self) -> Result<(), ReceiveError> {
        let Some(filling) = self.block.take() else { return Ok(()) };
        let full = filling.filled - filling.filled % ALIGN;
        self.aside.extend_from_slice(&filling.block[full..filling.filled]);
        if full > 0 { self.submit(filling.block.freeze(), full).await } else { Ok(()) }
    }

    /// Writes the full sectors of the block, and waits until the map has them.
    pub async fn write_out(&mut self) -> Result<(), ReceiveError> {
        self.park().await?;
        while !self.writes.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Submits `block[..len]`; waits while the most writes are in flight.
    ///
    /// The bytes are submitted before anything is awaited, so that dropping it loses none.
    async fn submit(&mut self, block: SharedBlock, len: usize) -> Result<(), ReceiveError> {
        debug_assert!(self.offset.is_multiple_of(ALIGN as u64), "a block after the last of a drive");
        let (head, at) = (std::mem::take(&mut self.head), self.offset);
        let start = if head > 0 { ALIGN } else { 0 };
        if head > 0 {
            self.write_edge(block[head..ALIGN].to_vec(), at + head as u64);
        }
        if start < len {
            let write = self.draft.write_at(block.clone(), start..len, at + start as u64);
            self.note(at + start as u64..at + len as u64, write);
        }
        self.note_digests();
        self.offset += len as u64;
        if let Some(lane) = &self.digests {
            self.progress.during(Phase::Digest, lane.push(Next::Block(block, head..len))).await;
        }
        while self.writes.len() >= self.depth {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    fn write_edge(&mut self, bytes: Vec<u8>, offset: u64) {
        let range = offset..offset + bytes.len() as u64;
        let write = self.draft.write_edge(bytes, offset);
        self.note(range, write);
    }

    fn note(&mut self, bytes: Range<u64>, write: Boxed<'static, io::Result<()>>) {
        self.writes.push_back(Submitted { bytes, digested: Vec::new(), write });
    }

    /// Has the last write tell of the pieces that are complete with it.
    fn note_digests(&mut self) {
        if let Some(last) = self.writes.back_mut() {
            last.digested.append(&mut self.stretch.take_digested());
        }
    }

    /// Waits for the oldest write. Cancel safe.
    async fn settle_oldest(&mut self) -> Result<(), ReceiveError> {
        let Some(oldest) = self.writes.front_mut() else { return Ok(()) };
        let outcome = self.progress.during(Phase::Disk, &mut oldest.write).await;
        // After one that failed, the digests are of bytes that are not there.
        self.has_failed |= outcome.is_err();
        if let Some(settled) = self.writes.pop_front().filter(|_| !self.has_failed) {
            match &mut self.withheld {
                None => self.add(settled.bytes, settled.digested),
                Some(Withheld { bytes, digested }) => {
                    // They settle in order.
                    let start = bytes.as_ref().map_or(settled.bytes.start, |bytes| bytes.start);
                    *bytes = Some(start..settled.bytes.end);
                    digested.extend(settled.digested);
                }
            }
        }
        outcome.map_err(ReceiveError::Write)
    }

    /// Ends a part: writes the rest to the byte, and waits for all writes. `size` is that of the drive, if it is known.
    /// When it returns, the map has every byte that is on the disk, and writing does not continue.
    pub async fn settle(&mut self, size: Option<u64>) -> Result<(), ReceiveError> {
        let mut outcome = self.park().await;
        let head = std::mem::take(&mut self.head);
        let aside = std::mem::take(&mut self.aside);
        if aside.len() > head {
            if let Some(lane) = &self.digests {
                self.progress.during(Phase::Digest, lane.push(Next::Edge(aside[head..].to_vec()))).await;
            }
            self.write_edge(aside[head..].to_vec(), self.offset + head as u64);
        }
        self.end_of_drive(size);
        while !self.writes.is_empty() {
            outcome = outcome.and(self.settle_oldest().await);
        }
        outcome
    }

    /// Adds what was withheld to the map.
    pub(super) fn release(&mut self) {
        if let Some(Withheld { bytes: Some(bytes), digested }) = self.withheld.take() {
            self.add(bytes, digested);
        }
    }

    /// Adds bytes to the map, without a digest that goes on from bytes that have changed.
    fn add(&self, bytes: Range<u64>, mut digested: Vec<Digested>) {
        let mut map = lock(&self.map);
        // Who changes them says so before they take the digests out of the map.
        if self.is_changed.load(Ordering::Acquire) {
            digested.retain(|(pieces, _)| pieces.start >= self.first);
        }
        map.add(bytes, digested);
    }

    /// Whether bytes are kept out of the map.
    pub(super) fn is_withheld(&self) -> bool {
        self.withheld.is_some()
    }

    /// Returns what the part needs that continues where this one, which was settled, ended.
    pub(super) fn into_end(self) -> (Stretch, Option<DigestLane>) {
        (self.stretch, self.digests)
    }

    /// Completes the last piece of the drive, if the bytes have come to its end.
    fn end_of_drive(&mut self, size: Option<u64>) {
        let end = self.position();
        if size == Some(end) {
            self.stretch.end();
            self.note(end..end, Box::pin(async { Ok(()) }));
            self.note_digests();
        }
    }

    /// Writes the rest, and waits for all writes.
    pub async fn finish(mut self) -> Result<Written, ReceiveError> {
        if self.block.is_none() && !self.aside.is_empty() {
            self.block = Some(self.next_block().await?);
        }
        if let Some(mut filling) = self.block.take() {
            // Direct I/O writes whole sectors; the draft truncates the file to its size afterwards.
            let sectors = filling.filled.next_multiple_of(ALIGN);
            filling.block[filling.filled..sectors].fill(0);
            self.submit(filling.block.freeze(), filling.filled).await?;
        }
        let end = self.position();
        self.end_of_drive(Some(end));
        while !self.writes.is_empty() {
            self.settle_oldest().await?;
        }
        let digests = match self.digests {
            Some(lane) => self.progress.during(Phase::Digest, lane.finish()).await,
            None => Digests::NONE,
        };
        Ok(Written { end, map: std::mem::take(&mut *lock(&self.map)), digests })
    }
}

/// A map: each change leaves it whole.
pub(super) fn lock(map: &SharedMap) -> MutexGuard<'_, PieceMap> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, ContentId, Extent, PIECE, Pieces, VolumeId};
    use crate::store::{Piece, ReadBack, StoreError, piece_digest, zero_piece};

    /// A draft in memory.
    #[derive(Default)]
    struct Memory(Mutex<Vec<u8>>);

    impl Memory {
        fn put(&self, data: &[u8], offset: u64) {
            let mut bytes = self.0.lock().unwrap();
            let (start, end) = (offset as usize, offset as usize + data.len());
            let len = bytes.len().max(end);
            bytes.resize(len, 0);
            bytes[start..end].copy_from_slice(data);
        }
    }

    impl Draft for Memory {
        fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Boxed<'static, io::Result<()>> {
            assert!(offset.is_multiple_of(ALIGN as u64) && range.start.is_multiple_of(ALIGN), "aligned");
            self.put(&data[range], offset);
            Box::pin(async { Ok(()) })
        }

        fn write_edge(&self, data: Vec<u8>, offset: u64) -> Boxed<'static, io::Result<()>> {
            assert!(offset as usize % ALIGN + data.len() <= ALIGN, "within a sector");
            self.put(&data, offset);
            Box::pin(async { Ok(()) })
        }

        fn zero(&self, _: Extent) -> Boxed<'static, io::Result<()>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }

        fn copy(&self, _: ContentId, _: Extent, _: u64) -> Boxed<'static, io::Result<()>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }

        fn checkpoint(&self, _: PieceMap) -> Boxed<'_, Result<(), StoreError>> {
            Box::pin(async { Err(StoreError::Unsupported) })
        }

        fn read_back(&self, _: ByteCount) -> Boxed<'_, Result<Box<dyn ReadBack>, StoreError>> {
            Box::pin(async { Err(StoreError::Unsupported) })
        }

        fn reserve_more(&self, _: ByteCount) -> Result<(), StoreError> {
            Ok(())
        }

        fn publish(&self, _: ByteCount, _: Pieces) -> Boxed<'_, Result<(), StoreError>> {
            Box::pin(async { Ok(()) })
        }
    }

    struct Scene {
        memory: Arc<Memory>,
        draft: Arc<dyn Draft>,
        pool: Pool,
        progress: Arc<Progress>,
    }

    impl Scene {
        fn new() -> Self {
            let memory = Arc::new(Memory::default());
            let pool = Pool::new(ByteCount::mib(8));
            let progress = Arc::new(Progress::fetching(VolumeId::random()));
            Self { draft: memory.clone(), memory, pool, progress }
        }

        fn writer(&self) -> DraftWriter {
            let options = WriteOptions { depth: 3, digests: Algorithms::ALL };
            DraftWriter::new(self.draft.clone(), self.pool.clone(), options, self.progress.clone())
        }

        fn part(&self, at: u64, map: &SharedMap) -> DraftWriter {
            let beginning = Beginning { stretch: Stretch::at(at), map: map.clone(), ..Beginning::default() };
            DraftWriter::part(self.draft.clone(), self.pool.clone(), 3, self.progress.clone(), beginning)
        }

        async fn block(&self, byte: u8) -> SharedBlock {
            let mut block = self.pool.take().await;
            block.fill(byte);
            block.freeze()
        }
    }

    async fn put(writer: &mut DraftWriter, bytes: &[u8]) {
        writer.space().await.unwrap()[..bytes.len()].copy_from_slice(bytes);
        writer.advance(bytes.len()).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_with_pauses_is_written_and_digested_as_what_comes_at_once() {
        let scene = Scene::new();
        let content: Vec<u8> = (0..BLOCK + 3 * ALIGN + 100).map(|at| (at % 251) as u8).collect();
        let mut writer = scene.writer();
        for part in content.chunks(ALIGN * 100 + 77) {
            let mut rest = part;
            while !rest.is_empty() {
                let room = writer.space().await.unwrap().len();
                let (now, later) = rest.split_at(rest.len().min(room));
                put(&mut writer, now).await;
                rest = later;
            }
            writer.park().await.unwrap();
            assert!(!writer.is_filling(), "a peer that pauses holds a block");
        }
        let written = writer.finish().await.unwrap();
        assert_eq!(written.end, content.len() as u64);
        assert!(*scene.memory.0.lock().unwrap() == content);
        let mut digests = super::super::digest::DigestState::new(Algorithms::ALL);
        digests.update(&content);
        assert_eq!(written.digests, digests.finish());
        let pieces = written.map.finish(ByteCount::new(written.end).unwrap());
        assert_eq!(pieces, Ok(Pieces(vec![piece_digest(&content)])));
        assert_eq!(scene.pool.in_use(), 0);
    }

    #[tokio::test]
    async fn blocks_may_come_in_any_order_and_what_is_skipped_is_zero() {
        let scene = Scene::new();
        let (block, size) = (BLOCK as u64, ByteCount::new(3 * PIECE).unwrap());
        let mut writer = scene.writer();
        for at in [2, 3, 1, 0] {
            writer.write(at * block, scene.block(at as u8 + 1).await, BLOCK).await.unwrap();
        }
        writer.skip(2 * PIECE, PIECE).unwrap();
        let written = writer.finish().await.unwrap();
        assert_eq!((written.end, written.digests), (3 * PIECE, Digests::NONE));
        let bytes = scene.memory.0.lock().unwrap();
        assert!((0..4).all(|at| bytes[at * BLOCK..(at + 1) * BLOCK].iter().all(|byte| *byte == at as u8 + 1)));
        let pieces = [0, 1, 2].map(|index| written.map.piece(index, size));
        let second = piece_digest(&bytes[PIECE as usize..]);
        assert_eq!(pieces, [Piece::Undigested, Piece::Whole(second), Piece::Whole(zero_piece())]);
    }

    /// Parts of any alignment, each to the byte: what others wrote in the same sector stays.
    #[tokio::test]
    async fn parts_begin_and_end_within_sectors() {
        let content: Vec<u8> = (0..PIECE as usize + 9_000).map(|at| (at % 251) as u8 + 1).collect();
        let size = content.len() as u64;
        for cuts in [vec![5, 100, 4_096, 4_097, 8_200], vec![4_000, PIECE + 1, PIECE + 4_099], vec![1, 2, 3, 2_097_153]]
        {
            let scene = Scene::new();
            let map = SharedMap::default();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let parts: Vec<_> = starts.zip(cuts.iter().copied().chain([size])).collect();
            // The last first: what is behind a part is there when it ends.
            for (start, end) in parts.into_iter().rev() {
                let mut writer = scene.part(start, &map);
                let mut rest = &content[start as usize..end as usize];
                while !rest.is_empty() {
                    let room = writer.space().await.unwrap().len().min(1 << 20);
                    let (now, later) = rest.split_at(rest.len().min(room));
                    put(&mut writer, now).await;
                    rest = later;
                }
                writer.settle(Some(size)).await.unwrap();
                assert_eq!(writer.position(), end);
            }
            assert!(*scene.memory.0.lock().unwrap() == content, "{cuts:?}");
            let map = map.lock().unwrap();
            assert_eq!((map.extents().ranges().len(), map.extents().total()), (1, size));
            let is_known = |index: u64| map.piece(index, ByteCount::new(size).unwrap());
            assert!(cuts.iter().all(|cut| is_known(cut / PIECE) == Piece::Undigested), "{cuts:?}");
            assert_eq!(scene.pool.in_use(), 0);
        }
    }

    #[tokio::test]
    async fn a_part_that_continues_where_the_one_before_ended_has_the_digests_of_one() {
        let scene = Scene::new();
        let content: Vec<u8> = (0..PIECE as usize + 77).map(|at| (at % 251) as u8 + 1).collect();
        let (map, size) = (SharedMap::default(), content.len() as u64);
        let mut stretch = Stretch::default();
        for part in content.chunks(1_500_001) {
            let beginning = Beginning { stretch, map: map.clone(), ..Beginning::default() };
            let mut writer =
                DraftWriter::part(scene.draft.clone(), scene.pool.clone(), 2, scene.progress.clone(), beginning);
            let mut rest = part;
            while !rest.is_empty() {
                let room = writer.space().await.unwrap().len();
                let (now, later) = rest.split_at(rest.len().min(room));
                put(&mut writer, now).await;
                rest = later;
            }
            writer.settle(Some(size)).await.unwrap();
            stretch = writer.into_end().0;
        }
        let map = std::mem::take(&mut *map.lock().unwrap());
        let pieces = content.chunks(PIECE as usize).map(piece_digest).collect();
        assert_eq!(map.finish(ByteCount::new(size).unwrap()), Ok(Pieces(pieces)));
        assert!(*scene.memory.0.lock().unwrap() == content);
    }

    #[tokio::test]
    async fn a_stretch_ends_between_sectors_or_with_the_drive() {
        let scene = Scene::new();
        let mut writer = scene.writer();
        put(&mut writer, &[7; 5]).await;
        assert!(writer.seek(PIECE).is_err(), "bytes are in a block");
        writer.park().await.unwrap();
        assert!(writer.seek(PIECE).is_err(), "bytes are set aside");
        writer.seek(5).unwrap();
        put(&mut writer, &vec![7; ALIGN - 5]).await;
        writer.park().await.unwrap();
        assert!(writer.seek(PIECE + 5).is_err(), "it is within a sector");
        writer.seek(PIECE).unwrap();
        let map = writer.finish().await.unwrap().map;
        assert_eq!(
            (map.extents().total(), map.extents().first_gap(0..PIECE)),
            (ALIGN as u64, Some(ALIGN as u64..PIECE))
        );
    }
}
