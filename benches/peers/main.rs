//! Longshore beside its peers on this machine: every target that the README names, measured and judged.
//!
//! `cargo bench --bench peers` prints a Markdown table. All servers store on the file system of the target folder. Runs
//! are interleaved, in one order and the other, the first of each row is thrown away, and dirty data is written back
//! before each upload, so that no server pays for another. CPU time is that of all threads of the server's process;
//! what the kernel's own threads do, such as writing back, is counted for nobody. Every server gives back the right
//! bytes before any of its downloads counts. `--rows`, `--size`, `--runs`, `--clients` and the like select; a run of
//! all with the defaults takes the better part of an hour.

mod archive;
mod client;
mod http;
mod image;
mod process;
mod report;
mod rows;
mod servers;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;

use crate::client::Client;
use crate::report::Report;
use crate::rows::Row;
use crate::servers::{Certificate, Imageio, Longshore, Nginx};

/// A smaller image would become a larger drive, and be another download than the peers'.
const LEAST_SIZE: u64 = 512 << 20;

#[derive(Parser)]
#[command(about = "Compares longshore with its peers on this machine")]
struct Args {
    /// The size of the image, such as 512MiB or 4GiB.
    #[arg(long, default_value = "4GiB", value_parser = bytes)]
    size: u64,
    /// How many runs of each server count in each row.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Which rows to measure.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Which clients move the bytes, where a row has a choice.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "curl,fast")]
    clients: Vec<Client>,
    /// How many drives a run of the small drives uploads.
    #[arg(long, default_value_t = 1000)]
    drives: u32,
    /// How many small files a tree has.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1000..))]
    files: u32,
    /// How many uploads, and how many downloads, a run of many moves at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    streams: u64,
    /// How many times each latency is taken.
    #[arg(long, default_value_t = 500)]
    samples: u32,
    /// Be the bare receiver.
    #[arg(long, hide = true)]
    floor_server: bool,
    /// Cargo says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.floor_server {
        return servers::receive_and_discard();
    }
    if args.rows.is_empty() {
        args.rows = Row::ALL.to_vec();
    }
    ensure!(args.size >= LEAST_SIZE, "a drive has at least 512 MiB");
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    fs::create_dir_all(&base)?;
    // Two of these at once would measure each other.
    let lock = File::create(base.join("lock"))?;
    lock.try_lock().context("another run of this bench is going on")?;
    let dir = base.join("run");
    // Left by a run that was killed.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let measured = Bench::start(&base, &dir, args).and_then(|mut bench| bench.run());
    fs::remove_dir_all(&dir)?;
    measured
}

/// What every row finds in place.
struct Bench {
    args: Args,
    dir: PathBuf,
    longshore: Longshore,
    nginx: Nginx,
    imageio: Option<Imageio>,
    certificate: Certificate,
    report: Report,
}

impl Bench {
    fn start(base: &Path, dir: &Path, args: Args) -> Result<Self> {
        // The image, each server's copy of it, and room for what a removal has not given back yet.
        let need = args.size * 5 + args.streams * rows::PART;
        let stat = rustix::fs::statvfs(dir)?;
        ensure!(stat.f_bavail * stat.f_frsize > need, "the target folder's disk needs {} MiB free", need >> 20);
        let certificate = Certificate::make(dir)?;
        let nginx = Nginx::start(&dir.join("nginx"), None)?;
        let longshore = Longshore::start(&dir.join("longshore"), None)?;
        let imageio = if args.rows.iter().any(|row| row.has_imageio()) {
            Imageio::start(&dir.join("imageio"), &base.join("imageio-venv"))
                .inspect_err(|error| println!("- without ovirt-imageio: {error:#}"))
                .ok()
        } else {
            None
        };
        Ok(Self { args, dir: dir.to_owned(), longshore, nginx, imageio, certificate, report: Report::default() })
    }

    fn run(&mut self) -> Result<()> {
        let imageio = self.imageio.as_ref().map(Imageio::version);
        println!("{}", report::machine(&self.dir, self.args.size, self.args.runs, imageio.as_deref())?);
        Report::begin();
        for row in self.args.rows.clone() {
            row.measure(self)?;
        }
        self.report.end();
        Ok(())
    }

    /// The image that is moved, made anew with this share of zeros; and how many of its bytes are not zeros.
    fn image(&self, zero_share: f64) -> Result<(PathBuf, u64)> {
        self.image_of(self.args.size, zero_share)
    }

    /// The same, of another size.
    fn image_of(&self, size: u64, zero_share: f64) -> Result<(PathBuf, u64)> {
        let path = self.dir.join("image");
        let data = image::make(&path, size, zero_share)?;
        Ok((path, data))
    }

    /// Writes back what is dirty, so that the next run does not pay for the last.
    fn settle(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.dir)?)?)
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
