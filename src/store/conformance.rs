//! What every store must do, run on every engine and way of writing that this machine has.

mod crash;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::TempDir;

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
    Record { tenant: TenantId::from_bytes([7; 16]), name: "disk".to_owned() }
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

    async fn draft(&self, id: VolumeId, size: usize) -> Arc<dyn Draft> {
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

    async fn publish(&self, content: &[u8]) -> VolumeId {
        let id = VolumeId::random();
        let draft = self.draft(id, content.len()).await;
        self.fill(&*draft, content).await;
        draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
        id
    }

    /// Clones an image in the size that it has.
    async fn copy(&self, source: VolumeId, target: VolumeId) -> Result<(), StoreError> {
        let size = self.store.open(source).await?.size();
        self.store.clone_image(Content::Published(source), target, size, record()).await
    }

    async fn read(&self, id: VolumeId) -> Vec<u8> {
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

    async fn is_missing(&self, id: VolumeId) -> bool {
        matches!(self.store.open(id).await, Err(StoreError::Missing(missing)) if missing == id)
    }

    fn drive(&self, id: VolumeId) -> PathBuf {
        self.root.join("drives").join(id.to_string())
    }

    /// The file with a drive's bytes.
    fn image(&self, id: VolumeId) -> PathBuf {
        let drive = self.drive(id);
        if drive.is_dir() { drive.join("image") } else { drive }
    }

    /// The names in all of the store's directories.
    fn left(&self) -> Vec<String> {
        let entries = ["drives", "held", "incoming", "trash"].map(|dir| fs::read_dir(self.root.join(dir)).unwrap());
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

/// The digests of this content.
fn pieces_of(content: &[u8]) -> Pieces {
    let mut digester = PieceDigester::default();
    digester.update(content);
    digester.finish()
}

/// Bytes of which none is zero and no two neighbours at a multiple of the alignment are alike.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (1 + (n ^ (n / ALIGN * 31) ^ (seed * 17)) % 255) as u8).collect()
}

#[test]
fn what_was_published_is_what_is_read_at_every_odd_size() {
    on_every_store(async |subject| {
        for size in [1, 511, 4095, 4096, 4097, GRANULE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            assert!(subject.read(id).await == content, "{size}");
            let image = subject.store.open(id).await.unwrap();
            assert_eq!(image.size(), bytes(size));
            assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
            assert_eq!(image.file().unwrap().metadata().unwrap().len(), size as u64);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Writes of any split, in any order, with zeros anywhere and a size beyond the last write.
    #[test]
    fn any_split_in_any_order_reads_back_as_written(
        granules in prop::collection::vec(0..3u8, 0..40),
        tail in 0..GRANULE,
        beyond in 0..3 * BLOCK,
        cuts in prop::collection::vec(1..256usize, 1..20),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let mut content: Vec<u8> = Vec::new();
        for kind in &granules {
            let mut granule = vec![0; GRANULE];
            match kind {
                0 => {}
                1 => granule[GRANULE / 2] = 9,
                _ => granule = noise(GRANULE, content.len()),
            }
            content.extend(granule);
        }
        content.extend(noise(tail, 3));
        let mut writes = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().cycle() {
            if at == content.len() {
                break;
            }
            let end = content.len().min(at + cut * ALIGN);
            writes.push(at..end);
            at = end;
        }
        for (n, swap) in swaps.iter().enumerate().take(writes.len()) {
            let other = swap.index(writes.len());
            writes.swap(n, other);
        }
        on_every_store(async |subject| {
            let id = VolumeId::random();
            let draft = subject.draft(id, content.len()).await;
            let mut running = Vec::new();
            for write in &writes {
                // The data lies anywhere in its block that is aligned.
                let lead = if write.len() + ALIGN <= BLOCK - ALIGN { ALIGN } else { 0 };
                let mut padded = vec![0xdd; lead];
                padded.extend_from_slice(&content[write.clone()]);
                let block = subject.block(&padded).await;
                running.push(draft.write_at(block, lead..padded.len(), write.start as u64));
                if running.len() == 4 {
                    running.remove(0).await.unwrap();
                }
            }
            for write in running {
                write.await.unwrap();
            }
            let size = content.len() + beyond;
            draft.publish(bytes(size), Pieces::default()).await.unwrap();
            let read = subject.read(id).await;
            assert!(read[..content.len()] == content[..] && is_zero(&read[content.len()..]));
        });
    }
}

#[test]
fn runs_of_zeros_take_no_disk_and_are_told_as_holes() {
    on_every_store(async |subject| {
        let mut content = vec![0; 8 * BLOCK];
        content[2 * BLOCK..3 * BLOCK].copy_from_slice(&noise(BLOCK, 1));
        content[6 * BLOCK + GRANULE] = 1;
        let id = subject.publish(&content).await;
        assert!(subject.read(id).await == content);
        let allocated = fs::metadata(subject.image(id)).unwrap().blocks() * 512;
        assert!(allocated <= (BLOCK + GRANULE) as u64, "{allocated} B on disk");

        let image = subject.store.open(id).await.unwrap();
        let within = Extent { offset: 1000, len: 7 * BLOCK as u64 };
        let runs = image.runs(within).await.unwrap();
        let mut end = within.offset;
        for run in &runs {
            assert!(run.extent.offset == end && run.extent.len > 0, "{runs:?}");
            end = run.extent.end();
            let part = &content[run.extent.offset as usize..end as usize];
            assert!(!run.hole || is_zero(part), "data is called a hole");
        }
        assert_eq!(end, within.end());
        assert!(runs.iter().any(|run| run.hole), "{runs:?}");
        assert!(image.runs(Extent { offset: 1, len: 8 * BLOCK as u64 }).await.is_err());
    });
}

#[test]
fn bytes_never_written_read_as_zero() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        let draft = subject.draft(id, 100).await;
        subject.fill(&*draft, &noise(100, 5)).await;
        draft.publish(bytes(3 * BLOCK), Pieces::default()).await.unwrap();
        assert!(is_zero(&subject.read(id).await[100..]));

        let blank = VolumeId::random();
        subject.draft(blank, 0).await.publish(bytes(BLOCK), Pieces::default()).await.unwrap();
        assert!(is_zero(&subject.read(blank).await));
    });
}

#[test]
fn a_draft_has_the_size_it_is_published_with_whatever_was_expected() {
    on_every_store(async |subject| {
        for expected in [None, Some(ByteCount::ZERO), Some(ByteCount::mib(64)), Some(ByteCount::MAX)] {
            let id = VolumeId::random();
            let reservation = subject.store.reserve(ByteCount::mib(1)).unwrap();
            let draft =
                subject.store.draft(id, DraftOptions { expected, reservation, record: record() }).await.unwrap();
            subject.fill(&*draft, &noise(5000, 1)).await;
            draft.publish(bytes(5000), Pieces::default()).await.unwrap();
            assert!(subject.read(id).await == noise(5000, 1), "{expected:?}");
        }
    });
}

/// The block that carries a last write carried another tenant's bytes before.
#[test]
fn a_last_write_with_an_earlier_user_s_bytes_behind_it_is_refused() {
    on_every_store(async |subject| {
        let draft = subject.draft(VolumeId::random(), 100).await;
        let mut block = subject.pool.take().await;
        block.fill(0xee);
        assert!(draft.write_at(block.freeze(), 0..100, 0).await.is_err());
    });
}

#[test]
fn a_draft_is_invisible_until_published_and_leaves_nothing_when_removed() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        let draft = subject.draft(id, BLOCK).await;
        subject.fill(&*draft, &noise(BLOCK, 1)).await;
        assert!(subject.is_missing(id).await);
        drop(draft);
        assert!(subject.is_missing(id).await);
        subject.store.remove(id).await.unwrap();
        assert_eq!(subject.left(), [""; 0]);
    });
}

