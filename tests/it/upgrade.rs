//! A data folder of an earlier release, used by this one: every byte and every list is unchanged.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::stored::{self, details, uuid};
use crate::harness::{Cloud, Scratch, Server, Setup, hyper, wait_for};

/// Unpacks a folder that `fixtures/data/make` has made; returns the answers of its release about it.
fn unpack(name: &str, data: &Path) -> Value {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/data");
    std::fs::create_dir(data).expect("a directory");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions", "--no-same-owner", "--xattrs", "--file"]);
    let status = tar.arg(fixtures.join(format!("{name}.tar.xz"))).arg("--directory").arg(data).status();
    assert!(status.expect("tar runs").success());
    let told = std::fs::read(fixtures.join(format!("{name}.json"))).expect("it was told");
    serde_json::from_slice(&told).expect("it is JSON")
}

/// Returns the bytes of the drive that was made under this name.
fn image(word: &str, length: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..200).flat_map(|n| format!("{word} {n}\n").into_bytes()).collect();
    image.resize(length - 7, 0);
    image.extend(b"the end");
    image
}

/// Fails unless a drive has these bytes, followed by zeros up to its size, of which the first few are read.
#[track_caller]
fn assert_holds(server: &Server, uuid: &str, size: usize, image: &[u8]) {
    let len = size.min(6_000_000);
    let (path, range) = (server.capability(uuid), format!("Range: bytes=0-{}", len - 1));
    let response = server.anonymous_curl(&path).header(&range).run();
    assert_eq!(response.field("content-range"), format!("bytes 0-{}/{size}", len - 1));
    let read = response.body;
    assert_eq!(read.len(), len);
    assert!(read[..image.len()] == *image && read[image.len()..].iter().all(|byte| *byte == 0), "{uuid}");
}

/// Finds an entry of a list by its name.
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    list.iter().find(|thing| thing["name"] == name).unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

/// Returns a list without its links, which contain the address of the server.
fn without_links(list: &Value) -> Value {
    let mut list = list.clone();
    for thing in list.as_array_mut().expect("a list") {
        thing.as_object_mut().expect("a thing").remove("links");
    }
    list
}

#[test]
fn a_folder_from_before_drives_had_contents_is_taken_over() {
    let data = Scratch::new();
    let told = unpack("before-contents", &data.join("data"));
    let mut server = Setup::default().data(&data.join("data")).start();
    let cloud = Cloud::of(&server);
    // Pending jobs continue: a backup of a drive's content, and one that is restored over another drive.
    let list = |path: &str, name: &str| cloud.get(path).json()[name].clone();
    let held = named(&list("backups/detail", "backups"), "held")["id"].as_str().expect("an id").to_owned();
    cloud.wait("backups", &held, "available");
    let of = |name: &str| uuid(named(&told["drives"], name));
    cloud.wait("volumes", &of("old"), "available");

    for _ in 0..2 {
        let cloud = Cloud::of(&server);
        let list = |path: &str, name: &str| cloud.get(path).json()[name].clone();
        let mut expected = told["drives"].clone();
        for drive in expected.as_array_mut().expect("a list").iter_mut().filter(|drive| drive["name"] == "held") {
            drive["size"] = 300_000.into();
        }
        assert_eq!(Value::from(details(&server, &server.credentials())), expected);
        assert_eq!(without_links(&list("snapshots/detail", "snapshots")), without_links(&told["snapshots"]));
        let trees = server.curl("/volumes").run().json();
        assert_eq!(trees, told["trees"]);
        let backup = &named(&told["backups"], "backup")["id"];
        assert_eq!(cloud.show("backups", backup.as_str().expect("an id"))["status"], "available");

        assert_holds(&server, &of("small"), 100_000, &image("small", 100_000));
        assert_holds(&server, &of("clone"), 100_000, &image("small", 100_000));
        assert_holds(&server, &of("old"), 100_000, &image("small", 100_000));
        assert_holds(&server, &of("grown"), 5_000_000, &image("grown", 100_000));
        assert_holds(&server, &of("held"), 300_000, &image("held", 100_000));
        assert_holds(&server, &of("large"), 5_000_000, &image("large", 5_000_000));
        let archive = server.scratch().join("tree.tar");
        hyper::fetch(&server, "tree", &archive);
        let unpacked = Scratch::new();
        hyper::untar(&archive, &unpacked.join("tree"));
        assert_eq!(std::fs::read(unpacked.join("tree/folder/file")).expect("the file is there"), b"a file\n");
        // This version can start again on the converted folder.
        server.terminate();
        server.restart();
    }
    let cloud = Cloud::of(&server);
    // Snapshots and backups can be restored.
    let snapshot = &told["snapshots"][0]["id"];
    let from_snapshot = cloud.create(&serde_json::json!({"size": 1, "snapshot_id": snapshot}));
    assert_holds(&server, &from_snapshot, 1 << 30, &image("large", 5_000_000));
    let restore = |backup: &str| {
        let response = cloud.post(&format!("backups/{backup}/restore"), &serde_json::json!({"restore": {}}));
        assert_eq!(response.status, 202, "{response:?}");
        let volume = response.json()["restore"]["volume_id"].as_str().expect("an id").to_owned();
        cloud.wait("volumes", &volume, "available");
        volume
    };
    assert_holds(&server, &restore(&held), 100_000, &image("held", 100_000));
    // Nothing is left but the listed volumes.
    for drive in details(&server, &server.credentials()) {
        assert_eq!(server.curl(&format!("/api/2.0/drives/{}/", uuid(&drive))).method("DELETE").run().status, 204);
    }
    assert_eq!(cloud.delete(&format!("snapshots/{}", snapshot.as_str().expect("an id"))).status, 202);
    wait_for("all drives to be gone", || stored::entries(&server, "drives").is_empty().then_some(()));
    assert!(stored::entries(&server, "incoming").is_empty() && !server.data().join("held").exists());
}
