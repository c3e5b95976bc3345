//! Receipts of drives, and the keys that check them.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Anonymous, Answer, Call, KnownOperation, OpenOperation, Operation, Places, Reply, Work};
use super::openapi::{json_answer, object};
use super::{json_reply, transfers, view};
use crate::domain::{Command, Fault, Outcome, Principal, PublicKey, ReceiptOf};

/// What a receipt is requested by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    OfDrive,
    OfTransfer,
}

impl Operation for Op {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Receipt(signed) = outcome else { return None };
        Some(json_reply(StatusCode::OK, &serde_json::to_value(signed).ok()?))
    }

    fn described(&self) -> Option<Value> {
        let id = match self {
            Self::OfDrive => "receiptOfDrive",
            Self::OfTransfer => "receiptOfTransfer",
        };
        let responses = json!({"200": json_answer("The receipt.", "SignedReceipt")});
        Some(json!({"operationId": id, "responses": responses}))
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        let of = match self {
            Self::OfDrive => ReceiptOf::Drive(call.volume_id()?),
            Self::OfTransfer => ReceiptOf::Transfer(transfers::id(call)?),
        };
        Ok((Work::Control(Command::Receipt(of)), Answer::of(self)))
    }
}

/// The keys that check receipts, as a set (RFC 7517 section 5).
#[derive(Debug)]
pub(super) struct Keys;

impl Operation for Keys {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Keys(keys) = outcome else { return None };
        let keys: Vec<Value> = keys.iter().map(key).collect();
        Some(json_reply(StatusCode::OK, &json!({"keys": keys})))
    }

    fn described(&self) -> Option<Value> {
        let responses = json!({"200": json_answer("A JSON Web Key Set (RFC 7517).", "Keys")});
        Some(json!({"operationId": "keys", "responses": responses}))
    }
}

impl OpenOperation for Keys {
    fn decode(&'static self, _: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Keys, Answer::of(self)))
    }
}

fn key(key: &PublicKey) -> Value {
    json!({"kty": key.kty, "crv": key.crv, "kid": key.kid, "x": key.x, "alg": "EdDSA", "use": "sig"})
}

/// The schemas of a receipt and of the keys.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let key = ["kty", "crv", "kid", "x", "alg", "use"].map(|name| (name.to_owned(), json!({"type": "string"})));
    let keys = json!({"type": "array", "items": object(&Value::Object(key.into_iter().collect()))});
    let jws = json!({"type": "string", "description": "The receipt as a compact JWS (RFC 7515) by Ed25519."});
    vec![
        ("SignedReceipt", object(&json!({"receipt": receipt(), "jws": jws}))),
        ("Keys", object(&json!({"keys": keys}))),
    ]
}

/// The schema of [`Receipt`](crate::domain::Receipt).
fn receipt() -> Value {
    let id = json!({"type": "string", "format": "uuid"});
    let time = json!({"type": "string", "format": "date-time"});
    let allocated = json!({"type": ["integer", "null"], "description": "The bytes that it takes on the disk."});
    let mut digest = view::digests(&["string", "null"]);
    digest["required"] = json!(["sha-256", "blake3", "blake3-pieces"]);
    object(&json!({
        "issuer": {"type": "string"},
        "issued": time,
        "drive": id,
        "name": {"type": "string"},
        "tenant": id,
        "user": {"type": ["string", "null"]},
        "transfer": {"type": ["string", "null"], "format": "uuid"},
        "size": {"type": "integer"},
        "allocated": allocated,
        "digest": digest,
        "created": time,
        "stored": {"type": ["string", "null"], "format": "date-time"},
        "checked": {"type": ["string", "null"], "format": "date-time"},
        "checked_from": {"type": ["string", "null"], "format": "date-time"},
    }))
}
