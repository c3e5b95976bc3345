//! Seals a drive: reads it back at idle priority, compares it with the pieces it was stored with, and records its
//! digests: all, or the one for which holes need not be read. So it checks the disk, which a digest of the arriving bytes cannot, nor one of what the page cache has.

use std::io;

use super::bells::ATTEMPTS;
use super::jobs::Jobs;
use super::survey::data_of;
use crate::domain::{Algorithms, Digests, Fault, FaultKind, PIECE, Volume};
use crate::io::IdleThread;
use crate::meta::{Job, Reading};
use crate::store::{Image, ReadBack, StoreError};
use crate::transfer::DigestState;

/// What reading a drive back has shown.
enum Verdict {
    Whole(Digests),
    Differs { piece: u64 },
    Damaged(&'static str),
}

impl Jobs {
    pub(super) async fn run_seal(&self, job: &Job, spares_holes: bool) -> Result<(), Fault> {
        let Some(volume) = self.volumes.meta.volume_any(job.volume).await? else {
            return self.finish(job, &[], |_| Ok(())).await;
        };
        if !volume.state.is_readable() {
            return self.finish(job, &[], |_| Ok(())).await;
        }
        let began = self.volumes.clock.now();
        let verdict = match self.judge(&volume, spares_holes).await {
            Err(fault) if job.attempts() < ATTEMPTS => return Err(fault),
            Err(fault) => {
                // Nothing is known of its bytes. Who asks for the digest again has it tried again.
                tracing::error!(volume = %volume.id, cause = ?fault.cause, "a volume was not sealed, which is given up");
                return self.finish(job, &[], |_| Ok(())).await;
            }
            Ok(verdict) => verdict,
        };
        let reading = Reading { began: Some(began), ended: self.volumes.clock.now() };
        let spoiled = match verdict {
            Verdict::Whole(digests) => {
                let is_known = volume.digests == digests.or(volume.digests);
                let changed = if is_known { &[][..] } else { &[volume.id] };
                self.finish(job, changed, |now| {
                    if now.generation == volume.generation {
                        now.digests = digests.or(now.digests);
                    }
                    Ok(())
                })
                .await?;
                // Last: who sees that the drive was checked sees its digests.
                self.note_checked(&volume, reading).await;
                return Ok(());
            }
            Verdict::Differs { piece } => differs(piece),
            Verdict::Damaged(why) => why.to_owned(),
        };
        // A deletion or a resize may have come first; then this content is gone anyway.
        match self.volumes.mark_spoiled(&volume, &spoiled).await {
            Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => return Err(fault),
            _ => {}
        }
        self.finish(job, &[], |_| Ok(())).await
    }

    async fn note_checked(&self, volume: &Volume, reading: Reading) {
        let noted = self.volumes.meta.note_checked(volume.id, volume.generation, reading).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "that a drive was checked is not noted");
        }
    }

    async fn judge(&self, volume: &Volume, spares_holes: bool) -> Result<Verdict, Fault> {
        let verdict: Result<Verdict, StoreError> = async {
            let image = self.volumes.open_as_recorded(volume).await?;
            let wanted = if spares_holes && is_sparse(&*image).await? { Algorithms::PIECES } else { Algorithms::ALL };
            let image = image.read_back().await?;
            let read = IdleThread::start("seal")?.run(move |unwanted| check(image, wanted, unwanted)).await?;
            read.map_err(|error| StoreError::of_read(volume.image(), error))
        }
        .await;
        match verdict {
            Err(StoreError::Damaged(_, why)) => Ok(Verdict::Damaged(why)),
            verdict => verdict.map_err(Fault::from),
        }
    }
}

/// Reports whether an image has more holes than data.
async fn is_sparse(image: &dyn Image) -> io::Result<bool> {
    Ok(data_of(image).await?.total() < image.size().get() / 2)
}

/// Reads an image, compares it with what was stored, and digests it by these algorithms, until nobody wants to know any
/// more.
fn check(mut image: Box<dyn ReadBack>, wanted: Algorithms, unwanted: &dyn Fn() -> bool) -> io::Result<Verdict> {
    let mut digests = DigestState::new(wanted);
    let mut index = 0;
    while index < image.count() {
        if unwanted() || image.is_removed() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if wanted == Algorithms::PIECES {
            let data = image.next_in_doubt(index)?.unwrap_or(image.count());
            digests.zero_pieces(data - index);
            index = data;
            if index == image.count() {
                break;
            }
        }
        let piece = image.piece(index)?;
        if !piece.is_whole {
            return Ok(Verdict::Differs { piece: index });
        }
        digests.update(piece.bytes);
        index += 1;
    }
    Ok(Verdict::Whole(digests.finish()))
}

/// What a person is told of a piece that is not as it was stored.
pub(super) fn differs(piece: u64) -> String {
    format!("the {PIECE} bytes from {} are not those that were stored", piece * PIECE)
}
