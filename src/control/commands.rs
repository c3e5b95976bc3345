//! Commands on the caller's own volumes.

use std::sync::Arc;

use super::race::{Race, unless_lost};
use super::{Control, busy, no_such_drive};
use crate::domain::{
    ByteCount, CloneSpec, Command, ContentId, DriveFilter, DriveSpec, Fault, FaultKind, Limits, Listing, Outcome, Page,
    Patch, Pieces, Principal, Reason, TenantId, Volume, VolumeEvent, VolumeId, VolumeState,
};
use crate::meta::{Batch, JobKind, MetaError, NewJob, Vacancy};
use crate::store::DraftOptions;
use crate::transfer::Stop;

/// How many volumes of a list that is not told whole are held at once.
pub const PIECE: usize = 20;

impl Control {
    /// Executes one command for a caller.
    pub async fn execute(self: &Arc<Self>, principal: &Principal, command: Command) -> Result<Outcome, Fault> {
        match command {
            Command::List { filter, page } => self.list(principal, &filter, page).await,
            Command::Show(id) => Ok(Outcome::Drive(Box::new(self.volumes.find(principal.tenant, id).await?))),
            Command::Create(specs) => self.create(principal, specs).await,
            Command::Update { id, patch } => self.update(principal, id, patch).await,
            Command::Delete(ids) => self.delete(principal, ids).await,
            Command::Clone { id, spec } => self.start_clone(principal, id, spec).await,
            Command::OpenDownload(id) => self.open_ticket(principal, id).await,
            Command::Describe => Ok(Outcome::Described(self.limits())),
            Command::Tree(command) => self.execute_tree(principal, command).await,
            Command::Session(command) => self.execute_session(principal, command).await,
            Command::Block(command) => Box::pin(self.execute_block(principal, command)).await.map(Outcome::Block),
            Command::Hpc(command) => self.execute_hpc(principal, command).await.map(Outcome::Hpc),
            Command::In { tenant, command } => {
                if !principal.is_admin {
                    return Err(Fault::new(FaultKind::Forbidden, "only an administrator works in another tenant"));
                }
                let within = Principal { tenant, ..principal.clone() };
                Box::pin(self.execute(&within, *command)).await
            }
        }
    }

    async fn list(&self, principal: &Principal, filter: &DriveFilter, page: Page) -> Result<Outcome, Fault> {
        let meta = &self.parts.meta;
        if let Some((drives, total)) = meta.list(principal.tenant, filter, page).await? {
            return Ok(Outcome::Listing(Listing { drives, rest: Vec::new(), page, total }));
        }
        let (ids, total) = meta.list_ids(principal.tenant, filter, page).await?;
        self.begin_list(ids, page, total).await.map(Outcome::Listing)
    }

    /// A list of these volumes, of which the first are held.
    pub(super) async fn begin_list(&self, mut ids: Vec<VolumeId>, page: Page, total: u64) -> Result<Listing, Fault> {
        let rest = ids.split_off(ids.len().min(PIECE));
        Ok(Listing { drives: self.volumes(&ids).await?, rest, page, total })
    }

    /// What is still there of a list's next volumes, of which are no more than [`PIECE`].
    pub async fn volumes(&self, ids: &[VolumeId]) -> Result<Vec<Volume>, Fault> {
        Ok(self.parts.meta.volumes_by_id(ids).await?)
    }

    async fn create(self: &Arc<Self>, principal: &Principal, specs: Vec<DriveSpec>) -> Result<Outcome, Fault> {
        for spec in &specs {
            self.check_size(spec.size)?;
        }
        let now = self.parts.clock.now();
        let drives: Vec<Volume> =
            specs.into_iter().map(|spec| Volume::begun(principal.tenant, spec, VolumeState::Creating, now)).collect();
        let control = self.clone();
        // To its end even when the caller goes: half of the drives would be left otherwise.
        let work = async move {
            control.insert_blank(&drives, None).await?;
            control.fill_blank(drives).await
        };
        let created = self.parts.tracker.spawn(work).await.unwrap_or_else(|crash| Err(Fault::internal(crash)));
        created.map(Outcome::Created)
    }

