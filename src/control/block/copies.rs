//! Volumes that are made from something: copies of drives and snapshots, which share what the file system lets them
//! share, and what is fetched from an image service.
//!
//! What a copy is made from may be deleted afterwards.

use std::sync::Arc;

use serde_json::Value;

use super::BlockSettings;
use crate::control::Parts;
use crate::control::bells::Bells;
use crate::control::upload::Uploads;
use crate::control::volumes::Volumes;
use crate::domain::{
    BlockFields, Fault, FaultKind, Outcome, Principal, Reason, UnixTime, Volume, VolumeId, VolumeKind, VolumeSource,
    VolumeSpec, VolumeState,
};
use crate::meta::{JobKind, NewJob};
use crate::remote::ImageService;

/// Makes volumes from drives, snapshots and images.
pub(in crate::control) struct Copies {
    pub(super) volumes: Arc<Volumes>,
    pub(super) uploads: Arc<Uploads>,
    /// Without one, images are drives here.
    images: Option<ImageService>,
    offer: BlockSettings,
    bells: Bells,
}

impl Copies {
    /// Over these parts.
    pub(in crate::control) fn new(parts: &Parts, volumes: Arc<Volumes>, uploads: Arc<Uploads>, bells: Bells) -> Self {
        Self { volumes, uploads, images: parts.images.clone(), offer: parts.block.clone(), bells }
    }

    /// Begins to make a volume from a source.
    pub(in crate::control) async fn create(
        &self,
        principal: &Principal,
        source: VolumeSource,
        spec: VolumeSpec,
    ) -> Result<Outcome, Fault> {
        if spec.kind == VolumeKind::Tree {
            return Err(Fault::invalid("source", "a tree is made blank"));
        }
        let mut fields = self.offer.completed(principal, spec.block.clone().unwrap_or_default())?;
        let made = match source {
            VolumeSource::Drive { id, if_attached } => {
                let drive = self.volumes.find(principal.tenant, id).await?;
                if drive.state == VolumeState::InUse && !if_attached {
                    let told = "the volume is attached; a snapshot of it takes force";
                    return Err(Fault::new(FaultKind::Conflict, told));
                }
                if spec.kind == VolumeKind::Snapshot {
                    self.snapshot(&drive, spec, fields).await?
                } else {
                    fields.volume = Some(id.to_string());
                    self.copy(principal, &drive, spec, fields).await?
                }
            }
            VolumeSource::Snapshot(id) => {
                let snapshot = self.volumes.find_snapshot(principal.tenant, id).await?;
                fields.snapshot = Some(id.to_string());
                self.copy(principal, &snapshot, spec, fields).await?
            }
            VolumeSource::Image { id, token } => {
                fields.bootable = true;
                if let Some(images) = &self.images {
                    self.fetch(images, principal, (id, token), (spec, fields)).await?
                } else {
                    let image = self.find_image(principal, id).await?;
                    let facts = [("image_id", id.to_string()), ("image_name", image.name.clone())];
                    fields.image = facts.map(|(key, fact)| (key.to_owned(), Value::from(fact))).into_iter().collect();
                    self.copy(principal, &image, spec, fields).await?
                }
            }
        };
        Ok(Outcome::Created(vec![made]))
    }

    /// A drive that the caller may use as an image.
    async fn find_image(&self, principal: &Principal, id: VolumeId) -> Result<Volume, Fault> {
        let there = self.volumes.meta.volume_any(id).await?.filter(|volume| {
            let is_drive = volume.kind == VolumeKind::Drive && volume.state != VolumeState::Deleting;
            is_drive && BlockFields::is_image_for(volume, principal.tenant)
        });
        there.ok_or_else(|| no_such_image(id))
    }

    /// A drive from a drive or snapshot, as large as that or larger.
    async fn copy(
        &self,
        principal: &Principal,
        source: &Volume,
        spec: VolumeSpec,
        mut fields: BlockFields,
    ) -> Result<Volume, Fault> {
        let is_image = !fields.image.is_empty();
        if !is_image {
            let of = BlockFields::of(source);
            if spec.block.is_some_and(|wish| wish.volume_type.is_some() && !wish.type_if_known)
                && of.volume_type != fields.volume_type
            {
                return Err(Fault::invalid("volume_type", "the type is not that of what the volume is made from"));
            }
            fields = BlockFields { volume_type: of.volume_type, bootable: of.bootable, image: of.image, ..fields };
        }
        let size = spec.size.unwrap_or(source.size);
        if size < source.size {
            let there = source.size.gib_up();
            let told = format!("a volume is no smaller than what it is made from, which has {there} GB");
            return Err(Fault::invalid("size", told));
        }
        // Its source may be smaller than what is taken from others.
        if size > source.size {
            self.volumes.check_size(size)?;
        }
        let state = if is_image { VolumeState::Downloading } else { VolumeState::CloningTarget };
        self.begin(source, |source, now| {
            let mut target = Volume::begun(principal.tenant, VolumeKind::Drive, &spec.name, size, state, now);
            (target.media, target.meta) = (source.media, spec.meta.clone());
            target.digests = source.digests_at(size);
            fields.put(&mut target.attributes);
            target
        })
        .await
    }

    /// A snapshot of a drive.
    async fn snapshot(&self, drive: &Volume, spec: VolumeSpec, fields: BlockFields) -> Result<Volume, Fault> {
        self.begin(drive, |source, now| {
            let (kind, state) = (VolumeKind::Snapshot, VolumeState::CloningTarget);
            let mut snapshot = Volume::begun(source.tenant, kind, &spec.name, source.size, state, now);
            (snapshot.media, snapshot.meta) = (source.media, spec.meta.clone());
            snapshot.source = Some(source.id.to_string());
            snapshot.digests = source.digests;
            let (description, user) = (fields.description.clone(), fields.user.clone());
            let BlockFields { zone, volume_type, bootable, image, .. } = BlockFields::of(source);
            let fields =
                BlockFields { description, zone, volume_type, user, image, bootable, ..BlockFields::default() };
            fields.put(&mut snapshot.attributes);
            snapshot
        })
        .await
    }

    /// Begins a copy of a drive or snapshot into a volume that `make` describes.
    async fn begin(
        &self,
        source: &Volume,
        make: impl Fn(&Volume, UnixTime) -> Volume + Send + Sync,
    ) -> Result<Volume, Fault> {
        let mut copy = None;
        self.volumes
            .begin_copy(source.tenant, source.id, |source, batch| {
                let now = self.volumes.clock.now();
                let target = make(source, now);
                let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
                batch.enqueue.push(NewJob::new(kind, target.id, now));
                batch.insert.push(target.clone());
                copy = Some(target);
                Ok(())
            })
            .await?;
        self.bells.wake();
        copy.ok_or_else(|| Fault::internal("a copy without a target"))
    }
}

pub(super) fn no_such_image(id: VolumeId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no image {id}")).for_reason(Reason::NoSuchImage(id))
}
