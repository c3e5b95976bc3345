//! Reading volumes, and their rows.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::Row as _;

use super::sqlite::{Connection, DbRow, Of, Sql, word};
use super::{Meta, MetaError, id_bytes};
use crate::domain::{
    Blake3, ByteCount, ContentId, Digests, DriveFilter, Media, NameMatch, Page, Placement, Seen, Sha256, TenantId,
    UnixTime, Volume, VolumeId, VolumeKind, VolumeState,
};

/// A query of whole volumes, with what follows `FROM volumes`.
macro_rules! select_volumes {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, name, media, size, charged, state, reason, generation, revision, created, \
             updated, sha256, blake3, blake3_pieces, meta, attributes, kind, content, source FROM volumes ",
            $rest
        )
    };
}
pub(super) use select_volumes;

/// The same, with nothing after it.
pub(super) const SELECT_VOLUMES: &str = select_volumes!("");

/// The most drives of a page that is held whole: what clients ask for that page through their drives.
const MOST_WHOLE: u64 = 100;

/// How long the texts of a page's rows are, about. Of volumes as they are made, a thousand have half of it (I12).
pub(super) const MOST_TEXTS: usize = 2 << 20;

impl Meta {
    /// A volume of this tenant. Another's is not found, and neither is one whose removal has begun.
    pub async fn volume(&self, tenant: TenantId, id: VolumeId) -> Result<Option<Volume>, MetaError> {
        if let Some(known) = self.recent.any(id) {
            let revision: Option<i64> = sqlx::query_scalar(
                "SELECT revision FROM volumes WHERE id = $1 AND tenant = $2 AND state <> 'deleting'",
            )
            .bind(id.as_bytes().as_slice())
            .bind(tenant.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
            match revision {
                None => return Ok(None),
                Some(revision) if revision.cast_unsigned() == known.revision => {
                    return Ok(Some(Volume::clone(&known)));
                }
                Some(_) => {}
            }
        }
        let row = sqlx::query(select_volumes!("WHERE id = $1 AND tenant = $2 AND state <> 'deleting'"))
            .bind(id.as_bytes().as_slice())
            .bind(tenant.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
        row.as_ref().map(|row| self.remembered(row).map(|seen| Volume::clone(&seen))).transpose()
    }

    /// The volume of a row, which will be known when it is asked for again.
    pub(super) fn remembered(&self, row: &DbRow) -> Result<Arc<Seen>, MetaError> {
        let length = texts_of(row)?;
        let volume = Seen::of_row(from_row(row)?, length);
        self.recent.put(Arc::clone(&volume), length);
        Ok(volume)
    }

    /// A volume of any tenant and in any state, for jobs and tickets.
    pub async fn volume_any(&self, id: VolumeId) -> Result<Option<Volume>, MetaError> {
        let row = sqlx::query(select_volumes!("WHERE id = $1"))
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&self.db.readers)
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The tree of this name that this tenant has.
    pub async fn tree(&self, tenant: TenantId, name: &str) -> Result<Option<Volume>, MetaError> {
        let row =
            sqlx::query(select_volumes!("WHERE tenant = $1 AND name = $2 AND kind = 'tree' AND state <> 'deleting'"))
                .bind(tenant.as_bytes().as_slice())
                .bind(name)
                .fetch_optional(&self.db.readers)
                .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// One page of a tenant's drives and trees in order of making, with their [`Placement`], and without what their
    /// owners say of them: a page is as long as is asked for (I12). And how many there are in all. Leaves out what is
    /// being removed.
    pub async fn volumes_of(&self, tenant: TenantId, page: Page) -> Result<(Vec<Volume>, u64), MetaError> {
        // One transaction, so that count and page agree.
        let mut tx = self.db.readers.begin().await?;
        let total: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM volumes WHERE tenant = $1 AND kind IN ('drive', 'tree') AND state <> 'deleting'",
        )
        .bind(tenant.as_bytes().as_slice())
        .fetch_one(&mut *tx)
        .await?;
        let mut rows = sqlx::query(select_volumes!(
            "WHERE tenant = $1 AND kind IN ('drive', 'tree') AND state <> 'deleting' ORDER BY created, id \
             LIMIT $2 OFFSET $3"
        ))
        .bind(tenant.as_bytes().as_slice())
        .bind(page.limit.map_or(i64::MAX, i64::from))
        .bind(i64::try_from(page.offset).unwrap_or(i64::MAX))
        .fetch(&mut *tx);
        let mut volumes = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let mut volume = from_row(&row)?;
            volume.meta.clear();
            volume.attributes.retain(|name, _| name == Placement::KEY);
            volumes.push(volume);
        }
        drop(rows);
        Ok((volumes, total.cast_unsigned()))
    }

    /// One page of a tenant's drives in the order of the filter, and how many match in all. Leaves out what is being
    /// removed. `None` for a page that is too long to be held: a hundred drives, or 2 MiB of texts.
    pub async fn list(
        &self,
        tenant: TenantId,
        filter: &DriveFilter,
        page: Page,
    ) -> Result<Option<(Vec<Volume>, u64)>, MetaError> {
        // One transaction, so that count and page agree.
        let mut tx = self.db.readers.begin().await?;
        let total = count_of(&mut tx, tenant, filter).await?;
        let rest = total.saturating_sub(page.offset);
        if page.limit.map_or(rest, |limit| rest.min(limit.into())) > MOST_WHOLE {
            return Ok(None);
        }
        let mut paging = Sql::new(SELECT_VOLUMES);
        push_conditions(&mut paging, tenant, filter);
        push_page(&mut paging, filter, page);
        let mut rows = paging.build().fetch(&mut *tx);
        let (mut volumes, mut texts) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            texts += texts_of(&row)?;
            if texts > MOST_TEXTS {
                return Ok(None);
            }
            volumes.push(from_row(&row)?);
        }
        drop(rows);
        Ok(Some((volumes, total)))
    }

