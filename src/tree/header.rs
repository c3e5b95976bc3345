//! Header blocks: ustar, GNU, or older than both. The `tar` crate gives the layout; the fields are parsed here, since
//! the crate accepts numbers out of range.

use tar::{EntryType, GnuSparseHeader, Header};

use super::error::{Flaw, UnpackCause};
use super::stream::BLOCK;
use crate::domain::Extent;

/// The fields of a header that are used. Names of users and groups are not: the users of a volume are not those of this
/// machine.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kind: EntryType,
    /// The name as it stands in the header, prefix included.
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    /// Permissions and the three special bits.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// In seconds since 1970.
    pub(super) mtime: i64,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// Only for a sparse file in the old GNU format.
    pub(super) sparse: Option<OldSparse>,
}

/// The place of the ustar version in a header. Some writers leave it blank (Maven's archiver), and no reader checks it.
const VERSION: std::ops::Range<usize> = 263..265;

/// The beginning of a sparse map in the old GNU format.
#[derive(Debug)]
pub(super) struct OldSparse {
    pub(super) extents: Vec<Extent>,
    /// Whether a block with more extents follows.
    pub(super) goes_on: bool,
    pub(super) size: u64,
}

impl Head {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, UnpackCause> {
        let header = Header::from_byte_slice(block);
        let fields = header.as_old();
        if !is_summed(block) {
            return Err(Flaw::Checksum.into());
        }
        // The crate requires the version.
        let versioned = with_version(block);
        let header = Header::from_byte_slice(&versioned);
        let (gnu, ustar) = (header.as_gnu(), header.as_ustar());
        // Formats older than both have zeros in the place of the magic.
        if gnu.is_none() && ustar.is_none() && block[257..265] != [0; 8] {
            return Err(Flaw::Format.into());
        }
        let kind = header.entry_type();
        let device = if kind.is_block_special() || kind.is_character_special() {
            let (major, minor) = match (gnu, ustar) {
                (Some(gnu), _) => (gnu.dev_major, gnu.dev_minor),
                (_, Some(ustar)) => (ustar.dev_major, ustar.dev_minor),
                (None, None) => return Err(Flaw::Type.into()),
            };
            (ranged(&major, "devmajor")?, ranged(&minor, "devminor")?)
        } else {
            (0, 0)
        };
        let sparse = match gnu {
            Some(gnu) if kind.is_gnu_sparse() => {
                let (extents, goes_on) = old_extents(&gnu.sparse, gnu.isextended)?;
                Some(OldSparse { extents, goes_on, size: size(&gnu.realsize)? })
            }
            None if kind.is_gnu_sparse() => return Err(Flaw::Type.into()),
            _ => None,
        };
        Ok(Self {
            kind,
            name: header.path_bytes().into_owned(),
            link: until_zero(&fields.linkname).to_vec(),
            size: size(&fields.size)?,
            // Some writers include the file type, as stat does.
            mode: ranged::<u32>(&fields.mode, "mode")? & 0o7777,
            uid: ranged(&fields.uid, "uid")?,
            gid: ranged(&fields.gid, "gid")?,
            mtime: ranged(&fields.mtime, "mtime")?,
            device,
            sparse,
        })
    }
}

/// Returns the used extents of a row in the old GNU format, and whether more follow. Some readers stop at the first
/// unused one and some do not, so all after it must be unused too, and no row may follow.
pub(super) fn old_extents(row: &[GnuSparseHeader], more: [u8; 1]) -> Result<(Vec<Extent>, bool), UnpackCause> {
    let (used, unused) = row.split_at(row.iter().take_while(|entry| entry.numbytes[0] != 0).count());
    let goes_on = match more {
        [0] => false,
        [1] if unused.is_empty() => true,
        _ => return Err(Flaw::SparseMap.into()),
    };
    if unused.iter().any(|entry| entry.offset != [0; 12] || entry.numbytes != [0; 12]) {
        return Err(Flaw::SparseMap.into());
    }
    let extent = |entry: &GnuSparseHeader| Ok(Extent { offset: size(&entry.offset)?, len: size(&entry.numbytes)? });
    Ok((used.iter().map(extent).collect::<Result<_, Flaw>>()?, goes_on))
}

/// Whether a block has the checksum of a header.
fn is_summed(block: &[u8; BLOCK]) -> bool {
    let sum = number(&Header::from_byte_slice(block).as_old().cksum);
    sum.is_ok_and(|sum| sum == i128::from(unsigned_sum(block)) || sum == i128::from(signed_sum(block)))
}

fn with_version(block: &[u8; BLOCK]) -> [u8; BLOCK] {
    let mut block = *block;
    if block.get(257..263) == Some(b"ustar\0") && matches!(&block[VERSION], b"\0\0" | b"  ") {
        block[VERSION].copy_from_slice(b"00");
    }
    block
}

fn size(field: &[u8]) -> Result<u64, Flaw> {
    // Sizes and offsets of files have 63 bits.
    ranged::<i64>(field, "size")?.try_into().map_err(|_| Flaw::Number("size"))
}

fn ranged<T: TryFrom<i128>>(field: &[u8], name: &'static str) -> Result<T, Flaw> {
    number(field).ok().and_then(|number| number.try_into().ok()).ok_or(Flaw::Number(name))
}

