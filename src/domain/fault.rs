//! Faults: failures of requests, in a form that every dialect can spell.

use std::error::Error;
use std::{fmt, io};

use rustix::io::Errno;

use super::{ByteCount, VolumeId};

type Cause = Box<dyn Error + Send + Sync>;

/// The kinds of fault. Each dialect has one table from these to its status codes and error words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The request is invalid for its route.
    Invalid,
    /// The request's message framing is ambiguous or broken (RFC 9112 section 6).
    BadFraming,
    /// An upload carried no bytes.
    Empty,
    /// The credentials are missing or wrong.
    Unauthenticated,
    /// The caller has failed too often.
    Throttled {
        /// Seconds after which to try again.
        retry_after: u32,
    },
    /// The ticket is forged, expired, or for another volume.
    TicketRefused,
    /// The caller is authenticated, and may not do this.
    Forbidden,
    /// The resource does not exist, or belongs to another tenant.
    NotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed {
        /// The methods that exist, comma-separated.
        allow: &'static str,
    },
    /// The resource is busy, or was changed meanwhile.
    Conflict,
    /// The resource has existed and expired.
    Gone,
    /// The version of the API that the caller asks for is not spoken.
    NotAcceptable,
    /// The media type of the body is not supported.
    UnsupportedMediaType,
    /// The body or the drive would exceed its limit.
    TooLarge,
    /// The range lies outside the drive.
    RangeNotSatisfiable {
        /// The size of the drive.
        size: ByteCount,
    },
    /// The tenant's quota has no room.
    QuotaExceeded,
    /// The node's disk has no room.
    NoSpace,
    /// The received bytes do not have the digest that the client asserted.
    DigestMismatch,
    /// The peer closed the connection before the body was complete.
    BodyIncomplete,
    /// The peer sent or accepted too few bytes for too long.
    PeerTooSlow,
    /// The transfer was cancelled: its drive was deleted, or the server stops.
    Cancelled,
    /// The remote source that the caller named has failed.
    Upstream,
    /// The bytes on disk differ from those that were stored.
    Corrupt,
    /// The server is stopping or overloaded.
    Unavailable,
    /// The server has failed. The cause is in the log, under the id of the request.
    Internal,
}

/// The reason for a fault, where an API has words of its own for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The volume does not exist.
    NoSuchVolume,
    /// No drive has this id.
    NoSuchDrive(VolumeId),
    /// Another volume has the name, which must be unique.
    NameTaken,
    /// No zone has this name.
    NoSuchZone(String),
    /// No type of volumes has this name or id.
    NoSuchType {
        /// The requested name or id.
        name: String,
        /// The names of the known types.
        known: Vec<String>,
    },
    /// No image with this id is available to the caller.
    NoSuchImage(VolumeId),
    /// The image with this id cannot become a volume, for this reason.
    ImageUnfit(VolumeId, &'static str),
    /// The volume would be smaller than its image, which has this size.
    SmallerThanImage(ByteCount),
    /// No snapshot has this id.
    NoSuchSnapshot(VolumeId),
    /// The backup does not exist.
    NoSuchBackup,
    /// The backup cannot be removed, because it is neither whole nor failed.
    BackupNotAtRest,
    /// The backup cannot be restored, because it is not whole.
    BackupNotWhole,
    /// The volume has this size, and can only grow.
    NotLarger(ByteCount),
    /// The size is outside the limits for a volume.
    SizeOutside {
        /// The smallest size.
        least: ByteCount,
        /// The largest size.
        most: ByteCount,
    },
    /// The volume may only be attached for reading.
    ReadOnly,
    /// The tenant has reached its quota of this many volumes.
    TooManyVolumes(u64),
    /// The tenant has reached its quota of this many backups.
    TooManyBackups(u64),
    /// The tenant has reached its quota of this many snapshots.
    TooManySnapshots(u64),
    /// A volume of the tenant has at most this size.
    OverVolumeSize(ByteCount),
    /// The tenant's quota has no room for the bytes of the backup.
    BackupBytes,
    /// The part does not begin where the bytes end that have come.
    WrongOffset {
        /// The offset of the first byte that is missing.
        expected: u64,
        /// The offset of the part.
        told: u64,
    },
    /// The size that the part tells, or its end, is not that of the transfer.
    InconsistentLength,
    /// The transfer is complete, and takes no more parts.
    TransferComplete,
    /// A drive has at most this size.
    LargerThan(ByteCount),
}

/// The party that must act before a retry can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller of the request.
    Caller,
    /// The network, or the peer at its other end.
    Peer,
    /// The operator of this server.
    Us,
    /// The operator of the remote source.
    Upstream,
}

