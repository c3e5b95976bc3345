//! Tasks that are to run for as long as the server does.
//!
//! One that ends before, by a panic or without a word, is told of, counted and begun again after a pause. Until then
//! the server is not ready, since something that it promises is not done.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::Fault;
use crate::metrics::Metrics;

/// The pause after a first end; doubled up to [`LONGEST_PAUSE`] while they go on, so that a task which cannot run fills
/// no log.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Starts such tasks. Clones share what is known of them.
#[derive(Clone)]
pub(crate) struct Supervisor {
    tracker: TaskTracker,
    metrics: Arc<Metrics>,
    /// Tasks that have ended and were not begun again yet.
    missing: Arc<AtomicUsize>,
}

impl Supervisor {
    pub(super) fn new(tracker: TaskTracker, metrics: Arc<Metrics>) -> Self {
        Self { tracker, metrics, missing: Arc::default() }
    }

    /// Runs what `task` begins until `stop` is cancelled, which drops it.
    pub(crate) fn run<F>(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let (this, stop) = (self.clone(), stop.clone());
        self.tracker.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let began = Instant::now();
                let whole = AssertUnwindSafe(async { task().await }).catch_unwind();
                if stop.run_until_cancelled(whole).await.is_none() || stop.is_cancelled() {
                    return;
                }
                if began.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                this.metrics.task_ended(name);
                let seconds = pause.as_secs();
                tracing::error!(
                    task = name,
                    seconds,
                    "a task has ended that should not; it is begun again after a pause"
                );
                this.missing.fetch_add(1, Ordering::Relaxed);
                let is_stopped = stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none();
                this.missing.fetch_sub(1, Ordering::Relaxed);
                if is_stopped {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Whether all of them run.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.load(Ordering::Relaxed) == 0
    }
}

/// Makes a panic in `work` a failure of it. What it worked on stays as it is, so nothing in memory may be shared half
/// changed.
pub(super) async fn caught<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(Fault::internal("a panic, which is in the log")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::domain::FaultKind;

    fn supervisor() -> Supervisor {
        Supervisor::new(
            TaskTracker::new(),
            Arc::new(Metrics::new("threads", 1, &crate::metrics::DroppedLines::default())),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_is_begun_again_and_until_then_the_server_is_not_ready() {
        let (supervisor, stop, begun) = (supervisor(), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let count = begun.clone();
        supervisor.run("test", &stop, move || {
            let n = count.fetch_add(1, Ordering::Relaxed);
            async move {
                match n {
                    0 => panic!("a fault of the task"),
                    1 => {}
                    _ => std::future::pending().await,
                }
            }
        });
        let mut was_incomplete = false;
        while begun.load(Ordering::Relaxed) < 3 {
            was_incomplete |= !supervisor.is_complete();
            tokio::time::sleep(FIRST_PAUSE / 4).await;
        }
        assert!(was_incomplete && supervisor.is_complete());
        assert!(supervisor.metrics.render(0).contains("longshore_task_ends_total{task=\"test\"} 2"));
        stop.cancel();
        supervisor.tracker.close();
        supervisor.tracker.wait().await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_panic_of_a_job_is_a_failure_of_it() {
        let fault = caught::<()>(async { panic!("a fault of the job") }).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Internal);
        assert!(caught(async { Ok(1) }).await.is_ok());
    }
}
