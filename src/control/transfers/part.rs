//! One part of a transfer: bytes from one connection.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Map;

use super::chunks::{comparing, of_chunk};
use super::held::{Held, Work};
use super::{Assemblies, ended, lock, outcome, too_large};
use crate::control::account::Account;
use crate::control::turns::Turn;
use crate::domain::{
    ByteCount, Completion, Digests, Encoding, Extent, Extents, Fault, FaultKind, Finishes, Outcome, PartOffset,
    PartPlan, PartTarget, Principal, Reason, Secret, TenantId, Transfer, TransferSeen, TransferState,
};
use crate::meta::{Batch, TransferStep};
use crate::metrics::Direction;
use crate::store::{Draft, ReadBack};
use crate::transfer::{Allowance, Assembly, ByteSource, DrivePart, Expanded, Progress};

/// A part that may come. Dropping it ends the part: what has come is counted.
pub(crate) struct AdmittedPart {
    pub(super) assemblies: Arc<Assemblies>,
    pub(super) transfer: Transfer,
    pub(super) to: To,
    pub(super) account: Account,
    pub(super) start: u64,
    pub(super) plan: PartPlan,
    /// The secret of a transfer that was made for the part.
    pub(super) ticket: Option<Secret>,
}

/// What a part comes to.
pub(super) enum To {
    /// A transfer that is open.
    Open {
        held: Arc<Held>,
        assembly: Arc<Assembly>,
        part: Coming,
        /// The turn to decompress it.
        expansion: Option<Turn>,
    },
    /// One that is complete, and what its drive holds, if that is there to be compared.
    Complete(Option<Box<dyn ReadBack>>),
}

/// Where the bytes of a part go.
pub(super) enum Coming {
    /// To the disk.
    New(Box<DrivePart>),
    /// Nowhere: all of these are there, and are compared.
    Again(Range<u64>),
}

impl Assemblies {
    /// Admits a part: everything that can refuse it happens here, before its first byte is asked for. Parts with bytes
    /// in common with it are ended.
    pub(in crate::control) async fn admit(
        self: &Arc<Self>,
        principal: Option<&Principal>,
        plan: PartPlan,
    ) -> Result<AdmittedPart, Fault> {
        let caller = || principal.ok_or_else(|| Fault::internal("a part of nobody"));
        let most = self.settings.limits.max_drive;
        if plan.length.is_some_and(|length| length > most.get()) {
            return Err(too_large(most));
        }
        let (transfer, ticket) = match &plan.target {
            PartTarget::Ticketed(id, ticket) => (self.ticketed(*id, ticket).await?, None),
            PartTarget::Own(id) => (self.own(caller()?.tenant, *id).await?, None),
            PartTarget::New(spec) => {
                let (_, made) = self.create(caller()?, (**spec).clone(), Map::new()).await?;
                (made.transfer, made.ticket)
            }
            PartTarget::Chunk(..) => return self.admit_chunk(principal, plan).await,
        };
        let made = ticket.is_some().then(|| transfer.clone());
        let admitted = self.admit_to(transfer, ticket, plan).await;
        if admitted.is_err()
            && let Some(made) = made
        {
            // Nobody was told of it.
            self.cancel(made).await?;
        }
        admitted
    }

