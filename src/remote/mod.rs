//! Fetches from other hosts: files over HTTP, and trees of git repositories, under a [`Policy`]. Knows no volume, no
//! tenant and no dialect. Also asks the services of the cloud that the configuration names.
//!
//! A user who names a source makes this server connect to it, so this module does not trust its users: they choose the
//! URL, the name server that resolves it, and what the other end sends.
//!
//! # Invariants
//! - A name is resolved once; each of its addresses is checked; one that is not allowed refuses them all; and the
//!   connection goes to an address that was checked. The same holds for each redirect. There is no second resolution
//!   for an attacker to change.
//! - Nothing private is sent: no credentials, cookies or referrers, no client certificate, and no proxy, user or system
//!   setting of git or of HTTP is read. Only the location of root certificates comes from outside (`SSL_CERT_FILE`,
//!   `SSL_CERT_DIR`, else the system's place).
//! - A file or a tree is either complete or an error. A body without a length or chunks is refused.
//! - A number from the other end is compared with the policy before anything is stored or counted by it. A fetch holds
//!   some buffers, the trees above the current file (64 MiB), and about 200 bytes for each object (1,000,000) in
//!   memory.
//! - An error text for the caller holds no address, no path of this server, and no text from the other end.
//!
//! # Cancellation
//! Dropping a future of this module closes its connection. [`Remote::git_as_tar`] blocks, and calls its `go_on` four
//! times a second while it waits.
//!
//! # Crash
//! Only the caller's scratch directory outlives the process.

#[cfg(test)]
mod attacks;
mod dial;
mod error;
mod exchange;
mod file;
mod git;
mod glance;
mod keystone;
mod location;
mod network;
mod scratch;
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
pub use self::glance::{Image, ImageDownload, ImageError, ImageService};
pub use self::keystone::{Entity, IdentityService, ServiceUser, Unusable, Validated};
pub use self::location::{FileUrl, Location, Repository};
pub use self::scratch::{Scratch, ScratchSpace};
pub use self::service::{NotAServiceUrl, Service, ServiceUrl, small_file};
use crate::domain::Network;

/// A protocol for fetching a source.
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

    /// Returns the port of a URL that names none.
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

/// The rules and bounds of fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The allowed schemes. Plain HTTP and git can be read and changed on their way.
    pub schemes: Vec<Scheme>,
    /// The allowed ports. Each further one is a service that can be probed from here.
    pub ports: Vec<u16>,
    /// Networks that are allowed although they are not public: users who may name a source can then reach their hosts.
    pub networks: Vec<Network>,
    /// The most bytes of a file, of a pack of git, and of all files of a tree. A fetch from git takes up to three times
    /// as much in its scratch directory, plus 64 MiB.
    pub max_bytes: u64,
    /// The time limit of a whole fetch.
    pub time: Duration,
    /// The time limit for each of: a name, a connection, a handshake, an answer, and each next byte.
    pub stall: Duration,
    /// The most redirects that are followed.
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

/// A client for fetches under one policy. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    policy: Arc<Policy>,
    dialer: Dialer,
}

impl Remote {
    /// Returns a client with the system's resolver and root certificates. Reads files: meant for start-up.
    pub fn new(policy: Policy) -> Self {
        Self::with(policy, Dialer::new(Arc::new(SystemResolver), system_roots()))
    }

    fn with(policy: Policy, dialer: Dialer) -> Self {
        Self { policy: Arc::new(policy), dialer }
    }

    /// Returns a client that also fetches no more than these bytes, such as the free space of a volume.
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
