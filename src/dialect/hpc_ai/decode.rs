//! Requests into intents.

use std::fmt;
use std::marker::PhantomData;

use http::{HeaderValue, header};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use super::super::{Call, hyper_sh};
use super::encode::NOT_FOUND;
use super::{FILESYSTEM, Op};
use crate::domain::{
    ByteCount, Command, Fault, FaultKind, LONGEST_NAME, Login, Page, Placement, Principal, Reach, Secret, VolumeKind,
    VolumeQuery, VolumeRef, VolumeSpec, is_tree_name,
};

/// The most characters in a name, a type or a region.
const MAX_TEXT: usize = 255;
/// What a list has on a page when nothing is said of it.
const PAGE_SIZE: u64 = 10;
/// The most that a page can have: its records are in memory at once.
const MAX_PAGE_SIZE: u64 = 1000;

pub(super) fn decode(op: Op, call: &Call, caller: &Principal, body: &[u8]) -> Result<Command, Fault> {
    check_media_type(call)?;
    match op {
        Op::Create => create(caller, body).map(|spec| Command::Create(vec![spec])),
        Op::List => list(body),
        Op::Delete => delete(body),
    }
}

pub(super) fn login(call: &Call, body: &[u8]) -> Result<Login, Fault> {
    check_media_type(call)?;
    credentials(body)
}

/// Also a body that names no type is refused: a page of another site can send one, with the cookie.
fn check_media_type(call: &Call) -> Result<(), Fault> {
    let is_json = |value: &HeaderValue| {
        let value = value.as_bytes();
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii();
        media_type.eq_ignore_ascii_case(b"application/json")
    };
    let mut types = call.headers.get_all(header::CONTENT_TYPE).iter();
    if types.next().is_some_and(is_json) && types.next().is_none() {
        return Ok(());
    }
    let told = "the body must be JSON, sent as Content-Type: application/json";
    Err(Fault::new(FaultKind::UnsupportedMediaType, told))
}

// Values and not texts or numbers, so that a refusal is worded here: the words of the parser repeat what they refuse,
// which may be a password. A member that is there twice or is not known is refused by what is derived.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    username: Option<Value>,
    password: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: Option<Value>,
    #[serde(rename = "sizeGB")]
    size: Option<Value>,
    region: Option<Value>,
    #[serde(rename = "volumeType")]
    volume_type: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListBody {
    pager: Option<Members<Pager>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pager {
    #[serde(rename = "currentPage")]
    page: Option<Value>,
    #[serde(rename = "pageSize")]
    size: Option<Value>,
    /// Clients send a pager back as it was given to them.
    #[serde(rename = "total")]
    _total: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    #[serde(rename = "volumeId")]
    id: Option<Value>,
}

fn credentials(body: &[u8]) -> Result<Login, Fault> {
    let LoginBody { username, password } = read(body)?;
    let (Some(Value::String(user)), Some(Value::String(password))) = (username, password) else {
        return Err(Fault::invalid("username", "username and password must be there, both as text"));
    };
    Ok(Login { user, password: Secret::new(password) })
}

fn create(caller: &Principal, body: &[u8]) -> Result<VolumeSpec, Fault> {
    let CreateBody { name, size, region, volume_type } = read(body)?;
    let (name, size) = (text("name", name)?, size_of(size.as_ref())?);
    let (region, volume_type) = (text("region", region)?, text("volumeType", volume_type)?);
    let kind = if volume_type == FILESYSTEM { VolumeKind::Tree } else { VolumeKind::Drive };
    if kind == VolumeKind::Tree {
        check_tree_name(&name)?;
    }
    let placement = Some(Placement { region, volume_type, user: caller.user.clone() });
    Ok(VolumeSpec { kind, name, size: Some(size), placement, ..VolumeSpec::default() })
}

fn list(body: &[u8]) -> Result<Command, Fault> {
    let Pager { page, size, .. } = read::<ListBody>(body)?.pager.map(|Members(pager)| pager).unwrap_or_default();
    let page = whole_or("currentPage", page.as_ref(), 1, u64::MAX)?;
    let size = whole_or("pageSize", size.as_ref(), PAGE_SIZE, MAX_PAGE_SIZE)?;
    // Nobody has as many volumes as the last page that can be counted has before it. A size is at most `MAX_PAGE_SIZE`.
    let page = Page { limit: Some(size as u32), offset: (page - 1).saturating_mul(size) };
    Ok(Command::List(VolumeQuery::All(page)))
}

fn delete(body: &[u8]) -> Result<Command, Fault> {
    match read::<DeleteBody>(body)?.id {
        Some(Value::String(id)) => {
            let id = id.parse().map_err(|_| Fault::new(FaultKind::NotFound, NOT_FOUND))?;
            Ok(Command::Remove { volumes: vec![VolumeRef::Any(id)], reach: Reach::default() })
        }
        _ => Err(Fault::invalid("volumeId", "volumeId must be there, as text")),
    }
}

/// The one JSON object of a body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // serde_json refuses nesting deeper than 128, so no body can exhaust the stack.
    let read = serde_json::from_slice(body).map(|Members(members)| members);
    read.map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        let told = match error.classify() {
            Category::Data => format!("the body is no object, or something in it is not known or there twice: {place}"),
            Category::Io | Category::Syntax | Category::Eof => format!("the body is not JSON: {place}"),
        };
        Fault::invalid("body", told)
    })
}

