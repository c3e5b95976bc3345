//! Volumes as everybody here works with them: their records, and what is stored of each.

mod contents;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::race::{Race, unless_lost};
use super::{Parts, busy, no_such_drive, no_such_tree};
use crate::domain::{
    ByteCount, Clock, CrashPoints, Fault, FaultKind, Limits, Outcome, Reason, Seen, TenantId, Volume, VolumeEvent,
    VolumeId, VolumeKind, VolumeRef, VolumeState,
};
use crate::meta::{Batch, Meta};
use crate::metrics::Metrics;
use crate::store::{BlockStore, Image, StoreError, TreeStore};

/// Why a drive is unavailable whose record tells another size than its file has.
pub(super) const WRONG_SIZE: &str = "its image has not the size of the drive";
/// Why a drive is unavailable whose file is not there.
pub(super) const MISSING: &str = "its image is missing";

/// The records of volumes, and their bytes.
pub(super) struct Volumes {
    pub(super) meta: Meta,
    pub(super) store: Arc<dyn BlockStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tracker: TaskTracker,
    pub(super) crash: CrashPoints,
    trees: Arc<dyn TreeStore>,
    metrics: Arc<Metrics>,
    /// Sizes that are taken.
    limits: Limits,
    /// What could not be removed when it should have been; the sweeper tries again.
    leftovers: Mutex<Vec<VolumeId>>,
    /// Whether there are removed trees that are still to be unlinked.
    has_trash: AtomicBool,
}

impl Volumes {
    /// Over these parts.
    pub(super) fn new(parts: &Parts) -> Arc<Self> {
        Arc::new(Self {
            meta: parts.meta.clone(),
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            tracker: parts.tracker.clone(),
            crash: parts.crash.clone(),
            trees: parts.trees.clone(),
            metrics: parts.metrics.clone(),
            limits: parts.settings.limits,
            leftovers: Mutex::default(),
            // What a process before has left there.
            has_trash: AtomicBool::new(true),
        })
    }

    /// The caller's volume that is meant, or a fault that does not tell a foreign one from none.
    pub(super) async fn look_up(&self, tenant: TenantId, volume: &VolumeRef) -> Result<Volume, Fault> {
        match volume {
            VolumeRef::Drive(id) => self.find(tenant, *id).await,
            VolumeRef::Snapshot(id) => self.find_snapshot(tenant, *id).await,
            VolumeRef::Tree(name) => self.find_tree(tenant, name).await,
            VolumeRef::Any(id) => {
                // A snapshot is none of the volumes that are listed.
                let there = self.meta.volume(tenant, *id).await?;
                there.filter(|volume| volume.kind != VolumeKind::Snapshot).ok_or_else(|| no_such_drive(*id))
            }
        }
    }

    /// The caller's drive, or a fault that does not tell a foreign drive from none.
    pub(super) async fn find(&self, tenant: TenantId, id: VolumeId) -> Result<Volume, Fault> {
        let drive = self.meta.volume(tenant, id).await?.filter(|volume| volume.kind == VolumeKind::Drive);
        drive.ok_or_else(|| no_such_drive(id))
    }

    /// The caller's tree.
    pub(super) async fn find_tree(&self, tenant: TenantId, name: &str) -> Result<Volume, Fault> {
        self.meta.tree(tenant, name).await?.ok_or_else(|| no_such_tree(name))
    }

    /// The caller's snapshot.
    pub(super) async fn find_snapshot(&self, tenant: TenantId, id: VolumeId) -> Result<Volume, Fault> {
        let there = self.meta.volume(tenant, id).await?.filter(|volume| volume.kind == VolumeKind::Snapshot);
        there.ok_or_else(|| {
            let told = format!("there is no snapshot {id}");
            Fault::new(FaultKind::NotFound, told).for_reason(Reason::NoSuchSnapshot(id))
        })
    }

    /// A volume as it is told: with where it is attached.
    pub(super) async fn told(&self, volume: Volume) -> Result<Outcome, Fault> {
        let mut told = self.meta.with_attachments(vec![Seen::new(volume)]).await?;
        let told = told.pop().ok_or_else(|| Fault::internal("one volume gave none"))?;
        Ok(Outcome::Volume(Box::new(told)))
    }

