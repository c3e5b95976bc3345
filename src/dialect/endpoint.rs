//! What a path does for each method: what an endpoint needs of a request, and what reads and answers it.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde_json::Value;

use super::form::{self, Form, FormStart};
use super::operational::Probe;
use super::{Anonymous, Call, Intent, Meanwhile, Places, Reply, Work, media, query};
use crate::domain::{Fault, FaultKind, Guard, Outcome, PartPlan, Principal, ReceivePlan, SendPlan, UnpackPlan};

/// A path and what it does for each method.
#[derive(Debug)]
pub struct Route {
    /// The path in `matchit` syntax, without a slash at its end.
    pub pattern: &'static str,
    /// The methods it takes, for an `Allow` field (RFC 9110 section 10.2.1).
    pub allow: &'static str,
    /// One entry per method and media type; `HEAD` is served by the entry of `GET`.
    pub endpoints: &'static [Endpoint],
}

impl Route {
    /// The pattern without and with a slash at its end: real clients send both.
    pub(super) fn spellings(&self) -> [String; 2] {
        [self.pattern.to_owned(), format!("{}/", self.pattern)]
    }

    /// What this path does for a method, and a request with these fields.
    pub(super) fn endpoint(&self, method: &Method, headers: &HeaderMap) -> Result<&'static Endpoint, Fault> {
        let media = media::of(headers);
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let is_meant = |endpoint: &&Endpoint| {
            endpoint.method == *method
                && endpoint.media.is_none_or(|own| media.is_some_and(|media| own.eq_ignore_ascii_case(media)))
                && endpoint.op().is_for(headers)
        };
        self.endpoints.iter().find(is_meant).ok_or_else(|| {
            let kind = FaultKind::MethodNotAllowed { allow: self.allow };
            Fault::new(kind, format!("this path takes {} only", self.allow))
        })
    }
}

/// The two sides of the server, which may have a listener each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The data plane.
    Direct,
    /// The metadata side.
    Control,
    /// Of an endpoint: served by both.
    Either,
}

/// One method of one path.
#[derive(Debug)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The media type of the bodies that it is for, where the same method takes others too; those endpoints follow.
    pub media: Option<&'static str>,
    /// Where it is served, when the sides have listeners of their own.
    pub side: Side,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What it needs.
    pub entry: Entry,
}

/// What an endpoint needs of a request, with the operation that takes exactly that. Whoever has not got it cannot call
/// the operation.
#[derive(Debug)]
pub enum Entry {
    /// Nobody's name.
    Anonymous(ForAnyone),
    /// A known caller.
    Known(ForKnown),
    /// A known caller, and the body, which is a drive: left on the socket until the transfer is admitted.
    Receive(Guard, ByHead<ReceivePlan>),
    /// The body, which is a part of a transfer: left on the socket likewise. With a guard, for a known caller; without
    /// one, the path is the capability for it.
    Part(Option<Guard>, ByHead<PartPlan>),
    /// A known caller, and the body, which is a form: a part of a transfer is its file, and its other fields are the
    /// terms of the part. The file is left on the socket likewise.
    Form(Guard, ByForm),
    /// The body, which is an archive: left on the socket likewise. Path and query are the capability for it.
    Unpack(ByHead<UnpackPlan>),
    /// Nothing: the path is the capability for bytes.
    Send(ByHead<SendPlan>),
    /// Nothing: it is for whoever runs the server, and answered also when nothing else is.
    Probe(Probe),
}

/// An operation that is open to anyone.
#[derive(Debug)]
pub struct ForAnyone {
    /// The most bytes of its body, which is read whole into memory; `None` where a body means nothing.
    pub body: Option<usize>,
    pub(super) op: &'static dyn OpenOperation,
}

impl ForAnyone {
    /// What the request asks for, and what tells how that ended.
    pub fn decode(&self, call: &Call, body: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        query::check(call.query, self.op.parameters())?;
        self.op.decode(call, body)
    }
}

/// An operation of known callers.
#[derive(Debug)]
pub struct ForKnown {
    /// How the caller proves who they are.
    pub guard: Guard,
    /// As [`ForAnyone::body`].
    pub body: Option<usize>,
    pub(super) op: &'static dyn KnownOperation,
}

impl ForKnown {
    /// What the request asks for, and what tells how that ended.
    pub fn decode(&self, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        query::check(call.query, self.op.parameters())?;
        self.op.decode(call, caller, body)
    }
}

/// An operation that is known by the head of its request alone.
#[derive(Debug)]
pub struct ByHead<Plan> {
    pub(super) op: &'static dyn Operation,
    pub(super) decode: fn(&Call) -> Result<Plan, Fault>,
}

impl<Plan> ByHead<Plan> {
    /// What the request asks for.
    pub fn decode(&self, call: &Call) -> Result<Plan, Fault> {
        query::check(call.query, self.op.parameters())?;
        (self.decode)(call)
    }
}

/// An operation that is known by the head of its request and the fields of the form in its body.
#[derive(Debug)]
pub struct ByForm {
    pub(super) op: &'static dyn Operation,
    pub(super) decode: fn(&Call, &Form) -> Result<PartPlan, Fault>,
}

impl ByForm {
    /// What separates the parts of the form.
    pub fn boundary(&self, call: &Call) -> Result<String, Fault> {
        query::check(call.query, self.op.parameters())?;
        form::boundary(call.headers)
    }

    /// What the request asks for, and the form with its end.
    pub fn decode(&self, call: &Call, boundary: &str, start: FormStart) -> Result<(PartPlan, Form), Fault> {
        let rest = call.length.map(|length| length.saturating_sub(start.file as u64));
        let form = Form { fields: start.fields, rest, delimiter: form::delimiter(boundary) };
        Ok(((self.decode)(call, &form)?, form))
    }
}

