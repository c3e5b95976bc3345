//! Stored data is read and checked without a request.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use longshore::domain::UnixTime;
use longshore::meta::Check;
use serde_json::json;

use crate::harness::stored::{self, image_of, with_meta};
use crate::harness::{Cloud, Response, Server, Setup, hyper, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const WANT: &str = "Want-Repr-Digest: sha-256=1";
const CHECKED: &str = "longshore-checked";
const PIECE: u64 = 4 << 20;
const END: UnixTime = UnixTime(i64::MAX);

/// A setup that checks everything again after a second.
fn scrubbing(rate: &str) -> Setup {
    Setup::default().config("scrub.period_seconds = 1").config(&format!("scrub.rate = \"{rate}\""))
}

fn found(server: &Server, what: &str) -> u64 {
    server.metric(&format!("longshore_scrub_volumes_total{{found=\"{what}\"}}")).unwrap_or(0.0) as u64
}

fn bytes(server: &Server) -> u64 {
    server.metric("longshore_scrub_bytes_total").expect("bytes are counted") as u64
}

/// Waits until `count` further checks have found their volume intact.
#[track_caller]
fn wait_for_checks(server: &Server, count: u64) {
    let before = found(server, "whole");
    wait_for("checks", || (found(server, "whole") >= before + count).then_some(()));
}

#[track_caller]
fn stored_drive(server: &Server, size: u64, seed: u64) -> String {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, size, seed);
    server.upload(&disk)
}

fn rot(server: &Server, id: &str, at: u64) {
    let file = File::options().write(true).open(image_of(server, id)).expect("the image can be opened");
    file.write_all_at(b"ROT", at).expect("the image can be written");
}

#[track_caller]
fn head(server: &Server, uuid: &str, fields: &[&str]) -> Response {
    let mut curl = server.curl(&format!("{DRIVES}{uuid}/download/")).args(&["--location", "--head"]);
    for field in fields {
        curl = curl.header(field);
    }
    let response = curl.run();
    assert_eq!(response.status, 200, "{response:?}");
    response
}

/// Returns the check that is due next, whenever that is.
fn next_check(server: &Server) -> Check {
    with_meta(server, async |meta| meta.next_check(END, END).await.expect("the database answers").expect("a check"))
}

#[test]
fn rot_is_found_without_anybody_reading() {
    let server = scrubbing("1GiB").start();
    let cloud = Cloud::of(&server);
    let good = stored_drive(&server, 9_000_000, 1);
    let flipped = stored_drive(&server, 9_000_000, 2);
    let snapshot = cloud.snapshot(&good);
    let small = stored_drive(&server, 100_000, 3);
    let lost = stored_drive(&server, 9_000_000, 4);
    wait_for_checks(&server, 10);
    rot(&server, &flipped, 5_000_000);
    rot(&server, &small, 50_000);
    rot(&server, &snapshot, 8_999_990);
    fs::remove_dir_all(image_of(&server, &lost).parent().unwrap()).unwrap();
    cloud.wait("snapshots", &snapshot, "error");
    for (drive, why) in [(&flipped, "from 4194304 "), (&small, "from 0 "), (&lost, "missing")] {
        wait_for("the rot to be found", || (server.drive(drive)["status"] == "unavailable").then_some(()));
        let reason = server.drive(drive)["status_reason"].as_str().expect("a reason").to_owned();
        assert!(reason.contains(why), "{reason}");
    }
    wait_for("the rot to be counted", || (found(&server, "damaged") == 4).then_some(()));
    assert_eq!(server.metric("longshore_drives_found_corrupt_total"), Some(4.0));
    // The others are still checked, and known damage is counted once.
    wait_for_checks(&server, 3);
    assert_eq!(server.drive(&good)["status"], json!("unmounted"));
    assert_eq!((found(&server, "damaged"), found(&server, "failed")), (4, 0));
}

#[test]
fn rot_in_a_tree_is_found_without_anybody_reading() {
    let server = scrubbing("1GiB").start();
    let made = server.curl("/v1.23/volumes/create").json("POST", &json!({"Name": "empty"})).run();
    assert_eq!(made.status, 201, "{made:?}");
    let archive = hyper::archive(server.scratch(), "a");
    hyper::fill(&server, "good", &archive);
    let before = hyper::contents(&server);
    hyper::fill(&server, "bad", &archive);
    let content = hyper::contents(&server).into_iter().find(|content| !before.contains(content)).expect("a content");
    wait_for_checks(&server, 4);
    assert!(bytes(&server) > 800_000, "{}", bytes(&server));
    let file = server.data().join("trees").join(content).join("sub/deeper/large");
    File::options().write(true).open(file).expect("a file").write_all_at(b"R", 399_999).expect("it is written");
    let refused = wait_for("the rot to be found", || {
        let answer = server.curl("/volumes/bad/download").run();
        (answer.status == 409).then_some(answer)
    });
    assert!(refused.text().contains("sub/deeper/large"), "{refused:?}");
    // The other is still checked.
    wait_for_checks(&server, 2);
    assert_eq!((found(&server, "damaged"), found(&server, "failed")), (1, 0));
    assert_eq!(server.metric("longshore_trees_found_corrupt_total"), Some(1.0));
    assert_eq!(server.curl("/volumes/good/download").run().status / 100, 3);
}

