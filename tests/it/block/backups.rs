//! Backups, and restores from them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::disk::Disk;
use crate::harness::{Cloud, Server, Setup, image, peer, stored, wait_for};

/// Returns the objects of a server's backups.
pub(super) fn objects(server: &Server) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&server.data().join("backups"), &mut found);
    found.sort();
    found
}

fn back_up(cloud: &Cloud, volume: &str) -> String {
    let response = cloud.post("backups", &json!({"backup": {"volume_id": volume, "name": "b"}}));
    assert_eq!(response.status, 202, "{response:?}");
    let id = response.json()["backup"]["id"].as_str().expect("an id").to_owned();
    cloud.wait("backups", &id, "available");
    id
}

fn restore(cloud: &Cloud, backup: &str, volume: &Value) -> String {
    let response = cloud.post(&format!("backups/{backup}/restore"), &json!({"restore": {"volume_id": volume}}));
    assert_eq!(response.status, 202, "{response:?}");
    response.json()["restore"]["volume_id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_backup_outlives_its_volume_and_comes_back_as_it_was() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::thin(&disk, 1 << 30, 95);
    let volume = server.upload(&disk);
    let backup = back_up(&cloud, &volume);
    let told = cloud.show("backups", &backup);
    assert_eq!(
        (&told["size"], &told["container"], &told["volume_id"]),
        (&json!(1), &json!("volumebackups"), &json!(volume))
    );
    let count = objects(&server).len() as u64;
    assert_eq!(told["object_count"].as_u64(), Some(count - 1), "all but the manifest");
    assert!(objects(&server)[0].starts_with(server.data().join(format!("backups/volumebackups/volume_{volume}"))));
    assert_eq!(cloud.delete(&format!("volumes/{volume}")).status, 202);

    let new = restore(&cloud, &backup, &Value::Null);
    cloud.wait("volumes", &new, "available");
    server.download(&new, &back);
    image::assert_same(&disk, &back);

    let larger = cloud.create(&json!({"size": 2}));
    assert_eq!(restore(&cloud, &backup, &json!(larger)), larger);
    cloud.wait("volumes", &larger, "available");
    server.download(&larger, &back);
    image::assert_same_then_zeros(&disk, &back, 2 << 30);

    cloud.wait("backups", &backup, "available");
    assert_eq!(cloud.delete(&format!("backups/{backup}")).status, 202);
    wait_for("the backup to be gone", || (cloud.get(&format!("backups/{backup}")).status == 404).then_some(()));
    assert_eq!(objects(&server), Vec::<PathBuf>::new());
}

#[test]
fn what_is_known_of_a_volume_comes_back_with_it_and_stays_where_it_is_restored_to() {
    let server = Setup::default().config("block.types = [\"slow\", \"fast\"]").start();
    let cloud = Cloud::of(&server);
    let volume = cloud.create(&json!({"size": 1, "volume_type": "fast", "metadata": {"k": "v"}}));
    let act = |body: Value| assert_eq!(cloud.post(&format!("volumes/{volume}/action"), &body).status, 200);
    act(json!({"os-set_bootable": {"bootable": true}}));
    act(json!({"os-set_image_metadata": {"metadata": {"image_name": "i"}}}));
    let backup = back_up(&cloud, &volume);
    assert_eq!(cloud.delete(&format!("volumes/{volume}")).status, 202);
    let new = restore(&cloud, &backup, &Value::Null);
    cloud.wait("volumes", &new, "available");
    let told = cloud.show("volumes", &new);
    assert_eq!((&told["metadata"], &told["bootable"]), (&json!({"k": "v"}), &json!("true")));
    assert_eq!((&told["volume_image_metadata"]["image_name"], &told["volume_type"]), (&json!("i"), &json!("fast")));
    cloud.wait("backups", &backup, "available");
    let other = cloud.create(&json!({"size": 1, "name": "n", "metadata": {"own": "x"}}));
    restore(&cloud, &backup, &json!(other));
    cloud.wait("volumes", &other, "available");
    let told = cloud.show("volumes", &other);
    assert_eq!((&told["metadata"], &told["name"]), (&json!({"own": "x"}), &json!("n")));
    // A type that is not there is passed over in version 1 alone.
    for (version, status) in [("v1", 200), ("v2", 404), ("v3", 404)] {
        let wish = json!({"volume": {"size": 1, "volume_type": "nonsense"}});
        let made = cloud.curl(version, "volumes").json("POST", &wish).run();
        assert_eq!(made.status, status, "{version}: {made:?}");
    }
}

#[test]
fn backups_are_charged_and_told_in_the_quota_set_and_the_limits() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 98);
    let volume = server.upload(&disk);
    let quota = format!("os-quota-sets/{}", cloud.project);
    let set = |limits: &Value| {
        let body = json!({"quota_set": limits});
        assert_eq!(cloud.curl("v3", &quota).json("PUT", &body).run().status, 200);
    };
    let refused = |what: &str| {
        let response = cloud.post("backups", &json!({"backup": {"volume_id": volume}}));
        assert_eq!(response.status, 413, "{response:?}");
        let told = response.json()["overLimit"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(told.starts_with(what), "{told}");
    };
    set(&json!({"backup_gigabytes": 0}));
    refused("VolumeBackupSizeExceedsAvailableQuota: ");
    set(&json!({"backup_gigabytes": 5, "backups": 1}));
    let backup = back_up(&cloud, &volume);
    refused("BackupLimitExceeded: ");
    assert_eq!(cloud.show("volumes", &volume)["status"], json!("available"), "a refused backup changes nothing");
    let used = || {
        let limits = cloud.get("limits").json()["limits"]["absolute"].clone();
        ["totalBackupsUsed", "totalBackupGigabytesUsed", "maxTotalBackups"].map(|name| limits[name].clone())
    };
    assert_eq!(used(), [json!(1), json!(1), json!(1)]);
    let told = cloud.get(&format!("{quota}?usage=true")).json();
    assert_eq!(told["quota_set"]["backups"], json!({"limit": 1, "in_use": 1, "reserved": 0}));
    assert_eq!(cloud.delete(&format!("backups/{backup}")).status, 202);
    wait_for("the backup to be refunded", || (used()[0] == json!(0)).then_some(()));
    back_up(&cloud, &volume);
}

