//! `longshore verify`: checks a local file, or a drive on a server, against a receipt, and the receipt against the keys
//! of who issued it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::connection::Connection;
use super::progress::plain;
use super::runtime;
use crate::auth::verified;
use crate::client::{ClientError, Meter, ReadBack};
use crate::domain::{Algorithms, PublicKey, Receipt, ReceiptDigests, SignedReceipt};
use crate::remote::small_file;
use crate::transfer::DigestState;

/// The exit code when the file is not what the receipt says.
const DIFFERS: u8 = 3;
/// The exit code when the receipt is not what one of the keys has signed.
const FORGED: u8 = 4;
/// The most bytes of a receipt or a set of keys.
const LARGEST: u64 = 1 << 20;

#[derive(Args)]
#[command(
    override_usage = "longshore verify [OPTIONS] FILE RECEIPT\n       longshore verify [OPTIONS] --drive DRIVE RECEIPT"
)]
pub(super) struct VerifyArguments {
    /// The file, unless it is --drive, and the receipt, as the server has told it; - reads it from the standard input
    #[arg(required = true, num_args = 1..=2, value_names = ["FILE", "RECEIPT"])]
    paths: Vec<PathBuf>,
    /// Check this drive (its UUID, or a name that no other has) in place of a file: the server reads it back from its disk
    #[arg(long, value_name = "DRIVE")]
    drive: Option<String>,
    /// Wait no longer than so many seconds for the server to read the drive back [default: as long as it takes]
    #[arg(long, value_name = "SECONDS", requires = "drive")]
    wait: Option<u64>,
    /// Check the signature by this set of keys: a file, or a URL such as <https://HOST/.well-known/jwks.json>
    #[arg(long, value_name = "FILE|URL", conflicts_with = "key")]
    jwks: Option<String>,
    /// Check the signature by this key: the member "x" of one of that set
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let (file, receipt) = match (&arguments.paths[..], &arguments.drive) {
        ([file, receipt], None) => (Some(file), receipt),
        ([receipt], Some(_)) => (None, receipt),
        (_, None) => bail!("a file and its receipt are needed, or --drive and the receipt"),
        (_, Some(_)) => bail!("either a file or --drive is checked against the receipt"),
    };
    ensure!(!arguments.connection.json, "--json is not for this command");
    ensure!(file.is_none() || !arguments.connection.has_login(), "--user-file is for --drive: a file needs no server");
    let mut out = std::io::stdout();
    let text = read_receipt(receipt)?;
    let signed: SignedReceipt = serde_json::from_slice(&text).context("the receipt is not one of this program")?;
    match keys(arguments)? {
        None => writeln!(out, "signature: not checked; --jwks or --key says by what")?,
        Some(keys) => match verified(&signed.jws, &keys) {
            Ok(receipt) if receipt == signed.receipt => writeln!(out, "signature: good, by {}", receipt.issuer)?,
            Ok(_) => {
                writeln!(out, "signature: of another receipt than the one beside it")?;
                return Ok(FORGED.into());
            }
            Err(why) => {
                writeln!(out, "signature: not good: {why}")?;
                return Ok(FORGED.into());
            }
        },
    }
    let is_same = match (file, &arguments.drive) {
        (Some(file), _) => {
            let algorithms = algorithms(&signed.receipt);
            let found = digest(file, algorithms).with_context(|| format!("cannot read {}", file.display()))?;
            compare("file", found, &signed.receipt, &mut out)?
        }
        (None, drive) => {
            let drive = drive.clone().unwrap_or_default();
            // The codes of a client would be taken for what the check has shown.
            let found = read_back(arguments, drive).map_err(|error| anyhow!("{error:#}"))?;
            match found {
                Found::Ended(code) => return Ok(code),
                Found::Whole(found) => compare("drive", (found.size.get(), found.digest), &signed.receipt, &mut out)?,
                Found::Spoiled(told) => {
                    writeln!(out, "drive: DIFFERS from what was stored: {}", plain(&told))?;
                    false
                }
            }
        }
    };
    Ok(if is_same { ExitCode::SUCCESS } else { DIFFERS.into() })
}

/// What came of reading a drive back.
enum Found {
    /// It is as it was stored.
    Whole(Box<Receipt>),
    /// It is not, for this reason.
    Spoiled(String),
    /// A signal came first.
    Ended(ExitCode),
}

