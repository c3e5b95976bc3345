//! Limits of the memory that clients can make the server use, and stalled peers that do not take it from others.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::http2::Http2;
use crate::harness::peer;
use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::{Cloud, Server, Setup, image, machine};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";
const GIB: u64 = 1 << 30;
const BUDGET: u64 = 32;

/// Chunked, so that its length is unknown; zeros, so that no disk is needed.
#[test]
fn a_stream_of_4_gib_takes_less_than_64_mib_of_memory() {
    let server = Server::start();
    let mut zeros = Command::new("head").args(["-c", "4G", "/dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--fail", "--max-time", "120"]);
    curl.args(["--user", &server.credentials(), "--header", OCTETS, "--upload-file", "-"]);
    curl.arg(format!("{}{UPLOAD}", server.endpoint())).stdin(zeros.stdout.take().unwrap());
    let output = curl.output().unwrap();
    zeros.wait().unwrap();
    assert!(output.status.success(), "{output:?}");
    let peak = machine::peak_memory(server.pid());
    println!("peak: {} MiB", peak >> 20);
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    let uuid = String::from_utf8(output.stdout).unwrap();
    assert_eq!(server.drive(uuid.trim())["size"], serde_json::json!(4 * GIB));
}

/// Runs 150 peers that stall, and 50 that do not, on this server.
fn crowd(server: &Server) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 9_000_000, 121);
    let curl = |path: &str| peer::trusting(server.curl(path));
    let uuid = uuid_of(&curl(UPLOAD).upload("POST", &disk).run());
    let path = curl(&format!("/api/2.0/drives/{uuid}/download/")).run().field("location").to_owned();
    let is_tls = server.endpoint().starts_with("https");
    let authorization = basic(&server.credentials());
    let upload =
        format!("POST {UPLOAD} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{OCTETS}\r\nContent-Length: 9000000\r\n\r\n");
    let download = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let part = image::bytes(122, 1_500_000);
    // Held until the others are done.
    let mut stalled: Vec<Box<dyn Stalled>> = Vec::new();
    for n in 0..150 {
        let socket = peer::narrow(peer::authority(server));
        let mut stream: Box<dyn Stalled> =
            if is_tls { Box::new(peer::tls(socket, "http/1.1")) } else { Box::new(socket) };
        if n % 3 == 0 {
            stream.write_all(upload.as_bytes()).expect("the server takes the request");
            stream.write_all(&part).expect("the server takes the bytes");
        } else {
            stream.write_all(download.as_bytes()).expect("the server takes the request");
            assert_eq!(peer::read_head(&mut stream).status, 200);
        }
        stalled.push(stream);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let (next, disk, path) = (&next, &disk, &path);
            scope.spawn(move || {
                let back = server.scratch().join(format!("back-{thread}.img"));
                let version = if thread % 2 == 0 { "--http1.1" } else { "--http2" };
                while next.fetch_add(1, Ordering::Relaxed) < 50 {
                    uuid_of(&curl(UPLOAD).arg(version).upload("POST", disk).run());
                    let download = peer::trusting(server.anonymous_curl(path)).arg(version).output(&back).run();
                    assert_eq!(download.status, 200);
                    image::assert_same(disk, &back);
                }
            });
        }
    });
    let running = curl("/metrics").run().text();
    let running: f64 = running
        .lines()
        .filter_map(|line| line.strip_prefix("longshore_transfers_running{")?.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(running >= 150.0, "{running} are left of those that stall");
    let peak = machine::peak_memory(server.pid());
    println!("peak: {} MiB, tls: {is_tls}", peak >> 20);
    assert!(peak < (BUDGET + 100) << 20, "{} MiB", peak >> 20);
}

/// Each digest takes 19 MiB for some milliseconds.
#[test]
fn the_memory_of_password_digests_is_given_back() {
    let server = Server::start();
    let logins: Vec<_> = (0..6).map(|n| server.add_user(&format!("user{n}"))).collect();
    std::thread::scope(|scope| {
        for login in &logins {
            scope.spawn(|| {
                let listing = server.anonymous_curl("/api/2.0/drives/").user(login).run();
                assert_eq!(listing.status, 200);
            });
        }
    });
    crate::harness::wait_for("the memory to be given back", || {
        (machine::taken_memory(server.pid()) < 32 << 20).then_some(())
    });
}

