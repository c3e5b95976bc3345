//! Requests into intents.

use http::header;
use serde_json::{Map, Value};

use super::super::{Call, codings, query};
use super::{DRIVER, Op, RESERVED, SIZE};
use crate::domain::{
    ByteCount, Carried, Command, Fault, FaultKind, Initialization, LONGEST_NAME, Reach, Secret, SessionCommand, Source,
    TreeFilter, TreeSource, UnpackPlan, VolumeKind, VolumeQuery, VolumeRef, VolumeSpec, is_tree_name,
};

pub(super) fn decode(op: Op, call: &Call, body: &[u8]) -> Result<Command, Fault> {
    let tree = || VolumeRef::Tree(call.param("name").to_owned());
    Ok(match op {
        Op::List => Command::List(VolumeQuery::Trees(filter(call)?)),
        Op::Create => Command::Create(vec![create(body)?]),
        Op::Show => Command::Show(tree()),
        Op::Delete => {
            let reach = Reach { sessions: is_set(call, "force")?, ..Reach::default() };
            Command::Remove { volumes: vec![tree()], reach }
        }
        Op::Download => Command::OpenDownload(tree()),
        Op::Initialize => Command::Session(SessionCommand::Initialize(initialization(body)?)),
        Op::Finish => {
            let token =
                parameter(call, "session").ok_or_else(|| Fault::invalid("session", "the query names no session"))?;
            Command::Session(SessionCommand::Finish(Carried(Secret::new(token))))
        }
    })
}

fn parameter(call: &Call, name: &str) -> Option<String> {
    query::pairs(call.query).find(|(key, _)| key == name).map(|(_, value)| value)
}

fn is_set(call: &Call, name: &str) -> Result<bool, Fault> {
    parameter(call, name).map_or(Ok(false), |value| flag(name, &value))
}

/// As the Docker API reads truth; other words than its own are refused.
fn flag(name: &str, value: &str) -> Result<bool, Fault> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" => Ok(true),
        "" | "0" | "false" | "f" | "no" | "none" => Ok(false),
        _ => Err(Fault::invalid(name, format!("{name} must be true or false"))),
    }
}

/// The most filters of one list, each of which looks at every tree.
const MOST_FILTERS: usize = 32;

