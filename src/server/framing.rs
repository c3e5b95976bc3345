//! Watches the inbound bytes of one HTTP/1 connection and reports every request whose framing is ambiguous.
//!
//! hyper follows the framing too, but forgives what RFC 9112 lets a server refuse: it drops a `Content-Length` beside a
//! `Transfer-Encoding`, and merges equal `Content-Length` lines. A proxy in front of the server may forgive
//! differently, and such a difference allows request smuggling. The guard sees the same bytes as hyper, in the same
//! order, before hyper does, and the request handler asks [`Framing::violation_of`] before it looks at anything else.
//!
//! It neither answers nor closes; the handler does. It does not check what hyper refuses itself and what cannot move
//! the end of a message: methods, targets, names and values of other fields, sizes of heads.
//!
//! # Invariants
//! - Fails closed: after a violation the guard stops following, and every later request of the connection is in
//!   violation too. A request that hyper saw and the guard did not is in violation.
//! - Where guard and hyper (1.12, httparse 1.10) both accept a message, they agree on its last byte.
//! - Memory is constant: the first [`LINE_START`] bytes of a line, never a head.
//!
//! # Rules
//! Sections of RFC 9112. "Also hyper" says that hyper answers 400 itself.
//!
//! | refused | section | also hyper |
//! |---|---|---|
//! | a request line that does not end with `HTTP/1.0` or `HTTP/1.1` | 3 | yes |
//! | a CR that is not followed by LF | 2.2 | yes |
//! | a field line that starts with whitespace (obs-fold) | 5.2 | yes |
//! | a field line without a colon, or with whitespace before it | 5.1 | yes |
//! | `Transfer-Encoding` together with `Content-Length` | 6.1, 6.3 (3) | no |
//! | `Transfer-Encoding` in HTTP/1.0 | 6.1 | yes |
//! | `Transfer-Encoding` that is not exactly `chunked`, once | 6.1, 6.3 (4) | only when `chunked` is not last |
//! | more than one `Content-Length` line, or a list in it | 6.3 (5) | only when they differ |
//! | a `Content-Length` that is not a number below 2^64 | 6.2, 6.3 (5) | yes |
//! | one of these two fields with a line longer than [`LINE_START`] | ours | no |
//! | a chunk size that is not hexadecimal, or not below 2^64 | 7.1 | yes, as a broken body |
//! | a chunk line or chunk that does not end with CRLF | 7.1 | yes, as a broken body |
//! | a trailer line that ends without CR | 7.1.2, 2.2 | no |

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The bytes of a field line that the guard keeps. The longest line that it needs is `Transfer-Encoding:` with its
/// value; the rest is room for whitespace and digits.
pub(super) const LINE_START: usize = 64;

/// The findings of the guard, shared with the handler of the connection's requests.
#[derive(Debug, Default)]
pub(super) struct Framing {
    heads: AtomicU64,
    broken: OnceLock<(u64, &'static str)>,
}

impl Framing {
    /// Why the `request_index`-th request of the connection, counted from 0 in the order in which hyper delivers them,
    /// must be answered with 400 and the connection closed.
    pub(super) fn violation_of(&self, request_index: u64) -> Option<&'static str> {
        match self.broken.get() {
            Some((at, why)) if request_index >= *at => Some(why),
            _ if request_index >= self.heads() => Some("request framing was lost"),
            _ => None,
        }
    }

    /// Returns the number of heads that were complete and in order.
    pub(super) fn heads(&self) -> u64 {
        self.heads.load(Ordering::Acquire)
    }
}

/// Follows the message framing of one connection. Fed by the connection's reads.
#[derive(Debug)]
pub(super) struct FramingGuard {
    shared: Arc<Framing>,
    at: At,
    line: Line,
    /// The length of the last body that had one.
    length: u64,
}

