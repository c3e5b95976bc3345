//! Identifiers. Ids, never names, are what reaches a disk path or a database key.

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
            /// A new id, ordered by the time of its making (UUID version 7, RFC 9562).
            pub fn random() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The id in 32 hex digits without hyphens, as OpenStack spells projects and users.
            pub fn plain(&self) -> String {
                self.0.simple().to_string()
            }

            /// Reads that spelling: lower case only, so that there is one.
            pub fn from_plain(text: &str) -> Option<Self> {
                let id = uuid::fmt::Simple::from_str(text).ok()?.into_uuid();
                Some(Self(id)).filter(|id| id.plain() == text)
            }

            /// The 16 bytes of the id.
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
    /// Whose things they are.
    TenantId
);
id!(
    /// A piece of background work.
    JobId
);
id!(
    /// What a volume holds at one time: the bytes of a drive, but for zeros that are added behind them, or the files of
    /// a tree. New content has a new id, so readers of the old one are not disturbed.
    ContentId
);
impl ContentId {
    /// The first content of a drive, which has the id of its drive; those that take its place have ids of their own.
    /// So it need not be kept beside the bytes whose they were.
    pub const fn first_of(drive: VolumeId) -> Self {
        Self(drive.0)
    }
}

id!(
    /// One initialisation of trees.
    SessionId
);
id!(
    /// The part of a session that fills one tree.
    UploadId
);
id!(
    /// A user.
    UserId
);
id!(
    /// A token, which nobody can use who only knows its id.
    TokenId
);
id!(
    /// A backup.
    BackupId
);
