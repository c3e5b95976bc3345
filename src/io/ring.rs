#![expect(unsafe_code, reason = "the kernel works through raw pointers, which no safe interface of io_uring takes")]
//! The `io_uring` engine: each ring on its own thread, driven by tokio-uring.
//!
//! One ring, on whatever core is free, is the default: for 1, 2 and 8 files at once it fills the disk, and neither a
//! second ring nor a core of its own moved more bytes or cost less CPU time by more than the noise (`benches/engine`).
//!
//! # Invariants
//! - The kernel works through a raw pointer and a file number until it answers. Both stay valid because the buffer and
//!   the file travel as the operation's stored data, which tokio-uring keeps to its completion, because the memory of a
//!   [`StayPut`] does not move with it, and because a ring's thread ends only when none is in flight.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as ready};
use std::thread;
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types};
use tokio::sync::mpsc;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
use tokio_util::task::TaskTracker;

use super::file::SharedFile;
use super::operation::{Loan, Operation};
use super::pool::{ALIGN, Block, Pool, SharedBlock};

/// Slots of one ring's submission queue. More in flight than this costs a system call per overflow, no failure.
const ENTRIES: u32 = 256;

/// The longest time for the first bytes of a new ring. A sandbox that accepts and never answers must not hang the
/// start.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// The queue of one ring. Unbounded, because the block budget bounds its length.
pub(super) type Queue = mpsc::UnboundedSender<Operation>;

/// The rings behind [`super::IoEngine::Ring`].
#[derive(Clone, Debug)]
pub struct Ring {
    queues: Arc<[Queue]>,
    next: Arc<AtomicUsize>,
}

impl Ring {
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let queues = (0..threads.max(1)).map(start_ring).collect::<io::Result<_>>()?;
        Ok(Self { queues, next: Arc::default() })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.queues.iter().any(Queue::is_closed)
    }

    /// Returns the queue for the next file: the rings are assigned in turn.
    pub(super) fn queue(&self) -> Queue {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        self.queues[turn].clone()
    }
}

fn start_ring(n: usize) -> io::Result<Queue> {
    let (queue, operations) = mpsc::unbounded_channel();
    let (tell, told) = ready::channel();
    thread::Builder::new().name(format!("longshore-io-{n}")).spawn(move || run_ring(operations, &tell))?;
    match told.recv_timeout(PROBE_PATIENCE) {
        Ok(outcome) => outcome.map(|()| queue),
        Err(ready::RecvTimeoutError::Timeout) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "io_uring does not answer"))
        }
        Err(ready::RecvTimeoutError::Disconnected) => Err(io::Error::other("io_uring could not be set up")),
    }
}

fn run_ring(operations: mpsc::UnboundedReceiver<Operation>, tell: &ready::Sender<io::Result<()>>) {
    let runtime = match tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES)) {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    runtime.block_on(async {
        let works = prove().await;
        let go_on = works.is_ok();
        let _ = tell.send(works);
        if go_on {
            serve(operations).await;
        }
    });
}

