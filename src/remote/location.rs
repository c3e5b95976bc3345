//! Parses the text of a source: a file, or a branch of a git repository.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::Scheme;
use super::error::{BadUrl, Refusal, RemoteError};

/// The longest text; browsers and servers have about the same limit.
const LONGEST: usize = 8192;

/// The longest name of a file on Linux.
const LONGEST_NAME: usize = 255;

/// A source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// One file.
    File(FileUrl),
    /// A tree of a git repository.
    Git(Repository),
}

impl Location {
    /// Parses `http(s)://host/path` as a file; `http(s)://host/path.git[:branch]` and `git://host/path[:branch]` as a
    /// repository. A branch follows `.git:`, or else the last colon after the last slash. The policy checks the scheme
    /// and the port when the source is fetched.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        if text.len() > LONGEST {
            return Err(BadUrl::Length.into());
        }
        // URL parsers drop or convert some of these, each in its own way.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
            return Err(BadUrl::Syntax.into());
        }
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let scheme: Scheme = scheme.to_ascii_lowercase().parse().map_err(|_| BadUrl::Scheme)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(BadUrl::Credentials.into());
        }
        if scheme == Scheme::Git {
            return Ok(Self::Git(daemon(authority, path)?));
        }
        let web = |path: &str| web_url(&format!("{scheme}://{authority}{path}"));
        match split_branch(path) {
            (base, branch) if base.strip_suffix(".git").is_some() && !base.contains(['?', '#']) => {
                let branch = branch.map(checked_branch).transpose()?;
                Ok(Self::Git(Repository { access: Access::Web(web(base)?), branch }))
            }
            _ => Ok(Self::File(FileUrl { url: web(path)? })),
        }
    }
}

/// The URL of one file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileUrl {
    pub(super) url: Url,
}

impl FileUrl {
    /// Returns a name for the file: the last part of the URL's path, decoded and made safe; else `index`.
    pub fn name(&self) -> String {
        let last = self.url.path_segments().and_then(|segments| segments.rev().find(|segment| !segment.is_empty()));
        let decoded = percent_decode_str(last.unwrap_or_default()).decode_utf8_lossy();
        let mut name: String =
            decoded.chars().map(|c| if c == '/' || c == '\\' || c.is_control() { '_' } else { c }).collect();
        name.truncate(name.floor_char_boundary(LONGEST_NAME));
        if matches!(&*name, "" | "." | "..") { "index".into() } else { name }
    }
}

/// Omits the query, which may hold a secret.
impl fmt::Debug for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// A git repository, and a branch or tag of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub(super) access: Access,
    /// A branch or a tag; `None` for the default branch.
    pub(super) branch: Option<String>,
}

/// How a repository is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Smart HTTP, beneath this URL.
    Web(Url),
    /// Git's own protocol.
    Daemon(Daemon),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Daemon {
    pub(super) host: Host,
    pub(super) port: u16,
    /// The decoded path, which starts with a slash.
    pub(super) path: String,
    /// The host and port in the URL, by which a server with several names chooses.
    pub(super) authority: String,
}

/// Returns the scheme, host and port of a URL of the web.
pub(super) fn parts(url: &Url) -> Result<(Scheme, Host, u16), RemoteError> {
    let scheme = url.scheme().parse().map_err(|_| Refusal::Scheme)?;
    let host = url.host().ok_or(BadUrl::Host)?.to_owned();
    let port = url.port_or_known_default().ok_or(BadUrl::Host)?;
    Ok((scheme, host, port))
}

/// Returns the target of a redirect.
pub(super) fn redirected(from: &Url, location: &str) -> Result<Url, RemoteError> {
    let mut to = from.join(location).map_err(|_| Refusal::Redirect)?;
    to.set_fragment(None);
    if !matches!(to.scheme(), "http" | "https") || !to.username().is_empty() || to.password().is_some() {
        return Err(Refusal::Redirect.into());
    }
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(Refusal::Downgrade.into());
    }
    Ok(to)
}

/// Parses a URL by the rules of the web, by which a host of numbers, in any base and number of parts, is an IPv4
/// address and is checked as one.
fn web_url(text: &str) -> Result<Url, RemoteError> {
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase | url::ParseError::RelativeUrlWithCannotBeABaseBase => BadUrl::Syntax,
        _ => BadUrl::Host,
    })?;
    // After more than two slashes, the parser would take the next segment for the host.
    if url.host_str().is_none_or(str::is_empty) || text.split("://").nth(1).is_none_or(|rest| rest.starts_with('/')) {
        return Err(BadUrl::Host.into());
    }
    url.set_fragment(None);
    Ok(url)
}

