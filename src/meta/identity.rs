//! Tokens, and the projects that users may work in.
//!
//! # Invariants
//! - A token is good only while its user may work in its project: that is looked at with every look at the token.
//! - A user has a bounded number of tokens.
//!
//! # Crash
//! A token is durable before its holder has it, and so is its end.

use sqlx::Row as _;

use super::sqlite::DbRow;
use super::tenants::{end_uploads, exactly_one, has_users, holds_things, insert_tenant, quota_and_usage, write_quota};
use super::{Meta, MetaError, id_bytes};
use crate::domain::{Named, Project, Quota, Sha256, TenantId, Token, TokenId, UnixTime, Usage, User, UserId};

/// Tokens of a user that are kept; a new one above that ends the oldest. Enough for a script that asks for one with
/// every command, and some 300 KiB for each user who does.
const MOST_TOKENS: i64 = 2_048;

/// A project as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectSummary {
    /// Id and name.
    pub project: Project,
    /// Who belongs to it, administrators without a membership left out.
    pub users: Vec<String>,
    /// The most it may hold.
    pub quota: Quota,
    /// Its present usage.
    pub usage: Usage,
}

/// The projects that the user $1 may work in.
macro_rules! projects_of_user {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.name FROM tenants p JOIN users u ON u.name = $1 WHERE (u.tenant = p.id OR u.is_admin <> 0 ",
            "OR EXISTS (SELECT 1 FROM members m WHERE m.user_name = u.name AND m.tenant = p.id)) ",
            $rest
        )
    };
}

