//! Transfers: uploads that survive cut lines, restarts and days.

mod coded;
mod crash;
mod disk;
mod events;
mod have;
mod model;
mod together;

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{Curl, Response, Server, Setup, image, stored, wait_for};

pub(crate) const TRANSFERS: &str = "/api/v1/transfers";
const MIB: u64 = 1 << 20;

/// A transfer, and the URL that its parts go to.
struct Transfer {
    id: String,
    drive: String,
    url: String,
}

impl Transfer {
    #[track_caller]
    fn begin(server: &Server, terms: &Value) -> Self {
        Self::begun(server, &server.curl(TRANSFERS).json("POST", terms).run())
    }

    /// The transfer that this answer is about.
    #[track_caller]
    fn begun(server: &Server, begun: &Response) -> Self {
        assert_eq!(begun.status, 201, "{begun:?}");
        let told = begun.json();
        let text = |name: &str| told[name].as_str().expect("a text").to_owned();
        let url = text("ticket");
        let path = url.strip_prefix(server.endpoint()).expect("on this server").to_owned();
        assert_eq!(begun.field("location"), format!("{TRANSFERS}/{}", text("id")));
        Self { id: text("id"), drive: text("drive"), url: path }
    }

    fn direct(&self, server: &Server, beneath: &str) -> Curl {
        server.anonymous_curl(&format!("{}{beneath}", self.url))
    }

    /// Sends the bytes from `start` up to `end` of a file.
    fn put(&self, server: &Server, file: &Path, range: (u64, u64), total: &str) -> Response {
        self.part(server, file, range, total).run()
    }

    fn part(&self, server: &Server, file: &Path, (start, end): (u64, u64), total: &str) -> Curl {
        let part = server.scratch().join("part");
        std::fs::write(&part, image::part(file, start, (end - start) as usize)).expect("a part is written");
        let range = format!("Content-Range: bytes {start}-{}/{total}", end - 1);
        self.direct(server, "").upload("PUT", &part).header(&range)
    }

    fn show(&self, server: &Server) -> Value {
        server.curl(&format!("{TRANSFERS}/{}", self.id)).run().json()
    }

    fn finish(&self, server: &Server, terms: &Value) -> Response {
        server.curl(&format!("{TRANSFERS}/{}/finish", self.id)).json("POST", terms).run()
    }
}

/// The extents of an answer, each as offset and size.
pub(crate) fn extents(told: &Value) -> Vec<(u64, u64)> {
    let number = |extent: &Value, name: &str| extent[name].as_u64().expect("a number");
    let all = told["extents"].as_array().expect("extents");
    all.iter().map(|extent| (number(extent, "offset"), number(extent, "size"))).collect()
}

#[test]
fn parts_in_any_order_and_of_any_alignment_make_the_drive_also_over_a_crash() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    let size = 20 * MIB + 12_345;
    image::random(&disk, size, 1);
    let terms = json!({"name": "a", "size": size, "reference": "batch 7", "media": "cdrom"});
    let transfer = Transfer::begin(&server, &terms);
    assert_eq!(server.drive(&transfer.drive)["status"], json!("uploading"));
    let total = size.to_string();
    let parts = [(9 * MIB + 1, size), (0, 3 * MIB + 77), (5 * MIB, 9 * MIB + 1)];
    for part in parts {
        let told = transfer.put(&server, &disk, part, &total);
        assert_eq!(told.status, 200, "{told:?}");
    }
    let gap = transfer.finish(&server, &json!({}));
    assert_eq!((gap.status, gap.text().contains("bytes 3145805 to 5242879")), (409, true), "{gap:?}");

    server.kill9();
    server.restart();
    let found = server.curl(&format!("{TRANSFERS}?reference=batch%207")).run().json();
    let found = &found["transfers"][0];
    assert_eq!((&found["id"], &found["media"]), (&json!(transfer.id), &json!("cdrom")), "{found}");
    let told = transfer.show(&server);
    assert_eq!(extents(&told), [(0, 3 * MIB + 77), (5 * MIB, size - 5 * MIB)], "{told}");
    let missing = transfer.direct(&server, "/extents?missing").run().json();
    assert_eq!(missing, json!([{"start": 3 * MIB + 77, "length": 2 * MIB - 77}]));

    assert_eq!(transfer.put(&server, &disk, (3 * MIB + 77, 5 * MIB), "*").status, 200);
    for _ in 0..2 {
        let done = transfer.finish(&server, &json!({"size": size}));
        assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
        server.kill9();
        server.restart();
    }
    let drive = server.drive(&transfer.drive);
    assert_eq!(
        (&drive["status"], &drive["size"], &drive["media"]),
        (&json!("unmounted"), &json!(size), &json!("cdrom"))
    );
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
    let late = transfer.put(&server, &disk, (0, MIB), &total);
    assert_eq!(late.status, 409, "{late:?}");
    stored::assert_clean(&server);
}

