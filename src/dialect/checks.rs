//! The checksums of a part: `Content-Digest` (RFC 9530) and `Upload-Checksum` (the checksum extension of tus 1.0).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::TRAILER;
use http::{HeaderMap, HeaderName};

use super::digest_fields;
use crate::domain::{Checks, Checksum, ChecksumAlgorithm, Digests, Fault};

/// The checksum of a part, as tus has it: the name of an algorithm, and the value in Base64.
pub(super) const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");

/// The algorithms of `Upload-Checksum`, by their names there.
const NAMES: [(&str, ChecksumAlgorithm); 4] = [
    ("sha1", ChecksumAlgorithm::Sha1),
    ("sha256", ChecksumAlgorithm::Sha256),
    ("md5", ChecksumAlgorithm::Md5),
    ("crc32c", ChecksumAlgorithm::Crc32c),
];

/// The algorithms of `Content-Digest`.
const OF_CONTENT: [ChecksumAlgorithm; 2] = [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Blake3];

/// The names of the algorithms of `Upload-Checksum`, for `Tus-Checksum-Algorithm`.
pub(super) fn names() -> String {
    NAMES.map(|(name, _)| name).join(",")
}

/// What the head of a part says that its bytes have, and what it says that their trailer will say. (A digest of all
/// bytes of the drive may follow them, too, and is compared at the end.)
pub(super) fn of_head(headers: &HeaderMap) -> Result<Checks, Fault> {
    let lines = headers.get_all(TRAILER).iter().filter_map(|line| line.to_str().ok());
    let mut announced = Vec::new();
    for name in lines.flat_map(|line| line.split(',')).map(str::trim) {
        let is = |field: &HeaderName| name.eq_ignore_ascii_case(field.as_str());
        if is(&digest_fields::CONTENT_DIGEST) {
            announced.extend(OF_CONTENT);
        } else if is(&UPLOAD_CHECKSUM) {
            announced.extend(NAMES.map(|(_, algorithm)| algorithm));
        }
    }
    Ok(Checks { asserted: asserted(headers)?, announced })
}

/// What the trailer of a part says that its bytes have.
pub(crate) fn of_trailer(headers: &HeaderMap) -> Result<Vec<Checksum>, Fault> {
    asserted(headers)
}

fn asserted(headers: &HeaderMap) -> Result<Vec<Checksum>, Fault> {
    let Digests { sha256, blake3, .. } = digest_fields::of_content(headers)?;
    let sha256 = sha256.map(|digest| (ChecksumAlgorithm::Sha256, digest.0));
    let blake3 = blake3.map(|digest| (ChecksumAlgorithm::Blake3, digest.0));
    let digests = [sha256, blake3].into_iter().flatten();
    let mut asserted: Vec<Checksum> =
        digests.map(|(algorithm, value)| Checksum { algorithm, value: value.to_vec() }).collect();
    for line in headers.get_all(UPLOAD_CHECKSUM) {
        asserted.push(line.to_str().ok().map_or_else(|| Err(malformed()), of_tus)?);
    }
    Ok(asserted)
}

fn of_tus(text: &str) -> Result<Checksum, Fault> {
    let (name, value) = text.split_once(' ').ok_or_else(malformed)?;
    let known = NAMES.into_iter().find(|(known, _)| *known == name);
    let (_, algorithm) = known.ok_or_else(|| {
        let told = format!("the algorithm {name:?} is not supported; {} are", names());
        Fault::invalid(UPLOAD_CHECKSUM.as_str(), told)
    })?;
    let value = STANDARD.decode(value).map_err(|_| malformed())?;
    if value.len() != algorithm.width() {
        let told = format!("a checksum by {algorithm} has {} bytes", algorithm.width());
        return Err(Fault::invalid(UPLOAD_CHECKSUM.as_str(), told));
    }
    Ok(Checksum { algorithm, value })
}

fn malformed() -> Fault {
    Fault::invalid(UPLOAD_CHECKSUM.as_str(), "must be an algorithm and a checksum in Base64, as in sha1 Kq5s...=")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn checksums_of_a_part_are_read_from_the_fields_of_both() {
        let sha256 = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        let fields =
            [("content-digest", sha256), ("upload-checksum", "crc32c AAAAAA=="), ("trailer", "X, Upload-Checksum")];
        let checks = of_head(&headers(&fields)).unwrap();
        let algorithms: Vec<_> = checks.asserted.iter().map(|one| one.algorithm).collect();
        assert_eq!(algorithms, [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Crc32c]);
        assert_eq!(checks.asserted[1].value, [0; 4]);
        assert_eq!(checks.algorithms(), ChecksumAlgorithm::ALL[..4]);
        assert!(of_head(&headers(&[])).unwrap().is_empty());
        assert!(of_head(&headers(&[("trailer", "Repr-Digest")])).unwrap().is_empty());
        for (name, value) in [
            ("upload-checksum", "sha1"),
            ("upload-checksum", "sha1 AAAA"),
            ("upload-checksum", "sha1 *"),
            ("upload-checksum", "sha3 AAAA"),
            ("content-digest", "sha-256=:AAAA:"),
        ] {
            of_head(&headers(&[(name, value)])).expect_err(value);
        }
    }
}
