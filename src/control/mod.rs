//! The use cases: commands on volumes, uploads, sessions, downloads, jobs, the sweeper, the scrub. Knows no wire
//! format.
//!
//! # Order of things
//! A row names a content before there is any of it, and says that it is whole once it is durable: that is its
//! publication, also where it takes the place of another (I6). Bytes are removed when no row refers to them but one
//! that says that they are to go. So after a crash there is garbage, which is found by its row, and never a ready row
//! without its bytes.

mod account;
mod bearer;
mod bells;
mod block;
mod creation;
mod download;
mod drives;
mod fetch;
mod growth;
mod jobs;
mod listing;
mod operator;
mod pieces;
mod race;
mod receipts;
mod removal;
mod scrub;
mod seal;
mod sessions;
mod supervise;
mod survey;
mod sweep;
mod transfers;
mod turns;
mod undo;
mod unpack;
mod upload;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::Archive;
use crate::auth::{Receipts, TicketLife, Tickets};
use crate::domain::{
    ByteCount, Catalogue, Clock, Command, CrashPoints, Fault, FaultKind, IllegalStep, Limits, Outcome, Owned, PartPlan,
    Principal, PublicKey, Reason, ReceivePlan, Secret, SendPlan, SurveyPlan, TenantId, TransferAction, TransferId,
    UnixTime, UnpackPlan, Volume, VolumeId, VolumeState,
};
use crate::io::Pool;
use crate::meta::{Meta, Owner};
use crate::metrics::Metrics;
use crate::remote::{ImageService, Remote, ScratchSpace};
use crate::store::{BlockStore, Ledger, TreeStore};
use crate::transfer::Transfers;
use crate::tree::Policy;

use bells::Bells;
use block::{Attachments, Backups, Block, Copies};
use creation::Creations;
use download::Downloads;
use drives::Drives;
use jobs::Jobs;
use listing::Lists;
use pieces::Digesting;
use receipts::Receipting;
use removal::Removals;
use scrub::Scrubs;
use sessions::Sessions;
use sweep::Sweeper;
use transfers::Assemblies;
use upload::Uploads;
use volumes::Volumes;

pub(crate) use account::Account;
pub(crate) use block::BlockSettings;
pub(crate) use download::{Opened, Packable};
pub(crate) use listing::LIST_PART;
pub(crate) use operator::{Audience, Operator};
pub(crate) use scrub::ScrubSettings;
pub(crate) use supervise::Supervisor;
pub(crate) use transfers::{AdmittedPart, TransferSettings, Watch};
pub(crate) use unpack::AdmittedTree;
pub(crate) use upload::Admitted;

/// What the use cases work with.
pub(crate) struct Parts {
    /// The database.
    pub meta: Meta,
    /// Where the bytes of drives are.
    pub store: Arc<dyn BlockStore>,
    /// Where the trees are.
    pub trees: Arc<dyn TreeStore>,
    /// What is elsewhere.
    pub remote: Remote,
    /// Where fetches have what they need while they run.
    pub scratch: ScratchSpace,
    /// Memory for transfers.
    pub pool: Pool,
    /// Makes and checks download tickets.
    pub tickets: Arc<Tickets>,
    /// Signs receipts.
    pub receipts: Arc<Receipts>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The running transfers.
    pub transfers: Transfers,
    /// The metrics that use cases update.
    pub metrics: Arc<Metrics>,
    /// Owns every task that is started here.
    pub tracker: TaskTracker,
    /// Where a test makes us crash.
    pub crash: CrashPoints,
    /// How to go about it.
    pub settings: Settings,
    /// What block storage offers.
    pub block: BlockSettings,
    /// The storage of backups.
    pub archive: Archive,
    /// The account of the file system that they are on, where they are in a directory.
    pub archive_space: Option<Arc<Ledger>>,
    /// The image service; without one, images are drives here.
    pub images: Option<ImageService>,
    /// Which regions and types there are, for those who ask for them.
    pub catalogue: Catalogue,
}

