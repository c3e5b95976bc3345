//! The drives of the caller.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};
use crate::domain::VolumeId;

/// A drive, as the server tells it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Drive {
    /// The permanent id.
    pub(crate) uuid: VolumeId,
    /// The label that its owner gave.
    pub(crate) name: String,
    /// The bytes of it.
    pub(crate) size: u64,
    /// The state, in the server's word.
    pub(crate) status: String,
    /// The device that the guest sees.
    pub(crate) media: String,
}

#[derive(Deserialize)]
struct Drives {
    objects: Vec<Drive>,
}

impl Client {
    /// Lists all drives.
    pub(crate) async fn drives(&self) -> Result<Vec<Drive>, ClientError> {
        let drives: Drives = self.ask(Method::GET, "/api/2.0/drives/detail/?limit=0", None).await?;
        Ok(drives.objects)
    }

    /// Finds a drive by its UUID, or by a name that one drive alone has.
    pub(super) async fn drive(&self, named: &str) -> Result<VolumeId, ClientError> {
        if let Ok(id) = named.parse() {
            return Ok(id);
        }
        let mut found: Vec<Drive> = self.drives().await?;
        found.retain(|drive| drive.name == named);
        match found[..] {
            [ref drive] => Ok(drive.uuid),
            _ => Err(ClientError::NotOne(found.len(), named.to_owned())),
        }
    }
}
