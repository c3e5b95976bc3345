//! Backups: copies of drives in the object storage, and their way back.
//!
//! # Invariants
//! - A backup is of one content, and a backup that cannot be verified to its last byte never becomes the content of a
//!   drive: a restore makes a content of its own, which takes the place of the other in the transaction that ends it.
//!
//! # Crash
//! Writing and restoring are jobs: they begin again after a restart, and a write goes on at the first object that is
//! missing. A removal is gone on with at the next start.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::owner_of;
use crate::archive::{Archive, ArchiveError, BackupHead, BackupSink, BackupSource, CHUNK_SIZE, Container};
use crate::control::bells::{ATTEMPTS, Bells};
use crate::control::race::{Race, unless_lost};
use crate::control::supervise::caught;
use crate::control::volumes::Volumes;
use crate::control::{Parts, busy, no_such_drive};
use crate::domain::{
    Algorithms, Backup, BackupId, BackupRef, BackupState, BlockFields, BlockOutcome, BlockQuery, BlockVolume,
    ByteCount, ContentId, Digests, Extent, Fault, FaultKind, NewBackup, Principal, Reason, UnixTime, Volume,
    VolumeEvent, VolumeId, VolumeKind, VolumeState,
};
use crate::io::{Block, Pool, SharedBlock};
use crate::meta::{Batch, Job, JobKind, MetaError, NewJob, Owner};
use crate::store::{CheckedImage, DraftOptions, Ledger, Reservation, StoreError};
use crate::transfer::{DraftWriter, Progress, ReceiveError, WriteOptions};

/// Backups, in the storage of them.
pub(in crate::control) struct Backups {
    volumes: Arc<Volumes>,
    archive: Archive,
    /// The account of the file system that they are on, where they are in a directory.
    space: Option<Arc<Ledger>>,
    /// The memory that pieces are read into.
    pool: Pool,
    /// Where those lie for which no container is asked.
    container: Container,
    /// The zone of volumes that have none of their own.
    zone: Option<String>,
    bells: Bells,
}

impl Backups {
    /// Over these parts.
    pub(in crate::control) fn new(parts: &Parts, volumes: Arc<Volumes>, bells: Bells) -> Arc<Self> {
        Arc::new(Self {
            volumes,
            archive: parts.archive.clone(),
            space: parts.archive_space.clone(),
            pool: parts.pool.clone(),
            container: parts.block.container.clone(),
            zone: parts.block.zones.first().cloned(),
            bells,
        })
    }

