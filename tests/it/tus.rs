//! Protocol tus 1.0, by its own clients over bad lines, and by its letters.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::clients::client;
use crate::harness::relay::Relay;
use crate::harness::{Curl, Response, Server, Setup, image, stored};

const BASE: &str = "/api/v1/tus";
const VERSION: &str = "Tus-Resumable: 1.0.0";
const MEDIA: &str = "Content-Type: application/offset+octet-stream";
const MIB: u64 = 1 << 20;

/// A program of the environment of tus's clients.
fn program(server: &Server, name: &str) -> Option<Command> {
    let mut command = client(server, &server.credentials(), "tus-clients", name)?;
    let target = Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("a target folder");
    command.env("NODE_PATH", target.join("services/tus-clients/node_modules"));
    Some(command)
}

/// Has a client upload a file over a line that is cut again and again, and compares the drive that it names.
fn uploads_over_a_bad_line(name: &str, script: &str, seed: u64) {
    let server = Server::start();
    let Some(mut client) = program(&server, name) else { return };
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 24 * MIB + 12_345, seed);
    let line = Relay::to(server.authority());
    line.cut_each_within(MIB..6 * MIB, seed);
    let credentials = server.credentials_file().display().to_string();
    let script = script.replace("http://127.0.0.1:8700", &line.url());
    let script = script.replace("longshore-data/admin.credentials", &credentials);
    let output = client.args([if name == "node" { "-e" } else { "-c" }, &script]).output().expect("the client runs");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let drive = said.trim();
    assert_eq!(server.drive(drive)["name"], json!("disk.img"), "{output:?}");
    assert!(line.passed() > 24 * MIB, "{output:?}");
    let back = server.scratch().join("back.img");
    server.download(drive, &back);
    image::assert_same(&disk, &back);
    // The parts of what was put together are kept for a while.
    for part in server.drives().iter().filter(|drive| server.drive(drive)["status"] == json!("uploading")) {
        assert_eq!(server.curl(&format!("/api/2.0/drives/{part}/")).method("DELETE").run().status, 204);
    }
    stored::assert_clean(&server);
}

#[test]
fn tus_js_client_uploads_over_a_line_that_is_cut_by_the_lines_of_the_readme() {
    let readme = include_str!("../../README.md");
    let block = readme.split_once("```js\n").and_then(|(_, rest)| rest.split_once("```"));
    uploads_over_a_bad_line("node", block.expect("the README has it").0, 41);
}

#[test]
fn tus_js_client_uploads_over_several_connections_that_are_cut() {
    let script = r#"
const { createReadStream, readFileSync } = require("fs")
const tus = require("tus-js-client")

const login = Buffer.from(readFileSync("longshore-data/admin.credentials", "utf8").trim())
new tus.Upload(createReadStream("disk.img"), {
  endpoint: "http://127.0.0.1:8700/api/v1/tus",
  headers: { Authorization: `Basic ${login.toString("base64")}` },
  metadata: { filename: "disk.img" },
  parallelUploads: 3,
  retryDelays: new Array(60).fill(0),
  onError: (error) => { console.error(error); process.exit(1) },
  onSuccess: ({ lastResponse }) => console.log(lastResponse.getHeader("Longshore-Drive")),
}).start()
"#;
    uploads_over_a_bad_line("node", script, 43);
}

#[test]
fn tuspy_uploads_over_a_line_that_is_cut() {
    let script = r#"
import base64
from tusclient.client import TusClient

login = open("longshore-data/admin.credentials").read().strip()
login = base64.b64encode(login.encode()).decode()
client = TusClient("http://127.0.0.1:8700/api/v1/tus", headers={"Authorization": "Basic " + login})
uploader = client.uploader("disk.img", chunk_size=4 << 20, retries=50, retry_delay=0, metadata={"name": "disk.img"})
uploader.upload()
print(uploader.request.response_headers["longshore-drive"])
"#;
    uploads_over_a_bad_line("python", script, 42);
}

