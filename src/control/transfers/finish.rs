//! The end of a transfer that became whole: its drive.
//!
//! # Crash
//! Row (finishing), missing digests read back, publish, rows (transfer done, volume available). Each step may be taken
//! again: what was published before the last rows were written is found by the next start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::held::{Held, Work, end_of};
use super::{Assemblies, ended, lock};
use crate::domain::{
    ByteCount, Completion, Digests, Extents, Fault, FaultKind, Transfer, TransferSeen, TransferState, VolumeEvent,
};
use crate::meta::{Batch, JobKind, MetaError, NewJob, TransferStep};
use crate::store::StoreError;
use crate::transfer::{Assembled, Assembly};

/// Who asks for the end of a transfer is answered after this long, whether it has come or not: no proxy has given up by
/// then.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What has come of an attempt to finish.
enum Attempt {
    /// The drive is there.
    Done,
    /// It takes parts again, for this reason.
    Reopened(FaultKind, String),
    /// Nothing more will come of it, for this reason.
    Failed(String),
    /// It is to be tried again.
    CutShort(Fault),
}

impl Assemblies {
    /// Makes the drive of what has come. Asked again, it gives the same answer.
    pub(super) async fn finish(
        self: &Arc<Self>,
        transfer: Transfer,
        completion: Completion,
    ) -> Result<TransferSeen, Fault> {
        if transfer.is_partial() {
            let told = "no drive is made of a partial upload; it becomes a part of one";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let is_other = |told: Option<ByteCount>| told.is_some_and(|told| Some(told) != transfer.size);
        match transfer.state {
            TransferState::Open => self.begin_finish(&transfer, completion).await?,
            TransferState::Finishing | TransferState::Done if is_other(completion.size) => {
                return Err(Fault::new(FaultKind::Conflict, "the transfer is finished, with another size"));
            }
            TransferState::Finishing => {}
            TransferState::Done => return self.seen(transfer).await,
            _ => return Err(ended(&transfer)),
        }
        self.until_finished(&transfer).await
    }

    /// Waits for the end, and tells it.
    async fn until_finished(self: &Arc<Self>, transfer: &Transfer) -> Result<TransferSeen, Fault> {
        let held = self.held_of(transfer.id).ok();
        if let Some(held) = &held {
            let ended = match &*held.work.lock().await {
                Work::Finishing(ended) => Some(ended.clone()),
                _ => None,
            };
            if let Some(mut ended) = ended {
                // An error is the end: the sender has gone.
                let _ = tokio::time::timeout(PATIENCE, ended.changed()).await;
            }
        }
        let now = self.volumes.meta.transfer(transfer.id).await?;
        let now = now.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such transfer"))?;
        match now.state {
            TransferState::Finishing | TransferState::Done => self.seen(now).await,
            TransferState::Open => {
                let refusal = held.and_then(|held| lock(&held.refusal).clone());
                let (kind, why) = refusal.unwrap_or((FaultKind::Conflict, "the transfer is not finished".to_owned()));
                Err(Fault::new(kind, why))
            }
            _ => Err(ended(&now)),
        }
    }

    async fn begin_finish(self: &Arc<Self>, transfer: &Transfer, completion: Completion) -> Result<(), Fault> {
        // If it has ended since its record was read, what its record says now is the answer.
        let Ok(held) = self.held_of(transfer.id) else { return Ok(()) };
        let assembly = match self.assembly(&held).await {
            // Another request came first.
            Err(fault) if fault.kind == FaultKind::Conflict => return Ok(()),
            assembly => assembly?,
        };
        let durable = assembly.durable().await?;
        let size = match (transfer.size, completion.size) {
            (None, None) => ByteCount::new(end_of(&durable)).unwrap_or(ByteCount::MAX),
            (Some(known), None) => known,
            (_, Some(told)) => told,
        };
        if size == ByteCount::ZERO {
            return Err(Fault::new(FaultKind::Empty, "no bytes have come"));
        }
        let transfer = self.fix_size(&held, &assembly, transfer.clone(), Some(size)).await?;
        check_whole(&durable, size)?;
        let now = self.volumes.clock.now();
        let (open, finishing) = (TransferState::Open, TransferState::Finishing);
        let (assemblies, asserted) = (self.clone(), completion.asserted.or(transfer.asserted));
        // To its end even when the caller goes.
        let begun = self.volumes.tracker.spawn(async move {
            let mut work = held.work.lock().await;
            if !matches!(*work, Work::Assembling { .. }) {
                return Ok(());
            }
            let step = TransferStep { asserted, ..TransferStep::new(transfer.id, open, finishing, now) };
            match assemblies.volumes.meta.apply(Batch { step: Some(step), ..Batch::default() }).await {
                Err(MetaError::Conflict) => return Err(Fault::new(FaultKind::Conflict, "the transfer has ended")),
                stepped => stepped?,
            };
            assemblies.volumes.crash.hit("transfer: finishing");
            let transfer = Transfer { state: finishing, asserted, ..transfer };
            *work = assemblies.spawn_finish(&held, transfer, Some(assembly));
            Ok(())
        });
        begun.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    /// Finishes on a task of its own, from an assembly or what an earlier process has left.
    fn spawn_finish(self: &Arc<Self>, held: &Arc<Held>, transfer: Transfer, assembly: Option<Arc<Assembly>>) -> Work {
        let (sender, ended) = watch::channel(());
        let (assemblies, held) = (self.clone(), held.clone());
        self.volumes.tracker.spawn(async move {
            let attempt = assemblies.attempt(&held, &transfer, assembly.as_ref()).await;
            let attempt = attempt.unwrap_or_else(Attempt::CutShort);
            let mut work = held.work.lock().await;
            *work = match attempt {
                Attempt::Done => {
                    tracing::info!(transfer = %transfer.id, drive = %transfer.volume, "transfer finished");
                    assemblies.held().remove(&transfer.id);
                    Work::Ended
                }
                Attempt::Reopened(kind, why) => {
                    *lock(&held.refusal) = Some((kind, why));
                    let back = assemblies.reopen(&transfer).await;
                    match (back, assembly) {
                        (Ok(()), Some(assembly)) => {
                            assembly.reopen();
                            Work::assembling(assembly)
                        }
                        // All of it is there.
                        (Ok(()), None) => assemblies.at_rest(&transfer, ByteCount::ZERO).unwrap_or(Work::Stuck),
                        (Err(_), _) => Work::Stuck,
                    }
                }
                Attempt::Failed(why) => {
                    drop(assembly);
                    assemblies.abandon(&transfer, &why).await;
                    Work::Ended
                }
                Attempt::CutShort(fault) => {
                    let cause = fault.cause.as_ref();
                    tracing::error!(transfer = %transfer.id, why = fault.told, ?cause, "a drive is not finished; it is tried again");
                    Work::Stuck
                }
            };
            drop(work);
            drop(sender);
        });
        Work::Finishing(ended)
    }

    /// Finishes what was cut short, by a failure or by the end of a process.
    pub(in crate::control) async fn finish_again(self: &Arc<Self>) {
        let all: Vec<Arc<Held>> = self.held().values().cloned().collect();
        for held in all {
            let Ok(mut work) = held.work.try_lock() else { continue };
            if matches!(*work, Work::Stuck)
                && let Ok(Some(transfer)) = self.volumes.meta.transfer(held.id).await
                && transfer.state == TransferState::Finishing
            {
                *work = self.spawn_finish(&held, transfer, None);
            }
        }
    }

    async fn attempt(
        &self,
        held: &Held,
        transfer: &Transfer,
        assembly: Option<&Arc<Assembly>>,
    ) -> Result<Attempt, Fault> {
        let size = transfer.size.ok_or_else(|| Fault::internal("a transfer is finished without a size"))?;
        let resumed = if let Some(assembly) = assembly {
            assembly.clone()
        } else {
            let reservation = self.volumes.store.space().reserve_for(transfer.tenant, ByteCount::ZERO)?;
            match self.volumes.store.resume(held.content, super::held::options(transfer, reservation)).await {
                Ok((draft, map)) => self.assemble(draft, map, transfer),
                Err(StoreError::Missing(_)) => return self.go_on_published(held, transfer).await,
                Err(error) => return Err(error.into()),
            }
        };
        let Assembled { pieces, digests } = match resumed.finish(size, transfer.asserted.algorithms()).await {
            Err(fault) if fault.kind == FaultKind::Conflict => return Ok(Attempt::Reopened(fault.kind, fault.told)),
            assembled => assembled?,
        };
        if let Some(algorithm) = transfer.asserted.contradiction(&digests) {
            let told = format!("the bytes received do not have the asserted {algorithm}");
            return Ok(Attempt::Reopened(FaultKind::DigestMismatch, told));
        }
        self.volumes.crash.hit("transfer: read back");
        let drive_size = size.max(self.settings.limits.min_drive);
        if let Err(error) = resumed.draft().publish(drive_size, pieces).await {
            let fault = Fault::from(error);
            tracing::error!(transfer = %transfer.id, cause = ?fault.cause, "a drive cannot be published");
            return Ok(Attempt::Failed(fault.told));
        }
        self.volumes.crash.hit("transfer: published");
        self.commit(transfer, drive_size, digests).await
    }

    /// What was published, and not written down as that.
    async fn go_on_published(&self, held: &Held, transfer: &Transfer) -> Result<Attempt, Fault> {
        match self.volumes.store.open(held.content).await {
            // Its bytes had the digests that were asserted, or it would not have been published.
            Ok(image) => self.commit(transfer, image.size(), transfer.asserted).await,
            Err(StoreError::Missing(_)) => Ok(Attempt::Failed("what had come of it is not there any more".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(&self, transfer: &Transfer, size: ByteCount, digests: Digests) -> Result<Attempt, Fault> {
        let now = self.volumes.clock.now();
        let committed = self
            .volumes
            .change(transfer.volume, |volume, batch| {
                volume.step(VolumeEvent::Completed).map_err(crate::control::busy)?;
                (volume.size, volume.charged) = (size, size);
                volume.generation += 1;
                // Of the whole drive only if no zeros were added after the bytes that were digested.
                volume.digests = if transfer.size == Some(size) { digests } else { Digests::NONE };
                let step = TransferStep::new(transfer.id, TransferState::Finishing, TransferState::Done, now);
                batch.step = Some(TransferStep { digests, ..step });
                if self.settings.always_seal {
                    batch.enqueue.push(NewJob::new(JobKind::Seal { spares_holes: false }, volume.id, volume.created));
                }
                Ok(())
            })
            .await;
        match committed {
            Ok(_) => {
                self.volumes.crash.hit("transfer: committed");
                if self.settings.always_seal {
                    self.bells.wake();
                }
                Ok(Attempt::Done)
            }
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(Attempt::Failed("its drive was deleted".to_owned())),
            Err(fault) => Err(fault),
        }
    }

    async fn reopen(&self, transfer: &Transfer) -> Result<(), Fault> {
        let (from, to) = (TransferState::Finishing, TransferState::Open);
        let step = Some(TransferStep::new(transfer.id, from, to, self.volumes.clock.now()));
        self.volumes.meta.apply(Batch { step, ..Batch::default() }).await?;
        Ok(())
    }
}

pub(super) fn check_whole(durable: &Extents, size: ByteCount) -> Result<(), Fault> {
    match durable.first_gap(0..size.get()) {
        None => Ok(()),
        Some(gap) => {
            let told = format!("bytes {} to {} have not come", gap.start, gap.end - 1);
            Err(Fault::new(FaultKind::Conflict, told))
        }
    }
}
