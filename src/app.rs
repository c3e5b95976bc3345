//! Composition root: the only place that picks engine, store, database and verifiers, and knows the order in which
//! they start and stop.

mod administration;
mod exposure;
mod loss;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::{Archive, ArchiveSettings, Bucket, Storage};
use crate::auth::{
    AccessTokens, Accounts, Basic, BasicSettings, Bounds, Identity, IdentitySettings, Keys, Keystone, Logins, NewUser,
    Receipts, TicketLife, Tickets, TokenNames, load_or_create_key,
};
use crate::config::{BackupStorage, Config, DirectChoice, EngineChoice, OwnersChoice, When};
use crate::control::{BlockSettings, Control, Parts, ScrubSettings, Settings, TransferSettings, TreeSettings};
use crate::domain::{Clock, CrashPoints, Shortage, SystemClock, VolumeType};
use crate::io::{IoEngine, Pool, descriptors, probe};
use crate::meta::{Ballast, Meta};
use crate::metrics::{DroppedLines, Metrics};
use crate::remote::{
    IdentityService, ImageService, Policy as RemotePolicy, Remote, ScratchSpace, Service, ServiceUser,
};
use crate::server::tls::{SideTls, Tls, TlsError};
use crate::server::{Listeners, Proxies, PublicUrls, Server, ServerLimits, listener};
use crate::store::{BlockStore, Direct, Ledger, LocalSettings, LocalStore, LocalTrees};
use crate::transfer::{Pace, Stop, Transfers};
use crate::tree::{DESCRIPTORS_PER_STREAM, ForeignAttributes, LargeWrites, Owners, Policy};

pub(crate) use administration::Administration;
pub(crate) use exposure::{exposed, forbid_core_dumps};
pub(crate) use loss::{Found, Recovered, Recovery, recover};

/// The time that transfers and tasks get to undo their work after they were cut.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running server.
pub(crate) struct App {
    config: Config,
    control: Arc<Control>,
    server: Arc<Server>,
    meta: Meta,
    tls: SideTls,
    tracker: TaskTracker,
    /// Tells the listeners and background tasks to begin nothing more.
    stop: CancellationToken,
    /// Tells all connections and tasks to end.
    kill: CancellationToken,
    direct_url: String,
    /// The lock on the data directory.
    _lock: File,
}

