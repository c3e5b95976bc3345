//! Authenticated callers, and the quotas of tenants.

use serde::{Deserialize, Deserializer, Serialize};

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
    /// The sum of the sizes of the backed-up volumes; the fallback is `bytes`, and [`ByteCount::MAX`] is no limit.
    pub backup_bytes: Option<ByteCount>,
    /// The number of snapshots.
    pub snapshots: Option<u64>,
    /// The size of each volume.
    pub volume_bytes: Option<ByteCount>,
}

impl Quota {
    /// Returns these limits, and for those that are `None` the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            volumes: self.volumes.or(other.volumes),
            bytes: self.bytes.or(other.bytes),
            backups: self.backups.or(other.backups),
            backup_bytes: self.backup_bytes.or(other.backup_bytes),
            snapshots: self.snapshots.or(other.snapshots),
            volume_bytes: self.volume_bytes.or(other.volume_bytes),
        }
    }
}

/// New limits. `None` leaves a limit as it is, and `Some(None)` says that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaChange {
    /// [`Quota::volumes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub volumes: Option<Option<u64>>,
    /// [`Quota::bytes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub bytes: Option<Option<ByteCount>>,
    /// [`Quota::backups`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub backups: Option<Option<u64>>,
    /// [`Quota::backup_bytes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub backup_bytes: Option<Option<ByteCount>>,
    /// [`Quota::snapshots`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub snapshots: Option<Option<u64>>,
    /// [`Quota::volume_bytes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub volume_bytes: Option<Option<ByteCount>>,
}

/// Reads a field that is present, `null` included: only an absent one leaves the limit as it is.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
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
    /// The number of snapshots.
    pub snapshots: u64,
}