/// Creates 20 drives at a time, each with this label.
fn make_drives(server: &Server, times: usize, label: &str) {
    let body = server.scratch().join("drives.json");
    let drive = |n| serde_json::json!({"name": format!("d{n}"), "size": 70_000, "media": "disk", "meta": {"l": label}});
    let drives: Vec<_> = (0..20).map(drive).collect();
    std::fs::write(&body, serde_json::json!({"objects": drives}).to_string()).expect("a body can be written");
    for _ in 0..times {
        let curl = server.curl("/api/2.0/drives/").header("Content-Type: application/json");
        let response = curl.arg("--data-binary").arg(format!("@{}", body.display())).run();
        assert_eq!(response.status, 201, "{response:?}");
    }
}

/// The labels of the drives have the greatest length, and the readers do not read their list.
#[test]
fn long_lists_that_nobody_reads_are_not_held() {
    let server = Server::start();
    let label = "x".repeat(12_000);
    make_drives(&server, 25, &label);
    let before = machine::memory(server.pid());
    let authorization = basic(&server.credentials());
    let head = format!("GET /api/2.0/drives/detail/?limit=0 HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\r\n");
    let mut readers: Vec<_> = (0..60).map(|_| peer::narrow(server.authority())).collect();
    for reader in &mut readers {
        reader.write_all(head.as_bytes()).unwrap();
    }
    for reader in &mut readers {
        assert_eq!(peer::read_head(reader).status, 200);
    }
    let peak = machine::peak_memory(server.pid());
    println!("before: {} MiB, peak: {} MiB", before >> 20, peak >> 20);
    assert!(peak < before + (100 << 20), "{} MiB", peak >> 20);
    // A caller who reads gets the whole list.
    let list = server.curl("/api/2.0/drives/detail/?limit=0").run().json();
    assert_eq!(list["objects"].as_array().unwrap().len(), 500);
    assert_eq!(list["objects"][499]["meta"]["l"], label);
}

/// Sends the same request several times from many peers that read nothing, so that the kernel's own buffers are full.
fn ask_and_do_not_read(server: &Server, head: &str) -> Vec<TcpStream> {
    let mut readers: Vec<_> = (0..100).map(|_| peer::narrow(server.authority())).collect();
    for reader in &mut readers {
        reader.write_all(head.repeat(4).as_bytes()).expect("the server takes requests");
    }
    readers
}

/// The log line of a request for which there is no memory.
const FULL: &str = "answers that nobody takes fill the memory";

