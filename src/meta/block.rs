//! Reading what block storage lists: drives and snapshots by keyset pages, attachments, backups. And their rows.
//!
//! A page's cost does not grow with what lies before it: each begins behind its marker, by an index where the list is
//! in order of making or of names.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::{Map, Value};
use sqlx::Row as _;

use super::sqlite::{
    Connection, DbRow, IDS_AND_REVISIONS, Of, Pairs, Sql, push_block_text, push_bootable, push_pair, push_user, word,
};
use super::volumes::{MOST_TEXTS, SELECT_VOLUMES, bytes_from, from_row, push_states, select_volumes};
use super::{Meta, MetaError, id_bytes};
use crate::domain::{
    AttachedServer, Attachment, Backup, BackupId, BackupRef, BackupState, BlockFields, BlockQuery, BlockVolume,
    ByteCount, Direction, Paged, Seen, ServerQuery, SortKey, TenantId, UnixTime, Volume, VolumeId, VolumeKind,
};

/// Whose things are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This tenant's.
    Tenant(TenantId),
    /// Everybody's.
    Anyone,
}

const GIB: u64 = 1 << 30;

const SELECT_BACKUPS: &str = "SELECT id, number, tenant, volume, snapshot, name, description, container, zone, size, \
     objects, state, reason, origin_number, origin_tenant, created, updated FROM backups ";

const SELECT_ATTACHMENTS: &str = "SELECT volume, server, host, device, read_only, created FROM attachments ";

impl Meta {
    /// A page of volumes of this kind, with what they are attached to. It has fewer than are asked for when their texts
    /// are long, which clients of pages expect: it tells that there are more. [`MetaError::NotFound`] when the marker
    /// is none of them.
    pub async fn block_volumes(
        &self,
        owner: Owner,
        kind: VolumeKind,
        query: &BlockQuery,
    ) -> Result<Paged<BlockVolume>, MetaError> {
        let marker = match query.marker {
            None => None,
            Some(id) => {
                let there = self.volume_any(id).await?.filter(|volume| volume.kind == kind && owner.has(volume.tenant));
                Some(Mark::of_volume(&there.ok_or(MetaError::NotFound)?))
            }
        };
        let page = |head| page_of(head, owner, kind, query, marker.as_ref());
        let volumes = if let Some(known) = self.known(page(IDS_AND_REVISIONS)).await? {
            known
        } else {
            self.read(page(SELECT_VOLUMES)).await?
        };
        let Paged { mut items, mut has_more } = paged(volumes, query.limit);
        let fits = within(MOST_TEXTS, items.iter().map(|volume| volume.texts()));
        has_more |= fits < items.len();
        items.truncate(fits);
        Ok(Paged { items: self.with_attachments(items).await?, has_more })
    }

    /// The volumes of a query of rows, as far as they are read for one page.
    async fn read(&self, mut page: Sql) -> Result<Vec<Arc<Seen>>, MetaError> {
        let mut rows = page.build().fetch(&self.db.readers);
        let (mut volumes, mut texts) = (Vec::new(), 0);
        while texts <= MOST_TEXTS
            && let Some(row) = rows.try_next().await?
        {
            let volume = self.remembered(&row)?;
            texts += volume.texts();
            volumes.push(volume);
        }
        Ok(volumes)
    }

