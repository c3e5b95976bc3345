//! Stores a stream as a tree of one file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat2};

use super::account::Account;
use super::digests::{Digest, DigestLog, FileDigester};
use super::directories::BENEATH;
use super::error::{Budget, Place, Rule, UnpackCause, UnpackError};
use super::unpack::Unpacked;
use super::{Limits, name};

/// Bytes per read.
const BUFFER: usize = 256 << 10;

/// Writes everything from `reader` into one file with this name in `root`, an empty directory, and records its digest.
/// Nothing is durable when it returns; see [`super::sync`].
pub fn put_file(
    reader: impl Read,
    root: impl AsFd,
    name: &str,
    limits: &Limits,
    digests: &mut DigestLog,
) -> Result<Unpacked, UnpackError> {
    let mut done = Unpacked::default();
    let put = put(reader, root, name, limits, &mut done.bytes)
        .and_then(|digest| digests.put(name.as_bytes(), digest).map_err(UnpackCause::Disk));
    match put {
        Ok(()) => Ok(Unpacked { members: 1, files: 1, apparent: done.bytes, ..done }),
        Err(cause) => Err(UnpackError { place: Place::named(1, name.as_bytes(), done.bytes), cause }),
    }
}

fn put(
    mut reader: impl Read,
    root: impl AsFd,
    name: &str,
    limits: &Limits,
    bytes: &mut u64,
) -> Result<Digest, UnpackCause> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) || name.len() > name::LONGEST {
        return Err(Rule::EmptyName.into());
    }
    // Checks the room that the file system must keep, as for the first member of an archive.
    Account::open(root.as_fd(), limits)?.inode()?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat2(root, name, flags, Mode::from_raw_mode(0o644), BENEATH)?);
    let mut buffer = vec![0; BUFFER];
    let mut digester = FileDigester::of_size(u64::MAX);
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackCause::of_source(error)),
        };
        *bytes += read as u64;
        if *bytes > limits.bytes {
            return Err(Budget::Bytes.into());
        }
        digester.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(UnpackCause::Disk)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_into(name: &str, data: &[u8], room: u64) -> Result<(Unpacked, Vec<u8>), UnpackError> {
        let directory = tempfile::tempdir().unwrap();
        let folder = File::open(directory.path()).unwrap();
        let mut digests = DigestLog::new(tempfile::tempfile);
        let done = put_file(data, &folder, name, &Limits::of_volume(room), &mut digests)?;
        Ok((done, std::fs::read(directory.path().join(name)).unwrap()))
    }

    #[test]
    fn the_file_has_what_came_under_the_name_that_was_given() {
        let data = vec![7; 600_000];
        let (done, stored) = put_into("README.md", &data, 1 << 20).unwrap();
        assert_eq!((done.files, done.bytes), (1, 600_000));
        assert_eq!(stored, data);
    }

    #[test]
    fn a_file_leaves_what_is_kept_of_the_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let folder = File::open(directory.path()).unwrap();
        let limits = Limits { reserve: u64::MAX, ..Limits::of_volume(1 << 20) };
        let mut digests = DigestLog::new(tempfile::tempfile);
        let refused = put_file(&b"x"[..], &folder, "f", &limits, &mut digests).unwrap_err();
        assert!(matches!(refused.cause, UnpackCause::NoRoom(_)), "{refused:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_name_or_too_large_is_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0b"] {
            assert!(put_into(name, b"x", 1 << 20).is_err(), "{name:?}");
        }
        assert!(matches!(put_into("f", &[0; 101], 100).unwrap_err().cause, UnpackCause::OverBudget(Budget::Bytes)));
    }
}
