//! The head of a request.

use http::request::Parts;

use crate::dialect::{Resolved, resolve};

/// Resolves a request to its endpoint; `length` is that of its body.
pub(super) fn resolved(parts: &Parts, length: Option<u64>) -> Resolved<'_> {
    let query = parts.uri.query().unwrap_or_default();
    resolve(&parts.method, parts.uri.path(), query, &parts.headers, length)
}
