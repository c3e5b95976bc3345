//! What administrators reach of other projects by the path of their own.

use serde_json::{Value, json};

use crate::harness::{Cloud, Server, wait_for};

/// A volume with a snapshot and a backup of one user, the kinds and ids of the three.
fn things(alice: &Cloud) -> [(&'static str, String); 3] {
    let volume = alice.create(&json!({"size": 1, "name": "hers"}));
    let snapshot = alice.snapshot(&volume);
    let backup = alice.post("backups", &json!({"backup": {"volume_id": volume}}));
    let backup = backup.json()["backup"]["id"].as_str().expect("an id").to_owned();
    alice.wait("backups", &backup, "available");
    [("backups", backup), ("snapshots", snapshot), ("volumes", volume)]
}

#[test]
fn an_administrator_reaches_things_of_another_project_by_their_ids_and_nobody_else_does() {
    let server = Server::start();
    let admin = Cloud::of(&server);
    let alice = Cloud::log_in(&server, &server.add_user("alice"));
    let bob = Cloud::log_in(&server, &server.add_user("bob"));
    let things = things(&alice);
    for (kind, id) in &things {
        let path = format!("{kind}/{id}");
        assert_eq!(admin.show(kind, id), {
            // Links lead to where the thing was asked for.
            let mut hers = alice.show(kind, id);
            relink(&mut hers, &alice.project, &admin.project);
            hers
        });
        assert_eq!((bob.get(&path).status, bob.delete(&path).status), (404, 404), "{path}");
    }
    let [_, (_, snapshot), (_, volume)] = &things;
    let reset = |kind: &str, id: &str, status: &str| {
        let body = json!({"os-reset_status": {"status": status}});
        admin.post(&format!("{kind}/{id}/action"), &body).status
    };
    for (kind, id) in [("volumes", volume), ("snapshots", snapshot)] {
        for status in ["error", "available"] {
            assert_eq!(reset(kind, id, status), 202, "{kind} {status}");
            assert_eq!(alice.show(kind, id)["status"], json!(status));
        }
    }
    let renamed = admin.curl("v3", &format!("volumes/{volume}"));
    assert_eq!(renamed.json("PUT", &json!({"volume": {"name": "renamed"}})).run().status, 200);
    let marked = admin.post(&format!("volumes/{volume}/metadata"), &json!({"metadata": {"k": "v"}}));
    assert_eq!(marked.status, 200, "{marked:?}");
    let told = alice.show("volumes", volume);
    assert_eq!((&told["name"], &told["metadata"]), (&json!("renamed"), &json!({"k": "v"})));
    // The path of a third project is of that alone.
    let elsewhere = Cloud { project: bob.project.clone(), ..admin.clone() };
    assert_eq!(elsewhere.get(&format!("volumes/{volume}")).status, 404);
    // Nothing was moved, and what is removed is hers.
    assert_eq!(admin.get("volumes/detail").json()["volumes"], json!([]));
    for (kind, id) in things.iter().take(2) {
        assert_eq!(admin.delete(&format!("{kind}/{id}")).status, 202, "{kind}");
        wait_for("it to be gone", || (alice.get(&format!("{kind}/{id}")).status == 404).then_some(()));
    }
    let force = json!({"os-force_delete": {}});
    assert_eq!(bob.post(&format!("volumes/{volume}/action"), &force).status, 403);
    assert_eq!(admin.post(&format!("volumes/{volume}/action"), &force).status, 202);
    wait_for("it to be gone", || (alice.get(&format!("volumes/{volume}")).status == 404).then_some(()));
    assert_eq!(alice.get("volumes/detail").json()["volumes"], json!([]));
}

/// Makes the links of a thing those of another project.
fn relink(thing: &mut Value, from: &str, to: &str) {
    for link in thing.get_mut("links").and_then(Value::as_array_mut).into_iter().flatten() {
        let href = link["href"].as_str().expect("a URL").replace(from, to);
        link["href"] = href.into();
    }
}
