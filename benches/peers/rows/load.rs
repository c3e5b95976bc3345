//! Streams of the fast client, several at once, against either server.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
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
    /// The path to DELETE.
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

/// What keeps a server busy: streams that upload parts of the image, each removed again once it is durable, and as many
/// that download parts from the page cache.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    /// How many of each.
    pub(super) each: u64,
    /// Bytes of one upload.
    pub(super) up: u64,
    /// Bytes of one download.
    pub(super) down: u64,
}

/// The bytes that each stream has moved, as its client sees it.
pub(super) struct Moved {
    ups: Vec<Arc<AtomicU64>>,
    downs: Vec<Arc<AtomicU64>>,
}

impl Moved {
    /// Of the uploads, and of the downloads.
    pub(super) fn now(&self) -> [Vec<u64>; 2] {
        [&self.ups, &self.downs].map(|all| all.iter().map(|moved| moved.load(Ordering::Relaxed)).collect())
    }

    fn all_have_begun(&self) -> bool {
        self.now().iter().flatten().all(|moved| *moved > 0)
    }
}

/// Does `work` while streams of the fast client keep a server busy: from when every stream has moved something, and
/// while all still move. Then they are broken off, and what that leaves is gone with the server.
pub(super) fn beside_streams<T>(
    host: &Host,
    key: &str,
    image: &File,
    streams: Streams,
    work: impl FnOnce(&Moved) -> Result<T>,
) -> Result<T> {
    let size = image.metadata()?.len();
    let link = host.link(key)?;
    let stop = AtomicBool::new(false);
    let counters = || (0..streams.each).map(|_| Arc::default()).collect();
    let moved = Moved { ups: counters(), downs: counters() };
    // Streams begin at different places, which come round again.
    let part = |turn: u64, len: u64| {
        let at = turn % (size / len) * len;
        at..at + len
    };
    let connect = |moved: &Arc<AtomicU64>| {
        let mut connection = Connection::open(&host.server)?;
        connection.count(moved);
        anyhow::Ok((connection.breaker()?, connection))
    };
    let (up_breakers, ups): (Vec<_>, Vec<_>) = moved.ups.iter().map(connect).collect::<Result<_>>()?;
    let (down_breakers, downs): (Vec<_>, Vec<_>) = moved.downs.iter().map(connect).collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        let (stop, link) = (&stop, &link);
        let up = move |first: u64, mut connection: Connection| {
            (first..).try_for_each(|turn| {
                let made = host.upload(&mut connection, image, part(turn, streams.up))?;
                connection.delete(&made.path)
            })
        };
        let down = move |first: u64, mut connection: Connection| {
            (first..).try_for_each(|turn| connection.download(link, Some(part(turn, streams.down).start), streams.down))
        };
        // Only an error ends a stream. Once it was told to stop, that is no failure.
        let judged = |ended: Result<()>| if stop.load(Ordering::Relaxed) { Ok(()) } else { ended };
        let ups = (0..).zip(ups).map(|(at, connection)| scope.spawn(move || judged(up(at, connection))));
        let downs = (0..).zip(downs).map(|(at, connection)| scope.spawn(move || judged(down(at, connection))));
        let running: Vec<_> = ups.chain(downs).collect();
        let has_ended = || running.iter().any(std::thread::ScopedJoinHandle::is_finished);
        while !moved.all_have_begun() && !has_ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let done = work(&moved);
        stop.store(true, Ordering::Relaxed);
        up_breakers.into_iter().chain(down_breakers).for_each(|break_off| break_off());
        for stream in running {
            stream.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        done
    })
}
