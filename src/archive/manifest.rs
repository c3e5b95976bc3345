//! The manifest of a backup: its metadata and the digest of each of its objects. A backup exists when its manifest
//! does.
//!
//! ```text
//! {"sha256":"<64 hex digits>","manifest":{...}}
//! ```
//! One JSON document and a line end; the digest is that of the bytes of the inner object as written. A run of zero
//! chunks is one entry and has no object. The document calls a chunk a piece:
//! `{"number":1,"stored":20480,"sha256":"..."},{"number":2,"zeros":40},{"number":42,...}`.
//!
//! # Invariants
//! - A manifest that was read is as it was written, by its digest, and covers the drive exactly, each chunk once.
//! - It takes up to 150 bytes for each 50 MiB of a drive, in the storage and in memory, and is never larger than 192
//!   MiB.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chunk::{STAMP, digest, most_stored};
use super::error::ArchiveError;
use super::place::{BackupHead, Container};
use super::{CHUNK_SIZE, Written};
use crate::domain::{ByteCount, Extent, Sha256, UnixTime};
use crate::io::ALIGN;

/// The most bytes of a manifest: a little more than that of a drive of 64 TiB without a zero chunk.
pub(super) const LONGEST: u64 = 192 << 20;

/// The version of the format. Any change of the fields below needs a new one.
const VERSION: u32 = 1;

/// The most bytes of a name or a description. Callers bound their own labels; this bounds a manifest from elsewhere.
const LONGEST_TEXT: usize = 4096;

const HEAD: &[u8] = b"{\"sha256\":\"";
const MIDDLE: &[u8] = b"\",\"manifest\":";
const END: &[u8] = b"}\n";

const FORM: ArchiveError = ArchiveError::Damaged("its manifest has not the form of one");
const CHANGED: ArchiveError = ArchiveError::Damaged("its manifest is not as it was written");
const UNKNOWN: ArchiveError = ArchiveError::Damaged("its manifest is of a version that is not known here");
const FIELD: ArchiveError = ArchiveError::Damaged("a field of its manifest makes no sense");
const COVER: ArchiveError = ArchiveError::Damaged("its pieces do not make up the drive");

/// A backup and its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The backup that it describes.
    pub head: BackupHead,
    pub(super) chunk_size: u64,
    pub(super) chunks: Chunks,
}

/// An entry of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// A chunk that has an object.
    Data {
        /// The length of the object.
        stored: u64,
        /// The digest of its frame.
        sha256: Sha256,
    },
    /// A run of this many zero chunks.
    Zeros(u64),
}

/// All chunks in order; a run of zero chunks is one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunk {
    fn count(self) -> u64 {
        match self {
            Self::Data { .. } => 1,
            Self::Zeros(count) => count,
        }
    }
}

impl Chunks {
    /// Adds the next chunk; a zero chunk joins the run before it.
    pub(super) fn push(&mut self, chunk: Chunk) {
        match (self.0.last_mut(), chunk) {
            (Some(Chunk::Zeros(run)), Chunk::Zeros(count)) => *run += count,
            _ => self.0.push(chunk),
        }
    }

    /// Returns each entry with the number of its first chunk.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, Chunk)> {
        self.0.iter().scan(1, |next, chunk| {
            let number = *next;
            *next += chunk.count();
            Some((number, *chunk))
        })
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|chunk| chunk.count()).sum()
    }
}

/// Returns the extent of `count` chunks from `number` on.
pub(super) fn extent(number: u64, count: u64, chunk_size: u64, size: ByteCount) -> Extent {
    let offset = (number - 1) * chunk_size;
    Extent { offset, len: (size.get() - offset).min(count.saturating_mul(chunk_size)) }
}

impl Manifest {
    /// Returns the storage that the objects take.
    pub(crate) fn written(&self) -> Written {
        let mut written = Written::default();
        for chunk in &self.chunks.0 {
            if let Chunk::Data { stored, .. } = chunk {
                written.objects += 1;
                written.stored += stored;
            }
        }
        written
    }

