//! A full disk: early refusals, clean failures, and a server that works again once there is room.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::disk::Disk;
use crate::harness::raw::basic;
use crate::harness::stored::{self, image_of};
use crate::harness::{RawClient, Response, Server, Setup, image, wait_for};
use crate::skipped::skipped;

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";

/// The size of the disks in MiB; the file system takes some of it for itself.
const DISK: u64 = 96;

/// Starts a server whose data is on a small ext4 of its own. `None` if it cannot be mounted.
fn small() -> Option<(Disk, Server)> {
    let disk = Disk::mount(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], DISK)?;
    let server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    Some((disk, server))
}

/// Fails unless this is a 507 in the form of its dialect.
#[track_caller]
fn assert_full(response: &Response) {
    assert_eq!(response.status, 507, "{response:?}");
    let faults = response.json();
    assert_eq!(faults.as_array().map(Vec::len), Some(1), "{faults}");
    assert_eq!(faults[0]["error_type"], json!("backend"));
    assert!(faults[0]["error_message"].as_str().is_some_and(|message| !message.is_empty()));
}

/// Requests an upload of this length, and waits for the permission to send it. Returns the first answer.
fn ask(server: &Server, length: u64) -> (RawClient, Response) {
    let mut client = server.raw();
    let length = format!("Content-Length: {length}");
    let authorization = basic(&server.credentials());
    client.send_head(&format!("POST {UPLOAD}"), &[&authorization, OCTETS, &length, "Expect: 100-continue"]);
    let mut response = client.head();
    if response.status != 100 {
        let length = response.field("content-length").parse().expect("a length");
        response.body = client.bytes(length);
    }
    (client, response)
}

/// Uploads an image, compares the download, and removes it.
#[track_caller]
fn assert_works(server: &Server, disk: &Path) {
    let uuid = wait_for("uploads to work again", || {
        let (output, response) = server.curl(UPLOAD).upload("POST", disk).try_run();
        (output.status.success() && response.status == 201).then(|| crate::harness::server::uuid_of(&response))
    });
    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    image::assert_same(disk, &back);
    assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run().status, 204);
}

#[test]
fn an_upload_larger_than_the_disk_is_refused_before_it_is_sent() {
    let Some((_disk, server)) = small() else { return };
    let (_, response) = ask(&server, DISK << 20);
    assert_full(&response);
    stored::wait_until_nothing_is_left(&server);
    let image = server.scratch().join("disk.img");
    image::random(&image, 40 << 20, 80);
    assert_works(&server, &image);
}

#[test]
fn of_two_uploads_that_fit_only_alone_one_is_admitted() {
    let Some((_disk, server)) = small() else { return };
    let body = image::bytes(81, 1 << 20);
    let (mut first, response) = ask(&server, 50 << 20);
    assert_eq!(response.status, 100);
    assert_full(&ask(&server, 50 << 20).1);
    // The space is counted once, even after a part of the first upload was written.
    for _ in 0..30 {
        first.send(&body);
    }
    // Bytes that are being written count twice until the write has ended.
    wait_for("room beside the first", || {
        let (client, small) = ask(&server, 20 << 20);
        (small.status == 100).then_some(client)
    });
    assert_full(&ask(&server, 50 << 20).1);
    drop(first);
    wait_for("the room of the first to be free", || (ask(&server, 50 << 20).1.status == 100).then_some(()));
    stored::wait_until_nothing_is_left(&server);
}

#[test]
fn a_stream_that_meets_the_end_of_the_disk_is_507_and_leaves_nothing() {
    let Some((_disk, server)) = small() else { return };
    let image = server.scratch().join("disk.img");
    image::random(&image, (DISK + 4) << 20, 82);
    let (_, response) = server.curl(UPLOAD).upload_stream("POST", &image).try_run();
    assert_full(&response);
    stored::wait_until_nothing_is_left(&server);
    image::random(&image, 40 << 20, 83);
    assert_works(&server, &image);
}

