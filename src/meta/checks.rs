//! When each volume was last checked, and which is next.
//!
//! What is known here is of one generation of a volume; its next one was never checked. Nothing here is flushed by
//! itself: what a power cut takes is checked once more.

use sqlx::Row as _;

use super::{Meta, MetaError, id_bytes};
use crate::domain::{UnixTime, VolumeId};

/// How many volumes are looked at in one step.
const PAGE: i64 = 500;

/// Those that were checked, or stored, before a time.
const BY_AGE: &str =
    "SELECT volume, generation, checked, position FROM checks WHERE since <= $1 ORDER BY since, volume LIMIT 1";
/// Of these, those that were never checked.
const NEVER_MADE: &str = "SELECT volume, generation, checked, position FROM checks WHERE checked IS NULL AND since <= $1 \
                          ORDER BY since, volume LIMIT 1";
/// A step through all volumes: what is here of them, and what was known of it before.
const STEP: &str = "SELECT v.id, v.generation, v.updated, c.generation AS known FROM volumes v \
                    LEFT JOIN checks c ON c.volume = v.id \
                    WHERE v.id > $1 AND (v.kind <> 'tree' OR v.content IS NOT NULL) ORDER BY v.id LIMIT $2";

/// A check that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Of which volume.
    pub volume: VolumeId,
    /// Of which generation of it.
    pub generation: u64,
    /// Whether it was ever checked.
    pub is_first: bool,
    /// How far it has come.
    pub position: u64,
}

/// A reading of a volume from its first byte to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it began; `None` of one that went on after the server began anew, or is of an earlier version.
    pub began: Option<UnixTime>,
    /// When it had come to the end.
    pub ended: UnixTime,
}

impl Meta {
    /// Notes volumes, and new generations of volumes, that were not noted before: these are to be checked. In steps, by
    /// id: after `after`, to where the answer says that the next step begins.
    pub async fn note_unchecked(&self, after: Option<VolumeId>) -> Result<Option<VolumeId>, MetaError> {
        let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
        let rows = sqlx::query(STEP).bind(after).bind(PAGE).fetch_all(&self.db.readers).await?;
        let mut last = None;
        let mut unknown = Vec::new();
        for row in &rows {
            let id = VolumeId::from_bytes(id_bytes(row.try_get("id")?, "id")?);
            let generation: i64 = row.try_get("generation")?;
            if row.try_get::<Option<i64>, _>("known")? != Some(generation) {
                unknown.push((id, generation, UnixTime(row.try_get("updated")?)));
            }
            last = Some(id);
        }
        if !unknown.is_empty() {
            let mut tx = self.db.begin_adding().await?;
            for (id, generation, stored) in unknown {
                // It may be gone by now, or be another.
                sqlx::query(
                    "INSERT INTO checks (volume, generation, since, position) \
                     SELECT id, generation, $3, 0 FROM volumes WHERE id = $1 AND generation = $2 \
                     ON CONFLICT (volume) DO UPDATE \
                     SET generation = excluded.generation, checked = NULL, checked_from = NULL, \
                     since = excluded.since, position = 0",
                )
                .bind(id.as_bytes().as_slice())
                .bind(generation)
                .bind(stored.0)
                .execute(&mut *tx)
                .await?;
            }
            self.db.commit_unflushed(tx).await?;
        }
        Ok(last.filter(|_| rows.len() as i64 == PAGE))
    }

    /// The check that has been due for longest: of what was last checked before one time, or was stored before the
    /// other and never checked.
    pub async fn next_check(
        &self,
        checked_before: UnixTime,
        stored_before: UnixTime,
    ) -> Result<Option<Check>, MetaError> {
        for (query, before) in [(BY_AGE, checked_before), (NEVER_MADE, stored_before)] {
            let row = sqlx::query(query).bind(before.0).fetch_optional(&self.db.readers).await?;
            let Some(row) = row else { continue };
            return Ok(Some(Check {
                volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
                generation: row.try_get::<i64, _>("generation")?.cast_unsigned(),
                is_first: row.try_get::<Option<i64>, _>("checked")?.is_none(),
                position: row.try_get::<i64, _>("position")?.cast_unsigned(),
            }));
        }
        Ok(None)
    }

