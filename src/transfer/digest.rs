//! Digests of a stream of blocks: XXH3-128 of every piece where the bytes are, SHA-256 on a thread beside it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use twox_hash::XxHash3_128;

use crate::domain::{PIECE, Pieces, Sha256};
use crate::io::SharedBlock;

/// 64 KiB of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Digests the pieces of a stream, at about the speed of memory.
#[derive(Default)]
pub struct PieceDigester {
    state: XxHash3_128,
    filled: u64,
    pieces: Vec<u128>,
}

impl PieceDigester {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(PIECE - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.state.write(now);
            self.filled += now.len() as u64;
            if self.filled == PIECE {
                self.close_piece();
            }
            bytes = later;
        }
    }

    /// Takes the next `len` bytes of the stream, which are zero.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            if self.filled == 0 && len >= PIECE {
                self.pieces.push(zero_piece());
                len -= PIECE;
                continue;
            }
            let now = len.min(PIECE - self.filled).min(ZEROS.len() as u64);
            self.update(&ZEROS[..now as usize]);
            len -= now;
        }
    }

    /// The pieces, by the definition of [`Pieces`].
    pub fn finish(mut self) -> Pieces {
        if self.filled > 0 {
            self.update_zeros(PIECE - self.filled);
        }
        let zero = zero_piece();
        while self.pieces.last() == Some(&zero) {
            self.pieces.pop();
        }
        Pieces(self.pieces)
    }

    fn close_piece(&mut self) {
        self.pieces.push(self.state.finish_128());
        self.state = XxHash3_128::new();
        self.filled = 0;
    }
}

/// The digest of a piece of zeros.
pub fn zero_piece() -> u128 {
    static ZERO: std::sync::OnceLock<u128> = std::sync::OnceLock::new();
    *ZERO.get_or_init(|| {
        let mut state = XxHash3_128::new();
        for _ in 0..PIECE / ZEROS.len() as u64 {
            state.write(&ZEROS);
        }
        state.finish_128()
    })
}

/// A SHA-256 that is being computed.
#[derive(Clone, Default)]
pub struct Sha256State(sha2::Sha256);

impl Sha256State {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes the next `len` bytes, which are zero.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let now = len.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..now as usize]);
            len -= now;
        }
    }

    /// The digest.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// Computes one stream's SHA-256 on the blocking threads, block by block in order. A stream holds a thread only while
/// it has blocks to digest, so a stalled peer holds none.
///
/// # Cancellation
/// Dropping the lane lets the blocks that were pushed be digested, then frees them.
pub struct Sha256Lane {
    shared: Arc<Mutex<Lane>>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Lane {
    state: Sha256State,
    waiting: VecDeque<(SharedBlock, Range<usize>, OwnedSemaphorePermit)>,
    /// A blocking thread is at work, with the state.
    busy: bool,
    idle: Option<oneshot::Sender<()>>,
}

impl Default for Sha256Lane {
    fn default() -> Self {
        /// Blocks in the lane: one under the digest, the others so that it never waits. More would only hold memory.
        const DEPTH: usize = 3;
        Self { shared: Arc::default(), room: Arc::new(Semaphore::new(DEPTH)) }
    }
}

impl Sha256Lane {
    /// Adds the next bytes of the stream; waits while the lane is full.
    pub async fn push(&self, block: SharedBlock, range: Range<usize>) {
        let Ok(permit) = self.room.clone().acquire_owned().await else { return };
        let mut lane = lock(&self.shared);
        lane.waiting.push_back((block, range, permit));
        if !lane.busy {
            lane.busy = true;
            let shared = self.shared.clone();
            tokio::task::spawn_blocking(move || drain(&shared));
        }
    }

    /// Waits for all that was pushed; the digest.
    pub async fn finish(self) -> Sha256 {
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
    // No code that holds the lock can panic half-way through a change.
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ByteCount;
    use crate::io::Pool;
    use proptest::prelude::*;

    #[test]
    fn pieces_do_not_depend_on_zeros_at_the_end() {
        let data: Vec<u8> = (0..PIECE + 1000).map(|i| (i % 251) as u8).collect();
        let mut short = PieceDigester::default();
        short.update(&data);
        let mut grown = PieceDigester::default();
        grown.update(&data);
        grown.update_zeros(3 * PIECE);
        let pieces = short.finish();
        assert_eq!(pieces.0.len(), 2);
        assert_eq!(pieces, grown.finish());
    }

    #[test]
    fn a_blank_drive_has_no_pieces() {
        let mut digester = PieceDigester::default();
        digester.update_zeros(2 * PIECE + 5);
        assert_eq!(digester.finish(), Pieces::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn pieces_do_not_depend_on_how_the_stream_is_cut(cuts in proptest::collection::vec(1usize..2_000_000, 1..8)) {
            let data: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| (i * 31 % 253) as u8).collect();
            let mut whole = PieceDigester::default();
            whole.update(&data);
            let mut parts = PieceDigester::default();
            let mut rest = &data[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut);
                parts.update(now);
                rest = later;
            }
            prop_assert_eq!(whole.finish(), parts.finish());
        }
    }

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
