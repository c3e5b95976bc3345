//! A thread of the lowest priority, for reading what nobody waits for.

use std::io;
use std::sync::mpsc;

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// It ends when this is dropped and its present work has ended. It is not joined: that would hold up a task, and its work
/// only reads.
pub struct IdleThread(mpsc::SyncSender<Work>);

impl IdleThread {
    /// Starts one: a thread's priority cannot be raised again without privilege, so that no other can be lent.
    pub fn start(name: &str) -> io::Result<Self> {
        // Who gives it work waits for the end of that.
        let (sender, works) = mpsc::sync_channel::<Work>(1);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The I/O priority follows the niceness (ioprio_set(2)). Failing to be nice is no reason not to work.
            let _ = rustix::process::nice(19);
            for work in works {
                work();
            }
        })?;
        Ok(Self(sender))
    }

    /// Has it do something, which can ask whether nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            let done = work(&|| sender.is_closed());
            let _ = sender.send(done);
        };
        self.0.try_send(Box::new(work)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        receiver.await.map_err(io::Error::other)
    }
}
