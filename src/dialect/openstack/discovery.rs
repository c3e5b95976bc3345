//! Which versions are spoken, for clients that ask before they have a token.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Places, Reply, reply};
use super::{Version, minor};

/// All of them, at `/`. They are several, so the status is 300.
pub(super) fn every(places: &Places) -> Reply {
    told(StatusCode::MULTIPLE_CHOICES, &[Version::V1, Version::V2, Version::V3], places)
}

/// One, at its own path.
pub(super) fn one(version: Version, places: &Places) -> Reply {
    told(StatusCode::OK, &[version], places)
}

fn told(status: StatusCode, versions: &[Version], places: &Places) -> Reply {
    let versions: Value = versions.iter().map(|version| document(*version, places)).collect();
    reply(status, "application/json", format!("{}\n", json!({"versions": versions})))
}

/// Version 3 is spoken at its first minor version; clients that find it behave as they do with version 2.
fn document(version: Version, places: &Places) -> Value {
    let (id, status, minor, updated) = match version {
        Version::V1 => ("v1.0", "DEPRECATED", "", "2014-06-28T12:20:21Z"),
        Version::V2 => ("v2.0", "SUPPORTED", "", "2014-06-28T12:20:21Z"),
        Version::V3 => ("v3.0", "CURRENT", minor::SPOKEN, "2016-02-08T12:20:21Z"),
    };
    let major = &version.segment()[1..];
    let media_type = |format: &str| {
        json!({
            "base": format!("application/{format}"),
            "type": format!("application/vnd.openstack.volume+{format};version={major}"),
        })
    };
    json!({
        "id": id,
        "status": status,
        "version": minor,
        "min_version": minor,
        "updated": updated,
        "links": [{"rel": "self", "href": format!("{}/{}/", places.control, version.segment())}],
        "media-types": [media_type("json"), media_type("xml")],
    })
}
