//! One download, from its ticket to an open image.

use std::sync::Arc;

use super::Control;
use crate::domain::{
    Fault, FaultKind, Outcome, Principal, SendPlan, Ticket, Verb, Volume, VolumeEvent, VolumeId, VolumeState,
};
use crate::meta::{Batch, JobKind, NewJob};
use crate::store::{Image, StoreError};

/// Why a drive is unavailable whose record tells another size than its file has.
pub(super) const WRONG_SIZE: &str = "its image has not the size of the drive";
/// Why a drive is unavailable whose file is not there.
pub(super) const MISSING: &str = "its image is missing";

/// A drive that may be sent.
pub struct Opened {
    /// What we know of it.
    pub volume: Volume,
    /// Its bytes.
    pub image: Arc<dyn Image>,
}

impl Control {
    /// Makes a ticket for the caller's drive.
    pub(super) async fn open_ticket(&self, principal: &Principal, id: VolumeId) -> Result<Outcome, Fault> {
        let volume = self.find(principal.tenant, id).await?;
        check_readable(&volume)?;
        let expires = self.parts.clock.now().plus_seconds(self.parts.settings.ticket_seconds);
        let ticket = Ticket { verb: Verb::Download, volume: id, tenant: volume.tenant, expires };
        Ok(Outcome::Download { id, token: self.parts.tickets.issue(&ticket) })
    }

    /// Opens the drive that a ticket is for.
    pub async fn open_download(&self, plan: &SendPlan) -> Result<Opened, Fault> {
        if self.is_draining() {
            return Err(Fault::new(FaultKind::Unavailable, "the server is stopping and takes no new downloads"));
        }
        let ticket = self.parts.tickets.verify(&plan.token, self.parts.clock.now())?;
        if ticket.verb != Verb::Download || ticket.volume != plan.id {
            return Err(Fault::new(FaultKind::TicketRefused, "this download link is for another drive"));
        }
        let volume = self.find(ticket.tenant, ticket.volume).await?;
        check_readable(&volume)?;
        let image = match self.open_as_recorded(&volume).await {
            Ok(image) => image,
            Err(StoreError::Damaged(_, why)) => {
                // Deleted or grown, perhaps, since the row was read.
                check_readable(&self.mark_spoiled(&volume, why).await?)?;
                return Err(Fault::new(FaultKind::Conflict, "the drive was changed meanwhile; try again"));
            }
            Err(error) => return Err(error.into()),
        };
        if plan.wants_sha256 && volume.sha256.is_none() {
            let seal = NewJob::new(JobKind::Seal, volume.id, self.parts.clock.now());
            self.parts.meta.apply(Batch { enqueue: vec![seal], ..Batch::default() }).await?;
            self.wake_jobs.notify_waiters();
        }
        Ok(Opened { volume, image })
    }

    /// Opens the image of a drive; damaged when it is not there or has another size than the record says.
    pub(super) async fn open_as_recorded(&self, volume: &Volume) -> Result<Arc<dyn Image>, StoreError> {
        match self.parts.store.open(volume.id).await {
            Ok(image) if image.size() == volume.size => Ok(image),
            Ok(_) => Err(StoreError::Damaged(volume.id, WRONG_SIZE)),
            Err(StoreError::Missing(id)) => Err(StoreError::Damaged(id, MISSING)),
            Err(error) => Err(error),
        }
    }

    /// Makes a drive unavailable whose bytes, as of this record, cannot be trusted; the drive as it is then. One that
    /// was changed meanwhile stays as it is, since what was found is not true of its new content.
    pub(super) async fn mark_spoiled(&self, volume: &Volume, why: &str) -> Result<Volume, Fault> {
        let mut is_marked = false;
        let now = self
            .change(volume.id, |now, _| {
                is_marked = now.generation == volume.generation && now.state.is_readable();
                if is_marked {
                    now.step(VolumeEvent::Spoiled).map_err(super::busy)?;
                    now.reason = Some(why.to_owned());
                }
                Ok(())
            })
            .await?;
        if is_marked {
            self.tell_spoiled(volume.id, why);
        }
        Ok(now)
    }

    /// Counts and logs a drive that was made unavailable.
    pub(super) fn tell_spoiled(&self, id: VolumeId, why: &str) {
        tracing::error!(drive = %id, why, "a drive is damaged on disk; it is not served any more");
        self.parts.metrics.corrupt.inc();
    }
}

fn check_readable(volume: &Volume) -> Result<(), Fault> {
    match volume.state {
        state if state.is_readable() => Ok(()),
        VolumeState::Unavailable => {
            let why = volume.reason.as_deref().unwrap_or("its bytes cannot be trusted");
            Err(Fault::new(FaultKind::Corrupt, format!("the drive is unavailable: {why}")))
        }
        _ => Err(Fault::new(FaultKind::Conflict, "the drive is not ready to be read")),
    }
}
