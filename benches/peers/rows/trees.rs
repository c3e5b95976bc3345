//! Archives that are unpacked into volumes, beside GNU tar that reads them from a pipe: durable on both sides. And
//! large files beside the same bytes as a drive, and several sessions beside one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::Client;
use crate::http::{Connection, Target};
use crate::report::{Bound, Runs, Subject};
use crate::servers::{Cost, Longshore, Peer as _};
use crate::{Bench, archive, process};

/// Sessions at once.
const SESSIONS: u32 = 10;

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let files = bench.args.files;
    let small = Archive::write(&bench.dir, files as usize)?;
    // Of a file system in memory, where there is one with room.
    let memory = tempfile::Builder::new().prefix("longshore-peers-").tempdir_in("/dev/shm").ok();
    let shares = (0..SESSIONS).map(|_| Archive::write(&bench.dir, (files / SESSIONS) as usize));
    let shares = shares.collect::<Result<Vec<_>>>()?;

    beside_tar(bench, &small, None, 1.0)?;
    if let Some(memory) = &memory {
        beside_tar(bench, &small, Some(memory.path()), 1.2)?;
    }
    several(bench, &small, &shares)?;
    large(bench)
}

/// An archive in a file.
struct Archive {
    path: PathBuf,
    files: usize,
}

impl Archive {
    fn write(dir: &Path, files: usize) -> Result<Self> {
        let path = dir.join(format!("{}.tar", Uuid::new_v4()));
        fs::write(&path, archive::make(files))?;
        Ok(Self { path, files })
    }
}

/// Small files, in an empty directory of this place or of the bench's own.
fn beside_tar(bench: &mut Bench, small: &Archive, place: Option<&Path>, target: f64) -> Result<()> {
    let dir = place.unwrap_or(&bench.dir).to_owned();
    let elsewhere = place.map(|place| Longshore::start(&place.join("longshore"), None)).transpose()?;
    let (mut ours, mut theirs) = (Runs::default(), Runs::default());
    for run in 0..=bench.args.runs {
        for at in super::turns(2, run) {
            bench.settle()?;
            let longshore = elsewhere.as_ref().unwrap_or(&bench.longshore);
            let cost = if at == 0 {
                let volume = Volumes::begin(longshore, 1)?;
                let cost = volume.fill(&[small])?;
                // On the disk not between the runs: ext4 makes files slowly for a while after many were removed.
                volume.end(place.is_some())?;
                cost
            } else {
                by_tar(small, &dir, place.is_some())?
            };
            if run > 0 {
                if at == 0 { &mut ours } else { &mut theirs }.push(cost);
            }
        }
    }
    let work = format!("{} files of 1-16 KiB, {}", small.files, if place.is_some() { "tmpfs" } else { "disk" });
    let subject = |measure| Subject { work: &work, client: Client::Fast.name(), measure };
    let [our_rates, their_rates] = [&ours, &theirs].map(|runs| runs.rates(small.files as f64));
    bench.report.ratio(subject("files/s"), &our_rates, ("tar -x", &their_rates), 0, Bound::AtLeast(target));
    let bytes = fs::metadata(&small.path)?.len();
    bench.report.ratio(subject("CPU s/GiB"), &ours.cpus(bytes), ("tar -x", &theirs.cpus(bytes)), 3, Bound::Open);
    Ok(())
}

/// Ten sessions at once, of a tenth of the files each, beside one.
fn several(bench: &mut Bench, small: &Archive, shares: &[Archive]) -> Result<()> {
    let (mut many, mut one) = (Runs::default(), Runs::default());
    for run in 0..=bench.args.runs {
        for at in super::turns(2, run) {
            bench.settle()?;
            let archives: Vec<&Archive> = if at == 0 { shares.iter().collect() } else { vec![small] };
            let volumes = Volumes::begin(&bench.longshore, archives.len())?;
            let cost = volumes.fill(&archives)?;
            volumes.end(false)?;
            if run > 0 {
                if at == 0 { &mut many } else { &mut one }.push(cost);
            }
        }
    }
    let work = format!("{} files of 1-16 KiB in {SESSIONS} sessions at once", small.files);
    let subject = Subject { work: &work, client: Client::Fast.name(), measure: "files/s" };
    let [many, one] = [many, one].map(|runs| runs.rates(small.files as f64));
    bench.report.ratio(subject, &many, ("one session", &one), 0, Bound::AtLeast(1.0));
    Ok(())
}