/// The failure of a request: a message for the caller, and a cause for the log.
#[derive(Debug)]
pub struct Fault {
    /// The kind of fault, which decides the status.
    pub kind: FaultKind,
    /// The message for the caller, without any path, secret or text of a lower error.
    pub told: String,
    /// The reason, where a dialect may use other words than `told`.
    pub reason: Option<Box<Reason>>,
    /// The field of the request that is at fault, if any.
    pub point: Option<String>,
    /// The cause, for the log only.
    pub cause: Option<Cause>,
}

const READ_ONLY: &str = "the storage takes no writes now";

impl Fault {
    /// Returns a fault with a message for the caller.
    pub fn new(kind: FaultKind, told: impl Into<String>) -> Self {
        Self { kind, told: told.into(), reason: None, point: None, cause: None }
    }

    /// Returns the fault of an invalid request, with the field that is at fault.
    pub fn invalid(point: impl Into<String>, told: impl Into<String>) -> Self {
        Self { point: Some(point.into()), ..Self::new(FaultKind::Invalid, told) }
    }

    /// Returns a failure of the server, whose cause goes to the log alone. A lack of file descriptors, which passes,
    /// and a file system that is read-only make it [`FaultKind::Unavailable`].
    pub fn internal(cause: impl Into<Cause>) -> Self {
        let fault = Self::new(FaultKind::Internal, "internal error; the request id names it").because(cause);
        if fault.is_of(&[Errno::ROFS]) {
            return Self { kind: FaultKind::Unavailable, told: READ_ONLY.to_owned(), ..fault };
        }
        fault.unless_of_open_files()
    }

    /// Returns the fault of a write to a file system that is read-only, as it becomes after an error of its disk.
    pub fn read_only(cause: impl Into<Cause>) -> Self {
        Self::new(FaultKind::Unavailable, READ_ONLY).because(cause)
    }

    /// Turns a fault that came from a lack of file descriptors into [`FaultKind::Unavailable`], since that passes.
    #[must_use]
    pub fn unless_of_open_files(self) -> Self {
        if !self.is_of_open_files() {
            return self;
        }
        let told = "the server has too many files open; try again";
        Self { cause: self.cause, ..Self::new(FaultKind::Unavailable, told) }
    }

    /// Reports whether the cause is a limit on open files, of the process or of the system.
    pub fn is_of_open_files(&self) -> bool {
        self.is_of(&[Errno::MFILE, Errno::NFILE])
    }

    /// Reports whether the cause is one of these errors of the system.
    fn is_of(&self, errors: &[Errno]) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if number.is_some_and(|number| errors.contains(&Errno::from_raw_os_error(number))) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Adds the reason, for dialects that have words of their own for it.
    #[must_use]
    pub fn for_reason(self, reason: Reason) -> Self {
        Self { reason: Some(Box::new(reason)), ..self }
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(self, cause: impl Into<Cause>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// Returns the party that must act.
    pub const fn blame(&self) -> Blame {
        match self.kind {
            FaultKind::Invalid
            | FaultKind::BadFraming
            | FaultKind::Empty
            | FaultKind::Unauthenticated
            | FaultKind::Throttled { .. }
            | FaultKind::TicketRefused
            | FaultKind::Forbidden
            | FaultKind::NotFound
            | FaultKind::MethodNotAllowed { .. }
            | FaultKind::Conflict
            | FaultKind::Gone
            | FaultKind::NotAcceptable
            | FaultKind::UnsupportedMediaType
            | FaultKind::TooLarge
            | FaultKind::RangeNotSatisfiable { .. }
            | FaultKind::QuotaExceeded
            | FaultKind::DigestMismatch
            | FaultKind::Cancelled => Blame::Caller,
            FaultKind::BodyIncomplete | FaultKind::PeerTooSlow => Blame::Peer,
            FaultKind::Upstream => Blame::Upstream,
            FaultKind::NoSpace | FaultKind::Corrupt | FaultKind::Unavailable | FaultKind::Internal => Blame::Us,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_failure_of_the_program_is_told_as_unavailable() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let below = io::Error::other(Fault::internal(io::Error::from(errno)));
            let fault = Fault::internal(Fault::internal(below));
            assert_eq!(fault.kind, FaultKind::Unavailable, "{fault:?}");
        }
        assert_eq!(Fault::internal(io::Error::from(Errno::IO)).kind, FaultKind::Internal);
        let read_only = Fault::internal(Fault::internal(io::Error::from(Errno::ROFS)));
        assert_eq!((read_only.kind, &*read_only.told), (FaultKind::Unavailable, READ_ONLY));
    }
}
