//! Commands on the caller's own volumes.

use std::sync::Arc;

use super::race::{Race, unless_lost};
use super::{Control, busy, no_such_drive};
use crate::domain::{
    ByteCount, Command, ContentId, DriveSpec, Fault, FaultKind, Listing, Outcome, Page, Patch, Pieces, Placement,
    Principal, Reason, TenantId, TreeSpec, Volume, VolumeEvent, VolumeId, VolumeKind, VolumeQuery, VolumeRef,
    VolumeSpec, VolumeState,
};
use crate::meta::{Batch, JobKind, MetaError, NewJob, Vacancy};
use crate::store::DraftOptions;
use crate::transfer::Stop;

/// The volumes of a long list that are in memory at once.
pub const LIST_PART: usize = 20;

impl Control {
    /// Executes one command for a caller.
    pub async fn execute(self: &Arc<Self>, principal: &Principal, command: Command) -> Result<Outcome, Fault> {
        match command {
            Command::List(query) => self.list(principal, query).await.map(Outcome::Listing),
            Command::Show(volume) => {
                let volume = self.look_up(principal.tenant, &volume).await?;
                Ok(Outcome::Volume(Box::new(volume)))
            }
            Command::Create(specs) => self.create(principal, specs).await,
            Command::Change { id, patch } => self.update(principal, id, patch).await,
            Command::Remove { volumes, ends_sessions } => self.remove(principal, &volumes, ends_sessions).await,
            Command::Clone { id, patch } => self.start_clone(principal, id, patch).await,
            Command::OpenDownload(volume) => self.open_ticket(principal, &volume).await,
            Command::Describe => Ok(Outcome::Described(self.limits())),
            Command::Session(command) => self.sessions.execute(principal, command).await,
            Command::Block(command) => Box::pin(self.execute_block(principal, command)).await.map(Outcome::Block),
            Command::In { tenant, command } => {
                if !principal.is_admin {
                    return Err(Fault::new(FaultKind::Forbidden, "only an administrator works in another tenant"));
                }
                let within = Principal { tenant, ..principal.clone() };
                Box::pin(self.execute(&within, *command)).await
            }
        }
    }

    async fn list(&self, principal: &Principal, query: VolumeQuery) -> Result<Listing, Fault> {
        let (meta, tenant) = (&self.parts.meta, principal.tenant);
        match query {
            VolumeQuery::Drives { filter, page } => {
                if let Some((volumes, total)) = meta.list(tenant, &filter, page).await? {
                    return Ok(Listing { volumes, rest: Vec::new(), page, total });
                }
                let (ids, total) = meta.list_ids(tenant, &filter, page).await?;
                self.begin_list(ids, page, total).await
            }
            VolumeQuery::Trees(filter) => self.list_trees(tenant, &filter).await,
            VolumeQuery::All(page) => {
                let (mut volumes, total) = meta.volumes_of(tenant, page).await?;
                for volume in &mut volumes {
                    self.parts.catalogue.place(volume, &principal.user);
                }
                Ok(Listing { volumes, rest: Vec::new(), page, total })
            }
        }
    }

    /// A list of these volumes, of which the first are held.
    pub(super) async fn begin_list(&self, mut ids: Vec<VolumeId>, page: Page, total: u64) -> Result<Listing, Fault> {
        let rest = ids.split_off(ids.len().min(LIST_PART));
        Ok(Listing { volumes: self.volumes(&ids).await?, rest, page, total })
    }

    /// What is still there of a list's next volumes, of which are no more than [`LIST_PART`].
    pub async fn volumes(&self, ids: &[VolumeId]) -> Result<Vec<Volume>, Fault> {
        Ok(self.parts.meta.volumes_by_id(ids).await?)
    }

    async fn create(self: &Arc<Self>, principal: &Principal, specs: Vec<VolumeSpec>) -> Result<Outcome, Fault> {
        let begun = specs.into_iter().map(|spec| self.begun(principal.tenant, spec));
        let volumes = begun.collect::<Result<Vec<Volume>, Fault>>()?;
        let control = self.clone();
        // To its end even when the caller goes: half of the drives would be left otherwise.
        let work = async move {
            control.insert_blank(&volumes).await?;
            control.fill_blank(volumes).await
        };
        let created = self.parts.tracker.spawn(work).await.unwrap_or_else(|crash| Err(Fault::internal(crash)));
        created.map(Outcome::Created)
    }

