//! Errors of writing, restoring and removing backups.

use std::error::Error;
use std::io;

use crate::domain::{Fault, FaultKind};

pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// An error of a backup. Its text may be shown to the caller; its source holds paths and the storage's own messages,
/// and may not.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The settings make no sense. The administrator must change them.
    #[error("the object storage is set up wrongly: {0}")]
    Settings(&'static str),
    /// There is no manifest, so no backup: it was never finished, or was removed.
    #[error("the object storage has no such backup")]
    Missing,
    /// The storage does not hold what was written there. Retrying does not help.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// The existing manifest is of another backup, or of other content.
    #[error("another backup is in the place of this one")]
    Conflict,
    /// There is no room for more.
    #[error("the object storage is full")]
    Full(#[source] Cause),
    /// The storage denies access: wrong keys, no such bucket, a directory without permissions. The administrator must
    /// act.
    #[error("the object storage refuses this")]
    Refused(#[source] Cause),
    /// The storage is unreachable or too slow, or closed the connection. Retrying may help.
    #[error("the object storage cannot be reached, or broke off")]
    Cut(#[source] Cause),
    /// Reading the drive that is backed up failed.
    #[error("the drive cannot be read")]
    Source(#[source] io::Error),
    /// Writing the drive that is restored failed.
    #[error("the drive cannot be written")]
    Sink(#[source] io::Error),
}

impl ArchiveError {
    /// Classifies an error of the storage client.
    pub(super) fn of_store(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::NotFound { .. } => Self::Missing,
            E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::InvalidPath { .. }
            | E::UnknownConfigurationKey { .. } => Self::Refused(error.into()),
            // A list reports every failure as a generic error; the code is S3's own.
            _ if error.to_string().contains("<Code>NoSuchBucket</Code>") => Self::Refused(error.into()),
            _ => Self::by_kind(io_kind(&error), error.into()),
        }
    }

    /// Classifies an error of a put or a list, where `NotFound` means that the bucket, or the directory of all backups,
    /// is missing.
    pub(super) fn of_put(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Refused(error.into()),
            error => Self::of_store(error),
        }
    }

    /// Classifies an error of the directory of backups.
    pub(super) fn of_disk(error: io::Error) -> Self {
        Self::by_kind(Some(error.kind()), error.into())
    }

    fn by_kind(kind: Option<io::ErrorKind>, cause: Cause) -> Self {
        match kind {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Self::Full(cause),
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => Self::Refused(cause),
            _ => Self::Cut(cause),
        }
    }

    fn kind(&self) -> FaultKind {
        match self {
            Self::Missing | Self::Damaged(_) => FaultKind::Corrupt,
            Self::Conflict => FaultKind::Conflict,
            Self::Full(_) => FaultKind::NoSpace,
            Self::Cut(_) => FaultKind::Unavailable,
            Self::Source(error) | Self::Sink(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
                _ => FaultKind::Internal,
            },
            Self::Settings(_) | Self::Refused(_) => FaultKind::Internal,
        }
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        match error.kind() {
            FaultKind::Internal => Self::internal(error),
            kind => Self::new(kind, error.to_string()).because(error),
        }
    }
}

/// Returns the kind of the first error of the operating system among the causes.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_what_to_do_and_nothing_of_the_cause() {
        let cause = || Cause::from("PUT https://minio.internal/secret");
        for (error, kind, told) in [
            (ArchiveError::Missing, FaultKind::Corrupt, "the object storage has no such backup"),
            (ArchiveError::Damaged("it ends early"), FaultKind::Corrupt, "the backup is damaged: it ends early"),
            (ArchiveError::Conflict, FaultKind::Conflict, "another backup is in the place of this one"),
            (ArchiveError::Full(cause()), FaultKind::NoSpace, "the object storage is full"),
            (ArchiveError::Cut(cause()), FaultKind::Unavailable, "the object storage cannot be reached, or broke off"),
            (ArchiveError::Refused(cause()), FaultKind::Internal, "internal error; the request id names it"),
            (ArchiveError::Sink(io::ErrorKind::StorageFull.into()), FaultKind::NoSpace, "the drive cannot be written"),
            (
                ArchiveError::Source(io::Error::other("/data/drives/x")),
                FaultKind::Internal,
                "internal error; the request id names it",
            ),
        ] {
            let fault = Fault::from(error);
            assert_eq!((fault.kind, &*fault.told), (kind, told));
        }
    }

    #[test]
    fn a_full_disk_is_found_beneath_the_words_of_the_client() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot copy")]
        struct Wrapped(#[source] io::Error);
        let of = |kind: io::ErrorKind| {
            ArchiveError::of_store(object_store::Error::Generic {
                store: "LocalFileSystem",
                source: Box::new(Wrapped(kind.into())),
            })
        };
        assert!(matches!(of(io::ErrorKind::StorageFull), ArchiveError::Full(_)));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), ArchiveError::Refused(_)));
        assert!(matches!(of(io::ErrorKind::TimedOut), ArchiveError::Cut(_)));
    }
}