/// As the Docker API has it: `{"name": ["a", "b"]}`, or of older clients `{"name": {"a": true}}`. Of several names one
/// must be part of the tree's, of several labels all must be there.
fn filter(call: &Call) -> Result<TreeFilter, Fault> {
    let mut filter = TreeFilter::default();
    let Some(text) = parameter(call, "filters").filter(|text| !text.is_empty()) else { return Ok(filter) };
    let wrong = || Fault::invalid("filters", "filters must be as in {\"label\": [\"key=value\"]}");
    let Ok(Value::Object(filters)) = serde_json::from_str(&text) else { return Err(wrong()) };
    let mut count = 0;
    for (name, values) in filters {
        let values = match values {
            Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
            Value::Object(values) => {
                let is_there = |(value, flag): (String, Value)| (flag == Value::Bool(true)).then_some(value);
                values.into_iter().map(is_there).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let values = values.ok_or_else(wrong)?;
        count += values.len();
        if count > MOST_FILTERS {
            return Err(Fault::invalid("filters", format!("there are more than {MOST_FILTERS} filters")));
        }
        match name.as_str() {
            "name" => filter.names = values,
            "label" => {
                for text in values {
                    match text.split_once('=') {
                        // Told among the labels, and not kept there.
                        Some((SIZE, size)) => {
                            let gib = size.parse().ok().filter(|gib: &u64| gib.to_string() == size);
                            filter.is_void |= gib.is_none() || filter.gib.is_some_and(|other| Some(other) != gib);
                            filter.gib = gib;
                        }
                        None if text == SIZE => {}
                        Some((key, value)) => filter.labels.push((key.to_owned(), Some(value.to_owned()))),
                        None => filter.labels.push((text, None)),
                    }
                }
            }
            // There are no containers here that could use a volume.
            "dangling" => {
                for value in values {
                    filter.is_void |= !flag("dangling", &value)?;
                }
            }
            "driver" => filter.is_void |= !values.is_empty() && !values.iter().any(|value| value == DRIVER),
            _ => return Err(Fault::invalid("filters", format!("volumes cannot be filtered by {name:?}"))),
        }
    }
    Ok(filter)
}

pub(super) fn upload(call: &Call) -> Result<UnpackPlan, Fault> {
    let no_such = |_| Fault::new(FaultKind::NotFound, "there is no such uploader");
    let upload = call.param("upload").parse().map_err(no_such)?;
    let unsupported = |told: &str| Fault::new(FaultKind::UnsupportedMediaType, told);
    for value in call.headers.get_all(header::CONTENT_TYPE) {
        let value = value.as_bytes();
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii();
        if !media_type.eq_ignore_ascii_case(b"application/x-tar") {
            return Err(unsupported("an archive is sent as Content-Type: application/x-tar"));
        }
    }
    if call.headers.contains_key(header::CONTENT_RANGE) {
        // RFC 9110 section 14.5: a part is not the whole.
        return Err(Fault::invalid("content-range", "an archive is sent whole; a part of one cannot be taken"));
    }
    let encoding = codings::sent(call.headers)
        .ok_or_else(|| unsupported("an archive is sent plain, or with one Content-Encoding: gzip or zstd"))?;
    let cookie = Secret::new(parameter(call, "cookie").unwrap_or_default());
    Ok(UnpackPlan { upload, cookie, encoding })
}

fn create(body: &[u8]) -> Result<VolumeSpec, Fault> {
    let object = Object::read(body)?;
    object.only(&["Name", "Driver", "DriverOpts", "Labels"])?;
    if let Some(driver) = object.text("Driver")?
        && !["", DRIVER, "local"].contains(&driver.as_str())
    {
        return Err(Fault::invalid("Driver", format!("there is no volume driver {driver:?}; leave it out")));
    }
    let options = object.object("DriverOpts")?;
    options.only(&["size", "snapshot"])?;
    if options.text("snapshot")?.is_some_and(|snapshot| !snapshot.is_empty()) {
        return Err(Fault::invalid("snapshot", "a volume cannot be made from a snapshot here"));
    }
    let size = match options.field("size") {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(gib(text.trim().parse().ok())?),
        Value::Number(number) => Some(gib(number.as_u64())?),
        _ => return Err(size_is_wrong()),
    };
    let labels = object.object("Labels")?;
    if let Some((label, _)) = labels.0.iter().find(|(_, value)| !value.is_string()) {
        return Err(Fault::invalid("Labels", format!("the label {label:?} must be text")));
    }
    let name = object.text("Name")?.unwrap_or_default();
    if !name.is_empty() {
        check_name(&name)?;
    }
    Ok(VolumeSpec { kind: VolumeKind::Tree, name, size, meta: labels.0, ..VolumeSpec::default() })
}

fn gib(count: Option<u64>) -> Result<ByteCount, Fault> {
    let bytes = count.and_then(|count| count.checked_mul(1 << 30)).and_then(ByteCount::new);
    bytes.ok_or_else(size_is_wrong)
}

fn size_is_wrong() -> Fault {
    Fault::invalid("size", "size must be a whole number of GB, as in \"10\"")
}

fn initialization(body: &[u8]) -> Result<Initialization, Fault> {
    let object = Object::read(body)?;
    object.only(&["Reload", "Volume"])?;
    let reload = match object.field("Reload") {
        Value::Null => false,
        Value::Bool(reload) => *reload,
        _ => return Err(Fault::invalid("Reload", "Reload must be true or false")),
    };
    let Value::Array(volumes) = object.field("Volume") else {
        return Err(Fault::invalid("Volume", "Volume must be a list of volumes, each with Name and Source"));
    };
    let trees = volumes.iter().map(|volume| {
        let Value::Object(fields) = volume else {
            return Err(Fault::invalid("Volume", "each volume must be an object with Name and Source"));
        };
        let volume = Object(fields.clone());
        volume.only(&["Name", "Source"])?;
        let name = volume.text("Name")?.unwrap_or_default();
        check_name(&name)?;
        let source = match volume.text("Source")?.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let told = || {
                    let shown = Source::without_credentials(&text);
                    Fault::invalid("Source", format!("{shown:?} is not a supported volume source"))
                };
                // As long as a path or a URL may be.
                Some(Source::parse(&text).filter(|_| text.len() <= 4096).ok_or_else(told)?)
            }
        };
        Ok(TreeSource { name, source })
    });
    Ok(Initialization { reload, trees: trees.collect::<Result<_, Fault>>()? })
}

fn check_name(name: &str) -> Result<(), Fault> {
    if RESERVED.contains(&name) {
        return Err(Fault::invalid("Name", format!("a volume cannot have the name {name:?}")));
    }
    if !is_tree_name(name) {
        let told = format!(
            "a volume's name has 1 to {LONGEST_NAME} letters, digits, '_', '.' and '-', and begins with a letter or digit"
        );
        return Err(Fault::invalid("Name", told));
    }
    Ok(())
}

