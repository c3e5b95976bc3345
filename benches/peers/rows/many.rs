//! Many uploads and downloads at once: what they move together, how fairly, and in how much memory.

use std::fs::File;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::Host;
use crate::Bench;
use crate::client::Client;
use crate::http::Connection;
use crate::process;
use crate::report::{Bound, Runs, Subject, gib, median, spread};
use crate::servers::{Cost, Peer as _};

/// Longshore's default memory for the data of all transfers.
pub(super) const BUDGET: u64 = 128 << 20;

/// One run of all streams.
struct Crowd {
    cost: Cost,
    ups: Vec<Duration>,
    downs: Vec<Duration>,
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
    fn push(&mut self, crowd: &Crowd) {
        self.costs.push(crowd.cost);
        self.ups.push(unfairness(&crowd.ups));
        self.downs.push(unfairness(&crowd.downs));
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
        let beside = rush(&nginx, &their_key, &image, streams)?;
        nginx.remove(&beside.made)?;
        if run > 0 {
            single.push(Cost { wall: up.wall + down.wall, cpu: up.cpu + down.cpu });
            ours.push(&together);
            theirs.push(&beside);
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
    let ups = ("uploads: slowest / fastest", ours.ups, theirs.ups);
    for (what, unfair, theirs) in [ups, ("downloads: slowest / fastest", ours.downs, theirs.downs)] {
        let (figure, beside) = (median(&unfair), format!("nginx {}", spread(&theirs, 2)));
        report.figure(subject(what), &spread(&unfair, 2), &beside, (figure, "x"), Bound::AtMost(2.0));
    }
    let idle = bench.longshore.idle_memory();
    let beside = format!("{} idle and a budget of {}", idle >> 20, BUDGET >> 20);
    let bound = Bound::AtMost(((idle + BUDGET) >> 20) as f64);
    report.figure(subject("peak RSS, MiB"), &(peak >> 20).to_string(), &beside, ((peak >> 20) as f64, " MiB"), bound);
    Ok(())
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
        connection.map(|connection| (connection, Instant::now()))
    };
    let up = |at: u64| {
        let (mut connection, from) = connect()?;
        let made = host.upload(&mut connection, image, at * part..(at + 1) * part)?;
        anyhow::Ok((from.elapsed(), Some(made)))
    };
    let down = |at: u64| {
        let (mut connection, from) = connect()?;
        connection.download(&link, Some(at * part), part)?;
        anyhow::Ok((from.elapsed(), None))
    };
    std::thread::scope(|scope| {
        let (up, down) = (&up, &down);
        let ups: Vec<_> = (0..streams).map(|at| scope.spawn(move || up(at))).collect();
        let downs: Vec<_> = (0..streams).map(|at| scope.spawn(move || down(at))).collect();
        let cpu = process::cpu_of(host.pid)?;
        start.wait();
        let (from, mut flushes) = (Instant::now(), Duration::ZERO);
        let mut crowd = Crowd { cost: Cost::default(), ups: Vec::new(), downs: Vec::new(), made: Vec::new() };
        for stream in ups.into_iter().chain(downs) {
            let (took, made) = stream.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            match made {
                Some(made) => {
                    crowd.ups.push(took);
                    crowd.made.push(made.path);
                    flushes += made.flush;
                }
                None => crowd.downs.push(took),
            }
        }
        let cpu = process::cpu_of(host.pid)?.saturating_sub(cpu) + flushes;
        crowd.cost = Cost { wall: from.elapsed(), cpu };
        ensure!(crowd.made.len() as u64 == streams, "an upload is missing");
        Ok(crowd)
    })
}

fn unfairness(streams: &[Duration]) -> f64 {
    let slowest = streams.iter().max().map_or(0.0, Duration::as_secs_f64);
    slowest / streams.iter().min().map_or(1.0, Duration::as_secs_f64)
}
