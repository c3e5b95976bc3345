//! A set of numbers as merged ranges: the bytes or pieces that a volume has.

use std::iter;
use std::ops::Range;

/// A set of ranges in ascending order; none is empty, and no two overlap or touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<Range<u64>>);

impl Extents {
    /// Returns the set of these ranges; `None` unless they are in the form that a set keeps.
    pub fn from_sorted(ranges: Vec<Range<u64>>) -> Option<Self> {
        let is_apart = ranges.is_sorted_by(|one, next| one.end < next.start);
        (is_apart && ranges.iter().all(|range| range.start < range.end)).then_some(Self(ranges))
    }

    /// Adds a range, which may overlap others.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            // Most ranges come in order.
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if last.end > range.start => {
                let met = self.met(range.start, range.end);
                let start = self.0[met.clone()].first().map_or(range.start, |first| first.start.min(range.start));
                let end = self.0[met.clone()].last().map_or(range.end, |last| last.end.max(range.end));
                self.0.splice(met, iter::once(start..end));
            }
            _ => self.0.push(range),
        }
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() || self.0.last().is_none_or(|last| last.end <= range.start) {
            return;
        }
        let met = self.met(range.start, range.end);
        let kept: Vec<_> = self.0[met.clone()]
            .iter()
            .flat_map(|part| [part.start..part.end.min(range.start), part.start.max(range.end)..part.end])
            .filter(|part| !part.is_empty())
            .collect();
        self.0.splice(met, kept);
    }

    /// Reports whether a range that begins here would be merged with another.
    pub fn touches(&self, start: u64) -> bool {
        !self.met(start, start).is_empty()
    }

    /// Returns the parts of this range that are in the set, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let cut = move |part: &Range<u64>| part.start.max(range.start)..part.end.min(range.end);
        self.0[self.met(range.start, range.end)].iter().map(cut).filter(|part| !part.is_empty())
    }

    /// Returns the first part of this range that is not in the set.
    pub fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut parts = self.within(range.clone()).peekable();
        let start = parts.next_if(|part| part.start == range.start).map_or(range.start, |part| part.end);
        let end = parts.next().map_or(range.end, |part| part.start);
        Some(start..end).filter(|gap| !gap.is_empty())
    }

    /// Returns all ranges, in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Returns the count of numbers in the set.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Returns the indices of the ranges that overlap or touch `start..end`.
    fn met(&self, start: u64, end: u64) -> Range<usize> {
        let first = self.0.partition_point(|part| part.end < start);
        let count = self.0[first..].partition_point(|part| part.start <= end);
        first..first + count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_a_list_of_all_its_numbers_would(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..25), 0..40),
            asked in (0u64..60, 0u64..30),
        ) {
            let (mut set, mut model) = (Extents::default(), [false; 100]);
            for (is_added, start, len) in steps {
                let range = start..start + len;
                model[start as usize..(start + len) as usize].fill(is_added);
                if is_added { set.insert(range) } else { set.remove(range) }
                prop_assert!(Extents::from_sorted(set.ranges().to_vec()).is_some(), "{:?}", set);
                let told: Vec<u64> = set.ranges().iter().cloned().flatten().collect();
                let there: Vec<u64> = (0..100).filter(|number| model[*number as usize]).collect();
                prop_assert_eq!(set.total() as usize, there.len());
                prop_assert_eq!(told, there);
            }
            let asked = asked.0..asked.0 + asked.1;
            let told: Vec<u64> = set.within(asked.clone()).flatten().collect();
            let there: Vec<u64> = asked.clone().filter(|number| model[*number as usize]).collect();
            prop_assert_eq!(told, there);
            let gap: Vec<u64> = set.first_gap(asked.clone()).into_iter().flatten().collect();
            let missing = asked.clone().skip_while(|number| model[*number as usize]);
            prop_assert_eq!(gap, missing.take_while(|number| !model[*number as usize]).collect::<Vec<_>>());
            let is_merged = model[asked.start as usize] || asked.start > 0 && model[asked.start as usize - 1];
            prop_assert_eq!(set.touches(asked.start), is_merged);
        }
    }

    #[test]
    fn ranges_that_a_set_would_not_keep_make_none() {
        for ranges in [&[(3, 3)][..], &[(5, 6), (1, 2)], &[(1, 3), (3, 4)], &[(1, 4), (2, 3)], &[(4, 2)]] {
            let made = Extents::from_sorted(ranges.iter().map(|(start, end)| *start..*end).collect());
            assert_eq!(made, None, "{ranges:?}");
        }
    }
}
