//! Receipts of drives: saved beside what was uploaded, and compared with what the disk of the server has now.
//!
//! # Crash
//! A receipt has its name when it is whole and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::download::Link;
use super::exchange::blocking;
use super::record::sync_folder_of;
use super::retry::persist;
use super::{Client, ClientError, Meter};
use crate::domain::{Algorithms, Receipt, SignedReceipt, VolumeId};

/// The first pause before the server is asked again whether it has read a drive back.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST: Duration = Duration::from_secs(10);

/// Where receipts go to.
#[derive(Clone, Debug)]
pub(crate) enum ReceiptPlace {
    /// This file, which is replaced.
    File(PathBuf),
    /// A file in this folder for each drive.
    Folder(PathBuf),
}

impl ReceiptPlace {
    /// Returns the place of this path, where files can be made.
    pub(crate) fn prepare(path: &Path, is_several: bool) -> Result<Self, ClientError> {
        let place = match path.is_dir() {
            true => Self::Folder(path.to_owned()),
            false if is_several => return Err(ClientError::NotADirectory(path.to_owned())),
            false => Self::File(path.to_owned()),
        };
        // The name of what will be the drive is as good as any.
        let new = beside(&place.of("new"));
        let made = create(&new).and_then(|_| fs::remove_file(&new));
        made.map_err(ClientError::file(path))?;
        Ok(place)
    }

    /// Returns the file for a drive.
    fn of(&self, drive: &str) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Folder(folder) => folder.join(format!("{drive}.receipt")),
        }
    }
}

/// What has the server read a drive back.
#[derive(Clone, Debug)]
pub(crate) struct ReadBack {
    /// The drive, by its UUID or name.
    pub(crate) drive: String,
    /// The digests that are wanted of it.
    pub(crate) wanted: Algorithms,
    /// The longest time to wait for it; `None` is as long as it takes.
    pub(crate) wait: Option<Duration>,
}

impl Client {
    /// Saves the receipt of a drive, as the server tells it; returns the file.
    pub(crate) async fn save_receipt(
        &self,
        drive: &str,
        place: &ReceiptPlace,
        meter: &Meter,
    ) -> Result<PathBuf, ClientError> {
        let id: VolumeId = drive.parse().map_err(|_| ClientError::Nonsense("a drive without an id"))?;
        let receipt: Value = self.receipt(id, meter).await?;
        let file = place.of(&id.to_string());
        let target = file.clone();
        let saved = blocking(move || save(&target, format!("{receipt}\n").as_bytes())).await;
        saved.map_err(ClientError::file(&file))?;
        Ok(file)
    }

    async fn receipt<T: serde::de::DeserializeOwned>(&self, drive: VolumeId, meter: &Meter) -> Result<T, ClientError> {
        let path = format!("/api/v1/drives/{drive}/receipt");
        persist(self.patience, meter, async || self.ask(Method::GET, &path, None).await).await
    }

    /// Has the server read a drive back from its disk, and returns what it knows of it then. A reading that had begun
    /// before is not counted: the disk may have lost since what it had read by then. A drive whose bytes are
    /// not those that were stored is a failure of the digest.
    pub(crate) async fn read_back(&self, order: &ReadBack, meter: &Meter) -> Result<Receipt, ClientError> {
        let drive = self.drive(&order.drive).await?;
        match self.read_back_whole(drive, order, meter).await {
            Err(ClientError::Refused { status, told, .. })
                if status == StatusCode::CONFLICT && self.is_unavailable(drive).await? =>
            {
                Err(ClientError::Digest(told))
            }
            read => read,
        }
    }

    async fn read_back_whole(&self, drive: VolumeId, order: &ReadBack, meter: &Meter) -> Result<Receipt, ClientError> {
        let since = Instant::now();
        let before: SignedReceipt = self.receipt(drive, meter).await?;
        // Times are compared with those of the same clock alone.
        let asked = time(Some(&before.receipt.issued)).ok_or(ClientError::Nonsense("a receipt of no time"))?;
        let link = Link::open(self, drive).await?;
        let mut wanted = HeaderMap::new();
        wanted.insert("want-repr-digest", wanted_digests(order.wanted));
        let mut pause = FIRST;
        loop {
            // Each of these has the drive read from its first byte to its last, unless that is under way, perhaps from
            // before, or to be done already. A server that began anew has forgotten it.
            persist(self.patience, meter, async || link.send(Method::HEAD, &wanted).await).await?;
            sleep(pause).await;
            let now: SignedReceipt = self.receipt(drive, meter).await?;
            let began = time(now.receipt.checked_from.as_ref());
            let known = now.receipt.digest.algorithms();
            if began.is_some_and(|began| began >= asked) && known.or(order.wanted) == known {
                return Ok(now.receipt);
            }
            if let Some(wait) = order.wait.filter(|wait| since.elapsed() >= *wait) {
                return Err(ClientError::NotReadBack(wait));
            }
            pause = (pause * 2).min(LONGEST);
        }
    }

    async fn is_unavailable(&self, drive: VolumeId) -> Result<bool, ClientError> {
        let told: Value = self.ask(Method::GET, &format!("/api/2.0/drives/{drive}/"), None).await?;
        Ok(told["status"] == "unavailable")
    }
}

/// Returns the field by which digests are wanted. One is always: it is what has the drive read.
fn wanted_digests(wanted: Algorithms) -> HeaderValue {
    HeaderValue::from_static(match (wanted.sha256, wanted.blake3) {
        (true, true) => "sha-256=1, blake3=1, blake3-pieces=1",
        (true, false) => "sha-256=1, blake3-pieces=1",
        (false, true) => "blake3=1, blake3-pieces=1",
        (false, false) => "blake3-pieces=1",
    })
}

fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// Returns the name that a receipt has until it is whole, of this process alone.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)
}

/// Writes a file that is there as a whole. Blocks.
fn save(file: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(file);
    let saved = (|| {
        let mut written = create(&new)?;
        written.write_all(text)?;
        written.sync_all()?;
        fs::rename(&new, file)?;
        sync_folder_of(file)
    })();
    if saved.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&new);
    }
    saved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_saved_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.receipt");
        let place = ReceiptPlace::prepare(&file, false).unwrap();
        assert!(!file.exists(), "nothing is there before there is a receipt");
        for text in ["one", "2"] {
            save(&place.of("x"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let several = ReceiptPlace::prepare(folder.path(), true).unwrap();
        assert_eq!(several.of("x"), folder.path().join("x.receipt"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(ReceiptPlace::prepare(&file, true), Err(ClientError::NotADirectory(_))));
        let nowhere = folder.path().join("absent").join("a.receipt");
        assert!(matches!(ReceiptPlace::prepare(&nowhere, false), Err(ClientError::File(..))));
    }
}
