//! Commands on the caller's own trees.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::download::check_filled;
use super::race::{Race, unless_lost};
use super::volumes::check_readable;
use super::{Control, PIECE, busy_tree};
use crate::domain::{
    ByteCount, Fault, FaultKind, Outcome, Page, Principal, SessionState, TenantId, TreeCommand, TreeSpec, Volume,
    VolumeEvent, VolumeId, VolumeState,
};
use crate::meta::{Batch, MetaError};

impl Control {
    pub(super) async fn execute_tree(
        self: &Arc<Self>,
        principal: &Principal,
        command: TreeCommand,
    ) -> Result<Outcome, Fault> {
        match command {
            TreeCommand::List(filter) => {
                let mut ids = Vec::new();
                for some in self.parts.meta.tree_ids(principal.tenant).await?.chunks(PIECE) {
                    let trees = self.volumes(some).await?;
                    ids.extend(trees.iter().filter(|tree| filter.takes(tree)).map(|tree| tree.id));
                }
                let total = ids.len() as u64;
                self.begin_list(ids, Page { limit: None, offset: 0 }, total).await.map(Outcome::Trees)
            }
            TreeCommand::Show(name) => Ok(Outcome::Tree(Box::new(self.find_tree(principal.tenant, &name).await?))),
            TreeCommand::Create { name, size, labels } => self.create_tree(principal, name, size, labels).await,
            TreeCommand::Delete { name, force } => self.delete_tree(principal, &name, None, force).await,
            TreeCommand::OpenDownload(name) => {
                let tree = self.find_tree(principal.tenant, &name).await?;
                check_readable(&tree)?;
                check_filled(&tree)?;
                self.ticket_for(principal, &tree).await
            }
        }
    }

    pub(super) async fn find_tree(&self, tenant: TenantId, name: &str) -> Result<Volume, Fault> {
        self.parts.meta.tree(tenant, name).await?.ok_or_else(|| no_such_tree(name))
    }

    async fn create_tree(
        &self,
        principal: &Principal,
        name: String,
        size: Option<ByteCount>,
        labels: Map<String, Value>,
    ) -> Result<Outcome, Fault> {
        let size = size.unwrap_or(self.parts.settings.trees.default_size);
        if size == ByteCount::ZERO || size > self.parts.settings.trees.max_size {
            let told = format!("a volume has from 1 to {} GB", self.parts.settings.trees.max_size.get() >> 30);
            return Err(Fault::invalid("size", told));
        }
        // As the Docker API has it: who gives no name gets one that nobody else has.
        let name = if name.is_empty() { VolumeId::random().to_string() } else { name };
        let spec = TreeSpec { name: name.clone(), size, labels };
        let tree = Volume::tree(principal.tenant, spec, VolumeState::Available, self.parts.clock.now());
        match self.parts.meta.insert_volumes(vec![tree.clone()], Vec::new()).await {
            Ok(()) => Ok(Outcome::Tree(Box::new(tree))),
            Err(MetaError::Duplicate) => {
                Err(Fault::new(FaultKind::Conflict, format!("a volume of the name {name} exists already")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the tree of this name, if it is the one of this id where that is given.
    pub(super) async fn delete_tree(
        self: &Arc<Self>,
        principal: &Principal,
        name: &str,
        id: Option<VolumeId>,
        force: bool,
    ) -> Result<Outcome, Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let mut tree = self.find_tree(principal.tenant, name).await?;
            if id.is_some_and(|id| id != tree.id) {
                return Err(no_such_tree(name));
            }
            if let Some(session) = self.session_now(tree.id).await? {
                if !force {
                    return Err(Fault::new(FaultKind::Conflict, format!("the volume {name} is being initialised")));
                }
                let why = format!("the volume {name} was deleted");
                let is_dropped = self.drop_session(&session, SessionState::Failed, &why).await?;
                // It goes with its session then.
                if is_dropped && session.uploads.iter().any(|upload| upload.volume == tree.id && upload.is_new) {
                    return Ok(Outcome::Deleted);
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
            return done.map(|()| Outcome::Deleted).map_err(Fault::internal);
        }
    }
}

pub(super) fn no_such_tree(name: &str) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no volume of the name {name}"))
}
