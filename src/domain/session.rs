//! Sessions: initialisations of trees, which are filled under one cookie within half an hour and become visible
//! together.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{ContentId, SessionId, Sha256, TenantId, UnixTime, UploadId, UserId, VolumeId};

/// Work on sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionCommand {
    /// Begins a session.
    Initialize(Initialization),
    /// Ends the session with this token: all of its uploads become visible, or all are dropped.
    Finish(Carried),
    /// Lists a page of the caller's sessions, newest first.
    List {
        /// The size of the page.
        limit: u32,
        /// The last session of the page before.
        after: Option<SessionId>,
    },
    /// Shows a session.
    Show(SessionId),
    /// Ends a session, and drops its uploads.
    Cancel(SessionId),
}

/// The terms of a new session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialization {
    /// Whether trees that have content get new content; otherwise they are refused.
    pub reload: bool,
    /// The trees, and the sources of their content.
    pub trees: Vec<TreeSource>,
}

/// A tree, and the source of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSource {
    /// The name of the tree.
    pub name: String,
    /// The source; when absent, the source of its present content.
    pub source: Option<Source>,
}

/// The source of a tree's content, in the words of its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path on the machine of the owner, who uploads the content. The server does not look at it.
    Local(String),
    /// A URL that the server fetches.
    Remote(String),
}

impl Source {
    /// Parses a source: a URL of a scheme that can be fetched, or an absolute path.
    pub fn parse(text: &str) -> Option<Self> {
        let is_url = ["http://", "https://", "git://"].iter().any(|scheme| text.starts_with(scheme));
        if is_url {
            Some(Self::Remote(text.to_owned()))
        } else if text.starts_with('/') {
            Some(Self::Local(text.to_owned()))
        } else {
            None
        }
    }

    /// Returns a text that is no source in a form for messages and logs: without what could be a name and a password in
    /// front of a host.
    pub fn without_credentials(text: &str) -> String {
        let (scheme, rest) = text.find("://").map_or(("", text), |at| text.split_at(at + 3));
        match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}***@{host}"),
            None => text.to_owned(),
        }
    }

    /// Returns the text of the owner.
    pub fn text(&self) -> &str {
        match self {
            Self::Local(text) | Self::Remote(text) => text,
        }
    }
}

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It accepts uploads.
    Open,
    /// All of its uploads are visible.
    Finished,
    /// It lacked an upload at its end, or was cancelled; its uploads were dropped.
    Failed,
    /// It was not ended in time; its uploads were dropped.
    Expired,
}

/// A session: an initialisation of trees.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// The permanent id.
    pub id: SessionId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The user who began it. It ends when they are removed or have a new password.
    pub user: UserId,
    /// The digest of the token that ends it.
    pub token: Sha256,
    /// The digest of the cookie that permits its uploads.
    pub cookie: Sha256,
    /// The present state.
    pub state: SessionState,
    /// The reason of its failure, for people.
    pub reason: Option<String>,
    /// The time of its creation.
    pub created: UnixTime,
    /// The time of its expiry. Uploads must start before.
    pub expires: UnixTime,
    /// The time of its end; `None` while it is open.
    pub ended: Option<UnixTime>,
    /// Its uploads, in the order of the request.
    pub uploads: Vec<Upload>,
}

/// The state of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// It is pending: no archive was received, or the last one was refused for the reason of the upload.
    Waiting,
    /// Its archive is being received.
    Receiving,
    /// A whole archive is unpacked and durable, and not visible yet.
    Received,
}

/// The part of a session that fills one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The permanent id.
    pub id: UploadId,
    /// The tree.
    pub volume: VolumeId,
    /// The name of the tree.
    pub name: String,
    /// Whether the session created the tree, which is then removed if the session fails.
    pub is_new: bool,
    /// The future content of the tree.
    pub content: ContentId,
    /// The source of the content, in the words of the owner.
    pub source: String,
    /// Whether the server fetches the content.
    pub is_remote: bool,
    /// The present state.
    pub state: UploadState,
    /// The reason why the last attempt failed, for people.
    pub reason: Option<String>,
    /// The number of members in the received archive.
    pub members: u64,
    /// The number of bytes of their data.
    pub bytes: u64,
}

/// An upload with its session, which decides who may fill it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpacking {
    /// The session, without its other uploads.
    pub session: Session,
    /// The upload.
    pub upload: Upload,
}

/// The answer to the caller who began a session. The secrets are told only once.
#[derive(Clone, Debug, PartialEq)]
pub struct Began {
    /// The token that ends the session.
    pub token: Secret,
    /// The cookie that permits uploads.
    pub cookie: Secret,
    /// The names of the trees that the caller must upload, and their uploads.
    pub uploads: Vec<(String, UploadId)>,
}

/// A secret text, of which only the digest is stored (I10).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns a secret with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A secret that is part of a command, and in clear text wherever the command is serialised. Only the process that
/// executes commands may read that. A plain [`Secret`] cannot be serialised, and neither type is printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Carried(pub Secret);

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reveal())
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_url_that_can_be_fetched_or_an_absolute_path() {
        for url in ["http://x/y", "https://x/y.git:main", "git://x/y"] {
            assert_eq!(Source::parse(url), Some(Source::Remote(url.to_owned())));
        }
        for path in ["/local/dir", "/C/x", "//host/share"] {
            assert_eq!(Source::parse(path), Some(Source::Local(path.to_owned())));
        }
        for other in ["", "x", "./x", "file:///etc/passwd", "ssh://x/y", "HTTP://x", "gopher://x", "ext::sh"] {
            assert_eq!(Source::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_told_of_a_text_that_is_no_source_has_no_credentials() {
        for (text, told) in [
            ("ftp://alice:sesame@host/path", "ftp://***@host/path"),
            ("HTTP://alice:ses@me/x@host/path", "HTTP://***@host/path"),
            ("alice:sesame@host:path", "***@host:path"),
            ("ftp://host/path", "ftp://host/path"),
        ] {
            assert_eq!(Source::without_credentials(text), told);
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", Secret::new("abc")).contains("abc"));
        let carried = Carried(Secret::new("abc"));
        assert!(!format!("{carried:?}").contains("abc"));
        assert_eq!(serde_json::to_string(&carried).unwrap(), "\"abc\"");
    }
}
