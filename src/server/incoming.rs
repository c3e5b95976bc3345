//! The body of a request: read into memory up to a limit, streamed into an upload, or thrown away.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::domain::{Fault, FaultKind};
use crate::transfer::Source;

/// Reads a small body whole. `within` bounds the time, so that a trickling peer holds nothing for long.
pub(super) async fn buffer(body: Incoming, max: usize, within: Duration) -> Result<Bytes, Fault> {
    let collected = tokio::time::timeout(within, Limited::new(body, max).collect()).await;
    match collected {
        Err(_) => Err(Fault::new(FaultKind::PeerTooSlow, "the body did not arrive in time")),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Fault::new(FaultKind::TooLarge, format!("the body has more than {max} bytes")))
        }
        Ok(Err(error)) => {
            Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete").because(error))
        }
    }
}

/// A body as the source of an upload.
pub(super) struct Streamed(pub(super) Incoming);

impl Source for Streamed {
    async fn next(&mut self) -> Option<Result<Bytes, Box<dyn Error + Send + Sync>>> {
        loop {
            match self.0.frame().await? {
                Err(error) => return Some(Err(error.into())),
                Ok(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Some(Ok(data)),
                    // Trailers say nothing that an upload needs.
                    Err(_) => {}
                },
            }
        }
    }
}

/// Goes on reading a body that was refused, for a while: closing a socket with unread bytes resets it, and the peer
/// would lose the answer that tells why (RFC 9112 section 9.6).
pub(super) fn linger(body: Incoming, tracker: &TaskTracker) {
    /// Many clients read nothing before they have sent all; to read more would cost us more than the answer is worth.
    const MOST: usize = 64 << 20;
    const LONGEST: Duration = Duration::from_secs(5);
    tracker.spawn(async move {
        let mut source = Streamed(body);
        let mut seen = 0;
        let drained = async {
            while let Some(Ok(bytes)) = source.next().await {
                seen += bytes.len();
                if seen > MOST {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LONGEST, drained).await;
    });
}
