//! The commands, from arguments to exit code.

mod allocator;
mod backup;
mod database;
mod doctor;
mod image;
mod key;
mod log;
mod project;
mod recover;
mod serve;
mod user;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::config::{Config, Overrides};
use crate::meta::Meta;
use crate::metrics::DroppedLines;

/// Loads drive images and volumes into a cloud over plain HTTP, and unloads them again.
#[derive(Parser)]
#[command(name = "longshore", version, about)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// Read settings from this TOML file
    #[arg(long, global = true, env = "LONGSHORE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep everything in this directory [default: ./longshore-data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve {
        /// Serve at this address; port 0 lets the system pick [default: 127.0.0.1:8700]
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
        /// Serve though the database does not know what is stored here, which is set aside then
        #[arg(long)]
        accept_loss: bool,
    },
    /// Make a new installation, and do not serve it
    Init {
        /// Also where images are and the database is gone
        #[arg(long)]
        accept_loss: bool,
    },
    /// Manage the users who may log in; works while the server runs
    #[command(subcommand)]
    User(user::UserCommand),
    /// Manage projects, which are the tenants, and who may work in them; works while the server runs
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// Manage the access keys that sign requests; works while the server runs
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Manage the drives that volumes are made of as of images; works while the server runs
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Manage the backups of the object storage; works while the server runs
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Back up the database; works while the server runs
    #[command(subcommand)]
    Database(database::DatabaseCommand),
    /// Make volumes again of what is stored here and the database does not know; the server must not run
    Recover(recover::RecoverArguments),
    /// Check what this machine offers, and say what each finding means
    Doctor,
}

/// Not an error: the variable may be mistyped, or not be meant for this program.
const UNKNOWN_VARIABLE: &str = "this variable of the environment names no setting and is passed over";

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // `eprintln` panics when nobody can read it.
            let _ = writeln!(std::io::stderr(), "longshore: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let listen = match &cli.command {
        Command::Serve { listen, .. } => *listen,
        Command::Init { .. }
        | Command::User(_)
        | Command::Project(_)
        | Command::Key(_)
        | Command::Image(_)
        | Command::Backup(_)
        | Command::Database(_)
        | Command::Recover(_)
        | Command::Doctor => None,
    };
    let flags = Overrides { data_dir: cli.common.data_dir, listen };
    let config = Config::load(cli.common.config.as_deref(), std::env::vars_os(), flags)?;
    if !matches!(cli.command, Command::Serve { .. }) {
        for name in &config.unknown_variables {
            let _ = writeln!(std::io::stderr(), "longshore: {UNKNOWN_VARIABLE}: {}", name.escape_debug());
        }
    }
    match cli.command {
        Command::Serve { accept_loss, .. } => {
            let dropped = DroppedLines::default();
            log::start(&config, dropped.clone())?;
            for name in &config.unknown_variables {
                tracing::warn!(name, "{UNKNOWN_VARIABLE}");
            }
            app::forbid_core_dumps();
            serve::run(config, accept_loss, dropped)
        }
        Command::Init { accept_loss } => {
            runtime()?.block_on(app::init(&config, accept_loss))?;
            writeln!(std::io::stdout(), "the first user is in {}", app::credentials_path(&config).display())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::User(command) => user::run(&config, command),
        Command::Project(command) => project::run(&config, command),
        Command::Key(command) => key::run(&config, command),
        Command::Backup(command) => backup::run(&config, command),
        Command::Image(command) => image::run(&config, command),
        Command::Database(command) => database::run(&config, command),
        Command::Recover(arguments) => recover::run(&config, arguments),
        Command::Doctor => Ok(doctor::run(&config)),
    }
}

/// Runs a command on the database of an installation.
fn with_meta(config: &Config, command: impl AsyncFnOnce(&Meta) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    app::require_installation(config)?;
    runtime()?.block_on(async {
        let meta = app::open_meta(config).await?;
        let done = command(&meta).await;
        meta.close().await;
        done.map(|()| ExitCode::SUCCESS)
    })
}

/// Builds the runtime for commands that do I/O.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("longshore").build()
}
