//! Forms with a file (`multipart/form-data`, RFC 7578): what stands before the file is read here, the file is not.

use http::{HeaderMap, header};

use super::media;
use crate::domain::{Fault, FaultKind};

/// The most bytes before the file: a few numbers, and two names of files.
pub const MOST_BEFORE: usize = 16 << 10;

/// The name of the part with the file.
const FILE: &str = "file";

/// The encodings of a part that change none of its bytes.
const PLAIN: [&str; 3] = ["binary", "8bit", "7bit"];

/// What stands before the file of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormStart {
    /// The fields by their names. Some clients send each as a file too, whose name means nothing.
    pub fields: Vec<(String, String)>,
    /// The place of the file's first byte.
    pub file: usize,
}

/// A form up to its file, which is its last part.
#[derive(Debug)]
pub struct Form {
    /// The fields by their names.
    pub fields: Vec<(String, String)>,
    /// The bytes of the file and of the end of the form behind it, if the length of the body is known.
    pub rest: Option<u64>,
    /// What stands between the file and the end of the form.
    pub delimiter: Vec<u8>,
}

impl Form {
    /// Whether the form can have so many bytes of file. A line end behind the last delimiter is left out by some.
    pub fn fits(&self, file: u64) -> bool {
        let end = self.delimiter.len() as u64 + CLOSE.len() as u64;
        self.rest.is_none_or(|rest| rest.checked_sub(file).is_some_and(|left| left == end || left == end + 2))
    }
}

/// What makes a delimiter the last one.
pub const CLOSE: &[u8] = b"--";

/// Returns what separates the parts of a form.
pub fn boundary(headers: &HeaderMap) -> Result<String, Fault> {
    let unsupported = || {
        let told = "a chunk is sent as multipart/form-data, or as application/octet-stream";
        Fault::new(FaultKind::UnsupportedMediaType, told)
    };
    if !media::of(headers).is_some_and(|media| media.eq_ignore_ascii_case("multipart/form-data")) {
        return Err(unsupported());
    }
    if !media::is_uncoded(headers) {
        return Err(Fault::new(FaultKind::UnsupportedMediaType, "a form is sent without a Content-Encoding"));
    }
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(unsupported)?;
    let boundary = parameters(value).find(|(name, _)| name == "boundary").map(|(_, value)| value);
    // RFC 2046 section 5.1.1. None of them is a line end, on which the search for the delimiter relies.
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let boundary = boundary.filter(|text| (1..=70).contains(&text.len()) && text.bytes().all(is_one));
    boundary.ok_or_else(|| Fault::invalid("content-type", "a form needs a boundary of 1 to 70 characters"))
}

/// The fault of a form that ends before its file.
pub fn cut_short() -> Fault {
    Fault::new(FaultKind::BodyIncomplete, "the body ended before the file of the form")
}

/// Returns what stands between two parts of a form, line end included.
pub fn delimiter(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}").into_bytes()
}

impl FormStart {
    /// Reads a form up to its file; `None` if that does not begin within these bytes.
    pub fn read(boundary: &str, bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let delimiter = delimiter(boundary);
        let first = &delimiter[2..];
        let Some(mut rest) = bytes.strip_prefix(first) else {
            return if first.starts_with(bytes) { Ok(None) } else { Err(malformed("it begins with its boundary")) };
        };
        let mut fields: Vec<(String, String)> = Vec::new();
        loop {
            if rest.starts_with(CLOSE) {
                return Err(malformed("its last part is the file"));
            }
            let Some(line) = find(rest, b"\r\n") else { return Ok(None) };
            if !rest[..line].iter().all(|byte| b" \t".contains(byte)) {
                return Err(malformed("a boundary stands on a line of its own"));
            }
            let Some(end) = find(&rest[line..], b"\r\n\r\n") else { return Ok(None) };
            let (head, body) = (&rest[line..line + end], &rest[line + end + 4..]);
            let name = name_of(head)?;
            if name == FILE {
                return Ok(Some(Self { fields, file: bytes.len() - body.len() }));
            }
            let Some(end) = find(body, &delimiter) else { return Ok(None) };
            let value = std::str::from_utf8(&body[..end]).map_err(|_| Fault::invalid(&name, "must be UTF-8"))?;
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(Fault::invalid(&name, format!("the field {name} is there twice")));
            }
            fields.push((name, value.to_owned()));
            rest = &body[end + delimiter.len()..];
        }
    }
}

