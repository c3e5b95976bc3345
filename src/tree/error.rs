//! What can be wrong with an archive, and where.

use std::fmt;
use std::io;

use crate::domain::{Fault, FaultKind};

/// The most characters of a name that are repeated to a person.
const SHOWN: usize = 120;

/// A place in a tar stream, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which member, counted from 1; extension headers count with the member they belong to.
    pub entry: u64,
    /// Its name, as far as it is known: escaped and cut.
    pub name: Option<String>,
    /// Bytes of the (decoded) stream before it.
    pub offset: u64,
}

impl Place {
    pub(super) fn named(entry: u64, name: &[u8], offset: u64) -> Self {
        Self { entry, name: Some(shown(name)), offset }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "entry {} \"{name}\" at byte {}", self.entry, self.offset),
            None => write!(f, "entry {} at byte {}", self.entry, self.offset),
        }
    }
}

/// A name made harmless: no control characters, no end of the quotes, of bounded length.
pub(super) fn shown(name: &[u8]) -> String {
    // Four bytes make at most one character, so this cuts no character that is shown.
    let head = &name[..name.len().min(4 * SHOWN + 4)];
    let text = String::from_utf8_lossy(head);
    let mut escaped: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN || head.len() < name.len() {
        escaped.push_str("...");
    }
    escaped
}

