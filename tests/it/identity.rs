//! The identity service: tokens for passwords, projects, the catalog; as curl and OpenStack's own client see it.

use serde_json::{Value, json};

use crate::harness::clients::{client, openstack, output_of, printed};
use crate::harness::server::uuid_of;
use crate::harness::{Response, Server, Setup, image, wait_for};

const TOKENS: &str = "/v3/auth/tokens";

/// Returns the body with which a client of version 3 logs in, with this scope.
fn wish(credentials: &str, scope: &Value) -> Value {
    let (name, password) = credentials.split_once(':').expect("credentials have a colon");
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}})
}

fn in_project(name: &str) -> Value {
    json!({"project": {"name": name, "domain": {"name": "Default"}}})
}

fn asked(server: &Server, wish: &Value) -> Response {
    server.anonymous_curl(TOKENS).json("POST", wish).run()
}

/// Returns a token for a user's own project.
#[track_caller]
fn token(server: &Server, credentials: &str) -> String {
    let response = asked(server, &wish(credentials, &Value::Null));
    assert_eq!(response.status, 201, "{response:?}");
    response.field("x-subject-token").to_owned()
}

fn with_token(server: &Server, token: &str, path: &str) -> Response {
    server.anonymous_curl(path).header(&format!("X-Auth-Token: {token}")).run()
}

fn names(response: &Response, list: &str) -> Vec<String> {
    let things = response.json()[list].as_array().cloned().unwrap_or_default();
    things.iter().map(|thing| thing["name"].as_str().expect("a name").to_owned()).collect()
}

