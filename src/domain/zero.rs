//! Finds the runs of zeros that need not be written.

use std::ops::Range;

/// The unit in which data is told from zeros. A finer one (4 KiB) costs more in calls than it saves on disk.
pub const GRANULE: usize = 64 << 10;

/// Whether every byte is zero. Data is told by its first bytes, as a rule.
pub fn is_zero(bytes: &[u8]) -> bool {
    const HEAD: usize = 16;
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return bytes.iter().all(|&byte| byte == 0);
    };
    // Equal to itself shifted, and zero at the start: zero throughout. The comparison is one call of `memcmp`.
    *head == [0; HEAD] && *rest == bytes[..rest.len()]
}

/// The runs of `bytes` that are not zero, in order, in whole granules from the start of `bytes`.
pub fn data_runs(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_data = |at: &usize| !is_zero(&bytes[*at..bytes.len().min(*at + GRANULE)]);
        let start = (at..bytes.len()).step_by(GRANULE).find(is_data)?;
        let end = (start..bytes.len()).step_by(GRANULE).find(|at| !is_data(at)).unwrap_or(bytes.len());
        at = end;
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_byte_anywhere_is_seen() {
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 100, GRANULE] {
            assert!(is_zero(&vec![0; len]), "{len}");
            for at in (0..len).step_by(len.div_ceil(97).max(1)).chain(len.checked_sub(1)) {
                let mut bytes = vec![0; len];
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn runs_hold_all_data_and_no_whole_granule_of_zeros(
            granules in prop::collection::vec(any::<bool>(), 0..12),
            tail in 0..GRANULE,
            spot in 0..GRANULE,
        ) {
            let mut bytes = vec![0; granules.len() * GRANULE + tail];
            for (n, _) in granules.iter().enumerate().filter(|(_, data)| **data) {
                bytes[n * GRANULE + spot] = 1;
            }
            let mut end = 0;
            let mut covered = vec![false; granules.len()];
            for run in data_runs(&bytes) {
                prop_assert!(run.start >= end && run.start < run.end && run.end <= bytes.len());
                prop_assert_eq!(run.start % GRANULE, 0);
                end = run.end;
                for granule in &mut covered[run.start / GRANULE..run.end.div_ceil(GRANULE)] {
                    *granule = true;
                }
            }
            prop_assert_eq!(covered, granules);
        }
    }
}
