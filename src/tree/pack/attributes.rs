//! Reads the extended attributes of a file or directory that is packed.

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use super::super::{ACL_ACCESS, ACL_DEFAULT, Attribute, CAPABILITY};

/// The most that Linux returns: for the names of one file, and for one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MOST: usize = 64 << 10;

/// Returns names and values, sorted by name.
pub(super) fn read(fd: impl AsFd) -> Result<Vec<Attribute>, Errno> {
    let mut found = Vec::new();
    let mut names = [0; 256];
    let names = match flistxattr(&fd, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(found),
        Ok(len) => names[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut names = vec![0; MOST];
            let len = flistxattr(&fd, &mut names[..])?;
            names.truncate(len);
            names
        }
        Err(error) => return Err(error),
    };
    for name in names.split(|byte| *byte == 0) {
        if name.starts_with(b"user.") || [ACL_ACCESS, ACL_DEFAULT, CAPABILITY].contains(&name) {
            let mut value = vec![0; MOST];
            let len = fgetxattr(&fd, name, &mut value[..])?;
            found.push((name.to_vec(), value[..len].to_vec()));
        }
    }
    found.sort_unstable();
    Ok(found)
}
