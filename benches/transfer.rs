//! Whole transfers over loopback, through the real server: ingest (until durable) and egress (from the page cache).
//!
//! `cargo bench --bench transfer`, or `cargo bench --bench transfer -- ingest`; `BENCH_MIB` sets the size of
//! the image, 256 by default. The data directory lies in the build's target directory. Removing the drives is not
//! counted. The client costs as little as it can: one buffer, written or read over and over.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rand::Rng as _;

/// The server under test, ended when dropped.
struct Server {
    process: Child,
    address: String,
    authorization: String,
    data: PathBuf,
}

impl Server {
    fn start() -> Self {
        let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-transfer");
        let _ = fs::remove_dir_all(&data);
        let process = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .env("LONGSHORE_LIMITS__MIN_DRIVE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        let endpoint = loop {
            match fs::read_to_string(data.join("endpoint")) {
                Ok(endpoint) => break endpoint,
                Err(error) => assert!(Instant::now() < deadline, "the server does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let credentials = fs::read_to_string(data.join("admin.credentials")).expect("the credentials are there");
        Self {
            process,
            address: endpoint.trim().trim_start_matches("http://").to_owned(),
            authorization: base64::engine::general_purpose::STANDARD.encode(credentials.trim()),
            data,
        }
    }

    /// Sends a request whose body is `block`, repeated; returns the head and the body of the answer, read up to its
    /// length through `sink`.
    fn exchange(&self, method: &str, path: &str, fields: &str, block: &[u8], repeat: usize) -> (String, Vec<u8>) {
        let mut socket = TcpStream::connect(&self.address).expect("connect");
        let length = block.len() * repeat;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {}\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n{fields}\r\n",
            self.authorization,
        );
        socket.write_all(head.as_bytes()).expect("send the head");
        for _ in 0..repeat {
            socket.write_all(block).expect("send the body");
        }
        let mut answer = BufReader::new(socket);
        let head = read_head(&mut answer);
        let mut body = Vec::new();
        answer.read_to_end(&mut body).expect("receive the body");
        (head, body)
    }

    fn upload(&self, fields: &str, block: &[u8], repeat: usize) -> String {
        let (head, body) = self.exchange("POST", "/api/2.0/drives/upload/", fields, block, repeat);
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
        String::from_utf8(body).expect("a UUID").trim().to_owned()
    }

    fn delete(&self, id: &str) {
        let (head, _) = self.exchange("DELETE", &format!("/api/2.0/drives/{id}/"), "", &[], 0);
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    }

    /// Downloads a drive into one buffer; returns the number of bytes.
    fn download(&self, id: &str, buffer: &mut [u8]) -> u64 {
        let (head, _) = self.exchange("GET", &format!("/api/2.0/drives/{id}/download/"), "", &[], 0);
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a redirect");
        let mut socket = TcpStream::connect(&self.address).expect("connect");
        write!(socket, "GET {location} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").expect("send");
        let mut answer = BufReader::with_capacity(16 << 10, socket);
        let head = read_head(&mut answer);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut bytes = answer.buffer().len() as u64;
        let mut socket = answer.into_inner();
        loop {
            match socket.read(buffer).expect("receive") {
                0 => return bytes,
                read => bytes += read as u64,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn read_head(answer: &mut impl std::io::BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).expect("receive the head") > 0, "the server closed: {head}");
    }
    head
}

fn transfers(criterion: &mut Criterion) {
    let mib: usize = image_mib();
    let server = Server::start();
    let mut random = vec![0; 1 << 20];
    rand::rng().fill_bytes(&mut random);
    let zeros = vec![0; 1 << 20];

    let mut group = criterion.benchmark_group("ingest");
    group.throughput(Throughput::Bytes((mib as u64) << 20));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, fields, block) in [
        ("random", "", &random),
        ("zeros", "", &zeros),
        ("random, sha-256 wanted", "Want-Repr-Digest: sha-256=1\r\n", &random),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    let id = server.upload(fields, block, mib);
                    spent += start.elapsed();
                    server.delete(&id);
                }
                spent
            });
        });
    }
    group.finish();

    let id = server.upload("", &random, mib);
    let mut buffer = vec![0; 1 << 20];
    let mut group = criterion.benchmark_group("egress");
    group.throughput(Throughput::Bytes((mib as u64) << 20));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("page cache", |bencher| {
        bencher.iter(|| assert_eq!(server.download(&id, &mut buffer), (mib as u64) << 20));
    });
    group.finish();
}

fn image_mib() -> usize {
    std::env::var_os("BENCH_MIB").and_then(|mib| mib.to_str()?.parse().ok()).unwrap_or(256)
}

criterion_group!(benches, transfers);
criterion_main!(benches);
