//! What telling zeros and digesting cost per byte: each on a block that is hot in cache, as on the hot path.
//!
//! `cargo bench --bench digest`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longshore::io::BLOCK;
use longshore::store::{data_runs, is_zero};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

/// The unit of the stored digests: two blocks.
const PIECE_BLOCKS: usize = 2;

fn blocks() -> [(&'static str, Vec<u8>); 3] {
    let mut random = vec![0; BLOCK];
    SmallRng::seed_from_u64(1).fill(&mut random[..]);
    // Every other granule is zero: an image's usual mix, and the worst for prediction.
    let mut mixed = random.clone();
    for granule in mixed.chunks_mut(longshore::store::GRANULE).step_by(2) {
        granule.fill(0);
    }
    [("random", random), ("mixed", mixed), ("zero", vec![0; BLOCK])]
}

fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let [(_, random), ..] = blocks();
    group.bench_function("xxh3-128", |bencher| bencher.iter(|| XxHash3_128::oneshot(black_box(&random))));
    group.bench_function("sha-256", |bencher| bencher.iter(|| Sha256::digest(black_box(&random))));
    group.throughput(Throughput::Bytes((PIECE_BLOCKS * BLOCK) as u64));
    group.bench_function("xxh3-128 of a piece, block by block", |bencher| {
        bencher.iter(|| {
            let mut piece = XxHash3_128::new();
            for _ in 0..PIECE_BLOCKS {
                piece.write(black_box(&random));
            }
            piece.finish_128()
        });
    });
    group.finish();
}

fn zeros(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("zero scan");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (name, block) in blocks() {
        group.bench_with_input(BenchmarkId::new("runs", name), &block, |bencher, block| {
            bencher.iter(|| data_runs(black_box(block)).map(|run| run.len()).sum::<usize>());
        });
    }
    let [.., (_, zero)] = blocks();
    group.bench_function("whole block", |bencher| bencher.iter(|| is_zero(black_box(&zero))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = digest, zeros
}
criterion_main!(benches);
