//! The write-ahead log: flushed beside the writer and not under its lock, and written back into the database by a
//! connection of its own. So a disk that is slow to flush keeps only those waiting who need the flush.
//!
//! # Invariants
//! - Whoever asks for a flush is answered by one that began after they asked. What was committed before is in it, or in
//!   the database already: `SQLite` flushes the database before it uses a log again from its start.
//! - A flush that fails is never tried again (I5): what was committed since the last good one is seen by readers and
//!   may be gone tomorrow. Nothing is written any more, by this process or another, nor is the log written back: the
//!   disk may have an older part of it, which would then be read over newer pages.
//! - The log is of bounded size: it is written back after so many commits, so many bytes and so much time.
//!
//! # Crash
//! A restart reads what the page cache has, and that may be more than the disk got. So opening writes the whole log
//! again and flushes it (`wal`), before anything is appended to it; a server also writes all of it back into the
//! database then, and begins a new log, if the disk has room for that. Where any of it fails, nothing is served.
//!
//! # Cancellation
//! A flush and a checkpoint that have begun go on without their callers, on tasks of their own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use sqlx::Row;
use sqlx::sqlite::SqlitePool;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Ballast, wal};
use crate::meta::MetaError;

/// Commits between two checkpoints: some tens of megabytes of log. Raised: the log takes more of the disk, and the
/// first start after a crash reads more of it. Lowered: more often, a writer waits while `SQLite` flushes the first
/// page of a log that begins anew.
const CHECKPOINT_EVERY: u64 = 2_048;

/// A log that is longer is written back whatever the number of its commits, and its file cut to this when it begins
/// anew: a commit may be of megabytes. Shorter files are kept at their length, since overwriting costs less to flush
/// than appending.
pub(super) const LARGEST: u64 = 32 << 20;

/// What was committed is written back after this, also when nothing follows.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

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
    length: Box<dyn Fn() -> u64 + Send + Sync>,
    queue: Mutex<Queue>,
    has_failed: AtomicBool,
    commits: AtomicU64,
    /// The length above which the log is to be written back.
    mark: AtomicU64,
    writer: SqlitePool,
    /// The connection that checkpoints. While it is open, `SQLite` does not remove the log.
    keeper: SqlitePool,
    is_checkpointing: AtomicBool,
    /// Whether a task waits to write back what is committed.
    is_timed: AtomicBool,
    ending: CancellationToken,
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
        let log = Arc::new(open_file(database)?);
        // SQLite would do this with its own first flush.
        File::open(database.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()?;
        let measured = log.clone();
        let length = move || measured.metadata().map_or(0, |log| log.len());
        Ok(Self::with(move || log.sync_data(), length, writer, keeper))
    }

    fn with(
        flush: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        length: impl Fn() -> u64 + Send + Sync + 'static,
        writer: SqlitePool,
        keeper: SqlitePool,
    ) -> Self {
        let shared = Shared {
            flush: Box::new(flush),
            length: Box::new(length),
            queue: Mutex::default(),
            has_failed: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            mark: AtomicU64::new(LARGEST),
            writer,
            keeper,
            is_checkpointing: AtomicBool::new(false),
            is_timed: AtomicBool::new(false),
            ending: CancellationToken::new(),
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
        // Unanswered only when the task broke off, or the runtime ended under it.
        told.await.unwrap_or_else(|_| Err(sqlx::Error::PoolClosed.into()))
    }

    /// Counts a commit; now and then, has the log written back into the database.
    pub(super) fn committed(&self) {
        let shared = &self.shared;
        let is_many = (shared.commits.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CHECKPOINT_EVERY);
        let length = (shared.length)();
        if length <= LARGEST {
            shared.mark.store(LARGEST, Ordering::Relaxed);
        }
        if is_many || length > shared.mark.load(Ordering::Relaxed) {
            // Whatever keeps it from being written back now shall not have it tried at every commit.
            shared.mark.store(length + LARGEST / 4, Ordering::Relaxed);
            self.write_back();
        } else if !shared.is_timed.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(shared);
            self.shared.tasks.spawn(async move {
                let waited = shared.ending.run_until_cancelled(tokio::time::sleep(LONGEST_WAIT)).await;
                shared.is_timed.store(false, Ordering::Release);
                if waited.is_some() {
                    shared.write_back().await;
                }
            });
        }
    }

    /// Has the log written back into the database, unless it is being done.
    pub(super) fn write_back(&self) {
        if !self.shared.is_checkpointing.load(Ordering::Acquire) {
            self.shared.tasks.spawn(Arc::clone(&self.shared).write_back());
        }
    }

    /// Ends when nothing waits any more, and closes the checkpoints' connection.
    pub(super) async fn close(&self) {
        self.shared.ending.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        if self.has_failed() {
            // The last connection to close would write the log back.
            std::mem::forget(self.shared.keeper.clone());
        } else {
            self.shared.keeper.close().await;
        }
    }
}