/// Begins a transfer with these fields beside the version.
fn begin(server: &Server, fields: &[&str]) -> Response {
    let begin = server.curl(BASE).method("POST").header(VERSION);
    fields.iter().fold(begin, |curl, field| curl.header(field)).run()
}

fn patch(server: &Server, url: &str, offset: u64, bytes: &Path) -> Curl {
    let curl = server.anonymous_curl(url).header(VERSION).header(MEDIA).header(&format!("Upload-Offset: {offset}"));
    curl.arg("--data-binary").arg(format!("@{}", bytes.display()))
}

fn look(server: &Server, url: &str) -> Response {
    server.anonymous_curl(url).arg("--head").header(VERSION).run()
}

#[test]
fn what_is_served_is_told_and_another_version_is_refused() {
    let server = Server::start();
    let begun = begin(&server, &["Upload-Length: 9"]);
    assert_eq!(begun.status, 201, "{begun:?}");
    for url in [BASE, begun.field("location")] {
        let told = server.anonymous_curl(url).method("OPTIONS").run();
        assert_eq!((told.field("tus-version"), told.field("tus-resumable")), ("1.0.0", "1.0.0"), "{told:?}");
        let extensions = "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,\
                          termination,concatenation";
        assert_eq!((told.field("tus-extension"), told.field("tus-max-size")), (extensions, "70368744177664"));
    }
    for version in ["Tus-Resumable: 0.2.2", "Tus-Resumable:"] {
        let refused = server.curl(BASE).method("POST").header("Upload-Length: 9").header(version).run();
        assert_eq!((refused.status, refused.field("tus-version")), (412, "1.0.0"), "{refused:?}");
    }
    let anonymous = server.anonymous_curl(BASE).method("POST").header(VERSION).header("Upload-Length: 9").run();
    assert_eq!((anonymous.status, anonymous.field("tus-resumable")), (401, "1.0.0"), "{anonymous:?}");
}

#[test]
fn an_upload_whose_length_comes_later_is_told_as_its_client_described_it_and_becomes_a_drive() {
    let server = Server::start();
    let part = server.scratch().join("part");
    image::random(&part, MIB + 5, 1);
    let metadata = format!("filename {},filetype eA==,media {}", STANDARD.encode("a b.iso"), STANDARD.encode("cdrom"));
    let begun = begin(&server, &["Upload-Defer-Length: 1", &format!("Upload-Metadata: {metadata}")]);
    assert_eq!((begun.status, begun.values("upload-expires").len()), (201, 1), "{begun:?}");
    let url = begun.field("location");
    let told = look(&server, url);
    assert_eq!((told.status, told.field("upload-offset"), told.field("upload-defer-length")), (200, "0", "1"));
    assert_eq!((told.field("upload-metadata"), told.field("cache-control")), (&*metadata, "no-store"), "{told:?}");
    // By a client that can send no PATCH.
    let first = patch(&server, url, 0, &part).method("POST").header("X-HTTP-Method-Override: PATCH").run();
    assert_eq!((first.status, first.field("upload-offset")), (204, &*(MIB + 5).to_string()), "{first:?}");
    assert_eq!(first.values("upload-expires").len(), 1, "{first:?}");
    let length = format!("Upload-Length: {}", 2 * (MIB + 5));
    let last = patch(&server, url, MIB + 5, &part).method("PATCH").header(&length).run();
    assert_eq!((last.status, last.values("upload-expires").len()), (204, 0), "{last:?}");
    let drive = server.drive(last.field("longshore-drive"));
    assert_eq!((&drive["name"], &drive["media"], &drive["meta"]), (&json!("a b.iso"), &json!("cdrom"), &json!({})));
    let told = look(&server, url);
    assert_eq!(told.field("longshore-drive"), last.field("longshore-drive"));
    assert!(told.values("upload-defer-length").is_empty(), "{told:?}");
}

