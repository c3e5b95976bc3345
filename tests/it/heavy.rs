//! Tests that take gigabytes, and are run one at a time.

use crate::harness::scratch::Tmpfs;
use crate::harness::{Server, Setup, image, machine};

const GIB: u64 = 1 << 30;

/// Only a part of the image is data, so that the disk is not tested; every byte goes through the server.
#[test]
fn one_upload_of_4_gib_takes_less_than_64_mib_of_memory() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::zero(&disk, 4 * GIB);
    let head = server.scratch().join("head.img");
    image::random(&head, 256 << 20, 61);
    std::io::copy(
        &mut std::fs::File::open(&head).unwrap(),
        &mut std::fs::File::options().write(true).open(&disk).unwrap(),
    )
    .unwrap();
    let uuid = server.upload(&disk);
    let peak = machine::peak_memory(server.pid());
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    assert_eq!(server.drive(&uuid)["size"], serde_json::json!(4 * GIB));
    // The end of the data is in the middle of the drive.
    let path = server.capability(&uuid);
    let mut client = server.raw();
    client.send_head(&format!("GET {path}"), &["Range: bytes=268434456-268436455"]);
    let response = client.response();
    assert!(response.body == image::part(&disk, 268_434_456, 2000), "the bytes differ");
}

/// The disk is smaller than the upload; drives that fit before and after are kept.
#[test]
fn a_full_disk_is_507_and_leaves_nothing() {
    let Some(small) = Tmpfs::mount(52) else { return };
    let server = Setup::default()
        .data(&small.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 20 << 20, 62);
    let kept = server.upload(&disk);
    let before = machine::disk_usage(server.data());
    let large = server.scratch().join("large.img");
    image::random(&large, 40 << 20, 63);
    let (_, known) = server.curl("/api/2.0/drives/upload/").upload("POST", &large).try_run();
    assert_eq!(known.status, 507, "{known:?}");
    let (_, stream) = server.curl("/api/2.0/drives/upload/").upload_stream("POST", &large).try_run();
    assert_eq!(stream.status, 507, "{stream:?}");
    assert_eq!(stream.json().as_array().map(Vec::len), Some(1), "the dialect's own form: {stream:?}");
    crate::harness::wait_for("the disk to be free again", || {
        (machine::disk_usage(server.data()) < before + (64 << 10)).then_some(())
    });
    let second = server.upload(&disk);
    for uuid in [kept, second] {
        let back = server.scratch().join("back.img");
        server.download(&uuid, &back);
        image::assert_same(&disk, &back);
    }
}
