//! Files and directories, as the store makes them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::domain::ByteCount;

/// The files beside a draft that is kept, see `kept`.
pub(super) const MAPS: [&str; 2] = ["map.0", "map.1"];

/// A new file that only its owner can open.
pub(super) fn create_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)
}

/// The bytes of a file.
pub(super) fn length(file: &File) -> io::Result<ByteCount> {
    Ok(ByteCount::new(file.metadata()?.len()).unwrap_or(ByteCount::MAX))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes what a draft that is published needs no more. What stays is found by the next attempt to go on with it.
pub(super) fn remove_maps(folder: &Path) {
    for name in MAPS {
        let _ = fs::remove_file(folder.join(name));
    }
}
