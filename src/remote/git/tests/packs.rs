//! Builds packs, valid and damaged ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

pub(super) const COMMIT: u8 = 1;
pub(super) const TREE: u8 = 2;
pub(super) const BLOB: u8 = 3;
pub(super) const TAG: u8 = 4;

/// A pack that is being built.
#[derive(Default)]
pub(super) struct Packer {
    count: u32,
    entries: Vec<u8>,
    last: String,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Returns the offset of the next entry.
    pub(super) fn at(&self) -> usize {
        12 + self.entries.len()
    }

    /// Returns the name of the object that was added last.
    pub(super) fn last(&self) -> String {
        self.last.clone()
    }

    /// Adds an object and returns its name.
    pub(super) fn object(&mut self, kind: u8, content: &[u8]) -> String {
        self.declared(kind, content.len() as u64, content);
        self.last = id(kind, content);
        self.last()
    }

    /// Adds a directory and returns its name.
    pub(super) fn tree(&mut self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut content = Vec::new();
        for (mode, name, id) in entries {
            content.extend_from_slice(mode.as_bytes());
            content.push(b' ');
            content.extend_from_slice(name);
            content.push(0);
            content.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()));
        }
        self.object(TREE, &content)
    }

    /// Adds a commit of a directory.
    pub(super) fn commit(&mut self, tree: &str) {
        let who = "A <a@b> 1700000000 +0100";
        self.object(COMMIT, format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nx\n").as_bytes());
    }

    /// Adds content with a declared size.
    pub(super) fn declared(&mut self, kind: u8, size: u64, content: &[u8]) {
        self.raw(kind, size, &compressed(content));
    }

    /// Adds an entry with these bytes as its compressed content.
    pub(super) fn raw(&mut self, kind: u8, size: u64, data: &[u8]) {
        self.head(kind, size);
        self.entries.extend_from_slice(data);
    }

    /// Adds a delta on the entry at this offset.
    pub(super) fn offset_delta(&mut self, base: usize, base_size: usize, size: usize, ops: &[u8]) {
        let distance = (self.at() - base) as u64;
        let delta = [sizes(base_size, size), ops.to_vec()].concat();
        self.head(6, delta.len() as u64);
        self.distance(distance);
        self.entries.extend_from_slice(&compressed(&delta));
    }

    /// Adds a delta whose base is this far before it.
    pub(super) fn distant_delta(&mut self, distance: u64) {
        self.head(6, 2);
        self.distance(distance);
        self.entries.extend_from_slice(&compressed(&[0, 0]));
    }

    /// Adds a delta on the object of this name.
    pub(super) fn reference_delta(&mut self, base: &str, base_size: usize, size: usize, ops: &[u8]) {
        let delta = [sizes(base_size, size), ops.to_vec()].concat();
        self.head(7, delta.len() as u64);
        self.entries.extend((0..40).step_by(2).map(|at| u8::from_str_radix(&base[at..at + 2], 16).unwrap()));
        self.entries.extend_from_slice(&compressed(&delta));
    }

    /// Returns the whole pack, with the right checksum.
    pub(super) fn finish(&self) -> Vec<u8> {
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&self.count.to_be_bytes());
        pack.extend_from_slice(&self.entries);
        summed(pack)
    }

    fn head(&mut self, kind: u8, size: u64) {
        self.count += 1;
        let mut byte = (kind << 4) | (size & 15) as u8;
        let mut rest = size >> 4;
        while rest > 0 {
            self.entries.push(byte | 0x80);
            byte = (rest & 0x7f) as u8;
            rest >>= 7;
        }
        self.entries.push(byte);
    }

    fn distance(&mut self, distance: u64) {
        let mut bytes = vec![(distance & 0x7f) as u8];
        let mut rest = distance >> 7;
        while rest > 0 {
            rest -= 1;
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.entries.extend(bytes.iter().rev());
    }
}

/// Appends the checksum.
pub(super) fn summed(mut pack: Vec<u8>) -> Vec<u8> {
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&pack);
    pack.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
    pack
}

/// Returns the name of an object.
pub(super) fn id(kind: u8, content: &[u8]) -> String {
    let kind = ["commit", "tree", "blob", "tag"][usize::from(kind) - 1];
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(format!("{kind} {}\0", content.len()).as_bytes());
    hasher.update(content);
    hasher.try_finalize().unwrap().to_hex().to_string()
}

fn sizes(base: usize, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mut number in [base, size] {
        while number >= 0x80 {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }
    bytes
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
