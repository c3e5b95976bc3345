//! What every store must do, run on every store that this machine has: on every engine and way of writing.
//!
//! Nothing here knows which store it is. What a store is asked that its callers never ask is in [`Outside`]; what it
//! need not do is asked of its [`Capabilities`].

mod content;
mod copies;
pub(super) mod crash;
mod damage;
mod drafts;
mod failures;
mod kept;
mod removal;

use std::sync::Arc;

use proptest::prelude::*;
use rustix::io::Errno;

use super::pieces::pieces_of;
use super::*;
use crate::domain::PIECE;
use crate::io::{ALIGN, BLOCK, Pool};

/// One store under test.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) store: Arc<dyn BlockStore>,
    pub(super) outside: Box<dyn Outside>,
    pub(super) pool: Pool,
}

/// What happens to a store behind its back, and what is seen of it there.
pub(super) trait Outside: Send + Sync {
    /// What it holds, but for what was set aside: images and drafts by their ids, and what is still to be removed.
    fn left(&self) -> Vec<String>;

    /// What an image takes of the store's space, in bytes.
    fn takes(&self, id: ContentId) -> u64;

    /// Changes bytes of a published image.
    fn spoil(&self, id: ContentId, offset: u64, bytes: &[u8]);

    /// Makes a published image lose its bytes from here on: they read as zero, and are told as a hole.
    fn lose_end(&self, id: ContentId, from: u64);

    /// Makes the next flush of an image fail, and no other: as on Linux, where a later one may report success over lost
    /// bytes.
    fn fail_next_flush(&self, error: Errno);

    /// Whether what it sets aside has a record.
    fn keeps_records(&self) -> bool;
}

/// What is kept beside every image here.
pub(super) fn record() -> Record {
    let volume = VolumeId::from_bytes([8; 16]);
    Record { volume, tenant: TenantId::from_bytes([7; 16]), name: "disk".to_owned() }
}

impl Subject {
    pub(super) async fn draft(&self, id: ContentId, size: usize) -> Arc<dyn Draft> {
        let reservation = self.store.space().reserve(bytes(size)).unwrap();
        self.store
            .draft(id, DraftOptions { expected: Some(bytes(size)), reservation, record: record(), is_kept: false })
            .await
            .unwrap()
    }

    /// A block that holds these bytes, and zeros up to the next multiple of the alignment.
    pub(super) async fn block(&self, bytes: &[u8]) -> SharedBlock {
        let mut block = self.pool.take().await;
        block.fill(0xee);
        block[..bytes.len().next_multiple_of(ALIGN)].fill(0);
        block[..bytes.len()].copy_from_slice(bytes);
        block.freeze()
    }

    pub(super) async fn fill(&self, draft: &dyn Draft, content: &[u8]) {
        for (n, part) in content.chunks(BLOCK).enumerate() {
            let block = self.block(part).await;
            draft.write_at(block, 0..part.len(), (n * BLOCK) as u64).await.unwrap();
        }
    }

    pub(super) async fn publish(&self, content: &[u8]) -> ContentId {
        let id = ContentId::random();
        let draft = self.draft(id, content.len()).await;
        self.fill(&*draft, content).await;
        draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
        id
    }

    /// Clones an image in the size that it has.
    pub(super) async fn copy(&self, source: ContentId, target: ContentId) -> Result<(), StoreError> {
        let size = self.store.open(source).await?.size();
        self.store.clone_image(source, target, size, record()).await
    }

    /// Grows an image; whether the store does that.
    pub(super) async fn grow(&self, id: ContentId, size: usize) -> bool {
        let grown = self.store.grow(id, bytes(size)).await;
        if self.store.capabilities().grows {
            grown.unwrap();
            return true;
        }
        assert!(matches!(grown, Err(StoreError::Unsupported)));
        false
    }

    pub(super) async fn read(&self, id: ContentId) -> Vec<u8> {
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

    pub(super) async fn pieces(&self, id: ContentId) -> Pieces {
        self.store.open(id).await.unwrap().pieces().await.unwrap()
    }

    pub(super) async fn is_missing(&self, id: ContentId) -> bool {
        matches!(self.store.open(id).await, Err(StoreError::Missing(missing)) if missing == id)
    }

    pub(super) fn left(&self) -> Vec<String> {
        self.outside.left()
    }
}

/// Runs a behaviour on every store.
#[expect(clippy::needless_pass_by_value, reason = "a closure written in place")]
fn on_every_store(behaviour: impl AsyncFn(&Subject)) {
    on_each(local::tests::every_way().chain(memory::tests::every_way()), |subject| subject, &behaviour);
}

/// Runs a behaviour on each of these.
pub(super) fn on_each<T>(
    subjects: impl Iterator<Item = T>,
    subject: impl Fn(&T) -> &Subject,
    behaviour: &impl AsyncFn(&T),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for each in subjects {
        println!("on {}", subject(&each).name);
        runtime.block_on(behaviour(&each));
        assert_eq!(subject(&each).pool.in_use(), 0, "a block is lost");
    }
}

pub(super) fn bytes(n: usize) -> ByteCount {
    ByteCount::new(n as u64).unwrap()
}

/// Bytes of which none is zero and no two neighbours at a multiple of the alignment are alike.
pub(super) fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (1 + (n ^ (n / ALIGN * 31) ^ (seed * 17)) % 255) as u8).collect()
}
