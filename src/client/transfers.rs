//! Transfers, as the server tells them.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};

/// A transfer.
#[derive(Deserialize, Serialize)]
pub(crate) struct Transfer {
    /// The permanent id.
    pub(crate) id: String,
    /// The state, in the server's word.
    pub(crate) state: String,
    /// The reason of its failure.
    pub(crate) reason: Option<String>,
    /// The name of the drive.
    pub(crate) name: String,
    /// The client's own name for it.
    pub(crate) reference: Option<String>,
    /// The bytes that come in all, if that is known.
    pub(crate) size: Option<u64>,
    /// The drive that it becomes.
    pub(crate) drive: String,
    /// The bytes that have come.
    pub(crate) durable: u64,
    /// The parts that come at present.
    pub(crate) parts: u32,
    /// The bytes that come in a second.
    pub(crate) bytes_per_second: u64,
    /// The time after which it is dropped if nothing comes.
    pub(crate) expires: String,
    /// What was made of it.
    pub(crate) result: Option<Made>,
    /// The URL that takes its parts: a secret, told once.
    #[serde(skip_serializing)]
    pub(super) ticket: Option<String>,
}

/// What was made of a transfer.
#[derive(Deserialize, Serialize)]
pub(crate) struct Made {
    /// The drive.
    pub(crate) drive: String,
    /// The bytes of it.
    pub(crate) size: u64,
}

#[derive(Deserialize)]
struct Page {
    transfers: Vec<Transfer>,
    next: Option<String>,
}

impl Client {
    /// Lists the transfers, newest first.
    pub(crate) async fn transfers(&self) -> Result<Vec<Transfer>, ClientError> {
        let mut transfers = Vec::new();
        let mut next = Some("/api/v1/transfers".to_owned());
        while let Some(path) = next {
            let page: Page = self.ask(Method::GET, &path, None).await?;
            transfers.extend(page.transfers);
            // Whatever the server says, the login goes nowhere else.
            next = page.next.filter(|path| path.starts_with("/api/v1/transfers?"));
        }
        Ok(transfers)
    }

    /// Returns one transfer.
    pub(crate) async fn transfer(&self, id: &str) -> Result<Transfer, ClientError> {
        self.ask(Method::GET, &path(id)?, None).await
    }

    /// Ends a transfer, and drops what has come.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), ClientError> {
        super::exchange::send(self.request(Method::DELETE, &path(id)?)?).await.map(|_| ())
    }
}

/// Returns the path of a transfer. An id has no character that means something there.
pub(super) fn path(id: &str) -> Result<String, ClientError> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_id { Ok(format!("/api/v1/transfers/{id}")) } else { Err(ClientError::NotAnId(id.to_owned())) }
}
