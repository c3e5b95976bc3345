//! One upload, from admission to a durable drive.
//!
//! Whatever the caller can be refused for is found out before the first byte is asked for. The draft's file is made
//! while that byte is on its way: making files waits for the disk when it is busy.
//!
//! # Crash
//! Row (uploading), draft, bytes, publish, row (available). A crash before the last leaves a row and files that the
//! sweeper removes at the next start.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::account::Account;
use super::bells::Bells;
use super::undo::{Undo, Undoing};
use super::volumes::Volumes;
use super::{Parts, Settings};
use crate::domain::{
    ByteCount, DriveSpec, Fault, FaultKind, Media, Outcome, Principal, ReceivePlan, Sha256, Volume, VolumeEvent,
    VolumeId, VolumeState,
};
use crate::io::Pool;
use crate::meta::{Batch, JobKind, NewJob};
use crate::metrics::Direction;
use crate::store::{Draft, DraftOptions, Reservation, StoreError};
use crate::transfer::{
    Allowance, DraftWriter, Phase, Progress, ReceiveError, Source, Stop, Transfers, WriteOptions, Written, receive,
};

/// How much quota and space an upload of unknown length takes at a time: few trips to the database, little taken that
/// another could have had.
const STEP: ByteCount = ByteCount::mib(64);

/// An upload that has its quota and its space, and may start. Dropping it undoes all of that.
pub struct Admitted {
    undo: Undo<Filling>,
    plan: ReceivePlan,
    /// As its row was written.
    volume: Volume,
    account: Account,
}

/// Uploads, and whatever else fills a new drive.
pub(super) struct Uploads {
    volumes: Arc<Volumes>,
    transfers: Transfers,
    /// The memory of the transfers.
    pool: Pool,
    settings: Settings,
    bells: Bells,
}

impl Uploads {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>, bells: Bells) -> Arc<Self> {
        let (transfers, pool) = (parts.transfers.clone(), parts.pool.clone());
        Arc::new(Self { volumes, transfers, pool, settings: parts.settings, bells })
    }

    /// Admits an upload: everything that can refuse it happens here, before its first byte is asked for.
    pub(super) async fn admit(self: &Arc<Self>, principal: &Principal, plan: ReceivePlan) -> Result<Admitted, Fault> {
        let limits = self.volumes.limits;
        let length = plan.length.unwrap_or_default();
        if length > limits.max_drive {
            return Err(Fault::new(FaultKind::TooLarge, format!("a drive has at most {} bytes", limits.max_drive)));
        }
        // Before the row: the space is the scarcer of the two, and it is given back by itself.
        let reservation = self.volumes.store.space().reserve_for(principal.tenant, length)?;
        let charged = length.max(limits.min_drive);
        let spec = DriveSpec {
            name: plan.name.clone(),
            size: plan.length.map_or(ByteCount::ZERO, |_| charged),
            media: Media::Disk,
            meta: serde_json::Map::new(),
            attributes: serde_json::Map::new(),
        };
        let volume = Volume::begun(principal.tenant, spec, VolumeState::Uploading, self.volumes.clock.now());
        // A stream of unknown length will have at least the least size.
        let volume = Volume { charged, ..volume };
        self.begin(volume, plan, reservation, Failure::Remove).await
    }

    /// Begins to fill a volume that has no row yet.
    pub(super) async fn begin(
        self: &Arc<Self>,
        volume: Volume,
        plan: ReceivePlan,
        reservation: Reservation,
        failure: Failure,
    ) -> Result<Admitted, Fault> {
        let id = volume.id;
        // Among the running before the row is there: the sweeper removes uploading rows that nobody runs.
        let progress = match failure {
            Failure::Remove => Progress::receiving(id).expecting(plan.length),
            Failure::Spoil => Progress::fetching(id),
        };
        let running = self.transfers.start(Arc::new(progress));
        let filling = Filling { uploads: self.clone(), id, making: None, failure };
        let mut undo = Undo::new(&self.volumes.tracker, filling);
        // Provisional: nobody is told of the drive before its bytes and its last row are durable, and without this row
        // what the upload has made is garbage.
        let is_provisional = failure == Failure::Remove;
        self.volumes.meta.apply(Batch { insert: vec![volume.clone()], is_provisional, ..Batch::default() }).await?;
        self.volumes.crash.hit("upload: row");
        let (content, record) = (volume.image(), (&volume).into());
        let options = DraftOptions { expected: plan.length, reservation, record };
        let uploads = self.clone();
        undo.making = Some(self.volumes.tracker.spawn(async move {
            let draft = uploads.volumes.store.draft(content, options).await;
            uploads.volumes.crash.hit("upload: draft");
            draft
        }));
        let account = Account::open(&self.volumes.metrics, running, Direction::Upload, id);
        Ok(Admitted { undo, plan, volume, account })
    }
}

