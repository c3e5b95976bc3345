//! What is printed: the machine, and one table, a line for each thing measured, with its target.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::servers::{Cost, nginx_version};

/// How far above 1 a ratio may be to pass as equal, if single pairs of runs are on both sides of 1.
const NOISE: f64 = 1.05;

/// The runs of one server.
#[derive(Default)]
pub(crate) struct Runs(Vec<Cost>);

impl Runs {
    /// Adds a run.
    pub(crate) fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// Wall times in seconds.
    pub(crate) fn walls(&self) -> Vec<f64> {
        self.0.iter().map(|cost| cost.wall.as_secs_f64()).collect()
    }

    /// CPU time in seconds for each GiB of `size`.
    pub(crate) fn cpus(&self, size: u64) -> Vec<f64> {
        self.0.iter().map(|cost| cost.cpu.as_secs_f64() / gib(size)).collect()
    }

    /// Units of work per second, when a run does `amount` of them.
    pub(crate) fn rates(&self, amount: f64) -> Vec<f64> {
        self.0.iter().map(|cost| amount / cost.wall.as_secs_f64()).collect()
    }
}

/// A size in GiB.
pub(crate) fn gib(size: u64) -> f64 {
    size as f64 / f64::from(1 << 30)
}

/// The middle of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// How long some waits were.
pub(crate) struct Waits(Vec<Duration>);

impl Waits {
    /// At least one wait.
    pub(crate) fn of(mut waits: Vec<Duration>) -> Result<Self> {
        anyhow::ensure!(!waits.is_empty(), "nothing was waited for");
        waits.sort();
        Ok(Self(waits))
    }

    /// The wait that this share of them did not exceed, in milliseconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[(last as f64 * share).ceil() as usize].as_secs_f64() * 1e3
    }

    fn cell(&self) -> String {
        let [half, most, worst] = [0.5, 0.99, 1.0].map(|share| self.quantile(share));
        format!("{half:.2} / {most:.2} / {worst:.2}")
    }
}

/// What a figure is to be.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// A ratio of 1 or less, within noise.
    NoWorse,
    /// Printed for comparison only.
    Open,
}

impl Bound {
    fn cell(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}{unit}", brief(most)),
            Self::AtLeast(least) => format!(">= {}{unit}", brief(least)),
            Self::NoWorse => format!("<= 1.0{unit} within noise"),
            Self::Open => "-".to_owned(),
        }
    }

    /// Whether a figure is within it; `least` is the least of the single pairs of runs that the figure comes from.
    fn verdict(self, figure: f64, least: f64) -> &'static str {
        match self {
            Self::AtMost(most) if figure <= most => "yes",
            Self::AtLeast(at_least) if figure >= at_least => "yes",
            Self::NoWorse if figure <= 1.0 => "yes",
            Self::NoWorse if figure <= NOISE && least < 1.0 => "yes, within noise",
            Self::Open => "-",
            _ => "NO",
        }
    }
}

/// What a line of the table is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The work, a row of the targets.
    pub(crate) work: &'a str,
    /// The client's name.
    pub(crate) client: &'a str,
    /// What is measured, with its unit.
    pub(crate) measure: &'a str,
}

/// The table, as far as it is printed.
#[derive(Default)]
pub(crate) struct Report {
    reached: u32,
    targets: u32,
}

impl Report {
    /// Prints the table's head.
    pub(crate) fn begin() {
        println!("| work | client | measure | longshore | beside it | figure | target | reached |");
        println!("|---|---|---|---|---|---|---|---|");
    }

    /// The CPU and wall times of two servers at the same work on `size` bytes: the CPU as a ratio, ours to theirs, and
    /// the wall as a ratio too, or as how many times we are faster.
    pub(crate) fn costs(
        &mut self,
        row: (&str, &str),
        size: u64,
        ours: &Runs,
        beside: (&str, &Runs),
        bounds: [Bound; 2],
    ) {
        let ((work, client), (name, theirs), [cpu, wall]) = (row, beside, bounds);
        let subject = |measure| Subject { work, client, measure };
        self.ratio(subject("CPU s/GiB"), &ours.cpus(size), (name, &theirs.cpus(size)), 3, cpu);
        if let Bound::AtLeast(_) = wall {
            self.times_faster(subject("wall s"), &ours.walls(), (name, &theirs.walls()), wall);
        } else {
            self.ratio(subject("wall s"), &ours.walls(), (name, &theirs.walls()), 2, wall);
        }
    }

