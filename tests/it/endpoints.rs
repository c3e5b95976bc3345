//! One listener or two, the URLs that point from one to the other, and the tickets in them.

use std::io::Write as _;
use std::net::TcpStream;

use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::{Curl, PATIENCE, Response, Server, Setup, image, peer, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";

/// Starts a server with separate sides; returns the URLs of both, the direct one first.
fn split(setup: Setup, direct: &str, control: &str) -> (Server, String, String) {
    let server = setup
        .config(&format!("direct.listen = \"{direct}\""))
        .config(&format!("control.listen = \"{control}\""))
        .start();
    let endpoints: Vec<&str> = server.endpoint().lines().collect();
    let [direct, control] = endpoints[..] else { panic!("{endpoints:?}") };
    let (direct, control) = (direct.to_owned(), control.to_owned());
    (server, direct, control)
}

/// Uploads to this side, and requests a download from the other.
fn redirect(server: &Server, direct: &str, control: &str) -> (String, Response) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 300_000, 91);
    let curl = |url: String| Curl::new(&url).user(&server.credentials());
    let uuid = uuid_of(&curl(format!("{direct}{UPLOAD}")).upload("POST", &disk).run());
    let response = curl(format!("{control}/api/2.0/drives/{uuid}/download/")).run();
    assert_eq!(response.status, 302, "{response:?}");
    (uuid, response)
}

#[test]
fn two_listeners_serve_their_own_routes_only() {
    let (server, direct, control) = split(Setup::default(), "127.0.0.1:0", "127.0.0.1:0");
    let (uuid, redirect) = redirect(&server, &direct, &control);
    let place = redirect.field("location");
    assert!(place.starts_with(&format!("{direct}/t/")), "{place}");
    let curl = |url: String| Curl::new(&url).user(&server.credentials());
    let download = format!("{control}/api/2.0/drives/{uuid}/download/");
    let back = server.scratch().join("back.img");
    assert_eq!(curl(download).arg("--location").output(&back).run().status, 200);
    image::assert_same(&server.scratch().join("disk.img"), &back);

    let ticket = place.strip_prefix(&direct).unwrap();
    for wrong in [format!("{control}{ticket}"), format!("{control}{UPLOAD}")] {
        let disk = server.scratch().join("disk.img");
        let response = if wrong.ends_with(UPLOAD) { curl(wrong).upload("POST", &disk) } else { curl(wrong) };
        assert_eq!(response.run().status, 404);
    }
    for path in ["/api/2.0/drives/", "/api/2.0/drives/detail/", &format!("/api/2.0/drives/{uuid}/"), "/metrics"] {
        assert_eq!(curl(format!("{direct}{path}")).run().status, 404, "{path}");
    }
    // The only route on both sides, since some clients download from where they uploaded.
    assert_eq!(curl(format!("{direct}/api/2.0/drives/{uuid}/download/")).run().status, 302);
    for side in [&direct, &control] {
        assert_eq!(curl(format!("{side}/healthz")).run().status, 200);
    }
}

#[test]
fn a_redirect_names_the_address_that_the_other_side_listens_on() {
    let (server, direct, control) = split(Setup::default(), "127.0.0.1:0", "127.0.0.2:0");
    let (_, response) = redirect(&server, &direct, &control);
    let place = response.field("location");
    assert!(place.starts_with(&format!("{direct}/t/")), "{place} is not at {direct}");
    assert_eq!(Curl::new(place).run().body.len(), 300_000);

    // On all addresses: the URL has the one that this client used.
    let (server, direct, control) = split(Setup::default(), "0.0.0.0:0", "0.0.0.0:0");
    let reached = |url: &str| url.replace("0.0.0.0", "127.0.0.3");
    let (_, response) = redirect(&server, &reached(&direct), &reached(&control));
    let place = response.field("location");
    assert!(place.starts_with(&format!("{}/t/", reached(&direct))), "{place}");
}

#[test]
fn public_urls_are_what_clients_are_told() {
    let setup = Setup::default()
        .config("direct.public_url = \"https://data.example.com:8443/x\"")
        .config("control.public_url = \"https://api.example.com\"");
    let server = setup.start();
    let (_, response) = redirect(&server, server.endpoint(), server.endpoint());
    assert!(response.field("location").starts_with("https://data.example.com:8443/x/t/"), "{response:?}");
    let created = server
        .curl("/api/2.0/drives/")
        .json("POST", &serde_json::json!({"name": "n", "size": 70_000, "media": "disk"}));
    let created = created.run();
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.field("location").starts_with("https://api.example.com/api/2.0/drives/"), "{created:?}");
    let locations = server.curl("/api/2.0/locations/").run().text();
    assert!(locations.contains("\"https://api.example.com/api/2.0/\""), "{locations}");
    assert!(locations.contains("\"https://data.example.com:8443/x/api/2.0/\""), "{locations}");
}

#[test]
fn without_public_urls_redirects_on_one_listener_are_relative() {
    let server = Server::start();
    let (_, response) = redirect(&server, server.endpoint(), server.endpoint());
    assert!(response.field("location").starts_with("/t/"), "{response:?}");
}

