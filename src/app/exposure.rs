//! What other users of the machine could read, or could have us write through.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::config::Config;

/// What is found by its name in the data directory.
const NAMES: [&str; 20] = [
    "access.key",
    "admin.credentials",
    "backups",
    "ballast",
    "drives",
    "endpoint",
    "hpc-ai.key",
    "incoming",
    "lock",
    "lost",
    "meta.sqlite",
    "meta.sqlite-shm",
    "meta.sqlite-wal",
    "ticket.key",
    "trash",
    "tree-records",
    "tree-scratch",
    "tree-trash",
    "trees",
    "tree-records.new",
];

/// Files that others can read though they hold secrets or what tenants have stored; one sentence for each.
pub fn exposed(config: &Config) -> Vec<String> {
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
        // What is not there yet is made for its owner alone.
        let mode = fs::metadata(path).ok()?.permissions().mode();
        let is_open = mode & open != 0;
        is_open.then(|| format!("{what} {} is open to other users: chmod {better} {0}", path.display()))
    };
    all.into_iter().filter_map(told).collect()
}

/// Refuses links in the place of what we keep in the data directory: whoever can plant one there would have us read or
/// write what it names. The directory itself may be one.
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

/// From now on this process leaves no core dump, which would have keys and what tenants send in it: neither a file nor
/// what a program is given that the kernel runs instead, to which no limit applies (core(5)).
pub fn forbid_core_dumps() {
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
