//! A drive that comes in parts beside one that comes in a stream: until it is durable, with all checkpoints. The bytes
//! come from memory, so that nothing but the store and the digests is measured.
//!
//! `cargo bench --bench parts`; `BENCH_MIB` sets the size of the drive, 256 by default. The store lies in the build's
//! target directory. Removing the drives is not counted.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use longshore::domain::{Algorithms, ByteCount, Checks, ContentId, Fault, TenantId, VolumeId};
use longshore::io::{IoEngine, Pool};
use longshore::store::{BlockStore, DraftOptions, LocalSettings, LocalStore, PieceMap, Record};
use longshore::transfer::{
    Allowance, Assembly, Broken, ChunkSource, Chunks, DraftWriter, PartOptions, Progress, WriteOptions, receive,
};
use rand::Rng as _;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// As large as what is read from a fast socket at once.
const CHUNK: usize = 1 << 20;
const DEPTH: usize = 4;

struct Bench {
    runtime: Runtime,
    store: LocalStore,
    pool: Pool,
    chunk: Bytes,
    size: u64,
}

/// The same chunk over and over.
struct Repeated {
    chunk: Bytes,
    left: u64,
}

impl Chunks for Repeated {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let now = self.left.min(self.chunk.len() as u64);
        self.left -= now;
        Ok((now > 0).then(|| self.chunk.slice(..now as usize)))
    }
}

/// No more than what was expected.
struct Fixed;

impl Allowance for Fixed {
    async fn extend(&mut self, _: u64) -> Result<u64, Fault> {
        Err(Fault::internal("the source is too long"))
    }
}

fn progress() -> Arc<Progress> {
    Arc::new(Progress::receiving(VolumeId::random()))
}

impl Bench {
    fn new() -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-parts");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("a directory for the store");
        let runtime = Runtime::new().expect("a runtime");
        let store = LocalStore::open(&root, IoEngine::best(1).0, LocalSettings::default()).expect("a store");
        let mut chunk = vec![0; CHUNK];
        rand::rng().fill_bytes(&mut chunk);
        let mib = std::env::var_os("BENCH_MIB").and_then(|mib| mib.to_str()?.parse::<u64>().ok()).unwrap_or(256);
        Self { runtime, store, pool: Pool::new(ByteCount::mib(64)), chunk: chunk.into(), size: mib << 20 }
    }

    fn source(&self, bytes: u64) -> ChunkSource<Repeated> {
        Repeated { chunk: self.chunk.clone(), left: bytes }.into()
    }

    fn options(&self, is_kept: bool) -> DraftOptions {
        let size = ByteCount::new(self.size).expect("a size");
        let reservation = self.store.space().reserve(size).expect("room on the disk");
        let record = Record { volume: VolumeId::random(), tenant: TenantId::random(), name: "bench".to_owned() };
        DraftOptions { expected: Some(size), reservation, record, is_kept }
    }

    async fn stream(&self, id: ContentId) {
        let (size, progress) = (ByteCount::new(self.size).expect("a size"), progress());
        let draft = self.store.draft(id, self.options(false)).await.expect("a draft");
        let options = WriteOptions { depth: DEPTH, digests: Algorithms::NONE };
        let writer = DraftWriter::new(draft.clone(), self.pool.clone(), options, progress.clone());
        let written = receive(&mut self.source(self.size), writer, self.size, &mut Fixed, &progress).await;
        let pieces = written.expect("all of it").map.finish(size).expect("whole pieces");
        draft.publish(size, pieces).await.expect("publication");
    }

    async fn parts(&self, id: ContentId, count: u64) {
        let size = ByteCount::new(self.size).expect("a size");
        let draft = self.store.draft(id, self.options(true)).await.expect("a draft");
        let checkpoint_time = Duration::from_secs(5);
        let options =
            PartOptions { depth: DEPTH, checkpoint_bytes: 64 << 20, checkpoint_time, digests: Algorithms::NONE };
        let (shared, tracker) = ((self.pool.clone(), options), TaskTracker::new());
        let assembly = Assembly::new(draft.clone(), PieceMap::default(), Some(size), shared, tracker.clone());
        let each = self.size / count;
        let parts = (0..count).map(|n| {
            let (assembly, mut source) = (assembly.clone(), self.source(each));
            tracker.spawn(async move {
                let part =
                    assembly.part(n * each..(n + 1) * each, Checks::default(), progress()).await.expect("a part");
                part.receive(&mut source, u64::MAX, &mut Fixed).await.expect("all of it");
            })
        });
        for part in parts.collect::<Vec<_>>() {
            part.await.expect("no panic");
        }
        let assembled = assembly.finish(size, Algorithms::NONE).await.expect("whole pieces");
        draft.publish(size, assembled.pieces).await.expect("publication");
    }

    /// The time until so many drives are durable.
    fn time(&self, drives: u64, fill: impl AsyncFn(ContentId)) -> Duration {
        self.runtime.block_on(async {
            let mut total = Duration::ZERO;
            for _ in 0..drives {
                let id = ContentId::random();
                let began = Instant::now();
                fill(id).await;
                total += began.elapsed();
                self.store.remove(id).await.expect("removal");
            }
            total
        })
    }
}

fn parts(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Bytes(bench.size)).sampling_mode(SamplingMode::Flat).sample_size(10);
    group.bench_function("a stream", |bencher| bencher.iter_custom(|n| bench.time(n, |id| bench.stream(id))));
    for count in [1, 4] {
        let name = if count == 1 { "one part" } else { "four parts" };
        group.bench_function(name, |bencher| bencher.iter_custom(|n| bench.time(n, |id| bench.parts(id, count))));
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
