//! Authenticated callers, and the quotas of tenants.

use super::{ByteCount, TenantId, UserId};

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The login name of the user.
    pub user: String,
    /// The permanent id of the user.
    pub user_id: UserId,
    /// The tenant whose volumes they see. A tenant may have many users.
    pub tenant: TenantId,
    /// Whether they are an administrator, who may see and change volumes of other tenants where a dialect can name
    /// them.
    pub is_admin: bool,
}

/// The kind of credentials that an endpoint asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// User name and password (RFC 7617), or a token as for [`Self::Token`].
    Basic,
    /// A signature under an access key, or as for [`Self::Basic`].
    Signature,
    /// A signed token in the cookie `AccessToken`, or after `Authorization: Bearer`.
    Cookie,
    /// A token of the identity service in X-Auth-Token.
    Token,
}

/// The limits of a tenant. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The number of volumes.
    pub volumes: Option<u64>,
    /// The sum of the volumes' sizes, not of the disk they take.
    pub bytes: Option<ByteCount>,
    /// The number of backups.
    pub backups: Option<u64>,
    /// The sum of the sizes of the backed-up volumes; the fallback is `bytes`.
    pub backup_bytes: Option<ByteCount>,
}

/// The present usage of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of volumes.
    pub volumes: u64,
    /// The sum of the volumes' charged sizes.
    pub bytes: ByteCount,
    /// The number of backups, in any state.
    pub backups: u64,
    /// The sum of the sizes of the backed-up volumes.
    pub backup_bytes: ByteCount,
}
