//! Attacks by git servers. Packs are made by hand here, since git makes no bad ones; the behaviour tests show that good
//! ones are read as git reads them.

mod packs;
mod server;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::packs::{BLOB, COMMIT, Packer, TAG, TREE};
use self::server::{Daemon, Script, line, sideband};
use super::super::error::{Flaw, Refusal, RemoteError, Surplus};
use super::super::testing::{self, Reply, SHORT, Stub};
use super::super::{Location, Policy, Remote, Repository};

fn repository(url: &str) -> Repository {
    match Location::parse(url) {
        Ok(Location::Git(repository)) => repository,
        other => panic!("{other:?}"),
    }
}

/// Fetches from a daemon with this script. Returns the tar stream or the error.
fn fetched(script: Script, branch: &str, change: impl FnOnce(Policy) -> Policy) -> Result<Vec<u8>, RemoteError> {
    let daemon = Daemon::start(script);
    let remote = testing::remote(change(testing::policy(daemon.port)));
    let url = format!("git://127.0.0.1:{}/x.git{branch}", daemon.port);
    let (stream, result) = tar_of(&remote, &url, &|| Ok(()));
    result.map(|()| stream)
}

/// Returns the bytes that were written, and the result.
fn tar_of(
    remote: &Remote,
    url: &str,
    go_on: &(dyn Fn() -> Result<(), RemoteError> + Sync),
) -> (Vec<u8>, Result<(), RemoteError>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let scratch = tempfile::tempdir().unwrap();
    let mut stream = Vec::new();
    let result = remote.git_as_tar(&repository(url), scratch.path(), &mut stream, go_on);
    (stream, result)
}

/// Fetches a pack whose commit was made last.
fn unpacked(packer: &Packer) -> Result<Vec<u8>, RemoteError> {
    let tip = packer.last();
    fetched(Script::second(&tip, &packer.finish()), "", |policy| policy)
}

/// A commit of one tree.
fn committed(mut packer: Packer, tree: &str) -> Packer {
    packer.commit(tree);
    packer
}

/// A commit of a tree with one entry.
fn with_entry(mode: &str, name: &[u8], kind: u8, content: &[u8]) -> Packer {
    let mut packer = Packer::new();
    let id = packer.object(kind, content);
    let tree = packer.tree(&[(mode, name, &id)]);
    committed(packer, &tree)
}

fn flaw(result: Result<Vec<u8>, RemoteError>) -> Flaw {
    match result {
        Err(RemoteError::Flaw(flaw)) => flaw,
        other => panic!("{:?}", other.map(|_| ())),
    }
}

