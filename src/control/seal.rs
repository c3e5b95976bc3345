//! Seals a drive: reads it back at idle priority, compares it with the pieces it was stored with, and records its
//! SHA-256. So it checks the disk, which a digest of the arriving bytes cannot.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Control;
use crate::domain::{ByteCount, Fault, FaultKind, PIECE, Pieces, Sha256, Volume};
use crate::meta::Job;
use crate::store::{Image, StoreError, piece_digest, stored_digest};
use crate::transfer::Sha256State;

/// What reading a drive back has shown.
enum Verdict {
    Whole(Sha256),
    Differs { piece: usize },
    Damaged(&'static str),
}

impl Control {
    pub(super) async fn run_seal(&self, job: &Job) -> Result<(), Fault> {
        let Some(volume) = self.parts.meta.volume_any(job.volume).await? else {
            return self.finish(job, &[], |_| Ok(())).await;
        };
        if !volume.state.is_readable() {
            return self.finish(job, &[], |_| Ok(())).await;
        }
        let spoiled = match self.judge(&volume).await? {
            Verdict::Whole(sha256) if volume.sha256 == Some(sha256) => return self.finish(job, &[], |_| Ok(())).await,
            Verdict::Whole(sha256) => {
                return self
                    .finish(job, &[volume.id], |now| {
                        if now.generation == volume.generation {
                            now.sha256 = Some(sha256);
                        }
                        Ok(())
                    })
                    .await;
            }
            Verdict::Differs { piece } => {
                format!("the {} bytes from {} are not those that were stored", PIECE, piece as u64 * PIECE)
            }
            Verdict::Damaged(why) => why.to_owned(),
        };
        // A deletion or a resize may have come first; then this content is gone anyway.
        match self.mark_spoiled(&volume, &spoiled).await {
            Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => return Err(fault),
            _ => {}
        }
        self.finish(job, &[], |_| Ok(())).await
    }

    async fn judge(&self, volume: &Volume) -> Result<Verdict, Fault> {
        let verdict: Result<Verdict, StoreError> = async {
            let image = self.open_as_recorded(volume).await?;
            let pieces = image.pieces().await?;
            self.read_back(&image, pieces).await.map_err(|error| StoreError::of_read(volume.id, error))
        }
        .await;
        match verdict {
            Err(StoreError::Damaged(_, why)) => Ok(Verdict::Damaged(why)),
            verdict => verdict.map_err(Fault::from),
        }
    }

    /// Reads on a thread of its own, since a thread's priority cannot be raised again without privilege.
    async fn read_back(&self, image: &Arc<dyn Image>, pieces: Pieces) -> io::Result<Verdict> {
        let Some(file) = image.file() else { return Err(io::ErrorKind::Unsupported.into()) };
        let size = image.size();
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new().name("seal".to_owned()).spawn(move || {
            // The I/O priority follows the niceness (ioprio_set(2)). Failing to be nice is no reason not to check.
            let _ = rustix::process::nice(19);
            // A deleted drive would hold its disk until the last byte was read.
            let is_unlinked = || file.metadata().is_ok_and(|file| file.nlink() == 0);
            let verdict = check(&file, size, &pieces, || sender.is_closed() || is_unlinked());
            let _ = sender.send(verdict);
        })?;
        receiver.await.map_err(io::Error::other)?
    }
}

/// Reads `size` bytes of `file` and compares them with `pieces`, until nobody wants to know any more.
fn check(file: &File, size: ByteCount, pieces: &Pieces, unwanted: impl Fn() -> bool) -> io::Result<Verdict> {
    let mut buffer = vec![0; PIECE as usize];
    let mut sha256 = Sha256State::default();
    let mut offset = 0;
    for index in 0..Pieces::spanned_by(size) as usize {
        if unwanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = &mut buffer[..(size.get() - offset).min(PIECE) as usize];
        file.read_exact_at(bytes, offset)?;
        offset += bytes.len() as u64;
        sha256.update(bytes);
        if piece_digest(bytes) != stored_digest(pieces, index as u64) {
            return Ok(Verdict::Differs { piece: index });
        }
    }
    Ok(Verdict::Whole(sha256.finish()))
}