    pub(super) async fn list(&self, principal: &Principal, query: &BlockQuery) -> Result<BlockOutcome, Fault> {
        match self.volumes.meta.backups(owner_of(principal, query), query).await {
            Ok(page) => Ok(BlockOutcome::Backups(page)),
            Err(MetaError::NotFound) => Err(Fault::invalid("marker", "the marker is nothing of this list")),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn find(&self, principal: &Principal, backup: BackupRef) -> Result<Backup, Fault> {
        let there = self.volumes.meta.backup(Owner::Tenant(principal.tenant), backup).await?;
        there.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such backup").for_reason(Reason::NoSuchBackup))
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        principal: &Principal,
        wish: NewBackup,
    ) -> Result<BlockOutcome, Fault> {
        let container = match &wish.container {
            Some(name) => container_named(name)?,
            None => self.container.clone(),
        };
        let drive = self.volumes.find(principal.tenant, wish.volume).await?;
        if matches!(drive.state, VolumeState::InUse) && !wish.force && wish.snapshot.is_none() {
            let told = "the volume is attached; a backup of it takes force";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        // What is read: the drive, or the state of it that a snapshot kept.
        let from = match wish.snapshot {
            None => drive,
            Some(snapshot) => {
                let snapshot = self.volumes.find_snapshot(principal.tenant, snapshot).await?;
                if snapshot.source != Some(drive.id.to_string()) {
                    return Err(Fault::invalid("snapshot", "the snapshot is of another volume"));
                }
                snapshot
            }
        };
        let now = self.volumes.clock.now();
        let backup = Backup {
            id: BackupId::random(),
            number: 0,
            tenant: principal.tenant,
            volume: wish.volume,
            snapshot: wish.snapshot,
            name: wish.name,
            description: wish.description,
            container: Some(container.as_str().to_owned()),
            zone: self.zone_of(&from),
            size: from.size,
            objects: None,
            state: BackupState::Creating,
            reason: None,
            origin: None,
            created: now,
            updated: now,
        };
        let plan = |volume: &Volume, batch: &mut Batch| {
            batch.insert_backups.push(Backup { size: volume.size, ..backup.clone() });
            let kind = JobKind::Backup { backup: backup.id, content: volume.image() };
            batch.enqueue.push(NewJob::new(kind, volume.id, now));
            Ok(())
        };
        self.volumes.begin_copy(from.tenant, from.id, plan).await?;
        self.bells.wake();
        let made = self.find(principal, BackupRef::Id(backup.id)).await?;
        Ok(BlockOutcome::Backup(Box::new(made)))
    }

    /// The zone that a volume is shown in.
    fn zone_of(&self, volume: &Volume) -> Option<String> {
        BlockFields::of(volume).zone.or_else(|| self.zone.clone())
    }

    pub(super) async fn delete(
        self: &Arc<Self>,
        principal: &Principal,
        backup: BackupRef,
    ) -> Result<BlockOutcome, Fault> {
        let backup = self.find(principal, backup).await?;
        if !matches!(backup.state, BackupState::Available | BackupState::Error) {
            let told = "the backup is neither whole nor failed";
            return Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::BackupNotAtRest));
        }
        let doomed = Backup { state: BackupState::Deleting, updated: self.volumes.clock.now(), ..backup.clone() };
        self.change(doomed.clone(), backup.state).await?;
        self.remove_soon(doomed);
        Ok(BlockOutcome::Done)
    }

    /// Puts a backup into a state by hand. What is being worked on stays so.
    pub(super) async fn reset(
        &self,
        principal: &Principal,
        backup: BackupRef,
        is_available: bool,
    ) -> Result<BlockOutcome, Fault> {
        let backup = self.find(principal, backup).await?;
        if !matches!(backup.state, BackupState::Available | BackupState::Error) {
            let told = "the backup is being worked on";
            return Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::BackupNotAtRest));
        }
        if is_available && backup.objects.is_none() {
            let told = "the backup was never whole, and can only be deleted";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let (state, reason) = if is_available {
            (BackupState::Available, None)
        } else {
            (BackupState::Error, Some("an administrator has said so".to_owned()))
        };
        let (id, from) = (backup.id, backup.state);
        self.change(Backup { state, reason, updated: self.volumes.clock.now(), ..backup }, from).await?;
        tracing::warn!(backup = %id, ?state, "an administrator has set the state of a backup");
        Ok(BlockOutcome::Done)
    }

    /// Goes on with the removals that an earlier process had begun.
    pub(in crate::control) async fn recover(self: &Arc<Self>) -> Result<(), Fault> {
        for backup in self.volumes.meta.backups_in(BackupState::Deleting).await? {
            self.remove_soon(backup);
        }
        Ok(())
    }

    fn remove_soon(self: &Arc<Self>, backup: Backup) {
        let backups = self.clone();
        self.volumes.tracker.spawn(async move {
            let removed = async {
                backups.archive.delete(&backups.head_of(&backup)?).await?;
                backups.volumes.crash.hit("backup: removed");
                let batch = Batch { remove_backups: vec![backup.id], ..Batch::default() };
                backups.volumes.meta.apply(batch).await?;
                Ok::<(), Fault>(())
            };
            let Err(fault) = caught(removed).await else { return };
            tracing::error!(backup = %backup.id, fault = %fault, cause = ?fault.cause, "a backup was not removed");
            let failed = Backup { state: BackupState::Error, reason: Some(fault.told), ..backup };
            if let Err(fault) = backups.change(failed, BackupState::Deleting).await {
                tracing::error!(cause = ?fault.cause, "the failed removal of a backup is not noted");
            }
        });
    }

