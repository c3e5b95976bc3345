//! A lost database, or one that is older than the stored data: nothing is removed, and everything can be recovered.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Cloud, Server, Setup, image, stored, wait_for};

/// Uploads random images of these sizes; returns their files and UUIDs.
fn upload(server: &Server, sizes: &[u64]) -> Vec<(PathBuf, String)> {
    let one = |(n, size): (usize, &u64)| {
        let file = server.scratch().join(format!("{size}-{n}.img"));
        image::random(&file, *size, *size + n as u64);
        let uuid = server.upload(&file);
        (file, uuid)
    };
    sizes.iter().enumerate().map(one).collect()
}

#[track_caller]
fn assert_all_there(server: &Server, drives: &[(PathBuf, String)]) {
    let back = server.scratch().join("back.img");
    for (file, uuid) in drives {
        server.download(uuid, &back);
        image::assert_same(file, &back);
    }
}

fn remove_database(data: &Path) {
    for name in ["meta.sqlite", "meta.sqlite-wal", "meta.sqlite-shm"] {
        let _ = fs::remove_file(data.join(name));
    }
}

#[track_caller]
fn run(server: &Server, command: &str, args: &[&str]) -> String {
    let output = server.command(command, args);
    assert!(output.status.success(), "{command} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("what it prints is text")
}

/// Small and large drives are stored differently.
const SIZES: [u64; 3] = [100_000, 5_000_000, 70_000];

#[test]
fn a_server_without_its_database_does_not_start_and_removes_nothing() {
    let mut server = Server::start();
    let drives = upload(&server, &SIZES);
    server.kill9();
    let kept = server.scratch().join("kept");
    fs::create_dir(&kept).unwrap();
    for name in ["meta.sqlite", "meta.sqlite-wal"] {
        fs::copy(server.data().join(name), kept.join(name)).unwrap();
    }
    remove_database(server.data());
    let before = stored::entries(&server, "drives");
    let refused = Setup::default().data(server.data()).start_refused();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("the database is missing") && said.contains("--accept-loss"), "{said}");
    assert_eq!(stored::entries(&server, "drives"), before);
    assert!(!server.data().join("meta.sqlite").exists(), "none was made");
    for name in ["meta.sqlite", "meta.sqlite-wal"] {
        fs::copy(kept.join(name), server.data().join(name)).unwrap();
    }
    server.restart();
    assert_all_there(&server, &drives);
}

#[test]
fn the_database_of_yesterday_and_the_images_of_today_are_a_whole_server_again() {
    let mut server = Server::start();
    let mut drives = upload(&server, &SIZES);
    let copy = server.scratch().join("yesterday.sqlite");
    run(&server, "database", &["backup", copy.to_str().unwrap()]);
    let again = server.command("database", &["backup", copy.to_str().unwrap()]);
    assert!(!again.status.success(), "a copy is not overwritten");
    drives.extend(upload(&server, &[200_000, 6_000_000]));
    let (_, gone) = drives.remove(0);
    let deleted = server.curl(&format!("/api/2.0/drives/{gone}/")).method("DELETE").run();
    assert_eq!(deleted.status, 204);
    server.kill9();
    remove_database(server.data());
    fs::copy(&copy, server.data().join("meta.sqlite")).unwrap();

    server.restart();
    assert_eq!(server.drive(&gone)["status"], "unavailable", "its bytes are gone");
    assert_eq!(stored::entries(&server, "lost").len(), 2 + 3, "two images, and the folders of trees");
    let logged = server.logged();
    let line = logged.lines().find(|line| line.contains("WARN") && line.contains("longshore recover"));
    let line = line.unwrap_or_else(|| panic!("no warning: {logged}"));
    assert!(line.contains("count=2") && line.contains("bytes="), "{line}");
    // Recovery is refused while a server is running.
    assert!(!server.command("recover", &[]).status.success());
    server.terminate();

    let listed = run(&server, "recover", &["--list"]);
    assert_eq!(listed.matches("is lost").count(), 2, "{listed}");
    let back = run(&server, "recover", &[]);
    assert_eq!(back.matches("is back").count(), 2, "{back}");
    server.restart();
    assert_all_there(&server, &drives);
    for (_, uuid) in &drives[2..] {
        assert_eq!(server.drive(uuid)["status"], "unmounted");
    }
    let sum: u64 = SIZES.iter().sum::<u64>() + 6_200_000;
    assert_eq!(stored::used(&server, "admin"), (5, sum));
}

