//! `longshore project`: manages the projects, which are the tenants, and the users who may work in them beside their
//! own. Changes apply to a running server: to new tokens at once, to old ones within five seconds.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{administer, undone};
use crate::auth::{Accounts, Bounds};
use crate::config::{Config, Size};
use crate::domain::ByteCount;

#[derive(Subcommand)]
pub(super) enum ProjectCommand {
    /// Add a project, and print its id
    Add {
        /// Its name
        name: String,
        /// The most drives
        #[arg(long, value_name = "N")]
        max_drives: Option<u64>,
        /// The most bytes of its drives together, as in 500GiB
        #[arg(long, value_name = "SIZE")]
        max_bytes: Option<Size>,
    },
    /// Print all projects, with what they hold and who belongs to them
    List,
    /// Remove a project that nobody belongs to and that holds nothing
    Remove {
        /// Its name or id
        project: String,
    },
    /// Let a user work in a project beside their own
    Grant {
        /// The user
        user: String,
        /// The name or id of the project
        project: String,
    },
    /// End what `grant` gave, and the user's tokens for the project
    Revoke {
        /// The user
        user: String,
        /// The name or id of the project
        project: String,
    },
}

pub(super) fn run(config: &Config, command: ProjectCommand) -> anyhow::Result<ExitCode> {
    administer(config, async |administration| execute(&administration.accounts, command).await)
}

async fn execute(accounts: &Accounts, command: ProjectCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        ProjectCommand::Add { name, max_drives, max_bytes } => {
            let bounds = Bounds { volumes: max_drives, bytes: max_bytes.map(|size| size.0) };
            let id = accounts.add_project(&name, bounds).await;
            let id = id.map_err(|error| undone(error, || format!("{name} was not added")))?;
            writeln!(out, "{}", id.plain())?;
        }
        ProjectCommand::List => {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            writeln!(out, "PROJECT\tID\tDRIVES\tMAX DRIVES\tBYTES\tMAX BYTES\tUSERS")?;
            for row in accounts.projects().await? {
                writeln!(
                    out,
                    "{}\t{}\t{}\t{}\t{}\t{}\t{}",
                    row.project.name,
                    row.project.id.plain(),
                    row.usage.volumes,
                    limit(row.quota.volumes),
                    row.usage.bytes,
                    limit(row.quota.bytes.map(ByteCount::get)),
                    row.users.join(", "),
                )?;
            }
        }
        ProjectCommand::Remove { project } => {
            let removed = accounts.remove_project(&project).await;
            removed.map_err(|error| undone(error, || format!("{project} was not removed")))?;
        }
        ProjectCommand::Grant { user, project } => {
            let granted = accounts.grant(&user, &project).await;
            granted.map_err(|error| undone(error, || format!("no change for {user}")))?;
        }
        ProjectCommand::Revoke { user, project } => {
            let revoked = accounts.revoke(&user, &project).await;
            revoked.map_err(|error| undone(error, || format!("no change for {user}")))?;
        }
    }
    Ok(())
}
