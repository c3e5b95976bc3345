//! `longshore push` and `longshore pull`: directories to volumes of a server, and back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::connection::{self, Connection};
use super::progress::{Board, plain, say};
use crate::client::{Destination, Meter, Pull, Push};
use crate::config::Size;

#[derive(Args)]
pub(super) struct PushArguments {
    /// The directory
    dir: PathBuf,
    /// The name of the volume [default: that of the directory]
    #[arg(long)]
    name: Option<String>,
    /// Replace what the volume has, in one step
    #[arg(long)]
    replace: bool,
    /// Make the volume anew with so many GiB, in place of the server's default
    #[arg(long, value_name = "GIB", conflicts_with = "replace")]
    gib: Option<u64>,
    /// Compress on the line, with zstd
    #[arg(long)]
    zstd: bool,
    /// Send no more than this in a second, as in 10MiB
    #[arg(long, value_name = "SIZE")]
    bwlimit: Option<Size>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub(super) struct PullArguments {
    /// The name of the volume
    volume: String,
    /// Where it goes to: a directory that is empty or not there; - prints the archive [default: the volume's name]
    dir: Option<PathBuf>,
    /// Give files to their owners, by number, which takes root
    #[arg(long)]
    same_owner: bool,
    /// Compress on the line, with zstd
    #[arg(long)]
    zstd: bool,
    /// Receive no more than this in a second, as in 10MiB
    #[arg(long, value_name = "SIZE")]
    bwlimit: Option<Size>,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn push(arguments: PushArguments) -> anyhow::Result<ExitCode> {
    let PushArguments { dir, name, replace, gib, zstd, bwlimit, connection } = arguments;
    let own = || Some(dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    let volume = name.or_else(own).with_context(|| format!("{} has no name; --name gives one", dir.display()))?;
    let limit = connection::limit(bwlimit)?;
    connection.run("the volume is as it was", async |client| {
        let client = client.limited(limit);
        let board = Board::new(connection.json, false, None);
        let meter = Arc::new(Meter::default());
        let order = Push { dir: dir.clone(), volume: volume.clone(), replaces: replace, gib, is_coded: zstd };
        let done = board.watch(&volume, &meter, client.push(order, Arc::clone(&meter))).await;
        let done = done.with_context(|| format!("{} is not on the server", plain(&dir.to_string_lossy())))?;
        if done.skipped > 0 && !connection.json {
            say(&format!("{} sockets are left out", done.skipped));
        }
        board.done(&done, &done.volume);
        Ok(())
    })
}

pub(super) fn pull(arguments: PullArguments) -> anyhow::Result<ExitCode> {
    let PullArguments { volume, dir, same_owner, zstd, bwlimit, connection } = arguments;
    let is_piped = dir.as_deref() == Some(Path::new("-"));
    let to = match dir {
        Some(_) if is_piped => Destination::Output,
        Some(dir) => Destination::File(dir),
        None => Destination::File(PathBuf::from(&volume)),
    };
    let limit = connection::limit(bwlimit)?;
    connection.run("nothing was kept", async |client| {
        let client = client.limited(limit);
        let board = Board::new(connection.json, is_piped, None);
        let meter = Arc::new(Meter::default());
        let order = Pull { volume: volume.clone(), to, keeps_owners: same_owner, is_coded: zstd };
        let done = board.watch(&volume, &meter, client.pull(order, Arc::clone(&meter))).await;
        let done = done.with_context(|| format!("the volume {} is not here", plain(&volume)))?;
        let place = done.dir.as_deref().map(|dir| dir.display().to_string());
        board.done(&done, &place.unwrap_or_default());
        Ok(())
    })
}
