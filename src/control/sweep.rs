//! Removes what crashes and failures have left behind, at the start and every hour; what could not be removed when it
//! should have been, on a disk that was full perhaps, within seconds of its becoming possible. Ends sessions in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Control;
use super::trees::is_tree;
use crate::domain::{Fault, UnixTime, Volume, VolumeId, VolumeState};

const EVERY: Duration = Duration::from_hours(1);

/// A removal that failed is tried again this often: until then it holds disk and quota.
const AGAIN: Duration = Duration::from_secs(5);

/// A blank creation or a removal that has not ended after this long never will.
const STALE: Duration = Duration::from_mins(30);

impl Control {
    /// Cleans up after the process before, before anything else runs.
    pub async fn recover(&self) -> Result<(), Fault> {
        self.recover_sessions().await?;
        for volume in self.parts.meta.volumes_in(&[VolumeState::Downloading]).await? {
            // Copies of images go on by their jobs. A fetch from a service had a token that is gone.
            if !self.parts.meta.has_jobs(volume.id).await? {
                self.spoil_unfilled(volume.id, "the server was restarted while the image was fetched").await;
            }
        }
        self.sweep(UnixTime(i64::MAX)).await?;
        // Only here: later, a content may be new and its row not durable yet.
        let (trees, meta, runtime) = (self.parts.trees.clone(), self.parts.meta.clone(), Handle::current());
        // A database that does not answer keeps everything.
        let keep = move |id| runtime.block_on(meta.owns_content(id)).unwrap_or(true);
        let swept = self.parts.tracker.spawn_blocking(move || trees.sweep(&keep)).await.map_err(Fault::internal)?;
        match swept.map_err(Fault::internal)? {
            0 => {}
            count => tracing::info!(count, "removed contents that no tree holds"),
        }
        Ok(())
    }

    /// Sweeps until `stop` is cancelled.
    pub fn start_sweeper(self: &Arc<Self>, stop: &CancellationToken) {
        let control = self.clone();
        // By itself: a large tree takes long.
        self.supervisor.run("trash", stop, move || {
            let control = control.clone();
            async move {
                loop {
                    control.empty_trash().await;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
        let control = self.clone();
        self.supervisor.run("sweeper", stop, move || {
            let control = control.clone();
            async move {
                let mut next = Instant::now() + EVERY;
                loop {
                    tokio::time::sleep(AGAIN).await;
                    control.can_write().await;
                    let leftovers = std::mem::take(&mut *control.leftovers());
                    for id in leftovers {
                        control.discard(id).await;
                    }
                    if let Err(fault) = control.expire_sessions().await {
                        tracing::error!(cause = ?fault.cause, "sessions were not looked after; it is tried again");
                    }
                    if Instant::now() < next {
                        continue;
                    }
                    next = Instant::now() + EVERY;
                    let stale = UnixTime(control.parts.clock.now().0 - STALE.as_millis() as i64);
                    if let Err(fault) = control.sweep(stale).await {
                        tracing::error!(cause = ?fault.cause, "the sweep failed; it is tried again in an hour");
                    }
                }
            }
        });
    }

    /// Removes volumes whose making or removal was cut short and that have not changed since `stale`, then everything
    /// on disk that no volume owns.
    async fn sweep(&self, stale: UnixTime) -> Result<(), Fault> {
        let cut_short = [VolumeState::Uploading, VolumeState::Creating, VolumeState::Deleting];
        for volume in self.parts.meta.volumes_in(&cut_short).await? {
            // An upload is among the running from before its row until after its end, however long it takes.
            let is_leftover = match volume.state {
                // It goes with its session.
                VolumeState::Uploading if is_tree(&volume) => false,
                VolumeState::Uploading => !self.parts.transfers.concerns(volume.id),
                _ => volume.updated < stale,
            };
            if is_leftover {
                tracing::info!(volume = %volume.id, state = ?volume.state, "removing a leftover");
                self.discard(volume.id).await;
            }
        }
        let is_owned = self.ask_rows(|_| true);
        let is_filled = self.ask_rows(|volume| {
            matches!(
                volume.state,
                VolumeState::Uploading
                    | VolumeState::Creating
                    | VolumeState::CloningTarget
                    | VolumeState::Downloading
                    | VolumeState::Restoring
            )
        });
        let removed = self.parts.store.sweep(is_owned, is_filled).await?;
        if !removed.is_empty() {
            tracing::info!(count = removed.len(), "removed leftovers from the store");
        }
        Ok(())
    }

    /// A question about a volume's row as it is when the store asks, from a blocking thread: a volume made after the
    /// sweep began has its row before its bytes. A database that does not answer keeps everything.
    fn ask_rows(
        &self,
        question: impl Fn(&Volume) -> bool + Send + Sync + 'static,
    ) -> Arc<dyn Fn(VolumeId) -> bool + Send + Sync> {
        let (meta, runtime) = (self.parts.meta.clone(), Handle::current());
        Arc::new(move |id| match runtime.block_on(meta.volume_any(id)) {
            Ok(row) => row.is_some_and(|volume| question(&volume)),
            Err(_) => true,
        })
    }
}
