//! Backups of drives as objects, in a local directory or an S3 bucket. Knows drives as bytes and holes; knows no
//! metadata, no states and no dialect.
//!
//! A drive is cut into pieces of 52,428,800 bytes. Each is an object, compressed by zstd (see `piece`); those that are
//! all zero have none, and holes are not read. An object has the number of its piece, counted from 1, whether those
//! before it have objects or not: so a name means the same in each run. The manifest, which is written last and only
//! once, makes the backup (see `manifest`); where all of it lies, see `place`.
//!
//! # Invariants
//! - What [`Archive::write`] has acknowledged is durable (I1): each object and its directory entry is flushed before
//!   the manifest is written, and the manifest before the answer.
//! - A backup that is restored is the bytes that were written, or an error: each piece is compared with its SHA-256,
//!   the manifest with its own, and the pieces cover the drive exactly.
//! - No object is decompressed to more than the length of its piece, or with a window of more than 8 MiB.
//! - Memory: a write holds two blocks of the pool and up to two compressed pieces, of 50.2 MiB at most; a restore two
//!   blocks and one read of 1 MiB, or what the HTTP client buffers; both some 10 MiB for zstd, and the manifest. A
//!   write that was cancelled may hold a piece until that is stored.
//!
//! # Runs that were cut short
//! A write may be run again until it succeeds: it goes on at the first piece whose object is not there. An object is
//! there whole or not at all, and its stamp, 112 bytes at its end, says of which piece of which backup it is and what
//! that piece's digest is. That is all that is read of it, once for each, so nothing else need be kept of a run. The
//! drive must not change until the backup is done, nor may two runs of one backup write at once; if they did, they
//! would write the same.
//!
//! # Cancellation
//! Dropping a future of this module is safe at any time. A put that was begun ends by itself, and a removal waits for
//! it, so that none arrives after the removal.
//!
//! # Crash
//! Before its manifest is there, a backup does not exist, and [`Archive::delete`] removes what there is of it. A
//! removal takes the manifest first.

mod error;
mod local;
mod manifest;
mod objects;
mod piece;
mod place;
mod restore;
mod write;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::ObjectMeta;
use object_store::path::Path as Key;
use tokio_util::task::TaskTracker;

pub use self::error::ArchiveError;
pub use self::manifest::Manifest;
pub use self::place::{BackupHead, Container, NotAContainer};

use self::objects::{Objects, blocking};
use self::place::may_be_manifest;
use crate::domain::{ByteCount, Extent, Secret};
use crate::io::{Block, Pool, SharedBlock};

/// The bytes of a drive in one object. That of HP's Block Storage and of Cinder; 25 blocks of the pool.
pub const PIECE_SIZE: u64 = 52_428_800;

/// The levels of zstd that can be asked for. Those above need more memory to decompress than is given.
pub const LEVELS: RangeInclusive<i32> = 1..=19;

/// How backups are stored.
#[derive(Clone, Debug)]
pub struct ArchiveSettings {
    /// The storage that holds the objects.
    pub storage: Storage,
    /// The level of zstd, one of [`LEVELS`]. Raised: smaller objects, and many times the CPU.
    pub level: i32,
}

/// Where backups are stored.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Beneath this directory of a local file system.
    Directory(PathBuf),
    /// In this bucket.
    S3(Box<Bucket>),
}

/// A bucket of S3, or of what speaks its protocol.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a storage does or does not")]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// The URL of the storage; that of AWS for the region when absent.
    pub endpoint: Option<StorageUrl>,
    /// Its region. Others than AWS mostly take any.
    pub region: String,
    /// Who we are. With the secret absent too, the credentials of the machine or container at AWS are used.
    pub access_key_id: Option<String>,
    /// The secret that belongs to the access key id.
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is part of the host name, as AWS has it, rather than of the path. An endpoint then names the
    /// bucket too.
    pub virtual_host: bool,
    /// Whether the storage heeds `If-None-Match: *`. Without, two installations that share a bucket are not kept from
    /// writing one manifest at the same moment.
    pub conditional_put: bool,
    /// Whether it removes many objects at once.
    pub bulk_delete: bool,
    /// Whether it takes and compares a CRC-64/NVME of each object.
    pub checksum: bool,
}

impl Bucket {
    /// A bucket of AWS by this name, in `us-east-1`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            virtual_host: false,
            conditional_put: true,
            bulk_delete: true,
            checksum: true,
        }
    }
}

/// The URL of a storage that speaks the protocol of S3: HTTPS, or plain HTTP to this machine. Anyone on the path of plain
/// HTTP to another machine could read and change every backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageUrl {
    text: String,
    is_plain: bool,
}

/// A text that is not the URL of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAStorageUrl {
    /// No URL, or one of another scheme.
    #[error("the storage of backups is at an http or https URL")]
    Syntax,
    /// Plain HTTP to another machine.
    #[error("plain http is for a storage on this machine only")]
    Plain,
}

impl FromStr for StorageUrl {
    type Err = NotAStorageUrl;

    fn from_str(text: &str) -> Result<Self, NotAStorageUrl> {
        let uri: http::Uri = text.parse().map_err(|_| NotAStorageUrl::Syntax)?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_plain = match uri.scheme_str() {
            Some("https") => false,
            Some("http") if is_here => true,
            Some("http") => return Err(NotAStorageUrl::Plain),
            _ => return Err(NotAStorageUrl::Syntax),
        };
        Ok(Self { text: text.to_owned(), is_plain })
    }
}

