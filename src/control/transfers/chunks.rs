//! Chunks of drives, as CloudSigma's clients send them: each is asked for by its number, comes in any order, and is
//! taken once. What has come is told as a success again, for as long as the transfer is remembered, so that no client
//! is at a loss whose answer was lost.

use std::ops::Range;
use std::sync::Arc;

use super::part::{AdmittedPart, Coming, To, other_size};
use super::{Assemblies, outcome};
use crate::control::account::Account;
use crate::control::bearer::check_bearer;
use crate::control::{no_such_drive, volumes::check_readable};
use crate::domain::{
    ByteCount, Checks, ChecksumAlgorithm, Chunk, ChunkLength, ChunkSource, ChunkTicket, Completion, ContentId, Fault,
    FaultKind, Outcome, PartOffset, PartPlan, PartTarget, Principal, Secret, TenantId, Transfer, TransferSeen,
    TransferSpec, TransferState, VolumeId, VolumeSpec,
};
use crate::meta::UserRecord;
use crate::metrics::Direction;
use crate::store::ReadBack;
use crate::transfer::{Assembly, ByteSource, Progress, compare};

/// The seconds within which a link must be used, as the vendor has them.
const LINK_SECONDS: u32 = 5 * 60;

impl Assemblies {
    /// Begins a transfer that fills a new drive of these terms.
    pub(super) async fn fill(self: &Arc<Self>, principal: &Principal, spec: VolumeSpec) -> Result<Outcome, Fault> {
        let VolumeSpec { name, size, media, meta, attributes, .. } = spec;
        let spec = TransferSpec { name, size, media, meta, ..TransferSpec::default() };
        let (drive, transfer) = self.create(principal, spec, attributes).await?;
        Ok(Outcome::Filling { drive: Box::new(drive), transfer: Box::new(transfer) })
    }

    /// The transfer that fills a drive or did, which is made first if no byte is missing: the line may have been cut
    /// behind the last one.
    pub(super) async fn filling(self: &Arc<Self>, tenant: TenantId, drive: VolumeId) -> Result<TransferSeen, Fault> {
        let transfer = self.transfer_of(tenant, drive).await?;
        self.whole_or_open(transfer).await
    }

    /// A link for a chunk that has not come.
    pub(super) async fn open_chunk(
        self: &Arc<Self>,
        principal: &Principal,
        drive: VolumeId,
        chunk: Chunk,
    ) -> Result<Outcome, Fault> {
        let seen = self.filling(principal.tenant, drive).await?;
        let TransferSeen { transfer, durable, .. } = seen;
        let (size, range) = range_of(chunk, &transfer)?;
        if durable.first_gap(range).is_none() {
            let told = format!("chunk {} is already uploaded", chunk.number);
            return Err(Fault::new(FaultKind::RangeNotSatisfiable { size }, told));
        }
        let user = self.volumes.meta.user_with_id(principal.user_id).await?;
        let ticket = ChunkTicket {
            transfer: transfer.id,
            tenant: transfer.tenant,
            user: user.as_ref().map(|user| user.id),
            chunk,
            expires: self.volumes.clock.now().plus_seconds(LINK_SECONDS),
        };
        Ok(Outcome::ChunkLink(self.tickets.issue_for_chunk(&ticket, user.as_ref())))
    }

    /// The transfer that fills this drive of the caller, or did.
    async fn transfer_of(&self, tenant: TenantId, drive: VolumeId) -> Result<Transfer, Fault> {
        let open = self.volumes.meta.transfer_of(drive).await?.filter(|transfer| transfer.tenant == tenant);
        if let Some(transfer) = open {
            return Ok(transfer);
        }
        match self.volumes.meta.ended_transfer_of(tenant, drive).await? {
            Some(transfer) if transfer.state == TransferState::Done => Ok(transfer),
            Some(transfer) => Err(super::ended(&transfer)),
            None => match self.volumes.meta.volume(tenant, drive).await? {
                Some(_) => Err(Fault::new(FaultKind::Conflict, "the drive is not one that is filled in chunks")),
                None => Err(no_such_drive(drive)),
            },
        }
    }

