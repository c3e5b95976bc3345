//! The states of drives on their way to an attachment and back, step by step or by hand.

use super::attachments::{Attachments, Wish};
use crate::control::{busy, only_administrators};
use crate::domain::{
    BlockFields, BlockOutcome, BlockView, Fault, FaultKind, Principal, Reason, Reset, ResetStatus, Volume,
    VolumeAction, VolumeEvent, VolumeId, VolumeRef, VolumeState,
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
        reset: Reset,
    ) -> Result<BlockOutcome, Fault> {
        only_administrators(principal)?;
        let volume = self.volumes.look_up(principal.tenant, volume).await?;
        let id = volume.id;
        let has_attachment = self.attached_to(volume).await?.is_some();
        self.volumes
            .change(id, |volume, batch| {
                check_resettable(volume)?;
                if reset.attached == Some(true) && !has_attachment {
                    return Err(Fault::new(FaultKind::Conflict, "the volume is attached to nothing"));
                }
                let detaches = reset.attached == Some(false) || reset.status == Some(ResetStatus::Available);
                if detaches {
                    batch.detach.push(volume.id);
                }
                set_state(volume, reset.status.as_ref(), has_attachment && !detaches)?;
                if let Some(word) = &reset.migration {
                    let mut fields = BlockFields::of(volume);
                    fields.migration = Some(word.clone()).filter(|word| !word.is_empty());
                    fields.put(&mut volume.attributes);
                }
                Ok(())
            })
            .await?;
        tracing::warn!(volume = %id, ?reset, "an administrator has set the state of a volume");
        Ok(BlockOutcome::Done)
    }
}

/// Sets the state that is wanted, or the one that is there now, to where it is attached or not from now on.
fn set_state(volume: &mut Volume, status: Option<&ResetStatus>, has_attachment: bool) -> Result<(), Fault> {
    let now = match volume.state {
        VolumeState::InUse => Some(ResetStatus::InUse { is_ending: false, word: "in-use".to_owned() }),
        VolumeState::Detaching => Some(ResetStatus::InUse { is_ending: true, word: "detaching".to_owned() }),
        _ => None,
    };
    let Some(status) = status.or(now.as_ref()) else { return Ok(()) };
    let mut mark = None;
    volume.state = match status {
        ResetStatus::Available => {
            if volume.generation == 0 {
                let told = "the volume never had any bytes, and can only be deleted";
                return Err(Fault::new(FaultKind::Conflict, told));
            }
            volume.reason = None;
            VolumeState::Available
        }
        ResetStatus::Error => {
            volume.reason = Some("an administrator has said so".to_owned());
            VolumeState::Unavailable
        }
        ResetStatus::Attaching if !has_attachment => VolumeState::Attaching,
        ResetStatus::Attaching => {
            return Err(Fault::new(FaultKind::Conflict, "the volume is attached already"));
        }
        ResetStatus::InUse { is_ending: false, .. } if has_attachment => VolumeState::InUse,
        ResetStatus::InUse { is_ending: true, .. } if has_attachment => VolumeState::Detaching,
        ResetStatus::ErrorAttaching => VolumeState::ErrorAttaching,
        ResetStatus::ErrorDetaching => VolumeState::ErrorDetaching,
        ResetStatus::ErrorRestoring => VolumeState::ErrorRestoring,
        ResetStatus::InUse { word, .. } | ResetStatus::Marked(word) => {
            mark = Some(word.clone());
            VolumeState::Marked
        }
    };
    if mark.is_some() || BlockView::of(volume).mark().is_some() {
        let mut fields = BlockFields::of(volume);
        fields.mark = mark;
        fields.put(&mut volume.attributes);
    }
    Ok(())
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
        | VolumeState::ErrorRestoring
        | VolumeState::Marked => Ok(()),
        VolumeState::Uploading
        | VolumeState::Creating
        | VolumeState::CloningTarget
        | VolumeState::Downloading
        | VolumeState::Resizing
        | VolumeState::Restoring
        | VolumeState::Deleting => Err(Fault::new(FaultKind::Conflict, "the volume is being worked on")),
    }
}
