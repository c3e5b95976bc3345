//! Space set aside: what keeps uploads that were admitted together from filling the disk together.
//!
//! Whoever sets space aside for a tenant gets seven eighths at most of what is free and not set aside by others: so one
//! tenant's claims, of bytes that may never come, leave room for another's.
//!
//! For a drive that is mostly zeros only as much is set aside as it has data. Such a reservation is thin: when more
//! data comes, more is set aside for it first.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use crate::domain::{ByteCount, Shortage, TenantId};

type FreeSpace = Box<dyn Fn() -> io::Result<ByteCount> + Send + Sync>;

/// The account of all space set aside on one file system.
pub struct Ledger {
    free: FreeSpace,
    /// Never given to anyone.
    keep: ByteCount,
    shortage: Shortage,
    /// Set aside and not yet on disk. The free space is read under this lock, and a byte is settled only after the
    /// disk has taken it: so admission may count a byte twice for a moment, and never misses one.
    outstanding: Mutex<Outstanding>,
}

#[derive(Default)]
struct Outstanding {
    total: u64,
    /// The part of it that is of tenants; who holds nothing is not in here.
    of: HashMap<TenantId, u64>,
}

/// The part of what is free that is left to others, as one in so many.
const LEFT_TO_OTHERS: u64 = 8;

impl Ledger {
    /// An account over the free space that `free` tells, less `keep`.
    pub fn new(free: impl Fn() -> io::Result<ByteCount> + Send + Sync + 'static, keep: ByteCount) -> Arc<Self> {
        Self::with_shortage(free, keep, Shortage::default())
    }

    /// As [`Ledger::new`], of a file system whose last room may be the database's.
    pub fn with_shortage(
        free: impl Fn() -> io::Result<ByteCount> + Send + Sync + 'static,
        keep: ByteCount,
        shortage: Shortage,
    ) -> Arc<Self> {
        Arc::new(Self { free: Box::new(free), keep, shortage, outstanding: Mutex::default() })
    }

    /// Refuses, as a full disk does, while the last room is the database's. Who writes bytes of volumes asks before
    /// each block, whatever is set aside for them: a quota of the file system shows in no free space. Costs almost
    /// nothing.
    pub fn admit_write(&self) -> io::Result<()> {
        if self.shortage.is_on() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Notes that a write of such a block failed.
    pub fn note_failure(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.shortage.note();
        }
    }

    /// What [`Ledger::admit_write`] goes by.
    #[cfg(test)]
    pub(super) fn shortage(&self) -> &Shortage {
        &self.shortage
    }

    /// Sets `bytes` aside, if they are free and nobody else's.
    pub fn reserve(self: &Arc<Self>, bytes: ByteCount) -> Result<Reservation, StoreError> {
        self.reserve_of(None, bytes, false)
    }

    /// As [`Ledger::reserve`], for a tenant, who is left no more than their share.
    pub fn reserve_for(self: &Arc<Self>, tenant: TenantId, bytes: ByteCount) -> Result<Reservation, StoreError> {
        self.reserve_of(Some(tenant), bytes, false)
    }

    /// As [`Ledger::reserve_for`], of so many bytes of data; it grows when more is written.
    pub fn reserve_thin(self: &Arc<Self>, tenant: TenantId, bytes: ByteCount) -> Result<Reservation, StoreError> {
        self.reserve_of(Some(tenant), bytes, true)
    }

    fn reserve_of(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
        bytes: ByteCount,
        is_thin: bool,
    ) -> Result<Reservation, StoreError> {
        self.admit(tenant, bytes)?;
        let held = Mutex::new(Held { bytes: bytes.get(), claimed: 0 });
        Ok(Reservation { ledger: Arc::clone(self), tenant, is_thin, held })
    }

    fn admit(&self, tenant: Option<TenantId>, bytes: ByteCount) -> Result<(), StoreError> {
        let mut outstanding = lock(&self.outstanding);
        let free = (self.free)()?.saturating_sub(self.keep).get().saturating_sub(outstanding.total);
        let held = tenant.and_then(|tenant| outstanding.of.get(&tenant)).copied().unwrap_or_default();
        let others = if tenant.is_some() { (free + held) / LEFT_TO_OTHERS } else { 0 };
        if free.saturating_sub(others) < bytes.get() && bytes > ByteCount::ZERO {
            return Err(StoreError::NoSpace);
        }
        outstanding.total += bytes.get();
        if let Some(tenant) = tenant.filter(|_| bytes > ByteCount::ZERO) {
            *outstanding.of.entry(tenant).or_default() += bytes.get();
        }
        Ok(())
    }

    fn give_back(&self, tenant: Option<TenantId>, bytes: u64) {
        let mut outstanding = lock(&self.outstanding);
        outstanding.total -= bytes;
        if let Some(tenant) = tenant
            && let Some(held) = outstanding.of.get_mut(&tenant)
        {
            *held -= bytes;
            if *held == 0 {
                outstanding.of.remove(&tenant);
            }
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} B outstanding)", lock(&self.outstanding).total)
    }
}

