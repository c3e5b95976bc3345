//! Sparse files: where their holes are, and copies that keep them. All of it blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::domain::{ByteCount, ContentId, Extent, PIECE, Pieces};
use crate::store::{CHANGED, Run, StoreError, piece_digest, stored_digest, zero_piece};

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

/// Copies the data of `from` into `to`, a file of holes, up to `size`, piece by piece: each is compared with its digest
/// before it is written, so that what has rotted is not copied. Tells `progress` of every part that was copied, and
/// ends with its error.
///
/// The kernel's own copy (`copy_file_range`) would save a copy in memory, and what it copied could not be known.
pub(super) fn copy_checked(
    (from, id): (&File, ContentId),
    to: &File,
    size: ByteCount,
    pieces: &Pieces,
    progress: &mut dyn FnMut(ByteCount) -> io::Result<()>,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; PIECE as usize];
    for index in 0..Pieces::spanned_by(size) {
        let start = index * PIECE;
        let piece = Extent { offset: start, len: (size.get() - start).min(PIECE) };
        let (actual, runs) = read_piece(from, piece, &mut buffer).map_err(|error| StoreError::of_read(id, error))?;
        if actual != stored_digest(pieces, index) {
            return Err(StoreError::Damaged(id, CHANGED));
        }
        for run in runs.iter().filter(|run| !run.hole) {
            let bytes = &buffer[(run.extent.offset - start) as usize..(run.extent.end() - start) as usize];
            to.write_all_at(bytes, run.extent.offset)?;
            progress(ByteCount::new(run.extent.len).unwrap_or(ByteCount::MAX))?;
        }
    }
    Ok(())
}

/// Fills the buffer with a piece of a file up to where it ends; its digest, and its runs, of which holes are not read.
pub(super) fn read_piece(file: &File, piece: Extent, buffer: &mut [u8]) -> io::Result<(u128, Vec<Run>)> {
    let bytes = &mut buffer[..piece.len as usize];
    let runs = runs(file, piece)?;
    for run in &runs {
        let into = &mut bytes[(run.extent.offset - piece.offset) as usize..(run.extent.end() - piece.offset) as usize];
        if run.hole {
            into.fill(0);
        } else {
            file.read_exact_at(into, run.extent.offset)?;
        }
    }
    let is_blank = runs.iter().all(|run| run.hole);
    Ok((if is_blank { zero_piece() } else { piece_digest(bytes) }, runs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pieces;

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

    fn pieces_of(file: &File) -> Pieces {
        let mut content = vec![0; length(file)];
        file.read_exact_at(&mut content, 0).unwrap();
        pieces::pieces_of(&content)
    }

    fn length(file: &File) -> usize {
        file.metadata().unwrap().len() as usize
    }

    #[test]
    fn a_copy_ends_when_it_is_told_to() {
        let (from, to) = (sparse(), tempfile::tempfile().unwrap());
        let mut copied = 0;
        let pieces = pieces_of(&from);
        let ended = copy_checked((&from, ContentId::random()), &to, ByteCount::mib(1), &pieces, &mut |part| {
            copied += part.get();
            Err(io::ErrorKind::Interrupted.into())
        });
        assert!(matches!(ended, Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::Interrupted));
        assert_eq!(copied, 4096);
    }

    #[test]
    fn a_copy_takes_no_piece_that_is_not_as_it_was_stored_and_no_hole_where_data_was() {
        let id = ContentId::random();
        let content: Vec<u8> = (0..3 * PIECE + 5000).map(|at| (at % 251) as u8).collect();
        let size = ByteCount::new(content.len() as u64).unwrap();
        let damages: [fn(&File); 4] = [
            |file| file.write_all_at(b"?", PIECE + 1).unwrap(),
            |file| file.write_all_at(b"?", 3 * PIECE + 4999).unwrap(),
            |file| {
                let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, flags, PIECE, PIECE).unwrap();
            },
            |_| {},
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all_at(&content, 0).unwrap();
            let pieces = pieces_of(&from);
            damage(&from);
            let copied = copy_checked((&from, id), &to, size, &pieces, &mut |_| Ok(()));
            if n < 3 {
                assert!(matches!(copied, Err(StoreError::Damaged(found, _)) if found == id), "{n}");
                assert!(length(&to) <= 3 * PIECE as usize, "what is behind the damage was copied");
            } else {
                copied.unwrap();
                let mut copy = vec![0; content.len()];
                to.read_exact_at(&mut copy, 0).unwrap();
                assert!(copy == content);
            }
        }
    }
}
