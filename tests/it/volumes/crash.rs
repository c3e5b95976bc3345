//! The process ends at every crash point of a session; acknowledged work is complete, and nothing else is left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::hyper::{
    Session, archive, begin, contents, fetch, fill, finish, local, sample, show, untar, upload_to,
};
use crate::harness::rsync::assert_same_trees;
use crate::harness::{Scratch, Server, Setup, hyper, image, stored, wait_for};

/// More crash points than any session passes.
const MOST_POINTS: u64 = 60;

/// The acknowledgements that a client has received.
#[derive(Default)]
struct Known {
    session: Option<Value>,
    is_received: bool,
    is_finished: bool,
    is_removed: bool,
}

/// Runs a session from its beginning to the removal of its volume, as far as the server lives.
fn live(server: &Server, home: &Scratch) -> Known {
    let mut known = Known::default();
    let credentials = server.credentials();
    let curl = |path: &str| server.curl_as(&credentials, path);
    let (output, response) = curl("/volumes/initialize").json("POST", &local(&["vol"])).try_run();
    if !output.status.success() {
        return known;
    }
    let session = response.json();
    let url = format!(
        "{}?cookie={}",
        session["Uploaders"]["vol"].as_str().expect("an uploader"),
        session["Cookie"].as_str().expect("a cookie")
    );
    let token = session["Session"].as_str().expect("a token").to_owned();
    known.session = Some(session);
    let answered = |curl: crate::harness::Curl, status: u16| {
        let (output, response) = curl.try_run();
        assert!(!output.status.success() || response.status == status, "{response:?}");
        output.status.success()
    };
    known.is_received = answered(upload_to(&url, &home.join("a.tar")), 200);
    if !known.is_received {
        return known;
    }
    known.is_finished = answered(curl(&format!("/volumes/uploadfinish?session={token}")).method("PUT"), 200);
    if known.is_finished {
        known.is_removed = answered(curl("/volumes/vol").method("DELETE"), 204);
    }
    known
}

#[track_caller]
fn check(server: &Server, home: &Scratch, known: &Known) {
    // A removal removes the digests first.
    let digests = stored::entries(server, "tree-digests");
    assert_eq!(digests.into_iter().collect::<Vec<_>>(), contents(server), "digests of nothing, or none");
    let sessions = server.curl("/api/v1/sessions").run().json();
    let there = show(server, "vol");
    if let (true, false, Some(session)) = (known.is_received, known.is_finished, &known.session) {
        // Whether or not the session had ended before, it can be ended now.
        assert_eq!(finish(server, session["Session"].as_str().expect("a token")).status, 200);
    } else if known.is_finished && !known.is_removed && there.status == 404 {
        // Its removal was requested.
        assert_eq!(contents(server), Vec::<String>::new());
        return;
    }
    if known.is_removed {
        assert_eq!(there.status, 404);
        assert_eq!(contents(server), Vec::<String>::new());
        return;
    }
    if !known.is_received {
        // An upload may have been received without an acknowledgement; any other has left nothing.
        let received = sessions["sessions"][0]["uploads"][0]["state"] == json!("received");
        assert_eq!(contents(server).len(), usize::from(received), "{sessions}");
        return;
    }
    let (back, dir) = (server.scratch().join("back.tar"), server.scratch().join("back"));
    fetch(server, "vol", &back);
    untar(&back, &dir);
    assert_same_trees(&sample(home, "a"), &dir);
    assert_eq!(contents(server).len(), 1);
}

#[test]
fn a_session_survives_a_crash_at_every_point() {
    let home = Scratch::new();
    archive(&home, "a");
    let mut passed = 0;
    loop {
        assert!(passed < MOST_POINTS, "it never passes all points");
        let data = Scratch::new();
        // The first start passes crash points of its own.
        let mut first = Setup::default().data(data.path()).start();
        first.terminate();
        let mut server = Setup::default().data(data.path()).config(&format!("crash_after = {}", passed + 1)).start();
        let known = live(&server, &home);
        if known.is_removed {
            server.terminate();
            break;
        }
        server.wait();
        let server = Setup::default().data(data.path()).start();
        check(&server, &home, &known);
        let trash = server.data().join("tree-trash");
        crate::harness::wait_for("the trash to be emptied", || {
            fs::read_dir(&trash).unwrap().next().is_none().then_some(())
        });
        passed += 1;
    }
    assert!(passed >= 6, "only {passed} points");
}

