//! Commands on the caller's own trees.

use std::sync::Arc;

use super::race::{Race, unless_lost};
use super::{Control, LIST_PART, busy_tree};
use crate::domain::{Fault, FaultKind, Listing, Page, Reason, SessionState, TenantId, TreeFilter, Volume, VolumeEvent};
use crate::meta::Batch;

impl Control {
    /// The trees that a filter takes.
    pub(super) async fn list_trees(&self, tenant: TenantId, filter: &TreeFilter) -> Result<Listing, Fault> {
        let mut ids = Vec::new();
        for some in self.parts.meta.tree_ids(tenant).await?.chunks(LIST_PART) {
            let trees = self.volumes(some).await?;
            ids.extend(trees.iter().filter(|tree| filter.takes(tree)).map(|tree| tree.id));
        }
        let total = ids.len() as u64;
        self.begin_list(ids, Page { limit: None, offset: 0 }, total).await
    }

    pub(super) async fn find_tree(&self, tenant: TenantId, name: &str) -> Result<Volume, Fault> {
        self.parts.meta.tree(tenant, name).await?.ok_or_else(|| no_such_tree(name))
    }

    /// Removes a tree, unless another has its name by now.
    pub(super) async fn delete_tree(
        self: &Arc<Self>,
        Volume { tenant, id, name, .. }: &Volume,
        ends_sessions: bool,
    ) -> Result<(), Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let mut tree = self.find_tree(*tenant, name).await?;
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
            if unless_lost(self.parts.meta.apply(batch).await)?.is_none() {
                continue;
            }
            self.parts.crash.hit("delete: rows");
            let control = self.clone();
            // To its end even when the caller goes.
            let done = self.parts.tracker.spawn(async move { control.volumes.discard(tree.id).await }).await;
            return done.map_err(Fault::internal);
        }
    }
}

pub(super) fn no_such_tree(name: &str) -> Fault {
    let told = format!("there is no volume of the name {name}");
    Fault::new(FaultKind::NotFound, told).for_reason(Reason::NoSuchVolume)
}
