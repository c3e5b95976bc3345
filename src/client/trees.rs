//! Directories: one archive for each, up and down. An archive that broke off begins anew.
//!
//! # Crash
//! A volume has the old content or the new one. A directory has another name until it is whole; one that is left under
//! that name is recorded, and removed by the next attempt.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes};
use futures_util::stream;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::exchange::{STALL, blocking, send, send_counted};
use super::record::{Record, sync_folder_of};
use super::throttle::Throttle;
use super::{Client, ClientError, Destination, Meter};
use crate::domain::{Encoding, is_tree_name};
use crate::tree::{
    Decoder, DecoderLimits, Encoder, Limits, Owners, PackCause, PackError, PackLimits, Packed, Place, Policy,
    UnpackCause, UnpackError, Unpacked, pack, sync, unpack,
};

/// The bytes of an archive that are handed over at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait.
const AHEAD: usize = 4;

/// A directory that becomes a volume.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// The name of the volume.
    pub(crate) volume: String,
    /// Whether a volume that has content gets the new one instead.
    pub(crate) replaces: bool,
    /// The size of the volume in GiB, which is made with it.
    pub(crate) gib: Option<u64>,
    /// Whether the archive is compressed on the line.
    pub(crate) is_coded: bool,
}

/// A volume that becomes a directory.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// The name of the volume.
    pub(crate) volume: String,
    /// The directory, or standard output for the archive.
    pub(crate) to: Destination,
    /// Whether files belong to whom they belonged.
    pub(crate) keeps_owners: bool,
    /// Whether the archive is compressed on the line.
    pub(crate) is_coded: bool,
}

/// A directory that is on the server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pushed {
    /// The volume.
    pub(crate) volume: String,
    /// The files, directories and all else.
    pub(crate) members: u64,
    /// The bytes of the archive.
    pub(crate) bytes: u64,
    /// Sockets, which are left out.
    pub(crate) skipped: u64,
}

/// A volume that is here.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pulled {
    /// The volume.
    pub(crate) volume: String,
    /// The directory, if it is one.
    pub(crate) dir: Option<PathBuf>,
    /// The files, directories and all else, if they were unpacked.
    pub(crate) members: Option<u64>,
    /// The bytes of the archive as they came.
    pub(crate) bytes: u64,
}

/// The answer to the beginning of a session.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Began {
    session: String,
    cookie: String,
    uploaders: Map<String, Value>,
}

/// What is kept of a directory that is not whole.
#[derive(Deserialize, Serialize)]
struct Kept {
    part: PathBuf,
}

impl Client {
    /// Makes a volume of a directory.
    pub(crate) async fn push(&self, order: Push, meter: Arc<Meter>) -> Result<Pushed, ClientError> {
        let volume = named(&order.volume)?;
        let place = order.dir.canonicalize().map_err(ClientError::file(&order.dir))?;
        let dir = directory(&place)?;
        if let Some(gib) = order.gib {
            let body = json!({"Name": volume, "DriverOpts": {"size": gib.to_string()}});
            self.ask::<Value>(Method::POST, "/volumes/create", Some(&body)).await?;
        }
        let pushed = self.fill(dir, &place, &order, meter).await;
        if pushed.is_err() && order.gib.is_some() {
            // It stays, empty, if this fails.
            let _ = send(self.request(Method::DELETE, &format!("/volumes/{volume}"))?).await;
        }
        pushed
    }

    async fn fill(&self, dir: File, place: &Path, order: &Push, meter: Arc<Meter>) -> Result<Pushed, ClientError> {
        let source = json!({"Name": order.volume, "Source": place.to_string_lossy()});
        let body = json!({"Reload": order.replaces, "Volume": [source]});
        let began: Began = self.ask(Method::POST, "/volumes/initialize", Some(&body)).await?;
        let uploader = began.uploaders.get(&order.volume).and_then(Value::as_str);
        let uploader = uploader.ok_or(ClientError::Nonsense("a session without an uploader"))?;
        let url = self.place(&format!("{uploader}?cookie={}", began.cookie))?;
        let sent = self.send_tree(dir, url, order.is_coded, &meter).await;
        // Also after a failure: it drops what came, and says what was wrong with it.
        let path = format!("/volumes/uploadfinish?session={}", began.session);
        let ended = send(self.request(Method::PUT, &path)?).await;
        match (sent, ended) {
            (Ok(packed) | Err((_, Some(packed))), Ok(_)) => Ok(Pushed {
                volume: order.volume.clone(),
                members: packed.members,
                bytes: packed.bytes,
                skipped: packed.skipped,
            }),
            // The line broke, or the server ended it and its answer was lost.
            (Err((error, _)), Err(ClientError::Refused { told, .. })) if error.is_passing() => {
                Err(ClientError::TreeBroke(told, Box::new(error)))
            }
            (Err((error, _)), _) | (Ok(_), Err(error)) => Err(error),
        }
    }

