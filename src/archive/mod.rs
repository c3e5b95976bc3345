//! Backups of drives as objects, in a local directory or an S3 bucket. Knows drives as bytes and holes; knows no
//! metadata, no states and no dialect.
//!
//! A drive is cut into chunks of 52,428,800 bytes. Each is stored as one object, compressed by zstd (see `chunk`); a
//! chunk of zeros has no object, and holes are not read. An object has the number of its chunk, counted from 1 over all
//! chunks, so that a name means the same in each run. The manifest is written last and only once; a backup exists when
//! its manifest does (see `manifest`). Names of objects: see `place`.
//!
//! # Invariants
//! - What [`Archive::write`] has acknowledged is durable (I1): each object and its directory entry is flushed before
//!   the manifest is written, and the manifest before the answer.
//! - A restore gives the bytes that were written, or an error: each chunk is compared with its SHA-256, the manifest
//!   with its own, and the chunks cover the drive exactly.
//! - No object is decompressed to more than the length of its chunk, or with a window of more than 8 MiB.
//! - Memory: a write holds two blocks of the pool and up to two compressed chunks, of 50.2 MiB at most; a restore two
//!   blocks and one read of 1 MiB, or what the HTTP client buffers; both also some 10 MiB for zstd, and the manifest. A
//!   cancelled write may hold a chunk until it is stored.
//!
//! # Interrupted runs
//! A write may be run again until it succeeds: it stores only the chunks whose objects are missing. An object is stored
//! whole or not at all, and its stamp, the last 112 bytes, names its backup, its chunk and its digest. Only the stamp
//! is read, once per object, so a run keeps no other state. The drive must not change until the backup is done, and two
//! runs of one backup must not write at once; if they did, they would write the same.
//!
//! # Cancellation
//! Dropping a future of this module is safe at any time. A put that has begun completes by itself, and a removal waits
//! for it, so that no object arrives after the removal.
//!
//! # Crash
//! A backup does not exist before its manifest; [`Archive::delete`] removes the objects of an unfinished one. A removal
//! takes the manifest first.

mod chunk;
mod error;
mod local;
mod manifest;
mod objects;
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

pub(crate) use self::error::ArchiveError;
pub(crate) use self::manifest::Manifest;
pub(crate) use self::place::{BackupHead, Container};

use self::objects::{Objects, blocking};
use self::place::may_be_manifest;
use crate::domain::{ByteCount, Extent, Secret, Shortage};
use crate::io::{Block, Pool, SharedBlock};

/// The bytes of a drive in one object, as in HP's Block Storage and in Cinder; 25 blocks of the pool.
pub(crate) const CHUNK_SIZE: u64 = 52_428_800;

/// The zstd levels that are accepted. Higher ones need more memory to decompress than is given.
pub(crate) const LEVELS: RangeInclusive<i32> = 1..=19;

/// Settings for the storage of backups.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveSettings {
    /// The storage that holds the objects.
    pub storage: Storage,
    /// The zstd level, one of [`LEVELS`]. A higher one makes smaller objects and takes many times the CPU.
    pub level: i32,
    /// While this is on, no object is put: the last room of the directory's file system is for what removes.
    pub shortage: Shortage,
}

/// The storage of backups.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// A directory of a local file system.
    Directory(PathBuf),
    /// A bucket.
    S3(Box<Bucket>),
}

/// A bucket of S3, or of storage with the same protocol.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a storage does or does not")]
pub(crate) struct Bucket {
    /// Its name.
    pub name: String,
    /// The URL of the storage; by default that of AWS for the region.
    pub endpoint: Option<StorageUrl>,
    /// Its region. Most storage other than AWS accepts any.
    pub region: String,
    /// The access key id. Without it and the secret, the credentials of the machine or container at AWS are used.
    pub access_key_id: Option<String>,
    /// The secret that belongs to the access key id.
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is part of the host name, as at AWS, rather than of the path. An endpoint then includes the
    /// bucket.
    pub virtual_host: bool,
    /// Whether the storage supports `If-None-Match: *`. Without it, nothing keeps two installations that share a bucket
    /// from writing one manifest at the same moment.
    pub conditional_put: bool,
    /// Whether the storage removes many objects in one request.
    pub bulk_delete: bool,
    /// Whether the storage verifies a CRC-64/NVME of each object.
    pub checksum: bool,
}