    /// The transfer as it is told, after its drive was made if no byte is missing.
    async fn whole_or_open(self: &Arc<Self>, transfer: Transfer) -> Result<TransferSeen, Fault> {
        let id = transfer.id;
        let seen = match self.seen(transfer).await {
            // Its drive is being made since its record was read.
            Err(fault) if matches!(fault.kind, FaultKind::Conflict | FaultKind::Gone) => {
                let transfer = self.volumes.meta.transfer(id).await?.ok_or(fault)?;
                self.seen(transfer).await?
            }
            seen => seen?,
        };
        match seen.transfer.state {
            TransferState::Open if seen.is_complete() => self.finish(seen.transfer, Completion::default()).await,
            _ => Ok(seen),
        }
    }

    /// Admits a chunk; also one of a transfer that is complete.
    pub(super) async fn admit_chunk(
        self: &Arc<Self>,
        principal: Option<&Principal>,
        plan: PartPlan,
    ) -> Result<AdmittedPart, Fault> {
        let (transfer, plan) = match &plan.target {
            PartTarget::Chunk(ChunkSource::Linked(link), _) => self.linked(&link.clone(), plan).await?,
            PartTarget::Chunk(ChunkSource::Drive(drive), _) => {
                let caller = principal.ok_or_else(|| Fault::internal("a chunk of nobody"))?;
                (self.transfer_of(caller.tenant, *drive).await?, plan)
            }
            _ => return Err(Fault::internal("it is no chunk")),
        };
        if let Some((known, told)) = transfer.size.zip(plan.size).filter(|(known, told)| known != told) {
            return Err(other_size(known, told));
        }
        let id = transfer.id;
        if transfer.state == TransferState::Open {
            let fault = match self.admit_to(transfer, None, plan.clone()).await {
                Err(fault) if matches!(fault.kind, FaultKind::Conflict | FaultKind::Gone) => fault,
                admitted => return admitted,
            };
            // Perhaps because the same chunk, sent before, has made it complete.
            return match self.volumes.meta.transfer(id).await? {
                Some(now) if is_complete(&now) => self.admit_again(now, plan).await,
                _ => Err(fault),
            };
        }
        self.admit_again(transfer, plan).await
    }

    /// The transfer that a link is for, and the plan with the place of its chunk.
    async fn linked(&self, link: &Secret, plan: PartPlan) -> Result<(Transfer, PartPlan), Fault> {
        let text = link.reveal();
        let ticket = self.tickets.verify_for_chunk(text, self.volumes.clock.now())?;
        let is_of = |user: &UserRecord| self.tickets.is_of_for_chunk(text, user);
        let told = "this link has ended with the login that it was made by";
        check_bearer(&self.volumes.meta, (ticket.user, ticket.tenant), is_of, told).await?;
        let transfer = self.volumes.meta.transfer(ticket.transfer).await?;
        let transfer = transfer.ok_or_else(|| Fault::new(FaultKind::Gone, "the upload is not remembered any more"))?;
        let (_, range) = range_of(ticket.chunk, &transfer)?;
        let length = range.end - range.start;
        if let Some(told) = plan.length.filter(|told| *told != length) {
            let told = format!("chunk {} has {length} bytes, and the body {told}", ticket.chunk.number);
            return Err(Fault::invalid("content-length", told));
        }
        Ok((transfer, PartPlan { at: PartOffset::At(range.start), length: Some(length), ..plan }))
    }

