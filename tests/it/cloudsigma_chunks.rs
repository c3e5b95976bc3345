//! CloudSigma's uploads in chunks: by links, and in the form of resumable.js.

mod clients;

use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};

use crate::harness::raw::basic;
use crate::harness::{Curl, RawClient, Response, Server, Setup, image, stored, wait_for};
use crate::transfers::TRANSFERS;

const API: &str = "/api/2.0";
const OCTETS: &str = "Content-Type: application/octet-stream";
const MIB: u64 = 1 << 20;

/// A drive that is uploaded in chunks, and the file that it is to become.
#[derive(Clone)]
struct Chunked<'a> {
    server: &'a Server,
    drive: String,
    disk: PathBuf,
    size: u64,
    each: u64,
    /// The path at which its transfer takes parts in other dialects.
    transfer: String,
}

impl<'a> Chunked<'a> {
    /// Begins one of a file of random bytes.
    #[track_caller]
    fn begin(server: &'a Server, size: u64, each: u64, seed: u64) -> Self {
        let disk = server.scratch().join(format!("disk.{seed}"));
        image::random(&disk, size, seed);
        let object = json!({"objects": [{"name": "disk.img", "size": size, "media": "disk"}]});
        let begun = server.curl(&format!("{API}/initupload/")).json("POST", &object).run();
        assert_eq!((begun.status, begun.field("cache-control")), (201, "no-store"), "{begun:?}");
        let told = &begun.json()["objects"][0];
        assert_eq!((&told["status"], &told["size"]), (&json!("uploading"), &json!(size)), "{told}");
        let drive = stored::uuid(told);
        let transfer = begun.field("longshore-transfer").strip_prefix(server.endpoint()).expect("here").to_owned();
        Self { server, drive, disk, size, each, transfer }
    }

    fn count(&self) -> u64 {
        (self.size / self.each).max(1)
    }

    /// The bytes of a chunk, numbered from 0.
    fn bytes(&self, number: u64) -> Vec<u8> {
        let start = number * self.each;
        let end = if number + 1 == self.count() { self.size } else { start + self.each };
        image::part(&self.disk, start, (end - start) as usize)
    }

    fn ask(&self, number: u64) -> Response {
        let path = format!("{API}/drives/{}/action/?do=upload_chunk", self.drive);
        self.server.curl(&path).json("POST", &json!({"chunk_number": number, "chunk_size": self.each})).run()
    }

    /// The path of a link for a chunk.
    #[track_caller]
    fn link(&self, number: u64) -> String {
        let told = self.ask(number);
        assert_eq!((told.status, told.field("cache-control")), (200, "no-store"), "{told:?}");
        told.json()["link"].as_str().expect("a link").to_owned()
    }

    /// Sends these bytes to a link.
    fn to_link(&self, link: &str, bytes: &[u8]) -> Response {
        let file = tempfile::NamedTempFile::new_in(self.server.scratch().path()).expect("a file can be made");
        std::fs::write(file.path(), bytes).expect("a chunk is written");
        self.server.anonymous_curl(link).upload("POST", file.path()).run()
    }

    /// The query for a chunk, as resumable.js numbers them.
    fn query(&self, number: u64) -> String {
        let (path, each, size) = (format!("{API}/drives/{}/upload/", self.drive), self.each, self.size);
        format!(
            "{path}?resumableChunkNumber={}&resumableChunkSize={each}&resumableTotalSize={size}\
             &resumableIdentifier=disk.img&resumableFilename=disk.img",
            number + 1
        )
    }

    fn test(&self, number: u64) -> u16 {
        self.server.curl(&self.query(number)).run().status
    }

    /// Sends a form with these fields, and a file of these bytes.
    fn form(&self, fields: &[(&str, String)], bytes: &[u8]) -> Curl {
        let curl = self.server.curl(&format!("{API}/drives/{}/upload/", self.drive));
        filled(curl, self.server, fields, bytes)
    }

    fn fields(&self, number: u64) -> Vec<(&'static str, String)> {
        vec![
            ("resumableChunkNumber", (number + 1).to_string()),
            ("resumableChunkSize", self.each.to_string()),
            ("resumableTotalSize", self.size.to_string()),
            ("resumableIdentifier", "disk.img".to_owned()),
            ("resumableFilename", "disk.img".to_owned()),
        ]
    }

