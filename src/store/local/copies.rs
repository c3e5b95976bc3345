//! Copies into drafts that are kept: of what is published, and of other such drafts.
//!
//! # Crash
//! As of any write to such a draft: nothing of it counts before a checkpoint has flushed it and says that it is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use super::files::{MAPS, length};
use super::holes::runs;
use super::kept::Kept;
use super::steps::{Form, Steps, place};
use crate::domain::{ByteCount, ContentId, Extent};
use crate::io::SharedFile;
use crate::store::{Reservation, StoreError};

/// The most bytes that are copied before anybody is asked whether there is still room for more.
const STEP: u64 = 16 << 20;

/// What is read and written at once where the kernel does not copy.
const BUFFER: usize = 256 << 10;

/// A file that bytes are taken from.
pub(super) struct Source {
    pub(super) file: SharedFile,
    /// Whether it is one of a draft, whose length may be less than what has come of it.
    is_draft: bool,
}

impl Steps {
    /// Opens the image of what is published, or of a draft that is kept.
    pub(super) fn open_source(&self, id: ContentId) -> Result<Source, StoreError> {
        let published = || self.open_image(id, false).map(|opened| Source { file: opened.file, is_draft: false });
        match published() {
            Err(StoreError::Missing(_)) => {}
            opened => return opened,
        }
        let is_kept = place(&self.incoming, id).join(MAPS[0]).exists();
        match self.open_draft(id, Form::Folder) {
            Ok(file) if is_kept => Ok(Source { file: file.into(), is_draft: true }),
            // It may have been published between the two.
            _ => published(),
        }
    }

    /// Copies bytes of `source` to `to` in a draft.
    pub(super) fn copy_into_draft(
        &self,
        (id, kept): (ContentId, &Kept),
        source: ContentId,
        (from, to): (Extent, u64),
        reservation: &Reservation,
    ) -> io::Result<()> {
        let Source { file, is_draft } = self.open_source(source).map_err(|error| match error {
            StoreError::Io(error) => error,
            _ => io::ErrorKind::NotFound.into(),
        })?;
        if !is_draft && length(&file)?.get() < from.end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The kernel copies no bytes of just any number into a file that is written past the page cache.
        let image = self.open_to_copy(id)?;
        for run in runs(&file, from)? {
            let (mut at, end) = (run.extent.offset, run.extent.end());
            while at < end {
                let len = if run.hole { end - at } else { (end - at).min(STEP) };
                let there = to + (at - from.offset);
                if run.hole {
                    let came = kept.leave(&image, there..there + len)?;
                    reservation.settle_zeros(ByteCount::new(came).unwrap_or(ByteCount::MAX));
                } else {
                    reservation.admit_write()?;
                    let claim = reservation.claim(len)?;
                    let copied = kept.take_over(&image, &file, at, there..there + len);
                    let came = *copied.as_ref().unwrap_or(&0);
                    reservation.settle_write(claim, ByteCount::new(came).unwrap_or(ByteCount::MAX));
                    copied?;
                }
                at += len;
            }
        }
        self.crash.hit("copy: copied");
        Ok(())
    }
}

/// Copies bytes within the kernel, which lets the files share them where the file system can (Btrfs, XFS) and all is a
/// multiple of its blocks: `copy_file_range(2)` has done so since Linux 4.5. Else by reading and writing.
pub(super) fn copy_range(from: &File, mut at: u64, to: &File, mut there: u64, len: u64) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut there), step) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => left -= copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::PERM) => {
                return copy_by_hand(from, at, to, there, left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, at: u64, to: &File, there: u64, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < len {
        let now = &mut buffer[..(len - done).min(BUFFER as u64) as usize];
        from.read_exact_at(now, at + done)?;
        to.write_all_at(now, there + done)?;
        done += now.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_the_same_bytes_and_a_source_that_ends_is_an_error() {
        let content: Vec<u8> = (0..BUFFER * 2 + 77).map(|at| (at % 251) as u8).collect();
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(&content, 0).unwrap();
        for is_by_hand in [false, true] {
            let copy = if is_by_hand { copy_by_hand } else { copy_range };
            let to = tempfile::tempfile().unwrap();
            let len = content.len() - 5;
            copy(&from, 5, &to, 4096, len as u64).unwrap();
            let mut copied = vec![0; len];
            to.read_exact_at(&mut copied, 4096).unwrap();
            assert!(copied == content[5..]);
            let behind = copy(&from, 6, &to, 0, len as u64).expect_err("it ends before");
            assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
