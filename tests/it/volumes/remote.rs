//! Volumes that the server fills itself, from files and repositories on other servers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::harness::hyper::{archive, ask, begin, contents, fetch, finish, sample, show, untar};
use crate::harness::rsync::{assert_same_data, assert_same_trees};
use crate::harness::{Server, Setup, wait_for};
use crate::remote::served::{Served, git};
use crate::skipped::skipped;

/// Another server: `/file` and `/x.tar.gz` answer with the given bytes, `/stall` never ends, `/absent` is missing.
pub(crate) struct Elsewhere {
    pub(crate) port: u16,
    is_hung_up: Arc<AtomicBool>,
}

impl Elsewhere {
    pub(crate) fn new(content: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a port").port();
        let is_hung_up = Arc::new(AtomicBool::new(false));
        let hung_up = is_hung_up.clone();
        // The thread ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let start = lines.next().expect("a request").expect("a line");
                let path = start.split(' ').nth(1).expect("a path").to_owned();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                if path == "/stall" {
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf").expect("a client");
                    // Nothing but the end of the connection comes from a client now.
                    let _ = lines.next();
                    hung_up.store(true, Ordering::SeqCst);
                    continue;
                }
                let (status, body) = content(&path).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                    .expect("a client");
                let _ = stream.write_all(&body);
            }
        });
        Self { port, is_hung_up }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn server(&self, setup: Setup) -> Server {
        allowing(setup, &[self.port])
    }
}

/// Starts a server that may fetch from these ports of this machine.
fn allowing(setup: Setup, ports: &[u16]) -> Server {
    setup.config("remote.networks = [\"127.0.0.0/8\"]").config(&format!("remote.ports = {ports:?}")).start()
}

fn from(volumes: &[(&str, &str)]) -> Value {
    let volumes: Vec<Value> = volumes.iter().map(|(name, source)| json!({"Name": name, "Source": source})).collect();
    json!({"Volume": volumes})
}

/// Downloads and unpacks a volume.
fn held(server: &Server, name: &str, as_name: &str) -> PathBuf {
    let archive = server.scratch().join(format!("{as_name}.back.tar"));
    fetch(server, name, &archive);
    let dir = server.scratch().join(format!("{as_name}.back"));
    untar(&archive, &dir);
    dir
}

#[test]
fn a_file_elsewhere_becomes_the_one_file_of_its_volume_before_the_answer() {
    let elsewhere = Elsewhere::new(|path| (path == "/dir/README.md?x=1").then(|| b"hello".to_vec()));
    let server = elsewhere.server(Setup::default());
    let answer = ask(&server, &from(&[("vol1", &elsewhere.url("/dir/README.md?x=1"))]));
    assert_eq!((answer.status, answer.json()), (200, json!({})), "{answer:?}");
    let dir = held(&server, "vol1", "vol1");
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["README.md"]);
    assert_eq!(fs::read(dir.join("README.md")).unwrap(), b"hello");
    assert_eq!(show(&server, "vol1").json()["Status"]["Source"], json!(elsewhere.url("/dir/README.md?x=1")));
}

#[test]
fn what_is_loaded_anew_comes_from_where_it_came_the_last_time() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let elsewhere = Elsewhere::new(move |_| Some(count.fetch_add(1, Ordering::SeqCst).to_string().into_bytes()));
    let server = elsewhere.server(Setup::default());
    assert_eq!(ask(&server, &from(&[("vol", &elsewhere.url("/n"))])).status, 200);
    assert_eq!(ask(&server, &from(&[("vol", &elsewhere.url("/n"))])).status, 409);
    assert_eq!(ask(&server, &json!({"Reload": true, "Volume": [{"Name": "vol"}]})).json(), json!({}));
    assert_eq!(fs::read(held(&server, "vol", "vol").join("n")).unwrap(), b"1");
    wait_for("the old content to go", || (contents(&server).len() == 1).then_some(()));
}

#[test]
fn remote_and_local_sources_of_one_session_become_visible_together() {
    let elsewhere = Elsewhere::new(|_| Some(b"hello".to_vec()));
    let server = elsewhere.server(Setup::default());
    let session = begin(&server, &from(&[("far", &elsewhere.url("/f")), ("near", "/local/dir")]));
    assert_eq!(session.uploaders.keys().collect::<Vec<_>>(), ["near"]);
    assert_eq!(show(&server, "far").json()["Status"]["Initialized"], json!(false));
    let tar = archive(server.scratch(), "a");
    assert_eq!(session.upload("near", &tar).run().status, 200);
    assert_eq!(finish(&server, &session.token).status, 200);
    assert_eq!(fs::read(held(&server, "far", "far").join("f")).unwrap(), b"hello");
}