impl Meta {
    /// Keeps a token by its digest, and forgets those that had expired when it was issued. If it is given for another,
    /// it ends with that one; [`MetaError::NotFound`] when that has ended already.
    pub async fn insert_token(&self, digest: &Sha256, token: &Token, old: Option<&Sha256>) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        sqlx::query("DELETE FROM tokens WHERE expires <= $1").bind(token.issued.0).execute(&mut *tx).await?;
        sqlx::query(
            "DELETE FROM tokens WHERE digest IN (SELECT digest FROM tokens WHERE user_name = $1 \
             ORDER BY created DESC, id DESC LIMIT 9223372036854775807 OFFSET $2)",
        )
        .bind(&token.user.name)
        .bind(MOST_TOKENS - 1)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO tokens (digest, id, user_name, tenant, parent, chain, created, expires) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(digest.0.as_slice())
        .bind(token.id.as_bytes().as_slice())
        .bind(&token.user.name)
        .bind(token.project.id.as_bytes().as_slice())
        .bind(old.map(|old| old.0.as_slice()))
        .bind(token.chain.as_ref().map(|first| first.as_bytes().as_slice()))
        .bind(token.issued.0)
        .bind(token.expires.0)
        .execute(&mut *tx)
        .await?;
        self.db.commit(tx).await
    }

    /// The token with this digest, if it is good now.
    pub async fn token(&self, digest: &Sha256, now: UnixTime) -> Result<Option<Token>, MetaError> {
        let row = sqlx::query(
            "SELECT t.id AS token, t.chain, t.created, t.expires, u.id, u.name, u.tenant, u.is_admin, \
             p.id AS project, p.name AS project_name \
             FROM tokens t JOIN users u ON u.name = t.user_name JOIN tenants p ON p.id = t.tenant \
             WHERE t.digest = $1 AND t.expires > $2 AND (u.tenant = p.id OR u.is_admin <> 0 \
             OR EXISTS (SELECT 1 FROM members m WHERE m.user_name = u.name AND m.tenant = p.id))",
        )
        .bind(digest.0.as_slice())
        .bind(now.0)
        .fetch_optional(&self.db.readers)
        .await?;
        row.map(|row| {
            Ok(Token {
                id: TokenId::from_bytes(id_bytes(row.try_get("token")?, "token")?),
                user: user_from(&row)?,
                project: Project {
                    id: TenantId::from_bytes(id_bytes(row.try_get("project")?, "project")?),
                    name: row.try_get("project_name")?,
                },
                chain: row
                    .try_get::<Option<&[u8]>, _>("chain")?
                    .map(|first| id_bytes(first, "chain").map(TokenId::from_bytes))
                    .transpose()?,
                issued: UnixTime(row.try_get("created")?),
                expires: UnixTime(row.try_get("expires")?),
            })
        })
        .transpose()
    }

    /// Makes a project that an identity service elsewhere has named, unless it is there. Where another has its name,
    /// its id is added to it.
    pub async fn adopt_project(&self, id: TenantId, name: &str, quota: Quota) -> Result<(), MetaError> {
        if self.project(&Named::Id(id)).await?.is_some() {
            return Ok(());
        }
        let mut tx = self.db.begin_adding().await?;
        for name in [name.to_owned(), format!("{name} {}", id.plain())] {
            let done = sqlx::query(
                "INSERT INTO tenants (id, name, used_volumes, used_bytes) VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING",
            )
            .bind(id.as_bytes().as_slice())
            .bind(name)
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() > 0 {
                write_quota(&mut tx, id, quota).await?;
                break;
            }
        }
        self.db.commit(tx).await
    }

    /// Ends a token and all that were given for it, and for those; returns which ended. Ending one that is not there
    /// succeeds.
    pub async fn remove_token(&self, digest: &Sha256) -> Result<Vec<Sha256>, MetaError> {
        let mut tx = self.db.begin().await?;
        let ended: Vec<Vec<u8>> = sqlx::query_scalar(
            "WITH RECURSIVE ended (digest) AS (SELECT digest FROM tokens WHERE digest = $1 \
             UNION SELECT t.digest FROM tokens t JOIN ended e ON t.parent = e.digest) SELECT digest FROM ended",
        )
        .bind(digest.0.as_slice())
        .fetch_all(&mut *tx)
        .await?;
        let ended = ended.iter().map(|bytes| bytes.as_slice().try_into().map(Sha256)).collect::<Result<_, _>>();
        // The others go with it, by their foreign key.
        sqlx::query("DELETE FROM tokens WHERE digest = $1").bind(digest.0.as_slice()).execute(&mut *tx).await?;
        self.db.commit(tx).await?;
        ended.map_err(|_| MetaError::Damaged("digest"))
    }

    /// A user.
    pub async fn account(&self, wanted: &Named<UserId>) -> Result<Option<User>, MetaError> {
        let query = match wanted {
            Named::Id(id) => {
                sqlx::query("SELECT id, name, tenant, is_admin FROM users WHERE id = $1").bind(id.as_bytes().as_slice())
            }
            Named::Name(name) => sqlx::query("SELECT id, name, tenant, is_admin FROM users WHERE name = $1").bind(name),
        };
        query.fetch_optional(&self.db.readers).await?.as_ref().map(user_from).transpose()
    }

    /// All users, by name.
    pub async fn accounts(&self) -> Result<Vec<User>, MetaError> {
        let rows = sqlx::query("SELECT id, name, tenant, is_admin FROM users ORDER BY name");
        rows.fetch_all(&self.db.readers).await?.iter().map(user_from).collect()
    }

    /// The projects that a user may work in, by name. Administrators may in all.
    pub async fn projects_of(&self, user: &str) -> Result<Vec<Project>, MetaError> {
        let rows = sqlx::query(projects_of_user!("ORDER BY p.name")).bind(user).fetch_all(&self.db.readers).await?;
        rows.iter().map(project_from).collect()
    }

    /// A project, if this user may work in it.
    pub async fn project_of(&self, user: &str, wanted: &Named<TenantId>) -> Result<Option<Project>, MetaError> {
        let query = match wanted {
            Named::Id(id) => sqlx::query(projects_of_user!("AND p.id = $2")).bind(user).bind(id.as_bytes().as_slice()),
            Named::Name(name) => sqlx::query(projects_of_user!("AND p.name = $2")).bind(user).bind(name),
        };
        query.fetch_optional(&self.db.readers).await?.as_ref().map(project_from).transpose()
    }

    /// A project, whoever asks.
    pub async fn project(&self, wanted: &Named<TenantId>) -> Result<Option<Project>, MetaError> {
        let query = match wanted {
            Named::Id(id) => sqlx::query("SELECT id, name FROM tenants WHERE id = $1").bind(id.as_bytes().as_slice()),
            Named::Name(name) => sqlx::query("SELECT id, name FROM tenants WHERE name = $1").bind(name),
        };
        query.fetch_optional(&self.db.readers).await?.as_ref().map(project_from).transpose()
    }

    /// All projects, by name, with who belongs to them.
    pub async fn projects(&self) -> Result<Vec<ProjectSummary>, MetaError> {
        let mut tx = self.db.readers.begin().await?;
        let rows = sqlx::query("SELECT * FROM limited_tenants ORDER BY name").fetch_all(&mut *tx).await?;
        let mut projects = Vec::with_capacity(rows.len());
        for row in &rows {
            let project = project_from(row)?;
            let users = sqlx::query_scalar(
                "SELECT name FROM users WHERE tenant = $1 \
                 UNION SELECT user_name FROM members WHERE tenant = $1 ORDER BY 1",
            )
            .bind(project.id.as_bytes().as_slice())
            .fetch_all(&mut *tx)
            .await?;
            let (quota, usage) = quota_and_usage(row)?;
            projects.push(ProjectSummary { project, users, quota, usage });
        }
        Ok(projects)
    }

    /// Makes a project that nobody belongs to yet.
    pub async fn add_project(&self, name: &str, quota: Quota) -> Result<TenantId, MetaError> {
        let mut tx = self.db.begin_adding().await?;
        let project = insert_tenant(&mut tx, name).await?;
        write_quota(&mut tx, project, quota).await?;
        self.db.commit(tx).await?;
        Ok(project)
    }

    /// Removes a project; [`MetaError::TenantInUse`] while somebody belongs to it or it holds anything.
    pub async fn remove_project(&self, project: TenantId) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let id = project.as_bytes().as_slice();
        if has_users(&mut tx, id).await? || holds_things(&mut tx, id).await? {
            return Err(MetaError::TenantInUse);
        }
        let done = sqlx::query("DELETE FROM tenants WHERE id = $1").bind(id).execute(&mut *tx).await?;
        exactly_one(done.rows_affected())?;
        self.db.commit(tx).await
    }

    /// Makes a user a member of a project. Who is one already stays one.
    pub async fn add_member(&self, user: &str, project: TenantId) -> Result<(), MetaError> {
        let mut tx = self.db.begin_adding().await?;
        sqlx::query("INSERT INTO members (user_name, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(user)
            .bind(project.as_bytes().as_slice())
            .execute(&mut *tx)
            .await?;
        self.db.commit(tx).await
    }

    /// Ends a membership, and the user's tokens, sessions and transfers in that project; [`MetaError::NotFound`] when
    /// there is none.
    pub async fn remove_member(&self, user: &str, project: TenantId) -> Result<(), MetaError> {
        let mut tx = self.db.begin().await?;
        let done = sqlx::query("DELETE FROM members WHERE user_name = $1 AND tenant = $2")
            .bind(user)
            .bind(project.as_bytes().as_slice())
            .execute(&mut *tx)
            .await?;
        exactly_one(done.rows_affected())?;
        sqlx::query("DELETE FROM tokens WHERE user_name = $1 AND tenant = $2")
            .bind(user)
            .bind(project.as_bytes().as_slice())
            .execute(&mut *tx)
            .await?;
        end_uploads(&mut tx, user, Some(project)).await?;
        self.db.commit(tx).await
    }
}

