//! The servers under comparison, behind one trait: each takes an image, and gives it back.

mod floor;
mod imageio;
mod longshore;
mod nginx;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::client::{self, Client};
use crate::http::Target;
use crate::process;

pub(crate) use self::floor::{Floor, receive_and_discard};
pub(crate) use self::imageio::Imageio;
pub(crate) use self::longshore::{Longshore, UPLOAD, key_of};
pub(crate) use self::nginx::{Nginx, version as nginx_version};

/// What one transfer cost.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// From the client's start to its end; for an upload, until the bytes are durable.
    pub(crate) wall: Duration,
    /// CPU time of the server, and of whoever made the bytes durable.
    pub(crate) cpu: Duration,
}

/// A server that keeps images.
pub(crate) trait Peer {
    /// As the table names it.
    fn name(&self) -> &'static str;
    /// The process that does the work.
    fn pid(&self) -> u32;
    /// Stores an image durably, and names what it made.
    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)>;
    /// Where a stored image is fetched, and as whom.
    fn place(&self, key: &str) -> Target;
    /// The file that holds a stored image.
    fn file(&self, key: &str) -> PathBuf;
    /// Removes a stored image.
    fn remove(&mut self, key: &str) -> Result<()>;

    /// Fetches a stored image and throws it away.
    fn download(&self, client: Client, key: &str, size: u64) -> Result<Cost> {
        let target = self.place(key);
        metered(self.pid(), || client.fetch(&target, size)).map(|((), cost)| cost)
    }

    /// Fetches a stored image and compares it.
    fn compare(&self, key: &str, image: &Path) -> Result<()> {
        client::fetch_and_compare(&self.place(key), image).with_context(|| format!("from {}", self.name()))
    }

    /// Drops a stored image from the page cache.
    fn chill(&self, key: &str) -> Result<()> {
        let file = File::open(self.file(key))?;
        // Dirty pages stay in the cache whatever is advised.
        file.sync_all()?;
        Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

/// A certificate for 127.0.0.1 that signs itself, and its key.
pub(crate) struct Certificate {
    /// The certificate, PEM.
    pub(crate) certificate: PathBuf,
    /// The private key, PEM.
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Has openssl make one in `dir`; ECDSA on P-256, as certificates of today are.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { certificate, key })
    }
}

/// What `work` costs in wall time, and the process `pid` in CPU time.
pub(crate) fn metered<T>(pid: u32, work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let (start, cpu) = (Instant::now(), process::cpu_of(pid)?);
    let it = work()?;
    Ok((it, Cost { wall: start.elapsed(), cpu: process::cpu_of(pid)?.saturating_sub(cpu) }))
}

/// Makes a file and its folder durable, as a client of a server that does not flush has to.
pub(crate) fn flush(file: &Path) -> Result<Cost> {
    let (start, cpu) = (Instant::now(), process::own_cpu()?);
    File::open(file)?.sync_all()?;
    File::open(file.parent().context("a file without a folder")?)?.sync_all()?;
    Ok(Cost { wall: start.elapsed(), cpu: process::own_cpu()?.saturating_sub(cpu) })
}

/// An address that nobody listens on now.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