#[test]
fn what_came_before_a_line_broke_is_there_at_the_next_question() {
    let server = Server::start();
    let bytes = image::bytes(3, 8 << 20);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": bytes.len()}));
    let mut cut = server.raw();
    cut.send_head(
        &format!("PUT {}", transfer.url),
        &["Content-Type: application/octet-stream", &format!("Content-Length: {}", bytes.len())],
    );
    let sent = 5 * 1_000_003;
    cut.send(&bytes[..sent]);
    // The line is cut when the server has all of it.
    wait_for("the bytes", || (transfer.show(&server)["bytes_per_second"].as_u64() > Some(0)).then_some(()));
    drop(cut);
    let told = wait_for("the end of the part", || {
        let told = transfer.show(&server);
        (told["parts"] == json!(0)).then_some(told)
    });
    let came = told["durable"].as_u64().expect("a count") as usize;
    assert!(came > 0 && came <= sent, "{told}");
    let head = transfer.direct(&server, "").arg("--head").run();
    assert_eq!((head.field("upload-offset"), head.field("upload-complete")), (&*came.to_string(), "?0"));

    let rest = server.scratch().join("rest");
    std::fs::write(&rest, &bytes[came..]).expect("the rest is written");
    let tus = |offset: usize| {
        let curl = transfer.direct(&server, "").method("PATCH").header(&format!("Upload-Offset: {offset}"));
        let curl = curl.header("Tus-Resumable: 1.0.0").header("Content-Type: application/offset+octet-stream");
        curl.arg("--data-binary").arg(format!("@{}", rest.display())).run()
    };
    let wrong = tus(came + 1);
    assert_eq!((wrong.status, wrong.field("upload-offset")), (409, &*came.to_string()), "{wrong:?}");
    let last = tus(came);
    assert_eq!((last.status, last.field("upload-offset")), (204, &*bytes.len().to_string()), "{last:?}");
    assert_eq!(transfer.show(&server)["state"], json!("done"));
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    std::fs::write(&disk, &bytes).expect("the image is written");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn a_later_part_ends_an_earlier_one_with_bytes_in_common_and_no_late_byte_lands() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 8 * MIB, 5);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 8 * MIB}));
    let mut old = server.raw();
    old.send_head(
        &format!("PUT {}", transfer.url),
        &["Content-Type: application/octet-stream", &format!("Content-Length: {}", 8 * MIB)],
    );
    old.send(&vec![0xee; 3 << 20]);
    wait_for("the first part", || (transfer.show(&server)["parts"] == json!(1)).then_some(()));
    assert_eq!(transfer.put(&server, &disk, (0, 8 * MIB), "*").status, 200);
    // Its end may come before the bytes are sent, or after.
    let _ = old.socket().write_all(&vec![0xee; 1 << 20]);
    let done = transfer.finish(&server, &json!({}));
    assert_eq!(done.status, 200, "{done:?}");
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}

