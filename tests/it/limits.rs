//! Peers that stall, crawl, come in crowds or guess passwords are closed, refused or slowed down. Slow and honest peers
//! are served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::peer::{self, Running};
use crate::harness::raw::basic;
use crate::harness::stored;
use crate::harness::{PATIENCE, Server, Setup, image, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const UPLOADS_FAILED: &str = "longshore_transfers_total{direction=\"upload\",ending=\"failed\"}";
const DOWNLOADS_FAILED: &str = "longshore_transfers_total{direction=\"download\",ending=\"failed\"}";
const OCTETS: &str = "Content-Type: application/octet-stream";

/// Far more than the socket buffers of both ends hold.
const LARGE: u64 = 40 << 20;

/// Waits for a counter of a server that may speak TLS.
#[track_caller]
fn wait_for_count(server: &Server, name: &str, count: f64) {
    wait_for(name, || {
        let text = peer::trusting(server.anonymous_curl("/metrics")).run().text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        (value? >= count).then_some(())
    });
}

/// Uploads an image to a server that may speak TLS; returns its UUID and the path of a capability.
fn drive(server: &Server, size: u64) -> (String, String) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, size, 71);
    let uuid = crate::harness::server::uuid_of(&peer::trusting(server.curl(UPLOAD)).upload("POST", &disk).run());
    let redirect = peer::trusting(server.curl(&format!("/api/2.0/drives/{uuid}/download/"))).run();
    assert_eq!(redirect.status, 302, "{redirect:?}");
    (uuid, redirect.field("location").to_owned())
}

#[test]
fn an_upload_that_stops_is_told_408_and_leaves_nothing() {
    let server = Setup::default().config("limits.idle_seconds = 0.5").start();
    let mut client = server.raw();
    client.send_head(&format!("POST {UPLOAD}"), &[&basic(&server.credentials()), OCTETS, "Content-Length: 4000000"]);
    client.send(&image::bytes(72, 1_500_000));
    let response = client.response();
    assert_eq!(response.status, 408, "{response:?}");
    assert!(server.drives().is_empty());
    server.wait_for_line("PeerTooSlow");
    wait_for_count(&server, UPLOADS_FAILED, 1.0);
    assert_eq!(server.metric("longshore_transfers_running{direction=\"upload\"}"), Some(0.0));
}

#[test]
fn a_download_whose_peer_stops_reading_is_cut() {
    let server = Setup::default().config("limits.idle_seconds = 0.5").start();
    let (_, path) = drive(&server, LARGE);
    let mut socket = peer::narrow(peer::authority(&server));
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut socket).status, 200);
    wait_for_count(&server, DOWNLOADS_FAILED, 1.0);
    server.wait_for_line("PeerTooSlow");
    assert!(peer::drain(&mut socket) < LARGE);
}

#[test]
fn stalled_transfers_are_cut_over_tls_and_over_http_2() {
    let server = peer::tls_setup().config("limits.idle_seconds = 0.5").start();
    let (_, path) = drive(&server, LARGE);
    let certificate = peer::certificate("first.pem");
    let (certificate, credentials) = (certificate.to_str().unwrap(), server.credentials());
    let (upload, download) = (format!("{}{UPLOAD}", server.endpoint()), format!("{}{path}", server.endpoint()));
    for (count, version) in [(1.0, "--http1.1"), (2.0, "--http2")] {
        let user = ["--cacert", certificate, version, "--user", &credentials, "--header", OCTETS];
        let mut sender = Running::curl(&[&user[..], &["--fail", "--upload-file", "-", &upload]].concat());
        assert!(sender.feed(&image::bytes(73, 1_000_000)));
        wait_for_count(&server, UPLOADS_FAILED, count);
        assert!(!sender.wait().success(), "{version}");

        let back = server.scratch().join("stopped.img");
        let _ = std::fs::remove_file(&back);
        let args =
            ["--cacert", certificate, version, "--output", back.to_str().unwrap(), "--limit-rate", "8M", &download];
        let reader = Running::curl(&args);
        wait_for("the first bytes", || back.metadata().ok().filter(|file| file.len() > 0));
        reader.signal(Signal::STOP);
        wait_for_count(&server, DOWNLOADS_FAILED, count);
        reader.signal(Signal::CONT);
        assert!(!reader.wait().success(), "{version}");
        assert!(image::size_of(&back) < LARGE);
    }
    wait_for("uploads to be undone", || {
        let list = peer::trusting(server.curl("/api/2.0/drives/")).run().json();
        (list["meta"]["total_count"] == 1).then_some(())
    });
}

