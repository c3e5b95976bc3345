//! Which contents somebody has, and which nobody has any more.
//!
//! # Invariants
//! - A content that no volume has any more is noted in the transaction that makes it so, until its bytes are gone.
//! - What a job reads was a volume's when the job was added, and is not told to be free before the job has ended.

use std::collections::HashSet;

use super::sqlite::Connection;
use super::{Meta, MetaError, id_bytes};
use crate::domain::{ContentId, VolumeId};

/// Whether a volume has a content. That with the id of its volume is in no index of its own.
macro_rules! is_of_volume {
    ($and:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM volumes WHERE id = $1 AND content = $1 ",
            $and,
            ") OR EXISTS (SELECT 1 FROM volumes WHERE content = $1 AND content <> id ",
            $and,
            ")"
        )
    };
}

const IS_OWNED: &str = concat!(
    "SELECT 1 WHERE ",
    is_of_volume!(""),
    " OR EXISTS (SELECT 1 FROM uploads WHERE content = $1 AND is_open = 1) \
     OR EXISTS (SELECT 1 FROM jobs WHERE content = $1) OR EXISTS (SELECT 1 FROM dropped WHERE content = $1)"
);
const IS_FILLED: &str = concat!(
    "SELECT 1 WHERE ",
    is_of_volume!("AND state IN ('uploading', 'creating', 'cloning_target', 'downloading')"),
    " OR EXISTS (SELECT 1 FROM jobs WHERE content = $1 AND kind = 'restore')"
);
const IS_HELD: &str = concat!("SELECT 1 WHERE ", is_of_volume!("AND state <> 'deleting'"));
const IS_READ: &str = "SELECT 1 FROM jobs WHERE content = $1 LIMIT 1";

impl Meta {
    /// Whether anybody has this content, or it is still to be removed.
    pub async fn owns_content(&self, id: ContentId) -> Result<bool, MetaError> {
        self.is_so(IS_OWNED, id).await
    }

    /// Whether somebody is at filling this content.
    pub async fn fills_content(&self, id: ContentId) -> Result<bool, MetaError> {
        self.is_so(IS_FILLED, id).await
    }

    /// Whether a job reads this content.
    pub async fn reads_content(&self, id: ContentId) -> Result<bool, MetaError> {
        self.is_so(IS_READ, id).await
    }

    /// All contents that [`Meta::owns_content`] is true of.
    pub async fn contents(&self) -> Result<HashSet<ContentId>, MetaError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT content FROM volumes WHERE content IS NOT NULL \
             UNION ALL SELECT content FROM uploads WHERE is_open = 1 \
             UNION ALL SELECT content FROM jobs WHERE content IS NOT NULL UNION ALL SELECT content FROM dropped",
        )
        .fetch_all(&self.db.readers)
        .await?;
        ids.iter().map(|id| Ok(ContentId::from_bytes(id_bytes(id, "content")?))).collect()
    }

    /// All drives and snapshots, with their contents.
    pub async fn image_contents(&self) -> Result<Vec<(VolumeId, ContentId)>, MetaError> {
        let images: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT id, content FROM volumes WHERE kind <> 'tree' AND content IS NOT NULL")
                .fetch_all(&self.db.readers)
                .await?;
        let image = |(id, content): &(Vec<u8>, Vec<u8>)| {
            let content = ContentId::from_bytes(id_bytes(content, "content")?);
            Ok((VolumeId::from_bytes(id_bytes(id, "id")?), content))
        };
        images.iter().map(image).collect()
    }

    /// The contents that nobody has any more and no job reads, to be removed. That they are is durable.
    pub async fn dropped_contents(&self) -> Result<Vec<ContentId>, MetaError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT content FROM dropped WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.content = dropped.content)",
        )
        .fetch_all(&self.db.readers)
        .await?;
        if !ids.is_empty() {
            self.db.flush().await?;
        }
        ids.iter().map(|id| Ok(ContentId::from_bytes(id_bytes(id, "content")?))).collect()
    }

    /// Forgets a content whose bytes are gone. Not flushed: removing it once more is nothing.
    pub async fn forget_dropped(&self, id: ContentId) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("DELETE FROM dropped WHERE content = $1").bind(id.as_bytes().as_slice()).execute(&mut *tx).await?;
        self.db.commit_unflushed(tx).await
    }

    async fn is_so(&self, question: &'static str, id: ContentId) -> Result<bool, MetaError> {
        let answer = sqlx::query(question).bind(id.as_bytes().as_slice()).fetch_optional(&self.db.readers).await?;
        Ok(answer.is_some())
    }
}

