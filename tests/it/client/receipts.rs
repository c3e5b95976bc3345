//! Receipts that the program saves, and drives that it has the server read back.

use std::fs;
use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};

use super::{Home, printed, said};
use crate::harness::image::flip;
use crate::harness::stored::image_of;
use crate::harness::{Server, image};

/// The exit codes of `longshore verify`.
const DIFFERS: i32 = 3;
const FORGED: i32 = 4;

/// The key that signs the server's receipts.
fn key_of(server: &Server) -> String {
    let keys = server.curl("/.well-known/jwks.json").run().json();
    keys["keys"][0]["x"].as_str().expect("a key").to_owned()
}

fn read(home: &Home, name: &str) -> Value {
    serde_json::from_slice(&fs::read(home.join(name)).expect("the receipt is there")).expect("it is JSON")
}

#[test]
fn the_receipt_of_an_upload_is_saved_and_the_drive_is_checked_against_it() {
    let server = Server::start();
    let home = Home::at(&server);
    image::random(&home.join("disk.img"), 9_000_001, 31);
    let output = home.run(&["upload", "disk.img", "--receipt", "disk.receipt"]);
    assert!(output.status.success(), "{}", said(&output));
    let uuid = printed(&output).trim().to_owned();
    let told = read(&home, "disk.receipt");
    assert_eq!((&told["receipt"]["drive"], &told["receipt"]["size"]), (&json!(uuid), &json!(9_000_001)));
    assert_eq!(told["receipt"]["checked"], Value::Null, "nobody has read it back");
    assert!(told["receipt"]["digest"]["sha-256"].is_string(), "{told}");

    let jwks = format!("{}/.well-known/jwks.json", server.endpoint());
    let before = server.curl(&format!("/api/v1/drives/{uuid}/receipt")).run().json();
    let checked = home.run(&["verify", "--drive", &uuid, "disk.receipt", "--jwks", &jwks]);
    assert_eq!(checked.status.code(), Some(0), "{}{}", said(&checked), printed(&checked));
    for line in ["signature: good", "size: the same", "sha-256: the same"] {
        assert!(printed(&checked).contains(line), "{}", printed(&checked));
    }
    // It was read from the disk, which the next receipt tells.
    let now = server.curl(&format!("/api/v1/drives/{uuid}/receipt")).run().json();
    assert!(now["receipt"]["checked"].is_string(), "{now}");
    let time = |of: &Value| of.as_str().expect("a time").parse::<jiff::Timestamp>().expect("it is one");
    let [asked, began, ended] =
        [&before["receipt"]["issued"], &now["receipt"]["checked_from"], &now["receipt"]["checked"]].map(time);
    assert!(asked <= began && began <= ended, "only a reading that began afterwards counts: {now}");
    // Once more, which takes another reading.
    let report = home.done(&["verify", "--drive", &uuid, "disk.receipt", "--key", &key_of(&server)]);
    assert_eq!((&report["event"], &report["same"]), (&json!("verified"), &json!(true)), "{report}");
    assert_eq!(report["signature"], "good", "{report}");
    assert_eq!(report["compared"][0], json!({"of": "size", "found": "9000001", "receipt": "9000001", "same": true}));
    let again = server.curl(&format!("/api/v1/drives/{uuid}/receipt")).run().json();
    assert!(time(&again["receipt"]["checked_from"]) > ended, "{again}");
    assert_eq!(home.bare(&["verify", "disk.img", "disk.receipt"]).output().unwrap().status.code(), Some(0));

    // Another drive, another key, and bytes that changed on the disk.
    let code = |args: &[&str]| home.run(args).status.code();
    image::random(&home.join("other.img"), 9_000_001, 32);
    let other = home.done(&["upload", "other.img", "--receipt", "other.receipt"]);
    assert_eq!((&other["event"], &other["receipt"]), (&json!("done"), &json!("other.receipt")), "{other}");
    let other = other["drive"].as_str().expect("a drive");
    let differs = home.run(&["verify", "--drive", other, "disk.receipt", "--json"]);
    assert_eq!(differs.status.code(), Some(DIFFERS), "{}", said(&differs));
    let report: Value = serde_json::from_slice(&differs.stdout).expect("it is JSON");
    let wrong = report["compared"].as_array().expect("a list").iter().filter(|line| line["same"] == false);
    assert_eq!((&report["same"], wrong.count() > 0), (&json!(false), true), "{report}");
    let stranger = "A".repeat(43);
    assert_eq!(code(&["verify", "--drive", other, "other.receipt", "--key", &stranger]), Some(FORGED));
    flip(&image_of(&server, other), 5_000_000);
    let spoiled = home.run(&["verify", "--drive", other, "other.receipt"]);
    assert_eq!(spoiled.status.code(), Some(DIFFERS), "{}{}", said(&spoiled), printed(&spoiled));
    assert!(printed(&spoiled).contains("drive: DIFFERS"), "{}", printed(&spoiled));

    // What cannot be checked is neither.
    let absent = "11111111-2222-4333-8444-555555555555";
    for (wrong, expected) in [
        (&["verify", "--drive", absent, "disk.receipt"][..], 1),
        (&["verify", "--drive", &uuid, "disk.img", "disk.receipt"], 2),
        (&["verify", "disk.img", "disk.receipt"], 2),
        (&["verify", "--drive", &uuid, "disk.receipt", "--config", "x"], 2),
    ] {
        assert_eq!(code(wrong), Some(expected), "{wrong:?}");
    }
}

#[test]
fn nothing_is_uploaded_when_its_receipt_could_not_be_saved() {
    let server = Server::start();
    let home = Home::at(&server);
    image::random(&home.join("a.img"), 100_000, 33);
    fs::copy(home.join("a.img"), home.join("b.img")).unwrap();
    fs::File::options().write(true).open(home.join("b.img")).unwrap().write_all_at(b"?", 7).unwrap();
    for wrong in [
        &["upload", "a.img", "--receipt", "absent/a.receipt"][..],
        &["upload", "a.img", "b.img", "--receipt", "a.receipt"],
    ] {
        let refused = home.run(wrong);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    }
    assert!(!home.run(&["transfers", "--json"]).stdout.contains(&b'{'), "nothing was begun");
    // Of several each has its own.
    fs::create_dir(home.join("receipts")).unwrap();
    let output = home.run(&["upload", "a.img", "b.img", "--parallel", "2", "--receipt", "receipts"]);
    assert!(output.status.success(), "{}", said(&output));
    let drives = printed(&output);
    assert_eq!(drives.lines().count(), 2, "{drives}");
    for (drive, file) in drives.lines().zip(["a.img", "b.img"]) {
        let receipt = format!("receipts/{drive}.receipt");
        assert_eq!(read(&home, &receipt)["receipt"]["name"], json!(file));
        assert_eq!(home.bare(&["verify", file, &receipt]).output().unwrap().status.code(), Some(0));
    }
    assert_eq!(fs::read_dir(home.join("receipts")).unwrap().count(), 2);
}
