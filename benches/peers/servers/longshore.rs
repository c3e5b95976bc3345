//! Longshore as it comes: no configuration but where its data is, and a certificate where TLS is compared.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{Certificate, Cost, Peer, metered, text};
use crate::client::{self, Client};
use crate::http::Target;
use crate::process::{self, Process};

/// Where images are uploaded.
pub(crate) const UPLOAD: &str = "/api/2.0/drives/upload/";

/// The server of this build.
pub(crate) struct Longshore {
    process: Process,
    root: Target,
    data: PathBuf,
    idle_memory: u64,
}

impl Longshore {
    /// Starts the server with its files in `dir`.
    pub(crate) fn start(dir: &Path, certificate: Option<&Certificate>) -> Result<Self> {
        Self::begin(dir, certificate).with_context(|| {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            format!("longshore said: {log}")
        })
    }

    fn begin(dir: &Path, certificate: Option<&Certificate>) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let data = dir.join("data");
        let config = dir.join("longshore.toml");
        let mut args = vec!["serve", "--data-dir", text(&data)?, "--listen", "127.0.0.1:0"];
        if let Some(Certificate { certificate, key }) = certificate {
            fs::write(&config, format!("[tls]\ncertificate = '{}'\nkey = '{}'\n", text(certificate)?, text(key)?))?;
            args.extend(["--config", text(&config)?]);
        }
        let program = Path::new(env!("CARGO_BIN_EXE_longshore"));
        let mut process = Process::start("longshore", program, &args, &dir.join("log"))?;
        let endpoint = process.wait_for(|| fs::read_to_string(data.join("endpoint")).ok())?;
        let (_, authority) = endpoint.trim().split_once("://").context("the endpoint is not a URL")?;
        let root = Target {
            authority: authority.to_owned(),
            path: "/".to_owned(),
            credentials: Some(fs::read_to_string(data.join("admin.credentials"))?.trim().to_owned()),
            certificate: certificate.map(|made| made.certificate.clone()),
            headers: Vec::new(),
        };
        let idle_memory = process::memory(process.pid())?;
        Ok(Self { process, root, data, idle_memory })
    }

    /// What it held in memory before its first request, in bytes.
    pub(crate) fn idle_memory(&self) -> u64 {
        self.idle_memory
    }

    /// The server with its login, and where images are uploaded.
    pub(crate) fn inlet(&self) -> Target {
        self.root.at(UPLOAD)
    }

    /// The server with its login.
    pub(crate) fn root(&self) -> &Target {
        &self.root
    }

    /// The path of a drive's description.
    pub(crate) fn path(key: &str) -> String {
        format!("/api/2.0/drives/{key}/")
    }

    /// The path that redirects to a drive's bytes.
    pub(crate) fn download_path(key: &str) -> String {
        format!("/api/2.0/drives/{key}/download/")
    }

    /// An upload with header lines of its own.
    pub(crate) fn upload_with(&self, client: Client, image: &Path, header: Option<&str>) -> Result<(String, Cost)> {
        let mut target = self.inlet();
        target.headers.extend(header.map(str::to_owned));
        let (answer, cost) = metered(self.pid(), || client.send("POST", &target, image))?;
        Ok((key_of(&answer)?, cost))
    }
}

/// The UUID that answers an upload.
pub(crate) fn key_of(answer: &str) -> Result<String> {
    let key = answer.trim();
    ensure!(key.len() == 36, "an upload was answered with {answer:?} instead of a UUID");
    Ok(key.to_owned())
}

impl Peer for Longshore {
    fn name(&self) -> &'static str {
        "longshore"
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        self.upload_with(client, image, None)
    }

    fn place(&self, key: &str) -> Target {
        self.root.at(Self::download_path(key))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.data.join("drives").join(key).join("image")
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        client::delete(&self.root.at(Self::path(key)))
    }
}
