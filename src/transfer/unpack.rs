//! Feeds an archive from a peer to the thread that unpacks it. Knows no HTTP, sessions or tenants.
//!
//! Bytes go from the source into blocks of the pool, and the blocks to one blocking thread. Few blocks are queued, so a
//! slow disk makes the peer wait.
//!
//! # Invariants
//! - A feeder waits for a block only while it holds none that is not handed over (I3).
//! - The thread takes a stream for complete only if the source ended properly.
//!
//! # Cancellation
//! Dropping a [`Feeder`] soon ends the thread with an error; the caller can wait for that on the thread's handle.

use std::io::{self, Read};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::ReceiveError;
use super::feed::{ByteSource, Sink, feed};
use super::progress::{Phase, Progress};
use crate::domain::{ByteCount, ContentId, Encoding};
use crate::io::{BLOCK, Block, Pool};
use crate::store::{Reservation, StoreError, TreeRecord, TreeStore};
use crate::tree::{Decoder, DecoderLimits, Limits, Place, Policy, UnpackCause, UnpackError, Unpacked};

/// Blocks queued for the thread; besides these, one is being filled, and one unpacked.
const AHEAD: usize = 2;

/// The least size of a block that is handed over before it is full, unless the peer pauses.
const LEAST: usize = 256 << 10;

/// Disk space that is reserved at a time.
const STEP: ByteCount = ByteCount::mib(64);

/// The format of a stream.
#[derive(Clone, Debug)]
pub enum Shape {
    /// An archive with this compression.
    Archive(Encoding),
    /// One file, which gets this name.
    File(String),
}

/// How a stream becomes a tree.
#[derive(Clone, Debug)]
pub struct UnpackOptions {
    /// The format of the stream.
    pub shape: Shape,
    /// Limits on its content.
    pub limits: Limits,
    /// What is kept of its metadata.
    pub policy: Policy,
}

enum Fed {
    Bytes(Block, usize),
    End,
}

/// The sending end of the stream.
#[derive(Debug)]
pub struct Feeder {
    sender: mpsc::Sender<Fed>,
    space: Arc<Reservation>,
    /// Bytes for which space is reserved.
    room: u64,
    fed: u64,
}

/// Starts a thread that unpacks a stream into a content, and makes that durable. The space comes from the account of
/// the store, for the tenant of the record, and more of it is reserved as the stream grows.
pub fn start_unpack(
    (trees, content): (Arc<dyn TreeStore>, ContentId),
    record: TreeRecord,
    options: UnpackOptions,
) -> Result<(Feeder, JoinHandle<Result<Unpacked, UnpackError>>), StoreError> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let space = Arc::new(trees.space().reserve_for(record.tenant, ByteCount::ZERO)?);
    let mut stream = Stream { receiver, block: None, ended: false, space: space.clone() };
    let work = move || {
        let disk = |error| UnpackError { place: Place::default(), cause: UnpackCause::Disk(error) };
        let mut draft = trees.begin(content).map_err(disk)?;
        let UnpackOptions { shape, limits, policy } = options;
        let done = match shape {
            Shape::Archive(encoding) => {
                let decoder = Decoder::new(stream, encoding, DecoderLimits::of_volume(limits.bytes));
                draft.unpack(&mut decoder.map_err(disk)?, &limits, &policy)?
            }
            Shape::File(name) => draft.put_file(&mut stream, &name, &limits)?,
        };
        draft.publish(&record).map_err(disk)?;
        Ok(done)
    };
    Ok((Feeder { sender, space, room: 0, fed: 0 }, tokio::task::spawn_blocking(work)))
}

impl Feeder {
    /// Feeds everything from the source.
    pub async fn feed(
        self,
        source: &mut impl ByteSource,
        pool: &Pool,
        progress: &Progress,
    ) -> Result<(), ReceiveError> {
        let mut filler = Filler { feeder: self, filling: None, pool, progress };
        feed(source, &mut filler, progress).await?;
        filler.park().await?;
        filler.hand_over(Fed::End).await
    }

    fn make_room(&mut self) -> Result<(), ReceiveError> {
        let Some(missing) = self.fed.checked_sub(self.room).filter(|bytes| *bytes > 0) else { return Ok(()) };
        let missing = ByteCount::new(missing).unwrap_or(ByteCount::MAX);
        let refused = |error: StoreError| ReceiveError::Refused(error.into());
        let taken = match self.space.extend(missing.max(STEP)) {
            Ok(()) => missing.max(STEP),
            // The disk is nearly full: reserve only what is missing.
            Err(_) => self.space.extend(missing).map(|()| missing).map_err(refused)?,
        };
        self.room += taken.get();
        Ok(())
    }
}

/// Fills blocks, and hands them to the thread.
struct Filler<'a> {
    feeder: Feeder,
    filling: Option<(Block, usize)>,
    pool: &'a Pool,
    progress: &'a Progress,
}

impl Filler<'_> {
    async fn next_block(&self) -> Result<Block, ReceiveError> {
        tokio::select! {
            biased;
            block = self.progress.during(Phase::Memory, self.pool.take()) => Ok(block),
            stop = self.progress.until_stopped() => Err(ReceiveError::Stopped(stop)),
        }
    }

    async fn hand_over(&self, fed: Fed) -> Result<(), ReceiveError> {
        let sent = self.progress.during(Phase::Disk, self.feeder.sender.send(fed));
        tokio::select! {
            biased;
            sent = sent => sent.map_err(|_| ReceiveError::Ended),
            stop = self.progress.until_stopped() => Err(ReceiveError::Stopped(stop)),
        }
    }
}

impl Sink for Filler<'_> {
    fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    async fn ended(&mut self) {
        self.feeder.sender.closed().await;
    }

    async fn space(&mut self) -> Result<&mut [u8], ReceiveError> {
        let filling = match self.filling.take() {
            Some(filling) => filling,
            None => (self.next_block().await?, 0),
        };
        let (block, filled) = self.filling.insert(filling);
        Ok(&mut block[*filled..])
    }

    async fn advance(&mut self, taken: usize) -> Result<(), ReceiveError> {
        self.feeder.fed += taken as u64;
        self.progress.add_bytes(taken as u64);
        self.feeder.make_room()?;
        let Some((_, filled)) = &mut self.filling else { return Ok(()) };
        *filled += taken;
        let is_wanted = *filled >= LEAST && self.feeder.sender.capacity() == AHEAD;
        if *filled == BLOCK || is_wanted { self.park().await } else { Ok(()) }
    }

    async fn park(&mut self) -> Result<(), ReceiveError> {
        match self.filling.take() {
            Some((block, filled)) => self.hand_over(Fed::Bytes(block, filled)).await,
            None => Ok(()),
        }
    }
}

/// The receiving end of the stream, on the thread.
struct Stream {
    receiver: mpsc::Receiver<Fed>,
    /// The current block, the bytes that it holds, and how many of them were read.
    block: Option<(Block, usize, usize)>,
    ended: bool,
    space: Arc<Reservation>,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.block.is_none() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Fed::Bytes(block, filled)) if filled > 0 => self.block = Some((block, filled, 0)),
                Some(Fed::Bytes(..)) => {}
                Some(Fed::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let Some((block, filled, read)) = &mut self.block else { return Ok(0) };
        let len = into.len().min(*filled - *read);
        into[..len].copy_from_slice(&block[*read..*read + len]);
        *read += len;
        if read == filled {
            self.space.settle(ByteCount::new(*filled as u64).unwrap_or_default());
            self.block = None;
        }
        Ok(len)
    }
}
