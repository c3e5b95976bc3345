//! The control API of drives, as its clients use it.

use serde_json::{Value, json};

use crate::harness::{Response, Server, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";

/// Returns the single drive of an answer that lists new drives.
#[track_caller]
fn only_object(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    let objects = response.json()["objects"].as_array().cloned().expect("the answer has objects");
    assert_eq!(objects.len(), 1);
    objects[0].clone()
}

#[track_caller]
fn uuid(drive: &Value) -> String {
    drive["uuid"].as_str().expect("a drive has a uuid").to_owned()
}

fn wait_until_unmounted(server: &Server, uuid: &str) {
    wait_for("the drive to be at rest", || (server.drive(uuid)["status"] == "unmounted").then_some(()));
}

#[test]
fn a_blank_drive_reads_as_zeros() {
    let server = Server::start();
    let spec = json!({"objects": [{"name": "blank", "size": 5_000_001, "media": "disk"}]});
    let drive = only_object(&server.curl(DRIVES).json("POST", &spec).run(), 201);
    assert_eq!((&drive["name"], &drive["size"]), (&json!("blank"), &json!(5_000_001)));
    wait_until_unmounted(&server, &uuid(&drive));
    let (want, got) = (server.scratch().join("want"), server.scratch().join("got"));
    image::zero(&want, 5_000_001);
    server.download(&uuid(&drive), &got);
    image::assert_same(&want, &got);
}

#[test]
fn a_clone_has_the_same_bytes_and_outlives_its_source() {
    let server = Server::start();
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::sparse(&disk, 9_000_007, 51);
    let source = server.upload(&disk);
    let clone = server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({"name": "copy"})).run();
    let clone = uuid(&only_object(&clone, 202));
    wait_until_unmounted(&server, &clone);
    wait_until_unmounted(&server, &source);
    assert_eq!(server.drive(&clone)["name"], json!("copy"));
    assert_eq!(server.curl(&format!("{DRIVES}{source}/")).method("DELETE").run().status, 204);
    server.download(&clone, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn a_clone_is_as_large_as_asked_or_is_refused() {
    let server = Server::start();
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::random(&disk, 1_000_003, 53);
    let source = server.upload(&disk);
    let clone =
        |size: u64| server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({"size": size}));
    assert_eq!(clone(1_000_002).run().status, 400);
    assert_eq!(clone(1 << 62).run().status, 400);
    let larger = only_object(&clone(3_000_000).run(), 202);
    assert_eq!(larger["size"], json!(3_000_000));
    wait_until_unmounted(&server, &uuid(&larger));
    server.download(&uuid(&larger), &back);
    image::assert_same_then_zeros(&disk, &back, 3_000_000);
    wait_until_unmounted(&server, &source);
    assert_eq!(server.drives().len(), 2);
}

#[test]
fn what_a_call_does_not_know_is_refused_and_changes_nothing() {
    let server = Server::start();
    let spec = json!({"name": "a", "size": 1_000_000});
    let made = only_object(&server.curl(DRIVES).json("POST", &spec).run(), 201);
    assert_eq!(made["status"], json!("creating"));
    let drive = uuid(&made);
    wait_until_unmounted(&server, &drive);
    for (method, path, body) in [
        ("POST", String::new(), json!({"name": "b", "size": 1_000_000, "sise": 1})),
        ("PUT", format!("{drive}/"), json!({"name": "b", "colour": "red"})),
        ("PUT", format!("{drive}/?force=1"), json!({"name": "b"})),
        ("POST", format!("{drive}/action/?do=clone&avoid={drive}"), json!({})),
        ("POST", format!("{drive}/action/?do=resize"), json!({"size": 2_000_000, "shrink": true})),
        ("DELETE", format!("{drive}/?recurse=all_drives"), json!({})),
    ] {
        let response = server.curl(&format!("{DRIVES}{path}")).json(method, &body).run();
        assert_eq!(response.status, 400, "{method} {path} {body}: {response:?}");
    }
    // A drive can be sent back as it was returned; a resize may contain all of it.
    let told = server.drive(&drive);
    let back = server.curl(&format!("{DRIVES}{drive}/")).json("PUT", &told).run();
    assert_eq!(back.status, 200, "{back:?}");
    let grow = json!({"size": 2_000_000, "name": "c", "media": "cdrom"});
    assert_eq!(server.curl(&format!("{DRIVES}{drive}/action/?do=resize")).json("POST", &grow).run().status, 202);
    wait_until_unmounted(&server, &drive);
    let told = server.drive(&drive);
    assert_eq!((&told["name"], &told["media"], &told["size"]), (&json!("c"), &json!("cdrom"), &json!(2_000_000)));
    let names = |query: &str| {
        let list = server.curl(&format!("{DRIVES}?{query}")).run().json();
        list["objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    only_object(&server.curl(DRIVES).json("POST", &json!({"name": "d", "size": 1_000_000})).run(), 201);
    assert_eq!(names("order_by=-name"), ["d", "c"]);
    assert_eq!(names("order_by=size"), ["d", "c"]);
    assert_eq!(names("order_by=-size"), ["c", "d"]);
    assert_eq!(server.curl(&format!("{DRIVES}?order_by=owner")).run().status, 400);
}

#[test]
fn a_resized_drive_keeps_its_bytes_and_ends_in_zeros() {
    let server = Server::start();
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::random(&disk, 1_000_003, 52);
    let drive = server.upload(&disk);
    let action = format!("{DRIVES}{drive}/action/?do=resize");
    let response = server.curl(&action).json("POST", &json!({"size": "3000000"})).run();
    assert_eq!(response.status, 202, "{response:?}");
    wait_until_unmounted(&server, &drive);
    assert_eq!(server.drive(&drive)["size"], json!(3_000_000));
    server.download(&drive, &back);
    image::assert_same_then_zeros(&disk, &back, 3_000_000);
    let smaller = server.curl(&action).json("POST", &json!({"size": 1_000_003})).run();
    assert!((400..500).contains(&smaller.status), "{smaller:?}");
}

#[test]
fn a_drive_is_renamed_and_labelled() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 53);
    let drive = server.upload(&disk);
    let change = json!({"name": "renamed", "media": "cdrom", "size": 100_000, "meta": {"colour": "green"}});
    let response = server.curl(&format!("{DRIVES}{drive}/")).json("PUT", &change).run();
    assert_eq!(response.status, 200, "{response:?}");
    let shown = server.drive(&drive);
    for key in ["name", "media", "meta"] {
        assert_eq!(shown[key], change[key]);
    }
}

#[test]
fn a_removed_drive_is_gone_with_its_bytes() {
    let server = Server::start();
    let before = crate::harness::machine::disk_usage(server.data());
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 8 << 20, 54);
    let drives: Vec<String> = (0..3).map(|_| server.upload(&disk)).collect();
    assert_eq!(server.curl(&format!("{DRIVES}{}/", drives[0])).method("DELETE").run().status, 204);
    let rest = json!({"objects": [{"uuid": drives[1]}, {"uuid": drives[2]}]});
    assert_eq!(server.curl(DRIVES).json("DELETE", &rest).run().status, 204);
    assert!(server.drives().is_empty());
    assert_eq!(server.curl(&format!("{DRIVES}{}/", drives[0])).run().status, 404);
    wait_for("the disk to be free again", || {
        (crate::harness::machine::disk_usage(server.data()) < before + (64 << 10)).then_some(())
    });
}

