//! `longshore completion` and `longshore man`: files for shells and for `man`, made of the commands themselves.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_complete::{Shell, generate};

pub(super) fn completion(shell: Shell, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(shell, &mut command, "longshore", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn manual(dir: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let made = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    made.with_context(|| format!("cannot write the manual into {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
