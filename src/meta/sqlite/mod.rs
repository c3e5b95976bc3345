//! What only `SQLite` does: how the database is opened, written and made durable, and the few questions that SQL for
//! every engine cannot ask (`words`).
//!
//! Outside this folder SQL is what `SQLite` and `PostgreSQL` both take; a test reads the sources for words that they do
//! not share.
//!
//! # Crash
//! The write-ahead log is flushed before a write is answered (`log`). Opening recovers by itself, also after a process
//! whose flush failed.

mod ballast;
mod log;
mod mapped;
mod order;
mod wal;
mod words;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};
use sqlx::error::DatabaseError;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, QueryBuilder, SqlSafeStr, Sqlite, SqliteConnection, Transaction};

use super::MetaError;
use log::Log;

pub use ballast::Ballast;
pub(super) use order::{Of, word};
pub(super) use words::{IDS_AND_REVISIONS, Pairs, push_block_text, push_bootable, push_pair, push_user};

/// A connection.
pub(super) type Connection = SqliteConnection;
/// A row of an answer.
pub(super) type DbRow = SqliteRow;
/// SQL that is put together.
pub(super) type Sql = QueryBuilder<Sqlite>;
/// A transaction that writes.
pub(super) type Write = Transaction<'static, Sqlite>;

/// `SQLite` waits this long for a lock that another process holds, a backup tool for example.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Reads are short; more connections only cost memory.
const READERS: u32 = 4;

/// The database. Clones share the same connections.
#[derive(Clone, Debug)]
pub(super) struct Database {
    /// One connection, so that writers queue here, in order, instead of failing on `SQLite`'s single write lock.
    pub(super) writer: SqlitePool,
    /// The connections that only read.
    pub(super) readers: SqlitePool,
    log: Log,
    ballast: Ballast,
    /// Whether the latest write failed.
    has_refused: Arc<AtomicBool>,
    /// Whether the log broke off when it was opened.
    has_lost: bool,
}

