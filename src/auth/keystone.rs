//! Validates tokens at another identity service (OpenStack Keystone).
//!
//! The project of a token becomes a tenant when it is first seen. A user with the role `admin` in the project of the
//! token is an administrator.
//!
//! # Cancellation
//! Dropping `token` is safe at any await.

use std::fmt;

use crate::domain::{Fault, FaultKind, Project, Quota, Secret, TenantId, Token, TokenId, User, UserId};
use crate::meta::Meta;
use crate::remote::{IdentityService, Validated};

/// The role of administrators.
const ADMIN: &str = "admin";

/// An identity service elsewhere.
pub(crate) struct Keystone {
    service: IdentityService,
    meta: Meta,
    /// The quota of projects that are seen for the first time.
    quota: Quota,
}

impl Keystone {
    /// Uses this service; projects that are seen for the first time get this quota.
    pub(crate) fn new(service: IdentityService, meta: Meta, quota: Quota) -> Self {
        Self { service, meta, quota }
    }

    /// Returns what a token stands for, if the service says that it is valid.
    pub(super) async fn token(&self, token: &Secret) -> Result<Option<Token>, Fault> {
        let told = self.service.validate(token).await.map_err(unusable)?;
        // A token without a project grants nothing here.
        let Some(Validated { user, project: Some(project), roles, issued, expires }) = told else { return Ok(None) };
        let id = TenantId::from_plain(&project.id).ok_or_else(|| unusable("the id of a project is none"))?;
        self.meta.adopt_project(id, &project.name, self.quota).await?;
        let is_admin = roles.iter().any(|role| role == ADMIN);
        let user = User { id: user_id(&user.id), name: user.name, project: id, is_admin };
        let project = Project { id, name: project.name };
        Ok(Some(Token { id: TokenId::random(), user, project, chain: None, issued, expires }))
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").field("service", &self.service).finish_non_exhaustive()
    }
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
