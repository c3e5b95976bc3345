//! An identity service (OpenStack Identity API version 3), which is asked what tokens stand for, as a service user of
//! this server.
//!
//! # Cancellation
//! Dropping `validate` is safe at any await.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::service::Service;
use crate::domain::{Secret, UnixTime};

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// Why the service cannot be used, for the log.
pub type Unusable = Box<dyn std::error::Error + Send + Sync>;

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
pub struct IdentityService {
    service: Service,
    user: ServiceUser,
    /// The token of the service user, while it is valid.
    own: Mutex<Option<Secret>>,
}

/// The service's description of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// Whose it is.
    pub user: Entity,
    /// The project that it is scoped to, if it is.
    pub project: Option<Entity>,
    /// The names of the user's roles there.
    pub roles: Vec<String>,
    /// When it was issued.
    pub issued: UnixTime,
    /// From when on it is no good.
    pub expires: UnixTime,
}

/// A user or a project.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entity {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

#[derive(Deserialize)]
struct Answer {
    token: Told,
}

#[derive(Deserialize)]
struct Told {
    user: Entity,
    project: Option<Entity>,
    #[serde(default)]
    roles: Vec<Role>,
    issued_at: String,
    expires_at: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

impl IdentityService {
    /// Uses the service with this login.
    pub fn new(service: Service, user: ServiceUser) -> Self {
        Self { service, user, own: Mutex::default() }
    }

    /// Returns what a token stands for, if the service says that it is valid.
    pub async fn validate(&self, token: &Secret) -> Result<Option<Validated>, Unusable> {
        // The service cannot have made a token that no header field can hold.
        let Ok(mut subject) = HeaderValue::try_from(token.reveal()) else { return Ok(None) };
        subject.set_sensitive(true);
        // The second attempt uses a new token of the service user: the old one may have expired or been revoked.
        for is_last in [false, true] {
            let own = self.own_token(is_last).await?;
            let mut headers = HeaderMap::from_iter([(SUBJECT_TOKEN, subject.clone())]);
            headers.insert(AUTH_TOKEN, sensitive(&own)?);
            let said = self.service.ask(&Method::GET, "v3/auth/tokens?nocatalog", &headers, Bytes::new()).await?;
            match said.status {
                StatusCode::OK => return understood(&said.body).map(Some),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !is_last => {}
                status => return Err(format!("it answered {status} to a validation").into()),
            }
        }
        Err("it refuses our service user".into())
    }

    async fn own_token(&self, is_new: bool) -> Result<Secret, Unusable> {
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
        let said = self.service.ask(&Method::POST, "v3/auth/tokens", &headers, body.to_string().into()).await?;
        let token = said.headers.get(SUBJECT_TOKEN).and_then(|token| token.to_str().ok());
        let Some(token) = token.filter(|_| said.status == StatusCode::CREATED) else {
            return Err(format!("it answered {} to the login of our service user", said.status).into());
        };
        let token = Secret::new(token);
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }
}

impl fmt::Debug for IdentityService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityService").field("service", &self.service).finish_non_exhaustive()
    }
}

fn understood(body: &[u8]) -> Result<Validated, Unusable> {
    let Answer { token: Told { user, project, roles, issued_at, expires_at } } = serde_json::from_slice(body)?;
    let time = |text: &str| text.parse::<Timestamp>().map(|time| UnixTime(time.as_millisecond()));
    Ok(Validated {
        user,
        project,
        roles: roles.into_iter().map(|role| role.name).collect(),
        issued: time(&issued_at)?,
        expires: time(&expires_at)?,
    })
}

fn sensitive(token: &Secret) -> Result<HeaderValue, Unusable> {
    let mut value = HeaderValue::try_from(token.reveal())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_of_a_token_is_read_with_or_without_project_and_roles() {
        let scoped = json!({"token": {
            "user": {"id": "u1", "name": "alice", "domain": {"id": "default"}},
            "project": {"id": "p1", "name": "red"},
            "roles": [{"id": "r1", "name": "member"}, {"id": "r2", "name": "admin"}],
            "issued_at": "1970-01-01T00:00:01.000000Z",
            "expires_at": "1970-01-01T00:00:02.500000Z",
        }});
        let read = understood(scoped.to_string().as_bytes()).unwrap();
        assert_eq!((&*read.user.id, &*read.user.name), ("u1", "alice"));
        assert_eq!(read.project.as_ref().map(|project| &*project.name), Some("red"));
        assert_eq!(
            (read.roles.as_slice(), read.issued, read.expires),
            (&["member".to_owned(), "admin".to_owned()][..], UnixTime(1000), UnixTime(2500),)
        );
        let mut unscoped = scoped;
        for name in ["project", "roles"] {
            unscoped["token"].as_object_mut().unwrap().remove(name);
        }
        let read = understood(unscoped.to_string().as_bytes()).unwrap();
        assert!(read.project.is_none() && read.roles.is_empty());
        unscoped["token"]["expires_at"] = "soon".into();
        assert!(understood(unscoped.to_string().as_bytes()).is_err());
    }
}
