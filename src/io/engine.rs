//! The I/O engine: moves blocks between memory and files without blocking the caller.
//!
//! There are two kinds, of which one is picked at start: `io_uring` on its own threads, or a pool of threads that call
//! `pwrite` and `pread`.
//!
//! # Invariants
//! - An operation is submitted at the call, not at the first poll, and from then to its completion the engine owns its
//!   buffer and file (I4).
//! - When an operation's future resolves, the engine has released the buffer and the file.
//!
//! # Cancellation
//! Dropping a [`Submitted`] drops the answer; the operation goes on. A read block then goes back to its pool.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::file::SharedFile;
use super::operation::{Loan, Operation, engine_gone};
use super::pool::{Block, SharedBlock};
use super::ring::{self, Ring};
use super::threads::{self, Threads};

/// Moves blocks to and from files. Clones share its threads, which end after the last clone and the last [`EngineFile`]
/// are gone and what was submitted is done. They are not joined, since the last clone may be dropped by a task, which
/// must not block.
#[derive(Clone, Debug)]
pub enum IoEngine {
    /// By `io_uring`.
    Ring(Ring),
    /// By blocking calls on a pool of threads.
    Threads(Threads),
}

impl IoEngine {
    /// Starts an `io_uring` engine with this many rings, each on its thread. Fails where `io_uring` is missing,
    /// forbidden or does not work: each ring moves real bytes before this returns.
    pub fn ring(threads: usize) -> io::Result<Self> {
        Ring::start(threads).map(Self::Ring)
    }

    /// Starts an engine of this many threads with blocking calls, or of as many as it takes so that no file can occupy
    /// all of them.
    ///
    /// # Panics
    /// When the system refuses a thread, as [`std::thread::spawn`] does.
    pub fn threads(threads: usize) -> Self {
        Self::Threads(Threads::start(threads))
    }

    /// Starts the `io_uring` engine, or as a fallback the thread engine; then also returns the reason.
    pub fn best(threads: usize) -> (Self, Option<io::Error>) {
        match Self::ring(threads) {
            Ok(engine) => (engine, None),
            Err(reason) => (Self::threads(threads), Some(reason)),
        }
    }

    /// Returns its name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ring(_) => "io_uring",
            Self::Threads(_) => "threads",
        }
    }

    /// Whether its threads run. A ring ends with its thread; its operations then fail.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.is_alive(),
            // Its threads outlive a panic.
            Self::Threads(_) => true,
        }
    }

    /// Makes the engine work on this file. All operations of one file go to one ring.
    pub fn adopt(&self, file: SharedFile) -> EngineFile {
        let queue = match self {
            Self::Ring(ring) => Queue::Ring(ring.queue()),
            Self::Threads(threads) => Queue::Threads(threads.queue()),
        };
        EngineFile { file, queue }
    }
}

/// A file that an engine works on. It is closed when all clones and their operations are done.
#[derive(Clone, Debug)]
pub struct EngineFile {
    file: SharedFile,
    queue: Queue,
}

#[derive(Clone, Debug)]
enum Queue {
    Ring(ring::Queue),
    Threads(threads::Queue),
}

impl EngineFile {
    /// Writes all of `data[range]` at `offset`.
    pub fn write_at(&self, data: SharedBlock, range: Range<usize>, offset: u64) -> Submitted<io::Result<()>> {
        let (done, answer) = oneshot::channel();
        if range.start > range.end || range.end > data.len() {
            // The receiver is still alive: it is `answer`.
            let _ = done.send(Err(io::ErrorKind::InvalidInput.into()));
        } else {
            self.submit(Operation::Write { file: self.file.clone(), data, range, offset, done });
        }
        Submitted { answer }
    }

    /// Fills `block[..len]` from `offset`, stopping short only at the end of the file; returns the number of bytes. The
    /// block is always returned, by a dead engine too.
    pub fn read_at(&self, block: Block, len: usize, offset: u64) -> Submitted<(Block, io::Result<usize>)> {
        let (done, answer) = oneshot::channel();
        let room = block.len();
        let loan = Loan::new(block, done);
        if len > room {
            loan.settle(Err(io::ErrorKind::InvalidInput.into()));
        } else {
            self.submit(Operation::Read { file: self.file.clone(), loan, len, offset });
        }
        Submitted { answer }
    }

    fn submit(&self, operation: Operation) {
        // An operation that a dead engine does not take is dropped, which answers it with an error.
        match &self.queue {
            Queue::Ring(queue) => drop(queue.send(operation)),
            Queue::Threads(queue) => queue.send(operation),
        }
    }
}

/// The pending result of an operation. Dropping it does not stop the operation.
#[derive(Debug)]
#[must_use = "an operation's failure is known only to who awaits it"]
pub struct Submitted<T> {
    answer: oneshot::Receiver<T>,
}

impl Future for Submitted<io::Result<()>> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(engine_gone())))
    }
}

