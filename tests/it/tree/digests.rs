//! A tree that differs from the stored one gives no complete archive, whatever was changed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use longshore::tree::{
    DigestLog, Digests, Limits, PackCause, PackError, PackLimits, Policy, check, pack, unpack, unpack_digested,
};

use crate::harness::image::flip;
use crate::tree::scratch::{Scratch, stored};
use crate::tree::tarball::{GNU, Head, Tarball};

/// Words of the message, and the change that causes it.
type Change = (&'static str, fn(&Path));

/// An archive with a sparse file, a file that replaces an earlier one, and files with several names.
fn archive() -> Vec<u8> {
    let large: Vec<u8> = (0..700_001_u32).map(|n| (n / 9 % 251) as u8).collect();
    let sparse = Head { magic: GNU, size: 1024, ..Head::new(b'S', "sub/sparse") };
    let map = |block: &mut [u8; 512]| {
        let mut put = |at: usize, number: u64| {
            block[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
        };
        for (at, number) in [(386, 0), (398, 512), (410, 8 << 20), (422, 512), (483, (8 << 20) + 512)] {
            put(at, number);
        }
    };
    Tarball::new()
        .file("twice", "first")
        .hard("of the first", "twice")
        .file("twice", "second")
        .hard("of the second", "twice")
        .file("was a file", "1")
        .symlink("was a file", "somewhere")
        .hard("link to the link", "was a file")
        .file("became a folder", "1")
        .dir("became a folder")
        .symlink("became a file", "somewhere")
        .file("became a file", "2")
        .file("sub/large", large)
        .file("sub/empty", "")
        .file("sub/zeros", vec![0; 100_000])
        .changed(&sparse, &[7; 1024], map)
        .end()
}

fn unpacked(scratch: &Scratch) -> (std::path::PathBuf, File, Digests) {
    let (path, root) = scratch.root("tree");
    let mut log = DigestLog::new(tempfile::tempfile);
    let limits = Limits::of_volume(1 << 30);
    unpack_digested(&*archive(), &root, &limits, &Policy::default(), &mut log).expect("it is unpacked");
    (path, root, stored(log))
}

/// Fails if the archive is complete, or contains all of the damaged file.
#[track_caller]
fn assert_refused(scratch: &Scratch, root: &File, digests: &Digests, words: &str) {
    let mut stream = Vec::new();
    let error = pack(root, Some(digests), &mut stream, &PackLimits::default()).expect_err("it is not as it was");
    let told = error.damage().unwrap_or_else(|| panic!("{error}"));
    assert!(told.contains(words), "{told} has not {words}");
    let (again, target) = scratch.root("outside/again");
    unpack(&*stream, &target, &Limits::of_volume(1 << 30), &Policy::default()).expect_err("nobody takes it for whole");
    fs::remove_dir_all(again).expect("it is removed");
    let checked = check(root, digests, &PackLimits::default(), &AtomicU64::new(0), |_| Ok(()));
    let checked = checked.expect_err("it is not as it was");
    assert_eq!(checked.damage().as_deref(), Some(&*told));
}

#[test]
fn the_last_content_of_each_name_is_what_is_compared() {
    let scratch = Scratch::new();
    let (_, root, digests) = unpacked(&scratch);
    assert_eq!(digests.count(), 10);
    pack(&root, Some(&digests), io::sink(), &PackLimits::default()).expect("it is as it was");
    let (read, compared) = checked_from(0, &root, &digests);
    assert!((800_000..2_000_000).contains(&read), "{read}");
    assert_eq!(compared, 10);
}

/// Runs a check that continues after `position` paths; returns the bytes that it reads, and the paths compared at its
/// end.
fn checked_from(position: u64, root: &File, digests: &Digests) -> (u64, u64) {
    let (mut read, compared) = (0, AtomicU64::new(position));
    let pace = |bytes| {
        read += bytes;
        Ok(())
    };
    check(root, digests, &PackLimits::default(), &compared, pace).expect("what it reads is as it was");
    (read, compared.into_inner())
}

#[test]
fn a_check_goes_on_behind_what_was_compared() {
    let scratch = Scratch::new();
    let (path, root, digests) = unpacked(&scratch);
    let whole = checked_from(0, &root, &digests).0;
    for position in 0..=10 {
        let (read, compared) = checked_from(position, &root, &digests);
        assert_eq!(compared, 10);
        assert!(read <= whole, "{position}: {read}");
        // The large file is the sixth in the order of names.
        assert_eq!(read > 700_000, position < 6, "{position}: {read}");
    }
    // Earlier paths are not read again, but must exist.
    flip(&path.join("sub/large"), 5);
    checked_from(6, &root, &digests);
    let checked = |position| check(&root, &digests, &PackLimits::default(), &AtomicU64::new(position), |_| Ok(()));
    checked(5).expect_err("it is read");
    fs::remove_file(path.join("of the first")).unwrap();
    let missing = checked(6).expect_err("one is missing");
    assert!(missing.damage().is_some_and(|told| told.contains("missing")), "{missing}");
}

#[test]
fn every_change_of_a_file_or_link_is_found() {
    let sparse_end = (8 << 20) + 511;
    for (name, at) in [
        ("of the first", 0),
        ("twice", 5),
        ("became a file", 0),
        ("sub/large", 0),
        ("sub/large", 700_000),
        ("sub/zeros", 99_999),
        ("sub/sparse", 0),
        ("sub/sparse", 4_000_000),
        ("sub/sparse", sparse_end),
    ] {
        let scratch = Scratch::new();
        let (path, root, digests) = unpacked(&scratch);
        flip(&path.join(name), at);
        // Of two names, the first one is reported.
        let told = if name == "twice" { "of the second" } else { name };
        assert_refused(&scratch, &root, &digests, &format!("\"{told}\": its bytes are not those"));
    }
    let changes: &[Change] = &[
        ("sub/large\": its size", |path| {
            File::options().write(true).open(path.join("sub/large")).unwrap().set_len(700_000).unwrap();
        }),
        ("sub/zeros\": its size", |path| {
            File::options().write(true).open(path.join("sub/zeros")).unwrap().set_len(100_001).unwrap();
        }),
        ("new\": it was not stored", |path| fs::write(path.join("sub/new"), "").unwrap()),
        ("new\": it was not stored", |path| symlink("x", path.join("new")).unwrap()),
        ("missing", |path| fs::remove_file(path.join("sub/empty")).unwrap()),
        ("missing", |path| fs::remove_file(path.join("of the second")).unwrap()),
        ("missing", |path| fs::remove_dir_all(path.join("sub")).unwrap()),
        ("was a file\": its bytes", |path| {
            fs::remove_file(path.join("was a file")).unwrap();
            symlink("elsewhere", path.join("was a file")).unwrap();
        }),
        ("became a file\": its", |path| {
            fs::remove_file(path.join("became a file")).unwrap();
            symlink("2", path.join("became a file")).unwrap();
        }),
        ("sub/empty\": its bytes", |path| {
            fs::remove_file(path.join("sub/empty")).unwrap();
            fs::hard_link(path.join("of the first"), path.join("sub/empty")).unwrap();
        }),
    ];
    for (told, change) in changes {
        let scratch = Scratch::new();
        let (path, root, digests) = unpacked(&scratch);
        change(&path);
        assert_refused(&scratch, &root, &digests, told);
    }
}

#[test]
fn a_check_ends_when_its_pace_says_so() {
    let scratch = Scratch::new();
    let (_, root, digests) = unpacked(&scratch);
    let stop = |_| Err(io::ErrorKind::Interrupted.into());
    let checked = check(&root, &digests, &PackLimits::default(), &AtomicU64::new(0), stop);
    let PackError { cause, .. } = checked.expect_err("it was stopped");
    assert!(matches!(cause, PackCause::Sink(_)), "{cause}");
}