/// Another process takes the space that was promised.
#[test]
fn a_disk_that_is_filled_from_outside_fails_uploads_cleanly_and_no_reads() {
    let Some((disk, mut server)) = small() else { return };
    let kept = server.scratch().join("kept.img");
    image::random(&kept, 5_000_001, 84);
    let uuid = server.upload(&kept);
    let (mut client, response) = ask(&server, 40 << 20);
    assert_eq!(response.status, 100);
    let part = image::bytes(85, 10 << 20);
    client.send(&part);
    let draft = server.data().join("incoming");
    wait_for("the first part to be on the disk", || {
        let taken = fs::read_dir(&draft).ok()?.flatten().map(|dir| dir.path().join("image"));
        let taken: u64 = taken.filter_map(|image| image.metadata().ok()).map(|image| image.blocks() * 512).sum();
        (taken >= 8 << 20).then_some(())
    });
    let filler = disk.fill();
    for _ in 0..3 {
        // The server may close the connection before everything is sent.
        if client.try_send(&part).is_err() {
            break;
        }
    }
    assert_full(&client.response());
    drop(client);
    stored::wait_until_idle(&server);
    // The space of the failed upload is free again, and is taken, too.
    let second = disk.path().join("filler2");
    fs::rename(&filler, &second).unwrap();
    let filler = disk.fill();

    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    image::assert_same(&kept, &back);
    assert_eq!(server.drive(&uuid)["status"], json!("unmounted"));
    assert_eq!(server.anonymous_curl("/readyz").run().status, 503);
    let image = server.scratch().join("disk.img");
    image::random(&image, 2_000_000, 86);
    assert_full(&server.curl(UPLOAD).upload("POST", &image).try_run().1);
    assert_full(&server.curl(UPLOAD).upload_stream("POST", &image).try_run().1);
    let spec = json!({"name": "blank", "media": "disk", "size": 3_000_000});
    assert_full(&server.curl(DRIVES).json("POST", &spec).run());
    assert_full(&server.curl(&format!("{DRIVES}{uuid}/action/?do=clone")).json("POST", &json!({})).run());

    fs::remove_file(filler).unwrap();
    fs::remove_file(second).unwrap();
    assert_works(&server, &image);
    wait_for("what failed to be cleaned up", || {
        let drives = stored::details(&server, &server.credentials());
        let settled = ["unmounted", "unavailable"];
        let is_settled = drives.iter().all(|drive| settled.iter().any(|status| drive["status"] == *status));
        let incoming = stored::entries(&server, "incoming").len() + stored::entries(&server, "trash").len();
        (is_settled && incoming == 0 && stored::used(&server, "admin").0 == drives.len() as u64).then_some(())
    });
    let before: Vec<String> = server.drives();
    server.kill9();
    server.restart();
    assert_eq!(server.drives(), before);
    for drive in before {
        if drive != uuid {
            assert_eq!(server.curl(&format!("{DRIVES}{drive}/")).method("DELETE").run().status, 204);
        }
    }
    stored::assert_clean(&server);
    image::assert_same(&kept, &image_of(&server, &uuid));
}

#[test]
fn a_clone_without_room_becomes_unavailable_and_takes_no_disk() {
    let Some((_disk, server)) = small() else { return };
    let image = server.scratch().join("disk.img");
    image::random(&image, 60 << 20, 87);
    let source = server.upload(&image);
    let before = stored::disk(&server);
    let curl = server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({}));
    let clone = stored::started(&curl.run());
    stored::wait_until_settled(&server);
    assert_eq!(server.drive(&clone)["status"], json!("unavailable"));
    assert_eq!(server.drive(&source)["status"], json!("unmounted"));
    assert!(stored::disk(&server) <= before, "the failed clone takes {} bytes", stored::disk(&server) - before);
    let (_, refused) = server.curl(&format!("{DRIVES}{clone}/download/")).arg("--location").try_run();
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(server.curl(&format!("{DRIVES}{clone}/")).method("DELETE").run().status, 204);
    stored::assert_clean(&server);
    server.download(&source, &server.scratch().join("back.img"));
    image::assert_same(&image, &server.scratch().join("back.img"));
}

#[test]
fn a_server_on_a_full_disk_starts_and_reads() {
    let Some((disk, mut server)) = small() else { return };
    let image = server.scratch().join("disk.img");
    image::random(&image, 5_000_001, 88);
    let (first, second) = (server.upload(&image), server.upload(&image));
    server.kill9();
    let filler = disk.fill();
    server.restart();
    let back = server.scratch().join("back.img");
    server.download(&first, &back);
    image::assert_same(&image, &back);
    // A removal is recorded before it is done, so it needs space, too.
    assert_eq!(server.curl(&format!("{DRIVES}{second}/")).method("DELETE").run().status, 204);
    fs::remove_file(filler).unwrap();
    stored::assert_clean(&server);
    assert_works(&server, &image);
}

