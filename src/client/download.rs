//! Downloads of drives, in several parts at once.
//!
//! # Invariants
//! - All bytes are of one generation of the drive: each part is asked for under the tag that the first answer had.
//! - A part is recorded as there when it is on the disk. Holes of the drive are there from the start: the file is new.
//!
//! # Crash
//! The file has another name until it is whole; parts that are recorded are not asked for again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use futures_util::future::try_join_all;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::digest::{self, Algorithm, Digester};
use super::exchange::{STALL, blocking, read, send};
use super::limiter::Wait;
use super::record::{Record, sync_folder_of};
use super::retry::persist;
use super::sink::write_sparse;
use super::throttle::Throttle;
use super::update::update;
use super::{Client, ClientError, Meter, scan};
use crate::domain::{Extents, PIECE, ReceiptDigests, SignedReceipt, VolumeId};

/// The bytes that are written at once.
const WRITE: usize = 1 << 20;

/// What to download, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Download {
    /// The drive, by its UUID or name.
    pub(crate) drive: String,
    /// Where it goes to; a file of its UUID in the current folder if nothing is said.
    pub(crate) to: Option<Destination>,
    /// The connections at once.
    pub(crate) connections: usize,
    /// Whether a file that is there is replaced.
    pub(crate) replaces: bool,
    /// Whether a file that is there is changed where it differs from the drive.
    pub(crate) updates: bool,
}

/// Where a download goes to.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// A file, which is there when it is whole.
    File(PathBuf),
    /// Standard output: in order, over one connection.
    Output,
}

/// A drive that was downloaded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Downloaded {
    /// The drive.
    pub(crate) drive: VolumeId,
    /// The file, if it went to one.
    pub(crate) file: Option<PathBuf>,
    /// The bytes of it.
    pub(crate) size: u64,
    /// The digest that it was compared with, if the server knows one.
    #[serde(flatten)]
    pub(crate) digest: ReceiptDigests,
}

/// What the server says of the bytes before it sends them.
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) tag: String,
    /// The cheapest of the digests that the server knows, in hex.
    digest: Option<(Algorithm, String)>,
}

/// What is kept of a download that is under way.
#[derive(Deserialize, Serialize)]
struct Kept {
    tag: String,
    size: u64,
    /// The parts that are on the disk, as first byte and end.
    parts: Vec<(u64, u64)>,
}

impl Client {
    /// Downloads a drive.
    pub(crate) async fn download(&self, order: Download, meter: Arc<Meter>) -> Result<Downloaded, ClientError> {
        let drive = self.drive(&order.drive).await?;
        let link = Link::open(self, drive).await?;
        let mut head = link.head().await?;
        // All bytes are fetched under the tag of that head, so that a digest of a later content fails the download.
        head.digest = self.known_digest(drive).await.or(head.digest);
        meter.set_size(head.size);
        let size = head.size;
        let (file, digest) = match order.to {
            Some(Destination::Output) => (None, stream(&link, &head, &meter).await?),
            to => {
                let file = match to {
                    Some(Destination::File(file)) => file,
                    _ => PathBuf::from(format!("{drive}.img")),
                };
                let digest = if order.updates && file.exists() {
                    update(link, head, &file, order.connections, meter).await?;
                    ReceiptDigests::default()
                } else {
                    to_file(link, head, &file, order.connections, order.replaces, meter).await?
                };
                (Some(file), digest)
            }
        };
        Ok(Downloaded { drive, file, size, digest })
    }

    /// Returns the cheapest of the digests that the server knows of a drive. An older server does not tell them so.
    async fn known_digest(&self, drive: VolumeId) -> Option<(Algorithm, String)> {
        let told: SignedReceipt = self.ask(Method::GET, &format!("/api/v1/drives/{drive}/receipt"), None).await.ok()?;
        let ReceiptDigests { sha256, blake3, pieces } = told.receipt.digest;
        let known = [(Algorithm::PieceList, pieces), (Algorithm::Blake3, blake3), (Algorithm::Sha256, sha256)];
        known.into_iter().find_map(|(algorithm, digest)| Some((algorithm, digest?)))
    }
}

/// The URL under which the bytes of a drive are. It ends after a while, and is asked for anew.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) drive: VolumeId,
    url: tokio::sync::Mutex<Url>,
}

impl Link {
    pub(super) async fn open(client: &Client, drive: VolumeId) -> Result<Self, ClientError> {
        let url = Self::ask(client, drive).await?;
        Ok(Self { client: client.clone(), drive, url: tokio::sync::Mutex::new(url) })
    }

