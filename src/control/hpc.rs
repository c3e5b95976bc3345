//! Volumes as HPC-AI's API has them: drives and trees with a region, a type, and a name that no other of them has.

use std::sync::Arc;

use serde_json::Map;

use super::Control;
use crate::domain::{
    ByteCount, DriveSpec, Fault, FaultKind, HpcCommand, HpcFields, HpcOutcome, HpcSpec, Media, Outcome, Page,
    Principal, TreeSpec, Volume, VolumeId, VolumeKind, VolumeState,
};
use crate::meta::{Batch, MetaError, Vacancy};

impl Control {
    pub(super) async fn execute_hpc(
        self: &Arc<Self>,
        principal: &Principal,
        command: HpcCommand,
    ) -> Result<HpcOutcome, Fault> {
        match command {
            HpcCommand::Create(spec) => self.create_hpc(principal, spec).await,
            HpcCommand::List { page, size } => self.list_hpc(principal, page, size).await,
            HpcCommand::Delete(id) => self.delete_hpc(principal, id).await,
        }
    }

    async fn create_hpc(self: &Arc<Self>, principal: &Principal, spec: HpcSpec) -> Result<HpcOutcome, Fault> {
        let catalogue = &self.parts.hpc;
        catalogue.check(&spec)?;
        let is_tree = spec.is_tree();
        self.check_hpc_size(is_tree, spec.size)?;
        let now = self.parts.clock.now();
        let mut attributes = Map::new();
        let fields = HpcFields { region: spec.region, volume_type: spec.volume_type, user: principal.user.clone() };
        fields.put(&mut attributes);
        // Looked at where the row is written, so that of two who come together one is refused.
        let vacant = Some(Vacancy { tenant: principal.tenant, name: spec.name.clone() });
        let made = if is_tree {
            let tree = TreeSpec { name: spec.name, size: spec.size, labels: Map::new() };
            let tree = Volume { attributes, ..Volume::tree(principal.tenant, tree, VolumeState::Available, now) };
            let batch = Batch { insert: vec![tree.clone()], vacant, ..Batch::default() };
            self.parts.meta.apply(batch).await.map(|_| tree).map_err(taken)?
        } else {
            let (name, size) = (spec.name, spec.size);
            let drive = DriveSpec { name, size, media: Media::Disk, meta: Map::new(), attributes };
            let drive = Volume::begun(principal.tenant, drive, VolumeState::Creating, now);
            let control = self.clone();
            // To its end even when the caller goes: half of a drive would be left otherwise.
            let work = async move {
                control.insert_blank(std::slice::from_ref(&drive), vacant).await.map_err(taken)?;
                control.fill_blank(vec![drive]).await
            };
            let made = self.parts.tracker.spawn(work).await.unwrap_or_else(|crash| Err(Fault::internal(crash)))?;
            made.into_iter().next().ok_or_else(|| Fault::internal("no drive was made"))?
        };
        Ok(HpcOutcome::Made(Box::new(catalogue.shown(made, &principal.user))))
    }

    fn check_hpc_size(&self, is_tree: bool, size: ByteCount) -> Result<(), Fault> {
        let limits = self.limits();
        let (least, most) = if is_tree {
            (ByteCount::ZERO, self.parts.settings.trees.max_size)
        } else {
            (limits.min_drive, limits.max_drive)
        };
        if size < least || size > most {
            let (least, most) = (least.gib_up().max(1), most.get() >> 30);
            return Err(Fault::invalid("sizeGB", format!("sizeGB must be from {least} to {most} for this volumeType")));
        }
        Ok(())
    }

    async fn list_hpc(&self, principal: &Principal, page: u64, size: u32) -> Result<HpcOutcome, Fault> {
        let offset = page.saturating_sub(1).saturating_mul(u64::from(size));
        let (volumes, total) = self.parts.meta.volumes_of(principal.tenant, Page { limit: Some(size), offset }).await?;
        let shown = |volume| self.parts.hpc.shown(volume, &principal.user);
        Ok(HpcOutcome::Listed { volumes: volumes.into_iter().map(shown).collect(), page, size, total })
    }

    async fn delete_hpc(self: &Arc<Self>, principal: &Principal, id: VolumeId) -> Result<HpcOutcome, Fault> {
        let volume = self.parts.meta.volume(principal.tenant, id).await?;
        let deleted = match volume.map(|volume| (volume.kind, volume.name)) {
            Some((VolumeKind::Drive, _)) => self.delete(principal, vec![id]).await,
            Some((VolumeKind::Tree, name)) => self.delete_tree(principal, &name, Some(id), false).await,
            // A snapshot is none of the volumes that are listed.
            Some((VolumeKind::Snapshot, _)) | None => Err(no_such_volume()),
        };
        match deleted {
            Ok(Outcome::Deleted) => Ok(HpcOutcome::Deleted),
            Ok(_) => Err(Fault::internal("a removal came to something else")),
            // It went meanwhile.
            Err(fault) if fault.kind == FaultKind::NotFound => Err(no_such_volume()),
            Err(fault) => Err(fault),
        }
    }
}

/// As the vendor words it.
fn no_such_volume() -> Fault {
    Fault::new(FaultKind::NotFound, "Volume not found")
}

/// As the vendor words it.
fn taken(error: MetaError) -> Fault {
    match error {
        MetaError::Duplicate => Fault::new(FaultKind::Conflict, "Volume already exists"),
        error => error.into(),
    }
}
