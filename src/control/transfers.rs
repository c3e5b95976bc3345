//! Transfers: uploads that survive cut lines, restarts and days.
//!
//! A transfer is a record beside its volume, which is `uploading` until the end, and a draft that is kept. While parts
//! come, and a little longer, the draft is open and its map in memory, as an
//! [`Assembly`](crate::transfer::Assembly); else only its space is held.
//!
//! # Crash
//! Rows (transfer open, volume uploading), draft, checkpoints, row (finishing), publish, rows (done, available). The
//! next start goes on with every transfer that is open, and finishes what is `finishing`.

mod chunks;
mod ending;
mod finish;
mod have;
mod held;
mod part;
mod together;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use held::{Held, OpenedDrafts, Sight, Work};
use serde_json::{Map, Value};

use super::bells::Bells;
use super::pieces::Digesting;
use super::turns::Turns;
use super::volumes::Volumes;
use super::{Parts, Settings};
use crate::auth::{Tickets, digest_of, is_secret, random_secret};
use crate::domain::{
    ByteCount, Completion, Digests, Extents, Fault, FaultKind, Limiter, Origin, Outcome, Paged, Principal, Reason,
    Secret, TenantId, Transfer, TransferAction, TransferCommand, TransferId, TransferQuery, TransferSeen, TransferSpec,
    TransferState, Volume, VolumeKind, VolumeState,
};
use crate::io::Pool;
use crate::meta::{Batch, MetaError};
use crate::metrics::Metrics;
use crate::store::{DraftOptions, PieceMap};
use crate::transfer::{Phases, Progress, Transfers};

pub(crate) use part::AdmittedPart;
pub(crate) use watch::Watch;

/// Settings for transfers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransferSettings {
    /// For how many seconds one lives after the last activity, unless it asks for less or more.
    pub lifetime: u32,
    /// A part has a checkpoint each time that so many bytes have come, or
    pub checkpoint_bytes: ByteCount,
    /// this time has passed.
    pub checkpoint_time: Duration,
}

/// The parts that are decompressed at once: each may take a window of 8 MiB.
const EXPANSIONS: usize = 8;

/// The transfers.
pub(super) struct Assemblies {
    volumes: Arc<Volumes>,
    running: Transfers,
    /// The memory of the parts.
    pool: Pool,
    metrics: Arc<Metrics>,
    settings: Settings,
    bells: Bells,
    digesting: Arc<Digesting>,
    /// Turns to decompress parts.
    expansions: Turns,
    /// Makes and checks the links of chunks.
    tickets: Arc<Tickets>,
    /// Those that are open or being finished.
    held: Mutex<HashMap<TransferId, Arc<Held>>>,
    opened: OpenedDrafts,
}

