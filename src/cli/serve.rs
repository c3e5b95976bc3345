//! `longshore serve`: runs the server until a signal.

use std::pin::pin;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::{allocator, runtime};
use crate::app::App;
use crate::config::Config;
use crate::metrics::DroppedLines;

pub(super) fn run(config: Config, accept_loss: bool, dropped_lines: DroppedLines) -> anyhow::Result<ExitCode> {
    allocator::give_back_large_memory();
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let drain = config.limits.drain;
        let app = App::start(config, accept_loss, dropped_lines).await?;
        if let Err(error) = print_usage(&app) {
            tracing::warn!(%error, "cannot print how to use this server");
        }
        let mut gives_back = pin!(allocator::give_back_freed_memory());
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => app.reload(),
                never = gives_back.as_mut() => match never {},
            }
        }
        tracing::info!(seconds = drain.as_secs_f64(), "stopping; running transfers have this long");
        tokio::select! {
            () = app.stop() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::FAILURE),
            _ = interrupt.recv() => Ok(ExitCode::FAILURE),
        }
    });
    // This ends jobs on blocking threads, which the next start repeats.
    runtime.shutdown_background();
    code
}

/// Prints commands for a new user to paste.
fn print_usage(app: &App) -> std::io::Result<()> {
    use std::io::Write;
    let credentials = app.credentials_path().canonicalize().unwrap_or_else(|_| app.credentials_path());
    let credentials = credentials.display();
    let direct = app.direct_url();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Longshore serves {direct}

Upload a raw disk image (prints the drive's UUID):
  curl --request POST --user \"$(cat {credentials})\" \\
    --header 'Content-Type: application/octet-stream' --upload-file disk.img \\
    {direct}/api/2.0/drives/upload/

Download it again:
  curl --location --remote-name --remote-header-name --user \"$(cat {credentials})\" \\
    {direct}/api/2.0/drives/UUID/download/
"
    )
    .and_then(|()| out.flush())
}
