//! TLS: both versions of HTTP, certificates that change while the server runs, peers that do not speak it.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::peer::{self, certificate};
use crate::harness::server::uuid_of;
use crate::harness::{Curl, Server, Setup, image, wait_for};

const UPLOAD: &str = "/api/2.0/drives/upload/";

#[test]
fn images_come_back_as_they_went_over_http_1_and_http_2() {
    let server = peer::tls_setup().start();
    assert!(server.endpoint().starts_with("https://"));
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 9_000_001, 81);
    let back = server.scratch().join("back.img");
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let curl = |path: &str| peer::trusting(server.curl(path)).arg(version);
        let uuid = uuid_of(&curl(UPLOAD).upload("POST", &disk).run());
        let stream = uuid_of(&curl(UPLOAD).upload_stream("PUT", &disk).run());
        for uuid in [&uuid, &stream] {
            let path = format!("/api/2.0/drives/{uuid}/download/");
            let response = curl(&path).args(&["--location", "--write-out", "%{http_version}"]).output(&back).run();
            assert_eq!(response.status, 200, "{response:?}");
            image::assert_same(&disk, &back);
        }
        let path = format!("/api/2.0/drives/{uuid}/download/");
        let response = curl(&path).args(&["--location", "--range", "1000001-5000001"]).run();
        assert_eq!(response.status, 206);
        assert!(response.body == image::part(&disk, 1_000_001, 4_000_001), "{version}: the range differs");
        let response = curl(&path).args(&["--location", "--range", "0-99,4000000-4000099"]).run();
        assert_eq!(response.status, 206);
        assert!(response.field("content-type").starts_with("multipart/byteranges"));
        let spoken = curl("/healthz").args(&["--write-out", "%{stderr}%{http_version}"]).try_run().0;
        assert_eq!(String::from_utf8_lossy(&spoken.stderr), number);
        assert_eq!(curl(UPLOAD).header("Content-Type: text/plain").args(&["--data", "x"]).run().status, 415);
    }
}

/// Returns whether a client that trusts only this certificate is served.
fn serves(server: &Server, name: &str) -> bool {
    let curl = Curl::new(&format!("{}/healthz", server.endpoint())).arg("--cacert").arg(certificate(name));
    curl.try_run().0.status.success()
}

fn install(dir: &Path, name: &str) {
    fs::copy(certificate(&format!("{name}.pem")), dir.join("server.pem")).expect("a certificate can be put in place");
    fs::copy(certificate(&format!("{name}.key")), dir.join("server.key")).expect("a key can be put in place");
}

#[test]
fn a_hangup_changes_the_certificate_and_a_bad_one_changes_nothing() {
    let files = crate::harness::Scratch::new();
    install(files.path(), "first");
    let server = Setup::default()
        .config(&format!("tls.certificate = \"{}\"", files.join("server.pem").display()))
        .config(&format!("tls.key = \"{}\"", files.join("server.key").display()))
        .start();
    assert!(serves(&server, "first.pem") && !serves(&server, "second.pem"));
    // A connection from before the change continues.
    let mut before = peer::tls(TcpStream::connect(peer::authority(&server)).unwrap(), "http/1.1");
    before.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut before).status, 200);

    install(files.path(), "second");
    server.signal(Signal::HUP);
    wait_for("the second certificate", || serves(&server, "second.pem").then_some(()));
    assert!(!serves(&server, "first.pem"));
    std::io::Read::read_exact(&mut before, &mut [0; 3]).unwrap();
    before.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut before).status, 200);

    fs::write(files.join("server.pem"), "not a certificate").unwrap();
    server.signal(Signal::HUP);
    server.wait_for_line("was not reloaded");
    assert!(serves(&server, "second.pem"));
}

#[test]
fn a_hangup_changes_the_certificate_of_each_listener_and_a_bad_one_keeps_no_other_from_it() {
    let (direct, control) = (crate::harness::Scratch::new(), crate::harness::Scratch::new());
    install(direct.path(), "first");
    install(control.path(), "second");
    let mut setup = Setup::default().config("control.listen = \"127.0.0.1:0\"");
    for (side, files) in [("", &direct), ("control.", &control)] {
        setup = setup
            .config(&format!("{side}tls.certificate = {:?}", files.join("server.pem").display().to_string()))
            .config(&format!("{side}tls.key = {:?}", files.join("server.key").display().to_string()));
    }
    let server = setup.start();
    let serve = |names: [&str; 2]| {
        server.endpoint().lines().zip(names).all(|(endpoint, name)| {
            let curl = Curl::new(&format!("{endpoint}/healthz")).arg("--cacert").arg(certificate(name));
            curl.try_run().0.status.success()
        })
    };
    assert!(serve(["first.pem", "second.pem"]));

    install(direct.path(), "second");
    install(control.path(), "first");
    server.signal(Signal::HUP);
    wait_for("both other certificates", || serve(["second.pem", "first.pem"]).then_some(()));

    fs::write(direct.join("server.pem"), "not a certificate").unwrap();
    install(control.path(), "second");
    server.signal(Signal::HUP);
    server.wait_for_line("was not reloaded");
    wait_for("the good one of two", || serve(["second.pem", "second.pem"]).then_some(()));
}