    /// The volumes of a query of ids and revisions, when those of before are as they were: reading a row costs many
    /// times what reading its revision does.
    async fn known(&self, mut page: Sql) -> Result<Option<Vec<Arc<Seen>>>, MetaError> {
        let all: Option<String> = page.push(")").build_query_scalar().fetch_one(&self.db.readers).await?;
        let ids = all.iter().flat_map(|all| all.split(' ')).map(id_and_revision).collect::<Result<Vec<_>, _>>()?;
        let mut volumes: Vec<_> = ids.iter().map(|(id, revision)| self.recent.at(*id, *revision)).collect();
        let missing: Vec<usize> = (0..ids.len()).filter(|at| volumes[*at].is_none()).collect();
        if missing.len() > MOST_MISSING {
            return Ok(None);
        }
        if !missing.is_empty() {
            let mut sql = Sql::new(SELECT_VOLUMES);
            sql.push("WHERE id IN (");
            let mut list = sql.separated(", ");
            for at in &missing {
                list.push_bind(ids[*at].0.as_bytes().to_vec());
            }
            sql.push(")");
            for row in sql.build().fetch_all(&self.db.readers).await? {
                let volume = self.remembered(&row)?;
                // One that has changed meanwhile may not belong to the list any more.
                let place = missing.iter().find(|at| ids[**at] == (volume.id, volume.revision));
                if let Some(at) = place {
                    volumes[*at] = Some(volume);
                }
            }
        }
        Ok(volumes.into_iter().collect())
    }

    /// These volumes, with what they are attached to.
    pub async fn with_attachments(&self, volumes: Vec<Arc<Seen>>) -> Result<Vec<BlockVolume>, MetaError> {
        let mut attached = Vec::new();
        if volumes.iter().any(|volume| volume.state.is_attached()) {
            let mut sql = Sql::new(SELECT_ATTACHMENTS);
            sql.push("WHERE volume IN (");
            let mut ids = sql.separated(", ");
            for volume in volumes.iter().filter(|volume| volume.state.is_attached()) {
                ids.push_bind(volume.id.as_bytes().to_vec());
            }
            sql.push(")");
            let rows = sql.build().fetch_all(&self.db.readers).await?;
            attached = rows.iter().map(attachment_from).collect::<Result<Vec<_>, _>>()?;
        }
        let with = |volume: Arc<Seen>| {
            let at = attached.iter().position(|attachment: &Attachment| attachment.volume == volume.id);
            BlockVolume { volume, attachment: at.map(|at| attached.swap_remove(at)) }
        };
        Ok(volumes.into_iter().map(with).collect())
    }

    /// What is attached to a server of this tenant, by device.
    pub async fn attachments(&self, tenant: TenantId, server: &str) -> Result<Vec<Attachment>, MetaError> {
        let mut sql = Sql::new(SELECT_ATTACHMENTS);
        sql.push("WHERE tenant = ").push_bind(tenant.as_bytes().to_vec());
        sql.push(" AND server = ").push_bind(server.to_owned()).push(" ORDER BY length(device), device");
        let rows = sql.build().fetch_all(&self.db.readers).await?;
        rows.iter().map(attachment_from).collect()
    }

