//! Leaves out what the server has already, in the drive that is named as the base.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ClientError;
use super::exchange::{blocking, read};
use super::parts::{Open, within};
use super::retry::persist;
use crate::domain::{PIECE, is_zero};

/// The pieces that the server is asked for at once: they are digested before, and nothing is sent meanwhile.
const PAGE: u64 = 256;

/// What the server says of pieces.
#[derive(Deserialize)]
struct Compared {
    taken: u64,
    next: Option<u64>,
}

impl Open {
    /// Has the server take over what the base has of what is missing of a file; returns the count of bytes.
    pub(super) async fn take_from_base(&self, file: &Arc<File>, path: &Path, size: u64) -> Result<u64, ClientError> {
        let missing = self.missing().await?;
        let mut url = self.ticket.clone();
        url.set_path(&format!("{}/have", url.path()));
        let (mut at, mut taken, count) = (0, 0, size.div_ceil(PIECE));
        while at < count {
            let end = (at + PAGE).min(count);
            if within(&missing, &(at * PIECE..(end * PIECE).min(size))).is_empty() {
                at = end;
                continue;
            }
            let digested = Arc::clone(file);
            let pieces = blocking(move || digests(&digested, at..end, size)).await.map_err(ClientError::file(path))?;
            let body = json!({"from": at, "pieces": pieces}).to_string();
            let compared = persist(self.client.patience, &self.meter, async || {
                let request = self.client.bare(Method::POST, url.clone());
                read::<Compared>(request.header(CONTENT_TYPE, "application/json").body(body.clone())).await
            });
            let compared = compared.await?;
            taken += compared.taken;
            at = compared.next.unwrap_or(end);
        }
        Ok(taken)
    }
}

/// The digests of pieces of a file as the server takes them: of zeros their number, of others their BLAKE3.
fn digests(file: &File, pieces: Range<u64>, size: u64) -> io::Result<Vec<Value>> {
    let mut buffer = vec![0; PIECE as usize];
    let (mut told, mut zeros, mut digests) = (Vec::new(), 0_u64, Vec::new());
    for index in pieces {
        let bytes = &mut buffer[..(size - index * PIECE).min(PIECE) as usize];
        file.read_exact_at(bytes, index * PIECE)?;
        if is_zero(bytes) {
            told.extend(text(&mut digests));
            zeros += 1;
        } else {
            told.extend(number(&mut zeros));
            digests.extend_from_slice(blake3::hash(bytes).as_bytes());
        }
    }
    told.extend(text(&mut digests));
    told.extend(number(&mut zeros));
    Ok(told)
}

fn text(digests: &mut Vec<u8>) -> Option<Value> {
    let text = (!digests.is_empty()).then(|| STANDARD.encode(&*digests).into());
    digests.clear();
    text
}

fn number(zeros: &mut u64) -> Option<Value> {
    let zeros = std::mem::take(zeros);
    (zeros > 0).then(|| zeros.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_in_order_and_zeros_by_their_number() {
        let file = tempfile::tempfile().expect("a file");
        let size = 5 * PIECE + 3;
        file.set_len(size).expect("a length");
        file.write_all_at(b"x", 2 * PIECE - 1).expect("it is written");
        file.write_all_at(b"xyz", 5 * PIECE).expect("it is written");
        let mut second = vec![0; PIECE as usize];
        second[PIECE as usize - 1] = b'x';
        let text = |bytes: &[u8]| json!(STANDARD.encode(blake3::hash(bytes).as_bytes()));
        let told = digests(&file, 0..6, size).expect("it is read");
        assert_eq!(told, [json!(1), text(&second), json!(3), text(b"xyz")]);
        assert_eq!(digests(&file, 2..4, size).expect("it is read"), [json!(2)]);
    }
}
