//! Requests whose end two readers could see in different places (RFC 9112 section 6) are refused, and their connection
//! is closed.

use crate::harness::raw::basic;
use crate::harness::{Server, Setup, machine};

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
    // 64 MiB, which the server must neither hold nor read to the end.
    let refused = (0..1024).any(|_| client.try_send(&part).is_err());
    assert!(refused || (400..500).contains(&client.head().status));
    assert!(machine::peak_memory(server.pid()) < 64 << 20);
    assert_eq!(server.anonymous_curl("/healthz").run().status, 200);
}

#[test]
fn a_request_is_for_one_host() {
    let server = Server::start();
    for head in ["GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /healthz HTTP/1.0\r\n\r\n"] {
        let mut client = server.raw();
        client.send(head.as_bytes());
        assert_eq!(client.response().status, 200, "{head:?}");
    }
    for hosts in ["", "Host: x\r\nHost: x\r\n", "Host: x\r\nHost: y\r\n", "Host: x y\r\n", "Host: user@x\r\n"] {
        for path in ["/healthz", "/api/2.0/drives/", "/v3/auth/tokens", "/volumes", "/nowhere"] {
            let mut client = server.raw();
            client.send(format!("GET {path} HTTP/1.1\r\n{hosts}\r\n").as_bytes());
            let response = client.response();
            assert_eq!(response.status, 400, "{hosts:?} {path}: {response:?}");
            assert!(client.is_closed(), "{hosts:?} {path}");
        }
    }
}

/// A browser sends its remembered Basic login with all requests of a page.
#[test]
fn pages_of_other_sites_change_nothing_in_any_dialect() {
    let server = Setup::default().config("control.public_url = \"https://cloud.example.com\"").start();
    let authorization = basic(&server.credentials());
    let authority = server.authority().to_owned();
    let own = format!("Origin: http://{authority}");
    let drive = r#"{"name": "a", "size": 70000, "media": "disk"}"#;
    let ask = |request: &str, kind: &str, body: &str, fields: &[&str]| {
        let mut client = server.raw();
        let length = format!("Content-Length: {}", body.len());
        client.send_head(request, &[&[authorization.as_str(), kind, &length], fields].concat());
        client.send(body.as_bytes());
        client.response()
    };
    let json = "Content-Type: application/json";
    for (request, kind, body) in [
        ("POST /api/2.0/drives/", "Content-Type: text/plain", drive),
        ("POST /api/2.0/drives/upload/", "Content-Type: application/octet-stream", "bytes"),
        ("DELETE /api/2.0/drives/", json, "{}"),
        ("POST /volumes/create", json, r#"{"Name": "a"}"#),
        ("POST /volumes/initialize", json, r#"{"Volume": []}"#),
        ("PUT /volumes/uploadfinish?session=x", json, ""),
        ("POST /v3/auth/tokens", json, "{}"),
        ("POST /v3/p/volumes", json, r#"{"volume": {"size": 1}}"#),
        ("DELETE /v2/p/backups/x", json, ""),
    ] {
        for field in
            ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
        {
            let response = ask(request, kind, body, &[field]);
            assert_eq!(response.status, 403, "{request} {field}: {response:?}");
        }
    }
    assert!(server.drives().is_empty());
    for fields in [
        &[][..],
        &[own.as_str()],
        &["Origin: https://cloud.example.com"],
        &["Sec-Fetch-Site: same-origin", own.as_str()],
        &["Sec-Fetch-Site: none"],
    ] {
        let response = ask("POST /api/2.0/drives/", json, drive, fields);
        assert_eq!(response.status, 201, "{fields:?}: {response:?}");
    }
    let response =
        ask("GET /api/2.0/drives/", json, "", &["Sec-Fetch-Site: cross-site", "Origin: https://evil.example"]);
    assert_eq!(response.status, 200, "who only reads changes nothing");
}