    /// A page of the servers that drives are attached to, in order of their ids.
    pub async fn attached_servers(
        &self,
        owner: Owner,
        query: &ServerQuery,
    ) -> Result<Paged<AttachedServer>, MetaError> {
        let mut sql = Sql::new(
            "SELECT attachments.tenant, attachments.server, attachments.volume FROM attachments \
             JOIN (SELECT DISTINCT tenant, server FROM attachments WHERE server IS NOT NULL",
        );
        owner.push(&mut sql);
        if let Some(tenant) = query.tenant {
            sql.push(" AND tenant = ").push_bind(tenant.as_bytes().to_vec());
        }
        if let Some(marker) = &query.marker {
            sql.push(" AND server > ").push_bind(marker.clone());
        }
        sql.push(" ORDER BY server, tenant LIMIT ").push_bind(i64::from(query.limit) + 1);
        sql.push(") AS page ON attachments.tenant = page.tenant AND attachments.server = page.server");
        sql.push(" ORDER BY attachments.server, attachments.tenant, length(device), device");
        let mut servers: Vec<AttachedServer> = Vec::new();
        for row in sql.build().fetch_all(&self.db.readers).await? {
            let tenant = TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?);
            let id: String = row.try_get("server")?;
            let volume = VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?);
            match servers.last_mut().filter(|last| (last.tenant, &last.id) == (tenant, &id)) {
                Some(server) => server.volumes.push(volume),
                None => servers.push(AttachedServer { id, tenant, volumes: vec![volume] }),
            }
        }
        Ok(paged(servers, Some(query.limit)))
    }

    /// All drives that are images, of their tenant or of everybody, in order of making.
    pub async fn images(&self) -> Result<Vec<Volume>, MetaError> {
        let sql = select_volumes!("WHERE is_image = 1 AND state <> 'deleting' ORDER BY created, id");
        let rows = sqlx::query(sql).fetch_all(&self.db.readers).await?;
        rows.iter().map(from_row).collect()
    }

    /// The ids of the snapshots of a drive.
    pub async fn snapshots_of(&self, tenant: TenantId, volume: VolumeId) -> Result<Vec<VolumeId>, MetaError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT id FROM volumes WHERE kind = 'snapshot' AND source = $1 AND tenant = $2 AND state <> 'deleting'",
        )
        .bind(volume.to_string())
        .bind(tenant.as_bytes().as_slice())
        .fetch_all(&self.db.readers)
        .await?;
        ids.iter().map(|id| Ok(VolumeId::from_bytes(id_bytes(id, "id")?))).collect()
    }

    /// A page of backups. [`MetaError::NotFound`] when the marker is none of them.
    pub async fn backups(&self, owner: Owner, query: &BlockQuery) -> Result<Paged<Backup>, MetaError> {
        let marker = match query.backup_marker {
            None => None,
            Some(named) => Some(Mark::of_backup(&self.backup(owner, named).await?.ok_or(MetaError::NotFound)?)),
        };
        let mut sql = Sql::new(SELECT_BACKUPS);
        sql.push("WHERE 1 = 1");
        owner.push(&mut sql);
        push_common(&mut sql, query);
        if let Some(state) = query.backup_state {
            sql.push(" AND state = ").push_bind(backup_state_text(state));
        }
        for (column, id) in [("volume", query.volume), ("snapshot", query.snapshot)] {
            if let Some(id) = id {
                sql.push(format!(" AND {column} = ")).push_bind(id.as_bytes().to_vec());
            }
        }
        if let Some(zone) = &query.zone {
            sql.push(" AND zone = ").push_bind(zone.clone());
        }
        if let Some(description) = &query.description {
            sql.push(" AND COALESCE(description, '') = ").push_bind(description.clone());
        }
        push_page(&mut sql, Of::Backups, query, marker.as_ref());
        let rows = sql.build().fetch_all(&self.db.readers).await?;
        Ok(paged(rows.iter().map(backup_from).collect::<Result<Vec<_>, _>>()?, query.limit))
    }

    /// One backup.
    pub async fn backup(&self, owner: Owner, backup: BackupRef) -> Result<Option<Backup>, MetaError> {
        let mut sql = Sql::new(SELECT_BACKUPS);
        match backup {
            BackupRef::Id(id) => sql.push("WHERE id = ").push_bind(id.as_bytes().to_vec()),
            // Beyond the database's integers there is none.
            BackupRef::Number(number) => {
                sql.push("WHERE number = ").push_bind(i64::try_from(number).unwrap_or(i64::MAX))
            }
        };
        owner.push(&mut sql);
        let row = sql.build().fetch_optional(&self.db.readers).await?;
        row.as_ref().map(backup_from).transpose()
    }

    /// What a backup keeps of the record of its drive: the owner's labels, and the fields of block storage. Nothing of
    /// one that was taken over from another installation.
    pub async fn kept_of(&self, backup: BackupId) -> Result<(Map<String, Value>, BlockFields), MetaError> {
        let row = sqlx::query("SELECT kept_meta, kept_attributes FROM backups WHERE id = $1")
            .bind(backup.as_bytes().as_slice())
            .fetch_one(&self.db.readers)
            .await?;
        let object = |column| {
            let text: Option<&str> = row.try_get(column)?;
            let read = text.map_or(Ok(Map::new()), serde_json::from_str);
            read.map_err(|_| MetaError::Damaged(column))
        };
        Ok((object("kept_meta")?, BlockFields::among(&object("kept_attributes")?)))
    }

    /// All backups in this state: for what a restart goes on with.
    pub async fn backups_in(&self, state: BackupState) -> Result<Vec<Backup>, MetaError> {
        let mut sql = Sql::new(SELECT_BACKUPS);
        sql.push("WHERE state = ").push_bind(backup_state_text(state)).push(" ORDER BY created, id");
        let rows = sql.build().fetch_all(&self.db.readers).await?;
        rows.iter().map(backup_from).collect()
    }
}

