//! A thread of the lowest priority, for reads that nobody waits for.

use std::io;
use std::sync::mpsc;

use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// A thread of the lowest priority. It ends when this is dropped and its present work has ended. It is not joined: that
/// would block a task, and its work only reads.
pub struct IdleThread(mpsc::SyncSender<Work>);

impl IdleThread {
    /// Starts a thread. None can be borrowed: its priority could not be raised again without privilege.
    pub fn start(name: &str) -> io::Result<Self> {
        // One place is enough: the caller waits for its work to end.
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

    /// Runs `work` on the thread. The work can ask whether its caller has gone.
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
