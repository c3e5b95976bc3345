//! What every store must do, run on every engine and way of writing that this machine has.

mod content;
mod copies;
mod crash;
mod damage;
mod drafts;
mod failures;
mod places;
mod removal;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::TempDir;

use super::pieces::pieces_of;
use super::*;
use crate::domain::PIECE;
use crate::io::{ALIGN, BLOCK, Faults, IoEngine, Pool, Threads, probe};

/// One store under test.
struct Subject {
    name: String,
    store: LocalStore,
    root: PathBuf,
    pool: Pool,
    _dir: Option<TempDir>,
}

/// What is kept beside every image here.
fn record() -> Record {
    let volume = VolumeId::from_bytes([8; 16]);
    Record { volume, tenant: TenantId::from_bytes([7; 16]), name: "disk".to_owned() }
}

impl Subject {
    fn new(name: String, root: PathBuf, engine: IoEngine, direct: Direct) -> Self {
        let settings = LocalSettings { direct, ..LocalSettings::default() };
        let store = LocalStore::open(&root, engine, settings).unwrap();
        Self { name, store, root, pool: Pool::new(ByteCount::mib(32)), _dir: None }
    }

    fn temporary(engine: IoEngine, direct: Direct) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let name = format!("{} {direct:?}", engine.name());
        Self { _dir: Some(dir), ..Self::new(name, root, engine, direct) }
    }

    async fn draft(&self, id: ContentId, size: usize) -> Arc<dyn Draft> {
        let reservation = self.store.reserve(bytes(size)).unwrap();
        self.store.draft(id, DraftOptions { expected: Some(bytes(size)), reservation, record: record() }).await.unwrap()
    }

    /// A block that holds these bytes, and zeros up to the next multiple of the alignment.
    async fn block(&self, bytes: &[u8]) -> SharedBlock {
        let mut block = self.pool.take().await;
        block.fill(0xee);
        block[..bytes.len().next_multiple_of(ALIGN)].fill(0);
        block[..bytes.len()].copy_from_slice(bytes);
        block.freeze()
    }

    async fn fill(&self, draft: &dyn Draft, content: &[u8]) {
        for (n, part) in content.chunks(BLOCK).enumerate() {
            let block = self.block(part).await;
            draft.write_at(block, 0..part.len(), (n * BLOCK) as u64).await.unwrap();
        }
    }

    async fn publish(&self, content: &[u8]) -> ContentId {
        let id = ContentId::random();
        let draft = self.draft(id, content.len()).await;
        self.fill(&*draft, content).await;
        draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
        id
    }

    /// Clones an image in the size that it has.
    async fn copy(&self, source: ContentId, target: ContentId) -> Result<(), StoreError> {
        let size = self.store.open(source).await?.size();
        self.store.clone_image(source, target, size, record()).await
    }

    async fn read(&self, id: ContentId) -> Vec<u8> {
        let image = self.store.open(id).await.unwrap();
        let mut content = Vec::new();
        while (content.len() as u64) < image.size().get() {
            let len = BLOCK.min((image.size().get() - content.len() as u64) as usize);
            let (block, outcome) = image.read_at(self.pool.take().await, len, content.len() as u64).await;
            outcome.unwrap();
            content.extend_from_slice(&block[..len]);
        }
        content
    }

    async fn is_missing(&self, id: ContentId) -> bool {
        matches!(self.store.open(id).await, Err(StoreError::Missing(missing)) if missing == id)
    }

    fn drive(&self, id: ContentId) -> PathBuf {
        self.root.join("drives").join(id.to_string())
    }

    /// The file with a drive's bytes.
    fn image(&self, id: ContentId) -> PathBuf {
        let drive = self.drive(id);
        if drive.is_dir() { drive.join("image") } else { drive }
    }

    /// The names in all of the store's directories.
    fn left(&self) -> Vec<String> {
        let entries = ["drives", "incoming", "trash"].map(|dir| fs::read_dir(self.root.join(dir)).unwrap());
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Runs a behaviour on every engine, with and without direct I/O. Names what it skips.
#[expect(clippy::needless_pass_by_value, reason = "a closure written in place")]
fn on_every_store(behaviour: impl AsyncFn(&Subject)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut ways = vec![Direct::Never];
    match probe::direct_io(&std::env::temp_dir()) {
        Ok(()) => ways.push(Direct::Always),
        Err(error) => println!("skipped with direct I/O: {error}"),
    }
    for direct in ways {
        let mut engines = vec![IoEngine::threads(2)];
        match IoEngine::ring(1) {
            Ok(ring) => engines.push(ring),
            Err(error) => println!("skipped on io_uring: {error}"),
        }
        for engine in engines {
            let subject = Subject::temporary(engine, direct);
            println!("on {}", subject.name);
            runtime.block_on(behaviour(&subject));
            assert_eq!(subject.pool.in_use(), 0, "a block is lost");
        }
    }
}

fn bytes(n: usize) -> ByteCount {
    ByteCount::new(n as u64).unwrap()
}

/// Bytes of which none is zero and no two neighbours at a multiple of the alignment are alike.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (1 + (n ^ (n / ALIGN * 31) ^ (seed * 17)) % 255) as u8).collect()
}

/// Whether drives of one piece are one file here.
fn attaches(subject: &Subject) -> bool {
    let outcome = probe::attributes(&subject.root);
    outcome.inspect_err(|error| println!("skipped with attributes: {error}")).is_ok()
}

/// A file system that a test mounts, where it may.
struct Mounted(TempDir);

impl Mounted {
    fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let outcome = Command::new("mount").args(arguments).arg(dir.path()).output();
        if outcome.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: cannot mount {arguments:?}");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}