/// Runs `longshore project ...`, which must succeed.
#[track_caller]
fn project_command(server: &Server, args: &[&str]) -> String {
    let output = server.command("project", args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn a_token_opens_every_api_in_its_project() {
    let server = Server::start();
    let alice = server.add_user("alice");
    project_command(&server, &["add", "shop"]);
    project_command(&server, &["grant", "alice", "shop"]);
    let response = asked(&server, &wish(&alice, &in_project("shop")));
    let token = format!("X-Auth-Token: {}", response.field("x-subject-token"));
    let project = response.json()["token"]["project"]["id"].as_str().unwrap().to_owned();
    let ask = |path: &str| server.anonymous_curl(path).header(&token);

    let (image, back) = (server.scratch().join("image"), server.scratch().join("back"));
    image::random(&image, 300_000, 1);
    let drive = uuid_of(&ask("/api/2.0/drives/upload/").upload("POST", &image).run());
    let drives = ask("/api/2.0/drives/").run().json();
    assert_eq!(drives["objects"][0]["uuid"], json!(drive));
    let volumes = ask(&format!("/v3/{project}/volumes")).run().json();
    assert_eq!(volumes["volumes"][0]["id"], json!(drive));
    let response = ask(&format!("/api/2.0/drives/{drive}/download/")).arg("--location").output(&back).run();
    assert_eq!(response.status, 200, "{response:?}");
    image::assert_same(&image, &back);
    assert_eq!((ask("/volumes").run().status, ask("/api/v1/sessions").run().status), (200, 200));
    assert!(server.drives_of(&alice).is_empty(), "the project of the user themselves is another");

    let wrong = server.anonymous_curl("/api/2.0/drives/").header("X-Auth-Token: wrong").run();
    assert_eq!(wrong.status, 401, "{wrong:?}");
}

#[test]
fn a_password_gets_a_token_that_opens_what_tokens_open_until_it_is_revoked() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let response = asked(&server, &wish(&alice, &in_project("alice")));
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(response.field("cache-control"), "no-store");
    let token = response.field("x-subject-token");
    let told = &response.json()["token"];
    assert_eq!((&told["user"]["name"], &told["project"]["name"]), (&json!("alice"), &json!("alice")));
    assert_eq!(told["methods"], json!(["password"]));

    assert_eq!(names(&with_token(&server, token, "/v3/auth/projects"), "projects"), ["alice"]);
    let about = |method: &str, token: &str| {
        let curl = server.anonymous_curl(TOKENS).header(&format!("X-Auth-Token: {token}"));
        let curl = curl.header(&format!("X-Subject-Token: {token}"));
        if method == "HEAD" { curl.arg("--head").run() } else { curl.method(method).run() }
    };
    let shown = about("GET", token);
    assert_eq!((shown.status, shown.field("x-subject-token")), (200, token));
    assert_eq!(shown.json()["token"]["expires_at"], told["expires_at"]);
    assert_eq!(about("HEAD", token).status, 200);
    assert_eq!(about("DELETE", token).status, 204);
    for method in ["GET", "HEAD", "DELETE"] {
        assert_eq!(about(method, token).status, 401);
    }
    assert_eq!(with_token(&server, token, "/v3/auth/projects").status, 401);
}

#[test]
fn who_has_no_token_is_told_where_to_get_one() {
    let server = Server::start();
    let nobody = server.anonymous_curl("/v3/auth/projects").run();
    let by_password = server.curl("/v3/auth/projects").run();
    for response in [nobody, by_password, with_token(&server, "x", "/v3/auth/projects")] {
        assert_eq!(response.status, 401);
        assert_eq!(response.field("www-authenticate"), format!("Keystone uri=\"{}/v3\"", server.endpoint()));
        let error = &response.json()["error"];
        assert_eq!((&error["code"], &error["title"]), (&json!(401), &json!("Unauthorized")));
    }
    let drives = server.anonymous_curl("/api/2.0/drives/").header(&format!("X-Auth-Token: {}", "0".repeat(64))).run();
    assert_eq!(drives.status, 401);
    assert!(drives.field("www-authenticate").starts_with("Basic "), "{drives:?}");
}

#[test]
fn wrong_passwords_are_counted_and_slowed_down_and_none_is_logged() {
    let server = Setup::default().config("log.level = \"longshore=debug\"").start();
    let alice = server.add_user("alice");
    let failures = || server.metric("longshore_login_failures_total").unwrap_or(0.0) as u32;
    let before = failures();
    for _ in 0..3 {
        let response = asked(&server, &wish("alice:geheimnis", &Value::Null));
        assert_eq!((response.status, &response.json()["error"]["code"]), (401, &json!(401)));
    }
    let old = json!({"auth": {"passwordCredentials": {"username": "alice", "password": "geheimnis"}}});
    assert_eq!(server.anonymous_curl("/v2.0/tokens").json("POST", &old).run().status, 401);
    assert_eq!(failures(), before + 4);
    assert_eq!(server.curl_as("alice:geheimnis", "/api/2.0/drives/").run().status, 401);
    // From the sixth attempt on there is a pause before each, by any route: half a second before the seventh.
    let started = std::time::Instant::now();
    assert_eq!(asked(&server, &wish("alice:geheimnis", &Value::Null)).status, 401);
    assert_eq!(server.curl_as("alice:geheimnis", "/api/2.0/drives/").run().status, 401);
    assert!(started.elapsed().as_millis() >= 500);

    let token = token(&server, &alice);
    with_token(&server, &token, "/v3/auth/projects");
    let (_, password) = alice.split_once(':').unwrap();
    let logged = server.wait_for_line("/v3/auth/tokens");
    for secret in ["geheimnis", password, &token] {
        assert!(!logged.contains(secret), "{secret} in {logged}");
    }
}

#[test]
fn a_request_that_is_none_is_refused_as_such() {
    let server = Server::start();
    let large = json!({"auth": "x".repeat(20_000)});
    for (body, status) in [
        (json!({}), 400),
        (json!({"auth": {"identity": {"methods": []}}}), 400),
        (json!({"auth": {"identity": {"methods": ["saml2"]}}}), 401),
        (wish("admin:x", &json!({"system": {"all": true}})), 400),
        (large, 413),
    ] {
        let response = asked(&server, &body);
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.json()["error"]["code"], json!(status));
    }
}