/// What is read from an object only; a derived reader would take a list of the members as well.
struct Members<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Object(PhantomData))
    }
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = Members<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Members)
    }
}

fn text(name: &str, value: Option<Value>) -> Result<String, Fault> {
    let is_fit =
        |text: &String| !text.is_empty() && text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control);
    match value {
        Some(Value::String(text)) if is_fit(&text) => Ok(text),
        _ => {
            let told = format!("{name} must be a text of 1 to {MAX_TEXT} characters, none of them a control character");
            Err(Fault::invalid(name, told))
        }
    }
}

/// A tree is also known by its name to the API that fills it.
fn check_tree_name(name: &str) -> Result<(), Fault> {
    if hyper_sh::RESERVED.contains(&name) {
        return Err(Fault::invalid("name", format!("a filesystem volume cannot have the name {name:?}")));
    }
    if !is_tree_name(name) {
        let told = format!(
            "the name of a filesystem volume has 1 to {LONGEST_NAME} letters, digits, '_', '.' and '-', and begins \
             with a letter or digit"
        );
        return Err(Fault::invalid("name", told));
    }
    Ok(())
}

/// The documents say "GB"; that is 2^30 bytes here, as in the other dialects that count so.
fn size_of(value: Option<&Value>) -> Result<ByteCount, Fault> {
    let count = value.and_then(whole).filter(|count| *count > 0);
    let size = count.and_then(|count| count.checked_mul(1 << 30)).and_then(ByteCount::new);
    size.ok_or_else(|| Fault::invalid("sizeGB", "sizeGB must be a whole number of GB, 1 or more, as in 200"))
}

/// A number from 1 to `most`; `other` where there is none.
fn whole_or(name: &str, value: Option<&Value>, other: u64, most: u64) -> Result<u64, Fault> {
    match value {
        None => Ok(other),
        Some(value) => whole(value)
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| Fault::invalid(name, format!("{name} must be a whole number from 1 to {most}"))),
    }
}

