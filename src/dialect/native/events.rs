//! The progress of a transfer as events that the server sends (the event streams of the HTML standard).
//!
//! An event has what `GET` of the transfer has, and is of the type `end` if it is the last. Its id is the mark of the
//! transfer, so that a client that comes back with `Last-Event-ID` is not told again what it knows.

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};

use serde_json::{Value, json};

use super::super::{Answer, Call, KnownOperation, Operation, Places, Reply, Work, bare, reply, resumable};
use super::{transfers, view};
use crate::domain::{Fault, Outcome, Principal, TransferSeen};

/// The id of the last event that the client has.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx sends an answer on only when it has much of it, unless it is told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Milliseconds after which a client whose line broke comes back.
const RETRY: u32 = 2000;

/// A comment, which clients pass over.
const COMMENT: &str = ":\n\n";

/// The stream of events, whose first answer has its head and the first event, and each later one the next.
#[derive(Debug)]
pub(super) struct Events;

impl Operation for Events {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Watched { seen, is_known } = outcome else { return None };
        let mut reply = match (is_known, seen.transfer.state.has_ended()) {
            // Clients of event streams come back after any other answer.
            (true, true) => bare(StatusCode::NO_CONTENT),
            (true, false) => reply(StatusCode::OK, "text/event-stream", COMMENT),
            (false, _) => reply(StatusCode::OK, "text/event-stream", event(seen)),
        };
        reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        reply.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        Some(reply)
    }

    fn described(&self) -> Option<Value> {
        let about = "Events of which each has a `Transfer` as its data: one when something has changed, at most two \
            in a second, and a last one of the type `end`. The id of an event can be sent back as `Last-Event-ID`.";
        let last = json!({
            "name": "Last-Event-ID",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The id of the last event that the client has, which is not told again.",
        });
        let media = json!({"text/event-stream": {"schema": {"type": "string"}}});
        Some(json!({
            "operationId": "watchTransfer",
            "parameters": [last],
            "responses": {
                "200": {"description": about, "content": media},
                "204": {"description": "It has ended, and the client knows that."},
            },
        }))
    }
}

impl KnownOperation for Events {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        let last = resumable::one(call, &LAST_EVENT_ID)?;
        // An id that is not text was never told.
        let after = last.and_then(|id| id.to_str().ok()).map(str::to_owned);
        Ok((Work::Watch { id: transfers::id(call)?, after }, Answer::of(self)))
    }
}

fn event(seen: &TransferSeen) -> String {
    let kind = if seen.transfer.state.has_ended() { "event: end\n" } else { "" };
    format!("retry: {RETRY}\n{kind}id: {}\ndata: {}\n\n", seen.mark(), view::whole(seen))
}