/// The last bytes of an answer stay in buffers for long when the peer is slow; the connection must not be taken for an
/// idle one.
#[test]
fn a_slow_peer_that_goes_on_reading_gets_everything() {
    let server = Setup::default().config("limits.idle_seconds = 1").config("limits.head_seconds = 0.5").start();
    let (_, path) = drive(&server, 6 << 20);
    let mut socket = peer::narrow(peer::authority(&server));
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut socket).status, 200);
    assert_eq!(read_slowly(&mut socket, 6 << 20), 6 << 20);
}

#[test]
fn a_slow_peer_gets_everything_over_tls_and_over_http_2() {
    let server = peer::tls_setup().config("limits.idle_seconds = 1").config("limits.head_seconds = 0.5").start();
    let (_, path) = drive(&server, 12 << 20);
    let mut stream = peer::tls(peer::narrow(peer::authority(&server)), "http/1.1");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-6291455\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut stream).status, 206);
    assert_eq!(read_slowly(&mut stream, 6 << 20), 6 << 20);

    let back = server.scratch().join("back.img");
    let curl = peer::trusting(server.anonymous_curl(&path)).args(&["--http2", "--limit-rate", "4M"]);
    assert_eq!(curl.output(&back).run().status, 200);
    image::assert_same(&server.scratch().join("disk.img"), &back);
}

/// Reads 6 MiB in three seconds; returns the number of bytes.
fn read_slowly(stream: &mut impl std::io::Read, whole: u64) -> u64 {
    let mut part = vec![0; 64 << 10];
    let mut came = 0;
    while came < whole && stream.read_exact(&mut part).is_ok() {
        came += part.len() as u64;
        // The sleeps make this peer slow, at 2 MiB a second. If it were much slower, the kernel's buffer would hide its
        // progress.
        std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / f64::from(2 << 20)));
    }
    came
}

#[test]
fn a_slow_upload_that_goes_on_is_taken() {
    let server = Setup::default().config("limits.idle_seconds = 0.5").config("limits.head_seconds = 0.5").start();
    let body = image::bytes(74, 200_000);
    let mut client = server.raw();
    client.send_head(&format!("POST {UPLOAD}"), &[&basic(&server.credentials()), OCTETS, "Content-Length: 200000"]);
    for part in body.chunks(10_000) {
        client.send(part);
        // The sleeps make this peer slow; in all they take four times the limit.
        std::thread::sleep(Duration::from_millis(100));
    }
    let uuid = crate::harness::server::uuid_of(&client.response());
    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    assert!(std::fs::read(&back).unwrap() == body);
}

