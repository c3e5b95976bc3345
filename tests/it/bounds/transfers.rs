//! Limits of transfers: how many are open, what each of them holds, and what is kept of those that have ended.

use std::io::Write as _;
use std::thread;

use serde_json::{Value, json};

use super::{DRIVES, OCTETS, Scene};
use crate::harness::raw::basic;
use crate::harness::{RawClient, Response, Setup, image, machine, wait_for};
use crate::transfers::{TRANSFERS, extents};

/// Begins a transfer on a connection that stays open.
fn begin(client: &mut RawClient, login: &str, terms: &Value) -> Response {
    let body = terms.to_string();
    let length = format!("Content-Length: {}", body.len());
    client.send_head(&format!("POST {TRANSFERS}"), &[login, "Content-Type: application/json", &length]);
    client.send(body.as_bytes());
    client.response()
}

/// The id of a transfer that was begun, and the path that its parts go to.
#[track_caller]
fn begun(scene: &Scene, response: &Response) -> (String, String) {
    assert_eq!(response.status, 201, "{response:?}");
    let told = response.json();
    let text = |name: &str| told[name].as_str().expect("a text");
    let url = text("ticket").strip_prefix(scene.server.endpoint()).expect("on this server");
    (text("id").to_owned(), url.to_owned())
}

/// Sends a part of these bytes, on a connection that stays open.
fn put(client: &mut RawClient, url: &str, offset: u64, bytes: &[u8]) -> Response {
    let range = format!("Content-Range: bytes {offset}-{}/*", offset + bytes.len() as u64 - 1);
    client.send_head(&format!("PUT {url}"), &[OCTETS, &range, &format!("Content-Length: {}", bytes.len())]);
    client.send(bytes);
    client.response()
}

/// Uploads a drive as the other tenant by a transfer.
#[track_caller]
fn other_has_a_transfer(scene: &Scene) {
    let bytes = image::bytes(161, 100_000);
    let begun = scene.elsewhere(TRANSFERS).json("POST", &json!({"name": "theirs", "size": bytes.len()})).run();
    assert_eq!(begun.status, 201, "{begun:?}");
    let (told, part) = (begun.json(), scene.server.scratch().join("other.part"));
    std::fs::write(&part, &bytes).expect("a part is written");
    let url = told["ticket"].as_str().expect("a URL");
    let sent = crate::harness::Curl::new(url).args(&super::ELSEWHERE).upload("PUT", &part).run();
    assert_eq!(sent.status, 200, "{sent:?}");
    let id = told["id"].as_str().expect("an id");
    let done = scene.elsewhere(&format!("{TRANSFERS}/{id}/finish")).json("POST", &json!({})).run();
    assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
    let drive = format!("{DRIVES}{}/", told["drive"].as_str().expect("a drive"));
    let back = scene.server.scratch().join("other.transferred");
    let read = scene.elsewhere(&format!("{drive}download/")).arg("--location").output(&back).run();
    assert_eq!(read.status, 200, "{read:?}");
    image::assert_same(&part, &back);
    assert_eq!(scene.elsewhere(&drive).method("DELETE").run().status, 204);
}

#[test]
fn a_tenant_has_so_many_open_transfers_and_each_is_one_of_its_drives() {
    let mut scene = Scene::start(Setup::default(), &["--max-bytes", "60000000 B"]);
    let login = basic(&scene.tenant);
    let mut client = scene.server.raw();
    let terms = json!({"name": "a", "size": 100_000});
    let (first, url) = begun(&scene, &begin(&mut client, &login, &terms));
    for _ in 1..256 {
        begun(&scene, &begin(&mut client, &login, &terms));
    }
    for _ in 0..2 {
        let refused = begin(&mut client, &login, &terms);
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.text().contains("256 open transfers"), "{refused:?}");
    }
    // Those that are open are not concerned.
    assert_eq!(put(&mut client, &url, 5, &image::bytes(160, 70_000)).status, 200);
    scene.others_are_served();
    other_has_a_transfer(&scene);
    scene.server.kill9();
    scene.server.restart();
    let mut client = scene.server.raw();
    assert_eq!(begin(&mut client, &login, &terms).status, 403, "they are open still");
    let path = format!("{TRANSFERS}/{first}");
    assert_eq!(extents(&scene.curl(&path).run().json()), [(5, 70_000)]);
    assert_eq!(scene.curl(&path).method("DELETE").run().status, 204);
    let (_, url) = begun(&scene, &begin(&mut client, &login, &json!({"name": "b"})));
    // The others have taken 25,500,000 bytes of the quota.
    let refused = put(&mut client, &url, 34_500_000, &[7]);
    assert_eq!(refused.status, 403, "{refused:?}");
    scene.everything_goes();
}

