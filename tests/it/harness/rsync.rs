//! Compares two directories by rsync, an independent program.

use std::path::Path;
use std::process::Command;

/// Fails unless rsync would change nothing: data, modes, owners, times, links, hard links, lists and attributes.
#[track_caller]
pub(crate) fn assert_same_trees(one: &Path, other: &Path) {
    assert_nothing_to_do("-aHAXc", one, other);
}

/// Like [`assert_same_trees`], but compares only names, types, links and data.
#[track_caller]
pub(crate) fn assert_same_data(one: &Path, other: &Path) {
    assert_nothing_to_do("-rlDHc", one, other);
}

#[track_caller]
fn assert_nothing_to_do(options: &str, one: &Path, other: &Path) {
    let mut rsync = Command::new("rsync");
    rsync.args([options, "--modify-window=-1", "--delete", "--dry-run", "--itemize-changes"]);
    let output = rsync.arg(one.join("")).arg(other.join("")).output().expect("rsync runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}
