//! The curl of this machine: most people's client, so the client of most tests.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Response, Scratch};

/// Ends a curl that hangs.
const MAX_TIME: &str = "120";

/// One curl, yet to be run.
pub(crate) struct Curl {
    command: Command,
    dir: Scratch,
    output: Option<PathBuf>,
    input: Stdio,
}

impl Curl {
    /// A GET of this URL.
    pub(crate) fn new(url: &str) -> Self {
        let mut command = Command::new("curl");
        // No proxy and no configuration file of whoever runs the tests.
        command.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", MAX_TIME, url]);
        Self { command, dir: Scratch::new(), output: None, input: Stdio::null() }
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Another method.
    pub(crate) fn method(self, method: &str) -> Self {
        self.arg("--request").arg(method)
    }

    /// Basic authentication by `user:password`.
    pub(crate) fn user(self, credentials: &str) -> Self {
        self.arg("--user").arg(credentials)
    }

    /// One field of the request.
    pub(crate) fn header(self, header: &str) -> Self {
        self.arg("--header").arg(header)
    }

    /// A file as the body, of the type that drives have.
    pub(crate) fn upload(self, method: &str, image: &Path) -> Self {
        self.method(method).header("Content-Type: application/octet-stream").arg("--upload-file").arg(image)
    }

    /// A file through curl's standard input as the body, chunked since curl cannot know how long it is.
    pub(crate) fn upload_stream(mut self, method: &str, image: &Path) -> Self {
        self.input = File::open(image).expect("the image is there").into();
        self.upload(method, Path::new("-"))
    }

    /// A JSON body.
    pub(crate) fn json(self, method: &str, body: &serde_json::Value) -> Self {
        self.method(method).header("Content-Type: application/json").arg("--data-binary").arg(body.to_string())
    }

    /// The body goes to this file.
    pub(crate) fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Runs it; fails the test when curl itself fails.
    #[track_caller]
    pub(crate) fn run(self) -> Response {
        let (output, response) = self.try_run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        response
    }

    /// Runs it; returns what curl said, and the answer as far as it came.
    pub(crate) fn try_run(mut self) -> (Output, Response) {
        let (heads, body) = (self.dir.join("heads"), self.dir.join("body"));
        self.command.arg("--dump-header").arg(&heads);
        self.command.arg("--output").arg(self.output.as_ref().unwrap_or(&body));
        let output = self.command.stdin(self.input).output().expect("curl runs");
        let heads = fs::read(&heads).unwrap_or_default();
        let heads = String::from_utf8_lossy(&heads);
        // One head for each answer: interim ones, redirects, the last.
        let last = heads.split("\r\n\r\n").filter(|head| !head.trim().is_empty()).last().unwrap_or("");
        let mut response = Response::parse_head(last);
        if self.output.is_none() {
            response.body = fs::read(&body).unwrap_or_default();
        }
        (output, response)
    }
}
