//! Unusual archives of honest programs, old and new.

use super::{Case, case};
use crate::tree::tarball::{GNU, Head, OLD, Tarball};

pub(crate) fn cases() -> Vec<Case> {
    [names(), writers(), metadata(), replacing(), sparse(), links()].into_iter().flatten().collect()
}

fn names() -> Vec<Case> {
    let long = format!("{}/{}/file", "d".repeat(120), "e".repeat(120));
    let plain = Tarball::new().dir("d/").file("d/file", "data").symlink("d/link", "file").hard("d/hard", "d/file");
    vec![
        case("empty", "no members at all", Tarball::new().end()),
        case("plain", "one of each common type", plain.clone().end()),
        case("record-padding", "filled with zeros to 10 KiB, as GNU tar does", {
            let mut bytes = plain.end();
            bytes.resize(10 << 10, 0);
            bytes
        }),
        case(
            "hyper-client",
            "as the Hyper.sh client writes a directory: '.' first, no slashes after directories",
            Tarball::new()
                .dir(".")
                .symlink("abs", "/etc/passwd")
                .dir("d")
                .entry(&Head { mode: 0o4755, size: 3, ..Head::new(b'0', "d/tool") }, b"elf")
                .entry(&Head::new(b'6', "pipe"), &[])
                .end(),
        ),
        case("leading-dot", "names that start with ./", Tarball::new().dir("./").dir("./a/").file("./a/b", "1").end()),
        case("slashes", "slashes and dots in the middle", Tarball::new().file("a//b/./c", "1").dir("a/./").end()),
        case("implied", "directories that no member describes", Tarball::new().file("a/b/c", "1").end()),
        case("ustar-prefix", "a name in two fields", {
            let head = Head { size: 1, ..Head::new(b'0', "name") };
            let prefix = |block: &mut [u8; 512]| block[345..351].copy_from_slice(b"prefix");
            Tarball::new().changed(&head, b"1", prefix).end()
        }),
        case("full-name-field", "a name of exactly 100 bytes", Tarball::new().file("n".repeat(100), "1").end()),
        case("gnu-name", "a long name of GNU tar", Tarball::new().long(b'L', long.as_bytes()).file("cut", "1").end()),
        case(
            "gnu-link",
            "a long name and a long link target of GNU tar",
            Tarball::new()
                .long(b'K', "t".repeat(300).as_bytes())
                .long(b'L', "l".repeat(200).as_bytes())
                .symlink("cut", "cut")
                .end(),
        ),
        case("pax-name", "a long name in an extended header", {
            Tarball::new().pax(&[(b"path", long.as_bytes())]).file("cut", "1").end()
        }),
        case("pax-link", "a long link target in an extended header", {
            Tarball::new().pax(&[(b"linkpath", "t".repeat(300).as_bytes())]).symlink("l", "cut").end()
        }),
        case("not-utf8", "names that are no UTF-8", {
            let link = |tarball: Tarball| tarball.symlink("l", b"\xfe\xff");
            link(Tarball::new().file(b"\xff\xe4", "1").pax(&[(b"path", b"\xfd/\xfc")]).file("cut", "2")).end()
        }),
        case("odd-names", "names with spaces, quotes, line ends, backslashes, stars", {
            Tarball::new().file(" ", "1").file("a\nb", "2").file("c\\d", "3").file("\"'*?[", "4").file("...", "5").end()
        }),
        case("old-directory", "before ustar, a directory was a file with a slash", {
            let old = |head: Head| Head { magic: OLD, ..head };
            Tarball::new()
                .entry(&old(Head { mode: 0o700, ..Head::new(0, "d/") }), &[])
                .entry(&old(Head { size: 1, ..Head::new(0, "d/f") }), b"1")
                .end()
        }),
        case("contiguous", "a file of type 7", {
            Tarball::new().entry(&Head { size: 1, ..Head::new(b'7', "f") }, b"1").end()
        }),
        case("closed-directory", "a directory without rights, and things in it afterwards", {
            let closed = Head { mode: 0, ..Head::new(b'5', "d") };
            // A 65th directory makes it close the descriptor of the first.
            let between = (0..20).fold(Tarball::new().entry(&closed, &[]), |tarball, n| {
                tarball.dir(format!("a{n}/b")).dir(format!("a{n}/c"))
            });
            between.file("d/sub/file", "1").entry(&Head { mode: 0o555, ..Head::new(b'5', "d") }, &[]).end()
        }),
    ]
}