#[test]
fn what_was_restored_since_yesterday_is_what_its_drive_holds_again() {
    let mut server = Server::start();
    let drives = upload(&server, &[100_000, 100_000]);
    let (file, restored) = &drives[0];
    let cloud = Cloud::of(&server);
    let made = cloud.post("backups", &json!({"backup": {"volume_id": restored}}));
    let backup = made.json()["backup"]["id"].as_str().expect("an id").to_owned();
    cloud.wait("backups", &backup, "available");
    let copy = server.scratch().join("yesterday.sqlite");
    run(&server, "database", &["backup", copy.to_str().unwrap()]);
    for (_, drive) in &drives {
        let body = json!({"restore": {"volume_id": drive}});
        assert_eq!(cloud.post(&format!("backups/{backup}/restore"), &body).status, 202);
        cloud.wait("backups", &backup, "available");
        cloud.wait("volumes", drive, "available");
    }
    wait_for("what they held yesterday to be removed", || {
        let there = stored::entries(&server, "drives");
        drives.iter().all(|(_, drive)| !there.contains(drive)).then_some(())
    });
    server.kill9();
    remove_database(server.data());
    fs::copy(&copy, server.data().join("meta.sqlite")).unwrap();

    server.restart();
    for (_, drive) in &drives {
        assert_eq!(server.drive(drive)["status"], "unavailable", "what it held yesterday is gone");
    }
    server.terminate();
    let back = run(&server, "recover", &[]);
    assert_eq!(back.matches("is back").count(), 2, "{back}");
    server.restart();
    assert_eq!(server.drives().len(), 2, "no drive has come of a content");
    assert_all_there(&server, &[(file.clone(), restored.clone()), (file.clone(), drives[1].1.clone())]);
}

#[test]
fn images_whose_database_is_gone_for_good_come_back_to_tenants_made_again() {
    let mut server = Server::start();
    let drives = upload(&server, &SIZES[..2]);
    server.terminate();
    remove_database(server.data());
    assert!(!server.command("init", &[]).status.success(), "not without being told");
    run(&server, "init", &["--accept-loss"]);
    let back = run(&server, "recover", &[]);
    assert_eq!(back.matches("is back").count(), 2, "{back}");
    let tenant = back.lines().find_map(|line| line.split('\t').find(|field| field.starts_with("recovered-")));
    let credentials = run(&server, "user", &["add", "alice", "--tenant", tenant.unwrap()]);
    server.restart();
    let mut expected: Vec<_> = drives.iter().map(|(_, uuid)| uuid.clone()).collect();
    let mut there = server.drives_of(credentials.trim());
    expected.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, expected);
}

#[test]
fn what_was_set_aside_is_back_as_soon_as_the_database_knows_it_again() {
    let mut server = Server::start();
    let drives = upload(&server, &SIZES);
    let copy = server.scratch().join("copy.sqlite");
    run(&server, "database", &["backup", copy.to_str().unwrap()]);
    server.terminate();
    remove_database(server.data());
    let mut empty = Setup::default().data(server.data()).flag("--accept-loss").start();
    assert_eq!(empty.drives(), Vec::<String>::new());
    assert_eq!(stored::entries(&empty, "drives").len(), 0);
    empty.terminate();
    remove_database(server.data());
    fs::copy(&copy, server.data().join("meta.sqlite")).unwrap();
    server.restart();
    // The file with the password is that of the database in between.
    let password = run(&server, "user", &["passwd", "admin"]);
    assert_eq!(password.trim(), server.credentials());
    assert_all_there(&server, &drives);
}

