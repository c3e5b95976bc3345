//! Brings ranges of a file into the page cache before the kernel sends them, off the runtime's threads: sendfile(2)
//! waits for the disk on the thread that calls it.
//!
//! No byte is copied: the kernel is asked to read ahead, and one byte of each stretch is touched to wait for it. What
//! the kernel drops again in between costs that thread a wait, and is never wrong.
//!
//! # Cancellation
//! Dropping a `Warmer` lets the range under way be read to its end.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::domain::Extent;

/// What is asked for at once. One call reads no more than the device's read-ahead, whose default is this.
const STRETCH: u64 = 128 << 10;

/// Keeps one range ahead of what is sent, so that disk and network work at the same time.
#[derive(Default)]
pub(super) struct Warmer {
    ahead: Option<(Extent, JoinHandle<io::Result<()>>)>,
}

impl Warmer {
    /// Waits until the range was read.
    pub(super) async fn ready(&mut self, file: &Arc<File>, extent: Extent) -> io::Result<()> {
        match self.ahead.take() {
            Some((ahead, reading)) if ahead == extent => reading.await.map_err(io::Error::other)?,
            _ if is_cached(file, extent) => Ok(()),
            _ => start(file, extent).await.map_err(io::Error::other)?,
        }
    }

    /// Starts to read the range that is sent next.
    pub(super) fn start(&mut self, file: &Arc<File>, extent: Extent) {
        if !is_cached(file, extent) {
            self.ahead = Some((extent, start(file, extent)));
        }
    }
}

fn start(file: &Arc<File>, extent: Extent) -> JoinHandle<io::Result<()>> {
    let file = file.clone();
    tokio::task::spawn_blocking(move || bring_in(&file, extent))
}

fn bring_in(file: &File, extent: Extent) -> io::Result<()> {
    let stretches = || (extent.offset..extent.end()).step_by(STRETCH as usize);
    for offset in stretches() {
        // A hint that may be refused: touching the bytes reads them all the same.
        let _ = fadvise(file, offset, NonZeroU64::new(STRETCH.min(extent.end() - offset)), Advice::WillNeed);
    }
    for offset in stretches() {
        let last = (offset + STRETCH).min(extent.end()) - 1;
        file.read_exact_at(&mut [0], last)?;
    }
    Ok(())
}

/// Whether both ends of the range can be read without waiting for the disk, which speaks for the rest of it.
fn is_cached(file: &File, extent: Extent) -> bool {
    [extent.offset, extent.end() - 1].into_iter().all(|offset| {
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        preadv2(file, &mut into, offset, ReadWriteFlags::NOWAIT).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    fn cold_file() -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; LEN as usize], 0).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_range_is_cached_once_it_is_ready_whether_it_was_started_ahead_or_not() {
        let file = cold_file();
        let (first, second) = (Extent { offset: 0, len: 300_000 }, Extent { offset: 300_000, len: LEN - 300_000 });
        let mut warmer = Warmer::default();
        warmer.ready(&file, first).await.unwrap();
        assert!(is_cached(&file, first));
        warmer.start(&file, second);
        warmer.ready(&file, second).await.unwrap();
        assert!(is_cached(&file, second));
    }

    #[tokio::test]
    async fn a_file_that_ends_before_the_range_is_an_error() {
        let file = cold_file();
        let past = Extent { offset: LEN - 1, len: 2 };
        let error = Warmer::default().ready(&file, past).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
