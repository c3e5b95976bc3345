//! The log: an event is one line on standard error, whatever a caller sent, and whatever becomes of standard error.
//!
//! # Invariants
//! - Nothing that is logged ends a thread, or holds it up for longer than [`PATIENCE`]: a line that is refused (nobody
//!   reads any more, the disk is full) or not taken is dropped and counted.
//! - No event has a second line or speaks to a terminal: control characters are escaped, wherever they come from.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;

use crate::config::{Config, LogFormat};
use crate::metrics::DroppedLines;

/// The longest wait, once, for a reader that takes nothing; after that, lines are dropped until it reads again. Long
/// enough for a reader that is only behind, short enough to delay requests little.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bytes that a pipe takes without blocking once it is reported as ready (pipe(7): `PIPE_BUF`, a page).
const AT_ONCE: usize = 4096;

/// Starts the log as the configuration says. Panics are logged too.
pub(super) fn start(config: &Config, dropped: DroppedLines) -> anyhow::Result<()> {
    let out = io::stderr().as_fd().try_clone_to_owned().context("cannot use standard error")?;
    let sink = Arc::new(Mutex::new(Sink::new(File::from(out), dropped)));
    // The subscriber reports lines that it could not write on standard error, and panics when that fails too.
    let log = tracing_subscriber::fmt()
        .with_env_filter(config.log.level.build())
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => {
            let fields = debug_fn(|writer, field, value| {
                let mut escaped = Escaped(writer);
                match field.name() {
                    "message" => write!(escaped, "{value:?}"),
                    // The origin of a line of the `log` crate is left out.
                    name if name.starts_with("log.") => Ok(()),
                    name => write!(escaped, "{name}={value:?}"),
                }
            });
            log.fmt_fields(fields.delimited(" "))
                .with_writer(move || Line { sink: sink.clone(), is_json: false })
                .init();
        }
        LogFormat::Json => {
            log.json().flatten_event(true).with_writer(move || Line { sink: sink.clone(), is_json: true }).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string);
        tracing::error!(thread = thread.name(), place, cause = panic.payload_as_str(), "a thread panicked");
    }));
    Ok(())
}

/// Writes one event. Never fails.
struct Line {
    sink: Arc<Mutex<Sink>>,
    /// Whether only JSON's own escapes have been applied yet.
    is_json: bool,
}

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if self.is_json {
            let text = String::from_utf8_lossy(event);
            let mut line = String::with_capacity(text.len());
            // Writing into a string cannot fail.
            let _ = Escaped(&mut line).write_str(text.trim_end_matches('\n'));
            line.push('\n');
            self.sink().put(line.as_bytes());
        } else {
            self.sink().put(event);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Line {
    fn sink(&self) -> MutexGuard<'_, Sink> {
        // After a panic, its flags are right or cost one newline.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The destination of the lines.
struct Sink {
    out: File,
    dropped: DroppedLines,
    /// The last line was not taken.
    is_stuck: bool,
    /// Part of a line is out, and its end is not.
    is_cut: bool,
}

impl Sink {
    fn new(out: File, dropped: DroppedLines) -> Self {
        Self { out, dropped, is_stuck: false, is_cut: false }
    }

    fn put(&mut self, line: &[u8]) {
        let until = Instant::now() + if self.is_stuck { Duration::ZERO } else { PATIENCE };
        let written = if self.is_cut { self.write_all(b"\n", until) } else { Ok(()) };
        let written = written.and_then(|()| self.write_all(line, until));
        self.is_stuck = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
        if written.is_err() {
            self.dropped.count();
        }
    }

    fn write_all(&mut self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(until)?;
            match self.out.write(&bytes[..bytes.len().min(AT_ONCE)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_cut = !bytes.is_empty();
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until a write would succeed or fail without blocking.
    fn wait(&self, until: Instant) -> io::Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.out, PollFlags::OUT)], Some(&timeout)) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Escapes characters that could end a line or control a terminal, as JSON and Rust both do.
struct Escaped<'a>(&'a mut dyn fmt::Write);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some((at, found)) = text.char_indices().find(|(_, c)| is_dangerous(*c)) {
            self.0.write_str(&text[..at])?;
            match found {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                _ => write!(self.0, "\\u{:04x}", u32::from(found))?,
            }
            text = &text[at + found.len_utf8()..];
        }
        self.0.write_str(text)
    }
}

/// Whether a character is a control character (C0, DEL, C1), a line separator of Unicode, or changes the direction of
/// text.
const fn is_dangerous(c: char) -> bool {
    c.is_ascii_control() || matches!(c, '\u{80}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    /// Returns a sink into a pipe, and the reading end.
    fn piped() -> (Sink, File, DroppedLines) {
        let (reader, writer) = io::pipe().unwrap();
        let dropped = DroppedLines::default();
        let file = |fd: std::os::fd::OwnedFd| File::from(fd);
        (Sink::new(file(writer.into()), dropped.clone()), file(reader.into()), dropped)
    }

    #[test]
    fn lines_that_are_refused_are_dropped_and_counted() {
        let dropped = DroppedLines::default();
        let mut sink = Sink::new(File::options().write(true).open("/dev/full").unwrap(), dropped.clone());
        sink.put(b"one\n");
        sink.put(b"two\n");
        assert_eq!(dropped.get(), 2);
        let (mut sink, reader, dropped) = piped();
        drop(reader);
        sink.put(b"one\n");
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn a_reader_that_takes_nothing_costs_lines_and_no_thread_and_later_lines_begin_anew() {
        let (mut sink, mut reader, dropped) = piped();
        let long = [vec![b'x'; 3 * AT_ONCE / 2], vec![b'\n']].concat();
        while dropped.get() < 3 {
            sink.put(&long);
        }
        let mut came = vec![0; 1 << 20];
        let n = reader.read(&mut came).unwrap();
        came.truncate(n);
        sink.put(b"after\n");
        assert_eq!(dropped.get(), 3);
        drop(sink);
        reader.read_to_end(&mut came).unwrap();
        let text = String::from_utf8(came).unwrap();
        assert_eq!(text.lines().last(), Some("after"));
        assert!(text.lines().all(|line| line == "after" || line.bytes().all(|b| b == b'x')), "lines ran together");
    }

    #[test]
    fn an_event_of_json_stays_one_line_of_json() {
        let (sink, mut reader, _) = piped();
        let mut line = Line { sink: Arc::new(Mutex::new(sink)), is_json: true };
        let event = serde_json::json!({"told": "a\n\u{85}\u{9b}\u{2028}\u{7f}b"});
        line.write_all(format!("{event}\n").as_bytes()).unwrap();
        drop(line);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"told\":\"a\\n\\u0085\\u009b\\u2028\\u007fb\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), event);
    }

    proptest! {
        #[test]
        fn no_text_ends_a_line_or_speaks_to_a_terminal(parts: Vec<String>) {
            let mut line = String::new();
            for part in &parts {
                Escaped(&mut line).write_str(part).unwrap();
            }
            prop_assert!(!line.chars().any(|c| c.is_control() || is_dangerous(c)));
        }
    }
}
