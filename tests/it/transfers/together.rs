//! Uploads that are put together from parts: tus's concatenation.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{MIB, TRANSFERS};
use crate::harness::{Curl, Response, Scratch, Server, Setup, image, stored, wait_for};

const BASE: &str = "/api/v1/tus";
const VERSION: &str = "Tus-Resumable: 1.0.0";
const SIZE: u64 = 9 * MIB + 12_345;
/// Where the second part begins: within a sector.
const MIDDLE: u64 = 5 * MIB + 77;

fn begin(server: &Server, fields: &[&str]) -> Curl {
    let begin = server.curl(BASE).method("POST").header(VERSION);
    fields.iter().fold(begin, |curl, field| curl.header(field))
}

/// Begins an upload of a part; returns its URL.
#[track_caller]
fn part(server: &Server, size: u64) -> String {
    let begun = begin(server, &["Upload-Concat: partial", &format!("Upload-Length: {size}")]).run();
    assert_eq!(begun.status, 201, "{begun:?}");
    begun.field("location").to_owned()
}

/// The request that sends a part of a file.
fn patch(server: &Server, url: &str, disk: &Path, (start, end): (u64, u64), offset: u64) -> Curl {
    let bytes = server.scratch().join(format!("part-{start}"));
    std::fs::write(&bytes, image::part(disk, start, (end - start) as usize)).expect("a part is written");
    let curl = server.anonymous_curl(url).method("PATCH").header(VERSION);
    let curl = curl.header("Content-Type: application/offset+octet-stream");
    curl.header(&format!("Upload-Offset: {offset}")).arg("--data-binary").arg(format!("@{}", bytes.display()))
}

fn look(server: &Server, url: &str) -> Response {
    server.anonymous_curl(url).arg("--head").header(VERSION).run()
}

fn together(server: &Server, parts: &[&str]) -> Curl {
    // "filename whole.img,reference whole"
    let metadata = "Upload-Metadata: filename d2hvbGUuaW1n,reference d2hvbGU=";
    begin(server, &[&format!("Upload-Concat: final;{}", parts.join(" ")), metadata])
}

#[test]
fn parts_that_are_whole_make_a_drive_together_and_none_by_themselves() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 211);
    let (first, second) = (part(&server, MIDDLE), part(&server, SIZE - MIDDLE));
    let sent = patch(&server, &second, &disk, (MIDDLE, SIZE), 0).run();
    assert_eq!((sent.status, sent.values("longshore-drive").len()), (204, 0), "{sent:?}");
    let unfinished = together(&server, &[&first, &second]).run();
    assert_eq!(unfinished.status, 409, "{unfinished:?}");
    assert_eq!(patch(&server, &first, &disk, (0, MIB), 0).run().status, 204);
    assert_eq!(together(&server, &[&first, &second]).run().status, 409);
    assert_eq!(patch(&server, &first, &disk, (MIB, MIDDLE), MIB).run().status, 204);
    for url in [&first, &second] {
        let told = look(&server, url);
        assert_eq!((told.status, told.field("upload-concat")), (200, "partial"), "{told:?}");
        assert_eq!((told.field("upload-offset"), told.field("upload-complete")), (told.field("upload-length"), "?0"));
        let refused = server.anonymous_curl(url).json("PATCH", &json!({"op": "finish"})).run();
        assert_eq!(refused.status, 409, "{refused:?}");
    }
    assert!(server.drives().iter().all(|drive| server.drive(drive)["status"] == json!("uploading")));

    let whole = together(&server, &[&first, &format!("{}{second}", server.endpoint())]).run();
    assert_eq!((whole.status, whole.field("upload-offset")), (201, &*SIZE.to_string()), "{whole:?}");
    let drive = whole.field("longshore-drive");
    assert_eq!(server.drive(drive)["name"], json!("whole.img"));
    let back = server.scratch().join("back.img");
    server.download(drive, &back);
    image::assert_same(&disk, &back);
    let told = look(&server, whole.field("location"));
    assert_eq!((told.status, told.field("upload-length")), (200, &*SIZE.to_string()), "{told:?}");
    assert!(told.field("upload-concat").starts_with("final;/api/v1/transfers/"), "{told:?}");
    // Its client may have missed the answer.
    assert_eq!(together(&server, &[&first, &second]).run().status, 201);
    for url in [&first, &second] {
        assert_eq!(server.anonymous_curl(url).method("DELETE").header(VERSION).run().status, 204);
    }
    assert_eq!(together(&server, &[&first, &second]).run().status, 410);
    assert_eq!(server.drives().len(), 2);
    stored::assert_clean(&server);
}

