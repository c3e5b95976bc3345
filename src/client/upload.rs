//! Uploads, in several parts at once.
//!
//! # Invariants
//! - What is sent is what the server says is missing.
//! - The server makes a drive only of the bytes whose digest this side computed from the first to the last.
//!
//! # Crash
//! The record of an upload names source, transfer and ticket, and is on the disk before the first byte is sent.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::{JoinHandle, spawn_blocking};

use super::coding::{Coding, Compression};
use super::digest::{self, Algorithm, Digester};
use super::exchange::blocking;
use super::limiter::Wait;
use super::parts::Open;
use super::record::Record;
use super::transfers::{Transfer, path};
use super::{Client, ClientError, Meter, scan};

/// The bytes of a pipe that are held for each connection, until the server has them: nobody can read them again.
const PIECE: usize = 16 << 20;

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
    pub(crate) digest: Asserted,
    /// The digest that the source must have, in hex, if that is known.
    pub(crate) expected: Option<String>,
    /// When parts are compressed.
    pub(crate) compression: Compression,
    /// Whether to begin anew.
    pub(crate) restarts: bool,
    /// A drive that may have some of the bytes, which are not sent then.
    pub(crate) base: Option<String>,
}

/// Which digest of the whole is computed here and compared there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asserted {
    /// SHA-256; that of the pieces if most of the source is holes, which would all be digested, or if there is a base,
    /// whose pieces the server has digested already.
    Auto,
    /// By this algorithm.
    By(Algorithm),
    /// None.
    Nothing,
}

impl Asserted {
    /// Returns the algorithm for a source with so many bytes, so many of which are in holes.
    fn algorithm(self, size: u64, holes: u64, has_base: bool) -> Option<Algorithm> {
        match self {
            Self::Auto if has_base || holes > size / 2 => Some(Algorithm::PieceList),
            Self::Auto => Some(Algorithm::Sha256),
            Self::By(algorithm) => Some(algorithm),
            Self::Nothing => None,
        }
    }
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
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    /// The file with its receipt, if that was wanted.
    #[serde(default)]
    pub(crate) receipt: Option<PathBuf>,
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

impl Client {
    /// Uploads a source, and waits for the drive.
    pub(crate) async fn upload(&self, order: Upload, meter: Arc<Meter>) -> Result<Uploaded, ClientError> {
        match order.source.clone() {
            Source::File(path) => self.upload_file(&path, &order, meter).await,
            Source::Input(size) => {
                meter.set_size(size.unwrap_or_default());
                let (open, _) = self.begin(&order, (size, None), Arc::clone(&meter)).await?;
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
            let scanned = Arc::clone(&file);
            let holes = blocking(move || scan::holes(&scanned, size)).await.map_err(wrong())?;
            let data = holes.iter().fold(size, |data, hole| data - (hole.end - hole.start));
            let (open, ticket) = self.begin(order, (Some(size), Some(data)), Arc::clone(&meter)).await?;
            let kept = Kept { source: place, size, modified, transfer: open.id.clone(), ticket };
            record.write(&kept)?;
            open
        };
        let hashed = Arc::clone(&file);
        let (asserted, has_base) = (order.digest, order.base.is_some());
        let digest = spawn_blocking(move || {
            let holes = scan::holes(&hashed, size)?.iter().map(|hole| hole.end - hole.start).sum();
            let algorithm = asserted.algorithm(size, holes, has_base);
            algorithm.map(|algorithm| Ok((algorithm, digest::of_file(algorithm, &hashed, size)?))).transpose()
        });
        if order.base.is_some() {
            let taken = open.take_from_base(&file, path, size).await?;
            open.meter.note(format!("{taken} of {size} bytes are in the base already"));
        }
        open.send_file(&file, path, size, order.connections).await?;
        let digest = ended(digest).await.map_err(wrong())?;
        if let (Some(expected), Some((_, got))) = (&order.expected, &digest)
            && !expected.eq_ignore_ascii_case(got)
        {
            // It expires if this fails.
            let _ = self.cancel(&open.id).await;
            record.remove();
            return Err(ClientError::SourceDiffers { path: path.to_owned(), got: got.clone() });
        }
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
        let (size, coding) = (Some(kept.size), Coding::new(order.compression));
        Ok(Some(Open { client: self.clone(), id: kept.transfer, ticket, size, coding, meter: Arc::clone(meter) }))
    }

    /// Begins a transfer, and returns it with its ticket.
    async fn begin(
        &self,
        order: &Upload,
        (size, data): (Option<u64>, Option<u64>),
        meter: Arc<Meter>,
    ) -> Result<(Open, String), ClientError> {
        let mut body = json!({"name": order.name, "size": size, "reference": order.reference});
        // A server of another version may not know the member, and needs it only for files with holes.
        if let Some(data) = data.filter(|data| Some(*data) != size) {
            body["data"] = data.into();
        }
        if let Some(base) = &order.base {
            body["base"] = json!({"drive": base});
        }
        let transfer: Transfer = self.ask(Method::POST, "/api/v1/transfers", Some(&body)).await?;
        let ticket = transfer.ticket.ok_or(ClientError::Nonsense("a transfer without a ticket"))?;
        let url = self.place(&ticket)?;
        path(&transfer.id)?;
        let coding = Coding::new(order.compression);
        Ok((Open { client: self.clone(), id: transfer.id, ticket: url, size, coding, meter }, ticket))
    }

    /// Sends standard input piece by piece, in order.
    async fn upload_input(&self, open: Open, order: &Upload) -> Result<Uploaded, ClientError> {
        let place = Path::new("standard input");
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(ClientError::file(place))?;
        let input = Arc::new(File::from(input));
        let algorithm = order.digest.algorithm(0, 0, false);
        let mut digester = algorithm.map(Digester::new);
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
            let (piece, given) = open.meter.waits.timed(Wait::Source, read).await.map_err(ClientError::file(place))?;
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
        let digest = algorithm.zip(digester.map(Digester::finish));
        open.finish(size, digest.as_ref(), &order.name).await
    }
}

/// Returns the time of a file's last change, in seconds and nanoseconds.
pub(super) fn modified(file: &File) -> io::Result<(i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

async fn ended<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
    task.await.map_err(io::Error::other)?
}