impl App {
    /// Starts everything: the data directory, the database, the engine, recovery, the listeners.
    ///
    /// A database that does not know what is stored here is refused, unless `accept_loss` says to serve without that.
    pub(crate) async fn start(config: Config, accept_loss: bool, dropped_lines: DroppedLines) -> anyhow::Result<Self> {
        let lock = claim_data_dir(&config.data_dir)?;
        for told in exposed(&config) {
            tracing::warn!("{told}");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        loss::check_presence(&config, accept_loss)?;
        let ballast = Ballast::open(&config.data_dir.join("ballast"), config.io.ballast.0);
        let ballast = ballast.context("cannot use the file ballast")?;
        let shortage = ballast.shortage();
        let meta = Meta::open_to_serve(&database(&config), ballast).await.context("cannot open the database")?;
        ensure_admin(&meta, &config, clock.clone()).await?;
        let engine = pick_engine(&config)?;
        let tls = load_tls(&config)?;
        let crash = config.crash_after.map_or_else(CrashPoints::none, CrashPoints::after);
        let store = LocalStore::open(
            &config.data_dir,
            engine.clone(),
            local_settings(&config, shortage.clone(), crash.clone()),
        )?;
        let trees = open_trees(&config, &store, crash.clone())?;
        loss::take_over(&meta, &store).await?;
        tracing::debug!(capabilities = ?store.capabilities(), "the store of the drives is open");
        loss::check_rows(&meta, &store, &trees, accept_loss).await?;
        let pool = Pool::new(config.memory.budget.0);
        let metrics = Arc::new(Metrics::new(engine.name(), pool.budget_blocks(), &dropped_lines));
        let (tracker, transfers) = (TaskTracker::new(), Transfers::default());
        let tickets =
            Tickets::new(*load_or_create_key(&config.data_dir.join("ticket.key")).context("cannot use ticket.key")?);
        let archive_space = archive_space(&config, &store)?;
        let archive_shortage = if shares_disk(&config)? { shortage } else { Shortage::default() };
        let control = Control::new(Parts {
            meta: meta.clone(),
            store: Arc::new(store),
            trees: Arc::new(trees),
            remote: remote(&config),
            scratch: ScratchSpace::open(&config.data_dir.join("fetch-scratch")).context("cannot use fetch-scratch/")?,
            pool: pool.clone(),
            tickets: Arc::new(tickets),
            receipts: Arc::new(open_receipts(&config)?),
            clock: clock.clone(),
            transfers: transfers.clone(),
            metrics,
            tracker: tracker.clone(),
            crash,
            settings: settings(&config),
            block: block(&config),
            images: images(&config),
            archive: open_archive(&config, archive_shortage, pool.clone(), tracker.clone())?,
            archive_space,
            catalogue: config.hpc_catalogue(),
        });
        control.recover(accept_loss || meta.has_lost()).await?;

        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        control.start_jobs(&stop).await?;
        control.start_sweeper(&stop);
        control.start_scrub(&stop);
        let pace = Pace { idle: config.limits.idle, min_rate: config.limits.min_rate.0.get() };
        control.supervisor().run("slow peers", &kill, move || {
            let transfers = transfers.clone();
            async move { transfers.watch(pace).await }
        });
        let basic = Arc::new(Basic::new(
            meta.clone(),
            BasicSettings { remember_seconds: config.auth.remember_seconds, ..BasicSettings::default() },
            clock.clone(),
        ));
        let settings = IdentitySettings {
            token_seconds: config.auth.token_seconds,
            region: config.auth.region.clone(),
            requests_per_second: config.auth.requests_per_second,
        };
        let (keys, tokens) = (open_keys(&config, &meta, clock.clone())?, open_tokens(&config, &meta, clock.clone())?);
        let identity = Identity::new(meta.clone(), basic.clone(), settings, keystone(&config, &meta), clock);
        let connections = fit_connections(&config);
        let limits = ServerLimits {
            head: config.limits.head,
            idle: config.limits.idle,
            connections,
            connections_per_address: config.limits.connections_per_address.unwrap_or(connections.div_ceil(2)),
            tap: config.io.tap,
        };
        let public = public_urls(&config);
        let proxies = Proxies { trusted: config.proxy.trusted.clone(), protocol: config.proxy.protocol };
        let logins = Logins { basic, keys, tokens, identity };
        let server = Server::new(control.clone(), logins, tls.clone(), limits, (public, proxies));
        let (listeners, urls) = bind(&config)?;
        server.start(listeners, &stop, &kill)?;
        write_atomically(&config.data_dir.join("endpoint"), format!("{}\n", urls.join("\n")).as_bytes(), 0o644)?;
        let public: Vec<&str> =
            [&config.direct, &config.control].iter().filter_map(|side| side.public_url.as_deref()).collect();
        let public_url = (!public.is_empty()).then(|| public.join(" "));
        tracing::info!(endpoint = urls.join(" "), public_url, engine = engine.name(), data_dir = %config.data_dir.display(), "serving");
        let direct_url = config.direct.public_url.clone().or_else(|| urls.into_iter().next()).unwrap_or_default();
        Ok(Self { config, control, server, meta, tls, tracker, stop, kill, direct_url, _lock: lock })
    }

    /// Reads the certificates again; an invalid one leaves the old one in use.
    pub(crate) fn reload(&self) {
        let SideTls { direct, control } = &self.tls;
        let other =
            control.as_ref().filter(|control| !direct.as_ref().is_some_and(|direct| Arc::ptr_eq(direct, control)));
        if direct.is_none() && other.is_none() {
            return tracing::info!("nothing to reload: TLS is off");
        }
        for tls in direct.iter().chain(other) {
            match tls.reload() {
                Ok(()) => tracing::info!("certificate reloaded"),
                Err(error) => {
                    tracing::error!(cause = ?error, "the certificate was not reloaded; the old one stays in use");
                }
            }
        }
    }

    /// Drains and stops: begins nothing new, gives running transfers the configured time, and then cuts them.
    pub(crate) async fn stop(self) {
        let _ = std::fs::remove_file(self.config.data_dir.join("endpoint"));
        self.control.start_draining();
        self.stop.cancel();
        self.tracker.close();
        let transfers = self.control.transfers();
        // Some transfers have no connection. The tracker does not become empty, since the watch for slow peers goes on.
        let settled = async || {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while transfers.count() > 0 {
                look.tick().await;
            }
        };
        let drained = async {
            self.server.ended().await;
            settled().await;
        };
        if tokio::time::timeout(self.config.limits.drain, drained).await.is_err() {
            tracing::warn!(count = transfers.count(), "cutting what did not end in time");
            transfers.stop_all(Stop::Draining);
            let _ = tokio::time::timeout(LAST_WORDS, settled()).await;
        }
        self.kill.cancel();
        let ended = async {
            // Tasks of the tracker clean up after connections that were cut.
            self.server.ended().await;
            self.tracker.wait().await;
        };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            tracing::warn!("some tasks did not end; the next start cleans up after them");
        }
        self.meta.close().await;
        tracing::info!("stopped");
    }

