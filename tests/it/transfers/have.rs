//! Only what is missing is sent: the rest is taken over from what the owner has here already.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{MIB, TRANSFERS, Transfer};
use crate::harness::server::uuid_of;
use crate::harness::{Response, Server, image, stored};

const PIECE: u64 = 4 * MIB;
const SIZE: u64 = 6 * PIECE + 12_345;

/// The pieces of a file from one on, as they are told: numbers of zeros, and digests in Base64.
fn pieces_of(disk: &Path, from: u64) -> Vec<Value> {
    let bytes = fs::read(disk).expect("the image is there");
    let is_zero = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
    let digest = |piece| if is_zero(piece) { json!(1) } else { json!(STANDARD.encode(blake3::hash(piece).as_bytes())) };
    bytes.chunks(PIECE as usize).skip(from as usize).map(digest).collect()
}

/// Asks until all pieces of a file were compared; returns the stretches to be sent, and the bytes that were taken over.
#[track_caller]
fn have(server: &Server, transfer: &Transfer, base: &Value, disk: &Path) -> (Vec<(u64, u64)>, u64) {
    let (mut missing, mut taken, mut from) = (Vec::new(), 0, 0);
    loop {
        let body = json!({"base": base, "from": from, "pieces": pieces_of(disk, from)});
        let told = asked(server, transfer, &body);
        assert_eq!(told.status, 200, "{told:?}");
        let told = told.json();
        let number = |extent: &Value, name: &str| extent[name].as_u64().expect("a number");
        let stretches = told["missing"].as_array().expect("a list");
        missing.extend(stretches.iter().map(|extent| (number(extent, "offset"), number(extent, "size"))));
        taken += number(&told, "taken");
        match told["next"].as_u64() {
            Some(next) => from = next,
            None => return (missing, taken),
        }
    }
}

fn asked(server: &Server, transfer: &Transfer, body: &Value) -> Response {
    server.curl(&format!("{TRANSFERS}/{}/have", transfer.id)).json("POST", body).run()
}

/// Sends what is missing, and checks the drive that comes of it.
#[track_caller]
fn complete(server: &Server, transfer: &Transfer, disk: &Path, missing: &[(u64, u64)]) {
    for (offset, size) in missing {
        let sent = transfer.put(server, disk, (*offset, offset + size), "*");
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    let done = transfer.finish(server, &json!({}));
    assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?}");
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(disk, &back);
}

/// Changes bytes of a file.
fn change(disk: &Path, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(disk).expect("the image can be opened");
    file.write_all_at(bytes, at).expect("it can be written");
}

fn blake3_of(disk: &Path) -> String {
    blake3::hash(&fs::read(disk).expect("the image is there")).to_string()
}

#[test]
fn an_unchanged_drive_is_taken_over_and_of_a_changed_one_only_the_changes_are_sent() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 201);
    change(&disk, 3 * PIECE, &vec![0; PIECE as usize]);
    let base = server.upload(&disk);
    let terms = json!({"name": "again", "size": SIZE, "digest": {"blake3": blake3_of(&disk)}});
    let again = Transfer::begin(&server, &terms);
    let all = have(&server, &again, &json!({"drive": base}), &disk);
    assert_eq!(all, (vec![], SIZE - PIECE), "all but the zeros is taken");
    complete(&server, &again, &disk, &[]);

    // One byte, a piece that was data and is zero, one that was zero and is data, and the last byte.
    change(&disk, PIECE + 7, b"?");
    change(&disk, 2 * PIECE, &vec![0; PIECE as usize]);
    change(&disk, 3 * PIECE + 100, b"new");
    change(&disk, SIZE - 1, b"\n");
    let terms = json!({"name": "changed", "size": SIZE, "digest": {"blake3": blake3_of(&disk)}});
    let changed = Transfer::begin(&server, &terms);
    let (missing, taken) = have(&server, &changed, &json!({"drive": base}), &disk);
    assert_eq!(missing, [(PIECE, PIECE), (3 * PIECE, PIECE), (6 * PIECE, 12_345)]);
    assert_eq!(taken, 3 * PIECE);
    complete(&server, &changed, &disk, &missing);
    // Each is a drive of its own.
    assert_eq!(server.curl(&format!("/api/2.0/drives/{base}/")).method("DELETE").run().status, 204);
    server.download(&changed.drive, &server.scratch().join("back.img"));
    image::assert_same(&disk, &server.scratch().join("back.img"));
    stored::assert_clean(&server);
}

