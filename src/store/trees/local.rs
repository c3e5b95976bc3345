//! Trees as directories on a local file system.
//!
//! ```text
//! root/trees/<content>              what a tree holds, held or will hold
//! root/tree-records/<content>       whose tree that is, in JSON: only of what was unpacked to its end
//! root/tree-digests/<content>       the digests of its files: see [`Digests`]; an earlier version made none
//! root/lost/trees/<content>         what has a record and no tree, set aside
//! root/lost/tree-records/<content>  its record
//! root/lost/tree-digests/<content>  its digests
//! root/tree-trash/<content>-<rand>  removed, and being unlinked
//! root/tree-scratch/<content>       what is needed while a content is unpacked
//! ```
//! # Invariants
//! - A content never changes once it was made durable, and what is being read is not unlinked.
//! - Removing takes a rename, whatever the tree's size.
//! - Digests are durable when their content is. A content that has them is read with them or not at all.
//!
//! # Crash
//! What nobody knows is set aside by a sweep if it was unpacked to its end, else removed; digests of nothing are
//! removed too.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{LostTree, OpenTree, SweptTrees, TreeDraft, TreeReadError, TreeRecord, TreeStore};
use crate::domain::{ByteCount, ContentId, CrashPoints, UnixTime};
use crate::store::{Ledger, Removal};
use crate::tree::{
    self, DigestLog, Digests, DigestsError, Limits, PackError, PackLimits, Packed, Policy, UnpackCause, UnpackError,
    Unpacked,
};

/// No record is longer: a name has 255 characters, which JSON may write in twelve bytes each.
const LONGEST_RECORD: u64 = 8 << 10;

/// Holds the contents.
const TREES: &str = "trees";

/// A record as its file has it.
#[derive(Serialize, Deserialize)]
struct StoredRecord {
    tenant: String,
    name: String,
    size: u64,
}

impl TreeRecord {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let Self { tenant, name, size } = self;
        let stored = StoredRecord { tenant: tenant.to_string(), name: name.clone(), size: size.get() };
        Ok(serde_json::to_vec(&stored)?)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let StoredRecord { tenant, name, size } = serde_json::from_slice(bytes).ok()?;
        Some(Self { tenant: tenant.parse().ok()?, name, size: ByteCount::new(size)? })
    }
}

/// The trees of one directory. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalTrees {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trees: PathBuf,
    trash: PathBuf,
    scratch: PathBuf,
    records: PathBuf,
    digests: PathBuf,
    lost: PathBuf,
    lost_records: PathBuf,
    lost_digests: PathBuf,
    /// How many read each content.
    readers: Mutex<HashMap<ContentId, usize>>,
    space: Arc<Ledger>,
    crash: CrashPoints,
}

