//! Limits on what a tenant can make the server hold. One tenant exhausts a limit while another is served; then
//! everything is removed.
//!
//! The README has a table of the limits. Each row has a test, here or in the named place.

mod disk;
mod records;
mod shares;
mod table;
mod transfers;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::cloud::TOKENS;
use crate::harness::hyper::{Session, archive, local, sample, untar};
use crate::harness::rsync::assert_same_trees;
use crate::harness::server::uuid_of;
use crate::harness::{Cloud, Curl, Response, Server, Setup, image, stored, wait_for};

const DRIVES: &str = "/api/2.0/drives/";
const UPLOAD: &str = "/api/2.0/drives/upload/";
const OCTETS: &str = "Content-Type: application/octet-stream";

/// The address of the other tenant, since one address has only its share of some limits.
const ELSEWHERE: [&str; 2] = ["--interface", "127.0.0.9"];

/// The folders that hold data of tenants.
const FOLDERS: [&str; 11] = [
    "drives",
    "incoming",
    "trash",
    "lost",
    "backups",
    "trees",
    "tree-records",
    "tree-digests",
    "tree-trash",
    "tree-scratch",
    "fetch-scratch",
];

/// The records of transfers that have not ended.
const OPEN: &str = "transfers WHERE state IN ('open', 'finishing')";

/// A server with a tenant who takes as much as possible, and with another tenant.
struct Scene {
    server: Server,
    tenant: String,
    other: String,
}

impl Scene {
    /// Starts the server; the arguments of `longshore user add` limit the tenant.
    #[track_caller]
    fn start(setup: Setup, quota: &[&str]) -> Self {
        let server = setup.start();
        let added = server.user_command(&[&["add", "tenant"], quota].concat());
        assert!(added.status.success(), "{added:?}");
        let tenant = String::from_utf8(added.stdout).expect("credentials are text").trim().to_owned();
        let other = server.add_user("other");
        Self { server, tenant, other }
    }

    /// A curl as the tenant.
    fn curl(&self, path: &str) -> Curl {
        self.server.curl_as(&self.tenant, path)
    }

    /// A curl as the other tenant.
    fn elsewhere(&self, path: &str) -> Curl {
        self.server.curl_as(&self.other, path).args(&ELSEWHERE)
    }

    /// A client of block storage as the tenant.
    #[track_caller]
    fn cloud(&self) -> Cloud {
        Cloud::log_in(&self.server, &self.tenant)
    }

    /// Uploads an image of this size as the tenant.
    fn upload(&self, size: u64) -> Response {
        let disk = self.server.scratch().join("tenant.img");
        image::random(&disk, size, 151);
        self.curl(UPLOAD).upload("POST", &disk).try_run().1
    }

    /// Creates a blank drive of the tenant.
    fn blank(&self, size: u64) -> Response {
        self.curl(DRIVES).json("POST", &json!({"name": "blank", "media": "disk", "size": size})).run()
    }

    /// Requests, as the tenant, a session that fills these volumes.
    fn initialize(&self, names: &[&str]) -> Response {
        self.curl("/volumes/initialize").json("POST", &local(names)).run()
    }

    /// Begins a session of the tenant that fills these volumes.
    #[track_caller]
    fn begin(&self, names: &[&str]) -> Session {
        let response = self.initialize(names);
        assert_eq!(response.status, 200, "{response:?}");
        Session::of(&response)
    }

    /// Ends a session of the tenant.
    fn finish(&self, session: &Session) -> Response {
        self.curl(&format!("/volumes/uploadfinish?session={}", session.token)).method("PUT").run()
    }

    /// Checks that the other tenant's drives, volumes, lists and logins work as on an idle server.
    #[track_caller]
    fn others_are_served(&self) {
        self.other_has_lists_and_logins();
        self.other_has_a_volume();
    }

    /// Uploads a drive as the other tenant, finds it in lists after every kind of login, reads it back, and removes it.
    #[track_caller]
    fn other_has_lists_and_logins(&self) {
        let scratch = self.server.scratch();
        let (disk, back) = (scratch.join("other.img"), scratch.join("other.back.img"));
        image::random(&disk, 200_000, 152);
        let uuid = uuid_of(&self.elsewhere(UPLOAD).upload("POST", &disk).run());
        let list = self.elsewhere(DRIVES).run();
        assert_eq!((list.status, &list.json()["objects"][0]["uuid"]), (200, &json!(uuid)));
        let token = self.server.anonymous_curl(TOKENS).args(&ELSEWHERE);
        let cloud = Cloud::log_in_by(&self.server, &self.other, token);
        let list = cloud.curl("v3", "volumes").args(&ELSEWHERE).run();
        assert_eq!((list.status, &list.json()["volumes"][0]["id"]), (200, &json!(uuid)));
        let path = format!("{DRIVES}{uuid}/");
        let response = self.elsewhere(&format!("{path}download/")).arg("--location").output(&back).run();
        assert_eq!(response.status, 200, "{response:?}");
        image::assert_same(&disk, &back);
        assert_eq!(self.elsewhere(&path).method("DELETE").run().status, 204);
    }

