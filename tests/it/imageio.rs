//! oVirt's imageio: its own client uploads to the URL of a transfer, and downloads from the URL of a drive.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::clients::client;
use crate::harness::hyper::{archive, fill};
use crate::harness::relay::Relay;
use crate::harness::{Server, image, stored};
use crate::skipped::skipped;
use crate::transfers::TRANSFERS;

const SIZE: u64 = (100 << 20) + 77 * 512;

const SCRIPT: &str = r#"
import sys
from ovirt_imageio import client

verb, url, file = sys.argv[1:]
if verb == "upload":
    client.upload(file, url, None, secure=False)
elif verb == "download":
    client.download(url, file, None, fmt="raw", secure=False)
else:
    with client.ImageioClient(url, secure=False) as drive:
        extents = list(drive.extents())
        print(drive.size(), sum(e.length for e in extents if e.zero), drive.max_readers, drive.max_writers)
        first = next(e for e in extents if not e.zero)
        part = bytearray(1000)
        drive.read(first.start + 5, part)
        open(file, "wb").write(part)
        print(first.start)
        try:
            list(drive.extents("dirty"))
        except Exception as e:
            print(type(e).__name__)
"#;

/// Runs imageio's client; `None` where it is not installed.
fn imageio(server: &Server, args: [&str; 3]) -> Option<Output> {
    let mut python = client(server, &server.credentials(), "imageio-client", "python")?;
    if Command::new("qemu-nbd").arg("--version").output().is_err() {
        skipped("there is no qemu-nbd; tests/run installs it");
        return None;
    }
    Some(python.args(["-c", SCRIPT]).args(args).output().expect("Python runs"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("ASCII")
}

fn blocks(path: &Path) -> u64 {
    path.metadata().expect("it is there").blocks()
}

#[test]
fn its_client_uploads_and_downloads_a_sparse_image_without_its_holes() {
    let server = Server::start();
    let line = Relay::to(server.authority());
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, SIZE, 51);
    let begun = server.curl(TRANSFERS).json("POST", &json!({"name": "a", "size": SIZE})).run().json();
    let told = |name: &str| begun[name].as_str().expect("a text").to_owned();
    let url = told("ticket").replace(server.endpoint(), &line.url());
    let Some(output) = imageio(&server, ["upload", &url, text(&disk)]) else { return };
    assert!(output.status.success(), "{output:?}");
    let data = blocks(&disk) * 512;
    assert!(line.passed() < data + data / 10, "{} bytes passed, of {data}", line.passed());
    let done = server.curl(&format!("{TRANSFERS}/{}/finish", told("id"))).json("POST", &json!({})).run();
    assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
    let drive = told("drive");
    let stored = blocks(&stored::image_of(&server, &drive)) * 512;
    assert!(stored < data + data / 10, "{stored} bytes are stored, of {data}");

    let url = format!("{}{}", line.url(), server.capability(&drive));
    let (before, back) = (line.passed(), server.scratch().join("back.img"));
    let output = imageio(&server, ["download", &url, text(&back)]).expect("it is installed");
    assert!(output.status.success(), "{output:?}");
    image::assert_same(&disk, &back);
    let passed = line.passed() - before;
    assert!(passed < data + data / 10, "{passed} bytes passed, of {data}");
    assert!(blocks(&back) * 512 < data + data / 10, "the download has no holes");

    let part = server.scratch().join("part");
    let output = imageio(&server, ["look", &url, text(&part)]).expect("it is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<&str> = said.split_whitespace().collect();
    let [size, zeros, "8", "8", start, "UnsupportedOperation"] = said[..] else { panic!("{output:?}") };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(number(size), SIZE);
    assert!(number(zeros) > SIZE / 3, "{zeros} zeros");
    let read = std::fs::read(&part).expect("it was written");
    assert!(read == image::part(&disk, number(start) + 5, 1000), "other bytes were read");
}

#[test]
fn the_url_of_a_download_tells_where_data_is_to_who_has_it() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::thin(&disk, SIZE, 52);
    let url = server.capability(&server.upload(&disk));
    let options = server.anonymous_curl(&url).method("OPTIONS").run();
    assert_eq!((options.status, options.json()["features"].clone()), (200, json!(["extents"])), "{options:?}");
    assert_eq!(options.field("allow"), "GET, HEAD, OPTIONS");
    let told = server.anonymous_curl(&format!("{url}/extents")).run();
    assert_eq!((told.status, told.field("cache-control")), (200, "no-store"), "{told:?}");
    let mut at = 0;
    let mut was_zero = None;
    for extent in told.json().as_array().expect("a list") {
        let is_zero = extent["zero"].as_bool();
        assert_eq!((extent["start"].as_u64(), extent["hole"].as_bool()), (Some(at), is_zero), "{told:?}");
        assert_ne!(is_zero, was_zero, "{told:?}");
        (at, was_zero) = (at + extent["length"].as_u64().expect("a number"), is_zero);
        if is_zero == Some(true) {
            let (start, len) = (extent["start"].as_u64().expect("a number"), extent["length"].as_u64().expect("one"));
            let zeros = image::part(&disk, start, len as usize);
            assert!(zeros.iter().all(|byte| *byte == 0), "data is told as zeros from {start}");
        }
    }
    assert_eq!(at, SIZE);

    let other = server.capability(&server.upload(&disk));
    let (ticket, _) = url.rsplit_once('/').expect("a path");
    let (_, id) = other.rsplit_once('/').expect("a path");
    for (path, method, status) in [
        (format!("{ticket}/{id}"), "OPTIONS", 403),
        (format!("{ticket}/{id}/extents"), "GET", 403),
        (format!("{url}/extents?context=dirty"), "GET", 404),
        (format!("{url}/extents?context=x"), "GET", 400),
        (format!("{url}/extents?x=y"), "GET", 400),
    ] {
        let refused = server.anonymous_curl(&path).method(method).run();
        assert_eq!(refused.status, status, "{method} {path}: {refused:?}");
    }
    fill(&server, "tree", &archive(server.scratch(), "a"));
    let tree = server.curl("/volumes/tree/download").run().field("location").to_owned();
    let tree = tree.strip_prefix(server.endpoint()).unwrap_or(&tree).to_owned();
    let options = server.anonymous_curl(&tree).method("OPTIONS").run();
    assert_eq!((options.status, options.json()["features"].clone()), (200, Value::Array(Vec::new())), "{options:?}");
    assert_eq!(server.anonymous_curl(&format!("{tree}/extents")).run().status, 404);
}
