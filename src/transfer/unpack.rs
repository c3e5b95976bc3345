//! Feeds an archive that comes from a peer to the thread that unpacks it. Knows no HTTP, sessions or tenants.
//!
//! Bytes go from the source into blocks of the pool, and the blocks to one blocking thread, a few at a time: when the
//! disk is slow, the peer waits.
//!
//! # Invariants
//! - It waits for a block only while it holds none that is not handed over (I3).
//! - The thread takes a stream for whole only when the source ended properly.
//!
//! # Cancellation
//! Dropping a [`Feeder`] ends the thread with an error, soon; whoever holds its handle can wait for that.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::progress::{Phase, Progress, Stop};
use super::receive::{Broken, Source};
use crate::domain::{ByteCount, Encoding, Fault};
use crate::io::{BLOCK, Block, Pool};
use crate::store::{NewTree, Reservation};
use crate::tree::{
    Decoder, DecoderLimits, Limits, Place, Policy, UnpackCause, UnpackError, Unpacked, put_file, unpack_digested,
};

/// Blocks on their way to the thread; one more is being filled, and one unpacked.
const AHEAD: usize = 2;

/// A block with less than this is handed over only when the peer pauses.
const LEAST: usize = 256 << 10;

/// A pause of the peer after which its block is handed over as it is.
const PARK: Duration = Duration::from_millis(250);

/// The most that is received before other tasks of the thread get a turn.
const TURN: usize = 1 << 20;

/// Disk space that is set aside at a time.
const STEP: ByteCount = ByteCount::mib(64);

/// The format of a stream.
#[derive(Clone, Debug)]
pub enum Shape {
    /// An archive, compressed like this.
    Archive(Encoding),
    /// One file, to have this name.
    File(String),
}

/// How a tree is made of a stream.
#[derive(Clone, Debug)]
pub struct UnpackOptions {
    /// What the stream is.
    pub shape: Shape,
    /// How much it may hold.
    pub limits: Limits,
    /// What is taken over.
    pub policy: Policy,
}

/// Why an archive was not fed to its end.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The peer broke off.
    #[error("the peer broke off")]
    Source(#[source] Broken),
    /// It was stopped from outside.
    #[error("stopped: {0:?}")]
    Stopped(Stop),
    /// There is no room for more.
    #[error("refused: {0}")]
    Refused(Fault),
    /// The thread has ended; its handle tells why.
    #[error("the archive is not taken any more")]
    Ended,
}

enum Fed {
    Bytes(Block, usize),
    End,
}

/// The end of the stream that is filled.
#[derive(Debug)]
pub struct Feeder {
    sender: mpsc::Sender<Fed>,
    space: Arc<Reservation>,
    /// Bytes for which space was set aside.
    room: u64,
    fed: u64,
}

/// Starts a thread that unpacks a stream into what `make` opens, and then runs `finish`. The space that the stream
/// takes comes from `space`, which is extended as it grows.
pub fn start_unpack(
    make: impl FnOnce() -> io::Result<NewTree> + Send + 'static,
    options: UnpackOptions,
    space: Reservation,
    finish: impl FnOnce(NewTree) -> io::Result<()> + Send + 'static,
) -> (Feeder, JoinHandle<Result<Unpacked, UnpackError>>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let space = Arc::new(space);
    let stream = Stream { receiver, block: None, ended: false, space: space.clone() };
    let work = move || {
        let disk = |error| UnpackError { place: Place::default(), cause: UnpackCause::Disk(error) };
        let mut new = make().map_err(disk)?;
        let (root, digests) = new.parts();
        let UnpackOptions { shape, limits, policy } = options;
        let done = match shape {
            Shape::Archive(encoding) => {
                let decoder = Decoder::new(stream, encoding, DecoderLimits::of_volume(limits.bytes));
                unpack_digested(decoder.map_err(disk)?, root, &limits, &policy, digests)?
            }
            Shape::File(name) => put_file(stream, root, &name, &limits, digests)?,
        };
        finish(new).map_err(disk)?;
        Ok(done)
    };
    (Feeder { sender, space, room: 0, fed: 0 }, tokio::task::spawn_blocking(work))
}

