//! The thread engine: blocking calls on a few threads of its own. Works on every kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::engine::Operation;

/// What leads to the threads. Unbounded, because the block budget bounds what can be queued.
pub(super) type Queue = mpsc::Sender<Operation>;

/// The threads behind [`super::IoEngine::Threads`].
#[derive(Clone, Debug)]
pub struct Threads {
    queue: Queue,
}

impl Threads {
    pub(super) fn start(threads: usize) -> Self {
        start(threads, perform)
    }

    /// An engine whose operations fail as `faults` says.
    #[cfg(test)]
    pub(crate) fn faulty(threads: usize, faults: &Arc<Faults>) -> Self {
        let faults = Arc::clone(faults);
        start(threads, move |operation| match faults.strike(&operation) {
            None => perform(operation),
            Some(fault) => fail(operation, fault),
        })
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }
}

fn start(threads: usize, work: impl Fn(Operation) + Clone + Send + 'static) -> Threads {
    let (queue, operations) = mpsc::channel();
    let operations = Arc::new(Mutex::new(operations));
    for n in 0..threads.max(1) {
        let operations = Arc::clone(&operations);
        let work = work.clone();
        let serve = move || {
            while let Some(operation) = next(&operations) {
                // A dropped operation answers that it failed, and the others need this thread.
                let _ = catch_unwind(AssertUnwindSafe(|| work(operation)));
            }
        };
        thread::Builder::new().name(format!("longshore-io-{n}")).spawn(serve).expect("the system gives a thread");
    }
    Threads { queue }
}

/// One thread waits in the channel, the others for the lock. `None` once every sender is gone and the queue is empty.
fn next(operations: &Mutex<mpsc::Receiver<Operation>>) -> Option<Operation> {
    operations.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn perform(operation: Operation) {
    // The answers may have nobody waiting: that is what dropping a future means.
    match operation {
        Operation::Write { file, data, range, offset, done } => {
            let outcome = file.write_all_at(&data[range], offset);
            drop((file, data));
            let _ = done.send(outcome);
        }
        Operation::Read { file, mut loan, len, offset } => {
            let outcome = fill(&file, &mut loan.as_mut()[..len], offset);
            drop(file);
            loan.settle(outcome);
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What a test makes fail: the error number, or 0 for none.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Of every write.
    pub(crate) write: std::sync::atomic::AtomicI32,
}

#[cfg(test)]
impl Faults {
    fn strike(&self, operation: &Operation) -> Option<io::Error> {
        use std::sync::atomic::Ordering::SeqCst;
        let number = match operation {
            Operation::Write { .. } => self.write.load(SeqCst),
            Operation::Read { .. } => 0,
        };
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }
}

#[cfg(test)]
fn fail(operation: Operation, fault: io::Error) {
    match operation {
        Operation::Write { done, .. } => drop(done.send(Err(fault))),
        Operation::Read { loan, .. } => loan.settle(Err(fault)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::domain::ByteCount;
    use crate::io::{IoEngine, Pool, SharedFile};

    #[tokio::test]
    async fn a_panic_in_one_operation_fails_it_and_ends_no_thread() {
        let is_first = Arc::new(AtomicBool::new(true));
        let engine = IoEngine::Threads(start(1, move |operation| {
            assert!(!is_first.swap(false, Ordering::SeqCst), "a fault of the engine");
            perform(operation);
        }));
        let file = engine.adopt(SharedFile::from(tempfile::tempfile().unwrap()));
        let block = Pool::new(ByteCount::mib(16)).take().await.freeze();
        assert!(file.write_at(block.clone(), 0..1, 0).await.is_err());
        file.write_at(block, 0..1, 0).await.unwrap();
    }
}
