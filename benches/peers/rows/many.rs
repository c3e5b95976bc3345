//! Many uploads and downloads at once: what they move together, how fairly, and in how much memory.
//!
//! Fairness is told by the bytes that each stream moves within one window of time in which all of them move, not by
//! when streams of equal length end: those that end first leave their share to the others, and downloads, which need no
//! disk, are over while the uploads have hardly begun.

use std::fs::File;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::{Host, Streams, beside_streams};
use crate::Bench;
use crate::client::Client;
use crate::http::Connection;
use crate::process;
use crate::report::{Bound, Report, Runs, Subject, gib, median, spread};
use crate::servers::{Cost, Peer as _};

/// Longshore's default memory for the data of all transfers.
const BUDGET: u64 = 128 << 20;

/// What Longshore may take beside it for the digests of passwords: two at once, of 19 MiB each.
const DIGESTS: u64 = 38 << 20;

/// One transfer of a stream whose share is measured: large enough to fill a connection's buffers many times, small
/// enough that the last ones end soon after the window.
pub(crate) const PART: u64 = 16 << 20;

/// In which the streams' shares are measured.
const WINDOW: Duration = Duration::from_secs(4);

/// One run of all streams.
struct Crowd {
    cost: Cost,
    made: Vec<String>,
}

/// All runs of a server.
#[derive(Default)]
struct Together {
    costs: Runs,
    ups: Vec<f64>,
    downs: Vec<f64>,
}

impl Together {
    fn push(&mut self, cost: Cost, [up, down]: [f64; 2]) {
        self.costs.push(cost);
        self.ups.push(up);
        self.downs.push(down);
    }
}

/// Half of the bytes go up and half down. Alone, one stream uploads the image and then downloads it; in the crowd, each
/// stream uploads or downloads its own equal part of the image, all at once. So both move twice the image.
pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (path, _) = bench.image(0.0)?;
    let (size, streams) = (bench.args.size, bench.args.streams);
    let key = bench.longshore.upload(Client::Fast, &path)?.0;
    bench.longshore.compare(&key, &path)?;
    let image = File::open(&path)?;
    let their_key = bench.nginx.upload(Client::Fast, &path)?.0;
    bench.nginx.compare(&their_key, &path)?;
    let (host, nginx) = (Host::longshore(&bench.longshore), Host::nginx(&bench.nginx));
    let mut single = Runs::default();
    let (mut ours, mut theirs, mut peak) = (Together::default(), Together::default(), 0);
    for run in 0..=bench.args.runs {
        bench.settle()?;
        let (alone, up) = bench.longshore.upload(Client::Fast, &path)?;
        bench.longshore.remove(&alone)?;
        let down = bench.longshore.download(Client::Fast, &key, size)?;
        bench.settle()?;
        process::forget_peak_memory(host.pid)?;
        let together = rush(&host, &key, &image, streams)?;
        peak = peak.max(process::peak_memory(host.pid)?);
        host.remove(&together.made)?;
        bench.settle()?;
        let shares = unfairness(&host, &key, &image, streams)?;
        bench.settle()?;
        let beside = rush(&nginx, &their_key, &image, streams)?;
        nginx.remove(&beside.made)?;
        bench.settle()?;
        let their_shares = unfairness(&nginx, &their_key, &image, streams)?;
        if run > 0 {
            single.push(Cost { wall: up.wall + down.wall, cpu: up.cpu + down.cpu });
            ours.push(together.cost, shares);
            theirs.push(beside.cost, their_shares);
        }
    }
    bench.nginx.remove(&their_key)?;
    bench.longshore.remove(&key)?;

    let work = format!("{streams} uploads + {streams} downloads");
    let subject = |measure| Subject { work: &work, client: Client::Fast.name(), measure };
    let moved = 2 * size;
    let gibs = gib(moved);
    let (alone, rates, beside) = (single.rates(gibs), ours.costs.rates(gibs), theirs.costs.rates(gibs));
    let report = &mut bench.report;
    report.ratio(subject("GiB/s together"), &rates, ("one stream", &alone), 2, Bound::AtLeast(1.0));
    report.ratio(subject("GiB/s together"), &rates, ("nginx", &beside), 2, Bound::Open);
    let cpus = ours.costs.cpus(moved);
    report.ratio(subject("CPU s/GiB"), &cpus, ("one stream", &single.cpus(moved)), 3, Bound::Open);
    report.ratio(subject("CPU s/GiB"), &cpus, ("nginx", &theirs.costs.cpus(moved)), 3, Bound::Open);
    for (of, unfair, theirs) in [("an upload", ours.ups, theirs.ups), ("a download", ours.downs, theirs.downs)] {
        let (figure, beside) = (median(&unfair), format!("nginx {}", spread(&theirs, 2)));
        let what = format!("bytes of {of} in {} s while all move: most / least", WINDOW.as_secs());
        let subject = Subject { work: &work, client: Client::Fast.name(), measure: &what };
        report.figure(subject, &spread(&unfair, 2), &beside, (figure, "x"), Bound::AtMost(2.0));
    }
    memory(report, subject("peak RSS, MiB"), (peak, bench.longshore.idle_memory()));
    Ok(())
}

