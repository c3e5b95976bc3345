//! Downloads: the redirect, the URL that it leads to, and the fields of the answer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::harness::peer;
use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::{Curl, Server, Setup, image};

/// Starts a server with one drive; returns its UUID.
fn with_drive() -> (Server, String) {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 2_000_003, 21);
    let uuid = server.upload(&disk);
    (server, uuid)
}

#[test]
fn the_answer_names_the_drive_and_is_not_to_be_kept() {
    let (server, uuid) = with_drive();
    let response = server.download(&uuid, &server.scratch().join("back.img"));
    assert_eq!(response.field("content-type"), "application/octet-stream");
    assert_eq!(response.field("content-length"), "2000003");
    assert_eq!(response.field("accept-ranges"), "bytes");
    assert_eq!(response.field("cache-control"), "no-store");
    assert_eq!(response.field("referrer-policy"), "no-referrer");
    assert!(response.field("etag").starts_with('"'), "the tag is strong");
    let disposition = response.field("content-disposition").replace('"', "");
    assert_eq!(disposition, format!("attachment; filename={uuid}"));
    assert_eq!(response.values("x-request-id").len(), 1);
}

#[test]
fn head_says_what_get_would() {
    let (server, uuid) = with_drive();
    let path = server.capability(&uuid);
    let mut client = server.raw();
    client.send_head(&format!("HEAD {path}"), &[]);
    let head = client.head();
    // The connection continues, so no byte of a body was sent.
    client.send_head(&format!("GET {path}"), &[]);
    let get = client.response();
    assert_eq!((head.status, get.status, get.body.len()), (200, 200, 2_000_003));
    for name in ["content-type", "content-length", "etag", "accept-ranges", "content-disposition", "cache-control"] {
        assert_eq!(head.field(name), get.field(name));
    }
    assert_eq!(server.curl(&format!("/api/2.0/drives/{uuid}/download/")).arg("--head").run().status, 302);
}

#[test]
fn the_redirect_keeps_to_this_server_whatever_host_is_named() {
    let (server, uuid) = with_drive();
    let authorization = basic(&server.credentials());
    let mut client = server.raw();
    let request = format!(
        "GET /api/2.0/drives/{uuid}/download/ HTTP/1.1\r\nHost: attacker.example\r\nX-Forwarded-Host: attacker.example\r\n\
         {authorization}\r\n\r\n"
    );
    client.send(request.as_bytes());
    let response = client.response();
    assert_eq!(response.status, 302);
    assert!(response.field("location").starts_with("/t/"), "{response:?}");
    assert_eq!(response.field("cache-control"), "no-store");
    assert_eq!(response.field("referrer-policy"), "no-referrer");
}

/// curl sends no credentials to the second host, but sends it the range.
#[test]
fn a_redirect_to_another_host_works_without_credentials_and_keeps_the_range() {
    // A port that was free a moment ago, since the URL must be known before the server listens.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let server = Setup::default()
        .listen(&format!("127.0.0.1:{port}"))
        .config(&format!("direct.public_url = \"http://localhost:{port}\""))
        .start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 700_001, 22);
    let uuid = server.upload(&disk);
    let curl = server.curl(&format!("/api/2.0/drives/{uuid}/download/"));
    let (output, response) = curl.args(&["--location", "--ipv4", "--verbose", "--range", "1000-600000"]).try_run();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(response.status, 206, "{said}");
    assert!(response.body == image::part(&disk, 1000, 599_001), "the bytes differ");
    let sent = |field: &str| said.matches(&format!("> {field}: ")).count();
    assert_eq!((sent("Authorization"), sent("Range")), (1, 2), "{said}");
}

