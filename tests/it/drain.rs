//! SIGTERM while transfers are running.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::raw::basic;
use crate::harness::{Cloud, RawClient, Server, Setup, hyper, image, machine, peer, wait_for};

const LARGE: usize = 40 << 20;

/// Starts a server with a large drive, and a peer that has begun to download it and stalls.
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

/// Waits until new connections are refused.
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
    // The leftovers of the closed connections were removed before the process ended.
    for folder in ["incoming", "trash"] {
        let left = std::fs::read_dir(server.data().join(folder)).unwrap().count();
        assert_eq!(left, 0, "{folder}");
    }

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
    // A connection that never sends anything is closed, too.
    let _silent = TcpStream::connect(peer::authority(&server)).unwrap();
    assert_eq!(server.terminate().code(), Some(0));
}

/// Starts a request whose head was read and whose body is pending.
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

/// A Keystone that knows one token, and answers a query about it when it is told to.
fn slow_keystone() -> (String, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it has an address"));
    let (asks, asked) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let role = json!({"name": "member"});
        let (id, from, to) = ("0".repeat(32), "2026-01-01T00:00:00Z", "2126-01-01T00:00:00Z");
        let named = json!({"id": id, "name": "shop"});
        let token = json!({"user": named, "project": named, "roles": [role], "issued_at": from, "expires_at": to});
        let body = json!({"token": token}).to_string();
        for stream in listener.incoming() {
            let mut stream = stream.expect("the server connects");
            let head = peer::read_request(&mut stream);
            let status = if head.starts_with("post") { "201 Created" } else { "200 OK" };
            if head.starts_with("get") {
                asks.send(()).expect("the test waits");
                goes.recv().expect("the test tells");
            }
            let length = body.len();
            let fields = format!("X-Subject-Token: ours\r\nConnection: close\r\nContent-Length: {length}");
            write!(stream, "HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}").expect("the server reads");
        }
    });
    (url, asked, go)
}

#[test]
fn an_upload_whose_login_is_being_checked_when_the_server_is_told_to_stop_is_stored() {
    let (url, asked, go) = slow_keystone();
    let settings = format!("keystone = {{url = {url:?}, user = \"longshore\", password = \"secret\"}}");
    let mut server = Setup::default().config(&settings).start();
    let mut upload = server.raw();
    let fields = ["X-Auth-Token: theirs", "Content-Type: application/octet-stream", "Content-Length: 100000"];
    upload.send_head("POST /api/2.0/drives/upload/", &fields);
    upload.send(&image::bytes(98, 100_000));
    asked.recv_timeout(crate::harness::PATIENCE).expect("the server asks");
    server.signal(Signal::TERM);
    wait_for_closed_door(&server);
    go.send(()).unwrap();
    let response = upload.response();
    assert_eq!((response.status, response.field("connection")), (201, "close"), "{response:?}");
    assert_eq!(server.wait().code(), Some(0));
}

type Request = http::Request<UnsyncBoxBody<Bytes, Infallible>>;

#[test]
fn requests_over_http_2_that_have_begun_are_answered_too() {
    let mut server = peer::tls_setup().start();
    let (_, login) = basic(&server.credentials()).split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let request = |method: &str, path: &str, body| -> Request {
        let uri = format!("{}{path}", server.endpoint());
        let head = http::Request::builder().method(method).uri(uri).header("authorization", &login);
        head.header("content-type", "application/json").body(body).unwrap()
    };
    let wish = json!({"objects": [{"name": "d", "size": 1 << 20, "media": "disk"}]}).to_string();
    let (sender, rest) = tokio::sync::oneshot::channel::<Bytes>();
    let frames = futures_util::stream::once(async move {
        Ok::<_, Infallible>(http_body::Frame::data(rest.await.expect("the test sends")))
    });
    let creation = request("POST", "/api/2.0/drives/", StreamBody::new(frames).boxed_unsync());
    let health = request("GET", "/healthz", Empty::new().boxed_unsync());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(peer::authority(&server)).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(peer::tls_config("h2")));
        let stream = tls.connect("localhost".try_into().unwrap(), socket).await.unwrap();
        let (mut client, connection) =
            ::hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let talk = async {
            let made = client.send_request(creation);
            let asked = client.send_request(health);
            tokio::pin!(made);
            // Its head was sent first: when this is answered, the other request has begun.
            tokio::select! {
                early = made.as_mut() => panic!("answered before it was asked: {early:?}"),
                healthy = asked => assert_eq!(healthy.unwrap().status(), 200),
            }
            server.signal(Signal::TERM);
            sender.send(Bytes::from(wish)).unwrap();
            made.await.unwrap().status()
        };
        let (made, _) = tokio::join!(talk, connection);
        made
    });
    assert_eq!(made, 201);
    assert_eq!(server.wait().code(), Some(0));
}