impl FramingGuard {
    /// Returns a guard for a new connection, and the findings that it shares with the handler.
    pub(super) fn new() -> (Self, Arc<Framing>) {
        let shared = Arc::<Framing>::default();
        (Self { shared: Arc::clone(&shared), at: At::RequestLine, line: Line::default(), length: 0 }, shared)
    }

    /// Reads the next inbound bytes. Bytes of a body cost no more than a subtraction.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.step(bytes) {
                Ok(used) => bytes = &bytes[used..],
                Err(why) => {
                    self.at = At::Lost;
                    // This is set at most once: nothing is parsed from here on.
                    let _ = self.shared.broken.set((self.shared.heads(), why));
                }
            }
        }
    }

    /// Returns the number of heads that were complete and in order.
    pub(super) fn heads(&self) -> u64 {
        self.shared.heads()
    }

    /// Whether all bytes so far are complete requests, in order.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.at, At::RequestLine) && self.line.len == 0
    }

    /// Returns the length of a body with a `Content-Length`, and how much of it is still to come.
    pub(super) fn sized_body(&self) -> Option<(u64, u64)> {
        match self.at {
            At::Sized(left) => Some((self.length, left)),
            _ => None,
        }
    }

    /// Counts the rest of a body with a `Content-Length` as received.
    pub(super) fn skip_body(&mut self) {
        if let At::Sized(_) = self.at {
            self.at = At::RequestLine;
        }
    }

    /// Parses a part of `bytes`, which must not be empty; returns how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match &mut self.at {
            At::RequestLine => {
                let (used, ended) = self.line.take(bytes);
                if ended {
                    // Empty lines before a request line are skipped: section 2.2.
                    if !self.line.is_empty()? {
                        self.at = At::Fields(Fields::after(&self.line)?);
                    }
                    self.line = Line::default();
                }
                Ok(used)
            }
            At::Fields(fields) => {
                let (used, ended) = self.line.take(bytes);
                if ended {
                    if self.line.is_empty()? {
                        let body = fields.body()?;
                        self.length = fields.length.unwrap_or(0);
                        self.at = body;
                        self.shared.heads.fetch_add(1, Ordering::Release);
                    } else {
                        fields.add(&self.line)?;
                    }
                    self.line = Line::default();
                }
                Ok(used)
            }
            At::Sized(left) => {
                let used = skip(left, bytes);
                if *left == 0 {
                    self.at = At::RequestLine;
                }
                Ok(used)
            }
            At::Chunked(chunked) => {
                let used = chunked.step(bytes)?;
                if *chunked == Chunked::End {
                    self.at = At::RequestLine;
                }
                Ok(used)
            }
            At::Lost => Ok(bytes.len()),
        }
    }
}

#[derive(Debug)]
enum At {
    RequestLine,
    Fields(Fields),
    Sized(u64),
    Chunked(Chunked),
    Lost,
}

/// Skips the bytes of a run of `left` bytes that are in `bytes`; returns how many.
fn skip(left: &mut u64, bytes: &[u8]) -> usize {
    let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= used as u64;
    used
}

/// A line of a head, without its end.
#[derive(Debug)]
struct Line {
    start: [u8; LINE_START],
    end: [u8; VERSION],
    len: usize,
    /// Whether the last byte was a CR, which belongs to the line's end if an LF follows.
    cr: bool,
    bare_cr: bool,
}

/// The length of the version that ends a request line, with the space before it.
const VERSION: usize = b" HTTP/1.1".len();

impl Default for Line {
    fn default() -> Self {
        Self { start: [0; LINE_START], end: [0; VERSION], len: 0, cr: false, bare_cr: false }
    }
}

