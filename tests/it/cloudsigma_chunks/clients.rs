//! CloudSigma's own clients, and resumable.js, over lines that are cut.

use std::path::Path;
use std::process::{Command, Output};

use rand::RngExt as _;
use serde_json::json;

use super::MIB;
use crate::harness::clients::client;
use crate::harness::relay::Relay;
use crate::harness::{Server, image, stored};

const SIZE: u64 = 24 * MIB + 12_345;

/// What a script of the package begins with: the login, and the retries that its library leaves to its callers.
const LOGIN: &str = r#"
import sys, threading, requests
from cloudsigma import errors, resumable_upload
from cloudsigma.resource import Drive, InitUpload

endpoint, credentials = sys.argv[1:]
user, password = credentials.split(":", 1)
login = dict(api_endpoint=endpoint + "/api/2.0/", username=user, password=password)

def persistently(call, *args, **names):
    for _ in range(100):
        try:
            return call(*args, **names)
        except requests.exceptions.RequestException:
            pass
    raise SystemExit("the line is too bad")
"#;

/// A program of the environment of CloudSigma's clients.
fn program(server: &Server, name: &str) -> Option<Command> {
    let mut command = client(server, &server.credentials(), "cloudsigma-clients", name)?;
    let target = Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("a target folder");
    command.env("NODE_PATH", target.join("services/cloudsigma-clients/node_modules"));
    Some(command)
}

/// A line to the server that is cut again and again: most chunks are sent twice, as their connection ends before.
fn bad_line(server: &Server, seed: u64) -> Relay {
    let line = Relay::to(server.authority());
    line.cut_each_within(MIB / 4..2 * MIB, seed);
    line
}

/// Runs a script of the package for the server behind this URL.
fn run(mut python: Command, server: &Server, url: &str, script: &str) -> Output {
    python.args(["-c", &format!("{LOGIN}{script}"), url, &server.credentials()]).output().expect("Python runs")
}

/// Fails unless the client named a drive that is the file.
#[track_caller]
fn assert_uploaded(server: &Server, output: &Output) {
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let drive = said.trim();
    assert_eq!(server.drive(drive)["status"], json!("unmounted"), "{output:?}");
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    server.download(drive, &back);
    image::assert_same(&disk, &back);
    stored::assert_clean(server);
}

