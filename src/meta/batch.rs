//! Changing volumes and jobs: several facts in one transaction, quotas included.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::Row as _;

use super::block::{attach, detach, insert_backup, remove_backup, update_backup};
use super::contents::drop_content;
use super::jobs::{enqueue, finish};
use super::sqlite::{Connection, Write};
use super::tenants::{limit_from, quota_and_usage};
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
             COALESCE(t.quota_bytes, 9223372036854775807) AS quota, t.quota_volume_bytes \
             FROM volumes v JOIN limited_tenants t ON t.id = v.tenant WHERE v.id = $1",
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
        let most = limit_from(&row, "quota_volume_bytes")?;
        let granted = want.min(share).min(most.unwrap_or(ByteCount::MAX).saturating_sub(charged));
        if granted < least {
            if let Some(most) = most.filter(|most| most.saturating_sub(charged) < least) {
                return Err(MetaError::VolumeTooLarge(most));
            }
            return Err(MetaError::QuotaExceeded);
        }
        sqlx::query("UPDATE volumes SET charged = charged + $2, revision = revision + 1 WHERE id = $1")
            .bind(id.as_bytes().as_slice())
            .bind(granted.get().cast_signed())
            .execute(&mut *tx)
            .await?;
        let mut bill = Bill::default();
        bill.grow(tenant, granted.get().cast_signed())?;
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
    snapshots: i64,
    bytes: i64,
    /// The most bytes of a volume that is new or has grown.
    largest: i64,
    backups: i64,
    backup_bytes: i64,
}

impl Bill {
    /// A volume that begins with these bytes.
    fn add(&mut self, tenant: TenantId, kind: VolumeKind, bytes: ByteCount) -> Result<(), MetaError> {
        self.count(tenant, kind, 1);
        self.measure(tenant, kind, bytes);
        self.grow(tenant, bytes.get().cast_signed())
    }

    /// A volume that ends with these bytes.
    fn subtract(&mut self, tenant: TenantId, kind: VolumeKind, bytes: ByteCount) -> Result<(), MetaError> {
        self.count(tenant, kind, -1);
        self.grow(tenant, -bytes.get().cast_signed())
    }

    fn grow(&mut self, tenant: TenantId, bytes: i64) -> Result<(), MetaError> {
        let sums = self.0.entry(tenant).or_default();
        sums.bytes = sums.bytes.checked_add(bytes).ok_or(MetaError::QuotaExceeded)?;
        Ok(())
    }

    fn count(&mut self, tenant: TenantId, kind: VolumeKind, change: i64) {
        let sums = self.0.entry(tenant).or_default();
        let [volumes, snapshots] = counted(kind);
        sums.volumes += volumes * change;
        sums.snapshots += snapshots * change;
    }

