//! Lists: filtered by every parameter, which is obeyed or refused, and divided into pages.

use serde_json::{Value, json};

use crate::harness::{Cloud, Server};

/// Returns the ids of a list, which must be answered.
#[track_caller]
fn ids(cloud: &Cloud, path: &str) -> Vec<String> {
    let response = cloud.get(path);
    assert_eq!(response.status, 200, "{path}: {response:?}");
    let kind = path.split(['/', '?']).next().expect("a first part");
    let list = response.json()[kind].as_array().cloned().expect("a list");
    list.iter().map(|thing| thing["id"].as_str().expect("an id").to_owned()).collect()
}

fn back_up(cloud: &Cloud, volume: &str) -> String {
    let response = cloud.post("backups", &json!({"backup": {"volume_id": volume}}));
    assert_eq!(response.status, 202, "{response:?}");
    let id = response.json()["backup"]["id"].as_str().expect("an id").to_owned();
    cloud.wait("backups", &id, "available");
    id
}

#[test]
fn an_administrator_who_asks_for_one_project_is_told_of_no_other() {
    let server = Server::start();
    let admin = Cloud::of(&server);
    let ann = Cloud::log_in(&server, &server.add_user("ann"));
    let hold = |cloud: &Cloud| {
        let volume = cloud.create(&json!({"size": 1}));
        let (snapshot, backup) = (cloud.snapshot(&volume), back_up(cloud, &volume));
        [("volumes", volume), ("snapshots", snapshot), ("backups", backup)]
    };
    let (mine, hers) = (hold(&admin), hold(&ann));
    for ((kind, mine), (_, hers)) in mine.into_iter().zip(hers) {
        for list in [kind.to_owned(), format!("{kind}/detail")] {
            let of = |cloud: &Cloud, query: &str| ids(cloud, &format!("{list}?{query}"));
            let nobody = "0".repeat(32);
            assert_eq!(of(&admin, &format!("all_tenants=True&project_id={}", ann.project)), [&*hers], "{list}");
            assert_eq!(of(&admin, &format!("all_tenants=1&project_id={nobody}")), [""; 0], "{list}");
            assert_eq!(of(&admin, "all_tenants=1").len(), 2, "{list}");
            assert_eq!(of(&admin, &format!("project_id={}", ann.project)), [""; 0], "{list}");
            // Users who are no administrators see their own volumes, and none when they ask for another's.
            assert_eq!(of(&ann, "all_tenants=1"), [&*hers], "{list}");
            assert_eq!(of(&ann, &format!("all_tenants=1&project_id={}", admin.project)), [""; 0], "{list}");
            assert_eq!(of(&ann, &format!("id={mine}")), [""; 0], "{list}");
            assert_eq!(of(&ann, &format!("id={hers}&project_id={}", ann.project)), [&*hers], "{list}");
            for unknown in ["x=1", "with_count=True", "name=a&name=b", "all_tenants=perhaps"] {
                assert_eq!(ann.get(&format!("{list}?{unknown}")).status, 400, "{list}?{unknown}");
            }
        }
    }
}

