//! Tenants, their users and quotas.

use sqlx::Row as _;

use super::sqlite::{Connection, DbRow, Sql};
use super::volumes::bytes_from;
use super::{Meta, MetaError, id_bytes};
use crate::domain::{ByteCount, Principal, Quota, QuotaChange, TenantId, UnixTime, Usage, UserId};

/// What a login is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// The user's name.
    pub name: String,
    /// Their identity, for ever.
    pub id: UserId,
    /// Whose volumes they see.
    pub tenant: TenantId,
    /// Whether they administrate.
    pub is_admin: bool,
    /// The digest of their password, with its salt and parameters.
    pub password_hash: String,
}

/// A user as an operator sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSummary {
    /// The user's name.
    pub name: String,
    /// Whose volumes they see.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: String,
    /// Whether they administrate.
    pub is_admin: bool,
    /// When the user was made.
    pub created: UnixTime,
    /// The most the tenant may hold.
    pub quota: Quota,
    /// What the tenant holds.
    pub usage: Usage,
}

impl UserRecord {
    /// Who they are when they call.
    pub fn principal(&self) -> Principal {
        Principal { user: self.name.clone(), user_id: self.id, tenant: self.tenant, is_admin: self.is_admin }
    }
}

impl Meta {
    /// Makes a user, and their tenant when none has this name. A quota is set on a tenant that exists too; without
    /// one, an old tenant keeps its own and a new one has no limit.
    pub async fn add_user(
        &self,
        name: &str,
        password_hash: &str,
        tenant_name: &str,
        quota: Option<Quota>,
        now: UnixTime,
    ) -> Result<TenantId, MetaError> {
        self.make_user(name, password_hash, tenant_name, quota, now, false).await
    }

    /// As [`Meta::add_user`], for one who administrates.
    pub async fn add_administrator(
        &self,
        name: &str,
        password_hash: &str,
        tenant_name: &str,
        quota: Option<Quota>,
        now: UnixTime,
    ) -> Result<TenantId, MetaError> {
        self.make_user(name, password_hash, tenant_name, quota, now, true).await
    }

