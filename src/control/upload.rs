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
use super::growth::Room;
use super::undo::{Undo, Undoing};
use super::volumes::Volumes;
use super::{Parts, Settings};
use crate::domain::{
    Algorithms, ByteCount, ContentId, Digests, Fault, FaultKind, Outcome, Principal, ReceivePlan, Volume, VolumeEvent,
    VolumeId, VolumeKind, VolumeState,
};
use crate::io::Pool;
use crate::meta::{Batch, JobKind, NewJob};
use crate::metrics::{Direction, Metrics};
use crate::store::{Draft, DraftOptions, Reservation, StoreError};
use crate::transfer::{
    Allowance, ByteSource, DraftWriter, Phase, Progress, ReceiveError, Stop, Transfers, WriteOptions, Written, receive,
};

/// An upload that has its quota and its space, and may start. Dropping it undoes all of that.
pub(crate) struct Admitted {
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
    metrics: Arc<Metrics>,
    settings: Settings,
    bells: Bells,
}

impl Uploads {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>, bells: Bells) -> Arc<Self> {
        let (transfers, pool) = (parts.transfers.clone(), parts.pool.clone());
        let (metrics, settings) = (parts.metrics.clone(), parts.settings);
        Arc::new(Self { volumes, transfers, pool, metrics, settings, bells })
    }

    /// Admits an upload: everything that can refuse it happens here, before its first byte is asked for.
    pub(super) async fn admit(self: &Arc<Self>, principal: &Principal, plan: ReceivePlan) -> Result<Admitted, Fault> {
        let limits = self.settings.limits;
        let length = plan.length.unwrap_or_default();
        if length > limits.max_drive {
            return Err(Fault::new(FaultKind::TooLarge, format!("a drive has at most {} bytes", limits.max_drive)));
        }
        // Before the row: the space is the scarcer of the two, and it is given back by itself.
        let reservation = self.volumes.store.space().reserve_for(principal.tenant, length)?;
        let charged = length.max(limits.min_drive);
        let size = plan.length.map_or(ByteCount::ZERO, |_| charged);
        let (kind, state, now) = (VolumeKind::Drive, VolumeState::Uploading, self.volumes.clock.now());
        let volume = Volume::begun(principal.tenant, kind, &plan.name, size, state, now);
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
        let content = volume.image();
        let filling = Filling { uploads: self.clone(), id, content, making: None, has_draft: true, failure };
        let mut undo = Undo::new(&self.volumes.tracker, filling);
        // Provisional: nobody is told of the drive before its bytes and its last row are durable, and without this row
        // what the upload has made is garbage.
        let is_provisional = failure == Failure::Remove;
        self.volumes.meta.apply(Batch { insert: vec![volume.clone()], is_provisional, ..Batch::default() }).await?;
        self.volumes.crash.hit("upload: row");
        let options = DraftOptions { expected: plan.length, reservation, record: (&volume).into(), is_kept: false };
        let uploads = self.clone();
        undo.making = Some(self.volumes.tracker.spawn(async move {
            let draft = uploads.volumes.store.draft(content, options).await;
            uploads.volumes.crash.hit("upload: draft");
            draft
        }));
        let account = Account::open(&self.metrics, running, Direction::Upload, id);
        Ok(Admitted { undo, plan, volume, account })
    }
}

