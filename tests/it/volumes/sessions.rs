//! Sessions: when their volumes become visible, who may upload to them and until when, and what a failed one leaves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::hyper::{
    archive, ask, begin, contents, fetch, fill, finish, local, sample, show, untar, upload_to,
};
use crate::harness::rsync::assert_same_trees;
use crate::harness::{Server, Setup, wait_for};
use crate::tree::tarball::{Head, Tarball};

#[test]
fn the_three_steps_of_the_document_fill_a_volume() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol2"]));
    for secret in [&session.token, &session.cookie] {
        assert!(secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()), "{secret}");
    }
    let uploader = &session.uploaders["vol2"];
    assert!(uploader.starts_with("http://") && !uploader.contains('?'), "{uploader}");
    let response = session.upload("vol2", &tar).run();
    assert_eq!((response.status, response.body.len()), (200, 0), "{response:?}");
    assert_eq!(finish(&server, &session.token).status, 200);
    let back = server.scratch().join("back.tar");
    let response = fetch(&server, "vol2", &back);
    assert_eq!(response.field("content-type"), "application/x-tar");
    assert_eq!(response.field("content-disposition"), "attachment; filename=vol2.tar");
    let dir = server.scratch().join("back");
    untar(&back, &dir);
    assert_same_trees(&sample(server.scratch(), "a"), &dir);
}

#[test]
fn nothing_is_visible_before_the_end_and_then_all_of_it_at_once() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["one", "two"]));
    let is_filled = |name: &str| {
        let response = show(&server, name);
        assert_eq!(response.status, 200, "{response:?}");
        response.json()["Status"]["Initialized"] == json!(true)
    };
    for name in ["one", "two"] {
        assert_eq!(session.upload(name, &tar).run().status, 200);
        assert!(!is_filled("one") && !is_filled("two"));
        assert_eq!(server.curl(&format!("/volumes/{name}/download")).run().status, 409);
    }
    assert_eq!(finish(&server, &session.token).status, 200);
    assert!(is_filled("one") && is_filled("two"));
    // The end of a session may be requested again.
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn an_uploader_takes_one_archive_from_who_has_its_cookie() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    let uploader = &session.uploaders["vol"];
    let status = |url: &str| upload_to(url, &tar).run().status;
    assert_eq!(status(uploader), 403);
    assert_eq!(status(&format!("{uploader}?cookie=")), 403);
    assert_eq!(status(&format!("{uploader}?cookie={}", session.token)), 403);
    let (base, _) = uploader.rsplit_once('/').unwrap();
    for unknown in ["01938c2e-7d10-7a42-9b51-3f0c5d2e8a77", "data0", ".."] {
        let url = format!("{base}/{unknown}?cookie={}", session.cookie);
        assert_eq!(upload_to(&url, &tar).arg("--path-as-is").run().status, 404, "{unknown}");
    }
    let url = session.url("vol");
    assert_eq!(upload_to(&url, &tar).header("Content-Encoding: br").run().status, 415);
    assert_eq!(upload_to(&url, &tar).header("Content-Range: bytes 0-1/2").run().status, 400);
    let form = crate::harness::Curl::new(&url).arg("--data-binary").arg(format!("@{}", tar.display())).run();
    assert_eq!(form.status, 415, "{form:?}");
    assert_eq!(status(&url), 200);
    assert_eq!(status(&url), 409);
    assert_eq!(finish(&server, &session.token).status, 200);
    assert_eq!(status(&url), 409);
}

#[test]
fn two_archives_for_one_volume_at_the_same_time_are_one_too_many() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    let mut first = server.raw();
    let length = format!("Content-Length: {}", fs::metadata(&tar).unwrap().len());
    first.send_head(&format!("POST {}", session.path("vol")), &["Content-Type: application/x-tar", &length]);
    let bytes = fs::read(&tar).unwrap();
    first.send(&bytes[..10_000]);
    let native = || server.curl("/api/v1/sessions").run().json();
    wait_for("the first to be received", || {
        (native()["sessions"][0]["uploads"][0]["state"] == json!("receiving")).then_some(())
    });
    assert_eq!(session.upload("vol", &tar).run().status, 409);
    first.send(&bytes[10_000..]);
    assert_eq!(first.response().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
}

