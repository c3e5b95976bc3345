//! The options of a caller, the failures of a stream, and the removal of trees.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use longshore::domain::{Fault, FaultKind};
use longshore::tree::{
    Flaw, ForeignAttributes, Limits, Owners, Policy, Rule, UnpackCause, UnpackError, remove, sync, unpack,
};
use rustix::fs::{Mode, OFlags, mkdirat, openat};

use crate::skipped::skipped;
use crate::tree::corpus::{cases, limits};
use crate::tree::scratch::{PLACE, Scratch, is_root};
use crate::tree::snapshot::{Kind, snapshot};
use crate::tree::tarball::{Head, Tarball};

fn forbidden(error: &UnpackError) -> Option<Rule> {
    match error.cause {
        UnpackCause::Forbidden(rule) => Some(rule),
        _ => None,
    }
}

#[test]
fn a_root_with_something_in_it_is_refused() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    symlink("../outside", path.join("l")).expect("a link");
    let error = unpack(&*Tarball::new().end(), &root, &limits(), &Policy::default()).expect_err("it is not empty");
    assert_eq!(forbidden(&error), Some(Rule::RootNotEmpty));
}

#[test]
fn the_root_takes_mode_and_time_of_its_member() {
    let scratch = Scratch::new();
    let root = Head { mode: 0o750, mtime: 1_234_567_890, ..Head::new(b'5', "./") };
    let archive = Tarball::new().entry(&root, &[]).file("f", "1").end();
    let (path, result) = scratch.unpack(&archive, &limits(), Policy::default());
    result.expect("it is unpacked");
    let data = fs::metadata(path).expect("the root");
    assert_eq!((data.mode() & 0o7777, data.mtime()), (0o750, 1_234_567_890));
}

#[test]
fn set_id_bits_are_kept_if_the_policy_says_so() {
    let scratch = Scratch::new();
    let archive = cases().into_iter().find(|case| case.name == "set-id").expect("a case").bytes;
    let policy = Policy { set_id: true, ..Policy::default() };
    let (path, result) = scratch.unpack(&archive, &limits(), policy);
    assert_eq!(result.expect("it is unpacked").cleared_set_id, 0);
    let mode = |name: &str| fs::metadata(path.join(name)).expect("it is there").mode() & 0o7777;
    assert_eq!((mode("f"), mode("d")), (0o6755, 0o3777));
}

#[test]
fn owners_are_kept_if_the_policy_says_so() {
    if !is_root() {
        return skipped("giving files away takes root");
    }
    let scratch = Scratch::new();
    let owned = |kind: u8, name: &str, uid: u64| Head {
        uid,
        gid: uid + 1,
        mode: 0o4750,
        link: b"x".to_vec(),
        ..Head::new(kind, name)
    };
    let archive = Tarball::new()
        .entry(&owned(b'5', "d", 2000), &[])
        .entry(&owned(b'0', "d/f", 4_000_000_000), &[])
        .entry(&owned(b'2', "d/l", 3000), &[])
        .entry(&owned(b'6', "d/p", 5000), &[])
        .entry(&owned(b'0', "d/mine", 0), &[])
        .end();
    let policy = Policy { owners: Owners::Keep, set_id: true, ..Policy::default() };
    let (path, result) = scratch.unpack(&archive, &limits(), policy);
    result.expect("it is unpacked");
    for (name, uid, mode) in [
        ("d", 2000, 0o4750),
        ("d/f", 4_000_000_000, 0o4750),
        ("d/l", 3000, 0o777),
        ("d/p", 5000, 0o4750),
        ("d/mine", 0, 0o4750),
    ] {
        let data = fs::symlink_metadata(path.join(name)).expect(name);
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (uid, uid + 1, mode), "{name}");
    }
}

#[test]
fn a_file_of_ours_in_a_directory_that_passes_its_group_on_gets_the_group_of_the_archive() {
    if !is_root() {
        return skipped("giving files away takes root");
    }
    let scratch = Scratch::new();
    let shared = Head { uid: 0, gid: 2000, mode: 0o2775, ..Head::new(b'5', "d") };
    let mine = Head { uid: 0, gid: 0, ..Head::new(b'0', "d/f") };
    // Between them are enough directories that the descriptor of the first one is closed.
    let between = (0..70).fold(Tarball::new().entry(&shared, &[]), |tarball, n| tarball.dir(format!("a{n}")));
    let archive = between.entry(&mine, &[]).end();
    let policy = Policy { owners: Owners::Keep, set_id: true, ..Policy::default() };
    let (path, result) = scratch.unpack(&archive, &Limits::of_volume(1 << 20), policy);
    result.expect("it is unpacked");
    assert_eq!(fs::metadata(path.join("d/f")).expect("the file").gid(), 0);
}