    fn transferred(&self) -> Value {
        let told = self.server.curl(&format!("{TRANSFERS}?reference=disk.img")).run().json();
        let all = told["transfers"].as_array().expect("a list").clone();
        all.into_iter().find(|one| one["drive"] == json!(self.drive)).expect("its transfer is listed")
    }

    fn durable(&self) -> u64 {
        self.transferred()["durable"].as_u64().expect("a count")
    }

    /// Fails unless the drive is there, and is the file.
    #[track_caller]
    fn assert_made(&self) {
        let drive = self.server.drive(&self.drive);
        assert_eq!(drive["status"], json!("unmounted"), "{drive}");
        let back = self.server.scratch().join(format!("{}.back", self.drive));
        self.server.download(&self.drive, &back);
        let size = drive["size"].as_u64().expect("a size");
        image::assert_same_then_zeros(&self.disk, &back, size);
    }
}

/// Adds a form to a request: fields, and a file.
fn filled(curl: Curl, server: &Server, fields: &[(&str, String)], bytes: &[u8]) -> Curl {
    let chunk = server.scratch().join(format!("chunk.{}", fields.first().map_or("0", |(_, value)| value.as_str())));
    std::fs::write(&chunk, bytes).expect("a chunk is written");
    let curl = fields.iter().fold(curl, |curl, (name, value)| curl.arg("--form-string").arg(format!("{name}={value}")));
    curl.arg("--form").arg(format!("file=@{};filename=disk.img", chunk.display()))
}

/// What the first answer to the last chunk says, and each later one.
fn done(drive: &str) -> Value {
    json!({"objects": [{"resource_uri": format!("{API}/drives/{drive}/"), "status": "unmounted", "uuid": drive}]})
}

#[test]
fn chunks_in_any_order_by_links_make_the_drive_also_over_a_crash() {
    // The drive is grown when it is complete, and not before: clients compare its size with that of their file.
    let mut server = Setup::default().defaults().config("limits.min_drive = \"8 MiB\"").start();
    let (drive, disk, last) = {
        let chunked = Chunked::begin(&server, 5 * MIB + 123, MIB, 1);
        assert_eq!(chunked.count(), 5);
        for number in [3, 0] {
            let told = chunked.to_link(&chunked.link(number), &chunked.bytes(number));
            assert_eq!((told.status, &told.json()["objects"][0]["status"]), (200, &json!("uploading")), "{told:?}");
            let again = chunked.ask(number);
            let words = format!("chunk {number} is already uploaded");
            assert_eq!((again.status, &again.json()[0]["error_message"]), (416, &json!(words)), "{again:?}");
        }
        let drive = server.drive(&chunked.drive);
        assert_eq!((&drive["status"], &drive["size"]), (&json!("uploading"), &json!(chunked.size)), "{drive}");
        (chunked.drive.clone(), chunked.disk.clone(), chunked.link(4))
    };
    server.kill9();
    server.restart();
    let transfer = String::new();
    let chunked = Chunked { server: &server, drive, disk, size: 5 * MIB + 123, each: MIB, transfer };
    assert_eq!([chunked.test(0), chunked.test(1), chunked.test(3)], [200, 404, 200]);
    // Other chunks than before: those that have come in part are sent whole.
    let chunked = Chunked { each: 700_000, ..chunked };
    for number in (0..chunked.count()).rev() {
        let asked = chunked.ask(number);
        if asked.status == 416 {
            continue;
        }
        let told = chunked.to_link(asked.json()["link"].as_str().expect("a link"), &chunked.bytes(number));
        assert_eq!(told.status, 200, "chunk {number}: {told:?}");
    }
    chunked.assert_made();
    assert_eq!(server.drive(&chunked.drive)["size"], json!(8 * MIB));
    // A link that was made before is good still, and what comes to it has come.
    let chunked = Chunked { each: MIB, ..chunked };
    let late = chunked.to_link(&last, &chunked.bytes(4));
    assert_eq!((late.status, late.json()), (200, done(&chunked.drive)), "{late:?}");
    assert_eq!((chunked.ask(2).status, chunked.test(2)), (416, 200));
    assert_eq!(chunked.transferred()["state"], json!("done"));
    stored::assert_clean(&server);
}