#[test]
fn each_filter_of_volumes_narrows_their_list() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let plain = cloud.create(&json!({"size": 1, "name": "plain"}));
    let other = cloud.create(&json!({"size": 2, "name": "other", "description": "d", "metadata": {"k": "v"}}));
    let bootable = cloud.post(&format!("volumes/{other}/action"), &json!({"os-set_bootable": {"bootable": true}}));
    assert_eq!(bootable.status, 200, "{bootable:?}");
    let image = json!({"os-set_image_metadata": {"metadata": {"os": "x"}}});
    assert_eq!(cloud.post(&format!("volumes/{other}/action"), &image).status, 200);
    let snapshot = cloud.snapshot(&plain);
    let copy = cloud.create(&json!({"size": 3, "source_volid": plain}));
    let restored = cloud.create(&json!({"size": 4, "snapshot_id": snapshot}));
    let user = cloud.show("volumes", &plain)["user_id"].as_str().unwrap().to_owned();
    let of = |query: &str| ids(&cloud, &format!("volumes?sort=created_at:asc&{query}"));
    for query in [
        "size=2",
        "bootable=true",
        "description=d",
        "metadata={'k':'v'}",
        "glance_metadata={'os':'x'}",
        "name=other",
        &format!("id={other}"),
    ] {
        let query = query.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(of(&query), [&*other], "{query}");
    }
    assert_eq!(of(&format!("source_volid={plain}")), [&*copy]);
    assert_eq!(of(&format!("snapshot_id={snapshot}")), [&*restored]);
    let all = [&*plain, &*other, &*copy, &*restored];
    for query in [&*format!("user_id={user}"), "availability_zone=nova", "encrypted=false", "multiattach=0"] {
        assert_eq!(of(query), all, "{query}");
    }
    for query in [
        "host=x",
        "migration_status=x",
        "group_id=x",
        "consistencygroup_id=x",
        "encrypted=1",
        "multiattach=True",
        "user_id=x",
        "volume_type=x",
        "availability_zone=x",
        "size=5",
        "id=x",
    ] {
        assert_eq!(of(query), [""; 0], "{query}");
    }
    for query in ["size=x", "bootable=maybe", "sort_key=host"] {
        assert_eq!(cloud.get(&format!("volumes?{query}")).status, 400, "{query}");
    }
}

/// What comes of a parameter of a list.
#[derive(Debug)]
enum Heeded {
    /// The first of two things is listed, and not the second.
    First,
    /// The second alone.
    Second,
    /// Both are.
    Both,
    /// Both are, the second first.
    Turned,
    /// None is, since nothing here can be so.
    None,
    Refused,
}

/// A parameter, what it is set to, and what comes of that: `*` is the id of the first thing, `+` that of the volume that
/// the others were made from.
type Row = (&'static str, &'static str, Heeded);

const OF_ALL: [Row; 33] = [
    ("name", "a", Heeded::First),
    ("name", "x", Heeded::None),
    ("display_name", "a", Heeded::First),
    ("description", "d", Heeded::First),
    ("display_description", "d", Heeded::First),
    ("description", "x", Heeded::None),
    ("id", "*", Heeded::First),
    ("id", "x", Heeded::None),
    ("status", "available", Heeded::First),
    ("status", "error", Heeded::Second),
    ("status", "x", Heeded::None),
    ("size", "1", Heeded::First),
    ("size", "2", Heeded::Second),
    ("size", "x", Heeded::Refused),
    ("project_id", "x", Heeded::None),
    ("tenant_id", "x", Heeded::None),
    ("user_id", "x", Heeded::None),
    ("availability_zone", "x", Heeded::None),
    ("all_tenants", "1", Heeded::Both),
    ("all_tenants", "x", Heeded::Refused),
    ("limit", "0", Heeded::None),
    ("limit", "1", Heeded::First),
    ("limit", "-1", Heeded::Refused),
    ("offset", "1", Heeded::Second),
    ("offset", "x", Heeded::Refused),
    ("marker", "*", Heeded::Second),
    ("sort", "size:desc", Heeded::Turned),
    ("sort", "host", Heeded::Refused),
    ("with_count", "True", Heeded::Refused),
    ("created_at", "gt:2020-01-01", Heeded::Refused),
    ("updated_at", "gt:2020-01-01", Heeded::Refused),
    ("name~", "a", Heeded::Refused),
    ("deleted", "False", Heeded::Refused),
];

