//! Unpacking beside GNU tar, and beside our own without digests: all read the same archive from a pipe, into fresh
//! directories, in turns; durable on all sides (`syncfs` after the last byte). Packing is beside it, into a pipe that
//! is thrown away.
//!
//! `cargo bench --bench unpack`, or with some of `small`, `large`, `disk`, `memory`. The disk is that of the build's
//! target directory, memory is `/dev/shm`. Each figure is a median of five with the least and the most; the first run
//! of each row is thrown away. CPU is that of the unpacking thread or of tar, not of the kernel's flushing.

#[path = "peers/archive.rs"]
mod archive;

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use longshore::tree::{
    DigestLog, Digests, LargeWrites, Limits, Owners, PackLimits, Policy, pack, remove, sync, unpack, unpack_digested,
};

const RUNS: usize = 5;

/// One run.
#[derive(Clone, Copy)]
struct Spent {
    wall: Duration,
    /// Until the last byte was written, before it was durable.
    written: Duration,
    cpu: Duration,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all = |words: [&str; 2]| !wanted.iter().any(|word| words.contains(&&**word));
    let wants = |word: &str, of: [&str; 2]| all(of) || wanted.iter().any(|wanted| wanted == word);
    let disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let memory = PathBuf::from("/dev/shm");
    println!("| what | where | by | wall s | until written s | CPU s | per s |\n|---|---|---|---|---|---|---|");
    for (name, files) in [("small", 20_000), ("large", 4)] {
        if !wants(name, ["small", "large"]) {
            continue;
        }
        let archive = archive::make(files);
        for (place, path) in [("disk", &disk), ("memory", &memory)] {
            if wants(place, ["disk", "memory"]) && path.is_dir() {
                row(name, place, path, &archive, files);
            }
        }
    }
}

fn row(name: &str, place: &str, path: &Path, archive: &[u8], files: usize) {
    let folder = tempfile::tempdir_in(path).expect("a directory");
    let whos = ["longshore", "longshore, no digests", "tar"];
    let mut spent = [const { Vec::new() }; 3];
    let mut packs = [const { Vec::new() }; 2];
    for run in 0..=RUNS {
        let target = |who: usize| folder.path().join(format!("{}-{run}", whos[who]));
        let digests = folder.path().join(format!("digests-{run}"));
        for turn in 0..3 {
            let who = (turn + run) % 3;
            fs::create_dir(target(who)).expect("a directory");
            let one = match who {
                0 => by_us(archive, &target(who), Some(&digests)),
                1 => by_us(archive, &target(who), None),
                _ => by_tar(archive, &target(who)),
            };
            if run > 0 {
                spent[who].push(one);
            }
        }
        for (who, packs) in packs.iter_mut().enumerate() {
            let stored =
                (who == 0).then(|| Digests::open(File::open(&digests).expect("the digests")).expect("the digests"));
            let one = packing(&target(who), stored.as_ref());
            if run > 0 {
                packs.push(one);
            }
        }
        if place == "memory" {
            // Not on the disk: ext4 is slow to create after it has removed much.
            for who in whos {
                let parent = File::open(folder.path()).expect("a directory");
                remove(&parent, format!("{who}-{run}").as_bytes()).expect("it is removed");
            }
        }
    }
    let per_second = |wall: f64| {
        if files < 100 {
            format!("{:.2} GiB", archive.len() as f64 / wall / f64::from(1 << 30))
        } else {
            format!("{:.0} files", files as f64 / wall)
        }
    };
    let print = |by: &str, spent: &[Spent]| {
        let column = |pick: fn(&Spent) -> Duration| {
            let mut values: Vec<f64> = spent.iter().map(|one| pick(one).as_secs_f64()).collect();
            values.sort_by(f64::total_cmp);
            (values[RUNS / 2], format!("{:.3} ({:.3}-{:.3})", values[RUNS / 2], values[0], values[RUNS - 1]))
        };
        let (wall, walls) = column(|one| one.wall);
        let (cpu, cpus) = column(|one| one.cpu);
        let (_, written) = column(|one| one.written);
        println!("| {name} | {place} | {by} | {walls} | {written} | {cpus} | {} |", per_second(wall));
        (wall, cpu)
    };
    let [(our_wall, our_cpu), _, (tar_wall, tar_cpu)] = [0, 1, 2].map(|who| print(whos[who], &spent[who]));
    print("longshore, packing", &packs[0]);
    print("longshore, packing, no digests", &packs[1]);
    println!(
        "| {name} | {place} | **tar / longshore** | **{:.2}x** | | **{:.2}x** | |",
        tar_wall / our_wall,
        tar_cpu / our_cpu
    );
}

/// Runs `work` while a thread feeds the archive into a pipe.
fn fed<T>(archive: &[u8], work: impl FnOnce(PipeReader) -> T) -> T {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || {
            // Who reads may have seen the end marker, and gone.
            let _ = archive.chunks(64 << 10).try_for_each(|chunk| writer.write_all(chunk));
        });
        work(reader)
    })
}

fn by_us(archive: &[u8], target: &Path, digests: Option<&Path>) -> Spent {
    let root = File::open(target).expect("a directory");
    let policy = Policy { owners: Owners::Keep, set_id: true, large: LargeWrites::Direct, ..Policy::default() };
    fed(archive, |reader| {
        let (start, cpu) = (Instant::now(), thread_cpu());
        let limits = Limits::of_volume(4 << 30);
        if let Some(path) = digests {
            let mut log = DigestLog::new(tempfile::tempfile);
            unpack_digested(reader, &root, &limits, &policy, &mut log).expect("it is unpacked");
            let file = File::options().read(true).write(true).create_new(true).open(path).expect("a file");
            log.finish(file).expect("the digests are written");
        } else {
            unpack(reader, &root, &limits, &policy).expect("it is unpacked");
        }
        let written = start.elapsed();
        sync(&root).expect("it is durable");
        Spent { wall: start.elapsed(), written, cpu: thread_cpu().saturating_sub(cpu) }
    })
}

fn by_tar(archive: &[u8], target: &Path) -> Spent {
    let root = File::open(target).expect("a directory");
    fed(archive, |reader| {
        let (start, cpu) = (Instant::now(), children_cpu());
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--preserve-permissions", "--directory"]).arg(target).stdin(Stdio::from(reader));
        assert!(tar.status().expect("tar runs").success());
        let written = start.elapsed();
        let cpu = children_cpu().saturating_sub(cpu);
        rustix::fs::syncfs(root.as_fd()).expect("it is durable");
        Spent { wall: start.elapsed(), written, cpu }
    })
}

fn packing(source: &Path, digests: Option<&Digests>) -> Spent {
    let root = File::open(source).expect("a directory");
    let (mut reader, writer) = io::pipe().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while reader.read(&mut buffer).expect("a pipe") > 0 {}
        });
        let (start, cpu) = (Instant::now(), thread_cpu());
        pack(&root, digests, writer, &PackLimits::default()).expect("it is packed");
        Spent { wall: start.elapsed(), written: start.elapsed(), cpu: thread_cpu().saturating_sub(cpu) }
    })
}

/// What this thread has used.
fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds"))
}

/// What ended children have used, in ticks of 10 ms.
fn children_cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("a kernel that counts");
    let fields = text.rsplit(')').next().expect("fields").split_ascii_whitespace();
    let ticks: u64 = fields.skip(13).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(10 * ticks)
}
