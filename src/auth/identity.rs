//! The identity service: issues tokens, and describes users and projects.
//!
//! # Invariants
//! - Passwords are checked by [`Basic`] only, with its throttle.
//! - A token that is given for another ends with that one, by its time or before: nobody stays logged in without their
//!   password.
//! - Users see themselves and their projects; administrators see all. What somebody may not see is told like what is
//!   not there.
//!
//! # Cancellation
//! Dropping what executes is safe at any await; see [`Tokens`] and [`Basic`].

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::basic::Basic;
use super::keystone::Keystone;
use super::rates::Rates;
use super::tokens::{Tokens, refused};
use crate::domain::{
    AnonymousCommand, Clock, Fault, FaultKind, IdentityCommand, IdentityOutcome, Named, Principal, Proof, Secret,
    TenantId, Token, User, UserId,
};
use crate::meta::Meta;

/// As in OpenStack's Identity API.
const LONGEST_PROJECT: usize = 64;

/// Settings for the identity service.
#[derive(Clone, Debug)]
pub(crate) struct IdentitySettings {
    /// Seconds for which a token is valid. Raised: one that leaks is of use for longer.
    pub token_seconds: u32,
    /// The region that the catalogue of services names.
    pub region: String,
    /// Requests per second that a tenant may make with its tokens. Raised: one tenant can take more of the server.
    pub requests_per_second: u32,
}

/// The identity service.
pub(crate) struct Identity {
    meta: Meta,
    basic: Arc<Basic>,
    tokens: Tokens,
    rates: Rates,
    settings: IdentitySettings,
    clock: Arc<dyn Clock>,
}

impl Identity {
    /// A service for the users of this database, whose passwords are checked here.
    ///
    /// Tokens are issued here too, unless there is a service elsewhere that does.
    pub(crate) fn new(
        meta: Meta,
        basic: Arc<Basic>,
        settings: IdentitySettings,
        elsewhere: Option<Keystone>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let tokens = match elsewhere {
            Some(keystone) => Tokens::elsewhere(keystone, Arc::clone(&clock)),
            None => Tokens::new(meta.clone(), Arc::clone(&clock)),
        };
        let rates = Rates::new(settings.requests_per_second);
        Self { meta, basic, tokens, rates, settings, clock }
    }

    /// Returns the caller whose token the text of an `X-Auth-Token` field is, if the tenant may make a request now.
    pub(crate) async fn authenticate(&self, token: Option<&str>) -> Result<Principal, Fault> {
        let principal = self.tokens.authenticate(token).await?;
        self.rates.take(principal.tenant, self.clock.now())?;
        Ok(principal)
    }

    /// Executes one command that is open to anyone, and came from this address.
    pub(crate) async fn execute_anonymous(
        &self,
        peer: IpAddr,
        command: AnonymousCommand,
    ) -> Result<IdentityOutcome, Fault> {
        match command {
            AnonymousCommand::Describe => Ok(IdentityOutcome::Described),
            AnonymousCommand::Issue { proof, scope } => self.issue(proof, scope, peer).await,
        }
    }

    /// Executes one command of this caller.
    pub(crate) async fn execute(&self, caller: &Principal, command: IdentityCommand) -> Result<IdentityOutcome, Fault> {
        let region = || self.settings.region.clone();
        Ok(match command {
            IdentityCommand::ShowToken(token) => {
                let token = Box::new(self.visible_token(caller, &token).await?);
                IdentityOutcome::Token { token, region: region() }
            }
            IdentityCommand::Revoke(token) => {
                self.visible_token(caller, &token).await?;
                self.tokens.revoke(&token).await?;
                IdentityOutcome::Revoked
            }
            IdentityCommand::Catalog => IdentityOutcome::Catalog { project: caller.tenant, region: region() },
            IdentityCommand::OwnProjects { name } => self.projects_of(&caller.user, name.as_deref()).await?,
            IdentityCommand::ProjectsOf { user, name } => {
                let user = self.visible_user(caller, user).await?;
                self.projects_of(&user.name, name.as_deref()).await?
            }
            IdentityCommand::Project(id) => {
                let project = self.meta.project_of(&caller.user, &Named::Id(id)).await?;
                IdentityOutcome::Project(project.ok_or_else(|| no_such("project"))?)
            }
            IdentityCommand::Users { name } => {
                let mut users = if caller.is_admin {
                    self.meta.accounts().await?
                } else {
                    vec![self.visible_user(caller, caller.user_id).await?]
                };
                users.retain(|user| name.as_deref().is_none_or(|name| user.name == name));
                IdentityOutcome::Users(users)
            }
            IdentityCommand::User(id) => IdentityOutcome::User(self.visible_user(caller, id).await?),
        })
    }