/// Space set aside for one image. What is not settled is given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    tenant: Option<TenantId>,
    is_thin: bool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    bytes: u64,
    /// The part of it for writes that go on.
    claimed: u64,
}

impl Reservation {
    /// See [`Ledger::admit_write`].
    pub fn admit_write(&self) -> io::Result<()> {
        self.ledger.admit_write()
    }

    /// See [`Ledger::note_failure`].
    pub fn note_failure(&self, error: &io::Error) {
        self.ledger.note_failure(error);
    }

    /// A write of so many bytes of data begins: returns what of it [`Reservation::settle_write`] is told at its end. Of a
    /// thin reservation that does not have them, more is set aside first.
    pub fn claim(&self, data: u64) -> io::Result<u64> {
        /// What is set aside at a time: the file system is asked for its free space once for each.
        const STEP: u64 = 64 << 20;
        if !self.is_thin {
            return Ok(0);
        }
        let mut held = lock(&self.held);
        let lacking = (held.claimed + data).saturating_sub(held.bytes);
        if lacking > 0 {
            let admitted = |more: u64| {
                let bytes = ByteCount::new(more).unwrap_or(ByteCount::MAX);
                self.ledger.admit(self.tenant, bytes).map(|()| more)
            };
            let more = admitted(lacking.max(STEP)).or_else(|_| admitted(lacking));
            held.bytes += more.map_err(|error| match error {
                StoreError::Io(error) => error,
                _ => io::ErrorKind::StorageFull.into(),
            })?;
        }
        held.claimed += data;
        Ok(data)
    }

    /// Such a write has ended: `came` bytes of it are on the disk that were not there before.
    pub fn settle_write(&self, claim: u64, came: ByteCount) {
        lock(&self.held).claimed -= claim;
        self.settle(if self.is_thin { came.min(ByteCount::new(claim).unwrap_or(ByteCount::MAX)) } else { came });
    }

    /// `bytes` became zeros that take no disk.
    pub fn settle_zeros(&self, bytes: ByteCount) {
        if !self.is_thin {
            self.settle(bytes);
        }
    }

    /// `bytes` of it are on disk now, or will never be needed. Bytes beyond what is held were never set aside, and
    /// change nothing.
    pub fn settle(&self, bytes: ByteCount) {
        let mut held = lock(&self.held);
        let settled = bytes.get().min(held.bytes);
        held.bytes -= settled;
        self.ledger.give_back(self.tenant, settled);
    }

    /// Sets more aside.
    pub fn extend(&self, bytes: ByteCount) -> Result<(), StoreError> {
        self.ledger.admit(self.tenant, bytes)?;
        lock(&self.held).bytes += bytes.get();
        Ok(())
    }

    /// What is still set aside.
    pub fn held(&self) -> ByteCount {
        ByteCount::new(lock(&self.held).bytes).unwrap_or(ByteCount::MAX)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self.tenant, self.held().get());
    }
}