/// Replaces what `vol` has and then ends the session, as far as the server lives; returns whether that was answered.
fn replace(server: &Server, archive: &Path, cancels: bool) -> bool {
    let credentials = server.credentials();
    let curl = |path: &str| server.curl_as(&credentials, path);
    let wish = json!({"Reload": true, "Volume": [{"Name": "vol", "Source": "/local/dir"}]});
    let (output, response) = curl("/volumes/initialize").json("POST", &wish).try_run();
    if !output.status.success() {
        return false;
    }
    let session = Session::of(&response);
    if !upload_to(&session.url("vol"), archive).try_run().0.status.success() {
        return false;
    }
    if !cancels {
        let path = format!("/volumes/uploadfinish?session={}", session.token);
        return curl(&path).method("PUT").try_run().0.status.success();
    }
    let (output, response) = curl("/api/v1/sessions").try_run();
    output.status.success() && {
        let id = open_session(&response.json()).expect("the session is open");
        curl(&format!("/api/v1/sessions/{id}")).method("DELETE").try_run().0.status.success()
    }
}

fn open_session(sessions: &Value) -> Option<String> {
    let open = sessions["sessions"].as_array()?.iter().find(|session| session["state"] == "open")?;
    Some(open["id"].as_str()?.to_owned())
}

/// Of a content that a reload has replaced, and of one that a cancelled session had received, the next start knows that
/// it is to go: it takes neither for a tree whose row was lost.
#[test]
fn a_content_that_nobody_has_any_more_goes_after_a_crash_at_every_point() {
    let home = Scratch::new();
    let (old, new) = (archive(&home, "a"), archive(&home, "b"));
    for cancels in [false, true] {
        let mut passed = 0;
        loop {
            assert!(passed < MOST_POINTS, "it never passes all points");
            let data = Scratch::new();
            let mut first = Setup::default().data(data.path()).start();
            fill(&first, "vol", &old);
            first.terminate();
            let mut server =
                Setup::default().data(data.path()).config(&format!("crash_after = {}", passed + 1)).start();
            let is_answered = replace(&server, &new, cancels);
            if is_answered {
                server.terminate();
                break;
            }
            server.wait();
            let server = Setup::default().data(data.path()).start();
            if let Some(id) = open_session(&server.curl("/api/v1/sessions").run().json()) {
                assert_eq!(server.curl(&format!("/api/v1/sessions/{id}")).method("DELETE").run().status, 204);
            }
            assert_eq!(contents(&server).len(), 1, "after {passed} points");
            assert_eq!(stored::entries(&server, "lost/trees").len(), 0, "after {passed} points");
            let (back, dir) = (server.scratch().join("back.tar"), server.scratch().join("back"));
            fetch(&server, "vol", &back);
            untar(&back, &dir);
            let is_new = fs::read_to_string(dir.join("readme.md")).expect("a file") == "hello b\n";
            assert!(!is_new || !cancels, "what was cancelled is visible");
            assert_same_trees(&sample(&home, if is_new { "b" } else { "a" }), &dir);
            passed += 1;
        }
        assert!(passed >= 6, "only {passed} points");
    }
}

#[test]
fn a_kill_in_the_middle_of_a_large_file_leaves_nothing_and_the_upload_can_be_sent_again() {
    let mut server = Server::start();
    let (dir, tar) = (server.scratch().join("large"), server.scratch().join("large.tar"));
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("file"), image::bytes(1, 30 << 20)).expect("a file");
    hyper::tar(&dir, &tar);
    let session = begin(&server, &local(&["vol"]));
    let bytes = fs::read(&tar).expect("an archive");
    let mut client = server.raw();
    let length = format!("Content-Length: {}", bytes.len());
    client.send_head(&format!("POST {}", session.path("vol")), &["Content-Type: application/x-tar", &length]);
    client.send(&bytes[..20 << 20]);
    wait_for("some of it to be written", || {
        let file = server.data().join("trees").join(contents(&server).first()?).join("file");
        (fs::metadata(file).ok()?.blocks() * 512 > 8 << 20).then_some(())
    });
    server.kill9();
    server.restart();
    assert_eq!(contents(&server), Vec::<String>::new());

    let url = server.endpoint().to_owned() + &session.path("vol");
    assert_eq!(upload_to(&url, &tar).run().status, 200);
    server.kill9();
    server.restart();
    assert_eq!(finish(&server, &session.token).status, 200);
    let (archive, back) = (server.scratch().join("back.tar"), server.scratch().join("back"));
    fetch(&server, "vol", &archive);
    untar(&archive, &back);
    assert_same_trees(&dir, &back);
}
