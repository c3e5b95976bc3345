//! Snapshots, and volumes that are made from others.

use serde_json::json;

use crate::harness::{Cloud, Server, image};

#[test]
fn a_snapshot_keeps_the_bytes_and_outlives_its_volume() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::thin(&disk, 1 << 30, 92);
    let volume = server.upload(&disk);
    let snapshot = cloud.snapshot(&volume);
    let told = cloud.show("snapshots", &snapshot);
    assert_eq!((&told["volume_id"], &told["size"]), (&json!(volume), &json!(1)));
    // The later versions remove a volume with its snapshots alone.
    assert!(cloud.curl("v1", &format!("volumes/{volume}")).method("DELETE").run().status < 300);

    let larger = cloud.create(&json!({"snapshot_id": snapshot, "size": 2}));
    let same = cloud.create(&json!({"snapshot_id": snapshot}));
    assert_eq!(
        (&cloud.show("volumes", &larger)["size"], &cloud.show("volumes", &same)["size"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(cloud.show("volumes", &same)["snapshot_id"], json!(snapshot));
    assert_eq!(cloud.delete(&format!("snapshots/{snapshot}")).status, 202);
    assert_eq!(cloud.get(&format!("snapshots/{snapshot}")).status, 404);
    server.download(&larger, &back);
    image::assert_same_then_zeros(&disk, &back, 2 << 30);
    server.download(&same, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn a_volume_is_made_of_another_and_of_one_source_only() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::thin(&disk, 1 << 30, 93);
    let volume = server.upload(&disk);
    let copy = cloud.create(&json!({"source_volid": volume, "size": 1}));
    assert_eq!(cloud.show("volumes", &copy)["source_volid"], json!(volume));
    server.download(&copy, &back);
    image::assert_same(&disk, &back);
    let larger = cloud.create(&json!({"size": 3}));
    let refused = cloud.post("volumes", &json!({"volume": {"source_volid": larger, "size": 2}}));
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[test]
fn a_snapshot_is_no_volume_and_a_volume_no_snapshot() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let snapshot = cloud.snapshot(&volume);
    assert_eq!(cloud.get(&format!("volumes/{snapshot}")).status, 404);
    assert_eq!(cloud.get(&format!("snapshots/{volume}")).status, 404);
    assert_eq!(cloud.delete(&format!("volumes/{snapshot}")).status, 404);
    assert_eq!(server.curl(&format!("/api/2.0/drives/{snapshot}/")).run().status, 404);
    assert_eq!(server.curl(&format!("/api/2.0/drives/{snapshot}/download/")).run().status, 404);
    assert_eq!(server.drives(), [&*volume]);
    assert_eq!(cloud.get("volumes").json()["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.delete(&format!("volumes/{volume}?cascade=True")).status, 202);
    assert_eq!(cloud.get("snapshots").json()["snapshots"], json!([]));
}

#[test]
fn an_attached_volume_is_copied_by_force_only() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1}));
    let attach = json!({"volumeAttachment": {"volumeId": volume}});
    assert_eq!(cloud.curl("v2", "servers/s1/os-volume_attachments").json("POST", &attach).run().status, 200);
    let wish = |force: bool| json!({"snapshot": {"volume_id": volume, "force": force}});
    assert_eq!(cloud.post("snapshots", &wish(false)).status, 400);
    let made = cloud.post("snapshots", &wish(true));
    assert_eq!(made.status, 202, "{made:?}");
    cloud.wait("snapshots", made.json()["snapshot"]["id"].as_str().unwrap(), "available");
    cloud.wait("volumes", &volume, "in-use");
}