#[test]
fn an_answer_to_the_last_chunk_that_was_lost_is_given_again_for_as_long_as_the_transfer_is_remembered() {
    let mut server = Server::start();
    let (drive, disk, links) = {
        let chunked = Chunked::begin(&server, 3 * MIB + 5, MIB, 2);
        let links: Vec<String> = (0..3).map(|number| chunked.link(number)).collect();
        for number in [0, 1] {
            assert_eq!(chunked.to_link(&links[number], &chunked.bytes(number as u64)).status, 200);
        }
        let last = chunked.bytes(2);
        let mut cut = server.raw();
        cut.send_head(&format!("POST {}", links[2]), &[OCTETS, &format!("Content-Length: {}", last.len())]);
        cut.send(&last);
        drop(cut);
        let resend = |bytes: &[u8]| chunked.to_link(&links[2], bytes);
        for _ in 0..3 {
            let again = resend(&last);
            assert_eq!((again.status, again.json()), (200, done(&chunked.drive)), "{again:?}");
        }
        // Nobody is told that other bytes are stored.
        let mut other = last.clone();
        other[77] ^= 1;
        let refused = resend(&other);
        assert_eq!((refused.status, &refused.json()[0]["error_type"]), (400, &json!("validation")), "{refused:?}");
        assert_eq!(resend(&last[1..]).status, 400);
        (chunked.drive.clone(), chunked.disk.clone(), links)
    };
    server.kill9();
    server.restart();
    let transfer = String::new();
    let chunked = Chunked { server: &server, drive, disk, size: 3 * MIB + 5, each: MIB, transfer };
    let again = chunked.to_link(&links[2], &chunked.bytes(2));
    assert_eq!((again.status, again.json()), (200, done(&chunked.drive)), "{again:?}");
    let again = chunked.form(&chunked.fields(2), &chunked.bytes(2)).run();
    assert_eq!((again.status, again.json()), (200, done(&chunked.drive)), "{again:?}");
    chunked.assert_made();
    // The answer is about the transfer, not about what became of its drive.
    let path = format!("{API}/drives/{}/", chunked.drive);
    assert_eq!(server.curl(&path).method("DELETE").run().status, 204);
    let again = chunked.to_link(&links[2], &chunked.bytes(2));
    assert_eq!((again.status, again.json()), (200, done(&chunked.drive)), "{again:?}");
    stored::assert_clean(&server);
}

