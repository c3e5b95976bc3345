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
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::digest::Sha256Lane;
use super::error::ReceiveError;
use super::progress::{Phase, Progress};
use crate::domain::{Fault, FaultKind, Sha256};
use crate::io::{ALIGN, BLOCK, Block, Pool, SharedBlock};
use crate::store::{Boxed, Draft, PieceMap};

/// The longest time for which a slowly filled block is held while others wait for one.
const PARK_PRESSED: Duration = Duration::from_secs(1);

/// Options of a writer.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The most writes in flight.
    pub depth: usize,
    /// Whether to compute SHA-256.
    pub sha256: bool,
}

/// The result of a writer, which is not flushed yet.
pub struct Written {
    /// The end of the last run.
    pub end: u64,
    /// The pieces that were written.
    pub map: PieceMap,
    /// The digest of the stream, if it was asked for and the bytes came in order from the first one.
    pub sha256: Option<Sha256>,
}

/// See the module's documentation.
pub struct DraftWriter<'a> {
    draft: &'a Arc<dyn Draft>,
    pool: &'a Pool,
    progress: &'a Progress,
    depth: usize,
    /// The offset of the next block: a multiple of `ALIGN`, except after the last write.
    offset: u64,
    block: Option<Filling>,
    /// The bytes of a parked block after its last full sector.
    aside: Vec<u8>,
    writes: VecDeque<Boxed<'static, io::Result<()>>>,
    map: PieceMap,
    sha256: Option<Sha256Lane>,
}

struct Filling {
    block: Block,
    filled: usize,
    since: Instant,
}

impl<'a> DraftWriter<'a> {
    /// Begins at offset 0.
    pub fn new(draft: &'a Arc<dyn Draft>, pool: &'a Pool, options: WriteOptions, progress: &'a Progress) -> Self {
        Self {
            draft,
            pool,
            progress,
            depth: options.depth,
            offset: 0,
            block: None,
            aside: Vec::new(),
            writes: VecDeque::with_capacity(options.depth),
            map: PieceMap::default(),
            sha256: options.sha256.then(Sha256Lane::default),
        }
    }

    /// Returns the offset of the next bytes.
    pub fn position(&self) -> u64 {
        self.map.position()
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
        self.map.seek(offset).map_err(|error| ReceiveError::Refused(scattered(error)))?;
        self.offset = offset;
        self.sha256 = None;
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
        self.map.write(&filling.block[filling.filled..filling.filled + taken]);
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
        self.map.write(&block[..len]);
        self.submit(block, len).await
    }

    /// Declares `len` bytes at `offset`, where nothing was written, to be zero: they become a hole.
    pub fn skip(&mut self, offset: u64, len: u64) -> Result<(), ReceiveError> {
        self.seek(offset)?;
        self.map.write_zeros(len);
        self.offset += len;
        self.sha256 = None;
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

    /// Submits `block[..len]`; waits while the most writes are in flight.
    async fn submit(&mut self, block: SharedBlock, len: usize) -> Result<(), ReceiveError> {
        debug_assert!(self.offset.is_multiple_of(ALIGN as u64), "a block after the last of a drive");
        if let Some(lane) = &self.sha256 {
            self.progress.during(Phase::Digest, lane.push(block.clone(), 0..len)).await;
        }
        self.writes.push_back(self.draft.write_at(block, 0..len, self.offset));
        self.offset += len as u64;
        while self.writes.len() >= self.depth {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), ReceiveError> {
        match self.writes.pop_front() {
            Some(write) => self.progress.during(Phase::Disk, write).await.map_err(ReceiveError::Write),
            None => Ok(()),
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
        while !self.writes.is_empty() {
            self.settle_oldest().await?;
        }
        let sha256 = match self.sha256 {
            Some(lane) => Some(self.progress.during(Phase::Digest, lane.finish()).await),
            None => None,
        };
        Ok(Written { end: self.map.position(), map: self.map, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Mutex;

    use super::*;
    use crate::domain::{ByteCount, PIECE, Pieces, VolumeId};
    use crate::store::{Piece, StoreError, piece_digest, zero_piece};

    /// A draft in memory.
    #[derive(Default)]
    struct Memory(Mutex<Vec<u8>>);

    impl Draft for Memory {
        fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Boxed<'static, io::Result<()>> {
            let mut bytes = self.0.lock().unwrap();
            let (start, end) = (offset as usize, offset as usize + range.len());
            let len = bytes.len().max(end);
            bytes.resize(len, 0);
            bytes[start..end].copy_from_slice(&data[range]);
            Box::pin(async { Ok(()) })
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
        progress: Progress,
    }

    impl Scene {
        fn new() -> Self {
            let memory = Arc::new(Memory::default());
            let pool = Pool::new(ByteCount::mib(8));
            Self { draft: memory.clone(), memory, pool, progress: Progress::fetching(VolumeId::random()) }
        }

        fn writer(&self) -> DraftWriter<'_> {
            DraftWriter::new(&self.draft, &self.pool, WriteOptions { depth: 3, sha256: true }, &self.progress)
        }

        async fn block(&self, byte: u8) -> SharedBlock {
            let mut block = self.pool.take().await;
            block.fill(byte);
            block.freeze()
        }
    }

    async fn put(writer: &mut DraftWriter<'_>, bytes: &[u8]) {
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
        let mut sha256 = super::super::digest::Sha256State::default();
        sha256.update(&content);
        assert_eq!(written.sha256, Some(sha256.finish()));
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
        assert_eq!((written.end, written.sha256), (3 * PIECE, None));
        let bytes = scene.memory.0.lock().unwrap();
        assert!((0..4).all(|at| bytes[at * BLOCK..(at + 1) * BLOCK].iter().all(|byte| *byte == at as u8 + 1)));
        let pieces = [0, 1, 2].map(|index| written.map.piece(index, size));
        let second = piece_digest(&bytes[PIECE as usize..]);
        assert_eq!(pieces, [Piece::Undigested, Piece::Whole(second), Piece::Whole(zero_piece())]);
    }

    #[tokio::test]
    async fn a_run_ends_between_sectors_or_with_the_drive() {
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
