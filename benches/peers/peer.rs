//! The two servers under comparison, behind one trait: each takes an image, and gives it back.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::client::{self, Client, Target};
use crate::process::{self, Process};

/// What one transfer cost.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// From the client's start to its end; for an upload, until the bytes are durable.
    pub(crate) wall: Duration,
    /// CPU time of the server, and of whoever made the bytes durable.
    pub(crate) cpu: Duration,
}

/// A server that keeps images.
pub(crate) trait Peer {
    /// The process that does the work.
    fn pid(&self) -> u32;
    /// Stores an image durably, and names what it made.
    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)>;
    /// Where a stored image is fetched.
    fn path_of(&self, key: &str) -> String;
    /// The address and the credentials.
    fn access(&self) -> (&str, Option<&str>);
    /// Removes a stored image.
    fn remove(&self, key: &str) -> Result<()>;
    /// The folder that holds its files.
    fn files(&self) -> &Path;

    /// Fetches a stored image and throws it away.
    fn download(&self, client: Client, key: &str, size: u64) -> Result<Cost> {
        let path = self.path_of(key);
        let (authority, credentials) = self.access();
        let target = Target { authority, path: &path, credentials };
        metered(self.pid(), || client.fetch(&target, size)).map(|((), cost)| cost)
    }

    /// Fetches a stored image and compares it.
    fn compare(&self, key: &str, image: &Path) -> Result<()> {
        let path = self.path_of(key);
        let (authority, credentials) = self.access();
        client::fetch_and_compare(&Target { authority, path: &path, credentials }, image)
    }

    /// Drops its files from the page cache.
    fn chill(&self) -> Result<()> {
        chill(self.files())
    }
}

/// nginx, tuned: the peer to beat.
pub(crate) struct Nginx {
    // Dropped first: the folder goes after it.
    _master: Process,
    worker: u32,
    authority: String,
    store: PathBuf,
    uploads: u32,
}

impl Nginx {
    /// Starts nginx with its files in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"].map(Path::new);
        let program = program.into_iter().find(|path| path.exists());
        let program = program.context("nginx is not installed: apt-get install --yes nginx-light")?;
        let store = dir.join("store");
        fs::create_dir_all(&store)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let authority = listener.local_addr()?.to_string();
        drop(listener);
        let config = dir.join("nginx.conf");
        fs::write(&config, Self::config(dir, &store, &authority))?;
        let (dir, config, errors) = (text(dir)?, text(&config)?, dir.join("errors"));
        let args = ["-p", dir, "-c", config, "-e", text(&errors)?];
        let mut master = Process::start("nginx", program, &args, &Path::new(dir).join("log"))?;
        let pid = master.pid();
        let worker = master.wait_for(|| {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let worker = children.split_whitespace().next()?.parse().ok()?;
            TcpStream::connect(&authority).ok().map(|_| worker)
        })?;
        Ok(Self { _master: master, worker, authority, store, uploads: 0 })
    }

    /// One worker, no access log, and a body buffer of 1 MiB: with its default of 16 KiB nginx takes 1.7 times the CPU
    /// for an upload. The body's temporary file is on the file system of the store, so that it is renamed, not copied.
    fn config(dir: &Path, store: &Path, authority: &str) -> String {
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let (dir, store) = (dir.display(), store.display());
        format!(
            r#"daemon off;
{user}
worker_processes 1;
pid "{dir}/pid";
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path "{dir}/body";
    proxy_temp_path "{dir}/proxy";
    fastcgi_temp_path "{dir}/fastcgi";
    uwsgi_temp_path "{dir}/uwsgi";
    scgi_temp_path "{dir}/scgi";
    server {{
        listen {authority};
        root "{store}";
        location / {{ dav_methods PUT DELETE; }}
    }}
}}
"#
        )
    }
}

impl Peer for Nginx {
    fn pid(&self) -> u32 {
        self.worker
    }

    /// nginx never flushes what it stores, so the flush is made here and counted as its own.
    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        self.uploads += 1;
        let key = format!("{}.img", self.uploads);
        let path = self.path_of(&key);
        let target = Target { authority: &self.authority, path: &path, credentials: None };
        let (_, sent) = metered(self.worker, || client.send("PUT", &target, image))?;
        let (start, cpu) = (Instant::now(), process::own_cpu()?);
        File::open(self.store.join(&key))?.sync_all()?;
        File::open(&self.store)?.sync_all()?;
        let flushed = Cost { wall: start.elapsed(), cpu: process::own_cpu()?.saturating_sub(cpu) };
        Ok((key, Cost { wall: sent.wall + flushed.wall, cpu: sent.cpu + flushed.cpu }))
    }

    fn path_of(&self, key: &str) -> String {
        format!("/{key}")
    }

    fn access(&self) -> (&str, Option<&str>) {
        (&self.authority, None)
    }

    fn remove(&self, key: &str) -> Result<()> {
        client::delete(&Target { authority: &self.authority, path: &self.path_of(key), credentials: None })
    }

    fn files(&self) -> &Path {
        &self.store
    }
}

/// Longshore as it comes: no configuration but where its data is.
pub(crate) struct Longshore {
    process: Process,
    authority: String,
    credentials: String,
    data: PathBuf,
}

impl Longshore {
    /// Starts the server of this build with its files in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let data = dir.join("data");
        let args = ["serve", "--data-dir", text(&data)?, "--listen", "127.0.0.1:0"];
        let program = Path::new(env!("CARGO_BIN_EXE_longshore"));
        let mut process = Process::start("longshore", program, &args, &dir.join("log"))?;
        let endpoint = process.wait_for(|| fs::read_to_string(data.join("endpoint")).ok())?;
        let authority = endpoint.trim().strip_prefix("http://").context("the endpoint is not http")?.to_owned();
        let credentials = fs::read_to_string(data.join("admin.credentials"))?.trim().to_owned();
        Ok(Self { process, authority, credentials, data })
    }
}

impl Peer for Longshore {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        let path = "/api/2.0/drives/upload/";
        let target = Target { authority: &self.authority, path, credentials: Some(&self.credentials) };
        let (answer, cost) = metered(self.pid(), || client.send("POST", &target, image))?;
        let key = answer.trim().to_owned();
        ensure!(key.len() == 36, "an upload was answered with {answer:?} instead of a UUID");
        Ok((key, cost))
    }

    fn path_of(&self, key: &str) -> String {
        format!("/api/2.0/drives/{key}/download/")
    }

    fn access(&self) -> (&str, Option<&str>) {
        (&self.authority, Some(&self.credentials))
    }

    fn remove(&self, key: &str) -> Result<()> {
        let path = format!("/api/2.0/drives/{key}/");
        client::delete(&Target { authority: &self.authority, path: &path, credentials: Some(&self.credentials) })
    }

    fn files(&self) -> &Path {
        &self.data
    }
}

fn metered<T>(pid: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let (start, cpu) = (Instant::now(), process::cpu_of(pid)?);
    let it = work()?;
    Ok((it, Cost { wall: start.elapsed(), cpu: process::cpu_of(pid)?.saturating_sub(cpu) }))
}

fn chill(path: &Path) -> Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| chill(&entry?.path()));
    }
    let file = File::open(path)?;
    // Dirty pages stay in the cache whatever is advised.
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// The version that nginx reports, for the table's head.
pub(crate) fn nginx_version() -> Result<String> {
    let output = Command::new("/usr/sbin/nginx").arg("-v").output()?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}