impl Admitted {
    /// The drive that is being made.
    pub fn id(&self) -> VolumeId {
        self.undo.id
    }

    /// The progress of this transfer.
    pub fn progress(&self) -> Arc<Progress> {
        self.account.progress().clone()
    }

    /// Receives the bytes and makes the drive. When it returns well, the drive is durable.
    ///
    /// # Cancellation
    /// Dropping it before the last byte was received undoes the upload; dropping it later lets it finish.
    pub async fn receive(mut self, source: &mut impl Source) -> Result<Outcome, Fault> {
        let uploads = self.undo.uploads.clone();
        let progress = self.account.progress().clone();
        // Asking the source has the peer send.
        let early = tokio::select! {
            biased;
            draft = self.undo.draft() => draft,
            ready = source.ready() => match ready {
                Ok(_) => progress.during(Phase::Disk, self.undo.draft()).await,
                Err(error) => Err(ReceiveError::Source(error).into()),
            },
        };
        let draft = match early {
            Ok(draft) => draft,
            Err(fault) => return Err(self.fail(&uploads, fault).await),
        };
        let options = WriteOptions {
            depth: uploads.settings.depth,
            sha256: uploads.settings.always_sha256 || self.plan.wants_sha256 || self.plan.expected.is_some(),
        };
        let room = self.plan.length.map_or(0, ByteCount::get);
        let mut growth = Growth {
            uploads: &uploads,
            id: self.undo.id,
            draft: &draft,
            fixed: self.plan.length.is_some(),
            room,
            charged: self.volume.charged,
        };
        let writer = DraftWriter::new(&draft, &uploads.pool, options, &progress);
        let written = match receive(source, writer, room, &mut growth, &progress).await {
            Ok(written) => written,
            Err(error) => return Err(self.fail(&uploads, error.into()).await),
        };
        let finish = self.finish(uploads.clone(), draft, written);
        uploads.volumes.tracker.spawn(finish).await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    /// Undoes at once, so that the caller who reads the refusal finds quota and space free again.
    async fn fail(mut self, uploads: &Uploads, fault: Fault) -> Fault {
        let is_deleted = match uploads.volumes.meta.volume_any(self.undo.id).await {
            Ok(row) => row.is_none_or(|volume| volume.state == VolumeState::Deleting),
            Err(_) => false,
        };
        self.undo.now(&reason_of(&fault)).await;
        // A deletion shows itself in many ways, depending on which step it meets.
        if is_deleted { Stop::Deleted.into() } else { fault }
    }

    async fn finish(
        mut self,
        uploads: Arc<Uploads>,
        draft: Arc<dyn Draft>,
        written: Written,
    ) -> Result<Outcome, Fault> {
        let progress = self.account.progress().clone();
        match progress.during(Phase::Disk, self.commit(&uploads, &*draft, written)).await {
            Ok(sha256) => {
                self.undo.complete();
                self.account.complete();
                Ok(Outcome::Uploaded { id: self.undo.id, sha256 })
            }
            Err(fault) => Err(self.fail(&uploads, fault).await),
        }
    }

    async fn commit(&self, uploads: &Uploads, draft: &dyn Draft, written: Written) -> Result<Option<Sha256>, Fault> {
        let Some(bytes) = ByteCount::new(written.end) else {
            return Err(Fault::new(FaultKind::TooLarge, "too many bytes"));
        };
        if bytes == ByteCount::ZERO {
            return Err(Fault::new(FaultKind::Empty, "the body is empty"));
        }
        if self.plan.length.is_some_and(|length| length != bytes) {
            return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
        }
        if let (Some(expected), Some(actual)) = (self.plan.expected, written.sha256)
            && expected != actual
        {
            return Err(Fault::new(FaultKind::DigestMismatch, "the bytes received do not have the asserted SHA-256"));
        }
        let size = bytes.max(uploads.volumes.limits.min_drive).max(self.volume.size);
        uploads.volumes.crash.hit("upload: received");
        draft.publish(size, written.map.finish(bytes).map_err(Fault::internal)?).await?;
        uploads.volumes.crash.hit("upload: published");
        uploads
            .volumes
            .change_known(self.undo.id, Some(self.volume.clone()), |volume, batch| {
                volume.step(VolumeEvent::Completed).map_err(super::busy)?;
                volume.size = size;
                volume.charged = size;
                volume.generation += 1;
                // Of the whole drive only if no zeros were added after the bytes that were digested.
                volume.sha256 = written.sha256.filter(|_| size == bytes);
                if uploads.settings.always_seal {
                    batch.enqueue.push(NewJob::new(JobKind::Seal, volume.id, volume.created));
                }
                Ok(())
            })
            .await?;
        uploads.volumes.crash.hit("upload: committed");
        if uploads.settings.always_seal {
            uploads.bells.wake();
        }
        Ok(written.sha256)
    }
}

/// Why a volume could not be filled. What became of its source tells more than that its bytes ended.
fn reason_of(fault: &Fault) -> String {
    let cause = fault.cause.as_deref().filter(|_| fault.kind == FaultKind::BodyIncomplete);
    let mut innermost = cause.map(|cause| cause as &dyn std::error::Error);
    while let Some(source) = innermost.and_then(std::error::Error::source) {
        innermost = Some(source);
    }
    innermost.map_or_else(|| fault.told.clone(), ToString::to_string)
}

/// Takes quota and space as a stream of unknown length grows.
struct Growth<'a> {
    uploads: &'a Uploads,
    id: VolumeId,
    draft: &'a Arc<dyn Draft>,
    fixed: bool,
    room: u64,
    charged: ByteCount,
}