    /// The same as [`Self::list`] by their ids, however many there are.
    pub async fn list_ids(
        &self,
        tenant: TenantId,
        filter: &DriveFilter,
        page: Page,
    ) -> Result<(Vec<VolumeId>, u64), MetaError> {
        // One transaction, so that count and page agree.
        let mut tx = self.db.readers.begin().await?;
        let total = count_of(&mut tx, tenant, filter).await?;
        let mut paging = Sql::new("SELECT id FROM volumes ");
        push_conditions(&mut paging, tenant, filter);
        push_page(&mut paging, filter, page);
        let ids: Vec<Vec<u8>> = paging.build_query_scalar().fetch_all(&mut *tx).await?;
        Ok((volume_ids(&ids)?, total))
    }

    /// The ids of a tenant's trees, by name.
    pub async fn tree_ids(&self, tenant: TenantId) -> Result<Vec<VolumeId>, MetaError> {
        let sql = "SELECT id FROM volumes WHERE tenant = $1 AND kind = 'tree' AND state <> 'deleting' ORDER BY name";
        let ids: Vec<Vec<u8>> =
            sqlx::query_scalar(sql).bind(tenant.as_bytes().as_slice()).fetch_all(&self.db.readers).await?;
        volume_ids(&ids)
    }

    /// A tenant's trees, by name.
    #[cfg(test)]
    pub(super) async fn trees(&self, tenant: TenantId) -> Result<Vec<Volume>, MetaError> {
        self.volumes_by_id(&self.tree_ids(tenant).await?).await
    }

