//! A peer that speaks HTTP/2 frame by frame. Unlike a client, it sends all that the windows allow, and reads no answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

use super::peer;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// The largest frame and the initial windows (RFC 9113 sections 4.2 and 6.9.2).
const FRAME: usize = 16_384;
const WINDOW: usize = 65_535;

/// A connection, and the bytes that it may still send.
pub(crate) struct Http2 {
    stream: StreamOwned<ClientConnection, TcpStream>,
    window: usize,
    of_stream: usize,
    next: u32,
}

impl Http2 {
    /// Opens a connection whose windows are known.
    pub(crate) fn connect(authority: &str) -> Self {
        let socket = TcpStream::connect(authority).expect("the server listens");
        socket.set_read_timeout(Some(super::PATIENCE)).expect("a timeout can be set");
        socket.set_write_timeout(Some(super::PATIENCE)).expect("a timeout can be set");
        let stream = peer::tls(socket, "h2");
        let mut this = Self { stream, window: WINDOW, of_stream: WINDOW, next: 1 };
        this.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        this.send(SETTINGS, 0, 0, &[]);
        // Window updates may follow the first answer.
        this.settle();
        this.settle();
        this
    }

    /// Begins a POST and sends as much of its body as the windows allow; returns how much.
    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> usize {
        // Method and scheme from the static table, the others as literals without indexing (RFC 7541).
        let mut head = vec![0x83, 0x87, 0x04];
        let text = |head: &mut Vec<u8>, text: &str| {
            head.push(u8::try_from(text.len()).expect("it is short"));
            head.extend_from_slice(text.as_bytes());
        };
        text(&mut head, path);
        head.push(0x01);
        text(&mut head, "x");
        for (name, value) in fields {
            head.push(0);
            text(&mut head, name);
            text(&mut head, value);
        }
        let id = self.next;
        self.next += 2;
        self.send(HEADERS, 0x4, id, &head);
        let (mut sent, most) = (0, self.of_stream.min(self.window));
        while sent < most {
            let length = FRAME.min(most - sent);
            self.send(DATA, 0, id, &vec![b'x'; length]);
            sent += length;
        }
        self.window -= sent;
        sent
    }

    /// Waits until the server has read everything that was sent.
    pub(crate) fn settle(&mut self) {
        self.send(PING, 0, 0, &[7; 8]);
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).expect("the server answers");
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            self.stream.read_exact(&mut payload).expect("the server sends whole frames");
            let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes")) as usize;
            match (head[3], head[4], &head[5..]) {
                (PING, 1, _) => return,
                (SETTINGS, 0, _) => {
                    for setting in payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                        self.of_stream = number(&setting[2..]);
                    }
                }
                (WINDOW_UPDATE, _, [0, 0, 0, 0]) => self.window += number(&payload),
                _ => {}
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
        self.write(&[&head, payload].concat());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes what it allows");
        self.stream.flush().expect("the server takes what it allows");
    }
}
