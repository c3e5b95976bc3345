//! The running transfers: their bytes and phases, and the means to stop them.
//!
//! One task watches all of them ([`Transfers::watch`]). It stops those whose peer is too slow, and those whose bytes
//! were removed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::domain::{ByteCount, VolumeId};

/// What a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The peer: its bytes, or its readiness for more of ours.
    Peer,
    /// A digest of bytes that are here.
    Digest,
    /// The disk.
    Disk,
    /// A block of the pool.
    Memory,
}

/// How long a transfer has waited in each phase. It worked for the rest of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// For [`Phase::Peer`].
    pub peer: Duration,
    /// For [`Phase::Digest`].
    pub digest: Duration,
    /// For [`Phase::Disk`].
    pub disk: Duration,
    /// For [`Phase::Memory`].
    pub memory: Duration,
}

impl Phases {
    fn add(&mut self, phase: Phase, time: Duration) {
        *match phase {
            Phase::Peer => &mut self.peer,
            Phase::Digest => &mut self.digest,
            Phase::Disk => &mut self.disk,
            Phase::Memory => &mut self.memory,
        } += time;
    }
}

/// The reason for which a transfer was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its peer moved nothing, or too little, for too long.
    PeerTooSlow,
    /// Its volume is being deleted.
    Deleted,
    /// The bytes that it sends were removed or replaced some time ago.
    Removed,
    /// Its session has ended.
    SessionEnded,
    /// A later part has some of its bytes.
    TakenOver,
    /// The server is shutting down.
    Draining,
}

/// One running transfer.
pub struct Progress {
    volume: VolumeId,
    started: Instant,
    bytes: Bytes,
    /// The bytes that will come, if that is known: space is held for them.
    expected: u64,
    clock: Mutex<PhaseClock>,
    /// Whether its peer must keep up a rate.
    is_watched: bool,
    /// Whether it sends. When it waits for nothing else, it waits for the peer to take bytes.
    is_sending: bool,
    stop: OnceLock<Stop>,
    token: CancellationToken,
    /// The limited resource that it holds.
    holds: OnceLock<Arc<Wanted>>,
    /// Whether the bytes that it sends take up space only until it ends.
    is_removed: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

/// Tells whether others wait for a resource that transfers hold, and how fast its holders must be then.
#[derive(Debug)]
pub struct Wanted {
    /// When another transfer last had to wait.
    last: Mutex<Option<Instant>>,
    least: u64,
}

impl Wanted {
    /// Two windows, so that one of them lies wholly within this time.
    const REMEMBERED: Duration = Pace::WINDOW.saturating_mul(2);

    /// Requires holders to move `least` bytes a second while others wait.
    pub fn new(least: u64) -> Self {
        Self { last: Mutex::default(), least }
    }

    /// Records that another transfer has to wait.
    pub fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns the bytes per second that holders must move.
    pub fn least_rate(&self, now: Instant) -> u64 {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = last.is_some_and(|last| now.saturating_duration_since(last) < Self::REMEMBERED);
        if is_wanted { self.least } else { 0 }
    }
}

/// The counts of a transport that one transfer has to itself.
pub trait Transport: Send + Sync {
    /// Bytes that it has sent since it was opened.
    fn sent(&self) -> u64;

    /// The total time that it has waited for the disk, and whether it does now.
    fn disk_wait(&self) -> (Duration, bool);
}

/// The count of a transfer's bytes: its own, or that of the transport since the transfer began.
enum Bytes {
    Own(AtomicU64),
    Transport { transport: Arc<dyn Transport>, sent_before: u64, disk_before: Duration },
}

#[derive(Debug, Default)]
struct PhaseClock {
    spent: Phases,
    now: Option<(Phase, Instant)>,
}

impl Progress {
    /// Returns an upload; its bytes are counted with [`Progress::add_bytes`].
    pub fn receiving(volume: VolumeId) -> Self {
        Self {
            volume,
            started: Instant::now(),
            bytes: Bytes::Own(AtomicU64::new(0)),
            expected: 0,
            clock: Mutex::default(),
            is_watched: true,
            is_sending: false,
            stop: OnceLock::new(),
            token: CancellationToken::new(),
            holds: OnceLock::new(),
            is_removed: OnceLock::new(),
        }
    }

    /// Records the resource that it holds from now on.
    pub fn hold(&self, what: Arc<Wanted>) {
        let _ = self.holds.set(what);
    }

    /// Sets a test of whether the bytes that it sends were removed. It must not wait for a disk.
    pub fn watch_removal(&self, is_removed: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.is_removed.set(Box::new(is_removed));
    }

    /// Sets the number of bytes to come.
    #[must_use]
    pub fn expecting(self, bytes: Option<ByteCount>) -> Self {
        Self { expected: bytes.map_or(0, ByteCount::get), ..self }
    }

