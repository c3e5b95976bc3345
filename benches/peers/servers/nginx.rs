//! nginx, tuned: the peer to beat.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Certificate, Cost, Peer, flush, free_address, metered, text};
use crate::client::{self, Client};
use crate::http::Target;
use crate::process::Process;

/// One nginx with one worker.
pub(crate) struct Nginx {
    // Dropped first: the folder goes after it.
    _master: Process,
    worker: u32,
    root: Target,
    store: PathBuf,
    uploads: u32,
}

impl Nginx {
    /// Starts nginx with its files in `dir`; with a certificate it speaks TLS 1.3 only.
    pub(crate) fn start(dir: &Path, certificate: Option<&Certificate>) -> Result<Self> {
        let store = dir.join("store");
        fs::create_dir_all(&store)?;
        let authority = free_address()?;
        let config = dir.join("nginx.conf");
        fs::write(&config, Self::config(dir, &store, &authority, certificate))?;
        let (dir, config, errors) = (text(dir)?, text(&config)?, dir.join("errors"));
        let args = ["-p", dir, "-c", config, "-e", text(&errors)?];
        let mut master = Process::start("nginx", program()?, &args, &Path::new(dir).join("log"))?;
        let pid = master.pid();
        let worker = master.wait_for(|| {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let worker = children.split_whitespace().next()?.parse().ok()?;
            TcpStream::connect(&authority).ok().map(|_| worker)
        })?;
        let certificate = certificate.map(|made| made.certificate.clone());
        let root = Target { authority, path: "/".to_owned(), credentials: None, certificate, headers: Vec::new() };
        Ok(Self { _master: master, worker, root, store, uploads: 0 })
    }

    /// A name that is not taken.
    pub(crate) fn next_key(&mut self) -> String {
        self.uploads += 1;
        format!("{}.img", self.uploads)
    }

    /// One worker, no access log, and a body buffer of 1 MiB: with its default of 16 KiB nginx takes 1.7 times the CPU
    /// for an upload. The body's temporary file is on the file system of the store, so that it is renamed, not copied.
    fn config(dir: &Path, store: &Path, authority: &str, certificate: Option<&Certificate>) -> String {
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let (dir, store) = (dir.display(), store.display());
        let (secure, tls) = match certificate {
            None => ("", String::new()),
            Some(Certificate { certificate, key }) => (
                "ssl http2",
                format!(
                    "ssl_protocols TLSv1.3;\n        ssl_certificate \"{}\";\n        ssl_certificate_key \"{}\";",
                    certificate.display(),
                    key.display()
                ),
            ),
        };
        format!(
            r#"daemon off;
{user}
worker_processes 1;
pid "{dir}/pid";
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path "{dir}/body";
    proxy_temp_path "{dir}/proxy";
    fastcgi_temp_path "{dir}/fastcgi";
    uwsgi_temp_path "{dir}/uwsgi";
    scgi_temp_path "{dir}/scgi";
    server {{
        listen {authority} {secure};
        {tls}
        root "{store}";
        location / {{ dav_methods PUT DELETE; }}
    }}
}}
"#
        )
    }
}

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn pid(&self) -> u32 {
        self.worker
    }

    /// nginx never flushes what it stores, so the flush is made here and counted as its own.
    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        let key = self.next_key();
        let target = self.place(&key);
        let (_, sent) = metered(self.worker, || client.send("PUT", &target, image))?;
        let flushed = flush(&self.file(&key))?;
        Ok((key, Cost { wall: sent.wall + flushed.wall, cpu: sent.cpu + flushed.cpu }))
    }

    fn place(&self, key: &str) -> Target {
        self.root.at(format!("/{key}"))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.store.join(key)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        client::delete(&self.place(key))
    }
}

fn program() -> Result<&'static Path> {
    let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    let found = places.into_iter().map(Path::new).find(|path| path.exists());
    found.context("nginx is not installed: apt-get install --yes nginx-extras")
}

/// The version that nginx reports, for the table's head.
pub(crate) fn version() -> Result<String> {
    let output = Command::new(program()?).arg("-v").output()?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}
