//! One download, from its ticket to an open image or tree.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Parts;
use super::bearer::check_bearer;
use super::bells::Bells;
use super::sessions::Sessions;
use super::survey::data_of;
use super::turns::{Turn, Turns};
use super::volumes::{MISSING, Volumes, check_readable};
use crate::auth::{TicketLife, Tickets};
use crate::domain::{
    Algorithms, ContentId, Encoding, Extents, Fault, FaultKind, Outcome, Principal, Secret, SendPlan, Survey,
    SurveyPlan, Ticket, UnixTime, Verb, Volume, VolumeId, VolumeRef,
};
use crate::meta::{Batch, JobKind, NewJob, UserRecord};
use crate::store::{Image, OpenTree, StoreError, TreeReadError, TreeStore};
use crate::transfer::{Packing, Progress, Wanted};

/// A volume that may be sent.
pub(crate) enum Opened {
    /// A drive.
    Drive {
        /// What we know of it.
        drive: Volume,
        /// Its bytes.
        image: Arc<dyn Image>,
        /// When they were last read back and found whole, for who asked for their digest.
        checked: Option<UnixTime>,
    },
    /// A tree, with what we know of it.
    Tree(Volume, Packable),
}

/// A tree that may be packed, and the turn to do it.
pub(crate) struct Packable {
    volumes: Arc<Volumes>,
    volume: Box<Volume>,
    tree: Box<dyn OpenTree>,
    turn: Turn,
    wanted: Arc<Wanted>,
}

impl Packable {
    /// Starts to pack it.
    pub(crate) fn pack(self, encoding: Encoding, progress: Arc<Progress>) -> Packing {
        progress.hold(self.wanted);
        progress.watch_removal(self.tree.removal());
        let Self { volumes, volume, tree, turn, .. } = self;
        let runtime = Handle::current();
        let damaged = move |why: String| {
            if let Err(fault) = runtime.block_on(volumes.mark_spoiled(&volume, &why)) {
                tracing::error!(drive = %volume.id, why, cause = ?fault, "a damaged volume cannot be marked");
            }
        };
        Packing::start(tree, encoding, progress, turn, damaged)
    }
}

/// Downloads, by tickets.
pub(super) struct Downloads {
    volumes: Arc<Volumes>,
    sessions: Arc<Sessions>,
    trees: Arc<dyn TreeStore>,
    tickets: Arc<Tickets>,
    /// How long a ticket is good.
    life: TicketLife,
    /// Turns to look where drives have data.
    surveys: Turns,
    /// For how long one waits for such a turn.
    wait: Duration,
    bells: Bells,
}

/// The drives that are looked through at once: each takes some memory, and a thread.
const SURVEYS: usize = 2;

