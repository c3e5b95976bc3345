//! The commands that are clients of a server: uploads, downloads and lists by the program itself.

mod download;
mod receipts;
mod several;
mod trees;
mod update;
mod upload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Scratch, Server};

/// A user's machine: a home with nothing in it but what the client leaves there.
struct Home {
    dir: Scratch,
    url: String,
    login: PathBuf,
}

impl Home {
    /// Makes one for the first user of a server.
    fn at(server: &Server) -> Self {
        let dir = Scratch::new();
        let login = dir.join("credentials");
        fs::copy(server.credentials_file(), &login).expect("the credentials can be copied");
        Self { dir, url: server.endpoint().to_owned(), login }
    }

    /// Reaches the server by way of another URL.
    fn by(mut self, url: String) -> Self {
        self.url = url;
        self
    }

    fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn bare(&self, args: &[&str]) -> Command {
        // The kernel ends the client if this test dies.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_longshore")]).args(args);
        for name in ["LONGSHORE_URL", "LONGSHORE_USER", "LONGSHORE_PASSWORD", "LONGSHORE_TOKEN", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        // A client reads no setting of a server, so one that makes no sense does not matter.
        command.env("LONGSHORE_IO__ENGINE", "steam").env("LONGSHORE_CONFIG", "/nonexistent");
        command.env("HOME", self.dir.path()).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Returns a command with the server and the login.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.args(["--url", &self.url]).arg("--user-file").arg(&self.login);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("longshore runs")
    }

    /// Runs a command that must succeed, with `--json`, and returns the object of its last line.
    #[track_caller]
    fn done(&self, args: &[&str]) -> Value {
        let output = self.command(args).arg("--json").output().expect("longshore runs");
        assert!(output.status.success(), "{}{}", said(&output), printed(&output));
        let printed = printed(&output);
        serde_json::from_str(printed.lines().last().expect("a line is printed")).expect("it is JSON")
    }

    /// Returns the records of transfers that are under way.
    fn records(&self) -> Vec<Value> {
        let Ok(folder) = fs::read_dir(self.join(".local/state/longshore")) else { return Vec::new() };
        let paths = folder.map(|entry| entry.expect("an entry can be read").path());
        let records = paths.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        records.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn kill9(mut child: Child) {
    child.kill().expect("the client runs");
    child.wait().expect("the client can be waited for");
}

#[test]
fn the_login_is_found_and_never_shown() {
    let server = Server::start();
    let home = Home::at(&server);
    let credentials = server.credentials();
    let (user, password) = credentials.split_once(':').unwrap();
    let drives = |environment: &[(&str, &str)]| {
        let mut command = home.bare(&["drives", "--url", &home.url]);
        command.envs(environment.iter().copied()).output().unwrap()
    };
    let none = drives(&[]);
    assert_eq!(none.status.code(), Some(3), "{}", said(&none));
    assert!(said(&none).contains(".netrc"), "{}", said(&none));
    assert!(drives(&[("LONGSHORE_USER", user), ("LONGSHORE_PASSWORD", password)]).status.success());
    let wrong = drives(&[("LONGSHORE_USER", user), ("LONGSHORE_PASSWORD", "open-sesame")]);
    assert_eq!(wrong.status.code(), Some(3), "{}", said(&wrong));
    assert!(!said(&wrong).contains("open-sesame"), "{}", said(&wrong));
    let netrc = home.join(".netrc");
    fs::write(&netrc, format!("machine 127.0.0.1 login {user} password {password}\n")).unwrap();
    assert!(drives(&[]).status.success());
    let elsewhere = home.join("netrc");
    fs::rename(&netrc, &elsewhere).unwrap();
    assert!(drives(&[("NETRC", elsewhere.to_str().unwrap())]).status.success());
    // The URL can come of the environment, too.
    let mut command = home.bare(&["drives", "--user-file"]);
    let output = command.arg(&home.login).env("LONGSHORE_URL", &home.url).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_exit_code_tells_what_went_wrong() {
    let mut server = Server::start();
    let home = Home::at(&server);
    let code = |args: &[&str]| home.run(args).status.code();
    assert_eq!(code(&["download", "11111111-2222-4333-8444-555555555555"]), Some(4));
    assert_eq!(code(&["download", "no drive of this name"]), Some(4));
    assert_eq!(code(&["download"]), Some(2));
    server.kill9();
    assert_eq!(code(&["drives"]), Some(7));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let dir = Scratch::new();
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_longshore")).args(args).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert!(output.status.success() && printed(&output).contains("download"), "{shell}: {}", said(&output));
    }
    let pages = dir.join("man");
    let output = run(&["man", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(pages.join("longshore-download.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    assert!(Path::new(&pages).join("longshore.1").exists());
}
