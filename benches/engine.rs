//! Writing and reading one file through the engines: engine x block size x depth x direct or buffered x durability.
//!
//! Prints bytes per second by criterion, and beside it the CPU seconds per GiB of the whole process, which is what
//! tells two engines apart on a disk that both can fill. The file lies in the build's target directory, so that the
//! device is the one that the machine builds on. Each round writes a new file; its removal is not counted.
//!
//! `cargo bench --bench engine`, or `cargo bench --bench engine -- 'write/io_uring'`; `BENCH_MIB` sets the
//! size of the file, 256 by default.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use longshore::domain::ByteCount;
use longshore::io::{BLOCK, EngineFile, IoEngine, Pool, SharedBlock, SharedFile, probe};
use rustix::fs::OFlags;
use tokio::runtime::Runtime;

/// One way to write.
#[derive(Clone, Copy)]
struct Way {
    /// Bytes per operation.
    unit: usize,
    /// Operations in flight.
    depth: usize,
    direct: bool,
    /// Whether the length is set before the first write, so that no write extends the file.
    sized: bool,
    /// Whether the flush is part of the time.
    durable: bool,
}

impl Way {
    const USUAL: Self = Self { unit: BLOCK, depth: 4, direct: true, sized: false, durable: true };

    /// The usual way, and what changes when one thing about it does.
    fn all() -> Vec<Self> {
        let usual = Self::USUAL;
        let buffered = Self { direct: false, ..usual };
        vec![
            usual,
            Self { sized: true, ..usual },
            Self { durable: false, ..usual },
            buffered,
            Self { durable: false, ..buffered },
            Self { depth: 1, ..usual },
            Self { depth: 8, ..usual },
            Self { unit: 128 << 10, depth: 32, ..usual },
            Self { unit: 128 << 10, depth: 32, sized: true, ..usual },
            Self { unit: 128 << 10, depth: 32, ..buffered },
        ]
    }

    fn name(self) -> String {
        let path = if self.direct { "direct" } else { "buffered" };
        let end = if self.durable { "durable" } else { "unflushed" };
        let length = if self.sized { "-sized" } else { "" };
        format!("{path}-{end}{length}-{}k-x{}", self.unit >> 10, self.depth)
    }
}

/// What all benches of this file share.
struct Bench {
    runtime: Runtime,
    engines: Vec<IoEngine>,
    pool: Pool,
    dir: PathBuf,
    size: u64,
    direct: bool,
}

impl Bench {
    fn new() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-engine");
        std::fs::create_dir_all(&dir).expect("the target directory can be written");
        let mut engines = vec![IoEngine::threads(2)];
        match IoEngine::ring(1) {
            Ok(ring) => engines.push(ring),
            Err(error) => println!("skipped on io_uring: {error}"),
        }
        let direct = probe::direct_io(&dir);
        if let Err(error) = &direct {
            println!("skipped with direct I/O: {error}");
        }
        let mib = std::env::var_os("BENCH_MIB").and_then(|mib| mib.to_str()?.parse::<u64>().ok());
        Self {
            runtime: Runtime::new().expect("a runtime starts"),
            engines,
            pool: Pool::new(ByteCount::mib(64)),
            dir,
            size: mib.unwrap_or(256) << 20,
            direct: direct.is_ok(),
        }
    }

    fn open(&self, direct: bool, fresh: bool) -> SharedFile {
        let path = self.dir.join("file");
        if fresh {
            let _ = std::fs::remove_file(&path);
        }
        let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(fresh).custom_flags(flags.bits().cast_signed());
        options.open(path).expect("the bench's file opens").into()
    }

    fn random_block(&self) -> SharedBlock {
        use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
        let mut block = self.pool.try_take().expect("the pool is fresh");
        SmallRng::seed_from_u64(1).fill(&mut block[..]);
        block.freeze()
    }

    async fn write(&self, engine: &IoEngine, file: &SharedFile, data: &SharedBlock, way: Way) {
        let adopted = engine.adopt(file.clone());
        let mut running = VecDeque::with_capacity(way.depth);
        for offset in (0..self.size).step_by(way.unit) {
            if running.len() == way.depth {
                finish(running.pop_front()).await;
            }
            running.push_back(adopted.write_at(data.clone(), 0..way.unit, offset));
        }
        while !running.is_empty() {
            finish(running.pop_front()).await;
        }
        if way.durable {
            // Blocks this thread, which has nothing else to do.
            file.sync_data().expect("the disk takes the bytes");
        }
    }

    async fn read(&self, file: &EngineFile, depth: usize) {
        let mut running = VecDeque::with_capacity(depth);
        for offset in (0..self.size).step_by(BLOCK) {
            if running.len() == depth {
                finish_read(running.pop_front()).await;
            }
            running.push_back(file.read_at(self.pool.take().await, BLOCK, offset));
        }
        while !running.is_empty() {
            finish_read(running.pop_front()).await;
        }
    }
}

