//! The rights of a login end with it: with a token, a password, a user, a membership.

use serde_json::{Value, json};

use crate::harness::hyper::{self, Session};
use crate::harness::server::uuid_of;
use crate::harness::{Curl, Response, Server, image, wait_for};

/// Returns a token for this identity, for a project or for the user's own.
#[track_caller]
fn token(server: &Server, identity: &Value, project: Option<&str>) -> (String, Value) {
    let scope = project.map(|name| json!({"project": {"name": name, "domain": {"id": "default"}}}));
    let wish = json!({"auth": {"identity": identity, "scope": scope}});
    let answer = server.anonymous_curl("/v3/auth/tokens").json("POST", &wish).run();
    assert_eq!(answer.status, 201, "{answer:?}");
    (answer.field("x-subject-token").to_owned(), answer.json()["token"].clone())
}

fn by_password(credentials: &str) -> Value {
    let (name, password) = credentials.split_once(':').expect("credentials have a colon");
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    json!({"methods": ["password"], "password": {"user": user}})
}

fn by_token(token: &str) -> Value {
    json!({"methods": ["token"], "token": {"id": token}})
}

/// Exchanges a token for another one, as clients of version 2.0 do.
#[track_caller]
fn old_token(server: &Server, token: &str, tenant: &str) -> String {
    let wish = json!({"auth": {"token": {"id": token}, "tenantId": tenant}});
    let answer = server.anonymous_curl("/v2.0/tokens").json("POST", &wish).run();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["access"]["token"]["id"].as_str().expect("a token").to_owned()
}

/// Returns the statuses of the APIs' answers to a token.
fn statuses(server: &Server, token: &str, project: &str) -> Vec<u16> {
    let (block, shown) = (format!("/v3/{project}/volumes"), "/v2.0/tenants");
    let paths = ["/v3/auth/projects", shown, &block, "/api/2.0/drives/", "/volumes"];
    let ask = |path: &&str| server.anonymous_curl(path).header(&format!("X-Auth-Token: {token}")).run().status;
    paths.iter().map(ask).collect()
}

#[test]
fn a_token_that_ends_takes_those_with_it_that_were_had_by_it() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let (a, told) = token(&server, &by_password(&alice), None);
    let project = told["project"]["id"].as_str().expect("a project").to_owned();
    let b = old_token(&server, &a, &project);
    let (c, of_c) = token(&server, &by_token(&b), Some("alice"));
    let d = old_token(&server, &c, &project);
    let (other, _) = token(&server, &by_password(&alice), None);
    assert_eq!(of_c["audit_ids"][1], told["audit_ids"][0], "the chain is told");
    assert_eq!(of_c["expires_at"], told["expires_at"]);
    let revoke = |token: &str| {
        let curl = server.anonymous_curl("/v3/auth/tokens").method("DELETE").header(&format!("X-Auth-Token: {other}"));
        assert_eq!(curl.header(&format!("X-Subject-Token: {token}")).run().status, 204);
    };
    for token in [&a, &b, &c, &d, &other] {
        assert_eq!(statuses(&server, token, &project), [200; 5]);
    }
    revoke(&c);
    for (token, status) in [(&a, 200), (&b, 200), (&c, 401), (&d, 401), (&other, 200)] {
        assert_eq!(statuses(&server, token, &project), [status; 5]);
    }
    revoke(&a);
    for (token, status) in [(&a, 401), (&b, 401), (&c, 401), (&d, 401), (&other, 200)] {
        assert_eq!(statuses(&server, token, &project), [status; 5]);
    }
    let again = json!({"auth": {"identity": by_token(&b)}});
    assert_eq!(server.anonymous_curl("/v3/auth/tokens").json("POST", &again).run().status, 401);
}

/// Everything that a user can get by a login.
struct Had {
    token: String,
    signed: String,
    link: String,
    session: Session,
    archive: std::path::PathBuf,
}

impl Had {
    /// Gets everything by password, and a drive to download.
    #[track_caller]
    fn by(server: &Server, credentials: &str, number: u32) -> Self {
        let (name, password) = credentials.split_once(':').expect("credentials have a colon");
        let wish = json!({"username": name, "password": password});
        let signed = server.anonymous_curl("/api/user/login").json("POST", &wish).run().json();
        let image = server.scratch().join(format!("image-{number}"));
        image::random(&image, 100_000, 7);
        let upload = server.curl_as(credentials, "/api/2.0/drives/upload/").upload("POST", &image).run();
        let link = format!("/api/2.0/drives/{}/download/", uuid_of(&upload));
        let link = server.curl_as(credentials, &link).run().field("location").to_owned();
        let begun = server.curl_as(credentials, "/volumes/initialize");
        let begun = begun.json("POST", &hyper::local(&[&format!("tree-{number}")])).run();
        assert_eq!(begun.status, 200, "{begun:?}");
        Self {
            token: token(server, &by_password(credentials), None).0,
            signed: text_of(&signed, "accessToken"),
            link,
            session: Session::of(&begun),
            archive: hyper::archive(server.scratch(), &number.to_string()),
        }
    }

