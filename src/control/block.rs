//! Block storage: volumes, snapshots, backups and attachments, as its dialects want them.
//!
//! A volume of block storage is a drive, and a snapshot is a clone of one that nobody writes: both are made, charged,
//! swept and removed as drives are.

mod actions;
mod attachments;
mod backups;
mod copies;
mod images;

use std::sync::Arc;

use super::drives::Drives;
use super::{Parts, only_administrators};
use crate::archive::Container;
use crate::domain::{
    BlockCommand, BlockFields, BlockOutcome, BlockQuery, Fault, FaultKind, Principal, Quota, QuotaChange, Reason,
    TenantId, VolumeType,
};
use crate::meta::{Meta, Owner};

pub(super) use attachments::Attachments;
pub(super) use backups::Backups;
pub(super) use copies::Copies;

/// What block storage offers here.
#[derive(Clone, Debug)]
pub(crate) struct BlockSettings {
    /// The availability zones, the default one first.
    pub zones: Vec<String>,
    /// The types of volumes.
    pub types: Vec<VolumeType>,
    /// The type of volumes for which none is asked.
    pub default_type: Option<String>,
    /// Where backups lie for which no container is asked.
    pub container: Container,
    /// The limits that new tenants are given.
    pub quota: Quota,
}

impl BlockSettings {
    /// The name of the type with this name or id. Volumes keep the name, also of a type that is not offered any more.
    pub(super) fn name_of_type(&self, wanted: String) -> String {
        let known = self.types.iter().find(|known| known.id == wanted || known.name == wanted);
        known.map_or(wanted, |known| known.name.clone())
    }

    /// What block storage keeps of a volume for which this description, zone and type are wished, checked against what
    /// there is here.
    pub(super) fn completed(&self, principal: &Principal, wish: BlockFields) -> Result<BlockFields, Fault> {
        if let Some(zone) = wish.zone.as_ref().filter(|zone| !self.zones.contains(zone)) {
            let told = format!("there is no zone {zone}");
            return Err(Fault::invalid("zone", told).for_reason(Reason::NoSuchZone(zone.clone())));
        }
        let volume_type = match wish.volume_type.clone() {
            None => self.default_type.clone(),
            Some(name) => {
                let known = self.types.iter().find(|known| known.name == name || known.id == name);
                if known.is_none() && wish.type_if_known {
                    return self.completed(principal, BlockFields { volume_type: None, ..wish });
                }
                let Some(known) = known else {
                    let told = format!("there is no type {name} of volumes");
                    let known = self.types.iter().map(|known| known.name.clone()).collect();
                    return Err(Fault::new(FaultKind::NotFound, told).for_reason(Reason::NoSuchType { name, known }));
                };
                Some(known.name.clone())
            }
        };
        let zone = wish.zone.or_else(|| self.zones.first().cloned());
        let (description, user) = (wish.description, Some(principal.user_id.plain()));
        Ok(BlockFields { description, zone, volume_type, user, ..BlockFields::default() })
    }
}

/// What only block storage has: attachments, backups, quotas, types and zones.
pub(super) struct Block {
    meta: Meta,
    offer: BlockSettings,
    drives: Arc<Drives>,
    attachments: Arc<Attachments>,
    backups: Arc<Backups>,
}

impl Block {
    /// Over these parts.
    pub(super) fn new(
        parts: &Parts,
        drives: Arc<Drives>,
        attachments: Arc<Attachments>,
        backups: Arc<Backups>,
    ) -> Self {
        Self { meta: parts.meta.clone(), offer: parts.block.clone(), drives, attachments, backups }
    }

