//! The common clients, each through every verb of each resource, by its own exit code and output.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::clients::{client, openstack, output_of, printed, said, text_of};
use crate::harness::{Cloud, Server, image, wait_for};

const NEW: &str = "openstack-clients";
const OLD: &str = "openstack-old-clients";

/// Runs `openstack` with these words; returns its JSON.
fn json_of(server: &Server, words: &str) -> Value {
    let words: Vec<&str> = words.split_whitespace().collect();
    printed(openstack(server, &server.credentials(), &words).expect("it is installed"))
}

/// Runs `openstack` with these words; returns its text.
fn run(server: &Server, words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    said(&openstack(server, &server.credentials(), &words).expect("it is installed"))
}

fn wait(server: &Server, thing: &str, name: &str, status: &str) {
    wait_for(status, || (json_of(server, &format!("{thing} show {name}"))["status"] == status).then_some(()));
}

#[test]
fn the_openstack_command_does_all_it_can() {
    let server = Server::start();
    if openstack(&server, &server.credentials(), &[]).is_none() {
        return;
    }
    let made = json_of(&server, "volume create --size 1 --description first --property a=b v1");
    assert_eq!((&made["size"], &made["name"]), (&json!(1), &json!("v1")));
    wait(&server, "volume", "v1", "available");
    assert_eq!(json_of(&server, "volume list")[0]["Name"], json!("v1"));
    assert_eq!(json_of(&server, "volume list --long --name v1 --status available --limit 5")[0]["Size"], json!(1));
    run(&server, "volume set --name v2 --description second --property c=d --size 2 v1");
    wait(&server, "volume", "v2", "available");
    let shown = json_of(&server, "volume show v2");
    assert_eq!((&shown["size"], &shown["description"]), (&json!(2), &json!("second")));
    assert_eq!(shown["properties"], json!({"a": "b", "c": "d"}));
    run(&server, "volume unset --property a v2");
    run(&server, "volume set --bootable v2");
    run(&server, "volume set --read-only v2");
    run(&server, "volume set --read-write v2");
    assert_eq!(json_of(&server, "volume show v2")["bootable"], json!(true));

    run(&server, "volume snapshot create --volume v2 s1");
    wait(&server, "volume snapshot", "s1", "available");
    assert_eq!(json_of(&server, "volume snapshot list --long")[0]["Name"], json!("s1"));
    run(&server, "volume snapshot set --name s2 --description d --property k=v s1");
    run(&server, "volume snapshot unset --property k s2");
    run(&server, "volume create --snapshot s2 --size 3 from-snapshot");
    wait(&server, "volume", "from-snapshot", "available");
    run(&server, "volume create --source v2 --size 2 from-volume");
    wait(&server, "volume", "from-volume", "available");
    run(&server, "volume snapshot delete s2");

    run(&server, "volume backup create --name b1 v2");
    wait(&server, "volume backup", "b1", "available");
    assert_eq!(json_of(&server, "volume backup list --long")[0]["Name"], json!("b1"));
    run(&server, "volume backup restore --force b1 v2");
    wait(&server, "volume", "v2", "available");
    wait(&server, "volume backup", "b1", "available");
    run(&server, "volume backup delete b1");

    let cloud = Cloud::of(&server);
    let attach = json!({"volumeAttachment": {"volumeId": made["id"]}});
    let attached = cloud.curl("v2", "servers/s1/os-volume_attachments").json("POST", &attach).run();
    assert_eq!(attached.status, 200, "{attached:?}");
    let listed = json_of(&server, "volume list --name v2");
    assert_eq!(listed[0]["Attached to"][0]["server_id"], json!("s1"), "{listed}");
    run(&server, "volume list --name v2 --all-projects");
    let place = format!("servers/s1/os-volume_attachments/{}", made["id"].as_str().unwrap());
    assert_eq!(cloud.curl("v2", &place).method("DELETE").run().status, 202);
    wait(&server, "volume", "v2", "available");

    server.add_user("empty");
    for list in ["volume list", "volume snapshot list", "volume backup list"] {
        assert_eq!(json_of(&server, &format!("{list} --project empty")), json!([]), "{list}");
    }

    assert_eq!(json_of(&server, "volume type list"), json!([]));
    assert_eq!(json_of(&server, "availability zone list --volume")[0]["Zone Name"], json!("nova"));
    run(&server, "volume set --state error v2");
    run(&server, "volume set --state available v2");
    assert!(run(&server, "limits show --absolute").contains("max_total_volumes"));
    assert!(run(&server, "quota show --volume").contains("gigabytes"));
    run(&server, "volume delete v2 from-snapshot from-volume");
    wait_for("all to be gone", || (json_of(&server, "volume list") == json!([])).then_some(()));
    let missing = output_of(&openstack(&server, &server.credentials(), &["volume", "show", "v2"]).unwrap());
    assert!(!missing.status.success());
}