impl Downloads {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>, sessions: Arc<Sessions>, bells: Bells) -> Self {
        let (trees, tickets) = (parts.trees.clone(), parts.tickets.clone());
        let (life, wait) = (parts.settings.tickets, parts.settings.trees.wait);
        let surveys = Turns::new(SURVEYS, 0);
        Self { volumes, sessions, trees, tickets, life, surveys, wait, bells }
    }

    /// A new ticket to download the caller's volume.
    pub(super) async fn open_ticket(&self, principal: &Principal, volume: &VolumeRef) -> Result<Outcome, Fault> {
        let volume = self.volumes.look_up(principal.tenant, volume).await?;
        check_readable(&volume)?;
        if volume.is_tree() {
            check_filled(&volume)?;
        }
        let expires = self.volumes.clock.now().plus_seconds(self.life.seconds);
        // Users of an identity service elsewhere are not kept here.
        let user = self.volumes.meta.user_with_id(principal.user_id).await?;
        let ticket = Ticket {
            verb: Verb::Download,
            volume: volume.id,
            tenant: volume.tenant,
            user: user.as_ref().map(|user| user.id),
            expires,
        };
        Ok(Outcome::Download { id: volume.id, token: self.tickets.issue(&ticket, user.as_ref()) })
    }

    /// The volume that a ticket is for, if it may be read.
    async fn admitted(&self, token: &Secret, id: VolumeId) -> Result<Volume, Fault> {
        let ticket = self.tickets.use_ticket(token.reveal(), self.life, self.volumes.clock.now())?;
        if ticket.verb != Verb::Download || ticket.volume != id {
            return Err(Fault::new(FaultKind::TicketRefused, "this download link is for another volume"));
        }
        let is_of = |user: &UserRecord| self.tickets.is_of(token.reveal(), user);
        let told = "this download link has ended with the login that it was made by";
        check_bearer(&self.volumes.meta, (ticket.user, ticket.tenant), is_of, told).await?;
        let volume = self.volumes.meta.volume(ticket.tenant, ticket.volume).await?;
        let volume = volume.ok_or_else(|| Fault::new(FaultKind::NotFound, "the volume does not exist any more"))?;
        check_readable(&volume)?;
        Ok(volume)
    }

    async fn image(&self, volume: &Volume) -> Result<Arc<dyn Image>, Fault> {
        match self.volumes.open_as_recorded(volume).await {
            Ok(image) => Ok(image),
            Err(StoreError::Damaged(_, why)) => {
                // Deleted or grown, perhaps, since the row was read.
                check_readable(&self.volumes.mark_spoiled(volume, why).await?)?;
                Err(Fault::new(FaultKind::Conflict, "the drive was changed meanwhile; try again"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells what can be had of the volume that a ticket is for.
    pub(super) async fn survey(&self, plan: &SurveyPlan) -> Result<Outcome, Fault> {
        let volume = self.admitted(&plan.token, plan.id).await?;
        let mut survey = Survey { size: volume.size, is_tree: volume.is_tree(), data: Extents::default() };
        if plan.wants_data {
            if survey.is_tree {
                return Err(Fault::new(FaultKind::NotFound, "a volume that is sent as an archive has no extents"));
            }
            let image = self.image(&volume).await?;
            let told = "as many drives as can be are looked through for their holes; try again";
            let turn = self.surveys.take(volume.tenant, self.wait).await;
            let _turn = turn.map_err(|_| Fault::new(FaultKind::Unavailable, told))?;
            survey.size = image.size();
            survey.data = data_of(&*image).await.map_err(StoreError::from)?;
        }
        Ok(Outcome::Survey(survey))
    }

    /// Opens the volume that a ticket is for.
    pub(super) async fn open(&self, plan: &SendPlan) -> Result<Opened, Fault> {
        let volume = self.admitted(&plan.token, plan.id).await?;
        if volume.is_tree() {
            return self.open_tree(volume).await;
        }
        let image = self.image(&volume).await?;
        let mut checked = None;
        if !plan.wanted.is_empty() {
            let last = self.volumes.meta.last_checked(volume.id, volume.generation).await?;
            checked = last.map(|reading| reading.ended);
            // Also when it is known: whoever wants the digest wants to know what the disk has now. A volume has one
            // such job at most. Nobody is told of it, so that it need not outlive a power cut.
            let spares_holes = plan.wanted == Algorithms::PIECES;
            let seal = NewJob::new(JobKind::Seal { spares_holes }, volume.id, self.volumes.clock.now());
            self.volumes.meta.apply(Batch { enqueue: vec![seal], is_provisional: true, ..Batch::default() }).await?;
            self.bells.wake();
        }
        Ok(Opened::Drive { drive: volume, image, checked })
    }

    async fn open_tree(&self, tree: Volume) -> Result<Opened, Fault> {
        let content = check_filled(&tree)?;
        let turn = self.sessions.turn(tree.tenant).await?;
        let trees = self.trees.clone();
        let opened = self.volumes.tracker.spawn_blocking(move || trees.open(content)).await.map_err(Fault::internal)?;
        match opened {
            Ok(opened) => {
                let (volumes, wanted) = (self.volumes.clone(), self.sessions.turns.wanted());
                let packable = Packable { volumes, volume: Box::new(tree.clone()), tree: opened, turn, wanted };
                Ok(Opened::Tree(tree, packable))
            }
            Err(TreeReadError::Missing) => {
                let now = self.volumes.meta.volume(tree.tenant, tree.id).await?;
                if now.is_none_or(|now| now.content != tree.content) {
                    return Err(Fault::new(FaultKind::Conflict, "the volume was changed meanwhile; try again"));
                }
                check_readable(&self.volumes.mark_spoiled(&tree, MISSING).await?)?;
                Err(Fault::new(FaultKind::Conflict, "the volume was changed meanwhile; try again"))
            }
            Err(TreeReadError::Damaged(why)) => {
                check_readable(&self.volumes.mark_spoiled(&tree, why).await?)?;
                Err(Fault::new(FaultKind::Conflict, "the volume was changed meanwhile; try again"))
            }
            Err(error) => Err(Fault::internal(error)),
        }
    }
}

/// The content of a tree that has some.
pub(super) fn check_filled(tree: &Volume) -> Result<ContentId, Fault> {
    let told = || Fault::new(FaultKind::Conflict, format!("the volume {} was never initialised", tree.name));
    tree.content.ok_or_else(told)
}