    async fn make_user(
        &self,
        name: &str,
        password_hash: &str,
        tenant_name: &str,
        quota: Option<Quota>,
        now: UnixTime,
        is_admin: bool,
    ) -> Result<TenantId, MetaError> {
        let mut tx = self.db.begin_adding().await?;
        let known: Option<Vec<u8>> = sqlx::query_scalar("SELECT id FROM tenants WHERE name = $1")
            .bind(tenant_name)
            .fetch_optional(&mut *tx)
            .await?;
        let tenant = match known {
            Some(id) => TenantId::from_bytes(id_bytes(&id, "tenant")?),
            None => insert_tenant(&mut tx, tenant_name).await?,
        };
        if let Some(quota) = quota {
            write_quota(&mut tx, tenant, quota).await?;
        }
        sqlx::query(
            "INSERT INTO users (name, id, tenant, password_hash, created, is_admin) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(name)
        .bind(UserId::random().as_bytes().as_slice())
        .bind(tenant.as_bytes().as_slice())
        .bind(password_hash)
        .bind(now.0)
        .bind(i64::from(is_admin))
        .execute(&mut *tx)
        .await?;
        self.db.commit(tx).await?;
        Ok(tenant)
    }

    /// The user of this name.
    pub async fn user(&self, name: &str) -> Result<Option<UserRecord>, MetaError> {
        let row = sqlx::query("SELECT id, tenant, is_admin, password_hash FROM users WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.db.readers)
            .await?;
        row.map(|row| {
            Ok(UserRecord {
                name: name.to_owned(),
                id: UserId::from_bytes(id_bytes(row.try_get("id")?, "id")?),
                tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
                is_admin: row.try_get::<i64, _>("is_admin")? != 0,
                password_hash: row.try_get("password_hash")?,
            })
        })
        .transpose()
    }

    /// The user of this id.
    pub async fn user_with_id(&self, id: UserId) -> Result<Option<UserRecord>, MetaError> {
        let row = sqlx::query("SELECT name, tenant, is_admin, password_hash FROM users WHERE id = $1")
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
        row.map(|row| {
            Ok(UserRecord {
                name: row.try_get("name")?,
                id,
                tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
                is_admin: row.try_get::<i64, _>("is_admin")? != 0,
                password_hash: row.try_get("password_hash")?,
            })
        })
        .transpose()
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<UserSummary>, MetaError> {
        let rows = sqlx::query(
            "SELECT t.*, u.name AS user_name, u.tenant, u.created, u.is_admin \
             FROM users u JOIN limited_tenants t ON t.id = u.tenant ORDER BY u.name",
        )
        .fetch_all(&self.db.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let (quota, usage) = quota_and_usage(row)?;
                Ok(UserSummary {
                    name: row.try_get("user_name")?,
                    tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
                    tenant_name: row.try_get("name")?,
                    is_admin: row.try_get::<i64, _>("is_admin")? != 0,
                    created: UnixTime(row.try_get("created")?),
                    quota,
                    usage,
                })
            })
            .collect()
    }

    /// Replaces a user's password, and ends their tokens, access keys, sessions and transfers: who had the old one may
    /// hold some. Returns how many access keys those were.
    pub async fn set_password(&self, name: &str, password_hash: &str) -> Result<u64, MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query("UPDATE users SET password_hash = $2 WHERE name = $1")
            .bind(name)
            .bind(password_hash)
            .execute(&mut *tx)
            .await?;
        exactly_one(done.rows_affected())?;
        sqlx::query("DELETE FROM tokens WHERE user_name = $1").bind(name).execute(&mut *tx).await?;
        let keys = sqlx::query("DELETE FROM keys WHERE user_name = $1").bind(name).execute(&mut *tx).await?;
        end_uploads(&mut tx, name, None).await?;
        self.db.commit(tx).await?;
        Ok(keys.rows_affected())
    }

    /// Removes a user, and with the last one the tenant, members counted; refused with
    /// [`MetaError::TenantHasVolumes`] when that tenant still has volumes or backups.
    pub async fn remove_user(&self, name: &str) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let tenant: Vec<u8> =
            sqlx::query_scalar("SELECT tenant FROM users WHERE name = $1").bind(name).fetch_one(&mut *tx).await?;
        end_uploads(&mut tx, name, None).await?;
        sqlx::query("DELETE FROM users WHERE name = $1").bind(name).execute(&mut *tx).await?;
        if !has_users(&mut tx, &tenant).await? {
            if holds_things(&mut tx, &tenant).await? {
                return Err(MetaError::TenantHasVolumes);
            }
            sqlx::query("DELETE FROM tenants WHERE id = $1").bind(tenant.as_slice()).execute(&mut *tx).await?;
        }
        self.db.commit(tx).await
    }

    /// Sets what a tenant may hold. What it already holds above that stays; it only cannot grow.
    pub async fn set_quota(&self, tenant: TenantId, quota: Quota) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        write_quota(&mut tx, tenant, quota).await?;
        self.db.commit(tx).await
    }

    /// What a tenant may hold, and what it holds.
    pub async fn usage(&self, tenant: TenantId) -> Result<(Quota, Usage), MetaError> {
        let row = sqlx::query("SELECT * FROM limited_tenants WHERE id = $1")
            .bind(tenant.as_bytes().as_slice())
            .fetch_one(&self.db.readers)
            .await?;
        quota_and_usage(&row)
    }

    /// Changes some of the limits of a tenant, likewise.
    pub async fn change_quota(&self, tenant: TenantId, change: QuotaChange) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let rows = write_limits(&mut tx, "UPDATE tenants SET ", Some(tenant), change).await?;
        exactly_one(rows)?;
        self.db.commit(tx).await
    }

    /// The limits of tenants that have none of their own.
    pub async fn default_quota(&self) -> Result<Quota, MetaError> {
        quota_from(&sqlx::query("SELECT * FROM default_quota").fetch_one(&self.db.readers).await?)
    }

    /// Changes some of the limits of tenants that have none of their own.
    pub async fn change_default_quota(&self, change: QuotaChange) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        write_limits(&mut tx, "UPDATE default_quota SET ", None, change).await?;
        self.db.commit(tx).await
    }
}

