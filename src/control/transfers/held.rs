//! An open transfer in memory: its draft while somebody is at it, else its space.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Assemblies, lock};
use crate::control::growth::Room;
use crate::domain::{ByteCount, ContentId, Extents, Fault, FaultKind, TenantId, Transfer, TransferId, VolumeId};
use crate::store::{Draft, DraftOptions, PieceMap, Record, Reservation};
use crate::transfer::{Assembly, PartOptions, Progress};

/// A draft that nobody is at is closed after this long.
const LINGER: Duration = Duration::from_secs(20);

/// So many drafts are open at most that nobody is at, beside those that somebody was at when the limit was reached.
/// Each has a descriptor and its map in memory.
const MOST_IDLE: usize = 64;

/// What is there of a transfer that rests is known without opening it when it is in no more extents than these: 1 KiB.
const FEW: usize = 64;

/// See the module.
pub(super) struct Held {
    pub(super) id: TransferId,
    pub(super) tenant: TenantId,
    pub(super) volume: VolumeId,
    pub(super) content: ContentId,
    /// Taken by who opens or closes the draft, finishes the transfer or ends it.
    pub(super) work: tokio::sync::Mutex<Work>,
    /// What is taken for the drive, while its size is not known.
    pub(super) room: tokio::sync::Mutex<Room>,
    /// The part at the end of what has come, if one comes.
    pub(super) appended: Mutex<Weak<Progress>>,
    /// Why its drive was not made when that was last asked for.
    pub(super) refusal: Mutex<Option<(FaultKind, String)>>,
}

/// The drafts that were opened, the latest last, as far as they are among the [`MOST_IDLE`].
pub(super) type OpenedDrafts = Mutex<VecDeque<Weak<Held>>>;

/// The present work on a transfer.
pub(super) enum Work {
    /// None.
    Resting {
        /// The space for the bytes that are to come.
        reservation: Reservation,
        /// What is there, if it is in few extents.
        durable: Option<Extents>,
        /// How many bytes that are, unless it is not known.
        total: Option<u64>,
    },
    /// Parts come, or came lately.
    Assembling {
        assembly: Arc<Assembly>,
        /// When it was last asked for.
        used: Instant,
    },
    /// The drive is being made. The sender goes at its end.
    Finishing(watch::Receiver<()>),
    /// The making of the drive was cut short, and is to be begun again.
    Stuck,
    /// Nothing more will be done.
    Ended,
}

/// What is seen of an open transfer.
pub(super) struct Sight {
    /// The bytes that are durable.
    pub(super) durable: Extents,
    /// The count of bytes that have come.
    pub(super) received: u64,
    /// The parts that come.
    pub(super) parts: Vec<Arc<Progress>>,
}

/// What is seen of an open transfer by who must not open it.
pub(super) enum Glimpse {
    /// All that can be.
    Clear(Sight),
    /// It rests, in many extents of so many bytes, if that is known.
    Resting(Option<u64>),
    /// It is not open any more.
    Gone,
}

impl Sight {
    /// Of a transfer that rests.
    pub(super) fn at_rest(durable: Extents) -> Self {
        Self { received: durable.total(), durable, parts: Vec::new() }
    }

    /// Of one that is put together, as far as it is durable.
    fn of(assembly: &Assembly) -> Self {
        let (durable, received) = assembly.come();
        Self { durable, received, parts: assembly.parts() }
    }
}

impl Work {
    /// Somebody is at it from now on.
    pub(super) fn assembling(assembly: Arc<Assembly>) -> Self {
        Self::Assembling { assembly, used: Instant::now() }
    }

    /// Nobody is at it from now on.
    pub(super) fn resting(reservation: Reservation, durable: Extents) -> Self {
        let total = Some(durable.total());
        let durable = Some(durable).filter(|durable| durable.ranges().len() <= FEW);
        Self::Resting { reservation, durable, total }
    }
}

impl Held {
    /// In this state of work, with so much charged for its drive.
    pub(super) fn new(transfer: &Transfer, content: ContentId, charged: ByteCount, work: Work) -> Self {
        let end = transfer.size.unwrap_or_default().get();
        Self {
            id: transfer.id,
            tenant: transfer.tenant,
            volume: transfer.volume,
            content,
            work: tokio::sync::Mutex::new(work),
            room: tokio::sync::Mutex::new(Room { end, charged }),
            appended: Mutex::default(),
            refusal: Mutex::default(),
        }
    }
}