#[test]
fn a_project_is_open_to_whom_it_is_granted() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let id = project_command(&server, &["add", "shop"]).trim().to_owned();
    assert_eq!(asked(&server, &wish(&alice, &in_project("shop"))).status, 401);
    project_command(&server, &["grant", "alice", "shop"]);
    assert!(project_command(&server, &["list"]).contains("alice"));
    assert!(!server.command("project", &["remove", "shop"]).status.success(), "somebody belongs to it");

    let response = asked(&server, &wish(&alice, &json!({"project": {"id": id}})));
    assert_eq!(response.status, 201, "{response:?}");
    let shop = response.field("x-subject-token");
    assert_eq!(names(&with_token(&server, shop, "/v3/auth/projects"), "projects"), ["alice", "shop"]);
    let catalog = with_token(&server, shop, "/v3/auth/catalog").json();
    let urls: Vec<&str> =
        catalog["catalog"].as_array().unwrap().iter().map(|s| s["endpoints"][0]["url"].as_str().unwrap()).collect();
    assert!(urls.contains(&&*format!("{}/v3/{id}", server.endpoint())), "{urls:?}");

    project_command(&server, &["revoke", "alice", &id]);
    assert_eq!(asked(&server, &wish(&alice, &in_project("shop"))).status, 401);
    wait_for("the token to end", || (with_token(&server, shop, "/v3/auth/projects").status == 401).then_some(()));
    project_command(&server, &["remove", "shop"]);
}

#[test]
fn users_see_themselves_and_administrators_see_everybody() {
    let server = Server::start();
    let alice = token(&server, &server.add_user("alice"));
    let admin = token(&server, &server.credentials());
    let added = server.user_command(&["add", "root", "--admin"]);
    let root = token(&server, String::from_utf8(added.stdout).unwrap().trim());
    for (token, users) in
        [(&alice, vec!["alice"]), (&admin, vec!["admin", "alice", "root"]), (&root, vec!["admin", "alice", "root"])]
    {
        assert_eq!(names(&with_token(&server, token, "/v3/users"), "users"), users);
        assert_eq!(names(&with_token(&server, token, "/v3/projects"), "projects"), users);
    }
    let found = with_token(&server, &admin, "/v3/users?name=alice").json();
    let id = found["users"][0]["id"].as_str().unwrap();
    let project = found["users"][0]["default_project_id"].as_str().unwrap();
    for path in [format!("/v3/users/{id}"), format!("/v3/users/{id}/projects"), format!("/v3/projects/{project}")] {
        assert_eq!(with_token(&server, &admin, &path).status, 200, "{path}");
        assert_eq!(with_token(&server, &alice, &path).status, 200, "{path}");
    }
    let other = with_token(&server, &alice, "/v3/users").json()["users"][0]["id"].as_str().unwrap().replace('0', "1");
    assert_eq!(with_token(&server, &alice, &format!("/v3/users/{other}")).status, 404);
}

#[test]
fn a_removed_user_is_out_and_tokens_outlive_a_restart() {
    let mut server = Server::start();
    let alice = token(&server, &server.add_user("alice"));
    let bob = token(&server, &server.add_user("bob"));
    server.terminate();
    server.restart();
    for token in [&alice, &bob] {
        assert_eq!(with_token(&server, token, "/v3/auth/projects").status, 200);
    }
    assert!(server.user_command(&["remove", "alice"]).status.success());
    wait_for("the token to end", || (with_token(&server, &alice, "/v3/auth/projects").status == 401).then_some(()));
    assert_eq!(with_token(&server, &bob, "/v3/auth/projects").status, 200);
}

