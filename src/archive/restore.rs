//! Restores a backup, chunk by chunk; each is decompressed into blocks that go to the sink without a copy.

use bytes::Bytes;

use super::chunk::{Decoder, STAMP, Stamp};
use super::error::ArchiveError;
use super::manifest::{Chunk, Manifest, extent};
use super::objects::{Reader, blocking};
use super::place::{BackupHead, Place};
use super::{Archive, BackupProgress, BackupSink};
use crate::domain::{Extent, Sha256};
use crate::io::{ALIGN, Block};

const GONE: ArchiveError = ArchiveError::Damaged("an object is missing");
const LENGTH: ArchiveError = ArchiveError::Damaged("an object has another length than was written");
const ENDS: ArchiveError = ArchiveError::Damaged("an object ends too early");
const MORE: ArchiveError = ArchiveError::Damaged("an object goes on after its piece");
const STAMPED: ArchiveError = ArchiveError::Damaged("an object is that of another piece");

impl Archive {
    /// Writes a backup to `sink`, first byte to last, and reports after each chunk. The bytes in the sink are those
    /// that were backed up only if it returns without an error.
    pub(crate) async fn restore<S: BackupSink>(
        &self,
        head: &BackupHead,
        sink: &mut S,
        mut report: impl FnMut(BackupProgress) + Send,
    ) -> Result<Manifest, ArchiveError> {
        let manifest = self.head(head).await?;
        let place = head.place();
        let mut progress = BackupProgress { done: 0, objects: 0 };
        for (number, chunk) in manifest.chunks.numbered() {
            match chunk {
                Chunk::Zeros(count) => {
                    let extent = extent(number, count, manifest.chunk_size, head.size);
                    sink.zeros(extent).await.map_err(ArchiveError::Sink)?;
                    progress.done += extent.len;
                }
                Chunk::Data { stored, sha256 } => {
                    let extent = extent(number, 1, manifest.chunk_size, head.size);
                    let stamp = Stamp { backup: head.backup, number, plain: extent.len, sha256 };
                    self.restore_chunk(&place, stored, stamp, extent, sink).await?;
                    progress.done += extent.len;
                    progress.objects += 1;
                }
            }
            report(progress);
        }
        Ok(manifest)
    }

    async fn restore_chunk<S: BackupSink>(
        &self,
        place: &Place,
        stored: u64,
        stamp: Stamp,
        extent: Extent,
        sink: &mut S,
    ) -> Result<(), ArchiveError> {
        let (length, reader) = self.objects.reader(&place.object(stamp.number)).await?.ok_or(GONE)?;
        if length != stored {
            return Err(LENGTH);
        }
        let mut object = Object { reader, left: stored - STAMP as u64, rest: Bytes::new() };
        let decoder = Decoder::new(extent.len).map_err(|error| ArchiveError::Cut(error.into()))?;
        let mut work = Work { decoder, input: Bytes::new(), block: None, filled: 0 };
        let mut offset = extent.offset;
        while !work.decoder.is_done() {
            if work.input.is_empty() && work.decoder.is_hungry() {
                work.input = object.next().await?;
            }
            if work.block.is_none() && work.decoder.left() > 0 {
                // The block before it went to the sink, so no other is held here (I3).
                work.block = Some(self.pool.take().await);
            }
            let (now, result) = blocking(move || {
                let result = work.step();
                (work, result)
            })
            .await?;
            work = now;
            result.map_err(ArchiveError::Damaged)?;
            if let Some((block, len)) = work.full_block() {
                sink.write(offset, block.freeze(), len).await.map_err(ArchiveError::Sink)?;
                offset += len as u64;
            }
        }
        if !work.input.is_empty() || object.left > 0 {
            return Err(MORE);
        }
        let Work { decoder, .. } = work;
        check(decoder, stamp.sha256)?;
        if object.stamp().await? == stamp.encode() { Ok(()) } else { Err(STAMPED) }
    }
}

fn check(decoder: Decoder, sha256: Sha256) -> Result<(), ArchiveError> {
    decoder.finish(sha256).map_err(ArchiveError::Damaged)
}

/// The state of the decompression, which moves into each step.
struct Work {
    decoder: Decoder,
    input: Bytes,
    block: Option<Block>,
    /// Bytes of the block that are filled.
    filled: usize,
}

impl Work {
    fn step(&mut self) -> Result<(), &'static str> {
        let room = self.block.as_deref_mut().map(|block| &mut block[self.filled..]).unwrap_or_default();
        self.filled += self.decoder.fill(&mut self.input, room)?;
        Ok(())
    }

    /// Takes the block and the length of its data, when no more bytes go into it.
    fn full_block(&mut self) -> Option<(Block, usize)> {
        let is_full = self.block.as_deref().is_some_and(|block| block.len() == self.filled);
        if !is_full && self.decoder.left() > 0 {
            return None;
        }
        let mut block = self.block.take()?;
        let len = std::mem::take(&mut self.filled);
        let aligned = len.next_multiple_of(ALIGN).min(block.len());
        block[len..aligned].fill(0);
        Some((block, len))
    }
}

/// An object that is being read: the frame, then the stamp.
struct Object {
    reader: Reader,
    /// Bytes of the frame not yet read.
    left: u64,
    /// The bytes of the stamp that were read with the frame.
    rest: Bytes,
}

impl Object {
    /// Returns the next bytes of the frame; an error at its end.
    async fn next(&mut self) -> Result<Bytes, ArchiveError> {
        if self.left == 0 {
            return Err(ENDS);
        }
        loop {
            let mut bytes = self.reader.next().await?.ok_or(ENDS)?;
            if bytes.is_empty() {
                continue;
            }
            let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.rest = bytes.split_off(len);
            self.left -= len as u64;
            return Ok(bytes);
        }
    }

    /// Returns what follows the frame, at most a stamp and one read.
    async fn stamp(mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut stamp = self.rest.to_vec();
        while stamp.len() <= STAMP
            && let Some(bytes) = self.reader.next().await?
        {
            stamp.extend_from_slice(&bytes);
        }
        Ok(stamp)
    }
}