    /// Returns the URL that clients reach the data plane by.
    pub(crate) fn direct_url(&self) -> &str {
        &self.direct_url
    }

    /// Returns the path of the first user's name and password.
    pub(crate) fn credentials_path(&self) -> PathBuf {
        credentials_path(&self.config)
    }
}

/// Where the first user's name and password are.
pub(crate) fn credentials_path(config: &Config) -> PathBuf {
    config.data_dir.join("admin.credentials")
}

/// Opens the database of a data directory, which a running server may have open too.
async fn open_meta(config: &Config) -> anyhow::Result<Meta> {
    Meta::open(&database(config)).await.context("cannot open the database")
}

fn database(config: &Config) -> PathBuf {
    config.data_dir.join("meta.sqlite")
}

/// Opens the storage of backups. Makes its directory if it does not exist. While `shortage` is on, no backup is
/// written.
pub(crate) fn open_archive(
    config: &Config,
    shortage: Shortage,
    pool: Pool,
    tracker: TaskTracker,
) -> anyhow::Result<Archive> {
    let backups = &config.backups;
    let storage = match backups.storage {
        BackupStorage::Directory => Storage::Directory(backup_directory(config)),
        BackupStorage::S3 => Storage::S3(Box::new(Bucket {
            name: backups.bucket.clone().unwrap_or_default(),
            endpoint: backups.endpoint.clone(),
            region: backups.region.clone(),
            access_key_id: backups.access_key_id.clone(),
            secret_access_key: backups.secret_access_key.clone(),
            virtual_host: backups.virtual_host,
            conditional_put: backups.conditional_put,
            bulk_delete: backups.bulk_delete,
            checksum: backups.checksum,
        })),
    };
    let settings = ArchiveSettings { storage, level: backups.level, shortage };
    Archive::open(&settings, pool, tracker).context("cannot use the storage of backups")
}

/// Opens the store of trees.
fn open_trees(config: &Config, drives: &dyn BlockStore, crash: CrashPoints) -> anyhow::Result<LocalTrees> {
    // It is in the same directory as that of the drives, and so they have one account of one disk.
    LocalTrees::open(&config.data_dir, drives.space().clone(), crash).context("cannot use the data directory")
}

/// Returns the ledger of the file system of a directory of backups, which is that of the drives if they share it.
fn archive_space(config: &Config, store: &dyn BlockStore) -> anyhow::Result<Option<Arc<Ledger>>> {
    if config.backups.storage != BackupStorage::Directory {
        return Ok(None);
    }
    let directory = backup_directory(config);
    make_data_dir(&directory)?;
    if shares_disk(config)? {
        return Ok(Some(store.space().clone()));
    }
    Ok(Some(Ledger::new(move || probe::free_space(&directory), config.io.reserve.0)))
}

