//! Writes a backup: while one piece is stored, the next is read and compressed.

use std::collections::BTreeMap;
use std::io;

use tokio::task::JoinHandle;

use super::error::ArchiveError;
use super::manifest::{LONGEST, Manifest, Piece, Pieces, extent};
use super::objects::{Made, Mode, Put, blocking};
use super::piece::{Encoded, Encoder, STAMP, Stamp, digest, most_stored};
use super::place::{BackupHead, Place};
use super::{Archive, BackupSource, Progress, Written};
use crate::domain::Extent;

/// A step of compression on a thread that may block, with the encoder that it works on.
type Step = JoinHandle<io::Result<Encoder>>;

impl Archive {
    /// Writes a backup of `source`, which must have the size that `head` says, and reports after each piece. Durable
    /// when it returns. May be run again after it was cut short, and after it succeeded.
    pub async fn write<S: BackupSource>(
        &self,
        head: &BackupHead,
        source: &S,
        mut report: impl FnMut(Progress) + Send,
    ) -> Result<Written, ArchiveError> {
        if source.size() != head.size {
            return Err(ArchiveError::Source(io::Error::other("the drive has another size than its backup")));
        }
        let place = head.place();
        if let Some(manifest) = self.read_manifest(&place.manifest()).await? {
            // An earlier run got to its end, and whoever ran it did not learn of it.
            return if manifest.head.is_same_backup(head) {
                Ok(manifest.written())
            } else {
                Err(ArchiveError::Conflict)
            };
        }
        self.objects.quiesce(&place).await?;
        let lengths = self.objects.lengths(&place).await?;

        let mut pieces = Pieces::default();
        let mut progress = Progress { done: 0, objects: 0 };
        let mut putting: Option<Put> = None;
        for number in 1..=head.size.get().div_ceil(self.piece_size) {
            let extent = extent(number, 1, self.piece_size, head.size);
            let piece = match self.find(head, &place, &lengths, number, extent).await? {
                Some(piece) => piece,
                None => match self.encode(head, source, number, extent).await? {
                    None => Piece::Zeros(1),
                    Some(Encoded { bytes, sha256 }) => {
                        settle(putting.take()).await?;
                        let stored = bytes.len() as u64;
                        let key = place.object(number);
                        putting = Some(self.objects.put(&place, key, bytes, Mode::Replace).await);
                        Piece::Data { stored, sha256 }
                    }
                },
            };
            pieces.push(piece);
            progress.done += extent.len;
            progress.objects += u64::from(matches!(piece, Piece::Data { .. }));
            report(progress);
        }
        settle(putting).await?;

        let manifest = Manifest { head: head.clone(), piece_size: self.piece_size, pieces };
        self.write_manifest(&place, manifest).await
    }

    /// A piece whose object an earlier run has left.
    async fn find(
        &self,
        head: &BackupHead,
        place: &Place,
        lengths: &BTreeMap<u64, u64>,
        number: u64,
        extent: Extent,
    ) -> Result<Option<Piece>, ArchiveError> {
        let Some(&stored) = lengths.get(&number) else { return Ok(None) };
        if !(STAMP as u64..=most_stored(extent.len)).contains(&stored) {
            return Ok(None);
        }
        let tail = self.objects.read_range(&place.object(number), stored - STAMP as u64..stored).await?;
        let stamp = tail.and_then(|tail| Stamp::decode(&tail));
        let is_it = |stamp: &Stamp| (stamp.backup, stamp.number, stamp.plain) == (head.backup, number, extent.len);
        Ok(stamp.filter(is_it).map(|stamp| Piece::Data { stored, sha256: stamp.sha256 }))
    }

    /// Reads and compresses a piece; `None` when it is all zero. While one block is compressed, the next is read.
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
                // The block before is with the step, which waits for nothing: so none is held here that is not (I3).
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
            // Another run of the same backup was faster, or the answer to our own first request was lost.
            let there = self.objects.read_whole(&key, LONGEST).await?.ok_or(ArchiveError::Conflict)?;
            if blocking(move || digest(&there)).await? != sha256 {
                return Err(ArchiveError::Conflict);
            }
        }
        Ok(written)
    }
}

/// The encoder, when its step has ended.
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
