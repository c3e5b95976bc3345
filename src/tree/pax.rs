//! Extended headers (POSIX pax): records `length key=value\n`, and the values of those that are used.
//!
//! They are split here, since the `tar` crate splits at line ends, which values may contain.

use super::Attribute;
use super::error::{Flaw, UnpackCause};
use crate::domain::Extent;

/// A point in time, as a file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds after that second; less than 10^9.
    pub nanoseconds: u32,
}

/// One extended header. Other records (names of users, access times, comments) are ignored on purpose.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    /// Names (without `SCHILY.xattr.`) and values, sorted by name.
    pub(super) attributes: Vec<Attribute>,
    /// The number of attributes in encodings that are not read.
    pub(super) unread_attributes: u64,
    pub(super) sparse: SparseRecords,
}

/// The records of the three PAX formats of sparse files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` of the formats 0.0 and 0.1.
    pub(super) size: Option<u64>,
    /// `GNU.sparse.realsize` of the format 1.0.
    pub(super) real_size: Option<u64>,
    pub(super) count: Option<u64>,
    /// The pairs of records of the format 0.0.
    pub(super) pairs: Vec<Extent>,
    /// The map of the format 0.1: offsets and lengths between commas.
    pub(super) map: Option<Vec<u8>>,
    /// An offset of the format 0.0 that waits for its length.
    pub(super) open: Option<u64>,
}

