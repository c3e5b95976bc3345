//! Digests of a drive's pieces, for who compares what they have: read back while the client waits.
//!
//! Nothing of them is kept: a drive holds XXH3 of its pieces, which tells rot and proves nothing to somebody who may
//! have chosen the bytes. So BLAKE3 is computed of what the disk has, each time that it is asked for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Parts;
use super::seal::differs;
use super::turns::{Turn, Turns};
use super::volumes::{Volumes, check_readable};
use crate::domain::{
    Blake3, DigestedPieces, Fault, FaultKind, Outcome, PieceQuery, PieceRun, Pieces, Principal, TenantId, Volume,
    is_zero,
};
use crate::store::{ReadBack, StoreError};

/// How many clients are worked for at once.
const AT_ONCE: usize = 4;

/// Who waits is answered after this long with what is known by then: no proxy has given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The pieces that are read at a time: so much is read for nobody when the client has gone.
pub(super) const BATCH: usize = 16;

/// Digests pieces of drives, for few at once.
pub(super) struct Digesting {
    volumes: Arc<Volumes>,
    turns: Turns,
    /// For how long one waits for a turn.
    wait: Duration,
}

/// What reading some pieces has shown.
enum Read {
    Pieces(Vec<PieceRun>),
    Differs(u64),
}

impl Digesting {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>) -> Arc<Self> {
        Arc::new(Self { volumes, turns: Turns::new(AT_ONCE, 0), wait: parts.settings.trees.wait })
    }

    /// A turn to read for this tenant.
    pub(super) async fn turn(&self, tenant: TenantId) -> Result<Turn, Fault> {
        self.turns.take(tenant, self.wait).await.map_err(|_| {
            Fault::new(FaultKind::Unavailable, "the pieces of as many drives as can be are being compared; try again")
        })
    }

    /// The digests of some pieces of the caller's drive: fewer than are asked for when reading them takes long.
    pub(super) async fn digest(&self, principal: &Principal, query: PieceQuery) -> Result<Outcome, Fault> {
        let drive = self.volumes.find(principal.tenant, query.drive).await?;
        check_readable(&drive)?;
        let count = Pieces::spanned_by(drive.size);
        if query.from >= count {
            return Err(Fault::invalid("from", format!("the drive has {count} pieces")));
        }
        let _turn = self.turn(principal.tenant).await?;
        let (pieces, next) = match self.read(&drive, query).await {
            Ok(read) => read,
            Err(StoreError::Damaged(_, why)) => return Err(self.spoiled(&drive, why).await),
            Err(error) => return Err(error.into()),
        };
        let pieces = match pieces {
            Read::Pieces(pieces) => pieces,
            Read::Differs(piece) => return Err(self.spoiled(&drive, &differs(piece)).await),
        };
        let next = Some(next).filter(|next| *next < count);
        Ok(Outcome::Digested(Box::new(DigestedPieces {
            drive: drive.id,
            size: drive.size,
            from: query.from,
            pieces,
            next,
        })))
    }

    /// Reads pieces, and tells the first that was not read.
    async fn read(&self, drive: &Volume, query: PieceQuery) -> Result<(Read, u64), StoreError> {
        let image = self.volumes.open_as_recorded(drive).await?;
        let mut read = image.read_back().await?;
        let until = Instant::now() + PATIENCE;
        let (mut at, mut left, mut pieces) = (query.from, query.limit as usize, Vec::new());
        while at < read.count() && left > 0 {
            let most = left.min(BATCH);
            let step = self.volumes.tracker.spawn_blocking(move || {
                let some = digest_some(&mut *read, at, most);
                (read, some)
            });
            let (back, some) = step.await.map_err(io::Error::from)?;
            read = back;
            match some.map_err(|error| StoreError::of_read(drive.image(), error))? {
                Read::Differs(piece) => return Ok((Read::Differs(piece), at)),
                Read::Pieces(some) => {
                    for run in some {
                        at += run.count();
                        left -= if let PieceRun::Digests(digests) = &run { digests.len() } else { 0 };
                        push(&mut pieces, run);
                    }
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok((Read::Pieces(pieces), at))
    }

    /// Marks a drive that is not as it was stored; the fault that its reader is told.
    async fn spoiled(&self, drive: &Volume, why: &str) -> Fault {
        let marked = self.volumes.mark_spoiled(drive, why).await;
        match marked.and_then(|now| check_readable(&now)) {
            // Deleted or grown, perhaps, since the row was read.
            Ok(()) => Fault::new(FaultKind::Conflict, "the drive was changed meanwhile; try again"),
            Err(fault) => fault,
        }
    }
}

/// Digests pieces until so many were not zero, or the drive ends.
fn digest_some(read: &mut dyn ReadBack, from: u64, most: usize) -> io::Result<Read> {
    let (mut pieces, mut at, mut left, count) = (Vec::new(), from, most, read.count());
    while at < count && left > 0 {
        let next = read.next_in_doubt(at)?.unwrap_or(count);
        if next > at {
            push(&mut pieces, PieceRun::Zeros(next - at));
            at = next;
            continue;
        }
        let piece = read.piece(at)?;
        if !piece.is_whole {
            return Ok(Read::Differs(at));
        }
        left -= 1;
        let run = if is_zero(piece.bytes) {
            PieceRun::Zeros(1)
        } else {
            PieceRun::Digests(vec![Blake3(blake3::hash(piece.bytes).into())])
        };
        push(&mut pieces, run);
        at += 1;
    }
    Ok(Read::Pieces(pieces))
}

/// Adds a run, or makes the last one longer.
fn push(pieces: &mut Vec<PieceRun>, run: PieceRun) {
    match (pieces.last_mut(), run) {
        (Some(PieceRun::Zeros(count)), PieceRun::Zeros(more)) => *count += more,
        (Some(PieceRun::Digests(digests)), PieceRun::Digests(more)) => digests.extend(more),
        (_, run) => pieces.push(run),
    }
}
