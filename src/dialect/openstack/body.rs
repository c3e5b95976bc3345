//! Bodies: JSON or XML into the same fields, and what each field may hold.
//!
//! What is not known is refused: whoever is told that it is done believes that all of it is. `null` is as good as
//! absent, and so is the `None` that XML has for it.

use http::header;
use serde_json::{Map, Value};

use super::super::Call;
use super::view::plain;
use super::xml::{self, Node};
use super::{Version, without_suffix};
use crate::domain::{BlockFields, ByteCount, Fault, FaultKind, VolumeId};

/// The most characters of a name, a description, a metadata key and a metadata value.
const MAX_TEXT: usize = 255;

const GIB: u64 = 1 << 30;

/// A body as it came.
pub(super) enum Body {
    Json(Map<String, Value>),
    Xml(Node),
}

/// The fields of one thing, none of which is `null`, and the names of those that are.
#[derive(Debug, Default)]
pub(super) struct Fields(Map<String, Value>, Vec<String>);

impl Body {
    pub(super) fn read(call: &Call, body: &[u8]) -> Result<Self, Fault> {
        let is_xml = is_xml(call, body)?;
        if body.trim_ascii().is_empty() {
            return Err(Fault::invalid("body", "Missing required element: the request has no body"));
        }
        if is_xml {
            return xml::read(body).map(Self::Xml).map_err(|error| malformed().because(error));
        }
        // serde_json refuses nesting deeper than 128, so no body can exhaust the stack.
        let mut parsed = serde_json::from_slice(body);
        if parsed.is_err() && is_restore_v1(call) {
            parsed = serde_json::from_slice(&without_last_commas(body));
        }
        if parsed.as_ref().is_ok_and(has_rounded_label) {
            parsed = serde_json::from_slice(&with_text_labels(body));
        }
        match parsed {
            Ok(Value::Object(object)) => Ok(Self::Json(object)),
            Ok(_) => Err(malformed()),
            Err(error) => Err(malformed().because(error)),
        }
    }

    /// The fields of the thing with this name, which must be what the body is about.
    pub(super) fn thing(self, name: &str) -> Result<Fields, Fault> {
        let missing = || Fault::invalid(name, format!("Missing required element '{name}' in request body"));
        match self {
            Self::Json(mut object) => match object.remove(name) {
                Some(Value::Object(fields)) => {
                    let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    // Of hints to a scheduler there may be none: a volume has one place to be.
                    match object.into_iter().find(|(_, value)| !is_empty(value)) {
                        Some((other, _)) => Err(unknown(&other)),
                        None => Ok(Fields::new(fields)),
                    }
                }
                Some(Value::Null) | None => Err(missing()),
                Some(_) => Err(Fault::invalid(name, format!("{name} must be an object"))),
            },
            Self::Xml(node) if node.name == name => Ok(Fields::of(node)),
            Self::Xml(_) => Err(missing()),
        }
    }

    /// All pairs of the owner, under this name: `metadata`.
    pub(super) fn pairs(self, name: &str) -> Result<Map<String, Value>, Fault> {
        counted(checked_pairs(self.thing(name)?.0, name)?)
    }

    /// The one action that the body is about, and its fields.
    pub(super) fn action(self) -> Result<(String, Fields), Fault> {
        match self {
            Self::Xml(node) => Ok((node.name.clone(), Fields::of(node))),
            Self::Json(object) => {
                let mut entries = object.into_iter();
                match (entries.next(), entries.next()) {
                    (Some((name, Value::Null)), None) => Ok((name, Fields::default())),
                    (Some((name, Value::Object(fields))), None) => Ok((name, Fields::new(fields))),
                    (Some((name, _)), None) => Err(Fault::invalid(&name, format!("{name} must be an object or null"))),
                    _ => Err(Fault::invalid("body", "the body must be one action, as in {\"os-extend\": {...}}")),
                }
            }
        }
    }
}

