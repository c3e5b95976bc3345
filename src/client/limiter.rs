//! What keeps a transfer from going faster, told by what its connections have waited for.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::Client;
use super::exchange::send;
use super::transfers::path;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Bytes of the file or the pipe that is sent, compressed if they are to be.
    Source,
    /// The file or the pipe that is written.
    Target,
    /// The limit on the bytes in a second.
    Limit,
    /// The line, and the server behind it.
    Line,
}

/// The times that the connections of one transfer have waited, all together.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// Of waits that are over.
    over: [Duration; 4],
    /// Waits that are under way, by number.
    under_way: HashMap<u64, (Wait, Instant)>,
    next: u64,
    /// What the server says that it is, if it is not the line.
    server: Option<Limiter>,
}

/// A wait that is under way until this is dropped.
pub(super) struct Waiting {
    waits: Arc<Waits>,
    number: u64,
}

/// What keeps a transfer from going faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limiter {
    /// Reading what is sent.
    Source,
    /// Writing what is received.
    Target,
    /// The limit that was asked for.
    Limit,
    /// The line, or the server of which no more is known.
    Network,
    /// The server's disk.
    ServerDisk,
    /// The digests that the server computes.
    ServerDigest,
    /// The memory that the server's transfers share.
    ServerMemory,
    /// The server, which makes a drive of what has come.
    Server,
}

impl Limiter {
    /// The word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Limit => "limit",
            Self::Network => "network",
            Self::ServerDisk => "server disk",
            Self::ServerDigest => "server digest",
            Self::ServerMemory => "server memory",
            Self::Server => "server",
        }
    }

    /// What the server's word for it means here; `None` when it waits for this side.
    fn of_server(word: &str) -> Option<Self> {
        match word {
            "disk" => Some(Self::ServerDisk),
            "digest" => Some(Self::ServerDigest),
            "memory" => Some(Self::ServerMemory),
            _ => None,
        }
    }
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Waits {
    /// Begins a wait.
    pub(super) fn begin(self: &Arc<Self>, wait: Wait) -> Waiting {
        let mut times = self.times();
        let number = times.next;
        times.next += 1;
        times.under_way.insert(number, (wait, Instant::now()));
        drop(times);
        Waiting { waits: Arc::clone(self), number }
    }

    /// Waits for a future, and counts the time.
    pub(super) async fn timed<T>(self: &Arc<Self>, wait: Wait, future: impl Future<Output = T>) -> T {
        let _waiting = self.begin(wait);
        future.await
    }

    /// Sets what the server says.
    pub(super) fn set_server(&self, limiter: Option<Limiter>) {
        self.times().server = limiter;
    }

    /// Returns what has been waited for the longest since these times, which become those of now; `None` if nothing
    /// was.
    pub(super) fn limiter(&self, since: &mut [Duration; 4]) -> Option<Limiter> {
        let times = self.times();
        let mut now = times.over;
        for (wait, began) in times.under_way.values() {
            now[*wait as usize] += began.elapsed();
        }
        let waits = [Wait::Source, Wait::Target, Wait::Limit, Wait::Line];
        let waited = waits.map(|wait| (now[wait as usize].saturating_sub(since[wait as usize]), wait));
        *since = now;
        let (longest, wait) = waited.into_iter().max_by_key(|(waited, _)| *waited)?;
        (!longest.is_zero()).then(|| match wait {
            Wait::Source => Limiter::Source,
            Wait::Target => Limiter::Target,
            Wait::Limit => Limiter::Limit,
            Wait::Line => times.server.unwrap_or(Limiter::Network),
        })
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut times = self.waits.times();
        if let Some((wait, began)) = times.under_way.remove(&self.number) {
            times.over[wait as usize] += began.elapsed();
        }
    }
}

impl Client {
    /// Listens to what limits the server's side of a transfer, for as long as it is waited for. A server that does not
    /// tell is not asked again.
    pub(super) async fn hear_limiter(&self, transfer: &str, waits: &Waits) {
        /// What is over before is not listened to.
        const LATER: Duration = Duration::from_secs(3);
        /// The longest event that is read.
        const LONGEST: usize = 64 << 10;
        sleep(LATER).await;
        let Ok(path) = path(transfer) else { return };
        let Ok(request) = self.request(reqwest::Method::GET, &format!("{path}/events")) else { return };
        let Ok(mut events) = send(request).await else { return };
        let mut line = Vec::new();
        while let Ok(Some(bytes)) = events.chunk().await {
            for byte in bytes {
                if byte == b'\n' {
                    if let Some(event) = event(&line) {
                        waits.set_server(event.limiter());
                    }
                    line.clear();
                } else if line.len() < LONGEST {
                    line.push(byte);
                }
            }
        }
    }
}

/// What an event tells of a transfer.
#[derive(Deserialize)]
struct Event {
    limited_by: Option<String>,
}

impl Event {
    /// What limits the server; `None` if it waits for this side.
    fn limiter(&self) -> Option<Limiter> {
        self.limited_by.as_deref().and_then(Limiter::of_server)
    }
}

/// Returns what a line of the stream tells, if it tells of a transfer.
fn event(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line.strip_prefix(b"data: ")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_for_the_longest_since_the_last_look_is_the_limiter() {
        let (waits, mut since) = (Arc::new(Waits::default()), Default::default());
        let wait = async |wait, seconds| waits.timed(wait, sleep(Duration::from_secs(seconds))).await;
        assert_eq!(waits.limiter(&mut since), None);
        wait(Wait::Source, 9).await;
        wait(Wait::Line, 8).await;
        assert_eq!(waits.limiter(&mut since), Some(Limiter::Source));
        for (one, expected) in [(Wait::Target, Limiter::Target), (Wait::Limit, Limiter::Limit)] {
            // Those of several connections count together.
            tokio::join!(wait(one, 2), wait(one, 2), wait(Wait::Source, 3));
            assert_eq!(waits.limiter(&mut since), Some(expected));
        }
        for (server, expected) in [
            (None, Limiter::Network),
            (Some(Limiter::ServerDisk), Limiter::ServerDisk),
            (Some(Limiter::Server), Limiter::Server),
        ] {
            waits.set_server(server);
            wait(Wait::Line, 1).await;
            assert_eq!(waits.limiter(&mut since), Some(expected));
        }
        assert_eq!(waits.limiter(&mut since), None, "nothing was waited for since");
        let waiting = waits.begin(Wait::Source);
        for _ in 0..2 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(waits.limiter(&mut since), Some(Limiter::Source), "it is still waited for");
        }
        drop(waiting);
        assert_eq!(waits.limiter(&mut since), None);
    }

    #[test]
    fn the_word_of_the_server_is_read_from_its_events() {
        let told = |line: &str| event(line.as_bytes()).map(|event| event.limiter());
        assert_eq!(told(r#"data: {"id":"x","limited_by":"disk"}"#), Some(Some(Limiter::ServerDisk)));
        assert_eq!(told(r#"data: {"limited_by":"digest"}"#), Some(Some(Limiter::ServerDigest)));
        assert_eq!(told(r#"data: {"limited_by":"memory"}"#), Some(Some(Limiter::ServerMemory)));
        assert_eq!(told(r#"data: {"limited_by":"peer"}"#), Some(None));
        assert_eq!(told(r#"data: {"limited_by":null}"#), Some(None));
        for nothing in [": a comment", "id: 7", "data: {", ""] {
            assert_eq!(told(nothing), None);
        }
    }
}