    /// Returns a fetch by the server itself, which bounds its own time.
    pub fn fetching(volume: VolumeId) -> Self {
        Self { is_watched: false, ..Self::receiving(volume) }
    }

    /// Returns a download. Its bytes are what the transport sends from now on; where several transfers share a
    /// transport, they are counted with [`Progress::add_bytes`]. Stopping it cancels `connection`.
    pub fn sending(volume: VolumeId, transport: Option<Arc<dyn Transport>>, connection: CancellationToken) -> Self {
        let bytes = match transport {
            Some(transport) => {
                let (sent_before, disk_before) = (transport.sent(), transport.disk_wait().0);
                Bytes::Transport { transport, sent_before, disk_before }
            }
            None => Bytes::Own(AtomicU64::new(0)),
        };
        Self { bytes, is_sending: true, token: connection, ..Self::receiving(volume) }
    }

    /// Counts bytes that were moved, unless the transport counts them.
    pub fn add_bytes(&self, bytes: u64) {
        if let Bytes::Own(count) = &self.bytes {
            count.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Returns the bytes moved so far.
    pub fn bytes(&self) -> u64 {
        match &self.bytes {
            Bytes::Own(count) => count.load(Ordering::Relaxed),
            Bytes::Transport { transport, sent_before, .. } => transport.sent().saturating_sub(*sent_before),
        }
    }

    /// Returns the time since it began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs `work`, and counts its time as a wait in `phase`. Dropping the future ends the phase.
    pub async fn during<T>(&self, phase: Phase, work: impl Future<Output = T>) -> T {
        let _phase = self.enter(phase);
        work.await
    }

    /// Counts the time until the guard is dropped as a wait in `phase`.
    pub fn enter(&self, phase: Phase) -> PhaseGuard<'_> {
        self.lock().now = Some((phase, Instant::now()));
        PhaseGuard(self)
    }

    /// Returns the waits so far, the current one included.
    pub fn phases(&self) -> Phases {
        let clock = self.lock();
        let mut spent = clock.spent;
        if let Some((phase, since)) = clock.now {
            spent.add(phase, since.elapsed());
        }
        if let Bytes::Transport { transport, disk_before, .. } = &self.bytes {
            spent.disk += transport.disk_wait().0.saturating_sub(*disk_before);
        }
        if self.is_sending {
            spent.peer = self.elapsed().saturating_sub(spent.digest + spent.disk + spent.memory);
        }
        spent
    }

    fn waits_for_peer(&self) -> bool {
        let phase = self.lock().now.map(|(phase, _)| phase);
        if !self.is_watched {
            return false;
        }
        match (&self.bytes, phase) {
            (_, Some(phase)) => phase == Phase::Peer,
            (Bytes::Transport { transport, .. }, None) => !transport.disk_wait().1,
            (Bytes::Own(_), None) => self.is_sending,
        }
    }

    /// Stops the transfer. If it is stopped twice, the first reason counts.
    pub fn stop(&self, why: Stop) {
        let _ = self.stop.set(why);
        self.token.cancel();
    }

    /// Returns the reason, if it was stopped.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop.get().copied()
    }

    /// Waits until it is stopped.
    pub async fn until_stopped(&self) -> Stop {
        self.token.cancelled().await;
        self.stopped().unwrap_or(Stop::Draining)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PhaseClock> {
        // Every update leaves the clock valid, so it can be used after a panic.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Progress::enter`].
pub struct PhaseGuard<'a>(&'a Progress);

impl Drop for PhaseGuard<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.lock();
        if let Some((phase, since)) = clock.now.take() {
            clock.spent.add(phase, since.elapsed());
        }
    }
}

/// The rate that peers must keep up.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest wait for a peer that moves nothing.
    pub idle: Duration,
    /// The least bytes per second over [`Pace::WINDOW`]; 0 for no limit.
    pub min_rate: u64,
}

impl Pace {
    /// Long enough that a TCP retransmission or a busy disk of the peer is not taken for an attack.
    pub const WINDOW: Duration = Duration::from_secs(30);

    /// An upload holds disk space for the bytes to come, and must be fast enough to bring all of them within this time:
    /// 10 GiB at 60 KiB/s.
    const HOLD: Duration = Duration::from_hours(48);

    /// The highest rate that is asked for, however much space is held, since honest links are that slow.
    const MOST: u64 = 1 << 20;

    /// The least bytes per second of a transfer that holds space for `held` bytes.
    const fn least(self, held: u64) -> u64 {
        let of_held = held / Self::HOLD.as_secs();
        let of_held = if of_held < Self::MOST { of_held } else { Self::MOST };
        match self.min_rate {
            0 => 0,
            rate if rate > of_held => rate,
            _ => of_held,
        }
    }
}