    /// Notes the size of a volume that is new or has grown. That of a snapshot is limited by its volume's.
    fn measure(&mut self, tenant: TenantId, kind: VolumeKind, bytes: ByteCount) {
        if kind != VolumeKind::Snapshot {
            let sums = self.0.entry(tenant).or_default();
            sums.largest = sums.largest.max(bytes.get().cast_signed());
        }
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
            if (sums.volumes, sums.snapshots, sums.bytes, sums.largest) != (0, 0, 0, 0) {
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
        "UPDATE tenants SET used_volumes = tenants.used_volumes + $2, used_bytes = tenants.used_bytes + $3, \
         used_snapshots = tenants.used_snapshots + $4 \
         FROM limited_tenants l WHERE tenants.id = $1 AND l.id = $1 \
         AND ($2 <= 0 OR $2 <= COALESCE(l.quota_volumes, 9223372036854775807) - tenants.used_volumes) \
         AND ($3 <= 0 OR $3 <= COALESCE(l.quota_bytes, 9223372036854775807) - tenants.used_bytes) \
         AND ($4 <= 0 OR $4 <= COALESCE(l.quota_snapshots, 9223372036854775807) - tenants.used_snapshots) \
         AND $5 <= COALESCE(l.quota_volume_bytes, 9223372036854775807)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(sums.volumes)
    .bind(sums.bytes)
    .bind(sums.snapshots)
    .bind(sums.largest)
    .execute(&mut *connection)
    .await?;
    // The tenant exists: its volumes' rows, written before, refer to it.
    if done.rows_affected() > 0 {
        return Ok(());
    }
    let row = sqlx::query("SELECT * FROM limited_tenants WHERE id = $1")
        .bind(tenant.as_bytes().as_slice())
        .fetch_one(connection)
        .await?;
    let (quota, usage) = quota_and_usage(&row)?;
    let is_over = |more: i64, used: u64, most: u64| more > 0 && used.saturating_add(more.cast_unsigned()) > most;
    if let Some(most) = quota.volume_bytes.filter(|most| sums.largest.cast_unsigned() > most.get()) {
        return Err(MetaError::VolumeTooLarge(most));
    }
    if let Some(most) = quota.volumes.filter(|most| is_over(sums.volumes, usage.volumes, *most)) {
        return Err(MetaError::TooManyVolumes(most));
    }
    if let Some(most) = quota.snapshots.filter(|most| is_over(sums.snapshots, usage.snapshots, *most)) {
        return Err(MetaError::TooManySnapshots(most));
    }
    Err(MetaError::QuotaExceeded)
}

/// As [`charge`], for backups, whose bytes have the limit of volumes where they have none of their own.
async fn charge_backups(connection: &mut Connection, tenant: TenantId, sums: &Sums) -> Result<(), MetaError> {
    let done = sqlx::query(
        "UPDATE tenants SET used_backups = tenants.used_backups + $2, \
         used_backup_bytes = tenants.used_backup_bytes + $3 \
         FROM limited_tenants l WHERE tenants.id = $1 AND l.id = $1 \
         AND ($2 <= 0 OR $2 <= COALESCE(l.quota_backups, 9223372036854775807) - tenants.used_backups) AND ($3 <= 0 OR \
         $3 <= COALESCE(l.quota_backup_bytes, l.quota_bytes, 9223372036854775807) - tenants.used_backup_bytes)",
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
        sqlx::query_as("SELECT used_backups, quota_backups FROM limited_tenants WHERE id = $1")
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
         created, updated, sha256, meta, attributes, kind, content, source, zone, is_image, is_hpc, blake3, \
         blake3_pieces) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
         $23)",
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
    .bind(volume.digests.pieces.as_ref().map(|digest| digest.0.as_slice()))
    .execute(connection)
    .await?;
    bill.add(volume.tenant, volume.kind, volume.charged)
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
    let (tenant, kind, charged) = charge_of(tx, volume.id).await?.ok_or(MetaError::NotFound)?;
    let (meta, attributes) = (json(&volume.meta), json(&volume.attributes));
    let length = volume.name.len() + meta.len() + attributes.len();
    // One of an older version may be longer, and can still be worked with and removed.
    if length > LONGEST_ROW && stored_length(tx, volume.id).await?.is_none_or(|there| length > there) {
        return Err(MetaError::TooLong);
    }
    let done = sqlx::query(
        "UPDATE volumes SET name = $3, media = $4, size = $5, charged = $6, state = $7, reason = $8, \
         generation = $9, updated = $10, sha256 = $11, meta = $12, attributes = $13, content = $14, source = $15, \
         zone = $16, is_image = $17, is_hpc = $18, blake3 = $19, blake3_pieces = $20, \
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
    .bind(volume.digests.pieces.as_ref().map(|digest| digest.0.as_slice()))
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(MetaError::Conflict);
    }
    if volume.charged > charged {
        bill.measure(tenant, kind, volume.charged);
    }
    bill.grow(tenant, volume.charged.get().cast_signed() - charged.get().cast_signed())?;
    Ok(Volume { revision: volume.revision + 1, ..volume.clone() })
}

async fn remove(tx: &mut Write, id: VolumeId, bill: &mut Bill) -> Result<(), MetaError> {
    let Some((tenant, kind, charged)) = charge_of(tx, id).await? else { return Ok(()) };
    sqlx::query("DELETE FROM volumes WHERE id = $1").bind(id.as_bytes().as_slice()).execute(&mut **tx).await?;
    bill.subtract(tenant, kind, charged)
}

/// How many volumes and how many snapshots of a quota one of this kind is.
pub(super) const fn counted(kind: VolumeKind) -> [i64; 2] {
    match kind {
        VolumeKind::Drive | VolumeKind::Tree => [1, 0],
        VolumeKind::Snapshot => [0, 1],
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
mod tests;