impl Admitted {
    /// The progress of this transfer.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.account.progress().clone()
    }

    /// Receives the bytes and makes the drive. When it returns well, the drive is durable.
    ///
    /// # Cancellation
    /// Dropping it before the last byte was received undoes the upload; dropping it later lets it finish.
    pub(crate) async fn receive(mut self, source: &mut impl ByteSource) -> Result<Outcome, Fault> {
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
        let always = Algorithms { sha256: uploads.settings.always_sha256, ..Algorithms::NONE };
        let digests = always.or(self.plan.wanted).or(self.plan.asserted.algorithms());
        let options = WriteOptions { depth: uploads.settings.depth, digests };
        let room = self.plan.length.map_or(0, ByteCount::get);
        let mut growth = Growth {
            uploads: &uploads,
            id: self.undo.id,
            draft: &draft,
            fixed: self.plan.length.is_some(),
            room: Room { end: room, charged: self.volume.charged },
        };
        let writer = DraftWriter::new(draft.clone(), uploads.pool.clone(), options, progress.clone());
        let written = match receive(source, writer, room, &mut growth, &progress).await {
            Ok(written) => written,
            Err(error) => {
                // It takes its space as long as it is open.
                drop(draft);
                return Err(self.fail(&uploads, error.into()).await);
            }
        };
        let trailed = source.asserted().and_then(|asserted| self.trail(asserted, written.digests));
        if let Err(fault) = trailed {
            drop(draft);
            return Err(self.fail(&uploads, fault).await);
        }
        let finish = self.finish(uploads.clone(), draft, written);
        uploads.volumes.tracker.spawn(finish).await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    /// Adds the digests that the peer has asserted behind the last byte.
    fn trail(&mut self, asserted: Digests, computed: Digests) -> Result<(), Fault> {
        if asserted.algorithms().or(computed.algorithms()) != computed.algorithms() {
            // To pass over it would leave its sender believing that the bytes were checked.
            let told = "a digest that follows the body is announced in the field Trailer: it is computed on the way";
            return Err(Fault::invalid("Trailer", told));
        }
        if let Some(algorithm) = self.plan.asserted.contradiction(&asserted) {
            let told = format!("the {algorithm} that follows the body is not the one that came before it");
            return Err(Fault::new(FaultKind::DigestMismatch, told));
        }
        self.plan.asserted = self.plan.asserted.or(asserted);
        Ok(())
    }

    /// Undoes at once, so that the caller who reads the refusal finds quota and space free again.
    async fn fail(mut self, uploads: &Uploads, fault: Fault) -> Fault {
        self.undo.remove_bytes().await;
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
        match progress.during(Phase::Disk, self.commit(&uploads, draft, written)).await {
            Ok(digests) => {
                self.undo.complete();
                self.account.complete();
                Ok(Outcome::Uploaded { id: self.undo.id, digests })
            }
            Err(fault) => Err(self.fail(&uploads, fault).await),
        }
    }

    async fn commit(&mut self, uploads: &Uploads, draft: Arc<dyn Draft>, written: Written) -> Result<Digests, Fault> {
        let Some(bytes) = ByteCount::new(written.end) else {
            return Err(Fault::new(FaultKind::TooLarge, "too many bytes"));
        };
        if bytes == ByteCount::ZERO {
            return Err(Fault::new(FaultKind::Empty, "the body is empty"));
        }
        if self.plan.length.is_some_and(|length| length != bytes) {
            return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
        }
        if let Some(algorithm) = self.plan.asserted.contradiction(&written.digests) {
            let told = format!("the bytes received do not have the asserted {algorithm}");
            return Err(Fault::new(FaultKind::DigestMismatch, told));
        }
        let size = bytes.max(uploads.settings.limits.min_drive).max(self.volume.size);
        uploads.volumes.crash.hit("upload: received");
        draft.publish(size, written.map.finish(bytes).map_err(Fault::internal)?).await?;
        uploads.volumes.crash.hit("upload: published");
        self.undo.has_draft = false;
        uploads
            .volumes
            .change_known(self.undo.id, Some(self.volume.clone()), |volume, batch| {
                volume.step(VolumeEvent::Completed).map_err(super::busy)?;
                volume.size = size;
                volume.charged = size;
                // Of the whole drive only if no zeros were added after the bytes that were digested.
                volume.renew(if size == bytes { written.digests } else { Digests::NONE });
                if uploads.settings.always_seal {
                    batch.enqueue.push(NewJob::new(JobKind::Seal { spares_holes: false }, volume.id, volume.created));
                }
                Ok(())
            })
            .await?;
        uploads.volumes.crash.hit("upload: committed");
        if uploads.settings.always_seal {
            uploads.bells.wake();
        }
        Ok(written.digests)
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
    room: Room,
}

impl Allowance for Growth<'_> {
    async fn extend(&mut self, end: u64) -> Result<u64, Fault> {
        if self.fixed {
            return Err(Fault::new(FaultKind::BadFraming, "the body is longer than its length"));
        }
        let most = self.uploads.settings.limits.max_drive;
        self.room.extend(end, most, (&self.uploads.volumes.meta, self.id), self.draft).await
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
    content: ContentId,
    failure: Failure,
    /// Whether there may be bytes of it that its row does not call complete.
    has_draft: bool,
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

    /// Removes what there is of the bytes, and asks no database first: on a full disk that may be waiting for just the
    /// space that these take. What fails is tried again with the row.
    async fn remove_bytes(&mut self) {
        if self.making.is_some() {
            let _ = self.draft().await;
        }
        if std::mem::take(&mut self.has_draft) {
            let _ = self.uploads.volumes.store.remove(self.content).await;
        }
    }
}

impl Undoing for Filling {
    const CUT_OFF: &'static str = "it was cut off";

    fn hand_over(&mut self) -> Self {
        let (uploads, making) = (self.uploads.clone(), self.making.take());
        let Self { id, content, failure, has_draft, .. } = *self;
        Self { uploads, id, content, failure, has_draft, making }
    }

    async fn undo(&mut self, why: &str) -> bool {
        self.remove_bytes().await;
        match self.failure {
            Failure::Remove => self.uploads.volumes.discard(self.id).await,
            Failure::Spoil => self.uploads.volumes.spoil_unfilled(self.id, why).await,
        }
        true
    }
}
