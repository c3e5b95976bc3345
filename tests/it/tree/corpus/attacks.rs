//! Archives that aim outside of the tree, exceed a limit, or look different to two readers.

use super::{Case, case};
use crate::tree::tarball::{GNU, Head, Tarball};

pub(crate) fn cases() -> Vec<Case> {
    [escapes(), link_attacks(), special(), smuggling(), budgets()].into_iter().flatten().collect()
}

/// Escapes through a name (CVE-2018-20990, CVE-2026-47753, CVE-2025-4517 and many more).
fn escapes() -> Vec<Case> {
    let pax = |name: &[u8]| Tarball::new().pax(&[(b"path", name)]).file("f", "x").end();
    vec![
        case("up", ".. at the start", Tarball::new().file("../outside/new", "x").end()),
        case("up-in-the-middle", ".. in the middle", Tarball::new().dir("a").file("a/../../outside/new", "x").end()),
        case("up-at-the-end", ".. at the end", Tarball::new().dir("a").dir("a/..").end()),
        case("up-within", ".. that would stay inside", Tarball::new().dir("a").file("a/../b", "x").end()),
        case("up-gnu", ".. in a long name", Tarball::new().long(b'L', b"../outside/new").file("f", "x").end()),
        case("up-pax", ".. in an extended header", pax(b"../outside/new")),
        case("up-prefix", ".. in the prefix of ustar", {
            let head = Head { size: 1, ..Head::new(b'0', "outside/new") };
            Tarball::new().changed(&head, b"x", |block| block[345..347].copy_from_slice(b"..")).end()
        }),
        case("up-sparse", ".. in the name of a sparse file", {
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", b"../outside/new"),
                    (b"GNU.sparse.realsize", b"0"),
                ])
                .file("s", [b"0\n".as_slice(), &[0; 510]].concat())
                .end()
        }),
        case("absolute", "an absolute name", Tarball::new().file("/tmp/longshore-was-here", "x").end()),
        case("absolute-pax", "an absolute name in an extended header", pax(b"/tmp/longshore-was-here")),
        case("absolute-twice", "two slashes at the start", Tarball::new().file("//tmp/longshore-was-here", "x").end()),
        case("empty-name", "no name", Tarball::new().file("", "x").end()),
        case("empty-name-pax", "no name in an extended header", pax(b"")),
        case("zero-byte", "a name that ends early for those who use C", pax(b"f\0/../../outside/new")),
        case("zero-byte-gnu", "the same in a long name", Tarball::new().long(b'L', b"f\0x").file("f", "x").end()),
        case("root-as-file", "the root of the tree as a file", Tarball::new().file(".", "x").end()),
        case("root-as-link", "the root of the tree as a link", Tarball::new().symlink("./", "../outside").end()),
        case("root-as-old-file", "the root as a file of the oldest kind, with data", {
            Tarball::new().entry(&Head { size: 1, ..Head::new(0, "./") }, b"x").end()
        }),
    ]
}

