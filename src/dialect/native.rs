//! Our own API, for what no other has: the state of sessions.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{BodyRule, Call, Endpoint, Guard, Op as AnyOp, Reply, Route, Side, bare, direct, reply};
use crate::domain::{
    Command, Fault, FaultKind, Intent, Outcome, Session, SessionCommand, SessionState, UnixTime, Upload, UploadState,
};

/// What every path begins with.
pub(super) const BASE: &str = "/api/v1";

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Sessions,
    Session,
    Cancel,
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/v1/sessions",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::Sessions, "the latest sessions, newest first")],
    },
    Route {
        pattern: "/api/v1/sessions/{session}",
        allow: "GET, HEAD, DELETE",
        endpoints: &[
            call(Method::GET, Op::Session, "one session"),
            call(Method::DELETE, Op::Cancel, "ends a session, and drops what was uploaded"),
        ],
    },
];

const fn call(method: Method, op: Op, summary: &'static str) -> Endpoint {
    let (guard, body, side) = (Guard::Basic, BodyRule::None, Side::Control);
    Endpoint { method, guard, body, side, summary, op: AnyOp::Native(op) }
}

pub(super) fn decode(op: Op, call: &Call) -> Result<Intent, Fault> {
    let no_such = |_| Fault::new(FaultKind::NotFound, "there is no such session");
    let id = || call.param("session").parse().map_err(no_such);
    Ok(Intent::Control(Command::Session(match op {
        Op::Sessions => SessionCommand::List,
        Op::Session => SessionCommand::Show(id()?),
        Op::Cancel => SessionCommand::Cancel(id()?),
    })))
}

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, outcome: &Outcome) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::Sessions, Outcome::Sessions(sessions)) => {
            let sessions: Vec<Value> = sessions.iter().map(session).collect();
            json_reply(StatusCode::OK, &json!({"sessions": sessions}))
        }
        (Op::Session, Outcome::Session(one)) => json_reply(StatusCode::OK, &session(one)),
        (Op::Cancel, Outcome::Deleted) => bare(StatusCode::NO_CONTENT),
        _ => return None,
    })
}

/// `{"error": {"message": ..., "field": ...}}`, with the same status numbers as the direct side has.
pub(super) fn fault(fault: &Fault) -> Reply {
    let error = json!({"error": {"message": fault.told, "field": fault.point}});
    json_reply(direct::status(fault.kind), &error)
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

fn date(time: UnixTime) -> String {
    Timestamp::from_millisecond(time.0).map(|time| time.to_string()).unwrap_or_default()
}

fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}
