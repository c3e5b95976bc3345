//! Block storage: volumes, snapshots, backups and attachments, as its dialects want them.
//!
//! A volume of block storage is a drive, and a snapshot is a clone of one that nobody writes: both are made, charged,
//! swept and removed as drives are.

mod actions;
mod attachments;
mod backups;
mod images;
mod snapshots;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Control, no_such_drive};
use crate::archive::Container;
use crate::domain::{
    BlockCommand, BlockFields, BlockOutcome, BlockPatch, BlockQuery, BlockVolume, Command, DriveSpec, Fault, FaultKind,
    Media, MetadataChange, NewVolume, Outcome, Principal, Quota, Reason, Seen, TenantId, Thing, UnixTime, Volume,
    VolumeId, VolumeKind, VolumeSpec, VolumeState, VolumeType,
};
use crate::meta::{JobKind, MetaError, NewJob, Owner};

pub(super) use backups::Backups;

/// What block storage offers here.
#[derive(Clone, Debug)]
pub struct BlockSettings {
    /// The availability zones, the default one first.
    pub zones: Vec<String>,
    /// The types of volumes.
    pub types: Vec<VolumeType>,
    /// The type of volumes for which none is asked.
    pub default_type: Option<String>,
    /// Where backups lie for which no container is asked.
    pub container: Container,
}

/// The most of the owner's pairs: as many as the quota of OpenStack Block Storage has.
const MOST_PAIRS: usize = 128;

impl Control {
    pub(super) async fn execute_block(
        self: &Arc<Self>,
        principal: &Principal,
        command: BlockCommand,
    ) -> Result<BlockOutcome, Fault> {
        match command {
            BlockCommand::Volumes(query) => self.list_block(principal, VolumeKind::Drive, &query).await,
            BlockCommand::Volume(id) => {
                let drive = self.volumes.find(principal.tenant, id).await?;
                self.told(drive).await
            }
            BlockCommand::CreateVolume(wish) => self.create_volume(principal, *wish).await,
            BlockCommand::UpdateVolume { id, patch } => self.patch_block(principal, Thing::Volume(id), patch).await,
            BlockCommand::DeleteVolume { id, cascade, force } => {
                self.delete_volume(principal, id, cascade, force).await
            }
            BlockCommand::Act { id, action } => self.act(principal, id, action).await,
            BlockCommand::Snapshots(query) => self.list_block(principal, VolumeKind::Snapshot, &query).await,
            BlockCommand::Snapshot(id) => {
                let snapshot = self.volumes.find_snapshot(principal.tenant, id).await?;
                self.told(snapshot).await
            }
            BlockCommand::CreateSnapshot { volume, name, description, metadata, force } => {
                let wish = snapshots::Wish { name, description, metadata, force };
                self.create_snapshot(principal, volume, wish).await
            }
            BlockCommand::UpdateSnapshot { id, patch } => self.patch_block(principal, Thing::Snapshot(id), patch).await,
            BlockCommand::DeleteSnapshot { id } => self.delete_snapshot(principal, id).await,
            BlockCommand::ResetSnapshot { id, status } => {
                only_administrators(principal)?;
                let snapshot = self.volumes.find_snapshot(principal.tenant, id).await?;
                self.reset(snapshot.id, status, false).await
            }
            BlockCommand::Metadata { of, change } => self.change_metadata(principal, of, change).await,
            BlockCommand::Servers(query) => {
                let is_all = query.all_tenants && principal.is_admin;
                let owner = if is_all { Owner::Anyone } else { Owner::Tenant(principal.tenant) };
                Ok(BlockOutcome::Servers(self.parts.meta.attached_servers(owner, &query).await?))
            }
            BlockCommand::Attachments { server } => {
                Ok(BlockOutcome::Attachments(self.parts.meta.attachments(principal.tenant, &server).await?))
            }
            BlockCommand::Attachment { server, volume } => {
                self.attachment(principal, &server, volume).await.map(BlockOutcome::Attachment)
            }
            BlockCommand::Attach { server, volume, device } => self.attach(principal, server, volume, device).await,
            BlockCommand::Detach { server, volume } => {
                self.attachment(principal, &server, volume).await?;
                self.detach(principal, volume).await
            }
            BlockCommand::Quota { tenant } => {
                if tenant != principal.tenant {
                    only_administrators(principal)?;
                }
                self.quota(tenant).await
            }
            BlockCommand::SetQuota { tenant, volumes, bytes, backups, backup_bytes } => {
                only_administrators(principal)?;
                let (old, _) = self.parts.meta.usage(tenant).await?;
                let quota = Quota {
                    volumes: volumes.unwrap_or(old.volumes),
                    bytes: bytes.unwrap_or(old.bytes),
                    backups: backups.unwrap_or(old.backups),
                    backup_bytes: backup_bytes.unwrap_or(old.backup_bytes),
                };
                self.parts.meta.set_quota(tenant, quota).await?;
                self.quota(tenant).await
            }
            BlockCommand::Types => Ok(BlockOutcome::Types(self.parts.block.types.clone())),
            BlockCommand::Zones => Ok(BlockOutcome::Zones(self.parts.block.zones.clone())),
            BlockCommand::Backups(query) => self.backups.list(principal, &query).await,
            BlockCommand::Backup(backup) => {
                let backup = self.backups.find(principal, backup).await?;
                Ok(BlockOutcome::Backup(Box::new(backup)))
            }
            BlockCommand::CreateBackup(wish) => self.backups.create(principal, *wish).await,
            BlockCommand::DeleteBackup(backup) => self.backups.delete(principal, backup).await,
            BlockCommand::Restore { backup, volume, name } => {
                self.backups.restore(principal, backup, volume, name).await
            }
            BlockCommand::ResetBackup { backup, state } => self.backups.reset(principal, backup, state).await,
        }
    }

