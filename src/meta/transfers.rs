//! Transfers.
//!
//! # Invariants
//! - A volume is filled by one open transfer at most.
//! - A transfer changes its state only from the state that was read, in one transaction with what else that changes.
//! - A tenant has [`MOST_OPEN`] open transfers at most, and about [`MOST_ENDED`] records of ended ones.

use futures_util::TryStreamExt as _;
use sqlx::Row as _;

use super::batch::LONGEST_ROW;
use super::sqlite::{Connection, DbRow, Sql};
use super::volumes::{media_from, media_text};
use super::{Meta, MetaError, id_bytes};
use crate::domain::{
    Blake3, ByteCount, Digests, Origin, Paged, Sha256, TenantId, Transfer, TransferId, TransferQuery, TransferState,
    UnixTime, UserId, VolumeId,
};

/// A query of whole transfers, with what follows `FROM transfers`.
macro_rules! select_transfers {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, \"user\", volume, name, size, reference, asserted_sha256, asserted_blake3, \
             ticket, epoch, state, reason, lifetime, created, updated, sha256, blake3, metadata, media, origin \
             FROM transfers ",
            $rest
        )
    };
}

/// The open and finishing transfers that a tenant may have.
const MOST_OPEN: u64 = 256;

/// The ended transfers of a tenant that are kept.
const MOST_ENDED: i64 = 1_000;

/// The most bytes of the database that their records take together, about, as far as the latest that was begun shows
/// that they may take more.
const MOST_ENDED_BYTES: i64 = 2 << 20;

/// The most bytes of texts with which [`MOST_ENDED`] records cannot exceed [`MOST_ENDED_BYTES`].
const USUAL_TEXTS: usize = 1 << 10;

/// The most bytes of texts in a page, about: clients choose names and references.
const MOST_TEXTS: usize = 2 << 20;

/// A change of a transfer's state.
#[derive(Clone, Debug)]
pub struct TransferStep {
    /// The transfer.
    pub id: TransferId,
    /// The state that it must be in; [`MetaError::Conflict`] when it is in another.
    pub from: TransferState,
    /// The state that it is in from now on.
    pub to: TransferState,
    /// The reason of its failure. One that stays open keeps the reason for which it is to be ended.
    pub reason: Option<String>,
    /// The number of bytes that will come, if it is known now.
    pub size: Option<ByteCount>,
    /// The digests that the client asserts, as far as they are known only now.
    pub asserted: Digests,
    /// The digests of all bytes, as far as they are known now.
    pub digests: Digests,
    /// The time of the change.
    pub now: UnixTime,
}

impl TransferStep {
    /// A change of the state alone.
    pub const fn new(id: TransferId, from: TransferState, to: TransferState, now: UnixTime) -> Self {
        Self { id, from, to, reason: None, size: None, asserted: Digests::NONE, digests: Digests::NONE, now }
    }
}

impl Meta {
    /// A transfer of any tenant.
    pub async fn transfer(&self, id: TransferId) -> Result<Option<Transfer>, MetaError> {
        let row = sqlx::query(select_transfers!("WHERE id = $1"))
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
        row.as_ref().map(transfer_from).transpose()
    }

    /// The open or finishing transfer that fills this volume.
    pub async fn transfer_of(&self, volume: VolumeId) -> Result<Option<Transfer>, MetaError> {
        let row = sqlx::query(select_transfers!("WHERE volume = $1 AND state IN ('open', 'finishing')"))
            .bind(volume.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
        row.as_ref().map(transfer_from).transpose()
    }

    /// The transfer that has made this drive of the tenant, as long as it is remembered. Reads the tenant's ended
    /// transfers, which are few.
    pub async fn transfer_that_made(&self, tenant: TenantId, drive: VolumeId) -> Result<Option<Transfer>, MetaError> {
        let row = sqlx::query(select_transfers!(
            "WHERE tenant = $1 AND state NOT IN ('open', 'finishing') AND state = 'done' AND volume = $2"
        ))
        .bind(tenant.as_bytes().as_slice())
        .bind(drive.as_bytes().as_slice())
        .fetch_optional(&self.db.readers)
        .await?;
        row.as_ref().map(transfer_from).transpose()
    }

    /// The transfer that has filled this drive of the tenant or was to, as long as it is remembered. Reads the tenant's
    /// ended transfers, which are few.
    pub async fn ended_transfer_of(&self, tenant: TenantId, drive: VolumeId) -> Result<Option<Transfer>, MetaError> {
        let row =
            sqlx::query(select_transfers!("WHERE tenant = $1 AND state NOT IN ('open', 'finishing') AND volume = $2"))
                .bind(tenant.as_bytes().as_slice())
                .bind(drive.as_bytes().as_slice())
                .fetch_optional(&self.db.readers)
                .await?;
        row.as_ref().map(transfer_from).transpose()
    }

    /// A page of a tenant's transfers, newest first. It has fewer than are asked for when their texts are long.
    /// [`MetaError::NotFound`] when `after` is none of them.
    pub async fn transfers(&self, tenant: TenantId, query: &TransferQuery) -> Result<Paged<Transfer>, MetaError> {
        let mut tx = self.db.readers.begin().await?;
        let mut sql = Sql::new(select_transfers!("WHERE tenant = "));
        sql.push_bind(tenant.as_bytes().to_vec());
        if let Some(id) = query.after {
            let (created, id): (i64, Vec<u8>) =
                sqlx::query_as("SELECT created, id FROM transfers WHERE tenant = $1 AND id = $2")
                    .bind(tenant.as_bytes().as_slice())
                    .bind(id.as_bytes().as_slice())
                    .fetch_one(&mut *tx)
                    .await?;
            sql.push(" AND (created, id) < (").push_bind(created).push(", ").push_bind(id).push(")");
        }
        if let Some(reference) = &query.reference {
            sql.push(" AND COALESCE(reference, name) = ").push_bind(reference.clone());
        }
        if let Some(state) = query.state {
            sql.push(" AND state = ").push_bind(state.word());
        }
        sql.push(" ORDER BY created DESC, id DESC LIMIT ").push_bind(i64::from(query.limit) + 1);
        let mut rows = sql.build().fetch(&mut *tx);
        let (mut items, mut texts) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            if items.len() >= query.limit as usize || texts > MOST_TEXTS {
                return Ok(Paged { items, has_more: true });
            }
            let transfer = transfer_from(&row)?;
            texts += texts_of(&transfer);
            items.push(transfer);
        }
        Ok(Paged { items, has_more: false })
    }

