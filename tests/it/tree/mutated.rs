//! The corpus, damaged in many ways: nothing outside of the tree changes, nothing panics, and the result can be
//! removed. It is the same on every run.

use std::collections::HashSet;

use longshore::domain::Encoding;
use longshore::tree::{Decoder, DecoderLimits, Encoder, Policy, unpack};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::tree::corpus::{cases, limits};
use crate::tree::scratch::Scratch;
use crate::tree::tarball::seal;

fn damage(archive: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        if archive.len() < 512 {
            return;
        }
        let blocks = archive.len() / 512;
        let block = random.random_range(0..blocks) * 512;
        match random.random_range(0..8) {
            0 => archive[block + random.random_range(0..512)] = random.random(),
            1 => archive[block + random.random_range(0..512)] ^= 1 << random.random_range(0..8),
            2 => archive[block + 156] = *b"01234567gxLKSDMVN\0".get(random.random_range(0..18)).unwrap_or(&0),
            3 => {
                let fields = [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (157, 100), (257, 8), (345, 155)];
                let (at, len) = fields[random.random_range(0..fields.len())];
                random.fill_bytes(&mut archive[block + at..block + at + len]);
            }
            4 => archive.truncate(random.random_range(0..archive.len())),
            5 => {
                let other = &others[random.random_range(0..others.len())];
                let from = random.random_range(0..=other.len() / 512) * 512;
                archive.splice(block..block, other[from..].iter().copied());
            }
            6 => {
                archive.drain(block..block + 512);
            }
            _ => {
                let name: &[u8] = [&b"../x"[..], b"/x", b"a/../b", b"a", b".", b"l/x"][random.random_range(0..6)];
                archive[block..block + name.len()].copy_from_slice(name);
                archive[block + name.len()] = 0;
            }
        }
        // Half of the time the checksum is corrected: otherwise few changes would pass it.
        if random.random() && block + 512 <= archive.len() {
            seal(&mut archive[block..block + 512]);
        }
    }
}

#[test]
fn damaged_archives_do_no_harm() {
    let scratch = Scratch::in_memory();
    let others: Vec<_> = cases().into_iter().map(|case| case.bytes).filter(|bytes| bytes.len() < 40_000).collect();
    let mut random = StdRng::seed_from_u64(20_240_613);
    let (mut taken, mut causes) = (0, HashSet::new());
    for archive in &others {
        for _ in 0..25 {
            let mut archive = archive.clone();
            damage(&mut archive, &others, &mut random);
            let policy = Policy { set_id: random.random(), ..Policy::default() };
            let (_, result) = scratch.unpack(&archive, &limits(), policy);
            match result {
                Ok(_) => taken += 1,
                Err(error) => {
                    assert!(error.place.offset <= archive.len() as u64, "{error}");
                    causes.insert(error.cause.to_string());
                }
            }
            scratch.clear();
        }
    }
    // Otherwise the damage would be too uniform for this test to find anything.
    assert!(taken > 100, "{taken} were taken");
    assert!(causes.len() > 20, "{causes:?}");
}

#[test]
fn damaged_compressed_streams_do_no_harm() {
    let scratch = Scratch::in_memory();
    let mut random = StdRng::seed_from_u64(7);
    let case = |name: &str| cases().into_iter().find(|case| case.name == name).expect("a case").bytes;
    let wide = DecoderLimits { bytes: 1 << 20, ratio: 1000 };
    let mut refused = 0;
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        for archive in [case("plain"), case("pax-sparse-1.0")] {
            let mut encoder = Encoder::new(Vec::new(), encoding).expect("an encoder");
            io_copy(&archive, &mut encoder);
            let whole = encoder.finish().expect("a vector takes all");
            for _ in 0..150 {
                let mut damaged = whole.clone();
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(0..damaged.len());
                    damaged[at] = random.random();
                }
                let (_, root) = scratch.root("tree");
                let decoder = Decoder::new(&*damaged, encoding, wide).expect("a decoder");
                refused += u32::from(unpack(decoder, &root, &limits(), &Policy::default()).is_err());
                scratch.clear();
            }
        }
    }
    assert!(refused > 500, "{refused} were refused");
}

fn io_copy(mut from: &[u8], to: &mut impl std::io::Write) {
    std::io::copy(&mut from, to).expect("a vector takes all");
}