impl Extended {
    /// Parses the header of one member. A record that is used must not come twice, since readers differ in which one
    /// they take.
    pub(super) fn parse(data: &[u8], extents: usize) -> Result<Self, UnpackCause> {
        let mut header = Self::default();
        let mut records = Records(data);
        while let Some((key, value)) = records.next()? {
            header.take(key, value, extents)?;
        }
        if header.sparse.open.is_some() {
            return Err(Flaw::SparseMap.into());
        }
        header.attributes.sort_unstable();
        if header.attributes.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(Flaw::Duplicate("xattr").into());
        }
        Ok(header)
    }

    fn take(&mut self, key: &[u8], value: &[u8], extents: usize) -> Result<(), UnpackCause> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.attributes.push((decoded(name), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" => once(&mut self.path, value.to_vec(), "path"),
            b"linkpath" => once(&mut self.link, value.to_vec(), "linkpath"),
            b"size" => once(&mut self.size, size(value, "size")?, "size"),
            b"uid" => once(&mut self.uid, decimal(value, "uid")?, "uid"),
            b"gid" => once(&mut self.gid, decimal(value, "gid")?, "gid"),
            b"mtime" => once(&mut self.mtime, time(value)?, "mtime"),
            // Sparse files of star and Solaris: readers that know these records see another file than those that do
            // not.
            b"SCHILY.realsize" | b"SUN.holesdata" => Err(Flaw::SparseMap.into()),
            _ if is_of_part(key) => Err(super::Rule::Part.into()),
            _ if key.starts_with(b"SCHILY.acl.") => {
                // Text with names of users; no program writes it together with the raw attribute.
                self.unread_attributes += 1;
                Ok(())
            }
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => self.sparse.take(key, value, extents),
                None => Ok(()),
            },
        }
    }

    /// Merges a global header over the earlier ones. It may only set properties that can hold for all members; an empty
    /// value unsets one.
    pub(super) fn merge_global(&mut self, data: &[u8]) -> Result<(), UnpackCause> {
        let mut records = Records(data);
        while let Some((key, value)) = records.next()? {
            let given = (!value.is_empty()).then_some(value);
            match key {
                b"uid" => self.uid = given.map(|value| decimal(value, "uid")).transpose()?,
                b"gid" => self.gid = given.map(|value| decimal(value, "gid")).transpose()?,
                b"mtime" => self.mtime = given.map(time).transpose()?,
                b"path" | b"linkpath" | b"size" => return Err(Flaw::GlobalRecord.into()),
                _ if is_of_archive(key) => {}
                _ if is_of_part(key) => return Err(super::Rule::Part.into()),
                _ if [b"SCHILY.".as_slice(), b"GNU.", b"LIBARCHIVE."].iter().any(|head| key.starts_with(head)) => {
                    return Err(Flaw::GlobalRecord.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8], extents: usize) -> Result<(), UnpackCause> {
        match key {
            b"major" => once(&mut self.major, decimal(value, "GNU.sparse.major")?, "GNU.sparse.major"),
            b"minor" => once(&mut self.minor, decimal(value, "GNU.sparse.minor")?, "GNU.sparse.minor"),
            b"name" => once(&mut self.name, value.to_vec(), "GNU.sparse.name"),
            b"size" => once(&mut self.size, size(value, "GNU.sparse.size")?, "GNU.sparse.size"),
            b"realsize" => once(&mut self.real_size, size(value, "GNU.sparse.realsize")?, "GNU.sparse.realsize"),
            b"numblocks" => once(&mut self.count, decimal(value, "GNU.sparse.numblocks")?, "GNU.sparse.numblocks"),
            b"map" => once(&mut self.map, value.to_vec(), "GNU.sparse.map"),
            b"offset" => once(&mut self.open, size(value, "GNU.sparse.offset")?, "GNU.sparse.offset"),
            b"numbytes" => {
                let offset = self.open.take().ok_or(Flaw::SparseMap)?;
                if self.pairs.len() >= extents {
                    return Err(super::Budget::Extents.into());
                }
                self.pairs.push(Extent { offset, len: size(value, "GNU.sparse.numbytes")? });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether a global record describes the archive as a whole: GNU tar's label, and what star and bsdtar write about
/// themselves.
fn is_of_archive(key: &[u8]) -> bool {
    matches!(key, b"GNU.volume.label" | b"SCHILY.archtype" | b"SCHILY.release" | b"LIBARCHIVE.creationtime")
        || key.starts_with(b"SCHILY.volhdr.")
}

/// Whether a record says that a file continues from another archive (GNU tar).
fn is_of_part(key: &[u8]) -> bool {
    matches!(key, b"GNU.volume.filename" | b"GNU.volume.size" | b"GNU.volume.offset")
}

fn once<T>(place: &mut Option<T>, value: T, name: &'static str) -> Result<(), UnpackCause> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Flaw::Duplicate(name).into()),
    }
}

/// The key and the value of a record.
type Record<'a> = (&'a [u8], &'a [u8]);

struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    fn next(&mut self) -> Result<Option<Record<'a>>, Flaw> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let space = self.0.iter().take(20).position(|byte| *byte == b' ').ok_or(Flaw::Record)?;
        let len = usize::try_from(decimal(&self.0[..space], "record")?).map_err(|_| Flaw::Record)?;
        let (record, rest) = self.0.split_at_checked(len).ok_or(Flaw::Record)?;
        let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(Flaw::Record)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(Flaw::Record)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(Flaw::Record);
        }
        self.0 = rest;
        Ok(Some((key, value)))
    }
}

/// Parses a number of decimal digits only.
pub(super) fn decimal(text: &[u8], name: &'static str) -> Result<u64, Flaw> {
    if text.is_empty() {
        return Err(Flaw::Number(name));
    }
    let add = |number: u64, digit: &u8| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    text.iter().try_fold(0, add).ok_or(Flaw::Number(name))
}

/// Parses a size or an offset in a file, which has 63 bits.
pub(super) fn size(text: &[u8], name: &'static str) -> Result<u64, Flaw> {
    decimal(text, name).ok().filter(|size| i64::try_from(*size).is_ok()).ok_or(Flaw::Number(name))
}

/// Parses seconds with a fraction; digits beyond nanoseconds are cut, towards the past as POSIX says.
fn time(text: &[u8]) -> Result<Time, Flaw> {
    const FLAW: Flaw = Flaw::Number("mtime");
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default(), "mtime")?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(FLAW);
    }
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0'));
    let mut nanoseconds = digits.chain(std::iter::repeat(0)).take(9).fold(0, |sum, digit| sum * 10 + digit);
    let mut seconds = i64::try_from(whole).map_err(|_| FLAW)?;
    if negative {
        seconds = -seconds;
        let finer = fraction.iter().skip(9).any(|digit| *digit != b'0');
        nanoseconds += u32::from(finer);
        if nanoseconds > 0 {
            seconds = seconds.checked_sub(1).ok_or(FLAW)?;
            nanoseconds = 1_000_000_000 - nanoseconds;
        }
    }
    Ok(Time { seconds, nanoseconds })
}

/// Appends one record.
pub(super) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The space, the equals sign and the line end. The length counts its own digits too.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.ilog10() as usize + 1 {
        len = rest + len.ilog10() as usize + 1;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Appends the record of an extended attribute. Characters that cannot stand in a key are escaped as in GNU tar.
pub(super) fn write_attribute(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            byte => key.push(*byte),
        }
    }
    write_record(out, &key, value);
}

