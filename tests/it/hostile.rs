//! Input that no honest client sends: it never causes a panic, an internal error, or a wrong action.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _};

use crate::harness::raw::basic;
use crate::harness::{PATIENCE, Server, Setup, image, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";

/// Starts a server with one drive; returns its UUID, and the path that downloads it.
fn with_drive(setup: Setup) -> (Server, String, String) {
    let server = setup.start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 111);
    let uuid = server.upload(&disk);
    let path = server.capability(&uuid);
    (server, uuid, path)
}

/// Fails if an error occurred in the server, or if it still holds resources.
#[track_caller]
fn assert_sound(server: &Server) {
    let log = server.logged();
    let wrong = log.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
    assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    for (name, rest) in [
        ("longshore_transfers_running{direction=\"upload\"}", 0.0),
        ("longshore_transfers_running{direction=\"download\"}", 0.0),
        ("longshore_pool_blocks_in_use", 0.0),
        ("longshore_connections", 1.0),
    ] {
        wait_for(name, || server.metric(name).is_none_or(|value| value <= rest).then_some(()));
    }
}

/// Clients that do not know `Expect` write everything before they read anything.
#[test]
fn refusals_reach_a_client_that_writes_everything_first() {
    let large = Setup::default().config("limits.max_drive = \"512 KiB\"").start();
    let full = Setup::default().config("io.reserve = \"4096 TiB\"").start();
    for (server, login, kind, expected) in [
        (&large, "admin:wrong".to_owned(), OCTETS, 401),
        (&large, large.credentials(), "Content-Type: text/plain", 415),
        (&large, large.credentials(), OCTETS, 413),
        (&full, full.credentials(), OCTETS, 507),
    ] {
        for size in [1 << 10, 1 << 20, 20 << 20] {
            if expected == 413 && size < (512 << 10) {
                continue;
            }
            let mut client = server.raw();
            client.send_head(&format!("POST {UPLOAD}"), &[&basic(&login), kind, &format!("Content-Length: {size}")]);
            client.send(&vec![1; size]);
            let response = client.response();
            assert_eq!(response.status, expected, "{size} bytes: {response:?}");
        }
    }
    assert!(large.drives().is_empty());
    assert_sound(&large);
}

