//! What went wrong, in a form that every dialect can spell.

use std::error::Error;
use std::{fmt, io};

use rustix::io::Errno;

use super::{ByteCount, VolumeId};

type Cause = Box<dyn Error + Send + Sync>;

/// The kinds of fault. Each dialect has one table from these to its status codes and error words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The request is not what its route takes.
    Invalid,
    /// The request's message framing is ambiguous or broken (RFC 9112 section 6).
    BadFraming,
    /// An upload carried no bytes.
    Empty,
    /// No credentials, or wrong ones.
    Unauthenticated,
    /// Too many failures from this caller.
    Throttled {
        /// Seconds after which to try again.
        retry_after: u32,
    },
    /// A ticket that is forged, expired, or for another thing.
    TicketRefused,
    /// The caller is known, and may not do this.
    Forbidden,
    /// No such thing, or not the caller's.
    NotFound,
    /// The path exists; the method does not.
    MethodNotAllowed {
        /// The methods that do, comma-separated.
        allow: &'static str,
    },
    /// The thing is busy, or was changed meanwhile.
    Conflict,
    /// The thing was there, and its time is over.
    Gone,
    /// The body's media type is not the one that is served here.
    UnsupportedMediaType,
    /// The body or the drive would be larger than is allowed.
    TooLarge,
    /// A range outside the drive.
    RangeNotSatisfiable {
        /// The size of the drive.
        size: ByteCount,
    },
    /// The tenant's quota has no room.
    QuotaExceeded,
    /// The node's disk has no room.
    NoSpace,
    /// The bytes that came are not those the client asserted.
    DigestMismatch,
    /// The peer closed before the body was complete.
    BodyIncomplete,
    /// The peer sent or took nothing, or too little, for too long.
    PeerTooSlow,
    /// The transfer was ended from outside: its drive was deleted, or the server stops.
    Cancelled,
    /// The remote source that the caller named failed.
    Upstream,
    /// The bytes on disk are not the bytes that were stored.
    Corrupt,
    /// The server is stopping, or cannot take more now.
    Unavailable,
    /// Our fault. The cause is in the log, under the request's id.
    Internal,
}

/// Why a fault is one of its kind, where an API has a sentence of its own for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such volume.
    NoSuchVolume,
    /// Another volume has the name, of those that may have no name in common.
    NameTaken,
    /// There is no zone of this name.
    NoSuchZone(String),
    /// There is no type of volumes of this name or id.
    NoSuchType {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is no image of this id that the caller may use.
    NoSuchImage(VolumeId),
    /// The image of this id cannot become a volume, because of this.
    ImageUnfit(VolumeId, &'static str),
    /// The volume would be smaller than its image, which takes this.
    SmallerThanImage(ByteCount),
    /// There is no snapshot of this id.
    NoSuchSnapshot(VolumeId),
    /// There is no such backup.
    NoSuchBackup,
    /// The backup is neither whole nor failed, so it cannot be removed.
    BackupNotAtRest,
    /// The backup is not whole, so it cannot be restored.
    BackupNotWhole,
    /// A volume can only grow, and has this size.
    NotLarger(ByteCount),
    /// A volume is no smaller and no larger than these.
    SizeOutside {
        /// The least.
        least: ByteCount,
        /// The most.
        most: ByteCount,
    },
    /// The volume may only be attached for reading.
    ReadOnly,
    /// The tenant has as many volumes as its quota allows: this many.
    TooManyVolumes(u64),
    /// The tenant has as many backups as its quota allows: this many.
    TooManyBackups(u64),
    /// The tenant's quota has no room for so many bytes of backups.
    BackupBytes,
}

/// Who must act so that it works next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever made the request.
    Caller,
    /// The network, or the peer at its other end.
    Peer,
    /// Whoever runs this server.
    Us,
    /// Whoever runs the remote source.
    Upstream,
}

/// One failed request: what the caller is told, and what the log keeps.
#[derive(Debug)]
pub struct Fault {
    /// The class of fault, which decides the status.
    pub kind: FaultKind,
    /// The sentence for the caller. Never holds a path, a secret or a lower error's text.
    pub told: String,
    /// Why, where a dialect may say it in other words than `told`.
    pub reason: Option<Box<Reason>>,
    /// The request's field at fault, if one is.
    pub point: Option<String>,
    /// For the log only.
    pub cause: Option<Cause>,
}

impl Fault {
    /// A fault that the caller is told about in these words.
    pub fn new(kind: FaultKind, told: impl Into<String>) -> Self {
        Self { kind, told: told.into(), reason: None, point: None, cause: None }
    }

    /// A request that is not what its route takes, because of this field.
    pub fn invalid(point: impl Into<String>, told: impl Into<String>) -> Self {
        Self { point: Some(point.into()), ..Self::new(FaultKind::Invalid, told) }
    }

    /// Our fault: the caller learns only that, the log learns why.
    ///
    /// Unless there were too many open files at that moment, which passes.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::new(FaultKind::Internal, "internal error; the request id names it").because(cause).unless_of_open_files()
    }

    /// The same, unless there were too many open files: then it is nobody's fault but ours, and passes.
    #[must_use]
    pub fn unless_of_open_files(self) -> Self {
        if !self.is_of_open_files() {
            return self;
        }
        let told = "the server has too many files open; try again";
        Self { cause: self.cause, ..Self::new(FaultKind::Unavailable, told) }
    }

    /// Whether it came of a limit on open files, of the process or the system.
    pub fn is_of_open_files(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if number.is_some_and(|number| [Errno::MFILE, Errno::NFILE].contains(&Errno::from_raw_os_error(number))) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Says why, for dialects that have words of their own for that.
    #[must_use]
    pub fn for_reason(self, reason: Reason) -> Self {
        Self { reason: Some(Box::new(reason)), ..self }
    }

    /// Adds what the log should know.
    #[must_use]
    pub fn because(self, cause: impl Into<Cause>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// The party that must act.
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
    fn a_limit_on_open_files_is_told_as_something_that_passes() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let below = io::Error::other(Fault::internal(io::Error::from(errno)));
            let fault = Fault::internal(Fault::internal(below));
            assert_eq!(fault.kind, FaultKind::Unavailable, "{fault:?}");
        }
        assert_eq!(Fault::internal(io::Error::from(Errno::IO)).kind, FaultKind::Internal);
    }
}