/// What an endpoint does, in its dialect's own terms.
pub(super) trait Operation: fmt::Debug + Send + Sync {
    /// Whether it is meant by a request with these fields, where the same method does something else too; the endpoint
    /// of that follows.
    fn is_for(&self, _headers: &HeaderMap) -> bool {
        true
    }

    /// What its query may hold. It refuses everything else.
    fn parameters(&self) -> &'static [&'static str] {
        &[]
    }

    /// The reply that tells the outcome; `None` when the operation cannot have it. What the query says of the reply is
    /// not read here but in `decode`, which gives it to an operation of its own: see [`Answer::asked`].
    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply>;

    /// What it takes and answers, as an Operation Object of OpenAPI without what the table of routes tells; `None` of
    /// the APIs that others describe.
    fn described(&self) -> Option<Value> {
        None
    }

    /// The fields of an answer before the last, while the body comes; `None` where there is none.
    fn interim(&self, _call: &Call, _meanwhile: Meanwhile, _places: &Places) -> Option<HeaderMap> {
        None
    }
}

/// An operation that is open to anyone.
pub(super) trait OpenOperation: Operation {
    /// What the request asks for, and what tells how that ended.
    fn decode(&'static self, call: &Call, body: &[u8]) -> Result<(Anonymous, Answer), Fault>;
}

/// An operation of known callers.
pub(super) trait KnownOperation: Operation {
    /// What the request asks for, and what tells how that ended: another operation than this where the body, and not
    /// the path alone, says what is done.
    fn decode(&'static self, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault>;
}

/// What tells how a request ended.
#[derive(Clone, Debug)]
pub struct Answer(Told);

#[derive(Clone, Debug)]
enum Told {
    /// By an operation, whatever else the request says.
    Alike(&'static dyn Operation),
    /// By an operation with what the request says of the reply.
    Asked(Arc<dyn Operation>),
}

impl Answer {
    /// The reply of an operation of which requests ask nothing else, or this one did not.
    pub(super) fn of(op: &'static dyn Operation) -> Self {
        Self(Told::Alike(op))
    }

    /// The reply of an operation that carries what this request asks of it.
    pub(super) fn asked(op: impl Operation + 'static) -> Self {
        Self(Told::Asked(Arc::new(op)))
    }

    /// The fields of an interim answer; `None` where there is none.
    pub fn interim(&self, call: &Call, meanwhile: Meanwhile, places: &Places) -> Option<HeaderMap> {
        self.operation().interim(call, meanwhile, places)
    }

    fn operation(&self) -> &dyn Operation {
        match &self.0 {
            Told::Alike(op) => *op,
            Told::Asked(op) => &**op,
        }
    }

    /// The reply that tells the outcome. An outcome that the operation cannot have is our fault.
    pub fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Result<Reply, Fault> {
        let reply = self.operation().encode(call, outcome, places);
        reply.ok_or_else(|| Fault::internal("an outcome that this endpoint cannot have"))
    }
}

impl Endpoint {
    pub(super) fn op(&self) -> &'static dyn Operation {
        match &self.entry {
            Entry::Anonymous(open) => open.op,
            Entry::Known(known) => known.op,
            Entry::Receive(_, upload) => upload.op,
            Entry::Part(_, part) => part.op,
            Entry::Form(_, part) => part.op,
            Entry::Unpack(upload) => upload.op,
            Entry::Send(download) => download.op,
            Entry::Probe(probe) => probe.op(),
        }
    }

    /// What tells how a request ended, where its path alone says what is done and how that is told.
    pub fn answer(&self) -> Answer {
        Answer::of(self.op())
    }

    /// What its query may hold; `None` is anything.
    #[cfg(test)]
    pub(super) fn parameters(&self) -> Option<&'static [&'static str]> {
        (!self.is_probe()).then(|| self.op().parameters())
    }

    /// Whether it is answered also when nothing else is.
    pub const fn is_probe(&self) -> bool {
        matches!(self.entry, Entry::Probe(_))
    }

    /// What the request asks for and what tells how that ended, where all that an endpoint may need is at hand.
    pub fn decode(&self, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Intent<()>, Answer), Fault> {
        let within = |most: Option<usize>| match most {
            None => Ok(&[][..]),
            Some(most) if body.len() > most => Err(too_large(most)),
            Some(_) => Ok(body),
        };
        let intent = match &self.entry {
            Entry::Anonymous(open) => {
                let (open, answer) = open.decode(call, within(open.body)?)?;
                return Ok((Intent::Anonymous(open), answer));
            }
            Entry::Known(known) => {
                let (work, answer) = known.decode(call, caller, within(known.body)?)?;
                return Ok((Intent::Work(caller.clone(), work), answer));
            }
            Entry::Receive(_, upload) => Intent::Receive(caller.clone(), upload.decode(call)?, ()),
            Entry::Part(guard, part) => Intent::Part(guard.map(|_| caller.clone()), part.decode(call)?, ()),
            Entry::Form(_, part) => {
                let boundary = part.boundary(call)?;
                let start = FormStart::read(&boundary, body)?.ok_or_else(form::cut_short)?;
                Intent::Part(Some(caller.clone()), part.decode(call, &boundary, start)?.0, ())
            }
            Entry::Unpack(upload) => Intent::Unpack(upload.decode(call)?, ()),
            Entry::Send(download) => Intent::Send(download.decode(call)?),
            Entry::Probe(probe) => Intent::Probe(*probe),
        };
        Ok((intent, self.answer()))
    }
}

/// The fault of a body that is larger than its endpoint takes.
pub fn too_large(most: usize) -> Fault {
    Fault::new(FaultKind::TooLarge, format!("the body has more than {most} bytes"))
}
