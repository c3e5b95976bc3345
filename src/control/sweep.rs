//! Removes what crashes and failures have left behind, at the start and every hour; what could not be removed when it
//! should have been, on a disk that was full perhaps, within seconds of its becoming possible. Ends sessions in time.
//!
//! An image that no row knows may be one whose row was lost: it is set aside, and removed much later or by command.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::sessions::Sessions;
use super::supervise::Supervisor;
use super::transfers::Assemblies;
use super::volumes::{MISSING, Volumes, spoil};
use crate::domain::{ContentId, Fault, FaultKind, UnixTime, Volume, VolumeId, VolumeState};
use crate::meta::MetaError;
use crate::store::{TreeRecord, TreeStore};
use crate::transfer::Transfers;

const EVERY: Duration = Duration::from_hours(1);

/// A removal that failed is tried again this often: until then it holds disk and quota.
const AGAIN: Duration = Duration::from_secs(5);

/// The database notes this often that it is in use: so much newer than it may be what it does not know.
const BEAT: Duration = Duration::from_mins(10);

/// What fails again and again is tried no less often than this.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// A blank creation or a removal that has not ended after this long never will.
const STALE: Duration = Duration::from_mins(30);

/// The pause before something is tried again.
struct Pause(Duration);

impl Pause {
    /// What comes after an attempt.
    fn after(&mut self, has_worked: bool) -> Duration {
        self.0 = if has_worked { AGAIN } else { (self.0 * 2).min(LONGEST_WAIT) };
        self.0
    }
}

/// The sweeper.
pub(super) struct Sweeper {
    volumes: Arc<Volumes>,
    sessions: Arc<Sessions>,
    assemblies: Arc<Assemblies>,
    trees: Arc<dyn TreeStore>,
    transfers: Transfers,
    /// For how long what nobody knows is kept after it was set aside; for good when absent.
    keep_lost: Option<Duration>,
    /// Whether the disk took what is new when it was last looked at.
    can_write: AtomicBool,
}

impl Sweeper {
    /// Over these parts.
    pub(super) fn new(
        parts: &Parts,
        volumes: Arc<Volumes>,
        sessions: Arc<Sessions>,
        assemblies: Arc<Assemblies>,
    ) -> Arc<Self> {
        let (transfers, keep_lost) = (parts.transfers.clone(), parts.settings.keep_lost);
        let (trees, can_write) = (parts.trees.clone(), AtomicBool::new(true));
        Arc::new(Self { volumes, sessions, assemblies, trees, transfers, keep_lost, can_write })
    }

    /// Cleans up after the process before, before anything else runs. If the database `may_be_old`, what it calls not
    /// complete may have become so later.
    pub(super) async fn recover(self: &Arc<Self>, may_be_old: bool) -> Result<(), Fault> {
        if may_be_old {
            self.doubt_unfinished().await?;
        }
        self.sessions.recover_sessions().await?;
        for volume in self.volumes.meta.volumes_in(&[VolumeState::Downloading]).await? {
            // Copies of images go on by their jobs. A fetch from a service had a token that is gone.
            if !self.volumes.meta.has_jobs(volume.id).await? {
                self.volumes.spoil_unfilled(volume.id, "the server was restarted while the image was fetched").await;
            }
        }
        self.assemblies.recover().await?;
        self.sweep(UnixTime(i64::MAX)).await?;
        // Only here: later, a content may be new and its row not durable yet.
        let (trees, keep) = (self.trees.clone(), self.ask_contents());
        let (held, forget_before) = (self.volumes.meta.held_contents().await?, self.forget_before());
        let held: Vec<_> = held.iter().filter_map(|tree| Some((tree.content?, TreeRecord::from(tree)))).collect();
        let swept = self.volumes.tracker.spawn_blocking(move || {
            let swept = trees.sweep(&keep, forget_before)?;
            trees.complete_records(&held).map(|_| swept)
        });
        let swept = swept.await.map_err(Fault::internal)?.map_err(Fault::internal)?;
        if swept.removed > 0 {
            tracing::info!(count = swept.removed, "removed contents that no tree holds");
        }
        self.tell_lost("trees", (swept.set_aside, swept.bytes), swept.returned, swept.forgotten);
        self.find_missing().await?;
        self.assemblies.finish_again().await;
        self.volumes.meta.beat(self.volumes.clock.now()).await?;
        Ok(())
    }

