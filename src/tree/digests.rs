//! The digests of a tree: of each file's bytes and of each link's target, found by path.
//!
//! They cover which paths are files and which are symbolic links, their sizes and their contents. They do not cover
//! directories, pipes and devices, modes, owners, times and attributes.
//!
//! # On disk
//! Pages of 4 KiB, an index and an end; numbers are little-endian, digests are XXH3-128.
//!
//! ```text
//! page n    up to 102 entries in the order of their keys, 40 bytes each, then zeros
//!           16 bytes: the digest of the 4,080 before, with the seed n + the seed of the keys
//! index     for each page 8 bytes: the upper half of its first key
//! end       magic "lshore-tree-sums", version u32, zeros u32, entries u64, the seed of the keys u64,
//!           the digest of the index, the digest of the 56 bytes before
//! entry     key: the digest of the path, with the seed of the keys; size u64; digest of the content
//! ```
//! The seed is random: with a known one, a user could choose two paths with the same key and feign damage.
//!
//! # Invariants
//! - A page that differs from what was written is reported, and nothing of it is used.
//! - Memory: the index, 0.8 MiB for 10 million files, and a page.

mod content;
mod log;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use twox_hash::XxHash3_128;

pub(super) use self::content::{Digest, FileDigester};
pub use self::log::DigestLog;

const PAGE: usize = 4096;

/// Bytes of a page, and of the end, that their digest covers.
const BODY: usize = PAGE - 16;
const END_BODY: usize = 56;
const END: usize = END_BODY + 16;

const ENTRY: usize = 40;
const PER_PAGE: usize = BODY / ENTRY;

const MAGIC: &[u8; 16] = b"lshore-tree-sums";
const VERSION: u32 = 1;

/// Pages that are written together.
const BATCH: usize = 16;

/// Why stored digests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DigestsError {
    /// They differ from what was written.
    #[error("its digests are damaged")]
    Damaged,
    /// They are of a later version.
    #[error("its digests are of version {0}, which is not known")]
    Unknown(u32),
    /// The disk failed.
    #[error("its digests cannot be read")]
    Io(#[from] io::Error),
}

/// The key and the digest of a path. Stored in the order of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: u128,
    digest: Digest,
}

/// The stored digests of one tree.
#[derive(Debug)]
pub struct Digests {
    file: Arc<File>,
    /// The offset of the first page.
    base: u64,
    seed: u64,
    entries: u64,
    /// The upper half of each page's first key.
    index: Vec<u64>,
}

impl Digests {
    /// Opens digests that [`DigestLog::finish`] has written.
    pub fn open(file: File) -> Result<Self, DigestsError> {
        let len = file.metadata()?.len();
        let mut end = [0; END];
        file.read_exact_at(&mut end, len.checked_sub(END as u64).ok_or(DigestsError::Damaged)?)?;
        let (body, digest) = end.split_at(END_BODY);
        if body[..16] != *MAGIC || sum(0, body) != u128_of(digest) {
            return Err(DigestsError::Damaged);
        }
        let version = u64_of(&body[16..]) as u32;
        if version != VERSION {
            return Err(DigestsError::Unknown(version));
        }
        let (entries, seed, digest) = (u64_of(&body[24..]), u64_of(&body[32..]), u128_of(&body[40..]));
        let pages = entries.div_ceil(PER_PAGE as u64);
        // The end is as it was written, so these numbers are those of the whole file.
        if pages.checked_mul(PAGE as u64 + 8).and_then(|bytes| bytes.checked_add(END as u64)) != Some(len) {
            return Err(DigestsError::Damaged);
        }
        let mut bytes = vec![0; usize::try_from(pages * 8).map_err(|_| DigestsError::Damaged)?];
        file.read_exact_at(&mut bytes, pages * PAGE as u64)?;
        if sum(seed, &bytes) != digest {
            return Err(DigestsError::Damaged);
        }
        let index = bytes.chunks_exact(8).map(u64_of).collect();
        Ok(Self { file: Arc::new(file), base: 0, seed, entries, index })
    }

    /// The number of paths with a digest.
    pub fn count(&self) -> u64 {
        self.entries
    }

