//! Limits of what is held for a while: memory, connections, descriptors, slots.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::{DRIVES, OCTETS, Scene, UPLOAD, array};
use crate::harness::peer;
use crate::harness::raw::basic;
use crate::harness::server::uuid_of;
use crate::harness::{Setup, image, machine, wait_for};
use crate::logins::Guessers;
use crate::volumes::remote::Elsewhere;

/// Sends the beginning of a request as the tenant, on a connection that then stalls.
fn stalled(scene: &Scene, request: &str, rest: &str) -> TcpStream {
    let mut socket = peer::narrow(scene.server.authority());
    let login = basic(&scene.tenant);
    write!(socket, "{request} HTTP/1.1\r\nHost: x\r\n{login}\r\n{rest}").expect("the server takes it");
    socket
}

#[test]
fn transfers_that_stall_share_the_memory_and_others_move_on() {
    let scene = Scene::start(Setup::default().config("memory.budget = \"8 MiB\""), &[]);
    let drive = uuid_of(&scene.upload(9_000_000));
    let before = machine::memory(scene.server.pid());
    let place = scene.curl(&format!("{DRIVES}{drive}/download/")).run().field("location").to_owned();
    let path = place.strip_prefix(scene.server.endpoint()).unwrap_or(&place);
    let part = image::bytes(154, 1_500_000);
    let mut held = Vec::new();
    for _ in 0..20 {
        let fields = format!("{OCTETS}\r\nContent-Length: 9000000\r\n\r\n");
        let mut upload = stalled(&scene, &format!("POST {UPLOAD}"), &fields);
        upload.write_all(&part).expect("the server takes the bytes");
        let mut download = stalled(&scene, &format!("GET {path}"), "\r\n");
        assert_eq!(peer::read_head(&mut download).status, 200);
        held.extend([upload, download]);
    }
    scene.others_are_served();
    let peak = machine::peak_memory(scene.server.pid());
    println!("before: {} MiB, peak: {} MiB", before >> 20, peak >> 20);
    assert!(peak < before + (90 << 20), "{} MiB", peak >> 20);
    drop(held);
    scene.everything_goes();
}

#[test]
fn requests_that_stall_take_a_bounded_part_of_memory() {
    let scene = Scene::start(Setup::default(), &[]);
    let label = "x".repeat(12_000);
    let drive = json!({"name": "d", "size": 70_000, "media": "disk", "meta": {"l": label}});
    let body = scene.server.scratch().join("drives.json");
    std::fs::write(&body, json!({"objects": vec![drive; 20]}).to_string()).unwrap();
    for _ in 0..10 {
        let curl = scene.curl(DRIVES).header("Content-Type: application/json");
        let response = curl.arg("--data-binary").arg(format!("@{}", body.display())).run();
        assert_eq!(response.status, 201, "{response:?}");
    }
    let before = machine::memory(scene.server.pid());
    let mut held = Vec::new();
    for n in 0..100 {
        let unfinished = format!("X: {}", "x".repeat(15_000));
        let (path, rest) = match n % 3 {
            0 => ("GET /api/2.0/drives/detail/?limit=0", "\r\n"),
            1 => ("GET /api/2.0/drives/", unfinished.as_str()),
            _ => ("POST /api/2.0/drives/", "Content-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"),
        };
        held.push(stalled(&scene, path, rest));
    }
    for list in held.iter_mut().step_by(3) {
        assert_eq!(peer::read_head(list).status, 200);
    }
    // A head above the limit is refused.
    let mut large = stalled(&scene, "GET /", &format!("X: {}\r\n\r\n", "x".repeat(17_000)));
    assert_eq!(peer::read_head(&mut large).status, 431);
    scene.others_are_served();
    let peak = machine::peak_memory(scene.server.pid());
    println!("before: {} MiB, peak: {} MiB", before >> 20, peak >> 20);
    assert!(peak < before + (80 << 20), "{} MiB", peak >> 20);
    drop(held);
    scene.everything_goes();
}