async fn finish(write: Option<longshore::io::Submitted<std::io::Result<()>>>) {
    if let Some(write) = write {
        write.await.expect("the disk takes the bytes");
    }
}

async fn finish_read(read: Option<longshore::io::Submitted<(longshore::io::Block, std::io::Result<usize>)>>) {
    if let Some(read) = read {
        assert_eq!(read.await.1.expect("the disk gives the bytes"), BLOCK);
    }
}

/// Adds up wall time for criterion and CPU time of all threads for the line beside it.
#[derive(Default)]
struct Meter {
    bytes: u64,
    cpu: Duration,
}

impl Meter {
    fn measure(&mut self, bytes: u64, work: impl FnOnce()) -> Duration {
        let cpu = cpu_time();
        let start = Instant::now();
        work();
        let wall = start.elapsed();
        self.cpu += cpu_time().saturating_sub(cpu);
        self.bytes += bytes;
        wall
    }

    fn tell(&self, name: &str) {
        let gib = self.bytes as f64 / f64::from(1 << 30);
        println!("{name}: {:.3} CPU s/GiB", self.cpu.as_secs_f64() / gib);
    }
}

/// Of all threads of the process, the kernel's workers for `io_uring` included (proc(5): fields 14 and 15 of `stat`, in
/// ticks of 10 ms, which the sum over many rounds evens out).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn write(criterion: &mut Criterion) {
    let bench = Bench::new();
    let data = bench.random_block();
    for engine in &bench.engines {
        let mut group = criterion.benchmark_group(format!("write/{}", engine.name()));
        group.throughput(Throughput::Bytes(bench.size)).sampling_mode(SamplingMode::Flat);
        for way in Way::all() {
            if way.direct && !bench.direct {
                continue;
            }
            let mut meter = Meter::default();
            group.bench_function(way.name(), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut wall = Duration::ZERO;
                    for _ in 0..rounds {
                        let file = bench.open(way.direct, true);
                        if way.sized {
                            file.set_len(bench.size).expect("the length is set");
                        }
                        wall += meter
                            .measure(bench.size, || bench.runtime.block_on(bench.write(engine, &file, &data, way)));
                    }
                    wall
                });
            });
            if meter.bytes > 0 {
                meter.tell(&format!("write/{}/{}", engine.name(), way.name()));
            }
        }
        group.finish();
    }
    let _ = std::fs::remove_dir_all(&bench.dir);
}

fn read(criterion: &mut Criterion) {
    let bench = Bench::new();
    let data = bench.random_block();
    for engine in &bench.engines {
        let mut group = criterion.benchmark_group(format!("read/{}", engine.name()));
        group.throughput(Throughput::Bytes(bench.size)).sampling_mode(SamplingMode::Flat);
        let file = bench.open(false, true);
        bench.runtime.block_on(bench.write(engine, &file, &data, Way { direct: false, ..Way::USUAL }));
        let file = engine.adopt(file);
        for depth in [1, 4] {
            let mut meter = Meter::default();
            let name = format!("cached-1024k-x{depth}");
            group.bench_function(&name, |bencher| {
                bencher.iter_custom(|rounds| {
                    let read = || bench.runtime.block_on(bench.read(&file, depth));
                    (0..rounds).map(|_| meter.measure(bench.size, read)).sum()
                });
            });
            if meter.bytes > 0 {
                meter.tell(&format!("read/{}/{name}", engine.name()));
            }
        }
        group.finish();
    }
    let _ = std::fs::remove_dir_all(&bench.dir);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = write, read
}
criterion_main!(benches);
