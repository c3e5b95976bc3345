//! Transfers: begun, watched and ended. Their bytes go to the URL that is told when one begins.

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::{Answer, Call, KnownOperation, Operation, Places, Reply, Work, bare, query, resumable, ticket};
use super::openapi::{empty_answer, json_answer, json_body, object, query as parameter, reference};
use super::pieces::base;
use super::{BASE, Fields, body, json_reply, limit, view};
use crate::domain::{
    ByteCount, Command, Fault, FaultKind, Media, Origin, Outcome, Paged, PartPlan, PartTarget, Principal,
    TransferAction, TransferCommand, TransferId, TransferQuery, TransferSeen, TransferSpec, TransferState,
};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    List,
    Create,
    Show,
    Finish,
    Cancel,
}

/// The number of transfers on a page, unless fewer are requested.
const PAGE: u32 = 50;
/// The most characters of a name or reference.
const MAX_TEXT: usize = 255;
/// The most bytes of an owner's labels, as JSON. They are kept with the drive's record.
pub(in crate::dialect) const MAX_LABELS: usize = 16 << 10;
/// The limits of a lifetime in seconds: time for a line to be cut and come back, and 30 days.
const LIFETIMES: (u64, u64) = (60, 30 * 24 * 60 * 60);

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::List => &["reference", "state", "limit", "marker"],
            Self::Create | Self::Show | Self::Finish | Self::Cancel => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode(*self, call, outcome, places)
    }

    fn described(&self) -> Option<Value> {
        Some(described(*self))
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(Command::Transfer(decode(*self, call, body)?)), Answer::of(self)))
    }
}

fn decode(op: Op, call: &Call, body: &[u8]) -> Result<TransferCommand, Fault> {
    let on = |action| Ok(TransferCommand::On(id(call)?, action));
    match op {
        Op::List => page(call.query).map(TransferCommand::List),
        Op::Create => spec(body).map(|spec| TransferCommand::Create(Box::new(spec))),
        Op::Show => on(resumable::look(call.method)),
        Op::Finish => {
            let fields = Fields::read_any(body)?;
            fields.only(&["size", "digest"])?;
            on(TransferAction::Finish(fields.completion()?))
        }
        Op::Cancel => on(TransferAction::Cancel),
    }
}

/// A part at the end of what has come, by the login of the owner.
pub(super) fn append(call: &Call) -> Result<PartPlan, Fault> {
    ticket::append_to(call, PartTarget::Own(id(call)?))
}

/// The transfer that the path names.
pub(super) fn id(call: &Call) -> Result<TransferId, Fault> {
    call.param("uuid").parse().map_err(|_| Fault::new(FaultKind::NotFound, "there is no such transfer"))
}

fn page(query: &str) -> Result<TransferQuery, Fault> {
    let mut page = TransferQuery { reference: None, state: None, limit: PAGE, after: None };
    for (name, value) in query::pairs(query) {
        match name.as_str() {
            "reference" => page.reference = Some(value),
            "state" => {
                let words = TransferState::ALL.map(TransferState::word).join(", ");
                let told = || Fault::invalid("state", format!("must be one of {words}"));
                page.state = Some(TransferState::from_word(&value).ok_or_else(told)?);
            }
            "limit" => page.limit = limit(&value, PAGE)?,
            "marker" => {
                let told = |_| Fault::invalid("marker", "the marker is no transfer of yours");
                page.after = Some(value.parse().map_err(told)?);
            }
            _ => return Err(query::unknown(&name)),
        }
    }
    Ok(page)
}

fn spec(body: &[u8]) -> Result<TransferSpec, Fault> {
    let fields = Fields::read(body)?;
    fields.only(&["name", "size", "data", "media", "digest", "reference", "expires_in", "meta", "base"])?;
    let text = |name: &str| {
        let told = "must be a string of 1 to 255 characters, none of them a control character";
        fields.get(name, told, |value| value.as_str().filter(|text| is_text(text)).map(str::to_owned))
    };
    let fits = |value: &&Value| value.to_string().len() <= MAX_LABELS;
    let meta = fields
        .get("meta", "must be an object of at most 16 KiB", |value| Some(value).filter(fits)?.as_object().cloned())?;
    let lifetime = fields.number("expires_in", LIFETIMES.0..=LIFETIMES.1)?;
    let size = fields.size()?;
    // Without a size, space is set aside as bytes come.
    let data = fields.number("data", 0..=ByteCount::MAX.get())?.and_then(ByteCount::new);
    if data > size && data.is_some() {
        return Err(Fault::invalid("data", "data is at most the size, which has to be told with it"));
    }
    Ok(TransferSpec {
        name: text("name")?.ok_or_else(|| Fault::invalid("name", "name is required"))?,
        size,
        data,
        media: fields.get("media", "must be disk or cdrom", media)?.unwrap_or_default(),
        meta: meta.unwrap_or_default(),
        asserted: fields.digest()?,
        reference: text("reference")?,
        metadata: None,
        origin: base(&fields)?.map(Origin::Base),
        lifetime: lifetime.and_then(|seconds| u32::try_from(seconds).ok()),
    })
}