impl Line {
    /// Reads bytes up to and including the next LF; returns how many, and whether that ended the line.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let lf = bytes.iter().position(|&byte| byte == b'\n');
        for &byte in &bytes[..lf.unwrap_or(bytes.len())] {
            self.bare_cr |= self.cr;
            self.cr = byte == b'\r';
            if !self.cr {
                if let Some(free) = self.start.get_mut(self.len) {
                    *free = byte;
                }
                self.end.rotate_left(1);
                self.end[VERSION - 1] = byte;
                self.len += 1;
            }
        }
        (lf.map_or(bytes.len(), |lf| lf + 1), lf.is_some())
    }

    /// Whether a complete line is empty.
    fn is_empty(&self) -> Result<bool, &'static str> {
        if self.bare_cr { Err("a line has a CR without an LF") } else { Ok(self.len == 0) }
    }

    /// Returns the kept beginning of the line.
    fn start(&self) -> &[u8] {
        &self.start[..self.len.min(LINE_START)]
    }
}

/// The fields of the head so far that concern the body.
#[derive(Debug)]
struct Fields {
    is_http_10: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    fn after(request_line: &Line) -> Result<Self, &'static str> {
        let is_http_10 = match &request_line.end {
            b" HTTP/1.0" => true,
            b" HTTP/1.1" => false,
            _ => return Err("the request line does not end with an HTTP/1 version"),
        };
        Ok(Self { is_http_10, length: None, chunked: false })
    }

    fn add(&mut self, line: &Line) -> Result<(), &'static str> {
        let start = line.start();
        if matches!(start.first(), Some(b' ' | b'\t')) {
            return Err("a field line starts with whitespace");
        }
        let Some(colon) = start.iter().position(|&byte| byte == b':') else {
            // No field of interest has such a long name, and hyper checks the line.
            return if line.len > LINE_START { Ok(()) } else { Err("a field line has no colon") };
        };
        let (name, value) = (&start[..colon], &start[colon + 1..]);
        if name.iter().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err("a field name has whitespace");
        }
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
        if (is_length || is_coding) && line.len > LINE_START {
            return Err("a framing field is too long");
        }
        if is_length {
            self.length(value)
        } else if is_coding {
            self.coding(value)
        } else {
            Ok(())
        }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.length.is_some() {
            return Err("more than one Content-Length");
        }
        let length = number(trim(value), 10).ok_or("Content-Length is not one number")?;
        self.length = Some(length);
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.is_http_10 {
            return Err("Transfer-Encoding in HTTP/1.0");
        }
        if self.chunked {
            return Err("more than one Transfer-Encoding");
        }
        if !trim(value).eq_ignore_ascii_case(b"chunked") {
            return Err("Transfer-Encoding is not chunked");
        }
        self.chunked = true;
        Ok(())
    }

    /// Returns the state after the head.
    fn body(&self) -> Result<At, &'static str> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err("Transfer-Encoding together with Content-Length"),
            (true, None) => Ok(At::Chunked(Chunked::Start)),
            (false, None | Some(0)) => Ok(At::RequestLine),
            (false, Some(length)) => Ok(At::Sized(length)),
        }
    }
}

/// The position in a chunked body. The states are those of hyper's decoder, so that the two cannot differ.
#[derive(Debug, PartialEq)]
enum Chunked {
    Start,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

impl Chunked {
    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        if let Self::Data(left) = self {
            let used = skip(left, bytes);
            if *left == 0 {
                *self = Self::DataCr;
            }
            return Ok(used);
        }
        *self = self.after(bytes[0])?;
        Ok(1)
    }

