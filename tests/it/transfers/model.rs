//! Random sequences of parts, cuts, takeovers, zeros, wrong requests, restarts and ends, compared with a model that
//! knows for each byte who may have written it last.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{TRANSFERS, Transfer, extents};
use crate::harness::{RawClient, Response, Server, stored};

/// The number of calls in one sequence.
const STEPS: usize = 45;
/// Each is a walk of its own.
const SEEDS: u64 = 2;
/// The writer of zeros.
const ZEROS: u32 = 0;
/// As many writers as a set has room for, less those that one step and the end may need.
const MOST_WRITERS: u32 = 56;
/// The bytes of a piece, which has one digest.
const PIECE: usize = 4 << 20;
const OCTETS: &str = "Content-Type: application/octet-stream";

/// The byte that a writer writes at an offset.
fn byte(writer: u32, offset: usize) -> u8 {
    if writer == ZEROS {
        return 0;
    }
    let writer = u64::from(writer).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (offset as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ writer;
    (mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 56) as u8
}

fn bytes(writer: u32, range: Range<usize>) -> Vec<u8> {
    range.map(|offset| byte(writer, offset)).collect()
}

fn meet(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// A part that comes slowly.
struct Slow {
    client: RawClient,
    writer: u32,
    range: Range<usize>,
    /// The offset of the next byte.
    at: usize,
    /// Whether a part beside it may have ended it, since both are in one piece.
    may_have_ended: bool,
}

impl Slow {
    /// Sends bytes that must not land, since the part has ended: as many as are taken though nobody reads them.
    fn send_late(&mut self) {
        // It may be closed.
        let _ = self.client.try_send(&bytes(self.writer, self.at..self.range.end.min(self.at + 50_000)));
    }
}

struct Walk<'a> {
    server: &'a mut Server,
    random: StdRng,
    transfer: Transfer,
    size: usize,
    /// Whether the server knows the size.
    is_sized: bool,
    /// Who may have written each byte last, as a set of bits; none before anybody may have.
    writers: Vec<u64>,
    /// The bytes that the server has told to be durable.
    durable: Vec<bool>,
    slow: Vec<Slow>,
    next_writer: u32,
    is_done: bool,
}

impl Walk<'_> {
    fn step(&mut self) -> String {
        match self.random.random_range(0..24) {
            0..5 => self.put(),
            5..8 => self.begin_slowly(),
            8..12 => self.go_on_slowly(),
            12..14 => self.cut(),
            14..17 => self.append(),
            17..19 => self.zero(),
            19 => self.finish_too_early(),
            20 => self.wrong(),
            21..23 => self.race(),
            _ => self.restart(),
        }
    }

    fn writer(&mut self) -> u32 {
        self.next_writer += 1;
        self.next_writer
    }

    /// Bytes of the drive, more often of odd offsets than of whole blocks.
    fn range(&mut self) -> Range<usize> {
        let mut start = self.random.random_range(0..self.size);
        if self.random.random_bool(0.3) {
            start -= start % 4096;
        }
        let most = self.size - start;
        let most = if self.random.random_bool(0.7) { most.min(400_000) } else { most };
        start..start + self.random.random_range(1..=most)
    }

    /// The total in the field of a part. Once it was told, the server knows it.
    fn total(&mut self) -> String {
        if self.random.random_bool(0.5) {
            return "*".to_owned();
        }
        self.is_sized = true;
        self.size.to_string()
    }

    fn head(&mut self, range: &Range<usize>) -> [String; 2] {
        let content = format!("Content-Range: bytes {}-{}/{}", range.start, range.end - 1, self.total());
        [content, format!("Content-Length: {}", range.len())]
    }

    /// These bytes were written by this writer, and by nobody after.
    fn wrote(&mut self, writer: u32, range: Range<usize>) {
        self.writers[range.clone()].fill(1 << writer);
        self.durable[range].fill(true);
    }

    /// These bytes may have been written by this writer.
    fn may_have_written(&mut self, writer: u32, range: Range<usize>) {
        self.writers[range].iter_mut().for_each(|set| *set |= 1 << writer);
    }

    /// The slow parts with any of these bytes have ended. What they send now must not land.
    fn took_over(&mut self, range: &Range<usize>) {
        let (mut over, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.slow).into_iter().partition(|slow| meet(&slow.range, range));
        self.slow = left;
        over.iter_mut().for_each(Slow::send_late);
        for slow in &mut self.slow {
            let start = slow.range.start - slow.range.start % PIECE;
            slow.may_have_ended |= meet(&(start..slow.range.end), range);
        }
    }

    fn put(&mut self) -> String {
        let (writer, range) = (self.writer(), self.range());
        let [content, length] = self.head(&range);
        let mut client = self.server.raw();
        client.send_head(&format!("PUT {}", self.transfer.url), &[OCTETS, &content, &length]);
        client.send(&bytes(writer, range.clone()));
        let response = client.response();
        let told = format!("{writer} puts {range:?}");
        assert_eq!(response.status, 200, "{told}: {response:?}");
        self.took_over(&range);
        self.wrote(writer, range);
        told
    }

    fn begin_slowly(&mut self) -> String {
        let (writer, range) = (self.writer(), self.range());
        let [content, length] = self.head(&range);
        let mut client = self.server.raw();
        let fields = [OCTETS, &content, &length, "Expect: 100-continue"];
        client.send_head(&format!("PUT {}", self.transfer.url), &fields);
        let told = format!("{writer} begins {range:?}");
        let response = client.head();
        assert_eq!(response.status, 100, "{told}: {response:?}");
        self.took_over(&range);
        self.slow.push(Slow { client, writer, at: range.start, range, may_have_ended: false });
        self.send_some(self.slow.len() - 1);
        told
    }

    /// Sends some of the rest of a slow part.
    fn send_some(&mut self, index: usize) {
        let slow = &mut self.slow[index];
        let end = self.random.random_range(slow.at..slow.range.end);
        let (writer, sent) = (slow.writer, slow.at..end);
        // One that has ended may be closed.
        let taken = slow.client.try_send(&bytes(writer, sent.clone()));
        assert!(taken.is_ok() || slow.may_have_ended, "{taken:?}");
        slow.at = end;
        self.may_have_written(writer, sent);
    }

    fn go_on_slowly(&mut self) -> String {
        if self.slow.is_empty() {
            return "nothing".to_owned();
        }
        let index = self.random.random_range(0..self.slow.len());
        if self.slow[index].may_have_ended || self.random.random_bool(0.5) {
            self.send_some(index);
            return format!("{} sends up to {}", self.slow[index].writer, self.slow[index].at);
        }
        let mut slow = self.slow.swap_remove(index);
        slow.client.send(&bytes(slow.writer, slow.at..slow.range.end));
        let response = slow.client.response();
        let told = format!("{} sends the rest of {:?}", slow.writer, slow.range);
        assert_eq!(response.status, 200, "{told}: {response:?}");
        self.wrote(slow.writer, slow.range);
        told
    }

    fn cut(&mut self) -> String {
        if self.slow.is_empty() {
            return "nothing".to_owned();
        }
        let index = self.random.random_range(0..self.slow.len());
        let slow = self.slow.swap_remove(index);
        format!("{} is cut at {} of {:?}", slow.writer, slow.at, slow.range)
    }

    /// Where to go on, as a client of resumable uploads asks for it.
    fn offset(&self) -> usize {
        let mut client = self.server.raw();
        client.send_head(&format!("HEAD {}", self.transfer.url), &["Tus-Resumable: 1.0.0"]);
        client.head().field("upload-offset").parse().expect("a number")
    }

    fn append_at(&self, offset: usize, is_tus: bool, bytes: &[u8]) -> Response {
        let mut client = self.server.raw();
        let (offset, length) = (format!("Upload-Offset: {offset}"), format!("Content-Length: {}", bytes.len()));
        let kind: [&str; 2] = if is_tus {
            ["Content-Type: application/offset+octet-stream", "Tus-Resumable: 1.0.0"]
        } else {
            ["Content-Type: application/partial-upload", "Upload-Complete: ?0"]
        };
        // What is refused may be answered before the body is sent.
        let fields = [kind[0], kind[1], &offset, &length, "Expect: 100-continue"];
        client.send_head(&format!("PATCH {}", self.transfer.url), &fields);
        let response = client.head();
        if response.status != 100 {
            return response;
        }
        client.send(bytes);
        client.response()
    }

    fn append(&mut self) -> String {
        let is_tus = self.random.random();
        let offset = self.offset();
        if offset > 0 && self.random.random_bool(0.3) {
            let wrong = self.random.random_range(0..offset);
            let response = self.append_at(wrong, is_tus, b"wrong");
            assert_eq!(response.status, 409, "an append at {wrong} of {offset}: {response:?}");
            let expected: usize = response.field("upload-offset").parse().expect("a number");
            assert!((offset..=self.size).contains(&expected), "{response:?}");
            self.took_over(&(wrong..wrong + 1));
            return format!("an append at {wrong} of {offset}");
        }
        if offset == self.size {
            return "nothing".to_owned();
        }
        let writer = self.writer();
        for _ in 0..50 {
            let offset = self.offset();
            if offset == self.size {
                return "nothing is left to append".to_owned();
            }
            let most = (self.size - offset).min(500_000);
            let range = offset..offset + self.random.random_range(1..=most);
            let told = format!("{writer} appends {range:?}, tus {is_tus}");
            let response = self.append_at(offset, is_tus, &bytes(writer, range.clone()));
            if response.status == 409 {
                // What was cut there before has been counted since.
                let expected: usize = response.field("upload-offset").parse().expect("a number");
                assert!((offset + 1..=self.size).contains(&expected), "{told}: {response:?}");
                self.took_over(&(offset..offset + 1));
                continue;
            }
            assert_eq!(response.status, 204, "{told}: {response:?}");
            self.took_over(&range);
            self.wrote(writer, range);
            // tus has no other end than the last byte.
            self.is_done = response.field("upload-complete") == "?1";
            return told;
        }
        panic!("no append was taken");
    }

    fn zero(&mut self) -> String {
        let range = self.range();
        let zero = json!({"op": "zero", "offset": range.start, "size": range.len()});
        let response = self.transfer.direct(self.server, "").json("PATCH", &zero).run();
        assert_eq!(response.status, 200, "{range:?} is made zero: {response:?}");
        self.took_over(&range);
        self.wrote(ZEROS, range.clone());
        format!("{range:?} is made zero")
    }

    fn finish_too_early(&mut self) -> String {
        if self.writers.iter().all(|set| *set != 0) {
            return "nothing".to_owned();
        }
        let response = self.transfer.finish(self.server, &json!({"size": self.size}));
        assert_eq!(response.status, 409, "{response:?}");
        self.is_sized = true;
        "a finish that is too early".to_owned()
    }

    /// Requests that change nothing.
    fn wrong(&mut self) -> String {
        let size = self.size;
        let (range, length, expected) = match self.random.random_range(0..3) {
            0 if self.is_sized => (format!("bytes {}-{}/*", size - 1, size + 8), 10, 416),
            1 if self.is_sized => (format!("bytes 0-9/{}", size + 1), 10, 409),
            _ => ("bytes 0-9/*".to_owned(), 9, 400),
        };
        let mut client = self.server.raw();
        let fields = [OCTETS, &format!("Content-Range: {range}"), &format!("Content-Length: {length}")];
        client.send_head(&format!("PUT {}", self.transfer.url), &[&fields[..], &["Expect: 100-continue"]].concat());
        let response = client.head();
        assert_eq!(response.status, expected, "{range}: {response:?}");
        format!("a wrong part {range}")
    }

    /// Two clients send parts at once.
    fn race(&mut self) -> String {
        let parts = [(self.writer(), self.range()), (self.writer(), self.range())];
        let files: Vec<PathBuf> = parts.iter().map(|(n, _)| self.server.scratch().join(format!("race{n}"))).collect();
        for (file, (writer, range)) in files.iter().zip(&parts) {
            fs::write(file, bytes(*writer, range.clone())).expect("a part is written");
        }
        let statuses: Vec<u16> = thread::scope(|scope| {
            let send = |(file, (_, range)): (&PathBuf, &(u32, Range<usize>))| {
                let field = format!("Content-Range: bytes {}-{}/*", range.start, range.end - 1);
                let curl = self.transfer.direct(self.server, "").upload("PUT", file).header(&field);
                scope.spawn(move || curl.try_run().1.status)
            };
            let running: Vec<_> = files.iter().zip(&parts).map(send).collect();
            running.into_iter().map(|one| one.join().expect("a client ends")).collect()
        });
        let told = format!("{parts:?} race to {statuses:?}");
        let [(one, first), (other, second)] = parts;
        // One that goes on within a piece ends with a change of what it goes on from.
        let piece = |range: &Range<usize>| range.start - range.start % PIECE..range.end;
        let may_meet = meet(&piece(&first), &second) || meet(&first, &piece(&second));
        let both = first.start.max(second.start)..first.end.min(second.end);
        for range in [&first, &second] {
            self.took_over(range);
        }
        match statuses[..] {
            [200, 200] => {
                self.wrote(one, first);
                self.wrote(other, second);
                if !both.is_empty() {
                    self.may_have_written(one, both);
                }
            }
            // One that is not answered has seen its connection closed.
            [200, 409 | 0] if may_meet => {
                self.may_have_written(other, second);
                self.wrote(one, first);
            }
            [409 | 0, 200] if may_meet => {
                self.may_have_written(one, first);
                self.wrote(other, second);
            }
            _ => panic!("{told}"),
        }
        told
    }

    fn restart(&mut self) -> String {
        if self.random.random_bool(0.3) {
            self.slow.clear();
            assert_eq!(self.server.terminate().code(), Some(0));
            self.server.restart();
            return "an orderly restart".to_owned();
        }
        self.server.kill9();
        self.server.restart();
        self.slow.clear();
        "a crash".to_owned()
    }

    /// Compares what the server tells with the model. What it tells is certain from then on.
    fn check(&mut self, told: &[String]) -> Value {
        let seen = self.transfer.show(self.server);
        assert_eq!(seen["state"], json!("open"), "{seen} after {told:#?}");
        let mut at = 0;
        let ends = [(self.size as u64, 0)];
        for (start, size) in extents(&seen).into_iter().chain(ends) {
            let (start, end) = (start as usize, (start + size) as usize);
            let lost = (at..start).find(|offset| self.durable[*offset]);
            assert!(lost.is_none(), "byte {lost:?} was durable: {seen} after {told:#?}");
            let unknown = (start..end).find(|offset| self.writers[*offset] == 0);
            assert!(unknown.is_none(), "nobody has sent byte {unknown:?}: {seen} after {told:#?}");
            self.durable[start..end].fill(true);
            at = end;
        }
        seen
    }

    /// Sends what is missing, makes the drive of it, and compares each byte.
    fn end(&mut self, told: &[String]) {
        if self.random.random() {
            self.slow.clear();
        }
        let writer = self.writer();
        while !self.is_done {
            let missing = self.transfer.direct(self.server, "/extents?missing").run().json();
            // The size may not be known yet.
            let tail = (self.durable.iter().rposition(|is_there| *is_there).map_or(0, |last| last + 1))..self.size;
            let stretch = |stretch: &Value| {
                let start = stretch["start"].as_u64().expect("a start") as usize;
                start..start + stretch["length"].as_u64().expect("a length") as usize
            };
            let stretches = missing.as_array().expect("stretches").iter().map(stretch);
            let Some(range) = stretches.chain([tail]).find(|range| !range.is_empty()) else { break };
            let mut client = self.server.raw();
            let content = format!("Content-Range: bytes {}-{}/{}", range.start, range.end - 1, self.size);
            let length = format!("Content-Length: {}", range.len());
            client.send_head(&format!("PUT {}", self.transfer.url), &[OCTETS, &content, &length]);
            client.send(&bytes(writer, range.clone()));
            let response = client.response();
            assert_eq!(response.status, 200, "{response:?}");
            self.took_over(&range);
            self.wrote(writer, range);
            self.check(told);
        }
        for _ in 0..2 {
            let done = self.transfer.finish(self.server, &json!({"size": self.size}));
            assert_eq!((done.status, &done.json()["state"]), (200, &json!("done")), "{done:?} after {told:#?}");
            if self.random.random_bool(0.4) {
                self.server.kill9();
                self.server.restart();
            }
        }
        for slow in &mut self.slow {
            slow.send_late();
        }
        let other = self.transfer.finish(self.server, &json!({"size": self.size + 1}));
        assert_eq!(other.status, 409, "{other:?}");
        let late = self.server.scratch().join("late");
        fs::write(&late, b"late").expect("a part is written");
        let late = self.transfer.direct(self.server, "").upload("PUT", &late).run();
        assert_eq!(late.status, 409, "{late:?}");
        let back = self.server.scratch().join("back.img");
        self.server.download(&self.transfer.drive, &back);
        let back = fs::read(back).expect("the drive was read");
        assert_eq!(back.len(), self.size);
        for (offset, (got, writers)) in back.iter().zip(&self.writers).enumerate() {
            let mut known = (0..64).filter(|writer| writers & 1 << writer != 0);
            let is_right = known.any(|writer| byte(writer, offset) == *got);
            assert!(is_right, "byte {offset} is of none of {writers:b}, after {told:#?}");
        }
    }
}