/// Changes the limits that a change names, of one tenant or by default. None at all is written as the most that the
/// database's integers hold, since a limit that is absent is the default one.
async fn write_limits(
    connection: &mut Connection,
    update: &str,
    tenant: Option<TenantId>,
    change: QuotaChange,
) -> Result<u64, MetaError> {
    let most = |limit: Option<u64>| limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX);
    let bytes = |limit: Option<Option<ByteCount>>| limit.map(|limit| most(limit.map(ByteCount::get)));
    let mut sql = Sql::new(update);
    // One that is always there.
    sql.push("quota_volumes = quota_volumes");
    for (column, limit) in [
        ("quota_volumes", change.volumes.map(most)),
        ("quota_bytes", bytes(change.bytes)),
        ("quota_backups", change.backups.map(most)),
        ("quota_backup_bytes", bytes(change.backup_bytes)),
        ("quota_snapshots", change.snapshots.map(most)),
        ("quota_volume_bytes", bytes(change.volume_bytes)),
    ] {
        if let Some(limit) = limit {
            sql.push(format!(", {column} = ")).push_bind(limit);
        }
    }
    if let Some(tenant) = tenant {
        sql.push(" WHERE id = ").push_bind(tenant.as_bytes().to_vec());
    }
    Ok(sql.build().execute(connection).await?.rows_affected())
}

/// Ends the open sessions and transfers of a user, in one tenant or in all: no more is uploaded, and the server undoes
/// them, which knows them by their reason.
pub(super) async fn end_uploads(
    connection: &mut Connection,
    user: &str,
    tenant: Option<TenantId>,
) -> Result<(), MetaError> {
    let tenant = tenant.map(|tenant| *tenant.as_bytes());
    sqlx::query(
        "UPDATE sessions SET expires = created, reason = 'the login that it was begun with has ended' \
         WHERE state = 'open' AND ($2 IS NULL OR tenant = $2) AND \"user\" = (SELECT id FROM users WHERE name = $1)",
    )
    .bind(user)
    .bind(tenant.as_ref().map(<[u8; 16]>::as_slice))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE transfers SET reason = 'the login that it was begun with has ended' \
         WHERE state IN ('open', 'finishing') AND state = 'open' AND ($2 IS NULL OR tenant = $2) \
         AND \"user\" = (SELECT id FROM users WHERE name = $1)",
    )
    .bind(user)
    .bind(tenant.as_ref().map(<[u8; 16]>::as_slice))
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes a tenant without quota.
pub(super) async fn insert_tenant(connection: &mut Connection, name: &str) -> Result<TenantId, MetaError> {
    let tenant = TenantId::random();
    sqlx::query("INSERT INTO tenants (id, name, used_volumes, used_bytes) VALUES ($1, $2, 0, 0)")
        .bind(tenant.as_bytes().as_slice())
        .bind(name)
        .execute(connection)
        .await?;
    Ok(tenant)
}

/// Whether anybody belongs to a tenant, as their own or as a member.
pub(super) async fn has_users(connection: &mut Connection, tenant: &[u8]) -> Result<bool, MetaError> {
    let users: i64 = sqlx::query_scalar(
        "SELECT (SELECT COUNT(*) FROM users WHERE tenant = $1) + (SELECT COUNT(*) FROM members WHERE tenant = $1)",
    )
    .bind(tenant)
    .fetch_one(connection)
    .await?;
    Ok(users > 0)
}

