//! Bytes of an assembly that come over no line: zeros, and what the store has already.

use std::ops::Range;
use std::sync::Arc;

use super::{Assembly, Progress, lock, overlaps};
use crate::domain::{Blake3, ByteCount, ContentId, Extent, Extents, Fault, FaultKind, PIECE};
use crate::store::{Digested, StoreError, Stretch, piece_digest, zero_piece};

/// Where such bytes come from.
#[derive(Debug)]
pub enum Filling {
    /// They are zero.
    Zeros,
    /// Of a published image or a kept draft of the same store.
    Stored {
        /// The image or draft.
        source: ContentId,
        /// The offset of the first byte there.
        from: u64,
        /// What is known of them.
        proof: Proof,
    },
}

/// What is known of bytes before they are taken over.
#[derive(Debug)]
pub enum Proof {
    /// Nothing.
    None,
    /// The digests of whole pieces here, and the BLAKE3 of each, from the one on in which they begin. The source does
    /// not change, and had these bytes.
    Digested(Vec<Digested>, Vec<Blake3>),
    /// What each piece here must have, from the one on in which they begin, to count at all: the source may change, so
    /// that the copy is read back.
    Wanted(Vec<Blake3>),
}

impl Assembly {
    /// Makes these bytes zero. Durable when it returns.
    pub async fn zero(self: &Arc<Self>, extent: Extent, progress: Arc<Progress>) -> Result<(), Fault> {
        self.fill(extent, Filling::Zeros, progress).await?;
        self.store_map(false).await
    }

    /// Takes these bytes over from a published image or a kept draft of the same store, where they begin at `from`:
    /// shared where the store can, else copied. Durable when it returns. A source that is not there, or not all of it,
    /// is [`FaultKind::NotFound`].
    pub async fn copy(
        self: &Arc<Self>,
        (source, from): (ContentId, u64),
        extent: Extent,
        progress: Arc<Progress>,
    ) -> Result<(), Fault> {
        self.fill(extent, Filling::Stored { source, from, proof: Proof::None }, progress).await?;
        self.store_map(false).await
    }

