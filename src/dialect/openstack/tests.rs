//! What must hold of every request and of everything that is told.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::{Answer, Call, Intent, Reply, Work, golden, resolve};
use super::objects::{Scene, Shape};
use super::view::Document;
use super::xml::{self, Node};
use super::{DIALECT, Format, Version, fixture, has_path, objects, request_id_fields, without_suffix};
use crate::domain::{
    BlockFields, BlockVolume, ByteCount, Command, Fault, FaultKind, Seen, TenantId, UnixTime, Volume, VolumeState,
};

const TENANT: &str = "e56a97501ac64da4af7c7a6f4ecb7426";

/// A request as a client sends it.
struct Sent<'a> {
    method: &'a str,
    target: &'a str,
    headers: &'a [(header::HeaderName, &'a str)],
    body: &'a [u8],
    is_admin: bool,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self { method: "GET", target: "/", headers: &[], body: b"", is_admin: false }
    }
}

impl Sent<'_> {
    /// What is made of it by the endpoint that it reaches, and of what it asks for there.
    fn reach<T>(&self, then: impl FnOnce(&Call, Result<(Intent<()>, Answer), Fault>) -> T) -> Option<T> {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        let method: Method = self.method.parse().unwrap();
        let fields = self.headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let headers: HeaderMap = fields.collect();
        let resolved = resolve(&method, path, query, &headers, Some(self.body.len() as u64));
        let decoded = resolved.endpoint.ok()?.decode(&resolved.call, &fixture::principal(self.is_admin), self.body);
        Some(then(&resolved.call, decoded))
    }

    fn work(&self) -> Option<Work> {
        self.reach(|_, decoded| match decoded {
            Ok((Intent::Work(_, work), _)) => Some(work),
            _ => None,
        })?
    }
}

#[test]
fn a_tenant_is_the_callers_own_unless_they_administrate() {
    let other = "00000000000000000000000000000007";
    let target = |tenant: &str| format!("/v2/{tenant}/volumes");
    let work = |tenant: &str, is_admin| {
        let target = target(tenant);
        Sent { target: &target, is_admin, ..Sent::default() }.work()
    };
    assert!(matches!(work(TENANT, false), Some(Work::Control(Command::List(_)))));
    assert!(matches!(work(TENANT, true), Some(Work::Control(Command::List(_)))));
    assert_eq!(work(other, false), None);
    let Some(Work::Control(Command::In { tenant, .. })) = work(other, true) else { panic!("not in the other") };
    assert_eq!(Some(tenant), TenantId::from_plain(other));
    for wrong in ["x", "E56A97501AC64DA4AF7C7A6F4ECB7426", "e56a9750-1ac6-4da4-af7c-7a6f4ecb7426"] {
        assert_eq!(work(wrong, true), None, "{wrong}");
    }
    let target = target(other);
    let fault = Sent { target: &target, ..Sent::default() }.reach(|_, decoded| decoded.unwrap_err().kind);
    assert_eq!(fault, Some(FaultKind::NotFound));
}

#[test]
fn a_suffix_names_the_format_and_wins_over_what_is_accepted() {
    assert_eq!(without_suffix("/v1/t/volumes.json"), ("/v1/t/volumes", Some(Format::Json)));
    assert_eq!(without_suffix("/v2.1/t/servers/s/os-volume_attachments.xml").1, Some(Format::Xml));
    for whole in ["/v1/t/volumes", "/v1/t/volumes/.xml", "/volumes.xml", "/v1/t/volumes.xml/", "/api/v1/x.json"] {
        assert_eq!(without_suffix(whole), (whole, None));
    }
    let format = |target, accept| {
        let headers = [(header::ACCEPT, accept)];
        Sent { target, headers: &headers, ..Sent::default() }.reach(|call, _| Format::of(call)).unwrap()
    };
    let (path, json, xml) = ("/v1/t/volumes", "application/json", "application/xml");
    assert_eq!(format(path, "*/*"), Format::Json);
    assert_eq!(format(path, json), Format::Json);
    assert_eq!(format(path, xml), Format::Xml);
    assert_eq!(format(path, "application/json;q=0.5, application/xml"), Format::Xml);
    assert_eq!(format(path, "text/html, application/xml;q=x"), Format::Json);
    assert_eq!(format("/v1/t/volumes.json", xml), Format::Json);
    assert_eq!(format("/v1/t/volumes.xml", json), Format::Xml);
}

