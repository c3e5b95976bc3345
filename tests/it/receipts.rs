//! Receipts of drives, and their check by whoever has the file.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::server::uuid_of;
use crate::harness::{Server, Setup, image};

const UPLOAD: &str = "/api/2.0/drives/upload/";
const TRANSFERS: &str = "/api/v1/transfers";
const JWKS: &str = "/.well-known/jwks.json";

/// The exit codes of `longshore verify`.
const DIFFERS: i32 = 3;
const FORGED: i32 = 4;

#[track_caller]
fn receipt(server: &Server, uuid: &str) -> Value {
    let response = server.curl(&format!("/api/v1/drives/{uuid}/receipt")).run();
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn verify(arguments: &[&Path], options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("verify").args(arguments).args(options).stdin(Stdio::null());
    command.output().expect("the program runs")
}

/// Fails unless the check ends so, and says these words.
#[track_caller]
fn assert_ends(output: &Output, code: i32, words: &str) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn a_receipt_tells_what_is_stored_and_its_file_is_checked_against_it() {
    let server = Setup::default().config("control.public_url = \"https://cloud.example.com\"").start();
    assert_eq!(server.anonymous_curl(JWKS).run().json(), json!({"keys": []}), "a key is made with the first receipt");
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 9_000_001, 98);
    let bytes = fs::read(&disk).unwrap();
    let wanted = server.curl(UPLOAD).upload("POST", &disk).header("Want-Repr-Digest: blake3=1");
    let uuid = uuid_of(&wanted.run());
    let told = receipt(&server, &uuid);
    let receipt_of = &told["receipt"];
    let blake3 = hex(blake3::hash(&bytes).as_bytes());
    assert_eq!(receipt_of["digest"], json!({"sha-256": null, "blake3": blake3, "blake3-pieces": null}));
    assert_eq!((&receipt_of["size"], &receipt_of["drive"]), (&json!(9_000_001), &json!(uuid)));
    assert_eq!(receipt_of["issuer"], json!("https://cloud.example.com"));
    assert_eq!((&receipt_of["user"], &receipt_of["transfer"]), (&Value::Null, &Value::Null));
    assert_eq!(receipt_of["tenant"], server.drive(&uuid)["owner"]["uuid"]);
    let allocated = receipt_of["allocated"].as_u64().expect("bytes");
    assert!(allocated > 0 && allocated < 9_000_001, "holes take nothing: {allocated}");
    for name in ["issued", "created", "stored"] {
        assert!(receipt_of[name].as_str().is_some_and(|time| time.ends_with('Z')), "{name}: {told}");
    }

    let (paper, keys) = (server.scratch().join("disk.receipt"), server.scratch().join("jwks.json"));
    fs::write(&paper, told.to_string()).unwrap();
    fs::write(&keys, server.anonymous_curl(JWKS).run().body).unwrap();
    let set: Value = serde_json::from_slice(&fs::read(&keys).unwrap()).unwrap();
    let x = set["keys"][0]["x"].as_str().expect("a key");
    let url = format!("{}{JWKS}", server.endpoint());
    for options in [&["--jwks", keys.to_str().unwrap()][..], &["--jwks", &url], &["--key", x]] {
        assert_ends(&verify(&[&disk, &paper], options), 0, "signature: good, by https://cloud.example.com");
    }
    assert_ends(&verify(&[&disk, &paper], &[]), 0, "signature: not checked");

    // Another byte, another length, another receipt, another key.
    let other = server.scratch().join("other.img");
    fs::write(&other, [&bytes[..5], &[bytes[5] ^ 1], &bytes[6..]].concat()).unwrap();
    assert_ends(&verify(&[&other, &paper], &["--key", x]), DIFFERS, "blake3: DIFFERS");
    fs::write(&other, &bytes[1..]).unwrap();
    assert_ends(&verify(&[&other, &paper], &["--key", x]), DIFFERS, "size: DIFFERS");
    let mut changed = told.clone();
    changed["receipt"]["name"] = json!("another");
    let forged = server.scratch().join("forged.receipt");
    fs::write(&forged, changed.to_string()).unwrap();
    assert_ends(&verify(&[&disk, &forged], &["--key", x]), FORGED, "of another receipt");
    let stranger = "A".repeat(43);
    assert_ends(&verify(&[&disk, &paper], &["--key", &stranger]), FORGED, "not good");
    fs::write(&keys, r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#).unwrap();
    assert_ends(&verify(&[&disk, &paper], &["--jwks", keys.to_str().unwrap()]), FORGED, "none of those given");
    for nothing in ["absent", "/"] {
        assert_ends(&verify(&[&disk, Path::new(nothing)], &[]), 1, "cannot read");
        assert_ends(&verify(&[Path::new(nothing), &paper], &[]), 1, "cannot read");
    }
    assert_ends(&verify(&[&disk, &disk], &[]), 1, "longshore:");
}

#[test]
fn a_receipt_is_for_who_has_the_drive_and_outlives_a_restart() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 99);
    let uuid = server.upload(&disk);
    let path = format!("/api/v1/drives/{uuid}/receipt");
    let foreign = server.add_user("eve");
    assert_eq!(server.curl_as(&foreign, &path).run().status, 404);
    assert_eq!(server.anonymous_curl(&path).run().status, 401);
    assert_eq!(server.curl("/api/v1/drives/nothing/receipt").run().status, 404);
    let (paper, keys) = (server.scratch().join("receipt"), server.scratch().join("jwks.json"));
    let told = receipt(&server, &uuid);
    fs::write(&paper, told.to_string()).unwrap();
    // Nothing is known of bytes that nobody had digested.
    assert_ends(&verify(&[&disk, &paper], &[]), 1, "no digest");
    assert!(server.terminate().success());
    server.restart();
    fs::write(&keys, server.anonymous_curl(JWKS).run().body).unwrap();
    assert_ends(&verify(&[&disk, &paper], &["--jwks", keys.to_str().unwrap()]), 1, "signature: good, by longshore");
    assert_eq!(server.curl(&format!("/api/2.0/drives/{uuid}/")).method("DELETE").run().status, 204);
    assert_eq!(server.curl(&path).run().status, 404);
}

