//! Images that are the same on every run, and comparisons that report where two differ.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Returns random numbers that depend only on the seed.
pub(crate) fn numbers(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Returns random bytes.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    numbers(seed).fill_bytes(&mut bytes);
    bytes
}

/// Writes a file of random bytes.
pub(crate) fn random(path: &Path, size: u64, seed: u64) {
    let mut numbers = numbers(seed);
    let mut file = File::create(path).expect("an image can be made");
    let mut part = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        numbers.fill_bytes(&mut part);
        let len = left.min(1 << 20) as usize;
        file.write_all(&part[..len]).expect("an image can be written");
        left -= len as u64;
    }
}

/// Writes a file of holes and runs of data at odd offsets, about one third data, as in a disk image.
pub(crate) fn sparse(path: &Path, size: u64, seed: u64) {
    let mut numbers = numbers(seed);
    let file = zero(path, size);
    let mut at = 0;
    while at < size {
        let len = numbers.random_range(1..=size / 40 + 1).min(size - at);
        let mut run = vec![0; len as usize];
        numbers.fill_bytes(&mut run);
        file.write_all_at(&run, at).expect("an image can be written");
        at += len + numbers.random_range(0..=size / 10);
    }
}

/// Writes a file of holes with some data in each 30 MB, for tests of sizes and not of data.
pub(crate) fn thin(path: &Path, size: u64, seed: u64) {
    let mut numbers = numbers(seed);
    let file = zero(path, size);
    let mut run = vec![0; 100_000];
    for at in (0..size - run.len() as u64).step_by(30_000_000) {
        numbers.fill_bytes(&mut run);
        file.write_all_at(&run, at).expect("an image can be written");
    }
}

/// Makes a file of zeros that takes no disk space.
pub(crate) fn zero(path: &Path, size: u64) -> File {
    let file = File::create(path).expect("an image can be made");
    file.set_len(size).expect("an image can have this size");
    file
}

/// Fails unless `got` is exactly `want`.
#[track_caller]
pub(crate) fn assert_same(want: &Path, got: &Path) {
    assert_same_then_zeros(want, got, size_of(want));
}

/// Fails unless `got` is `want` followed by zeros, `size` bytes in all.
#[track_caller]
pub(crate) fn assert_same_then_zeros(want: &Path, got: &Path, size: u64) {
    assert_eq!(size_of(got), size, "the size of {}", got.display());
    let mut want = File::open(want).expect("the image is there");
    let mut got = File::open(got).expect("the download is there");
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        let len = (size - at).min(1 << 20) as usize;
        ours.fill(0);
        let mut filled = 0;
        while filled < len {
            match want.read(&mut ours[filled..len]).expect("the image can be read") {
                0 => break,
                n => filled += n,
            }
        }
        got.read_exact(&mut theirs[..len]).expect("the download can be read");
        // Whole parts at once: byte by byte, a comparison takes as long as the transfer did.
        if ours[..len] != theirs[..len] {
            let first = (0..len).find(|i| ours[*i] != theirs[*i]).expect("a byte differs");
            panic!("byte {} is {} instead of {}", at + first as u64, theirs[first], ours[first]);
        }
        at += len as u64;
    }
}

/// Returns the bytes of a part of a file.
pub(crate) fn part(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut file = File::open(path).expect("the image is there");
    file.seek(SeekFrom::Start(offset)).expect("the image can be sought");
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes).expect("the image is long enough");
    bytes
}

/// Returns the size of a file.
#[track_caller]
pub(crate) fn size_of(path: &Path) -> u64 {
    path.metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display())).len()
}

/// Flips a bit of the byte at `at`, without the server's knowledge.
#[track_caller]
pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the file is longer");
    file.write_all_at(&[byte[0] ^ 1], at).expect("the file can be written");
}
