//! The progress of a transfer, told as events while it goes on.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use super::{MIB, TRANSFERS, Transfer};
use crate::harness::cloud::TOKENS;
use crate::harness::raw::basic;
use crate::harness::{Cloud, Response, Server, Setup, image, peer, stored, wait_for};

/// What an event tells.
#[derive(Debug, Default)]
struct Event {
    kind: String,
    id: String,
    data: Value,
}

/// A curl that prints events as they come.
struct Stream {
    curl: Child,
    lines: BufReader<ChildStdout>,
    head: Response,
}

impl Stream {
    /// Asks for the events of a transfer, with these arguments beside.
    #[track_caller]
    fn open(server: &Server, transfer: &Transfer, args: &[&str]) -> Self {
        let url = format!("{}{TRANSFERS}/{}/events", server.endpoint(), transfer.id);
        let mut curl = Command::new("curl");
        curl.args(["--disable", "--noproxy", "*", "--silent", "--include", "--no-buffer", "--max-time", "120", &url]);
        let mut curl = curl.args(args).stdout(Stdio::piped()).spawn().expect("curl runs");
        let lines = BufReader::new(curl.stdout.take().expect("it is piped"));
        let mut stream = Self { curl, lines, head: Response::default() };
        let mut head = Vec::new();
        while let Some(line) = stream.line().filter(|line| !line.is_empty()) {
            head.push(line);
        }
        stream.head = Response::parse_head(&head.join("\n"));
        stream
    }

    /// Asks for them as this user.
    #[track_caller]
    fn as_user(server: &Server, transfer: &Transfer, credentials: &str) -> Self {
        let stream = Self::open(server, transfer, &["--user", credentials]);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        stream
    }

