//! Images that nobody knows: set aside, listed, and brought back.
//!
//! # Crash
//! Each moves by one rename, and nothing of it is changed: it is in one place or the other. When it was set aside is
//! told by the time of its last change, which a rename sets (ext4, XFS, Btrfs).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use super::files::{length, sync_dir};
use super::sidecar;
use super::steps::{Steps, ids_in, place, unlink};
use crate::domain::{ContentId, UnixTime};
use crate::store::{LostImage, StoreError, Swept};

impl Steps {
    /// Takes an image out of sight, and keeps it; what it takes on the disk. `None` when it was removed meanwhile.
    pub(super) fn set_aside(&self, id: ContentId) -> Result<Option<u64>, StoreError> {
        let _claim = self.busy.claim(id);
        let moved = on_disk(&place(&self.drives, id))
            .and_then(|bytes| move_image(&self.drives, &self.lost, id).map(|()| bytes));
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            moved => moved.map(Some).map_err(StoreError::from),
        }
    }

    /// Shows an image that was set aside.
    pub(super) fn bring_back(&self, id: ContentId) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        move_image(&self.lost, &self.drives, id)?;
        sync_dir(&self.lost)?;
        Ok(self.flush_places()?)
    }

    /// What was set aside.
    pub(super) fn lost_images(&self) -> Result<Vec<LostImage>, StoreError> {
        ids_in(&self.lost)?.into_iter().map(|id| self.lost_image(id)).collect()
    }

    fn lost_image(&self, id: ContentId) -> Result<LostImage, StoreError> {
        let path = place(&self.lost, id);
        let path = if path.symlink_metadata()?.is_dir() { path.join("image") } else { path };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let image = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(LostImage { id, size: length(&image)?, record: sidecar::record(&image, id) })
    }

    /// Unlinks an image that was set aside.
    pub(super) fn forget(&self, id: ContentId) -> Result<(), StoreError> {
        let _claim = self.busy.claim(id);
        unlink(&place(&self.lost, id))?;
        Ok(sync_dir(&self.lost)?)
    }

    /// Brings back what is known again, and forgets what was set aside before a time.
    pub(super) fn sweep_lost(
        &self,
        keep: &dyn Fn(ContentId) -> bool,
        forget_before: UnixTime,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        for id in ids_in(&self.lost)? {
            if keep(id) {
                match self.bring_back(id) {
                    // Somebody has put a copy of it there meanwhile.
                    Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    outcome => {
                        outcome?;
                        swept.returned += 1;
                        continue;
                    }
                }
            }
            if changed(&place(&self.lost, id))? < forget_before {
                self.forget(id)?;
                swept.forgotten += 1;
            }
        }
        Ok(())
    }

    /// What a version before contents had jobs hold is a content by now, with the id of its job.
    pub(super) fn take_over_held(&self, is_wanted: &dyn Fn(ContentId) -> bool) -> Result<(), StoreError> {
        let held = self.drives.with_file_name("held");
        let ids = match ids_in(&held) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            ids => ids?,
        };
        for id in ids.into_iter().filter(|id| is_wanted(*id)) {
            move_image(&held, &self.drives, id)?;
        }
        self.flush_places()?;
        Ok(fs::remove_dir_all(held)?)
    }

    /// When an image was stored, or moved.
    pub(super) fn stored_at(&self, id: ContentId) -> Result<UnixTime, StoreError> {
        Ok(changed(&place(&self.drives, id))?)
    }
}

fn move_image(from: &Path, to: &Path, id: ContentId) -> io::Result<()> {
    Ok(renameat_with(CWD, place(from, id), CWD, place(to, id), RenameFlags::NOREPLACE)?)
}

fn changed(path: &Path) -> io::Result<UnixTime> {
    let found = path.symlink_metadata()?;
    Ok(UnixTime(found.ctime().saturating_mul(1_000)))
}

/// What a file takes on the disk, or a folder with its files.
fn on_disk(path: &Path) -> io::Result<u64> {
    let found = path.symlink_metadata()?;
    let mut blocks = found.blocks();
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            blocks += entry?.metadata()?.blocks();
        }
    }
    Ok(blocks * 512)
}
