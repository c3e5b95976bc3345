//! Stored bytes are those that were sent, and bytes that have changed since are not served.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use base64::Engine as _;
use longshore::domain::UnixTime;
use longshore::meta::{Batch, JobKind, Lane, Meta, NewJob};
use serde_json::json;
use sha2::Digest as _;

use crate::harness::image::flip;
use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::stored::{self, image_of, pieces_of};
use crate::harness::{Response, Server, Setup, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
const WANT: &str = "Want-Repr-Digest: sha-256=1";

/// A word of the reported reason, and the damage to the file.
type Damage = (&'static str, fn(&Path));

/// The `Repr-Digest` of a file's bytes.
fn repr_digest(path: &Path) -> String {
    let digest = sha2::Sha256::digest(fs::read(path).expect("the file can be read"));
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// The `Repr-Digest` of a file's bytes by BLAKE3.
fn blake3_digest(path: &Path) -> String {
    let digest = blake3::hash(&fs::read(path).expect("the file can be read"));
    format!("blake3=:{}:", base64::engine::general_purpose::STANDARD.encode(digest.as_bytes()))
}

/// Returns the answer to a HEAD for a drive's bytes.
#[track_caller]
fn head(server: &Server, uuid: &str, fields: &[&str]) -> Response {
    let mut curl = server.curl(&format!("{DRIVES}{uuid}/download/")).args(&["--location", "--head"]);
    for field in fields {
        curl = curl.header(field);
    }
    curl.run()
}

/// Asks for the digest of a drive until downloads carry it.
#[track_caller]
fn sealed_digest(server: &Server, uuid: &str) -> String {
    wait_for("the drive to be sealed", || {
        let response = head(server, uuid, &[WANT]);
        assert_eq!(response.status, 200, "{response:?}");
        response.values("repr-digest").first().map(|digest| (*digest).to_owned())
    })
}

/// Waits until the drive is unavailable for a reason with these words, and fails if any byte of it is served then.
#[track_caller]
fn assert_found_damaged(server: &Server, uuid: &str, ticket: &str, why: &str) {
    wait_for("the damage to be found", || (server.drive(uuid)["status"] == "unavailable").then_some(()));
    let reason = server.drive(uuid)["status_reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains(why), "{reason}");
    let redirect = server.curl(&format!("{DRIVES}{uuid}/download/")).run();
    assert_eq!(redirect.status, 409, "{redirect:?}");
    assert_eq!(redirect.json()[0]["error_type"], json!("backend"));
    assert!(redirect.text().contains(why), "{redirect:?}");
    // A ticket from before is refused, too.
    for method in ["GET", "HEAD"] {
        let response = server.anonymous_curl(ticket).args(if method == "HEAD" { &["--head"] } else { &[] }).run();
        assert_eq!(response.status, 409, "{response:?}");
        assert!(response.body.len() < 1000, "a line of text");
    }
    let clone = server.curl(&format!("{DRIVES}{uuid}/action/?do=clone")).json("POST", &json!({})).run();
    assert_eq!(clone.status, 409, "{clone:?}");
    // The drive can be removed like any other.
    assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run().status, 204);
    stored::wait_until_nothing_is_left(server);
}

/// Stores a drive of random bytes; returns its UUID, and a ticket to download it.
fn stored_drive(server: &Server, size: u64) -> (String, String) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, size, size);
    let uuid = server.upload(&disk);
    let ticket = server.capability(&uuid);
    (uuid, ticket)
}

#[test]
fn a_digest_that_is_wrong_or_cannot_be_read_makes_no_drive() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3_000_001, 90);
    let right = repr_digest(&disk);
    let wrong = repr_digest(Path::new("/dev/null"));
    for name in ["Repr-Digest", "Content-Digest"] {
        for value in [wrong.as_str(), "sha-256=:AAAA:", "sha-256=nonsense", "sha-256=:not base64:", "=", "sha-256"] {
            for chunked in [false, true] {
                let curl = server.curl(UPLOAD).header(&format!("{name}: {value}"));
                let curl = if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) };
                let (_, response) = curl.try_run();
                assert_eq!(response.status, 400, "{name}: {value}: {response:?}");
                assert_eq!(response.json()[0]["error_type"], json!("validation"));
            }
        }
    }
    let both = server.curl(UPLOAD).upload("POST", &disk).header(&format!("Repr-Digest: {right}"));
    let (_, response) = both.header(&format!("Content-Digest: {wrong}")).try_run();
    assert_eq!(response.status, 400, "{response:?}");
    stored::wait_until_nothing_is_left(&server);
    for name in ["Repr-Digest", "Content-Digest"] {
        // Other algorithms are ignored, as RFC 9530 says.
        let field = format!("{name}: md5=:AAAA:, {right}");
        let uuid = uuid_of(&server.curl(UPLOAD).upload("POST", &disk).header(&field).run());
        assert_eq!(head(&server, &uuid, &[]).field("repr-digest"), right, "it is known from the upload");
    }
}

