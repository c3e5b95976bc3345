//! A byte stream that counts its outbound bytes and feeds the inbound ones to the framing guard.
//!
//! It is the layer between hyper and the socket, for every kind of connection: a [`super::sendfile::SendfileStream`]
//! for plain HTTP, a TLS stream otherwise. Wrap it in [`hyper_util::rt::TokioIo`] for hyper. HTTP/2 connections need no
//! guard, since their framing has no such ambiguity.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::framing::FramingGuard;
use super::interim::Interim;
use super::moved::Moved;
use super::tap::Tap;

/// The longest read of HTTP/1, except for an upload's body. hyper sizes its buffer by earlier reads and keeps it, so a
/// peer that may send nothing large cannot make it hold much (I12).
const NARROW: usize = 8 << 10;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    guard: Option<FramingGuard>,
    tap: Option<Arc<Tap>>,
    interim: Option<Arc<Interim>>,
    /// The rest of an interim answer that is being written.
    interim_left: Bytes,
    moved: Arc<Moved>,
}

impl<S> Watched<S> {
    /// Watches `stream`, from which nothing has been read.
    pub(super) fn new(stream: S, guard: Option<FramingGuard>, moved: Arc<Moved>) -> Self {
        Self { stream, guard, tap: None, interim: None, interim_left: Bytes::new(), moved }
    }

    /// Lets large bodies be taken from `tap`, if there is one. The tap reads from the socket of `stream`.
    pub(super) fn tapped_by(self, tap: Option<Arc<Tap>>) -> Self {
        Self { tap, ..self }
    }

    /// Adds interim answers when they are due.
    pub(super) fn with_interim(self, interim: Arc<Interim>) -> Self {
        Self { interim: Some(interim), ..self }
    }

    /// Prepares for the next request after a body that was taken from the tap; `false` if none was.
    pub(super) fn resume(&mut self) -> bool {
        let resumes = self.tap.as_ref().is_some_and(|tap| tap.resume());
        if resumes && let Some(guard) = &mut self.guard {
            guard.skip_body();
        }
        resumes
    }

