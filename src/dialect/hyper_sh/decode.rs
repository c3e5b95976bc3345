//! Requests into intents.

use http::header;
use serde_json::{Map, Value};

use super::super::{Call, codings, query};
use super::{Op, RESERVED};
use crate::domain::{
    ByteCount, Command, Fault, FaultKind, Initialization, Intent, LONGEST_NAME, Secret, SessionCommand, Source,
    TreeCommand, TreeSource, UnpackPlan, is_tree_name,
};

pub(in super::super) fn decode(op: Op, call: &Call) -> Result<Intent, Fault> {
    let name = || call.param("name").to_owned();
    let command = match op {
        Op::List => Command::Tree(TreeCommand::List),
        Op::Create => Command::Tree(create(call.body)?),
        Op::Show => Command::Tree(TreeCommand::Show(name())),
        Op::Delete => Command::Tree(TreeCommand::Delete { name: name(), force: is_set(call, "force") }),
        Op::Download => Command::Tree(TreeCommand::OpenDownload(name())),
        Op::Initialize => Command::Session(SessionCommand::Initialize(initialization(call.body)?)),
        Op::Finish => {
            let token =
                parameter(call, "session").ok_or_else(|| Fault::invalid("session", "the query names no session"))?;
            Command::Session(SessionCommand::Finish(Secret::new(token)))
        }
        Op::Upload => return upload(call).map(Intent::Unpack),
    };
    Ok(Intent::Control(command))
}

fn parameter(call: &Call, name: &str) -> Option<String> {
    query::pairs(call.query).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// As the Docker API reads truth.
fn is_set(call: &Call, name: &str) -> bool {
    parameter(call, name).is_some_and(|value| ["1", "true", "True"].contains(&value.as_str()))
}

fn upload(call: &Call) -> Result<UnpackPlan, Fault> {
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

fn create(body: &[u8]) -> Result<TreeCommand, Fault> {
    let object = Object::read(body)?;
    if let Some(driver) = object.text("Driver")?
        && !["", "hyper", "local"].contains(&driver.as_str())
    {
        return Err(Fault::invalid("Driver", format!("there is no volume driver {driver:?}; leave it out")));
    }
    let options = object.object("DriverOpts")?;
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
    Ok(TreeCommand::Create { name, size, labels: labels.0 })
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
    fn names_of_fields_are_read_whatever_their_case() {
        let wish = initialization(br#"{"reload":true,"VOLUME":[{"name":"a","SOURCE":"/x"}]}"#).unwrap();
        assert!(wish.reload);
        assert_eq!(wish.trees, [TreeSource { name: "a".to_owned(), source: Some(Source::Local("/x".to_owned())) }]);
    }
}
