//! The states of drives on their way to an attachment and back, step by step or by hand.

use super::attachments::{Attachments, Wish};
use crate::control::{busy, only_administrators};
use crate::domain::{
    BlockFields, BlockOutcome, Fault, FaultKind, Principal, Reason, ResetStatus, Volume, VolumeAction, VolumeEvent,
    VolumeId, VolumeRef, VolumeState,
};

impl Attachments {
    /// Takes a step of a drive to an attachment or back.
    pub(super) async fn act(
        &self,
        principal: &Principal,
        id: VolumeId,
        action: VolumeAction,
    ) -> Result<BlockOutcome, Fault> {
        let drive = self.volumes.find(principal.tenant, id).await?;
        match action {
            VolumeAction::Reserve => self.step(id, VolumeEvent::Reserved).await,
            VolumeAction::Unreserve => self.step(id, VolumeEvent::Unreserved).await,
            VolumeAction::BeginDetaching => self.step(id, VolumeEvent::DetachStarted).await,
            VolumeAction::RollDetaching => self.step(id, VolumeEvent::DetachGivenUp).await,
            VolumeAction::Attach { server, host, device, read_only } => {
                if BlockFields::of(&drive).read_only && !read_only {
                    let told = "the volume may only be attached for reading";
                    return Err(Fault::invalid("read_only", told).for_reason(Reason::ReadOnly));
                }
                let wish = Wish { server, host, device: Some(device), read_only };
                self.record(principal, id, wish).await?;
                Ok(BlockOutcome::Done)
            }
            VolumeAction::Detach => self.detach(principal, id).await.map(|()| BlockOutcome::Done),
        }
    }

    async fn step(&self, id: VolumeId, event: VolumeEvent) -> Result<BlockOutcome, Fault> {
        self.volumes.change(id, |volume, _| volume.step(event).map_err(busy)).await?;
        Ok(BlockOutcome::Done)
    }

    /// Puts a volume or snapshot into a state by hand. What a job or a transfer is working on stays theirs.
    pub(super) async fn reset(
        &self,
        principal: &Principal,
        volume: &VolumeRef,
        status: ResetStatus,
        detach: bool,
    ) -> Result<BlockOutcome, Fault> {
        only_administrators(principal)?;
        let volume = self.volumes.look_up(principal.tenant, volume).await?;
        let id = volume.id;
        let attachment = self.attached_to(volume).await?;
        self.volumes
            .change(id, |volume, batch| {
                check_resettable(volume)?;
                if detach {
                    batch.detach.push(volume.id);
                }
                volume.state = match status {
                    ResetStatus::Available => {
                        if volume.generation == 0 {
                            let told = "the volume never had any bytes, and can only be deleted";
                            return Err(Fault::new(FaultKind::Conflict, told));
                        }
                        volume.reason = None;
                        batch.detach.push(volume.id);
                        VolumeState::Available
                    }
                    ResetStatus::InUse if attachment.is_none() => {
                        return Err(Fault::new(FaultKind::Conflict, "the volume is attached to nothing"));
                    }
                    ResetStatus::InUse => VolumeState::InUse,
                    ResetStatus::Error => {
                        volume.reason = Some("an administrator has said so".to_owned());
                        VolumeState::Unavailable
                    }
                    ResetStatus::ErrorAttaching => VolumeState::ErrorAttaching,
                    ResetStatus::ErrorDetaching => VolumeState::ErrorDetaching,
                    ResetStatus::ErrorRestoring => VolumeState::ErrorRestoring,
                };
                Ok(())
            })
            .await?;
        tracing::warn!(volume = %id, ?status, "an administrator has set the state of a volume");
        Ok(BlockOutcome::Done)
    }
}

/// A state that somebody works in ends with that work.
fn check_resettable(volume: &Volume) -> Result<(), Fault> {
    match volume.state {
        VolumeState::Available
        | VolumeState::Attaching
        | VolumeState::InUse
        | VolumeState::Detaching
        | VolumeState::Unavailable
        | VolumeState::ErrorAttaching
        | VolumeState::ErrorDetaching
        | VolumeState::ErrorRestoring => Ok(()),
        VolumeState::Uploading
        | VolumeState::Creating
        | VolumeState::CloningTarget
        | VolumeState::Downloading
        | VolumeState::Resizing
        | VolumeState::Restoring
        | VolumeState::Deleting => Err(Fault::new(FaultKind::Conflict, "the volume is being worked on")),
    }
}
