//! The lines that new users paste from the README.

use std::path::Path;
use std::process::Command;

use crate::harness::{Server, Setup};
use crate::skipped::skipped;

/// Every block of the README that calls curl or the client is run by a shell in an empty folder; only the address and
/// the place of the credentials are changed.
#[test]
fn the_curl_lines_of_the_readme_work_as_pasted() {
    let server = Setup::default().defaults().start();
    let dir = server.scratch().join("pasted");
    std::fs::create_dir(&dir).unwrap();
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split_once("```").map(|(code, _)| code))
        .filter(|code| ["curl ", "disk.img", "longshore download"].iter().any(|word| code.contains(word)))
        .collect();
    // The client of oVirt.
    let python = Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("a target folder");
    let python = python.join("services/imageio-client/bin");
    let has_imageio = python.join("python").exists();
    if !has_imageio {
        skipped(format!("there is no {}; tests/services/install installs it", python.display()));
    }
    let blocks: Vec<&str> = blocks
        .into_iter()
        .filter(|code| has_imageio || !code.contains("ovirt_imageio") && !code.contains("$LINK"))
        .collect();
    assert!(blocks.len() >= 5, "the blocks of the README were not found");
    let script = format!("set -eux\n{}", blocks.concat())
        .replace("http://127.0.0.1:8700", server.endpoint())
        .replace("longshore-data/admin.credentials", &server.credentials_file().display().to_string());
    // The program itself is among the clients.
    let program = Path::new(env!("CARGO_BIN_EXE_longshore")).parent().expect("it is in a folder");
    let script = format!("PATH={}:{}:$PATH\n{script}", program.display(), python.display());
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", &script]).env("XDG_STATE_HOME", &dir).current_dir(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // curl also succeeds on a refusal, unless told otherwise; every refusal has an error type.
    assert!(!said.contains("error_type"), "{said}");
    assert!(said.contains("index.html\n"), "{said}");
}

/// Users paste what is printed at the start, so it must name this server and these credentials.
#[test]
fn the_server_prints_curl_lines_for_its_own_address() {
    let server = Server::start();
    let printed = crate::harness::wait_for("the curl lines", || Some(server.printed()).filter(|p| p.contains("curl")));
    assert!(printed.contains(&format!("{}/api/2.0/drives/upload/", server.endpoint())), "{printed}");
    assert!(printed.contains("admin.credentials"), "{printed}");
    let (_, password) = server.credentials().split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())).unwrap();
    assert!(!printed.contains(&password), "a terminal's scrollback is no place for a password");
}
