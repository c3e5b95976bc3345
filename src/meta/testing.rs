//! A fresh database with one tenant, for the tests of this floor.

use std::path::PathBuf;

use serde_json::Map;

use super::Meta;
use crate::domain::{
    Backup, BackupId, BackupState, ByteCount, ContentId, Digests, Media, Quota, Sha256, TenantId, Transfer, TransferId,
    TransferState, UnixTime, UserId, Volume, VolumeId, VolumeKind, VolumeState,
};

/// A database in a directory of its own, and the tenant of its user `alice`.
pub(super) struct Scene {
    pub(super) meta: Meta,
    pub(super) tenant: TenantId,
    pub(super) path: PathBuf,
    _directory: tempfile::TempDir,
}

/// A scene without quota.
pub(super) async fn scene() -> Scene {
    scene_with(Quota::default()).await
}

/// A scene whose tenant has this quota.
pub(super) async fn scene_with(quota: Quota) -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let meta = Meta::open(&path).await.unwrap();
    let tenant = meta.add_user("alice", "hash of alice", "red", Some(quota), UnixTime(1)).await.unwrap();
    Scene { meta, tenant, path, _directory: directory }
}

/// A quota of so many volumes and bytes.
pub(super) fn quota(volumes: u64, bytes: u64) -> Quota {
    Quota { volumes: Some(volumes), bytes: Some(count(bytes)), ..Quota::default() }
}

/// So many bytes.
pub(super) fn count(bytes: u64) -> ByteCount {
    ByteCount::new(bytes).unwrap()
}

/// A backup of so many bytes.
pub(super) fn backup(tenant: TenantId, size: u64) -> Backup {
    Backup {
        id: BackupId::random(),
        number: 0,
        tenant,
        volume: VolumeId::random(),
        snapshot: None,
        name: None,
        description: None,
        container: None,
        zone: None,
        size: count(size),
        objects: None,
        state: BackupState::Available,
        reason: None,
        origin: None,
        created: UnixTime(1_000),
        updated: UnixTime(1_000),
    }
}

/// A drive at rest, charged with its size.
pub(super) fn drive(tenant: TenantId, size: u64) -> Volume {
    let id = VolumeId::random();
    Volume {
        id,
        tenant,
        name: format!("drive {id}"),
        kind: VolumeKind::Drive,
        media: Media::Disk,
        size: count(size),
        charged: count(size),
        state: VolumeState::Available,
        reason: None,
        generation: 1,
        revision: 1,
        created: UnixTime(1_000),
        updated: UnixTime(1_000),
        digests: Digests::NONE,
        content: Some(ContentId::first_of(id)),
        source: None,
        meta: Map::new(),
        attributes: Map::new(),
    }
}

/// An open transfer that fills this volume, and lives for a minute.
pub(super) fn transfer_of(volume: &Volume) -> Transfer {
    Transfer {
        id: TransferId::random(),
        tenant: volume.tenant,
        user: UserId::from_bytes([1; 16]),
        volume: volume.id,
        name: volume.name.clone(),
        size: None,
        data: None,
        media: Media::Disk,
        reference: None,
        metadata: None,
        asserted: Digests::NONE,
        ticket: Sha256([7; 32]),
        epoch: 0,
        state: TransferState::Open,
        reason: None,
        lifetime: 60,
        created: UnixTime(1_000),
        updated: UnixTime(1_000),
        digests: Digests::NONE,
        origin: None,
    }
}
