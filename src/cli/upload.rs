//! `longshore upload`: uploads images to a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::connection::Connection;
use super::progress::{Board, plain};
use crate::client::{Algorithm, Meter, Source, Upload};
use crate::config::Size;

#[derive(Args)]
pub(super) struct UploadArguments {
    /// Raw images, or devices; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The name of the drive [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// A name for the transfer, by which it is found in the list of transfers
    #[arg(long)]
    reference: Option<String>,
    /// The bytes that standard input has, as in 10GiB, if they are known
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Connections at once
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// The digest of the whole that the server compares before there is a drive
    #[arg(long, value_enum, default_value_t = Digest::Sha256)]
    digest: Digest,
    /// A drive that has many of the same bytes: of each 4 MiB that it has, nothing is sent
    #[arg(long, value_name = "UUID")]
    base: Option<String>,
    /// Begin anew, and drop what an earlier upload of this file has sent
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, ValueEnum)]
enum Digest {
    /// One core computes 1 to 2 GB/s of it
    #[value(name = "sha-256")]
    Sha256,
    /// Four times as fast
    Blake3,
    /// Compare nothing
    None,
}

pub(super) fn run(arguments: UploadArguments) -> anyhow::Result<ExitCode> {
    let UploadArguments { files, name, reference, size, connections, digest, base, restart, connection } = arguments;
    let is_input = |file: &PathBuf| file == Path::new("-");
    anyhow::ensure!(files.len() == 1 || name.is_none(), "--name is for one file");
    anyhow::ensure!(size.is_none() || files.iter().all(is_input), "--size is for standard input: a file has its own");
    anyhow::ensure!(files.len() == 1 || !files.iter().any(is_input), "- is uploaded alone");
    anyhow::ensure!(base.is_none() || !files.iter().any(is_input), "--base is for files: - is sent as it comes");
    let goes_on = if is_input(&files[0]) { "what came is dropped after a while" } else { "the same command goes on" };
    connection.run(goes_on, async |client| {
        let sizes = files.iter().map(|file| file.metadata().map_or(0, |metadata| metadata.len()));
        let mut board = Board::new(connection.json, false, (files.len() > 1).then(|| sizes.sum()));
        for file in &files {
            let own = || file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
            let source =
                if is_input(file) { Source::Input(size.map(|size| size.0.get())) } else { Source::File(file.clone()) };
            let order = Upload {
                name: name.clone().unwrap_or_else(|| if is_input(file) { "standard input".to_owned() } else { own() }),
                source,
                reference: reference.clone(),
                connections,
                digest: match digest {
                    Digest::Sha256 => Some(Algorithm::Sha256),
                    Digest::Blake3 => Some(Algorithm::Blake3),
                    Digest::None => None,
                },
                restarts: restart,
                base: base.clone(),
            };
            let meter = Arc::new(Meter::default());
            let label = order.name.clone();
            let done = board.watch(&label, &meter, client.upload(order, Arc::clone(&meter))).await;
            let done = done.with_context(|| format!("{} is not uploaded", plain(&file.to_string_lossy())))?;
            board.done(&done, &done.drive);
        }
        Ok(())
    })
}