/// Archives as particular programs write them.
fn writers() -> Vec<Case> {
    vec![
        case("directory-with-size", "a directory whose size means nothing", {
            Tarball::new().entry(&Head { size: 255, ..Head::new(b'5', "d/") }, &[]).file("d/f", "abc").end()
        }),
        case("label", "a label in GNU's format", {
            Tarball::new().entry(&Head { magic: GNU, mode: 0, ..Head::new(b'V', "monday") }, &[]).file("f", "abc").end()
        }),
        case("label-pax", "a label in POSIX's format", {
            Tarball::new().global(&[(b"GNU.volume.label", b"monday")]).file("f", "abc").end()
        }),
        case("global-of-star", "what star says of itself", {
            let said: [(&[u8], &[u8]); 2] = [(b"SCHILY.archtype", b"exustar"), (b"SCHILY.volhdr.blocksize", b"20")];
            Tarball::new().global(&said).file("f", "abc").end()
        }),
        case("bare-version", "ustar without its version, and numbers with spaces, as Maven's archiver writes", {
            let head = Head { magic: *b"ustar\0\0\0", size: 3, ..Head::new(b'0', "NOTICE.txt") };
            let spaced = |block: &mut [u8; 512]| {
                block[100..108].copy_from_slice(b"   644 \0");
                block[124..136].copy_from_slice(b"          3 ");
                block[345] = b'p';
            };
            Tarball::new().changed(&head, b"abc", spaced).end()
        }),
        case("incremental", "a directory with a list of what was in it, as GNU tar has it", {
            let list = b"Yf\0Dsub\0\0";
            let head = Head { magic: GNU, mode: 0o755, size: list.len() as u64, ..Head::new(b'D', "d/") };
            Tarball::new().entry(&head, list).file("d/f", "abc").end()
        }),
        case("extended-of-solaris", "an extended header of Solaris", {
            let records = crate::tree::tarball::records(&[(b"path", b"long")]);
            Tarball::new().extension(b'X', "x", &records).file("cut", "abc").end()
        }),
    ]
}

