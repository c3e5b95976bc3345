//! Minor versions of version 3, which clients ask for by `OpenStack-API-Version: volume 3.N`.
//!
//! One is spoken, the first, as the list of versions says. A client that asks for another is refused: with an older one
//! it would read what it is told wrongly. A client that asks for none has the first.

use http::{HeaderName, HeaderValue, header};

use super::super::{Call, Reply};
use crate::domain::{Fault, FaultKind};

/// The header field in which a version is asked for and told.
const API_VERSION: HeaderName = HeaderName::from_static("openstack-api-version");

/// The only minor version.
pub(super) const SPOKEN: &str = "3.0";

/// The names by which clients know this service. What is said of another service is none of our concern.
const SERVICES: [&str; 5] = ["volume", "volumev2", "volumev3", "block-storage", "block-store"];

/// Whether a path is spoken in minor versions. Earlier versions have none, and pass over the field.
fn has_minors(path: &str) -> bool {
    path.starts_with("/v3")
}

/// Refuses every minor version but the one that is spoken.
pub(super) fn check(call: &Call) -> Result<(), Fault> {
    if !has_minors(call.path) {
        return Ok(());
    }
    for value in call.headers.get_all(API_VERSION) {
        let text = value.to_str().map_err(|_| malformed(&String::from_utf8_lossy(value.as_bytes())))?;
        text.split(',').try_for_each(check_one)?;
    }
    Ok(())
}

/// Checks one element of the field: a service and a version of it.
fn check_one(element: &str) -> Result<(), Fault> {
    let mut words = element.split_ascii_whitespace();
    let (Some(service), Some(version), None) = (words.next(), words.next(), words.next()) else {
        return Err(malformed(element.trim()));
    };
    let is_ours = SERVICES.into_iter().any(|name| name.eq_ignore_ascii_case(service));
    if !is_ours || version == SPOKEN || version == "latest" {
        return Ok(());
    }
    if !is_version(version) {
        return Err(malformed(version));
    }
    let told = format!("Version {version} is not supported by the API. Minimum is {SPOKEN} and maximum is {SPOKEN}.");
    Err(Fault { point: Some(API_VERSION.as_str().to_owned()), ..Fault::new(FaultKind::NotAcceptable, told) })
}

/// Whether a word is two numbers, neither with a zero before it, the first above zero.
fn is_version(word: &str) -> bool {
    let is_number = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
    };
    word.split_once('.').is_some_and(|(major, minor)| is_number(major) && major != "0" && is_number(minor))
}

fn malformed(version: &str) -> Fault {
    let told = format!("API Version String {version} is of invalid format. Must be of format MajorNum.MinorNum.");
    Fault::invalid(API_VERSION.as_str(), told)
}

/// A reply that tells which minor version is spoken, where there are any.
pub(super) fn versioned(call: &Call, mut reply: Reply) -> Reply {
    if has_minors(call.path) {
        let headers = reply.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("volume 3.0"));
        headers.insert(header::VARY, HeaderValue::from(API_VERSION));
    }
    reply
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::super::resolve;
    use super::*;

    fn checked(path: &str, values: &[&str]) -> Result<(), FaultKind> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(API_VERSION, HeaderValue::from_str(value).unwrap());
        }
        let call = resolve(&Method::GET, path, "", &headers, None).call;
        check(&call).map_err(|fault| fault.kind)
    }

    #[test]
    fn another_minor_version_is_refused_and_what_is_no_version_is_invalid() {
        let path = "/v3/e56a97501ac64da4af7c7a6f4ecb7426/volumes";
        for taken in [
            &[][..],
            &["volume 3.0"],
            &["volume latest"],
            &["VOLUME  3.0"],
            &["compute 2.90"],
            &["compute 2.90, volume 3.0"],
            &["compute 2.90", "volume 3.0"],
        ] {
            assert_eq!(checked(path, taken), Ok(()), "{taken:?}");
        }
        for outside in ["volume 3.1", "volume 3.70", "volume 2.0", "volumev3 3.59", "block-storage 3.9", "volume 4.0"] {
            assert_eq!(checked(path, &[outside]), Err(FaultKind::NotAcceptable), "{outside}");
        }
        assert_eq!(checked(path, &["compute 2.1, volume 3.5"]), Err(FaultKind::NotAcceptable));
        assert_eq!(checked(path, &["volume 3.0", "volume 3.5"]), Err(FaultKind::NotAcceptable));
        for wrong in [
            "",
            "3.0",
            "volume",
            "volume 3",
            "volume 3.",
            "volume .0",
            "volume 3.00",
            "volume 03.0",
            "volume 0.1",
            "volume 3.x",
            "volume 3.0.1",
            "volume -3.0",
            "volume 3.0 3.1",
            "volume 3.0,",
            "volume v3.0",
            "volume LATEST",
        ] {
            assert_eq!(checked(path, &[wrong]), Err(FaultKind::Invalid), "{wrong}");
        }
        for (older, said) in [("/v2/t/volumes", "volume 3.70"), ("/v1/t/volumes", "volume x")] {
            assert_eq!(checked(older, &[said]), Ok(()), "{older}");
        }
    }
}
