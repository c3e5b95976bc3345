//! Reads what is stored back, all of it once in a period, and compares it with what was stored: rot is found while
//! there still is a copy to be had, and not when somebody needs the bytes.
//!
//! One volume at a time, the one that was checked longest ago first, at a bounded rate and at idle priority. A change
//! of the volume meanwhile is no damage: what is found is true of one generation of it.
//!
//! # Crash
//! A check goes on where it was, or a little before: an image at a piece, a tree at a file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::seal::differs;
use super::supervise::Supervisor;
use super::volumes::{MISSING, Volumes};
use crate::domain::{Fault, FaultKind, UnixTime, Volume, VolumeKind, VolumeState};
use crate::io::IdleThread;
use crate::meta::{Check, MetaError, Reading};
use crate::metrics::{Metrics, Scrubbed};
use crate::store::{OpenTree, ReadBack, StoreError, TreeReadError, TreeStore};
use crate::tree::{PackCause, PackError};

/// What was stored within this time is left to its first readers, who find it in the page cache. What could not be read
/// is tried again, and what is new is looked for, this often.
const SOON: Duration = Duration::from_hours(1);

/// Looks this often when nothing was due.
const LOOK: Duration = Duration::from_mins(1);

/// What a volume is counted as at least: opening it, and its record, cost that however small it is.
const LEAST: u64 = 1 << 20;

/// How far a check has come is noted after so many bytes.
const NOTED: u64 = 64 << 20;

/// How it is gone about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScrubSettings {
    /// In which everything is checked once.
    pub period: Duration,
    /// Bytes read per second.
    pub rate: u64,
}

/// Checks of what is stored.
pub(super) struct Scrubs {
    volumes: Arc<Volumes>,
    trees: Arc<dyn TreeStore>,
    metrics: Arc<Metrics>,
    /// How it is checked; it is not when absent.
    settings: Option<ScrubSettings>,
}

/// All the checks, one after the other.
struct Scrub {
    volumes: Arc<Volumes>,
    trees: Arc<dyn TreeStore>,
    metrics: Arc<Metrics>,
    period: Duration,
    pace: Pace,
}

/// What reading a volume back has shown.
enum Found {
    Whole,
    Damaged(String),
    /// It was removed or replaced meanwhile.
    Gone,
    /// There is nothing to compare it with.
    Unknown,
}

/// One step of reading.
enum Step {
    Read { next: u64, read: u64 },
    Differs { piece: u64 },
    Removed,
    End,
}

impl Scrubs {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>) -> Self {
        let (trees, metrics) = (parts.trees.clone(), parts.metrics.clone());
        Self { volumes, trees, metrics, settings: parts.settings.scrub }
    }

    /// Checks what is stored until `stop` is cancelled, unless that is off.
    pub(super) fn start(&self, supervisor: &Supervisor, stop: &CancellationToken) {
        let Some(ScrubSettings { period, rate }) = self.settings else { return };
        let (volumes, trees, metrics) = (self.volumes.clone(), self.trees.clone(), self.metrics.clone());
        supervisor.run("scrub", stop, move || {
            let (volumes, trees, metrics) = (volumes.clone(), trees.clone(), metrics.clone());
            let scrub = Scrub { volumes, trees, metrics, period, pace: Pace::new(rate) };
            async move { scrub.run().await }
        });
    }
}

impl Scrub {
    async fn run(mut self) {
        let mut notes_at = Instant::now();
        loop {
            match self.step(&mut notes_at).await {
                Ok(true) => {}
                Ok(false) => sleep(self.period.min(LOOK)).await,
                Err(fault) => {
                    tracing::warn!(cause = ?fault.cause, "what is stored is not checked; it is tried again");
                    sleep(self.period.min(LOOK)).await;
                }
            }
        }
    }