/// How the use cases go about their work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Sizes that are taken.
    pub limits: Limits,
    /// Writes in flight for one upload.
    pub depth: usize,
    /// Whether every upload gets a SHA-256, asked or not.
    pub always_sha256: bool,
    /// Whether every finished upload is sealed.
    pub always_seal: bool,
    /// How long a ticket is good.
    pub(crate) tickets: TicketLife,
    /// For how long what nobody knows is kept after it was set aside; for good when absent.
    pub keep_lost: Option<Duration>,
    /// How what is stored is checked; it is not when absent.
    pub scrub: Option<ScrubSettings>,
    /// About trees.
    pub trees: TreeSettings,
    /// About transfers.
    pub transfers: TransferSettings,
}

/// Settings for tree volumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TreeSettings {
    /// The size of a tree for which none is asked.
    pub default_size: ByteCount,
    /// Nothing larger is made.
    pub max_size: ByteCount,
    /// For how long after its beginning the uploads of a session may start.
    pub session_seconds: u32,
    /// For how long after that uploads that have started may go on, and the session may be finished.
    pub grace_seconds: u32,
    /// How many archives are unpacked or packed at once.
    pub streams: usize,
    /// For how long one waits for its turn.
    pub wait: Duration,
    /// Bytes a second that an archive moves at least while others wait for its turn.
    pub least_rate: u64,
    /// Free space that is never taken.
    pub reserve: ByteCount,
    /// How many sources are fetched at once.
    pub fetches: usize,
    /// Whether fetched files are unpacked whose names end like an archive's.
    pub unpack_remote: bool,
    /// What is taken over from archives.
    pub policy: Policy,
}

/// The use cases.
pub(crate) struct Control {
    parts: Parts,
    volumes: Arc<Volumes>,
    jobs: Arc<Jobs>,
    supervisor: Supervisor,
    draining: Arc<AtomicBool>,
    lists: Lists,
    creations: Arc<Creations>,
    copies: Copies,
    drives: Arc<Drives>,
    block: Block,
    removals: Removals,
    uploads: Arc<Uploads>,
    downloads: Downloads,
    receipts: Receipting,
    digesting: Arc<Digesting>,
    sessions: Arc<Sessions>,
    assemblies: Arc<Assemblies>,
    sweeper: Arc<Sweeper>,
    scrubs: Scrubs,
}