/// Longshore's peak of memory against what it may take.
pub(super) fn memory(report: &mut Report, subject: Subject<'_>, (peak, idle): (u64, u64)) {
    let mib = |bytes: u64| bytes >> 20;
    let beside = format!("{} idle, {} of blocks, {} of password digests", mib(idle), mib(BUDGET), mib(DIGESTS));
    let bound = Bound::AtMost(mib(idle + BUDGET + DIGESTS) as f64);
    report.figure(subject, &mib(peak).to_string(), &beside, (mib(peak) as f64, " MiB"), bound);
}

/// Starts all streams at one moment, and waits for the last.
fn rush(host: &Host, key: &str, image: &File, streams: u64) -> Result<Crowd> {
    let part = image.metadata()?.len() / streams;
    let link = host.link(key)?;
    let start = Barrier::new(2 * streams as usize + 1);
    // A stream that cannot connect waits for the others all the same, or they would wait for it for ever.
    let connect = || {
        let connection = Connection::open(&host.server);
        start.wait();
        connection
    };
    let up = |at: u64| {
        let made = host.upload(&mut connect()?, image, at * part..(at + 1) * part)?;
        anyhow::Ok(Some(made))
    };
    let down = |at: u64| {
        connect()?.download(&link, Some(at * part), part)?;
        anyhow::Ok(None)
    };
    std::thread::scope(|scope| {
        let (up, down) = (&up, &down);
        let ups: Vec<_> = (0..streams).map(|at| scope.spawn(move || up(at))).collect();
        let downs: Vec<_> = (0..streams).map(|at| scope.spawn(move || down(at))).collect();
        let cpu = process::cpu_of(host.pid)?;
        start.wait();
        let (from, mut flushes) = (Instant::now(), Duration::ZERO);
        let mut made = Vec::new();
        for stream in ups.into_iter().chain(downs) {
            if let Some(upload) = stream.join().map_err(|_| anyhow::anyhow!("a client panicked"))?? {
                made.push(upload.path);
                flushes += upload.flush;
            }
        }
        let cost = Cost { wall: from.elapsed(), cpu: process::cpu_of(host.pid)?.saturating_sub(cpu) + flushes };
        ensure!(made.len() as u64 == streams, "an upload is missing");
        Ok(Crowd { cost, made })
    })
}

/// The most that a stream moved in the window against the least, of the uploads and of the downloads.
fn unfairness(host: &Host, key: &str, image: &File, each: u64) -> Result<[f64; 2]> {
    let streams = Streams { each, up: PART, down: PART };
    let [before, after] = beside_streams(host, key, image, streams, |moved| {
        let before = moved.now();
        std::thread::sleep(WINDOW);
        Ok([before, moved.now()])
    })?;
    let ratio = |of: usize| {
        let shares = || before[of].iter().zip(&after[of]).map(|(before, after)| (after - before) as f64);
        shares().fold(0.0, f64::max) / shares().fold(f64::INFINITY, f64::min)
    };
    Ok([ratio(0), ratio(1)])
}
