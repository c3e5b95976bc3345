//! Comparison with other tar programs: their archives unpack to what they packed, and they read an accepted archive as
//! it is read here.
//!
//! # Intended differences
//! - A name through a symbolic link is refused; GNU tar follows links that lie inside of the tree.
//! - A hard link to a missing target or to a directory is refused.
//! - GNU tar makes links that lead up or are absolute last, and may then replace later members; here the order of the
//!   archive counts. So the tests of order have no such links.
//! - A refusal ends the work; GNU tar continues with the next member.
//! - When an entry is added to a directory that was described earlier, GNU tar may leave the current time on the
//!   directory; here it keeps the time of its last description.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use longshore::tree::{Limits, Owners, Policy, Rule, UnpackCause};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::skipped::skipped;
use crate::tree::corpus;
use crate::tree::round_trip::{make_everything, packed};
use crate::tree::scratch::{Scratch, is_root};
use crate::tree::snapshot::{Kind, Tree, listing, snapshot};
use crate::tree::tarball::{GNU, Head, OLD, Tarball, USTAR};

/// Runs a program with this input; returns `None` if it is not installed, otherwise whether it succeeded, and its
/// output.
fn run(command: &mut Command, input: &[u8]) -> Option<(bool, String)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may refuse the archive before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn gnu_tar(archive: &[u8], target: &Path) -> Option<(bool, String)> {
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions", "--no-same-owner", "--directory"]).arg(target);
    run(&mut tar, archive)
}

/// A member of a random archive.
#[derive(Clone, Debug)]
struct Step {
    path: Vec<u8>,
    what: What,
    mode: u32,
    mtime: u64,
}

#[derive(Clone, Debug)]
enum What {
    File(Vec<u8>),
    Directory,
    Symlink(&'static str),
    HardLink(Vec<u8>),
    Fifo,
}

/// Few names, so that members collide.
fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/").into_bytes())
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..700).prop_map(What::File),
        3 => Just(What::Directory),
        1 => prop::sample::select(vec!["a", "b/c", "nowhere"]).prop_map(What::Symlink),
        2 => path().prop_map(What::HardLink),
        1 => Just(What::Fifo),
    ];
    (path(), what, prop::sample::select(vec![0o644, 0o600, 0o755, 0o444, 0o4755]), 1_000_000_000_u64..1_600_000_000)
        .prop_map(|(path, what, mode, mtime)| Step { path, what, mode, mtime })
}

fn archive_of(steps: &[Step]) -> Vec<u8> {
    let write = |tarball: Tarball, step: &Step| {
        let head = |kind| Head { mode: step.mode, mtime: step.mtime, ..Head::new(kind, &step.path) };
        match &step.what {
            What::File(data) => tarball.entry(&Head { size: data.len() as u64, ..head(b'0') }, data),
            What::Directory => tarball.entry(&Head { mode: step.mode | 0o700, ..head(b'5') }, &[]),
            What::Symlink(target) => tarball.entry(&Head { link: target.as_bytes().to_vec(), ..head(b'2') }, &[]),
            What::HardLink(target) => tarball.entry(&Head { link: target.clone(), ..head(b'1') }, &[]),
            What::Fifo => tarball.entry(&head(b'6'), &[]),
        }
    };
    steps.iter().fold(Tarball::new(), write).end()
}

/// Reduces a tree to what both must agree on: see the differences above.
fn comparable(mut tree: Tree) -> Tree {
    tree.remove(b"".as_slice());
    for node in tree.values_mut().filter(|node| node.kind == Kind::Directory) {
        node.mtime = (0, 0);
    }
    tree
}