    async fn list_block(
        &self,
        principal: &Principal,
        kind: VolumeKind,
        query: &BlockQuery,
    ) -> Result<BlockOutcome, Fault> {
        let query = BlockQuery {
            volume_type: query.volume_type.as_ref().map(|wanted| self.type_named(wanted)),
            ..query.clone()
        };
        match self.parts.meta.block_volumes(owner_of(principal, &query), kind, &query).await {
            Ok(page) => Ok(BlockOutcome::Volumes(page)),
            Err(MetaError::NotFound) => Err(Fault::invalid("marker", "the marker is nothing of this list")),
            Err(error) => Err(error.into()),
        }
    }

    /// The name of the type with this name or id. Volumes keep the name, also of a type that is not offered any more.
    fn type_named(&self, wanted: &str) -> String {
        let known = self.parts.block.types.iter().find(|known| known.id == wanted || known.name == wanted);
        known.map_or(wanted, |known| &known.name).to_owned()
    }

    /// A volume as its dialects show it.
    async fn told(&self, volume: Volume) -> Result<BlockOutcome, Fault> {
        let mut told = self.parts.meta.with_attachments(vec![Seen::new(volume)]).await?;
        let told = told.pop().ok_or_else(|| Fault::internal("one volume gave none"))?;
        Ok(BlockOutcome::Volume(Box::new(told)))
    }

    async fn create_volume(self: &Arc<Self>, principal: &Principal, wish: NewVolume) -> Result<BlockOutcome, Fault> {
        let sources = [wish.snapshot.is_some(), wish.volume.is_some(), wish.image.is_some()];
        if sources.iter().filter(|is_given| **is_given).count() > 1 {
            let told = "a volume is made from one of snapshot, volume and image, and not from several";
            return Err(Fault::invalid("source", told));
        }
        check_pairs(&wish.metadata)?;
        let fields = self.fields_of(principal, &wish)?;
        if let Some(snapshot) = wish.snapshot {
            let source = self.volumes.find_snapshot(principal.tenant, snapshot).await?;
            return self.create_from(principal, source, wish, fields).await;
        }
        if let Some(volume) = wish.volume {
            let source = self.volumes.find(principal.tenant, volume).await?;
            return self.create_from(principal, source, wish, fields).await;
        }
        if let Some(id) = wish.image {
            if let Some(images) = &self.parts.images {
                return self.create_from_service(images, principal, id, (wish, fields)).await;
            }
            let source = self.find_image(principal, id).await?;
            let facts = [("image_id", source.id.to_string()), ("image_name", source.name.clone())];
            let image = facts.map(|(key, fact)| (key.to_owned(), Value::from(fact))).into_iter().collect();
            return self.create_from(principal, source, wish, BlockFields { bootable: true, image, ..fields }).await;
        }
        let Some(size) = wish.size else { return Err(Fault::invalid("size", "a volume has a size")) };
        self.volumes.check_size(size)?;
        let mut attributes = Map::new();
        fields.put(&mut attributes);
        let name = wish.name.unwrap_or_default();
        let spec = VolumeSpec {
            kind: VolumeKind::Drive,
            name,
            size: Some(size),
            media: Media::Disk,
            meta: wish.metadata,
            attributes,
            placement: None,
        };
        match self.execute(principal, Command::Create(vec![spec])).await? {
            Outcome::Created(mut drives) if !drives.is_empty() => {
                let volume = drives.swap_remove(0);
                Ok(BlockOutcome::Volume(Box::new(BlockVolume { volume: Seen::new(volume), attachment: None })))
            }
            _ => Err(Fault::internal("a creation without a drive")),
        }
    }

