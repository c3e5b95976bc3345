//! Files that do not hold zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::domain::data_runs;

/// The zeros that are written at once where a file cannot have holes.
const ZEROS: usize = 1 << 20;

/// Writes bytes to a place of a file that reads as zero, or holds the same bytes: blocks of zeros are left out.
pub(super) fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    for run in data_runs(bytes) {
        file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
    }
    Ok(())
}

/// Writes bytes over others: blocks of zeros become holes.
pub(super) fn overwrite_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    for run in data_runs(bytes) {
        clear(file, offset + at as u64, offset + run.start as u64)?;
        file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
        at = run.end;
    }
    clear(file, offset + at as u64, offset + bytes.len() as u64)
}

/// Makes bytes of a file zero, and gives their space back where that can be.
pub(super) fn clear(file: &File, start: u64, end: u64) -> io::Result<()> {
    if start == end {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, end - start) {
        Err(Errno::NOTSUP | Errno::NOSYS) => {
            let zeros = vec![0; ZEROS.min(usize::try_from(end - start).unwrap_or(ZEROS))];
            let mut at = start;
            while at < end {
                let len = (end - at).min(zeros.len() as u64);
                file.write_all_at(&zeros[..len as usize], at)?;
                at += len;
            }
            Ok(())
        }
        done => Ok(done?),
    }
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

    #[test]
    fn bytes_are_written_over_others_and_zeros_give_space_back() {
        let file = tempfile::tempfile().unwrap();
        let size = 40 * GRANULE;
        file.write_all_at(&vec![7; size + 2], 0).unwrap();
        let mut bytes = vec![0; size];
        bytes[10 * GRANULE] = 1;
        overwrite_sparse(&file, &bytes, 1).unwrap();
        let mut read = vec![9; size + 2];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!((read[0], read[size + 1]), (7, 7), "what is beside it stays");
        assert_eq!(read[1..=size], bytes);
        assert!(file.metadata().unwrap().blocks() * 512 < 10 * GRANULE as u64);
    }
}
