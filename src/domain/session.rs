//! An initialisation of trees: several of them filled under one cookie, within half an hour, visible together.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{ContentId, SessionId, Sha256, TenantId, UnixTime, UploadId, UserId, VolumeId};

/// Work on sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionCommand {
    /// Begins one.
    Initialize(Initialization),
    /// Ends the one with this token: what was uploaded becomes visible, or all of it is dropped.
    Finish(Carried),
    /// A page of the caller's sessions, newest first.
    List {
        /// The most of them.
        limit: u32,
        /// The last of the page before.
        after: Option<SessionId>,
    },
    /// One of them.
    Show(SessionId),
    /// Ends one, and drops what was uploaded.
    Cancel(SessionId),
}

/// Trees to be filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialization {
    /// Whether trees that have content get new content; without it such a tree is refused.
    pub reload: bool,
    /// Each with where its content comes from.
    pub trees: Vec<TreeSource>,
}

/// A tree, and where its content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSource {
    /// The name of the tree.
    pub name: String,
    /// Where from; when absent, from where it came the last time.
    pub source: Option<Source>,
}

/// Where the content of a tree comes from, as its owner writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path at the owner's own machine, who will upload it. Never looked at here.
    Local(String),
    /// A URL that the server fetches.
    Remote(String),
}

impl Source {
    /// Reads a source: a URL of a scheme that can be fetched, or an absolute path.
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

    /// A text that is no source, to be told and logged: what could be a name and a password in front of a host is left
    /// out.
    pub fn without_credentials(text: &str) -> String {
        let (scheme, rest) = text.find("://").map_or(("", text), |at| text.split_at(at + 3));
        match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}***@{host}"),
            None => text.to_owned(),
        }
    }

    /// As its owner wrote it.
    pub fn text(&self) -> &str {
        match self {
            Self::Local(text) | Self::Remote(text) => text,
        }
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Uploads are taken.
    Open,
    /// All that was uploaded is visible.
    Finished,
    /// Something was missing at its end, or it was cancelled; nothing of it is left.
    Failed,
    /// Nobody ended it in time; nothing of it is left.
    Expired,
}

/// One initialisation of trees.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its identity.
    pub id: SessionId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Who began it. It ends with them, and with a new password.
    pub user: UserId,
    /// The digest of the token that ends it.
    pub token: Sha256,
    /// The digest of the cookie that lets its trees be uploaded.
    pub cookie: Sha256,
    /// Where it is in its life.
    pub state: SessionState,
    /// Why it failed, for a person.
    pub reason: Option<String>,
    /// The time of its creation.
    pub created: UnixTime,
    /// Uploads may start before this.
    pub expires: UnixTime,
    /// The time of its end; `None` while it is open.
    pub ended: Option<UnixTime>,
    /// Its parts, in the order of the request.
    pub uploads: Vec<Upload>,
}

/// Where a part of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// Nothing has come, or what came was not good; the reason says why.
    Waiting,
    /// Its archive is being received.
    Receiving,
    /// A whole archive is unpacked and durable, and nobody sees it yet.
    Received,
}

/// The part of a session that fills one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its identity.
    pub id: UploadId,
    /// The tree.
    pub volume: VolumeId,
    /// The tree's name.
    pub name: String,
    /// Whether the session made the tree, which then goes with it if it fails.
    pub is_new: bool,
    /// What the tree will hold.
    pub content: ContentId,
    /// Where that comes from, as the owner wrote it.
    pub source: String,
    /// Whether the server fetches it.
    pub is_remote: bool,
    /// Its present state.
    pub state: UploadState,
    /// Why the last attempt was not good, for a person.
    pub reason: Option<String>,
    /// Members of the archive that was received.
    pub members: u64,
    /// Bytes of data in it.
    pub bytes: u64,
}

/// A part of a session with what is needed to judge who may fill it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpacking {
    /// The session, without its other parts.
    pub session: Session,
    /// The part.
    pub upload: Upload,
}

/// What whoever began a session is told. The secrets are told this once.
#[derive(Clone, Debug, PartialEq)]
pub struct Began {
    /// The token that ends the session.
    pub token: Secret,
    /// What proves that an uploader may.
    pub cookie: Secret,
    /// The trees that are to be uploaded, with the parts they belong to.
    pub uploads: Vec<(String, UploadId)>,
}

/// A secret text; only its digest is kept (I10).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret that came, or is to go, as this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for whoever may know it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A secret that belongs to its command, and goes in clear wherever the command is serialised: so that may only be
/// where whoever executes commands reads it. A [`Secret`] alone cannot be serialised, and neither is printed.
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