impl Fields {
    fn new(mut fields: Map<String, Value>) -> Self {
        let nulls = fields.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name.clone()).collect();
        fields.retain(|_, value| !value.is_null());
        Self(fields, nulls)
    }

    /// Attributes and elements of text are fields; `meta` elements are pairs.
    fn of(node: Node) -> Self {
        if matches!(node.name.as_str(), "metadata" | "meta") {
            return Self(pairs_of(node), Vec::new());
        }
        let (groups, leaves): (Vec<Node>, Vec<Node>) =
            node.children.into_iter().partition(|child| child.name == "metadata" || !child.children.is_empty());
        let texts = leaves.into_iter().map(|leaf| (leaf.name, leaf.text));
        let texts = node.attributes.into_iter().chain(texts);
        let told = |text: String| if text == "None" { Value::Null } else { text.into() };
        let mut fields: Map<String, Value> = texts.map(|(name, text)| (name, told(text))).collect();
        for group in groups {
            fields.insert(group.name.clone(), Value::Object(pairs_of(group)));
        }
        Self::new(fields)
    }

    /// Refuses all fields but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(unknown(name)),
            None => Ok(()),
        }
    }

    /// Refuses that these are true.
    pub(super) fn not(&self, names: &[&str]) -> Result<(), Fault> {
        for name in names {
            if self.flag(name)? == Some(true) {
                return Err(Fault::invalid(*name, format!("{name} is not possible here")));
            }
        }
        Ok(())
    }

    fn read<T>(&self, name: &str, told: &str, as_type: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let wrong = || Fault::invalid(name, format!("Invalid input for {name}: it must be {told}"));
        self.0.get(name).map(|value| as_type(value).ok_or_else(wrong)).transpose()
    }

    /// A fault that says that a field must be there.
    pub(super) fn missing(name: &str) -> Fault {
        Fault::invalid(name, format!("Missing required element '{name}' in request body"))
    }

    /// Whether a field is there as `null`.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.1.iter().any(|null| null == name)
    }

    /// Text, which may be empty.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        let is_short = |text: &&str| text.chars().count() <= MAX_TEXT;
        self.read(name, "a string of at most 255 characters", |value| {
            value.as_str().filter(is_short).map(str::to_owned)
        })
    }

    /// Text, where empty is absent.
    pub(super) fn filled(&self, name: &str) -> Result<Option<String>, Fault> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    /// A name or description under the first of these names that is there. It may be empty, and a number.
    pub(super) fn label(&self, names: [&str; 2]) -> Result<Option<String>, Fault> {
        let name = names.into_iter().find(|name| self.0.contains_key(*name)).unwrap_or(names[0]);
        self.read(name, "a string of at most 255 characters, or a number", |value| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) if is_exact(number) => number.to_string(),
                _ => return None,
            };
            (text.chars().count() <= MAX_TEXT).then_some(text)
        })
    }

    /// A new name or description, as [`Fields::label`] reads it; `null` clears it as empty text does.
    pub(super) fn new_label(&self, names: [&str; 2]) -> Result<Option<String>, Fault> {
        let is_cleared = names.into_iter().any(|name| self.is_null(name));
        Ok(self.label(names)?.or_else(|| is_cleared.then(String::new)))
    }

    /// A size in GiB, at least one. Clients send it as a number, and as a string.
    pub(super) fn gib(&self, name: &str) -> Result<Option<ByteCount>, Fault> {
        self.read(name, "an integer of at least 1, in GB", |value| {
            let count = match value {
                Value::Number(number) => number.as_u64(),
                Value::String(text) => digits(text),
                _ => None,
            };
            gib(count.filter(|count| *count > 0)?)
        })
    }

    /// The most of something: a number, or -1 for no limit.
    pub(super) fn limit(&self, name: &str) -> Result<Option<i64>, Fault> {
        self.read(name, "an integer of at least -1", |value| {
            let count = match value {
                Value::Number(number) => number.as_i64(),
                Value::String(text) if text == "-1" => Some(-1),
                Value::String(text) => digits(text).and_then(|count| i64::try_from(count).ok()),
                _ => None,
            };
            count.filter(|count| *count >= -1)
        })
    }

    /// True or false, in the words that clients have for them.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        self.read(name, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => flag_named(text),
            _ => None,
        })
    }

    /// The id of a volume or snapshot; absent when empty.
    pub(super) fn id(&self, name: &str, otherwise: fn(&str) -> Fault) -> Result<Option<VolumeId>, Fault> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(value) => {
                let text = plain(value);
                text.parse().map(Some).map_err(|_| otherwise(&text))
            }
        }
    }

    /// The owner's pairs.
    pub(super) fn pairs(&self, name: &str) -> Result<Option<Map<String, Value>>, Fault> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Object(pairs)) => counted(checked_pairs(pairs.clone(), name)?).map(Some),
            // An empty element has neither pairs nor text.
            Some(Value::String(text)) if text.is_empty() => Ok(Some(Map::new())),
            Some(_) => Err(Fault::invalid(name, format!("{name} must be an object of text"))),
        }
    }
}

/// `number` GiB in bytes.
pub(super) fn gib(number: u64) -> Option<ByteCount> {
    number.checked_mul(GIB).and_then(ByteCount::new)
}

