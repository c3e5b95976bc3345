//! Sessions and their uploads.
//!
//! # Invariants
//! - A tree is in one open session at most.
//! - The trees of a session get their content in the transaction that finishes it, all or none.
//! - A session ends once. What its uploads have made is referred to by their rows for as long as it is open.

use sqlx::Row as _;

use super::batch::change;
use super::sqlite::{Connection, DbRow, Write};
use super::{Batch, Meta, MetaError, id_bytes};
use crate::domain::{
    ContentId, Paged, Session, SessionId, SessionState, Sha256, TenantId, UnixTime, Unpacking, Upload, UploadId,
    UploadState, UserId, Volume, VolumeId,
};

const COLUMNS: &str = "id, tenant, \"user\", token, cookie, state, reason, created, expires, ended";

const UPLOAD_COLUMNS: &str =
    "id, volume, name, is_new, content, source, is_remote, state, reason, members, bytes, session";

/// What came of an attempt to fill a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// So many members with so many bytes of data are durable.
    Received {
        /// Members of the archive.
        members: u64,
        /// Bytes of data.
        bytes: u64,
    },
    /// Nothing is left of it; for this reason.
    Failed(String),
}

/// The ended sessions of a tenant that are kept.
const MOST_ENDED: i64 = 100;

/// About how many bytes of the database their records take together at most.
const MOST_ENDED_BYTES: i64 = 512 << 10;

impl Meta {
    /// Begins a session with its uploads, and makes the trees that are new: all of it or nothing.
    /// [`MetaError::Duplicate`] when a tree is in another session, or has been made meanwhile.
    ///
    /// `old_trees` are those that exist, as they were read: [`MetaError::Conflict`] when one was changed meanwhile.
    pub async fn begin_session(
        &self,
        session: &Session,
        new_trees: Vec<Volume>,
        old_trees: Vec<Volume>,
    ) -> Result<(), MetaError> {
        let mut tx = self.db.begin_adding().await?;
        change(&mut tx, &Batch { insert: new_trees, update: old_trees, ..Batch::default() }).await?;
        insert(&mut tx, session).await?;
        forget_oldest(&mut tx, session.tenant).await?;
        self.db.commit(tx).await
    }

    /// The session whose token has this digest.
    pub async fn session_by_token(&self, token: &Sha256) -> Result<Option<Session>, MetaError> {
        self.session_where("token = $1", &token.0).await
    }

