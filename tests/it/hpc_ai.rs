//! HPC-AI's storage volumes, called as in its documentation.

use std::collections::BTreeSet;
use std::fs;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::hyper::{archive, fetch, fill, sample, untar};
use crate::harness::rsync::assert_same_trees;
use crate::harness::{Curl, Response, Server, Setup};

/// The default region.
const REGION: &str = "6f7c1a52-3b0d-4e7f-9c15-8a2d40e6b913";

fn log_in(server: &Server, credentials: &str) -> Response {
    let (username, password) = credentials.split_once(':').expect("user:password");
    let body = json!({"username": username, "password": password});
    server.anonymous_curl("/api/user/login").json("POST", &body).run()
}

#[track_caller]
fn token_of(server: &Server, credentials: &str) -> String {
    let response = log_in(server, credentials);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["accessToken"].as_str().expect("a token").to_owned()
}

fn with_token(curl: Curl, token: &str) -> Curl {
    curl.arg("--cookie").arg(format!("AccessToken={token}"))
}

fn call(server: &Server, token: &str, what: &str, body: &Value) -> Response {
    let curl = server.anonymous_curl(&format!("/api/storage/volume/{what}"));
    with_token(curl.json("POST", body), token).run()
}

fn volume(name: &str, size: u64, volume_type: &str) -> Value {
    json!({"name": name, "sizeGB": size, "region": REGION, "volumeType": volume_type})
}

#[track_caller]
fn created(server: &Server, token: &str, body: &Value) -> Value {
    let response = call(server, token, "create", body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["volume"].clone()
}

#[track_caller]
fn listed(server: &Server, token: &str, page: u64, size: u64) -> (Vec<Value>, Value) {
    let pager = json!({"pager": {"currentPage": page, "pageSize": size}});
    let response = call(server, token, "list", &pager);
    assert_eq!(response.status, 200, "{response:?}");
    let body = response.json();
    (body["volumeList"].as_array().expect("a list").clone(), body["pager"].clone())
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, word: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.field("content-type"), "application/json");
    let body = response.json();
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
    assert!(body["message"].as_str().is_some_and(|told| told.contains(word)), "{body}");
}

#[test]
fn a_volume_is_made_listed_and_removed() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    let made = created(&server, &token, &volume("example-volume", 200, "filesystem"));
    let id = made["id"].as_str().unwrap();
    assert!(uuid::Uuid::try_parse(id).is_ok());
    let expected = json!({
        "id": id, "volumeName": "example-volume", "region": REGION, "volumeType": "filesystem",
        "sizeGB": 200, "usageGB": 0, "status": "Pending", "username": "admin",
    });
    assert_eq!(made, expected);
    let again = call(&server, &token, "create", &volume("example-volume", 1, "filesystem"));
    assert_refused(&again, 409, "Volume already exists");
    // The name is taken for volumes of other types, too.
    assert_eq!(call(&server, &token, "create", &volume("example-volume", 1, "highspeedstorage")).status, 409);

    let drive = created(&server, &token, &volume("my data", 3, "highspeedstorage"));
    assert_eq!((&drive["status"], &drive["sizeGB"]), (&json!("Pending"), &json!(3)));
    assert_eq!(call(&server, &token, "create", &volume("my data", 3, "highspeedstorage")).status, 409);
    let (volumes, pager) = listed(&server, &token, 1, 10);
    assert_eq!(pager, json!({"currentPage": 1, "pageSize": 10, "total": 2}));
    let mut available = [expected, drive.clone()];
    for volume in &mut available {
        volume["status"] = json!("Available");
    }
    assert_eq!(volumes, available);

    let delete = |id: &Value| call(&server, &token, "delete", &json!({"volumeId": id}));
    for volume in volumes {
        let response = delete(&volume["id"]);
        assert_eq!((response.status, response.json()), (200, json!({})), "{response:?}");
        assert_refused(&delete(&volume["id"]), 404, "Volume not found");
    }
    assert_refused(&delete(&json!("da18c47c-xxxx-xxxx-xxxx-f5289ab0c8c3")), 404, "Volume not found");
    assert_eq!(listed(&server, &token, 1, 10).1["total"], json!(0));
    assert_eq!(server.drives(), Vec::<String>::new());
    // The names are free again.
    created(&server, &token, &volume("example-volume", 1, "highspeedstorage"));
}

