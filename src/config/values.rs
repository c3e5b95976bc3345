//! Values of settings as people write them, each a type of its own once it is read.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::domain::ByteCount;

/// A byte count as people write it: a number of bytes, or a number with `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub ByteCount);

impl Size {
    fn parse(text: &str) -> Option<ByteCount> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let shift = match text[digits..].trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift).and_then(ByteCount::new)
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        Self::parse(text).map(Self).ok_or("not a size; write bytes, or 512MiB, 4GiB, 1TiB")
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Bytes(u64),
            Text(String),
        }
        match Spelling::deserialize(from)? {
            Spelling::Bytes(bytes) => bytes.to_string().parse(),
            Spelling::Text(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

/// The origin of a site, as browsers name it: `https://portal.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let wrong = "not an origin; write a scheme, a host and, if it is not the usual one, a port";
        let (scheme, authority) = text.split_once("://").ok_or(wrong)?;
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(wrong),
        };
        let host = authority.parse::<http::uri::Authority>().map_err(|_| wrong)?;
        let port = host.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        // A browser leaves the usual port out.
        let is_whole = authority == format!("{}{port}", host.host()) && host.port_u16() != Some(usual);
        if is_whole { Ok(Self(text.to_owned())) } else { Err(wrong) }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which lines are logged, in the syntax of `tracing-subscriber`: `info`, `longshore=debug`.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter(String);

impl LogFilter {
    /// The filter itself, which cannot be cloned.
    pub(crate) fn build(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

/// Reads a number of seconds, which may have a fraction.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(from)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| de::Error::custom("not a number of seconds"))
}

/// Reads a text of a type with a syntax of its own.
pub(super) fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<T, D::Error> {
    // The text is not repeated: a URL may hold a password.
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

/// Reads a text of a type with a syntax of its own, which may be absent.
pub(super) fn optional_text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    text(from).map(Some)
}

/// Reads a list of texts, or one text with commas between.
pub(super) fn texts<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Text(String),
        List(Vec<String>),
    }
    let texts = match Spelling::deserialize(from)? {
        Spelling::Text(text) if text.trim().is_empty() => Vec::new(),
        Spelling::Text(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        Spelling::List(texts) => texts,
    };
    let parse = |text: &String| text.parse().map_err(|error| de::Error::custom(format!("{text:?}: {error}")));
    texts.iter().map(parse).collect()
}
