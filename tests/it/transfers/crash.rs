//! The process ends at every crash point of a transfer, and at random moments; what was acknowledged is there, and
//! the transfer goes on from it.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{MIB, TRANSFERS, Transfer, extents};
use crate::harness::stored::{self, Doomed};
use crate::harness::{Response, Scratch, Server, Setup, image, wait_for};

/// More crash points than a transfer passes.
const MOST_POINTS: u64 = 80;
const SIZE: u64 = 9 * MIB + 5;
/// The bytes that are made zero, and not sent.
const ZERO: (u64, u64) = (2 * MIB, MIB + 3);

/// What its client knows of the transfer.
#[derive(Default)]
struct Known {
    transfer: Option<Transfer>,
    /// What was acknowledged to be durable, as offset and end.
    durable: Vec<(u64, u64)>,
    is_finished: bool,
    is_cancelled: bool,
}

/// The answer, unless the server has crashed.
fn answer(curl: crate::harness::Curl) -> Option<Response> {
    let (output, response) = curl.try_run();
    output.status.success().then_some(response)
}

impl Known {
    /// Begins a transfer and fills it. `None` when the server has crashed.
    fn fill(&mut self, server: &Server, disk: &Path) -> Option<()> {
        let terms = json!({"name": "a", "size": SIZE, "reference": "crash"});
        let begun = answer(server.curl(TRANSFERS).json("POST", &terms))?;
        self.transfer = Some(Transfer::begun(server, &begun));
        let transfer = self.transfer.as_ref()?;
        for part in [(5 * MIB, SIZE), (0, 2 * MIB), (3 * MIB + 3, 5 * MIB)] {
            let sent = answer(transfer.part(server, disk, part, "*"))?;
            assert_eq!(sent.status, 200, "{sent:?}");
            self.durable.push(part);
        }
        let zero = json!({"op": "zero", "offset": ZERO.0, "size": ZERO.1});
        let zeroed = answer(transfer.direct(server, "").json("PATCH", &zero))?;
        assert_eq!(zeroed.status, 200, "{zeroed:?}");
        self.durable.push((ZERO.0, ZERO.0 + ZERO.1));
        Some(())
    }

    fn finish(&mut self, server: &Server) -> Option<()> {
        let path = format!("{TRANSFERS}/{}/finish", self.transfer.as_ref()?.id);
        let done = answer(server.curl(&path).json("POST", &json!({})))?;
        assert_eq!(done.status, 200, "{done:?}");
        self.is_finished = true;
        Some(())
    }

    fn cancel(&mut self, server: &Server) -> Option<()> {
        let path = format!("{TRANSFERS}/{}", self.transfer.as_ref()?.id);
        let done = answer(server.curl(&path).method("DELETE"))?;
        assert_eq!(done.status, 204, "{done:?}");
        self.is_cancelled = true;
        Some(())
    }

    /// Fails unless what was acknowledged is there.
    #[track_caller]
    fn assert_there(&self, told: &Value) {
        let there = extents(told);
        for (start, end) in &self.durable {
            let is_in = |(offset, size): &(u64, u64)| offset <= start && *end <= offset + size;
            assert!(there.iter().any(is_in), "bytes {start} to {end} were acknowledged: {told}");
        }
    }
}