/// A drive that is backed up. It does not change meanwhile.
pub trait BackupSource: Send + Sync {
    /// Its exact size.
    fn size(&self) -> ByteCount;

    /// The runs within this extent that may hold data, in order; all else reads as zero.
    fn data(&self, within: Extent) -> impl Future<Output = io::Result<Vec<Extent>>> + Send;

    /// Fills `block[..len]` with the bytes at `offset`.
    fn read_at(&self, block: Block, len: usize, offset: u64) -> impl Future<Output = (Block, io::Result<()>)> + Send;
}

/// A drive that a backup is written to, from its first byte to its last. What it gets is good only when
/// [`Archive::restore`] has returned without an error; before that, it is to be invisible.
pub trait BackupSink: Send {
    /// Takes `block[..len]` for `offset`, which is a multiple of [`crate::io::ALIGN`]. So is `len`, but at the end of
    /// the drive; there the bytes of the block up to the next multiple are zero. May return before it is written.
    fn write(&mut self, offset: u64, block: SharedBlock, len: usize) -> impl Future<Output = io::Result<()>> + Send;

    /// Learns that this extent is all zero.
    fn zeros(&mut self, extent: Extent) -> impl Future<Output = io::Result<()>> + Send;
}

/// How far a write or a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the drive that are done.
    pub done: u64,
    /// Objects that are done. Of a write, the last of them may still be on its way.
    pub objects: u64,
}

/// What a backup takes of the storage, beside its manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub stored: u64,
}

/// A place for backups. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    objects: Objects,
    pool: Pool,
    level: i32,
    piece_size: u64,
}

impl Archive {
    /// Opens it: makes a local directory that is not there. An S3 bucket must be there, and is not looked for. Blocks,
    /// and is meant for start-up. Blocks of `pool` are what bytes pass through; puts run in `tracker`.
    pub fn open(settings: &ArchiveSettings, pool: Pool, tracker: TaskTracker) -> Result<Self, ArchiveError> {
        if !LEVELS.contains(&settings.level) {
            return Err(ArchiveError::Settings("the level of compression is 1 to 19"));
        }
        let objects = Objects::open(&settings.storage, tracker)?;
        Ok(Self { objects, pool, level: settings.level, piece_size: PIECE_SIZE })
    }

    /// Another size of pieces, so that a test has many of them.
    #[cfg(test)]
    fn with_pieces_of(self, piece_size: u64) -> Self {
        Self { piece_size, ..self }
    }

    /// The manifest of a backup, checked.
    pub async fn head(&self, head: &BackupHead) -> Result<Manifest, ArchiveError> {
        let manifest = self.read_manifest(&head.place().manifest()).await?.ok_or(ArchiveError::Missing)?;
        if !manifest.head.is_same_backup(head) {
            return Err(ArchiveError::Damaged("its manifest is that of another backup"));
        }
        Ok(manifest)
    }

    /// Removes a backup, or what there is of one: the manifest first, then all objects. May be run again; removing what
    /// is not there succeeds. No write of this backup may be run meanwhile, but one may have been dropped before.
    pub async fn delete(&self, head: &BackupHead) -> Result<(), ArchiveError> {
        let place = head.place();
        self.objects.quiesce(&place).await?;
        self.objects.remove_manifest(&place).await?;
        self.objects.remove_objects(&place).await
    }

    /// All backups that are there, of all containers, one after the other: for another installation that takes them
    /// over.
    pub fn list(&self) -> Listing {
        Listing { archive: self.clone(), objects: self.objects.list() }
    }

    async fn read_manifest(&self, key: &Key) -> Result<Option<Manifest>, ArchiveError> {
        let Some(bytes) = self.objects.read_whole(key, manifest::LONGEST).await? else { return Ok(None) };
        blocking(move || Manifest::parse(&bytes)).await?.map(Some)
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("objects", &self.objects).finish_non_exhaustive()
    }
}

/// The backups of an archive; holds one manifest at a time.
pub struct Listing {
    archive: Archive,
    objects: BoxStream<'static, Result<ObjectMeta, object_store::Error>>,
}

/// What was found where a backup may be.
#[derive(Debug)]
pub struct Found {
    /// The key of its manifest, for a person.
    pub location: String,
    /// The manifest, or what is wrong with it. Its backup is at its place: it can be restored by its head.
    pub manifest: Result<Manifest, ArchiveError>,
}

impl Listing {
    /// The next one; `None` after the last. An error ends the list.
    pub async fn next(&mut self) -> Option<Result<Found, ArchiveError>> {
        loop {
            let key = match self.objects.next().await? {
                Ok(object) => object.location,
                Err(error) => return Some(Err(ArchiveError::of_put(error))),
            };
            if !may_be_manifest(&key) {
                continue;
            }
            let manifest = match self.archive.read_manifest(&key).await {
                // Removed since it was listed.
                Ok(None) => continue,
                Ok(Some(manifest)) if manifest.head.place().manifest() == key => Ok(manifest),
                Ok(Some(_)) => Err(ArchiveError::Damaged("its manifest is at the place of another")),
                Err(damage @ ArchiveError::Damaged(_)) => Err(damage),
                Err(error) => return Some(Err(error)),
            };
            return Some(Ok(Found { location: key.to_string(), manifest }));
        }
    }
}
