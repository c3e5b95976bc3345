//! The use cases: commands on volumes, uploads, sessions, downloads, jobs, the sweeper, the scrub. Knows no wire
//! format.
//!
//! # Order of things
//! A row names a content before there is any of it, and says that it is whole once it is durable: that is its
//! publication, also where it takes the place of another (I6). Bytes are removed when no row refers to them but one
//! that says that they are to go. So after a crash there is garbage, which is found by its row, and never a ready row
//! without its bytes.

mod account;
mod bells;
mod block;
mod commands;
mod contents;
mod download;
mod fetch;
mod jobs;
mod race;
mod scrub;
mod seal;
mod sessions;
mod supervise;
mod sweep;
mod trees;
mod turns;
mod undo;
mod unpack;
mod upload;
mod volumes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::Archive;
use crate::auth::Tickets;
use crate::domain::{
    ByteCount, Catalogue, Clock, CrashPoints, Fault, FaultKind, IllegalStep, Limits, Principal, Reason, ReceivePlan,
    TenantId, UnixTime, UnpackPlan, Volume, VolumeId, VolumeKind, VolumeRef, VolumeState,
};
use crate::io::Pool;
use crate::meta::Meta;
use crate::metrics::Metrics;
use crate::remote::{ImageService, Remote};
use crate::store::{BlockStore, Ledger, TreeStore};
use crate::transfer::Transfers;
use crate::tree::Policy;

use bells::Bells;
use block::Backups;
use jobs::Jobs;
use sessions::Sessions;
use sweep::Sweeper;
use upload::Uploads;
use volumes::Volumes;

pub use account::Account;
pub use block::BlockSettings;
pub use commands::LIST_PART;
pub use download::{Opened, Packable};
pub use scrub::ScrubSettings;
pub use supervise::Supervisor;
pub use unpack::AdmittedTree;
pub use upload::Admitted;