    /// Fills these bytes, which count from the next checkpoint on: see [`Assembly::durable`]. Parts that have any of
    /// them are ended first. Goes on when it is dropped.
    pub async fn fill(
        self: &Arc<Self>,
        extent: Extent,
        filling: Filling,
        progress: Arc<Progress>,
    ) -> Result<(), Fault> {
        let range = extent.range();
        self.check(&range)?;
        let (number, _) = self.take_over(&range, &progress).await?;
        let assembly = self.clone();
        let filled = self.tracker.spawn(async move {
            let filled = assembly.write_filling(extent, filling).await;
            assembly.end_part(number, None);
            filled
        });
        filled.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    async fn write_filling(self: &Arc<Self>, extent: Extent, filling: Filling) -> Result<(), Fault> {
        let range = extent.range();
        self.may_change(range.clone()).await?;
        let (digested, known) = match filling {
            Filling::Zeros => {
                self.draft.zero(extent).await.map_err(StoreError::from)?;
                let mut stretch = Stretch::at(range.start);
                stretch.write_zeros(extent.len);
                if self.size.get() == Some(&range.end) {
                    stretch.end();
                }
                (stretch.take_digested(), Vec::new())
            }
            Filling::Stored { source, from, proof } => {
                let from = Extent { offset: from, len: extent.len };
                self.draft.copy(source, from, range.start).await.map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof => {
                        Fault::new(FaultKind::NotFound, "what was to be copied is not there any more").because(error)
                    }
                    _ => StoreError::from(error).into(),
                })?;
                match proof {
                    Proof::None => (Vec::new(), Vec::new()),
                    Proof::Digested(digested, known) => (digested, known),
                    Proof::Wanted(wanted) => (self.prove(&range, wanted.clone()).await?, wanted),
                }
            }
        };
        self.note_known(&digested, known);
        lock(&self.map).add(range, digested);
        Ok(())
    }

    /// Notes the BLAKE3 of each of these pieces.
    fn note_known(&self, digested: &[Digested], known: Vec<Blake3>) {
        /// The most that are kept: of 256 GiB. Others are read back.
        const MOST: usize = 1 << 16;
        let all = &mut self.state().known;
        for ((piece, digest), blake3) in digested.iter().zip(known) {
            if *digest != zero_piece() && all.len() < MOST {
                all.insert(piece.start, blake3);
            }
        }
    }

    /// The bytes that are there, durable or not.
    pub fn there(&self) -> Extents {
        lock(&self.map).extents().clone()
    }

    /// Whether any of these bytes is there, durable or not, or may come at present.
    pub fn has_any(&self, range: &Range<u64>) -> bool {
        lock(&self.map).extents().within(range.clone()).next().is_some()
            || self.state().parts.iter().any(|live| overlaps(&live.range, range))
    }

    /// Reads pieces back that were copied, and compares them with what they must have. Other bytes are
    /// [`FaultKind::Conflict`], and are no part of the drive: it is as if a write of them had failed.
    async fn prove(&self, range: &Range<u64>, wanted: Vec<Blake3>) -> Result<Vec<Digested>, Fault> {
        let size = ByteCount::new(range.end).unwrap_or(ByteCount::MAX);
        let mut read = self.draft.read_back(size).await?;
        let first = range.start / PIECE;
        let proven = self.tracker.spawn_blocking(move || {
            let mut digested = Vec::with_capacity(wanted.len());
            for (index, wanted) in (first..).zip(wanted) {
                let bytes = read.piece(index)?.bytes;
                if *blake3::hash(bytes).as_bytes() != wanted.0 {
                    return Ok(None);
                }
                digested.push((index..index + 1, piece_digest(bytes)));
            }
            Ok(Some(digested))
        });
        let proven = proven.await.map_err(Fault::internal)?.map_err(|error: std::io::Error| StoreError::from(error))?;
        proven.ok_or_else(|| Fault::new(FaultKind::Conflict, "what was to be copied has changed meanwhile"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio_util::task::TaskTracker;

    use super::super::PartOptions;
    use super::*;
    use crate::domain::{Algorithms, TenantId, VolumeId};
    use crate::io::{IoEngine, Pool};
    use crate::store::{BlockStore, Draft, DraftOptions, LocalSettings, LocalStore, PieceMap, Record};

    const CONTENT: &[u8] = b"bytes here";

    async fn draft(store: &LocalStore, id: ContentId) -> Arc<dyn Draft> {
        let size = ByteCount::new(CONTENT.len() as u64).unwrap();
        let reservation = store.space().reserve(size).unwrap();
        let record = Record { volume: VolumeId::random(), tenant: TenantId::random(), name: "disk".to_owned() };
        store.draft(id, DraftOptions { expected: Some(size), reservation, record, is_kept: true }).await.unwrap()
    }

    async fn assembly(store: &LocalStore) -> Arc<Assembly> {
        let options = PartOptions {
            depth: 2,
            checkpoint_bytes: 1 << 20,
            checkpoint_time: Duration::from_mins(1),
            digests: Algorithms::NONE,
        };
        let (draft, pool) = (draft(store, ContentId::random()).await, Pool::new(ByteCount::mib(8)));
        let size = ByteCount::new(CONTENT.len() as u64);
        Assembly::new(draft, PieceMap::default(), size, (pool, options), TaskTracker::new())
    }

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::fetching(VolumeId::random()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_piece_of_a_known_digest_is_not_read_back_until_it_may_have_changed() {
        let dir = TempDir::new().unwrap();
        let store = LocalStore::open(dir.path(), IoEngine::threads(1), LocalSettings::default()).unwrap();
        let source = ContentId::random();
        draft(&store, source).await.write_edge(CONTENT.to_vec(), 0).await.unwrap();
        let all = Extent { offset: 0, len: CONTENT.len() as u64 };
        // Not that of the bytes, to tell whether they are read.
        let known = Blake3([5; 32]);
        let list = |entry: [u8; 32]| Some(Blake3(blake3::hash(&entry).into()));
        for (is_changed, expected) in [(false, list(known.0)), (true, list(blake3::hash(b"\0ytes here").into()))] {
            let assembly = assembly(&store).await;
            let proof = Proof::Digested(vec![(0..1, piece_digest(CONTENT))], vec![known]);
            assembly.fill(all, Filling::Stored { source, from: 0, proof }, progress()).await.unwrap();
            if is_changed {
                assembly.zero(Extent { offset: 0, len: 1 }, progress()).await.unwrap();
            }
            let finished = assembly.finish(ByteCount::new(all.len).unwrap(), Algorithms::PIECES).await.unwrap();
            assert_eq!(finished.digests.pieces, expected);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_counts_only_if_it_has_the_digest_that_it_must_have() {
        let dir = TempDir::new().unwrap();
        let store = LocalStore::open(dir.path(), IoEngine::threads(1), LocalSettings::default()).unwrap();
        let source = ContentId::random();
        draft(&store, source).await.write_edge(CONTENT.to_vec(), 0).await.unwrap();
        let all = Extent { offset: 0, len: CONTENT.len() as u64 };
        for (wanted, counts) in [(CONTENT, true), (&b"other byte"[..], false)] {
            let assembly = assembly(&store).await;
            let proof = Proof::Wanted(vec![Blake3(blake3::hash(wanted).into())]);
            let filled = assembly.fill(all, Filling::Stored { source, from: 0, proof }, progress()).await;
            assert_eq!(filled.as_ref().err().map(|fault| fault.kind), (!counts).then_some(FaultKind::Conflict));
            let durable = assembly.durable().await.unwrap();
            assert_eq!((durable.total() > 0, assembly.has_any(&all.range())), (counts, counts));
        }
        let assembly = assembly(&store).await;
        let missing = assembly.copy((ContentId::random(), 0), all, progress()).await.unwrap_err();
        assert_eq!(missing.kind, FaultKind::NotFound);
        assembly.copy((source, 0), all, progress()).await.unwrap();
        let finished = assembly.finish(ByteCount::new(all.len).unwrap(), Algorithms::NONE).await.unwrap();
        assert_eq!(finished.pieces.0, [piece_digest(CONTENT)]);
    }
}
