//! Why a backup was not written, restored or removed.

use std::error::Error;
use std::io;

use crate::domain::{Fault, FaultKind};

pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// What went wrong with a backup. Its text may be told; its source holds paths and the storage's own words, and may
/// not.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The settings make no sense. Whoever runs the server must change them.
    #[error("the object storage is set up wrongly: {0}")]
    Settings(&'static str),
    /// No manifest, so no backup: it was never finished, or it is removed.
    #[error("the object storage has no such backup")]
    Missing,
    /// Something in the storage is not what was written there. Trying again does not help.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// The manifest that is there is of another backup, or of other content.
    #[error("another backup is in the place of this one")]
    Conflict,
    /// There is no room for more.
    #[error("the object storage is full")]
    Full(#[source] Cause),
    /// The storage does not let us: wrong keys, no such bucket, a directory without rights. Whoever runs the server
    /// must act.
    #[error("the object storage refuses this")]
    Refused(#[source] Cause),
    /// The storage is out of reach, too slow, or broke off. It may work another time.
    #[error("the object storage cannot be reached, or broke off")]
    Cut(#[source] Cause),
    /// The drive that is backed up failed.
    #[error("the drive cannot be read")]
    Source(#[source] io::Error),
    /// The drive that is written failed.
    #[error("the drive cannot be written")]
    Sink(#[source] io::Error),
}

impl ArchiveError {
    /// What an error of the storage's own client means.
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
            // A list says of everything that it failed; the code is one of S3's own.
            _ if error.to_string().contains("<Code>NoSuchBucket</Code>") => Self::Refused(error.into()),
            _ => Self::by_kind(io_kind(&error), error.into()),
        }
    }

    /// The same where nothing was to be found: then the bucket, or the directory of all backups, is not there.
    pub(super) fn of_put(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Refused(error.into()),
            error => Self::of_store(error),
        }
    }

    /// What an error of the directory of backups means.
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

/// The kind of the first error of the operating system among the causes.
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
