//! The block pool: aligned 2 MiB buffers under one budget.
//!
//! Waiting for a block is the back-pressure of the whole data path, and the budget is its memory bound (I12).
//!
//! # Invariants
//! - Mapped memory never exceeds the budget: a block joins the idle ones before its permit is given back, and a new one
//!   is mapped only when none is idle.
//! - A task waits here while holding no block that is not submitted (I3). The callers ensure this, not the pool.
//!
//! # Cancellation
//! Dropping [`Pool::take`] gives up the place in the queue and nothing else.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::ByteCount;

/// The size of a block: one huge page of `x86_64` and, with 4 KiB pages, of arm64. The kernel pins it for direct I/O as
/// one page instead of 512, which is most of the CPU cost of a direct write.
pub const BLOCK: usize = 2 << 20;

/// The size of the blocks of a [`Pool::small`]: about what a socket takes at once.
const SMALL: usize = 64 << 10;

/// The alignment of buffers, offsets and lengths of direct I/O. Enough for every common file system and disk.
pub const ALIGN: usize = 4096;

/// Blocks kept mapped while no block is out: the next two transfers with four blocks in flight run without a page
/// fault, and an idle server holds 16 MiB at most. While some are out, all that were mapped are kept: the kernel clears
/// each block that is mapped anew, which is most of what a block costs when many transfers share the pool.
const IDLE_BLOCKS: usize = 8;

/// A bounded supply of blocks. Clones share it.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    budget: usize,
    /// The bytes of each block.
    size: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<MmapMut>>,
}

impl Pool {
    /// Makes a pool of as many whole blocks as `budget` holds, and at least one.
    pub fn new(budget: ByteCount) -> Self {
        let blocks = usize::try_from(budget.get() / BLOCK as u64).unwrap_or(usize::MAX);
        Self::of(blocks.clamp(1, Semaphore::MAX_PERMITS), BLOCK)
    }

    /// Makes a pool of two blocks of 64 KiB, one to be filled while the other is sent. It is the fallback of one
    /// transfer when [`Pool::try_take_spare`] returns nothing, so that it need not wait for the peers of others.
    pub fn small() -> Self {
        Self::of(2, SMALL)
    }