fn metadata() -> Vec<Case> {
    let base_256 = |at: usize, value: &'static [u8]| {
        move |block: &mut [u8; 512]| block[at..at + value.len()].copy_from_slice(value)
    };
    vec![
        case("signed-checksum", "a checksum of signed bytes", {
            let mut block = Head::new(b'0', b"\xff\xfe").block();
            let sum: i32 = block
                .iter()
                .enumerate()
                .map(
                    |(at, byte)| {
                        if (148..156).contains(&at) { i32::from(b' ') } else { i32::from(byte.cast_signed()) }
                    },
                )
                .sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            Tarball::new().raw(&block).end()
        }),
        case("time-base-256", "a time before 1970, as GNU tar has it", {
            let head = Head { magic: GNU, ..Head::new(b'0', "f") };
            Tarball::new().changed(&head, &[], base_256(136, &[0xff; 12])).end()
        }),
        case("time-pax", "times with fractions, and before 1970", {
            Tarball::new()
                .pax(&[(b"mtime", b"1600000000.123456789")])
                .file("late", "")
                .pax(&[(b"mtime", b"-1.5")])
                .file("early", "")
                .pax(&[(b"mtime", b"1500000000.25")])
                .dir("d")
                .file("d/f", "")
                .end()
        }),
        case("ids-base-256", "owners beyond 21 bits", {
            Tarball::new().entry(&Head { uid: 3_000_000_000, gid: 4_000_000_000, ..Head::new(b'0', "f") }, &[]).end()
        }),
        case("ids-pax", "owners in an extended header", {
            Tarball::new()
                .pax(&[(b"uid", b"3000000000"), (b"gid", b"4000000000"), (b"uname", b"x")])
                .file("f", "")
                .end()
        }),
        case("global-comment", "a comment for all, as git archive writes it", {
            Tarball::new().global(&[(b"comment", b"7d3e2a9f")]).file("f", "1").end()
        }),
        case("global-time", "a time for all, changed, overruled, and ended", {
            Tarball::new()
                .global(&[(b"mtime", b"1000000000")])
                .file("a", "")
                .global(&[(b"mtime", b"1100000000")])
                .pax(&[(b"mtime", b"1200000000")])
                .file("b", "")
                .file("c", "")
                .global(&[(b"mtime", b"")])
                .file("d", "")
                .end()
        }),
        case("set-id", "set-user-ID, set-group-ID and sticky", {
            Tarball::new()
                .entry(&Head { mode: 0o6755, ..Head::new(b'0', "f") }, &[])
                .entry(&Head { mode: 0o3777, ..Head::new(b'5', "d") }, &[])
                .end()
        }),
        case("modes", "modes from none to all, and one with the type in it", {
            [0, 0o200, 0o444, 0o666, 0o777, 0o100_640]
                .into_iter()
                .fold(Tarball::new(), |tarball, mode| {
                    tarball.entry(&Head { mode, ..Head::new(b'0', format!("f{mode:o}")) }, &[])
                })
                .end()
        }),
        case("blank-numbers", "fields of spaces and zero bytes", {
            Tarball::new()
                .changed(&Head::new(b'0', "f"), &[], |block| {
                    block[108..116].fill(b' ');
                    block[116..124].fill(0);
                    block[124..136].fill(0);
                })
                .end()
        }),
        case("unread-records", "records that mean nothing here", {
            let records: [(&[u8], &[u8]); 4] =
                [(b"atime", b"1"), (b"SCHILY.dev", b"2"), (b"LIBARCHIVE.creationtime", b"3"), (b"a.b", b"\n\0=")];
            Tarball::new().pax(&records).file("f", "1").end()
        }),
    ]
}

fn replacing() -> Vec<Case> {
    vec![
        case("file-over-file", "the later one stays", Tarball::new().file("f", "first").file("f", "second").end()),
        case("file-over-hard-link", "a later file does not change the other name of the first", {
            Tarball::new().file("a", "first").hard("b", "a").file("b", "second").end()
        }),
        case("link-over-file", "a symbolic link takes the place of a file", {
            Tarball::new().file("f", "1").symlink("f", "elsewhere").end()
        }),
        case("file-over-link", "a file takes the place of a link, not of its target", {
            Tarball::new().file("target", "1").symlink("l", "target").file("l", "2").end()
        }),
        case("directory-over-directory", "what was in it stays, its mode is the later one", {
            let closed = Head { mode: 0o700, ..Head::new(b'5', "d") };
            Tarball::new().dir("d").file("d/f", "1").entry(&closed, &[]).file("d/g", "2").end()
        }),
        case("directory-over-file", "a directory takes the place of a file", {
            Tarball::new().file("d", "1").dir("d").file("d/f", "2").end()
        }),
        case("directory-over-link", "a directory takes the place of a link, and is not what it points to", {
            Tarball::new().dir("real").symlink("d", "real").dir("d").file("d/f", "1").end()
        }),
        case("file-over-empty-directory", "a file takes the place of an empty directory", {
            Tarball::new().dir("d").file("d", "1").end()
        }),
        case("file-over-emptied-directory", "also of one that was open, and back", {
            Tarball::new().dir("d/e").file("d/e", "1").dir("d/e").file("d/e/f", "2").end()
        }),
    ]
}

