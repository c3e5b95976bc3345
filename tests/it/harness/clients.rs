//! OpenStack's own clients, if `tests/services/install` has installed them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Server;
use crate::skipped::skipped;

/// Returns the `openstack` command, with the login of a user.
pub(crate) fn openstack(server: &Server, credentials: &str, args: &[&str]) -> Option<Command> {
    let mut command = client(server, credentials, "openstack-clients", "openstack")?;
    command.args(args);
    Some(command)
}

/// Returns a program of one of the environments. If it is not installed, reports that and returns `None`.
pub(crate) fn client(server: &Server, credentials: &str, environment: &str, program: &str) -> Option<Command> {
    let target = Path::new(env!("CARGO_BIN_EXE_longshore")).ancestors().nth(2).expect("a target folder");
    let program: PathBuf = target.join("services").join(environment).join("bin").join(program);
    if !program.exists() {
        skipped(format!("there is no {}; tests/services/install installs it", program.display()));
        return None;
    }
    let (name, password) = credentials.split_once(':').expect("credentials have a colon");
    let mut command = Command::new(program);
    // Without the proxy and the settings of the user who runs the tests.
    command.env("NO_PROXY", "*").env("HOME", server.scratch().path()).current_dir(server.scratch().path());
    command.env("OS_AUTH_URL", format!("{}/v3", server.endpoint())).env("OS_IDENTITY_API_VERSION", "3");
    command.env("OS_USERNAME", name).env("OS_PASSWORD", password).env("OS_PROJECT_NAME", name);
    command.env("OS_USER_DOMAIN_NAME", "Default").env("OS_PROJECT_DOMAIN_ID", "default");
    Some(command)
}

/// Runs a command of `openstack`; returns the JSON that it prints.
#[track_caller]
pub(crate) fn printed(mut command: Command) -> Value {
    let output = command.args(["--format", "json"]).output().expect("the client runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Runs a command that must succeed; returns its output.
#[track_caller]
pub(crate) fn said(mut command: Command) -> String {
    let output = command.output().expect("the client runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}
