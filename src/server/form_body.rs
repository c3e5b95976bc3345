//! The file of a form, as it comes: between the fields before it, which are read, and the end of the form.
//!
//! How many bytes the file has is known beforehand, from the fields. A form that ends earlier or later is refused, and
//! so is one with another part behind the file.

use crate::dialect::form::{CLOSE, Form};
use crate::domain::{Fault, FaultKind};

/// Where a body is in its form.
#[derive(Debug)]
pub(super) struct FormBody {
    /// The bytes of the file that are to come.
    left: u64,
    /// What ends the file.
    delimiter: Vec<u8>,
    /// How much of a delimiter the last bytes of the file are.
    matched: usize,
    /// What came behind the file.
    end: Vec<u8>,
}

impl FormBody {
    /// Of a form whose file has so many bytes.
    pub(super) fn new(form: Form, file: u64) -> Self {
        Self { left: file, delimiter: form.delimiter, matched: 0, end: Vec::new() }
    }

    /// The bytes of the file that are to come.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// Takes note of bytes of the file, none of which may end it.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        let mut at = 0;
        while at < bytes.len() {
            if self.matched == 0 {
                // A delimiter has one line end, which is its beginning.
                match bytes[at..].iter().position(|byte| *byte == b'\r') {
                    None => return Ok(()),
                    Some(further) => at += further,
                }
            }
            let byte = bytes[at];
            if byte == self.delimiter[self.matched] {
                self.matched += 1;
                if self.matched == self.delimiter.len() {
                    return Err(other_length());
                }
            } else {
                self.matched = usize::from(byte == b'\r');
            }
            at += 1;
        }
        Ok(())
    }

    /// The most bytes that may still come behind the file.
    pub(super) fn room(&self) -> usize {
        (self.delimiter.len() + CLOSE.len() + 2 + 1).saturating_sub(self.end.len())
    }

    /// Takes note of bytes behind the file.
    pub(super) fn pass_end(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.end.extend_from_slice(bytes);
        if self.room() == 0 { Err(other_length()) } else { Ok(()) }
    }

    /// Fails unless the form has ended behind its file.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        let end = self.end.strip_prefix(&*self.delimiter).and_then(|end| end.strip_prefix(CLOSE));
        match end {
            Some(b"" | b"\r\n") if self.left == 0 => Ok(()),
            _ => Err(other_length()),
        }
    }
}

fn other_length() -> Fault {
    let told = "the file of the form has not the length of its chunk, or is not the last part";
    Fault::invalid("file", told)
}

/// The fault of a form whose file does not begin in time.
pub(super) fn too_long() -> Fault {
    Fault::new(FaultKind::TooLarge, "the form has too much before its file")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::form::delimiter;

    fn body(file: u64) -> FormBody {
        FormBody::new(Form { fields: Vec::new(), rest: None, delimiter: delimiter("b") }, file)
    }

    /// Feeds the file in pieces, and then the end.
    fn fed(file: &[u8], end: &[u8], piece: usize) -> Result<(), Fault> {
        let mut body = body(file.len() as u64);
        for bytes in file.chunks(piece) {
            body.pass(bytes)?;
        }
        assert_eq!(body.left(), 0);
        for bytes in end.chunks(piece) {
            body.pass_end(bytes)?;
        }
        body.check_end()
    }

    #[test]
    fn a_file_ends_where_its_form_does_and_holds_no_delimiter() {
        for piece in 1..9 {
            for file in ["", "x", "\r\n", "\r\n--", "\r\r\n-\r\n--\r\n--c", "--b--\r\n"] {
                fed(file.as_bytes(), b"\r\n--b--\r\n", piece).unwrap();
                fed(file.as_bytes(), b"\r\n--b--", piece).unwrap();
                for end in ["", "\r\n--b", "\r\n--b--\r", "\r\n--b--\r\nx", "\r\n--b\r\n\r\n", "x\r\n--b--"] {
                    assert!(fed(file.as_bytes(), end.as_bytes(), piece).is_err(), "{file:?} {end:?}");
                }
            }
            for file in ["\r\n--b", "x\r\n--b--\r\n", "\r\r\n--bc", "\r\n-\r\n--b"] {
                assert!(fed(file.as_bytes(), b"\r\n--b--\r\n", piece).is_err(), "{file:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_delimiter_is_found_wherever_it_is_and_however_it_comes(file in "(\r|\n|-|b|x){0,40}", piece in 1..12_usize) {
            let is_ended = file.as_bytes().windows(5).any(|window| window == b"\r\n--b");
            prop_assert_eq!(fed(file.as_bytes(), b"\r\n--b--", piece).is_err(), is_ended);
        }
    }
}
