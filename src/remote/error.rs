//! Errors of fetches, and their texts for users.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::domain::{Fault, FaultKind};

type Cause = Box<dyn Error + Send + Sync>;

/// An error of a fetch. Its text may be shown to the user who named the source; its `source` may not.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The text is not a source.
    #[error("the source is not a URL that is understood here: {0}")]
    Url(#[from] BadUrl),
    /// The policy forbids it.
    #[error("the source is not allowed: {0}")]
    Refused(#[from] Refusal),
    /// The name has no address.
    #[error("the host of the source was not found")]
    Unresolved(#[source] Option<io::Error>),
    /// No connection was made.
    #[error("the host of the source cannot be reached")]
    Unreachable(#[source] Option<io::Error>),
    /// No TLS connection to a host that proves its name.
    #[error("the source does not prove who it is by TLS, or does not speak it")]
    Tls(#[source] io::Error),
    /// The other end did not answer in HTTP.
    #[error("the source did not answer in proper HTTP")]
    Http(#[source] hyper::Error),
    /// The answer has another status than 200.
    #[error("the source answered {}", spelled(*.0))]
    Status(StatusCode),
    /// The answer cannot be used.
    #[error("the source cannot be used: {0}")]
    Flaw(#[from] Flaw),
    /// The git server answered with an error. Its text comes from a stranger, so it is not shown to the user.
    #[error("the git server does not give out this repository")]
    NoRepository,
    /// The repository has no such ref.
    #[error("the repository has no branch or tag of this name")]
    NoBranch,
    /// The repository has no HEAD, or it is unborn.
    #[error("the repository is empty or has no default branch; name a branch after a colon")]
    NoHead,
    /// The stream ended too early.
    #[error("the source broke off before its end")]
    BrokeOff(#[source] Option<Cause>),
    /// No byte came in time.
    #[error("the source was silent for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The whole fetch took too long.
    #[error("the source was not fetched within {} seconds", .0.as_secs())]
    TooSlow(Duration),
    /// The source is too large.
    #[error("the source has {0}")]
    TooLarge(#[from] Surplus),
    /// The caller stopped it.
    #[error("fetching the source was stopped")]
    Stopped,
    /// The scratch directory failed.
    #[error("the scratch space of the fetch failed")]
    Scratch(#[source] io::Error),
    /// The caller's writer failed; its other end knows the reason.
    #[error("what was fetched was not taken")]
    Output(#[source] io::Error),
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// No known scheme.
    #[error("it starts with http://, https:// or git://")]
    Scheme,
    /// No URL at all.
    #[error("its form is wrong")]
    Syntax,
    /// No host, or not a valid one.
    #[error("its host is wrong")]
    Host,
    /// A user name or a password.
    #[error("it may not hold a user name or a password")]
    Credentials,
    /// No path to a repository.
    #[error("it has no path to a repository")]
    Path,
    /// A branch name that git refuses.
    #[error("the name of the branch is wrong")]
    Branch,
    /// Too long.
    #[error("it is too long")]
    Length,
}

/// What the policy forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See [`super::Policy::schemes`].
    #[error("its scheme is not used here")]
    Scheme,
    /// See [`super::Policy::ports`].
    #[error("its port is not open to this")]
    Port,
    /// See [`super::Policy::networks`].
    #[error("its host is in a private or reserved network")]
    Address,
    /// A redirect from HTTPS to HTTP.
    #[error("it redirects from https to http")]
    Downgrade,
    /// A redirect to something other than a URL of a file.
    #[error("it redirects to something that is not fetched here")]
    Redirect,
    /// See [`super::Policy::redirects`].
    #[error("it redirects too often")]
    Redirects,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A `Content-Encoding`, which was not asked for.
    #[error("it is compressed in a way that was not asked for")]
    Encoded,
    /// A `Transfer-Encoding` that is not `chunked`, or one beside a `Content-Length`.
    #[error("its length is ambiguous")]
    Framing,
    /// The body ends with the connection, which could as well have been cut.
    #[error("it does not say how long it is")]
    Unbounded,
    /// An HTTP answer that is not from a git server.
    #[error("there is no git repository at this URL")]
    NotGit,
    /// A line that is not in the protocol.
    #[error("the git server does not keep to the protocol")]
    Protocol,
    /// Object names that are SHA-256.
    #[error("the repository names its objects by SHA-256, which is not read here")]
    Sha256,
    /// A damaged pack, or a damaged object in it.
    #[error("the objects of the repository are damaged")]
    Pack,
    /// An object that the tree names was not sent.
    #[error("objects of the repository are missing")]
    Missing,
    /// A ref to something other than a commit.
    #[error("the branch or tag does not lead to a commit")]
    NotACommit,
    /// A damaged tree.
    #[error("a directory of the repository is damaged")]
    Tree,
    /// A name that is not allowed: empty, `.`, `..`, `.git`, or with a slash or a zero in it.
    #[error("a file of the repository has a name that is not allowed")]
    Name,
    /// A symbolic link whose target is empty, too long, or has a zero in it.
    #[error("a symbolic link of the repository is damaged")]
    Link,
}

/// A bound that the source exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Surplus {
    /// See [`super::Policy::max_bytes`].
    #[error("more than {0} bytes")]
    Bytes(u64),
    /// Too many objects to be held.
    #[error("too many objects")]
    Objects,
    /// Too many files and directories to be written.
    #[error("too many files")]
    Entries,
    /// Directories, commits or tags too large to be held.
    #[error("too large directories")]
    Trees,
    /// Names that are too long or directories too deep.
    #[error("too long or too deep names of files")]
    Depth,
}

impl RemoteError {
    /// Converts an error of reading a stream, which may hold a [`RemoteError`] of ours.
    pub(super) fn of_read(error: io::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return own,
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::BrokeOff(Some(error.into()))
        } else {
            Flaw::Protocol.into()
        }
    }

    fn kind(&self) -> FaultKind {
        match self {
            Self::Url(_)
            | Self::Refused(_)
            | Self::NoRepository
            | Self::NoBranch
            | Self::NoHead
            | Self::Flaw(Flaw::NotGit | Flaw::NotACommit | Flaw::Name | Flaw::Link | Flaw::Sha256) => {
                FaultKind::Invalid
            }
            // A missing or forbidden file is the fault of the URL; a busy server is not.
            Self::Status(status) if status.is_client_error() && !is_busy(*status) => FaultKind::Invalid,
            Self::TooLarge(_) => FaultKind::TooLarge,
            Self::Unresolved(_)
            | Self::Unreachable(_)
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Status(_)
            | Self::Flaw(
                Flaw::Encoded
                | Flaw::Framing
                | Flaw::Unbounded
                | Flaw::Protocol
                | Flaw::Pack
                | Flaw::Missing
                | Flaw::Tree,
            )
            | Self::BrokeOff(_)
            | Self::Stalled(_)
            | Self::TooSlow(_) => FaultKind::Upstream,
            Self::Stopped => FaultKind::Cancelled,
            Self::Scratch(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
                _ => FaultKind::Internal,
            },
            Self::Output(_) => FaultKind::Internal,
        }
    }
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Self {
        match error.kind() {
            FaultKind::Internal => Self::internal(error),
            kind => Self::new(kind, error.to_string()).because(error).unless_of_open_files(),
        }
    }
}

fn is_busy(status: StatusCode) -> bool {
    [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Returns the number and its standard reason phrase; the text of the other end is not repeated.
fn spelled(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_told_what_to_change_and_nothing_of_the_cause() {
        let secret = || io::Error::other("connect 10.0.0.7:22: /var/scratch");
        for (error, kind, told) in [
            (
                RemoteError::from(Refusal::Address),
                FaultKind::Invalid,
                "the source is not allowed: its host is in a private or reserved network",
            ),
            (RemoteError::Status(StatusCode::NOT_FOUND), FaultKind::Invalid, "the source answered 404 Not Found"),
            (RemoteError::Status(StatusCode::BAD_GATEWAY), FaultKind::Upstream, "the source answered 502 Bad Gateway"),
            (
                RemoteError::Status(StatusCode::TOO_MANY_REQUESTS),
                FaultKind::Upstream,
                "the source answered 429 Too Many Requests",
            ),
            (RemoteError::Status(StatusCode::from_u16(299).unwrap()), FaultKind::Upstream, "the source answered 299"),
            (RemoteError::Unreachable(Some(secret())), FaultKind::Upstream, "the host of the source cannot be reached"),
            (Surplus::Bytes(7).into(), FaultKind::TooLarge, "the source has more than 7 bytes"),
            (
                RemoteError::Stalled(Duration::from_secs(30)),
                FaultKind::Upstream,
                "the source was silent for 30 seconds",
            ),
            (RemoteError::Stopped, FaultKind::Cancelled, "fetching the source was stopped"),
            (
                RemoteError::Unreachable(Some(rustix::io::Errno::MFILE.into())),
                FaultKind::Unavailable,
                "the server has too many files open; try again",
            ),
            (
                RemoteError::Unresolved(Some(rustix::io::Errno::NFILE.into())),
                FaultKind::Unavailable,
                "the server has too many files open; try again",
            ),
            (RemoteError::Scratch(secret()), FaultKind::Internal, "internal error; the request id names it"),
            (
                RemoteError::Scratch(io::ErrorKind::StorageFull.into()),
                FaultKind::NoSpace,
                "the scratch space of the fetch failed",
            ),
        ] {
            let fault = Fault::from(error);
            assert_eq!((fault.kind, &*fault.told), (kind, told));
        }
    }

    #[test]
    fn our_own_failures_come_back_out_of_a_reader() {
        let inside = io::Error::other(RemoteError::Stopped);
        assert!(matches!(RemoteError::of_read(inside), RemoteError::Stopped));
        let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(matches!(RemoteError::of_read(cut), RemoteError::BrokeOff(_)));
        assert!(matches!(RemoteError::of_read(io::Error::other("x")), RemoteError::Flaw(Flaw::Protocol)));
    }
}
