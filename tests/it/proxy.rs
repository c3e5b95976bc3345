//! Proxies in front of the server, and the addresses of their clients.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::harness::{PATIENCE, Server, Setup, peer};

/// Starts a server that trusts proxies at 127.0.0.1 only.
fn behind(protocol: bool) -> Server {
    let setup = Setup::default().config("proxy.trusted = [\"127.0.0.1\"]").config("log.level = \"longshore=debug\"");
    setup.config(&format!("proxy.protocol = {protocol}")).start()
}

/// Returns whether a request was logged as from this peer, which ends at a space or a port.
fn is_logged(server: &Server, peer: &str) -> bool {
    server.logged().lines().any(|line| line.contains("answered") && line.contains(&format!("peer={peer}")))
}

#[test]
fn a_trusted_proxy_tells_who_asks_and_nobody_else_does() {
    let server = behind(false);
    for field in ["X-Forwarded-For: 9.9.9.9, 203.0.113.7", "Forwarded: for=9.9.9.9, for=\"203.0.113.8:1234\""] {
        assert_eq!(server.curl("/api/2.0/drives/").header(field).run().status, 200);
    }
    assert!(is_logged(&server, "203.0.113.7}") && is_logged(&server, "203.0.113.8}"), "{}", server.logged());
    let stranger = server.curl("/api/2.0/drives/").args(&["--interface", "127.0.0.2"]);
    assert_eq!(stranger.header("X-Forwarded-For: 203.0.113.9").run().status, 200);
    assert!(is_logged(&server, "127.0.0.2:") && !server.logged().contains("203.0.113.9"), "{}", server.logged());
}

/// Guesses from an address behind a proxy slow down that address, and not the others behind it.
#[test]
fn guesses_are_counted_for_the_address_behind_the_proxy() {
    let server = behind(false);
    let from = |credentials: &str, address: &str| {
        let curl = server.curl_as(credentials, "/api/2.0/drives/").header(&format!("X-Forwarded-For: {address}"));
        curl.run().status
    };
    // Each of these names is tried once, so that only the address can be counted.
    for guess in 0..5 {
        assert_eq!(from(&format!("nobody-{guess}:x"), "203.0.113.7"), 401);
    }
    // After the sixth, there is half a second before the seventh and a second before the eighth.
    let started = std::time::Instant::now();
    for guess in 5..8 {
        assert_eq!(from(&format!("nobody-{guess}:x"), "203.0.113.7"), 401);
    }
    assert!(started.elapsed().as_millis() >= 1_000);
    let alice = server.add_user("alice");
    assert_eq!(from(&alice, "203.0.113.8"), 200);
    let server = Server::start();
    for guess in 0..5 {
        let curl = server.curl_as(&format!("nobody-{guess}:x"), "/api/2.0/drives/");
        assert_eq!(curl.header(&format!("X-Forwarded-For: 203.0.113.{guess}")).run().status, 401);
    }
    let started = std::time::Instant::now();
    for guess in 5..8 {
        let curl = server.curl_as(&format!("nobody-{guess}:x"), "/api/2.0/drives/");
        assert_eq!(curl.header(&format!("X-Forwarded-For: 203.0.113.{guess}")).run().status, 401);
    }
    assert!(started.elapsed().as_millis() >= 1_000, "who is not trusted has one address");
}

/// Sends a request on this connection, and returns the answer.
fn answer_to<S: std::io::Read + std::io::Write>(mut stream: S, path: &str) -> String {
    // The connection may be closed before the request was sent: the answer is empty then.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // TLS reports a close without its closing message.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn connected(authority: &str, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(authority).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(header).expect("the server takes the header");
    stream
}

#[test]
fn a_proxy_header_tells_who_connects_with_and_without_tls() {
    let v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\x7f\0\0\x01\x12\x67\0\x50";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

    let server = behind(true);
    for header in [&v1[..], v2, local] {
        let answer = answer_to(connected(server.authority(), header), "/healthz");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    for peer in ["203.0.113.7:4711", "203.0.113.8:4711", "127.0.0.1:"] {
        assert!(is_logged(&server, peer), "{peer}: {}", server.logged());
    }

    let server = peer::tls_setup().config("proxy.trusted = [\"127.0.0.0/8\"]").config("proxy.protocol = true");
    let server = server.config("log.level = \"longshore=debug\"").start();
    let authority = peer::authority(&server);
    let answer = answer_to(peer::tls(connected(authority, v2), "http/1.1"), "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(is_logged(&server, "203.0.113.8:4711"), "{}", server.logged());
}

#[test]
fn who_is_behind_a_proxy_has_the_share_of_one_address_and_the_proxy_has_none() {
    let setup = Setup::default().config("proxy.trusted = [\"127.0.0.1\"]").config("proxy.protocol = true");
    let server = setup.config("limits.connections_per_address = 2").start();
    let header = |last: u8| format!("PROXY TCP4 203.0.113.{last} 127.0.0.1 4711 80\r\n");
    let ask = |last| {
        let mut stream = connected(server.authority(), header(last).as_bytes());
        let _ = write!(stream, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        (peer::read_head(&mut stream).status, stream)
    };
    let held = [ask(7), ask(7), ask(8), ask(8), ask(9)];
    assert!(held.iter().all(|(status, _)| *status == 200));
    assert_eq!([ask(7).0, ask(8).0, ask(9).0], [503, 503, 200]);
    drop(held);
    crate::harness::wait_for("the places of those that left", || (ask(7).0 == 200).then_some(()));
}

#[test]
fn requests_of_who_is_behind_a_proxy_have_the_share_of_one_address() {
    let setup = Setup::default().config("proxy.trusted = [\"127.0.0.1\"]").config("limits.connections_per_address = 2");
    let server = setup.start();
    let body = serde_json::json!({"name": "d", "size": 256 << 20, "media": "disk"});
    let made = server.curl("/api/2.0/drives/").json("POST", &body).run();
    let path = server.capability(made.json()["objects"][0]["uuid"].as_str().expect("an id"));
    let ask = |path: &str, last: u8| {
        let mut stream = connected(server.authority(), b"");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{last}\r\n\r\n").unwrap();
        (peer::read_head(&mut stream).status, stream)
    };
    let held = [ask(&path, 7), ask(&path, 7), ask(&path, 8)];
    assert!(held.iter().all(|(status, _)| *status == 200));
    assert_eq!([ask(&path, 7).0, ask(&path, 8).0, ask("/healthz", 7).0], [503, 200, 200]);
    drop(held);
    crate::harness::wait_for("the shares of those that left", || (ask(&path, 7).0 == 200).then_some(()));
}

#[test]
fn a_proxy_without_its_header_is_cut_and_others_need_none() {
    let server = behind(true);
    for wrong in [&b""[..], b"PROXY TCP4 203.0.113.7\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\0"] {
        assert_eq!(answer_to(connected(server.authority(), wrong), "/healthz"), "");
    }
    let other = server.anonymous_curl("/healthz").args(&["--interface", "127.0.0.2"]).run();
    assert_eq!(other.status, 200);
    assert!(!is_logged(&server, "203.0.113.7"));
}

#[test]
fn a_proxy_that_sends_no_header_is_not_waited_for_longer_than_for_a_head() {
    let server = Setup::default().config("proxy.trusted = [\"127.0.0.1\"]").config("proxy.protocol = true");
    let server = server.config("limits.head_seconds = 1").start();
    let mut silent = connected(server.authority(), b"PROXY TCP4 ");
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    // A complete header is accepted, as curl itself sends it.
    assert_eq!(server.anonymous_curl("/healthz").arg("--haproxy-protocol").run().status, 200);
}
