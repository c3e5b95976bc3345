//! Broken and truncated archives.

use super::{Case, case};
use crate::tree::tarball::{GNU, Head, Tarball, USTAR};

pub(crate) fn cases() -> Vec<Case> {
    [headers(), ends(), extended(), maps(), records_of_maps()].into_iter().flatten().collect()
}

fn headers() -> Vec<Case> {
    let field = |at: usize, value: &'static [u8]| {
        let put = move |block: &mut [u8; 512]| block[at..at + value.len()].copy_from_slice(value);
        Tarball::new().file("first", "1").changed(&Head::new(b'0', "f"), &[], put).end()
    };
    vec![
        case("not-tar", "text", b"This is no tar archive, but long enough.\n".repeat(40)),
        case("no-checksum", "a header without a checksum", {
            let mut block = Head::new(b'0', "f").block();
            block[148..156].fill(0);
            Tarball::new().raw(&block).end()
        }),
        case("wrong-checksum", "a header that was changed", {
            let mut block = Head::new(b'0', "f").block();
            block[0] = b'g';
            Tarball::new().file("first", "1").raw(&block).end()
        }),
        case("desync", "a file that grew while an honest client sent it: more bytes than its header says", {
            let head = Head { size: 600, ..Head::new(b'0', "log") };
            Tarball::new().file("first", "1").raw(&head.block()).data(&[b'l'; 1100]).file("after", "2").end()
        }),
        case("unknown-magic", "a header of an unknown format", field(257, b"ustar\x0099")),
        case("spaced-magic", "a magic of neither format", field(257, b"ustar   ")),
        case("size-not-octal", "a size with a 9 in it", field(124, b"00000000009\0")),
        case("size-signed", "a size with a sign", field(124, b"-0000000001\0")),
        case("size-base-256-negative", "a size of less than nothing", field(124, &[0xff; 12])),
        case("size-base-256-overflow", "a size of which some read the last 64 bits only", {
            field(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0")
        }),
        case(
            "size-base-256-63-bits",
            "a size that is negative in 64 bits",
            field(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
        ),
        case("uid-negative", "an owner below zero", field(108, &[0xff; 8])),
        case("mode-not-octal", "a mode that is none", field(100, b"rwxr-xr-")),
        case("time-too-large", "a time beyond 64 bits", field(136, b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
        case("device-of-old-format", "a device before there were numbers for them", {
            Tarball::new().entry(&Head { magic: [0; 8], ..Head::new(b'3', "c") }, &[]).end()
        }),
        case("sparse-in-ustar", "a GNU sparse file in a header that is not GNU's", {
            Tarball::new().entry(&Head { magic: USTAR, ..Head::new(b'S', "s") }, &[]).end()
        }),
    ]
}

fn ends() -> Vec<Case> {
    let file = Tarball::new().file("f", "data");
    vec![
        case("nothing", "no bytes at all", Vec::new()),
        case("cut-in-header", "it ends within a header", file.clone().raw(&[b'x'; 100]).bytes),
        case("cut-in-data", "it ends within data", {
            Tarball::new().raw(&Head { size: 5000, ..Head::new(b'0', "f") }.block()).raw(&[1; 3000]).bytes
        }),
        case("cut-in-padding", "it ends within the padding of data", {
            let mut bytes = file.clone().bytes;
            bytes.truncate(512 + 4);
            bytes
        }),
        case("no-end", "it ends without an end marker", file.clone().bytes),
        case("half-an-end", "it ends after one zero block, and lacks nothing", file.clone().raw(&[0; 512]).bytes),
        case("half-a-block", "it ends within its first zero block", file.clone().raw(&[0; 200]).bytes),
        case("end-in-the-middle", "a zero block, and more members", {
            file.clone().raw(&[0; 512]).file("g", "1").end()
        }),
        case("data-after-end", "bytes behind the end", file.clone().raw(&[0; 1024]).raw(b"more").bytes),
        case("archive-after-end", "another archive behind the end, which some read with -i", {
            [file.clone().end(), Tarball::new().file("g", "1").end()].concat()
        }),
        case("late-data-after-end", "bytes far behind the end", {
            [file.clone().end(), vec![0; 20_000], b"x".to_vec()].concat()
        }),
        case("odd-padding", "zeros that are no whole block", file.raw(&[0; 1024]).raw(&[0; 100]).bytes),
    ]
}

fn extended() -> Vec<Case> {
    let raw = |data: &[u8]| Tarball::new().extension(b'x', "x", data).file("f", "1").end();
    vec![
        case("long-name-alone", "a long name and no member", Tarball::new().long(b'L', b"a").end()),
        case("long-link-alone", "a long link and no member", Tarball::new().long(b'K', b"a").end()),
        case("pax-alone", "an extended header and no member", Tarball::new().pax(&[(b"path", b"a")]).end()),
        case("pax-alone-cut", "an extended header, and it ends", Tarball::new().pax(&[(b"path", b"a")]).bytes),
        case("pax-empty", "an extended header without records", raw(b"")),
        case("pax-no-length", "a record without a length", raw(b"path=a\n")),
        case("pax-length-zero", "a record of length zero", raw(b"0 path=a\n")),
        case("pax-length-short", "a record that is longer than it says", raw(b"8 path=abc\n")),
        case("pax-length-long", "a record that is shorter than it says", raw(b"99 path=a\n")),
        case("pax-length-huge", "a length of 2^64", raw(b"18446744073709551616 path=a\n")),
        case("pax-no-key", "a record without a key", raw(b"5 =a\n")),
        case("pax-no-equals", "a record without a value", raw(b"7 path\n")),
        case("pax-no-line-end", "a record without its end", raw(b"9 path=aa")),
        case("pax-zero-after", "zero bytes after the records", raw(b"9 path=a\n\0\0")),
        case("pax-time", "a time that is none", Tarball::new().pax(&[(b"mtime", b"now")]).file("f", "").end()),
        case("pax-uid", "an owner that is none", Tarball::new().pax(&[(b"uid", b"")]).file("f", "").end()),
    ]
}

fn maps() -> Vec<Case> {
    let listed = |size: &str, count: &str, map: &str, data: usize| {
        let records: [(&[u8], &[u8]); 3] = [
            (b"GNU.sparse.size", size.as_bytes()),
            (b"GNU.sparse.numblocks", count.as_bytes()),
            (b"GNU.sparse.map", map.as_bytes()),
        ];
        Tarball::new().pax(&records).file("s", vec![b's'; data]).end()
    };
    let in_data = |map: &str, data: usize| {
        let records: [(&[u8], &[u8]); 4] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"8192"),
        ];
        let mut content = map.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        content.extend(vec![b's'; data]);
        Tarball::new().pax(&records).file("x", content).end()
    };
    let old = |runs: &[(u64, u64)], more: u8| {
        let stored: u64 = runs.iter().map(|(_, len)| len).sum();
        let mut block = Head { magic: GNU, size: stored, ..Head::new(b'S', "s") }.block();
        for (n, (offset, len)) in runs.iter().enumerate().filter(|(_, run)| **run != (0, 0)) {
            block[386 + 24 * n..410 + 24 * n].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
        }
        block[482] = more;
        block[483..495].copy_from_slice(b"00000020000\0");
        crate::tree::tarball::seal(&mut block);
        Tarball::new().raw(&block).data(&vec![1; stored as usize]).end()
    };
    vec![
        case("map-overlap", "runs that overlap", listed("8192", "3", "0,1024,512,512,8192,0", 1536)),
        case("map-order", "runs out of order", listed("8192", "3", "4096,512,0,512,8192,0", 1024)),
        case("map-outside", "a run beyond the file", listed("8192", "1", "8192,512", 512)),
        case(
            "map-overflow",
            "a run that ends at 2^64",
            listed("8192", "1", "9223372036854775807,9223372036854775807", 512),
        ),
        case("map-count", "fewer runs than it says", listed("8192", "4", "0,512,4096,512,8192,0", 1024)),
        case("map-odd", "an offset without a length", listed("8192", "2", "0,512,4096", 512)),
        case("map-text", "a map that is none", listed("8192", "1", "a,b", 512)),
        case("map-more-data", "more data than runs", listed("8192", "2", "0,512,8192,0", 1024)),
        case("map-less-data", "less data than runs", listed("8192", "3", "0,512,4096,512,8192,0", 512)),
        case("map-in-data-cut", "a map that the data have no room for", in_data("9\n0\n512\n", 0)),
        case("map-in-data-endless", "a map that never ends", in_data(&"1".repeat(600), 0)),
        case("map-in-data-huge", "a map of 2^64 runs", in_data("18446744073709551615\n0\n512\n", 512)),
        case("map-in-data-text", "a map that is none", in_data("x\n0\n512\n", 512)),
        case("map-in-data-sum", "a map of other data", in_data("2\n0\n1024\n8192\n0\n", 512)),
        case("map-open", "a map that ends before its file, whose end GNU tar has there", {
            listed("8192", "2", "0,512,4096,512", 1024)
        }),
        case("map-open-0.0", "the same in GNU's first pax format", {
            let records: [(&[u8], &[u8]); 4] = [
                (b"GNU.sparse.size", b"8192"),
                (b"GNU.sparse.numblocks", b"1"),
                (b"GNU.sparse.offset", b"4096"),
                (b"GNU.sparse.numbytes", b"512"),
            ];
            Tarball::new().pax(&records).file("s", vec![b's'; 512]).end()
        }),
        case("map-in-data-open", "the same in GNU's third", in_data("1\n0\n512\n", 512)),
        case("map-gnu-open", "the same in the old format", old(&[(0, 512)], 0)),
        case("map-gnu-gap", "a run behind an unused one, where some readers stop", {
            old(&[(0, 512), (0, 0), (4096, 512), (8192, 0)], 0)
        }),
        case("map-gnu-flag", "a mark of more runs that some take for none", {
            old(&[(0, 512), (4096, 512), (6000, 0), (8192, 0)], b'1')
        }),
        case("map-none", "a file of holes without a map", listed("8192", "0", "", 0)),
        case("map-on-directory", "a directory with a map", {
            let records: [(&[u8], &[u8]); 2] = [(b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"0")];
            Tarball::new().pax(&records).dir("d").end()
        }),
        case("map-mixed", "records of two formats", {
            let records: [(&[u8], &[u8]); 3] =
                [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.map", b"0,1")];
            Tarball::new().pax(&records).file("s", "x").end()
        }),
        case("map-gnu-endless", "a map of the old format that goes on and on", {
            let mut block = Head { magic: GNU, ..Head::new(b'S', "s") }.block();
            block[482] = 1;
            crate::tree::tarball::seal(&mut block);
            let mut more = [0; 512];
            more[504] = 1;
            Tarball::new().raw(&block).raw(&more).raw(&more).end()
        }),
        case("map-gnu-overlap", "runs that overlap, in the old format", {
            let mut block = Head { magic: GNU, size: 1024, ..Head::new(b'S', "s") }.block();
            block[386..434].copy_from_slice(b"00000000000 00000001000 00000000000 00000001000 ");
            block[483..495].copy_from_slice(b"00000010000\0");
            crate::tree::tarball::seal(&mut block);
            Tarball::new().raw(&block).data(&[1; 1024]).end()
        }),
    ]
}

/// Records that only some readers use.
fn records_of_maps() -> Vec<Case> {
    vec![
        case("map-of-star", "the size that a sparse file has for star", {
            Tarball::new().pax(&[(b"SCHILY.realsize", b"8192")]).file("s", "x").end()
        }),
        case("map-of-solaris", "holes that a file has for Solaris", {
            Tarball::new().pax(&[(b"SUN.holesdata", b" 0 512 8192")]).file("s", "x").end()
        }),
        case("map-two-names", "a sparse file with two names, as GNU tar's format 0.1 has it if they are long", {
            let records: [(&[u8], &[u8]); 5] = [
                (b"GNU.sparse.size", b"512"),
                (b"GNU.sparse.numblocks", b"1"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.map", b"0,512"),
                (b"path", b"GNUSparseFile.1/s"),
            ];
            Tarball::new().pax(&records).file("x", vec![b's'; 512]).end()
        }),
        case("map-one-name-twice", "a sparse file with its name in two records, as bsdtar has it", {
            let records: [(&[u8], &[u8]); 5] = [
                (b"path", b"s"),
                (b"GNU.sparse.size", b"512"),
                (b"GNU.sparse.numblocks", b"1"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.map", b"0,512"),
            ];
            Tarball::new().pax(&records).file("x", vec![b's'; 512]).end()
        }),
    ]
}