#[test]
fn a_draft_replaces_what_an_earlier_attempt_left() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        subject.fill(&*subject.draft(id, BLOCK).await, &noise(BLOCK, 1)).await;
        let draft = subject.draft(id, 10).await;
        subject.fill(&*draft, &noise(10, 2)).await;
        draft.publish(bytes(BLOCK), Pieces::default()).await.unwrap();
        let read = subject.read(id).await;
        assert!(read[..10] == noise(10, 2)[..] && is_zero(&read[10..]));
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

#[test]
fn an_image_that_is_published_again_is_replaced_and_who_reads_the_old_one_is_not_disturbed() {
    on_every_store(async |subject| {
        // Small ones are files and large ones folders: each over each.
        for (old, new) in [(BLOCK, BLOCK + 5), (3 * BLOCK, BLOCK), (BLOCK, 3 * BLOCK), (3 * BLOCK, 3 * BLOCK + 1)] {
            let (before, after) = (noise(old, 1), noise(new, 2));
            let id = subject.publish(&before).await;
            let reader = subject.store.open(id).await.unwrap();
            let draft = subject.draft(id, new).await;
            subject.fill(&*draft, &after).await;
            assert!(subject.read(id).await == before, "it is visible before it is published");
            draft.publish(bytes(new), pieces_of(&after)).await.unwrap();
            assert!(subject.read(id).await == after);
            assert_eq!(subject.store.open(id).await.unwrap().pieces().await.unwrap(), pieces_of(&after));
            let (block, outcome) = reader.read_at(subject.pool.take().await, BLOCK, 0).await;
            outcome.unwrap();
            assert!(block[..BLOCK] == before[..BLOCK]);
            subject.store.remove(id).await.unwrap();
            assert_eq!(subject.left(), [""; 0]);
        }
    });
}

