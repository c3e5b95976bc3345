//! Unusual and hostile archives, and the outcome of each: `fixtures/tar/<case>.tar`, and all outcomes in
//! `fixtures/tar/outcomes.txt`.
//!
//! `TAR_FIXTURES=write cargo test --test it tree::corpus` writes them again; without it, the test compares.

mod attacks;
mod broken;
mod oddities;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use longshore::tree::{Limits, Policy};

use crate::tree::scratch::Scratch;
use crate::tree::snapshot::{listing, snapshot};

/// An archive, and the reason for which it is here.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn case(name: &'static str, why: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, why, bytes }
}

pub(crate) fn cases() -> Vec<Case> {
    [oddities::cases(), attacks::cases(), broken::cases()].into_iter().flatten().collect()
}

/// Limits that are small enough to be exceeded by archives of a few KiB.
pub(crate) fn limits() -> Limits {
    Limits {
        entries: 64,
        bytes: 192 << 10,
        reserve: 0,
        apparent: 16 << 20,
        depth: 16,
        name: 1024,
        link: 1024,
        attributes: 4096,
        extended: 64 << 10,
        extents: 64,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tar")
}

fn outcome(scratch: &Scratch, archive: &[u8]) -> String {
    let (path, result) = scratch.unpack(archive, &limits(), Policy::default());
    let mut text = match result {
        Ok(done) => {
            let mut text = listing(&snapshot(&path));
            if done.dropped_attributes + done.cleared_set_id > 0 {
                let (dropped, cleared) = (done.dropped_attributes, done.cleared_set_id);
                writeln!(text, "attributes dropped: {dropped}; set-id cleared: {cleared}").expect("a string");
            }
            text
        }
        Err(error) => format!("refused: {error}\n"),
    };
    if text.is_empty() {
        text.push_str("nothing\n");
    }
    scratch.clear();
    text
}

#[test]
fn each_archive_of_the_corpus_has_its_outcome() {
    let scratch = Scratch::new();
    let write = std::env::var_os("TAR_FIXTURES").is_some_and(|value| value == "write");
    if write {
        fs::create_dir_all(folder()).expect("a directory");
    }
    let mut outcomes = String::new();
    for Case { name, why, bytes } in cases() {
        let path = folder().join(format!("{name}.tar"));
        if write {
            fs::write(&path, &bytes).expect("a fixture can be written");
        }
        let fixture = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(fixture == bytes, "{name}.tar is not what the generator makes");
        write!(outcomes, "== {name}: {why}\n{}\n", outcome(&scratch, &bytes)).expect("a string");
    }
    let path = folder().join("outcomes.txt");
    if write {
        fs::write(&path, &outcomes).expect("a fixture can be written");
    }
    let expected = fs::read_to_string(&path).expect("the outcomes can be read");
    for (expected, found) in expected.split("\n\n").zip(outcomes.split("\n\n")) {
        assert_eq!(expected, found);
    }
    assert_eq!(expected, outcomes);
}

#[test]
fn each_fixture_is_in_the_corpus() {
    let known: Vec<_> = cases().iter().map(|case| format!("{}.tar", case.name)).collect();
    for entry in fs::read_dir(folder()).expect("the fixtures") {
        let name = entry.expect("a fixture").file_name().into_string().expect("ASCII");
        assert!(name == "outcomes.txt" || known.contains(&name), "{name} belongs to no case");
    }
    let mut names: Vec<_> = known.clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), known.len(), "two cases have one name");
}

#[test]
fn an_archive_cut_anywhere_is_refused_and_never_taken_for_a_shorter_one() {
    let scratch = Scratch::new();
    for name in ["plain", "pax-name", "gnu-sparse", "pax-sparse-1.0"] {
        let whole = cases().into_iter().find(|case| case.name == name).expect("a case").bytes;
        // Every cut around the edges of blocks, and some within. An archive that is cut after the first block of its
        // end is still complete.
        let cuts = (0..whole.len() - 512).filter(|cut| cut % 512 < 2 || cut % 512 == 511 || cut % 97 == 0);
        for cut in cuts {
            let (_, result) = scratch.unpack(&whole[..cut], &limits(), Policy::default());
            let error = result.expect_err("it is cut");
            assert!(error.to_string().ends_with("the archive is cut short"), "{name} cut at {cut}: {error}");
            assert_eq!(error.place.offset, cut as u64, "{name} cut at {cut}");
            scratch.clear();
        }
    }
}
