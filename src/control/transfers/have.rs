//! Takes over from a base what a client has as well, so that only the rest is sent.
//!
//! Nothing is taken for what it is not: a piece is taken over where the BLAKE3 of the base's bytes at the same offset
//! is the one that the client told of its own. A published content never changes after it was read for that; of a
//! draft, which may, the copy is read back and counts only if it has that digest too.
//!
//! What has come, or comes at present, is left as it is. The base is one of the owner's own: nobody learns from the
//! answer what others have. Who has only the URL of a transfer compares with the base that its owner has named, and
//! with no other.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Assemblies, ended};
use crate::control::pieces::{BATCH, PATIENCE};
use crate::control::volumes::check_readable;
use crate::domain::{
    Base, Blake3, ByteCount, ContentId, Extent, Extents, Fault, FaultKind, Had, Have, Origin, Outcome, PIECE, PieceRun,
    Pieces, TenantId, Transfer, TransferState,
};
use crate::store::{ReadBack, StoreError, piece_digest};
use crate::transfer::{Assembly, Filling, Progress, Proof};

/// What pieces are taken from.
struct Source {
    content: ContentId,
    /// Whether others may write to it.
    may_change: bool,
}

impl Assemblies {
    /// Takes over what the client has and the base has too, and tells what of the compared pieces is to be sent. Ends
    /// early when it takes long.
    pub(super) async fn have(self: &Arc<Self>, transfer: &Transfer, have: Have) -> Result<Outcome, Fault> {
        Self::check_open(transfer)?;
        let told = "what the client has is compared once the size of the transfer is known";
        let size = transfer.size.ok_or_else(|| Fault::new(FaultKind::Conflict, told))?;
        let count = have.pieces.iter().try_fold(have.from, |end, run| end.checked_add(run.count()));
        let Some(end) = count.filter(|end| *end <= Pieces::spanned_by(size)) else {
            let told = format!("the drive has {} pieces", Pieces::spanned_by(size));
            return Err(Fault::invalid("pieces", told));
        };
        let source = match base_of(transfer, &have)? {
            Some(base) => Some(self.source(transfer, base).await?),
            None => None,
        };
        let held = self.held_of(transfer.id)?;
        let assembly = self.assembly(&held).await?;
        let _turn = self.digesting.turn(transfer.tenant).await?;
        let progress = Arc::new(Progress::fetching(transfer.volume));
        let running = self.running.start(progress.clone());
        let until = Instant::now() + PATIENCE;
        let mut comparing =
            Comparing { assemblies: self, assembly: &assembly, size, source, read: None, progress, until, taken: 0 };
        let next = comparing.run(&have).await?;
        let taken = comparing.taken;
        drop(running);
        let durable = assembly.durable().await?;
        self.volumes.meta.touch_transfer(transfer.id, self.volumes.clock.now()).await?;
        let compared = have.from..next.unwrap_or(end);
        let missing = gaps(&durable, bytes_of(&compared, size)).into_iter();
        let missing = missing.map(|gap| Extent { offset: gap.start, len: gap.end - gap.start }).collect();
        Ok(Outcome::Had(Box::new(Had { missing, taken, next })))
    }

    /// Fails unless the tenant has this base.
    pub(super) async fn check_base(&self, tenant: TenantId, base: Base) -> Result<(), Fault> {
        self.source_of(tenant, base).await.map(drop)
    }

    async fn source(&self, transfer: &Transfer, base: Base) -> Result<Source, Fault> {
        if base == Base::Transfer(transfer.id) {
            return Err(Fault::invalid("base", "the base of a transfer is another one"));
        }
        self.source_of(transfer.tenant, base).await
    }