#[test]
fn a_drive_is_everybodys_drive_and_a_foreign_one_is_listed_too() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    let id = created(&server, &token, &volume("data", 2, "highspeedstorage"))["id"].as_str().unwrap().to_owned();
    let drive = server.drive(&id);
    assert_eq!(drive["size"], json!(2_u64 << 30));
    assert_eq!((&drive["status"], &drive["name"]), (&json!("unmounted"), &json!("data")));

    let body = json!({"name": "data", "size": (1_u64 << 30) + 1, "media": "disk"});
    let made = server.curl("/api/2.0/drives/").json("POST", &body).run();
    assert_eq!(made.status, 201, "a label of another dialect takes no name: {made:?}");
    assert_eq!(server.curl("/volumes/create").json("POST", &json!({"Name": "tree"})).run().status, 201);
    let (volumes, _) = listed(&server, &token, 1, 10);
    let told: Vec<Value> = volumes
        .iter()
        .map(|one| json!([one["volumeName"], one["volumeType"], one["sizeGB"], one["region"], one["username"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["data", "highspeedstorage", 2, REGION, "admin"]),
            json!(["data", "highspeedstorage", 2, REGION, "admin"]),
            json!(["tree", "filesystem", 10, REGION, "admin"]),
        ]
    );
    // Both APIs share the names of trees.
    let again = call(&server, &token, "create", &volume("tree", 1, "filesystem"));
    assert_refused(&again, 409, "Volume already exists");
    for volume in volumes {
        assert_eq!(call(&server, &token, "delete", &json!({"volumeId": volume["id"]})).status, 200);
    }
    assert_eq!(server.curl("/volumes").run().json()["Volumes"], json!([]));
}

#[test]
fn a_filesystem_is_filled_by_a_session_and_downloaded() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    let made = created(&server, &token, &volume("site-1", 4, "filesystem"));
    fill(&server, "site-1", &archive(server.scratch(), "a"));
    let (volumes, _) = listed(&server, &token, 1, 10);
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert_eq!((&volumes[0]["id"], &volumes[0]["sizeGB"]), (&made["id"], &json!(4)));
    assert_eq!(volumes[0]["status"], json!("Available"));
    let back = server.scratch().join("back.tar");
    fetch(&server, "site-1", &back);
    let dir = server.scratch().join("back");
    untar(&back, &dir);
    assert_same_trees(&sample(server.scratch(), "a"), &dir);
    assert_eq!(call(&server, &token, "delete", &json!({"volumeId": made["id"]})).status, 200);
    assert_eq!(server.curl("/volumes/site-1").run().status, 404);
}

#[test]
fn of_many_who_want_a_name_at_once_one_gets_it() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    for volume_type in ["highspeedstorage", "filesystem"] {
        let body = volume(&format!("only-{volume_type}"), 1, volume_type);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let ask = || call(&server, &token, "create", &body).status;
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    }
    assert_eq!(listed(&server, &token, 1, 10).1["total"], json!(2));
}

#[test]
fn a_list_comes_in_pages_that_hold_everything_once() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    for at in 0..7 {
        let volume_type = if at % 2 == 0 { "filesystem" } else { "highspeedstorage" };
        created(&server, &token, &volume(&format!("v{at}"), 1, volume_type));
    }
    let mut names = Vec::new();
    for page in 1..=4 {
        let (volumes, pager) = listed(&server, &token, page, 3);
        assert_eq!(pager, json!({"currentPage": page, "pageSize": 3, "total": 7}));
        names.extend(volumes.iter().map(|volume| volume["volumeName"].as_str().unwrap().to_owned()));
    }
    assert_eq!(names, ["v0", "v1", "v2", "v3", "v4", "v5", "v6"]);
    assert_eq!(listed(&server, &token, u64::MAX, 1000).0, Vec::<Value>::new());
    let bare = call(&server, &token, "list", &json!({})).json();
    assert_eq!(bare["pager"], json!({"currentPage": 1, "pageSize": 10, "total": 7}));
}

