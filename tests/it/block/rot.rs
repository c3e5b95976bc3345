//! Copies of a volume hold what was stored in it, or are refused; the sources of refused copies stay available to their
//! owner.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::backups::objects;
use crate::harness::stored::{self, image_of};
use crate::harness::{Cloud, Server, image, wait_for};
use crate::skipped::skipped;

const SIZE: u64 = 9 << 20;

/// Changes bytes of a stored image, as a failing disk might.
fn rot(server: &Server, id: &str) {
    let file = File::options().write(true).open(image_of(server, id)).expect("the image can be opened");
    file.write_all_at(b"ROT", (5 << 20) + 7).expect("the image can be written");
}

fn stored_volume(server: &Server, seed: u64) -> String {
    let disk = server.scratch().join(format!("{seed}.img"));
    image::random(&disk, SIZE, seed);
    server.upload(&disk)
}

#[track_caller]
fn begin(cloud: &Cloud, kind: &str, wish: &Value) -> String {
    let one = kind.trim_end_matches('s');
    let response = cloud.post(kind, &json!({one: wish}));
    assert_eq!(response.status, 202, "{response:?}");
    response.json()[one]["id"].as_str().expect("an id").to_owned()
}

#[test]
fn nothing_is_made_of_bytes_that_are_not_those_that_were_stored() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let mut found = 0.0;
    for kind in ["backups", "snapshots", "volumes"] {
        let volume = stored_volume(&server, 61);
        rot(&server, &volume);
        let wish = match kind {
            "volumes" => json!({"source_volid": volume, "size": 1}),
            _ => json!({"volume_id": volume}),
        };
        let made = begin(&cloud, kind, &wish);
        if shares_extents(&server) && kind != "backups" {
            skipped("this file system makes copies that share the disk of their source");
            continue;
        }
        cloud.wait(kind, &made, "error");
        // The object of the first piece, which was intact, is removed again.
        assert_eq!(objects(&server), Vec::<PathBuf>::new(), "{kind}");
        cloud.wait("volumes", &volume, "error");
        let reason = server.drive(&volume)["status_reason"].as_str().expect("a reason").to_owned();
        assert!(reason.contains("stored"), "{reason}");
        found += 1.0;
        assert_eq!(server.metric("longshore_drives_found_corrupt_total"), Some(found), "{kind}");
    }
    // The same for a snapshot.
    let volume = stored_volume(&server, 62);
    for kind in ["backups", "volumes"] {
        let snapshot = cloud.snapshot(&volume);
        rot(&server, &snapshot);
        let wish = match kind {
            "volumes" => json!({"snapshot_id": snapshot}),
            _ => json!({"volume_id": volume, "snapshot_id": snapshot}),
        };
        let made = begin(&cloud, kind, &wish);
        if shares_extents(&server) && kind != "backups" {
            continue;
        }
        cloud.wait(kind, &made, "error");
        cloud.wait("snapshots", &snapshot, "error");
        assert_eq!(cloud.show("volumes", &volume)["status"], "available", "the volume has bytes of its own");
    }
}

/// Returns whether copies do not read, because the file system of the test shares extents.
fn shares_extents(server: &Server) -> bool {
    let (from, to) = (server.data().join("probe-from"), server.data().join("probe-to"));
    fs::write(&from, [1; 4096]).expect("a file is written");
    let to = File::create(&to).expect("a file is made");
    rustix::fs::ioctl_ficlone(&to, File::open(&from).expect("a file is opened")).is_ok()
}

#[test]
fn a_volume_whose_file_is_gone_is_not_available_after_its_backup_has_failed() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let damages: [fn(&Path); 2] = [
        |image| fs::remove_file(image).unwrap(),
        |image| File::options().write(true).open(image).unwrap().set_len(SIZE - 1).unwrap(),
    ];
    for damage in damages {
        let volume = stored_volume(&server, 63);
        damage(&image_of(&server, &volume));
        let backup = begin(&cloud, "backups", &json!({"volume_id": volume}));
        cloud.wait("backups", &backup, "error");
        assert_eq!(cloud.show("volumes", &volume)["status"], "error");
        let download = server.curl(&format!("/api/2.0/drives/{volume}/download/")).run();
        assert_eq!(download.status, 409, "{download:?}");
        assert_eq!(cloud.delete(&format!("volumes/{volume}")).status, 202);
        assert_eq!(cloud.delete(&format!("backups/{backup}")).status, 202);
    }
}

/// Keeps the threads that copy busy, so that further copies wait.
fn keep_copiers_busy(server: &Server) {
    let disk = server.scratch().join("large.img");
    image::random(&disk, 96 << 20, 64);
    let large = server.upload(&disk);
    for _ in 0..2 {
        clone(server, &large);
    }
}

/// Begins a clone of the same size.
#[track_caller]
fn clone(server: &Server, of: &str) -> String {
    stored::started(&server.curl(&format!("/api/2.0/drives/{of}/action/?do=clone")).json("POST", &json!({})).run())
}

