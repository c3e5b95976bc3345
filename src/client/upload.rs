//! Uploads, in several parts at once.
//!
//! # Invariants
//! - What is sent is what the server says is missing.
//! - The server makes a drive only of the bytes whose digest this side computed from the first to the last.
//!
//! # Crash
//! The record of an upload names source, transfer and ticket, and is on the disk before the first byte is sent.

mod have;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use super::digest::{self, Algorithm, Digester};
use super::exchange::{STALL, accepted, blocking, read};
use super::record::Record;
use super::retry::persist;
use super::scan::{self, Stretch};
use super::transfers::{Transfer, path};
use super::{Client, ClientError, Meter};

/// The bytes of a file that one connection takes at a time.
const WINDOW: u64 = 64 << 20;
/// The bytes that are read at once.
const READ: u64 = 1 << 20;
/// The bytes of a pipe that are held for each connection, until the server has them: nobody can read them again.
const PIECE: usize = 16 << 20;
/// The pause before the server is asked again whether it is done.
const ASK: Duration = Duration::from_secs(1);

/// What to upload.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// The source.
    pub(crate) source: Source,
    /// The name of the drive.
    pub(crate) name: String,
    /// A name for the transfer, by which it is found.
    pub(crate) reference: Option<String>,
    /// The connections at once.
    pub(crate) connections: usize,
    /// The digest that the server is to compare.
    pub(crate) digest: Option<Algorithm>,
    /// Whether to begin anew.
    pub(crate) restarts: bool,
    /// A drive that may have some of the bytes, which are not sent then.
    pub(crate) base: Option<String>,
}

/// Where bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file or a device.
    File(PathBuf),
    /// Standard input, of this many bytes if that is known.
    Input(Option<u64>),
}

/// A drive that was uploaded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Uploaded {
    /// The drive.
    pub(crate) drive: String,
    /// Its name.
    pub(crate) name: String,
    /// The bytes that it was made of.
    pub(crate) size: u64,
    /// The digest that the server compared, if any.
    pub(crate) digest: Option<String>,
    /// The transfer.
    pub(crate) transfer: String,
}

/// What is kept of an upload that is under way.
#[derive(Clone, Deserialize, Serialize)]
struct Kept {
    source: PathBuf,
    size: u64,
    modified: (i64, i64),
    transfer: String,
    ticket: String,
}

/// A transfer that takes parts.
struct Open {
    client: Client,
    id: String,
    ticket: Url,
    /// The bytes in all, if that is known.
    size: Option<u64>,
    meter: Arc<Meter>,
}

impl Client {
    /// Uploads a source, and waits for the drive.
    pub(crate) async fn upload(&self, order: Upload, meter: Arc<Meter>) -> Result<Uploaded, ClientError> {
        match order.source.clone() {
            Source::File(path) => self.upload_file(&path, &order, meter).await,
            Source::Input(size) => {
                meter.set_size(size.unwrap_or_default());
                let (open, _) = self.begin(&order, size, Arc::clone(&meter)).await?;
                let (id, client) = (open.id.clone(), self.clone());
                let done = self.upload_input(open, &order).await;
                if done.is_err() {
                    // What came cannot be gone on with. It expires if this fails, too.
                    let _ = client.cancel(&id).await;
                }
                done
            }
        }
    }