    fn after(&self, byte: u8) -> Result<Self, &'static str> {
        Ok(match (self, byte) {
            (Self::Start, _) => Self::Size(digit(0, byte)?),
            (Self::Size(size) | Self::SizeSpace(size), b' ' | b'\t') => Self::SizeSpace(*size),
            (Self::Size(size) | Self::SizeSpace(size), b';') => Self::Extension(*size),
            (Self::Size(size) | Self::SizeSpace(size) | Self::Extension(size), b'\r') => Self::SizeLf(*size),
            (Self::Size(size), _) => Self::Size(digit(*size, byte)?),
            (Self::Extension(_), b'\n') => return Err("a chunk extension has an LF"),
            (Self::Extension(size), _) => Self::Extension(*size),
            (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(*size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Start,
            (Self::TrailerStart, b'\r') => Self::LastLf,
            // hyper takes an LF for a part of the trailer line, others take it for its end.
            (Self::TrailerStart | Self::Trailer, b'\n') => return Err("a trailer line ends without CR"),
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            (Self::LastLf, b'\n') => Self::End,
            _ => return Err("a chunk is malformed"),
        })
    }
}

fn digit(size: u64, byte: u8) -> Result<u64, &'static str> {
    push_digit(size, byte, 16).ok_or("a chunk size is not a hexadecimal number")
}

fn push_digit(number: u64, byte: u8, radix: u32) -> Option<u64> {
    number.checked_mul(radix.into())?.checked_add(char::from(byte).to_digit(radix)?.into())
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    rest.iter().try_fold(push_digit(0, *first, radix)?, |number, byte| push_digit(number, *byte, radix))
}