fn available(cloud: &Cloud, kind: &str, id: &str) {
    assert_eq!(cloud.show(kind, id)["status"], "available");
}

#[test]
fn what_is_being_copied_can_be_deleted_extended_attached_and_backed_up_as_its_status_says() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let [deleted, extended, attached, backed_up, snapped] =
        [65, 66, 67, 68, 69].map(|seed| stored_volume(&server, seed));
    let snapshot = cloud.snapshot(&snapped);
    keep_copiers_busy(&server);
    let copies = [&deleted, &extended, &attached, &backed_up].map(|volume| clone(&server, volume));

    available(&cloud, "volumes", &deleted);
    assert_eq!(cloud.delete(&format!("volumes/{deleted}")).status, 202);
    available(&cloud, "volumes", &extended);
    let extend = json!({"os-extend": {"new_size": 2}});
    assert_eq!(cloud.post(&format!("volumes/{extended}/action"), &extend).status, 202);
    available(&cloud, "volumes", &attached);
    assert_eq!(cloud.post(&format!("volumes/{attached}/action"), &json!({"os-reserve": {}})).status, 202);
    available(&cloud, "volumes", &backed_up);
    let backup = begin(&cloud, "backups", &json!({"volume_id": backed_up}));
    available(&cloud, "volumes", &backed_up);
    assert_eq!(cloud.post(&format!("volumes/{backed_up}/action"), &extend).status, 202);
    let of_snapshot = begin(&cloud, "backups", &json!({"volume_id": snapped, "snapshot_id": snapshot}));
    available(&cloud, "snapshots", &snapshot);
    assert_eq!(cloud.delete(&format!("snapshots/{snapshot}")).status, 202);
    assert_eq!(cloud.get(&format!("snapshots/{snapshot}")).status, 404);

    for (copy, seed) in copies.iter().zip(65..) {
        cloud.wait("volumes", copy, "available");
        let (back, disk) = (server.scratch().join("back.img"), server.scratch().join(format!("{seed}.img")));
        server.download(copy, &back);
        image::assert_same(&disk, &back);
    }
    cloud.wait("volumes", &extended, "available");
    assert_eq!(cloud.show("volumes", &extended)["size"], 2);
    cloud.wait("backups", &backup, "available");
    cloud.wait("backups", &of_snapshot, "available");
    let response = cloud.post(&format!("backups/{of_snapshot}/restore"), &json!({"restore": {"volume_id": null}}));
    let restored = response.json()["restore"]["volume_id"].as_str().expect("an id").to_owned();
    cloud.wait("volumes", &restored, "available");
    let back = server.scratch().join("back.img");
    server.download(&restored, &back);
    image::assert_same(&server.scratch().join("69.img"), &back);
    // Deleted sources are removed from the disk after the last copy of them.
    wait_for("what is gone to be removed", || {
        let there = stored::entries(&server, "drives");
        (!there.contains(&snapshot) && !there.contains(&deleted)).then_some(())
    });
}

#[test]
fn a_copy_of_a_volume_that_was_deleted_is_made_by_the_next_process_too() {
    let mut server = Server::start();
    let cloud = Cloud::of(&server);
    let source = stored_volume(&server, 70);
    let snapped = stored_volume(&server, 71);
    let snapshot = cloud.snapshot(&snapped);
    keep_copiers_busy(&server);
    let copy = clone(&server, &source);
    let backup = begin(&cloud, "backups", &json!({"volume_id": snapped, "snapshot_id": snapshot}));
    assert_eq!(cloud.delete(&format!("volumes/{source}")).status, 202);
    assert_eq!(cloud.delete(&format!("snapshots/{snapshot}")).status, 202);
    server.kill9();
    server.restart();
    let cloud = Cloud::of(&server);
    cloud.wait("volumes", &copy, "available");
    cloud.wait("backups", &backup, "available");
    let back = server.scratch().join("back.img");
    server.download(&copy, &back);
    image::assert_same(&server.scratch().join("70.img"), &back);
    wait_for("what is gone to be removed", || {
        let there = stored::entries(&server, "drives");
        (!there.contains(&snapshot) && !there.contains(&source)).then_some(())
    });
}

/// As after an older data folder was put back beside its database.
#[test]
fn a_job_that_misses_what_it_is_to_read_says_so() {
    let mut server = Server::start();
    let cloud = Cloud::of(&server);
    let [gone, there] = [72, 73].map(|seed| stored_volume(&server, seed));
    keep_copiers_busy(&server);
    let copies = [&gone, &there].map(|of| clone(&server, of));
    assert_eq!(cloud.delete(&format!("volumes/{gone}")).status, 202);
    server.kill9();
    let _ = fs::remove_dir_all(server.data().join("drives").join(&gone));
    server.restart();
    let cloud = Cloud::of(&server);
    cloud.wait("volumes", &copies[1], "available");
    wait_for("the other to be told of", || {
        let status = cloud.show("volumes", &copies[0])["status"].clone();
        // The copy may have been made before the kill.
        (status == "error" || status == "available").then_some(())
    });
}
