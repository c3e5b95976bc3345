//! Asks again what a cut line or a busy server broke.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::{ClientError, Meter};

/// The first pause before a request is sent again.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(20);

/// Calls `attempt` until it succeeds, or fails by what does not pass, or nothing of the transfer is done for
/// `patience`.
pub(super) async fn persist<T>(
    patience: Duration,
    meter: &Meter,
    mut attempt: impl AsyncFnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut since = Instant::now();
    let mut done = meter.done();
    let mut pause = FIRST;
    loop {
        let error = match attempt().await {
            Err(error) if error.is_passing() => error,
            ended => return ended,
        };
        if meter.done() != done {
            (since, done, pause) = (Instant::now(), meter.done(), FIRST);
        }
        if since.elapsed() >= patience {
            return Err(ClientError::GaveUp(patience, Box::new(error)));
        }
        let wished = match &error {
            ClientError::Refused { retry, .. } => retry.unwrap_or_default().min(patience),
            _ => Duration::ZERO,
        };
        // Connections that broke together do not come back together.
        let waits = wished.max(pause).mul_f64(rand::rng().random_range(1.0..1.5));
        meter.note(format!("{error}; trying again in {:.1} s", waits.as_secs_f64()));
        sleep(waits).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_asked_again_until_nothing_was_done_for_too_long() {
        let meter = Meter::default();
        let patience = Duration::from_mins(1);
        let mut asked = 0;
        let answer = persist(patience, &meter, async || {
            asked += 1;
            // Progress elsewhere keeps the patience up.
            meter.add_done(u64::from(asked < 50));
            if asked < 50 { Err(ClientError::Stalled(patience)) } else { Ok(asked) }
        });
        assert_eq!(answer.await.unwrap(), 50);
        let began = Instant::now();
        let gave_up = persist(patience, &meter, async || Err::<(), _>(ClientError::Stalled(patience))).await;
        assert!(matches!(gave_up, Err(ClientError::GaveUp(..))), "{gave_up:?}");
        assert!(began.elapsed() >= patience);
    }

    #[tokio::test]
    async fn what_does_not_pass_is_asked_once() {
        let (mut asked, meter) = (0, Meter::default());
        let refused = persist(Duration::from_mins(1), &meter, async || {
            asked += 1;
            Err::<(), _>(ClientError::DriveChanged)
        });
        assert!(matches!(refused.await, Err(ClientError::DriveChanged)));
        assert_eq!(asked, 1);
    }
}
