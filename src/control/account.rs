//! Books a transfer when it ends: one log line, and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::VolumeId;
use crate::metrics::{Direction, DirectionLabel, Ending, Metrics};
use crate::transfer::{Progress, Running};

/// A transfer that is booked when this is dropped.
pub(crate) struct Account {
    metrics: Arc<Metrics>,
    running: Running,
    direction: Direction,
    volume: VolumeId,
    /// The bytes that make it complete, where they alone decide.
    whole: Option<u64>,
    complete: AtomicBool,
    /// The request's span, so that the line carries its id wherever the transfer ends.
    span: tracing::Span,
}

impl Account {
    /// Opens the account of a transfer that has just begun.
    pub(crate) fn open(metrics: &Arc<Metrics>, running: Running, direction: Direction, volume: VolumeId) -> Self {
        metrics.transfers_running.get_or_create(&DirectionLabel { direction }).inc();
        let span = tracing::Span::current();
        let complete = AtomicBool::new(false);
        Self { metrics: metrics.clone(), running, direction, volume, whole: None, complete, span }
    }

    /// The transfer is complete exactly when it has moved this many bytes, whole messages included.
    #[must_use]
    pub(crate) fn whole_at(mut self, bytes: u64) -> Self {
        self.whole = Some(bytes);
        self
    }

    /// The transfer is complete, unless the bytes that were moved decide.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// The transfer.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.running.progress
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let progress = &self.running.progress;
        let (bytes, waits, seconds) = (progress.bytes(), progress.phases(), progress.elapsed().as_secs_f64());
        let complete = self.whole.map_or(self.complete.load(Ordering::Relaxed), |whole| bytes >= whole);
        // A transport's count has the head of the answer too.
        let bytes = self.whole.map_or(bytes, |whole| bytes.min(whole));
        let ending = if complete { Ending::Complete } else { Ending::Failed };
        self.metrics.transfers_running.get_or_create(&DirectionLabel { direction: self.direction }).dec();
        self.metrics.transfer_ended(self.direction, ending, bytes, waits);
        let share = |wait: std::time::Duration| (wait.as_secs_f64() / seconds.max(1e-9) * 1000.0).round() / 1000.0;
        self.span.in_scope(|| {
            tracing::info!(
                drive = %self.volume,
                direction = self.direction.name(),
                complete,
                stopped = progress.stopped().map(|why| format!("{why:?}")),
                bytes,
                seconds = (seconds * 1000.0).round() / 1000.0,
                wait_peer = share(waits.peer),
                wait_digest = share(waits.digest),
                wait_disk = share(waits.disk),
                wait_memory = share(waits.memory),
                "transfer"
            );
        });
    }
}
