//! The end of a transfer that did not become whole, and the start of the server.

use std::sync::Arc;

use super::Assemblies;
use super::held::{Held, Work, options};
use crate::domain::{
    ByteCount, ContentId, Extents, Fault, FaultKind, Transfer, TransferSeen, TransferState, UnixTime, VolumeEvent,
    VolumeId, VolumeState,
};
use crate::meta::{Batch, MetaError, TransferStep};
use crate::store::StoreError;
use crate::transfer::Stop;

/// What has ended is told for a day.
const KEEP_ENDED: u32 = 24 * 60 * 60;

const CANCELLED: &str = "its owner ended it";
const EXPIRED: &str = "nothing came for too long";
const DELETED: &str = "its drive was deleted";

impl Assemblies {
    /// Ends a transfer, and removes what has come. Disk and quota are free when this returns.
    pub(super) async fn cancel(self: &Arc<Self>, transfer: Transfer) -> Result<TransferSeen, Fault> {
        match transfer.state {
            TransferState::Open => {}
            TransferState::Finishing => {
                return Err(Fault::new(FaultKind::Conflict, "the transfer is complete, and its drive is being made"));
            }
            TransferState::Done => {
                return Err(Fault::new(FaultKind::Conflict, "the transfer is complete; delete its drive"));
            }
            _ => return Ok(self.plain(transfer, Extents::default())),
        }
        let (assemblies, id) = (self.clone(), transfer.id);
        // To its end even when the caller goes.
        let ended = self
            .volumes
            .tracker
            .spawn(async move { assemblies.end(&transfer, TransferState::Cancelled, CANCELLED).await });
        ended.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))?;
        let transfer = self.volumes.meta.transfer(id).await?;
        let transfer = transfer.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such transfer"))?;
        Ok(self.plain(transfer, Extents::default()))
    }

    pub(super) async fn end(
        self: &Arc<Self>,
        transfer: &Transfer,
        state: TransferState,
        why: &str,
    ) -> Result<(), Fault> {
        let held = self.held_of(transfer.id)?;
        let mut work = held.work.lock().await;
        if matches!(*work, Work::Finishing(_) | Work::Stuck) {
            return Err(Fault::new(FaultKind::Conflict, "the transfer is complete, and its drive is being made"));
        }
        let step = TransferStep::new(transfer.id, TransferState::Open, state, self.volumes.clock.now());
        let step = TransferStep { reason: Some(why.to_owned()), ..step };
        let ended = self.volumes.change(transfer.volume, |volume, batch| {
            volume.step(VolumeEvent::DeleteStarted).map_err(crate::control::busy)?;
            batch.step = Some(step.clone());
            Ok(())
        });
        match ended.await {
            // Its drive is being deleted.
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            ended => drop(ended?),
        }
        self.volumes.crash.hit("transfer: ended");
        self.let_go(&held, &mut work).await;
        self.volumes.discard(transfer.volume).await;
        Ok(())
    }

    /// Ends the parts of a transfer, closes its draft, and gives its space back.
    async fn let_go(&self, held: &Held, work: &mut Work) {
        let before = std::mem::replace(work, Work::Ended);
        self.held().remove(&held.id);
        self.running.stop_volume(held.volume, Stop::Deleted);
        if let Work::Assembling { assembly, .. } = before {
            assembly.close().await;
        }
    }

    /// The transfer of a drive that is being deleted ends.
    pub(in crate::control) async fn drop_deleted(&self, volume: VolumeId) {
        let held = self.held().values().find(|held| held.volume == volume).cloned();
        let Some(held) = held else { return };
        let mut work = held.work.lock().await;
        let from = match &*work {
            // It finds out by itself.
            Work::Finishing(_) => return,
            Work::Stuck => TransferState::Finishing,
            _ => TransferState::Open,
        };
        self.let_go(&held, &mut work).await;
        let now = self.volumes.clock.now();
        let step = TransferStep::new(held.id, from, TransferState::Cancelled, now);
        self.note_end(TransferStep { reason: Some(DELETED.to_owned()), ..step }).await;
    }

    /// Marks a transfer as failed, and removes what is there of its drive.
    pub(super) async fn abandon(&self, transfer: &Transfer, why: &str) {
        self.held().remove(&transfer.id);
        let step = TransferStep::new(transfer.id, transfer.state, TransferState::Failed, self.volumes.clock.now());
        self.note_end(TransferStep { reason: Some(why.to_owned()), ..step }).await;
        tracing::warn!(transfer = %transfer.id, drive = %transfer.volume, why, "a transfer failed");
        self.volumes.discard(transfer.volume).await;
    }

    async fn note_end(&self, step: TransferStep) {
        let id = step.id;
        match self.volumes.meta.apply(Batch { step: Some(step), ..Batch::default() }).await {
            // It had ended before.
            Ok(_) | Err(MetaError::Conflict) => {}
            Err(error) => tracing::error!(transfer = %id, %error, "the end of a transfer is not noted"),
        }
    }

    /// Takes up every transfer that is open or to be finished: at the start, before anything else is removed. Those to
    /// be finished wait for [`Assemblies::finish_again`], so that no drive becomes complete while the start looks for
    /// what is not.
    pub(in crate::control) async fn recover(self: &Arc<Self>) -> Result<(), Fault> {
        let mut whole = Vec::new();
        for transfer in self.volumes.meta.open_transfers().await? {
            let volume = self.volumes.meta.volume_any(transfer.volume).await?;
            let Some(volume) = volume.filter(|volume| volume.state == VolumeState::Uploading) else {
                let step =
                    TransferStep::new(transfer.id, transfer.state, TransferState::Cancelled, self.volumes.clock.now());
                self.note_end(TransferStep { reason: Some(DELETED.to_owned()), ..step }).await;
                continue;
            };
            let epoch = self.volumes.meta.take_up_transfer(transfer.id).await?;
            let transfer = Transfer { epoch, ..transfer };
            if transfer.is_put_together() && transfer.state == TransferState::Open {
                whole.push(transfer.clone());
            }
            self.take_up(transfer, volume.image(), volume.charged).await?;
        }
        // Now that their parts are there.
        for transfer in whole {
            drop(self.spawn_together(transfer));
        }
        Ok(())
    }

    async fn take_up(
        self: &Arc<Self>,
        transfer: Transfer,
        content: ContentId,
        charged: ByteCount,
    ) -> Result<(), Fault> {
        let nothing = self.volumes.store.space().reserve_for(transfer.tenant, ByteCount::ZERO)?;
        if transfer.state == TransferState::Finishing {
            self.insert(Held::new(&transfer, content, charged, Work::Stuck));
            return Ok(());
        }
        let durable = match self.volumes.store.resume(content, options(&transfer, nothing)).await {
            Ok((_, map)) => map.extents().clone(),
            Err(StoreError::Missing(_)) => {
                self.abandon(&transfer, "what had come of it is not there any more").await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let reservation = match self.reserve_rest(&transfer, &durable) {
            Ok(reservation) => reservation,
            Err(fault) => {
                tracing::warn!(transfer = %transfer.id, why = fault.told, "there is no space for the rest of a transfer");
                self.set_aside(&transfer, ByteCount::ZERO)?
            }
        };
        self.insert(Held::new(&transfer, content, charged, Work::resting(reservation, durable)));
        Ok(())
    }

    /// Ends what is overdue, forgets what has ended long ago, closes what nobody is at, and finishes what was cut
    /// short.
    pub(in crate::control) async fn look_after(self: &Arc<Self>) -> Result<(), Fault> {
        let now = self.volumes.clock.now();
        for id in self.volumes.meta.overdue_transfers(now).await? {
            let Some(transfer) = self.volumes.meta.transfer(id).await? else { continue };
            if transfer.reason.is_none() && self.running.concerns(transfer.volume) {
                // A part comes, however long it takes.
                self.volumes.meta.touch_transfer(id, now).await?;
                continue;
            }
            let (state, why) = match &transfer.reason {
                Some(why) => (TransferState::Cancelled, why.as_str()),
                None => (TransferState::Expired, EXPIRED),
            };
            match self.end(&transfer, state, why).await {
                Err(fault) if !matches!(fault.kind, FaultKind::Conflict | FaultKind::Gone) => return Err(fault),
                _ => tracing::info!(transfer = %id, why, "a transfer has ended"),
            }
        }
        let before = UnixTime(now.0 - i64::from(KEEP_ENDED) * 1000);
        self.volumes.meta.forget_ended_transfers(before).await?;
        self.close_idle().await;
        self.finish_again().await;
        Ok(())
    }
}