    /// Volumes in the order of these ids. Leaves out what is not there, or is being removed.
    pub async fn volumes_by_id(&self, ids: &[VolumeId]) -> Result<Vec<Volume>, MetaError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = Sql::new(select_volumes!("WHERE state <> 'deleting' AND id IN ("));
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(id.as_bytes().to_vec());
        }
        query.push(")");
        let rows = query.build().fetch_all(&self.db.readers).await?;
        let mut volumes = rows.iter().map(from_row).collect::<Result<Vec<_>, _>>()?;
        volumes.sort_by_key(|volume| ids.iter().position(|id| *id == volume.id));
        Ok(volumes)
    }

    /// All volumes in any of these states, in order of making.
    pub async fn volumes_in(&self, states: &[VolumeState]) -> Result<Vec<Volume>, MetaError> {
        let mut query = Sql::new(select_volumes!("WHERE "));
        push_states(&mut query, states);
        query.push(" ORDER BY created, id");
        let rows = query.build().fetch_all(&self.db.readers).await?;
        rows.iter().map(from_row).collect()
    }

    /// The ids of all volumes of all tenants, in no order.
    #[cfg(test)]
    pub(super) async fn all_volume_ids(&self) -> Result<Vec<VolumeId>, MetaError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM volumes").fetch_all(&self.db.readers).await?;
        volume_ids(&ids)
    }
}

/// How long the texts of a volume's row are.
fn texts_of(row: &DbRow) -> Result<usize, MetaError> {
    let texts = ["name", "reason", "meta", "attributes", "source"];
    let lengths = texts.map(|column| row.try_get::<Option<&str>, _>(column).map(|text| text.map_or(0, str::len)));
    Ok(lengths.into_iter().sum::<Result<usize, _>>()?)
}

/// How many of a tenant's drives match a filter.
async fn count_of(connection: &mut Connection, tenant: TenantId, filter: &DriveFilter) -> Result<u64, MetaError> {
    let mut counting = Sql::new("SELECT COUNT(*) FROM volumes ");
    push_conditions(&mut counting, tenant, filter);
    let total: i64 = counting.build_query_scalar().fetch_one(connection).await?;
    Ok(total.cast_unsigned())
}

fn volume_ids(ids: &[Vec<u8>]) -> Result<Vec<VolumeId>, MetaError> {
    ids.iter().map(|id| Ok(VolumeId::from_bytes(id_bytes(id, "id")?))).collect()
}

fn push_page(query: &mut Sql, filter: &DriveFilter, page: Page) {
    query.push(" ORDER BY ");
    for (key, direction) in &filter.order {
        let of = Of::Volumes { by_name: false };
        query.push(format!("{} {}, ", of.column(*key), word(*direction)));
    }
    query.push("created, id LIMIT ").push_bind(page.limit.map_or(i64::MAX, i64::from));
    query.push(" OFFSET ").push_bind(i64::try_from(page.offset).unwrap_or(i64::MAX));
}

fn push_conditions(query: &mut Sql, tenant: TenantId, filter: &DriveFilter) {
    query.push("WHERE kind = 'drive' AND state <> 'deleting' AND tenant = ").push_bind(tenant.as_bytes().to_vec());
    for name in &filter.names {
        push_name(query, name);
    }
    if !filter.states.is_empty() {
        query.push(" AND ");
        push_states(query, &filter.states);
    }
    if let Some(media) = filter.media {
        query.push(" AND media = ").push_bind(media_text(media));
    }
}

/// `LIKE` is not used: its sense of case differs between databases, and its wildcards would have to be escaped.
fn push_name(query: &mut Sql, name: &NameMatch) {
    match name {
        NameMatch::Is(text) => {
            query.push(" AND name = ").push_bind(text.clone());
        }
        // Every name holds the empty text, which `replace` would not find.
        NameMatch::Contains(text) | NameMatch::ContainsIgnoringCase(text) if text.is_empty() => {}
        NameMatch::Contains(text) => {
            query.push(" AND replace(name, ").push_bind(text.clone()).push(", '') <> name");
        }
        // SQLite's `lower` changes ASCII letters only, as we want; PostgreSQL's does so with COLLATE "C".
        NameMatch::ContainsIgnoringCase(text) => {
            query.push(" AND replace(lower(name), ").push_bind(text.to_ascii_lowercase());
            query.push(", '') <> lower(name)");
        }
        NameMatch::StartsWith(text) => {
            // 32 bits: `PostgreSQL`'s `substr` takes no more.
            query.push(" AND substr(name, 1, ").push_bind(i32::try_from(text.chars().count()).unwrap_or(i32::MAX));
            query.push(") = ").push_bind(text.clone());
        }
    }
}

