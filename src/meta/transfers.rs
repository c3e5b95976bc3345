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
             asserted_blake3_pieces, ticket, epoch, state, reason, lifetime, created, updated, sha256, blake3, \
             blake3_pieces, metadata, media, origin, data \
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
         origin, asserted_blake3_pieces, blake3_pieces, data) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
         $21, $22, $23, $24)",
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
    .bind(transfer.asserted.pieces.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.digests.pieces.as_ref().map(|digest| digest.0.as_slice()))
    .bind(transfer.data.map(|data| data.get().cast_signed()))
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
         blake3 = COALESCE($10, blake3), asserted_blake3_pieces = COALESCE($11, asserted_blake3_pieces), \
         blake3_pieces = COALESCE($12, blake3_pieces) \
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
    .bind(step.asserted.pieces.as_ref().map(|digest| digest.0.as_slice()))
    .bind(step.digests.pieces.as_ref().map(|digest| digest.0.as_slice()))
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
    let digests = |sha256, blake3, pieces| {
        let (sha256, blake3) = (digest(sha256)?.map(Sha256), digest(blake3)?.map(Blake3));
        Ok::<_, MetaError>(Digests { sha256, blake3, pieces: digest(pieces)?.map(Blake3) })
    };
    let bytes = |column| {
        let bytes: Option<i64> = row.try_get(column)?;
        let count = |bytes| u64::try_from(bytes).ok().and_then(ByteCount::new).ok_or(MetaError::Damaged(column));
        bytes.map(count).transpose()
    };
    let origin: Option<&str> = row.try_get("origin")?;
    let origin = origin.map(|text| Origin::from_text(text).ok_or(MetaError::Damaged("origin")));
    Ok(Transfer {
        id: TransferId::from_bytes(id_bytes(row.try_get("id")?, "transfer")?),
        tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        user: UserId::from_bytes(id_bytes(row.try_get("user")?, "user")?),
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
        name: row.try_get("name")?,
        size: bytes("size")?,
        data: bytes("data")?,
        reference: row.try_get("reference")?,
        asserted: digests("asserted_sha256", "asserted_blake3", "asserted_blake3_pieces")?,
        ticket: digest("ticket")?.map(Sha256).ok_or(MetaError::Damaged("ticket"))?,
        epoch: number("epoch")?,
        state: TransferState::from_word(row.try_get("state")?).ok_or(MetaError::Damaged("state"))?,
        reason: row.try_get("reason")?,
        lifetime: number("lifetime")?,
        created: UnixTime(row.try_get("created")?),
        updated: UnixTime(row.try_get("updated")?),
        digests: digests("sha256", "blake3", "blake3_pieces")?,
        metadata: row.try_get("metadata")?,
        media: media_from(row.try_get("media")?)?,
        origin: origin.transpose()?,
    })
}

#[cfg(test)]
mod tests;