/// A request that must not be read as one follows each message.
#[test]
fn nothing_behind_a_broken_body_is_executed() {
    let (server, uuid, _) = with_drive(Setup::default());
    let authorization = basic(&server.credentials());
    let smuggled = format!("DELETE /api/2.0/drives/{uuid}/ HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\r\n");
    let cases = [
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Content-Length: 0\r\nContent-Length: 5", ""),
        ("Content-Length: 0, 0", ""),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n"),
        ("Transfer-Encoding:\tchunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked", "0\r\n\r\n"),
        ("X: y\r\n Transfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "10000000000000000\r\n"),
        ("Transfer-Encoding: chunked", "fffffffffffffffe\r\nxx\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "-1\r\n\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "0x1\r\nx\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "1\r\nxyz\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "1;\n\r\nx\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "\r\n0\r\n\r\n"),
        ("Content-Length: 99999999999999999999999", ""),
        ("Content-Length: -5", ""),
    ];
    for (framing, body) in cases {
        for path in [UPLOAD, "/api/2.0/drives/", "/healthz", "/nowhere"] {
            let mut socket = TcpStream::connect(server.authority()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{OCTETS}\r\n{framing}\r\n\r\n");
            let _ = socket.write_all(format!("{head}{body}{smuggled}").as_bytes());
            let _ = socket.shutdown(Shutdown::Write);
            let mut answers = Vec::new();
            let _ = socket.read_to_end(&mut answers);
            let answers = String::from_utf8_lossy(&answers);
            assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{framing:?} {body:?} {path}: {answers}");
            assert!(!answers.contains("HTTP/1.1 2"), "{framing:?} {body:?} {path}: {answers}");
        }
    }
    assert_eq!(server.drives(), [uuid]);
    assert_sound(&server);
}

#[test]
fn what_speaks_another_protocol_gets_no_more_than_a_refusal() {
    let server = Setup::default().config("limits.head_seconds = 1").start();
    let many = "X: y\r\n".repeat(2_000);
    let cases: Vec<Vec<u8>> = vec![
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET /healthz\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
        b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x00\x00\x00\x00\r\n\r\n".to_vec(),
        b"G\x00T / HTTP/1.1\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(500_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}: x\r\n\r\n", "a".repeat(70_000)).into_bytes(),
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\n\r\n".to_vec(),
        b"GET /healthz HTTP/1.0\r\n\r\n".to_vec(),
    ];
    for case in cases {
        let mut socket = TcpStream::connect(server.authority()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.write_all(&case);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let what = String::from_utf8_lossy(&case[..case.len().min(60)]).into_owned();
        assert!(answer.matches("HTTP/1.").count() <= 1, "{what:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 5") && !answer.contains("HTTP/1.1 101"), "{what:?}: {answer}");
        if what.contains("HTTP/1.0") {
            assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    assert_sound(&server);
}

#[test]
fn paths_that_climb_lead_nowhere() {
    let (server, uuid, path) = with_drive(Setup::default());
    let token = path.split('/').nth(2).unwrap();
    for path in [
        "/../../../etc/passwd".to_owned(),
        "/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        "/api/2.0/drives/..%2f..%2fmeta.sqlite/".to_owned(),
        "/api/2.0/drives/%2e%2e/".to_owned(),
        "/api/2.0/drives/%00/".to_owned(),
        format!("/api/2.0/drives/{uuid}%00/"),
        format!("/api/2.0/drives/{uuid}%2f..%2f/download/"),
        "/api/2.0/drives/%ff%fe/".to_owned(),
        "/api/2.0/drives/%/".to_owned(),
        "/api/2.0/drives/%2/".to_owned(),
        format!("/t/{token}/..%2f{uuid}"),
        format!("/t/{token}/{uuid}%00"),
        format!("/t/..%2f..%2fticket.key/{uuid}"),
        format!("/t/{token}%0d%0aX-Evil:%201/{uuid}"),
        "//evil.example/api/2.0/drives/".to_owned(),
        "/api/2.0/drives/upload/..%2f..%2f..%2fx".to_owned(),
    ] {
        let mut client = server.raw();
        client.send_head(&format!("GET {path}"), &[&basic(&server.credentials()), "Connection: close"]);
        let response = client.response();
        assert!((400..500).contains(&response.status), "{path}: {response:?}");
        assert!(response.values("x-evil").is_empty());
    }
    assert_sound(&server);
}

#[test]
fn a_name_never_reaches_a_field_or_a_file() {
    let server = Server::start();
    for name in ["a\r\nX-Evil: 1", "../../../evil", "\u{0}", "\"; filename=evil", "\u{202e}gpj", &"n".repeat(300), ""] {
        let body = serde_json::json!({"name": name, "size": 70_000, "media": "disk"});
        let created = server.curl("/api/2.0/drives/").json("POST", &body).run();
        assert!(matches!(created.status, 201 | 400), "{name:?}: {created:?}");
        if created.status == 201 {
            let uuid = created.json()["objects"][0]["uuid"].as_str().unwrap().to_owned();
            let download = server.download(&uuid, &server.scratch().join("back.img"));
            for answer in [created, download, server.curl(&format!("/api/2.0/drives/{uuid}/")).run()] {
                assert!(answer.values("x-evil").is_empty(), "{name:?}");
                assert!(answer.fields.iter().all(|(_, value)| !value.contains("evil")), "{name:?}: {answer:?}");
            }
        }
    }
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 70_000, 112);
    let path = format!("{UPLOAD}%0d%0aX-Evil:%201");
    let uploaded = server.curl(&path).upload("POST", &disk).run();
    assert_eq!((uploaded.status, uploaded.values("x-evil").len()), (201, 0));
    assert_sound(&server);
}

#[test]
fn an_expectation_that_nobody_knows_is_no_reason_to_hang() {
    let server = Server::start();
    let mut client = server.raw();
    let fields = [&basic(&server.credentials()), OCTETS, "Content-Length: 70000", "Expect: tea", "Connection: close"];
    client.send_head(&format!("POST {UPLOAD}"), &fields);
    let _ = client.try_send(&image::bytes(114, 70_000));
    let response = client.response();
    assert!(matches!(response.status, 201 | 417), "{response:?}");
    assert_sound(&server);
}

#[test]
fn any_range_is_answered_with_what_it_says() {
    let (server, _, path) = with_drive(Setup::default());
    let whole = std::fs::read(server.scratch().join("disk.img")).unwrap();
    let mut numbers = image::numbers(113);
    let words = [
        "bytes",
        "=",
        "-",
        ",",
        " ",
        "\t",
        "0",
        "1",
        "99999",
        "100000",
        "18446744073709551615",
        "x",
        "",
        "+1",
        "BYTES",
    ];
    let mut client = server.raw();
    for _ in 0..1_000 {
        let mut range: String = if numbers.random_bool(0.8) { "bytes=".to_owned() } else { String::new() };
        for _ in 0..numbers.random_range(0..12) {
            range.push_str(words[numbers.random_range(0..words.len())]);
        }
        client.send_head(&format!("GET {path}"), &[&format!("Range: {range}")]);
        let response = client.response();
        match response.status {
            200 => assert!(response.body == whole, "{range:?}"),
            206 if response.values("content-range").is_empty() => {
                assert!(response.field("content-type").starts_with("multipart/byteranges"), "{range:?}");
            }
            206 => {
                let field = response.field("content-range");
                let (first, last) =
                    field.strip_prefix("bytes ").unwrap().strip_suffix("/100000").unwrap().split_once('-').unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                assert!(response.body == whole[first..=last], "{range:?}");
            }
            416 => assert_eq!(response.field("content-range"), "bytes */100000", "{range:?}"),
            other => panic!("{range:?}: {other}"),
        }
    }
    drop(client);
    assert_sound(&server);
}

/// Strings that have broken parsers.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\r\n\r\n",
    "%00",
    "%0d%0a",
    "%ff",
    "%",
    "..",
    "/",
    "//",
    "?",
    "#",
    "{",
    "}",
    "[",
    "\"",
    "\\u0000",
    "\\ud800",
    ":",
    ";",
    ",",
    "=",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "9223372036854775807",
    "null",
    "true",
    "[[[[[[[[[[",
    "Content-Length: 0\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Range: bytes=0-0\r\n",
    "Connection: close\r\n",
    "Connection: upgrade\r\n",
    "Repr-Digest: sha-256=:AAAA:\r\n",
    "If-Range: \"x\"\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/2",
    "GET ",
    "PUT ",
    "\u{1F4A9}",
    "\u{fffd}",
    "limit=0",
    "offset=-1",
    "fields=",
    "?do=clone",
    "?do=resize",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn mutate(request: &mut Vec<u8>, numbers: &mut Xoshiro256PlusPlus) {
    for _ in 0..numbers.random_range(0..4) {
        let at = numbers.random_range(0..=request.len());
        let to = (at + numbers.random_range(0..16)).min(request.len());
        match numbers.random_range(0..5) {
            0 => drop(request.splice(at..to, WORDS[numbers.random_range(0..WORDS.len())].bytes())),
            1 => drop(request.drain(at..to)),
            2 => {
                let part = request[at..to].to_vec();
                drop(request.splice(at..at, part));
            }
            3 => request[at..to].iter_mut().for_each(|byte| *byte ^= 1 << (*byte % 8)),
            _ => {
                let mut noise = [0; 8];
                numbers.fill_bytes(&mut noise);
                drop(request.splice(at..at, noise));
            }
        }
    }
}

#[test]
fn thousands_of_mutated_requests_break_nothing() {
    const THREADS: u64 = 4;
    const TIME: Duration = Duration::from_secs(12);
    let setup = Setup::default().config("limits.head_seconds = 1").config("limits.idle_seconds = 1");
    let (server, uuid, path) = with_drive(setup.config("limits.max_drive = \"8 MiB\""));
    let authorization = basic(&server.credentials());
    let requests = [
        ("POST", UPLOAD.to_owned(), OCTETS, "some bytes of a drive"),
        (
            "POST",
            UPLOAD.to_owned(),
            "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked",
            "5\r\nbytes\r\n3;x=y\r\nand\r\n0\r\nT: x\r\n\r\n",
        ),
        (
            "GET",
            "/api/2.0/drives/detail/?limit=2&offset=1&fields=uuid,name&name__contains=a%20b".to_owned(),
            "Accept: */*",
            "",
        ),
        (
            "POST",
            "/api/2.0/drives/".to_owned(),
            "Content-Type: application/json",
            "{\"objects\": [{\"name\": \"n\", \"size\": 70000, \"media\": \"disk\", \"meta\": {\"a\": [1, 2.5e3, null]}}]}",
        ),
        (
            "PUT",
            format!("/api/2.0/drives/{uuid}/"),
            "Content-Type: application/json",
            "{\"name\": \"m\", \"size\": 100000, \"media\": \"cdrom\", \"meta\": {}}",
        ),
        (
            "POST",
            format!("/api/2.0/drives/{uuid}/action/?do=clone"),
            "Content-Type: application/json",
            "{\"name\": \"copy\"}",
        ),
        (
            "POST",
            "/api/2.0/drives/00000000-0000-4000-8000-000000000000/action/?do=resize".to_owned(),
            "Content-Type: application/json",
            "{\"size\": 200000}",
        ),
        (
            "DELETE",
            "/api/2.0/drives/".to_owned(),
            "Content-Type: application/json",
            "{\"objects\": [{\"uuid\": \"00000000-0000-4000-8000-000000000000\"}]}",
        ),
        ("GET", format!("/api/2.0/drives/{uuid}/download/"), "Want-Repr-Digest: sha-256=5", ""),
        ("GET", path, "Range: bytes=0-9, 20-29, -5\r\nIf-None-Match: \"a\", W/\"b\"", ""),
        ("GET", "/api/2.0/locations/?a=b&c".to_owned(), "Cookie: a=b", ""),
    ];
    let deadline = Instant::now() + TIME;
    let sent: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (requests, authorization, authority) = (&requests, &authorization, server.authority());
                scope.spawn(move || {
                    let mut numbers = image::numbers(1_000 + thread);
                    let mut sent = 0;
                    while sent < 1_500 && Instant::now() < deadline {
                        let mut socket = TcpStream::connect(authority).unwrap();
                        socket.set_read_timeout(Some(PATIENCE)).unwrap();
                        // Some messages are sent on separate connections, others in a row on one.
                        for _ in 0..numbers.random_range(1..4) {
                            let (method, path, fields, body) = &requests[numbers.random_range(0..requests.len())];
                            // The login is never mutated: wrong ones would slow the test down.
                            let mut start = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes();
                            let mut end = body.as_bytes().to_vec();
                            mutate(&mut start, &mut numbers);
                            mutate(&mut end, &mut numbers);
                            let length = if fields.contains("chunked") {
                                String::new()
                            } else {
                                format!("Content-Length: {}\r\n", end.len())
                            };
                            let middle = format!("{authorization}\r\n{length}\r\n");
                            let _ = socket.write_all(&[&start, middle.as_bytes(), &end].concat());
                            sent += 1;
                        }
                        let _ = socket.shutdown(Shutdown::Write);
                        let mut answers = Vec::new();
                        match socket.read_to_end(&mut answers) {
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server hangs"),
                            _ => {}
                        }
                        let answers = String::from_utf8_lossy(&answers);
                        assert!(!answers.contains("HTTP/1.1 500"), "{answers}");
                    }
                    sent
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!("{sent} requests");
    assert!(sent >= 1_000, "only {sent} requests in {TIME:?}");
    assert_eq!(server.anonymous_curl("/healthz").run().status, 200);
    assert!(server.drives().contains(&uuid));
    assert_sound(&server);
}