    /// Fails unless a drive may have this size.
    pub(super) fn check_size(&self, size: ByteCount) -> Result<(), Fault> {
        let Limits { min_drive: least, max_drive: most } = self.limits;
        if size < least || size > most {
            let told = format!("must be from {least} to {most} bytes");
            return Err(Fault::invalid("size", told).for_reason(Reason::SizeOutside { least, most }));
        }
        Ok(())
    }

    /// Changes one volume by compare-and-set, reading it anew when another writer came first.
    ///
    /// `plan` sees the volume as it is, changes it, and may add to the batch that writes it; it runs again after a
    /// lost race.
    pub(super) async fn change(
        &self,
        id: VolumeId,
        plan: impl FnMut(&mut Volume, &mut Batch) -> Result<(), Fault> + Send,
    ) -> Result<Volume, Fault> {
        self.change_known(id, None, plan).await
    }

    /// As [`Volumes::change`], without reading the volume first when it is known: if that is not its latest revision,
    /// it is read like after any lost race.
    pub(super) async fn change_known(
        &self,
        id: VolumeId,
        mut known: Option<Volume>,
        mut plan: impl FnMut(&mut Volume, &mut Batch) -> Result<(), Fault> + Send,
    ) -> Result<Volume, Fault> {
        let mut race = Race::of("the drive is");
        loop {
            race.round()?;
            let volume = match known.take() {
                None => self.meta.volume_any(id).await?,
                known => known,
            };
            let Some(mut volume) = volume else { return Err(no_such_drive(id)) };
            if volume.state == VolumeState::Deleting {
                return Err(no_such_drive(id));
            }
            let mut batch = Batch::default();
            plan(&mut volume, &mut batch)?;
            volume.updated = self.clock.now();
            batch.update.push(volume);
            if let Some(mut updated) = unless_lost(self.meta.apply(batch).await)? {
                return updated.pop().ok_or_else(|| no_such_drive(id));
            }
        }
    }

    /// Opens the image of a drive; damaged when it is not there or has another size than the record says.
    pub(super) async fn open_as_recorded(&self, volume: &Volume) -> Result<Arc<dyn Image>, StoreError> {
        match self.store.open(volume.image()).await {
            Ok(image) if image.size() == volume.size => Ok(image),
            Ok(_) => Err(StoreError::Damaged(volume.image(), WRONG_SIZE)),
            Err(StoreError::Missing(id)) => Err(StoreError::Damaged(id, MISSING)),
            Err(error) => Err(error),
        }
    }

    /// Makes a volume unavailable whose bytes, as of this record, cannot be trusted; the volume as it is then. One that
    /// was changed meanwhile stays as it is, since what was found is not true of its new content.
    pub(super) async fn mark_spoiled(&self, volume: &Volume, why: &str) -> Result<Volume, Fault> {
        let mut is_marked = false;
        let now = self
            .change(volume.id, |now, _| {
                is_marked = now.generation == volume.generation && now.state.is_readable();
                if is_marked {
                    now.step(VolumeEvent::Spoiled).map_err(busy)?;
                    now.reason = Some(why.to_owned());
                }
                Ok(())
            })
            .await?;
        if is_marked && volume.is_tree() {
            tracing::error!(volume = %volume.id, why, "a tree is damaged on disk; it is not served any more");
            self.metrics.corrupt_trees.inc();
        } else if is_marked {
            self.tell_spoiled(volume.id, why);
        }
        Ok(now)
    }

    /// Counts and logs a drive that was made unavailable.
    pub(super) fn tell_spoiled(&self, id: VolumeId, why: &str) {
        tracing::error!(drive = %id, why, "a drive is damaged on disk; it is not served any more");
        self.metrics.corrupt.inc();
    }
}

pub(super) fn check_readable(volume: &Volume) -> Result<(), Fault> {
    let thing = if volume.is_tree() { "volume" } else { "drive" };
    match volume.state {
        state if state.is_readable() => Ok(()),
        VolumeState::Unavailable => {
            let why = volume.reason.as_deref().unwrap_or("its bytes cannot be trusted");
            Err(Fault::new(FaultKind::Corrupt, format!("the {thing} is unavailable: {why}")))
        }
        _ => Err(Fault::new(FaultKind::Conflict, format!("the {thing} is not ready to be read"))),
    }
}

pub(super) fn spoil(volume: &mut Volume, why: &str) -> Result<(), Fault> {
    volume.reason = Some(why.to_owned());
    volume.step(VolumeEvent::Spoiled).map_err(busy)
}