    /// Executes one command for a caller.
    pub(super) async fn execute(&self, principal: &Principal, command: BlockCommand) -> Result<BlockOutcome, Fault> {
        match command {
            BlockCommand::Extend { id, size } => {
                self.drives.extend(principal, id, size).await.map(|()| BlockOutcome::Done)
            }
            BlockCommand::Act { id, action } => self.attachments.act(principal, id, action).await,
            BlockCommand::Reset { volume, reset } => self.attachments.reset(principal, &volume, reset).await,
            BlockCommand::ResetBackup { backup, is_available } => {
                only_administrators(principal)?;
                self.backups.reset(principal, backup, is_available).await
            }
            BlockCommand::ForceDeleteBackup(backup) => {
                only_administrators(principal)?;
                self.backups.delete(principal, backup).await
            }
            BlockCommand::Servers(query) => {
                let is_all = query.all_tenants && principal.is_admin;
                let owner = if is_all { Owner::Anyone } else { Owner::Tenant(principal.tenant) };
                Ok(BlockOutcome::Servers(self.meta.attached_servers(owner, &query).await?))
            }
            BlockCommand::Attachments { server } => {
                Ok(BlockOutcome::Attachments(self.meta.attachments(principal.tenant, &server).await?))
            }
            BlockCommand::Attachment { server, volume } => {
                self.attachments.find(principal, &server, volume).await.map(BlockOutcome::Attachment)
            }
            BlockCommand::Attach { server, volume, device } => {
                self.attachments.attach(principal, server, volume, device).await
            }
            BlockCommand::Detach { server, volume } => {
                self.attachments.find(principal, &server, volume).await?;
                self.attachments.detach(principal, volume).await.map(|()| BlockOutcome::Done)
            }
            BlockCommand::Quota { tenant } => {
                if tenant != principal.tenant {
                    only_administrators(principal)?;
                }
                self.quota(tenant).await
            }
            BlockCommand::SetQuota { tenant, change } => {
                only_administrators(principal)?;
                self.meta.change_quota(tenant, change).await?;
                self.quota(tenant).await
            }
            BlockCommand::ResetQuota { tenant } => {
                only_administrators(principal)?;
                self.meta.set_quota(tenant, self.offer.quota).await?;
                Ok(BlockOutcome::Done)
            }
            BlockCommand::DefaultQuota => self.default_quota().await,
            BlockCommand::SetDefaultQuota(change) => {
                only_administrators(principal)?;
                self.check_default(change)?;
                self.meta.change_default_quota(change).await?;
                self.default_quota().await
            }
            BlockCommand::Types => Ok(BlockOutcome::Types(self.offer.types.clone())),
            BlockCommand::Zones => Ok(BlockOutcome::Zones(self.offer.zones.clone())),
            BlockCommand::Backups(query) => self.backups.list(principal, &query).await,
            BlockCommand::Backup(backup) => {
                let backup = self.backups.find(principal, backup).await?;
                Ok(BlockOutcome::Backup(Box::new(backup)))
            }
            BlockCommand::CreateBackup(wish) => self.backups.create(principal, *wish).await,
            BlockCommand::DeleteBackup(backup) => self.backups.delete(principal, backup).await,
            BlockCommand::Restore { backup, volume, name } => {
                self.backups.restore(principal, backup, volume, name).await
            }
        }
    }

    async fn quota(&self, tenant: TenantId) -> Result<BlockOutcome, Fault> {
        let (quota, usage) = self.meta.usage(tenant).await?;
        Ok(BlockOutcome::Quota { tenant, quota, usage })
    }

    async fn default_quota(&self) -> Result<BlockOutcome, Fault> {
        Ok(BlockOutcome::DefaultQuota(self.offer.quota.or(self.meta.default_quota().await?)))
    }

    /// Refuses a default for what the settings limit: these limits are given to each new tenant as its own.
    fn check_default(&self, change: QuotaChange) -> Result<(), Fault> {
        let set = self.offer.quota;
        for (name, is_set) in [
            ("drives", change.volumes.is_some() && set.volumes.is_some()),
            ("bytes", change.bytes.is_some() && set.bytes.is_some()),
            ("backups", change.backups.is_some() && set.backups.is_some()),
            ("backup_bytes", change.backup_bytes.is_some() && set.backup_bytes.is_some()),
            ("snapshots", change.snapshots.is_some() && set.snapshots.is_some()),
            ("volume_bytes", change.volume_bytes.is_some() && set.volume_bytes.is_some()),
        ] {
            if is_set {
                let told = format!("the server's settings have this limit of new projects: quota.{name}");
                return Err(Fault::new(FaultKind::Conflict, told));
            }
        }
        Ok(())
    }
}

/// Whose things a list may have: only administrators see those of others.
pub(super) fn owner_of(principal: &Principal, query: &BlockQuery) -> Owner {
    if query.all_tenants && principal.is_admin { Owner::Anyone } else { Owner::Tenant(principal.tenant) }
}