/// Whether this can be a name or a reference.
pub(in crate::dialect) fn is_text(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control)
}

fn media(value: &Value) -> Option<Media> {
    match value.as_str()? {
        "disk" => Some(Media::Disk),
        "cdrom" => Some(Media::Cdrom),
        _ => None,
    }
}

fn described(op: Op) -> Value {
    match op {
        Op::List => {
            let state = json!({"type": "string", "enum": TransferState::ALL.map(TransferState::word)});
            let size = json!({"type": "integer", "minimum": 1, "maximum": PAGE, "default": PAGE});
            let marker = json!({"type": "string", "format": "uuid"});
            let about = "The reference, or the name of a transfer without one.";
            json!({
                "operationId": "listTransfers",
                "parameters": [
                    parameter("reference", &json!({"type": "string"}), about),
                    parameter("state", &state, "The state of all."),
                    parameter("limit", &size, "The transfers on the page."),
                    parameter("marker", &marker, "The last transfer of the page before."),
                ],
                "responses": {"200": json_answer("A page of transfers.", "Transfers")},
            })
        }
        Op::Create => {
            let mut begun = json_answer("It has begun.", "NewTransfer");
            begun["headers"] = json!({"Location": {"schema": {"type": "string"}, "required": true}});
            json!({
                "operationId": "beginTransfer",
                "requestBody": json_body("TransferTerms", true),
                "responses": {"201": begun},
            })
        }
        Op::Show => {
            let mut shown = json_answer("The transfer.", "Transfer");
            shown["headers"] = resumable::described_state();
            shown["description"] =
                "The transfer. HEAD tells the fields, and ends the part that comes at the end.".into();
            json!({"operationId": "showTransfer", "responses": {"200": shown}})
        }
        Op::Finish => json!({
            "operationId": "finishTransfer",
            "requestBody": json_body("Completion", false),
            "responses": {
                "200": json_answer("The drive is there.", "Transfer"),
                "202": json_answer("The drive is being made; it can be asked for again.", "Transfer"),
            },
        }),
        Op::Cancel => json!({"operationId": "cancelTransfer", "responses": {"204": empty_answer("It has ended.")}}),
    }
}

/// The schemas of the terms of a transfer and of a list.
pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let text = |types: Value| json!({"type": types, "minLength": 1, "maxLength": MAX_TEXT});
    let (least, most) = LIFETIMES;
    let about = "How many bytes of the size are not zeros, if that is known. Space is set aside for these alone, and for \
                 more when more come.";
    let data = json!({"type": ["integer", "null"], "minimum": 0, "description": about});
    let terms = json!({
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": text("string".into()),
            "size": body::size(),
            "data": data,
            "media": {"type": ["string", "null"], "enum": ["disk", "cdrom", null]},
            "digest": body::digest(),
            "base": reference("Base"),
            "reference": text(json!(["string", "null"])),
            "expires_in": {
                "type": ["integer", "null"],
                "minimum": least,
                "maximum": most,
                "description": "The seconds that it lives after the last activity.",
            },
            "meta": {"type": ["object", "null"], "description": "Labels of the drive, of at most 16 KiB."},
        },
    });
    let transfers = json!({"type": "array", "items": reference("TransferInList")});
    let next = json!({"type": ["string", "null"], "description": "The path of the next page."});
    vec![("TransferTerms", terms), ("Transfers", object(&json!({"transfers": transfers, "next": next})))]
}

/// `None` when the endpoint cannot have this outcome.
fn encode(op: Op, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::List, Outcome::Transfers(transfers)) => listed(call, transfers),
        (Op::Create, Outcome::Transfer(seen)) => begun(seen, places)?,
        (Op::Show, Outcome::Transfer(seen)) => shown(call, seen),
        (Op::Finish, Outcome::Transfer(seen)) => json_reply(finished(seen), &view::whole(seen)),
        (Op::Cancel, Outcome::Transfer(_)) => bare(StatusCode::NO_CONTENT),
        _ => return None,
    })
}