#[test]
fn a_digest_that_is_wanted_is_in_the_answer_to_the_upload() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 21_000_001, 91);
    for chunked in [false, true] {
        let curl = server.curl(UPLOAD).header(WANT);
        let curl = if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) };
        let response = curl.run();
        uuid_of(&response);
        assert_eq!(response.field("repr-digest"), repr_digest(&disk));
    }
    let unasked = server.curl(UPLOAD).upload("POST", &disk).run();
    assert!(unasked.values("repr-digest").is_empty(), "{unasked:?}");
}

#[test]
fn digests_by_two_algorithms_are_both_checked_and_each_is_told_to_who_wants_it() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 9_000_001, 95);
    let (sha256, blake3) = (repr_digest(&disk), blake3_digest(&disk));
    let empty = Path::new("/dev/null");
    let (other_sha256, other_blake3) = (repr_digest(empty), blake3_digest(empty));
    for chunked in [false, true] {
        let upload = |fields: &[String]| {
            let curl = fields.iter().fold(server.curl(UPLOAD), |curl, field| curl.header(field));
            let curl = if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) };
            curl.try_run().1
        };
        for name in ["Repr-Digest", "Content-Digest"] {
            let wrong = [
                (other_blake3.clone(), "BLAKE3"),
                (format!("{sha256}, {other_blake3}"), "BLAKE3"),
                (format!("{other_sha256}, {blake3}"), "SHA-256"),
            ];
            for (value, told) in wrong {
                let response = upload(&[format!("{name}: {value}")]);
                assert_eq!(response.status, 400, "{value}: {response:?}");
                assert!(response.text().contains(told), "{response:?}");
            }
            let response = upload(&[format!("{name}: {sha256}, {blake3}")]);
            uuid_of(&response);
            assert_eq!(response.field("repr-digest"), format!("{sha256}, {blake3}"));
        }
        for (weights, told) in [("blake3=1", &blake3), ("blake3=0, sha-256=2, sha-512=9", &sha256)] {
            let response = upload(&[format!("Want-Repr-Digest: {weights}")]);
            uuid_of(&response);
            assert_eq!(response.field("repr-digest"), told);
        }
    }
}

#[test]
fn a_download_that_wants_the_digest_has_the_drive_read_back() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 21_000_001, 92);
    let uuid = server.upload(&disk);
    assert!(head(&server, &uuid, &[]).values("repr-digest").is_empty());
    assert_eq!(sealed_digest(&server, &uuid), repr_digest(&disk));
    let back = server.scratch().join("back.img");
    assert_eq!(server.download(&uuid, &back).field("repr-digest"), repr_digest(&back));
    image::assert_same(&disk, &back);
    // The digest of a partial answer is that of the whole drive.
    let part = server.anonymous_curl(&server.capability(&uuid)).args(&["--range", "5-10"]).run();
    assert_eq!((part.status, part.field("repr-digest")), (206, repr_digest(&disk).as_str()));
}