#[test]
fn a_forged_host_is_never_repeated() {
    for (server, authority) in [
        {
            let server = Server::start();
            let authority = server.authority().to_owned();
            (server, authority)
        },
        {
            let (server, _, control) = split(Setup::default(), "127.0.0.1:0", "127.0.0.1:0");
            let authority = control.strip_prefix("http://").unwrap().to_owned();
            (server, authority)
        },
    ] {
        let credentials = server.credentials();
        let direct = server.endpoint().lines().next().unwrap().to_owned();
        let control = format!("http://{authority}");
        let (uuid, _) = redirect(&server, &direct, &control);
        let body = "{\"name\": \"n\", \"size\": 70000, \"media\": \"disk\"}";
        let cases = [
            ("GET", format!("/api/2.0/drives/{uuid}/download/"), ""),
            ("GET", "/api/2.0/locations/".to_owned(), ""),
            ("GET", "/api/2.0/drives/detail/".to_owned(), ""),
            ("GET", "/nowhere".to_owned(), ""),
            ("POST", "/api/2.0/drives/".to_owned(), body),
            ("GET", "/t/x/00000000-0000-4000-8000-000000000000".to_owned(), ""),
        ];
        for (method, path, body) in cases {
            for target in [path.clone(), format!("http://evil.example{path}")] {
                let mut socket = TcpStream::connect(&authority).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n\
                     X-Forwarded-Proto: evil\r\nForwarded: host=evil.example\r\nX-Forwarded-For: evil.example\r\n{}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    basic(&credentials),
                    body.len()
                );
                socket.write_all(request.as_bytes()).unwrap();
                let mut answer = Vec::new();
                std::io::Read::read_to_end(&mut socket, &mut answer).unwrap();
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
                assert!(!answer.contains("evil"), "{method} {target}: {answer}");
            }
        }
    }
}

/// Returns the status of a GET of this path.
fn status(server: &Server, path: &str) -> u16 {
    server.anonymous_curl(path).run().status
}

#[test]
fn a_ticket_is_good_for_its_drive_only_and_only_as_it_was_given() {
    let server = Server::start();
    let (uuid, response) = redirect(&server, server.endpoint(), server.endpoint());
    let path = response.field("location").to_owned();
    let (other, _) = redirect(&server, server.endpoint(), server.endpoint());
    assert_eq!(status(&server, &path), 200);
    assert_eq!(status(&server, &path.replace(&uuid, &other)), 403);
    let token = path.split('/').nth(2).unwrap();
    // A change of any byte is refused.
    for at in 0..token.len() {
        let mut forged = token.as_bytes().to_vec();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(status(&server, &path.replace(token, &forged)), 403, "byte {at}");
    }
    for forged in ["x", "%00", "..", &token[1..], &token[..token.len() - 1], &format!("{token}A"), &token.repeat(50)] {
        assert!(matches!(status(&server, &path.replace(token, forged)), 403 | 404), "{forged}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let response = server.anonymous_curl(&path).method(method).args(&["--data", "x"]).run();
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.field("allow"), "GET, HEAD, OPTIONS");
    }
    // The ticket gives no other access.
    assert_eq!(status(&server, &format!("/api/2.0/drives/{uuid}/?token={token}")), 401);
    assert_eq!(server.curl(&format!("/api/2.0/drives/{uuid}/")).method("DELETE").run().status, 204);
    assert_eq!(status(&server, &path), 404);
}

#[test]
fn a_ticket_expires() {
    let server = Setup::default().config("limits.ticket_seconds = 1\nlimits.ticket_most_seconds = 1").start();
    let (_, response) = redirect(&server, server.endpoint(), server.endpoint());
    let path = response.field("location").to_owned();
    wait_for("the ticket to expire", || (status(&server, &path) == 403).then_some(()));
}

/// At the most detailed level, for every operation, over both versions of HTTP.
#[test]
fn secrets_are_not_logged() {
    let server = peer::tls_setup().config("log.level = \"trace\"").start();
    let credentials = server.credentials();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 300_000, 92);
    let mut secrets = vec![credentials.split_once(':').unwrap().1.to_owned(), "wrong-guess".to_owned()];
    secrets.push(basic(&credentials).rsplit(' ').next().unwrap().to_owned());
    secrets.push(basic("admin:wrong-guess").rsplit(' ').next().unwrap().to_owned());
    for version in ["--http1.1", "--http2"] {
        let curl = |path: &str| peer::trusting(server.curl(path)).arg(version);
        let anonymous = |path: &str| peer::trusting(server.anonymous_curl(path)).arg(version);
        let uuid = uuid_of(&curl(UPLOAD).upload("POST", &disk).run());
        let path = curl(&format!("/api/2.0/drives/{uuid}/download/")).run().field("location").to_owned();
        secrets.push(path.split('/').nth(2).unwrap().to_owned());
        assert_eq!(anonymous(&path).run().status, 200);
        assert_eq!(anonymous(&path).args(&["--range", "5-10,20-30"]).run().status, 206);
        assert_eq!(anonymous(&path.replace(&uuid, "00000000-0000-4000-8000-000000000000")).run().status, 403);
        assert_eq!(anonymous(&path).method("POST").run().status, 405);
        assert_eq!(anonymous("/api/2.0/drives/").user("admin:wrong-guess").run().status, 401);
        assert_eq!(curl(UPLOAD).header("Content-Type: text/plain").args(&["--data", "x"]).run().status, 415);
    }
    let mut broken = peer::tls(TcpStream::connect(peer::authority(&server)).unwrap(), "http/1.1");
    let head = format!("{}\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000", basic(&credentials));
    write!(broken, "POST {UPLOAD} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nthe start").unwrap();
    let list = || peer::trusting(server.curl("/api/2.0/drives/detail/")).run().text();
    wait_for("the upload to begin", || list().contains("\"uploading\"").then_some(()));
    drop(broken);
    server.wait_for_line("complete=false");
    let log = server.logged();
    assert!(log.contains("TRACE"), "the level is in effect");
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "a secret is logged: {}", line.unwrap_or_default());
    }
}
