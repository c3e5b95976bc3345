//! Bytes of which those that are zero take no room. Copies share what they have in common.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::domain::{ByteCount, Extent, Extents};
use crate::store::{GRANULE, Run, is_zero};

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Sparse(BTreeMap<u64, Arc<Vec<u8>>>);

impl Sparse {
    pub(super) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, at) = (offset / GRANULE as u64, offset as usize % GRANULE);
            let now = bytes.len().min(GRANULE - at);
            if !is_zero(&bytes[..now]) || self.0.contains_key(&index) {
                let granule = Arc::make_mut(self.0.entry(index).or_insert_with(|| Arc::new(vec![0; GRANULE])));
                granule[at..at + now].copy_from_slice(&bytes[..now]);
            }
            offset += now as u64;
            bytes = &bytes[now..];
        }
    }

    pub(super) fn read(&self, mut offset: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let (index, at) = (offset / GRANULE as u64, offset as usize % GRANULE);
            let now = into.len().min(GRANULE - at);
            let (part, rest) = into.split_at_mut(now);
            match self.0.get(&index) {
                Some(granule) => part.copy_from_slice(&granule[at..at + now]),
                None => part.fill(0),
            }
            offset += now as u64;
            into = rest;
        }
    }

    /// Loses all from here on.
    pub(super) fn truncate(&mut self, len: u64) {
        self.0.split_off(&len.div_ceil(GRANULE as u64));
        let at = len as usize % GRANULE;
        if let Some(last) = self.0.get_mut(&(len / GRANULE as u64)).filter(|_| at > 0) {
            Arc::make_mut(last)[at..].fill(0);
        }
    }

    /// Loses all of this range.
    pub(super) fn zero(&mut self, range: Range<u64>) {
        let granule = GRANULE as u64;
        let (first, last) = (range.start / granule, range.end.div_ceil(granule));
        let indices: Vec<u64> = self.0.range(first..last).map(|(index, _)| *index).collect();
        for index in indices {
            let start = range.start.max(index * granule);
            let end = range.end.min((index + 1) * granule);
            if end - start == granule {
                self.0.remove(&index);
            } else if let Some(held) = self.0.get_mut(&index) {
                Arc::make_mut(held)[(start - index * granule) as usize..(end - index * granule) as usize].fill(0);
            }
        }
    }

    /// Loses all but these ranges.
    pub(super) fn keep_only(&mut self, kept: &Extents) {
        let mut at = 0;
        let end = self.0.last_key_value().map_or(0, |(index, _)| (index + 1) * GRANULE as u64);
        while let Some(gap) = kept.first_gap(at..end.max(at)) {
            at = gap.end;
            self.zero(gap);
        }
    }

    /// Takes an extent of another over, which begins here at `to`. The two share what they can.
    pub(super) fn take_over(&mut self, other: &Self, from: Extent, to: u64, shares: bool) {
        self.zero(to..to + from.len);
        for run in other.runs(from).iter().filter(|run| !run.hole) {
            let mut bytes = vec![0; run.extent.len as usize];
            other.read(run.extent.offset, &mut bytes);
            self.write(to + (run.extent.offset - from.offset), &bytes);
        }
        let granule = GRANULE as u64;
        if !shares || from.offset % granule != to % granule {
            return;
        }
        for index in from.offset.div_ceil(granule)..from.end() / granule {
            if let Some(shared) = other.0.get(&index) {
                self.0.insert((index * granule - from.offset + to) / granule, shared.clone());
            }
        }
    }

    /// The offset behind the last byte that takes room.
    pub(super) fn end(&self) -> ByteCount {
        let end = self.0.last_key_value().map_or(0, |(index, _)| (index + 1) * GRANULE as u64);
        ByteCount::new(end).unwrap_or(ByteCount::MAX)
    }

    /// A copy that shares nothing.
    pub(super) fn unshared(&self) -> Self {
        Self(self.0.iter().map(|(index, granule)| (*index, Arc::new(granule.to_vec()))).collect())
    }

    /// The runs of data and holes of an extent.
    pub(super) fn runs(&self, within: Extent) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = within.offset;
        while at < within.end() {
            let index = at / GRANULE as u64;
            let end = within.end().min((index + 1) * GRANULE as u64);
            let hole = !self.0.contains_key(&index);
            match runs.last_mut() {
                Some(last) if last.hole == hole => last.extent.len += end - at,
                _ => runs.push(Run { extent: Extent { offset: at, len: end - at }, hole }),
            }
            at = end;
        }
        runs
    }

    /// The room that it takes.
    pub(super) fn taken(&self) -> u64 {
        (self.0.len() * GRANULE) as u64
    }

    /// The room that it takes beside what was `seen`, to which it is added.
    pub(super) fn taken_beside(&self, seen: &mut HashSet<*const Vec<u8>>) -> u64 {
        let new = self.0.values().filter(|granule| seen.insert(Arc::as_ptr(granule))).count();
        (new * GRANULE) as u64
    }
}