impl Database {
    /// Opens the database in this file, which is made when it is missing, and brings its tables up to date. With
    /// `begins_anew` its log begins anew, and nobody else may have it open now.
    pub(super) async fn open(path: &Path, begins_anew: bool, ballast: Ballast) -> Result<Self, MetaError> {
        make_private(path)
            .and_then(|()| share_in_place(path))
            .and_then(|()| mapped::guard(&ballast))
            .map_err(|error| MetaError::File(Arc::new(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // Whoever writes the log back flushes it first, and the database afterwards.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(LOCK_WAIT)
            .pragma("journal_size_limit", log::LARGEST.to_string());
        let keeper = lasting_pool(1).connect_with(options.clone()).await?;
        let has_lost = log::make_true(path, &keeper, begins_anew, &ballast).await?;
        migrations().run(&keeper).await.map_err(sqlx::Error::from)?;
        // NORMAL: a commit flushes nothing by itself (https://www.sqlite.org/pragma.html#pragma_synchronous).
        let writing = options.clone().synchronous(SqliteSynchronous::Normal).pragma("wal_autocheckpoint", "0");
        let writer = lasting_pool(1).connect_with(writing).await?;
        let readers = lasting_pool(READERS).connect_with(options.read_only(true)).await?;
        let log = Log::open(path, writer.clone(), keeper).map_err(|error| MetaError::File(Arc::new(error)))?;
        Ok(Self { writer, readers, log, ballast, has_refused: Arc::default(), has_lost })
    }

    /// Whether the log broke off when it was opened.
    pub(super) fn has_lost(&self) -> bool {
        self.has_lost
    }

    /// Whether what is written can become durable.
    pub(super) fn is_writable(&self) -> bool {
        !self.log.has_failed()
    }

    /// Whether the latest write failed.
    pub(super) fn has_refused(&self) -> bool {
        self.has_refused.load(Ordering::Acquire)
    }

    /// Whether there is room for more than removing.
    pub(super) async fn check_room(&self) -> Result<(), MetaError> {
        let ballast = self.ballast.clone();
        let checked =
            tokio::task::spawn_blocking(move || ballast.check()).await.unwrap_or_else(|lost| Err(lost.into()));
        checked.map_err(no_room)
    }

    /// Gives up the space that is kept for removing; whether there was any.
    pub(super) fn give_up_ballast(&self) -> bool {
        self.ballast.give_up()
    }

    /// Waits until everything that was committed before this call is durable.
    pub(super) async fn flush(&self) -> Result<(), MetaError> {
        self.log.flush().await
    }

    /// Closes all connections, after what they do now.
    pub(super) async fn close(&self) {
        self.log.close().await;
        if self.log.has_failed() {
            // What is open stays so until the process ends, which writes nothing back.
            return;
        }
        self.readers.close().await;
        // The last to close writes the log back into the database, which a reader could not.
        self.writer.close().await;
    }

    /// Writes a copy of the database as it is at one moment into an empty or new file. The copy is not flushed.
    pub(super) async fn copy_to(&self, file: &Path) -> Result<(), MetaError> {
        let name = file.to_str().ok_or_else(|| MetaError::File(Arc::new(io::ErrorKind::InvalidInput.into())))?;
        sqlx::query("VACUUM INTO $1").bind(name).execute(&self.readers).await?;
        Ok(())
    }

    /// Begins a write. The lock is taken at once: a transaction that first reads and then writes would fail instead of
    /// waiting when another process has written in between.
    pub(super) async fn begin(&self) -> Result<Write, MetaError> {
        if !self.is_writable() {
            return Err(MetaError::Stopped);
        }
        self.ballast.make_room();
        let begun = self.writer.begin_with("BEGIN IMMEDIATE").await;
        begun.map_err(|error| self.refused(error.into()))
    }

    /// As [`Database::begin`], for a write that only adds: refused while what room there is is for removing.
    pub(super) async fn begin_adding(&self) -> Result<Write, MetaError> {
        self.admit().await?;
        self.begin().await
    }

    /// Whether what only adds may be written now.
    pub(super) async fn admit(&self) -> Result<(), MetaError> {
        if !self.ballast.is_out() {
            return self.ballast.admit().map_err(no_room);
        }
        // Taking the space again may wait for the disk.
        let ballast = self.ballast.clone();
        let admitted = tokio::task::spawn_blocking(move || ballast.admit()).await;
        admitted.unwrap_or_else(|lost| Err(lost.into())).map_err(no_room)
    }

    /// Notes an error of the disk. A quota of the file system is told as a full disk, which `SQLite` does not.
    pub(super) fn refused(&self, error: MetaError) -> MetaError {
        if matches!(error, MetaError::Database(_) | MetaError::DiskFull | MetaError::ReadOnly) {
            self.has_refused.store(true, Ordering::Release);
        }
        match error {
            MetaError::Database(_) if self.ballast.is_read_only() => MetaError::ReadOnly,
            MetaError::Database(_) if self.ballast.is_full() => MetaError::DiskFull,
            other => other,
        }
    }

    /// Commits a write, and waits until it is durable.
    pub(super) async fn commit(&self, write: Write) -> Result<(), MetaError> {
        self.commit_unflushed(write).await?;
        self.log.flush().await
    }

    /// Commits a write that the next flush makes durable too: all are in one log, and recovery takes a log up to a
    /// point.
    pub(super) async fn commit_unflushed(&self, write: Write) -> Result<(), MetaError> {
        write.commit().await.map_err(|error| self.refused(error.into()))?;
        self.has_refused.store(false, Ordering::Release);
        self.log.committed();
        if self.ballast.is_out() {
            // A log that begins anew takes no more of the disk.
            self.log.write_back();
        }
        Ok(())
    }
}

/// What a refusal means that no constraint is the reason of.
pub(super) enum Refusal {
    Busy,
    Full,
    ReadOnly,
    Other,
}

impl Refusal {
    pub(super) fn of(refusal: &dyn DatabaseError) -> Self {
        /// The primary result codes that mean something to a caller (<https://www.sqlite.org/rescode.html>).
        const BUSY: u32 = 5;
        const READONLY: u32 = 8;
        const FULL: u32 = 13;
        // The low byte of an extended code is the primary code.
        match refusal.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
            Some(BUSY) => Self::Busy,
            Some(READONLY) => Self::ReadOnly,
            Some(FULL) => Self::Full,
            _ => Self::Other,
        }
    }
}

/// Why nothing can be added.
fn no_room(error: io::Error) -> MetaError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => MetaError::ReadOnly,
        _ if ballast::is_full(&error) => MetaError::DiskFull,
        _ => MetaError::File(Arc::new(error)),
    }
}