    /// Forgets the rows of what was being made and is there whole, so that it is set aside and not removed.
    async fn doubt_unfinished(&self) -> Result<(), Fault> {
        let there: HashSet<ContentId> = self.volumes.store.images().await?.into_iter().collect();
        let unfinished = [VolumeState::Uploading, VolumeState::Creating, VolumeState::Downloading];
        for volume in self.volumes.meta.volumes_in(&unfinished).await? {
            if there.contains(&volume.image()) && !self.volumes.meta.has_jobs(volume.id).await? {
                self.volumes.meta.remove_volume(volume.id).await?;
            }
        }
        Ok(())
    }

    /// Marks the drives whose images are not there: of a database that is older than they are, it may be.
    async fn find_missing(&self) -> Result<(), Fault> {
        let there: HashSet<ContentId> = self.volumes.store.images().await?.into_iter().collect();
        let mut count = 0;
        for (id, content) in self.volumes.meta.image_contents().await? {
            if there.contains(&content) {
                continue;
            }
            let Some(volume) = self.volumes.meta.volume_any(id).await? else { continue };
            if !volume.state.is_readable() {
                continue;
            }
            match self.volumes.change(id, |volume, _| spoil(volume, MISSING)).await {
                Ok(_) => count += 1,
                Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Conflict) => {}
                Err(fault) => return Err(fault),
            }
        }
        if count > 0 {
            tracing::warn!(count, "there are drives and snapshots without an image: they are unavailable");
        }
        Ok(())
    }

    /// What was set aside before this is removed.
    fn forget_before(&self) -> UnixTime {
        let kept = self.keep_lost.and_then(|kept| i64::try_from(kept.as_millis()).ok());
        UnixTime(kept.map_or(i64::MIN, |kept| self.volumes.clock.now().0.saturating_sub(kept)))
    }

    fn tell_lost(&self, what: &'static str, (count, bytes): (usize, u64), returned: usize, forgotten: usize) {
        if count > 0 {
            let days = self.keep_lost.map(|kept| kept.as_secs() / 86_400);
            tracing::warn!(
                what,
                count,
                bytes,
                days,
                "the database does not know what the disk holds: it was set aside in lost/, and is removed after so many \
                 days. To make volumes of it again, stop the server and run `longshore recover`"
            );
        }
        if returned > 0 {
            tracing::warn!(what, count = returned, "what had been set aside is known again, and is back");
        }
        if forgotten > 0 {
            tracing::warn!(what, count = forgotten, "removed what had been set aside long ago");
        }
    }

    /// Whether the disk takes what is new. That it does not any more, or does again, is logged.
    pub(super) async fn can_write(&self) -> bool {
        let checked = self.volumes.meta.check_room().await;
        let could = self.can_write.swap(checked.is_ok(), Ordering::AcqRel);
        match &checked {
            Ok(()) if !could => tracing::info!("the disk takes what is new again"),
            Err(MetaError::DiskFull) if could => {
                tracing::warn!("the disk is full: only what removes is carried out until there is room");
            }
            Err(error) if could => tracing::warn!(cause = ?error, "nothing can be written"),
            _ => {}
        }
        checked.is_ok()
    }

    /// Sweeps until `stop` is cancelled.
    pub(super) fn start(self: &Arc<Self>, supervisor: &Supervisor, stop: &CancellationToken) {
        let sweeper = self.clone();
        // By itself: a large tree takes long.
        supervisor.run("trash", stop, move || {
            let sweeper = sweeper.clone();
            async move {
                let mut pause = Pause(AGAIN);
                loop {
                    sweeper.volumes.empty_trash().await;
                    let emptied = sweeper.volumes.store.empty_trash().await;
                    let wait = pause.after(emptied.is_ok());
                    if let Err(error) = emptied {
                        tracing::error!(cause = ?error, again = ?wait, "cannot empty the trash of the drives");
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        });
        let sweeper = self.clone();
        supervisor.run("sweeper", stop, move || {
            let sweeper = sweeper.clone();
            async move {
                let mut next = Instant::now() + EVERY;
                let mut beat = Instant::now() + BEAT;
                let (mut retry, mut pause) = (Instant::now(), Pause(AGAIN));
                loop {
                    tokio::time::sleep(AGAIN).await;
                    sweeper.can_write().await;
                    if Instant::now() >= beat {
                        beat = Instant::now() + BEAT;
                        if let Err(error) = sweeper.volumes.meta.beat(sweeper.volumes.clock.now()).await {
                            tracing::warn!(%error, "the database does not note that it is in use");
                        }
                    }
                    if Instant::now() >= retry {
                        sweeper.volumes.discard_leftovers().await;
                        let unended = std::mem::take(&mut *sweeper.sessions.unended());
                        for attempt in unended {
                            sweeper.sessions.end_attempt(attempt).await;
                        }
                        sweeper.volumes.remove_dropped().await;
                        let has_failed = sweeper.volumes.has_leftovers() || !sweeper.sessions.unended().is_empty();
                        retry = Instant::now() + pause.after(!has_failed);
                    }
                    if let Err(fault) = sweeper.sessions.expire_sessions().await {
                        tracing::error!(cause = ?fault.cause, "sessions were not looked after; it is tried again");
                    }
                    if let Err(fault) = sweeper.assemblies.look_after().await {
                        tracing::error!(cause = ?fault.cause, "transfers were not looked after; it is tried again");
                    }
                    if Instant::now() < next {
                        continue;
                    }
                    next = Instant::now() + EVERY;
                    let stale = UnixTime(sweeper.volumes.clock.now().0 - STALE.as_millis() as i64);
                    if let Err(fault) = sweeper.sweep(stale).await {
                        tracing::error!(cause = ?fault.cause, "the sweep failed; it is tried again in an hour");
                    }
                }
            }
        });
    }

    /// Removes volumes whose making or removal was cut short and that have not changed since `stale`, then everything
    /// on disk that no volume owns.
    async fn sweep(self: &Arc<Self>, stale: UnixTime) -> Result<(), Fault> {
        let cut_short = [VolumeState::Uploading, VolumeState::Creating, VolumeState::Deleting];
        for listed in self.volumes.meta.volumes_in(&cut_short).await? {
            if let Some(volume) = self.leftover(listed.id, stale).await? {
                tracing::info!(volume = %volume.id, state = ?volume.state, "removing a leftover");
                self.volumes.discard(volume.id).await;
            }
        }
        self.volumes.remove_dropped().await;
        let (meta, runtime) = (self.volumes.meta.clone(), Handle::current());
        // A database that does not answer keeps everything.
        let is_filled = move |id| runtime.block_on(meta.fills_content(id)).unwrap_or(true);
        let (is_owned, is_filled) = (Arc::new(self.ask_contents()), Arc::new(is_filled));
        let swept = self.volumes.store.sweep(is_owned, is_filled, self.forget_before()).await?;
        if !swept.removed.is_empty() {
            tracing::info!(count = swept.removed.len(), "removed leftovers from the store");
        }
        self.tell_lost("drives", (swept.set_aside.len(), swept.bytes), swept.returned, swept.forgotten);
        self.forget_lost_trees().await
    }

    /// The volume, if nobody will complete it or is at removing it.
    async fn leftover(&self, id: VolumeId, stale: UnixTime) -> Result<Option<Volume>, Fault> {
        // An upload is among the running, and a transfer open, from before the row of its volume until after that row
        // tells the end. So the row is read last, and what was listed before does not count: it may be complete by now.
        let is_filled = self.transfers.concerns(id) || self.volumes.meta.transfer_of(id).await?.is_some();
        let volume = self.volumes.meta.volume_any(id).await?;
        Ok(volume.filter(|volume| match volume.state {
            // It goes with its session.
            VolumeState::Uploading if volume.is_tree() => false,
            VolumeState::Uploading => !is_filled,
            VolumeState::Creating | VolumeState::Deleting => volume.updated < stale,
            _ => false,
        }))
    }

    async fn forget_lost_trees(&self) -> Result<(), Fault> {
        let (trees, keep, before) = (self.trees.clone(), self.ask_contents(), self.forget_before());
        let forgotten = self.volumes.tracker.spawn_blocking(move || trees.forget_old(&keep, before)).await;
        let forgotten = forgotten.map_err(Fault::internal)?.map_err(Fault::internal)?;
        if forgotten > 0 {
            self.volumes.note_trash();
        }
        self.tell_lost("trees", (0, 0), 0, forgotten);
        Ok(())
    }

    /// Whether anybody has a content, asked from a blocking thread: of what is made after the sweep began that was
    /// written down before there was any of it. A database that does not answer keeps everything.
    fn ask_contents(&self) -> impl Fn(ContentId) -> bool + Send + Sync + use<> {
        let (meta, runtime) = (self.volumes.meta.clone(), Handle::current());
        move |id| runtime.block_on(meta.owns_content(id)).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_less_and_less_often_until_it_works() {
        let mut pause = Pause(AGAIN);
        let seconds: Vec<u64> = (0..9).map(|_| pause.after(false).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert_eq!(pause.after(true), AGAIN);
        assert_eq!(pause.after(false), AGAIN * 2);
    }
}
