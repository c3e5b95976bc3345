//! `longshore transfers`: the transfers on a server, from whatever client.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connection::Connection;
use super::progress::{plain, print, print_event, print_json};
use crate::client::Transfer;

#[derive(Args)]
pub(super) struct TransfersArguments {
    #[command(subcommand)]
    command: Option<TransfersCommand>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Subcommand)]
enum TransfersCommand {
    /// Print all transfers, newest first; so does no command
    List,
    /// Print one transfer
    Show {
        /// The transfer
        id: String,
    },
    /// End a transfer, and drop what has come
    Cancel {
        /// The transfer
        id: String,
    },
}

pub(super) fn run(arguments: TransfersArguments) -> anyhow::Result<ExitCode> {
    let TransfersArguments { command, connection } = arguments;
    connection.run("nothing was changed", async |client| {
        match command.unwrap_or(TransfersCommand::List) {
            TransfersCommand::List => show(&client.transfers().await?, connection.json),
            TransfersCommand::Show { id } => show(&[client.transfer(&id).await?], connection.json),
            TransfersCommand::Cancel { id } => {
                client.cancel(&id).await?;
                if connection.json {
                    print_event("cancelled", &id);
                }
            }
        }
        Ok(())
    })
}

fn show(transfers: &[Transfer], json: bool) {
    if json {
        transfers.iter().for_each(print_json);
        return;
    }
    print("ID\tSTATE\tCOME\tSIZE\tBYTES/S\tEXPIRES\tREFERENCE\tNAME\tREASON");
    for transfer in transfers {
        let size = transfer.size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        let text = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| plain(text));
        print(&format!(
            "{}\t{}\t{}\t{size}\t{}\t{}\t{}\t{}\t{}",
            plain(&transfer.id),
            plain(&transfer.state),
            transfer.durable,
            transfer.bytes_per_second,
            plain(&transfer.expires),
            text(transfer.reference.as_ref()),
            plain(&transfer.name),
            text(transfer.reason.as_ref()),
        ));
    }
}