#[test]
fn a_drive_of_which_no_byte_is_missing_is_made_when_a_chunk_is_asked_for() {
    for is_link in [true, false] {
        let server = Server::start();
        let chunked = Chunked::begin(&server, 2 * MIB, MIB, 3);
        // All bytes, by a dialect that finishes apart: as after a crash behind the last byte.
        let put = server.anonymous_curl(&chunked.transfer).upload("PUT", &chunked.disk).run();
        assert_eq!((put.status, &put.json()["state"]), (200, &json!("open")), "{put:?}");
        assert_eq!(server.drive(&chunked.drive)["status"], json!("uploading"));
        if is_link {
            assert_eq!(chunked.ask(0).status, 416);
        } else {
            assert_eq!(chunked.test(1), 200);
        }
        chunked.assert_made();
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_of_it_is_stored() {
    let server = Server::start();
    let chunked = Chunked::begin(&server, 5 * MIB, 2 * MIB, 4);
    let refused = |told: &Response, words: &str| {
        let error = &told.json()[0];
        assert_eq!((told.status, &error["error_type"]), (400, &json!("validation")), "{told:?}");
        assert!(error["error_message"].as_str().is_some_and(|message| message.contains(words)), "{told:?}");
        assert_eq!(chunked.durable(), 0);
    };
    // Clients take 416 for "it is there".
    refused(&chunked.ask(2), "has 2 chunks of 2097152 bytes");
    let link = chunked.link(1);
    let bytes = chunked.bytes(1);
    assert_eq!(bytes.len() as u64, 3 * MIB);
    // The text of the bytes, which one client sends.
    refused(&chunked.to_link(&link, &vec![b'x'; 2_839]), "chunk 1 has 3145728 bytes, and the body 2839");
    refused(&chunked.to_link(&link, &[&*bytes, b"x"].concat()), "chunk 1 has 3145728 bytes");
    // Without a length, and too short or too long.
    for sent in [&bytes[1..], &[&*bytes, b"x"].concat()] {
        let file = server.scratch().join("stream");
        std::fs::write(&file, sent).expect("a chunk is written");
        let told = server.anonymous_curl(&link).upload_stream("POST", &file).run();
        refused(&told, "the body");
    }
    let with = |name: &'static str, value: u64| {
        let mut fields = chunked.fields(1);
        fields.retain(|(known, _)| *known != name);
        fields.push((name, value.to_string()));
        chunked.form(&fields, &bytes).run()
    };
    // A size that changes between chunks.
    refused(&with("resumableTotalSize", 5 * MIB + 1), "the form is not one with this chunk");
    refused(&with("resumableChunkNumber", 3), "no chunk 3");
    refused(&with("resumableCurrentChunkSize", MIB), "chunk 2 of a file");
    refused(&with("resumableTotalChunks", 9), "has not 9 chunks");
    refused(&with("flowChunkNumber", 2), "takes no field");
    refused(&chunked.form(&chunked.fields(1), &vec![b'x'; 2_839]).run(), "the form is not one with this chunk");
    let grown = Chunked { size: 5 * MIB + 1, ..chunked.clone() };
    let told = grown.form(&grown.fields(0), &grown.bytes(0)).run();
    refused(&told, "the transfer is one of 5242880 bytes, not 5242881");
    assert_eq!(grown.test(0), 400);
    // Not by `upload`, with which curl puts the name of the file into the path.
    let octets = server.curl(&grown.query(0)).header("Content-Type: application/octet-stream");
    let octets = octets.arg("--data-binary").arg(format!("@{}", grown.disk.display())).run();
    assert_eq!(octets.status, 400, "{octets:?}");
    // A field behind the file, which another form of the same length would have before it.
    let late =
        chunked.form(&chunked.fields(1)[..4], &bytes).arg("--form-string").arg("resumableFilename=disk.img").run();
    refused(&late, "at its end");
    // One that is as long, but whose file ends before.
    let (first, last) = bytes.split_at(2_000_000);
    let two = [first, b"\r\n--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n", &last[51..]].concat();
    assert_eq!(two.len(), bytes.len());
    let (mut client, rest) = begin_form(&chunked, 1, &two, 10);
    client.send(&rest);
    refused(&client.response(), "has not the length of its chunk");
    for number in 0..2 {
        assert_eq!(chunked.form(&chunked.fields(number), &chunked.bytes(number)).run().status, 200);
    }
    chunked.assert_made();
    stored::assert_clean(&server);
}

/// Sends a form with this file over a connection of its own, up to somewhere in the file; returns what is left of it.
fn begin_form(chunked: &Chunked, number: u64, file: &[u8], upto: usize) -> (RawClient, Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in chunked.fields(number) {
        body.extend(format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes());
    }
    body.extend(b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"blob\"\r\n\r\n");
    let head = body.len();
    body.extend(file);
    body.extend(b"\r\n--b--\r\n");
    let mut client = chunked.server.raw();
    let (login, length) = (basic(&chunked.server.credentials()), format!("Content-Length: {}", body.len()));
    let fields = [&login, "Content-Type: multipart/form-data; boundary=b", &length];
    client.send_head(&format!("POST {API}/drives/{}/upload/", chunked.drive), &fields);
    client.send(&body[..head + upto]);
    let rest = body.split_off(head + upto);
    (client, rest)
}

#[test]
fn what_came_of_a_chunk_before_its_line_was_cut_is_sent_again_and_a_later_one_takes_over() {
    let server = Server::start();
    let chunked = Chunked::begin(&server, 6 * MIB, 3 * MIB, 5);
    let bytes = chunked.bytes(0);
    // The length of a body tells that its bytes are those of the chunk.
    let mut cut = server.raw();
    cut.send_head(&format!("POST {}", chunked.link(0)), &[OCTETS, &format!("Content-Length: {}", bytes.len())]);
    cut.send(&bytes[..2_000_000]);
    wait_for("some bytes", || (chunked.durable() > 0).then_some(()));
    drop(cut);
    wait_for("the end of the part", || (chunked.transferred()["parts"] == json!(0)).then_some(()));
    let came = chunked.durable();
    assert_eq!(chunked.test(0), 404);
    // That of a form is known at its end.
    let (client, _) = begin_form(&chunked, 1, &chunked.bytes(1), 2_000_000);
    wait_for("the form", || (chunked.transferred()["parts"] == json!(1)).then_some(()));
    drop(client);
    wait_for("its end", || (chunked.transferred()["parts"] == json!(0)).then_some(()));
    assert_eq!(chunked.durable(), came);
    // Two of the same chunk at once: the earlier is ended.
    let (mut old, _) = begin_form(&chunked, 0, &bytes, 2_000_000);
    wait_for("the form", || (chunked.transferred()["parts"] == json!(1)).then_some(()));
    let new = chunked.form(&chunked.fields(0), &bytes).run();
    assert_eq!(new.status, 200, "{new:?}");
    assert_eq!(old.response().status, 409);
    // A chunk that is there is compared, and stays.
    let link = chunked.link(1);
    assert_eq!(chunked.form(&chunked.fields(0), &bytes).run().status, 200);
    let other = chunked.form(&chunked.fields(0), &chunked.bytes(1)).run();
    assert_eq!((other.status, other.text().contains("other bytes of this chunk")), (400, true), "{other:?}");
    let (mut client, rest) = begin_form(&chunked, 1, &chunked.bytes(1), 100);
    client.send(&rest);
    let told = client.response();
    assert_eq!((told.status, told.json()), (200, done(&chunked.drive)), "{told:?}");
    // The connection goes on.
    client.send_head("GET /healthz", &[]);
    assert_eq!(client.response().status, 200);
    assert_eq!(chunked.to_link(&link, &chunked.bytes(1)).json(), done(&chunked.drive));
    chunked.assert_made();
    stored::assert_clean(&server);
}

#[test]
fn chunks_that_come_in_parallel_and_twice_by_all_ways_make_one_drive() {
    let server = Server::start();
    let chunked = Chunked::begin(&server, 9 * MIB + 4_321, 700_001, 6);
    thread::scope(|scope| {
        for worker in 0..6 {
            let (server, chunked) = (&server, &chunked);
            scope.spawn(move || {
                for step in 0..chunked.count() {
                    let number = (step * (2 * worker + 1) + worker) % chunked.count();
                    let bytes = chunked.bytes(number);
                    let told = match worker % 3 {
                        0 => match chunked.ask(number) {
                            there if there.status == 416 => continue,
                            asked => chunked.to_link(asked.json()["link"].as_str().expect("a link"), &bytes),
                        },
                        1 => {
                            let (mut client, rest) = begin_form(chunked, number, &bytes, 9);
                            client.send(&rest);
                            client.response()
                        }
                        _ => {
                            let mut client = server.raw();
                            let login = basic(&server.credentials());
                            let length = format!("Content-Length: {}", bytes.len());
                            client.send_head(&format!("POST {}", chunked.query(number)), &[&login, OCTETS, &length]);
                            client.send(&bytes);
                            client.response()
                        }
                    };
                    // Another has taken over, and brings it.
                    assert!(matches!(told.status, 200 | 409), "{told:?}");
                }
            });
        }
    });
    for number in 0..chunked.count() {
        let bytes = chunked.bytes(number);
        assert_eq!(chunked.form(&chunked.fields(number), &bytes).run().json(), done(&chunked.drive));
    }
    chunked.assert_made();
    stored::assert_clean(&server);
}

#[test]
fn what_was_begun_in_chunks_is_gone_on_with_in_every_other_dialect() {
    let server = Server::start();
    let chunked = Chunked::begin(&server, 8 * MIB + 9, 2 * MIB, 7);
    let listed = chunked.transferred();
    assert_eq!((&listed["state"], &listed["size"]), (&json!("open"), &json!(chunked.size)), "{listed}");
    let part = server.scratch().join("part");
    let write = |start: u64, end: u64| {
        std::fs::write(&part, image::part(&chunked.disk, start, (end - start) as usize)).expect("a part is written");
    };
    // By tus with the login of the owner, then Content-Range at the URL that was told, then the draft of the IETF.
    let own = format!("{TRANSFERS}/{}", listed["id"].as_str().expect("an id"));
    write(0, 1_000_001);
    let tus = server.curl(&own).header("Tus-Resumable: 1.0.0").header("Upload-Offset: 0");
    let tus = tus.header("Content-Type: application/offset+octet-stream").arg("--data-binary");
    assert_eq!(tus.arg(format!("@{}", part.display())).method("PATCH").run().status, 204);
    write(5 * MIB, 7 * MIB);
    let range = format!("Content-Range: bytes {}-{}/{}", 5 * MIB, 7 * MIB - 1, chunked.size);
    let put = server.anonymous_curl(&chunked.transfer).upload("PUT", &part).header(&range).run();
    assert_eq!(put.status, 200, "{put:?}");
    write(1_000_001, 2 * MIB + 77);
    let draft = server.anonymous_curl(&chunked.transfer).header("Upload-Complete: ?0").header("Upload-Offset: 1000001");
    let draft = draft.header("Content-Type: application/partial-upload").arg("--data-binary");
    assert_eq!(draft.arg(format!("@{}", part.display())).method("PATCH").run().status, 204);
    assert_eq!([0, 1, 2, 3].map(|number| chunked.test(number)), [200, 404, 404, 404]);
    // Of each of these chunks some has come.
    let told = chunked.to_link(&chunked.link(1), &chunked.bytes(1));
    assert_eq!(told.status, 200, "{told:?}");
    let told = chunked.form(&chunked.fields(3), &chunked.bytes(3)).run();
    assert_eq!(told.status, 200, "{told:?}");
    // Without a length it is not known in time whether it fits; what has come stays.
    let stream = server.scratch().join("stream");
    std::fs::write(&stream, chunked.bytes(2)).expect("a chunk is written");
    let link = chunked.link(2);
    assert_eq!(server.anonymous_curl(&link).upload_stream("POST", &stream).run().status, 409);
    assert_eq!(chunked.to_link(&link, &chunked.bytes(2)).json(), done(&chunked.drive));
    chunked.assert_made();
}

#[test]
fn a_transfer_that_has_ended_takes_no_chunk_and_leaves_nothing() {
    let server = Server::start();
    for is_cancelled in [true, false] {
        let chunked = Chunked::begin(&server, 4 * MIB, MIB, 8);
        let link = chunked.link(1);
        assert_eq!(chunked.to_link(&chunked.link(0), &chunked.bytes(0)).status, 200);
        let id = chunked.transferred()["id"].as_str().expect("an id").to_owned();
        let path = if is_cancelled { format!("{TRANSFERS}/{id}") } else { format!("{API}/drives/{}/", chunked.drive) };
        assert_eq!(server.curl(&path).method("DELETE").run().status, 204);
        let late = chunked.to_link(&link, &chunked.bytes(1));
        assert_eq!((late.status, &late.json()[0]["error_type"]), (410, &json!("notexist")), "{late:?}");
        let form = chunked.form(&chunked.fields(1), &chunked.bytes(1)).run();
        assert_eq!((chunked.ask(1).status, chunked.test(0), form.status), (410, 410, 410));
        stored::assert_clean(&server);
        assert!(server.drives().is_empty());
    }
    let whole = server.scratch().join("whole.img");
    image::random(&whole, 100_000, 9);
    let chunk = json!({"chunk_number": 0, "chunk_size": 1000});
    let ask = |drive: &str| {
        server.curl(&format!("{API}/drives/{drive}/action/?do=upload_chunk")).json("POST", &chunk).run().status
    };
    assert_eq!(ask(&server.upload(&whole)), 409);
    assert_eq!(ask("01938c2e-7d10-7a42-9b51-3f0c5d2e8a77"), 404);
}

#[test]
fn a_link_is_for_one_chunk_and_ends_with_its_users_password_and_nobody_else_has_one() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let chunked = Chunked::begin(&server, 4 * MIB, MIB, 10);
    let path = format!("{API}/drives/{}/action/?do=upload_chunk", chunked.drive);
    let chunk = json!({"chunk_number": 0, "chunk_size": MIB});
    assert_eq!(server.curl_as(&alice, &path).json("POST", &chunk).run().status, 404);
    assert_eq!(server.curl_as(&alice, &chunked.query(0)).run().status, 404);
    let curl = server.curl_as(&alice, &format!("{API}/drives/{}/upload/", chunked.drive));
    assert_eq!(filled(curl, &server, &chunked.fields(0), &chunked.bytes(0)).run().status, 404);
    for curl in [server.anonymous_curl(&path).json("POST", &chunk), server.anonymous_curl(&chunked.query(0))] {
        let told = curl.run();
        assert_eq!((told.status, told.field("www-authenticate").starts_with("Basic")), (401, true), "{told:?}");
    }
    let link = chunked.link(2);
    // The place is that of the link, whoever has it, and no other.
    let forged = link.replace(&link[40..44], if &link[40..44] == "AAAA" { "BBBB" } else { "AAAA" });
    let told = chunked.to_link(&forged, &chunked.bytes(0));
    assert_eq!((told.status, &told.json()[0]["error_type"]), (403, &json!("permission")), "{told:?}");
    assert_eq!(chunked.to_link(&link, &chunked.bytes(2)).status, 200);
    assert_eq!([0, 1, 2, 3].map(|number| chunked.test(number)), [404, 404, 200, 404]);
    let secret = link.split('/').nth(4).expect("a secret");
    assert!(secret.len() > 100 && !server.logged().contains(secret), "{link}");

    let theirs = json!({"name": "theirs", "size": 100_000});
    let begun = server.curl_as(&alice, &format!("{API}/initupload/")).json("POST", &theirs).run().json();
    let path = format!("{API}/drives/{}/action/?do=upload_chunk", stored::uuid(&begun["objects"][0]));
    let told = server.curl_as(&alice, &path).json("POST", &json!({"chunk_number": 0, "chunk_size": 100_000})).run();
    let link = told.json()["link"].as_str().expect("a link").to_owned();
    assert!(server.user_command(&["passwd", "alice"]).status.success());
    let send = || chunked.to_link(&link, &vec![1; 100_000]).status;
    wait_for("the end of the link", || matches!(send(), 403 | 410).then_some(()));
}