/// Decodes the name of an attribute from its key.
fn decoded(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, rest) = match (first, rest) {
            (b'%', [b'2', b'5', rest @ ..]) => (b'%', rest),
            (b'%', [b'3', b'D', rest @ ..]) => (b'=', rest),
            (byte, rest) => (*byte, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

impl Time {
    /// Formats it as the value of a record.
    pub(super) fn to_record(self) -> String {
        let Self { seconds, nanoseconds } = self;
        let text = match (seconds, nanoseconds) {
            (_, 0) => return seconds.to_string(),
            // -1.75 is 250 ms after -2.
            (..0, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
            (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        };
        text.trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in pairs {
            write_record(&mut data, key.as_bytes(), value.as_bytes());
        }
        data
    }

    fn refused(data: &[u8]) -> Flaw {
        match Extended::parse(data, 9) {
            Err(UnpackCause::Malformed(flaw)) => flaw,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_of_any_length_is_read_as_it_was_written() {
        for len in (0..1200).chain([9_980, 9_990, 9_999, 99_990]) {
            let value = "v\n".repeat(len / 2) + &"=".repeat(len % 2);
            let data = records(&[("path", &value), ("linkpath", "x")]);
            let header = Extended::parse(&data, 9).expect("records");
            assert_eq!((header.path, header.link), (Some(value.into_bytes()), Some(b"x".to_vec())));
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for data in [
            "x",
            "9",
            "5 a=",
            "5 a=b\n",
            "7 a=b\n",
            "6 a=b",
            "6 a=b ",
            "5 ab\n",
            "5 =b\n",
            "0 a=b\n",
            "1 a=b\n",
            "-6 a=b\n",
            "+6 a=b\n",
            " 6 a=b\n",
            "6  a=b\n6 a=b\n",
            "6 a=b\n\0",
            "99999999999999999999999 a=b\n",
            "18446744073709551615 a=b\n",
            "2 \n",
        ] {
            let flaw = refused(data.as_bytes());
            assert!(matches!(flaw, Flaw::Record | Flaw::Number("record")), "{data:?}: {flaw:?}");
        }
        assert_eq!(refused(b"7 a\0b=\n"), Flaw::Record);
    }

    #[test]
    fn what_means_something_may_come_once() {
        for key in ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.user.a", "GNU.sparse.major"] {
            let flaw = refused(&records(&[(key, "1"), (key, "1")]));
            assert!(matches!(flaw, Flaw::Duplicate(_)), "{key}: {flaw:?}");
        }
        assert!(Extended::parse(&records(&[("comment", "1"), ("comment", "2")]), 9).is_ok());
    }

    #[test]
    fn numbers_have_digits_only_and_sizes_63_bits() {
        let sized = |value: &str| Extended::parse(&records(&[("size", value)]), 9).map(|header| header.size);
        assert_eq!(sized("9223372036854775807").expect("largest"), Some(i64::MAX as u64));
        for value in ["", "-1", "+1", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "99999999999999999999999"] {
            assert_eq!(refused(&records(&[("size", value)])), Flaw::Number("size"), "{value:?}");
        }
    }

    #[test]
    fn times_have_nanoseconds_and_go_back_before_1970() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.75", -2, 250_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-0.0000000001", -1, 999_999_999),
            ("-0.9999999999", -1, 0),
            ("-0", 0, 0),
            ("1792000000.123456789", 1_792_000_000, 123_456_789),
        ] {
            assert_eq!(time(text.as_bytes()), Ok(Time { seconds, nanoseconds }), "{text}");
        }
        for text in ["", "-", "x", "1.x", "1.5.5", ".5", "--1", "1e9", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), Err(Flaw::Number("mtime")), "{text}");
        }
    }

    #[test]
    fn an_attribute_of_any_name_is_read_as_it_was_written() {
        for name in ["user.a", "user.a=b", "user.%", "user.%3D", "user.%25=", "user.\u{e4}"] {
            let mut data = Vec::new();
            write_attribute(&mut data, name.as_bytes(), b"\0\n=");
            let header = Extended::parse(&data, 9).expect("records");
            assert_eq!(header.attributes, [(name.as_bytes().to_vec(), b"\0\n=".to_vec())]);
        }
    }

    #[test]
    fn a_time_is_read_as_it_was_written() {
        for seconds in [-2_000_000_000, -2, -1, 0, 1, 1_792_000_000] {
            for nanoseconds in [0, 1, 250_000_000, 999_999_999] {
                let written = Time { seconds, nanoseconds };
                assert_eq!(time(written.to_record().as_bytes()), Ok(written), "{}", written.to_record());
            }
        }
    }

    #[test]
    fn a_global_header_says_only_what_can_hold_for_all() {
        let mut global = Extended::default();
        global.merge_global(&records(&[("comment", "c"), ("mtime", "5"), ("uid", "1"), ("uid", "2")])).expect("fine");
        assert_eq!((global.uid, global.mtime), (Some(2), Some(Time { seconds: 5, nanoseconds: 0 })));
        global.merge_global(&records(&[("mtime", "")])).expect("fine");
        assert_eq!((global.uid, global.mtime), (Some(2), None));
        global.merge_global(&records(&[("GNU.volume.label", "l"), ("SCHILY.archtype", "exustar")])).expect("fine");
        for key in [
            "path",
            "linkpath",
            "size",
            "SCHILY.xattr.user.a",
            "GNU.sparse.major",
            "SCHILY.acl.access",
            "GNU.volume.offset",
        ] {
            assert!(global.merge_global(&records(&[(key, "1")])).is_err(), "{key}");
        }
    }
}