    /// Returns whether each of them is refused.
    fn are_refused(&self, server: &Server, number: u32) -> [bool; 4] {
        let list = server.anonymous_curl("/api/storage/volume/list").json("POST", &json!({}));
        let upload = |session: &Session| session.upload(&format!("tree-{number}"), &self.archive).run();
        let is_refused = |response: Response| (401..=410).contains(&response.status);
        [
            is_refused(
                server.anonymous_curl("/v3/auth/projects").header(&format!("X-Auth-Token: {}", self.token)).run(),
            ),
            is_refused(list.header(&format!("Authorization: Bearer {}", self.signed)).run()),
            is_refused(server.anonymous_curl(&self.link).arg("--head").run()),
            is_refused(upload(&self.session)),
        ]
    }
}

/// Finds a text anywhere in an answer.
fn text_of(value: &Value, name: &str) -> String {
    match value {
        Value::Object(fields) => match fields.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => fields.values().map(|value| text_of(value, name)).find(|text| !text.is_empty()).unwrap_or_default(),
        },
        _ => String::new(),
    }
}

#[track_caller]
fn succeeds(server: &Server, command: &str, args: &[&str]) -> String {
    let output = server.command(command, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints text").trim().to_owned()
}

#[test]
fn a_new_password_ends_tokens_links_and_sessions() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let bob = server.add_user("bob");
    let (of_alice, of_bob) = (Had::by(&server, &alice, 1), Had::by(&server, &bob, 2));
    let alice = succeeds(&server, "user", &["passwd", "alice"]);
    // The tree is free again as soon as the new password is accepted.
    let again = || server.curl_as(&alice, "/volumes/initialize").json("POST", &hyper::local(&["tree-1"])).run();
    wait_for("the new password to be good", || (again().status == 200).then_some(()));
    wait_for("everything to end", || (of_alice.are_refused(&server, 1) == [true; 4]).then_some(()));
    assert_eq!(of_bob.are_refused(&server, 2), [false; 4]);
}

#[test]
fn a_user_who_is_removed_takes_tokens_links_and_sessions_with_them() {
    let server = Server::start();
    let alice = server.add_user("alice");
    // The drives stay, since the tenant has another user.
    let bob = succeeds(&server, "user", &["add", "bob", "--tenant", "alice"]);
    let (of_alice, of_bob) = (Had::by(&server, &alice, 1), Had::by(&server, &bob, 2));
    succeeds(&server, "user", &["remove", "alice"]);
    wait_for("everything to end", || (of_alice.are_refused(&server, 1) == [true; 4]).then_some(()));
    assert_eq!(of_bob.are_refused(&server, 2), [false; 4]);
}

#[test]
fn a_membership_that_ends_takes_tokens_and_links_of_its_project_with_it() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let shop = succeeds(&server, "project", &["add", "shop"]);
    succeeds(&server, "project", &["grant", "alice", "shop"]);
    let (token, _) = token(&server, &by_password(&alice), Some("shop"));
    let ask = |path: &str| -> Curl { server.anonymous_curl(path).header(&format!("X-Auth-Token: {token}")) };
    let image = server.scratch().join("image");
    image::random(&image, 100_000, 7);
    let uuid = uuid_of(&ask("/api/2.0/drives/upload/").upload("POST", &image).run());
    let link = ask(&format!("/api/2.0/drives/{uuid}/download/")).run().field("location").to_owned();
    let begun = ask("/volumes/initialize").json("POST", &hyper::local(&["tree"])).run();
    let session = Session::of(&begun);
    assert_eq!(server.anonymous_curl(&link).arg("--head").run().status, 200);

    succeeds(&server, "project", &["revoke", "alice", &shop]);
    let is_over = || {
        let upload = session.upload("tree", &hyper::archive(server.scratch(), "x")).run().status;
        let link = server.anonymous_curl(&link).arg("--head").run().status;
        (ask("/api/2.0/drives/").run().status, link, upload)
    };
    wait_for("everything to end", || matches!(is_over(), (401, 403, 403 | 404 | 409 | 410)).then_some(()));
    assert_eq!(server.curl_as(&alice, "/api/2.0/drives/").run().status, 200, "the user is still one");
}

#[test]
fn credentials_in_a_source_that_is_refused_are_kept_nowhere() {
    let server = crate::harness::Setup::default().config("log.level = \"longshore=trace\"").start();
    for (number, source) in [
        "http://alice:geheimnis@example.com/file",
        "https://alice:geheimnis@example.com/repository.git:main",
        "git://alice:geheimnis@example.com/repository",
        "ftp://alice:geheimnis@example.com/file",
        "HTTP://alice:geheimnis@example.com/file",
        "alice:geheimnis@example.com:repository",
    ]
    .iter()
    .enumerate()
    {
        let body = json!({"Volume": [{"Name": format!("tree-{number}"), "Source": source}]});
        let answer = hyper::ask(&server, &body);
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!answer.text().contains("geheimnis"), "{answer:?}");
    }
    assert!(!server.curl("/api/v1/sessions").run().text().contains("geheimnis"));
    assert!(!server.logged().contains("geheimnis"), "{}", server.logged());
    for entry in std::fs::read_dir(server.data()).expect("the data folder").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(!bytes.windows(9).any(|window| window == b"geheimnis"), "{:?}", entry.path());
    }
}