#[test]
fn a_digest_that_follows_the_body_is_checked() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 700_001, 97);
    let bytes = fs::read(&disk).unwrap();
    let (sha256, blake3) = (repr_digest(&disk), blake3_digest(&disk));
    let (other, other_blake3) = (repr_digest(Path::new("/dev/null")), blake3_digest(Path::new("/dev/null")));
    let authorization = basic(&server.credentials());
    let kind = "Content-Type: application/octet-stream";
    let upload = |fields: &[&str], trailers: &[String]| {
        let mut client = server.raw();
        let fixed = [authorization.as_str(), kind, "Transfer-Encoding: chunked"];
        client.send_head("POST /api/2.0/drives/upload/", &[&fixed, fields].concat());
        for chunk in bytes.chunks(300_000) {
            client.send(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        client.send(b"0\r\n");
        for line in trailers {
            client.send(format!("{line}\r\n").as_bytes());
        }
        client.send(b"\r\n");
        client.response()
    };
    let mut kept = Vec::new();
    for name in ["Repr-Digest", "Content-Digest"] {
        let (announced, in_head) = (format!("Trailer: Server-Timing, {name}"), format!("Repr-Digest: {sha256}"));
        for (fields, trailer, told) in [
            (vec![announced.as_str()], other.clone(), "SHA-256"),
            (vec![announced.as_str()], other_blake3.clone(), "BLAKE3"),
            (vec![announced.as_str()], format!("{sha256}, {other_blake3}"), "BLAKE3"),
            (vec![announced.as_str()], "blake3=:AAAA:".to_owned(), "32 bytes"),
            (vec![announced.as_str(), in_head.as_str()], other.clone(), "SHA-256"),
            (vec![in_head.as_str()], other.clone(), "SHA-256"),
            (vec![in_head.as_str()], blake3.clone(), "Trailer"),
            (vec![], sha256.clone(), "Trailer"),
        ] {
            let response = upload(&fields, &[format!("{name}: {trailer}")]);
            assert_eq!(response.status, 400, "{fields:?} {trailer}: {response:?}");
            assert!(response.text().contains(told), "{response:?}");
        }
        for (fields, trailers) in [
            (vec![announced.as_str()], vec![format!("{name}: {sha256}, {blake3}")]),
            (vec![announced.as_str()], vec![format!("{name}: {sha256}"), format!("{name}: {blake3}")]),
            (vec![announced.as_str()], vec![]),
            (vec![in_head.as_str()], vec![format!("{name}: {sha256}")]),
            // Other algorithms and fields are ignored.
            (vec![], vec![format!("{name}: md5=:AAAA:"), "X-Checksum: 5".to_owned()]),
        ] {
            let response = upload(&fields, &trailers);
            assert_eq!(response.status, 201, "{fields:?} {trailers:?}: {response:?}");
            kept.push(uuid_of(&response));
            if fields == [announced.as_str()] {
                let told = response.field("repr-digest");
                let rest = told.strip_prefix(&format!("{sha256}, {blake3}"));
                let is_right =
                    rest.is_some_and(|rest| rest.starts_with(", blake3-pieces=:") == (name == "Repr-Digest"));
                assert!(is_right, "{told}");
            }
        }
    }
    kept.sort();
    let mut drives = server.drives();
    drives.sort();
    assert_eq!(drives, kept, "what was refused has left nothing");
}

#[test]
fn a_drive_keeps_both_digests_until_it_has_other_bytes() {
    const WANT_BLAKE3: &str = "Want-Repr-Digest: blake3=1";
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 9_000_001, 96);
    let (sha256, blake3) = (repr_digest(&disk), blake3_digest(&disk));
    let known = |uuid: &str, fields: &[&str]| {
        let response = head(&server, uuid, fields);
        response.values("repr-digest").first().map(|digest| (*digest).to_owned())
    };
    let uploaded = |value: &str| {
        uuid_of(&server.curl(UPLOAD).upload("POST", &disk).header(&format!("Content-Digest: {value}")).run())
    };
    let both = uploaded(&format!("{blake3}, {sha256}"));
    assert_eq!(known(&both, &[]), Some(sha256.clone()), "who did not ask is told what everybody is");
    assert_eq!(known(&both, &[WANT_BLAKE3]), Some(format!("{sha256}, {blake3}")));
    let clone = server.curl(&format!("{DRIVES}{both}/action/?do=clone")).json("POST", &json!({})).run();
    let clone = stored::started(&clone);
    stored::wait_until_settled(&server);
    assert_eq!(known(&clone, &[WANT_BLAKE3]), Some(format!("{sha256}, {blake3}")));

    let one = uploaded(&blake3);
    assert_eq!(known(&one, &[]), None);
    assert_eq!(known(&one, &[WANT_BLAKE3]), Some(blake3.clone()));
    // Who wanted it had the drive read back, for both digests.
    wait_for("the drive to be sealed", || known(&one, &[]).filter(|told| *told == sha256));

    let grown = server.curl(&format!("{DRIVES}{both}/action/?do=resize")).json("POST", &json!({"size": 10 << 20}));
    assert_eq!(grown.run().status, 202);
    stored::wait_until_settled(&server);
    let back = server.scratch().join("back.img");
    server.download(&both, &back);
    assert_ne!(known(&both, &[WANT_BLAKE3]), Some(format!("{sha256}, {blake3}")), "the old digests are forgotten");
    let (sha256, blake3) = (repr_digest(&back), blake3_digest(&back));
    wait_for("the drive to be sealed", || {
        known(&both, &[WANT_BLAKE3]).filter(|told| *told == format!("{sha256}, {blake3}"))
    });
}