/// A whole number, also as JavaScript may write it: with a fraction of zero or an exponent.
fn whole(value: &Value) -> Option<u64> {
    // Up to 2^53 every whole number is a float, and none has a fraction that was lost.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let as_float = |float: &f64| (0.0..=EXACT).contains(float) && float.fract() == 0.0;
    value.as_u64().or_else(|| value.as_f64().filter(as_float).map(|float| float as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::super::openstack;
    use super::*;

    fn made(body: &str) -> Result<VolumeSpec, Fault> {
        create(&openstack::fixture_principal(false), body.as_bytes())
    }

    fn with(name: &str, value: &Value) -> String {
        let mut body = json!({"name": "n", "sizeGB": 200, "region": "r", "volumeType": "highspeedstorage"});
        body[name] = value.clone();
        body.to_string()
    }

    fn refused(body: &str) -> String {
        let fault = made(body).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid, "{body}");
        fault.told
    }

    #[test]
    fn a_size_is_a_whole_number_of_gib() {
        for size in [json!(200), json!(200.0), json!(2e2)] {
            assert_eq!(made(&with("sizeGB", &size)).unwrap().size, Some(ByteCount::mib(200 << 10)));
        }
        let most = u64::MAX >> 31;
        assert!(made(&with("sizeGB", &json!(most))).unwrap().size.unwrap().get() == most << 30);
        let wrong = [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(most + 1),
            json!(u64::MAX),
            json!(1e300),
            json!(-1e300),
            json!(9_007_199_254_740_994.0),
            json!("200"),
            json!(null),
            json!(true),
            json!([200]),
            json!({}),
        ];
        for size in wrong {
            assert!(refused(&with("sizeGB", &size)).contains("sizeGB"), "{size}");
        }
    }

    #[test]
    fn a_text_is_neither_empty_nor_long_nor_holds_control_characters() {
        assert!(made(&with("name", &json!("\u{e9}".repeat(255)))).is_ok());
        for name in ["name", "region", "volumeType"] {
            for value in [json!(""), json!("x".repeat(256)), json!("a\nb"), json!(null), json!(7), json!(["x"])] {
                assert!(refused(&with(name, &value)).starts_with(name), "{name} {value}");
            }
        }
    }

    #[test]
    fn a_filesystem_has_a_name_that_stands_in_a_path() {
        let of = |name: &str| {
            let body = json!({"name": name, "sizeGB": 1, "region": "r", "volumeType": "filesystem"});
            made(&body.to_string())
        };
        assert_eq!(of("vol-1.x").unwrap().kind, VolumeKind::Tree);
        for name in ["a b", "../x", "-x", "create", "initialize", "uploadfinish", &"x".repeat(129)] {
            assert_eq!(of(name).unwrap_err().kind, FaultKind::Invalid, "{name}");
        }
        assert_eq!(made(&with("name", &json!("a b"))).unwrap().kind, VolumeKind::Drive);
    }

    #[test]
    fn bodies_that_are_no_object_or_say_a_thing_twice_are_refused() {
        for body in ["", " ", "1", "null", "[]", "[\"n\", 200, \"r\", \"t\"]", "{", "{} {}", "\u{feff}{}"] {
            assert!(refused(body).contains("body"), "{body}");
        }
        let twice = r#"{"name": "a", "name": "b", "sizeGB": 1, "region": "r", "volumeType": "t"}"#;
        assert!(refused(twice).contains("twice"));
        let deep = format!("{{\"x\": {}", "[".repeat(60_000));
        refused(&deep);
        refused(&format!("{{\"name\": {}1{}}}", "[".repeat(200), "]".repeat(200)));
        assert!(refused(&with("other", &json!({"a": [1, 2]}))).contains("not known"));
        assert!(list(br#"{"pager": {"currentPage": 1, "other": 1}}"#).is_err());
        assert!(list(br#"{"pager": {"currentPage": 1, "pageSize": 10, "total": 25}}"#).is_ok());
    }

    #[test]
    fn a_login_tells_nothing_of_what_it_refuses() {
        let secret = "hunter2";
        for body in [
            json!({"username": "a", "password": [secret]}).to_string(),
            json!({"username": [secret], "password": "x"}).to_string(),
            json!({"password": secret}).to_string(),
            format!("{{\"username\": \"a\", \"password\": \"{secret}\", \"password\": \"{secret}\"}}"),
            format!("{{\"username\": \"a\", \"password\": {secret}"),
        ] {
            let fault = credentials(body.as_bytes()).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid);
            assert!(!format!("{fault:?}").contains(secret), "{fault:?}");
        }
        let login = credentials(br#"{"username": "a", "password": "hunter2"}"#).unwrap();
        assert!(!format!("{login:?}").contains(secret));
        assert_eq!((&*login.user, login.password.reveal()), ("a", secret));
    }

    #[test]
    fn a_page_is_the_first_ten_unless_another_is_asked_for() {
        let page = |body: &str| match list(body.as_bytes()) {
            Ok(Command::List(VolumeQuery::All(page))) => Some((page.offset, page.limit.unwrap())),
            Ok(other) => panic!("{other:?}"),
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::Invalid);
                None
            }
        };
        assert_eq!(page("{}"), Some((0, 10)));
        assert_eq!(page(r#"{"pager": null}"#), Some((0, 10)));
        assert_eq!(page(r#"{"pager": {"currentPage": 3}}"#), Some((20, 10)));
        let last = r#"{"pager": {"currentPage": 18446744073709551615, "pageSize": 1000}}"#;
        assert_eq!(page(last), Some((u64::MAX, 1000)));
        for wrong in ["0", "-1", "1.5", "\"1\"", "true", "[]", "18446744073709551616"] {
            assert_eq!(page(&format!(r#"{{"pager": {{"currentPage": {wrong}}}}}"#)), None, "{wrong}");
            assert_eq!(page(&format!(r#"{{"pager": {{"pageSize": {wrong}}}}}"#)), None, "{wrong}");
        }
        assert_eq!(page(r#"{"pager": {"pageSize": 1001}}"#), None);
        assert_eq!(page(r#"{"pager": 7}"#), None);
        assert_eq!(page(r#"{"pager": [3, 10]}"#), None);
        assert_eq!(page(r#"{"pager": {}, "pager": {}}"#), None);
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, member in "\\{\"(pager|name|sizeGB|volumeId)\": ?.{0,24}\\}") {
            for body in [&body[..], member.as_bytes()] {
                let _ = (credentials(body).is_ok(), made(&String::from_utf8_lossy(body)).is_ok(), list(body).is_ok(), delete(body).is_ok());
            }
        }

        #[test]
        fn no_number_panics(float: f64) {
            let _ = whole(&json!(float));
        }
    }
}