/// Makes the log of this database true, before anything is appended to it; `keeper` has the database open. With
/// `begins_anew`, all of it is in the database then and it is empty: nothing else may have the database open. Whether
/// it broke off, so that what was written later is lost.
pub(super) async fn make_true(
    database: &Path,
    keeper: &SqlitePool,
    begins_anew: bool,
    ballast: &Ballast,
) -> Result<bool, MetaError> {
    let failed = |error: io::Error| MetaError::Unflushed(Arc::new(error));
    let file = |error: io::Error| MetaError::File(Arc::new(error));
    // Nobody else writes meanwhile.
    let lock = keeper.begin_with("BEGIN IMMEDIATE").await?;
    let log = Arc::new(open_file(database).map_err(file)?);
    let rewritten = log.clone();
    let ending =
        tokio::task::spawn_blocking(move || wal::rewrite(&*rewritten)).await.map_err(|lost| failed(lost.into()))?;
    let wal::Ending { whole, lost } = ending.map_err(failed)?;
    lock.rollback().await?;
    if lost > 0 {
        tracing::warn!(
            whole,
            lost,
            "the database's log breaks off, and goes on behind that: what was written there is lost. If there was a \
             power cut, it had not been answered; else the disk has changed what it holds"
        );
    }
    if begins_anew {
        match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(keeper).await.map_err(MetaError::from) {
            Ok(row) if row.try_get::<i64, _>(0)? == 0 => {}
            Ok(_) => return Err(MetaError::InUse),
            // What is in the log is durable by now, and a disk that is full is emptied by who is served.
            Err(error) if matches!(error, MetaError::DiskFull) || ballast.is_full() => {
                tracing::warn!(%error, "the disk is full: the database's log cannot be written back now");
                return Ok(lost > 0);
            }
            Err(error) => return Err(error),
        }
        // Its new length. A disk that fails is noticed here, too.
        let flushed = tokio::task::spawn_blocking(move || log.sync_all()).await.unwrap_or_else(|lost| Err(lost.into()));
        flushed.map_err(failed)?;
    }
    Ok(lost > 0)
}

