//! Writing and reading files through the engines, and through a plain ring driven by hand: engine x block size x depth
//! x direct or buffered x durability.
//!
//! Prints bytes per second by criterion, and beside it the CPU seconds per GiB of the whole process, which is what
//! tells two engines apart on a disk that both can fill. Criterion measures one after the other; the table at the end
//! (`beside`) takes turns. The files lie in the build's target directory, so that the device is the one that the
//! machine builds on. Each round writes new files; their removal is not counted.
//!
//! `cargo bench --bench engine`, or a part of it: `cargo bench --bench engine -- beside`, or `'write/io_uring'`.
//! `BENCH_MIB` sets the bytes of a round, 256 by default.

mod beside;
mod plain;

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use longshore::domain::ByteCount;
use longshore::io::{BLOCK, Block, EngineFile, IoEngine, Pool, SharedBlock, SharedFile, Submitted, probe};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

use crate::plain::Plain;

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

/// What is done to each file.
#[derive(Clone, Copy)]
struct Work {
    /// Bytes of the file, a multiple of `unit`.
    size: u64,
    unit: usize,
    depth: usize,
}

/// An engine under test.
enum Contender {
    Engine(&'static str, IoEngine),
    /// No engine: the least that `io_uring` costs.
    Plain(Box<Plain>),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Engine(name, _) => name,
            Self::Plain(_) => "plain-ring",
        }
    }
}

fn contenders() -> Vec<Contender> {
    let mut contenders = vec![Contender::Engine("threads", IoEngine::threads(2))];
    match IoEngine::ring(1).and_then(|ring| Ok((ring, Plain::new()?))) {
        Ok((ring, plain)) => {
            contenders.extend([Contender::Engine("io_uring", ring), Contender::Plain(Box::new(plain))]);
        }
        Err(error) => println!("skipped on io_uring: {error}"),
    }
    contenders
}

/// What all benches of this file share.
struct Bench {
    runtime: Runtime,
    pool: Pool,
    data: SharedBlock,
    dir: PathBuf,
    size: u64,
    direct: bool,
}

impl Bench {
    fn new() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-engine");
        std::fs::create_dir_all(&dir).expect("the target directory can be written");
        let direct = probe::direct_io(&dir);
        if let Err(error) = &direct {
            println!("skipped with direct I/O: {error}");
        }
        let mib = std::env::var_os("BENCH_MIB").and_then(|mib| mib.to_str()?.parse::<u64>().ok());
        let pool = Pool::new(ByteCount::mib(128));
        Self {
            runtime: Runtime::new().expect("a runtime starts"),
            data: random_block(&pool),
            pool,
            dir,
            size: mib.unwrap_or(256) << 20,
            direct: direct.is_ok(),
        }
    }

    fn open(&self, n: usize, direct: bool, fresh: bool) -> SharedFile {
        let path = self.dir.join(format!("file-{n}"));
        if fresh {
            let _ = std::fs::remove_file(&path);
        }
        let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(fresh).custom_flags(flags.bits().cast_signed());
        options.open(path).expect("the bench's file opens").into()
    }

    /// Writes the files at once.
    fn write(&self, contender: &Contender, files: &[SharedFile], work: Work, durable: bool) {
        match contender {
            Contender::Plain(plain) => plain.write(files, &self.data, work).expect("the disk takes the bytes"),
            Contender::Engine(_, engine) => {
                self.each(files, |file| write(engine.adopt(file), self.data.clone(), work));
            }
        }
        if durable {
            for file in files {
                file.sync_data().expect("the disk takes the bytes");
            }
        }
    }

    /// Reads the files at once.
    fn read(&self, contender: &Contender, files: &[SharedFile], work: Work) {
        match contender {
            Contender::Plain(plain) => {
                let take = |_| self.pool.try_take().expect("the pool has room for all that is in flight");
                let mut buffers: Vec<Block> = (0..files.len() * work.depth).map(take).collect();
                plain.read(files, &mut buffers, work).expect("the disk gives the bytes");
            }
            Contender::Engine(_, engine) => {
                self.each(files, |file| read(engine.adopt(file), self.pool.clone(), work));
            }
        }
    }

    /// Waits for a task for each file.
    fn each<F: Future<Output = ()> + Send + 'static>(&self, files: &[SharedFile], work: impl Fn(SharedFile) -> F) {
        let tasks: Vec<_> = files.iter().map(|file| self.runtime.spawn(work(SharedFile::clone(file)))).collect();
        for task in tasks {
            self.runtime.block_on(task).expect("the task ends");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn random_block(pool: &Pool) -> SharedBlock {
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
    let mut block = pool.try_take().expect("the pool is fresh");
    SmallRng::seed_from_u64(1).fill(&mut block[..]);
    block.freeze()
}

async fn write(file: EngineFile, data: SharedBlock, work: Work) {
    let mut running = VecDeque::with_capacity(work.depth);
    for offset in (0..work.size).step_by(work.unit) {
        if running.len() == work.depth {
            finish(running.pop_front()).await;
        }
        running.push_back(file.write_at(data.clone(), 0..work.unit, offset));
    }
    while !running.is_empty() {
        finish(running.pop_front()).await;
    }
}

async fn read(file: EngineFile, pool: Pool, work: Work) {
    let mut running = VecDeque::with_capacity(work.depth);
    for offset in (0..work.size).step_by(work.unit) {
        if running.len() == work.depth {
            finish_read(running.pop_front(), work.unit).await;
        }
        running.push_back(file.read_at(pool.take().await, work.unit, offset));
    }
    while !running.is_empty() {
        finish_read(running.pop_front(), work.unit).await;
    }
}

async fn finish(write: Option<Submitted<std::io::Result<()>>>) {
    if let Some(write) = write {
        write.await.expect("the disk takes the bytes");
    }
}

async fn finish_read(read: Option<Submitted<(Block, std::io::Result<usize>)>>, unit: usize) {
    if let Some(read) = read {
        assert_eq!(read.await.1.expect("the disk gives the bytes"), unit);
    }
}

/// Adds up wall time, and the CPU time of all threads.
#[derive(Default)]
struct Meter {
    bytes: u64,
    wall: Duration,
    cpu: Duration,
}

impl Meter {
    fn measure(&mut self, bytes: u64, work: impl FnOnce()) -> Duration {
        let cpu = cpu_time();
        let start = Instant::now();
        work();
        let wall = start.elapsed();
        self.cpu += cpu_time().saturating_sub(cpu);
        self.wall += wall;
        self.bytes += bytes;
        wall
    }

    fn gib(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 30)
    }

    fn tell(&self, name: &str) {
        if self.bytes > 0 {
            println!("{name}: {:.3} CPU s/GiB", self.cpu.as_secs_f64() / self.gib());
        }
    }
}