pub(super) fn push_states(query: &mut Sql, states: &[VolumeState]) {
    if states.is_empty() {
        // An empty list is none in SQL.
        query.push("1 = 0");
        return;
    }
    query.push("state IN (");
    let mut list = query.separated(", ");
    for state in states {
        list.push_bind(state_text(*state));
    }
    query.push(")");
}

pub(super) fn from_row(row: &DbRow) -> Result<Volume, MetaError> {
    Ok(Volume {
        id: VolumeId::from_bytes(id_bytes(row.try_get("id")?, "id")?),
        tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        name: row.try_get("name")?,
        kind: kind_from(row.try_get("kind")?)?,
        media: media_from(row.try_get("media")?)?,
        size: bytes_from(row, "size")?,
        charged: bytes_from(row, "charged")?,
        state: state_from(row.try_get("state")?)?,
        reason: row.try_get("reason")?,
        generation: number_from(row, "generation")?,
        revision: number_from(row, "revision")?,
        created: UnixTime(row.try_get("created")?),
        updated: UnixTime(row.try_get("updated")?),
        digests: Digests {
            sha256: digest_from(row, "sha256")?.map(Sha256),
            blake3: digest_from(row, "blake3")?.map(Blake3),
            pieces: digest_from(row, "blake3_pieces")?.map(Blake3),
        },
        content: content_from(row.try_get("content")?)?,
        source: row.try_get("source")?,
        meta: json_from(row.try_get("meta")?, "meta")?,
        attributes: json_from(row.try_get("attributes")?, "attributes")?,
    })
}

fn digest_from(row: &DbRow, column: &'static str) -> Result<Option<[u8; 32]>, MetaError> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    bytes.map(TryInto::try_into).transpose().map_err(|_| MetaError::Damaged(column))
}

fn number_from(row: &DbRow, column: &'static str) -> Result<u64, MetaError> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| MetaError::Damaged(column))
}

pub(super) fn bytes_from(row: &DbRow, column: &'static str) -> Result<ByteCount, MetaError> {
    ByteCount::new(number_from(row, column)?).ok_or(MetaError::Damaged(column))
}

fn json_from<T: serde::de::DeserializeOwned>(text: &str, column: &'static str) -> Result<T, MetaError> {
    serde_json::from_str(text).map_err(|_| MetaError::Damaged(column))
}

fn content_from(bytes: Option<&[u8]>) -> Result<Option<ContentId>, MetaError> {
    bytes.map(|bytes| id_bytes(bytes, "content").map(ContentId::from_bytes)).transpose()
}

pub(super) const fn kind_text(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Drive => "drive",
        VolumeKind::Tree => "tree",
        VolumeKind::Snapshot => "snapshot",
    }
}

pub(super) fn kind_from(text: &str) -> Result<VolumeKind, MetaError> {
    match text {
        "drive" => Ok(VolumeKind::Drive),
        "tree" => Ok(VolumeKind::Tree),
        "snapshot" => Ok(VolumeKind::Snapshot),
        _ => Err(MetaError::Damaged("kind")),
    }
}

pub(super) const fn media_text(media: Media) -> &'static str {
    match media {
        Media::Disk => "disk",
        Media::Cdrom => "cdrom",
    }
}

pub(super) fn media_from(text: &str) -> Result<Media, MetaError> {
    match text {
        "disk" => Ok(Media::Disk),
        "cdrom" => Ok(Media::Cdrom),
        _ => Err(MetaError::Damaged("media")),
    }
}

pub(super) const fn state_text(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Uploading => "uploading",
        VolumeState::Creating => "creating",
        VolumeState::Available => "available",
        VolumeState::CloningTarget => "cloning_target",
        VolumeState::Downloading => "downloading",
        VolumeState::Resizing => "resizing",
        VolumeState::Attaching => "attaching",
        VolumeState::InUse => "in_use",
        VolumeState::Detaching => "detaching",
        VolumeState::Restoring => "restoring",
        VolumeState::Unavailable => "unavailable",
        VolumeState::ErrorAttaching => "error_attaching",
        VolumeState::ErrorDetaching => "error_detaching",
        VolumeState::ErrorRestoring => "error_restoring",
        VolumeState::Marked => "marked",
        VolumeState::Deleting => "deleting",
    }
}