impl Owner {
    fn has(self, tenant: TenantId) -> bool {
        match self {
            Self::Tenant(own) => own == tenant,
            Self::Anyone => true,
        }
    }

    fn push(self, sql: &mut Sql) {
        if let Self::Tenant(tenant) = self {
            sql.push(" AND tenant = ").push_bind(tenant.as_bytes().to_vec());
        }
    }
}

/// How many of these lengths come to no more than `most`, and one at least.
fn within(most: usize, lengths: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fitting = lengths.take_while(|length| {
        sum += length;
        sum <= most
    });
    fitting.count().max(1)
}

/// As many rows are read one by one; of a page with more, all.
const MOST_MISSING: usize = 32;

/// The id in 32 hex digits, and the revision right behind it.
fn id_and_revision(text: &str) -> Result<(VolumeId, u64), MetaError> {
    let parsed = text.split_at_checked(32).and_then(|(id, revision)| {
        let id = u128::from_str_radix(id, 16).ok()?;
        Some((VolumeId::from_bytes(id.to_be_bytes()), revision.parse().ok()?))
    });
    parsed.ok_or(MetaError::Damaged("revision"))
}

/// The rows of a page, and one more, which tells whether there are more.
fn page_of(head: &str, owner: Owner, kind: VolumeKind, query: &BlockQuery, marker: Option<&Mark>) -> Sql {
    let mut sql = Sql::new(head);
    // The kind is no parameter: some indexes are of one kind, and a plan for every kind could not use them.
    sql.push(format!("WHERE kind = '{}' AND state <> 'deleting'", super::volumes::kind_text(kind)));
    owner.push(&mut sql);
    push_common(&mut sql, query);
    if let Some(states) = &query.states {
        sql.push(" AND (");
        push_states(&mut sql, states);
        if let Some(mark) = &query.mark {
            sql.push(" OR (state = 'marked'");
            push_block_text(&mut sql, "mark", mark.clone());
            sql.push(")");
        }
        sql.push(")");
    }
    if let Some(volume) = query.volume {
        sql.push(" AND source = ").push_bind(volume.to_string());
    }
    if let Some(zone) = &query.zone {
        sql.push(" AND COALESCE(zone, ").push_bind(BlockFields::ZONE).push(") = ").push_bind(zone.clone());
    }
    for (field, wanted) in [
        ("description", query.description.clone()),
        ("snapshot", query.snapshot.map(|id| id.to_string())),
        ("volume", query.source.map(|id| id.to_string())),
        ("volume_type", query.volume_type.clone()),
        ("migration", query.migration.clone()),
    ] {
        if let Some(wanted) = wanted {
            push_block_text(&mut sql, field, wanted);
        }
    }
    if let Some(user) = &query.user {
        push_user(&mut sql, user.clone());
    }
    if let Some(bootable) = query.bootable {
        push_bootable(&mut sql, bootable);
    }
    for (of, pairs) in [(Pairs::Labels, &query.metadata), (Pairs::Image, &query.image)] {
        for (key, value) in pairs {
            push_pair(&mut sql, of, key, value);
        }
    }
    push_page(&mut sql, Of::Volumes { by_name: query.name.is_some() }, query, marker);
    sql
}

