//! Identifiers. Disk paths and database keys are made of ids, never of names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// Creates an id. Ids are ordered by the time of their creation (UUID version 7, RFC 9562).
            pub fn random() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Returns the id in 32 hex digits without hyphens, as OpenStack spells projects and users.
            pub fn plain(&self) -> String {
                self.0.simple().to_string()
            }

            /// Parses the spelling of [`Self::plain`]: lower case only, so that an id has one spelling.
            pub fn from_plain(text: &str) -> Option<Self> {
                let id = uuid::fmt::Simple::from_str(text).ok()?.into_uuid();
                Some(Self(id)).filter(|id| id.plain() == text)
            }

            /// Returns the 16 bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Accepts the hyphenated form only, in either case: one spelling per id keeps URLs and paths unambiguous.
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                uuid::fmt::Hyphenated::from_str(text).map(|id| Self(id.into_uuid()))
            }
        }
    };
}

id!(
    /// A volume: a drive or a tree.
    VolumeId
);
id!(
    /// A tenant: the owner of volumes.
    TenantId
);
id!(
    /// Background work, which outlives the request that asked for it.
    JobId
);
id!(
    /// A content: the bytes of a drive, except for zeros added at its end, or the files of a tree. New content has a
    /// new id, so that readers of the old one are not disturbed.
    ContentId
);
impl ContentId {
    /// Returns the id of the first content of a drive. It equals that of the drive, so that the bytes alone tell whose
    /// they are. Later contents have ids of their own.
    pub const fn first_of(drive: VolumeId) -> Self {
        Self(drive.0)
    }
}

id!(
    /// A session: an initialisation of trees.
    SessionId
);
id!(
    /// The part of a session that fills one tree.
    UploadId
);
id!(
    /// A transfer: an upload that survives.
    TransferId
);
id!(
    /// A user.
    UserId
);
id!(
    /// A token. Its id alone does not permit its use.
    TokenId
);
id!(
    /// A backup.
    BackupId
);
