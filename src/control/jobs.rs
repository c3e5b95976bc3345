//! Work that outlives its request: clones, resizes, seals.
//!
//! A job's row was written with the state that it serves, so a restart finds both. Its steps may run twice, and its end
//! is one transaction fenced by its lease (I7).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bells::{ATTEMPTS, Bells};
use super::block::Backups;
use super::race::{Race, unless_lost};
use super::supervise::{Supervisor, caught};
use super::volumes::{MISSING, Volumes, WRONG_SIZE, spoil};
use super::{Parts, busy};
use crate::domain::{ByteCount, ContentId, Digests, Fault, JobId, Volume, VolumeEvent, VolumeId, VolumeState};
use crate::meta::{Batch, Job, JobKind, Lane, MetaError};
use crate::metrics::{Ending, Metrics};
use crate::store::StoreError;

/// How long a claim holds when its worker says nothing. The data directory has one process, whose start frees all
/// older claims, so this only bounds how long a stuck worker blocks a job.
const LEASE_SECONDS: u32 = 60;

/// The wait before the next attempt.
const RETRY_SECONDS: u32 = 10;

/// Looks for jobs even when nobody rang, for those that wait for their next attempt.
const POLL: Duration = Duration::from_secs(5);

/// The workers.
pub(super) struct Jobs {
    pub(super) volumes: Arc<Volumes>,
    metrics: Arc<Metrics>,
    backups: Arc<Backups>,
    bells: Bells,
    supervisor: Supervisor,
    /// Names this process in the leases of its jobs.
    owner: JobId,
    /// Whether the worker that looked last could look for jobs.
    can_claim: AtomicBool,
}

impl Jobs {
    /// Nothing is worked on before [`Jobs::start`].
    pub(super) fn new(
        parts: &Parts,
        volumes: Arc<Volumes>,
        backups: Arc<Backups>,
        bells: Bells,
        supervisor: Supervisor,
    ) -> Arc<Self> {
        let (metrics, owner) = (parts.metrics.clone(), JobId::random());
        let can_claim = AtomicBool::new(true);
        Arc::new(Self { volumes, metrics, backups, bells, supervisor, owner, can_claim })
    }

    /// Starts the workers; they end when `stop` is cancelled. A job that is cut short is begun again at the next start.
    pub(super) async fn start(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), Fault> {
        self.volumes.meta.release_leases_of_others(&self.owner.to_string()).await?;
        self.backups.recover().await?;
        let lanes = [Lane::Prompt, Lane::Long, Lane::Idle].into_iter();
        let lanes = lanes.flat_map(|lane| std::iter::repeat_n(lane, lane.workers()));
        for lane in lanes {
            let jobs = self.clone();
            self.supervisor.run("jobs", stop, move || {
                let jobs = jobs.clone();
                async move { jobs.work(lane).await }
            });
        }
        Ok(())
    }