/// Whether a tenant has volumes or backups.
pub(super) async fn holds_things(connection: &mut Connection, tenant: &[u8]) -> Result<bool, MetaError> {
    let things: i64 = sqlx::query_scalar(
        "SELECT (SELECT COUNT(*) FROM volumes WHERE tenant = $1) + (SELECT COUNT(*) FROM backups WHERE tenant = $1)",
    )
    .bind(tenant)
    .fetch_one(connection)
    .await?;
    Ok(things > 0)
}

pub(super) async fn write_quota(connection: &mut Connection, tenant: TenantId, quota: Quota) -> Result<(), MetaError> {
    let done = sqlx::query(
        "UPDATE tenants SET quota_volumes = $2, quota_bytes = $3, quota_backups = $4, quota_backup_bytes = $5, \
         quota_snapshots = $6, quota_volume_bytes = $7 WHERE id = $1",
    )
    .bind(tenant.as_bytes().as_slice())
    // Beyond the database's integers there is no limit that anyone could reach.
    .bind(quota.volumes.map(|volumes| i64::try_from(volumes).unwrap_or(i64::MAX)))
    .bind(quota.bytes.map(|bytes| bytes.get().cast_signed()))
    .bind(quota.backups.map(|backups| i64::try_from(backups).unwrap_or(i64::MAX)))
    .bind(quota.backup_bytes.map(|bytes| bytes.get().cast_signed()))
    .bind(quota.snapshots.map(|snapshots| i64::try_from(snapshots).unwrap_or(i64::MAX)))
    .bind(quota.volume_bytes.map(|bytes| bytes.get().cast_signed()))
    .execute(connection)
    .await?;
    exactly_one(done.rows_affected())
}

pub(super) fn exactly_one(rows: u64) -> Result<(), MetaError> {
    if rows == 1 { Ok(()) } else { Err(MetaError::NotFound) }
}

/// What a tenant may hold and holds, from a row of `limited_tenants`.
pub(super) fn quota_and_usage(row: &DbRow) -> Result<(Quota, Usage), MetaError> {
    let usage = Usage {
        volumes: count_from(row, "used_volumes")?,
        bytes: bytes_from(row, "used_bytes")?,
        backups: count_from(row, "used_backups")?,
        backup_bytes: bytes_from(row, "used_backup_bytes")?,
        snapshots: count_from(row, "used_snapshots")?,
    };
    Ok((quota_from(row)?, usage))
}

fn quota_from(row: &DbRow) -> Result<Quota, MetaError> {
    let count = |column| {
        let most: Option<i64> = row.try_get(column)?;
        most.filter(|most| *most < i64::MAX).map(|_| count_from(row, column)).transpose()
    };
    Ok(Quota {
        volumes: count("quota_volumes")?,
        bytes: limit_from(row, "quota_bytes")?,
        backups: count("quota_backups")?,
        // Without one, that of volumes counts; to be without any is a limit of its own.
        backup_bytes: row
            .try_get::<Option<i64>, _>("quota_backup_bytes")?
            .map(|_| bytes_from(row, "quota_backup_bytes"))
            .transpose()?,
        snapshots: count("quota_snapshots")?,
        volume_bytes: limit_from(row, "quota_volume_bytes")?,
    })
}

/// A limit in bytes, if there is any.
pub(super) fn limit_from(row: &DbRow, column: &'static str) -> Result<Option<ByteCount>, MetaError> {
    let most: Option<i64> = row.try_get(column)?;
    most.filter(|most| *most < i64::MAX).map(|_| bytes_from(row, column)).transpose()
}