#[test]
fn a_disk_without_a_free_byte_is_emptied_by_the_api_and_says_so() {
    let Some((disk, server)) = small() else { return };
    let spec = json!({"name": "blank", "media": "disk", "size": 3_000_000});
    let blank: Vec<String> = (0..30).map(|_| stored::started(&server.curl(DRIVES).json("POST", &spec).run())).collect();
    let image = server.scratch().join("disk.img");
    image::random(&image, 20 << 20, 90);
    let large = server.upload(&image);
    let credentials = server.credentials();
    let (name, password) = credentials.split_once(':').unwrap();
    let login = json!({"auth": {"passwordCredentials": {"username": name, "password": password}}});
    let token = server.anonymous_curl("/v2.0/tokens").json("POST", &login).run().json()["access"]["token"].clone();
    let filler = disk.fill();
    let is_ready = || server.anonymous_curl("/readyz").run().status == 200;
    assert!(!is_ready());
    wait_for("the log to tell of it", || server.logged().contains("the disk is full").then_some(()));
    // Additions take none of the space that is kept for removals, however often they are tried.
    for _ in 0..200 {
        assert_full(&server.curl(DRIVES).json("POST", &spec).run());
    }
    let volumes = format!("/v3/{}/volumes", token["tenant"]["id"].as_str().unwrap());
    let token = format!("X-Auth-Token: {}", token["id"].as_str().unwrap());
    let volume = server.anonymous_curl(&volumes).header(&token).json("POST", &json!({"volume": {"size": 1}})).run();
    assert_eq!((volume.status, &volume.json()["computeFault"]["code"]), (507, &json!(507)), "{volume:?}");
    let renamed = server.curl(&format!("{DRIVES}{large}/")).json("PUT", &json!({"name": "x".repeat(255)})).run();
    assert_full(&renamed);
    let again = disk.path().join("again");
    fs::rename(filler, &again).unwrap();
    let filler = disk.fill();
    for drive in blank.iter().chain([&large]) {
        assert_eq!(server.curl(&format!("{DRIVES}{drive}/")).method("DELETE").run().status, 204, "{drive}");
    }
    wait_for("the room to be seen", || is_ready().then_some(()));
    assert!(server.logged().contains("the disk takes what is new again"));
    fs::remove_file(again).unwrap();
    fs::remove_file(filler).unwrap();
    stored::wait_until_nothing_is_left(&server);
    assert_works(&server, &image);
}

/// A page of shared memory in a file needs space there when it is changed, and a process without it is killed.
#[test]
fn a_full_btrfs_does_not_end_the_server() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux says so");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(18)) {
        return skipped("this machine has a kernel that refuses to write in place on a full Btrfs");
    }
    let Some(disk) = Disk::mount(&["mkfs.btrfs", "-q"], 256) else { return };
    let mut server = Setup::default().data(&disk.path().join("data")).config("io.ballast = \"2 MiB\"").start();
    let image = server.scratch().join("disk.img");
    image::random(&image, 2 << 20, 91);
    let drives: Vec<String> = (0..3).map(|_| server.upload(&image)).collect();
    let fill = |part: usize| {
        let path = disk.path().join(format!("filler-{part}"));
        let mut file = File::create(&path).expect("a file can be made");
        while file.write_all(&vec![1; part]).and_then(|()| file.sync_data()).is_ok() {}
        path
    };
    let fillers = [fill(1 << 20), fill(4096)];
    let spec = json!({"name": "blank", "media": "disk", "size": 3_000_000});
    for _ in 0..20 {
        assert_full(&server.curl(DRIVES).json("POST", &spec).run());
    }
    for drive in &drives {
        assert_eq!(server.curl(&format!("{DRIVES}{drive}/")).method("DELETE").run().status, 204);
    }
    for filler in fillers {
        fs::remove_file(filler).unwrap();
    }
    assert_works(&server, &image);
    assert_eq!(server.terminate().code(), Some(0));
}

