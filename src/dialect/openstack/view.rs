//! What is told, once for both formats: an [`Element`] becomes a JSON object or an XML element.
//!
//! Where the formats differ they do so by one rule: `null` is `None` in XML, a time has a space for its `T` and no
//! fraction when that is zero, pairs and lists are elements, everything else is an attribute.

use std::borrow::Cow;

use http::StatusCode;
use jiff::Timestamp;
use jiff::tz::Offset;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::{Call, Reply, reply};
use super::Format;
use super::xml::{self, Node};
use crate::domain::UnixTime;

/// The declaration of a namespace: the attribute and the name.
pub(super) type Namespace = (&'static str, &'static str);

/// A thing and what is told of it.
#[derive(Clone, Debug)]
pub(super) struct Element<'a> {
    pub(super) name: &'static str,
    /// The declarations it needs where it is the root.
    pub(super) namespaces: Vec<Namespace>,
    pub(super) fields: Vec<(&'static str, Field<'a>)>,
}

/// What is told of a thing under one name.
#[derive(Clone, Debug)]
pub(super) enum Field<'a> {
    /// Text.
    Text(Option<Cow<'a, str>>),
    /// An id.
    Id(Uuid),
    /// A number.
    Number(Option<u64>),
    /// A time.
    Time(UnixTime),
    /// The owner's pairs.
    Pairs(Cow<'a, Map<String, Value>>),
    /// Things within.
    List(Vec<Element<'a>>),
    /// Where it is: what has no place in XML either.
    Links(Vec<Link>),
    /// What has no place in XML.
    Json(Value),
}

/// As many bytes as a thing takes in JSON, or some less.
const USUAL: usize = 1024;

/// A whole reply.
pub(super) enum Document<'a> {
    /// One thing.
    One(Element<'a>),
    /// A list of them.
    Many {
        /// The name of the list.
        name: &'static str,
        /// The declarations it needs.
        namespaces: Vec<Namespace>,
        /// The things.
        items: Vec<Element<'a>>,
        /// What the list of links is called, and where the next page is.
        next: Option<(&'static str, String)>,
    },
    /// What fits neither: both forms, made beside each other.
    Made {
        /// Whole.
        json: Value,
        /// The root.
        xml: Node,
    },
}

/// The JSON object of its fields. Written straight into the reply: a page of a thousand is no tree of values first.
impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().map(|(name, field)| (name, field)))
    }
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Id(id) => serializer.serialize_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Self::Number(number) => number.serialize(serializer),
            Self::Time(time) => serializer.serialize_str(&json_date(*time)),
            Self::Pairs(pairs) => pairs.serialize(serializer),
            Self::List(elements) => elements.serialize(serializer),
            Self::Links(links) => links.serialize(serializer),
            Self::Json(value) => value.serialize(serializer),
        }
    }
}

/// In JSON.
impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(element) => serializer.collect_map([(element.name, element)]),
            Self::Many { name, items, next, .. } => {
                let mut list = serializer.serialize_map(None)?;
                list.serialize_entry(name, items)?;
                if let Some((links, href)) = next {
                    list.serialize_entry(links, &[Link { rel: "next", href: href.clone() }])?;
                }
                list.end()
            }
            Self::Made { json, .. } => json.serialize(serializer),
        }
    }
}

/// What a thing is to another, and where that is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Link {
    pub(super) rel: &'static str,
    pub(super) href: String,
}

impl Element<'_> {
    fn node(&self) -> Node {
        let mut node = Node::new(self.name);
        for (name, field) in &self.fields {
            match field {
                Field::Text(text) => node = node.with(name, or_none(text.as_deref())),
                Field::Id(id) => node = node.with(name, id.to_string()),
                Field::Number(number) => {
                    node = node.with(name, or_none(number.map(|number| number.to_string()).as_deref()));
                }
                Field::Time(time) => node = node.with(name, xml_date(*time)),
                Field::Pairs(pairs) => node.children.push(pairs_node(name, pairs)),
                Field::List(elements) => {
                    node.children.push(Node::new(name).holding(elements.iter().map(Self::node)));
                }
                Field::Links(_) | Field::Json(_) => {}
            }
        }
        node
    }
}