/// Escapes through a link (CVE-2021-38511, CVE-2026-33056, CVE-2026-23745, CVE-2026-26960, CVE-2025-45582,
/// CVE-2026-48749).
fn link_attacks() -> Vec<Case> {
    vec![
        case("through-link", "a link to outside, and a file through it", {
            Tarball::new().symlink("l", "../outside").file("l/new", "x").end()
        }),
        case("through-link-to-inside", "a link to inside is not gone through either", {
            Tarball::new().dir("d").symlink("l", "d").file("l/new", "x").end()
        }),
        case("through-link-deep", "a link further up in the name", {
            Tarball::new().symlink("l", "..").file("l/outside/a/b/new", "x").end()
        }),
        case("through-link-chain", "links to links", {
            Tarball::new().dir("a").symlink("a/l", "../..").symlink("l", "a/l").symlink("l/outside/link", "x").end()
        }),
        case("over-link", "a file where a link to outside is", {
            Tarball::new().symlink("l", "../outside/secret").file("l", "x").end()
        }),
        case("directory-over-link-to-outside", "a directory where a link to outside is: its mode would be changed", {
            let open = Head { mode: 0o777, ..Head::new(b'5', "l") };
            Tarball::new().symlink("l", "../outside").entry(&open, &[]).file("l/new", "x").end()
        }),
        case("directory-swapped-for-link", "a directory that was open becomes a link", {
            Tarball::new().dir("d").file("d/f", "1").hard("f", "d/f").symlink("d", "../outside").end()
        }),
        case("empty-directory-swapped-for-link", "the same when nothing is in it", {
            Tarball::new().dir("d").symlink("d", "../outside").file("d/new", "x").end()
        }),
        case("hard-absolute", "a hard link to an absolute name", Tarball::new().hard("l", "/etc/passwd").end()),
        case("hard-up", "a hard link to a name with ..", Tarball::new().hard("l", "../outside/secret").end()),
        case("hard-up-pax", "the same in an extended header", {
            Tarball::new().pax(&[(b"linkpath", b"../outside/secret")]).hard("l", "f").end()
        }),
        case("hard-through-link", "a hard link through a link to outside", {
            Tarball::new().symlink("d", "../outside").hard("l", "d/secret").end()
        }),
        case("hard-links-to-link", "two names of a symbolic link", {
            Tarball::new().symlink("s", "../outside/secret").hard("l", "s").end()
        }),
        case("hard-to-link-through", "a file through a hard link to a symbolic link", {
            Tarball::new().symlink("s", "../outside").hard("l", "s").file("l/new", "x").end()
        }),
        case("hard-to-link", "a hard link to a symbolic link, and a file written over it", {
            Tarball::new().symlink("s", "../outside/secret").hard("l", "s").file("l", "x").end()
        }),
        case("hard-to-directory", "a hard link to a directory", Tarball::new().dir("d").hard("l", "d").end()),
        case("hard-to-root", "a hard link to the root", Tarball::new().hard("l", ".").end()),
        case("hard-to-pipe", "a hard link to a pipe", {
            Tarball::new().entry(&Head::new(b'6', "p"), &[]).hard("l", "p").end()
        }),
        case("hard-to-later", "a hard link to what comes later", Tarball::new().hard("l", "f").file("f", "1").end()),
        case("hard-mode", "a hard link whose member has another mode", {
            let head = Head { mode: 0o4777, link: b"f".to_vec(), ..Head::new(b'1', "l") };
            Tarball::new().file("f", "1").entry(&head, &[]).end()
        }),
        case("hard-empty", "a hard link to no name", Tarball::new().hard("l", "").end()),
        case("symlink-empty", "a symbolic link to no name", Tarball::new().symlink("l", "").end()),
        case("symlink-zero-byte", "a target that ends early for those who use C", {
            Tarball::new().pax(&[(b"linkpath", b"a\0b")]).symlink("l", "x").end()
        }),
        case("over-full-directory", "a link in the place of a directory with something in it", {
            Tarball::new().file("d/f", "1").symlink("d", "../outside").end()
        }),
        case("through-file", "a name that goes through a file", Tarball::new().file("f", "1").file("f/g", "2").end()),
    ]
}

