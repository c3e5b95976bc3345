//! What clients of oVirt's imageio look for at a URL that takes or gives a drive.

use std::ops::Range;

use serde_json::{Value, json};

use crate::domain::{Extents, Fault, FaultKind};

/// The most connections of one client: each has blocks of its own, and more would only share the same disk.
const CONNECTIONS: u32 = 8;

/// What a URL can do.
pub(super) fn options(features: &[&str]) -> Value {
    json!({"features": features, "unix_socket": null, "max_readers": CONNECTIONS, "max_writers": CONNECTIONS})
}

/// Refuses extents of another kind than zeros and data: the other one is of incremental backups. A client that is
/// answered 404 knows that there are none.
pub(super) fn check_context(context: &str) -> Result<(), Fault> {
    let told = "extents are told with context=zero only";
    match context {
        "zero" => Ok(()),
        "dirty" => Err(Fault::new(FaultKind::NotFound, told)),
        _ => Err(Fault::invalid("context", told)),
    }
}

/// The stretches of a drive up to `end` in order, each with whether it is in the set.
pub(super) fn stretches(set: &Extents, end: u64) -> Vec<(Range<u64>, bool)> {
    let (mut stretches, mut at) = (Vec::new(), 0);
    for range in set.ranges() {
        stretches.push((at..range.start, false));
        stretches.push((range.clone(), true));
        at = range.end;
    }
    stretches.push((at..end, false));
    stretches.retain(|(range, _)| !range.is_empty());
    stretches
}

/// One of these as it is told. What is no data is a hole, and reads as zero.
pub(super) fn extent(range: &Range<u64>, is_zero: bool) -> Value {
    json!({"start": range.start, "length": range.end - range.start, "zero": is_zero, "hole": is_zero})
}
