//! Our own API, for what no other has: the state of sessions.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Answer, Call, Dialect, Endpoint, Entry, ForKnown, Guard, KnownOperation, Operation, Places, Reply, Route, Side,
    Work, bare, basic, direct, lies_in, query, reply,
};
use crate::domain::{
    Command, Fault, FaultKind, Outcome, Principal, Session, SessionCommand, SessionState, UnixTime, Upload, UploadState,
};

pub(super) static DIALECT: Dialect = Dialect {
    name: "native",
    routes: ROUTES,
    has_path: |path| lies_in(path, "/api/v1"),
    fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Sessions,
    Session,
    Cancel,
}

static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/v1/sessions",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Sessions, "a page of the sessions, newest first: `limit`, `marker`")],
    },
    Route {
        pattern: "/api/v1/sessions/{session}",
        allow: "GET, HEAD, DELETE",
        endpoints: &[
            call(Method::GET, &Op::Session, "one session"),
            call(Method::DELETE, &Op::Cancel, "ends a session, and drops what was uploaded"),
        ],
    },
];

const fn call(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    let entry = Entry::Known(ForKnown { guard: Guard::Basic, body: None, op });
    Endpoint { method, side: Side::Control, summary, entry }
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
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(Command::Session(decode(*self, call)?)), Answer(self)))
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
    let (mut limit, mut after) = (PAGE, None);
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "limit" => {
                let told = || Fault::invalid("limit", format!("must be 1 to {PAGE}"));
                limit = value.parse().ok().filter(|limit| (1..=PAGE).contains(limit)).ok_or_else(told)?;
            }
            "marker" => {
                let told = |_| Fault::invalid("marker", "the marker is no session of yours");
                after = Some(value.parse().map_err(told)?);
            }
            _ => return Err(Fault::invalid(name, "is nothing that sessions are listed by")),
        }
    }
    Ok(SessionCommand::List { limit, after })
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

/// `{"error": {"message": ..., "field": ...}}`, with the same status numbers as the direct side has.
fn fault(_: &Call, fault: &Fault) -> Reply {
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
