//! Checks which host a request is for, and whether a page of another site has made it.
//!
//! A browser adds cached credentials, such as a Basic login, to requests that any page makes. It marks such requests
//! with `Sec-Fetch-Site` (W3C Fetch Metadata) and `Origin` (RFC 6454). Clients that are no browsers send neither.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns the reason for which the host of the request is unclear (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub(super) fn host_violation(head: &Parts) -> Option<&'static str> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Some("there is more than one Host"),
        (Some(host), None) => host,
        // HTTP/1.0 does not require it.
        (None, _) if head.version < Version::HTTP_11 => return None,
        (None, _) if head.version >= Version::HTTP_2 && head.uri.authority().is_some() => return None,
        (None, _) => return Some("there is no Host"),
    };
    // It is empty if the target has no authority.
    if host.is_empty() && head.version < Version::HTTP_2 {
        return None;
    }
    let Some(host) = host.to_str().ok().filter(|host| is_host(host)) else {
        return Some("Host is not a host with a port or without");
    };
    match head.uri.authority() {
        Some(target) if head.version >= Version::HTTP_2 && !target.as_str().eq_ignore_ascii_case(host) => {
            Some("Host is not the authority that is asked")
        }
        _ => None,
    }
}

/// Whether this is a host, with or without a port.
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = text.strip_prefix(authority.host()).unwrap_or_default();
    !text.contains('@') && !authority.host().is_empty() && (matches!(port, "" | ":") || authority.port_u16().is_some())
}

/// Whether this request is to change something and was made by a page of another site. Sites of `ours`, the public
/// URLs and those that the configuration allows, and of the requested host are allowed.
pub(super) fn is_from_elsewhere<'a>(head: &Parts, ours: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
    if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => None,
        // No browser sends two of them.
        (Some(origin), None) => Some(origin.to_str().unwrap_or("null")),
        (Some(_), Some(_)) => return true,
    };
    let is_ours = |origin: &str| ours.clone().any(|url| origin_of(url).eq_ignore_ascii_case(origin));
    let mut sites = head.headers.get_all(SEC_FETCH_SITE).iter().map(http::HeaderValue::as_bytes).peekable();
    if sites.peek().is_some() {
        // `none` means that the user has entered the address.
        let is_here = sites.all(|site| matches!(site, b"same-origin" | b"none"));
        return !is_here && !origin.is_some_and(is_ours);
    }
    let asked = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let asked = asked.or(head.uri.authority().map(Authority::as_str)).unwrap_or_default();
    origin.is_some_and(|origin| !is_ours(origin) && !is_at(origin, asked))
}

/// Returns the scheme and authority of a URL.
fn origin_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

/// Whether an origin is this host. The scheme is not compared, since a proxy in front of the server may terminate TLS.
fn is_at(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(target).version(version);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_request_is_for_one_host() {
        let wrong = |version, target: &str, hosts: &[&str]| {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            host_violation(&head("GET", target, version, &fields)).is_some()
        };
        for host in ["a", "a:1", "a:", "127.0.0.1:80", "[::1]", "[::1]:80", "a_b.example", ""] {
            assert!(!wrong(Version::HTTP_11, "/", &[host]), "{host}");
        }
        for host in ["a b", "a/b", "user@a", "a:x", "a:99999", "[::1", "http://a", ":80", "a?b"] {
            assert!(wrong(Version::HTTP_11, "/", &[host]), "{host}");
        }
        assert!(wrong(Version::HTTP_11, "/", &[]));
        assert!(wrong(Version::HTTP_11, "/", &["a", "a"]));
        assert!(!wrong(Version::HTTP_10, "/", &[]));
        assert!(wrong(Version::HTTP_10, "/", &["a", "b"]));
        assert!(!wrong(Version::HTTP_2, "https://a:1/", &[]));
        assert!(!wrong(Version::HTTP_2, "https://a:1/", &["A:1"]));
        assert!(wrong(Version::HTTP_2, "https://a:1/", &["b:1"]));
        assert!(wrong(Version::HTTP_2, "/", &[]));
        assert!(!wrong(Version::HTTP_2, "/", &["a"]));
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let ours = ["https://api.example.com/cloud"].into_iter();
        let from_elsewhere = |method: &str, fields: &[(&str, &str)]| {
            let fields = [&[("host", "127.0.0.1:8700")], fields].concat();
            is_from_elsewhere(&head(method, "/", Version::HTTP_11, &fields), &ours)
        };
        for fields in [
            &[][..],
            &[("origin", "http://127.0.0.1:8700")],
            &[("origin", "https://API.example.com")],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8700")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-site"), ("origin", "https://api.example.com")],
        ] {
            assert!(!from_elsewhere("POST", fields), "{fields:?}");
        }
        for fields in [
            &[("origin", "http://127.0.0.1:8701")][..],
            &[("origin", "http://127.0.0.1")],
            &[("origin", "https://api.example.com.evil.example")],
            &[("origin", "https://api.example.com/")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://127.0.0.1:8700"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://other.example.com")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:8700")],
        ] {
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                assert!(from_elsewhere(method, fields), "{method} {fields:?}");
            }
            assert!(!from_elsewhere("GET", fields) && !from_elsewhere("HEAD", fields), "{fields:?}");
        }
        let proxied = [("host", "front.example"), ("origin", "https://front.example")];
        assert!(!is_from_elsewhere(&head("POST", "/", Version::HTTP_11, &proxied), &ours));
    }
}