#[test]
fn an_earlier_attempt_is_a_base_and_what_was_taken_over_outlives_a_crash() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 202);
    let earlier = Transfer::begin(&server, &json!({"name": "earlier", "size": SIZE}));
    assert_eq!(earlier.put(&server, &disk, (PIECE - 5, 4 * PIECE + 1), "*").status, 200);
    let base = json!({"transfer": earlier.id});
    let terms = json!({"name": "later", "size": SIZE, "base": base});
    let later = Transfer::begin(&server, &terms);
    assert_eq!(later.show(&server)["base"], base);
    let (missing, taken) = have(&server, &later, &base, &disk);
    assert_eq!((&missing[..], taken), (&[(0, PIECE), (4 * PIECE, SIZE - 4 * PIECE)][..], 3 * PIECE));
    server.kill9();
    server.restart();
    assert_eq!(super::extents(&later.show(&server)), [(PIECE, 3 * PIECE)]);
    // What has come of a piece is left as it is, and the rest of that piece is sent.
    assert_eq!(earlier.put(&server, &disk, (0, SIZE), "*").status, 200);
    assert_eq!(later.put(&server, &disk, (100, 200), "*").status, 200);
    let (missing, taken) = have(&server, &later, &base, &disk);
    assert_eq!((&missing[..], taken), (&[(0, 100), (200, PIECE - 200)][..], SIZE - 4 * PIECE));
    assert_eq!(earlier.finish(&server, &json!({})).status, 200);
    complete(&server, &later, &disk, &missing);
    // Of one that is done it is the drive.
    let last = Transfer::begin(&server, &json!({"name": "last", "size": SIZE}));
    assert_eq!(have(&server, &last, &base, &disk), (vec![], SIZE));
    complete(&server, &last, &disk, &[]);
    stored::assert_clean(&server);
}

#[test]
fn a_base_of_another_size_gives_what_lies_at_the_same_place() {
    let server = Server::start();
    let (long, short) = (server.scratch().join("long.img"), server.scratch().join("short.img"));
    image::random(&long, SIZE, 203);
    fs::write(&short, image::part(&long, 0, (2 * PIECE + 10) as usize)).expect("the image is written");
    let (of_long, of_short) = (server.upload(&long), server.upload(&short));
    let grown = Transfer::begin(&server, &json!({"name": "grown", "size": SIZE}));
    let (missing, taken) = have(&server, &grown, &json!({"drive": of_short}), &long);
    assert_eq!((&missing[..], taken), (&[(2 * PIECE, SIZE - 2 * PIECE)][..], 2 * PIECE));
    complete(&server, &grown, &long, &missing);
    let cut = Transfer::begin(&server, &json!({"name": "cut", "size": 2 * PIECE + 10}));
    assert_eq!(have(&server, &cut, &json!({"drive": of_long}), &short), (vec![], 2 * PIECE + 10));
    complete(&server, &cut, &short, &[]);
}

#[test]
fn nobody_learns_what_others_have_and_a_url_compares_with_the_base_of_its_owner_only() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 204);
    let (base, other) = (server.upload(&disk), server.upload(&disk));
    let foreign = server.add_user("eve");
    let theirs = uuid_of(&server.curl_as(&foreign, "/api/2.0/drives/upload/").upload("POST", &disk).run());
    let pieces = pieces_of(&disk, 0);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": SIZE, "base": {"drive": base}}));
    let unknown = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
    for id in [theirs.as_str(), unknown] {
        for kind in ["drive", "snapshot", "transfer"] {
            let told = asked(&server, &transfer, &json!({"base": {kind: id}, "pieces": pieces}));
            assert_eq!(told.status, 404, "{told:?}");
        }
        let begun = server.curl(TRANSFERS).json("POST", &json!({"name": "b", "size": 9, "base": {"drive": id}})).run();
        assert_eq!(begun.status, 404, "{begun:?}");
    }
    let by_others = server.curl_as(&foreign, &format!("{TRANSFERS}/{}/have", transfer.id));
    assert_eq!(by_others.json("POST", &json!({"pieces": pieces})).run().status, 404);
    let by_url = |body: &Value| transfer.direct(&server, "/have").json("POST", body).run();
    for base in [json!({"drive": other}), json!({"drive": theirs}), json!({"transfer": transfer.id})] {
        let refused = by_url(&json!({"base": base, "pieces": pieces}));
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    assert!(super::extents(&transfer.show(&server)).is_empty());
    let told = by_url(&json!({"pieces": pieces}));
    assert_eq!((told.status, &told.json()["missing"]), (200, &json!([])), "{told:?}");
    complete(&server, &transfer, &disk, &[]);
}

