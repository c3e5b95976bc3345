//! The thread engine: blocking calls on threads of its own. Works on every kernel.
//!
//! # Invariants
//! - A file gets one more thread only while it has fewer than are free. A file whose calls hang, on a bad sector or a
//!   network file system, has half of the threads, a second one a quarter, and so on: each delays its own other calls,
//!   and several together do not delay all other files.
//! - Files with pending operations take turns.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::operation::Operation;

/// The fewest threads: three uploads with four writes each in flight leave as many free as a fourth may have. A thread
/// that waits costs nothing.
const LEAST: usize = 16;

/// The threads behind [`super::IoEngine::Threads`].
#[derive(Clone, Debug)]
pub struct Threads {
    users: Arc<Users>,
}

/// The queue of one file. Unbounded, because the block budget bounds its length.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    users: Arc<Users>,
    file: u64,
}

/// Ends the threads when it is dropped: no handle is left that could submit an operation.
#[derive(Debug)]
struct Users(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notifies one thread when another turn may be possible, and all threads at the end.
    work: Condvar,
    threads: usize,
}

#[derive(Debug, Default)]
struct State {
    next_file: u64,
    /// The files with pending or running operations.
    lanes: HashMap<u64, Lane>,
    /// The files with pending operations, each once, in the order of their turns.
    turns: VecDeque<u64>,
    running: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Operation>,
    running: usize,
}

impl Threads {
    pub(super) fn start(threads: usize) -> Self {
        start(threads.max(LEAST), perform)
    }

    /// Starts an engine whose operations fail as `faults` says.
    #[cfg(test)]
    pub(crate) fn faulty(threads: usize, faults: &Arc<Faults>) -> Self {
        let faults = Arc::clone(faults);
        start(threads, move |operation| match faults.strike(&operation) {
            None => perform(operation),
            Some(fault) => fail(operation, fault),
        })
    }

    /// Returns the queue of another file.
    pub(super) fn queue(&self) -> Queue {
        let mut state = self.users.0.state();
        state.next_file += 1;
        Queue { users: self.users.clone(), file: state.next_file }
    }
}

impl Queue {
    pub(super) fn send(&self, operation: Operation) {
        let shared = &self.users.0;
        let mut state = shared.state();
        let lane = state.lanes.entry(self.file).or_default();
        lane.waiting.push_back(operation);
        if lane.waiting.len() == 1 {
            state.turns.push_back(self.file);
        }
        let is_wanted = state.next(shared.threads).is_some();
        drop(state);
        if is_wanted {
            shared.work.notify_one();
        }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics between two changes of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs operations until none can be submitted any more and all are done.
    fn serve(&self, work: impl Fn(Operation)) {
        let mut state = self.state();
        loop {
            let Some((file, operation)) = state.take(self.threads) else {
                // The pending operations are of files that have threads, which go on with them.
                if state.ended {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // Another thread may take a further operation.
            if state.next(self.threads).is_some() {
                self.work.notify_one();
            }
            drop(state);
            // A dropped operation answers that it failed, and the others need this thread.
            let _ = catch_unwind(AssertUnwindSafe(|| work(operation)));
            state = self.state();
            state.done(file);
        }
    }
}

impl State {
    /// Returns the position in `turns` of the first file that may have one more thread.
    fn next(&self, threads: usize) -> Option<usize> {
        let free = threads.saturating_sub(self.running);
        self.turns.iter().position(|file| self.lanes.get(file).is_some_and(|lane| lane.running < free))
    }

    fn take(&mut self, threads: usize) -> Option<(u64, Operation)> {
        let file = self.turns.remove(self.next(threads)?)?;
        let lane = self.lanes.get_mut(&file)?;
        let operation = lane.waiting.pop_front()?;
        lane.running += 1;
        self.running += 1;
        if !lane.waiting.is_empty() {
            self.turns.push_back(file);
        }
        Some((file, operation))
    }

    fn done(&mut self, file: u64) {
        self.running -= 1;
        let Some(lane) = self.lanes.get_mut(&file) else { return };
        lane.running -= 1;
        if lane.running == 0 && lane.waiting.is_empty() {
            self.lanes.remove(&file);
        }
    }
}

fn start(threads: usize, work: impl Fn(Operation) + Clone + Send + 'static) -> Threads {
    let threads = threads.max(1);
    let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), threads });
    for n in 0..threads {
        let (shared, work) = (Arc::clone(&shared), work.clone());
        let serve = move || shared.serve(work);
        thread::Builder::new().name(format!("longshore-io-{n}")).spawn(serve).expect("the system gives a thread");
    }
    Threads { users: Arc::new(Users(shared)) }
}

fn perform(operation: Operation) {
    // A send fails when the future of the operation was dropped.
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

/// The failures that a test asks for, as error numbers; 0 for none.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The error of every write.
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
    use std::sync::mpsc;

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

    #[tokio::test]
    async fn files_whose_writes_hang_hold_up_no_other_file() {
        let (release, hangs) = mpsc::channel::<()>();
        let (hangs, gate) = (Arc::new(Mutex::new(hangs)), Arc::new(Mutex::new(0_u32)));
        let (tell, told) = mpsc::channel();
        let work = {
            let (hangs, gate) = (Arc::clone(&hangs), Arc::clone(&gate));
            move |operation: Operation| {
                let is_slow = matches!(&operation, Operation::Write { offset: 7, .. });
                if is_slow {
                    *gate.lock().unwrap() += 1;
                    let _ = tell.send(());
                    // Blocks until the other end is dropped.
                    let _ = hangs.lock().unwrap().recv();
                }
                perform(operation);
            }
        };
        let engine = IoEngine::Threads(start(8, work));
        let pool = Pool::new(ByteCount::mib(4));
        let data = pool.take().await.freeze();
        let file = || engine.adopt(SharedFile::from(tempfile::tempfile().unwrap()));
        let mut writes = Vec::new();
        let (mut slow, mut hanging) = (Vec::new(), 0);
        for share in [4, 2, 1] {
            let file = file();
            writes.extend((0..20).map(|_| file.write_at(data.clone(), 0..1, 7)));
            slow.push(file);
            for _ in 0..share {
                told.recv().unwrap();
            }
            hanging += share;
            assert_eq!(*gate.lock().unwrap(), hanging, "half of what was left");
        }
        for _ in 0..10 {
            file().write_at(data.clone(), 0..1, 0).await.unwrap();
        }
        assert_eq!(*gate.lock().unwrap(), hanging);
        drop(release);
        for write in writes {
            write.await.unwrap();
        }
        assert_eq!(*gate.lock().unwrap(), 60);
    }
}
