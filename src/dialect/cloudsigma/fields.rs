//! JSON bodies: which fields are read, what each may hold, and how a wrong one is told.
//!
//! What no drive has is refused. What only the server says of a drive (its owner, status and the like) is passed over,
//! because clients send back all that they were once given; but not that something is in a list that is always empty
//! here, such as `licenses`. `null` is as good as absent.

use serde_json::{Map, Value};

use super::drive::{ALWAYS_EMPTY, FIELDS};
use crate::domain::{ByteCount, Fault, Media, VolumeId};

/// The most characters in a drive's name.
pub(super) const MAX_NAME: usize = 255;
/// The most bytes of an owner's labels, as JSON; and of the opaque attributes. Both are kept with the drive's record.
const MAX_LABELS: usize = 16 << 10;
/// The most drives in one call: they are made or removed in one transaction, which holds up every other write.
const MAX_OBJECTS: usize = 1000;

/// The fields that mean nothing here, but are kept for the owner, with what each must be.
const ATTRIBUTES: [(&str, Check, &str); 4] = [
    ("affinities", is_list_of_strings, "must be a list of strings"),
    ("allow_multimount", Value::is_boolean, "must be true or false"),
    ("storage_type", is_short_string, "must be a string of at most 64 characters"),
    ("tags", Value::is_array, "must be a list"),
];

type Check = fn(&Value) -> bool;

/// One JSON object of a body.
pub(super) struct Fields {
    object: Map<String, Value>,
    /// What precedes a field's name when a fault points at it: empty, or `objects[3].`.
    place: String,
}

/// The objects of a body: `{"objects": [...]}`, a bare list, or a bare object.
pub(super) fn objects(body: &[u8]) -> Result<Vec<Fields>, Fault> {
    let list = match value(body)? {
        Value::Object(mut object) => match object.remove("objects") {
            Some(Value::Array(list)) => {
                // A list as it was once given has its page beside it.
                if let Some(other) = object.keys().find(|name| *name != "meta") {
                    return Err(Fault::invalid(other, format!("{other} cannot stand beside objects")));
                }
                list
            }
            Some(_) => return Err(Fault::invalid("objects", "must be a list")),
            None => return Ok(vec![Fields::read_all(object, "")?]),
        },
        Value::Array(list) => list,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(not_objects("objects")),
    };
    if list.is_empty() || list.len() > MAX_OBJECTS {
        return Err(Fault::invalid("objects", format!("must have 1 to {MAX_OBJECTS} entries")));
    }
    let several = list.len() > 1;
    let one = |(at, value): (usize, Value)| match value {
        Value::Object(object) if several => Fields::read_all(object, &format!("objects[{at}].")),
        Value::Object(object) => Fields::read_all(object, ""),
        _ => Err(not_objects(&format!("objects[{at}]"))),
    };
    list.into_iter().enumerate().map(one).collect()
}

/// The one object of a body.
pub(super) fn one(body: &[u8]) -> Result<Fields, Fault> {
    let mut objects = objects(body)?.into_iter();
    match (objects.next(), objects.next()) {
        (Some(object), None) => Ok(object),
        _ => Err(Fault::invalid("objects", "this call takes one object")),
    }
}

/// The whole numbers of a body that has no other members than these.
pub(super) fn numbers<const N: usize>(body: &[u8], names: &[&str; N]) -> Result<[Option<u64>; N], Fault> {
    let Value::Object(object) = value(body)? else {
        return Err(Fault::invalid("body", format!("must be an object with {}", names.join(" and "))));
    };
    if let Some(other) = object.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(Fault::invalid(other, format!("this call takes no {other}")));
    }
    let fields = Fields { object, place: String::new() };
    let mut numbers = [None; N];
    for (number, name) in numbers.iter_mut().zip(names) {
        *number = fields.read(name, "must be a whole number", size_of)?.map(ByteCount::get);
    }
    Ok(numbers)
}

/// Whether a text can be a drive's name.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control)
}

impl Fields {
    /// The fields of a body that was left out.
    pub(super) fn none() -> Self {
        Self { object: Map::new(), place: String::new() }
    }

    fn read_all(object: Map<String, Value>, place: &str) -> Result<Self, Fault> {
        let fields = Self { object, place: place.to_owned() };
        for (name, value) in &fields.object {
            if !FIELDS.contains(&name.as_str()) {
                return Err(fields.wrong(name, "is no field of a drive"));
            }
            let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if ALWAYS_EMPTY.contains(&name.as_str()) && !is_empty {
                return Err(fields.wrong(name, "is an empty list here, and cannot be set"));
            }
        }
        Ok(fields)
    }

    pub(super) fn missing(&self, name: &str) -> Fault {
        self.wrong(name, "is required")
    }

