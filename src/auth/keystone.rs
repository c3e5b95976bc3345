//! Validates tokens at another identity service (OpenStack Keystone), as a service user of this server.
//!
//! The project of a token becomes a tenant when it is first seen. A user with the role `admin` in the project of the
//! token is an administrator.
//!
//! # Cancellation
//! Dropping `token` is safe at any await.

use std::fmt;
use std::sync::PoisonError;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use crate::domain::{Fault, FaultKind, Project, Quota, Secret, TenantId, Token, TokenId, UnixTime, User, UserId};
use crate::meta::Meta;
use crate::remote::{Said, Service};

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// The role of administrators.
const ADMIN: &str = "admin";

/// The login of this server at the identity service.
#[derive(Clone, Debug)]
pub struct ServiceUser {
    /// The name of a user who may validate tokens.
    pub name: String,
    /// Their password.
    pub password: Secret,
    /// The domain of user and project.
    pub domain: String,
    /// A project in which they may.
    pub project: String,
}

/// An identity service elsewhere.
pub struct Keystone {
    service: Service,
    user: ServiceUser,
    meta: Meta,
    /// The quota of projects that are seen for the first time.
    quota: Quota,
    /// The token of the service user, while it is valid.
    own: std::sync::Mutex<Option<Secret>>,
}

#[derive(Deserialize)]
struct Answer {
    token: Told,
}

/// The service's description of a token.
#[derive(Deserialize)]
struct Told {
    user: Named,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Role>,
    issued_at: String,
    expires_at: String,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

impl Keystone {
    /// Uses the service with this login; projects that are seen for the first time get this quota.
    pub fn new(service: Service, user: ServiceUser, meta: Meta, quota: Quota) -> Self {
        Self { service, user, meta, quota, own: std::sync::Mutex::default() }
    }

    /// Returns what a token stands for, if the service says that it is valid.
    pub(super) async fn token(&self, token: &Secret) -> Result<Option<Token>, Fault> {
        // The service cannot have made a token that no header field can hold.
        let Ok(mut subject) = HeaderValue::try_from(token.reveal()) else { return Ok(None) };
        subject.set_sensitive(true);
        // The second attempt uses a new token of the service user: the old one may have expired or been revoked.
        for is_last in [false, true] {
            let own = self.own_token(is_last).await?;
            let mut headers = HeaderMap::from_iter([(SUBJECT_TOKEN, subject.clone())]);
            headers.insert(AUTH_TOKEN, sensitive(&own)?);
            let said = self.ask(&Method::GET, "v3/auth/tokens?nocatalog", &headers, Bytes::new()).await?;
            match said.status {
                StatusCode::OK => return self.understood(&said.body).await,
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !is_last => {}
                status => return Err(unusable(format!("it answered {status} to a validation"))),
            }
        }
        Err(unusable("it refuses our service user"))
    }

    async fn understood(&self, body: &[u8]) -> Result<Option<Token>, Fault> {
        let Answer { token } = serde_json::from_slice(body).map_err(unusable)?;
        // A token without a project grants nothing here.
        let Some(project) = token.project else { return Ok(None) };
        let id = TenantId::from_plain(&project.id).ok_or_else(|| unusable("the id of a project is none"))?;
        self.meta.adopt_project(id, &project.name, self.quota).await?;
        let is_admin = token.roles.iter().any(|role| role.name == ADMIN);
        let user = User { id: user_id(&token.user.id), name: token.user.name, project: id, is_admin };
        let time = |text: &str| text.parse::<Timestamp>().map(|time| UnixTime(time.as_millisecond())).map_err(unusable);
        Ok(Some(Token {
            id: TokenId::random(),
            user,
            project: Project { id, name: project.name },
            chain: None,
            issued: time(&token.issued_at)?,
            expires: time(&token.expires_at)?,
        }))
    }

    async fn own_token(&self, is_new: bool) -> Result<Secret, Fault> {
        let known = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = known.filter(|_| !is_new) {
            return Ok(token);
        }
        let ServiceUser { name, password, domain, project } = &self.user;
        let body = json!({
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": name, "domain": {"name": domain}, "password": password.reveal()}},
                },
                "scope": {"project": {"name": project, "domain": {"name": domain}}},
            }
        });
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let said = self.ask(&Method::POST, "v3/auth/tokens", &headers, body.to_string().into()).await?;
        let token = said.headers.get(SUBJECT_TOKEN).and_then(|token| token.to_str().ok());
        let Some(token) = token.filter(|_| said.status == StatusCode::CREATED) else {
            return Err(unusable(format!("it answered {} to the login of our service user", said.status)));
        };
        let token = Secret::new(token);
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    async fn ask(&self, method: &Method, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Said, Fault> {
        self.service.ask(method, path, headers, body).await.map_err(unusable)
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").field("service", &self.service).finish_non_exhaustive()
    }
}

fn sensitive(token: &Secret) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::try_from(token.reveal()).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the id of a user: 32 hex digits where the service keeps the user itself. Other ids, such as those of a
/// directory, are mapped to one that is always the same (UUID version 8, RFC 9562).
fn user_id(id: &str) -> UserId {
    UserId::from_plain(id).unwrap_or_else(|| {
        let digest = super::digest_of(&Secret::new(id));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.0[..16]);
        UserId::from_bytes(uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
    })
}

/// Returns the fault of a service that cannot be used: the one that OpenStack's services give, too, when their identity
/// service is down.
fn unusable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    let cause = cause.into();
    tracing::error!(%cause, "the identity service cannot be used");
    Fault::new(FaultKind::Unauthenticated, "the identity service cannot be asked").because(cause).unless_of_open_files()
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::remote::RemoteError;

    #[test]
    fn a_token_is_not_refused_for_a_lack_of_descriptors() {
        let lack = RemoteError::Unreachable(Some(Errno::MFILE.into()));
        assert_eq!(unusable(lack).kind, FaultKind::Unavailable);
        let down = RemoteError::Unreachable(Some(Errno::CONNREFUSED.into()));
        assert_eq!(unusable(down).kind, FaultKind::Unauthenticated);
    }
}