#[test]
fn the_cinder_command_of_today_does_all_it_can() {
    let server = Server::start();
    let cinder = |words: &str| {
        let mut command = client(&server, &server.credentials(), NEW, "cinder")?;
        command.args(words.split_whitespace());
        Some(command)
    };
    if cinder("").is_none() {
        return;
    }
    every_verb(&server, &|words| said(&cinder(words).expect("it is installed")), "--name", "--description");
}

#[test]
fn the_cinder_command_of_old_speaks_versions_1_and_2() {
    for version in ["1", "2"] {
        let server = Server::start();
        let cinder = |words: &str| {
            let mut command = client(&server, &server.credentials(), OLD, "cinder")?;
            command.env("OS_VOLUME_API_VERSION", version).args(words.split_whitespace());
            Some(command)
        };
        if cinder("").is_none() {
            return;
        }
        let run = |words: &str| said(&cinder(words).expect("it is installed"));
        let (name, description) =
            if version == "1" { ("--display-name", "--display-description") } else { ("--name", "--description") };
        every_verb(&server, &run, name, description);
    }
}

/// Runs the verbs that all versions of `cinder` have.
fn every_verb(server: &Server, cinder: &dyn Fn(&str) -> String, name: &str, description: &str) {
    let cloud = Cloud::of(server);
    let id_of = |kind: &str, wanted: &str| {
        let list = cloud.get(&format!("{kind}/detail")).json();
        let all = list[kind].as_array().expect("a list").clone();
        let found = all.iter().find(|one| one["name"] == wanted).expect("it is there");
        found["id"].as_str().expect("an id").to_owned()
    };
    cinder(&format!("create 1 {name} v1 {description} first --metadata a=b"));
    let volume = id_of("volumes", "v1");
    cloud.wait("volumes", &volume, "available");
    assert!(cinder("list").contains("v1"));
    assert!(cinder("show v1").contains(&volume));
    cinder(&format!("rename v1 v2 {description} second"));
    cinder("metadata v2 set c=d");
    cinder("metadata v2 unset a");
    assert!(cinder("metadata-show v2").contains('c'));
    cinder("extend v2 2");
    cloud.wait("volumes", &volume, "available");
    cinder(&format!("snapshot-create v2 {name} s1"));
    let snapshot = id_of("snapshots", "s1");
    cloud.wait("snapshots", &snapshot, "available");
    assert!(cinder("snapshot-list").contains("s1"));
    assert!(cinder("snapshot-show s1").contains(&snapshot));
    cinder(&format!("create 2 --snapshot-id {snapshot} {name} from-snapshot"));
    cloud.wait("volumes", &id_of("volumes", "from-snapshot"), "available");
    cinder("snapshot-rename s1 s2");
    cinder("snapshot-delete s2");
    cinder(&format!("backup-create v2 {name} b1"));
    let backup = id_of("backups", "b1");
    cloud.wait("backups", &backup, "available");
    assert!(cinder("backup-list").contains("b1"));
    // Version 1 numbers backups.
    let listed = cinder("backup-list");
    let line = listed.lines().find(|line| line.contains("b1")).expect("a line");
    let number = line.split('|').nth(1).expect("a column").trim().to_owned();
    cinder(&format!("backup-show {number}"));
    cinder(&format!("backup-restore {number}"));
    wait_for("a restored volume", || {
        let list = cloud.get("volumes/detail").json();
        let all = list["volumes"].as_array().expect("a list").clone();
        let is_it = |one: &&Value| one["name"].as_str().is_some_and(|name| name.starts_with("restore_backup"));
        all.iter().find(is_it).is_some_and(|one| one["status"] == "available").then_some(())
    });
    cloud.wait("backups", &backup, "available");
    cinder(&format!("backup-delete {number}"));
    cinder("reset-state --state error v2");
    cinder("reset-state --state available v2");
    cinder("availability-zone-list");
    cinder("type-list");
    cinder("absolute-limits");
    cinder(&format!("quota-show {}", cloud.project));
    cinder("upload-to-image --help");
    cinder("delete v2");
    wait_for("it to be gone", || (cloud.get(&format!("volumes/{volume}")).status == 404).then_some(()));
}

/// Returns the command that runs a Python script with the libraries of common cloud tools.
fn python(server: &Server, script: &str) -> Option<Command> {
    let mut command = client(server, &server.credentials(), NEW, "python")?;
    let path = server.scratch().join("script.py");
    fs::write(&path, script).expect("a script");
    command.arg(path);
    Some(command)
}

