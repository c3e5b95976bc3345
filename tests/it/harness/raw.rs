//! A client that sends exactly the bytes it is given, also those that no honest client sends.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use base64::Engine as _;

use super::{PATIENCE, Response};

/// One connection.
pub(crate) struct RawClient {
    stream: BufReader<TcpStream>,
    authority: String,
}

impl RawClient {
    /// Connects.
    pub(crate) fn connect(authority: &str) -> Self {
        let stream = TcpStream::connect(authority).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("a socket can be told not to wait");
        Self { stream: BufReader::new(stream), authority: authority.to_owned() }
    }

    /// Sends these bytes; fails the test if the server does not take them.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes the bytes");
    }

    /// Sends these bytes, to a server that may have closed.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a head: the method and path, `Host`, and these lines.
    #[track_caller]
    pub(crate) fn send_head(&mut self, request: &str, lines: &[&str]) {
        let authority = &self.authority;
        let mut head = format!("{request} HTTP/1.1\r\nHost: {authority}\r\n");
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes());
    }

    /// Returns its socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Closes the sending side of the connection.
    pub(crate) fn half_close(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("a connection can be half closed");
    }

    /// Reads the next head, interim or final.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Response {
        let mut head = String::new();
        loop {
            let before = head.len();
            self.stream.read_line(&mut head).expect("the server answers");
            let line = &head[before..];
            assert!(!line.is_empty(), "the connection ended in a head: {head:?}");
            if line == "\r\n" {
                head.truncate(before);
                return Response::parse_head(&head);
            }
        }
    }

    /// Reads exactly `len` bytes of a body.
    #[track_caller]
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).expect("the server sends the whole body");
        body
    }

    /// Reads the final answer, its body by `Content-Length`. An answer to HEAD has none: use [`Self::head`].
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        let mut response = self.head();
        while response.status < 200 {
            response = self.head();
        }
        if !matches!(response.status, 204 | 304) {
            let length = response.field("content-length").parse().expect("Content-Length is a number");
            response.body = self.bytes(length);
        }
        response
    }

    /// Waits until the server closes or sends more; returns whether it closed.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            // The server closed with unread bytes of this client.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
            Err(error) => panic!("the server neither closes nor answers: {error}"),
        }
    }
}

/// Returns the field of Basic authentication for `user:password`.
pub(crate) fn basic(credentials: &str) -> String {
    format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}
