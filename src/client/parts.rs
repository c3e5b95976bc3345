//! The parts of an upload, as they are sent to the URL of its transfer.

use std::collections::VecDeque;
use std::fs::File;
use std::future::pending;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::coding::{Coding, Packer, Sample, compressed};
use super::digest::Algorithm;
use super::exchange::{STALL, blocking, read, send_counted};
use super::limiter::{Limiter, Wait, Waiting};
use super::retry::persist;
use super::scan::{self, Stretch};
use super::transfers::{Transfer, path};
use super::upload::Uploaded;
use super::{Client, ClientError, Meter};

/// The pause before the server is asked again whether it is done.
const ASK: Duration = Duration::from_secs(1);

/// A transfer that takes parts.
pub(super) struct Open {
    pub(super) client: Client,
    pub(super) id: String,
    pub(super) ticket: Url,
    /// The bytes in all, if that is known.
    pub(super) size: Option<u64>,
    pub(super) coding: Coding,
    pub(super) meter: Arc<Meter>,
}

/// The body of a part.
struct Content {
    body: Body,
    /// The bytes of it, if that is known.
    length: Option<u64>,
    is_coded: bool,
    /// Counts the bytes of the drive that went into the connection.
    taken: Arc<AtomicU64>,
    /// The wait of the connection, which was given bytes, for more to be taken or for the answer.
    waiting: Arc<Mutex<Option<Waiting>>>,
}

impl Open {
    fn ticket(&self, method: Method) -> RequestBuilder {
        self.client.bare(method, self.ticket.clone())
    }