    /// Returns the bytes as they are stored.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        let head = &self.head;
        let wire = Wire {
            version: VERSION,
            volume: head.volume.to_string(),
            backup: head.backup.to_string(),
            number: head.number,
            tenant: head.tenant.to_string(),
            name: head.name.clone(),
            description: head.description.clone(),
            size: head.size.get(),
            zone: head.zone.clone(),
            container: head.container.as_str().to_owned(),
            created: head.created.0,
            chunk_size: self.chunk_size,
            chunks: &self.chunks,
        };
        let body = serde_json::to_vec(&wire).map_err(|error| ArchiveError::Cut(error.into()))?;
        let digest = hex::encode(digest(&body).0);
        Ok([HEAD, digest.as_bytes(), MIDDLE, &body, END].concat())
    }

    /// Parses what [`Manifest::to_bytes`] wrote. Blocks for some time when it is large.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let (hex, rest) = bytes.strip_prefix(HEAD).and_then(|rest| rest.split_at_checked(64)).ok_or(FORM)?;
        let body = rest.strip_prefix(MIDDLE).and_then(|rest| rest.strip_suffix(END)).ok_or(FORM)?;
        if unhex(hex).ok_or(FORM)? != digest(body) {
            return Err(CHANGED);
        }
        let Versioned { version } = serde_json::from_slice(body).map_err(|_| FORM)?;
        if version != VERSION {
            return Err(UNKNOWN);
        }
        let wire: Wire<Chunks> = serde_json::from_slice(body).map_err(|_| FORM)?;
        let manifest = wire.checked().ok_or(FIELD)?;
        // The chunks are valid, so that neither sum can overflow: see the visitor.
        if manifest.chunks.count() != manifest.head.size.get().div_ceil(manifest.chunk_size) {
            return Err(COVER);
        }
        Ok(manifest)
    }
}

/// The inner object, as JSON. Absent texts are `null`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<P> {
    version: u32,
    volume: String,
    backup: String,
    number: u64,
    tenant: String,
    name: Option<String>,
    description: Option<String>,
    size: u64,
    zone: String,
    container: String,
    /// Milliseconds since 1970.
    created: i64,
    #[serde(rename = "piece_size")]
    chunk_size: u64,
    #[serde(rename = "pieces")]
    chunks: P,
}

/// The part of the inner object that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Wire<Chunks> {
    fn checked(self) -> Option<Manifest> {
        let text = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= LONGEST_TEXT);
        if !(text(&self.name) && text(&self.description) && self.zone.len() <= LONGEST_TEXT && self.created >= 0) {
            return None;
        }
        // Chunks are written to aligned offsets.
        if !(1..=CHUNK_SIZE).contains(&self.chunk_size) || !self.chunk_size.is_multiple_of(ALIGN as u64) {
            return None;
        }
        let most = most_stored(self.chunk_size);
        let fits = |chunk: &Chunk| match chunk {
            Chunk::Data { stored, .. } => (STAMP as u64..=most).contains(stored),
            Chunk::Zeros(_) => true,
        };
        if !self.chunks.0.iter().all(fits) {
            return None;
        }
        let head = BackupHead {
            backup: self.backup.parse().ok()?,
            number: self.number,
            tenant: self.tenant.parse().ok()?,
            volume: self.volume.parse().ok()?,
            name: self.name,
            description: self.description,
            size: ByteCount::new(self.size)?,
            zone: self.zone,
            container: self.container.parse::<Container>().ok()?,
            created: UnixTime(self.created),
        };
        Some(Manifest { head, chunk_size: self.chunk_size, chunks: self.chunks })
    }
}

/// An entry, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireChunk {
    number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zeros: Option<u64>,
}

