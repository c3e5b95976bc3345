//! Uploads: those that become drives, and those that leave nothing.

use std::fs;

use base64::Engine as _;
use serde_json::json;
use sha2::Digest as _;

use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::{Server, Setup, image, machine, stored, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";

#[test]
fn post_and_put_with_or_without_a_file_name_make_a_drive_of_the_same_bytes() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 300_001, 2);
    for (n, (method, path)) in [
        ("POST", "/api/2.0/drives/upload/"),
        ("PUT", "/api/2.0/drives/upload/"),
        ("POST", "/api/2.0/drives/upload/some%20disk.img"),
        ("PUT", "/api/2.0/drives/upload/disk.img"),
    ]
    .into_iter()
    .enumerate()
    {
        let uuid = uuid_of(&server.curl(path).upload(method, &disk).run());
        let back = server.scratch().join(format!("back{n}"));
        server.download(&uuid, &back);
        image::assert_same(&disk, &back);
        let drive = server.drive(&uuid);
        assert_eq!(drive["size"], json!(300_001), "{method} {path}");
        assert_eq!(drive["status"], json!("unmounted"), "{method} {path}");
    }
    assert_eq!(server.drives().len(), 4);
}

/// Sizes around those of a sector, a page, a zero granule, a block and a piece.
#[test]
fn a_drive_has_the_size_of_its_image_to_the_byte() {
    let server = Setup::default().config("limits.min_drive = \"1 B\"").defaults().start();
    let edges = [1_u64, 511, 4096, 64 << 10, 1 << 20, 4 << 20, 17 << 20];
    for (n, size) in edges.into_iter().flat_map(|edge| [edge.max(2) - 1, edge, edge + 1]).enumerate() {
        let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
        image::sparse(&disk, size, n as u64);
        let uuid = server.upload(&disk);
        server.download(&uuid, &back);
        image::assert_same(&disk, &back);
    }
}

#[test]
fn an_image_below_the_minimum_is_grown_with_zeros() {
    let server = Setup::default().defaults().config("limits.min_drive = \"3 MiB\"").start();
    for size in [1, 300_001, (3 << 20) - 1] {
        let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
        image::random(&disk, size, size);
        let uuid = server.upload(&disk);
        assert_eq!(server.drive(&uuid)["size"], json!(3 << 20));
        server.download(&uuid, &back);
        image::assert_same_then_zeros(&disk, &back, 3 << 20);
    }
}

#[test]
fn a_stream_of_unknown_length_becomes_a_drive_of_what_arrived() {
    let server = Server::start();
    for (method, size) in [("POST", 5_000_017), ("PUT", 1 << 20)] {
        let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
        image::sparse(&disk, size, size);
        let uuid = uuid_of(&server.curl(UPLOAD).upload_stream(method, &disk).run());
        assert_eq!(server.drive(&uuid)["size"], json!(size));
        server.download(&uuid, &back);
        image::assert_same(&disk, &back);
    }
}

#[test]
fn holes_take_no_disk() {
    let server = Server::start();
    let before = machine::disk_usage(server.data());
    let disk = server.scratch().join("disk.img");
    image::zero(&disk, 64 << 20);
    server.upload(&disk);
    let taken = machine::disk_usage(server.data()) - before;
    assert!(taken < 1 << 20, "64 MiB of zeros take {taken} bytes");
}

#[test]
fn a_client_that_waits_for_100_gets_it_when_the_upload_is_admitted() {
    let server = Server::start();
    let body = image::bytes(3, 200_000);
    let mut client = server.raw();
    let length = format!("Content-Length: {}", body.len());
    client.send_head(
        &format!("POST {UPLOAD}"),
        &[&basic(&server.credentials()), OCTETS, &length, "Expect: 100-continue"],
    );
    assert_eq!(client.head().status, 100);
    client.send(&body);
    uuid_of(&client.response());
}

/// Each is answered with a status of its own before any byte of the body is sent.
#[test]
fn a_client_that_waits_for_100_is_refused_before_it_sends_its_image() {
    let server = Setup::default().config("limits.max_drive = \"1 MiB\"").start();
    let right = basic(&server.credentials());
    let wrong = basic("admin:not-the-password");
    let cases: [(u16, &[&str]); 5] = [
        (401, &[OCTETS, "Content-Length: 100000"]),
        (401, &[&wrong, OCTETS, "Content-Length: 100000"]),
        (413, &[&right, OCTETS, "Content-Length: 1048577"]),
        (413, &[&right, OCTETS, "Content-Length: 9223372036854775807"]),
        (415, &[&right, "Content-Type: text/plain", "Content-Length: 100000"]),
    ];
    for (status, lines) in cases {
        let mut client = server.raw();
        client.send_head(&format!("POST {UPLOAD}"), &[lines, &["Expect: 100-continue"]].concat());
        assert_eq!(client.head().status, status, "{lines:?}");
    }
    assert!(server.drives().is_empty());
}