#[test]
fn a_draft_with_a_write_that_never_told_its_end_is_not_published() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        let draft = subject.draft(id, BLOCK).await;
        let data = subject.block(&noise(BLOCK, 1)).await;
        drop(draft.write_at(data, 0..BLOCK, 0));
        assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err());
        assert!(subject.is_missing(id).await);
        // The write goes on; its block comes home with it.
        let mut blocks = Vec::new();
        while blocks.len() < subject.pool.budget_blocks() {
            blocks.push(subject.pool.take().await);
        }
    });
}

#[test]
fn a_draft_is_published_once() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        let draft = subject.draft(id, 1).await;
        draft.publish(bytes(1), Pieces::default()).await.unwrap();
        assert!(draft.publish(bytes(2), Pieces::default()).await.is_err());
        assert_eq!(subject.store.open(id).await.unwrap().size(), bytes(1));
    });
}

#[test]
fn a_clone_is_equal_and_independent_and_may_be_run_again() {
    on_every_store(async |subject| {
        let mut content = vec![0; 5 * BLOCK + 77];
        content[..BLOCK].copy_from_slice(&noise(BLOCK, 1));
        content[3 * BLOCK..4 * BLOCK + 5].copy_from_slice(&noise(BLOCK + 5, 2));
        let source = subject.publish(&content).await;
        let target = VolumeId::random();
        // An earlier run was cut short.
        subject.fill(&*subject.draft(target, 3 * BLOCK).await, &noise(3 * BLOCK, 3)).await;
        for _ in 0..2 {
            subject.copy(source, target).await.unwrap();
        }
        assert!(subject.read(target).await == content);
        let [sparse, copy] = [source, target].map(|id| fs::metadata(subject.image(id)).unwrap().blocks());
        assert!(copy <= sparse + 8, "the copy takes {copy} sectors, its source {sparse}");

        let file = fs::OpenOptions::new().write(true).open(subject.image(source)).unwrap();
        file.write_all_at(&[0xff; 100], 0).unwrap();
        assert!(subject.read(target).await == content);
        subject.store.remove(source).await.unwrap();
        assert!(subject.read(target).await == content);
        let image = subject.store.open(target).await.unwrap();
        assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
        let missing = subject.copy(source, VolumeId::random()).await.unwrap_err();
        assert!(matches!(missing, StoreError::Missing(id) if id == source));
        assert_eq!(subject.left(), [target.to_string()]);
    });
}

