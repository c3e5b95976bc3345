//! The body of an answer: bytes in memory, or a download.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::sendfile::FileRegions;
use crate::control::Account;
use crate::transfer::{Chunk, Outgoing};

/// What hyper sends.
pub(super) enum Body {
    /// These bytes.
    Whole(Bytes),
    /// A drive, or parts of it.
    Download(Download),
}

/// A download that is being sent.
pub(super) struct Download {
    state: State,
    /// Where the connection finds the files of its frames again; none on a connection that cannot.
    regions: Option<FileRegions>,
    /// Counts the bytes where the transport does not.
    counts: bool,
    /// Held by every frame too: the transfer ends when the last of them is sent or dropped.
    account: Arc<Account>,
}

type Turn = (Box<Outgoing>, Option<io::Result<Chunk>>);

enum State {
    Ready(Box<Outgoing>),
    Busy(Pin<Box<dyn Future<Output = Turn> + Send>>),
    Ended,
}

impl Download {
    /// Sends `outgoing`; its files through `regions`.
    pub(super) fn new(outgoing: Outgoing, regions: Option<FileRegions>, counts: bool, account: Account) -> Self {
        Self { state: State::Ready(Box::new(outgoing)), regions, counts, account: Arc::new(account) }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Ready(mut outgoing) => {
                    self.state = State::Busy(Box::pin(async move {
                        let chunk = outgoing.next().await;
                        (outgoing, chunk)
                    }));
                }
                State::Busy(mut turn) => {
                    let Poll::Ready((outgoing, chunk)) = turn.as_mut().poll(cx) else {
                        self.state = State::Busy(turn);
                        return Poll::Pending;
                    };
                    let Some(chunk) = chunk else { return Poll::Ready(None) };
                    let bytes = chunk.and_then(|chunk| self.frame(chunk));
                    if bytes.is_ok() {
                        self.state = State::Ready(outgoing);
                    }
                    return Poll::Ready(Some(bytes));
                }
            }
        }
    }

    fn frame(&self, chunk: Chunk) -> io::Result<Bytes> {
        let bytes = match (chunk, &self.regions) {
            (Chunk::Bytes(bytes), _) => bytes,
            (Chunk::File(file, extent), Some(regions)) => regions.register(file, extent.offset, extent.len)?,
            (Chunk::File(..), None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        if self.counts {
            self.account.progress().add_bytes(bytes.len() as u64);
        }
        Ok(Bytes::from_owner(Held { bytes, _account: self.account.clone() }))
    }
}

/// A frame that keeps its transfer's account open.
struct Held {
    bytes: Bytes,
    _account: Arc<Account>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Download(download) => ready!(download.poll_next(cx)),
        };
        if let Some(Err(error)) = &next {
            // The head is out, so cutting the connection is the only way left to tell the peer.
            tracing::error!(%error, "a download broke off");
        }
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Download(download) => matches!(download.state, State::Ended),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // Its length is in the head.
            Self::Download(_) => SizeHint::default(),
        }
    }
}
