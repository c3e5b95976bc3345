//! Users, projects and tokens, in the terms of an identity service.
//!
//! A project is what OpenStack calls a tenant. A user has one project of their own, and may be a member of others;
//! administrators may work in all of them.

use super::{Secret, TenantId, TokenId, UnixTime, UserId};

/// A reference to a user or a project in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<Id> {
    /// Its id, which never changes.
    Id(Id),
    /// Its name.
    Name(String),
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The permanent id.
    pub id: UserId,
    /// The login name.
    pub name: String,
    /// The project of their own.
    pub project: TenantId,
    /// Whether they are an administrator.
    pub is_admin: bool,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The permanent id, which is that of the tenant.
    pub id: TenantId,
    /// Its name.
    pub name: String,
}

/// A token: a user in a project, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public id.
    pub id: TokenId,
    /// The user that owns it.
    pub user: User,
    /// The project that it is scoped to.
    pub project: Project,
    /// The first token of its chain, which was issued for the password; `None` of that token itself.
    pub chain: Option<TokenId>,
    /// The time of its creation.
    pub issued: UnixTime,
    /// The time of its expiry. A token that was issued for another expires with that one.
    pub expires: UnixTime,
}

/// A login that is answered with a signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The login name of the user.
    pub user: String,
    /// Their password.
    pub password: Secret,
}

/// Work of the identity service for anyone, without a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousCommand {
    /// Asks for the version that is served here.
    Describe,
    /// Issues a token.
    Issue {
        /// The credentials of the caller.
        proof: Proof,
        /// The project of the token; the user's own when absent.
        scope: Option<Named<TenantId>>,
    },
}

/// Work of the identity service for an authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityCommand {
    /// Shows a token of the caller, or any for administrators.
    ShowToken(Secret),
    /// Revokes a token of the caller, or any for administrators.
    Revoke(Secret),
    /// Lists the services and their addresses.
    Catalog,
    /// Lists the projects that the caller may work in.
    OwnProjects {
        /// The name to match.
        name: Option<String>,
    },
    /// Lists the projects that the caller may work in, or any user for administrators.
    ProjectsOf {
        /// The user.
        user: UserId,
        /// The name to match.
        name: Option<String>,
    },
    /// Shows a project of the caller, or any for administrators.
    Project(TenantId),
    /// Lists the users that the caller may see: the caller alone, or all for administrators.
    Users {
        /// The name to match.
        name: Option<String>,
    },
    /// Shows a user that the caller may see.
    User(UserId),
}

/// The credentials in a request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A user and a password.
    Password {
        /// The user.
        user: Named<UserId>,
        /// Their password.
        password: Secret,
    },
    /// A token that was issued before.
    Token(Secret),
}

/// The outcome of an [`AnonymousCommand`] or an [`IdentityCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityOutcome {
    /// Of [`AnonymousCommand::Describe`].
    Described,
    /// Of [`AnonymousCommand::Issue`].
    Issued {
        /// The token.
        token: Box<Token>,
        /// Its secret text, which is told only once.
        secret: Secret,
        /// The region of the services.
        region: String,
    },
    /// Of [`IdentityCommand::ShowToken`].
    Token {
        /// The token.
        token: Box<Token>,
        /// The region of the services.
        region: String,
    },
    /// Of [`IdentityCommand::Revoke`].
    Revoked,
    /// Of [`IdentityCommand::Catalog`].
    Catalog {
        /// The project in whose URLs the services are.
        project: TenantId,
        /// The region of the services.
        region: String,
    },
    /// Of [`IdentityCommand::OwnProjects`] and [`IdentityCommand::ProjectsOf`].
    Projects(Vec<Project>),
    /// Of [`IdentityCommand::Project`].
    Project(Project),
    /// Of [`IdentityCommand::Users`].
    Users(Vec<User>),
    /// Of [`IdentityCommand::User`].
    User(User),
}