impl Serialize for Chunks {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.numbered().map(|(number, chunk)| match chunk {
            Chunk::Data { stored, sha256 } => {
                WireChunk { number, stored: Some(stored), sha256: Some(hex::encode(sha256.0)), zeros: None }
            }
            Chunk::Zeros(count) => WireChunk { number, stored: None, sha256: None, zeros: Some(count) },
        }))
    }
}

impl<'de> Deserialize<'de> for Chunks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(InOrder)
    }
}

/// Accepts entries only as long as each follows the one before it, so that memory is bounded by the bytes read.
struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Chunks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pieces in order")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Chunks, A::Error> {
        let mut chunks = Chunks::default();
        let mut next = 1;
        while let Some(entry) = from.next_element::<WireChunk>()? {
            if entry.number != next {
                return Err(de::Error::custom("not in order"));
            }
            let is_after_zeros = matches!(chunks.0.last(), Some(Chunk::Zeros(_)));
            let chunk = match entry {
                WireChunk { stored: Some(stored), sha256: Some(sha256), zeros: None, .. } => {
                    let sha256 = unhex(sha256.as_bytes()).ok_or_else(|| de::Error::custom("no digest"))?;
                    Chunk::Data { stored, sha256 }
                }
                // Two runs in a row are refused: a run is written as one entry.
                WireChunk { stored: None, sha256: None, zeros: Some(count @ 1..), .. } if !is_after_zeros => {
                    Chunk::Zeros(count)
                }
                _ => return Err(de::Error::custom("no piece")),
            };
            next = ByteCount::new(next)
                .zip(ByteCount::new(chunk.count()))
                .and_then(|(next, count)| next.checked_add(count))
                .ok_or_else(|| de::Error::custom("too many"))?
                .get();
            chunks.0.push(chunk);
        }
        Ok(chunks)
    }
}

