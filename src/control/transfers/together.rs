//! Drives that are put together from transfers of their parts, as clients want it who send one file over several
//! connections and have no other way (tus: concatenation).
//!
//! # Crash
//! The record of the whole names its parts. What was copied of them is in checkpoints, and the next start goes on with
//! the rest.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::finish::{PATIENCE, check_whole};
use super::{Assemblies, too_large};
use crate::domain::{
    ByteCount, Completion, Extent, Fault, FaultKind, Origin, TenantId, Transfer, TransferId, TransferSeen,
    TransferState,
};
use crate::transfer::Progress;

/// What is copied between two checkpoints.
const STEP: u64 = 256 << 20;

/// The seconds that parts live after their drive is there: for a client that missed the answer and asks again.
const AFTERWARDS: u32 = 10 * 60;

impl Assemblies {
    /// The size of what is put together from these parts, of which each must be whole.
    pub(super) async fn size_together(
        self: &Arc<Self>,
        tenant: TenantId,
        parts: &[TransferId],
    ) -> Result<ByteCount, Fault> {
        let most = self.settings.limits.max_drive;
        let mut total = ByteCount::ZERO;
        for id in parts {
            let part = self.own(tenant, *id).await?;
            let size = self.whole_part(&part).await?;
            let sum = total.get().checked_add(size.get()).and_then(ByteCount::new).filter(|sum| *sum <= most);
            total = sum.ok_or_else(|| too_large(most))?;
        }
        let now = self.volumes.clock.now();
        for id in parts {
            self.volumes.meta.touch_transfer(*id, now).await?;
        }
        Ok(total)
    }

    /// The size of a part, of which all bytes must have come.
    async fn whole_part(self: &Arc<Self>, part: &Transfer) -> Result<ByteCount, Fault> {
        if !part.is_partial() {
            return Err(Fault::new(FaultKind::Conflict, format!("{} was not begun as a partial upload", part.id)));
        }
        Self::check_open(part)?;
        let told = || Fault::new(FaultKind::Conflict, format!("the partial upload {} is not complete", part.id));
        let size = part.size.ok_or_else(told)?;
        let held = self.held_of(part.id)?;
        let durable = self.look_at(&held, part).await?.durable;
        check_whole(&durable, size).map_err(|_| told())?;
        Ok(size)
    }

    /// Copies the parts of a transfer, and makes the drive. Who asks for it is answered after a while in any case, and
    /// it goes on.
    pub(super) async fn put_together(self: &Arc<Self>, transfer: Transfer) -> Result<TransferSeen, Fault> {
        let made = self.spawn_together(transfer.clone());
        match tokio::time::timeout(PATIENCE, made).await {
            Ok(made) => made.unwrap_or_else(|crash| Err(Fault::internal(crash))),
            Err(_) => self.seen(transfer).await,
        }
    }

    /// Does so on a task of its own.
    pub(super) fn spawn_together(self: &Arc<Self>, transfer: Transfer) -> JoinHandle<Result<TransferSeen, Fault>> {
        let assemblies = self.clone();
        self.volumes.tracker.spawn(async move {
            let progress = Arc::new(Progress::fetching(transfer.volume));
            let running = assemblies.running.start(progress.clone());
            let made = Box::pin(assemblies.make_together(&transfer, &progress)).await;
            drop(running);
            if let Err(fault) = &made
                // Who ends it or stops the server does not want it to fail.
                && progress.stopped().is_none()
            {
                tracing::warn!(transfer = %transfer.id, why = fault.told, cause = ?fault.cause, "a drive is not put together");
                let ended = assemblies.end(&transfer, TransferState::Failed, &fault.told).await;
                if let Err(fault) = ended {
                    tracing::warn!(transfer = %transfer.id, why = fault.told, "a transfer that failed is left to expire");
                }
            }
            made
        })
    }

    async fn make_together(
        self: &Arc<Self>,
        transfer: &Transfer,
        progress: &Arc<Progress>,
    ) -> Result<TransferSeen, Fault> {
        let Some(Origin::PutTogether(parts)) = &transfer.origin else {
            return Err(Fault::internal("a transfer is put together from nothing"));
        };
        self.copy_parts(transfer, parts, progress).await?;
        self.volumes.crash.hit("transfer: put together");
        let seen = loop {
            let seen = self.finish(transfer.clone(), Completion::default()).await?;
            if seen.transfer.state != TransferState::Finishing || progress.stopped().is_some() {
                break seen;
            }
        };
        self.volumes.meta.shorten_transfers(parts, AFTERWARDS, self.volumes.clock.now()).await?;
        Ok(seen)
    }

    /// Copies what is missing of each part.
    async fn copy_parts(
        self: &Arc<Self>,
        transfer: &Transfer,
        parts: &[TransferId],
        progress: &Arc<Progress>,
    ) -> Result<(), Fault> {
        let held = self.held_of(transfer.id)?;
        let assembly = self.assembly(&held).await?;
        let mut start = 0;
        for id in parts {
            let part = self.own(transfer.tenant, *id).await?;
            let size = self.whole_part(&part).await?;
            let content = self.held_of(*id)?.content;
            let end = start + size.get();
            let mut at = start;
            while let Some(gap) = assembly.there().first_gap(at..end) {
                if progress.stopped().is_some() {
                    return Err(Fault::new(FaultKind::Unavailable, "the server is stopping; it goes on afterwards"));
                }
                let extent = Extent { offset: gap.start, len: (gap.end - gap.start).min(STEP) };
                assembly.copy((content, gap.start - start), extent, progress.clone()).await?;
                progress.add_bytes(extent.len);
                at = extent.end();
            }
            start = end;
        }
        Ok(())
    }
}
