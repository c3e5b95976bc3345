//! What is logged for machines, and the id that an answer and its lines share.

use std::collections::HashSet;

use serde_json::Value;

use crate::harness::raw::basic;
use crate::harness::{Server, Setup, image, wait_for};

fn json_server() -> Server {
    Setup::default().config("log.format = \"json\"").config("log.level = \"longshore=debug\"").start()
}

fn lines(server: &Server) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    // The last line may be half written.
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
