//! Drives in memory and archives for the tests of this module.

use std::fs;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    Archive, ArchiveError, ArchiveSettings, BackupHead, BackupSink, BackupSource, Container, Manifest, Storage, Written,
};
use crate::domain::{BackupId, ByteCount, Extent, Shortage, TenantId, UnixTime, VolumeId};
use crate::io::{ALIGN, Block, Pool, SharedBlock};

/// A small chunk size, so that there are many chunks.
pub(super) const CHUNK: u64 = 64 << 10;

/// The granule of holes.
const GRAIN: usize = 4 << 10;

/// Returns bytes that do not compress, determined by the seed.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Returns the head of a new backup of a drive of this size.
pub(super) fn head(size: ByteCount) -> BackupHead {
    BackupHead {
        backup: BackupId::random(),
        number: 7,
        tenant: TenantId::random(),
        volume: VolumeId::random(),
        name: Some("a backup".to_owned()),
        description: None,
        size,
        zone: "nova".to_owned(),
        container: Container::default(),
        created: UnixTime(1_359_637_871_000),
    }
}

/// Returns the head of a new backup of these bytes.
pub(super) fn head_of(data: &[u8]) -> BackupHead {
    head(ByteCount::new(data.len() as u64).unwrap())
}

/// A drive in memory. Runs of zeros in it are holes.
pub(super) struct MemorySource {
    pub(super) data: Vec<u8>,
    /// Reads so far.
    pub(super) reads: AtomicU64,
    /// The number of the read that never completes, from 0.
    pub(super) stalls_at: Option<u64>,
    /// The number of the read that fails.
    pub(super) fails_at: Option<u64>,
    /// Notified when a read stalls.
    pub(super) stalled: Notify,
}

impl MemorySource {
    pub(super) fn new(data: &[u8]) -> Self {
        Self { data: data.to_vec(), reads: AtomicU64::new(0), stalls_at: None, fails_at: None, stalled: Notify::new() }
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

impl BackupSource for MemorySource {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.data.len() as u64).unwrap()
    }

    async fn data(&self, within: Extent) -> io::Result<Vec<Extent>> {
        let mut runs: Vec<Extent> = Vec::new();
        let part = &self.data[within.offset as usize..within.end() as usize];
        for (n, grain) in part.chunks(GRAIN).enumerate() {
            if grain.iter().all(|&byte| byte == 0) {
                continue;
            }
            let run = Extent { offset: within.offset + (n * GRAIN) as u64, len: grain.len() as u64 };
            match runs.last_mut().filter(|last| last.end() == run.offset) {
                Some(last) => last.len += run.len,
                None => runs.push(run),
            }
        }
        Ok(runs)
    }

    async fn read_at(&self, mut block: Block, len: usize, offset: u64) -> (Block, io::Result<()>) {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        if self.stalls_at == Some(number) {
            self.stalled.notify_one();
            pending::<()>().await;
        }
        if self.fails_at == Some(number) {
            return (block, Err(io::Error::other("a bad sector")));
        }
        let bytes = &self.data[offset as usize..][..len];
        assert!(bytes.iter().any(|&byte| byte != 0), "a hole is not read");
        block[..len].copy_from_slice(bytes);
        (block, Ok(()))
    }
}

/// A drive in memory for a restore, filled with other bytes first.
pub(super) struct MemorySink {
    pub(super) data: Vec<u8>,
    pub(super) at: u64,
    pub(super) is_full: bool,
}

impl MemorySink {
    pub(super) fn new(size: ByteCount) -> Self {
        Self { data: vec![0xa5; size.get() as usize], at: 0, is_full: false }
    }

    fn part(&mut self, offset: u64, len: u64) -> &mut [u8] {
        assert_eq!(offset, self.at, "in order");
        self.at += len;
        &mut self.data[offset as usize..][..len as usize]
    }
}

impl BackupSink for MemorySink {
    async fn write(&mut self, offset: u64, block: SharedBlock, len: usize) -> io::Result<()> {
        if self.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(len > 0 && offset.is_multiple_of(ALIGN as u64));
        if !len.is_multiple_of(ALIGN) {
            assert_eq!(offset + len as u64, self.data.len() as u64, "only the end is not aligned");
            assert!(block[len..len.next_multiple_of(ALIGN)].iter().all(|&byte| byte == 0));
        }
        self.part(offset, len as u64).copy_from_slice(&block[..len]);
        Ok(())
    }

    async fn zeros(&mut self, extent: Extent) -> io::Result<()> {
        self.part(extent.offset, extent.len).fill(0);
        Ok(())
    }
}

/// An archive in a directory.
/// Settings of an archive whose disk is never short.
pub(super) fn settings(storage: Storage, level: i32) -> ArchiveSettings {
    ArchiveSettings { storage, level, shortage: Shortage::default() }
}

pub(super) struct Scene {
    pub(super) root: TempDir,
    pub(super) archive: Archive,
    pub(super) pool: Pool,
    pub(super) tracker: TaskTracker,
}

/// Returns an archive in a directory, with small chunks.
pub(super) fn scene() -> Scene {
    let root = tempfile::tempdir().unwrap();
    // One block: code that needs a second while it holds one hangs.
    let pool = Pool::new(ByteCount::mib(2));
    let tracker = TaskTracker::new();
    let storage = Storage::Directory(root.path().join("backups"));
    let archive = Archive::open(&settings(storage, 1), pool.clone(), tracker.clone()).unwrap();
    Scene { root, archive: archive.with_chunks_of(CHUNK), pool, tracker }
}

impl Scene {
    /// Backs these bytes up.
    pub(super) async fn back_up(&self, head: &BackupHead, data: &[u8]) -> Result<Written, ArchiveError> {
        self.archive.write(head, &MemorySource::new(data), |_| ()).await
    }

    /// Restores a backup and returns its bytes.
    pub(super) async fn restore(&self, head: &BackupHead) -> Result<Vec<u8>, ArchiveError> {
        restore(&self.archive, head).await
    }

    /// Returns every file beneath the root, in order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// Returns the file of an object.
    pub(super) fn object(&self, head: &BackupHead, number: u64) -> PathBuf {
        self.at(head.place().object(number).as_ref())
    }

    /// Returns the file of a manifest.
    pub(super) fn manifest(&self, head: &BackupHead) -> PathBuf {
        self.at(head.place().manifest().as_ref())
    }

    pub(super) fn at(&self, key: &str) -> PathBuf {
        self.root.path().join("backups").join(key)
    }

    /// Changes the manifest of a backup, as an attacker with write access to the storage could.
    pub(super) fn forge(&self, head: &BackupHead, change: impl FnOnce(&mut Manifest)) {
        let path = self.manifest(head);
        let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(&path, manifest.to_bytes().unwrap()).unwrap();
    }

    /// Waits for the puts of writes that were dropped.
    pub(super) async fn puts_have_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

pub(super) async fn restore(archive: &Archive, head: &BackupHead) -> Result<Vec<u8>, ArchiveError> {
    let mut sink = MemorySink::new(head.size);
    archive.restore(head, &mut sink, |_| ()).await?;
    assert_eq!(sink.at, head.size.get(), "the whole drive was written");
    Ok(sink.data)
}

/// Returns the output of a future that completes within this many polls; otherwise drops it.
pub(super) async fn within_polls<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Whether any file is beneath this directory.
pub(super) fn has_files(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        !path.is_dir() || has_files(&path)
    })
}
