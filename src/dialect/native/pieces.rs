//! Digests of pieces: those that a client has, and those of a drive. Both are lists in which a number is so many pieces
//! of zeros, and a text the BLAKE3 of the pieces that follow, 32 bytes each, in Base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Answer, Call, KnownOperation, Operation, Places, Reply, Work, query};
use super::openapi::{json_answer, json_body, object, query as parameter, reference};
use super::{Fields, json_reply, limit, transfers};
use crate::domain::{
    Base, Blake3, Command, DigestedPieces, Extent, Fault, Had, Have, Outcome, PIECE, PieceQuery, PieceRun, Principal,
    TransferAction, TransferCommand,
};

/// The most digests in one request or answer: of pieces of 16 GiB.
const MOST: usize = 4096;
/// The most bytes of a request with so many digests, each of which may stand apart.
pub(in crate::dialect) const MAX_HAVE: usize = 256 << 10;

/// The bytes of a digest.
const DIGEST: usize = 32;

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Have,
    Pieces,
}

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Have => &[],
            Self::Pieces => &["from", "limit"],
        }
    }

    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        match (self, outcome) {
            (Self::Have, Outcome::Had(had)) => Some(compared(had)),
            (Self::Pieces, Outcome::Digested(pieces)) => Some(json_reply(StatusCode::OK, &digested(pieces))),
            _ => None,
        }
    }

    fn described(&self) -> Option<Value> {
        Some(match self {
            Self::Have => json!({
                "operationId": "havePieces",
                "requestBody": json_body("HavePieces", true),
                "responses": {"200": json_answer("What is to be sent of it.", "MissingPieces")},
            }),
            Self::Pieces => {
                let from = json!({"type": "integer", "minimum": 0, "default": 0});
                let size = json!({"type": "integer", "minimum": 1, "maximum": MOST, "default": MOST});
                json!({
                    "operationId": "listPieces",
                    "parameters": [
                        parameter("from", &from, "The number of the first piece."),
                        parameter("limit", &size, "The digests in the answer."),
                    ],
                    "responses": {"200": json_answer("The digests of the drive's pieces.", "Pieces")},
                })
            }
        })
    }
}

/// The schemas of digests of pieces, and of a base that may have them.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let id = json!({"type": "string", "format": "uuid"});
    let base = json!({
        "type": ["object", "null"],
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
        "properties": {"drive": id, "snapshot": id, "transfer": id},
        "description": "What may have some of the bytes already.",
    });
    let number = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let next = json!({"type": ["integer", "null"], "description": "The first piece that is left, if any is."});
    let runs = json!({
        "type": "array",
        "items": {"type": ["integer", "string"], "minimum": 1},
        "description": "A number is so many pieces of zeros, a text the BLAKE3 of pieces, 32 bytes each, in Base64.",
    });
    let from = json!({"type": ["integer", "null"], "minimum": 0, "description": "The number of the first piece."});
    let have = json!({
        "type": "object",
        "required": ["pieces"],
        "additionalProperties": false,
        "properties": {"base": reference("Base"), "from": from, "pieces": runs},
    });
    let extent = object(&json!({"offset": {"type": "integer"}, "size": {"type": "integer"}}));
    let missing = object(&json!({
        "missing": {"type": "array", "items": extent},
        "taken": number("The bytes that were taken over."),
        "next": next,
    }));
    let pieces = object(&json!({
        "drive": id,
        "size": number("The bytes of the drive."),
        "piece_size": number("The bytes of each piece but the last."),
        "from": number("The number of the first piece here."),
        "pieces": runs,
        "next": next,
    }));
    vec![("Base", base), ("HavePieces", have), ("MissingPieces", missing), ("Pieces", pieces)]
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        let command = match self {
            Self::Have => {
                let action = TransferAction::Have(Box::new(have(body, true)?));
                Command::Transfer(TransferCommand::On(transfers::id(call)?, action))
            }
            Self::Pieces => Command::Digest(query_of(call)?),
        };
        Ok((Work::Control(command), Answer::of(self)))
    }
}

/// What a client has, by the login of the owner or by the URL of the transfer alone.
pub(in crate::dialect) fn have(body: &[u8], is_owner: bool) -> Result<Have, Fault> {
    let fields = Fields::read(body)?;
    fields.only(&["base", "from", "pieces"])?;
    let told = "must be a list of numbers of pieces of zeros, and of texts of the BLAKE3 of others in Base64";
    let list = fields.get("pieces", told, |value| value.as_array()?.iter().map(run).collect::<Option<Vec<_>>>())?;
    let pieces = list.ok_or_else(|| Fault::invalid("pieces", "pieces is required"))?;
    let digests = |run: &PieceRun| if let PieceRun::Digests(digests) = run { digests.len() } else { 0 };
    if pieces.iter().map(digests).sum::<usize>() > MOST {
        return Err(Fault::invalid("pieces", format!("has more than {MOST} digests; ask several times")));
    }
    let from = fields.number("from", 0..=u64::MAX / PIECE)?.unwrap_or_default();
    Ok(Have { base: base(&fields)?, from, pieces, is_owner })
}

