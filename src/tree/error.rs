//! Errors of unpacking: the cause, and the place in the archive.

use std::fmt;
use std::io;

use crate::domain::{Fault, FaultKind};

/// The most characters of a name in a message.
const SHOWN: usize = 120;

/// A place in a tar stream, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The number of the member, counted from 1; extension headers count as part of their member.
    pub entry: u64,
    /// Its name, as far as it is known: escaped and cut.
    pub name: Option<String>,
    /// Bytes of the (decoded) stream before this place.
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

/// Escapes and cuts a name for messages: no control characters, no quotes that end early, bounded length.
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

/// An archive that was not unpacked, or only in part.
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
    /// The bytes are no tar archive, or one that programs read differently.
    #[error("{0}")]
    Malformed(#[from] Flaw),
    /// The compressed stream is broken.
    #[error("the compressed stream is broken")]
    Undecodable(#[source] io::Error),
    /// The archive asks for something that is not allowed.
    #[error("{0}")]
    Forbidden(#[from] Rule),
    /// The archive holds more than is allowed.
    #[error("{0}")]
    OverBudget(#[from] Budget),
    /// The file system has no more room than is reserved.
    #[error("the disk has no room for more {0}")]
    NoRoom(&'static str),
    /// The disk failed or is full.
    #[error("the file system failed")]
    Disk(#[source] io::Error),
}

/// What is wrong with the bytes of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is no header where one must be: an earlier size was wrong, or this is no archive.
    #[error("a header was expected; its checksum is wrong")]
    Checksum,
    /// A header has an unknown format.
    #[error("a header of an unknown format")]
    Format,
    /// A member has an unknown type.
    #[error("a member of an unknown type")]
    Type,
    /// A field is not a number, is negative, or is too large.
    #[error("the field {0} is not a number in its range")]
    Number(&'static str),
    /// A member of a type without data has a size.
    #[error("a member of this type cannot have data")]
    UnexpectedData,
    /// A member that is no directory has the name of one.
    #[error("the name ends like a directory's, but it is none")]
    TrailingSlash,
    /// An extended header does not consist of records.
    #[error("a broken extended header")]
    Record,
    /// A property is given twice.
    #[error("given twice: {0}")]
    Duplicate(&'static str),
    /// The size in the header and the one in the extended header differ.
    #[error("the header and its extended header give different sizes")]
    SizesDisagree,
    /// A global header sets a property of a single member.
    #[error("a record that cannot hold for all members")]
    GlobalRecord,
    /// An extension header has no member after it.
    #[error("an extension header without its member")]
    Orphan,
    /// The runs of a sparse file overlap, are out of order, lie outside of it, or do not cover its data.
    #[error("the map of a sparse file is wrong")]
    SparseMap,
    /// Bytes that are not zero, or too many zeros, follow the end.
    #[error("data after the end of the archive")]
    Trailing,
}

/// What a well-formed archive may not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// An empty name.
    #[error("an empty name")]
    EmptyName,
    /// A name that begins with a slash.
    #[error("an absolute name")]
    AbsoluteName,
    /// A name with a `..` component.
    #[error("a name with ..")]
    ParentName,
    /// A name with a zero byte.
    #[error("a name with a zero byte")]
    ZeroByte,
    /// A root of the tree that is no directory.
    #[error("the root of the tree can only be a directory")]
    Root,
    /// A name that goes through a link or anything else that is no directory.
    #[error("a name that goes through something that is not a directory")]
    Through,
    /// Anything but a directory in the place of a directory that is not empty.
    #[error("it would replace a directory that is not empty")]
    FullDirectory,
    /// A hard link to something that is no file of this archive.
    #[error("a hard link to something that is not a file of this archive")]
    HardLink,
    /// A file that continues from another archive.
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
    /// A root directory that was not empty before.
    #[error("the root of the tree is not empty")]
    RootNotEmpty,
}

/// A limit that the archive exceeds.
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

impl UnpackCause {
    /// What it means that the reader failed. Who gives the bytes may also tell that there is no room for them.
    pub(super) fn of_source(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Disk(error),
            _ => Self::Source(error),
        }
    }
}

impl From<UnpackError> for Fault {
    fn from(error: UnpackError) -> Self {
        let kind = match &error.cause {
            UnpackCause::Source(_) | UnpackCause::CutShort => FaultKind::BodyIncomplete,
            UnpackCause::Malformed(_) | UnpackCause::Undecodable(_) | UnpackCause::Forbidden(_) => FaultKind::Invalid,
            UnpackCause::OverBudget(_) => FaultKind::TooLarge,
            UnpackCause::NoRoom(_) => FaultKind::NoSpace,
            UnpackCause::Disk(disk) => match disk.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    let told = format!("{}: {}", error.place, UnpackCause::NoRoom("bytes"));
                    return Self::new(FaultKind::NoSpace, told).because(error);
                }
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
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let told = Fault::from(UnpackError { place: place.clone(), cause: UnpackCause::Disk(full.into()) });
            assert_eq!(told.kind, FaultKind::NoSpace);
            assert_eq!(told.told, "entry 3 \"../x\" at byte 1536: the disk has no room for more bytes");
        }
        let hidden = Fault::from(UnpackError { place, cause: UnpackCause::Disk(io::Error::other("/secret")) });
        assert_eq!(hidden.kind, FaultKind::Internal);
        assert!(!hidden.told.contains("entry"));
    }
}
