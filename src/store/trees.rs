//! Trees as directories on a local file system.
//!
//! ```text
//! root/trees/<content>              what a tree holds, held or will hold
//! root/tree-trash/<content>-<rand>  removed, and being unlinked
//! root/tree-scratch/<content>       what is needed while a content is fetched
//! ```
//! Which content is visible, and of which tree, is not known here: whoever knows keeps the ids.
//!
//! # Invariants
//! - A content never changes once it was made durable, and what is being read is not unlinked.
//! - Removing takes a rename, whatever the tree's size; [`TreeStore::empty_trash`] does the work later.
//!
//! # Crash
//! What nobody knows is removed by [`TreeStore::sweep`].
//!
//! Everything here blocks.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{ContentId, CrashPoints};
use crate::tree;

/// The trees of one directory. Clones share it.
#[derive(Clone, Debug)]
pub struct TreeStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trees: PathBuf,
    trash: PathBuf,
    scratch: PathBuf,
    /// How many read each content.
    readers: Mutex<HashMap<ContentId, usize>>,
    crash: CrashPoints,
}

impl TreeStore {
    /// Opens the store in `root`, which is made if it is missing. One process at a time; the caller sees to that.
    pub fn open(root: &Path, crash: CrashPoints) -> io::Result<Self> {
        let [trees, trash, scratch] = ["trees", "tree-trash", "tree-scratch"].map(|name| root.join(name));
        // Of a process before.
        tree::remove(File::open(root)?, b"tree-scratch")?;
        for dir in [&trees, &trash, &scratch] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        File::open(root)?.sync_all()?;
        Ok(Self { shared: Arc::new(Shared { trees, trash, scratch, readers: Mutex::default(), crash }) })
    }

    /// An empty directory for a new content, opened. What an earlier attempt left is removed.
    pub fn create(&self, id: ContentId) -> io::Result<File> {
        self.remove(id)?;
        let place = self.place(id);
        DirBuilder::new().mode(0o755).create(&place)?;
        self.shared.crash.hit("unpack: made");
        File::open(place)
    }

    /// Makes a content durable that was unpacked into `root`, which [`TreeStore::create`] has opened.
    pub fn make_durable(&self, root: &File) -> io::Result<()> {
        self.shared.crash.hit("unpack: unpacked");
        // Of the whole file system, so the entry of the root in its parent is among it.
        tree::sync(root)?;
        self.shared.crash.hit("unpack: durable");
        Ok(())
    }

    /// Opens a content to be read. It stays whole as long as this lives, removed or not.
    pub fn read(&self, id: ContentId) -> io::Result<OpenTree> {
        let mut readers = self.readers();
        let root = File::open(self.place(id))?;
        *readers.entry(id).or_default() += 1;
        Ok(OpenTree { root, id, store: self.clone() })
    }

    /// Takes a content out of sight. Removing what is not there succeeds.
    pub fn remove(&self, id: ContentId) -> io::Result<()> {
        // A random name: the trash may still hold an earlier attempt.
        let hidden = self.shared.trash.join(format!("{id}-{}", uuid::Uuid::new_v4().simple()));
        match fs::rename(self.place(id), hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A directory for what is needed while a content is fetched. It is removed when this is dropped.
    pub fn scratch(&self, id: ContentId) -> io::Result<Scratch> {
        let path = self.shared.scratch.join(id.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch { path })
    }

    /// Removes every content that `keep` refuses; how many.
    pub fn sweep(&self, keep: &dyn Fn(ContentId) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.shared.trees)? {
            let name = entry?.file_name();
            // What is not ours was put there by somebody who may want it.
            let Some(id) = name.to_str().and_then(|name| name.parse::<ContentId>().ok()) else { continue };
            if !keep(id) {
                self.remove(id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Unlinks what was removed and nobody reads any more; whether that is all of it. What fails keeps nothing else
    /// from going; the last failure is told.
    pub fn empty_trash(&self) -> io::Result<bool> {
        let trash = File::open(&self.shared.trash)?;
        let mut is_empty = Ok(true);
        for entry in fs::read_dir(&self.shared.trash)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.get(..36)?.parse::<ContentId>().ok());
            if id.is_some_and(|id| self.readers().contains_key(&id)) {
                is_empty = is_empty.and(Ok(false));
                continue;
            }
            if let Err(error) = tree::remove(&trash, name.as_encoded_bytes()) {
                is_empty = Err(error);
            }
        }
        is_empty
    }

    fn place(&self, id: ContentId) -> PathBuf {
        self.shared.trees.join(id.to_string())
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<ContentId, usize>> {
        // Counts; each change leaves them whole.
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`TreeStore::scratch`].
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed at the next start.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::error!(%error, "a scratch directory was not removed");
        }
    }
}

/// A content that is being read.
#[derive(Debug)]
pub struct OpenTree {
    root: File,
    id: ContentId,
    store: TreeStore,
}

impl OpenTree {
    /// Its root directory.
    pub fn root(&self) -> &File {
        &self.root
    }
}

impl Drop for OpenTree {
    fn drop(&mut self) {
        let mut readers = self.store.readers();
        if let Some(count) = readers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, TreeStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = TreeStore::open(directory.path(), CrashPoints::none()).unwrap();
        (directory, store)
    }

    fn is_empty(path: &Path) -> bool {
        fs::read_dir(path).unwrap().next().is_none()
    }

    #[test]
    fn a_content_that_is_read_stays_whole_until_its_last_reader_is_done() {
        let (directory, store) = store();
        let id = ContentId::random();
        let root = store.create(id).unwrap();
        fs::write(directory.path().join(format!("trees/{id}/file")), "1").unwrap();
        store.make_durable(&root).unwrap();
        let readers = [store.read(id).unwrap(), store.read(id).unwrap()];
        store.remove(id).unwrap();
        assert_eq!(store.read(id).unwrap_err().kind(), io::ErrorKind::NotFound);
        let trash = directory.path().join("tree-trash");
        for reader in readers {
            assert!(!store.empty_trash().unwrap());
            rustix::fs::accessat(reader.root(), "file", rustix::fs::Access::READ_OK, rustix::fs::AtFlags::empty())
                .unwrap();
        }
        assert!(store.empty_trash().unwrap());
        assert!(is_empty(&trash));
    }

    #[test]
    fn a_second_attempt_begins_empty() {
        let (directory, store) = store();
        let id = ContentId::random();
        store.create(id).unwrap();
        let file = directory.path().join(format!("trees/{id}/file"));
        fs::write(&file, "1").unwrap();
        store.create(id).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn a_sweep_keeps_what_is_known_and_what_is_not_ours() {
        let (directory, store) = store();
        let [known, unknown] = [ContentId::random(), ContentId::random()];
        store.create(known).unwrap();
        store.create(unknown).unwrap();
        let other = directory.path().join("trees/lost+found");
        fs::create_dir(&other).unwrap();
        assert_eq!(store.sweep(&|id| id == known).unwrap(), 1);
        assert!(store.read(known).is_ok() && store.read(unknown).is_err() && other.exists());
    }
}