#[test]
fn bodies_that_make_no_sense_are_refused_with_a_message() {
    let server = Setup::default().config("limits.max_drive = \"16GiB\"").start();
    let token = token_of(&server, &server.credentials());
    let with = |name: &str, value: Value| {
        let mut body = volume("v", 1, "highspeedstorage");
        body[name] = value;
        body.to_string()
    };
    let mut bodies = Vec::new();
    for name in ["name", "sizeGB", "region", "volumeType"] {
        let mut body = volume("v", 1, "highspeedstorage");
        body.as_object_mut().unwrap().remove(name);
        bodies.push((body.to_string(), name));
        for value in [json!(null), json!([]), json!({}), json!(true), json!("")] {
            bodies.push((with(name, value), name));
        }
    }
    let sizes = [json!(0), json!(-1), json!(1.5), json!(u64::MAX), json!(1e300), json!("1"), json!(17), json!(1 << 30)];
    for value in sizes {
        bodies.push((with("sizeGB", value), "sizeGB"));
    }
    bodies.push((volume("v", 1001, "filesystem").to_string(), "sizeGB"));
    for name in ["a b", "../x", "create", ".", "x".repeat(129).as_str()] {
        bodies.push((volume(name, 1, "filesystem").to_string(), "name"));
    }
    bodies.push((with("name", json!("x".repeat(256))), "name"));
    bodies.push((with("name", json!("a\u{0}b")), "name"));
    bodies.push((with("region", json!("fce31a0c-xxxx-xxxx-xxxx-41caa1bdd251")), REGION));
    bodies.push((with("volumeType", json!("tape")), "filesystem, highspeedstorage"));
    for text in ["", " ", "[]", "null", "7", "\"x\"", "{", "{}}", "{\"name\": \"a\", \"name\": \"b\"}", "\u{feff}{}"] {
        bodies.push((text.to_owned(), ""));
    }
    bodies.push(("[".repeat(30_000), "body"));
    bodies.push((format!("{{\"name\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000)), "body"));
    let send = |what: &str, body: &str| {
        let file = server.scratch().join("body.json");
        fs::write(&file, body).unwrap();
        let curl = server.anonymous_curl(&format!("/api/storage/volume/{what}")).method("POST");
        let curl = curl.header("Content-Type: application/json").arg("--data-binary");
        with_token(curl.arg(format!("@{}", file.display())), &token).run()
    };
    for (body, word) in bodies {
        let response = send("create", &body);
        assert_eq!(response.status, 400, "{}: {response:?}", &body[..body.len().min(200)]);
        assert_refused(&response, 400, word);
    }
    for body in ["{\"pager\": 1}", "{\"pager\": {\"currentPage\": 0}}", "{\"pager\": {\"pageSize\": -1}}", "[]"] {
        assert_refused(&send("list", body), 400, "");
    }
    for body in ["{}", "{\"volumeId\": null}", "{\"volumeId\": 7}", "{\"volumeId\": [\"x\"]}"] {
        assert_refused(&send("delete", body), 400, "volumeId");
    }
    assert_refused(&send("create", &" ".repeat((64 << 10) + 1)), 413, "");
    assert_eq!(listed(&server, &token, 1, 10).1["total"], json!(0));
    // A GET, and a path that does not exist.
    let get = server.anonymous_curl("/api/storage/volume/list").run();
    assert_refused(&get, 405, "POST");
    assert_eq!(get.field("allow"), "POST");
    assert_refused(&server.anonymous_curl("/api/storage/volume/resize").method("POST").run(), 404, "");
}

#[test]
fn a_body_that_a_foreign_page_could_send_is_refused() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    let body = volume("v", 1, "filesystem").to_string();
    for kind in [
        "Content-Type: text/plain",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data; boundary=application/json",
        "Content-Type: application/json-seq",
        "Content-Type: text/plain; application/json",
        "Content-Type:",
    ] {
        for path in ["/api/storage/volume/create", "/api/user/login"] {
            let curl = server.anonymous_curl(path).method("POST").header(kind).args(&["--data-binary", &body]);
            assert_refused(&with_token(curl, &token).run(), 415, "application/json");
        }
    }
    assert_eq!(listed(&server, &token, 1, 10).1["total"], json!(0));
    let curl = server.anonymous_curl("/api/storage/volume/create").args(&["--data-binary", &body]);
    let curl = curl.header("Content-Type: Application/JSON; charset=utf-8");
    assert_eq!(with_token(curl, &token).run().status, 200);
}

#[test]
fn a_login_sets_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let server = Server::start();
    let response = log_in(&server, &server.credentials());
    let token = response.json()["accessToken"].as_str().unwrap().to_owned();
    let cookie = format!("AccessToken={token}; HttpOnly; SameSite=Lax; Path=/; Max-Age=86400");
    assert_eq!(response.field("set-cookie"), cookie);
    assert_eq!(response.field("cache-control"), "no-store");
    let public = Setup::default().config("control.public_url = \"https://api.example.com\"").start();
    assert!(log_in(&public, &public.credentials()).field("set-cookie").ends_with("; Secure"));

    // In the form of curl's cookie jar, and in other valid forms.
    let jar = server.scratch().join("jar");
    let (username, password) = server.credentials().split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())).unwrap();
    let body = json!({"username": username, "password": password});
    let curl = server.anonymous_curl("/api/user/login").json("POST", &body).arg("--cookie-jar").arg(&jar);
    assert_eq!(curl.run().status, 200);
    let list = || server.anonymous_curl("/api/storage/volume/list").json("POST", &json!({}));
    assert_eq!(list().arg("--cookie").arg(&jar).run().status, 200);
    for header in [
        format!("Cookie: a=b; AccessToken=\"{token}\"; c=d"),
        format!("Cookie: AccessToken=stale; AccessToken={token}"),
        format!("Authorization: Bearer {token}"),
    ] {
        assert_eq!(list().header(&header).run().status, 200, "{header}");
    }
    let two = list().header("Cookie: theme=dark").header(&format!("Cookie: AccessToken={token}"));
    assert_eq!(two.run().status, 200);
    for header in ["Cookie: AccessToken=", "Cookie: a=b", "Authorization: Bearer x", "Authorization: Bearer", "X: y"] {
        let response = list().header(header).run();
        assert_refused(&response, 401, "access token");
        assert_eq!(response.field("www-authenticate"), "Bearer realm=\"longshore\"");
    }
    // This API accepts no password.
    assert_refused(&list().user(&server.credentials()).run(), 401, "access token");
    let logged = server.logged();
    assert!(!logged.contains(&token) && !logged.contains(&password), "secrets are in the log");
}