    /// Fills a volume as the other tenant, reads it back, and removes it.
    #[track_caller]
    fn other_has_a_volume(&self) {
        let scratch = self.server.scratch();
        let tar = archive(scratch, "o");
        let session = Session::of(&self.elsewhere("/volumes/initialize").json("POST", &local(&["theirs"])).run());
        let response = session.upload("theirs", &tar).args(&ELSEWHERE).run();
        assert_eq!(response.status, 200, "{response:?}");
        let path = format!("/volumes/uploadfinish?session={}", session.token);
        assert_eq!(self.elsewhere(&path).method("PUT").run().status, 200);
        assert_eq!(self.elsewhere("/volumes").run().json()["Volumes"][0]["Name"], json!("theirs"));
        let (back, dir) = (scratch.join("other.back.tar"), scratch.join("other.back"));
        let download = self.elsewhere("/volumes/theirs/download").arg("--location").output(&back).run();
        assert_eq!(download.status, 200, "{download:?}");
        let _ = fs::remove_dir_all(&dir);
        untar(&back, &dir);
        assert_same_trees(&sample(scratch, "o"), &dir);
        assert_eq!(self.elsewhere("/volumes/theirs").method("DELETE").run().status, 204);
    }

    /// Removes everything of the tenant by the public API, and checks that nothing of it is left, on the disk or in the
    /// database.
    #[track_caller]
    fn everything_goes(&self) {
        let cloud = self.cloud();
        for session in self.sessions().iter().filter(|session| session["state"] == "open") {
            let path = format!("/api/v1/sessions/{}", session["id"].as_str().expect("an id"));
            assert_eq!(self.curl(&path).method("DELETE").run().status, 204);
        }
        for tree in array(&self.curl("/volumes").run().json()["Volumes"]) {
            let path = format!("/volumes/{}", tree["Name"].as_str().expect("a name"));
            assert_eq!(self.curl(&path).method("DELETE").run().status, 204);
        }
        for kind in ["backups", "snapshots"] {
            for thing in array(&cloud.get(kind).json()[kind]) {
                let path = format!("{kind}/{}", thing["id"].as_str().expect("an id"));
                wait_for("it to be at rest", || (cloud.delete(&path).status == 202).then_some(()));
            }
        }
        let drives: Vec<Value> = self.server.drives_of(&self.tenant).iter().map(|id| json!({"uuid": id})).collect();
        for some in drives.chunks(100) {
            let objects = json!({"objects": some});
            wait_for("drives to be at rest", || {
                (self.curl(DRIVES).json("DELETE", &objects).run().status == 204).then_some(())
            });
        }
        self.wait_until_nothing_is_left();
    }

    /// Waits until nothing is charged, stored or recorded, for any tenant.
    #[track_caller]
    fn wait_until_nothing_is_left(&self) {
        let holding = || {
            let mut left: Vec<String> =
                FOLDERS.iter().flat_map(|folder| files(&self.server.data().join(folder))).collect();
            if left.is_empty() {
                let used = stored::used(&self.server, "tenant");
                left.extend((used != (0, 0)).then(|| format!("the charge for {used:?}")));
            }
            left
        };
        let mut last = Vec::new();
        wait_for("nothing to be left", || {
            let left = holding();
            if left != last {
                println!("left: {left:?}");
                last.clone_from(&left);
            }
            left.is_empty().then_some(())
        });
        let tables = ["volumes", "jobs", "attachments", "backups", "uploads WHERE is_open = 1", "dropped", OPEN];
        let mut rows: Vec<String> = tables.iter().map(|table| format!("(SELECT COUNT(*) FROM {table})")).collect();
        let used = "used_volumes + used_bytes + used_backups + used_backup_bytes + used_snapshots";
        rows.push(format!("(SELECT SUM({used}) FROM tenants)"));
        // The record of a content is removed after its bytes.
        wait_for("no record of it to be left, and no charge", || {
            (self.count(&format!("SELECT {}", rows.join(" + "))) == 0).then_some(())
        });
    }

    /// Returns all records of the tenant's sessions.
    #[track_caller]
    fn sessions(&self) -> Vec<Value> {
        let (mut sessions, mut path) = (Vec::new(), Some("/api/v1/sessions".to_owned()));
        while let Some(page) = path {
            let page = self.curl(&page).run();
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            sessions.extend(array(&page["sessions"]));
            path = page["next"].as_str().map(str::to_owned);
        }
        sessions
    }

    /// Returns the count that a query of the database gives.
    #[track_caller]
    fn count(&self, query: &str) -> u64 {
        let copy = self.server.scratch().join("copy.sqlite");
        let _ = fs::remove_file(&copy);
        let written = self.server.command("database", &["backup", copy.to_str().expect("a path is text")]);
        assert!(written.status.success(), "{written:?}");
        let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])";
        let output = Command::new("python3").args(["-c", script]).arg(&copy).arg(query).output().expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}

/// Returns the elements of a list.
#[track_caller]
fn array(list: &Value) -> Vec<Value> {
    list.as_array().unwrap_or_else(|| panic!("{list} is no list")).clone()
}

/// Returns the files beneath a folder, and its subfolders that are not empty.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let within = if is_dir { files(&path) } else { vec![path.display().to_string()] };
        found.extend(within);
    }
    found
}