    /// Sends an archive. When it fails after all of it was packed, that is told: the server may have all of it.
    async fn send_tree(
        &self,
        dir: File,
        url: Url,
        is_coded: bool,
        meter: &Arc<Meter>,
    ) -> Result<Packed, (ClientError, Option<Packed>)> {
        let taken = Arc::new(AtomicU64::new(0));
        let encoding = if is_coded { Encoding::Zstd } else { Encoding::Plain };
        let (chunks, packing) = start_packing(dir, encoding);
        let body = body_of(chunks, self.throttle.clone(), Arc::clone(meter), Arc::clone(&taken));
        let mut request = self.bare(Method::POST, url).header(CONTENT_TYPE, "application/x-tar").body(body);
        if is_coded {
            request = request.header(CONTENT_ENCODING, "zstd");
        }
        let sent = {
            let _connection = meter.connection();
            send_counted(request, &taken, self.patience).await
        };
        let packed = packing.await.map_err(|_| (ClientError::Nonsense("a task ended"), None))?;
        match (sent, packed) {
            (Ok(_), Ok(packed)) => Ok(packed),
            (Err(error), Ok(packed)) => Err((error, Some(packed))),
            // The server has ended it, and said why.
            (Err(error), Err(PackError { cause: PackCause::Sink(_), .. })) => Err((error, None)),
            (_, Err(error)) => Err((ClientError::Unpackable(error), None)),
        }
    }

    /// Makes a directory of a volume.
    pub(crate) async fn pull(&self, order: Pull, meter: Arc<Meter>) -> Result<Pulled, ClientError> {
        let volume = named(&order.volume)?;
        let (members, dir) = match &order.to {
            Destination::Output => {
                let response = self.archive(volume, false).await?;
                self.print(response, &meter).await?;
                (None, None)
            }
            Destination::File(dir) => {
                let unpacked = self.pull_to(dir, &order, &meter).await?;
                (Some(unpacked.members), Some(dir.clone()))
            }
        };
        Ok(Pulled { volume: order.volume, dir, members, bytes: meter.done() })
    }

    /// Requests the archive of a volume.
    async fn archive(&self, volume: &str, is_coded: bool) -> Result<Response, ClientError> {
        let response = send(self.request(Method::GET, &format!("/volumes/{volume}/download"))?).await?;
        let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let url = self.place(place.ok_or(ClientError::Nonsense("a download that leads nowhere"))?)?;
        let accepted = if is_coded { "zstd" } else { "identity" };
        send(self.bare(Method::GET, url).header(ACCEPT_ENCODING, accepted)).await
    }

    async fn pull_to(&self, dir: &Path, order: &Pull, meter: &Meter) -> Result<Unpacked, ClientError> {
        let place = std::path::absolute(dir).map_err(ClientError::file(dir))?;
        let is_there = || place.exists() && fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some());
        if is_there() || place.is_file() {
            return Err(ClientError::Occupied(dir.to_owned()));
        }
        let mut part = place.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let words = [b"pull", self.url().as_bytes(), order.volume.as_bytes(), place.as_os_str().as_encoded_bytes()];
        let record = Record::open(&self.records, &words, dir)?;
        if part.exists() {
            if record.read::<Kept>().is_none_or(|kept| kept.part != part) {
                return Err(ClientError::Occupied(part));
            }
            remove_all(&part).await?;
        }
        let response = self.archive(&order.volume, order.is_coded).await?;
        record.write(&Kept { part: part.clone() })?;
        fs::create_dir(&part).map_err(ClientError::file(&part))?;
        let unpacked = match self.unpack(response, &part, order.keeps_owners, meter).await {
            Ok(unpacked) => unpacked,
            Err(error) => {
                // The next attempt removes what cannot be removed now.
                if remove_all(&part).await.is_ok() {
                    record.remove();
                }
                return Err(error);
            }
        };
        // An empty directory is replaced.
        fs::rename(&part, &place).and_then(|()| sync_folder_of(&place)).map_err(ClientError::file(dir))?;
        record.remove();
        Ok(unpacked)
    }

    async fn unpack(
        &self,
        mut response: Response,
        part: &Path,
        keeps_owners: bool,
        meter: &Meter,
    ) -> Result<Unpacked, ClientError> {
        let encoding = match response.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None => Encoding::Plain,
            Some(b"zstd") => Encoding::Zstd,
            Some(_) => return Err(ClientError::Nonsense("an archive in a coding that was not asked for")),
        };
        let (sender, chunks) = mpsc::channel(AHEAD);
        let unpacking = start_unpacking(chunks, directory(part)?, encoding, keeps_owners);
        let _connection = meter.connection();
        let received = loop {
            match next_chunk(&mut response, &self.throttle, meter).await {
                Ok(Some(bytes)) => {
                    // It has ended, and says why.
                    if sender.send(Ok(bytes)).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    let _ = sender.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
                    break Err(error);
                }
            }
        };
        drop(sender);
        let unpacked = unpacking.await.map_err(|_| ClientError::Nonsense("a task ended"))?;
        received?;
        unpacked.map_err(ClientError::Unpacked)
    }

    /// Writes an archive to standard output.
    async fn print(&self, mut response: Response, meter: &Meter) -> Result<(), ClientError> {
        let place = Path::new("standard output");
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(ClientError::file(place))?;
        let output = Arc::new(File::from(output));
        let _connection = meter.connection();
        while let Some(bytes) = next_chunk(&mut response, &self.throttle, meter).await? {
            let output = Arc::clone(&output);
            blocking(move || (&*output).write_all(&bytes)).await.map_err(ClientError::file(place))?;
        }
        Ok(())
    }
}