    /// The open and finishing transfers of all tenants, in order of making.
    pub async fn open_transfers(&self) -> Result<Vec<Transfer>, MetaError> {
        let rows = sqlx::query(select_transfers!("WHERE state IN ('open', 'finishing') ORDER BY created, id"))
            .fetch_all(&self.db.readers)
            .await?;
        rows.iter().map(transfer_from).collect()
    }

    /// The open transfers for which nothing has come for too long, or whose users' logins have ended: the reason is
    /// then in their records.
    pub async fn overdue_transfers(&self, now: UnixTime) -> Result<Vec<TransferId>, MetaError> {
        // The index of the open ones has the finishing too.
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT id FROM transfers WHERE state IN ('open', 'finishing') AND state = 'open' \
             AND (updated + lifetime * 1000 < $1 OR reason IS NOT NULL)",
        )
        .bind(now.0)
        .fetch_all(&self.db.readers)
        .await?;
        ids.iter().map(|id| Ok(TransferId::from_bytes(id_bytes(id, "transfer")?))).collect()
    }

    /// Notes activity of an open transfer. May be forgotten in a power failure, which shortens its life only.
    pub async fn touch_transfer(&self, id: TransferId, now: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE transfers SET updated = $2 WHERE id = $1 AND state = 'open'")
            .bind(id.as_bytes().as_slice())
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
        self.db.commit_unflushed(tx).await
    }

    /// Has these open transfers live no longer than so many seconds from now on. May be forgotten in a power failure.
    pub async fn shorten_transfers(&self, ids: &[TransferId], seconds: u32, now: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        for id in ids {
            sqlx::query(
                "UPDATE transfers SET updated = $2, lifetime = $3 \
                 WHERE id = $1 AND state = 'open' AND updated + lifetime * 1000 > $2 + $3 * 1000",
            )
            .bind(id.as_bytes().as_slice())
            .bind(now.0)
            .bind(i64::from(seconds))
            .execute(&mut *tx)
            .await?;
        }
        self.db.commit_unflushed(tx).await
    }

    /// Gives a transfer its next epoch, which no process had before, and returns it.
    pub async fn take_up_transfer(&self, id: TransferId) -> Result<u32, MetaError> {
        let mut tx = self.db.begin().await?;
        let epoch: i64 = sqlx::query_scalar("UPDATE transfers SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch")
            .bind(id.as_bytes().as_slice())
            .fetch_one(&mut *tx)
            .await?;
        self.db.commit(tx).await?;
        u32::try_from(epoch).map_err(|_| MetaError::Damaged("epoch"))
    }

    /// Forgets the transfers that ended before this; how many those were.
    pub async fn forget_ended_transfers(&self, before: UnixTime) -> Result<u64, MetaError> {
        let old =
            sqlx::query("SELECT 1 FROM transfers WHERE state NOT IN ('open', 'finishing') AND updated < $1 LIMIT 1")
                .bind(before.0)
                .fetch_optional(&self.db.readers)
                .await?;
        if old.is_none() {
            return Ok(0);
        }
        let mut tx = self.db.begin().await?;
        let done = sqlx::query("DELETE FROM transfers WHERE state NOT IN ('open', 'finishing') AND updated < $1")
            .bind(before.0)
            .execute(&mut *tx)
            .await?;
        self.db.commit(tx).await?;
        Ok(done.rows_affected())
    }
}

