//! The base of the behaviour tests: the real binary, the real curl, a client that sends exact bytes, and images that
//! are the same on every run.

pub(crate) mod clients;
pub(crate) mod cloud;
pub(crate) mod curl;
pub(crate) mod disk;
pub(crate) mod http2;
pub(crate) mod hyper;
pub(crate) mod image;
pub(crate) mod machine;
pub(crate) mod openstack;
pub(crate) mod peer;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod rsync;
pub(crate) mod scratch;
pub(crate) mod server;
pub(crate) mod stored;

use std::fmt;
use std::time::{Duration, Instant};

pub(crate) use cloud::Cloud;
pub(crate) use curl::Curl;
pub(crate) use raw::RawClient;
pub(crate) use scratch::Scratch;
pub(crate) use server::{Server, Setup};

/// The longest wait for anything before the test fails. It is far above usual times, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The pauses between two questions of [`wait_for`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Calls `ask` until it returns a value; fails the test after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        let waited = begun.elapsed();
        assert!(waited < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        // The awaited change is in another process, which cannot wake this one. What takes long is asked for less
        // often: most questions are a curl each, and would take a core from what they wait for.
        std::thread::sleep((waited / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

/// An answer of a server.
#[derive(Default, Clone)]
pub(crate) struct Response {
    /// The status of the last head; 0 when there was none.
    pub(crate) status: u16,
    /// The fields of the last head, names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The body, unless it went to a file.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Reads a head: the status line and the fields, without the empty line.
    pub(crate) fn parse_head(head: &str) -> Self {
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Self { status: status.unwrap_or(0), fields: fields.collect(), body: Vec::new() }
    }

    /// Returns the value of a field; fails the test if it is missing or given twice.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        let values = self.values(name);
        assert!(values.len() == 1, "{name} is there {} times in {self:?}", values.len());
        values[0]
    }

    /// Returns every value of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

impl fmt::Debug for Response {
    /// A body may be a whole drive, so only its start is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(f, "{} {:?}, {} bytes: {start:?}", self.status, self.fields, self.body.len())
    }
}
