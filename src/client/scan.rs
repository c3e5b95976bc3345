//! What of a source is zero: by its holes, and by its content.
//!
//! Zeros are told to the server by a request of their own, so that they do not go over the line. Short runs are sent,
//! which costs less than to tell of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::domain::{PIECE, is_zero};

/// The shortest run of zeros that is told, and the unit in which content is looked at.
pub(super) const RUN: u64 = 1 << 20;

/// The most bytes that one connection takes at a time.
const LARGEST_SHARE: u64 = 64 << 20;

/// Returns how many of so many bytes one of the connections takes at a time: all have some, and the last to end keeps
/// the others idle for a short while only. Each costs a request, and a flush on the side that stores.
pub(super) fn share(bytes: u64, connections: usize) -> u64 {
    let share = bytes / (4 * connections.max(1) as u64);
    share.next_multiple_of(PIECE).clamp(PIECE, LARGEST_SHARE)
}

/// A stretch of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) range: Range<u64>,
    pub(super) is_zero: bool,
}

/// Returns the holes in a file that are worth to be told, in order. Moves the file's offset.
pub(super) fn holes(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // No data behind this.
            Err(Errno::NXIO) => size,
            // Devices and some file systems have no holes.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if data - at >= RUN {
            holes.push(at..data);
        }
        if data == size {
            break;
        }
        at = seek(file, SeekFrom::Hole(data))?;
    }
    Ok(holes)
}

/// Cuts what is to be moved into holes, which are whole, and windows, whose content is still to be looked at.
pub(super) fn windows(missing: &[Range<u64>], holes: &[Range<u64>], window: u64) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut cut = |range: Range<u64>, is_zero: bool| {
        let mut at = range.start;
        while at < range.end {
            let end = if is_zero { range.end } else { range.end.min((at / window + 1) * window) };
            stretches.push(Stretch { range: at..end, is_zero });
            at = end;
        }
    };
    let mut holes = holes.iter().peekable();
    for range in missing {
        let mut at = range.start;
        while at < range.end {
            while holes.next_if(|hole| hole.end <= at).is_some() {}
            let hole = holes.peek().map_or(range.end..range.end, |hole| (*hole).clone());
            let (start, end) = (hole.start.clamp(at, range.end), hole.end.min(range.end));
            cut(at..start, false);
            cut(start..end, true);
            at = end.max(start);
        }
    }
    stretches
}

/// Tells the runs of zeros in a range of a file from the rest. Blocks.
pub(super) fn by_content(file: &File, range: Range<u64>) -> io::Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    let mut unit = vec![0; RUN as usize];
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / RUN + 1) * RUN);
        let unit = &mut unit[..(end - at) as usize];
        file.read_exact_at(unit, at)?;
        // A part of a unit is sent, whatever it has.
        add(&mut stretches, at..end, end - at == RUN && is_zero(unit));
        at = end;
    }
    Ok(stretches)
}

/// Tells the runs of zeros in bytes that begin at this offset from the rest.
pub(super) fn of_bytes(bytes: &[u8], offset: u64) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut at = offset;
    for unit in bytes.chunks(RUN as usize) {
        let end = at + unit.len() as u64;
        add(&mut stretches, at..end, unit.len() as u64 == RUN && is_zero(unit));
        at = end;
    }
    stretches
}

fn add(stretches: &mut Vec<Stretch>, range: Range<u64>, is_zero: bool) {
    match stretches.last_mut() {
        Some(last) if last.is_zero == is_zero && last.range.end == range.start => last.range.end = range.end,
        _ => stretches.push(Stretch { range, is_zero }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(range: Range<u64>) -> Stretch {
        Stretch { range, is_zero: false }
    }

    fn zero(range: Range<u64>) -> Stretch {
        Stretch { range, is_zero: true }
    }

    #[test]
    fn long_holes_are_found_and_short_ones_are_data() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(holes(&file, 0).unwrap(), []);
        file.set_len(20 << 20).unwrap();
        assert_eq!(holes(&file, 20 << 20).unwrap(), std::iter::once(0..20 << 20).collect::<Vec<_>>());
        file.write_all_at(&[1; 4096], 8 << 20).unwrap();
        file.write_all_at(&[1; 4096], (8 << 20) + (256 << 10)).unwrap();
        let found = holes(&file, 20 << 20).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].clone(), found[1].end), (0..8 << 20, 20 << 20));
        assert!(found[1].start > (8 << 20) + (256 << 10), "{found:?}");
    }

    #[test]
    fn every_connection_has_a_share_of_whole_pieces() {
        for (bytes, connections, right) in [
            (0, 4, PIECE),
            (PIECE + 1, 1, PIECE),
            (48 << 20, 4, 4 << 20),
            (81 << 20, 4, 8 << 20),
            (48 << 20, 0, 12 << 20),
            (1 << 40, 4, LARGEST_SHARE),
        ] {
            assert_eq!(share(bytes, connections), right, "{bytes} over {connections}");
        }
    }

    #[test]
    fn windows_cover_what_is_missing_and_leave_holes_whole() {
        let cut = windows(&[5..25, 40..60], &[0..7, 12..45], 10);
        assert_eq!(
            cut,
            [zero(5..7), data(7..10), data(10..12), zero(12..25), zero(40..45), data(45..50), data(50..60)]
        );
        assert_eq!(windows(&[0..15, 15..25], &[], 10), [data(0..10), data(10..15), data(15..20), data(20..25)]);
        assert_eq!(windows(&[], &[0..9, 12..30], 10), []);
    }

    proptest! {
        #[test]
        fn windows_are_what_is_missing_and_no_more(
            missing in prop::collection::btree_set(0_u64..200, 0..12),
            holes in prop::collection::btree_set(0_u64..200, 0..12),
            window in 1_u64..50,
        ) {
            let ranges = |bounds: std::collections::BTreeSet<u64>| {
                let bounds: Vec<u64> = bounds.into_iter().collect();
                bounds.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect::<Vec<_>>()
            };
            let (missing, holes) = (ranges(missing), ranges(holes));
            let cut = windows(&missing, &holes, window);
            for at in 0..200 {
                let found: Vec<&Stretch> = cut.iter().filter(|stretch| stretch.range.contains(&at)).collect();
                let is_missing = missing.iter().any(|range| range.contains(&at));
                prop_assert_eq!(found.len(), usize::from(is_missing));
                if let [one] = found[..] {
                    prop_assert_eq!(one.is_zero, holes.iter().any(|hole| hole.contains(&at)));
                }
            }
        }
    }

    #[test]
    fn zeros_within_data_are_found_by_content() {
        let file = tempfile::tempfile().unwrap();
        let end = 6 * RUN + 9;
        let mut bytes = vec![0; end as usize];
        bytes[0] = 1;
        bytes[(3 * RUN) as usize] = 1;
        file.write_all_at(&bytes, 0).unwrap();
        let whole =
            [data(0..RUN), zero(RUN..3 * RUN), data(3 * RUN..4 * RUN), zero(4 * RUN..6 * RUN), data(6 * RUN..end)];
        assert_eq!(by_content(&file, 0..end).unwrap(), whole);
        assert_eq!(of_bytes(&bytes, 0), whole);
        // Units lie at their multiples, wherever a range begins.
        let from = RUN + 5;
        assert_eq!(by_content(&file, from..3 * RUN).unwrap(), [data(from..2 * RUN), zero(2 * RUN..3 * RUN)]);
        assert_eq!(by_content(&file, 5..5).unwrap(), []);
        assert!(by_content(&file, 0..end + 1).is_err(), "the file is shorter than it was");
    }
}
