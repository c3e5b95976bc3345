//! `longshore image`: manages the drives that serve as images of volumes. Changes apply to a running server at once.
//!
//! The owner of a drive makes it an image of their own tenant by its label; an operator makes it one for all tenants
//! here.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Subcommand;

use super::with_meta;
use crate::config::Config;
use crate::domain::{BlockFields, VolumeId, VolumeKind};
use crate::meta::Meta;

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
    with_meta(config, async |meta| execute(meta, command).await)
}

async fn execute(meta: &Meta, command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Add { drive, public } => mark(meta, drive, true, public).await,
        ImageCommand::Remove { drive } => mark(meta, drive, false, false).await,
        ImageCommand::List => {
            let mut out = std::io::stdout().lock();
            writeln!(out, "DRIVE\tFOR\tBYTES\tNAME")?;
            for drive in meta.images().await? {
                let whose = if BlockFields::of(&drive).public_image { "everybody" } else { "its tenant" };
                writeln!(out, "{}\t{whose}\t{}\t{}", drive.id, drive.size, drive.name)?;
            }
            Ok(())
        }
    }
}

async fn mark(meta: &Meta, id: VolumeId, is_image: bool, is_public: bool) -> anyhow::Result<()> {
    let there = meta.volume_any(id).await?.filter(|volume| volume.kind == VolumeKind::Drive);
    let mut drive = there.with_context(|| format!("there is no drive {id}"))?;
    ensure!(drive.state.is_readable() || !is_image, "the drive {id} is not ready to be read");
    let (key, value) = BlockFields::IMAGE;
    if is_image {
        drive.meta.insert(key.to_owned(), value.into());
    } else {
        drive.meta.remove(key);
    }
    let mut fields = BlockFields::of(&drive);
    fields.public_image = is_public;
    fields.put(&mut drive.attributes);
    meta.update(drive).await.with_context(|| format!("{id} was not changed; try again"))?;
    Ok(())
}