#[test]
fn a_flipped_bit_in_the_log_loses_no_image_and_is_told() {
    let mut server = Server::start();
    let drives = upload(&server, &[70_000; 12]);
    server.kill9();
    let log = server.data().join("meta.sqlite-wal");
    let mut bytes = fs::read(&log).unwrap();
    // After the tables and the first user.
    let late = bytes.len() / 4 * 3;
    bytes[late] ^= 1;
    fs::write(&log, bytes).unwrap();
    let behind = Setup::default().data(server.data()).flag("--accept-loss").start();
    let logged = behind.logged();
    assert!(logged.contains("the database's log breaks off"), "{logged}");
    drop(behind);
    run(&server, "recover", &[]);
    server.restart();
    assert_all_there(&server, &drives);
}

#[test]
fn what_is_lost_is_removed_by_command_or_in_time() {
    let mut server = Server::start();
    upload(&server, &SIZES[..2]);
    server.terminate();
    remove_database(server.data());
    run(&server, "init", &["--accept-loss"]);
    let removed = run(&server, "recover", &["--remove"]);
    assert_eq!(removed.matches("removed").count(), 2, "{removed}");
    assert!(run(&server, "recover", &["--list"]).lines().count() == 1);
    assert_eq!(stored::entries(&server, "drives").len(), 0);
}

#[test]
fn a_link_in_the_data_directory_is_not_followed_and_what_others_can_read_is_told() {
    let mut server = Server::start();
    let drives = upload(&server, &SIZES[..1]);
    assert!(!server.logged().contains("is open to other users"), "{}", server.logged());
    // No core dump of it could be made.
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    server.terminate();
    let key = server.data().join("ticket.key");
    let elsewhere = server.scratch().join("ticket.key");
    fs::rename(&key, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    let refused = Setup::default().data(server.data()).start_refused();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("ticket.key is a symbolic link"), "{said}");
    assert!(!server.command("user", &["list"]).status.success());
    fs::rename(&elsewhere, &key).unwrap();
    fs::set_permissions(server.data(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    server.restart();
    let logged = server.logged();
    assert!(logged.contains("the data directory") && logged.contains("is open to other users"), "{logged}");
    assert_all_there(&server, &drives);
    // An image that is a link to another file is not served.
    let image = stored::image_of(&server, &drives[0].1);
    fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &image).unwrap();
    let ticket = server.capability(&drives[0].1);
    assert_ne!(server.anonymous_curl(&ticket).run().status, 200);
}

#[test]
fn only_serve_and_init_make_an_installation() {
    let server = Server::start();
    let nowhere = server.scratch().join("nowhere");
    let place = nowhere.to_str().unwrap();
    for command in [
        vec!["user", "add", "alice"],
        vec!["user", "list"],
        vec!["project", "list"],
        vec!["key", "list"],
        vec!["image", "list"],
        vec!["backup", "import", "admin"],
        vec!["database", "backup", "copy"],
        vec!["recover"],
        vec!["doctor"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(&command)
            .args(["--data-dir", place])
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains("there is no installation"), "{command:?}: {said}");
        assert!(!nowhere.exists(), "{command:?}");
    }
    let init = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"));
        command.args(["init", "--data-dir", place]).output().unwrap()
    };
    assert!(init().status.success());
    let credentials = fs::read_to_string(nowhere.join("admin.credentials")).unwrap();
    assert!(credentials.starts_with("admin:"));
    assert!(!init().status.success(), "there is one");
    assert_eq!(fs::read_to_string(nowhere.join("admin.credentials")).unwrap(), credentials);
    let made = Setup::default().data(&nowhere).start();
    assert_eq!(made.credentials(), credentials.trim());
    assert_eq!(made.drives(), Vec::<String>::new());
}
