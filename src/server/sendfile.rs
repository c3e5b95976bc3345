//! Sends ranges of files by sendfile(2) beneath hyper, so that no byte of them enters user space.
//!
//! A body frame of a file is a slice of an address range of [`FileRegions`]. hyper frames it, splits it and advances it
//! like any other bytes, but never reads it; [`SendfileStream`] knows the address when hyper writes it out and has the
//! kernel copy from the file instead.
//!
//! Cached data is sent on the caller's thread, other data on a blocking thread.
//!
//! This is neither a cache nor a read-ahead. Asking the kernel for one (readahead(2), `POSIX_FADV_WILLNEED`) was
//! measured to triple the CPU time of a cold download; its own read-ahead does better.
//!
//! # Invariants
//! - A frame is sent with the bytes of its file, or the connection ends: a file shorter than the frame is an
//!   `UnexpectedEof`, never other bytes. (Reading the slice of a truncated file would be a SIGBUS; nothing here does.
//!   Published images are never truncated or written.)
//! - hyper's `pipeline_flush` stays off: it would make hyper copy frames.
//!
//! # Cancellation
//! Dropping the stream or the `Bytes` at any time is safe.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::regions::FileRegions;
use crate::io::SharedFile;

/// The most that one system call sends, which limits how long a connection holds its thread. Larger calls gain nothing.
const CALL: usize = 1 << 20;

/// The range that is tested at a time for being cached. Pages that are evicted afterwards block the sending thread.
const PROBE: usize = 8 << 20;

/// The most that a blocking thread sends before the cache is tested again: enough that the handover costs nothing. A
/// test disturbs the kernel's read-ahead, which takes the read at the end of the range for a jump.
const COLD_TURN: usize = 32 << 20;

/// The most that is sent before other tasks of the thread get a turn: a fraction of a millisecond on loopback, so that
/// many downloads share a thread evenly.
const TURN: usize = 1 << 20;

/// The time that a blocking thread waits for a peer before it returns the connection, in nanoseconds. A steady peer
/// keeps the thread for its whole turn; a stalled one costs it no more than this.
const PEER_PAUSE: i64 = 20_000_000;

/// The buffer for file systems without sendfile(2).
const COPY: usize = 64 << 10;

/// A TCP stream that sends the frames of its [`FileRegions`] by sendfile(2).
#[derive(Debug)]
pub(super) struct SendfileStream {
    /// Shared, since the tap reads from it beneath hyper.
    socket: Arc<TcpStream>,
    regions: FileRegions,
    /// Bytes sent since this connection last yielded to other tasks.
    turn: usize,
    /// Whether the kernel holds back packets that are not full (`TCP_CORK` in tcp(7)), as it does while a file is sent:
    /// the next call fills the last packet, which saves a quarter of the CPU time of a download over loopback.
    corked: bool,
    place: Place,
    /// A range that a blocking thread is sending.
    cold: Option<Cold>,
    /// A handle on the socket for those threads, which must outlive them.
    shared: Option<Arc<OwnedFd>>,
}

/// The cached bytes from the address on at which the next write should begin.
#[derive(Debug, Default)]
struct Place {
    address: usize,
    /// The number of cached bytes from there on.
    cached: usize,
}

impl Place {
    /// Moves to `address`. The count is lost unless this is the expected address.
    fn reach(&mut self, address: usize) {
        if self.address != address {
            *self = Self { address, cached: 0 };
        }
    }

    fn advance(&mut self, sent: usize) {
        *self = Self { address: self.address + sent, cached: self.cached.saturating_sub(sent) };
    }
}

/// The work of a blocking thread; see [`SendfileStream::cold`].
#[derive(Debug)]
struct Cold {
    /// The address of the frame whose beginning is sent.
    address: usize,
    work: JoinHandle<(io::Result<usize>, Duration)>,
}

impl SendfileStream {
    /// Sends over `socket`, which should have `TCP_NODELAY`: otherwise the last packet of an answer waits for the peer.
    pub(super) fn new(socket: Arc<TcpStream>, regions: FileRegions) -> Self {
        Self { socket, regions, turn: 0, corked: false, place: Place::default(), cold: None, shared: None }
    }