#[test]
fn devices_are_made_if_the_policy_says_so() {
    if !is_root() {
        return skipped("making devices takes root");
    }
    let scratch = Scratch::new();
    let device = |kind: u8, name: &str| Head { device: (1, 3), mode: 0o660, ..Head::new(kind, name) };
    let archive = Tarball::new().entry(&device(b'3', "c"), &[]).entry(&device(b'4', "b"), &[]).end();
    let policy = Policy { devices: true, ..Policy::default() };
    let (path, result) = scratch.unpack(&archive, &limits(), policy);
    match result {
        Ok(done) => assert_eq!(done.special, 2),
        Err(UnpackError { cause: UnpackCause::Disk(error), .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
            return skipped("this machine lets not even root make devices");
        }
        Err(error) => panic!("{error}"),
    }
    let tree = snapshot(&path);
    let number = rustix::fs::makedev(1, 3);
    assert_eq!(tree[b"c".as_slice()].kind, Kind::Device { block: false, number });
    assert_eq!(tree[b"b".as_slice()].kind, Kind::Device { block: true, number });
    assert_eq!(tree[b"b".as_slice()].mode, 0o660);
}

/// `user::rw-,user:1000:r--,group::r--,mask::r--,other::---` in the kernel's encoding.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0,
    255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

#[test]
fn attributes_of_files_and_directories_are_kept() {
    let scratch = Scratch::new();
    let records: [(&[u8], &[u8]); 2] = [(b"SCHILY.xattr.user.a", b"\0\n="), (b"SCHILY.xattr.user.b%3Dc", b"")];
    let closed = Head { mode: 0o444, ..Head::new(b'0', "d/f") };
    let archive = Tarball::new().pax(&records).dir("d").pax(&records).entry(&closed, &[]).end();
    let (path, result) = scratch.unpack(&archive, &limits(), Policy::default());
    match result {
        Err(error) if forbidden(&error) == Some(Rule::AttributeRoom) => {
            return skipped("this file system has no user attributes");
        }
        result => assert_eq!(result.expect("it is unpacked").dropped_attributes, 0),
    }
    let tree = snapshot(&path);
    for name in ["d", "d/f"] {
        let found = &tree[name.as_bytes()].attributes;
        assert_eq!(found[b"user.a".as_slice()], b"\0\n=", "{name}");
        assert_eq!(found[b"user.b=c".as_slice()], b"", "{name}");
    }
    assert_eq!(tree[b"d/f".as_slice()].mode, 0o444);
}

#[test]
fn access_lists_are_kept_and_not_inherited_by_what_the_archive_puts_into_the_directory() {
    let scratch = Scratch::new();
    let records: [(&[u8], &[u8]); 1] = [(b"SCHILY.xattr.system.posix_acl_default", &ACL)];
    let of_file: [(&[u8], &[u8]); 1] = [(b"SCHILY.xattr.system.posix_acl_access", &ACL)];
    // Its descriptor is closed and opened again before the second file.
    let between =
        (0..70).fold(Tarball::new().pax(&records).dir("d").file("d/a", "1"), |tarball, n| tarball.dir(format!("a{n}")));
    let listed = Head { mode: 0o640, ..Head::new(b'0', "d/c") };
    let archive = between.file("d/b", "2").dir("d/sub").pax(&of_file).entry(&listed, &[]).end();
    let (path, result) = scratch.unpack(&archive, &Limits::of_volume(1 << 20), Policy::default());
    match result {
        Err(error) if forbidden(&error) == Some(Rule::AttributeRoom) => {
            return skipped("this file system has no access lists");
        }
        result => assert_eq!(result.expect("it is unpacked").dropped_attributes, 0),
    }
    let tree = snapshot(&path);
    assert_eq!(tree[b"d".as_slice()].attributes[b"system.posix_acl_default".as_slice()], ACL);
    assert_eq!(tree[b"d/c".as_slice()].attributes[b"system.posix_acl_access".as_slice()], ACL);
    for name in ["d/a", "d/b", "d/sub"] {
        assert!(tree[name.as_bytes()].attributes.is_empty(), "{name} inherited a list");
    }
    assert_eq!(tree[b"d/a".as_slice()].mode, 0o644);
}

#[test]
fn foreign_attributes_are_refused_if_the_policy_says_so() {
    let scratch = Scratch::new();
    let policy = Policy { foreign: ForeignAttributes::Refuse, ..Policy::default() };
    for name in ["attribute-trusted", "attribute-on-link"] {
        let archive = cases().into_iter().find(|case| case.name == name).expect("a case").bytes;
        let (_, result) = scratch.unpack(&archive, &limits(), policy);
        assert_eq!(forbidden(&result.expect_err("it has such attributes")), Some(Rule::Attribute), "{name}");
        scratch.clear();
    }
}

#[test]
fn capabilities_are_kept_if_the_policy_says_so() {
    if !is_root() {
        return skipped("setting capabilities takes root");
    }
    let scratch = Scratch::new();
    // Version 2, effective, CAP_NET_BIND_SERVICE.
    let value: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Tarball::new().pax(&[(b"SCHILY.xattr.security.capability", &value)]).file("f", "data").end();
    let policy = Policy { capabilities: true, ..Policy::default() };
    let (path, result) = scratch.unpack(&archive, &limits(), policy);
    match result {
        Err(error) if forbidden(&error) == Some(Rule::AttributeRoom) => {
            return skipped("this file system has no capabilities");
        }
        result => assert_eq!(result.expect("it is unpacked").dropped_attributes, 0),
    }
    let tree = snapshot(&path);
    assert_eq!(tree[b"f".as_slice()].attributes[b"security.capability".as_slice()], value);
}

#[test]
fn holes_take_no_space() {
    let scratch = Scratch::new();
    let archive = cases().into_iter().find(|case| case.name == "hole").expect("a case").bytes;
    let (path, result) = scratch.unpack(&archive, &limits(), Policy::default());
    let done = result.expect("it is unpacked");
    assert_eq!((done.bytes, done.apparent), (0, 16 << 20));
    let data = fs::metadata(path.join("s")).expect("the file");
    assert_eq!((data.len(), data.blocks()), (16 << 20, 0));
}

#[test]
fn a_reader_that_fails_ends_the_work_with_its_own_error() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is too slow"))
        }
    }
    let archive = Tarball::new().file("f", "1").raw(&Head { size: 5000, ..Head::new(b'0', "g") }.block()).raw(b"half");
    let scratch = Scratch::new();
    let (_, root) = scratch.root("tree");
    let error = unpack(archive.bytes.chain(Fails), &root, &limits(), &Policy::default()).expect_err("it broke off");
    assert_eq!(error.place.to_string(), "entry 2 \"g\" at byte 1540");
    assert!(matches!(&error.cause, UnpackCause::Source(cause) if cause.kind() == io::ErrorKind::TimedOut));
    assert_eq!(Fault::from(error).kind, FaultKind::BodyIncomplete);
}

