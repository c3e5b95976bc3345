//! Computes the SHA-256 of a stream of blocks, on a thread of its own. Digests of pieces are computed where the bytes
//! are received.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::domain::Sha256;
use crate::io::SharedBlock;

/// 64 KiB of zeros to digest.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A SHA-256 in progress.
#[derive(Clone, Default)]
pub struct Sha256State(sha2::Sha256);

impl Sha256State {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds `len` zero bytes.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let now = len.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..now as usize]);
            len -= now;
        }
    }

    /// Returns the digest.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// Computes one stream's SHA-256 on the blocking threads, block by block in order. A stream holds a thread only while
/// it has blocks to digest, so a stalled peer holds none.
///
/// # Cancellation
/// Dropping the lane lets the blocks that were pushed be digested, then frees them.
pub(super) struct Sha256Lane {
    shared: Arc<Mutex<Lane>>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Lane {
    state: Sha256State,
    waiting: VecDeque<(SharedBlock, Range<usize>, OwnedSemaphorePermit)>,
    /// Whether a blocking thread works on the lane, and holds the state.
    busy: bool,
    idle: Option<oneshot::Sender<()>>,
}

impl Default for Sha256Lane {
    fn default() -> Self {
        /// Blocks in the lane: one is digested, the others keep the thread from waiting. More would only take memory.
        const DEPTH: usize = 3;
        Self { shared: Arc::default(), room: Arc::new(Semaphore::new(DEPTH)) }
    }
}

impl Sha256Lane {
    /// Adds the next bytes of the stream; waits while the lane is full.
    pub(super) async fn push(&self, block: SharedBlock, range: Range<usize>) {
        let Ok(permit) = self.room.clone().acquire_owned().await else { return };
        let mut lane = lock(&self.shared);
        lane.waiting.push_back((block, range, permit));
        if !lane.busy {
            lane.busy = true;
            let shared = self.shared.clone();
            // The handle is not kept: `finish` waits until the lane is idle, and nobody waits for a dropped lane.
            tokio::task::spawn_blocking(move || drain(&shared));
        }
    }

    /// Waits until everything pushed is digested; returns the digest.
    pub(super) async fn finish(self) -> Sha256 {
        let idle = {
            let mut lane = lock(&self.shared);
            lane.busy.then(|| {
                let (sender, receiver) = oneshot::channel();
                lane.idle = Some(sender);
                receiver
            })
        };
        if let Some(idle) = idle {
            let _ = idle.await;
        }
        std::mem::take(&mut lock(&self.shared).state).finish()
    }
}

fn drain(shared: &Mutex<Lane>) {
    let mut state = std::mem::take(&mut lock(shared).state);
    loop {
        let mut lane = lock(shared);
        let Some((block, range, _permit)) = lane.waiting.pop_front() else {
            lane.state = state;
            lane.busy = false;
            if let Some(idle) = lane.idle.take() {
                let _ = idle.send(());
            }
            return;
        };
        drop(lane);
        state.update(&block[range]);
    }
}

fn lock(lane: &Mutex<Lane>) -> std::sync::MutexGuard<'_, Lane> {
    // Code that holds the lock cannot panic between two changes that belong together.
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ByteCount;
    use crate::io::Pool;

    #[tokio::test]
    async fn a_lane_digests_blocks_in_order() {
        let pool = Pool::new(ByteCount::mib(8));
        let lane = Sha256Lane::default();
        let mut plain = Sha256State::default();
        for n in 0..40u8 {
            let mut block = pool.take().await;
            block[..1000].fill(n);
            plain.update(&block[..1000]);
            lane.push(block.freeze(), 0..1000).await;
        }
        assert_eq!(lane.finish().await, plain.finish());
    }
}
