//! Sessions: trees that are filled together.
//!
//! A session begins with rows alone. Each upload unpacks into a content of its own that nobody sees, and one
//! transaction makes all contents of the session visible at its end. Whoever reads an old content is not disturbed: it
//! is unlinked when the last reader is done.
//!
//! # Crash
//! Open sessions go on after a restart, with what was received before it. Attempts that ran are undone.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::race::{Race, unless_lost};
use super::turns::{Turn, Turns};
use super::undo::{Undo, Undoing};
use super::volumes::Volumes;
use super::{Parts, TreeSettings};
use crate::auth::{digest_of, random_secret};
use crate::domain::{
    Began, ContentId, Fault, FaultKind, Initialization, Outcome, Principal, Secret, Session, SessionCommand, SessionId,
    SessionState, Source, TenantId, TreeSource, UnixTime, Upload, UploadId, UploadState, Volume, VolumeId, VolumeKind,
    VolumeState,
};
use crate::io::Pool;
use crate::meta::MetaError;
use crate::metrics::Metrics;
use crate::remote::{Location, Remote, ScratchSpace};
use crate::store::TreeStore;
use crate::transfer::{Stop, Transfers};

/// Trees of one session. Their rows are written in one transaction.
const MOST_TREES: usize = 64;

/// For how long the record of an ended session is kept: so long its uploaders are told that it is over.
const REMEMBER_SECONDS: u32 = 24 * 60 * 60;

/// Sessions, and the trees that they fill.
pub(super) struct Sessions {
    pub(super) volumes: Arc<Volumes>,
    pub(super) trees: Arc<dyn TreeStore>,
    pub(super) transfers: Transfers,
    pub(super) remote: Remote,
    /// Where fetches have what they need while they run.
    pub(super) scratch: ScratchSpace,
    /// The memory of the transfers.
    pub(super) pool: Pool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: TreeSettings,
    /// Turns to work on trees.
    pub(super) turns: Turns,
    /// Turns to fetch.
    pub(super) fetches: Turns,
    /// Attempts that were not undone when they should have been; the sweeper tries again.
    unended: Mutex<Vec<Unended>>,
    /// Whether nothing new is begun any more.
    draining: Arc<AtomicBool>,
}

