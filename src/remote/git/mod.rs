//! One tree of a git repository, as a tar stream. Blocks.
//!
//! Spoken is what a server needs to give out one commit: protocol version 2, and 0 and 1 where a server has no newer
//! one. Packet lines, object names and the forms of objects are read by gitoxide. Its transport is not used, since it
//! makes connections of its own.
//!
//! Its pack indexer (gix-pack 0.77, `Bundle::write_to_directory` with one thread) is not used, since its memory depends
//! on the pack. It holds every object whole: a blob of 512 MiB took 529 MB. It also holds each base of a chain of
//! deltas that has another delta on it: a pack of 9 KB with 16 such bases of 8 MiB took 143 MB, with 4 of them 45 MB,
//! although `alloc_limit_bytes` was 9 MiB, which bounds single allocations only.
//!
//! # Invariants
//! - Every object has the name by which it was requested: the output is the tree of the ref, or an error.
//! - No configuration, hook, filter, submodule or large-file pointer is followed; a submodule is an empty directory.

mod conversation;
mod objects;
mod pack;
mod session;
mod tar;
#[cfg(test)]
mod tests;
mod tree;

use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use self::objects::Objects;
use self::pack::Pack;
use self::session::Session;
use super::error::RemoteError;
use super::{Remote, Repository};

/// The interval at which `go_on` is called while nothing comes.
const TICK: Duration = Duration::from_millis(250);

impl Remote {
    /// Fetches the tree at the tip of a branch or tag, without its history, and writes it as a tar stream: directories,
    /// files (0644 or 0755) and symbolic links, with the time of the commit. On an error the stream has no end marker.
    ///
    /// `scratch` is an empty private directory, which the caller removes; see [`super::Policy::max_bytes`] for its
    /// size. `go_on` is called repeatedly, and ends the fetch with its error.
    ///
    /// # Panics
    /// On a thread outside a Tokio runtime, or that drives one: call it in `spawn_blocking`.
    pub fn git_as_tar(
        &self,
        repository: &Repository,
        scratch: &Path,
        out: impl Write,
        go_on: &(dyn Fn() -> Result<(), RemoteError> + Sync),
    ) -> Result<(), RemoteError> {
        let time = self.policy.time;
        let watch = Watch { runtime: Handle::current(), go_on, deadline: Instant::now() + time, time };
        let most = self.policy.max_bytes;
        let (tip, pack) = {
            let mut session = Session::open(self, &watch, repository)?;
            conversation::fetch(&mut session, repository.branch.as_deref(), most, |reader| {
                Pack::receive(reader, scratch, most, &watch)
            })?
        };
        let objects = Objects::resolve(pack, scratch, &watch)?;
        tree::write(&objects, tip, out, most, &watch)
    }
}

/// Checks whether a fetch was stopped or is too slow.
struct Watch<'a> {
    runtime: Handle,
    go_on: &'a (dyn Fn() -> Result<(), RemoteError> + Sync),
    deadline: Instant,
    time: Duration,
}

impl Watch<'_> {
    fn check(&self) -> Result<(), RemoteError> {
        (self.go_on)()?;
        if Instant::now() >= self.deadline { Err(RemoteError::TooSlow(self.time)) } else { Ok(()) }
    }

    /// Waits for a future, until the fetch is stopped or too slow.
    fn wait<T>(&self, future: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
        self.runtime.block_on(async {
            let mut future = pin!(future);
            loop {
                self.check()?;
                if let Ok(done) = timeout(TICK, future.as_mut()).await {
                    return done;
                }
            }
        })
    }
}