/// Whether a word means true; none when it means neither.
pub(super) fn flag_named(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "y" | "on" => Some(true),
        "false" | "0" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

/// A number of digits only.
pub(super) fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Keys of 1 to 255 characters, values of at most that many. A value that is `null` is absent.
pub(super) fn checked_pairs(mut pairs: Map<String, Value>, name: &str) -> Result<Map<String, Value>, Fault> {
    pairs.retain(|_, value| !value.is_null());
    for (key, value) in &pairs {
        let is_short = |text: &str| text.chars().count() <= MAX_TEXT;
        if key.is_empty() || !is_short(key) {
            return Err(Fault::invalid(name, format!("each key of {name} must have 1 to 255 characters")));
        }
        if !value.as_str().is_some_and(is_short) {
            return Err(Fault::invalid(name, format!("each value of {name} must be text of at most 255 characters")));
        }
    }
    Ok(pairs)
}

/// The same, where they are not too many for a volume.
fn counted(pairs: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    BlockFields::check_pairs(&pairs)?;
    Ok(pairs)
}

fn pairs_of(node: Node) -> Map<String, Value> {
    if node.name == "meta" {
        let key = node.attribute("key").unwrap_or_default().to_owned();
        return Map::from_iter([(key, node.text.into())]);
    }
    let of_meta = |meta: &Node| meta.attribute("key").unwrap_or_default().to_owned();
    node.children.into_iter().map(|child| (of_meta(&child), child.text.into())).collect()
}

/// What may be a number, and is told again as it was written.
const LABELS: [&str; 4] = ["description", "display_description", "display_name", "name"];

/// Whether a name or description of the thing that a body is about is a number that was rounded when it was read.
fn has_rounded_label(body: &Value) -> bool {
    let things = body.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_object);
    let labels = things.flat_map(|fields| LABELS.into_iter().filter_map(|label| fields.get(label)));
    labels.filter_map(Value::as_number).any(serde_json::Number::is_f64)
}

/// JSON, where the numbers that are names or descriptions of the thing that it is about are text.
fn with_text_labels(json: &[u8]) -> Vec<u8> {
    let (mut quoted, mut at, mut depth) = (Vec::with_capacity(json.len() + 8), 0, 0_u32);
    // The text before a colon, and whether its value comes.
    let (mut key, mut is_value): (&[u8], bool) = (b"", false);
    while let Some(byte) = json.get(at) {
        let mut end = at + 1;
        match byte {
            b'"' => {
                while json.get(end).is_some_and(|byte| *byte != b'"') {
                    end += if json[end] == b'\\' { 2 } else { 1 };
                }
                end = (end + 1).min(json.len());
                key = json.get(at + 1..end - 1).unwrap_or_default();
            }
            b'{' | b'[' => (depth, is_value) = (depth + 1, false),
            b'}' | b']' => (depth, is_value) = (depth.saturating_sub(1), false),
            b':' => is_value = true,
            b',' => is_value = false,
            b'-' | b'0'..=b'9' => {
                while json.get(end).is_some_and(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte)) {
                    end += 1;
                }
                if depth == 2 && is_value && LABELS.iter().any(|label| label.as_bytes() == key) {
                    quoted.push(b'"');
                    quoted.extend_from_slice(&json[at..end]);
                    quoted.push(b'"');
                    at = end;
                    continue;
                }
            }
            _ => {}
        }
        quoted.extend_from_slice(&json[at..end]);
        at = end;
    }
    quoted
}

/// Larger numbers were rounded when they were read, and would come back as other ones.
fn is_exact(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|float| float.abs() < 9_007_199_254_740_992.0)
}

/// Whether the body is XML. One that names no type is JSON.
fn is_xml(call: &Call, body: &[u8]) -> Result<bool, Fault> {
    let Some(value) = call.headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let value = value.as_bytes();
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii().to_ascii_lowercase();
    match media_type.as_slice() {
        b"application/json" | b"application/vnd.openstack.volume+json" => Ok(false),
        b"application/xml" | b"text/xml" | b"application/vnd.openstack.volume+xml" => Ok(true),
        _ if body.is_empty() => Ok(false),
        _ => {
            let told = "a body is sent as Content-Type: application/json or application/xml";
            Err(Fault::new(FaultKind::UnsupportedMediaType, told))
        }
    }
}

/// Whether a request is a restore in version 1, whose document has a comma behind the last field of its sample.
fn is_restore_v1(call: &Call) -> bool {
    Version::of(call.path) == Version::V1 && without_suffix(call.path).0.ends_with("/restore")
}

