//! Uploads whose SHA-256 the client asserts: one core's SHA-256 is all that may limit them, and others go on beside.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use crate::Bench;
use crate::client::Client;
use crate::report::{Bound, Runs, Subject, gib};
use crate::servers::{Cost, Peer as _};

/// How long the digest alone is measured before each run.
const ALONE: Duration = Duration::from_secs(1);

/// Without SHA instructions a core digests 0.2 GiB/s; a larger image would tell the same, only later.
const MOST: u64 = 1 << 30;

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let (image, _) = bench.image_of(bench.args.size.min(MOST), 0.0)?;
    let digest = format!("Repr-Digest: sha-256=:{}:", digest_of(&image)?);
    for client in bench.args.clients.clone() {
        asserted(bench, client, &image, &digest)?;
    }
    beside_another(bench, &image, &digest)
}

/// The wall of an upload against the time that the same code takes on one core for as many bytes, hot in cache.
fn asserted(bench: &mut Bench, client: Client, image: &Path, digest: &str) -> Result<()> {
    let size = fs::metadata(image)?.len();
    let work = format!("upload of {:.1} GiB, SHA-256 asserted", gib(size));
    let (mut alone, mut plain, mut asserted) = (Runs::default(), Runs::default(), Runs::default());
    for run in 0..=bench.args.runs {
        let wall = Duration::from_secs_f64(size as f64 / digest_rate());
        bench.settle()?;
        let (key, without) = bench.longshore.upload_with(client, image, None)?;
        bench.longshore.remove(&key)?;
        bench.settle()?;
        let (key, with) = bench.longshore.upload_with(client, image, Some(digest))?;
        bench.longshore.remove(&key)?;
        if run > 0 {
            alone.push(Cost { wall, cpu: wall });
            plain.push(without);
            asserted.push(with);
        }
    }
    let subject = Subject { work: &work, client: client.name(), measure: "wall s" };
    let walls = asserted.walls();
    bench.report.ratio(subject, &walls, ("SHA-256 on one core", &alone.walls()), 2, Bound::AtMost(1.1));
    bench.report.ratio(subject, &walls, ("without it", &plain.walls()), 2, Bound::Open);
    let subject = Subject { measure: "CPU s/GiB", ..subject };
    bench.report.ratio(subject, &asserted.cpus(size), ("without it", &plain.cpus(size)), 3, Bound::Open);
    Ok(())
}

/// A plain upload at the same time as one that is digested, against the same at the same time as another plain one.
/// Both pairs compete for the same cores and disk, so what differs is what the digest does to a bystander.
fn beside_another(bench: &mut Bench, image: &Path, digest: &str) -> Result<()> {
    let (mut beside_plain, mut beside_digested) = (Runs::default(), Runs::default());
    for run in 0..=bench.args.runs {
        for (header, runs) in [(None, &mut beside_plain), (Some(digest), &mut beside_digested)] {
            bench.settle()?;
            let longshore = &bench.longshore;
            let (ours, other) = std::thread::scope(|scope| {
                let other = scope.spawn(|| longshore.upload_with(Client::Fast, image, header));
                let ours = longshore.upload_with(Client::Fast, image, None);
                (ours, other.join())
            });
            let (other, _) = other.ok().context("a client panicked")??;
            let (key, cost) = ours?;
            bench.longshore.remove(&key)?;
            bench.longshore.remove(&other)?;
            if run > 0 {
                runs.push(cost);
            }
        }
    }
    let work = "plain upload beside a digested one";
    let subject = Subject { work, client: Client::Fast.name(), measure: "wall s" };
    let theirs = beside_plain.walls();
    bench.report.ratio(subject, &beside_digested.walls(), ("beside a plain one", &theirs), 2, Bound::AtMost(1.1));
    Ok(())
}

/// Bytes per second of SHA-256 on one core, with the code that the server uses.
fn digest_rate() -> f64 {
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < ALONE {
        black_box(Sha256::digest(black_box(&block)));
        bytes += block.len();
    }
    bytes as f64 / start.elapsed().as_secs_f64()
}

fn digest_of(image: &Path) -> Result<String> {
    let (mut file, mut digest, mut part) = (File::open(image)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        let len = file.read(&mut part)?;
        if len == 0 {
            return Ok(base64::engine::general_purpose::STANDARD.encode(digest.finalize()));
        }
        digest.update(&part[..len]);
    }
}