    /// A volume as it is before it is made: a tree without content is whole.
    fn begun(&self, tenant: TenantId, spec: VolumeSpec) -> Result<Volume, Fault> {
        let VolumeSpec { kind, name, size, media, meta, mut attributes, placement } = spec;
        let is_tree = kind == VolumeKind::Tree;
        if let Some(placement) = &placement {
            self.parts.catalogue.check(kind, placement)?;
            placement.put(&mut attributes);
        }
        let size = size.or(is_tree.then_some(self.parts.settings.trees.default_size));
        let size = size.ok_or_else(|| Fault::invalid("size", "a drive has a size"))?;
        if is_tree { self.check_tree_size(size) } else { self.volumes.check_size(size) }?;
        let now = self.parts.clock.now();
        if is_tree {
            // As the Docker API has it: who gives no name gets one that nobody else has.
            let name = if name.is_empty() { VolumeId::random().to_string() } else { name };
            let tree = Volume::tree(tenant, TreeSpec { name, size, labels: meta }, VolumeState::Available, now);
            return Ok(Volume { attributes, ..tree });
        }
        let drive = DriveSpec { name, size, media, meta, attributes };
        Ok(Volume::begun(tenant, drive, VolumeState::Creating, now))
    }

    /// Begins to make blank volumes: writes their rows.
    async fn insert_blank(&self, volumes: &[Volume]) -> Result<(), Fault> {
        let placed = volumes.iter().filter(|volume| Placement::of(&volume.attributes).is_some());
        // Looked at where the row is written, so that of two who come together one is refused.
        let vacant = placed.map(|volume| Vacancy { tenant: volume.tenant, name: volume.name.clone() }).collect();
        match self.parts.meta.apply(Batch { insert: volumes.to_vec(), vacant, ..Batch::default() }).await {
            Err(MetaError::Duplicate) => {
                let names: Vec<&str> = volumes.iter().map(|volume| &*volume.name).collect();
                let told = format!("a volume of the name {} exists already", names.join(" or "));
                return Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::NameTaken));
            }
            result => result?,
        };
        self.parts.crash.hit("create: rows");
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
        let reservation = self.parts.store.space().reserve(ByteCount::ZERO)?;
        let options = DraftOptions { expected: Some(ByteCount::ZERO), reservation, record: drive.into() };
        self.parts.store.draft(drive.image(), options).await?.publish(drive.size, Pieces::default()).await?;
        self.parts.crash.hit("create: published");
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
                drive.generation += 1;
                drive.updated = self.parts.clock.now();
            }
            let batch = Batch { update, ..Batch::default() };
            if let Some(complete) = unless_lost(self.parts.meta.apply(batch).await)? {
                return Ok(complete);
            }
            for drive in &mut drives {
                let id = drive.id;
                *drive = self.parts.meta.volume_any(id).await?.ok_or_else(|| no_such_drive(id))?;
            }
        }
    }

    async fn update(&self, principal: &Principal, id: VolumeId, patch: Patch) -> Result<Outcome, Fault> {
        self.volumes.find(principal.tenant, id).await?;
        let drive = self
            .volumes
            .change(id, |volume, batch| {
                if volume.tenant != principal.tenant {
                    return Err(no_such_drive(id));
                }
                let patch = patch.clone();
                volume.name = patch.name.unwrap_or_else(|| std::mem::take(&mut volume.name));
                volume.media = patch.media.unwrap_or(volume.media);
                volume.meta = patch.meta.unwrap_or_else(|| std::mem::take(&mut volume.meta));
                volume.attributes.extend(patch.attributes);
                match patch.size {
                    Some(size) if size != volume.size => self.start_resize(volume, size, batch),
                    _ => Ok(()),
                }
            })
            .await?;
        if drive.state == VolumeState::Resizing {
            self.bells.wake();
        }
        Ok(Outcome::Volume(Box::new(drive)))
    }

    /// Only growth: cutting a drive would lose bytes, and no guest's file system expects it.
    fn start_resize(&self, volume: &mut Volume, size: ByteCount, batch: &mut Batch) -> Result<(), Fault> {
        volume.step(VolumeEvent::ResizeStarted).map_err(busy)?;
        if size < volume.size {
            let told = format!("a drive can only grow; it has {} bytes", volume.size);
            return Err(Fault::invalid("size", told));
        }
        self.volumes.check_size(size)?;
        volume.charged = size;
        batch.enqueue.push(NewJob::new(JobKind::Resize { size }, volume.id, self.parts.clock.now()));
        Ok(())
    }

    fn check_tree_size(&self, size: ByteCount) -> Result<(), Fault> {
        let most = self.parts.settings.trees.max_size;
        if size == ByteCount::ZERO || size > most {
            let told = format!("a volume has from 1 to {} GB", most.get() >> 30);
            let reason = Reason::SizeOutside { least: ByteCount::ZERO, most };
            return Err(Fault::invalid("size", told).for_reason(reason));
        }
        Ok(())
    }

    async fn start_clone(&self, principal: &Principal, id: VolumeId, patch: Patch) -> Result<Outcome, Fault> {
        self.volumes.find(principal.tenant, id).await?;
        let target = VolumeId::random();
        self.volumes
            .begin_copy(principal.tenant, id, |source, batch| {
                let patch = patch.clone();
                let size = patch.size.unwrap_or(source.size);
                if size < source.size {
                    let told = format!("a clone is no smaller than its source, which has {} bytes", source.size);
                    return Err(Fault::invalid("size", told));
                }
                if size > source.size {
                    self.volumes.check_size(size)?;
                }
                let mut attributes = source.attributes.clone();
                attributes.extend(patch.attributes);
                let now = self.parts.clock.now();
                batch.insert.push(Volume {
                    id: target,
                    name: patch.name.unwrap_or_else(|| source.name.clone()),
                    media: patch.media.unwrap_or(source.media),
                    size,
                    charged: size,
                    state: VolumeState::CloningTarget,
                    // What is added has a part in the digest.
                    sha256: source.sha256.filter(|_| size == source.size),
                    generation: 0,
                    revision: 0,
                    created: now,
                    updated: now,
                    content: Some(ContentId::first_of(target)),
                    meta: patch.meta.unwrap_or_else(|| source.meta.clone()),
                    attributes,
                    ..source.clone()
                });
                let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
                batch.enqueue.push(NewJob::new(kind, target, now));
                Ok(())
            })
            .await?;
        self.bells.wake();
        Ok(Outcome::Volume(Box::new(self.volumes.find(principal.tenant, target).await?)))
    }

    async fn remove(
        self: &Arc<Self>,
        principal: &Principal,
        volumes: &[VolumeRef],
        ends_sessions: bool,
    ) -> Result<Outcome, Fault> {
        let (mut trees, mut ids) = (Vec::new(), Vec::new());
        for volume in volumes {
            match self.look_up(principal.tenant, volume).await? {
                tree if tree.is_tree() => trees.push(tree),
                drive => ids.push(drive.id),
            }
        }
        if !ids.is_empty() {
            self.delete_all(principal.tenant, ids).await?;
        }
        for tree in &trees {
            self.delete_tree(tree, ends_sessions).await?;
        }
        Ok(Outcome::Removed)
    }

    /// Removes drives and snapshots: all of them or, when one cannot be deleted, none.
    pub(super) async fn delete_all(self: &Arc<Self>, tenant: TenantId, mut ids: Vec<VolumeId>) -> Result<(), Fault> {
        ids.sort_unstable();
        ids.dedup();
        let mut race = Race::of("the drives are");
        loop {
            race.round()?;
            let mut update = Vec::with_capacity(ids.len());
            for id in &ids {
                let volume = self.parts.meta.volume(tenant, *id).await?;
                let mut volume = volume.ok_or_else(|| no_such_drive(*id))?;
                volume.step(VolumeEvent::DeleteStarted).map_err(busy)?;
                update.push(volume);
            }
            let batch = Batch { update, ..Batch::default() };
            if unless_lost(self.parts.meta.apply(batch).await)?.is_none() {
                continue;
            }
            self.parts.crash.hit("delete: rows");
            let control = self.clone();
            // To its end even when the caller goes; the rows say what is left to do after a crash.
            let work = async move {
                for id in ids {
                    control.parts.transfers.stop_volume(id, Stop::Deleted);
                    control.volumes.discard(id).await;
                }
            };
            let done = self.parts.tracker.spawn(work).await;
            return done.map_err(Fault::internal);
        }
    }
}
