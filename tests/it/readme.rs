//! The lines that a new user pastes.

use std::process::Command;

use crate::harness::{Server, image};

/// The upload, the download and the comparison, run by a shell in an empty folder with nothing changed but the address
/// and where the credentials are.
#[test]
fn the_pasted_lines_bring_back_the_same_bytes() {
    let server = Server::start();
    let dir = server.scratch().join("pasted");
    std::fs::create_dir(&dir).unwrap();
    image::sparse(&dir.join("disk.img"), (5 << 20) + 512, 1);
    let script = format!(
        r#"set -eu
        UUID=$(curl -sS --request POST --user "$(cat {credentials})" --header 'Content-Type: application/octet-stream' --upload-file disk.img {endpoint}/api/2.0/drives/upload/)
        curl -sS --location --remote-name --remote-header-name --user "$(cat {credentials})" {endpoint}/api/2.0/drives/$UUID/download/
        cmp disk.img $UUID"#,
        credentials = server.credentials_file().display(),
        endpoint = server.endpoint(),
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(&dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What is printed at the start is what the user pastes, so it must name this server and these credentials.
#[test]
fn the_server_prints_curl_lines_for_its_own_address() {
    let server = Server::start();
    let printed = crate::harness::wait_for("the curl lines", || Some(server.printed()).filter(|p| p.contains("curl")));
    assert!(printed.contains(&format!("{}/api/2.0/drives/upload/", server.endpoint())), "{printed}");
    assert!(printed.contains("admin.credentials"), "{printed}");
    let (_, password) = server.credentials().split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())).unwrap();
    assert!(!printed.contains(&password), "a terminal's scrollback is no place for a password");
}