impl Control {
    /// The use cases over these parts.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let volumes = Volumes::new(&parts);
        let bells = Bells::default();
        let backups = Backups::new(&parts, volumes.clone(), bells.clone());
        let supervisor = Supervisor::new(parts.tracker.clone(), parts.metrics.clone());
        let draining = Arc::new(AtomicBool::new(false));
        let sessions = Sessions::new(&parts, volumes.clone(), draining.clone());
        let attachments = Arc::new(Attachments::new(volumes.clone()));
        let drives = Arc::new(Drives::new(volumes.clone(), bells.clone()));
        let uploads = Uploads::new(&parts, volumes.clone(), bells.clone());
        let digesting = Digesting::new(&parts, volumes.clone());
        let assemblies = Assemblies::new(&parts, volumes.clone(), bells.clone(), digesting.clone());
        Arc::new(Self {
            copies: Copies::new(&parts, volumes.clone(), uploads.clone(), bells.clone()),
            sweeper: Sweeper::new(&parts, volumes.clone(), sessions.clone(), assemblies.clone()),
            uploads,
            lists: Lists::new(&parts, volumes.clone()),
            creations: Creations::new(&parts, volumes.clone()),
            block: Block::new(&parts, drives.clone(), attachments, backups.clone()),
            drives,
            removals: Removals::new(&parts, volumes.clone(), sessions.clone(), assemblies.clone()),
            downloads: Downloads::new(&parts, volumes.clone(), sessions.clone(), bells.clone()),
            receipts: Receipting::new(&parts, volumes.clone()),
            digesting,
            sessions,
            assemblies,
            scrubs: Scrubs::new(&parts, volumes.clone()),
            jobs: Jobs::new(&parts, volumes.clone(), backups, bells, supervisor.clone()),
            supervisor,
            volumes,
            parts,
            draining,
        })
    }

    /// Starts the workers; they end when `stop` is cancelled. A job that is cut short is begun again at the next start.
    pub(crate) async fn start_jobs(&self, stop: &CancellationToken) -> Result<(), Fault> {
        self.jobs.start(stop).await
    }

    /// Cleans up after the process before, before anything else runs. If the database `may_be_old`, what it calls not
    /// complete may have become so later.
    pub(crate) async fn recover(&self, may_be_old: bool) -> Result<(), Fault> {
        self.sweeper.recover(may_be_old).await
    }

    /// Sweeps until `stop` is cancelled.
    pub(crate) fn start_sweeper(&self, stop: &CancellationToken) {
        self.sweeper.start(&self.supervisor, stop);
    }

    /// Checks what is stored until `stop` is cancelled, unless that is off.
    pub(crate) fn start_scrub(&self, stop: &CancellationToken) {
        self.scrubs.start(&self.supervisor, stop);
    }

    /// Executes one command for a caller.
    pub(crate) async fn execute(self: &Arc<Self>, principal: &Principal, command: Command) -> Result<Outcome, Fault> {
        match command {
            Command::List(query) => self.lists.list(principal, query).await,
            Command::Show(volume) => self.volumes.told(self.volumes.look_up(principal.tenant, &volume).await?).await,
            Command::Create(specs) => self.creations.create(principal, specs).await,
            Command::CreateFrom { source, spec } => Box::pin(self.copies.create(principal, source, *spec)).await,
            Command::Change { volume, patch } => self.drives.change(principal, &volume, patch).await,
            Command::Remove { volumes, reach } => self.removals.remove(principal, &volumes, reach).await,
            Command::Clone { id, patch } => self.drives.clone_drive(principal, id, patch).await,
            Command::OpenDownload(volume) => self.downloads.open_ticket(principal, &volume).await,
            Command::Describe => Ok(Outcome::Described(self.limits())),
            Command::Receipt(of) => self.receipts.issue(principal, of).await,
            Command::Digest(query) => self.digesting.digest(principal, query).await,
            Command::Session(command) => self.sessions.execute(principal, command).await,
            Command::Transfer(command) => Box::pin(self.assemblies.execute(principal, command)).await,
            Command::Block(command) => Box::pin(self.block.execute(principal, command)).await.map(Outcome::Block),
            Command::In { tenant, command } => {
                if !principal.is_admin {
                    return Err(Fault::new(FaultKind::Forbidden, "only an administrator works in another tenant"));
                }
                let within = Principal { tenant, ..principal.clone() };
                Box::pin(self.execute(&within, *command)).await
            }
            Command::WithOwner { of, command } => {
                only_administrators(principal)?;
                let tenant = self.owner_of(of).await?.unwrap_or(principal.tenant);
                let within = Principal { tenant, ..principal.clone() };
                Box::pin(self.execute(&within, *command)).await
            }
        }
    }

    /// The tenant that owns a thing, if it is there.
    async fn owner_of(&self, of: Owned) -> Result<Option<TenantId>, Fault> {
        Ok(match of {
            Owned::Volume(id) => self.parts.meta.volume_any(id).await?.map(|volume| volume.tenant),
            Owned::Backup(backup) => self.parts.meta.backup(Owner::Anyone, backup).await?.map(|backup| backup.tenant),
        })
    }

    /// What is still there of a list's next volumes, of which are no more than [`LIST_PART`].
    pub(crate) async fn volumes(&self, ids: &[VolumeId]) -> Result<Vec<Volume>, Fault> {
        self.lists.volumes(ids).await
    }

    /// Admits an upload: everything that can refuse it happens here, before its first byte is asked for.
    pub(crate) async fn admit(&self, principal: &Principal, plan: ReceivePlan) -> Result<Admitted, Fault> {
        self.uploads.admit(principal, plan).await
    }

    /// Admits an archive: everything that can refuse it happens here, before its first byte is asked for.
    pub(crate) async fn admit_tree(&self, plan: &UnpackPlan) -> Result<AdmittedTree, Fault> {
        self.sessions.admit_tree(plan).await
    }

    /// Admits a part of a transfer, likewise: of the caller, or of whoever has its secret.
    pub(crate) async fn admit_part(
        &self,
        principal: Option<&Principal>,
        plan: PartPlan,
    ) -> Result<AdmittedPart, Fault> {
        Box::pin(self.assemblies.admit(principal, plan)).await
    }

    /// Works on the transfer that has this secret.
    pub(crate) async fn on_transfer(
        &self,
        id: TransferId,
        ticket: &Secret,
        action: TransferAction,
    ) -> Result<Outcome, Fault> {
        Box::pin(self.assemblies.execute_by_ticket(id, ticket, action)).await
    }

    /// Watches a transfer of the caller.
    pub(crate) fn watch(&self, principal: &Principal, id: TransferId) -> Watch {
        self.assemblies.watch(principal.tenant, id)
    }

    /// Opens the volume that a ticket is for.
    pub(crate) async fn open_download(&self, plan: &SendPlan) -> Result<Opened, Fault> {
        self.downloads.open(plan).await
    }

    /// Tells what can be had of the volume that a ticket is for.
    pub(crate) async fn survey(&self, plan: &SurveyPlan) -> Result<Outcome, Fault> {
        self.downloads.survey(plan).await
    }

    /// Returns the keys that check receipts.
    pub(crate) fn public_keys(&self) -> Vec<PublicKey> {
        self.receipts.public_keys()
    }

    /// Nothing new is begun from now on.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether nothing new is begun any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether new work can be taken: the database answers, the disk takes it, all tasks run, and the server does not
    /// stop.
    pub(crate) async fn is_ready(&self) -> bool {
        !self.is_draining()
            && self.supervisor.is_complete()
            && self.parts.store.is_alive()
            && self.parts.meta.is_alive().await
            && self.sweeper.can_write().await
    }

    /// What this server allows.
    pub(crate) fn limits(&self) -> Limits {
        self.parts.settings.limits
    }

    /// The running transfers.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.parts.transfers
    }

    /// The memory of the transfers.
    pub(crate) fn pool(&self) -> &Pool {
        &self.parts.pool
    }

    /// Where tasks belong.
    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.parts.tracker
    }

    /// Runs tasks for as long as the server does.
    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// The current time of the clock that was passed in.
    pub(crate) fn now(&self) -> UnixTime {
        self.parts.clock.now()
    }

    /// The metrics that use cases update.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }
}