/// Moves bytes through this ring, to a file in memory and back.
async fn prove() -> io::Result<()> {
    let file = rustix::fs::memfd_create("longshore-probe", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = SharedFile::from(File::from(file));
    let pool = Pool::small();
    let (Some(mut sent), Some(mut came)) = (pool.try_take(), pool.try_take()) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    sent[..ALIGN].fill(0xa5);
    came[..ALIGN].fill(0);
    write_all(&file, &sent.freeze(), 0..ALIGN, 0).await?;
    let (came, outcome) = fill(&file, came, ALIGN, 0).await;
    if outcome? == ALIGN && came[..ALIGN].iter().all(|&byte| byte == 0xa5) {
        Ok(())
    } else {
        Err(io::Error::other("io_uring does not move bytes"))
    }
}

/// Performs operations until every sender is gone, and then until the last is done.
async fn serve(mut operations: mpsc::UnboundedReceiver<Operation>) {
    let running = TaskTracker::new();
    while let Some(operation) = operations.recv().await {
        running.spawn_local(perform(operation));
    }
    running.close();
    running.wait().await;
}

async fn perform(operation: Operation) {
    // A send fails when the future of the operation was dropped.
    match operation {
        Operation::Write { file, data, range, offset, done } => {
            let outcome = write_all(&file, &data, range, offset).await;
            drop((file, data));
            let _ = done.send(outcome);
        }
        Operation::Read { file, loan, len, offset } => {
            let (loan, outcome) = fill(&file, loan, len, offset).await;
            drop(file);
            loan.settle(outcome);
        }
    }
}

async fn write_all(file: &SharedFile, data: &SharedBlock, range: Range<usize>, offset: u64) -> io::Result<()> {
    debug_assert!(range.start <= range.end && range.end <= data.len(), "checked when it was submitted");
    let mut written = 0;
    while written < range.len() {
        let rest = &data[range.start + written..range.end];
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
            .offset(offset + written as u64)
            .build();
        // SAFETY: the entry reads from `rest`, which is memory of `data`; a shared block is never written to.
        let submitted = unsafe { submit(file.clone(), data.clone(), entry) };
        match submitted.await.0 {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if passes(&error) => tokio::task::yield_now().await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer[..len]` is full or the file ends.
async fn fill<B>(file: &SharedFile, mut buffer: B, len: usize, offset: u64) -> (B, io::Result<usize>)
where
    B: AsMut<[u8]> + StayPut,
{
    let mut filled = 0;
    while filled < len {
        let rest = &mut buffer.as_mut()[filled..len];
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), rest.as_mut_ptr(), rest.len() as u32)
            .offset(offset + filled as u64)
            .build();
        // SAFETY: the entry writes to `rest`, which is memory of `buffer`; `buffer` has one owner and moves into the
        // operation, so nobody else reads or writes it until the completion gives it back.
        let submitted = unsafe { submit(file.clone(), buffer, entry) };
        let (outcome, returned) = submitted.await;
        buffer = returned;
        match outcome {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if passes(&error) => tokio::task::yield_now().await,
            Err(error) => return (buffer, Err(error)),
        }
    }
    (buffer, Ok(filled))
}

/// Whether the same operation may succeed when it is repeated.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// A buffer whose bytes stay where they are when the value moves.
///
/// # Safety
/// The memory of the slices that the value gives neither moves nor is freed before the value is dropped.
unsafe trait StayPut: Unpin + 'static {}

// SAFETY: the bytes of a block are a mapping of their own, which ends with the block; this is a counted handle to it.
unsafe impl StayPut for SharedBlock {}
// SAFETY: as above; the block itself.
unsafe impl StayPut for Block {}
// SAFETY: a loan holds its block until it is settled, which takes the loan by value.
unsafe impl StayPut for Loan {}

/// Puts an entry into the ring.
///
/// # Safety
/// The entry's file number is that of `file`. Its pointer and length lie within the bytes of `buffer`; where the kernel
/// writes there, `buffer` is their only owner.
unsafe fn submit<B: StayPut>(
    file: SharedFile,
    buffer: B,
    entry: squeue::Entry,
) -> InFlightOneshot<(SharedFile, B), Finish<B>> {
    UnsubmittedOneshot::new((file, buffer), Finish(PhantomData), entry).submit()
}

/// Maps a completion to its outcome and the buffer.
struct Finish<B>(PhantomData<B>);

impl<B> OneshotOutputTransform for Finish<B> {
    type Output = (io::Result<usize>, B);
    type StoredData = (SharedFile, B);

    fn transform_oneshot_output(self, (_, buffer): (SharedFile, B), completion: cqueue::Entry) -> Self::Output {
        let result = completion.result();
        (usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)), buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_whose_thread_has_ended_is_not_alive() {
        let (queue, operations) = mpsc::unbounded_channel();
        let ring = Ring { queues: Arc::from([queue]), next: Arc::default() };
        assert!(ring.is_alive());
        drop(operations);
        assert!(!ring.is_alive());
    }
}