impl Assemblies {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>, bells: Bells, digesting: Arc<Digesting>) -> Arc<Self> {
        let (running, pool) = (parts.transfers.clone(), parts.pool.clone());
        let (metrics, settings) = (parts.metrics.clone(), parts.settings);
        let (tickets, held, opened) = (parts.tickets.clone(), Mutex::default(), Mutex::default());
        let expansions = Turns::new(EXPANSIONS, 0);
        Arc::new(Self {
            volumes,
            running,
            pool,
            metrics,
            settings,
            bells,
            digesting,
            expansions,
            tickets,
            held,
            opened,
        })
    }

    /// Executes a command of a caller.
    pub(super) async fn execute(
        self: &Arc<Self>,
        principal: &Principal,
        command: TransferCommand,
    ) -> Result<Outcome, Fault> {
        match command {
            TransferCommand::Create(spec) => {
                self.create(principal, *spec, Map::new()).await.map(|(_, begun)| outcome(begun))
            }
            TransferCommand::Fill(spec) => self.fill(principal, *spec).await,
            TransferCommand::Filling(drive) => self.filling(principal.tenant, drive).await.map(outcome),
            TransferCommand::OpenChunk(drive, chunk) => self.open_chunk(principal, drive, chunk).await,
            TransferCommand::List(query) => self.list(principal.tenant, &query).await,
            TransferCommand::On(id, action) => {
                let transfer = self.own(principal.tenant, id).await?;
                self.act(transfer, action).await
            }
        }
    }

    /// Works on the transfer that has this secret.
    pub(super) async fn execute_by_ticket(
        self: &Arc<Self>,
        id: TransferId,
        ticket: &Secret,
        action: TransferAction,
    ) -> Result<Outcome, Fault> {
        let transfer = self.ticketed(id, ticket).await?;
        self.act(transfer, action).await
    }

    async fn act(self: &Arc<Self>, transfer: Transfer, action: TransferAction) -> Result<Outcome, Fault> {
        let seen = match action {
            TransferAction::Show | TransferAction::Flush => self.seen(transfer).await?,
            // Of what has ended without a drive there is no offset to go on at.
            TransferAction::Resume | TransferAction::FinishWhole
                if transfer.state.has_ended() && transfer.state != TransferState::Done =>
            {
                return Err(ended(&transfer));
            }
            TransferAction::Resume => {
                self.end_appended(&transfer).await;
                self.seen(transfer).await?
            }
            TransferAction::Finish(completion) => self.finish(transfer, completion).await?,
            // No drive is made of it, whole or not.
            TransferAction::FinishWhole if transfer.is_partial() => {
                self.end_appended(&transfer).await;
                self.seen(transfer).await?
            }
            TransferAction::FinishWhole => {
                self.end_appended(&transfer).await;
                let seen = self.seen(transfer).await?;
                let is_open = seen.transfer.state == TransferState::Open;
                let is_whole = |size: ByteCount| seen.durable.first_gap(0..size.get()).is_none();
                if is_open && seen.transfer.size.is_some_and(is_whole) {
                    self.finish(seen.transfer, Completion::default()).await?
                } else {
                    seen
                }
            }
            TransferAction::Cancel => self.cancel(transfer).await?,
            TransferAction::Zero(extent) => self.zero(transfer, extent).await?,
            TransferAction::Have(have) => return Box::pin(self.have(&transfer, *have)).await,
        };
        Ok(outcome(seen))
    }

    /// Begins a transfer, which is durable when this returns, and the drive that it fills, with these opaque fields.
    async fn create(
        self: &Arc<Self>,
        principal: &Principal,
        spec: TransferSpec,
        attributes: Map<String, Value>,
    ) -> Result<(Volume, TransferSeen), Fault> {
        let limits = self.settings.limits;
        let spec = match &spec.origin {
            Some(Origin::PutTogether(parts)) => {
                let size = Some(self.size_together(principal.tenant, parts).await?);
                TransferSpec { size, ..spec }
            }
            Some(Origin::Base(base)) => {
                self.check_base(principal.tenant, *base).await?;
                spec
            }
            Some(Origin::Partial) | None => spec,
        };
        let size = spec.size.unwrap_or_default();
        if spec.size == Some(ByteCount::ZERO) {
            return Err(Fault::invalid("size", "a drive has at least one byte"));
        }
        if size > limits.max_drive {
            return Err(too_large(limits.max_drive));
        }
        let space = self.volumes.store.space();
        let reservation = match spec.data {
            Some(data) => space.reserve_thin(principal.tenant, data.min(size))?,
            None => space.reserve_for(principal.tenant, size)?,
        };
        let charged = if spec.origin == Some(Origin::Partial) { size } else { size.max(limits.min_drive) };
        let (kind, state, now) = (VolumeKind::Drive, VolumeState::Uploading, self.volumes.clock.now());
        // Its size is that of the bytes that come until all have: clients compare it with that of their file.
        let volume = Volume::begun(principal.tenant, kind, &spec.name, size, state, now);
        let volume = Volume { charged, media: spec.media, meta: spec.meta, attributes, ..volume };
        let ticket = random_secret();
        let transfer = Transfer {
            id: TransferId::random(),
            tenant: principal.tenant,
            user: principal.user_id,
            volume: volume.id,
            name: spec.name,
            size: spec.size,
            data: spec.data,
            media: spec.media,
            reference: spec.reference,
            metadata: spec.metadata,
            asserted: spec.asserted,
            ticket: digest_of(&ticket),
            epoch: 1,
            state: TransferState::Open,
            reason: None,
            lifetime: spec.lifetime.unwrap_or(self.settings.transfers.lifetime),
            created: now,
            updated: now,
            digests: Digests::NONE,
            origin: spec.origin,
        };
        let (assemblies, begun, drive) = (self.clone(), transfer.clone(), volume.clone());
        // To its end even when the caller goes: they find it again by its reference.
        let made = self.volumes.tracker.spawn(async move {
            let options = DraftOptions { expected: begun.size, reservation, record: (&volume).into(), is_kept: true };
            let (content, charged) = (volume.image(), volume.charged);
            let batch = Batch { insert: vec![volume], begin: Some(begun.clone()), ..Batch::default() };
            assemblies.volumes.meta.apply(batch).await?;
            assemblies.volumes.crash.hit("transfer: rows");
            match assemblies.volumes.store.draft(content, options).await {
                Ok(draft) => {
                    assemblies.volumes.crash.hit("transfer: draft");
                    let assembly = assemblies.assemble(draft, PieceMap::default(), &begun);
                    let held = assemblies.insert(Held::new(&begun, content, charged, Work::assembling(assembly)));
                    assemblies.note_opened(&held).await;
                    Ok(())
                }
                Err(error) => {
                    let fault = Fault::from(error);
                    assemblies.abandon(&begun, &fault.told).await;
                    Err(fault)
                }
            }
        });
        made.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))?;
        if transfer.is_put_together() {
            let seen = Box::pin(self.put_together(transfer)).await?;
            return Ok((drive, TransferSeen { ticket: Some(ticket), ..seen }));
        }
        Ok((drive, TransferSeen { ticket: Some(ticket), ..self.plain(transfer, Extents::default()) }))
    }

    async fn list(self: &Arc<Self>, tenant: TenantId, query: &TransferQuery) -> Result<Outcome, Fault> {
        let page = self.volumes.meta.transfers(tenant, query).await.map_err(|error| match error {
            MetaError::NotFound => Fault::invalid("marker", "the marker is no transfer of yours"),
            error => error.into(),
        })?;
        let mut items = Vec::with_capacity(page.items.len());
        for transfer in page.items {
            items.push(self.seen(transfer).await?);
        }
        Ok(Outcome::Transfers(Paged { items, has_more: page.has_more }))
    }

    /// The caller's transfer, or a fault that does not tell a foreign one from none.
    async fn own(&self, tenant: TenantId, id: TransferId) -> Result<Transfer, Fault> {
        let transfer = self.volumes.meta.transfer(id).await?.filter(|transfer| transfer.tenant == tenant);
        transfer.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such transfer"))
    }

    /// The transfer that has this secret.
    async fn ticketed(&self, id: TransferId, ticket: &Secret) -> Result<Transfer, Fault> {
        let transfer = self.volumes.meta.transfer(id).await?.filter(|transfer| is_secret(ticket, &transfer.ticket));
        transfer.ok_or_else(|| Fault::new(FaultKind::TicketRefused, "this is the URL of no transfer"))
    }

    /// A transfer as it is told. What has come by now is durable then.
    async fn seen(self: &Arc<Self>, transfer: Transfer) -> Result<TransferSeen, Fault> {
        let whole = |size: Option<ByteCount>| {
            let mut whole = Extents::default();
            whole.insert(0..size.unwrap_or_default().get());
            whole
        };
        match transfer.state {
            TransferState::Done | TransferState::Finishing => {
                let durable = whole(transfer.size);
                Ok(self.plain(transfer, durable))
            }
            state if state.has_ended() => Ok(self.plain(transfer, Extents::default())),
            _ => {
                let Ok(held) = self.held_of(transfer.id) else {
                    // It has ended since its record was read, or is still being made, and nothing of it is there.
                    let now = self.volumes.meta.transfer(transfer.id).await?.unwrap_or(transfer);
                    let is_done = now.state == TransferState::Done;
                    let durable = whole(now.size.filter(|_| is_done));
                    return Ok(self.plain(now, durable));
                };
                let sight = self.look_at(&held, &transfer).await?;
                Ok(self.sighted(transfer, sight))
            }
        }
    }

    /// An open transfer of which this was seen.
    fn sighted(&self, transfer: Transfer, Sight { durable, received, parts }: Sight) -> TransferSeen {
        let rate = parts.iter().map(|part| rate_of(part)).sum();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let limit = limit_of(&parts);
        TransferSeen { received, parts: count, rate, limit, ..self.plain(transfer, durable) }
    }

    /// A transfer to which nothing comes.
    fn plain(&self, transfer: Transfer, durable: Extents) -> TransferSeen {
        let left = (transfer.expires().0 - self.volumes.clock.now().0).max(0) / 1000;
        let left = if transfer.state.has_ended() { 0 } else { u32::try_from(left).unwrap_or(u32::MAX) };
        let most = self.settings.limits.max_drive;
        let received = durable.total();
        TransferSeen { transfer, durable, received, parts: 0, rate: 0, limit: None, ticket: None, most, left }
    }

    fn held_of(&self, id: TransferId) -> Result<Arc<Held>, Fault> {
        // Ended since its record was read.
        self.held().get(&id).cloned().ok_or_else(|| Fault::new(FaultKind::Gone, "the transfer has ended"))
    }

    fn insert(&self, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        self.held().insert(held.id, held.clone());
        held
    }

    fn held(&self) -> MutexGuard<'_, HashMap<TransferId, Arc<Held>>> {
        lock(&self.held)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why nothing comes of a transfer any more.
