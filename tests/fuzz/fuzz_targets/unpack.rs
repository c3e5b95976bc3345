//! All of unpacking, in memory: whatever the bytes are, nothing outside of the tree changes, what was accepted can be
//! packed and unpacked to the same stream, and everything can be removed.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz unpack target/fuzz/unpack fixtures/tar`

#![no_main]

use std::fs::{self, File};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use longshore::tree::{Limits, PackLimits, Policy, pack, remove, unpack};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { entries: 64, depth: 16, extended: 64 << 10, extents: 1024, ..Limits::of_volume(1 << 20) };
    let policy = Policy { set_id: true, ..Policy::default() };
    let memory = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(memory).expect("a directory");
    let parent = File::open(folder.path()).expect("a directory");
    let outside = folder.path().join("outside");
    fs::write(&outside, "secret").expect("a file");
    let open = |name: &str| {
        fs::create_dir(folder.path().join(name)).expect("a directory");
        File::open(folder.path().join(name)).expect("a directory")
    };
    let packed = |root: &File| {
        let mut archive = Vec::new();
        pack(root, None, &mut archive, &PackLimits::default()).map(|_| archive)
    };
    let tree = open("tree");
    if unpack(data, &tree, &limits, &policy).is_ok() {
        let first = packed(&tree).expect("what was unpacked can be packed");
        let again = open("again");
        let wide = Limits { entries: 1 << 20, ..Limits::of_volume(1 << 30) };
        unpack(&*first, &again, &wide, &policy).expect("what was packed can be unpacked");
        assert!(first == packed(&again).expect("it can be packed"), "the second stream is another one");
        remove(&parent, b"again").expect("it can be removed");
    }
    remove(&parent, b"tree").expect("it can be removed");
    assert_eq!(fs::read(&outside).expect("it is there"), b"secret");
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a directory").collect();
    assert_eq!(left.len(), 1, "something was made outside");
});