#[test]
fn a_peer_that_crawls_below_the_least_rate_is_cut() {
    let server = Setup::default().config("limits.min_rate = \"64 KiB\"").start();
    let mut client = server.raw();
    client.send_head(&format!("POST {UPLOAD}"), &[&basic(&server.credentials()), OCTETS, "Content-Length: 4000000"]);
    let deadline = Instant::now() + PATIENCE;
    // The peer is never idle, but much too slow; the rate is checked after half a minute.
    while client.try_send(&[7; 100]).is_ok() && !server.logged().contains("PeerTooSlow") {
        assert!(Instant::now() < deadline, "a crawler is served for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.response().status, 408);
}

#[test]
fn a_head_that_trickles_is_cut() {
    let server = Setup::default().config("limits.head_seconds = 0.5").start();
    let mut client = server.raw();
    let deadline = Instant::now() + PATIENCE;
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    while client.try_send(b"a").is_ok() {
        assert!(Instant::now() < deadline, "a head may take for ever");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn silent_connections_are_closed_before_and_after_a_request() {
    let server = Setup::default().config("limits.head_seconds = 0.5").start();
    let mut silent = server.raw();
    assert!(silent.is_closed());
    let mut client = server.raw();
    client.send_head("GET /healthz", &[]);
    assert_eq!(client.response().status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_tls_handshake_that_stalls_is_cut() {
    let server = peer::tls_setup().config("limits.head_seconds = 0.5").start();
    // An empty start, and the start of a ClientHello.
    for start in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let mut socket = peer::narrow(peer::authority(&server));
        socket.write_all(start).unwrap();
        assert_eq!(peer::drain(&mut socket), 0);
    }
}

#[test]
fn a_silent_http_2_connection_is_closed() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// A HEADERS frame that announces more of the head.
    const HALF_A_HEAD: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let server = peer::tls_setup().config("limits.head_seconds = 0.5").start();
    for start in
        [vec![], PREFACE[..10].to_vec(), [PREFACE, SETTINGS].concat(), [PREFACE, SETTINGS, HALF_A_HEAD].concat()]
    {
        let mut stream = peer::tls(peer::narrow(peer::authority(&server)), "h2");
        stream.write_all(&start).unwrap();
        stream.flush().unwrap();
        peer::drain(&mut stream);
    }
    wait_for_count(&server, "longshore_connections", 1.0);
}

#[test]
fn an_answer_that_is_not_taken_is_given_up() {
    let server = Setup::default().config("limits.idle_seconds = 0.5").config("limits.head_seconds = 0.5").start();
    let mut socket = peer::narrow(peer::authority(&server));
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Unread answers, until the server reads no more or has closed.
    while !peer::is_refused(&mut socket, &b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)) {}
    wait_for("the connection to be given up", || (server.metric("longshore_connections") == Some(1.0)).then_some(()));
}

#[test]
fn a_json_body_that_trickles_is_told_408() {
    let server = Setup::default().config("limits.head_seconds = 0.5").start();
    let mut client = server.raw();
    let lines = [&basic(&server.credentials()), "Content-Type: application/json", "Content-Length: 5000"];
    client.send_head("POST /api/2.0/drives/", &lines);
    client.send(b"{\"objects\": ");
    assert_eq!(client.response().status, 408);
    assert!(client.is_closed());
}

/// Sends a request on a connection from this address that stays open; returns its answer's status.
fn held(server: &Server, source: [u8; 4], lines: &str) -> (TcpStream, u16) {
    let mut socket = peer::from_address(source, server.authority());
    write!(socket, "GET /api/2.0/capabilities/ HTTP/1.1\r\nHost: x\r\n{lines}\r\n").expect("the server takes it");
    let response = peer::read_head(&mut socket);
    let length = response.values("content-length").first().map_or(0, |length| length.parse().expect("a length"));
    socket.read_exact(&mut vec![0; length]).expect("the body");
    (socket, response.status)
}

#[test]
fn connections_above_the_cap_wait_until_one_ends() {
    let server = Setup::default().config("limits.connections = 4").start();
    let login = basic(&server.credentials()) + "\r\n";
    let mut callers: Vec<_> = (0..4).map(|n| held(&server, [127, 0, 0, 1 + n / 2], &login)).collect();
    assert!(callers.iter().all(|(_, status)| *status == 200));
    let mut next = peer::from_address([127, 0, 0, 3], server.authority());
    next.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    next.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(next.read(&mut [0; 1]).is_err(), "the cap is not kept");
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    callers.pop();
    assert_eq!(peer::read_head(&mut next).status, 200);
}

#[test]
fn one_address_has_its_share_of_the_connections_and_is_told_so() {
    let server = Setup::default().config("limits.connections = 8").start();
    let login = basic(&server.credentials()) + "\r\n";
    let callers: Vec<_> = (0..4).map(|_| held(&server, [127, 0, 0, 1], &login)).collect();
    let mut fifth = peer::from_address([127, 0, 0, 1], server.authority());
    assert_eq!(peer::read_head(&mut fifth).status, 503);
    assert_eq!(fifth.read(&mut [0; 1]).expect("the end"), 0);
    let (_elsewhere, status) = held(&server, [127, 0, 0, 2], &login);
    assert_eq!(status, 200);
    drop(callers);
    let again = wait_for("the places to be free", || server.metric("longshore_connections_refused_total"));
    assert!(again >= 1.0);
}

/// From many addresses, each with few connections.
#[test]
fn one_tenant_has_its_share_of_what_is_under_way_and_is_told_so() {
    let setup = Setup::default().config("limits.connections = 8").config("limits.connections_per_address = 2");
    let server = setup.start();
    let body = serde_json::json!({"name": "d", "size": 256 << 20, "media": "disk"});
    let made = server.curl("/api/2.0/drives/").json("POST", &body).run();
    let uuid = made.json()["objects"][0]["uuid"].as_str().expect("an id").to_owned();
    let path = server.capability(&uuid);
    let download = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let other = server.add_user("ann");
    let ask = |source, credentials: &str| {
        let mut stream = peer::from_address(source, server.authority());
        let login = basic(credentials);
        write!(stream, "GET /api/2.0/drives/ HTTP/1.1\r\nHost: x\r\n{login}\r\nConnection: close\r\n\r\n").unwrap();
        peer::read_head(&mut stream)
    };
    let mut held: Vec<_> = (0..6)
        .map(|n| {
            let mut stream = peer::from_address([127, 0, 0, 10 + n], server.authority());
            stream.write_all(download.as_bytes()).unwrap();
            assert_eq!(peer::read_head(&mut stream).status, 200);
            stream
        })
        .collect();
    let refused = ask([127, 0, 0, 20], &server.credentials());
    assert_eq!((refused.status, refused.field("retry-after")), (503, "5"));
    assert!(refused.field("content-type").starts_with("application/json"));
    assert_eq!(ask([127, 0, 0, 20], &other).status, 200);
    held.pop();
    crate::harness::wait_for("the place of the one that left", || {
        (ask([127, 0, 0, 20], &server.credentials()).status == 200).then_some(())
    });
}

#[test]
fn connections_without_a_login_keep_nobody_out_who_has_one() {
    let server = Setup::default().config("limits.connections = 8").config("limits.head_seconds = 600").start();
    let login = basic(&server.credentials()) + "\r\n";
    let known = held(&server, [127, 0, 0, 9], &login);
    // Strangers that are silent, that are in the middle of a head, and that have an answer.
    let mut strangers = Vec::new();
    for n in 0..30 {
        let mut socket = peer::from_address([127, 0, 1, n], server.authority());
        let _ = socket.write_all([&b""[..], b"GET /", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"][usize::from(n % 3)]);
        strangers.push(socket);
    }
    for n in 10..16 {
        assert_eq!(held(&server, [127, 0, 0, n], &login).1, 200);
    }
    let (mut known, _) = known;
    known.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut known).status, 200, "who had shown a login keeps the place");
}

/// Returns the status of a login from this address.
fn login(server: &Server, source: [u8; 4], credentials: &str) -> u16 {
    let mut socket = peer::from_address(source, server.authority());
    write!(socket, "GET /api/2.0/capabilities/ HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", basic(credentials))
        .expect("the server takes the request");
    peer::read_head(&mut socket).status
}

#[test]
fn guesses_at_a_password_are_slowed_down_and_others_are_not() {
    let server = Server::start();
    let (admin, alice) = (server.credentials(), server.add_user("alice"));
    for _ in 0..4 {
        assert_eq!(login(&server, [127, 0, 0, 1], "admin:wrong"), 401);
    }
    // The pause is between the fifth and the sixth.
    let start = Instant::now();
    for _ in 0..2 {
        assert_eq!(login(&server, [127, 0, 0, 1], "admin:wrong"), 401);
    }
    assert!(start.elapsed() >= Duration::from_millis(250), "the sixth guess is not slowed down");
    // All at once, like a guesser who does not mind waiting: one attempt a second is checked.
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(login(&server, [127, 0, 0, 1], "admin:wrong"), 401));
        }
    });
    assert!(start.elapsed() >= Duration::from_secs(8), "{:?}", start.elapsed());
    // Another user at another address is not slowed down, and the same user is let in from there.
    let start = Instant::now();
    assert_eq!(login(&server, [127, 0, 0, 2], &alice), 200);
    assert!(start.elapsed() < Duration::from_secs(8));
    assert_eq!(login(&server, [127, 0, 0, 2], &admin), 200);
    assert_eq!(login(&server, [127, 0, 0, 1], &admin), 200, "nobody is locked out");
}

