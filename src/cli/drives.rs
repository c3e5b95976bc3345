//! `longshore drives`: lists the drives on a server.

use std::process::ExitCode;

use clap::Args;

use super::connection::Connection;
use super::progress::{plain, print, print_json};

#[derive(Args)]
pub(super) struct DrivesArguments {
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(arguments: DrivesArguments) -> anyhow::Result<ExitCode> {
    let DrivesArguments { connection } = arguments;
    connection.run("nothing was changed", async |client| {
        let drives = client.drives().await?;
        if connection.json {
            drives.iter().for_each(print_json);
            return Ok(());
        }
        print("UUID\tSIZE\tMEDIA\tSTATUS\tNAME");
        for drive in drives {
            let (status, media, name) = (plain(&drive.status), plain(&drive.media), plain(&drive.name));
            print(&format!("{}\t{}\t{media}\t{status}\t{name}", drive.uuid, drive.size));
        }
        Ok(())
    })
}