    async fn ask(client: &Client, drive: VolumeId) -> Result<Url, ClientError> {
        let response = send(client.request(Method::GET, &format!("/api/2.0/drives/{drive}/download/"))?).await?;
        let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        client.place(place.ok_or(ClientError::Nonsense("a download that leads nowhere"))?)
    }

    /// Sends a request to the link; if the link has ended, to a new one.
    pub(super) async fn send(&self, method: Method, headers: &HeaderMap) -> Result<Response, ClientError> {
        let url = self.url.lock().await.clone();
        let request = |url| send(self.client.bare(method.clone(), url).headers(headers.clone()));
        match request(url.clone()).await {
            Err(error) if error.is_status(StatusCode::FORBIDDEN) => {
                let mut held = self.url.lock().await;
                if *held == url {
                    *held = Self::ask(&self.client, self.drive).await?;
                }
                let url = held.clone();
                drop(held);
                request(url).await
            }
            answer => answer,
        }
    }

    /// Returns the long holes of the drive, of the generation with this tag. A server that cannot tell them has none to
    /// tell: their zeros are fetched then.
    async fn holes(&self, tag: &str) -> Result<Vec<Range<u64>>, ClientError> {
        #[derive(Deserialize)]
        struct Stretch {
            start: u64,
            length: u64,
            zero: bool,
        }
        let mut url = self.url.lock().await.clone();
        url.set_path(&format!("{}/extents", url.path()));
        let stretches: Vec<Stretch> = read(self.client.bare(Method::GET, url)).await.unwrap_or_default();
        let holes = stretches.into_iter().filter(|stretch| stretch.zero && stretch.length >= PIECE);
        let holes: Vec<_> = holes.map(|hole| hole.start..hole.start.saturating_add(hole.length)).collect();
        if !holes.is_empty() && self.head().await?.tag != tag {
            return Err(ClientError::DriveChanged);
        }
        Ok(holes)
    }

    pub(super) async fn head(&self) -> Result<Head, ClientError> {
        let response = self.send(Method::HEAD, &HeaderMap::new()).await?;
        let headers = response.headers();
        let size = text(headers.get(CONTENT_LENGTH)).and_then(|size| size.parse().ok());
        let tag = text(headers.get(ETAG)).filter(|tag| tag.starts_with('"'));
        Ok(Head {
            size: size.ok_or(ClientError::Nonsense("a drive without a size"))?,
            tag: tag.ok_or(ClientError::Nonsense("a drive without a tag"))?.to_owned(),
            digest: digest::told(headers).map(|digest| (Algorithm::Sha256, digest)),
        })
    }

    /// Asks for the bytes from `start` to `end`.
    async fn range(&self, head: &Head, start: u64, end: u64) -> Result<Response, ClientError> {
        let mut headers = HeaderMap::new();
        let sent = "a tag that cannot be sent back";
        headers.insert(RANGE, format!("bytes={start}-{}", end - 1).parse().map_err(|_| ClientError::Nonsense(sent))?);
        headers.insert(IF_RANGE, head.tag.parse().map_err(|_| ClientError::Nonsense(sent))?);
        let response = self.send(Method::GET, &headers).await?;
        // The whole is the answer to a tag that is over.
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(ClientError::DriveChanged);
        }
        let expected = format!("bytes {start}-{}/{}", end - 1, head.size);
        if text(response.headers().get(CONTENT_RANGE)) != Some(&expected) {
            return Err(ClientError::Nonsense("another range than was asked for"));
        }
        Ok(response)
    }
}

