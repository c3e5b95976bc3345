//! The body of an answer: bytes in memory, a download, or what is made part by part.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::activity::{Activity, Busy};
use super::answers::Room;
use super::events::Events;
use super::incoming::Payload;
use super::list::List;
use super::regions::FileRegions;
use super::timing::{self, SERVER_TIMING};
use super::under_way::UnderWay;
use crate::control::Account;
use crate::transfer::{Chunk, Sending};

/// The body types that hyper sends.
pub(super) enum Body {
    /// Bytes in memory.
    Whole(Bytes),
    /// A drive or parts of it, or a tree.
    Download(Download),
    /// A list that is not in memory as a whole.
    List(PartsBody<List>),
    /// The progress of a transfer.
    Events(PartsBody<Events>),
    /// Another body, whose request counts as in progress until it is dropped.
    Counted { body: Box<Self>, _shares: UnderWay },
}

/// Bytes of an answer, and the room that they take.
pub(super) type AnswerPart = (Bytes, Option<Room>);

/// What makes an answer part by part, each when the one before was taken.
pub(super) trait PartSource: Sized + Send + 'static {
    /// Returns the next part, with its room; `None` after the last.
    fn next(self) -> impl Future<Output = (Self, Option<io::Result<AnswerPart>>)> + Send;
}

/// An answer that is made part by part while it is sent.
pub(super) struct PartsBody<S> {
    first: Bytes,
    /// The room of the first part.
    room: Option<Room>,
    turn: Option<Turn<S, AnswerPart>>,
    /// Held by every frame, too.
    answering: Arc<Busy>,
}

/// The making of the next part, by a source that comes back with it.
type Turn<S, T> = Pin<Box<dyn Future<Output = (S, Option<io::Result<T>>)> + Send>>;

impl<S: PartSource> PartsBody<S> {
    /// Sends `first`, and then what `rest` makes.
    pub(super) fn new(first: Bytes, rest: S, answering: Busy) -> Self {
        Self { first, room: None, turn: Some(Box::pin(rest.next())), answering: Arc::new(answering) }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let part = if self.first.is_empty() {
            let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
            let (source, part) = ready!(turn.as_mut().poll(cx));
            self.turn = matches!(part, Some(Ok(_))).then(|| Box::pin(source.next()) as _);
            part
        } else {
            Some(Ok((std::mem::take(&mut self.first), self.room.take())))
        };
        let held = |(bytes, room)| Bytes::from_owner(Held { bytes, _until_sent: (self.answering.clone(), room) });
        Poll::Ready(part.map(|part| part.map(held)))
    }

    fn is_at_end(&self) -> bool {
        self.first.is_empty() && self.turn.is_none()
    }
}

/// A download that is being sent.
pub(super) struct Download {
    state: State,
    /// Where the connection finds the files of its frames; `None` if it cannot send files.
    regions: Option<FileRegions>,
    /// Whether to count the bytes here, since the transport does not.
    counts: bool,
    /// The rest of a chunk that was too long for one frame.
    rest: Bytes,
    /// Whether its times follow its bytes in a trailer.
    tells_timing: bool,
    /// Held by every frame, too: the transfer ends when the last of them is sent or dropped.
    open: Arc<Open>,
}

/// Guards that are held for as long as a download is open.
struct Open {
    account: Account,
    _busy: Busy,
}

/// The longest frame if the bytes are counted here. A frame is counted when it is handed out, so with large frames a
/// slow peer would look like one that stalls.
const COUNTED: usize = 64 << 10;

enum State {
    Ready(Sending),
    Busy(Turn<Sending, Chunk>),
    Ended,
}

impl Download {
    /// Sends `sending`, and its files through `regions`.
    pub(super) fn new(
        sending: Sending,
        regions: Option<FileRegions>,
        counts: bool,
        account: Account,
        busy: Busy,
    ) -> Self {
        let open = Arc::new(Open { account, _busy: busy });
        Self { state: State::Ready(sending), regions, counts, rest: Bytes::new(), tells_timing: false, open }
    }

