//! The accounts as whoever runs the server manages them: users and their passwords, access keys, projects and who may
//! work in them.
//!
//! # Invariants
//! - Whoever had an old password has nothing any more that it was good for: tokens, access keys and sessions end with
//!   it.
//! - What was changed is logged, without secrets.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::basic::check_user_name;
use super::identity::check_project_name;
use super::passwords::{PasswordError, Passwords, random_password};
use crate::domain::{ByteCount, Clock, Fault, Named, Project, Quota, TenantId};
use crate::meta::{KeySummary, Meta, MetaError, ProjectSummary, UserSummary};

/// Manages the accounts.
pub(crate) struct Accounts {
    meta: Meta,
    passwords: Passwords,
    /// What a tenant may hold of which nothing else is said.
    default_quota: Quota,
    clock: Arc<dyn Clock>,
}

/// What a tenant may hold beside the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The most drives.
    pub volumes: Option<u64>,
    /// The most bytes of its drives together.
    pub bytes: Option<ByteCount>,
}

/// A user to be added.
#[derive(Clone, Debug)]
pub(crate) struct NewUser {
    /// The name to log in with.
    pub name: String,
    /// The tenant, which is made if there is none of this name; the user's own name when absent.
    pub tenant: Option<String>,
    /// What the tenant may hold.
    pub bounds: Bounds,
    /// Whether they administrate.
    pub is_admin: bool,
}

/// A user to be added, with a password.
pub(crate) struct PreparedUser {
    user: NewUser,
    password: Zeroizing<String>,
    digest: String,
}

impl PreparedUser {
    /// Returns the password, which is kept nowhere else.
    pub(crate) fn password(&self) -> &Zeroizing<String> {
        &self.password
    }
}

impl fmt::Debug for PreparedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedUser").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A user's new password.
pub(crate) struct NewPassword {
    /// The password, which is kept nowhere else.
    pub password: Zeroizing<String>,
    /// The access keys that ended with the old one.
    pub ended_keys: u64,
}

/// A change of the accounts that was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// It cannot be asked for.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// No project has this name or id.
    #[error("there is no project {0}")]
    NoSuchProject(String),
    /// The password cannot be digested.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The database refuses it.
    #[error(transparent)]
    Database(#[from] MetaError),
}

impl Accounts {
    /// The accounts of this database.
    pub(crate) fn new(meta: Meta, default_quota: Quota, clock: Arc<dyn Clock>) -> Self {
        Self { meta, passwords: Passwords::default(), default_quota, clock }
    }

    /// Returns all users, with what their tenants hold.
    pub(crate) async fn users(&self) -> Result<Vec<UserSummary>, AccountError> {
        Ok(self.meta.users().await?)
    }

    /// Checks what is said of a user, and makes a password. Nothing is changed before [`Accounts::add_user`].
    pub(crate) async fn prepare_user(&self, user: NewUser) -> Result<PreparedUser, AccountError> {
        check_user_name(&user.name)?;
        let password = random_password();
        let digest = self.passwords.hash(password.clone()).await?;
        Ok(PreparedUser { user, password, digest })
    }

    /// Adds a user. A tenant that exists keeps its quota unless this user's bounds say another.
    pub(crate) async fn add_user(&self, PreparedUser { user, digest, .. }: &PreparedUser) -> Result<(), AccountError> {
        let NewUser { name, tenant, bounds, is_admin } = user;
        let sets_quota = tenant.is_none() || *bounds != Bounds::default();
        let quota = sets_quota.then(|| self.quota(*bounds));
        let (tenant, now) = (tenant.as_ref().unwrap_or(name), self.clock.now());
        if *is_admin {
            self.meta.add_administrator(name, digest, tenant, quota, now).await?;
        } else {
            self.meta.add_user(name, digest, tenant, quota, now).await?;
        }
        tracing::info!(user = name, tenant, is_admin, ?quota, "a user was added");
        Ok(())
    }

    /// Gives a user a new random password.
    pub(crate) async fn renew_password(&self, user: &str) -> Result<NewPassword, AccountError> {
        let password = random_password();
        let digest = self.passwords.hash(password.clone()).await?;
        let ended_keys = self.meta.set_password(user, &digest).await?;
        tracing::info!(user, ended_keys, "a user has a new password");
        Ok(NewPassword { password, ended_keys })
    }

    /// Removes a user, and with the last one the tenant.
    pub(crate) async fn remove_user(&self, user: &str) -> Result<(), AccountError> {
        self.meta.remove_user(user).await?;
        tracing::info!(user, "a user was removed");
        Ok(())
    }

    /// Returns all access keys, without their secrets.
    pub(crate) async fn keys(&self) -> Result<Vec<KeySummary>, AccountError> {
        Ok(self.meta.keys().await?)
    }

    /// Removes an access key.
    pub(crate) async fn remove_key(&self, key: &str) -> Result<(), AccountError> {
        self.meta.remove_key(key).await?;
        tracing::info!(key, "an access key was removed");
        Ok(())
    }

    /// Returns all projects, with what they hold and who belongs to them.
    pub(crate) async fn projects(&self) -> Result<Vec<ProjectSummary>, AccountError> {
        Ok(self.meta.projects().await?)
    }

