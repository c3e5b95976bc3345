//! Trees whose content the server fetches itself, while whoever wants them waits for the answer.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sessions::Sessions;
use crate::domain::{Encoding, Fault, Upload};
use crate::remote::{Location, Remote, RemoteError, RemoteFile, Repository};
use crate::transfer::{Broken, ChunkSource, Chunks, Progress, Shape};

/// For how long a source waits for its turn: as long as one may take by default.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Chunks of a tree that wait to be unpacked.
const AHEAD: usize = 4;

impl Sessions {
    /// Fetches these parts of a session, in order. What fails is told with the name of its volume.
    pub(super) async fn fetch_all(self: &Arc<Self>, parts: &[&Upload]) -> Result<(), Fault> {
        for part in parts {
            if let Err(fault) = Box::pin(self.fetch(part)).await {
                let told = format!("volume {}: {}", part.name, fault.told);
                return Err(Fault { told, ..fault });
            }
        }
        Ok(())
    }

    async fn fetch(self: &Arc<Self>, part: &Upload) -> Result<(), Fault> {
        let tree = self.volumes.meta.volume_any(part.volume).await?;
        let tree = tree.ok_or_else(|| super::no_such_tree(&part.name))?;
        let _turn = self.fetches.take(tree.tenant, LONGEST_WAIT).await?;
        let remote = self.remote.at_most(tree.size.get());
        match Location::parse(&part.source)? {
            Location::File(url) => {
                let file = remote.open(&url).await?;
                let shape = self.shape_of(file.name());
                let admitted = self.attempt((*part).clone(), shape, Progress::fetching).await?;
                Box::pin(admitted.receive(&mut ChunkSource::from(file))).await?;
            }
            Location::Git(repository) => {
                let shape = Shape::Archive(Encoding::Plain);
                let admitted = self.attempt((*part).clone(), shape, Progress::fetching).await?;
                let tree = self.clone_tree(remote, repository);
                Box::pin(admitted.receive(&mut ChunkSource::from(tree))).await?;
            }
        }
        Ok(())
    }

    /// A file is kept as it is, unless archives are to be unpacked and its name says that it is one.
    fn shape_of(&self, name: &str) -> Shape {
        let is = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if !self.settings.unpack_remote {
            Shape::File(name.to_owned())
        } else if is(&[".tar"]) {
            Shape::Archive(Encoding::Plain)
        } else if is(&[".tar.gz", ".tgz"]) {
            Shape::Archive(Encoding::Gzip)
        } else if is(&[".tar.zst"]) {
            Shape::Archive(Encoding::Zstd)
        } else {
            Shape::File(name.to_owned())
        }
    }

    fn clone_tree(&self, remote: Remote, repository: Repository) -> GitChunks {
        let (sender, chunks) = mpsc::channel(AHEAD);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let (scratch, trees, wanted) = (self.scratch.clone(), self.trees.clone(), is_wanted.clone());
        let work = move || {
            // The scratch directory is on the disk of the trees.
            let go_on = || {
                if !wanted.load(Ordering::Relaxed) {
                    return Err(RemoteError::Stopped);
                }
                trees.space().admit_write().map_err(RemoteError::Scratch)
            };
            let scratch = scratch.begin().map_err(RemoteError::Scratch)?;
            remote.git_as_tar(&repository, scratch.path(), ChunkWriter(sender), &go_on)
        };
        GitChunks { chunks, work: Some(self.volumes.tracker.spawn_blocking(work)), is_wanted }
    }
}

impl Chunks for RemoteFile {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        Ok(Self::next(self).await?)
    }
}

/// A tree that comes from a thread that fetches it. Dropped, it ends that thread soon.
struct GitChunks {
    chunks: mpsc::Receiver<Bytes>,
    work: Option<JoinHandle<Result<(), RemoteError>>>,
    is_wanted: Arc<AtomicBool>,
}

impl Chunks for GitChunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(chunk) = self.chunks.recv().await {
            return Ok(Some(chunk));
        }
        if let Some(work) = &mut self.work {
            let ended = work.await;
            self.work = None;
            ended??;
        }
        Ok(None)
    }
}

impl Drop for GitChunks {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}

/// Gives what is written to whoever unpacks it.
struct ChunkWriter(mpsc::Sender<Bytes>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// More at once would be more memory.
        const MOST: usize = 256 << 10;
        let taken = bytes.len().min(MOST);
        let chunk = Bytes::copy_from_slice(&bytes[..taken]);
        self.0.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