/// The name of a part, by its head.
fn name_of(head: &[u8]) -> Result<String, Fault> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("the heads of its parts are UTF-8"))?;
    let mut name = None;
    for (field, value) in head.split("\r\n").filter_map(|line| line.split_once(':')) {
        let is = |known: &str| field.trim().eq_ignore_ascii_case(known);
        if is("content-disposition") {
            name = parameters(value).find(|(name, _)| name == "name").map(|(_, value)| value);
        } else if is("content-transfer-encoding") && !PLAIN.iter().any(|one| value.trim().eq_ignore_ascii_case(one)) {
            return Err(malformed("its parts are sent as they are, without a Content-Transfer-Encoding"));
        }
    }
    name.ok_or_else(|| malformed("each of its parts has a name"))
}

/// The parameters of a field, by their names in lower case: `value; name="text"`.
fn parameters(value: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = value.split_once(';').map_or("", |(_, rest)| rest);
    std::iter::from_fn(move || {
        let (name, value) = rest.split_once('=')?;
        let (text, behind) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => value
                .split_once(';')
                .map_or((value.trim().to_owned(), ""), |(text, rest)| (text.trim().to_owned(), rest)),
        };
        rest = behind.trim_start().trim_start_matches(';');
        Some((name.trim().to_ascii_lowercase(), text))
    })
}

/// The text up to the closing quote, and what stands behind that.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(characters.next()?.1),
            other => text.push(other),
        }
    }
    None
}

fn find(within: &[u8], wanted: &[u8]) -> Option<usize> {
    within.windows(wanted.len()).position(|window| window == wanted)
}

fn malformed(told: &str) -> Fault {
    Fault::invalid("body", format!("this is not the form of a chunk: {told}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn part(name: &str, value: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n{value}\r\n")
    }

    #[test]
    fn fields_are_read_up_to_the_file_however_the_bytes_come() {
        let file = "--b\r\ncontent-disposition: form-data; filename=\"a; name=\\\"x\\\"\"; name=file\r\nContent-Type: x/y\r\n\r\n";
        let start = format!("{}{}{file}", part("one", "1"), part("two", "a\r\nb\r\n--x"));
        let text = format!("{start}bytes\r\n--b--\r\n");
        let read = |end: usize| FormStart::read("b", &text.as_bytes()[..end]);
        for end in 0..start.len() {
            assert_eq!(read(end).unwrap(), None, "{end}");
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![pair("one", "1"), pair("two", "a\r\nb\r\n--x")];
        assert_eq!(read(text.len()).unwrap(), Some(FormStart { fields, file: start.len() }));
    }

    #[test]
    fn what_is_no_form_of_a_chunk_is_refused() {
        let encoded = "--b\r\nContent-Disposition: form-data; name=file\r\nContent-Transfer-Encoding: base64\r\n\r\n";
        for wrong in [
            "preamble\r\n--b\r\n",
            "--bc\r\n",
            "--b--\r\n",
            &format!("{}--b--\r\n", part("one", "1")),
            &format!("{}{}{}", part("one", "1"), part("one", "1"), part("two", "2")),
            "--b\r\n\r\n",
            "--b\r\nContent-Disposition: form-data\r\n\r\n",
            "--b\r\nContent-Disposition: form-data; name=\"open\r\n\r\n",
            encoded,
        ] {
            assert!(FormStart::read("b", wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_boundary_is_read_with_and_without_quotes() {
        let read = |value: &'static str| {
            boundary(&[(header::CONTENT_TYPE, HeaderValue::from_static(value))].into_iter().collect())
        };
        assert_eq!(read("multipart/form-data; boundary=a-b").unwrap(), "a-b");
        assert_eq!(read("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"").unwrap(), "a b");
        for wrong in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"a"] {
            assert_eq!(read(wrong).unwrap_err().kind, FaultKind::Invalid, "{wrong}");
        }
        assert_eq!(read("multipart/mixed; boundary=a").unwrap_err().kind, FaultKind::UnsupportedMediaType);
    }

    #[test]
    fn the_length_of_a_form_tells_that_of_its_file() {
        let form = |rest| Form { fields: Vec::new(), rest, delimiter: delimiter("b") };
        for (rest, fits) in [(None, true), (Some(17), true), (Some(19), true), (Some(18), false), (Some(7), false)] {
            assert_eq!(form(rest).fits(10), fits, "{rest:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "(--b|\r\n|name=|\"|;|content-disposition:|.){0,40}") {
            let _ = FormStart::read("b", &bytes);
            let _ = FormStart::read("b", text.as_bytes());
            let _ = FormStart::read("b", format!("--b\r\n{text}\r\n\r\n").as_bytes());
        }
    }
}