#[test]
fn a_tenant_has_the_connections_of_its_address_and_others_have_the_rest() {
    let scene = Scene::start(Setup::default().config("limits.connections = 16\nlimits.head_seconds = 600"), &[]);
    let held: Vec<_> = (0..8)
        .map(|_| {
            let mut held = stalled(&scene, "GET /api/2.0/capabilities/", "\r\n");
            assert_eq!(peer::read_head(&mut held).status, 200);
            held
        })
        .collect();
    // It is refused before its request is read.
    let refused = || peer::read_head(&mut peer::narrow(scene.server.authority())).status;
    assert_eq!(refused(), 503);
    scene.others_are_served();
    assert_eq!(refused(), 503, "they are held still");
    drop(held);
    wait_for("the places to be free", || (scene.curl(DRIVES).try_run().1.status == 200).then_some(()));
    scene.everything_goes();
}

#[test]
fn a_tenant_watches_so_many_transfers_and_its_uploads_go_on() {
    let scene = Scene::start(Setup::default().config("limits.connections = 48"), &[]);
    let begun = scene.curl("/api/v1/transfers").json("POST", &json!({"name": "a", "size": 100_000})).run();
    let path = format!("/api/v1/transfers/{}/events", begun.json()["id"].as_str().expect("an id"));
    let watch = || {
        let mut stream = stalled(&scene, &format!("GET {path}"), "\r\n");
        (peer::read_head(&mut stream).status, stream)
    };
    let held = [watch(), watch(), watch()];
    assert_eq!(held.each_ref().map(|(status, _)| *status), [200; 3]);
    assert_eq!(watch().0, 503);
    scene.others_are_served();
    assert_eq!(scene.upload(100_000).status, 201);
    assert_eq!(watch().0, 503, "they are held still");
    drop(held);
    wait_for("a stream to be free", || (watch().0 == 200).then_some(()));
    scene.everything_goes();
}

#[test]
fn uploads_of_one_tenant_leave_descriptors_to_others() {
    let scene = Scene::start(Setup::default().open_files(160, 160), &[]);
    let log = scene.server.wait_for_line("fewer connections are served");
    let fitted = log.split("connections=").nth(1).and_then(|rest| rest.split(' ').next()).expect("how many");
    let share = fitted.parse::<usize>().expect("a number").div_ceil(2);
    assert!((2..80).contains(&share), "{share}");
    let held: Vec<_> = (0..share)
        .map(|_| {
            let fields = format!("{OCTETS}\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n");
            let mut upload = stalled(&scene, &format!("POST {UPLOAD}"), &fields);
            assert_eq!(peer::read_head(&mut upload).status, 100);
            upload.write_all(&image::bytes(155, 10_000)).expect("the server takes the bytes");
            upload
        })
        .collect();
    assert_eq!(peer::read_head(&mut peer::narrow(scene.server.authority())).status, 503);
    scene.others_are_served();
    drop(held);
    wait_for("places to be free", || (scene.curl(DRIVES).try_run().1.status == 200).then_some(()));
    scene.everything_goes();
}

#[test]
fn archives_of_one_tenant_never_keep_another_from_its_turn() {
    let scene = Scene::start(Setup::default().config("trees.streams = 4\nlimits.head_seconds = 5"), &[]);
    let names = ["a", "b", "c", "d", "e", "f"];
    let session = scene.begin(&names);
    let receiving = || {
        let uploads = array(&scene.sessions()[0]["uploads"]);
        uploads.iter().filter(|upload| upload["state"] == json!("receiving")).count()
    };
    let trickling: Vec<_> = names
        .iter()
        .map(|name| {
            let fields = "Content-Type: application/x-tar\r\nContent-Length: 100000000\r\n\r\n";
            let mut upload = stalled(&scene, &format!("POST {}", session.path(name)), fields);
            upload.write_all(&crate::tree::tarball::Tarball::new().dir(".").bytes).expect("the server takes it");
            upload
        })
        .collect();
    wait_for("the share of one tenant", || (receiving() >= 3).then_some(()));
    scene.others_are_served();
    assert!(receiving() <= 3, "a tenant has no more than its share");
    drop(trickling);
    scene.everything_goes();
}