/// An archive that was not unpacked, or not wholly.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct UnpackError {
    /// The member and the offset at which it failed.
    pub place: Place,
    /// The cause.
    #[source]
    pub cause: UnpackCause,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackCause {
    /// The reader failed: the peer broke off, or the work was cancelled.
    #[error("the stream broke off")]
    Source(#[source] io::Error),
    /// The stream ended before the archive's end marker.
    #[error("the archive is cut short")]
    CutShort,
    /// The bytes are no tar archive, or one that readers understand differently.
    #[error("{0}")]
    Malformed(#[from] Flaw),
    /// The compressed stream is broken.
    #[error("the compressed stream is broken")]
    Undecodable(#[source] io::Error),
    /// The archive asks for what is not done.
    #[error("{0}")]
    Forbidden(#[from] Rule),
    /// The archive holds more than is allowed.
    #[error("{0}")]
    OverBudget(#[from] Budget),
    /// The file system has no more room than is kept for others.
    #[error("the disk has no room for more {0}")]
    NoRoom(&'static str),
    /// The disk failed, or is full.
    #[error("the file system failed")]
    Disk(#[source] io::Error),
}

/// What is wrong with the bytes of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No header where one must be: an earlier size was wrong, or these are other data.
    #[error("a header was expected; its checksum is wrong")]
    Checksum,
    /// A header of no known format.
    #[error("a header of an unknown format")]
    Format,
    /// A member of no known type.
    #[error("a member of an unknown type")]
    Type,
    /// A number that is none, is negative or too large.
    #[error("the field {0} is not a number in its range")]
    Number(&'static str),
    /// A member that has no data says that it has.
    #[error("a member of this type cannot have data")]
    UnexpectedData,
    /// A file whose name says that it is a directory.
    #[error("the name ends like a directory's, but it is none")]
    TrailingSlash,
    /// An extended header that does not consist of records.
    #[error("a broken extended header")]
    Record,
    /// Two values for one thing.
    #[error("given twice: {0}")]
    Duplicate(&'static str),
    /// The size in the header and the one in the extended header differ.
    #[error("the header and its extended header give different sizes")]
    SizesDisagree,
    /// A record that says something of one member, for all of them.
    #[error("a record that cannot hold for all members")]
    GlobalRecord,
    /// An extension header with no member after it.
    #[error("an extension header without its member")]
    Orphan,
    /// Runs of a sparse file that overlap, are not in order, lie outside, or are not all of its data.
    #[error("the map of a sparse file is wrong")]
    SparseMap,
    /// Bytes that are not zero, or too many, after the end.
    #[error("data after the end of the archive")]
    Trailing,
}

/// What is well-formed, and not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// No name at all.
    #[error("an empty name")]
    EmptyName,
    /// A name that starts with a slash.
    #[error("an absolute name")]
    AbsoluteName,
    /// A name with a `..` in it.
    #[error("a name with ..")]
    ParentName,
    /// A name with a zero byte in it.
    #[error("a name with a zero byte")]
    ZeroByte,
    /// The root of the tree as something else than a directory.
    #[error("the root of the tree can only be a directory")]
    Root,
    /// A name that goes through something that is not a directory, or through a link.
    #[error("a name that goes through something that is not a directory")]
    Through,
    /// Something else in the place of a directory that is not empty.
    #[error("it would replace a directory that is not empty")]
    FullDirectory,
    /// A hard link to what this archive has not made, or to a directory.
    #[error("a hard link to something that is not a file of this archive")]
    HardLink,
    /// A file that began in another archive.
    #[error("a part of a file that began in another archive")]
    Part,
    /// A device node.
    #[error("a device node")]
    Device,
    /// An extended attribute outside the kept namespaces.
    #[error("an extended attribute that is not kept")]
    Attribute,
    /// An extended attribute that the file system has no room for or does not know.
    #[error("an extended attribute that the file system cannot hold")]
    AttributeRoom,
    /// The root had something in it before.
    #[error("the root of the tree is not empty")]
    RootNotEmpty,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Budget {
    /// See [`super::Limits::entries`].
    #[error("too many members")]
    Entries,
    /// See [`super::Limits::bytes`].
    #[error("more data than the volume holds")]
    Bytes,
    /// See [`super::Limits::apparent`].
    #[error("sparse files of too large a size")]
    Apparent,
    /// See [`super::Limits::depth`].
    #[error("too deep a name")]
    Depth,
    /// See [`super::Limits::name`].
    #[error("too long a name")]
    Name,
    /// See [`super::Limits::link`].
    #[error("too long a link target")]
    Link,
    /// See [`super::Limits::attributes`].
    #[error("too many extended attributes")]
    Attributes,
    /// See [`super::Limits::extended`].
    #[error("too large an extended header")]
    Extended,
    /// See [`super::Limits::extents`].
    #[error("too fragmented a sparse file")]
    Extents,
    /// See [`super::DecoderLimits`].
    #[error("a stream that expands too much")]
    Expansion,
}

impl From<UnpackError> for Fault {
    fn from(error: UnpackError) -> Self {
        let kind = match &error.cause {
            UnpackCause::Source(_) | UnpackCause::CutShort => FaultKind::BodyIncomplete,
            UnpackCause::Malformed(_) | UnpackCause::Undecodable(_) | UnpackCause::Forbidden(_) => FaultKind::Invalid,
            UnpackCause::OverBudget(_) => FaultKind::TooLarge,
            UnpackCause::NoRoom(_) => FaultKind::NoSpace,
            UnpackCause::Disk(disk) => match disk.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
                io::ErrorKind::FileTooLarge => FaultKind::TooLarge,
                io::ErrorKind::TooManyLinks => FaultKind::Invalid,
                _ => return Self::internal(error),
            },
        };
        Self::new(kind, error.to_string()).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_without_what_could_harm_a_log_or_a_terminal() {
        assert_eq!(shown(b"a\nb\x1b[31m\"c\\"), "a\\nb\\u{1b}[31m\\\"c\\\\");
        assert_eq!(shown(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(shown("\u{e4}".as_bytes()), "\u{e4}");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(shown(&[b'a'; SHOWN]), "a".repeat(SHOWN));
        let long = shown(&vec![b'a'; 1 << 20]);
        assert_eq!(long.len(), SHOWN + 3);
        assert!(long.ends_with("a..."));
        assert_eq!(shown("\u{1f980}".repeat(SHOWN + 1).as_bytes()), "\u{1f980}".repeat(SHOWN) + "...");
    }

    #[test]
    fn what_the_caller_is_told_names_the_entry_and_a_disk_failure_tells_nothing() {
        let place = Place::named(3, b"../x", 1536);
        let told = Fault::from(UnpackError { place: place.clone(), cause: Rule::ParentName.into() });
        assert_eq!(told.kind, FaultKind::Invalid);
        assert_eq!(told.told, "entry 3 \"../x\" at byte 1536: a name with ..");
        let hidden = Fault::from(UnpackError { place, cause: UnpackCause::Disk(io::Error::other("/secret")) });
        assert_eq!(hidden.kind, FaultKind::Internal);
        assert!(!hidden.told.contains("entry"));
    }
}