    /// Returns what has not come.
    pub(super) async fn missing(&self) -> Result<Vec<Range<u64>>, ClientError> {
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
    pub(super) async fn send_file(
        &self,
        file: &Arc<File>,
        path: &Path,
        size: u64,
        connections: usize,
    ) -> Result<(), ClientError> {
        let missing = self.missing().await?;
        let left: u64 = missing.iter().map(|range| range.end - range.start).sum();
        self.meter.set_done(size.saturating_sub(left));
        let scanned = Arc::clone(file);
        let holes = blocking(move || scan::holes(&scanned, size)).await.map_err(ClientError::file(path))?;
        let data = scan::windows(&missing, &holes, size.max(1)).into_iter().filter(|stretch| !stretch.is_zero);
        let data = data.map(|stretch| stretch.range.end - stretch.range.start).sum();
        let share = scan::share(data, connections);
        let windows = Mutex::new(VecDeque::from(scan::windows(&missing, &holes, share)));
        let work = async || {
            loop {
                let window = windows.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(window) = window else { return Ok::<(), ClientError>(()) };
                self.send_window(file, path, window).await?;
            }
        };
        let sent = try_join_all((0..connections.max(1)).map(|_| work()));
        let heard = async {
            self.client.hear_limiter(&self.id, &self.meter.waits).await;
            pending::<()>().await;
        };
        tokio::select! {
            sent = sent => sent.map(|_| ()),
            () = heard => Ok(()),
        }
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
                    self.meter.waits.timed(Wait::Source, scan).await.map_err(ClientError::file(path))?
                };
                for stretch in stretches {
                    if stretch.is_zero {
                        let len = stretch.range.end - stretch.range.start;
                        self.zero(&stretch.range).await?;
                        left = left.saturating_sub(len);
                        self.meter.add_done(len);
                    } else {
                        self.send_data(file, path, stretch.range, &mut left).await?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Sends data of a file in as many parts as it takes, of which each counts at once.
    async fn send_data(
        &self,
        file: &Arc<File>,
        path: &Path,
        range: Range<u64>,
        left: &mut u64,
    ) -> Result<(), ClientError> {
        let mut at = range.start;
        while at < range.end {
            let sample = if self.coding.takes_sample() {
                let (file, range) = (Arc::clone(file), at..range.end);
                let sample = blocking(move || Sample::of_file(&file, &range)).await;
                Some(sample.map_err(ClientError::file(path))?)
            } else {
                None
            };
            let choice = self.coding.choose(sample);
            let part = at..range.end.min(at.saturating_add(choice.most));
            let began = Instant::now();
            let mut is_coded = choice.is_coded;
            let mut sent = self.put(&part, self.content(file, &part, is_coded)).await;
            if is_coded && sent.as_ref().is_err_and(|error| self.coding.is_refused_by(error)) {
                is_coded = false;
                sent = self.put(&part, self.content(file, &part, is_coded)).await;
            }
            sent?;
            let len = part.end - at;
            self.coding.note(len, is_coded, began.elapsed());
            *left = left.saturating_sub(len);
            self.meter.add_done(len);
            at = part.end;
        }
        Ok(())
    }

    /// Sends bytes that are held.
    pub(super) async fn send_piece(&self, piece: Bytes, offset: u64) -> Result<(), ClientError> {
        for Stretch { range, is_zero } in scan::of_bytes(&piece, offset) {
            let bytes = piece.slice((range.start - offset) as usize..(range.end - offset) as usize);
            persist(self.client.patience, &self.meter, async || {
                let _connection = self.meter.connection();
                if is_zero { self.zero(&range).await } else { self.put_bytes(&range, &bytes).await }
            })
            .await?;
            self.meter.add_done(range.end - range.start);
        }
        Ok(())
    }

    async fn put_bytes(&self, range: &Range<u64>, bytes: &Bytes) -> Result<(), ClientError> {
        let place = Path::new("standard input");
        let sample = if self.coding.takes_sample() {
            let bytes = bytes.clone();
            Some(blocking(move || Sample::of(&bytes)).await.map_err(ClientError::file(place))?)
        } else {
            None
        };
        let is_coded = self.coding.choose(sample).is_coded;
        let began = Instant::now();
        if is_coded {
            let plain = bytes.clone();
            let coded = blocking(move || compressed(&plain)).await.map_err(ClientError::file(place))?;
            match self.put_held(range, coded.into(), true).await {
                Err(error) if self.coding.is_refused_by(&error) => self.put_held(range, bytes.clone(), false).await?,
                sent => sent?,
            }
        } else {
            self.put_held(range, bytes.clone(), false).await?;
        }
        self.coding.note(bytes.len() as u64, is_coded, began.elapsed());
        Ok(())
    }

    async fn put_held(&self, range: &Range<u64>, bytes: Bytes, is_coded: bool) -> Result<(), ClientError> {
        let len = bytes.len() as u64;
        self.meter.waits.timed(Wait::Limit, self.client.throttle.pass(len)).await;
        let content =
            Content { body: bytes.into(), length: Some(len), is_coded, taken: Arc::default(), waiting: self.waiting() };
        self.put(range, content).await?;
        self.meter.add_moved(len);
        Ok(())
    }

    async fn zero(&self, range: &Range<u64>) -> Result<(), ClientError> {
        let body = json!({"op": "zero", "offset": range.start, "size": range.end - range.start});
        let request = self.ticket(Method::PATCH).header(CONTENT_TYPE, "application/json").body(body.to_string());
        read::<Value>(request).await.map(|_| ())
    }

    /// Reads a part of a file as it is sent.
    fn content(&self, file: &Arc<File>, range: &Range<u64>, is_coded: bool) -> Content {
        let taken = Arc::new(AtomicU64::new(0));
        let waiting = self.waiting();
        let (meter, throttle, count) = (Arc::clone(&self.meter), self.client.throttle.clone(), Arc::clone(&taken));
        let line = Arc::clone(&waiting);
        let reader = Reader { file: Arc::clone(file), left: range.clone(), packer: None, is_coded, count };
        let chunks = stream::try_unfold(Some(reader), move |reader| {
            let (meter, throttle, line) = (Arc::clone(&meter), throttle.clone(), Arc::clone(&line));
            async move {
                let Some(mut reader) = reader else { return Ok::<_, io::Error>(None) };
                set(&line, None);
                let most = throttle.chunk();
                let next = blocking(move || {
                    let chunk = reader.next(most)?;
                    Ok((chunk, (!reader.left.is_empty()).then_some(reader)))
                });
                let (chunk, reader) = meter.waits.timed(Wait::Source, next).await?;
                meter.waits.timed(Wait::Limit, throttle.pass(chunk.len() as u64)).await;
                meter.add_moved(chunk.len() as u64);
                set(&line, Some(meter.waits.begin(Wait::Line)));
                Ok(Some((chunk, reader)))
            }
        });
        let length = (!is_coded).then_some(range.end - range.start);
        Content { body: Body::wrap_stream(chunks), length, is_coded, taken, waiting }
    }

    fn waiting(&self) -> Arc<Mutex<Option<Waiting>>> {
        Arc::new(Mutex::new(Some(self.meter.waits.begin(Wait::Line))))
    }

    /// Sends a part.
    async fn put(&self, range: &Range<u64>, content: Content) -> Result<(), ClientError> {
        let Content { body, length, is_coded, taken, waiting } = content;
        let total = self.size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let mut request = self
            .ticket(Method::PUT)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_RANGE, format!("bytes {}-{}/{total}", range.start, range.end - 1))
            .body(body);
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        if is_coded {
            request = request.header(CONTENT_ENCODING, "zstd");
        }
        let sent = send_counted(request, &taken, STALL).await;
        set(&waiting, None);
        sent.map(|_| ())
    }

    /// Has the drive made, and waits for it.
    pub(super) async fn finish(
        &self,
        size: u64,
        digest: Option<&(Algorithm, String)>,
        name: &str,
    ) -> Result<Uploaded, ClientError> {
        let asserted = digest.map(|(algorithm, digest)| json!({algorithm.name(): digest}));
        let body = json!({"size": size, "digest": asserted});
        let path = format!("{}/finish", path(&self.id)?);
        self.meter.waits.set_server(Some(Limiter::Server));
        loop {
            let asked = persist(self.client.patience, &self.meter, async || {
                self.client.ask::<Transfer>(Method::POST, &path, Some(&body)).await
            });
            let transfer = match self.meter.waits.timed(Wait::Line, asked).await {
                Err(ClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, told, .. }) => {
                    return Err(ClientError::Digest(told));
                }
                transfer => transfer?,
            };
            match (transfer.state.as_str(), transfer.result) {
                ("done", Some(made)) => {
                    let digest = digest.map(|(algorithm, digest)| format!("{}:{digest}", algorithm.name()));
                    let (transfer, name) = (transfer.id, name.to_owned());
                    return Ok(Uploaded { drive: made.drive, name, size, digest, transfer, receipt: None });
                }
                ("open" | "finishing", _) => self.meter.waits.timed(Wait::Line, sleep(ASK)).await,
                (state, _) => return Err(ClientError::Failed(transfer.reason.unwrap_or_else(|| state.to_owned()))),
            }
        }
    }
}

/// Reads a part of a file, and compresses it if that is wanted.
struct Reader {
    file: Arc<File>,
    left: Range<u64>,
    packer: Option<Packer>,
    is_coded: bool,
    count: Arc<AtomicU64>,
}

impl Reader {
    /// Returns the next bytes to send, which are none only at the end. Blocks.
    fn next(&mut self, most: u64) -> io::Result<Bytes> {
        let mut chunk = vec![0; most.min(self.left.end - self.left.start) as usize];
        loop {
            let len = most.min(self.left.end - self.left.start);
            chunk.truncate(len as usize);
            self.file.read_exact_at(&mut chunk, self.left.start)?;
            self.left.start += len;
            self.count.fetch_add(len, Ordering::Relaxed);
            if !self.is_coded {
                return Ok(chunk.into());
            }
            let mut packer = self.packer.take().map_or_else(Packer::new, Ok)?;
            let mut coded = packer.add(&chunk)?;
            if self.left.is_empty() {
                coded.extend(packer.finish()?);
                return Ok(coded.into());
            }
            self.packer = Some(packer);
            if !coded.is_empty() {
                return Ok(coded.into());
            }
        }
    }
}

/// Ends the wait of a connection, and begins another if there is one.
fn set(waiting: &Mutex<Option<Waiting>>, next: Option<Waiting>) {
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = next;
}

/// Returns the parts of these ranges, which are in order, that lie in another.
pub(super) fn within(ranges: &[Range<u64>], bounds: &Range<u64>) -> Vec<Range<u64>> {
    let cut = ranges.iter().map(|range| range.start.max(bounds.start)..range.end.min(bounds.end));
    cut.filter(|range| range.start < range.end).collect()
}
