//! Uploads by the program itself.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Home, kill9, printed, said};
use crate::harness::relay::Relay;
use crate::harness::{Curl, Server, Setup, image, wait_for};

/// Starts a server that is reached by way of a bad line, whose port stays the same when it starts again.
pub(super) fn far_away() -> (Server, Relay, Home) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let relay = Relay::to(&free.to_string());
    let public = format!("direct.public_url = \"{}\"", relay.url());
    let server = Setup::default().listen(&free.to_string()).config(&public).start();
    let home = Home::at(&server).by(relay.url());
    (server, relay, home)
}

/// Fails unless the drive that an upload made is this image.
#[track_caller]
pub(super) fn assert_uploaded(server: &Server, done: &Value, disk: &Path) {
    let drive = done["drive"].as_str().unwrap_or_else(|| panic!("no drive: {done}"));
    let back = server.scratch().join("back.img");
    server.download(drive, &back);
    image::assert_same(disk, &back);
}

/// Waits until this many bytes of the only transfer have come.
#[track_caller]
fn wait_for_bytes(server: &Server, bytes: u64) {
    wait_for("bytes to come", || {
        let transfers = server.curl("/api/v1/transfers").run().json();
        transfers["transfers"][0]["durable"].as_u64().filter(|durable| *durable >= bytes)
    });
}

#[test]
fn an_upload_sends_neither_holes_nor_zeros() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    let file = image::zero(&disk, 300_000_003);
    file.write_all_at(&image::bytes(1, 5_000_000), 12_345).unwrap();
    // Zeros that are no hole.
    file.write_all_at(&vec![0; 30_000_000], 50_000_000).unwrap();
    file.write_all_at(&image::bytes(2, 3_000_000), 80_000_000).unwrap();
    let output = home.run(&["upload", "disk.img", "--name", "system disk", "--reference", "batch 7"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay.passed() < 15_000_000, "{} bytes passed", relay.passed());
    let uuid = printed(&output).trim().to_owned();
    let drive = server.drive(&uuid);
    assert_eq!((drive["name"].as_str(), drive["size"].as_u64()), (Some("system disk"), Some(300_000_003)));
    assert_uploaded(&server, &serde_json::json!({ "drive": uuid }), &disk);
    assert_eq!(home.records(), Vec::<Value>::new());
    let transfer = home.done(&["transfers"]);
    assert_eq!((transfer["state"].as_str(), transfer["reference"].as_str()), (Some("done"), Some("batch 7")));
    assert!(!transfer.to_string().contains("ticket"), "{transfer}");
}

#[test]
fn a_file_of_holes_is_compared_by_its_pieces() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    let file = image::zero(&disk, (2 << 30) + 12_345);
    for (at, seed) in [(0, 21), (900_000_001, 22), (2 << 30, 23)] {
        file.write_all_at(&image::bytes(seed, 10_000), at).unwrap();
    }
    let done = home.done(&["upload", "disk.img"]);
    let digest = done["digest"].as_str().and_then(|digest| digest.strip_prefix("blake3-pieces:")).expect("a digest");
    assert!(relay.passed() < 20_000_000, "{} bytes passed", relay.passed());
    let uuid = done["drive"].as_str().expect("a drive");
    let receipt = server.curl(&format!("/api/v1/drives/{uuid}/receipt")).run();
    let told = receipt.json()["receipt"]["digest"].clone();
    assert_eq!(told, serde_json::json!({"sha-256": null, "blake3": null, "blake3-pieces": digest}));
    fs::write(home.join("receipt"), &receipt.body).unwrap();
    let verify = || home.bare(&["verify", "disk.img", "receipt"]).output().expect("longshore runs");
    let checked = verify();
    assert!(checked.status.success(), "{}", said(&checked));
    let asked = server.curl(&format!("/api/2.0/drives/{uuid}/download/")).args(&["--location", "--head"]);
    let fields = asked.header("Want-Repr-Digest: blake3-pieces=1").run();
    assert!(fields.values("repr-digest").iter().any(|field| field.starts_with("blake3-pieces=:")), "{fields:?}");

    // As many holes, other bytes.
    let transfer = server
        .curl("/api/v1/transfers")
        .json("POST", &serde_json::json!({"name": "zeros", "size": 5_000_000}))
        .run()
        .json();
    let id = transfer["id"].as_str().expect("an id");
    let ticket = transfer["ticket"].as_str().expect("a ticket");
    let zero = serde_json::json!({"op": "zero", "offset": 0, "size": 5_000_000});
    assert_eq!(Curl::new(ticket).json("PATCH", &zero).run().status, 200);
    let finish = |digest: &str| {
        let body = serde_json::json!({"digest": {"blake3-pieces": digest}});
        server.curl(&format!("/api/v1/transfers/{id}/finish")).json("POST", &body).run().status
    };
    assert_eq!(finish(digest), 422);
    let zeros = blake3::hash(&[0; 64]).to_string();
    assert_eq!(finish(&zeros), 200);
    file.write_all_at(b"!", 1_000_000_000).unwrap();
    assert_eq!(verify().status.code(), Some(3));
}

