//! The body of a request: read into memory up to a limit, streamed into an upload, or discarded.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use super::form_body::{self, FormBody};
use super::tap::Tapped;
use crate::dialect::form::{FormStart, MOST_BEFORE, cut_short};
use crate::dialect::{checks, digest_fields, too_large};
use crate::domain::{Checksum, Digests, Fault, FaultKind};
use crate::transfer::{Broken, ByteSource};

/// The most that is still read from a peer that was refused. Many clients read no answer before they have sent
/// everything; reading more would cost more than the answer is worth.
pub(super) const LINGER_MOST: u64 = 64 << 20;

/// The longest time for which it is read.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// The most that is waited for before an answer which does not need it, so that the connection can go on.
const SKIP_MOST: u64 = 64 << 10;

/// The longest time for which it is waited. Many clients send it right behind the head, in a packet of its own.
const SKIP: Duration = Duration::from_millis(100);

/// How much of a form is read at a time before its file.
const FORM_READ: usize = 4 << 10;

/// The body of a request, not read yet.
#[derive(Debug)]
pub(super) struct Payload {
    incoming: Incoming,
    /// Bytes from hyper that nobody has taken yet.
    frame: Bytes,
    /// The fields behind the last byte.
    trailers: HeaderMap,
    /// The way past hyper, if this body has one.
    tapped: Option<Tapped>,
    /// The bytes that came from hyper so far.
    given: u64,
    /// Whether hyper was asked for the body.
    is_asked_for: bool,
    /// Whether it was read completely.
    is_read: bool,
    /// The form whose file is read, if it is one.
    form: Option<FormBody>,
}

impl Payload {
    pub(super) fn new(incoming: Incoming, tapped: Option<Tapped>) -> Self {
        let (frame, trailers) = (Bytes::new(), HeaderMap::new());
        Self { incoming, frame, trailers, tapped, given: 0, is_asked_for: false, is_read: false, form: None }
    }

