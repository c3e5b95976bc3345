//! A writer of tar streams: ustar, with pax headers for values that do not fit.
//!
//! `tar::Builder` ends its stream on drop, also after an error; a tree that is cut short must not look whole.

use std::io::Write;

use tar::{EntryType, Header};

use super::super::error::RemoteError;

const BLOCK: usize = 512;
const BUFFER: usize = 64 << 10;

/// The largest number in eleven octal digits.
const OCTAL: u64 = 0o77_777_777_777;

/// One member, without its data.
pub(super) struct Member<'a> {
    pub(super) path: &'a [u8],
    pub(super) shape: Shape<'a>,
}

pub(super) enum Shape<'a> {
    Directory,
    File { size: u64, executable: bool },
    Link { target: &'a [u8] },
}

pub(super) struct Tar<W> {
    writer: W,
    buffer: Vec<u8>,
    /// The modification time of every member.
    time: u64,
}

impl<W: Write> Tar<W> {
    /// Returns a writer. A time before 1970 or after 2242 becomes the nearest one within.
    pub(super) fn new(writer: W, time: i64) -> Self {
        let time = u64::try_from(time).unwrap_or(0).min(OCTAL);
        Self { writer, buffer: Vec::with_capacity(BUFFER), time }
    }

    /// Writes the headers of a member; its data follow by [`Self::write`] and [`Self::pad`].
    pub(super) fn member(&mut self, member: &Member<'_>) -> Result<(), RemoteError> {
        let (kind, mode, size, link): (_, _, _, &[u8]) = match member.shape {
            Shape::Directory => (EntryType::Directory, 0o755, 0, &[]),
            Shape::File { size, executable } => (EntryType::Regular, if executable { 0o755 } else { 0o644 }, size, &[]),
            Shape::Link { target } => (EntryType::Symlink, 0o777, 0, target),
        };
        let mut path = member.path.to_vec();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        let mut records = Vec::new();
        // Names of git have no character set.
        if [&path, link].into_iter().any(|text| std::str::from_utf8(text).is_err()) {
            write_record(&mut records, "hdrcharset", b"BINARY");
        }
        for (key, text) in [("path", &*path), ("linkpath", link)] {
            if !fits(text) {
                write_record(&mut records, key, text);
            }
        }
        if size > OCTAL {
            write_record(&mut records, "size", size.to_string().as_bytes());
        }
        if !records.is_empty() {
            let header = self.header(EntryType::XHeader, b"pax", &[], 0o644, records.len() as u64);
            self.write(header.as_bytes())?;
            self.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        let header = self.header(kind, &path, link, mode, if size > OCTAL { 0 } else { size });
        self.write(header.as_bytes())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.writer.write_all(bytes).map_err(RemoteError::Output)
    }

    /// Pads data of this size to a whole block.
    pub(super) fn pad(&mut self, size: u64) -> Result<(), RemoteError> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.write(&[0; BLOCK][..padding as usize])
    }

    /// Writes the end marker.
    pub(super) fn finish(mut self) -> Result<(), RemoteError> {
        self.write(&[0; 2 * BLOCK])?;
        self.flush()?;
        self.writer.flush().map_err(RemoteError::Output)
    }

    fn flush(&mut self) -> Result<(), RemoteError> {
        self.writer.write_all(&self.buffer).map_err(RemoteError::Output)?;
        self.buffer.clear();
        Ok(())
    }

    fn header(&self, kind: EntryType, path: &[u8], link: &[u8], mode: u32, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        let fields = header.as_old_mut();
        put(&mut fields.name, path);
        put(&mut fields.linkname, link);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_mtime(self.time);
        header.set_cksum();
        header
    }
}

/// Whether a text fits in a header field. Readers decode bytes beyond ASCII there by their own character set.
fn fits(text: &[u8]) -> bool {
    text.len() <= 100 && text.is_ascii()
}

/// Stores as much of a text as fits.
fn put(field: &mut [u8; 100], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Appends a record: length, space, key, equals sign, value, line end. The length counts its own digits.
fn write_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, len) in [(0, 8), (1, 9), (2, 11), (90, 99), (91, 101), (990, 1001), (991, 1002)] {
            let mut records = Vec::new();
            write_record(&mut records, "path", &vec![b'x'; value]);
            assert_eq!(records.len(), len);
            assert!(records.starts_with(format!("{len} path=").as_bytes()));
        }
    }
}
