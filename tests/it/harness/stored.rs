//! The data of a server on the disk and in the database, and checks that the two agree.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longshore::meta::Meta;
use serde_json::Value;

use super::{Response, Scratch, Server, machine, wait_for};

/// Returns the file with a drive's bytes.
pub(crate) fn image_of(server: &Server, uuid: &str) -> PathBuf {
    let place = place_of(server, uuid);
    if place.is_file() { place } else { place.join("image") }
}

/// Returns the file with the piece digests of a drive of several pieces.
pub(crate) fn pieces_of(server: &Server, uuid: &str) -> PathBuf {
    place_of(server, uuid).join("pieces")
}

/// Returns the place of a drive's content: that of the drive's own id, as long as it is the first content.
fn place_of(server: &Server, uuid: &str) -> PathBuf {
    let drives = server.data().join("drives");
    if drives.join(uuid).exists() {
        return drives.join(uuid);
    }
    // A removed drive has no content.
    let content = contents(server, &BTreeSet::from([uuid.to_owned()])).pop_first();
    drives.join(content.unwrap_or_else(|| uuid.to_owned()))
}

/// Returns the contents of these drives, from the database.
pub(crate) fn contents(server: &Server, drives: &BTreeSet<String>) -> BTreeSet<String> {
    let known = with_meta(server, async |meta| meta.image_contents().await.expect("the database answers"));
    let of = known.into_iter().filter(|(id, _)| drives.contains(&id.to_string()));
    of.map(|(_, content)| content.to_string()).collect()
}

/// Runs `work` on the database of a server, which may be running.
pub(crate) fn with_meta<T>(server: &Server, work: impl AsyncFnOnce(&Meta) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let meta = Meta::open(&server.data().join("meta.sqlite")).await.expect("the database opens");
        let done = work(&meta).await;
        meta.close().await;
        done
    })
}

/// Returns the bytes of disk space of drives, drafts and removed drives, without database and keys.
pub(crate) fn disk(server: &Server) -> u64 {
    ["drives", "incoming", "trash"].iter().map(|name| machine::disk_usage(&server.data().join(name))).sum()
}

/// Returns the entries of one of the store's folders.
pub(crate) fn entries(server: &Server, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(server.data().join(folder)).expect("the store has its folders");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Returns the drives and bytes that `longshore user list` reports for a user's tenant.
#[track_caller]
pub(crate) fn used(server: &Server, user: &str) -> (u64, u64) {
    let output = server.user_command(&["list"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.split('\t').next() == Some(user)).expect("the user is listed");
    let number = |column| line.split('\t').nth(column).and_then(|word| word.parse().ok()).expect("a number");
    (number(2), number(4))
}

/// Returns all drives of a user, in detail.
#[track_caller]
pub(crate) fn details(server: &Server, credentials: &str) -> Vec<Value> {
    let response = server.curl_as(credentials, "/api/2.0/drives/detail/?limit=0").run();
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["objects"].as_array().expect("a list has objects").clone()
}

/// Waits until no drive is changing its status.
#[track_caller]
pub(crate) fn wait_until_settled(server: &Server) {
    let settled = ["unmounted", "unavailable"];
    wait_for("all drives to settle", || {
        let drives = details(server, &server.credentials());
        drives.iter().all(|drive| settled.iter().any(|status| drive["status"] == *status)).then_some(())
    });
}

/// Fails unless disk and quota match exactly the first user's drives, and nothing else is left. The first user must be
/// the only one with drives.
#[track_caller]
pub(crate) fn assert_clean(server: &Server) {
    wait_until_settled(server);
    let drives = details(server, &server.credentials());
    let ids: BTreeSet<String> = drives.iter().map(uuid).collect();
    // The previous content of a drive is removed after the drive has its new one.
    wait_for("a file or folder for each drive", || {
        let there = entries(server, "drives");
        (there == ids || there == contents(server, &ids)).then_some(())
    });
    assert_eq!(entries(server, "incoming"), BTreeSet::new(), "no drafts");
    assert_eq!(entries(server, "trash"), BTreeSet::new(), "no trash");
    let folders = ["trees", "tree-records", "tree-digests"].map(str::to_owned);
    assert_eq!(entries(server, "lost"), BTreeSet::from(folders), "nothing was set aside");
    let bytes = drives.iter().map(|drive| drive["size"].as_u64().expect("a size")).sum();
    assert_eq!(used(server, "admin"), (ids.len() as u64, bytes), "the quota is charged for the drives");
}

/// Waits until there is no drive, draft, trash, charge or block in use.
#[track_caller]
pub(crate) fn wait_until_nothing_is_left(server: &Server) {
    wait_until_idle(server);
    wait_for("drives, disk and quota to be free", || {
        let is_empty = ["drives", "incoming", "trash"].iter().all(|folder| entries(server, folder).is_empty());
        (is_empty && server.drives().is_empty() && used(server, "admin") == (0, 0)).then_some(())
    });
}

/// Waits until no transfer is running and all blocks are back in the pool.
#[track_caller]
pub(crate) fn wait_until_idle(server: &Server) {
    wait_for("transfers to end and blocks to be free", || {
        let running = server.metric("longshore_transfers_running{direction=\"upload\"}").unwrap_or(0.0);
        (running == 0.0 && server.metric("longshore_pool_blocks_in_use") == Some(0.0)).then_some(())
    });
}

/// Returns the UUID of a drive from its description.
#[track_caller]
pub(crate) fn uuid(drive: &Value) -> String {
    drive["uuid"].as_str().expect("a drive has a uuid").to_owned()
}

/// Returns the drive in an answer.
#[track_caller]
pub(crate) fn started(response: &Response) -> String {
    assert!(matches!(response.status, 201 | 202), "{response:?}");
    uuid(&response.json()["objects"][0])
}

/// A server on the data of another, which a crash point ends while it starts or when its jobs run.
pub(crate) struct Doomed {
    child: Child,
    endpoint: PathBuf,
}

impl Doomed {
    /// Starts it on this data, with its log in `dir`.
    pub(crate) fn start(data: &Path, dir: &Scratch, crash_after: u64) -> Self {
        let endpoint = data.join("endpoint");
        let _ = fs::remove_file(&endpoint);
        let log = fs::File::options().append(true).create(true).open(dir.join("doomed.log"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_longshore"), "serve"]);
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
        command.env("LONGSHORE_CRASH_AFTER", crash_after.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log can be written"));
        Self { child: command.spawn().expect("longshore starts"), endpoint }
    }

    /// Returns whether it crashed before it served; kills it if it serves.
    pub(crate) fn crashes_at_start(mut self) -> bool {
        wait_for("a start or a crash", || match self.child.try_wait().expect("a child can be waited for") {
            Some(status) => {
                assert_eq!(status.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{status:?}");
                Some(true)
            }
            None => self.endpoint.exists().then_some(false),
        })
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