/// Whether backups are in a directory on the file system of the drives.
fn shares_disk(config: &Config) -> anyhow::Result<bool> {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    let is_here = config.backups.storage == BackupStorage::Directory;
    Ok(is_here && device(&backup_directory(config))? == device(&config.data_dir)?)
}

fn backup_directory(config: &Config) -> PathBuf {
    config.backups.directory.clone().unwrap_or_else(|| config.data_dir.join("backups"))
}

/// Opens the access keys of a data directory.
fn open_keys(config: &Config, meta: &Meta, clock: Arc<dyn Clock>) -> anyhow::Result<Keys> {
    let master = load_or_create_key(&config.data_dir.join("access.key")).context("cannot use access.key")?;
    Ok(Keys::new(meta.clone(), clock, master))
}

/// Opens the signed tokens of a data directory.
fn open_tokens(config: &Config, meta: &Meta, clock: Arc<dyn Clock>) -> anyhow::Result<AccessTokens> {
    let names = TokenNames { issuer: config.hpc_ai.issuer.clone(), audience: config.hpc_ai.audience.clone() };
    AccessTokens::open(meta.clone(), clock, names, config.data_dir.join("hpc-ai.key")).context("cannot use hpc-ai.key")
}

/// The URLs at which clients reach this server, and the sites that may use it.
fn public_urls(config: &Config) -> PublicUrls {
    PublicUrls {
        direct: config.direct.public_url.clone(),
        control: config.control.public_url.clone(),
        identity: config.keystone.as_ref().map(|elsewhere| elsewhere.url.to_string()),
        origins: config.cors.origins.iter().map(ToString::to_string).collect(),
    }
}

/// Opens the receipts of a data directory.
fn open_receipts(config: &Config) -> anyhow::Result<Receipts> {
    let issuer = config.control.public_url.clone().unwrap_or_else(|| "longshore".to_owned());
    Receipts::open(issuer, config.data_dir.join("receipts.key")).context("cannot use receipts.key")
}

/// Makes an installation without serving it: the database, the keys, and a first user.
pub(crate) async fn init(config: &Config, accept_loss: bool) -> anyhow::Result<()> {
    let _lock = claim_data_dir(&config.data_dir)?;
    ensure!(!has_installation(config)?, "there is an installation in {} already", config.data_dir.display());
    loss::check_presence(config, accept_loss)?;
    let meta = Meta::open_to_serve(&database(config), Ballast::none()).await.context("cannot open the database")?;
    let made = ensure_admin(&meta, config, Arc::new(SystemClock)).await;
    meta.close().await;
    made
}

/// Whether the data directory has a database. Only `serve` and `init` make one.
pub(crate) fn has_installation(config: &Config) -> anyhow::Result<bool> {
    let path = database(config);
    match std::fs::metadata(&path) {
        // A start that was cut leaves an empty file.
        Ok(found) => Ok(found.len() > 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

/// Fails when there is no installation.
pub(crate) fn require_installation(config: &Config) -> anyhow::Result<()> {
    ensure!(
        has_installation(config)?,
        "there is no installation in {}: name the right directory with --data-dir, or make one with `longshore serve` or \
         `longshore init`",
        config.data_dir.display()
    );
    exposure::refuse_links(&config.data_dir)
}

/// Makes the data directory, accessible to its owner only.
fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))
}