/// What the use cases work with.
pub struct Parts {
    /// The database.
    pub meta: Meta,
    /// Where the bytes of drives are.
    pub store: Arc<dyn BlockStore>,
    /// Where the trees are.
    pub trees: Arc<dyn TreeStore>,
    /// What is elsewhere.
    pub remote: Remote,
    /// Memory for transfers.
    pub pool: Pool,
    /// Makes and checks download tickets.
    pub tickets: Tickets,
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
pub struct Settings {
    /// Sizes that are taken.
    pub limits: Limits,
    /// Writes in flight for one upload.
    pub depth: usize,
    /// Whether every upload gets a SHA-256, asked or not.
    pub always_sha256: bool,
    /// Whether every finished upload is sealed.
    pub always_seal: bool,
    /// How long a ticket can be started.
    pub ticket_seconds: u32,
    /// For how long what nobody knows is kept after it was set aside; for good when absent.
    pub keep_lost: Option<Duration>,
    /// How what is stored is checked; it is not when absent.
    pub scrub: Option<ScrubSettings>,
    /// About trees.
    pub trees: TreeSettings,
}

/// Settings for tree volumes.
#[derive(Clone, Copy, Debug)]
pub struct TreeSettings {
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
pub struct Control {
    parts: Parts,
    volumes: Arc<Volumes>,
    backups: Arc<Backups>,
    jobs: Arc<Jobs>,
    bells: Bells,
    supervisor: Supervisor,
    draining: Arc<AtomicBool>,
    uploads: Arc<Uploads>,
    sessions: Arc<Sessions>,
    sweeper: Arc<Sweeper>,
}

impl Control {
    /// The use cases over these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let volumes = Arc::new(Volumes {
            meta: parts.meta.clone(),
            store: parts.store.clone(),
            trees: parts.trees.clone(),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            tracker: parts.tracker.clone(),
            crash: parts.crash.clone(),
            limits: parts.settings.limits,
            leftovers: Mutex::default(),
            // What a process before has left there.
            has_trash: AtomicBool::new(true),
        });
        let bells = Bells::default();
        let backups = Backups::new(&parts, volumes.clone(), bells.clone());
        let supervisor = Supervisor::new(parts.tracker.clone(), parts.metrics.clone());
        let draining = Arc::new(AtomicBool::new(false));
        let sessions = Sessions::new(&parts, volumes.clone(), draining.clone());
        Arc::new(Self {
            sweeper: Sweeper::new(&parts, volumes.clone(), sessions.clone()),
            uploads: Uploads::new(&parts, volumes.clone(), bells.clone()),
            sessions,
            jobs: Jobs::new(volumes.clone(), backups.clone(), bells.clone(), supervisor.clone()),
            supervisor,
            backups,
            bells,
            volumes,
            parts,
            draining,
        })
    }

    /// Starts the workers; they end when `stop` is cancelled. A job that is cut short is begun again at the next start.
    pub async fn start_jobs(&self, stop: &CancellationToken) -> Result<(), Fault> {
        self.jobs.start(stop).await
    }

    /// Cleans up after the process before, before anything else runs. If the database `may_be_old`, what it calls not
    /// complete may have become so later.
    pub async fn recover(&self, may_be_old: bool) -> Result<(), Fault> {
        self.sweeper.recover(may_be_old).await
    }

    /// Sweeps until `stop` is cancelled.
    pub fn start_sweeper(&self, stop: &CancellationToken) {
        self.sweeper.start(&self.supervisor, stop);
    }

    /// Admits an upload: everything that can refuse it happens here, before its first byte is asked for.
    pub async fn admit(&self, principal: &Principal, plan: ReceivePlan) -> Result<Admitted, Fault> {
        self.uploads.admit(principal, plan).await
    }

    /// Admits an archive: everything that can refuse it happens here, before its first byte is asked for.
    pub async fn admit_tree(&self, plan: &UnpackPlan) -> Result<AdmittedTree, Fault> {
        self.sessions.admit_tree(plan).await
    }

    /// Nothing new is begun from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether nothing new is begun any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether new work can be taken: the database answers, the disk takes it, all tasks run, and the server does not
    /// stop.
    pub async fn is_ready(&self) -> bool {
        !self.is_draining()
            && self.supervisor.is_complete()
            && self.parts.store.is_alive()
            && self.parts.meta.is_alive().await
            && self.sweeper.can_write().await
    }

    /// What this server allows.
    pub fn limits(&self) -> Limits {
        self.parts.settings.limits
    }

    /// The running transfers.
    pub fn transfers(&self) -> &Transfers {
        &self.parts.transfers
    }

    /// The memory of the transfers.
    pub fn pool(&self) -> &Pool {
        &self.parts.pool
    }

    /// Where tasks belong.
    pub fn tracker(&self) -> &TaskTracker {
        &self.parts.tracker
    }

    /// Runs tasks for as long as the server does.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// The current time of the clock that was passed in.
    pub fn now(&self) -> UnixTime {
        self.parts.clock.now()
    }

    /// The metrics that use cases update.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// The caller's volume that is meant, or a fault that does not tell a foreign one from none.
    async fn look_up(&self, tenant: TenantId, volume: &VolumeRef) -> Result<Volume, Fault> {
        match volume {
            VolumeRef::Drive(id) => self.volumes.find(tenant, *id).await,
            VolumeRef::Tree(name) => self.find_tree(tenant, name).await,
            VolumeRef::Any(id) => {
                // A snapshot is none of the volumes that are listed.
                let there = self.parts.meta.volume(tenant, *id).await?;
                there.filter(|volume| volume.kind != VolumeKind::Snapshot).ok_or_else(|| no_such_drive(*id))
            }
        }
    }
}

fn no_such_drive(id: VolumeId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("drive {id} does not exist")).for_reason(Reason::NoSuchVolume)
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
        VolumeState::Resizing => "being resized",
        VolumeState::Unavailable => "unavailable",
        VolumeState::Deleting => "being deleted",
    };
    Fault::new(FaultKind::Conflict, format!("the {thing} is {state}"))
}