/// Counts: each change leaves them whole.
fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn bytes(n: u64) -> ByteCount {
        ByteCount::new(n).unwrap()
    }

    /// A disk of which a test says how much is free.
    fn disk(free: u64) -> (Arc<AtomicU64>, impl Fn() -> io::Result<ByteCount> + Send + Sync + 'static) {
        let free = Arc::new(AtomicU64::new(free));
        let told = Arc::clone(&free);
        (free, move || Ok(bytes(told.load(Ordering::SeqCst))))
    }

    #[test]
    fn two_reservations_cannot_have_the_same_byte() {
        let ledger = Ledger::new(disk(100).1, bytes(10));
        let first = ledger.reserve(bytes(60)).unwrap();
        assert!(matches!(ledger.reserve(bytes(31)), Err(StoreError::NoSpace)));
        let second = ledger.reserve(bytes(30)).unwrap();
        assert!(matches!(second.extend(bytes(1)), Err(StoreError::NoSpace)));
        drop(first);
        second.extend(bytes(60)).unwrap();
        assert_eq!(second.held(), bytes(90));
    }

    #[test]
    fn a_settled_byte_is_counted_once_by_the_disk() {
        let (free, told) = disk(100);
        let ledger = Ledger::new(told, ByteCount::ZERO);
        let upload = ledger.reserve(bytes(80)).unwrap();
        free.fetch_sub(50, Ordering::SeqCst);
        upload.settle(bytes(50));
        assert!(ledger.reserve(bytes(21)).is_err());
        drop(ledger.reserve(bytes(20)).unwrap());
        // A hole takes no disk: its bytes are free for others at once.
        upload.settle(bytes(30));
        drop(ledger.reserve(bytes(50)).unwrap());
    }

    #[test]
    fn a_tenant_is_left_seven_eighths_of_what_others_do_not_hold() {
        let (free, told) = disk(800);
        let ledger = Ledger::new(told, ByteCount::ZERO);
        let [greedy, modest] = [(); 2].map(|()| TenantId::random());
        assert!(matches!(ledger.reserve_for(greedy, bytes(701)), Err(StoreError::NoSpace)));
        let claims = [ledger.reserve_for(greedy, bytes(400)).unwrap(), ledger.reserve_for(greedy, bytes(300)).unwrap()];
        assert!(matches!(claims[0].extend(bytes(1)), Err(StoreError::NoSpace)), "in whatever pieces");
        drop(ledger.reserve_for(greedy, ByteCount::ZERO).unwrap());
        let other = ledger.reserve_for(modest, bytes(80)).unwrap();
        drop(other);
        // What came is on the disk, and a claim no more.
        free.fetch_sub(400, Ordering::SeqCst);
        claims[0].settle(bytes(400));
        assert!(matches!(ledger.reserve_for(greedy, bytes(51)), Err(StoreError::NoSpace)));
        drop(ledger.reserve_for(greedy, bytes(50)).unwrap());
        drop(claims);
        assert_eq!(ledger.reserve_for(greedy, bytes(350)).unwrap().held(), bytes(350));
        assert!(lock(&ledger.outstanding).of.is_empty());
    }

    #[test]
    fn settling_more_than_is_held_takes_nothing_from_others() {
        let ledger = Ledger::new(disk(100).1, ByteCount::ZERO);
        let other = ledger.reserve(bytes(70)).unwrap();
        let mine = ledger.reserve(bytes(10)).unwrap();
        mine.settle(bytes(1000));
        assert_eq!((mine.held(), other.held()), (ByteCount::ZERO, bytes(70)));
        assert!(ledger.reserve(bytes(31)).is_err());
    }

    #[test]
    fn a_thin_reservation_grows_with_the_data_that_comes_and_not_beyond_what_is_free() {
        const MIB: u64 = 1 << 20;
        let (free, told) = disk(800 * MIB);
        let ledger = Ledger::new(told, ByteCount::ZERO);
        let tenant = TenantId::random();
        let thin = ledger.reserve_thin(tenant, bytes(10 * MIB)).unwrap();
        thin.settle_zeros(bytes(1 << 40));
        let claims = [4 * MIB, 6 * MIB].map(|data| thin.claim(data).unwrap());
        assert_eq!(thin.held(), bytes(10 * MIB), "writes that go on share what is held");
        let third = thin.claim(MIB).unwrap();
        assert_eq!(thin.held(), bytes(74 * MIB));
        free.fetch_sub(11 * MIB, Ordering::SeqCst);
        for claim in claims {
            thin.settle_write(claim, bytes(claim));
        }
        // One that failed, or was of bytes that were there.
        thin.settle_write(third, ByteCount::ZERO);
        assert_eq!(thin.held(), bytes(64 * MIB));
        let other = ledger.reserve(bytes(700 * MIB)).unwrap();
        let last = thin.claim(76 * MIB).unwrap();
        assert_eq!(thin.held(), bytes(76 * MIB), "less than a step when that is not free");
        assert_eq!(thin.claim(20 * MIB).expect_err("it is another's").kind(), io::ErrorKind::StorageFull);
        thin.settle_write(last, bytes(last));
        drop((thin, other));
        assert_eq!(lock(&ledger.outstanding).total, 0);
    }

    #[test]
    fn a_disk_that_cannot_be_asked_admits_nothing() {
        let ledger = Ledger::new(|| Err(io::ErrorKind::NotFound.into()), ByteCount::ZERO);
        assert!(matches!(ledger.reserve(bytes(1)), Err(StoreError::Io(_))));
    }

    /// Threads admit, write and give up at once; the disk must never be asked for more than it has.
    #[test]
    fn racing_uploads_never_overfill_the_disk() {
        const DISK: u64 = 1000;
        let used = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&used);
        let ledger = Ledger::new(move || Ok(bytes(DISK - told.load(Ordering::SeqCst))), ByteCount::ZERO);
        let upload = |seed: u64| {
            for round in 0..2000 {
                let size = 1 + (seed * 7919 + round * 104_729) % 400;
                let Ok(reservation) = ledger.reserve(bytes(size)) else { continue };
                for _ in 0..size {
                    assert!(used.fetch_add(1, Ordering::SeqCst) < DISK, "the disk is overfilled");
                    reservation.settle(bytes(1));
                }
                drop(reservation);
                used.fetch_sub(size, Ordering::SeqCst);
            }
        };
        thread::scope(|scope| {
            for seed in 1..=4 {
                scope.spawn(move || upload(seed));
            }
        });
        assert_eq!(lock(&ledger.outstanding).total, 0);
    }
}