/// Makes and locks the data directory: two processes on one directory would remove each other's drafts.
fn claim_data_dir(dir: &Path) -> anyhow::Result<File> {
    make_data_dir(dir)?;
    exposure::refuse_links(dir)?;
    let path = dir.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another longshore serves {}; stop it first, or use another --data-dir", dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Makes the first user, an administrator, when there is no user, and writes the credentials.
async fn ensure_admin(meta: &Meta, config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<()> {
    let accounts = Accounts::new(meta.clone(), config.default_quota(), clock);
    if !accounts.users().await?.is_empty() {
        return Ok(());
    }
    let user = NewUser { name: "admin".to_owned(), tenant: None, bounds: Bounds::default(), is_admin: true };
    let user = accounts.prepare_user(user).await?;
    // The file is written first: a user without a known password could never log in.
    write_credentials(config, "admin", user.password())?;
    Ok(accounts.add_user(&user).await?)
}

/// Writes `user:password` where the curl lines look for it.
pub(crate) fn write_credentials(config: &Config, user: &str, password: &str) -> anyhow::Result<()> {
    write_atomically(&credentials_path(config), format!("{user}:{password}\n").as_bytes(), 0o600)
}

/// Returns the most connections at once: those of the configuration, or fewer if the limit on open files is low.
fn fit_connections(config: &Config) -> usize {
    /// Descriptors for the database, the rings, the listeners, the log, jobs and fetches, with room to spare.
    const OURSELVES: u64 = 128;
    let limit = descriptors::raise_limit();
    let elsewhere = OURSELVES + DESCRIPTORS_PER_STREAM * config.trees.streams as u64;
    let wanted = config.limits.connections;
    let connections = descriptors::connections_within(limit, elsewhere, wanted);
    if connections < wanted {
        tracing::warn!(
            connections,
            wanted,
            limit,
            "fewer connections are served than limits.connections says: raise the hard limit on open files"
        );
    }
    connections
}

fn pick_engine(config: &Config) -> anyhow::Result<IoEngine> {
    let threads = config.io.threads;
    Ok(match config.io.engine {
        EngineChoice::Threads => IoEngine::threads(threads),
        EngineChoice::Ring => {
            IoEngine::ring(threads).context("io.engine = \"ring\", but io_uring does not work here")?
        }
        EngineChoice::Auto => {
            let (engine, refused) = IoEngine::best(threads);
            if let Some(error) = refused {
                tracing::warn!(%error, "io_uring does not work here; using threads, at more CPU per byte");
            }
            engine
        }
    })
}

fn local_settings(config: &Config, shortage: Shortage, crash: CrashPoints) -> LocalSettings {
    let direct = match config.io.direct {
        DirectChoice::Auto => Direct::Auto,
        DirectChoice::Always => Direct::Always,
        DirectChoice::Never => Direct::Never,
    };
    // The ballast is a part of what is kept free.
    LocalSettings { direct, reserve: config.io.reserve.0.saturating_sub(config.io.ballast.0), shortage, crash }
}

fn settings(config: &Config) -> Settings {
    Settings {
        limits: config.drive_limits(),
        depth: config.io.depth,
        always_sha256: config.digest.sha256 == When::Always,
        always_seal: config.digest.seal == When::Always,
        tickets: TicketLife { seconds: config.limits.ticket_seconds, most_seconds: config.limits.ticket_most_seconds },
        keep_lost: (config.recovery.keep_seconds > 0).then(|| Duration::from_secs(config.recovery.keep_seconds)),
        scrub: (config.scrub.period_seconds > 0).then(|| ScrubSettings {
            period: Duration::from_secs(config.scrub.period_seconds),
            rate: config.scrub.rate.0.get(),
        }),
        trees: TreeSettings {
            default_size: config.trees.default_size.0,
            max_size: config.trees.max_size.0,
            session_seconds: config.trees.session_seconds,
            grace_seconds: config.trees.grace_seconds,
            streams: config.trees.streams,
            wait: config.limits.head,
            least_rate: config.trees.min_rate,
            // The ballast is a part of what is kept free.
            reserve: config.io.reserve.0.saturating_sub(config.io.ballast.0),
            fetches: config.remote.at_once,
            unpack_remote: config.remote.unpack,
            policy: policy(config),
        },
        transfers: TransferSettings {
            lifetime: config.transfers.expire_seconds,
            checkpoint_bytes: config.transfers.checkpoint_bytes.0,
            checkpoint_time: config.transfers.checkpoint_time,
        },
    }
}

fn block(config: &Config) -> BlockSettings {
    let block = &config.block;
    let types = block.types.iter().map(|name| VolumeType { id: type_id(name), name: name.clone(), description: None });
    BlockSettings {
        zones: block.zones.clone(),
        types: types.collect(),
        default_type: block.default_type.clone(),
        container: config.backups.container.clone(),
        quota: config.default_quota(),
    }
}

fn keystone(config: &Config, meta: &Meta) -> Option<Keystone> {
    /// The longest time for a request, since a client's login waits for it.
    const TIME: Duration = Duration::from_secs(10);
    let settings = config.keystone.as_ref()?;
    let user = ServiceUser {
        name: settings.user.clone(),
        password: settings.password.clone(),
        domain: settings.domain.clone(),
        project: settings.project.clone(),
    };
    let service = IdentityService::new(Service::new(&settings.url, TIME), user);
    Some(Keystone::new(service, meta.clone(), config.default_quota()))
}

fn images(config: &Config) -> Option<ImageService> {
    /// The longest time for the description of an image; its bytes have their own limit.
    const TIME: Duration = Duration::from_secs(30);
    config.block.glance_url.as_ref().map(|url| ImageService::new(Service::new(url, TIME)))
}

/// Returns a type's id, made of its name, so that it is the same after every start (UUID version 8, RFC 9562).
fn type_id(name: &str) -> String {
    let digest = sha2::Sha256::digest(name);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn remote(config: &Config) -> Remote {
    let config = &config.remote;
    Remote::new(RemotePolicy {
        schemes: config.schemes.clone(),
        ports: config.ports.clone(),
        networks: config.networks.clone(),
        max_bytes: config.max_bytes.0.get(),
        time: config.time,
        stall: config.stall,
        redirects: config.redirects,
    })
}

fn policy(config: &Config) -> Policy {
    let is_root = rustix::process::geteuid().is_root();
    let keeps_owners = match config.trees.owners {
        OwnersChoice::Auto => is_root,
        OwnersChoice::Keep => true,
        OwnersChoice::Ignore => false,
    };
    Policy {
        owners: if keeps_owners { Owners::Keep } else { Owners::Ignore },
        set_id: config.trees.set_id,
        devices: config.trees.devices,
        capabilities: config.trees.capabilities,
        foreign: ForeignAttributes::Drop,
        large: if config.io.direct == DirectChoice::Never { LargeWrites::Cached } else { LargeWrites::Direct },
    }
}

/// Loads the certificates of both endpoints, once where both have the same files.
fn load_tls(config: &Config) -> Result<SideTls, TlsError> {
    let load =
        |files: Option<(&Path, &Path)>| files.map(|(certificate, key)| Tls::load(certificate, key).map(Arc::new));
    let files = [&config.direct, &config.control].map(|side| config.tls_of(side));
    let direct = load(files[0]).transpose()?;
    let control = if files[0] == files[1] { direct.clone() } else { load(files[1]).transpose()? };
    Ok(SideTls { direct, control })
}

/// Loads the TLS files as a start does; returns whether there are any.
pub(crate) fn check_tls(config: &Config) -> anyhow::Result<bool> {
    let SideTls { direct, control } = load_tls(config)?;
    Ok(direct.is_some() || control.is_some())
}

/// Binds the listeners; returns their URLs too, the direct one first.
fn bind(config: &Config) -> anyhow::Result<(Listeners, Vec<String>)> {
    let scheme = |side| if config.tls_of(side).is_some() { "https" } else { "http" };
    let open = |address| listener::bind(address).with_context(|| format!("cannot listen on {address}"));
    let direct_address = config.direct.listen.unwrap_or(config.listen);
    let control_address = config.control.listen.unwrap_or(config.listen);
    let direct = open(direct_address)?;
    let mut urls = vec![format!("{}://{}", scheme(&config.direct), direct.local_addr()?)];
    if !config.is_split() {
        return Ok((Listeners::Shared(direct), urls));
    }
    let control = open(control_address)?;
    urls.push(format!("{}://{}", scheme(&config.control), control.local_addr()?));
    Ok((Listeners::Split { direct, control }, urls))
}

/// Replaces a file atomically and durably. It is flushed before it gets its name; when that fails, the old file stays,
/// and the next start makes the draft anew.
fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let draft = path.with_extension("tmp");
        let _ = std::fs::remove_file(&draft);
        let mut file = File::options().create_new(true).write(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