/// Of all threads of the process, the kernel's workers for `io_uring` included.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn writes(criterion: &mut Criterion, bench: &Bench) {
    for contender in contenders() {
        let mut group = criterion.benchmark_group(format!("write/{}", contender.name()));
        group.throughput(Throughput::Bytes(bench.size)).sampling_mode(SamplingMode::Flat);
        for way in Way::all() {
            if way.direct && !bench.direct {
                continue;
            }
            let work = Work { size: bench.size, unit: way.unit, depth: way.depth };
            let mut meter = Meter::default();
            group.bench_function(way.name(), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut wall = Duration::ZERO;
                    for _ in 0..rounds {
                        let file = bench.open(0, way.direct, true);
                        if way.sized {
                            file.set_len(bench.size).expect("the length is set");
                        }
                        wall += meter.measure(bench.size, || bench.write(&contender, &[file], work, way.durable));
                    }
                    wall
                });
            });
            meter.tell(&format!("write/{}/{}", contender.name(), way.name()));
        }
        group.finish();
    }
}

fn reads(criterion: &mut Criterion, bench: &Bench) {
    for contender in contenders() {
        let mut group = criterion.benchmark_group(format!("read/{}", contender.name()));
        group.throughput(Throughput::Bytes(bench.size)).sampling_mode(SamplingMode::Flat);
        let files = [bench.open(0, false, true)];
        let work = Work { size: bench.size, unit: BLOCK, depth: 4 };
        bench.write(&contender, &files, work, true);
        for depth in [1, 4] {
            let mut meter = Meter::default();
            let name = format!("cached-{}k-x{depth}", BLOCK >> 10);
            group.bench_function(&name, |bencher| {
                bencher.iter_custom(|rounds| {
                    let read = || bench.read(&contender, &files, Work { depth, ..work });
                    (0..rounds).map(|_| meter.measure(bench.size, read)).sum()
                });
            });
            meter.tell(&format!("read/{}/{name}", contender.name()));
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let bench = Bench::new();
    writes(&mut criterion, &bench);
    reads(&mut criterion, &bench);
    // The table is no bench of criterion's, whose filter is the first word that is no option.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filter = words.iter().find(|word| !word.starts_with('-'));
    if words.iter().any(|word| word == "--bench") && filter.is_none_or(|filter| filter == "beside") {
        beside::table(&bench);
    }
    criterion.final_summary();
}