fn daemon(authority: &str, path: &str) -> Result<Repository, RemoteError> {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.contains(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (host, digits.then(|| port.parse().ok()).flatten().ok_or(BadUrl::Host)?)
        }
        _ => (authority, Scheme::Git.port()),
    };
    let host = Host::parse(host).map_err(|_| BadUrl::Host)?;
    let (base, branch) = split_branch(path);
    // Git decodes the path too.
    let path = percent_decode_str(base).decode_utf8().map_err(|_| BadUrl::Path)?.into_owned();
    if !path.starts_with('/') || path.trim_matches('/').is_empty() || path.chars().any(char::is_control) {
        return Err(BadUrl::Path.into());
    }
    let branch = branch.map(checked_branch).transpose()?;
    let authority = if port == Scheme::Git.port() { host.to_string() } else { format!("{host}:{port}") };
    Ok(Repository { access: Access::Daemon(Daemon { host, port, path, authority }), branch })
}

/// Splits off the branch. A branch may hold slashes, so `.git:` is the separator if there is one.
fn split_branch(path: &str) -> (&str, Option<&str>) {
    if let Some(at) = path.find(".git:") {
        return (&path[..at + 4], Some(&path[at + 5..]));
    }
    let last = path.rfind('/').map_or(0, |at| at + 1);
    match path[last..].rfind(':') {
        Some(at) => (&path[..last + at], Some(&path[last + at + 1..])),
        None => (path, None),
    }
}

