//! One archive, from its first byte to a content that is durable and that nobody sees yet.
//!
//! # Crash
//! Row (receiving), directory, files, flush, row (received). A crash before the last leaves a directory that the next
//! start removes, and the uploader may try again.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::account::Account;
use super::sessions::{Sessions, Unended};
use super::turns::Turn;
use super::undo::{Undo, Undoing};
use crate::auth::is_secret;
use crate::domain::{
    ContentId, Fault, FaultKind, Outcome, SessionState, UnpackPlan, Unpacking, Upload, UploadId, UploadState, Volume,
    VolumeId,
};
use crate::meta::{Attempt, MetaError};
use crate::metrics::Direction;
use crate::remote::RemoteError;
use crate::store::TreeRecord;
use crate::transfer::{ByteSource, Progress, ReceiveError, Shape, UnpackOptions, start_unpack};
use crate::tree::{Limits, UnpackError, Unpacked};

/// An archive that may come. Dropping it undoes the attempt.
pub(crate) struct AdmittedTree {
    undo: Undo<Filling>,
    shape: Shape,
    tree: Volume,
    account: Account,
    /// Held until the thread has ended.
    turn: Turn,
}

impl Sessions {
    /// Admits an archive: everything that can refuse it happens here, before its first byte is asked for.
    pub(super) async fn admit_tree(self: &Arc<Self>, plan: &UnpackPlan) -> Result<AdmittedTree, Fault> {
        let part = self.volumes.meta.unpacking(plan.upload).await?;
        let part = part.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such uploader"))?;
        if !is_secret(&plan.cookie, &part.session.cookie) {
            return Err(Fault::new(FaultKind::TicketRefused, "the cookie is not the one of this uploader"));
        }
        let now = self.volumes.clock.now();
        check_open(&part, now >= part.session.expires)?;
        self.attempt(part.upload, Shape::Archive(plan.encoding), Progress::receiving).await
    }

    /// Begins an attempt to fill a tree of an open session.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        upload: Upload,
        shape: Shape,
        progress: impl FnOnce(VolumeId) -> Progress,
    ) -> Result<AdmittedTree, Fault> {
        let tree = self.volumes.meta.volume_any(upload.volume).await?;
        let tree = tree.ok_or_else(|| super::no_such_tree(&upload.name))?;
        let turn = self.turn(tree.tenant).await?;
        // Among the running before the row says so: a session that ends must find it.
        let progress = progress(tree.id);
        progress.hold(self.turns.wanted());
        let running = self.transfers.start(Arc::new(progress));
        let sessions = self.clone();
        // A task of its own: when the caller goes meanwhile, what it returns is dropped, and so undone.
        let start = async move {
            match sessions.volumes.meta.start_attempt(upload.id).await {
                Err(MetaError::Conflict) => {
                    let told = format!("an archive for the volume {} is being received, or was", upload.name);
                    return Err(Fault::new(FaultKind::Conflict, told));
                }
                result => result?,
            }
            let tracker = sessions.volumes.tracker.clone();
            let filling = Filling { sessions, upload: upload.id, content: upload.content, work: None };
            Ok(Undo::new(&tracker, filling))
        };
        let undo = self.volumes.tracker.spawn(start).await.map_err(Fault::internal)??;
        let account = Account::open(&self.metrics, running, Direction::Upload, tree.id);
        Ok(AdmittedTree { undo, shape, tree, account, turn })
    }

    /// Removes what an attempt has made, and lets another begin. What fails is left to the sweeper, or to the next
    /// start where nothing can be written.
    pub(super) async fn end_attempt(&self, attempt: Unended) {
        if !self.volumes.meta.is_writable() {
            return;
        }
        // In this order: another attempt writes to the same place.
        let is_removed = self.volumes.remove_content(attempt.content).await;
        if is_removed {
            match self.volumes.meta.end_attempt(attempt.upload, &Attempt::Failed(attempt.why.clone())).await {
                Ok(()) | Err(MetaError::Conflict) => return,
                Err(error) => {
                    let upload = attempt.upload;
                    tracing::error!(%upload, cause = ?error, "the end of an attempt is not noted; it is tried again");
                }
            }
        }
        self.unended().push(attempt);
    }
}

fn check_open(part: &Unpacking, is_late: bool) -> Result<(), Fault> {
    let is_taken = part.upload.state != UploadState::Waiting || part.upload.is_remote;
    let (kind, told) = match part.session.state {
        SessionState::Open if is_taken => (FaultKind::Conflict, "an archive is being received, or was"),
        SessionState::Open if is_late => (FaultKind::Gone, "the session has expired"),
        SessionState::Open => return Ok(()),
        SessionState::Finished => (FaultKind::Conflict, "an archive was received, and the session is finished"),
        SessionState::Failed => (FaultKind::Gone, "the session has ended"),
        SessionState::Expired => (FaultKind::Gone, "the session has expired"),
    };
    Err(Fault::new(kind, format!("volume {}: {told}", part.upload.name)))
}

