//! What the commands that are clients of a server have in common: the server, the login, and how they end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{runtime, usage};
use crate::client::{Client, ClientError, Login};
use crate::config::Size;

/// What their long help says at its end.
pub(super) const HELP: &str = "\
Login (the first of these; never on the command line):
  --user-file FILE                       user:password, as `longshore init` and `user add` write it
  LONGSHORE_TOKEN                        a token of the identity service
  LONGSHORE_USER and LONGSHORE_PASSWORD
  $NETRC, else ~/.netrc                  as curl reads it, by the host's name

Exit codes:
  0    done
  1    a file on this side, or an answer that makes no sense
  2    the command line is wrong
  3    no login, or the server refuses it
  4    there is no such drive or transfer
  5    the source changed since a part of it was moved, or is not what the list says
  6    what arrived is not what was sent
  7    out of reach for too long: the same command goes on
  8    the server refuses, for want of room or quota, or for a conflict
  9    of several files, some are not uploaded: the table tells which, and the same command goes on with them;
       after 3 and 7 none of the others is begun
  130  interrupted: the same command goes on";

/// The exit codes of a command that a signal ended, as a shell tells them.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// The least limit on the bytes in a second: servers cut who is slower.
const LEAST: u64 = 16 << 10;

/// Returns the limit on the bytes in a second.
pub(super) fn limit(rate: Option<Size>) -> anyhow::Result<Option<u64>> {
    let rate = rate.map(|rate| rate.0.get());
    if rate.is_some_and(|rate| rate < LEAST) {
        return Err(usage("--bwlimit is 16KiB at least: servers cut who is slower"));
    }
    Ok(rate)
}

/// The server, the login and the form of what is printed.
#[derive(Args)]
pub(super) struct Connection {
    /// The server
    #[arg(long, global = true, env = "LONGSHORE_URL", default_value = "http://127.0.0.1:8700", value_name = "URL")]
    url: String,
    /// Log in with the first line of this file, user:password
    #[arg(long, global = true, value_name = "FILE")]
    user_file: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Give up after so many seconds without progress
    #[arg(long, global = true, default_value_t = 600, value_name = "SECONDS")]
    patience: u64,
}

impl Connection {
    /// Runs a command as a client of the server. `goes_on` is told when a signal ends it.
    pub(super) fn run(
        &self,
        goes_on: &str,
        command: impl AsyncFnOnce(Client) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let environment: Vec<_> = std::env::vars_os().collect();
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, value)| key == name && !value.is_empty());
            found.map(|(_, value)| PathBuf::from(value))
        };
        let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
        let records = state.unwrap_or_default().join("longshore");
        let login = Login::find(&Client::host(&self.url)?, self.user_file.as_deref(), &environment);
        let login = login.map_err(ClientError::from)?;
        let client = Client::new(&self.url, login, Duration::from_secs(self.patience), records)?;
        let runtime = runtime()?;
        let ended = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let code = tokio::select! {
                done = command(client) => return done.map(|()| ExitCode::SUCCESS),
                _ = interrupt.recv() => INTERRUPTED,
                _ = terminate.recv() => TERMINATED,
            };
            super::progress::say(&format!("longshore: interrupted; {goes_on}"));
            Ok(ExitCode::from(code))
        });
        // A thread may read a whole file for its digest, which nobody waits for any more.
        runtime.shutdown_background();
        ended
    }
}
