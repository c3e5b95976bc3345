//! The curl of this machine: the most common client, and so that of most tests.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Response, Scratch};

/// The limit that ends a hanging curl.
const MAX_TIME: &str = "120";

/// A curl to run.
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
        // Without the proxy and the configuration file of the user who runs the tests.
        command.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", MAX_TIME, url]);
        Self { command, dir: Scratch::new(), output: None, input: Stdio::null() }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Sets another method.
    pub(crate) fn method(self, method: &str) -> Self {
        self.arg("--request").arg(method)
    }

    /// Sets Basic authentication by `user:password`.
    pub(crate) fn user(self, credentials: &str) -> Self {
        self.arg("--user").arg(credentials)
    }

    /// Adds a field to the request.
    pub(crate) fn header(self, header: &str) -> Self {
        self.arg("--header").arg(header)
    }

    /// Sends a file as the body, with the content type of drives.
    pub(crate) fn upload(self, method: &str, image: &Path) -> Self {
        self.method(method).header("Content-Type: application/octet-stream").arg("--upload-file").arg(image)
    }

    /// Sends a file through curl's standard input as the body, which is chunked since curl does not know the length.
    pub(crate) fn upload_stream(mut self, method: &str, image: &Path) -> Self {
        self.input = File::open(image).expect("the image is there").into();
        self.upload(method, Path::new("-"))
    }

    /// Sends a JSON body.
    pub(crate) fn json(self, method: &str, body: &serde_json::Value) -> Self {
        self.method(method).header("Content-Type: application/json").arg("--data-binary").arg(body.to_string())
    }

    /// Writes the answer's body to this file.
    pub(crate) fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Runs it; fails the test if curl itself fails.
    #[track_caller]
    pub(crate) fn run(self) -> Response {
        let (output, response) = self.try_run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        response
    }

    /// Runs it; returns curl's output, and as much of the answer as was received.
    pub(crate) fn try_run(mut self) -> (Output, Response) {
        let (heads, body) = (self.dir.join("heads"), self.dir.join("body"));
        self.command.arg("--dump-header").arg(&heads);
        self.command.arg("--output").arg(self.output.as_ref().unwrap_or(&body));
        let output = self.command.stdin(self.input).output().expect("curl runs");
        let heads = fs::read(&heads).unwrap_or_default();
        let heads = String::from_utf8_lossy(&heads);
        // There is one head for each answer: interim ones, redirects, the last.
        let last = heads.split("\r\n\r\n").filter(|head| !head.trim().is_empty()).last().unwrap_or("");
        let mut response = Response::parse_head(last);
        if self.output.is_none() {
            response.body = fs::read(&body).unwrap_or_default();
        }
        (output, response)
    }
}