#[test]
fn a_reader_may_give_one_byte_at_a_time_and_be_interrupted() {
    struct Trickle<'a>(&'a [u8], bool);
    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = self.0.len().min(1);
            self.0.read(&mut into[..len])
        }
    }
    let scratch = Scratch::new();
    for name in ["plain", "gnu-sparse-long", "pax-sparse-1.0", "pax-name"] {
        let archive = cases().into_iter().find(|case| case.name == name).expect("a case").bytes;
        let (path, result) = scratch.unpack(&archive, &limits(), Policy::default());
        result.expect("it is unpacked");
        let whole = snapshot(&path);
        scratch.clear();
        let (path, root) = scratch.root("tree");
        unpack(Trickle(&archive, false), &root, &limits(), &Policy::default()).expect("it is unpacked");
        let slow = snapshot(&path);
        scratch.clear();
        assert_eq!(whole.len(), slow.len());
        for (name, node) in whole.iter().filter(|(_, node)| node.kind != Kind::Directory) {
            assert_eq!(node, &slow[name]);
        }
    }
}

#[test]
fn zeros_after_the_end_are_not_read_for_ever() {
    let scratch = Scratch::new();
    let (_, root) = scratch.root("tree");
    let endless = Tarball::new().end();
    let error = unpack(endless.chain(io::repeat(0)), &root, &limits(), &Policy::default()).expect_err("it is endless");
    assert!(matches!(error.cause, UnpackCause::Malformed(Flaw::Trailing)));
    assert!(error.place.offset <= 9 << 20);
}