    /// Runs `call` when the socket is writable.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.turn >= TURN {
            self.turn = 0;
            return let_others_go_on(cx);
        }
        loop {
            if let Err(error) = ready!(self.socket.poll_write_ready(cx)) {
                return Poll::Ready(Err(error));
            }
            match self.socket.try_io(Interest::WRITABLE, || call(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.turn = 0;
                    // The peer may pause for long, and the pages may be evicted meanwhile.
                    self.place.cached = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    self.turn += sent;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl SendfileStream {
    /// Sends a part of a frame of `file`: cached data at once, other data on a blocking thread.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        frame: &[u8],
        file: &SharedFile,
        offset: u64,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(cold) = &mut self.cold {
                let ended = ready!(Pin::new(&mut cold.work).poll(cx));
                let (sent, waited) = ended.unwrap_or_else(|error| (Err(io::Error::other(error)), Duration::ZERO));
                let is_this_frame = cold.address == frame.as_ptr() as usize;
                self.cold = None;
                self.regions.end_wait(waited);
                match sent {
                    // hyper writes frames in order, and never withdraws one that is being written.
                    Ok(_) if !is_this_frame => return Poll::Ready(Err(io::Error::other("another frame was sent"))),
                    // The runtime still considers the socket writable. Only a test of the socket as it is now corrects
                    // that: it may have become writable since, and nothing would wake this task again.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let _ = self.socket.try_io(Interest::WRITABLE, || {
                            if is_writable(&self.socket, 0) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
                        });
                    }
                    sent => {
                        self.place.advance(*sent.as_ref().unwrap_or(&0));
                        return Poll::Ready(sent);
                    }
                }
            }
            ready!(self.socket.poll_write_ready(cx))?;
            self.cork(true)?;
            self.place.reach(frame.as_ptr() as usize);
            let regions = self.regions.clone();
            if self.place.cached == 0 && regions.on_disk(|| is_cached(file, offset, frame.len().min(PROBE))) {
                self.place.cached = frame.len().min(PROBE);
            }
            if self.place.cached > 0 {
                let len = self.place.cached.min(frame.len()).min(CALL);
                let call = |socket: &TcpStream| regions.on_disk(|| send_file(socket, file, offset, len));
                let sent = ready!(self.poll_send(cx, call));
                self.place.advance(*sent.as_ref().unwrap_or(&0));
                return Poll::Ready(sent);
            }
            let socket = match &self.shared {
                Some(socket) => socket.clone(),
                None => self.shared.insert(Arc::new(self.socket.as_fd().try_clone_to_owned()?)).clone(),
            };
            let (file, len) = (file.clone(), frame.len().min(COLD_TURN));
            let work = tokio::task::spawn_blocking(move || send_cold(&socket, &file, offset, len));
            self.cold = Some(Cold { address: frame.as_ptr() as usize, work });
            self.regions.begin_wait();
        }
    }

    /// Sets [`SendfileStream::corked`].
    fn cork(&mut self, corked: bool) -> io::Result<()> {
        if self.corked != corked {
            rustix::net::sockopt::set_tcp_cork(&self.socket, corked)?;
            self.corked = corked;
        }
        Ok(())
    }
}

impl AsyncWrite for SendfileStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let from = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
        let slices = &slices[from..];
        let Some(first) = slices.first() else { return Poll::Ready(Ok(0)) };
        if let Some((file, offset)) = self.regions.find(first) {
            return self.poll_send_file(cx, first, &file, offset);
        }
        let file_at = slices.iter().position(|slice| self.regions.find(slice).is_some());
        // If file bytes follow, the head shares their first packet (tcp(7), MSG_MORE in send(2)).
        let more = if file_at.is_some() { SendFlags::MORE } else { SendFlags::empty() };
        let ours = &slices[..file_at.unwrap_or(slices.len())];
        self.poll_send(cx, |socket| {
            Ok(sendmsg(socket, ours, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | more)?)
        })
    }

    /// True: otherwise hyper would copy the frames into one, which reads them.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing more to write for now, so the last packet is sent here.
        Poll::Ready(self.cork(false))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&self.socket, Shutdown::Write) {
            // The peer has closed first.
            Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome.map_err(Into::into)),
        }
    }
}

impl AsyncRead for SendfileStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome.map(drop)),
            }
        }
    }
}

