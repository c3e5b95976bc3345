//! Files that are brought up to date: what is there is not fetched again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use serde_json::Value;

use super::{Home, kill9, said};
use crate::harness::relay::Relay;
use crate::harness::{Server, image, wait_for};

const PIECE: u64 = 4 << 20;
const SIZE: u64 = 20 * PIECE + 12_345;

/// Starts a server with a drive; returns it with a line to it, a home that uses the line, and the drive's UUID. The
/// image is `disk.img`.
fn with_drive() -> (Server, Relay, Home, String) {
    let server = Server::start();
    let relay = Relay::to(server.authority());
    let home = Home::at(&server).by(relay.url());
    let disk = home.join("disk.img");
    image::random(&disk, SIZE, 41);
    write(&home, "disk.img", 5 * PIECE, &vec![0; 3 * PIECE as usize]);
    let uuid = server.upload(&disk);
    (server, relay, home, uuid)
}

fn write(home: &Home, name: &str, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(home.join(name)).expect("the file is there");
    file.write_all_at(bytes, at).expect("it is written");
}

#[test]
fn of_a_file_that_is_there_only_the_pieces_that_differ_are_fetched() {
    let (_server, relay, home, uuid) = with_drive();
    fs::copy(home.join("disk.img"), home.join("got.img")).unwrap();
    let update = ["download", &uuid, "got.img", "--update"];
    let spent = || {
        let before = relay.passed();
        home.done(&update);
        image::assert_same(&home.join("disk.img"), &home.join("got.img"));
        relay.passed() - before
    };
    let same = spent();
    assert!(same < PIECE / 8, "{same} bytes passed for a file that is the same");
    // A byte of two pieces, data where the drive has zeros, and another length.
    write(&home, "got.img", PIECE - 1, b"?!");
    write(&home, "got.img", 5 * PIECE + 7, &image::bytes(9, 2 * PIECE as usize));
    let file = File::options().write(true).open(home.join("got.img")).unwrap();
    file.set_len(SIZE + 5).unwrap();
    let changed = spent();
    assert!((2 * PIECE..3 * PIECE).contains(&changed), "{changed} bytes passed for two pieces");
    assert!(file.metadata().unwrap().blocks() * 512 <= SIZE - 2 * PIECE, "zeros give their space back");
    file.set_len(SIZE - PIECE).unwrap();
    let shorter = spent();
    assert!((PIECE..3 * PIECE).contains(&shorter), "{shorter} bytes passed for the end");
    assert_eq!(home.records(), Vec::<Value>::new());
    // One that is not there is downloaded.
    home.done(&["download", &uuid, "new.img", "--update"]);
    image::assert_same(&home.join("disk.img"), &home.join("new.img"));
    for wrong in [&["--force"][..], &["-"]] {
        let args = [&["download", &uuid, "--update"], wrong].concat();
        assert!(!home.run(&args).status.success(), "{args:?}");
    }
}

#[test]
fn an_update_that_was_killed_goes_on_with_what_is_there() {
    let (server, relay, home, uuid) = with_drive();
    fs::write(home.join("got.img"), b"another").unwrap();
    let update = ["download", &uuid, "got.img", "--update", "--connections", "1"];
    relay.hold_after(10 * PIECE);
    let client = home.command(&update).spawn().unwrap();
    let size = fs::metadata(home.join("disk.img")).unwrap().len();
    wait_for("pieces to be written", || {
        let metadata = fs::metadata(home.join("got.img")).ok()?;
        (metadata.len() == size && metadata.blocks() * 512 >= 7 * PIECE).then_some(())
    });
    // By another way than the line that stands still.
    let other = home.bare(&update).args(["--url", server.endpoint(), "--user-file"]).arg(&home.login).output().unwrap();
    assert!(said(&other).contains("another process"), "{}", said(&other));
    kill9(client);
    relay.release();
    let before = relay.settled();
    home.done(&update);
    image::assert_same(&home.join("disk.img"), &home.join("got.img"));
    let again = relay.passed() - before;
    assert!(again < 13 * PIECE, "{again} bytes passed the second time");
}

#[test]
fn a_piece_that_changed_on_the_way_is_not_written() {
    let (_server, relay, home, uuid) = with_drive();
    fs::copy(home.join("disk.img"), home.join("got.img")).unwrap();
    write(&home, "got.img", 2 * PIECE, b"another");
    let before = fs::read(home.join("got.img")).unwrap();
    relay.lie_at(relay.passed() + PIECE / 2);
    let update = ["download", &uuid, "got.img", "--update"];
    let output = home.run(&update);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(fs::read(home.join("got.img")).unwrap() == before, "the file was changed");
    home.done(&update);
    image::assert_same(&home.join("disk.img"), &home.join("got.img"));
}
