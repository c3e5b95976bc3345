//! Refuses flags that a client's command would pass over: who gives one counts on it.
//!
//! Only what is on the command line is refused. Variables of the environment are for many commands.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error};

/// The flags that are about an installation on this machine, and the commands that know of none.
const OF_INSTALLATIONS: [&str; 2] = ["config", "data_dir"];
const CLIENTS: [&str; 9] = ["completion", "download", "drives", "man", "pull", "push", "transfers", "upload", "verify"];

/// Fails if a flag has no meaning for the command that it is given to.
pub(super) fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), Error> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    match passed_over(name, matches) {
        None => Ok(()),
        Some((flag, why)) => {
            let told = format!("--{} is not for this: {why}", flag.replace('_', "-"));
            Err(command.error(ErrorKind::ArgumentConflict, told))
        }
    }
}

/// Returns the first flag that would be passed over, and why.
fn passed_over(name: &str, matches: &ArgMatches) -> Option<(&'static str, &'static str)> {
    let given = |flags: &[&'static str]| flags.iter().copied().find(|flag| is_given(matches, flag));
    if let Some(flag) = given(&OF_INSTALLATIONS).filter(|_| CLIENTS.contains(&name)) {
        return Some((flag, "the command is about no installation on this machine"));
    }
    let is_piped = |id: &str| path(matches, id).is_some_and(|path| path.as_path() == "-");
    let (flags, why): (&[&str], _) = match name {
        "verify" if !is_given(matches, "drive") => (&["url", "user_file", "patience"], "a file needs no server"),
        "drives" | "transfers" => (&["patience"], "the server is asked once"),
        "pull" if is_piped("dir") => {
            (&["patience", "zstd", "same_owner"], "the archive is printed as it comes, and nothing is unpacked")
        }
        "pull" => (&["patience"], "an archive that breaks off begins anew"),
        "download" if is_piped("file") => {
            (&["connections", "force", "update"], "standard output takes the whole drive in order, over one connection")
        }
        "upload" if files(matches).into_iter().any(|file| file.as_path() == "-") => {
            (&["base", "restart"], "standard input is sent as it comes, and kept nowhere")
        }
        "upload" => (&["size"], "a file has its own size"),
        _ => return None,
    };
    given(flags).map(|flag| (flag, why))
}

fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    // clap panics at a flag that it does not know.
    let is_known = matches.ids().any(|id| id == flag);
    is_known && matches.value_source(flag) == Some(ValueSource::CommandLine)
}

fn path<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a PathBuf> {
    matches.try_get_one(id).ok().flatten()
}

fn files(matches: &ArgMatches) -> Vec<&PathBuf> {
    matches.try_get_many("files").ok().flatten().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    fn refused(line: &str) -> Option<String> {
        let words = std::iter::once("longshore").chain(line.split(' '));
        let mut command = super::super::Cli::command();
        let matches = command.clone().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        let error = check(&mut command, &matches).err()?;
        assert_eq!(error.exit_code(), 2);
        Some(error.to_string())
    }

    /// Command lines whose every flag has a meaning. Each flag of a client's command is in one of them, or in one
    /// of those that are refused.
    const OBEYED: &[&str] = &[
        "completion bash",
        "man dir",
        "download x - --bwlimit 1MiB --url http://h --user-file f --json --patience 1",
        "download x f --connections 2 --bwlimit 1MiB --force",
        "download x f --connections 2 --update",
        "drives --url http://h --user-file f --json",
        "pull v --zstd --same-owner --bwlimit 1MiB --url http://h --user-file f --json",
        "pull v - --bwlimit 1MiB",
        "push d --name n --gib 2 --zstd --bwlimit 1MiB --url http://h --user-file f --json --patience 1",
        "push d --replace",
        "transfers --url http://h --user-file f --json",
        "transfers show x --json",
        "transfers cancel x --json",
        "upload f --name n --reference r --connections 2 --digest none --base b --compress never --bwlimit 1MiB",
        "upload f --receipt r --restart --url http://h --user-file f --json --patience 1",
        "upload a b --parallel 2 --restart",
        "upload --manifest l --parallel 2 --restart",
        "upload - --name n --size 1GiB --connections 2 --digest blake3 --compress never --receipt r",
        "verify f r --jwks u --json",
        "verify f r --key x",
        "verify --drive d r --wait 1 --url http://h --user-file f --json --patience 1",
        "serve --config c --data-dir d",
    ];

    /// Command lines with a flag that would be passed over.
    const REFUSED: &[(&str, &str)] = &[
        ("completion bash --config c", "config"),
        ("--data-dir d man dir", "data-dir"),
        ("--config c upload f", "config"),
        ("transfers cancel x --data-dir d", "data-dir"),
        ("verify f r --url http://h", "url"),
        ("verify f r --user-file f", "user-file"),
        ("verify f r --patience 5", "patience"),
        ("drives --patience 5", "patience"),
        ("transfers --patience 5", "patience"),
        ("transfers cancel x --patience 5", "patience"),
        ("pull v --patience 5", "patience"),
        ("pull v - --zstd", "zstd"),
        ("pull v - --same-owner", "same-owner"),
        ("download x - --connections 4", "connections"),
        ("download x - --force", "force"),
        ("download x - --update", "update"),
        ("upload - --base b", "base"),
        ("upload - --restart", "restart"),
        ("upload f --size 1GiB", "size"),
    ];

    #[test]
    fn a_flag_that_a_command_does_not_heed_is_refused() {
        for line in OBEYED {
            assert_eq!(refused(line), None, "{line}");
        }
        for (line, flag) in REFUSED {
            let told = refused(line);
            assert!(told.as_ref().is_some_and(|told| told.contains(&format!("--{flag} "))), "{line}: {told:?}");
        }
    }

    #[test]
    fn every_flag_of_a_client_is_thought_of() {
        let command = super::super::Cli::command();
        for client in command.get_subcommands().filter(|command| CLIENTS.contains(&command.get_name())) {
            let flags = client.get_arguments().filter_map(clap::Arg::get_long).collect::<BTreeSet<_>>();
            let lines = OBEYED.iter().chain(REFUSED.iter().map(|(line, _)| line));
            let lines = lines.filter(|line| line.starts_with(client.get_name()));
            let known = lines.flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix("--"));
            let known = known.collect::<BTreeSet<_>>();
            let new = flags.difference(&known).collect::<Vec<_>>();
            assert!(new.is_empty(), "{}: {new:?} in no command line of this test", client.get_name());
        }
    }
}
