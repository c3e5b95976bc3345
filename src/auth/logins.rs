//! The chain of guards: what of a request's head proves who makes it, and in which order that is looked at.
//!
//! # Cancellation
//! Dropping a future of this module is safe at any await.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName};
use http::request::Parts;
use http::uri::Authority;

use super::{AccessTokens, Basic, Identity, Keys, Signed};
use crate::domain::{Fault, FaultKind, Guard, Login, Principal, Secret, Sha256, UserId};

/// The header field that clients of OpenStack's services have their token in.
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// The ways to prove who is calling.
pub(crate) struct Logins {
    /// By name and password.
    pub basic: Arc<Basic>,
    /// By signature.
    pub keys: Keys,
    /// By signed token.
    pub tokens: AccessTokens,
    /// By token of the identity service, which also issues them.
    pub identity: Identity,
}

/// Who makes a request.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The user.
    pub principal: Principal,
    /// What the body must be, where that was signed.
    pub body: Option<Sha256>,
    /// What the login rests on.
    pub grounds: Grounds,
}

/// What a login rests on, and ends with.
#[derive(Clone, Debug)]
pub(crate) enum Grounds {
    /// The password of this user, by the digest that is stored of it.
    Password(UserId, Secret),
    /// What the request itself has, and can be looked at again.
    Request,
}

impl Logins {
    /// Returns who makes the request with this head, which came from this client.
    pub(crate) async fn authenticate(&self, guard: Guard, head: &Parts, client: IpAddr) -> Result<Caller, Fault> {
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = field(AUTHORIZATION);
        let plain = |principal| Caller { principal, body: None, grounds: Grounds::Request };
        match guard_of(guard, head) {
            Guard::Signature if authorization.is_some_and(Signed::is_scheme) => {
                let signed = Signed {
                    method: head.method.as_str(),
                    path: head.uri.path(),
                    query: head.uri.query().unwrap_or_default(),
                    host: field(HOST).or(head.uri.authority().map(Authority::as_str)).unwrap_or_default(),
                    headers: &head.headers,
                };
                let (principal, body) = self.keys.authenticate(&signed).await?;
                Ok(Caller { principal, body: Some(body), grounds: Grounds::Request })
            }
            Guard::Basic | Guard::Signature => {
                let user = self.basic.authenticate(authorization, client).await?;
                let principal = user.principal();
                Ok(Caller {
                    principal,
                    body: None,
                    grounds: Grounds::Password(user.id, Secret::new(user.password_hash)),
                })
            }
            Guard::Cookie => self.tokens.authenticate(&head.headers).await.map(plain),
            Guard::Token => self.identity.authenticate(field(AUTH_TOKEN)).await.map(plain),
        }
    }

    /// Reports whether a login holds still that was proven by this head, for who is answered for long. No password is
    /// digested for it.
    pub(crate) async fn still_holds(
        &self,
        grounds: &Grounds,
        (guard, head): (Guard, &Parts),
        client: IpAddr,
    ) -> Result<bool, Fault> {
        match grounds {
            Grounds::Password(user, digest) => self.basic.has_password(*user, digest).await,
            Grounds::Request => match self.authenticate(guard, head, client).await {
                Ok(_) => Ok(true),
                Err(fault) if fault.kind == FaultKind::Unauthenticated => Ok(false),
                Err(fault) => Err(fault),
            },
        }
    }

    /// Signs a token for who names the right password; it is told with the seconds that it is good for.
    pub(crate) async fn log_in(&self, login: &Login, client: IpAddr) -> Result<(Secret, u32), Fault> {
        let user = self.basic.login(&login.user, login.password.reveal(), client).await?;
        self.tokens.issue(&user).await
    }
}

/// Whether the request has credentials of the kind that its guard looks at.
pub(crate) fn has_credentials(guard: Guard, head: &Parts) -> bool {
    let shown = match guard_of(guard, head) {
        Guard::Token => AUTH_TOKEN,
        Guard::Cookie if !head.headers.contains_key(AUTHORIZATION) => COOKIE,
        Guard::Basic | Guard::Signature | Guard::Cookie => AUTHORIZATION,
    };
    head.headers.contains_key(shown)
}

/// Who has a token needs no password, whichever API they use.
fn guard_of(guard: Guard, head: &Parts) -> Guard {
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if authorization.is_none() && head.headers.contains_key(AUTH_TOKEN) { Guard::Token } else { guard }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_token_takes_the_place_of_other_credentials_that_are_not_there() {
        let head = |names: &[&str]| {
            let request = names.iter().fold(Request::builder(), |request, name| request.header(*name, "x"));
            request.body(()).unwrap().into_parts().0
        };
        for guard in [Guard::Basic, Guard::Signature, Guard::Cookie, Guard::Token] {
            assert_eq!(guard_of(guard, &head(&["x-auth-token", "cookie"])), Guard::Token);
            assert_eq!(guard_of(guard, &head(&["x-auth-token", "authorization"])), guard);
            assert!(!has_credentials(guard, &head(&[])));
            assert!(has_credentials(guard, &head(&["x-auth-token"])));
            assert_eq!(has_credentials(guard, &head(&["authorization"])), guard != Guard::Token);
        }
        assert!(has_credentials(Guard::Cookie, &head(&["cookie"])));
        assert!(!has_credentials(Guard::Basic, &head(&["cookie"])));
    }
}