    async fn source_of(&self, tenant: TenantId, base: Base) -> Result<Source, Fault> {
        let volume = match base {
            Base::Drive(id) => self.volumes.find(tenant, id).await?,
            Base::Snapshot(id) => self.volumes.find_snapshot(tenant, id).await?,
            Base::Transfer(id) => {
                let earlier = self.own(tenant, id).await?;
                match earlier.state {
                    TransferState::Done => self.volumes.find(tenant, earlier.volume).await?,
                    TransferState::Open => {
                        return Ok(Source { content: self.held_of(id)?.content, may_change: true });
                    }
                    TransferState::Finishing => {
                        let told = "the drive of the transfer that is the base is being made; try again";
                        return Err(Fault::new(FaultKind::Conflict, told));
                    }
                    _ => return Err(ended(&earlier)),
                }
            }
        };
        check_readable(&volume)?;
        Ok(Source { content: volume.image(), may_change: false })
    }
}

/// The base that is meant, if there is one.
fn base_of(transfer: &Transfer, have: &Have) -> Result<Option<Base>, Fault> {
    let own = match transfer.origin {
        Some(Origin::Base(base)) => Some(base),
        _ => None,
    };
    match have.base {
        Some(asked) if !have.is_owner && Some(asked) != own => {
            let told = "by its URL a transfer is compared with the base that its owner has named, and with no other";
            Err(Fault::new(FaultKind::Forbidden, told))
        }
        asked => Ok(asked.or(own)),
    }
}

/// The comparison of what one client has.
struct Comparing<'a> {
    assemblies: &'a Arc<Assemblies>,
    assembly: &'a Arc<Assembly>,
    size: ByteCount,
    source: Option<Source>,
    read: Option<Box<dyn ReadBack>>,
    progress: Arc<Progress>,
    until: Instant,
    taken: u64,
}