/// The conditions that volumes and backups share.
fn push_common(sql: &mut Sql, query: &BlockQuery) {
    if let Some(name) = &query.name {
        sql.push(" AND name = ").push_bind(name.clone());
    }
    if let Some(id) = query.id {
        sql.push(" AND id = ").push_bind(id.as_bytes().to_vec());
    }
    if let Some(tenant) = query.tenant {
        sql.push(" AND tenant = ").push_bind(tenant.as_bytes().to_vec());
    }
    if let Some(gib) = query.gib {
        // No size is as large as the first that is beyond the database's integers.
        let gib = i64::try_from(gib).unwrap_or(i64::MAX);
        sql.push(format!(" AND (size / {GIB} + CASE WHEN size % {GIB} > 0 THEN 1 ELSE 0 END) = ")).push_bind(gib);
    }
}

/// The order, and which part of it.
fn push_page(sql: &mut Sql, of: Of, query: &BlockQuery, marker: Option<&Mark>) {
    let order = order_of(&query.sort);
    if let Some(marker) = marker {
        push_behind(sql, &order, of, marker);
    }
    sql.push(" ORDER BY ");
    let mut columns = sql.separated(", ");
    for (key, direction) in &order {
        columns.push(format!("{} {}", of.column(*key), word(*direction)));
    }
    sql.push(" LIMIT ").push_bind(query.limit.map_or(i64::MAX, |limit| i64::from(limit) + 1));
    sql.push(" OFFSET ").push_bind(i64::try_from(query.offset).unwrap_or(i64::MAX));
}