/// A JSON object whose names are read as the vendor's software does, whatever their case.
struct Object(Map<String, Value>);

impl Object {
    fn read(body: &[u8]) -> Result<Self, Fault> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Fault::invalid("body", "the body must be a JSON object")),
            Err(error) => Err(Fault::invalid("body", format!("the body is not JSON: {error}"))),
        }
    }

    /// Refuses what is not known, unless it is null.
    fn only(&self, known: &[&str]) -> Result<(), Fault> {
        let is_known = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        match self.0.iter().find(|(name, value)| !value.is_null() && !is_known(name)) {
            Some((name, _)) => Err(Fault::invalid(name, format!("{name:?} is not known here"))),
            None => Ok(()),
        }
    }

    fn field(&self, name: &str) -> &Value {
        let is_it = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
        self.0.get(name).or_else(|| self.0.iter().find(is_it).map(|(_, value)| value)).unwrap_or(&Value::Null)
    }

    fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        match self.field(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            _ => Err(Fault::invalid(name, format!("{name} must be text"))),
        }
    }

    fn object(&self, name: &str) -> Result<Self, Fault> {
        match self.field(name) {
            Value::Null => Ok(Self(Map::new())),
            Value::Object(fields) => Ok(Self(fields.clone())),
            _ => Err(Fault::invalid(name, format!("{name} must be an object"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        for body in [
            r#"{"Name":"a","Sise":"10"}"#,
            r#"{"Name":"a","DriverOpts":{"type":"ssd"}}"#,
            r#"{"Name":"a","ClusterVolumeSpec":{}}"#,
        ] {
            assert_eq!(create(body.as_bytes()).unwrap_err().kind, FaultKind::Invalid, "{body}");
        }
        assert!(create(br#"{"name":"a","driver":"","driveropts":null,"LABELS":{},"ClusterVolumeSpec":null}"#).is_ok());
        for body in [r#"{"Reload":false,"Volume":[],"x":1}"#, r#"{"Volume":[{"Name":"a","Source":"/x","Mode":"ro"}]}"#]
        {
            assert_eq!(initialization(body.as_bytes()).unwrap_err().kind, FaultKind::Invalid, "{body}");
        }
    }

    #[test]
    fn names_of_fields_are_read_whatever_their_case() {
        let wish = initialization(br#"{"reload":true,"VOLUME":[{"name":"a","SOURCE":"/x"}]}"#).unwrap();
        assert!(wish.reload);
        assert_eq!(wish.trees, [TreeSource { name: "a".to_owned(), source: Some(Source::Local("/x".to_owned())) }]);
    }

    #[test]
    fn filters_are_read_in_both_forms_and_others_are_refused() {
        let (method, headers) = (http::Method::GET, http::HeaderMap::new());
        let read = |filters: &str| {
            let query = format!("filters={}", filters.replace('%', "%25").replace('=', "%3D"));
            let call = Call {
                method: &method,
                path: "/volumes",
                params: Vec::new(),
                query: &query,
                headers: &headers,
                length: None,
            };
            filter(&call)
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(read("").unwrap(), TreeFilter::default());
        assert_eq!(read("{}").unwrap(), TreeFilter::default());
        let both = read(r#"{"name":["a","b"],"label":{"k=v=w":true,"l":true},"dangling":["true"]}"#).unwrap();
        assert_eq!(both.names, ["a", "b"]);
        assert_eq!(both.labels, [(text("k"), Some(text("v=w"))), (text("l"), None)]);
        assert!(!both.is_void);
        assert_eq!(
            read(r#"{"label":["size","size=10"]}"#).unwrap(),
            TreeFilter { gib: Some(10), ..TreeFilter::default() }
        );
        for void in [
            r#"{"dangling":["false"]}"#,
            r#"{"dangling":{"0":true}}"#,
            r#"{"driver":["local"]}"#,
            r#"{"label":["size=01"]}"#,
        ] {
            assert!(read(void).unwrap().is_void, "{void}");
        }
        assert!(!read(r#"{"driver":["hyper","x"]}"#).unwrap().is_void);
        let many = serde_json::json!({"name": vec!["a"; MOST_FILTERS + 1]}).to_string();
        for wrong in
            ["x", "[]", r#"{"name":"a"}"#, r#"{"name":[1]}"#, r#"{"status":["x"]}"#, r#"{"dangling":["x"]}"#, &many]
        {
            assert_eq!(read(wrong).unwrap_err().kind, FaultKind::Invalid, "{wrong}");
        }
    }
}
