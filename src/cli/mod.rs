//! The commands, from arguments to exit code.

mod allocator;
mod backup;
mod connection;
mod database;
mod doctor;
mod download;
mod drives;
mod generate;
mod image;
mod key;
mod log;
mod obeyed;
mod progress;
mod project;
mod recover;
mod serve;
mod transfers;
mod trees;
mod upload;
mod user;
mod verify;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::app::{self, Administration};
use crate::auth::AccountError;
use crate::client::ClientError;
use crate::config::{Config, Overrides};
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
    /// Check a file or a drive against a receipt: 0 it is what was stored, 3 it is not, 4 the signature is not good, 1
    /// unknown
    Verify(verify::VerifyArguments),
    /// Download a drive from a server; goes on with what broke off
    #[command(after_long_help = connection::HELP)]
    Download(download::DownloadArguments),
    /// Upload raw images to a server; goes on with what broke off
    #[command(after_long_help = connection::HELP)]
    Upload(upload::UploadArguments),
    /// Make a volume of a directory, or fill one anew
    #[command(after_long_help = connection::HELP)]
    Push(trees::PushArguments),
    /// Make a directory of a volume
    #[command(after_long_help = connection::HELP)]
    Pull(trees::PullArguments),
    /// List, show and cancel the transfers on a server
    #[command(after_long_help = connection::HELP)]
    Transfers(transfers::TransfersArguments),
    /// List the drives on a server
    #[command(after_long_help = connection::HELP)]
    Drives(drives::DrivesArguments),
    /// Print the completions of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands into a directory
    Man {
        /// The directory
        dir: PathBuf,
    },
}

/// Not an error: the variable may be mistyped, or not be meant for this program.
const UNKNOWN_VARIABLE: &str = "this variable of the environment names no setting and is passed over";

/// The exit code when the command line is wrong, as clap has it.
const USAGE: u8 = 2;

/// A command line that asks for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(&'static str);

/// Refuses a command line.
fn usage(told: &'static str) -> anyhow::Error {
    UsageError(told).into()
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let mut command = Cli::command();
    let matches = command.get_matches_mut();
    let checked = obeyed::check(&mut command, &matches);
    let cli = checked.and_then(|()| Cli::from_arg_matches(&matches)).unwrap_or_else(|error| error.exit());
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // `eprintln` panics when nobody can read it.
            let _ = writeln!(std::io::stderr(), "longshore: {error:#}");
            if error.is::<UsageError>() {
                return USAGE.into();
            }
            error.downcast_ref::<ClientError>().map_or(ExitCode::FAILURE, |error| error.exit_code().into())
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        // Clients of a server know nothing of its configuration.
        Command::Download(arguments) => download::run(arguments),
        Command::Drives(arguments) => drives::run(arguments),
        Command::Pull(arguments) => trees::pull(arguments),
        Command::Push(arguments) => trees::push(arguments),
        Command::Transfers(arguments) => transfers::run(arguments),
        Command::Upload(arguments) => upload::run(arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Completion { shell } => generate::completion(shell, Cli::command()),
        Command::Man { dir } => generate::manual(&dir, Cli::command()),
        command => run_here(cli.common, command),
    }
}

/// Runs a command that is about an installation on this machine.
fn run_here(common: Common, command: Command) -> anyhow::Result<ExitCode> {
    let listen = match &command {
        Command::Serve { listen, .. } => *listen,
        _ => None,
    };
    let flags = Overrides { data_dir: common.data_dir, listen };
    let config = Config::load(common.config.as_deref(), std::env::vars_os(), flags)?;
    if !matches!(command, Command::Serve { .. }) {
        for name in &config.unknown_variables {
            let _ = writeln!(std::io::stderr(), "longshore: {UNKNOWN_VARIABLE}: {}", name.escape_debug());
        }
    }
    match command {
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
        Command::Upload(_)
        | Command::Pull(_)
        | Command::Push(_)
        | Command::Transfers(_)
        | Command::Download(_)
        | Command::Drives(_)
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::Verify(_) => {
            anyhow::bail!("this command is about no installation")
        }
    }
}

/// Runs a command of whoever runs the server on an installation.
fn administer(
    config: &Config,
    command: impl AsyncFnOnce(&Administration) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let administration = Administration::open(config).await?;
        let done = command(&administration).await;
        administration.close().await;
        done.map(|()| ExitCode::SUCCESS)
    })
}

/// Adds what was not done to an error of the database; any other says that itself.
fn undone(error: AccountError, what: impl FnOnce() -> String) -> anyhow::Error {
    let is_of_database = matches!(error, AccountError::Database(_));
    let error = anyhow::Error::from(error);
    if is_of_database { error.context(what()) } else { error }
}

/// Builds the runtime for commands that do I/O.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("longshore").build()
}