/// Records an attachment; [`MetaError::Duplicate`] when the volume or the device is taken.
pub(super) async fn attach(
    connection: &mut Connection,
    tenant: TenantId,
    attachment: &Attachment,
) -> Result<(), MetaError> {
    sqlx::query(
        "INSERT INTO attachments (volume, tenant, server, host, device, read_only, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(attachment.volume.as_bytes().as_slice())
    .bind(tenant.as_bytes().as_slice())
    .bind(attachment.server.as_deref())
    .bind(attachment.host.as_deref())
    .bind(attachment.device.as_str())
    .bind(i64::from(attachment.read_only))
    .bind(attachment.created.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the record of where a volume is attached, if there is one.
pub(super) async fn detach(connection: &mut Connection, volume: VolumeId) -> Result<(), MetaError> {
    let query = sqlx::query("DELETE FROM attachments WHERE volume = $1").bind(volume.as_bytes().as_slice());
    query.execute(connection).await?;
    Ok(())
}

/// Adds a backup under the next number, which no other had before.
pub(super) async fn insert_backup(connection: &mut Connection, backup: &Backup) -> Result<(), MetaError> {
    let number: i64 =
        sqlx::query_scalar("UPDATE counters SET value = value + 1 WHERE name = 'backups' RETURNING value")
            .fetch_one(&mut *connection)
            .await?;
    sqlx::query(
        "INSERT INTO backups (id, number, tenant, volume, snapshot, name, description, container, zone, size, objects, \
         state, reason, origin_number, origin_tenant, created, updated) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(backup.id.as_bytes().as_slice())
    .bind(number)
    .bind(backup.tenant.as_bytes().as_slice())
    .bind(backup.volume.as_bytes().as_slice())
    .bind(backup.snapshot.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(backup.name.as_deref())
    .bind(backup.description.as_deref())
    .bind(backup.container.as_deref())
    .bind(backup.zone.as_deref())
    .bind(backup.size.get().cast_signed())
    .bind(backup.objects.map(|objects| i64::try_from(objects).unwrap_or(i64::MAX)))
    .bind(backup_state_text(backup.state))
    .bind(backup.reason.as_deref())
    .bind(backup.origin.map(|(number, _)| i64::try_from(number).unwrap_or(i64::MAX)))
    .bind(backup.origin.as_ref().map(|(_, tenant)| tenant.as_bytes().as_slice()))
    .bind(backup.created.0)
    .bind(backup.updated.0)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE backups SET (kept_meta, kept_attributes) = (SELECT meta, attributes FROM volumes WHERE id = $2) \
         WHERE id = $1",
    )
    .bind(backup.id.as_bytes().as_slice())
    .bind(backup.volume.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes a backup that is in the state `from`; [`MetaError::Conflict`] when it is in another, or gone.
pub(super) async fn update_backup(
    connection: &mut Connection,
    backup: &Backup,
    from: BackupState,
) -> Result<(), MetaError> {
    let done = sqlx::query(
        "UPDATE backups SET name = $3, description = $4, container = $5, zone = $6, objects = $7, state = $8, \
         reason = $9, updated = $10 WHERE id = $1 AND state = $2",
    )
    .bind(backup.id.as_bytes().as_slice())
    .bind(backup_state_text(from))
    .bind(backup.name.as_deref())
    .bind(backup.description.as_deref())
    .bind(backup.container.as_deref())
    .bind(backup.zone.as_deref())
    .bind(backup.objects.map(|objects| i64::try_from(objects).unwrap_or(i64::MAX)))
    .bind(backup_state_text(backup.state))
    .bind(backup.reason.as_deref())
    .bind(backup.updated.0)
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 { Err(MetaError::Conflict) } else { Ok(()) }
}

/// Removes the record of a backup, if there is one; whose it was, and of how many bytes.
pub(super) async fn remove_backup(
    connection: &mut Connection,
    id: BackupId,
) -> Result<Option<(TenantId, ByteCount)>, MetaError> {
    let row = sqlx::query("DELETE FROM backups WHERE id = $1 RETURNING tenant, size")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?), bytes_from(&row, "size")?)))
}

/// The keys of a list, its last one the id, so that no two rows are equal.
fn order_of(sort: &[(SortKey, Direction)]) -> Vec<(SortKey, Direction)> {
    let mut order: Vec<(SortKey, Direction)> = Vec::with_capacity(sort.len() + 2);
    for (key, direction) in sort {
        if !order.iter().any(|(known, _)| known == key) {
            order.push((*key, *direction));
        }
    }
    if order.is_empty() {
        order.push((SortKey::Created, Direction::Descending));
    }
    if !order.iter().any(|(key, _)| *key == SortKey::Id) {
        let last = order.last().map_or(Direction::Descending, |(_, direction)| *direction);
        order.push((SortKey::Id, last));
    }
    order
}

/// The rows behind a marker: equal in the first keys, and behind it in the next.
///
/// Comparing rows says so in a way that an index is entered by, but only for keys of one direction; for others the
/// bound of the first key does, and what is equal in that is looked through.
fn push_behind(sql: &mut Sql, order: &[(SortKey, Direction)], of: Of, marker: &Mark) {
    let (first, direction) = order[0];
    let behind = |direction| if direction == Direction::Ascending { ">" } else { "<" };
    if order.iter().all(|(_, other)| *other == direction) {
        let columns: Vec<&str> = order.iter().map(|(key, _)| of.column(*key)).collect();
        sql.push(format!(" AND ({}) {} (", columns.join(", "), behind(direction)));
        for (at, (key, _)) in order.iter().enumerate() {
            sql.push(if at == 0 { "" } else { ", " });
            marker.push(sql, *key);
        }
        sql.push(")");
        return;
    }
    sql.push(format!(" AND {} {}= ", of.column(first), behind(direction)));
    marker.push(sql, first);
    sql.push(" AND (");
    for at in 0..order.len() {
        if at > 0 {
            sql.push(" OR ");
        }
        sql.push("(");
        for (key, _) in &order[..at] {
            sql.push(format!("{} = ", of.column(*key)));
            marker.push(sql, *key);
            sql.push(" AND ");
        }
        let (key, direction) = order[at];
        sql.push(format!("{} {} ", of.column(key), behind(direction)));
        marker.push(sql, key);
        sql.push(")");
    }
    sql.push(")");
}

/// What lists are sorted by, of the thing that a page begins behind.
struct Mark {
    created: UnixTime,
    updated: UnixTime,
    size: ByteCount,
    id: [u8; 16],
    name: String,
    state: &'static str,
}

impl Mark {
    fn of_volume(volume: &Volume) -> Self {
        Self {
            created: volume.created,
            updated: volume.updated,
            size: volume.size,
            id: *volume.id.as_bytes(),
            name: volume.name.clone(),
            state: super::volumes::state_text(volume.state),
        }
    }

    fn of_backup(backup: &Backup) -> Self {
        Self {
            created: backup.created,
            updated: backup.updated,
            size: backup.size,
            id: *backup.id.as_bytes(),
            name: backup.name.clone().unwrap_or_default(),
            state: backup_state_text(backup.state),
        }
    }

    fn push(&self, sql: &mut Sql, key: SortKey) {
        match key {
            SortKey::Created => sql.push_bind(self.created.0),
            SortKey::Updated => sql.push_bind(self.updated.0),
            SortKey::Size => sql.push_bind(self.size.get().cast_signed()),
            SortKey::Id => sql.push_bind(self.id.to_vec()),
            SortKey::Name => sql.push_bind(self.name.clone()),
            SortKey::State => sql.push_bind(self.state),
        };
    }
}

/// Cuts the row that tells that there are more. A page of none has no end to go on from.
fn paged<T>(mut items: Vec<T>, limit: Option<u32>) -> Paged<T> {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let has_more = items.len() > limit && limit > 0;
    items.truncate(limit);
    Paged { items, has_more }
}

fn attachment_from(row: &DbRow) -> Result<Attachment, MetaError> {
    Ok(Attachment {
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
        server: row.try_get("server")?,
        host: row.try_get("host")?,
        device: row.try_get("device")?,
        read_only: row.try_get::<i64, _>("read_only")? != 0,
        created: UnixTime(row.try_get("created")?),
    })
}

fn backup_from(row: &DbRow) -> Result<Backup, MetaError> {
    let count = |number: i64, column| u64::try_from(number).map_err(|_| MetaError::Damaged(column));
    let snapshot: Option<&[u8]> = row.try_get("snapshot")?;
    let objects: Option<i64> = row.try_get("objects")?;
    let origin_number: Option<i64> = row.try_get("origin_number")?;
    let origin_tenant: Option<&[u8]> = row.try_get("origin_tenant")?;
    let origin = match (origin_number, origin_tenant) {
        (Some(number), Some(tenant)) => {
            let tenant = TenantId::from_bytes(id_bytes(tenant, "origin_tenant")?);
            Some((count(number, "origin_number")?, tenant))
        }
        _ => None,
    };
    Ok(Backup {
        id: BackupId::from_bytes(id_bytes(row.try_get("id")?, "id")?),
        number: count(row.try_get("number")?, "number")?,
        tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
        snapshot: snapshot.map(|id| id_bytes(id, "snapshot").map(VolumeId::from_bytes)).transpose()?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        container: row.try_get("container")?,
        zone: row.try_get("zone")?,
        size: bytes_from(row, "size")?,
        objects: objects.map(|objects| count(objects, "objects")).transpose()?,
        state: backup_state_from(row.try_get("state")?)?,
        reason: row.try_get("reason")?,
        origin,
        created: UnixTime(row.try_get("created")?),
        updated: UnixTime(row.try_get("updated")?),
    })
}

const fn backup_state_text(state: BackupState) -> &'static str {
    match state {
        BackupState::Creating => "creating",
        BackupState::Available => "available",
        BackupState::Restoring => "restoring",
        BackupState::Deleting => "deleting",
        BackupState::Error => "error",
    }
}

fn backup_state_from(text: &str) -> Result<BackupState, MetaError> {
    Ok(match text {
        "creating" => BackupState::Creating,
        "available" => BackupState::Available,
        "restoring" => BackupState::Restoring,
        "deleting" => BackupState::Deleting,
        "error" => BackupState::Error,
        _ => return Err(MetaError::Damaged("state")),
    })
}

#[cfg(test)]
mod tests;
