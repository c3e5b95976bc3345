//! `longshore image`: manages the drives that serve as images of volumes. Changes apply to a running server at once.
//!
//! The owner of a drive makes it an image of their own tenant by its label; an operator makes it one for all tenants
//! here.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::administer;
use crate::config::Config;
use crate::control::{Audience, Operator};
use crate::domain::{BlockFields, VolumeId};

#[derive(Subcommand)]
pub(super) enum ImageCommand {
    /// Make a drive an image of its tenant, or of everybody
    Add {
        /// The drive's UUID
        drive: VolumeId,
        /// For all tenants
        #[arg(long)]
        public: bool,
    },
    /// Print all images
    List,
    /// Make an image a common drive again
    Remove {
        /// The drive's UUID
        drive: VolumeId,
    },
}

pub(super) fn run(config: &Config, command: ImageCommand) -> anyhow::Result<ExitCode> {
    administer(config, async |administration| execute(&administration.operator, command).await)
}

async fn execute(operator: &Operator, command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Add { drive, public } => {
            let audience = if public { Audience::Everybody } else { Audience::Tenant };
            Ok(operator.set_image(drive, Some(audience)).await?)
        }
        ImageCommand::Remove { drive } => Ok(operator.set_image(drive, None).await?),
        ImageCommand::List => {
            let mut out = std::io::stdout().lock();
            writeln!(out, "DRIVE\tFOR\tBYTES\tNAME")?;
            for drive in operator.images().await? {
                let whose = if BlockFields::of(&drive).public_image { "everybody" } else { "its tenant" };
                writeln!(out, "{}\t{whose}\t{}\t{}", drive.id, drive.size, drive.name)?;
            }
            Ok(())
        }
    }
}
