//! Limits of bytes, files and inodes.

use std::fs;
use std::io::Write as _;

use serde_json::json;

use super::{OCTETS, Scene, UPLOAD, files};
use crate::harness::disk::Disk;
use crate::harness::raw::basic;
use crate::harness::{RawClient, Response, Setup, image, peer, wait_for};
use crate::tree::tarball::Tarball;

/// Prepares a server on a new file system of this many MiB. `None` if it cannot be mounted.
fn on_a_small_disk(mkfs: &[&str], mib: u64) -> Option<(Disk, Setup)> {
    let disk = Disk::mount(&[&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], mkfs].concat(), mib)?;
    let setup = Setup::default().data(&disk.path().join("data"));
    Some((disk, setup.config("io.reserve = \"1 MiB\"\nio.ballast = \"1 MiB\"")))
}

/// Writes an archive to the tenant's file.
fn tar_of(scene: &Scene, tar: Tarball) -> std::path::PathBuf {
    let path = scene.server.scratch().join("tenant.tar");
    fs::write(&path, tar.end()).expect("an archive can be written");
    path
}

/// An archive of hard links to one file.
fn links(count: usize) -> Tarball {
    (1..count).fold(Tarball::new().file("f", ""), |tar, n| tar.hard(format!("l{n}"), "f"))
}

#[test]
fn drives_and_snapshots_fill_the_quota_of_bytes() {
    let scene = Scene::start(Setup::default(), &["--max-bytes", "3000000 B"]);
    let cloud = scene.cloud();
    let drive = crate::harness::server::uuid_of(&scene.upload(1_000_000));
    cloud.snapshot(&drive);
    assert_eq!(scene.upload(1_000_001).status, 403);
    assert_eq!(scene.upload(1_000_000).status, 201);
    assert_eq!(scene.blank(70_000).status, 403);
    assert_eq!(cloud.post("snapshots", &json!({"snapshot": {"volume_id": drive}})).status, 413);
    scene.others_are_served();
    scene.everything_goes();
}

/// Space for bytes that may never come is reserved for one tenant, but not all of the disk.
#[test]
fn the_claims_of_one_tenant_leave_room_for_the_uploads_of_another() {
    let Some((_disk, setup)) = on_a_small_disk(&[], 96) else { return };
    let scene = Scene::start(setup, &[]);
    let mut claims = Vec::new();
    let mut length = 64 << 20;
    while length > 4096 {
        let (mut client, response) = claim(&scene, length);
        if response.status == 100 {
            client.send(&[1; 4096]);
            claims.push(client);
        } else {
            assert_eq!(response.status, 507, "{response:?}");
            length /= 2;
        }
    }
    assert!(!claims.is_empty());
    scene.others_are_served();
    drop(claims);
    wait_for("the room of the claims to be free", || (claim(&scene, 64 << 20).1.status == 100).then_some(()));
    scene.everything_goes();
}

/// Requests an upload of this length, and waits for the permission to send it.
fn claim(scene: &Scene, length: u64) -> (RawClient, Response) {
    let mut client = scene.server.raw();
    let fields = [&basic(&scene.tenant), OCTETS, &format!("Content-Length: {length}"), "Expect: 100-continue"];
    client.send_head(&format!("POST {UPLOAD}"), &fields);
    let head = client.head();
    (client, head)
}

#[test]
fn backups_fill_their_quotas_of_number_and_bytes() {
    for (quota, most) in [("LONGSHORE_QUOTA__BACKUPS", "2"), ("LONGSHORE_QUOTA__BACKUP_BYTES", "2000000")] {
        let scene = Scene::start(Setup::default().env(quota, most), &[]);
        let cloud = scene.cloud();
        let drive = crate::harness::server::uuid_of(&scene.upload(1_000_000));
        let back_up = || cloud.post("backups", &json!({"backup": {"volume_id": drive}}));
        for _ in 0..2 {
            let response = back_up();
            assert_eq!(response.status, 202, "{response:?}");
            let id = response.json()["backup"]["id"].as_str().expect("an id").to_owned();
            cloud.wait("backups", &id, "available");
        }
        assert_eq!(back_up().status, 413);
        scene.others_are_served();
        scene.everything_goes();
    }
}