/// The parts of a client with several connections, in any order.
#[test]
fn parts_beside_each_other_in_one_piece_do_not_end_each_other() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3 * MIB, 6);
    let bytes = std::fs::read(&disk).expect("the image is read");
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 3 * MIB}));
    assert_eq!(transfer.put(&server, &disk, (MIB, 2 * MIB), "*").status, 200);
    let mut last = server.raw();
    let range = format!("Content-Range: bytes {}-{}/*", 2 * MIB, 3 * MIB - 1);
    let length = format!("Content-Length: {MIB}");
    let fields = ["Content-Type: application/octet-stream", &range, &length, "Expect: 100-continue"];
    last.send_head(&format!("PUT {}", transfer.url), &fields);
    assert_eq!(last.head().status, 100);
    assert_eq!(transfer.put(&server, &disk, (0, MIB), "*").status, 200);
    last.send(&bytes[2 << 20..]);
    let sent = last.response();
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(transfer.finish(&server, &json!({})).status, 200);
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn a_digest_that_is_not_that_of_the_bytes_refuses_the_end_until_they_are_right() {
    let server = Server::start();
    let (disk, wrong) = (server.scratch().join("disk.img"), server.scratch().join("wrong.img"));
    image::random(&disk, 5 * MIB + 1, 7);
    std::fs::copy(&disk, &wrong).expect("a copy");
    image::flip(&wrong, 4 * MIB + 5);
    let digest = hex::encode(sha2::Sha256::digest(std::fs::read(&disk).expect("the image is read")));
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 5 * MIB + 1, "digest": {"sha-256": digest}}));
    assert_eq!(transfer.put(&server, &wrong, (0, 5 * MIB + 1), "*").status, 200);
    for _ in 0..2 {
        let refused = transfer.finish(&server, &json!({}));
        assert_eq!((refused.status, &transfer.show(&server)["state"]), (422, &json!("open")), "{refused:?}");
    }
    assert_eq!(transfer.put(&server, &disk, (4 * MIB, 4 * MIB + 9), "*").status, 200);
    let done = transfer.finish(&server, &json!({})).json();
    assert_eq!(done["result"]["sha-256"], json!(digest), "{done}");
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn the_digest_of_all_bytes_may_follow_the_last_part() {
    let server = Server::start();
    let bytes = image::bytes(13, 300_000);
    let asserted = |bytes: &[u8]| format!("Repr-Digest: sha-256=:{}:", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let put = |transfer: &Transfer, trailer: &str| {
        let mut raw = server.raw();
        let range = format!("Content-Range: bytes 100000-{}/{}", bytes.len() - 1, bytes.len());
        let fields = ["Content-Type: application/octet-stream", "Trailer: Repr-Digest", "Transfer-Encoding: chunked"];
        raw.send_head(&format!("PUT {}", transfer.url), &[&fields[..], &[&range]].concat());
        raw.send(format!("{:x}\r\n", bytes.len() - 100_000).as_bytes());
        raw.send(&bytes[100_000..]);
        raw.send(format!("\r\n0\r\n{trailer}\r\n\r\n").as_bytes());
        raw.head().status
    };
    let disk = server.scratch().join("disk.img");
    std::fs::write(&disk, &bytes).expect("the image is written");
    let begin = || {
        let transfer = Transfer::begin(&server, &json!({"name": "a", "size": bytes.len()}));
        assert_eq!(transfer.put(&server, &disk, (0, 100_000), "*").status, 200);
        transfer
    };
    let right = begin();
    assert_eq!(put(&right, &asserted(&bytes)), 200);
    let done = right.finish(&server, &json!({})).json();
    assert_eq!(done["result"]["sha-256"], json!(hex::encode(sha2::Sha256::digest(&bytes))), "{done}");
    let wrong = begin();
    assert_eq!(put(&wrong, &asserted(b"other bytes")), 200);
    assert_eq!(put(&wrong, &asserted(&bytes)), 409, "another was asserted before");
    assert_eq!(wrong.finish(&server, &json!({})).status, 422);
}

#[test]
fn of_parts_that_assert_different_digests_at_once_one_is_right() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 8 * MIB, 14);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 8 * MIB}));
    let put = |n: u64| {
        let part = server.scratch().join(format!("part-{n}"));
        std::fs::write(&part, image::part(&disk, n * MIB, 1 << 20)).expect("a part is written");
        let range = format!("Content-Range: bytes {}-{}/*", n * MIB, (n + 1) * MIB - 1);
        let digest = format!("Repr-Digest: sha-256=:{}:", STANDARD.encode([n as u8; 32]));
        transfer.direct(&server, "").upload("PUT", &part).header(&range).header(&digest).run().status
    };
    let put = &put;
    let mut told: Vec<u16> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..8).map(|n| scope.spawn(move || put(n))).collect();
        parts.into_iter().map(|part| part.join().expect("curl runs")).collect()
    });
    told.sort_unstable();
    assert_eq!(told, [&[200][..], &[409; 7]].concat());
}

