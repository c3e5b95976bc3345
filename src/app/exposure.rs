//! Files that other users of the machine could read, and links by which they could redirect what we write.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::config::Config;

/// The names of files and directories in the data directory.
const NAMES: [&str; 23] = [
    "access.key",
    "admin.credentials",
    "backups",
    "ballast",
    "drives",
    "endpoint",
    "fetch-scratch",
    "hpc-ai.key",
    "receipts.key",
    "incoming",
    "lock",
    "lost",
    "meta.sqlite",
    "meta.sqlite-shm",
    "meta.sqlite-wal",
    "ticket.key",
    "trash",
    "tree-digests",
    "tree-records",
    "tree-scratch",
    "tree-trash",
    "trees",
    "tree-records.new",
];

/// Returns a sentence for each file that others can read though it holds secrets or data of tenants.
pub(crate) fn exposed(config: &Config) -> Vec<String> {
    let mut all = vec![
        (Some(&*config.data_dir), 0o077, "the data directory", "0700"),
        (config.file.as_deref(), 0o044, "the configuration", "0600"),
    ];
    let mut keys: Vec<&Path> = [&config.direct, &config.control]
        .into_iter()
        .filter_map(|side| config.tls_of(side).map(|(_, key)| key))
        .collect();
    keys.dedup();
    all.extend(keys.into_iter().map(|key| (Some(key), 0o044, "the private key of TLS", "0600")));
    let told = |(path, open, what, better): (Option<&Path>, u32, &str, &str)| {
        let path = path?;
        // A missing file will be made for its owner only.
        let mode = fs::metadata(path).ok()?.permissions().mode();
        let is_open = mode & open != 0;
        is_open.then(|| format!("{what} {} is open to other users: chmod {better} {0}", path.display()))
    };
    all.into_iter().filter_map(told).collect()
}

/// Refuses links in place of our files in the data directory: an attacker who can plant one would make us read or write
/// its target. The directory itself may be a link.
pub(super) fn refuse_links(data_dir: &Path) -> anyhow::Result<()> {
    for name in NAMES {
        let path = data_dir.join(name);
        match path.symlink_metadata() {
            Ok(found) if found.file_type().is_symlink() => {
                bail!("{} is a symbolic link, and is not followed: put there what it names", path.display());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot look at {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Forbids core dumps of this process, which would hold keys and data of tenants: both the file and the pipe to a
/// program that the kernel runs instead, to which no limit applies (core(5)).
pub(crate) fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let outcome = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = outcome {
        tracing::warn!(error = %io::Error::from(error), "core dumps cannot be turned off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_the_place_of_what_we_keep_are_refused_wherever_they_lead() {
        for name in NAMES {
            let dir = tempfile::tempdir().unwrap();
            refuse_links(dir.path()).unwrap();
            std::os::unix::fs::symlink("/nowhere", dir.path().join(name)).unwrap();
            assert!(refuse_links(dir.path()).is_err(), "{name}");
        }
    }
}
