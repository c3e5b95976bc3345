//! A flush that those share who ask for it together.
//!
//! # Invariants
//! - Whoever asks is answered by a flush that began after they asked.
//! - A flush that fails fails for everyone it was for, and is not tried again (I5).

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Makes one thing durable, for all who ask.
pub(super) struct SharedFlush {
    flush: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    is_running: bool,
    /// The flush that has not begun, which is that of whoever asks now.
    next: Arc<Round>,
}

/// One flush, and its outcome.
type Round = OnceLock<Result<(), Failure>>;

/// An [`io::Error`] that can be told to many.
#[derive(Clone, Copy)]
struct Failure {
    number: Option<i32>,
    kind: io::ErrorKind,
}

impl SharedFlush {
    pub(super) fn new(flush: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { flush: Box::new(flush), state: Mutex::default(), ended: Condvar::new() }
    }

    /// Flushes, or waits until another has: in either case all that was done before this call is durable. Blocks.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let mine = Arc::clone(&state.next);
        while mine.get().is_none() && state.is_running {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let outcome = match mine.get() {
            Some(outcome) => *outcome,
            None => self.run(state, &mine),
        };
        outcome.map_err(|failure| failure.number.map_or(failure.kind.into(), io::Error::from_raw_os_error))
    }

    /// Runs the next flush; those who come from now on wait for the one after it.
    fn run(&self, mut state: MutexGuard<'_, State>, mine: &Round) -> Result<(), Failure> {
        state.is_running = true;
        state.next = Arc::default();
        drop(state);
        let outcome = (self.flush)().map_err(|error| Failure { number: error.raw_os_error(), kind: error.kind() });
        let mut state = self.state();
        state.is_running = false;
        let outcome = *mine.get_or_init(|| outcome);
        drop(state);
        self.ended.notify_all();
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use super::*;

    /// Each waits for a flush that began after its own change; many share one.
    #[test]
    fn everyone_s_change_is_in_the_flush_that_answers_them() {
        let changes = Arc::new(AtomicU64::new(0));
        let flushed = Arc::new(AtomicU64::new(0));
        let count = Arc::new(AtomicU64::new(0));
        let flush = {
            let (changes, flushed, count) = (changes.clone(), flushed.clone(), count.clone());
            SharedFlush::new(move || {
                let seen = changes.load(Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
                flushed.store(seen, Ordering::SeqCst);
                Ok(())
            })
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mine = changes.fetch_add(1, Ordering::SeqCst) + 1;
                        flush.flush().unwrap();
                        assert!(flushed.load(Ordering::SeqCst) >= mine, "acknowledged before it was flushed");
                    }
                });
            }
        });
        assert!(count.load(Ordering::SeqCst) <= 4000);
    }

    #[test]
    fn those_who_wait_together_share_one_flush_and_its_failure_and_the_next_is_anew() {
        const TOGETHER: usize = 5;
        let (began, running) = mpsc::channel();
        let gate = Arc::new(Barrier::new(2));
        let rounds = Arc::new(AtomicU64::new(0));
        let flush = {
            let (gate, rounds) = (gate.clone(), rounds.clone());
            Arc::new(SharedFlush::new(move || {
                let round = rounds.fetch_add(1, Ordering::SeqCst);
                began.send(round).unwrap();
                gate.wait();
                if round == 1 { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
            }))
        };
        let ask = |flush: &Arc<SharedFlush>| {
            let flush = Arc::clone(flush);
            thread::spawn(move || flush.flush().map_err(|error| error.raw_os_error()))
        };
        let first = ask(&flush);
        assert_eq!(running.recv().unwrap(), 0);
        let together: Vec<_> = (0..TOGETHER).map(|_| ask(&flush)).collect();
        // All of them hold the round that has not begun: the state's own is one more.
        while Arc::strong_count(&flush.state().next) < TOGETHER + 1 {
            thread::yield_now();
        }
        gate.wait();
        assert_eq!(first.join().unwrap(), Ok(()));
        assert_eq!(running.recv().unwrap(), 1);
        gate.wait();
        for one in together {
            assert_eq!(one.join().unwrap(), Err(Some(rustix::io::Errno::IO.raw_os_error())));
        }
        let last = ask(&flush);
        assert_eq!(running.recv().unwrap(), 2, "nobody flushed for themselves");
        gate.wait();
        assert_eq!(last.join().unwrap(), Ok(()));
    }
}