    /// What block storage keeps of a wish, checked against what there is here.
    fn fields_of(&self, principal: &Principal, wish: &NewVolume) -> Result<BlockFields, Fault> {
        let offer = &self.parts.block;
        if let Some(zone) = wish.zone.as_ref().filter(|zone| !offer.zones.contains(zone)) {
            let told = format!("there is no zone {zone}");
            return Err(Fault::invalid("zone", told).for_reason(Reason::NoSuchZone(zone.clone())));
        }
        let volume_type = match &wish.volume_type {
            None => offer.default_type.clone(),
            Some(wanted) => {
                let known = offer.types.iter().find(|known| known.name == *wanted || known.id == *wanted);
                let unknown = || {
                    let told = format!("there is no type {wanted} of volumes");
                    Fault::new(FaultKind::NotFound, told).for_reason(Reason::NoSuchType {
                        name: wanted.clone(),
                        known: offer.types.iter().map(|known| known.name.clone()).collect(),
                    })
                };
                Some(known.ok_or_else(unknown)?.name.clone())
            }
        };
        Ok(BlockFields {
            description: wish.description.clone(),
            zone: wish.zone.clone().or_else(|| offer.zones.first().cloned()),
            volume_type,
            user: Some(principal.user_id.plain()),
            snapshot: wish.snapshot.map(|id| id.to_string()),
            volume: wish.volume.map(|id| id.to_string()),
            ..BlockFields::default()
        })
    }

    /// A drive that the caller may use as an image.
    async fn find_image(&self, principal: &Principal, id: VolumeId) -> Result<Volume, Fault> {
        let there = self.parts.meta.volume_any(id).await?.filter(|volume| {
            let is_drive = volume.kind == VolumeKind::Drive && volume.state != VolumeState::Deleting;
            is_drive && BlockFields::is_image_for(volume, principal.tenant)
        });
        there.ok_or_else(|| no_such_image(id))
    }

    /// A volume from a drive or snapshot, as large as that or larger.
    async fn create_from(
        self: &Arc<Self>,
        principal: &Principal,
        source: Volume,
        wish: NewVolume,
        mut fields: BlockFields,
    ) -> Result<BlockOutcome, Fault> {
        let of = BlockFields::of(&source);
        let is_image = wish.image.is_some();
        if !is_image && wish.volume_type.is_some() && of.volume_type != fields.volume_type {
            return Err(Fault::invalid("volume_type", "the type is not that of what the volume is made from"));
        }
        if !is_image {
            fields.volume_type = of.volume_type;
            (fields.bootable, fields.image) = (of.bootable, of.image);
        }
        let is_sized = wish.size.filter(|_| !(wish.takes_size_of_snapshot && wish.snapshot.is_some()));
        let size = is_sized.unwrap_or(source.size);
        if size < source.size {
            let there = source.size.gib_up();
            let told = format!("a volume is no smaller than what it is made from, which has {there} GB");
            return Err(Fault::invalid("size", told));
        }
        // Its source may be smaller than what is taken from others.
        if size > source.size {
            self.volumes.check_size(size)?;
        }
        let mut attributes = Map::new();
        fields.put(&mut attributes);
        let (name, meta) = (wish.name.unwrap_or_default(), wish.metadata);
        let state = if is_image { VolumeState::Downloading } else { VolumeState::CloningTarget };
        self.clone_into(source.tenant, source.id, |source, now| {
            let spec = DriveSpec {
                name: name.clone(),
                size,
                media: source.media,
                meta: meta.clone(),
                attributes: attributes.clone(),
            };
            let target = Volume::begun(principal.tenant, spec, state, now);
            // What is added reads as zero, and so has another digest.
            Volume { sha256: source.sha256.filter(|_| size == source.size), ..target }
        })
        .await
    }

    /// Begins a copy of a drive or snapshot into a volume that `make` describes.
    async fn clone_into(
        self: &Arc<Self>,
        tenant: TenantId,
        id: VolumeId,
        make: impl Fn(&Volume, UnixTime) -> Volume + Send + Sync,
    ) -> Result<BlockOutcome, Fault> {
        let mut copy = None;
        self.volumes
            .begin_copy(tenant, id, |source, batch| {
                let now = self.parts.clock.now();
                let target = make(source, now);
                let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
                batch.enqueue.push(NewJob::new(kind, target.id, now));
                batch.insert.push(target.clone());
                copy = Some(target);
                Ok(())
            })
            .await?;
        self.bells.wake();
        let volume = copy.ok_or_else(|| Fault::internal("a copy without a target"))?;
        Ok(BlockOutcome::Volume(Box::new(BlockVolume { volume: Seen::new(volume), attachment: None })))
    }

