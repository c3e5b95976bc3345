//! Records of transfers that are under way, by which a later process goes on: a file for each, of one user, readable
//! by nobody else.
//!
//! # Crash
//! A record is replaced as a whole, and is on the disk when `write` returns.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::ClientError;

/// The place of a record, which no other process uses meanwhile.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    lock: PathBuf,
    /// Locked while it is open.
    _held: File,
}

impl Record {
    /// Takes the place of what these words name, in this folder. `about` is what a person knows it by.
    pub(super) fn open(folder: &Path, words: &[&[u8]], about: &Path) -> Result<Self, ClientError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(ClientError::file(folder))?;
        let mut name = Sha256::new();
        for word in words {
            name.update(word.len().to_le_bytes());
            name.update(word);
        }
        let name = hex::encode(&name.finalize()[..16]);
        let lock = folder.join(format!("{name}.lock"));
        loop {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
            let held = opened.map_err(ClientError::file(&lock))?;
            match held.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ClientError::Busy(about.to_owned())),
                Err(TryLockError::Error(error)) => return Err(ClientError::File(lock, error)),
            }
            // Another process may have removed it between the two.
            if held.metadata().map_err(ClientError::file(&lock))?.nlink() > 0 {
                return Ok(Self { path: folder.join(format!("{name}.json")), lock, _held: held });
            }
        }
    }

    /// Reads what was written last. What cannot be read is as if it were not there: the server knows better.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }

    /// Replaces it.
    pub(super) fn write(&self, what: &impl Serialize) -> Result<(), ClientError> {
        let new = self.path.with_extension("new");
        let written = (|| {
            let text = serde_json::to_vec(what)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            sync_folder_of(&self.path)
        })();
        written.map_err(ClientError::file(&self.path))
    }

    /// Removes it, since there is nothing to go on with.
    pub(super) fn remove(self) {
        // One that stays is found out of date.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock);
    }
}

/// Makes the names in the folder of this file durable.
pub(super) fn sync_folder_of(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_record_is_read_back_and_is_the_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("a").join("b");
        let open = || Record::open(&records, &[b"one", b"two"], Path::new("x"));
        let record = open().unwrap();
        assert_eq!(record.read::<Vec<u64>>(), None);
        record.write(&vec![1, 2]).unwrap();
        drop(record);
        let record = open().unwrap();
        assert_eq!(record.read::<Vec<u64>>(), Some(vec![1, 2]));
        for entry in fs::read_dir(&records).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&records).unwrap().permissions().mode() & 0o777, 0o700);
        // Words are told apart by where they end.
        let other = Record::open(&records, &[b"onet", b"wo"], Path::new("x")).unwrap();
        assert_eq!(other.read::<Vec<u64>>(), None);
        other.remove();
        record.remove();
        assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    }

    #[test]
    fn two_processes_do_not_have_the_same_record() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Record::open(folder.path(), &[b"one"], Path::new("disk.img"));
        let record = open().unwrap();
        let Err(error) = open() else { panic!("it is taken") };
        assert!(matches!(&error, ClientError::Busy(path) if path == Path::new("disk.img")), "{error}");
        record.remove();
        assert!(open().is_ok());
    }
}
