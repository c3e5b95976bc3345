//! The floors of the house: one package gives us no walls made by the compiler, so this test makes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may name of its siblings, beside itself. The order is that of the architecture page.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("io", &["domain"]),
    ("archive", &["domain", "io"]),
    ("meta", &["domain"]),
    ("remote", &["domain"]),
    ("tree", &["domain"]),
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
    ("cli", &["app", "archive", "auth", "config", "domain", "io", "meta", "metrics"]),
];

/// Crates that only some modules may name, each for one job.
const CRATES: &[(&str, &[&str])] = &[
    ("hyper::", &["server", "remote"]),
    ("proxy_header::", &["server"]),
    ("sqlx::", &["meta"]),
    ("tokio_uring::", &["io"]),
    ("clap::", &["cli"]),
    ("anyhow::", &["app", "cli"]),
    ("tokio_rustls::", &["server", "remote"]),
    ("rustls::", &["server", "remote"]),
    ("rustls_native_certs::", &["remote"]),
    ("url::", &["remote"]),
    ("gix_hash::", &["remote"]),
    ("gix_object::", &["remote"]),
    ("gix_packetline::", &["remote"]),
    ("prometheus_client::", &["metrics"]),
    ("argon2::", &["auth"]),
    ("jsonwebtoken::", &["auth"]),
    ("libc::", &["cli"]),
    ("tar::", &["tree", "remote"]),
    ("flate2::", &["tree", "remote"]),
    ("zstd::", &["tree", "archive"]),
    ("object_store::", &["archive"]),
    ("futures_util::", &["archive", "control", "meta"]),
    ("quick_xml::", &["dialect"]),
];

/// It is there in tests only, and uses nothing.
const OF_TESTS: &str = "skipped";

#[test]
fn a_module_imports_only_from_floors_below_it() {
    let mut breaches = Vec::new();
    for (path, module, text) in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            assert!(["lib", "main"].contains(&&*module), "{module} has no place in the table of floors");
            continue;
        };
        for used in text.lines().filter(|line| !is_comment(line)).flat_map(crate_paths) {
            if used != module && used != OF_TESTS && !allowed.contains(&&*used) {
                breaches.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn a_crate_with_one_job_is_named_in_one_place() {
    let mut breaches = Vec::new();
    for (path, module, text) in sources() {
        for (name, allowed) in CRATES {
            let names_it = text.lines().filter(|line| !is_comment(line)).any(|line| starts_path(line, name));
            if names_it && !allowed.contains(&&*module) {
                breaches.push(format!("{} names {name}", path.display()));
            }
        }
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

/// Path, top-level module and text of every source file.
fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let first = path.strip_prefix(&root).expect("beneath the root").components().next().expect("a module");
                let module = Path::new(first.as_os_str())
                    .file_stem()
                    .expect("a name")
                    .to_str()
                    .expect("an ASCII name")
                    .to_owned();
                let text = fs::read_to_string(&path).expect("a source can be read");
                found.push((path, module, text));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// The modules that a line names as `crate::module`.
fn crate_paths(line: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.split("crate::").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

/// Whether `name`, which ends in `::`, starts a path in this line.
fn starts_path(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
