//! Volumes of block storage, without snapshots and backups.

use serde_json::{Value, json};

use crate::harness::{Cloud, Server, Setup, image, wait_for};

#[test]
fn a_volume_is_made_listed_renamed_grown_and_removed() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let id = cloud.create(&json!({"size": 1, "name": "one", "description": "the first", "metadata": {"a": "b"}}));
    let volume = cloud.show("volumes", &id);
    assert_eq!((&volume["size"], &volume["name"], &volume["bootable"]), (&json!(1), &json!("one"), &json!("false")));
    assert_eq!((&volume["description"], &volume["metadata"]), (&json!("the first"), &json!({"a": "b"})));
    assert_eq!((&volume["availability_zone"], &volume["attachments"]), (&json!("nova"), &json!([])));
    let list = cloud.get("volumes/detail").json();
    assert_eq!(list["volumes"], json!([volume]));
    assert_eq!(cloud.get("volumes").json()["volumes"][0]["id"], json!(id));

    let renamed = cloud.curl("v3", &format!("volumes/{id}")).json("PUT", &json!({"volume": {"name": "two"}})).run();
    assert_eq!((renamed.status, &renamed.json()["volume"]["name"]), (200, &json!("two")));
    assert_eq!(cloud.show("volumes", &id)["description"], json!("the first"));

    let act = |body: Value| cloud.post(&format!("volumes/{id}/action"), &body).status;
    assert_eq!(act(json!({"os-extend": {"new_size": 1}})), 400);
    assert_eq!(act(json!({"os-extend": {"new_size": 3}})), 202);
    let grown = cloud.show("volumes", &id);
    assert_eq!((&grown["status"], &grown["size"]), (&json!("available"), &json!(3)), "nothing else is to be done");

    assert_eq!(cloud.delete(&format!("volumes/{id}")).status, 202);
    let gone = cloud.get(&format!("volumes/{id}"));
    assert_eq!((gone.status, &gone.json()["itemNotFound"]["code"]), (404, &json!(404)));
    assert_eq!(cloud.delete(&format!("volumes/{id}")).status, 404);
    assert_eq!(cloud.get("volumes/detail").json()["volumes"], json!([]));
}

#[test]
fn a_size_in_gib_is_taken_up_to_the_largest_drive_and_not_beyond() {
    // Its last GiB is incomplete.
    let server = Setup::default().config("limits.max_drive = \"3500MiB\"").start();
    let cloud = Cloud::of(&server);
    let create = |size: Value| cloud.post("volumes", &json!({"volume": {"size": size}})).status;
    for size in [json!(0), json!(4), json!("4"), json!(8_589_934_591_u64), json!(8_589_934_592_u64), json!(u64::MAX)] {
        assert!((400..=413).contains(&create(size.clone())), "{size}");
    }
    assert_eq!(cloud.get("volumes/detail").json()["volumes"], json!([]));
    assert_eq!(create(json!("3")), 202);
    let id = cloud.create(&json!({"size": 1}));
    assert_eq!(server.drive(&id)["size"], json!(1 << 30));
    let extend =
        |size: u64| cloud.post(&format!("volumes/{id}/action"), &json!({"os-extend": {"new_size": size}})).status;
    assert!((400..=413).contains(&extend(4)));
    assert_eq!(extend(3), 202);
    assert_eq!(server.drive(&id)["size"], json!(3_u64 << 30));
}

#[test]
fn what_is_known_of_an_image_is_128_pairs_at_most() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let id = cloud.create(&json!({"size": 1}));
    let act = |body: Value| cloud.post(&format!("volumes/{id}/action"), &body).status;
    let set = |keys: std::ops::Range<u32>| {
        let pairs: serde_json::Map<String, Value> = keys.map(|n| (format!("k{n}"), json!("v"))).collect();
        act(json!({"os-set_image_metadata": {"metadata": pairs}}))
    };
    let count = || cloud.show("volumes", &id)["volume_image_metadata"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!((set(0..64), set(64..128)), (200, 200));
    assert_eq!(count(), 128);
    assert!((400..=413).contains(&set(128..129)));
    assert_eq!(set(100..128), 200, "those that are there can be set anew");
    assert_eq!(count(), 128);
    assert_eq!(act(json!({"os-unset_image_metadata": {"key": "k0"}})), 200);
    assert_eq!(set(128..129), 200);
    assert_eq!(count(), 128);
}

