//! Downloads by the program itself.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use serde_json::Value;

use super::{Home, kill9, printed, said};
use crate::harness::relay::Relay;
use crate::harness::{Server, Setup, image, wait_for};

/// Starts a server with one drive of this many random bytes; returns its image and UUID.
fn with_drive(setup: Setup, size: u64) -> (Server, PathBuf, String) {
    let server = setup.start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, size, 7);
    let uuid = server.upload(&disk);
    (server, disk, uuid)
}

#[test]
fn a_drive_is_listed_and_downloaded_without_its_zeros() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 150_000_003, 3);
    let uuid = server.upload(&disk);
    let home = Home::at(&server);
    let drive = home.done(&["drives"]);
    assert_eq!((drive["uuid"].as_str(), drive["size"].as_u64()), (Some(uuid.as_str()), Some(150_000_003)));
    let output = home.run(&["download", &uuid]);
    assert!(output.status.success(), "{}", said(&output));
    let got = home.join(&format!("{uuid}.img"));
    assert_eq!(printed(&output).trim(), format!("{uuid}.img"));
    image::assert_same(&disk, &got);
    let (ours, theirs) = (fs::metadata(&got).unwrap().blocks(), fs::metadata(&disk).unwrap().blocks());
    assert!(ours < theirs + theirs / 10, "{ours} blocks instead of {theirs}");
    // Nothing is left behind.
    assert_eq!(home.records(), Vec::<Value>::new());
    assert!(!home.join(&format!("{uuid}.img.part")).exists());
}

#[test]
fn holes_are_not_fetched() {
    let server = Server::start();
    let relay = Relay::to(server.authority());
    let disk = server.scratch().join("disk.img");
    let file = image::zero(&disk, 300_000_003);
    for (at, seed) in [(12_345, 31), (200_000_000, 32)] {
        file.write_all_at(&image::bytes(seed, 2_000_000), at).unwrap();
    }
    let uuid = server.upload(&disk);
    let home = Home::at(&server).by(relay.url());
    home.done(&["download", &uuid, "got.img"]);
    image::assert_same(&disk, &home.join("got.img"));
    assert!(relay.passed() < 20_000_000, "{} bytes passed", relay.passed());
}

#[test]
fn a_download_goes_to_a_pipe_in_order() {
    let (server, disk, uuid) = with_drive(Setup::default(), 3_000_003);
    let output = Home::at(&server).run(&["download", &uuid, "-", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout == fs::read(&disk).unwrap(), "other bytes were printed");
    assert!(said(&output).contains("\"done\""), "{}", said(&output));
}

#[test]
fn a_download_survives_a_line_that_is_cut_again_and_again() {
    let (server, disk, uuid) = with_drive(Setup::default(), 40_000_003);
    let relay = Relay::to(server.authority());
    relay.cut_each_after(5_000_000);
    let home = Home::at(&server).by(relay.url());
    let done = home.done(&["download", &uuid, "got.img", "--connections", "3"]);
    assert_eq!(done["size"], 40_000_003);
    image::assert_same(&disk, &home.join("got.img"));
    assert!(relay.passed() < 60_000_000, "{} bytes passed", relay.passed());
}

#[test]
fn a_download_goes_on_after_a_kill_with_the_parts_that_are_on_the_disk() {
    let (server, disk, uuid) = with_drive(Setup::default(), 150_000_000);
    let relay = Relay::to(server.authority());
    // Two parts come whole, and some of the third.
    relay.hold_after(100_000_000);
    let home = Home::at(&server).by(relay.url());
    let args = ["download", &uuid, "got.img", "--connections", "1"];
    let client = home.command(&args).spawn().unwrap();
    wait_for("two parts to be on the disk", || {
        let end = home.records().first()?["parts"][0][1].as_u64()?;
        (end > 70_000_000).then_some(())
    });
    // Two at a time would write over each other.
    let other = home.run(&args);
    assert_eq!(other.status.code(), Some(1), "{}", said(&other));
    assert!(said(&other).contains("another process"), "{}", said(&other));
    kill9(client);
    assert!(!home.join("got.img").exists(), "a part is not a file");
    relay.release();
    let before = relay.settled();
    home.done(&args);
    image::assert_same(&disk, &home.join("got.img"));
    let again = relay.passed() - before;
    assert!(again < 90_000_000, "{again} bytes passed the second time");
    // What was begun for another content is of no use, and a file that is there is not replaced.
    let refused = home.run(&args);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("--force"), "{}", said(&refused));
    home.done(&["download", &uuid, "got.img", "--force"]);
}

#[test]
fn bytes_that_changed_on_the_way_are_not_taken_for_the_drive() {
    for digest in ["sha-256", "blake3", "blake3-pieces"] {
        changed_on_the_way(digest);
    }
}

/// Downloads a drive of which the server knows this digest alone.
fn changed_on_the_way(digest: &str) {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_003, 7);
    let home = Home::at(&server);
    let done = home.done(&["upload", disk.to_str().expect("a path in UTF-8"), "--digest", digest]);
    let uuid = done["drive"].as_str().expect("a drive").to_owned();
    let relay = Relay::to(server.authority());
    relay.lie_at(1_000_000);
    let home = Home::at(&server).by(relay.url());
    let args = ["download", &uuid, "got.img"];
    let output = home.run(&args);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(!home.join("got.img").exists());
    // All is asked for again, as nobody knows which byte it was.
    let done = home.done(&args);
    let compared = ["sha-256", "blake3", "blake3-pieces"].map(|name| done[name].is_string().then_some(name));
    assert_eq!(compared.into_iter().flatten().collect::<Vec<_>>(), [digest], "{done}");
    image::assert_same(&disk, &home.join("got.img"));
}
