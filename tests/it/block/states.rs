//! States that administrators set, and what is removed by force.

use serde_json::{Value, json};

use crate::harness::{Cloud, Server, wait_for};

const VOLUMES: [&str; 22] = [
    "awaiting-transfer",
    "attaching",
    "backing-up",
    "creating",
    "deleting",
    "detaching",
    "downloading",
    "error",
    "error_backing-up",
    "error_deleting",
    "error_extending",
    "error_managing",
    "error_restoring",
    "extending",
    "in-use",
    "maintenance",
    "managing",
    "reserved",
    "restoring-backup",
    "retyping",
    "uploading",
    "available",
];

fn act(cloud: &Cloud, kind: &str, id: &str, body: &Value) -> u16 {
    cloud.post(&format!("{kind}/{id}/action"), body).status
}

fn reset(cloud: &Cloud, kind: &str, id: &str, status: &str) -> u16 {
    act(cloud, kind, id, &json!({"os-reset_status": {"status": status}}))
}

fn ids(cloud: &Cloud, query: &str) -> Vec<Value> {
    let list = cloud.get(query).json();
    let kind = query.split(['?', '/']).next().expect("a first part");
    list[kind].as_array().expect("a list").iter().map(|one| one["id"].clone()).collect()
}

#[test]
fn a_volume_has_each_status_that_is_set_and_is_found_by_it_and_comes_back() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (volume, other) = (cloud.create(&json!({"size": 1})), cloud.create(&json!({"size": 1})));
    for status in VOLUMES {
        assert_eq!(reset(&cloud, "volumes", &volume, status), 202, "{status}");
        assert_eq!(cloud.show("volumes", &volume)["status"], json!(status));
        let mut expected = vec![json!(volume)];
        expected.extend((status == "available").then(|| json!(other)));
        let mut found = ids(&cloud, &format!("volumes?status={status}&sort=created_at:asc"));
        found.sort_by_key(|id| *id != json!(volume));
        assert_eq!(found, expected, "{status}");
    }
    assert_eq!(ids(&cloud, "volumes?status=error"), Vec::<Value>::new());
    // What is only marked is not used, and goes by force alone.
    assert_eq!(reset(&cloud, "volumes", &volume, "maintenance"), 202);
    assert_eq!(server.drive(&volume)["status"], json!("unavailable"));
    for refused in [
        cloud.delete(&format!("volumes/{volume}")).status,
        cloud.post("snapshots", &json!({"snapshot": {"volume_id": volume}})).status,
        cloud.post("backups", &json!({"backup": {"volume_id": volume}})).status,
        act(&cloud, "volumes", &volume, &json!({"os-extend": {"new_size": 2}})),
        act(&cloud, "volumes", &volume, &json!({"os-reserve": null})),
        act(&cloud, "volumes", &volume, &json!({"os-detach": {}})),
        reset(&cloud, "volumes", &volume, "nonsense"),
    ] {
        assert_eq!(refused, 400);
    }
    for status in ["maintenance", "creating", "attaching", "in-use", "error"] {
        let doomed = cloud.create(&json!({"size": 1}));
        assert_eq!(reset(&cloud, "volumes", &doomed, status), 202);
        assert_eq!(act(&cloud, "volumes", &doomed, &json!({"os-force_delete": {}})), 202, "{status}");
        wait_for("it to be gone", || (cloud.get(&format!("volumes/{doomed}")).status == 404).then_some(()));
    }
    let own = Cloud::log_in(&server, &server.add_user("alice"));
    let hers = own.create(&json!({"size": 1}));
    assert_eq!(reset(&own, "volumes", &hers, "maintenance"), 403);
    assert_eq!(act(&own, "volumes", &hers, &json!({"os-force_delete": {}})), 403);
}

