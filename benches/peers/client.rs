//! The clients that move whole images: curl, which is what people use, and one that costs so little that the server is
//! what is measured.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::http::{Connection, TIMEOUT, Target};

/// Which program moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Client {
    /// The curl of this machine, over HTTP/1.1.
    Curl,
    /// The same over HTTP/2.
    #[value(skip)]
    CurlHttp2,
    /// sendfile(2) up; received and thrown away inside the kernel down.
    Fast,
}

impl Client {
    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::CurlHttp2 => "curl, HTTP/2",
            Self::Fast => "fast",
        }
    }

    /// Sends a file as a request's body; returns the body of the answer.
    pub(crate) fn send(self, method: &str, target: &Target, image: &Path) -> Result<String> {
        if self == Self::Fast {
            let image = File::open(image)?;
            let size = image.metadata()?.len();
            return Connection::open(target)?.upload(method, &target.path, &image, 0..size);
        }
        let mut curl = self.curl(target);
        curl.args(["--request", method, "--header", "Content-Type: application/octet-stream"]);
        finish(curl.arg("--upload-file").arg(image))
    }

    /// Fetches `size` bytes and throws them away, following a redirect.
    pub(crate) fn fetch(self, target: &Target, size: u64) -> Result<()> {
        if self == Self::Fast {
            return Connection::open(target)?.download(&target.path, None, size);
        }
        let mut curl = self.curl(target);
        curl.args(["--location", "--output", "/dev/null", "--write-out", "%{size_download} %{http_version}"]);
        let got = finish(&mut curl)?;
        let version = if self == Self::CurlHttp2 { "2" } else { "1.1" };
        ensure!(got == format!("{size} {version}"), "curl got {got} instead of {size} bytes over HTTP/{version}");
        Ok(())
    }

    fn curl(self, target: &Target) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time"]).arg(TIMEOUT.as_secs().to_string());
        curl.arg(if self == Self::CurlHttp2 { "--http2" } else { "--http1.1" });
        if let Some(credentials) = &target.credentials {
            curl.args(["--user", credentials]);
        }
        for header in &target.headers {
            curl.args(["--header", header]);
        }
        let scheme = if let Some(certificate) = &target.certificate {
            // What both servers would take, lest one of them ever chooses another.
            curl.args(["--tlsv1.3", "--tls13-ciphers", "TLS_AES_256_GCM_SHA384", "--cacert"]).arg(certificate);
            "https"
        } else {
            "http"
        };
        curl.arg(format!("{scheme}://{}{}", target.authority, target.path));
        curl
    }
}

/// Fetches and compares with a file, byte by byte: no number counts unless the bytes are right.
pub(crate) fn fetch_and_compare(target: &Target, image: &Path) -> Result<()> {
    let mut child = Client::Curl.curl(target).arg("--location").stdout(Stdio::piped()).spawn()?;
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
pub(crate) fn delete(target: &Target) -> Result<()> {
    finish(Client::Curl.curl(target).args(["--request", "DELETE"])).map(drop)
}

/// Puts a short text.
pub(crate) fn put(target: &Target, text: &str) -> Result<()> {
    finish(Client::Curl.curl(target).args(["--request", "PUT", "--data-binary", text])).map(drop)
}

fn finish(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}