fn run(value: &Value) -> Option<PieceRun> {
    if let Some(count) = value.as_u64() {
        return (1..=u64::MAX / PIECE).contains(&count).then_some(PieceRun::Zeros(count));
    }
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    let (digests, rest) = bytes.as_chunks::<DIGEST>();
    let is_some = !digests.is_empty() && rest.is_empty();
    is_some.then(|| PieceRun::Digests(digests.iter().copied().map(Blake3).collect()))
}

/// The base that a body names.
pub(super) fn base(fields: &Fields) -> Result<Option<Base>, Fault> {
    let told = "must be an object such as {\"drive\": \"UUID\"}, or one with a snapshot or a transfer";
    fields.get("base", told, |value| {
        let mut members = value.as_object()?.iter();
        let (kind, id) = members.next().filter(|_| members.next().is_none())?;
        let id = id.as_str()?;
        Some(match kind.as_str() {
            "drive" => Base::Drive(id.parse().ok()?),
            "snapshot" => Base::Snapshot(id.parse().ok()?),
            "transfer" => Base::Transfer(id.parse().ok()?),
            _ => return None,
        })
    })
}

fn query_of(call: &Call) -> Result<PieceQuery, Fault> {
    let most = u32::try_from(MOST).unwrap_or(u32::MAX);
    let mut asked = PieceQuery { drive: call.volume_id()?, from: 0, limit: most };
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "from" => {
                let told = |_| Fault::invalid("from", "must be the number of a piece");
                asked.from = value.parse().map_err(told)?;
            }
            "limit" => asked.limit = limit(&value, most)?,
            _ => return Err(query::unknown(&name)),
        }
    }
    Ok(asked)
}

/// What is to be sent of what a client has.
pub(in crate::dialect) fn compared(had: &Had) -> Reply {
    let extent = |extent: &Extent| json!({"offset": extent.offset, "size": extent.len});
    let missing: Vec<Value> = had.missing.iter().map(extent).collect();
    json_reply(StatusCode::OK, &json!({"missing": missing, "taken": had.taken, "next": had.next}))
}

fn digested(of: &DigestedPieces) -> Value {
    let run = |run: &PieceRun| match run {
        PieceRun::Zeros(count) => Value::from(*count),
        PieceRun::Digests(digests) => {
            STANDARD.encode(digests.iter().flat_map(|digest| digest.0).collect::<Vec<u8>>()).into()
        }
    };
    let pieces: Vec<Value> = of.pieces.iter().map(run).collect();
    json!({
        "drive": of.drive.to_string(),
        "size": of.size.get(),
        "piece_size": PIECE,
        "from": of.from,
        "pieces": pieces,
        "next": of.next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_up_to_their_limits_and_nothing_else_is() {
        let digests = |count: usize| Value::from(STANDARD.encode(vec![7; count * DIGEST]));
        let apart: Vec<Value> = (0..MOST).flat_map(|_| [digests(1), Value::from(1)]).collect();
        for right in
            [json!([]), json!([1]), json!([digests(MOST)]), json!([u64::MAX / PIECE, digests(2)]), apart.into()]
        {
            let body = json!({"pieces": right}).to_string();
            assert!(body.len() <= MAX_HAVE, "{} bytes", body.len());
            assert!(have(body.as_bytes(), true).is_ok());
        }
        for wrong in [
            json!(null),
            json!("AA=="),
            json!([0]),
            json!([-1]),
            json!([u64::MAX]),
            json!([""]),
            json!(["AA=="]),
            json!([digests(MOST), digests(1)]),
            json!([[1]]),
        ] {
            let fault = have(json!({"pieces": wrong}).to_string().as_bytes(), true).expect_err("it is refused");
            assert_eq!(fault.point.as_deref(), Some("pieces"), "{wrong}");
        }
        for wrong in [json!({}), json!({"tape": "x"}), json!({"drive": "x"}), json!("x"), json!({"drive": 1})] {
            let fault =
                have(json!({"pieces": [], "base": wrong}).to_string().as_bytes(), true).expect_err("so is this");
            assert_eq!(fault.point.as_deref(), Some("base"), "{wrong}");
        }
    }
}
