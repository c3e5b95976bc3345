//! Reports the tests that did not run. Shared by the unit tests and the behaviour tests.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Reports that a test or a part of it does not run here, and why: in its output, and in the file that the variable
/// `TEST_SKIPS` names, since the output of passing tests is not shown.
pub(crate) fn skipped(why: impl Display) {
    println!("SKIPPED: {why}");
    let Some(list) = std::env::var_os("TEST_SKIPS") else { return };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let why = why.to_string().replace(['\n', '\t'], " ");
    let mut list = OpenOptions::new().append(true).create(true).open(list).expect("the list of skips");
    list.write_all(format!("{why}\t{test}\n").as_bytes()).expect("a line of the list");
}
