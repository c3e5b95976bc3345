//! Settings from the environment.

use std::ffi::OsString;

use serde::Deserialize as _;
use toml::{Table, Value};

use super::Config;

/// The prefix of this program's variables.
const PREFIX: &str = "LONGSHORE_";

/// Variables that are no settings: the command line reads them, and the commands that are a server's clients.
const ELSEWHERE: &[&str] = &["config", "url", "user", "password", "token"];

/// Puts every `LONGSHORE_SECTION__KEY` over the table. A value that reads as a number or a truth value is one.
///
/// Returns the names that are no settings. Others use this prefix too: Kubernetes does for every service of this name
/// (`LONGSHORE_PORT`, `LONGSHORE_SERVICE_HOST`), in every container beside it.
pub(super) fn overlay(table: &mut Table, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<String> {
    let mut unknown = Vec::new();
    for (name, value) in environment {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let Some(key) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
        if ELSEWHERE.contains(&key.as_str()) {
            continue;
        }
        let value = value
            .parse::<i64>()
            .map(Value::Integer)
            .or_else(|_| value.parse().map(Value::Boolean))
            .unwrap_or_else(|_| Value::String(value.to_owned()));
        if is_known(&key, &value) {
            insert(table, &key, value);
        } else {
            unknown.push(name.to_owned());
        }
    }
    unknown.sort_unstable();
    unknown
}

/// Whether there is such a setting, even if its value is wrong: found by reading this key alone.
fn is_known(key: &str, value: &Value) -> bool {
    let mut alone = Table::new();
    insert(&mut alone, key, value.clone());
    match Config::deserialize(Value::Table(alone)) {
        Ok(_) => true,
        Err(error) => !error.message().starts_with("unknown field"),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once("__") {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if !section.is_table() {
                // As with any key, the environment wins over the file.
                *section = Value::Table(Table::new());
            }
            if let Some(section) = section.as_table_mut() {
                insert(section, key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::load;

    #[test]
    fn variables_that_name_no_setting_are_told_and_passed_over() {
        let config = load(
            "",
            &[
                ("LONGSHORE_PORT", "tcp://10.0.0.1:8700"),
                ("LONGSHORE_PORT_8700_TCP_ADDR", "10.0.0.1"),
                ("LONGSHORE_SERVICE_HOST", "10.0.0.1"),
                ("LONGSHORE_SERVICE_PORT", "8700"),
                ("LONGSHORE_DIRECT_SERVICE_PORT_HTTP", "8701"),
                ("LONGSHORE_IO__DEPHT", "3"),
                ("LONGSHORE_DIRECT__TLS__CERTIFCATE", "x"),
                ("LONGSHORE_CONFIG", "x"),
                ("LONGSHORE_URL", "http://127.0.0.1:8700"),
                ("LONGSHORE_USER", "alice"),
                ("LONGSHORE_PASSWORD", "sesame"),
                ("LONGSHORE_TOKEN", "x"),
                ("LONGSHORE_IO__DEPTH", "3"),
                ("OTHER_IO__DEPTH", "5"),
            ],
        )
        .unwrap();
        assert_eq!(config.io.depth, 3);
        let unknown: Vec<&str> = config.unknown_variables.iter().map(String::as_str).collect();
        assert_eq!(
            unknown,
            [
                "LONGSHORE_DIRECT_SERVICE_PORT_HTTP",
                "LONGSHORE_DIRECT__TLS__CERTIFCATE",
                "LONGSHORE_IO__DEPHT",
                "LONGSHORE_PORT",
                "LONGSHORE_PORT_8700_TCP_ADDR",
                "LONGSHORE_SERVICE_HOST",
                "LONGSHORE_SERVICE_PORT",
            ]
        );
    }

    #[test]
    fn a_known_variable_with_a_value_that_makes_no_sense_is_an_error() {
        for (name, value) in [
            ("LONGSHORE_IO__DEPTH", "many"),
            ("LONGSHORE_LISTEN", "tcp://10.0.0.1:8700"),
            ("LONGSHORE_IO", "5"),
            ("LONGSHORE_KEYSTONE__URL", "http://x"),
        ] {
            assert!(load("", &[(name, value)]).is_err(), "{name}");
        }
    }
}