/// Bodies of broken archives, with a word of the message about each.
fn broken() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = || Tarball::new().dir(".").file("first", "1").file("second", [b'x'; 2000]);
    let cut = whole().end();
    let growing = Tarball::new().dir(".").file("log", [b'x'; 512]).raw(&[b'y'; 512]).end();
    vec![
        ("nothing", Vec::new(), "cut short"),
        ("cut in a header", cut[..700].to_vec(), "entry 2"),
        ("cut in data", cut[..cut.len() - 2000].to_vec(), "second"),
        ("without its end", cut[..cut.len() - 1024].to_vec(), "cut short"),
        ("a file that grew", growing, "entry 3 at byte 1536"),
        ("something after the end", [whole().end(), vec![1; 512]].concat(), "after the end"),
        ("a name that leads out", Tarball::new().file("../x", "1").end(), "entry 1 \"../x\""),
        ("a device", Tarball::new().entry(&Head::new(b'3', "null"), &[]).end(), "device"),
    ]
}

#[test]
fn a_broken_archive_is_refused_with_its_place_and_leaves_nothing_and_may_be_sent_again() {
    let server = Server::start();
    let session = begin(&server, &local(&["vol"]));
    let path = server.scratch().join("broken.tar");
    for (what, bytes, word) in broken() {
        fs::write(&path, bytes).unwrap();
        let response = session.upload("vol", &path).run();
        assert_eq!(response.status, 400, "{what}: {response:?}");
        assert!(response.text().contains(word), "{what}: {response:?}");
        assert_eq!(contents(&server), Vec::<String>::new(), "{what}");
    }
    let good = archive(server.scratch(), "a");
    assert_eq!(session.upload("vol", &good).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn a_session_with_something_missing_fails_as_a_whole_and_names_it() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let broken = server.scratch().join("broken.tar");
    fs::write(&broken, Tarball::new().file("/etc/passwd", "x").end()).unwrap();
    let session = begin(&server, &local(&["good", "bad", "none"]));
    assert_eq!(session.upload("good", &tar).run().status, 200);
    assert_eq!(session.upload("bad", &broken).run().status, 400);
    for _ in 0..2 {
        let response = finish(&server, &session.token);
        assert_eq!(response.status, 400);
        let text = response.text();
        assert!(text.contains("bad: entry 1") && text.contains("none: no archive") && !text.contains("good"), "{text}");
    }
    // They were created by the session, and removed with it.
    for name in ["good", "bad", "none"] {
        assert_eq!(show(&server, name).status, 404);
    }
    assert_eq!(contents(&server), Vec::<String>::new());
    assert_eq!(session.upload("good", &tar).run().status, 410);
    // The names are free at once.
    fill(&server, "good", &tar);
}

#[test]
fn a_volume_is_in_one_session_at_a_time_and_filled_once_unless_it_is_loaded_anew() {
    let server = Server::start();
    let (one, two) = (archive(server.scratch(), "one"), archive(server.scratch(), "two"));
    let session = begin(&server, &local(&["vol"]));
    let refused = ask(&server, &local(&["other", "vol"]));
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("vol is being initialised"), "{refused:?}");
    assert_eq!(show(&server, "other").status, 404);
    assert_eq!(session.upload("vol", &one).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
    let refused = ask(&server, &local(&["vol"]));
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("Reload"), "{refused:?}");

    // The source is known from the first load.
    let reload = begin(&server, &json!({"Reload": true, "Volume": [{"Name": "vol"}]}));
    assert_eq!(reload.upload("vol", &two).run().status, 200);
    assert_eq!(finish(&server, &reload.token).status, 200);
    let back = server.scratch().join("back.tar");
    fetch(&server, "vol", &back);
    let dir = server.scratch().join("back");
    untar(&back, &dir);
    assert_same_trees(&sample(server.scratch(), "two"), &dir);
    let unknown = ask(&server, &json!({"Reload": true, "Volume": [{"Name": "new"}]}));
    assert_eq!(unknown.status, 400, "{unknown:?}");
}

