//! Reads a tar stream member by member: ustar, GNU and pax, in one pass. Touches no file.
//!
//! # Rules
//! Where tar programs read the same bytes differently, an archive could show one tree to its checker and another to its
//! unpacker. So:
//! - Every header has the magic of ustar or GNU with its version (which may be blank or zeros in ustar), and a correct
//!   checksum, of signed or of unsigned bytes.
//! - Only known types are read: files, links, directories (also those of GNU's incremental archives, whose lists are
//!   skipped), pipes, devices, GNU sparse files and long names, pax headers, and labels of archives, which are no
//!   members. Continuations of a file from another archive are refused.
//! - Only files have data. The size of a directory is ignored, as POSIX says; a link, pipe or device with a size is
//!   refused.
//! - A size in a pax header equals the one in the header; they may differ only where it does not fit into eleven octal
//!   digits, and the header then has 0 or all sevens.
//! - A member has at most one pax header, one long name and one long link, and each name or target comes from one of
//!   them. None may be left over, or be followed by a global header.
//! - In a pax header, no record that is read comes twice. A global header may set owners and the time; later ones
//!   override earlier ones, and a member's own header overrides both.
//! - A name that ends in a slash is that of a directory; a file of the oldest kind (type zero byte) with such a name is
//!   a directory.
//! - The map of a sparse file follows the rules of `sparse`.
//! - The archive ends with a zero block: without it, an archive that was cut between two members would look whole. Only
//!   zeros may follow, up to a bound, since some readers go on there.

use std::io::Read;

use tar::EntryType;

use super::error::{Budget, Flaw, Place, Rule, UnpackCause, UnpackError};
use super::header::{Head, OldSparse, old_extents};
use super::name::{LONGEST, TreePath};
use super::pax::{Extended, Time};
use super::sparse::{Announced, MapReader, checked};
use super::stream::{BLOCK, Stream};
use super::{Attribute, Limits};
use crate::domain::Extent;

/// The most zeros after the end marker: GNU tar fills records of 10 KiB, and `--blocking-factor` allows far more.
const MOST_PADDING: u64 = 8 << 20;

/// The type of a label of the archive (GNU tar).
const LABEL: u8 = b'V';

/// The type of a file that continues from another archive (GNU tar).
const PART: u8 = b'M';

/// The type of a directory with a list of its content (GNU tar's incremental archives).
const DUMP_DIRECTORY: u8 = b'D';

/// The type of an extended header as Solaris writes it.
const SOLARIS_EXTENDED: u8 = b'X';

/// The largest number in eleven octal digits.
const OCTAL: u64 = 0o77_777_777_777;

/// The type of an archive member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size, holes included.
        size: u64,
        /// Its runs of data, if it is sparse: in order, without overlap, none empty.
        extents: Option<Vec<Extent>>,
    },
    /// Another name of an earlier file.
    HardLink(TreePath),
    /// A symbolic link; its target is any text.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A device node.
    Device {
        /// Whether it is a block device, not a character device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A member of an archive, checked.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number, counted from 1.
    pub number: u64,
    /// The offset of its header.
    pub offset: u64,
    /// Its name.
    pub path: TreePath,
    /// Its type.
    pub kind: Kind,
    /// Permissions and the three special bits.
    pub mode: u32,
    /// Its owner. Never the largest number, which `chown` takes for "no change".
    pub uid: u32,
    /// Its group. Never the largest number either.
    pub gid: u32,
    /// When its content was last changed.
    pub mtime: Time,
    /// Extended attributes: names and values.
    pub attributes: Vec<Attribute>,
    /// The number of extended attributes in encodings that are not read.
    pub unread_attributes: u64,
}

impl Member {
    pub(super) fn place(&self) -> Place {
        Place::named(self.number, self.path.as_bytes(), self.offset)
    }
}

/// A tar stream.
pub struct Archive<R> {
    stream: Stream<R>,
    limits: Limits,
    global: Extended,
    /// Headers that belong to no member.
    others: u64,
    number: u64,
    /// The name of the member that is being read, as far as it is known.
    name: Option<Vec<u8>>,
    /// The offset of the last header.
    header: u64,
    /// Bytes of the current member's data that were not handed out.
    remaining: u64,
    /// The padding after its last block.
    padding: u64,
    /// Bytes that were handed out last, and are still in the buffer.
    given: usize,
}