    pub(super) fn name(&self) -> Result<Option<String>, Fault> {
        let told = "must be a string of 1 to 255 characters, none of them a control character";
        self.read("name", told, |value| value.as_str().filter(|text| is_name(text)).map(str::to_owned))
    }

    pub(super) fn size(&self) -> Result<Option<ByteCount>, Fault> {
        self.read("size", "must be a whole number of bytes", size_of)
    }

    pub(super) fn media(&self) -> Result<Option<Media>, Fault> {
        self.read("media", "must be disk or cdrom", |value| value.as_str().and_then(super::drive::media_named))
    }

    pub(super) fn meta(&self) -> Result<Option<Map<String, Value>>, Fault> {
        let told = "must be an object of at most 16 KiB";
        self.read("meta", told, |value| value.as_object().filter(|object| fits(object)).cloned())
    }

    pub(super) fn attributes(&self) -> Result<Map<String, Value>, Fault> {
        let mut kept = Map::new();
        for (name, is_right, told) in ATTRIBUTES {
            let value = self.read(name, told, |value| is_right(value).then(|| value.clone()))?;
            kept.extend(value.map(|value| (name.to_owned(), value)));
            if !fits(&kept) {
                return Err(self.wrong(name, "is too long; with the other attributes it may take 16 KiB"));
            }
        }
        Ok(kept)
    }

    pub(super) fn uuid(&self) -> Result<VolumeId, Fault> {
        let read = self.read("uuid", "must be the UUID of a drive", |value| value.as_str()?.parse().ok())?;
        read.ok_or_else(|| self.missing("uuid"))
    }

    /// A field, unless it is absent; a fault that says `told` of it when it cannot be read.
    fn read<T>(&self, name: &str, told: &str, as_type: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Fault> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => as_type(value).map(Some).ok_or_else(|| self.wrong(name, told)),
        }
    }

    fn wrong(&self, name: &str, told: &str) -> Fault {
        Fault::invalid(format!("{}{name}", self.place), format!("{name} {told}"))
    }
}

fn value(body: &[u8]) -> Result<Value, Fault> {
    if body.trim_ascii().is_empty() {
        return Err(Fault::invalid("body", "the body is empty; this call takes JSON"));
    }
    // serde_json refuses nesting deeper than 128, so no body can exhaust the stack.
    serde_json::from_slice(body).map_err(|error| {
        let told = format!("the body is not JSON: line {}, column {}", error.line(), error.column());
        Fault::invalid("body", told).because(error)
    })
}

fn not_objects(point: &str) -> Fault {
    Fault::invalid(point, "must be an object such as {\"name\": \"data\", \"size\": 1073741824, \"media\": \"disk\"}")
}

/// A size in bytes. The vendor's clients send it as a number, as a number with a fraction of zero, and as a string.
fn size_of(value: &Value) -> Option<ByteCount> {
    let bytes = match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole))?,
        Value::String(text) => {
            let (digits, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let is_whole = is_digits(digits) && is_digits(fraction) && fraction.bytes().all(|byte| byte == b'0');
            is_whole.then(|| digits.parse().ok())??
        }
        _ => return None,
    };
    ByteCount::new(bytes)
}