/// Parses octal digits between spaces, up to a zero byte. An empty field is 0, and nothing may follow then (GNU tar
/// skips a leading zero byte). With the first bit set, it is a big-endian number in two's complement, as GNU tar and
/// star write numbers that do not fit.
fn number(field: &[u8]) -> Result<i128, ()> {
    match field {
        // The longest field has 12 bytes: 95 bits.
        [first, rest @ ..] if first & 0x80 != 0 && rest.len() < 15 => {
            let head = i128::from(first & 0x3f) - i128::from(first & 0x40);
            Ok(rest.iter().fold(head, |number, byte| (number << 8) | i128::from(*byte)))
        }
        [0, rest @ ..] if rest.iter().any(|byte| *byte != 0) => Err(()),
        _ => until_zero(field).trim_ascii().iter().try_fold(0, |number: i128, digit| match digit {
            b'0'..=b'7' => Ok(number * 8 + i128::from(digit - b'0')),
            _ => Err(()),
        }),
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The sum of a header's bytes, with spaces in the place of the checksum.
fn unsigned_sum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

/// The checksum of early writers, whose bytes had a sign.
fn signed_sum(block: &[u8; BLOCK]) -> i32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum::<i32>();
    sum(&block[..148]) + 8 * i32::from(b' ') + sum(&block[156..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(change: impl FnOnce(&mut [u8; BLOCK])) -> Result<Head, UnpackCause> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        change(header.as_mut_bytes());
        header.set_cksum();
        Head::parse(header.as_bytes())
    }

    fn flaw(result: Result<Head, UnpackCause>) -> Flaw {
        match result {
            Err(UnpackCause::Malformed(flaw)) => flaw,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"77777777", Ok(0o77_777_777)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"        ", Ok(0)),
            (b"644\0junk", Ok(0o644)),
            (b"\x80\0\0\0\0\0\0\x01", Ok(1)),
            (b"\x80\0\0\0\xff\xff\xff\xff", Ok(0xffff_ffff)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Ok((1 << 94) - 1)),
            (b"\x00000644\0", Err(())),
            (b"0000648\0", Err(())),
            (b"-000644\0", Err(())),
            (b"+000644\0", Err(())),
            (b"06 44\0\0\0", Err(())),
            (b"0x1f\0\0\0\0", Err(())),
        ] {
            assert_eq!(number(field), value, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn a_size_that_is_negative_or_has_more_than_63_bits_is_refused() {
        let sized = |field: &[u8; 12]| head(|block| block[124..136].copy_from_slice(field));
        assert_eq!(sized(b"77777777777\0").expect("8 GiB less one").size, (8 << 30) - 1);
        assert_eq!(sized(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").expect("largest").size, i64::MAX as u64);
        assert_eq!(flaw(sized(b"\x80\0\0\0\x80\0\0\0\0\0\0\0")), Flaw::Number("size"));
        assert_eq!(flaw(sized(b"\x80\0\0\x01\0\0\0\0\0\0\0\x05")), Flaw::Number("size"));
        assert_eq!(flaw(sized(&[0xff; 12])), Flaw::Number("size"));
        assert_eq!(flaw(sized(b"-0000000001\0")), Flaw::Number("size"));
    }

    #[test]
    fn a_checksum_may_be_of_signed_or_unsigned_bytes_and_must_be_right() {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[0] = 0xe4;
        header.set_cksum();
        assert!(Head::parse(header.as_bytes()).is_ok());
        let signed = signed_sum(header.as_bytes());
        header.as_mut_bytes()[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
        assert!(Head::parse(header.as_bytes()).is_ok());
        header.as_mut_bytes()[0] ^= 1;
        assert_eq!(flaw(Head::parse(header.as_bytes())), Flaw::Checksum);
        assert_eq!(flaw(Head::parse(&[b'x'; BLOCK])), Flaw::Checksum);
    }

    #[test]
    fn a_header_of_an_unknown_format_is_refused() {
        assert!(head(|block| block[257..265].copy_from_slice(b"ustar\x0000")).is_ok());
        assert!(head(|block| block[257..265].copy_from_slice(b"ustar  \0")).is_ok());
        assert!(head(|block| block[257..265].fill(0)).is_ok());
        assert!(head(|block| block[257..265].copy_from_slice(b"ustar\0\0\0")).is_ok());
        assert!(head(|block| block[257..265].copy_from_slice(b"ustar\0  ")).is_ok());
        assert_eq!(flaw(head(|block| block[257..265].copy_from_slice(b"ustar\x0001"))), Flaw::Format);
        assert_eq!(flaw(head(|block| block[257..265].fill(b'u'))), Flaw::Format);
    }

    #[test]
    fn the_prefix_is_a_name_only_in_ustar() {
        let named = |magic: &'static [u8; 8]| {
            head(move |block| {
                block[0] = b'n';
                block[257..265].copy_from_slice(magic);
                block[345] = b'p';
            })
        };
        assert_eq!(named(b"ustar\x0000").expect("ustar").name, b"p/n");
        assert_eq!(named(b"ustar\0\0\0").expect("ustar").name, b"p/n");
        assert_eq!(named(b"ustar  \0").expect("GNU").name, b"n");
        assert_eq!(named(&[0; 8]).expect("old").name, b"n");
    }
}
