//! Commands of block storage that other APIs do not have: on backups, attachments, quotas and types.
//!
//! The terms are those of OpenStack Block Storage; every dialect of it decodes into these commands. A volume of block
//! storage is a drive, and a snapshot is a volume of its own kind, made as a clone is.

mod backup;
mod fields;
mod query;
mod seen;

use serde::{Deserialize, Serialize};

use super::{ByteCount, QuotaChange, TenantId, UnixTime, VolumeId, VolumeRef};

pub use backup::{Backup, BackupRef, BackupState, NewBackup};
pub use fields::{BlockFields, BlockView};
pub use query::{BlockQuery, Direction, Paged, ServerQuery, SortKey};
pub use seen::{BlockVolume, Seen};

/// Metadata work that only block storage has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BlockCommand {
    /// Grows a drive, and waits for the end if that comes soon.
    Extend {
        /// The drive.
        id: VolumeId,
        /// The new size, which is larger.
        size: ByteCount,
    },
    /// Moves a drive a step towards an attachment or back.
    Act {
        /// The drive.
        id: VolumeId,
        /// The step.
        action: VolumeAction,
    },
    /// Sets the state of a drive or snapshot. For administrators.
    Reset {
        /// The volume.
        volume: VolumeRef,
        /// What is set.
        reset: Reset,
    },
    /// Sets the state of a backup. For administrators.
    ResetBackup {
        /// The backup.
        backup: BackupRef,
        /// Whether it is available, which only a whole one can be, or failed.
        is_available: bool,
    },
    /// Deletes a backup whatever its owner may say. For administrators.
    ForceDeleteBackup(BackupRef),
    /// Lists backups.
    Backups(Box<BlockQuery>),
    /// Shows a backup.
    Backup(BackupRef),
    /// Creates a backup.
    CreateBackup(Box<NewBackup>),
    /// Deletes a backup and its objects.
    DeleteBackup(BackupRef),
    /// Restores a backup.
    Restore {
        /// The backup.
        backup: BackupRef,
        /// The drive to overwrite; a new one when absent.
        volume: Option<VolumeId>,
        /// The name of a new drive.
        name: Option<String>,
    },
    /// Lists the servers to which drives are attached.
    Servers(ServerQuery),
    /// Lists the drives that are attached to a server.
    Attachments {
        /// The server.
        server: String,
    },
    /// Shows an attachment.
    Attachment {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
    },
    /// Attaches a drive to a server.
    Attach {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
        /// The device path at the server; the next free one when absent.
        device: Option<String>,
    },
    /// Detaches a drive from a server.
    Detach {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
    },
    /// Shows the quota of a tenant and its usage.
    Quota {
        /// The tenant; another than the caller's for administrators.
        tenant: TenantId,
    },
    /// Sets the quota of a tenant. For administrators.
    SetQuota {
        /// The tenant.
        tenant: TenantId,
        /// The new limits.
        change: QuotaChange,
    },
    /// Gives a tenant the limits of a new one. For administrators.
    ResetQuota {
        /// The tenant.
        tenant: TenantId,
    },
    /// Shows the limits of tenants that have none of their own.
    DefaultQuota,
    /// Sets the limits of tenants that have none of their own. For administrators.
    SetDefaultQuota(QuotaChange),
    /// Lists the types of volumes.
    Types,
    /// Lists the availability zones.
    Zones,
}

/// A step of a drive to an attachment or back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeAction {
    /// Reserves it for an attachment.
    Reserve,
    /// Cancels the reservation.
    Unreserve,
    /// Records that it is attached.
    Attach {
        /// The server; absent for a bare host.
        server: Option<String>,
        /// The host.
        host: Option<String>,
        /// The device path.
        device: String,
        /// Whether it is attached for reading only.
        read_only: bool,
    },
    /// Begins a detachment.
    BeginDetaching,
    /// Cancels the detachment.
    RollDetaching,
    /// Records that it is detached.
    Detach,
}

/// What an administrator sets of a volume or snapshot; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The state.
    pub status: Option<ResetStatus>,
    /// Whether it is attached: refused without a record of an attachment, and removes that otherwise. With the state
    /// `Available` it is always removed.
    pub attached: Option<bool>,
    /// The word for a migration; an empty one removes it. Nothing migrates here.
    pub migration: Option<String>,
}

/// A state that an administrator may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetStatus {
    /// At rest.
    Available,
    /// Unusable.
    Error,
    /// Reserved for an attachment.
    Attaching,
    /// It could not be attached.
    ErrorAttaching,
    /// It could not be detached.
    ErrorDetaching,
    /// It could not be restored.
    ErrorRestoring,
    /// Attached, or being detached when `is_ending`; a mere mark without a record of an attachment.
    InUse {
        /// Whether the detachment has begun.
        is_ending: bool,
        /// The word for it.
        word: String,
    },
    /// A word that nothing here leads to.
    Marked(String),
}

/// A server, known by the drives that are attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedServer {
    /// Its id.
    pub id: String,
    /// The tenant that owns the drives.
    pub tenant: TenantId,
    /// The drives.
    pub volumes: Vec<VolumeId>,
}

/// An attachment of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The drive.
    pub volume: VolumeId,
    /// The server; absent for a bare host.
    pub server: Option<String>,
    /// The host, if it was given.
    pub host: Option<String>,
    /// The device path at the server.
    pub device: String,
    /// Whether it is attached for reading only.
    pub read_only: bool,
    /// The time of the attachment.
    pub created: UnixTime,
}

/// A type of volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeType {
    /// Its id, derived from its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// A description for people.
    pub description: Option<String>,
}

/// The outcome of a [`BlockCommand`].
#[derive(Clone, Debug, PartialEq)]
pub enum BlockOutcome {
    /// Backups.
    Backups(Paged<Backup>),
    /// A backup.
    Backup(Box<Backup>),
    /// A restore has begun.
    Restoring {
        /// The backup.
        backup: Box<Backup>,
        /// The drive that it overwrites or creates.
        volume: Box<BlockVolume>,
    },
    /// Servers.
    Servers(Paged<AttachedServer>),
    /// The attachments of a server.
    Attachments(Vec<Attachment>),
    /// An attachment.
    Attachment(Attachment),
    /// The quota of a tenant and its usage.
    Quota {
        /// The tenant.
        tenant: TenantId,
        /// The limits.
        quota: super::Quota,
        /// Its present usage.
        usage: super::Usage,
    },
    /// The limits of tenants that have none of their own.
    DefaultQuota(super::Quota),
    /// The types of volumes, the default first.
    Types(Vec<VolumeType>),
    /// The zones.
    Zones(Vec<String>),
    /// The command succeeded, or a job continues it; there is no content.
    Done,
}
