//! ovirt-imageio, the daemon by which oVirt moves images over HTTP: a second peer, from the Python package index.
//!
//! An image is a file that a ticket names. Its PUT flushes unless told otherwise, and it reads and writes past the page
//! cache, so its downloads come from the disk however warm the file is.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::{Cost, Peer, free_address, metered, text};
use crate::client::{self, Client};
use crate::http::Target;
use crate::process::Process;

/// The daemon, over plain HTTP.
pub(crate) struct Imageio {
    process: Process,
    root: Target,
    control: Target,
    store: PathBuf,
    program: PathBuf,
    uploads: u32,
}

impl Imageio {
    /// Starts the daemon with its files in `dir`; `environment` holds its program, and is made if it is missing.
    pub(crate) fn start(dir: &Path, environment: &Path) -> Result<Self> {
        let program = environment.join("bin/ovirt-imageio");
        if !works(&program) {
            // Its programs name the place where they were made, so it breaks when that is moved.
            let _ = fs::remove_dir_all(environment);
            run(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
            run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "ovirt-imageio"]))?;
        }
        let store = dir.join("store");
        fs::create_dir_all(&store)?;
        fs::create_dir_all(dir.join("conf.d"))?;
        let (images, tickets) = (free_address()?, free_address()?);
        let port = |authority: &str| authority.rsplit(':').next().unwrap_or("0").to_owned();
        let config = format!(
            "[daemon]\nsystemd_enable = false\ndrop_privileges = false\nrun_dir = {}\n[tls]\nenable = false\n\
             [remote]\nhost = 127.0.0.1\nport = {}\n[local]\nenable = false\n\
             [control]\ntransport = tcp\nport = {}\n\
             [handlers]\nkeys = stderr\n[logger_root]\nhandlers = stderr\nlevel = WARNING\n",
            dir.display(),
            port(&images),
            port(&tickets),
        );
        fs::write(dir.join("conf.d/bench.conf"), config)?;
        let mut process = Process::start("ovirt-imageio", &program, &["--conf-dir", text(dir)?], &dir.join("log"))?;
        process.wait_for(|| TcpStream::connect(&tickets).and(TcpStream::connect(&images)).ok())?;
        let target = |authority| Target {
            authority,
            path: "/".to_owned(),
            credentials: None,
            certificate: None,
            // It never answers `100 Continue`, for which curl would wait a second.
            headers: vec!["Expect:".to_owned()],
        };
        Ok(Self { process, root: target(images), control: target(tickets), store, program, uploads: 0 })
    }

    /// The version that was installed.
    pub(crate) fn version(&self) -> String {
        let python = self.program.with_file_name("python");
        let asked = "import importlib.metadata as m; print(m.version('ovirt-imageio'), end='')";
        let output = Command::new(python).args(["-c", asked]).output();
        output.map_or_else(|_| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The ticket that names a file, which has to be there.
    fn admit(&self, key: &str, size: u64) -> Result<()> {
        let path = self.file(key);
        File::create(&path)?.set_len(size)?;
        let url = format!("file://{}", path.display());
        let ticket = serde_json::json!({
            "uuid": key, "size": size, "url": url, "timeout": 3600, "ops": ["read", "write"], "sparse": true,
        });
        client::put(&self.control.at(format!("/tickets/{key}")), &ticket.to_string())
    }
}

impl Peer for Imageio {
    fn name(&self) -> &'static str {
        "ovirt-imageio"
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        self.uploads += 1;
        let key = format!("image-{}", self.uploads);
        self.admit(&key, fs::metadata(image)?.len())?;
        let target = self.root.at(format!("/images/{key}?flush=y"));
        let ((), cost) = metered(self.pid(), || client.send("PUT", &target, image).map(drop))?;
        Ok((key, cost))
    }

    fn place(&self, key: &str) -> Target {
        self.root.at(format!("/images/{key}"))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.store.join(key)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        client::delete(&self.control.at(format!("/tickets/{key}")))?;
        Ok(fs::remove_file(self.file(key))?)
    }
}

/// Whether the program can be run, with all that it imports.
fn works(program: &Path) -> bool {
    Command::new(program).arg("--help").output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