/// Adds a transfer, unless its tenant has as many as it may, and forgets the oldest ended ones beyond those that are
/// kept. The row of the tenant must have been written before in this transaction: where several write at once, it lets
/// one of them count at a time.
pub(super) async fn begin(connection: &mut Connection, transfer: &Transfer) -> Result<(), MetaError> {
    let texts = texts_of(transfer);
    if texts > LONGEST_ROW {
        return Err(MetaError::TooLong);
    }
    let tenant = transfer.tenant.as_bytes().as_slice();
    let open: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM transfers WHERE tenant = $1 AND state IN ('open', 'finishing')")
            .bind(tenant)
            .fetch_one(&mut *connection)
            .await?;
    if open.cast_unsigned() >= MOST_OPEN {
        return Err(MetaError::TooManyTransfers(MOST_OPEN));
    }
    sqlx::query(
        "INSERT INTO transfers (id, tenant, \"user\", volume, name, size, reference, asserted_sha256, \
         asserted_blake3, ticket, epoch, state, reason, lifetime, created, updated, sha256, blake3, metadata, media, \
         origin) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
         $21)",
    )
    .bind(transfer.id.as_bytes().as_slice())
    .bind(tenant)
    .bind(transfer.user.as_bytes().as_slice())
    .bind(transfer.volume.as_bytes().as_slice())
    .bind(transfer.name.as_str())
    .bind(transfer.size.map(|size| size.get().cast_signed()))
    .bind(transfer.reference.as_deref())
    .bind(transfer.asserted.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.asserted.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.ticket.0.as_slice())
    .bind(i64::from(transfer.epoch))
    .bind(transfer.state.word())
    .bind(transfer.reason.as_deref())
    .bind(i64::from(transfer.lifetime))
    .bind(transfer.created.0)
    .bind(transfer.updated.0)
    .bind(transfer.digests.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.digests.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.metadata.as_deref())
    .bind(media_text(transfer.media))
    .bind(transfer.origin.as_ref().map(Origin::text))
    .execute(&mut *connection)
    .await?;
    forget_oldest(connection, transfer.tenant).await?;
    if texts > USUAL_TEXTS {
        forget_longest(connection, transfer.tenant).await?;
    }
    Ok(())
}