pub(super) fn state_from(text: &str) -> Result<VolumeState, MetaError> {
    Ok(match text {
        "uploading" => VolumeState::Uploading,
        "creating" => VolumeState::Creating,
        "available" => VolumeState::Available,
        "cloning_target" => VolumeState::CloningTarget,
        "downloading" => VolumeState::Downloading,
        "resizing" => VolumeState::Resizing,
        "attaching" => VolumeState::Attaching,
        "in_use" => VolumeState::InUse,
        "detaching" => VolumeState::Detaching,
        "restoring" => VolumeState::Restoring,
        "unavailable" => VolumeState::Unavailable,
        "error_attaching" => VolumeState::ErrorAttaching,
        "error_detaching" => VolumeState::ErrorDetaching,
        "error_restoring" => VolumeState::ErrorRestoring,
        "marked" => VolumeState::Marked,
        "deleting" => VolumeState::Deleting,
        _ => return Err(MetaError::Damaged("state")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::testing::{Scene, count, drive, scene};
    use serde_json::json;

    const ALL: Page = Page { limit: None, offset: 0 };

    async fn names(scene: &Scene, names: Vec<NameMatch>) -> Vec<String> {
        let filter = DriveFilter { names, ..DriveFilter::default() };
        let (drives, total) = scene.meta.list(scene.tenant, &filter, ALL).await.unwrap().unwrap();
        assert_eq!(total, drives.len() as u64);
        drives.into_iter().map(|drive| drive.name).collect()
    }

    #[tokio::test]
    async fn every_field_in_every_state_comes_back_as_it_was_stored() {
        let scene = scene().await;
        for state in VolumeState::ALL {
            let volume = Volume {
                name: "na\u{efc}ve \" ' % _ \u{1f4be}".to_owned(),
                media: Media::Cdrom,
                size: ByteCount::MAX,
                charged: count(7),
                state,
                reason: Some("because".to_owned()),
                generation: 3,
                revision: 9,
                created: UnixTime(1_700_000_000_123),
                updated: UnixTime(-5),
                digests: Digests {
                    sha256: Some(Sha256([0xab; 32])),
                    blake3: Some(Blake3([0xb3; 32])),
                    pieces: Some(Blake3([0xbe; 32])),
                },
                meta: json!({"a": [1, 2.5, null, {"b": "c"}]}).as_object().unwrap().clone(),
                attributes: json!({"tags": []}).as_object().unwrap().clone(),
                ..drive(scene.tenant, 0)
            };
            scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
            assert_eq!(scene.meta.volume_any(volume.id).await.unwrap(), Some(volume));
        }
    }

    #[tokio::test]
    async fn a_tenant_never_sees_the_volumes_of_another() {
        let scene = scene().await;
        let other = scene.meta.add_user("bob", "h", "blue", None, UnixTime(1)).await.unwrap();
        let mine = drive(scene.tenant, 1);
        let theirs = drive(other, 2);
        scene.meta.insert_volumes(vec![mine.clone(), theirs.clone()], vec![]).await.unwrap();

        assert_eq!(scene.meta.volume(scene.tenant, mine.id).await.unwrap(), Some(mine.clone()));
        assert_eq!(scene.meta.volume(scene.tenant, theirs.id).await.unwrap(), None);
        assert_eq!(scene.meta.volume(other, mine.id).await.unwrap(), None);
        let everything = DriveFilter::default();
        assert_eq!(scene.meta.list(scene.tenant, &everything, ALL).await.unwrap().unwrap(), (vec![mine.clone()], 1));
        assert_eq!(scene.meta.list(other, &everything, ALL).await.unwrap().unwrap(), (vec![theirs.clone()], 1));
        let by_name = DriveFilter { names: vec![NameMatch::Is(theirs.name)], ..DriveFilter::default() };
        assert_eq!(scene.meta.list(scene.tenant, &by_name, ALL).await.unwrap().unwrap(), (vec![], 0));
        assert_eq!(scene.meta.usage(other).await.unwrap().1.bytes, count(2));
    }

    #[tokio::test]
    async fn what_is_being_removed_is_seen_by_the_sweeper_only() {
        let scene = scene().await;
        let gone = Volume { state: VolumeState::Deleting, ..drive(scene.tenant, 1) };
        scene.meta.insert_volumes(vec![gone.clone()], vec![]).await.unwrap();
        assert_eq!(scene.meta.volume(scene.tenant, gone.id).await.unwrap(), None);
        assert_eq!(scene.meta.list(scene.tenant, &DriveFilter::default(), ALL).await.unwrap().unwrap(), (vec![], 0));
        let asked = DriveFilter { states: vec![VolumeState::Deleting], ..DriveFilter::default() };
        assert_eq!(scene.meta.list(scene.tenant, &asked, ALL).await.unwrap().unwrap(), (vec![], 0));
        assert_eq!(scene.meta.volumes_in(&[VolumeState::Deleting]).await.unwrap(), std::slice::from_ref(&gone));
        assert_eq!(scene.meta.volumes_in(&[]).await.unwrap(), []);
        assert_eq!(scene.meta.all_volume_ids().await.unwrap(), [gone.id]);
    }

    #[tokio::test]
    async fn pages_follow_the_order_of_making_and_count_everything() {
        let scene = scene().await;
        // Two share a millisecond: their ids decide.
        let made: Vec<_> =
            [30, 10, 10, 20].map(|time| Volume { created: UnixTime(time), ..drive(scene.tenant, 1) }).to_vec();
        scene.meta.insert_volumes(made.clone(), vec![]).await.unwrap();
        let expected = [made[1].id, made[2].id, made[3].id, made[0].id];
        let page = async |limit, offset| {
            let page = Page { limit, offset };
            let (drives, total) = scene.meta.list(scene.tenant, &DriveFilter::default(), page).await.unwrap().unwrap();
            assert_eq!(total, 4);
            drives.into_iter().map(|drive| drive.id).collect::<Vec<_>>()
        };
        assert_eq!(page(None, 0).await, expected);
        assert_eq!(page(Some(2), 1).await, expected[1..3]);
        assert_eq!(page(None, 3).await, expected[3..]);
        assert_eq!(page(Some(0), 0).await, []);
        assert_eq!(page(Some(5), u64::MAX).await, []);
    }

    #[tokio::test]
    async fn names_are_matched_literally_and_all_conditions_hold_together() {
        let scene = scene().await;
        let named = ["Alpha", "alphabet", "beta 100%", "\u{c4}pfel", "a_b"];
        let volumes = named.map(|name| Volume { name: name.to_owned(), ..drive(scene.tenant, 1) }).to_vec();
        scene.meta.insert_volumes(volumes, vec![]).await.unwrap();
        let contains = |text: &str| NameMatch::Contains(text.to_owned());
        let ignoring = |text: &str| NameMatch::ContainsIgnoringCase(text.to_owned());
        let starts = |text: &str| NameMatch::StartsWith(text.to_owned());

        assert_eq!(names(&scene, vec![NameMatch::Is("alpha".to_owned())]).await, Vec::<String>::new());
        assert_eq!(names(&scene, vec![NameMatch::Is("Alpha".to_owned())]).await, ["Alpha"]);
        assert_eq!(names(&scene, vec![contains("pha")]).await, ["Alpha", "alphabet"]);
        assert_eq!(names(&scene, vec![contains("alpha")]).await, ["alphabet"]);
        assert_eq!(names(&scene, vec![ignoring("ALPHA")]).await, ["Alpha", "alphabet"]);
        assert_eq!(names(&scene, vec![ignoring("\u{e4}PF")]).await, Vec::<String>::new());
        assert_eq!(names(&scene, vec![ignoring("\u{c4}PF")]).await, ["\u{c4}pfel"]);
        assert_eq!(names(&scene, vec![starts("\u{c4}p")]).await, ["\u{c4}pfel"]);
        assert_eq!(names(&scene, vec![starts("alpha")]).await, ["alphabet"]);
        assert_eq!(names(&scene, vec![contains("%")]).await, ["beta 100%"]);
        assert_eq!(names(&scene, vec![contains("_")]).await, ["a_b"]);
        assert_eq!(names(&scene, vec![ignoring("BET"), starts("alpha")]).await, ["alphabet"]);
        for everything in [contains(""), ignoring(""), starts("")] {
            assert_eq!(names(&scene, vec![everything]).await.len(), named.len());
        }
    }

    #[tokio::test]
    async fn drives_and_trees_are_paged_together_in_order_of_making() {
        let scene = scene().await;
        let made = |at: i64, kind| Volume { kind, created: UnixTime(at), ..drive(scene.tenant, 1) };
        let tree = made(2, VolumeKind::Tree);
        let (first, last) = (made(1, VolumeKind::Drive), made(5, VolumeKind::Drive));
        let removed = Volume { state: VolumeState::Deleting, ..made(3, VolumeKind::Tree) };
        let snapshot = Volume { source: Some(first.id.to_string()), ..made(4, VolumeKind::Snapshot) };
        let all = vec![last.clone(), removed, snapshot, tree.clone(), first.clone()];
        scene.meta.insert_volumes(all, vec![]).await.unwrap();
        let page = async |limit, offset| scene.meta.volumes_of(scene.tenant, Page { limit, offset }).await.unwrap();
        assert_eq!(page(None, 0).await, (vec![first.clone(), tree.clone(), last.clone()], 3));
        assert_eq!(page(Some(2), 0).await, (vec![first, tree], 3));
        assert_eq!(page(Some(2), 2).await, (vec![last], 3));
        assert_eq!(page(Some(2), u64::MAX).await, (vec![], 3));
        let nobody = TenantId::random();
        assert_eq!(scene.meta.volumes_of(nobody, ALL).await.unwrap(), (vec![], 0));
    }

    #[tokio::test]
    async fn states_and_media_narrow_a_list() {
        let scene = scene().await;
        let source = Volume { state: VolumeState::Restoring, ..drive(scene.tenant, 1) };
        let disc = Volume { media: Media::Cdrom, ..drive(scene.tenant, 1) };
        scene.meta.insert_volumes(vec![source.clone(), disc.clone()], vec![]).await.unwrap();
        let filter = DriveFilter { states: vec![VolumeState::Restoring], ..DriveFilter::default() };
        assert_eq!(scene.meta.list(scene.tenant, &filter, ALL).await.unwrap().unwrap(), (vec![source], 1));
        let filter = DriveFilter { media: Some(Media::Cdrom), ..DriveFilter::default() };
        assert_eq!(scene.meta.list(scene.tenant, &filter, ALL).await.unwrap().unwrap(), (vec![disc], 1));
    }

    #[tokio::test]
    async fn a_list_is_in_the_order_that_is_asked_for_and_then_in_that_of_making() {
        use crate::domain::{Direction, SortKey};
        let scene = scene().await;
        let made = [(1, "b", 2), (2, "a", 1), (3, "b", 1)].map(|(created, name, size)| Volume {
            name: name.to_owned(),
            created: UnixTime(created),
            ..drive(scene.tenant, size)
        });
        scene.meta.insert_volumes(made.to_vec(), vec![]).await.unwrap();
        for (order, expected) in [
            (vec![], [0, 1, 2]),
            (vec![(SortKey::Name, Direction::Ascending)], [1, 0, 2]),
            (vec![(SortKey::Name, Direction::Descending), (SortKey::Size, Direction::Ascending)], [2, 0, 1]),
            (vec![(SortKey::Size, Direction::Ascending)], [1, 2, 0]),
        ] {
            let filter = DriveFilter { order, ..DriveFilter::default() };
            let (drives, _) = scene.meta.list(scene.tenant, &filter, ALL).await.unwrap().unwrap();
            let ids: Vec<_> = drives.iter().map(|drive| drive.id).collect();
            assert_eq!(ids, expected.map(|at| made[at].id), "{filter:?}");
        }
    }
}
