//! What whoever runs the server does with drives and backups of others: over the database alone, also beside a server
//! that runs.

use std::sync::Arc;

use super::race::{Race, unless_lost};
use crate::archive::Manifest;
use crate::domain::{
    Backup, BackupRef, BackupState, BlockFields, Clock, Fault, FaultKind, Named, TenantId, Volume, VolumeId, VolumeKind,
};
use crate::meta::{Batch, Meta, MetaError, Owner};

/// The use cases of whoever runs the server.
pub(crate) struct Operator {
    meta: Meta,
    clock: Arc<dyn Clock>,
}

/// Whose volumes may be made of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Those of its tenant.
    Tenant,
    /// Everybody's.
    Everybody,
}

impl Operator {
    /// Over this database.
    pub(crate) fn new(meta: Meta, clock: Arc<dyn Clock>) -> Self {
        Self { meta, clock }
    }

    /// Returns all drives that are images.
    pub(crate) async fn images(&self) -> Result<Vec<Volume>, Fault> {
        Ok(self.meta.images().await?)
    }

    /// Makes a drive an image, or with no audience a common drive again.
    pub(crate) async fn set_image(&self, id: VolumeId, audience: Option<Audience>) -> Result<(), Fault> {
        let mut race = Race::of("the drive is");
        loop {
            race.round()?;
            let there = self.meta.volume_any(id).await?.filter(|volume| volume.kind == VolumeKind::Drive);
            let told = || Fault::new(FaultKind::NotFound, format!("there is no drive {id}"));
            let mut drive = there.ok_or_else(told)?;
            if !drive.state.is_readable() && audience.is_some() {
                return Err(Fault::new(FaultKind::Conflict, format!("the drive {id} is not ready to be read")));
            }
            let (key, value) = BlockFields::IMAGE;
            if audience.is_some() {
                drive.meta.insert(key.to_owned(), value.into());
            } else {
                drive.meta.remove(key);
            }
            let mut fields = BlockFields::of(&drive);
            fields.public_image = audience == Some(Audience::Everybody);
            fields.put(&mut drive.attributes);
            drive.updated = self.clock.now();
            let batch = Batch { update: vec![drive], ..Batch::default() };
            if unless_lost(self.meta.apply(batch).await)?.is_some() {
                tracing::info!(drive = %id, ?audience, "whose image a drive is was set");
                return Ok(());
            }
        }
    }

    /// Returns the tenant of this name.
    pub(crate) async fn tenant(&self, name: &str) -> Result<TenantId, Fault> {
        let tenant = self.meta.project(&Named::Name(name.to_owned())).await?;
        let told = || Fault::new(FaultKind::NotFound, format!("there is no tenant {name}"));
        tenant.map(|tenant| tenant.id).ok_or_else(told)
    }

    /// Takes over one backup of the object storage for a tenant; returns whether it was unknown before.
    pub(crate) async fn take_over(&self, tenant: TenantId, manifest: &Manifest) -> Result<bool, MetaError> {
        let head = &manifest.head;
        if self.meta.backup(Owner::Anyone, BackupRef::Id(head.backup)).await?.is_some() {
            return Ok(false);
        }
        let backup = Backup {
            id: head.backup,
            number: 0,
            tenant,
            volume: head.volume,
            snapshot: None,
            name: head.name.clone(),
            description: head.description.clone(),
            container: Some(head.container.as_str().to_owned()),
            zone: Some(head.zone.clone()),
            size: head.size,
            objects: Some(manifest.written().objects),
            state: BackupState::Available,
            reason: None,
            origin: Some((head.number, head.tenant)),
            created: head.created,
            updated: self.clock.now(),
        };
        match self.meta.apply(Batch { insert_backups: vec![backup], ..Batch::default() }).await {
            Err(MetaError::Duplicate) => Ok(false),
            result => {
                result?;
                tracing::info!(backup = %head.backup, %tenant, "a backup was taken over");
                Ok(true)
            }
        }
    }
}
