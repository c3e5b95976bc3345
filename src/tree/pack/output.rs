//! The output stream: headers, data and padding, in large writes.

use std::io::{self, Write};

use rustix::fs::Stat;
use tar::{EntryType, Header};

use super::super::Attribute;
use super::super::pax::{Time, write_attribute, write_record};
use super::super::stream::BLOCK;
use super::{PackCause, mtime};
use crate::domain::Extent;

/// Bytes that are collected for a write.
const BUFFER: usize = 256 << 10;

/// The least size of a read from a file, unless less is left of it.
const LEAST: usize = 16 << 10;

/// The largest numbers in eleven and in seven octal digits.
const OCTAL_11: u64 = 0o77_777_777_777;
const OCTAL_7: u32 = 0o7_777_777;

/// One member to write.
pub(super) struct Written<'a> {
    pub(super) kind: EntryType,
    pub(super) name: &'a [u8],
    pub(super) link: &'a [u8],
    /// Bytes that follow the header.
    pub(super) size: u64,
    /// The size of the file, if it is sparse.
    pub(super) sparse: Option<u64>,
    pub(super) attributes: Vec<Attribute>,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
}

impl<'a> Written<'a> {
    pub(super) fn new(kind: EntryType, name: &'a [u8], stat: &Stat) -> Self {
        Self {
            kind,
            name,
            link: &[],
            size: 0,
            sparse: None,
            attributes: Vec::new(),
            device: (0, 0),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(stat),
        }
    }

    /// The extended records for values that do not fit into the header.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let name = (self.sparse.is_some() || !fits(self.name)).then_some(self.name);
        let link = (!fits(self.link)).then_some(self.link);
        if [name, link].into_iter().flatten().any(|text| std::str::from_utf8(text).is_err()) {
            write_record(&mut records, b"hdrcharset", b"BINARY");
        }
        if let Some(size) = self.sparse {
            write_record(&mut records, b"GNU.sparse.major", b"1");
            write_record(&mut records, b"GNU.sparse.minor", b"0");
            write_record(&mut records, b"GNU.sparse.realsize", size.to_string().as_bytes());
        }
        if let Some(name) = name {
            let key: &[u8] = if self.sparse.is_some() { b"GNU.sparse.name" } else { b"path" };
            write_record(&mut records, key, name);
        }
        if let Some(link) = link {
            write_record(&mut records, b"linkpath", link);
        }
        if self.size > OCTAL_11 {
            write_record(&mut records, b"size", self.size.to_string().as_bytes());
        }
        for (key, id) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if id > OCTAL_7 {
                write_record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if self.mtime.nanoseconds != 0 || !(0..=OCTAL_11 as i64).contains(&self.mtime.seconds) {
            write_record(&mut records, b"mtime", self.mtime.to_record().as_bytes());
        }
        for (name, value) in &self.attributes {
            write_attribute(&mut records, name, value);
        }
        records
    }

    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        let fields = header.as_old_mut();
        if self.sparse.is_some() {
            // A reader that does not know sparse files unpacks the map and the data under this name.
            put(&mut fields.name, &[b"GNUSparseFile.0/", last(self.name)].concat());
        } else {
            put(&mut fields.name, self.name);
        }
        put(&mut fields.linkname, self.link);
        header.set_mode(self.mode);
        header.set_uid(if self.uid > OCTAL_7 { 0 } else { self.uid.into() });
        header.set_gid(if self.gid > OCTAL_7 { 0 } else { self.gid.into() });
        header.set_size(if self.size > OCTAL_11 { 0 } else { self.size });
        header.set_mtime(self.mtime.seconds.clamp(0, OCTAL_11 as i64).cast_unsigned());
        if let Some(fields) = header.as_ustar_mut() {
            fields.set_device_major(self.device.0);
            fields.set_device_minor(self.device.1);
        }
        header.set_cksum();
        header
    }
}

/// Whether a name can stand in a header unchanged. Readers decode other bytes than ASCII there with their own character
/// set, but bytes that are not UTF-8 are no better off in a record.
fn fits(name: &[u8]) -> bool {
    name.len() <= 100 && (name.is_ascii() || std::str::from_utf8(name).is_err())
}

/// Writes as much of a name as fits.
fn put(field: &mut [u8; 100], name: &[u8]) {
    let len = name.len().min(field.len());
    field[..len].copy_from_slice(&name[..len]);
}

fn last(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|byte| *byte == b'/').next().unwrap_or(name)
}

/// A tar stream that is being written.
pub(super) struct Output<W> {
    writer: W,
    buffer: Box<[u8]>,
    used: usize,
    written: u64,
}

impl<W: Write> Output<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, buffer: vec![0; BUFFER].into(), used: 0, written: 0 }
    }

    /// Writes the headers of a member.
    pub(super) fn member(&mut self, member: &Written<'_>) -> Result<(), PackCause> {
        let records = member.records();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            put(&mut header.as_old_mut().name, &[b"PaxHeaders.0/", last(member.name)].concat());
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            self.write(header.as_bytes())?;
            self.write(&records)?;
            self.pad()?;
        }
        self.write(member.header().as_bytes())
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), PackCause> {
        while !bytes.is_empty() {
            if self.used == self.buffer.len() {
                self.flush()?;
            }
            let part = bytes.len().min(self.buffer.len() - self.used);
            self.buffer[self.used..self.used + part].copy_from_slice(&bytes[..part]);
            self.used += part;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// Writes a run of a file; `read` fills a buffer from an offset.
    pub(super) fn copy(
        &mut self,
        run: Extent,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<(), PackCause> {
        let (mut at, end) = (run.offset, run.offset + run.len);
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            if self.buffer.len() - self.used < left.min(LEAST) {
                self.flush()?;
            }
            let part = left.min(self.buffer.len() - self.used);
            match read(&mut self.buffer[self.used..self.used + part], at) {
                Ok(0) => return Err(PackCause::Changed),
                Ok(got) => {
                    self.used += got;
                    at += got as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PackCause::Disk(error)),
            }
        }
        Ok(())
    }

    /// Fills the last block with zeros.
    pub(super) fn pad(&mut self) -> Result<(), PackCause> {
        let at = self.written + self.used as u64;
        let padding = at.next_multiple_of(BLOCK as u64) - at;
        self.write(&[0; BLOCK][..padding as usize])
    }

    /// Writes the end marker and the rest of the buffer; returns the size of the stream.
    pub(super) fn finish(&mut self) -> Result<u64, PackCause> {
        self.write(&[0; 2 * BLOCK])?;
        self.flush()?;
        self.writer.flush().map_err(PackCause::Sink)?;
        Ok(self.written)
    }

    fn flush(&mut self) -> Result<(), PackCause> {
        self.writer.write_all(&self.buffer[..self.used]).map_err(PackCause::Sink)?;
        self.written += self.used as u64;
        self.used = 0;
        Ok(())
    }
}