    async fn change(&self, backup: Backup, from: BackupState) -> Result<(), Fault> {
        let batch = Batch { update_backups: vec![(backup, from)], ..Batch::default() };
        self.volumes.meta.apply(batch).await.map(drop).map_err(Fault::from)
    }

    pub(super) async fn restore(
        self: &Arc<Self>,
        principal: &Principal,
        backup: BackupRef,
        volume: Option<VolumeId>,
        name: Option<String>,
    ) -> Result<BlockOutcome, Fault> {
        let backup = self.find(principal, backup).await?;
        if backup.state != BackupState::Available {
            return Err(Fault::new(FaultKind::Conflict, "the backup is not whole").for_reason(Reason::BackupNotWhole));
        }
        let now = self.volumes.clock.now();
        let restoring = Backup { state: BackupState::Restoring, updated: now, ..backup.clone() };
        let update_backups = vec![(restoring.clone(), BackupState::Available)];
        let kind = JobKind::Restore { backup: backup.id, content: ContentId::random() };
        let volume = if let Some(id) = volume {
            let drive = self.volumes.find(principal.tenant, id).await?;
            if drive.size < backup.size {
                let told = format!("the volume is smaller than the backup, which is of {} bytes", backup.size);
                return Err(Fault::invalid("volume", told));
            }
            self.volumes
                .change(id, |volume, batch| {
                    volume.step(VolumeEvent::RestoreStarted).map_err(busy)?;
                    batch.update_backups.clone_from(&update_backups);
                    batch.enqueue.push(NewJob::new(kind, id, now));
                    Ok(())
                })
                .await?
        } else {
            self.volumes.check_size(backup.size)?;
            let kept = self.volumes.meta.kept_of(backup.id).await?;
            let volume = restored(principal, &backup, kept, name, now);
            let enqueue = vec![NewJob::new(kind, volume.id, now)];
            let insert = vec![volume.clone()];
            self.volumes.meta.apply(Batch { insert, update_backups, enqueue, ..Batch::default() }).await?;
            volume
        };
        self.bells.wake();
        let volume = BlockVolume::from(volume);
        Ok(BlockOutcome::Restoring { backup: Box::new(restoring), volume: Box::new(volume) })
    }

    pub(in crate::control) async fn run_backup(
        &self,
        job: &Job,
        id: BackupId,
        content: ContentId,
    ) -> Result<(), Fault> {
        let ended = match self.write(id, content).await {
            Err(Unwritten { fault, damage: None }) if is_transient(&fault) && job.attempts() < ATTEMPTS => {
                return Err(fault);
            }
            Err(unwritten) => {
                self.drop_objects(id).await;
                Err(unwritten)
            }
            Ok(objects) => Ok(objects),
        };
        self.volumes.crash.hit("backup: written");
        let (objects, why, damage) = match &ended {
            Ok(objects) => (Some(*objects), None, None),
            Err(unwritten) => (None, Some(unwritten.fault.told.clone()), unwritten.damage),
        };
        if let Some(damage) = damage {
            self.volumes.mark_read(job.volume, content, damage).await?;
        }
        self.end_job(job, id, BackupState::Creating, |backup, _| {
            if let Some(backup) = backup {
                backup.state = if why.is_none() { BackupState::Available } else { BackupState::Error };
                backup.objects = objects;
                backup.reason.clone_from(&why);
            }
            Ok(Ending::default())
        })
        .await?;
        // It may have been deleted meanwhile, and its record have waited for this.
        let volume = self.volumes.meta.volume_any(job.volume).await?;
        if volume.is_some_and(|volume| volume.state == VolumeState::Deleting) {
            self.volumes.discard(job.volume).await;
        }
        self.volumes.remove_dropped().await;
        if let Err(Unwritten { fault, .. }) = ended {
            tracing::error!(backup = %id, fault = %fault, cause = ?fault.cause, "a backup failed");
        }
        Ok(())
    }