    /// The ratio of two medians, ours to theirs.
    pub(crate) fn ratio(
        &mut self,
        subject: Subject<'_>,
        ours: &[f64],
        (name, theirs): (&str, &[f64]),
        digits: usize,
        bound: Bound,
    ) {
        let figure = median(ours) / median(theirs);
        let least = ours.iter().zip(theirs).map(|(our, their)| our / their).fold(f64::INFINITY, f64::min);
        let beside = format!("{name} {}", spread(theirs, digits));
        self.line(subject, &spread(ours, digits), &beside, figure, least, "x", bound);
    }

    /// How many times as long they take.
    fn times_faster(&mut self, subject: Subject<'_>, ours: &[f64], (name, theirs): (&str, &[f64]), bound: Bound) {
        let figure = median(theirs) / median(ours);
        let beside = format!("{name} {}", spread(theirs, 2));
        self.line(subject, &spread(ours, 2), &beside, figure, figure, "x faster", bound);
    }

    /// A figure that is no ratio of medians; `beside` says what it is compared with.
    pub(crate) fn figure(
        &mut self,
        subject: Subject<'_>,
        ours: &str,
        beside: &str,
        (figure, unit): (f64, &str),
        bound: Bound,
    ) {
        self.line(subject, ours, beside, figure, figure, unit, bound);
    }

    /// Waits, of which the 99th percentile has a bound in milliseconds.
    pub(crate) fn waits(&mut self, work: &str, client: &str, ours: &Waits, beside: &[(&str, &Waits)], bound: Bound) {
        let cells: Vec<String> = beside.iter().map(|(name, waits)| format!("{name} {}", waits.cell())).collect();
        let beside = cells.join("; ");
        let subject = Subject { work, client, measure: "ms: p50 / p99 / worst" };
        let figure = ours.quantile(0.99);
        self.line(subject, &ours.cell(), &beside, figure, figure, " ms p99", bound);
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of the table")]
    fn line(&mut self, of: Subject<'_>, ours: &str, beside: &str, figure: f64, least: f64, unit: &str, bound: Bound) {
        let verdict = bound.verdict(figure, least);
        if !matches!(bound, Bound::Open) {
            self.targets += 1;
            self.reached += u32::from(verdict != "NO");
        }
        let Subject { work, client, measure } = of;
        let target = bound.cell(unit);
        println!("| {work} | {client} | {measure} | {ours} | {beside} | {figure:.2}{unit} | {target} | {verdict} |");
    }

    /// Prints how many targets were reached.
    pub(crate) fn end(&self) {
        println!("\n{} of {} targets reached.", self.reached, self.targets);
    }
}

/// A median with the least and the most.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.digits$} ({least:.digits$}-{most:.digits$})", median(values))
}

/// A bound without needless zeros, but with one digit after the point where it has any.
fn brief(value: f64) -> String {
    if value.fract() == 0.0 && value >= 10.0 { format!("{value:.0}") } else { format!("{value:?}") }
}

/// What the numbers were measured on.
pub(crate) fn machine(dir: &Path, size: u64, runs: u32, imageio: Option<&str>) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory: u64 = memory.split_whitespace().nth(1).context("no MemTotal")?.parse()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let curl = said("curl")?;
    let fio = said("fio")?;
    let sha = if cpus.contains(" sha_ni") { "SHA instructions" } else { "no SHA instructions" };
    Ok(format!(
        "- machine: {}, {} cores, {sha}, {} GiB, load {} at the start\n- kernel {}, {}\n\
         - {}, curl {}, {}{}\n\
         - image: {:.2} GiB; {runs} runs of each, interleaved; median (least-most); CPU is the server's, all threads\n",
        model.trim_start_matches([' ', '\t', ':']),
        std::thread::available_parallelism()?,
        memory >> 20,
        load.split(' ').next().unwrap_or("?"),
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        file_system(dir)?,
        nginx_version()?,
        curl.split(' ').nth(1).unwrap_or("?"),
        fio.trim(),
        imageio.map_or(String::new(), |version| format!(", ovirt-imageio {version}")),
        gib(size),
    ))
}

/// What a program says of its version.
fn said(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output().with_context(|| format!("no {program} here"))?;
    Ok(String::from_utf8(output.stdout)?)
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