#[test]
fn a_volume_has_files_in_proportion_to_its_size_and_none_beyond() {
    let scene = Scene::start(Setup::default().config("trees.default_size = \"4 MiB\""), &[]);
    let session = scene.begin(&["full", "more"]);
    // The root counts as a member, too.
    let response = session.upload("full", &tar_of(&scene, links(1024))).run();
    assert_eq!(response.status, 200, "{response:?}");
    let response = session.upload("more", &tar_of(&scene, links(1025))).run();
    assert_eq!(response.status, 413, "{response:?}");
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn the_last_inodes_are_left_by_archives_and_drives_and_all_can_be_removed() {
    let Some((disk, setup)) = on_a_small_disk(&["-N", "4096"], 96) else { return };
    let mut scene = Scene::start(setup, &[]);
    let many = (0..1000).fold(Tarball::new(), |tar, n| tar.file(format!("f{n}"), "")).end();
    let path = scene.server.scratch().join("tenant.tar");
    fs::write(&path, many).unwrap();
    let names = ["a", "b", "c", "d", "e"];
    let session = scene.begin(&names);
    let statuses = names.map(|name| session.upload(name, &path).run().status);
    assert_eq!(statuses, [200, 200, 200, 507, 507]);
    // Archives of all tenants are refused then; drives, which need few inodes, still fit.
    scene.other_has_lists_and_logins();
    let spec = json!({"name": "blank", "media": "disk", "size": 70_000});
    for count in [100, 10, 1] {
        let some = json!({"objects": vec![spec.clone(); count]});
        let mut made = (0..1000).map(|_| scene.curl(super::DRIVES).json("POST", &some).run());
        assert_eq!(made.find(|made| made.status != 201).expect("inodes have an end").status, 507);
    }
    // A start creates files, too.
    let left = rustix::fs::statvfs(disk.path()).unwrap().f_favail;
    assert!(left > 32, "{left} inodes are left");
    scene.server.kill9();
    scene.server.restart();
    scene.everything_goes();
    scene.others_are_served();
}

/// Received contents of an open session take space beside those they will replace.
#[test]
fn open_sessions_hold_each_of_their_volumes_once_more() {
    let scene = Scene::start(Setup::default().config("trees.default_size = \"2 MiB\""), &["--max-bytes", "4 MiB"]);
    let tar = tar_of(&scene, Tarball::new().dir(".").file("f", vec![b'x'; 1 << 20]));
    let session = scene.begin(&["a", "b"]);
    assert_eq!(scene.initialize(&["c"]).status, 403, "there is quota for two");
    for name in ["a", "b"] {
        assert_eq!(session.upload(name, &tar).run().status, 200);
    }
    assert_eq!(scene.finish(&session).status, 200);
    let reload = json!({"Reload": true, "Volume": [{"Name": "a"}, {"Name": "b"}]});
    let again = || scene.curl("/volumes/initialize").json("POST", &reload).run();
    let session = crate::harness::hyper::Session::of(&again());
    for name in ["a", "b"] {
        assert_eq!(session.upload(name, &tar).run().status, 200);
        assert_eq!(session.upload(name, &tar).run().status, 409, "each is received once");
    }
    assert_eq!(again().status, 409, "a volume is in one session");
    assert_eq!(crate::harness::hyper::contents(&scene.server).len(), 4);
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn volumes_that_are_removed_while_they_are_read_are_held_by_a_share_of_the_turns() {
    let scene = Scene::start(Setup::default().config("trees.streams = 4\nlimits.head_seconds = 1"), &[]);
    let tar = tar_of(&scene, Tarball::new().dir(".").file("f", vec![b'x'; 24 << 20]));
    let names = ["a", "b", "c", "d"];
    let session = scene.begin(&names);
    for name in names {
        assert_eq!(session.upload(name, &tar).run().status, 200);
    }
    assert_eq!(scene.finish(&session).status, 200);
    let read = |name: &str| {
        let place = scene.curl(&format!("/volumes/{name}/download")).run().field("location").to_owned();
        let path = place.strip_prefix(scene.server.endpoint()).unwrap_or(&place).to_owned();
        let mut reader = peer::narrow(scene.server.authority());
        write!(reader, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let status = peer::read_head(&mut reader).status;
        (reader, status)
    };
    let readers: Vec<_> = names.iter().map(|name| read(name)).collect();
    assert_eq!(readers.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [200, 200, 200, 503]);
    for name in names {
        assert_eq!(scene.curl(&format!("/volumes/{name}")).method("DELETE").run().status, 204);
    }
    let held = || files(&scene.server.data().join("tree-trash")).len();
    wait_for("what nobody reads to be gone", || (held() == 3).then_some(()));
    scene.others_are_served();
    wait_for("what the others removed to be gone", || (held() == 3).then_some(()));
    drop(readers);
    scene.everything_goes();
}

#[test]
fn what_was_removed_or_replaced_is_read_for_half_a_minute_at_most() {
    let scene = Scene::start(Setup::default(), &[]);
    let cloud = scene.cloud();
    let read = |place: &str| {
        let place = scene.curl(place).run().field("location").to_owned();
        let path = place.strip_prefix(scene.server.endpoint()).unwrap_or(&place).to_owned();
        let mut reader = peer::narrow(scene.server.authority());
        write!(reader, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(peer::read_head(&mut reader).status, 200);
        reader
    };
    let drive = crate::harness::server::uuid_of(&scene.upload(24 << 20));
    let backup = cloud.post("backups", &json!({"backup": {"volume_id": drive}})).json()["backup"]["id"].clone();
    let backup = backup.as_str().expect("an id");
    cloud.wait("backups", backup, "available");
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(read(&format!("{}{drive}/download/", super::DRIVES)));
        let target = json!({"restore": {"volume_id": drive}});
        assert_eq!(cloud.post(&format!("backups/{backup}/restore"), &target).status, 202);
        cloud.wait("volumes", &drive, "available");
    }
    let tar = tar_of(&scene, Tarball::new().dir(".").file("f", vec![b'x'; 24 << 20]));
    let session = scene.begin(&["tree"]);
    assert_eq!(session.upload("tree", &tar).run().status, 200);
    assert_eq!(scene.finish(&session).status, 200);
    readers.push(read("/volumes/tree/download"));
    assert_eq!(scene.curl("/volumes/tree").method("DELETE").run().status, 204);
    let current = read(&format!("{}{drive}/download/", super::DRIVES));
    let held = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", scene.server.pid())).expect("the server runs");
        let open = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let is_replaced = |path: &str| path.contains("/trash/") && path.ends_with("(deleted)");
        let replaced = open.filter(|path| is_replaced(&path.to_string_lossy())).count();
        (replaced, files(&scene.server.data().join("tree-trash")).len())
    };
    wait_for("what was replaced to be removed", || (held() == (3, 1)).then_some(()));
    scene.others_are_served();
    wait_for("what nobody has any more to be gone", || (held() == (0, 0)).then_some(()));
    assert_eq!(scene.server.metric("longshore_transfers_running{direction=\"download\"}"), Some(1.0));
    drop((readers, current));
    scene.everything_goes();
}

#[test]
fn what_copies_hold_of_removed_drives_goes_with_the_copies() {
    let scene = Scene::start(Setup::default(), &[]);
    let cloud = scene.cloud();
    let source = crate::harness::server::uuid_of(&scene.upload(48 << 20));
    let path = format!("{}{source}/", super::DRIVES);
    for _ in 0..6 {
        let clone = scene.curl(&format!("{path}action/?do=clone")).json("POST", &json!({})).run();
        assert_eq!(clone.status, 202, "{clone:?}");
        let backup = cloud.post("backups", &json!({"backup": {"volume_id": source}}));
        assert_eq!(backup.status, 202, "{backup:?}");
    }
    assert_eq!(scene.curl(&path).method("DELETE").run().status, 204);
    assert!(scene.count("SELECT COUNT(*) FROM jobs WHERE content IS NOT NULL") > 0, "twelve copies have ended");
    scene.others_are_served();
    // The other tenant's copies have slots of their own.
    let disk = scene.server.scratch().join("other.img");
    image::random(&disk, 100_000, 153);
    let theirs = crate::harness::server::uuid_of(&scene.elsewhere(UPLOAD).upload("POST", &disk).run());
    let other = crate::harness::Cloud::log_in(&scene.server, &scene.other);
    let backup = other.post("backups", &json!({"backup": {"volume_id": theirs}}));
    other.wait("backups", backup.json()["backup"]["id"].as_str().expect("an id"), "available");
    other.snapshot(&theirs);
    for (kind, things) in [("backups", other.get("backups")), ("snapshots", other.get("snapshots"))] {
        let id = things.json()[kind][0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(other.delete(&format!("{kind}/{id}")).status, 202);
    }
    assert_eq!(scene.elsewhere(&format!("{}{theirs}/", super::DRIVES)).method("DELETE").run().status, 204);
    scene.everything_goes();
}
