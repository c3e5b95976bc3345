//! What copies are made of, and what becomes of contents that volumes have no more.
//!
//! A copy is of the content that its volume has when it is asked for. Its job refers to that, and so the volume need
//! not wait: it can be deleted, extended, restored and copied again meanwhile.
//!
//! # Crash
//! That a content is no volume's any more is noted with what makes it so; its bytes go after that, and when the last
//! job that reads them has ended. What a crash leaves of this is gone on with at the next start.

use std::sync::Arc;

use super::download::{MISSING, WRONG_SIZE};
use super::race::{Race, unless_lost};
use super::{Control, in_state, no_such_drive};
use crate::domain::{ByteCount, ContentId, Fault, FaultKind, TenantId, Volume, VolumeId};
use crate::meta::Batch;
use crate::store::{Image, StoreError};

impl Control {
    /// Begins a job that reads a volume of this tenant, which `plan` adds to the batch that makes it.
    pub(super) async fn begin_copy(
        &self,
        tenant: TenantId,
        id: VolumeId,
        mut plan: impl FnMut(&Volume, &mut Batch) -> Result<(), Fault> + Send,
    ) -> Result<(), Fault> {
        let mut race = Race::of("the drive is");
        loop {
            race.round()?;
            let source = self.parts.meta.volume(tenant, id).await?.ok_or_else(|| no_such_drive(id))?;
            if !source.state.is_readable() {
                return Err(in_state("drive", source.state));
            }
            let mut batch = Batch::default();
            plan(&source, &mut batch)?;
            // Lost when it has other content by now, or none.
            if unless_lost(self.parts.meta.apply(batch).await)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Opens a content that a job reads, of which there are so many bytes or more.
    pub(super) async fn open_content(&self, id: ContentId, size: ByteCount) -> Result<Arc<dyn Image>, StoreError> {
        match self.parts.store.open(id).await {
            Ok(image) if image.size() >= size => Ok(image),
            Ok(_) => Err(StoreError::Damaged(id, WRONG_SIZE)),
            Err(StoreError::Missing(id)) => Err(StoreError::Damaged(id, MISSING)),
            Err(error) => Err(error),
        }
    }

    /// Marks a volume whose content a job has found to be damaged, unless it has other content by now.
    pub(super) async fn mark_read(&self, of: VolumeId, content: ContentId, why: &str) -> Result<(), Fault> {
        match self.parts.meta.volume_any(of).await? {
            Some(volume) if volume.image() == content => match self.mark_spoiled(&volume, why).await {
                Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => Err(fault),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Removes the contents that no volume has any more and no job reads. One that cannot be removed keeps no other from
    /// going, and is tried again by the sweeper.
    pub(super) async fn remove_dropped(&self) {
        let removed = async {
            let mut failed: Result<(), Fault> = Ok(());
            for content in self.parts.meta.dropped_contents().await? {
                match self.parts.store.remove(content).await {
                    Ok(()) => {
                        self.parts.crash.hit("dropped: removed");
                        self.parts.meta.forget_dropped(content).await?;
                    }
                    Err(error) => failed = Err(error.into()),
                }
            }
            failed
        };
        if let Err(fault) = removed.await {
            tracing::error!(cause = ?fault.cause, "what no volume has any more is not removed; it is tried again");
        }
    }
}
