//! Reads an image back piece by piece, and compares it with what was stored. From the disk: the page cache may hold
//! what the disk does not, and would show it for as long as somebody reads there. All of it blocks.
//!
//! An image was flushed before it was published. What the cache has of it and the disk has not, since somebody wrote to
//! the file, stays there.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

use super::holes::read_piece;
use crate::domain::{ByteCount, Extent, PIECE, Pieces};
use crate::io::SharedFile;
use crate::store::{PieceRead, ReadBack, stored_digest, zero_piece};

/// An image that is read back from its file.
pub(super) struct LocalReadBack {
    file: SharedFile,
    size: ByteCount,
    pieces: Pieces,
    buffer: Vec<u8>,
    /// Whether it may come from the page cache, and stays there.
    is_cached: bool,
}

impl LocalReadBack {
    pub(super) fn new(file: SharedFile, size: ByteCount, pieces: Pieces) -> Self {
        // What the kernel read ahead would be dropped before it is asked for. A hint.
        let _ = rustix::fs::fadvise(&*file, 0, None, Advice::Random);
        Self { file, size, pieces, buffer: vec![0; PIECE as usize], is_cached: false }
    }

    /// What is to be copied once it was read, of which nothing is known before.
    pub(super) fn cached(file: SharedFile, size: ByteCount) -> Self {
        Self { file, size, pieces: Pieces::default(), buffer: vec![0; PIECE as usize], is_cached: true }
    }
}

impl ReadBack for LocalReadBack {
    fn count(&self) -> u64 {
        Pieces::spanned_by(self.size)
    }

    fn is_removed(&self) -> bool {
        is_unlinked(&self.file)
    }

    fn next_in_doubt(&self, from: u64) -> io::Result<Option<u64>> {
        let data = match rustix::fs::seek(&*self.file, SeekFrom::Data(from.saturating_mul(PIECE))) {
            Ok(offset) => offset / PIECE,
            Err(Errno::NXIO) => u64::MAX,
            // A file system that cannot tell holes has none to tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => from,
            Err(error) => return Err(error.into()),
        };
        let mut holes = from..data.min(self.pieces.0.len() as u64);
        let lost = holes.find(|index| stored_digest(&self.pieces, *index) != zero_piece());
        let next = lost.unwrap_or(data);
        Ok(Some(next).filter(|next| *next < self.count()))
    }

    fn piece(&mut self, index: u64) -> io::Result<PieceRead<'_>> {
        let offset = index * PIECE;
        let extent = Extent { offset, len: self.size.get().saturating_sub(offset).min(PIECE) };
        if !self.is_cached {
            drop_cached(&self.file, offset);
        }
        let read = read_piece(&self.file, extent, &mut self.buffer);
        // Nobody asked for it, and what the cache had to give up for it was perhaps asked for.
        if !self.is_cached {
            drop_cached(&self.file, offset);
        }
        let (digest, runs) = read?;
        let read = runs.iter().filter(|run| !run.hole).map(|run| run.extent.len).sum();
        let is_whole = digest == stored_digest(&self.pieces, index);
        Ok(PieceRead { bytes: &self.buffer[..extent.len as usize], read, is_whole })
    }
}

/// Whether nothing but those who have it open holds a file any more.
pub(super) fn is_unlinked(file: &File) -> bool {
    file.metadata().is_ok_and(|file| file.nlink() == 0)
}

/// Has the cache drop a piece of a file. A hint; what is not flushed stays.
fn drop_cached(file: &File, offset: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(PIECE), Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::skipped::skipped;
    use crate::store::pieces::pieces_of;

    fn readback(file: File, stored: &[u8], size: u64) -> LocalReadBack {
        LocalReadBack::new(file.into(), ByteCount::new(size).unwrap(), pieces_of(stored))
    }

    fn file_of(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn content(pieces: u64) -> Vec<u8> {
        (0..pieces * PIECE - 1000).map(|at| (at % 251) as u8 + 1).collect()
    }

    /// What this thread has had the disk read, by `proc_pid_io(5)`.
    fn read_from_disk() -> u64 {
        let told = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        let bytes = told.lines().find_map(|line| line.strip_prefix("read_bytes: ")).unwrap();
        bytes.trim().parse().unwrap()
    }

    #[test]
    fn every_byte_comes_from_the_disk_though_the_cache_has_it_and_none_stays_there() {
        let stored = content(2);
        let file = file_of(&stored);
        if rustix::fs::fstatfs(&file).unwrap().f_type == 0x0102_1994 {
            return skipped("this file system of the temporary files keeps them in memory");
        }
        let mut readback = readback(file.try_clone().unwrap(), &stored, stored.len() as u64);
        file.read_exact_at(&mut vec![0; stored.len()], 0).unwrap();
        for index in 0..2 {
            let before = read_from_disk();
            let piece = readback.piece(index).unwrap();
            let read = piece.read;
            assert!(piece.is_whole && read == piece.bytes.len() as u64);
            assert!(read_from_disk() - before >= read, "piece {index} came from the cache");
            let before = read_from_disk();
            file.read_exact_at(&mut [0; 4096], index * PIECE).unwrap();
            assert!(read_from_disk() > before, "piece {index} stayed in the cache");
        }
    }

    #[test]
    fn what_was_written_and_not_flushed_is_read() {
        let stored = content(1);
        let file = file_of(&stored);
        let mut readback = readback(file.try_clone().unwrap(), &stored, stored.len() as u64);
        assert!(readback.piece(0).unwrap().is_whole);
        file.write_all_at(b"\0", 5000).unwrap();
        assert!(!readback.piece(0).unwrap().is_whole);
        assert_eq!(readback.piece(0).unwrap().bytes[5000], 0);
    }

    #[test]
    fn holes_are_passed_over_where_they_were_stored_and_nowhere_else() {
        let size = 1 << 40;
        let file = file_of(&[]);
        file.set_len(size).unwrap();
        let blank = readback(file.try_clone().unwrap(), &[], size);
        assert_eq!(blank.next_in_doubt(0).unwrap(), None);
        file.write_all_at(b"x", 7 * PIECE + 9).unwrap();
        let mut spoiled = readback(file.try_clone().unwrap(), &[], size);
        assert_eq!(spoiled.next_in_doubt(0).unwrap(), Some(7));
        assert!(!spoiled.piece(7).unwrap().is_whole);
        assert_eq!(spoiled.next_in_doubt(8).unwrap(), None);
        let whole = spoiled.piece(3).unwrap();
        assert!(whole.is_whole && whole.read == 0 && whole.bytes.iter().all(|byte| *byte == 0));
        // Data that became a hole.
        let mut lost = readback(file, &content(3), size);
        assert_eq!(lost.next_in_doubt(0).unwrap(), Some(0));
        assert!(!lost.piece(0).unwrap().is_whole);
        assert_eq!(lost.next_in_doubt(3).unwrap(), Some(7));
    }
}