/// All running transfers of the node.
#[derive(Clone, Default)]
pub struct Transfers(Arc<Mutex<BTreeMap<u64, Watched>>>);

struct Watched {
    progress: Arc<Progress>,
    /// The bytes and the time when bytes had last moved, or when it last waited for anything but the peer.
    moved: (u64, Instant),
    /// The start of the current rate window: its time, and the bytes and the wait for the peer by then.
    window: (Instant, u64, Duration),
    /// When the bytes that it sends were first seen to be removed.
    removed: Option<Instant>,
}

impl Transfers {
    /// Adds a transfer, which is running until the guard is dropped.
    pub fn start(&self, progress: Arc<Progress>) -> Running {
        let now = Instant::now();
        let watched = Watched {
            moved: (progress.bytes(), now),
            window: (now, progress.bytes(), progress.phases().peer),
            removed: None,
            progress: progress.clone(),
        };
        let mut running = self.lock();
        let key = running.last_key_value().map_or(0, |(last, _)| last + 1);
        running.insert(key, watched);
        drop(running);
        Running { transfers: self.clone(), key, progress }
    }

    /// Returns the number of running transfers.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether a transfer of this volume is running.
    pub fn concerns(&self, volume: VolumeId) -> bool {
        self.lock().values().any(|watched| watched.progress.volume == volume)
    }

    /// Stops all transfers of a volume.
    pub fn stop_volume(&self, volume: VolumeId, why: Stop) {
        for watched in self.lock().values().filter(|watched| watched.progress.volume == volume) {
            watched.progress.stop(why);
        }
    }

    /// Stops uploads to a volume, but no downloads of its earlier content.
    pub fn stop_uploads(&self, volume: VolumeId, why: Stop) {
        let is_upload = |progress: &Progress| progress.volume == volume && !progress.is_sending;
        for watched in self.lock().values().filter(|watched| is_upload(&watched.progress)) {
            watched.progress.stop(why);
        }
    }

    /// Stops all transfers.
    pub fn stop_all(&self, why: Stop) {
        for watched in self.lock().values() {
            watched.progress.stop(why);
        }
    }

    /// A download keeps removed or replaced bytes on the disk, which is charged to nobody. So its peer has only this
    /// long to take the rest.
    const GRACE: Duration = Duration::from_secs(30);

    /// Watches for ever. Stops transfers whose peer is slower than `pace`, and those of removed bytes after their grace
    /// time.
    pub async fn watch(&self, pace: Pace) {
        let mut tick = tokio::time::interval((pace.idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(1)));
        loop {
            tick.tick().await;
            self.check(pace, Instant::now());
        }
    }