/// Runs `end` on a filled transfer with a crash at each point, and at each point of the recovery from each; `check`
/// gets what the next server tells of the transfer.
#[track_caller]
fn crash_everywhere(
    mut end: impl FnMut(&mut Known, &Server) -> Option<()>,
    mut check: impl FnMut(&Known, &mut Server, &Transfer, &Path),
) {
    let (home, data) = (Scratch::new(), Scratch::new());
    let disk = home.join("disk.img");
    image::random(&disk, SIZE, 171);
    let file = fs::File::options().write(true).open(&disk).expect("the image can be opened");
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; ZERO.1 as usize], ZERO.0).expect("it can be written");
    drop(Setup::default().data(data.path()).start());
    for k in 1..=MOST_POINTS {
        let mut server = Setup::default().data(data.path()).config(&format!("crash_after = {k}")).start();
        let mut known = Known::default();
        let survived = known.fill(&server, &disk).and_then(|()| end(&mut known, &server)).is_some() && settles(&server);
        if survived {
            server.kill9();
        } else {
            assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()));
            let point = server.logged().lines().rev().find(|line| line.starts_with("crash point")).map(str::to_owned);
            let crashes = (1..=MOST_POINTS).take_while(|j| Doomed::start(data.path(), &home, *j).crashes_at_start());
            println!("{k}: {}, then {} times in recovery", point.unwrap_or_default(), crashes.count());
        }
        drop(server);
        let mut server = Setup::default().data(data.path()).start();
        let found = server.curl(&format!("{TRANSFERS}?reference=crash&limit=1")).run().json();
        let found = found["transfers"].as_array().expect("transfers")[..].first().cloned();
        match (&known.transfer, found) {
            (Some(transfer), Some(found)) => {
                assert_eq!(found["id"], json!(transfer.id));
                check(&known, &mut server, transfer, &disk);
            }
            (Some(_), None) => panic!("the transfer was acknowledged and is gone"),
            // Its client does not know its URL, and can end it.
            (None, Some(found)) if ["open", "failed"].iter().any(|state| found["state"] == *state) => {
                let path = format!("{TRANSFERS}/{}", found["id"].as_str().expect("an id"));
                assert_eq!(server.curl(&path).method("DELETE").run().status, 204);
            }
            (None, _) => {}
        }
        for drive in server.drives() {
            assert_eq!(server.curl(&format!("/api/2.0/drives/{drive}/")).method("DELETE").run().status, 204);
        }
        stored::assert_clean(&server);
        if survived {
            assert!(k > 10, "only {} crash points were passed", k - 1);
            return;
        }
    }
    panic!("more than {MOST_POINTS} crash points");
}

/// Waits until a removal has ended or the server has crashed; returns whether it lives.
fn settles(server: &Server) -> bool {
    wait_for("the work to end or the server to crash", || {
        let (output, _) = server.curl("/api/2.0/drives/").try_run();
        let is_empty = |folder| stored::entries(server, folder).is_empty();
        if output.status.success() { (is_empty("incoming") && is_empty("trash")).then_some(true) } else { Some(false) }
    })
}

#[test]
fn what_is_acknowledged_of_a_transfer_is_there_after_a_crash_at_any_point_and_becomes_the_drive() {
    crash_everywhere(Known::finish, |known, server, transfer, disk| {
        for _ in 0..2 {
            let told = transfer.show(server);
            if told["state"] == json!("open") {
                assert!(!known.is_finished, "{told}");
                known.assert_there(&told);
                // What was told is there after another crash, too.
                server.kill9();
                server.restart();
                let again = transfer.show(server);
                assert_eq!((&again["extents"], &again["state"]), (&told["extents"], &json!("open")), "{again}");
            }
        }
        let missing = transfer.direct(server, "/extents?missing").run();
        if missing.status == 200 && transfer.show(server)["state"] == json!("open") {
            for stretch in missing.json().as_array().expect("stretches") {
                let start = stretch["start"].as_u64().expect("a start");
                let end = start + stretch["length"].as_u64().expect("a length");
                let sent = transfer.put(server, disk, (start, end), &SIZE.to_string());
                assert_eq!(sent.status, 200, "{sent:?}");
            }
        }
        for _ in 0..2 {
            let done = transfer.finish(server, &json!({"size": SIZE}));
            let told = done.json();
            assert_eq!((done.status, &told["state"]), (200, &json!("done")), "{done:?}");
            assert_eq!(told["result"]["drive"], json!(transfer.drive), "{told}");
        }
        assert_eq!(server.drives(), [transfer.drive.as_str()]);
        stored::assert_clean(server);
        let back = server.scratch().join("back.img");
        server.download(&transfer.drive, &back);
        image::assert_same(disk, &back);
    });
}

