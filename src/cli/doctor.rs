//! `longshore doctor`: checks what this machine offers, and says what each finding means.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::app;
use crate::config::Config;
use crate::domain::{ByteCount, Clock, SystemClock, UnixTime};
use crate::io::probe;

enum Finding {
    Good(String),
    /// Works, but not as well as it could.
    Weak(String),
    Bad(String),
}

/// 2026-01-01T00:00:00Z, before which this program did not exist.
const BORN: UnixTime = UnixTime(1_767_225_600_000);

pub(super) fn run(config: &Config) -> ExitCode {
    let installation = installation(config);
    // A directory that does not exist yet will be on the file system of its parent.
    let existing = config.data_dir.ancestors().find(|dir| !dir.as_os_str().is_empty() && dir.is_dir());
    let dir = existing.unwrap_or(Path::new("."));
    let findings = [
        ("installation", installation),
        ("data directory", directory(dir)),
        ("io_uring", io_uring()),
        ("direct I/O", direct_io(dir)),
        ("reflink", reflink(dir)),
        ("free space", free_space(dir, config.io.reserve.0)),
        ("clock", clock()),
        ("secrets", secrets(config)),
        ("TLS", tls(config)),
    ];
    let mut code = ExitCode::SUCCESS;
    for (what, finding) in findings {
        let (mark, text) = match finding {
            Finding::Good(text) => ("ok  ", text),
            Finding::Weak(text) => ("weak", text),
            Finding::Bad(text) => {
                code = ExitCode::FAILURE;
                ("BAD ", text)
            }
        };
        // A reader who has gone away still gets the exit code.
        let _ = writeln!(std::io::stdout(), "{mark}  {what}: {text}");
    }
    code
}

fn directory(dir: &Path) -> Finding {
    match tempfile_in(dir) {
        Ok(()) => Finding::Good(format!("{} can be written", dir.display())),
        Err(error) => Finding::Bad(format!("{} cannot be written ({error}); serve cannot start", dir.display())),
    }
}

fn installation(config: &Config) -> Finding {
    match app::require_installation(config) {
        Ok(()) => Finding::Good(format!("is in {}", config.data_dir.display())),
        Err(error) => Finding::Bad(format!("{error:#}")),
    }
}

fn secrets(config: &Config) -> Finding {
    match app::exposed(config) {
        told if told.is_empty() => Finding::Good("data, configuration and TLS key are their owner's alone".to_owned()),
        told => Finding::Weak(told.join("; ")),
    }
}

fn tls(config: &Config) -> Finding {
    match app::check_tls(config) {
        Ok(true) => Finding::Good("certificates and keys can be used".to_owned()),
        Ok(false) => Finding::Good("is not configured; HTTP is plain".to_owned()),
        Err(error) => Finding::Bad(format!("{error:#}; serve cannot start")),
    }
}

fn tempfile_in(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!("doctor-{}", std::process::id()));
    std::fs::write(&path, b"x")?;
    std::fs::remove_file(path)
}

fn io_uring() -> Finding {
    match probe::io_uring() {
        Ok(()) => Finding::Good("works; files are moved with the least CPU".to_owned()),
        Err(error) => Finding::Weak(format!(
            "does not work here ({error}); threads move the files instead, at more CPU per byte. Container runtimes often forbid it"
        )),
    }
}

fn direct_io(dir: &Path) -> Finding {
    match probe::direct_io(dir) {
        Ok(()) => Finding::Good("works; large uploads leave the page cache alone".to_owned()),
        Err(error) => Finding::Weak(format!(
            "this file system has none ({error}); uploads go through the page cache, at about twice the CPU"
        )),
    }
}

fn reflink(dir: &Path) -> Finding {
    match probe::reflink(dir) {
        Ok(()) => Finding::Good("works; a clone takes no time and no space".to_owned()),
        Err(error) => Finding::Weak(format!(
            "this file system has none ({error}); a clone copies its bytes. XFS and Btrfs have it"
        )),
    }
}

fn free_space(dir: &Path, reserve: ByteCount) -> Finding {
    match probe::free_space(dir) {
        Ok(free) if free <= reserve => {
            Finding::Bad(format!("{free} bytes, within the reserve of {reserve}; every upload is refused"))
        }
        Ok(free) => Finding::Good(format!("{free} bytes, of which {reserve} are kept free")),
        Err(error) => Finding::Bad(format!("cannot be read ({error})")),
    }
}

fn clock() -> Finding {
    let now = SystemClock.now();
    if now < BORN {
        return Finding::Bad("is set before 2026; download links would expire wrongly. Set it, or run NTP".to_owned());
    }
    Finding::Good("is plausible; download links expire by it".to_owned())
}
