//! Many small drives over a few connections that are kept alive, each durable before its connection takes the next.

use std::fs::File;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::load::Host;
use crate::Bench;
use crate::client::Client;
use crate::http::Connection;
use crate::process;
use crate::report::{Bound, Runs, Subject};
use crate::servers::Cost;

/// The size of each.
const DRIVE: u64 = 1 << 20;

/// Connections, each of a thread of the client.
const CONNECTIONS: usize = 8;

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (image, _) = bench.image(0.0)?;
    let image = File::open(&image)?;
    let (drives, runs) = (bench.args.drives, bench.args.runs);
    let hosts = [Host::longshore(&bench.longshore), Host::nginx(&bench.nginx)];
    let mut costs = [Runs::default(), Runs::default()];
    let mut made = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        for at in super::turns(hosts.len(), run) {
            let (host, costs, made) = (&hosts[at], &mut costs[at], &mut made[at]);
            bench.settle()?;
            let (cost, paths) = fill(host, &image, drives)?;
            made.extend(paths);
            if run > 0 {
                costs.push(cost);
            }
        }
    }
    // Not between the runs: ext4 makes files slowly for a while after many were removed.
    for (host, made) in hosts.iter().zip(&made) {
        host.remove(made)?;
    }
    let [ours, theirs] = costs;
    let work = format!("{drives} drives of 1 MiB, {CONNECTIONS} connections");
    let subject = |measure| Subject { work: &work, client: Client::Fast.name(), measure };
    let [our_rates, their_rates] = [&ours, &theirs].map(|runs| runs.rates(f64::from(drives)));
    let bytes = u64::from(drives) * DRIVE;
    bench.report.ratio(subject("drives/s"), &our_rates, ("nginx", &their_rates), 0, Bound::AtLeast(2.0));
    bench.report.ratio(subject("CPU s/GiB"), &ours.cpus(bytes), ("nginx", &theirs.cpus(bytes)), 3, Bound::Open);
    Ok(())
}

/// Uploads `drives` drives; the cost is the server's, and the client's flushes where it has to make them.
fn fill(host: &Host, image: &File, drives: u32) -> Result<(Cost, Vec<String>)> {
    let parts = image.metadata()?.len() / DRIVE;
    let next = AtomicU32::new(0);
    let start = Barrier::new(CONNECTIONS + 1);
    let stream = || {
        let connection = Connection::open(&host.server);
        start.wait();
        let mut connection = connection?;
        let (mut made, mut flushes) = (Vec::new(), Duration::ZERO);
        loop {
            let drive = next.fetch_add(1, Ordering::Relaxed);
            if drive >= drives {
                return anyhow::Ok((made, flushes));
            }
            let at = u64::from(drive) % parts * DRIVE;
            let uploaded = host.upload(&mut connection, image, at..at + DRIVE)?;
            made.push(uploaded.path);
            flushes += uploaded.flush;
        }
    };
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(stream)).collect();
        let cpu = process::cpu_of(host.pid)?;
        start.wait();
        let from = Instant::now();
        let (mut made, mut flushes) = (Vec::new(), Duration::ZERO);
        for stream in streams {
            let (paths, cpu) = stream.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            made.extend(paths);
            flushes += cpu;
        }
        let wall = from.elapsed();
        Ok((Cost { wall, cpu: process::cpu_of(host.pid)?.saturating_sub(cpu) + flushes }, made))
    })
}
