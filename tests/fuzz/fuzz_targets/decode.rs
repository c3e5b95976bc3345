//! The decoders of all APIs: whatever a request is, it is understood or refused, and a refusal is the caller's fault.
//! An input has a request line, header fields and a body, as the files in `fixtures` have that end in `.request`.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz decode target/fuzz/decode fixtures/openstack fixtures/hpc_ai
//! fixtures/identity fixtures/cloudsigma fixtures/hyper fixtures/native`

#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use longshore::dialect::{Places, resolve};
use longshore::domain::{Principal, TenantId, UserId};

fuzz_target!(|data: &[u8]| {
    decode(data);
});

/// `None` where a request does not come as far as a decoder.
fn decode(data: &[u8]) -> Option<()> {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = (std::str::from_utf8(&data[..end]).ok()?, data.get(end + 2..).unwrap_or_default());
    let mut lines = head.lines().skip_while(|line| line.starts_with('#'));
    let mut start = lines.next()?.split(' ');
    let method: Method = start.next()?.parse().ok()?;
    let target = start.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let principal = Principal {
        user: "alice".to_owned(),
        user_id: UserId::from_bytes([1; 16]),
        tenant: TenantId::from_bytes([2; 16]),
        is_admin: true,
    };
    let resolved = resolve(&method, path, query, &headers, Some(body.len() as u64));
    let endpoint = resolved.endpoint.ok()?;
    if let Err(fault) = endpoint.decode(&resolved.call, &principal, body) {
        let here = "http://127.0.0.1".to_owned();
        let places = Places {
            control: here.clone(),
            control_relative: true,
            direct: here.clone(),
            direct_relative: true,
            identity: here,
        };
        let reply = resolved.dialect.fault(&resolved.call, &fault, &places);
        assert!(reply.status().is_client_error(), "{} to {fault:?}", reply.status());
    }
    Some(())
}
