//! SIGTERM while bytes are on the way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::raw::basic;
use crate::harness::{Cloud, RawClient, Server, Setup, hyper, image, machine, peer, wait_for};

const LARGE: usize = 40 << 20;

/// A server with a large drive, and a peer that has begun to download it and stopped.
fn downloading(setup: Setup) -> (Server, TcpStream) {
    let server = setup.start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, LARGE as u64, 95);
    let path = server.capability(&server.upload(&disk));
    let mut socket = peer::narrow(server.authority());
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("the server takes the request");
    assert_eq!(peer::read_head(&mut socket).status, 200);
    (server, socket)
}

/// Waits until nobody can connect any more.
fn wait_for_closed_door(server: &Server) {
    wait_for("new connections to be refused", || TcpStream::connect(server.authority()).is_err().then_some(()));
}

#[test]
fn a_running_download_is_finished_before_the_server_ends() {
    let (mut server, mut socket) = downloading(Setup::default());
    server.signal(Signal::TERM);
    wait_for_closed_door(&server);
    let mut body = vec![0; LARGE];
    socket.read_exact(&mut body).unwrap();
    assert!(body == std::fs::read(server.scratch().join("disk.img")).unwrap());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn what_does_not_end_in_time_is_cut_and_leaves_nothing() {
    let (mut server, _stalled) = downloading(Setup::default().config("limits.drain_seconds = 0.5"));
    let before = machine::disk_usage(server.data());
    let mut upload = server.raw();
    upload.send_head(
        "POST /api/2.0/drives/upload/",
        &[&basic(&server.credentials()), "Content-Type: application/octet-stream", "Content-Length: 30000000"],
    );
    upload.send(&image::bytes(96, 20_000_000));
    let mut idle = server.raw();
    idle.send_head("GET /healthz", &[]);
    assert_eq!(idle.response().status, 200);
    server.signal(Signal::TERM);
    assert!(idle.is_closed(), "a connection without a request does not delay the end");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.data().join("endpoint").exists());

    server.restart();
    assert_eq!(server.drives().len(), 1);
    wait_for("the disk to be free again", || (machine::disk_usage(server.data()) <= before + (64 << 10)).then_some(()));
}

#[test]
fn stalled_transfers_over_tls_do_not_delay_the_end() {
    let mut server = peer::tls_setup().config("limits.drain_seconds = 0.5").start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, LARGE as u64, 97);
    let curl = |path: &str| peer::trusting(server.curl(path));
    let uuid = crate::harness::server::uuid_of(&curl("/api/2.0/drives/upload/").upload("POST", &disk).run());
    let path = curl(&format!("/api/2.0/drives/{uuid}/download/")).run().field("location").to_owned();
    let mut stream = peer::tls(peer::narrow(peer::authority(&server)), "http/1.1");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut stream).status, 200);
    // One that never speaks, too.
    let _silent = TcpStream::connect(peer::authority(&server)).unwrap();
    assert_eq!(server.terminate().code(), Some(0));
}

/// A client whose request has begun: its head was read, and its body is waited for.
fn begun(server: &Server, request: &str, fields: &[&str], body: &str) -> RawClient {
    let mut client = server.raw();
    let length = format!("Content-Length: {}", body.len());
    let always = ["Expect: 100-continue", "Content-Type: application/json", &length];
    client.send_head(request, &[fields, &always].concat());
    assert_eq!(client.head().status, 100);
    client
}

#[test]
fn requests_that_have_begun_when_the_server_is_told_to_stop_are_carried_out_and_answered() {
    let mut server = Server::start();
    let (user, cloud) = (basic(&server.credentials()), Cloud::of(&server));
    let token = format!("X-Auth-Token: {}", cloud.token);
    let volumes = format!("POST /v3/{}/volumes", cloud.project);
    let wishes = [
        (volumes.as_str(), &token, json!({"volume": {"size": 1}}), 202),
        ("POST /api/2.0/drives/", &user, json!({"objects": [{"name": "d", "size": 1 << 20, "media": "disk"}]}), 201),
        ("POST /volumes/initialize", &user, hyper::local(&["tree"]), 200),
    ];
    let begun: Vec<_> = wishes
        .into_iter()
        .map(|(request, login, body, status)| {
            let body = body.to_string();
            (begun(&server, request, &[login], &body), body, status)
        })
        .collect();
    let mut half = server.raw();
    half.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n");
    server.signal(Signal::TERM);
    wait_for_closed_door(&server);
    for (mut client, body, status) in begun {
        client.send(body.as_bytes());
        let response = client.response();
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.field("connection"), "close");
        assert!(client.is_closed());
    }
    assert!(half.is_closed(), "half a head does not delay the end");
    assert_eq!(server.wait().code(), Some(0));
    server.restart();
    assert_eq!(server.drives().len(), 2);
}