impl Future for Submitted<(Block, io::Result<usize>)> {
    type Output = (Block, io::Result<usize>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.expect("a dropped loan answers"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::domain::ByteCount;
    use crate::io::{BLOCK, Pool};
    use crate::skipped::skipped;

    /// Returns every engine that works on this machine; reports the others as skipped.
    fn engines() -> Vec<IoEngine> {
        let mut engines = vec![IoEngine::threads(2)];
        match IoEngine::ring(2) {
            Ok(ring) => engines.push(ring),
            Err(error) => skipped(format!("this machine has no io_uring: {error}")),
        }
        engines
    }

    fn pool() -> Pool {
        Pool::new(ByteCount::mib(16))
    }

    async fn filled(pool: &Pool, byte: u8) -> SharedBlock {
        let mut block = pool.take().await;
        block.fill(byte);
        block.freeze()
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_from_the_same_place() {
        for engine in engines() {
            let pool = pool();
            let file = engine.adopt(SharedFile::from(tempfile::tempfile().unwrap()));
            let mut writes = Vec::new();
            for n in 0..6u8 {
                writes.push(file.write_at(filled(&pool, n + 1).await, 100..200_100, u64::from(n) * 200_000));
            }
            for write in writes {
                write.await.unwrap();
            }
            let (block, read) = file.read_at(pool.take().await, BLOCK, 199_999).await;
            assert_eq!(read.unwrap(), 1_000_001, "{}", engine.name());
            assert_eq!((block[0], block[1], block[200_000], block[1_000_000]), (1, 2, 2, 6));
            drop(block);
            assert_eq!(pool.in_use(), 0);
        }
    }

    #[tokio::test]
    async fn a_read_stops_at_the_end_of_the_file_and_reads_nothing_beyond() {
        for engine in engines() {
            let pool = pool();
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(b"0123456789", 0).unwrap();
            let file = engine.adopt(SharedFile::from(file));
            let (block, read) = file.read_at(pool.take().await, 100, 4).await;
            assert_eq!(&block[..read.unwrap()], b"456789");
            let (_, read) = file.read_at(block, 100, 10).await;
            assert_eq!(read.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_write_goes_on_when_its_future_is_dropped() {
        for engine in engines() {
            let pool = pool();
            let mut file = tempfile::tempfile().unwrap();
            let adopted = engine.adopt(SharedFile::from(file.try_clone().unwrap()));
            for n in 0..8u64 {
                drop(adopted.write_at(filled(&pool, 9).await, 0..BLOCK, n * BLOCK as u64));
            }
            // All blocks are back in the pool once all writes are done.
            let mut blocks = Vec::new();
            for _ in 0..8 {
                blocks.push(pool.take().await);
            }
            let mut written = Vec::new();
            file.read_to_end(&mut written).unwrap();
            assert_eq!(written.len(), 8 * BLOCK);
            assert!(written.iter().all(|&byte| byte == 9));
        }
    }

    #[tokio::test]
    async fn an_answered_operation_holds_neither_block_nor_file() {
        for engine in engines() {
            let pool = pool();
            let file = SharedFile::from(tempfile::tempfile().unwrap());
            // Often enough to meet an engine that answers first and lets go after.
            for _ in 0..2000 {
                let adopted = engine.adopt(file.clone());
                adopted.write_at(pool.take().await.freeze(), 0..1, 0).await.unwrap();
                assert_eq!(pool.in_use(), 0);
                drop(adopted.read_at(pool.take().await, 1, 0).await);
                drop(adopted);
                assert_eq!(file.holders(), 1, "{}", engine.name());
            }
        }
    }

    #[tokio::test]
    async fn the_system_s_error_reaches_the_caller_and_the_block_comes_back() {
        for engine in engines() {
            let pool = pool();
            let read_only = engine.adopt(SharedFile::from(File::open("/proc/self/exe").unwrap()));
            let refused = read_only.write_at(filled(&pool, 1).await, 0..10, 0).await.unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
            let directory = engine.adopt(SharedFile::from(File::open("/").unwrap()));
            let (block, read) = directory.read_at(pool.take().await, 10, 0).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::IsADirectory);
            assert_eq!(block.len(), BLOCK);
        }
    }

    #[tokio::test]
    async fn a_range_outside_the_block_is_refused() {
        for engine in engines() {
            let pool = pool();
            let file = engine.adopt(SharedFile::from(tempfile::tempfile().unwrap()));
            assert!(file.write_at(filled(&pool, 1).await, 0..BLOCK + 1, 0).await.is_err());
            let (_block, read) = file.read_at(pool.take().await, BLOCK + 1, 0).await;
            assert!(read.is_err());
        }
    }

    #[tokio::test]
    async fn a_file_works_on_after_its_engine_was_dropped_and_the_threads_end_with_it() {
        for engine in engines() {
            let pool = pool();
            let file = engine.adopt(SharedFile::from(tempfile::tempfile().unwrap()));
            drop(engine);
            let first = file.write_at(filled(&pool, 1).await, 0..BLOCK, 0);
            let last = file.write_at(filled(&pool, 1).await, 0..BLOCK, BLOCK as u64);
            drop(file);
            first.await.unwrap();
            last.await.unwrap();
        }
        while engine_threads() > 0 {
            std::thread::yield_now();
        }
    }

    fn engine_threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("longshore-io")).count()
    }

    #[tokio::test]
    async fn a_thousand_operations_in_flight_overflow_no_ring() {
        for engine in engines() {
            let pool = pool();
            let data = filled(&pool, 3).await;
            let file = SharedFile::from(tempfile::tempfile().unwrap());
            let adopted = engine.adopt(file.clone());
            let writes: Vec<_> = (0..1000u64).map(|n| adopted.write_at(data.clone(), 0..4096, n * 4096)).collect();
            for write in writes {
                write.await.unwrap();
            }
            assert_eq!(file.metadata().unwrap().len(), 4_096_000);
        }
    }

    #[tokio::test]
    async fn a_dead_engine_answers_with_an_error_and_returns_the_block() {
        let pool = pool();
        let (dead, receiver) = tokio::sync::mpsc::unbounded_channel();
        drop(receiver);
        let file = EngineFile { file: SharedFile::from(tempfile::tempfile().unwrap()), queue: Queue::Ring(dead) };
        assert!(file.write_at(filled(&pool, 1).await, 0..1, 0).await.is_err());
        let (block, read) = file.read_at(pool.take().await, 1, 0).await;
        assert!(read.is_err());
        assert_eq!(block.len(), BLOCK);
        drop(block);
        assert_eq!(pool.in_use(), 0);
    }
}