#[test]
fn a_source_that_fails_is_told_and_leaves_nothing() {
    let elsewhere = Elsewhere::new(|path| (path == "/file").then(|| vec![b'x'; 3 << 20]));
    let setup = Setup::default().config("trees.default_size = \"2 MiB\"");
    let server = elsewhere.server(setup);
    for (source, status, word) in [
        (elsewhere.url("/absent"), 400, "answered 404 Not Found"),
        (elsewhere.url("/absent.git"), 400, "answered 404 Not Found"),
        (elsewhere.url("/file"), 413, "more than"),
        ("http://127.0.0.1:1/x".to_owned(), 400, "port"),
        ("http://user:secret@127.0.0.1/x".to_owned(), 400, "password"),
        (format!("http://localhost.invalid:{}/x", elsewhere.port), 502, "not found"),
    ] {
        let answer = ask(&server, &from(&[("good", "/local"), ("bad", &source)]));
        assert_eq!(answer.status, status, "{source}: {answer:?}");
        let text = answer.text();
        assert!(text.contains("bad: ") && text.contains(word), "{source}: {text}");
        assert!(!text.contains("127.0.0.1") && !text.contains("secret"), "{text}");
        assert_eq!(server.curl("/volumes").run().json()["Volumes"], json!([]));
        assert_eq!(contents(&server), Vec::<String>::new());
    }
}

#[test]
fn by_default_nothing_private_is_reached() {
    let server = Server::start();
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "169.254.169.254", "10.0.0.1"] {
        let answer = ask(&server, &from(&[("vol", &format!("http://{host}/latest/meta-data"))]));
        assert_eq!(answer.status, 400, "{host}: {answer:?}");
        assert!(answer.text().contains("private or reserved network"), "{host}: {answer:?}");
    }
}

#[test]
fn an_archive_elsewhere_is_a_file_unless_the_server_is_told_to_unpack() {
    for unpacks in [false, true] {
        let (ready, archive_ready) = std::sync::mpsc::channel::<Vec<u8>>();
        let packed = std::sync::Mutex::new(archive_ready);
        let elsewhere = Elsewhere::new(move |_| Some(packed.lock().unwrap().recv().unwrap()));
        let server = elsewhere.server(Setup::default().config(&format!("remote.unpack = {unpacks}")));
        let tar = archive(server.scratch(), "a");
        let gzip = std::process::Command::new("gzip").arg("--stdout").arg(&tar).output().unwrap().stdout;
        ready.send(gzip.clone()).unwrap();
        let answer = ask(&server, &from(&[("vol", &elsewhere.url("/site.tar.gz"))]));
        assert_eq!(answer.status, 200, "{answer:?}");
        let dir = held(&server, "vol", "vol");
        if unpacks {
            assert_same_trees(&sample(server.scratch(), "a"), &dir);
        } else {
            assert_eq!(fs::read(dir.join("site.tar.gz")).unwrap(), gzip);
        }
    }
}

#[test]
fn a_branch_of_a_repository_becomes_the_content_of_a_volume() {
    let git_servers = Served::new();
    let repository = git_servers.make();
    let server = allowing(Setup::default(), &[git_servers.daemon, git_servers.http]);
    for (name, source) in [("daemon", git_servers.git_url(":old")), ("http", git_servers.http_url(":old"))] {
        let answer = ask(&server, &from(&[(name, &source)]));
        assert_eq!((answer.status, answer.json()), (200, json!({})), "{answer:?}");
        let dir = held(&server, name, name);
        let archive = server.scratch().join(format!("{name}.git.tar"));
        fs::write(&archive, git(&repository, &["-c", "tar.umask=022", "archive", "--format=tar", "old"])).unwrap();
        let wanted = server.scratch().join(format!("{name}.git"));
        untar(&archive, &wanted);
        assert_same_data(&wanted, &dir);
        assert!(!dir.join(".git").exists());
    }
    let scratch = server.data().join("fetch-scratch");
    wait_for("the scratch space to be empty", || fs::read_dir(&scratch).unwrap().next().is_none().then_some(()));
    let absent = ask(&server, &from(&[("none", &git_servers.git_url(":nothing"))]));
    assert_eq!(absent.status, 400, "{absent:?}");
}

