//! Changing volumes and jobs: several facts in one transaction, quotas included.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::Row as _;

use super::block::{attach, detach, insert_backup, remove_backup, update_backup};
use super::contents::drop_content;
use super::jobs::{enqueue, finish};
use super::sqlite::{Connection, Write};
use super::transfers::{TransferStep, begin, step};
use super::volumes::{bytes_from, kind_from, kind_text, media_text, state_from, state_text};
use super::{Lease, Meta, MetaError, NewJob, id_bytes};
use crate::domain::{
    Attachment, Backup, BackupId, BackupState, BlockView, ByteCount, ContentId, Placement, TenantId, Transfer, Volume,
    VolumeId, VolumeKind, VolumeState,
};

/// The longest record of a volume, by its name, labels, metadata and what dialects keep: twice 128 pairs of 255 ASCII
/// characters each. Each change writes all of it to the log.
pub(super) const LONGEST_ROW: usize = 256 << 10;

/// Changes that become true together, or not at all.
///
/// The quota looks at their sum: what a batch frees, it may use.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The job that these changes end. Nothing happens when its lease is lost ([`MetaError::LeaseLost`]).
    pub finish: Option<Lease>,
    /// The change of a transfer's state; [`MetaError::Conflict`] when it is not in the state that was read.
    pub step: Option<TransferStep>,
    /// A name that must not be taken when the batch begins; [`MetaError::Duplicate`] when it is.
    pub vacant: Vec<Vacancy>,
    /// Volumes whose records go, with their jobs. One that is gone already is passed over, since a removal may run
    /// twice (I7).
    pub remove: Vec<VolumeId>,
    /// Volumes as they should be, with the revision that was read; [`MetaError::Conflict`] when that is not the latest.
    /// Id, tenant, kind and time of making never change.
    pub update: Vec<Volume>,
    /// New volumes.
    pub insert: Vec<Volume>,
    /// A new transfer, beside its volume in `insert`; [`MetaError::TooManyTransfers`] when its tenant has as many open
    /// ones as it may. The oldest of its ended ones go, beyond those that are kept.
    pub begin: Option<Transfer>,
    /// Where volumes are attached from now on; [`MetaError::Duplicate`] when the volume or the device is taken.
    pub attach: Vec<(TenantId, Attachment)>,
    /// Volumes that are attached no more.
    pub detach: Vec<VolumeId>,
    /// New backups, charged by their sizes; the number is given to each here.
    pub insert_backups: Vec<Backup>,
    /// Backups as they should be, and the state that each was read in; [`MetaError::Conflict`] when that is another.
    pub update_backups: Vec<(Backup, BackupState)>,
    /// Backups whose records go.
    pub remove_backups: Vec<BackupId>,
    /// Contents that no volume has from now on, to be removed once no job reads them.
    pub drop: Vec<ContentId>,
    /// New jobs; [`MetaError::Conflict`] when what one of them is to read is no volume's any more. A seal for a volume
    /// that waits for one already is passed over.
    pub enqueue: Vec<NewJob>,
    /// Whether all of this may be forgotten when the machine loses power before a later write. For records that are
    /// only of use while this process runs, and of which no client is told before a later write that is flushed: the
    /// caller does not wait for the disk then, which may take long when it is busy.
    pub is_provisional: bool,
}

/// A name for a drive or tree made by HPC-AI's API, taken while another that was made by it has the same. To all other
/// dialects the name of a drive is a label, which they give as often as they like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacancy {
    /// The tenant in which the name must be free.
    pub tenant: TenantId,
    /// The name.
    pub name: String,
}

impl Batch {
    /// Whether it only adds to what the database holds, beside what its updates may. What removes something or ends a
    /// job or a transfer must be possible on a full disk.
    pub(super) fn adds(&self) -> bool {
        let is_end = self.finish.is_some()
            || !self.remove.is_empty()
            || !self.detach.is_empty()
            || !self.remove_backups.is_empty()
            || (self.insert.is_empty() && self.step.as_ref().is_some_and(|step| step.to.has_ended()));
        let adds = !self.insert.is_empty()
            || self.begin.is_some()
            || !self.insert_backups.is_empty()
            || !self.attach.is_empty()
            || !self.enqueue.is_empty();
        adds && !is_end
    }
}

impl Meta {
    /// Makes all changes of a batch true, charging and refunding quotas, and returns the updated volumes, in order,
    /// with their new revisions.
    ///
    /// Batches that come together are flushed together.
    pub async fn apply(&self, batch: Batch) -> Result<Vec<Volume>, MetaError> {
        self.write_grouped(batch).await
    }