#[test]
fn what_a_job_holds_stays_as_it_was_when_its_image_is_grown_replaced_and_removed() {
    on_every_store(async |subject| {
        for size in [BLOCK + 33, 3 * BLOCK + 5] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            let job = JobId::random();
            if subject.store.hold(id, job).await.unwrap().is_none() {
                return println!("skipped: this file system has no hard links");
            }
            assert_eq!(subject.store.hold(id, job).await.unwrap(), Some(bytes(size)), "again is no more");
            subject.store.grow(id, bytes(9 * BLOCK)).await.unwrap();
            let other = noise(10, 2);
            let draft = subject.draft(id, other.len()).await;
            subject.fill(&*draft, &other).await;
            draft.publish(bytes(other.len()), pieces_of(&other)).await.unwrap();
            assert!(subject.read(id).await == other);
            subject.store.remove(id).await.unwrap();

            let held = Content::Held { job, of: id };
            assert_eq!(subject.store.open_held(job, id).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
            for larger in [0, 3 * BLOCK] {
                let copy = VolumeId::random();
                subject.store.clone_image(held, copy, bytes(size + larger), record()).await.unwrap();
                let read = subject.read(copy).await;
                assert_eq!(read.len(), size + larger);
                assert!(read[..size] == content && is_zero(&read[size..]));
                subject.store.remove(copy).await.unwrap();
            }
            assert_eq!(subject.store.sweep_held(Arc::new(move |kept| kept == job)).await.unwrap(), 0);
            assert_eq!(subject.left(), [job.to_string()]);
            if size > 2 * BLOCK {
                assert_eq!(subject.store.sweep_held(Arc::new(|_| false)).await.unwrap(), 1);
            } else {
                for _ in 0..2 {
                    subject.store.release(job).await.unwrap();
                }
            }
            assert!(
                matches!(subject.store.open_held(job, id).await, Err(StoreError::Missing(missing)) if missing == id)
            );
            assert_eq!(subject.left(), [""; 0]);
        }
        let missing = subject.store.hold(VolumeId::random(), JobId::random()).await;
        assert!(matches!(missing, Err(StoreError::Missing(_))));
    });
}

