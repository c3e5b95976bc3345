//! A connection to a git server: requests in, a stream of bytes out. Git's own protocol has one connection for all
//! requests; HTTP has one for each.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::super::dial::within;
use super::super::error::{Flaw, Refusal, RemoteError, Surplus};
use super::super::exchange::{Answer, Body, Bounds};
use super::super::location::{Access, Daemon, Repository};
use super::super::{Remote, Scheme};
use super::Watch;

/// The most bytes of refs, which are read and not kept: enough for two million branches; in version 2 only the
/// requested ones come.
const REFS: u64 = 128 << 20;

/// Bytes read from a socket at once: about a packet line.
const READ: usize = 64 << 10;

const SERVICE: &str = "git-upload-pack";

/// Some servers recognise git clients by this prefix.
const AGENT: HeaderValue = HeaderValue::from_static("git/longshore");

/// The header field that requests version 2.
const PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");

pub(super) struct Session<'a> {
    remote: &'a Remote,
    watch: &'a Watch<'a>,
    source: Source,
    /// Bytes received and not yet read.
    unread: Bytes,
    /// Bytes of the current answer received so far, and their bound.
    seen: u64,
    most: u64,
}

enum Source {
    Daemon(TcpStream),
    Web { base: Url, body: Body },
}

impl<'a> Session<'a> {
    /// Connects, and sends the first request.
    pub(super) fn open(remote: &'a Remote, watch: &'a Watch<'a>, repository: &Repository) -> Result<Self, RemoteError> {
        let source = match &repository.access {
            Access::Daemon(daemon) => Source::Daemon(watch.wait(call_daemon(remote, daemon))?),
            Access::Web(base) => watch.wait(ask_web(remote, base, Bounds { most: REFS, deadline: watch.deadline }))?,
        };
        Ok(Self { remote, watch, source, unread: Bytes::new(), seen: 0, most: REFS })
    }

    /// Sends a request, whose answer is read from now on. Over HTTP, the unread rest of the last answer is dropped.
    pub(super) fn ask(&mut self, request: Vec<u8>, most: u64) -> Result<(), RemoteError> {
        (self.seen, self.most) = (0, most);
        match &mut self.source {
            Source::Daemon(stream) => self.watch.wait(send(stream, self.remote, &request)),
            Source::Web { base, body } => {
                self.unread.clear();
                let bounds = Bounds { most, deadline: self.watch.deadline };
                *body = self.watch.wait(post_web(self.remote, base, request, bounds))?;
                Ok(())
            }
        }
    }

    /// Returns the most bytes of an answer with refs.
    pub(super) const fn refs() -> u64 {
        REFS
    }

    /// Returns the next bytes; none at the end.
    fn receive(&mut self) -> Result<Bytes, RemoteError> {
        let bytes = match &mut self.source {
            Source::Daemon(stream) => {
                let stall = self.remote.policy.stall;
                self.watch.wait(async {
                    let mut buffer = BytesMut::with_capacity(READ);
                    match within(stall, stream.read_buf(&mut buffer)).await? {
                        Ok(_) => Ok(buffer.freeze()),
                        Err(error) => Err(RemoteError::BrokeOff(Some(error.into()))),
                    }
                })?
            }
            Source::Web { body, .. } => self.watch.wait(body.next())?.unwrap_or_default(),
        };
        self.seen += bytes.len() as u64;
        if self.seen > self.most { Err(Surplus::Bytes(self.most).into()) } else { Ok(bytes) }
    }
}

/// Its errors hold a [`RemoteError`].
impl Read for Session<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            self.unread = self.receive().map_err(io::Error::other)?;
        }
        let read = into.len().min(self.unread.len());
        self.unread.copy_to_slice(&mut into[..read]);
        Ok(read)
    }
}

async fn call_daemon(remote: &Remote, daemon: &Daemon) -> Result<TcpStream, RemoteError> {
    let mut stream = remote.dialer.dial(&remote.policy, Scheme::Git, &daemon.host, daemon.port).await?;
    let Daemon { path, authority, .. } = daemon;
    let request = format!("{SERVICE} {path}\0host={authority}\0\0version=2\0");
    send(&mut stream, remote, packet(&request).as_bytes()).await?;
    Ok(stream)
}

async fn send(stream: &mut TcpStream, remote: &Remote, request: &[u8]) -> Result<(), RemoteError> {
    within(remote.policy.stall, stream.write_all(request))
        .await?
        .map_err(|error| RemoteError::BrokeOff(Some(error.into())))
}

async fn ask_web(remote: &Remote, base: &Url, bounds: Bounds) -> Result<Source, RemoteError> {
    let mut url = beneath(base, "info/refs");
    url.set_query(Some("service=git-upload-pack"));
    let (at, answer) = remote.get(url, &fields(None), bounds).await?;
    // As in git, a redirect of the refs moves the whole repository.
    let path = at.path().strip_suffix("/info/refs").ok_or(Refusal::Redirect)?.to_owned();
    let mut base = at;
    base.set_path(&path);
    base.set_query(None);
    Ok(Source::Web { base, body: typed(answer, "application/x-git-upload-pack-advertisement")? })
}

async fn post_web(remote: &Remote, base: &Url, request: Vec<u8>, bounds: Bounds) -> Result<Body, RemoteError> {
    let url = beneath(base, SERVICE);
    let fields = fields(Some("application/x-git-upload-pack-request"));
    let answer = remote.post(&url, &fields, request.into(), bounds).await?;
    typed(answer, "application/x-git-upload-pack-result")
}

/// Checks the media type of an answer: a server other than a git server answers with pages.
fn typed(answer: Answer, expected: &str) -> Result<Body, RemoteError> {
    let is_expected = answer
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes()));
    if is_expected { Ok(answer.body) } else { Err(Flaw::NotGit.into()) }
}

fn beneath(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

fn fields(media_type: Option<&'static str>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(USER_AGENT, AGENT);
    fields.insert(PROTOCOL, HeaderValue::from_static("version=2"));
    match media_type {
        Some(media_type) => {
            fields.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            fields.insert(ACCEPT, HeaderValue::from_static("application/x-git-upload-pack-result"));
        }
        None => {
            fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
    }
    fields
}

/// Returns a packet line with this text.
pub(super) fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}
