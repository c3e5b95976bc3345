//! `longshore user`: manages the users who may log in. Changes apply to a running server: to passwords at once, to
//! tokens within five seconds.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::with_meta;
use crate::app;
use crate::auth::{Passwords, check_user_name, random_password};
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
        /// The most drives of the tenant
        #[arg(long, value_name = "N")]
        max_drives: Option<u64>,
        /// The most bytes of the tenant's drives together, as in 500GiB
        #[arg(long, value_name = "SIZE")]
        max_bytes: Option<Size>,
        /// Make them an administrator: who may work in every project, where a client can name one
        #[arg(long)]
        admin: bool,
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
    with_meta(config, async |meta| execute(meta, config, command).await)
}

async fn execute(meta: &Meta, config: &Config, command: UserCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        UserCommand::Add { name, tenant, max_drives, max_bytes, admin } => {
            check_user_name(&name)?;
            // An existing tenant keeps its quota unless this call names one.
            let sets_quota = tenant.is_none() || max_drives.is_some() || max_bytes.is_some();
            let default = config.default_quota();
            let quota = Quota {
                volumes: max_drives.or(default.volumes),
                bytes: max_bytes.map(|size| size.0).or(default.bytes),
                ..default
            };
            let password = random_password();
            let hash = Passwords::default().hash(password.clone()).await?;
            let tenant = tenant.unwrap_or_else(|| name.clone());
            let (quota, now) = (sets_quota.then_some(quota), SystemClock.now());
            let added = if admin {
                meta.add_administrator(&name, &hash, &tenant, quota, now).await.map(drop)
            } else {
                meta.add_user(&name, &hash, &tenant, quota, now).await.map(drop)
            };
            added.with_context(|| format!("the user {name} was not added"))?;
            writeln!(out, "{name}:{}", *password)?;
        }
        UserCommand::List => {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            writeln!(out, "USER\tTENANT\tDRIVES\tMAX DRIVES\tBYTES\tMAX BYTES\tROLE")?;
            for user in meta.users().await? {
                writeln!(
                    out,
                    "{}\t{}\t{}\t{}\t{}\t{}\t{}",
                    user.name,
                    user.tenant_name,
                    user.usage.volumes,
                    limit(user.quota.volumes),
                    user.usage.bytes,
                    limit(user.quota.bytes.map(crate::domain::ByteCount::get)),
                    if user.is_admin { "admin" } else { "member" },
                )?;
            }
        }
        UserCommand::Passwd { name } => {
            let password = random_password();
            let hash = Passwords::default().hash(password.clone()).await?;
            let keys = meta.set_password(&name, &hash).await.with_context(|| format!("no change for {name}"))?;
            if keys > 0 {
                // Print the new password all the same.
                let _ = writeln!(
                    std::io::stderr(),
                    "{keys} access keys of {name} ended with the old password; `longshore key add` makes new ones"
                );
            }
            // The printed curl lines read the password from this file.
            let known = std::fs::read_to_string(app::credentials_path(config)).unwrap_or_default();
            if known.split(':').next() == Some(&name) {
                app::write_credentials(config, &name, &password)?;
            }
            writeln!(out, "{name}:{}", *password)?;
        }
        UserCommand::Remove { name } => {
            meta.remove_user(&name).await.with_context(|| format!("{name} was not removed"))?;
        }
    }
    Ok(())
}
