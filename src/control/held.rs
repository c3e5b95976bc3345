//! What a copy is made of is held for its job, so that its volume need not wait: it can be deleted, extended, attached
//! and copied again meanwhile, and the copy is of what it held when it was asked for.
//!
//! Where the file system has no hard links, or the image is not as its record says, the volume itself is held instead,
//! in a state that says so, until the job has ended.
//!
//! # Crash
//! What is held is durable before the row of its job, and given up after that row is gone. What a crash leaves between
//! belongs to no job, and is swept.

use std::sync::{Arc, PoisonError};

use tokio::runtime::Handle;

use super::{Control, ROUNDS, busy, no_such_drive};
use crate::domain::{Fault, FaultKind, IllegalStep, JobId, TenantId, Volume, VolumeEvent, VolumeId};
use crate::meta::{Batch, Job, MetaError};
use crate::store::{Content, Image, StoreError};

/// A job that gets something to hold before it has a row. Until this is dropped, the sweeper leaves it alone.
struct Holding<'a> {
    control: &'a Control,
    job: JobId,
}

impl Control {
    /// Begins a job that reads a volume of this tenant. `plan` adds it under this id to the batch that makes it, with
    /// the generation of the volume when its content is held; when it is not, `event` happens to the volume.
    pub(super) async fn begin_copy(
        &self,
        tenant: TenantId,
        id: VolumeId,
        event: VolumeEvent,
        mut plan: impl FnMut(&Volume, JobId, Option<u64>, &mut Batch) -> Result<(), Fault> + Send,
    ) -> Result<(), Fault> {
        let holding = Holding::begin(self, JobId::random());
        let job = holding.job;
        for _ in 0..ROUNDS {
            let source = self.parts.meta.volume(tenant, id).await?.ok_or_else(|| no_such_drive(id))?;
            if !source.state.is_readable() {
                return Err(busy(IllegalStep { state: source.state, event }));
            }
            if !self.hold(&source, job).await? {
                let change = |volume: &mut Volume, batch: &mut Batch| {
                    if volume.tenant != tenant {
                        return Err(no_such_drive(id));
                    }
                    volume.step(event).map_err(busy)?;
                    plan(volume, job, None, batch)
                };
                return self.change(id, change).await.map(drop);
            }
            // Its content changes in a state of its own: as long as its record is the same, so is what is held.
            let now = self.parts.meta.volume(tenant, id).await?;
            if now.is_none_or(|now| now.revision != source.revision) {
                continue;
            }
            let mut batch = Batch::default();
            let planned = plan(&source, job, Some(source.generation), &mut batch);
            let begun = match planned {
                Ok(()) => self.parts.meta.apply(batch).await.map(drop).map_err(|error| match error {
                    // A job belongs to its volume, which is gone.
                    MetaError::NotFound => no_such_drive(id),
                    error => error.into(),
                }),
                Err(fault) => Err(fault),
            };
            if begun.is_err() && self.parts.meta.is_writable() {
                self.release(job).await;
            }
            return begun;
        }
        self.release(job).await;
        Err(Fault::new(FaultKind::Conflict, "the drive is being changed by others; try again"))
    }

    /// Holds the content of a volume, if it can be and is as its record says.
    async fn hold(&self, source: &Volume, job: JobId) -> Result<bool, Fault> {
        let held = match self.parts.store.hold(source.id, job).await {
            Ok(held) => held,
            // The job will find it so, and mark it.
            Err(StoreError::Missing(_) | StoreError::Damaged(..)) => None,
            Err(error) => return Err(error.into()),
        };
        self.parts.crash.hit("copy: held");
        match held {
            Some(size) if size == source.size => Ok(true),
            Some(_) => {
                self.release(job).await;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// What a job reads of a volume: what it holds, or what the volume still has of that generation.
    pub(super) async fn content_for(&self, job: &Job, of: VolumeId, held: Option<u64>) -> Result<Content, StoreError> {
        let Some(generation) = held else { return Ok(Content::Published(of)) };
        match self.parts.store.open_held(job.id(), of).await {
            Ok(_) => return Ok(Content::Held { job: job.id(), of }),
            Err(StoreError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
        // A folder of data that was put back from elsewhere need not have it.
        match self.parts.meta.volume_any(of).await {
            Ok(Some(volume)) if volume.generation == generation && volume.state.is_readable() => {
                self.open_as_recorded(&volume).await?;
                Ok(Content::Published(of))
            }
            _ => Err(StoreError::Missing(of)),
        }
    }

    /// Opens what a job reads.
    pub(super) async fn open_content(&self, content: Content) -> Result<Arc<dyn Image>, StoreError> {
        match content {
            Content::Published(id) => self.parts.store.open(id).await,
            Content::Held { job, of } => self.parts.store.open_held(job, of).await,
        }
    }

    /// Marks a volume whose content a job has found to be damaged, unless it has other content by now.
    pub(super) async fn mark_held(&self, of: VolumeId, generation: u64, why: &str) -> Result<(), Fault> {
        match self.parts.meta.volume_any(of).await? {
            Some(volume) if volume.generation == generation => match self.mark_spoiled(&volume, why).await {
                Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => Err(fault),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Gives up what a job holds. What fails is swept.
    pub(super) async fn release(&self, job: JobId) {
        if let Err(error) = self.parts.store.release(job).await {
            tracing::error!(%job, cause = ?error, "what a job held is not given up; the sweeper will try again");
        }
    }

    /// Gives up what is held for jobs that are no more.
    pub(super) async fn sweep_held(self: &Arc<Self>) -> Result<(), Fault> {
        let (control, runtime) = (self.clone(), Handle::current());
        let keep = move |job| {
            // In this order: it leaves the first only once it is in the second.
            let is_begun = control.holding.lock().unwrap_or_else(PoisonError::into_inner).contains(&job);
            // A database that does not answer keeps everything.
            is_begun || runtime.block_on(control.parts.meta.has_job(job)).unwrap_or(true)
        };
        match self.parts.store.sweep_held(Arc::new(keep)).await? {
            0 => {}
            count => tracing::info!(count, "gave up what was held for jobs that are no more"),
        }
        Ok(())
    }
}

impl<'a> Holding<'a> {
    fn begin(control: &'a Control, job: JobId) -> Self {
        control.holding.lock().unwrap_or_else(PoisonError::into_inner).insert(job);
        Self { control, job }
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.control.holding.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job);
    }
}