const OF_VOLUMES: [Row; 23] = [
    ("availability_zone", "nova", Heeded::Both),
    ("bootable", "true", Heeded::First),
    ("bootable", "0", Heeded::Second),
    ("bootable", "x", Heeded::Refused),
    ("cluster_name", "x", Heeded::None),
    ("consistencygroup_id", "x", Heeded::None),
    ("encrypted", "False", Heeded::Both),
    ("encrypted", "1", Heeded::None),
    ("glance_metadata", "%7B'os':'x'%7D", Heeded::First),
    ("glance_metadata", "x", Heeded::Refused),
    ("group_id", "x", Heeded::None),
    ("host", "x", Heeded::None),
    ("metadata", "%7B'k':'v'%7D", Heeded::First),
    ("metadata", "x", Heeded::Refused),
    ("migration_status", "migrating", Heeded::Second),
    ("migration_status", "x", Heeded::None),
    ("multiattach", "0", Heeded::Both),
    ("multiattach", "1", Heeded::None),
    ("replication_status", "enabled", Heeded::None),
    ("snapshot_id", "x", Heeded::None),
    ("source_volid", "+", Heeded::Second),
    ("volume_type", "x", Heeded::None),
    ("volume_type_id", "x", Heeded::None),
];

const OF_SNAPSHOTS: [Row; 7] = [
    ("cgsnapshot_id", "x", Heeded::None),
    ("group_snapshot_id", "x", Heeded::None),
    ("metadata", "%7B'k':'v'%7D", Heeded::First),
    ("metadata", "%7B'k':'x'%7D", Heeded::None),
    ("volume_id", "+", Heeded::First),
    ("volume_id", "x", Heeded::None),
    ("volume_size", "2", Heeded::Second),
];

const OF_BACKUPS: [Row; 8] = [
    ("host", "x", Heeded::None),
    ("is_incremental", "True", Heeded::None),
    ("is_incremental", "False", Heeded::Both),
    ("parent_id", "x", Heeded::None),
    ("snapshot_id", "x", Heeded::None),
    ("volume_id", "+", Heeded::First),
    ("volume_id", "x", Heeded::None),
    ("bootable", "true", Heeded::Refused),
];

#[test]
fn each_parameter_that_cinder_has_for_a_list_is_obeyed_or_refused() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let act = |kind: &str, id: &str, body: Value| {
        let response = cloud.post(&format!("{kind}/{id}/action"), &body);
        assert!(response.status < 300, "{response:?}");
    };
    let error = json!({"os-reset_status": {"status": "error"}});
    let made = |kind: &str, fields: Value| {
        let response = cloud.post(kind, &json!({kind.trim_end_matches('s'): fields}));
        assert_eq!(response.status, 202, "{response:?}");
        let id = response.json()[kind.trim_end_matches('s')]["id"].as_str().expect("an id").to_owned();
        cloud.wait(kind, &id, "available");
        id
    };
    let first = made("volumes", json!({"size": 1, "name": "a", "description": "d", "metadata": {"k": "v"}}));
    let second = made("volumes", json!({"size": 2, "name": "b", "source_volid": first}));
    let named = |of: &str| json!({"volume_id": of, "name": "a", "description": "d"});
    let with_pairs = json!({"volume_id": first, "name": "a", "description": "d", "metadata": {"k": "v"}});
    let snapshots = [made("snapshots", with_pairs), made("snapshots", json!({"volume_id": second}))];
    let backups = [made("backups", named(&first)), made("backups", json!({"volume_id": second}))];
    act("volumes", &first, json!({"os-set_bootable": {"bootable": true}}));
    act("volumes", &first, json!({"os-set_image_metadata": {"metadata": {"os": "x"}}}));
    act("volumes", &second, json!({"os-reset_status": {"status": "error", "migration_status": "migrating"}}));
    act("snapshots", &snapshots[1], error.clone());
    act("backups", &backups[1], error);
    for (kind, things, rows) in [
        ("volumes", [first.clone(), second.clone()], &OF_VOLUMES[..]),
        ("snapshots", snapshots, &OF_SNAPSHOTS[..]),
        ("backups", backups, &OF_BACKUPS[..]),
    ] {
        for (name, value, heeded) in OF_ALL.iter().chain(rows) {
            let value = match *value {
                "*" => &things[0],
                "+" => &first,
                value => value,
            };
            for list in [kind.to_owned(), format!("{kind}/detail")] {
                let order = if name.starts_with("sort") { "" } else { "&sort=created_at:asc" };
                let path = format!("{list}?{name}={value}{order}");
                let expected: &[&String] = match heeded {
                    Heeded::First => &[&things[0]],
                    Heeded::Second => &[&things[1]],
                    Heeded::Both => &[&things[0], &things[1]],
                    Heeded::Turned => &[&things[1], &things[0]],
                    Heeded::None => &[],
                    Heeded::Refused => {
                        assert_eq!(cloud.get(&path).status, 400, "{path}");
                        continue;
                    }
                };
                assert_eq!(ids(&cloud, &path).iter().collect::<Vec<_>>(), expected, "{path}");
            }
        }
    }
}

