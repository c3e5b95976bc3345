//! How far transfers are: bars on a terminal, else lines of text or of JSON.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::client::{Limiter, Meter, Seen};
use crate::domain::ByteCount;

const BAR: &str = "{msg:24!} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {prefix}";
const SPINNER: &str = "{msg:24!} {spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed} {prefix}";

/// Prints a line for people.
pub(super) fn say(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(stderr(), "{text}");
}

/// Prints an object as one line of JSON on standard output.
pub(super) fn print_json(object: &impl Serialize) {
    print(&serde_json::to_value(object).unwrap_or_default().to_string());
}

/// Prints what came of one thing as a line of JSON on standard output.
pub(super) fn print_event(event: &str, id: &str) {
    print_json(&json!({"event": event, "id": id}));
}

/// Prints a line on standard output, if there is one.
pub(super) fn print(text: &str) {
    if !text.is_empty() {
        // Whoever closed it has seen enough.
        let _ = writeln!(stdout(), "{text}");
    }
}

/// Returns text of others without characters that steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Where progress is shown.
pub(super) struct Board {
    form: Form,
    /// The bytes of all transfers, with those that are over.
    all: Option<All>,
}

enum Form {
    Bars(MultiProgress),
    Lines,
    /// To standard error if standard output takes a drive.
    Json {
        to_error: bool,
    },
}

struct All {
    bar: ProgressBar,
    /// The bytes that are there, of all files. What is there of one may turn out to be less.
    done: AtomicI64,
}

impl All {
    /// Shows that of one file other bytes are there than before.
    fn change(&self, before: &mut u64, now: u64) {
        let change = now as i64 - *before as i64;
        *before = now;
        let done = self.done.fetch_add(change, Ordering::Relaxed) + change;
        self.bar.set_position(done.max(0) as u64);
    }
}

impl Board {
    /// Makes a board. `bytes` are those of all transfers, if there are several.
    pub(super) fn new(json: bool, output_is_taken: bool, bytes: Option<u64>) -> Self {
        if json {
            return Self { form: Form::Json { to_error: output_is_taken }, all: None };
        }
        if !stderr().is_terminal() {
            return Self { form: Form::Lines, all: None };
        }
        let bars = MultiProgress::new();
        let all = bytes.map(|bytes| All { bar: bars.add(bar(Some(bytes), "in all")), done: AtomicI64::default() });
        Self { form: Form::Bars(bars), all }
    }

    /// Whether it prints objects.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.form, Form::Json { .. })
    }

    /// Waits for a transfer, and shows it meanwhile. Several may be under way.
    pub(super) async fn watch<T>(&self, name: &str, meter: &Arc<Meter>, transfer: impl Future<Output = T>) -> T {
        let mut transfer = std::pin::pin!(transfer);
        let mut ticks = interval(match self.form {
            Form::Bars(_) => Duration::from_millis(200),
            Form::Lines => Duration::from_secs(10),
            Form::Json { .. } => Duration::from_secs(1),
        });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let bar = match &self.form {
            Form::Bars(bars) => Some(bars.insert(0, bar(None, &plain(name)))),
            Form::Lines | Form::Json { .. } => None,
        };
        let (mut last, mut counted, mut waits) = ((Instant::now(), meter.seen().moved), 0, Default::default());
        let done = loop {
            tokio::select! {
                done = &mut transfer => break done,
                _ = ticks.tick() => {}
            }
            let seen = meter.seen();
            let rate = (seen.moved - last.1) as f64 / last.0.elapsed().as_secs_f64().max(0.001);
            last = (Instant::now(), seen.moved);
            let pace = (rate as u64, meter.limiter(&mut waits));
            self.show(name, bar.as_ref(), &meter.take_notes(), seen, pace);
            if let Some(all) = &self.all {
                all.change(&mut counted, seen.done);
            }
        };
        self.notes(name, &meter.take_notes());
        let seen = meter.seen();
        if let Some(bar) = bar {
            bar.set_position(seen.done);
            bar.finish_and_clear();
        }
        if let Some(all) = &self.all {
            all.change(&mut counted, seen.done);
        }
        done
    }

    /// Shows how far a transfer is, its bytes in a second, and what keeps it from more.
    fn show(
        &self,
        name: &str,
        bar: Option<&ProgressBar>,
        notes: &[String],
        seen: Seen,
        (rate, limiter): (u64, Option<Limiter>),
    ) {
        self.notes(name, notes);
        match &self.form {
            Form::Bars(_) => {
                let Some(bar) = bar else { return };
                if bar.length().is_none()
                    && let Some(size) = seen.size
                {
                    bar.set_style(style(BAR));
                    bar.set_length(size);
                    bar.reset_eta();
                }
                bar.set_position(seen.done);
                let limiter = limiter.map_or("", Limiter::word);
                bar.set_prefix(format!("x{} {limiter}", seen.connections));
            }
            Form::Lines => {
                let percent = seen.size.map(|size| format!(" ({} %)", u128::from(seen.done) * 100 / u128::from(size)));
                let (done, rate) = (mib(seen.done), mib(rate));
                let percent = percent.unwrap_or_default();
                let limiter = limiter.map(|limiter| format!(", limited by: {limiter}")).unwrap_or_default();
                let connections = seen.connections;
                say(&format!("{}: {done}{percent}, {rate}/s, {connections} connections{limiter}", plain(name)));
            }
            Form::Json { .. } => self.line(&json!({
                "event": "progress", "name": name, "size": seen.size, "done": seen.done, "moved": seen.moved,
                "bytes_per_second": rate, "connections": seen.connections, "limited_by": limiter.map(Limiter::word),
            })),
        }
    }

    fn notes(&self, name: &str, notes: &[String]) {
        for note in notes {
            match &self.form {
                Form::Bars(bars) => bars.suspend(|| say(&format!("{}: {}", plain(name), plain(note)))),
                Form::Lines => say(&format!("{}: {}", plain(name), plain(note))),
                Form::Json { .. } => self.line(&json!({"event": "note", "name": name, "note": note})),
            }
        }
    }

    /// Prints what came of a transfer: JSON, or else this text on standard output.
    pub(super) fn done(&self, result: &impl Serialize, text: &str) {
        match &self.form {
            Form::Json { .. } => {
                let mut line = serde_json::to_value(result).unwrap_or_default();
                if let Value::Object(fields) = &mut line {
                    fields.insert("event".to_owned(), "done".into());
                }
                self.line(&line);
            }
            Form::Bars(bars) => bars.suspend(|| print(text)),
            Form::Lines => print(text),
        }
    }

    /// Tells that a file of several is not transferred.
    pub(super) fn failed(&self, name: &str, file: &str, why: &str, code: u8) {
        let text = || format!("{}: {}", plain(file), plain(why));
        match &self.form {
            Form::Json { .. } => self.line(&json!({
                "event": "failed", "name": name, "file": file, "error": why, "exit_code": code,
            })),
            Form::Bars(bars) => bars.suspend(|| say(&text())),
            Form::Lines => say(&text()),
        }
    }

    fn line(&self, line: &Value) {
        match self.form {
            Form::Json { to_error: true } => say(&line.to_string()),
            _ => print(&line.to_string()),
        }
    }
}

fn bar(length: Option<u64>, name: &str) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.with_style(style(if length.is_some() { BAR } else { SPINNER })).with_message(name.to_owned())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / ByteCount::mib(1).get() as f64)
}
