//! Brings a file up to date with a drive: of the pieces that are the same on both sides nothing is fetched.
//!
//! The file is changed where it is, so it is neither the old nor the new one until this is over.
//!
//! # Invariants
//! - A piece is written only if it has the BLAKE3 that the server told of it.
//! - All pieces are of one generation of the drive: its tag is the same before the first and after the last.
//!
//! # Crash
//! What was written is found to be the same by the next attempt. Nothing is said to be done before it is on the disk.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use futures_util::future::try_join_all;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::download::{Head, Link, fetch};
use super::exchange::blocking;
use super::record::Record;
use super::retry::persist;
use super::sink::{clear, overwrite_sparse};
use super::{ClientError, Meter};
use crate::domain::PIECE;

/// The digests that the server is asked for at once: it reads so many pieces before anything is fetched.
const PAGE: u64 = 512;
/// The pieces that one connection compares, and fetches those that differ, at a time.
const RUN: usize = 16;

type Digest = [u8; 32];

/// What the server says of pieces.
#[derive(Deserialize)]
struct Page {
    size: u64,
    pieces: Vec<Value>,
    next: Option<u64>,
}

/// Pieces of a drive, in order from one on.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Zeros(Range<u64>),
    Data(u64, Vec<Digest>),
}

/// Changes a file to what the drive has.
pub(super) async fn update(
    link: Link,
    head: Head,
    to: &Path,
    connections: usize,
    meter: Arc<Meter>,
) -> Result<(), ClientError> {
    let place = std::path::absolute(to).map_err(ClientError::file(to))?;
    let words = [&b"update"[..], place.as_os_str().as_encoded_bytes()];
    // Two at a time would write over each other. It says nothing: the file tells what is there.
    let record = Record::open(&link.client.records, &words, to)?;
    let file = open(to, head.size).map_err(ClientError::file(to))?;
    let update = Update { link, head, path: to.to_owned(), file: Arc::new(file), meter };
    update.run(connections).await?;
    record.remove();
    Ok(())
}

fn open(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("only a regular file is brought up to date"));
    }
    file.set_len(size)?;
    Ok(file)
}

struct Update {
    link: Link,
    head: Head,
    path: PathBuf,
    file: Arc<File>,
    meter: Arc<Meter>,
}

impl Update {
    async fn run(&self, connections: usize) -> Result<(), ClientError> {
        let count = self.head.size.div_ceil(PIECE);
        let (mut at, mut fetched) = (0, 0);
        while at < count {
            let page = self.page(at).await?;
            if page.size != self.head.size {
                return Err(ClientError::DriveChanged);
            }
            let (runs, next) = runs(&page.pieces, at)?;
            if next <= at || next > count || page.next.unwrap_or(count) != next {
                return Err(ClientError::Nonsense("other pieces than were asked for"));
            }
            at = next;
            let left = Mutex::new(VecDeque::from(runs));
            let work = async || {
                let mut fetched = 0;
                loop {
                    let run = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(run) = run else { return Ok::<u64, ClientError>(fetched) };
                    fetched += self.apply(run).await?;
                }
            };
            fetched += try_join_all((0..connections.max(1)).map(|_| work())).await?.iter().sum::<u64>();
        }
        let file = Arc::clone(&self.file);
        self.blocking(move || file.sync_all()).await?;
        let now = persist(self.link.client.patience, &self.meter, async || self.link.head().await).await?;
        if now.tag != self.head.tag {
            return Err(ClientError::DriveChanged);
        }
        self.meter.note(format!("{fetched} of {} bytes were fetched", self.head.size));
        Ok(())
    }

    /// Asks for the digests of the pieces from this one on.
    async fn page(&self, from: u64) -> Result<Page, ClientError> {
        let path = format!("/api/v1/drives/{}/pieces?from={from}&limit={PAGE}", self.link.drive);
        let client = &self.link.client;
        persist(client.patience, &self.meter, async || client.ask(Method::GET, &path, None).await).await
    }

    /// Makes the file have these pieces; returns the bytes that were fetched.
    async fn apply(&self, run: Run) -> Result<u64, ClientError> {
        let (from, digests) = match run {
            Run::Zeros(pieces) => {
                let (start, end) = (pieces.start * PIECE, (pieces.end * PIECE).min(self.head.size));
                let file = Arc::clone(&self.file);
                self.blocking(move || clear(&file, start, end)).await?;
                self.meter.add_done(end - start);
                return Ok(0);
            }
            Run::Data(from, digests) => (from, Arc::new(digests)),
        };
        let (file, wanted, size) = (Arc::clone(&self.file), Arc::clone(&digests), self.head.size);
        let differing = self.blocking(move || differing(&file, from, &wanted, size)).await?;
        let count: u64 = differing.iter().map(|range| self.bytes(from, range)).sum();
        self.meter.add_done(self.bytes(from, &(0..digests.len())) - count);
        for range in differing {
            self.fetch(from + range.start as u64, &digests[range]).await?;
        }
        Ok(count)
    }

