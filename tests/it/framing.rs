//! Requests whose end two readers could see in two places (RFC 9112 section 6): refused, and the connection closed.

use crate::harness::raw::basic;
use crate::harness::{Server, machine};

#[test]
fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let server = Server::start();
    let before = machine::disk_usage(server.data());
    let cases: [&[&str]; 9] = [
        &["Transfer-Encoding: chunked", "Content-Length: 5"],
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: 5", "Content-Length: 6"],
        &["Content-Length: 5, 5"],
        &["Content-Length: +5"],
        &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        &["Transfer-Encoding: gzip, chunked"],
        &["Content-Length : 5"],
    ];
    for framing in cases {
        let mut client = server.raw();
        let authorization = basic(&server.credentials());
        let fixed = [authorization.as_str(), "Content-Type: application/octet-stream"];
        client.send_head("POST /api/2.0/drives/upload/", &[&fixed, framing].concat());
        // The server may have closed already.
        let _ = client.try_send(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 400, "{framing:?}: {response:?}");
        assert!(client.is_closed(), "{framing:?}: what followed was read as a request");
    }
    assert!(server.drives().is_empty());
    assert!(machine::disk_usage(server.data()) < before + (64 << 10));
}

#[test]
fn a_folded_field_is_refused() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: one\r\n two\r\n\r\n");
    assert_eq!(client.head().status, 400);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(client.response().status, 200);
        assert_eq!(client.response().status, 404);
    }
}

#[test]
fn a_head_that_never_ends_is_cut() {
    let server = crate::harness::Setup::default().config("limits.head_seconds = 1").start();
    let mut client = server.raw();
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    if !client.is_closed() {
        assert!((400..500).contains(&client.head().status));
    }
}

#[test]
fn a_head_without_bound_is_refused() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: ");
    let part = vec![b'a'; 64 << 10];
    // 64 MiB: the server must not hold it, and must not wait for its end.
    let refused = (0..1024).any(|_| client.try_send(&part).is_err());
    assert!(refused || (400..500).contains(&client.head().status));
    assert!(machine::peak_memory(server.pid()) < 64 << 20);
    assert_eq!(server.anonymous_curl("/healthz").run().status, 200);
}
