//! Receives one upload into a draft. Knows blocks and offsets; knows nothing of HTTP or tenants.
//!
//! The source puts its bytes into aligned blocks; they are digested there at once, and each full block is submitted,
//! with several writes in flight.
//!
//! # Invariants
//! - It waits for a block only while it holds none that is not submitted (I3).
//! - A peer that pauses does not hold a block: what is there is written, at most a sector's worth is kept aside.
//!
//! # Cancellation
//! Dropping `receive` is safe at any await: submitted writes end by themselves, and the draft is never published.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::digest::Sha256Lane;
use super::progress::{Phase, Progress, Stop};
use crate::domain::{Fault, FaultKind, Pieces, Sha256};
use crate::io::{ALIGN, BLOCK, Block, Pool};
use crate::store::{Boxed, Draft, PieceDigester, StoreError};

/// A pause of the peer after which its block goes back to the pool. Longer than the gaps of a fast stream, far shorter
/// than the idle limit.
const PARK: Duration = Duration::from_millis(250);

/// The most that is received before other tasks of the thread get a turn: under a millisecond's worth.
const TURN: usize = 1 << 20;

/// How long a slowly filled block may be held while others wait for one.
const PARK_PRESSED: Duration = Duration::from_secs(1);

/// Why a source ended before its proper end.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Where the bytes come from.
pub trait Source: Send {
    /// Waits until there are bytes to take, or the proper end (`false`). Cancel safe.
    fn ready(&mut self) -> impl Future<Output = Result<bool, Broken>> + Send;

    /// Moves bytes that are there to the start of `into`; says how many, 0 when there are none now.
    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken>;
}

/// How far a stream may grow.
pub trait Allowance: Send {
    /// Asks for room up to `end` bytes; the new end of the room, at least `end`.
    fn extend(&mut self, end: u64) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// What to do beside writing.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveOptions {
    /// Writes in flight.
    pub depth: usize,
    /// Whether to compute SHA-256.
    pub sha256: bool,
}

/// A complete stream, written but not yet flushed.
#[derive(Debug)]
pub struct Received {
    /// How many bytes came.
    pub bytes: u64,
    /// Their pieces.
    pub pieces: Pieces,
    /// Their digest, when it was asked for.
    pub sha256: Option<Sha256>,
}

/// Why a stream is not complete.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer broke off.
    #[error("the peer broke off")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was stopped from outside.
    #[error("stopped: {0:?}")]
    Stopped(Stop),
    /// A write failed.
    #[error("a write failed")]
    Write(#[source] io::Error),
    /// There is no room for more.
    #[error("refused: {0}")]
    Refused(Fault),
}

impl From<ReceiveError> for Fault {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Refused(fault) => fault,
            ReceiveError::Write(error) => StoreError::from(error).into(),
            ReceiveError::Stopped(stop) => stop.into(),
            ReceiveError::Source(_) => {
                Self::new(FaultKind::BodyIncomplete, "the body ended before it was complete").because(error)
            }
        }
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::PeerTooSlow => Self::new(FaultKind::PeerTooSlow, "too little data for too long"),
            Stop::Deleted | Stop::Removed => Self::new(FaultKind::Cancelled, "it was deleted during the transfer"),
            Stop::SessionEnded => Self::new(FaultKind::Gone, "the session has ended"),
            Stop::Draining => Self::new(FaultKind::Unavailable, "the server is stopping"),
        }
    }
}

/// Receives until the source ends. `room` is how many bytes may come before `allowance` is asked.
pub async fn receive(
    source: &mut impl Source,
    draft: &Arc<dyn Draft>,
    pool: &Pool,
    mut room: u64,
    allowance: &mut impl Allowance,
    options: ReceiveOptions,
    progress: &Progress,
) -> Result<Received, ReceiveError> {
    let mut sink = Sink::new(draft, pool, options, progress);
    let mut turn = 0;
    loop {
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
        let wait = progress.during(Phase::Peer, async {
            tokio::select! {
                biased;
                // First: a peer that never pauses is stopped too.
                stop = progress.until_stopped() => Wait::Stopped(stop),
                ready = source.ready() => Wait::Ready(ready),
                () = tokio::time::sleep(PARK), if sink.block.is_some() => Wait::Paused,
            }
        });
        match wait.await {
            Wait::Ready(Ok(true)) => {}
            Wait::Ready(Ok(false)) => return sink.finish().await,
            Wait::Ready(Err(error)) => return Err(ReceiveError::Source(error)),
            Wait::Stopped(stop) => return Err(ReceiveError::Stopped(stop)),
            Wait::Paused => {
                sink.park().await?;
                continue;
            }
        }
        let space = sink.space().await?;
        let most = space.len().min(TURN);
        let taken = source.take(&mut space[..most]).map_err(ReceiveError::Source)?;
        let end = sink.received + taken as u64;
        if end > room {
            room = progress.during(Phase::Disk, allowance.extend(end)).await.map_err(ReceiveError::Refused)?;
        }
        progress.add_bytes(taken as u64);
        sink.advance(taken).await?;
        turn += taken;
    }
}

