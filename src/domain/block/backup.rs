//! Backups of drives.

use serde::{Deserialize, Serialize};

use crate::domain::{BackupId, ByteCount, TenantId, UnixTime, VolumeId};

/// A reference to a backup: version 1 of the API numbers them, the later ones have ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupRef {
    /// By id.
    Id(BackupId),
    /// By number.
    Number(u64),
}

/// A backup to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBackup {
    /// The drive.
    pub volume: VolumeId,
    /// The snapshot of the drive to back up; its present bytes when absent.
    pub snapshot: Option<VolumeId>,
    /// Its label.
    pub name: Option<String>,
    /// The owner's description.
    pub description: Option<String>,
    /// The container in the object storage; `volumebackups` when absent.
    pub container: Option<String>,
    /// Whether the drive may be attached.
    pub force: bool,
}

/// The state of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupState {
    /// Its objects are being written.
    Creating,
    /// Complete.
    Available,
    /// Being restored.
    Restoring,
    /// Its objects are being removed.
    Deleting,
    /// Its creation failed, for the reason in its record.
    Error,
}

/// The record of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// Its number, which identifies it in version 1 of the API.
    pub number: u64,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The drive, which may be deleted by now.
    pub volume: VolumeId,
    /// The snapshot that was backed up.
    pub snapshot: Option<VolumeId>,
    /// Its label.
    pub name: Option<String>,
    /// The owner's description.
    pub description: Option<String>,
    /// The container in the object storage; absent until its first object is written.
    pub container: Option<String>,
    /// The zone of the drive; absent likewise.
    pub zone: Option<String>,
    /// The size of the drive.
    pub size: ByteCount,
    /// The number of its objects; absent until all are written.
    pub objects: Option<u64>,
    /// Its state.
    pub state: BackupState,
    /// The reason of a failure, for people.
    pub reason: Option<String>,
    /// Its number and tenant in the installation that created it, if that was another: they name its objects.
    pub origin: Option<(u64, TenantId)>,
    /// The time of its creation.
    pub created: UnixTime,
    /// The time of the last change of its record.
    pub updated: UnixTime,
}