#[test]
fn paths_and_versions_are_told_apart() {
    for path in ["/v1", "/v2/", "/v3/x", "/v2.1/x"] {
        assert!(has_path(path), "{path}");
    }
    for path in ["/", "/v1.23/volumes", "/v4", "/v2.0/tokens", "/v10"] {
        assert!(!has_path(path), "{path}");
    }
    assert_eq!(Version::of("/v2.1/t/servers/s"), Version::V2);
    assert_eq!(request_id_fields("/v1/t/volumes"), ["x-compute-request-id"]);
    assert_eq!(request_id_fields("/v2/t/volumes").len(), 2);
}

/// Bodies that look like what is meant, so that the deeper checks are reached too.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let root = "volume|snapshot|backup|restore|metadata|meta|volumeAttachment|quota_set|os-[a-z_]{1,20}|.{0,4}";
    let name = "size|name|display_name|imageRef|snapshot_id|source_volid|metadata|volume_id|volumeId|status|\
                new_size|force|device|volumes|gigabytes|key|.{0,3}";
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "available|-1|[0-9]{1,20}|.{0,8}|01938c2e-7d10-7a42-9b51-3f0c5d2e8a77".prop_map(Value::from),
        prop::collection::hash_map(".{0,3}", ".{0,3}", 0..3)
            .prop_map(|map| map.into_iter().map(|(key, value)| (key, Value::from(value))).collect::<Value>()),
    ];
    let fields = prop::collection::hash_map(name, scalar, 0..6);
    let json = (root, fields.clone()).prop_map(|(root, fields)| {
        let fields: Map<String, Value> = fields.into_iter().collect();
        Value::Object(Map::from_iter([(root, Value::Object(fields))])).to_string().into_bytes()
    });
    let xml = (root, fields).prop_map(|(root, fields)| {
        let node =
            fields.iter().fold(Node::new(&root), |node, (name, value)| node.with(name, super::view::plain(value)));
        xml::written(&node).into_bytes()
    });
    prop_oneof![json, xml, any::<Vec<u8>>()]
}

/// A volume of any kind, with any text in it.
fn told() -> impl Strategy<Value = BlockVolume> {
    let pairs = prop::collection::hash_map(any::<String>(), any::<String>(), 0..4);
    let texts = (any::<String>(), prop::option::of(any::<String>()), prop::option::of(any::<String>()), pairs);
    let state = prop::sample::select(VolumeState::ALL.to_vec());
    (texts, state, any::<bool>(), 0..(1_u64 << 50), 0..4_102_444_800_000_i64).prop_map(
        |((name, description, volume_type, pairs), state, is_attached, size, created)| {
            let pairs: Map<String, Value> = pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
            let told = fixture::attached();
            let fields = BlockFields {
                description,
                volume_type,
                image: pairs.clone(),
                bootable: is_attached,
                ..BlockFields::default()
            };
            let mut volume = Volume::clone(&told.volume);
            fields.put(&mut volume.attributes);
            volume.source = Some(volume.id.to_string());
            (volume.name, volume.meta, volume.state) = (name, pairs, state);
            (volume.size, volume.created) = (ByteCount::new(size).unwrap(), UnixTime(created));
            BlockVolume { volume: Seen::new(volume), attachment: told.attachment.filter(|_| is_attached) }
        },
    )
}

