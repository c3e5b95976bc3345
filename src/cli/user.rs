//! `longshore user`: the users who may log in. Changes hold at once for a server that runs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::runtime;
use crate::app;
use crate::auth::passwords;
use crate::config::{Config, Size};
use crate::domain::{Clock, Quota, SystemClock};
use crate::meta::Meta;

#[derive(Subcommand)]
pub(super) enum UserCommand {
    /// Add a user with a random password, and print user:password
    Add {
        /// The name to log in with
        name: String,
        /// Whose drives they see; a new tenant is made when there is none of this name [default: the user's name]
        #[arg(long)]
        tenant: Option<String>,
        /// The most drives of the tenant, when it is new
        #[arg(long, value_name = "N")]
        max_drives: Option<u64>,
        /// The most bytes of the tenant, when it is new, as in 500GiB
        #[arg(long, value_name = "SIZE")]
        max_bytes: Option<Size>,
    },
    /// Print all users, with what their tenants hold
    List,
    /// Give a user a new random password, and print user:password
    Passwd {
        /// The user
        name: String,
    },
    /// Remove a user
    Remove {
        /// The user
        name: String,
    },
}

pub(super) fn run(config: &Config, command: UserCommand) -> anyhow::Result<ExitCode> {
    app::make_data_dir(&config.data_dir)?;
    runtime()?.block_on(async {
        let meta = app::open_meta(config).await?;
        let done = execute(&meta, config, command).await;
        meta.close().await;
        done.map(|()| ExitCode::SUCCESS)
    })
}

async fn execute(meta: &Meta, config: &Config, command: UserCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        UserCommand::Add { name, tenant, max_drives, max_bytes } => {
            check_name(&name)?;
            let default = config.default_quota();
            let quota = Quota {
                volumes: max_drives.or(default.volumes),
                bytes: max_bytes.map(|size| size.0).or(default.bytes),
            };
            let password = passwords::random();
            let hash = passwords::hash(&password).await?;
            let tenant = tenant.unwrap_or_else(|| name.clone());
            meta.add_user(&name, &hash, &tenant, quota, SystemClock.now()).await?;
            writeln!(out, "{name}:{password}")?;
        }
        UserCommand::List => {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            writeln!(out, "USER\tTENANT\tDRIVES\tMAX DRIVES\tBYTES\tMAX BYTES")?;
            for user in meta.users().await? {
                writeln!(
                    out,
                    "{}\t{}\t{}\t{}\t{}\t{}",
                    user.name,
                    user.tenant_name,
                    user.usage.volumes,
                    limit(user.quota.volumes),
                    user.usage.bytes,
                    limit(user.quota.bytes.map(crate::domain::ByteCount::get)),
                )?;
            }
        }
        UserCommand::Passwd { name } => {
            let password = passwords::random();
            let hash = passwords::hash(&password).await?;
            meta.set_password(&name, &hash).await.with_context(|| format!("no change for {name}"))?;
            // The file that the curl lines read must not go stale.
            let known = std::fs::read_to_string(app::credentials_path(config)).unwrap_or_default();
            if known.split(':').next() == Some(&name) {
                app::write_credentials(config, &name, &password)?;
            }
            writeln!(out, "{name}:{password}")?;
        }
        UserCommand::Remove { name } => {
            meta.remove_user(&name).await.with_context(|| format!("{name} was not removed"))?;
        }
    }
    Ok(())
}

/// RFC 7617 section 2: a user name in Basic credentials has no colon and no control characters.
fn check_name(name: &str) -> anyhow::Result<()> {
    if name.is_empty() || name.len() > 255 || name.contains(':') || name.chars().any(char::is_control) {
        bail!("a user name has 1 to 255 bytes, no colon and no control characters");
    }
    Ok(())
}