/// JSON without the commas behind which an object ends.
fn without_last_commas(json: &[u8]) -> Vec<u8> {
    let (mut kept, mut is_text, mut is_escaped) = (Vec::with_capacity(json.len()), false, false);
    for (at, byte) in json.iter().enumerate() {
        let ends = || json[at + 1..].trim_ascii_start().first() == Some(&b'}');
        if *byte == b',' && !is_text && ends() {
            continue;
        }
        is_text ^= *byte == b'"' && !is_escaped;
        is_escaped = is_text && *byte == b'\\' && !is_escaped;
        kept.push(*byte);
    }
    kept
}

fn unknown(name: &str) -> Fault {
    Fault::invalid(name, format!("Additional properties are not allowed ({name:?} was unexpected)"))
}

fn malformed() -> Fault {
    Fault::invalid("body", "Malformed request body")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn thing(media_type: &'static str, body: &str, name: &str) -> Result<Fields, Fault> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
        let method = Method::POST;
        let call = Call {
            method: &method,
            path: "/v1/t/volumes",
            params: Vec::new(),
            query: "",
            headers: &headers,
            length: None,
        };
        Body::read(&call, body.as_bytes())?.thing(name)
    }

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("no object: {value}") };
        Fields::new(fields)
    }

    #[test]
    fn both_formats_are_read_into_the_same_fields() {
        let json =
            r#"{"volume": {"size": "1", "display_name": null, "availability_zone": "nova", "metadata": {"k": "v"}}}"#;
        let xml = "<volume xmlns=\"urn:x\" size=\"1\" display_name=\"None\" availability_zone=\"nova\">\
                   <metadata><meta key=\"k\">v</meta></metadata></volume>";
        let json = thing("application/json", json, "volume").unwrap();
        let xml = thing("application/xml; charset=UTF-8", xml, "volume").unwrap();
        assert_eq!(json.0, xml.0);
    }

    #[test]
    fn a_body_of_the_wrong_form_is_told_from_one_that_is_malformed() {
        let told = |media_type, body: &str| thing(media_type, body, "volume").expect_err(body).told;
        for body in ["{\"volume\": {\"size\": 1,}}", "{", "[]", "1", "{} {}"] {
            assert_eq!(told("application/json", body), "Malformed request body", "{body}");
        }
        assert_eq!(told("application/xml", "<volume"), "Malformed request body");
        for body in ["{}", "{\"volume\": null}"] {
            assert_eq!(told("application/json", body), "Missing required element 'volume' in request body");
        }
        assert_eq!(told("application/xml", "<snapshot/>"), "Missing required element 'volume' in request body");
        let form = thing("application/x-www-form-urlencoded", "a=b", "volume").expect_err("a form is not taken");
        assert_eq!(form.kind, FaultKind::UnsupportedMediaType);
        assert!(thing("application/json", &"[".repeat(100_000), "volume").is_err());
    }

    #[test]
    fn a_comma_behind_the_last_field_is_dropped_and_no_other() {
        for (json, kept) in [
            (r#"{"a": {"b": "c", }}"#, r#"{"a": {"b": "c" }}"#),
            (r#"{"a": {"b": ",}\",}", "c": 1,},}"#, r#"{"a": {"b": ",}\",}", "c": 1}}"#),
            (r#"{"a\\": 1,}"#, r#"{"a\\": 1}"#),
            ("{,}", "{}"),
            ("{1,,}", "{1,}"),
            ("[1,]", "[1,]"),
            (",", ","),
        ] {
            assert_eq!(without_last_commas(json.as_bytes()), kept.as_bytes(), "{json}");
        }
    }

    #[test]
    fn a_number_that_is_a_label_is_told_as_it_was_written() {
        let long = "7".repeat(255);
        for number in [&*long, "1.50", "-1e3", "0.1", "12345678901234567890123"] {
            let body =
                format!("{{\"volume\": {{\"size\": 1.5, \"name\" : {number}, \"metadata\": {{\"name\": 1.50}}}}}}");
            let read = thing("application/json", &body, "volume").unwrap();
            assert_eq!(read.label(["name", "display_name"]).unwrap().as_deref(), Some(number));
            assert!(read.pairs("metadata").is_err(), "values of metadata are text");
            assert!(read.gib("size").is_err());
        }
        let longer = thing("application/json", &format!("{{\"volume\": {{\"name\": {long}7}}}}"), "volume").unwrap();
        assert!(longer.label(["name", "display_name"]).is_err());
        let text = r#"{"a\"": {"name": "1.5", "x": "\\", "description":-2.5e-3}}"#;
        let expected = r#"{"a\"": {"name": "1.5", "x": "\\", "description":"-2.5e-3"}}"#;
        assert_eq!(String::from_utf8(with_text_labels(text.as_bytes())).unwrap(), expected);
    }

    #[test]
    fn what_is_null_is_told_from_what_is_absent() {
        let read = fields(json!({"name": null, "description": "d"}));
        assert_eq!(read.new_label(["name", "display_name"]).unwrap().as_deref(), Some(""));
        assert_eq!(read.new_label(["description", "display_description"]).unwrap().as_deref(), Some("d"));
        assert!(read.is_null("name") && !read.is_null("description") && !read.is_null("size"));
        assert_eq!(fields(json!({})).new_label(["name", "display_name"]).unwrap(), None);
        let xml = thing("application/xml", "<volume display_name=\"None\"/>", "volume").unwrap();
        assert!(xml.is_null("display_name"));
    }

    #[test]
    fn a_size_is_a_whole_number_of_gib() {
        let size = |value: Value| fields(json!({"size": value})).gib("size").ok().flatten().map(ByteCount::gib_up);
        assert_eq!(size(json!(1)), Some(1));
        assert_eq!(size(json!("20")), Some(20));
        for wrong in [json!(0), json!(-1), json!(1.5), json!("1.0"), json!(""), json!("+1"), json!(true), json!([1])] {
            assert_eq!(size(wrong.clone()), None, "{wrong}");
        }
        let largest = ByteCount::MAX.get() / GIB;
        assert_eq!(size(json!(largest)), Some(largest));
        for beyond in [largest + 1, u64::MAX / GIB, u64::MAX / GIB + 1, u64::MAX] {
            assert_eq!(size(json!(beyond)), None, "{beyond}");
            assert_eq!(size(json!(beyond.to_string())), None, "{beyond}");
        }
        assert_eq!(size(json!("99999999999999999999999")), None);
        assert_eq!(ByteCount::ZERO.gib_up(), 0);
        assert_eq!(ByteCount::mib(512).gib_up(), 1);
        assert_eq!(ByteCount::mib(1024).gib_up(), 1);
        assert_eq!(ByteCount::mib(1025).gib_up(), 2);
    }

    #[test]
    fn a_name_is_text_or_a_number_of_at_most_255_characters() {
        let name = |value: Value| fields(json!({"name": value})).label(["name", "display_name"]).ok().flatten();
        assert_eq!(name(json!("a")).as_deref(), Some("a"));
        assert_eq!(name(json!(7)).as_deref(), Some("7"));
        assert_eq!(name(json!("\u{e9}".repeat(255))).map(|text| text.chars().count()), Some(255));
        for wrong in [json!("a".repeat(256)), json!(true), json!([]), json!({}), json!(1e300)] {
            assert_eq!(name(wrong.clone()), None, "{wrong}");
        }
        let both = fields(json!({"name": null, "display_name": "b"}));
        assert_eq!(both.label(["name", "display_name"]).unwrap().as_deref(), Some("b"));
    }

    #[test]
    fn metadata_is_short_text_under_short_keys() {
        let pairs = |value: Value| fields(json!({"metadata": value})).pairs("metadata");
        assert_eq!(pairs(json!({"k": "v", "n": null})).unwrap().unwrap().len(), 1);
        assert_eq!(pairs(json!(null)).unwrap(), None);
        let long = "a".repeat(256);
        for wrong in [json!({"": "v"}), json!({&long: "v"}), json!({"k": long}), json!({"k": 1}), json!([]), json!("x")]
        {
            assert!(pairs(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_action_is_the_one_key_of_the_body() {
        let action = |value: Value| Body::Json(value.as_object().cloned().unwrap()).action().map(|(name, _)| name).ok();
        assert_eq!(action(json!({"os-reserve": null})).as_deref(), Some("os-reserve"));
        assert_eq!(action(json!({"os-extend": {"new_size": 2}})).as_deref(), Some("os-extend"));
        for wrong in [json!({}), json!({"a": {}, "b": {}}), json!({"a": 1})] {
            assert_eq!(action(wrong.clone()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in any::<Vec<u8>>(), is_xml: bool) {
            let media_type = if is_xml { "application/xml" } else { "application/json" };
            let _ = thing(media_type, &String::from_utf8_lossy(&body), "volume");
            let _ = with_text_labels(&body);
        }
    }
}
