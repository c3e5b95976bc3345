//! Writes large files past the page cache (`O_DIRECT`): through it, each byte costs about three times the CPU.
//!
//! Offsets, lengths and memory are aligned, and what is left of a file after its last whole unit goes through the cache.
//! A file system that refuses direct writes gets all through the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memmap2::{Advice, MmapMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// What is written at once: one huge page, which the kernel pins as one.
const BUFFER: usize = 2 << 20;

/// What offsets and lengths are multiples of. Enough for every common file system and disk.
const UNIT: usize = 4096;

/// The least size of a file for which it pays: the write is awaited, so a small file is quicker in the cache.
const LEAST: u64 = 4 << 20;

/// Writes one large file after the other.
pub(super) struct LargeFiles {
    /// Mapped for the first large file; `None` also once the file system has refused direct writes.
    buffer: Option<MmapMut>,
    refused: bool,
}

impl LargeFiles {
    pub(super) fn new(is_direct: bool) -> Self {
        Self { buffer: None, refused: !is_direct }
    }

    /// Begins a file of this size, which is empty; `None` if it is to be written the common way.
    pub(super) fn begin<'a>(&'a mut self, file: &'a File, size: u64) -> io::Result<Option<LargeFile<'a>>> {
        if size < LEAST || self.refused {
            return Ok(None);
        }
        if !turn(file, true)? {
            self.refused = true;
            return Ok(None);
        }
        if self.buffer.is_none() {
            let buffer = MmapMut::map_anon(BUFFER)?;
            // A kernel without huge pages uses small ones.
            let _ = buffer.advise(Advice::HugePage);
            self.buffer = Some(buffer);
        }
        // Direct writes that extend a file are slower: they take turns, and each commits the new length.
        file.set_len(size)?;
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        Ok(Some(LargeFile { file, buffer, filled: 0, offset: 0, is_direct: true, refused: &mut self.refused }))
    }
}

/// A file that is written from its start to its end.
pub(super) struct LargeFile<'a> {
    file: &'a File,
    buffer: &'a mut MmapMut,
    filled: usize,
    /// Of the buffer, in the file.
    offset: u64,
    is_direct: bool,
    refused: &'a mut bool,
}

impl LargeFile<'_> {
    pub(super) fn write(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let (part, rest) = piece.split_at(piece.len().min(BUFFER - self.filled));
            self.buffer[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
            piece = rest;
            if self.filled == BUFFER {
                self.flush(BUFFER)?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn end(mut self) -> io::Result<()> {
        let tail = self.filled % UNIT;
        let whole = self.filled - tail;
        self.flush(whole)?;
        self.through_cache()?;
        self.file.write_all_at(&self.buffer[whole..whole + tail], self.offset)
    }

    fn flush(&mut self, bytes: usize) -> io::Result<()> {
        match self.file.write_all_at(&self.buffer[..bytes], self.offset) {
            // Some file systems take the flag, and refuse the write.
            Err(error) if self.is_direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                *self.refused = true;
                self.through_cache()?;
                self.file.write_all_at(&self.buffer[..bytes], self.offset)?;
            }
            outcome => outcome?,
        }
        self.offset += bytes as u64;
        self.filled = 0;
        Ok(())
    }

    fn through_cache(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_direct) {
            turn(self.file, false)?;
        }
        Ok(())
    }
}

/// Turns direct I/O on or off; answers whether the file system takes it.
fn turn(file: &File, on: bool) -> io::Result<bool> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    match fcntl_setfl(file, flags) {
        Err(Errno::INVAL) if on => Ok(false),
        outcome => outcome.map(|()| true).map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use super::*;

    fn data(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at / 251 + at) as u8).collect()
    }

    /// Writes files of these sizes in pieces of this many bytes; answers whether each began with direct I/O.
    fn written(folder: &Path, is_direct: bool, sizes: &[usize], piece: usize) -> Vec<bool> {
        let mut files = LargeFiles::new(is_direct);
        let mut began = Vec::new();
        for size in sizes {
            let path = folder.join(size.to_string());
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
            let (data, begun) = (data(*size), files.begin(&file, *size as u64).unwrap());
            began.push(begun.is_some());
            let Some(mut large) = begun else { continue };
            assert!(fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
            data.chunks(piece).try_for_each(|piece| large.write(piece)).unwrap();
            large.end().unwrap();
            assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
            assert!(std::fs::read(&path).unwrap() == data, "{size} in pieces of {piece}");
        }
        began
    }

    #[test]
    fn files_of_every_end_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let least = usize::try_from(LEAST).unwrap();
        let ends = [0, 1, 511, UNIT - 1, UNIT, UNIT + 1, BUFFER - 1, BUFFER, BUFFER + 1, BUFFER + UNIT + 9];
        let sizes = ends.map(|end| least + end);
        for piece in [256 << 10, 77_777, BUFFER + 5] {
            let began = written(folder.path(), true, &sizes, piece);
            let takes_direct = turn(&tempfile::tempfile_in(folder.path()).unwrap(), true).unwrap();
            assert!(began.iter().all(|began| *began == takes_direct));
        }
    }

    #[test]
    fn small_files_and_all_where_it_is_not_wanted_are_written_the_common_way() {
        let folder = tempfile::tempdir().unwrap();
        let least = usize::try_from(LEAST).unwrap();
        assert_eq!(written(folder.path(), true, &[least - 1], 1 << 20), [false]);
        assert_eq!(written(folder.path(), false, &[least], 1 << 20), [false]);
    }

    #[test]
    fn a_file_system_that_refuses_is_asked_once() {
        let file = File::open("/proc/self/status").unwrap();
        let mut files = LargeFiles::new(true);
        assert!(files.begin(&file, LEAST).unwrap().is_none());
        assert!(files.refused);
    }
}
