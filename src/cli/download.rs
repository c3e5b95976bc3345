//! `longshore download`: downloads a drive from a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::connection::{self, Connection};
use super::progress::Board;
use crate::client::{Destination, Download, Meter};
use crate::config::Size;

#[derive(Args)]
pub(super) struct DownloadArguments {
    /// The drive: its UUID, or a name that no other drive has
    drive: String,
    /// Where it goes to; - is standard output [default: its UUID with .img]
    file: Option<PathBuf>,
    /// Connections at once
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Receive no more than this in a second, as in 10MiB
    #[arg(long, value_name = "SIZE")]
    bwlimit: Option<Size>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Bring a file that is there up to date: of each 4 MiB that it has already nothing is fetched. It is changed in
    /// place, and is neither the old nor the new one until the command ends with 0
    #[arg(long, conflicts_with = "force")]
    update: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(arguments: DownloadArguments) -> anyhow::Result<ExitCode> {
    let DownloadArguments { drive, file, connections, bwlimit, force, update, connection } = arguments;
    let is_piped = file.as_deref() == Some(Path::new("-"));
    let goes_on = if is_piped { "nothing was kept" } else { "the same command goes on" };
    let limit = connection::limit(bwlimit)?;
    connection.run(goes_on, async |client| {
        let client = client.limited(limit);
        let to = file.map(|file| if is_piped { Destination::Output } else { Destination::File(file) });
        let meter = Arc::new(Meter::default());
        let board = Board::new(connection.json, is_piped, None);
        let name = drive.clone();
        let order = Download { drive, to, connections: connections.into(), replaces: force, updates: update };
        let done = board.watch(&name, &meter, client.download(order, Arc::clone(&meter))).await?;
        let file = done.file.as_deref().map(|file| file.display().to_string());
        board.done(&done, &file.unwrap_or_default());
        Ok(())
    })
}