/// The status of an answer about the end of a transfer, which may be still under way.
pub(in crate::dialect) fn finished(seen: &TransferSeen) -> StatusCode {
    match seen.transfer.state {
        TransferState::Finishing => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    }
}

fn shown(call: &Call, seen: &TransferSeen) -> Reply {
    let mut reply = json_reply(StatusCode::OK, &view::whole(seen));
    if call.method == Method::HEAD {
        resumable::add_state(reply.headers_mut(), seen);
    }
    reply
}

fn listed(call: &Call, transfers: &Paged<TransferSeen>) -> Reply {
    let next = transfers.items.last().filter(|_| transfers.has_more).map(|last| {
        let others = query::pairs(call.query).filter(|(name, _)| name != "marker");
        let mut next = form_urlencoded::Serializer::new(String::new());
        let next = next.extend_pairs(others).append_pair("marker", &last.transfer.id.to_string());
        format!("{}?{}", call.path, next.finish())
    });
    let transfers: Vec<Value> = transfers.items.iter().map(view::in_list).collect();
    json_reply(StatusCode::OK, &json!({"transfers": transfers, "next": next}))
}

/// The one answer that tells the secret of the URL.
fn begun(seen: &TransferSeen, places: &Places) -> Option<Reply> {
    let id = seen.transfer.id;
    let mut object = view::whole(seen);
    object["ticket"] = format!("{}{}", places.direct, ticket::path(seen.ticket.as_ref()?, id)).into();
    let mut reply = json_reply(StatusCode::CREATED, &object);
    let location = places.control_location(&format!("{BASE}/transfers/{id}"));
    reply.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(body: &Value) -> String {
        spec(body.to_string().as_bytes()).expect_err("it is refused").point.unwrap_or_default()
    }

    #[test]
    fn terms_are_taken_up_to_their_limits() {
        let longest = "\u{e9}".repeat(MAX_TEXT);
        let labels = |bytes: usize| json!({"k": "x".repeat(bytes - 8)});
        for right in [
            json!({"name": longest, "reference": longest}),
            json!({"name": "a", "size": 1, "expires_in": LIFETIMES.0, "meta": labels(MAX_LABELS)}),
            json!({"name": "a", "size": i64::MAX, "expires_in": LIFETIMES.1, "meta": {}, "digest": {}}),
            json!({"name": "a", "size": 7, "data": 0}),
            json!({"name": "a", "size": 7, "data": 7}),
            json!({"name": "a", "media": null, "data": null, "reference": null, "meta": null, "digest": null}),
        ] {
            assert!(spec(right.to_string().as_bytes()).is_ok(), "{right}");
        }
        let too_long = format!("{longest}x");
        for (name, wrong) in [
            ("name", json!("")),
            ("name", json!("a\nb")),
            ("name", json!(too_long)),
            ("name", json!(1)),
            ("reference", json!("")),
            ("reference", json!("a\u{7f}")),
            ("reference", json!(too_long)),
            ("size", json!(0)),
            ("size", json!(-1)),
            ("size", json!(1.5)),
            ("size", json!("1")),
            ("size", json!(1_u64 << 63)),
            ("data", json!(-1)),
            ("data", json!("1")),
            ("data", json!(0)),
            ("media", json!("tape")),
            ("expires_in", json!(LIFETIMES.0 - 1)),
            ("expires_in", json!(LIFETIMES.1 + 1)),
            ("meta", json!([])),
            ("meta", labels(MAX_LABELS + 1)),
            ("digest", json!("e3b0")),
        ] {
            let mut body = json!({"name": "a"});
            body[name] = wrong;
            assert_eq!(point(&body), name, "{body}");
        }
    }

    #[test]
    fn digests_that_cannot_be_checked_are_refused() {
        let digest = "0".repeat(64);
        for (name, value) in [
            ("blake3", json!(digest[1..])),
            ("sha-512", json!(digest)),
            ("SHA-256", json!(digest)),
            ("sha-256", json!(digest[1..])),
            ("sha-256", json!("x".repeat(64))),
            ("sha-256", json!(1)),
        ] {
            assert_eq!(point(&json!({"name": "a", "digest": {name: value}})), format!("digest.{name}"));
        }
    }
}