    async fn write(&self, id: BackupId, content: ContentId) -> Result<u64, Unwritten> {
        let backup = self.volumes.meta.backup(Owner::Anyone, BackupRef::Id(id)).await?;
        let backup = backup.ok_or_else(|| Fault::new(FaultKind::NotFound, "the backup is gone"))?;
        let image = self.volumes.open_content(content, backup.size).await?;
        let image = CheckedImage::new(image, content, backup.size).await?;
        let failed = |image: &CheckedImage, fault: Fault| match image.damage() {
            Some(why) => StoreError::Damaged(content, why).into(),
            None => Unwritten::from(fault),
        };
        let space = match self.space_for(&image, &backup).await {
            Ok(space) => space,
            Err(fault) => return Err(failed(&image, fault)),
        };
        let source = Reading { image, space, taken: std::sync::Mutex::default() };
        let head = self.head_of(&backup)?;
        let written = self.archive.write(&head, &source, |_| {}).await;
        if matches!(written, Err(ArchiveError::Full(_))) {
            // Before the database is asked, which on a full disk may be waiting for just this space.
            let _ = self.archive.delete(&head).await;
        }
        written.map(|written| written.objects).map_err(|error| failed(&source.image, error.into()))
    }

    /// Sets the space aside that a backup may take, where it takes some of a file system.
    async fn space_for(&self, image: &CheckedImage, backup: &Backup) -> Result<Option<Reservation>, Fault> {
        let Some(ledger) = &self.space else { return Ok(None) };
        let (mut data, mut offset) = (0, 0);
        while offset < backup.size.get() {
            let len = (backup.size.get() - offset).min(CHUNK_SIZE);
            data += total(&image.data(Extent { offset, len }).await.map_err(StoreError::from)?);
            offset += len;
        }
        Ok(Some(ledger.reserve_for(backup.tenant, ByteCount::new(data).unwrap_or(ByteCount::MAX))?))
    }

    /// Removes what a backup that failed has left.
    async fn drop_objects(&self, id: BackupId) {
        let dropped = async {
            let there = self.volumes.meta.backup(Owner::Anyone, BackupRef::Id(id)).await?;
            if let Some(backup) = there {
                self.archive.delete(&self.head_of(&backup)?).await?;
            }
            Ok::<(), Fault>(())
        };
        if let Err(fault) = dropped.await {
            tracing::error!(backup = %id, cause = ?fault.cause, "what a failed backup has left goes when it is deleted");
        }
    }

    pub(in crate::control) async fn run_restore(
        &self,
        job: &Job,
        id: BackupId,
        content: ContentId,
    ) -> Result<(), Fault> {
        let written = self.write_back(job, id, content).await;
        if written.is_err()
            && let Err(error) = self.volumes.store.remove(content).await
        {
            tracing::error!(volume = %job.volume, cause = ?error, "what a failed restore has made goes later");
        }
        let ended = match written {
            Err(fault) if is_transient(&fault) && job.attempts() < ATTEMPTS => return Err(fault),
            ended => ended,
        };
        self.volumes.crash.hit("restore: published");
        self.end_job(job, id, BackupState::Restoring, |backup, volume| {
            if let Some(backup) = backup {
                backup.state = BackupState::Available;
            }
            let (event, drop) = match &ended {
                Ok(()) => {
                    let old = volume.image();
                    volume.content = Some(content);
                    volume.renew(Digests::NONE);
                    volume.reason = None;
                    (VolumeEvent::RestoreEnded, old)
                }
                Err(fault) => {
                    volume.reason = Some(fault.told.clone());
                    (VolumeEvent::RestoreFailed, content)
                }
            };
            volume.step(event).map_err(busy)?;
            Ok(Ending { changes: true, drop: Some(drop) })
        })
        .await?;
        self.volumes.crash.hit("restore: committed");
        self.volumes.remove_dropped().await;
        if let Err(fault) = ended {
            tracing::error!(backup = %id, volume = %job.volume, fault = %fault, cause = ?fault.cause, "a restore failed");
        }
        Ok(())
    }

