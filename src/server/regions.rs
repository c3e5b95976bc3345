#![expect(unsafe_code, reason = "maps files, so that a body frame has an address by which the transport knows it")]
//! Address ranges that stand for ranges of files: body frames that are sent without being read.
//!
//! A frame is a slice of a private address range that maps the file. Code that gets it can frame, split and advance it
//! like other bytes; [`super::sendfile::SendfileStream`] finds the file by the address. The slice also reads as the
//! right bytes, so in another transport a frame is slower, and not wrong.
//!
//! # Invariants
//! - A region is known exactly as long as its `Bytes` live: it is removed before its addresses are free.
//!
//! # Cancellation
//! Nothing here waits. Dropping the `Bytes` at any time is safe.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::io::SharedFile;

/// The mapped file ranges of one connection. Clones share the same set.
#[derive(Clone, Debug, Default)]
pub(super) struct FileRegions {
    by_start: Arc<Mutex<BTreeMap<usize, Region>>>,
    disk: Arc<Mutex<DiskWait>>,
}

/// The time that a connection has waited for the disk.
#[derive(Debug, Default)]
struct DiskWait {
    ended: Duration,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Region {
    end: usize,
    file: SharedFile,
    offset: u64,
}

impl FileRegions {
    /// Returns a body frame of `len` bytes of `file` from `offset` on, which this connection will send without reading
    /// it.
    ///
    /// `file` must be open for buffered reads, since with `O_DIRECT` only aligned ranges could be sent. Fails with
    /// `UnexpectedEof` if the file ends before the range does. Costs one system call and address space, whatever `len`.
    pub(super) fn register(&self, file: SharedFile, offset: u64, len: u64) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let file_len = file.metadata()?.len();
        if offset.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut options = MmapOptions::new();
        options.offset(offset).len(size);
        // SAFETY: the bytes behind the map must not change while a `&[u8]` of it is read. Only a transport other than
        // `SendfileStream` reads it, and the files given here are published images, which the store never writes.
        let map = unsafe { options.map(&*file) }?;
        let start = map.as_ptr() as usize;
        self.lock().insert(start, Region { end: start + size, file: file.clone(), offset });
        Ok(Bytes::from_owner(Mapped { map, regions: self.clone(), _file: file }))
    }

    /// Returns the total time that the connection has waited for the disk, and whether it does now.
    pub(super) fn disk_wait(&self) -> (Duration, bool) {
        let wait = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        (wait.ended + wait.since.map_or(Duration::ZERO, |since| since.elapsed()), wait.since.is_some())
    }

    /// Runs a call that never waits for the peer and rarely for the disk. If it waits for the disk after all, because
    /// of an evicted page or a full queue, that time counts for the disk and not for the peer.
    pub(super) fn on_disk<T>(&self, call: impl FnOnce() -> T) -> T {
        self.begin_wait();
        let outcome = call();
        self.end_wait(Duration::ZERO);
        outcome
    }

    /// Begins a wait for the disk.
    pub(super) fn begin_wait(&self) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).since = Some(Instant::now());
    }

    /// Ends the wait, without the part of it that was for the peer.
    pub(super) fn end_wait(&self, for_peer: Duration) {
        let mut wait = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = wait.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        wait.ended += whole.saturating_sub(for_peer);
    }

    /// Finds the file and the offset behind a slice, if the slice is in a region.
    pub(super) fn find(&self, slice: &[u8]) -> Option<(SharedFile, u64)> {
        let start = slice.as_ptr() as usize;
        let by_start = self.lock();
        let (first, region) = by_start.range(..=start).next_back()?;
        let known = start + slice.len() <= region.end && !slice.is_empty();
        known.then(|| (region.file.clone(), region.offset + (start - first) as u64))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Region>> {
        // No code panics between two changes of the map.
        self.by_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mapping that owns the addresses of a frame.
struct Mapped {
    map: Mmap,
    regions: FileRegions,
    /// Kept open longer than the map, which holds the file open, too.
    _file: SharedFile,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // This must happen before the addresses are free for another map, which is when the fields drop.
        self.regions.lock().remove(&(self.map.as_ptr() as usize));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    /// Makes a file of `len` bytes, in which no page equals another.
    pub(in crate::server) fn file(len: usize) -> (SharedFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..len.div_ceil(4))
            .flat_map(|word| (word as u32).wrapping_mul(0x9e37_79b1).to_le_bytes())
            .take(len)
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file.into(), bytes)
    }

    #[test]
    fn region_is_known_from_registration_to_drop_and_by_its_own_slices_only() {
        let (file, bytes) = file(20_000);
        let regions = FileRegions::default();
        let frame = regions.register(file.clone(), 5000, 10_000).unwrap();
        assert!(frame == bytes[5000..15_000]);
        let of = |slice: &[u8]| regions.find(slice).map(|(_, offset)| offset);
        assert_eq!(of(&frame), Some(5000));
        assert_eq!(of(&frame[9999..]), Some(14_999));
        assert_eq!(of(&frame[..0]), None);
        assert_eq!(of(&bytes), None);
        let part = frame.slice(7..9);
        drop(frame);
        assert_eq!(of(&part), Some(5007));
        drop(part);
        assert!(regions.is_empty());
    }

    #[test]
    fn a_call_that_waits_for_the_disk_against_all_expectation_is_told_while_it_waits_and_after() {
        let regions = FileRegions::default();
        let (other, begun) = (regions.clone(), Instant::now());
        regions.on_disk(|| {
            assert!(other.disk_wait().1, "it waits for the disk now");
            while begun.elapsed() < Duration::from_millis(2) {
                std::thread::yield_now();
            }
        });
        let (waited, waits) = regions.disk_wait();
        assert!(!waits && waited >= Duration::from_millis(1), "{waited:?}");
    }

    #[test]
    fn range_that_the_file_does_not_hold_is_refused() {
        let (file, bytes) = file(10_000);
        let regions = FileRegions::default();
        for (offset, len) in [(0, 10_001), (10_000, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let refused = regions.register(file.clone(), offset, len).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert!(regions.register(file.clone(), 10_000, 0).unwrap().is_empty());
        assert!(regions.register(file, 0, bytes.len() as u64).unwrap() == bytes);
    }
}
