use std::collections::VecDeque;
use std::future::pending;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::domain::{ContentId, Extent, TenantId, VolumeId};
use crate::io::IoEngine;
use crate::store::{BlockStore, DraftOptions, LocalSettings, LocalStore, Record};
use crate::transfer::{Allowance, Broken, ChunkSource, Chunks};

const SIZE: usize = (PIECE as usize) * 2 + 5_000;

/// Of drives whose size is known.
struct Fixed;

impl Allowance for Fixed {
    async fn extend(&mut self, _: u64) -> Result<u64, Fault> {
        panic!("there is room for all")
    }
}

/// A store with one draft that is kept.
struct Scene {
    store: LocalStore,
    id: ContentId,
    assembly: Arc<Assembly>,
    _dir: TempDir,
}

fn options(store: &LocalStore) -> DraftOptions {
    let reservation = store.space().reserve(ByteCount::new(SIZE as u64).unwrap()).unwrap();
    let record = Record { volume: VolumeId::random(), tenant: TenantId::random(), name: "disk".to_owned() };
    DraftOptions { expected: ByteCount::new(SIZE as u64), reservation, record, is_kept: true }
}

fn assembled(draft: Arc<dyn Draft>, map: PieceMap) -> Arc<Assembly> {
    let options = PartOptions {
        depth: 2,
        checkpoint_bytes: 1 << 20,
        checkpoint_time: Duration::from_mins(1),
        digests: Algorithms::ALL,
    };
    let pool = Pool::new(ByteCount::mib(16));
    Assembly::new(draft, map, ByteCount::new(SIZE as u64), (pool, options), TaskTracker::new())
}

impl Scene {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = LocalStore::open(dir.path(), IoEngine::threads(1), LocalSettings::default()).unwrap();
        let id = ContentId::random();
        let draft = store.draft(id, options(&store)).await.unwrap();
        Self { assembly: assembled(draft, PieceMap::default()), store, id, _dir: dir }
    }

    /// Goes on as another process would.
    async fn restart(&mut self) {
        let (draft, map) = self.store.resume(self.id, options(&self.store)).await.unwrap();
        self.assembly = assembled(draft, map);
    }

    /// Sends a part that breaks off behind these chunks, or ends there.
    async fn send(&self, range: Range<usize>, chunks: Vec<Bytes>, breaks: bool) -> Result<u64, Fault> {
        let range = range.start as u64..range.end as u64;
        let part = self.assembly.part(range, Checks::default(), progress()).await?;
        let mut source = ChunkSource::from(Given { chunks: chunks.into(), end: End::of(breaks) });
        part.receive(&mut source, u64::MAX, &mut Fixed).await
    }

    async fn durable(&self) -> Vec<Range<u64>> {
        self.assembly.durable().await.unwrap().ranges().to_vec()
    }
}

fn progress() -> Arc<Progress> {
    Arc::new(Progress::fetching(VolumeId::random()))
}

struct Given {
    chunks: VecDeque<Bytes>,
    end: End,
}

enum End {
    Proper,
    Broken,
    Never,
}

impl End {
    fn of(breaks: bool) -> Self {
        if breaks { Self::Broken } else { Self::Proper }
    }
}

impl Chunks for Given {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match (self.chunks.pop_front(), &self.end) {
            (Some(chunk), _) => Ok(Some(chunk)),
            (None, End::Proper) => Ok(None),
            (None, End::Broken) => Err("the line is cut".into()),
            (None, End::Never) => pending().await,
        }
    }
}

fn there(ranges: &[(u64, u64)]) -> Vec<Range<u64>> {
    ranges.iter().map(|(start, end)| *start..*end).collect()
}

fn noise(range: Range<usize>, seed: u8) -> Vec<u8> {
    range.map(|at| (at % 251) as u8 ^ seed | 1).collect()
}

