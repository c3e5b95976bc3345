//! Handles one request, from its head to the head of its answer.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::Server;
use super::activity::Activity;
use super::admission::{Standing, holder};
use super::answers::{self, Room};
use super::body::{Body, Download, PartsBody};
use super::events::{Events, Watcher};
use super::form_body::FormBody;
use super::framing::Framing;
use super::head::resolved;
use super::incoming::Payload;
use super::interim::Interim;
use super::list::{Asked, List};
use super::moved::Moved;
use super::origin;
use super::regions::FileRegions;
use super::tap::Tap;
use super::timing::{self, SERVER_TIMING};
use super::under_way::UnderWay;
use crate::auth::{Caller, Grounds, has_credentials, is_digest_of};
use crate::control::{Account, Opened, Packable};
use crate::dialect::direct::{self, Chunk};
use crate::dialect::{
    Anonymous, Answer, ByForm, ByHead, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Intent, Meanwhile, Places,
    Probe, Reply, Report, Resolved, Side, Work,
};
use crate::domain::{
    AnonymousCommand, Command, Fault, FaultKind, Guard, Login, Outcome, PartPlan, Principal, ReceivePlan, SendPlan,
    Sha256, TenantId, TransferId, UnpackPlan, Volume,
};
use crate::metrics::Direction;
use crate::transfer::{Outgoing, Part, Progress, Route, Sending, Transport};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The time between two interim answers that tell how much of a body is durable.
const TELLING: Duration = Duration::from_secs(3);

/// The parts of a connection that its requests use.
pub(super) struct Connection {
    /// The requests and answers in progress on the connection.
    pub(super) activity: Arc<Activity>,
    /// Marked as known by the first authenticated request.
    pub(super) standing: Arc<Standing>,
    /// The address of the peer, or the one that a PROXY header gives; see [`Exchange::client`].
    pub(super) peer: SocketAddr,
    /// The side that is served here; `None` for both.
    pub(super) side: Option<Side>,
    pub(super) places: Places,
    /// The findings of the framing guard, on HTTP/1.1.
    pub(super) framing: Option<Arc<Framing>>,
    /// The number of requests so far.
    pub(super) requests: AtomicU64,
    /// The regions through which the kernel sends files, if the connection can.
    pub(super) regions: Option<FileRegions>,
    /// The tap that takes large bodies past hyper, if the connection has one.
    pub(super) tap: Option<Arc<Tap>>,
    /// The counts of the connection, if it has one transfer at a time.
    pub(super) transport: Option<Arc<dyn Transport>>,
    /// The bytes that the connection has sent, and the size of its reads.
    pub(super) moved: Arc<Moved>,
    /// Interim answers, which show whether a peer that closed its side is gone.
    pub(super) interim: Arc<Interim>,
    /// Closes the connection at once.
    pub(super) kill: CancellationToken,
}

/// Answers one request.
pub(super) async fn answer(
    server: Arc<Server>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let _busy = connection.activity.work();
    let id = Uuid::new_v4().to_string();
    let (parts, body) = request.into_parts();
    // Held until the answer is returned. HTTP/1.0 has no interim answers, and HTTP/2 cannot be closed by halves.
    let _interim = (parts.version == Version::HTTP_11).then(|| connection.interim.work());
    let client = server.proxies.client_of(connection.peer.ip(), &parts.headers);
    let span = {
        let peer: &dyn fmt::Display = if client == connection.peer.ip() { &connection.peer } else { &client };
        tracing::info_span!("request", id, %peer)
    };
    let index = connection.requests.fetch_add(1, Ordering::Relaxed);
    let tapped = connection.tap.as_ref().and_then(|tap| tap.offer(index, is_last(&parts)));
    let body = Payload::new(body, tapped);
    let is_late = server.control.is_draining();
    let Resolved { call, dialect, route, endpoint } = resolved(&parts, body.length());
    let mut exchange = Exchange {
        server: &server,
        connection: &connection,
        client,
        parts: &parts,
        call,
        dialect,
        route,
        caller: None,
        login: None,
        started,
        is_late,
        shares: UnderWay::default(),
    };
    let mut response = exchange.run(index, endpoint, body).instrument(span.clone()).await;
    server.cors.mark(&parts, response.headers_mut());
    if let Ok(id) = HeaderValue::try_from(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    for name in dialect.request_id_fields(parts.uri.path()) {
        if let Ok(id) = HeaderValue::try_from(format!("req-{id}")) {
            response.headers_mut().insert(HeaderName::from_static(name), id);
        }
    }
    let status = response.status();
    server.metrics.request_answered(route, status.as_u16(), started.elapsed().as_secs_f64());
    // The pattern of the route, not the path, which may hold a ticket (I10).
    tracing::debug!(parent: &span, method = %parts.method, route, status = status.as_u16(), "answered");
    let shares = std::mem::take(&mut exchange.shares);
    response.map(|body| body.watched_by(&connection.activity).counted(shares))
}

struct Exchange<'a> {
    server: &'a Arc<Server>,
    connection: &'a Arc<Connection>,
    /// The address of the client: that of the peer or, behind a trusted proxy, the one that the proxy reports.
    client: IpAddr,
    parts: &'a Parts,
    call: Call<'a>,
    dialect: &'static Dialect,
    /// The pattern that matched.
    route: &'static str,
    /// The caller's tenant, once that is known.
    caller: Option<TenantId>,
    /// What their login rests on, and how it was asked for.
    login: Option<(Guard, Grounds)>,
    started: Instant,
    /// Whether it came after the stop of the server.
    is_late: bool,
    shares: UnderWay,
}

