//! The requests of the vendor's compiled client, byte for byte: signed calls, chunked archives with unescaped names and
//! unknown lengths, several uploads at once, and an end that is requested even after failures.

use std::thread;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use crate::harness::hyper::{Session, fetch, show, untar};
use crate::harness::rsync::assert_same_data;
use crate::harness::{Response, Server};
use crate::tree::tarball::{Head, Tarball, records};

/// The size of the client's reads.
const CHUNK: usize = 32 << 10;

/// An access key.
struct Key {
    id: String,
    secret: String,
}

impl Key {
    #[track_caller]
    fn new(server: &Server, user: &str) -> Self {
        let output = server.command("key", &["add", user]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("a key is text");
        let (id, secret) = text.trim().split_once(':').expect("a name and a secret");
        Self { id: id.to_owned(), secret: secret.to_owned() }
    }

    /// Returns the lines that sign a request, in the order in which the client writes them.
    fn lines(&self, (method, path, query): (&str, &str, &str), host: &str, kind: &str, body: &str) -> Vec<String> {
        let hex = |bytes: &[u8]| {
            let digits =
                |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
            bytes.iter().flat_map(digits).collect::<String>()
        };
        let date = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        let digest = hex(&Sha256::digest(body));
        let fields = "content-type;host;x-hyper-content-sha256;x-hyper-date";
        let path = path.trim_matches('/');
        let canonical = format!(
            "{method}\n{path}\n{query}\ncontent-type:{kind}\nhost:{host}\nx-hyper-content-sha256:{digest}\n\
             x-hyper-date:{date}\n\n{fields}\n{digest}"
        );
        let scope = format!("{}/us-west-1/hyper/hyper_request", &date[..8]);
        let text = format!("HYPER-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mac = |key: &[u8], text: &str| {
            let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length").chain_update(text);
            mac.finalize().into_bytes().to_vec()
        };
        let parts = [&date[..8], "us-west-1", "hyper", "hyper_request"];
        let key = parts.iter().fold(format!("HYPER{}", self.secret).into_bytes(), |key, part| mac(&key, part));
        vec![
            format!(
                "Authorization: HYPER-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={fields}, Signature={}",
                self.id,
                hex(&mac(&key, &text))
            ),
            format!("Content-Type: {kind}"),
            format!("X-Hyper-Content-Sha256: {digest}"),
            format!("X-Hyper-Date: {date}"),
        ]
    }
}

/// Makes one call to the control side.
fn call(server: &Server, key: &Key, (method, path, query): (&str, &str, &str), kind: &str, body: &str) -> Response {
    let mut client = server.raw();
    let mut lines = vec!["User-Agent: Hyper-Client/1.10.16 (linux)".to_owned()];
    if !body.is_empty() || method != "GET" {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    lines.extend(key.lines((method, path, query), server.authority(), kind, body));
    lines.push("Accept-Encoding: gzip".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    client.send_head(&format!("{method} {target}"), &lines);
    client.send(body.as_bytes());
    client.response()
}

fn initialize(server: &Server, key: &Key, body: &str) -> Response {
    // The client's encoder ends every document with a newline, which is signed, too.
    call(server, key, ("POST", "/v1.23/volumes/initialize", ""), "application/json", &format!("{body}\n"))
}

fn finish(server: &Server, key: &Key, session: &str) -> Response {
    let query = format!("session={session}");
    call(server, key, ("PUT", "/v1.23/volumes/uploadfinish", &query), "text/plain", "")
}

/// Uploads an archive as the client sends it.
fn upload(server: &Server, uploader: &str, cookie: &str, archive: &[u8]) -> Response {
    let place = format!("{uploader}?cookie={cookie}");
    let path = place.strip_prefix(server.endpoint()).expect("an uploader of this server");
    let mut client = server.raw();
    client.send_head(
        &format!("POST {path}"),
        &[
            "User-Agent: Go-http-client/1.1",
            "Transfer-Encoding: chunked",
            "Content-Type: application/x-tar",
            "Accept-Encoding: gzip",
        ],
    );
    for chunk in archive.chunks(CHUNK) {
        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        // A server that has refused the request may not read the rest.
        if client.try_send(&framed).is_err() {
            break;
        }
    }
    let _ = client.try_send(b"0\r\n\r\n");
    client.response()
}

/// Returns a directory as the client writes it: the root first, in lexical order, no slash after a directory, unchanged
/// targets of links, every set bit of the mode, hard links as separate files, and an end of two blocks.
fn walked(seed: &str) -> Vec<u8> {
    let long = format!("sub/{}", "n".repeat(150));
    let owned = |kind: u8, name: &str, mode: u32, size: usize| Head {
        mode,
        uid: 0,
        gid: 0,
        size: size as u64,
        ..Head::new(kind, name)
    };
    let link = Head { link: b"/etc/passwd".to_vec(), ..owned(b'2', "abs", 0o777, 0) };
    let data = seed.repeat(100_000);
    Tarball::new()
        .entry(&owned(b'5', ".", 0o755, 0), &[])
        .entry(&link, &[])
        .entry(&owned(b'0', "data", 0o644, data.len()), data.as_bytes())
        .entry(&owned(b'6', "fifo", 0o600, 0), &[])
        .entry(&owned(b'0', "setuid", 0o4755, 2), b"#!")
        .entry(&owned(b'5', "sub", 0o1777, 0), &[])
        .extension(b'x', "PaxHeaders.0/n", &records(&[(b"path", long.as_bytes())]))
        .entry(&owned(b'0', &long[..100], 0o644, 4), b"long")
        .end()
}

/// Returns the content of [`walked`] as a directory.
fn walked_dir(server: &Server, seed: &str) -> std::path::PathBuf {
    let (archive, dir) = (server.scratch().join(format!("{seed}.walk")), server.scratch().join(format!("{seed}.dir")));
    std::fs::write(&archive, walked(seed)).expect("a file");
    untar(&archive, &dir);
    dir
}

#[track_caller]
fn begun(response: &Response) -> Session {
    assert_eq!((response.status, response.field("content-type")), (200, "application/json"), "{response:?}");
    Session::of(response)
}

#[test]
fn the_vendors_client_fills_several_volumes_at_once() {
    let server = Server::start();
    let key = Key::new(&server, "admin");
    let answer = initialize(
        &server,
        &key,
        r#"{"Reload":false,"Volume":[{"Name":"vol1","Source":"/home/me/a"},{"Name":"vol2","Source":"/C/b"}]}"#,
    );
    let begun = begun(&answer);
    thread::scope(|scope| {
        let uploads: Vec<_> = begun
            .uploaders
            .iter()
            .map(|(name, url)| scope.spawn(|| upload(&server, url, &begun.cookie, &walked(name))))
            .collect();
        for upload in uploads {
            let response = upload.join().unwrap();
            assert_eq!(response.status, 200, "{response:?}");
        }
    });
    let response = finish(&server, &key, &begun.token);
    assert_eq!((response.status, response.body.len()), (200, 0));
    for name in ["vol1", "vol2"] {
        let (archive, dir) = (server.scratch().join(format!("{name}.tar")), server.scratch().join(name));
        fetch(&server, name, &archive);
        untar(&archive, &dir);
        assert_same_data(&walked_dir(&server, name), &dir);
    }
    let list = call(&server, &key, ("GET", "/v1.23/volumes", ""), "text/plain", "");
    assert_eq!(list.json()["Volumes"].as_array().unwrap().len(), 2);
}

/// The client prints the failure, and still requests the end.
#[test]
fn the_vendors_client_ends_a_session_whose_upload_failed() {
    let server = Server::start();
    let key = Key::new(&server, "admin");
    let body = r#"{"Reload":false,"Volume":[{"Name":"ok","Source":"/a"},{"Name":"grew","Source":"/b"}]}"#;
    let begun = begun(&initialize(&server, &key, body));
    let url = |name: &str| begun.uploaders[name].clone();
    // A file that grows while it is read has more bytes than its header says.
    let grew = Tarball::new().dir(".").file("log", [b'x'; 100]).raw(&[b'y'; 4096]).end();
    let response = upload(&server, &url("grew"), &begun.cookie, &grew);
    assert_eq!(response.status, 400);
    assert!(response.text().starts_with("entry 3 at byte "), "{response:?}");
    assert_eq!(upload(&server, &url("ok"), &begun.cookie, &walked("ok")).status, 200);
    let response = finish(&server, &key, &begun.token);
    assert_eq!(response.status, 400);
    assert!(response.text().contains("grew: entry 3"), "{response:?}");
    assert_eq!((show(&server, "ok").status, show(&server, "grew").status), (404, 404));
}

#[test]
fn a_signature_is_good_for_one_request_and_a_key_for_one_user() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let key = Key::new(&server, "alice");
    let made = call(&server, &key, ("POST", "/v1.23/volumes/create", ""), "application/json", r#"{"Name":"mine"}"#);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(server.curl_as(&alice, "/volumes/mine").run().status, 200);
    assert_eq!(show(&server, "mine").status, 404);

    // The body of another request, with the signature of this one.
    let mut client = server.raw();
    let mut lines =
        key.lines(("POST", "/v1.23/volumes/create", ""), server.authority(), "application/json", r#"{"Name":"a"}"#);
    lines.push("Content-Length: 12".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    client.send_head("POST /v1.23/volumes/create", &lines);
    client.send(br#"{"Name":"b"}"#);
    assert_eq!(client.response().status, 401);
    let mut client = server.raw();
    client.send_head("DELETE /v1.23/volumes/mine", &lines);
    client.send(br#"{"Name":"a"}"#);
    assert_eq!(client.response().status, 401);

    let forged = Key { id: key.id.clone(), secret: "0".repeat(64) };
    assert_eq!(call(&server, &forged, ("GET", "/volumes", ""), "text/plain", "").status, 401);
    let listed = String::from_utf8(server.command("key", &["list"]).stdout).unwrap();
    assert!(listed.contains(&key.id) && listed.contains("alice") && !listed.contains(&key.secret), "{listed}");
    assert!(server.command("key", &["remove", &key.id]).status.success());
    assert_eq!(call(&server, &key, ("GET", "/volumes", ""), "text/plain", "").status, 401);
    assert!(!server.command("key", &["remove", &key.id]).status.success());
    assert!(!server.command("key", &["add", "nobody"]).status.success());
}

#[test]
fn a_key_ends_when_it_is_removed_and_with_a_new_password_and_with_its_user() {
    let server = Server::start();
    server.add_user("alice");
    server.add_user("bob");
    let status = |key: &Key| call(&server, key, ("GET", "/volumes", ""), "text/plain", "").status;
    let (removed, old, of_bob) = (Key::new(&server, "alice"), Key::new(&server, "alice"), Key::new(&server, "bob"));
    assert_eq!([&removed, &old, &of_bob].map(status), [200; 3]);
    assert!(server.command("key", &["remove", &removed.id]).status.success());
    assert_eq!([&removed, &old, &of_bob].map(status), [401, 200, 200]);
    let changed = server.user_command(&["passwd", "alice"]);
    let told = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert!(changed.status.success() && told.contains("1 access key"), "{told}");
    let new = Key::new(&server, "alice");
    assert_eq!([&old, &new, &of_bob].map(status), [401, 200, 200]);
    assert!(server.user_command(&["remove", "alice"]).status.success());
    assert_eq!([&new, &of_bob].map(status), [401, 200]);
}
