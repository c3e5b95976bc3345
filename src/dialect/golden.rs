//! Golden files: `fixtures/<dialect>/<case>.request` and what comes of it, word for word.
//!
//! A request is resolved and decoded as by the server; its command is the same after a way through JSON. `.command` is
//! the decoded intent or fault, `.response` the reply to a fixed outcome of it. A request may begin with lines that set
//! the scene: `# then: <fault>` has the execution fail (`WrongOffset` is a reason of one), `# places: public`
//! configures public URLs, `# as: admin` has an administrator call, `# as: nobody` one who is not known.
//! `LONGSHORE_GOLDEN=write cargo nextest run --lib golden` writes the files anew; read the difference.
//!
//! The comparison is ours: `insta` would put a header of its own before each text and its name behind each file's, and
//! what it saves is the one function [`compared`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::json;

use super::direct::{self, Chunk};
use super::resolve::{DIALECTS, routes};
use super::{
    Anonymous, Answer, Call, Dialect, Entry, Guard, Intent, Places, Probe, Reply, Report, Resolved, Work, openstack,
    resolve,
};
use crate::domain::{
    AnonymousCommand, Began, Blake3, ByteCount, Command, DigestedPieces, Digests, Extent, Extents, Fault, FaultKind,
    Finishes, Had, IdentityCommand, IdentityOutcome, Limiter, Limits, Listing, Media, Named, Outcome, PIECE, Page,
    Paged, PartTarget, Patch, PieceRun, Placement, Project, Proof, PublicKey, Reason, Receipt, ReceiptOf, Secret,
    Session, SessionCommand, SessionState, Sha256, SignedReceipt, Source, Survey, TenantId, Token, Transfer,
    TransferAction, TransferCommand, TransferSeen, TransferState, TreeSource, UnixTime, Upload, UploadState, User,
    Volume, VolumeId, VolumeKind, VolumeQuery, VolumeRef, VolumeSpec, VolumeState,
};

const ID: &str = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
const OTHER_ID: &str = "01938c2e-8f00-7c11-8d3e-6b1a2f4c9e05";
const TENANT: &str = "01938c2e-0000-7000-8000-000000000001";

/// Every kind of fault; the compiler makes the tables whole, and this list is read beside them.
const FAULTS: [FaultKind; 25] = [
    FaultKind::Invalid,
    FaultKind::BadFraming,
    FaultKind::Empty,
    FaultKind::Unauthenticated,
    FaultKind::Throttled { retry_after: 30 },
    FaultKind::TicketRefused,
    FaultKind::Forbidden,
    FaultKind::NotFound,
    FaultKind::MethodNotAllowed { allow: "GET, HEAD" },
    FaultKind::Conflict,
    FaultKind::Gone,
    FaultKind::NotAcceptable,
    FaultKind::UnsupportedMediaType,
    FaultKind::TooLarge,
    FaultKind::RangeNotSatisfiable { size: ByteCount::mib(512) },
    FaultKind::QuotaExceeded,
    FaultKind::NoSpace,
    FaultKind::DigestMismatch,
    FaultKind::BodyIncomplete,
    FaultKind::PeerTooSlow,
    FaultKind::Cancelled,
    FaultKind::Upstream,
    FaultKind::Corrupt,
    FaultKind::Unavailable,
    FaultKind::Internal,
];