impl Exchange<'_> {
    async fn run(&mut self, index: u64, endpoint: Result<&'static Endpoint, Fault>, body: Payload) -> Response<Body> {
        let framing = self.connection.framing.as_ref().and_then(|seen| seen.violation_of(index));
        if let Some(violation) = framing.or_else(|| origin::host_violation(self.parts)) {
            let fault = Fault::new(FaultKind::BadFraming, format!("the request is ambiguous: {violation}"));
            let mut response = self.refuse(&fault);
            // Further requests on this connection may have been smuggled in.
            if self.parts.version < Version::HTTP_2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
        if let Some(answer) = self.server.cors.preflight(self.parts) {
            return answer;
        }
        let endpoint = match self.admit(endpoint) {
            Ok(endpoint) => endpoint,
            Err(fault) => return self.reject(&fault, body).await,
        };
        match self.decode(endpoint, body).await {
            Ok((intent, answer, unread)) => {
                let response = self.perform(intent, answer).await;
                match unread {
                    // Dropping an unread body before the answer exists would close the connection with it.
                    Some(body) => self.leave(response, body).await,
                    None => response,
                }
            }
            Err((fault, body)) => self.reject(&fault, body).await,
        }
    }

    /// Refuses requests that must not be processed further.
    fn admit(&mut self, endpoint: Result<&'static Endpoint, Fault>) -> Result<&'static Endpoint, Fault> {
        if !endpoint.as_ref().is_ok_and(|endpoint| endpoint.is_probe()) {
            if self.client != self.connection.peer.ip() {
                let told = "as many requests of this address are under way as may be; try again";
                let share = self.server.addresses.take(holder(self.client));
                self.shares.address = Some(share.ok_or_else(|| Fault::new(FaultKind::Unavailable, told))?);
            }
            // Requests from before the stop are finished. This one was not begun, so the caller can repeat it
            // elsewhere.
            if self.is_late {
                return Err(Fault::new(FaultKind::Unavailable, "the server is stopping and begins nothing new"));
            }
        }
        let endpoint = endpoint?;
        if !self.is_served(endpoint) {
            return Err(Fault::new(FaultKind::NotFound, "this path is served on the other endpoint"));
        }
        let public = [&self.server.public.direct, &self.server.public.control].into_iter().flatten();
        let ours = public.map(String::as_str).chain(self.server.cors.origins());
        if origin::is_from_elsewhere(self.parts, &ours) {
            return Err(Fault::new(FaultKind::Forbidden, "pages of other sites may not change anything here"));
        }
        Ok(endpoint)
    }

    /// Authenticates and reads the body as the endpoint needs it, and decodes the request. Returns the body if it is
    /// not a part of the intent.
    async fn decode(
        &mut self,
        endpoint: &'static Endpoint,
        mut body: Payload,
    ) -> Result<(Intent<Payload>, Answer, Option<Payload>), (Fault, Payload)> {
        let answer = endpoint.answer();
        let decoded = match &endpoint.entry {
            Entry::Anonymous(open) => {
                self.decode_anonymous(open, &mut body).await.map(|(open, answer)| (Intent::Anonymous(open), answer))
            }
            Entry::Known(known) => self.decode_known(known, &mut body).await,
            Entry::Receive(guard, upload) => match self.known(*guard).await {
                Ok((principal, _)) => match upload.decode(&self.call) {
                    Ok(plan) => return Ok((Intent::Receive(principal, plan, body), answer, None)),
                    Err(fault) => Err(fault),
                },
                Err(fault) => Err(fault),
            },
            Entry::Part(guard, part) => match self.decode_part(*guard, part).await {
                Ok((caller, plan)) => return Ok((Intent::Part(caller, plan, body), answer, None)),
                Err(fault) => Err(fault),
            },
            Entry::Form(guard, part) => match self.decode_form(*guard, part, &mut body).await {
                Ok((caller, plan)) => return Ok((Intent::Part(Some(caller), plan, body), answer, None)),
                Err(fault) => Err(fault),
            },
            Entry::Unpack(upload) => match upload.decode(&self.call) {
                Ok(plan) => return Ok((Intent::Unpack(plan, body), answer, None)),
                Err(fault) => Err(fault),
            },
            Entry::Send(download) => download.decode(&self.call).map(|plan| (Intent::Send(plan), answer)),
            Entry::Probe(probe) => Ok((Intent::Probe(*probe), answer)),
        };
        match decoded {
            Ok((intent, answer)) => Ok((intent, answer, Some(body))),
            Err(fault) => Err((fault, body)),
        }
    }

    async fn decode_anonymous(&self, open: &ForAnyone, body: &mut Payload) -> Result<(Anonymous, Answer), Fault> {
        let bytes = self.buffer(open.body, body).await?;
        open.decode(&self.call, &bytes)
    }

    async fn decode_known(&mut self, known: &ForKnown, body: &mut Payload) -> Result<(Intent<Payload>, Answer), Fault> {
        let (principal, signed) = self.known(known.guard).await?;
        let bytes = self.buffer(known.body, body).await?;
        if signed.is_some_and(|signed| !is_digest_of(&signed, &bytes)) {
            return Err(Fault::new(FaultKind::Unauthenticated, "the body is not the one that was signed"));
        }
        let (work, answer) = known.decode(&self.call, &principal, &bytes)?;
        Ok((Intent::Work(principal, work), answer))
    }

    async fn decode_part(
        &mut self,
        guard: Option<Guard>,
        part: &ByHead<PartPlan>,
    ) -> Result<(Option<Principal>, PartPlan), Fault> {
        let caller = match guard {
            Some(guard) => Some(self.known(guard).await?.0),
            None => None,
        };
        Ok((caller, part.decode(&self.call)?))
    }

    /// Reads a form up to its file, of which alone the body is from then on.
    async fn decode_form(
        &mut self,
        guard: Guard,
        part: &ByForm,
        body: &mut Payload,
    ) -> Result<(Principal, PartPlan), Fault> {
        let (caller, _) = self.known(guard).await?;
        let boundary = part.boundary(&self.call)?;
        let start = body.form_start(&boundary, self.server.limits.head).await?;
        let (plan, form) = part.decode(&self.call, &boundary, start)?;
        let file = plan.length.ok_or_else(|| Fault::internal("a file of unknown length"))?;
        body.only_file(FormBody::new(form, file));
        Ok((caller, plan))
    }

    /// Authenticates the caller, whose tenant the request counts for from now on. Returns what the body must be, too,
    /// where that was signed.
    async fn known(&mut self, guard: Guard) -> Result<(Principal, Option<Sha256>), Fault> {
        let Caller { principal, body, grounds } = self.authenticate(guard).await?;
        self.connection.standing.know();
        self.count(principal.tenant)?;
        self.caller = Some(principal.tenant);
        self.login = Some((guard, grounds));
        Ok((principal, body))
    }

    /// Reads a whole body; returns nothing if the endpoint ignores bodies.
    async fn buffer(&self, most: Option<usize>, body: &mut Payload) -> Result<Bytes, Fault> {
        match most {
            Some(most) => body.buffer(most, self.server.limits.head).await,
            None => Ok(Bytes::new()),
        }
    }

    async fn perform(&self, intent: Intent<Payload>, answer: Answer) -> Response<Body> {
        let mut room = None;
        let outcome = match intent {
            Intent::Probe(probe) => return self.report(probe).await,
            Intent::Send(plan) => return self.send(&plan).await,
            Intent::Receive(caller, plan, body) => return self.receive(answer, &caller, plan, body).await,
            Intent::Part(caller, plan, body) => return self.receive_part(answer, caller.as_ref(), plan, body).await,
            Intent::Unpack(plan, body) => return self.unpack(answer, &plan, body).await,
            Intent::Anonymous(Anonymous::Login(login)) => {
                self.log_in(&login).await.inspect(|_| self.connection.standing.know())
            }
            Intent::Anonymous(Anonymous::Identity(command)) => self.identify(command).await,
            Intent::Anonymous(Anonymous::Transfer(id, ticket, action)) => {
                let outcome = self.server.control.on_transfer(id, &ticket, action).await;
                outcome.inspect(|_| self.connection.standing.know())
            }
            Intent::Anonymous(Anonymous::Survey(plan)) => {
                let outcome = self.server.control.survey(&plan).await;
                outcome.inspect(|_| self.connection.standing.know())
            }
            Intent::Anonymous(Anonymous::Keys) => Ok(Outcome::Keys(self.server.control.public_keys())),
            Intent::Anonymous(Anonymous::Describe) => Ok(Outcome::Described(self.server.control.limits())),
            Intent::Anonymous(Anonymous::Discover) | Intent::Work(_, Work::Discover) => Ok(Outcome::Discovered),
            Intent::Work(caller, Work::Identity(command)) => {
                self.server.logins.identity.execute(&caller, command).await.map(Outcome::Identity)
            }
            Intent::Work(caller, Work::Watch { id, after }) => {
                return self.watch(answer, &caller, id, after.as_deref()).await;
            }
            Intent::Work(caller, Work::Control(command)) => {
                room = match self.room_for(&caller, &command).await {
                    Ok(room) => room,
                    Err(fault) => return self.refuse(&fault),
                };
                self.server.control.execute(&caller, command).await
            }
        };
        let response = self.encode(answer, outcome);
        let length = response.body().held();
        let room = match room {
            Some(room) => room.fit(length),
            None => self.server.answers.room_of(self.caller, length).await,
        };
        response.map(|body| body.within(room))
    }

    async fn receive(
        &self,
        answer: Answer,
        caller: &Principal,
        plan: ReceivePlan,
        mut body: Payload,
    ) -> Response<Body> {
        let admitted = match self.server.control.admit(caller, plan).await {
            Ok(admitted) => admitted,
            Err(fault) => return self.reject(&fault, body).await,
        };
        let progress = admitted.progress();
        let _wide = self.connection.moved.widen();
        let outcome = Box::pin(admitted.receive(&mut body)).await;
        self.received(answer, outcome, &progress, body).await
    }

    async fn receive_part(
        &self,
        answer: Answer,
        caller: Option<&Principal>,
        plan: PartPlan,
        mut body: Payload,
    ) -> Response<Body> {
        let admitted = match self.server.control.admit_part(caller, plan).await {
            Ok(admitted) => admitted,
            Err(fault) => return self.reject(&fault, body).await,
        };
        // Who comes by a ticket has not logged in, and is of this tenant.
        if caller.is_none()
            && let Err(fault) = self.count(admitted.tenant())
        {
            return self.reject(&fault, body).await;
        }
        self.connection.standing.know();
        if let Some(begun) = admitted.begun() {
            self.tell(&answer, Meanwhile::Begun(&begun));
        }
        let (progress, settled) = (admitted.progress(), admitted.settled());
        let _wide = self.connection.moved.widen();
        let outcome = {
            let receiving = Box::pin(admitted.receive(&mut body));
            tokio::select! {
                biased;
                outcome = receiving => outcome,
                never = self.tell_progress(&answer, settled) => match never {},
            }
        };
        self.received(answer, outcome, &progress, body).await
    }

    /// Tells from time to time how much is durable.
    async fn tell_progress(&self, answer: &Answer, settled: impl Fn() -> Option<u64>) -> Infallible {
        let mut told = 0;
        loop {
            tokio::time::sleep(TELLING).await;
            if let Some(offset) = settled().filter(|offset| *offset > told) {
                told = offset;
                self.tell(answer, Meanwhile::Durable(offset));
            }
        }
    }

    fn tell(&self, answer: &Answer, meanwhile: Meanwhile) {
        if let Some(fields) = answer.interim(&self.call, meanwhile, &self.connection.places) {
            self.connection.interim.tell(&fields);
        }
    }

    async fn unpack(&self, answer: Answer, plan: &UnpackPlan, mut body: Payload) -> Response<Body> {
        let admitted = match self.server.control.admit_tree(plan).await {
            Ok(admitted) => admitted,
            Err(fault) => return self.reject(&fault, body).await,
        };
        self.connection.standing.know();
        let progress = admitted.progress();
        let _wide = self.connection.moved.widen();
        let outcome = Box::pin(admitted.receive(&mut body)).await;
        self.received(answer, outcome, &progress, body).await
    }

    /// Takes room for the answer to a command, if its size can be estimated beforehand.
    async fn room_for(&self, principal: &Principal, command: &Command) -> Result<Option<Room>, Fault> {
        let Some(most) = answers::most_of(command) else { return Ok(None) };
        self.server.answers.room(Some(principal.tenant), most, self.server.limits.head).await.map(Some)
    }

    /// Counts the request against the share of this tenant.
    fn count(&self, tenant: TenantId) -> Result<(), Fault> {
        let told = "as many requests of this tenant are under way as may be; try again";
        let share = self.server.tenants.take(tenant).ok_or_else(|| Fault::new(FaultKind::Unavailable, told))?;
        // A request is counted once, before anything is done for it.
        let _ = self.shares.tenant.set(share);
        Ok(())
    }

    async fn identify(&self, command: AnonymousCommand) -> Result<Outcome, Fault> {
        let is_login = matches!(command, AnonymousCommand::Issue { .. });
        let outcome = self.server.logins.identity.execute_anonymous(self.client, command).await;
        if is_login && outcome.is_err() {
            self.server.metrics.login_failures.inc();
        }
        outcome.map(Outcome::Identity)
    }

    /// Answers an upload whose body was read, completely or not.
    async fn received(
        &self,
        answer: Answer,
        outcome: Result<Outcome, Fault>,
        progress: &Progress,
        body: Payload,
    ) -> Response<Body> {
        let is_done = outcome.is_ok();
        let mut response = self.encode(answer, outcome);
        response.headers_mut().insert(SERVER_TIMING, timing::of(progress));
        if !is_done {
            response = self.leave(response, body).await;
        } else if body.is_tapped() {
            response = response.map(|answer| answer.after(body));
        }
        response
    }

    fn encode(&self, answer: Answer, outcome: Result<Outcome, Fault>) -> Response<Body> {
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(fault) => return self.refuse(&fault),
        };
        let rest = outcome.listing_mut().map(|listing| std::mem::take(&mut listing.rest)).unwrap_or_default();
        let reply = match answer.encode(&self.call, &outcome, &self.connection.places) {
            Ok(reply) => reply,
            Err(fault) => return self.refuse(&fault),
        };
        if rest.is_empty() {
            return whole(reply);
        }
        let (parts, places) = (self.parts.clone(), self.connection.places.clone());
        let list = List::new(self.server, Asked { answer, parts, places, tenant: self.caller }, outcome, rest);
        let answering = self.connection.activity.answer();
        reply.map(|first| Body::List(PartsBody::new(list.beginning(&first), list, answering)))
    }

    /// Tells the progress of a transfer for as long as there is one.
    async fn watch(&self, answer: Answer, caller: &Principal, id: TransferId, after: Option<&str>) -> Response<Body> {
        let Some(share) = self.server.watching.take(caller.tenant) else {
            let told = "this tenant watches as many transfers as may be; try again";
            return self.refuse(&Fault::new(FaultKind::Unavailable, told));
        };
        // A request is counted once.
        let _ = self.shares.watching.set(share);
        let mut watch = self.server.control.watch(caller, id);
        let seen = match watch.look().await {
            Ok(seen) => seen,
            Err(fault) => return self.refuse(&fault),
        };
        let (mark, rate, has_ended) = (seen.mark(), seen.rate, seen.transfer.state.has_ended());
        let outcome = Outcome::Watched { is_known: after == Some(&mark), seen: Box::new(seen) };
        let reply = match answer.encode(&self.call, &outcome, &self.connection.places) {
            Ok(reply) => reply,
            Err(fault) => return self.refuse(&fault),
        };
        let room = self.server.answers.room_of(self.caller, reply.body().len()).await;
        let body = match &self.login {
            _ if has_ended => return whole(reply).map(|body| body.within(room)),
            _ if self.parts.method == Method::HEAD => return whole(reply.map(|_| Bytes::new())),
            None => return self.refuse(&Fault::internal("nobody watches")),
            Some((guard, grounds)) => {
                let watcher = Watcher { guard: *guard, grounds: grounds.clone(), client: self.client };
                let (parts, places) = (self.parts.clone(), self.connection.places.clone());
                let asked = Asked { answer, parts, places, tenant: self.caller };
                Events::new(self.server, asked, watcher, (watch, mark, rate))
            }
        };
        let answering = self.connection.activity.answer();
        reply.map(|first| Body::Events(PartsBody::new(first, body, answering)).within(room))
    }

    async fn send(&self, plan: &SendPlan) -> Response<Body> {
        let control = &self.server.control;
        let opened = match control.open_download(plan).await {
            Ok(opened) => opened,
            Err(fault) => return self.refuse(&fault),
        };
        self.connection.standing.know();
        let tenant = match &opened {
            Opened::Drive { drive: volume, .. } | Opened::Tree(volume, _) => volume.tenant,
        };
        if let Err(fault) = self.count(tenant) {
            return self.refuse(&fault);
        }
        let (volume, image, checked) = match opened {
            Opened::Drive { drive, image, checked } => (drive, image, checked),
            Opened::Tree(tree, packable) => return self.send_tree(plan, &tree, packable),
        };
        // Unpredictable, so that no image can contain it (RFC 2046 section 5.1.1).
        let boundary = Uuid::new_v4().simple().to_string();
        // The time of the image, since the row changes for other reasons, too. A time written by a clock ahead of this
        // one is not reported as in the future.
        let modified = image.written().unwrap_or(volume.updated).min(control.now());
        let (mut head, chunks) = direct::answer(&self.call, &volume, (modified, checked), &boundary).into_parts();
        head.headers.insert(SERVER_TIMING, timing::until_first_byte(self.started.elapsed()));
        let is_data = |chunk: &Chunk| matches!(chunk, Chunk::Extent(_));
        if !chunks.iter().any(is_data) {
            let framing = chunks.into_iter().filter_map(|chunk| match chunk {
                Chunk::Framing(bytes) => Some(bytes),
                Chunk::Extent(_) => None,
            });
            return Response::from_parts(head, Body::Whole(framing.collect::<Vec<_>>().concat().into()));
        }
        let whole: u64 = chunks
            .iter()
            .map(|chunk| match chunk {
                Chunk::Framing(bytes) => bytes.len() as u64,
                Chunk::Extent(extent) => extent.len,
            })
            .sum();
        let parts = chunks
            .into_iter()
            .map(|chunk| match chunk {
                Chunk::Framing(bytes) => Part::Literal(bytes),
                Chunk::Extent(extent) => Part::Image(extent),
            })
            .collect();
        let regions = self.connection.regions.clone();
        let (route, regions) = match (image.file(), regions) {
            (Some(file), Some(regions)) => (Route::Kernel(file), Some(regions)),
            _ => (Route::Blocks(control.pool().clone(), control.tracker().clone()), None),
        };
        let (account, progress) = self.account_of_download(&volume);
        progress.watch_removal(image.removal());
        let outgoing = Outgoing::new(image, parts, route, progress);
        let sending = Sending::Image(Box::new(outgoing));
        self.download(Response::from_parts(head, ()), sending, regions, account.whole_at(whole))
    }

    fn send_tree(&self, plan: &SendPlan, tree: &Volume, packable: Packable) -> Response<Body> {
        let modified = tree.updated.min(self.server.control.now());
        let (head, has_body) = direct::archive(&self.call, tree, modified, plan.encoding);
        if !has_body {
            let bytes = |chunk| match chunk {
                Chunk::Framing(bytes) => Some(bytes),
                Chunk::Extent(_) => None,
            };
            return head.map(|chunks| Body::Whole(chunks.into_iter().find_map(bytes).unwrap_or_default()));
        }
        let (account, progress) = self.account_of_download(tree);
        let sending = Sending::Tree(packable.pack(plan.encoding, progress));
        self.download(head.map(drop), sending, None, account)
    }

    fn account_of_download(&self, volume: &Volume) -> (Account, Arc<Progress>) {
        let control = &self.server.control;
        let transport = self.connection.transport.clone();
        let progress = Arc::new(Progress::sending(volume.id, transport, self.connection.kill.clone()));
        let running = control.transfers().start(progress.clone());
        (Account::open(control.metrics(), running, Direction::Download, volume.id), progress)
    }

    fn download(
        &self,
        mut head: Response<()>,
        sending: Sending,
        regions: Option<FileRegions>,
        account: Account,
    ) -> Response<Body> {
        let counts = self.connection.transport.is_none();
        let mut download = Download::new(sending, regions, counts, account, self.connection.activity.work());
        if timing::takes_trailer(self.parts.version, &self.parts.headers) {
            head.headers_mut().insert(header::TRAILER, HeaderValue::from(SERVER_TIMING));
            download = download.with_timing();
        }
        head.map(|()| Body::Download(download))
    }

    async fn log_in(&self, login: &Login) -> Result<Outcome, Fault> {
        let token = self.server.logins.log_in(login, self.client).await;
        if token.as_ref().is_err_and(|fault| fault.kind != FaultKind::Internal) {
            self.server.metrics.login_failures.inc();
        }
        token.map(|(token, seconds)| Outcome::LoggedIn { token, seconds })
    }

    async fn authenticate(&self, guard: Guard) -> Result<Caller, Fault> {
        let caller = self.server.logins.authenticate(guard, self.parts, self.client).await;
        if caller.is_err() && has_credentials(guard, self.parts) {
            self.server.metrics.login_failures.inc();
        }
        caller
    }

    async fn report(&self, probe: Probe) -> Response<Body> {
        let control = &self.server.control;
        let report = match probe {
            Probe::Health => Report::Alive,
            Probe::Ready => Report::Ready(control.is_ready().await),
            Probe::Metrics => Report::Metrics(self.server.metrics.render(control.pool().in_use())),
        };
        whole(report.reply())
    }

    fn is_served(&self, endpoint: &Endpoint) -> bool {
        self.connection.side.is_none_or(|side| endpoint.side == Side::Either || endpoint.side == side)
    }

    /// Refuses a request whose body may be unread.
    async fn reject(&self, fault: &Fault, body: Payload) -> Response<Body> {
        self.leave(self.refuse(fault), body).await
    }

    /// Leaves the rest of a body behind: the connection goes on when that is read, and else ends with the answer, which
    /// says so. A peer that waits for 100 (Continue) has sent nothing that must be read, and may send it or not.
    async fn leave(&self, mut response: Response<Body>, mut body: Payload) -> Response<Body> {
        let is_waited_for = !body.is_asked_for() && self.parts.headers.contains_key(header::EXPECT);
        if !is_waited_for && !body.is_empty() {
            body.skip().await;
        }
        if body.is_empty() {
            return response;
        }
        if self.parts.version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            body.end_connection();
        }
        if !is_waited_for {
            body.linger(self.server.control.tracker());
        }
        response
    }

    fn refuse(&self, fault: &Fault) -> Response<Body> {
        if fault.is_of_open_files() && !self.server.has_told_of_files.swap(true, Ordering::Relaxed) {
            let told = "too many files are open; requests are refused until some are closed. Raise the limit on them";
            tracing::warn!(cause = ?fault.cause, "{told}");
        }
        if fault.kind == FaultKind::Internal {
            tracing::error!(route = self.route, cause = ?fault.cause, "internal error");
        } else {
            tracing::info!(route = self.route, kind = ?fault.kind, told = %fault.told, cause = ?fault.cause, "refused");
        }
        whole(self.dialect.fault(&self.call, fault, &self.connection.places))
    }
}

/// Whether the connection ends with this request (RFC 9112 section 9.3); after HTTP/1.0 always.
fn is_last(head: &Parts) -> bool {
    let closes = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close")))
    };
    head.version != Version::HTTP_11 || head.headers.get_all(header::CONNECTION).iter().any(closes)
}

fn whole(reply: Reply) -> Response<Body> {
    reply.map(Body::Whole)
}