    pub(super) async fn admit_to(
        self: &Arc<Self>,
        transfer: Transfer,
        ticket: Option<Secret>,
        plan: PartPlan,
    ) -> Result<AdmittedPart, Fault> {
        Self::check_open(&transfer)?;
        if transfer.is_partial() && plan.finishes == Finishes::Here {
            let told = "no drive is made of a partial upload; it becomes a part of one";
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let held = self.held_of(transfer.id)?;
        let assembly = self.assembly(&held).await?;
        let transfer = self.fix_size(&held, &assembly, transfer, plan.size).await?;
        let transfer = self.assert(&held, transfer, plan.asserted).await?;
        let start = match plan.at {
            PartOffset::At(offset) => offset,
            PartOffset::End(told) => {
                // Who went on there before has lost its line, or will.
                assembly.end_parts(&(told..told.saturating_add(1))).await;
                let expected = seen_offset(&assembly.durable().await?);
                if told != expected {
                    let reason = Reason::WrongOffset { expected, told };
                    let told = format!("the next byte of this transfer is {expected}, not {told}");
                    return Err(Fault::new(FaultKind::Conflict, told).for_reason(reason));
                }
                told
            }
        };
        let last = plan.length.filter(|_| plan.finishes == Finishes::Here);
        let last = last.and_then(|length| ByteCount::new(start.checked_add(length)?));
        let transfer = match transfer.size {
            // Known from now on, also if the line is cut.
            None => self.fix_size(&held, &assembly, transfer, last).await?,
            Some(_) => transfer,
        };
        let most = transfer.size.unwrap_or(self.settings.limits.max_drive).get();
        let end = plan.length.map_or(Some(most), |length| start.checked_add(length));
        let Some(end) = end.filter(|end| *end <= most && start <= *end) else {
            return Err(match transfer.size {
                Some(size) => {
                    let told = format!("the drive has {size} bytes; the part lies behind its end");
                    let kind = FaultKind::RangeNotSatisfiable { size };
                    Fault::new(kind, told).for_reason(Reason::InconsistentLength)
                }
                None => too_large(self.settings.limits.max_drive),
            });
        };
        if let Some(size) = transfer.size
            && plan.finishes == Finishes::Here
            && end != size.get()
        {
            let told = format!("the last part ends at byte {end}, and the transfer is one of {size} bytes");
            return Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::InconsistentLength));
        }
        if transfer.size.is_none() && plan.length.is_some() {
            self.extend(&held, assembly.draft(), end).await?;
        }
        let length = plan.length.and_then(ByteCount::new);
        let progress = Progress::receiving(transfer.volume).expecting(length);
        let expansion = self.expansion(transfer.tenant, plan.encoding).await?;
        let running = self.running.start(Arc::new(progress));
        let account = Account::open(&self.metrics, running, Direction::Upload, transfer.volume);
        self.volumes.meta.touch_transfer(transfer.id, self.volumes.clock.now()).await?;
        let part = Self::begin_part(&assembly, start..end, &plan, account.progress()).await?;
        if matches!(plan.at, PartOffset::End(_)) || ticket.is_some() {
            *lock(&held.appended) = Arc::downgrade(account.progress());
        }
        let to = To::Open { held, assembly, part, expansion };
        Ok(AdmittedPart { assemblies: self.clone(), transfer, to, account, start, plan, ticket })
    }

    /// Takes a turn to decompress a part. Nobody is kept waiting for one: without compression the part needs none.
    async fn expansion(&self, tenant: TenantId, encoding: Encoding) -> Result<Option<Turn>, Fault> {
        if encoding == Encoding::Plain {
            return Ok(None);
        }
        let told = "as many compressed parts come as may be at once; send it without Content-Encoding";
        let turn = self.expansions.take(tenant, Duration::ZERO).await;
        turn.map(Some).map_err(|_| Fault::new(FaultKind::Unavailable, told))
    }

    async fn begin_part(
        assembly: &Arc<Assembly>,
        range: Range<u64>,
        plan: &PartPlan,
        progress: &Arc<Progress>,
    ) -> Result<Coming, Fault> {
        if let PartTarget::Chunk(_, length) = plan.target {
            return Self::begin_chunk(assembly, range, (length, &plan.checks), progress).await;
        }
        if !plan.checks.is_empty() && plan.length.is_some() && !range.is_empty() {
            let durable = assembly.durable().await?;
            if durable.first_gap(range.clone()).is_none() {
                return Ok(Coming::Again(range));
            }
            if durable.within(range.clone()).next().is_some() {
                let told = "some of these bytes have come: a part with a checksum is of bytes that all have, or none";
                return Err(Fault::new(FaultKind::Conflict, told));
            }
        }
        let part = assembly.part(range, plan.checks.clone(), progress.clone()).await?;
        Ok(Coming::New(Box::new(part)))
    }

    /// Makes bytes zero.
    pub(super) async fn zero(self: &Arc<Self>, transfer: Transfer, extent: Extent) -> Result<TransferSeen, Fault> {
        Self::check_open(&transfer)?;
        let held = self.held_of(transfer.id)?;
        let assembly = self.assembly(&held).await?;
        let end = extent.offset.checked_add(extent.len);
        let Some(end) = end.filter(|end| transfer.size.is_none_or(|size| *end <= size.get())) else {
            return Err(Fault::invalid("size", "the range lies behind the end of the drive"));
        };
        if transfer.size.is_none() {
            self.extend(&held, assembly.draft(), end).await?;
        }
        let progress = Arc::new(Progress::receiving(transfer.volume));
        let running = self.running.start(progress.clone());
        assembly.zero(extent, progress).await?;
        drop(running);
        self.volumes.meta.touch_transfer(transfer.id, self.volumes.clock.now()).await?;
        drop(assembly);
        self.seen(transfer).await
    }

    /// Refuses what is not open any more.
    pub(super) fn check_open(transfer: &Transfer) -> Result<(), Fault> {
        match transfer.state {
            TransferState::Open if transfer.is_put_together() => {
                let told = "the bytes of this upload are those of its parts, and it takes no others";
                Err(Fault::new(FaultKind::Forbidden, told))
            }
            // Its user's logins have ended, and it ends soon.
            TransferState::Open if transfer.reason.is_some() => Err(ended(transfer)),
            TransferState::Open => Ok(()),
            TransferState::Finishing => {
                let told = "the transfer is complete, and its drive is being made";
                Err(Fault::new(FaultKind::Conflict, told).for_reason(Reason::TransferComplete))
            }
            TransferState::Done => {
                Err(Fault::new(FaultKind::Conflict, "the transfer is complete").for_reason(Reason::TransferComplete))
            }
            _ => Err(ended(transfer)),
        }
    }

    /// Ends the part that comes at the end of what has come.
    pub(super) async fn end_appended(&self, transfer: &Transfer) {
        let Ok(held) = self.held_of(transfer.id) else { return };
        let Some(appended) = lock(&held.appended).upgrade() else { return };
        let assembly = match &*held.work.lock().await {
            Work::Assembling { assembly, .. } => assembly.clone(),
            _ => return,
        };
        assembly.end_part_of(&appended).await;
    }

    /// Notes the size of a transfer that is told for the first time.
    pub(super) async fn fix_size(
        self: &Arc<Self>,
        held: &Arc<Held>,
        assembly: &Arc<Assembly>,
        transfer: Transfer,
        told: Option<ByteCount>,
    ) -> Result<Transfer, Fault> {
        let Some(size) = told else { return Ok(transfer) };
        if let Some(known) = transfer.size {
            return if known == size { Ok(transfer) } else { Err(other_size(known, size)) };
        }
        let limits = self.settings.limits;
        if size == ByteCount::ZERO {
            return Err(Fault::invalid("size", "a drive has at least one byte"));
        }
        if size > limits.max_drive {
            return Err(too_large(limits.max_drive));
        }
        let mut room = held.room.lock().await;
        match assembly.size() {
            // Another request has told it since the record was read.
            Some(known) if known == size => return Ok(Transfer { size: Some(size), ..transfer }),
            Some(known) => return Err(other_size(known, size)),
            None => assembly.check_size(size)?,
        }
        if let Some(more) = size.get().checked_sub(room.end).and_then(ByteCount::new) {
            assembly.draft().reserve_more(more)?;
            room.end = size.get();
        }
        let charged = if transfer.is_partial() { size } else { size.max(limits.min_drive) };
        let now = self.volumes.clock.now();
        self.volumes
            .change(transfer.volume, |volume, batch: &mut Batch| {
                (volume.size, volume.charged) = (size, charged);
                let open = TransferState::Open;
                batch.step = Some(TransferStep { size: Some(size), ..TransferStep::new(transfer.id, open, open, now) });
                Ok(())
            })
            .await?;
        (room.end, room.charged) = (size.get(), charged);
        assembly.set_size(size);
        Ok(Transfer { size: Some(size), ..transfer })
    }

    /// Notes digests of all bytes that are asserted by a part.
    async fn assert(&self, held: &Held, transfer: Transfer, asserted: Digests) -> Result<Transfer, Fault> {
        if asserted == Digests::NONE {
            return Ok(transfer);
        }
        // Of parts that assert at once, each sees what the one before did.
        let _turn = held.room.lock().await;
        let transfer = self.volumes.meta.transfer(transfer.id).await?.unwrap_or(transfer);
        if let Some(algorithm) = transfer.asserted.contradiction(&asserted) {
            let told = format!("another {algorithm} digest of all bytes was asserted before");
            return Err(Fault::new(FaultKind::Conflict, told));
        }
        let both = transfer.asserted.or(asserted);
        if both == transfer.asserted {
            return Ok(transfer);
        }
        let (open, now) = (TransferState::Open, self.volumes.clock.now());
        let step = TransferStep { asserted, ..TransferStep::new(transfer.id, open, open, now) };
        self.volumes.meta.apply(Batch { step: Some(step), ..Batch::default() }).await?;
        Ok(Transfer { asserted: both, ..transfer })
    }

    /// Takes quota and space for bytes up to `end` of a transfer whose size is not known.
    async fn extend(&self, held: &Held, draft: &Arc<dyn Draft>, end: u64) -> Result<u64, Fault> {
        let most = self.settings.limits.max_drive;
        held.room.lock().await.extend(end, most, (&self.volumes.meta, held.volume), draft).await
    }
}