#[test]
fn only_the_right_password_gets_a_token() {
    let server = Server::start();
    for credentials in ["admin:guess", "nobody:guess", "admin:", ":", "ad\u{1}min:x"] {
        let response = log_in(&server, credentials);
        assert_refused(&response, 401, "user name and password");
        assert_eq!(response.values("set-cookie"), Vec::<&str>::new());
    }
    assert_eq!(server.metric("longshore_login_failures_total"), Some(5.0));
    let of = |body: Value| server.anonymous_curl("/api/user/login").json("POST", &body).run();
    for body in [
        json!({}),
        json!({"username": "admin"}),
        json!({"username": "admin", "password": 7}),
        json!({"username": ["admin"], "password": "x"}),
        json!([]),
    ] {
        assert_eq!(of(body.clone()).status, 400, "{body}");
    }
}

#[test]
fn volumes_are_nobody_elses_and_within_the_quota() {
    let server = Server::start();
    let token = token_of(&server, &server.credentials());
    let output = server.user_command(&["add", "alice", "--max-bytes", "3GiB"]);
    let alice = token_of(&server, String::from_utf8(output.stdout).unwrap().trim());
    let mine = created(&server, &token, &volume("same", 1, "filesystem"));
    let hers = created(&server, &alice, &volume("same", 2, "filesystem"));
    assert_eq!(hers["username"], json!("alice"));
    assert_refused(&call(&server, &alice, "delete", &json!({"volumeId": mine["id"]})), 404, "Volume not found");
    assert_eq!(listed(&server, &alice, 1, 10).0.len(), 1);
    for volume_type in ["filesystem", "highspeedstorage"] {
        assert_refused(&call(&server, &alice, "create", &volume("more", 2, volume_type)), 403, "quota");
    }
    created(&server, &alice, &volume("more", 1, "highspeedstorage"));
}