/// Wakes the task after other tasks had their turn and the sockets were polled.
///
/// Waking it at once would also wake another thread of the runtime, for a task that this thread continues.
fn let_others_go_on<T>(cx: &mut Context<'_>) -> Poll<T> {
    // The runtime keeps the waker, so the future is not needed any more.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

/// Sends up to `len` bytes; waits for the disk, and shortly for the socket. Returns the number of bytes, and the time
/// that it waited for the socket.
fn send_cold(socket: &OwnedFd, file: &File, offset: u64, len: usize) -> (io::Result<usize>, Duration) {
    let (mut sent, mut waited) = (0, Duration::ZERO);
    if len == COLD_TURN {
        // Doubles the window of the read-ahead. It is only advice, and useless for a short range.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
    }
    while sent < len {
        match send_file(socket, file, offset + sent as u64, (len - sent).min(CALL)) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let since = Instant::now();
                let writable = is_writable(socket, PEER_PAUSE);
                waited += since.elapsed();
                if !writable {
                    return (if sent > 0 { Ok(sent) } else { Err(error) }, waited);
                }
            }
            // The bytes that were sent count; the next call meets the error again.
            Err(_) if sent > 0 => break,
            Err(error) => return (Err(error), waited),
        }
    }
    (Ok(sent), waited)
}

/// Whether the socket becomes writable within this many nanoseconds.
fn is_writable(socket: impl AsFd, within: i64) -> bool {
    let mut asked = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: within })).is_ok_and(|ready| ready > 0)
}

/// Whether both ends of a range can be read without waiting for the disk, which makes it likely for the rest.
fn is_cached(file: &File, offset: u64, len: usize) -> bool {
    [offset, offset + len as u64 - 1].into_iter().all(|offset| {
        let mut byte = [0];
        let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
        // Only this error means the disk; sendfile reports all others.
        !matches!(read, Err(Errno::AGAIN))
    })
}

/// Sends a part of `len` bytes of `file` from `offset` on.
fn send_file(socket: impl AsFd, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut at = offset;
    match rustix::fs::sendfile(&socket, file, Some(&mut at), len) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(sent) => Ok(sent),
        // The file system does not support splicing (sendfile(2), ERRORS).
        Err(Errno::INVAL | Errno::NOSYS) => copy_file(socket, file, offset, len),
        Err(error) => Err(error.into()),
    }
}

