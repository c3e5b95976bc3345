//! The process ends at every crash point, and at random moments; acknowledged work is complete, and nothing else is
//! left. There is no repair step before the checks: the server is only started again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::disk::Disk;
use crate::harness::stored::{self, Doomed, image_of};
use crate::harness::{Cloud, Response, Scratch, Server, Setup, image, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
/// More crash points than any operation passes.
const MOST_POINTS: u64 = 60;

/// The expected content of a drive: this image, then zeros up to one of these sizes.
#[derive(Clone, Debug)]
struct Content {
    image: PathBuf,
    sizes: Vec<u64>,
}

impl Content {
    fn of(image: &Path) -> Self {
        Self { image: image.to_owned(), sizes: vec![image::size_of(image).max(64 << 10)] }
    }
}

/// The knowledge of a server's clients.
#[derive(Default)]
struct Known {
    /// Drives whose creation was acknowledged.
    kept: BTreeMap<String, Content>,
    /// Drives that were requested and not acknowledged: they may exist, and are complete then.
    maybe_made: Vec<Content>,
    /// Drives whose removal was requested and not acknowledged.
    maybe_gone: Vec<String>,
    /// Drives whose new content was requested and not acknowledged.
    maybe_replaced: BTreeMap<String, Content>,
}

impl Known {
    /// Records the outcome of a request that creates a drive; `uuid` reads its answer.
    fn made(&mut self, answer: &Answer, content: Content, uuid: impl Fn(&Response) -> String) -> Option<String> {
        let Some(response) = answer.acknowledged() else {
            self.maybe_made.push(content);
            return None;
        };
        let uuid = uuid(response);
        self.kept.insert(uuid.clone(), content);
        Some(uuid)
    }

    /// Records the outcome of a removal.
    fn removed(&mut self, answer: &Answer, uuid: &str) {
        match answer.acknowledged() {
            Some(_) => drop(self.kept.remove(uuid)),
            None => self.maybe_gone.push(uuid.to_owned()),
        }
    }

    /// Compares this knowledge with the server's state, and adds what is certain now.
    #[track_caller]
    fn check(&mut self, server: &Server) {
        stored::assert_clean(server);
        let drives = stored::details(server, &server.credentials());
        let there: BTreeMap<String, &Value> = drives.iter().map(|drive| (stored::uuid(drive), drive)).collect();
        for uuid in self.maybe_gone.drain(..).filter(|uuid| !there.contains_key(uuid)) {
            self.kept.remove(&uuid);
        }
        for uuid in self.kept.keys() {
            assert!(there.contains_key(uuid), "drive {uuid} was acknowledged and is gone");
        }
        for (uuid, drive) in there {
            assert_eq!(drive["status"], "unmounted", "{drive}");
            let size = drive["size"].as_u64().expect("a size");
            let file = image_of(server, &uuid);
            if let Some(content) = self.kept.get_mut(&uuid) {
                let is_this = |other: &Content| image::part(&other.image, 0, 512) == image::part(&file, 0, 512);
                if let Some(other) = self.maybe_replaced.remove(&uuid).filter(is_this) {
                    *content = other;
                }
                assert!(content.sizes.contains(&size), "{drive} should have one of {:?}", content.sizes);
                content.sizes = vec![size];
                image::assert_same_then_zeros(&content.image, &file, size);
                continue;
            }
            // The answer was lost: the drive is complete then, and is exactly one of the requested ones.
            let is_this = |content: &Content| {
                content.sizes.contains(&size) && image::part(&content.image, 0, 512) == image::part(&file, 0, 512)
            };
            let found = self.maybe_made.iter().position(is_this);
            let content = self.maybe_made.remove(found.unwrap_or_else(|| panic!("nobody asked for {drive}")));
            image::assert_same_then_zeros(&content.image, &file, size);
            let back = server.scratch().join("back.img");
            server.download(&uuid, &back);
            image::assert_same_then_zeros(&content.image, &back, size);
            self.kept.insert(uuid, Content { sizes: vec![size], ..content });
        }
        self.maybe_made.clear();
    }
}

/// The result of one request as a client sees it.
struct Answer(std::process::Output, Response);

impl Answer {
    /// Returns the answer, if it is complete and no refusal.
    #[track_caller]
    fn acknowledged(&self) -> Option<&Response> {
        let Self(output, response) = self;
        let is_whole = output.status.success();
        assert!(!is_whole || (200..300).contains(&response.status), "{response:?}");
        is_whole.then_some(response)
    }
}

fn send(curl: crate::harness::Curl) -> Answer {
    let (output, response) = curl.try_run();
    Answer(output, response)
}

fn uploaded(response: &Response) -> String {
    crate::harness::server::uuid_of(response)
}

/// Runs `operation` on a server that crashes at its `k`-th point, for every `k`, until it passes all of them. After
/// each crash, starts a server that crashes at the `j`-th point of its recovery, for every `j`; then checks.
#[track_caller]
fn crash_everywhere(
    mut prepare: impl FnMut(&Server, &Path, &mut Known) -> String,
    mut operation: impl FnMut(&Server, &Path, &str, &mut Known),
) {
    let (home, data) = (Scratch::new(), Scratch::new());
    let mut known = Known::default();
    let mut subject = prepare(&Setup::default().data(data.path()).start(), home.path(), &mut known);
    for k in 1..=MOST_POINTS {
        let doomed = Setup::default().data(data.path()).config(&format!("crash_after = {k}"));
        let mut server = doomed.start();
        operation(&server, home.path(), &subject, &mut known);
        let survived = settles(&server);
        if survived {
            assert!(known.maybe_made.is_empty() && known.maybe_gone.is_empty(), "no crash, no acknowledgement");
            server.kill9();
        } else {
            assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()));
            let point = server.logged().lines().rev().find(|line| line.starts_with("crash point")).map(str::to_owned);
            let crashes = (1..=MOST_POINTS).take_while(|j| Doomed::start(data.path(), &home, *j).crashes_at_start());
            println!("{k}: {}, then {} times in recovery", point.unwrap_or_default(), crashes.count());
        }
        drop(server);
        let server = Setup::default().data(data.path()).start();
        known.check(&server);
        if survived {
            assert!(k > 3, "only {} crash points were passed", k - 1);
            return;
        }
        subject = prepare(&server, home.path(), &mut known);
    }
    panic!("more than {MOST_POINTS} crash points");
}