#[test]
fn the_digest_of_a_small_or_blank_or_grown_drive_covers_its_zeros() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 1001, 93);
    // The asserted digest is that of the bytes sent, not of the drive.
    let small = server.curl(UPLOAD).upload("POST", &disk).header(&format!("Repr-Digest: {}", repr_digest(&disk))).run();
    let small = uuid_of(&small);
    let spec = json!({"name": "blank", "media": "disk", "size": 9_000_001});
    let blank = stored::started(&server.curl(DRIVES).json("POST", &spec).run());
    for uuid in [&small, &blank] {
        let back = server.scratch().join("back.img");
        server.download(uuid, &back);
        assert_eq!(sealed_digest(&server, uuid), repr_digest(&back));
    }
    let response = server.curl(&format!("{DRIVES}{small}/action/?do=resize")).json("POST", &json!({"size": 6 << 20}));
    assert_eq!(response.run().status, 202);
    stored::wait_until_settled(&server);
    let back = server.scratch().join("back.img");
    assert!(server.download(&small, &back).values("repr-digest").is_empty(), "the old digest is forgotten");
    image::assert_same_then_zeros(&disk, &back, 6 << 20);
    assert_eq!(sealed_digest(&server, &small), repr_digest(&back));
}

#[test]
fn digests_are_known_unasked_where_the_config_says_so() {
    for config in ["digest.sha256 = \"always\"", "digest.seal = \"always\""] {
        let server = Setup::default().config(config).start();
        let disk = server.scratch().join("disk.img");
        image::sparse(&disk, 9_000_001, 94);
        let uuid = server.upload(&disk);
        let digest = wait_for("the digest to be known", || {
            head(&server, &uuid, &[]).values("repr-digest").first().map(|digest| (*digest).to_owned())
        });
        assert_eq!(digest, repr_digest(&disk), "{config}");
    }
}

#[test]
fn the_entity_tag_changes_with_the_bytes_and_not_with_the_name() {
    let server = Server::start();
    let (uuid, _) = stored_drive(&server, 100_000);
    let tag = || head(&server, &uuid, &[]).field("etag").to_owned();
    let before = tag();
    let drive = format!("{DRIVES}{uuid}/");
    let rename = json!({"name": "other", "media": "disk", "size": 100_000, "meta": {"a": "b"}});
    assert_eq!(server.curl(&drive).json("PUT", &rename).run().status, 200);
    assert_eq!(tag(), before);
    sealed_digest(&server, &uuid);
    assert_eq!(tag(), before, "reading it changes nothing");
    let grow = json!({"name": "other", "media": "disk", "size": 200_000});
    assert_eq!(server.curl(&drive).json("PUT", &grow).run().status, 200);
    stored::wait_until_settled(&server);
    assert_ne!(tag(), before);
    let part = server.anonymous_curl(&server.capability(&uuid)).args(&["--range", "0-9"]);
    let response = part.header(&format!("If-Range: {before}")).run();
    assert_eq!((response.status, response.body.len()), (200, 200_000), "no part of another content");
}

