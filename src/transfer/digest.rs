//! Computes the digests of a stream of blocks, on a thread of its own. Digests of pieces are computed where the bytes
//! are received.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::domain::{Algorithms, Blake3, Digests, PieceListState, Sha256};
use crate::io::SharedBlock;

/// A SHA-256 in progress.
#[derive(Clone, Default)]
pub struct Sha256State(sha2::Sha256);

impl Sha256State {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// The digests of the same bytes in progress, by each of a set of algorithms.
#[derive(Clone, Default)]
pub struct DigestState {
    sha256: Option<Sha256State>,
    /// Boxed, since it has 2 KiB.
    blake3: Option<Box<blake3::Hasher>>,
    pieces: Option<Box<PieceListState>>,
}

impl DigestState {
    /// Begins the digests by these algorithms.
    pub fn new(algorithms: Algorithms) -> Self {
        Self {
            sha256: algorithms.sha256.then(Sha256State::default),
            blake3: algorithms.blake3.then(Box::default),
            pieces: algorithms.pieces.then(Box::default),
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(blake3) = &mut self.blake3 {
            blake3.update(bytes);
        }
        if let Some(pieces) = &mut self.pieces {
            pieces.update(bytes);
        }
    }

    /// Adds pieces of zeros, of which nothing but the list of pieces is digested. Only at the start of a piece.
    pub fn zero_pieces(&mut self, count: u64) {
        debug_assert!(self.sha256.is_none() && self.blake3.is_none(), "these are digests of every byte");
        if let Some(pieces) = &mut self.pieces {
            pieces.zero_pieces(count);
        }
    }

    /// Adds a whole piece of this BLAKE3, and of other bytes than zeros, of which nothing but the list of pieces is
    /// digested. Only at the start of a piece.
    pub(super) fn known_piece(&mut self, digest: &Blake3) {
        debug_assert!(self.sha256.is_none() && self.blake3.is_none(), "these are digests of every byte");
        if let Some(pieces) = &mut self.pieces {
            pieces.known_piece(digest);
        }
    }

    /// Returns the digests.
    pub fn finish(self) -> Digests {
        let blake3 = self.blake3.map(|state| Blake3(state.finalize().into()));
        let pieces = self.pieces.map(|state| Blake3(state.finish()));
        Digests { sha256: self.sha256.map(Sha256State::finish), blake3, pieces }
    }
}

/// Computes one stream's digests on the blocking threads, block by block in order. A stream holds a thread only while
/// it has blocks to digest, so a stalled peer holds none.
///
/// # Cancellation
/// Dropping the lane lets the blocks that were pushed be digested, then frees them.
pub(super) struct DigestLane {
    shared: Arc<Mutex<Lane>>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Lane {
    state: DigestState,
    waiting: VecDeque<(Next, OwnedSemaphorePermit)>,
    /// Whether a blocking thread works on the lane, and holds the state.
    busy: bool,
    idle: Option<oneshot::Sender<()>>,
}

/// The next bytes of a stream.
pub(super) enum Next {
    /// These of a block.
    Block(SharedBlock, Range<usize>),
    /// Less than a sector.
    Edge(Vec<u8>),
}

impl DigestLane {
    /// A lane for the digests by these algorithms; `None` if there are none.
    pub(super) fn new(algorithms: Algorithms) -> Option<Self> {
        /// Blocks in the lane: one is digested, the others keep the thread from waiting. More would only take memory.
        const DEPTH: usize = 3;
        if algorithms.is_empty() {
            return None;
        }
        let lane = Lane { state: DigestState::new(algorithms), ..Lane::default() };
        Some(Self { shared: Arc::new(Mutex::new(lane)), room: Arc::new(Semaphore::new(DEPTH)) })
    }

    /// Adds the next bytes of the stream; waits while the lane is full.
    pub(super) async fn push(&self, next: Next) {
        let Ok(permit) = self.room.clone().acquire_owned().await else { return };
        let mut lane = lock(&self.shared);
        lane.waiting.push_back((next, permit));
        if !lane.busy {
            lane.busy = true;
            let shared = self.shared.clone();
            // The handle is not kept: `finish` waits until the lane is idle, and nobody waits for a dropped lane.
            tokio::task::spawn_blocking(move || drain(&shared));
        }
    }

    /// Waits until everything pushed is digested; returns the digests.
    pub(super) async fn finish(self) -> Digests {
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
        let Some((next, _permit)) = lane.waiting.pop_front() else {
            lane.state = state;
            lane.busy = false;
            if let Some(idle) = lane.idle.take() {
                let _ = idle.send(());
            }
            return;
        };
        drop(lane);
        match &next {
            Next::Block(block, range) => state.update(&block[range.clone()]),
            Next::Edge(bytes) => state.update(bytes),
        }
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
        let lane = DigestLane::new(Algorithms::ALL).unwrap();
        let mut plain = DigestState::new(Algorithms::ALL);
        for n in 0..40u8 {
            let mut block = pool.take().await;
            block[..1000].fill(n);
            plain.update(&block[..1000]);
            lane.push(Next::Block(block.freeze(), 0..1000)).await;
        }
        assert_eq!(lane.finish().await, plain.finish());
    }

    #[test]
    fn the_digests_are_those_of_the_algorithms_and_no_others() {
        // SHA-256 of nothing, and the BLAKE3 of nothing that its paper's test vectors have.
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let told = |algorithms: Algorithms| {
            let digests = DigestState::new(algorithms).finish();
            assert_eq!(digests.algorithms(), algorithms);
            (digests.sha256.map(|one| format!("{one:?}")), digests.blake3.map(|one| format!("{one:?}")))
        };
        assert_eq!(told(Algorithms::ALL), (Some(sha256.to_owned()), Some(blake3.to_owned())));
        told(Algorithms { sha256: true, ..Algorithms::NONE });
        told(Algorithms { blake3: true, ..Algorithms::NONE });
        told(Algorithms::PIECES);
        assert!(DigestLane::new(Algorithms::NONE).is_none());
    }
}
