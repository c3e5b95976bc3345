//! From a tree to a stream and back: nothing is lost, and the same tree gives the same stream.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use longshore::domain::Encoding;
use longshore::tree::{Decoder, DecoderLimits, Encoder, Limits, Owners, PackCause, PackLimits, Policy, pack, unpack};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use crate::harness::rsync::assert_same_trees;
use crate::skipped::skipped;
use crate::tree::corpus::cases;
use crate::tree::scratch::{Scratch, is_root};
use crate::tree::snapshot::{Kind, snapshot};

fn everything() -> (Limits, Policy) {
    let owners = if is_root() { Owners::Keep } else { Owners::Ignore };
    let policy = Policy { owners, set_id: true, devices: true, capabilities: true, ..Policy::default() };
    (Limits::of_volume(1 << 30), policy)
}

/// Packs the content of a directory.
pub(crate) fn packed(path: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    let root = File::open(path).expect("a directory");
    let done = pack(&root, None, &mut archive, &PackLimits::default()).expect("it is packed");
    assert_eq!(done.bytes, archive.len() as u64);
    archive
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

/// Makes a tree with one of everything that this user can make.
pub(crate) fn make_everything(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("empty"), "").expect("a file");
    fs::write(at("file"), "data").expect("a file");
    fs::write(at("two blocks"), vec![b'x'; 1024]).expect("a file");
    fs::write(at("large"), (0..3_000_001_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>()).expect("a file");
    fs::create_dir_all(at("sub/deeper/deepest")).expect("directories");
    fs::write(at("sub/deeper/deepest/file"), "deep").expect("a file");
    fs::hard_link(at("file"), at("sub/hard")).expect("a link");
    fs::hard_link(at("file"), at("sub/deeper/hard")).expect("a link");
    symlink("../sub/hard", at("sub/symlink")).expect("a link");
    symlink("/nowhere/\u{e4}", at("dangling")).expect("a link");
    symlink("t".repeat(1000), at("long link")).expect("a link");
    let long = at(&format!("{}/{}", "l".repeat(200), "\u{f6}".repeat(100)));
    fs::create_dir_all(&long).expect("directories");
    fs::write(long.join("n".repeat(255)), "1").expect("a file");
    fs::hard_link(long.join("n".repeat(255)), at("short name")).expect("a link");
    let bytes = |name: &'static [u8]| root.join(OsStr::from_bytes(name));
    fs::write(bytes(b"not utf8 \xff\xfe"), "1").expect("a file");
    fs::create_dir(bytes(b"not utf8 \xfd")).expect("a directory");
    fs::write(bytes(b"not utf8 \xfd").join("x".repeat(120)), "1").expect("a file");
    fs::write(at("line\nend \"quote\" back\\slash"), "1").expect("a file");
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    for (n, mode) in [0o4755, 0o2755, 0o1644, 0o444, 0o600, 0o777].into_iter().enumerate() {
        fs::write(at(&format!("mode {n}")), "1").expect("a file");
        fs::set_permissions(at(&format!("mode {n}")), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    sparse_files(root);
    for (n, (seconds, nanoseconds)) in
        [(0, 0), (-5, 500_000_000), (1_700_000_000, 123_456_789), (4_000_000_000, 1)].into_iter().enumerate()
    {
        fs::write(at(&format!("time {n}")), "1").expect("a file");
        set_time(&at(&format!("time {n}")), seconds, nanoseconds);
    }
    for (name, value) in [("user.a", b"1".as_slice()), ("user.b=c%", b"\0\n="), ("user.long", &[b'v'; 1500])] {
        for path in [at("sub"), at("sub/deeper/deepest/file")] {
            if rustix::fs::setxattr(&path, name, value, XattrFlags::empty()).is_err() {
                skipped("this file system has no user attributes");
            }
        }
    }
    if is_root() {
        std::os::unix::fs::chown(at("empty"), Some(4_000_000_000), Some(3_000_000)).expect("an owner");
        std::os::unix::fs::lchown(at("dangling"), Some(1), Some(2)).expect("an owner");
        let _ = mknodat(CWD, at("device"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3));
    }
    set_time(&at("dangling"), 1_600_000_000, 5);
    set_time(&at("pipe"), 1_600_000_000, 6);
    set_time(&at("sub/deeper"), 1_600_000_000, 7);
    set_time(root, 1_600_000_000, 8);
}

fn sparse_files(root: &Path) {
    let sparse = |name: &str, size: u64, runs: &[(u64, usize)]| {
        let file = File::create(root.join(name)).expect("a file");
        for (offset, len) in runs {
            file.write_all_at(&vec![b'd'; *len], *offset).expect("data");
        }
        file.set_len(size).expect("a size");
        // Only when it is on the disk does it have the blocks that say where its data is.
        file.sync_all().expect("a flush");
    };
    sparse("hole", 10 << 20, &[]);
    sparse("hole at the end", 5_000_001, &[(0, 5000)]);
    sparse("hole at the start", 5_000_001, &[(5_000_000, 1)]);
    sparse("holes", 50 << 20, &[(4096, 1), (1 << 20, 100_000), (30 << 20, 4096)]);
    let many: Vec<_> = (0..100).map(|n| (n * 16384, 4096)).collect();
    sparse("many holes", 100 * 16384, &many);
}

#[test]
fn a_tree_survives_packing_and_unpacking() {
    let scratch = Scratch::new();
    let source = scratch.path().join("tree");
    fs::create_dir(&source).expect("a directory");
    make_everything(&source);
    let before = snapshot(&source);
    let blocks = |root: &Path, name: &str| fs::metadata(root.join(name)).expect(name).blocks();
    let sparse = ["hole", "hole at the end", "hole at the start", "holes", "many holes"];
    let used: Vec<_> = sparse.iter().map(|name| blocks(&source, name)).collect();
    let archive = packed(&source);
    assert!(archive == packed(&source), "the same tree gave two streams");
    scratch.clear();

    let (limits, policy) = everything();
    let (path, result) = scratch.unpack(&archive, &limits, policy);
    let done = result.expect("it is unpacked");
    assert_eq!(done.dropped_attributes, 0);
    let after = snapshot(&path);
    for (name, node) in &before {
        assert_eq!(after.get(name), Some(node), "{}", name.escape_ascii());
    }
    assert_eq!(before.len(), after.len());
    for (name, used) in sparse.iter().zip(used) {
        assert!(blocks(&path, name) <= used, "{name} has lost holes");
    }
    assert!(archive == packed(&path), "the second stream is another one");
}

#[test]
fn each_accepted_archive_of_the_corpus_survives_packing_and_unpacking() {
    let scratch = Scratch::new();
    let (limits, policy) = everything();
    let policy = Policy { owners: Owners::Ignore, devices: false, ..policy };
    let mut accepted = 0;
    for case in cases() {
        let (path, result) = scratch.unpack(&case.bytes, &limits, policy);
        // Only root can pack files that their owner may not read.
        if result.is_err() || (!is_root() && ["modes", "closed-directory"].contains(&case.name)) {
            scratch.clear();
            continue;
        }
        accepted += 1;
        let before = snapshot(&path);
        let archive = packed(&path);
        scratch.clear();
        let (path, result) = scratch.unpack(&archive, &limits, policy);
        result.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(snapshot(&path), before, "{}", case.name);
        scratch.clear();
    }
    assert!(accepted > 40, "{accepted}");
}

#[test]
fn a_tree_survives_compression() {
    let scratch = Scratch::new();
    let source = scratch.path().join("tree");
    fs::create_dir(&source).expect("a directory");
    make_everything(&source);
    let before = snapshot(&source);
    let root = File::open(&source).expect("a directory");
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let mut encoder = Encoder::new(Vec::new(), encoding).expect("an encoder");
        pack(&root, None, &mut encoder, &PackLimits::default()).expect("it is packed");
        let stream = encoder.finish().expect("a vector takes all");
        let target = Scratch::new();
        let (path, to) = target.root("tree");
        let (limits, policy) = everything();
        let decoder = Decoder::new(&*stream, encoding, DecoderLimits::of_volume(limits.bytes)).expect("a decoder");
        unpack(decoder, &to, &limits, &policy).expect("it is unpacked");
        assert!(snapshot(&path) == before, "{encoding:?}");
        assert_same_trees(&source, &path);
    }
}

#[test]
fn a_very_fragmented_file_is_packed_within_the_limit_of_its_map() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    let file = File::create(path.join("f")).expect("a file");
    for n in 0..1000 {
        file.write_all_at(&[b'x'; 4096], n * 12288).expect("data");
    }
    file.set_len(1000 * 12288).expect("a size");
    let before = snapshot(&path);
    let mut archive = Vec::new();
    pack(&root, None, &mut archive, &PackLimits { extents: 100, ..PackLimits::default() }).expect("it is packed");
    scratch.clear();
    let limits = Limits { extents: 101, ..Limits::of_volume(1 << 30) };
    let (path, result) = scratch.unpack(&archive, &limits, Policy::default());
    result.expect("it is unpacked");
    assert!(snapshot(&path)[b"f".as_slice()].kind == before[b"f".as_slice()].kind);
}

#[test]
fn a_deep_tree_is_packed_with_few_descriptors() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    let deep = path.join("d/".repeat(200));
    fs::create_dir_all(&deep).expect("directories");
    for level in 1..200 {
        fs::write(path.join("d/".repeat(level)).join("after"), "1").expect("a file");
    }
    let before = snapshot(&path);
    let resource = rustix::process::Resource::Nofile;
    let maximum = rustix::process::getrlimit(resource).maximum;
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current: Some(150), maximum }).expect("a limit");
    let mut archive = Vec::new();
    pack(&root, None, &mut archive, &PackLimits::default()).expect("it is packed");
    scratch.clear();
    let (limits, policy) = everything();
    let (path, result) = scratch.unpack(&archive, &limits, policy);
    result.expect("it is unpacked");
    assert_eq!(snapshot(&path), before);
}