    /// Notes how far a check has come.
    pub async fn note_position(&self, check: &Check, position: u64) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE checks SET position = $3 WHERE volume = $1 AND generation = $2")
            .bind(check.volume.as_bytes().as_slice())
            .bind(check.generation.cast_signed())
            .bind(position.cast_signed())
            .execute(&mut *tx)
            .await?;
        self.db.commit_unflushed(tx).await
    }

    /// Lets a check wait as if it had been made at this time. It goes on from where it is.
    pub async fn put_off_check(&self, check: &Check, since: UnixTime) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE checks SET since = $2 WHERE volume = $1")
            .bind(check.volume.as_bytes().as_slice())
            .bind(since.0)
            .execute(&mut *tx)
            .await?;
        self.db.commit_unflushed(tx).await
    }

    /// Notes that this generation of a volume was read back and is whole. Of another one that says nothing.
    pub async fn note_checked(&self, id: VolumeId, generation: u64, reading: Reading) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query(
            "INSERT INTO checks (volume, generation, checked, checked_from, since, position) \
             SELECT id, generation, $3, $4, $3, 0 FROM volumes WHERE id = $1 AND generation = $2 \
             ON CONFLICT (volume) DO UPDATE SET generation = excluded.generation, checked = excluded.checked, \
             checked_from = excluded.checked_from, since = excluded.since, position = 0",
        )
        .bind(id.as_bytes().as_slice())
        .bind(generation.cast_signed())
        .bind(reading.ended.0)
        .bind(reading.began.map(|began| began.0))
        .execute(&mut *tx)
        .await?;
        self.db.commit_unflushed(tx).await
    }

    /// The reading by which this generation of a volume was last found whole.
    pub async fn last_checked(&self, id: VolumeId, generation: u64) -> Result<Option<Reading>, MetaError> {
        let checked: Option<(Option<i64>, Option<i64>)> =
            sqlx::query_as("SELECT checked, checked_from FROM checks WHERE volume = $1 AND generation = $2")
                .bind(id.as_bytes().as_slice())
                .bind(generation.cast_signed())
                .fetch_optional(&self.db.readers)
                .await?;
        Ok(checked.and_then(|(ended, began)| Some(Reading { began: began.map(UnixTime), ended: ended.map(UnixTime)? })))
    }

    /// When the volume that was not checked for longest was checked, or stored.
    pub async fn oldest_check(&self) -> Result<Option<UnixTime>, MetaError> {
        let since: Option<i64> = sqlx::query_scalar("SELECT since FROM checks ORDER BY since, volume LIMIT 1")
            .fetch_optional(&self.db.readers)
            .await?;
        Ok(since.map(UnixTime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Volume, VolumeKind};
    use crate::meta::testing::{Scene, drive, scene};

    const NEVER: UnixTime = UnixTime(i64::MIN);

    async fn note_all(scene: &Scene) {
        let mut after = None;
        loop {
            after = scene.meta.note_unchecked(after).await.unwrap();
            if after.is_none() {
                return;
            }
        }
    }

    /// A reading that ended then.
    fn read(at: i64) -> Reading {
        Reading { began: Some(UnixTime(at - 1)), ended: UnixTime(at) }
    }

    fn stored(scene: &Scene, at: i64) -> Volume {
        Volume { updated: UnixTime(at), ..drive(scene.tenant, 1) }
    }

    #[tokio::test]
    async fn what_was_checked_longest_ago_is_next_and_what_never_was_counts_from_when_it_was_stored() {
        let scene = scene().await;
        let meta = &scene.meta;
        let [old, young, checked] = [stored(&scene, 20), stored(&scene, 30), stored(&scene, 1)];
        let snapshot = Volume { kind: VolumeKind::Snapshot, ..stored(&scene, 40) };
        let all = vec![young.clone(), old.clone(), checked.clone(), snapshot.clone()];
        meta.insert_volumes(all, vec![]).await.unwrap();
        meta.note_checked(checked.id, 1, read(25)).await.unwrap();
        assert_eq!(meta.last_checked(checked.id, 1).await.unwrap(), Some(read(25)));
        note_all(&scene).await;
        assert_eq!(meta.last_checked(old.id, 1).await.unwrap(), None);
        assert_eq!(meta.oldest_check().await.unwrap(), Some(UnixTime(20)));
        let mut order = Vec::new();
        while let Some(check) = meta.next_check(UnixTime(50), NEVER).await.unwrap() {
            assert_eq!((check.generation, check.position, check.is_first), (1, 0, check.volume != checked.id));
            meta.note_checked(check.volume, 1, read(51)).await.unwrap();
            order.push(check.volume);
        }
        assert_eq!(order, [old.id, checked.id, young.id, snapshot.id]);
        // What was never checked may be due earlier.
        let new = stored(&scene, 60);
        meta.insert_volumes(vec![new.clone()], vec![]).await.unwrap();
        assert_eq!(meta.next_check(UnixTime(50), UnixTime(60)).await.unwrap(), None, "it is not known yet");
        note_all(&scene).await;
        assert_eq!(meta.next_check(UnixTime(50), UnixTime(59)).await.unwrap(), None);
        assert_eq!(meta.next_check(UnixTime(50), UnixTime(60)).await.unwrap().unwrap().volume, new.id);
    }

    #[tokio::test]
    async fn a_check_goes_on_where_it_was_and_what_is_known_is_of_one_generation() {
        let scene = scene().await;
        let meta = &scene.meta;
        let volume = stored(&scene, 5);
        meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
        note_all(&scene).await;
        let next = async || meta.next_check(UnixTime(1_000), NEVER).await.unwrap();
        let check = next().await.unwrap();
        meta.note_position(&check, 77).await.unwrap();
        note_all(&scene).await;
        assert_eq!(next().await, Some(Check { position: 77, ..check }));
        meta.put_off_check(&check, UnixTime(1_001)).await.unwrap();
        assert_eq!(next().await, None);
        assert_eq!(meta.next_check(UnixTime(1_001), NEVER).await.unwrap(), Some(Check { position: 77, ..check }));

        let grown = Volume { generation: 2, updated: UnixTime(9), ..volume.clone() };
        meta.update(grown).await.unwrap();
        meta.note_checked(volume.id, 1, read(8)).await.unwrap();
        assert_eq!(meta.last_checked(volume.id, 1).await.unwrap(), None, "it came too late");
        note_all(&scene).await;
        meta.note_position(&check, 78).await.unwrap();
        assert_eq!(next().await, Some(Check { generation: 2, position: 0, ..check }));
        meta.note_checked(volume.id, 2, read(12)).await.unwrap();
        assert_eq!(next().await, Some(Check { generation: 2, is_first: false, ..check }));
        let unknown = Reading { began: None, ended: UnixTime(12) };
        meta.note_checked(volume.id, 2, unknown).await.unwrap();
        assert_eq!(meta.last_checked(volume.id, 2).await.unwrap(), Some(unknown), "not when the one before began");
        // Its check goes with a volume.
        meta.remove_volume(volume.id).await.unwrap();
        assert_eq!((next().await, meta.oldest_check().await.unwrap()), (None, None));
        meta.note_checked(volume.id, 2, read(13)).await.unwrap();
        assert_eq!(meta.oldest_check().await.unwrap(), None);
    }

    #[tokio::test]
    async fn all_volumes_are_noted_in_steps() {
        let scene = scene().await;
        let volumes: Vec<Volume> = (0..=2 * PAGE).map(|at| stored(&scene, at)).collect();
        scene.meta.insert_volumes(volumes, vec![]).await.unwrap();
        note_all(&scene).await;
        let noted: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM checks").fetch_one(&scene.meta.db.readers).await.unwrap();
        assert_eq!(noted, 2 * PAGE + 1);
    }

    #[tokio::test]
    async fn each_question_is_answered_by_an_index_and_nothing_is_sorted() {
        let scene = scene().await;
        for (query, entries) in [
            (BY_AGE, ["checks_by_age (since<?)"].as_slice()),
            (NEVER_MADE, &["checks_never_made (since<?)"]),
            (STEP, &["sqlite_autoindex_volumes_1 (id>?)", "sqlite_autoindex_checks_1 (volume=?)"]),
        ] {
            let mut explained = sqlx::QueryBuilder::<sqlx::Sqlite>::new("EXPLAIN QUERY PLAN ");
            explained.push(query);
            let rows = explained.build().fetch_all(&scene.meta.db.readers).await.unwrap();
            let plan = rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("; ");
            assert!(entries.iter().all(|entry| plan.contains(entry)) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
