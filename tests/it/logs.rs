//! Logs for machines, and the id that an answer shares with its log lines.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::harness::raw::basic;
use crate::harness::{Cloud, Scratch, Server, Setup, image, wait_for};

fn json_server() -> Server {
    Setup::default().config("log.format = \"json\"").config("log.level = \"longshore=debug\"").start()
}

fn lines(server: &Server) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    // The last line may be incomplete.
    let log = server.logged();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(parse).collect()
}

fn transfers(server: &Server) -> Vec<Value> {
    lines(server).into_iter().filter(|line| line["message"] == "transfer").collect()
}

#[test]
fn each_transfer_is_one_line_that_tells_where_its_time_went() {
    let server = json_server();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_001, 101);
    let upload = server.curl("/api/2.0/drives/upload/").upload("POST", &disk).run();
    let uuid = crate::harness::server::uuid_of(&upload);
    let path = server.capability(&uuid);
    let download = server.anonymous_curl(&path).run();
    let range = server.anonymous_curl(&path).args(&["--range", "100-199"]).run();
    let mut broken = server.raw();
    let fields = [&basic(&server.credentials()), "Content-Type: application/octet-stream", "Content-Length: 500000"];
    broken.send_head("POST /api/2.0/drives/upload/", &fields);
    broken.send(&image::bytes(102, 100_000));
    broken.half_close();
    let broken = broken.response();
    assert_eq!(broken.status, 400);
    let transfers = wait_for("four lines", || Some(transfers(&server)).filter(|lines| lines.len() >= 4));
    assert_eq!(transfers.len(), 4, "{transfers:#?}");
    let expected = [
        (&upload, "upload", 3_000_001, true),
        (&download, "download", 3_000_001, true),
        (&range, "download", 100, true),
        (&broken, "upload", 100_000, false),
    ];
    for (answer, direction, bytes, complete) in expected {
        let id = answer.field("x-request-id");
        let line =
            transfers.iter().find(|line| line["span"]["id"] == id).unwrap_or_else(|| panic!("{id}: {transfers:#?}"));
        assert_eq!(
            (&line["direction"], &line["bytes"], &line["complete"]),
            (&direction.into(), &bytes.into(), &complete.into())
        );
        assert!(line["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{line}");
        let waits = ["wait_peer", "wait_digest", "wait_disk", "wait_memory"].map(|wait| line[wait].as_f64().unwrap());
        assert!(waits.iter().all(|wait| (0.0..=1.0).contains(wait)) && waits.iter().sum::<f64>() < 1.01, "{line}");
    }
}

#[test]
fn every_answer_has_an_id_of_its_own_that_the_log_knows() {
    let server = json_server();
    let mut ids = HashSet::new();
    let mut note = |id: &str, what: &str| assert!(ids.insert(id.to_owned()), "{what}: {id} was given before");
    for path in ["/healthz", "/metrics", "/nowhere", "/api/2.0/drives/", "/api/2.0/drives/x/", "/t/x/y"] {
        note(server.curl(path).run().field("x-request-id"), path);
        note(server.anonymous_curl(path).method("DELETE").run().field("x-request-id"), path);
    }
    let mut client = server.raw();
    client.send_head("POST /api/2.0/drives/", &["Content-Length: 5", "Transfer-Encoding: chunked"]);
    note(client.response().field("x-request-id"), "ambiguous");
    let known = |ids: &HashSet<String>| {
        let lines = lines(&server);
        ids.iter().all(|id| lines.iter().any(|line| line["span"]["id"] == id.as_str()))
    };
    wait_for("all ids to be logged", || known(&ids).then_some(()));
}

/// Fails unless uploads are answered and jobs are done.
#[track_caller]
fn assert_works(server: &Server) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 103);
    let uuid = server.upload(&disk);
    let cloud = Cloud::of(server);
    // More often than there are workers, which might die of it.
    for _ in 0..4 {
        cloud.snapshot(&uuid);
    }
    assert_eq!(server.anonymous_curl("/readyz").run().status, 200);
    assert!(server.metric("longshore_log_lines_dropped_total") > Some(0.0), "they are counted");
}

#[test]
fn a_log_on_a_full_disk_stops_neither_the_start_nor_uploads_nor_jobs() {
    let mut server = Setup::default().output(Path::new("/dev/full")).start();
    assert_works(&server);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_log_whose_reader_has_gone_stops_neither_uploads_nor_jobs() {
    let dir = Scratch::new();
    let pipe = dir.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut server = Setup::default().output(&pipe).start();
    drop(reader);
    assert_works(&server);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_log_whose_reader_takes_nothing_stops_neither_uploads_nor_jobs() {
    let dir = Scratch::new();
    let pipe = dir.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut server = Setup::default().output(&pipe).config("log.level = \"trace\"").start();
    assert_works(&server);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn no_caller_can_make_a_line_of_the_log() {
    let nasty = "x\n2026-11-29T00:00:00.000000Z ERROR forged: \r\u{1b}[31m\u{9b}31m\u{7f}\u{85}\u{2028}y";
    let escaped: String = percent_encode(nasty.as_bytes(), NON_ALPHANUMERIC).to_string();
    for format in ["text", "json"] {
        let server =
            Setup::default().config(&format!("log.format = {format:?}")).config("log.level = \"debug\"").start();
        let cloud = Cloud::of(&server);
        for path in ["/volumes/", "/api/2.0/drives/", "/t/", "/v3/x/volumes/", "/"] {
            server.curl(&format!("{path}{escaped}")).run();
            server.curl(&format!("{path}?name={escaped}")).run();
        }
        cloud.get(&format!("volumes/{escaped}"));
        for field in ["availability_zone", "volume_type", "name", "imageRef"] {
            cloud.post("volumes", &json!({"volume": {"size": 1, field: nasty}}));
        }
        server.curl("/volumes/initialize").json("POST", &json!({"Volume": [{"Name": nasty, "Source": nasty}]})).run();
        let last = server.curl("/volumes/the-last").run();
        let log = server.wait_for_line(last.field("x-request-id"));
        assert!(log.contains("\\n2026-11-29"), "nothing was logged: {log}");
        for line in log.split_terminator('\n') {
            let is_ours = if format == "json" { line.starts_with("{\"timestamp\"") } else { line.starts_with("20") };
            assert!(is_ours && !line.starts_with("2026-11-29T00:00:00.000000Z"), "{line:?}");
            assert!(!line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{line:?}");
        }
    }
}