#[test]
fn backups_are_sorted_as_asked_and_followed_by_the_links_that_clients_know() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let made: Vec<String> = (0..3).map(|_| back_up(&cloud, &volume)).collect();
    let newest: Vec<&str> = made.iter().rev().map(String::as_str).collect();
    assert_eq!(ids(&cloud, "backups"), newest);
    assert_eq!(ids(&cloud, "backups?sort=created_at:asc"), made);
    assert_eq!(ids(&cloud, "backups?sort_dir=asc&sort_key=created_at"), made);
    for list in ["backups", "backups/detail"] {
        let page = cloud.get(&format!("{list}?limit=2&sort=created_at:asc")).json();
        let href = page["backups_links"][0]["href"].as_str().expect("a link").to_owned();
        let rest = &href[href.find(list).unwrap()..];
        assert_eq!(ids(&cloud, rest), made[2..], "{list}");
    }
    // Version 1 numbers them, and its clients page by these numbers.
    let numbers = |query: &str| {
        let list = cloud.curl("v1", &format!("backups{query}")).run().json();
        list["backups"].as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(""), [1, 2, 3]);
    assert_eq!(numbers("?limit=1&marker=1"), [2]);
    assert_eq!(numbers("?sort=created_at:desc"), [3, 2, 1]);
}

#[test]
fn servers_that_have_volumes_are_listed_and_no_others() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let ann = Cloud::log_in(&server, &server.add_user("ann"));
    let servers = |cloud: &Cloud, path: &str| {
        let response = cloud.curl("v2", path).run();
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response.json()["servers"].as_array().cloned().expect("a list")
    };
    for path in ["servers", "servers/detail"] {
        assert_eq!(servers(&cloud, path), [Value::Null; 0]);
    }
    let volume = cloud.create(&json!({"size": 1}));
    let body = json!({"volumeAttachment": {"volumeId": volume}});
    let attached = cloud.curl("v2", "servers/s1/os-volume_attachments").json("POST", &body).run();
    assert_eq!(attached.status, 200, "{attached:?}");
    let told = servers(&cloud, "servers/detail");
    assert_eq!((&told[0]["id"], &told[0]["name"], &told[0]["status"]), (&json!("s1"), &json!("s1"), &json!("UNKNOWN")));
    assert_eq!(told[0]["os-extended-volumes:volumes_attached"], json!([{"id": volume}]));
    assert_eq!(servers(&cloud, "servers")[0]["id"], json!("s1"));
    for none in ["status=ACTIVE", "marker=s1", "deleted=True"] {
        assert_eq!(servers(&cloud, &format!("servers/detail?{none}")), [Value::Null; 0], "{none}");
    }
    assert_eq!(servers(&ann, "servers/detail?all_tenants=1"), [Value::Null; 0]);
    assert_eq!(cloud.curl("v2", "servers/detail?flavor=x").run().status, 400);
}