#[test]
fn a_cancelled_transfer_stays_cancelled_after_a_crash_at_any_point_and_leaves_nothing() {
    crash_everywhere(Known::cancel, |known, server, transfer, _| {
        let told = transfer.show(server);
        if told["state"] == json!("open") {
            assert!(!known.is_cancelled, "{told}");
            known.assert_there(&told);
        }
        for _ in 0..2 {
            let cancelled = server.curl(&format!("{TRANSFERS}/{}", transfer.id)).method("DELETE").run();
            assert_eq!(cancelled.status, 204, "{cancelled:?}");
            assert_eq!(transfer.show(server)["state"], json!("cancelled"));
        }
        assert!(server.drives().is_empty());
        stored::assert_clean(server);
    });
}

/// The time of the last checkpoint of the only draft.
fn checkpointed(server: &Server) -> Option<SystemTime> {
    let draft = fs::read_dir(server.data().join("incoming")).ok()?.flatten().next()?;
    let files = fs::read_dir(draft.path()).ok()?.flatten();
    let maps = files.filter(|file| file.file_name() != "image");
    maps.filter_map(|map| map.metadata().ok()?.modified().ok()).max()
}

/// More than the writes of one part that are in flight.
const UNDER_WAY: usize = 4 << 20;

/// The bytes in one step of a sender.
const STEP: usize = 64 << 10;

#[test]
fn a_crash_in_a_long_part_repeats_a_checkpoint_and_what_was_under_way() {
    const SEED: u64 = 172;
    const ROUNDS: u64 = 4;
    println!("seed {SEED}");
    let mut numbers = image::numbers(SEED);
    let setup = Setup::default().config("transfers.checkpoint_bytes = \"1MiB\"\ntransfers.checkpoint_seconds = 3600");
    let mut server = setup.start();
    let bytes = image::bytes(SEED, 256 << 20);
    let transfer = Transfer::begin(&server, &json!({"name": "a", "size": bytes.len()}));
    let mut from = 0;
    for round in 0..ROUNDS {
        let mut sender = server.raw();
        let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        let length = format!("Content-Length: {}", bytes.len() - from);
        sender
            .send_head(&format!("PUT {}", transfer.url), &["Content-Type: application/octet-stream", &range, &length]);
        let (mut at, checkpoints) = (from, numbers.random_range(8..12));
        for _ in 0..checkpoints {
            let last = checkpointed(&server);
            let begun = at;
            while checkpointed(&server) == last {
                assert!(at - begun < 24 << 20, "round {round}: there was no checkpoint for {} bytes", at - begun);
                sender.send(&bytes[at..at + STEP]);
                at += STEP;
                // It is under way by now, and a busy disk takes its time.
                let is_under_way = at - begun > 4 << 20;
                std::thread::sleep(Duration::from_millis(if is_under_way { 200 } else { 2 }));
            }
        }
        sender.send(&bytes[at..at + STEP]);
        at += STEP;
        // The moment is what is tested, so it depends on no event.
        std::thread::sleep(Duration::from_micros(numbers.random_range(0..4_000)));
        server.kill9();
        server.restart();
        let there = extents(&transfer.show(&server));
        let came = there.first().map_or(0, |(_, size)| *size as usize);
        println!("round {round}: {at} sent, {came} there after {checkpoints} checkpoints from {from}");
        assert!(there.len() <= 1 && came <= at, "{there:?}");
        // Each came after one more MiB, and has all of it but for what the disk was still at.
        assert!(came >= from + (checkpoints - 1) * MIB as usize - UNDER_WAY, "{came} bytes are there");
        assert!(came >= from, "it never shrinks");
        from = came;
    }
    let disk = server.scratch().join("disk.img");
    fs::write(&disk, &bytes).expect("the image is written");
    let sent = transfer.put(&server, &disk, (from as u64, bytes.len() as u64), "*");
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(transfer.finish(&server, &json!({})).status, 200);
    let back = server.scratch().join("back.img");
    server.download(&transfer.drive, &back);
    image::assert_same(&disk, &back);
}