#[test]
fn metadata_is_set_read_and_removed_key_by_key() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let id = cloud.create(&json!({"size": 1, "metadata": {"a": "1", "b": "2"}}));
    let path = |rest: &str| format!("volumes/{id}/metadata{rest}");
    let pairs = || cloud.get(&path("")).json()["metadata"].clone();
    assert_eq!(pairs(), json!({"a": "1", "b": "2"}));
    assert_eq!(cloud.post(&path(""), &json!({"metadata": {"b": "3", "c": "4"}})).status, 200);
    assert_eq!(pairs(), json!({"a": "1", "b": "3", "c": "4"}));
    assert_eq!(cloud.get(&path("/c")).json(), json!({"meta": {"c": "4"}}));
    assert_eq!(cloud.delete(&path("/c")).status, 200);
    assert_eq!(cloud.delete(&path("/c")).status, 404);
    let all = cloud.curl("v3", &path("")).json("PUT", &json!({"metadata": {"z": "9"}})).run();
    assert_eq!((all.status, pairs()), (200, json!({"z": "9"})));
}

#[test]
fn what_cannot_be_made_is_refused_with_the_status_that_clients_know() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let none = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
    for (wish, status) in [
        (json!({}), 400),
        (json!({"size": 0}), 400),
        (json!({"size": -1}), 400),
        (json!({"size": 1.5}), 400),
        (json!({"size": "x"}), 400),
        (json!({"size": 1_u64 << 40}), 400),
        (json!({"size": 1, "name": "x".repeat(256)}), 400),
        (json!({"size": 1, "snapshot_id": none}), 404),
        (json!({"size": 1, "source_volid": none}), 404),
        (json!({"size": 1, "imageRef": "not an id"}), 400),
        (json!({"size": 1, "imageRef": none}), 404),
        (json!({"size": 1, "snapshot_id": none, "source_volid": none}), 400),
        (json!({"size": 1, "volume_type": "nonsense"}), 404),
        (json!({"size": 1, "availability_zone": "nonsense"}), 400),
        (json!({"size": 1, "metadata": [1]}), 400),
    ] {
        let response = cloud.post("volumes", &json!({"volume": wish}));
        assert_eq!(response.status, status, "{wish}: {response:?}");
        let fault = response.json();
        let word = if status == 404 { "itemNotFound" } else { "badRequest" };
        assert_eq!(fault[word]["code"], json!(status), "{wish}: {fault}");
        assert!(response.field("x-openstack-request-id").starts_with("req-"), "{response:?}");
    }
    assert_eq!(cloud.get("volumes").json()["volumes"], json!([]));
}

#[test]
fn a_full_quota_is_told_as_over_the_limit() {
    let server = Server::start();
    let output = server.user_command(&["add", "alice", "--max-bytes", "3GiB", "--max-drives", "2"]);
    let alice = Cloud::log_in(&server, String::from_utf8(output.stdout).unwrap().trim());
    let wish = |size: u32| alice.post("volumes", &json!({"volume": {"size": size}}));
    let refused = wish(4);
    assert_eq!(refused.status, 413, "{refused:?}");
    assert!(refused.json()["overLimit"]["message"].as_str().unwrap().starts_with("VolumeSizeExceedsAvailableQuota"));
    assert_eq!((wish(1).status, wish(1).status), (202, 202));
    let refused = wish(1);
    assert_eq!(refused.status, 413, "{refused:?}");
    let told = "VolumeLimitExceeded: Maximum number of volumes allowed (2) exceeded for quota 'volumes'";
    assert_eq!(refused.json()["overLimit"]["message"], json!(told));
    let quota = alice.get(&format!("os-quota-sets/{}?usage=True", alice.project)).json();
    assert_eq!(quota["quota_set"]["volumes"], json!({"limit": 2, "in_use": 2, "reserved": 0}));
    assert_eq!(quota["quota_set"]["gigabytes"]["in_use"], json!(2));
}

