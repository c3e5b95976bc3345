//! The write-ahead log: flushed beside the writer and not under its lock, and written back into the database by a
//! connection of its own. So a disk that is slow to flush keeps only those waiting who need the flush.
//!
//! # Invariants
//! - Whoever asks for a flush is answered by one that began after they asked. What was committed before is in it, or in
//!   the database already: `SQLite` flushes the database before it uses a log again from its start.
//! - A flush that fails is never tried again (I5): what was committed since the last good one is seen by readers and
//!   may be gone tomorrow. Nothing is written any more until a restart reads what the disk really has.
//!
//! # Cancellation
//! A flush and a checkpoint that have begun go on without their callers, on tasks of their own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Row;
use sqlx::sqlite::SqlitePool;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::MetaError;

/// Commits between two checkpoints: some tens of megabytes of log. Raised: the log takes more of the disk, and the first
/// start after a crash reads more of it. Lowered: more often, a writer waits while `SQLite` flushes the first page of a log
/// that begins anew.
const CHECKPOINT_EVERY: u64 = 2_048;

/// How often a checkpoint runs after a log that grows meanwhile; the last time finds nothing new, if all goes well.
const ROUNDS: u32 = 4;

/// The frames (pages of 4 KiB) of a log that never comes to its end while others write. Then the writer is stopped for
/// as long as its last frames take to write back.
const LONGEST: i64 = 16_384;

type Flushed = Result<(), MetaError>;

/// The log of one database. Clones share it.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    flush: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    queue: Mutex<Queue>,
    has_failed: AtomicBool,
    commits: AtomicU64,
    writer: SqlitePool,
    /// The connection that checkpoints. While it is open, `SQLite` does not remove the log.
    keeper: SqlitePool,
    is_checkpointing: AtomicBool,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<Flushed>>,
    /// Whether a task is flushing, or about to: then it also flushes for those who come meanwhile.
    is_flushed: bool,
}

