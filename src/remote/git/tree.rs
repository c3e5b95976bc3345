//! Writes the tree of a commit as a tar stream: directories in their order, each file in parts.
//!
//! # Invariants
//! - No name that leads elsewhere is written: none is empty, `.`, `..` or `.git`, and none has a slash or a zero in it.
//!   The reader of the stream must confine the targets of symbolic links.
//! - The output is bounded, although a small repository can contain one directory many times over.

use std::io::Write;

use gix_hash::{Kind as HashKind, ObjectId};
use gix_object::{CommitRefIter, Kind, TagRefIter, TreeRefIter};

use super::super::error::{Flaw, RemoteError, Surplus};
use super::Watch;
use super::objects::Objects;
use super::pack::MOST_HELD;
use super::tar::{Member, Shape, Tar};

/// The most files and directories.
const MOST_ENTRIES: u64 = 1_000_000;

/// The deepest nesting of directories.
const DEEPEST: usize = 255;

/// The longest path on Linux, without the zero at its end, and the longest target of a link.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;

/// The most bytes of the directories from the root to the current one.
const MOST_OPEN: usize = 4 * MOST_HELD as usize;

/// The longest chain of tags.
const MOST_TAGS: usize = 8;

/// Writes the tree of a commit, or of the commit that a tag names, with at most `most` bytes of files.
pub(super) fn write(
    objects: &Objects,
    tip: ObjectId,
    out: impl Write,
    most: u64,
    watch: &Watch<'_>,
) -> Result<(), RemoteError> {
    let commit = commit_of(objects, tip)?;
    let root = CommitRefIter::from_bytes(&commit, HashKind::Sha1).tree_id().map_err(|_| Flaw::Pack)?;
    // The fallback for a commit without a valid time is 1970.
    let time =
        CommitRefIter::from_bytes(&commit, HashKind::Sha1).committer().map_or(0, |committer| committer.seconds());
    let mut writer = Writer { objects, watch, tar: Tar::new(out, time), most, left: most, entries: 0 };
    writer.all(root)?;
    writer.tar.finish()
}

fn commit_of(objects: &Objects, mut id: ObjectId) -> Result<Vec<u8>, RemoteError> {
    for _ in 0..MOST_TAGS {
        match objects.find(&id)?.0 {
            Kind::Commit => return objects.read(&id, Kind::Commit),
            Kind::Tag => {
                let tag = objects.read(&id, Kind::Tag)?;
                id = TagRefIter::from_bytes(&tag, HashKind::Sha1).target_id().map_err(|_| Flaw::Pack)?;
            }
            Kind::Tree | Kind::Blob => break,
        }
    }
    Err(Flaw::NotACommit.into())
}

/// A directory that is being written.
struct Level {
    tree: Vec<u8>,
    /// The offset of the next entry.
    at: usize,
    /// The length of its path.
    path: usize,
}

struct Writer<'a, W> {
    objects: &'a Objects,
    watch: &'a Watch<'a>,
    tar: Tar<W>,
    most: u64,
    left: u64,
    entries: u64,
}

impl<W: Write> Writer<'_, W> {
    fn all(&mut self, root: ObjectId) -> Result<(), RemoteError> {
        let mut path = Vec::new();
        let mut levels = vec![Level { tree: self.objects.read(&root, Kind::Tree)?, at: 0, path: 0 }];
        while let Some(level) = levels.last_mut() {
            self.watch.check()?;
            path.truncate(level.path);
            let mut rest = TreeRefIter::from_bytes(&level.tree[level.at..], HashKind::Sha1);
            let Some(entry) = rest.next() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(|_| Flaw::Tree)?;
            level.at = rest.offset_to_next_entry(&level.tree);
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(Surplus::Entries.into());
            }
            append(&mut path, entry.filename)?;
            let (mode, id) = (entry.mode.value(), entry.oid.to_owned());
            if self.one(mode, &id, &path)? {
                let tree = self.objects.read(&id, Kind::Tree)?;
                path.push(b'/');
                levels.push(Level { tree, at: 0, path: path.len() });
                if levels.len() > DEEPEST {
                    return Err(Surplus::Depth.into());
                }
                if levels.iter().map(|level| level.tree.len()).sum::<usize>() > MOST_OPEN {
                    return Err(Surplus::Trees.into());
                }
            }
        }
        Ok(())
    }

    /// Writes one entry. Returns whether it is a directory whose entries follow.
    fn one(&mut self, mode: u16, id: &ObjectId, path: &[u8]) -> Result<bool, RemoteError> {
        match mode & 0o170_000 {
            0o040_000 => {
                self.tar.member(&Member { path, shape: Shape::Directory })?;
                return Ok(true);
            }
            // A submodule becomes an empty directory.
            0o160_000 => self.tar.member(&Member { path, shape: Shape::Directory })?,
            0o100_000 => self.file(mode & 0o100 != 0, id, path)?,
            0o120_000 => self.link(id, path)?,
            _ => return Err(Flaw::Tree.into()),
        }
        Ok(false)
    }

    fn file(&mut self, executable: bool, id: &ObjectId, path: &[u8]) -> Result<(), RemoteError> {
        let size = self.blob(id)?;
        self.left = self.left.checked_sub(size).ok_or(Surplus::Bytes(self.most))?;
        self.tar.member(&Member { path, shape: Shape::File { size, executable } })?;
        let Self { objects, watch, tar, .. } = self;
        objects.copy(id, |part| {
            watch.check()?;
            tar.write(part)
        })?;
        tar.pad(size)
    }

    fn link(&mut self, id: &ObjectId, path: &[u8]) -> Result<(), RemoteError> {
        let size = self.blob(id)?;
        if size == 0 || size > LONGEST_PATH as u64 {
            return Err(Flaw::Link.into());
        }
        let target = self.objects.read(id, Kind::Blob)?;
        if target.contains(&0) {
            return Err(Flaw::Link.into());
        }
        self.tar.member(&Member { path, shape: Shape::Link { target: &target } })
    }

    /// Returns the size of a blob, and refuses other objects.
    fn blob(&self, id: &ObjectId) -> Result<u64, RemoteError> {
        match self.objects.find(id)? {
            (Kind::Blob, size) => Ok(size),
            _ => Err(Flaw::Tree.into()),
        }
    }
}

fn append(path: &mut Vec<u8>, name: &[u8]) -> Result<(), RemoteError> {
    let is_special = matches!(name, b"" | b"." | b"..") || name.eq_ignore_ascii_case(b".git");
    if is_special || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Flaw::Name.into());
    }
    path.extend_from_slice(name);
    // A slash follows the name of a directory.
    if name.len() > LONGEST_NAME || path.len() >= LONGEST_PATH { Err(Surplus::Depth.into()) } else { Ok(()) }
}