#[test]
fn a_list_is_cut_into_pages_and_fields() {
    let server = Server::start();
    let specs: Vec<Value> = (0..5).map(|n| json!({"name": format!("d{n}"), "size": 65_536, "media": "disk"})).collect();
    let made = server.curl(DRIVES).json("POST", &json!({"objects": specs})).run();
    assert_eq!(made.status, 201, "{made:?}");
    let page = server.curl(&format!("{DRIVES}detail/?limit=2&offset=1&fields=name")).run().json();
    assert_eq!(page["meta"], json!({"limit": 2, "offset": 1, "total_count": 5}));
    assert_eq!(page["objects"], json!([{"name": "d1"}, {"name": "d2"}]));
}

#[test]
fn a_fault_is_a_list_that_names_the_field() {
    let server = Server::start();
    let spec = json!({"name": "x", "size": "many", "media": "disk"});
    let response = server.curl(DRIVES).json("POST", &spec).run();
    assert_eq!(response.status, 400, "{response:?}");
    let fault = &response.json()[0];
    assert_eq!((&fault["error_type"], &fault["error_point"]), (&json!("validation"), &json!("size")), "{fault}");
    assert!(fault["error_message"].as_str().is_some_and(|message| !message.is_empty()));
}

/// The list is longer than the part that the server holds in memory.
#[test]
fn a_long_list_is_told_whole_and_in_order() {
    let server = Server::start();
    for count in [0, 19, 20, 21, 40, 45] {
        for n in server.drives().len()..count {
            let spec = json!({"name": format!("d{n}"), "size": 70_000, "media": "disk"});
            only_object(&server.curl(DRIVES).json("POST", &spec).run(), 201);
        }
        for (query, expected) in
            [("limit=0", 0..count), ("limit=30", 0..30.min(count)), ("limit=0&offset=3", 3.min(count)..count)]
        {
            for version in ["--http1.1", "--http1.0"] {
                let list = server.curl(&format!("{DRIVES}detail/?{query}")).arg(version).run();
                assert_eq!(list.status, 200, "{list:?}");
                let names: Vec<Value> =
                    list.json()["objects"].as_array().unwrap().iter().map(|drive| drive["name"].clone()).collect();
                let expected: Vec<Value> = expected.clone().map(|n| json!(format!("d{n}"))).collect();
                assert_eq!(names, expected, "{query} of {count}");
                assert_eq!(list.json()["meta"]["total_count"], count);
            }
        }
    }
    for n in 0..45 {
        let made = server.curl("/volumes/create").json("POST", &json!({"Name": format!("t{n:02}")})).run();
        assert_eq!(made.status, 201, "{made:?}");
    }
    let list = server.curl("/volumes").run().json();
    let names: Vec<&str> =
        list["Volumes"].as_array().unwrap().iter().map(|volume| volume["Name"].as_str().unwrap()).collect();
    assert!(names.len() == 45 && names.is_sorted(), "{names:?}");
    assert!(list["Warnings"].is_null());
}