impl Feeder {
    /// Feeds all that comes from the source.
    pub async fn feed(mut self, source: &mut impl Source, pool: &Pool, progress: &Progress) -> Result<(), FeedError> {
        let mut filling: Option<(Block, usize)> = None;
        let mut turn = 0;
        loop {
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
            let wait = progress.during(Phase::Peer, async {
                tokio::select! {
                    biased;
                    stop = progress.until_stopped() => Wait::Stopped(stop),
                    () = self.sender.closed() => Wait::Ended,
                    ready = source.ready() => Wait::Ready(ready),
                    () = tokio::time::sleep(PARK), if filling.is_some() => Wait::Paused,
                }
            });
            match wait.await {
                Wait::Ready(Ok(true)) => {}
                Wait::Ready(Ok(false)) => {
                    if let Some((block, filled)) = filling {
                        self.hand_over(Fed::Bytes(block, filled), progress).await?;
                    }
                    return self.hand_over(Fed::End, progress).await;
                }
                Wait::Ready(Err(error)) => return Err(FeedError::Source(error)),
                Wait::Stopped(stop) => return Err(FeedError::Stopped(stop)),
                Wait::Ended => return Err(FeedError::Ended),
                Wait::Paused => {
                    if let Some((block, filled)) = filling.take() {
                        self.hand_over(Fed::Bytes(block, filled), progress).await?;
                    }
                    continue;
                }
            }
            let (mut block, mut filled) = match filling.take() {
                Some(filling) => filling,
                None => (self.block(pool, progress).await?, 0),
            };
            let most = (BLOCK - filled).min(TURN);
            let taken = source.take(&mut block[filled..filled + most]).map_err(FeedError::Source)?;
            filled += taken;
            turn += taken;
            self.fed += taken as u64;
            progress.add_bytes(taken as u64);
            self.make_room()?;
            let is_wanted = filled >= LEAST && self.sender.capacity() == AHEAD;
            if filled == BLOCK || is_wanted {
                self.hand_over(Fed::Bytes(block, filled), progress).await?;
            } else {
                filling = Some((block, filled));
            }
        }
    }

    async fn block(&self, pool: &Pool, progress: &Progress) -> Result<Block, FeedError> {
        tokio::select! {
            biased;
            block = progress.during(Phase::Memory, pool.take()) => Ok(block),
            stop = progress.until_stopped() => Err(FeedError::Stopped(stop)),
        }
    }

    async fn hand_over(&self, fed: Fed, progress: &Progress) -> Result<(), FeedError> {
        tokio::select! {
            biased;
            sent = progress.during(Phase::Disk, self.sender.send(fed)) => sent.map_err(|_| FeedError::Ended),
            stop = progress.until_stopped() => Err(FeedError::Stopped(stop)),
        }
    }

    fn make_room(&mut self) -> Result<(), FeedError> {
        let Some(missing) = self.fed.checked_sub(self.room).filter(|bytes| *bytes > 0) else { return Ok(()) };
        let missing = ByteCount::new(missing).unwrap_or(ByteCount::MAX);
        let taken = match self.space.extend(missing.max(STEP)) {
            Ok(()) => missing.max(STEP),
            // The last of the disk.
            Err(_) => self.space.extend(missing).map(|()| missing).map_err(|error| FeedError::Refused(error.into()))?,
        };
        self.room += taken.get();
        Ok(())
    }
}

enum Wait {
    Ready(Result<bool, Broken>),
    Stopped(Stop),
    Ended,
    Paused,
}

/// The end of the stream that is read, on the thread.
struct Stream {
    receiver: mpsc::Receiver<Fed>,
    /// A block, how much it holds, and how much of that was read.
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