    /// Finds the digest of a path.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Digest>, DigestsError> {
        self.find_key(sum(self.seed, path))
    }

    fn find_key(&self, key: u128) -> Result<Option<Digest>, DigestsError> {
        let upper = (key >> 64) as u64;
        let mut behind = self.index.partition_point(|first| *first <= upper);
        let mut page = [0; PAGE];
        while let Some(at) = behind.checked_sub(1) {
            let entries = self.page(at, &mut page)?;
            if let Some(entry) = entries.clone().find(|entry| entry.key == key) {
                return Ok(Some(entry.digest));
            }
            if self.index[at] < upper {
                break;
            }
            behind = at;
        }
        Ok(None)
    }

    /// Reads and checks a page.
    fn page<'p>(
        &self,
        number: usize,
        page: &'p mut [u8; PAGE],
    ) -> Result<impl Iterator<Item = Entry> + Clone + 'p, DigestsError> {
        self.file.read_exact_at(page, self.base + (number * PAGE) as u64)?;
        let (body, digest) = page.split_at(BODY);
        if sum(page_seed(self.seed, number), body) != u128_of(digest) {
            return Err(DigestsError::Damaged);
        }
        let here = (self.entries - (number * PER_PAGE) as u64).min(PER_PAGE as u64);
        Ok(body.chunks_exact(ENTRY).take(here as usize).map(|entry| Entry {
            key: u128_of(entry),
            digest: Digest { size: u64_of(&entry[16..]), sum: u128_of(&entry[24..]) },
        }))
    }
}

/// Writes entries, which come in the order of their keys.
struct Writer {
    digests: Digests,
    /// Pages that are not written yet; the last one may be partly filled.
    pages: Vec<u8>,
    written: u64,
}

impl Writer {
    fn new(file: Arc<File>, base: u64, seed: u64) -> Self {
        let digests = Digests { file, base, seed, entries: 0, index: Vec::new() };
        Self { digests, pages: Vec::with_capacity(BATCH * PAGE), written: 0 }
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.pages.len().is_multiple_of(PAGE) {
            self.digests.index.push((entry.key >> 64) as u64);
        }
        self.pages.extend_from_slice(&entry.key.to_le_bytes());
        self.pages.extend_from_slice(&entry.digest.size.to_le_bytes());
        self.pages.extend_from_slice(&entry.digest.sum.to_le_bytes());
        self.digests.entries += 1;
        if self.pages.len() % PAGE == PER_PAGE * ENTRY {
            self.close_page();
            if self.pages.len() >= BATCH * PAGE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn close_page(&mut self) {
        let start = self.pages.len() / PAGE * PAGE;
        self.pages.resize(start + BODY, 0);
        let seed = page_seed(self.digests.seed, self.digests.index.len() - 1);
        let digest = sum(seed, &self.pages[start..]);
        self.pages.extend_from_slice(&digest.to_le_bytes());
    }

    fn flush(&mut self) -> io::Result<()> {
        self.digests.file.write_all_at(&self.pages, self.digests.base + self.written)?;
        self.written += self.pages.len() as u64;
        self.pages.clear();
        Ok(())
    }

    /// Writes the pending pages; returns the digests, and the offset of their end.
    fn end_pages(mut self) -> io::Result<(Digests, u64)> {
        if !self.pages.len().is_multiple_of(PAGE) {
            self.close_page();
        }
        self.flush()?;
        let end = self.digests.base + self.written;
        Ok((self.digests, end))
    }

    /// Writes the pending pages, the index and the end.
    fn finish(self) -> io::Result<()> {
        let (Digests { file, seed, entries, index, .. }, at) = self.end_pages()?;
        let mut rest: Vec<u8> = index.iter().flat_map(|first| first.to_le_bytes()).collect();
        let digest = sum(seed, &rest);
        let end = rest.len();
        rest.extend_from_slice(MAGIC);
        rest.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        rest.extend_from_slice(&entries.to_le_bytes());
        rest.extend_from_slice(&seed.to_le_bytes());
        rest.extend_from_slice(&digest.to_le_bytes());
        let digest = sum(0, &rest[end..]);
        rest.extend_from_slice(&digest.to_le_bytes());
        file.write_all_at(&rest, at)
    }
}

fn sum(seed: u64, bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot_with_seed(seed, bytes)
}

/// The seed of a page's digest. It differs for each page and tree, so that a page in the place of another is found to
/// be damaged.
fn page_seed(seed: u64, number: usize) -> u64 {
    seed.wrapping_add(number as u64)
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u128_of(bytes: &[u8]) -> u128 {
    bytes.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}