#[test]
fn a_backup_leaves_the_reserve_alone_and_nothing_behind_when_there_is_no_room() {
    let Some(disk) = Disk::mount(&["mkfs.ext4", "-q", "-m", "0"], 256) else { return };
    let data = disk.path().join("data");
    let server = Setup::default().data(&data).config("io.reserve = \"16 MiB\"\nio.ballast = \"2 MiB\"").start();
    let cloud = Cloud::of(&server);
    let image = server.scratch().join("disk.img");
    image::random(&image, 130 << 20, 99);
    let volume = server.upload(&image);
    let response = cloud.post("backups", &json!({"backup": {"volume_id": volume}}));
    assert_eq!(response.status, 202, "{response:?}");
    let backup = response.json()["backup"]["id"].as_str().expect("an id").to_owned();
    cloud.wait("backups", &backup, "error");
    assert_eq!(objects(&server), Vec::<PathBuf>::new());
    cloud.wait("volumes", &volume, "available");
    assert_eq!(cloud.delete(&format!("backups/{backup}")).status, 202);
    image::random(&image, 20 << 20, 100);
    let small = server.upload(&image);
    back_up(&cloud, &small);
}

#[test]
fn a_damaged_backup_changes_nothing_and_is_told() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (one, two, back) =
        (server.scratch().join("one.img"), server.scratch().join("two.img"), server.scratch().join("back.img"));
    image::thin(&one, 600 << 20, 96);
    image::thin(&two, 1 << 30, 97);
    let (volume, target) = (server.upload(&one), server.upload(&two));
    let backup = back_up(&cloud, &volume);
    let damaged =
        objects(&server).into_iter().find(|path| path.to_string_lossy().ends_with("-00003")).expect("an object");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, &bytes).unwrap();

    restore(&cloud, &backup, &json!(target));
    cloud.wait("volumes", &target, "error_restoring");
    assert_eq!(server.drive(&target)["status"], json!("unavailable"));
    let new = restore_when_available(&cloud, &backup);
    cloud.wait("volumes", &new, "error_restoring");
    assert!(stored::entries(&server, "incoming").is_empty(), "what was restored goes with the failure");
    // A reset makes the old bytes available again; a new drive never had any.
    let reset = json!({"os-reset_status": {"status": "available"}});
    assert_eq!(cloud.post(&format!("volumes/{new}/action"), &reset).status, 400);
    assert_eq!(cloud.delete(&format!("volumes/{new}")).status, 202);
    assert_eq!(cloud.post(&format!("volumes/{target}/action"), &reset).status, 202);
    server.download(&target, &back);
    image::assert_same(&two, &back);
}

