//! The end of connections: half closed, reset, with more sent than is read.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::net::sockopt;

use crate::harness::raw::basic;
use crate::harness::{PATIENCE, RawClient, Server, Setup, image, peer, stored, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

/// Complete requests, each followed by the end of the sending side.
fn whole_requests(server: &Server) -> Vec<(&'static str, Vec<u8>)> {
    let authorization = basic(&server.credentials());
    let request = |what: &str, fields: &str, body: &[u8]| {
        let head = format!("{what} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{fields}\r\n");
        [head.as_bytes(), body].concat()
    };
    let sized = |size: usize| {
        let fields = format!("{OCTETS}Content-Length: {size}\r\n");
        request(&format!("POST {UPLOAD}"), &fields, &image::bytes(131, size))
    };
    let chunked = format!("{OCTETS}Transfer-Encoding: chunked\r\n");
    let json = b"{\"name\": \"a\", \"size\": 70000, \"media\": \"disk\"}";
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    vec![
        ("a probe", request("GET /healthz", "", b"")),
        ("a list", request("GET /api/2.0/drives/", "", b"")),
        ("two lists", request("GET /api/2.0/drives/", "", b"").repeat(2)),
        ("a creation", request("POST /api/2.0/drives/", &fields, json)),
        ("a small upload", sized(1000)),
        ("a large upload", sized(3_000_000)),
        ("a stream", request(&format!("POST {UPLOAD}"), &chunked, b"5\r\nhello\r\n0\r\n\r\n")),
    ]
}

/// Returns the answers that arrive until the server closes.
fn answers(stream: &mut impl Read) -> String {
    let mut came = Vec::new();
    if let Err(error) = stream.read_to_end(&mut came) {
        // The only error that a TLS stream without its closing message may have.
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }
    String::from_utf8_lossy(&came).into_owned()
}

#[track_caller]
fn assert_answered(what: &str, answers: &str) {
    let expected = if what.starts_with("two") { 2 } else { 1 };
    assert_eq!(answers.matches("HTTP/1.1 2").count(), expected, "{what}: {answers:?}");
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answers() {
    let server = Server::start();
    for (what, request) in whole_requests(&server) {
        let mut socket = TcpStream::connect(server.authority()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(&request).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_answered(what, &answers(&mut socket));
    }
    assert_eq!(server.drives().len(), 4);
}

#[test]
fn a_client_that_closes_its_sending_side_of_tls_gets_its_answers() {
    let server = peer::tls_setup().start();
    for (what, request) in whole_requests(&server) {
        let socket = TcpStream::connect(peer::authority(&server)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = peer::tls(socket, "http/1.1");
        stream.write_all(&request).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_answered(what, &answers(&mut stream));
    }
}

/// An upload that is cut by the end of the sending side has failed.
#[test]
fn an_upload_that_ends_before_its_length_is_none() {
    let server = Server::start();
    for sent in [0, 1000, 2_000_000] {
        let mut client = server.raw();
        let authorization = basic(&server.credentials());
        let fields = [&authorization, OCTETS.trim_end(), "Content-Length: 3000000"];
        client.send_head(&format!("POST {UPLOAD}"), &fields);
        client.send(&image::bytes(132, sent));
        client.half_close();
        if !client.is_closed() {
            assert_eq!(client.response().status, 400);
        }
        stored::wait_until_nothing_is_left(&server);
    }
}

/// Sends a request that stays in progress until the identity service, which never answers, is released.
fn asked(server: &Server, silent: &TcpListener) -> (RawClient, TcpStream) {
    let mut client = server.raw();
    client.send_head("GET /api/2.0/drives/", &["X-Auth-Token: secret"]);
    let (asked, _) = silent.accept().expect("the server asks");
    (client, asked)
}

fn with_silent_keystone() -> (Server, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let server = Setup::default()
        .config(&format!("keystone = {{ url = \"{url}\", user = \"u\", password = \"p\", project = \"p\" }}"))
        .config("log.level = \"debug\"")
        .start();
    (server, silent)
}

/// A peer that has closed or lost both sides must not keep its request in progress.
#[test]
fn a_peer_that_is_gone_is_noticed_while_its_request_is_worked_on() {
    let (server, silent) = with_silent_keystone();
    for (half_closes, resets) in [(false, true), (true, true), (true, false), (false, false)] {
        let (client, _asked) = asked(&server, &silent);
        if half_closes {
            client.half_close();
        }
        let told = server.logged().matches("has reset the connection").count();
        if resets {
            sockopt::set_socket_linger(client.socket(), Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(client);
        wait_for("its end to be noticed", || {
            (server.logged().matches("has reset the connection").count() > told).then_some(())
        });
    }
}

#[test]
fn a_peer_that_only_closed_its_side_is_sent_interim_answers_and_then_its_own() {
    let (server, silent) = with_silent_keystone();
    let (mut client, asked) = asked(&server, &silent);
    client.half_close();
    for _ in 0..2 {
        assert_eq!(client.head().status, 100);
    }
    drop((asked, silent));
    assert_eq!(client.response().status, 401);
    assert!(client.is_closed());
}

/// Clients that write everything before they read must still get the reason of a refusal.
#[test]
fn a_body_that_nobody_wants_does_not_cost_the_client_its_answer() {
    let server = Server::start();
    let body = vec![b'x'; 10 << 20];
    let admin = basic(&server.credentials());
    let json = "Content-Type: application/json";
    let length = format!("Content-Length: {}", body.len());
    let chunked = "Transfer-Encoding: chunked";
    for (request, fields, expected) in [
        ("POST /api/2.0/drives/", vec![json, &admin, &length], 413),
        ("POST /api/2.0/drives/", vec![json, &length], 401),
        ("POST /volumes/initialize", vec![json, &admin, &length], 413),
        ("POST /v3/auth/tokens", vec![json, &length], 413),
        ("POST /v3/p/volumes", vec![json, &admin, &length], 401),
        ("GET /healthz", vec![&length], 200),
        ("DELETE /healthz", vec![&length], 405),
        ("GET /api/2.0/drives/", vec![&admin, &length], 200),
        ("POST /nowhere", vec![&length], 404),
        // Refused because of its framing.
        ("POST /api/2.0/drives/", vec![json, &admin, chunked, &length], 400),
        // Refused before its head is complete: the rest of the head follows.
        ("POST /api/2.0/drives/", vec![json, "Bad field: x", &length], 400),
    ] {
        for _ in 0..5 {
            let mut client = server.raw();
            client.send_head(request, &fields);
            client.send(&body);
            assert_eq!(client.head().status, expected, "{request} {fields:?}");
        }
    }
}

#[test]
fn a_chunked_body_that_is_too_large_does_not_cost_the_client_its_answer() {
    let server = Server::start();
    let body = format!("{:x}\r\n{}\r\n0\r\n\r\n", 10 << 20, "x".repeat(10 << 20));
    for _ in 0..5 {
        let mut client = server.raw();
        let fields = [&basic(&server.credentials()), "Content-Type: application/json", "Transfer-Encoding: chunked"];
        client.send_head("POST /api/2.0/drives/", &fields);
        client.send(body.as_bytes());
        let refused = client.response();
        assert_eq!((refused.status, refused.field("connection")), (413, "close"));
        assert!(client.is_closed());
    }
}

#[test]
fn a_head_above_its_bound_is_answered_with_431() {
    let server = Server::start();
    for large in [format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000)), "GET / HTTP/1.1\r\n".to_owned()] {
        let mut client = server.raw();
        let rest = format!("{large}Host: x\r\nX: {}\r\nY: ", "a".repeat(12_000));
        client.send(rest.as_bytes());
        let _ = client.try_send(&vec![b'b'; 1 << 20]);
        assert_eq!(client.head().status, 431);
    }
    // Usual tokens and cookies are below the limit.
    let mut client = server.raw();
    client.send_head("GET /healthz", &[&format!("Cookie: {}", "a".repeat(12_000))]);
    assert_eq!(client.response().status, 200);
}
