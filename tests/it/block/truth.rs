//! A volume that is created through one API exists in every other.

use serde_json::json;

use crate::harness::hyper::{archive, fill, show};
use crate::harness::{Cloud, Server, image};

#[test]
fn an_uploaded_drive_is_a_volume_and_a_volume_is_downloadable() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::random(&disk, 3_000_001, 94);
    let drive = server.upload(&disk);
    let volume = cloud.show("volumes", &drive);
    assert_eq!((&volume["status"], &volume["size"]), (&json!("available"), &json!(1)), "sizes are rounded up");
    assert_eq!(cloud.curl("v1", &format!("volumes/{drive}")).run().json()["volume"]["size"], json!(1));

    let id = cloud.create(&json!({"size": 1, "name": "blank"}));
    assert_eq!(server.drive(&id)["name"], json!("blank"));
    assert_eq!(server.drive(&id)["size"], json!(1 << 30));
    let want = server.scratch().join("want.img");
    image::zero(&want, 1 << 30);
    server.download(&id, &back);
    image::assert_same(&want, &back);

    let attach = json!({"volumeAttachment": {"volumeId": id}});
    assert_eq!(cloud.curl("v2", "servers/s1/os-volume_attachments").json("POST", &attach).run().status, 200);
    assert_eq!(server.drive(&id)["status"], json!("mounted"));
    assert_eq!(server.curl("/api/2.0/drives/?status=mounted").run().json()["meta"]["total_count"], json!(1));

    assert_eq!(cloud.delete(&format!("volumes/{drive}")).status, 202);
    assert_eq!(server.drives(), [id]);
}

#[test]
fn a_tree_is_no_volume_of_block_storage() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    fill(&server, "tree", &archive(server.scratch(), "a"));
    assert_eq!(cloud.get("volumes").json()["volumes"], json!([]));
    let id = show(&server, "tree").json()["Status"]["Id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.get(&format!("volumes/{id}")).status, 404);
    assert_eq!(cloud.delete(&format!("volumes/{id}")).status, 404);
}