impl AdmittedPart {
    /// The tenant whose transfer it is.
    pub(crate) fn tenant(&self) -> TenantId {
        self.transfer.tenant
    }

    /// The progress of this part.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.account.progress().clone()
    }

    /// The transfer as it is when it was made for this part; `None` when it was there before.
    pub(crate) fn begun(&self) -> Option<TransferSeen> {
        let ticket = self.ticket.clone()?;
        Some(TransferSeen { ticket: Some(ticket), ..self.assemblies.plain(self.transfer.clone(), Extents::default()) })
    }

    /// Tells, while the part comes, how far the transfer is durable.
    pub(crate) fn settled(&self) -> impl Fn() -> Option<u64> + Send + use<> {
        let assembly = match &self.to {
            To::Open { assembly, .. } => Arc::downgrade(assembly),
            To::Complete(_) => Weak::new(),
        };
        move || assembly.upgrade().map(|assembly| assembly.settled())
    }

    /// Receives the bytes. When it returns well, all of them are durable; when it fails, those that came are.
    ///
    /// # Cancellation
    /// Dropping it ends the part.
    pub(crate) async fn receive(self, source: &mut impl ByteSource) -> Result<Outcome, Fault> {
        let Self { assemblies, transfer, to, account, start, plan, ticket } = self;
        let (held, assembly, part, expansion) = match to {
            To::Open { held, assembly, part, expansion } => (held, assembly, part, expansion),
            To::Complete(made) => {
                return assemblies.receive_again(transfer, made, (account, start, plan), source).await;
            }
        };
        let room = match (transfer.size, plan.length) {
            (Some(size), _) => size.get(),
            (None, Some(length)) => start + length,
            (None, None) => held.room.lock().await.end,
        };
        let mut growth =
            Growth { assemblies: &assemblies, held: &held, assembly: &assembly, is_fixed: transfer.size.is_some() };
        let received = match part {
            Coming::New(part) if expansion.is_some() => match Expanded::new(source) {
                Ok(mut expanded) => part.receive(&mut expanded, room, &mut growth).await,
                Err(fault) => Err(fault),
            },
            Coming::New(part) => part.receive(source, room, &mut growth).await,
            Coming::Again(range) => {
                let checks = comparing(&plan);
                let compared = assembly.compare(range.clone(), checks, source, account.progress()).await;
                compared.map(|()| range.end).map_err(|fault| of_chunk(&plan, fault))
            }
        };
        drop(expansion);
        let now = assemblies.volumes.clock.now();
        assemblies.volumes.meta.touch_transfer(transfer.id, now).await?;
        let transfer = Transfer { updated: now, ..transfer };
        let end = received?;
        if plan.length.is_some_and(|length| start + length != end) {
            return Err(Fault::new(FaultKind::BodyIncomplete, "the body ended before it was complete"));
        }
        account.complete();
        drop(account);
        let is_all = start == 0 && plan.finishes == Finishes::Here;
        let asserted = if is_all { source.asserted()? } else { source.of_whole()? };
        let transfer = assemblies.assert(&held, transfer, asserted).await?;
        let whole = transfer.size.map(ByteCount::get);
        let is_whole = match whole {
            Some(size) => assembly.durable().await?.first_gap(0..size).is_none(),
            None => false,
        };
        drop(assembly);
        let size = ByteCount::new(end).ok_or_else(|| Fault::new(FaultKind::TooLarge, "too many bytes"))?;
        let seen = match plan.finishes {
            Finishes::Here => {
                assemblies.finish(transfer, Completion { size: Some(size), asserted: Digests::NONE }).await?
            }
            Finishes::WhenWhole if is_whole && !transfer.is_partial() => {
                assemblies.finish(transfer, Completion::default()).await?
            }
            Finishes::WhenWhole | Finishes::Never => assemblies.seen(transfer).await?,
        };
        Ok(outcome(TransferSeen { ticket, ..seen }))
    }
}

/// Takes quota and space as a transfer of unknown size grows.
struct Growth<'a> {
    assemblies: &'a Assemblies,
    held: &'a Held,
    assembly: &'a Assembly,
    is_fixed: bool,
}

impl Allowance for Growth<'_> {
    async fn extend(&mut self, end: u64) -> Result<u64, Fault> {
        if self.is_fixed {
            return Err(Fault::new(FaultKind::BadFraming, "the body is longer than the part"));
        }
        self.assemblies.extend(self.held, self.assembly.draft(), end).await
    }
}

pub(super) fn other_size(known: ByteCount, told: ByteCount) -> Fault {
    let told = format!("the transfer is one of {known} bytes, not {told}");
    Fault::new(FaultKind::Conflict, told).for_reason(Reason::InconsistentLength)
}

/// The offset of the first byte that is missing.
fn seen_offset(durable: &Extents) -> u64 {
    durable.first_gap(0..u64::MAX).map_or(u64::MAX, |gap| gap.start)
}