/// A list in JSON, of things that are in JSON already.
pub(super) fn joined<'a>(
    name: &str,
    items: impl ExactSizeIterator<Item = Cow<'a, str>>,
    next: Option<(&str, String)>,
) -> Vec<u8> {
    let mut text = Vec::with_capacity((items.len() + 1) * USUAL);
    text.extend_from_slice(format!("{{\"{name}\":[").as_bytes());
    for (at, item) in items.enumerate() {
        text.extend_from_slice(if at == 0 { b"" } else { b"," });
        text.extend_from_slice(item.as_bytes());
    }
    text.push(b']');
    if let Some((links, href)) = next {
        let link = serde_json::json!([Link { rel: "next", href }]);
        text.extend_from_slice(format!(",\"{links}\":{link}").as_bytes());
    }
    text.extend_from_slice(b"}\n");
    text
}

impl Document<'_> {
    fn json(&self) -> Vec<u8> {
        let things = if let Self::Many { items, .. } = self { items.len() } else { 1 };
        let mut text = Vec::with_capacity((things + 1) * USUAL);
        serde_json::to_writer(&mut text, self).expect("text, numbers, and lists and maps of them");
        text.push(b'\n');
        text
    }

    fn xml(&self) -> Node {
        match self {
            Self::One(element) => declared(element.node(), &element.namespaces),
            Self::Many { name, namespaces, items, .. } => {
                declared(Node::new(name).holding(items.iter().map(Element::node)), namespaces)
            }
            Self::Made { xml, .. } => xml.clone(),
        }
    }

    /// The reply in the format that the call wants.
    pub(super) fn reply(&self, call: &Call, status: StatusCode) -> Reply {
        match Format::of(call) {
            Format::Json => reply(status, "application/json", self.json()),
            Format::Xml => reply(status, "application/xml", xml::written(&self.xml())),
        }
    }
}

/// The element of the owner's pairs.
pub(super) fn pairs_node(name: &str, pairs: &Map<String, Value>) -> Node {
    Node::new(name).holding(pairs.iter().map(|(key, value)| Node::new("meta").with("key", key).saying(plain(value))))
}

/// The text of a value that is text, or what JSON makes of another.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn declared(mut node: Node, namespaces: &[Namespace]) -> Node {
    let declarations = namespaces.iter().map(|(name, uri)| ((*name).to_owned(), (*uri).to_owned()));
    node.attributes.splice(0..0, declarations);
    node
}

fn or_none(text: Option<&str>) -> &str {
    text.unwrap_or("None")
}

/// As in `2013-01-30T13:38:50.411386`, in UTC.
pub(super) fn json_date(time: UnixTime) -> String {
    let (seconds, micros) = date(time);
    format!("{seconds}.{micros:06}")
}

/// As in `2013-01-30 13:38:50.411386`, or without the fraction when it is zero.
fn xml_date(time: UnixTime) -> String {
    let (seconds, micros) = date(time);
    let seconds = seconds.replace('T', " ");
    if micros == 0 { seconds } else { format!("{seconds}.{micros:06}") }
}

fn date(time: UnixTime) -> (String, i64) {
    let at = Offset::UTC.to_datetime(Timestamp::from_millisecond(time.0).unwrap_or_default());
    let (date, time_of_day) = (at.date(), at.time());
    let (year, month, day) = (date.year(), date.month(), date.day());
    let (hour, minute, second) = (time_of_day.hour(), time_of_day.minute(), time_of_day.second());
    let seconds = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    (seconds, time.0.rem_euclid(1000) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_the_document_has_them() {
        let time = UnixTime(1_359_553_130_411);
        assert_eq!(json_date(time), "2013-01-30T13:38:50.411000");
        assert_eq!(xml_date(time), "2013-01-30 13:38:50.411000");
        let whole = UnixTime(1_359_553_130_000);
        assert_eq!(json_date(whole), "2013-01-30T13:38:50.000000");
        assert_eq!(xml_date(whole), "2013-01-30 13:38:50");
    }
}
