//! Quotas of block storage: what administrators set is told, and holds.

use serde_json::{Value, json};

use crate::harness::{Cloud, Server, Setup, wait_for};

/// Sets limits of a project, and returns what the server tells of them.
#[track_caller]
fn set(admin: &Cloud, project: &str, limits: &Value) -> Value {
    let body = json!({"quota_set": limits});
    let response = admin.curl("v3", &format!("os-quota-sets/{project}")).json("PUT", &body).run();
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["quota_set"].clone()
}

/// Asserts that a request is refused as over a limit, in these words.
#[track_caller]
fn refused(cloud: &Cloud, path: &str, body: &Value, words: &str) {
    let response = cloud.post(path, body);
    assert_eq!(response.status, 413, "{response:?}");
    let told = response.json()["overLimit"]["message"].as_str().expect("a message").to_owned();
    assert!(told.starts_with(words), "{told}");
}

#[test]
fn each_limit_that_is_set_holds_and_is_told_with_its_usage() {
    let server = Server::start();
    let admin = Cloud::of(&server);
    let alice = Cloud::log_in(&server, &server.add_user("alice"));
    let volume = alice.create(&json!({"size": 1}));
    let limits = json!({"volumes": 2, "gigabytes": 50, "snapshots": 1, "backups": 1, "per_volume_gigabytes": 3,
        "backup_gigabytes": 2});
    let told = set(&admin, &alice.project, &limits);
    for (name, limit) in limits.as_object().unwrap() {
        assert_eq!(&told[name], limit, "{name}");
    }

    refused(&alice, "volumes", &json!({"volume": {"size": 4}}), "VolumeSizeExceedsLimit: ");
    let extend = |size: u32| json!({"os-extend": {"new_size": size}});
    refused(&alice, &format!("volumes/{volume}/action"), &extend(4), "VolumeSizeExceedsLimit: ");
    assert_eq!(alice.post(&format!("volumes/{volume}/action"), &extend(3)).status, 202);
    alice.wait("volumes", &volume, "available");
    alice.snapshot(&volume);
    let snapshot = json!({"snapshot": {"volume_id": volume}});
    refused(&alice, "snapshots", &snapshot, "SnapshotLimitExceeded: Maximum number of snapshots allowed (1)");
    let backup = json!({"backup": {"volume_id": volume}});
    refused(&alice, "backups", &backup, "VolumeBackupSizeExceedsAvailableQuota: ");
    // Bytes of backups are limited by themselves, and when they are not, not by those of volumes.
    set(&admin, &alice.project, &json!({"backup_gigabytes": -1, "gigabytes": 6}));
    let made = alice.post("backups", &backup);
    assert_eq!(made.status, 202, "{made:?}");
    alice.wait("backups", made.json()["backup"]["id"].as_str().unwrap(), "available");
    refused(&alice, "backups", &backup, "BackupLimitExceeded: Maximum number of backups allowed (1)");
    set(&admin, &alice.project, &json!({"backups": 2}));
    assert_eq!(alice.post("backups", &backup).status, 202, "six of volumes, and six of backups");

    let usage = alice.get(&format!("os-quota-sets/{}?usage=True", alice.project)).json();
    for (name, limit, used) in [
        ("volumes", 2, 1),
        ("gigabytes", 6, 6),
        ("snapshots", 1, 1),
        ("backups", 2, 2),
        ("backup_gigabytes", -1, 6),
        ("per_volume_gigabytes", 3, 0),
    ] {
        assert_eq!(usage["quota_set"][name], json!({"limit": limit, "in_use": used, "reserved": 0}), "{name}");
    }
    let absolute = alice.get("limits").json()["limits"]["absolute"].clone();
    assert_eq!(
        absolute,
        json!({
            "maxTotalVolumes": 2, "totalVolumesUsed": 1, "maxTotalVolumeGigabytes": 6, "totalGigabytesUsed": 6,
            "maxTotalSnapshots": 1, "totalSnapshotsUsed": 1, "maxTotalBackups": 2, "totalBackupsUsed": 2,
            "maxTotalBackupGigabytes": -1, "totalBackupGigabytesUsed": 6,
        })
    );
    // Who may not set them is told so, and nothing is changed.
    let path = format!("os-quota-sets/{}", alice.project);
    assert_eq!(alice.curl("v3", &path).json("PUT", &json!({"quota_set": {"volumes": 9}})).run().status, 403);
    assert_eq!(alice.delete(&path).status, 403);
    let bob = Cloud::log_in(&server, &server.add_user("bob"));
    assert_eq!(bob.get(&path).status, 403);
    let of_type = json!({"quota_set": {"volumes_standard": 9}});
    assert_eq!(admin.curl("v3", &path).json("PUT", &of_type).run().status, 400);
}

