//! `longshore recover`: makes volumes of data that was set aside or that no row of the database knows.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::{log, runtime};
use crate::app::{self, Found, Recovered, Recovery};
use crate::config::Config;
use crate::metrics::DroppedLines;

#[derive(Args)]
pub(super) struct RecoverArguments {
    /// Give all of it to this tenant [default: whose it was; a tenant that is gone is made again]
    #[arg(long)]
    tenant: Option<String>,
    /// Change nothing, and print what there is
    #[arg(long, conflicts_with = "remove")]
    list: bool,
    /// Remove it for good
    #[arg(long, conflicts_with = "tenant")]
    remove: bool,
}

pub(super) fn run(config: &Config, arguments: RecoverArguments) -> anyhow::Result<ExitCode> {
    app::require_installation(config)?;
    log::start(config, DroppedLines::default())?;
    let what = match arguments {
        RecoverArguments { list: true, .. } => Recovery::List,
        RecoverArguments { remove: true, .. } => Recovery::Remove,
        RecoverArguments { tenant, .. } => Recovery::TakeBack { tenant },
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "ID\tKIND\tBYTES\tTENANT\tNAME\tOUTCOME")?;
    let mut left = 0;
    for Found { id, kind, size, tenant, name, outcome } in runtime()?.block_on(app::recover(config, &what))? {
        let told = match outcome {
            Recovered::Listed => "is lost".to_owned(),
            Recovered::Removed => "removed".to_owned(),
            Recovered::Back => "is back".to_owned(),
            Recovered::Left(why) => {
                left += 1;
                format!("left: {why}")
            }
        };
        writeln!(out, "{id}\t{kind}\t{size}\t{}\t{name:?}\t{told}", tenant.unwrap_or_else(|| "-".to_owned()))?;
    }
    if left > 0 {
        bail!("{left} were left where they are");
    }
    Ok(ExitCode::SUCCESS)
}