impl LocalTrees {
    /// Opens the store in `root`, which is made if it is missing, and has this account of its space. One
    /// process at a time; the caller sees to that.
    pub fn open(root: &Path, space: Arc<Ledger>, crash: CrashPoints) -> io::Result<Self> {
        let [trees, trash, scratch] = [TREES, "tree-trash", "tree-scratch"].map(|name| root.join(name));
        let [records, digests] = ["tree-records", "tree-digests"].map(|name| root.join(name));
        let [lost, lost_records, lost_digests] =
            ["lost/trees", "lost/tree-records", "lost/tree-digests"].map(|name| root.join(name));
        // Of a process before.
        tree::remove(File::open(root)?, b"tree-scratch")?;
        if !trees.try_exists()? {
            // Else that is of a version without records, and they begin when they are complete.
            make_directory(&records)?;
        }
        for dir in [&trees, &trash, &scratch, &digests, &lost, &lost_records, &lost_digests] {
            make_directory(dir)?;
        }
        File::open(root)?.sync_all()?;
        let readers = Mutex::default();
        let shared =
            Shared { trees, trash, scratch, records, digests, lost, lost_records, lost_digests, readers, space, crash };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Counts the contents that a directory holds in which such a store may be. Opens none, and makes nothing.
    pub fn count(root: &Path) -> io::Result<usize> {
        match ids_in(&root.join(TREES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            ids => ids.map(|ids| ids.len()),
        }
    }

    fn open_digests(&self, id: ContentId) -> Result<Option<Digests>, TreeReadError> {
        let file = match open_file(&self.digests_of(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(TreeReadError::Io)?,
        };
        match Digests::open(file) {
            Ok(digests) => Ok(Some(digests)),
            Err(error @ DigestsError::Unknown(_)) => {
                tracing::warn!(content = %id, %error, "a tree is read unchecked");
                Ok(None)
            }
            Err(DigestsError::Damaged) => Err(TreeReadError::Damaged("its digests are damaged")),
            Err(DigestsError::Io(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Err(TreeReadError::Damaged("the disk cannot read its digests"))
            }
            Err(DigestsError::Io(error)) => Err(TreeReadError::Io(error)),
        }
    }

    /// Whether a content was set aside before this: its last change is the rename.
    fn is_old(&self, id: ContentId, forget_before: UnixTime) -> io::Result<bool> {
        let path = self.shared.lost.join(id.to_string());
        Ok(UnixTime(path.symlink_metadata()?.ctime().saturating_mul(1_000)) < forget_before)
    }

    fn place(&self, id: ContentId) -> PathBuf {
        self.shared.trees.join(id.to_string())
    }

    fn digests_of(&self, id: ContentId) -> PathBuf {
        self.shared.digests.join(id.to_string())
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<ContentId, usize>> {
        // Counts; each change leaves them whole.
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TreeStore for LocalTrees {
    fn space(&self) -> &Arc<Ledger> {
        &self.shared.space
    }

    fn begin(&self, id: ContentId) -> io::Result<Box<dyn TreeDraft>> {
        self.remove(id)?;
        let place = self.place(id);
        DirBuilder::new().mode(0o755).create(&place)?;
        self.shared.crash.hit("unpack: made");
        let scratch = self.shared.scratch.join(format!("{id}-digests"));
        let digests = DigestLog::new(move || {
            let file = create_file(&scratch)?;
            fs::remove_file(&scratch)?;
            Ok(file)
        });
        Ok(Box::new(LocalDraft { store: self.clone(), root: File::open(place)?, id, digests }))
    }

    fn open(&self, id: ContentId) -> Result<Box<dyn OpenTree>, TreeReadError> {
        let mut tree = {
            let mut readers = self.readers();
            let root = File::open(self.place(id)).map_err(absent_is_missing)?;
            *readers.entry(id).or_default() += 1;
            LocalTree { root, digests: None, id, store: self.clone() }
        };
        tree.digests = self.open_digests(id)?;
        if tree.digests.is_none() && !self.place(id).exists() {
            // Removed meanwhile, its digests first.
            return Err(TreeReadError::Missing);
        }
        Ok(Box::new(tree))
    }

    fn remove(&self, id: ContentId) -> io::Result<bool> {
        // A random name: the trash may still hold an earlier attempt.
        let hidden = self.shared.trash.join(format!("{id}-{}", uuid::Uuid::new_v4().simple()));
        // Before it, so that none is left when the process ends between the two.
        absent_is_fine(fs::remove_file(self.shared.records.join(id.to_string())))?;
        absent_is_fine(fs::remove_file(self.digests_of(id)))?;
        match fs::rename(self.place(id), hidden) {
            // At the end of a quota Btrfs gives nothing another name, and unlinks all the same.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                    && !self.readers().contains_key(&id) =>
            {
                tree::remove(&File::open(&self.shared.trees)?, id.to_string().as_bytes()).map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            renamed => renamed.map(|()| true),
        }
    }

    fn complete_records(&self, held: &[(ContentId, TreeRecord)]) -> io::Result<usize> {
        let records = &self.shared.records;
        let is_first = !records.try_exists()?;
        let place = if is_first { records.with_extension("new") } else { records.clone() };
        make_directory(&place)?;
        let mut written = 0;
        for (id, record) in held {
            if !place.join(id.to_string()).try_exists()? && self.place(*id).try_exists()? {
                write_record(&place, *id, record)?;
                written += 1;
            }
        }
        if written > 0 || is_first {
            tree::sync(&File::open(&place)?)?;
        }
        if is_first {
            fs::rename(&place, records)?;
            tree::sync(&File::open(records)?)?;
        }
        Ok(written)
    }

    fn sweep(&self, keep: &dyn Fn(ContentId) -> bool, forget_before: UnixTime) -> io::Result<SweptTrees> {
        let mut swept = SweptTrees::default();
        let Shared { trees, records, digests, lost, lost_records, lost_digests, .. } = &*self.shared;
        for id in ids_in(lost)? {
            if keep(id) && !self.place(id).try_exists()? {
                self.bring_back(id)?;
                swept.returned += 1;
            } else if self.is_old(id, forget_before)? {
                self.forget(id)?;
                swept.forgotten += 1;
            }
        }
        let has_records = records.try_exists()?;
        for id in ids_in(trees)? {
            if keep(id) {
                continue;
            }
            let name = id.to_string();
            if has_records && !records.join(&name).try_exists()? {
                self.remove(id)?;
                swept.removed += 1;
                continue;
            }
            swept.bytes += on_disk(&trees.join(&name));
            // Its record stays until it has moved: one without is removed.
            move_entry(trees, lost, &name)?;
            absent_is_fine(move_entry(records, lost_records, &name))?;
            absent_is_fine(move_entry(digests, lost_digests, &name))?;
            swept.set_aside += 1;
        }
        for dir in [digests, lost_digests] {
            for id in ids_in(dir)? {
                let name = id.to_string();
                if !trees.join(&name).try_exists()? && !lost.join(&name).try_exists()? {
                    absent_is_fine(fs::remove_file(dir.join(&name)))?;
                }
            }
        }
        Ok(swept)
    }

    fn forget_old(&self, keep: &dyn Fn(ContentId) -> bool, forget_before: UnixTime) -> io::Result<usize> {
        let mut forgotten = 0;
        for id in ids_in(&self.shared.lost)? {
            if self.is_old(id, forget_before)? && !keep(id) {
                self.forget(id)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn contents(&self) -> io::Result<Vec<ContentId>> {
        let has_records = self.shared.records.try_exists()?;
        let mut ids = ids_in(&self.shared.trees)?;
        ids.retain(|id| !has_records || self.shared.records.join(id.to_string()).exists());
        Ok(ids)
    }

    fn lost(&self) -> io::Result<Vec<LostTree>> {
        let Shared { records, lost, lost_records, .. } = &*self.shared;
        // It may not have been moved to its end.
        let record =
            |id: ContentId| [lost_records, records].into_iter().find_map(|dir| read_record(&dir.join(id.to_string())));
        Ok(ids_in(lost)?.into_iter().map(|id| LostTree { id, record: record(id) }).collect())
    }

    fn bring_back(&self, id: ContentId) -> io::Result<()> {
        let (name, shared) = (id.to_string(), &*self.shared);
        absent_is_fine(move_entry(&shared.lost_digests, &shared.digests, &name))?;
        absent_is_fine(move_entry(&shared.lost_records, &shared.records, &name))?;
        move_entry(&shared.lost, &shared.trees, &name)
    }

    fn forget(&self, id: ContentId) -> io::Result<()> {
        let hidden = self.shared.trash.join(format!("{id}-{}", uuid::Uuid::new_v4().simple()));
        fs::rename(self.shared.lost.join(id.to_string()), hidden)?;
        absent_is_fine(fs::remove_file(self.shared.lost_digests.join(id.to_string())))?;
        absent_is_fine(fs::remove_file(self.shared.lost_records.join(id.to_string())))
    }

    fn empty_trash(&self) -> io::Result<bool> {
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
}

fn ids_in(dir: &Path) -> io::Result<Vec<ContentId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir)? {
        // What is not ours was put there by somebody who may want it.
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ContentId>().ok()));
    }
    Ok(ids)
}

fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes what is kept beside a content. Durable with the next flush of the file system.
fn write_record(dir: &Path, id: ContentId, record: &TreeRecord) -> io::Result<()> {
    let path = dir.join(id.to_string());
    // Of an earlier attempt.
    absent_is_fine(fs::remove_file(&path))?;
    create_file(&path)?.write_all(&record.encode()?)
}

fn create_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file to be read, through no link; should it be a pipe, that is not waited for.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

fn read_record(path: &Path) -> Option<TreeRecord> {
    let file = open_file(path).ok()?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST_RECORD), &mut bytes).ok()?;
    TreeRecord::decode(&bytes)
}

/// Moves an entry of a directory, durably.
fn move_entry(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    renameat_with(CWD, from.join(name), CWD, to.join(name), RenameFlags::NOREPLACE)?;
    File::open(to)?.sync_all()?;
    File::open(from)?.sync_all()
}

/// What a directory takes on the disk, with all that is in it and can be looked at. Goes through no link.
fn on_disk(dir: &Path) -> u64 {
    let mut left = vec![dir.to_owned()];
    let mut blocks = 0;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            blocks += found.blocks();
            if found.is_dir() {
                left.push(entry.path());
            }
        }
    }
    blocks * 512
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn absent_is_missing(error: io::Error) -> TreeReadError {
    if error.kind() == io::ErrorKind::NotFound { TreeReadError::Missing } else { TreeReadError::Io(error) }
}

/// A content that is being unpacked.
struct LocalDraft {
    store: LocalTrees,
    /// Opened before the first byte is written: see [`tree::sync`].
    root: File,
    id: ContentId,
    digests: DigestLog,
}

impl TreeDraft for LocalDraft {
    fn unpack(&mut self, archive: &mut dyn Read, limits: &Limits, policy: &Policy) -> Result<Unpacked, UnpackError> {
        let space = &self.store.shared.space;
        let admitted = Admitted { bytes: archive, space };
        let unpacked = tree::unpack_digested(admitted, &self.root, limits, policy, &mut self.digests);
        unpacked.inspect_err(|error| note_failure(space, error))
    }

    fn put_file(&mut self, bytes: &mut dyn Read, name: &str, limits: &Limits) -> Result<Unpacked, UnpackError> {
        let space = &self.store.shared.space;
        let admitted = Admitted { bytes, space };
        let put = tree::put_file(admitted, &self.root, name, limits, &mut self.digests);
        put.inspect_err(|error| note_failure(space, error))
    }

    fn publish(self: Box<Self>, record: &TreeRecord) -> io::Result<()> {
        let Self { store, root, id, digests } = *self;
        let shared = &*store.shared;
        shared.crash.hit("unpack: unpacked");
        digests.finish(create_file(&store.digests_of(id))?)?;
        shared.crash.hit("unpack: digested");
        write_record(&shared.records, id, record)?;
        // Of the whole file system, so the entry of the root in its parent is among it.
        tree::sync(root)?;
        shared.crash.hit("unpack: durable");
        Ok(())
    }
}

/// Bytes that are read only while they may be written, see [`Ledger::admit_write`].
struct Admitted<'a> {
    bytes: &'a mut dyn Read,
    space: &'a Ledger,
}

impl Read for Admitted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(into)?;
        // After the wait for them, which may be long.
        self.space.admit_write()?;
        Ok(read)
    }
}

fn note_failure(space: &Ledger, error: &UnpackError) {
    if let UnpackCause::Disk(error) = &error.cause {
        space.note_failure(error);
    }
}

/// A content that is being read.
struct LocalTree {
    root: File,
    /// What its files were stored with; `None` of a content that an earlier version has stored.
    digests: Option<Digests>,
    id: ContentId,
    store: LocalTrees,
}

impl OpenTree for LocalTree {
    fn pack(&self, into: &mut dyn Write, limits: &PackLimits) -> Result<Packed, PackError> {
        tree::pack(&self.root, self.digests.as_ref(), into, limits)
    }

    fn check(
        &self,
        compared: &AtomicU64,
        pace: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Option<Result<Packed, PackError>> {
        let digests = self.digests.as_ref()?;
        Some(tree::check(&self.root, digests, &PackLimits::default(), compared, pace))
    }

    fn removal(&self) -> Removal {
        let place = self.store.place(self.id);
        Box::new(move || !place.exists())
    }
}

impl Drop for LocalTree {
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
    use crate::domain::{Fault, FaultKind, TenantId};

    fn store() -> (tempfile::TempDir, LocalTrees) {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalTrees::open(
            directory.path(),
            Ledger::new(|| Ok(ByteCount::MAX), ByteCount::ZERO),
            CrashPoints::none(),
        )
        .unwrap();
        (directory, store)
    }

    fn record() -> TreeRecord {
        TreeRecord { tenant: TenantId::from_bytes([7; 16]), name: "site".to_owned(), size: ByteCount::mib(1) }
    }

    fn is_empty(path: &Path) -> bool {
        fs::read_dir(path).unwrap().next().is_none()
    }

    #[test]
    fn a_content_that_is_read_stays_whole_until_its_last_reader_is_done() {
        let (directory, store) = store();
        let id = ContentId::random();
        let mut new = store.begin(id).unwrap();
        new.put_file(&mut &b"1"[..], "file", &Limits::of_volume(1 << 20)).unwrap();
        new.publish(&record()).unwrap();
        let readers = [store.open(id).unwrap(), store.open(id).unwrap()];
        store.remove(id).unwrap();
        assert!(matches!(store.open(id), Err(TreeReadError::Missing)));
        let trash = directory.path().join("tree-trash");
        for reader in readers {
            assert!(!store.empty_trash().unwrap());
            reader.pack(&mut io::sink(), &PackLimits::default()).unwrap();
        }
        assert!(store.empty_trash().unwrap());
        assert!(is_empty(&trash));
    }

    #[test]
    fn nothing_is_unpacked_while_the_last_room_is_for_what_removes() {
        let (_directory, store) = store();
        let (id, limits) = (ContentId::random(), Limits::of_volume(1 << 20));
        store.space().shortage().set(true);
        let mut new = store.begin(id).unwrap();
        let put = new.put_file(&mut &b"1"[..], "file", &limits).unwrap_err();
        assert_eq!(Fault::from(put).kind, FaultKind::NoSpace);
        let mut new = store.begin(id).unwrap();
        let unpacked = new.unpack(&mut &[0; 1024][..], &limits, &Policy::default()).unwrap_err();
        assert_eq!(Fault::from(unpacked).kind, FaultKind::NoSpace);
        store.remove(id).unwrap();
        assert!(store.empty_trash().unwrap());
        store.space().shortage().set(false);
        store.begin(id).unwrap().put_file(&mut &b"1"[..], "file", &limits).unwrap();
    }

    #[test]
    fn a_second_attempt_begins_empty() {
        let (directory, store) = store();
        let id = ContentId::random();
        store.begin(id).unwrap();
        let file = directory.path().join(format!("trees/{id}/file"));
        fs::write(&file, "1").unwrap();
        store.begin(id).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn a_sweep_keeps_what_is_known_and_what_is_not_ours() {
        let (directory, store) = store();
        let [known, unknown] = [ContentId::random(), ContentId::random()];
        store.begin(known).unwrap();
        store.begin(unknown).unwrap();
        let other = directory.path().join("trees/lost+found");
        fs::create_dir(&other).unwrap();
        let swept = store.sweep(&|id| id == known, UnixTime(0)).unwrap();
        assert_eq!(swept, SweptTrees { removed: 1, ..SweptTrees::default() });
        assert!(store.open(known).is_ok() && store.open(unknown).is_err() && other.exists());
    }

    #[test]
    fn what_is_whole_and_known_to_nobody_is_set_aside_and_comes_back_with_its_record_or_is_forgotten() {
        let (directory, store) = store();
        let ids = [ContentId::random(), ContentId::random()];
        for id in ids {
            let new = store.begin(id).unwrap();
            fs::write(directory.path().join(format!("trees/{id}/file")), id.to_string()).unwrap();
            new.publish(&record()).unwrap();
        }
        assert_eq!(store.contents().unwrap().len(), 2);
        let digests = |dir: &str| ids_in(&directory.path().join(dir)).unwrap().len();
        let swept = store.sweep(&|_| false, UnixTime(0)).unwrap();
        assert_eq!((digests("tree-digests"), digests("lost/tree-digests")), (0, 2));
        assert!(swept.set_aside == 2 && swept.removed == 0 && swept.bytes >= 2 * 512, "{swept:?}");
        assert!(store.open(ids[0]).is_err() && store.contents().unwrap().is_empty());
        for lost in store.lost().unwrap() {
            assert_eq!(lost.record, Some(record()));
        }
        assert_eq!(store.sweep(&|id| id == ids[0], UnixTime(0)).unwrap().returned, 1);
        let back = fs::read(directory.path().join(format!("trees/{}/file", ids[0]))).unwrap();
        assert_eq!(back, ids[0].to_string().as_bytes());
        store.bring_back(ids[1]).unwrap();
        assert_eq!(store.contents().unwrap().len(), 2);
        assert!(ids.iter().all(|id| store.open(*id).unwrap().check(&AtomicU64::new(0), &mut |_| Ok(())).is_some()));
        let end = UnixTime(i64::MAX);
        assert_eq!(store.sweep(&|id| id == ids[0], end).unwrap().set_aside, 1);
        assert_eq!(store.sweep(&|id| id == ids[0], end).unwrap().forgotten, 1);
        // While it serves, it only forgets.
        assert_eq!(store.sweep(&|_| false, end).unwrap().set_aside, 1);
        assert_eq!(store.forget_old(&|_| false, UnixTime(0)).unwrap(), 0);
        assert_eq!(store.forget_old(&|id| id == ids[0], end).unwrap(), 0);
        assert_eq!(store.forget_old(&|_| false, end).unwrap(), 1);
        assert!(store.lost().unwrap().is_empty() && store.empty_trash().unwrap());
        assert_eq!((digests("tree-digests"), digests("lost/tree-digests")), (0, 0));
    }

    #[test]
    fn a_content_of_a_version_without_records_is_set_aside_too_until_they_are_complete() {
        let (directory, store) = store();
        fs::remove_dir(directory.path().join("tree-records")).unwrap();
        let [old, other] = [ContentId::random(), ContentId::random()];
        store.begin(old).unwrap();
        assert_eq!(store.sweep(&|_| false, UnixTime(0)).unwrap().set_aside, 1);
        assert!(store.lost().unwrap()[0].record.is_none());
        store.bring_back(old).unwrap();
        assert_eq!(store.complete_records(&[(old, record()), (other, record())]).unwrap(), 1);
        store.begin(other).unwrap();
        let swept = store.sweep(&|_| false, UnixTime(0)).unwrap();
        assert_eq!((swept.set_aside, swept.removed), (1, 1));
        assert_eq!(store.lost().unwrap()[0].record, Some(record()));
    }
}