/// Returns the value without the optional whitespace around it, which is SP and HTAB only (RFC 9110 section 5.6.3).
fn trim(value: &[u8]) -> &[u8] {
    let is_solid = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let from = value.iter().position(is_solid).unwrap_or(value.len());
    let to = value.iter().rposition(is_solid).map_or(from, |last| last + 1);
    &value[from..to]
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The number of heads in order, and the place and the reason of the violation.
    type Verdict = (u64, Option<(u64, &'static str)>);

    fn watch<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
        let (mut guard, framing) = FramingGuard::new();
        parts.into_iter().for_each(|part| guard.feed(part));
        (framing.heads(), framing.broken.get().copied())
    }

    fn reason(fields: &str) -> Option<&'static str> {
        let stream = format!("GET /0 HTTP/1.1\r\n\r\nPUT /1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (heads, broken) = watch([stream.as_bytes()]);
        assert_eq!(heads, if broken.is_some() { 1 } else { 2 });
        assert!(broken.is_none_or(|(at, _)| at == 1));
        broken.map(|(_, why)| why)
    }

    #[test]
    fn plain_framing_passes() {
        for fields in [
            "",
            "Content-Length: 5\r\n",
            "content-LENGTH:5 \t\r\n",
            "Transfer-Encoding: \t Chunked \r\n",
            "Content-Length: 18446744073709551615\r\n",
            "X-Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\nX: y\n",
        ] {
            assert_eq!(reason(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn each_rule_names_its_violation() {
        let long = format!("Content-Length: {}5\r\n", "0".repeat(LINE_START));
        for (fields, why) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding together with Content-Length"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "Transfer-Encoding together with Content-Length"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "more than one Content-Length"),
            ("Content-Length: 0\r\nContent-Length: 0\r\n", "more than one Content-Length"),
            ("Content-Length: 5, 5\r\n", "Content-Length is not one number"),
            ("Content-Length: +5\r\n", "Content-Length is not one number"),
            ("Content-Length:\r\n", "Content-Length is not one number"),
            ("Content-Length: 0x5\r\n", "Content-Length is not one number"),
            ("Content-Length: 18446744073709551616\r\n", "Content-Length is not one number"),
            (&long, "a framing field is too long"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "more than one Transfer-Encoding"),
            ("Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding is not chunked"),
            ("Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding is not chunked"),
            ("Transfer-Encoding: \x0bchunked\r\n", "Transfer-Encoding is not chunked"),
            ("Transfer-Encoding:\r\n", "Transfer-Encoding is not chunked"),
            ("X: y\r\n folded\r\n", "a field line starts with whitespace"),
            (" Content-Length: 5\r\n", "a field line starts with whitespace"),
            ("Content-Length : 5\r\n", "a field name has whitespace"),
            ("Content-Length\r\n", "a field line has no colon"),
            ("X: y\rContent-Length: 5\r\n", "a line has a CR without an LF"),
            ("X: y\r\r\n", "a line has a CR without an LF"),
        ] {
            assert_eq!(reason(fields), Some(why), "{fields:?}");
        }
    }

    #[test]
    fn request_line_must_end_with_an_http_1_version() {
        for line in ["GET /", "PRI * HTTP/2.0", "GET / HTTP/1.1 ", "GET /HTTP/1.1", "GET / http/1.1", "1.1"] {
            let (heads, broken) = watch([format!("{line}\r\n\r\n").as_bytes()]);
            assert_eq!(
                (heads, broken),
                (0, Some((0, "the request line does not end with an HTTP/1 version"))),
                "{line}"
            );
        }
        let (_, broken) = watch([b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice()]);
        assert_eq!(broken, Some((0, "Transfer-Encoding in HTTP/1.0")));
    }

    #[test]
    fn body_that_looks_like_a_request_is_not_one() {
        let inner = "GET /inner HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        let sized = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
        let chunked = "\r\n\nPUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"\r\r\n";
        assert_eq!(watch([chunked.as_bytes()]), (1, Some((1, "a chunk is malformed"))));
        let chunked = format!(
            "\r\n\nPUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x} ;a=b\r\n{inner}\r\n0\r\nContent-Length: \
             9\r\n\r\n",
            inner.len()
        );
        let stream = format!("{sized}{chunked}{sized}GET / HTTP/1.1\r\n\r\n");
        assert_eq!(watch([stream.as_bytes()]), (4, None));
    }

    #[test]
    fn requests_before_a_violation_are_fine_and_all_after_it_are_not() {
        let (mut guard, framing) = FramingGuard::new();
        assert_eq!(framing.violation_of(0), Some("request framing was lost"));
        guard.feed(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n");
        assert_eq!(framing.violation_of(0), None);
        assert_eq!(framing.violation_of(1), Some("request framing was lost"));
        guard.feed(b"A : b\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(framing.violation_of(0), None);
        for index in [1, 2, u64::MAX] {
            assert_eq!(framing.violation_of(index), Some("a field name has whitespace"));
        }
    }

    #[test]
    fn broken_chunks_put_the_next_request_in_violation() {
        for (body, why) in [
            ("\r\n", "a chunk size is not a hexadecimal number"),
            ("10000000000000000\r\n", "a chunk size is not a hexadecimal number"),
            ("1\n", "a chunk size is not a hexadecimal number"),
            ("1 1\r\n", "a chunk is malformed"),
            ("1;a\n", "a chunk extension has an LF"),
            ("1\r\nxy", "a chunk is malformed"),
            ("0\r\n\nGET / HTTP/1.1\r\n\r\n", "a trailer line ends without CR"),
            ("0\r\nA: b\n\r\n", "a trailer line ends without CR"),
            ("0\r\nA: b\r\r\n", "a chunk is malformed"),
        ] {
            let stream = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(watch([stream.as_bytes()]), (1, Some((1, why))), "{body:?}");
        }
    }

    /// The violation that a parser of the whole stream finds.
    #[derive(Debug)]
    enum Found {
        Clean,
        Violation(&'static str),
        /// The stream is cut off within a chunk line, where the guard may already know.
        Unknown,
    }

    impl From<Option<&'static str>> for Found {
        fn from(why: Option<&'static str>) -> Self {
            why.map_or(Self::Unknown, Self::Violation)
        }
    }

    /// Applies the same rules to the whole stream at once.
    fn naive(mut stream: &[u8]) -> (u64, Found) {
        let mut heads = 0;
        loop {
            match naive_message(stream) {
                Ok((rest, ended)) => {
                    heads += u64::from(ended);
                    let Some(rest) = rest else { return (heads, Found::Clean) };
                    stream = rest;
                }
                Err((ended, why)) => return (heads + u64::from(ended), why.into()),
            }
        }
    }

    /// Returns the rest of the stream after the first message, if that is complete, and whether its head is.
    #[expect(clippy::type_complexity)]
    fn naive_message(mut stream: &[u8]) -> Result<(Option<&[u8]>, bool), (bool, Option<&'static str>)> {
        let mut lines = Vec::new();
        while let Some(lf) = stream.iter().position(|&byte| byte == b'\n') {
            let line = stream[..lf].strip_suffix(b"\r").unwrap_or(&stream[..lf]);
            stream = &stream[lf + 1..];
            lines.push(line);
            if line.is_empty() && lines.len() > 1 {
                break;
            }
            if line.is_empty() {
                lines.clear();
            }
        }
        let bad = |why| Err((false, Some(why)));
        let (mut lengths, mut chunked) = (None, false);
        for (number, line) in lines.iter().enumerate() {
            if line.contains(&b'\r') {
                return bad("a line has a CR without an LF");
            }
            if number == 0 {
                if !line.ends_with(b" HTTP/1.1") && !line.ends_with(b" HTTP/1.0") {
                    return bad("the request line does not end with an HTTP/1 version");
                }
                continue;
            }
            if line.is_empty() {
                continue;
            }
            if line[0].is_ascii_whitespace() && line[0] != b'\x0c' {
                return bad("a field line starts with whitespace");
            }
            let text: String = line.iter().map(|&byte| char::from(byte)).collect();
            let Some((name, value)) = text.split_once(':') else {
                if line.len() > LINE_START {
                    continue;
                }
                return bad("a field line has no colon");
            };
            if name.len() < LINE_START && name.contains([' ', '\t']) {
                return bad("a field name has whitespace");
            }
            let value = value.trim_matches([' ', '\t']);
            match name.to_ascii_lowercase().as_str() {
                "content-length" | "transfer-encoding" if line.len() > LINE_START => {
                    return bad("a framing field is too long");
                }
                "content-length" if lengths.is_some() => return bad("more than one Content-Length"),
                "content-length" => match value.parse::<u64>() {
                    Ok(length) if !value.starts_with('+') => lengths = Some(length),
                    _ => return bad("Content-Length is not one number"),
                },
                "transfer-encoding" if lines[0].ends_with(b"0") => return bad("Transfer-Encoding in HTTP/1.0"),
                "transfer-encoding" if chunked => return bad("more than one Transfer-Encoding"),
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => chunked = true,
                "transfer-encoding" => return bad("Transfer-Encoding is not chunked"),
                _ => {}
            }
        }
        if lines.len() < 2 || !lines[lines.len() - 1].is_empty() {
            return Ok((None, false));
        }
        match (chunked, lengths) {
            (true, Some(_)) => bad("Transfer-Encoding together with Content-Length"),
            (true, None) => naive_chunks(stream).map(|rest| (rest, true)).map_err(|why| (true, why)),
            (false, length) => {
                Ok((usize::try_from(length.unwrap_or(0)).ok().and_then(|length| stream.get(length..)), true))
            }
        }
    }

    /// Returns the rest of the stream after a chunked body; the error is `None` if it is cut off within a line.
    fn naive_chunks(mut stream: &[u8]) -> Result<Option<&[u8]>, Option<&'static str>> {
        let line = |stream: &mut &[u8]| {
            let lf = stream.iter().position(|&byte| byte == b'\n').ok_or(None)?;
            let line = String::from_utf8_lossy(&stream[..lf]).into_owned();
            *stream = &stream[lf + 1..];
            Ok::<_, Option<&'static str>>(line)
        };
        loop {
            let size = line(&mut stream)?;
            let malformed = Some("a chunk is malformed");
            let (digits, extension) = size
                .split_once([';', '\r'])
                .map_or((size.as_str(), None), |(digits, _)| (digits, size[digits.len()..].strip_prefix(';')));
            let bare = digits.trim_end_matches([' ', '\t']);
            let blank = bare.len() < digits.len();
            if let Some(at) = bare.find(|digit: char| !digit.is_ascii_hexdigit()) {
                let spaced = at > 0 && bare[at..].starts_with([' ', '\t']);
                if u64::from_str_radix(&bare[..at], 16).is_ok() && spaced {
                    return Err(malformed);
                }
                return Err(Some("a chunk size is not a hexadecimal number"));
            }
            let Ok(length) = u64::from_str_radix(bare, 16) else {
                return Err(Some("a chunk size is not a hexadecimal number"));
            };
            if !size.contains([';', '\r']) {
                return Err(if blank { malformed } else { Some("a chunk size is not a hexadecimal number") });
            }
            let tail = extension.unwrap_or(&size[digits.len()..]);
            match tail.find('\r') {
                None => return Err(Some("a chunk extension has an LF")),
                Some(at) if at + 1 < tail.len() => return Err(malformed),
                Some(_) => {}
            }
            if length == 0 {
                loop {
                    let trailer = line(&mut stream)?;
                    match trailer.find('\r') {
                        None => return Err(Some("a trailer line ends without CR")),
                        Some(at) if at + 1 < trailer.len() => return Err(malformed),
                        Some(0) => return Ok(Some(stream)),
                        Some(_) => {}
                    }
                }
            }
            let Some(rest) = usize::try_from(length).ok().and_then(|length| stream.get(length..)) else {
                return Ok(None);
            };
            match rest {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', rest @ ..] => stream = rest,
                _ => return Err(malformed),
            }
        }
    }

    /// Generates streams that are nearly well formed.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "GET / HTTP/1.1\r\n",
            "PUT / HTTP/1.1\r\n",
            "GET / HTTP/1.0\n",
            "\r\n",
            "\r\n",
            "\n",
            "\r",
            "Content-Length: 3\r\n",
            "Content-Length: 18446744073709551615\r\n",
            "content-length:10\n",
            "Content-Length: 1, 1\r\n",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding:CHUNKED \r\n",
            "Transfer-Encoding: gzip\r\n",
            "Host: a\r\n",
            "Host : a\r\n",
            "0\r\n",
            "0\r\n\r\n",
            "3\r\nabc\r\n",
            "A;x=y\r\n0123456789\r\n",
            "1 \t;x\r\n",
            "fffffffffffffffff\r\n",
            "Trailer: x\r\n",
            "abc",
            " ",
            ":",
            "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        ];
        let whole = [
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "PUT /b HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n\r\nG",
            "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nA: b\r\n\r\n",
        ];
        let word = prop_oneof![
            6 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            2 => prop::sample::select(whole.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..3),
        ];
        vec(word, 0..24).prop_map(|words| words.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn splitting_the_stream_changes_nothing(stream in stream(), cuts in vec(1..9_usize, 1..64)) {
            let mut parts = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, tail) = rest.split_at((*cut).min(rest.len()));
                parts.push(part);
                rest = tail;
            }
            prop_assert_eq!(watch(parts), watch([stream.as_slice()]));
        }

        #[test]
        fn guard_agrees_with_a_parser_of_the_whole_stream(stream in stream()) {
            let (heads, broken) = watch([stream.as_slice()]);
            let (naive_heads, verdict) = naive(&stream);
            prop_assert_eq!(heads, naive_heads);
            prop_assert!(broken.is_none_or(|(at, _)| at == heads));
            match (broken, verdict) {
                (None, Found::Clean) | (_, Found::Unknown) => {}
                (Some((_, why)), Found::Violation(expected)) => prop_assert_eq!(why, expected),
                (broken, verdict) => prop_assert!(false, "{:?} but {:?}", broken, verdict),
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(stream in vec(any::<u8>(), 0..512)) {
            watch([stream.as_slice()]);
        }
    }
}
