//! The least that any receiver must do: copy from the socket into one buffer, again and again. It keeps nothing.
//!
//! It is this program, started again, so that its CPU time is told apart from the clients'.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Cost, Peer, metered};
use crate::client::Client;
use crate::http::Target;
use crate::process::Process;

/// Larger or smaller, from 128 KiB up, the buffer made no difference.
const BUFFER: usize = 1 << 20;

/// The receiver, in a process of its own.
pub(crate) struct Floor {
    process: Process,
    root: Target,
}

impl Floor {
    /// Starts it; its log is in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let log = dir.join("log");
        let mut process = Process::start("floor", &std::env::current_exe()?, &["--floor-server"], &log)?;
        let authority = process.wait_for(|| {
            let said = fs::read_to_string(&log).ok()?;
            Some(said.strip_suffix('\n')?.to_owned())
        })?;
        let root =
            Target { authority, path: "/".to_owned(), credentials: None, certificate: None, headers: Vec::new() };
        Ok(Self { process, root })
    }
}

impl Peer for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn upload(&mut self, client: Client, image: &Path) -> Result<(String, Cost)> {
        let ((), cost) = metered(self.pid(), || client.send("PUT", &self.root, image).map(drop))?;
        Ok((String::new(), cost))
    }

    fn place(&self, _key: &str) -> Target {
        self.root.clone()
    }

    fn file(&self, _key: &str) -> PathBuf {
        PathBuf::new()
    }

    fn remove(&mut self, _key: &str) -> Result<()> {
        Ok(())
    }
}

/// The child's whole life: says its address, and serves one connection after the other.
pub(crate) fn receive_and_discard() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let mut buffer = vec![0; BUFFER];
    for stream in listener.incoming() {
        if let Err(error) = serve(&stream?, &mut buffer) {
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

fn serve(mut stream: &TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    let end = loop {
        let got = stream.read(&mut buffer[filled..])?;
        if got == 0 {
            bail!("the connection ended within a head");
        }
        filled += got;
        if let Some(at) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no Content-Length")?;
    let length: usize = length.trim().parse()?;
    if head.contains("\r\nexpect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut left = length.saturating_sub(filled - end);
    while left > 0 {
        let most = buffer.len().min(left);
        let got = stream.read(&mut buffer[..most])?;
        if got == 0 {
            bail!("the connection ended {left} bytes early");
        }
        left -= got;
    }
    Ok(stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?)
}