/// Waits until all work is done or the server has crashed; returns whether it lives.
fn settles(server: &Server) -> bool {
    wait_for("the work to end or the server to crash", || {
        let (output, response) = server.curl("/api/2.0/drives/detail/?limit=0").try_run();
        if !output.status.success() {
            return Some(false);
        }
        let drives = response.json();
        let drives = drives["objects"].as_array().expect("a list has objects");
        drives.iter().all(|drive| drive["status"] == "unmounted").then_some(true)
    })
}

/// Uploads with these arguments, with a crash at every point.
#[track_caller]
fn crash_uploads(size: u64, seed: u64, chunked: bool, with_digest: bool) {
    let nothing = |_: &Server, home: &Path, _: &mut Known| {
        image::sparse(&home.join("disk.img"), size, seed);
        String::new()
    };
    crash_everywhere(nothing, |server, home, _, known| {
        let disk = home.join("disk.img");
        let curl = server.curl(UPLOAD);
        let mut curl = if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) };
        if with_digest {
            curl = curl.header(&format!("Repr-Digest: {}", repr_digest(&disk)));
        }
        known.made(&send(curl), Content::of(&disk), uploaded);
    });
}

/// Returns the `Repr-Digest` of a file.
fn repr_digest(path: &Path) -> String {
    let digest = sha2::Sha256::digest(fs::read(path).expect("the image can be read"));
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// Uploads a drive for the operation to work on.
fn upload_one(server: &Server, home: &Path, known: &mut Known) -> String {
    let disk = home.join("base.img");
    if !disk.exists() {
        image::sparse(&disk, 700_001, 70);
    }
    known.made(&send(server.curl(UPLOAD).upload("POST", &disk)), Content::of(&disk), uploaded).expect("a drive")
}

#[test]
fn an_upload_is_whole_or_not_there_after_a_crash_at_any_point() {
    crash_uploads(17_000_001, 71, false, false);
}

#[test]
fn a_chunked_upload_is_whole_or_not_there_after_a_crash_at_any_point() {
    crash_uploads(2_000_003, 72, true, false);
}

#[test]
fn a_small_upload_is_grown_or_not_there_after_a_crash_at_any_point() {
    crash_uploads(1001, 73, false, false);
}

#[test]
fn an_upload_with_a_digest_is_whole_or_not_there_after_a_crash_at_any_point() {
    crash_uploads(300_001, 74, false, true);
}

#[test]
fn a_clone_is_made_though_the_process_crashes_at_any_point() {
    crash_everywhere(upload_one, |server, home, source, known| {
        let curl = server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({}));
        known.made(&send(curl), Content::of(&home.join("base.img")), stored::started);
    });
}