    /// Begins a chunk: it is compared if it is there.
    pub(super) async fn begin_chunk(
        assembly: &Arc<Assembly>,
        range: Range<u64>,
        (length, checks): (ChunkLength, &Checks),
        progress: &Arc<Progress>,
    ) -> Result<Coming, Fault> {
        // The same, sent before on a line that is lost; what has come of it is counted.
        assembly.end_parts(&range).await;
        let come = assembly.there();
        if come.first_gap(range.clone()).is_none() {
            return Ok(Coming::Again(range));
        }
        let is_begun = come.within(range.clone()).next().is_some();
        if is_begun && (length == ChunkLength::Unknown || !checks.is_empty()) {
            let told = "some of this chunk has come: the rest is taken with a Content-Length, and without a checksum";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let part = if is_begun || length == ChunkLength::Told && checks.is_empty() {
            assembly.part(range, Checks::default(), progress.clone()).await?
        } else {
            assembly.whole_part(range, checks.clone(), progress.clone()).await?
        };
        Ok(Coming::New(Box::new(part)))
    }

    /// Admits a chunk of a transfer that is complete: it has come before.
    async fn admit_again(self: &Arc<Self>, transfer: Transfer, plan: PartPlan) -> Result<AdmittedPart, Fault> {
        let transfer = match transfer.state {
            TransferState::Done => transfer,
            TransferState::Finishing => self.finish(transfer, Completion::default()).await?.transfer,
            _ => return Err(super::ended(&transfer)),
        };
        let PartOffset::At(start) = plan.at else { return Err(Fault::internal("a chunk without a place")) };
        let made = self.made(&transfer).await?;
        let progress = Progress::receiving(transfer.volume).expecting(plan.length.and_then(ByteCount::new));
        let running = self.running.start(Arc::new(progress));
        let account = Account::open(&self.metrics, running, Direction::Upload, transfer.volume);
        let to = To::Complete(made);
        Ok(AdmittedPart { assemblies: self.clone(), transfer, to, account, start, plan, ticket: None })
    }

    /// What the drive of a transfer holds, if it is still what the transfer has brought.
    async fn made(&self, transfer: &Transfer) -> Result<Option<Box<dyn ReadBack>>, Fault> {
        let drive = self.volumes.meta.volume(transfer.tenant, transfer.volume).await?;
        let is_same = |content: &ContentId| *content == ContentId::first_of(transfer.volume);
        let content = drive.filter(|drive| check_readable(drive).is_ok()).and_then(|drive| drive.content);
        let Some(content) = content.filter(is_same) else { return Ok(None) };
        let Ok(image) = self.volumes.store.open(content).await else { return Ok(None) };
        Ok(image.read_back().await.ok())
    }

    /// Receives a chunk of a transfer that is complete: nothing is written.
    pub(super) async fn receive_again(
        self: &Arc<Self>,
        transfer: Transfer,
        made: Option<Box<dyn ReadBack>>,
        (account, start, plan): (Account, u64, PartPlan),
        source: &mut impl ByteSource,
    ) -> Result<Outcome, Fault> {
        let range = start..start + plan.length.unwrap_or_default();
        let tracker = &self.volumes.tracker;
        let compared = compare(made, (range, comparing(&plan)), source, account.progress(), tracker).await;
        compared.map_err(|fault| of_chunk(&plan, fault))?;
        account.complete();
        self.seen(transfer).await.map(outcome)
    }
}

/// The size of the drive, and the bytes of a chunk.
fn range_of(chunk: Chunk, transfer: &Transfer) -> Result<(ByteCount, Range<u64>), Fault> {
    let unsized_yet = || Fault::new(FaultKind::Conflict, "the size of this upload is not known yet; it has no chunks");
    let size = transfer.size.ok_or_else(unsized_yet)?;
    let range = chunk.within(size).ok_or_else(|| {
        let (count, each) = (chunk.count(size), chunk.size);
        let told = format!("a drive of {size} bytes has {count} chunks of {each} bytes, numbered from 0");
        Fault::invalid("chunk_number", told)
    })?;
    Ok((size, range))
}

const fn is_complete(transfer: &Transfer) -> bool {
    matches!(transfer.state, TransferState::Finishing | TransferState::Done)
}

/// The checksums of a part that is compared with what is there: a chunk has one in any case.
pub(super) fn comparing(plan: &PartPlan) -> Checks {
    let mut checks = plan.checks.clone();
    if matches!(plan.target, PartTarget::Chunk(..)) {
        checks.announced.push(ChecksumAlgorithm::Blake3);
    }
    checks
}

/// The fault of a part that is compared with what is there, in the words of chunks if it is one. Asking again helps
/// nobody, so it is no conflict.
pub(super) fn of_chunk(plan: &PartPlan, fault: Fault) -> Fault {
    if fault.kind != FaultKind::Conflict || !matches!(plan.target, PartTarget::Chunk(..)) {
        return fault;
    }
    Fault::new(FaultKind::Invalid, "other bytes of this chunk have come before, and are kept").because(fault)
}
