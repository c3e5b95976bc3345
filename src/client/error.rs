//! The failures of the client.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;

use super::LoginError;
use crate::tree::{PackError, UnpackError};

/// A failure. None of them holds a secret, or the URL of a ticket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no login.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The URL of the server makes no sense.
    #[error("the URL of the server must be http://HOST or https://HOST")]
    Url,
    /// The server refused a request.
    #[error("the server refuses: {told} ({})", status.as_u16())]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The reason in the server's words.
        told: String,
        /// The time after which the server wants to be asked again.
        retry: Option<Duration>,
    },
    /// There was no connection, or it broke.
    #[error("the connection to the server failed")]
    Broke(#[source] reqwest::Error),
    /// Nothing moved.
    #[error("nothing moved for {0:?}")]
    Stalled(Duration),
    /// The server was out of reach for too long.
    #[error("gave up after {0:?} without progress; the same command goes on")]
    GaveUp(Duration, #[source] Box<ClientError>),
    /// The server's answer makes no sense.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// A file on this side.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// There is a file already.
    #[error("{} is there already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// A directory is wanted.
    #[error("{} is no directory, and several receipts need one", .0.display())]
    NotADirectory(PathBuf),
    /// A directory is not empty.
    #[error("{} is there already, and is no empty directory", .0.display())]
    Occupied(PathBuf),
    /// No name of a volume.
    #[error("{0:?} is no name of a volume: it has letters, digits, '_', '.' and '-'")]
    NotAVolume(String),
    /// Another process works on the same.
    #[error("another process is at work on {}", .0.display())]
    Busy(PathBuf),
    /// The drive is another one now, or changed.
    #[error("the drive changed while it was read")]
    DriveChanged,
    /// No drive, or several, of this name.
    #[error("{0} drives are named {1:?}")]
    NotOne(usize, String),
    /// The source is not what it was when the upload began.
    #[error("{} changed since its upload began; --restart begins anew", .0.display())]
    SourceChanged(PathBuf),
    /// The source is not what it was said to be.
    #[error("{} is not what it should be: its digest is {got}", path.display())]
    SourceDiffers {
        /// The file.
        path: PathBuf,
        /// Its digest.
        got: String,
    },
    /// A list of files makes no sense.
    #[error("{}: line {line}: {told}", file.display())]
    Manifest {
        /// The list.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        told: String,
    },
    /// Of several files, some are not uploaded.
    #[error("{failed} of {of} files are not uploaded; the same command goes on with them")]
    Some {
        /// The number of these.
        failed: usize,
        /// The number of all.
        of: usize,
        /// The exit code.
        code: u8,
    },
    /// An archive did not arrive whole.
    #[error("the archive broke off; the server says: {0}")]
    TreeBroke(String, #[source] Box<ClientError>),
    /// A directory that cannot be sent.
    #[error("the directory cannot be sent whole")]
    Unpackable(#[source] PackError),
    /// An archive that cannot be unpacked.
    #[error("the archive cannot be unpacked")]
    Unpacked(#[source] UnpackError),
    /// The server could not make the drive.
    #[error("the server made no drive: {0}")]
    Failed(String),
    /// No id of a transfer.
    #[error("{0:?} is no id of a transfer")]
    NotAnId(String),
    /// A drive was not read back in the time that was given.
    #[error("the server has not read the drive back within {0:?}")]
    NotReadBack(Duration),
    /// What arrived is not what was sent.
    #[error("what arrived is not what was sent: {0}")]
    Digest(String),
}

impl ClientError {
    /// Returns a failure of a file.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<'_> {
        move |error| Self::File(path.to_owned(), error)
    }

    /// Whether the same request may succeed later, with nothing changed on this side.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Broke(error) => !error.is_builder(),
            Self::Stalled(_) => true,
            Self::Refused { status, .. } => matches!(status.as_u16(), 408 | 425 | 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the server refused with this status.
    pub(super) fn is_status(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// The exit code of a command that ends by this; the table of them is in the help.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Login(_) => 3,
            Self::Refused { status, .. } => match status.as_u16() {
                401 | 403 => 3,
                404 | 410 => 4,
                _ if self.is_passing() => 7,
                _ => 8,
            },
            Self::NotOne(..) | Self::NotAnId(_) | Self::NotAVolume(_) => 4,
            Self::DriveChanged | Self::SourceChanged(_) | Self::SourceDiffers { .. } => 5,
            Self::Digest(_) => 6,
            Self::Failed(_) => 8,
            Self::Broke(_) | Self::Stalled(_) | Self::GaveUp(..) | Self::TreeBroke(..) => 7,
            Self::Some { code, .. } => *code,
            Self::Manifest { .. } => 2,
            Self::Url
            | Self::Nonsense(_)
            | Self::File(..)
            | Self::Exists(_)
            | Self::Occupied(_)
            | Self::NotADirectory(_)
            | Self::NotReadBack(_)
            | Self::Busy(_)
            | Self::Unpackable(_)
            | Self::Unpacked(_) => 1,
        }
    }
}

impl From<reqwest::Error> for ClientError {
    /// Without the URL, which may be a ticket.
    fn from(error: reqwest::Error) -> Self {
        Self::Broke(error.without_url())
    }
}
