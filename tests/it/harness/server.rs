//! Runs the real binary on a data directory of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Curl, RawClient, Response, Scratch, wait_for};

/// The program under test.
const LONGSHORE: &str = env!("CARGO_BIN_EXE_longshore");
/// The variable with the engine that all servers of this run use: `ring` or `threads`.
const ENGINE: &str = "TEST_ENGINE";
/// The configuration of every server, to which tests add further keys. The small minimum keeps images small.
const BASE_CONFIG: &str = "limits.min_drive = \"64 KiB\"\n";
/// The lines of a server's log that are shown when a test fails.
const TAIL_LINES: usize = 40;

/// The setup of a server.
#[derive(Default)]
pub(crate) struct Setup {
    config: String,
    environment: Vec<(OsString, OsString)>,
    data: Option<PathBuf>,
    listen: Option<String>,
    output: Option<PathBuf>,
    open_files: Option<(u32, u32)>,
    flags: Vec<String>,
    defaults: bool,
}

impl Setup {
    /// Adds a line of configuration: a full TOML key and its value.
    pub(crate) fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Leaves out the usual configuration of this harness, so that the program's defaults apply.
    pub(crate) fn defaults(mut self) -> Self {
        self.defaults = true;
        self
    }

    /// Adds a variable to the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Keeps the data in this folder, not in one of its own.
    pub(crate) fn data(mut self, path: &Path) -> Self {
        self.data = Some(path.to_owned());
        self
    }

    /// Writes its log and output to this folder, not to one of its own.
    pub(crate) fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Starts it with these limits on open files, soft and hard.
    pub(crate) fn open_files(mut self, soft: u32, hard: u32) -> Self {
        self.open_files = Some((soft, hard));
        self
    }