#[test]
fn what_cannot_be_compared_is_refused_and_bytes_that_only_seem_alike_are_not_taken() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 205);
    let base = json!({"drive": server.upload(&disk)});
    let pieces = pieces_of(&disk, 0);
    let transfer = Transfer::begin(&server, &json!({"name": "a"}));
    let without_size = asked(&server, &transfer, &json!({"base": base, "pieces": pieces}));
    assert_eq!(without_size.status, 409, "{without_size:?}");
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": SIZE}));
    for (from, pieces) in [(1, json!(pieces)), (0, json!([8])), (7, json!([1])), (u64::MAX / PIECE, json!([1]))] {
        let behind = asked(&server, &transfer, &json!({"base": base, "from": from, "pieces": pieces}));
        assert_eq!(behind.status, 400, "{behind:?}");
    }
    let itself = asked(&server, &transfer, &json!({"base": {"transfer": transfer.id}, "pieces": [1]}));
    assert_eq!(itself.status, 400, "{itself:?}");
    // The same pieces elsewhere are others.
    let moved = [&pieces[1..6], &pieces[..1]].concat();
    let told = asked(&server, &transfer, &json!({"base": base, "pieces": moved}));
    assert_eq!(told.json()["missing"], json!([{"offset": 0, "size": 6 * PIECE}]), "{told:?}");
    // Without a base zeros need not be sent.
    let told = asked(&server, &transfer, &json!({"from": 5, "pieces": [1]}));
    assert_eq!(told.json(), json!({"missing": [], "taken": 0, "next": null}));
    assert_eq!(super::extents(&transfer.show(&server)), [(5 * PIECE, PIECE)]);
    let cancelled = server.curl(&format!("{TRANSFERS}/{}", transfer.id)).method("DELETE").run();
    assert_eq!(cancelled.status, 204);
    assert_eq!(asked(&server, &transfer, &json!({"base": base, "pieces": [1]})).status, 410);
}

#[test]
fn a_drive_tells_the_digests_of_its_pieces() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, SIZE, 206);
    change(&disk, 2 * PIECE, &vec![0; 2 * PIECE as usize]);
    let uuid = server.upload(&disk);
    let path = format!("/api/v1/drives/{uuid}/pieces");
    let own = pieces_of(&disk, 0);
    let (mut pieces, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let page = server.curl(&format!("{path}?limit=2&from={at}")).run();
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        assert_eq!((&page["size"], &page["from"], &page["piece_size"]), (&json!(SIZE), &json!(at), &json!(PIECE)));
        for run in page["pieces"].as_array().expect("a list") {
            if let Some(zeros) = run.as_u64() {
                pieces.extend((0..zeros).map(|_| json!(1)));
            } else {
                let digests = STANDARD.decode(run.as_str().expect("a text")).expect("it is Base64");
                pieces.extend(digests.chunks(32).map(|digest| json!(STANDARD.encode(digest))));
            }
        }
        from = page["next"].as_u64();
    }
    assert_eq!(pieces, own);
    // As it is told, it is understood.
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": SIZE}));
    let all = server.curl(&path).run().json();
    let told = asked(&server, &transfer, &json!({"base": {"drive": uuid}, "pieces": all["pieces"]}));
    assert_eq!((&told.json()["missing"], &told.json()["taken"]), (&json!([]), &json!(SIZE - 2 * PIECE)), "{told:?}");

    assert_eq!(server.curl(&format!("{path}?from=7")).run().status, 400);
    let foreign = server.add_user("eve");
    assert_eq!(server.curl_as(&foreign, &path).run().status, 404);
    assert_eq!(server.anonymous_curl(&path).run().status, 401);
    // Of bytes that are not those that were stored nothing is told.
    image::flip(&stored::image_of(&server, &uuid), PIECE + 9);
    let spoiled = server.curl(&path).run();
    assert_eq!((spoiled.status, spoiled.text().contains("4194304")), (409, true), "{spoiled:?}");
    assert_eq!(server.drive(&uuid)["status"], json!("unavailable"));
}
