//! Start, stop, and queries of a server from outside.

use std::net::TcpStream;

use rustix::process::Signal;

use crate::harness::raw::basic;
use crate::harness::server::{engine, uuid_of};
use crate::harness::{Server, Setup, image, machine, wait_for};

#[test]
fn health_and_metrics_need_no_login() {
    let server = Server::start();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.anonymous_curl(path).run().status, 200, "{path}");
    }
    let metrics = server.anonymous_curl("/metrics").run();
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("# TYPE longshore_"), "{}", metrics.text());
}

#[test]
fn the_engine_in_use_is_the_one_asked_for() {
    let server = Server::start();
    let metrics = server.anonymous_curl("/metrics").run().text();
    let line = metrics.lines().find(|line| line.starts_with("longshore_engine")).expect("the engine is a metric");
    println!("{line}");
    if let Some(engine) = engine() {
        assert!(line.contains(&engine), "asked for {engine}: {line}");
    }
}

#[test]
fn an_idle_server_ends_well_on_sigterm() {
    let mut server = Server::start();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(TcpStream::connect(server.authority()).is_err());
}

#[test]
fn a_running_upload_is_finished_before_the_server_ends() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 4_000_000, 41);
    let body = std::fs::read(&disk).unwrap();
    let mut client = server.raw();
    let authorization = basic(&server.credentials());
    client.send_head(
        "POST /api/2.0/drives/upload/",
        &[&authorization, "Content-Type: application/octet-stream", "Content-Length: 4000000", "Expect: 100-continue"],
    );
    assert_eq!(client.head().status, 100);
    client.send(&body[..2_000_000]);
    server.signal(Signal::TERM);
    wait_for("new transfers to be refused", || {
        let (output, response) = server.curl("/api/2.0/drives/upload/").upload("POST", &disk).try_run();
        (!output.status.success() || response.status == 503).then_some(())
    });
    client.send(&body[2_000_000..]);
    let uuid = uuid_of(&client.response());
    assert_eq!(server.wait().code(), Some(0));

    server.restart();
    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    image::assert_same(&disk, &back);
    // The refused ones may have come before the signal; the finished one must exist.
    assert!(server.drives().contains(&uuid));
}

#[test]
fn a_transfer_that_does_not_end_is_cut_when_the_drain_is_over() {
    let mut server = Setup::default().config("limits.drain_seconds = 1").start();
    let mut client = server.raw();
    let authorization = basic(&server.credentials());
    client.send_head(
        "POST /api/2.0/drives/upload/",
        &[&authorization, "Content-Type: application/octet-stream", "Content-Length: 4000000", "Expect: 100-continue"],
    );
    assert_eq!(client.head().status, 100);
    client.send(&image::bytes(42, 1_000_000));
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    assert!(server.drives().is_empty());
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let server = Server::start();
    let endpoint = std::fs::read_to_string(server.data().join("endpoint")).unwrap();
    assert!(endpoint.ends_with('\n'), "{endpoint:?} is a line");
    let output = Setup::default().data(server.data()).start_refused();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty(), "it says why");
    assert_eq!(server.anonymous_curl("/healthz").run().status, 200, "the first goes on");
    assert_eq!(std::fs::read_to_string(server.data().join("endpoint")).unwrap(), endpoint);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::sparse(&disk, 20_000_001, 43);
    let credentials = server.credentials();
    let uuid = server.upload(&disk);
    server.kill9();
    server.restart();
    assert_eq!(server.credentials(), credentials);
    assert_eq!(server.drives(), [uuid.as_str()]);
    let back = server.scratch().join("back.img");
    server.download(&uuid, &back);
    image::assert_same(&disk, &back);
}

#[test]
fn connections_give_back_their_file_descriptors() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 1_000_000, 44);
    let uuid = server.upload(&disk);
    server.download(&uuid, &server.scratch().join("back.img"));
    let before = machine::open_files(server.pid());
    let path = server.capability(&uuid);
    for _ in 0..20 {
        let mut client = server.raw();
        client.send_head(&format!("GET {path}"), &[]);
        assert_eq!(client.head().status, 200);
        // The client leaves in the middle of the body.
    }
    wait_for("the files to be closed", || (machine::open_files(server.pid()) <= before).then_some(()));
}

#[test]
fn a_setting_that_does_not_exist_is_refused_by_name() {
    let output = Setup::default().config("limits.min_drvie = 5").start_refused();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("min_drvie"), "{output:?}");
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_of_our_name_are_told_and_passed_over() {
    let server = Setup::default()
        .env("LONGSHORE_PORT", "tcp://10.96.0.1:8700")
        .env("LONGSHORE_SERVICE_HOST", "10.96.0.1")
        .env("LONGSHORE_PORT_8700_TCP_PROTO", "tcp")
        .start();
    assert_eq!(server.anonymous_curl("/readyz").run().status, 200);
    for name in ["LONGSHORE_PORT", "LONGSHORE_SERVICE_HOST", "LONGSHORE_PORT_8700_TCP_PROTO"] {
        server.wait_for_line(&format!(
            "WARN longshore::cli: this variable of the environment names no setting and is passed over name={name:?}"
        ));
    }
    // This holds for commands, too.
    let listed = server.user_command(&["list"]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains(": LONGSHORE_SERVICE_HOST\n"), "{listed:?}");
}

#[test]
fn what_is_told_at_the_start_names_the_url_that_clients_use() {
    let server = Setup::default().config("direct.public_url = \"https://direct.example.com/x\"").start();
    server.wait_for_line("public_url=\"https://direct.example.com/x\"");
    let printed = wait_for("the usage", || Some(server.printed()).filter(|text| text.contains("Download it again")));
    assert!(printed.contains("https://direct.example.com/x/api/2.0/drives/upload/"), "{printed}");
    let endpoint = std::fs::read_to_string(server.data().join("endpoint")).unwrap();
    assert_eq!(endpoint, format!("{}\n", server.endpoint()));
}