/// Text as XML can have it.
fn clean(text: &str) -> String {
    text.chars().map(|char| if xml::is_character(char) { char } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// How XML tells what JSON tells as this.
fn in_xml(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::String(text) if name.ends_with("_at") || name == "data_timestamp" => {
            text.replace('T', " ").strip_suffix(".000000").map_or_else(|| text.replace('T', " "), str::to_owned)
        }
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

/// Whether an element tells what an object does, but for what is told in JSON only.
fn agrees(json: &Value, node: &Node) -> bool {
    let only_in_json = ["bootable", "encrypted", "links", "multiattach", "has_dependent_backups", "is_incremental"];
    let Some(object) = json.as_object() else { return false };
    let is_whole = object.keys().all(|name| {
        let is_there = node.attribute(name).is_some() || node.children.iter().any(|child| child.name == *name);
        is_there || only_in_json.contains(&name.as_str())
    });
    let attributes_agree = node.attributes.iter().all(|(name, value)| in_xml(name, &json[name]) == *value);
    let children_agree = node.children.iter().all(|child| match &json[&child.name] {
        Value::Array(items) => {
            items.len() == child.children.len()
                && items.iter().zip(&child.children).all(|(one, node)| agrees(one, node))
        }
        Value::Object(pairs) => {
            let sent: Vec<_> = pairs.iter().map(|(key, value)| (clean(key), in_xml("", value))).collect();
            let read: Vec<_> = child
                .children
                .iter()
                .map(|meta| (meta.attribute("key").unwrap_or_default().to_owned(), meta.text.clone()))
                .collect();
            sent == read
        }
        _ => false,
    });
    is_whole && attributes_agree && children_agree
}

/// A document in both formats.
fn both(document: &Document, path: &str) -> (Value, Node) {
    let reply = |suffix: &str| -> Reply {
        let (headers, path) = (HeaderMap::new(), format!("{path}{suffix}"));
        let call = resolve(&Method::GET, &path, "", &headers, None).call;
        document.reply(&call, StatusCode::OK)
    };
    let json = serde_json::from_slice(reply(".json").body()).unwrap();
    (json, xml::read(reply(".xml").body()).unwrap())
}

proptest! {
    #[test]
    fn no_request_panics_and_every_refusal_is_the_callers_fault(
        version in "v1|v2|v3|v2\\.1",
        path in "(volumes|snapshots|backups)(/detail|/[0-9]{1,3}|/01938c2e-7d10-7a42-9b51-3f0c5d2e8a77)?\
                 (/action|/restore|/metadata|/metadata/k)?(\\.xml|\\.json)?\
                 |servers/[a-z]{1,3}/os-volume_attachments|os-quota-sets/e56a97501ac64da4af7c7a6f4ecb7426|limits|types",
        query in "((limit|offset|marker|sort|status|metadata|name|.{0,4})=(available|[0-9]{1,12}|\\{'k':'v'\\}|.{0,9})&?){0,4}",
        method in "GET|POST|PUT|DELETE",
        is_xml: bool,
        is_admin: bool,
        body in body(),
    ) {
        let target = format!("/{version}/{TENANT}/{path}?{query}");
        let media_type = if is_xml { "application/xml" } else { "application/json" };
        let headers = [(header::CONTENT_TYPE, media_type)];
        let sent = Sent { method: &method, target: &target, headers: &headers, body: &body, is_admin };
        let refusal = sent.reach(|call, decoded| match decoded {
            Ok((Intent::Work(_, Work::Control(command)), answer)) => {
                let reply = match golden::outcome(&command) {
                    Ok(outcome) => answer.encode(call, &outcome, &golden::relative_places()).unwrap(),
                    Err(fault) => DIALECT.fault(call, &fault, &golden::relative_places()),
                };
                Some(reply.status())
            }
            Ok(_) => None,
            Err(fault) => Some(DIALECT.fault(call, &fault, &golden::relative_places()).status()),
        });
        prop_assert!(refusal.flatten().is_none_or(|status| !status.is_server_error()));
    }

    #[test]
    fn json_and_xml_of_a_thing_agree(told in told(), version in 0..3_usize, shape in 0..3_usize) {
        let version = [Version::V1, Version::V2, Version::V3][version];
        let shape = [Shape::Short, Shape::Full, Shape::Made][shape];
        let path = format!("/{}/{TENANT}/volumes", version.segment());
        let (headers, places) = (HeaderMap::new(), golden::relative_places());
        let call = resolve(&Method::GET, &path, "", &headers, None).call;
        let scene = Scene { call: &call, places: &places, version };
        let backup = fixture::backup(2, "2013-01-31T12:44:32Z");
        let attachment = fixture::attachment(told.volume.id, &told.volume.name, &told.volume.name);
        for element in [
            scene.volume(&told, shape),
            scene.snapshot(&told.volume, shape),
            scene.backup(&backup, shape),
            scene.restore(&backup, &told),
            objects::volume_attachment(&attachment),
        ] {
            let (json, node) = both(&Document::One(element.clone()), &path);
            prop_assert!(agrees(&json[element.name], &node), "{} {}", json, xml::written(&node));
            let items = vec![element.clone(), element.clone()];
            let list = Document::Many { name: "things", namespaces: Vec::new(), items, next: None };
            let (json, node) = both(&list, &path);
            let things = json["things"].as_array().unwrap();
            prop_assert_eq!(things.len(), node.children.len());
            prop_assert!(things.iter().zip(&node.children).all(|(one, node)| agrees(one, node)));
        }
    }
}