    async fn upload_file(&self, path: &Path, order: &Upload, meter: Arc<Meter>) -> Result<Uploaded, ClientError> {
        let wrong = || ClientError::file(path);
        let place = path.canonicalize().map_err(wrong())?;
        let mut file = File::open(&place).map_err(wrong())?;
        let size = file.seek(io::SeekFrom::End(0)).map_err(wrong())?;
        let modified = modified(&file).map_err(wrong())?;
        meter.set_size(size);
        let words = [&b"upload"[..], self.url().as_bytes(), place.as_os_str().as_encoded_bytes()];
        let record = Record::open(&self.records, &words, path)?;
        let file = Arc::new(file);
        let resumed = self.resumed(&record, (size, modified), order, path, &meter).await?;
        let open = if let Some(open) = resumed {
            open
        } else {
            let (open, ticket) = self.begin(order, Some(size), Arc::clone(&meter)).await?;
            let kept = Kept { source: place, size, modified, transfer: open.id.clone(), ticket };
            record.write(&kept)?;
            open
        };
        let hashed = Arc::clone(&file);
        let digest = order
            .digest
            .map(|algorithm| (algorithm, spawn_blocking(move || digest::of_file(algorithm, &hashed, size))));
        if order.base.is_some() {
            let taken = open.take_from_base(&file, path, size).await?;
            open.meter.note(format!("{taken} of {size} bytes are in the base already"));
        }
        open.send_file(&file, path, size, order.connections).await?;
        let digest = match digest {
            Some((algorithm, task)) => Some((algorithm, ended(task).await.map_err(wrong())?)),
            None => None,
        };
        loop {
            if self::modified(&file).map_err(wrong())? != modified {
                return Err(ClientError::SourceChanged(path.to_owned()));
            }
            match open.finish(size, digest.as_ref(), &order.name).await {
                // A server that fell forgot zeros that were not on its disk yet.
                Err(error) if error.is_status(StatusCode::CONFLICT) && !open.missing().await?.is_empty() => {
                    open.send_file(&file, path, size, order.connections).await?;
                }
                Err(error) => {
                    if matches!(error, ClientError::Digest(_) | ClientError::Failed(_)) {
                        // Nobody knows which bytes are wrong. It expires if this fails.
                        let _ = self.cancel(&open.id).await;
                        record.remove();
                    }
                    return Err(error);
                }
                Ok(done) => {
                    record.remove();
                    return Ok(done);
                }
            }
        }
    }

    /// Returns the transfer that an earlier process began, if it can be gone on with.
    async fn resumed(
        &self,
        record: &Record,
        source: (u64, (i64, i64)),
        order: &Upload,
        path: &Path,
        meter: &Arc<Meter>,
    ) -> Result<Option<Open>, ClientError> {
        let Some(kept) = record.read::<Kept>() else { return Ok(None) };
        if order.restarts {
            // It expires if this fails.
            let _ = self.cancel(&kept.transfer).await;
            return Ok(None);
        }
        let transfer = match self.transfer(&kept.transfer).await {
            Err(error) if error.is_status(StatusCode::NOT_FOUND) => return Ok(None),
            transfer => transfer?,
        };
        if ["failed", "expired", "cancelled"].contains(&transfer.state.as_str()) {
            meter.note(format!("the transfer that was begun is {}; beginning anew", transfer.state));
            return Ok(None);
        }
        if (kept.size, kept.modified) != source {
            return Err(ClientError::SourceChanged(path.to_owned()));
        }
        meter.note(format!("going on: {} of {} bytes are there", transfer.durable, kept.size));
        let ticket = self.place(&kept.ticket)?;
        let size = Some(kept.size);
        Ok(Some(Open { client: self.clone(), id: kept.transfer, ticket, size, meter: Arc::clone(meter) }))
    }

    /// Begins a transfer, and returns it with its ticket.
    async fn begin(&self, order: &Upload, size: Option<u64>, meter: Arc<Meter>) -> Result<(Open, String), ClientError> {
        let mut body = json!({"name": order.name, "size": size, "reference": order.reference});
        if let Some(base) = &order.base {
            body["base"] = json!({"drive": base});
        }
        let transfer: Transfer = self.ask(Method::POST, "/api/v1/transfers", Some(&body)).await?;
        let ticket = transfer.ticket.ok_or(ClientError::Nonsense("a transfer without a ticket"))?;
        let url = self.place(&ticket)?;
        path(&transfer.id)?;
        Ok((Open { client: self.clone(), id: transfer.id, ticket: url, size, meter }, ticket))
    }

    /// Sends standard input piece by piece, in order.
    async fn upload_input(&self, open: Open, order: &Upload) -> Result<Uploaded, ClientError> {
        let place = Path::new("standard input");
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(ClientError::file(place))?;
        let input = Arc::new(File::from(input));
        let mut digester = order.digest.map(Digester::new);
        let mut size = 0;
        let mut sending = FuturesUnordered::new();
        loop {
            if sending.len() >= order.connections.max(1) {
                sending.next().await.transpose()?;
            }
            let (reader, taken) = (Arc::clone(&input), digester.take());
            let read = blocking(move || {
                let mut piece = Vec::with_capacity(PIECE);
                (&*reader).take(PIECE as u64).read_to_end(&mut piece)?;
                let mut digester = taken;
                if let Some(digester) = &mut digester {
                    digester.update(&piece);
                }
                Ok((Bytes::from(piece), digester))
            });
            let (piece, given) = read.await.map_err(ClientError::file(place))?;
            digester = given;
            if piece.is_empty() {
                break;
            }
            let offset = size;
            size += piece.len() as u64;
            sending.push(open.send_piece(piece, offset));
        }
        while let Some(sent) = sending.next().await {
            sent?;
        }
        drop(sending);
        let digest = order.digest.zip(digester.map(Digester::finish));
        open.finish(size, digest.as_ref(), &order.name).await
    }
}