#[test]
fn a_new_password_ends_the_tokens_of_the_old_one() {
    let mut server = Server::start();
    let old = token_of(&server, &server.add_user("alice"));
    let status = |server: &Server, token: &str| call(server, token, "list", &json!({})).status;
    assert_eq!(status(&server, &old), 200);
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(status(&server, &old), 200, "a restart ends no token");
    let changed = server.user_command(&["passwd", "alice"]);
    let new = token_of(&server, String::from_utf8(changed.stdout).unwrap().trim());
    assert_eq!((status(&server, &old), status(&server, &new)), (401, 200));
    assert!(server.user_command(&["remove", "alice"]).status.success());
    assert_eq!(status(&server, &new), 401);
}

/// Returns the key that a server signs with.
fn key_of(server: &Server) -> KeyPair {
    let text = fs::read(server.data().join("hpc-ai.key")).expect("a file of keys");
    let stored: Value = serde_json::from_slice(&text).expect("JSON");
    let private = stored[0]["private"].as_str().and_then(|text| STANDARD.decode(text).ok()).expect("a key in base64");
    KeyPair::from_pkcs8(&private).expect("a key")
}

fn part(token: &str, at: usize) -> Value {
    let text = token.split('.').nth(at).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).expect("a part in base64");
    serde_json::from_slice(&text).expect("JSON")
}

fn message(head: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// Makes a token of this head and these claims, signed by RS256 whatever the head says.
fn signed(key: &KeyPair, head: &Value, claims: &Value) -> String {
    let message = message(head, claims);
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("a signature");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The tokens are made here, without the library by which the server reads them.
#[test]
fn forged_tokens_are_refused() {
    let server = Server::start();
    let good = token_of(&server, &server.credentials());
    let (key, head, claims) = (key_of(&server), part(&good, 0), part(&good, 1));
    let status = |token: &str| {
        let header = server.scratch().join("header");
        fs::write(&header, format!("Cookie: AccessToken={token}\n")).unwrap();
        let curl = server.anonymous_curl("/api/storage/volume/list").json("POST", &json!({}));
        curl.header(&format!("@{}", header.display())).run().status
    };
    let exp = claims["exp"].as_i64().unwrap();
    assert_eq!(exp - claims["iat"].as_i64().unwrap(), 86_400);
    assert_eq!(status(&signed(&key, &head, &claims)), 200, "the test signs as the server does");
    assert_eq!(status(&good), 200);

    let head_with = |name: &str, value: Value| {
        let mut head = head.clone();
        head[name] = value;
        head
    };
    let with = |changes: &[(&str, Value)]| {
        let mut claims = claims.clone();
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        claims
    };
    let (body, signature) = (good.split('.').nth(1).unwrap(), good.split('.').nth(2).unwrap());
    let mut forged = BTreeSet::new();
    for alg in ["none", "None", "HS256", "RS512", "PS256", "ES256", "EdDSA", ""] {
        let head = head_with("alg", json!(alg));
        forged.insert(signed(&key, &head, &claims));
        forged.insert(format!("{}.", message(&head, &claims)));
        forged.insert(format!("{}.{signature}", message(&head, &claims)));
    }
    // The public key as a shared secret, as bytes and as text.
    let public = key.public_key().as_ref();
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n", STANDARD.encode(public));
    for secret in [public, pem.as_bytes(), b""] {
        let message = message(&head_with("alg", json!("HS256")), &claims);
        let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(&message).finalize().into_bytes();
        forged.insert(format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac)));
    }
    // Another key, under the name of this key and under others.
    let foreign = KeyPair::generate(KeySize::Rsa2048).unwrap();
    for kid in [head["kid"].clone(), json!("other"), json!(""), json!(null), json!("../hpc-ai.key")] {
        forged.insert(signed(&foreign, &head_with("kid", kid.clone()), &claims));
        if kid != head["kid"] {
            forged.insert(signed(&key, &head_with("kid", kid), &claims));
        }
    }
    let mut brought = head_with("jku", json!("http://127.0.0.1:1/keys"));
    brought["jwk"] = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    forged.insert(signed(&foreign, &brought, &claims));
    // The right key with wrong claims.
    for changes in [
        &[("aud", json!(["other"]))][..],
        &[("aud", json!([]))],
        &[("aud", json!(null))],
        &[("iss", json!("other"))],
        &[("iss", json!(null))],
        &[("iat", json!(exp - 172_801)), ("exp", json!(exp - 86_401))],
        &[("iat", json!(exp)), ("exp", json!(exp + 86_400))],
        &[("exp", json!(exp + 1))],
        &[("exp", json!(u64::MAX))],
        &[("exp", json!("9999999999"))],
        &[("exp", json!(null))],
        &[("iat", json!(null))],
        &[("sub", json!("01938c2e-7d10-7a42-9b51-3f0c5d2e8a77"))],
        &[("sub", json!("admin"))],
        &[("pwd", json!(""))],
        &[("pwd", json!(null))],
    ] {
        forged.insert(signed(&key, &head, &with(changes)));
    }
    let mut digest = vec![0; key.public_modulus_len()];
    let said = message(&head, &claims);
    key.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), said.as_bytes(), &mut digest).unwrap();
    forged.insert(format!("{said}.{}", URL_SAFE_NO_PAD.encode(digest)));
    // The signature is that of other claims.
    forged.insert(format!("{}.{signature}", message(&head, &with(&[("group", json!(["admin", "root"]))]))));
    // Texts that are no tokens.
    for garbage in ["", ".", "..", "a.b.c", "%00", &good[1..], &good[..good.len() - 4]] {
        forged.insert(garbage.to_owned());
    }
    forged.insert(format!("{good}.{body}"));
    forged.insert("A".repeat(8193));
    forged.insert(signed(&key, &head, &with(&[("x", json!("x".repeat(8192)))])));
    for token in forged {
        assert_eq!(status(&token), 401, "{}", &token[..token.len().min(1500)]);
    }
    assert_eq!(status(&good), 200);

    // The same key on a server with another audience.
    let data = server.data().to_owned();
    let mut server = server;
    assert!(server.terminate().success());
    let other = Setup::default().data(&data).config("hpc_ai.audience = \"other\"").start();
    assert_eq!(call(&other, &good, "list", &json!({})).status, 401);
    assert_eq!(call(&other, &token_of(&other, &other.credentials()), "list", &json!({})).status, 200);
}

