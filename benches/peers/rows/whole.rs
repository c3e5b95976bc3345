//! Whole images, one at a time: uploads, and downloads from the page cache.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;

use crate::Bench;
use crate::client::Client;
use crate::process;
use crate::report::{Bound, Runs, Subject};
use crate::servers::{Floor, Peer};

pub(super) fn upload(bench: &mut Bench) -> Result<()> {
    let (work, (image, _)) = ("durable upload, random", bench.image(0.0)?);
    for client in bench.args.clients.clone() {
        process::forget_peak_memory(bench.longshore.pid())?;
        let mut peers: Vec<&mut dyn Peer> = vec![&mut bench.longshore, &mut bench.nginx];
        peers.extend(bench.imageio.as_mut().map(|peer| peer as &mut dyn Peer));
        let runs = uploads(&mut peers, client, &image, bench.args.runs)?;
        let (row, size) = ((work, client.name()), bench.args.size);
        bench.report.costs(row, size, &runs[0], ("nginx", &runs[1]), [Bound::AtMost(0.6), Bound::AtLeast(1.4)]);
        if let Some(imageio) = runs.get(2) {
            bench.report.costs(row, size, &runs[0], ("ovirt-imageio", imageio), [Bound::Open, Bound::Open]);
        }
        memory(bench, work, client)?;
    }
    Ok(())
}

pub(super) fn floor(bench: &mut Bench) -> Result<()> {
    let (work, (image, _)) = ("durable upload beside a bare receiver", bench.image(0.0)?);
    let mut floor = Floor::start(&bench.dir.join("floor"))?;
    for client in bench.args.clients.clone() {
        let runs = uploads(&mut [&mut bench.longshore, &mut floor], client, &image, bench.args.runs)?;
        let row = (work, client.name());
        bench.report.costs(row, bench.args.size, &runs[0], ("floor", &runs[1]), [Bound::AtMost(1.4), Bound::Open]);
    }
    Ok(())
}

pub(super) fn zeros(bench: &mut Bench) -> Result<()> {
    let (work, (image, data)) = ("durable upload, 70% zeros", bench.image(0.7)?);
    for client in bench.args.clients.clone() {
        let runs = uploads(&mut [&mut bench.longshore, &mut bench.nginx], client, &image, bench.args.runs)?;
        let bounds = [Bound::AtMost(0.5), Bound::AtLeast(2.0)];
        bench.report.costs((work, client.name()), bench.args.size, &runs[0], ("nginx", &runs[1]), bounds);
        let (key, _) = bench.longshore.upload(client, &image)?;
        bench.longshore.compare(&key, &image)?;
        // stat(2): a block of st_blocks has 512 bytes whatever the file system's are.
        let allocated = fs::metadata(bench.longshore.file(&key))?.blocks() * 512;
        bench.longshore.remove(&key)?;
        let subject = Subject { work, client: client.name(), measure: "MiB on disk" };
        let beside = format!("{} that are not zeros", data >> 20);
        let figure = (allocated as f64 / data as f64, "x");
        // The file system's own map of the file counts, too.
        bench.report.figure(subject, &(allocated >> 20).to_string(), &beside, figure, Bound::AtMost(1.01));
    }
    Ok(())
}

pub(super) fn download(bench: &mut Bench) -> Result<()> {
    let (work, (image, _)) = ("download, page cache", bench.image(0.0)?);
    let mut peers: Vec<&mut dyn Peer> = vec![&mut bench.longshore, &mut bench.nginx];
    peers.extend(bench.imageio.as_mut().map(|peer| peer as &mut dyn Peer));
    let mut keys = Vec::new();
    for peer in &mut peers {
        let (key, _) = peer.upload(Client::Fast, &image)?;
        peer.compare(&key, &image)?;
        keys.push(key);
    }
    for client in bench.args.clients.clone() {
        let runs = downloads(&peers, &keys, client, bench.args.size, bench.args.runs, |_, _| Ok(()))?;
        let (row, size) = ((work, client.name()), bench.args.size);
        bench.report.costs(row, size, &runs[0], ("nginx", &runs[1]), [Bound::NoWorse, Bound::NoWorse]);
        if let Some(imageio) = runs.get(2) {
            // It has no way to read through the page cache.
            let beside = ("ovirt-imageio, from the disk", imageio);
            bench.report.costs(row, size, &runs[0], beside, [Bound::Open, Bound::Open]);
        }
    }
    for (peer, key) in peers.iter_mut().zip(&keys) {
        peer.remove(key)?;
    }
    Ok(())
}

/// Interleaved uploads of one image, each removed after its clock has stopped.
pub(super) fn uploads(peers: &mut [&mut dyn Peer], client: Client, image: &Path, runs: u32) -> Result<Vec<Runs>> {
    let mut all: Vec<Runs> = peers.iter().map(|_| Runs::default()).collect();
    for run in 0..=runs {
        for at in super::turns(all.len(), run) {
            let (peer, runs) = (&mut peers[at], &mut all[at]);
            rustix::fs::syncfs(File::open(image)?)?;
            let (key, cost) = peer.upload(client, image)?;
            peer.remove(&key)?;
            if run > 0 {
                runs.push(cost);
            }
        }
    }
    Ok(all)
}

/// Interleaved downloads of what each peer holds under its key; `prepare` runs before each clock starts.
pub(super) fn downloads(
    peers: &[&mut dyn Peer],
    keys: &[String],
    client: Client,
    size: u64,
    runs: u32,
    mut prepare: impl FnMut(&dyn Peer, &str) -> Result<()>,
) -> Result<Vec<Runs>> {
    let mut all: Vec<Runs> = peers.iter().map(|_| Runs::default()).collect();
    for run in 0..=runs {
        for at in super::turns(all.len(), run) {
            let (peer, key, runs) = (&peers[at], &keys[at], &mut all[at]);
            prepare(&**peer, key)?;
            let cost = peer.download(client, key, size)?;
            if run > 0 {
                runs.push(cost);
            }
        }
    }
    Ok(all)
}

/// The peak of Longshore's memory since it was forgotten, against its budget.
fn memory(bench: &mut Bench, work: &str, client: Client) -> Result<()> {
    let memory = (process::peak_memory(bench.longshore.pid())?, bench.longshore.idle_memory());
    super::many::memory(&mut bench.report, Subject { work, client: client.name(), measure: "peak RSS, MiB" }, memory);
    Ok(())
}
