//! Changes and clones of the caller's own drives.

use std::sync::Arc;
use std::time::Duration;

use super::bells::Bells;
use super::volumes::Volumes;
use super::{busy, no_such_drive};
use crate::domain::{
    ByteCount, ContentId, Fault, Outcome, Patch, Principal, Reason, Volume, VolumeEvent, VolumeId, VolumeKind,
    VolumeRef, VolumeState,
};
use crate::meta::{Batch, JobKind, NewJob};

/// What takes longer is answered before it has ended.
const PROMPT: Duration = Duration::from_secs(2);

/// Changes and clones drives.
pub(super) struct Drives {
    volumes: Arc<Volumes>,
    bells: Bells,
}

impl Drives {
    /// Over these parts.
    pub(super) fn new(volumes: Arc<Volumes>, bells: Bells) -> Self {
        Self { volumes, bells }
    }

    /// Changes a volume; a change of a drive's size is left to a job.
    pub(super) async fn change(
        &self,
        principal: &Principal,
        volume: &VolumeRef,
        patch: Patch,
    ) -> Result<Outcome, Fault> {
        let id = self.volumes.look_up(principal.tenant, volume).await?.id;
        let changed = self
            .volumes
            .change(id, |volume, batch| {
                if volume.tenant != principal.tenant {
                    return Err(no_such_drive(id));
                }
                patch.clone().apply(volume)?;
                match patch.size {
                    Some(size) if size != volume.size => self.start_resize(volume, size, batch),
                    _ => Ok(()),
                }
            })
            .await?;
        if changed.state == VolumeState::Resizing {
            self.bells.wake();
        }
        self.volumes.told(changed).await
    }

    /// Grows a drive, and waits until it has grown if no other job is in the way.
    pub(super) async fn extend(&self, principal: &Principal, id: VolumeId, size: ByteCount) -> Result<(), Fault> {
        let drive = self.volumes.find(principal.tenant, id).await?;
        if size <= drive.size {
            let told = format!("a drive can only grow; it has {} bytes", drive.size);
            return Err(Fault::invalid("size", told).for_reason(Reason::NotLarger(drive.size)));
        }
        self.volumes.check_size(size)?;
        let patch = Patch { size: Some(size), ..Patch::default() };
        self.change(principal, &VolumeRef::Drive(id), patch).await?;
        self.await_resize(id).await;
        Ok(())
    }

    /// Waits until a volume has been resized, for as long as that takes where no other job is in the way: who asks for
    /// the next thing at once finds it at rest. Later, its state says that it is being resized.
    async fn await_resize(&self, id: VolumeId) {
        let resized = async {
            loop {
                let ended = self.bells.ended.notified();
                tokio::pin!(ended);
                // Before the look, so that an end between look and wait is heard.
                ended.as_mut().enable();
                match self.volumes.meta.volume_any(id).await {
                    Ok(Some(volume)) if volume.state == VolumeState::Resizing => ended.await,
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(PROMPT, resized).await;
    }

    /// Only growth: cutting a drive would lose bytes, and no guest's file system expects it.
    fn start_resize(&self, volume: &mut Volume, size: ByteCount, batch: &mut Batch) -> Result<(), Fault> {
        if volume.kind != VolumeKind::Drive {
            return Err(Fault::invalid("size", "only a drive can be resized"));
        }
        volume.step(VolumeEvent::ResizeStarted).map_err(busy)?;
        if size < volume.size {
            let told = format!("a drive can only grow; it has {} bytes", volume.size);
            return Err(Fault::invalid("size", told));
        }
        self.volumes.check_size(size)?;
        volume.charged = size;
        batch.enqueue.push(NewJob::new(JobKind::Resize { size }, volume.id, self.volumes.clock.now()));
        Ok(())
    }

    /// Begins to clone a drive.
    pub(super) async fn clone_drive(
        &self,
        principal: &Principal,
        id: VolumeId,
        patch: Patch,
    ) -> Result<Outcome, Fault> {
        self.volumes.find(principal.tenant, id).await?;
        let target = VolumeId::random();
        self.volumes
            .begin_copy(principal.tenant, id, |source, batch| {
                let size = patch.size.unwrap_or(source.size);
                if size < source.size {
                    let told = format!("a clone is no smaller than its source, which has {} bytes", source.size);
                    return Err(Fault::invalid("size", told));
                }
                if size > source.size {
                    self.volumes.check_size(size)?;
                }
                let now = self.volumes.clock.now();
                let mut clone = Volume {
                    id: target,
                    size,
                    charged: size,
                    state: VolumeState::CloningTarget,
                    digests: source.digests_at(size),
                    generation: 0,
                    revision: 0,
                    created: now,
                    updated: now,
                    content: Some(ContentId::first_of(target)),
                    ..source.clone()
                };
                patch.clone().apply(&mut clone)?;
                batch.insert.push(clone);
                let kind = JobKind::Clone { source: source.id, content: source.image(), size: source.size };
                batch.enqueue.push(NewJob::new(kind, target, now));
                Ok(())
            })
            .await?;
        self.bells.wake();
        self.volumes.told(self.volumes.find(principal.tenant, target).await?).await
    }
}