#[test]
fn one_flipped_bit_in_an_image_is_found_by_the_seal() {
    let server = Server::start();
    for (at, piece) in [(0, 0), (4_194_304, 4_194_304), (8_999_999, 8_388_608)] {
        let (uuid, ticket) = stored_drive(&server, 9_000_000);
        flip(&image_of(&server, &uuid), at);
        assert_eq!(head(&server, &uuid, &[WANT]).status, 200, "nobody has looked yet");
        assert_found_damaged(&server, &uuid, &ticket, &format!("from {piece} "));
    }
    assert_eq!(server.metric("longshore_drives_found_corrupt_total"), Some(3.0));
}

/// An earlier check says nothing about later changes of the disk.
#[test]
fn a_drive_whose_digest_is_known_is_read_again_when_that_is_wanted() {
    let server = Server::start();
    let (uuid, ticket) = stored_drive(&server, 9_000_000);
    // A request for the digest begins another check, which must not meet the flip.
    head(&server, &uuid, &[WANT]);
    let seals = || server.metric("longshore_jobs_total{kind=\"seal\",ending=\"complete\"}");
    wait_for("the drive to be sealed", || (seals() == Some(1.0)).then_some(()));
    flip(&image_of(&server, &uuid), 5_000_000);
    assert_eq!(head(&server, &uuid, &[]).status, 200, "nobody has looked again");
    head(&server, &uuid, &[WANT]);
    assert_found_damaged(&server, &uuid, &ticket, "from 4194304 ");
}

/// A hole in the image is data, too: bytes that appear in it are detected.
#[test]
fn a_drive_of_holes_is_sealed_by_its_pieces_unless_another_digest_is_wanted() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    let file = image::zero(&disk, 64 << 20);
    file.write_all_at(&image::bytes(1, 5000), 9 << 20).unwrap();
    let uuid = server.upload(&disk);
    let sealed = |wanted: &str, by: &str| {
        let wanted = format!("Want-Repr-Digest: {wanted}");
        wait_for("the drive to be sealed", || {
            let told = head(&server, &uuid, &[&wanted]).values("repr-digest").join(", ");
            told.contains(by).then_some(told)
        })
    };
    let pieces = sealed("blake3-pieces=1", "blake3-pieces=");
    assert!(!pieces.contains("sha-256="), "{pieces}");
    let all = sealed("sha-256=1, blake3=1, blake3-pieces=1", "sha-256=");
    assert_eq!(all, format!("{}, {}, {pieces}", repr_digest(&disk), blake3_digest(&disk)));
}

#[test]
fn a_byte_written_into_a_hole_is_found_by_the_seal() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::zero(&disk, 20 << 20);
    let uuid = server.upload(&disk);
    let ticket = server.capability(&uuid);
    flip(&image_of(&server, &uuid), 15 << 20);
    head(&server, &uuid, &[WANT]);
    assert_found_damaged(&server, &uuid, &ticket, "from 12582912 ");
}

#[test]
fn a_truncated_image_is_not_served() {
    let server = Server::start();
    let (uuid, ticket) = stored_drive(&server, 9_000_000);
    File::options().write(true).open(image_of(&server, &uuid)).unwrap().set_len(8_999_999).unwrap();
    assert_eq!(server.anonymous_curl(&ticket).run().status, 409);
    assert_found_damaged(&server, &uuid, &ticket, "size");
}

#[test]
fn a_missing_image_is_not_served() {
    let server = Server::start();
    let (uuid, ticket) = stored_drive(&server, 100_000);
    fs::remove_file(image_of(&server, &uuid)).unwrap();
    assert_eq!(server.anonymous_curl(&ticket).run().status, 409);
    assert_found_damaged(&server, &uuid, &ticket, "missing");
    let (uuid, ticket) = stored_drive(&server, 9_000_000);
    fs::remove_dir_all(image_of(&server, &uuid).parent().unwrap()).unwrap();
    assert_eq!(server.anonymous_curl(&ticket).run().status, 409);
    assert_found_damaged(&server, &uuid, &ticket, "missing");
}

#[test]
fn damaged_digests_are_found_by_the_seal() {
    let server = Server::start();
    let damages: [Damage; 3] = [
        ("damaged", |pieces| flip(pieces, 40)),
        ("damaged", |pieces| File::options().write(true).open(pieces).unwrap().set_len(30).unwrap()),
        ("missing", |pieces| fs::remove_file(pieces).unwrap()),
    ];
    for (why, damage) in damages {
        let (uuid, ticket) = stored_drive(&server, 9_000_000);
        damage(&pieces_of(&server, &uuid));
        head(&server, &uuid, &[WANT]);
        assert_found_damaged(&server, &uuid, &ticket, why);
    }
}

