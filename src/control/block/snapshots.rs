//! Snapshots of drives: copies that share what the file system lets them share.
//!
//! The drive may be deleted afterwards, and a snapshot with its own drives too.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{change_fields, check_pairs};
use crate::control::Control;
use crate::domain::{
    BlockFields, BlockOutcome, DriveSpec, Fault, FaultKind, Principal, Volume, VolumeId, VolumeKind, VolumeState,
};

/// What a snapshot is to be.
pub(super) struct Wish {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: Map<String, Value>,
    /// Also of a drive that is attached.
    pub(super) force: bool,
}

impl Control {
    pub(super) async fn create_snapshot(
        self: &Arc<Self>,
        principal: &Principal,
        volume: VolumeId,
        wish: Wish,
    ) -> Result<BlockOutcome, Fault> {
        check_pairs(&wish.metadata)?;
        let drive = self.volumes.find(principal.tenant, volume).await?;
        if matches!(drive.state, VolumeState::InUse) && !wish.force {
            let told = "the volume is attached; a snapshot of it takes force";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let user = principal.user_id.plain();
        self.clone_into(principal.tenant, volume, |source, now| {
            let spec = DriveSpec {
                name: wish.name.clone().unwrap_or_default(),
                size: source.size,
                media: source.media,
                meta: wish.metadata.clone(),
                attributes: Map::new(),
            };
            let mut snapshot = Volume::begun(source.tenant, spec, VolumeState::CloningTarget, now);
            snapshot.kind = VolumeKind::Snapshot;
            snapshot.source = Some(source.id.to_string());
            snapshot.sha256 = source.sha256;
            let of = BlockFields::of(source);
            change_fields(&mut snapshot, |fields| {
                fields.description.clone_from(&wish.description);
                fields.user = Some(user.clone());
                (fields.zone, fields.volume_type) = (of.zone.clone(), of.volume_type.clone());
                (fields.bootable, fields.image) = (of.bootable, of.image.clone());
            });
            snapshot
        })
        .await
    }

    pub(super) async fn delete_snapshot(
        self: &Arc<Self>,
        principal: &Principal,
        id: VolumeId,
    ) -> Result<BlockOutcome, Fault> {
        self.volumes.find_snapshot(principal.tenant, id).await?;
        self.delete_all(principal.tenant, vec![id]).await?;
        Ok(BlockOutcome::Done)
    }
}