impl Open {
    fn ticket(&self, method: Method) -> RequestBuilder {
        self.client.bare(method, self.ticket.clone())
    }

    /// Returns what has not come.
    async fn missing(&self) -> Result<Vec<Range<u64>>, ClientError> {
        #[derive(Deserialize)]
        struct Missing {
            start: u64,
            length: u64,
        }
        let mut url = self.ticket.clone();
        url.set_path(&format!("{}/extents", url.path()));
        url.set_query(Some("missing"));
        let missing = persist(self.client.patience, &self.meter, async || {
            read::<Vec<Missing>>(self.client.bare(Method::GET, url.clone())).await
        });
        Ok(missing.await?.into_iter().map(|one| one.start..one.start.saturating_add(one.length)).collect())
    }

    /// Sends what is missing of a file.
    async fn send_file(&self, file: &Arc<File>, path: &Path, size: u64, connections: usize) -> Result<(), ClientError> {
        let missing = self.missing().await?;
        let left: u64 = missing.iter().map(|range| range.end - range.start).sum();
        self.meter.set_done(size.saturating_sub(left));
        let scanned = Arc::clone(file);
        let holes = blocking(move || scan::holes(&scanned, size)).await.map_err(ClientError::file(path))?;
        let windows = Mutex::new(VecDeque::from(scan::windows(&missing, &holes, WINDOW)));
        let work = async || {
            loop {
                let window = windows.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(window) = window else { return Ok::<(), ClientError>(()) };
                self.send_window(file, path, window).await?;
            }
        };
        try_join_all((0..connections.max(1)).map(|_| work())).await.map(|_| ())
    }

    /// Sends a window of a file, or what the server misses of it.
    async fn send_window(&self, file: &Arc<File>, path: &Path, window: Stretch) -> Result<(), ClientError> {
        let range = window.range.clone();
        let mut left = range.end - range.start;
        let mut is_first = true;
        persist(self.client.patience, &self.meter, async || {
            let mut todo = vec![range.clone()];
            if !is_first {
                todo = within(&self.missing().await?, &range);
                let missing = todo.iter().map(|range| range.end - range.start).sum();
                self.meter.add_done(left.saturating_sub(missing));
                left = missing;
            }
            is_first = false;
            let _connection = self.meter.connection();
            for range in todo {
                let stretches = if window.is_zero {
                    vec![Stretch { range, is_zero: true }]
                } else {
                    let scanned = Arc::clone(file);
                    let scan = blocking(move || scan::by_content(&scanned, range));
                    scan.await.map_err(ClientError::file(path))?
                };
                for stretch in stretches {
                    let len = stretch.range.end - stretch.range.start;
                    if stretch.is_zero {
                        self.zero(&stretch.range).await?;
                    } else {
                        self.put_file(file, &stretch.range).await?;
                    }
                    left = left.saturating_sub(len);
                    self.meter.add_done(len);
                }
            }
            Ok(())
        })
        .await
    }

    /// Sends bytes that are held.
    async fn send_piece(&self, piece: Bytes, offset: u64) -> Result<(), ClientError> {
        for Stretch { range, is_zero } in scan::of_bytes(&piece, offset) {
            let len = range.end - range.start;
            let bytes = piece.slice((range.start - offset) as usize..(range.end - offset) as usize);
            persist(self.client.patience, &self.meter, async || {
                let _connection = self.meter.connection();
                if is_zero {
                    self.zero(&range).await
                } else {
                    self.put(&range, bytes.clone().into(), &AtomicU64::new(0)).await
                }
            })
            .await?;
            if !is_zero {
                self.meter.add_moved(len);
            }
            self.meter.add_done(len);
        }
        Ok(())
    }

