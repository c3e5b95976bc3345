//! Every metric: its name, unit and labels. They are passed by reference; there is no global registry.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::transfer::Phases;

/// In seconds: from a page-cache hit to a slow control call.
const LATENCY_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// The metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    /// `longshore_transfers_total`.
    transfers: Family<TransferLabels, Counter>,
    /// `longshore_transfer_bytes_total`.
    transfer_bytes: Family<DirectionLabel, Counter>,
    /// `longshore_transfer_wait_seconds_total`.
    transfer_wait: Family<WaitLabels, Counter<f64, AtomicU64>>,
    /// `longshore_transfers_running`.
    pub transfers_running: Family<DirectionLabel, Gauge>,
    /// `longshore_requests_total`.
    requests: Family<RequestLabels, Counter>,
    /// `longshore_request_seconds`: until the head of the answer is ready.
    request_seconds: Histogram,
    /// `longshore_connections`.
    pub connections: Gauge,
    /// `longshore_connections_refused_total`.
    pub connections_refused: Counter,
    /// `longshore_pool_blocks_in_use`.
    pool_in_use: Gauge,
    /// `longshore_pool_blocks_budget`.
    pool_budget: Gauge,
    /// `longshore_engine`.
    engine: Family<EngineLabel, Gauge>,
    /// `longshore_login_failures_total`.
    pub login_failures: Counter,
    /// `longshore_jobs_total`.
    jobs: Family<JobLabels, Counter>,
    /// `longshore_task_ends_total`.
    task_ends: Family<TaskLabel, Counter>,
    /// `longshore_drives_found_corrupt_total`.
    pub corrupt: Counter,
    /// `longshore_trees_found_corrupt_total`.
    pub corrupt_trees: Counter,
    /// `longshore_scrub_bytes_total`.
    pub scrubbed_bytes: Counter,
    /// `longshore_scrub_volumes_total`.
    scrubbed: Family<ScrubLabel, Counter>,
    /// `longshore_scrub_oldest_check_seconds`.
    pub oldest_check_age: Gauge,
}

/// `longshore_log_lines_dropped_total`. It counts before the other metrics exist; clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct DroppedLines(Counter);

impl DroppedLines {
    /// Adds one.
    pub(crate) fn count(&self) {
        self.0.inc();
    }

    /// Returns the count.
    #[cfg(test)]
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// Bytes come in.
    Upload,
    /// Bytes go out.
    Download,
}

/// The result of a transfer, request, job or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    /// It was completed.
    Complete,
    /// It was not completed.
    Failed,
}

/// The result of the check of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scrubbed {
    /// The volume is as it was stored.
    Whole,
    /// The volume differs from what was stored.
    Damaged,
    /// The volume could not be read.
    Failed,
}

impl Direction {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.name().encode(encoder)
    }
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
        .encode(encoder)
    }
}

impl EncodeLabelValue for Scrubbed {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Whole => "whole",
            Self::Damaged => "damaged",
            Self::Failed => "failed",
        }
        .encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransferLabels {
    direction: Direction,
    ending: Ending,
}