fn surplus(result: Result<Vec<u8>, RemoteError>) -> Surplus {
    match result {
        Err(RemoteError::TooLarge(surplus)) => surplus,
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// Returns the type, name, mode, link and content of each member.
fn members(stream: &[u8]) -> Vec<(u8, String, u32, String, Vec<u8>)> {
    let mut archive = ::tar::Archive::new(stream);
    let read = |entry: std::io::Result<::tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = entry.header();
        assert_eq!(header.mtime().unwrap(), 1_700_000_000);
        let link = entry.link_name_bytes().map_or_else(String::new, |link| text(&link));
        (header.entry_type().as_byte(), text(&entry.path_bytes()), header.mode().unwrap(), link, content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn member(kind: u8, name: &str, mode: u32, link: &str, content: &[u8]) -> (u8, String, u32, String, Vec<u8>) {
    (kind, name.into(), mode, link.into(), content.into())
}

#[test]
fn a_tree_becomes_a_tar_stream() {
    let mut packer = Packer::new();
    let long = "l".repeat(200);
    let text = packer.object(BLOB, b"text");
    let empty = packer.object(BLOB, b"");
    let link = packer.object(BLOB, b"../../etc/passwd");
    let far = packer.object(BLOB, "t".repeat(300).as_bytes());
    let inner = packer.tree(&[("100755", b"run", &text), ("120000", long.as_bytes(), &far)]);
    let tree = packer.tree(&[
        ("100644", b"a", &text),
        ("40000", b"d", &inner),
        ("100664", b"e", &empty),
        ("120000", b"l", &link),
        ("160000", b"m", &"1".repeat(40)),
    ]);
    let stream = unpacked(&committed(packer, &tree)).unwrap();
    assert_eq!(
        members(&stream),
        [
            member(b'0', "a", 0o644, "", b"text"),
            member(b'5', "d/", 0o755, "", b""),
            member(b'0', "d/run", 0o755, "", b"text"),
            member(b'2', &format!("d/{long}"), 0o777, &"t".repeat(300), b""),
            member(b'0', "e", 0o644, "", b""),
            member(b'2', "l", 0o777, "../../etc/passwd", b""),
            member(b'5', "m/", 0o755, "", b""),
        ]
    );
    assert!(stream.ends_with(&[0; 1024]) && stream.len().is_multiple_of(512));
}

#[test]
fn the_older_protocols_are_spoken_too() {
    for version in [0, 1] {
        let packer = with_entry("100644", b"a", BLOB, b"x");
        let tip = packer.last();
        let script = Script::first(version, &tip, &packer.finish());
        for branch in ["", ":main", ":v1"] {
            let stream = fetched(script.clone(), branch, |policy| policy).unwrap();
            assert_eq!(members(&stream), [member(b'0', "a", 0o644, "", b"x")]);
        }
        assert!(matches!(fetched(script, ":other", |policy| policy), Err(RemoteError::NoBranch)));
    }
}

#[test]
fn a_tag_of_a_tag_leads_to_its_commit_and_nothing_else_does() {
    let tag = |packer: &mut Packer, kind: &str, id: &str| {
        let text = format!("object {id}\ntype {kind}\ntag x\ntagger A <a@b> 1 +0000\n\nx\n");
        packer.object(TAG, text.as_bytes())
    };
    let mut packer = with_entry("100644", b"a", BLOB, b"x");
    let commit = packer.last();
    let inner = tag(&mut packer, "commit", &commit);
    tag(&mut packer, "tag", &inner);
    assert_eq!(members(&unpacked(&packer).unwrap()).len(), 1);

    for kind in [BLOB, TREE] {
        let mut packer = Packer::new();
        let id = packer.object(kind, b"");
        tag(&mut packer, "blob", &id);
        assert_eq!(flaw(unpacked(&packer)), Flaw::NotACommit);
    }
    let mut packer = with_entry("100644", b"a", BLOB, b"x");
    let mut last = packer.last();
    for _ in 0..8 {
        last = tag(&mut packer, "tag", &last);
    }
    assert_eq!(flaw(unpacked(&packer)), Flaw::NotACommit);
}

#[test]
fn deltas_are_applied_whatever_their_order_and_kind() {
    let mut packer = Packer::new();
    let base = b"The quick brown fox jumps over the lazy dog.".repeat(4000);
    // Copies from both ends, with an insertion between them; a size of 0 means 64 KiB.
    let mut ops = vec![0b1001_0000, 4, 3, b'a', b'b', b'c', 0b1000_0001, 4];
    ops.extend([0b1000_0011, 0x10, 0x20]);
    let mut first = base[..4].to_vec();
    first.extend_from_slice(b"abc");
    first.extend_from_slice(&base[4..4 + 0x10000]);
    first.extend_from_slice(&base[0x2010..0x2010 + 0x10000]);
    let second = [&first[..10], b"!"].concat();
    // The second is built on the first, by name, and comes before it.
    let first_id = packs::id(BLOB, &first);
    packer.reference_delta(&first_id, first.len(), second.len(), &[0b1001_0000, 10, 1, b'!']);
    let base_at = packer.at();
    let base_id = packer.object(BLOB, &base);
    packer.offset_delta(base_at, base.len(), first.len(), &ops);
    let second_id = packs::id(BLOB, &second);
    let tree = packer.tree(&[("100644", b"a", &base_id), ("100644", b"b", &first_id), ("100644", b"c", &second_id)]);
    let stream = unpacked(&committed(packer, &tree)).unwrap();
    assert_eq!(
        members(&stream),
        [
            member(b'0', "a", 0o644, "", &base),
            member(b'0', "b", 0o644, "", &first),
            member(b'0', "c", 0o644, "", &second),
        ]
    );
}

#[test]
fn a_delta_that_does_not_fit_its_base_is_refused() {
    for (base_size, size, ops) in [
        (5, 3, &[0b1001_0000, 3][..]),
        (4, 4, &[0b1001_0000, 3]),
        (4, 2, &[0b1001_0000, 3]),
        (4, 5, &[0b1001_0000, 5]),
        (4, 3, &[0b1001_0001, 2, 3]),
        (4, 4, &[0b1000_1000, 0xff]),
        (4, 3, &[5, b'a', b'b', b'c']),
        (4, 3, &[0]),
        (4, 3, &[]),
        (4, 3, &[0b1111_1111, 0, 0]),
        (4, 3, &[3, b'a', b'b', b'c', 0]),
    ] {
        let mut packer = Packer::new();
        let at = packer.at();
        let id = packer.object(BLOB, b"base");
        packer.offset_delta(at, base_size, size, ops);
        let tree = packer.tree(&[("100644", b"a", &id)]);
        assert_eq!(flaw(unpacked(&committed(packer, &tree))), Flaw::Pack, "{base_size} {size} {ops:?}");
    }
}

#[test]
fn a_delta_without_its_base_is_refused() {
    let mut packer = with_entry("100644", b"a", BLOB, b"x");
    let commit = packer.last();
    packer.reference_delta(&"2".repeat(40), 4, 3, &[0b1001_0000, 3]);
    let result = fetched(Script::second(&commit, &packer.finish()), "", |policy| policy);
    assert_eq!(flaw(result), Flaw::Missing);
    for distance in [0, 1, 1 << 40] {
        let mut packer = with_entry("100644", b"a", BLOB, b"x");
        let commit = packer.last();
        packer.distant_delta(distance);
        assert_eq!(flaw(fetched(Script::second(&commit, &packer.finish()), "", |policy| policy)), Flaw::Pack);
    }
}

/// A blob of `size` bytes that is declared as one of another size.
fn declared(size: u64, content: &[u8]) -> Packer {
    let mut packer = Packer::new();
    packer.declared(BLOB, size, content);
    packer
}

#[test]
fn an_object_is_refused_by_its_declared_size_before_it_is_inflated() {
    let fetch = |packer: Packer| {
        fetched(Script::second(&"1".repeat(40), &packer.finish()), "", |policy| Policy { max_bytes: 1 << 20, ..policy })
    };
    // The data cannot even be inflated.
    for size in [(1 << 20) + 1, (16 << 20) + 1, 1 << 40, u64::MAX >> 4] {
        let mut packer = Packer::new();
        packer.raw(BLOB, size, b"no zlib stream");
        assert_eq!(surplus(fetch(packer)), Surplus::Bytes(1 << 20), "{size}");
    }
    assert_eq!(flaw(fetch(declared(3, b"four"))), Flaw::Pack);
    assert_eq!(flaw(fetch(declared(5, b"four"))), Flaw::Pack);
    assert_eq!(flaw(fetch(declared(0, &vec![0; 1 << 20]))), Flaw::Pack);
    for kind in [COMMIT, TREE, TAG] {
        let mut packer = Packer::new();
        packer.raw(kind, (16 << 20) + 1, b"");
        let script = Script::second(&"1".repeat(40), &packer.finish());
        assert_eq!(surplus(fetched(script, "", |policy| policy)), Surplus::Trees);
    }
    let mut packer = Packer::new();
    let at = packer.at();
    packer.object(BLOB, b"base");
    packer.offset_delta(at, 4, 1 << 40, &[0b1001_0000, 3]);
    assert_eq!(surplus(fetch(packer)), Surplus::Bytes(1 << 20));
}

#[test]
fn small_objects_that_inflate_to_too_much_together_are_refused() {
    let mut packer = Packer::new();
    let zeros = vec![0; 15 << 20];
    let mut at = packer.at();
    packer.object(BLOB, &zeros);
    // Each delta copies the whole object before it: 50 bytes of pack for 15 MiB.
    let whole = [0b1111_0000, 0xff, 0xff, 0xef, 1, b'x'];
    let mut size = zeros.len();
    for _ in 0..8 {
        let next = packer.at();
        packer.offset_delta(at, size, 0xef_ffff + 1, &whole);
        (at, size) = (next, 0xef_ffff + 1);
    }
    let script = Script::second(&"1".repeat(40), &packer.finish());
    let result = fetched(script, "", |policy| Policy { max_bytes: 15 << 20, ..policy });
    assert_eq!(surplus(result), Surplus::Bytes(15 << 20));
}

#[test]
fn the_files_of_a_tree_are_counted_together() {
    let mut packer = Packer::new();
    let blob = packer.object(BLOB, &[7; 1000]);
    let tree = packer.tree(&[("100644", b"a", &blob), ("100644", b"b", &blob), ("100644", b"c", &blob)]);
    let packer = committed(packer, &tree);
    let script = Script::second(&packer.last(), &packer.finish());
    let most = |bytes: u64| fetched(script.clone(), "", |policy| Policy { max_bytes: bytes, ..policy });
    assert_eq!(members(&most(3000).unwrap()).len(), 3);
    assert_eq!(surplus(most(2999)), Surplus::Bytes(2999));
}

#[test]
fn a_directory_that_holds_another_many_times_over_is_given_up() {
    let mut packer = Packer::new();
    let blob = packer.object(BLOB, b"");
    let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let mut tree = packer.tree(&[("100644", b"a", &blob)]);
    for _ in 0..12 {
        let entries: Vec<_> = names.iter().map(|name| ("40000", name.as_bytes(), &*tree)).collect();
        tree = packer.tree(&entries);
    }
    let packer = committed(packer, &tree);
    let daemon = Daemon::start(Script::second(&packer.last(), &packer.finish()));
    let remote = testing::remote(testing::policy(daemon.port));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let scratch = tempfile::tempdir().unwrap();
    let url = format!("git://127.0.0.1:{}/x", daemon.port);
    let result = remote.git_as_tar(&repository(&url), scratch.path(), std::io::sink(), &|| Ok(()));
    assert!(matches!(result, Err(RemoteError::TooLarge(Surplus::Entries))), "{result:?}");
}

#[test]
fn too_deep_directories_and_too_long_names_are_refused() {
    let nested = |depth: usize, name: &[u8]| {
        let mut packer = Packer::new();
        let mut tree = packer.tree(&[]);
        for _ in 0..depth {
            tree = packer.tree(&[("40000", name, &tree)]);
        }
        unpacked(&committed(packer, &tree))
    };
    assert_eq!(members(&nested(254, b"d").unwrap()).len(), 254);
    assert_eq!(surplus(nested(255, b"d")), Surplus::Depth);
    assert_eq!(members(&nested(15, &[b'd'; 255]).unwrap()).len(), 15);
    assert_eq!(surplus(nested(16, &[b'd'; 255])), Surplus::Depth);
    assert_eq!(surplus(unpacked(&with_entry("100644", &[b'd'; 256], BLOB, b""))), Surplus::Depth);
}

#[test]
fn a_name_that_leads_elsewhere_is_refused_and_the_stream_has_no_end() {
    for name in [&b""[..], b".", b"..", b".git", b".GIT", b".Git", b"a/b", b"/", b"../x", b"/etc/passwd"] {
        for (mode, kind) in [("100644", BLOB), ("40000", TREE), ("120000", BLOB)] {
            assert_eq!(flaw(unpacked(&with_entry(mode, name, kind, b""))), Flaw::Name, "{name:?}");
        }
    }
    let mut packer = Packer::new();
    let blob = packer.object(BLOB, b"x");
    let tree = packer.tree(&[("100644", b"a", &blob), ("100644", b"b", &blob), ("100644", b"..", &blob)]);
    let packer = committed(packer, &tree);
    let daemon = Daemon::start(Script::second(&packer.last(), &packer.finish()));
    let url = format!("git://127.0.0.1:{}/x", daemon.port);
    let (stream, result) = tar_of(&testing::remote(testing::policy(daemon.port)), &url, &|| Ok(()));
    assert!(matches!(result, Err(RemoteError::Flaw(Flaw::Name))));
    assert!(stream.is_empty(), "what was collected is not written");
}

#[test]
fn what_is_no_tree_is_refused() {
    for (mode, kind, content, why) in [
        ("10644", BLOB, &b"x"[..], Flaw::Tree),
        ("20644", BLOB, b"x", Flaw::Tree),
        ("60644", BLOB, b"x", Flaw::Tree),
        ("0", BLOB, b"x", Flaw::Tree),
        ("", BLOB, b"x", Flaw::Tree),
        ("9", BLOB, b"x", Flaw::Tree),
        ("100644", TREE, b"", Flaw::Tree),
        ("120000", TREE, b"", Flaw::Tree),
        ("40000", BLOB, b"x", Flaw::Pack),
        ("120000", BLOB, b"", Flaw::Link),
        ("120000", BLOB, b"a\0b", Flaw::Link),
        ("120000", BLOB, &[b'a'; 4096], Flaw::Link),
    ] {
        assert_eq!(flaw(unpacked(&with_entry(mode, b"a", kind, content))), why, "{mode} {content:?}");
    }
    for bytes in [&b"x"[..], b"100644 a", b"100644 a\0short", b"100644"] {
        let mut packer = Packer::new();
        let tree = packer.object(TREE, bytes);
        assert_eq!(flaw(unpacked(&committed(packer, &tree))), Flaw::Tree, "{bytes:?}");
    }
    let mut packer = Packer::new();
    packer.object(COMMIT, b"no commit");
    assert_eq!(flaw(unpacked(&packer)), Flaw::Pack);
}

#[test]
fn what_the_tree_names_must_have_been_sent() {
    let missing = "3".repeat(40);
    for mode in ["100644", "40000", "120000"] {
        let mut packer = Packer::new();
        let tree = packer.tree(&[(mode, b"a", &missing)]);
        assert_eq!(flaw(unpacked(&committed(packer, &tree))), Flaw::Missing);
    }
    assert_eq!(flaw(unpacked(&committed(Packer::new(), &missing))), Flaw::Missing);
    let packer = with_entry("100644", b"a", BLOB, b"x");
    assert_eq!(flaw(fetched(Script::second(&missing, &packer.finish()), "", |policy| policy)), Flaw::Missing);
}

#[test]
fn a_pack_that_is_damaged_or_cut_is_refused() {
    let packer = with_entry("100644", b"a", BLOB, b"some content");
    let tip = packer.last();
    let pack = packer.finish();
    let fetch = |pack: &[u8]| fetched(Script::second(&tip, pack), "", |policy| policy);
    assert!(fetch(&pack).is_ok());
    for at in 0..pack.len() {
        let mut damaged = pack.clone();
        damaged[at] ^= 1;
        assert!(fetch(&damaged).is_err(), "byte {at}");
        assert!(matches!(fetch(&pack[..at]), Err(RemoteError::BrokeOff(_))), "cut at {at}");
    }
    let mut many = pack.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(surplus(fetch(&many)), Surplus::Objects);
    let most = pack.len() as u64;
    let result = fetched(Script::second(&tip, &pack), "", |policy| Policy { max_bytes: most - 1, ..policy });
    assert_eq!(surplus(result), Surplus::Bytes(most - 1));
}

#[test]
fn a_damaged_pack_with_the_right_checksum_is_refused_or_gives_the_same_tree() {
    let mut packer = Packer::new();
    let base_at = packer.at();
    let base = packer.object(BLOB, b"base of a delta");
    packer.offset_delta(base_at, 15, 4, &[0b1001_0000, 4]);
    packer.reference_delta(&packs::id(BLOB, b"base"), 4, 5, &[0b1001_0000, 4, 1, b'!']);
    let [short, long] = [&b"base"[..], b"base!"].map(|content| packs::id(BLOB, content));
    let inner = packer.tree(&[("100755", b"b", &long)]);
    let tree = packer.tree(&[("100644", b"a", &base), ("40000", b"d", &inner), ("120000", b"l", &short)]);
    let packer = committed(packer, &tree);
    let (tip, pack) = (packer.last(), packer.finish());
    let fetch = |pack: &[u8]| fetched(Script::second(&tip, pack), "", |policy| policy);
    let whole = fetch(&pack).unwrap();
    let content = pack.len() - 20;
    let (mut refused, mut same) = (0, 0);
    for at in 8..content {
        for change in [1, 0x90] {
            let mut damaged = pack[..content].to_vec();
            damaged[at] ^= change;
            match fetch(&packs::summed(damaged)) {
                Ok(stream) => {
                    assert!(stream == whole, "byte {at} changed by {change}");
                    same += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    // Compressed streams have unused bits.
    assert!(refused > 20 * same, "{refused} {same}");
}

#[test]
fn refs_that_are_not_there_are_told_from_repositories_that_are_not() {
    let packer = with_entry("100644", b"a", BLOB, b"x");
    let tip = packer.last();
    let script = Script::second(&tip, &packer.finish());
    for branch in ["", ":main", ":v1"] {
        assert!(fetched(script.clone(), branch, |policy| policy).is_ok(), "{branch}");
    }
    for branch in [":mai", ":main2", ":HEAD", ":refs/heads/main"] {
        assert!(matches!(fetched(script.clone(), branch, |policy| policy), Err(RemoteError::NoBranch)), "{branch}");
    }
    let refs = |text: &str| Script { refs: text.as_bytes().to_vec(), ..script.clone() };
    assert!(matches!(fetched(refs("0000"), "", |policy| policy), Err(RemoteError::NoHead)));
    let hello = |text: &str| Script { hello: text.as_bytes().to_vec(), ..script.clone() };
    let no = line("ERR access denied or repository not exported: /x");
    for script in [hello(&no), refs(&no)] {
        let error = fetched(script, "", |policy| policy).unwrap_err();
        assert!(matches!(error, RemoteError::NoRepository), "{error:?}");
        assert!(!error.to_string().contains("exported"));
    }
    let sha256 = format!("{}{}0000", line("version 2\n"), line("object-format=sha256\n"));
    assert_eq!(flaw(fetched(hello(&sha256), "", |policy| policy)), Flaw::Sha256);
    assert!(matches!(fetched(hello("0000"), "", |policy| policy), Err(RemoteError::NoHead)));
    let pack = |bytes: Vec<u8>| Script { pack: bytes, ..script.clone() };
    let failed = [line("packfile\n").as_bytes(), &sideband(3, b"fatal: /secret"), b"0000"].concat();
    let error = fetched(pack(failed), "", |policy| policy).unwrap_err();
    assert!(matches!(error, RemoteError::NoRepository), "{error:?}");
}

#[test]
fn words_that_are_none_of_the_protocol_are_refused() {
    let packer = with_entry("100644", b"a", BLOB, b"x");
    let script = Script::second(&packer.last(), &packer.finish());
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "zzzz",
        "0003",
        "0004",
        "0006ab0000",
        "fff8",
        "0000junk",
    ] {
        let hello = Script { hello: text.as_bytes().to_vec(), ..script.clone() };
        let result = fetched(hello, "", |policy| policy);
        let expected = |error: &RemoteError| {
            matches!(error, RemoteError::Flaw(Flaw::Protocol) | RemoteError::BrokeOff(_) | RemoteError::NoHead)
        };
        assert!(result.as_ref().is_err_and(expected), "{text}: {:?}", result.map(|_| ()));
    }
    for text in [line("nonsense\n"), "0000".into(), "0001".into(), line("shallow-info\n") + "0000"] {
        let result = fetched(Script { pack: text.clone().into_bytes(), ..script.clone() }, "", |policy| policy);
        assert_eq!(flaw(result), Flaw::Protocol, "{text}");
    }
    for bytes in [sideband(4, b"x"), line("").into_bytes()] {
        let pack = [line("packfile\n").as_bytes(), &bytes].concat();
        let result = fetched(Script { pack, ..script.clone() }, "", |policy| policy);
        assert_eq!(flaw(result), Flaw::Protocol, "{bytes:?}");
    }
}

#[test]
fn a_daemon_is_as_forbidden_as_any_host() {
    let packer = with_entry("100644", b"a", BLOB, b"x");
    let script = || Script::second(&packer.last(), &packer.finish());
    let refused = |change: fn(Policy) -> Policy| match fetched(script(), "", change) {
        Err(RemoteError::Refused(refusal)) => refusal,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(refused(|policy| Policy { networks: Vec::new(), ..policy }), Refusal::Address);
    assert_eq!(refused(|policy| Policy { ports: vec![9418], ..policy }), Refusal::Port);
    assert_eq!(refused(|policy| Policy { schemes: Vec::new(), ..policy }), Refusal::Scheme);
}

#[test]
fn a_silent_server_is_given_up_and_a_caller_who_stops_is_heard() {
    for hello in [&b""[..], b"000eversion 2\n"] {
        let daemon = Daemon::start(Script { hello: hello.to_vec(), holds: true, ..Script::default() });
        let url = format!("git://127.0.0.1:{}/x", daemon.port);
        let policy = testing::policy(daemon.port);
        let stalling = testing::remote(Policy { stall: SHORT, ..policy.clone() });
        assert!(matches!(tar_of(&stalling, &url, &|| Ok(())).1, Err(RemoteError::Stalled(_))));
        let timed = testing::remote(Policy { time: SHORT, ..policy.clone() });
        assert!(matches!(tar_of(&timed, &url, &|| Ok(())).1, Err(RemoteError::TooSlow(_))));
        let asked = AtomicUsize::new(0);
        let go_on = || match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Ok(()),
            _ => Err(RemoteError::Stopped),
        };
        assert!(matches!(tar_of(&testing::remote(policy), &url, &go_on).1, Err(RemoteError::Stopped)));
    }
}

#[test]
fn a_web_page_is_no_repository_and_a_redirect_leads_to_one_or_nowhere() {
    let typed = |media_type: &str, body: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let head = format!("{}{}{}0000", line("version 2\n"), line("ls-refs\n"), line("fetch=shallow\n"));
    let advertised = typed("application/x-git-upload-pack-advertisement", &head);
    let fetch = |replies: Vec<Vec<u8>>| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stub = runtime.block_on(Stub::start(|_| replies.into_iter().map(Reply::Close).collect()));
        let (_, result) = tar_of(&testing::remote(stub.policy()), &stub.url("/a/x.git:main"), &|| Ok(()));
        (result.unwrap_err(), stub.requests())
    };
    let (error, requests) = fetch(vec![typed("text/html", "<p>").into()]);
    assert!(matches!(error, RemoteError::Flaw(Flaw::NotGit)), "{error:?}");
    assert!(requests[0].starts_with("GET /a/x.git/info/refs?service=git-upload-pack HTTP/1.1\r\n"));
    assert!(requests[0].contains("git-protocol: version=2\r\n"));
    assert!(requests[0].contains("user-agent: git/longshore\r\n"));

    let (error, _) = fetch(vec![b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec()]);
    assert!(matches!(error, RemoteError::Status(_)), "{error:?}");
    let (error, _) = fetch(vec![testing::redirect(301, "/login"), advertised.clone().into()]);
    assert!(matches!(error, RemoteError::Refused(Refusal::Redirect)), "{error:?}");
    let (error, _) = fetch(vec![testing::redirect(301, "http://10.0.0.1/x.git/info/refs")]);
    assert!(matches!(error, RemoteError::Refused(Refusal::Port)), "{error:?}");

    // Later requests go to the target of the first redirect, and are not redirected again.
    let moved = testing::redirect(301, "/b/x.git/info/refs?service=git-upload-pack");
    let (error, requests) = fetch(vec![moved, advertised.into(), testing::redirect(302, "/c")]);
    assert!(matches!(error, RemoteError::Status(status) if status == 302), "{error:?}");
    assert!(requests[2].starts_with("POST /b/x.git/git-upload-pack HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[2].contains("ref-prefix refs/heads/main\n"), "{requests:?}");
}