fn ended(transfer: &Transfer) -> Fault {
    let (state, why) = (transfer.state.word(), transfer.reason.as_deref().unwrap_or("it takes no more parts"));
    Fault::new(FaultKind::Gone, format!("the transfer is {state}: {why}"))
}

fn too_large(most: ByteCount) -> Fault {
    Fault::new(FaultKind::TooLarge, format!("a drive has at most {most} bytes")).for_reason(Reason::LargerThan(most))
}

fn outcome(seen: TransferSeen) -> Outcome {
    Outcome::Transfer(Box::new(seen))
}

/// The bytes per second of a part since it began.
fn rate_of(part: &Progress) -> u64 {
    (part.bytes() as f64 / part.elapsed().as_secs_f64().max(0.001)) as u64
}

/// What parts have waited for most.
fn limit_of(parts: &[Arc<Progress>]) -> Option<Limiter> {
    let mut sum = Phases::default();
    for part in parts {
        let waits = part.phases();
        sum.peer += waits.peer;
        sum.digest += waits.digest;
        sum.disk += waits.disk;
        sum.memory += waits.memory;
    }
    let waits = [
        (sum.peer, Limiter::Peer),
        (sum.digest, Limiter::Digest),
        (sum.disk, Limiter::Disk),
        (sum.memory, Limiter::Memory),
    ];
    waits.into_iter().filter(|_| !parts.is_empty()).max_by_key(|(wait, _)| *wait).map(|(_, limiter)| limiter)
}