/// The file of a database's log.
fn open_file(database: &Path) -> io::Result<File> {
    let mut name = PathBuf::from(database).into_os_string();
    name.push("-wal");
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true).write(true), flags).open(name)
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
        let mut flushing = Flushing(Some(&self));
        loop {
            let waiting = self.take();
            if waiting.is_empty() {
                flushing.0 = None;
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
            self.fail(&error);
            refused(error)
        })
    }

    /// Nothing is written any more: not here, and by no other process, which could not know.
    fn fail(self: &Arc<Self>, error: &(dyn std::error::Error + 'static)) {
        if self.has_failed.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(error, "cannot flush the database's log: nothing is written any more until a restart");
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            match shared.writer.begin_with("BEGIN IMMEDIATE").await {
                // Held until the process ends: the lock, and with it the connection.
                Ok(lock) => std::mem::forget(lock),
                Err(error) => tracing::error!(%error, "cannot keep other processes from writing to the database"),
            }
        });
    }

    /// Has the log written back, unless that is done already or must not be done.
    async fn write_back(self: Arc<Self>) {
        if self.has_failed.load(Ordering::Acquire) || self.is_checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let _checkpointing = Checkpointing(&self.is_checkpointing);
        match self.checkpoint().await {
            Err(error) if is_failed_flush(&error) => self.fail(&error),
            Err(error) => tracing::warn!(%error, "cannot write the log back into the database now; the log grows"),
            Ok(()) => {}
        }
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

/// A task that flushes. When it breaks off, those who wait are told so, and the next that comes starts another.
struct Flushing<'a>(Option<&'a Shared>);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            let mut queue = shared.queue();
            queue.is_flushed = false;
            queue.waiting.clear();
        }
    }
}

/// A task that writes the log back. However it ends, another may begin then.
struct Checkpointing<'a>(&'a AtomicBool);

