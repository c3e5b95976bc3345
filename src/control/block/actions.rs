//! What can be done to a drive beside the rest: `POST /volumes/{id}/action`.

use std::sync::Arc;

use super::attachments::Wish;
use super::{change_fields, check_pairs, only_administrators};
use crate::control::{Control, busy};
use crate::domain::{
    BlockFields, BlockOutcome, Command, Fault, FaultKind, Patch, Principal, Reason, ResetStatus, Volume, VolumeAction,
    VolumeEvent, VolumeId, VolumeState,
};

impl Control {
    pub(super) async fn act(
        self: &Arc<Self>,
        principal: &Principal,
        id: VolumeId,
        action: VolumeAction,
    ) -> Result<BlockOutcome, Fault> {
        let drive = self.volumes.find(principal.tenant, id).await?;
        match action {
            VolumeAction::Extend(size) => {
                if size <= drive.size {
                    let told = format!("a drive can only grow; it has {} bytes", drive.size);
                    return Err(Fault::invalid("size", told).for_reason(Reason::NotLarger(drive.size)));
                }
                self.volumes.check_size(size)?;
                let patch = Patch { size: Some(size), ..Patch::default() };
                self.execute(principal, Command::Change { id, patch }).await?;
                self.jobs.await_resize(id).await;
                Ok(BlockOutcome::Done)
            }
            VolumeAction::Reserve => self.step_block(id, VolumeEvent::Reserved).await,
            VolumeAction::Unreserve => self.step_block(id, VolumeEvent::Unreserved).await,
            VolumeAction::BeginDetaching => self.step_block(id, VolumeEvent::DetachStarted).await,
            VolumeAction::RollDetaching => self.step_block(id, VolumeEvent::DetachGivenUp).await,
            VolumeAction::Attach { server, host, device, read_only } => {
                if BlockFields::of(&drive).read_only && !read_only {
                    let told = "the volume may only be attached for reading";
                    return Err(Fault::invalid("read_only", told).for_reason(Reason::ReadOnly));
                }
                let wish = Wish { server, host, device: Some(device), read_only };
                self.record_attachment(principal, id, wish).await?;
                Ok(BlockOutcome::Done)
            }
            VolumeAction::Detach => self.detach(principal, id).await,
            VolumeAction::SetBootable(bootable) => {
                self.change_block(id, |fields| {
                    fields.bootable = bootable;
                    Ok(())
                })
                .await
            }
            VolumeAction::SetReadOnly(read_only) => {
                if drive.state.is_attached() {
                    return Err(Fault::new(FaultKind::Conflict, "the volume is attached"));
                }
                self.change_block(id, |fields| {
                    fields.read_only = read_only;
                    Ok(())
                })
                .await
            }
            VolumeAction::SetImageMetadata(pairs) => {
                self.change_block(id, |fields| {
                    fields.image.extend(pairs.clone());
                    check_pairs(&fields.image)
                })
                .await?;
                let drive = self.volumes.find(principal.tenant, id).await?;
                self.told(drive).await
            }
            VolumeAction::UnsetImageMetadata(key) => {
                self.change_block(id, |fields| {
                    let told = || Fault::new(FaultKind::NotFound, "there is no such key among the image metadata");
                    fields.image.remove(&key).map(drop).ok_or_else(told)
                })
                .await
            }
            VolumeAction::Reset { status, detach } => {
                only_administrators(principal)?;
                self.reset(id, status, detach).await
            }
            VolumeAction::ForceDelete => self.delete_volume(principal, id, false, true).await,
        }
    }

    async fn step_block(&self, id: VolumeId, event: VolumeEvent) -> Result<BlockOutcome, Fault> {
        self.volumes.change(id, |volume, _| volume.step(event).map_err(busy)).await?;
        Ok(BlockOutcome::Done)
    }

    async fn change_block(
        &self,
        id: VolumeId,
        change: impl Fn(&mut BlockFields) -> Result<(), Fault> + Send + Sync,
    ) -> Result<BlockOutcome, Fault> {
        self.volumes
            .change(id, |volume, _| {
                let mut result = Ok(());
                change_fields(volume, |fields| result = change(fields));
                result
            })
            .await?;
        Ok(BlockOutcome::Done)
    }

    /// Puts a volume or snapshot into a state by hand. What a job or a transfer is working on stays theirs.
    pub(super) async fn reset(
        self: &Arc<Self>,
        id: VolumeId,
        status: ResetStatus,
        detach: bool,
    ) -> Result<BlockOutcome, Fault> {
        let there = self.parts.meta.volume_any(id).await?;
        let attachment = match &there {
            Some(volume) => self.attached_to(volume).await?,
            None => None,
        };
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