    async fn work(&self, lane: Lane) {
        loop {
            let rung = self.bells.work.notified();
            tokio::pin!(rung);
            // Before the look, so that a ring between look and wait is heard.
            rung.as_mut().enable();
            let owner = self.owner.to_string();
            let claimed = self.volumes.meta.claim(&owner, self.volumes.clock.now(), LEASE_SECONDS, lane).await;
            self.tell_claim(&claimed);
            match claimed {
                Ok(Some(job)) => self.run(job).await,
                Ok(None) => {
                    let _ = tokio::time::timeout(POLL, rung).await;
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Logs that jobs cannot be claimed any more, or can again: there are many workers, which all meet the same.
    fn tell_claim(&self, claimed: &Result<Option<Job>, MetaError>) {
        let could = self.can_claim.swap(claimed.is_ok(), Ordering::AcqRel);
        match claimed {
            Ok(_) if !could => tracing::info!("jobs are claimed again"),
            Err(error) if could => tracing::error!(cause = ?error, "cannot claim jobs; it is tried again"),
            _ => {}
        }
    }

    async fn run(&self, job: Job) {
        let kind = match job.kind {
            JobKind::Clone { .. } => "clone",
            JobKind::Resize { .. } => "resize",
            JobKind::Backup { .. } => "backup",
            JobKind::Restore { .. } => "restore",
            JobKind::Seal { .. } => "seal",
        };
        let work = async {
            match job.kind {
                JobKind::Clone { source, content, size } => self.run_clone(&job, source, (content, size)).await,
                JobKind::Resize { size } => self.run_resize(&job, size).await,
                JobKind::Backup { backup, content } => Box::pin(self.backups.run_backup(&job, backup, content)).await,
                JobKind::Restore { backup, content } => Box::pin(self.backups.run_restore(&job, backup, content)).await,
                JobKind::Seal { spares_holes } => self.run_seal(&job, spares_holes).await,
            }
        };
        let result = tokio::select! {
            result = caught(work) => result,
            () = self.keep_lease(&job) => return,
        };
        let ending = if result.is_ok() { Ending::Complete } else { Ending::Failed };
        self.metrics.job_ended(kind, ending);
        self.bells.ended.notify_waiters();
        let Err(fault) = result else { return tracing::info!(kind, volume = %job.volume, "job done") };
        loop {
            let retry_at = self.volumes.clock.now().plus_seconds(RETRY_SECONDS);
            match self.volumes.meta.fail(&job.lease, &fault.told, retry_at).await {
                Ok(()) => {
                    tracing::error!(kind, volume = %job.volume, fault = %fault, cause = ?fault.cause, "job failed");
                    return;
                }
                // Its volume was deleted, and the job with it.
                Err(MetaError::LeaseLost) => return tracing::info!(kind, volume = %job.volume, "job dropped"),
                Err(error) => tracing::error!(cause = ?error, "cannot give a job back"),
            }
            // While this cannot be written down, no other job could be claimed either.
            tokio::time::sleep(POLL).await;
        }
    }

    /// Renews the lease until it is lost.
    async fn keep_lease(&self, job: &Job) {
        loop {
            tokio::time::sleep(Duration::from_secs(u64::from(LEASE_SECONDS / 3))).await;
            match self.volumes.meta.renew(&job.lease, self.volumes.clock.now(), LEASE_SECONDS).await {
                Err(MetaError::LeaseLost) => return,
                Err(error) => tracing::warn!(cause = ?error, "cannot renew a lease"),
                Ok(()) => {}
            }
        }
    }

    async fn run_clone(
        &self,
        job: &Job,
        source: VolumeId,
        (content, read): (ContentId, ByteCount),
    ) -> Result<(), Fault> {
        let Some(target) = self.volumes.meta.volume_any(job.volume).await? else {
            return self.finish(job, &[], |_| Ok(())).await;
        };
        let copied = match self.volumes.open_content(content, read).await {
            Ok(_) => self.volumes.store.clone_image(content, target.image(), target.size, (&target).into()).await,
            Err(error) => Err(error),
        };
        let (failure, damage) = match copied {
            Ok(()) => (None, None),
            Err(StoreError::NoSpace) => (Some("the storage had no room for the clone"), None),
            Err(StoreError::Damaged(_, why)) => (Some("its source is damaged"), Some(why)),
            Err(error) if job.attempts() < ATTEMPTS => return Err(error.into()),
            Err(_) => (Some("the clone could not be made"), None),
        };
        self.volumes.crash.hit("clone: copied");
        if let Some(why) = damage {
            self.volumes.mark_read(source, content, why).await?;
        }
        self.finish(job, &[job.volume], |volume| {
            // A copy has the digests of its source from the start.
            volume.renew(volume.digests);
            match failure {
                Some(why) => spoil(volume, why),
                None => volume.step(VolumeEvent::Completed).map_err(busy),
            }
        })
        .await?;
        self.volumes.remove_dropped().await;
        Ok(())
    }

    async fn run_resize(&self, job: &Job, size: ByteCount) -> Result<(), Fault> {
        let Some(volume) = self.volumes.meta.volume_any(job.volume).await? else {
            return self.finish(job, &[], |_| Ok(())).await;
        };
        let content = volume.image();
        let grown = match self.volumes.store.open(content).await {
            // An earlier run may have grown it. Growing one that lost its end would put zeros there, unnoticed.
            Ok(image) if image.size() != volume.size && image.size() != size => {
                Err(StoreError::Damaged(content, WRONG_SIZE))
            }
            Ok(_) => self.volumes.store.grow(content, size).await,
            Err(StoreError::Missing(id)) => Err(StoreError::Damaged(id, MISSING)),
            Err(error) => Err(error),
        };
        self.volumes.crash.hit("resize: grown");
        let ended = match grown {
            Ok(()) => Ok(size),
            Err(StoreError::Damaged(_, why)) => Err(why),
            Err(error) if job.attempts() < ATTEMPTS => return Err(error.into()),
            // It keeps the size it has.
            Err(_) => {
                self.volumes.store.open(content).await.map(|image| image.size()).map_err(|_| "it cannot be opened")
            }
        };
        self.finish(job, &[job.volume], |volume| {
            let size = match ended {
                Ok(size) => size,
                Err(why) => {
                    volume.charged = volume.size;
                    return spoil(volume, why);
                }
            };
            if volume.size != size {
                volume.renew(Digests::NONE);
            }
            volume.size = size;
            volume.charged = size;
            volume.step(VolumeEvent::ResizeEnded).map_err(busy)
        })
        .await?;
        if let Err(why) = ended {
            self.volumes.tell_spoiled(job.volume, why);
        }
        Ok(())
    }

    /// Ends a job together with the changes of its volumes. A volume that is gone by now is passed over.
    pub(super) async fn finish(
        &self,
        job: &Job,
        ids: &[VolumeId],
        mut change: impl FnMut(&mut Volume) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let mut update = Vec::with_capacity(ids.len());
            for id in ids {
                match self.volumes.meta.volume_any(*id).await? {
                    Some(mut volume) if volume.state != VolumeState::Deleting => {
                        change(&mut volume)?;
                        volume.updated = self.volumes.clock.now();
                        update.push(volume);
                    }
                    _ => {}
                }
            }
            let batch = Batch { finish: Some(job.lease.clone()), update, ..Batch::default() };
            if unless_lost(self.volumes.meta.apply(batch).await)?.is_some() {
                return Ok(());
            }
        }
    }
}