#[test]
fn a_checked_image_gives_every_byte_or_an_error_and_remembers_what_is_wrong() {
    on_every_store(async |subject| {
        let piece = PIECE as usize;
        let mut content = vec![0; 3 * piece + 77];
        content[..10].copy_from_slice(&noise(10, 1));
        content[2 * piece - 5..2 * piece + 5].copy_from_slice(&noise(10, 2));
        content[3 * piece..].copy_from_slice(&noise(77, 3));
        let id = subject.publish(&content).await;
        let open = async || {
            let image = subject.store.open(id).await.unwrap();
            CheckedImage::new(image, id, bytes(content.len())).await.unwrap()
        };
        let read = async |image: &CheckedImage, offset: usize, len: usize| {
            let (block, outcome) = image.read_at(subject.pool.take().await, len, offset as u64).await;
            outcome.map(|()| block[..len].to_vec())
        };
        let whole = Extent::whole(bytes(content.len()));
        let image = open().await;
        for (offset, len) in [(0, BLOCK), (piece - 100, 200), (2 * piece - 6, 20), (3 * piece - 1, 78), (5, 1)] {
            assert!(read(&image, offset, len).await.unwrap() == content[offset..offset + len], "{offset}");
        }
        assert_eq!(read(&image, 3 * piece, 78).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut seen = vec![0; content.len()];
        for run in image.data(whole).await.unwrap() {
            for at in (run.offset..run.end()).step_by(BLOCK) {
                let len = (run.end() - at).min(BLOCK as u64) as usize;
                let at = at as usize;
                seen[at..at + len].copy_from_slice(&read(&image, at, len).await.unwrap());
            }
        }
        assert!(seen == content);
        assert_eq!(image.damage(), None);

        let file = fs::OpenOptions::new().write(true).open(subject.image(id)).unwrap();
        file.write_all_at(&[0xff], PIECE + 9).unwrap();
        let image = open().await;
        // The other half of the piece is as it was: it is not given out all the same.
        assert!(read(&image, 2 * piece - 5, 5).await.is_err());
        assert!(read(&image, 0, 10).await.is_ok());
        assert_eq!(image.damage(), Some(CHANGED));
        // And where data is gone altogether, its hole is no zeros.
        file.set_len(PIECE * 3).unwrap();
        file.set_len(content.len() as u64).unwrap();
        let image = open().await;
        let last = Extent { offset: 3 * PIECE - 5, len: 10 };
        assert!(image.data(last).await.is_err());
        assert_eq!(image.damage(), Some(CHANGED));
    });
}

#[test]
fn a_grown_drive_keeps_its_bytes_and_pieces_and_reads_zero_behind_them() {
    on_every_store(async |subject| {
        let content = noise(BLOCK + 33, 1);
        let id = subject.publish(&content).await;
        for _ in 0..2 {
            subject.store.grow(id, bytes(9 * BLOCK)).await.unwrap();
        }
        let read = subject.read(id).await;
        assert_eq!(read.len(), 9 * BLOCK);
        assert!(read[..content.len()] == content[..] && is_zero(&read[content.len()..]));
        let image = subject.store.open(id).await.unwrap();
        assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
        assert!(subject.store.grow(id, bytes(1)).await.is_err());
        assert!(matches!(subject.store.grow(VolumeId::random(), bytes(1)).await, Err(StoreError::Missing(_))));
    });
}

#[test]
fn removing_twice_succeeds_and_an_open_image_reads_on() {
    on_every_store(async |subject| {
        for size in [BLOCK, 3 * BLOCK] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            let image = subject.store.open(id).await.unwrap();
            for _ in 0..2 {
                subject.store.remove(id).await.unwrap();
            }
            assert!(subject.is_missing(id).await);
            assert_eq!(subject.left(), [""; 0]);
            let (block, outcome) = image.read_at(subject.pool.take().await, BLOCK, 0).await;
            outcome.unwrap();
            assert!(block[..] == content[..BLOCK]);
            match image.pieces().await {
                // An attribute is as open as its file.
                Ok(pieces) => assert_eq!(pieces, pieces_of(&content)),
                Err(error) => assert!(matches!(error, StoreError::Missing(_)), "removed is not damaged: {error}"),
            }
        }
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_returns_the_block() {
    on_every_store(async |subject| {
        let id = subject.publish(&noise(5000, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let (block, outcome) = image.read_at(subject.pool.take().await, 1000, 4096).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(block.len(), BLOCK);
    });
}

#[test]
fn a_sweep_sets_aside_what_nobody_keeps_and_removes_drafts_that_nobody_fills() {
    on_every_store(async |subject| {
        let kept = subject.publish(&noise(10, 1)).await;
        let unknown = subject.publish(&noise(10, 2)).await;
        let [running, stale] = [VolumeId::random(), VolumeId::random()];
        let draft = subject.draft(running, 10).await;
        drop(subject.draft(stale, 10).await);
        fs::create_dir(subject.root.join("trash/old")).unwrap();
        fs::create_dir(subject.root.join("drives/lost+found")).unwrap();

        let keep = Arc::new(move |id| id != unknown);
        let past = UnixTime(0);
        let swept = subject.store.sweep(keep, Arc::new(move |id| id == running), past).await.unwrap();
        assert_eq!((swept.removed, swept.set_aside), (vec![stale], vec![unknown]));
        assert!(matches!(subject.store.open(unknown).await, Err(StoreError::Missing(_))));
        let lost = subject.store.lost().await.unwrap();
        let expected = attaches(subject).then(record);
        assert_eq!((lost.len(), lost[0].id, lost[0].size, &lost[0].record), (1, unknown, bytes(10), &expected));
        let mut left = subject.left();
        left.sort_unstable();
        let mut expected = [kept.to_string(), running.to_string(), "lost+found".to_owned()];
        expected.sort_unstable();
        assert_eq!(left, expected);
        draft.publish(bytes(10), Pieces::default()).await.unwrap();
    });
}

#[test]
fn what_was_set_aside_comes_back_when_it_is_known_again_or_is_forgotten_in_time() {
    on_every_store(async |subject| {
        let sizes = [10, 3 * BLOCK];
        let ids = [subject.publish(&noise(sizes[0], 1)).await, subject.publish(&noise(sizes[1], 2)).await];
        let sweep = async |keeps: bool, before| {
            subject.store.sweep(Arc::new(move |_| keeps), Arc::new(|_| false), UnixTime(before)).await.unwrap()
        };
        let aside = sweep(false, 0).await;
        assert_eq!((aside.set_aside.len(), aside.returned, aside.forgotten), (2, 0, 0));
        assert!(aside.bytes >= sizes[1] as u64, "{aside:?}");
        assert_eq!(sweep(true, i64::MAX).await.returned, 2);
        for (n, id) in ids.into_iter().enumerate() {
            assert!(subject.read(id).await == noise(sizes[n], n + 1));
            subject.store.open(id).await.unwrap().pieces().await.unwrap();
        }
        sweep(false, 0).await;
        subject.store.bring_back(ids[0]).await.unwrap();
        assert!(subject.read(ids[0]).await == noise(sizes[0], 1));
        subject.store.forget(ids[1]).await.unwrap();
        assert_eq!(sweep(false, 0).await.set_aside, [ids[0]]);
        assert_eq!(sweep(false, i64::MAX).await.forgotten, 1);
        assert!(fs::read_dir(subject.root.join("lost")).unwrap().next().is_none());
    });
}

#[test]
fn damaged_or_missing_pieces_are_told_and_are_not_cloned() {
    on_every_store(async |subject| {
        let id = subject.publish(&noise(10 * BLOCK, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let sidecar = subject.drive(id).join("pieces");
        let good = fs::read(&sidecar).unwrap();
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &[good.clone(), good.clone()].concat(), &[]] {
            fs::write(&sidecar, bad).unwrap();
            assert!(matches!(image.pieces().await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        }
        let target = VolumeId::random();
        assert!(matches!(subject.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(subject.is_missing(target).await);
        fs::remove_file(&sidecar).unwrap();
        assert!(matches!(image.pieces().await, Err(StoreError::Damaged(..))));
    });
}

#[test]
fn nobody_but_the_owner_may_look_into_the_store() {
    on_every_store(async |subject| {
        let small = subject.publish(&noise(10, 1)).await;
        let large = subject.publish(&noise(3 * BLOCK, 1)).await;
        for (path, mode) in [
            (subject.root.clone(), 0o700),
            (subject.root.join("drives"), 0o700),
            (subject.image(small), 0o600),
            (subject.drive(large), 0o700),
            (subject.image(large), 0o600),
            (subject.drive(large).join("pieces"), 0o600),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    });
}

/// Whether drives of one piece are one file here.
fn attaches(subject: &Subject) -> bool {
    let outcome = probe::attributes(&subject.root);
    outcome.inspect_err(|error| println!("skipped with attributes: {error}")).is_ok()
}

#[test]
fn a_drive_of_one_piece_is_one_file_and_keeps_its_digest_through_clone_and_growth() {
    on_every_store(async |subject| {
        if !attaches(subject) {
            return;
        }
        let content = noise(2 * BLOCK, 1);
        let source = subject.publish(&content).await;
        let large = subject.publish(&noise(2 * BLOCK + 1, 1)).await;
        let target = VolumeId::random();
        subject.copy(source, target).await.unwrap();
        subject.store.grow(target, bytes(7 * BLOCK)).await.unwrap();
        assert!(subject.drive(source).is_file() && subject.drive(target).is_file() && subject.drive(large).is_dir());
        let grown = subject.read(target).await;
        assert!(grown[..content.len()] == content[..] && is_zero(&grown[content.len()..]));
        for id in [source, target] {
            assert_eq!(subject.store.open(id).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
            subject.store.remove(id).await.unwrap();
            assert!(subject.is_missing(id).await);
        }
        assert_eq!(subject.left(), [large.to_string()]);
    });
}

#[test]
fn a_damaged_or_missing_attribute_is_told_and_is_not_cloned() {
    on_every_store(async |subject| {
        if !attaches(subject) {
            return;
        }
        let id = subject.publish(&noise(10, 1)).await;
        let image = subject.store.open(id).await.unwrap();
        let (path, name) = (subject.drive(id), "user.pieces");
        let mut good = vec![0; 200];
        let len = rustix::fs::getxattr(&path, name, &mut good[..]).unwrap();
        good.truncate(len);
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        for bad in [&flipped[..], &good[..len - 1], &[good.clone(), good.clone()].concat(), &[]] {
            rustix::fs::setxattr(&path, name, bad, rustix::fs::XattrFlags::empty()).unwrap();
            assert!(matches!(image.pieces().await, Err(StoreError::Damaged(damaged, _)) if damaged == id));
        }
        rustix::fs::removexattr(&path, name).unwrap();
        assert!(matches!(image.pieces().await, Err(StoreError::Damaged(..))));
        let target = VolumeId::random();
        assert!(matches!(subject.copy(id, target).await, Err(StoreError::Damaged(..))));
        assert!(subject.is_missing(target).await);
    });
}

#[test]
fn a_draft_replaces_a_leftover_of_either_form() {
    on_every_store(async |subject| {
        let id = VolumeId::random();
        for size in [10, 3 * BLOCK, 10, 3 * BLOCK] {
            let draft = subject.draft(id, size).await;
            subject.fill(&*draft, &noise(size, 1)).await;
        }
        let content = noise(20, 2);
        let draft = subject.draft(id, content.len()).await;
        subject.fill(&*draft, &content).await;
        draft.publish(bytes(content.len()), pieces_of(&content)).await.unwrap();
        assert!(subject.read(id).await == content);
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

/// What a file system that does not rename in one step may show after a power cut: only `drives/` is flushed when a
/// drive that is one file is published.
#[test]
fn a_drive_that_is_back_under_its_draft_s_name_too_stays_whole_when_that_is_swept() {
    on_every_store(async |subject| {
        if !attaches(subject) {
            return;
        }
        let content = noise(BLOCK, 1);
        let id = subject.publish(&content).await;
        fs::hard_link(subject.drive(id), subject.root.join("incoming").join(id.to_string())).unwrap();
        let swept = subject.store.sweep(Arc::new(|_| true), Arc::new(|_| false), UnixTime(0)).await.unwrap();
        assert_eq!(swept.removed, [id]);
        assert!(subject.read(id).await == content);
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

#[test]
fn more_than_the_disk_has_is_not_reserved() {
    on_every_store(async |subject| {
        let free = probe::free_space(&subject.root).unwrap().get();
        let all_but = |bytes: u64| ByteCount::new(free - bytes).unwrap();
        let held = subject.store.reserve(all_but(2 << 30)).unwrap();
        assert!(matches!(subject.store.reserve(all_but(2 << 30)), Err(StoreError::NoSpace)));
        drop(held);
        drop(subject.store.reserve(all_but(2 << 30)).unwrap());
        assert!(matches!(subject.store.reserve(ByteCount::MAX), Err(StoreError::NoSpace)));
    });
}

#[test]
fn a_written_or_skipped_byte_is_settled() {
    on_every_store(async |subject| {
        let reservation = subject.store.reserve(bytes(2 * BLOCK)).unwrap();
        let options = DraftOptions { expected: None, reservation, record: record() };
        let draft = subject.store.draft(VolumeId::random(), options).await.unwrap();
        assert_eq!(outstanding(subject), "Ledger(4194304 B outstanding)");
        subject.fill(&*draft, &noise(BLOCK, 1)).await;
        assert_eq!(outstanding(subject), "Ledger(2097152 B outstanding)");
        let zeros = subject.block(&vec![0; BLOCK]).await;
        draft.write_at(zeros, 0..BLOCK, BLOCK as u64).await.unwrap();
        assert_eq!(outstanding(subject), "Ledger(0 B outstanding)");
        draft.reserve_more(bytes(5)).unwrap();
        assert_eq!(outstanding(subject), "Ledger(5 B outstanding)");
        drop(draft);
        assert_eq!(outstanding(subject), "Ledger(0 B outstanding)");
    });
}

fn outstanding(subject: &Subject) -> String {
    format!("{:?}", subject.store.ledger())
}

/// Linux tells a lost write-back once. A store that asked again would hear that all is well.
#[tokio::test]
async fn a_failed_flush_loses_the_draft_for_good() {
    let subject = Subject::temporary(IoEngine::threads(1), Direct::Never);
    let id = VolumeId::random();
    let draft = subject.draft(id, BLOCK).await;
    subject.fill(&*draft, &noise(BLOCK, 1)).await;
    subject.store.fail_next_flush(Errno::IO.raw_os_error());
    assert!(matches!(draft.publish(bytes(BLOCK), Pieces::default()).await, Err(StoreError::Io(_))));
    assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err(), "a second flush was believed");
    assert!(subject.is_missing(id).await);
    subject.store.remove(id).await.unwrap();
    assert_eq!(subject.left(), [""; 0]);
}

#[tokio::test]
async fn a_flush_that_finds_the_disk_full_is_no_space() {
    let subject = Subject::temporary(IoEngine::threads(1), Direct::Never);
    let draft = subject.draft(VolumeId::random(), 1).await;
    subject.store.fail_next_flush(Errno::NOSPC.raw_os_error());
    assert!(matches!(draft.publish(bytes(1), Pieces::default()).await, Err(StoreError::NoSpace)));
}

#[tokio::test]
async fn a_failed_write_is_told_and_loses_the_draft() {
    let faults = Arc::new(Faults::default());
    let subject = Subject::temporary(IoEngine::Threads(Threads::faulty(1, &faults)), Direct::Never);
    let id = VolumeId::random();
    let draft = subject.draft(id, BLOCK).await;
    faults.write.store(Errno::IO.raw_os_error(), Ordering::SeqCst);
    let data = subject.block(&noise(BLOCK, 1)).await;
    assert!(draft.write_at(data, 0..BLOCK, 0).await.is_err());
    faults.write.store(0, Ordering::SeqCst);
    assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err());
    assert!(subject.is_missing(id).await);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space_and_leaves_nothing() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "longshore-test"]) else { return };
    for engine in [Some(IoEngine::threads(2)), IoEngine::ring(1).ok()].into_iter().flatten() {
        let subject = Subject::new(String::new(), disk.path().join("store"), engine, Direct::Never);
        assert!(matches!(subject.store.reserve(ByteCount::mib(17)), Err(StoreError::NoSpace)));
        let before = probe::free_space(disk.path()).unwrap();

        // More is written than was set aside, as no caller should.
        let id = VolumeId::random();
        let draft = subject.draft(id, BLOCK).await;
        let mut outcome = Ok(());
        for n in 0..10 {
            let data = subject.block(&noise(BLOCK, n)).await;
            outcome = outcome.and(draft.write_at(data, 0..BLOCK, (n * BLOCK) as u64).await);
        }
        assert!(matches!(StoreError::from(outcome.unwrap_err()), StoreError::NoSpace));
        assert!(draft.publish(ByteCount::mib(20), Pieces::default()).await.is_err());
        drop(draft);
        subject.store.remove(id).await.unwrap();
        assert_eq!(subject.left(), [""; 0]);
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);

        // A copy asks before it writes.
        let source = subject.publish(&noise(5 * BLOCK, 1)).await;
        let target = VolumeId::random();
        assert!(matches!(subject.copy(source, target).await, Err(StoreError::NoSpace)));
        assert!(subject.is_missing(target).await);
        subject.store.remove(target).await.unwrap();
        subject.store.remove(source).await.unwrap();
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_shares_its_extents_where_the_file_system_can() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(512 << 20).unwrap();
    let made = Command::new("mkfs.xfs").args(["-q", "-f", "-m", "reflink=1"]).arg(image.path()).output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: cannot make an XFS file system");
        return;
    }
    let path = image.path().to_str().unwrap();
    let Some(disk) = Mounted::new(&["-o", "loop", path]) else { return };
    probe::reflink(disk.path()).unwrap();
    let subject = Subject::new(String::new(), disk.path().join("store"), IoEngine::threads(1), Direct::Auto);
    let content = noise(64 * BLOCK, 1);
    let source = subject.publish(&content).await;
    let before = probe::free_space(disk.path()).unwrap().get();
    let target = VolumeId::random();
    subject.copy(source, target).await.unwrap();
    let taken = before - probe::free_space(disk.path()).unwrap().get();
    assert!(taken < 8 << 20, "{taken} B were copied");
    assert!(subject.read(target).await == content);
}