    fn of(budget: usize, size: usize) -> Self {
        let shared = Shared {
            budget,
            size,
            permits: Arc::new(Semaphore::new(budget)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a block of the budget; first come, first served.
    ///
    /// Its bytes are arbitrary: what an earlier use left, or zeros.
    pub async fn take(&self) -> Block {
        if let Some(block) = self.try_take() {
            return block;
        }
        let waiting = Waiting::enter(&self.shared.waiting);
        let permit = Arc::clone(&self.shared.permits).acquire_owned().await.expect("the semaphore is never closed");
        drop(waiting);
        self.block(permit)
    }

    /// Returns a block, if the budget has one now.
    pub fn try_take(&self) -> Option<Block> {
        let permit = Arc::clone(&self.shared.permits).try_acquire_owned().ok()?;
        Some(self.block(permit))
    }

    /// Returns a block for a holder that may keep it for an unknown time, such as a peer that takes its bytes, but only
    /// while more than half of the budget is free. The rest is for holders that depend on nobody, so peers that stall
    /// cannot stop them.
    pub fn try_take_spare(&self) -> Option<Block> {
        if self.shared.permits.available_permits() > self.shared.budget / 2 { self.try_take() } else { None }
    }

    /// Whether a task waits for a block.
    pub fn is_pressed(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns the number of blocks in use.
    pub fn in_use(&self) -> usize {
        self.shared.budget - self.shared.permits.available_permits()
    }

    /// Returns the most blocks that can be in use together.
    pub fn budget_blocks(&self) -> usize {
        self.shared.budget
    }

    fn block(&self, permit: OwnedSemaphorePermit) -> Block {
        let idle = self.shared.idle().pop();
        let memory = idle.unwrap_or_else(|| map_block(self.shared.size));
        Block { memory: Some(memory), home: Arc::clone(&self.shared), _permit: permit }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} blocks)", self.in_use(), self.budget_blocks())
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<MmapMut>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a fresh mapping: page-aligned, and not touched yet, so that it costs memory only when it is used.
fn map_block(size: usize) -> MmapMut {
    let memory = MmapMut::map_anon(size).unwrap_or_else(|_| {
        // Fail as every other allocation does.
        let layout = std::alloc::Layout::new::<[u8; BLOCK]>();
        std::alloc::handle_alloc_error(layout)
    });
    if size >= BLOCK {
        // A kernel without huge pages uses small ones.
        let _ = memory.advise(Advice::HugePage);
    }
    memory
}

/// Counts a waiter for as long as it waits, cancelled or not.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A buffer of [`BLOCK`] bytes, or 64 KiB of a small pool, aligned to [`ALIGN`]. Goes back to its pool when dropped, on
/// any thread.
pub struct Block {
    /// `None` only while it is dropped.
    memory: Option<MmapMut>,
    home: Arc<Shared>,
    /// Given back after `memory`: `drop` runs before the fields are dropped.
    _permit: OwnedSemaphorePermit,
}

impl Block {
    /// Ends writing to it, so that it can be shared.
    pub fn freeze(self) -> SharedBlock {
        SharedBlock(Arc::new(self))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().unwrap_or_default()
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut idle = self.home.idle();
        idle.extend(self.memory.take());
        // This block still counts as in use.
        if self.home.budget - self.home.permits.available_permits() == 1 {
            idle.truncate(IDLE_BLOCKS);
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block")
    }
}

/// A block that can be shared for reading. Returns to its pool when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct SharedBlock(Arc<Block>);

impl Deref for SharedBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SharedBlock {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn pool_of(blocks: u32) -> Pool {
        Pool::new(ByteCount::mib(blocks * (BLOCK >> 20) as u32))
    }

    #[tokio::test]
    async fn a_block_is_aligned_and_whole() {
        let mut block = pool_of(1).take().await;
        assert_eq!(block.len(), BLOCK);
        assert_eq!(block.as_ptr() as usize % ALIGN, 0);
        block[BLOCK - 1] = 7;
        assert_eq!(block.freeze()[BLOCK - 1], 7);
    }

    #[test]
    fn a_budget_below_one_block_still_gives_one() {
        assert_eq!(Pool::new(ByteCount::ZERO).budget_blocks(), 1);
        assert_eq!(Pool::new(ByteCount::mib(7)).budget_blocks(), 3);
    }

    #[test]
    fn waiters_are_served_in_order_and_a_cancelled_one_is_passed_over() {
        let pool = pool_of(1);
        let held = pool.try_take().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut cancelled = Box::pin(pool.take());
        let mut second = pin!(pool.take());
        let mut third = pin!(pool.take());
        assert!(cancelled.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending());
        assert!(pool.is_pressed());

        drop(cancelled);
        drop(held);
        assert!(third.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(block) = second.as_mut().poll(&mut context) else { panic!("the second is first now") };
        assert_eq!(pool.in_use(), 1);
        drop(block);
        assert!(third.as_mut().poll(&mut context).is_ready());
        assert!(!pool.is_pressed());
        assert_eq!(pool.in_use(), 0);
    }

    #[tokio::test]
    async fn a_shared_block_comes_home_with_its_last_clone_whatever_the_thread() {
        let pool = pool_of(1);
        let shared = pool.take().await.freeze();
        let bytes = bytes::Bytes::from_owner(shared.clone()).slice(5..9);
        drop(shared);
        assert_eq!(pool.in_use(), 1);
        std::thread::spawn(move || drop(bytes)).join().unwrap();
        assert_eq!(pool.in_use(), 0);
    }

    #[tokio::test]
    async fn spare_blocks_are_half_of_the_budget_at_most() {
        let pool = pool_of(8);
        let spare: Vec<Block> = std::iter::from_fn(|| pool.try_take_spare()).collect();
        assert_eq!((spare.len(), pool.in_use()), (4, 4));
        let rest: Vec<Block> = std::iter::from_fn(|| pool.try_take()).collect();
        assert_eq!(rest.len(), 4);
        drop(spare);
        assert!(pool.try_take_spare().is_none(), "half of the budget is out");
    }

    #[tokio::test]
    async fn a_small_pool_has_two_small_blocks() {
        let pool = Pool::small();
        let blocks = [pool.take().await, pool.take().await];
        assert!(blocks.iter().all(|block| block.len() == SMALL));
        assert!(pool.try_take().is_none());
        drop(blocks);
        assert_eq!(pool.take().await.len(), SMALL);
    }

    #[tokio::test]
    async fn after_a_peak_only_a_few_blocks_stay_mapped() {
        let pool = pool_of(64);
        let mut peak = Vec::new();
        for _ in 0..64 {
            peak.push(pool.take().await);
        }
        drop(peak);
        assert_eq!(pool.in_use(), 0);
        assert_eq!(pool.shared.idle().len(), IDLE_BLOCKS);
    }
}
