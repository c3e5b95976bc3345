//! Receipts of drives, and the keys that check them.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Anonymous, Answer, Call, KnownOperation, OpenOperation, Operation, Places, Reply, Work};
use super::{json_reply, transfers};
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
}

impl OpenOperation for Keys {
    fn decode(&'static self, _: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Keys, Answer::of(self)))
    }
}

fn key(key: &PublicKey) -> Value {
    json!({"kty": key.kty, "crv": key.crv, "kid": key.kid, "x": key.x, "alg": "EdDSA", "use": "sig"})
}