    async fn issue(
        &self,
        proof: Proof,
        scope: Option<Named<TenantId>>,
        peer: IpAddr,
    ) -> Result<IdentityOutcome, Fault> {
        let (user, old, expires) = match proof {
            Proof::Password { user, password } => {
                let user = self.log_in(user, &password, peer).await?;
                (user, None, self.clock.now().plus_seconds(self.settings.token_seconds))
            }
            Proof::Token(token) => {
                let known = self.tokens.check(&token).await?.ok_or_else(refused)?;
                (known.user, Some((token, known.chain.unwrap_or(known.id))), known.expires)
            }
        };
        let scope = scope.unwrap_or(Named::Id(user.project));
        let project = self.meta.project_of(&user.name, &scope).await?.ok_or_else(|| {
            Fault::new(FaultKind::Unauthenticated, "there is no such project, or the user is not a member of it")
        })?;
        let (secret, token) = self.tokens.issue(user, project, old, expires).await?;
        Ok(IdentityOutcome::Issued { token: Box::new(token), secret, region: self.settings.region.clone() })
    }

    async fn log_in(&self, wanted: Named<UserId>, password: &Secret, peer: IpAddr) -> Result<User, Fault> {
        let (name, id) = match wanted {
            Named::Name(name) => (name, None),
            Named::Id(id) => {
                let account = self.meta.account(&Named::Id(id)).await?;
                // When nobody has this id, most likely nobody has it as a name either: that costs as much as a wrong
                // password does.
                (account.map_or_else(|| id.to_string(), |account| account.name), Some(id))
            }
        };
        let record = self.basic.login(&name, password.reveal(), peer).await?;
        if id.is_some_and(|id| id != record.id) {
            return Err(Fault::new(FaultKind::Unauthenticated, "a valid user name and password are needed"));
        }
        Ok(User { id: record.id, name: record.name, project: record.tenant, is_admin: record.is_admin })
    }

    async fn visible_token(&self, caller: &Principal, token: &Secret) -> Result<Token, Fault> {
        let token = self.tokens.check(token).await?;
        let visible = token.filter(|token| caller.is_admin || token.user.id == caller.user_id);
        visible.ok_or_else(|| no_such("token"))
    }

    async fn visible_user(&self, caller: &Principal, id: UserId) -> Result<User, Fault> {
        if !caller.is_admin && id != caller.user_id {
            return Err(no_such("user"));
        }
        self.meta.account(&Named::Id(id)).await?.ok_or_else(|| no_such("user"))
    }

    async fn projects_of(&self, user: &str, name: Option<&str>) -> Result<IdentityOutcome, Fault> {
        let mut projects = self.meta.projects_of(user).await?;
        projects.retain(|project| name.is_none_or(|name| project.name == name));
        Ok(IdentityOutcome::Projects(projects))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// Whether a project may have this name: one that can be shown on a line.
pub(super) fn check_project_name(name: &str) -> Result<(), Fault> {
    if name.trim().is_empty() || name.len() > LONGEST_PROJECT || name.contains(char::is_control) {
        let told = format!("a project's name has 1 to {LONGEST_PROJECT} bytes and no control characters");
        return Err(Fault::invalid("name", told));
    }
    Ok(())
}

fn no_such(thing: &str) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no such {thing}"))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::auth::BasicSettings;
    use crate::auth::passwords::Passwords;
    use crate::domain::{FixedClock, Quota, UnixTime};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Scene {
        identity: Identity,
        meta: Meta,
        clock: Arc<FixedClock>,
        _directory: tempfile::TempDir,
    }

    /// The users `alice` of `red`, `bob` of `blue` and the administrator `root` of `root`; their password is `sesame`.
    async fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta::open(&directory.path().join("meta.db")).await.unwrap();
        let clock = Arc::new(FixedClock::at(UnixTime(1_000_000)));
        let digest = Passwords::default().hash(Zeroizing::new("sesame".to_owned())).await.unwrap();
        meta.add_user("alice", &digest, "red", None, clock.now()).await.unwrap();
        meta.add_user("bob", &digest, "blue", None, clock.now()).await.unwrap();
        meta.add_administrator("root", &digest, "root", None, clock.now()).await.unwrap();
        let basic = Arc::new(Basic::new(meta.clone(), BasicSettings::default(), clock.clone()));
        let settings = IdentitySettings { token_seconds: 3_600, region: "here".to_owned(), requests_per_second: 1_000 };
        let identity = Identity::new(meta.clone(), basic, settings, None, clock.clone());
        Scene { identity, meta, clock, _directory: directory }
    }

    fn named<Id>(name: &str) -> Named<Id> {
        Named::Name(name.to_owned())
    }

    fn password(user: &str, password: &str) -> Proof {
        Proof::Password { user: named(user), password: Secret::new(password) }
    }

