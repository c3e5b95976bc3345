//! The reader of tar streams alone: headers, extended headers, sparse maps. Seeds are in `fixtures/tar`.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz archive target/fuzz/archive fixtures/tar`

#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::tree::{Archive, Kind, Limits};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { extended: 64 << 10, extents: 1024, ..Limits::of_volume(1 << 20) };
    let mut archive = Archive::new(data, &limits);
    while let Ok(Some(member)) = archive.next() {
        let path = member.path.as_bytes();
        assert!(!path.starts_with(b"/") && !path.ends_with(b"/") && !path.contains(&0));
        assert!(!path.split(|byte| *byte == b'/').any(|part| part == b".."));
        assert_ne!(member.uid, u32::MAX);
        let mut came = 0;
        while let Ok(Some(chunk)) = archive.data() {
            assert!(!chunk.is_empty());
            came += chunk.len() as u64;
        }
        match member.kind {
            Kind::File { size, extents: None } => assert!(came <= size),
            Kind::File { size, extents: Some(extents) } => {
                assert!(came <= extents.iter().map(|extent| extent.len).sum());
                assert!(extents.windows(2).all(|two| two[0].offset + two[0].len <= two[1].offset));
                assert!(extents.last().is_none_or(|last| last.offset + last.len <= size));
            }
            _ => assert_eq!(came, 0),
        }
    }
    assert!(archive.offset() <= data.len() as u64);
});