impl AdmittedTree {
    /// The progress of this transfer.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.account.progress().clone()
    }

    /// Receives the archive. When it returns well, its content is durable, and visible when its session is finished.
    ///
    /// # Cancellation
    /// Dropping it before the last byte was received undoes the attempt; dropping it later lets it finish.
    pub(crate) async fn receive(mut self, source: &mut impl ByteSource) -> Result<Outcome, Fault> {
        let sessions = self.undo.sessions.clone();
        let progress = self.account.progress().clone();
        let size = self.tree.size.get();
        let options = UnpackOptions {
            shape: self.shape.clone(),
            limits: Limits { reserve: sessions.settings.reserve.get(), ..Limits::of_volume(size) },
            policy: sessions.settings.policy,
        };
        let into = (sessions.trees.clone(), self.undo.content);
        let (feeder, work) = match start_unpack(into, TreeRecord::from(&self.tree), options) {
            Ok(started) => started,
            Err(error) => return Err(self.fail(error.into()).await),
        };
        self.undo.work = Some(work);
        let fed = Box::pin(feeder.feed(source, &sessions.pool, &progress)).await;
        let finish = self.finish(fed);
        sessions.volumes.tracker.spawn(finish).await.unwrap_or_else(|crash| Err(Fault::internal(crash)))
    }

    async fn finish(mut self, fed: Result<(), ReceiveError>) -> Result<Outcome, Fault> {
        let sessions = self.undo.sessions.clone();
        let progress = self.account.progress().clone();
        let worked = progress.during(crate::transfer::Phase::Disk, self.undo.end()).await;
        let unpacked = match (fed, worked) {
            // What stopped it is why the thread found its stream broken.
            (Err(ReceiveError::Stopped(stop)), _) => Err(stop.into()),
            (Err(ReceiveError::Refused(fault)), _) => Err(fault),
            (Err(ReceiveError::Source(error)), _) if error.is::<RemoteError>() => {
                Err(error.downcast::<RemoteError>().map_or_else(Fault::internal, |error| (*error).into()))
            }
            (_, Some(Ok(Ok(unpacked)))) => Ok(unpacked),
            (_, Some(Ok(Err(error)))) => Err(error.into()),
            (_, Some(Err(crash))) => Err(Fault::internal(crash)),
            (_, None) => Err(Fault::internal("an archive that nobody unpacks")),
        };
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(fault) => return Err(self.fail(fault).await),
        };
        let attempt = Attempt::Received { members: unpacked.members, bytes: unpacked.bytes };
        match sessions.volumes.meta.end_attempt(self.undo.upload, &attempt).await {
            Ok(()) => {}
            Err(MetaError::Conflict) => {
                return Err(self.fail(Fault::new(FaultKind::Gone, "the session has ended")).await);
            }
            Err(error) => return Err(self.fail(error.into()).await),
        }
        sessions.volumes.crash.hit("unpack: received");
        tell(&self.tree, &unpacked);
        self.undo.complete();
        self.account.complete();
        drop(self.turn);
        Ok(Outcome::Unpacked)
    }

    /// Undoes at once, so that the caller who reads the refusal can try again.
    async fn fail(mut self, fault: Fault) -> Fault {
        self.undo.now(&fault.told).await;
        fault
    }
}

/// What was unpacked, and what of it was not taken over, for whoever runs the server.
fn tell(tree: &Volume, done: &Unpacked) {
    tracing::info!(
        volume = %tree.id,
        members = done.members,
        bytes = done.bytes,
        dropped_attributes = done.dropped_attributes,
        cleared_set_id = done.cleared_set_id,
        "archive unpacked"
    );
}

/// An attempt to fill a tree.
struct Filling {
    sessions: Arc<Sessions>,
    upload: UploadId,
    content: ContentId,
    /// The thread that unpacks: what it still writes cannot be removed.
    work: Option<JoinHandle<Result<Unpacked, UnpackError>>>,
}

impl Filling {
    /// Waits for the thread.
    async fn end(&mut self) -> Option<Result<Result<Unpacked, UnpackError>, tokio::task::JoinError>> {
        let ended = self.work.as_mut()?.await;
        self.work = None;
        Some(ended)
    }
}

impl Undoing for Filling {
    const CUT_OFF: &'static str = "the upload was cut off";

    fn hand_over(&mut self) -> Self {
        let (sessions, work) = (self.sessions.clone(), self.work.take());
        Self { sessions, upload: self.upload, content: self.content, work }
    }

    async fn undo(&mut self, why: &str) -> bool {
        let _ = self.end().await;
        let attempt = Unended { upload: self.upload, content: self.content, why: why.to_owned() };
        self.sessions.end_attempt(attempt).await;
        true
    }
}
