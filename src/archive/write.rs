//! Writes a backup: while one chunk is stored, the next is read and compressed.

use std::collections::BTreeMap;
use std::io;

use tokio::task::JoinHandle;

use super::chunk::{Encoded, Encoder, STAMP, Stamp, digest, most_stored};
use super::error::ArchiveError;
use super::manifest::{Chunk, Chunks, LONGEST, Manifest, extent};
use super::objects::{Made, Mode, Put, blocking};
use super::place::{BackupHead, Place};
use super::{Archive, BackupProgress, BackupSource, Written};
use crate::domain::Extent;

/// A step of compression on a blocking thread, which returns its encoder.
type Step = JoinHandle<io::Result<Encoder>>;

impl Archive {
    /// Writes a backup of `source`, which must have the size in `head`, and reports after each chunk. Durable when it
    /// returns. May be run again after an interruption, and after success.
    pub(crate) async fn write<S: BackupSource>(
        &self,
        head: &BackupHead,
        source: &S,
        mut report: impl FnMut(BackupProgress) + Send,
    ) -> Result<Written, ArchiveError> {
        if source.size() != head.size {
            return Err(ArchiveError::Source(io::Error::other("the drive has another size than its backup")));
        }
        let place = head.place();
        if let Some(manifest) = self.read_manifest(&place.manifest()).await? {
            // An earlier run finished, but its caller did not get the result.
            return if manifest.head.is_same_backup(head) {
                Ok(manifest.written())
            } else {
                Err(ArchiveError::Conflict)
            };
        }
        self.objects.quiesce(&place).await?;
        let lengths = self.objects.lengths(&place).await?;

        let mut chunks = Chunks::default();
        let mut progress = BackupProgress { done: 0, objects: 0 };
        let mut putting: Option<Put> = None;
        for number in 1..=head.size.get().div_ceil(self.chunk_size) {
            let extent = extent(number, 1, self.chunk_size, head.size);
            let chunk = match self.find(head, &place, &lengths, number, extent).await? {
                Some(chunk) => chunk,
                None => match self.encode(head, source, number, extent).await? {
                    None => Chunk::Zeros(1),
                    Some(Encoded { bytes, sha256 }) => {
                        settle(putting.take()).await?;
                        let stored = bytes.len() as u64;
                        let key = place.object(number);
                        putting = Some(self.objects.put(&place, key, bytes, Mode::Replace).await);
                        Chunk::Data { stored, sha256 }
                    }
                },
            };
            chunks.push(chunk);
            progress.done += extent.len;
            progress.objects += u64::from(matches!(chunk, Chunk::Data { .. }));
            report(progress);
        }
        settle(putting).await?;

        let manifest = Manifest { head: head.clone(), chunk_size: self.chunk_size, chunks };
        self.write_manifest(&place, manifest).await
    }

    /// Returns a chunk whose object an earlier run has stored.
    async fn find(
        &self,
        head: &BackupHead,
        place: &Place,
        lengths: &BTreeMap<u64, u64>,
        number: u64,
        extent: Extent,
    ) -> Result<Option<Chunk>, ArchiveError> {
        let Some(&stored) = lengths.get(&number) else { return Ok(None) };
        if !(STAMP as u64..=most_stored(extent.len)).contains(&stored) {
            return Ok(None);
        }
        let tail = self.objects.read_range(&place.object(number), stored - STAMP as u64..stored).await?;
        let stamp = tail.and_then(|tail| Stamp::decode(&tail));
        let is_it = |stamp: &Stamp| (stamp.backup, stamp.number, stamp.plain) == (head.backup, number, extent.len);
        Ok(stamp.filter(is_it).map(|stamp| Chunk::Data { stored, sha256: stamp.sha256 }))
    }

    /// Reads and compresses a chunk; `None` if it is all zero. While one block is compressed, the next is read.
    async fn encode<S: BackupSource>(
        &self,
        head: &BackupHead,
        source: &S,
        number: u64,
        extent: Extent,
    ) -> Result<Option<Encoded>, ArchiveError> {
        let runs = source.data(extent).await.map_err(ArchiveError::Source)?;
        if runs.is_empty() {
            return Ok(None);
        }
        let encoder = Encoder::new(self.level, extent.len);
        let mut step: Step = tokio::task::spawn_blocking(move || Ok(encoder));
        let mut at = extent.offset;
        for run in runs {
            if run.offset < at || run.end() > extent.end() {
                return Err(ArchiveError::Source(io::Error::other("the runs of the drive are not in order")));
            }
            let mut offset = run.offset;
            while offset < run.end() {
                // The block before it is with the step, which waits for nothing, so no idle block is held here (I3).
                let block = self.pool.take().await;
                let len = block.len().min(usize::try_from(run.end() - offset).unwrap_or(usize::MAX));
                let (block, read) = source.read_at(block, len, offset).await;
                read.map_err(ArchiveError::Source)?;
                let mut encoder = taken(step).await?;
                let gap = offset - at;
                step = tokio::task::spawn_blocking(move || {
                    encoder.take_zeros(gap);
                    encoder.take(&block[..len])?;
                    Ok(encoder)
                });
                offset += len as u64;
                at = offset;
            }
        }
        let mut encoder = taken(step).await?;
        let (backup, rest) = (head.backup, extent.end() - at);
        let finished = blocking(move || {
            encoder.take_zeros(rest);
            encoder.finish(backup, number)
        });
        finished.await?.map_err(|error| ArchiveError::Cut(error.into()))
    }

    async fn write_manifest(&self, place: &Place, manifest: Manifest) -> Result<Written, ArchiveError> {
        let (written, key) = (manifest.written(), place.manifest());
        let (bytes, sha256) = blocking(move || {
            let bytes = manifest.to_bytes()?;
            let sha256 = digest(&bytes);
            Ok::<_, ArchiveError>((bytes, sha256))
        })
        .await??;
        if bytes.len() as u64 > LONGEST {
            return Err(ArchiveError::Source(io::Error::other("the drive has more pieces than a manifest can name")));
        }
        let put = self.objects.put(place, key.clone(), bytes, Mode::Create).await;
        if settle(Some(put)).await? == Made::Existed {
            // Another run of the same backup was faster, or the answer to our first request was lost.
            let there = self.objects.read_whole(&key, LONGEST).await?.ok_or(ArchiveError::Conflict)?;
            if blocking(move || digest(&there)).await? != sha256 {
                return Err(ArchiveError::Conflict);
            }
        }
        Ok(written)
    }
}

/// Waits for a step and returns its encoder.
async fn taken(step: Step) -> Result<Encoder, ArchiveError> {
    let step = step.await.map_err(|error| ArchiveError::Cut(error.into()))?;
    step.map_err(|error| ArchiveError::Cut(error.into()))
}

/// Waits for a put.
async fn settle(putting: Option<Put>) -> Result<Made, ArchiveError> {
    match putting {
        None => Ok(Made::Yes),
        Some(put) => put.await.map_err(|error| ArchiveError::Cut(error.into()))?,
    }
}