    async fn write_back(&self, job: &Job, id: BackupId, content: ContentId) -> Result<(), Fault> {
        if job.attempts() > 1 {
            // An earlier attempt may have come to its end before its process did.
            self.volumes.store.remove(content).await?;
        }
        let backup = self.volumes.meta.backup(Owner::Anyone, BackupRef::Id(id)).await?;
        let backup = backup.ok_or_else(|| Fault::new(FaultKind::NotFound, "the backup is gone"))?;
        let volume = self.volumes.meta.volume_any(job.volume).await?.ok_or_else(|| no_such_drive(job.volume))?;
        let head = self.head_of(&backup)?;
        // The pieces that are not zero, and no more than there is.
        let objects = self.archive.head(&head).await?.written().objects;
        let most = objects.saturating_mul(CHUNK_SIZE).min(backup.size.get());
        let most = ByteCount::new(most).unwrap_or(ByteCount::MAX);
        let reservation = self.volumes.store.space().reserve_for(volume.tenant, most)?;
        let options =
            DraftOptions { expected: Some(backup.size), reservation, record: (&volume).into(), is_kept: false };
        let draft = self.volumes.store.draft(content, options).await?;
        let progress = Arc::new(Progress::fetching(volume.id));
        let writer = DraftWriter::new(draft.clone(), self.pool.clone(), IN_TURNS, progress);
        let mut sink = Writing(writer);
        let restored = self.archive.restore(&head, &mut sink, |_| {}).await;
        let written = sink.0.finish().await;
        restored?;
        let pieces = written?.map.finish(backup.size).map_err(Fault::internal)?;
        draft.publish(volume.size, pieces).await?;
        Ok(())
    }

    /// Ends a job together with the changes of its backup and its volume, as far as they are there. `change` makes
    /// them.
    async fn end_job(
        &self,
        job: &Job,
        id: BackupId,
        from: BackupState,
        change: impl Fn(Option<&mut Backup>, &mut Volume) -> Result<Ending, Fault>,
    ) -> Result<(), Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let mut backup = self.volumes.meta.backup(Owner::Anyone, BackupRef::Id(id)).await?;
            backup = backup.filter(|backup| backup.state == from);
            let mut batch = Batch { finish: Some(job.lease.clone()), ..Batch::default() };
            if let Some(mut volume) = self.volumes.meta.volume_any(job.volume).await? {
                let Ending { changes, drop } = change(backup.as_mut(), &mut volume)?;
                batch.drop.extend(drop);
                if changes {
                    volume.updated = self.volumes.clock.now();
                    batch.update.push(volume);
                }
            }
            if let Some(mut backup) = backup {
                backup.updated = self.volumes.clock.now();
                batch.update_backups.push((backup, from));
            }
            if unless_lost(self.volumes.meta.apply(batch).await)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Where a backup lies.
    fn head_of(&self, backup: &Backup) -> Result<BackupHead, Fault> {
        let container = match &backup.container {
            Some(name) => container_named(name)?,
            None => self.container.clone(),
        };
        let zone = backup.zone.clone().unwrap_or_default();
        let head = BackupHead::of(backup, container, zone);
        Ok(match backup.origin {
            Some((number, tenant)) => BackupHead { number, tenant, ..head },
            None => head,
        })
    }
}

/// What the end of a job makes of its volume.
#[derive(Default)]
struct Ending {
    /// Whether its record changes.
    changes: bool,
    /// The content that nobody has any more.
    drop: Option<ContentId>,
}

