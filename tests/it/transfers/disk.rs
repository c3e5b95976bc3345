//! Parts that meet the end of the disk or of the server.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{TRANSFERS, Transfer, extents};
use crate::harness::disk::Disk;
use crate::harness::{RawClient, Server, Setup, image, stored, wait_for};

const SIZE: usize = 40 << 20;

/// Begins a part of all bytes.
fn begin_part(server: &Server, transfer: &Transfer, length: usize) -> RawClient {
    let mut part = server.raw();
    part.send_head(
        &format!("PUT {}", transfer.url),
        &["Content-Type: application/octet-stream", &format!("Content-Length: {length}")],
    );
    part
}

/// The bytes that have come of a transfer which has no gap.
#[track_caller]
fn came(told: &Value) -> usize {
    match &extents(told)[..] {
        [] => 0,
        [(0, size)] => *size as usize,
        _ => panic!("{told}"),
    }
}

#[test]
fn what_came_of_a_part_before_the_server_was_stopped_is_counted() {
    let config =
        "limits.drain_seconds = 0.5\ntransfers.checkpoint_bytes = \"1GiB\"\ntransfers.checkpoint_seconds = 3600";
    let mut server = Setup::default().config(config).start();
    let bytes = image::bytes(181, SIZE);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": bytes.len()}));
    let mut part = begin_part(&server, &transfer, SIZE);
    let sent = 9 * 1_000_003;
    part.send(&bytes[..sent]);
    // Since nothing follows, the block is given back, and its full sectors are on the disk.
    let is_running = "longshore_transfers_running{direction=\"upload\"}";
    wait_for("the part to begin", || (server.metric(is_running) == Some(1.0)).then_some(()));
    wait_for("the bytes to be taken", || {
        let is_idle = server.metric("longshore_pool_blocks_in_use") == Some(0.0);
        let image = fs::read_dir(server.data().join("incoming")).ok()?.flatten().next()?.path().join("image");
        (is_idle && holds(&image, &bytes[..sent - sent % 4096])).then_some(())
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    let told = transfer.show(&server);
    assert_eq!((came(&told), &told["state"]), (sent, &json!("open")), "{told}");
    let disk = server.scratch().join("disk.img");
    fs::write(&disk, &bytes).expect("the image is written");
    assert_eq!(transfer.put(&server, &disk, (sent as u64, SIZE as u64), "*").status, 200);
    // A stop between two parts takes nothing, either.
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    assert_eq!(transfer.finish(&server, &json!({})).status, 200);
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
    stored::assert_clean(&server);
}

/// Whether a file begins with these bytes.
fn holds(file: &std::path::Path, bytes: &[u8]) -> bool {
    fs::read(file).is_ok_and(|there| there.starts_with(bytes))
}

#[test]
fn a_part_that_meets_the_end_of_the_disk_is_507_and_goes_on_from_what_came_when_there_is_room() {
    let Some(disk) = Disk::mount(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], 128) else { return };
    let mut server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let bytes = image::bytes(182, SIZE);
    let begin = |server: &Server| Transfer::begin(server, &json!({"name": "a", "size": SIZE}));
    let (transfer, other) = (begin(&server), begin(&server));
    let first = 10 << 20;
    for transfer in [&transfer, &other] {
        let mut part = begin_part(&server, transfer, first);
        part.send(&bytes[..first]);
        let told = part.response();
        assert_eq!(told.status, 200, "{told:?}");
    }
    let mut part = begin_rest(&server, &transfer, first);
    let sent = 5 << 20;
    part.send(&bytes[first..first + sent]);
    wait_for("some of the part", || (came(&transfer.show(&server)) == first + sent).then_some(()));
    let filler = disk.fill();
    for bytes in bytes[first + sent..].chunks(1 << 20) {
        // The server may close the connection before everything is sent.
        if part.try_send(bytes).is_err() {
            break;
        }
    }
    let refused = part.response();
    assert_eq!(refused.status, 507, "{refused:?}");
    drop(part);
    stored::wait_until_idle(&server);
    let told = transfer.show(&server);
    let there = came(&told);
    assert!(there >= first + sent && told["state"] == json!("open"), "{told}");
    let mut again = begin_rest(&server, &transfer, there);
    let _ = again.try_send(&bytes[there..]);
    assert_eq!(again.response().status, 507);
    let now = came(&transfer.show(&server));
    assert!(now >= there, "{now} bytes of {there} are there");
    let cancelled = server.curl(&format!("{TRANSFERS}/{}", other.id)).method("DELETE").run();
    assert_eq!(cancelled.status, 204, "{cancelled:?}");
    assert_eq!(other.show(&server)["state"], json!("cancelled"));
    assert_eq!(server.drives(), [transfer.drive.as_str()]);

    server.kill9();
    server.restart();
    assert_eq!(came(&transfer.show(&server)), now);
    fs::remove_file(filler).expect("the filler is there");
    let image = server.scratch().join("disk.img");
    fs::write(&image, &bytes).expect("the image is written");
    wait_for("the rest to be taken", || {
        let sent = transfer.put(&server, &image, (now as u64, SIZE as u64), "*");
        assert!([200, 507].contains(&sent.status), "{sent:?}");
        (sent.status == 200).then_some(())
    });
    assert_eq!(transfer.finish(&server, &json!({})).status, 200);
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&image, &back);
    stored::assert_clean(&server);
}

/// Begins a part with the bytes from here on.
fn begin_rest(server: &Server, transfer: &Transfer, from: usize) -> RawClient {
    let mut part = server.raw();
    let range = format!("Content-Range: bytes {from}-{}/{SIZE}", SIZE - 1);
    let length = format!("Content-Length: {}", SIZE - from);
    part.send_head(&format!("PUT {}", transfer.url), &["Content-Type: application/octet-stream", &range, &length]);
    part
}

#[test]
fn a_drive_of_holes_is_larger_than_the_disk_and_its_data_takes_no_space_that_others_have_claimed() {
    let Some(disk) = Disk::mount(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], 128) else { return };
    let server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let (size, data, claimed) = (4_u64 << 30, 1_u64 << 20, 80_u64 << 20);
    let refused = server.curl(TRANSFERS).json("POST", &json!({"name": "thick", "size": size})).run();
    assert_eq!(refused.status, 507, "{refused:?}");
    let thin = Transfer::begin(&server, &json!({"name": "thin", "size": size, "data": data}));
    let other = Transfer::begin(&server, &json!({"name": "other", "size": claimed}));
    let bytes = server.scratch().join("bytes.img");
    image::random(&bytes, claimed, 183);
    let put = |transfer: &Transfer, end: u64| transfer.put(&server, &bytes, (0, end), "*").status;
    assert_eq!(put(&thin, data), 200);
    assert_eq!(put(&thin, 60 << 20), 507, "more than it has told, and than there is");
    assert_eq!(put(&other, claimed), 200);
    assert_eq!(other.finish(&server, &json!({})).status, 200);
    let end = extents(&thin.show(&server))[0].1;
    assert!(end >= data, "what had come stays");
    let zero = json!({"op": "zero", "offset": end, "size": size - end});
    assert_eq!(server.anonymous_curl(&thin.url).json("PATCH", &zero).run().status, 200);
    let done = thin.finish(&server, &json!({}));
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(server.drive(&thin.drive)["size"].as_u64(), Some(size));
    stored::assert_clean(&server);
}