/// A quota shows in nothing that a server can ask for. Of who is at its end, Btrfs takes no other name, no other length
/// and no page of mapped memory, which ends the process (SIGBUS).
#[test]
fn a_quota_of_btrfs_is_a_full_disk_that_does_not_end_the_server_and_is_emptied_by_the_api() {
    let Some(disk) = Disk::mount(&["mkfs.btrfs", "-q"], 512) else { return };
    for asked in [&["quota", "enable"][..], &["qgroup", "limit", "100M"]] {
        let done = Command::new("btrfs").args(asked).arg(disk.path()).output().expect("it is of the same package");
        assert!(done.status.success(), "{done:?}");
    }
    let mut server = Setup::default().data(&disk.path().join("data")).config("io.ballast = \"8 MiB\"").start();
    let image = server.scratch().join("disk.img");
    image::random(&image, 12 << 20, 92);
    let mut drives = Vec::new();
    for round in 0.. {
        let (_, response) = server.curl(UPLOAD).upload("POST", &image).try_run();
        if response.status != 201 {
            assert_full(&response);
            break;
        }
        assert!(round < 8, "there is no room for more");
        drives.push(crate::harness::server::uuid_of(&response));
    }
    stored::wait_until_idle(&server);
    server.download(&drives[0], &server.scratch().join("back.img"));
    image::assert_same(&image, &server.scratch().join("back.img"));
    // Several that meet it together leave nothing behind, either, and none of them waits for what the others take. One
    // of them may just fit.
    let together: Vec<Response> = thread::scope(|scope| {
        let one = || server.curl(UPLOAD).upload_stream("POST", &image).try_run().1;
        let all: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().expect("it has an answer")).collect()
    });
    for response in together {
        match response.status {
            201 => drives.push(crate::harness::server::uuid_of(&response)),
            _ => assert_full(&response),
        }
    }
    wait_for("the drafts to be gone", || stored::entries(&server, "incoming").is_empty().then_some(()));
    let is_ready = |server: &Server| server.anonymous_curl("/readyz").run().status == 200;
    wait_for("what is kept for removing", || {
        (is_ready(&server) && server.data().join("ballast").exists()).then_some(())
    });
    // What is free by now becomes somebody else's, all at once; what is kept does not.
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).expect("a file can be made");
    server.signal(Signal::STOP);
    // What a refused write had set aside is free only after the next commit.
    for part in [1 << 20, 1 << 16, 1 << 12, 1 << 16, 1 << 12] {
        let part = image::bytes(93, part);
        while file.write_all(&part).and_then(|()| file.sync_data()).is_ok() {}
        rustix::fs::syncfs(&file).expect("the file system commits");
    }
    server.kill9();
    server.restart();
    let spec = json!({"name": "blank", "media": "disk", "size": 3_000_000});
    let create = || server.curl(DRIVES).json("POST", &spec).run();
    // Only a write can meet it, and what the process before had open is free.
    wait_for("the quota to be met by every write", || {
        (0..50)
            .all(|_| {
                let response = create();
                match response.status {
                    201 => drives.push(stored::started(&response)),
                    _ => assert_full(&response),
                }
                response.status == 507
            })
            .then_some(())
    });
    assert!(!is_ready(&server));
    for drive in &drives {
        assert_eq!(server.curl(&format!("{DRIVES}{drive}/")).method("DELETE").run().status, 204);
    }
    fs::remove_file(filler).unwrap();
    stored::wait_until_nothing_is_left(&server);
    wait_for("the room to be seen", || is_ready(&server).then_some(()));
    assert_works(&server, &image);
}

/// The draft cannot be moved while its folder is immutable; a cancelled upload has no peer left to report to.
#[test]
fn what_could_not_be_removed_is_removed_once_it_can() {
    let Some((_disk, server)) = small() else { return };
    let incoming = server.data().join("incoming");
    let (mut client, response) = ask(&server, 8_000_000);
    assert_eq!(response.status, 100);
    client.send(&image::bytes(89, 3_000_000));
    wait_for("a part to be on the disk", || (stored::disk(&server) > 2 << 20).then_some(()));
    let change = |flag: &str| Command::new("chattr").arg(flag).arg(&incoming).status().is_ok_and(|s| s.success());
    if !change("+i") {
        return skipped("this file system has no immutable files");
    }
    drop(client);
    server.wait_for_line("cannot remove");
    assert_eq!(stored::used(&server, "admin").0, 1, "what takes disk is charged");
    assert!(change("-i"));
    stored::wait_until_nothing_is_left(&server);
}

/// A file system that has met an error of its disk takes no more writes until it is mounted again.
#[test]
fn a_file_system_that_is_read_only_is_told_as_unavailable_and_what_is_there_is_served() {
    let Some(disk) = Disk::mount(&["mkfs.ext4", "-q", "-m", "0"], DISK) else { return };
    let server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let image = server.scratch().join("disk.img");
    image::random(&image, 3 << 20, 90);
    let uuid = server.upload(&image);
    let aborted = Command::new("mount").args(["-o", "remount,abort"]).arg(disk.path()).status();
    assert!(aborted.is_ok_and(|status| status.success()), "the file system is not made read-only");
    wait_for("the server to see it", || (server.curl("/readyz").try_run().1.status == 503).then_some(()));
    let drive = format!("{DRIVES}{uuid}/");
    let blank = json!({ "name": "a", "size": 1 << 30, "media": "disk" });
    for (what, response) in [
        ("an upload", server.curl(UPLOAD).upload("POST", &image).try_run().1),
        ("a blank drive", server.curl(DRIVES).json("POST", &blank).run()),
        ("a change", server.curl(&drive).json("PUT", &json!({ "name": "b", "size": 3 << 20, "media": "disk" })).run()),
        ("a removal", server.curl(&drive).method("DELETE").run()),
    ] {
        assert_eq!(response.status, 503, "{what}: {response:?}");
    }
    assert_eq!(server.curl(&drive).run().status, 200);
    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    image::assert_same(&image, &back);
}