    /// Begins to make blank drives: writes their rows.
    pub(super) async fn insert_blank(&self, drives: &[Volume], vacant: Option<Vacancy>) -> Result<(), MetaError> {
        self.parts.meta.apply(Batch { insert: drives.to_vec(), vacant, ..Batch::default() }).await?;
        self.parts.crash.hit("create: rows");
        Ok(())
    }

    /// Makes the blank drives of these rows: all of them, or none and their rows go. To be run to its end.
    pub(super) async fn fill_blank(&self, drives: Vec<Volume>) -> Result<Vec<Volume>, Fault> {
        let ids: Vec<VolumeId> = drives.iter().map(|drive| drive.id).collect();
        let made = async {
            for drive in &drives {
                self.publish_blank(drive).await?;
            }
            self.complete(drives).await
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
            for drive in &mut update {
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
            self.wake_jobs.notify_waiters();
            return Ok(Outcome::Started(Box::new(drive)));
        }
        Ok(Outcome::Drive(Box::new(drive)))
    }

    /// Only growth: cutting a drive would lose bytes, and no guest's file system expects it.
    fn start_resize(&self, volume: &mut Volume, size: ByteCount, batch: &mut Batch) -> Result<(), Fault> {
        volume.step(VolumeEvent::ResizeStarted).map_err(busy)?;
        if size < volume.size {
            let told = format!("a drive can only grow; it has {} bytes", volume.size);
            return Err(Fault::invalid("size", told));
        }
        self.check_size(size)?;
        volume.charged = size;
        batch.enqueue.push(NewJob::new(JobKind::Resize { size }, volume.id, self.parts.clock.now()));
        Ok(())
    }

    pub(super) fn check_size(&self, size: ByteCount) -> Result<(), Fault> {
        let Limits { min_drive: least, max_drive: most } = self.limits();
        if size < least || size > most {
            let told = format!("must be from {least} to {most} bytes");
            return Err(Fault::invalid("size", told).for_reason(Reason::SizeOutside { least, most }));
        }
        Ok(())
    }

    async fn start_clone(&self, principal: &Principal, id: VolumeId, spec: CloneSpec) -> Result<Outcome, Fault> {
        self.volumes.find(principal.tenant, id).await?;
        let target = VolumeId::random();
        self.volumes
            .begin_copy(principal.tenant, id, |source, batch| {
                let spec = spec.clone();
                let size = spec.size.unwrap_or(source.size);
                if size < source.size {
                    let told = format!("a clone is no smaller than its source, which has {} bytes", source.size);
                    return Err(Fault::invalid("size", told));
                }
                if size > source.size {
                    self.check_size(size)?;
                }
                let mut attributes = source.attributes.clone();
                attributes.extend(spec.attributes);
                let now = self.parts.clock.now();
                batch.insert.push(Volume {
                    id: target,
                    name: spec.name.unwrap_or_else(|| source.name.clone()),
                    media: spec.media.unwrap_or(source.media),
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
                    meta: spec.meta.unwrap_or_else(|| source.meta.clone()),
                    attributes,
                    ..source.clone()
                });
                let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
                batch.enqueue.push(NewJob::new(kind, target, now));
                Ok(())
            })
            .await?;
        self.wake_jobs.notify_waiters();
        Ok(Outcome::Started(Box::new(self.volumes.find(principal.tenant, target).await?)))
    }

    pub(super) async fn delete(self: &Arc<Self>, principal: &Principal, ids: Vec<VolumeId>) -> Result<Outcome, Fault> {
        for id in &ids {
            self.volumes.find(principal.tenant, *id).await?;
        }
        self.delete_all(principal.tenant, ids).await
    }

    /// Removes drives and snapshots: all of them or, when one cannot be deleted, none.
    pub(super) async fn delete_all(
        self: &Arc<Self>,
        tenant: TenantId,
        mut ids: Vec<VolumeId>,
    ) -> Result<Outcome, Fault> {
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
            return done.map(|()| Outcome::Deleted).map_err(Fault::internal);
        }
    }
}