/// The check is requested while the image is intact, and runs when it is not.
#[test]
fn an_image_that_lost_its_end_or_is_gone_is_found_by_the_seal() {
    let mut server = Server::start();
    let damages: [Damage; 2] = [
        // If an image ends in zeros, the digests alone would not show a lost end.
        ("size", |image| File::options().write(true).open(image).unwrap().set_len(7_000_000).unwrap()),
        ("missing", |image| fs::remove_file(image).unwrap()),
    ];
    for (why, damage) in damages {
        let disk = server.scratch().join("disk.img");
        image::zero(&disk, 8_000_000);
        let uuid = server.upload(&disk);
        let ticket = server.capability(&uuid);
        server.kill9();
        damage(&image_of(&server, &uuid));
        let database = server.data().join("meta.sqlite");
        enqueue_seal(&database, &uuid, 0);
        server.restart();
        assert_found_damaged(&server, &uuid, &ticket, why);
    }
}

/// Otherwise an image that cannot be read would be tried for ever.
#[test]
fn a_seal_that_failed_three_times_is_given_up_until_it_is_wanted_again() {
    let mut server = Server::start();
    let (uuid, _) = stored_drive(&server, 100_000);
    let image = image_of(&server, &uuid);
    let aside = image.with_extension("aside");
    server.kill9();
    // No link is followed, and that is no word about the bytes.
    fs::rename(&image, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &image).unwrap();
    let database = server.data().join("meta.sqlite");
    enqueue_seal(&database, &uuid, 2);
    server.restart();
    wait_for("the seal to end", || {
        let endings =
            ["complete", "failed"].map(|ending| format!("longshore_jobs_total{{kind=\"seal\",ending=\"{ending}\"}}"));
        endings.iter().any(|name| server.metric(name).is_some()).then_some(())
    });
    assert_eq!(server.metric("longshore_jobs_total{kind=\"seal\",ending=\"complete\"}"), Some(1.0), "it has no job");
    assert_eq!(server.drive(&uuid)["status"], "unmounted", "nothing is known of its bytes");
    fs::rename(&aside, &image).unwrap();
    assert_eq!(sealed_digest(&server, &uuid), repr_digest(&image));
}

/// Puts the job into the database of a stopped server, as a download that asks for the digest would, with as many
/// attempts behind it.
fn enqueue_seal(database: &Path, uuid: &str, attempts: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let meta = Meta::open(database).await.expect("the database opens");
        let seal = NewJob::new(JobKind::Seal { spares_holes: false }, uuid.parse().expect("a UUID"), UnixTime(0));
        meta.apply(Batch { enqueue: vec![seal], ..Batch::default() }).await.expect("the job is added");
        for _ in 0..attempts {
            // Each lease is over when the next one begins.
            let job = meta.claim("nobody", UnixTime(1), 0, Lane::Idle).await.expect("the database answers");
            assert!(job.is_some(), "the job can be claimed");
        }
        meta.close().await;
    });
}

/// Growing would fill a lost end with zeros, and copying would pass the damage on.
#[test]
fn a_damaged_drive_is_neither_grown_nor_cloned() {
    let server = Server::start();
    let damages: [Damage; 2] = [
        ("size", |image| File::options().write(true).open(image).unwrap().set_len(70_000).unwrap()),
        ("missing", |image| fs::remove_file(image).unwrap()),
    ];
    for (why, damage) in damages {
        let (uuid, ticket) = stored_drive(&server, 100_000);
        damage(&image_of(&server, &uuid));
        let grow = server.curl(&format!("{DRIVES}{uuid}/action/?do=resize")).json("POST", &json!({"size": 200_000}));
        assert_eq!(grow.run().status, 202);
        stored::wait_until_settled(&server);
        assert_eq!(stored::used(&server, "admin"), (1, 100_000), "the growth is not charged");
        assert_found_damaged(&server, &uuid, &ticket, why);

        let (uuid, ticket) = stored_drive(&server, 100_000);
        damage(&image_of(&server, &uuid));
        let clone = server.curl(&format!("{DRIVES}{uuid}/action/?do=clone")).json("POST", &json!({})).run();
        let clone = stored::started(&clone);
        stored::wait_until_settled(&server);
        assert_eq!(server.drive(&clone)["status"], json!("unavailable"));
        assert_eq!(server.curl(&format!("{DRIVES}{clone}/")).method("DELETE").run().status, 204);
        assert_found_damaged(&server, &uuid, &ticket, why);
    }
}

