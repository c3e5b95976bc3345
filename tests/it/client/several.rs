//! Uploads of several files by one command.

use std::fs;
use std::process::Output;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::upload::{assert_uploaded, far_away};
use super::{Home, kill9, printed, said};
use crate::harness::{Server, image, wait_for};

/// Makes images of these names.
fn images(home: &Home, names: &[&str]) {
    for (name, seed) in names.iter().zip(31..) {
        image::random(&home.join(name), 1_000_003 + seed, seed);
    }
}

/// Returns the objects that were printed with this event.
fn events(output: &Output, event: &str) -> Vec<Value> {
    let printed = printed(output);
    let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["event"] == event).collect()
}

fn sha256(home: &Home, name: &str) -> String {
    hex::encode(Sha256::digest(fs::read(home.join(name)).expect("an image")))
}

#[test]
fn several_files_are_uploaded_at_once_and_their_drives_are_printed_in_order() {
    let server = Server::start();
    let home = Home::at(&server);
    let names = ["0.img", "1.img", "2.img", "3.img", "4.img"];
    images(&home, &names);
    let output = home.run(&[&["upload", "--parallel", "3"][..], &names].concat());
    assert!(output.status.success(), "{}", said(&output));
    let drives: Vec<String> = printed(&output).lines().map(str::to_owned).collect();
    assert_eq!(drives.len(), 5);
    for (drive, name) in drives.iter().zip(names) {
        assert_uploaded(&server, &serde_json::json!({ "drive": drive }), &home.join(name));
        let row = said(&output).lines().find(|line| line.contains(drive)).map(str::to_owned);
        assert!(row.is_some_and(|row| row.starts_with("done") && row.contains(name)), "{}", said(&output));
    }
    assert_eq!(home.records(), Vec::<Value>::new());
}

#[test]
fn a_file_that_fails_keeps_no_other_and_the_same_command_goes_on_with_it() {
    let server = Server::start();
    let home = Home::at(&server);
    images(&home, &["0.img", "2.img"]);
    let args = ["upload", "0.img", "1.img", "2.img", "--parallel", "2"];
    let output = home.run(&args);
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    assert!(
        said(&output).lines().any(|line| line.starts_with("FAILED") && line.contains("1.img")),
        "{}",
        said(&output)
    );
    let before: Vec<String> = printed(&output).lines().map(str::to_owned).collect();
    assert_eq!(before.len(), 2);
    images(&home, &["1.img"]);
    let output = home.run(&args);
    assert!(output.status.success(), "{}", said(&output));
    let after: Vec<String> = printed(&output).lines().map(str::to_owned).collect();
    assert_eq!([&after[0], &after[2]], [&before[0], &before[1]], "they are not uploaded again");
    assert_eq!(server.drives().len(), 3);
    // All are done, so that the same command begins anew.
    let output = home.run(&args);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.drives().len(), 6);
}

#[test]
fn a_manifest_names_drives_files_and_digests() {
    let server = Server::start();
    let home = Home::at(&server);
    images(&home, &["0.img", "1.img", "2.img"]);
    let list = |digest: &str| {
        let good = sha256(&home, "0.img");
        let text =
            format!("# disks\nfirst disk\t0.img\tsha-256:{good}\nsecond\t1.img\tsha-256:{digest}\nthird\t2.img\n");
        fs::write(home.join("list"), text).unwrap();
    };
    list(&sha256(&home, "0.img"));
    let args = ["upload", "--manifest", "list", "--parallel", "2", "--json"];
    let output = home.run(&args);
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    let failed = events(&output, "failed");
    assert_eq!(failed.len(), 1, "{}", printed(&output));
    assert_eq!((failed[0]["name"].as_str(), failed[0]["exit_code"].as_u64()), (Some("second"), Some(5)), "{failed:?}");
    let summary = &events(&output, "summary")[0];
    assert_eq!(
        (summary["files"].as_u64(), summary["done"].as_u64(), summary["failed"].as_u64()),
        (Some(3), Some(2), Some(1))
    );
    assert_eq!(server.drives().len(), 2, "what is not what it should be is no drive");
    let done = events(&output, "done");
    let first = done.iter().find(|done| done["name"] == "first disk").expect("it is uploaded");
    assert_uploaded(&server, first, &home.join("0.img"));

    // What was removed on the server since is uploaded again.
    let gone = first["drive"].as_str().expect("a drive");
    assert_eq!(server.curl(&format!("/api/2.0/drives/{gone}/")).method("DELETE").run().status, 204);
    list(&sha256(&home, "1.img"));
    let output = home.run(&args);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(events(&output, "done").len(), 3);
    assert_eq!(server.drives().len(), 3);
    assert_eq!(home.records(), Vec::<Value>::new());

    fs::write(home.join("list"), "first\n").unwrap();
    let output = home.run(&args);
    assert_eq!((output.status.code(), said(&output).contains("line 1")), (Some(2), true), "{}", said(&output));
}

#[test]
fn a_list_goes_on_after_a_kill_with_what_is_not_there() {
    let (server, relay, home) = far_away();
    images(&home, &["0.img", "1.img"]);
    image::random(&home.join("2.img"), 20_000_003, 9);
    relay.hold_after(14_000_000);
    let args = ["upload", "0.img", "1.img", "2.img"];
    let client = home.command(&args).spawn().unwrap();
    wait_for("the line to stand still", || (relay.passed() > 13_000_000).then_some(()));
    kill9(client);
    relay.release();
    let before = relay.settled();
    let output = home.run(&args);
    assert!(output.status.success(), "{}", said(&output));
    let again = relay.passed() - before;
    assert!(again < 19_000_000, "{again} bytes passed the second time");
    assert_eq!(server.drives().len(), 3);
    assert_eq!(said(&output).lines().filter(|line| line.starts_with("before")).count(), 2, "{}", said(&output));
}

#[test]
fn nothing_more_is_begun_when_the_login_is_refused() {
    let server = Server::start();
    let home = Home::at(&server);
    images(&home, &["0.img", "1.img"]);
    fs::write(&home.login, "admin:open-sesame\n").unwrap();
    let output = home.run(&["upload", "0.img", "1.img"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("not begun"), "{}", said(&output));
}
