//! `longshore key`: manages the access keys of users, which sign requests. Changes apply to a running server at once.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;

use super::with_meta;
use crate::app;
use crate::config::Config;
use crate::domain::SystemClock;
use crate::meta::Meta;

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
    with_meta(config, async |meta| execute(meta, config, command).await)
}

async fn execute(meta: &Meta, config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        KeyCommand::Add { user } => {
            let keys = app::open_keys(config, meta, Arc::new(SystemClock))?;
            let (key, secret) = keys.add(&user).await.with_context(|| format!("no key was added for {user}"))?;
            writeln!(out, "{key}:{}", secret.reveal())?;
        }
        KeyCommand::List => {
            writeln!(out, "KEY\tUSER\tCREATED")?;
            for key in meta.keys().await? {
                let created = Timestamp::from_millisecond(key.created.0).unwrap_or_default();
                writeln!(out, "{}\t{}\t{created}", key.id, key.user)?;
            }
        }
        KeyCommand::Remove { key } => {
            meta.remove_key(&key).await.with_context(|| format!("{key} was not removed"))?;
        }
    }
    Ok(())
}
