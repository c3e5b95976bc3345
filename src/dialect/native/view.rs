//! A transfer as clients see it.

use serde_json::{Map, Value, json};

use super::date;
use super::openapi::{object, reference, with};
use crate::domain::{Base, ByteCount, Digests, Limiter, Media, Origin, TransferId, TransferSeen, TransferState};

/// The whole transfer, but for the secret of its URL.
pub(in crate::dialect) fn whole(seen: &TransferSeen) -> Value {
    let extents = seen.durable.ranges().iter();
    let extents: Vec<Value> =
        extents.map(|range| json!({"offset": range.start, "size": range.end - range.start})).collect();
    let mut object = in_list(seen);
    object["extents"] = extents.into();
    object
}

/// A transfer in a list, which tells how much has come and not what.
pub(super) fn in_list(seen: &TransferSeen) -> Value {
    let transfer = &seen.transfer;
    let size = transfer.size.map(ByteCount::get);
    let result = || {
        let Digests { sha256, blake3, pieces } = transfer.digests;
        json!({"drive": transfer.volume.to_string(), "size": size, "sha-256": told(sha256.map(|one| one.0)),
                "blake3": told(blake3.map(|one| one.0)), "blake3-pieces": told(pieces.map(|one| one.0))})
    };
    let mut object = json!({
        "id": transfer.id.to_string(),
        "state": transfer.state.word(),
        "reason": transfer.reason,
        "name": transfer.name,
        "reference": transfer.reference,
        "size": size,
        "data": transfer.data.map(ByteCount::get),
        "media": media(transfer.media),
        "drive": transfer.volume.to_string(),
        "digest": asserted(&transfer.asserted),
        "created": date(transfer.created),
        "updated": date(transfer.updated),
        "expires": date(transfer.expires()),
        "epoch": transfer.epoch,
        "durable": seen.durable.total(),
        "received": seen.received,
        "parts": seen.parts,
        "bytes_per_second": seen.rate,
        "limited_by": seen.limit.map(limiter),
        "result": (transfer.state == TransferState::Done).then(result),
    });
    match &transfer.origin {
        Some(Origin::Base(base)) => object["base"] = named(*base),
        Some(Origin::Partial) => object["is_partial"] = true.into(),
        Some(Origin::PutTogether(parts)) => {
            object["put_together_from"] = parts.iter().map(TransferId::to_string).collect::<Vec<_>>().into();
        }
        None => {}
    }
    object
}

fn named(base: Base) -> Value {
    match base {
        Base::Drive(id) => json!({"drive": id.to_string()}),
        Base::Snapshot(id) => json!({"snapshot": id.to_string()}),
        Base::Transfer(id) => json!({"transfer": id.to_string()}),
    }
}

/// The schemas of a transfer.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let extent = object(&json!({"offset": {"type": "integer"}, "size": {"type": "integer"}}));
    let extents = json!({
        "type": "array",
        "items": extent,
        "description": "The bytes that are durable, in ascending order.",
    });
    let whole = with(listed(), &json!({"extents": extents}));
    let ticket = json!({
        "type": "string",
        "format": "uri",
        "description": "The URL that takes the parts: a secret, told once.",
    });
    vec![
        ("TransferInList", listed()),
        ("Transfer", whole.clone()),
        ("NewTransfer", with(whole, &json!({"ticket": ticket}))),
        ("AssertedDigests", digests(&["string"])),
    ]
}

/// The schema of what [`in_list`] writes.
fn listed() -> Value {
    let id = json!({"type": "string", "format": "uuid"});
    let time = json!({"type": "string", "format": "date-time"});
    let text = json!({"type": ["string", "null"]});
    let number = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let size = json!({
        "type": ["integer", "null"],
        "description": "The bytes that come in all; null while that is not known.",
    });
    let mut result = with(digests(&["string", "null"]), &json!({"drive": id, "size": size}));
    result["type"] = json!(["object", "null"]);
    result["description"] = json!("What was made of it, once it is done.");
    result["required"] = json!(["drive", "size", "sha-256", "blake3", "blake3-pieces"]);
    let mut listed = object(&json!({
        "id": id,
        "state": {"type": "string", "enum": TransferState::ALL.map(TransferState::word)},
        "reason": {"type": ["string", "null"], "description": "Why it failed or ended, for people."},
        "name": {"type": "string", "description": "The name of the drive."},
        "reference": text,
        "size": size,
        "data": {"type": ["integer", "null"], "description": "How many of them are not zeros, as the client has told."},
        "media": {"type": "string", "enum": ["disk", "cdrom"]},
        "drive": id,
        "digest": {"anyOf": [reference("AssertedDigests"), {"type": "null"}]},
        "created": time,
        "updated": time,
        "expires": time,
        "epoch": number("How often the server has taken it up."),
        "durable": number("The count of bytes that are durable."),
        "received": number("The count of bytes that have come, durable or not."),
        "parts": number("The parts that come at present."),
        "bytes_per_second": number("The mean rates of these parts, each since it began, together."),
        "limited_by": {"type": ["string", "null"], "enum": ["peer", "digest", "disk", "memory", null]},
        "result": result,
    }));
    // Of few transfers.
    listed["properties"]["base"] = reference("Base");
    listed["properties"]["is_partial"] =
        json!({"type": "boolean", "description": "Whether it becomes a part of another."});
    listed["properties"]["put_together_from"] =
        json!({"type": "array", "items": id, "description": "The transfers of which it is put together."});
    listed
}

/// Digests by the names of their algorithms, none of which must be there.
pub(super) fn digests(types: &[&str]) -> Value {
    let digest = json!({"type": types, "pattern": "^[0-9a-fA-F]{64}$"});
    let mut pieces = digest.clone();
    pieces["description"] = "BLAKE3 of a list: of each 4 MiB piece its BLAKE3, or 32 zero bytes if it is zero.".into();
    json!({"type": "object", "properties": {"sha-256": digest, "blake3": digest, "blake3-pieces": pieces}})
}

/// The digests that were asserted, by the names of their algorithms.
fn asserted(digests: &Digests) -> Option<Value> {
    let mut object = Map::new();
    let named = [
        ("sha-256", digests.sha256.map(|one| one.0)),
        ("blake3", digests.blake3.map(|one| one.0)),
        ("blake3-pieces", digests.pieces.map(|one| one.0)),
    ];
    for (name, digest) in named {
        object.extend(told(digest).map(|digest| (name.to_owned(), digest.into())));
    }
    (!object.is_empty()).then(|| object.into())
}

fn told(digest: Option<[u8; 32]>) -> Option<String> {
    digest.map(hex::encode)
}

const fn media(media: Media) -> &'static str {
    match media {
        Media::Disk => "disk",
        Media::Cdrom => "cdrom",
    }
}

const fn limiter(limit: Limiter) -> &'static str {
    match limit {
        Limiter::Peer => "peer",
        Limiter::Digest => "digest",
        Limiter::Disk => "disk",
        Limiter::Memory => "memory",
    }
}