fn user_from(row: &DbRow) -> Result<User, MetaError> {
    Ok(User {
        id: UserId::from_bytes(id_bytes(row.try_get("id")?, "id")?),
        name: row.try_get("name")?,
        project: TenantId::from_bytes(id_bytes(row.try_get("tenant")?, "tenant")?),
        is_admin: row.try_get::<i64, _>("is_admin")? != 0,
    })
}

fn project_from(row: &DbRow) -> Result<Project, MetaError> {
    Ok(Project { id: TenantId::from_bytes(id_bytes(row.try_get("id")?, "id")?), name: row.try_get("name")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::testing::{Scene, drive, quota, scene};

    const NOW: UnixTime = UnixTime(10_000);

    /// A token of `alice`, and its digest.
    async fn token(scene: &Scene, number: u8) -> (Sha256, Token) {
        let user = scene.meta.account(&Named::Name("alice".to_owned())).await.unwrap().unwrap();
        let project = Project { id: scene.tenant, name: "red".to_owned() };
        let (issued, expires) = (NOW, NOW.plus_seconds(60));
        let token = Token { id: TokenId::random(), user, project, chain: None, issued, expires };
        (Sha256([number; 32]), token)
    }

    impl Scene {
        async fn knows(&self, digest: &Sha256) -> bool {
            self.meta.token(digest, NOW).await.unwrap().is_some()
        }

        async fn names(&self, user: &str) -> Vec<String> {
            self.meta.projects_of(user).await.unwrap().into_iter().map(|project| project.name).collect()
        }
    }

    /// Of what they were given for is not known, so that nothing could end them.
    #[tokio::test]
    async fn a_database_of_before_chains_loses_the_tokens_that_were_given_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new();
        let options = options.filename(directory.path().join("meta.db")).create_if_missing(true).foreign_keys(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let first = super::super::sqlite::migrations().iter().take(3).cloned().collect();
        sqlx::migrate::Migrator::with_migrations(first).run(&pool).await.unwrap();
        let filled = "INSERT INTO tenants (id, name, used_volumes, used_bytes) VALUES (x'01', 'red', 0, 0);\
            INSERT INTO users (name, tenant, password_hash, created, id) VALUES ('alice', x'01', 'hash', 1, x'02');\
            INSERT INTO tokens (digest, id, user_name, tenant, is_renewed, created, expires) \
            VALUES (x'10', x'11', 'alice', x'01', 0, 1, 9), (x'20', x'21', 'alice', x'01', 1, 1, 9)";
        sqlx::raw_sql(filled).execute(&pool).await.unwrap();
        super::super::sqlite::migrations().run(&pool).await.unwrap();
        let left = "SELECT hex(digest) FROM tokens WHERE parent IS NULL AND chain IS NULL";
        let left: Vec<String> = sqlx::query_scalar(left).fetch_all(&pool).await.unwrap();
        assert_eq!(left, ["10"]);
    }

    #[tokio::test]
    async fn a_token_is_what_it_was_until_it_expires_or_is_removed() {
        let scene = scene().await;
        let (digest, token) = token(&scene, 1).await;
        scene.meta.insert_token(&digest, &token, None).await.unwrap();
        assert_eq!(scene.meta.token(&digest, NOW).await.unwrap(), Some(token.clone()));
        let end = token.expires;
        assert_eq!(scene.meta.token(&digest, UnixTime(end.0 - 1)).await.unwrap(), Some(token));
        assert_eq!(scene.meta.token(&digest, end).await.unwrap(), None);
        assert!(!scene.knows(&Sha256([2; 32])).await);
        scene.meta.remove_token(&digest).await.unwrap();
        assert!(!scene.knows(&digest).await);
        scene.meta.remove_token(&digest).await.unwrap();
    }

    #[tokio::test]
    async fn tokens_that_expired_are_forgotten_by_the_next_and_a_user_has_a_bounded_number() {
        let scene = scene().await;
        let (old, mut token) = token(&scene, 1).await;
        scene.meta.insert_token(&old, &token, None).await.unwrap();
        let count = || async {
            let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM tokens");
            count.fetch_one(&scene.meta.db.readers).await.unwrap()
        };
        token.issued = token.expires;
        token.expires = token.expires.plus_seconds(60);
        scene.meta.insert_token(&Sha256([2; 32]), &token, None).await.unwrap();
        assert_eq!(count().await, 1);
        let first = Sha256([2; 32]);
        for number in 0..MOST_TOKENS {
            let mut digest = Sha256([0; 32]);
            digest.0[..8].copy_from_slice(&number.to_be_bytes());
            token.id = TokenId::random();
            scene.meta.insert_token(&digest, &token, None).await.unwrap();
        }
        assert_eq!(count().await, MOST_TOKENS);
        assert_eq!(scene.meta.token(&first, token.issued).await.unwrap(), None, "the oldest goes first");
    }

    #[tokio::test]
    async fn the_tokens_of_a_user_end_with_the_user_and_with_the_password() {
        let scene = scene().await;
        let (digest, token) = token(&scene, 1).await;
        scene.meta.insert_token(&digest, &token, None).await.unwrap();
        scene.meta.set_password("alice", "new").await.unwrap();
        assert!(!scene.knows(&digest).await);
        scene.meta.insert_token(&digest, &token, None).await.unwrap();
        scene.meta.remove_user("alice").await.unwrap();
        assert!(!scene.knows(&digest).await);
        assert!(matches!(scene.meta.insert_token(&digest, &token, None).await, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn a_user_works_in_their_own_project_and_where_they_are_a_member_and_nowhere_else() {
        let scene = scene().await;
        let blue = scene.meta.add_project("blue", Quota::default()).await.unwrap();
        assert_eq!(scene.names("alice").await, ["red"]);
        assert_eq!(scene.meta.project_of("alice", &Named::Id(blue)).await.unwrap(), None);
        scene.meta.add_member("alice", blue).await.unwrap();
        scene.meta.add_member("alice", blue).await.unwrap();
        assert_eq!(scene.names("alice").await, ["blue", "red"]);
        let found = scene.meta.project_of("alice", &Named::Name("blue".to_owned())).await.unwrap().unwrap();
        assert_eq!(found, Project { id: blue, name: "blue".to_owned() });

        let (digest, mut token) = token(&scene, 1).await;
        token.project = found;
        scene.meta.insert_token(&digest, &token, None).await.unwrap();
        assert!(scene.knows(&digest).await);
        scene.meta.remove_member("alice", blue).await.unwrap();
        assert!(!scene.knows(&digest).await);
        scene.meta.add_member("alice", blue).await.unwrap();
        assert!(!scene.knows(&digest).await, "it does not come back");
        assert!(scene.names("nobody").await.is_empty());
        assert!(matches!(scene.meta.add_member("nobody", blue).await, Err(MetaError::NotFound)));
        assert!(matches!(scene.meta.add_member("alice", TenantId::random()).await, Err(MetaError::NotFound)));
        assert!(matches!(scene.meta.remove_member("bob", blue).await, Err(MetaError::NotFound)));
    }

    #[tokio::test]
    async fn an_administrator_works_everywhere() {
        let scene = scene().await;
        scene.meta.add_administrator("root", "h", "root", None, UnixTime(1)).await.unwrap();
        assert_eq!(scene.names("root").await, ["red", "root"]);
        let accounts = scene.meta.accounts().await.unwrap();
        let admins: Vec<_> = accounts.iter().map(|user| (user.name.as_str(), user.is_admin)).collect();
        assert_eq!(admins, [("alice", false), ("root", true)]);
        let again = scene.meta.account(&Named::Id(accounts[1].id)).await.unwrap();
        assert_eq!(again.as_ref(), Some(&accounts[1]));
        assert!(scene.meta.user("root").await.unwrap().unwrap().principal().is_admin);
    }

    #[tokio::test]
    async fn only_an_empty_project_is_removed() {
        let scene = scene().await;
        let blue = scene.meta.add_project("blue", quota(1, 10)).await.unwrap();
        assert!(matches!(scene.meta.add_project("blue", Quota::default()).await, Err(MetaError::Duplicate)));
        scene.meta.add_member("alice", blue).await.unwrap();
        assert!(matches!(scene.meta.remove_project(blue).await, Err(MetaError::TenantInUse)));
        scene.meta.remove_member("alice", blue).await.unwrap();
        let volume = drive(blue, 1);
        scene.meta.insert_volumes(vec![volume.clone()], vec![]).await.unwrap();
        assert!(matches!(scene.meta.remove_project(blue).await, Err(MetaError::TenantInUse)));
        scene.meta.remove_volume(volume.id).await.unwrap();
        scene.meta.remove_project(blue).await.unwrap();
        assert!(matches!(scene.meta.remove_project(blue).await, Err(MetaError::NotFound)));
        assert!(matches!(scene.meta.remove_project(scene.tenant).await, Err(MetaError::TenantInUse)));
    }

    #[tokio::test]
    async fn a_project_stays_while_it_has_a_member_and_is_listed_with_them() {
        let scene = scene().await;
        scene.meta.add_user("bob", "h", "blue", Some(quota(1, 10)), UnixTime(1)).await.unwrap();
        let blue = scene.meta.project(&Named::Name("blue".to_owned())).await.unwrap().unwrap();
        scene.meta.add_member("alice", blue.id).await.unwrap();
        let projects = scene.meta.projects().await.unwrap();
        assert_eq!(projects[0].project, blue);
        assert_eq!(
            (projects[0].users.as_slice(), projects[0].quota),
            (["alice", "bob"].map(str::to_owned).as_slice(), quota(1, 10))
        );
        scene.meta.remove_user("bob").await.unwrap();
        assert_eq!(scene.meta.project(&Named::Id(blue.id)).await.unwrap(), Some(blue.clone()));
        scene.meta.remove_member("alice", blue.id).await.unwrap();
        scene.meta.remove_project(blue.id).await.unwrap();
    }
}