impl Bucket {
    /// Returns the settings for an AWS bucket of this name in `us-east-1`.
    #[cfg(test)]
    fn new(name: impl Into<String>) -> Self {
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

/// The URL of a storage that speaks the protocol of S3: HTTPS, or plain HTTP to this machine. Anyone on the path of
/// plain HTTP to another machine could read and change every backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StorageUrl {
    text: String,
    is_plain: bool,
}

/// A text that is not the URL of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAStorageUrl {
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

/// A drive that is backed up. It does not change during the backup.
pub(crate) trait BackupSource: Send + Sync {
    /// Its exact size.
    fn size(&self) -> ByteCount;

    /// Returns the runs within this extent that may hold data, in order; the rest reads as zero.
    fn data(&self, within: Extent) -> impl Future<Output = io::Result<Vec<Extent>>> + Send;

    /// Fills `block[..len]` with the bytes at `offset`.
    fn read_at(&self, block: Block, len: usize, offset: u64) -> impl Future<Output = (Block, io::Result<()>)> + Send;
}

/// A drive that a backup is restored to, from its first byte to its last. Its content is valid, and may be visible,
/// only after [`Archive::restore`] has returned without an error.
pub(crate) trait BackupSink: Send {
    /// Takes `block[..len]` for `offset`, which is a multiple of [`crate::io::ALIGN`]. So is `len`, except at the end
    /// of the drive, where the bytes of the block up to the next multiple are zero. May return before the bytes are
    /// written.
    fn write(&mut self, offset: u64, block: SharedBlock, len: usize) -> impl Future<Output = io::Result<()>> + Send;

    /// Takes an extent that is all zero.
    fn zeros(&mut self, extent: Extent) -> impl Future<Output = io::Result<()>> + Send;
}

/// The progress of a write or a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackupProgress {
    /// Bytes of the drive that are done.
    pub done: u64,
    /// Objects that are done. The last one of a write may still be pending.
    pub objects: u64,
}

/// The storage that a backup takes, without its manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The number of objects.
    pub objects: u64,
    /// Their bytes.
    pub stored: u64,
}

/// A place for backups. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Archive {
    objects: Objects,
    pool: Pool,
    level: i32,
    chunk_size: u64,
}

impl Archive {
    /// Opens an archive. Creates a missing local directory; an S3 bucket must exist, which is not checked. Blocks:
    /// meant for start-up. Bytes pass through blocks of `pool`; puts run in `tracker`.
    pub(crate) fn open(settings: &ArchiveSettings, pool: Pool, tracker: TaskTracker) -> Result<Self, ArchiveError> {
        if !LEVELS.contains(&settings.level) {
            return Err(ArchiveError::Settings("the level of compression is 1 to 19"));
        }
        let objects = Objects::open(&settings.storage, settings.shortage.clone(), tracker)?;
        Ok(Self { objects, pool, level: settings.level, chunk_size: CHUNK_SIZE })
    }

    /// Sets another size of chunks, so that a test has many of them.
    #[cfg(test)]
    fn with_chunks_of(self, chunk_size: u64) -> Self {
        Self { chunk_size, ..self }
    }

    /// Reads and checks the manifest of a backup.
    pub(crate) async fn head(&self, head: &BackupHead) -> Result<Manifest, ArchiveError> {
        let manifest = self.read_manifest(&head.place().manifest()).await?.ok_or(ArchiveError::Missing)?;
        if !manifest.head.is_same_backup(head) {
            return Err(ArchiveError::Damaged("its manifest is that of another backup"));
        }
        Ok(manifest)
    }

    /// Removes a backup, finished or not: the manifest first, then all objects. May be repeated; removing a missing
    /// backup succeeds. No write of this backup may run meanwhile; one that was dropped before is no problem.
    pub(crate) async fn delete(&self, head: &BackupHead) -> Result<(), ArchiveError> {
        let place = head.place();
        self.objects.quiesce(&place).await?;
        self.objects.remove_manifest(&place).await?;
        self.objects.remove_objects(&place).await
    }

    /// Lists the backups of all containers, one at a time, for another installation that takes them over.
    pub(crate) fn list(&self) -> Listing {
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

/// A listing of the backups of an archive. Holds one manifest at a time.
pub(crate) struct Listing {
    archive: Archive,
    objects: BoxStream<'static, Result<ObjectMeta, object_store::Error>>,
}

/// An entry of a [`Listing`].
#[derive(Debug)]
pub(crate) struct Found {
    /// The key of its manifest, for a person.
    pub location: String,
    /// The manifest, or its damage. A manifest is at the place of its backup, which can be restored by its head.
    pub manifest: Result<Manifest, ArchiveError>,
}

impl Listing {
    /// Returns the next entry; `None` after the last. An error ends the list.
    pub(crate) async fn next(&mut self) -> Option<Result<Found, ArchiveError>> {
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