#[test]
fn a_backup_is_written_over_a_drive_though_the_process_crashes_at_any_point() {
    let backup = RefCell::new(String::new());
    let with_backup = |server: &Server, home: &Path, known: &mut Known| {
        if backup.borrow().is_empty() {
            // The source is a drive that is a folder, the target one that is a file.
            let disk = home.join("backed-up.img");
            image::sparse(&disk, 5_000_001, 75);
            let source = known.made(&send(server.curl(UPLOAD).upload("POST", &disk)), Content::of(&disk), uploaded);
            let cloud = Cloud::of(server);
            let made = cloud.post("backups", &json!({"backup": {"volume_id": source}}));
            *backup.borrow_mut() = made.json()["backup"]["id"].as_str().expect("an id").to_owned();
            cloud.wait("backups", &backup.borrow(), "available");
        }
        let drive = upload_one(server, home, known);
        let grow = server.curl(&format!("{DRIVES}{drive}/action/?do=resize")).json("POST", &json!({"size": 5_000_001}));
        assert!(send(grow).acknowledged().is_some());
        stored::assert_clean(server);
        known.kept.get_mut(&drive).expect("it was made").sizes = vec![5_000_001];
        drive
    };
    crash_everywhere(with_backup, |server, home, drive, known| {
        let cloud = Cloud::of(server);
        let path = format!("backups/{}/restore", backup.borrow());
        let answer = send(cloud.curl("v3", &path).json("POST", &json!({"restore": {"volume_id": drive}})));
        let content = Content::of(&home.join("backed-up.img"));
        // Once it was accepted, it will be done, with or without a crash.
        match answer.acknowledged() {
            Some(_) => {
                known.kept.insert(drive.to_owned(), content);
                await_restore(server);
            }
            None => drop(known.maybe_replaced.insert(drive.to_owned(), content)),
        }
    });
}

/// Waits until a restore has ended or the server has crashed. The drive is ready before its old content is removed.
fn await_restore(server: &Server) {
    wait_for("the restore to end or the server to crash", || {
        let (output, response) = server.curl("/metrics").try_run();
        let ended = "longshore_jobs_total{kind=\"restore\",ending=\"complete\"} 1";
        (!output.status.success() || response.text().contains(ended)).then_some(())
    });
}

#[test]
fn a_drive_is_resized_though_the_process_crashes_at_any_point() {
    crash_everywhere(upload_one, |server, _, drive, known| {
        let curl = server.curl(&format!("{DRIVES}{drive}/action/?do=resize")).json("POST", &json!({"size": 5_000_000}));
        let answer = send(curl);
        let sizes = &mut known.kept.get_mut(drive).expect("it was made").sizes;
        // Once it was accepted, it will be done, with or without a crash.
        if answer.acknowledged().is_some() {
            sizes.clear();
        }
        sizes.push(5_000_000);
    });
}

#[test]
fn blank_drives_are_made_or_not_there_after_a_crash_at_any_point() {
    let nothing = |_: &Server, home: &Path, _: &mut Known| {
        image::zero(&home.join("zero.img"), 512);
        String::new()
    };
    crash_everywhere(nothing, |server, home, _, known| {
        assert!(known.kept.len().is_multiple_of(2), "both or none: {:?}", known.kept);
        let content = |size| Content { image: home.join("zero.img"), sizes: vec![size] };
        let spec = |size: u64| json!({"name": "blank", "media": "disk", "size": size});
        let answer = send(server.curl(DRIVES).json("POST", &json!({"objects": [spec(3_000_000), spec(70_000)]})));
        known.made(&answer, content(3_000_000), |response| stored::uuid(&response.json()["objects"][0]));
        known.made(&answer, content(70_000), |response| stored::uuid(&response.json()["objects"][1]));
    });
}

#[test]
fn a_removed_drive_stays_removed_after_a_crash_at_any_point() {
    crash_everywhere(upload_one, |server, _, drive, known| {
        let answer = send(server.curl(&format!("{DRIVES}{drive}/")).method("DELETE"));
        known.removed(&answer, drive);
    });
}