fn chunks_of(content: &[u8], size: usize) -> Vec<Bytes> {
    content.chunks(size).map(Bytes::copy_from_slice).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A part from here, so long, of which so many thousandths come.
    Part {
        start: usize,
        len: usize,
        comes: usize,
        seed: u8,
    },
    Zero {
        start: usize,
        len: usize,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|sector| sector * 4096)];
    let len = || prop_oneof![1..SIZE, 1..20_000usize];
    let comes = prop_oneof![Just(1000usize), 0..1000usize];
    prop_oneof![
        6 => (place(), len(), comes, 1..99u8).prop_map(|(start, len, comes, seed)| Step::Part { start, len, comes, seed }),
        1 => (place(), len()).prop_map(|(start, len)| Step::Zero { start, len }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_drive_is_what_its_parts_were_in_whatever_order_they_came(steps in prop::collection::vec(step(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut scene = Scene::new().await;
            let (mut model, mut there) = (vec![0u8; SIZE], Extents::default());
            for step in steps {
                match step {
                    Step::Part { start, len, comes, seed } => {
                        let end = (start + len).min(SIZE);
                        let came = start + (end - start) * comes / 1000;
                        let content = noise(start..came, seed);
                        let sent = scene.send(start..end, chunks_of(&content, 700_001), comes < 1000).await;
                        assert_eq!(sent.is_ok(), comes == 1000, "{sent:?}");
                        model[start..came].copy_from_slice(&content);
                        there.insert(start as u64..came as u64);
                    }
                    Step::Zero { start, len } => {
                        let end = (start + len).min(SIZE);
                        let extent = Extent { offset: start as u64, len: (end - start) as u64 };
                        scene.assembly.zero(extent, progress()).await.unwrap();
                        model[start..end].fill(0);
                        there.insert(start as u64..end as u64);
                    }
                    Step::Restart => scene.restart().await,
                }
                assert_eq!(scene.durable().await, there.ranges());
            }
            let size = ByteCount::new(SIZE as u64).unwrap();
            while let Some(gap) = there.first_gap(0..SIZE as u64) {
                let unfinished = scene.assembly.finish(size, Algorithms::NONE).await.unwrap_err();
                assert_eq!(unfinished.kind, FaultKind::Conflict);
                let gap = gap.start as usize..gap.end as usize;
                let content = noise(gap.clone(), 7);
                scene.send(gap.clone(), chunks_of(&content, 1 << 20), false).await.unwrap();
                model[gap.clone()].copy_from_slice(&content);
                there.insert(gap.start as u64..gap.end as u64);
            }
            let assembled = scene.assembly.finish(size, Algorithms::ALL).await.unwrap();
            let digests = model.chunks(PIECE as usize).map(piece_digest).collect::<Vec<_>>();
            assert!(assembled.pieces.0.iter().zip(&digests).all(|(one, other)| one == other));
            let mut digests = DigestState::new(Algorithms::ALL);
            digests.update(&model);
            assert_eq!(assembled.digests, digests.finish());
            scene.assembly.draft.publish(size, assembled.pieces).await.unwrap();
            let image = scene.store.open(scene.id).await.unwrap();
            let mut read = image.read_back().await.unwrap();
            for (index, piece) in model.chunks(PIECE as usize).enumerate() {
                let read = read.piece(index as u64).unwrap();
                assert!(read.is_whole && read.bytes == piece, "piece {index}");
            }
            let refused = scene.send(0..5, chunks_of(&[1; 5], 5), false).await.unwrap_err();
            assert_eq!(refused.kind, FaultKind::Conflict);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_overlaps_ends_the_earlier_one_whose_late_bytes_never_land() {
    let scene = Scene::new().await;
    let part = scene.assembly.part(0..1 << 20, Checks::default(), progress()).await.unwrap();
    let (late, gate) = tokio::sync::oneshot::channel::<()>();
    let first = scene.assembly.tracker.spawn(async move {
        let mut source = Gated { first: Some(Bytes::from(vec![1; 5_000])), gate: Some(gate) };
        part.receive(&mut ChunkSource::from(&mut source), u64::MAX, &mut Fixed).await
    });
    while scene.durable().await.is_empty() {
        // The first part comes.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elsewhere = scene.send(1 << 20..2 << 20, chunks_of(&noise(0..1 << 20, 3), 1 << 20), false);
    elsewhere.await.unwrap();
    assert!(!first.is_finished(), "disjoint parts do not disturb each other");
    let second = noise(1_000..500_000, 2);
    scene.send(1_000..500_000, chunks_of(&second, 100_000), false).await.unwrap();
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault:?}");
    assert!(late.send(()).is_err(), "it still takes bytes");
    assert_eq!(scene.durable().await, there(&[(0, 500_000), (1 << 20, 2 << 20)]));
    let mut read = scene.assembly.draft.read_back(ByteCount::new(SIZE as u64).unwrap()).await.unwrap();
    let bytes = read.piece(0).unwrap().bytes;
    assert!(bytes[..1_000] == [1; 1_000] && bytes[1_000..500_000] == second);
}

/// Gives one chunk, and another when it is told to.
struct Gated {
    first: Option<Bytes>,
    gate: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Chunks for &mut Gated {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if let Some(gate) = &mut self.gate {
            let _ = gate.await;
            self.gate = None;
            return Ok(Some(Bytes::from(vec![9; 300_000])));
        }
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_dropped_counts_what_came() {
    let scene = Scene::new().await;
    let part = scene.assembly.part(100..1 << 20, Checks::default(), progress()).await.unwrap();
    let chunks = chunks_of(&noise(0..77_777, 1), 10_000).into();
    let mut source = ChunkSource::from(Given { chunks, end: End::Never });
    let cut = tokio::time::timeout(Duration::from_secs(1), part.receive(&mut source, u64::MAX, &mut Fixed)).await;
    assert!(cut.is_err(), "it waits for more");
    // The next part waits for the end of that one.
    scene.send(0..100, chunks_of(&[1; 100], 100), false).await.unwrap();
    scene.send(77_877..77_900, chunks_of(&[1; 23], 23), false).await.unwrap();
    assert_eq!(scene.durable().await, there(&[(0, 77_900)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_in_order_are_digested_on_the_way_and_what_is_written_over_is_digested_anew() {
    let scene = Scene::new().await;
    let size = ByteCount::new(SIZE as u64).unwrap();
    let content = noise(0..SIZE, 1);
    let mut at = 0;
    for len in [1_000_001, 5_000_000, 999, SIZE] {
        let end = (at + len).min(SIZE);
        scene.send(at..SIZE, chunks_of(&content[at..end], 300_000), end < SIZE).await.ok();
        at = end;
    }
    let is_whole = |index| matches!(lock(&scene.assembly.map).piece(index, size), Piece::Whole(_));
    assert!([0, 1, 2].into_iter().all(is_whole));
    // A part goes on in the middle of a piece; another changes the start of that piece meanwhile, and ends nobody.
    scene.send(0..3_000_000, chunks_of(&noise(0..1_000_000, 2), 100_000), true).await.unwrap_err();
    let going_on = scene.assembly.part(1_000_000..PIECE, Checks::default(), progress()).await.unwrap();
    scene.send(0..10, chunks_of(&[5; 10], 10), false).await.unwrap();
    let rest = chunks_of(&content[1_000_000..PIECE as usize], 100_000);
    let mut rest = ChunkSource::from(Given { chunks: rest.into(), end: End::of(false) });
    assert_eq!(going_on.receive(&mut rest, u64::MAX, &mut Fixed).await.unwrap(), PIECE);
    assert!(!is_whole(0) && is_whole(1));
    let assembled = scene.assembly.finish(size, Algorithms::NONE).await.unwrap();
    let mut expected = content;
    expected[..1_000_000].copy_from_slice(&noise(0..1_000_000, 2));
    expected[..10].fill(5);
    assert_eq!(assembled.pieces.0, expected.chunks(PIECE as usize).map(piece_digest).collect::<Vec<_>>());
}

/// A crash may come right after its first byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_a_part_may_write_over_has_no_digest_in_the_checkpoint() {
    let scene = Scene::new().await;
    let (size, first) = (ByteCount::new(SIZE as u64).unwrap(), PIECE as usize);
    scene.send(0..SIZE, chunks_of(&noise(0..SIZE, 1), 1 << 20), false).await.unwrap();
    let _going_on = scene.assembly.part(PIECE - 1..PIECE + 10, Checks::default(), progress()).await.unwrap();
    let (_, map) = scene.store.resume(scene.id, options(&scene.store)).await.unwrap();
    let pieces = [0, 1, 2].map(|index| map.piece(index, size));
    let last = piece_digest(&noise(0..SIZE, 1)[2 * first..]);
    assert_eq!(pieces, [Piece::Undigested, Piece::Undigested, Piece::Whole(last)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_leaves_what_is_there() {
    let scene = Scene::new().await;
    let over = scene.send(0..10, chunks_of(&[1; 20], 7), false).await.unwrap_err();
    assert_eq!(over.kind, FaultKind::BadFraming);
    assert_eq!(scene.durable().await, there(&[(0, 7)]));
    let behind = scene.send(SIZE - 5..SIZE + 1, chunks_of(&[1; 6], 6), false).await.unwrap_err();
    assert_eq!(behind.kind, FaultKind::Invalid);
    for n in 1..MOST_EXTENTS {
        let at = n * 100;
        lock(&scene.assembly.map).add(at as u64..at as u64 + 1, Vec::new());
    }
    let scattered = scene.send(50..60, chunks_of(&[1; 10], 10), false).await.unwrap_err();
    assert_eq!(scattered.kind, FaultKind::TooLarge);
    scene.send(7..17, chunks_of(&[1; 10], 10), false).await.unwrap();
}
