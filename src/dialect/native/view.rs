//! A transfer as clients see it.

use serde_json::{Map, Value, json};

use super::date;
use crate::domain::{ByteCount, Digests, Limiter, Media, TransferSeen, TransferState};

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
        let Digests { sha256, blake3 } = transfer.digests;
        json!({"drive": transfer.volume.to_string(), "size": size, "sha-256": told(sha256.map(|one| one.0)),
                "blake3": told(blake3.map(|one| one.0))})
    };
    json!({
        "id": transfer.id.to_string(),
        "state": transfer.state.word(),
        "reason": transfer.reason,
        "name": transfer.name,
        "reference": transfer.reference,
        "size": size,
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
    })
}

/// The digests that were asserted, by the names of their algorithms.
fn asserted(digests: &Digests) -> Option<Value> {
    let mut object = Map::new();
    let named = [("sha-256", digests.sha256.map(|one| one.0)), ("blake3", digests.blake3.map(|one| one.0))];
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
