//! A download from the disk: beside nginx, beside what fio reads from the same file, and what others notice of it.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::load::Host;
use super::whole::downloads;
use crate::Bench;
use crate::client::Client;
use crate::http::Connection;
use crate::report::{Bound, Subject, Waits, gib};
use crate::servers::Peer;

/// What others ask for, of a drive that is in the page cache.
const PART: u64 = 64 << 10;

/// The size of that drive.
const OTHER: u64 = 64 << 20;

/// Between two requests of others, so that they are no load themselves.
const PAUSE: Duration = Duration::from_millis(2);

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (work, (image, _)) = ("download, disk", bench.image(0.0)?);
    let mut keys = Vec::new();
    let peers: [&mut dyn Peer; 2] = [&mut bench.longshore, &mut bench.nginx];
    for peer in peers {
        let (key, _) = peer.upload(Client::Fast, &image)?;
        peer.compare(&key, &image)?;
        keys.push(key);
    }
    let (size, file) = (bench.args.size, bench.longshore.file(&keys[0]));
    for client in bench.args.clients.clone() {
        let mut disk = Vec::new();
        let peers: [&mut dyn Peer; 2] = [&mut bench.longshore, &mut bench.nginx];
        let runs = downloads(&peers, &keys, client, size, bench.args.runs, |peer, key| {
            if peer.name() == "longshore" {
                disk.push(fio(&file, size)?);
            }
            peer.chill(key)
        })?;
        bench.report.costs((work, client.name()), size, &runs[0], ("nginx", &runs[1]), [Bound::Open, Bound::Open]);
        let subject = Subject { work, client: client.name(), measure: "GiB/s" };
        let rates = runs[0].rates(gib(size));
        // The first is thrown away, as of the servers.
        bench.report.ratio(subject, &rates, ("fio", &disk[1..]), 2, Bound::AtLeast(0.9));
    }
    others(bench, &keys[0], &image)?;
    bench.longshore.remove(&keys[0])?;
    bench.nginx.remove(&keys[1])
}

/// GiB/s at which fio reads a file past the page cache.
fn fio(file: &Path, size: u64) -> Result<f64> {
    let output = Command::new("fio")
        .args(["--name=disk", "--rw=read", "--direct=1", "--bs=1M", "--iodepth=4", "--ioengine=io_uring"])
        .args(["--readonly", "--output-format=json"])
        .arg(format!("--size={size}"))
        .arg(format!("--filename={}", file.display()))
        .output()
        .context("fio is not installed: apt-get install --yes fio")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr).trim());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let read = said["jobs"][0]["read"]["bw_bytes"].as_f64().context("fio tells no bandwidth")?;
    Ok(read / f64::from(1 << 30))
}

/// The waits of other connections during a download from the disk, beside those during one from the page cache.
fn others(bench: &mut Bench, key: &str, image: &Path) -> Result<()> {
    let size = bench.args.size;
    let host = Host::longshore(&bench.longshore);
    let image = File::open(image)?;
    let made = host.upload(&mut Connection::open(&host.server)?, &image, 0..OTHER)?.path;
    let other = made.trim_end_matches('/').rsplit('/').next().context("a path without a UUID")?.to_owned();
    let link = host.link(&other)?;
    Connection::open(&host.server)?.download(&link, Some(0), OTHER)?;
    let (mut beside_disk, mut beside_cache) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        bench.longshore.chill(key)?;
        for waits in [&mut beside_disk, &mut beside_cache] {
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| ask(&host, &made, &link, &done));
                let cost = bench.longshore.download(Client::Fast, key, size);
                done.store(true, Ordering::Relaxed);
                waits.extend(asking.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
                cost.map(drop)
            })?;
        }
    }
    host.remove([&made])?;
    for (what, of) in [("a drive's JSON", 0), ("64 KiB of a cached drive", 1)] {
        let pick = |waits: &[[Duration; 2]]| Waits::of(waits.iter().map(|pair| pair[of]).collect());
        let (slow, fast) = (pick(&beside_disk)?, pick(&beside_cache)?);
        let work = format!("{what}, during a download from the disk");
        let beside = [("during one from the page cache", &fast)];
        bench.report.waits(&work, Client::Fast.name(), &slow, &beside, Bound::AtMost(2.0));
    }
    Ok(())
}

/// Asks for a drive's description and for a part of it, in turns, until `done`.
fn ask(host: &Host, description: &str, link: &str, done: &AtomicBool) -> Result<Vec<[Duration; 2]>> {
    let mut connection = Connection::open(&host.server)?;
    let mut waits = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        connection.ask("GET", description, "")?;
        let answer = connection.answer()?;
        connection.discard(&answer)?;
        let described = start.elapsed();
        ensure!(answer.status == 200, "the server answered {}", answer.status);
        let start = Instant::now();
        connection.download(link, Some(0), PART)?;
        waits.push([described, start.elapsed()]);
        std::thread::sleep(PAUSE);
    }
    Ok(waits)
}
