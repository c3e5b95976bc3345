//! Batches that wait for the writer together share one transaction; transactions that wait for the disk together share
//! one flush.
//!
//! # Invariants
//! - A batch is answered after the transaction that holds it was committed and, unless it is provisional, flushed. Its
//!   outcome is what it would have been had the batches of its group come one after the other.
//! - A batch that cannot be made true fails alone; a commit that fails is told to everyone in it, and never retried.
//!
//! # Cancellation
//! A batch whose caller went before its group was taken is left out. After that it goes on without the caller, on a
//! task of its own, and the others of its group notice nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::batch::{change, lengthens};
use super::sqlite::Write;
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

    /// Tells the outcomes of a group that was committed: to those who need no flush now, to the others after it. The
    /// refused wait too, since what stood in their way was not durable before.
    fn answer(&self, outcomes: Vec<(Waiting, Outcome)>) {
        let (now, later): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|(waiting, _)| waiting.batch.is_provisional);
        let tell = |outcomes: Vec<(Waiting, Outcome)>, flushed: Result<(), MetaError>| {
            for (waiting, outcome) in outcomes {
                let _ = waiting.answer.send(flushed.clone().and(outcome));
            }
        };
        tell(now, Ok(()));
        if !later.is_empty() {
            let db = self.db.clone();
            self.groups.tasks.spawn(async move { tell(later, db.flush().await) });
        }
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

    /// Writes one group in one transaction, and leaves its flush to another task. What fails is taken out, and the rest
    /// begins again without it.
    async fn write_next(&self) {
        let meta = &self.meta;
        let mut group = None;
        let mut refused = Vec::new();
        let outcome = loop {
            let begun = meta.db.begin().await;
            // Take the group only after acquiring the writer, so that batches queued meanwhile are included.
            let group = group.get_or_insert_with(|| meta.groups.take());
            let mut tx = match begun {
                Ok(tx) => tx,
                Err(error) => break Err(error),
            };
            if meta.db.admit().await.is_err()
                && let Err(error) = shed(&mut tx, group, &mut refused).await
            {
                break Err(error);
            }
            // What makes room is tried again with the space that is kept for it, and without the rest.
            let can_go_on = |group: &[Waiting]| group.iter().any(|one| !one.batch.adds()) && meta.db.give_up_ballast();
            match change_all(&mut tx, group).await {
                Ok(updated) => match meta.db.commit_unflushed(tx).await {
                    Err(MetaError::DiskFull) if can_go_on(group) => {}
                    written => break written.map(|()| updated),
                },
                Err((n, error)) => {
                    let error = meta.db.refused(error);
                    if !(matches!(error, MetaError::DiskFull) && can_go_on(group)) {
                        refused.push((group.remove(n), error));
                    }
                }
            }
        };
        match outcome {
            Ok(updated) => {
                let refused = refused.into_iter().map(|(waiting, error)| (waiting, Err(error)));
                let made = group.into_iter().flatten().zip(updated.into_iter().map(Ok));
                meta.answer(made.chain(refused).collect());
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

/// Takes those out that add to what there is, on a disk whose last room is for removing.
async fn shed(
    tx: &mut Write,
    group: &mut Vec<Waiting>,
    refused: &mut Vec<(Waiting, MetaError)>,
) -> Result<(), MetaError> {
    for waiting in std::mem::take(group) {
        if waiting.batch.adds() || lengthens(tx, &waiting.batch).await? {
            refused.push((waiting, MetaError::DiskFull));
        } else {
            group.push(waiting);
        }
    }
    Ok(())
}

/// Makes the changes of all, in order; the number of the first that fails, and why.
async fn change_all(tx: &mut Write, group: &[Waiting]) -> Result<Vec<Vec<Volume>>, (usize, MetaError)> {
    let mut updated = Vec::with_capacity(group.len());
    for (n, waiting) in group.iter().enumerate() {
        updated.push(change(tx, &waiting.batch).await.map_err(|error| (n, error))?);
    }
    Ok(updated)
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::task::JoinHandle;

    use super::MetaError::{Conflict, Duplicate, QuotaExceeded, TooManyVolumes};
    use super::*;
    use crate::domain::{TransferState, UnixTime, VolumeState};
    use crate::meta::TransferStep;
    use crate::meta::testing::{Scene, drive, quota, scene_with, transfer_of};

    /// Applies a batch on a task of its own, and returns when it waits to be written.
    async fn queued(scene: &Scene, batch: Batch) -> JoinHandle<Outcome> {
        let before = scene.meta.groups.queue().waiting.len();
        let meta = scene.meta.clone();
        let task = tokio::task::spawn_local(async move { meta.apply(batch).await });
        while scene.meta.groups.queue().waiting.len() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    /// Runs a test on one thread, where it decides who runs next.
    fn alone(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    fn inserting(volume: &Volume) -> Batch {
        Batch { insert: vec![volume.clone()], ..Batch::default() }
    }

    async fn there(meta: &Meta) -> Vec<crate::domain::VolumeId> {
        let mut ids = meta.all_volume_ids().await.unwrap();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_batch_that_fails_in_a_group_fails_alone_and_the_others_are_durable() {
        alone(async {
            let scene = scene_with(quota(4, 100)).await;
            let old = drive(scene.tenant, 10);
            scene.meta.insert_volumes(vec![old.clone()], vec![]).await.unwrap();
            let made = [drive(scene.tenant, 20), drive(scene.tenant, 30), drive(scene.tenant, 30)];
            let heavy = drive(scene.tenant, 90);
            let renamed = Volume { name: "new".to_owned(), ..old.clone() };
            let updating = |volume: &Volume| Batch { update: vec![volume.clone()], ..Batch::default() };

            let writer = scene.meta.db.begin().await.unwrap();
            let waiting = [
                queued(&scene, inserting(&made[0])).await,
                queued(&scene, inserting(&made[0])).await,
                queued(&scene, updating(&renamed)).await,
                queued(&scene, inserting(&made[1])).await,
                queued(&scene, inserting(&heavy)).await,
                queued(&scene, updating(&old)).await,
                queued(&scene, inserting(&made[2])).await,
                queued(&scene, inserting(&drive(scene.tenant, 0))).await,
            ];
            writer.rollback().await.unwrap();

            let mut outcomes = Vec::new();
            for one in waiting {
                outcomes.push(one.await.unwrap());
            }
            let told: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err()).collect();
            assert!(
                matches!(
                    told[..],
                    [
                        None,
                        Some(Duplicate),
                        None,
                        None,
                        Some(QuotaExceeded),
                        Some(Conflict),
                        None,
                        Some(TooManyVolumes(4))
                    ]
                ),
                "{told:?}"
            );
            assert_eq!(outcomes[2].as_ref().unwrap()[0].revision, old.revision + 1);
            let mut expected = vec![old.id, made[0].id, made[1].id, made[2].id];
            expected.sort_unstable();
            scene.meta.close().await;
            let again = Meta::open(&scene.path).await.unwrap();
            assert_eq!(there(&again).await, expected);
            let (_, usage) = again.usage(scene.tenant).await.unwrap();
            assert_eq!((usage.volumes, usage.bytes.get()), (4, 90));
        });
    }

    #[test]
    fn of_two_steps_of_a_transfer_in_a_group_one_is_taken_and_the_other_harms_nobody() {
        alone(async {
            let scene = scene_with(quota(9, 100)).await;
            let uploading = || Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 1) };
            let filled = uploading();
            let transfer = transfer_of(&filled);
            let begin = Batch { insert: vec![filled.clone()], begin: Some(transfer.clone()), ..Batch::default() };
            scene.meta.apply(begin).await.unwrap();
            let stepping = |to, volume: &Volume| {
                let (from, now) = (TransferState::Open, UnixTime(5));
                let step = TransferStep::new(transfer.id, from, to, now);
                Batch { step: Some(step), ..inserting(volume) }
            };
            let made: Vec<Volume> = (0..4).map(|_| uploading()).collect();
            let beginning = Batch { begin: Some(transfer_of(&made[3])), ..inserting(&made[3]) };

            let writer = scene.meta.db.begin().await.unwrap();
            let waiting = [
                queued(&scene, inserting(&made[0])).await,
                queued(&scene, stepping(TransferState::Finishing, &made[1])).await,
                queued(&scene, stepping(TransferState::Cancelled, &made[2])).await,
                queued(&scene, beginning).await,
            ];
            writer.rollback().await.unwrap();
            let mut told = Vec::new();
            for one in waiting {
                told.push(one.await.unwrap().err());
            }
            assert!(matches!(told[..], [None, None, Some(Conflict), None]), "{told:?}");
            let mut expected = vec![filled.id, made[0].id, made[1].id, made[3].id];
            expected.sort_unstable();
            assert_eq!(there(&scene.meta).await, expected);
            let stored = scene.meta.transfer(transfer.id).await.unwrap().unwrap();
            assert_eq!((stored.state, stored.updated), (TransferState::Finishing, UnixTime(5)));
            assert!(scene.meta.transfer_of(made[3].id).await.unwrap().is_some());
        });
    }

    #[test]
    fn those_who_wait_together_are_written_in_one_transaction() {
        alone(async {
            let scene = scene_with(quota(100, 100)).await;
            let writer = scene.meta.db.begin().await.unwrap();
            let mut waiting = Vec::new();
            for _ in 0..5 {
                waiting.push(queued(&scene, inserting(&drive(scene.tenant, 1))).await);
            }
            let meta = scene.meta.clone();
            let next = tokio::task::spawn_local(async move {
                let writer = meta.db.begin().await.unwrap();
                let there = there(&meta).await.len();
                writer.rollback().await.unwrap();
                there
            });
            tokio::task::yield_now().await;
            writer.rollback().await.unwrap();
            assert_eq!(next.await.unwrap(), 5, "each had a turn of its own");
            for one in waiting {
                one.await.unwrap().unwrap();
            }
        });
    }

    #[test]
    fn a_commit_that_fails_is_told_to_everyone_in_it_and_changes_nothing() {
        alone(async {
            let scene = scene_with(quota(2, 100)).await;
            let mut writer = scene.meta.db.begin().await.unwrap();
            writer.lock_handle().await.unwrap().set_commit_hook(|| false);
            let mut waiting = Vec::new();
            // The last is over the quota, but only as long as the others are written.
            for _ in 0..3 {
                waiting.push(queued(&scene, inserting(&drive(scene.tenant, 1))).await);
            }
            writer.rollback().await.unwrap();
            for one in waiting {
                let outcome = one.await.unwrap();
                assert!(matches!(outcome, Err(MetaError::Database(_))), "{outcome:?}");
            }
            assert_eq!(there(&scene.meta).await, []);
            let mut writer = scene.meta.db.begin().await.unwrap();
            writer.lock_handle().await.unwrap().remove_commit_hook();
            writer.rollback().await.unwrap();
            scene.meta.insert_volumes(vec![drive(scene.tenant, 1), drive(scene.tenant, 1)], vec![]).await.unwrap();
        });
    }

    #[test]
    fn a_caller_that_goes_takes_only_its_own_batch_along() {
        alone(async {
            let scene = scene_with(quota(100, 100)).await;
            let drives: Vec<Volume> =
                (0..3).map(|_| Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 1) }).collect();
            let writer = scene.meta.db.begin().await.unwrap();
            let mut waiting = Vec::new();
            for one in &drives {
                waiting.push(queued(&scene, inserting(one)).await);
            }
            let gone = waiting.remove(0);
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
            writer.rollback().await.unwrap();
            for one in waiting {
                one.await.unwrap().unwrap();
            }
            let mut expected = vec![drives[1].id, drives[2].id];
            expected.sort_unstable();
            assert_eq!(there(&scene.meta).await, expected);
        });
    }

    #[test]
    fn whoever_writes_after_the_database_was_closed_is_told_so() {
        alone(async {
            let scene = scene_with(quota(1, 1)).await;
            scene.meta.close().await;
            let outcome = scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await;
            assert!(matches!(outcome, Err(MetaError::Busy(_))), "{outcome:?}");
        });
    }
}