impl Log {
    /// The log of the database in this file, which both pools have open.
    pub(super) fn open(database: &Path, writer: SqlitePool, keeper: SqlitePool) -> io::Result<Self> {
        let mut name = PathBuf::from(database).into_os_string();
        name.push("-wal");
        let log = File::open(name)?;
        // SQLite would do this with its own first flush.
        File::open(database.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()?;
        Ok(Self::with(move || log.sync_data(), writer, keeper))
    }

    fn with(
        flush: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        writer: SqlitePool,
        keeper: SqlitePool,
    ) -> Self {
        let shared = Shared {
            flush: Box::new(flush),
            queue: Mutex::default(),
            has_failed: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            writer,
            keeper,
            is_checkpointing: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether a flush has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Waits until everything that was committed before this call is durable.
    pub(super) async fn flush(&self) -> Flushed {
        let (answer, told) = oneshot::channel();
        let is_first = {
            let mut queue = self.shared.queue();
            queue.waiting.push(answer);
            !std::mem::replace(&mut queue.is_flushed, true)
        };
        if is_first {
            self.shared.tasks.spawn(Arc::clone(&self.shared).flush_all());
        }
        // Unanswered only when the runtime ends under the task.
        told.await.unwrap_or_else(|_| Err(sqlx::Error::PoolClosed.into()))
    }

    /// Counts a commit; now and then, has the log written back into the database.
    pub(super) fn committed(&self) {
        if (self.shared.commits.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CHECKPOINT_EVERY) {
            self.write_back();
        }
    }

    /// Has the log written back into the database, unless it is being done.
    pub(super) fn write_back(&self) {
        let shared = &self.shared;
        if !shared.is_checkpointing.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(shared);
            self.shared.tasks.spawn(async move {
                if let Err(error) = shared.checkpoint().await {
                    tracing::warn!(%error, "cannot write the log back into the database now; the log grows");
                }
                shared.is_checkpointing.store(false, Ordering::Release);
            });
        }
    }

    /// Ends when nothing waits any more, and closes the checkpoints' connection.
    pub(super) async fn close(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.keeper.close().await;
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("has_failed", &self.has_failed()).finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A push or a take leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait now; when there are none, the next that comes starts a task again.
    fn take(&self) -> Vec<oneshot::Sender<Flushed>> {
        let mut queue = self.queue();
        queue.is_flushed = !queue.waiting.is_empty();
        std::mem::take(&mut queue.waiting)
    }

    async fn flush_all(self: Arc<Self>) {
        loop {
            let waiting = self.take();
            if waiting.is_empty() {
                return;
            }
            let outcome = Arc::clone(&self).flush_once().await;
            for one in waiting {
                let _ = one.send(outcome.clone());
            }
        }
    }

    async fn flush_once(self: Arc<Self>) -> Flushed {
        let refused = |error: io::Error| MetaError::Unflushed(Arc::new(error));
        if self.has_failed.load(Ordering::Acquire) {
            return Err(refused(io::Error::other("an earlier flush of the log failed")));
        }
        let shared = Arc::clone(&self);
        let outcome =
            tokio::task::spawn_blocking(move || (shared.flush)()).await.unwrap_or_else(|lost| Err(lost.into()));
        outcome.map_err(|error| {
            self.has_failed.store(true, Ordering::Release);
            tracing::error!(%error, "cannot flush the database's log: nothing is written any more until a restart");
            refused(error)
        })
    }

    /// Writes the log back beside the writer, and again what was added meanwhile: once all of it is written back, the
    /// next writer begins it anew.
    async fn checkpoint(&self) -> Result<(), sqlx::Error> {
        let passive = "PRAGMA wal_checkpoint(PASSIVE)";
        let mut before = 0;
        for _ in 0..ROUNDS {
            // The length of the log is that from before the checkpoint.
            let frames: i64 = sqlx::query(passive).fetch_one(&self.keeper).await?.try_get(1)?;
            if frames == before {
                return Ok(());
            }
            before = frames;
        }
        if before > LONGEST {
            sqlx::query(passive).fetch_one(&self.writer).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::testing::{drive, scene};
    use super::*;
    use crate::meta::Batch;

    fn log_of(scene: &super::super::testing::Scene) -> u64 {
        let mut name = scene.path.clone().into_os_string();
        name.push("-wal");
        std::fs::metadata(name).unwrap().len()
    }

    #[tokio::test]
    async fn a_write_is_answered_after_a_flush_that_began_after_its_commit_and_a_provisional_one_before() {
        let mut scene = scene().await;
        let (began, begins) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let flush = move || {
            began.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            Ok(())
        };
        scene.meta.log = Log::with(flush, scene.meta.writer.clone(), scene.meta.log.shared.keeper.clone());
        let batch = |is_provisional| Batch { insert: vec![drive(scene.tenant, 1)], is_provisional, ..Batch::default() };
        scene.meta.apply(batch(true)).await.unwrap();
        assert!(begins.try_recv().is_err(), "nobody waits for a flush of a provisional record");

        let tasks = TaskTracker::new();
        let (meta, first) = (scene.meta.clone(), batch(false));
        let first = tasks.spawn(async move { meta.apply(first).await });
        let _begins = tokio::task::spawn_blocking(move || begins.recv().map(|()| begins)).await.unwrap().unwrap();
        // The flush runs, and the writer is free: others commit, and are seen.
        scene.meta.apply(batch(true)).await.unwrap();
        let (meta, second) = (scene.meta.clone(), batch(false));
        let second = tasks.spawn(async move { meta.apply(second).await });
        while scene.meta.all_volume_ids().await.unwrap().len() < 4 || scene.meta.log.shared.queue().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!first.is_finished() && !second.is_finished());
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        // The flush that runs may have begun before its commit.
        assert!(!second.is_finished());
        go.send(()).unwrap();
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn after_a_flush_that_failed_nothing_is_written_and_the_database_is_not_alive() {
        let mut scene = scene().await;
        let flushes = Arc::new(AtomicU64::new(0));
        let count = flushes.clone();
        let flush = move || {
            count.fetch_add(1, Ordering::SeqCst);
            Err(io::Error::from_raw_os_error(5))
        };
        scene.meta.log = Log::with(flush, scene.meta.writer.clone(), scene.meta.log.shared.keeper.clone());
        assert!(scene.meta.is_alive().await);
        let write = || scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]);
        for _ in 0..2 {
            let outcome = write().await;
            assert!(matches!(outcome, Err(MetaError::Unflushed(_))), "{outcome:?}");
        }
        let provisional = Batch { is_provisional: true, ..Batch::default() };
        assert!(matches!(scene.meta.apply(provisional).await, Err(MetaError::Unflushed(_))));
        assert_eq!(flushes.load(Ordering::SeqCst), 1, "a second flush may report success over lost bytes");
        assert!(!scene.meta.is_alive().await);
    }

    #[tokio::test]
    async fn the_log_is_written_back_while_the_database_is_in_use_and_begins_anew() {
        let scene = scene().await;
        let mut lengths = Vec::new();
        for _ in 0..4 {
            for _ in 0..CHECKPOINT_EVERY {
                let batch = Batch { insert: vec![drive(scene.tenant, 1)], is_provisional: true, ..Batch::default() };
                scene.meta.apply(batch).await.unwrap();
            }
            while scene.meta.log.shared.is_checkpointing.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
            lengths.push(log_of(&scene));
        }
        assert!(lengths[3] < 2 * lengths[0], "{lengths:?}");
        scene.meta.close().await;
        assert!(!scene.path.with_extension("db-wal").exists());
    }
}