    /// Returns the next line; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("curl prints text");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Returns the next event; `None` at the end of the stream. A comment is an event without anything.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                _ if line.is_empty() => return Some(event),
                _ if line.starts_with(':') => {}
                Some(("event", kind)) => kind.clone_into(&mut event.kind),
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("data is JSON"),
                Some(("retry", _)) => {}
                _ => panic!("{line:?} in a stream of events"),
            }
        }
    }

    /// Returns the next event whose data is as wanted.
    #[track_caller]
    fn until(&mut self, what: &str, is_meant: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {what}"));
            if is_meant(&event.data) {
                return event;
            }
        }
    }

    /// Waits for the end of the stream; returns the last event that was told and how curl ended.
    fn end(mut self) -> (Option<Event>, ExitStatus) {
        let mut last = None;
        while let Some(event) = self.next() {
            last = Some(event).filter(|event| !event.id.is_empty()).or(last);
        }
        (last, self.curl.wait().expect("curl runs"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// Follows a transfer from its beginning to its drive.
fn follow(server: &Server, args: &[&str]) {
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 3 * MIB, 61);
    let begun = peer::trusting(server.curl(TRANSFERS)).json("POST", &json!({"name": "a", "size": 3 * MIB})).run();
    let transfer = Transfer::begun(server, &begun);
    let mut stream = Stream::open(server, &transfer, args);
    let head = &stream.head;
    assert_eq!((head.status, head.field("content-type")), (200, "text/event-stream"), "{head:?}");
    assert_eq!(head.field("cache-control"), "no-store");
    let first = stream.next().expect("an event");
    assert_eq!((&first.data["state"], &first.data["received"]), (&json!("open"), &json!(0)), "{first:?}");
    let put = |from: u64, to: u64| {
        let part = server.scratch().join("part");
        std::fs::write(&part, image::part(&disk, from, (to - from) as usize)).expect("a part is written");
        let range = format!("Content-Range: bytes {from}-{}/*", to - 1);
        let curl = peer::trusting(server.anonymous_curl(&transfer.url)).upload("PUT", &part).header(&range);
        assert_eq!(curl.run().status, 200);
    };
    put(0, MIB);
    let later = stream.until("the first part", |data| data["durable"] == json!(MIB));
    assert_eq!(later.data["extents"], json!([{"offset": 0, "size": MIB}]));
    assert!(later.kind.is_empty() && later.id != first.id, "{later:?}");
    put(MIB, 3 * MIB);
    let path = format!("{TRANSFERS}/{}", transfer.id);
    let done = peer::trusting(server.curl(&format!("{path}/finish"))).json("POST", &json!({})).run();
    assert_eq!(done.status, 200, "{done:?}");
    let (last, status) = stream.end();
    let last = last.expect("a last event");
    assert_eq!((last.kind.as_str(), status.code()), ("end", Some(0)), "{last:?}");
    assert_eq!(last.data, peer::trusting(server.curl(&path)).run().json());

    // Who comes back is told of the end once, and then nothing.
    let again =
        Stream::open(server, &transfer, &[args, &["--header", &format!("Last-Event-ID: {}", first.id)]].concat());
    assert_eq!(again.end().0.expect("an event").id, last.id);
    let known =
        Stream::open(server, &transfer, &[args, &["--header", &format!("Last-Event-ID: {}", last.id)]].concat());
    assert_eq!(known.head.status, 204);
}

#[test]
fn progress_is_told_as_it_goes_and_the_stream_ends_with_the_transfer() {
    let server = Server::start();
    follow(&server, &["--user", &server.credentials()]);
    stored::assert_clean(&server);
}

#[test]
fn progress_is_told_over_http2_too() {
    let server = peer::tls_setup().start();
    let certificate = peer::certificate("first.pem");
    let certificate = certificate.to_str().expect("a path is text");
    follow(&server, &["--user", &server.credentials(), "--http2", "--cacert", certificate]);
}

#[test]
fn a_watcher_sees_what_comes_and_makes_nothing_durable() {
    let setup = Setup::default().config("transfers.checkpoint_seconds = 3600\ntransfers.checkpoint_bytes = \"1 GiB\"");
    let server = setup.start();
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 16 * MIB}));
    let mut stream = Stream::as_user(&server, &transfer, &server.credentials());
    let mut part = server.raw();
    let fields = ["Content-Type: application/octet-stream", &format!("Content-Length: {}", 16 * MIB)];
    part.send_head(&format!("PUT {}", transfer.url), &fields);
    let sent = 5 << 20;
    part.send(&image::bytes(62, sent));
    let seen = stream.until("the bytes", |data| data["received"] == json!(sent));
    assert_eq!((&seen.data["durable"], &seen.data["parts"]), (&json!(0), &json!(1)), "{seen:?}");
    // A question makes durable what is on the disk, and the watcher is told of that.
    wait_for("a checkpoint", || (transfer.show(&server)["durable"].as_u64() > Some(0)).then_some(()));
    stream.until("the checkpoint", |data| data["durable"].as_u64() > Some(0));
    drop(part);
    stream.until("the end of the part", |data| data["parts"] == json!(0));
    assert_eq!(server.curl(&format!("{TRANSFERS}/{}", transfer.id)).method("DELETE").run().status, 204);
    let (last, _) = stream.end();
    let last = last.expect("a last event");
    assert_eq!((last.kind.as_str(), &last.data["state"]), ("end", &json!("cancelled")), "{last:?}");
}

/// The number of files of drafts that the server has open.
fn open_drafts(server: &Server) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs");
    let links = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let folder = server.data().join("incoming");
    links.filter(|link| *link != folder && link.starts_with(&folder)).count()
}

#[test]
fn a_watcher_keeps_no_draft_open_that_nobody_is_at() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, MIB, 64);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": 2 * MIB}));
    let mut stream = Stream::as_user(&server, &transfer, &server.credentials());
    assert_eq!(transfer.put(&server, &disk, (0, MIB), "*").status, 200);
    stream.until("the part", |data| data["durable"] == json!(MIB));
    assert_ne!(open_drafts(&server), 0);
    wait_for("the draft to be closed", || (open_drafts(&server) == 0).then_some(()));
    assert_eq!(transfer.put(&server, &disk, (0, MIB), "*").status, 200);
    let again = stream.until("the part again", |data| !data.is_null());
    assert_eq!(again.data["durable"], json!(MIB), "{again:?}");
}

