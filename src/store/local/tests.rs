//! What only a local store has: its files and their forms, and its place on a disk.

mod crash;
mod failures;
mod forms;
mod places;

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::io::{Pool, probe};
use crate::skipped::skipped;
use crate::store::conformance::{Outside, Subject, on_each};

/// A local store under test.
pub(in crate::store) struct Local {
    subject: Subject,
    store: LocalStore,
    root: PathBuf,
    dir: Option<Arc<TempDir>>,
}

impl Deref for Local {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

impl Local {
    fn new(root: PathBuf, engine: IoEngine, settings: LocalSettings, dir: Option<Arc<TempDir>>) -> Self {
        let name = format!("{} {:?}", engine.name(), settings.direct);
        let store = LocalStore::open(&root, engine, settings).unwrap();
        let outside = Box::new(Directory { root: root.clone(), store: store.clone(), _dir: dir.clone() });
        let subject = Subject { name, store: Arc::new(store.clone()), outside, pool: Pool::new(ByteCount::mib(32)) };
        Self { subject, store, root, dir }
    }

    fn at(root: PathBuf, engine: IoEngine, direct: Direct) -> Self {
        Self::new(root, engine, LocalSettings { direct, ..LocalSettings::default() }, None)
    }

    pub(in crate::store) fn temporary(engine: IoEngine, direct: Direct) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = LocalSettings { direct, ..LocalSettings::default() };
        Self::new(dir.path().join("store"), engine, settings, Some(Arc::new(dir)))
    }

    /// Opens it anew, as the next process does.
    pub(in crate::store) fn reopen(&mut self) {
        *self = Self::new(self.root.clone(), IoEngine::best(1).0, LocalSettings::default(), self.dir.clone());
    }

    fn drive(&self, id: ContentId) -> PathBuf {
        drive(&self.root, id)
    }

    fn image(&self, id: ContentId) -> PathBuf {
        image(&self.root, id)
    }

    /// Whether drives of one piece are one file here.
    fn attaches(&self) -> bool {
        let outcome = probe::attributes(&self.root);
        outcome.inspect_err(|error| skipped(format!("this file system has no attributes: {error}"))).is_ok()
    }
}

/// The directory of a store.
struct Directory {
    root: PathBuf,
    store: LocalStore,
    /// Removed with this.
    _dir: Option<Arc<TempDir>>,
}

impl Directory {
    fn write(&self, id: ContentId) -> fs::File {
        fs::File::options().write(true).open(image(&self.root, id)).unwrap()
    }
}

impl Outside for Directory {
    fn left(&self) -> Vec<String> {
        let entries = ["drives", "incoming", "trash"].map(|dir| fs::read_dir(self.root.join(dir)).unwrap());
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn takes(&self, id: ContentId) -> u64 {
        fs::metadata(image(&self.root, id)).unwrap().blocks() * 512
    }

    fn spoil(&self, id: ContentId, offset: u64, bytes: &[u8]) {
        self.write(id).write_all_at(bytes, offset).unwrap();
    }

    fn lose_end(&self, id: ContentId, from: u64) {
        let file = self.write(id);
        let size = file.metadata().unwrap().len();
        file.set_len(from).unwrap();
        file.set_len(size).unwrap();
    }

    fn fail_next_flush(&self, error: Errno) {
        self.store.steps.flush_fault.store(error.raw_os_error(), Ordering::SeqCst);
    }

    fn keeps_records(&self) -> bool {
        probe::attributes(&self.root).is_ok()
    }
}

fn drive(root: &Path, id: ContentId) -> PathBuf {
    root.join("drives").join(id.to_string())
}

/// The file with a drive's bytes.
fn image(root: &Path, id: ContentId) -> PathBuf {
    let drive = drive(root, id);
    if drive.is_dir() { drive.join("image") } else { drive }
}

/// A store on every engine, with and without direct I/O. Names what it skips.
fn every_local() -> impl Iterator<Item = Local> {
    let mut ways = vec![Direct::Never];
    match probe::direct_io(&std::env::temp_dir()) {
        Ok(()) => ways.push(Direct::Always),
        Err(error) => skipped(format!("this file system takes no direct I/O: {error}")),
    }
    ways.into_iter().flat_map(|direct| {
        let mut engines = vec![IoEngine::threads(2)];
        match IoEngine::ring(1) {
            Ok(ring) => engines.push(ring),
            Err(error) => skipped(format!("this machine does not allow io_uring: {error}")),
        }
        engines.into_iter().map(move |engine| Local::temporary(engine, direct))
    })
}

/// The same, for the tests of any store.
pub(in crate::store) fn every_way() -> impl Iterator<Item = Subject> {
    every_local().map(|local| local.subject)
}

#[expect(clippy::needless_pass_by_value, reason = "a closure written in place")]
fn on_every_local(behaviour: impl AsyncFn(&Local)) {
    on_each(every_local(), |local| &local.subject, &behaviour);
}

/// A file system that a test mounts, where it may.
struct Mounted(TempDir);

impl Mounted {
    fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let outcome = Command::new("mount").args(arguments).arg(dir.path()).output();
        if outcome.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        skipped(format!("this machine does not mount {arguments:?}"));
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}