#[test]
fn a_caller_that_hangs_up_ends_the_fetch_and_the_session() {
    let elsewhere = Elsewhere::new(|_| None);
    // With this setting, a silent source is not what ends the fetch.
    let server = elsewhere.server(Setup::default().config("remote.stall_seconds = 600"));
    let mut client = server.raw();
    let body = from(&[("vol", &elsewhere.url("/stall"))]).to_string();
    let authorization = crate::harness::raw::basic(&server.credentials());
    let length = format!("Content-Length: {}", body.len());
    client.send_head("POST /volumes/initialize", &[&authorization, &length]);
    client.send(body.as_bytes());
    wait_for("the fetch to begin", || (contents(&server).len() == 1).then_some(()));
    drop(client);
    wait_for("the fetch to end", || elsewhere.is_hung_up.load(Ordering::SeqCst).then_some(()));
    wait_for("the volume to go", || (show(&server, "vol").status == 404).then_some(()));
    wait_for("its content to go", || contents(&server).is_empty().then_some(()));
}

#[test]
fn a_fetch_that_was_killed_leaves_nothing() {
    let elsewhere = Elsewhere::new(|_| None);
    let mut server = elsewhere.server(Setup::default());
    let mut client = server.raw();
    let body = from(&[("vol", &elsewhere.url("/stall")), ("near", "/x")]).to_string();
    let authorization = crate::harness::raw::basic(&server.credentials());
    let length = format!("Content-Length: {}", body.len());
    client.send_head("POST /volumes/initialize", &[&authorization, &length]);
    client.send(body.as_bytes());
    wait_for("the fetch to begin", || (contents(&server).len() == 1).then_some(()));
    server.kill9();
    server.restart();
    assert_eq!(contents(&server), Vec::<String>::new());
    assert_eq!(server.curl("/volumes").run().json()["Volumes"], json!([]));
    assert_eq!(server.curl("/api/v1/sessions").run().json()["sessions"][0]["state"], json!("failed"));
}

/// Starts a process that keeps the server from writing to its database until the process's input ends.
fn hold(database: &Path) -> Option<Child> {
    const HOLD: &str = "import sqlite3, sys\n\
        held = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        held.execute('BEGIN IMMEDIATE')\n\
        print('held', flush=True)\n\
        sys.stdin.read()";
    let mut python = Command::new("python3");
    python.args(["-c", HOLD]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    Some(child)
}

#[test]
fn an_upload_that_was_cut_off_can_be_repeated_even_when_the_database_was_held_meanwhile() {
    let server = Server::start();
    let session = begin(&server, &json!({"Volume": [{"Name": "vol", "Source": "/local/dir"}]}));
    let archive = archive(server.scratch(), "a");
    let mut client = server.raw();
    client.send_head(&format!("POST {}", session.path("vol")), &["Content-Length: 1000000"]);
    client.send(&fs::read(&archive).unwrap()[..1024]);
    wait_for("the upload to begin", || (contents(&server).len() == 1).then_some(()));
    let Some(mut holder) = hold(&server.data().join("meta.sqlite")) else {
        println!("SKIPPED: there is no python3");
        return;
    };
    drop(client);
    server.wait_for_line("the end of an attempt is not noted");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let again = || session.upload("vol", &archive).run().status;
    wait_for("another attempt to be let in", || (again() == 200).then_some(()));
    assert_eq!(finish(&server, &session.token).status, 200);
}

#[test]
fn the_names_of_a_session_that_failed_are_free_again_even_when_the_database_was_held_meanwhile() {
    let (database, holder) = (Arc::new(Mutex::new(PathBuf::new())), Arc::new(Mutex::new(None)));
    let (path, holding) = (database.clone(), holder.clone());
    // The server frees the names in a write of its own, which comes after the answer to this request.
    let elsewhere = Elsewhere::new(move |_| {
        *holding.lock().unwrap() = hold(&path.lock().unwrap());
        None
    });
    let server = elsewhere.server(Setup::default());
    *database.lock().unwrap() = server.data().join("meta.sqlite");
    let answer = ask(&server, &from(&[("vol", &elsewhere.url("/absent"))]));
    assert!(answer.status >= 400, "{answer:?}");
    let Some(mut child) = holder.lock().unwrap().take() else {
        return skipped("there is no python3");
    };
    // It has failed twice: once for the caller, and once in the background.
    wait_for("another attempt to fail", || server.logged().contains("not dropped").then_some(()));
    drop(child.stdin.take());
    child.wait().unwrap();
    let again = json!({"Volume": [{"Name": "vol", "Source": "/local/dir"}]});
    wait_for("the name to be free", || (ask(&server, &again).status == 200).then_some(()));
}