/// As shipped it reads files as text, so that only those of ASCII without carriage returns arrive as they are.
#[test]
fn the_package_uploads_by_links_over_a_line_that_is_cut() {
    let server = Server::start();
    let Some(python) = program(&server, "python") else { return };
    let mut numbers = image::numbers(61);
    let text: Vec<u8> = (0..SIZE).map(|_| numbers.random_range(b' '..=b'~')).collect();
    std::fs::write(server.scratch().join("disk.img"), text).expect("the image is written");
    let line = bad_line(&server, 61);
    let script = r#"
import os, queue
size, each = os.path.getsize("disk.img"), 1 << 20
uuid = persistently(InitUpload(**login).create, {"media": "disk"}, image_path="disk.img")["uuid"]
assert Drive(**login).get(uuid)["size"] == size
numbers = queue.Queue()
for number in range(size // each):
    numbers.put(number)

def send():
    drives = Drive(**login)
    while True:
        try:
            number = numbers.get_nowait()
        except queue.Empty:
            return
        for _ in range(100):
            try:
                link = persistently(drives.get_upload_chunk_link, uuid, number, each)
            except errors.ClientError as error:
                assert error.status_code == 416, error
                break
            answer = persistently(drives.upload_chunk, link, "disk.img", number, each)
            assert answer.status_code in (200, 409), answer.text

threads = [threading.Thread(target=send) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(uuid)
"#;
    assert_uploaded(&server, &run(python, &server, &line.url(), script));
    assert!(line.passed() > SIZE + SIZE / 8, "the line was not cut");
}

/// On Python 3 the shipped client sends the text of its bytes, `b'..'`, and takes any 2xx for a success.
#[test]
fn the_text_of_bytes_that_the_package_sends_is_refused_and_not_stored() {
    let server = Server::start();
    let Some(python) = program(&server, "python") else { return };
    image::random(&server.scratch().join("disk.img"), 3 * MIB, 62);
    let script = r#"
import logging, os
refused = threading.Semaphore(0)

class Refusals(logging.Handler):
    def emit(self, record):
        if record.exc_info and "Wrong status 400" in str(record.exc_info[1]):
            refused.release()

resumable_upload.LOG.addHandler(Refusals())
resumable_upload.LOG.propagate = False
upload = resumable_upload.Upload("disk.img", chunk_size=1 << 20, generic_client_kwargs=login)
threading.Thread(target=upload.upload, daemon=True).start()
for _ in range(6):
    assert refused.acquire(timeout=50)
print(upload.drive_uuid, flush=True)
os._exit(0)
"#;
    let output = run(python, &server, server.endpoint(), script);
    assert!(output.status.success(), "{output:?}");
    let drive = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(server.drive(&drive)["status"], json!("uploading"));
    let listed = server.curl(super::TRANSFERS).run().json();
    assert_eq!(listed["transfers"][0]["durable"], json!(0), "{listed}");
    assert_eq!(server.curl(&format!("/api/2.0/drives/{drive}/")).method("DELETE").run().status, 204);
    stored::assert_clean(&server);
}

/// The same client with that one fault mended, as it was on Python 2.
#[test]
fn the_packages_form_of_resumable_js_uploads_over_a_line_that_is_cut() {
    let server = Server::start();
    let Some(python) = program(&server, "python") else { return };
    image::random(&server.scratch().join("disk.img"), SIZE, 63);
    let line = bad_line(&server, 63);
    let script = r#"
resumable_upload.str = lambda value: value if isinstance(value, bytes) else str(value)
upload = resumable_upload.Upload(
    "disk.img", chunk_size=1 << 20, drive_name="disk.img", progress_report_interval=0.05, generic_client_kwargs=login
)
upload.drive_uuid = persistently(upload.create, upload.create_data)["uuid"]
persistently(lambda: upload.remote_size)
upload.upload()
print(upload.drive_uuid)
"#;
    assert_uploaded(&server, &run(python, &server, &line.url(), script));
    assert!(line.passed() > SIZE + SIZE / 8, "the line was not cut");
}

/// It is written for browsers; jsdom is one without a screen.
const IN_NODE: &str = r#"
const { readFileSync } = require("fs")
const { JSDOM } = require("jsdom")
const [url, credentials, method] = process.argv.slice(1)
const { window } = new JSDOM("", { url })
for (const name of ["Blob", "File", "FileList", "FormData", "XMLHttpRequest"]) globalThis[name] = window[name]
globalThis.window = window
const Resumable = require("resumablejs")
const headers = { Authorization: `Basic ${Buffer.from(credentials).toString("base64")}` }

async function persistently(call) {
  for (let turn = 0; turn < 100; turn++) try { return await call() } catch {}
  throw new Error("the line is too bad")
}

async function main() {
  const bytes = readFileSync("disk.img")
  const body = JSON.stringify({ name: "disk.img", size: bytes.length, media: "disk" })
  const begun = await persistently(async () => {
    const answer = await fetch(`${url}/api/2.0/initupload/`, { method: "POST", body, headers })
    return answer.json()
  })
  const { uuid } = begun.objects[0]
  const target = `${url}/api/2.0/drives/${uuid}/upload/`
  const upload = new Resumable({ target, headers, method, chunkSize: 1 << 20, chunkRetryInterval: 10 })
  upload.on("fileAdded", () => upload.upload())
  upload.on("error", (message) => {
    console.error(message)
    process.exit(1)
  })
  upload.on("complete", () => {
    console.log(uuid)
    process.exit(0)
  })
  upload.addFile(new File([bytes], "disk.img"))
}
main()
"#;

fn resumable_js_uploads(method: &str, seed: u64) {
    let server = Server::start();
    let Some(mut node) = program(&server, "node") else { return };
    image::random(&server.scratch().join("disk.img"), SIZE, seed);
    let line = bad_line(&server, seed);
    let output = node.args(["-e", IN_NODE, &line.url(), &server.credentials(), method]).output().expect("Node runs");
    assert_uploaded(&server, &output);
    assert!(line.passed() > SIZE + SIZE / 8, "the line was not cut");
}

#[test]
fn resumable_js_uploads_forms_over_a_line_that_is_cut() {
    resumable_js_uploads("multipart", 64);
}

#[test]
fn resumable_js_uploads_octets_over_a_line_that_is_cut() {
    resumable_js_uploads("octet", 65);
}