#[test]
fn an_upload_with_its_creation_is_a_drive_when_that_is_answered() {
    let server = Server::start();
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::random(&disk, 3 * MIB + 1, 2);
    let all = |length: u64, fields: &[&str]| {
        let curl = server.curl(BASE).header(VERSION).header(MEDIA).header(&format!("Upload-Length: {length}"));
        let curl = fields.iter().fold(curl, |curl, field| curl.header(field));
        curl.arg("--data-binary").arg(format!("@{}", disk.display())).run()
    };
    let whole = all(3 * MIB + 1, &[&format!("Upload-Metadata: owner {}", STANDARD.encode("alice"))]);
    assert_eq!((whole.status, whole.field("upload-offset")), (201, &*(3 * MIB + 1).to_string()), "{whole:?}");
    let drive = whole.field("longshore-drive");
    assert_eq!(server.drive(drive)["meta"], json!({"owner": "alice"}));
    server.download(drive, &back);
    image::assert_same(&disk, &back);
    assert_eq!(all(3 * MIB, &[]).status, 413);
    let wrong = all(3 * MIB + 1, &[&format!("Upload-Metadata: sha-256 {}", STANDARD.encode("ab".repeat(32)))]);
    assert_eq!(wrong.status, 422, "{wrong:?}");
    let odd = begin(&server, &["Upload-Length: 9", "Upload-Concat: half"]);
    assert_eq!(odd.status, 400, "{odd:?}");
    // The one that has other bytes than was said is open until it expires.
    assert_eq!(server.drives().len(), 2);
}

#[test]
fn an_upload_that_is_ended_is_gone_and_one_that_came_whole_becomes_a_drive_when_it_is_looked_at() {
    let server = Server::start();
    let begun = begin(&server, &["Upload-Length: 9"]);
    let url = begun.field("location");
    assert_eq!(server.anonymous_curl(url).method("DELETE").header(VERSION).run().status, 204);
    let part = server.scratch().join("part");
    std::fs::write(&part, b"123456789").expect("the part is written");
    assert_eq!((look(&server, url).status, patch(&server, url, 0, &part).method("PATCH").run().status), (410, 410));
    stored::assert_clean(&server);

    // The line broke between the last byte and its answer: the client sees that nothing is missing, and ends.
    let begun = begin(&server, &["Upload-Length: 9"]);
    let url = begun.field("location");
    let put = server.anonymous_curl(url).upload("PUT", &part).run();
    assert_eq!((put.status, &put.json()["state"]), (200, &json!("open")), "{put:?}");
    let told = look(&server, url);
    assert_eq!((told.status, told.field("upload-offset")), (200, "9"), "{told:?}");
    assert_eq!(server.drive(told.field("longshore-drive"))["status"], json!("unmounted"));
}

#[test]
fn scripts_of_sites_that_the_configuration_names_may_upload_and_no_others() {
    let server = Setup::default().config("cors.origins = [\"https://portal.example.com\"]").start();
    let from = |origin: &str, curl: Curl| curl.header(&format!("Origin: {origin}"));
    let preflight = |origin: &str| {
        let curl = from(origin, server.anonymous_curl(BASE).method("OPTIONS"));
        curl.header("Access-Control-Request-Method: POST").run()
    };
    let allowed = preflight("https://portal.example.com");
    assert_eq!(allowed.field("access-control-allow-origin"), "https://portal.example.com", "{allowed:?}");
    for (field, word) in [("headers", "Upload-Metadata"), ("headers", "Authorization"), ("methods", "PATCH")] {
        assert!(allowed.field(&format!("access-control-allow-{field}")).contains(word), "{allowed:?}");
    }
    assert!(preflight("https://evil.example").values("access-control-allow-origin").is_empty());
    let post = || server.curl(BASE).method("POST").header(VERSION).header("Upload-Length: 9");
    let site = "Sec-Fetch-Site: cross-site";
    let begun = from("https://portal.example.com", post()).header(site).run();
    assert_eq!((begun.status, begun.field("vary")), (201, "Origin"), "{begun:?}");
    assert!(begun.field("access-control-expose-headers").contains("Longshore-Drive"), "{begun:?}");
    let refused = from("https://evil.example", post()).header(site).run();
    assert_eq!((refused.status, refused.values("access-control-allow-origin").len()), (403, 0), "{refused:?}");
}