#[test]
fn the_drive_has_exactly_what_was_sent_last_whatever_happened_meanwhile() {
    let mut server = Server::start();
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let size = random.random_range(200_000..5_500_000);
        let is_sized = random.random_bool(0.6);
        let terms = if is_sized { json!({"name": "a", "size": size}) } else { json!({"name": "a"}) };
        let transfer = Transfer::begin(&server, &terms);
        let mut walk = Walk {
            server: &mut server,
            random,
            transfer,
            size,
            is_sized,
            writers: vec![0; size],
            durable: vec![false; size],
            slow: Vec::new(),
            next_writer: ZEROS,
            is_done: false,
        };
        let mut told = vec![format!("{size} bytes, told {is_sized}")];
        for _ in 0..STEPS {
            told.push(walk.step());
            println!("{}", told[told.len() - 1]);
            if walk.is_done || walk.next_writer >= MOST_WRITERS {
                break;
            }
            walk.check(&told);
        }
        walk.end(&told);
        let ended = walk.transfer.show(walk.server);
        assert_eq!(ended["result"]["size"], json!(size), "{ended}");
        let drive = format!("/api/2.0/drives/{}/", walk.transfer.drive);
        assert_eq!(server.curl(&drive).method("DELETE").run().status, 204);
        stored::assert_clean(&server);
    }
    let path = format!("{TRANSFERS}?state=done");
    assert_eq!(server.curl(&path).run().json()["transfers"].as_array().map(Vec::len), Some(SEEDS as usize));
}