#[test]
fn an_upload_survives_a_line_that_is_cut_again_and_again() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    image::random(&disk, 40_000_003, 4);
    relay.cut_each_after(9_000_000);
    let done = home.done(&["upload", "disk.img", "--connections", "3"]);
    relay.cut_each_after(u64::MAX);
    assert_uploaded(&server, &done, &disk);
    assert_eq!(done["name"], "disk.img");
}

#[test]
fn an_upload_goes_on_after_a_kill_of_the_client() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    image::random(&disk, 100_000_003, 5);
    relay.hold_after(60_000_000);
    let args = ["upload", "disk.img", "--connections", "2"];
    let client = home.command(&args).spawn().unwrap();
    wait_for("the line to stand still", || (relay.passed() > 59_000_000).then_some(()));
    let records = home.join(".local/state/longshore");
    for entry in fs::read_dir(&records).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600, "a ticket is a secret");
    }
    kill9(client);
    wait_for_bytes(&server, 30_000_000);
    relay.release();
    let before = relay.settled();
    let done = home.done(&args);
    let again = relay.passed() - before;
    assert!(again < 75_000_000, "{again} bytes passed the second time");
    assert_uploaded(&server, &done, &disk);
    // There is one drive, of one transfer.
    assert_eq!(server.drives().len(), 1);
    assert_eq!(home.records(), Vec::<Value>::new());
}

#[test]
fn an_upload_goes_on_by_itself_after_a_kill_of_the_server() {
    let (mut server, relay, home) = far_away();
    let disk = home.join("disk.img");
    let file = image::zero(&disk, 140_000_003);
    file.write_all_at(&image::bytes(6, 90_000_000), 20_000_000).unwrap();
    relay.hold_after(50_000_000);
    let client = home.command(&["upload", "disk.img", "--json", "--connections", "2"]).spawn().unwrap();
    wait_for("the line to stand still", || (relay.passed() > 49_000_000).then_some(()));
    server.kill9();
    relay.release();
    server.restart();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}{}", said(&output), printed(&output));
    let printed = printed(&output);
    let done: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_uploaded(&server, &done, &disk);
    assert!(printed.contains("trying again"), "{printed}");
}

/// Uploads a file by a pipe.
fn piped(home: &Home, disk: &Path, args: &[&str]) -> Output {
    let mut command = home.command(&["upload", "-", "--json"]);
    command.args(args).stdin(Stdio::from(File::open(disk).expect("the image")));
    command.output().expect("the client runs")
}

#[test]
fn a_pipe_is_uploaded_whether_its_size_is_known_or_not() {
    let server = Server::start();
    let home = Home::at(&server);
    let disk = home.join("disk.img");
    image::sparse(&disk, 40_000_003, 8);
    for args in [&["--digest", "none"][..], &["--size", "40000003", "--name", "b"], &["--connections", "1"]] {
        let output = piped(&home, &disk, args);
        assert!(output.status.success(), "{}", said(&output));
        let printed = printed(&output);
        assert_uploaded(&server, &serde_json::from_str(printed.lines().last().unwrap()).unwrap(), &disk);
    }
    // One that is shorter than was said is no drive, and leaves nothing to go on with.
    let output = piped(&home, &disk, &["--size", "40000004"]);
    assert_eq!(output.status.code(), Some(8), "{}", said(&output));
    assert_eq!(server.drives().len(), 3);
    assert_eq!(home.done(&["transfers"]).get("event"), None);
    assert_eq!(home.records(), Vec::<Value>::new());
}

#[test]
fn a_source_that_changed_is_refused_unless_the_upload_begins_anew() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    image::random(&disk, 20_000_003, 9);
    relay.hold_after(10_000_000);
    let args = ["upload", "disk.img"];
    let client = home.command(&args).spawn().unwrap();
    wait_for("the line to stand still", || (relay.passed() > 9_000_000).then_some(()));
    kill9(client);
    relay.release();
    image::random(&disk, 20_000_003, 10);
    let refused = home.run(&args);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("--restart"), "{}", said(&refused));
    let done = home.done(&["upload", "disk.img", "--restart"]);
    assert_uploaded(&server, &done, &disk);
    assert_eq!(server.drives(), [done["drive"].as_str().unwrap()]);
}

#[test]
fn bytes_that_changed_on_the_way_are_no_drive() {
    for algorithm in ["sha-256", "blake3"] {
        let (server, relay, home) = far_away();
        image::random(&home.join("disk.img"), 3_000_003, 11);
        relay.lie_at(1_000_000);
        let args = ["upload", "disk.img", "--digest", algorithm, "--connections", "1"];
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert_eq!(server.drives(), Vec::<String>::new());
        // Nobody knows which byte it was, so all begins anew.
        let done = home.done(&args);
        assert_uploaded(&server, &done, &home.join("disk.img"));
        assert!(done["digest"].as_str().unwrap().starts_with(algorithm), "{done}");
    }
}

