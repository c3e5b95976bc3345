//! What we know: tenants, users, their keys and tokens, volumes, sessions, transfers and jobs, in one `SQLite`
//! database.
//!
//! It keeps records and their sums; it knows no bytes of volumes and decides no step of a volume's life.
//!
//! # Invariants
//! - A write is all durable when its call returns, or none of it ever happened. Batches that wait at the same time
//!   share a transaction (`group`).
//! - `used_*` of a tenant is the sum over its volumes, and a growth never takes it above the tenant's quota.
//! - A volume is changed only by who has read its latest revision.
//! - A job is finished only by who holds its latest lease (I7).
//!
//! # Cancellation
//! Dropping a read is safe. A dropped write either happened whole or not at all, and the caller cannot know which.
//!
//! # Crash
//! `SQLite`'s write-ahead log, flushed before a write is answered (`log`): what was answered survives, and opening
//! recovers by itself, also after a process whose flush failed. Readers see a write from its commit on, a flush earlier
//! than its caller is told: whoever does something irreversible because of what they have read makes it wait for a
//! write of their own.

mod batch;
mod block;
mod checks;
mod contents;
mod error;
mod group;
mod identity;
mod jobs;
mod keys;
mod recent;
mod recovery;
mod sessions;
mod sqlite;
mod tenants;
#[cfg(test)]
mod testing;
mod transfers;
mod volumes;

use std::path::Path;
use std::sync::Arc;

use group::Groups;
use recent::Recent;
use sqlite::Database;

pub use batch::{Batch, Vacancy};
pub use block::Owner;
pub use checks::{Check, Reading};
pub use error::MetaError;
pub use identity::ProjectSummary;
pub use jobs::{Job, JobKind, Lane, Lease, NewJob};
pub use keys::KeySummary;
pub use sessions::Attempt;
pub use sqlite::Ballast;
pub use tenants::{UserRecord, UserSummary};
pub use transfers::TransferStep;

/// The metadata. Clones share the same connections.
#[derive(Clone, Debug)]
pub struct Meta {
    db: Database,
    groups: Groups,
    recent: Arc<Recent>,
}

impl Meta {
    /// Opens the database in this file, which is made when it is missing, and brings its tables up to date. Another
    /// process may have it open too.
    pub async fn open(path: &Path) -> Result<Self, MetaError> {
        Ok(Self::on(Database::open(path, false, Ballast::none()).await?))
    }

    /// As [`Meta::open`], for the process that serves: its log begins anew, nobody else may have it open now, and space
    /// is kept beside it.
    pub async fn open_to_serve(path: &Path, ballast: Ballast) -> Result<Self, MetaError> {
        Ok(Self::on(Database::open(path, true, ballast).await?))
    }

    fn on(db: Database) -> Self {
        Self { db, groups: Groups::default(), recent: Arc::default() }
    }

    /// Whether the log broke off when it was opened: what it had behind that is lost, and may have been answered.
    pub fn has_lost(&self) -> bool {
        self.db.has_lost()
    }

    /// Whether what is written can become durable. Once it cannot, only a restart helps.
    pub fn is_writable(&self) -> bool {
        self.db.is_writable()
    }

    /// Whether the database answers, and can be written.
    pub async fn is_alive(&self) -> bool {
        self.is_writable() && sqlx::query("SELECT 1").execute(&self.db.readers).await.is_ok()
    }

    /// Whether new things can be written, as far as this can be told without one: [`MetaError::DiskFull`] while there
    /// is only room for removing, another error while the disk takes nothing.
    pub async fn check_room(&self) -> Result<(), MetaError> {
        self.db.check_room().await?;
        if self.db.has_refused() {
            // What the database met may have passed: only another write can tell.
            let mut tx = self.db.begin().await?;
            sqlx::query("UPDATE counters SET value = value").execute(&mut *tx).await?;
            self.db.commit(tx).await?;
        }
        Ok(())
    }

    /// Closes all connections, after what they do now. Later calls answer [`MetaError::Busy`].
    pub async fn close(&self) {
        self.groups.settle().await;
        self.db.close().await;
    }
}

/// The 16 bytes of an id, from a column of this name.
fn id_bytes(bytes: &[u8], column: &'static str) -> Result<[u8; 16], MetaError> {
    bytes.try_into().map_err(|_| MetaError::Damaged(column))
}