#[test]
fn who_knows_the_present_state_is_told_of_the_next() {
    let server = Server::start();
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": MIB}));
    let login = ["--user", &server.credentials()];
    let first = Stream::open(&server, &transfer, &login).next().expect("an event");
    let known = format!("Last-Event-ID: {}", first.id);
    let mut stream = Stream::open(&server, &transfer, &[&login[..], &["--header", &known]].concat());
    assert!(stream.next().expect("a comment").id.is_empty());
    let disk = server.scratch().join("disk.img");
    image::random(&disk, MIB, 63);
    assert_eq!(transfer.put(&server, &disk, (0, MIB), "*").status, 200);
    let next = stream.until("an event", |data| !data.is_null());
    assert_ne!(next.id, first.id);
}

#[test]
fn a_stream_without_news_is_kept_open_by_comments() {
    let server = Setup::default().config("limits.idle_seconds = 3").start();
    let transfer = Transfer::begin(&server, &json!({"name": "a"}));
    let mut stream = Stream::as_user(&server, &transfer, &server.credentials());
    assert!(!stream.next().expect("an event").id.is_empty());
    for _ in 0..5 {
        assert!(stream.next().expect("a comment").id.is_empty());
    }
}

#[test]
fn a_stream_ends_with_the_login_that_asked_for_it() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let begun = server.curl_as(&alice, TRANSFERS).json("POST", &json!({"name": "a"})).run();
    let transfer = Transfer::begun(&server, &begun);
    let log_in = || Cloud::log_in(&server, &alice).token;
    let by_token = |token: &str| {
        let stream = Stream::open(&server, &transfer, &["--header", &format!("X-Auth-Token: {token}")]);
        assert_eq!(stream.head.status, 200);
        stream
    };
    let (revoked, other) = (log_in(), log_in());
    let ends = by_token(&revoked);
    let (others, password) = (by_token(&other), Stream::as_user(&server, &transfer, &alice));
    let curl = server.anonymous_curl(TOKENS).method("DELETE").header(&format!("X-Auth-Token: {revoked}"));
    assert_eq!(curl.header(&format!("X-Subject-Token: {revoked}")).run().status, 204);
    assert_eq!(ends.end().1.code(), Some(0));
    let renewed = server.user_command(&["passwd", "alice"]);
    assert!(renewed.status.success(), "{renewed:?}");
    assert_eq!((others.end().1.code(), password.end().1.code()), (Some(0), Some(0)));
    let new = String::from_utf8(renewed.stdout).expect("credentials are text");
    let stream = Stream::as_user(&server, &transfer, new.trim());
    assert!(server.user_command(&["remove", "alice"]).status.success());
    assert_eq!(stream.end().1.code(), Some(0));
}

#[test]
fn a_stream_does_not_delay_the_end_of_the_server() {
    let mut server = Setup::default().config("limits.drain_seconds = 600").start();
    let transfer = Transfer::begin(&server, &json!({"name": "a"}));
    let stream = Stream::as_user(&server, &transfer, &server.credentials());
    assert_eq!(server.terminate().code(), Some(0));
    assert_eq!(stream.end().1.code(), Some(0));
}

#[test]
fn the_head_of_a_stream_is_told_without_one_and_foreign_transfers_have_none() {
    let server = Server::start();
    let transfer = Transfer::begin(&server, &json!({"name": "a"}));
    let path = format!("{TRANSFERS}/{}/events", transfer.id);
    let head = server.curl(&path).arg("--head").run();
    assert_eq!((head.status, head.field("content-type")), (200, "text/event-stream"), "{head:?}");
    assert!(head.values("content-length").is_empty(), "{head:?}");
    assert_eq!(server.curl_as(&server.add_user("mallory"), &path).run().status, 404);
    assert_eq!(server.anonymous_curl(&path).run().status, 401);
    let mut raw = server.raw();
    raw.send_head(&format!("HEAD {path}"), &[&basic(&server.credentials())]);
    assert_eq!(raw.head().status, 200);
    // The connection goes on with the next request.
    raw.send_head("GET /healthz", &[]);
    assert_eq!(raw.response().status, 200);
}