#[test]
fn a_transfer_is_in_so_many_extents_and_what_is_there_stays() {
    const STRIDE: u64 = 5_000;
    const MOST: u64 = 4_096;
    let scene = Scene::start(Setup::default(), &[]);
    let login = basic(&scene.tenant);
    let size = MOST * STRIDE + STRIDE;
    let (id, url) = begun(&scene, &begin(&mut scene.server.raw(), &login, &json!({"name": "a", "size": size})));
    let bytes = image::bytes(162, size as usize);
    let part = |n: u64, length: u64| &bytes[(n * STRIDE) as usize..(n * STRIDE + length) as usize];
    // Parts that come together share a checkpoint.
    thread::scope(|scope| {
        for first in 0..16 {
            let (server, url, part) = (&scene.server, &url, &part);
            scope.spawn(move || {
                let mut client = server.raw();
                // Each of those that come at present may begin an extent, and is counted as one.
                for n in (first..MOST - 16).step_by(16) {
                    let told = put(&mut client, url, n * STRIDE, part(n, 1_000));
                    assert_eq!(told.status, 200, "part {n}: {told:?}");
                }
            });
        }
    });
    let mut client = scene.server.raw();
    for n in MOST - 16..MOST {
        assert_eq!(put(&mut client, &url, n * STRIDE, part(n, 1_000)).status, 200, "part {n}");
    }
    let refused = put(&mut client, &url, MOST * STRIDE, part(MOST, 1_000));
    assert_eq!(refused.status, 413, "{refused:?}");
    let zero = json!({"op": "zero", "offset": MOST * STRIDE, "size": 1_000});
    let refused = scene.server.anonymous_curl(&url).json("PATCH", &zero).run();
    assert_eq!(refused.status, 413, "{refused:?}");
    let expected: Vec<(u64, u64)> = (0..MOST).map(|n| (n * STRIDE, 1_000)).collect();
    let show = || extents(&scene.curl(&format!("{TRANSFERS}/{id}")).run().json());
    assert!(show() == expected, "{} extents are there", show().len());
    // Each of the two maps has 16 bytes for an extent, and these few pieces.
    let maps: u64 = super::files(&scene.server.data().join("incoming"))
        .iter()
        .filter(|path| !path.ends_with("/image"))
        .map(|path| image::size_of(path.as_ref()))
        .sum();
    assert!((2 * 16 * MOST..2 * 17 * MOST).contains(&maps), "{maps} bytes");
    scene.others_are_served();
    other_has_a_transfer(&scene);
    // What goes on where something is, is taken; when a gap is filled, there is room for another extent.
    assert_eq!(put(&mut client, &url, 1_000, &bytes[1_000..STRIDE as usize]).status, 200);
    assert_eq!(put(&mut client, &url, MOST * STRIDE, part(MOST, STRIDE)).status, 200);
    assert_eq!(show().len() as u64, MOST);
    assert_eq!(put(&mut client, &url, 0, &bytes).status, 200);
    let done = scene.curl(&format!("{TRANSFERS}/{id}/finish")).json("POST", &json!({})).run();
    assert_eq!(done.status, 200, "{done:?}");
    let drive = done.json()["drive"].as_str().expect("a drive").to_owned();
    let (want, back) = (scene.server.scratch().join("want"), scene.server.scratch().join("back"));
    std::fs::write(&want, &bytes).expect("an image is written");
    let read = scene.curl(&format!("{DRIVES}{drive}/download/")).arg("--location").output(&back).run();
    assert_eq!(read.status, 200, "{read:?}");
    image::assert_same(&want, &back);
    scene.everything_goes();
}