/// The label of a direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabel {
    /// The direction.
    pub direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    direction: Direction,
    on: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineLabel {
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrubLabel {
    found: Scrubbed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    kind: &'static str,
    ending: Ending,
}

impl Metrics {
    /// Registers all metrics of a server that uses this engine.
    pub(crate) fn new(engine: &'static str, pool_budget: usize, dropped_lines: &DroppedLines) -> Self {
        let mut registry = Registry::with_prefix("longshore");
        let metrics = Self {
            registry: Registry::default(),
            transfers: Family::default(),
            transfer_bytes: Family::default(),
            transfer_wait: Family::default(),
            transfers_running: Family::default(),
            requests: Family::default(),
            request_seconds: Histogram::new(LATENCY_BUCKETS),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            pool_in_use: Gauge::default(),
            pool_budget: Gauge::default(),
            engine: Family::default(),
            login_failures: Counter::default(),
            jobs: Family::default(),
            task_ends: Family::default(),
            corrupt: Counter::default(),
            corrupt_trees: Counter::default(),
            scrubbed_bytes: Counter::default(),
            scrubbed: Family::default(),
            oldest_check_age: Gauge::default(),
        };
        registry.register("transfers", "Transfers that ended", metrics.transfers.clone());
        registry.register("transfer_bytes", "Bytes of drives moved", metrics.transfer_bytes.clone());
        registry.register_with_unit(
            "transfer_wait",
            "Time transfers waited for their peer, a digest, the disk, or memory",
            Unit::Seconds,
            metrics.transfer_wait.clone(),
        );
        registry.register("transfers_running", "Transfers under way", metrics.transfers_running.clone());
        registry.register("requests", "Requests answered, by route", metrics.requests.clone());
        registry.register_with_unit(
            "request",
            "Time until the head of the answer was ready",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connections_refused",
            "Connections refused, because their address had its share",
            metrics.connections_refused.clone(),
        );
        registry.register("pool_blocks_in_use", "Blocks of 2 MiB held by transfers", metrics.pool_in_use.clone());
        registry.register("pool_blocks_budget", "The most blocks at once", metrics.pool_budget.clone());
        registry.register("engine", "The I/O engine in use", metrics.engine.clone());
        registry.register("login_failures", "Logins refused", metrics.login_failures.clone());
        registry.register("jobs", "Jobs that ended", metrics.jobs.clone());
        registry.register("drives_found_corrupt", "Drives whose bytes changed on disk", metrics.corrupt.clone());
        registry.register("trees_found_corrupt", "Trees whose files changed on disk", metrics.corrupt_trees.clone());
        registry.register("scrub_bytes", "Bytes read back by the scrub", metrics.scrubbed_bytes.clone());
        registry.register("scrub_volumes", "Checks that the scrub has ended", metrics.scrubbed.clone());
        registry.register_with_unit(
            "scrub_oldest_check",
            "Time since the volume was checked, or stored, that was not checked for longest",
            Unit::Seconds,
            metrics.oldest_check_age.clone(),
        );
        registry.register("task_ends", "Ends of tasks that should go on", metrics.task_ends.clone());
        registry.register("log_lines_dropped", "Lines of the log that nobody took", dropped_lines.0.clone());
        metrics.engine.get_or_create(&EngineLabel { name: engine }).set(1);
        metrics.pool_budget.set(pool_budget as i64);
        Self { registry, ..metrics }
    }

    /// Counts a transfer that ended.
    pub(crate) fn transfer_ended(&self, direction: Direction, ending: Ending, bytes: u64, waits: Phases) {
        self.transfers.get_or_create(&TransferLabels { direction, ending }).inc();
        self.transfer_bytes.get_or_create(&DirectionLabel { direction }).inc_by(bytes);
        for (on, wait) in
            [("peer", waits.peer), ("digest", waits.digest), ("disk", waits.disk), ("memory", waits.memory)]
        {
            self.transfer_wait.get_or_create(&WaitLabels { direction, on }).inc_by(wait.as_secs_f64());
        }
    }

    /// Counts an answered request.
    pub(crate) fn request_answered(&self, route: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
        self.request_seconds.observe(seconds);
    }

    /// Counts a job that ended.
    pub(crate) fn job_ended(&self, kind: &'static str, ending: Ending) {
        self.jobs.get_or_create(&JobLabels { kind, ending }).inc();
    }

    /// Counts a check of a volume that ended.
    pub(crate) fn scrubbed(&self, found: Scrubbed) {
        self.scrubbed.get_or_create(&ScrubLabel { found }).inc();
    }

    /// Counts a task that ended and must not.
    pub(crate) fn task_ended(&self, task: &'static str) {
        self.task_ends.get_or_create(&TaskLabel { task }).inc();
    }

    /// Returns all metrics in the `OpenMetrics` text format.
    pub(crate) fn render(&self, pool_in_use: usize) -> String {
        self.pool_in_use.set(pool_in_use as i64);
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