/// Clients of all kinds work on a server that is killed repeatedly.
#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed_under_load() {
    const ROUNDS: u64 = 6;
    const SEED: u64 = 75;
    println!("seed {SEED}");
    let (home, data) = (Scratch::new(), Scratch::new());
    let base = home.join("base.img");
    image::random(&base, 9_000_001, SEED);
    let known = Mutex::new(Known::default());
    let mut server = Setup::default().data(data.path()).start();
    let answer = send(server.curl(UPLOAD).upload("POST", &base));
    let source = lock(&known).made(&answer, Content::of(&base), uploaded).unwrap();
    for round in 0..ROUNDS {
        let mut numbers = image::numbers(SEED + round);
        let life = Duration::from_millis(numbers.random_range(30..900));
        println!("round {round}: killed after {life:?}");
        thread::scope(|scope| {
            for client in 0..4 {
                let (server, known, home) = (&server, &known, &home);
                scope.spawn(move || upload_and_remove(server, known, home.path(), client));
            }
            scope.spawn(|| clone_again_and_again(&server, &known, &source, &base));
            scope.spawn(|| download_again_and_again(&server, &source, &base));
            // The moment is what is tested, so it depends on no event.
            thread::sleep(life);
            server.signal(Signal::KILL);
        });
        server.wait();
        server.restart();
        let mut known = lock(&known);
        known.check(&server);
        println!("round {round}: {} drives were there", known.kept.len());
        let others: Vec<String> = known.kept.keys().filter(|uuid| **uuid != source).cloned().collect();
        for uuid in others {
            let answer = send(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE"));
            known.removed(&answer, &uuid);
        }
        known.check(&server);
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().expect("no client has failed")
}

fn upload_and_remove(server: &Server, known: &Mutex<Known>, home: &Path, client: u64) {
    let disk = home.join(format!("disk{client}.img"));
    if !disk.exists() {
        image::sparse(&disk, 3_000_000 + client * 1_000_001, client);
    }
    for turn in 0_u64.. {
        let curl = server.curl(UPLOAD);
        let chunked = client % 2 == 1;
        let curl = if chunked { curl.upload_stream("POST", &disk) } else { curl.upload("POST", &disk) };
        let answer = send(curl);
        let made = lock(known).made(&answer, Content::of(&disk), uploaded);
        let Some(uuid) = made else { return };
        if turn % 2 == 0 {
            let answer = send(server.curl(&format!("{DRIVES}{uuid}/")).method("DELETE"));
            lock(known).removed(&answer, &uuid);
        }
    }
}

fn clone_again_and_again(server: &Server, known: &Mutex<Known>, source: &str, base: &Path) {
    loop {
        let answer = send(server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({})));
        if lock(known).made(&answer, Content::of(base), stored::started).is_none() {
            return;
        }
    }
}

fn download_again_and_again(server: &Server, source: &str, base: &Path) {
    let back = server.scratch().join("again.img");
    loop {
        let curl = server.curl(&format!("{DRIVES}{source}/download/")).arg("--location").output(&back);
        if send(curl).acknowledged().is_none() {
            return;
        }
        image::assert_same(base, &back);
    }
}

/// Small drives that are created at once share transactions and flushes; each must still be complete or absent.
#[test]
fn small_uploads_that_are_made_together_are_each_whole_or_not_there_after_a_crash() {
    const CLIENTS: u64 = 8;
    let (home, data) = (Scratch::new(), Scratch::new());
    let known = Mutex::new(Known::default());
    for client in 0..CLIENTS {
        // Some are written directly, others through the page cache.
        let size = if client % 2 == 0 { 1_100_000 } else { 200_000 };
        image::random(&home.join(format!("small{client}.img")), size + client * 1001, 80 + client);
    }
    // An upload passes about ten points, so some of these crashes come with the first uploads, others after
    // acknowledged ones.
    for k in [5, 23, 41, 58, 77, 99, 160, 241] {
        let mut server = Setup::default().data(data.path()).config(&format!("crash_after = {k}")).start();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (server, known) = (&server, &known);
                let disk = home.join(format!("small{client}.img"));
                scope.spawn(move || {
                    loop {
                        let answer = send(server.curl(UPLOAD).upload("POST", &disk));
                        if lock(known).made(&answer, Content::of(&disk), uploaded).is_none() {
                            return;
                        }
                    }
                });
            }
        });
        assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()));
        drop(server);
        let server = Setup::default().data(data.path()).start();
        let mut known = lock(&known);
        known.check(&server);
        println!("{k}: {} drives were there", known.kept.len());
        drop(known);
        drop(server);
    }
    assert!(!lock(&known).kept.is_empty(), "nothing was ever acknowledged");
}