#[test]
fn a_url_serves_only_its_own_drive_and_only_reading() {
    let (server, uuid) = with_drive();
    let disk = server.scratch().join("disk.img");
    let other = server.upload(&disk);
    let path = server.capability(&uuid);
    assert_eq!(server.anonymous_curl(&path).run().status, 200);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(server.anonymous_curl(&path).method(method).run().status, 405, "{method}");
    }
    let token = path.split('/').nth(2).unwrap();
    let (left, right) = token.split_at(token.len() / 2);
    let forged = format!("{left}{}{}", if right.starts_with('A') { 'E' } else { 'A' }, &right[1..]);
    let long = "A".repeat(6000);
    for path in [
        path.replace(&uuid, &other),
        path.replace(token, &forged),
        path.replace(token, &token[..token.len() - 4]),
        path.replace(token, &long),
        path.replace(token, "%00"),
    ] {
        let response = server.anonymous_curl(&path).run();
        assert!((400..500).contains(&response.status), "{path}: {}", response.status);
        assert!(response.body.len() < 1000, "{path} gave {} bytes", response.body.len());
    }
}

#[test]
fn a_url_ends_with_its_time() {
    let server = Setup::default().config("limits.ticket_seconds = 0").start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 23);
    let path = server.capability(&server.upload(&disk));
    let response = server.anonymous_curl(&path).run();
    assert!((400..500).contains(&response.status), "{response:?}");
}

#[test]
fn a_url_dies_with_its_drive() {
    let (server, uuid) = with_drive();
    let path = server.capability(&uuid);
    assert_eq!(server.curl(&format!("/api/2.0/drives/{uuid}/")).method("DELETE").run().status, 204);
    let response = server.anonymous_curl(&path).run();
    assert!((400..500).contains(&response.status), "{response:?}");
}

#[test]
fn a_url_is_written_nowhere() {
    let server = Setup::default().env("LONGSHORE_LOG__LEVEL", "trace").start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 24);
    let path = server.capability(&server.upload(&disk));
    assert_eq!(server.anonymous_curl(&path).run().status, 200);
    let token = path.split('/').nth(2).unwrap();
    let (_, password) = server.credentials().split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())).unwrap();
    let metrics = server.anonymous_curl("/metrics").run().text();
    for secret in [token, &password] {
        assert!(!server.logged().contains(secret), "the log holds a secret");
        assert!(!metrics.contains(secret), "the metrics hold a secret");
    }
}

#[test]
fn an_answer_says_where_the_time_went() {
    let server = peer::tls_setup().start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 5_000_003, 22);
    let named = |timing: &str| -> Vec<String> {
        let metrics = timing.split(", ").map(|metric| metric.split_once(";dur=").expect("a metric has a duration"));
        metrics.inspect(|(_, ms)| assert!(ms.parse::<f64>().is_ok_and(|ms| ms >= 0.0))).map(|(n, _)| n.into()).collect()
    };
    let upload = peer::trusting(server.curl("/api/2.0/drives/upload/")).upload("POST", &disk).run();
    assert_eq!(named(upload.field("server-timing")), ["peer", "digest", "disk", "memory", "total"]);
    let path = format!("/api/2.0/drives/{}/download/", uuid_of(&upload));
    let back = server.scratch().join("back.img");
    let download = |version: &str, field: &str| {
        let curl = peer::trusting(server.curl(&path)).args(&["--location", version]).header(field).output(&back);
        let response = curl.run();
        image::assert_same(&disk, &back);
        response
    };
    for (version, field) in [("--http1.1", "TE: trailers"), ("--http2", "Accept: */*")] {
        let response = download(version, field);
        assert_eq!(named(response.field("server-timing")), ["open"]);
        assert_eq!((response.field("content-length"), response.values("trailer").len()), ("5000003", 0));
    }
    let redirect = peer::trusting(server.curl(&path)).run();
    let place = redirect.field("location");
    let path = place.strip_prefix(server.endpoint()).unwrap_or(place);
    assert_eq!(frames_of_a_download(&server, path, ("accept", "*/*")), (1, 5_000_003));
    assert_eq!(frames_of_a_download(&server, path, ("te", "trailers")), (2, 5_000_003));
}

