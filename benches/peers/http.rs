//! The client that costs almost nothing, over one plain connection: sendfile(2) up; down, bytes are thrown away inside
//! the kernel.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use rustix::net::RecvFlags;

/// Ends a run that hangs.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(10);

/// The most that one call sends while it is counted: small beside what a stream moves while anybody looks.
const COUNTED: u64 = 256 << 10;

/// Where a request goes, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    /// `127.0.0.1:PORT`.
    pub(crate) authority: String,
    /// The path, with its slash.
    pub(crate) path: String,
    /// `user:password` for Basic authentication.
    pub(crate) credentials: Option<String>,
    /// The certificate to trust, for a server that speaks TLS.
    pub(crate) certificate: Option<std::path::PathBuf>,
    /// Further header lines.
    pub(crate) headers: Vec<String>,
}

impl Target {
    /// The same server and login at another path.
    pub(crate) fn at(&self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self.clone() }
    }
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    authority: String,
    fields: String,
    /// The bytes of bodies that it has moved, for others to see.
    moved: Option<Arc<AtomicU64>>,
}

impl Connection {
    /// Connects to the server of `target`; every request carries its login and headers.
    pub(crate) fn open(target: &Target) -> Result<Self> {
        ensure!(target.certificate.is_none(), "the fast client does not speak TLS");
        let stream = TcpStream::connect(&target.authority)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut lines = vec![format!("Host: {}", target.authority)];
        if let Some(credentials) = &target.credentials {
            let credentials = base64::engine::general_purpose::STANDARD.encode(credentials);
            lines.push(format!("Authorization: Basic {credentials}"));
        }
        lines.extend(target.headers.iter().cloned());
        let fields = lines.join("\r\n") + "\r\n";
        Ok(Self { stream, authority: target.authority.clone(), fields, moved: None })
    }

    /// Counts the bytes of bodies here from now on, as they are moved.
    pub(crate) fn count(&mut self, moved: &Arc<AtomicU64>) {
        self.moved = Some(Arc::clone(moved));
    }

    /// What breaks it off, whoever uses it.
    pub(crate) fn breaker(&self) -> Result<impl FnOnce() + use<>> {
        let stream = self.stream.try_clone()?;
        // It may be broken already.
        Ok(move || drop(stream.shutdown(std::net::Shutdown::Both)))
    }

    fn counted(&self, bytes: u64) {
        if let Some(moved) = &self.moved {
            moved.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Sends a request's head; `more` is whole lines of header.
    pub(crate) fn ask(&mut self, method: &str, path: &str, more: &str) -> Result<()> {
        Ok(self.stream.write_all(format!("{method} {path} HTTP/1.1\r\n{}{more}\r\n", self.fields).as_bytes())?)
    }

    /// Sends a short body; returns the body of the answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Result<String> {
        self.ask(method, path, &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()))?;
        self.stream.write_all(body.as_bytes())?;
        let answer = self.answer()?;
        ensure!((200..300).contains(&answer.status), "the server answered {}", answer.status);
        self.text(answer)
    }