/// Pages of the greatest length, in both forms.
#[test]
fn pages_that_nobody_reads_take_a_bounded_part_of_memory_and_keep_no_other_tenant_waiting() {
    let server = Setup::default().config("limits.head_seconds = 2").start();
    make_drives(&server, 10, &"x".repeat(12_000));
    let cloud = Cloud::of(&server);
    let other = Cloud::log_in(&server, &server.add_user("ann"));
    let other_volume = other.create(&serde_json::json!({"size": 1}));
    let before = machine::memory(server.pid());
    let paths = [format!("/v3/{}/volumes/detail", cloud.project), format!("/v2/{}/volumes/detail.xml", cloud.project)];
    let token = format!("X-Auth-Token: {}", cloud.token);
    for path in &paths {
        let told = server.logged().matches(FULL).count();
        let held = ask_and_do_not_read(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n\r\n"));
        crate::harness::wait_for("some to be told that there is no room", || {
            (server.logged().matches(FULL).count() > told).then_some(())
        });
        let list = other.get("volumes/detail");
        assert_eq!(list.status, 200, "{list:?}");
        assert_eq!(list.json()["volumes"][0]["id"], other_volume);
        let peak = machine::peak_memory(server.pid());
        println!("{path}: {} MiB, then {} MiB", before >> 20, peak >> 20);
        assert!(peak < before + (140 << 20), "{path}: {} MiB", peak >> 20);
        drop(held);
    }
    // A caller who reads gets everything, in pages that each announce the next.
    let mut ids = Vec::new();
    let mut marker = String::new();
    loop {
        // Closed connections may be noticed a little later.
        let page = crate::harness::wait_for("a page to be told", || {
            let page = cloud.get(&format!("volumes/detail?limit=1000{marker}"));
            (page.status == 200).then(|| page.json())
        });
        ids.extend(page["volumes"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        marker = format!("&marker={}", ids.last().unwrap());
        if page["volumes_links"].is_null() {
            break;
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

/// As many connections as one address may have, each sending as much as it can without a login.
#[test]
fn two_thousand_connections_without_a_login_take_a_bounded_part_of_memory() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let count = limit.maximum.unwrap_or(u64::MAX).saturating_sub(300).min(2_000);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the limit can be raised");
    let server = Setup::default().config("limits.head_seconds = 600").start();
    let filler = "x".repeat(380_000);
    let unfinished = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {filler}");
    // The largest head that is accepted, one byte short of its end.
    let whole = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r", &filler[..16_000]);
    let login =
        format!("POST /v3/auth/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n{}", &filler[..15_999]);
    let refused = format!("POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{filler}");
    let before = machine::memory(server.pid());
    let mut held = Vec::new();
    for n in 0..count {
        let mut socket = std::net::TcpStream::connect(server.authority()).expect("the server listens");
        socket.set_nonblocking(true).unwrap();
        // Bytes that the server does not take are not held by it.
        let _ = socket.write([&unfinished, &whole, &login, &refused][n as usize % 4].as_bytes());
        held.push(socket);
    }
    let probe = server.anonymous_curl("/healthz").run();
    assert!(matches!(probe.status, 200 | 503), "{probe:?}");
    crate::harness::wait_for("what they sent to be read", || {
        let waiting = held.iter().filter(|socket| rustix::io::ioctl_fionread(socket).is_ok_and(|n| n > 0)).count();
        // A quarter is refused as too large, and a quarter for lack of a login.
        (waiting as u64 >= count / 2 - 1).then_some(())
    });
    let peak = machine::peak_memory(server.pid());
    println!("{count} connections, before: {} MiB, peak: {} MiB", before >> 20, peak >> 20);
    assert!(peak < before + (160 << 20), "{} MiB", peak >> 20);
    drop(held);
    crate::harness::wait_for("the memory to be given back", || {
        (machine::memory(server.pid()) < before + (20 << 20)).then_some(())
    });
}

/// The server may have to hold all bytes that it lets peers send before they are read.
#[test]
fn what_is_sent_ahead_over_http2_takes_a_bounded_part_of_memory() {
    let server = peer::tls_setup().config("memory.budget = \"8 MiB\"").start();
    let login = basic(&server.credentials());
    let login = login.split_once(": ").expect("a field").1;
    let before = machine::memory(server.pid());
    let mut sent = 0;
    let held: Vec<_> = (0..80)
        .map(|_| {
            let mut peer = Http2::connect(peer::authority(&server));
            for _ in 0..4 {
                sent += peer.post(UPLOAD, &[("authorization", login), ("content-type", "application/octet-stream")]);
            }
            peer.settle();
            peer
        })
        .collect();
    let peak = machine::peak_memory(server.pid());
    println!("{} MiB sent, before: {} MiB, peak: {} MiB", sent >> 20, before >> 20, peak >> 20);
    assert!(sent > 0 && sent < 100 << 20, "{} MiB", sent >> 20);
    assert!(peak < before + (160 << 20), "{} MiB", peak >> 20);
    drop(held);
}

trait Stalled: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> Stalled for T {}

/// Disables the limits on slow peers and on the age of links, however long this takes.
fn patient(setup: Setup) -> Server {
    setup
        .config(&format!("memory.budget = \"{BUDGET} MiB\""))
        .config("limits.idle_seconds = 3600\nlimits.min_rate = 0\nlimits.ticket_seconds = 3600")
        .start()
}

#[test]
fn peers_that_stall_take_neither_memory_nor_progress_from_others() {
    crowd(&patient(Setup::default()));
}

#[test]
fn peers_that_stall_over_tls_take_neither_memory_nor_progress_from_others() {
    crowd(&patient(peer::tls_setup()));
}