fn whole(number: f64) -> Option<u64> {
    // 2^63: the first float above `ByteCount::MAX`. NaN fails the comparison.
    ((0.0..9_223_372_036_854_775_808.0).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

fn fits(object: &Map<String, Value>) -> bool {
    serde_json::to_vec(object).is_ok_and(|text| text.len() <= MAX_LABELS)
}

fn is_list_of_strings(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}

fn is_short_string(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.chars().count() <= 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fault_of<T>(result: Result<T, Fault>) -> (String, String) {
        match result {
            Ok(_) => panic!("taken"),
            Err(fault) => (fault.point.unwrap_or_default(), fault.told),
        }
    }

    #[test]
    fn a_size_is_a_whole_number_however_it_is_written() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("1073741824.0", Some(1 << 30)),
            ("1e9", Some(1_000_000_000)),
            ("0", Some(0)),
            ("-0.0", Some(0)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("\"1024000000\"", Some(1_024_000_000)),
            ("\"1024.00\"", Some(1024)),
            ("9223372036854775808", None),
            ("9223372036854775808.0", None),
            ("18446744073709551616", None),
            ("1e300", None),
            ("1.5", None),
            ("-1", None),
            ("\"\"", None),
            ("\"1.5\"", None),
            ("\"1.\"", None),
            ("\"+1\"", None),
            ("\" 1\"", None),
            ("\"1 GiB\"", None),
            ("\"99999999999999999999\"", None),
            ("true", None),
            ("[1]", None),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(size_of(&value).map(ByteCount::get), expected, "{text}");
        }
    }

    #[test]
    fn a_body_is_an_object_or_a_list_of_them() {
        let count = |body: &str| objects(body.as_bytes()).map(|objects| objects.len()).ok();
        assert_eq!(count("{}"), Some(1));
        assert_eq!(count("[{}, {}]"), Some(2));
        assert_eq!(count("{\"objects\": [{}, {}, {}]}"), Some(3));
        for wrong in ["", " ", "1", "null", "[]", "[1]", "{\"objects\": []}", "{\"objects\": {}}", "{", "{} {}"] {
            assert_eq!(count(wrong), None, "{wrong}");
        }
        assert_eq!(count(&"[".repeat(100_000)), None);
        let many = |n| format!("[{}]", vec!["{}"; n].join(","));
        assert_eq!(count(&many(MAX_OBJECTS)), Some(MAX_OBJECTS));
        assert_eq!(count(&many(MAX_OBJECTS + 1)), None);
    }

    #[test]
    fn a_fault_points_at_the_field_and_the_object() {
        let object = |value: Value| objects(value.to_string().as_bytes()).unwrap().pop().unwrap();
        assert_eq!(fault_of(object(json!({"name": 1})).name()).0, "name");
        assert_eq!(fault_of(object(json!([{}, {"size": "x"}])).size()).0, "objects[1].size");
        assert_eq!(fault_of(object(json!({"media": "tape"})).media()).1, "media must be disk or cdrom");
        assert_eq!(fault_of(object(json!({"uuid": "x"})).uuid()).0, "uuid");
        assert_eq!(fault_of(object(json!({})).uuid()).1, "uuid is required");
        assert_eq!(fault_of(object(json!({"meta": []})).meta()).0, "meta");
        for (name, wrong) in [
            ("affinities", json!([1])),
            ("allow_multimount", json!("yes")),
            ("storage_type", json!(1)),
            ("tags", json!({})),
        ] {
            assert_eq!(fault_of(object(json!({name: wrong})).attributes()).0, name);
        }
    }

    #[test]
    fn nulls_are_absent_and_a_drive_can_be_sent_back_as_it_was_given() {
        let body = json!({"name": null, "size": null, "media": null, "meta": null, "tags": null, "status": 7});
        let object = one(body.to_string().as_bytes()).unwrap();
        assert_eq!(object.name().unwrap(), None);
        assert_eq!(object.size().unwrap(), None);
        assert_eq!(object.media().unwrap(), None);
        assert_eq!(object.meta().unwrap(), None);
        assert!(object.attributes().unwrap().is_empty());
    }

    #[test]
    fn what_no_drive_has_is_refused() {
        let point = |value: Value| fault_of(objects(value.to_string().as_bytes())).0;
        assert_eq!(point(json!({"name": "a", "sise": 1})), "sise");
        assert_eq!(point(json!({"objects": [{}, {"x": null}]})), "objects[1].x");
        assert_eq!(point(json!({"objects": [{}], "name": "a"})), "name");
        assert_eq!(point(json!({"licenses": [{"license": {}}]})), "licenses");
        let sent_back = json!({"objects": [{"jobs": [], "owner": {}, "runtime": {}, "licenses": null}], "meta": {}});
        assert!(objects(sent_back.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn labels_and_attributes_are_capped() {
        // The braces, quotes and colon around a key of one letter and its text take 8 bytes.
        let labels = |bytes: usize| one(json!({"meta": {"k": "x".repeat(bytes - 8)}}).to_string().as_bytes()).unwrap();
        assert!(labels(MAX_LABELS).meta().is_ok());
        assert!(labels(MAX_LABELS + 1).meta().is_err());
        let tags = json!({"affinities": ["x".repeat(9000)], "tags": ["x".repeat(9000)]});
        assert_eq!(fault_of(one(tags.to_string().as_bytes()).unwrap().attributes()).0, "tags");
    }

    proptest! {
        #[test]
        fn a_size_reads_the_same_in_every_spelling(bytes in 0..(1_u64 << 53)) {
            let expected = ByteCount::new(bytes);
            prop_assert_eq!(size_of(&json!(bytes)), expected);
            prop_assert_eq!(size_of(&json!(bytes as f64)), expected);
            prop_assert_eq!(size_of(&json!(bytes.to_string())), expected);
            prop_assert_eq!(size_of(&json!(format!("{bytes}.0"))), expected);
        }

        #[test]
        fn no_number_panics(float: f64, text in "[-+0-9.e]{0,24}") {
            let _ = size_of(&json!(float));
            let _ = size_of(&json!(text));
            let _ = serde_json::from_str::<Value>(&text).map(|value| size_of(&value));
        }
    }
}
