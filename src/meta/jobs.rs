//! Background work that survives a restart.
//!
//! A job is claimed for a while, done, and finished in the same transaction as the facts it makes true
//! ([`super::Batch::finish`]). When its worker dies, the lease runs out and another worker begins again.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::contents::check_held;
use super::sqlite::{Connection, DbRow};
use super::{Meta, MetaError, id_bytes};
use crate::domain::{BackupId, ByteCount, ContentId, JobId, UnixTime, VolumeId};

/// What is to be done to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Fill it from another.
    Clone {
        /// The other.
        source: VolumeId,
        /// Its content when this was asked for, which is kept until this ends.
        content: ContentId,
        /// Of which so many bytes are read.
        size: ByteCount,
    },
    /// Grow it.
    Resize {
        /// To this size.
        size: ByteCount,
    },
    /// Write a backup of it.
    Backup {
        /// The backup.
        backup: BackupId,
        /// Its content when this was asked for, which is kept until this ends.
        content: ContentId,
    },
    /// Fill it from a backup.
    Restore {
        /// The backup.
        backup: BackupId,
        /// What is made of it, to become the content of the volume.
        content: ContentId,
    },
    /// Read it back, compare it with its pieces, and record its digests. A volume has at most one such job.
    Seal {
        /// Whether the digest of its list of pieces will do, for which holes are not read, if it has more holes than
        /// data.
        spares_holes: bool,
    },
}

/// Which jobs a worker takes: a long one that nobody waits for must not keep a short one waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What a caller waits for: clones and resizes.
    Prompt,
    /// What takes long, and a caller waits for: backups and restores.
    Long,
    /// Seals.
    Idle,
}

impl Lane {
    /// How many jobs of this lane are done at once. More would only make the disk seek.
    pub const fn workers(self) -> usize {
        match self {
            Self::Prompt | Self::Long => 3,
            Self::Idle => 2,
        }
    }

    /// How many of them are one tenant's at most: the last worker is left to others, who need not wait for a large
    /// disk.
    const fn share(self) -> usize {
        self.workers() - 1
    }
}

/// A job to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Its identity.
    pub id: JobId,
    /// What is to be done.
    pub kind: JobKind,
    /// To which volume: the target of a clone. When that is removed, its jobs go with it.
    pub volume: VolumeId,
    /// When it was added.
    pub created: UnixTime,
}

impl NewJob {
    /// A job under a new id.
    pub fn new(kind: JobKind, volume: VolumeId, now: UnixTime) -> Self {
        Self { id: JobId::random(), kind, volume, created: now }
    }
}

/// A claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The right to finish it.
    pub lease: Lease,
    /// What is to be done.
    pub kind: JobKind,
    /// To which volume.
    pub volume: VolumeId,
}

impl Job {
    /// How many times it has been claimed, this one included.
    pub const fn attempts(&self) -> u32 {
        self.lease.attempt
    }
}

/// One claim of one job. It is good until somebody else claims the job, even when its time has run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    owner: String,
    // Two claims by one owner differ in this.
    attempt: u32,
}

/// The rest of a job, as JSON.
#[derive(Default, Serialize, Deserialize)]
struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    spares_holes: bool,
}

impl Payload {
    fn of(backup: BackupId) -> Self {
        Self { backup: Some(backup.to_string()), ..Self::default() }
    }

    fn backup(&self) -> Result<BackupId, MetaError> {
        self.backup.as_ref().and_then(|id| id.parse().ok()).ok_or(MetaError::Damaged("payload"))
    }
}