    /// Makes the check that is next, if one is due.
    async fn step(&mut self, notes_at: &mut Instant) -> Result<bool, Fault> {
        if Instant::now() >= *notes_at {
            *notes_at = Instant::now() + self.soon();
            if let Err(error) = self.note_new().await {
                // On a full disk; what is known goes on being checked.
                tracing::warn!(%error, "what is new is not noted to be checked; it is tried again");
            }
        }
        self.tell_age().await?;
        let next = self.volumes.meta.next_check(self.ago(self.period), self.ago(self.soon())).await?;
        match next {
            Some(check) => self.check(&check).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn note_new(&self) -> Result<(), MetaError> {
        let mut after = None;
        loop {
            after = self.volumes.meta.note_unchecked(after).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn check(&mut self, check: &Check) -> Result<(), Fault> {
        self.pace.ready().await;
        self.pace.spend(LEAST);
        let meta = &self.volumes.meta;
        // A check goes with its volume.
        let Some(volume) = meta.volume_any(check.volume).await? else { return Ok(()) };
        if volume.generation != check.generation {
            return self.put_off(check, self.ago(Duration::ZERO)).await;
        }
        if !volume.state.is_readable() {
            let since =
                if volume.state == VolumeState::Unavailable { self.ago(Duration::ZERO) } else { self.later(check) };
            return self.put_off(check, since).await;
        }
        // When it began is not known of one that goes on.
        let began = (check.position == 0).then(|| self.volumes.clock.now());
        let found = match volume.kind {
            VolumeKind::Drive | VolumeKind::Snapshot => self.read_back(&volume, check).await,
            VolumeKind::Tree => self.read_tree(&volume, check).await,
        };
        let metrics = &self.metrics;
        match found {
            Ok(Found::Whole) => {
                metrics.scrubbed(Scrubbed::Whole);
                tracing::debug!(volume = %volume.id, "checked");
                let reading = Reading { began, ended: self.volumes.clock.now() };
                Ok(self.volumes.meta.note_checked(volume.id, volume.generation, reading).await?)
            }
            Ok(Found::Gone) => self.put_off(check, self.later(check)).await,
            Ok(Found::Unknown) => self.put_off(check, self.ago(Duration::ZERO)).await,
            Ok(Found::Damaged(why)) => self.found_damaged(check, &volume, &why).await,
            Err(StoreError::Damaged(_, why)) => self.found_damaged(check, &volume, why).await,
            Err(error) => {
                metrics.scrubbed(Scrubbed::Failed);
                tracing::warn!(volume = %volume.id, cause = ?error, "a volume could not be checked; it is tried again");
                self.put_off(check, self.later(check)).await
            }
        }
    }

    /// Marks a volume, unless what was found is not true of it any more.
    async fn found_damaged(&self, check: &Check, volume: &Volume, why: &str) -> Result<(), Fault> {
        match self.volumes.mark_spoiled(volume, why).await {
            Ok(now) if now.generation == volume.generation && now.state == VolumeState::Unavailable => {
                self.metrics.scrubbed(Scrubbed::Damaged);
                self.put_off(check, self.ago(Duration::ZERO)).await
            }
            Err(fault) if !matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => Err(fault),
            _ => self.put_off(check, self.later(check)).await,
        }
    }

    /// Reads an image from where its check is to its end.
    async fn read_back(&mut self, volume: &Volume, check: &Check) -> Result<Found, StoreError> {
        let image = self.volumes.open_as_recorded(volume).await?;
        let mut image = image.read_back().await?;
        let thread = IdleThread::start("scrub")?;
        let (mut at, mut unnoted) = (check.position, 0);
        loop {
            self.pace.ready().await;
            let read = move |_: &dyn Fn() -> bool| {
                let step = step(&mut *image, at);
                (image, step)
            };
            let (again, outcome) = thread.run(read).await?;
            image = again;
            match outcome.map_err(|error| StoreError::of_read(volume.image(), error))? {
                Step::Read { next, read } => {
                    self.metrics.scrubbed_bytes.inc_by(read);
                    self.pace.spend(read);
                    at = next;
                    unnoted += read;
                }
                Step::Differs { piece } => return Ok(Found::Damaged(differs(piece))),
                Step::Removed => return Ok(Found::Gone),
                Step::End => return Ok(Found::Whole),
            }
            if unnoted >= NOTED {
                unnoted = 0;
                self.note_position(check, at).await;
            }
        }
    }

    /// Reads a tree from where its check is to its end.
    async fn read_tree(&mut self, volume: &Volume, check: &Check) -> Result<Found, StoreError> {
        let Some(content) = volume.content else { return Ok(Found::Unknown) };
        let (trees, thread) = (self.trees.clone(), IdleThread::start("scrub")?);
        let tree = match thread.run(move |_| trees.open(content)).await? {
            Ok(tree) => tree,
            Err(TreeReadError::Missing) => return Err(StoreError::Damaged(content, MISSING)),
            Err(TreeReadError::Damaged(why)) => return Err(StoreError::Damaged(content, why)),
            Err(TreeReadError::Io(error)) => return Err(error.into()),
        };
        // The thread waits when what it has read is not yet paid for.
        let (sender, mut reads) = mpsc::channel(1);
        let compared = Arc::new(AtomicU64::new(check.position));
        let position = compared.clone();
        let work = thread.run(move |_| check_tree(&*tree, &compared, &sender));
        tokio::pin!(work);
        let mut unnoted = 0;
        loop {
            self.pace.ready().await;
            tokio::select! {
                biased;
                Some(read) = reads.recv() => {
                    self.metrics.scrubbed_bytes.inc_by(read);
                    self.pace.spend(read);
                    unnoted += read;
                }
                found = &mut work => return match found? {
                    Ok(found) => Ok(found),
                    Err(error) => error.damage().map(Found::Damaged).ok_or_else(|| io::Error::other(error).into()),
                },
            }
            if unnoted >= NOTED {
                unnoted = 0;
                self.note_position(check, position.load(Ordering::Relaxed)).await;
            }
        }
    }

    async fn note_position(&self, check: &Check, position: u64) {
        if let Err(error) = self.volumes.meta.note_position(check, position).await {
            tracing::warn!(%error, "how far a check has come is not noted");
        }
        let _ = self.tell_age().await;
    }

    async fn put_off(&self, check: &Check, since: UnixTime) -> Result<(), Fault> {
        Ok(self.volumes.meta.put_off_check(check, since).await?)
    }

    async fn tell_age(&self) -> Result<(), Fault> {
        let since = self.volumes.meta.oldest_check().await?;
        let age = since.map_or(0, |since| self.volumes.clock.now().0.saturating_sub(since.0));
        self.metrics.oldest_check_age.set(age.max(0) / 1000);
        Ok(())
    }

    fn soon(&self) -> Duration {
        self.period.min(SOON)
    }

    fn ago(&self, time: Duration) -> UnixTime {
        let ago = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        UnixTime(self.volumes.clock.now().0.saturating_sub(ago))
    }

    /// From when a check counts that is to be made soon.
    fn later(&self, check: &Check) -> UnixTime {
        self.ago(if check.is_first { Duration::ZERO } else { self.period.saturating_sub(self.soon()) })
    }
}

/// Compares a tree, and tells of the bytes that it reads.
fn check_tree(tree: &dyn OpenTree, compared: &AtomicU64, reads: &mpsc::Sender<u64>) -> Result<Found, PackError> {
    let is_removed = tree.removal();
    let mut pace = |read| {
        if is_removed() {
            return Err(io::ErrorKind::NotFound.into());
        }
        reads.blocking_send(read).map_err(|_| io::ErrorKind::BrokenPipe.into())
    };
    match tree.check(compared, &mut pace) {
        None => Ok(Found::Unknown),
        Some(Ok(_)) => Ok(Found::Whole),
        Some(Err(PackError { cause: PackCause::Sink(_), .. })) => Ok(Found::Gone),
        Some(Err(error)) => Err(error),
    }
}

/// Reads the next piece that holds something, or held something when it was stored.
fn step(image: &mut dyn ReadBack, at: u64) -> std::io::Result<Step> {
    if image.is_removed() {
        return Ok(Step::Removed);
    }
    let Some(index) = image.next_in_doubt(at)? else { return Ok(Step::End) };
    let piece = image.piece(index)?;
    Ok(if piece.is_whole { Step::Read { next: index + 1, read: piece.read } } else { Step::Differs { piece: index } })
}

/// Keeps to a rate. What was not spent is not saved up, as `governor` and other token buckets do.
struct Pace {
    rate: u64,
    next: Instant,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Instant::now() }
    }

    /// Waits until something can be spent. How long that takes then counts as a part of its time.
    async fn ready(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now();
    }

    fn spend(&mut self, bytes: u64) {
        self.next += Duration::from_secs_f64(bytes as f64 / self.rate as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PIECE;

    #[tokio::test(start_paused = true)]
    async fn no_more_is_spent_than_the_rate_allows_and_nothing_is_saved_up() {
        let mut pace = Pace::new(20 << 20);
        let began = Instant::now();
        let mut spent = 0;
        while began.elapsed() < Duration::from_secs(10) {
            pace.ready().await;
            pace.spend(PIECE);
            spent += PIECE;
        }
        let most = (20 << 20) * 10 + PIECE;
        assert!((most - 2 * PIECE..=most).contains(&spent), "{spent}");
        // The time of a read counts, and a long pause does not make up for anything.
        sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        for _ in 0..5 {
            pace.ready().await;
            pace.spend(PIECE);
            sleep(Duration::from_millis(100)).await;
        }
        pace.ready().await;
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1_050), "{took:?}");
    }
}