#[test]
fn a_reload_that_fails_leaves_the_old_content() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    fill(&server, "vol", &tar);
    let before = contents(&server);
    let session = begin(&server, &json!({"Reload": true, "Volume": [{"Name": "vol", "Source": "/x"}]}));
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    let id = server.curl("/api/v1/sessions").run().json()["sessions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.curl(&format!("/api/v1/sessions/{id}")).method("DELETE").run().status, 204);
    assert_eq!(server.curl(&format!("/api/v1/sessions/{id}")).method("DELETE").run().status, 409);
    assert_eq!(finish(&server, &session.token).status, 400);
    assert_eq!(contents(&server), before);
    fetch(&server, "vol", &server.scratch().join("back.tar"));
}

/// Reads the head of a download, and nothing of its body.
pub(super) fn stalled_download(server: &Server, name: &str) -> TcpStream {
    let response = server.curl(&format!("/volumes/{name}/download")).run();
    assert_eq!(response.status, 302, "{response:?}");
    let path = response.field("location").to_owned();
    let mut stream = crate::harness::peer::narrow(server.authority());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("the server takes a request");
    assert_eq!(crate::harness::peer::read_head(&mut stream).status, 200);
    stream
}

#[test]
fn who_reads_the_old_content_is_not_disturbed_by_new() {
    let server = Server::start();
    let big = server.scratch().join("big.tar");
    let data: Vec<u8> = (0..24_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&big, Tarball::new().dir(".").file("big", &data).end()).unwrap();
    fill(&server, "vol", &big);
    let old = contents(&server);
    let mut reader = stalled_download(&server, "vol");

    let small = archive(server.scratch(), "a");
    let session = begin(&server, &json!({"Reload": true, "Volume": [{"Name": "vol", "Source": "/x"}]}));
    assert_eq!(session.upload("vol", &small).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
    assert_ne!(contents(&server), old);
    assert_eq!(server.curl("/volumes/vol?force=1").method("DELETE").run().status, 204);

    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    let is_there = body.windows(4096).any(|part| part == &data[data.len() - 4096..]);
    assert!(is_there && body.len() > data.len(), "{} bytes came", body.len());
    assert!(body.ends_with(b"\r\n0\r\n\r\n"), "it does not end as it should");
    let trash = server.data().join("tree-trash");
    wait_for("the trash to be emptied", || fs::read_dir(&trash).unwrap().next().is_none().then_some(()));
}

#[test]
fn a_session_goes_on_after_the_process_was_killed() {
    let mut server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["one", "two", "three"]));
    assert_eq!(session.upload("one", &tar).run().status, 200);
    let mut half = server.raw();
    half.send_head(
        &format!("POST {}", session.path("two")),
        &["Content-Type: application/x-tar", "Content-Length: 99999"],
    );
    half.send(&fs::read(&tar).unwrap()[..9_000]);
    wait_for("the half to be unpacked", || (contents(&server).len() == 2).then_some(()));
    let address = server.authority().to_owned();
    server.kill9();
    server.restart();
    // The restarted server has another port, which a public URL would hide.
    let moved = |url: &str| url.replace(&address, server.authority());
    let mut session = session;
    for url in session.uploaders.values_mut() {
        *url = moved(url);
    }
    let sessions = server.curl("/api/v1/sessions").run().json();
    let states: Vec<&Value> =
        sessions["sessions"][0]["uploads"].as_array().unwrap().iter().map(|upload| &upload["state"]).collect();
    assert_eq!(states, ["received", "waiting", "waiting"]);
    assert_eq!(contents(&server).len(), 1, "the half is gone");
    for name in ["two", "three"] {
        assert_eq!(session.upload(name, &tar).run().status, 200);
    }
    assert_eq!(session.upload("one", &tar).run().status, 409);
    assert_eq!(finish(&server, &session.token).status, 200);
    assert_eq!(contents(&server).len(), 3);
    server.kill9();
    server.restart();
    let back = server.scratch().join("back.tar");
    fetch(&server, "two", &back);
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing_and_may_be_sent_again() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    for length in ["Content-Length: 99999", "Transfer-Encoding: chunked"] {
        let mut half = server.raw();
        half.send_head(&format!("POST {}", session.path("vol")), &["Content-Type: application/x-tar", length]);
        if length.starts_with("Transfer") {
            half.send(b"2328\r\n");
        }
        half.send(&fs::read(&tar).unwrap()[..9_000]);
        wait_for("the half to be unpacked", || (contents(&server).len() == 1).then_some(()));
        drop(half);
        wait_for("the half to be removed", || contents(&server).is_empty().then_some(()));
        let state = || server.curl("/api/v1/sessions").run().json()["sessions"][0]["uploads"][0]["state"].clone();
        wait_for("the uploader to wait again", || (state() == json!("waiting")).then_some(()));
    }
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn after_its_time_a_session_takes_no_upload_and_is_dropped() {
    let server = Setup::default().config("trees.session_seconds = 1").config("trees.grace_seconds = 3").start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol", "late", "running"]));
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    let mut running = server.raw();
    let length = format!("Content-Length: {}", fs::metadata(&tar).unwrap().len());
    running.send_head(&format!("POST {}", session.path("running")), &["Content-Type: application/x-tar", &length]);
    running.send(&fs::read(&tar).unwrap()[..9_000]);
    let refused = wait_for("the time to be over", || {
        let broken = upload_to(&session.url("late"), &server.scratch().join("longshore.toml")).run();
        (broken.status == 410).then_some(broken)
    });
    assert!(refused.text().contains("expired"), "{refused:?}");
    // The running upload continues for a while, and is then stopped.
    let answer = running.response();
    assert_eq!(answer.status, 410, "{answer:?}");
    wait_for("the session to be dropped", || contents(&server).is_empty().then_some(()));
    let finished = finish(&server, &session.token);
    assert_eq!(finished.status, 400);
    assert!(finished.text().contains("not finished in time"), "{finished:?}");
    assert_eq!(show(&server, "vol").status, 404);
    assert_eq!(server.curl("/api/v1/sessions").run().json()["sessions"][0]["state"], json!("expired"));
}

#[test]
fn what_runs_when_the_time_is_over_may_end_and_the_session_be_finished() {
    let server = Setup::default().config("trees.session_seconds = 1").config("trees.grace_seconds = 600").start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    let bytes = fs::read(&tar).unwrap();
    let mut running = server.raw();
    let length = format!("Content-Length: {}", bytes.len());
    running.send_head(&format!("POST {}", session.path("vol")), &["Content-Type: application/x-tar", &length]);
    running.send(&bytes[..9_000]);
    let other = begin(&server, &local(&["clock"]));
    let broken = server.scratch().join("longshore.toml");
    wait_for("the time to be over", || (other.upload("clock", &broken).run().status == 410).then_some(()));
    running.send(&bytes[9_000..]);
    assert_eq!(running.response().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn neither_token_nor_cookie_is_logged_or_kept() {
    let server = Setup::default().config("log.level = \"trace\"").start();
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
    let log = server.wait_for_line("archive unpacked");
    for file in ["meta.sqlite", "meta.sqlite-wal"] {
        let bytes = fs::read(server.data().join(file)).unwrap_or_default();
        for secret in [&session.token, &session.cookie] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{file}");
        }
    }
    for secret in [&session.token, &session.cookie] {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
    }
}