impl Allowance for Growth<'_> {
    async fn extend(&mut self, end: u64) -> Result<u64, Fault> {
        if self.fixed {
            return Err(Fault::new(FaultKind::BadFraming, "the body is longer than its length"));
        }
        let max = self.uploads.volumes.limits.max_drive.get();
        if end > max {
            return Err(Fault::new(FaultKind::TooLarge, format!("a drive has at most {max} bytes")));
        }
        let mut wish = end.max(self.room + STEP.get()).min(max);
        let count = |bytes| ByteCount::new(bytes).unwrap_or(ByteCount::MAX);
        if wish > self.charged.get() {
            let least = count(end.saturating_sub(self.charged.get()));
            let granted =
                self.uploads.volumes.meta.charge_upto(self.id, count(wish - self.charged.get()), least).await?;
            self.charged = count(self.charged.get() + granted.get());
            wish = wish.min(self.charged.get());
        }
        if self.draft.reserve_more(count(wish - self.room)).is_err() {
            self.draft.reserve_more(count(end - self.room))?;
            wish = end;
        }
        self.room = wish;
        Ok(wish)
    }
}

/// What becomes of a volume that could not be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its caller was told, and it goes.
    Remove,
    /// Its caller was told that it is being made: it stays, unavailable, and says why.
    Spoil,
}

/// A volume that is being filled.
struct Filling {
    uploads: Arc<Uploads>,
    id: VolumeId,
    failure: Failure,
    /// The draft, which may still be on its way: what is not there yet cannot be removed.
    making: Option<JoinHandle<Result<Arc<dyn Draft>, StoreError>>>,
}

impl Filling {
    /// Waits for the draft. Cancel safe; to be called until it has answered once.
    async fn draft(&mut self) -> Result<Arc<dyn Draft>, Fault> {
        let Some(making) = &mut self.making else { return Err(Fault::internal("a draft was asked for twice")) };
        let made = making.await;
        self.making = None;
        Ok(made.map_err(Fault::internal)??)
    }
}

impl Undoing for Filling {
    const CUT_OFF: &'static str = "it was cut off";

    fn hand_over(&mut self) -> Self {
        let (uploads, making) = (self.uploads.clone(), self.making.take());
        Self { uploads, id: self.id, failure: self.failure, making }
    }

    async fn undo(&mut self, why: &str) -> bool {
        if self.making.is_some() {
            let _ = self.draft().await;
        }
        match self.failure {
            Failure::Remove => self.uploads.volumes.discard(self.id).await,
            Failure::Spoil => self.uploads.volumes.spoil_unfilled(self.id, why).await,
        }
        true
    }
}
