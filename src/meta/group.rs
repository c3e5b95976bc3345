//! Batches that wait for the writer together share one transaction, and so one flush.
//!
//! # Invariants
//! - A batch is answered after the commit of the transaction that holds it, and its outcome is what it would have been
//!   had the batches of its group come one after the other.
//! - A batch that cannot be made true fails alone; a commit that fails is told to everyone in it, and never retried.
//!
//! # Cancellation
//! A batch whose caller went before its group was taken is left out. After that it goes on without the caller, on a
//! task of its own, and the others of its group notice nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{Sqlite, Transaction};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::batch::change;
use super::{Batch, Meta, MetaError};
use crate::domain::Volume;

/// The most batches in one transaction: enough to make the flush cheap, few enough that the first of them is answered
/// within milliseconds.
const MOST: usize = 64;

type Outcome = Result<Vec<Volume>, MetaError>;

/// What waits to be written. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    queue: Arc<Mutex<Queue>>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a task is writing, or about to: then it also writes what comes meanwhile.
    is_written: bool,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    answer: oneshot::Sender<Outcome>,
}

impl Groups {
    /// Ends when nothing waits any more; what comes later is still written, or refused by the closed database.
    pub(super) async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A push or a drain leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, without those whose callers have gone.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let most = queue.waiting.len().min(MOST);
        queue.waiting.drain(..most).filter(|waiting| !waiting.answer.is_closed()).collect()
    }

    /// Whether there is more to write; when there is not, the next that comes starts a task again.
    fn has_more(&self) -> bool {
        let mut queue = self.queue();
        queue.is_written = !queue.waiting.is_empty();
        queue.is_written
    }
}

impl Meta {
    /// Writes a batch with whatever else waits to be written.
    pub(super) async fn write_grouped(&self, batch: Batch) -> Outcome {
        let (answer, told) = oneshot::channel();
        let is_first = {
            let mut queue = self.groups.queue();
            queue.waiting.push_back(Waiting { batch, answer });
            !std::mem::replace(&mut queue.is_written, true)
        };
        if is_first {
            let writer = Writer { meta: self.clone(), has_ended: false };
            self.groups.tasks.spawn(writer.run());
        }
        // Unanswered only when the runtime ends under the task.
        told.await.unwrap_or_else(|_| Err(sqlx::Error::PoolClosed.into()))
    }
}

/// The one that writes.
struct Writer {
    meta: Meta,
    has_ended: bool,
}

impl Writer {
    async fn run(mut self) {
        while self.meta.groups.has_more() {
            self.write_next().await;
        }
        self.has_ended = true;
    }

    /// Writes one group in one transaction. What fails is taken out, and the rest begins again without it.
    async fn write_next(&self) {
        let meta = &self.meta;
        let mut group = None;
        let mut refused = Vec::new();
        let outcome = loop {
            let begun = meta.begin().await;
            // Taken when the writer is ours: whoever came while it was not is in.
            let group = group.get_or_insert_with(|| meta.groups.take());
            let mut tx = match begun {
                Ok(tx) => tx,
                Err(error) => break Err(error),
            };
            match change_all(&mut tx, group).await {
                Ok(updated) => break tx.commit().await.map(|()| updated).map_err(MetaError::from),
                Err((n, error)) => refused.push((group.remove(n), error)),
            }
        };
        match outcome {
            Ok(updated) => {
                for (waiting, updated) in group.into_iter().flatten().zip(updated) {
                    let _ = waiting.answer.send(Ok(updated));
                }
                for (waiting, error) in refused {
                    let _ = waiting.answer.send(Err(error));
                }
            }
            // To the refused too: what stood in their way was not written.
            Err(error) => {
                let all = group.into_iter().flatten().chain(refused.into_iter().map(|(waiting, _)| waiting));
                for waiting in all {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.has_ended {
            // The runtime ends, or a panic has gone through here: nobody shall wait for ever.
            let mut queue = self.meta.groups.queue();
            queue.waiting.clear();
            queue.is_written = false;
        }
    }
}

/// Makes the changes of all, in order; the number of the first that fails, and why.
async fn change_all(
    tx: &mut Transaction<'static, Sqlite>,
    group: &[Waiting],
) -> Result<Vec<Vec<Volume>>, (usize, MetaError)> {
    let mut updated = Vec::with_capacity(group.len());
    for (n, waiting) in group.iter().enumerate() {
        updated.push(change(tx, &waiting.batch).await.map_err(|error| (n, error))?);
    }
    Ok(updated)
}