fn text(value: Option<&reqwest::header::HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// Reads the next bytes of a body, about [`WRITE`]. What came before an error is returned with it.
async fn gather(response: &mut Response, throttle: &Throttle, meter: &Meter) -> (BytesMut, Result<bool, ClientError>) {
    let mut held = BytesMut::with_capacity(2 * WRITE);
    while held.len() < WRITE {
        match meter.waits.timed(Wait::Line, timeout(STALL, response.chunk())).await {
            Ok(Ok(Some(bytes))) => {
                meter.waits.timed(Wait::Limit, throttle.pass(bytes.len() as u64)).await;
                meter.add_moved(bytes.len() as u64);
                held.extend_from_slice(&bytes);
            }
            Ok(Ok(None)) => return (held, Ok(true)),
            Ok(Err(error)) => return (held, Err(error.into())),
            Err(_) => return (held, Err(ClientError::Stalled(STALL))),
        }
    }
    (held, Ok(false))
}

/// Fetches the bytes from `*at` to `end`, and gives them to `write` in order. `*at` moves along with what was written.
pub(super) async fn fetch(
    link: &Link,
    head: &Head,
    at: &mut u64,
    end: u64,
    meter: &Meter,
    mut write: impl AsyncFnMut(BytesMut, u64) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    persist(link.client.patience, meter, async || {
        if *at == end {
            return Ok(());
        }
        let _connection = meter.connection();
        let mut response = meter.waits.timed(Wait::Line, link.range(head, *at, end)).await?;
        loop {
            let (bytes, is_last) = gather(&mut response, &link.client.throttle, meter).await;
            let len = bytes.len() as u64;
            if len > end - *at {
                return Err(ClientError::Nonsense("more bytes than were asked for"));
            }
            if len > 0 {
                meter.waits.timed(Wait::Target, write(bytes, *at)).await?;
                *at += len;
                meter.add_done(len);
            }
            match is_last {
                Ok(true) if *at == end => return Ok(()),
                Ok(true) => return Err(ClientError::Nonsense("fewer bytes than were asked for")),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
    })
    .await
}

/// Writes a drive to standard output, and returns the digest that it was compared with.
async fn stream(link: &Link, head: &Head, meter: &Meter) -> Result<ReceiptDigests, ClientError> {
    let place = Path::new("standard output");
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(ClientError::file(place))?;
    let output = Arc::new(File::from(output));
    let mut digest = head.digest.as_ref().map(|(algorithm, _)| Digester::new(*algorithm));
    let mut at = 0;
    fetch(link, head, &mut at, head.size, meter, async |bytes, _| {
        if let Some(digest) = &mut digest {
            digest.update(&bytes);
        }
        let output = Arc::clone(&output);
        blocking(move || (&*output).write_all(&bytes)).await.map_err(ClientError::file(place))
    })
    .await?;
    match (&head.digest, digest) {
        (Some((algorithm, want)), Some(digest)) => compared(*algorithm, want, digest.finish()),
        _ => Ok(ReceiptDigests::default()),
    }
}

/// Compares a digest with that of the server, and returns it.
fn compared(algorithm: Algorithm, want: &str, got: String) -> Result<ReceiptDigests, ClientError> {
    if want != got {
        return Err(ClientError::Digest(format!("its {} is {got}, and should be {want}", algorithm.name())));
    }
    let (got, none) = (Some(got), ReceiptDigests::default());
    Ok(match algorithm {
        Algorithm::Sha256 => ReceiptDigests { sha256: got, ..none },
        Algorithm::Blake3 => ReceiptDigests { blake3: got, ..none },
        Algorithm::PieceList => ReceiptDigests { pieces: got, ..none },
    })
}

/// A download to a file, which several connections work on.
struct Job {
    link: Link,
    head: Head,
    path: PathBuf,
    file: Arc<File>,
    left: Mutex<VecDeque<(u64, u64)>>,
    progress: Mutex<(Extents, Record)>,
    meter: Arc<Meter>,
}

/// Downloads to a file, and returns the digest that it was compared with.
async fn to_file(
    link: Link,
    head: Head,
    to: &Path,
    connections: usize,
    replaces: bool,
    meter: Arc<Meter>,
) -> Result<ReceiptDigests, ClientError> {
    if !replaces && to.exists() {
        return Err(ClientError::Exists(to.to_owned()));
    }
    let place = std::path::absolute(to).map_err(ClientError::file(to))?;
    let mut path = place.clone().into_os_string();
    path.push(".part");
    let path = PathBuf::from(path);
    let words =
        [b"download", link.client.url().as_bytes(), link.drive.as_bytes(), place.as_os_str().as_encoded_bytes()];
    let record = Record::open(&link.client.records, &words, to)?;
    let kept = record.read::<Kept>().filter(|kept| kept.tag == head.tag && kept.size == head.size);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(ClientError::file(&path))?;
    let mut there = Extents::default();
    if let Some(kept) = kept
        && file.metadata().map_err(ClientError::file(&path))?.len() == head.size
    {
        kept.parts.iter().for_each(|(start, end)| there.insert(*start..(*end).min(head.size)));
        meter.note(format!("going on: {} of {} bytes are there", there.total(), head.size));
    } else {
        // Left-over bytes would show where zeros are left out.
        file.set_len(0).and_then(|()| file.set_len(head.size)).map_err(ClientError::file(&path))?;
        record.write(&Kept { tag: head.tag.clone(), size: head.size, parts: Vec::new() })?;
    }
    for hole in persist(link.client.patience, &meter, async || link.holes(&head.tag).await).await? {
        there.insert(hole.start..hole.end.min(head.size));
    }
    meter.set_done(there.total());
    let share = scan::share(head.size.saturating_sub(there.total()), connections);
    let left = parts(&there, head.size, share);
    let job = Arc::new(Job {
        link,
        head,
        path: path.clone(),
        file: Arc::new(file),
        left: Mutex::new(left),
        progress: Mutex::new((there, record)),
        meter,
    });
    try_join_all((0..connections.max(1)).map(|_| job.work())).await?;
    let digest = job.check().await?;
    if !replaces && to.exists() {
        return Err(ClientError::Exists(to.to_owned()));
    }
    fs::rename(&path, to).and_then(|()| sync_folder_of(&place)).map_err(ClientError::file(to))?;
    if let Some(job) = Arc::into_inner(job) {
        job.progress.into_inner().unwrap_or_else(PoisonError::into_inner).1.remove();
    }
    Ok(digest)
}

/// Returns what is not there, in parts of so many bytes. After each, the file is flushed; a crash loses this much of
/// each connection.
fn parts(there: &Extents, size: u64, part: u64) -> VecDeque<(u64, u64)> {
    let mut parts = VecDeque::new();
    let mut at = 0;
    while let Some(gap) = there.first_gap(at..size) {
        let end = gap.end.min((gap.start / part + 1) * part);
        parts.push_back((gap.start, end));
        at = end;
    }
    parts
}

impl Job {
    async fn work(self: &Arc<Self>) -> Result<(), ClientError> {
        loop {
            let Some((start, end)) = locked(&self.left).pop_front() else { return Ok(()) };
            let mut at = start;
            fetch(&self.link, &self.head, &mut at, end, &self.meter, async |bytes, offset| {
                let file = Arc::clone(&self.file);
                blocking(move || write_sparse(&file, &bytes, offset)).await.map_err(ClientError::file(&self.path))
            })
            .await?;
            let job = Arc::clone(self);
            let kept = self.meter.waits.timed(Wait::Target, spawn_blocking(move || job.keep(start, end)));
            kept.await.map_err(|_| ClientError::Nonsense("a task ended"))??;
        }
    }

    /// Makes a part durable, and then says so in the record.
    fn keep(&self, start: u64, end: u64) -> Result<(), ClientError> {
        self.file.sync_data().map_err(ClientError::file(&self.path))?;
        let mut progress = locked(&self.progress);
        progress.0.insert(start..end);
        let parts = progress.0.ranges().iter().map(|range| (range.start, range.end)).collect();
        progress.1.write(&Kept { tag: self.head.tag.clone(), size: self.head.size, parts })
    }

    /// Reads the file back, if the server knows a digest. One that differs is not gone on with.
    async fn check(&self) -> Result<ReceiptDigests, ClientError> {
        let synced = Arc::clone(&self.file);
        blocking(move || synced.sync_all()).await.map_err(ClientError::file(&self.path))?;
        let Some((algorithm, want)) = &self.head.digest else { return Ok(ReceiptDigests::default()) };
        let (file, size, algorithm) = (Arc::clone(&self.file), self.head.size, *algorithm);
        let got = blocking(move || digest::of_file(algorithm, &file, size)).await;
        let compared = compared(algorithm, want, got.map_err(ClientError::file(&self.path))?);
        if compared.is_err() {
            let nothing = Kept { tag: String::new(), size: 0, parts: Vec::new() };
            locked(&self.progress).1.write(&nothing)?;
        }
        compared
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_is_missing_cut_at_their_bounds() {
        const PART: u64 = 10;
        assert_eq!(parts(&Extents::default(), 0, PART), []);
        assert_eq!(parts(&Extents::default(), PART, PART), [(0, PART)]);
        let mut there = Extents::default();
        there.insert(5..PART + 1);
        there.insert(2 * PART..3 * PART);
        let left = parts(&there, 4 * PART + 9, PART);
        assert_eq!(left, [(0, 5), (PART + 1, 2 * PART), (3 * PART, 4 * PART), (4 * PART, 4 * PART + 9)]);
    }
}