    /// Whether the bytes received so far are complete requests.
    pub(super) fn is_between_requests(&self) -> bool {
        self.guard.as_ref().is_none_or(FramingGuard::is_between_requests)
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = written {
            self.moved.add_written(written as u64);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Discards inbound bytes until the peer closes or has sent `most`.
    pub(super) async fn drain(&mut self, most: u64) -> io::Result<()> {
        let mut nowhere = [0; 4 << 10];
        let mut seen = 0;
        while seen < most {
            match self.stream.read(&mut nowhere).await? {
                0 => break,
                read => seen += read as u64,
            }
        }
        Ok(())
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let is_wide = self.guard.is_none() || self.moved.is_wide();
        if is_wide || buffer.remaining() <= NARROW {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(NARROW));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let came = part.filled().len();
        buffer.advance(came);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.tap.as_ref().is_some_and(|tap| tap.holds_back(cx)) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let outcome = self.poll_stream(cx, buffer);
        let came = &buffer.filled()[before..];
        if !came.is_empty() {
            let watched = &mut *self;
            if let Some(guard) = &mut watched.guard {
                guard.feed(came);
                if let Some(tap) = &watched.tap {
                    tap.look(guard);
                }
            }
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim_left.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim_left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.interim_left.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes whenever it is polled and has nothing left to write.
        if self.interim_left.is_empty()
            && let Some(due) = self.interim.as_ref().and_then(|interim| interim.take())
        {
            self.interim_left = due;
        }
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fmt::Write;
    use std::sync::Mutex;

    use http_body_util::{BodyExt, Empty};
    use hyper::header::CONNECTION;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The view of the handler: the path of a request, and its body unless the guard objects.
    type Seen = (String, Option<Vec<u8>>);

    /// Serves `stream` by hyper from a pipe of `pipe` bytes, with a handler that asks the guard.
    async fn serve(stream: &[u8], pipe: usize) -> Vec<Seen> {
        let (near, far) = tokio::io::duplex(pipe);
        let (guard, framing) = FramingGuard::new();
        let io = TokioIo::new(Watched::new(far, Some(guard), Arc::default()));
        let seen = Mutex::new(Vec::<Seen>::new());
        let service = service_fn(async |request: Request<hyper::body::Incoming>| {
            let index = seen.lock().unwrap().len();
            seen.lock().unwrap().push((request.uri().path().to_owned(), None));
            let mut response = Response::new(Empty::<Bytes>::new());
            if framing.violation_of(index as u64).is_some() {
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response.headers_mut().insert(CONNECTION, "close".parse().unwrap());
            } else if let Ok(body) = request.into_body().collect().await {
                seen.lock().unwrap()[index].1 = Some(body.to_bytes().to_vec());
            }
            Ok::<_, Infallible>(response)
        });
        let (mut answers, mut requests) = tokio::io::split(near);
        let mut received = Vec::new();
        // hyper may close before it has read everything, or refuse a head. Both end the connection, and only what
        // reached the handler matters.
        let _ = tokio::join!(
            http1::Builder::new().serve_connection(io, service),
            requests.write_all(stream),
            answers.read_to_end(&mut received)
        );
        seen.into_inner().unwrap()
    }

    /// Generates the rest of a request after its path, and its body; `None` if the guard or hyper must object.
    fn message() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
        const DECOYS: [&str; 5] =
            ["GET /decoy HTTP/1.1\r\n\r\n", "\r\n", "0\r\n\r\n", "\n\nPUT /decoy HTTP/1.1\r\nHost: a\r\n\r\n", "5\r\n"];
        let body = vec(prop::sample::select(DECOYS.to_vec()), 0..4).prop_map(|decoys| decoys.concat());
        (body, 0..24_u8, "[ \t]{0,3}", 1..40_usize).prop_map(|(body, kind, space, chunk)| {
            let len = body.len();
            let mut chunked = String::new();
            for chunk in body.as_bytes().chunks(chunk) {
                let chunk = String::from_utf8_lossy(chunk);
                write!(chunked, "{:X}{space};x=\"y\"\r\n{chunk}\r\n", chunk.len()).unwrap();
            }
            chunked.push_str("000\r\nContent-Length: 7\r\n\r\n");
            let good = Some(body.clone().into_bytes());
            let sized = format!("\r\ncontent-LENGTH:{space}{len}{space}\r\nX: y\n\r\n{body}");
            let (rest, expected) = match kind {
                0 => (format!("\r\nTransfer-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n{chunked}"), None),
                1 => (format!("\r\nContent-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"), None),
                2 => (format!("\r\nContent-Length: {len}\r\nContent-Length: {len}\r\n\r\n{body}"), None),
                3 => (format!("\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{chunked}"), None),
                4 => (format!("\r\nContent-Length: {len}, {len}\r\n\r\n{body}"), None),
                5 => (format!("\r\nContent-Length: {len}\r\n folded: a\r\n\r\n{body}"), None),
                6 => (format!("\r\nContent-Length : {len}\r\n\r\n{body}"), None),
                7 => (format!("\r\nX: y\rContent-Length: {len}\r\n\r\n{body}"), None),
                8..12 => ("\nHost: a\n\n\r\n".into(), Some(Vec::new())),
                12..18 => (format!("\nTransfer-Encoding:{space}ChunkeD{space}\n\n{chunked}"), good),
                _ => (sized, good),
            };
            (" HTTP/1.1".to_owned() + &rest, expected)
        })
    }

    #[tokio::test]
    async fn an_interim_answer_is_whole_and_stands_between_answers() {
        for pipe in [1, 7, 64] {
            let (near, mut far) = tokio::io::duplex(pipe);
            let interim = Arc::new(Interim::default());
            let mut watched = Watched::new(near, None, Arc::default()).with_interim(interim.clone());
            let write = async {
                for answer in ["one", "two"] {
                    let working = interim.work();
                    interim.ask();
                    watched.flush().await.unwrap();
                    watched.flush().await.unwrap();
                    drop(working);
                    interim.ask();
                    watched.write_all(answer.as_bytes()).await.unwrap();
                    watched.flush().await.unwrap();
                }
                watched.shutdown().await.unwrap();
            };
            let mut came = String::new();
            let ((), read) = tokio::join!(write, far.read_to_string(&mut came));
            read.unwrap();
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            assert_eq!(came, format!("{interim}one{interim}two"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn hyper_and_the_guard_agree_on_every_request_that_is_let_through(
            messages in vec(message(), 0..6),
            pipe in prop::sample::select(vec![1, 7, 64, 100_000]),
        ) {
            let mut stream = Vec::new();
            for (index, (rest, _)) in messages.iter().enumerate() {
                stream.extend_from_slice(format!("PUT /{index}").as_bytes());
                stream.extend_from_slice(rest.as_bytes());
            }
            stream.extend_from_slice(b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n");
            let mut expected: Vec<Seen> = messages
                .into_iter()
                .enumerate()
                .map_while(|(index, (_, body))| body.map(|body| (format!("/{index}"), Some(body))))
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let seen = runtime.block_on(serve(&stream, pipe));
            let refused = seen.iter().position(|(_, body)| body.is_none());
            if refused.is_none() && seen.len() > expected.len() {
                expected.push(("/last".into(), Some(Vec::new())));
            }
            prop_assert_eq!(&seen[..refused.unwrap_or(seen.len())], expected.as_slice());
            prop_assert!(refused.is_none_or(|at| at + 1 == seen.len()));
        }
    }
}
