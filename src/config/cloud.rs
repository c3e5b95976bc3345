//! Settings for the control API: what its dialects offer, logins, and the storage of backups.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::values::{optional_text, text};
use crate::archive::{Container, StorageUrl};
use crate::domain::{Region, Secret};
use crate::remote::ServiceUrl;

/// Settings for HPC-AI's API. None of them changes where bytes are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HpcAi {
    /// The issuer that access tokens name. Changed: older tokens are refused.
    pub issuer: String,
    /// The audience that access tokens name. Changed: the same.
    pub audience: String,
    /// The regions of volumes, the first for those of other APIs. Without any there is one, [`DEFAULT_REGION`].
    pub regions: Vec<Region>,
    /// The types of drives, the first for those of other APIs. Beside them there is `filesystem`, for trees.
    pub volume_types: Vec<String>,
}

/// The type of trees.
pub(super) const TREES: &str = "filesystem";

impl Default for HpcAi {
    fn default() -> Self {
        Self {
            issuer: "longshore".to_owned(),
            audience: "longshore".to_owned(),
            regions: Vec::new(),
            volume_types: vec!["highspeedstorage".to_owned()],
        }
    }
}

/// The id of the region if none is configured.
pub(crate) const DEFAULT_REGION: &str = "6f7c1a52-3b0d-4e7f-9c15-8a2d40e6b913";

/// Settings for block storage. None of them changes where bytes are kept: clients ask for them and are shown them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Block {
    /// The availability zones, the default one first.
    pub zones: Vec<String>,
    /// The names of the types of volumes.
    pub types: Vec<String>,
    /// The type of volumes for which the client asks none: one of `types`. Absent: none.
    pub default_type: Option<String>,
    /// The image service (Glance), as in `http://image.example.com:9292`, which is called with the callers' own tokens.
    /// Absent: images are drives of this server.
    #[serde(deserialize_with = "optional_text")]
    pub glance_url: Option<ServiceUrl>,
}

impl Default for Block {
    fn default() -> Self {
        Self { zones: vec!["nova".to_owned()], types: Vec::new(), default_type: None, glance_url: None }
    }
}

/// An identity service (Keystone) that issues the tokens of block storage; absent, this server does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeystoneSettings {
    /// Its URL, without the version, as in `http://identity.example.com:5000`.
    #[serde(deserialize_with = "text")]
    pub url: ServiceUrl,
    /// The name of a user who may validate tokens.
    pub user: String,
    /// Their password.
    pub password: Secret,
    /// A project in which that user may.
    #[serde(default = "KeystoneSettings::project")]
    pub project: String,
    /// The domain of user and project.
    #[serde(default = "KeystoneSettings::domain")]
    pub domain: String,
}

impl KeystoneSettings {
    fn project() -> String {
        "service".to_owned()
    }

    fn domain() -> String {
        "Default".to_owned()
    }
}

/// Backups of drives. Each of those under way takes up to 100 MiB of memory beside the budget.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a storage does or does not")]
pub(crate) struct Backups {
    /// The kind of storage.
    pub storage: BackupStorage,
    /// The directory; `backups` in the data directory when absent. Elsewhere, they outlive the disk of the drives.
    pub directory: Option<PathBuf>,
    /// The container of backups for which none is named: a first directory, or first part of the keys, of all of them.
    #[serde(deserialize_with = "text")]
    pub container: Container,
    /// The level of zstd, 1 to 19. Raised: smaller objects, and many times the CPU.
    pub level: i32,
    /// The bucket of S3, which must exist.
    pub bucket: Option<String>,
    /// The URL of the storage; that of AWS for the region when absent. Plain HTTP is taken of this machine only.
    #[serde(deserialize_with = "optional_text")]
    pub endpoint: Option<StorageUrl>,
    /// The region.
    pub region: String,
    /// The access key. Without it and the secret, the credentials of the machine or container at AWS are used.
    pub access_key_id: Option<String>,
    /// Its secret. The environment (`LONGSHORE_BACKUPS__SECRET_ACCESS_KEY`) keeps it out of the file.
    #[serde(deserialize_with = "secret")]
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is part of the host name; the endpoint then names it too.
    pub virtual_host: bool,
    /// Whether the storage supports `If-None-Match: *`. Off: two installations that share a bucket are not kept from
    /// writing one manifest at the same moment.
    pub conditional_put: bool,
    /// Whether the storage removes many objects at once. Off: a removal takes a request for each.
    pub bulk_delete: bool,
    /// Whether the storage compares a CRC-64/NVME of each object. Off: it compares a SHA-256, which costs more here.
    pub checksum: bool,
}

impl Default for Backups {
    fn default() -> Self {
        Self {
            storage: BackupStorage::Directory,
            directory: None,
            container: Container::default(),
            level: 1,
            bucket: None,
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            virtual_host: false,
            conditional_put: true,
            bulk_delete: true,
            checksum: true,
        }
    }
}

/// The kind of storage of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackupStorage {
    /// A directory.
    Directory,
    /// A bucket of S3, or of a storage that speaks its protocol.
    S3,
}

/// Settings for logins.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auth {
    /// Seconds after its last use for which a verified password is remembered, so that its cost is paid once. A changed
    /// password is refused at once all the same. Raised: more memory for many users.
    pub remember_seconds: u32,
    /// Seconds for which a token of the identity service is valid. Raised: one that leaks is of use for longer.
    pub token_seconds: u32,
    /// The region of the services in the catalogue of the identity service. Clients that are configured with a region
    /// look for this one.
    pub region: String,
    /// Requests per second that a tenant may make with its tokens. Raised: one tenant can take more of the server.
    pub requests_per_second: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            remember_seconds: 60,
            token_seconds: 86_400,
            region: "RegionOne".to_owned(),
            requests_per_second: 100_000,
        }
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}
