//! Volumes that are attached to servers.

use serde_json::{Value, json};

use crate::harness::{Cloud, Response, Server};

fn attach(cloud: &Cloud, server: &str, volume: &str, device: &Value) -> Response {
    let body = json!({"volumeAttachment": {"volumeId": volume, "device": device}});
    cloud.curl("v2", &format!("servers/{server}/os-volume_attachments")).json("POST", &body).run()
}

#[test]
fn a_volume_is_at_one_server_until_it_is_detached() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let [one, two] = [0, 1].map(|_| cloud.create(&json!({"size": 1})));
    let first = attach(&cloud, "s1", &one, &json!("/dev/vdc"));
    assert_eq!(first.status, 200, "{first:?}");
    let told = json!({"device": "/dev/vdc", "id": one, "serverId": "s1", "volumeId": one});
    assert_eq!(first.json()["volumeAttachment"], told);
    assert_eq!(attach(&cloud, "s2", &one, &Value::Null).status, 400);
    assert_eq!(attach(&cloud, "s1", &two, &json!("/dev/vdc")).status, 400, "the device is taken");
    assert_eq!(attach(&cloud, "s1", &two, &Value::Null).json()["volumeAttachment"]["device"], json!("/dev/vdb"));

    let volume = cloud.show("volumes", &one);
    assert_eq!(volume["status"], json!("in-use"));
    assert_eq!(
        (&volume["attachments"][0]["server_id"], &volume["attachments"][0]["device"]),
        (&json!("s1"), &json!("/dev/vdc"))
    );
    let listed = cloud.curl("v2", "servers/s1/os-volume_attachments").run().json();
    assert_eq!(listed["volumeAttachments"].as_array().unwrap().len(), 2);
    let shown = cloud.curl("v2", &format!("servers/s1/os-volume_attachments/{one}")).run();
    assert_eq!(shown.json()["volumeAttachment"], told);

    assert_eq!(cloud.delete(&format!("volumes/{one}")).status, 400);
    assert_eq!(server.curl(&format!("/api/2.0/drives/{one}/")).method("DELETE").run().status, 409);
    let grow = json!({"os-extend": {"new_size": 2}});
    assert_eq!(cloud.post(&format!("volumes/{one}/action"), &grow).status, 400);

    let detach = |server: &str| {
        cloud.curl("v2", &format!("servers/{server}/os-volume_attachments/{one}")).method("DELETE").run().status
    };
    assert_eq!(detach("s2"), 404);
    assert_eq!(detach("s1"), 202);
    assert_eq!(detach("s1"), 404);
    cloud.wait("volumes", &one, "available");
    assert_eq!(cloud.delete(&format!("volumes/{one}")).status, 202);
}

#[test]
fn a_reservation_goes_through_all_its_states() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let id = cloud.create(&json!({"size": 1}));
    let act = |body: Value, status: &str| {
        let response = cloud.post(&format!("volumes/{id}/action"), &body);
        assert_eq!(response.status, 202, "{body}: {response:?}");
        assert_eq!(cloud.show("volumes", &id)["status"], json!(status), "{body}");
    };
    act(json!({"os-reserve": {}}), "attaching");
    assert_eq!(cloud.post(&format!("volumes/{id}/action"), &json!({"os-reserve": {}})).status, 400);
    act(json!({"os-unreserve": {}}), "available");
    act(json!({"os-reserve": {}}), "attaching");
    act(json!({"os-attach": {"instance_uuid": "s1", "mountpoint": "/dev/vdb", "mode": "rw"}}), "in-use");
    act(json!({"os-begin_detaching": {}}), "detaching");
    act(json!({"os-roll_detaching": {}}), "in-use");
    act(json!({"os-begin_detaching": {}}), "detaching");
    act(json!({"os-detach": {}}), "available");
    assert_eq!(cloud.show("volumes", &id)["attachments"], json!([]));
}

#[test]
fn of_many_who_attach_one_volume_at_once_one_has_it() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    for _ in 0..5 {
        let id = cloud.create(&json!({"size": 1}));
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let attaching: Vec<_> = (0..4)
                .map(|n| {
                    let (cloud, id) = (&cloud, &id);
                    scope.spawn(move || attach(cloud, &format!("s{n}"), id, &Value::Null).status)
                })
                .collect();
            attaching.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(cloud.show("volumes", &id)["attachments"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn an_attachment_survives_a_restart() {
    let mut server = Server::start();
    let cloud = Cloud::of(&server);
    let id = cloud.create(&json!({"size": 1}));
    assert_eq!(attach(&cloud, "s1", &id, &Value::Null).status, 200);
    server.kill9();
    server.restart();
    let cloud = Cloud::of(&server);
    assert_eq!(cloud.show("volumes", &id)["attachments"][0]["server_id"], json!("s1"));
}
