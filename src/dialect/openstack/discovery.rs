//! Which versions are spoken, for clients that ask before they have a token.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Call, Places, Reply};
use super::view::{Document, plain};
use super::xml::Node;
use super::{Version, minor};

/// The namespace of what all services of OpenStack tell of their versions.
const COMMON: &str = "http://docs.openstack.org/common/api/v1.0";

const ATOM: &str = "http://www.w3.org/2005/Atom";

/// All of them, at `/`. They are several, so the status is 300.
pub(super) fn every(call: &Call, places: &Places) -> Reply {
    told(call, StatusCode::MULTIPLE_CHOICES, &[Version::V1, Version::V2, Version::V3], places)
}

/// One, at its own path.
pub(super) fn one(call: &Call, version: Version, places: &Places) -> Reply {
    told(call, StatusCode::OK, &[version], places)
}

fn told(call: &Call, status: StatusCode, versions: &[Version], places: &Places) -> Reply {
    let versions: Vec<Value> = versions.iter().map(|version| document(*version, places)).collect();
    let xml = Node::new("versions").with("xmlns", COMMON).with("xmlns:atom", ATOM).holding(versions.iter().map(node));
    Document::Made { json: json!({"versions": versions}), xml }.reply(call, status)
}

/// The element of a version.
fn node(document: &Value) -> Node {
    let with = |node: Node, of: &Value, names: &[&'static str]| {
        names.iter().fold(node, |node, name| node.with(name, plain(&of[*name])))
    };
    let of_each = |name: &str, make: &dyn Fn(&Value) -> Node| -> Vec<Node> {
        document[name].as_array().into_iter().flatten().map(make).collect()
    };
    let types = of_each("media-types", &|one| with(Node::new("media-type"), one, &["base", "type"]));
    let mut children = vec![Node::new("media-types").holding(types)];
    children.extend(of_each("links", &|one| with(Node::new("atom:link"), one, &["href", "rel"])));
    with(Node::new("version"), document, &["id", "min_version", "status", "updated", "version"]).holding(children)
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
