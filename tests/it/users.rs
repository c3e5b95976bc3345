//! `longshore user`, on the data of a running server.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Server;

fn can_log_in(server: &Server, credentials: &str) -> bool {
    match server.curl_as(credentials, "/api/2.0/drives/").run().status {
        200 => true,
        401 => false,
        other => panic!("neither in nor out: {other}"),
    }
}

#[test]
fn the_first_users_credentials_are_for_the_owner_only() {
    let server = Server::start();
    let mode = server.credentials_file().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(can_log_in(&server, &server.credentials()));
}

#[test]
fn a_user_that_is_added_can_log_in_and_is_listed() {
    let server = Server::start();
    let alice = server.add_user("alice");
    assert!(can_log_in(&server, &alice));
    let listed = server.user_command(&["list"]);
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("admin") && listed.contains("alice"), "{listed}");
    let (_, password) = alice.split_once(':').unwrap();
    assert!(!listed.contains(password));
}

#[test]
fn a_name_is_given_only_once() {
    let server = Server::start();
    let alice = server.add_user("alice");
    let again = server.user_command(&["add", "alice"]);
    assert!(!again.status.success());
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("alice") && told.contains("exists already"), "{told}");
    assert!(can_log_in(&server, &alice));
}

/// The server remembers verified passwords, so a change must reach it at once.
#[test]
fn a_changed_password_replaces_the_old_one_at_once() {
    let server = Server::start();
    let old = server.add_user("alice");
    assert!(can_log_in(&server, &old));
    let changed = server.user_command(&["passwd", "alice"]);
    assert!(changed.status.success(), "{changed:?}");
    let new = String::from_utf8(changed.stdout).unwrap().trim().to_owned();
    assert!(!can_log_in(&server, &old));
    assert!(can_log_in(&server, &new));
}

#[test]
fn a_removed_user_is_out_at_once() {
    let server = Server::start();
    let alice = server.add_user("alice");
    assert!(can_log_in(&server, &alice));
    let removed = server.user_command(&["remove", "alice"]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(!can_log_in(&server, &alice));
    assert!(!server.user_command(&["remove", "alice"]).status.success());
}
