//! OpenStack's own clients, if `tests/services/install` has installed them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::Server;
use crate::skipped::skipped;

/// Returns the `openstack` command, with the login of a user.
pub(crate) fn openstack(server: &Server, credentials: &str, args: &[&str]) -> Option<Command> {
    let mut command = client(server, credentials, "openstack-clients", "openstack")?;
    command.args(args);
    Some(command)
}

/// Returns a program of one of the environments, for [`output_of`]. If it is not installed, reports that and returns
/// `None`.
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
    let output = output_of(command.args(["--format", "json"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Runs a command that must succeed; returns its output.
#[track_caller]
pub(crate) fn said(command: &Command) -> String {
    text_of(output_of(command))
}

/// Returns the text of a program that must have succeeded.
#[track_caller]
pub(crate) fn text_of(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Runs a program of [`client`] with what it was given; returns its output.
pub(crate) fn output_of(command: &Command) -> Output {
    static RUNNERS: Mutex<BTreeMap<PathBuf, Runner>> = Mutex::new(BTreeMap::new());
    let python = Path::new(command.get_program()).with_file_name("python");
    let mut runners = RUNNERS.lock().unwrap_or_else(PoisonError::into_inner);
    runners.entry(python).or_insert_with_key(|python| Runner::start(python)).run(command)
}

/// A process that runs programs of one environment. It ends with this one.
struct Runner {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Runner {
    fn start(python: &Path) -> Self {
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/run_clients.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python runs");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, answers }
    }

    fn run(&mut self, command: &Command) -> Output {
        let text = |text: &OsStr| text.to_str().expect("text").to_owned();
        let env = command.get_envs().map(|(name, value)| (text(name), text(value.expect("a value"))));
        let call = json!({
            "program": text(command.get_program()),
            "args": command.get_args().map(text).collect::<Vec<_>>(),
            "env": env.collect::<BTreeMap<_, _>>(),
            "folder": command.get_current_dir().expect("a folder"),
        });
        let calls = self.process.stdin.as_mut().expect("it is piped");
        writeln!(calls, "{call}").expect("the runner takes a call");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the runner answers");
        let (status, stdout, stderr): (i32, String, String) = serde_json::from_str(&answer).expect("an answer");
        Output { status: ExitStatus::from_raw(status), stdout: stdout.into(), stderr: stderr.into() }
    }
}