impl Meta {
    /// Claims a job of a lane that nobody holds, if there is one, until `lease_seconds` from now: of the tenant that
    /// has the fewest running there, and among those of the one that was served longest ago, the oldest. A tenant that
    /// has its share running has none.
    pub async fn claim(
        &self,
        owner: &str,
        now: UnixTime,
        lease_seconds: u32,
        lane: Lane,
    ) -> Result<Option<Job>, MetaError> {
        // Workers ask again and again. On a full disk a write, even one that comes to nothing, has space given up that
        // is kept for removals.
        let waiting = sqlx::query("SELECT 1 FROM jobs WHERE lease_until IS NULL OR lease_until <= $1 LIMIT 1");
        if waiting.bind(now.0).fetch_optional(&self.db.readers).await?.is_none() {
            return Ok(None);
        }
        let mut tx = self.db.begin().await?;
        // The number of this turn. Its row keeps another claim waiting until the end of this one, which so sees what
        // that one took: of the jobs and of the share of their tenant.
        let turn: i64 =
            sqlx::query_scalar("UPDATE counters SET value = value + 1 WHERE name = 'turns' RETURNING value")
                .fetch_one(&mut *tx)
                .await?;
        let row = sqlx::query(
            "WITH lane AS (SELECT j.id, j.created, j.lease_until, v.tenant FROM jobs j JOIN volumes v ON v.id = j.volume \
             WHERE CASE j.kind WHEN 'seal' THEN 2 WHEN 'backup' THEN 1 WHEN 'restore' THEN 1 ELSE 0 END = $4), \
             running AS (SELECT tenant, COUNT(*) AS jobs FROM lane WHERE lease_until > $3 GROUP BY tenant) \
             UPDATE jobs SET attempts = attempts + 1, lease_owner = $1, lease_until = $2 WHERE id = \
             (SELECT l.id FROM lane l JOIN tenants t ON t.id = l.tenant LEFT JOIN running r ON r.tenant = l.tenant \
             WHERE (l.lease_until IS NULL OR l.lease_until <= $3) AND COALESCE(r.jobs, 0) < $5 \
             ORDER BY COALESCE(r.jobs, 0), t.served, l.created, l.id LIMIT 1) \
             RETURNING id, kind, volume, source, payload, attempts, content",
        )
        .bind(owner)
        .bind(now.plus_seconds(lease_seconds).0)
        .bind(now.0)
        .bind(match lane {
            Lane::Prompt => 0_i64,
            Lane::Long => 1,
            Lane::Idle => 2,
        })
        .bind(i64::try_from(lane.share()).unwrap_or(i64::MAX))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            // Nothing was written, so there is nothing to flush.
            tx.rollback().await?;
            return Ok(None);
        };
        sqlx::query("UPDATE tenants SET served = $2 WHERE id = (SELECT tenant FROM volumes WHERE id = $1)")
            .bind(row.try_get::<&[u8], _>("volume")?)
            .bind(turn)
            .execute(&mut *tx)
            .await?;
        // Before the row is read: a damaged job stays claimed and does not block those behind it.
        self.db.commit(tx).await?;
        job_from(&row, owner).map(Some)
    }

    /// Holds a job until `lease_seconds` from now.
    pub async fn renew(&self, lease: &Lease, now: UnixTime, lease_seconds: u32) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query("UPDATE jobs SET lease_until = $4 WHERE id = $1 AND lease_owner = $2 AND attempts = $3")
            .bind(lease.job.as_bytes().as_slice())
            .bind(lease.owner.as_str())
            .bind(i64::from(lease.attempt))
            .bind(now.plus_seconds(lease_seconds).0)
            .execute(&mut *tx)
            .await?;
        still_held(done.rows_affected())?;
        self.db.commit(tx).await
    }

    /// Gives a job back that could not be done, to be claimed again from `retry_at` on, and keeps why for a person.
    /// A job that is given up for good is finished instead, in the batch that says so of its volumes.
    pub async fn fail(&self, lease: &Lease, error: &str, retry_at: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query(
            "UPDATE jobs SET lease_owner = NULL, lease_until = $4, error = $5 \
             WHERE id = $1 AND lease_owner = $2 AND attempts = $3",
        )
        .bind(lease.job.as_bytes().as_slice())
        .bind(lease.owner.as_str())
        .bind(i64::from(lease.attempt))
        .bind(retry_at.0)
        .bind(error)
        .execute(&mut *tx)
        .await?;
        still_held(done.rows_affected())?;
        self.db.commit(tx).await
    }

    /// Whether anything is still to be done to a volume.
    pub async fn has_jobs(&self, volume: VolumeId) -> Result<bool, MetaError> {
        let query = sqlx::query("SELECT 1 FROM jobs WHERE volume = $1 LIMIT 1");
        Ok(query.bind(volume.as_bytes().as_slice()).fetch_optional(&self.db.readers).await?.is_some())
    }

    /// Whether a backup of a volume is still to be written.
    pub async fn is_backed_up(&self, volume: VolumeId) -> Result<bool, MetaError> {
        let query = sqlx::query("SELECT 1 FROM jobs WHERE volume = $1 AND kind = 'backup' LIMIT 1");
        Ok(query.bind(volume.as_bytes().as_slice()).fetch_optional(&self.db.readers).await?.is_some())
    }

    /// Whether a job is still to be done.
    pub async fn has_job(&self, job: JobId) -> Result<bool, MetaError> {
        let query = sqlx::query("SELECT 1 FROM jobs WHERE id = $1");
        Ok(query.bind(job.as_bytes().as_slice()).fetch_optional(&self.db.readers).await?.is_some())
    }

    /// Frees the jobs that any other owner holds, and returns how many. Only for a process that knows to be alone, at
    /// its start: the others are dead then.
    pub async fn release_leases_of_others(&self, owner: &str) -> Result<u64, MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query(
            "UPDATE jobs SET lease_owner = NULL, lease_until = NULL WHERE lease_owner IS NOT NULL AND lease_owner <> $1",
        )
        .bind(owner)
        .execute(&mut *tx)
        .await?;
        self.db.commit(tx).await?;
        Ok(done.rows_affected())
    }
}

