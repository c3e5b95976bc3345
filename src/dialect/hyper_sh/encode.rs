//! Outcomes and faults into replies.

use http::header::HeaderValue;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::{Call, Places, Reply, bare, direct, reply};
use super::{DRIVER, Op, SIZE, upload_path};
use crate::domain::{Began, Fault, Outcome, UnixTime, Volume};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, outcome: &Outcome, places: &Places) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::List, Outcome::Listing(trees)) => {
            let volumes: Vec<Value> = trees.volumes.iter().map(volume).collect();
            json_reply(StatusCode::OK, &json!({"Volumes": volumes, "Warnings": null}))
        }
        (Op::Create, Outcome::Created(trees)) => json_reply(StatusCode::CREATED, &volume(trees.first()?)),
        (Op::Show, Outcome::Volume(tree)) => json_reply(StatusCode::OK, &volume(&tree.volume)),
        (Op::Delete, Outcome::Removed) => bare(StatusCode::NO_CONTENT),
        (Op::Download, Outcome::Download { id, token }) => direct::redirect(*id, token, places)?,
        (Op::Initialize, Outcome::Began(began)) => {
            let mut reply = json_reply(StatusCode::OK, &began.as_ref().map_or(json!({}), |began| told(began, places)));
            // It tells secrets.
            reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            reply
        }
        (Op::Finish, Outcome::Finished) => bare(StatusCode::OK),
        _ => return None,
    })
}

/// Of an upload the client takes 200 alone.
pub(super) fn uploaded(outcome: &Outcome) -> Option<Reply> {
    matches!(outcome, Outcome::Unpacked).then(|| bare(StatusCode::OK))
}

/// A line of text: the vendor's client shows the body as it is. The status numbers are those of the direct side.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    reply(direct::status(fault.kind), "text/plain; charset=utf-8", format!("{}\n", fault.told))
}

fn told(began: &Began, places: &Places) -> Value {
    // The client adds `?cookie=` to each of these and follows no redirect.
    let uploader = |id| Value::from(format!("{}{}", places.direct, upload_path(id)));
    let uploaders: Map<String, Value> = began.uploads.iter().map(|(name, id)| (name.clone(), uploader(*id))).collect();
    json!({"Session": began.token.reveal(), "Cookie": began.cookie.reveal(), "Uploaders": uploaders})
}

fn volume(tree: &Volume) -> Value {
    let mut labels = tree.meta.clone();
    // Where the vendor's client looks for the size of its listing.
    labels.insert(SIZE.to_owned(), tree.size.gib_up().to_string().into());
    json!({
        "Name": tree.name,
        "Driver": DRIVER,
        "Mountpoint": "",
        "CreatedAt": date(tree.created),
        "Labels": labels,
        "Scope": "global",
        "Options": {"size": tree.size.gib_up().to_string()},
        "Status": {
            "Id": tree.id.to_string(),
            "Initialized": tree.content.is_some(),
            "Source": tree.source,
        },
    })
}

fn date(time: UnixTime) -> String {
    Timestamp::from_millisecond(time.0).map(|time| time.to_string()).unwrap_or_default()
}

fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}
