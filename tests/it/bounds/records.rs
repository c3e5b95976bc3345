//! Limits of rows in the database, and of its log.

use std::fs;

use serde_json::{Map, Value, json};

use super::Scene;
use crate::harness::cloud::{TOKENS, login_body};
use crate::harness::{RawClient, Response, Setup, wait_for};

/// Sends a request with a JSON body, on a connection that stays open.
fn send(client: &mut RawClient, request: &str, fields: &[&str], body: &Value) -> Response {
    let body = body.to_string();
    let length = format!("Content-Length: {}", body.len());
    client.send_head(request, &[fields, &["Content-Type: application/json", &length]].concat());
    client.send(body.as_bytes());
    client.response()
}

/// As much metadata as fits into a request or a row.
fn pairs(from: usize, count: usize) -> Value {
    let pair = |n: usize| (format!("{n:0>255}"), Value::from("v".repeat(255)));
    (from..from + count).map(pair).collect::<Map<_, _>>().into()
}

#[test]
fn rows_of_volumes_are_as_many_and_as_long_as_they_may_be() {
    let scene = Scene::start(Setup::default(), &["--max-drives", "3"]);
    let cloud = scene.cloud();
    for n in 0..3 {
        let made = scene.blank(70_000);
        assert_eq!(made.status, 201, "{made:?}");
        let id = crate::harness::stored::started(&made);
        for kind in ["metadata", "image metadata"] {
            let set = |from, count| {
                let pairs = json!({"metadata": pairs(from, count)});
                if kind == "metadata" {
                    return cloud.post(&format!("volumes/{id}/metadata"), &pairs);
                }
                cloud.post(&format!("volumes/{id}/action"), &json!({"os-set_image_metadata": pairs}))
            };
            assert_eq!((set(0, 64).status, set(64, 64).status), (200, 200), "{kind} of drive {n}");
            assert_eq!(set(128, 1).status, 400, "{kind} of drive {n}");
        }
    }
    assert_eq!(scene.blank(70_000).status, 403);
    assert_eq!(scene.initialize(&["a"]).status, 403, "a volume is one of them");
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn the_newest_records_of_ended_sessions_are_kept_and_they_are_short_together() {
    let scene = Scene::start(Setup::default(), &[]);
    for _ in 0..105 {
        let begun = scene.begin(&["a"]);
        assert_eq!(scene.finish(&begun).status, 400, "nothing was received");
    }
    assert_eq!(scene.sessions().len(), 101);
    scene.others_are_served();
    // The sources in each request take a quarter of a MiB.
    let volumes: Vec<_> = (0..60).map(|n| json!({"Name": format!("n{n}"), "Source": format!("/{n:0>4000}")})).collect();
    let body = json!({"Volume": volumes});
    let mut client = scene.server.raw();
    let login = crate::harness::raw::basic(&scene.tenant);
    for _ in 0..4 {
        let begun = send(&mut client, "POST /volumes/initialize", &[&login], &body);
        assert_eq!(begun.status, 200, "{begun:?}");
        let session = crate::harness::hyper::Session::of(&begun);
        assert_eq!(scene.finish(&session).status, 400);
    }
    let length = scene.count("SELECT SUM(length(source)) FROM uploads");
    assert!(length < 800 << 10, "{length} bytes, of which the last session may have 256 KiB");
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn a_user_has_so_many_tokens_and_the_oldest_goes() {
    let scene = Scene::start(Setup::default(), &[]);
    let first = scene.cloud();
    assert_eq!(first.get("volumes").status, 200);
    let body = login_body(&scene.tenant);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = scene.server.raw();
                for _ in 0..260 {
                    assert_eq!(send(&mut client, &format!("POST {TOKENS}"), &[], &body).status, 201);
                }
            });
        }
    });
    // A recently verified token is not looked up for some seconds.
    wait_for("the oldest to be refused", || (first.get("volumes").status == 401).then_some(()));
    assert_eq!(scene.cloud().get("volumes").status, 200, "the newest");
    assert_eq!(scene.count("SELECT COUNT(*) FROM tokens"), 2048);
    scene.others_are_served();
    // A new password ends all tokens.
    let changed = scene.server.user_command(&["passwd", "tenant"]);
    assert!(changed.status.success(), "{changed:?}");
    assert_eq!(
        scene.count("SELECT COUNT(*) FROM tokens t JOIN users u ON u.name = t.user_name WHERE u.name = 'tenant'"),
        0
    );
}

#[test]
fn the_log_of_the_database_is_written_back_however_much_is_changed() {
    let scene = Scene::start(Setup::default(), &[]);
    let id = crate::harness::stored::started(&scene.blank(70_000));
    let cloud = scene.cloud();
    let path = format!("POST /v3/{}/volumes/{id}/action", cloud.project);
    let token = format!("X-Auth-Token: {}", cloud.token);
    let log = scene.server.data().join("meta.sqlite-wal");
    let size = || fs::metadata(&log).map_or(0, |log| log.len());
    let (mut client, mut written, mut most) = (scene.server.raw(), 0, 0);
    while written < 80 << 20 {
        let body = json!({"os-set_image_metadata": {"metadata": pairs(0, 120)}});
        assert_eq!(send(&mut client, &path, &[&token], &body).status, 200);
        written += body.to_string().len();
        most = most.max(size());
    }
    println!("the log had {most} bytes of {written} at most");
    assert!(most < 34 << 20, "{most} bytes");
    scene.others_are_served();
    scene.everything_goes();
}
