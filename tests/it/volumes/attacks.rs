//! Hostile archives and hostile peers, through the API of clients.

use std::fs;
use std::thread;

use super::sessions::stalled_download;
use crate::harness::disk::Disk;
use crate::harness::hyper::{Session, archive, begin, contents, fetch, fill, finish, local, show};
use crate::harness::{Server, Setup, wait_for};
use crate::tree::corpus::cases;
use crate::tree::tarball::Tarball;

#[test]
fn every_hostile_archive_is_taken_or_refused_and_touches_nothing_else() {
    let server = Server::start();
    let sentinel = server.data().join("trees/sentinel");
    fs::write(&sentinel, "untouched").unwrap();
    let beside = || {
        let mut names: Vec<_> = fs::read_dir(server.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = beside();
    let path = server.scratch().join("case.tar");
    let mut session: Option<(String, Session)> = None;
    let (mut taken, mut refused) = (0, 0);
    for (n, case) in cases().into_iter().enumerate() {
        fs::write(&path, &case.bytes).unwrap();
        let (name, open) = session.get_or_insert_with(|| {
            let name = format!("vol{n}");
            (name.clone(), begin(&server, &local(&[&name])))
        });
        let response = open.upload(name, &path).run();
        match response.status {
            200 => {
                assert_eq!(finish(&server, &open.token).status, 200, "{}", case.name);
                session = None;
                taken += 1;
            }
            400 | 413 => refused += 1,
            status => panic!("{}: {status}: {response:?}", case.name),
        }
    }
    assert!(taken > 30 && refused > 100, "{taken} taken, {refused} refused");
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "untouched");
    assert_eq!(beside(), before);
}

#[test]
fn an_uploader_that_stalls_is_cut_and_leaves_nothing() {
    let server = Setup::default().config("limits.idle_seconds = 1").start();
    let tar = fs::read(archive(server.scratch(), "a")).unwrap();
    let session = begin(&server, &local(&["vol"]));
    let mut stalled = server.raw();
    let lines = ["Content-Type: application/x-tar", "Content-Length: 99999"];
    stalled.send_head(&format!("POST {}", session.path("vol")), &lines);
    stalled.send(&tar[..9_000]);
    assert_eq!(stalled.response().status, 408);
    wait_for("the half to be removed", || contents(&server).is_empty().then_some(()));
}

#[test]
fn a_reader_that_stalls_is_cut_and_gives_its_turn_back() {
    let setup = Setup::default().config("limits.idle_seconds = 1").config("trees.streams = 1");
    let server = setup.start();
    let large = server.scratch().join("large.tar");
    fs::write(&large, Tarball::new().dir(".").file("f", vec![b'x'; 24 << 20]).end()).unwrap();
    fill(&server, "vol", &large);
    let _stalled = stalled_download(&server, "vol");
    server.wait_for_line("PeerTooSlow");
    fetch(&server, "vol", &server.scratch().join("back.tar"));
}

#[test]
fn more_archives_than_there_are_turns_wait_and_are_then_told_to_come_again() {
    let server = Setup::default().config("trees.streams = 1").config("limits.head_seconds = 1").start();
    let path = archive(server.scratch(), "a");
    let tar = fs::read(&path).unwrap();
    let session = begin(&server, &local(&["slow", "fast"]));
    let mut slow = server.raw();
    let length = format!("Content-Length: {}", tar.len());
    slow.send_head(&format!("POST {}", session.path("slow")), &["Content-Type: application/x-tar", &length]);
    slow.send(&tar[..9_000]);
    wait_for("the first to have its turn", || (contents(&server).len() == 1).then_some(()));
    let told = session.upload("fast", &path).run();
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.field("retry-after").parse::<u32>().is_ok());
    slow.send(&tar[9_000..]);
    assert_eq!(slow.response().status, 200);
    assert_eq!(session.upload("fast", &path).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn an_archive_that_the_disk_cannot_hold_is_refused_and_leaves_nothing() {
    let Some(disk) = Disk::mount(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"], 96) else { return };
    let server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let large = server.scratch().join("large.tar");
    fs::write(&large, Tarball::new().dir(".").file("f", vec![b'x'; 140 << 20]).end()).unwrap();
    let session = begin(&server, &local(&["vol"]));
    let response = session.upload("vol", &large).run();
    assert_eq!(response.status, 507, "{response:?}");
    assert_eq!(contents(&server), Vec::<String>::new());
    let small = archive(server.scratch(), "a");
    wait_for("room again", || (session.upload("vol", &small).run().status == 200).then_some(()));
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn a_refusal_in_the_middle_is_heard_by_a_client_that_goes_on_sending() {
    let server = Server::start();
    let session = begin(&server, &local(&["vol"]));
    // The bytes after the first member are no header.
    let mut tar = Tarball::new().dir(".").file("f", vec![b'x'; 1 << 20]).end();
    tar.truncate((1 << 20) + 1024);
    tar.resize(25 << 20, b'y');
    for lines in [vec![], vec!["Expect: 100-continue"]] {
        let mut client = server.raw();
        let length = format!("Content-Length: {}", tar.len());
        let head = [vec!["Content-Type: application/x-tar", &length], lines.clone()].concat();
        client.send_head(&format!("POST {}", session.path("vol")), &head);
        if !lines.is_empty() {
            assert_eq!(client.head().status, 100);
        }
        client.send(&tar);
        let response = client.response();
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.text().contains("entry 3"), "{response:?}");
    }
}

#[test]
fn of_many_who_finish_and_cancel_at_once_one_is_first_and_the_volume_is_whole_or_not_there() {
    let server = Server::start();
    let path = archive(server.scratch(), "a");
    for round in 0..8 {
        let name = format!("vol{round}");
        let session = begin(&server, &local(&[&name]));
        assert_eq!(session.upload(&name, &path).run().status, 200);
        let force = format!("/volumes/{name}?force=1");
        let statuses: Vec<u16> = thread::scope(|scope| {
            let finishes = (0..3).map(|_| scope.spawn(|| finish(&server, &session.token).status));
            let delete = scope.spawn(|| server.curl(&force).method("DELETE").run().status);
            let finishes: Vec<_> = finishes.collect();
            finishes.into_iter().chain([delete]).map(|thread| thread.join().unwrap()).collect()
        });
        let (finishes, deleted) = (&statuses[..3], statuses[3]);
        assert!(finishes.iter().all(|status| [200, 400].contains(status)), "{statuses:?}");
        assert!([204, 404, 409].contains(&deleted), "{statuses:?}");
        match show(&server, &name).status {
            200 => assert!(finishes.contains(&200) && deleted != 204, "{statuses:?}"),
            status => assert_eq!((status, deleted), (404, 204), "{statuses:?}"),
        }
    }
    assert_eq!(contents(&server).len(), server.curl("/volumes").run().json()["Volumes"].as_array().unwrap().len());
}