#[test]
fn members_that_meet_become_what_gnu_tar_makes_of_them() {
    let (ours, theirs) = (Scratch::in_memory(), Scratch::in_memory());
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    // The same on every run, so that a failure is caused by a change here.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, random);
    let outcome = runner.run(&prop::collection::vec(step(), 1..9), |steps| {
        let archive = archive_of(&steps);
        let policy = Policy { set_id: true, ..Policy::default() };
        let (path, result) = ours.unpack(&archive, &Limits::of_volume(1 << 20), policy);
        let (target, _) = theirs.root("tree");
        let judged = gnu_tar(&archive, &target);
        let compared = match (&result, &judged) {
            (_, None) => Ok(()),
            (Ok(_), Some((true, _))) => {
                accepted.set(accepted.get() + 1);
                let tree = snapshot(&path);
                let last = |name: &[u8]| steps.iter().rfind(|step| step.path == name);
                for (name, node) in tree.iter().filter(|(_, node)| node.kind == Kind::Directory) {
                    if let Some(Step { what: What::Directory, mtime, .. }) = last(name) {
                        prop_assert_eq!(node.mtime, (mtime.cast_signed(), 0), "{}", name.escape_ascii());
                    }
                }
                let (ours, theirs) = (comparable(tree), comparable(snapshot(&target)));
                if ours == theirs { Ok(()) } else { Err(format!("{}\n{}", listing(&ours), listing(&theirs))) }
            }
            (Ok(_), Some((false, said))) => Err(format!("only GNU tar refuses it: {said}")),
            (Err(_), Some((false, _))) => {
                refused.set(refused.get() + 1);
                Ok(())
            }
            (Err(error), Some((true, _))) => match error.cause {
                UnpackCause::Forbidden(Rule::Through | Rule::HardLink) => Ok(()),
                _ => Err(format!("only GNU tar accepts it: {error}")),
            },
        };
        ours.clear();
        theirs.clear();
        prop_assert_eq!(compared, Ok(()));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let (accepted, refused) = (accepted.get(), refused.get());
    if accepted + refused == 0 {
        return skipped("there is no tar");
    }
    assert!(accepted > 50 && refused > 20, "{accepted} accepted, {refused} refused");
}

/// The format of a member's header.
#[derive(Clone, Copy, Debug)]
enum Spelling {
    Old,
    Ustar,
    Gnu,
    Pax,
}

#[derive(Clone, Debug)]
struct Spelled {
    spelling: Spelling,
    /// Made unique by its position in the archive.
    name: String,
    data: Vec<u8>,
    /// Runs of data blocks after runs of hole blocks, and the format of the map.
    sparse: Option<(Vec<(u64, u64)>, u8)>,
    uid: u64,
    mtime: (u64, u32),
}

fn spelled() -> impl Strategy<Value = Spelled> {
    let spelling = prop::sample::select(vec![Spelling::Old, Spelling::Ustar, Spelling::Gnu, Spelling::Pax]);
    let name =
        prop_oneof!["[a-z]{1,20}", "[a-z ]{90,110}", "[a-z]{120}/[a-z\u{e4}]{120}", "[a-z]{3}/[a-z.]{4}x/[a-z]{9}"];
    let runs = prop::collection::vec((0_u64..5, 1_u64..4), 0..30);
    let sparse = prop::option::weighted(0.4, (runs, 0_u8..3));
    (
        spelling,
        name,
        prop::collection::vec(any::<u8>(), 0..2000),
        sparse,
        prop::sample::select(vec![0, 1000, 2_097_151, 2_097_152, 4_000_000_000]),
        (1_u64..8_000_000_000, 0_u32..1_000_000_000),
    )
        .prop_map(|(spelling, name, data, sparse, uid, mtime)| Spelled {
            spelling,
            name,
            data,
            sparse,
            uid,
            mtime,
        })
}

/// Appends a member; its name is cut to the length that its format allows.
fn spell(tarball: Tarball, number: usize, member: &Spelled) -> Tarball {
    let (mut name, tail) = (member.name.clone(), format!("-{number}"));
    if matches!(member.spelling, Spelling::Old | Spelling::Ustar) {
        name = name.chars().filter(char::is_ascii).take(90).collect();
    }
    name = name.trim_end_matches('/').to_owned() + &tail;
    let magic = match member.spelling {
        Spelling::Old => OLD,
        Spelling::Ustar | Spelling::Pax => USTAR,
        Spelling::Gnu => GNU,
    };
    let head = Head { magic, uid: member.uid, mtime: member.mtime.0, ..Head::new(b'0', &name) };
    let (runs, stored, size) = layout(member);
    let pairs = |separator: &str| {
        runs.iter().map(|(offset, len)| format!("{offset}{separator}{len}")).collect::<Vec<_>>().join(separator)
    };
    match (member.spelling, &member.sparse) {
        (Spelling::Gnu, Some(_)) => {
            let tarball = tarball.long(b'L', name.as_bytes());
            let head = Head { kind: b'S', size: stored.len() as u64, ..head };
            old_sparse(tarball, &head, &runs, size).data(&stored)
        }
        (Spelling::Pax, Some((_, format))) => {
            let (size, count) = (size.to_string(), runs.len().to_string());
            let mut records: Vec<(&[u8], Vec<u8>)> = vec![];
            let mut data = Vec::new();
            match format {
                0 => {
                    records.push((b"path", name.into_bytes()));
                    records.push((b"GNU.sparse.size", size.into_bytes()));
                    records.push((b"GNU.sparse.numblocks", count.into_bytes()));
                    for (offset, len) in &runs {
                        records.push((b"GNU.sparse.offset", offset.to_string().into_bytes()));
                        records.push((b"GNU.sparse.numbytes", len.to_string().into_bytes()));
                    }
                }
                1 => {
                    records.push((b"GNU.sparse.size", size.into_bytes()));
                    records.push((b"GNU.sparse.numblocks", count.into_bytes()));
                    records.push((b"GNU.sparse.name", name.into_bytes()));
                    records.push((b"GNU.sparse.map", pairs(",").into_bytes()));
                }
                _ => {
                    records.push((b"GNU.sparse.major", b"1".to_vec()));
                    records.push((b"GNU.sparse.minor", b"0".to_vec()));
                    records.push((b"GNU.sparse.name", name.into_bytes()));
                    records.push((b"GNU.sparse.realsize", size.into_bytes()));
                    data = format!("{count}\n{}\n", pairs("\n")).into_bytes();
                    data.resize(data.len().next_multiple_of(512), 0);
                }
            }
            data.extend_from_slice(&stored);
            let records: Vec<(&[u8], &[u8])> = records.iter().map(|(key, value)| (*key, value.as_slice())).collect();
            tarball.pax(&records).entry(&Head { name: b"cut".to_vec(), size: data.len() as u64, ..head }, &data)
        }
        (spelling, _) => {
            let head = Head { size: member.data.len() as u64, ..head };
            match spelling {
                Spelling::Gnu => tarball.long(b'L', name.as_bytes()).entry(&head, &member.data),
                Spelling::Pax => {
                    let mtime = format!("{}.{:09}", member.mtime.0, member.mtime.1);
                    tarball
                        .pax(&[(b"path", name.as_bytes()), (b"mtime", mtime.as_bytes())])
                        .entry(&Head { name: b"cut".to_vec(), mtime: 0, ..head }, &member.data)
                }
                Spelling::Old | Spelling::Ustar => tarball.entry(&head, &member.data),
            }
        }
    }
}

/// Returns the offsets and lengths of a sparse member, their data, and its size. It ends with an empty run, as in GNU
/// tar.
fn layout(member: &Spelled) -> (Vec<(u64, u64)>, Vec<u8>, u64) {
    let (mut runs, mut at, mut stored) = (Vec::new(), 0, Vec::new());
    for (hole, data) in member.sparse.iter().flat_map(|(runs, _)| runs) {
        at += 512 * hole;
        runs.push((at, 512 * data));
        at += 512 * data;
        stored.extend((0..512 * data).map(|n| (n / 100 + hole) as u8 | 1));
    }
    let size = at + 100;
    runs.push((size, 0));
    (runs, stored, size)
}

fn old_sparse(tarball: Tarball, head: &Head, runs: &[(u64, u64)], size: u64) -> Tarball {
    let put = |block: &mut [u8; 512], at: usize, (offset, len): (u64, u64)| {
        block[at..at + 24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
    };
    let (first, rest) = runs.split_at(runs.len().min(4));
    let mut tarball = tarball.changed(head, &[], |block| {
        for (n, run) in first.iter().enumerate() {
            put(block, 386 + 24 * n, *run);
        }
        block[482] = u8::from(!rest.is_empty());
        block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
    });
    for (n, chunk) in rest.chunks(21).enumerate() {
        let mut block = [0; 512];
        for (n, run) in chunk.iter().enumerate() {
            put(&mut block, 24 * n, *run);
        }
        block[504] = u8::from((n + 1) * 21 < rest.len());
        tarball = tarball.raw(&block);
    }
    tarball
}

/// Unpacks archives named on its input into directories that are named there, too; prints nothing on success.
const PYTHON: &str = "
import sys, tarfile
if not hasattr(tarfile, 'tar_filter'):
    sys.exit('SKIPPED')
for line in sys.stdin:
    archive, target, kind = line.split()
    try:
        with tarfile.open(archive, errors='surrogateescape') as tar:
            tar.extractall(target, filter=kind)
    except Exception as error:
        sys.exit(f'{archive}: {error!r}')
";

#[test]
fn each_spelling_means_to_gnu_tar_and_to_python_what_it_means_here() {
    let (ours, judges) = (Scratch::in_memory(), Scratch::in_memory());
    let (folder, _) = judges.root("tree");
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(spelled(), 1..6);
    let (mut trees, mut lines) = (Vec::new(), String::new());
    for number in 0..80 {
        let members = strategy.new_tree(&mut runner).expect("a value").current();
        let archive = members.iter().enumerate().fold(Tarball::new(), |tarball, (n, member)| spell(tarball, n, member));
        let archive = archive.end();
        let (path, result) = ours.unpack(&archive, &Limits::of_volume(1 << 30), Policy::default());
        result.unwrap_or_else(|error| panic!("{error}: {members:#?}"));
        let tree = comparable(snapshot(&path));
        ours.clear();

        let target = folder.join(format!("tar-{number}"));
        fs::create_dir(&target).expect("a directory");
        match gnu_tar(&archive, &target) {
            None => skipped("there is no tar"),
            Some((accepted, said)) => {
                assert!(accepted, "only GNU tar refuses it: {said}, {members:#?}");
                assert_eq!(comparable(snapshot(&target)), tree, "{members:#?}");
            }
        }
        let (file, target) = (folder.join(format!("{number}.tar")), folder.join(format!("python-{number}")));
        fs::write(&file, archive).expect("a file");
        fs::create_dir(&target).expect("a directory");
        let kind = ["tar", "data"][number % 2];
        writeln!(lines, "{} {} {kind}", file.display(), target.display()).expect("a string");
        trees.push((target, tree, members));
    }
    let verdict = run(Command::new("python3").args(["-c", PYTHON]), lines.as_bytes());
    match verdict {
        None => return skipped("there is no python3"),
        Some((false, said)) if said.contains("SKIPPED") => return skipped("this Python has no filters for archives"),
        Some((accepted, said)) => assert!(accepted, "only Python refuses it: {said}"),
    }
    for (target, tree, members) in trees {
        let mut theirs = comparable(snapshot(&target));
        let mut tree = tree;
        for node in theirs.values_mut().chain(tree.values_mut()) {
            // Python's times are floating-point numbers, one of its filters keeps owners, and both filters change
            // modes.
            node.mtime.1 = 0;
            node.owner = (0, 0);
            node.mode = 0;
        }
        assert!(theirs == tree, "{}\n{}\n{members:?}", listing(&theirs), listing(&tree));
    }
}

#[test]
fn what_gnu_tar_and_python_write_is_unpacked_to_what_they_read() {
    let source = Scratch::new();
    let (root, _) = source.root("tree");
    make_everything(&root);
    let canonical = packed(&root);
    let tree = snapshot(&root);
    let gnu = |arguments: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--directory"]).arg(&root).args(arguments).arg(".");
        tar
    };
    let python = |format: &str| {
        let mut python = Command::new("python3");
        let code = "import sys, tarfile\n\
            with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=getattr(tarfile, sys.argv[2])) as tar:\n    \
            tar.add(sys.argv[1], '.')";
        python.args(["-c", code]).arg(&root).arg(format);
        python
    };
    let folder = tempfile::tempdir().expect("a directory");
    let list = folder.path().join("list");
    let incremental = format!("--listed-incremental={}", list.display());
    let bsdtar = |format: &str| {
        let mut tar = Command::new("bsdtar");
        tar.args(["--create", "--file=-", "--format", format, "--directory"]).arg(&root).arg(".");
        tar
    };
    let mut compared = 0;
    for (mut writer, exact) in [
        (gnu(&["--format=posix", "--sparse", "--xattrs"]), true),
        (gnu(&["--format=posix", "--sparse", "--sparse-version=0.0"]), false),
        (gnu(&["--format=posix", "--sparse", "--sparse-version=0.1"]), false),
        (gnu(&["--format=posix"]), false),
        (gnu(&["--format=gnu", "--sparse"]), false),
        (gnu(&["--format=gnu"]), false),
        (gnu(&["--format=oldgnu", "--sparse"]), false),
        (gnu(&["--format=gnu", "--label=monday"]), false),
        (gnu(&["--format=posix", "--label=monday"]), false),
        (gnu(&["--format=gnu", "--sparse", &incremental]), false),
        (gnu(&["--format=posix", "--sparse", &incremental]), false),
        (gnu(&["--format=gnu", "--multi-volume", "--tape-length=1G"]), false),
        (gnu(&["--format=posix", "--blocking-factor=500"]), false),
        (bsdtar("pax"), false),
        (bsdtar("gnutar"), false),
        (python("PAX_FORMAT"), false),
        (python("GNU_FORMAT"), false),
    ] {
        // The list must not exist, so that the archive is a full one.
        let _ = fs::remove_file(&list);
        let Ok(output) = writer.output() else {
            skipped("a program is missing");
            continue;
        };
        assert!(output.status.success(), "{writer:?}: {}", String::from_utf8_lossy(&output.stderr));
        compared += 1;
        let target = Scratch::new();
        let owners = if is_root() { Owners::Keep } else { Owners::Ignore };
        let policy = Policy { owners, set_id: true, devices: true, ..Policy::default() };
        let (path, result) = target.unpack(&output.stdout, &Limits::of_volume(1 << 30), policy);
        result.unwrap_or_else(|error| panic!("{writer:?}: {error}"));
        let found = snapshot(&path);
        for (name, node) in &tree {
            let (mut node, mut found) = (node.clone(), found[name].clone());
            if !exact {
                // GNU's own format has whole seconds, Python rounds, and only bsdtar's archives have attributes.
                node.attributes.clear();
                found.attributes.clear();
                node.mtime = (0, 0);
                found.mtime = (0, 0);
            }
            assert_eq!(found, node, "{writer:?}: {}", name.escape_ascii());
        }
        assert_eq!(found.len(), tree.len(), "{writer:?}");
        if exact {
            assert!(packed(&path) == canonical, "{writer:?}");
        }
    }
    if compared == 0 {
        skipped("there is neither tar nor python3");
    }
}

#[test]
fn what_gnu_tar_takes_and_we_refuse_is_refused_by_a_rule_of_the_readme() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let (ours, theirs) = (Scratch::in_memory(), Scratch::in_memory());
    let mut compared = 0;
    for case in corpus::cases() {
        let (_, result) = ours.unpack(&case.bytes, &Limits::of_volume(1 << 30), Policy::default());
        ours.clear();
        // Tar programs do not know the limits of a volume.
        let Some(error) = result.err().filter(|error| !matches!(error.cause, UnpackCause::OverBudget(_))) else {
            continue;
        };
        let (target, _) = theirs.root("tree");
        let judged = gnu_tar(&case.bytes, &target);
        theirs.clear();
        let Some((taken, _)) = judged else { return skipped("there is no tar") };
        if taken {
            compared += 1;
            assert!(readme.contains(&format!("| {} |", error.cause)), "{}: {}", case.name, error.cause);
        }
    }
    assert!(compared > 20, "{compared}");
}
