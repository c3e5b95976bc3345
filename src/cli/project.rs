//! `longshore project`: manages the projects, which are the tenants, and the users who may work in them beside their
//! own. Changes apply to a running server: to new tokens at once, to old ones within five seconds.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::with_meta;
use crate::auth::check_project_name;
use crate::config::{Config, Size};
use crate::domain::{ByteCount, Named, Project, Quota, TenantId};
use crate::meta::Meta;

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
    with_meta(config, async |meta| execute(meta, config, command).await)
}

async fn execute(meta: &Meta, config: &Config, command: ProjectCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        ProjectCommand::Add { name, max_drives, max_bytes } => {
            check_project_name(&name)?;
            let default = config.default_quota();
            let quota = Quota {
                volumes: max_drives.or(default.volumes),
                bytes: max_bytes.map(|size| size.0).or(default.bytes),
                ..default
            };
            let id = meta.add_project(&name, quota).await.with_context(|| format!("{name} was not added"))?;
            writeln!(out, "{}", id.plain())?;
        }
        ProjectCommand::List => {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            writeln!(out, "PROJECT\tID\tDRIVES\tMAX DRIVES\tBYTES\tMAX BYTES\tUSERS")?;
            for row in meta.projects().await? {
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
            let found = find(meta, &project).await?;
            meta.remove_project(found.id).await.with_context(|| format!("{project} was not removed"))?;
        }
        ProjectCommand::Grant { user, project } => {
            let found = find(meta, &project).await?;
            meta.add_member(&user, found.id).await.with_context(|| format!("no change for {user}"))?;
        }
        ProjectCommand::Revoke { user, project } => {
            let found = find(meta, &project).await?;
            meta.remove_member(&user, found.id).await.with_context(|| format!("no change for {user}"))?;
        }
    }
    Ok(())
}

/// Returns the project of this name, or else of this id.
async fn find(meta: &Meta, text: &str) -> anyhow::Result<Project> {
    if let Some(project) = meta.project(&Named::Name(text.to_owned())).await? {
        return Ok(project);
    }
    if let Some(id) = TenantId::from_plain(text)
        && let Some(project) = meta.project(&Named::Id(id)).await?
    {
        return Ok(project);
    }
    bail!("there is no project {text}")
}
