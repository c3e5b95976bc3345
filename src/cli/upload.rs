//! `longshore upload`: uploads images to a server.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use super::connection::{self, Connection};
use super::progress::{Board, plain, print, say};
use super::usage;
use crate::client::{
    Algorithm, Asserted, Batch, Client, ClientError, Compression, Meter, ReceiptPlace, Source, Upload, read_manifest,
};
use crate::config::Size;

#[derive(Args)]
pub(super) struct UploadArguments {
    /// Raw images, or devices; - is standard input
    #[arg(required_unless_present = "manifest", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Upload the files of this list: in each line a name, a path, and perhaps a digest as in sha-256:HEX, tabs between
    #[arg(long, value_name = "LIST", conflicts_with_all = ["files", "name", "size"])]
    manifest: Option<PathBuf>,
    /// Files at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// The name of the drive [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// A name for the transfer, by which it is found in the list of transfers
    #[arg(long)]
    reference: Option<String>,
    /// The bytes that standard input has, as in 10GiB, if they are known
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Connections at once, of each file
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// The digest of the whole that the server compares before there is a drive; one in a list goes before it
    #[arg(long, value_enum, default_value_t = Digest::Auto)]
    digest: Digest,
    /// A drive that has many of the same bytes: of each 4 MiB that it has, nothing is sent
    #[arg(long, value_name = "UUID")]
    base: Option<String>,
    /// Whether the line carries zstd
    #[arg(long, value_enum, default_value_t = Compress::Auto)]
    compress: Compress,
    /// Send no more than this in a second, as in 10MiB, of all files together
    #[arg(long, value_name = "SIZE")]
    bwlimit: Option<Size>,
    /// Save the signed receipt of what is stored in this file, or in a folder as DRIVE.receipt
    #[arg(long, value_name = "FILE|DIR")]
    receipt: Option<PathBuf>,
    /// Begin anew, and drop what an earlier upload of this file has sent
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, ValueEnum)]
enum Digest {
    /// SHA-256, or that of the pieces of a file with more holes than data or with --base
    Auto,
    /// One core computes 1 to 2 GB/s of it
    #[value(name = "sha-256")]
    Sha256,
    /// Four times as fast
    Blake3,
    /// BLAKE3 of each 4 MiB piece, in a list of which the BLAKE3 is compared: holes cost nothing
    #[value(name = "blake3-pieces")]
    PieceList,
    /// Compare nothing
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum Compress {
    /// When that is faster, which is measured
    Auto,
    /// If the server takes it
    Always,
    /// Never
    Never,
}

pub(super) fn run(arguments: UploadArguments) -> anyhow::Result<ExitCode> {
    let is_input = |file: &PathBuf| file == Path::new("-");
    let files = &arguments.files;
    let is_one = files.len() == 1;
    if !is_one && arguments.name.is_some() {
        return Err(usage("--name is for one file"));
    }
    if !is_one && files.iter().any(is_input) {
        return Err(usage("- is uploaded alone"));
    }
    let orders = orders(&arguments)?;
    let is_several = !is_one || arguments.manifest.is_some();
    let receipt = arguments.receipt.as_deref().map(|path| ReceiptPlace::prepare(path, is_several)).transpose()?;
    let limit = connection::limit(arguments.bwlimit)?;
    let UploadArguments { files, manifest, parallel, restart, connection, .. } = arguments;
    let goes_on =
        if files.iter().any(is_input) { "what came is dropped after a while" } else { "the same command goes on" };
    connection.run(goes_on, async |client| {
        let client = client.limited(limit);
        if !is_several {
            return one(&client, orders, receipt.as_ref(), &connection).await;
        }
        let kind = if manifest.is_some() { "manifest" } else { "files" };
        let places = manifest.iter().chain(&files).map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
        let mut words = vec![kind.as_bytes()];
        words.extend(places.iter().map(|place| place.as_os_str().as_encoded_bytes()));
        let about = manifest.as_deref().or(files.first().map(PathBuf::as_path)).unwrap_or(Path::new("-"));
        let batch = Batch::open(client, &words, about, restart).await?;
        several(batch, orders, receipt.as_ref(), parallel.into(), connection.json).await
    })
}

/// Returns what to upload.
fn orders(arguments: &UploadArguments) -> Result<Vec<Upload>, ClientError> {
    let digest = match arguments.digest {
        Digest::Auto => Asserted::Auto,
        Digest::Sha256 => Asserted::By(Algorithm::Sha256),
        Digest::Blake3 => Asserted::By(Algorithm::Blake3),
        Digest::PieceList => Asserted::By(Algorithm::PieceList),
        Digest::None => Asserted::Nothing,
    };
    let compression = match arguments.compress {
        Compress::Auto => Compression::Auto,
        Compress::Always => Compression::Always,
        Compress::Never => Compression::Never,
    };
    let order = |name: String, source: Source, expected: Option<(Algorithm, String)>| {
        let (given, expected) = expected.unzip();
        Upload {
            source,
            name,
            reference: arguments.reference.clone(),
            connections: arguments.connections.into(),
            digest: given.map_or(digest, Asserted::By),
            expected,
            compression,
            restarts: arguments.restart,
            base: arguments.base.clone(),
        }
    };
    if let Some(manifest) = &arguments.manifest {
        let entries = read_manifest(manifest)?;
        return Ok(entries
            .into_iter()
            .map(|entry| order(entry.name, Source::File(entry.path), entry.digest))
            .collect());
    }
    let named = |file: &PathBuf| {
        let is_input = file == Path::new("-");
        let own = || file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let name = arguments.name.clone();
        let name = name.unwrap_or_else(|| if is_input { "standard input".to_owned() } else { own() });
        let size = arguments.size.map(|size| size.0.get());
        let source = if is_input { Source::Input(size) } else { Source::File(file.clone()) };
        order(name, source, None)
    };
    Ok(arguments.files.iter().map(named).collect())
}

async fn one(
    client: &Client,
    orders: Vec<Upload>,
    receipt: Option<&ReceiptPlace>,
    connection: &Connection,
) -> anyhow::Result<()> {
    let board = Board::new(connection.json, false, None);
    for order in orders {
        let (label, file) = (order.name.clone(), shown(&order.source));
        let meter = Arc::new(Meter::default());
        let done = board.watch(&label, &meter, client.upload(order, Arc::clone(&meter))).await;
        let mut done = done.with_context(|| format!("{file} is not uploaded"))?;
        let saved = match receipt {
            Some(place) => client.save_receipt(&done.drive, place, &meter).await.map(Some),
            None => Ok(None),
        };
        // There is a drive all the same.
        done.receipt = saved.as_ref().ok().cloned().flatten();
        board.done(&done, &done.drive);
        saved.with_context(|| format!("{file} is uploaded, and its receipt is not saved"))?;
    }
    Ok(())
}

/// What came of a file.
enum End {
    Done(String),
    /// It was uploaded by an earlier command.
    DoneBefore(String),
    Failed(String),
    NotBegun,
}

/// Uploads several files. A failure of one keeps none of the others, unless they would fail for the same reason.
async fn several(
    batch: Batch,
    orders: Vec<Upload>,
    receipt: Option<&ReceiptPlace>,
    parallel: usize,
    json: bool,
) -> anyhow::Result<()> {
    let sizes = orders.iter().map(|order| match &order.source {
        Source::File(path) => path.metadata().map_or(0, |metadata| metadata.len()),
        Source::Input(_) => 0,
    });
    let board = Board::new(json, false, Some(sizes.sum()));
    let fatal = Mutex::new(None);
    let ends: Mutex<Vec<Option<(String, End)>>> = Mutex::new(orders.iter().map(|_| None).collect());
    let told = Mutex::new((0..orders.len()).collect::<VecDeque<usize>>());
    let upload = async |at: usize, order: Upload| {
        let (name, file) = (order.name.clone(), shown(&order.source));
        let end = if locked(&fatal).is_some() {
            End::NotBegun
        } else {
            let meter = Arc::new(Meter::default());
            match board.watch(&name, &meter, batch.upload(order, receipt, Arc::clone(&meter))).await {
                Ok((done, is_old)) => {
                    if board.is_json() {
                        board.done(&done, "");
                    }
                    if is_old { End::DoneBefore(done.drive) } else { End::Done(done.drive) }
                }
                Err(error) => {
                    let code = error.exit_code();
                    let why = format!("{:#}", anyhow::Error::from(error));
                    board.failed(&name, &file, &why, code);
                    if [3, 7].contains(&code) {
                        locked(&fatal).get_or_insert(code);
                    }
                    End::Failed(why)
                }
            }
        };
        locked(&ends)[at] = Some((name, end));
        if !board.is_json() {
            print_in_order(&ends, &told);
        }
    };
    let (upload, count) = (&upload, orders.len());
    let uploads = stream::iter(orders.into_iter().enumerate()).map(|(at, order)| upload(at, order));
    uploads.buffer_unordered(parallel).collect::<Vec<()>>().await;
    let ends: Vec<(String, End)> =
        ends.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect();
    let failed = ends.iter().filter(|(_, end)| matches!(end, End::Failed(_) | End::NotBegun)).count();
    if board.is_json() {
        let not_begun = ends.iter().filter(|(_, end)| matches!(end, End::NotBegun)).count();
        let summary = json!({
            "event": "summary", "files": count, "done": count - failed, "failed": failed - not_begun,
            "not_begun": not_begun,
        });
        print(&summary.to_string());
    } else {
        table(&ends);
    }
    if failed == 0 {
        batch.end();
        return Ok(());
    }
    let code = fatal.into_inner().unwrap_or_else(PoisonError::into_inner);
    Err(ClientError::Some { failed, of: count, code: code.unwrap_or(9) }.into())
}

/// Prints the drives of files that are done, in the order in which these were named.
fn print_in_order(ends: &Mutex<Vec<Option<(String, End)>>>, told: &Mutex<VecDeque<usize>>) {
    let (ends, mut told) = (locked(ends), locked(told));
    while let Some((_, end)) = told.front().and_then(|at| ends[*at].as_ref()) {
        if let End::Done(drive) | End::DoneBefore(drive) = end {
            print(drive);
        }
        told.pop_front();
    }
}

fn table(ends: &[(String, End)]) {
    let width = ends.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default().min(40);
    for (name, end) in ends {
        let (state, drive, why) = match end {
            End::Done(drive) => ("done", drive.as_str(), ""),
            End::DoneBefore(drive) => ("before", drive.as_str(), ""),
            End::Failed(why) => ("FAILED", "-", why.as_str()),
            End::NotBegun => ("-", "-", "not begun"),
        };
        say(format!("{state:6}  {drive:36}  {:width$}  {}", plain(name), plain(why)).trim_end());
    }
}

fn shown(source: &Source) -> String {
    match source {
        Source::File(path) => plain(&path.to_string_lossy()),
        Source::Input(_) => "-".to_owned(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
