//! What can go wrong with what we know.

use std::sync::Arc;

use super::batch::LONGEST_ROW;
use super::sqlite::Refusal;
use crate::domain::{ByteCount, Fault, FaultKind, Reason};

/// Why the metadata could not be read or changed. Clones share the cause: a commit that fails fails for several.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MetaError {
    /// No such volume, user or tenant.
    #[error("not found")]
    NotFound,
    /// A user, tenant or volume of this name or id exists already.
    #[error("exists already")]
    Duplicate,
    /// The record was changed since it was read, or is in a state that does not allow this. Read it again.
    #[error("changed meanwhile")]
    Conflict,
    /// Somebody else has the job now, or it is gone. Stop working on it.
    #[error("the lease of the job is lost")]
    LeaseLost,
    /// The tenant's quota has no room for so many bytes.
    #[error("over quota")]
    QuotaExceeded,
    /// The tenant has as many volumes as its quota allows: this many.
    #[error("over the quota of {0} volumes")]
    TooManyVolumes(u64),
    /// The tenant has as many snapshots as its quota allows: this many.
    #[error("over the quota of {0} snapshots")]
    TooManySnapshots(u64),
    /// A volume is larger than the tenant's quota allows for one.
    #[error("over the quota of {0} bytes of a volume")]
    VolumeTooLarge(ByteCount),
    /// The tenant has as many open transfers as it may have: this many.
    #[error("over the bound of {0} open transfers")]
    TooManyTransfers(u64),
    /// The tenant has as many backups as its quota allows: this many.
    #[error("over the quota of {0} backups")]
    TooManyBackups(u64),
    /// The tenant's quota has no room for so many bytes of backups.
    #[error("over the quota of backups")]
    BackupsExceeded,
    /// The texts of a volume's record are too long together.
    #[error("the record of a volume is too long")]
    TooLong,
    /// The last user of a tenant cannot go while the tenant has volumes: nobody could reach them.
    #[error("the tenant still has volumes, and this is its last user")]
    TenantHasVolumes,
    /// A tenant cannot go while somebody belongs to it, or while it has volumes or backups.
    #[error("the project still has users, volumes or backups")]
    TenantInUse,
    /// The disk of the database is full; nothing was changed.
    #[error("the disk of the database is full")]
    DiskFull,
    /// The database is closed, or its writer was busy for too long. Later may be better.
    #[error("the database is busy or closed")]
    Busy(#[source] Arc<sqlx::Error>),
    /// Another process has the database open, which must be for the caller alone now.
    #[error("another process has the database open: end it first")]
    InUse,
    /// The log cannot be flushed: what was committed may not be durable, and nothing more is written until a restart.
    #[error("the database's log cannot be flushed")]
    Unflushed(#[source] Arc<std::io::Error>),
    /// A flush of the log failed before, so that nothing more is written until a restart: neither was this.
    #[error("nothing is written since a flush of the database's log failed")]
    Stopped,
    /// The file system of the database has become read-only: nothing was written.
    #[error("the file system of the database is read-only")]
    ReadOnly,
    /// The database file cannot be made or its mode cannot be set.
    #[error("the database file cannot be opened")]
    File(#[source] Arc<std::io::Error>),
    /// A record that this version cannot read, with the field at fault.
    #[error("a record of the database has a {0} that cannot be read")]
    Damaged(&'static str),
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] Arc<sqlx::Error>),
}

impl From<sqlx::Error> for MetaError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::Busy(Arc::new(error)),
            sqlx::Error::Database(refusal) if refusal.is_unique_violation() => Self::Duplicate,
            // What the new row refers to was removed meanwhile.
            sqlx::Error::Database(refusal) if refusal.is_foreign_key_violation() => Self::NotFound,
            sqlx::Error::Database(refusal) => match Refusal::of(&**refusal) {
                Refusal::Busy => Self::Busy(Arc::new(error)),
                Refusal::Full => Self::DiskFull,
                Refusal::ReadOnly => Self::ReadOnly,
                Refusal::Other => Self::Database(Arc::new(error)),
            },
            _ => Self::Database(Arc::new(error)),
        }
    }
}

impl From<MetaError> for Fault {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::NotFound => Self::new(FaultKind::NotFound, "there is no such thing here"),
            MetaError::Duplicate => Self::new(FaultKind::Conflict, "it exists already"),
            MetaError::Conflict => Self::new(FaultKind::Conflict, "it is busy, or was changed meanwhile"),
            MetaError::QuotaExceeded => Self::new(FaultKind::QuotaExceeded, "the quota has no room for this"),
            MetaError::TooManyVolumes(most) => {
                let told = format!("the quota allows {most} volumes, and there are as many");
                Self::new(FaultKind::QuotaExceeded, told).for_reason(Reason::TooManyVolumes(most))
            }
            MetaError::TooManySnapshots(most) => {
                let told = format!("the quota allows {most} snapshots, and there are as many");
                Self::new(FaultKind::QuotaExceeded, told).for_reason(Reason::TooManySnapshots(most))
            }
            MetaError::VolumeTooLarge(most) => {
                let told = format!("the quota allows {most} bytes of a volume");
                Self::new(FaultKind::QuotaExceeded, told).for_reason(Reason::OverVolumeSize(most))
            }
            MetaError::TooManyTransfers(most) => {
                let told = format!("the project has {most} open transfers, and may have no more");
                Self::new(FaultKind::QuotaExceeded, told)
            }
            MetaError::TooManyBackups(most) => {
                let told = format!("the quota allows {most} backups, and there are as many");
                Self::new(FaultKind::QuotaExceeded, told).for_reason(Reason::TooManyBackups(most))
            }
            MetaError::BackupsExceeded => {
                let told = "the quota has no room for so many bytes of backups";
                Self::new(FaultKind::QuotaExceeded, told).for_reason(Reason::BackupBytes)
            }
            MetaError::TooLong => {
                let told =
                    format!("the name, labels and metadata of a volume have at most {LONGEST_ROW} bytes together");
                Self::invalid("metadata", told)
            }
            MetaError::TenantHasVolumes => {
                Self::new(FaultKind::Conflict, "the last user of a tenant that has volumes cannot be removed")
            }
            MetaError::TenantInUse => {
                Self::new(FaultKind::Conflict, "a project that has users, volumes or backups cannot be removed")
            }
            MetaError::DiskFull => {
                Self::new(FaultKind::NoSpace, "the storage has no room for this").because(MetaError::DiskFull)
            }
            MetaError::Busy(_) => {
                Self::new(FaultKind::Unavailable, "the server cannot take this now; try again").because(error)
            }
            MetaError::Stopped => {
                let told = "the server cannot write any more, and must be started anew; nothing was changed";
                Self::new(FaultKind::Unavailable, told).because(error)
            }
            MetaError::ReadOnly => Self::read_only(error),
            MetaError::LeaseLost
            | MetaError::InUse
            | MetaError::Unflushed(_)
            | MetaError::File(_)
            | MetaError::Damaged(_)
            | MetaError::Database(_) => Self::internal(error),
        }
    }
}
