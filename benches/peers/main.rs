//! Longshore beside a tuned nginx on this machine: wall time and server CPU of durable uploads and of downloads.
//!
//! `cargo bench --bench peers -- [--size 4GiB] [--runs 5] [--rows upload,zeros,download,cold] [--clients curl,fast]`
//! prints a Markdown table. Both servers store on the file system of the target folder. Runs are interleaved, the
//! first of each row is thrown away, and dirty data is written back before each, so that neither server pays for the
//! other. Every server gives back the right bytes before any of its downloads counts.

mod client;
mod image;
mod peer;
mod process;
mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};

use crate::client::Client;
use crate::peer::{Longshore, Nginx, Peer};
use crate::report::Runs;

#[derive(Parser)]
#[command(about = "Compares longshore with nginx on this machine")]
struct Args {
    /// The size of the image, such as 512MiB or 4GiB.
    #[arg(long, default_value = "1GiB", value_parser = bytes)]
    size: u64,
    /// How many runs of each server count in each row.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which rows to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "upload,zeros,download,cold")]
    rows: Vec<Work>,
    /// Which clients move the bytes.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "curl,fast")]
    clients: Vec<Client>,
    /// Cargo says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Random data, until it is durable.
    Upload,
    /// An image of which 70 % is zeros, until it is durable.
    Zeros,
    /// From the page cache.
    Download,
    /// From the disk, the page cache emptied of it first.
    Cold,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Upload => "durable upload, random",
            Self::Zeros => "durable upload, 70% zeros",
            Self::Download => "download, page cache",
            Self::Cold => "download, disk",
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    fs::create_dir_all(&base)?;
    // Two of these at once would measure each other.
    let lock = File::create(base.join("lock"))?;
    lock.try_lock().context("another run of this bench is going on")?;
    let dir = base.join("run");
    // Left by a run that was killed.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let measured = Bench::start(&dir, args).and_then(|mut bench| bench.run());
    fs::remove_dir_all(&dir)?;
    measured
}

struct Bench {
    args: Args,
    dir: PathBuf,
    longshore: Longshore,
    nginx: Nginx,
}

impl Bench {
    fn start(dir: &Path, args: Args) -> Result<Self> {
        // The image, each server's copy of it, and room for what a removal has not given back yet.
        let need = args.size * 4;
        let stat = rustix::fs::statvfs(dir)?;
        ensure!(stat.f_bavail * stat.f_frsize > need, "the target folder's disk needs {} MiB free", need >> 20);
        let nginx = Nginx::start(&dir.join("nginx"))?;
        let longshore = Longshore::start(&dir.join("longshore")).with_context(|| {
            let log = fs::read_to_string(dir.join("longshore/log")).unwrap_or_default();
            format!("longshore said: {log}")
        })?;
        Ok(Self { args, dir: dir.to_owned(), longshore, nginx })
    }

    fn run(&mut self) -> Result<()> {
        println!("{}", report::machine(&self.dir, self.args.size, self.args.runs as usize)?);
        println!("{}", report::HEAD);
        for work in self.args.rows.clone() {
            let image = self.dir.join("image");
            image::make(&image, self.args.size, if work == Work::Zeros { 0.7 } else { 0.0 })?;
            for client in self.args.clients.clone() {
                process::forget_peak_memory(self.longshore.pid())?;
                let (ours, theirs) = match work {
                    Work::Upload | Work::Zeros => self.uploads(client, &image)?,
                    Work::Download | Work::Cold => self.downloads(client, &image, work == Work::Cold)?,
                };
                let peak = process::peak_memory(self.longshore.pid())?;
                println!("{}", report::row(work.name(), client.name(), self.args.size, &ours, &theirs, peak));
            }
        }
        Ok(())
    }

    fn uploads(&mut self, client: Client, image: &Path) -> Result<(Runs, Runs)> {
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        for run in 0..=self.args.runs {
            let peers: [(&mut dyn Peer, &mut Runs); 2] =
                [(&mut self.longshore, &mut ours), (&mut self.nginx, &mut theirs)];
            for (peer, runs) in peers {
                rustix::fs::syncfs(File::open(&self.dir)?)?;
                let (key, cost) = peer.upload(client, image)?;
                peer.remove(&key)?;
                if run > 0 {
                    runs.push(cost);
                }
            }
        }
        Ok((ours, theirs))
    }

    fn downloads(&mut self, client: Client, image: &Path, cold: bool) -> Result<(Runs, Runs)> {
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        let our_key = self.longshore.upload(client, image)?.0;
        let their_key = self.nginx.upload(client, image)?.0;
        let peers: [(&dyn Peer, &str); 2] = [(&self.longshore, &our_key), (&self.nginx, &their_key)];
        for (peer, key) in peers {
            peer.compare(key, image)?;
        }
        for run in 0..=self.args.runs {
            for ((peer, key), runs) in peers.into_iter().zip([&mut ours, &mut theirs]) {
                if cold {
                    peer.chill()?;
                }
                let cost = peer.download(client, key, self.args.size)?;
                if run > 0 {
                    runs.push(cost);
                }
            }
        }
        for (peer, key) in peers {
            peer.remove(key)?;
        }
        Ok((ours, theirs))
    }
}

/// Reads `512MiB`, `4GiB`, or a plain number of bytes.
fn bytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text {
        _ if text.ends_with("GiB") => (&text[..text.len() - 3], 30),
        _ if text.ends_with("MiB") => (&text[..text.len() - 3], 20),
        _ => (text, 0),
    };
    let count: u64 = digits.parse().map_err(|_| anyhow!("not a size: {text}"))?;
    count.checked_shl(shift).filter(|bytes| *bytes >> shift == count && count > 0).ok_or_else(|| anyhow!("not a size"))
}
