//! Trees of git repositories, which the real git serves over its own protocol and over HTTP.

pub(crate) mod served;

use std::fs::{self, File};
use std::path::Path;

use longshore::remote::{Flaw, Location, Policy, Remote, RemoteError};
use longshore::tree::{self, Limits};
use tokio::runtime::Runtime;

use self::served::{Served, git};
use crate::harness::Scratch;
use crate::tree::snapshot::{listing, snapshot};

/// Fetches from a port of this machine.
fn fetched(port: u16, url: &str) -> Result<Vec<u8>, RemoteError> {
    let networks = vec!["127.0.0.1".parse().expect("a network")];
    let remote = Remote::new(Policy { ports: vec![port], networks, ..Policy::default() });
    let Ok(Location::Git(repository)) = Location::parse(url) else { panic!("{url} is a repository") };
    let runtime = Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let scratch = Scratch::new();
    let mut stream = Vec::new();
    remote.git_as_tar(&repository, scratch.path(), &mut stream, &|| Ok(())).map(|()| stream)
}

/// Unpacks a tar stream; returns the listing of the tree.
fn unpacked(stream: &[u8]) -> String {
    let scratch = Scratch::new();
    let root = File::open(scratch.path()).expect("a directory");
    tree::unpack(stream, &root, &Limits::of_volume(1 << 30), &tree::Policy::default()).expect("it is unpacked");
    listing(&snapshot(scratch.path()))
}

/// Returns the listing of the tree that git itself would archive.
fn archived(repository: &Path, rev: &str) -> String {
    let archive = git(repository, &["-c", "tar.umask=022", "archive", "--format=tar", rev]);
    unpacked(&archive)
}

#[test]
fn a_repository_comes_as_git_itself_would_archive_it() {
    let served = Served::new();
    let repository = served.make();
    let chains = git(&repository, &["verify-pack", "-v", &Served::pack(&repository)]);
    assert!(String::from_utf8_lossy(&chains).contains("chain length = 2"), "there are deltas of deltas");
    for (branch, rev) in [
        ("", "main"),
        (":main", "main"),
        (":old", "old"),
        (":feature/x", "feature/x"),
        (":light", "light"),
        (":v1", "v1"),
    ] {
        let expected = archived(&repository, rev);
        assert!(expected.lines().count() > 5, "{expected}");
        let by_daemon = fetched(served.daemon, &served.git_url(branch));
        assert_eq!(unpacked(&by_daemon.unwrap()), expected, "{branch}");
        let by_http = fetched(served.http, &served.http_url(branch));
        assert_eq!(unpacked(&by_http.unwrap()), expected, "{branch}");
        let by_old_http = fetched(served.old_http, &served.old_http_url(branch));
        assert_eq!(unpacked(&by_old_http.unwrap()), expected, "{branch}");
    }
}

#[test]
fn only_the_tip_is_fetched() {
    let served = Served::new();
    let repository = served.make();
    let work = served.work();
    // A file beyond the policy's limit, in a commit that is not the last.
    fs::write(work.join("larger"), noise(6 << 20)).unwrap();
    git(&work, &["add", "--all"]);
    git(&work, &["commit", "--quiet", "--message=large"]);
    git(&work, &["rm", "--quiet", "larger"]);
    git(&work, &["commit", "--quiet", "--message=small"]);
    git(&work, &["push", "--quiet", repository.to_str().unwrap(), "main"]);
    let networks = vec!["127.0.0.1".parse().unwrap()];
    let ports = vec![served.daemon, served.http, served.old_http];
    let remote = Remote::new(Policy { ports, networks, max_bytes: 4 << 20, ..Policy::default() });
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    for url in [served.git_url(""), served.http_url(""), served.old_http_url("")] {
        let Ok(Location::Git(repository)) = Location::parse(&url) else { panic!("{url} is a repository") };
        let fetch = |remote: &Remote| {
            let scratch = Scratch::new();
            remote.git_as_tar(&repository, scratch.path(), std::io::sink(), &|| Ok(()))
        };
        fetch(&remote).unwrap();
        assert!(matches!(fetch(&remote.at_most(10_000)), Err(RemoteError::TooLarge(_))), "{url}");
    }
}

#[test]
fn what_is_not_served_is_told_from_what_is_not_there() {
    let served = Served::new();
    served.make();
    let nothing = |port: u16, url: &str| fetched(port, url).map(|_| ()).unwrap_err();
    let absent = format!("git://127.0.0.1:{}/absent.git", served.daemon);
    assert!(matches!(nothing(served.daemon, &absent), RemoteError::NoRepository));
    let absent = format!("http://127.0.0.1:{}/absent.git", served.http);
    assert!(matches!(nothing(served.http, &absent), RemoteError::Status(status) if status == 404));
    for branch in [":nothing", ":mai", ":feature"] {
        assert!(matches!(nothing(served.daemon, &served.git_url(branch)), RemoteError::NoBranch));
        assert!(matches!(nothing(served.http, &served.http_url(branch)), RemoteError::NoBranch));
        assert!(matches!(nothing(served.old_http, &served.old_http_url(branch)), RemoteError::NoBranch));
    }
    let no_commit = nothing(served.daemon, &served.git_url(":blob"));
    assert!(matches!(no_commit, RemoteError::Flaw(Flaw::NotACommit)), "{no_commit:?}");
}

#[test]
fn a_repository_without_commits_and_one_of_sha256_are_told_as_that() {
    let served = Served::new();
    served.init("--object-format=sha1");
    for (port, url) in [
        (served.daemon, served.git_url("")),
        (served.http, served.http_url("")),
        (served.old_http, served.old_http_url("")),
    ] {
        assert!(matches!(fetched(port, &url), Err(RemoteError::NoHead)), "{url}");
    }
    let served = Served::new();
    served.init("--object-format=sha256");
    for (port, url) in [(served.daemon, served.git_url("")), (served.http, served.http_url(""))] {
        let result = fetched(port, &url).map(|_| ());
        assert!(matches!(result, Err(RemoteError::Flaw(Flaw::Sha256))), "{url}: {result:?}");
    }
}

/// Returns bytes that do not compress, and are the same on every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}
