//! Packs a tree into a stream for a peer. Knows no HTTP or tenants.
//!
//! One blocking thread packs, a few chunks ahead of the peer.
//!
//! # Invariants
//! - A tree that differs from what was stored is reported as damaged before its stream ends, and the stream ends with
//!   an error.
//!
//! # Cancellation
//! Dropping a [`Packing`] soon ends the thread, which then releases the tree.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::progress::{Phase, Progress};
use crate::domain::Encoding;
use crate::store::OpenTree;
use crate::tree::{Encoder, PackError, PackLimits, Packed};

/// Large enough that the cost of handing it over is small beside that of packing it.
const CHUNK: usize = 256 << 10;

/// Chunks that wait for the peer.
const AHEAD: usize = 2;

/// A tree that is being packed for a peer.
pub struct Packing {
    chunks: mpsc::Receiver<Bytes>,
    progress: Arc<Progress>,
    done: Option<JoinHandle<Result<Packed, PackError>>>,
}

impl Packing {
    /// Starts to pack. `held` is kept until the end; `damaged` is called on the thread with a description of the
    /// damage, if there is any.
    pub fn start(
        tree: Box<dyn OpenTree>,
        encoding: Encoding,
        progress: Arc<Progress>,
        held: impl Send + 'static,
        damaged: impl FnOnce(String) + Send + 'static,
    ) -> Self {
        let (sender, chunks) = mpsc::channel(AHEAD);
        let work = move || {
            let _held = held;
            let broken = |error| PackError { name: ".".to_owned(), cause: crate::tree::PackCause::Sink(error) };
            let sink = Sink { sender, chunk: Vec::new() };
            let mut encoder = Encoder::new(sink, encoding).map_err(broken)?;
            let packed = tree.pack(&mut encoder, &PackLimits::default());
            let packed = packed.inspect_err(|error| {
                if let Some(why) = error.damage() {
                    damaged(why);
                }
            })?;
            encoder.finish().and_then(|mut sink| sink.flush()).map_err(broken)?;
            Ok(packed)
        };
        Self { chunks, progress, done: Some(tokio::task::spawn_blocking(work)) }
    }

    /// Returns the next chunk; `None` after the last.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        // Reading and compressing count as waits for the disk, not for the peer.
        if let Some(chunk) = self.progress.during(Phase::Disk, self.chunks.recv()).await {
            return Some(Ok(chunk));
        }
        match self.done.take()?.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(Err(io::Error::other(error))),
            Err(crash) => Some(Err(io::Error::other(crash))),
        }
    }
}

/// A writer that sends its bytes in chunks.
struct Sink {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK);
        }
        let len = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk).into();
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