#[test]
fn old_clients_log_in_by_version_2() {
    let server = Setup::default().config("control.public_url = \"https://api.example.com\"").start();
    let credentials = server.add_user("alice");
    let (name, password) = credentials.split_once(':').unwrap();
    let version = server.anonymous_curl("/v2.0").run();
    assert_eq!((version.status, &version.json()["version"]["id"]), (200, &json!("v2.0")));
    let auth =
        json!({"auth": {"passwordCredentials": {"username": name, "password": password}, "tenantName": "alice"}});
    for path in ["/v2.0/tokens", "/v2/tokens"] {
        let response = server.anonymous_curl(path).json("POST", &auth).run();
        assert_eq!(response.status, 200, "{response:?}");
        let access = &response.json()["access"];
        let token = access["token"]["id"].as_str().unwrap();
        let tenants = with_token(&server, token, "/v2.0/tenants");
        assert_eq!(names(&tenants, "tenants"), ["alice"]);
        let tenant = access["token"]["tenant"]["id"].as_str().unwrap();
        let volume = access["serviceCatalog"].as_array().unwrap().iter().find(|service| service["type"] == "volume");
        let url = &volume.unwrap()["endpoints"][0]["publicURL"];
        assert_eq!(*url, json!(format!("https://api.example.com/v1/{tenant}")));
        let renewed = json!({"auth": {"token": {"id": token}, "tenantId": tenant}});
        let renewed = server.anonymous_curl(path).json("POST", &renewed).run();
        assert_eq!(renewed.json()["access"]["token"]["expires"], access["token"]["expires"]);
    }
}

#[test]
fn the_client_of_openstack_logs_in_and_finds_services_and_projects() {
    let server = Server::start();
    let admin = server.credentials();
    let Some(issue) = openstack(&server, &admin, &["token", "issue"]) else { return };
    let issued = printed(issue);
    let token = issued["id"].as_str().unwrap().to_owned();
    assert_eq!(with_token(&server, &token, "/v3/auth/projects").status, 200);

    let alice = server.add_user("alice");
    for (credentials, projects) in [(&admin, vec!["admin", "alice"]), (&alice, vec!["alice"])] {
        let listed = printed(openstack(&server, credentials, &["project", "list"]).unwrap());
        let names: Vec<&str> = listed.as_array().unwrap().iter().map(|p| p["Name"].as_str().unwrap()).collect();
        assert_eq!(names, projects);
    }
    let catalog = printed(openstack(&server, &alice, &["catalog", "list"]).unwrap());
    let types: Vec<&str> = catalog.as_array().unwrap().iter().map(|s| s["Type"].as_str().unwrap()).collect();
    for service in ["volume", "volumev2", "volumev3", "block-storage", "compute", "identity"] {
        assert!(types.contains(&service), "{types:?}");
    }
    let wrong = output_of(&openstack(&server, "alice:wrong", &["token", "issue"]).unwrap());
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("401"), "{said}");
    let revoked = output_of(&openstack(&server, &admin, &["token", "revoke", &token]).unwrap());
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(with_token(&server, &token, "/v3/auth/projects").status, 401);
}

/// Clients are given an address in many forms, and find the version for the login there.
#[test]
fn a_client_finds_out_how_to_log_in_from_any_address_and_with_or_without_domains() {
    const LOGIN: &str = "
import sys
from keystoneauth1.identity.generic import Password
from keystoneauth1.session import Session
base, user, password = sys.argv[1:]
for path in ['', '/', '/v3', '/v3/', '/v2.0', '/v2.0/']:
    for domain in ['default', None] if not path.startswith('/v2') else [None]:
        session = Session(Password(base + path, username=user, password=password, project_name=user,
                                   user_domain_id=domain, project_domain_id=domain))
        print(path, domain, session.get_endpoint(service_type='volumev2'))
";
    let server = Server::start();
    let alice = server.add_user("alice");
    let (name, password) = alice.split_once(':').unwrap();
    let Some(mut python) = client(&server, &alice, "openstack-clients", "python") else { return };
    let output = python.args(["-c", LOGIN, server.endpoint(), name, password]).output().expect("python runs");
    let said = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let projects = with_token(&server, &token(&server, &alice), "/v3/auth/projects").json();
    let url = format!("{}/v2/{}", server.endpoint(), projects["projects"][0]["id"].as_str().unwrap());
    assert_eq!(said.lines().filter(|line| line.ends_with(&url)).count(), 10, "{said}");
}