    /// A session of any tenant.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>, MetaError> {
        self.session_where("id = $1", id.as_bytes()).await
    }

    /// The open session that fills this tree.
    pub async fn session_of(&self, volume: VolumeId) -> Result<Option<Session>, MetaError> {
        self.session_where("id = (SELECT session FROM uploads WHERE volume = $1 AND is_open = 1)", volume.as_bytes())
            .await
    }

    /// A page of a tenant's sessions, newest first. [`MetaError::NotFound`] when `after` is none of them.
    pub async fn sessions(
        &self,
        tenant: TenantId,
        limit: u32,
        after: Option<SessionId>,
    ) -> Result<Paged<Session>, MetaError> {
        let mut tx = self.db.readers.begin().await?;
        let from: (i64, Vec<u8>) = match after {
            None => (i64::MAX, Vec::new()),
            Some(id) => {
                sqlx::query_as("SELECT created, id FROM sessions WHERE tenant = $1 AND id = $2")
                    .bind(tenant.as_bytes().as_slice())
                    .bind(id.as_bytes().as_slice())
                    .fetch_one(&mut *tx)
                    .await?
            }
        };
        let query = format!(
            "SELECT {COLUMNS} FROM sessions WHERE tenant = $1 AND (created, id) < ($2, $3) \
             ORDER BY created DESC, id DESC LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(tenant.as_bytes().as_slice())
            .bind(from.0)
            .bind(from.1)
            .bind(i64::from(limit) + 1)
            .fetch_all(&mut *tx)
            .await?;
        let has_more = rows.len() > limit as usize;
        let page = rows.iter().take(limit as usize);
        let mut items = page.map(session_from).collect::<Result<Vec<_>, _>>()?;
        for session in &mut items {
            session.uploads = uploads_of(&mut tx, session.id).await?;
        }
        Ok(Paged { items, has_more })
    }

    /// The sessions that were to end before this and are still open.
    pub async fn overdue_sessions(&self, expired_before: UnixTime) -> Result<Vec<SessionId>, MetaError> {
        let query = "SELECT id FROM sessions WHERE state = 'open' AND (expires < $1 OR reason IS NOT NULL)";
        self.session_ids(query, expired_before).await
    }

    /// All open sessions.
    pub async fn open_sessions(&self) -> Result<Vec<SessionId>, MetaError> {
        self.overdue_sessions(UnixTime(i64::MAX)).await
    }

    /// Forgets the sessions that ended before this.
    pub async fn forget_sessions(&self, ended_before: UnixTime) -> Result<(), MetaError> {
        let old = self.session_ids("SELECT id FROM sessions WHERE ended < $1 LIMIT 1", ended_before).await?;
        if old.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        sqlx::query("DELETE FROM sessions WHERE ended < $1").bind(ended_before.0).execute(&mut *tx).await?;
        self.db.commit(tx).await
    }

    /// A part of a session, with the session.
    pub async fn unpacking(&self, id: UploadId) -> Result<Option<Unpacking>, MetaError> {
        let mut tx = self.db.readers.begin().await?;
        let query = format!("SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = $1");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(query)).bind(id.as_bytes().as_slice()).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { return Ok(None) };
        let upload = upload_from(&row)?;
        let query = format!("SELECT {COLUMNS} FROM sessions WHERE id = $1");
        let session: Vec<u8> = row.try_get("session")?;
        let session = sqlx::query(sqlx::AssertSqlSafe(query)).bind(session).fetch_one(&mut *tx).await?;
        Ok(Some(Unpacking { session: session_from(&session)?, upload }))
    }

    /// Begins an attempt, if the session is open and no other attempt runs or was good; [`MetaError::Conflict`] else.
    /// May be forgotten in a power failure: no attempt outlives the process, and its caller is told nothing before
    /// [`Meta::end_attempt`], whose flush has this in it.
    pub async fn start_attempt(&self, id: UploadId) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query(
            "UPDATE uploads SET state = 'receiving', reason = NULL \
             WHERE id = $1 AND state = 'waiting' AND is_open = 1",
        )
        .bind(id.as_bytes().as_slice())
        .execute(&mut *tx)
        .await?;
        exactly(done.rows_affected())?;
        self.db.commit_unflushed(tx).await
    }

    /// Ends an attempt. [`MetaError::Conflict`] when its session has ended meanwhile: what it made is dropped then.
    pub async fn end_attempt(&self, id: UploadId, attempt: &Attempt) -> Result<(), MetaError> {
        let (state, reason, members, bytes) = match attempt {
            Attempt::Received { members, bytes } => ("received", None, *members, *bytes),
            Attempt::Failed(reason) => ("waiting", Some(reason.as_str()), 0, 0),
        };
        let mut tx = self.db.begin().await?;
        let done = sqlx::query(
            "UPDATE uploads SET state = $2, reason = $3, members = $4, bytes = $5 \
             WHERE id = $1 AND state = 'receiving' AND is_open = 1",
        )
        .bind(id.as_bytes().as_slice())
        .bind(state)
        .bind(reason)
        .bind(members.cast_signed())
        .bind(bytes.cast_signed())
        .execute(&mut *tx)
        .await?;
        exactly(done.rows_affected())?;
        self.db.commit(tx).await
    }

    /// Ends all attempts, which a process that has just started knows to be dead.
    pub async fn end_attempts_of_the_dead(&self, reason: &str) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE uploads SET state = 'waiting', reason = $1 WHERE state = 'receiving'")
            .bind(reason)
            .execute(&mut *tx)
            .await?;
        self.db.commit(tx).await
    }

    /// Finishes an open session whose uploads have all been received: its trees are written as they are given here.
    /// [`MetaError::Conflict`] when it has ended, when something is missing, or when a tree was changed meanwhile.
    /// `replaced` are the contents that the trees had before.
    pub async fn finish_session(
        &self,
        id: SessionId,
        trees: Vec<Volume>,
        replaced: Vec<ContentId>,
        now: UnixTime,
    ) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let missing: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM uploads WHERE session = $1 AND state <> 'received'")
                .bind(id.as_bytes().as_slice())
                .fetch_one(&mut *tx)
                .await?;
        if missing > 0 {
            return Err(MetaError::Conflict);
        }
        end(&mut tx, id, SessionState::Finished, None, now).await?;
        change(&mut tx, &Batch { update: trees, drop: replaced, ..Batch::default() }).await?;
        self.db.commit(tx).await
    }

    /// Ends an open session that cannot be finished, removes the trees that were made for it, and drops the contents
    /// that it has received: those are whole, and would be taken for what a tree had.
    /// [`MetaError::Conflict`] when it has ended before.
    pub async fn drop_session(
        &self,
        id: SessionId,
        state: SessionState,
        reason: &str,
        now: UnixTime,
    ) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        end(&mut tx, id, state, Some(reason), now).await?;
        let new: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT u.volume FROM uploads u JOIN volumes v ON v.id = u.volume \
             WHERE u.session = $1 AND u.is_new = 1 AND v.state = 'uploading'",
        )
        .bind(id.as_bytes().as_slice())
        .fetch_all(&mut *tx)
        .await?;
        let remove = new.iter().map(|id| Ok(VolumeId::from_bytes(id_bytes(id, "volume")?)));
        let remove = remove.collect::<Result<_, MetaError>>()?;
        let received: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT content FROM uploads WHERE session = $1 AND state = 'received'")
                .bind(id.as_bytes().as_slice())
                .fetch_all(&mut *tx)
                .await?;
        let drop = received.iter().map(|id| Ok(ContentId::from_bytes(id_bytes(id, "content")?)));
        let drop = drop.collect::<Result<_, MetaError>>()?;
        change(&mut tx, &Batch { remove, drop, ..Batch::default() }).await?;
        self.db.commit(tx).await
    }

    async fn session_where(&self, condition: &'static str, value: &[u8]) -> Result<Option<Session>, MetaError> {
        let mut tx = self.db.readers.begin().await?;
        let query = format!("SELECT {COLUMNS} FROM sessions WHERE {condition}");
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(value).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { return Ok(None) };
        let mut session = session_from(&row)?;
        session.uploads = uploads_of(&mut tx, session.id).await?;
        Ok(Some(session))
    }

    async fn session_ids(&self, query: &'static str, time: UnixTime) -> Result<Vec<SessionId>, MetaError> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(query).bind(time.0).fetch_all(&self.db.readers).await?;
        ids.iter().map(|id| Ok(SessionId::from_bytes(id_bytes(id, "session")?))).collect()
    }
}