#[test]
fn sources_of_one_tenant_that_stall_keep_no_other_from_being_fetched() {
    // Connections to this listener are opened, and never accepted.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let elsewhere = Elsewhere::new(|_| Some(b"a file".to_vec()));
    let setup = Setup::default().config("remote.at_once = 4").config("remote.networks = [\"127.0.0.0/8\"]");
    let scene = Scene::start(setup.config(&format!("remote.ports = [{port}, {}]", elsewhere.port)), &[]);
    let from = |name: &str, source: &str| json!({"Volume": [{"Name": name, "Source": source}]});
    let stalling: Vec<_> = (0..6)
        .map(|n| {
            let body = from(&format!("t{n}"), &format!("http://127.0.0.1:{port}/file")).to_string();
            let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let caller = stalled(&scene, "POST /volumes/initialize", &fields);
            // The reset tells the server that no peer waits for the answer any more.
            rustix::net::sockopt::set_socket_linger(&caller, Some(Duration::ZERO)).unwrap();
            caller
        })
        .collect();
    wait_for("all sessions to have begun", || (scene.sessions().len() == 6).then_some(()));
    let fetched = scene.elsewhere("/volumes/initialize").json("POST", &from("theirs", &elsewhere.url("/file"))).run();
    assert_eq!(fetched.status, 200, "{fetched:?}");
    assert_eq!(scene.elsewhere("/volumes/theirs").method("DELETE").run().status, 204);
    scene.others_are_served();
    drop(stalling);
    wait_for("the sessions to end with their callers", || {
        scene.sessions().iter().all(|session| session["state"] == "failed").then_some(())
    });
    scene.everything_goes();
}

/// A drive that takes an hour to read, though it takes no disk space.
#[test]
fn a_digest_of_one_tenant_that_takes_long_keeps_no_other_from_theirs() {
    let scene = Scene::start(Setup::default(), &[]);
    let want =
        |curl: crate::harness::Curl| curl.args(&["--location", "--head"]).header("Want-Repr-Digest: sha-256=1").run();
    for _ in 0..3 {
        let large = crate::harness::stored::started(&scene.blank(1 << 40));
        assert_eq!(want(scene.curl(&format!("{DRIVES}{large}/download/"))).status, 200);
    }
    let disk = scene.server.scratch().join("other.img");
    image::random(&disk, 100_000, 156);
    let theirs = uuid_of(&scene.elsewhere(UPLOAD).upload("POST", &disk).run());
    wait_for("the other's digest", || {
        let answer = want(scene.elsewhere(&format!("{DRIVES}{theirs}/download/")));
        (answer.values("repr-digest").len() == 1).then_some(())
    });
    assert_eq!(scene.elsewhere(&format!("{DRIVES}{theirs}/")).method("DELETE").run().status, 204);
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn pieces_that_one_tenant_has_digested_keep_no_other_from_theirs() {
    let scene = Scene::start(Setup::default(), &[]);
    let disk = scene.server.scratch().join("disk.img");
    image::random(&disk, 64 << 20, 157);
    let pieces = |uuid: &str| format!("/api/v1/drives/{uuid}/pieces");
    let own = uuid_of(&scene.curl(UPLOAD).upload("POST", &disk).run());
    let theirs = uuid_of(&scene.elsewhere(UPLOAD).upload("POST", &disk).run());
    std::thread::scope(|scope| {
        let many: Vec<_> = (0..12).map(|_| scope.spawn(|| scene.curl(&pieces(&own)).run().status)).collect();
        for _ in 0..3 {
            let answer = scene.elsewhere(&pieces(&theirs)).run();
            assert_eq!((answer.status, &answer.json()["next"]), (200, &serde_json::Value::Null), "{answer:?}");
        }
        for one in many {
            // Who has waited for too long is told so.
            assert!([200, 503].contains(&one.join().expect("it is answered")));
        }
    });
    assert_eq!(scene.elsewhere(&format!("{DRIVES}{theirs}/")).method("DELETE").run().status, 204);
    scene.others_are_served();
    scene.everything_goes();
}

#[test]
fn a_tenant_that_guesses_passwords_keeps_nobody_from_logging_in() {
    let scene = Scene::start(Setup::default().config("auth.remember_seconds = 0"), &[]);
    // Users who have logged in before have slots of their own.
    scene.others_are_served();
    let guessers = Guessers::at(&scene.server, &["tenant", "tenant", "other", "other", "nobody", "admin"]);
    let login = || scene.elsewhere(DRIVES).run().status;
    assert_eq!((login(), login()), (200, 200));
    scene.others_are_served();
    guessers.stop();
    scene.everything_goes();
}