#[test]
fn what_is_no_part_of_the_caller_s_is_not_put_together() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 212);
    let own = part(&server, MIB);
    assert_eq!(patch(&server, &own, &disk, (0, MIB), 0).run().status, 204);
    let plain = begin(&server, &["Upload-Length: 9"]).run();
    assert_eq!(together(&server, &[&own, plain.field("location")]).run().status, 409);
    let foreign = server.add_user("eve");
    let theirs = server.curl_as(&foreign, BASE).method("POST").header(VERSION);
    let theirs = theirs.header("Upload-Concat: partial").header(&format!("Upload-Length: {MIB}")).run();
    let theirs = theirs.field("location");
    assert_eq!(patch(&server, theirs, &disk, (0, MIB), 0).run().status, 204);
    let stolen = together(&server, &[&own, theirs]).run();
    assert_eq!(stolen.status, 404, "{stolen:?}");
    let wrong = format!("Upload-Metadata: blake3 {}", STANDARD.encode("ab".repeat(32)));
    let other = begin(&server, &[&format!("Upload-Concat: final;{own}"), &wrong]).run();
    assert_eq!(other.status, 422, "{other:?}");
    assert_eq!(look(&server, &own).status, 200, "the part is there still");
    let whole = together(&server, &[&own]).run();
    assert_eq!(whole.status, 201, "{whole:?}");
    let late = patch(&server, whole.field("location"), &disk, (0, 9), 0).run();
    assert_eq!(late.status, 409, "{late:?}");
}

/// What the client has come to.
#[derive(Default)]
struct Known {
    parts: Vec<String>,
    is_whole: bool,
}

/// `None` when the server has crashed.
fn try_run(curl: Curl, status: u16) -> Option<Response> {
    let (output, response) = curl.try_run();
    if !output.status.success() {
        return None;
    }
    assert_eq!(response.status, status, "{response:?}");
    Some(response)
}

impl Known {
    fn make(&mut self, server: &Server, disk: &Path) -> Option<()> {
        for (start, end) in [(0, MIDDLE), (MIDDLE, SIZE)] {
            let begun = begin(server, &["Upload-Concat: partial", &format!("Upload-Length: {}", end - start)]);
            let url = try_run(begun, 201)?.field("location").to_owned();
            try_run(patch(server, &url, disk, (start, end), 0), 204)?;
            self.parts.push(url);
        }
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).collect();
        try_run(together(server, &parts), 201)?;
        self.is_whole = true;
        Some(())
    }
}

#[test]
fn parts_become_a_drive_after_a_crash_at_any_point_also_by_themselves() {
    let (home, data) = (Scratch::new(), Scratch::new());
    let disk = home.join("disk.img");
    image::random(&disk, SIZE, 213);
    drop(Setup::default().data(data.path()).start());
    let mut k = 1;
    while k <= 120 {
        let mut server = Setup::default().data(data.path()).config(&format!("crash_after = {k}")).start();
        let mut known = Known::default();
        let survived = known.make(&server, &disk).is_some();
        if survived {
            server.kill9();
        } else {
            assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()));
        }
        drop(server);
        let server = Setup::default().data(data.path()).start();
        let found = || -> Option<Value> {
            let page = server.curl(&format!("{TRANSFERS}?reference=whole&limit=1")).run().json();
            let newest = page["transfers"].as_array().expect("transfers").first().cloned();
            // That of an earlier round has no drive any more.
            newest.filter(|found| server.drives().iter().any(|drive| found["drive"] == drive.as_str()))
        };
        let mut drive = None;
        if found().is_some() {
            // Nobody asks for it, and it goes on.
            let done = wait_for("the drive to be put together", || {
                found().filter(|found| !["open", "finishing"].iter().any(|state| found["state"] == *state))
            });
            assert_eq!(done["state"], json!("done"), "at {k}: {done}");
            drive = done["drive"].as_str().map(str::to_owned);
        }
        assert!(drive.is_some() || !known.is_whole, "an acknowledged drive is gone at {k}");
        if drive.is_none() && known.parts.len() == 2 {
            let parts: Vec<&str> = known.parts.iter().map(String::as_str).collect();
            let whole = together(&server, &parts).run();
            assert_eq!(whole.status, 201, "at {k}: {whole:?}");
            drive = Some(whole.field("longshore-drive").to_owned());
        }
        if let Some(drive) = drive {
            let back = server.scratch().join("back.img");
            server.download(&drive, &back);
            image::assert_same(&disk, &back);
        }
        for drive in server.drives() {
            assert_eq!(server.curl(&format!("/api/2.0/drives/{drive}/")).method("DELETE").run().status, 204);
        }
        // The next round finds its own.
        stored::assert_clean(&server);
        if survived {
            assert!(k > 10, "only {} crash points were passed", k - 1);
            return;
        }
        // While parts come, it is as of any transfer, which is tested at each point elsewhere.
        k += if known.parts.len() < 2 { 5 } else { 1 };
    }
    panic!("more crash points than expected");
}