impl Drop for Checkpointing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Whether `SQLite` could not flush the log or the database: then the next flush may be told that all is well.
fn is_failed_flush(error: &sqlx::Error) -> bool {
    /// `SQLITE_IOERR_FSYNC` and `SQLITE_IOERR_DIR_FSYNC` (<https://www.sqlite.org/rescode.html>).
    const CODES: [&str; 2] = ["1034", "1290"];
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| CODES.contains(&&*code))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::domain::{Fault, FaultKind, Named, Project, Sha256, Token, TokenId, UnixTime, Volume, VolumeId};
    use crate::meta::testing::{Scene, drive, scene};
    use crate::meta::{Ballast, Batch, Meta};

    fn log_of(path: &Path) -> PathBuf {
        let mut name = path.to_owned().into_os_string();
        name.push("-wal");
        name.into()
    }

    fn log_length(scene: &Scene) -> u64 {
        std::fs::metadata(log_of(&scene.path)).unwrap().len()
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
        scene.meta.db.log =
            Log::with(flush, || 0, scene.meta.db.writer.clone(), scene.meta.db.log.shared.keeper.clone());
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
        while scene.meta.all_volume_ids().await.unwrap().len() < 4
            || scene.meta.db.log.shared.queue().waiting.is_empty()
        {
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

    /// Has a task break off in the middle, as a panic would.
    async fn break_off(task: impl Future<Output = ()>) {
        assert!(tokio::time::timeout(Duration::ZERO, task).await.is_err());
    }

    #[tokio::test]
    async fn a_task_that_breaks_off_leaves_nobody_waiting_and_its_work_to_the_next() {
        let scene = scene().await;
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let flush = move || {
            let _ = gate.lock().unwrap().recv();
            Ok(())
        };
        let log = Log::with(flush, || 0, scene.meta.db.writer.clone(), scene.meta.db.log.shared.keeper.clone());
        let shared = &log.shared;
        let (answer, told) = oneshot::channel();
        *shared.queue() = Queue { waiting: vec![answer], is_flushed: true };
        let mut task = Box::pin(shared.clone().flush_all());
        assert!(tokio::time::timeout(Duration::ZERO, &mut task).await.is_err());
        let (answer, told_later) = oneshot::channel();
        shared.queue().waiting.push(answer);
        drop(task);
        assert!(told.await.is_err() && told_later.await.is_err());
        drop(go);
        log.flush().await.unwrap();

        let held = shared.keeper.acquire().await.unwrap();
        break_off(shared.clone().write_back()).await;
        drop(held);
        assert!(!shared.is_checkpointing.load(Ordering::Acquire));
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
        scene.meta.db.log =
            Log::with(flush, || 0, scene.meta.db.writer.clone(), scene.meta.db.log.shared.keeper.clone());
        assert!(scene.meta.is_alive().await);
        let write = || scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]);
        let outcome = write().await;
        assert!(matches!(outcome, Err(MetaError::Unflushed(_))), "it may be there: {outcome:?}");
        let outcome = write().await;
        assert!(matches!(outcome, Err(MetaError::Stopped)), "{outcome:?}");
        let provisional = Batch { is_provisional: true, ..Batch::default() };
        let outcome = scene.meta.apply(provisional).await.unwrap_err();
        assert!(matches!(outcome, MetaError::Stopped), "{outcome:?}");
        assert_eq!(Fault::from(outcome).kind, FaultKind::Unavailable);
        assert_eq!(flushes.load(Ordering::SeqCst), 1, "a second flush may report success over lost bytes");
        assert!(!scene.meta.is_alive().await);
    }

    /// How often the log began anew, which `SQLite` counts in its header (<https://www.sqlite.org/fileformat2.html>,
    /// 4.1).
    fn begun_anew(scene: &Scene) -> u32 {
        let mut header = [0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(log_of(&scene.path)).unwrap(), &mut header, 0).unwrap();
        u32::from_be_bytes(header[12..].try_into().unwrap())
    }

    #[tokio::test]
    async fn the_log_is_written_back_while_the_database_is_in_use_and_begins_anew() {
        let scene = scene().await;
        scene.meta.apply(provisional(&scene)).await.unwrap();
        let before = begun_anew(&scene);
        // Rounds of some 40 MB each: more than the log may have, however slow the disk is beside them.
        for _ in 0..4 {
            for _ in 0..CHECKPOINT_EVERY {
                scene.meta.apply(provisional(&scene)).await.unwrap();
            }
            while scene.meta.db.log.shared.is_checkpointing.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
        }
        assert!(begun_anew(&scene) > before, "a log of {} bytes", log_length(&scene));
        scene.meta.close().await;
        assert!(!log_of(&scene.path).exists());
    }

    fn provisional(scene: &Scene) -> Batch {
        Batch { insert: vec![drive(scene.tenant, 1)], is_provisional: true, ..Batch::default() }
    }

    async fn ids(meta: &Meta) -> Vec<VolumeId> {
        let mut ids = meta.all_volume_ids().await.unwrap();
        ids.sort_unstable();
        ids
    }

    /// What the disk has of a log: its pages as they were written since its last flush failed, and older ones where
    /// nothing was, though every later flush was told to be good.
    fn on_disk(before: &[u8], cached: &[u8], now: &[u8]) -> Vec<u8> {
        let mut disk = now.to_vec();
        for at in (0..now.len()).step_by(4096) {
            let page = at..(at + 4096).min(now.len());
            if cached.get(page.clone()) == Some(&now[page.clone()]) {
                let old = before.get(page.start..).unwrap_or_default();
                let len = old.len().min(page.len());
                disk[page.clone()].fill(0);
                disk[page.start..page.start + len].copy_from_slice(&old[..len]);
            }
        }
        disk
    }

    #[tokio::test]
    async fn what_is_answered_after_a_failed_flush_and_a_restart_survives_a_power_cut() {
        let mut scene = scene().await;
        for _ in 0..5 {
            scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.unwrap();
        }
        let log = log_of(&scene.path);
        let before = std::fs::read(&log).unwrap();
        let keeper = scene.meta.db.log.shared.keeper.clone();
        let fails = || Err(io::Error::from_raw_os_error(5));
        scene.meta.db.log = Log::with(fails, || 0, scene.meta.db.writer.clone(), keeper);
        for _ in 0..5 {
            scene.meta.apply(provisional(&scene)).await.unwrap();
        }
        assert!(scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.is_err());
        let cached = std::fs::read(&log).unwrap();
        // The process ends, and another begins: of the same files, since nobody can end this one.
        let moved = tempfile::tempdir().unwrap();
        let path = moved.path().join("meta.db");
        std::fs::copy(&scene.path, &path).unwrap();
        std::fs::write(log_of(&path), &cached).unwrap();
        let again = Meta::open_to_serve(&path, Ballast::none()).await.unwrap();
        assert_eq!(std::fs::metadata(log_of(&path)).unwrap().len(), 0, "nothing is built on what was there");
        let mut answered = ids(&again).await;
        for _ in 0..5 {
            let volume = drive(scene.tenant, 1);
            answered.push(volume.id);
            again.insert_volumes(vec![volume], vec![]).await.unwrap();
        }
        answered.sort_unstable();
        // The power is cut, and what the disk has is mounted.
        let cut = tempfile::tempdir().unwrap();
        let last = cut.path().join("meta.db");
        std::fs::copy(&path, &last).unwrap();
        std::fs::write(log_of(&last), on_disk(&before, &cached, &std::fs::read(log_of(&path)).unwrap())).unwrap();
        let last = Meta::open(&last).await.unwrap();
        assert_eq!(ids(&last).await, answered);
    }

    #[tokio::test]
    async fn after_a_flush_that_failed_no_process_writes_and_the_log_stays_as_it_is() {
        let mut scene = scene().await;
        let keeper = scene.meta.db.log.shared.keeper.clone();
        let fails = || Err(io::Error::from_raw_os_error(5));
        scene.meta.db.log = Log::with(fails, || 0, scene.meta.db.writer.clone(), keeper);
        assert!(scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.is_err());
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&scene.path).busy_timeout(Duration::ZERO);
        let other = SqlitePool::connect_with(options).await.unwrap();
        while let Ok(lock) = other.begin_with("BEGIN IMMEDIATE").await {
            lock.rollback().await.unwrap();
            tokio::task::yield_now().await;
        }
        other.close().await;
        let before = std::fs::read(&scene.path).unwrap();
        scene.meta.close().await;
        assert!(log_length(&scene) > 0);
        assert_eq!(std::fs::read(&scene.path).unwrap(), before);
    }

    #[tokio::test]
    async fn a_log_of_few_large_commits_is_written_back_by_its_size() {
        let scene = scene().await;
        let large = Volume { name: "x".repeat(200 << 10), ..drive(scene.tenant, 1) };
        let mut volume = large.clone();
        scene.meta.insert_volumes(vec![large], vec![]).await.unwrap();
        // Fewer commits than are counted, of more bytes than the log may have.
        for _ in 0..1_000 {
            volume = scene.meta.update(volume).await.unwrap();
            while scene.meta.db.log.shared.is_checkpointing.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
            assert!(log_length(&scene) < 2 * LARGEST);
        }
        assert!(log_length(&scene) <= LARGEST + LARGEST / 2, "its file becomes smaller again");
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_is_written_back_after_a_while() {
        let scene = scene().await;
        scene.meta.insert_volumes((0..200).map(|_| drive(scene.tenant, 1)).collect(), vec![]).await.unwrap();
        let length = || std::fs::metadata(&scene.path).unwrap().len();
        let before = length();
        // Its task sleeps, so that the clock has something to pass.
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(LONGEST_WAIT).await;
        tokio::time::resume();
        while length() == before {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_token_is_told_after_a_flush_only() {
        let mut scene = scene().await;
        let keeper = scene.meta.db.log.shared.keeper.clone();
        let fails = || Err(io::Error::from_raw_os_error(5));
        scene.meta.db.log = Log::with(fails, || 0, scene.meta.db.writer.clone(), keeper);
        let user = scene.meta.account(&Named::Name("alice".to_owned())).await.unwrap().unwrap();
        let project = Project { id: scene.tenant, name: "red".to_owned() };
        let (issued, expires) = (UnixTime(1), UnixTime(2));
        let token = Token { id: TokenId::random(), user, project, chain: None, issued, expires };
        let told = scene.meta.insert_token(&Sha256([1; 32]), &token, None).await;
        assert!(matches!(told, Err(MetaError::Unflushed(_))), "{told:?}");
    }
}