#[test]
fn every_fixture_decodes_and_encodes_as_it_is_written() {
    let mut served = BTreeSet::new();
    let mut wrong = String::new();
    for path in requests() {
        let (command, response, coverage) = run(&fs::read_to_string(&path).unwrap());
        served.extend(coverage);
        for (extension, text) in [("command", command), ("response", response)] {
            wrong += &compared(&path.with_extension(extension), &text);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    for (_, route) in routes() {
        for endpoint in route.endpoints {
            for succeeds in [true, false] {
                let wanted = (unversioned(route.pattern), endpoint.method.to_string(), succeeds);
                assert!(served.contains(&wanted), "no fixture for {wanted:?}");
            }
        }
    }
}

#[test]
fn every_fault_is_told_as_the_table_of_its_dialect_says() {
    let (headers, mut wrong) = (HeaderMap::new(), String::new());
    let call = resolve(&Method::GET, "/", "", &headers, Some(0)).call;
    for dialect in DIALECTS {
        let told = |kind: &FaultKind| {
            let reply = dialect.fault(&call, &Fault::new(*kind, "the reason"), &relative_places());
            format!("# {kind:?}\n{}\n", printed(&reply))
        };
        let text: String = FAULTS.iter().map(told).collect();
        wrong += &compared(&fixtures().join(dialect.name).join("every-fault.txt"), &text);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn no_golden_file_is_left_without_its_request() {
    for path in files().into_iter().filter(|path| !path.ends_with("every-fault.txt")) {
        assert!(path.with_extension("request").exists(), "{}", path.display());
    }
}

/// What is wrong with a golden file; or nothing, after writing it anew when that was asked for.
fn compared(path: &Path, text: &str) -> String {
    if std::env::var_os("LONGSHORE_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(path, text).unwrap();
    }
    if fs::read_to_string(path).is_ok_and(|golden| golden == text) {
        return String::new();
    }
    format!("\n=== {} should be\n{text}", path.display())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn files() -> Vec<PathBuf> {
    let within =
        |dialect: &Dialect| fs::read_dir(fixtures().join(dialect.name)).unwrap().map(|entry| entry.unwrap().path());
    DIALECTS.into_iter().flat_map(within).collect()
}

fn requests() -> Vec<PathBuf> {
    let mut requests = files();
    requests.retain(|path| path.extension().is_some_and(|extension| extension == "request"));
    requests.sort();
    assert!(!requests.is_empty());
    requests
}

/// Paths with the version of an API before them are those without.
fn unversioned(pattern: &'static str) -> &'static str {
    let versions = ["/v1.{minor}", "/v1/{tenant}", "/v2/{tenant}", "/v2.1/{tenant}", "/v3/{tenant}"];
    match pattern {
        "/v1" | "/v2" | "/v3" => "one version",
        _ => versions.into_iter().find_map(|version| pattern.strip_prefix(version)).unwrap_or(pattern),
    }
}

/// Which endpoint a fixture is about, and whether it succeeds there.
type Coverage = (&'static str, String, bool);

fn run(text: &str) -> (String, String, Option<Coverage>) {
    let (mut then, mut places, mut lines) = (None, relative_places(), text);
    let mut principal = Some(openstack::fixture_principal(false));
    while let Some(line) = lines.strip_prefix("# ") {
        let (scene, rest) = line.split_once('\n').unwrap();
        match scene.split_once(": ").unwrap() {
            ("then", kind) => then = Some(fault_named(kind)),
            ("places", "public") => places = public_places(),
            ("as", "admin") => principal = Some(openstack::fixture_principal(true)),
            ("as", "nobody") => principal = None,
            other => panic!("{other:?}"),
        }
        lines = rest;
    }
    let (head, body) = lines.split_once("\n\n").unwrap_or((lines.trim_end(), ""));
    let mut head = head.lines();
    let mut start = head.next().unwrap().split(' ');
    let method: Method = start.next().unwrap().parse().unwrap();
    let (path, query) = start.next().map(|target| target.split_once('?').unwrap_or((target, ""))).unwrap();
    let headers: HeaderMap = head.map(|line| line.split_once(": ").unwrap()).map(field).collect();

    let length = match headers.get(http::header::CONTENT_LENGTH) {
        Some(length) => Some(length.to_str().unwrap().parse().unwrap()),
        None if headers.contains_key(http::header::TRANSFER_ENCODING) => None,
        None => Some(body.len() as u64),
    };
    let Resolved { call, dialect, route, endpoint } = resolve(&method, path, query, &headers, length);
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(fault) => return (told(&fault), printed(&dialect.fault(&call, &fault, &places)), None),
    };
    let decoded = match &principal {
        Some(principal) => endpoint.decode(&call, principal, body.as_bytes()),
        None => Err(unknown_caller(&endpoint.entry)),
    };
    if let Ok((Intent::Work(_, Work::Control(command)), _)) = &decoded {
        let sent = serde_json::to_string(command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&sent).as_ref().ok(), Some(command), "{sent}");
    }
    let succeeds = decoded.is_ok() && then.is_none();
    let coverage = (unversioned(route), endpoint.method.to_string(), succeeds);
    let command = match &decoded {
        Ok((intent, _)) => format!("{intent:#?}\n"),
        Err(fault) => told(fault),
    };
    let response = match (decoded, then) {
        (Err(fault), _) | (Ok(_), Some(fault)) => printed(&dialect.fault(&call, &fault, &places)),
        (Ok((intent, answer)), None) => answered(&answer, &call, &intent, &places),
    };
    (command, response, Some(coverage))
}

/// What the server says to who has no token.
fn unknown_caller(entry: &Entry) -> Fault {
    let Entry::Known(known) = entry else { panic!("it needs no caller") };
    assert_eq!(known.guard, Guard::Token);
    Fault::new(FaultKind::Unauthenticated, "a valid token is needed")
}

fn answered(answer: &Answer, call: &Call, intent: &Intent<()>, places: &Places) -> String {
    let told = |outcome: &Outcome| printed(&answer.encode(call, outcome, places).unwrap());
    match intent {
        Intent::Send(_) => {
            let answer = direct::answer(call, &drive(), (drive().created, None), "0123456789abcdef");
            let (head, chunks) = answer.into_parts();
            let length: usize = chunks.iter().map(chunk_len).sum();
            if let (Some(told), true) = (head.headers.get(http::header::CONTENT_LENGTH), !chunks.is_empty()) {
                assert_eq!(told.to_str().unwrap(), length.to_string(), "the length that is told is that of the chunks");
            }
            let body: String = chunks.iter().map(printed_chunk).collect();
            printed(&Reply::from_parts(head, body.into()))
        }
        Intent::Probe(probe) => printed(&report(*probe).reply()),
        Intent::Anonymous(anonymous) => told(&anonymous_outcome(anonymous)),
        Intent::Work(_, work) => told(&work_outcome(work).unwrap()),
        Intent::Receive(_, plan, ()) => {
            let sha256 = plan.wanted.sha256.then_some(Sha256([0xab; 32]));
            let blake3 = plan.wanted.blake3.then_some(Blake3([0xb3; 32]));
            let pieces = plan.wanted.pieces.then_some(Blake3([0xbe; 32]));
            let digests = Digests { sha256, blake3, pieces }.or(plan.asserted);
            told(&Outcome::Uploaded { id: drive().id, digests })
        }
        Intent::Part(_, plan, ()) => {
            let state = if plan.finishes == Finishes::Here { TransferState::Done } else { TransferState::Open };
            let seen = transfer(state, plan.size.unwrap_or(ByteCount::mib(1024)));
            let seen = match &plan.target {
                PartTarget::New(spec) => {
                    let transfer = Transfer { size: spec.size.or(seen.transfer.size), ..seen.transfer };
                    TransferSeen { transfer, ticket: Some(Secret::new("7e".repeat(32))), ..seen }
                }
                PartTarget::Ticketed(..) | PartTarget::Own(_) | PartTarget::Chunk(..) => seen,
            };
            told(&Outcome::Transfer(Box::new(seen)))
        }
        Intent::Unpack(_, ()) => told(&Outcome::Unpacked),
    }
}

fn report(probe: Probe) -> Report {
    match probe {
        Probe::Health => Report::Alive,
        Probe::Ready => Report::Ready(true),
        Probe::Metrics => Report::Metrics("# EOF\n".to_owned()),
    }
}

fn chunk_len(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Framing(text) => text.len(),
        Chunk::Extent(extent) => extent.len as usize,
    }
}

fn printed_chunk(chunk: &Chunk) -> String {
    match chunk {
        Chunk::Framing(text) => std::str::from_utf8(text).unwrap().replace("\r\n", "\n"),
        Chunk::Extent(extent) => format!("<{} bytes from {}>", extent.len, extent.offset),
    }
}

fn printed(reply: &Reply) -> String {
    let mut text = format!("HTTP/1.1 {}\n", reply.status());
    let mut fields: Vec<_> = reply.headers().iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in fields {
        writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
    }
    text.push('\n');
    let body = std::str::from_utf8(reply.body()).unwrap();
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(json) => text.push_str(&serde_json::to_string_pretty(&json).unwrap()),
        Err(_) => text.push_str(body),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn told(fault: &Fault) -> String {
    format!("{:?}\ntold: {}\npoint: {}\n", fault.kind, fault.told, fault.point.as_deref().unwrap_or("-"))
}

fn field((name, value): (&str, &str)) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}

fn fault_named(name: &str) -> Fault {
    let named = [("InconsistentLength", Reason::InconsistentLength), ("TransferComplete", Reason::TransferComplete)];
    if let Some((_, reason)) = named.into_iter().find(|(known, _)| *known == name) {
        return Fault::new(FaultKind::Conflict, "the reason, in a sentence").for_reason(reason);
    }
    if name == "WrongOffset" {
        let reason = Reason::WrongOffset { expected: 64 << 20, told: 0 };
        return Fault::new(FaultKind::Conflict, "the reason, in a sentence").for_reason(reason);
    }
    let named = |kind: &&FaultKind| format!("{kind:?}").split(' ').next() == Some(name);
    Fault::new(*FAULTS.iter().find(named).unwrap(), "the reason, in a sentence")
}

fn anonymous_outcome(anonymous: &Anonymous) -> Outcome {
    match anonymous {
        Anonymous::Login(_) => Outcome::LoggedIn { token: Secret::new("header.claims.signature"), seconds: 86_400 },
        Anonymous::Identity(AnonymousCommand::Describe) => Outcome::Identity(IdentityOutcome::Described),
        Anonymous::Identity(AnonymousCommand::Issue { proof, scope }) => {
            Outcome::Identity(issued(proof, scope.as_ref()))
        }
        Anonymous::Survey(plan) => {
            let data = if plan.wants_data { vec![0..1 << 20, 512 << 20..513 << 20] } else { Vec::new() };
            let data = Extents::from_sorted(data).unwrap();
            Outcome::Survey(Survey { size: drive().size, is_tree: false, data })
        }
        Anonymous::Transfer(id, _, action) => transfer_outcome(&TransferCommand::On(*id, action.clone())),
        Anonymous::Keys => Outcome::Keys(vec![PublicKey {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            kid: "5e".repeat(16),
            x: "c0".repeat(21),
        }]),
        Anonymous::Discover => Outcome::Discovered,
        Anonymous::Describe => Outcome::Described(limits()),
    }
}

fn work_outcome(work: &Work) -> Result<Outcome, Fault> {
    match work {
        Work::Control(command) => outcome(command),
        Work::Identity(command) => Ok(Outcome::Identity(identity_outcome(command))),
        Work::Watch { after, .. } => Ok(watched(after.as_deref())),
        Work::Discover => Ok(Outcome::Discovered),
    }
}

/// What is told to who watches a transfer: one that is done, if it was so when they were told last.
fn watched(after: Option<&str>) -> Outcome {
    let is_done = after.is_some_and(|after| after.starts_with(TransferState::Done.word()));
    let seen = transfer(if is_done { TransferState::Done } else { TransferState::Open }, ByteCount::mib(1024));
    Outcome::Watched { is_known: after == Some(&seen.mark()), seen: Box::new(seen) }
}

/// What the rest of the server would make of a command, on a day that never changes. Some changes do not fit the drive.
pub(super) fn outcome(command: &Command) -> Result<Outcome, Fault> {
    if let Some(outcome) = openstack::fixture_outcome(command) {
        return Ok(outcome);
    }
    Ok(match command {
        Command::List(query) => Outcome::Listing(listing(query)),
        Command::Show(VolumeRef::Tree(name)) => one(Volume { name: name.clone(), ..tree() }),
        Command::Show(_) => one(drive()),
        Command::Create(specs) => Outcome::Created(specs.iter().map(created).collect()),
        Command::CreateFrom { spec, .. } => Outcome::Created(vec![created(spec)]),
        Command::Change { patch, .. } => one(patched(patch)?),
        Command::Remove { .. } => Outcome::Removed,
        Command::Clone { patch, .. } => one(Volume {
            id: OTHER_ID.parse().unwrap(),
            name: patch.name.clone().unwrap_or(drive().name),
            media: patch.media.unwrap_or(drive().media),
            state: VolumeState::CloningTarget,
            ..drive()
        }),
        Command::OpenDownload(volume) => {
            let id = match volume {
                VolumeRef::Drive(id) | VolumeRef::Snapshot(id) | VolumeRef::Any(id) => *id,
                VolumeRef::Tree(_) => tree().id,
            };
            Outcome::Download { id, token: Secret::new("dGlja2V0") }
        }
        Command::Describe => Outcome::Described(limits()),
        Command::Receipt(of) => receipt(*of),
        Command::Session(command) => session_outcome(command),
        Command::Transfer(command) => transfer_outcome(command),
        Command::Digest(query) => Outcome::Digested(Box::new(DigestedPieces {
            drive: query.drive,
            size: ByteCount::mib(1024),
            from: query.from,
            pieces: vec![PieceRun::Zeros(12), PieceRun::Digests(vec![Blake3([0xb3; 32]); 2]), PieceRun::Zeros(1)],
            next: (query.limit == 2).then_some(query.from + 15),
        })),
        Command::Block(command) => panic!("{command:?}"),
        Command::In { command, .. } | Command::WithOwner { command, .. } => return outcome(command),
    })
}

fn receipt(of: ReceiptOf) -> Outcome {
    let receipt = Receipt {
        issuer: "https://cloud.example.com".to_owned(),
        issued: "2023-11-14T22:15:00Z".to_owned(),
        drive: drive().id,
        name: drive().name,
        tenant: drive().tenant,
        user: None,
        transfer: if let ReceiptOf::Transfer(id) = of { Some(id) } else { None },
        size: drive().size,
        allocated: Some(8 << 20),
        digest: drive().digests.into(),
        created: "2023-11-14T22:13:20Z".to_owned(),
        stored: Some("2023-11-14T22:14:00Z".to_owned()),
        checked: Some("2023-11-14T22:14:30Z".to_owned()),
        checked_from: Some("2023-11-14T22:14:20Z".to_owned()),
    };
    Outcome::Receipt(Box::new(SignedReceipt { receipt, jws: "header.receipt.signature".to_owned() }))
}

fn one(volume: Volume) -> Outcome {
    Outcome::Volume(Box::new(volume.into()))
}

/// A volume as one with a region is told.
fn placed(mut volume: Volume, volume_type: &str) -> Volume {
    let (region, user) = ("fce31a0c-0000-4000-8000-41caa1bdd251".to_owned(), "username".to_owned());
    Placement { region, volume_type: volume_type.to_owned(), user }.put(&mut volume.attributes);
    volume
}

fn listing(query: &VolumeQuery) -> Listing {
    let (volumes, page, total) = match query {
        VolumeQuery::Drives { page, .. } => (vec![drive(), lost_drive()], *page, 2),
        VolumeQuery::Trees(_) => {
            let empty = Volume { name: "empty".to_owned(), content: None, source: None, ..tree() };
            (vec![empty, tree()], Page { limit: None, offset: 0 }, 2)
        }
        VolumeQuery::Attached { .. } => panic!("{query:?}"),
        VolumeQuery::All(page) => (vec![placed(tree(), ""), placed(lost_drive(), "highspeedstorage")], *page, 12),
    };
    Listing { volumes, rest: Vec::new(), page, total }
}

fn created(spec: &VolumeSpec) -> Volume {
    let VolumeSpec { kind, name, size, media, meta, attributes, placement, block: _ } = spec.clone();
    let blank = match kind {
        VolumeKind::Tree => Volume { content: None, source: None, ..tree() },
        VolumeKind::Drive | VolumeKind::Snapshot => Volume { state: VolumeState::Creating, ..drive() },
    };
    let size = size.unwrap_or(blank.size);
    let volume = Volume { name, media, size, meta, attributes, ..blank };
    match placement {
        Some(placement) => placed(volume, &placement.volume_type),
        None => volume,
    }
}

fn session_outcome(command: &SessionCommand) -> Outcome {
    match command {
        SessionCommand::Initialize(wish) => {
            let is_uploaded = |tree: &&TreeSource| !matches!(tree.source, Some(Source::Remote(_)));
            let uploads: Vec<_> = wish
                .trees
                .iter()
                .filter(is_uploaded)
                .map(|tree| (tree.name.clone(), OTHER_ID.parse().unwrap()))
                .collect();
            let (token, cookie) = (Secret::new("5e".repeat(32)), Secret::new("c0".repeat(32)));
            Outcome::Began((!uploads.is_empty()).then_some(Began { token, cookie, uploads }))
        }
        SessionCommand::Finish(_) => Outcome::Finished,
        SessionCommand::List { limit, .. } => {
            Outcome::Sessions(Paged { items: vec![session()], has_more: *limit == 1 })
        }
        SessionCommand::Show(_) => Outcome::Session(Box::new(session())),
        SessionCommand::Cancel(_) => Outcome::Removed,
    }
}

fn transfer_outcome(command: &TransferCommand) -> Outcome {
    let size = ByteCount::mib(1024);
    if let TransferCommand::On(_, TransferAction::Have(have)) = command {
        let next = have.from + have.pieces.iter().map(PieceRun::count).sum::<u64>();
        let missing = vec![Extent { offset: 64 << 20, len: PIECE }, Extent { offset: 100 << 20, len: 3 * PIECE }];
        return Outcome::Had(Box::new(Had { missing, taken: 7 * PIECE, next: (have.from > 0).then_some(next) }));
    }
    Outcome::Transfer(Box::new(match command {
        TransferCommand::Create(spec) => {
            let begun = transfer(TransferState::Open, size);
            let transfer = Transfer {
                size: spec.size,
                data: spec.data,
                media: spec.media,
                name: spec.name.clone(),
                reference: spec.reference.clone(),
                metadata: spec.metadata.clone(),
                asserted: spec.asserted,
                origin: spec.origin.clone(),
                ..begun.transfer
            };
            TransferSeen { transfer, durable: Extents::default(), ticket: Some(Secret::new("7e".repeat(32))), ..begun }
        }
        TransferCommand::List(query) => {
            let items = vec![transfer(TransferState::Open, size), transfer(TransferState::Failed, size)];
            return Outcome::Transfers(Paged { items, has_more: query.limit == 2 });
        }
        TransferCommand::Fill(spec) => {
            let size = spec.size.unwrap();
            let drive = Volume { size, state: VolumeState::Uploading, digests: Digests::NONE, ..created(spec) };
            let begun =
                TransferSeen { ticket: Some(Secret::new("7e".repeat(32))), ..transfer(TransferState::Open, size) };
            return Outcome::Filling { drive: Box::new(drive), transfer: Box::new(begun) };
        }
        TransferCommand::OpenChunk(..) => return Outcome::ChunkLink(Secret::new("bGluaw")),
        TransferCommand::On(_, TransferAction::Finish(_)) => transfer(TransferState::Done, size),
        TransferCommand::On(_, TransferAction::Cancel) => transfer(TransferState::Cancelled, size),
        TransferCommand::Filling(_) | TransferCommand::On(..) => transfer(TransferState::Open, size),
    }))
}

/// A transfer in this state, of which some has come; at its end, all.
pub(super) fn transfer(state: TransferState, size: ByteCount) -> TransferSeen {
    let (is_failed, is_done) = (state == TransferState::Failed, state == TransferState::Done);
    let mut durable = Extents::default();
    durable.insert(0..64 << 20);
    durable.insert(512 << 20..513 << 20);
    if is_done {
        durable.insert(0..size.get());
    }
    TransferSeen {
        transfer: Transfer {
            id: OTHER_ID.parse().unwrap(),
            tenant: TENANT.parse().unwrap(),
            user: ID.parse().unwrap(),
            volume: ID.parse().unwrap(),
            name: "disk.img".to_owned(),
            size: Some(size),
            data: None,
            media: Media::Disk,
            reference: Some("batch 7".to_owned()),
            metadata: Some("filename ZGlzay5pbWc=".to_owned()),
            asserted: Digests { sha256: Some(Sha256([0xcd; 32])), ..Digests::NONE },
            ticket: Sha256([1; 32]),
            epoch: 2,
            state,
            reason: is_failed.then(|| "the bytes do not have the asserted SHA-256".to_owned()),
            lifetime: 86_400,
            created: UnixTime(1_700_000_000_000),
            updated: UnixTime(1_700_000_060_000),
            digests: if is_done { drive().digests } else { Digests::NONE },
            origin: None,
        },
        received: durable.total() + (if is_done { 0 } else { 5 << 20 }),
        durable,
        parts: 2,
        rate: 100 << 20,
        limit: Some(Limiter::Peer),
        ticket: None,
        most: limits().max_drive,
        left: 86_400,
    }
}

fn issued(proof: &Proof, scope: Option<&Named<TenantId>>) -> IdentityOutcome {
    let mut token = token();
    if let Proof::Password { user: Named::Name(name), .. } = proof {
        token.user.name.clone_from(name);
    }
    token.chain = matches!(proof, Proof::Token(_)).then(|| ID.parse().unwrap());
    match scope {
        None => {}
        Some(Named::Id(id)) => token.project.id = *id,
        Some(Named::Name(name)) => token.project.name.clone_from(name),
    }
    IdentityOutcome::Issued {
        token: Box::new(token),
        secret: Secret::new("5e".repeat(32)),
        region: "RegionOne".to_owned(),
    }
}

fn identity_outcome(command: &IdentityCommand) -> IdentityOutcome {
    let region = "RegionOne".to_owned();
    match command {
        IdentityCommand::ShowToken(_) => {
            let mut token = token();
            token.user.is_admin = true;
            IdentityOutcome::Token { token: Box::new(token), region }
        }
        IdentityCommand::Revoke(_) => IdentityOutcome::Revoked,
        IdentityCommand::Catalog => IdentityOutcome::Catalog { project: token().project.id, region },
        IdentityCommand::OwnProjects { name } | IdentityCommand::ProjectsOf { name, .. } => {
            let named = |name: &String| Project { name: name.clone(), ..token().project };
            IdentityOutcome::Projects(vec![name.as_ref().map_or(token().project, named)])
        }
        IdentityCommand::Project(id) => IdentityOutcome::Project(Project { id: *id, ..token().project }),
        IdentityCommand::Users { name } => {
            let named = |name: &String| User { name: name.clone(), ..token().user };
            IdentityOutcome::Users(vec![name.as_ref().map_or(token().user, named)])
        }
        IdentityCommand::User(id) => IdentityOutcome::User(User { id: *id, ..token().user }),
    }
}

/// A token of an ordinary user, in their own project.
fn token() -> Token {
    let project = Project { id: TENANT.parse().unwrap(), name: "red".to_owned() };
    Token {
        id: OTHER_ID.parse().unwrap(),
        user: User { id: ID.parse().unwrap(), name: "alice".to_owned(), project: project.id, is_admin: false },
        project,
        chain: None,
        issued: UnixTime(1_700_000_000_000),
        expires: UnixTime(1_700_086_400_123),
    }
}

/// A tree that was filled.
fn tree() -> Volume {
    Volume {
        kind: VolumeKind::Tree,
        name: "vol1".to_owned(),
        size: ByteCount::mib(10 << 10),
        digests: Digests::NONE,
        content: Some(OTHER_ID.parse().unwrap()),
        source: Some("/local/dir".to_owned()),
        meta: json!({"autoremove": "true"}).as_object().cloned().unwrap(),
        attributes: serde_json::Map::new(),
        ..drive()
    }
}

/// A session that failed, with an upload in each state.
fn session() -> Session {
    let upload = |name: &str, state, reason: Option<&str>| Upload {
        id: OTHER_ID.parse().unwrap(),
        volume: ID.parse().unwrap(),
        name: name.to_owned(),
        is_new: true,
        content: OTHER_ID.parse().unwrap(),
        source: "/local/dir".to_owned(),
        is_remote: false,
        state,
        reason: reason.map(str::to_owned),
        members: 7,
        bytes: 4096,
    };
    Session {
        id: ID.parse().unwrap(),
        tenant: TENANT.parse().unwrap(),
        user: ID.parse().unwrap(),
        token: Sha256([1; 32]),
        cookie: Sha256([2; 32]),
        state: SessionState::Failed,
        reason: Some("it was cancelled".to_owned()),
        created: UnixTime(1_700_000_000_000),
        expires: UnixTime(1_700_001_800_000),
        ended: Some(UnixTime(1_700_000_060_000)),
        uploads: vec![
            upload("one", UploadState::Received, None),
            upload("two", UploadState::Receiving, None),
            upload("three", UploadState::Waiting, Some("entry 2 \"../x\" at byte 512: a name with ..")),
        ],
    }
}

fn patched(patch: &Patch) -> Result<Volume, Fault> {
    let mut drive = drive();
    patch.clone().apply(&mut drive)?;
    if let Some(size) = patch.size.filter(|size| *size != drive.size) {
        (drive.size, drive.state) = (size, VolumeState::Resizing);
    }
    Ok(drive)
}

/// A drive that has everything.
pub(super) fn drive() -> Volume {
    let map = |value: serde_json::Value| value.as_object().cloned().unwrap();
    Volume {
        id: ID.parse().unwrap(),
        tenant: TENANT.parse::<TenantId>().unwrap(),
        kind: VolumeKind::Drive,
        name: "disk.img".to_owned(),
        media: Media::Disk,
        size: ByteCount::mib(1024),
        charged: ByteCount::mib(1024),
        state: VolumeState::Available,
        reason: None,
        generation: 3,
        revision: 7,
        created: UnixTime(1_700_000_000_000),
        updated: UnixTime(1_700_000_100_000),
        digests: Digests {
            sha256: Some(Sha256([0xcd; 32])),
            blake3: Some(Blake3([0xb3; 32])),
            pieces: Some(Blake3([0xbe; 32])),
        },
        content: None,
        source: None,
        meta: map(json!({"description": "a \"quoted\" text"})),
        attributes: map(json!({"tags": ["a", "b"], "allow_multimount": true})),
    }
}

fn lost_drive() -> Volume {
    Volume {
        id: OTHER_ID.parse::<VolumeId>().unwrap(),
        name: "lost".to_owned(),
        media: Media::Cdrom,
        state: VolumeState::Unavailable,
        reason: Some("piece 12 does not match its digest".to_owned()),
        meta: serde_json::Map::new(),
        attributes: serde_json::Map::new(),
        ..drive()
    }
}

pub(super) fn limits() -> Limits {
    Limits { min_drive: ByteCount::mib(512), max_drive: ByteCount::mib(1 << 20) }
}

pub(super) fn relative_places() -> Places {
    let here = "http://127.0.0.1:8700".to_owned();
    Places {
        control: here.clone(),
        control_relative: true,
        direct: here.clone(),
        direct_relative: true,
        identity: here,
    }
}

pub(super) fn public_places() -> Places {
    Places {
        control: "https://api.example.com".to_owned(),
        control_relative: false,
        direct: "https://direct.example.com:8443".to_owned(),
        direct_relative: false,
        identity: "https://identity.example.com".to_owned(),
    }
}