/// The drive that a backup is restored to, where none is named.
fn restored(
    principal: &Principal,
    backup: &Backup,
    (meta, kept): (Map<String, Value>, BlockFields),
    name: Option<String>,
    now: UnixTime,
) -> Volume {
    let fields = BlockFields {
        description: backup.description.clone(),
        zone: backup.zone.clone(),
        user: Some(principal.user_id.plain()),
        volume_type: kept.volume_type,
        image: kept.image,
        bootable: kept.bootable,
        ..BlockFields::default()
    };
    let name = name.unwrap_or_else(|| format!("restore_backup_{}", backup.id));
    let (kind, state) = (VolumeKind::Drive, VolumeState::Restoring);
    let mut volume = Volume::begun(principal.tenant, kind, name, backup.size, state, now);
    fields.put(&mut volume.attributes);
    volume.meta = meta;
    volume
}

fn container_named(name: &str) -> Result<Container, Fault> {
    name.parse().map_err(|error| Fault::invalid("container", format!("{error}")))
}

/// Whether another attempt may succeed.
fn is_transient(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Unavailable | FaultKind::Internal)
}

/// The bytes of these extents together.
fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

/// Why a backup was not written.
struct Unwritten {
    fault: Fault,
    /// What is wrong with the volume, if that is why.
    damage: Option<&'static str>,
}

impl From<Fault> for Unwritten {
    fn from(fault: Fault) -> Self {
        Self { fault, damage: None }
    }
}

impl From<MetaError> for Unwritten {
    fn from(error: MetaError) -> Self {
        Fault::from(error).into()
    }
}

impl From<StoreError> for Unwritten {
    fn from(error: StoreError) -> Self {
        let damage = match error {
            StoreError::Damaged(_, why) => Some(why),
            _ => None,
        };
        let fault = match damage {
            Some(why) => Fault::new(FaultKind::Corrupt, format!("the volume is damaged: {why}")),
            None => error.into(),
        };
        Self { fault, damage }
    }
}

/// A volume as the archive reads it. What a backup vouches for must be what was stored.
struct Reading {
    image: CheckedImage,
    space: Option<Reservation>,
    /// Of the last two pieces, what was set aside for them: while one is read, the one before is being stored.
    taken: std::sync::Mutex<[u64; 2]>,
}

impl Reading {
    /// What was set aside for the pieces before the last is on the disk now.
    fn begin_piece(&self, data: u64) {
        let Some(space) = &self.space else { return };
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let [before, stored] = *taken;
        space.settle(ByteCount::new(stored).unwrap_or_default());
        *taken = [data, before];
    }
}

impl BackupSource for Reading {
    fn size(&self) -> ByteCount {
        self.image.size()
    }

    async fn data(&self, within: Extent) -> std::io::Result<Vec<Extent>> {
        let data = self.image.data(within).await?;
        self.begin_piece(total(&data));
        Ok(data)
    }

    async fn read_at(&self, block: Block, len: usize, offset: u64) -> (Block, std::io::Result<()>) {
        self.image.read_at(block, len, offset).await
    }
}

/// One write is under way while the next block is decompressed.
const IN_TURNS: WriteOptions = WriteOptions { depth: 2, digests: Algorithms::NONE };

/// A draft as the archive writes it.
struct Writing(DraftWriter);

impl BackupSink for Writing {
    async fn write(&mut self, offset: u64, block: SharedBlock, len: usize) -> std::io::Result<()> {
        self.0.write(offset, block, len).await.map_err(unwritten)
    }

    async fn zeros(&mut self, extent: Extent) -> std::io::Result<()> {
        self.0.skip(extent.offset, extent.len).map_err(unwritten)
    }
}

fn unwritten(error: ReceiveError) -> std::io::Error {
    match error {
        ReceiveError::Write(error) => error,
        error => std::io::Error::other(error),
    }
}