/// Decodes lower case only, so that a digest has one spelling.
fn unhex(text: &[u8]) -> Option<Sha256> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(Sha256(digest)).filter(|digest| hex::encode(digest.0).as_bytes() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::head;
    use crate::domain::{BackupId, TenantId, VolumeId};

    const SIZE: u64 = 1 << 20;

    fn manifest() -> Manifest {
        let mut chunks = Chunks::default();
        chunks.push(Chunk::Data { stored: 500, sha256: digest(b"1") });
        chunks.push(Chunk::Zeros(1));
        chunks.push(Chunk::Zeros(2));
        chunks.push(Chunk::Data { stored: 700, sha256: digest(b"2") });
        let head = BackupHead {
            backup: BackupId::from_bytes([1; 16]),
            tenant: TenantId::from_bytes([2; 16]),
            volume: VolumeId::from_bytes([3; 16]),
            ..head(ByteCount::new(4 * SIZE + 5).unwrap())
        };
        Manifest { head, chunk_size: SIZE, chunks }
    }

    /// Parses the manifest with this text changed and the digest corrected, as an attacker would write it.
    fn forged(from: &str, to: &str) -> Result<Manifest, ArchiveError> {
        let bytes = manifest().to_bytes().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let body = &text[HEAD.len() + 64 + MIDDLE.len()..text.len() - END.len()];
        assert!(body.contains(from), "{from} is not in {body}");
        let body = body.replacen(from, to, 1);
        let hex = hex::encode(digest(body.as_bytes()).0);
        Manifest::parse(&[HEAD, hex.as_bytes(), MIDDLE, body.as_bytes(), END].concat())
    }

    #[test]
    fn a_manifest_is_one_json_document_and_comes_back() {
        let mut written = manifest();
        written.head.name = Some("a \"name\" \\ \u{1f600}\n".to_owned());
        // The last chunk has five bytes.
        written.chunks.push(Chunk::Data { stored: 200, sha256: digest(b"3") });
        let bytes = written.to_bytes().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["manifest"]["pieces"][1], serde_json::json!({"number": 2, "zeros": 3}));
        assert_eq!(json["manifest"]["pieces"][2]["number"], 5);
        assert_eq!(json["manifest"]["version"], 1);
        // Six chunks for a drive of five.
        assert!(Manifest::parse(&bytes).is_err());
        written.head.size = ByteCount::new(5 * SIZE + 5).unwrap();
        assert_eq!(Manifest::parse(&written.to_bytes().unwrap()).unwrap(), written);
    }

    #[test]
    fn every_changed_or_missing_byte_is_seen() {
        let bytes = manifest().to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                assert!(Manifest::parse(&changed).is_err(), "byte {at} changed by {flip:#x}");
            }
            assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
            assert!(Manifest::parse(&bytes[at + 1..]).is_err(), "begun after {at}");
        }
        assert!(Manifest::parse(&[&bytes[..], b" "].concat()).is_err());
    }

    #[test]
    fn a_manifest_that_makes_no_sense_is_refused() {
        assert_eq!(forged("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":3").unwrap(), manifest());
        for (from, to) in [
            // Another version, too many or too few fields.
            ("\"version\":1", "\"version\":2"),
            ("\"version\":1", "\"version\":1,\"more\":1"),
            ("\"version\":1,", ""),
            // Chunks that overlap, leave gaps, or are too many.
            ("\"number\":2,\"zeros\":3", "\"number\":1,\"zeros\":3"),
            ("\"number\":2,\"zeros\":3", "\"number\":3,\"zeros\":3"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":0"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":4"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":1},{\"number\":3,\"zeros\":2"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":18446744073709551615"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":9223372036854775807"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":-1"),
            ("\"number\":2,\"zeros\":3", "\"number\":2,\"zeros\":3,\"stored\":5"),
            ("\"number\":2,\"zeros\":3", "\"number\":2"),
            ("\"number\":5,", "\"number\":6,"),
            // Lengths that no object of such a chunk has.
            ("\"stored\":500", "\"stored\":111"),
            ("\"stored\":500", "\"stored\":9000000"),
            ("\"stored\":500", "\"stored\":18446744073709551615"),
            ("\"stored\":500", "\"stored\":500.0"),
            // Sizes.
            ("\"piece_size\":1048576", "\"piece_size\":0"),
            ("\"piece_size\":1048576", "\"piece_size\":1048577"),
            ("\"piece_size\":1048576", "\"piece_size\":524288"),
            ("\"piece_size\":1048576", "\"piece_size\":18446744073709551615"),
            ("\"size\":4194309", "\"size\":4194304"),
            ("\"size\":4194309", "\"size\":18446744073709551615"),
            ("\"size\":4194309", "\"size\":9223372036854775807"),
            // Names.
            ("\"container\":\"volumebackups\"", "\"container\":\"../x\""),
            ("\"container\":\"volumebackups\"", "\"container\":\"\""),
            ("\"volume\":\"", "\"volume\":\"../"),
            ("\"created\":", "\"created\":-"),
            ("\"pieces\":[", "\"pieces\":{},\"pieces\":["),
        ] {
            let result = forged(from, to);
            assert!(matches!(result, Err(ArchiveError::Damaged(_))), "{from} as {to}: {result:?}");
        }
        let long = format!("\"zone\":\"{}", "z".repeat(LONGEST_TEXT));
        assert!(forged("\"zone\":\"", &long).is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(forged("\"pieces\":[", &format!("\"pieces\":[{}", "[".repeat(1 << 20))).is_err());
    }

    #[test]
    fn chunks_know_where_they_lie() {
        let size = ByteCount::new(4 * SIZE + 5).unwrap();
        assert_eq!(extent(1, 1, SIZE, size), Extent { offset: 0, len: SIZE });
        assert_eq!(extent(2, 3, SIZE, size), Extent { offset: SIZE, len: 3 * SIZE });
        assert_eq!(extent(5, 1, SIZE, size), Extent { offset: 4 * SIZE, len: 5 });
        let numbers: Vec<u64> = manifest().chunks.numbered().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 2, 5]);
        assert_eq!(manifest().written(), Written { objects: 2, stored: 1200 });
    }
}
