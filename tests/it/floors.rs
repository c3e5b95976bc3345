//! The floors of the crate: within one package the compiler enforces no such borders, so this test does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The siblings that each module may name, in the order of the architecture page.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("io", &["domain"]),
    ("archive", &["domain", "io"]),
    ("meta", &["domain"]),
    ("remote", &["domain"]),
    ("tree", &["domain"]),
    ("client", &["domain", "tree"]),
    ("store", &["domain", "io", "tree"]),
    ("auth", &["domain", "meta", "remote"]),
    ("transfer", &["domain", "io", "store", "tree"]),
    ("dialect", &["domain"]),
    ("metrics", &["transfer"]),
    ("control", &["archive", "auth", "domain", "io", "meta", "metrics", "remote", "store", "transfer", "tree"]),
    ("server", &["auth", "control", "dialect", "domain", "io", "metrics", "transfer"]),
    ("config", &["archive", "domain", "remote"]),
    (
        "app",
        &[
            "archive", "auth", "config", "control", "domain", "io", "meta", "metrics", "remote", "server", "store",
            "transfer", "tree",
        ],
    ),
    // Commands change nothing but by use cases, as everybody does.
    // The check of a receipt needs no installation: it digests a file, and may fetch keys.
    ("cli", &["app", "auth", "client", "config", "control", "domain", "io", "metrics", "remote", "transfer"]),
];

/// Crates that only some modules may name, each for one purpose. A module is a path beneath `src` without `.rs`, and
/// includes the modules beneath it.
const CRATES: &[(&str, &[&str])] = &[
    ("hyper::", &["server", "remote"]),
    // The types of messages: for modules that receive and send them, and for `auth`, which reads logins from header
    // fields. `archive` splits URLs.
    ("http::", &["dialect", "server", "remote", "auth", "archive/mod", "config/values"]),
    ("proxy_header::", &["server"]),
    ("sqlx::", &["meta"]),
    ("tokio_uring::", &["io/ring"]),
    ("io_uring::", &["io/ring"]),
    ("clap::", &["cli"]),
    ("anyhow::", &["app", "cli"]),
    ("tokio_rustls::", &["server", "remote"]),
    ("rustls::", &["server", "remote"]),
    ("rustls_native_certs::", &["remote"]),
    ("reqwest::", &["client"]),
    ("indicatif::", &["cli/progress"]),
    ("url::", &["remote"]),
    ("gix_hash::", &["remote/git"]),
    ("gix_object::", &["remote/git"]),
    ("gix_packetline::", &["remote/git"]),
    ("prometheus_client::", &["metrics"]),
    ("argon2::", &["auth/passwords"]),
    ("jsonwebtoken::", &["auth/jwt", "auth/receipts", "auth/signing_keys"]),
    ("libc::", &["cli/allocator", "meta/sqlite/mapped"]),
    ("memmap2::", &["io/pool", "server/regions", "tree/large"]),
    ("tar::", &["tree", "remote/git"]),
    ("flate2::", &["tree", "remote/git"]),
    ("zstd::", &["tree", "archive", "transfer/expand", "client/coding"]),
    ("object_store::", &["archive"]),
    ("futures_util::", &["archive", "client", "control", "meta", "cli/upload"]),
    ("quick_xml::", &["dialect/openstack/xml"]),
    // The encodings of requests, columns, manifests, tokens and of the records beside a tree. `domain` has such values,
    // which belong to their owners, and modules that create volumes pass them on; the log's test reads its own output.
    (
        "serde_json::",
        &[
            "dialect",
            "meta",
            "archive/manifest",
            "auth/jwt",
            "auth/receipts",
            "auth/signing_keys",
            "remote/keystone",
            "remote/glance",
            "store/trees",
            "domain",
            "control",
            "cli/log",
            "cli/progress",
            "client",
            "cli/verify",
            "cli/upload",
        ],
    ),
    // System calls, for floors that own descriptors or the process. Faults know the numbers of system errors, as do the
    // tests of their conversion.
    (
        "rustix::",
        &[
            "io",
            "store",
            "tree",
            "meta",
            "server",
            "app",
            "cli/log",
            "client/scan",
            "client/sink",
            "auth/private_file",
            "domain/fault",
            "auth/keystone",
            "remote/error",
        ],
    ),
];

/// A module that exists in tests only, and uses nothing.
const OF_TESTS: &str = "skipped";

#[test]
fn a_module_imports_only_from_floors_below_it() {
    let mut breaches = Vec::new();
    for (place, text) in sources() {
        let module = place.iter().next().and_then(|part| part.to_str()).expect("an ASCII name");
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            assert!(["lib", "main"].contains(&module), "{module} has no place in the table of floors");
            continue;
        };
        for used in code(&text).flat_map(crate_paths) {
            if used != module && used != OF_TESTS && !allowed.contains(&&*used) {
                breaches.push(format!("{} uses crate::{used}", place.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// A module that no longer names its crate must leave the table: otherwise it could name the crate again unnoticed.
#[test]
fn a_crate_with_one_job_is_named_by_the_modules_of_the_table_and_no_other() {
    let mut breaches = Vec::new();
    let sources = sources();
    for (name, allowed) in CRATES {
        let mut unused = allowed.to_vec();
        for (place, _) in sources.iter().filter(|(_, text)| code(text).any(|line| starts_path(line, name))) {
            unused.retain(|module| !place.starts_with(module));
            if !allowed.iter().any(|module| place.starts_with(module)) {
                breaches.push(format!("{} names {name}", place.display()));
            }
        }
        breaches.extend(unused.iter().map(|module| format!("{module} does not name {name}")));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn no_module_uses_another_that_uses_it() {
    let below: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (module, allowed) in MAY_USE {
        for other in *allowed {
            assert!(!below[other].contains(module), "{module} and {other} use each other");
        }
    }
}

/// Returns the path beneath `src`, without `.rs`, and the text of every source file.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let place = path.strip_prefix(&root).expect("beneath the root").with_extension("");
                found.push((place, fs::read_to_string(path).expect("a source can be read")));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// Returns the lines of a source that are not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Returns the modules that a line names as `crate::module`.
fn crate_paths(line: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.split("crate::").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

/// Returns whether a path in this line begins with `name`, which ends in `::`.
fn starts_path(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