    async fn zero(&self, range: &Range<u64>) -> Result<(), ClientError> {
        let body = json!({"op": "zero", "offset": range.start, "size": range.end - range.start});
        let request = self.ticket(Method::PATCH).header(CONTENT_TYPE, "application/json").body(body.to_string());
        read::<Value>(request).await.map(|_| ())
    }

    async fn put_file(&self, file: &Arc<File>, range: &Range<u64>) -> Result<(), ClientError> {
        let taken = Arc::new(AtomicU64::new(0));
        let (file, meter, count, end) = (Arc::clone(file), Arc::clone(&self.meter), Arc::clone(&taken), range.end);
        let chunks = stream::try_unfold(range.start, move |at| {
            let (file, meter, count) = (Arc::clone(&file), Arc::clone(&meter), Arc::clone(&count));
            async move {
                if at == end {
                    return Ok::<_, io::Error>(None);
                }
                let len = READ.min(end - at);
                let chunk = blocking(move || {
                    let mut chunk = vec![0; len as usize];
                    file.read_exact_at(&mut chunk, at)?;
                    Ok(Bytes::from(chunk))
                });
                let chunk = chunk.await?;
                count.fetch_add(len, Ordering::Relaxed);
                meter.add_moved(len);
                Ok(Some((chunk, at + len)))
            }
        });
        self.put(range, Body::wrap_stream(chunks), &taken).await
    }

    /// Sends a part. `taken` counts the bytes that went into the connection.
    async fn put(&self, range: &Range<u64>, body: Body, taken: &AtomicU64) -> Result<(), ClientError> {
        let total = self.size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let request = self
            .ticket(Method::PUT)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, range.end - range.start)
            .header(CONTENT_RANGE, format!("bytes {}-{}/{total}", range.start, range.end - 1))
            .body(body);
        let answered = async { accepted(request.send().await?).await?.bytes().await.map_err(ClientError::from) };
        let mut answered = std::pin::pin!(answered);
        let mut before = taken.load(Ordering::Relaxed);
        loop {
            tokio::select! {
                answer = &mut answered => return answer.map(|_| ()),
                () = sleep(STALL) => {}
            }
            let now = taken.load(Ordering::Relaxed);
            if now == before {
                return Err(ClientError::Stalled(STALL));
            }
            before = now;
        }
    }

    /// Has the drive made, and waits for it.
    async fn finish(
        &self,
        size: u64,
        digest: Option<&(Algorithm, String)>,
        name: &str,
    ) -> Result<Uploaded, ClientError> {
        let asserted = digest.map(|(algorithm, digest)| json!({algorithm.name(): digest}));
        let body = json!({"size": size, "digest": asserted});
        let path = format!("{}/finish", path(&self.id)?);
        loop {
            let asked = persist(self.client.patience, &self.meter, async || {
                self.client.ask::<Transfer>(Method::POST, &path, Some(&body)).await
            });
            let transfer = match asked.await {
                Err(ClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, told, .. }) => {
                    return Err(ClientError::Digest(told));
                }
                transfer => transfer?,
            };
            match (transfer.state.as_str(), transfer.result) {
                ("done", Some(made)) => {
                    let digest = digest.map(|(algorithm, digest)| format!("{}:{digest}", algorithm.name()));
                    let (transfer, name) = (transfer.id, name.to_owned());
                    return Ok(Uploaded { drive: made.drive, name, size, digest, transfer });
                }
                ("open" | "finishing", _) => sleep(ASK).await,
                (state, _) => return Err(ClientError::Failed(transfer.reason.unwrap_or_else(|| state.to_owned()))),
            }
        }
    }
}

/// Returns the parts of these ranges, which are in order, that lie in another.
fn within(ranges: &[Range<u64>], bounds: &Range<u64>) -> Vec<Range<u64>> {
    let cut = ranges.iter().map(|range| range.start.max(bounds.start)..range.end.min(bounds.end));
    cut.filter(|range| range.start < range.end).collect()
}

/// Returns the time of a file's last change, in seconds and nanoseconds.
fn modified(file: &File) -> io::Result<(i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

async fn ended<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
    task.await.map_err(io::Error::other)?
}
