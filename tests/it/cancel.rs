//! Transfers that end early, by the client or from outside, and the resources that they release.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::json;

use crate::harness::raw::basic;
use crate::harness::stored::{self, image_of};
use crate::harness::{PATIENCE, RawClient, Server, Setup, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";
/// The bytes that a begun upload sends.
const SENT: usize = 3_000_000;

/// Begins an upload, of which a part was received and written.
fn begun(server: &Server, chunked: bool) -> RawClient {
    let mut client = begun_unread(server, chunked);
    assert_eq!(client.head().status, 100);
    client
}

/// Begins an upload whose 100 (Continue) is not read yet.
fn begun_unread(server: &Server, chunked: bool) -> RawClient {
    let mut client = server.raw();
    let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 8000000" };
    let authorization = basic(&server.credentials());
    client.send_head(&format!("POST {UPLOAD}"), &[&authorization, OCTETS, framing, "Expect: 100-continue"]);
    if chunked {
        client.send(format!("{SENT:x}\r\n").as_bytes());
    }
    client.send(&image::bytes(100, SENT));
    if chunked {
        client.send(b"\r\n");
    }
    wait_for("a part to be on the disk", || (stored::disk(server) > 2 << 20).then_some(()));
    client
}

/// Starts a slow upload by curl.
fn slow_curl(server: &Server) -> Child {
    let disk = server.scratch().join("slow.img");
    image::random(&disk, 8_000_000, 101);
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--noproxy", "*", "--limit-rate", "3M", "--max-time", "60"]);
    command.args(["--user", &server.credentials(), "--header", OCTETS, "--request", "POST", "--upload-file"]);
    command.arg(disk).arg(format!("{}{UPLOAD}", server.endpoint()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("curl runs");
    wait_for("a part to be on the disk", || (stored::disk(server) > 1 << 20).then_some(()));
    child
}

#[test]
fn a_killed_curl_gives_back_disk_quota_and_blocks() {
    let server = Server::start();
    let mut curl = slow_curl(&server);
    assert_eq!(server.drives().len(), 1, "it is seen while it uploads");
    assert_eq!(stored::used(&server, "admin"), (1, 8_000_000));
    curl.kill().unwrap();
    curl.wait().unwrap();
    stored::wait_until_nothing_is_left(&server);
}

#[test]
fn a_reset_connection_gives_back_disk_quota_and_blocks() {
    let server = Server::start();
    for chunked in [false, true] {
        // A connection that is closed with unread bytes, here the 100, is reset (RFC 9293 section 3.6.1).
        drop(begun_unread(&server, chunked));
        stored::wait_until_nothing_is_left(&server);
    }
}

#[test]
fn a_half_closed_or_closed_connection_gives_back_disk_quota_and_blocks() {
    let server = Server::start();
    for chunked in [false, true] {
        let mut client = begun(&server, chunked);
        client.half_close();
        if !client.is_closed() {
            assert_eq!(client.response().status, 400);
        }
        stored::wait_until_nothing_is_left(&server);
        drop(begun(&server, chunked));
        stored::wait_until_nothing_is_left(&server);
    }
}

#[test]
fn deleting_a_drive_that_is_uploading_ends_the_upload() {
    let server = Server::start();
    for chunked in [false, true] {
        let mut client = begun(&server, chunked);
        let uuid = server.drives().pop().expect("it is seen while it uploads");
        assert_eq!(server.drive(&uuid)["status"], json!("uploading"));
        assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run().status, 204);
        stored::wait_until_nothing_is_left(&server);
        if !client.is_closed() {
            let response = client.response();
            assert_eq!(response.status, 409, "{response:?}");
        }
        assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).run().status, 404);
    }
}

/// The deletion comes at every stage of the upload, its end included.
#[test]
fn an_upload_that_races_with_its_deletion_leaves_nothing() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_000, 102);
    for round in 0..8 {
        thread::scope(|scope| {
            let upload = scope.spawn(|| {
                let curl = server.curl(UPLOAD);
                let chunked = round % 2 == 1;
                if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) }.try_run()
            });
            let uuid = wait_for("the upload to be seen", || server.drives().pop());
            let deleted = server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run();
            assert_eq!(deleted.status, 204, "{deleted:?}");
            let (output, response) = upload.join().unwrap();
            assert!(!output.status.success() || matches!(response.status, 201 | 409), "{response:?}");
        });
        stored::wait_until_nothing_is_left(&server);
    }
    assert!(!server.logged().contains("ERROR"), "an end that was asked for is no error");
}

#[test]
fn of_two_deletions_at_once_each_is_answered_and_the_drive_goes_once() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_000, 103);
    for _ in 0..5 {
        let uuid = server.upload(&disk);
        let path = format!("{DRIVES}{uuid}/");
        let statuses: Vec<u16> = thread::scope(|scope| {
            let deletions: Vec<_> =
                (0..3).map(|_| scope.spawn(|| server.curl(&path).method("DELETE").run().status)).collect();
            deletions.into_iter().map(|deletion| deletion.join().unwrap()).collect()
        });
        assert!(statuses.iter().all(|status| matches!(status, 204 | 404)), "{statuses:?}");
        assert!(statuses.contains(&204), "{statuses:?}");
        stored::wait_until_nothing_is_left(&server);
    }
}

/// The bytes sent until then are correct, and the disk space is free at once, though the client would have read on.
#[test]
fn deleting_a_drive_ends_its_downloads_and_frees_the_disk() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 40 << 20, 104);
    let uuid = server.upload(&disk);
    let path = server.capability(&uuid);
    let mut client = TcpStream::connect(server.authority()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority()).as_bytes()).unwrap();
    let mut got = vec![0; 1 << 20];
    client.read_exact(&mut got).unwrap();
    assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run().status, 204);
    stored::wait_until_nothing_is_left(&server);
    let file = image_of(&server, &uuid).display().to_string();
    wait_for("the file to be closed", || {
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
        let names: Vec<String> =
            open.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|name| name.display().to_string()).collect();
        names.iter().all(|name| !name.contains(&uuid) && !name.starts_with(&file)).then_some(())
    });
    // Both an end and a reset are fine.
    let _ = client.read_to_end(&mut got);
    let head = got.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    let body = &got[head..];
    assert!(body.len() < 40 << 20, "the download was cut");
    assert!(body == image::part(&disk, 0, body.len()), "what came is what was stored");
    assert_eq!(server.anonymous_curl(&path).run().status, 404);
}

#[test]
fn many_cancelled_uploads_at_once_leave_nothing() {
    let server = Setup::default().config("memory.budget = \"8 MiB\"").start();
    let clients: Vec<RawClient> = (0..20).map(|n| begun(&server, n % 2 == 0)).collect();
    drop(clients);
    stored::wait_until_nothing_is_left(&server);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 5_000_000, 105);
    let uuid = server.upload(&disk);
    image::assert_same(&disk, &image_of(&server, &uuid));
}
