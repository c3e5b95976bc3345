//! Limits the requests of each tenant: by a token bucket that is filled evenly and holds what a second brings.
//!
//! `governor` counts the same way, but its map of keys has no bound, and to give it our clock takes as many lines as
//! the counting.

use std::sync::{Mutex, PoisonError};

use super::recent::Recent;
use crate::domain::{Fault, FaultKind, TenantId, UnixTime};

/// The most tenants that are remembered; one that is forgotten begins with a full bucket.
const REMEMBERED: usize = 16_384;

/// The rates of all tenants.
pub(super) struct Rates {
    per_second: f64,
    buckets: Mutex<Recent<TenantId, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Requests that may be made at once.
    left: f64,
    at: UnixTime,
}

impl Rates {
    /// Allows each tenant this many requests per second, and as many at once.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), buckets: Mutex::new(Recent::new(REMEMBERED)) }
    }

    /// Counts a request; refuses it when the bucket is empty.
    pub(super) fn take(&self, tenant: TenantId, now: UnixTime) -> Result<(), Fault> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { left: self.per_second, at: now };
        let mut bucket = buckets.get(&tenant, UnixTime(i64::MIN)).copied().unwrap_or(full);
        // A clock that was set back adds nothing.
        let passed = (now.0 - bucket.at.0).max(0) as f64 / 1e3;
        bucket.left = (bucket.left + passed * self.per_second).min(self.per_second);
        bucket.at = now;
        let is_taken = bucket.left >= 1.0;
        if is_taken {
            bucket.left -= 1.0;
        }
        buckets.put(tenant, now, bucket);
        if is_taken {
            return Ok(());
        }
        let wait = ((1.0 - bucket.left) / self.per_second).ceil().max(1.0);
        Err(Fault::new(FaultKind::Throttled { retry_after: wait as u32 }, "This request was rate-limited."))
    }
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rates({} per second)", self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_refused_above_its_rate_and_nobody_else_is() {
        let rates = Rates::new(10);
        let (one, other) = (TenantId::random(), TenantId::random());
        for _ in 0..10 {
            rates.take(one, UnixTime(5_000)).unwrap();
        }
        let refused = rates.take(one, UnixTime(5_000)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Throttled { retry_after: 1 });
        rates.take(other, UnixTime(5_000)).unwrap();
        rates.take(one, UnixTime(5_100)).unwrap();
        assert!(rates.take(one, UnixTime(5_100)).is_err());
        assert!(rates.take(one, UnixTime(4_000)).is_err(), "a clock that was set back");
        for _ in 0..10 {
            rates.take(one, UnixTime(60_000)).unwrap();
        }
        assert!(rates.take(one, UnixTime(60_000)).is_err(), "no more is saved than a second brings");
    }
}