#[test]
fn what_is_cancelled_deleted_or_expired_frees_disk_and_quota_at_once() {
    let server = Setup::default().config("transfers.expire_seconds = 2").start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 4 * MIB, 9);
    let begin = |name: &str| {
        let transfer = Transfer::begin(&server, &json!({"name": name, "size": 8 * MIB}));
        assert_eq!(transfer.put(&server, &disk, (0, 4 * MIB), "*").status, 200);
        transfer
    };
    let left = |transfer: &Transfer, state: &str| {
        let told = transfer.show(&server);
        assert_eq!((&told["state"], &told["extents"]), (&json!(state), &json!([])), "{told}");
        assert_eq!(transfer.put(&server, &disk, (0, 4 * MIB), "*").status, 410);
        stored::assert_clean(&server);
        assert!(server.drives().is_empty());
    };
    let cancelled = begin("cancelled");
    let mut running = server.raw();
    running.send_head(
        &format!("PUT {}", cancelled.url),
        &["Content-Type: application/octet-stream", "Content-Length: 8388608"],
    );
    running.send(&vec![1; 1 << 20]);
    wait_for("a running part", || (cancelled.show(&server)["parts"] == json!(1)).then_some(()));
    // Its peer sends no more, and is not waited for.
    assert_eq!(server.curl(&format!("{TRANSFERS}/{}", cancelled.id)).method("DELETE").run().status, 204);
    assert_eq!(running.head().status, 409);
    left(&cancelled, "cancelled");
    let deleted = begin("deleted");
    assert_eq!(server.curl(&format!("/api/2.0/drives/{}/", deleted.drive)).method("DELETE").run().status, 204);
    left(&deleted, "cancelled");
    let expired = begin("expired");
    wait_for("its end", || (expired.show(&server)["state"] == json!("expired")).then_some(()));
    left(&expired, "expired");
}

#[test]
fn a_transfer_is_for_its_tenant_and_for_who_has_its_ticket() {
    let server = Server::start();
    let transfer = Transfer::begin(&server, &json!({"name": "a"}));
    let stranger = server.add_user("mallory");
    let path = format!("{TRANSFERS}/{}", transfer.id);
    for method in ["GET", "DELETE"] {
        assert_eq!(server.curl_as(&stranger, &path).method(method).run().status, 404);
    }
    assert_eq!(server.curl_as(&stranger, &format!("{path}/finish")).json("POST", &json!({})).run().status, 404);
    let told = server.curl_as(&stranger, TRANSFERS).run().json();
    assert_eq!(told["transfers"], json!([]));
    let other = Transfer::begin(&server, &json!({"name": "b"}));
    let mixed = transfer.url.replace(&transfer.id, &other.id);
    for url in [mixed.as_str(), &format!("/x/{}/{}", "0".repeat(64), transfer.id)] {
        assert_eq!(server.anonymous_curl(url).run().status, 403, "{url}");
    }
}

/// The fields of a part, and whether its bytes have them.
fn checks(bytes: &[u8]) -> [String; 5] {
    let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
    [
        format!("Content-Digest: sha-256=:{}:", base64(&sha2::Sha256::digest(bytes))),
        format!("Content-Digest: blake3=:{}:", base64(blake3::hash(bytes).as_bytes())),
        format!("Upload-Checksum: sha1 {}", base64(&sha1::Sha1::digest(bytes))),
        format!("Upload-Checksum: sha256 {}", base64(&sha2::Sha256::digest(bytes))),
        format!("Upload-Checksum: md5 {}", base64(&md5::Md5::digest(bytes))),
    ]
}

