//! `longshore verify`: checks a local file, or a drive on a server, against a receipt, and the receipt against the keys
//! of who issued it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::progress::plain;
use super::{runtime, usage};
use crate::auth::verified;
use crate::client::{ClientError, Meter, ReadBack, piece_list_of};
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
        (_, None) => return Err(usage("a file and its receipt are needed, or --drive and the receipt")),
        (_, Some(_)) => return Err(usage("either a file or --drive is checked against the receipt")),
    };
    let mut findings = Findings::new(arguments.connection.json);
    let text = read_receipt(receipt)?;
    let signed: SignedReceipt = serde_json::from_slice(&text).context("the receipt is not one of this program")?;
    if let Some(keys) = keys(arguments)? {
        let told = match verified(&signed.jws, &keys) {
            Ok(receipt) if receipt == signed.receipt => Ok(receipt.issuer),
            Ok(_) => Err("of another receipt than the one beside it".to_owned()),
            Err(why) => Err(format!("not good: {why}")),
        };
        let is_good = findings.signature(&told)?;
        if !is_good {
            return findings.end(FORGED);
        }
    } else {
        findings.unsigned()?;
    }
    match (file, &arguments.drive) {
        (Some(file), _) => {
            let algorithms = signed.receipt.digest.algorithms();
            let found = digest(file, algorithms).with_context(|| format!("cannot read {}", file.display()))?;
            findings.compare("file", found, &signed.receipt)?;
        }
        (None, drive) => {
            let drive = drive.clone().unwrap_or_default();
            // The codes of a client would be taken for what the check has shown.
            let read = read_back(arguments, drive, signed.receipt.digest.algorithms());
            match read.map_err(|error| anyhow!("{error:#}"))? {
                Found::Ended(code) => return Ok(code),
                Found::Whole(found) => findings.compare("drive", (found.size.get(), found.digest), &signed.receipt)?,
                Found::Spoiled(told) => findings.spoiled(&told)?,
            }
        }
    }
    let code = if findings.is_same { 0 } else { DIFFERS };
    findings.end(code)
}

/// What was found, told in lines of text at once or as one object at the end.
struct Findings {
    json: bool,
    told: Map<String, Value>,
    compared: Vec<Value>,
    is_same: bool,
}

impl Findings {
    fn new(json: bool) -> Self {
        Self { json, told: Map::new(), compared: Vec::new(), is_same: true }
    }

    fn line(&self, line: &str) -> std::io::Result<()> {
        if self.json { Ok(()) } else { writeln!(std::io::stdout(), "{line}") }
    }

    fn unsigned(&mut self) -> std::io::Result<()> {
        self.told.insert("signature".to_owned(), "unchecked".into());
        self.line("signature: not checked; --jwks or --key says by what")
    }

    /// Tells who has signed the receipt, or what the signature is; returns whether it is good.
    fn signature(&mut self, signature: &Result<String, String>) -> std::io::Result<bool> {
        let word = if signature.is_ok() { "good" } else { "bad" };
        self.told.insert("signature".to_owned(), word.into());
        match signature {
            Ok(issuer) => {
                self.told.insert("issuer".to_owned(), issuer.as_str().into());
                self.line(&format!("signature: good, by {issuer}"))?;
            }
            Err(why) => {
                self.told.insert("reason".to_owned(), format!("the signature is {why}").into());
                self.line(&format!("signature: {why}"))?;
            }
        }
        Ok(signature.is_ok())
    }

    fn spoiled(&mut self, told: &str) -> std::io::Result<()> {
        self.is_same = false;
        self.told.insert("reason".to_owned(), told.into());
        self.line(&format!("drive: DIFFERS from what was stored: {}", plain(told)))
    }

    /// Tells how what was found and the receipt compare.
    fn compare(&mut self, what: &str, (size, found): (u64, ReceiptDigests), receipt: &Receipt) -> anyhow::Result<()> {
        let told = &receipt.digest;
        let digests = [
            ("sha-256", found.sha256, &told.sha256),
            ("blake3", found.blake3, &told.blake3),
            ("blake3-pieces", found.pieces, &told.pieces),
        ];
        let digests = digests.into_iter().filter_map(|(name, found, told)| {
            Some((name, found.unwrap_or_else(|| "none".to_owned()), told.as_ref()?.to_ascii_lowercase()))
        });
        for (name, found, told) in [("size", size.to_string(), receipt.size.to_string())].into_iter().chain(digests) {
            let is_same = found == told;
            self.is_same &= is_same;
            if is_same {
                self.line(&format!("{name}: the same, {told}"))?;
            } else {
                self.line(&format!("{name}: DIFFERS: the {what} has {found}, the receipt says {told}"))?;
            }
            self.compared.push(json!({"of": name, "found": found, "receipt": told, "same": is_same}));
        }
        if self.is_same && told.algorithms().is_empty() {
            bail!("the receipt has no digest, so the bytes cannot be checked: have the server seal the drive first");
        }
        Ok(())
    }

    /// Ends with this code.
    fn end(mut self, code: u8) -> anyhow::Result<ExitCode> {
        if self.json {
            self.told.insert("event".to_owned(), "verified".into());
            self.told.insert("same".to_owned(), (code == 0).into());
            self.told.insert("compared".to_owned(), self.compared.into());
            writeln!(std::io::stdout(), "{}", Value::Object(self.told))?;
        }
        Ok(code.into())
    }
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
fn read_back(arguments: &VerifyArguments, drive: String, wanted: Algorithms) -> anyhow::Result<Found> {
    let order = ReadBack { drive, wanted, wait: arguments.wait.map(Duration::from_secs) };
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

/// Returns the size and the digests of a file.
fn digest(path: &Path, algorithms: Algorithms) -> std::io::Result<(u64, ReceiptDigests)> {
    let mut file = File::open(path)?;
    if algorithms == Algorithms::PIECES && file.metadata()?.is_file() {
        let size = file.metadata()?.len();
        return Ok((size, ReceiptDigests { pieces: Some(piece_list_of(&file, size)?), ..ReceiptDigests::default() }));
    }
    let (mut size, mut digests) = (0, DigestState::new(algorithms));
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
