//! `longshore database`: copies the database, for the day when it is lost.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::administer;
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum DatabaseCommand {
    /// Write a copy of the database as it is now into a new file
    Backup {
        /// The file
        file: PathBuf,
    },
}

pub(super) fn run(config: &Config, command: DatabaseCommand) -> anyhow::Result<ExitCode> {
    let DatabaseCommand::Backup { file } = command;
    administer(config, async |administration| administration.backup_database(&file).await)
}
