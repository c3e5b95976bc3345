//! The directory of backups: what makes a local object durable beside the object itself. Blocks: for threads that may.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::place::Place;

/// Readable by the server's user only: every tenant's backups are in here.
const MODE: u32 = 0o700;

/// Creates the directory of all backups if it is missing.
pub(super) fn make_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(MODE).create(root)?;
    root.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)
}

/// Creates the directory of a backup.
pub(super) fn make(root: &Path, place: &Place) -> io::Result<()> {
    for path in chain(root, place) {
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the entries of the directories that lead to a backup durable, and those in its own directory.
pub(super) fn settle(root: &Path, place: &Place) -> io::Result<()> {
    sync(root)?;
    chain(root, place).try_for_each(|path| sync(&path))
}

/// Makes the entries of a backup's own directory durable, if it exists.
pub(super) fn settle_entries(root: &Path, place: &Place) -> io::Result<()> {
    absent_is_fine(sync(&root.join(place.directory())))
}

/// Removes the temporary files that interrupted writes left beside the objects of a backup: `<object>#<number>`, as
/// `object_store` names them, which neither lists nor removes them. No write to the backup may be pending.
pub(super) fn sweep(root: &Path, place: &Place) -> io::Result<()> {
    let directory = root.join(place.directory());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| is_leftover(name, place.stem())) {
            absent_is_fine(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// Removes the directory of a backup and that of its drive if they are empty. No write to any backup may be pending.
/// Durable when it returns.
pub(super) fn tidy(root: &Path, place: &Place) -> io::Result<()> {
    sweep(root, place)?;
    settle_entries(root, place)?;
    let mut paths: Vec<PathBuf> = chain(root, place).collect();
    // The container stays.
    while paths.len() > 1
        && let Some(path) = paths.pop()
    {
        match fs::remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            result => absent_is_fine(result)?,
        }
        path.parent().map_or(Ok(()), |parent| absent_is_fine(sync(parent)))?;
    }
    Ok(())
}

/// Returns the directories beneath the root, down to that of the backup.
fn chain(root: &Path, place: &Place) -> impl Iterator<Item = PathBuf> {
    let mut path = root.to_owned();
    place.directory().split('/').map(move |segment| {
        path.push(segment);
        path.clone()
    })
}

fn is_leftover(name: &str, stem: &str) -> bool {
    let Some((object, number)) = name.rsplit_once('#') else { return false };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && object.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['-', '_']))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::head;
    use crate::domain::ByteCount;

    #[test]
    fn leftovers_are_told_from_objects_and_from_those_of_others() {
        let stem = "az_z_backup_1";
        for name in ["az_z_backup_1-00001#1", "az_z_backup_1-00001#22", "az_z_backup_1_metadata#1"] {
            assert!(is_leftover(name, stem), "{name}");
        }
        for name in ["az_z_backup_1-00001", "az_z_backup_1-00001#", "az_z_backup_1-00001#x", "az_z_backup_11-00001#1"] {
            assert!(!is_leftover(name, stem), "{name}");
        }
    }

    #[test]
    fn a_directory_that_holds_something_stays() {
        let root = tempfile::tempdir().unwrap();
        let one = head(ByteCount::ZERO);
        let other = crate::archive::BackupHead { number: one.number + 1, ..one.clone() };
        make(root.path(), &one.place()).unwrap();
        make(root.path(), &one.place()).unwrap();
        settle(root.path(), &one.place()).unwrap();
        let kept = root.path().join(other.place().object(1).as_ref());
        let left = root.path().join(format!("{}#1", one.place().object(1)));
        fs::write(&kept, "x").unwrap();
        fs::write(&left, "x").unwrap();
        tidy(root.path(), &one.place()).unwrap();
        assert!(kept.exists() && !left.exists());
        fs::remove_file(&kept).unwrap();
        tidy(root.path(), &other.place()).unwrap();
        tidy(root.path(), &other.place()).unwrap();
        assert_eq!(fs::read_dir(root.path().join("volumebackups")).unwrap().count(), 0);
    }
}
