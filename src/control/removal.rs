//! Removal of the caller's own volumes.

use std::sync::Arc;

use super::race::{Race, unless_lost};
use super::sessions::Sessions;
use super::transfers::Assemblies;
use super::volumes::Volumes;
use super::{Parts, busy, busy_tree, no_such_drive, no_such_tree, only_administrators};
use crate::domain::{
    Fault, FaultKind, Outcome, Principal, Reach, SessionState, TenantId, Volume, VolumeEvent, VolumeId, VolumeRef,
    VolumeState,
};
use crate::meta::Batch;
use crate::transfer::{Stop, Transfers};

/// Removes volumes.
pub(super) struct Removals {
    volumes: Arc<Volumes>,
    sessions: Arc<Sessions>,
    assemblies: Arc<Assemblies>,
    transfers: Transfers,
}

impl Removals {
    /// Over these parts.
    pub(super) fn new(
        parts: &Parts,
        volumes: Arc<Volumes>,
        sessions: Arc<Sessions>,
        assemblies: Arc<Assemblies>,
    ) -> Self {
        Self { volumes, sessions, assemblies, transfers: parts.transfers.clone() }
    }

    /// Removes volumes: all of the drives or none, then the trees.
    pub(super) async fn remove(
        &self,
        principal: &Principal,
        volumes: &[VolumeRef],
        reach: Reach,
    ) -> Result<Outcome, Fault> {
        if reach.attached {
            only_administrators(principal)?;
        }
        let (mut trees, mut ids) = (Vec::new(), Vec::new());
        for volume in volumes {
            let volume = self.volumes.look_up(principal.tenant, volume).await?;
            if volume.is_tree() {
                trees.push(volume);
                continue;
            }
            if reach.snapshots || reach.alone {
                let snapshots = self.volumes.meta.snapshots_of(principal.tenant, volume.id).await?;
                if reach.alone && !snapshots.is_empty() {
                    let told = "the volume has snapshots; remove them first, or all with cascade=true";
                    return Err(Fault::new(FaultKind::Conflict, told));
                }
                ids.extend(snapshots);
            }
            ids.push(volume.id);
        }
        if !ids.is_empty() {
            self.remove_drives(principal.tenant, ids, reach.attached).await?;
        }
        for tree in &trees {
            self.remove_tree(tree, reach.sessions).await?;
        }
        Ok(Outcome::Removed)
    }

    /// Removes drives and snapshots: all of them or, when one cannot be deleted, none. When `is_forced`, those too that
    /// only an attachment or a mark keeps.
    async fn remove_drives(&self, tenant: TenantId, mut ids: Vec<VolumeId>, is_forced: bool) -> Result<(), Fault> {
        ids.sort_unstable();
        ids.dedup();
        let mut race = Race::of("the drives are");
        loop {
            race.round()?;
            let (mut update, mut detach) = (Vec::with_capacity(ids.len()), Vec::new());
            for id in &ids {
                let volume = self.volumes.meta.volume(tenant, *id).await?;
                let mut volume = volume.ok_or_else(|| no_such_drive(*id))?;
                if is_forced && (volume.state.is_attached() || volume.state == VolumeState::Attaching) {
                    volume.state = VolumeState::Unavailable;
                    detach.push(*id);
                }
                volume.step(VolumeEvent::DeleteStarted).map_err(busy)?;
                update.push(volume);
            }
            let batch = Batch { update, detach, ..Batch::default() };
            if unless_lost(self.volumes.meta.apply(batch).await)?.is_none() {
                continue;
            }
            self.volumes.crash.hit("delete: rows");
            let (volumes, assemblies) = (self.volumes.clone(), self.assemblies.clone());
            let transfers = self.transfers.clone();
            // To its end even when the caller goes; the rows say what is left to do after a crash.
            let work = async move {
                for id in ids {
                    transfers.stop_volume(id, Stop::Deleted);
                    assemblies.drop_deleted(id).await;
                    volumes.discard(id).await;
                }
            };
            let done = self.volumes.tracker.spawn(work).await;
            return done.map_err(Fault::internal);
        }
    }

    /// Removes a tree, unless another has its name by now.
    async fn remove_tree(&self, Volume { tenant, id, name, .. }: &Volume, ends_sessions: bool) -> Result<(), Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let mut tree = self.volumes.find_tree(*tenant, name).await?;
            if tree.id != *id {
                return Err(no_such_tree(name));
            }
            if let Some(session) = self.sessions.session_now(tree.id).await? {
                if !ends_sessions {
                    return Err(Fault::new(FaultKind::Conflict, format!("the volume {name} is being initialised")));
                }
                let why = format!("the volume {name} was deleted");
                let is_dropped = self.sessions.drop_session(&session, SessionState::Failed, &why).await?;
                // It goes with its session then.
                if is_dropped && session.uploads.iter().any(|upload| upload.volume == tree.id && upload.is_new) {
                    return Ok(());
                }
                continue;
            }
            tree.step(VolumeEvent::DeleteStarted).map_err(busy_tree)?;
            let batch = Batch { update: vec![tree.clone()], ..Batch::default() };
            if unless_lost(self.volumes.meta.apply(batch).await)?.is_none() {
                continue;
            }
            self.volumes.crash.hit("delete: rows");
            let volumes = self.volumes.clone();
            // To its end even when the caller goes.
            let done = self.volumes.tracker.spawn(async move { volumes.discard(tree.id).await }).await;
            return done.map_err(Fault::internal);
        }
    }
}
