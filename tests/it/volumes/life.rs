//! Volumes: creating, listing, removing, limits, and downloads as archives.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::hyper::{archive, ask, begin, contents, fetch, fill, finish, local, sample, show, untar};
use crate::harness::rsync::assert_same_trees;
use crate::harness::{Response, Server, Setup, hyper, image, wait_for};
use crate::tree::tarball::Tarball;

fn create(server: &Server, body: &serde_json::Value) -> Response {
    server.curl("/v1.23/volumes/create").json("POST", body).run()
}

#[test]
fn a_volume_is_made_listed_shown_and_removed() {
    let server = Server::start();
    let body =
        json!({"Name": "vol1", "Driver": "hyper", "DriverOpts": {"size": "20", "snapshot": ""}, "Labels": {"a": "b"}});
    let made = create(&server, &body);
    assert_eq!(made.status, 201, "{made:?}");
    let volume = made.json();
    assert_eq!((&volume["Name"], &volume["Driver"]), (&json!("vol1"), &json!("hyper")));
    assert_eq!(volume["Labels"], json!({"a": "b", "size": "20"}));
    assert_eq!(create(&server, &body).status, 409);
    let nameless = create(&server, &json!({"Name": ""})).json();
    assert_eq!(nameless["Labels"]["size"], json!("10"));

    let list = server.curl("/volumes").run().json();
    assert_eq!(list["Volumes"].as_array().unwrap().len(), 2);
    assert_eq!(show(&server, "vol1").json(), volume);
    for path in ["/volumes/vol1/", "/v1.23/volumes/vol1", "/v1.40/volumes/vol1"] {
        assert_eq!(server.curl(path).run().json(), volume, "{path}");
    }
    // A volume that was never filled cannot be downloaded.
    assert_eq!(server.curl("/volumes/vol1/download").run().status, 409);
    assert_eq!(server.curl("/volumes/vol1").method("DELETE").run().status, 204);
    assert_eq!(server.curl("/volumes/vol1").method("DELETE").run().status, 404);
    assert_eq!(show(&server, "vol1").status, 404);
}