/// Makes an image that can be compressed to a tenth.
fn compressible(path: &Path, size: u64) {
    let words = image::bytes(13, 4096);
    let byte = |at: u64| if at % 64 < 8 { words[(at / 64 % 4093) as usize] } else { 7 };
    fs::write(path, (0..size).map(byte).collect::<Vec<u8>>()).expect("an image is written");
}

#[test]
fn parts_are_compressed_on_the_line_when_that_is_wanted() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    compressible(&disk, 20_000_003);
    let done = home.done(&["upload", "disk.img", "--compress", "always"]);
    assert!(relay.passed() < 8_000_000, "{} bytes passed", relay.passed());
    assert_uploaded(&server, &done, &disk);
    let before = relay.passed();
    let output = piped(&home, &disk, &["--compress", "always"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay.passed() - before < 8_000_000, "{} bytes passed", relay.passed() - before);
    let printed = printed(&output);
    assert_uploaded(&server, &serde_json::from_str(printed.lines().last().unwrap()).unwrap(), &disk);
    let before = relay.passed();
    home.done(&["upload", "disk.img", "--compress", "never"]);
    assert!(relay.passed() - before > 20_000_000);
}

#[test]
fn parts_are_compressed_on_a_slow_line_and_an_upload_survives_its_cuts() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    compressible(&disk, 60_000_003);
    relay.cut_each_after(9_000_000);
    // The first 8 MiB are sent as they are, to measure the line.
    let done = home.done(&["upload", "disk.img", "--connections", "1", "--bwlimit", "16MiB"]);
    assert!(relay.passed() < 40_000_000, "{} bytes passed", relay.passed());
    relay.cut_each_after(u64::MAX);
    assert_uploaded(&server, &done, &disk);
}

/// The words for what kept a transfer from going faster, in the order of their lines.
fn limiters(printed: &str) -> Vec<Option<String>> {
    let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
    let progress = lines.filter(|line| line["event"] == "progress");
    progress.map(|line| line["limited_by"].as_str().map(str::to_owned)).collect()
}

#[test]
fn progress_tells_what_keeps_a_transfer_from_going_faster() {
    let server = Server::start();
    let home = Home::at(&server);
    image::random(&home.join("disk.img"), 6_000_003, 15);
    let args = ["upload", "disk.img", "--bwlimit", "1MiB", "--compress", "never", "--json"];
    let told = limiters(&printed(&home.run(&args)));
    assert!(told.iter().any(|told| told.as_deref() == Some("limit")), "{told:?}");
    // A pipe into which nobody writes for a while.
    let mut client = home.command(&["upload", "-", "--json"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    for _ in 0..3 {
        input.write_all(&image::bytes(16, 1000)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told = limiters(&printed(&output));
    assert!(told.iter().any(|told| told.as_deref() == Some("source")), "{told:?}");
}

#[test]
fn transfers_are_listed_shown_and_cancelled() {
    let (server, relay, home) = far_away();
    image::random(&home.join("disk.img"), 20_000_003, 12);
    relay.hold_after(10_000_000);
    let client = home.command(&["upload", "disk.img"]).spawn().unwrap();
    wait_for("the line to stand still", || (relay.passed() > 9_000_000).then_some(()));
    kill9(client);
    relay.release();
    let transfer = home.done(&["transfers", "list"]);
    let id = transfer["id"].as_str().unwrap();
    assert_eq!(transfer["state"], "open");
    assert_eq!(home.done(&["transfers", "show", id])["id"].as_str(), Some(id));
    let listed = printed(&home.run(&["transfers"]));
    assert!(listed.lines().nth(1).is_some_and(|line| line.starts_with(id)), "{listed}");
    assert!(home.run(&["transfers", "cancel", id]).status.success());
    assert_eq!(home.run(&["transfers", "show", "../drives"]).status.code(), Some(4));
    // The upload begins anew.
    let done = home.done(&["upload", "disk.img"]);
    assert_uploaded(&server, &done, &home.join("disk.img"));
}

#[test]
fn an_upload_with_a_base_sends_only_what_differs() {
    let (server, relay, home) = far_away();
    let disk = home.join("disk.img");
    image::random(&disk, 40_000_003, 14);
    let base = server.upload(&disk);
    image::flip(&disk, 20_000_000);
    let done = home.done(&["upload", "disk.img", "--base", &base]);
    assert!(relay.passed() < 6_000_000, "{} bytes passed", relay.passed());
    assert_uploaded(&server, &done, &disk);
    assert_ne!(done["drive"], base.as_str());
    let unknown = home.run(&["upload", "disk.img", "--base", "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", said(&unknown));
}
