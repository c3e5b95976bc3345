//! Who looks at a transfer again and again, to tell others of its progress.
//!
//! # Invariants
//! - A watcher is not at the transfer: for it nothing is made durable, and no draft is opened or stays open. Of one
//!   that rests in many extents the map is read once.

use std::sync::Arc;

use super::Assemblies;
use super::held::{Glimpse, Sight};
use crate::domain::{Extents, Fault, TenantId, TransferId, TransferSeen, TransferState};

/// See the module.
pub(crate) struct Watch {
    assemblies: Arc<Assemblies>,
    tenant: TenantId,
    id: TransferId,
    /// What was durable when that was last seen.
    last: Option<Extents>,
}

impl Assemblies {
    /// Watches a transfer of this tenant.
    pub(in crate::control) fn watch(self: &Arc<Self>, tenant: TenantId, id: TransferId) -> Watch {
        Watch { assemblies: self.clone(), tenant, id, last: None }
    }
}

impl Watch {
    /// Shows the transfer: what was told to be durable of it, and what has come.
    pub(crate) async fn look(&mut self) -> Result<TransferSeen, Fault> {
        let assemblies = &self.assemblies;
        let transfer = assemblies.own(self.tenant, self.id).await?;
        let held = assemblies.held_of(transfer.id).ok().filter(|_| transfer.state == TransferState::Open);
        let Some(held) = held else { return assemblies.seen(transfer).await };
        let sight = match Assemblies::glimpse(&held).await {
            Glimpse::Clear(sight) => sight,
            Glimpse::Resting(total) => match &self.last {
                // Nothing of it ever goes, so that as many bytes are the same.
                Some(last) if total == Some(last.total()) => Sight::at_rest(last.clone()),
                _ => assemblies.look_at(&held, &transfer).await?,
            },
            Glimpse::Gone => return assemblies.seen(assemblies.own(self.tenant, self.id).await?).await,
        };
        self.last = Some(sight.durable.clone());
        Ok(assemblies.sighted(transfer, sight))
    }
}