/// A reader made of a function.
struct Parts<F>(F);

impl<F: FnMut(&mut [u8]) -> usize> Read for Parts<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok((self.0)(into))
    }
}

/// Members that each take as much memory as the limits allow, one after the other.
fn greedy() -> impl Read {
    let limits = Limits::of_volume(0);
    let filler = vec![b'x'; limits.extended - 700];
    let pax = move |name: &str| Tarball::new().pax(&[(b"path", name.as_bytes()), (b"comment", &filler)]);
    let mut map = format!("{}\n", limits.extents).into_bytes();
    map.extend_from_slice(&b"0\n0\n".repeat(limits.extents));
    map.resize(map.len().next_multiple_of(512), 0);
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", b"0"),
    ];
    let sparse = Tarball::new().pax(&records).file("s", &map).bytes;
    let deep = move |n: u32| pax(&format!("{n}/{}", "d/".repeat(253))).dir("d").bytes;
    let end = Tarball::new().end();
    // One at a time, so that only the unpacking holds more.
    let mut parts = (0..12).map(move |n| if n % 2 == 0 { deep(n) } else { sparse.clone() }).chain([end]);
    let mut part = io::Cursor::new(Vec::new());
    Parts(move |into: &mut [u8]| {
        loop {
            match part.read(into).expect("memory") {
                0 if !into.is_empty() => match parts.next() {
                    Some(next) => part = io::Cursor::new(next),
                    None => return 0,
                },
                read => return read,
            }
        }
    })
}

#[test]
fn memory_is_bounded_whatever_the_archive_holds() {
    const CHILD: &str = "TREE_MEMORY";
    // Run in a separate process, whose peak memory is that of this test alone.
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("this program");
        let name = "tree::lifecycle::memory_is_bounded_whatever_the_archive_holds";
        let output = Command::new(program).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let output = output.expect("it can be run");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // The child does not fail if no test has this name, so the count is checked.
        return assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    }
    let peak = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("a kernel that counts");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let scratch = Scratch::new();
    let (_, root) = scratch.root("tree");
    let before = peak();
    let done = unpack(greedy(), &root, &Limits::of_volume(1 << 30), &Policy::default()).expect("it is unpacked");
    assert_eq!(done.members, 12);
    let grown = peak() - before;
    // Of this, about 4 MiB are used to make the stream.
    assert!(grown < 24 << 10, "{grown} KiB");
}

#[test]
fn a_full_disk_is_told_as_such() {
    if !is_root() {
        return skipped("mounting takes root");
    }
    let scratch = Scratch::new();
    let (path, _) = scratch.root("tree");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&path).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped("this machine does not mount");
    }
    let root = File::open(&path).expect("the root");
    let archive = Tarball::new().file("f", vec![b'x'; 100_000]).end();
    let result = unpack(&*archive, &root, &Limits::of_volume(1 << 20), &Policy::default());
    drop(root);
    assert!(Command::new("umount").arg(&path).status().expect("umount").success());
    let fault = Fault::from(result.expect_err("there is no room"));
    assert_eq!(fault.kind, FaultKind::NoSpace);
}

#[test]
fn inodes_and_space_are_left_for_others_whatever_an_archive_holds() {
    if !is_root() {
        return skipped("mounting takes root");
    }
    let scratch = Scratch::new();
    let (path, _) = scratch.root("tree");
    let options = "size=4m,nr_inodes=640";
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skipped("this machine does not mount");
    }
    let many = (0..1000).fold(Tarball::new(), |tarball, n| tarball.file(format!("f{n}"), "")).end();
    let large = (0..100).fold(Tarball::new(), |tarball, n| tarball.file(format!("f{n}"), vec![b'x'; 40_000])).end();
    let limits = Limits { reserve: 1 << 20, ..Limits::of_volume(1 << 30) };
    let results = [many, large].map(|archive| {
        let within = path.join("within");
        fs::create_dir(&within).expect("a directory");
        let root = File::open(&within).expect("the root");
        let result = unpack(&*archive, &root, &limits, &Policy::default());
        let disk = rustix::fs::fstatvfs(&root).expect("a file system");
        drop(root);
        fs::remove_dir_all(&within).expect("it is removed");
        (result, disk.f_favail, disk.f_bavail * disk.f_frsize)
    });
    assert!(Command::new("umount").arg(&path).status().expect("umount").success());
    for (result, inodes, bytes) in results {
        let fault = Fault::from(result.expect_err("there is no room"));
        assert_eq!(fault.kind, FaultKind::NoSpace);
        assert!(fault.told.contains("the disk has no room for more"), "{}", fault.told);
        assert!(inodes > 0 && bytes > 256 << 10, "{inodes} inodes and {bytes} bytes are left");
    }
}