#[test]
fn a_project_without_limits_of_its_own_has_those_of_the_class() {
    let server = Server::start();
    let admin = Cloud::of(&server);
    let alice = Cloud::log_in(&server, &server.add_user("alice"));
    let class = |limits: Value| {
        let body = json!({"quota_class_set": limits});
        admin.curl("v3", "os-quota-class-sets/default").json("PUT", &body).run()
    };
    let told = class(json!({"volumes": 1, "snapshots": 0}));
    assert_eq!((told.status, &told.json()["quota_class_set"]["volumes"]), (200, &json!(1)));
    assert_eq!(admin.get("os-quota-class-sets/default").json()["quota_class_set"]["id"], json!("default"));
    let own = format!("os-quota-sets/{}", alice.project);
    for path in [own.clone(), format!("{own}/defaults")] {
        let told = alice.get(&path).json()["quota_set"].clone();
        assert_eq!((&told["volumes"], &told["snapshots"], &told["gigabytes"]), (&json!(1), &json!(0), &json!(-1)));
    }
    let volume = alice.create(&json!({"size": 1}));
    let another = json!({"volume": {"size": 1}});
    refused(&alice, "volumes", &another, "VolumeLimitExceeded: Maximum number of volumes allowed (1)");
    // A limit of its own counts more, also that there is none.
    assert_eq!(set(&admin, &alice.project, &json!({"volumes": -1}))["volumes"], json!(-1));
    let second = alice.create(&json!({"size": 1}));
    refused(&alice, "snapshots", &json!({"snapshot": {"volume_id": volume}}), "SnapshotLimitExceeded: ");
    assert_eq!(alice.delete(&format!("volumes/{second}")).status, 202);
    wait_for("the volume to be gone", || (alice.get(&format!("volumes/{second}")).status == 404).then_some(()));
    assert_eq!(admin.delete(&own).status, 200);
    refused(&alice, "volumes", &another, "VolumeLimitExceeded: Maximum number of volumes allowed (1)");
    assert_eq!(alice.get("os-quota-class-sets/gold").status, 404);
    let body = json!({"quota_class_set": {"volumes": 9}});
    assert_eq!(alice.curl("v3", "os-quota-class-sets/default").json("PUT", &body).run().status, 403);
}

#[test]
fn limits_of_the_settings_are_the_default_ones_and_stay_so() {
    let server = Setup::default().config("quota.drives = 7").config("quota.snapshots = 2").start();
    let admin = Cloud::of(&server);
    let own = format!("os-quota-sets/{}", admin.project);
    let told = |path: &str| {
        let told = admin.get(path).json()["quota_set"].clone();
        (told["volumes"].clone(), told["snapshots"].clone())
    };
    assert_eq!(told(&own), (json!(7), json!(2)));
    assert_eq!(told(&format!("{own}/defaults")), (json!(7), json!(2)));
    let change = |name: &str| {
        let body = json!({"quota_class_set": {name: 3}});
        admin.curl("v3", "os-quota-class-sets/default").json("PUT", &body).run().status
    };
    assert_eq!((change("volumes"), change("snapshots"), change("backups")), (400, 400, 200));
    set(&admin, &admin.project, &json!({"volumes": 1, "snapshots": -1}));
    assert_eq!(told(&own), (json!(1), json!(-1)));
    assert_eq!(admin.delete(&own).status, 200);
    assert_eq!(told(&own), (json!(7), json!(2)));
}
