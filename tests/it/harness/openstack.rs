//! A real Keystone and a real Glance, if `tests/services/install` has installed them.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::json;

use super::{Curl, Response, Scratch, wait_for};
use crate::skipped::skipped;

/// The password of Keystone's user `admin`.
const PASSWORD: &str = "of a test";

/// Both services, which keep their data in a directory of their own and are stopped when this is dropped.
pub(crate) struct OpenStack {
    dir: Scratch,
    process: Child,
    /// The URL of Keystone, without a version.
    pub(crate) identity: String,
    /// The URL of Glance, without a version.
    pub(crate) images: String,
}

impl OpenStack {
    /// Starts them. If they are not installed, reports that and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        let target = Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("a target folder");
        let python = target.join("services/openstack/bin/python");
        if !python.exists() {
            skipped(format!("there is no {}; tests/services/install installs it", python.display()));
            return None;
        }
        let dir = Scratch::new();
        let log = fs::File::create(dir.join("log")).expect("a log");
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/run_openstack.py"))
            .args([dir.path().as_os_str(), PASSWORD.as_ref()])
            .env("NO_PROXY", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("Python runs");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let place = |lines: &mut Lines<BufReader<ChildStdout>>| match lines.next() {
            Some(Ok(port)) => format!("http://127.0.0.1:{port}"),
            _ => panic!("{}", fs::read_to_string(dir.join("log")).unwrap_or_default()),
        };
        let (identity, images) = (place(&mut lines), place(&mut lines));
        let this = Self { dir, process, identity, images };
        // Their start is slow.
        wait_for("the image service", || {
            (Curl::new(&format!("{}/versions", this.images)).run().status == 200).then_some(())
        });
        Some(this)
    }

    /// Returns the configuration of a server that uses them.
    pub(crate) fn settings(&self) -> String {
        format!(
            "keystone = {{ url = \"{}\", user = \"admin\", password = \"{PASSWORD}\", project = \"admin\" }}\n\
             block.glance_url = \"{}\"",
            self.identity, self.images
        )
    }

    /// Returns the login of Keystone's first user.
    pub(crate) fn credentials() -> String {
        format!("admin:{PASSWORD}")
    }

    /// Returns a token of Keystone's first user for the project `admin`, and the id of that project.
    #[track_caller]
    pub(crate) fn token(&self) -> (String, String) {
        let user = json!({"name": "admin", "domain": {"id": "default"}, "password": PASSWORD});
        let scope = json!({"project": {"name": "admin", "domain": {"id": "default"}}});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        let response = Curl::new(&format!("{}/v3/auth/tokens", self.identity)).json("POST", &body).run();
        assert_eq!(response.status, 201, "{response:?}");
        let project = response.json()["token"]["project"]["id"].as_str().expect("a project").to_owned();
        (response.field("x-subject-token").to_owned(), project)
    }

    /// Ends a token.
    pub(crate) fn revoke(&self, token: &str) -> Response {
        let url = format!("{}/v3/auth/tokens", self.identity);
        let curl = Curl::new(&url).method("DELETE").header(&format!("X-Auth-Token: {}", self.token().0));
        curl.header(&format!("X-Subject-Token: {token}")).run()
    }

    /// Returns the file in which Glance keeps the bytes of an image.
    pub(crate) fn image_file(&self, id: &str) -> PathBuf {
        self.dir.join("images").join(id)
    }

    /// Stops them.
    pub(crate) fn stop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Drop for OpenStack {
    fn drop(&mut self) {
        self.stop();
    }
}