#[test]
fn an_attachment_stays_or_goes_as_is_said_and_a_migration_is_a_word() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let set = |fields: Value| act(&cloud, "volumes", &volume, &json!({"os-reset_status": fields}));
    let told = || {
        let told = cloud.show("volumes", &volume);
        (told["status"].clone(), told["attachments"].as_array().unwrap().len())
    };
    assert_eq!(set(json!({"attach_status": "attached"})), 400, "there is no record of it");
    let attach = json!({"os-attach": {"instance_uuid": "s1", "mountpoint": "/dev/vdb"}});
    assert_eq!(act(&cloud, "volumes", &volume, &attach), 202);
    for (fields, status, attachments) in [
        (json!({"attach_status": "attached"}), "in-use", 1),
        (json!({"status": "maintenance"}), "maintenance", 1),
        (json!({"status": "detaching"}), "detaching", 1),
        (json!({"status": "in-use"}), "in-use", 1),
        (json!({"attach_status": "detached"}), "in-use", 0),
        (json!({"status": "available", "attach_status": "detached"}), "available", 0),
    ] {
        assert_eq!(set(fields.clone()), 202, "{fields}");
        assert_eq!(told(), (json!(status), attachments), "{fields}");
    }
    // One that is attached goes by force, with its record.
    assert_eq!(act(&cloud, "volumes", &volume, &attach), 202);
    assert_eq!(set(json!({"migration_status": "migrating"})), 202);
    assert_eq!(cloud.show("volumes", &volume)["os-vol-mig-status-attr:migstat"], json!("migrating"));
    assert_eq!(ids(&cloud, "volumes?migration_status=migrating"), [json!(volume)]);
    assert_eq!(ids(&cloud, "volumes?migration_status=error"), Vec::<Value>::new());
    assert_eq!(set(json!({"migration_status": "none"})), 202);
    assert_eq!(cloud.show("volumes", &volume)["os-vol-mig-status-attr:migstat"], json!(null));
    assert_eq!(act(&cloud, "volumes", &volume, &json!({"os-force_delete": {}})), 202);
    wait_for("it to be gone", || (cloud.get(&format!("volumes/{volume}")).status == 404).then_some(()));
    assert_eq!(cloud.curl("v2", "servers").run().json()["servers"], json!([]));
}

#[test]
fn snapshots_and_backups_are_set_and_removed_by_force() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let snapshot = cloud.snapshot(&volume);
    for status in
        ["creating", "deleting", "updating", "error_deleting", "unmanaging", "backing-up", "restoring", "error"]
    {
        assert_eq!(reset(&cloud, "snapshots", &snapshot, status), 202, "{status}");
        assert_eq!(cloud.show("snapshots", &snapshot)["status"], json!(status));
        assert_eq!(ids(&cloud, &format!("snapshots?status={status}")), [json!(snapshot)], "{status}");
    }
    assert_eq!(reset(&cloud, "snapshots", &snapshot, "updating"), 202);
    assert_eq!(cloud.delete(&format!("snapshots/{snapshot}")).status, 400);
    assert_eq!(act(&cloud, "snapshots", &snapshot, &json!({"os-force_delete": {}})), 202);
    wait_for("it to be gone", || (cloud.get(&format!("snapshots/{snapshot}")).status == 404).then_some(()));

    let made = cloud.post("backups", &json!({"backup": {"volume_id": volume}})).json();
    let backup = made["backup"]["id"].as_str().unwrap().to_owned();
    cloud.wait("backups", &backup, "available");
    assert_eq!(reset(&cloud, "backups", &backup, "error"), 202);
    assert_eq!(cloud.show("backups", &backup)["status"], json!("error"));
    let restore = json!({"restore": {"volume_id": volume}});
    assert_eq!(cloud.post(&format!("backups/{backup}/restore"), &restore).status, 400);
    assert_eq!(reset(&cloud, "backups", &backup, "creating"), 400);
    assert_eq!(reset(&cloud, "backups", &backup, "available"), 202);
    assert_eq!(cloud.show("backups", &backup)["fail_reason"], json!(null));
    assert_eq!(cloud.post(&format!("backups/{backup}/restore"), &restore).status, 202);
    cloud.wait("backups", &backup, "available");
    assert_eq!(act(&cloud, "backups", &backup, &json!({"os-force_delete": {}})), 202);
    wait_for("it to be gone", || (cloud.get(&format!("backups/{backup}")).status == 404).then_some(()));
}

#[test]
fn a_volume_with_snapshots_is_removed_with_them_alone_but_in_version_1() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let snapshot = cloud.snapshot(&volume);
    let refused = cloud.delete(&format!("volumes/{volume}"));
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.json()["badRequest"]["message"].as_str().unwrap().contains("snapshots"), "{refused:?}");
    assert_eq!(cloud.curl("v2", &format!("volumes/{volume}?cascade=false")).method("DELETE").run().status, 400);
    assert_eq!(act(&cloud, "volumes", &volume, &json!({"os-force_delete": {}})), 400);
    assert_eq!(cloud.delete(&format!("volumes/{volume}?cascade=true")).status, 202);
    for path in [format!("volumes/{volume}"), format!("snapshots/{snapshot}")] {
        wait_for("it to be gone", || (cloud.get(&path).status == 404).then_some(()));
    }
    let volume = cloud.create(&json!({"size": 1}));
    let snapshot = cloud.snapshot(&volume);
    assert!(cloud.curl("v1", &format!("volumes/{volume}")).method("DELETE").run().status < 300);
    wait_for("it to be gone", || (cloud.get(&format!("volumes/{volume}")).status == 404).then_some(()));
    assert_eq!(cloud.show("snapshots", &snapshot)["status"], json!("available"));
}