/// Checks a branch by the rules of `git check-ref-format`, and that it cannot be taken for an option.
fn checked_branch(name: &str) -> Result<String, RemoteError> {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.strip_suffix(".lock").is_none();
    let is_name = name.len() <= LONGEST_NAME
        && name.split('/').all(is_part)
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && name != "@"
        && !name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c));
    if is_name { Ok(name.to_owned()) } else { Err(BadUrl::Branch.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> BadUrl {
        match Location::parse(text) {
            Err(RemoteError::Url(bad)) => bad,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn file(text: &str) -> FileUrl {
        match Location::parse(text) {
            Ok(Location::File(file)) => file,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn git(text: &str) -> (String, Option<String>) {
        match Location::parse(text) {
            Ok(Location::Git(Repository { access: Access::Web(url), branch })) => (url.into(), branch),
            Ok(Location::Git(Repository { access: Access::Daemon(daemon), branch })) => {
                (format!("{} {} {}", daemon.host, daemon.port, daemon.path), branch)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn files_and_repositories_are_told_apart_by_their_ending() {
        for text in [
            "http://host/README.md",
            "https://host/",
            "https://host",
            "HTTPS://host/x.git/",
            "https://host/x.git/y",
            "https://host/x.git?y",
            "https://host/x.git#y",
            "https://host/a:b",
            "https://host/x.gitx:b",
            "https://host?x=/y.git",
        ] {
            file(text);
        }
        for (text, at, branch) in [
            ("https://host/x.git", "https://host/x.git", None),
            ("http://host:80/a/x.git:main", "http://host/a/x.git", Some("main")),
            ("https://host/x.git:v1.2", "https://host/x.git", Some("v1.2")),
            ("https://host/x.git:feature/y", "https://host/x.git", Some("feature/y")),
            ("https://host:8443/x.git", "https://host:8443/x.git", None),
            ("git://host/repo", "host 9418 /repo", None),
            ("git://host:9418/repo.git:branch", "host 9418 /repo.git", Some("branch")),
            ("git://host:80/a:b/repo:branch", "host 80 /a:b/repo", Some("branch")),
            ("git://host/a%20b:c", "host 9418 /a b", Some("c")),
            ("git://[::1]/x", "[::1] 9418 /x", None),
            ("git://[::1]:99/x", "[::1] 99 /x", None),
        ] {
            assert_eq!(git(text), (at.to_owned(), branch.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_becomes_that_address() {
        for spelling in [
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "127。0。0。1",
        ] {
            assert_eq!(file(&format!("http://{spelling}/x")).url.host_str(), Some("127.0.0.1"), "{spelling}");
            assert_eq!(git(&format!("git://{spelling}/x")).0, "127.0.0.1 9418 /x", "{spelling}");
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for (text, why) in [
            ("", BadUrl::Scheme),
            ("README.md", BadUrl::Scheme),
            ("/etc/passwd", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Scheme),
            ("gopher://host/x", BadUrl::Scheme),
            ("ftp://host/x", BadUrl::Scheme),
            ("ssh://host/x.git", BadUrl::Scheme),
            ("git+ssh://host/x.git", BadUrl::Scheme),
            ("git@host:x.git", BadUrl::Scheme),
            ("ext::sh -c id", BadUrl::Syntax),
            ("ext::sh", BadUrl::Scheme),
            ("ext::x://host/y", BadUrl::Scheme),
            ("http:host/x", BadUrl::Scheme),
            ("http:///x", BadUrl::Host),
            ("http:////host/x", BadUrl::Host),
            ("http://", BadUrl::Host),
            ("http://?x", BadUrl::Host),
            ("http://:80/", BadUrl::Host),
            ("http://host:99999/", BadUrl::Host),
            ("http://host:x/", BadUrl::Host),
            ("http://ho%2Fst/", BadUrl::Host),
            ("http://host%2F@other/", BadUrl::Credentials),
            ("http://ho%00st/", BadUrl::Host),
            ("http://ho<st/", BadUrl::Host),
            ("http://999.1.1.1/", BadUrl::Host),
            ("http://1.2.3.4.5/", BadUrl::Host),
            ("http://[::1/", BadUrl::Host),
            ("http://[fe80::1%25eth0]/", BadUrl::Host),
            ("http://user@host/", BadUrl::Credentials),
            ("http://user:password@host/", BadUrl::Credentials),
            ("http://@host/", BadUrl::Credentials),
            ("http://host\\@other/", BadUrl::Syntax),
            ("http://ho\tst/", BadUrl::Syntax),
            ("http://host/a b", BadUrl::Syntax),
            ("http://host/a\r\nHost: x", BadUrl::Syntax),
            (" http://host/", BadUrl::Syntax),
            ("git://user@host/x", BadUrl::Credentials),
            ("git://host", BadUrl::Path),
            ("git://host/", BadUrl::Path),
            ("git://host/:branch", BadUrl::Path),
            ("git://host/x%00y", BadUrl::Path),
            ("git://host/x%0ay", BadUrl::Path),
            ("git://host/%ff", BadUrl::Path),
            ("git://host:/x", BadUrl::Host),
            ("git://host:99999/x", BadUrl::Host),
            ("git://host:+1/x", BadUrl::Host),
            ("git:///x", BadUrl::Host),
            ("git://-oProxyCommand=x%2F/x", BadUrl::Host),
        ] {
            assert_eq!(bad(text), why, "{text}");
        }
        assert_eq!(bad(&format!("http://host/{}", "x".repeat(LONGEST))), BadUrl::Length);
    }

    #[test]
    fn a_branch_has_a_name_that_git_would_take() {
        for name in ["main", "v1.2", "feature/x-y", "a@b", "\u{e4}"] {
            for url in ["git://host/x.git", "https://host/x.git"] {
                assert_eq!(git(&format!("{url}:{name}")).1.as_deref(), Some(name));
            }
        }
        for name in [
            "",
            "--upload-pack=id",
            "-x",
            "..",
            "a..b",
            ".a",
            "a/.b",
            "a//b",
            "/a",
            "a/",
            "a.",
            "a.lock",
            "a.lock/b",
            "a@{1}",
            "@",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
        ] {
            assert_eq!(bad(&format!("https://host/x.git:{name}")), BadUrl::Branch, "{name}");
        }
    }

    #[test]
    fn a_file_has_a_name_that_can_stand_in_a_directory() {
        for (url, name) in [
            ("http://host/a/README.md", "README.md"),
            ("http://host/a/b/", "b"),
            ("http://host", "index"),
            ("http://host///", "index"),
            ("http://host/a?x=/y", "a"),
            ("http://host/a%20b", "a b"),
            ("http://host/..%2F..%2Fetc%2Fpasswd", ".._.._etc_passwd"),
            ("http://host/a%00b%0a", "a_b_"),
            ("http://host/%5C", "_"),
            ("http://host/x/%2e%2e", "index"),
            ("http://host/%ff", "\u{fffd}"),
        ] {
            assert_eq!(file(url).name(), name, "{url}");
        }
        assert_eq!(file(&format!("http://host/{}", "\u{e4}".repeat(200))).name(), "\u{e4}".repeat(127));
    }

    #[test]
    fn a_redirect_stays_within_the_web_and_never_leaves_tls() {
        let from = |url: &str, to: &str| match redirected(&Url::parse(url).unwrap(), to) {
            Ok(url) => Ok(String::from(url)),
            Err(RemoteError::Refused(why)) => Err(why),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(from("http://a/b/c", "d#e"), Ok("http://a/b/d".into()));
        assert_eq!(from("http://a/b", "//c/d"), Ok("http://c/d".into()));
        assert_eq!(from("http://a/b", "https://c"), Ok("https://c/".into()));
        assert_eq!(from("https://a/b", "/c"), Ok("https://a/c".into()));
        assert_eq!(from("https://a/b", "http://a/b"), Err(Refusal::Downgrade));
        for to in [
            "file:///etc/passwd",
            "ftp://a/",
            "gopher://a/",
            "git://a/b",
            "data:,x",
            "http://u@a/",
            "http://u:p@a/",
            "http://a b/",
        ] {
            assert_eq!(from("http://a/b", to), Err(Refusal::Redirect), "{to}");
        }
    }

    #[test]
    fn a_query_is_not_shown() {
        let shown = format!("{:?}", file("https://host/a?token=secret"));
        assert_eq!(shown, "https://host/a");
    }
}
