//! A limit on the bytes that are moved in a second, by all connections together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The bytes that are moved at once when nothing limits them.
const MOST: u64 = 1 << 20;
/// The fewest, however low the limit is.
const LEAST: u64 = 16 << 10;

/// The limit; every clone of it counts for the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    /// Bytes in a second.
    rate: u64,
    /// The time at which the next bytes may pass.
    free: Mutex<Instant>,
}

impl Throttle {
    /// Limits to this many bytes in a second.
    pub(super) fn new(rate: u64) -> Self {
        Self(Some(Arc::new(Limit { rate: rate.max(1), free: Mutex::new(Instant::now()) })))
    }

    /// Returns the most bytes to move at once: those of a quarter of a second.
    pub(super) fn chunk(&self) -> u64 {
        self.0.as_ref().map_or(MOST, |limit| (limit.rate / 4).clamp(LEAST, MOST))
    }

    /// Waits until these bytes may pass.
    pub(super) async fn pass(&self, bytes: u64) {
        let Some(limit) = &self.0 else { return };
        let until = {
            let mut free = limit.free.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = (*free).max(Instant::now());
            *free = begins + Duration::from_secs_f64(bytes as f64 / limit.rate as f64);
            begins
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_of_the_limit_by_whatever_connection() {
        let (throttle, began) = (Throttle::new(1000), Instant::now());
        assert_eq!(throttle.chunk(), LEAST);
        let other = throttle.clone();
        for _ in 0..5 {
            tokio::join!(throttle.pass(1000), other.pass(1000));
        }
        assert_eq!(began.elapsed().as_secs(), 9);
        Throttle::default().pass(u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), 9);
    }
}