#[test]
fn who_wants_the_digest_of_a_drive_is_told_when_it_was_last_checked() {
    let server = scrubbing("1GiB").start();
    let uuid = stored_drive(&server, 5_000_000, 5);
    wait_for_checks(&server, 2);
    let response = head(&server, &uuid, &[WANT]);
    assert!(response.values("repr-digest").is_empty(), "nobody has asked for it before");
    let date = response.field(CHECKED).to_owned();
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
    assert!(head(&server, &uuid, &[]).values(CHECKED).is_empty());
    let age = server.metric("longshore_scrub_oldest_check_seconds").expect("an age");
    assert!((0.0..3600.0).contains(&age), "{age}");

    // Seals find damage, too; new data has not been checked yet.
    let server = Setup::default().config("scrub.period_seconds = 0").start();
    let uuid = stored_drive(&server, 5_000_000, 6);
    let checked = || head(&server, &uuid, &[WANT]).values(CHECKED).first().map(|date| (*date).to_owned());
    assert_eq!(checked(), None);
    wait_for("the seal", checked);
    assert_eq!((bytes(&server), found(&server, "whole")), (0, 0), "the scrub is off");
}

/// Kills a server in its first check of its only volume, and lets it finish that check. Returns the position of the
/// kill, and the bytes read afterwards.
#[track_caller]
fn kill_in_check(server: &mut Server) -> (u64, u64) {
    server.kill9();
    // As if it had been stored long ago.
    with_meta(server, async |meta| {
        meta.note_unchecked(None).await.expect("the volume is noted");
        let check = meta.next_check(END, END).await.expect("the database answers").expect("a check");
        meta.put_off_check(&check, UnixTime(0)).await.expect("the check is written");
    });
    server.restart();
    let position = wait_for("the check to have come far", || Some(next_check(server).position).filter(|at| *at > 0));
    server.kill9();
    server.restart();
    wait_for("the check to end", || (found(server, "whole") == 1).then_some(()));
    let check = next_check(server);
    assert_eq!((check.position, check.is_first), (0, false));
    (position, bytes(server))
}

#[test]
fn a_check_that_was_killed_goes_on_where_it_was() {
    let size = 30 * PIECE;
    let mut server = Setup::default().config("scrub.rate = \"16MiB\"").start();
    stored_drive(&server, size, 7);
    let (position, read) = kill_in_check(&mut server);
    assert_eq!((position, read), (16, size - position * PIECE));
}

#[test]
fn a_check_of_a_tree_that_was_killed_goes_on_behind_the_files_that_it_has_compared() {
    let mut server = Setup::default().config("scrub.rate = \"16MiB\"").start();
    let (files, folder) = (30, server.scratch().join("folder"));
    fs::create_dir(&folder).unwrap();
    for n in 0..files {
        image::random(&folder.join(n.to_string()), PIECE, n);
    }
    let archive = server.scratch().join("tree.tar");
    hyper::tar(&folder, &archive);
    hyper::fill(&server, "tree", &archive);
    let (position, read) = kill_in_check(&mut server);
    // The file that was being read when the position was noted is read again.
    assert!((14..=16).contains(&position), "{position}");
    let left = (files - position) * PIECE;
    assert!((left..left + PIECE / 2).contains(&read), "{position}, {read}");
    assert_eq!(found(&server, "damaged"), 0);
}

#[test]
fn holes_cost_nothing() {
    let server = scrubbing("1GiB").start();
    let spec = json!({"name": "vast", "media": "disk", "size": 8_u64 << 40});
    stored::started(&server.curl(DRIVES).json("POST", &spec).run());
    wait_for_checks(&server, 1);
    assert_eq!(bytes(&server), 0);
    let disk = server.scratch().join("disk.img");
    image::zero(&disk, 100 << 20);
    server.upload(&disk);
    wait_for_checks(&server, 3);
    assert_eq!(bytes(&server), 0);
}

#[test]
fn a_drive_that_is_changed_while_it_is_checked_is_not_taken_for_damaged() {
    let server = scrubbing("16MiB").start();
    let cloud = Cloud::of(&server);
    let size = 16 * PIECE;
    let [grown, restored, removed] = [8, 9, 10].map(|seed| stored_drive(&server, size, seed));
    let backup = cloud.post("backups", &json!({"backup": {"volume_id": grown}})).json()["backup"]["id"].clone();
    let backup = backup.as_str().expect("an id").to_owned();
    cloud.wait("backups", &backup, "available");
    // Each change comes while one of the volumes is read.
    let begin_reading = || {
        let before = bytes(&server);
        wait_for("a piece to be read", || (bytes(&server) > before).then_some(()));
    };
    for round in 1..=5 {
        begin_reading();
        let grow = server.curl(&format!("{DRIVES}{grown}/action/?do=resize"));
        assert_eq!(grow.json("POST", &json!({"size": size + round * 1_000_000})).run().status, 202);
        begin_reading();
        let target = json!({"restore": {"volume_id": restored}});
        assert_eq!(cloud.post(&format!("backups/{backup}/restore"), &target).status, 202);
        stored::wait_until_settled(&server);
    }
    begin_reading();
    assert_eq!(server.curl(&format!("{DRIVES}{removed}/")).method("DELETE").run().status, 204);
    wait_for("its disk to be free", || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs");
        let open = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let is_removed = |path: &str| path.contains(&removed) && path.ends_with("(deleted)");
        (!open.into_iter().any(|path| is_removed(&path.to_string_lossy()))).then_some(())
    });
    wait_for_checks(&server, 3);
    for drive in [&grown, &restored] {
        assert_eq!(server.drive(drive)["status"], json!("unmounted"));
    }
    assert_eq!(server.metric("longshore_drives_found_corrupt_total"), Some(0.0));
    assert_eq!((found(&server, "damaged"), found(&server, "failed")), (0, 0));
    assert!(!server.logged().contains("ERROR"), "no change is an error");
}