const SDK: &str = r#"
import openstack
cloud = openstack.connect()
volume = cloud.block_storage.create_volume(size=1, name="one", metadata={"a": "b"})
volume = cloud.block_storage.wait_for_status(volume, "available", interval=0.2, wait=30)
assert [v.id for v in cloud.block_storage.volumes(name="one")] == [volume.id]
cloud.block_storage.set_volume_metadata(volume, c="d")
cloud.block_storage.extend_volume(volume, 2)
volume = cloud.block_storage.wait_for_status(cloud.block_storage.get_volume(volume), "available", interval=0.2, wait=30)
assert volume.size == 2
snapshot = cloud.block_storage.create_snapshot(volume_id=volume.id, name="snap")
cloud.block_storage.wait_for_status(snapshot, "available", interval=0.2, wait=30)
assert [s.id for s in cloud.block_storage.snapshots()] == [snapshot.id]
copy = cloud.create_volume(size=3, snapshot_id=snapshot.id, name="copy", wait=True, timeout=30)
cloud.block_storage.delete_snapshot(snapshot)
backup = cloud.block_storage.create_backup(volume_id=volume.id, name="backup")
cloud.block_storage.wait_for_status(backup, "available", interval=0.2, wait=30)
cloud.block_storage.restore_backup(backup, volume_id=copy.id)
cloud.block_storage.wait_for_status(cloud.block_storage.get_volume(copy.id), "available", interval=0.2, wait=30)
cloud.block_storage.wait_for_status(cloud.block_storage.get_backup(backup), "available", interval=0.2, wait=30)
cloud.block_storage.delete_backup(backup)
assert len(list(cloud.block_storage.types())) == 0
print(cloud.block_storage.get_limits())
for one in cloud.block_storage.volumes():
    cloud.delete_volume(one.id, wait=True, timeout=30)
assert list(cloud.block_storage.volumes()) == []
print("done")
"#;

#[test]
fn openstacksdk_does_all_it_can() {
    let server = Server::start();
    let Some(mut script) = python(&server, SDK) else { return };
    assert!(text_of(script.output().expect("Python runs")).ends_with("done\n"));
}

const LIBCLOUD: &str = r#"
import os, time
from libcloud.compute.types import Provider
from libcloud.compute.providers import get_driver
from libcloud.compute.base import Node
url = os.environ["OS_AUTH_URL"].removesuffix("/v3")
driver = get_driver(Provider.OPENSTACK)(
    os.environ["OS_USERNAME"], os.environ["OS_PASSWORD"], ex_force_auth_url=url, ex_force_auth_version="3.x_password",
    ex_tenant_name=os.environ["OS_PROJECT_NAME"], ex_force_service_region="RegionOne", api_version="2.2")
def wait(ident, state):
    for _ in range(150):
        volume = driver.ex_get_volume(ident)
        if volume.state == state:
            return volume
        time.sleep(0.2)
    raise SystemExit("%s: %s" % (ident, volume.state))
volume = driver.create_volume(1, "one")
volume = wait(volume.id, "available")
assert [v.id for v in driver.list_volumes()] == [volume.id]
node = Node("server-1", "server-1", "running", [], [], driver)
assert driver.attach_volume(node, volume, "/dev/vdb")
volume = wait(volume.id, "inuse")
assert driver.detach_volume(volume)
volume = wait(volume.id, "available")
snapshot = driver.create_volume_snapshot(volume, "snap")
for _ in range(150):
    snapshots = driver.list_volume_snapshots(volume)
    if snapshots and snapshots[0].extra["status"] == "available":
        break
    time.sleep(0.2)
copy = driver.create_volume(2, "copy", snapshot=snapshots[0])
wait(copy.id, "available")
assert driver.destroy_volume_snapshot(snapshots[0])
assert driver.destroy_volume(copy) and driver.destroy_volume(volume)
print("done")
"#;

#[test]
fn libcloud_does_all_it_can() {
    let server = Server::start();
    let Some(mut script) = python(&server, LIBCLOUD) else { return };
    assert!(text_of(script.output().expect("Python runs")).ends_with("done\n"));
}

#[test]
fn a_volume_of_the_openstack_command_is_downloaded_with_curl() {
    let server = Server::start();
    if openstack(&server, &server.credentials(), &[]).is_none() {
        return;
    }
    let id = json_of(&server, "volume create --size 1 one")["id"].as_str().expect("an id").to_owned();
    wait(&server, "volume", "one", "available");
    let (want, back) = (server.scratch().join("want.img"), server.scratch().join("back.img"));
    image::zero(&want, 1 << 30);
    server.download(&id, &back);
    image::assert_same(&want, &back);
}