#[test]
fn a_type_other_than_octet_stream_is_refused() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 4);
    for header in [
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: application/json",
        "Content-Type: text/plain",
    ] {
        let curl = server.curl(UPLOAD).method("POST").header(header).arg("--upload-file").arg(&disk);
        let (_, response) = curl.try_run();
        assert_eq!(response.status, 415, "{header}: {response:?}");
        assert_eq!(response.json()[0]["error_type"], json!("validation"));
    }
    assert!(server.drives().is_empty());
    // curl sends no content type for a file unless it is given one.
    for header in ["Content-Type: Application/Octet-Stream; charset=binary", "Content-Type:"] {
        uuid_of(&server.curl(UPLOAD).method("POST").header(header).arg("--upload-file").arg(&disk).run());
    }
}

#[test]
fn an_empty_image_is_refused() {
    let server = Server::start();
    let authorization = basic(&server.credentials());
    let head = [authorization.as_str(), OCTETS];
    let empty: [(&[&str], &[u8]); 3] =
        [(&["Content-Length: 0"], b""), (&[], b""), (&["Transfer-Encoding: chunked"], b"0\r\n\r\n")];
    for (lines, body) in empty {
        let mut client = server.raw();
        client.send_head(&format!("POST {UPLOAD}"), &[&head, lines].concat());
        client.send(body);
        assert_eq!(client.response().status, 400, "{lines:?}");
    }
    assert!(server.drives().is_empty());
}

#[test]
fn a_stream_that_grows_too_large_is_cut_and_leaves_nothing() {
    let server = Setup::default().config("limits.max_drive = \"1 MiB\"").start();
    let before = machine::disk_usage(server.data());
    let disk = server.scratch().join("disk.img");
    image::random(&disk, (1 << 20) + 1, 5);
    let (_, response) = server.curl(UPLOAD).upload_stream("POST", &disk).try_run();
    assert_eq!(response.status, 413, "{response:?}");
    nothing_is_left(&server, before);
}

#[test]
fn a_short_body_leaves_nothing() {
    let server = Server::start();
    let before = machine::disk_usage(server.data());
    for chunked in [false, true] {
        let mut client = begun_upload(&server, chunked);
        client.half_close();
        // The answer may be lost on the network, but it must not be a success.
        if !client.is_closed() {
            assert_eq!(client.head().status, 400);
        }
        nothing_is_left(&server, before);
        drop(begun_upload(&server, chunked));
        nothing_is_left(&server, before);
    }
}

#[test]
fn a_stalled_upload_is_cut_and_leaves_nothing() {
    let server = Setup::default().config("limits.idle_seconds = 1").start();
    let before = machine::disk_usage(server.data());
    let mut client = begun_upload(&server, false);
    if !client.is_closed() {
        assert_eq!(client.head().status, 408);
    }
    nothing_is_left(&server, before);
}

#[test]
fn an_asserted_digest_is_checked() {
    let server = Server::start();
    let before = machine::disk_usage(server.data());
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_001, 6);
    let digest = sha2::Sha256::digest(std::fs::read(&disk).unwrap());
    let right = format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest));
    let wrong = format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode([7; 32]));
    for name in ["Repr-Digest", "Content-Digest"] {
        let curl = server.curl(UPLOAD).upload("POST", &disk).header(&format!("{name}: {wrong}"));
        let (_, response) = curl.try_run();
        assert!((400..500).contains(&response.status), "{name}: {response:?}");
        nothing_is_left(&server, before);
    }
    let asserted = server.curl(UPLOAD).upload("POST", &disk).header(&format!("Repr-Digest: {right}")).run();
    uuid_of(&asserted);
    let wanted = server.curl(UPLOAD).upload("POST", &disk).header("Want-Repr-Digest: sha-256=10").run();
    uuid_of(&wanted);
    assert_eq!(wanted.field("repr-digest"), right);
}