    /// Returns its length, if the peer has sent it.
    pub(super) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.is_read || self.incoming.is_end_stream()
    }

    /// Whether it is taken past hyper.
    pub(super) fn is_tapped(&self) -> bool {
        self.tapped.is_some()
    }

    /// Whether hyper was asked for the body, and so sent 100 (Continue) to a peer that waits for it.
    pub(super) fn is_asked_for(&self) -> bool {
        self.is_asked_for
    }

    /// Reads a small body whole. `within` bounds the time, so that a slow peer holds nothing for long.
    ///
    /// When it fails, the caller may leave the rest to [`Self::linger`].
    pub(super) async fn buffer(&mut self, max: usize, within: Duration) -> Result<Bytes, Fault> {
        if self.length().is_some_and(|length| length > max as u64) {
            return Err(too_large(max));
        }
        // It is smaller than tapped bodies.
        self.tapped = None;
        let read = async {
            let mut whole = BytesMut::new();
            while self.next_frame().await.map_err(|error| {
                Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete").because(error)
            })? {
                let frame = std::mem::take(&mut self.frame);
                if whole.len() + frame.len() > max {
                    return Err(too_large(max));
                }
                if whole.is_empty() && self.is_empty() {
                    return Ok(frame);
                }
                whole.extend_from_slice(&frame);
            }
            Ok(whole.freeze())
        };
        let late = |_| Fault::new(FaultKind::PeerTooSlow, "the body did not arrive in time");
        let whole = tokio::time::timeout(within, read).await.map_err(late)??;
        self.is_read = true;
        Ok(whole)
    }

    /// Reads a form up to its file, within this time.
    pub(super) async fn form_start(&mut self, boundary: &str, within: Duration) -> Result<FormStart, Fault> {
        let read = async {
            let mut bytes = Vec::new();
            loop {
                if let Some(start) = FormStart::read(boundary, &bytes)? {
                    // What came of the file is given again.
                    let again = [&bytes[start.file..], &self.frame].concat();
                    self.frame = again.into();
                    return Ok(start);
                }
                let came = bytes.len();
                bytes.resize((came + FORM_READ).min(MOST_BEFORE), 0);
                if bytes.len() == came {
                    return Err(form_body::too_long());
                }
                if !self.raw_ready().await.map_err(|error| cut_short().because(error))? {
                    return Err(cut_short());
                }
                let taken = self.raw_take(&mut bytes[came..]).map_err(|error| cut_short().because(error))?;
                bytes.truncate(came + taken);
            }
        };
        let late = |_| Fault::new(FaultKind::PeerTooSlow, "the body did not arrive in time");
        tokio::time::timeout(within, read).await.map_err(late)?
    }

    /// Gives only the file of the form from now on.
    pub(super) fn only_file(&mut self, form: FormBody) {
        self.form = Some(form);
    }

    /// Waits for bytes of the body; `false` at its proper end.
    async fn raw_ready(&mut self) -> Result<bool, Broken> {
        if !self.frame.is_empty() {
            return Ok(true);
        }
        match &self.tapped {
            Some(tapped) if self.given >= tapped.given() => {
                self.ask().await?;
                let Some(tapped) = &self.tapped else { return Ok(false) };
                Ok(poll_fn(|cx| tapped.poll_ready(cx)).await?)
            }
            _ => self.next_frame().await,
        }
    }

    /// Takes bytes of the body that are there.
    fn raw_take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        match &mut self.tapped {
            Some(tapped) if self.frame.is_empty() && self.given >= tapped.given() => Ok(tapped.take(into)?),
            _ => {
                let taken = self.frame.len().min(into.len());
                self.frame.copy_to_slice(&mut into[..taken]);
                if self.frame.is_empty() {
                    // An empty slice would still keep hyper from using its buffer again.
                    self.frame = Bytes::new();
                }
                Ok(taken)
            }
        }
    }

    /// Reads the end of a form behind its file, which must be that of the body. Cancel safe.
    async fn end_form(&mut self) -> Result<(), Broken> {
        while self.raw_ready().await? {
            let Some(room) = self.form.as_ref().map(FormBody::room) else { return Ok(()) };
            let mut bytes = vec![0; room];
            let taken = self.raw_take(&mut bytes)?;
            if let Some(form) = &mut self.form {
                form.pass_end(&bytes[..taken])?;
            }
        }
        match &self.form {
            Some(form) => Ok(form.check_end()?),
            None => Ok(()),
        }
    }

    /// Ends the connection with this body, as its answer says.
    pub(super) fn end_connection(&mut self) {
        if let Some(tapped) = &mut self.tapped {
            tapped.end_connection();
        }
    }

    /// Reads to its end a body that is of no use, if that is short and comes at once.
    pub(super) async fn skip(&mut self) {
        if self.length().is_some_and(|length| length > SKIP_MOST) {
            return;
        }
        let mut nowhere = vec![0; 4 << 10];
        let mut seen = 0;
        let read = async {
            while seen <= SKIP_MOST {
                match self.raw_ready().await {
                    Ok(true) => seen += self.raw_take(&mut nowhere).ok()? as u64,
                    Ok(false) => return Some(()),
                    Err(_) => return None,
                }
            }
            None
        };
        let is_over = matches!(tokio::time::timeout(SKIP, read).await, Ok(Some(())));
        self.is_read |= is_over;
    }

    /// Reads a refused body for a while: closing a socket with unread bytes resets it, and the peer would lose the
    /// answer with the reason (RFC 9112 section 9.6).
    pub(super) fn linger(mut self, tracker: &TaskTracker) {
        tracker.spawn(async move {
            let mut nowhere = vec![0; 16 << 10];
            let mut seen = 0;
            let drained = async {
                while seen <= LINGER_MOST && matches!(self.raw_ready().await, Ok(true)) {
                    match self.raw_take(&mut nowhere) {
                        Ok(taken) => seen += taken as u64,
                        Err(_) => return,
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, drained).await;
        });
    }

    /// Waits for a frame from hyper; `false` at the proper end.
    async fn next_frame(&mut self) -> Result<bool, Broken> {
        self.is_asked_for = true;
        while self.frame.is_empty() {
            let Some(frame) = self.incoming.frame().await else { return Ok(false) };
            match frame?.into_data() {
                Ok(bytes) => self.frame = bytes,
                Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        self.given += self.frame.len() as u64;
        Ok(true)
    }

    /// Makes hyper send 100 (Continue) if the peer waits for it. No frame can be lost: hyper has given all it had.
    async fn ask(&mut self) -> Result<(), Broken> {
        if self.is_asked_for {
            return Ok(());
        }
        self.is_asked_for = true;
        let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.incoming).poll_frame(cx))).await;
        match early {
            Poll::Pending => Ok(()),
            Poll::Ready(Some(Err(error))) => Err(error.into()),
            Poll::Ready(_) => Err("the body is in two places".into()),
        }
    }
}

impl ByteSource for Payload {
    async fn ready(&mut self) -> Result<bool, Broken> {
        match self.form.as_ref().map(FormBody::left) {
            None => self.raw_ready().await,
            Some(0) => self.end_form().await.map(|()| false),
            Some(_) => {
                if self.raw_ready().await? {
                    return Ok(true);
                }
                Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before its form did").into())
            }
        }
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let Some(left) = self.form.as_ref().map(FormBody::left) else { return self.raw_take(into) };
        let most = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let taken = self.raw_take(&mut into[..most])?;
        if let Some(form) = &mut self.form {
            form.pass(&into[..taken])?;
        }
        Ok(taken)
    }

    fn checksums(&self) -> Result<Vec<Checksum>, Fault> {
        checks::of_trailer(&self.trailers)
    }

    fn asserted(&self) -> Result<Digests, Fault> {
        digest_fields::asserted(&self.trailers)
    }

    fn of_whole(&self) -> Result<Digests, Fault> {
        digest_fields::of_representation(&self.trailers)
    }
}