#[test]
fn a_receipt_tells_the_transfer_that_brought_the_drive() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 100_000, 97);
    let begun = server.curl(TRANSFERS).json("POST", &json!({"name": "a", "size": 100_000})).run().json();
    let text = |name: &str| begun[name].as_str().expect("a text");
    let of_transfer = |id: &str| server.curl(&format!("{TRANSFERS}/{id}/receipt")).run();
    let early = of_transfer(text("id"));
    assert_eq!((early.status, early.text().contains("is open")), (409, true), "{early:?}");

    let url = text("ticket").strip_prefix(server.endpoint()).expect("on this server");
    let range = "Content-Range: bytes 0-99999/100000";
    assert_eq!(server.anonymous_curl(url).upload("PUT", &disk).header(range).run().status, 200);
    let done = server.curl(&format!("{TRANSFERS}/{}/finish", text("id"))).json("POST", &json!({})).run();
    assert_eq!(done.json()["state"], json!("done"), "{done:?}");
    for told in [receipt(&server, text("drive")), of_transfer(text("id")).json()] {
        let told = &told["receipt"];
        assert_eq!((&told["transfer"], &told["drive"]), (&begun["id"], &begun["drive"]), "{told}");
        assert_eq!(told["size"], json!(100_000));
    }
    let foreign = server.add_user("eve");
    assert_eq!(server.curl_as(&foreign, &format!("{TRANSFERS}/{}/receipt", text("id"))).run().status, 404);
    // What another way brings has none.
    assert_eq!(receipt(&server, &server.upload(&disk))["receipt"]["transfer"], Value::Null);
}
