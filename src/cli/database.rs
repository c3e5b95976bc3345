//! `longshore database`: copies the database, for the day when it is lost.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::with_meta;
use crate::app;
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
    with_meta(config, async |meta| app::backup_database(meta, &file).await)
}