/// Four files of 256 MiB, beside the same archive as a drive.
fn large(bench: &mut Bench) -> Result<()> {
    let archive = Archive::write(&bench.dir, 4)?;
    let size = fs::metadata(&archive.path)?.len();
    let (mut tree, mut drive) = (Runs::default(), Runs::default());
    for run in 0..=bench.args.runs {
        for at in super::turns(2, run) {
            bench.settle()?;
            let cost = if at == 0 {
                let volume = Volumes::begin(&bench.longshore, 1)?;
                let cost = volume.fill(&[&archive])?;
                volume.end(true)?;
                cost
            } else {
                let (key, cost) = bench.longshore.upload(Client::Fast, &archive.path)?;
                bench.longshore.remove(&key)?;
                cost
            };
            if run > 0 {
                if at == 0 { &mut tree } else { &mut drive }.push(cost);
            }
        }
    }
    let row = ("4 files of 256 MiB in an archive", Client::Fast.name());
    bench.report.costs(row, size, &tree, ("as a drive", &drive), [Bound::Open, Bound::AtMost(1.1)]);
    fs::remove_file(&archive.path)?;
    Ok(())
}

/// Volumes that were begun, each in a session of its own.
struct Volumes<'a> {
    server: &'a Longshore,
    /// Names, tokens, and paths of the uploaders with their cookies.
    begun: Vec<(String, String, String)>,
}

impl<'a> Volumes<'a> {
    fn begin(server: &'a Longshore, count: usize) -> Result<Self> {
        let mut connection = Connection::open(server.root())?;
        let mut begun = Vec::new();
        for _ in 0..count {
            let name = format!("volume-{}", Uuid::new_v4());
            let body = json!({"Volume": [{"Name": name, "Source": "/x"}]}).to_string();
            let answer: Value = serde_json::from_str(&connection.send("POST", "/volumes/initialize", &body)?)?;
            let text = |value: &Value| value.as_str().map(str::to_owned).context("an answer without its texts");
            let uploader = connection.path_of(&text(&answer["Uploaders"][&name])?)?;
            let cookie = text(&answer["Cookie"])?;
            begun.push((name, text(&answer["Session"])?, format!("{uploader}?cookie={cookie}")));
        }
        Ok(Self { server, begun })
    }

    /// Uploads an archive to each, all at once; until the last is durable.
    fn fill(&self, archives: &[&Archive]) -> Result<Cost> {
        let target = Target { credentials: None, ..self.server.root().clone() };
        let start = Barrier::new(archives.len() + 1);
        let upload = |archive: &Archive, path: &str| {
            let opened = Connection::open(&target).and_then(|connection| Ok((connection, File::open(&archive.path)?)));
            start.wait();
            let (mut connection, file) = opened?;
            let len = file.metadata()?.len();
            connection.upload_as("application/x-tar", "POST", path, &file, 0..len).map(drop)
        };
        thread::scope(|scope| {
            let pairs = archives.iter().zip(&self.begun);
            let threads: Vec<_> =
                pairs.map(|(archive, (.., path))| scope.spawn(move || upload(archive, path))).collect();
            let cpu = process::cpu_of(self.server.pid())?;
            start.wait();
            let from = Instant::now();
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a client panicked"))??;
            }
            let wall = from.elapsed();
            Ok(Cost { wall, cpu: process::cpu_of(self.server.pid())?.saturating_sub(cpu) })
        })
    }

    /// Ends the sessions, and removes the volumes if that is wanted.
    fn end(self, removes: bool) -> Result<()> {
        let mut connection = Connection::open(self.server.root())?;
        for (name, token, _) in &self.begun {
            connection.send("PUT", &format!("/volumes/uploadfinish?session={token}"), "")?;
            if removes {
                connection.delete(&format!("/volumes/{name}"))?;
            }
        }
        Ok(())
    }
}

/// GNU tar, from a pipe; until what it wrote is durable.
fn by_tar(archive: &Archive, dir: &Path, removes: bool) -> Result<Cost> {
    let target = tempfile::Builder::new().prefix("tar-").disable_cleanup(!removes).tempdir_in(dir)?;
    let bytes = fs::read(&archive.path)?;
    let (reader, mut writer) = io::pipe()?;
    thread::scope(|scope| {
        // Who reads may have seen the end marker, and gone.
        scope.spawn(move || bytes.chunks(64 << 10).try_for_each(|chunk| writer.write_all(chunk)));
        let (start, cpu) = (Instant::now(), children_cpu()?);
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--preserve-permissions", "--directory"]).arg(target.path());
        ensure!(tar.stdin(Stdio::from(reader)).status()?.success(), "tar failed");
        let cpu = children_cpu()?.saturating_sub(cpu);
        rustix::fs::syncfs(File::open(target.path())?)?;
        Ok(Cost { wall: start.elapsed(), cpu })
    })
}

/// What ended children have used, in ticks of 10 ms.
fn children_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}
