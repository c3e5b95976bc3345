//! What copies are made of, and what becomes of contents that volumes have no more.
//!
//! A copy is of the content that its volume has when it is asked for. Its job refers to that, and so the volume need
//! not wait: it can be deleted, extended, restored and copied again meanwhile.
//!
//! # Crash
//! That a content is no volume's any more is noted with what makes it so; its bytes go after that, and when the last
//! job that reads them has ended. What a crash leaves of this is gone on with at the next start.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{MISSING, Volumes, WRONG_SIZE, spoil};
use crate::control::race::{Race, unless_lost};
use crate::control::{in_state, no_such_drive};
use crate::domain::{ByteCount, ContentId, Fault, FaultKind, TenantId, Volume, VolumeId};
use crate::meta::Batch;
use crate::store::{Image, StoreError};

impl Volumes {
    /// Begins a job that reads a volume of this tenant, which `plan` adds to the batch that makes it.
    pub(in crate::control) async fn begin_copy(
        &self,
        tenant: TenantId,
        id: VolumeId,
        mut plan: impl FnMut(&Volume, &mut Batch) -> Result<(), Fault> + Send,
    ) -> Result<(), Fault> {
        let mut race = Race::of("the drive is");
        loop {
            race.round()?;
            let source = self.meta.volume(tenant, id).await?.ok_or_else(|| no_such_drive(id))?;
            if !source.state.is_readable() {
                return Err(in_state("drive", source.state));
            }
            let mut batch = Batch::default();
            plan(&source, &mut batch)?;
            // Lost when it has other content by now, or none.
            if unless_lost(self.meta.apply(batch).await)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Opens a content that a job reads, of which there are so many bytes or more.
    pub(in crate::control) async fn open_content(
        &self,
        id: ContentId,
        size: ByteCount,
    ) -> Result<Arc<dyn Image>, StoreError> {
        match self.store.open(id).await {
            Ok(image) if image.size() >= size => Ok(image),
            Ok(_) => Err(StoreError::Damaged(id, WRONG_SIZE)),
            Err(StoreError::Missing(id)) => Err(StoreError::Damaged(id, MISSING)),
            Err(error) => Err(error),
        }
    }

    /// Marks a volume whose content a job has found to be damaged, unless it has other content by now.
    pub(in crate::control) async fn mark_read(&self, of: VolumeId, content: ContentId, why: &str) -> Result<(), Fault> {
        match self.meta.volume_any(of).await? {
            Some(volume) if volume.image() == content => match self.mark_spoiled(&volume, why).await {
                Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => Err(fault),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Removes the contents that no volume has any more and no job reads. One that cannot be removed keeps no other
    /// from going, and is tried again by the sweeper.
    pub(in crate::control) async fn remove_dropped(&self) {
        let removed = async {
            let mut failed: Result<(), Fault> = Ok(());
            for content in self.meta.dropped_contents().await? {
                match self.remove_bytes(content).await {
                    Ok(()) => {
                        self.crash.hit("dropped: removed");
                        self.meta.forget_dropped(content).await?;
                    }
                    Err(fault) => failed = Err(fault),
                }
            }
            failed
        };
        if let Err(fault) = removed.await {
            tracing::error!(cause = ?fault.cause, "what no volume has any more is not removed; it is tried again");
        }
    }

    /// Removes a content, whether it was a drive's or a tree's: that is not noted.
    async fn remove_bytes(&self, id: ContentId) -> Result<(), Fault> {
        let trees = self.trees.clone();
        let was_tree = self.tracker.spawn_blocking(move || trees.remove(id)).await.map_err(Fault::internal)?;
        if was_tree.map_err(Fault::internal)? {
            self.note_trash();
            return Ok(());
        }
        // Also where an earlier run has removed a tree, and the process ended before that was noted.
        Ok(self.store.remove(id).await?)
    }

    /// Marks a volume that never became complete, and removes what there is of its bytes.
    pub(in crate::control) async fn spoil_unfilled(&self, id: VolumeId, why: &str) {
        let removed = async {
            match self.meta.volume_any(id).await? {
                Some(volume) => Ok(self.store.remove(volume.image()).await?),
                None => Ok::<(), Fault>(()),
            }
        };
        if let Err(fault) = removed.await {
            tracing::error!(volume = %id, cause = ?fault.cause, "cannot remove what a volume was to be filled with");
        }
        let spoiled = self.change(id, |volume, _| spoil(volume, why)).await;
        match spoiled {
            Ok(_) => tracing::warn!(volume = %id, why, "a volume was not filled"),
            // It was deleted meanwhile.
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            Err(fault) => {
                tracing::error!(volume = %id, cause = ?fault.cause, "a volume that was not filled is not marked");
            }
        }
    }

    /// Removes a volume that never became complete, or is being deleted: bytes, then row and quota; the row alone where
    /// a job still reads the bytes. What fails is left to the sweeper, and a row that comes back after a power failure
    /// too: it says that the volume is to go.
    pub(in crate::control) async fn discard(&self, id: VolumeId) {
        if !self.meta.is_writable() {
            // Its row may say that it is complete, and nobody can change that now (I6). The next start will tell.
            return;
        }
        // Its backup is written by a job, which needs the record.
        if self.meta.is_backed_up(id).await.unwrap_or(false) {
            return self.leftovers().push(id);
        }
        let removed = async {
            let mut drop = Vec::new();
            match self.meta.volume_any(id).await? {
                None => return Ok(()),
                Some(tree) if tree.is_tree() => {
                    if let Some(content) = tree.content
                        && !self.remove_content(content).await
                    {
                        drop.push(content);
                    }
                }
                Some(drive) if self.meta.reads_content(drive.image()).await? => drop.push(drive.image()),
                Some(drive) => self.store.remove(drive.image()).await?,
            }
            // Provisional: who was told that the volume goes, was so after a flush of the row that says it; who was
            // told that an upload failed may find the drive uploading until the next start has removed it.
            let is_left = !drop.is_empty();
            let batch = Batch { remove: vec![id], drop, is_provisional: true, ..Batch::default() };
            self.meta.apply(batch).await?;
            if is_left {
                // The job that read it may have ended meanwhile.
                self.remove_dropped().await;
            }
            Ok::<(), Fault>(())
        };
        if let Err(fault) = removed.await {
            tracing::error!(volume = %id, cause = ?fault.cause, "cannot remove; the sweeper will try again");
            self.leftovers().push(id);
        }
    }

    /// Takes a content out of sight that nobody refers to any more, and says whether it is. What fails is found by the
    /// next start.
    pub(in crate::control) async fn remove_content(&self, id: ContentId) -> bool {
        if !self.meta.is_writable() {
            // A row may refer to it still, and nobody can tell before the next start.
            return false;
        }
        let trees = self.trees.clone();
        match self.tracker.spawn_blocking(move || trees.remove(id)).await {
            Ok(Ok(_)) => {
                self.note_trash();
                return true;
            }
            Ok(Err(error)) => tracing::error!(content = %id, %error, "cannot remove; the next start will try again"),
            Err(crash) => tracing::error!(content = %id, %crash, "cannot remove; the next start will try again"),
        }
        false
    }

    /// Tries again to remove what could not be removed when it should have been.
    pub(in crate::control) async fn discard_leftovers(&self) {
        let leftovers = std::mem::take(&mut *self.leftovers());
        for id in leftovers {
            self.discard(id).await;
        }
    }

    /// Returns whether something could not be removed.
    pub(in crate::control) fn has_leftovers(&self) -> bool {
        !self.leftovers().is_empty()
    }

    fn leftovers(&self) -> MutexGuard<'_, Vec<VolumeId>> {
        // A push or a take leaves it whole.
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there are removed trees that are still to be unlinked.
    pub(in crate::control) fn note_trash(&self) {
        self.has_trash.store(true, Ordering::SeqCst);
    }

    /// Unlinks what was removed, as far as nobody reads it.
    pub(in crate::control) async fn empty_trash(&self) {
        if !self.has_trash.swap(false, Ordering::SeqCst) {
            return;
        }
        let trees = self.trees.clone();
        let emptied = self.tracker.spawn_blocking(move || trees.empty_trash()).await;
        if !matches!(emptied, Ok(Ok(true))) {
            self.note_trash();
        }
        if let Ok(Err(error)) = emptied {
            tracing::error!(%error, "cannot empty the trash of the trees; it is tried again");
        }
    }
}
