//! Lists of the caller's own volumes.

use std::sync::Arc;

use super::Parts;
use super::block::{BlockSettings, owner_of};
use super::volumes::Volumes;
use crate::domain::{
    BlockQuery, Catalogue, Fault, Listing, Outcome, Page, Principal, TenantId, TreeFilter, Volume, VolumeId,
    VolumeKind, VolumeQuery,
};
use crate::meta::MetaError;

/// The volumes of a long list that are in memory at once.
pub(crate) const LIST_PART: usize = 20;

/// The lists of volumes.
pub(super) struct Lists {
    volumes: Arc<Volumes>,
    /// Completes the placement of volumes that have none of their own.
    catalogue: Catalogue,
    /// Knows the types of volumes.
    offer: BlockSettings,
}

impl Lists {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>) -> Self {
        Self { volumes, catalogue: parts.catalogue.clone(), offer: parts.block.clone() }
    }

    /// Returns the volumes that a query asks for.
    pub(super) async fn list(&self, principal: &Principal, query: VolumeQuery) -> Result<Outcome, Fault> {
        let (meta, tenant) = (&self.volumes.meta, principal.tenant);
        let listing = match query {
            VolumeQuery::Drives { filter, page } => {
                if let Some((volumes, total)) = meta.list(tenant, &filter, page).await? {
                    return Ok(Outcome::Listing(Listing { volumes, rest: Vec::new(), page, total }));
                }
                let (ids, total) = meta.list_ids(tenant, &filter, page).await?;
                self.begin(ids, page, total).await?
            }
            VolumeQuery::Trees(filter) => self.list_trees(tenant, &filter).await?,
            VolumeQuery::All(page) => {
                let (mut volumes, total) = meta.volumes_of(tenant, page).await?;
                for volume in &mut volumes {
                    self.catalogue.place(volume, &principal.user);
                }
                Listing { volumes, rest: Vec::new(), page, total }
            }
            VolumeQuery::Attached { kind, query } => return self.list_attached(principal, kind, *query).await,
        };
        Ok(Outcome::Listing(listing))
    }

    async fn list_attached(
        &self,
        principal: &Principal,
        kind: VolumeKind,
        mut query: BlockQuery,
    ) -> Result<Outcome, Fault> {
        query.volume_type = query.volume_type.map(|wanted| self.offer.name_of_type(wanted));
        match self.volumes.meta.block_volumes(owner_of(principal, &query), kind, &query).await {
            Ok(page) => Ok(Outcome::Page(page)),
            Err(MetaError::NotFound) => Err(Fault::invalid("marker", "the marker is nothing of this list")),
            Err(error) => Err(error.into()),
        }
    }

    /// The trees that a filter takes.
    async fn list_trees(&self, tenant: TenantId, filter: &TreeFilter) -> Result<Listing, Fault> {
        let mut ids = Vec::new();
        for some in self.volumes.meta.tree_ids(tenant).await?.chunks(LIST_PART) {
            let trees = self.volumes(some).await?;
            ids.extend(trees.iter().filter(|tree| filter.takes(tree)).map(|tree| tree.id));
        }
        let total = ids.len() as u64;
        self.begin(ids, Page { limit: None, offset: 0 }, total).await
    }

    /// A list of these volumes, of which the first are held.
    async fn begin(&self, mut ids: Vec<VolumeId>, page: Page, total: u64) -> Result<Listing, Fault> {
        let rest = ids.split_off(ids.len().min(LIST_PART));
        Ok(Listing { volumes: self.volumes(&ids).await?, rest, page, total })
    }

    /// What is still there of a list's next volumes, of which are no more than [`LIST_PART`].
    pub(super) async fn volumes(&self, ids: &[VolumeId]) -> Result<Vec<Volume>, Fault> {
        Ok(self.volumes.meta.volumes_by_id(ids).await?)
    }
}