/// Has the server read the drive back.
fn read_back(arguments: &VerifyArguments, drive: String) -> anyhow::Result<Found> {
    let order = ReadBack { drive, wait: arguments.wait.map(Duration::from_secs) };
    let mut found = None;
    let code = arguments.connection.run("the server goes on reading", async |client| {
        found = Some(match client.read_back(&order, &Meter::default()).await {
            Err(ClientError::Digest(told)) => Found::Spoiled(told),
            read => Found::Whole(Box::new(read?)),
        });
        Ok(())
    })?;
    Ok(found.unwrap_or(Found::Ended(code)))
}

/// The algorithms whose digests the receipt tells.
fn algorithms(receipt: &Receipt) -> Algorithms {
    let told = &receipt.digest;
    Algorithms { sha256: told.sha256.is_some(), blake3: told.blake3.is_some(), pieces: told.pieces.is_some() }
}

/// Tells how what was found and the receipt compare; returns whether nothing differs.
fn compare(
    what: &str,
    (size, found): (u64, ReceiptDigests),
    receipt: &Receipt,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let (told, algorithms) = (&receipt.digest, algorithms(receipt));
    let mut is_same = true;
    let mut line = |name: &str, found: String, told: &str| {
        let same = found == told;
        is_same &= same;
        if same {
            writeln!(out, "{name}: the same, {told}")
        } else {
            writeln!(out, "{name}: DIFFERS: the {what} has {found}, the receipt says {told}")
        }
    };
    line("size", size.to_string(), &receipt.size.to_string())?;
    for (name, found, told) in [
        ("sha-256", found.sha256, &told.sha256),
        ("blake3", found.blake3, &told.blake3),
        ("blake3-pieces", found.pieces, &told.pieces),
    ] {
        if let Some(told) = told {
            line(name, found.unwrap_or_else(|| "none".to_owned()), &told.to_ascii_lowercase())?;
        }
    }
    if is_same && algorithms.is_empty() {
        bail!("the receipt has no digest, so the bytes cannot be checked: have the server seal the drive first");
    }
    Ok(is_same)
}

/// Returns the size and the digests of a file.
fn digest(path: &Path, algorithms: Algorithms) -> std::io::Result<(u64, ReceiptDigests)> {
    let (mut file, mut size, mut digests) = (File::open(path)?, 0, DigestState::new(algorithms));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, digests.finish().into())),
            Ok(read) => {
                size += read as u64;
                digests.update(&buffer[..read]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_receipt(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        return read_small(std::io::stdin().lock()).context("cannot read the receipt");
    }
    let read = File::open(path).map_err(Into::into).and_then(read_small);
    read.with_context(|| format!("cannot read {}", path.display()))
}

fn read_small(source: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= LARGEST, "it has more than {LARGEST} bytes");
    Ok(text)
}

/// Returns the keys to check by; `None` if none were named.
fn keys(arguments: &VerifyArguments) -> anyhow::Result<Option<Vec<PublicKey>>> {
    if let Some(x) = &arguments.key {
        let (kty, crv) = ("OKP".to_owned(), "Ed25519".to_owned());
        return Ok(Some(vec![PublicKey { kty, crv, kid: String::new(), x: x.clone() }]));
    }
    let Some(place) = &arguments.jwks else { return Ok(None) };
    let is_url = ["http://", "https://"].iter().any(|scheme| place.starts_with(scheme));
    let text = if is_url { fetch(place) } else { File::open(place).map_err(Into::into).and_then(read_small) };
    let text = text.with_context(|| format!("cannot get the keys of {place}"))?;
    let set: Value = serde_json::from_slice(&text).with_context(|| format!("{place} is no set of keys"))?;
    let keys = set["keys"].as_array().with_context(|| format!("{place} is no set of keys"))?;
    // A set may have keys of other kinds, and those have other members.
    let keys = keys.iter().filter_map(|key| serde_json::from_value::<PublicKey>(key.clone()).ok());
    // One without a name would be for any signature.
    Ok(Some(keys.filter(|key| !key.kid.is_empty()).collect()))
}

fn fetch(url: &str) -> anyhow::Result<Vec<u8>> {
    /// The longest time for the keys.
    const TIME: Duration = Duration::from_secs(30);
    Ok(runtime()?.block_on(small_file(url, TIME))?.into())
}