fn count_from(row: &DbRow, column: &'static str) -> Result<u64, MetaError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| MetaError::Damaged(column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::testing::{count, drive, quota, scene, scene_with};

    #[tokio::test]
    async fn users_are_listed_with_their_tenant_quota_and_usage() {
        let scene = scene_with(quota(3, 100)).await;
        scene.meta.add_user("bob", "hash of bob", "blue", None, UnixTime(2)).await.unwrap();
        scene.meta.insert_volumes(vec![drive(scene.tenant, 40)], vec![]).await.unwrap();

        let users = scene.meta.users().await.unwrap();
        let names: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.tenant_name.as_str())).collect();
        assert_eq!(names, [("alice", "red"), ("bob", "blue")]);
        assert_eq!(users[0].quota, quota(3, 100));
        assert_eq!(users[0].usage, Usage { volumes: 1, bytes: count(40), ..Usage::default() });
        assert_eq!((users[1].quota, users[1].usage), (Quota::default(), Usage::default()));
        assert_eq!(users[1].created, UnixTime(2));
    }

    #[tokio::test]
    async fn users_of_one_tenant_name_share_the_tenant_and_its_quota() {
        let scene = scene_with(quota(3, 100)).await;
        let shared = scene.meta.add_user("carol", "h", "red", None, UnixTime(2)).await.unwrap();
        assert_eq!(shared, scene.tenant);
        assert_eq!(scene.meta.usage(shared).await.unwrap().0, quota(3, 100));
        scene.meta.add_user("dave", "h", "red", Some(quota(9, 900)), UnixTime(2)).await.unwrap();
        assert_eq!(scene.meta.usage(shared).await.unwrap().0, quota(9, 900));
    }

    #[tokio::test]
    async fn a_name_is_taken_once_and_the_refused_user_leaves_no_tenant() {
        let scene = scene().await;
        let refused = scene.meta.add_user("alice", "h", "green", None, UnixTime(2)).await;
        assert!(matches!(refused, Err(MetaError::Duplicate)));
        let tenants: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM tenants").fetch_one(&scene.meta.db.readers).await.unwrap();
        assert_eq!(tenants, 1);
    }

    #[tokio::test]
    async fn a_new_password_replaces_the_old() {
        let scene = scene().await;
        scene.meta.set_password("alice", "new hash").await.unwrap();
        assert_eq!(scene.meta.user("alice").await.unwrap().unwrap().password_hash, "new hash");
        assert!(matches!(scene.meta.set_password("nobody", "h").await, Err(MetaError::NotFound)));
        assert_eq!(scene.meta.user("nobody").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_user_is_found_by_id_for_as_long_as_they_are_there() {
        let scene = scene().await;
        let alice = scene.meta.user("alice").await.unwrap().unwrap();
        assert_eq!(scene.meta.user_with_id(alice.id).await.unwrap(), Some(alice.clone()));
        assert_eq!(scene.meta.user_with_id(UserId::random()).await.unwrap(), None);
        scene.meta.remove_user("alice").await.unwrap();
        assert_eq!(scene.meta.user_with_id(alice.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_last_user_stays_while_the_tenant_has_volumes() {
        let scene = scene().await;
        scene.meta.add_user("bob", "h", "red", None, UnixTime(2)).await.unwrap();
        let volume = drive(scene.tenant, 1);
        scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();

        scene.meta.remove_user("bob").await.unwrap();
        assert!(matches!(scene.meta.remove_user("alice").await, Err(MetaError::TenantHasVolumes)));
        assert!(scene.meta.user("alice").await.unwrap().is_some());

        scene.meta.remove_volume(volume.id).await.unwrap();
        scene.meta.remove_user("alice").await.unwrap();
        assert!(matches!(scene.meta.usage(scene.tenant).await, Err(MetaError::NotFound)));
        assert!(matches!(scene.meta.remove_user("alice").await, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn a_quota_below_the_usage_stops_growth_only() {
        let scene = scene().await;
        let volume = drive(scene.tenant, 50);
        scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
        scene.meta.set_quota(scene.tenant, quota(0, 10)).await.unwrap();
        let refused = scene.meta.insert_volumes(vec![drive(scene.tenant, 0)], vec![]).await;
        assert!(matches!(refused, Err(MetaError::TooManyVolumes(0))));
        let smaller = crate::domain::Volume { charged: count(30), ..volume };
        scene.meta.update(smaller).await.unwrap();
        assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.bytes, count(30));
    }
}
