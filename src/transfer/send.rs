//! Sends parts of an image to a peer. Knows extents and chunks; knows nothing of HTTP or tenants.
//!
//! A chunk for the kernel is a range of the open file, for sendfile. Otherwise its bytes are read into a block, one
//! block ahead of the peer. A slow peer holds its block for a long time, so all peers together may hold half of the
//! pool; further downloads use small blocks of their own. Holes are never read: for the kernel they are ranges of a
//! file in memory that takes up no space, otherwise slices of one shared block of zeros.
//!
//! # Cancellation
//! Dropping an `Outgoing` is safe at any await: a read that was submitted ends by itself.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::pack::Packing;
use super::progress::{Phase, Progress};
use crate::domain::Extent;
use crate::io::{BLOCK, Block, HOLE, Pool, SharedFile};
use crate::store::{Image, Run};

/// A part of what is sent, in order.
#[derive(Clone, Debug)]
pub enum Part {
    /// Bytes in memory.
    Literal(Bytes),
    /// A range of the image.
    Image(Extent),
}

/// A chunk for the transport.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A range of a file, for the kernel to copy.
    File(SharedFile, Extent),
}

/// How the bytes of the image reach the transport.
pub enum Route {
    /// The kernel copies ranges of this file.
    Kernel(SharedFile),
    /// They are read into blocks of this pool, by tasks of the tracker.
    Blocks(Pool, TaskTracker),
}

/// The size of a file range that is handed to the transport. Large enough that the cost of handing it over does not
/// matter; it only takes address space, of which all connections share 47 bits.
const KERNEL_CHUNK: u64 = 1 << 30;

/// The runs of data and holes are looked up for this much of the image at a time, which bounds their list.
const RUN_WINDOW: u64 = 1 << 30;

/// A download in progress.
pub enum Sending {
    /// A drive, or parts of it.
    Image(Box<Outgoing>),
    /// A tree.
    Tree(Packing),
}

impl Sending {
    /// Returns the next chunk; `None` after the last.
    pub async fn next(&mut self) -> Option<io::Result<Chunk>> {
        match self {
            Self::Image(outgoing) => outgoing.next().await,
            Self::Tree(packing) => packing.next().await.map(|chunk| chunk.map(Chunk::Bytes)),
        }
    }
}

/// A download of a drive.
pub struct Outgoing {
    image: Arc<dyn Image>,
    parts: VecDeque<Part>,
    runs: VecDeque<Run>,
    route: Route,
    /// Small blocks, made when the pool has none to spare.
    small: Option<Pool>,
    ahead: Option<Ahead>,
    progress: Arc<Progress>,
}

/// A block that is being read, and the bytes it will hold.
struct Ahead {
    read: JoinHandle<(Block, io::Result<()>)>,
    len: usize,
}

impl Outgoing {
    /// Prepares to send `parts` of `image`.
    pub fn new(image: Arc<dyn Image>, parts: Vec<Part>, route: Route, progress: Arc<Progress>) -> Self {
        Self { image, parts: parts.into(), runs: VecDeque::new(), route, small: None, ahead: None, progress }
    }