fn no_such_drive(id: VolumeId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("drive {id} does not exist")).for_reason(Reason::NoSuchDrive(id))
}

fn only_administrators(principal: &Principal) -> Result<(), Fault> {
    if principal.is_admin {
        return Ok(());
    }
    Err(Fault::new(FaultKind::Forbidden, "this is for administrators"))
}

fn no_such_tree(name: &str) -> Fault {
    let told = format!("there is no volume of the name {name}");
    Fault::new(FaultKind::NotFound, told).for_reason(Reason::NoSuchVolume)
}

/// What a caller is told whose wish does not fit the state of the drive.
fn busy(step: IllegalStep) -> Fault {
    busy_as("drive", step)
}

/// The same of a tree, which every API that has trees calls a volume.
fn busy_tree(step: IllegalStep) -> Fault {
    busy_as("volume", step)
}

fn busy_as(thing: &str, step: IllegalStep) -> Fault {
    in_state(thing, step.state).because(step)
}

/// What a caller is told whose wish does not fit this state.
fn in_state(thing: &str, state: VolumeState) -> Fault {
    let state = match state {
        VolumeState::Uploading => "being uploaded",
        VolumeState::Creating => "being created",
        VolumeState::Available => "at rest",
        VolumeState::CloningTarget => "being cloned",
        VolumeState::Downloading => "being filled from an image",
        VolumeState::Attaching => "being attached",
        VolumeState::InUse => "attached",
        VolumeState::Detaching => "being detached",
        VolumeState::Restoring => "being restored",
        VolumeState::ErrorAttaching => "not attached, after an error",
        VolumeState::ErrorDetaching => "not detached, after an error",
        VolumeState::ErrorRestoring => "not restored, after an error",
        VolumeState::Marked => "marked by an administrator",
        VolumeState::Resizing => "being resized",
        VolumeState::Unavailable => "unavailable",
        VolumeState::Deleting => "being deleted",
    };
    Fault::new(FaultKind::Conflict, format!("the {thing} is {state}"))
}
