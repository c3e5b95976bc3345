//! Parts that are compressed on the line.

use std::io::Write as _;

use serde_json::json;

use super::{MIB, Transfer, extents};
use crate::harness::{Response, Server, image, stored};

const SIZE: u64 = 4 * MIB;

/// Compresses bytes, with a window of so many bits.
fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(window_log).expect("a window");
    encoder.include_checksum(true).expect("a checksum");
    encoder.write_all(bytes).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// Bytes that compress.
fn sample(seed: u64, len: u64) -> Vec<u8> {
    image::bytes(seed, len as usize / 2).iter().flat_map(|byte| [*byte, 7]).collect()
}

/// Sends compressed bytes as this range.
fn put(server: &Server, transfer: &Transfer, (start, end): (u64, u64), body: &[u8], fields: &[&str]) -> Response {
    let part = server.scratch().join("coded");
    std::fs::write(&part, body).expect("a part is written");
    let range = format!("Content-Range: bytes {start}-{}/*", end - 1);
    let put = transfer.direct(server, "").upload("PUT", &part).header(&range);
    fields.iter().fold(put, |put, field| put.header(field)).run()
}

const ZSTD: &str = "Content-Encoding: zstd";

#[test]
fn compressed_parts_make_the_drive_beside_plain_ones() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    let bytes = sample(71, SIZE);
    std::fs::write(&disk, &bytes).expect("an image is written");
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": SIZE}));
    let part = |start: u64, end: u64| &bytes[start as usize..end as usize];
    let (one, two) = (MIB + 5, 3 * MIB);
    for (range, window) in [((two, SIZE), 23), ((0, one), 19)] {
        let told = put(&server, &transfer, range, &zstd(part(range.0, range.1), window), &[ZSTD]);
        assert_eq!(told.status, 200, "{told:?}");
    }
    // In two frames, with a length that is not known before.
    let middle = [zstd(part(one, one + 99), 20), zstd(part(one + 99, two), 20)].concat();
    let told = put(&server, &transfer, (one, two), &middle, &[ZSTD, "Transfer-Encoding: chunked"]);
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(transfer.put(&server, &disk, (100, 5000), "*").status, 200);
    let done = transfer.finish(&server, &json!({}));
    assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
    stored::assert_clean(&server);
}

#[test]
fn what_a_compressed_part_says_wrongly_is_refused_and_changes_nothing_beside_it() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    let bytes = sample(72, SIZE);
    std::fs::write(&disk, &bytes).expect("an image is written");
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": SIZE}));
    assert_eq!(transfer.put(&server, &disk, (MIB, SIZE), "*").status, 200);
    let first = &bytes[..MIB as usize];
    let good = zstd(first, 20);
    let mut broken = good.clone();
    broken[good.len() / 2] ^= 1;
    let bomb = zstd(&vec![0; 256 << 20], 20);
    let digest = "Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let cases: [(&str, &[u8], &[&str], u16); 10] = [
        ("another coding", &good, &["Content-Encoding: gzip"], 415),
        ("two codings", &good, &["Content-Encoding: zstd, zstd"], 415),
        ("longer than its range", &zstd(&bytes[..2 * MIB as usize], 20), &[ZSTD], 400),
        ("shorter than its range", &zstd(&first[1..], 20), &[ZSTD], 400),
        ("a bomb", &bomb, &[ZSTD], 400),
        ("broken", &broken, &[ZSTD], 400),
        ("cut short", &good[..good.len() - 1], &[ZSTD], 400),
        ("not compressed", first, &[ZSTD], 400),
        ("a window that is too large", &zstd(first, 24), &[ZSTD], 400),
        ("a digest", &good, &[ZSTD, digest], 400),
    ];
    for (name, body, fields, status) in cases {
        let told = put(&server, &transfer, (0, MIB), body, fields);
        assert_eq!(told.status, status, "{name}: {told:?}");
        assert!(status != 415 || told.field("accept-encoding") == "zstd", "{name}: {told:?}");
    }
    let part = server.scratch().join("coded");
    std::fs::write(&part, &good).expect("a part is written");
    let told = transfer.direct(&server, "").upload("PUT", &part).header(ZSTD).run();
    assert_eq!(told.status, 400, "without a range: {told:?}");
    assert_eq!(put(&server, &transfer, (0, MIB), &good, &[ZSTD]).status, 200);
    assert_eq!(extents(&transfer.show(&server)), [(0, SIZE)]);
    let done = transfer.finish(&server, &json!({}));
    assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
    stored::assert_clean(&server);
}