/// Returns the name of a volume, which has no character that means something in a path.
fn named(volume: &str) -> Result<&str, ClientError> {
    if is_tree_name(volume) { Ok(volume) } else { Err(ClientError::NotAVolume(volume.to_owned())) }
}

/// Opens a directory.
fn directory(path: &Path) -> Result<File, ClientError> {
    let opened = File::open(path)
        .and_then(|file| if file.metadata()?.is_dir() { Ok(file) } else { Err(io::ErrorKind::NotADirectory.into()) });
    opened.map_err(ClientError::file(path))
}

async fn remove_all(path: &Path) -> Result<(), ClientError> {
    let removed = path.to_owned();
    blocking(move || fs::remove_dir_all(removed)).await.map_err(ClientError::file(path))
}

async fn next_chunk(response: &mut Response, throttle: &Throttle, meter: &Meter) -> Result<Option<Bytes>, ClientError> {
    let chunk = timeout(STALL, response.chunk()).await.map_err(|_| ClientError::Stalled(STALL))??;
    if let Some(bytes) = &chunk {
        throttle.pass(bytes.len() as u64).await;
        meter.add_moved(bytes.len() as u64);
        meter.add_done(bytes.len() as u64);
    }
    Ok(chunk)
}

/// Starts a thread that packs a directory. The chunks end with an error unless all of it is packed.
fn start_packing(
    dir: File,
    encoding: Encoding,
) -> (mpsc::Receiver<io::Result<Bytes>>, JoinHandle<Result<Packed, PackError>>) {
    let (sender, chunks) = mpsc::channel(AHEAD);
    let work = move || {
        let broken = |error| PackError { name: ".".to_owned(), cause: PackCause::Sink(error) };
        let ending = sender.clone();
        let packed = (|| {
            let mut encoder = Encoder::new(Sink { sender, chunk: Vec::new() }, encoding).map_err(broken)?;
            let packed = pack(&dir, None, &mut encoder, &PackLimits::default())?;
            encoder.finish().and_then(|mut sink| sink.flush()).map_err(broken)?;
            Ok(packed)
        })();
        if packed.is_err() {
            let _ = ending.blocking_send(Err(io::ErrorKind::InvalidData.into()));
        }
        packed
    };
    (chunks, spawn_blocking(work))
}

fn body_of(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    throttle: Throttle,
    meter: Arc<Meter>,
    taken: Arc<AtomicU64>,
) -> Body {
    let stream = stream::unfold(chunks, move |mut chunks| {
        let (throttle, meter, taken) = (throttle.clone(), Arc::clone(&meter), Arc::clone(&taken));
        async move {
            let chunk = chunks.recv().await?;
            if let Ok(bytes) = &chunk {
                let len = bytes.len() as u64;
                throttle.pass(len).await;
                taken.fetch_add(len, Ordering::Relaxed);
                meter.add_moved(len);
                meter.add_done(len);
            }
            Some((chunk, chunks))
        }
    });
    Body::wrap_stream(stream)
}

/// Starts a thread that unpacks an archive into an empty directory, and makes it durable.
fn start_unpacking(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    dir: File,
    encoding: Encoding,
    keeps_owners: bool,
) -> JoinHandle<Result<Unpacked, UnpackError>> {
    spawn_blocking(move || {
        let disk = |error| UnpackError { place: Place::default(), cause: UnpackCause::Disk(error) };
        let arriving = Arriving { chunks, chunk: Bytes::new() };
        // The disk alone bounds it: it was asked for.
        let limits = DecoderLimits { bytes: u64::MAX, ratio: u64::MAX };
        let decoder = Decoder::new(arriving, encoding, limits).map_err(disk)?;
        let owners = if keeps_owners { Owners::Keep } else { Owners::Ignore };
        let policy = Policy { owners, ..Policy::default() };
        let unpacked = unpack(decoder, &dir, &Limits::of_volume(1 << 56), &policy)?;
        sync(&dir).map_err(disk)?;
        Ok(unpacked)
    })
}

/// A writer that hands its bytes over in chunks.
struct Sink {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK);
        }
        let len = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk).into();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A reader of chunks.
struct Arriving {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let len = self.chunk.len().min(into.len());
        self.chunk.copy_to_slice(&mut into[..len]);
        Ok(len)
    }
}