#[test]
fn a_part_that_has_not_its_checksum_is_refused_whole_and_changes_nothing() {
    let mut server = Server::start();
    let (size, part) = (5 * 700_001, 700_001);
    let bytes = image::bytes(11, size);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": size}));
    let file = server.scratch().join("checked");
    let put = |server: &Server, at: usize, sent: &[u8], check: &str| {
        std::fs::write(&file, sent).expect("a part is written");
        let range = format!("Content-Range: bytes {at}-{}/*", at + sent.len() - 1);
        transfer.direct(server, "").upload("PUT", &file).header(&range).header(check).run()
    };
    let durable = |server: &Server| transfer.show(server)["durable"].as_u64().expect("a count") as usize;
    for (n, at) in (0..size).step_by(part).enumerate() {
        let right = &bytes[at..at + part];
        let check = &checks(right)[n];
        let mut wrong = right.to_vec();
        wrong[part / 2] ^= 1;
        let refused = put(&server, at, &wrong, check);
        assert_eq!((refused.status, durable(&server)), (400, at), "{check}: {refused:?}");
        let taken = put(&server, at, right, check);
        assert_eq!((taken.status, durable(&server)), (200, at + part), "{check}: {taken:?}");
        // Its answer was lost, perhaps.
        assert_eq!(put(&server, at, right, check).status, 200);
        assert_eq!(put(&server, at, &wrong, check).status, 400);
        assert_eq!(put(&server, at, &wrong, &checks(&wrong)[n]).status, 409, "other bytes are there");
    }
    let cut = Transfer::begin(&server, &json!({"name": "b", "size": size}));
    let mut raw = server.raw();
    let lines = ["Content-Type: application/octet-stream", "Content-Length: 3500005", &checks(&bytes)[0]];
    raw.send_head(&format!("PUT {}", cut.url), &lines);
    raw.send(&bytes[..2_000_000]);
    wait_for("the part", || (cut.show(&server)["bytes_per_second"].as_u64() > Some(0)).then_some(()));
    drop(raw);
    wait_for("its end", || (cut.show(&server)["parts"] == json!(0)).then_some(()));
    assert_eq!(cut.show(&server)["durable"], json!(0), "nothing of it is known to be right");

    server.kill9();
    server.restart();
    assert_eq!(durable(&server), size);
    assert_eq!(transfer.finish(&server, &json!({})).status, 200);
    let (disk, back) = (server.scratch().join("disk.img"), server.scratch().join("back.img"));
    std::fs::write(&disk, &bytes).expect("the image is written");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn a_checksum_that_tus_knows_is_460_when_it_is_wrong_and_may_follow_the_part() {
    let server = Server::start();
    let bytes = image::bytes(12, 300_000);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": bytes.len()}));
    let patch = |check: &str| {
        let mut raw = server.raw();
        let mut lines =
            vec!["Content-Type: application/offset+octet-stream", "Tus-Resumable: 1.0.0", "Upload-Offset: 0"];
        let (head, trailer) =
            if check.starts_with("Trailer") { ("Trailer: Upload-Checksum", &check[8..]) } else { (check, "") };
        lines.extend([head, "Transfer-Encoding: chunked"]);
        raw.send_head(&format!("PATCH {}", transfer.url), &lines);
        raw.send(format!("{:x}\r\n", bytes.len()).as_bytes());
        raw.send(&bytes);
        raw.send(format!("\r\n0\r\n{trailer}{}\r\n", if trailer.is_empty() { "" } else { "\r\n" }).as_bytes());
        raw.head()
    };
    let sha1 = |bytes: &[u8]| format!("Upload-Checksum: sha1 {}", STANDARD.encode(sha1::Sha1::digest(bytes)));
    assert_eq!(patch(&sha1(b"other bytes")).status, 460);
    assert_eq!(patch(&format!("Trailer {}", sha1(b"other bytes"))).status, 460);
    assert_eq!(patch("Upload-Checksum: sha3 AAAA").status, 400);
    assert_eq!(transfer.show(&server)["durable"], json!(0));
    assert_eq!(patch(&format!("Trailer {}", sha1(&bytes))).status, 204);
    assert_eq!(transfer.show(&server)["state"], json!("done"));
}