impl Comparing<'_> {
    /// Tells the first piece that was not compared, unless all were.
    async fn run(&mut self, have: &Have) -> Result<Option<u64>, Fault> {
        let mut at = have.from;
        for run in &have.pieces {
            match run {
                PieceRun::Zeros(count) => {
                    if self.is_over() {
                        return Ok(Some(at));
                    }
                    self.zero(at..at + count).await?;
                    at += count;
                }
                PieceRun::Digests(digests) => {
                    for some in digests.chunks(BATCH) {
                        if self.is_over() {
                            return Ok(Some(at));
                        }
                        self.compare(at, some).await?;
                        at += some.len() as u64;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether the rest is left: a part has come for what is worked on, or the client has waited for long.
    fn is_over(&self) -> bool {
        self.progress.stopped().is_some() || Instant::now() >= self.until
    }

    async fn zero(&mut self, pieces: Range<u64>) -> Result<(), Fault> {
        for gap in gaps(&self.assembly.there(), bytes_of(&pieces, self.size)) {
            if !self.assembly.has_any(&gap) {
                self.fill(gap, Filling::Zeros).await?;
            }
        }
        Ok(())
    }

    async fn compare(&mut self, first: u64, digests: &[Blake3]) -> Result<(), Fault> {
        let Some(Source { content, may_change }) = self.source else { return Ok(()) };
        let wanted: Vec<(u64, Blake3)> = (first..)
            .zip(digests)
            .filter(|(index, _)| !self.assembly.has_any(&bytes_of(&(*index..index + 1), self.size)))
            .map(|(index, digest)| (index, *digest))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut read = match self.read.take() {
            Some(read) => read,
            None => match self.assemblies.volumes.store.read_source(content).await {
                Ok(read) => read,
                Err(StoreError::Missing(_)) => return self.give_up(content, &io::ErrorKind::NotFound.into()),
                Err(error) => return Err(error.into()),
            },
        };
        let size = self.size;
        let step = self.assemblies.volumes.tracker.spawn_blocking(move || {
            let same = wanted.into_iter().map(|(index, digest)| same_piece(&mut *read, index, &digest, size));
            let same = same.filter_map(Result::transpose).collect::<io::Result<Vec<_>>>();
            (read, same)
        });
        let (read, same) = step.await.map_err(Fault::internal)?;
        let same = match same {
            Ok(same) => same,
            Err(error) => return self.give_up(content, &error),
        };
        self.read = Some(read);
        for run in same.chunk_by(|one, next| one.index + 1 == next.index) {
            let range = run[0].index..run[0].index + run.len() as u64;
            let range = bytes_of(&range, size);
            let proof = if may_change {
                Proof::Wanted(run.iter().map(|piece| piece.wanted).collect())
            } else {
                let digested = run.iter().map(|piece| (piece.index..piece.index + 1, piece.stored)).collect();
                Proof::Digested(digested, run.iter().map(|piece| piece.wanted).collect())
            };
            let len = range.end - range.start;
            let filling = Filling::Stored { source: content, from: range.start, proof };
            if self.fill(range, filling).await? {
                self.taken += len;
            }
        }
        Ok(())
    }

    /// Fills bytes, and tells whether they are there now. What cannot be taken is sent by the client.
    async fn fill(&mut self, range: Range<u64>, filling: Filling) -> Result<bool, Fault> {
        let extent = Extent { offset: range.start, len: range.end - range.start };
        match self.assembly.fill(extent, filling, self.progress.clone()).await {
            Ok(()) => Ok(true),
            // Changed or removed meanwhile, or in too many extents.
            Err(fault) if matches!(fault.kind, FaultKind::Conflict | FaultKind::NotFound | FaultKind::TooLarge) => {
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Takes nothing more from a source that cannot be read.
    #[expect(clippy::unnecessary_wraps, reason = "it ends the comparison of these pieces, which is no failure")]
    fn give_up(&mut self, content: ContentId, error: &io::Error) -> Result<(), Fault> {
        tracing::warn!(%content, %error, "nothing more is taken from a base that cannot be read");
        self.source = None;
        Ok(())
    }
}

/// A piece of a base that is the one that a client has.
struct SamePiece {
    index: u64,
    wanted: Blake3,
    /// The digest that is stored with it.
    stored: u128,
}

/// Reads a piece of a base, and tells whether it is the one of a drive of this size that has this digest.
fn same_piece(read: &mut dyn ReadBack, index: u64, wanted: &Blake3, size: ByteCount) -> io::Result<Option<SamePiece>> {
    if index >= read.count() {
        return Ok(None);
    }
    let bytes = bytes_of(&(index..index + 1), size);
    // A base that ends within the piece has other bytes.
    let Some(bytes) = read.piece(index)?.bytes.get(..(bytes.end - bytes.start) as usize) else { return Ok(None) };
    let is_same = *blake3::hash(bytes).as_bytes() == wanted.0;
    Ok(is_same.then(|| SamePiece { index, wanted: *wanted, stored: piece_digest(bytes) }))
}

/// The bytes of these pieces of a drive of this size.
fn bytes_of(pieces: &Range<u64>, size: ByteCount) -> Range<u64> {
    let end = pieces.end.saturating_mul(PIECE).min(size.get());
    (pieces.start * PIECE).min(end)..end
}

/// What of a range is not there.
fn gaps(there: &Extents, range: Range<u64>) -> Vec<Range<u64>> {
    let (mut gaps, mut at) = (Vec::new(), range.start);
    while let Some(gap) = there.first_gap(at..range.end.max(at)) {
        at = gap.end;
        gaps.push(gap);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_there() {
        let there = Extents::from_sorted(vec![3..5, 7..9]).expect("they are sorted");
        assert_eq!(gaps(&there, 0..12), [0..3, 5..7, 9..12]);
        assert_eq!(gaps(&there, 4..10), [5..7, 9..10]);
        assert_eq!(gaps(&there, 3..5), []);
        assert_eq!(gaps(&there, 5..5), []);
    }

    #[test]
    fn the_last_piece_ends_with_its_drive() {
        let size = ByteCount::new(PIECE + 10).expect("it is a size");
        assert_eq!(bytes_of(&(0..1), size), 0..PIECE);
        assert_eq!(bytes_of(&(0..2), size), 0..PIECE + 10);
        assert_eq!(bytes_of(&(1..2), size), PIECE..PIECE + 10);
        assert_eq!(bytes_of(&(2..2), size), PIECE + 10..PIECE + 10);
    }
}