    /// Sends a login; returns the token and the body of the answer.
    pub(crate) fn log_in(&mut self, path: &str, body: &str) -> Result<(String, String)> {
        self.ask("POST", path, &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()))?;
        self.stream.write_all(body.as_bytes())?;
        let mut answer = self.answer()?;
        ensure!(answer.status == 201, "the server answered {} to a login", answer.status);
        let token = answer.token.take().context("a login without a token")?;
        Ok((token, self.text(answer)?))
    }

    /// Uploads a range of a file; returns the body of the answer.
    pub(crate) fn upload(&mut self, method: &str, path: &str, image: &File, range: Range<u64>) -> Result<String> {
        self.upload_as("application/octet-stream", method, path, image, range)
    }

    /// The same, of some type.
    pub(crate) fn upload_as(
        &mut self,
        kind: &str,
        method: &str,
        path: &str,
        image: &File,
        range: Range<u64>,
    ) -> Result<String> {
        let len = range.end - range.start;
        self.ask(method, path, &format!("Content-Type: {kind}\r\nContent-Length: {len}\r\n"))?;
        let (mut at, mut left) = (range.start, len);
        let most = if self.moved.is_some() { COUNTED } else { 1 << 30 };
        while left > 0 {
            let sent = rustix::fs::sendfile(&self.stream, image, Some(&mut at), left.min(most) as usize)?;
            ensure!(sent > 0, "the image became shorter");
            left -= sent as u64;
            self.counted(sent as u64);
        }
        let answer = self.answer()?;
        ensure!((200..300).contains(&answer.status), "the server answered {}", answer.status);
        self.text(answer)
    }

    /// Downloads and throws away `len` bytes: the whole, or those from `start`. A redirect is followed.
    pub(crate) fn download(&mut self, path: &str, start: Option<u64>, len: u64) -> Result<()> {
        let range = start.map_or(String::new(), |start| format!("Range: bytes={start}-{}\r\n", start + len - 1));
        self.ask("GET", path, &range)?;
        let mut answer = self.answer()?;
        if let Some(link) = answer.location.take().filter(|_| answer.status / 100 == 3) {
            let link = self.path_of(&link)?;
            self.discard(&answer)?;
            self.ask("GET", &link, &range)?;
            answer = self.answer()?;
        }
        let want = if start.is_some() { 206 } else { 200 };
        ensure!(answer.status == want && answer.length == len, "the server answered {}", answer.status);
        self.discard(&answer)
    }

    /// Asks for a removal.
    pub(crate) fn delete(&mut self, path: &str) -> Result<()> {
        self.ask("DELETE", path, "")?;
        let answer = self.answer()?;
        ensure!((200..300).contains(&answer.status), "the server answered {} to a DELETE", answer.status);
        self.discard(&answer)
    }

    /// The path to which a download is redirected, not followed.
    pub(crate) fn link(&mut self, path: &str) -> Result<String> {
        self.ask("GET", path, "")?;
        let answer = self.answer()?;
        self.discard(&answer)?;
        self.path_of(answer.location.as_deref().context("not a redirect")?)
    }

    /// Where on this server a redirect leads.
    pub(crate) fn path_of(&self, link: &str) -> Result<String> {
        let path = link.strip_prefix(&format!("http://{}", self.authority)).unwrap_or(link);
        ensure!(path.starts_with('/'), "a redirect to another host");
        Ok(path.to_owned())
    }

    /// Reads an answer's head, to its end.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        let end = loop {
            let got = self.stream.read(&mut part)?;
            ensure!(got > 0, "the connection ended before the answer");
            bytes.extend_from_slice(&part[..got]);
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(bytes.len() < 64 << 10, "the answer's head has no end");
        };
        let body_start = bytes.split_off(end);
        Answer::parse(&String::from_utf8(bytes)?, body_start)
    }

    /// Waits for at least one byte of an answer's body.
    pub(crate) fn first_byte(&mut self, answer: &mut Answer) -> Result<()> {
        if answer.body_start.is_empty() {
            let mut one = [0];
            self.stream.read_exact(&mut one)?;
            answer.body_start.push(one[0]);
        }
        Ok(())
    }

    /// The body of an answer.
    pub(crate) fn text(&mut self, answer: Answer) -> Result<String> {
        let mut body = answer.body_start;
        (&self.stream).take(answer.length - body.len() as u64).read_to_end(&mut body)?;
        Ok(String::from_utf8(body)?)
    }

    /// Takes an answer's body off the socket without copying it: tcp(7), `MSG_TRUNC`.
    pub(crate) fn discard(&mut self, answer: &Answer) -> Result<()> {
        let mut left = answer.length - answer.body_start.len() as u64;
        // The kernel writes nothing to it, so its pages are never made.
        let mut nowhere = vec![0; 1 << 20];
        while left > 0 {
            let len = nowhere.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (got, _) = rustix::net::recv(&self.stream, &mut nowhere[..len], RecvFlags::TRUNC)?;
            ensure!(got > 0, "the connection ended {left} bytes early");
            left -= got as u64;
            self.counted(got as u64);
        }
        Ok(())
    }
}

/// The head of an answer, and what came of its body with it.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    length: u64,
    /// Where a redirect leads.
    pub(crate) location: Option<String>,
    /// A token of the identity service.
    token: Option<String>,
    body_start: Vec<u8>,
}

impl Answer {
    fn parse(head: &str, body_start: Vec<u8>) -> Result<Self> {
        let status = head.split(' ').nth(1).context("not an answer")?.parse()?;
        let field = |name: &str| {
            head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)))
        };
        let length = match field("content-length") {
            Some((_, value)) => value.trim().parse()?,
            None if status == 204 || status == 100 => 0,
            None => bail!("an answer without Content-Length: {status}"),
        };
        let location = field("location").map(|(_, value)| value.trim().to_owned());
        let token = field("x-subject-token").map(|(_, value)| value.trim().to_owned());
        Ok(Self { status, length, location, token, body_start })
    }
}