fn special() -> Vec<Case> {
    let device = |kind: u8| Head { device: (1, 3), ..Head::new(kind, "null") };
    vec![
        case("character-device", "a device", Tarball::new().entry(&device(b'3'), &[]).end()),
        case("block-device", "a disk", Tarball::new().entry(&device(b'4'), &[]).end()),
        case("attribute-trusted", "attributes of spaces that are not kept", {
            let records: [(&[u8], &[u8]); 4] = [
                (b"SCHILY.xattr.trusted.overlay.redirect", b"/"),
                (b"SCHILY.xattr.security.selinux", b"x"),
                (b"SCHILY.xattr.security.capability", b"x"),
                (b"SCHILY.acl.access", b"user::rwx"),
            ];
            Tarball::new().pax(&records).file("f", "1").end()
        }),
        case("attribute-on-link", "an attribute of a symbolic link would be one of its target", {
            Tarball::new().pax(&[(b"SCHILY.xattr.user.a", b"x")]).symlink("l", "../outside/secret").end()
        }),
        case("attribute-twice", "one attribute with two values", {
            Tarball::new().pax(&[(b"SCHILY.xattr.user.a", b"1"), (b"SCHILY.xattr.user.a", b"2")]).file("f", "").end()
        }),
        case("unknown-type", "a member of a type that nobody knows", {
            Tarball::new().entry(&Head { size: 1, ..Head::new(b'Z', "f") }, b"x").end()
        }),
        case("multi-volume", "a file that began in another archive", {
            Tarball::new().entry(&Head { magic: GNU, size: 1, ..Head::new(b'M', "f") }, b"x").end()
        }),
        case("multi-volume-pax", "the same in GNU's other format", {
            Tarball::new().global(&[(b"GNU.volume.filename", b"f"), (b"GNU.volume.offset", b"9")]).file("f", "x").end()
        }),
    ]
}

/// Archives that two readers see differently (CVE-2025-62518, CVE-2026-33055, RUSTSEC-2026-0066, -0112, -0145).
fn smuggling() -> Vec<Case> {
    let hidden = Tarball::new().file("hidden", "x").end();
    let head = |name: &str, size: usize| Head { size: size as u64, ..Head::new(b'0', name) };
    let sized = |size: &str, head: &Head| {
        Tarball::new().pax(&[(b"size", size.as_bytes())]).entry(head, &hidden).file("after", "1").end()
    };
    let inner = hidden.len().to_string();
    vec![
        case("nested", "an archive in an archive is data", Tarball::new().file("f.tar", &hidden).end()),
        case("size-zero-in-header", "an archive in a file that has no size for those who overlook the pax header", {
            sized(&inner, &head("f.tar", 0))
        }),
        case("size-zero-in-pax", "the other way round", sized("0", &head("f.tar", hidden.len()))),
        case(
            "size-larger-in-pax",
            "what follows would be data of the first",
            sized("4096", &head("f.tar", hidden.len())),
        ),
        case("size-same-in-pax", "both say the same", sized(&inner, &head("f.tar", hidden.len()))),
        case("size-saturated", "a size that does not fit into the header", {
            let full = Head { size: 0o77_777_777_777, ..Head::new(b'0', "f") };
            Tarball::new().pax(&[(b"size", b"8589934592")]).entry(&full, b"x").end()
        }),
        case("size-huge", "a size of 2^63 in an extended header", sized("9223372036854775808", &head("f", 0))),
        case("size-negative", "a negative size in an extended header", sized("-1", &head("f", 0))),
        case("size-twice", "two sizes in one extended header", {
            Tarball::new().pax(&[(b"size", b"1"), (b"size", b"2048")]).file("f", "x").end()
        }),
        case("size-global", "a size for all members", Tarball::new().global(&[(b"size", b"0")]).file("f", "x").end()),
        case("name-global", "one name for all members", Tarball::new().global(&[(b"path", b"f")]).file("g", "x").end()),
        case("attribute-global", "an attribute for all members", {
            Tarball::new().global(&[(b"SCHILY.xattr.user.a", b"x")]).file("f", "").end()
        }),
        case("link-with-data", "a hard link with data, which some skip and some read as headers", {
            let link = Head { link: b"a".to_vec(), kind: b'1', ..head("l", hidden.len()) };
            Tarball::new().file("a", "1").entry(&link, &hidden).end()
        }),
        case("symlink-with-data", "a symbolic link with data", {
            let link = Head { link: b"a".to_vec(), kind: b'2', ..head("l", hidden.len()) };
            Tarball::new().entry(&link, &hidden).end()
        }),
        case("label-with-data", "a label with data", {
            Tarball::new().entry(&Head { magic: GNU, ..Head { kind: b'V', ..head("l", hidden.len()) } }, &hidden).end()
        }),
        case("pipe-with-data", "a pipe with a size: GNU tar extracts what follows, and does not list it", {
            Tarball::new().entry(&Head { kind: b'6', ..head("p", hidden.len()) }, &hidden).end()
        }),
        case("number-after-zero-byte", "a size behind a zero byte, over which GNU tar passes", {
            let size = |block: &mut [u8; 512]| block[124..136].copy_from_slice(b"\x0000000002000");
            Tarball::new().changed(&Head::new(b'0', "f"), &hidden, size).end()
        }),
        case("directory-with-data", "a directory with data: its size means nothing, and what follows are members", {
            Tarball::new().entry(&Head { kind: b'5', mode: 0o755, ..head("d", hidden.len()) }, &hidden).end()
        }),
        case("old-directory-with-data", "a file of the oldest kind, with a slash and data", {
            Tarball::new().entry(&Head { kind: 0, ..head("d/", hidden.len()) }, &hidden).end()
        }),
        case("file-with-slash", "a file, a directory by its name", Tarball::new().file("f/", &hidden).end()),
        case("link-with-slash", "a link, a directory by its name", Tarball::new().symlink("l/", "a").end()),
        case("two-names", "a long name and one in an extended header", {
            Tarball::new().long(b'L', b"a").pax(&[(b"path", b"b")]).file("c", "x").end()
        }),
        case("name-twice", "two names in one extended header", {
            Tarball::new().pax(&[(b"path", b"a"), (b"path", b"b")]).file("c", "x").end()
        }),
        case("two-long-names", "two long names", Tarball::new().long(b'L', b"a").long(b'L', b"b").file("c", "x").end()),
        case("two-pax-headers", "two extended headers", {
            Tarball::new().pax(&[(b"path", b"a")]).pax(&[(b"size", b"1")]).file("c", "x").end()
        }),
        case("two-links", "two targets", {
            Tarball::new().long(b'K', b"a").pax(&[(b"linkpath", b"b")]).symlink("l", "c").end()
        }),
        case("global-between", "a global header between an extended header and its member", {
            Tarball::new().pax(&[(b"path", b"a")]).global(&[(b"comment", b"c")]).file("b", "x").end()
        }),
        case("unpadded-runs", "runs of a sparse file that some pad to blocks", {
            let records: [(&[u8], &[u8]); 3] = [
                (b"GNU.sparse.size", b"8192"),
                (b"GNU.sparse.numblocks", b"3"),
                (b"GNU.sparse.map", b"0,100,4096,412,8192,0"),
            ];
            Tarball::new().pax(&records).file("s", [1; 512]).end()
        }),
    ]
}