impl Sessions {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>, draining: Arc<AtomicBool>) -> Arc<Self> {
        let settings = parts.settings.trees;
        Arc::new(Self {
            volumes,
            trees: parts.trees.clone(),
            transfers: parts.transfers.clone(),
            remote: parts.remote.clone(),
            scratch: parts.scratch.clone(),
            pool: parts.pool.clone(),
            metrics: parts.metrics.clone(),
            settings,
            turns: Turns::new(settings.streams, settings.least_rate),
            fetches: Turns::new(settings.fetches, settings.least_rate),
            unended: Mutex::default(),
            draining,
        })
    }

    pub(super) fn unended(&self) -> MutexGuard<'_, Vec<Unended>> {
        // A push or a take leaves it whole.
        self.unended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn to work on a tree, within a time that clients wait.
    pub(super) async fn turn(&self, tenant: TenantId) -> Result<Turn, Fault> {
        self.turns.take(tenant, self.settings.wait).await
    }

    pub(super) async fn execute(
        self: &Arc<Self>,
        principal: &Principal,
        command: SessionCommand,
    ) -> Result<Outcome, Fault> {
        match command {
            SessionCommand::Initialize(initialization) => self.initialize(principal, initialization).await,
            SessionCommand::Finish(token) => {
                let (sessions, principal) = (self.clone(), principal.clone());
                // To its end even when the caller goes: replaced contents are removed after the commit.
                let work = async move { sessions.finish_session(&principal, &token.0).await };
                self.volumes.tracker.spawn(work).await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
            }
            SessionCommand::List { limit, after } => {
                match self.volumes.meta.sessions(principal.tenant, limit, after).await {
                    Err(MetaError::NotFound) => Err(Fault::invalid("marker", "the marker is no session of yours")),
                    page => Ok(Outcome::Sessions(page?)),
                }
            }
            SessionCommand::Show(id) => Ok(Outcome::Session(Box::new(self.session_of_caller(principal, id).await?))),
            SessionCommand::Cancel(id) => {
                let session = self.session_of_caller(principal, id).await?;
                if self.drop_session(&session, SessionState::Failed, "it was cancelled").await? {
                    Ok(Outcome::Removed)
                } else {
                    Err(ended())
                }
            }
        }
    }

    async fn session_of_caller(&self, principal: &Principal, id: SessionId) -> Result<Session, Fault> {
        let session = self.volumes.meta.session(id).await?.filter(|session| session.tenant == principal.tenant);
        session.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such session"))
    }

    async fn initialize(self: &Arc<Self>, principal: &Principal, wish: Initialization) -> Result<Outcome, Fault> {
        if wish.trees.is_empty() || wish.trees.len() > MOST_TREES {
            let told = format!("a session has from 1 to {MOST_TREES} volumes");
            return Err(Fault::invalid("Volume", told));
        }
        let mut names = HashSet::new();
        if let Some(twice) = wish.trees.iter().find(|tree| !names.insert(tree.name.as_str())) {
            return Err(Fault::invalid("Volume", format!("the volume {} is named twice", twice.name)));
        }
        let mut race = Race::of("the volumes are");
        loop {
            race.round()?;
            let (token, cookie) = (random_secret(), random_secret());
            let mut planned = Planned::default();
            for tree in &wish.trees {
                self.plan(principal, tree, wish.reload, &mut planned).await?;
            }
            let now = self.volumes.clock.now();
            let session = Session {
                id: SessionId::random(),
                tenant: principal.tenant,
                user: principal.user_id,
                token: digest_of(&token),
                cookie: digest_of(&cookie),
                state: SessionState::Open,
                reason: None,
                created: now,
                expires: now.plus_seconds(self.settings.session_seconds),
                ended: None,
                uploads: planned.uploads,
            };
            // Whoever is not told of a session has no use for it, and it would keep others from its volumes: it is
            // dropped with the request, and when anything fails from here on, its first row included, of which nobody
            // knows then whether it was written.
            let unanswered = Unanswered { sessions: self.clone(), session: session.clone() };
            let mut undo = Undo::new(&self.volumes.tracker, unanswered);
            let outcome = match self.volumes.meta.begin_session(&session, planned.new, planned.old).await {
                // Made, deleted or initialised by others since it was looked at.
                Err(MetaError::Duplicate | MetaError::Conflict) => {
                    undo.complete();
                    continue;
                }
                Err(error) => Err(error.into()),
                Ok(()) => {
                    self.volumes.crash.hit("session: rows");
                    self.begin(&session, token, cookie).await
                }
            };
            match &outcome {
                Ok(_) => undo.complete(),
                Err(fault) => undo.now(&fault.told).await,
            }
            return outcome;
        }
    }

    /// Says what a session will do to one tree, or why it cannot.
    async fn plan(
        &self,
        principal: &Principal,
        wish: &TreeSource,
        reload: bool,
        planned: &mut Planned,
    ) -> Result<(), Fault> {
        let name = wish.name.clone();
        let mut old = self.volumes.meta.tree(principal.tenant, &name).await?;
        let conflict = |why: &str| Err(Fault::new(FaultKind::Conflict, format!("the volume {name} {why}")));
        if let Some(tree) = &old {
            if self.session_now(tree.id).await?.is_some() {
                return conflict("is being initialised");
            }
            // It may have gone with a session that was over.
            old = self.volumes.meta.tree(principal.tenant, &name).await?;
        }
        if let Some(tree) = &old {
            match tree.state {
                VolumeState::Available if tree.content.is_some() && !reload => {
                    return conflict("is initialised already; with Reload its content would be replaced");
                }
                VolumeState::Unavailable if !reload => {
                    return conflict("is damaged; with Reload its content would be replaced");
                }
                VolumeState::Available | VolumeState::Unavailable => {}
                _ => return conflict("is in use"),
            }
        }
        let source = match (&wish.source, old.as_ref().and_then(|tree| tree.source.as_deref())) {
            (Some(source), _) => source.clone(),
            (None, Some(text)) => {
                Source::parse(text).ok_or_else(|| Fault::internal("a source that was taken before"))?
            }
            (None, None) => {
                return Err(Fault::invalid("Source", format!("the volume {name} has no source to be loaded from")));
            }
        };
        if let Source::Remote(url) = &source {
            // What is no good is refused before it is written down: it may hold somebody's password.
            Location::parse(url).map_err(|error| {
                let fault = Fault::from(error);
                Fault { told: format!("volume {name}: {}", fault.told), ..fault }
            })?;
        }
        let volume = if let Some(tree) = &old {
            planned.old.push(tree.clone());
            tree.id
        } else {
            let size = self.settings.default_size;
            let (kind, state, now) = (VolumeKind::Tree, VolumeState::Uploading, self.volumes.clock.now());
            let tree = Volume::begun(principal.tenant, kind, &name, size, state, now);
            let id = tree.id;
            planned.new.push(tree);
            id
        };
        planned.uploads.push(Upload {
            id: UploadId::random(),
            volume,
            name,
            is_new: old.is_none(),
            content: ContentId::random(),
            source: source.text().to_owned(),
            is_remote: matches!(source, Source::Remote(_)),
            state: UploadState::Waiting,
            reason: None,
            members: 0,
            bytes: 0,
        });
        Ok(())
    }

    /// Fetches what is remote, and tells what is to be uploaded.
    async fn begin(self: &Arc<Self>, session: &Session, token: Secret, cookie: Secret) -> Result<Outcome, Fault> {
        let (remote, local): (Vec<&Upload>, Vec<&Upload>) = session.uploads.iter().partition(|part| part.is_remote);
        self.fetch_all(&remote).await?;
        if local.is_empty() {
            let (sessions, id) = (self.clone(), session.id);
            let work = async move { sessions.publish(id).await };
            self.volumes.tracker.spawn(work).await.map_err(Fault::internal)??;
            return Ok(Outcome::Began(None));
        }
        let uploads = local.iter().map(|upload| (upload.name.clone(), upload.id)).collect();
        Ok(Outcome::Began(Some(Began { token, cookie, uploads })))
    }

    /// Ends the session of a token. May be said again.
    async fn finish_session(&self, principal: &Principal, token: &Secret) -> Result<Outcome, Fault> {
        let session = self.volumes.meta.session_by_token(&digest_of(token)).await?;
        let session = session.filter(|session| session.tenant == principal.tenant);
        let session = session.ok_or_else(|| Fault::invalid("session", "there is no such session"))?;
        if session.state == SessionState::Open
            && let Some((state, why)) = self.over(&session)
        {
            self.drop_session(&session, state, why).await?;
        }
        self.publish(session.id).await.map(|()| Outcome::Finished)
    }

    /// Makes all that a session has received visible, if that is all of it; else drops it.
    async fn publish(&self, id: SessionId) -> Result<(), Fault> {
        let mut race = Race::of("the volumes are");
        loop {
            race.round()?;
            let Some(session) = self.volumes.meta.session(id).await? else {
                return Err(Fault::invalid("session", "there is no such session"));
            };
            match session.state {
                SessionState::Open => {}
                SessionState::Finished => return Ok(()),
                SessionState::Failed | SessionState::Expired => {
                    let why = session.reason.unwrap_or_default();
                    return Err(Fault::invalid("session", format!("the session has ended: {why}")));
                }
            }
            if let Some(missing) = missing_from(&session) {
                if self.drop_session(&session, SessionState::Failed, &missing).await? {
                    return Err(Fault::invalid("session", missing));
                }
                continue;
            }
            let mut trees = Vec::with_capacity(session.uploads.len());
            let mut replaced = Vec::new();
            let now = self.volumes.clock.now();
            for upload in &session.uploads {
                let Some(mut tree) = self.volumes.meta.volume(session.tenant, upload.volume).await? else { break };
                replaced.extend(tree.content);
                tree.fill(upload.content, &upload.source, now).map_err(super::busy_tree)?;
                trees.push(tree);
            }
            if trees.len() < session.uploads.len() {
                // It went with its session since that was read.
                continue;
            }
            if unless_lost(self.volumes.meta.finish_session(id, trees, replaced, now).await)?.is_none() {
                continue;
            }
            self.volumes.crash.hit("session: finished");
            self.volumes.remove_dropped().await;
            return Ok(());
        }
    }

    /// Ends a session that is open, and drops what it has received; whether nobody was first.
    pub(super) async fn drop_session(&self, session: &Session, state: SessionState, why: &str) -> Result<bool, Fault> {
        match self.volumes.meta.drop_session(session.id, state, why, self.volumes.clock.now()).await {
            Err(MetaError::Conflict) => return Ok(false),
            result => result?,
        }
        tracing::info!(session = %session.id, ?state, why, "a session was dropped");
        for upload in &session.uploads {
            self.transfers.stop_uploads(upload.volume, Stop::SessionEnded);
            if upload.state != UploadState::Received {
                // An attempt that still runs writes to what is in the trash now, and ends soon.
                self.volumes.remove_content(upload.content).await;
            }
        }
        self.volumes.remove_dropped().await;
        Ok(true)
    }

    /// The session that fills a tree. One that is over is dropped: nobody has to wait until the sweeper does it.
    pub(super) async fn session_now(&self, tree: VolumeId) -> Result<Option<Session>, Fault> {
        let Some(session) = self.volumes.meta.session_of(tree).await? else { return Ok(None) };
        let Some((state, why)) = self.over(&session) else { return Ok(Some(session)) };
        self.drop_session(&session, state, why).await?;
        Ok(None)
    }

    /// What becomes of an open session and why, if it is over: by its time, uploads that run then included, or with the
    /// login that it was begun with.
    fn over<'a>(&self, session: &'a Session) -> Option<(SessionState, &'a str)> {
        let end = session.expires.plus_seconds(self.settings.grace_seconds);
        match &session.reason {
            Some(reason) => Some((SessionState::Failed, reason)),
            None if self.volumes.clock.now() >= end => Some((SessionState::Expired, TOO_LATE)),
            None => None,
        }
    }

    /// Ends the sessions that nobody has ended in time.
    pub(super) async fn expire_sessions(&self) -> Result<(), Fault> {
        let now = self.volumes.clock.now();
        let ago = |seconds: u32| UnixTime(now.0 - i64::from(seconds) * 1000);
        for id in self.volumes.meta.overdue_sessions(ago(self.settings.grace_seconds)).await? {
            if let Some(session) = self.volumes.meta.session(id).await?
                && let Some((state, why)) = self.over(&session)
            {
                self.drop_session(&session, state, why).await?;
            }
        }
        Ok(self.volumes.meta.forget_sessions(ago(REMEMBER_SECONDS)).await?)
    }

    /// Undoes what a process that died was doing, before anything else runs.
    pub(super) async fn recover_sessions(&self) -> Result<(), Fault> {
        for id in self.volumes.meta.open_sessions().await? {
            let Some(session) = self.volumes.meta.session(id).await? else { continue };
            let is_fetching = |part: &Upload| part.is_remote && part.state != UploadState::Received;
            // Nobody was told the token of a session that only fetches.
            if session.uploads.iter().any(is_fetching) || session.uploads.iter().all(|part| part.is_remote) {
                self.drop_session(&session, SessionState::Failed, "the server was restarted meanwhile").await?;
                continue;
            }
            for part in session.uploads.iter().filter(|part| part.state != UploadState::Received) {
                self.volumes.remove_content(part.content).await;
            }
        }
        Ok(self.volumes.meta.end_attempts_of_the_dead("the server was restarted meanwhile").await?)
    }
}