/// The database, the first user, the keys: the next start works with whatever the first had made.
#[test]
fn a_first_start_that_is_killed_is_finished_by_the_next() {
    const SEED: u64 = 79;
    println!("seed {SEED}");
    let mut numbers = image::numbers(SEED);
    let home = Scratch::new();
    let disk = home.join("disk.img");
    image::random(&disk, 100_000, SEED);
    for _ in 0..8 {
        let data = Scratch::new();
        let first = Doomed::start(data.path(), &home, u64::from(u32::MAX));
        // The moment is what is tested, so it depends on no event.
        thread::sleep(Duration::from_micros(numbers.random_range(0..200_000)));
        drop(first);
        // The kill rarely falls between the open and the unlink of a probe of the file system.
        let probe = data.path().join("incoming/.probe-0");
        println!("a probe is left: {}", fs::write(probe, b"left").is_ok());
        let server = Setup::default().data(data.path()).start();
        let uuid = server.upload(&disk);
        image::assert_same(&disk, &image_of(&server, &uuid));
        stored::assert_clean(&server);
    }
}

/// The copy is large enough to be interrupted, if the file system cannot share extents.
#[test]
fn a_clone_that_is_killed_in_its_middle_is_made_by_the_next_process() {
    let mut server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::random(&disk, 200 << 20, 76);
    let source = server.upload(&disk);
    let curl = server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({}));
    let target = stored::started(&curl.run());
    let draft = server.data().join("incoming").join(&target).join("image");
    let was_met = wait_for("the copy to be under way", || {
        let copied = draft.metadata().map_or(0, |file| file.blocks() * 512);
        let is_done = || server.drive(&target)["status"] == "unmounted";
        if copied > 0 { Some(true) } else { is_done().then_some(false) }
    });
    server.kill9();
    println!("killed in the middle of the copy: {was_met}");
    server.restart();
    stored::assert_clean(&server);
    for uuid in [&source, &target] {
        assert_eq!(server.drive(uuid)["status"], "unmounted");
        image::assert_same(&disk, &image_of(&server, uuid));
    }
}

#[test]
fn a_clone_of_a_sparse_drive_is_sparse_and_independent_of_its_source() {
    let server = Server::start();
    let disk = server.scratch().join("disk.img");
    image::zero(&disk, 64 << 20);
    let middle = image::bytes(77, 1 << 20);
    fs::File::options().write(true).open(&disk).unwrap().write_all_at(&middle, 9 << 20).unwrap();
    let source = server.upload(&disk);
    let clone = clone_of(&server, &source);
    let taken = image_of(&server, &clone).metadata().unwrap().blocks() * 512;
    assert!(taken < 3 << 20, "the clone takes {taken} bytes");
    assert_independent(&server, &disk, &source, &clone);
}

#[test]
fn a_clone_shares_the_disk_of_its_source_where_the_file_system_can() {
    let Some(disk) = Disk::mount(&["mkfs.xfs", "-q", "-m", "reflink=1"], 320) else { return };
    let server = Setup::default()
        .data(&disk.path().join("data"))
        .config("io.reserve = \"1 MiB\"\nio.ballast = \"2 MiB\"")
        .start();
    let free = || {
        let disk = rustix::fs::statvfs(disk.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    let image = server.scratch().join("disk.img");
    image::random(&image, 60 << 20, 78);
    let source = server.upload(&image);
    let before = free();
    let clone = clone_of(&server, &source);
    let taken = before.saturating_sub(free());
    assert!(taken < 8 << 20, "the clone takes {taken} bytes");
    assert_independent(&server, &image, &source, &clone);
}

/// Clones a drive and waits until the clone is done.
#[track_caller]
fn clone_of(server: &Server, source: &str) -> String {
    let curl = server.curl(&format!("{DRIVES}{source}/action/?do=clone")).json("POST", &json!({}));
    let clone = stored::started(&curl.run());
    stored::assert_clean(server);
    clone
}

/// Changes, grows and removes the source, and checks that the clone is unchanged.
#[track_caller]
fn assert_independent(server: &Server, disk: &Path, source: &str, clone: &str) {
    let file = fs::File::options().write(true).open(image_of(server, source)).expect("the image can be opened");
    file.write_all_at(&[7; 4096], 9 << 20).expect("the image can be written");
    drop(file);
    let grow = json!({"size": 80 << 20});
    let response = server.curl(&format!("{DRIVES}{source}/action/?do=resize")).json("POST", &grow).run();
    assert_eq!(response.status, 202, "{response:?}");
    stored::assert_clean(server);
    let back = server.scratch().join("back.img");
    server.download(clone, &back);
    image::assert_same(disk, &back);
    assert_eq!(server.curl(&format!("{DRIVES}{source}/")).method("DELETE").run().status, 204);
    stored::assert_clean(server);
    server.download(clone, &back);
    image::assert_same(disk, &back);
}