/// Makes the file with mode 0600 before `SQLite` would with the umask's. Its `-wal` and `-shm` files take its mode.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// Has the memory that the connections share written to its file in place. Btrfs writes what is changed elsewhere, and
/// where there is no room for that, the change of a page is a SIGBUS: on a full disk each would be (see `mapped`). A
/// file that is not empty stays as it is; other file systems write in place anyway, or know no such flag.
fn share_in_place(database: &Path) -> io::Result<()> {
    let mut name = database.as_os_str().to_owned();
    name.push("-shm");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(name)?;
    if let Ok(flags) = ioctl_getflags(&file) {
        let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
    Ok(())
}

/// A pool whose connections stay: a file on our own disk goes away with the process, not before.
fn lasting_pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // When the disk is full or fails, SQLite rolls back by itself; sqlx 0.9 then fails to roll back again, and
        // would take the connection to be inside that transaction for ever. Such a connection is replaced.
        .before_acquire(|connection, _| {
            let clean = !connection.is_in_transaction();
            Box::pin(async move { Ok(clean) })
        })
}

pub(super) fn migrations() -> Migrator {
    let steps = [
        (1, "first", include_str!("migrations/0001_first.sql")),
        (2, "trees", include_str!("migrations/0002_trees.sql")),
        (3, "block", include_str!("migrations/0003_block.sql")),
        (4, "token_chains", include_str!("migrations/0004_token_chains.sql")),
        (5, "session_users", include_str!("migrations/0005_session_users.sql")),
        (6, "seen", include_str!("migrations/0006_seen.sql")),
        (7, "backups", include_str!("migrations/0007_backups.sql")),
        (8, "job_turns", include_str!("migrations/0008_job_turns.sql")),
        (9, "checks", include_str!("migrations/0009_checks.sql")),
        (10, "contents", include_str!("migrations/0010_contents.sql")),
        (11, "states", include_str!("migrations/0011_states.sql")),
        (12, "asked", include_str!("migrations/0012_asked.sql")),
        (13, "transfers", include_str!("migrations/0013_transfers.sql")),
        (14, "blake3", include_str!("migrations/0014_blake3.sql")),
        (15, "metadata", include_str!("migrations/0015_metadata.sql")),
        (16, "media", include_str!("migrations/0016_media.sql")),
        (17, "origins", include_str!("migrations/0017_origins.sql")),
        (18, "piece_lists", include_str!("migrations/0018_piece_lists.sql")),
        (19, "checked_from", include_str!("migrations/0019_checked_from.sql")),
        (20, "quotas", include_str!("migrations/0020_quotas.sql")),
        (23, "kept", include_str!("migrations/0023_kept.sql")),
    ];
    let migration = |(number, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.into_iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::domain::{
        BlockQuery, ByteCount, Fault, FaultKind, TenantId, TransferState, UnixTime, Volume, VolumeKind, VolumeState,
    };
    use crate::meta::testing::{drive, scene, transfer_of};
    use crate::meta::{Batch, JobKind, Meta, NewJob, Owner, TransferStep, Vacancy};

    #[tokio::test]
    async fn the_database_files_are_readable_by_their_owner_only() {
        let scene = scene().await;
        scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(scene.path.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            seen += 1;
        }
        assert!(seen >= 2, "the database and its log");
    }

    #[tokio::test]
    async fn the_log_is_written_back_by_nobody_else_and_foreign_keys_are_checked() {
        let scene = scene().await;
        let pragma = |name| sqlx::query_scalar::<_, i64>(name).fetch_one(&scene.meta.db.writer);
        assert_eq!(pragma("PRAGMA synchronous").await.unwrap(), 1, "NORMAL");
        assert_eq!(pragma("PRAGMA wal_autocheckpoint").await.unwrap(), 0);
        assert_eq!(pragma("PRAGMA foreign_keys").await.unwrap(), 1);
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&scene.meta.db.writer).await.unwrap();
        assert_eq!(mode, "wal");
    }

    #[tokio::test]
    async fn a_full_disk_is_told_as_such_and_changes_nothing() {
        let scene = scene().await;
        // SQLite answers as on a full disk when the file would grow beyond this; no less than it has now.
        sqlx::query("PRAGMA max_page_count = 1").execute(&scene.meta.db.writer).await.unwrap();
        let large = Volume { name: "x".repeat(100_000), ..drive(scene.tenant, 1) };
        let refused = scene.meta.insert_volumes(vec![large.clone()], vec![]).await;
        assert!(matches!(refused, Err(MetaError::DiskFull)), "{refused:?}");
        assert_eq!(Fault::from(MetaError::DiskFull).kind, FaultKind::NoSpace);
        assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 0);
        // The connection was replaced, and the limit with it.
        scene.meta.insert_volumes(vec![large], vec![]).await.unwrap();
    }

    #[tokio::test]
    async fn on_a_full_disk_what_removes_is_written_with_the_space_that_is_kept_for_it_and_nothing_else_is() {
        let scene = scene().await;
        let (first, second) = (drive(scene.tenant, 1), drive(scene.tenant, 1));
        let transfer = transfer_of(&second);
        let insert = vec![first.clone(), second.clone()];
        let begin = Some(transfer.clone());
        scene.meta.apply(Batch { insert, begin, ..Batch::default() }).await.unwrap();
        let kept = scene.path.with_extension("ballast");
        // Larger than what is free, so that the disk counts as full; it was taken when there was more.
        let all = ByteCount::new(1 << 50).unwrap();
        File::create(&kept).unwrap();
        let meta = Meta {
            db: Database { ballast: Ballast::open(&kept, all).unwrap(), ..scene.meta.db.clone() },
            ..scene.meta.clone()
        };
        assert!(matches!(meta.check_room().await, Err(MetaError::DiskFull)));
        let added = meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await;
        assert!(matches!(added, Err(MetaError::DiskFull)), "{added:?}");
        let longer = Volume { name: "x".repeat(1000), ..first.clone() };
        assert!(matches!(meta.update(longer).await, Err(MetaError::DiskFull)));
        assert!(matches!(meta.add_key("k", "alice", UnixTime(1)).await, Err(MetaError::DiskFull)));
        let state = VolumeState::Deleting;
        meta.update(Volume { state, ..first.clone() }).await.unwrap();
        meta.remove_volume(first.id).await.unwrap();
        // The end of a transfer makes its drive, which enqueues a job.
        let (from, to, now) = (TransferState::Open, TransferState::Done, UnixTime(5));
        let step = Some(TransferStep::new(transfer.id, from, to, now));
        let enqueue = vec![NewJob::new(JobKind::Seal { spares_holes: false }, second.id, UnixTime(5))];
        let open = Batch { begin: Some(transfer_of(&second)), ..Batch::default() };
        assert!(matches!(meta.apply(open).await, Err(MetaError::DiskFull)));
        let insert = vec![drive(scene.tenant, 1)];
        let adding = Batch { step: step.clone(), insert, ..Batch::default() };
        assert!(matches!(meta.apply(adding).await, Err(MetaError::DiskFull)));
        meta.apply(Batch { step, enqueue, ..Batch::default() }).await.unwrap();
        // Both in one group.
        let batch = Batch { remove: vec![second.id], ..Batch::default() };
        let adding = Batch { insert: vec![drive(scene.tenant, 1)], ..Batch::default() };
        let (added, removed) = tokio::join!(meta.apply(adding), meta.apply(batch));
        assert!(matches!(added, Err(MetaError::DiskFull)), "{added:?}");
        removed.unwrap();
        assert_eq!(meta.usage(scene.tenant).await.unwrap().1.volumes, 0);
    }

    #[tokio::test]
    async fn what_is_asked_for_has_its_columns_in_a_database_of_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).foreign_keys(true);
        let before = SqlitePool::connect_with(options).await.unwrap();
        let first = migrations().iter().take(11).cloned().collect();
        Migrator::with_migrations(first).run(&before).await.unwrap();
        let tenant = TenantId::from_bytes([1; 16]);
        sqlx::raw_sql("INSERT INTO tenants (id, name, used_volumes, used_bytes, served) VALUES (x'01010101010101010101010101010101', 'red', 9, 0, 7)")
            .execute(&before)
            .await
            .unwrap();
        for (number, kind, meta, attributes) in [
            (2_u8, "drive", "{}", r#"{"block": {"zone": "az2", "public_image": true}}"#),
            (3, "drive", r#"{"image": "private"}"#, "{}"),
            (4, "drive", r#"{"image": "public"}"#, r#"{"block": {"zone": "az2"}}"#),
            (5, "tree", r#"{"image": "private"}"#, r#"{"hpc_ai": {"region": "r", "volume_type": "t", "user": "u"}}"#),
            (6, "drive", "{}", r#"{"hpc_ai": {"region": "r", "volume_type": "t"}}"#),
            (7, "drive", "{}", r#"{"hpc_ai": {"region": "r", "user": "u"}}"#),
            (8, "drive", "{}", r#"{"hpc_ai": {"volume_type": "t", "user": "u"}}"#),
        ] {
            sqlx::query(
                "INSERT INTO volumes (id, tenant, name, media, size, charged, state, generation, revision, created, \
                 updated, meta, attributes, kind) VALUES ($1, $2, $3, 'disk', 1, 1, 'available', 1, 1, $4, 1, $5, $6, $7)",
            )
            .bind([number; 16].as_slice())
            .bind(tenant.as_bytes().as_slice())
            .bind(format!("name {number}"))
            .bind(i64::from(number))
            .bind(meta)
            .bind(attributes)
            .bind(kind)
            .execute(&before)
            .await
            .unwrap();
        }
        before.close().await;

        let meta = Meta::open(&path).await.unwrap();
        let numbers = |volumes: Vec<Volume>| volumes.iter().map(|volume| volume.id.as_bytes()[0]).collect::<Vec<_>>();
        assert_eq!(numbers(meta.images().await.unwrap()), [2, 3]);
        let query = BlockQuery { zone: Some("az2".to_owned()), ..BlockQuery::default() };
        let listed = meta.block_volumes(Owner::Tenant(tenant), VolumeKind::Drive, &query).await.unwrap();
        assert_eq!(numbers(listed.items.iter().map(|told| Volume::clone(&told.volume)).collect()), [4, 2]);
        for (number, is_taken) in [(2, false), (5, true), (6, false), (7, false), (8, false)] {
            let vacant = vec![Vacancy { tenant, name: format!("name {number}") }];
            let outcome = meta.apply(Batch { vacant, ..Batch::default() }).await;
            assert_eq!(matches!(outcome, Err(MetaError::Duplicate)), is_taken, "{number}: {outcome:?}");
        }
        let turns: i64 = sqlx::query_scalar("SELECT value FROM counters WHERE name = 'turns'")
            .fetch_one(&meta.db.readers)
            .await
            .unwrap();
        assert_eq!(turns, 7);
    }
}