    /// Adds a project that nobody belongs to yet.
    pub(crate) async fn add_project(&self, name: &str, bounds: Bounds) -> Result<TenantId, AccountError> {
        check_project_name(name)?;
        let quota = self.quota(bounds);
        let id = self.meta.add_project(name, quota).await?;
        tracing::info!(project = name, %id, ?quota, "a project was added");
        Ok(id)
    }

    /// Removes a project that nobody belongs to and that holds nothing. Named by its name or its id, as in what
    /// follows.
    pub(crate) async fn remove_project(&self, project: &str) -> Result<(), AccountError> {
        let found = self.project(project).await?;
        self.meta.remove_project(found.id).await?;
        tracing::info!(project = found.name, id = %found.id, "a project was removed");
        Ok(())
    }

    /// Lets a user work in a project beside their own.
    pub(crate) async fn grant(&self, user: &str, project: &str) -> Result<(), AccountError> {
        let found = self.project(project).await?;
        self.meta.add_member(user, found.id).await?;
        tracing::info!(user, project = found.name, "a user may work in a project");
        Ok(())
    }

    /// Ends what [`Accounts::grant`] gave, and the user's tokens and sessions in the project.
    pub(crate) async fn revoke(&self, user: &str, project: &str) -> Result<(), AccountError> {
        let found = self.project(project).await?;
        self.meta.remove_member(user, found.id).await?;
        tracing::info!(user, project = found.name, "a user may work in a project no more");
        Ok(())
    }

    /// Returns the project of this name, or else of this id.
    pub(crate) async fn project(&self, text: &str) -> Result<Project, AccountError> {
        if let Some(project) = self.meta.project(&Named::Name(text.to_owned())).await? {
            return Ok(project);
        }
        if let Some(id) = TenantId::from_plain(text)
            && let Some(project) = self.meta.project(&Named::Id(id)).await?
        {
            return Ok(project);
        }
        Err(AccountError::NoSuchProject(text.to_owned()))
    }

    fn quota(&self, bounds: Bounds) -> Quota {
        let default = self.default_quota;
        Quota { volumes: bounds.volumes.or(default.volumes), bytes: bounds.bytes.or(default.bytes), ..default }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FixedClock, UnixTime};

    const DEFAULT: Quota = Quota {
        volumes: Some(5),
        bytes: None,
        backups: Some(2),
        backup_bytes: None,
        snapshots: None,
        volume_bytes: None,
    };

    async fn accounts() -> (tempfile::TempDir, Accounts) {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta::open(&directory.path().join("meta.db")).await.unwrap();
        (directory, Accounts::new(meta, DEFAULT, Arc::new(FixedClock::at(UnixTime(1)))))
    }

    async fn add(accounts: &Accounts, name: &str, tenant: Option<&str>, bounds: Bounds) -> Result<(), AccountError> {
        let tenant = tenant.map(str::to_owned);
        let user = NewUser { name: name.to_owned(), tenant, bounds, is_admin: false };
        accounts.add_user(&accounts.prepare_user(user).await?).await
    }

    #[tokio::test]
    async fn a_tenant_keeps_its_quota_unless_a_new_user_says_another() {
        let (_directory, accounts) = accounts().await;
        let few = Bounds { volumes: Some(3), bytes: None };
        let quota_of = async |name: &str| {
            accounts.projects().await.unwrap().into_iter().find(|row| row.project.name == name).unwrap().quota
        };
        add(&accounts, "alice", None, Bounds::default()).await.unwrap();
        assert_eq!(quota_of("alice").await, DEFAULT);
        add(&accounts, "bob", Some("alice"), few).await.unwrap();
        assert_eq!(quota_of("alice").await, Quota { volumes: Some(3), ..DEFAULT });
        add(&accounts, "carol", Some("alice"), Bounds::default()).await.unwrap();
        assert_eq!(quota_of("alice").await, Quota { volumes: Some(3), ..DEFAULT });
        // As it always was: nothing is said of a tenant that is made beside its user.
        add(&accounts, "dave", Some("new"), Bounds::default()).await.unwrap();
        assert_eq!(quota_of("new").await, Quota::default());
        accounts.add_project("other", few).await.unwrap();
        assert_eq!(quota_of("other").await, Quota { volumes: Some(3), ..DEFAULT });
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let (_directory, accounts) = accounts().await;
        let refused = |outcome: Result<(), AccountError>| matches!(outcome, Err(AccountError::Refused(_)));
        assert!(refused(add(&accounts, "a:b", None, Bounds::default()).await));
        assert!(refused(accounts.add_project("a\nb", Bounds::default()).await.map(drop)));
        assert!(accounts.users().await.unwrap().is_empty() && accounts.projects().await.unwrap().is_empty());
        let id = accounts.add_project("project", Bounds::default()).await.unwrap();
        add(&accounts, "alice", None, Bounds::default()).await.unwrap();
        for name in ["project".to_owned(), id.plain()] {
            accounts.grant("alice", &name).await.unwrap();
            accounts.revoke("alice", &name).await.unwrap();
        }
        assert!(matches!(accounts.grant("alice", "no").await, Err(AccountError::NoSuchProject(_))));
        assert!(matches!(accounts.revoke("alice", "project").await, Err(AccountError::Database(MetaError::NotFound))));
    }
}