#[test]
fn parts_that_stall_share_the_memory_and_others_move_on() {
    const OPEN: u64 = 200;
    const STALLED: u64 = 150;
    let scene = Scene::start(Setup::default().config("memory.budget = \"8 MiB\""), &[]);
    let login = basic(&scene.tenant);
    let mut client = scene.server.raw();
    let size = 3_000_000;
    let all: Vec<(String, String)> =
        (0..OPEN).map(|_| begun(&scene, &begin(&mut client, &login, &json!({"name": "a", "size": size})))).collect();
    let before = machine::memory(scene.server.pid());
    let part = image::bytes(163, size);
    let (stalled, moving) = all.split_at(STALLED as usize);
    let held: Vec<RawClient> = stalled
        .iter()
        .map(|(_, url)| {
            let mut upload = scene.server.raw();
            upload.send_head(&format!("PUT {url}"), &[OCTETS, &format!("Content-Length: {size}")]);
            upload.socket().write_all(&part[..48 * 4096 + 5]).expect("the server takes the bytes");
            upload
        })
        .collect();
    for (_, url) in moving {
        let told = put(&mut client, url, 0, &part);
        assert_eq!((told.status, &told.json()["durable"]), (200, &json!(size)), "{told:?}");
    }
    scene.others_are_served();
    other_has_a_transfer(&scene);
    // A part that stalls has given its blocks back: the full sectors of what came of it are on the disk.
    for (id, _) in stalled {
        wait_for("what came of a part that stalls", || {
            (scene.curl(&format!("{TRANSFERS}/{id}")).run().json()["durable"] == json!(48 * 4096)).then_some(())
        });
    }
    let peak = machine::peak_memory(scene.server.pid());
    println!("before: {} MiB, peak: {} MiB", before >> 20, peak >> 20);
    assert!(peak < before + (90 << 20), "{} MiB", peak >> 20);
    drop(held);
    scene.everything_goes();
}

#[test]
fn the_newest_records_of_ended_transfers_are_kept() {
    let scene = Scene::start(Setup::default(), &[]);
    let login = basic(&scene.tenant);
    // Those that begin together share a flush.
    thread::scope(|scope| {
        for _ in 0..10 {
            let (scene, login) = (&scene, &login);
            scope.spawn(move || {
                let mut client = scene.server.raw();
                for _ in 0..105 {
                    let (id, _) = begun(scene, &begin(&mut client, login, &json!({"name": "a"})));
                    client.send_head(&format!("DELETE {TRANSFERS}/{id}"), &[login]);
                    assert_eq!(client.response().status, 204);
                }
            });
        }
    });
    // Those that were open when the last one began were not counted then.
    let kept = scene.count("SELECT COUNT(*) FROM transfers WHERE state = 'cancelled'");
    assert!((1_001..=1_010).contains(&kept), "{kept} records");
    let (last, _) = begun(&scene, &begin(&mut scene.server.raw(), &login, &json!({"name": "last"})));
    assert_eq!(scene.count("SELECT COUNT(*) FROM transfers WHERE state = 'cancelled'"), 1_000);
    scene.others_are_served();
    other_has_a_transfer(&scene);
    let found = scene.curl(&format!("{TRANSFERS}/{last}")).run();
    assert_eq!((found.status, &found.json()["state"]), (200, &json!("open")), "{found:?}");
    scene.everything_goes();
}

#[test]
fn as_many_compressed_parts_as_may_be_keep_no_others_from_coming_plainly() {
    let scene = Scene::start(Setup::default(), &[]);
    let login = basic(&scene.tenant);
    let (_, url) = begun(&scene, &begin(&mut scene.server.raw(), &login, &json!({"name": "a", "size": 100_000})));
    let coded = |client: &mut RawClient, url: &str, n: u64| {
        let range = format!("Content-Range: bytes {}-{}/*", n * 1_000, n * 1_000 + 999);
        let fields = [OCTETS, &range, "Content-Encoding: zstd", "Content-Length: 900", "Expect: 100-continue"];
        client.send_head(&format!("PUT {url}"), &fields);
        client.head().status
    };
    let mut stalled: Vec<RawClient> = (0..6).map(|_| scene.server.raw()).collect();
    for (client, n) in stalled.iter_mut().zip(0..) {
        assert_eq!(coded(client, &url, n), 100);
    }
    let mut client = scene.server.raw();
    assert_eq!(coded(&mut client, &url, 8), 503);
    assert_eq!(put(&mut scene.server.raw(), &url, 8_000, &image::bytes(163, 1_000)).status, 200);
    let theirs = scene.elsewhere(TRANSFERS).json("POST", &json!({"name": "b", "size": 100_000})).run().json();
    let told = |name: &str| theirs[name].as_str().expect("a text").replace(scene.server.endpoint(), "");
    assert_eq!(coded(&mut scene.server.raw(), &told("ticket"), 1), 100, "another tenant finds a turn");
    assert_eq!(scene.elsewhere(&format!("{TRANSFERS}/{}", told("id"))).method("DELETE").run().status, 204);
    other_has_a_transfer(&scene);
    scene.others_are_served();
    drop(stalled);
    wait_for("a turn", || (coded(&mut scene.server.raw(), &url, 9) == 100).then_some(()));
}