/// An attempt that is over, and is to be undone.
pub(super) struct Unended {
    pub(super) upload: UploadId,
    pub(super) content: ContentId,
    pub(super) why: String,
}

fn ended() -> Fault {
    Fault::new(FaultKind::Conflict, "the session has ended")
}

/// What a session plans.
#[derive(Default)]
struct Planned {
    uploads: Vec<Upload>,
    new: Vec<Volume>,
    old: Vec<Volume>,
}

const TOO_LATE: &str = "it was not finished in time";

/// What keeps a session from being finished, by the names of its trees.
fn missing_from(session: &Session) -> Option<String> {
    let mut told = String::new();
    for part in session.uploads.iter().filter(|part| part.state != UploadState::Received) {
        let why = match (&part.reason, part.state) {
            (Some(reason), _) => reason.as_str(),
            (None, UploadState::Receiving) => "its archive is still being received",
            (None, _) => "no archive was received",
        };
        let _ = write!(told, "{}{}: {why}", if told.is_empty() { "" } else { "; " }, part.name);
    }
    (!told.is_empty()).then(|| format!("not initialised: {told}"))
}

/// A session of which its caller is not told.
struct Unanswered {
    sessions: Arc<Sessions>,
    session: Session,
}

impl Undoing for Unanswered {
    const CUT_OFF: &'static str = "whoever began it did not get an answer";
    // In all as long as a session of the usual length lives by itself.
    const AGAIN: &'static [u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 512, 512];

    fn hand_over(&mut self) -> Self {
        Self { sessions: self.sessions.clone(), session: self.session.clone() }
    }

    async fn undo(&mut self, why: &str) -> bool {
        let dropped = self.sessions.drop_session(&self.session, SessionState::Failed, why).await;
        if let Err(fault) = &dropped {
            tracing::error!(session = %self.session.id, cause = ?fault.cause, "a session is not dropped");
        }
        dropped.is_ok()
    }

    fn is_over(&self) -> bool {
        // A restart sees what the disk has.
        self.sessions.draining.load(Ordering::SeqCst) || !self.sessions.volumes.meta.is_writable()
    }
}
