//! `longshore backup`: backups that another installation has left in the object storage.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use tokio_util::task::TaskTracker;

use super::administer;
use crate::app::{self, Administration};
use crate::config::Config;
use crate::domain::{ByteCount, Shortage};
use crate::io::Pool;

#[derive(Subcommand)]
pub(super) enum BackupCommand {
    /// Take over all backups of the object storage that are not known here
    Import {
        /// The tenant that gets them
        tenant: String,
    },
}

pub(super) fn run(config: &Config, command: BackupCommand) -> anyhow::Result<ExitCode> {
    administer(config, async |administration| execute(administration, config, command).await)
}

async fn execute(administration: &Administration, config: &Config, command: BackupCommand) -> anyhow::Result<()> {
    let BackupCommand::Import { tenant } = command;
    let operator = &administration.operator;
    let owner = operator.tenant(&tenant).await?;
    let archive = app::open_archive(config, Shortage::default(), Pool::new(ByteCount::mib(8)), TaskTracker::new())?;
    let (mut out, mut damaged) = (std::io::stdout().lock(), 0);
    let mut found = archive.list();
    while let Some(next) = found.next().await {
        let found = next?;
        match found.manifest {
            Ok(manifest) => {
                let told = if operator.take_over(owner, &manifest).await? { "taken over" } else { "known" };
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
