//! Bytes from elsewhere: files over HTTP, and trees of git repositories, under a [`Policy`]. Knows no volume, no tenant
//! and no dialect.
//!
//! Whoever may name a source may make this server connect to it, so that all of this is written against its users: they
//! choose the URL, the name server that answers for it, and what the other end sends.
//!
//! # Invariants
//! - A name is resolved once; every address it has is judged; one that is not allowed refuses them all; and the
//!   connection goes to an address that was judged. So for each redirect. There is no second resolution to turn around.
//! - Nothing of ours is sent: no credentials, cookies or referrers, no client certificate, and no proxy, user or system
//!   setting of git or of HTTP is read. Only where root certificates lie comes from outside (`SSL_CERT_FILE`,
//!   `SSL_CERT_DIR`, else the system's place).
//! - A file or a tree is either complete or an error. What does not tell how long it is, is refused.
//! - Nothing is stored or counted by a number from the other end before that was compared with the policy. A fetch
//!   holds some buffers, the trees above the current file (64 MiB), and about 200 bytes for each object (1,000,000) in
//!   memory.
//! - What a caller is told holds no address, no path of ours, and no text from the other end.
//!
//! # Cancellation
//! Dropping a future of this module closes its connection. [`Remote::git_as_tar`] blocks, and asks its `stop` four
//! times a second while it waits.
//!
//! # Crash
//! Nothing here outlives the process but the caller's scratch directory.

#[cfg(test)]
mod attacks;
mod dial;
mod error;
mod exchange;
mod file;
mod git;
mod location;
mod network;
mod service;
#[cfg(test)]
mod testing;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use self::dial::{Dialer, SystemResolver, system_roots};
pub use self::error::{BadUrl, Flaw, Refusal, RemoteError, Surplus};
pub use self::file::RemoteFile;
pub use self::location::{FileUrl, Location, Repository};
pub use self::service::{Download, NotAServiceUrl, Said, Service, ServiceUrl};
use crate::domain::Network;

/// How a source is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP, for files and for git.
    Http,
    /// HTTP over TLS, for files and for git.
    Https,
    /// Git's own protocol. Neither secret nor authenticated.
    Git,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Git => "git",
        }
    }

    /// The port where the URL names none.
    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Git => 9418,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scheme is http, https or git")]
pub struct NotAScheme;

impl FromStr for Scheme {
    type Err = NotAScheme;

    fn from_str(text: &str) -> Result<Self, NotAScheme> {
        [Self::Http, Self::Https, Self::Git].into_iter().find(|scheme| scheme.name() == text).ok_or(NotAScheme)
    }
}

/// What may be fetched, from where, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How. Plain HTTP and git can be read and changed on their way.
    pub schemes: Vec<Scheme>,
    /// Which ports. Every further one is a service that can be probed from here.
    pub ports: Vec<u16>,
    /// Networks that are allowed although they are not public: whoever may name a source can then reach what is there.
    pub networks: Vec<Network>,
    /// The most bytes of a file, of a pack of git, and of all files of a tree. A fetch from git takes up to three times
    /// as much of its scratch directory, and 64 MiB.
    pub max_bytes: u64,
    /// How long all of it may take.
    pub time: Duration,
    /// How long a name, a connection, a handshake, an answer, and each next byte may be waited for.
    pub stall: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            schemes: vec![Scheme::Http, Scheme::Https, Scheme::Git],
            ports: [Scheme::Http, Scheme::Https, Scheme::Git].map(Scheme::port).to_vec(),
            networks: Vec::new(),
            max_bytes: 1 << 30,
            time: Duration::from_mins(10),
            stall: Duration::from_secs(30),
            redirects: 5,
        }
    }
}

/// Fetches under one policy. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    policy: Arc<Policy>,
    dialer: Dialer,
}

impl Remote {
    /// With the system's resolver and root certificates. Reads files: meant for start-up.
    pub fn new(policy: Policy) -> Self {
        Self::with(policy, Dialer::new(Arc::new(SystemResolver), system_roots()))
    }

    fn with(policy: Policy, dialer: Dialer) -> Self {
        Self { policy: Arc::new(policy), dialer }
    }

    /// The same, for no more bytes than these: a volume's room.
    #[must_use]
    pub fn at_most(&self, bytes: u64) -> Self {
        let policy = Policy { max_bytes: self.policy.max_bytes.min(bytes), ..(*self.policy).clone() };
        Self { policy: Arc::new(policy), dialer: self.dialer.clone() }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("policy", &self.policy).finish_non_exhaustive()
    }
}