#[test]
fn nobody_sees_or_changes_what_is_another_tenants() {
    let server = Server::start();
    let admin = Cloud::of(&server);
    let alice = Cloud::log_in(&server, &server.add_user("alice"));
    let id = alice.create(&json!({"size": 1, "name": "hers"}));
    let bob = Cloud::log_in(&server, &server.add_user("bob"));
    assert_eq!(bob.get(&format!("volumes/{id}")).status, 404);
    assert_eq!(bob.delete(&format!("volumes/{id}")).status, 404);
    assert_eq!(bob.post(&format!("volumes/{id}/action"), &json!({"os-extend": {"new_size": 2}})).status, 404);
    assert_eq!(bob.get("volumes/detail?all_tenants=1").json()["volumes"], json!([]));
    let crossing = Cloud { project: alice.project.clone(), ..bob.clone() };
    assert_eq!(crossing.get("volumes").status, 404);
    for path in [format!("volumes/{id}/action"), "volumes".to_owned()] {
        assert_eq!(crossing.post(&path, &json!({"os-force_delete": {}})).status, 404);
    }
    // Resetting is for administrators, who may do it for other tenants.
    let reset = json!({"os-reset_status": {"status": "error"}});
    assert_eq!(alice.post(&format!("volumes/{id}/action"), &reset).status, 403);
    let crossing = Cloud { project: alice.project.clone(), ..admin.clone() };
    assert_eq!(crossing.post(&format!("volumes/{id}/action"), &reset).status, 202);
    assert_eq!(alice.show("volumes", &id)["status"], json!("error"));
    assert_eq!(admin.get("volumes/detail?all_tenants=1").json()["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(admin.get("volumes/detail").json()["volumes"], json!([]));
}

#[test]
fn pages_follow_their_links_and_hold_each_volume_once() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let mut ids: Vec<String> = (0..5).map(|n| cloud.create(&json!({"size": 1, "name": format!("v{n}")}))).collect();
    let (mut seen, mut path) = (Vec::new(), Some("volumes?limit=2&sort=name:desc".to_owned()));
    while let Some(next) = path {
        let page = cloud.get(&next).json();
        seen.extend(page["volumes"].as_array().unwrap().iter().map(|v| v["id"].as_str().unwrap().to_owned()));
        let href = page["volumes_links"][0]["href"].as_str().map(str::to_owned);
        path = href.map(|href| href[href.find("volumes?").unwrap()..].to_owned());
    }
    ids.reverse();
    assert_eq!(seen, ids);
    assert_eq!(cloud.get("volumes?limit=-1").status, 400);
    let unknown = cloud.get("volumes?marker=01938c2e-7d10-7a42-9b51-3f0c5d2e8a77");
    let told = "Volume 01938c2e-7d10-7a42-9b51-3f0c5d2e8a77 could not be found.";
    assert_eq!((unknown.status, &unknown.json()["itemNotFound"]["message"]), (404, &json!(told)));
    let none = cloud.get("volumes?limit=0").json();
    assert_eq!(none, json!({"volumes": []}));
    // The last page is full, and no link leads behind it.
    let all = cloud.get("volumes?limit=5").json();
    assert_eq!((all["volumes"].as_array().unwrap().len(), &all["volumes_links"]), (5, &json!(null)));
    assert_eq!(cloud.get("volumes/").status, 404);
    let named = cloud.get("volumes/detail?name=v3&status=available").json();
    assert_eq!(named["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.get("volumes/detail?status=error").json()["volumes"], json!([]));
}

#[test]
fn a_volume_is_made_of_an_image_as_large_as_asked() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::sparse(&disk, 20_000_003, 91);
    let drive = server.upload(&disk);
    let wish = json!({"size": 1, "imageRef": drive});
    assert_eq!(cloud.post("volumes", &json!({"volume": wish})).status, 404, "nobody has said that it is an image");
    let marked = server.command("image", &["add", &drive]);
    assert!(marked.status.success(), "{marked:?}");
    let id = cloud.create(&wish);
    let volume = cloud.show("volumes", &id);
    assert_eq!((&volume["bootable"], &volume["volume_image_metadata"]["image_id"]), (&json!("true"), &json!(drive)));
    server.download(&id, &back);
    image::assert_same_then_zeros(&disk, &back, 1 << 30);

    let alice = Cloud::log_in(&server, &server.add_user("alice"));
    assert_eq!(alice.post("volumes", &json!({"volume": wish})).status, 404);
    assert!(server.command("image", &["add", &drive, "--public"]).status.success());
    alice.create(&wish);
    assert!(server.command("image", &["remove", &drive]).status.success());
    assert_eq!(cloud.post("volumes", &json!({"volume": wish})).status, 404);
}

#[test]
fn a_volume_for_reading_only_says_so_and_its_snapshots_are_counted() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1, "metadata": {"k": "v"}}));
    for (flag, told) in [(true, json!({"k": "v", "readonly": "True"})), (false, json!({"k": "v"}))] {
        let body = json!({"os-update_readonly_flag": {"readonly": flag}});
        assert_eq!(cloud.post(&format!("volumes/{volume}/action"), &body).status, 202);
        assert_eq!(cloud.show("volumes", &volume)["metadata"], told);
    }
    let used = || cloud.get("limits").json()["limits"]["absolute"]["totalSnapshotsUsed"].clone();
    assert_eq!(used(), json!(0));
    let snapshot = cloud.snapshot(&volume);
    assert_eq!(used(), json!(1));
    let quota = cloud.get(&format!("os-quota-sets/{}?usage=True", cloud.project)).json();
    assert_eq!(quota["quota_set"]["snapshots"], json!({"limit": -1, "in_use": 1, "reserved": 0}));
    assert_eq!(cloud.delete(&format!("snapshots/{snapshot}")).status, 202);
    wait_for("the snapshot to be gone", || (used() == json!(0)).then_some(()));
}