/// Starts a server with these limits on open files; it may raise the soft one to the hard one.
fn with_open_files(soft: u32, hard: u32) -> Server {
    // All of the connections may be from one address.
    Setup::default().config("limits.connections_per_address = 4095").open_files(soft, hard).start()
}

#[test]
fn the_limit_on_open_files_is_raised_as_far_as_it_goes() {
    let server = with_open_files(64, 2048);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers, ["2048", "2048"], "{line}");
}

#[test]
fn uploads_that_have_no_room_among_the_open_files_wait_and_all_are_taken() {
    const UPLOADS: usize = 90;
    let server = with_open_files(120, 120);
    let log = server.wait_for_line("fewer connections are served");
    assert_eq!(log.matches("fewer connections are served").count(), 1);
    server.wait_for_line("limits.connections");
    // The clients are of several tenants, none of which may have all connections.
    let tenants = ["one", "two", "three"].map(|name| server.add_user(name));
    let mut clients: Vec<_> = (0..UPLOADS)
        .map(|n| {
            let mut client = server.raw();
            let head = [&basic(&tenants[n % tenants.len()]), OCTETS, "Content-Length: 20000"];
            client.send_head(&format!("POST {UPLOAD}"), &head);
            client.send(&image::bytes(79, 10_000));
            client
        })
        .collect();
    for client in &mut clients {
        client.send(&image::bytes(80, 10_000));
    }
    // In turn, since each answered client makes room.
    for mut client in clients {
        let response = client.response();
        assert_eq!(response.status, 201, "{response:?}");
    }
    let made = tenants.map(|tenant| stored::details(&server, &tenant).len());
    assert_eq!(made.iter().sum::<usize>(), UPLOADS);
}