#[test]
fn a_volume_has_members_in_proportion_to_its_size() {
    let scratch = Scratch::new();
    let links = (0..3000).fold(Tarball::new().file("f", ""), |tarball, n| tarball.hard(format!("l{n}"), "f")).end();
    for (size, fits) in [(8 << 20, false), (16 << 20, true)] {
        let (_, result) = scratch.unpack(&links, &Limits::of_volume(size), Policy::default());
        assert_eq!(result.is_ok(), fits, "{size}");
        scratch.clear();
    }
}

#[test]
fn a_tree_can_be_made_durable() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    unpack(&*Tarball::new().file("f", "1").end(), &root, &limits(), &Policy::default()).expect("it is unpacked");
    sync(&root).expect("it is durable");
    let no_more_than_a_path = openat(rustix::fs::CWD, &path, OFlags::PATH, Mode::empty()).expect("the root");
    sync(&no_more_than_a_path).expect_err("a descriptor that knows no write-back errors is refused");
}

/// Makes a chain of nested directories, each with a file and a link to the outside.
fn chain(top: &File, depth: usize, mode: impl Fn(usize) -> u32) {
    let mut at = OwnedFd::from(top.try_clone().expect("a descriptor"));
    for level in 0..depth {
        mkdirat(&at, "directory", Mode::RWXU).expect("a directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let next = openat(&at, "directory", flags, Mode::empty()).expect("a directory");
        rustix::fs::symlinkat("/outside", &next, "link").expect("a link");
        openat(&next, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("a file");
        // The entries below are made by its descriptor, which needs no access by path.
        if level > 0 {
            rustix::fs::fchmod(&at, Mode::from_raw_mode(mode(level))).expect("a mode");
        }
        at = next;
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_removed_with_few_descriptors() {
    let scratch = Scratch::new();
    let (path, root) = scratch.root("tree");
    chain(&root, 600, |level| if level % 7 == 3 { 0 } else { 0o755 });
    // The names that it would give to directories that it moves up.
    for n in 1..4 {
        fs::create_dir(path.join(format!("moved-up-{n}"))).expect("a directory");
    }
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(200),
            maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
        },
    )
    .expect("a limit");
    scratch.clear();
}

#[test]
fn a_directory_of_very_many_directories_is_removed() {
    let scratch = Scratch::new();
    let (path, _) = scratch.root("tree");
    for n in 0..600 {
        fs::create_dir(path.join(format!("{n}"))).expect("a directory");
        fs::write(path.join(format!("{n}/f")), "1").expect("a file");
    }
    scratch.clear();
}

#[test]
fn closed_directories_are_removed() {
    let scratch = Scratch::new();
    let (path, _) = scratch.root("tree");
    for mode in [0, 0o100, 0o200, 0o400, 0o500, 0o600] {
        let folder = path.join(format!("{mode:o}"));
        fs::create_dir_all(folder.join("sub")).expect("directories");
        fs::write(folder.join("sub/file"), "1").expect("a file");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).expect("a mode");
    scratch.clear();
}

#[test]
fn removing_what_is_not_there_or_no_directory_works() {
    let scratch = Scratch::new();
    let folder = File::open(scratch.path()).expect("a directory");
    remove(&folder, b"tree").expect("nothing to do");
    symlink("outside", scratch.path().join("tree")).expect("a link");
    scratch.clear();
    assert!(scratch.path().join("outside/secret").exists(), "a link was followed");
}

#[test]
fn an_ordinary_user_gets_the_same() {
    if !is_root() {
        return skipped("this is an ordinary user already");
    }
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let program = std::env::current_exe().expect("this program");
    let copy = place.path().join("tests");
    fs::copy(&program, &copy).expect("a copy that others can run");
    let mut child = Command::new(&copy);
    child.args(["tree::", "--skip", "oracles", "--skip", "mutated", "--nocapture"]).env(PLACE, place.path());
    // Tests that need root are skipped, as intended, and not counted.
    child.env_remove("TEST_SKIPS");
    let output = child.uid(65534).gid(65534).current_dir("/").output().expect("it can be run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success() && !out.contains(" 0 passed"), "{out}\n{err}");
}