/// Forgets a tenant's oldest ended transfers, as far as there are more than are kept.
async fn forget_oldest(connection: &mut Connection, tenant: TenantId) -> Result<(), MetaError> {
    sqlx::query(
        "DELETE FROM transfers WHERE tenant = $1 AND state NOT IN ('open', 'finishing') AND (updated, id) <= ( \
             SELECT updated, id FROM transfers WHERE tenant = $1 AND state NOT IN ('open', 'finishing') \
             ORDER BY updated DESC, id DESC LIMIT 1 OFFSET $2)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(MOST_ENDED)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a tenant's oldest ended transfers, as far as their records are too long together. It reads all of them.
async fn forget_longest(connection: &mut Connection, tenant: TenantId) -> Result<(), MetaError> {
    sqlx::query(
        "DELETE FROM transfers WHERE id IN (SELECT id FROM ( \
             SELECT id, SUM(400 + octet_length(name) + octet_length(COALESCE(reference, '')) \
                 + octet_length(COALESCE(metadata, '')) + octet_length(COALESCE(reason, '')) \
                 + octet_length(COALESCE(origin, ''))) OVER (ORDER BY updated DESC, id DESC) AS total \
             FROM transfers WHERE tenant = $1 AND state NOT IN ('open', 'finishing')) AS sized \
         WHERE total > $2)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(MOST_ENDED_BYTES)
    .execute(connection)
    .await?;
    Ok(())
}

/// Changes the state of a transfer; [`MetaError::Conflict`] when it is not in the one that was read.
pub(super) async fn step(connection: &mut Connection, step: &TransferStep) -> Result<(), MetaError> {
    let done = sqlx::query(
        "UPDATE transfers SET state = $3, reason = CASE WHEN $3 = 'open' THEN COALESCE($4, reason) ELSE $4 END, \
         size = COALESCE($5, size), updated = $6, asserted_sha256 = COALESCE($7, asserted_sha256), \
         asserted_blake3 = COALESCE($8, asserted_blake3), sha256 = COALESCE($9, sha256), \
         blake3 = COALESCE($10, blake3) \
         WHERE id = $1 AND state = $2",
    )
    .bind(step.id.as_bytes().as_slice())
    .bind(step.from.word())
    .bind(step.to.word())
    .bind(step.reason.as_deref())
    .bind(step.size.map(|size| size.get().cast_signed()))
    .bind(step.now.0)
    .bind(step.asserted.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(step.asserted.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .bind(step.digests.sha256.as_ref().map(|digest| digest.0.as_slice()))
    .bind(step.digests.blake3.as_ref().map(|digest| digest.0.as_slice()))
    .execute(connection)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(MetaError::Conflict) }
}

/// The bytes of a record whose number its client chooses, and of its reason.
fn texts_of(transfer: &Transfer) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let names = transfer.name.len() + length(&transfer.reference);
    let origin = transfer.origin.as_ref().map_or(0, |origin| origin.text().len());
    names + length(&transfer.metadata) + length(&transfer.reason) + origin
}

fn transfer_from(row: &DbRow) -> Result<Transfer, MetaError> {
    let number = |column| u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| MetaError::Damaged(column));
    let digest = |column| {
        let bytes: Option<&[u8]> = row.try_get(column)?;
        bytes.map(|bytes| bytes.try_into().map_err(|_| MetaError::Damaged(column))).transpose()
    };
    let digests = |sha256, blake3| {
        Ok::<_, MetaError>(Digests { sha256: digest(sha256)?.map(Sha256), blake3: digest(blake3)?.map(Blake3) })
    };
    let size: Option<i64> = row.try_get("size")?;
    let size = size.map(|size| u64::try_from(size).ok().and_then(ByteCount::new).ok_or(MetaError::Damaged("size")));
    let origin: Option<&str> = row.try_get("origin")?;
    let origin = origin.map(|text| Origin::from_text(text).ok_or(MetaError::Damaged("origin")));
    Ok(Transfer {
        id: TransferId::from_bytes(id_bytes(row.try_get("id")?, "transfer")?),
        tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        user: UserId::from_bytes(id_bytes(row.try_get("user")?, "user")?),
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
        name: row.try_get("name")?,
        size: size.transpose()?,
        reference: row.try_get("reference")?,
        asserted: digests("asserted_sha256", "asserted_blake3")?,
        ticket: digest("ticket")?.map(Sha256).ok_or(MetaError::Damaged("ticket"))?,
        epoch: number("epoch")?,
        state: TransferState::from_word(row.try_get("state")?).ok_or(MetaError::Damaged("state"))?,
        reason: row.try_get("reason")?,
        lifetime: number("lifetime")?,
        created: UnixTime(row.try_get("created")?),
        updated: UnixTime(row.try_get("updated")?),
        digests: digests("sha256", "blake3")?,
        metadata: row.try_get("metadata")?,
        media: media_from(row.try_get("media")?)?,
        origin: origin.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fault, FaultKind, Media, Volume, VolumeState};
    use crate::meta::Batch;
    use crate::meta::testing::{Scene, count, drive, scene, transfer_of};

    use TransferState::{Cancelled, Done, Expired, Failed, Finishing, Open};

    /// A transfer of the scene's user that was begun then, and the drive that it fills.
    async fn new(scene: &Scene, created: i64) -> (Transfer, Volume) {
        let volume = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 1) };
        let user = scene.meta.user("alice").await.unwrap().unwrap().id;
        let at = UnixTime(created);
        (Transfer { user, created: at, updated: at, ..transfer_of(&volume) }, volume)
    }

    async fn begin_with(scene: &Scene, transfer: &Transfer, volume: Volume) -> Result<(), MetaError> {
        let batch = Batch { begin: Some(transfer.clone()), insert: vec![volume], ..Batch::default() };
        scene.meta.apply(batch).await.map(drop)
    }

    async fn begun(scene: &Scene, created: i64) -> Transfer {
        let (transfer, volume) = new(scene, created).await;
        begin_with(scene, &transfer, volume).await.unwrap();
        transfer
    }

    fn stepping(id: TransferId, from: TransferState, to: TransferState, now: i64) -> TransferStep {
        TransferStep::new(id, from, to, UnixTime(now))
    }

    async fn take(scene: &Scene, step: TransferStep) -> Result<(), MetaError> {
        scene.meta.apply(Batch { step: Some(step), ..Batch::default() }).await.map(drop)
    }

    async fn stored(scene: &Scene, id: TransferId) -> Transfer {
        scene.meta.transfer(id).await.unwrap().unwrap()
    }

    fn all() -> TransferQuery {
        TransferQuery { reference: None, state: None, limit: 2_000, after: None }
    }

    async fn listed(scene: &Scene, query: &TransferQuery) -> Vec<i64> {
        let page = scene.meta.transfers(scene.tenant, query).await.unwrap();
        page.items.iter().map(|transfer| transfer.created.0).collect()
    }

    #[tokio::test]
    async fn a_transfer_comes_back_as_it_was_begun_also_after_close_and_open() {
        let scene = scene().await;
        let plain = begun(&scene, 10).await;
        let (full, volume) = new(&scene, 20).await;
        let full = Transfer {
            size: Some(count(5)),
            reference: Some("mine".to_owned()),
            media: Media::Cdrom,
            metadata: Some("filename YQ==".to_owned()),
            origin: Some(Origin::PutTogether(vec![plain.id, plain.id])),
            asserted: Digests { sha256: Some(Sha256([1; 32])), blake3: Some(Blake3([3; 32])) },
            epoch: 3,
            state: Finishing,
            reason: Some("why".to_owned()),
            updated: UnixTime(25),
            digests: Digests { sha256: Some(Sha256([2; 32])), blake3: Some(Blake3([4; 32])) },
            ..full
        };
        begin_with(&scene, &full, volume).await.unwrap();
        scene.meta.close().await;
        let again = Meta::open(&scene.path).await.unwrap();
        for transfer in [&plain, &full] {
            assert_eq!(again.transfer(transfer.id).await.unwrap().as_ref(), Some(transfer));
            assert_eq!(again.transfer_of(transfer.volume).await.unwrap().as_ref(), Some(transfer));
        }
        assert_eq!(again.open_transfers().await.unwrap(), [plain, full]);
        assert_eq!(again.transfer(TransferId::random()).await.unwrap(), None);
        assert_eq!(again.transfer_of(VolumeId::random()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_volume_is_filled_by_one_transfer_and_a_refused_one_leaves_nothing() {
        let scene = scene().await;
        let first = begun(&scene, 1).await;
        let (mut second, volume) = new(&scene, 2).await;
        second.volume = first.volume;
        let refused = begin_with(&scene, &second, volume.clone()).await;
        assert!(matches!(refused, Err(MetaError::Duplicate)), "{refused:?}");
        assert_eq!(scene.meta.transfer(second.id).await.unwrap(), None);
        assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 1);
        take(&scene, stepping(first.id, Open, Expired, 5)).await.unwrap();
        assert_eq!(scene.meta.transfer_of(first.volume).await.unwrap(), None);
        begin_with(&scene, &second, volume).await.unwrap();
        assert_eq!(scene.meta.transfer_of(first.volume).await.unwrap(), Some(second.clone()));

        let made = async |tenant| {
            let transfer = scene.meta.transfer_that_made(tenant, second.volume).await.unwrap();
            transfer.map(|transfer| transfer.id)
        };
        assert_eq!(made(scene.tenant).await, None);
        take(&scene, stepping(second.id, Open, Done, 6)).await.unwrap();
        assert_eq!(made(scene.tenant).await, Some(second.id));
        assert_eq!(made(TenantId::from_bytes([9; 16])).await, None);
    }

    #[tokio::test]
    async fn a_tenants_transfers_are_listed_newest_first_by_pages() {
        let scene = scene().await;
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let mut ids = Vec::new();
        // Two of each time, so that pages end between them.
        for n in 0..7 {
            ids.push(begun(&scene, n / 2).await.id);
        }
        let (strange, volume) = new(&scene, 2).await;
        let strange = Transfer { tenant: other, ..strange };
        begin_with(&scene, &strange, Volume { tenant: other, ..volume }).await.unwrap();
        let (mut seen, mut query) = (Vec::new(), TransferQuery { limit: 3, ..all() });
        loop {
            let page = scene.meta.transfers(scene.tenant, &query).await.unwrap();
            query.after = page.items.last().map(|transfer| transfer.id);
            seen.extend(page.items);
            if !page.has_more {
                break;
            }
        }
        assert_eq!(seen.iter().map(|transfer| transfer.created.0).collect::<Vec<_>>(), [3, 2, 2, 1, 1, 0, 0]);
        seen.dedup_by_key(|transfer| transfer.id);
        assert_eq!(seen.len(), ids.len());
        let exact = scene.meta.transfers(scene.tenant, &TransferQuery { limit: 7, ..all() }).await.unwrap();
        assert_eq!((exact.items.len(), exact.has_more), (7, false));
        for unknown in [strange.id, TransferId::random()] {
            let after = TransferQuery { after: Some(unknown), ..all() };
            assert!(matches!(scene.meta.transfers(scene.tenant, &after).await, Err(MetaError::NotFound)));
        }
    }

    #[tokio::test]
    async fn a_list_is_of_a_reference_or_of_a_name_without_one_and_of_a_state() {
        let scene = scene().await;
        for (created, name, reference) in
            [(1, "a", Some("b")), (2, "b", None), (3, "b", Some("c")), (4, "d", Some("b")), (5, "a", None)]
        {
            let (transfer, volume) = new(&scene, created).await;
            let (name, reference) = (name.to_owned(), reference.map(str::to_owned));
            let transfer = Transfer { name, reference, ..transfer };
            begin_with(&scene, &transfer, volume).await.unwrap();
            if created == 2 {
                take(&scene, stepping(transfer.id, Open, Cancelled, 9)).await.unwrap();
            }
        }
        let of = |reference: &str| TransferQuery { reference: Some(reference.to_owned()), ..all() };
        assert_eq!(listed(&scene, &of("b")).await, [4, 2, 1]);
        assert_eq!(listed(&scene, &of("a")).await, [5]);
        assert!(listed(&scene, &of("d")).await.is_empty());
        let state = Some(Cancelled);
        assert_eq!(listed(&scene, &TransferQuery { state, ..all() }).await, [2]);
        assert!(listed(&scene, &TransferQuery { state, ..of("c") }).await.is_empty());
        assert_eq!(listed(&scene, &TransferQuery { state: Some(Open), limit: 1, ..of("b") }).await, [4]);
    }

    #[tokio::test]
    async fn a_page_of_long_texts_is_cut_short_and_says_so() {
        let scene = scene().await;
        for created in 0..10 {
            let (transfer, volume) = new(&scene, created).await;
            let transfer = Transfer { reference: Some("x".repeat(LONGEST_ROW - 100)), ..transfer };
            begin_with(&scene, &transfer, volume).await.unwrap();
        }
        let page = scene.meta.transfers(scene.tenant, &all()).await.unwrap();
        assert_eq!((page.items.len(), page.has_more), (9, true));
        let after = page.items.last().map(|transfer| transfer.id);
        assert_eq!(listed(&scene, &TransferQuery { after, ..all() }).await, [0]);
        let (transfer, volume) = new(&scene, 20).await;
        let transfer = Transfer { reference: Some("x".repeat(LONGEST_ROW)), ..transfer };
        assert!(matches!(begin_with(&scene, &transfer, volume).await, Err(MetaError::TooLong)));
    }

    #[tokio::test]
    async fn a_step_sets_what_it_knows_and_is_taken_from_one_state_only() {
        let scene = scene().await;
        let transfer = begun(&scene, 1).await;
        let id = transfer.id;
        let (size, blake3) = (Some(count(9)), Some(Blake3([1; 32])));
        let asserted = Digests { sha256: None, blake3 };
        take(&scene, TransferStep { size, asserted, ..stepping(id, Open, Open, 5) }).await.unwrap();
        let now = Transfer { size, asserted, updated: UnixTime(5), ..transfer };
        assert_eq!(stored(&scene, id).await, now);
        take(&scene, stepping(id, Open, Finishing, 6)).await.unwrap();
        let now = Transfer { state: Finishing, updated: UnixTime(6), ..now };
        assert_eq!(stored(&scene, id).await, now);
        for wrong in [stepping(id, Open, Cancelled, 7), stepping(TransferId::random(), Open, Cancelled, 7)] {
            assert!(matches!(take(&scene, wrong).await, Err(MetaError::Conflict)));
        }
        assert_eq!(stored(&scene, id).await, now);
        let digests = Digests { sha256: Some(Sha256([2; 32])), blake3: None };
        let reason = Some("no".to_owned());
        take(&scene, TransferStep { reason: reason.clone(), digests, ..stepping(id, Finishing, Failed, 8) })
            .await
            .unwrap();
        assert_eq!(stored(&scene, id).await, Transfer { state: Failed, reason, digests, updated: UnixTime(8), ..now });
    }

    #[tokio::test]
    async fn a_batch_whose_step_conflicts_changes_nothing() {
        let scene = scene().await;
        let transfer = begun(&scene, 1).await;
        let volume = scene.meta.volume_any(transfer.volume).await.unwrap().unwrap();
        let (other, its) = new(&scene, 2).await;
        let batch = Batch {
            step: Some(stepping(transfer.id, Finishing, Done, 5)),
            update: vec![Volume { state: VolumeState::Available, ..volume.clone() }],
            insert: vec![its],
            begin: Some(other.clone()),
            ..Batch::default()
        };
        assert!(matches!(scene.meta.apply(batch.clone()).await, Err(MetaError::Conflict)));
        assert_eq!(scene.meta.volume_any(volume.id).await.unwrap(), Some(volume.clone()));
        assert_eq!(stored(&scene, transfer.id).await, transfer);
        assert_eq!(scene.meta.transfer(other.id).await.unwrap(), None);
        // Neither is the step taken of a batch that something else conflicts with.
        let step = Some(stepping(transfer.id, Open, Done, 5));
        let stale = Batch { step, update: vec![Volume { revision: 9, ..volume }], ..Batch::default() };
        assert!(matches!(scene.meta.apply(stale).await, Err(MetaError::Conflict)));
        assert_eq!(stored(&scene, transfer.id).await, transfer);
        scene.meta.apply(Batch { step: Some(stepping(transfer.id, Open, Done, 5)), ..batch }).await.unwrap();
        let volume = scene.meta.volume_any(transfer.volume).await.unwrap().unwrap();
        assert_eq!((stored(&scene, transfer.id).await.state, volume.state), (Done, VolumeState::Available));
        assert_eq!(stored(&scene, other.id).await, other);
    }

    #[tokio::test]
    async fn a_tenant_has_so_many_open_transfers_and_no_more() {
        let scene = scene().await;
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let (template, volume) = new(&scene, 1).await;
        let mut tx = scene.meta.db.begin().await.unwrap();
        let mut ids = Vec::new();
        for n in 0..MOST_OPEN {
            let state = if n % 2 == 0 { Open } else { Finishing };
            let (id, volume) = (TransferId::random(), VolumeId::random());
            begin(&mut tx, &Transfer { id, volume, state, ..template.clone() }).await.unwrap();
            ids.push(id);
        }
        scene.meta.db.commit(tx).await.unwrap();
        let refused = begin_with(&scene, &template, volume.clone()).await;
        assert!(matches!(refused, Err(MetaError::TooManyTransfers(256))), "{refused:?}");
        let fault = Fault::from(refused.unwrap_err());
        assert_eq!(fault.kind, FaultKind::QuotaExceeded);
        assert_eq!(fault.told, "the project has 256 open transfers, and may have no more");
        assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 0);
        let (theirs, its) = new(&scene, 1).await;
        begin_with(&scene, &Transfer { tenant: other, ..theirs }, Volume { tenant: other, ..its }).await.unwrap();
        take(&scene, stepping(ids[1], Finishing, Done, 5)).await.unwrap();
        begin_with(&scene, &template, volume).await.unwrap();
        assert_eq!(scene.meta.open_transfers().await.unwrap().len(), 257);
    }

    #[tokio::test]
    async fn the_latest_ended_transfers_are_kept() {
        let scene = scene().await;
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let open = begun(&scene, 0).await;
        let (template, _) = new(&scene, 0).await;
        let template = Transfer { name: "x".to_owned(), state: Done, ..template };
        let mut tx = scene.meta.db.begin().await.unwrap();
        for n in 1..=MOST_ENDED + 5 {
            let id = TransferId::random();
            let ended = Transfer { id, created: UnixTime(n), updated: UnixTime(10_000 - n), ..template.clone() };
            begin(&mut tx, &ended).await.unwrap();
        }
        let (id, tenant) = (TransferId::random(), other);
        begin(&mut tx, &Transfer { id, tenant, ..template.clone() }).await.unwrap();
        scene.meta.db.commit(tx).await.unwrap();
        // Those that ended first are gone, not those that began first.
        let mut expected: Vec<i64> = (0..=MOST_ENDED).rev().collect();
        assert_eq!(listed(&scene, &all()).await, expected);
        assert!(scene.meta.transfer(id).await.unwrap().is_some());

        let (mut long, volume) = new(&scene, 3_000).await;
        long.reference = Some("y".repeat(LONGEST_ROW - 100));
        begin_with(&scene, &long, volume).await.unwrap();
        expected.insert(0, 3_000);
        assert_eq!(listed(&scene, &all()).await, expected, "short ones are not too long together");
        let mut tx = scene.meta.db.begin().await.unwrap();
        for n in 4_000..4_010 {
            let (id, now) = (TransferId::random(), UnixTime(20_000 + n));
            let ended = Transfer { id, created: UnixTime(n), updated: now, state: Failed, ..long.clone() };
            begin(&mut tx, &ended).await.unwrap();
        }
        scene.meta.db.commit(tx).await.unwrap();
        let mut expected: Vec<i64> = (4_003..4_010).rev().collect();
        expected.extend([3_000, open.created.0]);
        let seen = listed(&scene, &all()).await;
        assert!(seen.starts_with(&expected[..8]) && seen.ends_with(&[0]) && seen.len() < 700, "{seen:?}");
    }

    #[tokio::test]
    async fn what_nothing_comes_for_is_overdue_and_activity_keeps_it() {
        let scene = scene().await;
        let (first, second) = (begun(&scene, 1_000).await, begun(&scene, 2_000).await);
        let overdue = async |now| scene.meta.overdue_transfers(UnixTime(now)).await.unwrap();
        assert_eq!(first.expires(), UnixTime(61_000));
        assert_eq!(overdue(61_000).await, []);
        assert_eq!(overdue(61_001).await, [first.id]);
        scene.meta.touch_transfer(first.id, UnixTime(3_000)).await.unwrap();
        assert_eq!(stored(&scene, first.id).await, Transfer { updated: UnixTime(3_000), ..first });
        assert_eq!(overdue(62_001).await, [second.id]);
        assert_eq!(overdue(63_001).await.len(), 2);
        take(&scene, stepping(second.id, Open, Finishing, 4_000)).await.unwrap();
        scene.meta.touch_transfer(second.id, UnixTime(5_000)).await.unwrap();
        assert_eq!(stored(&scene, second.id).await.updated, UnixTime(4_000));
        assert_eq!(overdue(i64::MAX).await, [first.id], "what is being finished is not left alone by its client");
    }

    #[tokio::test]
    async fn a_life_is_shortened_and_never_made_longer() {
        let scene = scene().await;
        let (one, other) = (begun(&scene, 1_000).await, begun(&scene, 90_000).await);
        let ids = [one.id, other.id, TransferId::random()];
        scene.meta.shorten_transfers(&ids, 30, UnixTime(80_000)).await.unwrap();
        assert_eq!(stored(&scene, one.id).await, one, "it has ended before");
        assert_eq!(stored(&scene, other.id).await.expires(), UnixTime(110_000));
        scene.meta.shorten_transfers(&ids, 300, UnixTime(80_000)).await.unwrap();
        assert_eq!(stored(&scene, other.id).await.expires(), UnixTime(110_000));
    }

    #[tokio::test]
    async fn who_takes_a_transfer_up_gets_an_epoch_of_their_own() {
        let scene = scene().await;
        let id = begun(&scene, 1).await.id;
        for epoch in 1..4 {
            assert_eq!(scene.meta.take_up_transfer(id).await.unwrap(), epoch);
            assert_eq!(stored(&scene, id).await.epoch, epoch);
        }
        assert!(matches!(scene.meta.take_up_transfer(TransferId::random()).await, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn ended_transfers_are_forgotten_by_the_time_of_their_end() {
        let scene = scene().await;
        let (open, finishing) = (begun(&scene, 1).await, begun(&scene, 2).await);
        take(&scene, stepping(finishing.id, Open, Finishing, 2)).await.unwrap();
        for (at, state) in [(10, Done), (11, Failed), (12, Expired), (13, Cancelled)] {
            let id = begun(&scene, at - 7).await.id;
            take(&scene, stepping(id, Open, state, at)).await.unwrap();
        }
        assert_eq!(scene.meta.forget_ended_transfers(UnixTime(10)).await.unwrap(), 0);
        assert_eq!(scene.meta.forget_ended_transfers(UnixTime(12)).await.unwrap(), 2);
        assert_eq!(listed(&scene, &all()).await, [6, 5, 2, 1]);
        assert_eq!(scene.meta.forget_ended_transfers(UnixTime(1_000)).await.unwrap(), 2);
        let left = scene.meta.open_transfers().await.unwrap();
        assert_eq!(left.iter().map(|transfer| transfer.id).collect::<Vec<_>>(), [open.id, finishing.id]);
    }

    #[tokio::test]
    async fn transfers_end_with_the_login_that_they_were_begun_with() {
        let scene = scene().await;
        scene.meta.add_user("bob", "h", "red", None, UnixTime(1)).await.unwrap();
        let blue = scene.meta.add_user("carol", "h", "blue", None, UnixTime(1)).await.unwrap();
        let overdue = async || scene.meta.overdue_transfers(UnixTime(0)).await.unwrap();
        let (here, finishing) = (begun(&scene, 1).await, begun(&scene, 2).await);
        take(&scene, stepping(finishing.id, Open, Finishing, 2)).await.unwrap();
        scene.meta.add_member("alice", blue).await.unwrap();
        let (there, volume) = new(&scene, 3).await;
        let there = Transfer { tenant: blue, ..there };
        begin_with(&scene, &there, Volume { tenant: blue, ..volume }).await.unwrap();

        scene.meta.set_password("bob", "new").await.unwrap();
        assert_eq!(overdue().await, [], "of another user");
        scene.meta.remove_member("alice", blue).await.unwrap();
        assert_eq!(overdue().await, [there.id], "of one project");
        scene.meta.set_password("alice", "new").await.unwrap();
        let mut both = overdue().await;
        both.sort_by_key(|id| *id == there.id);
        assert_eq!(both, [here.id, there.id]);
        assert_eq!(stored(&scene, finishing.id).await.reason, None);

        scene.meta.touch_transfer(here.id, UnixTime(50)).await.unwrap();
        take(&scene, TransferStep { size: Some(count(1)), ..stepping(here.id, Open, Open, 60) }).await.unwrap();
        assert_eq!(overdue().await.len(), 2, "nothing that comes keeps it");
        let reason = Some("the login that it was begun with has ended".to_owned());
        assert_eq!(stored(&scene, here.id).await.reason, reason);
        let (last, volume) = new(&scene, 4).await;
        begin_with(&scene, &last, volume).await.unwrap();
        scene.meta.remove_user("alice").await.unwrap();
        assert_eq!(stored(&scene, last.id).await.reason, reason);
    }

    #[tokio::test]
    async fn transfers_are_found_by_indices() {
        let scene = scene().await;
        for (question, index) in [
            (
                "SELECT * FROM transfers WHERE tenant = ? AND (created, id) < (?, ?) ORDER BY created DESC, id DESC",
                "transfers_of_tenant",
            ),
            (
                "SELECT * FROM transfers WHERE tenant = ? AND COALESCE(reference, name) = ? ORDER BY created DESC, id DESC",
                "transfers_by_reference",
            ),
            (
                "SELECT * FROM transfers WHERE tenant = ? AND state NOT IN ('open', 'finishing') AND state = 'done' AND volume = ?",
                "ended_transfers_of_tenant",
            ),
        ] {
            let mut explained = Sql::new("EXPLAIN QUERY PLAN ");
            explained.push(question);
            let rows = explained.build().fetch_all(&scene.meta.db.readers).await.unwrap();
            let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            assert!(matches!(&steps[..], [one] if one.contains(&format!("USING INDEX {index} "))), "{steps:?}");
        }
    }
}