/// Adds a job; of two seals of a volume, one that reads all.
pub(super) async fn enqueue(connection: &mut Connection, job: &NewJob) -> Result<(), MetaError> {
    let sized = |size: ByteCount| Payload { size: Some(size.get()), ..Payload::default() };
    let (kind, source, content, payload) = match job.kind {
        JobKind::Clone { source, content, size } => ("clone", Some(source), Some(content), sized(size)),
        JobKind::Resize { size } => ("resize", None, None, sized(size)),
        JobKind::Backup { backup, content } => ("backup", None, Some(content), Payload::of(backup)),
        JobKind::Restore { backup, content } => ("restore", None, Some(content), Payload::of(backup)),
        JobKind::Seal { spares_holes } => ("seal", None, None, Payload { spares_holes, ..Payload::default() }),
    };
    if let JobKind::Clone { content, .. } | JobKind::Backup { content, .. } = job.kind {
        check_held(connection, content).await?;
    }
    let payload = serde_json::to_string(&payload).map_err(|_| MetaError::Damaged("payload"))?;
    sqlx::query(
        "INSERT INTO jobs (id, kind, volume, source, payload, created, attempts, content) \
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT (volume) WHERE kind = 'seal' \
         DO UPDATE SET payload = excluded.payload WHERE $8",
    )
    .bind(job.id.as_bytes().as_slice())
    .bind(kind)
    .bind(job.volume.as_bytes().as_slice())
    .bind(source.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(payload)
    .bind(job.created.0)
    .bind(content.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(job.kind == JobKind::Seal { spares_holes: false })
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends a job whose lease is still held.
pub(super) async fn finish(connection: &mut Connection, lease: &Lease) -> Result<(), MetaError> {
    let done = sqlx::query("DELETE FROM jobs WHERE id = $1 AND lease_owner = $2 AND attempts = $3")
        .bind(lease.job.as_bytes().as_slice())
        .bind(lease.owner.as_str())
        .bind(i64::from(lease.attempt))
        .execute(connection)
        .await?;
    still_held(done.rows_affected())
}

fn still_held(rows: u64) -> Result<(), MetaError> {
    if rows == 1 { Ok(()) } else { Err(MetaError::LeaseLost) }
}

fn job_from(row: &DbRow, owner: &str) -> Result<Job, MetaError> {
    let payload: Payload = serde_json::from_str(row.try_get("payload")?).map_err(|_| MetaError::Damaged("payload"))?;
    let size = payload.size.and_then(ByteCount::new);
    let content = || {
        let content: Option<&[u8]> = row.try_get("content")?;
        let content = content.ok_or(MetaError::Damaged("content"))?;
        Ok::<_, MetaError>(ContentId::from_bytes(id_bytes(content, "content")?))
    };
    let kind = match row.try_get("kind")? {
        "clone" => {
            let source: Option<&[u8]> = row.try_get("source")?;
            let source = source.ok_or(MetaError::Damaged("source"))?;
            let source = VolumeId::from_bytes(id_bytes(source, "source")?);
            // Earlier versions have not written how much is read.
            JobKind::Clone { source, content: content()?, size: size.unwrap_or_default() }
        }
        "resize" => JobKind::Resize { size: size.ok_or(MetaError::Damaged("payload"))? },
        "backup" => JobKind::Backup { backup: payload.backup()?, content: content()? },
        "restore" => JobKind::Restore { backup: payload.backup()?, content: content()? },
        "seal" => JobKind::Seal { spares_holes: payload.spares_holes },
        _ => return Err(MetaError::Damaged("kind")),
    };
    let attempts: i64 = row.try_get("attempts")?;
    let attempt = u32::try_from(attempts).map_err(|_| MetaError::Damaged("attempts"))?;
    let job = JobId::from_bytes(id_bytes(row.try_get("id")?, "id")?);
    Ok(Job {
        lease: Lease { job, owner: owner.to_owned(), attempt },
        kind,
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Clock as _;
    use crate::domain::{FixedClock, Volume};
    use crate::meta::Batch;
    use crate::meta::testing::{Scene, count, drive, scene};

    const MINUTE: u32 = 60;
    const SEAL: JobKind = JobKind::Seal { spares_holes: false };

    /// A scene with one volume and its job.
    async fn with_job(kind: JobKind) -> (Scene, Volume, FixedClock) {
        let scene = scene().await;
        let volume = drive(scene.tenant, 1);
        let clock = FixedClock::at(UnixTime(1_000_000));
        let job = NewJob::new(kind, volume.id, clock.now());
        scene.meta.insert_volumes(vec![volume.clone()], vec![job]).await.unwrap();
        (scene, volume, clock)
    }

    fn ending(job: &Job) -> Batch {
        Batch { finish: Some(job.lease.clone()), ..Batch::default() }
    }

    #[tokio::test]
    async fn jobs_of_a_lane_come_oldest_first_with_their_payload() {
        let (scene, volume, clock) = with_job(SEAL).await;
        let source = VolumeId::random();
        let kinds =
            [JobKind::Resize { size: count(77) }, JobKind::Clone { source, content: volume.image(), size: count(3) }];
        for kind in kinds {
            clock.advance_seconds(1);
            let job = NewJob::new(kind, volume.id, clock.now());
            scene.meta.apply(Batch { enqueue: vec![job], ..Batch::default() }).await.unwrap();
        }
        for (lane, expected) in [(Lane::Prompt, &kinds[..]), (Lane::Idle, &[SEAL])] {
            for kind in expected {
                let job = scene.meta.claim("a", clock.now(), MINUTE, lane).await.unwrap().unwrap();
                assert_eq!(job.kind, *kind);
                scene.meta.apply(ending(&job)).await.unwrap();
            }
            assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, lane).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_claimed_job_is_nobody_elses_until_its_lease_runs_out() {
        let (scene, _, clock) = with_job(SEAL).await;
        let first = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        clock.advance_seconds(MINUTE - 1);
        assert_eq!(scene.meta.claim("b", clock.now(), MINUTE, Lane::Idle).await.unwrap(), None);
        scene.meta.renew(&first.lease, clock.now(), MINUTE).await.unwrap();
        clock.advance_seconds(MINUTE - 1);
        assert_eq!(scene.meta.claim("b", clock.now(), MINUTE, Lane::Idle).await.unwrap(), None);
        clock.advance_seconds(1);

        let second = scene.meta.claim("b", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        assert_eq!((second.lease.job, second.attempts()), (first.lease.job, 2));
        assert!(matches!(scene.meta.apply(ending(&first)).await, Err(MetaError::LeaseLost)));
        assert!(matches!(scene.meta.renew(&first.lease, clock.now(), MINUTE).await, Err(MetaError::LeaseLost)));
        assert!(matches!(scene.meta.fail(&first.lease, "late", clock.now()).await, Err(MetaError::LeaseLost)));
        scene.meta.apply(ending(&second)).await.unwrap();
    }

    #[tokio::test]
    async fn one_owner_that_claims_twice_holds_the_later_claim_only() {
        let (scene, _, clock) = with_job(SEAL).await;
        let first = scene.meta.claim("a", clock.now(), 0, Lane::Idle).await.unwrap().unwrap();
        let second = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        assert!(matches!(scene.meta.apply(ending(&first)).await, Err(MetaError::LeaseLost)));
        scene.meta.apply(ending(&second)).await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_job_waits_for_its_retry_time() {
        let (scene, _, clock) = with_job(SEAL).await;
        let job = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        scene.meta.fail(&job.lease, "no luck", clock.now().plus_seconds(30)).await.unwrap();
        assert!(matches!(scene.meta.apply(ending(&job)).await, Err(MetaError::LeaseLost)));
        clock.advance_seconds(29);
        assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap(), None);
        clock.advance_seconds(1);
        assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap().attempts(), 2);
    }

    #[tokio::test]
    async fn a_tenant_with_many_jobs_keeps_no_other_waiting() {
        let (scene, volume, clock) = with_job(SEAL).await;
        let other = scene.meta.add_user("bob", "hash of bob", "blue", None, UnixTime(1)).await.unwrap();
        let theirs = drive(other, 1);
        let many = |kind| (0..4).map(move |_| NewJob::new(kind, volume.id, UnixTime(2)));
        let resize = JobKind::Resize { size: count(2) };
        let mut volumes: Vec<Volume> = (0..3).map(|_| drive(scene.tenant, 1)).collect();
        let seals = volumes.iter().map(|volume| NewJob::new(SEAL, volume.id, UnixTime(2)));
        let mut jobs: Vec<NewJob> = many(resize).chain(seals).collect();
        clock.advance_seconds(9);
        jobs.extend([resize, SEAL].map(|kind| NewJob::new(kind, theirs.id, clock.now())));
        volumes.push(theirs.clone());
        scene.meta.insert_volumes(volumes, jobs).await.unwrap();
        let claim = async |lane| scene.meta.claim("a", clock.now(), MINUTE, lane).await.unwrap();

        // Where several run at once: the newcomer's comes next, and one tenant has all but one.
        let mine = claim(Lane::Prompt).await.unwrap();
        assert_eq!(mine.volume, volume.id);
        assert_eq!(claim(Lane::Prompt).await.unwrap().volume, theirs.id);
        assert_eq!(claim(Lane::Prompt).await.unwrap().volume, volume.id);
        assert_eq!(claim(Lane::Prompt).await, None);
        scene.meta.apply(ending(&mine)).await.unwrap();
        assert_eq!(claim(Lane::Prompt).await.unwrap().volume, volume.id);

        // The turn is the newcomer's, and a large disk of one tenant is in nobody's way.
        let turns = [claim(Lane::Idle).await.unwrap(), claim(Lane::Idle).await.unwrap()];
        assert_eq!(turns.iter().filter(|job| job.volume == theirs.id).count(), 1);
        assert_eq!(claim(Lane::Idle).await, None);
        scene.meta.apply(ending(turns.iter().find(|job| job.volume != theirs.id).unwrap())).await.unwrap();
        assert_ne!(claim(Lane::Idle).await.unwrap().volume, theirs.id);
    }

    #[tokio::test]
    async fn a_start_frees_the_leases_of_the_dead_only() {
        let (scene, volume, clock) = with_job(SEAL).await;
        let dead = scene.meta.claim("dead", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        let mine = NewJob::new(JobKind::Resize { size: count(2) }, volume.id, clock.now());
        scene.meta.apply(Batch { enqueue: vec![mine], ..Batch::default() }).await.unwrap();
        let mine = scene.meta.claim("me", clock.now(), MINUTE, Lane::Prompt).await.unwrap().unwrap();

        assert_eq!(scene.meta.release_leases_of_others("me").await.unwrap(), 1);
        assert!(matches!(scene.meta.apply(ending(&dead)).await, Err(MetaError::LeaseLost)));
        assert_eq!(
            scene.meta.claim("me", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap().lease.job,
            dead.lease.job
        );
        scene.meta.apply(ending(&mine)).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_seals_of_a_volume_the_one_that_reads_all_stays() {
        const SPARING: JobKind = JobKind::Seal { spares_holes: true };
        for (kinds, expected) in [([SPARING; 2], SPARING), ([SPARING, SEAL], SEAL), ([SEAL, SPARING], SEAL)] {
            let (scene, volume, clock) = with_job(kinds[0]).await;
            let again = NewJob::new(kinds[1], volume.id, clock.now());
            scene.meta.apply(Batch { enqueue: vec![again], ..Batch::default() }).await.unwrap();
            let job = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
            assert_eq!(job.kind, expected, "{kinds:?}");
            assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_volume_is_sealed_by_one_job_at_most() {
        let (scene, volume, clock) = with_job(SEAL).await;
        let again = || Batch { enqueue: vec![NewJob::new(SEAL, volume.id, clock.now())], ..Batch::default() };
        scene.meta.apply(again()).await.unwrap();
        let job = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        scene.meta.apply(again()).await.unwrap();
        assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap(), None);
        scene.meta.apply(ending(&job)).await.unwrap();
        scene.meta.apply(again()).await.unwrap();
        assert!(
            scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().is_some(),
            "after the end, a new one"
        );
    }

    #[tokio::test]
    async fn the_jobs_of_a_removed_volume_go_with_it_and_none_can_come() {
        let (scene, volume, clock) = with_job(SEAL).await;
        let job = scene.meta.claim("a", clock.now(), MINUTE, Lane::Idle).await.unwrap().unwrap();
        scene.meta.remove_volume(volume.id).await.unwrap();
        assert!(matches!(scene.meta.apply(ending(&job)).await, Err(MetaError::LeaseLost)));
        let orphan = NewJob::new(SEAL, volume.id, clock.now());
        let refused = scene.meta.apply(Batch { enqueue: vec![orphan], ..Batch::default() }).await;
        assert!(matches!(refused, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn a_job_that_cannot_be_read_does_not_block_those_behind_it() {
        let (scene, volume, clock) = with_job(SEAL).await;
        sqlx::query("UPDATE jobs SET kind = 'from the future'").execute(&scene.meta.db.writer).await.unwrap();
        let next = NewJob::new(JobKind::Resize { size: count(2) }, volume.id, clock.now());
        scene.meta.apply(Batch { enqueue: vec![next], ..Batch::default() }).await.unwrap();
        assert!(matches!(
            scene.meta.claim("a", clock.now(), MINUTE, Lane::Prompt).await,
            Err(MetaError::Damaged("kind"))
        ));
        assert_eq!(scene.meta.claim("a", clock.now(), MINUTE, Lane::Prompt).await.unwrap().unwrap().lease.job, next.id);
    }
}