#[test]
fn the_key_is_its_owners_alone_and_made_with_the_first_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = Server::start();
    let path = server.data().join("hpc-ai.key");
    assert!(!path.exists());
    token_of(&server, &server.credentials());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(server.terminate().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Setup::default().data(server.data()).start_refused();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hpc-ai.key"), "{refused:?}");
}

#[test]
fn regions_and_types_are_those_of_the_configuration() {
    let server = Setup::default()
        .config("hpc_ai.regions = [{id = \"r1\", name = \"one\"}, {id = \"r2\", name = \"two\"}]")
        .config("hpc_ai.volume_types = [\"fast\", \"slow\"]")
        .start();
    let token = token_of(&server, &server.credentials());
    let of = |name: &str, region: &str, volume_type: &str| {
        let body = json!({"name": name, "sizeGB": 1, "region": region, "volumeType": volume_type});
        call(&server, &token, "create", &body)
    };
    assert_eq!(of("a", "r2", "slow").json()["volume"]["region"], json!("r2"));
    assert_eq!(of("b", "r1", "filesystem").status, 200);
    assert_refused(&of("c", REGION, "slow"), 400, "r1 (one), r2 (two)");
    assert_refused(&of("c", "r1", "highspeedstorage"), 400, "filesystem, fast, slow");
    let (volumes, _) = listed(&server, &token, 1, 10);
    let told: Vec<Value> = volumes.iter().map(|one| json!([one["region"], one["volumeType"]])).collect();
    assert_eq!(told, [json!(["r2", "slow"]), json!(["r1", "filesystem"])]);
}

#[test]
fn a_token_of_another_api_is_as_good_as_a_login_here() {
    let server = Server::start();
    let cloud = crate::harness::Cloud::of(&server);
    let ask = |what: &str, token: &str, body: &Value| {
        let curl = server.anonymous_curl(&format!("/api/storage/volume/{what}"));
        curl.json("POST", body).header(&format!("X-Auth-Token: {token}")).run()
    };
    let made = ask("create", &cloud.token, &volume("a", 1, "highspeedstorage"));
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(server.drives().len(), 1);
    assert_refused(&ask("create", "another", &volume("b", 1, "highspeedstorage")), 401, "");
}