#[test]
fn who_reads_a_volume_reads_what_it_held_though_a_backup_is_written_over_it() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let [old, new, back] = ["old.img", "new.img", "back.img"].map(|name| server.scratch().join(name));
    image::random(&old, 24 << 20, 91);
    image::random(&new, 9 << 20, 92);
    let volume = server.upload(&old);
    let source = server.upload(&new);
    let backup = back_up(&cloud, &source);
    let mut reader = peer::narrow(server.authority());
    write!(reader, "GET {} HTTP/1.1\r\nHost: x\r\n\r\n", server.capability(&volume)).unwrap();
    let head = peer::read_head(&mut reader);
    assert_eq!(head.status, 200, "{head:?}");

    restore(&cloud, &backup, &json!(volume));
    cloud.wait("volumes", &volume, "available");
    let mut read = vec![0; 24 << 20];
    reader.read_exact(&mut read).unwrap();
    assert!(read == fs::read(&old).unwrap());
    server.download(&volume, &back);
    image::assert_same_then_zeros(&new, &back, 24 << 20);
    // The replaced content is unlinked from the store.
    wait_for("what was replaced to be gone", || (stored::entries(&server, "drives").len() == 2).then_some(()));
    assert!(!stored::entries(&server, "drives").contains(&volume));
}

fn restore_when_available(cloud: &Cloud, backup: &str) -> String {
    cloud.wait("backups", backup, "available");
    restore(cloud, backup, &Value::Null)
}

#[test]
fn a_backup_that_a_kill_cut_off_is_gone_on_with() {
    let mut server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::thin(&disk, 600 << 20, 98);
    let volume = server.upload(&disk);
    let response = cloud.post("backups", &json!({"backup": {"volume_id": volume}}));
    let backup = response.json()["backup"]["id"].as_str().expect("an id").to_owned();
    wait_for("some objects", || (objects(&server).len() > 2).then_some(()));
    server.kill9();
    server.restart();
    let cloud = Cloud::of(&server);
    cloud.wait("backups", &backup, "available");
    cloud.wait("volumes", &volume, "available");
    let new = restore_when_available(&cloud, &backup);
    server.kill9();
    server.restart();
    let cloud = Cloud::of(&server);
    cloud.wait("volumes", &new, "available");
    server.download(&new, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn another_installation_takes_backups_over() {
    let server = Server::start();
    let cloud = Cloud::of(&server);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    image::thin(&disk, 600 << 20, 99);
    let volume = server.upload(&disk);
    let backup = back_up(&cloud, &volume);
    let storage = server.data().join("backups");
    let other = Setup::default().env("LONGSHORE_BACKUPS__DIRECTORY", storage.to_str().unwrap()).start();
    let imported = other.command("backup", &["import", "admin"]);
    assert!(imported.status.success(), "{imported:?}");
    let cloud = Cloud::of(&other);
    assert_eq!(cloud.show("backups", &backup)["name"], json!("b"));
    let new = restore(&cloud, &backup, &Value::Null);
    cloud.wait("volumes", &new, "available");
    other.download(&new, &back);
    image::assert_same(&disk, &back);
}
