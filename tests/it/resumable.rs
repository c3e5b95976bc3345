//! Resumable uploads of the IETF, in the interop version 8 of their draft.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::peer;
use crate::harness::raw::basic;
use crate::harness::{Curl, RawClient, Response, Server, Setup, image, stored, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/disk.img";
const TRANSFERS: &str = "/api/v1/transfers";
const MIB: usize = 1 << 20;
const PROBLEMS: &str = "https://iana.org/assignments/http-problem-types#";

/// A server that has a checkpoint for each MiB of a part.
fn often_durable() -> Server {
    Setup::default().config("transfers.checkpoint_bytes = \"1MiB\"").config("transfers.checkpoint_seconds = 1").start()
}

/// Begins an upload of so many bytes, of which none is sent yet.
fn begin(server: &Server, length: usize, lines: &[&str]) -> RawClient {
    let mut client = server.raw();
    let (login, length) = (basic(&server.credentials()), format!("Content-Length: {length}"));
    let mut all = vec![login.as_str(), "Content-Type: application/octet-stream", &length];
    all.extend(lines);
    client.send_head(&format!("POST {UPLOAD}"), &all);
    client
}

const WHOLE: [&str; 2] = ["Upload-Complete: ?1", "Upload-Draft-Interop-Version: 8"];

/// Reads the interim answer that names the URL at which the upload is resumed.
#[track_caller]
fn resumes_at(client: &mut RawClient) -> String {
    let head = client.head();
    assert_eq!((head.status, head.field("upload-draft-interop-version")), (104, "8"), "{head:?}");
    assert!(head.field("upload-limit").starts_with("max-size="), "{head:?}");
    head.field("location").to_owned()
}

fn offset_of(server: &Server, url: &str) -> Response {
    let head = server.anonymous_curl(url).arg("--head").run();
    assert_eq!((head.status, head.field("cache-control")), (204, "no-store"), "{head:?}");
    head
}

fn append(server: &Server, url: &str, (offset, complete): (usize, &str), bytes: &[u8]) -> Curl {
    let part = server.scratch().join("part");
    std::fs::write(&part, bytes).expect("a part is written");
    let curl = server.anonymous_curl(url).method("PATCH").header("Content-Type: application/partial-upload");
    let curl = curl.header(&format!("Upload-Offset: {offset}")).header(&format!("Upload-Complete: {complete}"));
    curl.arg("--data-binary").arg(format!("@{}", part.display()))
}

#[track_caller]
fn assert_problem(answer: &Response, status: u16, name: &str) -> Value {
    assert_eq!((answer.status, answer.field("content-type")), (status, "application/problem+json"), "{answer:?}");
    let told = answer.json();
    assert_eq!(told["type"], json!(format!("{PROBLEMS}{name}")));
    told
}

#[track_caller]
fn assert_drive(server: &Server, drive: &str, bytes: &[u8]) {
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    std::fs::write(&disk, bytes).expect("the image is written");
    server.download(drive.trim(), &back);
    image::assert_same(&disk, &back);
}

fn transfers(server: &Server) -> Vec<Value> {
    server.curl(TRANSFERS).run().json()["transfers"].as_array().expect("transfers").clone()
}

#[test]
fn a_client_is_told_where_to_resume_before_its_bytes_come_and_how_many_are_durable() {
    let server = often_durable();
    let bytes = image::bytes(1, 8 * MIB);
    let mut client = begin(&server, bytes.len(), &WHOLE);
    let url = resumes_at(&mut client);
    client.send(&bytes[..5 * MIB]);
    // Who looks has made durable what came, since the next checkpoint would come with more bytes only.
    wait_for("durable bytes", || (transfers(&server)[0]["durable"].as_u64() > Some(0)).then_some(()));
    let progress = client.head();
    assert_eq!((progress.status, progress.values("location")), (104, vec![]), "{progress:?}");
    let durable: usize = progress.field("upload-offset").parse().expect("a number");
    assert!((1..=5 * MIB).contains(&durable), "{progress:?}");
    client.send(&bytes[5 * MIB..]);
    let made = client.response();
    assert_eq!((made.status, made.field("upload-complete")), (201, "?1"), "{made:?}");
    assert_eq!(made.field("upload-offset"), bytes.len().to_string());
    assert_drive(&server, &made.text(), &bytes);
    let head = offset_of(&server, &url);
    assert_eq!((head.field("upload-complete"), head.field("upload-length")), ("?1", &*bytes.len().to_string()));
    // The connection goes on, and its next request has no interim answer but its own.
    client.send_head(&format!("HEAD {url}"), &[]);
    assert_eq!(client.head().status, 204);
    stored::assert_clean(&server);
}

#[test]
fn an_interim_answer_stands_for_no_other_and_goes_to_nobody_who_cannot_read_it() {
    let server = Server::start();
    let bytes = image::bytes(2, MIB);
    let mut waits = begin(&server, bytes.len(), &[WHOLE[0], WHOLE[1], "Expect: 100-continue"]);
    let mut heads = [waits.head().status, waits.head().status];
    heads.sort_unstable();
    assert_eq!(heads, [100, 104]);
    waits.send(&bytes);
    assert_eq!(waits.head().status, 201);
    for version in ["X-Nothing: 8", "Upload-Draft-Interop-Version: 7"] {
        let mut other = begin(&server, bytes.len(), &[WHOLE[0], version]);
        other.send(&bytes);
        assert_eq!(other.head().status, 201, "{version}");
    }
}

#[test]
fn over_tls_too_a_client_is_told_where_to_resume_before_its_bytes_come() {
    let server = peer::tls_setup().start();
    let (bytes, host) = (image::bytes(4, MIB), peer::authority(&server));
    let mut line = peer::tls(TcpStream::connect(host).expect("the server listens"), "http/1.1");
    let fields = [
        &format!("Host: {host}"),
        &basic(&server.credentials()),
        "Content-Type: application/octet-stream",
        &format!("Content-Length: {}", bytes.len()),
        WHOLE[0],
        WHOLE[1],
    ];
    let head = format!("POST {UPLOAD} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
    line.write_all(head.as_bytes()).expect("the head is sent");
    let told = peer::read_head(&mut line);
    assert_eq!(told.status, 104, "{told:?}");
    assert!(told.field("location").contains("/x/"), "{told:?}");
    line.write_all(&bytes).expect("the bytes are sent");
    assert_eq!(peer::read_head(&mut line).status, 201);
}

#[test]
fn an_upload_that_was_cut_goes_on_at_its_offset_and_at_no_other() {
    let server = Server::start();
    let bytes = image::bytes(3, 6 * MIB + 4321);
    let mut cut = begin(&server, bytes.len(), &[WHOLE[0], WHOLE[1], "X-Client-Reference: night 7"]);
    let url = resumes_at(&mut cut);
    cut.send(&bytes[..3 * MIB + 17]);
    wait_for("some bytes", || (transfers(&server)[0]["bytes_per_second"].as_u64() > Some(0)).then_some(()));
    drop(cut);
    let found = server.curl(&format!("{TRANSFERS}?reference=night%207")).run().json();
    assert_eq!(
        (&found["transfers"][0]["name"], &found["transfers"][0]["size"]),
        (&json!("disk.img"), &json!(bytes.len()))
    );
    let head = offset_of(&server, &url);
    assert_eq!((head.field("upload-complete"), head.field("upload-length")), ("?0", &*bytes.len().to_string()));
    let offset: usize = head.field("upload-offset").parse().expect("a number");
    assert!((1..=3 * MIB + 17).contains(&offset), "{head:?}");
    for wrong in [0, offset - 1, offset + 1] {
        let refused = append(&server, &url, (wrong, "?1"), &bytes[wrong..]).run();
        let told = assert_problem(&refused, 409, "mismatching-upload-offset");
        assert_eq!((&told["expected-offset"], &told["provided-offset"]), (&json!(offset), &json!(wrong)), "{told}");
        assert_eq!(refused.field("upload-offset"), offset.to_string());
    }
    for part in [&bytes[offset..bytes.len() - 1], &[&bytes[offset..], b"x"].concat()] {
        assert_problem(&append(&server, &url, (offset, "?1"), part).run(), 400, "inconsistent-upload-length");
    }
    let made = append(&server, &url, (offset, "?1"), &bytes[offset..]).run();
    assert_eq!((made.status, made.field("upload-complete")), (201, "?1"), "{made:?}");
    assert_drive(&server, &made.text(), &bytes);
    let late = append(&server, &url, (bytes.len(), "?1"), b"x").run();
    assert_problem(&late, 400, "inconsistent-upload-length");
    assert_problem(&append(&server, &url, (bytes.len(), "?1"), b"").run(), 400, "completed-upload");
    stored::assert_clean(&server);
}

#[test]
fn whoever_asks_for_the_offset_takes_over_from_a_connection_that_still_sends() {
    let server = Server::start();
    let bytes = image::bytes(4, 8 * MIB);
    let mut old = begin(&server, bytes.len(), &WHOLE);
    let url = resumes_at(&mut old);
    old.send(&bytes[..3 * MIB]);
    wait_for("the first part", || (transfers(&server)[0]["bytes_per_second"].as_u64() > Some(0)).then_some(()));
    // Who only looks ends nothing.
    assert_eq!(server.anonymous_curl(&url).run().json()["parts"], json!(1));
    let offset: usize = offset_of(&server, &url).field("upload-offset").parse().expect("a number");
    // What the old one still sends is not counted.
    let _ = old.try_send(&vec![0xee; MIB]);
    assert_eq!(offset_of(&server, &url).field("upload-offset"), offset.to_string());
    let made = append(&server, &url, (offset, "?1"), &bytes[offset..]).run();
    assert_eq!(made.status, 201, "{made:?}");
    assert_drive(&server, &made.text(), &bytes);
    let refused = old.response();
    assert!(refused.status >= 400 && refused.values("upload-complete").is_empty(), "{refused:?}");
}

#[test]
fn a_stream_comes_in_parts_and_is_complete_when_its_client_says_so() {
    let server = Server::start();
    let bytes = image::bytes(5, 2 * MIB + 1);
    let begun = server.curl(UPLOAD).method("POST").header("Upload-Complete: ?0").header("Content-Length: 0").run();
    assert_eq!(
        (begun.status, begun.field("upload-complete"), begun.field("upload-offset")),
        (201, "?0", "0"),
        "{begun:?}"
    );
    assert!(begun.field("upload-limit").contains("max-age="), "{begun:?}");
    let url = begun.field("location").to_owned();
    let first = append(&server, &url, (0, "?0"), &bytes[..MIB]).run();
    assert_eq!((first.status, first.field("upload-complete")), (204, "?0"), "{first:?}");
    let length = format!("Upload-Length: {}", bytes.len());
    let second = append(&server, &url, (MIB, "?0"), &bytes[MIB..]).header(&length).run();
    assert_eq!((second.status, second.field("upload-length")), (204, &*bytes.len().to_string()), "{second:?}");
    // All bytes are there, and no drive.
    assert_eq!(offset_of(&server, &url).field("upload-complete"), "?0");
    let other = append(&server, &url, (bytes.len(), "?0"), b"").header("Upload-Length: 9").run();
    assert_problem(&other, 400, "inconsistent-upload-length");
    let made = append(&server, &url, (bytes.len(), "?1"), b"").run();
    assert_eq!((made.status, made.field("upload-complete")), (201, "?1"), "{made:?}");
    assert_drive(&server, &made.text(), &bytes);
}

#[test]
fn what_is_refused_cancelled_or_expired_leaves_nothing() {
    let server = Setup::default().config("transfers.expire_seconds = 2").config("limits.max_drive = \"16MiB\"").start();
    let options = server.curl(UPLOAD).method("OPTIONS").run();
    assert_eq!((options.status, options.field("accept-patch")), (204, "application/partial-upload"), "{options:?}");
    assert_eq!(options.field("upload-limit"), "max-size=16777216");
    let refused = begin(&server, 17 * MIB, &WHOLE).response();
    assert_eq!((refused.status, refused.field("upload-limit")), (413, "max-size=16777216"), "{refused:?}");
    assert_eq!(transfers(&server), Vec::<Value>::new());
    let mut cancelled = begin(&server, MIB, &WHOLE);
    let url = resumes_at(&mut cancelled);
    cancelled.send(&[7; 5000]);
    assert_eq!(server.anonymous_curl(&url).method("DELETE").run().status, 204);
    let expired = server.curl(UPLOAD).method("POST").header("Upload-Complete: ?0").header("Content-Length: 0").run();
    let gone = |url: &str| server.anonymous_curl(url).arg("--head").run().status == 410;
    assert!(gone(&url));
    wait_for("the end of the other", || gone(expired.field("location")).then_some(()));
    assert!(server.drives().is_empty());
    stored::assert_clean(&server);
}

#[test]
fn a_broken_upload_is_finished_by_the_lines_of_the_readme_also_after_a_crash() {
    let mut server = often_durable();
    let dir = server.scratch().join("pasted");
    std::fs::create_dir(&dir).expect("a folder");
    let disk = dir.join("disk.img");
    image::random(&disk, 24 * MIB as u64 + 5, 6);
    let blocks = include_str!("../../README.md").split("```sh\n").filter_map(|block| block.split_once("```"));
    let mut blocks = blocks.map(|(block, _)| block).filter(|block| block.contains("Upload-Complete"));
    let block = blocks.next().expect("the block is there");
    let (login, rest) = block.split_once('\n').expect("lines");
    let (broken, finished) = rest.split_once("\n\n").expect("two parts");
    let pasted = |server: &Server, lines: &str| {
        let lines = format!("{login}\n{lines}").replace("http://127.0.0.1:8700", server.endpoint());
        let credentials = server.credentials_file().display().to_string();
        let lines = lines.replace("longshore-data/admin.credentials", &credentials);
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("set -eu\n{lines}")]).current_dir(Path::new(&dir)).stdin(Stdio::null());
        bash
    };
    let slowly = broken.replace("--limit-rate 20M --max-time 1", "--limit-rate 4M --max-time 60");
    assert_ne!(slowly, broken);
    let mut upload = pasted(&server, &slowly).stderr(Stdio::null()).spawn().expect("bash runs");
    let is_durable = |transfer: &Value| transfer["durable"].as_u64() > Some(MIB as u64);
    wait_for("a checkpoint", || transfers(&server).first().is_some_and(is_durable).then_some(()));
    server.kill9();
    upload.wait().expect("curl gives up");
    server.restart();
    let output = pasted(&server, finished).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let back = server.scratch().join("back.img");
    server.download(said.trim(), &back);
    image::assert_same(&disk, &back);
    stored::assert_clean(&server);
}