#[test]
fn names_beyond_the_limit_of_memory_end_the_packing() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    for n in 0..100 {
        fs::write(path.join(format!("{n}")), "").expect("a file");
    }
    let limits = PackLimits { memory: 1000, ..PackLimits::default() };
    let error = pack(&root, None, io::sink(), &limits).expect_err("there are too many");
    assert!(matches!(error.cause, PackCause::Memory));
}

#[test]
fn a_file_that_changes_while_it_is_read_cuts_the_stream() {
    /// Changes a file when the first bytes of the stream are written.
    struct Meddler<'a>(&'a Path, Vec<u8>, i64);
    impl Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let file = File::options().write(true).open(self.0).expect("a file");
            let len = file.metadata().expect("a file").len().cast_signed();
            file.set_len((len + self.2).cast_unsigned()).expect("a size");
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for change in [-400_000, 100] {
        let scratch = Scratch::new();
        let (path, root) = scratch.root("tree");
        fs::write(path.join("f"), vec![b'x'; 1 << 20]).expect("a file");
        let mut meddler = Meddler(&path.join("f"), Vec::new(), change);
        let error = pack(&root, None, &mut meddler, &PackLimits::default()).expect_err("it changed");
        assert!(matches!(error.cause, PackCause::Changed), "{error}");
        assert_eq!(error.name, "f");
        let stream = meddler.1;
        scratch.clear();
        let (limits, policy) = everything();
        let (_, result) = scratch.unpack(&stream, &limits, policy);
        result.expect_err("nobody takes it for whole");
    }
}

