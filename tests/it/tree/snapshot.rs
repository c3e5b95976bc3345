//! Everything visible of a tree, read by the standard library only.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Nodes by path beneath the root; the root is the empty path.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file, if this is a further one.
    pub(crate) same_as: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Device { block: bool, number: u64 },
    Other,
}

pub(crate) fn snapshot(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut seen = HashMap::new();
    visit(root, &[], &mut tree, &mut seen);
    tree
}

fn visit(path: &Path, name: &[u8], tree: &mut Tree, seen: &mut HashMap<(u64, u64), Vec<u8>>) {
    let data = fs::symlink_metadata(path).expect("it is there");
    let kind = match data.file_type() {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_file() => Kind::File(read(path, data.len())),
        kind if kind.is_symlink() => {
            Kind::Symlink(fs::read_link(path).expect("a link").as_os_str().as_bytes().to_vec())
        }
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_block_device() => Kind::Device { block: true, number: data.rdev() },
        kind if kind.is_char_device() => Kind::Device { block: false, number: data.rdev() },
        _ => Kind::Other,
    };
    let same_as = match data.nlink() {
        links if links > 1 && data.is_file() => seen.get(&(data.dev(), data.ino())).cloned(),
        _ => None,
    };
    if data.is_file() && same_as.is_none() {
        seen.insert((data.dev(), data.ino()), name.to_vec());
    }
    let node = Node {
        mode: data.mode() & 0o7777,
        owner: (data.uid(), data.gid()),
        mtime: (data.mtime(), data.mtime_nsec()),
        attributes: attributes(path),
        same_as,
        kind,
    };
    let is_directory = node.kind == Kind::Directory;
    tree.insert(name.to_vec(), node);
    if is_directory {
        let mut below: Vec<_> =
            fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
        below.sort();
        for child in below {
            let mut name = name.to_vec();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(child.as_bytes());
            visit(&path.join(child), &name, tree, seen);
        }
    }
}

fn read(path: &Path, len: u64) -> Vec<u8> {
    match fs::read(path) {
        // Its mode denies access to its owner, but it is empty.
        Err(_) if len == 0 => Vec::new(),
        read => read.expect("a file can be read"),
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).expect("an attribute");
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(read).collect()
}

/// Lists a tree, one line for each node but the root; without owners, which depend on the user.
pub(crate) fn listing(tree: &Tree) -> String {
    let mut text = String::new();
    for (name, node) in tree.iter().filter(|(name, _)| !name.is_empty()) {
        let (seconds, nanoseconds) = node.mtime;
        // A directory that no member describes has the time of the test.
        let told = seconds < 1_750_000_000;
        let kind = match &node.kind {
            Kind::Directory => "directory".to_owned(),
            Kind::File(data) if data.len() <= 40 => format!("file \"{}\"", data.escape_ascii()),
            Kind::File(data) => format!("file of {} bytes, {}", data.len(), runs(data)),
            Kind::Symlink(target) => format!("symlink \"{}\"", target.escape_ascii()),
            Kind::Fifo => "pipe".to_owned(),
            Kind::Device { .. } => "device".to_owned(),
            Kind::Other => "other".to_owned(),
        };
        write!(text, "{:?} {kind}, mode {:o}", name.escape_ascii().to_string(), node.mode).expect("a string");
        if told {
            write!(text, ", time {seconds}.{nanoseconds:09}").expect("a string");
        }
        if let Some(first) = &node.same_as {
            write!(text, ", same as \"{}\"", first.escape_ascii()).expect("a string");
        }
        for (name, value) in &node.attributes {
            write!(text, ", {}=\"{}\"", name.escape_ascii(), value.escape_ascii()).expect("a string");
        }
        text.push('\n');
    }
    text
}

/// Shortens a large content to its runs of equal bytes.
fn runs(data: &[u8]) -> String {
    let runs: Vec<_> =
        data.chunk_by(|a, b| a == b).map(|run| format!("{}x{:?}", run.len(), char::from(run[0]))).collect();
    if runs.len() <= 12 { runs.join(" ") } else { format!("{} and {} more", runs[..12].join(" "), runs.len() - 12) }
}