    /// Adds volumes and jobs: all of them or none.
    pub async fn insert_volumes(&self, insert: Vec<Volume>, enqueue: Vec<NewJob>) -> Result<(), MetaError> {
        self.apply(Batch { insert, enqueue, ..Batch::default() }).await.map(drop)
    }

    /// Changes one volume; it carries the revision that was read, and comes back with the new one.
    pub async fn update(&self, volume: Volume) -> Result<Volume, MetaError> {
        let updated = self.apply(Batch { update: vec![volume], ..Batch::default() }).await?;
        updated.into_iter().next().ok_or(MetaError::NotFound)
    }

    /// Removes a volume's record and jobs, and refunds its quota. Removing what is not there succeeds.
    pub async fn remove_volume(&self, id: VolumeId) -> Result<(), MetaError> {
        self.apply(Batch { remove: vec![id], ..Batch::default() }).await.map(drop)
    }

    /// Bill the tenant for more bytes of a volume that is uploading with unknown length: as many of `want` as a
    /// sixteenth of the quota's room has, so that others that grow find some, and at least `least`, or
    /// [`MetaError::QuotaExceeded`]. Returns how many.
    ///
    /// [`MetaError::Conflict`] means that the volume is not uploading any more. The revision grows, so that a change
    /// based on the old charge cannot undo this one: read the volume again before updating it.
    pub async fn charge_upto(&self, id: VolumeId, want: ByteCount, least: ByteCount) -> Result<ByteCount, MetaError> {
        let mut tx = self.db.begin_adding().await?;
        let row = sqlx::query(
            "SELECT v.state, v.charged, v.tenant, t.used_bytes, \
             COALESCE(t.quota_bytes, 9223372036854775807) AS quota \
             FROM volumes v JOIN tenants t ON t.id = v.tenant WHERE v.id = $1",
        )
        .bind(id.as_bytes().as_slice())
        .fetch_one(&mut *tx)
        .await?;
        if state_from(row.try_get("state")?)? != VolumeState::Uploading {
            return Err(MetaError::Conflict);
        }
        let tenant = TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?);
        let charged = bytes_from(&row, "charged")?;
        let quota_room = bytes_from(&row, "quota")?.saturating_sub(bytes_from(&row, "used_bytes")?);
        let share = ByteCount::new(quota_room.get() / 16).unwrap_or(quota_room).max(least.min(quota_room));
        let granted = want.min(share).min(ByteCount::MAX.saturating_sub(charged));
        if granted < least {
            return Err(MetaError::QuotaExceeded);
        }
        sqlx::query("UPDATE volumes SET charged = charged + $2, revision = revision + 1 WHERE id = $1")
            .bind(id.as_bytes().as_slice())
            .bind(granted.get().cast_signed())
            .execute(&mut *tx)
            .await?;
        let mut bill = Bill::default();
        bill.add(tenant, 0, granted.get().cast_signed())?;
        bill.settle(&mut tx).await?;
        // The upload that this is for is answered after the flush of its end, and without that it never was.
        self.db.commit_unflushed(tx).await?;
        Ok(granted)
    }
}

/// Makes all changes of a batch in this transaction, which must be rolled back when one fails.
pub(super) async fn change(tx: &mut Write, batch: &Batch) -> Result<Vec<Volume>, MetaError> {
    let mut bill = Bill::default();
    if let Some(lease) = &batch.finish {
        finish(tx, lease).await?;
    }
    if let Some(wanted) = &batch.step {
        step(tx, wanted).await?;
    }
    for vacant in &batch.vacant {
        check_vacant(tx, vacant).await?;
    }
    for id in &batch.remove {
        remove(tx, *id, &mut bill).await?;
    }
    let mut updated = Vec::with_capacity(batch.update.len());
    for volume in &batch.update {
        updated.push(update(tx, volume, &mut bill).await?);
    }
    for volume in &batch.insert {
        insert(tx, volume, &mut bill).await?;
    }
    for backup in &batch.insert_backups {
        insert_backup(tx, backup).await?;
        bill.add_backup(backup.tenant, 1, backup.size.get().cast_signed())?;
    }
    for id in &batch.remove_backups {
        if let Some((tenant, size)) = remove_backup(tx, *id).await? {
            bill.add_backup(tenant, -1, size.get().cast_signed())?;
        }
    }
    bill.settle(tx).await?;
    if let Some(transfer) = &batch.begin {
        begin(tx, transfer).await?;
    }
    for volume in &batch.detach {
        detach(tx, *volume).await?;
    }
    for (tenant, attachment) in &batch.attach {
        attach(tx, *tenant, attachment).await?;
    }
    for (backup, from) in &batch.update_backups {
        update_backup(tx, backup, *from).await?;
    }
    for content in &batch.drop {
        drop_content(tx, *content).await?;
    }
    for job in &batch.enqueue {
        enqueue(tx, job).await?;
    }
    Ok(updated)
}

