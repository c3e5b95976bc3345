//! Sparse files: where their holes are, and copies that keep them. All of it blocks.

use std::fs::File;
use std::io;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::domain::{ByteCount, Extent};
use crate::store::Run;

/// The most that is copied between two looks at whether to go on.
const STRIDE: u64 = 64 << 20;

/// The runs of data and holes of `within`, which lies inside the file.
pub(super) fn runs(file: &File, within: Extent) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut at = within.offset;
    let mut push = |at: &mut u64, end: u64, hole: bool| {
        let end = end.min(within.end());
        if end > *at {
            runs.push(Run { extent: Extent { offset: *at, len: end - *at }, hole });
            *at = end;
        }
    };
    while at < within.end() {
        // The file's position moves, which nobody uses: all reads name their offset.
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => push(&mut at, data, true),
            Err(Errno::NXIO) => push(&mut at, within.end(), true),
            // A file system that cannot tell holes has none to tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => push(&mut at, within.end(), false),
            Err(error) => return Err(error.into()),
        }
        if at < within.end() {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?;
            push(&mut at, hole, false);
        }
    }
    Ok(runs)
}

/// Lets `to` share all extents of `from`; `false` when the file system cannot.
pub(super) fn share(from: &File, to: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies the data of `from` into `to`, a file of holes and of this size, inside the kernel. Tells `progress` of every
/// part that was copied, and ends with its error.
pub(super) fn copy(
    from: &File,
    to: &File,
    size: ByteCount,
    progress: &mut dyn FnMut(ByteCount) -> io::Result<()>,
) -> io::Result<()> {
    for run in runs(from, Extent::whole(size))?.iter().filter(|run| !run.hole) {
        let mut at = run.extent.offset;
        while at < run.extent.end() {
            let (mut read, mut write) = (at, at);
            let len = usize::try_from((run.extent.end() - at).min(STRIDE)).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), len) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    at += n as u64;
                    progress(ByteCount::new(n as u64).unwrap_or(ByteCount::MAX))?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 256 << 10).unwrap();
        file.write_all_at(&[2; 4096], 512 << 10).unwrap();
        file
    }

    #[test]
    fn runs_start_and_end_where_they_are_asked_to() {
        let file = sparse();
        let run = |offset: u64, end: u64, hole| Run { extent: Extent { offset, len: end - offset }, hole };
        let first = 256 << 10;
        let middle = Extent { offset: first + 100, len: 100 };
        assert_eq!(runs(&file, middle).unwrap(), [run(first + 100, first + 200, false)]);
        let across = Extent { offset: first - 5, len: 4096 + 10 };
        let expected =
            [run(first - 5, first, true), run(first, first + 4096, false), run(first + 4096, first + 4101, true)];
        assert_eq!(runs(&file, across).unwrap(), expected);
        assert_eq!(runs(&file, Extent { offset: 7, len: 0 }).unwrap(), []);
    }

    #[test]
    fn a_copy_ends_when_it_is_told_to() {
        let to = tempfile::tempfile().unwrap();
        let mut copied = 0;
        let ended = copy(&sparse(), &to, ByteCount::mib(1), &mut |part| {
            copied += part.get();
            Err(io::ErrorKind::Interrupted.into())
        });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(copied, 4096);
    }
}