/// Downloads over HTTP/2. Returns the number of HEADERS frames, of which the last must end the stream if there are
/// several, and the number of data bytes. curl stops at the length in the head, and does not see what follows.
fn frames_of_a_download(server: &Server, path: &str, field: (&str, &str)) -> (usize, usize) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// An initial window without bounds, for the stream and then for the connection: RFC 9113 sections 6.5 and 6.9.
    const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
    const WINDOW: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0];
    // Literal fields without indexing (RFC 7541 section 6.2.2). A length of up to 126 is one byte; a longer one has its
    // rest in a second byte.
    let text = |text: &str| match text.len() {
        short @ 0..127 => [&[short as u8], text.as_bytes()].concat(),
        long => [&[127, (long - 127) as u8], text.as_bytes()].concat(),
    };
    assert!(path.len() < 127 + 128, "the length takes no third byte");
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path), field];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect();
    // END_STREAM and END_HEADERS, on stream 1.
    let head = [&[0, (block.len() >> 8) as u8, block.len() as u8, 1, 5, 0, 0, 0, 1], &block[..]].concat();
    let mut stream = peer::tls(TcpStream::connect(peer::authority(server)).expect("the server listens"), "h2");
    stream.write_all(&[PREFACE, SETTINGS, WINDOW, &head].concat()).expect("the server reads");
    let (mut heads, mut data) = (0, 0);
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).expect("a frame comes");
        let mut payload = vec![0; u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize];
        stream.read_exact(&mut payload).expect("a frame is whole");
        match frame[3] {
            0 => data += payload.len(),
            1 => heads += 1,
            3 | 7 => panic!("the stream was reset, or the connection: {payload:?}"),
            _ => continue,
        }
        if frame[4] & 1 != 0 {
            return (heads, data);
        }
    }
}

#[test]
fn an_unknown_drive_is_404_and_a_stranger_401() {
    let (server, uuid) = with_drive();
    let unknown = "/api/2.0/drives/00000000-0000-4000-8000-000000000000/download/";
    let response = server.curl(unknown).run();
    assert_eq!(response.status, 404);
    assert_eq!(response.json()[0]["error_type"], serde_json::json!("notexist"));
    let url = format!("{}/api/2.0/drives/{uuid}/download/", server.endpoint());
    for curl in [Curl::new(&url), Curl::new(&url).user("admin:wrong"), Curl::new(&url).user("nobody:wrong")] {
        let response = curl.run();
        assert_eq!(response.status, 401);
        assert!(response.field("www-authenticate").starts_with("Basic"), "{response:?}");
    }
}

#[test]
fn a_date_tells_what_a_client_has_and_stays_with_the_bytes() {
    let (server, uuid) = with_drive();
    let path = server.capability(&uuid);
    let ask =
        |fields: &[String]| fields.iter().fold(server.anonymous_curl(&path), |curl, field| curl.header(field)).run();
    let date = ask(&[]).field("last-modified").to_owned();
    assert!(date.ends_with(" GMT"), "{date}");
    let change = serde_json::json!({"name": "another", "media": "disk", "size": 2_000_003});
    let renamed = server.curl(&format!("/api/2.0/drives/{uuid}/")).json("PUT", &change).run();
    assert_eq!(renamed.status, 200, "{renamed:?}");
    assert_eq!(ask(&[]).field("last-modified"), date, "only the name has changed");
    let have = format!("If-Modified-Since: {date}");
    let response = ask(std::slice::from_ref(&have));
    assert_eq!((response.status, response.body.len()), (304, 0));
    assert!(!response.field("etag").is_empty());
    assert_eq!(ask(&[have, "If-None-Match: \"other\"".to_owned()]).status, 200);
    let long_ago = "Thu, 01 Jan 1970 00:00:00 GMT";
    assert_eq!(ask(&[format!("If-Modified-Since: {long_ago}")]).status, 200);
    assert_eq!(ask(&[format!("If-Unmodified-Since: {long_ago}")]).status, 412);
    assert_eq!(ask(&[format!("If-Unmodified-Since: {date}")]).status, 200);
    let part = ["Range: bytes=5-14".to_owned(), format!("If-Range: {date}")];
    assert_eq!((ask(&part).status, ask(&part).body.len()), (206, 10));
    assert_eq!(ask(&["Range: bytes=5-14".to_owned(), format!("If-Range: {long_ago}")]).status, 200);
}
