//! What those who leave work to others and those who do it know of each other.

use std::sync::Arc;

use tokio::sync::Notify;

/// A job that was lost by an accident of the disk is tried again this often.
pub(super) const ATTEMPTS: u32 = 3;

/// The bells of the workers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Bells {
    /// Rung when there is a job.
    pub(super) work: Arc<Notify>,
    /// Rung when a job has ended, or is to be tried again.
    pub(super) ended: Arc<Notify>,
}

impl Bells {
    /// Wakes the workers.
    pub(super) fn wake(&self) {
        self.work.notify_waiters();
    }
}
