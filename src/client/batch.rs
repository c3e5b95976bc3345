//! Several files: the list of them, and what is kept of those that are done.
//!
//! # Crash
//! A file that is uploaded is recorded before that is told; after a crash, or a failure of others, the same list goes
//! on with what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::digest::Algorithm;
use super::record::Record;
use super::{Asserted, Client, ClientError, Meter, ReceiptPlace, Source, Upload, Uploaded};

/// A line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name of the drive.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// The digest that it must have, in hex.
    pub(crate) digest: Option<(Algorithm, String)>,
}

/// Reads a manifest: a file in each line, as name, path and digest with tabs between.
pub(crate) fn read_manifest(file: &Path) -> Result<Vec<Entry>, ClientError> {
    let text = fs::read_to_string(file).map_err(ClientError::file(file))?;
    let mut paths = BTreeSet::new();
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line).and_then(|entry| {
            let is_new = paths.insert(entry.path.clone());
            if is_new { Ok(entry) } else { Err(format!("{} is listed twice", entry.path.display())) }
        });
        let wrong = |told| ClientError::Manifest { file: file.to_owned(), line: at + 1, told };
        entries.push(entry.map_err(wrong)?);
    }
    Ok(entries)
}

fn entry(line: &str) -> Result<Entry, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let (name, path, digest) = match fields[..] {
        [name, path] | [name, path, "" | "-"] => (name, path, None),
        [name, path, digest] => (name, path, Some(digest)),
        _ => return Err("a line is a name, a path and perhaps a digest, with a tab between".to_owned()),
    };
    if name.is_empty() || path.is_empty() {
        return Err("a name and a path are needed".to_owned());
    }
    let digest = digest.map(|text| {
        digest_of(text).ok_or("a digest is as in sha-256:HEX, blake3:HEX or blake3-pieces:HEX, of 64 digits")
    });
    Ok(Entry { name: name.to_owned(), path: path.into(), digest: digest.transpose()? })
}

fn digest_of(text: &str) -> Option<(Algorithm, String)> {
    let (name, hex) = text.split_once(':')?;
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == name)?;
    let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| (algorithm, hex.to_ascii_lowercase()))
}

/// Several files that are uploaded under one command.
pub(crate) struct Batch {
    client: Client,
    record: Record,
    done: Mutex<BTreeMap<String, Done>>,
}

/// A file that is uploaded.
#[derive(Clone, Deserialize, Serialize)]
struct Done {
    stamp: Stamp,
    uploaded: Uploaded,
}

/// What tells that a file is as it was.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Batch {
    /// Goes on with the files of which `words` are, or begins. `about` is what a person knows it by.
    pub(crate) async fn open(
        client: Client,
        words: &[&[u8]],
        about: &Path,
        restarts: bool,
    ) -> Result<Self, ClientError> {
        let words = [&[&b"batch"[..], client.url().as_bytes()], words].concat();
        let record = Record::open(&client.records, &words, about)?;
        let mut done: BTreeMap<String, Done> = if restarts { None } else { record.read() }.unwrap_or_default();
        if !done.is_empty() {
            // What was removed since is uploaded again.
            let there: BTreeSet<String> = client.drives().await?.iter().map(|drive| drive.uuid.to_string()).collect();
            done.retain(|_, done| there.contains(&done.uploaded.drive));
        }
        Ok(Self { client, record, done: Mutex::new(done) })
    }

    /// Uploads a file, unless that was done before, and saves its receipt there; returns whether it was.
    pub(crate) async fn upload(
        &self,
        order: Upload,
        receipt: Option<&ReceiptPlace>,
        meter: Arc<Meter>,
    ) -> Result<(Uploaded, bool), ClientError> {
        let (mut uploaded, is_old) = self.made(order, Arc::clone(&meter)).await?;
        if let Some(place) = receipt {
            uploaded.receipt = Some(self.client.save_receipt(&uploaded.drive, place, &meter).await?);
        }
        Ok((uploaded, is_old))
    }

    async fn made(&self, order: Upload, meter: Arc<Meter>) -> Result<(Uploaded, bool), ClientError> {
        let Source::File(path) = &order.source else {
            return self.client.upload(order, meter).await.map(|uploaded| (uploaded, false));
        };
        let place = path.canonicalize().map_err(ClientError::file(path))?;
        let key = format!("{}\n{}", place.to_string_lossy(), order.name);
        let stamp = stamp(&place)?;
        let before = self.done.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(before) = before.filter(|before| before.stamp == stamp && has_expected(&before.uploaded, &order)) {
            meter.set_size(stamp.size);
            meter.set_done(stamp.size);
            return Ok((before.uploaded, true));
        }
        let uploaded = self.client.upload(order, meter).await?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(key, Done { stamp, uploaded: uploaded.clone() });
        self.record.write(&*done)?;
        Ok((uploaded, false))
    }

    /// Forgets what was done, since nothing is left to do.
    pub(crate) fn end(self) {
        self.record.remove();
    }
}

/// Whether what was uploaded had the digest that is expected now.
fn has_expected(uploaded: &Uploaded, order: &Upload) -> bool {
    match (order.digest, &order.expected) {
        (Asserted::By(algorithm), Some(hex)) => uploaded.digest == Some(format!("{}:{hex}", algorithm.name())),
        _ => true,
    }
}

fn stamp(path: &Path) -> Result<Stamp, ClientError> {
    let metadata = fs::metadata(path).map_err(ClientError::file(path))?;
    Ok(Stamp { size: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manifest");
        fs::write(&file, text).unwrap();
        read_manifest(&file)
    }

    #[test]
    fn a_manifest_has_a_file_in_each_line() {
        let hex = "AB".repeat(32);
        let text =
            format!("# of monday\n\na b\t/x y/1.img\n2\t2.img\tsha-256:{hex}\n3\t3.img\tblake3:{hex}\r\n4\t4\t-\n");
        let entries = read(&text).unwrap();
        let told: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.path.to_str().unwrap())).collect();
        assert_eq!(told, [("a b", "/x y/1.img"), ("2", "2.img"), ("3", "3.img"), ("4", "4")]);
        let digests: Vec<_> = entries.into_iter().map(|entry| entry.digest).collect();
        let hex = hex.to_lowercase();
        let (sha256, blake3) = ((Algorithm::Sha256, hex.clone()), (Algorithm::Blake3, hex));
        assert_eq!(digests, [None, Some(sha256), Some(blake3), None]);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for wrong in ["one", "a\tb\tc\td", "\tb", "a\t", "a\tb\tmd5:00", "a\tb\tsha-256:00", "a\tx"] {
            let error = read(&format!("1\tx\n{wrong}\n")).unwrap_err();
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }
}
