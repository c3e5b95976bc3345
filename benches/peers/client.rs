//! The two clients: curl, which is what people use, and one that costs so little that the server is what is measured.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use rustix::net::RecvFlags;

/// Ends a run that hangs.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Which program moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Client {
    /// The curl of this machine.
    Curl,
    /// sendfile(2) up; received and thrown away inside the kernel down.
    Fast,
}

/// Where a request goes, and as whom.
pub(crate) struct Target<'a> {
    /// `127.0.0.1:PORT`.
    pub(crate) authority: &'a str,
    /// The path, with its slash.
    pub(crate) path: &'a str,
    /// `user:password` for Basic authentication.
    pub(crate) credentials: Option<&'a str>,
}

impl Client {
    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Fast => "fast",
        }
    }

    /// Sends a file as a request's body; returns the body of the answer.
    pub(crate) fn send(self, method: &str, target: &Target<'_>, image: &Path) -> Result<String> {
        match self {
            Self::Curl => {
                let mut curl = curl(target);
                curl.args(["--request", method, "--header", "Content-Type: application/octet-stream"]);
                finish(curl.arg("--upload-file").arg(image))
            }
            Self::Fast => fast_send(method, target, image),
        }
    }

    /// Fetches `size` bytes and throws them away, following a redirect.
    pub(crate) fn fetch(self, target: &Target<'_>, size: u64) -> Result<()> {
        match self {
            Self::Curl => {
                let got = finish(
                    curl(target)
                        .args(["--location", "--output", "/dev/null"])
                        .args(["--write-out", "%{size_download}"]),
                )?;
                ensure!(got == size.to_string(), "curl got {got} bytes of {size}");
                Ok(())
            }
            Self::Fast => fast_fetch(target, size),
        }
    }
}

/// Fetches and compares with a file, byte by byte: no number counts unless the bytes are right.
pub(crate) fn fetch_and_compare(target: &Target<'_>, image: &Path) -> Result<()> {
    let mut child = curl(target).arg("--location").stdout(Stdio::piped()).spawn()?;
    let mut got = child.stdout.take().context("curl has no output")?;
    let mut want = File::open(image)?;
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = want.read(&mut ours)?;
        if len == 0 {
            break;
        }
        got.read_exact(&mut theirs[..len]).context("the download is too short")?;
        ensure!(ours[..len] == theirs[..len], "the download differs from the image");
    }
    let more = got.read(&mut theirs)?;
    ensure!(more == 0 && child.wait()?.success(), "the download is too long, or curl failed");
    Ok(())
}

/// Asks for a removal.
pub(crate) fn delete(target: &Target<'_>) -> Result<()> {
    finish(curl(target).args(["--request", "DELETE"])).map(drop)
}

fn curl(target: &Target<'_>) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time"]).arg(TIMEOUT.as_secs().to_string());
    if let Some(credentials) = target.credentials {
        curl.args(["--user", credentials]);
    }
    curl.arg(format!("http://{}{}", target.authority, target.path));
    curl
}

fn finish(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn fast_send(method: &str, target: &Target<'_>, image: &Path) -> Result<String> {
    let image = File::open(image)?;
    let size = image.metadata()?.len();
    let mut stream = connect(target)?;
    let more = format!("Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n");
    stream.write_all(head(method, target, target.path, &more).as_bytes())?;
    let mut left = size;
    while left > 0 {
        let sent = rustix::fs::sendfile(&stream, &image, None, left.min(1 << 30) as usize)?;
        ensure!(sent > 0, "the image became shorter");
        left -= sent as u64;
    }
    let answer = Answer::read(&mut stream)?;
    ensure!((200..300).contains(&answer.status), "the server answered {}", answer.status);
    let mut body = answer.body_start;
    (&stream).take(answer.length - body.len() as u64).read_to_end(&mut body)?;
    Ok(String::from_utf8(body)?)
}

fn fast_fetch(target: &Target<'_>, size: u64) -> Result<()> {
    let mut stream = connect(target)?;
    stream.write_all(head("GET", target, target.path, "").as_bytes())?;
    let mut answer = Answer::read(&mut stream)?;
    if (300..400).contains(&answer.status) {
        let mut rest = answer.length - answer.body_start.len() as u64;
        discard(&stream, &mut rest)?;
        let place = answer.location.context("a redirect without a place")?;
        let path = place.strip_prefix(&format!("http://{}", target.authority)).unwrap_or(&place);
        ensure!(path.starts_with('/'), "a redirect to another host");
        stream.write_all(head("GET", target, path, "").as_bytes())?;
        answer = Answer::read(&mut stream)?;
    }
    ensure!(answer.status == 200 && answer.length == size, "the server answered {}", answer.status);
    let mut left = size - answer.body_start.len() as u64;
    discard(&stream, &mut left)?;
    Ok(())
}

fn connect(target: &Target<'_>) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target.authority)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn head(method: &str, target: &Target<'_>, path: &str, more: &str) -> String {
    let authority = target.authority;
    let authorization = target.credentials.map_or(String::new(), |credentials| {
        format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(credentials))
    });
    format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{authorization}{more}\r\n")
}

/// Takes bytes off the socket without copying them: tcp(7), `MSG_TRUNC`.
fn discard(stream: &TcpStream, left: &mut u64) -> Result<()> {
    let mut nowhere = vec![0; 1 << 20];
    while *left > 0 {
        let len = nowhere.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let (got, _) = rustix::net::recv(stream, &mut nowhere[..len], RecvFlags::TRUNC)?;
        ensure!(got > 0, "the connection ended {left} bytes early");
        *left -= got as u64;
    }
    Ok(())
}

/// The head of an answer, and what came of its body with it.
struct Answer {
    status: u16,
    length: u64,
    location: Option<String>,
    body_start: Vec<u8>,
}

impl Answer {
    /// Reads until the head is complete.
    fn read(stream: &mut TcpStream) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        let end = loop {
            let got = stream.read(&mut part)?;
            ensure!(got > 0, "the connection ended before the answer");
            bytes.extend_from_slice(&part[..got]);
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(bytes.len() < 64 << 10, "the answer's head has no end");
        };
        let body_start = bytes.split_off(end);
        let head = String::from_utf8(bytes)?;
        let status = head.split(' ').nth(1).context("not an answer")?.parse()?;
        let field = |name: &str| {
            head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)))
        };
        let length = match field("content-length") {
            Some((_, value)) => value.trim().parse()?,
            None if status == 204 => 0,
            None => bail!("an answer without Content-Length: {status}"),
        };
        let location = field("location").map(|(_, value)| value.trim().to_owned());
        Ok(Self { status, length, location, body_start })
    }
}