/// Forgets a tenant's oldest ended sessions, as far as there are too many or they are too long.
async fn forget_oldest(tx: &mut Write, tenant: TenantId) -> Result<(), MetaError> {
    sqlx::query(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM ( \
             SELECT id, ROW_NUMBER() OVER latest AS place, SUM(size) OVER latest AS total FROM ( \
                 SELECT s.id, s.ended, (SELECT SUM(200 + length(name) + length(source) + length(COALESCE(reason, ''))) \
                     FROM uploads WHERE session = s.id) AS size \
                 FROM sessions s WHERE s.tenant = $1 AND s.ended IS NOT NULL) AS sized \
             WINDOW latest AS (ORDER BY ended DESC, id DESC)) AS placed \
         WHERE place > $2 OR total > $3)",
    )
    .bind(tenant.as_bytes().as_slice())
    .bind(MOST_ENDED)
    .bind(MOST_ENDED_BYTES)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert(tx: &mut Write, session: &Session) -> Result<(), MetaError> {
    sqlx::query(
        "INSERT INTO sessions (id, tenant, \"user\", token, cookie, state, created, expires) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(session.id.as_bytes().as_slice())
    .bind(session.tenant.as_bytes().as_slice())
    .bind(session.user.as_bytes().as_slice())
    .bind(session.token.0.as_slice())
    .bind(session.cookie.0.as_slice())
    .bind(state_text(session.state))
    .bind(session.created.0)
    .bind(session.expires.0)
    .execute(&mut **tx)
    .await?;
    for (place, upload) in (0_i64..).zip(&session.uploads) {
        sqlx::query(
            "INSERT INTO uploads (id, session, place, volume, name, is_new, content, source, is_remote, state, \
             members, bytes, is_open) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', 0, 0, 1)",
        )
        .bind(upload.id.as_bytes().as_slice())
        .bind(session.id.as_bytes().as_slice())
        .bind(place)
        .bind(upload.volume.as_bytes().as_slice())
        .bind(upload.name.as_str())
        .bind(i64::from(upload.is_new))
        .bind(upload.content.as_bytes().as_slice())
        .bind(upload.source.as_str())
        .bind(i64::from(upload.is_remote))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Ends an open session and closes its uploads.
async fn end(
    tx: &mut Write,
    id: SessionId,
    state: SessionState,
    reason: Option<&str>,
    now: UnixTime,
) -> Result<(), MetaError> {
    let done = sqlx::query("UPDATE sessions SET state = $2, reason = $3, ended = $4 WHERE id = $1 AND state = 'open'")
        .bind(id.as_bytes().as_slice())
        .bind(state_text(state))
        .bind(reason)
        .bind(now.0)
        .execute(&mut **tx)
        .await?;
    exactly(done.rows_affected())?;
    sqlx::query("UPDATE uploads SET is_open = 0 WHERE session = $1")
        .bind(id.as_bytes().as_slice())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn exactly(rows: u64) -> Result<(), MetaError> {
    if rows == 1 { Ok(()) } else { Err(MetaError::Conflict) }
}

async fn uploads_of(connection: &mut Connection, session: SessionId) -> Result<Vec<Upload>, MetaError> {
    let query = format!("SELECT {UPLOAD_COLUMNS} FROM uploads WHERE session = $1 ORDER BY place");
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(query)).bind(session.as_bytes().as_slice()).fetch_all(connection).await?;
    rows.iter().map(upload_from).collect()
}

fn session_from(row: &DbRow) -> Result<Session, MetaError> {
    let ended: Option<i64> = row.try_get("ended")?;
    Ok(Session {
        id: SessionId::from_bytes(id_bytes(row.try_get("id")?, "session")?),
        tenant: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        user: UserId::from_bytes(id_bytes(row.try_get("user")?, "user")?),
        token: digest_from(row, "token")?,
        cookie: digest_from(row, "cookie")?,
        state: state_from(row.try_get("state")?)?,
        reason: row.try_get("reason")?,
        created: UnixTime(row.try_get("created")?),
        expires: UnixTime(row.try_get("expires")?),
        ended: ended.map(UnixTime),
        uploads: Vec::new(),
    })
}

fn upload_from(row: &DbRow) -> Result<Upload, MetaError> {
    let number = |column| {
        let number: i64 = row.try_get(column)?;
        u64::try_from(number).map_err(|_| MetaError::Damaged(column))
    };
    let is = |column| Ok::<_, MetaError>(number(column)? != 0);
    Ok(Upload {
        id: UploadId::from_bytes(id_bytes(row.try_get("id")?, "upload")?),
        volume: VolumeId::from_bytes(id_bytes(row.try_get("volume")?, "volume")?),
        name: row.try_get("name")?,
        is_new: is("is_new")?,
        content: ContentId::from_bytes(id_bytes(row.try_get("content")?, "content")?),
        source: row.try_get("source")?,
        is_remote: is("is_remote")?,
        state: match row.try_get("state")? {
            "waiting" => UploadState::Waiting,
            "receiving" => UploadState::Receiving,
            "received" => UploadState::Received,
            _ => return Err(MetaError::Damaged("state")),
        },
        reason: row.try_get("reason")?,
        members: number("members")?,
        bytes: number("bytes")?,
    })
}

fn digest_from(row: &DbRow, column: &'static str) -> Result<Sha256, MetaError> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map(Sha256).map_err(|_| MetaError::Damaged(column))
}

const fn state_text(state: SessionState) -> &'static str {
    match state {
        SessionState::Open => "open",
        SessionState::Finished => "finished",
        SessionState::Failed => "failed",
        SessionState::Expired => "expired",
    }
}

fn state_from(text: &str) -> Result<SessionState, MetaError> {
    match text {
        "open" => Ok(SessionState::Open),
        "finished" => Ok(SessionState::Finished),
        "failed" => Ok(SessionState::Failed),
        "expired" => Ok(SessionState::Expired),
        _ => Err(MetaError::Damaged("state")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, VolumeKind, VolumeState};
    use crate::meta::testing::{Scene, scene};

    fn tree(scene: &Scene, name: &str) -> Volume {
        let (size, state) = (ByteCount::mib(1), VolumeState::Uploading);
        Volume::begun(scene.tenant, VolumeKind::Tree, name, size, state, UnixTime(1))
    }

    fn upload(tree: &Volume, is_new: bool) -> Upload {
        Upload {
            id: UploadId::random(),
            volume: tree.id,
            name: tree.name.clone(),
            is_new,
            content: ContentId::random(),
            source: "/x".to_owned(),
            is_remote: false,
            state: UploadState::Waiting,
            reason: None,
            members: 0,
            bytes: 0,
        }
    }

    fn session(scene: &Scene, number: u8, uploads: Vec<Upload>) -> Session {
        Session {
            id: SessionId::random(),
            tenant: scene.tenant,
            user: UserId::from_bytes([1; 16]),
            token: Sha256([number; 32]),
            cookie: Sha256([number + 1; 32]),
            state: SessionState::Open,
            reason: None,
            created: UnixTime(i64::from(number)),
            expires: UnixTime(1_000),
            ended: None,
            uploads,
        }
    }

    const RECEIVED: Attempt = Attempt::Received { members: 3, bytes: 7 };

    /// A session of two new trees.
    async fn begun(scene: &Scene) -> (Session, Vec<Volume>) {
        let trees = vec![tree(scene, "one"), tree(scene, "two")];
        let uploads = trees.iter().map(|tree| upload(tree, true)).collect();
        let session = session(scene, 10, uploads);
        scene.meta.begin_session(&session, trees.clone(), Vec::new()).await.unwrap();
        (session, trees)
    }

    fn filled(trees: &[Volume], session: &Session) -> Vec<Volume> {
        let fill = |(tree, upload): (&Volume, &Upload)| {
            let mut tree = tree.clone();
            tree.fill(upload.content, &upload.source, UnixTime(5)).unwrap();
            tree
        };
        trees.iter().zip(&session.uploads).map(fill).collect()
    }

    #[tokio::test]
    async fn a_session_comes_back_as_it_was_begun() {
        let scene = scene().await;
        let (session, trees) = begun(&scene).await;
        let meta = &scene.meta;
        assert_eq!(meta.session(session.id).await.unwrap().as_ref(), Some(&session));
        assert_eq!(meta.session_by_token(&session.token).await.unwrap().as_ref(), Some(&session));
        assert_eq!(meta.session_by_token(&session.cookie).await.unwrap(), None);
        assert_eq!(meta.session_of(trees[1].id).await.unwrap().as_ref(), Some(&session));
        let part = meta.unpacking(session.uploads[1].id).await.unwrap().unwrap();
        assert_eq!((part.session.id, part.session.cookie), (session.id, session.cookie));
        assert_eq!(part.upload, session.uploads[1]);
        assert_eq!(meta.sessions(scene.tenant, 9, None).await.unwrap().items, std::slice::from_ref(&session));
        assert_eq!(meta.sessions(TenantId::random(), 9, None).await.unwrap().items, []);
        assert_eq!(meta.overdue_sessions(UnixTime(1_000)).await.unwrap(), []);
        assert_eq!(meta.overdue_sessions(UnixTime(1_001)).await.unwrap(), [session.id]);
        assert!(meta.owns_content(session.uploads[0].content).await.unwrap());
    }

    #[tokio::test]
    async fn a_tree_is_in_one_open_session_and_a_refused_session_leaves_nothing() {
        let scene = scene().await;
        let (_, trees) = begun(&scene).await;
        let third = tree(&scene, "three");
        let second = session(&scene, 20, vec![upload(&third, true), upload(&trees[0], false)]);
        let refused = scene.meta.begin_session(&second, vec![third], Vec::new()).await;
        assert!(matches!(refused, Err(MetaError::Duplicate)), "{refused:?}");
        let named_twice = tree(&scene, "one");
        let third = session(&scene, 30, vec![upload(&named_twice, true)]);
        let refused = scene.meta.begin_session(&third, vec![named_twice], Vec::new()).await;
        assert!(matches!(refused, Err(MetaError::Duplicate)), "{refused:?}");
        assert_eq!(scene.meta.trees(scene.tenant).await.unwrap().len(), 2);
        assert_eq!(scene.meta.sessions(scene.tenant, 9, None).await.unwrap().items.len(), 1);
        assert_eq!(scene.meta.usage(scene.tenant).await.unwrap().1.volumes, 2);
    }

    #[tokio::test]
    async fn the_latest_ended_sessions_are_kept_and_listed_by_pages() {
        let scene = scene().await;
        let meta = &scene.meta;
        let most = u8::try_from(MOST_ENDED).unwrap();
        for n in 0..most + 5 {
            let tree = tree(&scene, &format!("t{n}"));
            let one = session(&scene, n, vec![upload(&tree, true)]);
            meta.begin_session(&one, vec![tree], Vec::new()).await.unwrap();
            meta.drop_session(one.id, SessionState::Failed, "no", UnixTime(10_000 + i64::from(n))).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = meta.sessions(scene.tenant, 40, after).await.unwrap();
            seen.extend(page.items.iter().map(|session| session.created.0));
            after = page.items.last().map(|session| session.id);
            if !page.has_more {
                break;
            }
        }
        // One more than is kept: they are counted when the next begins.
        assert_eq!(seen, (4..MOST_ENDED + 5).rev().collect::<Vec<_>>());
        let strange = meta.sessions(scene.tenant, 40, Some(SessionId::random())).await;
        assert!(matches!(strange, Err(MetaError::NotFound)));

        let long = tree(&scene, "long");
        let one = session(&scene, 150, vec![upload(&long, true)]);
        meta.begin_session(&one, vec![long], Vec::new()).await.unwrap();
        let id = one.uploads[0].id;
        meta.start_attempt(id).await.unwrap();
        meta.end_attempt(id, &Attempt::Failed("x".repeat(600 << 10))).await.unwrap();
        meta.drop_session(one.id, SessionState::Failed, "no", UnixTime(20_000)).await.unwrap();
        let last = tree(&scene, "last");
        let next = session(&scene, 160, vec![upload(&last, true)]);
        meta.begin_session(&next, vec![last], Vec::new()).await.unwrap();
        let left = meta.sessions(scene.tenant, 40, None).await.unwrap();
        assert_eq!(left.items, [next], "what is too long goes, and with it what is older");
    }

    #[tokio::test]
    async fn an_attempt_runs_alone_and_a_good_one_is_the_last() {
        let scene = scene().await;
        let (session, _) = begun(&scene).await;
        let (meta, id) = (&scene.meta, session.uploads[0].id);
        let part = async || meta.unpacking(id).await.unwrap().unwrap().upload;
        assert!(matches!(meta.end_attempt(id, &RECEIVED).await, Err(MetaError::Conflict)));
        meta.start_attempt(id).await.unwrap();
        assert!(matches!(meta.start_attempt(id).await, Err(MetaError::Conflict)));
        meta.end_attempt(id, &Attempt::Failed("no".to_owned())).await.unwrap();
        assert_eq!((part().await.state, part().await.reason.as_deref()), (UploadState::Waiting, Some("no")));
        meta.start_attempt(id).await.unwrap();
        meta.end_attempts_of_the_dead("dead").await.unwrap();
        assert_eq!((part().await.state, part().await.reason.as_deref()), (UploadState::Waiting, Some("dead")));
        meta.start_attempt(id).await.unwrap();
        meta.end_attempt(id, &RECEIVED).await.unwrap();
        let done = part().await;
        assert_eq!((done.state, done.reason, done.members, done.bytes), (UploadState::Received, None, 3, 7));
        assert!(matches!(meta.start_attempt(id).await, Err(MetaError::Conflict)));
    }

    #[tokio::test]
    async fn a_session_is_finished_whole_or_not_at_all_and_once() {
        let scene = scene().await;
        let (session, trees) = begun(&scene).await;
        let meta = &scene.meta;
        let (mut wanted, replaced) = (filled(&trees, &session), ContentId::random());
        for upload in &session.uploads {
            let early = meta.finish_session(session.id, wanted.clone(), Vec::new(), UnixTime(5)).await;
            assert!(matches!(early, Err(MetaError::Conflict)));
            assert_eq!(meta.trees(scene.tenant).await.unwrap(), trees);
            meta.start_attempt(upload.id).await.unwrap();
            meta.end_attempt(upload.id, &RECEIVED).await.unwrap();
        }
        wanted[1].revision += 1;
        let stale = meta.finish_session(session.id, wanted.clone(), vec![replaced], UnixTime(5)).await;
        assert!(matches!(stale, Err(MetaError::Conflict)));
        assert_eq!(meta.trees(scene.tenant).await.unwrap(), trees);
        wanted[1].revision -= 1;
        assert_eq!(meta.dropped_contents().await.unwrap(), []);
        meta.finish_session(session.id, wanted.clone(), vec![replaced], UnixTime(5)).await.unwrap();
        let there = meta.trees(scene.tenant).await.unwrap();
        assert!(there.iter().all(|tree| tree.state == VolumeState::Available && tree.content.is_some()));
        assert!(matches!(
            meta.drop_session(session.id, SessionState::Failed, "late", UnixTime(6)).await,
            Err(MetaError::Conflict)
        ));
        assert_eq!(meta.session_of(trees[0].id).await.unwrap(), None);
        let ended = meta.session(session.id).await.unwrap().unwrap();
        assert_eq!((ended.state, ended.ended), (SessionState::Finished, Some(UnixTime(5))));
        meta.forget_sessions(UnixTime(5)).await.unwrap();
        assert!(meta.session(session.id).await.unwrap().is_some());
        meta.forget_sessions(UnixTime(6)).await.unwrap();
        assert_eq!(meta.session(session.id).await.unwrap(), None);
        assert!(meta.owns_content(session.uploads[0].content).await.unwrap());
        assert_eq!(meta.dropped_contents().await.unwrap(), [replaced]);
    }

    #[tokio::test]
    async fn a_dropped_session_takes_the_trees_that_were_made_for_it_and_no_others() {
        let scene = scene().await;
        let (first, trees) = begun(&scene).await;
        let meta = &scene.meta;
        for upload in &first.uploads {
            meta.start_attempt(upload.id).await.unwrap();
            meta.end_attempt(upload.id, &RECEIVED).await.unwrap();
        }
        meta.finish_session(first.id, filled(&trees, &first), Vec::new(), UnixTime(5)).await.unwrap();
        let old = meta.trees(scene.tenant).await.unwrap();
        let new = tree(&scene, "new");
        let second = session(&scene, 20, vec![upload(&old[0], false), upload(&new, true), upload(&old[1], false)]);
        meta.begin_session(&second, vec![new], old.clone()).await.unwrap();
        meta.start_attempt(second.uploads[2].id).await.unwrap();
        meta.end_attempt(second.uploads[2].id, &RECEIVED).await.unwrap();
        meta.start_attempt(second.uploads[0].id).await.unwrap();
        meta.drop_session(second.id, SessionState::Expired, "late", UnixTime(9)).await.unwrap();
        assert!(matches!(meta.end_attempt(second.uploads[0].id, &RECEIVED).await, Err(MetaError::Conflict)));
        assert!(matches!(meta.start_attempt(second.uploads[1].id).await, Err(MetaError::Conflict)));
        let names: Vec<String> = meta.trees(scene.tenant).await.unwrap().into_iter().map(|tree| tree.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(meta.usage(scene.tenant).await.unwrap().1.volumes, 2);
        assert!(!meta.owns_content(second.uploads[0].content).await.unwrap());
        assert_eq!(meta.dropped_contents().await.unwrap(), [second.uploads[2].content], "it was received");
        assert_eq!(meta.open_sessions().await.unwrap(), []);
    }
}
