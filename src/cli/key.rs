//! `longshore key`: manages the access keys of users, which sign requests. Changes apply to a running server at once.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;

use super::{administer, undone};
use crate::app::Administration;
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Add a key for a user, and print its name and its secret, which is not shown again
    Add {
        /// The user
        user: String,
    },
    /// Print all keys, without their secrets
    List,
    /// Remove a key
    Remove {
        /// The name of the key
        key: String,
    },
}

pub(super) fn run(config: &Config, command: KeyCommand) -> anyhow::Result<ExitCode> {
    administer(config, async |administration| execute(administration, config, command).await)
}

async fn execute(administration: &Administration, config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        KeyCommand::Add { user } => {
            let keys = administration.open_keys(config)?;
            let (key, secret) = keys.add(&user).await.with_context(|| format!("no key was added for {user}"))?;
            writeln!(out, "{key}:{}", secret.reveal())?;
        }
        KeyCommand::List => {
            writeln!(out, "KEY\tUSER\tCREATED")?;
            for key in administration.accounts.keys().await? {
                let created = Timestamp::from_millisecond(key.created.0).unwrap_or_default();
                writeln!(out, "{}\t{}\t{created}", key.id, key.user)?;
            }
        }
        KeyCommand::Remove { key } => {
            let removed = administration.accounts.remove_key(&key).await;
            removed.map_err(|error| undone(error, || format!("{key} was not removed")))?;
        }
    }
    Ok(())
}