/// A clone that shares the disk space of its source takes its digests along, so that earlier damage is found in the
/// copy, too; any other clone is compared while it is copied.
#[test]
fn a_clone_of_a_flipped_bit_is_not_made_or_found_by_its_own_seal() {
    let server = Server::start();
    let (uuid, _) = stored_drive(&server, 9_000_000);
    flip(&image_of(&server, &uuid), 5_000_000);
    let clone = server.curl(&format!("{DRIVES}{uuid}/action/?do=clone")).json("POST", &json!({})).run();
    let clone = stored::started(&clone);
    stored::wait_until_settled(&server);
    if server.drive(&clone)["status"] == "unavailable" {
        assert_eq!(server.drive(&uuid)["status"], "unavailable", "its source is as bad");
        return;
    }
    let ticket = server.capability(&clone);
    assert_eq!(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE").run().status, 204);
    head(&server, &clone, &[WANT]);
    assert_found_damaged(&server, &clone, &ticket, "from 4194304 ");
}

/// Otherwise its file would be held open for minutes, and with it the only slot for such work.
#[test]
fn deleting_a_drive_ends_its_seal_and_frees_the_disk() {
    let server = Server::start();
    let spec = json!({"name": "vast", "media": "disk", "size": 300_u64 << 30});
    let vast = stored::started(&server.curl(DRIVES).json("POST", &spec).run());
    head(&server, &vast, &[WANT]);
    let open = || {
        let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
        files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|name| name.to_string_lossy().contains(&vast))
    };
    wait_for("the seal to begin", || open().then_some(()));
    assert_eq!(server.curl(&format!("{DRIVES}{vast}/")).method("DELETE").run().status, 204);
    wait_for("the file to be closed", || (!open()).then_some(()));
    let (uuid, _) = stored_drive(&server, 100_000);
    assert_eq!(sealed_digest(&server, &uuid), repr_digest(&server.scratch().join("disk.img")));
    assert!(!server.logged().contains("ERROR"), "a deletion is no error");
}

/// When a peer pauses, its block is released at any byte offset.
#[test]
fn an_upload_that_pauses_at_odd_places_is_stored_as_it_came() {
    let server = Setup::default().config("io.direct = \"always\"").start();
    let parts = [1, 4095, 4097, 1_048_577, 65_535, 3_000_000, 1, 511];
    let whole = image::bytes(95, parts.iter().sum());
    for chunked in [false, true] {
        let mut client = server.raw();
        let length = format!("Content-Length: {}", whole.len());
        let framing = if chunked { "Transfer-Encoding: chunked" } else { &length };
        let authorization = basic(&server.credentials());
        client.send_head(
            &format!("POST {UPLOAD}"),
            &[&authorization, "Content-Type: application/octet-stream", framing, "Expect: 100-continue", WANT],
        );
        assert_eq!(client.head().status, 100);
        let mut sent = 0;
        for part in parts {
            let bytes = &whole[sent..sent + part];
            if chunked {
                client.send(format!("{part:x}\r\n").as_bytes());
            }
            client.send(bytes);
            if chunked {
                client.send(b"\r\n");
            }
            sent += part;
            if sent < whole.len() {
                wait_for("the block to be taken away", || {
                    (server.metric("longshore_pool_blocks_in_use") == Some(0.0)).then_some(())
                });
            }
        }
        if chunked {
            client.send(b"0\r\n\r\n");
        }
        let response = client.response();
        let uuid = uuid_of(&response);
        let stored = image_of(&server, &uuid);
        assert!(fs::read(&stored).unwrap() == whole, "the bytes differ");
        assert_eq!(response.field("repr-digest"), repr_digest(&stored));
        // The digests of its pieces agree with this.
        assert_eq!(sealed_digest(&server, &uuid), repr_digest(&stored));
    }
}
