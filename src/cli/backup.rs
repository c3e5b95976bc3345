//! `longshore backup`: backups that another installation has left in the object storage.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use tokio_util::task::TaskTracker;

use super::with_meta;
use crate::app;
use crate::archive::Manifest;
use crate::config::Config;
use crate::domain::{Backup, BackupRef, BackupState, ByteCount, Clock, Named, SystemClock, TenantId};
use crate::io::Pool;
use crate::meta::{Batch, Meta, MetaError, Owner};

#[derive(Subcommand)]
pub(super) enum BackupCommand {
    /// Take over all backups of the object storage that are not known here
    Import {
        /// The tenant that gets them
        tenant: String,
    },
}

pub(super) fn run(config: &Config, command: BackupCommand) -> anyhow::Result<ExitCode> {
    with_meta(config, async |meta| execute(meta, config, command).await)
}

async fn execute(meta: &Meta, config: &Config, command: BackupCommand) -> anyhow::Result<()> {
    let BackupCommand::Import { tenant } = command;
    let owner = meta.project(&Named::Name(tenant.clone())).await?;
    let owner = owner.with_context(|| format!("there is no tenant {tenant}"))?.id;
    let archive = app::open_archive(config, Pool::new(ByteCount::mib(8)), TaskTracker::new())?;
    let (mut out, mut damaged) = (std::io::stdout().lock(), 0);
    let mut found = archive.list();
    while let Some(next) = found.next().await {
        let found = next?;
        match found.manifest {
            Ok(manifest) => {
                let told = if take_over(meta, owner, &manifest).await? { "taken over" } else { "known" };
                writeln!(out, "{}\t{told}\t{}", manifest.head.backup, found.location)?;
            }
            Err(error) => {
                damaged += 1;
                writeln!(out, "-\t{error}\t{}", found.location)?;
            }
        }
    }
    if damaged > 0 {
        bail!("{damaged} of the backups cannot be used");
    }
    Ok(())
}

/// Takes over one backup; returns whether it was unknown before.
async fn take_over(meta: &Meta, tenant: TenantId, manifest: &Manifest) -> anyhow::Result<bool> {
    let head = &manifest.head;
    if meta.backup(Owner::Anyone, BackupRef::Id(head.backup)).await?.is_some() {
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
        updated: SystemClock.now(),
    };
    match meta.apply(Batch { insert_backups: vec![backup], ..Batch::default() }).await {
        Err(MetaError::Duplicate) => Ok(false),
        result => Ok(result.map(|_| true)?),
    }
}
