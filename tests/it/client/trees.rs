//! Directories, up and down, by the program itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use super::upload::far_away;
use super::{Home, printed, said};
use crate::harness::hyper::{contents, sample, show, untar};
use crate::harness::rsync::{assert_same_data, assert_same_trees};
use crate::harness::{Scratch, Server, wait_for};

#[test]
fn a_directory_goes_up_and_comes_back_as_it_was() {
    let server = Server::start();
    let home = Home::at(&server);
    let dir = sample(&home.dir, "a");
    fs::set_permissions(dir.join("readme.md"), fs::Permissions::from_mode(0o640)).unwrap();
    let dir = dir.to_str().unwrap();
    let _socket = UnixListener::bind(home.join("sample-a/socket")).unwrap();
    let done = home.done(&["push", dir, "--name", "vol1"]);
    assert_eq!((done["volume"].as_str(), done["skipped"].as_u64()), (Some("vol1"), Some(1)), "{done}");
    fs::remove_file(home.join("sample-a/socket")).unwrap();
    let output = home.run(&["pull", "vol1"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(printed(&output).trim(), "vol1");
    assert_same_data(dir.as_ref(), &home.join("vol1"));
    let mode = fs::metadata(home.join("vol1/readme.md")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(home.records(), Vec::<serde_json::Value>::new());
    // Compressed, and into an empty directory.
    fs::create_dir(home.join("empty")).unwrap();
    home.done(&["push", dir, "--name", "vol2", "--zstd", "--gib", "3"]);
    assert_eq!(show(&server, "vol2").json()["Options"]["size"], "3");
    let mut args = vec!["pull", "vol2", "empty", "--zstd"];
    if is_root() {
        args.push("--same-owner");
    }
    home.done(&args);
    if is_root() {
        assert_same_trees(dir.as_ref(), &home.join("empty"));
    } else {
        assert_same_data(dir.as_ref(), &home.join("empty"));
    }
    // The archive itself goes to a pipe.
    let output = home.run(&["pull", "vol1", "-"]);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(home.join("vol1.tar"), &output.stdout).unwrap();
    untar(&home.join("vol1.tar"), &home.join("untarred"));
    assert_same_data(dir.as_ref(), &home.join("untarred"));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_fails_is_told_and_leaves_nothing() {
    let server = Server::start();
    let home = Home::at(&server);
    let (dir, other) = (sample(&home.dir, "a"), sample(&home.dir, "b"));
    let (dir, other) = (dir.to_str().unwrap(), other.to_str().unwrap());
    let fails = |args: &[&str], code: i32, words: &str| {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
    };
    fails(&["push", "missing"], 1, "missing");
    fails(&["push", dir, "--name", "a/b"], 4, "no name of a volume");
    fails(&["pull", "vol1"], 4, "404");
    home.done(&["push", dir, "--name", "vol1"]);
    fails(&["push", other, "--name", "vol1"], 8, "vol1");
    home.done(&["push", other, "--name", "vol1", "--replace"]);
    fs::create_dir(home.join("vol1")).unwrap();
    fs::write(home.join("vol1/mine"), "mine").unwrap();
    fails(&["pull", "vol1"], 1, "no empty directory");
    assert_eq!(fs::read_to_string(home.join("vol1/mine")).unwrap(), "mine");
    home.done(&["pull", "vol1", "here"]);
    assert_same_data(other.as_ref(), &home.join("here"));

    // What the server does not take is named, and so is what cannot be read here.
    let bad = home.join("bad");
    fs::create_dir_all(&bad).unwrap();
    let made = std::process::Command::new("mknod").arg(bad.join("device")).args(["c", "1", "3"]).output().unwrap();
    if made.status.success() {
        fails(&["push", "bad", "--gib", "1"], 8, "device");
        assert_eq!(show(&server, "bad").status, 404);
    }
    wait_for("what was replaced to go", || (contents(&server).len() == 1).then_some(()));
}

#[test]
fn an_archive_that_breaks_off_is_no_directory() {
    let (server, relay, home) = far_away();
    let dir = Scratch::new();
    crate::harness::image::random(&dir.join("large"), 20_000_000, 3);
    home.done(&["push", dir.path().to_str().unwrap(), "--name", "vol1"]);
    relay.cut_each_after(5_000_000);
    let output = home.run(&["pull", "vol1"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(!home.join("vol1").exists() && !home.join("vol1.part").exists(), "{}", said(&output));
    let output = home.run(&["push", dir.path().to_str().unwrap(), "--name", "vol2"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(show(&server, "vol2").status, 404, "it goes with its session");
    relay.cut_each_after(u64::MAX);
    home.done(&["pull", "vol1"]);
    assert_same_data(dir.path(), &home.join("vol1"));
}