/// Sends a part through a buffer. It does not read the map, which is a SIGBUS if the file was truncated.
fn copy_file(socket: impl AsFd, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut buffer = vec![0; len.min(COPY)];
    match file.read_at(&mut buffer, offset)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(rustix::net::send(socket, &buffer[..read], SendFlags::NOSIGNAL)?),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::net::SocketAddr;
    use std::task::Waker;

    use bytes::Bytes;
    use http_body::{Body, Frame, SizeHint};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;
    use crate::server::moved::Moved;
    use crate::server::regions::tests::file;
    use crate::server::watched::Watched;
    use crate::skipped::skipped;

    const BEFORE: &[u8] = b"--part\r\n";

    /// Returns two ends of a connection over loopback. With `slow`, the near one receives little at a time.
    async fn pair(slow: bool) -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let near = TcpSocket::new_v4().unwrap();
        if slow {
            near.set_recv_buffer_size(4096).unwrap();
        }
        let (near, far) = tokio::join!(near.connect(listener.local_addr().unwrap()), listener.accept());
        let far = far.unwrap().0;
        far.set_nodelay(true).unwrap();
        if slow {
            rustix::net::sockopt::set_socket_send_buffer_size(&far, 4096).unwrap();
        }
        (near.unwrap(), far)
    }

    /// A body of known length, of frames that are ready.
    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
        }
    }

    /// Serves a connection: `/OFFSET-LEN/OFFSET-LEN` answers these ranges, with [`BEFORE`] before each. `ready` runs
    /// between making the frames and answering.
    async fn serve(socket: TcpStream, file: SharedFile, progress: Arc<Moved>, ready: impl Fn()) -> hyper::Result<()> {
        let regions = FileRegions::default();
        let io = TokioIo::new(Watched::new(SendfileStream::new(Arc::new(socket), regions.clone()), None, progress));
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let mut frames = VecDeque::new();
            for range in ranges(request.uri().path()) {
                frames.push_back(Bytes::from_static(BEFORE));
                frames.push_back(regions.register(file.clone(), range.0, range.1).unwrap());
            }
            ready();
            async { Ok::<_, Infallible>(Response::new(Frames(frames))) }
        });
        let served = http1::Builder::new().serve_connection(io, service).await;
        assert!(regions.is_empty(), "frames are still registered");
        served
    }

    fn ranges(path: &str) -> Vec<(u64, u64)> {
        let number = |text: &str| text.parse::<u64>().unwrap();
        let range = |text: &str| text.split_once('-').map(|(offset, len)| (number(offset), number(len))).unwrap();
        path.split('/').skip(1).map(range).collect()
    }

    fn expected(file: &[u8], path: &str) -> Vec<u8> {
        ranges(path).iter().flat_map(|&(from, len)| [BEFORE, &file[from as usize..][..len as usize]].concat()).collect()
    }

    async fn ask(client: &mut TcpStream, path: &str) {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    }

    /// Reads an answer's head; returns its content length.
    async fn head(client: &mut TcpStream) -> usize {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let (_, length) = head.split_once("content-length: ").unwrap();
        length.split_once('\r').unwrap().0.parse().unwrap()
    }

    async fn answer(client: &mut TcpStream) -> Vec<u8> {
        let mut body = vec![0; head(client).await];
        client.read_exact(&mut body).await.unwrap();
        body
    }

    #[tokio::test]
    async fn two_hundred_random_ranges_come_as_they_are_in_the_file_on_one_connection() {
        let (file, bytes) = file((3 << 20) + 123);
        let (mut client, socket) = pair(false).await;
        let progress = Arc::<Moved>::default();
        let size = bytes.len() as u64;
        let range = (0..size, 0..22_u32, any::<u64>())
            .prop_map(move |(offset, scale, len)| format!("/{offset}-{}", (len % (1 << scale)).min(size - offset)));
        let paths = proptest::collection::vec(range, 1..9).prop_map(|ranges| ranges.concat());
        let requests = async {
            let mut runner = TestRunner::deterministic();
            let mut received = 0;
            for _ in 0..200 {
                let path = paths.new_tree(&mut runner).unwrap().current();
                ask(&mut client, &path).await;
                let body = answer(&mut client).await;
                assert!(body == expected(&bytes, &path), "{path}");
                received += body.len() as u64;
            }
            drop(client);
            received
        };
        let (served, received) = tokio::join!(serve(socket, file, Arc::clone(&progress), || {}), requests);
        served.unwrap();
        assert!(progress.written() > received);
    }

    #[tokio::test]
    async fn a_file_that_is_not_cached_comes_whole_and_its_wait_for_the_disk_is_told() {
        let (file, bytes) = file((48 << 20) + 77);
        file.sync_all().unwrap();
        for slow in [false, true] {
            rustix::fs::fadvise(&*file, 0, None, Advice::DontNeed).unwrap();
            if is_cached(&file, 0, CALL) {
                return skipped("this file system of the temporary files keeps them in memory");
            }
            let (mut client, socket) = pair(slow).await;
            let regions = FileRegions::default();
            let mut stream = SendfileStream::new(Arc::new(socket), regions.clone());
            let frame = regions.register(file.clone(), 5, bytes.len() as u64 - 5).unwrap();
            let send = async {
                let mut left = frame;
                while !left.is_empty() {
                    let sent = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &left)).await.unwrap();
                    left = left.slice(sent..);
                }
                drop(stream);
            };
            let mut received = Vec::new();
            let (read, ()) = tokio::join!(client.read_to_end(&mut received), send);
            read.unwrap();
            assert!(received == bytes[5..]);
            let (waited, waits) = regions.disk_wait();
            assert!(waited > Duration::ZERO && !waits);
        }
    }

    #[tokio::test]
    async fn pipelined_answers_of_whole_files_reach_a_slow_reader() {
        let (file, bytes) = file((2 << 20) + 1);
        let (mut client, socket) = pair(true).await;
        let paths = [format!("/0-{}", bytes.len()), "/5-70000/2097152-1/4096-4096".into(), "/1-1048577".into()];
        let requests = async {
            for path in &paths {
                ask(&mut client, path).await;
            }
            for path in &paths {
                let mut body = vec![0; head(&mut client).await];
                for part in body.chunks_mut(3000) {
                    client.read_exact(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                assert!(body == expected(&bytes, path), "{path}");
            }
            drop(client);
        };
        let (served, ()) = tokio::join!(serve(socket, file, Arc::default(), || {}), requests);
        served.unwrap();
    }

    #[tokio::test]
    async fn file_cut_short_ends_the_connection_after_its_last_right_byte() {
        // The map behind the frame then has pages that cannot be read, so this also shows that nothing reads them.
        let (file, bytes) = file(4 << 20);
        let left = (1 << 20) + 7;
        let (mut client, socket) = pair(false).await;
        let cut = file.clone();
        let truncate = move || cut.set_len(left as u64).unwrap();
        let requests = async {
            ask(&mut client, "/0-4194304").await;
            assert_eq!(head(&mut client).await, BEFORE.len() + bytes.len());
            let mut body = Vec::new();
            client.read_to_end(&mut body).await.unwrap();
            assert!(body == [BEFORE, &bytes[..left]].concat());
        };
        let (served, ()) = tokio::join!(serve(socket, file, Arc::default(), truncate), requests);
        let cause = std::error::Error::source(&served.unwrap_err()).unwrap().to_string();
        assert_eq!(cause, io::Error::from(io::ErrorKind::UnexpectedEof).to_string());
    }

    #[tokio::test]
    async fn file_system_without_sendfile_is_copied_through_a_buffer() {
        let (file, bytes) = file(COPY * 3 + 5);
        let (mut client, socket) = pair(true).await;
        let mut stream = SendfileStream::new(Arc::new(socket), FileRegions::default());
        let send = async {
            let mut sent = 0;
            while sent < bytes.len() {
                let left = bytes.len() - sent;
                sent += poll_fn(|cx| stream.poll_send(cx, |socket| copy_file(socket, &file, sent as u64, left)))
                    .await
                    .unwrap();
            }
            let beyond = poll_fn(|cx| stream.poll_send(cx, |socket| copy_file(socket, &file, sent as u64, 1))).await;
            assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            drop(stream);
        };
        let mut received = Vec::new();
        let (read, ()) = tokio::join!(client.read_to_end(&mut received), send);
        read.unwrap();
        assert!(received == bytes);
    }

    #[tokio::test]
    async fn connection_that_sent_its_turn_lets_others_go_first() {
        let (_client, socket) = pair(false).await;
        let mut stream = SendfileStream::new(Arc::new(socket), FileRegions::default());
        stream.turn = TURN;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stream).poll_write(&mut cx, b"x").is_pending());
        assert!(poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"x")).await.is_ok_and(|sent| sent == 1));
    }

    #[tokio::test]
    async fn packets_are_filled_while_a_file_is_sent_and_the_last_one_leaves_with_the_flush() {
        let (file, bytes) = file(PROBE + (1 << 20));
        let (mut client, socket) = pair(false).await;
        let regions = FileRegions::default();
        let mut stream = SendfileStream::new(Arc::new(socket), regions.clone());
        let is_corked = |stream: &SendfileStream| rustix::net::sockopt::tcp_cork(&stream.socket).unwrap();
        let frame = regions.register(file.clone(), 0, bytes.len() as u64).unwrap();
        let send = async {
            assert!(!is_corked(&stream));
            let mut left = frame;
            while !left.is_empty() {
                let sent = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &left)).await.unwrap();
                left = left.slice(sent..);
                assert!(is_corked(&stream));
            }
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
            assert!(!is_corked(&stream));
        };
        let mut received = vec![0; bytes.len()];
        let (read, ()) = tokio::join!(client.read_exact(&mut received), send);
        read.unwrap();
        assert!(received == bytes);
    }

    #[test]
    fn what_is_known_of_the_cache_is_lost_with_a_jump_and_used_up_by_sending() {
        let mut place = Place { address: 1000, cached: 10 };
        place.reach(1000);
        place.advance(4);
        place.reach(1004);
        assert_eq!(place.cached, 6);
        place.advance(100);
        assert_eq!((place.address, place.cached), (1104, 0));
        place.cached = 5;
        place.reach(1105);
        assert_eq!(place.cached, 0);
    }
}