fn sparse() -> Vec<Case> {
    let (a, b) = (vec![b'a'; 512], vec![b'b'; 512]);
    let data = [a, b].concat();
    let old = |extents: &'static [(u64, u64)], extended: bool, size: u64| {
        move |block: &mut [u8; 512]| {
            for (n, (offset, len)) in extents.iter().enumerate() {
                let at = 386 + 24 * n;
                block[at..at + 24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
            }
            block[482] = u8::from(extended);
            block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        }
    };
    let head = Head { magic: GNU, size: 1024, ..Head::new(b'S', "s") };
    let map = |text: &str| {
        let mut map = text.as_bytes().to_vec();
        map.resize(512, 0);
        map
    };
    vec![
        case("gnu-sparse", "holes in the old GNU format", {
            let map = old(&[(4096, 512), (12288, 512), (20000, 0)], false, 20000);
            Tarball::new().changed(&head, &data, map).file("after", "1").end()
        }),
        case("gnu-sparse-long", "a map that goes on in another block", {
            let mut more = [0; 512];
            let first = old(&[(0, 512), (4096, 0), (4096, 0), (8192, 0)], true, 16384);
            more[..24].copy_from_slice(format!("{:011o}\0{:011o}\0", 12288, 512).as_bytes());
            more[24..48].copy_from_slice(format!("{:011o}\0{:011o}\0", 16384, 0).as_bytes());
            let mut block = head.block();
            first(&mut block);
            crate::tree::tarball::seal(&mut block);
            Tarball::new().raw(&block).raw(&more).data(&data).file("after", "1").end()
        }),
        case("pax-sparse-0.0", "holes in GNU's first pax format", {
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.size", b"20000"),
                    (b"GNU.sparse.numblocks", b"3"),
                    (b"GNU.sparse.offset", b"4096"),
                    (b"GNU.sparse.numbytes", b"512"),
                    (b"GNU.sparse.offset", b"12288"),
                    (b"GNU.sparse.numbytes", b"512"),
                    (b"GNU.sparse.offset", b"20000"),
                    (b"GNU.sparse.numbytes", b"0"),
                ])
                .file("s", &data)
                .file("after", "1")
                .end()
        }),
        case("pax-sparse-0.1", "holes in GNU's second pax format", {
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.size", b"20000"),
                    (b"GNU.sparse.numblocks", b"3"),
                    (b"GNU.sparse.name", b"s"),
                    (b"GNU.sparse.map", b"4096,512,12288,512,20000,0"),
                ])
                .file("GNUSparseFile.1/s", &data)
                .file("after", "1")
                .end()
        }),
        case("pax-sparse-1.0", "holes in GNU's third pax format", {
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", b"s"),
                    (b"GNU.sparse.realsize", b"20000"),
                ])
                .file("GNUSparseFile.1/s", [map("3\n4096\n512\n12288\n512\n20000\n0\n"), data].concat())
                .file("after", "1")
                .end()
        }),
        case("pax-sparse-hole", "a file that is one hole", {
            Tarball::new()
                .pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", b"s"),
                    (b"GNU.sparse.realsize", b"1000000"),
                ])
                .file("GNUSparseFile.1/s", map("1\n1000000\n0\n"))
                .end()
        }),
    ]
}

fn links() -> Vec<Case> {
    vec![
        case("hard-links", "one file with three names", {
            Tarball::new().file("a", "1").hard("d/b", "a").hard("c", "./d/b").end()
        }),
        case("hard-link-to-itself", "what GNU tar writes when it is told of a file twice", {
            Tarball::new().file("a", "1").hard("a", "a").end()
        }),
        case("hard-link-over-file", "a link takes the place of a file", {
            Tarball::new().file("a", "1").file("b", "2").hard("b", "a").end()
        }),
        case("symlinks", "targets of any text", {
            Tarball::new()
                .symlink("absolute", "/etc/passwd")
                .symlink("up", "../../../etc/passwd")
                .symlink("dangling", "nowhere")
                .symlink("itself", "itself")
                .symlink("dots", ".")
                .end()
        }),
        case("pipe", "a named pipe", {
            Tarball::new().entry(&Head { mode: 0o622, ..Head::new(b'6', "p") }, &[]).end()
        }),
    ]
}