fn budgets() -> Vec<Case> {
    let promised = |size: u64, kind: u8| Head { size, magic: GNU, ..Head::new(kind, "f") };
    let deep = |depth: usize| vec!["d"; depth].join("/");
    let hole = |size: &str| {
        let map = format!("{size},0");
        let records: [(&[u8], &[u8]); 3] = [
            (b"GNU.sparse.size", size.as_bytes()),
            (b"GNU.sparse.numblocks", b"1"),
            (b"GNU.sparse.map", map.as_bytes()),
        ];
        Tarball::new().pax(&records).file("s", "")
    };
    vec![
        case("deep", "as deep as is allowed", Tarball::new().file(deep(16), "x").end()),
        case("too-deep", "deeper", Tarball::new().file(deep(17), "x").end()),
        case(
            "members",
            "as many as are allowed",
            (0..64).fold(Tarball::new(), |t, n| t.file(format!("{n}"), "")).end(),
        ),
        case("too-many-members", "one more", (0..65).fold(Tarball::new(), |t, n| t.file(format!("{n}"), "")).end()),
        case(
            "too-many-replaced",
            "one more, all of one name",
            (0..65).fold(Tarball::new(), |t, _| t.file("f", "")).end(),
        ),
        case("too-many-implied", "directories that no member describes count too", {
            (0..5).fold(Tarball::new(), |t, n| t.file(format!("{n}/{}", deep(14)), "")).end()
        }),
        case("too-many-globals", "global headers count", {
            (0..65).fold(Tarball::new(), |t, _| t.global(&[(b"comment", b"c")])).end()
        }),
        case("too-large", "a file that promises more than the volume holds", {
            Tarball::new().entry(&promised((192 << 10) + 1, b'0'), b"x").end()
        }),
        case("too-many-directories", "each takes a block", {
            (0..60).fold(Tarball::new(), |tarball, n| tarball.dir(format!("d{n}"))).end()
        }),
        case("too-many-attributes", "each file's attributes take a block", {
            let record: [(&[u8], &[u8]); 1] = [(b"SCHILY.xattr.user.a", &[b'v'; 110])];
            (0..60).fold(Tarball::new(), |tarball, n| tarball.pax(&record).file(format!("f{n}"), "")).end()
        }),
        case("hole", "a hole as large as is allowed", hole("16777216").end()),
        case("too-large-hole", "a larger one", hole("16777217").end()),
        case("too-large-holes", "two that are too large together", hole("16777216").raw(&hole("1").bytes).end()),
        case(
            "component",
            "a component of 255 bytes",
            Tarball::new().pax(&[(b"path", &[b'c'; 255])]).file("f", "x").end(),
        ),
        case("component-too-long", "one more", Tarball::new().pax(&[(b"path", &[b'c'; 256])]).file("f", "x").end()),
        case("name-too-long", "a name longer than is allowed", {
            Tarball::new().pax(&[(b"path", "n/".repeat(600).as_bytes())]).dir("d").end()
        }),
        case(
            "long-name-of-1-gib",
            "a long name that is not there",
            Tarball::new().entry(&promised(1 << 30, b'L'), b"x").end(),
        ),
        case(
            "long-link-of-1-gib",
            "a long link that is not there",
            Tarball::new().entry(&promised(1 << 30, b'K'), b"x").end(),
        ),
        case(
            "pax-of-1-gib",
            "an extended header that is not there",
            Tarball::new().entry(&promised(1 << 30, b'x'), b"x").end(),
        ),
        case("global-of-1-gib", "a global one", Tarball::new().entry(&promised(1 << 30, b'g'), b"x").end()),
        case("target-too-long", "a long target", Tarball::new().long(b'K', &[b't'; 1100]).symlink("l", "x").end()),
        case("target-too-long-pax", "a long target in an extended header", {
            Tarball::new().pax(&[(b"linkpath", &[b't'; 1025])]).symlink("l", "x").end()
        }),
        case("attributes-too-large", "attributes of more bytes than are allowed", {
            Tarball::new().pax(&[(b"SCHILY.xattr.user.a", &[b'x'; 5000])]).file("f", "").end()
        }),
        case("attributes-too-many", "very many attributes", {
            let names: Vec<_> = (0..1000).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
            let records: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), b"".as_slice())).collect();
            Tarball::new().pax(&records).file("f", "").end()
        }),
        case("uid-that-means-none", "the owner that chown takes for no change", {
            Tarball::new().entry(&Head { uid: u64::from(u32::MAX), ..Head::new(b'0', "f") }, &[]).end()
        }),
        case("uid-too-large", "an owner that would be another one in 32 bits", {
            Tarball::new().pax(&[(b"uid", b"4294967296")]).file("f", "").end()
        }),
        case("sparse-count", "a map of more runs than are allowed", {
            let map = (0..65).map(|n| format!("{},0", n * 512)).collect::<Vec<_>>().join(",");
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.size", b"99999"),
                    (b"GNU.sparse.numblocks", b"65"),
                    (b"GNU.sparse.map", map.as_bytes()),
                ])
                .file("s", "")
                .end()
        }),
    ]
}
