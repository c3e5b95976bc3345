//! What a block costs on its way: taken from the pool, handed to another task, given back there. Nothing is written to
//! it, so what is measured is the pool, the hand-over, and the mapping where the pool keeps none idle.
//!
//! `cargo bench --bench pool`; a figure is the time of one block, all tasks together.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use longshore::domain::ByteCount;
use longshore::io::{BLOCK, Pool};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Blocks on their way between two tasks: an upload's writes in flight.
const IN_FLIGHT: usize = 4;

/// One way to contend.
struct Way {
    name: &'static str,
    /// Tasks that take, each with one that gives back.
    tasks: usize,
    /// Blocks of the pool.
    blocks: u32,
    /// Whether a byte is written, so that a fresh mapping costs its page, too.
    touched: bool,
}

const WAYS: [Way; 6] = [
    Way { name: "1 task", tasks: 1, blocks: 64, touched: false },
    Way { name: "8 tasks", tasks: 8, blocks: 64, touched: false },
    Way { name: "64 tasks", tasks: 64, blocks: 64, touched: false },
    Way { name: "64 tasks, touched", tasks: 64, blocks: 64, touched: true },
    Way { name: "8 tasks wait for 4 blocks", tasks: 8, blocks: 4, touched: false },
    Way { name: "64 tasks wait for 8 blocks", tasks: 64, blocks: 8, touched: false },
];

async fn hand_over(pool: Pool, blocks: u64, touched: bool) {
    let (give, mut take) = mpsc::channel(IN_FLIGHT);
    let taker = tokio::runtime::Handle::current().spawn(async move { while take.recv().await.is_some() {} });
    for _ in 0..blocks {
        let mut block = pool.take().await;
        if touched {
            block[0] = 1;
        }
        give.send(block).await.expect("the other task takes all");
    }
    drop(give);
    taker.await.expect("the other task ends");
}

fn hand_overs(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let mut group = criterion.benchmark_group("pool");
    group.throughput(Throughput::Elements(1));
    for way in WAYS {
        let pool = Pool::new(ByteCount::mib(way.blocks * (BLOCK >> 20) as u32));
        group.bench_function(way.name, |bencher| {
            bencher.iter_custom(|blocks| {
                let each = blocks.div_ceil(way.tasks as u64);
                let start = Instant::now();
                let tasks: Vec<_> =
                    (0..way.tasks).map(|_| runtime.spawn(hand_over(pool.clone(), each, way.touched))).collect();
                for task in tasks {
                    runtime.block_on(task).expect("a task ends");
                }
                // Each moved as many, so together it may have been a few more than asked for.
                start.elapsed().mul_f64(blocks as f64 / (each * way.tasks as u64) as f64)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = hand_overs
}
criterion_main!(benches);