    /// Sends the download's times in a trailer. They end when the last bytes are handed to the connection.
    pub(super) fn with_timing(self) -> Self {
        Self { tells_timing: true, ..self }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.cut(rest))));
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Ready(mut sending) => {
                    self.state = State::Busy(Box::pin(async move {
                        let chunk = sending.next().await;
                        (sending, chunk)
                    }));
                }
                State::Busy(mut turn) => {
                    let Poll::Ready((sending, chunk)) = turn.as_mut().poll(cx) else {
                        self.state = State::Busy(turn);
                        return Poll::Pending;
                    };
                    let Some(chunk) = chunk else {
                        self.open.account.complete();
                        return Poll::Ready(None);
                    };
                    let bytes = chunk.and_then(|chunk| self.frame(chunk));
                    if bytes.is_ok() {
                        self.state = State::Ready(sending);
                    }
                    return Poll::Ready(Some(bytes));
                }
            }
        }
    }

    /// Returns the trailer after the last byte, once.
    fn trailer(&mut self) -> Option<Frame<Bytes>> {
        let tells = std::mem::take(&mut self.tells_timing);
        tells
            .then(|| Frame::trailers([(SERVER_TIMING, timing::of(self.open.account.progress()))].into_iter().collect()))
    }

    fn frame(&mut self, chunk: Chunk) -> io::Result<Bytes> {
        let bytes = match (chunk, &self.regions) {
            (Chunk::Bytes(bytes), _) => bytes,
            (Chunk::File(file, extent), Some(regions)) => regions.register(file, extent.offset, extent.len)?,
            (Chunk::File(..), None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.cut(bytes))
    }

    /// Makes a frame of the beginning of `bytes`.
    fn cut(&mut self, mut bytes: Bytes) -> Bytes {
        if self.counts {
            self.rest = bytes.split_off(bytes.len().min(COUNTED));
            self.open.account.progress().add_bytes(bytes.len() as u64);
        }
        Bytes::from_owner(Held { bytes, _until_sent: self.open.clone() })
    }
}

/// Bytes of a frame, and a value that is kept until they are sent or dropped.
struct Held<T> {
    bytes: Bytes,
    _until_sent: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    /// Makes this the answer to a request whose body was taken past hyper, and keeps that body until the answer is
    /// sent. hyper does not know that the body is complete: without it, hyper would announce in the answer's head that
    /// the connection ends.
    pub(super) fn after(self, payload: Payload) -> Self {
        match self {
            Self::Whole(bytes) if !bytes.is_empty() => {
                Self::Whole(Bytes::from_owner(Held { bytes, _until_sent: Mutex::new(payload) }))
            }
            other => other,
        }
    }

    /// Returns the bytes that it holds in memory now.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::List(list) => list.first.len(),
            Self::Events(events) => events.first.len(),
            // Its memory is blocks of the pool, or none.
            Self::Download(_) => 0,
            Self::Counted { body, .. } => body.held(),
        }
    }

    /// Keeps this room for [`Self::held`] until those bytes are sent.
    pub(super) fn within(self, room: Option<Room>) -> Self {
        match (self, room) {
            (Self::Whole(bytes), Some(room)) => Self::Whole(Bytes::from_owner(Held { bytes, _until_sent: room })),
            (Self::List(list), room) => Self::List(PartsBody { room, ..list }),
            (Self::Events(events), room) => Self::Events(PartsBody { room, ..events }),
            (other, _) => other,
        }
    }

    /// Counts the request as in progress until the body is sent.
    pub(super) fn counted(self, shares: UnderWay) -> Self {
        Self::Counted { body: Box::new(self), _shares: shares }
    }

    /// Marks the connection as answering while the body is sent.
    pub(super) fn watched_by(self, activity: &Arc<Activity>) -> Self {
        match self {
            Self::Whole(bytes) if !bytes.is_empty() => {
                Self::Whole(Bytes::from_owner(Held { bytes, _until_sent: activity.answer() }))
            }
            // Others have marks of their own.
            other => other,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Self::Counted { body, .. } = this {
            return Pin::new(&mut **body).poll_frame(cx);
        }
        let next = match this {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Download(download) => ready!(download.poll_next(cx)),
            Self::List(list) => ready!(list.poll_next(cx)),
            Self::Events(events) => ready!(events.poll_next(cx)),
            Self::Counted { .. } => None,
        };
        if let Some(Err(error)) = &next {
            // The head has been sent, so closing the connection is the only way left to report this.
            tracing::error!(%error, "an answer broke off");
        }
        let trailer = match this {
            Self::Download(download) if next.is_none() => download.trailer(),
            _ => None,
        };
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)).or(trailer.map(Ok)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Download(download) => matches!(download.state, State::Ended) && !download.tells_timing,
            Self::List(list) => list.is_at_end(),
            Self::Events(events) => events.is_at_end(),
            Self::Counted { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The length of a download is in its head; that of what is made part by part is unknown before the last.
            Self::Download(_) | Self::List(_) | Self::Events(_) => SizeHint::default(),
            Self::Counted { body, .. } => body.size_hint(),
        }
    }
}
