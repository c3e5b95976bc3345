//! `longshore user`: manages the users who may log in. Changes apply to a running server: to passwords at once, to
//! tokens within five seconds.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{administer, undone};
use crate::app;
use crate::auth::{Accounts, Bounds, NewPassword, NewUser};
use crate::config::{Config, Size};

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
    administer(config, async |administration| execute(&administration.accounts, config, command).await)
}

async fn execute(accounts: &Accounts, config: &Config, command: UserCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command {
        UserCommand::Add { name, tenant, max_drives, max_bytes, admin } => {
            let bounds = Bounds { volumes: max_drives, bytes: max_bytes.map(|size| size.0) };
            let user = NewUser { name, tenant, bounds, is_admin: admin };
            let name = user.name.clone();
            let user = accounts.prepare_user(user).await?;
            let added = accounts.add_user(&user).await;
            added.map_err(|error| undone(error, || format!("the user {name} was not added")))?;
            writeln!(out, "{name}:{}", **user.password())?;
        }
        UserCommand::List => {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            writeln!(out, "USER\tTENANT\tDRIVES\tMAX DRIVES\tBYTES\tMAX BYTES\tROLE")?;
            for user in accounts.users().await? {
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
            let renewed = accounts.renew_password(&name).await;
            let NewPassword { password, ended_keys } =
                renewed.map_err(|error| undone(error, || format!("no change for {name}")))?;
            if ended_keys > 0 {
                // Print the new password all the same.
                let _ = writeln!(
                    std::io::stderr(),
                    "{ended_keys} access keys of {name} ended with the old password; `longshore key add` makes new ones"
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
            let removed = accounts.remove_user(&name).await;
            removed.map_err(|error| undone(error, || format!("{name} was not removed")))?;
        }
    }
    Ok(())
}
