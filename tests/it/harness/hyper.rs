//! A client of the volumes, by curl: the three steps of their documentation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Curl, Response, Scratch, Server};

/// The answer to the beginning of a session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) token: String,
    pub(crate) cookie: String,
    pub(crate) uploaders: BTreeMap<String, String>,
}

/// Returns the body that initialises volumes from local directories.
pub(crate) fn local(names: &[&str]) -> Value {
    let volumes: Vec<Value> = names.iter().map(|name| json!({"Name": name, "Source": "/local/dir"})).collect();
    json!({"Volume": volumes})
}

/// Requests a session; returns the server's answer.
pub(crate) fn ask(server: &Server, body: &Value) -> Response {
    server.curl("/volumes/initialize").json("POST", body).run()
}

/// Begins a session.
#[track_caller]
pub(crate) fn begin(server: &Server, body: &Value) -> Session {
    let response = ask(server, body);
    assert_eq!(response.status, 200, "{response:?}");
    Session::of(&response)
}

impl Session {
    /// Parses an answer.
    pub(crate) fn of(response: &Response) -> Self {
        let answer = response.json();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let uploaders = answer["Uploaders"].as_object().expect("uploaders");
        Self {
            token: text(&answer["Session"]),
            cookie: text(&answer["Cookie"]),
            uploaders: uploaders.iter().map(|(name, url)| (name.clone(), text(url))).collect(),
        }
    }

    /// Returns the upload URL of a volume, with the cookie.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}?cookie={}", self.uploaders[name], self.cookie)
    }

    /// Returns the same as a path, for a client that has a connection.
    pub(crate) fn path(&self, name: &str) -> String {
        let url = self.url(name);
        let (_, rest) = url.split_once("://").expect("a URL");
        rest[rest.find('/').expect("a path")..].to_owned()
    }

    /// Returns a curl that uploads an archive.
    pub(crate) fn upload(&self, name: &str, archive: &Path) -> Curl {
        upload_to(&self.url(name), archive)
    }
}

/// Returns a curl that uploads an archive to a URL.
pub(crate) fn upload_to(url: &str, archive: &Path) -> Curl {
    Curl::new(url).method("POST").header("Content-Type: application/x-tar").arg("--upload-file").arg(archive)
}

/// Ends a session.
pub(crate) fn finish(server: &Server, token: &str) -> Response {
    server.curl(&format!("/volumes/uploadfinish?session={token}")).method("PUT").run()
}

/// Requests the description of a volume.
pub(crate) fn show(server: &Server, name: &str) -> Response {
    server.curl(&format!("/volumes/{name}")).run()
}

/// Takes all three steps for one volume.
#[track_caller]
pub(crate) fn fill(server: &Server, name: &str, archive: &Path) {
    let session = begin(server, &local(&[name]));
    let response = session.upload(name, archive).run();
    assert_eq!(response.status, 200, "{response:?}");
    let response = finish(server, &session.token);
    assert_eq!(response.status, 200, "{response:?}");
}

/// Downloads a volume as an archive.
#[track_caller]
pub(crate) fn fetch(server: &Server, name: &str, to: &Path) -> Response {
    let response = server.curl(&format!("/volumes/{name}/download")).arg("--location").output(to).run();
    assert_eq!(response.status, 200, "{response:?}");
    response
}

/// Makes a directory with entries of all types.
pub(crate) fn sample(scratch: &Scratch, seed: &str) -> PathBuf {
    let dir = scratch.join(format!("sample-{seed}"));
    if dir.exists() {
        return dir;
    }
    fs::create_dir_all(dir.join("sub/deeper")).expect("a directory");
    fs::write(dir.join("readme.md"), format!("hello {seed}\n")).expect("a file");
    fs::write(dir.join("sub/empty"), "").expect("a file");
    fs::write(dir.join("sub/deeper/large"), seed.repeat(400_000)).expect("a file");
    fs::write(dir.join(format!("sub/{}", "n".repeat(150))), "long name").expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", dir.join("absolute")).expect("a link");
    std::os::unix::fs::symlink("../readme.md", dir.join("sub/relative")).expect("a link");
    fs::hard_link(dir.join("readme.md"), dir.join("sub/hard")).expect("a link");
    dir
}

/// Archives a directory by GNU tar.
pub(crate) fn tar(dir: &Path, archive: &Path) {
    let mut command = Command::new("tar");
    command.args(["--create", "--format=posix", "--file"]).arg(archive).arg("--directory").arg(dir).arg(".");
    let status = command.status().expect("tar runs");
    assert!(status.success());
}

/// Unpacks an archive by GNU tar.
pub(crate) fn untar(archive: &Path, dir: &Path) {
    fs::create_dir(dir).expect("a directory");
    let mut command = Command::new("tar");
    command.args(["--extract", "--preserve-permissions", "--file"]).arg(archive).arg("--directory").arg(dir);
    let status = command.status().expect("tar runs");
    assert!(status.success());
}

/// Makes and archives a sample directory.
pub(crate) fn archive(scratch: &Scratch, seed: &str) -> PathBuf {
    let path = scratch.join(format!("{seed}.tar"));
    tar(&sample(scratch, seed), &path);
    path
}

/// Returns the contents on a server's disk.
pub(crate) fn contents(server: &Server) -> Vec<String> {
    let entries = fs::read_dir(server.data().join("trees")).expect("the directory of the trees");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