#[cfg(test)]
mod tests {
    use super::testing::{drive, scene};
    use super::*;
    use std::task::Poll;

    use crate::domain::{DriveFilter, Page, UnixTime};

    const ALL: Page = Page { limit: None, offset: 0 };

    /// The code of a file, without its comments and its tests.
    fn code_of(text: &str) -> impl Iterator<Item = &str> {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        code.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    #[test]
    fn outside_the_folder_of_an_engine_sql_has_no_words_of_it() {
        // Of SQLite, of both with another meaning, and the types of one.
        const WORDS: [&str; 27] = [
            "json_extract",
            "json_each",
            "json_type",
            "->>",
            "randomblob",
            "group_concat",
            "hex(",
            "insert or ",
            "replace into",
            "rowid",
            "pragma",
            "strftime",
            "datetime(",
            "ifnull",
            " glob ",
            " like ",
            "collate",
            "begin immediate",
            "vacuum",
            "limit -1",
            "select exists",
            "as blob",
            "tenant, user,",
            " user =",
            "(only",
            "sqlx::sqlite",
            "sqlite_",
        ];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meta");
        let files = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut read = 0;
        for path in files(&folder).chain(files(&folder.join("block"))) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() || ["tests.rs", "testing.rs"].contains(&name) {
                continue;
            }
            read += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for line in code_of(&text) {
                let lower = line.to_lowercase();
                let found = WORDS.iter().find(|word| lower.contains(*word));
                assert!(found.is_none() && !line.contains("Sqlite"), "{name}: {found:?} in {line}");
            }
        }
        assert!(read > 12, "only {read} files were read");
    }

    #[tokio::test]
    async fn everything_is_there_again_after_close_and_open() {
        let scene = scene().await;
        let volume = drive(scene.tenant, 5);
        let job = NewJob::new(JobKind::Seal { spares_holes: true }, volume.id, UnixTime(7));
        scene.meta.insert_volumes(vec![volume.clone()], vec![job]).await.unwrap();
        scene.meta.close().await;
        assert!(matches!(scene.meta.users().await, Err(MetaError::Busy(_))));

        let again = Meta::open(&scene.path).await.unwrap();
        assert_eq!(again.volume(scene.tenant, volume.id).await.unwrap(), Some(volume.clone()));
        assert_eq!(again.user("alice").await.unwrap().unwrap().tenant, scene.tenant);
        let claimed = again.claim("me", UnixTime(8), 60, Lane::Idle).await.unwrap().unwrap();
        assert_eq!((claimed.volume, claimed.kind), (volume.id, JobKind::Seal { spares_holes: true }));
        let (_, usage) = again.usage(scene.tenant).await.unwrap();
        assert_eq!((usage.volumes, usage.bytes.get()), (1, 5));
    }

    #[tokio::test]
    async fn a_write_that_was_committed_is_seen_by_the_next_read() {
        let scene = scene().await;
        for round in 1..=20 {
            scene.meta.insert_volumes(vec![drive(scene.tenant, 1)], vec![]).await.unwrap();
            let (drives, total) = scene.meta.list(scene.tenant, &DriveFilter::default(), ALL).await.unwrap().unwrap();
            assert_eq!((drives.len() as u64, total), (round, round));
        }
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_anywhere_happened_whole_or_not_at_all() {
        let scene = scene().await;
        for polls in 0..60 {
            let pair = vec![drive(scene.tenant, 3), drive(scene.tenant, 4)];
            let mut write = Box::pin(scene.meta.insert_volumes(pair, vec![]));
            let mut left = polls;
            std::future::poll_fn(|context| {
                if left == 0 || write.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                left -= 1;
                Poll::Pending
            })
            .await;
            drop(write);
            // The next write waits for the connection, and so for the end of the dropped one.
            scene.meta.set_password("alice", "h").await.unwrap();
            let (_, usage) = scene.meta.usage(scene.tenant).await.unwrap();
            let there = scene.meta.all_volume_ids().await.unwrap().len() as u64;
            assert_eq!((usage.volumes, usage.bytes.get()), (there, there / 2 * 7));
        }
    }
}
