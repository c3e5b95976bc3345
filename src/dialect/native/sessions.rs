//! The state of sessions.

use http::StatusCode;
use serde_json::{Value, json};

use super::super::{Answer, Call, KnownOperation, Operation, Places, Reply, Work, bare, query};
use super::openapi::{empty_answer, json_answer, object, query as parameter, reference};
use super::{date, json_reply, limit};
use crate::domain::{
    Command, Fault, FaultKind, Outcome, Principal, Session, SessionCommand, SessionState, Upload, UploadState,
};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Sessions,
    Session,
    Cancel,
}

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Sessions => &["limit", "marker"],
            Self::Session | Self::Cancel => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode(*self, call, outcome)
    }

    fn described(&self) -> Option<Value> {
        let size = json!({"type": "integer", "minimum": 1, "maximum": PAGE, "default": PAGE});
        let marker = json!({"type": "string", "format": "uuid"});
        Some(match self {
            Self::Sessions => json!({
                "operationId": "listSessions",
                "parameters": [
                    parameter("limit", &size, "The sessions on the page."),
                    parameter("marker", &marker, "The last session of the page before."),
                ],
                "responses": {"200": json_answer("A page of sessions.", "Sessions")},
            }),
            Self::Session => json!({
                "operationId": "showSession",
                "responses": {"200": json_answer("The session.", "Session")},
            }),
            Self::Cancel => json!({
                "operationId": "cancelSession",
                "responses": {"204": empty_answer("It has ended.")},
            }),
        })
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(Command::Session(decode(*self, call)?)), Answer::of(self)))
    }
}

fn decode(op: Op, call: &Call) -> Result<SessionCommand, Fault> {
    let no_such = |_| Fault::new(FaultKind::NotFound, "there is no such session");
    let id = || call.param("session").parse().map_err(no_such);
    Ok(match op {
        Op::Sessions => page(call)?,
        Op::Session => SessionCommand::Show(id()?),
        Op::Cancel => SessionCommand::Cancel(id()?),
    })
}

/// How many sessions a page has, unless fewer are asked for, and at most.
const PAGE: u32 = 50;

fn page(call: &Call) -> Result<SessionCommand, Fault> {
    let (mut size, mut after) = (PAGE, None);
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "limit" => size = limit(&value, PAGE)?,
            "marker" => {
                let told = |_| Fault::invalid("marker", "the marker is no session of yours");
                after = Some(value.parse().map_err(told)?);
            }
            _ => return Err(Fault::invalid(name, "is nothing that sessions are listed by")),
        }
    }
    Ok(SessionCommand::List { limit: size, after })
}

/// `None` when the endpoint cannot have this outcome.
fn encode(op: Op, call: &Call, outcome: &Outcome) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::Sessions, Outcome::Sessions(sessions)) => {
            let last = sessions.items.last().filter(|_| sessions.has_more);
            let limit = sessions.items.len();
            let next = last.map(|last| format!("{}?limit={limit}&marker={}", call.path, last.id));
            let sessions: Vec<Value> = sessions.items.iter().map(session).collect();
            json_reply(StatusCode::OK, &json!({"sessions": sessions, "next": next}))
        }
        (Op::Session, Outcome::Session(one)) => json_reply(StatusCode::OK, &session(one)),
        (Op::Cancel, Outcome::Removed) => bare(StatusCode::NO_CONTENT),
        _ => return None,
    })
}

/// Without token and cookie, which were told once.
fn session(session: &Session) -> Value {
    let uploads: Vec<Value> = session.uploads.iter().map(upload).collect();
    json!({
        "id": session.id.to_string(),
        "state": match session.state {
            SessionState::Open => "open",
            SessionState::Finished => "finished",
            SessionState::Failed => "failed",
            SessionState::Expired => "expired",
        },
        "reason": session.reason,
        "created": date(session.created),
        "expires": date(session.expires),
        "ended": session.ended.map(date),
        "uploads": uploads,
    })
}

fn upload(upload: &Upload) -> Value {
    json!({
        "id": upload.id.to_string(),
        "volume": upload.volume.to_string(),
        "name": upload.name,
        "source": upload.source,
        "state": match upload.state {
            UploadState::Waiting => "waiting",
            UploadState::Receiving => "receiving",
            UploadState::Received => "received",
        },
        "reason": upload.reason,
        "members": upload.members,
        "bytes": upload.bytes,
    })
}

/// The schemas of sessions.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let id = json!({"type": "string", "format": "uuid"});
    let time = json!({"type": "string", "format": "date-time"});
    let text = json!({"type": ["string", "null"]});
    let upload = object(&json!({
        "id": id,
        "volume": id,
        "name": {"type": "string"},
        "source": {"type": "string"},
        "state": {"type": "string", "enum": ["waiting", "receiving", "received"]},
        "reason": text,
        "members": {"type": "integer"},
        "bytes": {"type": "integer"},
    }));
    let session = object(&json!({
        "id": id,
        "state": {"type": "string", "enum": ["open", "finished", "failed", "expired"]},
        "reason": text,
        "created": time,
        "expires": time,
        "ended": {"type": ["string", "null"], "format": "date-time"},
        "uploads": {"type": "array", "items": upload},
    }));
    let sessions = json!({"type": "array", "items": reference("Session")});
    let next = json!({"type": ["string", "null"], "description": "The path of the next page."});
    vec![("Session", session), ("Sessions", object(&json!({"sessions": sessions, "next": next})))]
}