#[test]
fn a_peer_that_does_not_speak_tls_is_closed() {
    let server = peer::tls_setup().start();
    for start in [&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x00\x00\x00\x00\x00\x00", &[0xff; 5000]] {
        let mut socket = TcpStream::connect(peer::authority(&server)).unwrap();
        socket.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
        socket.write_all(start).unwrap();
        // At most a TLS alert.
        assert!(peer::drain(&mut socket) < 16);
    }
    assert!(serves(&server, "first.pem"));
    assert!(!server.logged().contains("ERROR"), "peers that err are not our errors");
}

#[test]
fn a_certificate_without_its_key_is_refused_at_the_start() {
    let output = Setup::default()
        .config(&format!("tls.certificate = \"{}\"", certificate("first.pem").display()))
        .config(&format!("tls.key = \"{}\"", certificate("second.key").display()))
        .start_refused();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("certificate"), "{output:?}");
}

#[test]
fn doctor_refuses_the_files_that_a_start_refuses_and_in_its_words() {
    let files = crate::harness::Scratch::new();
    install(files.path(), "first");
    let (chain, key) = (files.join("server.pem"), files.join("server.key"));
    let setup = || {
        let text = |path: &Path| path.to_str().expect("it is text").to_owned();
        Setup::default().env("LONGSHORE_TLS__CERTIFICATE", &text(&chain)).env("LONGSHORE_TLS__KEY", &text(&key))
    };
    let server = setup().start();
    let doctor = || {
        let output = server.command("doctor", &[]);
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(doctor().1.contains("\nok    TLS: "), "{doctor:?}", doctor = doctor());
    let break_it: [(&str, &dyn Fn()); 3] = [
        ("the key of another", &|| fs::write(&key, fs::read(certificate("second.key")).unwrap()).unwrap()),
        ("no key", &|| fs::write(&key, "not a key").unwrap()),
        ("no certificate", &|| fs::remove_file(&chain).unwrap()),
    ];
    for (what, break_it) in break_it {
        break_it();
        let said = String::from_utf8_lossy(&setup().start_refused().stderr).into_owned();
        let refusal = said.lines().last().and_then(|line| line.strip_prefix("longshore: ")).expect("serve says why");
        let (status, told) = doctor();
        assert!(!status.success(), "{what}: {told}");
        assert!(told.contains(&format!("\nBAD   TLS: {refusal}; serve cannot start")), "{what}: {told}{said}");
    }
}

#[test]
fn split_listeners_speak_tls_both() {
    let server = peer::tls_setup().config("control.listen = \"127.0.0.1:0\"").start();
    let endpoints: Vec<&str> = server.endpoint().lines().collect();
    let [direct, control] = endpoints[..] else { panic!("{endpoints:?}") };
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 1_000_000, 82);
    let curl = |url: String| peer::trusting(Curl::new(&url)).user(&server.credentials());
    let uuid = uuid_of(&curl(format!("{direct}{UPLOAD}")).upload("POST", &disk).run());
    let back = server.scratch().join("back.img");
    let response = curl(format!("{control}/api/2.0/drives/{uuid}/download/")).arg("--location").output(&back).run();
    assert_eq!(response.status, 200, "{response:?}");
    image::assert_same(&disk, &back);
}

#[test]
fn each_listener_has_a_certificate_of_its_own_or_none() {
    let server = peer::tls_setup().config("control.listen = \"127.0.0.1:0\"").config("control.tls = false").start();
    let endpoints: Vec<&str> = server.endpoint().lines().collect();
    let [direct, control] = endpoints[..] else { panic!("{endpoints:?}") };
    assert!(direct.starts_with("https://") && control.starts_with("http://"), "{endpoints:?}");
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 1_000_000, 83);
    let curl = |url: String| peer::trusting(Curl::new(&url)).user(&server.credentials());
    let uuid = uuid_of(&curl(format!("{direct}{UPLOAD}")).upload("POST", &disk).run());
    let redirect = curl(format!("{control}/api/2.0/drives/{uuid}/download/")).run();
    assert!(redirect.field("location").starts_with(&format!("{direct}/t/")), "{redirect:?}");

    let file = |name: &str| certificate(name).display().to_string();
    let server = peer::tls_setup()
        .config("control.listen = \"127.0.0.1:0\"")
        .config(&format!("control.tls.certificate = {:?}", file("second.pem")))
        .config(&format!("control.tls.key = {:?}", file("second.key")))
        .start();
    let endpoints: Vec<&str> = server.endpoint().lines().collect();
    for (endpoint, name) in endpoints.into_iter().zip(["first.pem", "second.pem"]) {
        let health = Curl::new(&format!("{endpoint}/healthz")).arg("--cacert").arg(certificate(name)).run();
        assert_eq!(health.status, 200, "{name}");
    }
}

#[test]
fn a_client_that_offers_http_1_0_by_alpn_is_served() {
    let server = peer::tls_setup().start();
    let mut stream = peer::tls(TcpStream::connect(peer::authority(&server)).unwrap(), "http/1.0");
    write!(stream, "GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(peer::read_head(&mut stream).status, 200);
}