    fn check(&self, pace: Pace, now: Instant) {
        for watched in self.lock().values_mut() {
            if watched.is_too_slow(pace, now) {
                watched.progress.stop(Stop::PeerTooSlow);
            } else if watched.removed_for(now) > Some(Self::GRACE) {
                watched.progress.stop(Stop::Removed);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn is_too_slow(&mut self, pace: Pace, now: Instant) -> bool {
        let bytes = self.progress.bytes();
        if bytes != self.moved.0 || !self.progress.waits_for_peer() {
            self.moved = (bytes, now);
        }
        let idle = now.duration_since(self.moved.1) > pace.idle;

        let (since, bytes_then, peer_then) = self.window;
        let mut crawls = false;
        if now.duration_since(since) >= Pace::WINDOW {
            let peer = self.progress.phases().peer;
            // The rate says something about the peer only if the window was spent waiting for it.
            let peer_share = peer.saturating_sub(peer_then).as_secs_f64() / Pace::WINDOW.as_secs_f64();
            let wanted = self.progress.holds.get().map_or(0, |held| held.least_rate(now));
            let least = pace.least(self.progress.expected.saturating_sub(bytes_then)).max(wanted);
            crawls = peer_share > 0.8 && bytes - bytes_then < least.saturating_mul(Pace::WINDOW.as_secs());
            self.window = (now, bytes, peer);
        }
        idle || crawls
    }

    fn removed_for(&mut self, now: Instant) -> Option<Duration> {
        if self.removed.is_none() && self.progress.is_removed.get().is_some_and(|is_removed| is_removed()) {
            self.removed = Some(now);
        }
        self.removed.map(|since| now.duration_since(since))
    }
}

/// A running transfer, until dropped.
pub struct Running {
    transfers: Transfers,
    key: u64,
    /// The transfer.
    pub progress: Arc<Progress>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.transfers.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const PACE: Pace = Pace { idle: Duration::from_secs(5), min_rate: 1000 };

    fn running() -> (Transfers, Running) {
        let transfers = Transfers::default();
        let running = transfers.start(Arc::new(Progress::receiving(VolumeId::random())));
        (transfers, running)
    }

    #[test]
    fn a_peer_that_moves_nothing_is_stopped_after_the_idle_time() {
        let (transfers, running) = running();
        let _wait = running.progress.enter(Phase::Peer);
        let start = Instant::now();
        transfers.check(PACE, start + Duration::from_secs(4));
        assert_eq!(running.progress.stopped(), None);
        transfers.check(PACE, start + Duration::from_secs(6));
        assert_eq!(running.progress.stopped(), Some(Stop::PeerTooSlow));
    }

    #[test]
    fn a_slow_disk_is_not_the_peers_fault() {
        let (transfers, running) = running();
        let _wait = running.progress.enter(Phase::Disk);
        let start = Instant::now();
        for minute in 1..10 {
            transfers.check(PACE, start + Duration::from_secs(60 * minute));
        }
        assert_eq!(running.progress.stopped(), None);
    }

    #[test]
    fn a_peer_must_be_as_fast_as_what_its_claim_holds_asks_for() {
        let gib = |count: u64| count << 30;
        assert_eq!(PACE.least(0), 1000);
        assert_eq!(PACE.least(gib(100)), gib(100) / (48 * 3600));
        assert_eq!(PACE.least(gib(100_000)), 1 << 20, "honest links are that slow");
        assert_eq!(Pace { min_rate: 0, ..PACE }.least(gib(100)), 0, "turned off");
        for (claim, is_stopped) in [(gib(1), false), (gib(100), true)] {
            let transfers = Transfers::default();
            let claim = Progress::receiving(VolumeId::random()).expecting(ByteCount::new(claim));
            let running = transfers.start(Arc::new(claim));
            let start = Instant::now();
            running.progress.lock().spent.peer = Pace::WINDOW * 2;
            let _wait = running.progress.enter(Phase::Peer);
            for second in 1..=31 {
                running.progress.add_bytes(10_000);
                transfers.check(PACE, start + Duration::from_secs(second));
            }
            assert_eq!(running.progress.stopped().is_some(), is_stopped);
        }
    }

    #[test]
    fn a_peer_that_trickles_is_stopped_after_a_window() {
        let (transfers, running) = running();
        let start = Instant::now();
        // The whole window counts as a wait for the peer.
        running.progress.lock().spent.peer = Pace::WINDOW * 2;
        let _wait = running.progress.enter(Phase::Peer);
        for second in 1..=31 {
            running.progress.add_bytes(10);
            transfers.check(PACE, start + Duration::from_secs(second));
        }
        assert_eq!(running.progress.stopped(), Some(Stop::PeerTooSlow));
    }

    #[test]
    fn what_was_removed_is_sent_for_a_while_however_fast_its_peer_is() {
        let (transfers, running) = running();
        let removed = Arc::new(AtomicBool::new(false));
        let is_removed = removed.clone();
        running.progress.watch_removal(move || is_removed.load(Ordering::Relaxed));
        let (start, mut at) = (Instant::now(), 0);
        let mut pass = |seconds: u64| {
            for second in at..at + seconds {
                running.progress.add_bytes(1 << 30);
                transfers.check(PACE, start + Duration::from_secs(second));
            }
            at += seconds;
            running.progress.stopped()
        };
        assert_eq!(pass(1000), None);
        removed.store(true, Ordering::Relaxed);
        let grace = Transfers::GRACE.as_secs();
        assert_eq!(pass(grace), None);
        assert_eq!(pass(2), Some(Stop::Removed));
    }

    #[test]
    fn what_others_wait_for_is_held_by_a_slow_peer_for_a_window() {
        for is_wanted in [false, true] {
            let (transfers, running) = running();
            let wanted = Arc::new(Wanted::new(64 << 10));
            running.progress.hold(wanted.clone());
            if is_wanted {
                wanted.note();
            }
            let start = Instant::now();
            running.progress.lock().spent.peer = Pace::WINDOW * 2;
            let _wait = running.progress.enter(Phase::Peer);
            for second in 1..=31 {
                running.progress.add_bytes(2 * PACE.min_rate);
                transfers.check(PACE, start + Duration::from_secs(second));
            }
            assert_eq!(running.progress.stopped(), is_wanted.then_some(Stop::PeerTooSlow));
        }
    }

    #[test]
    fn phases_add_up_and_a_dropped_guard_leaves_the_list() {
        let (transfers, running) = running();
        assert_eq!(transfers.count(), 1);
        drop(running.progress.enter(Phase::Disk));
        assert!(running.progress.phases().disk > Duration::ZERO);
        drop(running);
        assert_eq!(transfers.count(), 0);
    }
}
