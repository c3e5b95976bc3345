//! Users, projects and tokens, as an identity service has them.
//!
//! A project is a tenant by its OpenStack name. A user has one project of their own, and may be a member of others;
//! administrators may work in all.

use super::{Secret, TenantId, TokenId, UnixTime, UserId};

/// How a request names a user or a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<Id> {
    /// By its id, which never changes.
    Id(Id),
    /// By its name.
    Name(String),
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Their identity, for ever.
    pub id: UserId,
    /// The name that they log in with.
    pub name: String,
    /// Their own project.
    pub project: TenantId,
    /// Whether they administrate.
    pub is_admin: bool,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its identity, for ever: the tenant's.
    pub id: TenantId,
    /// Its name.
    pub name: String,
}

/// What a token stands for: a user in a project, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it may be called where others see it.
    pub id: TokenId,
    /// The user that owns it.
    pub user: User,
    /// The project that it is scoped to.
    pub project: Project,
    /// If it was given for another token and not for the password itself: the one that was, at the begin of the chain.
    pub chain: Option<TokenId>,
    /// The time of its creation.
    pub issued: UnixTime,
    /// From when on it is no good. A token that was given for another ends with that one.
    pub expires: UnixTime,
}

/// A login that is answered with a signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name of the user.
    pub user: String,
    /// Their password.
    pub password: Secret,
}

/// Work of the identity service that is open to anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnonymousCommand {
    /// Which version is served here.
    Describe,
    /// Makes a token.
    Issue {
        /// The credentials of the caller.
        proof: Proof,
        /// For which project; the user's own when absent.
        scope: Option<Named<TenantId>>,
    },
}

/// Work of the identity service for a known caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityCommand {
    /// What a token stands for: one of the caller's own, or any for administrators.
    ShowToken(Secret),
    /// Ends a token; the same.
    Revoke(Secret),
    /// Where the services are.
    Catalog,
    /// The projects that the caller may work in.
    OwnProjects {
        /// Only of this name.
        name: Option<String>,
    },
    /// The projects that a user may work in: the caller, or any for administrators.
    ProjectsOf {
        /// The user.
        user: UserId,
        /// Only of this name.
        name: Option<String>,
    },
    /// One of the caller's projects, or any for administrators.
    Project(TenantId),
    /// The users that the caller may see: themselves, or all for administrators.
    Users {
        /// Only of this name.
        name: Option<String>,
    },
    /// One of them.
    User(UserId),
}

/// How somebody proves who they are when they ask for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By their password.
    Password {
        /// The user.
        user: Named<UserId>,
        /// It.
        password: Secret,
    },
    /// By a token that they have.
    Token(Secret),
}

/// What came of an [`AnonymousCommand`] or an [`IdentityCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityOutcome {
    /// Of [`AnonymousCommand::Describe`].
    Described,
    /// Of [`AnonymousCommand::Issue`].
    Issued {
        /// What it stands for.
        token: Box<Token>,
        /// The token itself, told this once.
        secret: Secret,
        /// The name of the region that the services are in.
        region: String,
    },
    /// Of [`IdentityCommand::ShowToken`].
    Token {
        /// What it stands for.
        token: Box<Token>,
        /// The name of the region that the services are in.
        region: String,
    },
    /// Of [`IdentityCommand::Revoke`].
    Revoked,
    /// Of [`IdentityCommand::Catalog`].
    Catalog {
        /// The project whose services they are.
        project: TenantId,
        /// The name of the region that they are in.
        region: String,
    },
    /// Of the commands that ask for projects.
    Projects(Vec<Project>),
    /// Of [`IdentityCommand::Project`].
    Project(Project),
    /// Of [`IdentityCommand::Users`].
    Users(Vec<User>),
    /// Of [`IdentityCommand::User`].
    User(User),
}
