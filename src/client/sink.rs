//! Files that do not hold zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::domain::data_runs;

/// Writes bytes to a place of a file that reads as zero, or holds the same bytes: blocks of zeros are left out.
pub(super) fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for run in data_runs(bytes) {
        file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::domain::GRANULE;

    #[test]
    fn blocks_of_zeros_are_left_out_and_read_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 40 * GRANULE + 5];
        bytes[0] = 1;
        bytes[30 * GRANULE] = 2;
        let last = bytes.len() - 1;
        bytes[last] = 3;
        file.set_len(bytes.len() as u64 + 7).unwrap();
        write_sparse(&file, &bytes, 7).unwrap();
        let mut read = vec![9; bytes.len()];
        file.read_exact_at(&mut read, 7).unwrap();
        assert_eq!(read, bytes);
        assert!(file.metadata().unwrap().blocks() * 512 < 10 * GRANULE as u64);
    }
}