/// The extension headers before a member.
#[derive(Default)]
struct Extensions {
    extended: Option<Extended>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Reads from the start of a plain tar stream.
    pub fn new(reader: R, limits: &Limits) -> Self {
        Self {
            stream: Stream::new(reader),
            limits: *limits,
            global: Extended::default(),
            others: 0,
            number: 0,
            name: None,
            header: 0,
            remaining: 0,
            padding: 0,
            given: 0,
        }
    }

    /// Returns the next member; `None` at the proper end, after the whole stream was read. Skips the rest of the
    /// current member's data.
    #[expect(clippy::should_implement_trait, reason = "an iterator could go on after an error")]
    pub fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        let skipped = std::mem::take(&mut self.remaining) + std::mem::take(&mut self.padding);
        self.stream.consume(std::mem::take(&mut self.given));
        if let Err(cause) = self.stream.skip(skipped) {
            return Err(self.failed_in_data(cause));
        }
        self.number += 1;
        self.name = None;
        self.member().map_err(|cause| {
            // A stream that ends early is reported at its end; other faults lie in the header that was read last.
            let offset = match &cause {
                UnpackCause::CutShort | UnpackCause::Source(_) | UnpackCause::Undecodable(_) => self.stream.offset(),
                _ => self.header,
            };
            self.failed(cause, offset)
        })
    }

    /// Returns the next part of the current member's data; `None` after the last one.
    pub fn data(&mut self) -> Result<Option<&[u8]>, UnpackError> {
        self.stream.consume(std::mem::take(&mut self.given));
        if self.remaining == 0 {
            return Ok(None);
        }
        let found = self.stream.chunk(self.remaining).map(<[u8]>::len);
        let chunk = found.map_err(|cause| self.failed_in_data(cause))?;
        self.remaining -= chunk as u64;
        self.given = chunk;
        Ok(Some(self.stream.peek(chunk)))
    }

    /// The number of bytes of the stream before the current position.
    pub fn offset(&self) -> u64 {
        self.stream.offset()
    }

    fn failed_in_data(&self, cause: UnpackCause) -> UnpackError {
        self.failed(cause, self.stream.offset())
    }

    fn failed(&self, cause: UnpackCause, offset: u64) -> UnpackError {
        let place = match &self.name {
            Some(name) => Place::named(self.number, name, offset),
            None => Place { entry: self.number, name: None, offset },
        };
        UnpackError { place, cause }
    }

    fn member(&mut self) -> Result<Option<Member>, UnpackCause> {
        let mut before = Extensions::default();
        loop {
            let offset = self.stream.offset();
            self.header = offset;
            let block = *self.stream.block()?;
            let pending = before.extended.is_some() || before.name.is_some() || before.link.is_some();
            if block == [0; BLOCK] {
                if pending {
                    return Err(Flaw::Orphan.into());
                }
                self.end()?;
                return Ok(None);
            }
            let head = Head::parse(&block).inspect_err(|cause| {
                // The error reports this name, unless the block is no header at all.
                if self.name.is_none() && !matches!(cause, UnpackCause::Malformed(Flaw::Checksum)) {
                    self.name = block[..100].split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
                }
            })?;
            let of_none = matches!(block[156], b'g' | LABEL);
            if of_none {
                self.others += 1;
                if pending {
                    return Err(Flaw::Orphan.into());
                }
                if self.others > self.limits.entries {
                    return Err(Budget::Entries.into());
                }
            }
            match head.kind {
                _ if block[156] == LABEL && head.size > 0 => return Err(Flaw::UnexpectedData.into()),
                _ if block[156] == LABEL => self.name = None,
                _ if block[156] == PART => return Err(Rule::Part.into()),
                EntryType::XGlobalHeader => {
                    let data = self.held(head.size, self.limits.extended, Budget::Extended)?;
                    self.global.merge_global(&data)?;
                }
                kind if kind == EntryType::XHeader || block[156] == SOLARIS_EXTENDED => {
                    if before.extended.is_some() {
                        return Err(Flaw::Duplicate("extended header").into());
                    }
                    let data = self.held(head.size, self.limits.extended, Budget::Extended)?;
                    let extended = Extended::parse(&data, self.limits.extents)?;
                    self.name = extended.path.clone().or(self.name.take());
                    before.extended = Some(extended);
                }
                EntryType::GNULongName if before.name.is_some() => return Err(Flaw::Duplicate("long name").into()),
                EntryType::GNULongName => {
                    before.name = Some(self.long(head.size, self.limits.name, Budget::Name)?);
                    self.name.clone_from(&before.name);
                }
                EntryType::GNULongLink if before.link.is_some() => return Err(Flaw::Duplicate("long link").into()),
                EntryType::GNULongLink => before.link = Some(self.long(head.size, self.limits.link, Budget::Link)?),
                _ => return self.assemble(head, block[156], before, offset).map(Some),
            }
        }
    }

    /// Makes a member from its header and the extension headers before it.
    fn assemble(&mut self, head: Head, type_byte: u8, before: Extensions, offset: u64) -> Result<Member, UnpackCause> {
        let mut extended = before.extended.unwrap_or_default();
        let announced = extended.sparse.announced(self.limits.extents)?;
        // bsdtar writes both names for a sparse file with a long name; they are equal then.
        let (sparse, path) = (extended.sparse.name.take(), extended.path.take());
        if sparse.as_ref().zip(path.as_ref()).is_some_and(|(one, other)| one != other) {
            return Err(Flaw::Duplicate("path").into());
        }
        let name = match (sparse.or(path), before.name) {
            (Some(_), Some(_)) => return Err(Flaw::Duplicate("path").into()),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => head.name,
        };
        let (path, as_directory) = {
            let parsed = TreePath::parse(&name, self.limits.name, self.limits.depth);
            self.name = Some(name);
            parsed?
        };
        if self.number > self.limits.entries {
            return Err(Budget::Entries.into());
        }
        let link = match (extended.link.take(), before.link) {
            (Some(_), Some(_)) => return Err(Flaw::Duplicate("linkpath").into()),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => head.link,
        };
        let stored = match extended.size {
            None => head.size,
            Some(size) if size == head.size => size,
            Some(size) if size > OCTAL && [0, OCTAL].contains(&head.size) => size,
            Some(_) => return Err(Flaw::SizesDisagree.into()),
        };
        let stored = if head.kind.is_dir() { 0 } else { stored };
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;

        let directory = head.kind.is_dir() || type_byte == DUMP_DIRECTORY || (as_directory && type_byte == 0);
        if path.is_root() && !directory {
            return Err(Rule::Root.into());
        }
        if as_directory && !directory {
            return Err(Flaw::TrailingSlash.into());
        }
        let file = matches!(head.kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        if (directory || !file) && announced != Announced::Dense {
            return Err(Flaw::SparseMap.into());
        }
        let kind = match head.kind {
            _ if directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => self.file(stored, announced)?,
            EntryType::GNUSparse if announced == Announced::Dense => self.old_sparse(head.sparse, stored)?,
            EntryType::GNUSparse => return Err(Flaw::SparseMap.into()),
            EntryType::Link => {
                let (target, as_directory) = TreePath::parse(&link, self.limits.name, self.limits.depth)?;
                if as_directory {
                    return Err(Rule::HardLink.into());
                }
                Kind::HardLink(target)
            }
            EntryType::Symlink => Kind::Symlink(self.target(link)?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Block | EntryType::Char => {
                let (major, minor) = head.device;
                Kind::Device { block: head.kind.is_block_special(), major, minor }
            }
            _ => return Err(Flaw::Type.into()),
        };
        if type_byte == DUMP_DIRECTORY && stored > self.limits.extended as u64 {
            return Err(Budget::Extended.into());
        }
        if stored > 0 && type_byte != DUMP_DIRECTORY && !matches!(kind, Kind::File { .. }) {
            return Err(Flaw::UnexpectedData.into());
        }
        let attributes: usize = extended.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if attributes > self.limits.attributes {
            return Err(Budget::Attributes.into());
        }
        Ok(Member {
            number: self.number,
            offset,
            path,
            kind,
            mode: head.mode,
            uid: owner(extended.uid.or(self.global.uid).unwrap_or(head.uid), "uid")?,
            gid: owner(extended.gid.or(self.global.gid).unwrap_or(head.gid), "gid")?,
            mtime: extended.mtime.or(self.global.mtime).unwrap_or(Time { seconds: head.mtime, nanoseconds: 0 }),
            attributes: extended.attributes,
            unread_attributes: extended.unread_attributes,
        })
    }

    fn file(&mut self, stored: u64, announced: Announced) -> Result<Kind, UnpackCause> {
        let (size, extents) = match announced {
            Announced::Dense => return Ok(Kind::File { size: stored, extents: None }),
            Announced::Map(size, extents) => (size, extents),
            Announced::InData(size) => {
                let mut map = MapReader::new(self.limits.extents);
                loop {
                    self.remaining = self.remaining.checked_sub(BLOCK as u64).ok_or(Flaw::SparseMap)?;
                    if let Some(extents) = map.block(self.stream.block()?)? {
                        break (size, extents);
                    }
                }
            }
        };
        let extents = checked(extents, size, self.remaining)?;
        Ok(Kind::File { size, extents: Some(extents) })
    }

    fn old_sparse(&mut self, map: Option<OldSparse>, stored: u64) -> Result<Kind, UnpackCause> {
        let mut map = map.ok_or(Flaw::SparseMap)?;
        while map.goes_on {
            if map.extents.len() > self.limits.extents {
                return Err(Budget::Extents.into());
            }
            let mut more = tar::GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(self.stream.block()?);
            let (found, goes_on) = old_extents(more.sparse(), more.isextended)?;
            map.goes_on = goes_on;
            map.extents.extend(found);
        }
        if map.extents.len() > self.limits.extents {
            return Err(Budget::Extents.into());
        }
        let extents = checked(map.extents, map.size, stored)?;
        Ok(Kind::File { size: map.size, extents: Some(extents) })
    }

    fn target(&self, link: Vec<u8>) -> Result<Vec<u8>, UnpackCause> {
        if link.is_empty() {
            return Err(Rule::EmptyName.into());
        }
        if link.len() > self.limits.link.min(LONGEST) {
            return Err(Budget::Link.into());
        }
        if link.contains(&0) {
            return Err(Rule::ZeroByte.into());
        }
        Ok(link)
    }

    /// Reads the data of an extension header into memory.
    fn held(&mut self, size: u64, most: usize, budget: Budget) -> Result<Vec<u8>, UnpackCause> {
        let len = usize::try_from(size).ok().filter(|len| *len <= most).ok_or(budget)?;
        // It grows with the bytes that arrive, not with the size that the header claims.
        let mut data = Vec::new();
        while data.len() < len {
            let chunk = self.stream.chunk((len - data.len()) as u64)?;
            data.extend_from_slice(chunk);
            let taken = chunk.len();
            self.stream.consume(taken);
        }
        self.stream.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(data)
    }

    /// Reads a long name or link of GNU tar, which ends with a zero byte.
    fn long(&mut self, size: u64, most: usize, budget: Budget) -> Result<Vec<u8>, UnpackCause> {
        let mut name = self.held(size, most.min(LONGEST) + 1, budget)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.contains(&0) {
            return Err(Rule::ZeroByte.into());
        }
        Ok(name)
    }

    /// Reads the rest of the stream after the first zero block.
    fn end(&mut self) -> Result<(), UnpackCause> {
        let mut padding = 0;
        loop {
            self.header = self.stream.offset();
            let rest = self.stream.rest()?;
            if rest.is_empty() {
                return Ok(());
            }
            padding += rest.len() as u64;
            if padding > MOST_PADDING || rest.iter().any(|byte| *byte != 0) {
                return Err(Flaw::Trailing.into());
            }
            let read = rest.len();
            self.stream.consume(read);
        }
    }
}

fn owner(id: u64, name: &'static str) -> Result<u32, Flaw> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(Flaw::Number(name))
}