    /// Returns the next chunk; `None` after the last.
    pub async fn next(&mut self) -> Option<io::Result<Chunk>> {
        if let Some(ahead) = self.ahead.take() {
            let chunk = self.collect(ahead).await;
            self.read_ahead();
            return Some(chunk);
        }
        let run = match self.next_run().await? {
            Ok(Item::Literal(bytes)) => return Some(Ok(Chunk::Bytes(bytes))),
            Ok(Item::Run(run)) => run,
            Err(error) => return Some(Err(error)),
        };
        if run.hole {
            if let (Route::Kernel(_), Some(hole)) = (&self.route, SharedFile::hole()) {
                let len = run.extent.len.min(HOLE);
                self.put_back(run, len);
                return Some(Ok(Chunk::File(hole, Extent { offset: 0, len })));
            }
            let len = run.extent.len.min(BLOCK as u64);
            self.put_back(run, len);
            return Some(Ok(Chunk::Bytes(zeros(len as usize))));
        }
        Some(match &self.route {
            Route::Kernel(file) => {
                let file = file.clone();
                let extent = Extent { len: run.extent.len.min(KERNEL_CHUNK), ..run.extent };
                self.put_back(run, extent.len);
                Ok(Chunk::File(file, extent))
            }
            Route::Blocks(pool, tracker) => {
                let (pool, tracker) = (pool.clone(), tracker.clone());
                let block = match pool.try_take_spare() {
                    Some(block) => block,
                    // Both small blocks may be with the peer, so this counts as a wait for the peer.
                    None => self.small.get_or_insert_with(Pool::small).take().await,
                };
                let ahead = self.start_read(&tracker, block, run);
                let chunk = self.collect(ahead).await;
                self.read_ahead();
                chunk
            }
        })
    }

    /// Returns the next literal or run, in order.
    async fn next_run(&mut self) -> Option<io::Result<Item>> {
        if let Some(run) = self.runs.pop_front() {
            return Some(Ok(Item::Run(run)));
        }
        loop {
            match self.parts.pop_front()? {
                Part::Literal(bytes) => return Some(Ok(Item::Literal(bytes))),
                Part::Image(extent) if extent.len == 0 => {}
                Part::Image(extent) => {
                    let window = Extent { len: extent.len.min(RUN_WINDOW), ..extent };
                    self.parts.push_front(Part::Image(Extent { offset: window.end(), len: extent.len - window.len }));
                    match self.progress.during(Phase::Disk, self.image.runs(window)).await {
                        Ok(runs) => self.runs = runs.into(),
                        Err(error) => return Some(Err(error)),
                    }
                    match self.runs.pop_front() {
                        Some(run) => return Some(Ok(Item::Run(run))),
                        None => return Some(Err(io::Error::other("an image gave no runs"))),
                    }
                }
            }
        }
    }

    /// Keeps the rest of `run` after `used` bytes for the next chunk.
    fn put_back(&mut self, run: Run, used: u64) {
        if used < run.extent.len {
            let extent = Extent { offset: run.extent.offset + used, len: run.extent.len - used };
            self.runs.push_front(Run { extent, ..run });
        }
    }

    /// Starts to read the next block, if the next item is data that is known and a block is free.
    ///
    /// It never waits for a block: a slow peer may still hold the chunk before it (I3).
    fn read_ahead(&mut self) {
        let Route::Blocks(pool, tracker) = &self.route else { return };
        if self.runs.front().is_none_or(|run| run.hole) {
            return;
        }
        let block = pool.try_take_spare().or_else(|| self.small.as_ref().and_then(Pool::try_take));
        let Some(block) = block else { return };
        let tracker = tracker.clone();
        if let Some(run) = self.runs.pop_front() {
            self.ahead = Some(self.start_read(&tracker, block, run));
        }
    }

    fn start_read(&mut self, tracker: &TaskTracker, block: Block, run: Run) -> Ahead {
        // Reads start at multiples of the alignment, so the first one may begin before the range.
        let len = run.extent.len.min(block.len() as u64) as usize;
        self.put_back(run, len as u64);
        let image = self.image.clone();
        let offset = run.extent.offset;
        let read = tracker.spawn(async move { image.read_at(block, len, offset).await });
        Ahead { read, len }
    }

    async fn collect(&self, ahead: Ahead) -> io::Result<Chunk> {
        let (block, result) = self.progress.during(Phase::Disk, ahead.read).await.map_err(io::Error::other)?;
        result?;
        let len = ahead.len;
        Ok(Chunk::Bytes(Bytes::from_owner(block.freeze()).slice(..len)))
    }
}

enum Item {
    Literal(Bytes),
    Run(Run),
}

/// Returns `len` zero bytes, at most the size of a block, without a copy.
fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    Bytes::from_static(&ZEROS).slice(..len)
}
