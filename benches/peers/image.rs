//! The images that are moved: the same bytes in every run.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Data and zeros come in runs of this size, well above any granule of zero detection.
const RUN: usize = 256 << 10;

/// Writes an image of `size` bytes to `path`, of which about `zero_share` are zeros; the others are random.
/// It is left on disk and in the page cache, so that reading it costs every client the same. Returns how many bytes are
/// not zeros.
pub(crate) fn make(path: &Path, size: u64, zero_share: f64) -> Result<u64> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut file = BufWriter::with_capacity(4 * RUN, File::create(path)?);
    let mut run = vec![0; RUN];
    let (mut left, mut data) = (size, 0);
    while left > 0 {
        let len = RUN.min(usize::try_from(left).unwrap_or(RUN));
        if random.random_bool(zero_share) {
            run.fill(0);
        } else {
            random.fill_bytes(&mut run);
            data += len as u64;
        }
        file.write_all(&run[..len])?;
        left -= len as u64;
    }
    file.into_inner()?.sync_all()?;
    Ok(data)
}