#[test]
fn terms_of_the_drive_are_kept_and_a_drive_of_one_byte_is_a_chunk() {
    let server = Server::start();
    let init = |body: &Value, query: &str| server.curl(&format!("{API}/initupload/{query}")).json("POST", body).run();
    let bare = json!({"name": "a.iso", "size": "1", "media": "cdrom", "tags": ["x"], "meta": {"owner": "alice"}});
    let begun = init(&bare, "?avoid=01938c2e-7d10-7a42-9b51-3f0c5d2e8a77");
    assert_eq!(begun.status, 201, "{begun:?}");
    let id = stored::uuid(&begun.json()["objects"][0]);
    let drive = server.drive(&id);
    assert_eq!(
        (&drive["media"], &drive["tags"], &drive["size"]),
        (&json!("cdrom"), &json!(["x"]), &json!(1)),
        "{drive}"
    );
    assert_eq!(drive["meta"], json!({"owner": "alice"}));
    let disk = server.scratch().join("byte");
    std::fs::write(&disk, b"b").expect("the image is written");
    let (drive, transfer) = (id, String::new());
    let chunked = Chunked { server: &server, drive, disk, size: 1, each: 5 * MIB, transfer };
    assert_eq!(chunked.to_link(&chunked.link(0), b"b").json(), done(&chunked.drive));
    chunked.assert_made();
    for wrong in [json!({"name": "a"}), json!({"name": "a", "size": 0}), json!({"size": 5}), json!([{}, {}])] {
        assert_eq!(init(&wrong, "").status, 400, "{wrong}");
    }
    assert_eq!(init(&json!({"name": "a", "size": 1_u64 << 50}), "").status, 413);
    assert_eq!(server.drives().len(), 1);
    stored::assert_clean(&server);
}