    async fn patch_block(&self, principal: &Principal, of: Thing, patch: BlockPatch) -> Result<BlockOutcome, Fault> {
        if let Some(metadata) = &patch.metadata {
            check_pairs(metadata)?;
        }
        let id = self.find_thing(principal, of).await?;
        let volume = self
            .volumes
            .change(id, |volume, _| {
                if let Some(name) = &patch.name {
                    volume.name = name.clone().unwrap_or_default();
                }
                if let Some(description) = &patch.description {
                    change_fields(volume, |fields| fields.description.clone_from(description));
                }
                if let Some(metadata) = &patch.metadata {
                    volume.meta.clone_from(metadata);
                }
                Ok(())
            })
            .await?;
        self.told(volume).await
    }

    async fn change_metadata(
        &self,
        principal: &Principal,
        of: Thing,
        change: MetadataChange,
    ) -> Result<BlockOutcome, Fault> {
        let id = self.find_thing(principal, of).await?;
        if change == MetadataChange::Read {
            let there = self.parts.meta.volume(principal.tenant, id).await?.ok_or_else(|| no_such_drive(id))?;
            return Ok(BlockOutcome::Metadata(there.meta));
        }
        let volume = self
            .volumes
            .change(id, |volume, _| {
                match &change {
                    MetadataChange::Read => {}
                    MetadataChange::Merge(pairs) => volume.meta.extend(pairs.clone()),
                    MetadataChange::Replace(pairs) => volume.meta.clone_from(pairs),
                    MetadataChange::Remove(key) => {
                        let told = || Fault::new(FaultKind::NotFound, "there is no such key among the metadata");
                        volume.meta.remove(key).ok_or_else(told)?;
                    }
                }
                check_pairs(&volume.meta)
            })
            .await?;
        Ok(BlockOutcome::Metadata(volume.meta))
    }

    async fn find_thing(&self, principal: &Principal, of: Thing) -> Result<VolumeId, Fault> {
        match of {
            Thing::Volume(id) => self.volumes.find(principal.tenant, id).await.map(|volume| volume.id),
            Thing::Snapshot(id) => self.volumes.find_snapshot(principal.tenant, id).await.map(|volume| volume.id),
        }
    }

    async fn delete_volume(
        self: &Arc<Self>,
        principal: &Principal,
        id: VolumeId,
        cascade: bool,
        force: bool,
    ) -> Result<BlockOutcome, Fault> {
        if force {
            only_administrators(principal)?;
        }
        let drive = self.volumes.find(principal.tenant, id).await?;
        if force && drive.state.is_attached() {
            self.detach(principal, id).await?;
        }
        let mut ids = vec![id];
        if cascade {
            ids.extend(self.parts.meta.snapshots_of(principal.tenant, id).await?);
        }
        self.delete_all(principal.tenant, ids).await?;
        Ok(BlockOutcome::Done)
    }

    async fn quota(&self, tenant: TenantId) -> Result<BlockOutcome, Fault> {
        let (quota, usage) = self.parts.meta.usage(tenant).await?;
        Ok(BlockOutcome::Quota { tenant, quota, usage })
    }
}

/// Changes what block storage knows of a volume.
fn change_fields(volume: &mut Volume, change: impl FnOnce(&mut BlockFields)) {
    let mut fields = BlockFields::of(volume);
    change(&mut fields);
    fields.put(&mut volume.attributes);
}

fn no_such_image(id: VolumeId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no image {id}")).for_reason(Reason::NoSuchImage(id))
}

/// Whose things a list may have: only administrators see those of others.
fn owner_of(principal: &Principal, query: &BlockQuery) -> Owner {
    if query.all_tenants && principal.is_admin { Owner::Anyone } else { Owner::Tenant(principal.tenant) }
}

fn only_administrators(principal: &Principal) -> Result<(), Fault> {
    if principal.is_admin {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Forbidden, "this is for administrators"))
}

fn check_pairs(pairs: &Map<String, Value>) -> Result<(), Fault> {
    if pairs.len() > MOST_PAIRS {
        return Err(Fault::invalid("metadata", format!("there are more than {MOST_PAIRS} metadata items")));
    }
    Ok(())
}
