//! The real git, serving a repository on this machine: `git daemon`, and `git http-backend` behind a minimal HTTP
//! server.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::noise;
use crate::harness::Scratch;

/// A folder of repositories that is served; it has one once [`Self::make`] was called.
pub(crate) struct Served {
    folder: Scratch,
    /// The ports: of `git daemon`, of HTTP, and of HTTP that hides the requested protocol version.
    pub(crate) daemon: u16,
    pub(crate) http: u16,
    pub(crate) old_http: u16,
}

impl Served {
    pub(crate) fn new() -> Self {
        let folder = Scratch::new();
        let root = folder.path().to_owned();
        let daemon = listen(move |stream| call_daemon(&root, stream));
        let [http, old_http] = [true, false].map(|second| {
            let root = folder.path().to_owned();
            listen(move |stream| call_backend(&root, stream, second))
        });
        Self { folder, daemon, http, old_http }
    }

    /// Makes an empty repository.
    pub(crate) fn init(&self, option: &str) -> PathBuf {
        let repository = self.folder.join("x.git");
        git(self.folder.path(), &["init", "--quiet", "--bare", "--initial-branch=main", option, "x.git"]);
        repository
    }

    /// Returns the working tree that was pushed.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Makes a repository with two commits, branches and tags, and with every type of entry that git can hold.
    pub(crate) fn make(&self) -> PathBuf {
        let repository = self.init("--object-format=sha1");
        let work = self.work();
        git(self.folder.path(), &["init", "--quiet", "--initial-branch=main", "work"]);
        let at = |name: &str| work.join(name);
        // Each version resembles the one before.
        let text = noise(60_000);
        for number in 0..20 {
            let changed = [&text[40_000..40_000 + number * 1000], &text[number * 1000..40_000]].concat();
            fs::write(at(&format!("like {number}")), changed).expect("a file");
        }
        fs::create_dir_all(at("sub/deeper")).expect("a directory");
        fs::write(at("sub/deeper/file"), "deep").expect("a file");
        commit(&work, "first");
        git(&work, &["branch", "old"]);
        git(&work, &["tag", "light"]);
        git(&work, &["tag", "--annotate", "--message=x", "v1"]);
        let blob = git(&work, &["rev-parse", "HEAD:sub/deeper/file"]);
        git(&work, &["tag", "blob", String::from_utf8(blob).expect("UTF-8").trim()]);

        fs::write(at("empty"), "").expect("a file");
        fs::write(at("run"), "#!/bin/sh\n").expect("a file");
        fs::set_permissions(at("run"), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(at("large"), [&noise(200_000)[100_000..], &[0; 10_000]].concat()).expect("a file");
        symlink("../../etc/passwd", at("sub/outside")).expect("a link");
        symlink("t".repeat(1000), at("long link")).expect("a link");
        let long = at(&format!("{}/{}", "l".repeat(200), "\u{f6}".repeat(100)));
        fs::create_dir_all(&long).expect("a directory");
        fs::write(long.join("n".repeat(255)), "1").expect("a file");
        fs::write(work.join(OsStr::from_bytes(b"not utf8 \xff\xfe")), "1").expect("a file");
        git(&work, &["update-index", "--add", "--cacheinfo", "160000,1111111111111111111111111111111111111111,module"]);
        fs::create_dir(at("module")).expect("a directory");
        commit(&work, "second");
        git(&work, &["branch", "feature/x"]);
        git(&work, &["push", "--quiet", "--mirror", repository.to_str().expect("UTF-8")]);
        git(&repository, &["repack", "--quiet", "-adf", "--depth=50", "--window=50"]);
        repository
    }

    /// Returns the index of the only pack.
    pub(crate) fn pack(repository: &Path) -> String {
        let names = fs::read_dir(repository.join("objects/pack"))
            .expect("a directory")
            .map(|entry| entry.expect("a directory").path());
        let mut indices = names.filter(|path| path.extension() == Some("idx".as_ref()));
        indices.next().expect("a pack").to_str().expect("UTF-8").to_owned()
    }

    pub(crate) fn git_url(&self, branch: &str) -> String {
        format!("git://127.0.0.1:{}/x.git{branch}", self.daemon)
    }

    pub(crate) fn http_url(&self, branch: &str) -> String {
        format!("http://127.0.0.1:{}/x.git{branch}", self.http)
    }

    pub(crate) fn old_http_url(&self, branch: &str) -> String {
        format!("http://127.0.0.1:{}/x.git{branch}", self.old_http)
    }
}

fn commit(work: &Path, message: &str) {
    git(work, &["add", "--all"]);
    git(work, &["commit", "--quiet", "--message", message]);
}

/// Runs git in a folder, without the configuration of the user who runs the tests; returns its output.
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = command().current_dir(folder).args(arguments).output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn command() -> Command {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/nonexistent");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@b");
        command.env(format!("GIT_{who}_DATE"), "1700000000 +0100");
    }
    command
}

/// Serves each connection on a thread; the threads end with the process.
fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("a socket").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.expect("a socket")));
        }
    });
    port
}

fn call_daemon(root: &Path, stream: TcpStream) {
    let mut daemon = command();
    daemon.args(["daemon", "--inetd", "--export-all", "--log-destination=none"]);
    daemon.arg(format!("--base-path={}", root.display()));
    daemon
        .stdin(Stdio::from(OwnedFd::from(stream.try_clone().expect("a socket"))))
        .stdout(Stdio::from(OwnedFd::from(stream)));
    daemon.status().expect("git daemon runs");
}

/// Passes one request to the backend by CGI (RFC 3875).
fn call_backend(root: &Path, stream: TcpStream, second: bool) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let field = |name: &str| {
        let values = head[1..].iter().filter_map(|line| line.split_once(": "));
        values.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let words: Vec<&str> = head[0].split(' ').collect();
    let (path, query) = words[1].split_once('?').unwrap_or((words[1], ""));
    let mut body = vec![0; field("content-length").map_or(0, |length| length.parse().expect("a body"))];
    reader.read_exact(&mut body).expect("a body");

    let mut backend = command();
    backend.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    backend.env("REQUEST_METHOD", words[0]).env("PATH_INFO", path).env("QUERY_STRING", query);
    backend
        .env("CONTENT_TYPE", field("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string());
    if let Some(protocol) = field("git-protocol").filter(|_| second) {
        backend.env("GIT_PROTOCOL", protocol);
    }
    let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git http-backend runs");
    child.stdin.take().expect("a pipe").write_all(&body).expect("a pipe");
    let output = child.wait_with_output().expect("an output").stdout;
    let split = output.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer");
    let fields = String::from_utf8(output[..split].to_vec()).expect("UTF-8");
    let body = &output[split + 4..];
    let status = fields.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let answer = format!("HTTP/1.1 {status}\r\n{fields}\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = stream;
    // A peer that has read enough closes early.
    let _ = stream.write_all(&[answer.as_bytes(), body].concat());
}
