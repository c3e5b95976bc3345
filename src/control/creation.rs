//! Creation of blank volumes.

use std::sync::Arc;

use super::block::BlockSettings;
use super::race::{Race, unless_lost};
use super::volumes::Volumes;
use super::{Parts, TreeSettings, no_such_drive};
use crate::domain::{
    ByteCount, Catalogue, Digests, Fault, FaultKind, Outcome, Pieces, Placement, Principal, Reason, Volume,
    VolumeEvent, VolumeId, VolumeKind, VolumeSpec, VolumeState,
};
use crate::meta::{Batch, MetaError, Vacancy};
use crate::store::DraftOptions;

/// Creates blank volumes.
pub(super) struct Creations {
    volumes: Arc<Volumes>,
    /// Where volumes may be placed.
    catalogue: Catalogue,
    trees: TreeSettings,
    offer: BlockSettings,
}

impl Creations {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>) -> Arc<Self> {
        Arc::new(Self {
            volumes,
            catalogue: parts.catalogue.clone(),
            trees: parts.settings.trees,
            offer: parts.block.clone(),
        })
    }

    /// Creates blank volumes: all of them or, when one cannot be made, none.
    pub(super) async fn create(
        self: &Arc<Self>,
        principal: &Principal,
        specs: Vec<VolumeSpec>,
    ) -> Result<Outcome, Fault> {
        let begun = specs.into_iter().map(|spec| self.begun(principal, spec));
        let volumes = begun.collect::<Result<Vec<Volume>, Fault>>()?;
        let creations = self.clone();
        // To its end even when the caller goes: half of the drives would be left otherwise.
        let work = async move {
            creations.insert_blank(&volumes).await?;
            creations.fill_blank(volumes).await
        };
        let created = self.volumes.tracker.spawn(work).await.unwrap_or_else(|crash| Err(Fault::internal(crash)));
        created.map(Outcome::Created)
    }

    /// A volume as it is before it is made: a tree without content is whole.
    fn begun(&self, principal: &Principal, spec: VolumeSpec) -> Result<Volume, Fault> {
        let VolumeSpec { kind, mut name, size, media, meta, mut attributes, placement, block } = spec;
        let is_tree = kind == VolumeKind::Tree;
        if let Some(placement) = &placement {
            self.catalogue.check(kind, placement)?;
            placement.put(&mut attributes);
        }
        if let Some(block) = block {
            self.offer.completed(principal, block)?.put(&mut attributes);
        }
        let size = size.or(is_tree.then_some(self.trees.default_size));
        let size = size.ok_or_else(|| Fault::invalid("size", "a drive has a size"))?;
        if is_tree { self.check_tree_size(size) } else { self.volumes.check_size(size) }?;
        if is_tree && name.is_empty() {
            // As the Docker API has it: who gives no name gets one that nobody else has.
            name = VolumeId::random().to_string();
        }
        let state = if is_tree { VolumeState::Available } else { VolumeState::Creating };
        let volume = Volume::begun(principal.tenant, kind, name, size, state, self.volumes.clock.now());
        Ok(Volume { media, meta, attributes, ..volume })
    }

    /// Begins to make blank volumes: writes their rows.
    async fn insert_blank(&self, volumes: &[Volume]) -> Result<(), Fault> {
        let placed = volumes.iter().filter(|volume| Placement::of(&volume.attributes).is_some());
        // Looked at where the row is written, so that of two who come together one is refused.
        let vacant = placed.map(|volume| Vacancy { tenant: volume.tenant, name: volume.name.clone() }).collect();
        match self.volumes.meta.apply(Batch { insert: volumes.to_vec(), vacant, ..Batch::default() }).await {
            Err(MetaError::Duplicate) => {
                let names: Vec<&str> = volumes.iter().map(|volume| &*volume.name).collect();
                let told = format!("a volume of the name {} exists already", names.join(" or "));
                return Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::NameTaken));
            }
            result => result?,
        };
        self.volumes.crash.hit("create: rows");
        Ok(())
    }

    /// Makes the blank volumes of these rows: all of them, or none and their rows go. To be run to its end.
    async fn fill_blank(&self, volumes: Vec<Volume>) -> Result<Vec<Volume>, Fault> {
        if volumes.iter().all(Volume::is_tree) {
            return Ok(volumes);
        }
        let ids: Vec<VolumeId> = volumes.iter().map(|volume| volume.id).collect();
        let made = async {
            for drive in volumes.iter().filter(|volume| !volume.is_tree()) {
                self.publish_blank(drive).await?;
            }
            self.complete(volumes).await
        };
        let made = made.await;
        if made.is_err() {
            for id in ids {
                self.volumes.discard(id).await;
            }
        }
        made
    }

    async fn publish_blank(&self, drive: &Volume) -> Result<(), Fault> {
        // A blank drive takes no space until someone writes to it.
        let reservation = self.volumes.store.space().reserve(ByteCount::ZERO)?;
        let options =
            DraftOptions { expected: Some(ByteCount::ZERO), reservation, record: drive.into(), is_kept: false };
        self.volumes.store.draft(drive.image(), options).await?.publish(drive.size, Pieces::default()).await?;
        self.volumes.crash.hit("create: published");
        Ok(())
    }

    /// Makes all of them available in one transaction: after a crash there are all or none. They are as their rows were
    /// written; if that is not the latest any more, they are read again.
    async fn complete(&self, mut drives: Vec<Volume>) -> Result<Vec<Volume>, Fault> {
        let mut race = Race::of("the drives are");
        loop {
            race.round()?;
            let mut update = drives.clone();
            for drive in update.iter_mut().filter(|volume| !volume.is_tree()) {
                drive.step(VolumeEvent::Completed).map_err(|_| no_such_drive(drive.id))?;
                drive.renew(Digests::NONE);
                drive.updated = self.volumes.clock.now();
            }
            let batch = Batch { update, ..Batch::default() };
            if let Some(complete) = unless_lost(self.volumes.meta.apply(batch).await)? {
                return Ok(complete);
            }
            for drive in &mut drives {
                let id = drive.id;
                *drive = self.volumes.meta.volume_any(id).await?.ok_or_else(|| no_such_drive(id))?;
            }
        }
    }

    fn check_tree_size(&self, size: ByteCount) -> Result<(), Fault> {
        let most = self.trees.max_size;
        if size == ByteCount::ZERO || size > most {
            let told = format!("a volume has from 1 to {} GB", most.get() >> 30);
            let reason = Reason::SizeOutside { least: ByteCount::ZERO, most };
            return Err(Fault::invalid("size", told).for_reason(reason));
        }
        Ok(())
    }
}