#[test]
fn a_writer_that_fails_ends_the_packing_with_its_own_error() {
    struct Fails;
    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let scratch = Scratch::new();
    let (_, root) = scratch.root("tree");
    let error = pack(&root, None, Fails, &PackLimits::default()).expect_err("it fails");
    assert!(matches!(&error.cause, PackCause::Sink(cause) if cause.kind() == io::ErrorKind::BrokenPipe));
}

#[test]
fn sockets_are_left_out_and_pipes_are_not_waited_for() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    let listener = std::os::unix::net::UnixListener::bind(path.join("s")).expect("a socket");
    mknodat(CWD, path.join("p"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let mut archive = Vec::new();
    let done = pack(&root, None, &mut archive, &PackLimits::default()).expect("it is packed");
    drop(listener);
    assert_eq!((done.members, done.skipped), (2, 1));
}

#[test]
fn what_is_packed_is_read_alike_by_gnu_tar_and_python() {
    let scratch = Scratch::new();
    let source = scratch.path().join("tree");
    fs::create_dir(&source).expect("a directory");
    make_everything(&source);
    let archive = scratch.path().join("outside/archive.tar");
    fs::write(&archive, packed(&source)).expect("a file");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions", "--xattrs", "--xattrs-include=user.*", "--file"]).arg(&archive);
    tar.arg("--directory");
    let mut python = Command::new("python3");
    let code = "import sys, tarfile\n\
        tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)\n\
        with tarfile.open(sys.argv[1], errors='surrogateescape') as tar: tar.extractall(sys.argv[2])";
    python.args(["-c", code]).arg(&archive);
    for (mut reader, by_tar) in [(tar, true), (python, false)] {
        let target = Scratch::new();
        let (path, _) = target.root("tree");
        let Ok(output) = reader.arg(&path).output() else {
            skipped("a program is missing");
            continue;
        };
        // Tar reports an unknown keyword, hdrcharset, and continues.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (mut before, mut after) = (snapshot(&source), snapshot(&path));
        for node in before.values_mut().chain(after.values_mut()) {
            // Tar cannot be asked for attributes of other namespaces. Python reads none, and rounds times.
            node.attributes.retain(|name, _| by_tar && name.starts_with(b"user."));
            if !by_tar {
                node.mtime = (0, 0);
            }
            if !is_root() {
                node.owner = (0, 0);
            }
        }
        for (name, node) in &before {
            assert_eq!(after.get(name), Some(node), "{reader:?}: {}", name.escape_ascii());
        }
        assert_eq!(before.len(), after.len());
        assert!(before.values().any(|node| node.kind == Kind::Fifo));
    }
}
