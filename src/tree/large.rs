//! Writes large files past the page cache (`O_DIRECT`), since writes through it cost about three times the CPU per
//! byte.
//!
//! Offsets, lengths and memory are aligned; the tail of a file after its last whole unit is written through the cache.
//! If the file system refuses direct writes, all data goes through the cache.
//!
//! # Invariants
//! - No write to a file is in flight once its [`LargeFile`] has ended without error, or [`LargeFiles`] is dropped.
//! - Memory: two buffers of 2 MiB, from the first large file on.
//!
//! # Cancellation
//! After an error, or when a file was not ended, a write may still be in flight. The caller then drops [`LargeFiles`],
//! which waits for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use memmap2::{Advice, MmapMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::LargeWrites;

/// Bytes per write: one huge page, which the kernel pins as one.
const BUFFER: usize = 2 << 20;

/// Alignment of offsets and lengths; enough for every common file system and disk.
const UNIT: usize = 4096;

/// The least size of a file that is written directly: the last write is awaited, so the cache is faster for small
/// files.
const LEAST: u64 = 4 << 20;

/// Writes large files one after the other.
pub(super) struct LargeFiles {
    /// Started with the first large file.
    writer: Option<Writer>,
    /// Whether direct writes are off, or the file system refuses them.
    refused: bool,
}

impl LargeFiles {
    pub(super) fn new(how: LargeWrites) -> Self {
        Self { writer: None, refused: how == LargeWrites::Cached }
    }

    /// Begins an empty file of this size; returns `None` if it is to be written through the cache.
    pub(super) fn begin(&mut self, file: &File, size: u64) -> io::Result<Option<LargeFile<'_>>> {
        self.refused |= self.writer.as_ref().is_some_and(|writer| writer.refused);
        if size < LEAST || self.refused {
            return Ok(None);
        }
        if !turn(file, true)? {
            self.refused = true;
            return Ok(None);
        }
        // Direct writes that extend a file are slower: each waits for the one before, and commits the new length.
        file.set_len(size)?;
        let file = Arc::new(file.try_clone()?);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => empty.insert(Writer::start()?),
        };
        Ok(Some(LargeFile { file, writer, filled: 0, offset: 0 }))
    }
}

/// A file that is being written, from start to end.
pub(super) struct LargeFile<'a> {
    file: Arc<File>,
    writer: &'a mut Writer,
    /// Bytes in the writer's buffer.
    filled: usize,
    /// The offset of the buffer in the file.
    offset: u64,
}

impl LargeFile<'_> {
    pub(super) fn write(&mut self, mut chunk: &[u8]) -> io::Result<()> {
        while !chunk.is_empty() {
            let (part, rest) = chunk.split_at(chunk.len().min(BUFFER - self.filled));
            self.writer.buffer[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
            chunk = rest;
            if self.filled == BUFFER {
                self.flush(BUFFER)?;
            }
        }
        Ok(())
    }

    /// Writes the rest, and waits for all writes.
    pub(super) fn end(mut self) -> io::Result<()> {
        let whole = self.filled - self.filled % UNIT;
        let tail = self.writer.buffer[whole..self.filled].to_vec();
        if whole > 0 {
            self.flush(whole)?;
        }
        self.writer.settle()?;
        turn(&self.file, false)?;
        self.file.write_all_at(&tail, self.offset)
    }

    fn flush(&mut self, bytes: usize) -> io::Result<()> {
        self.writer.write(Work { file: self.file.clone(), bytes, offset: self.offset })?;
        self.offset += bytes as u64;
        self.filled = 0;
        Ok(())
    }
}

/// A thread that writes one buffer while the next one is filled.
struct Writer {
    /// The buffer that the caller fills.
    buffer: MmapMut,
    /// The other buffer, unless it is being written.
    spare: Option<MmapMut>,
    work: Option<SyncSender<(Work, MmapMut)>>,
    done: Receiver<(MmapMut, io::Result<bool>)>,
    /// Whether the file system has refused a direct write.
    refused: bool,
    thread: Option<JoinHandle<()>>,
}

/// The file, offset and length of a write.
struct Work {
    file: Arc<File>,
    bytes: usize,
    offset: u64,
}

impl Writer {
    fn start() -> io::Result<Self> {
        let (work, waiting) = sync_channel::<(Work, MmapMut)>(1);
        let (answers, done) = sync_channel(1);
        let thread = thread::Builder::new().name("longshore-tree".to_owned()).spawn(move || {
            for (work, buffer) in waiting {
                let written = work.write(&buffer);
                drop(work);
                if answers.send((buffer, written)).is_err() {
                    return;
                }
            }
        })?;
        let (buffer, spare) = (map()?, Some(map()?));
        Ok(Self { buffer, spare, work: Some(work), done, refused: false, thread: Some(thread) })
    }

