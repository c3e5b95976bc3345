//! Streams of the fast client, several at once, against either server.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::http::{Connection, Target};
use crate::servers::{Longshore, Nginx, Peer, UPLOAD, flush, key_of};

/// A server as the fast client's threads see it.
pub(super) struct Host {
    /// As the table names it.
    pub(super) name: &'static str,
    /// Its process.
    pub(super) pid: u32,
    /// Its address and login.
    pub(super) server: Target,
    /// Where its files are, if its client has to make them durable.
    unflushed: Option<PathBuf>,
    names: AtomicU32,
}

/// An upload that was made durable.
pub(super) struct Uploaded {
    /// What to DELETE.
    pub(super) path: String,
    /// What the client's flush cost.
    pub(super) flush: Duration,
}

impl Host {
    pub(super) fn longshore(peer: &Longshore) -> Self {
        let server = peer.inlet();
        Self { name: peer.name(), pid: peer.pid(), server, unflushed: None, names: AtomicU32::new(0) }
    }

    pub(super) fn nginx(peer: &Nginx) -> Self {
        let unflushed = Some(peer.file(""));
        Self { name: peer.name(), pid: peer.pid(), server: peer.place(""), unflushed, names: AtomicU32::new(0) }
    }

    /// Uploads a range of the image over a connection, durably.
    pub(super) fn upload(&self, connection: &mut Connection, image: &File, range: Range<u64>) -> Result<Uploaded> {
        let Some(store) = &self.unflushed else {
            let key = key_of(&connection.upload("POST", UPLOAD, image, range)?)?;
            return Ok(Uploaded { path: Longshore::path(&key), flush: Duration::ZERO });
        };
        let name = format!("stream-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let path = format!("/{name}");
        connection.upload("PUT", &path, image, range)?;
        Ok(Uploaded { path, flush: flush(&store.join(name))?.cpu })
    }

    /// Where a stored image is read without a redirect; a link of Longshore's is good for five minutes.
    pub(super) fn link(&self, key: &str) -> Result<String> {
        if self.unflushed.is_some() {
            return Ok(format!("/{key}"));
        }
        Connection::open(&self.server)?.link(&Longshore::download_path(key))
    }

    /// Removes what was uploaded.
    pub(super) fn remove<'a>(&self, paths: impl IntoIterator<Item = &'a String>) -> Result<()> {
        let mut connection = Connection::open(&self.server)?;
        paths.into_iter().try_for_each(|path| connection.delete(path))
    }
}

/// Does `work` while `each` uploads and as many downloads of the fast client keep a server busy: uploads of an eighth
/// of the image that are removed again, downloads of the whole of it from the page cache.
pub(super) fn beside_streams<T>(
    host: &Host,
    key: &str,
    image: &File,
    each: u64,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let size = image.metadata()?.len();
    let link = host.link(key)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let up = |stream: u64| {
            let part = size / 8;
            let range = stream % 8 * part..(stream % 8 + 1) * part;
            let mut connection = Connection::open(&host.server)?;
            while !stop.load(Ordering::Relaxed) {
                let made = host.upload(&mut connection, image, range.clone())?;
                connection.delete(&made.path)?;
            }
            anyhow::Ok(())
        };
        let down = || {
            let mut connection = Connection::open(&host.server)?;
            while !stop.load(Ordering::Relaxed) {
                connection.download(&link, None, size)?;
            }
            anyhow::Ok(())
        };
        let streams: Vec<_> = (0..each).flat_map(|at| [scope.spawn(move || up(at)), scope.spawn(down)]).collect();
        // The streams are under way before the first wait is taken.
        std::thread::sleep(Duration::from_secs(1));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        for stream in streams {
            stream.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        done
    })
}
