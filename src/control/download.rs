//! One download, from its ticket to an open image.

use std::sync::Arc;

use super::{Control, no_such_drive};
use crate::domain::{
    Fault, FaultKind, Outcome, Principal, SendPlan, Ticket, Verb, Volume, VolumeEvent, VolumeId, VolumeState,
};
use crate::meta::{Batch, JobKind, NewJob};
use crate::store::{Image, StoreError};

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
        let image = match self.parts.store.open(volume.id).await {
            Ok(image) if image.size() == volume.size => image,
            Ok(_) => {
                return self.spoiled(volume.id, volume.generation, "the image has not the size of the drive").await;
            }
            // Deleted, perhaps, since the row was read.
            Err(StoreError::Missing(_)) if self.find(ticket.tenant, volume.id).await.is_err() => {
                return Err(no_such_drive(volume.id));
            }
            Err(StoreError::Missing(_)) => {
                return self.spoiled(volume.id, volume.generation, "the image is missing").await;
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

    async fn spoiled(&self, id: VolumeId, generation: u64, why: &str) -> Result<Opened, Fault> {
        self.mark_spoiled(id, generation, why).await?;
        Err(Fault::new(FaultKind::Corrupt, "the stored bytes are damaged and are not served"))
    }

    /// Makes a drive unavailable whose bytes, of this generation, cannot be trusted.
    pub(super) async fn mark_spoiled(&self, id: VolumeId, generation: u64, why: &str) -> Result<(), Fault> {
        tracing::error!(drive = %id, why, "a drive is damaged on disk; it is not served any more");
        self.parts.metrics.corrupt.inc();
        self.change(id, |volume, _| {
            if volume.generation == generation {
                volume.step(VolumeEvent::Spoiled).map_err(super::busy)?;
                volume.reason = Some(why.to_owned());
            }
            Ok(())
        })
        .await
        .map(drop)
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