    /// Starts to write the buffer, and swaps in the other one once the write before has ended.
    fn write(&mut self, work: Work) -> io::Result<()> {
        self.settle()?;
        let next = self.spare.take().ok_or_else(gone)?;
        let full = std::mem::replace(&mut self.buffer, next);
        self.work.as_ref().ok_or_else(gone)?.send((work, full)).map_err(|_| gone())
    }

    /// Waits for the write in flight.
    fn settle(&mut self) -> io::Result<()> {
        if self.spare.is_none() {
            let (buffer, written) = self.done.recv().map_err(|_| gone())?;
            self.spare = Some(buffer);
            self.refused |= written?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    /// Joins the thread, so that nothing is written after the drop.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by then.
            let _ = thread.join();
        }
    }
}

impl Work {
    /// Writes the buffer; reports whether the file system refused direct I/O.
    fn write(&self, buffer: &[u8]) -> io::Result<bool> {
        let data = &buffer[..self.bytes];
        match self.file.write_all_at(data, self.offset) {
            // Some file systems accept the flag, and refuse the write.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                turn(&self.file, false)?;
                self.file.write_all_at(data, self.offset).map(|()| true)
            }
            outcome => outcome.map(|()| false),
        }
    }
}

fn map() -> io::Result<MmapMut> {
    let buffer = MmapMut::map_anon(BUFFER)?;
    // A kernel without huge pages uses small ones.
    let _ = buffer.advise(Advice::HugePage);
    Ok(buffer)
}

fn gone() -> io::Error {
    io::Error::other("the thread that writes has ended")
}

/// Turns direct I/O on or off; reports whether the file system accepts it.
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

    /// Writes files of these sizes in chunks of this size; reports whether each began with direct I/O.
    fn written(folder: &Path, how: LargeWrites, sizes: &[usize], chunk: usize) -> Vec<bool> {
        let mut files = LargeFiles::new(how);
        let mut direct = Vec::new();
        for size in sizes {
            let path = folder.join(size.to_string());
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
            let (data, large) = (data(*size), files.begin(&file, *size as u64).unwrap());
            direct.push(large.is_some());
            let Some(mut large) = large else { continue };
            assert!(fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
            data.chunks(chunk).try_for_each(|chunk| large.write(chunk)).unwrap();
            large.end().unwrap();
            assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
            assert!(std::fs::read(&path).unwrap() == data, "{size} in chunks of {chunk}");
        }
        direct
    }

    #[test]
    fn files_of_every_end_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let least = usize::try_from(LEAST).unwrap();
        let ends = [0, 1, 511, UNIT - 1, UNIT, UNIT + 1, BUFFER - 1, BUFFER, BUFFER + 1, BUFFER + UNIT + 9];
        let sizes = ends.map(|end| least + end);
        for chunk in [256 << 10, 77_777, BUFFER + 5] {
            let direct = written(folder.path(), LargeWrites::Direct, &sizes, chunk);
            let takes_direct = turn(&tempfile::tempfile_in(folder.path()).unwrap(), true).unwrap();
            assert!(direct.iter().all(|direct| *direct == takes_direct));
        }
    }

    #[test]
    fn a_write_that_the_file_system_refuses_goes_through_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(folder.path()).unwrap();
        let takes_direct = turn(&file, true).unwrap();
        let work = Work { file: Arc::new(file), bytes: 100, offset: 3 };
        // No file system that writes directly takes this length and place, but those in memory do.
        let refused = work.write(&[7; 200]).unwrap();
        assert_eq!(refused, takes_direct && !fcntl_getfl(&work.file).unwrap().contains(OFlags::DIRECT));
        assert_eq!(work.file.metadata().unwrap().len(), 103);
    }

    #[test]
    fn small_files_and_all_where_it_is_not_wanted_are_written_the_common_way() {
        let folder = tempfile::tempdir().unwrap();
        let least = usize::try_from(LEAST).unwrap();
        assert_eq!(written(folder.path(), LargeWrites::Direct, &[least - 1], 1 << 20), [false]);
        assert_eq!(written(folder.path(), LargeWrites::Cached, &[least], 1 << 20), [false]);
    }

    #[test]
    fn a_file_system_that_refuses_is_asked_once() {
        let file = File::open("/proc/self/status").unwrap();
        let mut files = LargeFiles::new(LargeWrites::Direct);
        assert!(files.begin(&file, LEAST).unwrap().is_none());
        assert!(files.refused);
    }
}