/// Whether an update of a batch makes a record longer.
pub(super) async fn lengthens(connection: &mut Connection, batch: &Batch) -> Result<bool, MetaError> {
    for volume in &batch.update {
        let length = volume.name.len() + json(&volume.meta).len() + json(&volume.attributes).len();
        if stored_length(connection, volume.id).await?.is_some_and(|there| length > there) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of what a record has of its owner's.
async fn stored_length(connection: &mut Connection, id: VolumeId) -> Result<Option<usize>, MetaError> {
    let there: Option<i64> = sqlx::query_scalar(
        "SELECT octet_length(name) + octet_length(meta) + octet_length(attributes) \
         FROM volumes WHERE id = $1",
    )
    .bind(id.as_bytes().as_slice())
    .fetch_optional(connection)
    .await?;
    Ok(there.map(|there| usize::try_from(there).unwrap_or_default()))
}

/// What a batch adds to each tenant's usage, settled once. In order of tenants, so that two transactions on a
/// database that locks rows cannot wait for each other.
#[derive(Default)]
pub(super) struct Bill(BTreeMap<TenantId, Sums>);

#[derive(Default)]
struct Sums {
    volumes: i64,
    bytes: i64,
    backups: i64,
    backup_bytes: i64,
}

impl Bill {
    fn add(&mut self, tenant: TenantId, volumes: i64, bytes: i64) -> Result<(), MetaError> {
        let sums = self.0.entry(tenant).or_default();
        sums.volumes += volumes;
        sums.bytes = sums.bytes.checked_add(bytes).ok_or(MetaError::QuotaExceeded)?;
        Ok(())
    }

    fn add_backup(&mut self, tenant: TenantId, backups: i64, size: i64) -> Result<(), MetaError> {
        let sums = self.0.entry(tenant).or_default();
        sums.backups += backups;
        let change = size.checked_mul(backups).and_then(|bytes| sums.backup_bytes.checked_add(bytes));
        sums.backup_bytes = change.ok_or(MetaError::BackupsExceeded)?;
        Ok(())
    }

    async fn settle(self, connection: &mut Connection) -> Result<(), MetaError> {
        for (tenant, sums) in self.0 {
            if (sums.volumes, sums.bytes) != (0, 0) {
                charge(connection, tenant, &sums).await?;
            }
            if (sums.backups, sums.backup_bytes) != (0, 0) {
                charge_backups(connection, tenant, &sums).await?;
            }
        }
        Ok(())
    }
}

async fn charge(connection: &mut Connection, tenant: TenantId, sums: &Sums) -> Result<(), MetaError> {
    // Subtracting from the limit, since adding to the usage could overflow; shrinking is always allowed.
    let done = sqlx::query(
        "UPDATE tenants SET used_volumes = used_volumes + $2, used_bytes = used_bytes + $3 WHERE id = $1 \
         AND ($2 <= 0 OR $2 <= COALESCE(quota_volumes, 9223372036854775807) - used_volumes) \
         AND ($3 <= 0 OR $3 <= COALESCE(quota_bytes, 9223372036854775807) - used_bytes)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(sums.volumes)
    .bind(sums.bytes)
    .execute(&mut *connection)
    .await?;
    // The tenant exists: its volumes' rows, written before, refer to it.
    if done.rows_affected() > 0 {
        return Ok(());
    }
    let (used, most): (i64, Option<i64>) =
        sqlx::query_as("SELECT used_volumes, quota_volumes FROM tenants WHERE id = $1")
            .bind(tenant.as_bytes().as_slice())
            .fetch_one(connection)
            .await?;
    let most = most.filter(|most| sums.volumes > 0 && sums.volumes > *most - used);
    Err(most.map_or(MetaError::QuotaExceeded, |most| MetaError::TooManyVolumes(most.cast_unsigned())))
}

/// As [`charge`], for backups, whose bytes have the limit of volumes where they have none of their own.
async fn charge_backups(connection: &mut Connection, tenant: TenantId, sums: &Sums) -> Result<(), MetaError> {
    let done = sqlx::query(
        "UPDATE tenants SET used_backups = used_backups + $2, used_backup_bytes = used_backup_bytes + $3 WHERE id = $1 \
         AND ($2 <= 0 OR $2 <= COALESCE(quota_backups, 9223372036854775807) - used_backups) \
         AND ($3 <= 0 OR $3 <= COALESCE(quota_backup_bytes, quota_bytes, 9223372036854775807) - used_backup_bytes)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(sums.backups)
    .bind(sums.backup_bytes)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() > 0 {
        return Ok(());
    }
    let (used, most): (i64, Option<i64>) =
        sqlx::query_as("SELECT used_backups, quota_backups FROM tenants WHERE id = $1")
            .bind(tenant.as_bytes().as_slice())
            .fetch_one(connection)
            .await?;
    let most = most.filter(|most| sums.backups > 0 && sums.backups > *most - used);
    Err(most.map_or(MetaError::BackupsExceeded, |most| MetaError::TooManyBackups(most.cast_unsigned())))
}

pub(super) async fn insert(connection: &mut Connection, volume: &Volume, bill: &mut Bill) -> Result<(), MetaError> {
    let (meta, attributes) = (json(&volume.meta), json(&volume.attributes));
    if volume.name.len() + meta.len() + attributes.len() > LONGEST_ROW {
        return Err(MetaError::TooLong);
    }
    sqlx::query(
        "INSERT INTO volumes (id, tenant, name, media, size, charged, state, reason, generation, revision, \
         created, updated, sha256, meta, attributes, kind, content, source, zone, is_image, is_hpc, blake3) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
    )
    .bind(volume.id.as_bytes().as_slice())
    .bind(volume.tenant.as_bytes().as_slice())
    .bind(volume.name.as_str())
    .bind(media_text(volume.media))
    .bind(volume.size.get().cast_signed())
    .bind(volume.charged.get().cast_signed())
    .bind(state_text(volume.state))
    .bind(volume.reason.as_deref())
    .bind(number(volume.generation)?)
    .bind(number(volume.revision)?)
    .bind(volume.created.0)
    .bind(volume.updated.0)
    .bind(volume.digests.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(meta)
    .bind(attributes)
    .bind(kind_text(volume.kind))
    .bind(volume.content.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(volume.source.as_deref())
    .bind(BlockView::of(volume).zone())
    .bind(i64::from(BlockView::is_image(volume)))
    .bind(i64::from(Placement::of(&volume.attributes).is_some()))
    .bind(volume.digests.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .execute(connection)
    .await?;
    bill.add(volume.tenant, counted(volume.kind), volume.charged.get().cast_signed())
}

/// Fails with [`MetaError::Duplicate`] when a name is taken, and keeps it free until the end of the transaction.
async fn check_vacant(connection: &mut Connection, vacant: &Vacancy) -> Result<(), MetaError> {
    let tenant = vacant.tenant.as_bytes().as_slice();
    // Where several write at once, the row of the tenant lets one of them look at a time.
    sqlx::query("UPDATE tenants SET used_volumes = used_volumes WHERE id = $1")
        .bind(tenant)
        .execute(&mut *connection)
        .await?;
    let taken = sqlx::query(
        "SELECT 1 FROM volumes WHERE tenant = $1 AND kind IN ('drive', 'tree') AND name = $2 AND is_hpc = 1 \
         AND state <> 'deleting' LIMIT 1",
    )
    .bind(tenant)
    .bind(vacant.name.as_str())
    .fetch_optional(connection)
    .await?;
    if taken.is_some() { Err(MetaError::Duplicate) } else { Ok(()) }
}

async fn update(tx: &mut Write, volume: &Volume, bill: &mut Bill) -> Result<Volume, MetaError> {
    let (tenant, _, charged) = charge_of(tx, volume.id).await?.ok_or(MetaError::NotFound)?;
    let (meta, attributes) = (json(&volume.meta), json(&volume.attributes));
    let length = volume.name.len() + meta.len() + attributes.len();
    // One of an older version may be longer, and can still be worked with and removed.
    if length > LONGEST_ROW && stored_length(tx, volume.id).await?.is_none_or(|there| length > there) {
        return Err(MetaError::TooLong);
    }
    let done = sqlx::query(
        "UPDATE volumes SET name = $3, media = $4, size = $5, charged = $6, state = $7, reason = $8, \
         generation = $9, updated = $10, sha256 = $11, meta = $12, attributes = $13, content = $14, source = $15, \
         zone = $16, is_image = $17, is_hpc = $18, blake3 = $19, \
         revision = revision + 1 \
         WHERE id = $1 AND revision = $2",
    )
    .bind(volume.id.as_bytes().as_slice())
    .bind(number(volume.revision)?)
    .bind(volume.name.as_str())
    .bind(media_text(volume.media))
    .bind(volume.size.get().cast_signed())
    .bind(volume.charged.get().cast_signed())
    .bind(state_text(volume.state))
    .bind(volume.reason.as_deref())
    .bind(number(volume.generation)?)
    .bind(volume.updated.0)
    .bind(volume.digests.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(meta)
    .bind(attributes)
    .bind(volume.content.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(volume.source.as_deref())
    .bind(BlockView::of(volume).zone())
    .bind(i64::from(BlockView::is_image(volume)))
    .bind(i64::from(Placement::of(&volume.attributes).is_some()))
    .bind(volume.digests.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(MetaError::Conflict);
    }
    bill.add(tenant, 0, volume.charged.get().cast_signed() - charged.get().cast_signed())?;
    Ok(Volume { revision: volume.revision + 1, ..volume.clone() })
}

async fn remove(tx: &mut Write, id: VolumeId, bill: &mut Bill) -> Result<(), MetaError> {
    let Some((tenant, kind, charged)) = charge_of(tx, id).await? else { return Ok(()) };
    sqlx::query("DELETE FROM volumes WHERE id = $1").bind(id.as_bytes().as_slice()).execute(&mut **tx).await?;
    bill.add(tenant, -counted(kind), -charged.get().cast_signed())
}

/// How many volumes of a quota one of this kind is: a snapshot takes bytes alone.
pub(super) const fn counted(kind: VolumeKind) -> i64 {
    match kind {
        VolumeKind::Drive | VolumeKind::Tree => 1,
        VolumeKind::Snapshot => 0,
    }
}

/// Who pays for a volume, what it is, and for how many bytes.
async fn charge_of(
    connection: &mut Connection,
    id: VolumeId,
) -> Result<Option<(TenantId, VolumeKind, ByteCount)>, MetaError> {
    let row = sqlx::query("SELECT tenant, kind, charged FROM volumes WHERE id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        let tenant = TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?);
        Ok((tenant, kind_from(row.try_get("kind")?)?, bytes_from(&row, "charged")?))
    })
    .transpose()
}

/// A counter of ours as the database holds it; it would take centuries to overflow one.
fn number(counter: u64) -> Result<i64, MetaError> {
    i64::try_from(counter).map_err(|_| MetaError::Conflict)
}

fn json(map: &Map<String, Value>) -> String {
    // The `Display` of a JSON value is its compact text, and cannot fail as `to_string` in general can.
    Value::Object(map.clone()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{DriveFilter, Page, Quota, UnixTime, VolumeEvent};
    use crate::meta::JobKind;
    use crate::meta::Lane;
    use crate::meta::testing::{Scene, count, drive, quota, scene, scene_with};

    async fn used(scene: &Scene) -> (u64, u64) {
        let usage = scene.meta.usage(scene.tenant).await.unwrap().1;
        (usage.volumes, usage.bytes.get())
    }

    #[tokio::test]
    async fn a_clone_begins_and_ends_in_one_transaction_each() {
        let scene = scene().await;
        let meta = &scene.meta;
        let source = drive(scene.tenant, 10);
        meta.insert_volumes(vec![source.clone()], vec![]).await.unwrap();

        let mut target = Volume { state: VolumeState::CloningTarget, ..drive(scene.tenant, 10) };
        let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
        let begin = Batch {
            update: vec![source],
            insert: vec![target.clone()],
            enqueue: vec![NewJob::new(kind, target.id, UnixTime(5))],
            ..Batch::default()
        };
        let mut source = meta.apply(begin).await.unwrap().remove(0);
        assert_eq!(source.revision, 2);
        assert_eq!(used(&scene).await, (2, 20));

        let job = meta.claim("worker", UnixTime(6), 60, Lane::Prompt).await.unwrap().unwrap();
        assert_eq!((job.kind, job.volume, job.attempts()), (kind, target.id, 1));
        source.name = "copied".to_owned();
        target.step(VolumeEvent::Completed).unwrap();
        let end = Batch { finish: Some(job.lease), update: vec![target, source], ..Batch::default() };
        let ended = meta.apply(end.clone()).await.unwrap();
        assert!(ended.iter().all(|volume| volume.state == VolumeState::Available));
        for volume in &ended {
            assert_eq!(meta.volume_any(volume.id).await.unwrap().as_ref(), Some(volume));
        }
        assert!(matches!(meta.apply(end).await, Err(MetaError::LeaseLost)), "a job ends once");
        assert!(meta.claim("worker", UnixTime(9_999_999), 60, Lane::Prompt).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_update_of_an_old_revision_is_refused_and_takes_its_whole_batch_with_it() {
        let scene = scene().await;
        let (first, second) = (drive(scene.tenant, 1), drive(scene.tenant, 1));
        scene.meta.insert_volumes(vec![first.clone(), second.clone()], vec![]).await.unwrap();
        let renamed = Volume { name: "new".to_owned(), ..second.clone() };
        let renamed = scene.meta.update(renamed).await.unwrap();
        assert_eq!(renamed.revision, 2);

        let batch = Batch {
            remove: vec![first.id],
            update: vec![second],
            insert: vec![drive(scene.tenant, 7)],
            ..Batch::default()
        };
        assert!(matches!(scene.meta.apply(batch).await, Err(MetaError::Conflict)));
        assert_eq!(used(&scene).await, (2, 2));
        assert_eq!(scene.meta.volume_any(first.id).await.unwrap(), Some(first));
        assert_eq!(scene.meta.volume_any(renamed.id).await.unwrap(), Some(renamed));
    }

    #[tokio::test]
    async fn an_update_moves_no_volume_to_another_tenant_or_time() {
        let scene = scene().await;
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let volume = drive(scene.tenant, 1);
        scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
        let moved = Volume { tenant: other, created: UnixTime(5), charged: count(3), ..volume.clone() };
        scene.meta.update(moved).await.unwrap();
        let stored = scene.meta.volume(scene.tenant, volume.id).await.unwrap().unwrap();
        assert_eq!(stored.created, volume.created);
        assert_eq!(used(&scene).await, (1, 3));
    }

    #[tokio::test]
    async fn what_is_not_there_cannot_be_updated_but_may_be_removed_twice() {
        let scene = scene().await;
        let volume = drive(scene.tenant, 4);
        assert!(matches!(scene.meta.update(volume.clone()).await, Err(MetaError::NotFound)));
        scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
        let again = scene.meta.insert_volumes(vec![volume.clone()], vec![]).await;
        assert!(matches!(again, Err(MetaError::Duplicate)));
        for _ in 0..2 {
            scene.meta.remove_volume(volume.id).await.unwrap();
            assert_eq!(used(&scene).await, (0, 0));
        }
        let orphan = Volume { tenant: TenantId::random(), ..volume };
        assert!(matches!(scene.meta.insert_volumes(vec![orphan], vec![]).await, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn several_volumes_are_admitted_together_or_not_at_all() {
        let scene = scene_with(quota(3, 100)).await;
        let four = (0..4).map(|_| drive(scene.tenant, 1)).collect();
        assert!(matches!(scene.meta.insert_volumes(four, vec![]).await, Err(MetaError::TooManyVolumes(3))));
        let heavy = vec![drive(scene.tenant, 60), drive(scene.tenant, 41)];
        assert!(matches!(scene.meta.insert_volumes(heavy, vec![]).await, Err(MetaError::QuotaExceeded)));
        assert_eq!(used(&scene).await, (0, 0));
        let fitting = vec![drive(scene.tenant, 60), drive(scene.tenant, 40)];
        scene.meta.insert_volumes(fitting.clone(), vec![]).await.unwrap();
        assert_eq!(used(&scene).await, (2, 100));

        // What the batch frees, it may use.
        let swap = Batch { remove: vec![fitting[0].id], insert: vec![drive(scene.tenant, 55)], ..Batch::default() };
        scene.meta.apply(swap).await.unwrap();
        assert_eq!(used(&scene).await, (2, 95));
    }

    #[tokio::test]
    async fn a_record_is_as_long_as_it_may_be_and_one_of_old_can_only_get_shorter() {
        let scene = scene().await;
        let named = |length: usize| Volume { name: "x".repeat(length), ..drive(scene.tenant, 1) };
        let texts = json(&serde_json::Map::new()).len() * 2;
        let insert = |volume: Volume| scene.meta.insert_volumes(vec![volume], vec![]);
        assert!(matches!(insert(named(LONGEST_ROW - texts + 1)).await, Err(MetaError::TooLong)));
        let mut long = named(LONGEST_ROW - texts);
        insert(long.clone()).await.unwrap();
        long.name.push('x');
        assert!(matches!(scene.meta.update(long.clone()).await, Err(MetaError::TooLong)));
        sqlx::query("UPDATE volumes SET name = $1").bind(&long.name).execute(&scene.meta.db.writer).await.unwrap();
        let long = scene.meta.update(long).await.unwrap();
        let longer = Volume { name: format!("{}x", long.name), ..long.clone() };
        assert!(matches!(scene.meta.update(longer).await, Err(MetaError::TooLong)));
        scene.meta.remove_volume(long.id).await.unwrap();
    }

    #[tokio::test]
    async fn backups_are_charged_by_size_and_number_and_refunded() {
        let scene = scene_with(quota(9, 100)).await;
        let meta = &scene.meta;
        let backup = |size| crate::meta::testing::backup(scene.tenant, size);
        let insert = |backups| meta.apply(Batch { insert_backups: backups, ..Batch::default() });
        let first = backup(60);
        insert(vec![first.clone()]).await.unwrap();
        let refused = insert(vec![backup(41)]).await;
        assert!(matches!(refused, Err(MetaError::BackupsExceeded)), "as many bytes as volumes may have: {refused:?}");
        let limits = Quota { backups: Some(2), backup_bytes: Some(count(1000)), ..quota(9, 100) };
        meta.set_quota(scene.tenant, limits).await.unwrap();
        insert(vec![backup(500)]).await.unwrap();
        assert!(matches!(insert(vec![backup(1)]).await, Err(MetaError::TooManyBackups(2))));
        let (told, usage) = meta.usage(scene.tenant).await.unwrap();
        assert_eq!((told, usage.backups, usage.backup_bytes, usage.volumes), (limits, 2, count(560), 0));
        for _ in 0..2 {
            let remove = Batch { remove_backups: vec![first.id], ..Batch::default() };
            meta.apply(remove).await.unwrap();
        }
        let usage = meta.usage(scene.tenant).await.unwrap().1;
        assert_eq!((usage.backups, usage.backup_bytes), (1, count(500)));
    }

    #[tokio::test]
    async fn usage_cannot_overflow_even_without_a_quota() {
        let scene = scene().await;
        let max = ByteCount::MAX.get();
        scene.meta.insert_volumes(vec![drive(scene.tenant, max - 1)], vec![]).await.unwrap();
        let more = |bytes| scene.meta.insert_volumes(vec![drive(scene.tenant, bytes)], vec![]);
        assert!(matches!(more(2).await, Err(MetaError::QuotaExceeded)));
        assert!(matches!(more(max).await, Err(MetaError::QuotaExceeded)));
        more(1).await.unwrap();
        assert_eq!(used(&scene).await, (2, max));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_those_who_want_a_vacant_name_one_gets_it() {
        let scene = scene().await;
        let fields = Placement { region: "r".to_owned(), volume_type: "t".to_owned(), user: "alice".to_owned() };
        let named = |is_hpc: bool| {
            let mut volume = Volume { name: "data".to_owned(), ..drive(scene.tenant, 1) };
            if is_hpc {
                fields.put(&mut volume.attributes);
            }
            volume
        };
        let vacant = || vec![Vacancy { tenant: scene.tenant, name: "data".to_owned() }];
        let wish = |volume| Batch { insert: vec![volume], vacant: vacant(), ..Batch::default() };
        // A label of another dialect takes no name.
        scene.meta.insert_volumes(vec![named(false)], vec![]).await.unwrap();
        let mut wishes = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (meta, batch) = (scene.meta.clone(), wish(named(true)));
            wishes.spawn(async move { meta.apply(batch).await });
        }
        let outcomes = wishes.join_all().await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(MetaError::Duplicate))));
        assert_eq!(used(&scene).await, (2, 2));
        // It is free again as soon as the removal of what had it has begun; and it is another tenant's own.
        let (all, _) = scene
            .meta
            .list(scene.tenant, &DriveFilter::default(), Page { limit: None, offset: 0 })
            .await
            .unwrap()
            .unwrap();
        let taken = all.into_iter().find(|volume| Placement::of(&volume.attributes).is_some()).unwrap();
        scene.meta.update(Volume { state: VolumeState::Deleting, ..taken }).await.unwrap();
        scene.meta.apply(wish(named(true))).await.unwrap();
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let theirs = Vacancy { tenant: other, name: "data".to_owned() };
        scene.meta.apply(Batch { vacant: vec![theirs], ..Batch::default() }).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_fifty_concurrent_creations_a_quota_of_ten_admits_ten() {
        let scene = scene_with(quota(10, 1_000)).await;
        let mut creations = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (meta, tenant) = (scene.meta.clone(), scene.tenant);
            creations.spawn(async move { meta.insert_volumes(vec![drive(tenant, 7)], vec![]).await });
        }
        let mut admitted = 0;
        while let Some(done) = creations.join_next().await {
            match done.unwrap() {
                Ok(()) => admitted += 1,
                Err(MetaError::TooManyVolumes(10)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(admitted, 10);
        assert_eq!(used(&scene).await, (10, 70));
    }

    #[tokio::test]
    async fn a_growing_upload_is_charged_for_what_the_quota_has_room_for() {
        let scene = scene_with(quota(5, 100)).await;
        let upload = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 0) };
        let other = drive(scene.tenant, 20);
        scene.meta.insert_volumes(vec![upload.clone(), other.clone()], vec![]).await.unwrap();
        let charge = |want, least| scene.meta.charge_upto(upload.id, count(want), count(least));

        assert_eq!(charge(64, 64).await.unwrap(), count(64));
        assert_eq!(charge(64, 1).await.unwrap(), count(1), "little is left: others that grow find some");
        assert_eq!(charge(64, 15).await.unwrap(), count(15));
        assert!(matches!(charge(64, 1).await, Err(MetaError::QuotaExceeded)));
        assert_eq!(used(&scene).await, (2, 100));

        // A change based on the record before the charges would undo them.
        assert!(matches!(scene.meta.update(upload.clone()).await, Err(MetaError::Conflict)));
        let now = scene.meta.volume_any(upload.id).await.unwrap().unwrap();
        assert_eq!(now.charged, count(80));
        let done = Volume { state: VolumeState::Available, charged: count(70), size: count(70), ..now };
        scene.meta.update(done).await.unwrap();
        assert_eq!(used(&scene).await, (2, 90));
        assert!(matches!(charge(1, 1).await, Err(MetaError::Conflict)), "not uploading any more");
        assert!(matches!(
            scene.meta.charge_upto(VolumeId::random(), count(1), count(1)).await,
            Err(MetaError::NotFound)
        ));
    }

    /// One step of a random history. The index picks among the volumes that there are.
    #[derive(Clone, Debug)]
    enum Step {
        Insert(Vec<u64>),
        Recharge(prop::sample::Index, u64),
        ChargeUpto(prop::sample::Index, u64, u64),
        Remove(prop::sample::Index),
        Swap(prop::sample::Index, u64),
        Requota(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            3 => prop::collection::vec(0..40_u64, 1..4).prop_map(Step::Insert),
            2 => (index(), 0..80_u64).prop_map(|(i, bytes)| Step::Recharge(i, bytes)),
            2 => (index(), 0..40_u64, 0..10_u64).prop_map(|(i, want, least)| Step::ChargeUpto(i, want, least)),
            2 => index().prop_map(Step::Remove),
            1 => (index(), 0..60_u64).prop_map(|(i, bytes)| Step::Swap(i, bytes)),
            1 => (0..8_u64, 0..150_u64).prop_map(|(volumes, bytes)| Step::Requota(volumes, bytes)),
        ]
    }

    async fn take(scene: &Scene, step: Step, quota_now: &mut (u64, u64)) -> Result<(), MetaError> {
        let meta = &scene.meta;
        let (there, _) =
            meta.list(scene.tenant, &DriveFilter::default(), Page { limit: None, offset: 0 }).await?.unwrap();
        let uploading = |bytes| Volume { state: VolumeState::Uploading, ..drive(scene.tenant, bytes) };
        match step {
            Step::Insert(sizes) => meta.insert_volumes(sizes.into_iter().map(uploading).collect(), vec![]).await,
            Step::Requota(volumes, bytes) => {
                *quota_now = (volumes, bytes);
                meta.set_quota(scene.tenant, quota(volumes, bytes)).await
            }
            _ if there.is_empty() => Ok(()),
            Step::Recharge(i, bytes) => {
                meta.update(Volume { charged: count(bytes), ..i.get(&there).clone() }).await.map(drop)
            }
            Step::ChargeUpto(i, want, least) => {
                let granted = meta.charge_upto(i.get(&there).id, count(want), count(least)).await?;
                assert!(granted >= count(least).min(count(want)) && granted <= count(want));
                Ok(())
            }
            Step::Remove(i) => meta.remove_volume(i.get(&there).id).await,
            Step::Swap(i, bytes) => {
                let swap = Batch { remove: vec![i.get(&there).id], insert: vec![uploading(bytes)], ..Batch::default() };
                meta.apply(swap).await.map(drop)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn usage_is_always_the_sum_of_the_volumes_and_never_grows_above_the_quota(
            steps in prop::collection::vec(step(), 1..40)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut quota_now = (5, 100);
                let scene = scene_with(quota(5, 100)).await;
                let mut before = (0, 0);
                for step in steps {
                    match take(&scene, step, &mut quota_now).await {
                        Ok(()) | Err(MetaError::QuotaExceeded | MetaError::TooManyVolumes(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                    let all = scene.meta.volumes_in(&[VolumeState::Uploading]).await.unwrap();
                    let sum = (all.len() as u64, all.iter().map(|volume| volume.charged.get()).sum::<u64>());
                    let now = used(&scene).await;
                    assert_eq!(now, sum);
                    assert!(now.0 <= before.0.max(quota_now.0) && now.1 <= before.1.max(quota_now.1));
                    before = now;
                }
            });
        }
    }
}
