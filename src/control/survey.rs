//! Where a drive has data.

use std::io;
use std::ops::Range;

use crate::domain::{Extent, Extents};
use crate::store::Image;

/// The most holes that are told.
const MOST: usize = 8192;
/// The bytes that are looked through at once: of as many runs as it may have, 2 MiB of memory.
const WINDOW: u64 = 256 << 20;

/// The extents of an image that may have data; all else is holes. Of very many holes the shorter ones count as data.
///
/// # Cancellation
/// Dropping it is safe; a thread may look through a window more.
pub(super) async fn data_of(image: &dyn Image) -> io::Result<Extents> {
    let size = image.size().get();
    let mut holes = Holes::default();
    for start in (0..size).step_by(WINDOW as usize) {
        let window = Extent { offset: start, len: WINDOW.min(size - start) };
        let runs = image.runs(window).await?;
        runs.into_iter().filter(|run| run.hole).for_each(|run| holes.add(run.extent.range()));
    }
    let mut data = Extents::default();
    data.insert(0..size);
    holes.found.iter().for_each(|hole| data.remove(hole.clone()));
    Ok(data)
}

/// Holes in order, of which the longest are kept.
#[derive(Default)]
struct Holes {
    found: Vec<Range<u64>>,
    least: u64,
}

impl Holes {
    fn add(&mut self, hole: Range<u64>) {
        match self.found.last_mut() {
            Some(last) if last.end == hole.start => last.end = hole.end,
            _ => self.found.push(hole),
        }
        while self.found.len() > MOST {
            self.least = (self.least * 2).max(4096);
            self.found.retain(|hole| hole.end - hole.start >= self.least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_holes_the_longest_are_kept() {
        let mut holes = Holes::default();
        holes.add(0..100);
        holes.add(100..1 << 30);
        for n in 1..20_000_u64 {
            let start = (n << 30) + 8192;
            holes.add(start..start + if n % 4 == 0 { 1 << 20 } else { 4096 });
        }
        assert_eq!(holes.found.first(), Some(&(0..1 << 30)));
        assert!(holes.found.len() <= MOST);
        let long = holes.found.iter().filter(|hole| hole.end - hole.start >= 1 << 20);
        assert_eq!(long.count(), 5000);
    }
}
