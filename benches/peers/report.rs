//! What is printed: the machine, and a row for each work and client.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::peer::{self, Cost};

/// The runs of one server in one row.
#[derive(Default)]
pub(crate) struct Runs(Vec<Cost>);

impl Runs {
    /// Adds a run.
    pub(crate) fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    fn walls(&self) -> Spread {
        Spread::of(self.0.iter().map(|cost| cost.wall.as_secs_f64()))
    }

    fn cpus(&self, size: u64) -> Spread {
        let gib = size as f64 / f64::from(1 << 30);
        Spread::of(self.0.iter().map(|cost| cost.cpu.as_secs_f64() / gib))
    }
}

/// A median with the least and the most.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }

    fn cell(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.least, self.most)
    }
}

/// The table's head.
pub(crate) const HEAD: &str = "\
| work | client | longshore wall s | longshore CPU s/GiB | nginx wall s | nginx CPU s/GiB | wall ratio | CPU ratio | longshore peak RSS |
|---|---|---|---|---|---|---|---|---|";

/// One row of the table; ratios are longshore's median over nginx's, so that less than 1 is better than nginx.
pub(crate) fn row(work: &str, client: &str, size: u64, longshore: &Runs, nginx: &Runs, peak: u64) -> String {
    let (ours, theirs) = (longshore.walls(), nginx.walls());
    let (our_cpu, their_cpu) = (longshore.cpus(size), nginx.cpus(size));
    format!(
        "| {work} | {client} | {} | {} | {} | {} | {:.2} | {:.2} | {} MiB |",
        ours.cell(2),
        our_cpu.cell(3),
        theirs.cell(2),
        their_cpu.cell(3),
        ours.median / theirs.median,
        our_cpu.median / their_cpu.median,
        peak >> 20,
    )
}

/// What the numbers were measured on.
pub(crate) fn machine(dir: &Path, size: u64, runs: usize) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory: u64 = memory.split_whitespace().nth(1).context("no MemTotal")?.parse()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let curl = String::from_utf8(Command::new("curl").arg("--version").output()?.stdout)?;
    Ok(format!(
        "- machine: {}, {} cores, {} GiB, load {} at the start\n- kernel {}, {}\n- {}, curl {}\n\
         - image: {:.2} GiB; {runs} runs of each, interleaved; median (least-most); CPU is the server's, all threads\n",
        model.trim_start_matches([' ', '\t', ':']),
        std::thread::available_parallelism()?,
        memory >> 20,
        load.split(' ').next().unwrap_or("?"),
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        file_system(dir)?,
        peer::nginx_version()?,
        curl.split(' ').nth(1).unwrap_or("?"),
        size as f64 / f64::from(1 << 30),
    ))
}

/// The type and device of the mount that holds `dir`: `proc_pid_mountinfo(5)`.
fn file_system(dir: &Path) -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let dir = dir.canonicalize()?;
    let holding = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = Path::new(left.split(' ').nth(4)?);
        dir.starts_with(point).then_some((point.components().count(), right))
    });
    // The last of the deepest: a later mount on the same point hides the earlier.
    let (_, mount) = holding.max_by_key(|(depth, _)| *depth).context("no mount holds the folder")?;
    let mut words = mount.split(' ');
    Ok(format!("{} on {}", words.next().unwrap_or("?"), words.next().unwrap_or("?")))
}
