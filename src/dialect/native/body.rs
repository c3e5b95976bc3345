//! JSON bodies: one object. A member that is not known or is there twice is refused; `null` is as good as absent.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::view;

use crate::domain::{Blake3, ByteCount, Completion, Digests, Fault, Sha256};

const SHA_256: &str = "sha-256";
const BLAKE3: &str = "blake3";
const PIECE_LIST: &str = "blake3-pieces";

/// The members of the object in a body.
pub(in crate::dialect) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads the object of a body.
    pub(in crate::dialect) fn read(body: &[u8]) -> Result<Self, Fault> {
        if body.trim_ascii().is_empty() {
            return Err(Fault::invalid("body", "the body is empty; this call takes a JSON object"));
        }
        // serde_json refuses nesting deeper than 128, so no body can exhaust the stack.
        let Members(members) = serde_json::from_slice(body).map_err(|error| {
            let told = format!("the body is no JSON object: line {}, column {}", error.line(), error.column());
            Fault::invalid("body", told).because(error)
        })?;
        let mut object = Map::new();
        for (name, value) in members {
            if object.contains_key(&name) {
                return Err(Fault::invalid(&name, format!("{name} is there twice")));
            }
            object.insert(name, value);
        }
        object.retain(|_, value| !value.is_null());
        Ok(Self(object))
    }

    /// Reads the object of a body that may be left out.
    pub(super) fn read_any(body: &[u8]) -> Result<Self, Fault> {
        if body.trim_ascii().is_empty() { Ok(Self(Map::new())) } else { Self::read(body) }
    }

    /// Refuses all members but these.
    pub(in crate::dialect) fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Fault::invalid(name, format!("this call takes no member {name:?}"))),
            None => Ok(()),
        }
    }

    /// A member, unless it is absent; a fault that says `told` of it when it cannot be read.
    pub(in crate::dialect) fn get<T>(
        &self,
        name: &str,
        told: &str,
        as_type: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let wrong = || Fault::invalid(name, format!("{name} {told}"));
        self.0.get(name).map(|value| as_type(value).ok_or_else(wrong)).transpose()
    }

    /// A whole number.
    pub(in crate::dialect) fn number(&self, name: &str, within: RangeInclusive<u64>) -> Result<Option<u64>, Fault> {
        let told = format!("must be a whole number from {} to {}", within.start(), within.end());
        self.get(name, &told, |value| value.as_u64().filter(|number| within.contains(number)))
    }

    /// The size of a transfer in bytes.
    pub(super) fn size(&self) -> Result<Option<ByteCount>, Fault> {
        Ok(self.number("size", 1..=ByteCount::MAX.get())?.and_then(ByteCount::new))
    }

    /// What is asserted of all bytes.
    pub(super) fn digest(&self) -> Result<Digests, Fault> {
        let told = "must be an object such as {\"sha-256\": \"64 hex digits\"}";
        let mut asserted = Digests::NONE;
        let Some(digests) = self.get("digest", told, |value| value.as_object().cloned())? else { return Ok(asserted) };
        for (name, value) in digests.iter().filter(|(_, value)| !value.is_null()) {
            let wrong = |told: &str| Fault::invalid(format!("digest.{name}"), told);
            let digest = || {
                let digest = value.as_str().and_then(digest_of);
                digest.ok_or_else(|| wrong("a digest has 64 hex digits"))
            };
            match name.as_str() {
                SHA_256 => asserted.sha256 = Some(Sha256(digest()?)),
                BLAKE3 => asserted.blake3 = Some(Blake3(digest()?)),
                PIECE_LIST => asserted.pieces = Some(Blake3(digest()?)),
                _ => {
                    let told = "this algorithm is not known; assert a digest by sha-256, blake3 or blake3-pieces";
                    return Err(wrong(told));
                }
            }
        }
        Ok(asserted)
    }

    /// What is asserted of a transfer at its end.
    pub(in crate::dialect) fn completion(&self) -> Result<Completion, Fault> {
        Ok(Completion { size: self.size()?, asserted: self.digest()? })
    }
}

/// The schemas of bodies, and of what several have.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let completion = json!({"size": size(), "digest": digest()});
    vec![("Completion", json!({"type": "object", "additionalProperties": false, "properties": completion}))]
}

/// The schema of [`Fields::size`].
pub(super) fn size() -> Value {
    json!({"type": ["integer", "null"], "minimum": 1, "maximum": ByteCount::MAX.get()})
}

/// The schema of [`Fields::digest`].
pub(super) fn digest() -> Value {
    let mut digest = view::digests(&["string", "null"]);
    digest["type"] = json!(["object", "null"]);
    digest["additionalProperties"] = false.into();
    digest["description"] = "What the bytes of the drive must have.".into();
    digest
}

/// The bytes of a digest in hex.
pub(in crate::dialect) fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

/// The members of an object as they were sent: a map would keep one of two with the same name.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
