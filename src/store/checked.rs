//! An image that is read for what is made of it: each piece is compared with its digest before any of it is used.
//!
//! # Invariants
//! - No byte of a piece that differs from what was stored is given out, and the first such piece is remembered.
//! - One piece is held in memory.
//!
//! # Cancellation
//! Dropping a future of this is safe at any time; a read that was begun ends by itself, and its block with it.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use super::{CHANGED, Image, Run, StoreError, piece_digest, stored_digest, zero_piece};
use crate::domain::{ByteCount, ContentId, Extent, PIECE, Pieces};
use crate::io::Block;

/// See the module.
pub struct CheckedImage {
    image: Arc<dyn Image>,
    id: ContentId,
    size: ByteCount,
    pieces: Pieces,
    held: Mutex<Held>,
    damage: OnceLock<&'static str>,
}

/// The piece that was read last.
#[derive(Default)]
struct Held {
    index: Option<u64>,
    bytes: Vec<u8>,
}

impl CheckedImage {
    /// The first `size` bytes of an image, which has them.
    pub async fn new(image: Arc<dyn Image>, id: ContentId, size: ByteCount) -> Result<Self, StoreError> {
        let pieces = image.pieces().await?;
        if image.size() < size {
            return Err(StoreError::Io(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self { image, id, size, pieces, held: Mutex::default(), damage: OnceLock::new() })
    }

    /// How many bytes there are.
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// What was found to be wrong with the image.
    pub fn damage(&self) -> Option<&'static str> {
        self.damage.get().copied()
    }

    /// The runs of data within this extent. All else of it reads as zero, and was stored so.
    pub async fn data(&self, within: Extent) -> io::Result<Vec<Extent>> {
        let start = within.offset - within.offset % PIECE;
        let end = within.end().next_multiple_of(PIECE).min(self.size.get());
        let runs = self.image.runs(Extent { offset: start, len: end.saturating_sub(start) }).await;
        let runs = runs.map_err(|error| self.unreadable(error))?;
        let data: Vec<Extent> = runs.into_iter().filter(|run: &Run| !run.hole).map(|run| run.extent).collect();
        let mut behind = data.iter().peekable();
        for index in start / PIECE..end.div_ceil(PIECE) {
            // Of a piece with data the zeros are compared too, when that is read.
            while behind.next_if(|run| run.end() <= index * PIECE).is_some() {}
            let has_data = behind.peek().is_some_and(|run| run.offset < (index + 1) * PIECE);
            if !has_data && stored_digest(&self.pieces, index) != zero_piece() {
                return Err(self.found(CHANGED));
            }
        }
        let cut = |run: Extent| {
            let offset = run.offset.max(within.offset);
            Extent { offset, len: run.end().min(within.end()).saturating_sub(offset) }
        };
        Ok(data.into_iter().map(cut).filter(|run| run.len > 0).collect())
    }

    /// Fills `block[..len]` with the bytes at `offset`. The block always comes back.
    pub async fn read_at(&self, mut block: Block, len: usize, offset: u64) -> (Block, io::Result<()>) {
        if len > block.len() {
            return (block, Err(io::ErrorKind::InvalidInput.into()));
        }
        let mut held = self.held.lock().await;
        // A piece is read by way of the block, where what another piece has of these bytes could not stay.
        let mut before = Vec::new();
        loop {
            let at = offset + before.len() as u64;
            if held.index != Some(at / PIECE) {
                held.index = None;
                let (back, outcome) = self.load(&mut held.bytes, block, at / PIECE).await;
                block = back;
                if let Err(error) = outcome {
                    return (block, Err(error));
                }
                held.index = Some(at / PIECE);
            }
            let rest = held.bytes.get((at % PIECE) as usize..).unwrap_or_default();
            let now = rest.len().min(len - before.len());
            if before.len() + now == len {
                block[..before.len()].copy_from_slice(&before);
                block[before.len()..len].copy_from_slice(&rest[..now]);
                return (block, Ok(()));
            }
            if now == 0 {
                return (block, Err(io::ErrorKind::UnexpectedEof.into()));
            }
            before.extend_from_slice(&rest[..now]);
        }
    }

    /// Reads a piece by way of this block, and compares it.
    async fn load(&self, bytes: &mut Vec<u8>, mut block: Block, index: u64) -> (Block, io::Result<()>) {
        bytes.clear();
        let start = index.saturating_mul(PIECE);
        let piece = self.size.get().saturating_sub(start).min(PIECE) as usize;
        while bytes.len() < piece {
            let len = block.len().min(piece - bytes.len());
            let (back, outcome) = self.image.read_at(block, len, start + bytes.len() as u64).await;
            block = back;
            if let Err(error) = outcome {
                return (block, Err(self.unreadable(error)));
            }
            bytes.extend_from_slice(&block[..len]);
        }
        let is_whole = piece_digest(bytes) == stored_digest(&self.pieces, index);
        (block, if is_whole { Ok(()) } else { Err(self.found(CHANGED)) })
    }

    fn unreadable(&self, error: io::Error) -> io::Error {
        match StoreError::of_read(self.id, error) {
            StoreError::Damaged(_, why) => self.found(why),
            StoreError::Io(error) => error,
            other => io::Error::other(other),
        }
    }

    /// Remembers what is wrong.
    fn found(&self, why: &'static str) -> io::Error {
        let why = *self.damage.get_or_init(|| why);
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}