#[test]
fn a_quota_refuses_what_is_over_it_and_forgets_what_failed() {
    let server = Setup::default().env("LONGSHORE_QUOTA__BYTES", "1 MiB").start();
    let user = server.add_user("small");
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 700 << 10, 7);
    let first = uuid_of(&server.curl_as(&user, UPLOAD).upload("POST", &disk).run());
    let (_, over) = server.curl_as(&user, UPLOAD).upload("POST", &disk).try_run();
    assert!((400..500).contains(&over.status), "{over:?}");
    let (_, over) = server.curl_as(&user, UPLOAD).upload_stream("POST", &disk).try_run();
    assert!((400..500).contains(&over.status), "{over:?}");
    assert_eq!(server.drives_of(&user), [first.as_str()]);

    assert_eq!(server.curl_as(&user, &format!("/api/2.0/drives/{first}/")).method("DELETE").run().status, 204);
    let mut client = server.raw();
    client.send_head(&format!("POST {UPLOAD}"), &[&basic(&user), OCTETS, "Content-Length: 716800"]);
    client.send(&image::bytes(8, 100_000));
    drop(client);
    // The cut upload's share is released when the server sees the end of the connection.
    wait_for("the quota to be free", || {
        let (_, response) = server.curl_as(&user, UPLOAD).upload("POST", &disk).try_run();
        (response.status == 201).then_some(())
    });
    assert_eq!(server.drives_of(&user).len(), 1);
}

/// Begins an upload: it is admitted, and a part of it was received.
fn begun_upload(server: &Server, chunked: bool) -> crate::harness::RawClient {
    let mut client = server.raw();
    let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 8000000" };
    let authorization = basic(&server.credentials());
    client.send_head(&format!("POST {UPLOAD}"), &[&authorization, OCTETS, framing, "Expect: 100-continue"]);
    assert_eq!(client.head().status, 100);
    if chunked {
        client.send(b"2dc6c0\r\n");
    }
    client.send(&image::bytes(9, 3_000_000));
    if chunked {
        client.send(b"\r\n");
    }
    client
}

/// Waits until there is no drive, no disk space used above `before`, and no block in use.
#[track_caller]
fn nothing_is_left(server: &Server, before: u64) {
    wait_for("the disk to be free again", || {
        // The blocks of folders and the server's own files may stay.
        (machine::disk_usage(server.data()) < before + (64 << 10)).then_some(())
    });
    wait_for("the blocks to be free again", || {
        (server.metric("longshore_pool_blocks_in_use") == Some(0.0)).then_some(())
    });
    // The record is removed after the bytes.
    wait_for("the drive to be gone", || server.drives().is_empty().then_some(()));
}

/// Large bodies take another route through the server than small ones; the connection must behave the same.
#[test]
fn a_connection_goes_on_after_a_large_upload_unless_the_peer_wants_it_closed() {
    let server = Server::start();
    let authorization = basic(&server.credentials());
    let upload = |len: usize, line: &str| {
        let mut request = format!(
            "POST /api/2.0/drives/upload/ HTTP/1.1\r\nHost: x\r\n{authorization}\r\nContent-Type: \
             application/octet-stream\r\nContent-Length: {len}\r\n{line}\r\n"
        )
        .into_bytes();
        request.extend(image::bytes(len as u64, len));
        request
    };
    let lengths = [3_000_000, 100_000, 5 << 20, 262_144, 262_145, 1_000_001];
    let mut client = server.raw();
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    // Everything at once: the end of each body arrives together with the next request.
    for len in lengths {
        client.send(&upload(len, ""));
        client.send(health);
    }
    let mut drives = Vec::new();
    for len in lengths {
        let response = client.response();
        assert_eq!((response.status, response.values("connection").len()), (201, 0), "{len}: {response:?}");
        drives.push((len, uuid_of(&response)));
        assert_eq!(client.response().status, 200, "after {len}");
    }
    // A refusal reaches the peer, however large the body is.
    client.send(&upload(2_000_000, "Content-Encoding: gzip\r\n"));
    assert_eq!(client.response().status, 415);
    let mut client = server.raw();
    client.send(&upload(2_000_000, "Connection: Close\r\n"));
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (201, "close"));
    assert!(client.is_closed());
    for (len, uuid) in drives {
        let stored = fs::read(stored::image_of(&server, &uuid)).expect("the drive is there");
        assert!(stored[..] == image::bytes(len as u64, len)[..], "{len}");
    }
}
