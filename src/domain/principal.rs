//! Who is calling, and how much they may hold.

use super::{ByteCount, TenantId, UserId};

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user's name, as they log in.
    pub user: String,
    /// The user's identity, for ever.
    pub user_id: UserId,
    /// Whose volumes they see. One tenant may have many users.
    pub tenant: TenantId,
    /// Whether they administrate: they may see and change what is another tenant's, where a dialect lets them name it.
    pub is_admin: bool,
}

/// How a caller proves who they are.
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

/// The most a tenant may hold. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Volumes.
    pub volumes: Option<u64>,
    /// The sum of the volumes' sizes, not of the disk they take.
    pub bytes: Option<ByteCount>,
    /// Backups.
    pub backups: Option<u64>,
    /// The sum of the sizes of what was backed up; where it is not set, the limit is that of `bytes`.
    pub backup_bytes: Option<ByteCount>,
}

/// What a tenant holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Volumes.
    pub volumes: u64,
    /// The sum of the volumes' charged sizes.
    pub bytes: ByteCount,
    /// Backups, in every state.
    pub backups: u64,
    /// The sum of the sizes of what was backed up.
    pub backup_bytes: ByteCount,
}