    /// Listens on this address, not on a free port.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Adds a flag to `serve`.
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Starts the server and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let dir = Scratch::new();
        let data = self.data.clone().unwrap_or_else(|| dir.join("data"));
        let mut server = Server { dir, data, setup: self, child: None, endpoint: String::new() };
        server.run();
        server
    }

    /// Starts a server that must refuse to start, and returns its output.
    pub(crate) fn start_refused(self) -> Output {
        let dir = Scratch::new();
        let data = self.data.clone().unwrap_or_else(|| dir.join("data"));
        let mut command = self.command(&dir, &data);
        // The configuration alone must cause the refusal, also for settings of the engine.
        command.env_remove("LONGSHORE_IO__TAP").env_remove("LONGSHORE_IO__ENGINE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("longshore starts");
        // The output of a line or two fits into the pipes.
        wait_for("the server to give up", || child.try_wait().expect("a child can be waited for"));
        child.wait_with_output().expect("what it says can be read")
    }

    /// Runs another command than `serve` with this configuration, and returns its output.
    pub(crate) fn command_refused(self, args: &[&str]) -> Output {
        let dir = Scratch::new();
        let mut command = Command::new(LONGSHORE);
        command.args(args).arg("--config").arg(self.write_config(&dir)).arg("--data-dir").arg(dir.join("data"));
        command.stdin(Stdio::null()).output().expect("longshore runs")
    }

    fn write_config(&self, dir: &Scratch) -> PathBuf {
        let config = dir.join("longshore.toml");
        let base = if self.defaults { "" } else { BASE_CONFIG };
        fs::write(&config, format!("{base}{}", self.config)).expect("a configuration can be written");
        fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).expect("it is ours");
        config
    }

    fn command(&self, dir: &Scratch, data: &Path) -> Command {
        let config = self.write_config(dir);
        // The kernel ends the server if this test dies without dropping it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some((soft, hard)) = self.open_files {
            command.arg("prlimit").arg(format!("--nofile={soft}:{hard}")).arg("--");
        }
        command.args([LONGSHORE, "serve"]);
        command.arg("--config").arg(config).arg("--data-dir").arg(data);
        command.args(["--listen", self.listen.as_deref().unwrap_or("127.0.0.1:0")]).args(&self.flags);
        if let Some(engine) = engine() {
            // The two runs of the tests cover both routes of uploads, too.
            command.env("LONGSHORE_IO__TAP", (engine == "ring").to_string());
            command.env("LONGSHORE_IO__ENGINE", engine);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Returns the engine that this run must use.
#[expect(clippy::disallowed_methods, reason = "the script that runs the tests tells the engine here")]
pub(crate) fn engine() -> Option<String> {
    std::env::var(ENGINE).ok()
}

/// A running server. When it is dropped, it is killed and its folder is removed.
pub(crate) struct Server {
    dir: Scratch,
    data: PathBuf,
    setup: Setup,
    child: Option<Child>,
    endpoint: String,
}

impl Server {
    /// Starts a server with the setup of most tests.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    #[track_caller]
    fn run(&mut self) {
        let endpoint = self.data.join("endpoint");
        // It may be left from an earlier run on this data.
        let _ = fs::remove_file(&endpoint);
        let mut log = File::options();
        let elsewhere = self.setup.output.clone();
        let log = log.append(true).create(true).open(elsewhere.clone().unwrap_or_else(|| self.log()));
        let log = log.expect("a log can be written");
        let printed = File::options().append(true).create(true).open(elsewhere.unwrap_or_else(|| self.stdout()));
        let printed = printed.expect("a file can be written");
        let mut command = self.setup.command(&self.dir, &self.data);
        let mut child = command.stdin(Stdio::null()).stdout(printed).stderr(log).spawn().expect("longshore starts");
        let listening = wait_for("the server to listen", || match child.try_wait() {
            Ok(None) => fs::read_to_string(&endpoint).ok().map(Ok),
            ended => Some(Err(format!("{ended:?}"))),
        });
        self.child = Some(child);
        let endpoint = listening.expect("the server ended while it started");
        endpoint.trim().clone_into(&mut self.endpoint);
    }

    /// Returns the URL that it listens on, without a trailing slash.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the address that it listens on.
    pub(crate) fn authority(&self) -> &str {
        self.endpoint.strip_prefix("http://").expect("the endpoint is http")
    }

    /// Returns the credentials of the first user, as `user:password`.
    pub(crate) fn credentials(&self) -> String {
        fs::read_to_string(self.credentials_file()).expect("the credentials are there").trim().to_owned()
    }

    /// Returns the path of the first user's credentials.
    pub(crate) fn credentials_file(&self) -> PathBuf {
        self.data.join("admin.credentials")
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Returns a folder beside the data directory for the test's own files.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.dir
    }

    /// Returns its standard output.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.stdout()).expect("the output is there")
    }

    fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    /// Returns its log, of all its runs.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(self.log()).expect("the log is there")
    }

    /// Waits until a line with these words is logged; returns the log.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, words: &str) -> String {
        wait_for(words, || Some(self.logged()).filter(|log| log.contains(words)))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("stderr")
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("the server runs");
    }

    /// Kills it, which is like a power cut for the process.
    pub(crate) fn kill9(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(Signal::KILL.as_raw()));
    }

    /// Stops it, and waits until it has ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        wait_for("the server to end", || child.try_wait().expect("a child can be waited for"))
    }

    /// Starts it again on the same data, after it has ended.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "the server still runs");
        self.run();
    }

    /// Returns a curl for a path of this server, as the first user.
    pub(crate) fn curl(&self, path: &str) -> Curl {
        self.curl_as(&self.credentials(), path)
    }

    /// Returns a curl for a path of this server, as this user.
    pub(crate) fn curl_as(&self, credentials: &str, path: &str) -> Curl {
        self.anonymous_curl(path).user(credentials)
    }

    /// Returns a curl for a path of this server, without credentials.
    pub(crate) fn anonymous_curl(&self, path: &str) -> Curl {
        Curl::new(&format!("{}{path}", self.endpoint))
    }

    /// Opens a connection to it.
    pub(crate) fn raw(&self) -> RawClient {
        RawClient::connect(self.authority())
    }

    /// Uploads an image as in the README, and returns the drive's UUID.
    #[track_caller]
    pub(crate) fn upload(&self, image: &Path) -> String {
        uuid_of(&self.curl("/api/2.0/drives/upload/").upload("POST", image).run())
    }

    /// Downloads a drive as in the README.
    #[track_caller]
    pub(crate) fn download(&self, uuid: &str, to: &Path) -> Response {
        let curl = self.curl(&format!("/api/2.0/drives/{uuid}/download/"));
        let response = curl.arg("--location").output(to).run();
        assert_eq!(response.status, 200, "{response:?}");
        response
    }

    /// Returns the path of a URL that downloads a drive without credentials.
    #[track_caller]
    pub(crate) fn capability(&self, uuid: &str) -> String {
        let response = self.curl(&format!("/api/2.0/drives/{uuid}/download/")).run();
        assert_eq!(response.status, 302, "{response:?}");
        let place = response.field("location");
        place.strip_prefix(&self.endpoint).unwrap_or(place).to_owned()
    }

    /// Returns the description of a drive in the control API.
    #[track_caller]
    pub(crate) fn drive(&self, uuid: &str) -> serde_json::Value {
        let response = self.curl(&format!("/api/2.0/drives/{uuid}/")).run();
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Returns the UUIDs of the first user's drives.
    #[track_caller]
    pub(crate) fn drives(&self) -> Vec<String> {
        self.drives_of(&self.credentials())
    }

    /// Returns the UUIDs of a user's drives.
    #[track_caller]
    pub(crate) fn drives_of(&self, credentials: &str) -> Vec<String> {
        let response = self.curl_as(credentials, "/api/2.0/drives/?limit=0").run();
        assert_eq!(response.status, 200, "{response:?}");
        let objects = response.json()["objects"].as_array().expect("a list has objects").clone();
        objects.iter().map(|drive| drive["uuid"].as_str().expect("a drive has a uuid").to_owned()).collect()
    }

    /// Returns the value of a metric, by its name and labels as they are printed.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.anonymous_curl("/metrics").run().text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// Runs `longshore user ...` on this server's data.
    pub(crate) fn user_command(&self, args: &[&str]) -> Output {
        self.command("user", args)
    }

    /// Runs `longshore` with this command on this server's data.
    pub(crate) fn command(&self, command: &str, args: &[&str]) -> Output {
        let name = command;
        let mut command = Command::new(LONGSHORE);
        command.arg(name).args(args).arg("--data-dir").arg(&self.data);
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).output().expect("longshore runs")
    }

    /// Adds a user with a tenant of its own, and returns its `user:password`.
    #[track_caller]
    pub(crate) fn add_user(&self, name: &str) -> String {
        let output = self.user_command(&["add", name]);
        assert!(output.status.success(), "user add: {output:?}");
        let credentials = String::from_utf8(output.stdout).expect("credentials are text").trim().to_owned();
        assert!(credentials.starts_with(&format!("{name}:")), "user add printed {credentials:?}");
        credentials
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of the server's log\n{}",
                lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
            );
        }
    }
}

/// Returns the UUID in the answer to an upload.
#[track_caller]
pub(crate) fn uuid_of(response: &Response) -> String {
    assert_eq!(response.status, 201, "{response:?}");
    let text = response.text();
    let uuid = text.strip_suffix('\n').expect("the answer ends with a newline");
    assert!(uuid.len() == 36 && uuid::Uuid::try_parse(uuid).is_ok(), "not a UUID: {text:?}");
    uuid.to_owned()
}
