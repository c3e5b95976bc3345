//! What a database that was lost, or put back from a backup, is asked and told.

use std::path::Path;

use sqlx::Row as _;

use super::batch::{Bill, counted, insert};
use super::volumes::{from_row, select_volumes};
use super::{Meta, MetaError};
use crate::domain::{TenantId, UnixTime, Volume};

impl Meta {
    /// When this database was last known to be in use; `None` before it ever was.
    pub async fn last_seen(&self) -> Result<Option<UnixTime>, MetaError> {
        let at: Option<i64> = sqlx::query_scalar("SELECT at FROM seen").fetch_optional(&self.db.readers).await?;
        Ok(at.map(UnixTime))
    }

    /// Notes that the database is in use. Not flushed: a little older does as well.
    pub async fn beat(&self, now: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("INSERT INTO seen (\"only\", at) VALUES (1, $1) ON CONFLICT (\"only\") DO UPDATE SET at = $1")
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
        self.db.commit_unflushed(tx).await
    }

    /// All trees that have a content.
    pub async fn held_contents(&self) -> Result<Vec<Volume>, MetaError> {
        let trees = sqlx::query(select_volumes!("WHERE kind = 'tree' AND content IS NOT NULL"));
        trees.fetch_all(&self.db.readers).await?.iter().map(from_row).collect()
    }

    /// Adds a volume whose bytes were there before it, whatever the quota of its tenant is; a tenant that is not there
    /// is made again under its id, with this name.
    pub async fn take_back(&self, volume: &Volume, tenant_name: &str) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let id = volume.tenant.as_bytes().as_slice();
        sqlx::query(
            "INSERT INTO tenants (id, name, used_volumes, used_bytes) VALUES ($1, $2, 0, 0) ON CONFLICT (id) DO NOTHING",
        )
        .bind(id)
        .bind(tenant_name)
        .execute(&mut *tx)
        .await?;
        // Charged below.
        insert(&mut tx, volume, &mut Bill::default()).await?;
        let [volumes, snapshots] = counted(volume.kind);
        sqlx::query(
            "UPDATE tenants SET used_volumes = used_volumes + $2, used_snapshots = used_snapshots + $3, \
             used_bytes = used_bytes + $4 WHERE id = $1",
        )
        .bind(id)
        .bind(volumes)
        .bind(snapshots)
        .bind(volume.charged.get().cast_signed())
        .execute(&mut *tx)
        .await?;
        self.db.commit(tx).await
    }

    /// The tenant's name, if it is there.
    pub async fn tenant_name(&self, id: TenantId) -> Result<Option<String>, MetaError> {
        let name = sqlx::query("SELECT name FROM tenants WHERE id = $1").bind(id.as_bytes().as_slice());
        let row = name.fetch_optional(&self.db.readers).await?;
        row.map(|row| Ok(row.try_get("name")?)).transpose()
    }

    /// Writes a copy of the database as it is at one moment into an empty or new file, beside what is going on. The
    /// copy is not flushed.
    pub async fn copy_to(&self, file: &Path) -> Result<(), MetaError> {
        self.db.copy_to(file).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::VolumeState;
    use crate::meta::Ballast;
    use crate::meta::testing::{drive, quota, scene, scene_with};

    #[tokio::test]
    async fn a_volume_that_is_taken_back_is_charged_though_the_quota_is_full_and_its_tenant_comes_back_with_it() {
        let scene = scene_with(quota(0, 10)).await;
        let volume = drive(scene.tenant, 50);
        scene.meta.take_back(&volume, "unused").await.unwrap();
        assert_eq!(scene.meta.volume_any(volume.id).await.unwrap().unwrap().size, volume.size);
        assert!(matches!(scene.meta.take_back(&volume, "unused").await, Err(MetaError::Duplicate)));
        let (_, usage) = scene.meta.usage(scene.tenant).await.unwrap();
        assert_eq!((usage.volumes, usage.bytes.get()), (1, 50));
        let gone = TenantId::random();
        for n in 1..=2 {
            scene.meta.take_back(&drive(gone, 7), "recovered").await.unwrap();
            assert_eq!(scene.meta.usage(gone).await.unwrap().1.volumes, n);
        }
        assert_eq!(scene.meta.tenant_name(gone).await.unwrap().as_deref(), Some("recovered"));
        assert_eq!(scene.meta.tenant_name(TenantId::random()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_copy_has_what_was_committed_before_it_and_nothing_else() {
        let scene = scene().await;
        let before = drive(scene.tenant, 1);
        scene.meta.insert_volumes(vec![before.clone()], vec![]).await.unwrap();
        let copy = scene.path.with_file_name("copy");
        scene.meta.copy_to(&copy).await.unwrap();
        scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.unwrap();
        let copy = Meta::open_to_serve(&copy, Ballast::none()).await.unwrap();
        assert_eq!(copy.all_volume_ids().await.unwrap(), [before.id]);
        assert_eq!(copy.volumes_in(&[VolumeState::Available]).await.unwrap(), [before]);
    }

    #[tokio::test]
    async fn the_database_knows_when_it_was_last_in_use() {
        let scene = scene().await;
        assert_eq!(scene.meta.last_seen().await.unwrap(), None);
        for at in [5, 9] {
            scene.meta.beat(UnixTime(at)).await.unwrap();
            assert_eq!(scene.meta.last_seen().await.unwrap(), Some(UnixTime(at)));
        }
    }
}