#[test]
fn filters_choose_among_volumes_and_unknown_ones_are_refused() {
    let server = Server::start();
    for (name, labels) in [("one", json!({"k": "v"})), ("two", json!({"k": "w"}))] {
        assert_eq!(create(&server, &json!({"Name": name, "Labels": labels})).status, 201);
    }
    let list = |filters: &str| {
        let plain = filters.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
        server.curl(&format!("/v1.23/volumes?filters={plain}")).run()
    };
    for (filters, expected) in [
        (r#"{"name":["n"]}"#, &["one"][..]),
        (r#"{"name":{"o":true}}"#, &["one", "two"]),
        (r#"{"label":["k=w"]}"#, &["two"]),
        (r#"{"label":["k","size=10"]}"#, &["one", "two"]),
        (r#"{"dangling":["true"]}"#, &["one", "two"]),
        (r#"{"dangling":["false"]}"#, &[]),
    ] {
        let listed = list(filters).json();
        let names: Vec<_> =
            listed["Volumes"].as_array().unwrap().iter().map(|one| one["Name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{filters}");
    }
    for wrong in [r#"{"status":["x"]}"#, r#"{"dangling":["perhaps"]}"#, "dangling=true"] {
        assert_eq!(list(wrong).status, 400, "{wrong}");
    }
    assert_eq!(server.curl("/v1.23/volumes?filter=dangling").run().status, 400);
    assert_eq!(server.curl("/v1.23/volumes/one?force=perhaps").method("DELETE").run().status, 400);
}

#[test]
fn what_a_volume_cannot_be_is_refused_in_a_line_of_text() {
    let server = Server::start();
    for (body, word) in [
        (json!({"Name": "../x"}), "name"),
        (json!({"Name": "a/b"}), "name"),
        (json!({"Name": "initialize"}), "cannot have the name"),
        (json!({"Name": 5}), "must be text"),
        (json!({"Name": "x", "Driver": "nfs"}), "driver"),
        (json!({"Name": "x", "DriverOpts": {"size": "0"}}), "GB"),
        (json!({"Name": "x", "DriverOpts": {"size": "1001"}}), "1 to 1000 GB"),
        (json!({"Name": "x", "DriverOpts": {"size": "99999999999999999999"}}), "whole number"),
        (json!({"Name": "x", "DriverOpts": {"size": "-1"}}), "whole number"),
        (json!({"Name": "x", "DriverOpts": {"snapshot": "s"}}), "snapshot"),
        (json!({"Name": "x", "Labels": {"a": 1}}), "label"),
        (json!({"Name": "x", "Sise": "10"}), "not known"),
        (json!({"Name": "x", "DriverOpts": {"type": "ssd"}}), "not known"),
        (json!([]), "object"),
    ] {
        let response = create(&server, &body);
        assert_eq!(response.status, 400, "{body}: {response:?}");
        assert!(response.field("content-type").starts_with("text/plain"));
        assert!(response.text().contains(word) && response.text().ends_with('\n'), "{body}: {response:?}");
    }
    for body in [
        json!({}),
        json!({"Volume": []}),
        json!({"Volume": {}}),
        json!({"Volume": [1]}),
        json!({"Volume": [{"Name": "a", "Source": "relative"}]}),
        json!({"Volume": [{"Name": "a", "Source": "file:///etc/passwd"}]}),
        json!({"Volume": [{"Name": "a"}]}),
        json!({"Volume": [{"Name": "a", "Source": "/x"}, {"Name": "a", "Source": "/y"}]}),
        json!({"Reload": "yes", "Volume": [{"Name": "a", "Source": "/x"}]}),
        local(&(0..65).map(|_| "a").collect::<Vec<_>>()),
    ] {
        let response = ask(&server, &body);
        assert_eq!(response.status, 400, "{body}: {response:?}");
    }
    assert_eq!(finish(&server, "").status, 400);
    assert_eq!(finish(&server, &"0".repeat(64)).status, 400);
    assert_eq!(server.curl("/volumes").run().json()["Volumes"], json!([]));
}

#[test]
fn a_volume_that_is_being_filled_is_removed_by_force_only() {
    let server = Server::start();
    let tar = archive(server.scratch(), "a");
    fill(&server, "old", &tar);
    let session = begin(
        &server,
        &json!({"Reload": true, "Volume": [
            {"Name": "old", "Source": "/x"}, {"Name": "new", "Source": "/x"}
        ]}),
    );
    assert_eq!(session.upload("old", &tar).run().status, 200);
    let remove = |path: &str| server.curl(path).method("DELETE").run().status;
    assert_eq!((remove("/volumes/old"), remove("/volumes/new")), (409, 409));
    assert_eq!(remove("/volumes/new?force=1"), 204);
    // The session has ended; the other volume is unchanged.
    assert_eq!(show(&server, "new").status, 404);
    assert_eq!(contents(&server).len(), 1);
    fetch(&server, "old", &server.scratch().join("back.tar"));
    assert_eq!(remove("/volumes/old"), 204);
    assert_eq!(contents(&server), Vec::<String>::new());
}

#[test]
fn what_goes_in_comes_out_again_however_it_is_compressed() {
    let server = Server::start();
    let source = sample(server.scratch(), "a");
    let tar = archive(server.scratch(), "a");
    fill(&server, "vol", &tar);
    let plain = server.scratch().join("plain.tar");
    let response = fetch(&server, "vol", &plain);
    let etag = response.field("etag").to_owned();
    for encoding in ["gzip", "zstd"] {
        let packed = server.scratch().join(format!("{encoding}.tar"));
        let curl = server.curl("/volumes/vol/download").arg("--location").output(&packed);
        let response = curl.header(&format!("Accept-Encoding: {encoding}")).run();
        assert_eq!(response.field("content-encoding"), encoding);
        assert_ne!(response.field("etag"), etag);
        let name = format!("again-{encoding}");
        let session = begin(&server, &local(&[&name]));
        let response = session.upload(&name, &packed).header(&format!("Content-Encoding: {encoding}")).run();
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(finish(&server, &session.token).status, 200);
        let again = server.scratch().join(format!("{name}.tar"));
        fetch(&server, &name, &again);
        assert_eq!(fs::read(&again).unwrap(), fs::read(&plain).unwrap(), "not the same archive");
    }
    let dir = server.scratch().join("back");
    untar(&plain, &dir);
    assert_same_trees(&source, &dir);

    let not_modified = server.curl("/volumes/vol/download").arg("--location");
    assert_eq!(not_modified.header(&format!("If-None-Match: {etag}")).run().status, 304);
    let head = server.curl("/volumes/vol/download").args(&["--location", "--head"]).run();
    assert_eq!((head.status, head.field("content-type")), (200, "application/x-tar"));
    let part = server.curl("/volumes/vol/download").args(&["--location", "--range", "0-9"]);
    let part = part.output(&server.scratch().join("part")).run();
    assert_eq!((part.status, part.field("accept-ranges")), (200, "none"));
}

#[test]
fn large_files_come_back_byte_for_byte_among_small_ones() {
    let server = Server::start();
    let dir = server.scratch().join("large");
    fs::create_dir_all(&dir).unwrap();
    // Sizes around the least that is written directly, and around its units.
    let sizes = [4_194_303, 4_194_304, 4_194_305, 6_291_456, 9_441_281, 5_000_000, 1, 20_971_520];
    for (n, size) in sizes.into_iter().enumerate() {
        fs::write(dir.join(format!("{n}")), image::bytes(n as u64, size)).unwrap();
    }
    let (tar, packed) = (server.scratch().join("large.tar"), server.scratch().join("large.tar.gz"));
    hyper::tar(&dir, &tar);
    fs::write(&packed, Command::new("gzip").args(["--fast", "--stdout"]).arg(&tar).output().unwrap().stdout).unwrap();
    for (name, path, encoding) in [("plain", &tar, "identity"), ("packed", &packed, "gzip")] {
        let session = begin(&server, &local(&[name]));
        let response = session.upload(name, path).header(&format!("Content-Encoding: {encoding}")).run();
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(finish(&server, &session.token).status, 200);
        let (archive, back) = (server.scratch().join(format!("{name}.back.tar")), server.scratch().join(name));
        fetch(&server, name, &archive);
        untar(&archive, &back);
        assert_same_trees(&dir, &back);
    }
}

#[test]
fn a_volume_holds_no_more_than_its_size() {
    let server = Setup::default().config("trees.default_size = \"2 MiB\"").start();
    let upload = |name: &str, bytes: &[u8], encoding: &str| {
        let path = server.scratch().join("x.tar");
        fs::write(&path, bytes).unwrap();
        let session = begin(&server, &local(&[name]));
        let response = session.upload(name, &path).header(&format!("Content-Encoding: {encoding}")).run();
        let finished = finish(&server, &session.token).status;
        assert_eq!(finished == 200, response.status == 200);
        response
    };
    let archive_of = |bytes: usize| Tarball::new().dir(".").file("f", vec![b'x'; bytes]).end();
    assert_eq!(upload("fits", &archive_of((2 << 20) + 1), "identity").status, 413);
    assert_eq!(upload("fits", &archive_of(2 << 20), "identity").status, 200);
    let files = (0..1000).fold(Tarball::new(), |tar, n| tar.file(format!("f{n}"), "x")).end();
    let response = upload("many", &files, "identity");
    assert_eq!(response.status, 413, "{response:?}");
    assert!(response.text().contains("more data than the volume holds"), "{response:?}");
    // 64 MiB of zeros, compressed to 64 KiB.
    let bomb = server.scratch().join("bomb");
    fs::write(&bomb, archive_of(64 << 20)).unwrap();
    let packed = Command::new("gzip").arg("--stdout").arg(&bomb).output().unwrap().stdout;
    assert_eq!(upload("bomb", &packed, "gzip").status, 413);
    assert_eq!(contents(&server).len(), 1);
}

#[test]
fn a_tenant_has_no_more_volumes_than_its_quota() {
    let server = Server::start();
    let output = server.user_command(&["add", "alice", "--max-bytes", "15GiB"]);
    let alice = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let ask = |names: &[&str]| server.curl_as(&alice, "/volumes/initialize").json("POST", &local(names)).run();
    assert_eq!(ask(&["a", "b"]).status, 403);
    let one = ask(&["a"]);
    assert_eq!(one.status, 200, "{one:?}");
    assert_eq!(ask(&["b"]).status, 403);
    // A removed session removes the volumes it has created, and frees their quota.
    let token = one.json()["Session"].as_str().unwrap().to_owned();
    let path = format!("/volumes/uploadfinish?session={token}");
    assert_eq!(server.curl_as(&alice, &path).method("PUT").run().status, 400);
    assert_eq!(ask(&["b"]).status, 200);
}

#[test]
fn a_tenants_volumes_and_sessions_are_nobody_elses() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let tar = archive(server.scratch(), "a");
    let session = begin(&server, &local(&["vol"]));
    assert_eq!(session.upload("vol", &tar).run().status, 200);
    let as_alice = |path: &str| server.curl_as(&alice, path);
    let finishing = format!("/volumes/uploadfinish?session={}", session.token);
    assert_eq!(as_alice(&finishing).method("PUT").run().status, 400);
    let id = server.curl("/api/v1/sessions").run().json()["sessions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(as_alice("/api/v1/sessions").run().json()["sessions"], json!([]));
    for (method, path) in [("GET", format!("/api/v1/sessions/{id}")), ("DELETE", format!("/api/v1/sessions/{id}"))] {
        assert_eq!(as_alice(&path).method(method).run().status, 404);
    }
    assert_eq!(finish(&server, &session.token).status, 200);
    for (method, path) in [("GET", "/volumes/vol"), ("DELETE", "/volumes/vol"), ("GET", "/volumes/vol/download")] {
        assert_eq!(as_alice(path).method(method).run().status, 404, "{method} {path}");
    }
    assert_eq!(as_alice("/volumes").run().json()["Volumes"], json!([]));
    // The same name is free for her.
    assert_eq!(server.curl_as(&alice, "/volumes/create").json("POST", &json!({"Name": "vol"})).run().status, 201);
    for path in ["/volumes", "/volumes/vol", "/volumes/vol/download", "/api/v1/sessions"] {
        assert_eq!(server.anonymous_curl(path).run().status, 401, "{path}");
    }
    for (method, path, body) in [
        ("POST", "/volumes/initialize", local(&["new"])),
        ("POST", "/volumes/create", json!({"Name": "new"})),
        ("PUT", &finishing, json!({})),
    ] {
        assert_eq!(server.anonymous_curl(path).json(method, &body).run().status, 401, "{path}");
    }
    assert_eq!(show(&server, "new").status, 404);
    assert_eq!(server.curl("/api/v1/sessions").run().json()["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn drives_and_trees_do_not_mix() {
    let server = Server::start();
    fill(&server, "vol", &archive(server.scratch(), "a"));
    let id = show(&server, "vol").json()["Status"]["Id"].as_str().unwrap().to_owned();
    assert_eq!(server.drives(), Vec::<String>::new());
    for (method, path) in [
        ("GET", format!("/api/2.0/drives/{id}/")),
        ("DELETE", format!("/api/2.0/drives/{id}/")),
        ("GET", format!("/api/2.0/drives/{id}/download/")),
        ("POST", format!("/api/2.0/drives/{id}/action/?do=clone")),
    ] {
        assert_eq!(server.curl(&path).method(method).run().status, 404, "{method} {path}");
    }
    let capability = server.curl("/volumes/vol/download").run().field("location").to_owned();
    let other = capability.replace(&id, "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77");
    assert_eq!(server.anonymous_curl(&other).run().status, 403);
    assert_eq!(server.anonymous_curl(&capability).method("POST").run().status, 405);
}

#[test]
fn what_removed_volumes_held_is_gone_from_the_disk() {
    let server = Server::start();
    fill(&server, "vol", &archive(server.scratch(), "a"));
    assert_eq!(server.curl("/volumes/vol").method("DELETE").run().status, 204);
    assert_eq!(contents(&server), Vec::<String>::new());
    let trash = server.data().join("tree-trash");
    wait_for("the trash to be emptied", || fs::read_dir(&trash).unwrap().next().is_none().then_some(()));
}