impl Assemblies {
    /// A draft and its map as an assembly.
    pub(super) fn assemble(&self, draft: Arc<dyn Draft>, map: PieceMap, transfer: &Transfer) -> Arc<Assembly> {
        let options = PartOptions {
            depth: self.settings.depth,
            checkpoint_bytes: self.settings.transfers.checkpoint_bytes.get(),
            checkpoint_time: self.settings.transfers.checkpoint_time,
            digests: transfer.asserted.algorithms(),
        };
        Assembly::new(draft, map, transfer.size, (self.pool.clone(), options), self.volumes.tracker.clone())
    }

    /// The assembly of an open transfer, which is opened if nobody is at it.
    pub(super) async fn assembly(self: &Arc<Self>, held: &Arc<Held>) -> Result<Arc<Assembly>, Fault> {
        let (assemblies, held) = (self.clone(), held.clone());
        // To its end even when the caller goes: what was half opened would be lost.
        let opened = self.volumes.tracker.spawn(async move {
            let mut work = held.work.lock().await;
            match &mut *work {
                Work::Assembling { assembly, used } => {
                    *used = Instant::now();
                    return Ok(assembly.clone());
                }
                Work::Resting { .. } => {}
                Work::Finishing(_) | Work::Stuck => {
                    let told = "the transfer is complete, and its drive is being made";
                    return Err(Fault::new(FaultKind::Conflict, told));
                }
                Work::Ended => return Err(Fault::new(FaultKind::Gone, "the transfer has ended")),
            }
            let assembly = assemblies.open(&held, &mut work).await?;
            drop(work);
            assemblies.note_opened(&held).await;
            Ok(assembly)
        });
        opened.await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    /// Opens the draft of a transfer that rests.
    async fn open(&self, held: &Held, work: &mut Work) -> Result<Arc<Assembly>, Fault> {
        // As it is now: while the draft is closed, nobody changes it.
        let transfer = self.volumes.meta.transfer(held.id).await?;
        let transfer = transfer.ok_or_else(|| Fault::new(FaultKind::Gone, "the transfer has ended"))?;
        let before = std::mem::replace(work, self.at_rest(&transfer, ByteCount::ZERO)?);
        let Work::Resting { reservation, .. } = before else { return Err(Fault::internal("it rested")) };
        let rest = reservation.held();
        let (draft, map) = match self.volumes.store.resume(held.content, options(&transfer, reservation)).await {
            Ok(resumed) => resumed,
            Err(error) => {
                if let Ok(again) = self.at_rest(&transfer, rest) {
                    *work = again;
                }
                return Err(error.into());
            }
        };
        if transfer.size.is_none() {
            held.room.lock().await.end = end_of(map.extents());
        }
        let assembly = self.assemble(draft, map, &transfer);
        *work = Work::assembling(assembly.clone());
        Ok(assembly)
    }

    /// Nobody is at a transfer of which it is not known how much is there, and so much is set aside for it.
    pub(super) fn at_rest(&self, transfer: &Transfer, rest: ByteCount) -> Result<Work, Fault> {
        let reservation = self.set_aside(transfer, rest)?;
        Ok(Work::Resting { reservation, durable: None, total: None })
    }

    /// Notes that a draft was opened; closes the one of the [`MOST_IDLE`] that was opened first.
    pub(super) async fn note_opened(self: &Arc<Self>, held: &Arc<Held>) {
        let first = {
            let mut opened = lock(&self.opened);
            opened.push_back(Arc::downgrade(held));
            if opened.len() > MOST_IDLE { opened.pop_front() } else { None }
        };
        if let Some(first) = first.and_then(|first| first.upgrade()) {
            self.close(&first, Duration::ZERO).await;
        }
    }

    /// What of a transfer is durable, which is all that is on the disk by now, and the parts that come.
    pub(super) async fn look_at(self: &Arc<Self>, held: &Arc<Held>, transfer: &Transfer) -> Result<Sight, Fault> {
        let assembly = {
            let mut work = held.work.lock().await;
            match &mut *work {
                Work::Resting { durable: Some(durable), .. } => return Ok(Sight::at_rest(durable.clone())),
                // It is not left open: a list of many would open the draft of each.
                Work::Resting { durable: None, total, .. } => {
                    let nothing = self.volumes.store.space().reserve_for(held.tenant, ByteCount::ZERO)?;
                    let (_, map) = self.volumes.store.resume(held.content, options(transfer, nothing)).await?;
                    *total = Some(map.extents().total());
                    return Ok(Sight::at_rest(map.extents().clone()));
                }
                Work::Assembling { assembly, .. } => Some(assembly.clone()),
                _ => None,
            }
        };
        let assembly = match assembly {
            Some(assembly) => assembly,
            // It tells why there is none.
            None => self.assembly(held).await?,
        };
        assembly.durable().await?;
        Ok(Sight::of(&assembly))
    }

    /// What is seen of a transfer without being at it: nothing is read or made durable for this, and nothing stays
    /// open.
    pub(super) async fn glimpse(held: &Held) -> Glimpse {
        match &*held.work.lock().await {
            Work::Resting { durable: Some(durable), .. } => Glimpse::Clear(Sight::at_rest(durable.clone())),
            Work::Resting { durable: None, total, .. } => Glimpse::Resting(*total),
            Work::Assembling { assembly, .. } => Glimpse::Clear(Sight::of(assembly)),
            Work::Finishing(_) | Work::Stuck | Work::Ended => Glimpse::Gone,
        }
    }

    /// Closes the drafts that nobody is at.
    pub(super) async fn close_idle(self: &Arc<Self>) {
        let all: Vec<Arc<Held>> = self.held().values().cloned().collect();
        for held in all {
            self.close(&held, LINGER).await;
        }
    }

    /// Closes a draft that nobody is at since so long.
    async fn close(&self, held: &Held, idle: Duration) {
        let Ok(mut work) = held.work.try_lock() else { return };
        if let Err(fault) = self.rest(held, &mut work, idle).await {
            tracing::warn!(transfer = %held.id, cause = ?fault.cause, why = fault.told, "a draft stays open");
        }
    }

    async fn rest(&self, held: &Held, work: &mut Work, idle: Duration) -> Result<(), Fault> {
        let Work::Assembling { assembly, used } = work else { return Ok(()) };
        // Whoever has it besides is at it: nobody gets it while the work is taken.
        if used.elapsed() < idle || Arc::strong_count(assembly) > 1 {
            return Ok(());
        }
        let durable = assembly.durable().await?;
        let Some(transfer) = self.volumes.meta.transfer(held.id).await? else { return Ok(()) };
        let reservation = self.reserve_rest(&transfer, &durable)?;
        *work = Work::resting(reservation, durable);
        Ok(())
    }

    /// Sets the space aside that the rest of a transfer takes.
    pub(super) fn reserve_rest(&self, transfer: &Transfer, durable: &Extents) -> Result<Reservation, Fault> {
        let rest = transfer.size.map_or(0, |size| size.get().saturating_sub(durable.total()));
        let rest = ByteCount::new(rest).unwrap_or(ByteCount::MAX);
        // What of the bytes that are there was data is not known any more.
        self.set_aside(transfer, transfer.data.map_or(rest, |data| data.min(rest)))
    }

    /// Sets space aside for the draft of a transfer.
    pub(super) fn set_aside(&self, transfer: &Transfer, bytes: ByteCount) -> Result<Reservation, Fault> {
        let space = self.volumes.store.space();
        Ok(match transfer.data {
            Some(_) => space.reserve_thin(transfer.tenant, bytes)?,
            None => space.reserve_for(transfer.tenant, bytes)?,
        })
    }
}

/// How the draft of a transfer is filled.
pub(super) fn options(transfer: &Transfer, reservation: Reservation) -> DraftOptions {
    let record = Record { volume: transfer.volume, tenant: transfer.tenant, name: transfer.name.clone() };
    DraftOptions { expected: transfer.size, reservation, record, is_kept: true }
}

/// The offset behind the last byte.
pub(super) fn end_of(durable: &Extents) -> u64 {
    durable.ranges().last().map_or(0, |last| last.end)
}