    impl Scene {
        async fn issue(&self, proof: Proof, scope: Option<Named<TenantId>>) -> Result<(Secret, Token), FaultKind> {
            let wish = AnonymousCommand::Issue { proof, scope };
            match self.identity.execute_anonymous(PEER, wish).await.map_err(|fault| fault.kind)? {
                IdentityOutcome::Issued { token, secret, .. } => Ok((secret, *token)),
                other => panic!("{other:?}"),
            }
        }

        /// Returns a token of a user, and the user.
        async fn login(&self, user: &str) -> (Secret, Principal) {
            let (secret, _) = self.issue(password(user, "sesame"), None).await.unwrap();
            let principal = self.identity.authenticate(Some(secret.reveal())).await.unwrap();
            (secret, principal)
        }

        async fn execute(&self, caller: &Principal, command: IdentityCommand) -> Result<IdentityOutcome, FaultKind> {
            self.identity.execute(caller, command).await.map_err(|fault| fault.kind)
        }

        async fn names(&self, caller: &Principal, command: IdentityCommand) -> Vec<String> {
            match self.execute(caller, command).await.unwrap() {
                IdentityOutcome::Projects(projects) => projects.into_iter().map(|project| project.name).collect(),
                IdentityOutcome::Users(users) => users.into_iter().map(|user| user.name).collect(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_password_gets_a_token_for_the_users_own_project_when_none_is_named() {
        let scene = scene().await;
        let (_, token) = scene.issue(password("alice", "sesame"), None).await.unwrap();
        assert_eq!((token.user.name.as_str(), token.project.name.as_str()), ("alice", "red"));
        assert_eq!(token.expires, token.issued.plus_seconds(3_600));
        assert_eq!(token.chain, None);
        assert_eq!(scene.issue(password("alice", "x"), None).await, Err(FaultKind::Unauthenticated));
        assert_eq!(scene.issue(password("nobody", "sesame"), None).await, Err(FaultKind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_user_is_named_by_name_or_by_id_and_an_id_is_no_name() {
        let scene = scene().await;
        let by_id = |id| Proof::Password { user: Named::Id(id), password: Secret::new("sesame") };
        let alice = scene.meta.account(&named("alice")).await.unwrap().unwrap();
        assert_eq!(scene.issue(by_id(alice.id), None).await.unwrap().1.user, alice);
        let nobody = UserId::random();
        assert_eq!(scene.issue(by_id(nobody), None).await, Err(FaultKind::Unauthenticated));
        let digest = scene.meta.user("alice").await.unwrap().unwrap().password_hash;
        scene.meta.add_user(&nobody.to_string(), &digest, "odd", None, scene.clock.now()).await.unwrap();
        assert_eq!(scene.issue(by_id(nobody), None).await, Err(FaultKind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_token_is_for_a_project_of_the_user_only() {
        let scene = scene().await;
        let blue = scene.meta.project(&named("blue")).await.unwrap().unwrap().id;
        let ask = async |user: &str, scope| scene.issue(password(user, "sesame"), Some(scope)).await;
        for scope in [named("blue"), Named::Id(blue), named("green"), Named::Id(TenantId::random())] {
            assert_eq!(ask("alice", scope).await, Err(FaultKind::Unauthenticated));
        }
        assert_eq!(ask("root", Named::Id(blue)).await.unwrap().1.project.name, "blue");
        scene.meta.add_member("alice", blue).await.unwrap();
        let (secret, token) = ask("alice", named("blue")).await.unwrap();
        assert_eq!(token.project.id, blue);
        let principal = scene.identity.authenticate(Some(secret.reveal())).await.unwrap();
        assert_eq!((principal.user.as_str(), principal.tenant, principal.is_admin), ("alice", blue, false));
    }

    #[tokio::test]
    async fn a_token_that_is_given_for_another_ends_with_it() {
        let scene = scene().await;
        let (first, of_first) = scene.issue(password("alice", "sesame"), None).await.unwrap();
        scene.clock.advance_seconds(3_000);
        let (second, token) = scene.issue(Proof::Token(first.clone()), None).await.unwrap();
        assert_eq!((token.chain, token.expires), (Some(of_first.id), of_first.expires));
        let (_, token) = scene.issue(Proof::Token(second.clone()), None).await.unwrap();
        assert_eq!((token.chain, token.expires), (Some(of_first.id), of_first.expires));
        scene.clock.advance_seconds(600);
        for old in [first, second, Secret::new("")] {
            assert_eq!(scene.issue(Proof::Token(old), None).await, Err(FaultKind::Unauthenticated));
        }
    }

    #[tokio::test]
    async fn a_token_that_is_revoked_takes_those_with_it_that_were_given_for_it_and_for_those() {
        let scene = scene().await;
        let another = async |token: &Secret| scene.issue(Proof::Token(token.clone()), None).await.unwrap().0;
        let (a, alice) = scene.login("alice").await;
        let b = another(&a).await;
        let (c, c2, d) = (another(&b).await, another(&b).await, another(&a).await);
        let (other, _) = scene.login("alice").await;
        let good = async |tokens: &[&Secret]| {
            let mut good = Vec::new();
            for token in tokens {
                good.push(scene.identity.authenticate(Some(token.reveal())).await.is_ok());
            }
            good
        };
        assert_eq!(good(&[&a, &b, &c, &c2, &d, &other]).await, [true; 6]);
        scene.execute(&alice, IdentityCommand::Revoke(b.clone())).await.unwrap();
        assert_eq!(good(&[&a, &b, &c, &c2, &d, &other]).await, [true, false, false, false, true, true]);
        scene.execute(&alice, IdentityCommand::Revoke(a.clone())).await.unwrap();
        assert_eq!(good(&[&a, &b, &c, &c2, &d, &other]).await, [false, false, false, false, false, true]);
    }

    #[tokio::test]
    async fn a_token_that_was_ended_elsewhere_a_moment_ago_gets_no_other() {
        let scene = scene().await;
        let (old, _) = scene.login("alice").await;
        let digest = scene.meta.user("alice").await.unwrap().unwrap().password_hash;
        scene.meta.set_password("alice", &digest).await.unwrap();
        // It is still remembered as good, for some seconds; what is given for it would be good for a day.
        assert_eq!(scene.issue(Proof::Token(old), None).await, Err(FaultKind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_token_is_shown_and_revoked_by_its_user_and_by_administrators() {
        let scene = scene().await;
        let ((secret, alice), (_, bob), (_, root)) =
            (scene.login("alice").await, scene.login("bob").await, scene.login("root").await);
        let show = |token: &Secret| IdentityCommand::ShowToken(token.clone());
        let revoke = |token: &Secret| IdentityCommand::Revoke(token.clone());
        assert!(scene.execute(&alice, show(&secret)).await.is_ok());
        assert!(scene.execute(&root, show(&secret)).await.is_ok());
        for command in [show(&secret), revoke(&secret), show(&Secret::new("x"))] {
            assert_eq!(scene.execute(&bob, command).await, Err(FaultKind::NotFound));
        }
        assert_eq!(scene.execute(&root, revoke(&secret)).await, Ok(IdentityOutcome::Revoked));
        assert_eq!(scene.execute(&root, show(&secret)).await, Err(FaultKind::NotFound));
        assert!(scene.identity.authenticate(Some(secret.reveal())).await.is_err());
    }

    #[tokio::test]
    async fn users_see_themselves_and_their_projects_and_administrators_see_all() {
        let scene = scene().await;
        let ((_, alice), (_, bob), (_, root)) =
            (scene.login("alice").await, scene.login("bob").await, scene.login("root").await);
        scene.meta.add_project("green", Quota::default()).await.unwrap();
        let all = || IdentityCommand::OwnProjects { name: None };
        assert_eq!(scene.names(&alice, all()).await, ["red"]);
        assert_eq!(scene.names(&root, all()).await, ["blue", "green", "red", "root"]);
        let one = IdentityCommand::OwnProjects { name: Some("green".to_owned()) };
        assert_eq!(scene.names(&root, one).await, ["green"]);

        let of = |user| IdentityCommand::ProjectsOf { user, name: None };
        assert_eq!(scene.names(&alice, of(alice.user_id)).await, ["red"]);
        assert_eq!(scene.names(&root, of(bob.user_id)).await, ["blue"]);
        assert_eq!(scene.execute(&alice, of(bob.user_id)).await, Err(FaultKind::NotFound));

        assert!(scene.execute(&alice, IdentityCommand::Project(alice.tenant)).await.is_ok());
        assert_eq!(scene.execute(&alice, IdentityCommand::Project(bob.tenant)).await, Err(FaultKind::NotFound));
        assert!(scene.execute(&root, IdentityCommand::Project(bob.tenant)).await.is_ok());

        let users = |name: Option<&str>| IdentityCommand::Users { name: name.map(str::to_owned) };
        assert_eq!(scene.names(&alice, users(None)).await, ["alice"]);
        assert!(scene.names(&alice, users(Some("bob"))).await.is_empty());
        assert_eq!(scene.names(&root, users(None)).await, ["alice", "bob", "root"]);
        assert_eq!(scene.names(&root, users(Some("bob"))).await, ["bob"]);
        assert_eq!(scene.execute(&alice, IdentityCommand::User(bob.user_id)).await, Err(FaultKind::NotFound));
        assert!(scene.execute(&root, IdentityCommand::User(bob.user_id)).await.is_ok());
    }

    #[test]
    fn names_of_projects_fit_on_a_line() {
        for wrong in ["", " ", "a\nb", &"a".repeat(65)] {
            assert!(check_project_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(check_project_name("Project of us").is_ok());
    }
}