/// Fails with [`MetaError::Conflict`] unless a volume has this content.
pub(super) async fn check_held(connection: &mut Connection, id: ContentId) -> Result<(), MetaError> {
    let answer = sqlx::query(IS_HELD).bind(id.as_bytes().as_slice()).fetch_optional(connection).await?;
    answer.map(drop).ok_or(MetaError::Conflict)
}

/// Notes that no volume has this content any more.
pub(super) async fn drop_content(connection: &mut Connection, id: ContentId) -> Result<(), MetaError> {
    sqlx::query("INSERT INTO dropped (content) VALUES ($1) ON CONFLICT (content) DO NOTHING")
        .bind(id.as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::migrate::Migrator;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{Connection as _, QueryBuilder, Row as _};

    use super::*;
    use crate::domain::{BackupId, JobId, UnixTime, Volume, VolumeState};
    use crate::meta::sqlite::migrations;
    use crate::meta::testing::{count, drive, scene};
    use crate::meta::{Batch, JobKind, Lane, NewJob};

    #[tokio::test]
    async fn a_content_is_free_when_no_volume_has_it_and_the_last_job_that_reads_it_has_ended() {
        let scene = scene().await;
        let meta = &scene.meta;
        let (source, target) = (drive(scene.tenant, 1), drive(scene.tenant, 1));
        let old = source.image();
        let kind = JobKind::Clone { source: source.id, content: old, size: count(1) };
        let job = NewJob::new(kind, target.id, UnixTime(1));
        meta.insert_volumes(vec![source.clone(), target], vec![job]).await.unwrap();
        assert!(meta.owns_content(old).await.unwrap() && meta.reads_content(old).await.unwrap());

        let new = ContentId::random();
        let update = vec![Volume { content: Some(new), ..source.clone() }];
        meta.apply(Batch { update, drop: vec![old], ..Batch::default() }).await.unwrap();
        assert_eq!(meta.dropped_contents().await.unwrap(), [], "a job reads it");
        let late = Batch { enqueue: vec![NewJob { id: JobId::random(), ..job }], ..Batch::default() };
        assert!(matches!(meta.apply(late).await, Err(MetaError::Conflict)), "it is no volume's");
        assert!(
            meta.owns_content(new).await.unwrap() && meta.image_contents().await.unwrap().contains(&(source.id, new))
        );

        let job = meta.claim("a", UnixTime(2), 60, Lane::Prompt).await.unwrap().unwrap();
        meta.apply(Batch { finish: Some(job.lease), ..Batch::default() }).await.unwrap();
        assert_eq!(meta.dropped_contents().await.unwrap(), [old]);
        assert!(meta.owns_content(old).await.unwrap() && meta.contents().await.unwrap().contains(&old));
        for _ in 0..2 {
            meta.forget_dropped(old).await.unwrap();
            assert_eq!(meta.dropped_contents().await.unwrap(), []);
        }
        assert!(!meta.owns_content(old).await.unwrap() && !meta.contents().await.unwrap().contains(&old));
    }

    #[tokio::test]
    async fn what_is_being_filled_is_of_a_volume_that_is_being_made_or_of_a_restore() {
        let scene = scene().await;
        let meta = &scene.meta;
        let making = Volume { state: VolumeState::Uploading, ..drive(scene.tenant, 1) };
        let restoring = Volume { state: VolumeState::Restoring, ..drive(scene.tenant, 1) };
        let content = ContentId::random();
        let kind = JobKind::Restore { backup: BackupId::random(), content };
        let job = NewJob::new(kind, restoring.id, UnixTime(1));
        meta.insert_volumes(vec![making.clone(), restoring.clone()], vec![job]).await.unwrap();
        for (id, is_filled) in [(making.image(), true), (restoring.image(), false), (content, true)] {
            assert_eq!(meta.fills_content(id).await.unwrap(), is_filled);
            assert!(meta.owns_content(id).await.unwrap());
        }
        let stranger = ContentId::random();
        assert!(!meta.fills_content(stranger).await.unwrap() && !meta.owns_content(stranger).await.unwrap());
    }

    /// Jobs that hold what they read, and jobs that keep their volumes waiting.
    #[tokio::test]
    async fn what_an_earlier_version_has_left_to_do_is_done_on_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut before = SqliteConnection::connect_with(&options).await.unwrap();
        let earlier = migrations().iter().take(9).cloned().collect();
        Migrator::with_migrations(earlier).run(&mut before).await.unwrap();
        let id = |number: u8| vec![number; 16];
        sqlx::query("INSERT INTO tenants (id, name, used_volumes, used_bytes) VALUES ($1, 'red', 5, 5)")
            .bind(id(1))
            .execute(&mut before)
            .await
            .unwrap();
        let states = ["cloning_source", "cloning_target", "backing_up_attached", "in_use", "restoring"];
        for (number, state) in (2..).zip(states) {
            sqlx::query(
                "INSERT INTO volumes (id, tenant, name, media, size, charged, state, clones, generation, revision, \
                 created, updated, meta, attributes, kind) \
                 VALUES ($1, $2, 'x', 'disk', 1, 1, $3, 2, 1, 1, 1, 1, '{}', '{}', 'drive')",
            )
            .bind(id(number))
            .bind(id(1))
            .bind(state)
            .execute(&mut before)
            .await
            .unwrap();
        }
        let backup = BackupId::from_bytes([9; 16]);
        let payload = |more: &str| format!("{{\"backup\":\"{backup}\"{more}}}");
        let jobs = [
            ("clone", 3, Some(2), "{}".to_owned()),
            ("clone", 3, Some(2), "{\"held\":1}".to_owned()),
            ("backup", 4, None, payload("")),
            ("backup", 5, None, payload(",\"held\":1")),
            ("restore", 6, None, payload("")),
        ];
        for (number, (kind, volume, source, payload)) in (10..).zip(&jobs) {
            sqlx::query(
                "INSERT INTO jobs (id, kind, volume, source, payload, created, attempts) VALUES ($1, $2, $3, $4, $5, $6, 0)",
            )
            .bind(id(number))
            .bind(kind)
            .bind(id(*volume))
            .bind(source.map(id))
            .bind(payload)
            .bind(i64::from(number))
            .execute(&mut before)
            .await
            .unwrap();
        }
        before.close().await.unwrap();

        let meta = Meta::open(&path).await.unwrap();
        let (content, source) = (|number| ContentId::from_bytes([number; 16]), VolumeId::from_bytes([2; 16]));
        let mut claimed = Vec::new();
        for lane in [Lane::Prompt, Lane::Long] {
            while let Some(job) = meta.claim("a", UnixTime(20), 60, lane).await.unwrap() {
                meta.apply(Batch { finish: Some(job.lease), ..Batch::default() }).await.unwrap();
                claimed.push(job.kind);
            }
        }
        let size = count(0);
        let expected = [
            JobKind::Clone { source, content: content(2), size },
            JobKind::Clone { source, content: content(11), size },
            JobKind::Backup { backup, content: content(4) },
            JobKind::Backup { backup, content: content(13) },
            JobKind::Restore { backup, content: content(14) },
        ];
        assert_eq!(claimed, expected);
        let [at_rest, in_use] = [VolumeState::Available, VolumeState::InUse];
        let now = [at_rest, VolumeState::CloningTarget, in_use, in_use, VolumeState::Restoring];
        for (number, state) in (2..).zip(now) {
            let volume = meta.volume_any(VolumeId::from_bytes([number; 16])).await.unwrap().unwrap();
            assert_eq!((volume.content, volume.state), (Some(content(number)), state));
        }
    }

    #[tokio::test]
    async fn who_has_a_content_is_found_by_indices() {
        let scene = scene().await;
        for question in [IS_OWNED, IS_FILLED, IS_HELD, IS_READ] {
            let mut explained = QueryBuilder::<sqlx::Sqlite>::new("EXPLAIN QUERY PLAN ");
            explained.push(question);
            let rows = explained.build().fetch_all(&scene.meta.db.readers).await.unwrap();
            for row in rows {
                let step: String = row.get("detail");
                // The open uploads are few.
                assert!(
                    !step.starts_with("SCAN") || step.contains("one_open_upload") || step.contains("CONSTANT"),
                    "{step}"
                );
            }
        }
    }
}