    /// The bytes of these of the pieces from one on.
    fn bytes(&self, from: u64, range: &Range<usize>) -> u64 {
        let (start, end) = (from + range.start as u64, from + range.end as u64);
        (end * PIECE).min(self.head.size) - start * PIECE
    }

    /// Fetches pieces, and writes each that has its digest.
    async fn fetch(&self, from: u64, digests: &[Digest]) -> Result<(), ClientError> {
        let mut at = from * PIECE;
        let end = at + self.bytes(from, &(0..digests.len()));
        // Nothing is kept of a piece that broke off but this.
        let mut held = BytesMut::new();
        fetch(&self.link, &self.head, &mut at, end, &self.meter, async |bytes, offset| {
            held.extend_from_slice(&bytes);
            let until = offset + bytes.len() as u64;
            loop {
                let start = until - held.len() as u64;
                let len = (start + PIECE).min(end) - start;
                if len == 0 || (held.len() as u64) < len {
                    return Ok(());
                }
                let (piece, wanted) = (held.split_to(len as usize), digests[(start / PIECE - from) as usize]);
                let file = Arc::clone(&self.file);
                let written = self.blocking(move || {
                    let is_same = *blake3::hash(&piece).as_bytes() == wanted;
                    if is_same { overwrite_sparse(&file, &piece, start).map(|()| true) } else { Ok(false) }
                });
                if !written.await? {
                    return Err(ClientError::Digest(format!("the {len} bytes from {start} have another BLAKE3")));
                }
            }
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ClientError> {
        blocking(work).await.map_err(ClientError::file(&self.path))
    }
}

/// Reads what the server tells of pieces from one on, and returns the first piece that is not among them.
fn runs(told: &[Value], from: u64) -> Result<(Vec<Run>, u64), ClientError> {
    let nonsense = || ClientError::Nonsense("the digests of its pieces are of another form");
    let (mut runs, mut at) = (Vec::new(), from);
    for one in told {
        if let Some(zeros) = one.as_u64() {
            let end = at.checked_add(zeros).ok_or_else(nonsense)?;
            runs.push(Run::Zeros(at..end));
            at = end;
        } else {
            let bytes = one.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or_else(nonsense)?;
            let (digests, rest) = bytes.as_chunks::<32>();
            if !rest.is_empty() {
                return Err(nonsense());
            }
            for some in digests.chunks(RUN) {
                runs.push(Run::Data(at, some.to_vec()));
                at += some.len() as u64;
            }
        }
    }
    Ok((runs, at))
}

/// Returns which of the pieces from one on a file has otherwise. Blocks.
fn differing(file: &File, from: u64, digests: &[Digest], size: u64) -> io::Result<Vec<Range<usize>>> {
    let mut buffer = vec![0; PIECE as usize];
    let mut found: Vec<Range<usize>> = Vec::new();
    for (index, wanted) in digests.iter().enumerate() {
        let start = (from + index as u64) * PIECE;
        let bytes = &mut buffer[..size.saturating_sub(start).min(PIECE) as usize];
        file.read_exact_at(bytes, start)?;
        if blake3::hash(bytes).as_bytes() == wanted {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => found.push(index..index + 1),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pieces_of_an_answer_are_read() {
        let digest = |byte: u8, count: usize| STANDARD.encode(vec![byte; 32 * count]);
        let (runs, next) = runs(&[json!(2), json!(digest(7, RUN + 1)), json!(1)], 5).unwrap();
        let data = [Run::Data(7, vec![[7; 32]; RUN]), Run::Data(7 + RUN as u64, vec![[7; 32]])];
        let end = 8 + RUN as u64;
        let [first, second] = data;
        assert_eq!(runs, [Run::Zeros(5..7), first, second, Run::Zeros(end..end + 1)]);
        assert_eq!(next, end + 1);
        for wrong in [json!("AAAA"), json!("?"), json!(-1), json!(null), json!(u64::MAX)] {
            assert!(super::runs(std::slice::from_ref(&wrong), 5).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pieces_that_differ_are_found_in_runs() {
        let file = tempfile::tempfile().unwrap();
        let size = 4 * PIECE + 3;
        file.set_len(size).unwrap();
        let zeros = *blake3::hash(&vec![0; PIECE as usize]).as_bytes();
        let last = *blake3::hash(&[0; 3]).as_bytes();
        let digests = [zeros, zeros, zeros, zeros, last];
        assert!(differing(&file, 0, &digests, size).unwrap().is_empty());
        file.write_all_at(b"x", PIECE).unwrap();
        file.write_all_at(b"x", 3 * PIECE - 1).unwrap();
        file.write_all_at(b"x", size - 1).unwrap();
        assert_eq!(differing(&file, 0, &digests, size).unwrap(), [1..3, 4..5]);
        assert_eq!(differing(&file, 2, &digests[2..], size).unwrap(), [0..1, 2..3]);
    }
}
