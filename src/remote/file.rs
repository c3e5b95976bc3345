//! One file over HTTP.

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::error::{Flaw, RemoteError};
use super::exchange::{Body, Bounds};
use super::{FileUrl, Remote};

/// A file that is being fetched. Dropping it closes the connection.
pub struct RemoteFile {
    name: String,
    body: Body,
}

impl Remote {
    /// Requests a file. Its bytes come by [`RemoteFile::next`], within the policy's time from now on.
    pub async fn open(&self, file: &FileUrl) -> Result<RemoteFile, RemoteError> {
        let bounds = Bounds { most: self.policy.max_bytes, deadline: Instant::now() + self.policy.time };
        let (_, answer) = self.get(file.url.clone(), &HeaderMap::new(), bounds).await?;
        if !answer.is_bounded() {
            return Err(Flaw::Unbounded.into());
        }
        Ok(RemoteFile { name: file.name(), body: answer.body })
    }
}

impl RemoteFile {
    /// Returns a name for the file; see [`FileUrl::name`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its declared length, if any. The file will have exactly as many bytes.
    pub const fn length(&self) -> Option<u64> {
        self.body.length()
    }

    /// Returns the next bytes; `None` after the last one, and only if all came. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        self.body.next().await
    }
}
