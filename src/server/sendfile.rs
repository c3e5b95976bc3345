#![expect(unsafe_code, reason = "maps files, so that a body frame has an address by which the transport knows it")]
//! Sends ranges of files by sendfile(2) beneath hyper, so that no byte of them enters user space.
//!
//! A body frame is a slice of a private address range that maps the file. hyper frames it, splits it and advances it
//! like any other bytes, but never reads it; [`SendfileStream`] knows the address when hyper writes it out and has the
//! kernel copy from the file instead. Whoever reads the slice all the same gets the right bytes, so a frame that ends
//! up in another transport is slower and not wrong.
//!
//! What it is not: a cache or a read-ahead. A cold file blocks the thread in sendfile(2), at most [`CALL`] bytes long.
//!
//! # Invariants
//! - A frame's bytes are the file's or the connection ends: a file that is shorter than the frame is an
//!   `UnexpectedEof`, never other bytes. (Reading the slice of a file that was cut short is a SIGBUS; nothing here
//!   does. Published images are never cut short or written.)
//! - A region is known exactly as long as its `Bytes` live: it is forgotten before its addresses are free.
//! - hyper's `pipeline_flush` stays off: it would make hyper copy frames.
//!
//! # Cancellation
//! Dropping the stream or the `Bytes` at any time is safe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The most that one system call sends. Bounds how long a connection holds its thread, which with a cold file is the
/// time to read this much from the disk.
const CALL: usize = 1 << 20;

/// The most that is sent before other tasks of the thread get a turn: under a millisecond on loopback.
const TURN: usize = 8 << 20;

/// The buffer of the way without sendfile(2).
const COPY: usize = 64 << 10;

/// The longest region [`FileRegions::frames`] maps at once. Address space is finite: 47 bits for all connections.
const WINDOW: u64 = 1 << 30;

/// The ranges of files whose addresses one connection knows. Clones are handles on the same set.
#[derive(Clone, Debug, Default)]
pub struct FileRegions {
    by_start: Arc<Mutex<BTreeMap<usize, Region>>>,
}

#[derive(Debug)]
struct Region {
    end: usize,
    file: Arc<File>,
    offset: u64,
}

impl FileRegions {
    /// A body frame of `len` bytes of `file` from `offset` on, which this connection will send without reading it.
    ///
    /// Fails with `UnexpectedEof` when the file ends before. Costs a system call and address space, whatever `len`.
    pub fn register(&self, file: Arc<File>, offset: u64, len: u64) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let file_len = file.metadata()?.len();
        if offset.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut options = MmapOptions::new();
        options.offset(offset).len(size);
        // SAFETY: the bytes behind the map must not change while a `&[u8]` of it is read. Only a transport other than
        // `SendfileStream` reads it, and the files given here are published images, which the store never writes.
        let map = unsafe { options.map(&*file) }?;
        let start = map.as_ptr() as usize;
        self.lock().insert(start, Region { end: start + size, file, offset });
        Ok(Bytes::from_owner(Mapped { map, regions: self.clone() }))
    }

    /// The same range as [`FileRegions::register`], as frames of bounded length, each mapped when it is asked for.
    pub fn frames(&self, file: Arc<File>, offset: u64, len: u64) -> impl Iterator<Item = io::Result<Bytes>> + use<> {
        let regions = self.clone();
        (0..len.div_ceil(WINDOW)).map(move |window| {
            let done = window * WINDOW;
            let at = offset.checked_add(done).ok_or(io::ErrorKind::UnexpectedEof)?;
            regions.register(Arc::clone(&file), at, WINDOW.min(len - done))
        })
    }

    /// The file and the offset in it behind a slice, if it is one of ours.
    fn find(&self, slice: &[u8]) -> Option<(Arc<File>, u64)> {
        let start = slice.as_ptr() as usize;
        let by_start = self.lock();
        let (first, region) = by_start.range(..=start).next_back()?;
        let known = start + slice.len() <= region.end && !slice.is_empty();
        known.then(|| (Arc::clone(&region.file), region.offset + (start - first) as u64))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Region>> {
        // No code panics between two changes of the map.
        self.by_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner of a frame's addresses.
struct Mapped {
    map: Mmap,
    regions: FileRegions,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Before the addresses are free for another map, which is when the fields drop.
        self.regions.lock().remove(&(self.map.as_ptr() as usize));
    }
}

/// A TCP stream that sends the frames of its [`FileRegions`] by sendfile(2).
#[derive(Debug)]
pub struct SendfileStream {
    socket: TcpStream,
    regions: FileRegions,
    /// Sent since this connection last let others go on.
    turn: usize,
}

impl SendfileStream {
    /// Sends over `socket`, knowing the regions of `regions`.
    pub fn new(socket: TcpStream, regions: FileRegions) -> Self {
        Self { socket, regions, turn: 0 }
    }

    /// Runs `call` when the socket can take bytes.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Err(error) = ready!(self.socket.poll_write_ready(cx)) {
                return Poll::Ready(Err(error));
            }
            match self.socket.try_io(Interest::WRITABLE, || call(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.turn = 0,
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
            let len = first.len().min(CALL);
            return self.poll_send(cx, |socket| send_file(socket, &file, offset, len));
        }
        let file_at = slices.iter().position(|slice| self.regions.find(slice).is_some());
        // With file bytes to follow, the head shares their first packet: tcp(7), MSG_MORE in send(2).
        let more = if file_at.is_some() { SendFlags::MORE } else { SendFlags::empty() };
        let ours = &slices[..file_at.unwrap_or(slices.len())];
        self.poll_send(cx, |socket| {
            Ok(sendmsg(socket, ours, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | more)?)
        })
    }

    /// True, or hyper would flatten the frames, which is reading them.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl AsyncRead for SendfileStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

/// Sends some of `len` bytes of `file` from `offset` on.
fn send_file(socket: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut at = offset;
    match rustix::fs::sendfile(socket, file, Some(&mut at), len) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(sent) => Ok(sent),
        // The file system has no splice: sendfile(2), ERRORS.
        Err(Errno::INVAL | Errno::NOSYS) => copy_file(socket, file, offset, len),
        Err(error) => Err(error.into()),
    }
}

/// The same through a buffer. Not from the map, where a file cut short is a SIGBUS.
fn copy_file(socket: &TcpStream, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut buffer = vec![0; len.min(COPY)];
    match file.read_at(&mut buffer, offset)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(rustix::net::send(socket, &buffer[..read], SendFlags::NOSIGNAL)?),
    }
}