enum Wait {
    Ready(Result<bool, Broken>),
    Stopped(Stop),
    Paused,
}

/// Collects bytes into blocks and keeps the writes going.
struct Sink<'a> {
    draft: &'a Arc<dyn Draft>,
    pool: &'a Pool,
    progress: &'a Progress,
    depth: usize,
    received: u64,
    /// Where the next block goes; a multiple of `ALIGN`.
    offset: u64,
    block: Option<Filling>,
    /// What a parked block had past its last full sector.
    aside: Vec<u8>,
    writes: VecDeque<Boxed<'static, io::Result<()>>>,
    pieces: PieceDigester,
    sha256: Option<Sha256Lane>,
}

struct Filling {
    block: Block,
    filled: usize,
    since: Instant,
}

impl<'a> Sink<'a> {
    fn new(draft: &'a Arc<dyn Draft>, pool: &'a Pool, options: ReceiveOptions, progress: &'a Progress) -> Self {
        Self {
            draft,
            pool,
            progress,
            depth: options.depth,
            received: 0,
            offset: 0,
            block: None,
            aside: Vec::new(),
            writes: VecDeque::with_capacity(options.depth),
            pieces: PieceDigester::default(),
            sha256: options.sha256.then(Sha256Lane::default),
        }
    }

    /// Where the next bytes go.
    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        let filling = match self.block.take() {
            Some(filling) => filling,
            None => self.next_block().await?,
        };
        let filling = self.block.insert(filling);
        Ok(&mut filling.block[filling.filled..])
    }

    /// Takes what was put into that space. Digests it at once, while it is in the processor's cache.
    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        let Some(mut filling) = self.block.take() else { return Ok(()) };
        self.received += taken as u64;
        self.pieces.update(&filling.block[filling.filled..filling.filled + taken]);
        filling.filled += taken;
        if filling.filled == BLOCK {
            return self.submit(filling.block, BLOCK).await;
        }
        let is_slow = self.pool.is_pressed() && filling.since.elapsed() > PARK_PRESSED;
        self.block = Some(filling);
        if is_slow { self.park().await } else { Ok(()) }
    }

    /// A new block, with what was set aside at its start.
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

    /// Writes the full sectors of the block and gives it back.
    async fn park(&mut self) -> Result<(), ReceiveError> {
        let Some(filling) = self.block.take() else { return Ok(()) };
        let full = filling.filled - filling.filled % ALIGN;
        self.aside.extend_from_slice(&filling.block[full..filling.filled]);
        if full > 0 { self.submit(filling.block, full).await } else { Ok(()) }
    }

    /// Submits `block[..len]`; waits when enough writes are in flight.
    async fn submit(&mut self, block: Block, len: usize) -> Result<(), ReceiveError> {
        let block = block.freeze();
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

    async fn finish(mut self) -> Result<Received, ReceiveError> {
        if self.block.is_none() && !self.aside.is_empty() {
            self.block = Some(self.next_block().await?);
        }
        if let Some(mut filling) = self.block.take() {
            // Direct I/O writes whole sectors; the draft cuts the file to its size afterwards.
            let sectors = filling.filled.next_multiple_of(ALIGN);
            filling.block[filling.filled..sectors].fill(0);
            self.submit(filling.block, filling.filled).await?;
        }
        while !self.writes.is_empty() {
            self.settle_oldest().await?;
        }
        let sha256 = match self.sha256 {
            Some(lane) => Some(self.progress.during(Phase::Digest, lane.finish()).await),
            None => None,
        };
        Ok(Received { bytes: self.received, pieces: self.pieces.finish(), sha256 })
    }
}
