//! The configuration: typed and checked once, when it is loaded, so that every command refuses what `serve` refuses.
//!
//! A value comes from the first of: a flag, the environment, the TOML file, the default. Every key of the file has an
//! environment variable: `LONGSHORE_` and the key in capitals, `__` between section and key
//! (`LONGSHORE_IO__ENGINE=threads`).

mod cloud;
mod environment;
mod listeners;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub(crate) use cloud::{Auth, BackupStorage, Backups, Block, DEFAULT_REGION, HpcAi, KeystoneSettings};
pub(crate) use listeners::{Endpoint, TlsFiles};
pub(crate) use values::{LogFilter, Origin, Size};

use self::values::{seconds, text, texts};
use crate::archive::LEVELS;
use crate::domain::{ByteCount, Catalogue, Limits, Network, Quota, Region};
use crate::remote::Scheme;

/// The checked configuration. Each field says what gets worse when it is raised.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The directory of everything that the server keeps: images, database, keys. One process at a time uses it.
    pub data_dir: PathBuf,
    /// The address of every route, unless `direct` or `control` has its own. Port 0 lets the system pick.
    pub listen: SocketAddr,
    /// The data plane: uploads, downloads.
    pub direct: Endpoint,
    /// The metadata side.
    pub control: Endpoint,
    /// TLS on every listener that says nothing else, when both files are given.
    pub tls: TlsFiles,
    /// Proxies in front of this server.
    pub proxy: ProxySettings,
    /// Other sites whose scripts may use this server.
    pub cors: CorsSettings,
    /// Limits on sizes, times and connections.
    pub limits: LimitSettings,
    /// Memory for data.
    pub memory: Memory,
    /// Settings for reading and writing files.
    pub io: Io,
    /// Digests of drives.
    pub digest: Digests,
    /// The scrub of stored volumes.
    pub scrub: Scrub,
    /// Data on the disk that the database does not know.
    pub recovery: RecoverySettings,
    /// Settings for tree volumes.
    pub trees: Trees,
    /// Uploads that survive cut lines and restarts.
    pub transfers: TransferOptions,
    /// Sources elsewhere that volumes may be filled from.
    pub remote: RemoteSources,
    /// Block storage.
    pub block: Block,
    /// Another identity service.
    pub keystone: Option<KeystoneSettings>,
    /// Backups of drives.
    pub backups: Backups,
    /// HPC-AI's API.
    pub hpc_ai: HpcAi,
    /// Logins.
    pub auth: Auth,
    /// The quota of tenants that `longshore user add` makes; unlimited by default.
    pub quota: QuotaSettings,
    /// The filter and the form of the log.
    pub log: Log,
    /// The file that the configuration was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// A crash point, for the tests of crash safety; see [`crate::domain::CrashPoints`]. Ignored by a release build.
    pub crash_after: Option<u64>,
    /// Variables of the environment that have this program's prefix and name no setting. Kubernetes makes some for a
    /// service of this name.
    #[serde(skip)]
    pub unknown_variables: Vec<String>,
}

/// Proxies in front of this server. They tell the addresses of clients, by which logins are slowed down and logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProxySettings {
    /// The networks of the proxies that are believed when they tell a client's address, by `Forwarded` or
    /// `X-Forwarded-For`. A list, or a text with commas between. None by default, because anybody can write these
    /// fields. More: every host there can pretend to be at any address.
    #[serde(deserialize_with = "texts")]
    pub trusted: Vec<Network>,
    /// Whether they begin every connection by a header of the PROXY protocol, version 1 or 2. On: a connection of
    /// theirs without one is closed.
    pub protocol: bool,
}

/// Other sites whose scripts may use this server from a browser.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CorsSettings {
    /// Their origins. A list, or a text with commas between. More: a script of each does what the user who visits it
    /// may do here, if it is given their login.
    #[serde(deserialize_with = "texts")]
    pub origins: Vec<Origin>,
}

/// Limits on sizes, times and connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitSettings {
    /// A smaller upload is resized up to this on completion.
    pub min_drive: Size,
    /// The largest drive. Raised: one upload can claim more of the disk.
    pub max_drive: Size,
    /// A transfer whose peer moves nothing for this long is cut. Raised: stalled peers hold memory longer.
    #[serde(rename = "idle_seconds", deserialize_with = "seconds")]
    pub idle: Duration,
    /// A transfer slower than this, in bytes per second over 30 seconds spent waiting for its peer, is cut.
    /// 0 turns it off. Raised: honest slow links are cut.
    pub min_rate: Size,
    /// The longest time for a request head to arrive, and for a keep-alive connection to be idle. Raised: silent
    /// connections are held longer.
    #[serde(rename = "head_seconds", deserialize_with = "seconds")]
    pub head: Duration,
    /// The time that running transfers get on SIGTERM. Raised: a stop takes longer.
    #[serde(rename = "drain_seconds", deserialize_with = "seconds")]
    pub drain: Duration,
    /// Connections at once; further ones wait in the kernel's queue. Raised: more file descriptors and memory.
    pub connections: usize,
    /// Of these, the most from one address, or from one network of 64 bits with IPv6; half of them when absent. Further
    /// ones are refused. Addresses of `proxy.trusted` are not bound. Raised: one peer can take the place of more
    /// others.
    pub connections_per_address: Option<usize>,
    /// Seconds within which a download by a URL must begin, counted from the last time that it was used. Raised: a leaked
    /// URL is useful for longer.
    pub ticket_seconds: u32,
    /// Seconds after which it ends however much it is used. Raised: a leaked URL that somebody uses is good for longer.
    pub ticket_most_seconds: u32,
}

/// Memory for data.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// The budget of all transfers together, in 2 MiB blocks. Lower: many transfers wait for each other. Raised: more
    /// memory at the peak; a single transfer gains nothing above 16 MiB.
    pub budget: Size,
}

/// Settings for reading and writing files.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Io {
    /// The engine: `auto` takes the ring where the kernel allows it.
    pub engine: EngineChoice,
    /// Threads of the engine. One ring thread saturates a disk; raised: more switching.
    pub threads: usize,
    /// Whether images are written past the page cache: `auto` does from 16 MiB up, where the file system can. Files of
    /// archives are from 4 MiB up, but for `never`.
    pub direct: DirectChoice,
    /// Writes in flight for one upload. Raised: more blocks per upload; above 4 nothing was gained.
    pub depth: usize,
    /// Whether large uploads over plain HTTP/1.1 are read from the socket straight into blocks. Off: one more copy of
    /// every byte, about a quarter of an upload's CPU.
    pub tap: bool,
    /// Free space that uploads never take. Raised: less of the disk is used.
    pub reserve: Size,
    /// The part of `reserve` that is a file, given up when the disk is full, so that volumes can be removed then:
    /// removing writes, too. 16 MiB are some two hundred removals before the database's log begins anew; 0 turns it
    /// off. Raised: less of the disk is used.
    pub ballast: Size,
}

/// The I/O engine to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineChoice {
    /// The ring if it works here, else threads.
    Auto,
    /// `io_uring`, or fail to start.
    Ring,
    /// A pool of threads.
    Threads,
}

/// Whether images are written past the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DirectChoice {
    /// Large ones, where the file system can.
    Auto,
    /// All, where the file system can.
    Always,
    /// None.
    Never,
}

/// Digests of drives.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Digests {
    /// `asked`: SHA-256 only when the client asserts or wants it. `always`: of every upload, which holds a stream to
    /// the speed of one core's SHA-256.
    pub sha256: When,
    /// When a finished drive is read back, compared with the digests of its pieces, and its SHA-256 recorded: on first
    /// demand (`asked`) or after every upload (`always`, which reads everything once more).
    pub seal: When,
}

/// The scrub, which reads stored volumes back at idle priority and compares them with their digests.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scrub {
    /// Seconds within which everything is checked once; 0 turns it off. A month: disks that rot do so slowly, and
    /// copies elsewhere are kept for longer than that. Raised: rot is found later, when copies elsewhere may be gone.
    /// Lowered: the disk reads more.
    pub period_seconds: u64,
    /// The most bytes per second that it reads. 20 MiB, a tenth of the rate of a spinning disk, are 49 TiB in a month.
    /// Raised: others wait longer for the disk. Lowered: less can be checked within the period, and the rest is checked
    /// later.
    pub rate: Size,
}

/// Data on the disk that the database does not know.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecoverySettings {
    /// Seconds for which it is kept in `lost/`; 0 keeps it until `longshore recover --remove`. A month: time to notice,
    /// and to restore a backup of the database. Raised: it takes disk, which nobody is charged for, for longer.
    pub keep_seconds: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { period_seconds: 30 * 24 * 60 * 60, rate: Size(ByteCount::mib(20)) }
    }
}

impl Default for RecoverySettings {
    fn default() -> Self {
        Self { keep_seconds: 30 * 24 * 60 * 60 }
    }
}

/// When an optional step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum When {
    /// Only when a client asks.
    Asked,
    /// Every time.
    Always,
}

/// Settings for tree volumes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Trees {
    /// The size of a volume for which the client asks none.
    pub default_size: Size,
    /// The largest size of a volume. Raised: one volume can claim more of the disk.
    pub max_size: Size,
    /// Seconds from the beginning of a session within which its uploads may start. Raised: a leaked cookie is useful
    /// for longer, and a volume whose client died is locked for longer.
    pub session_seconds: u32,
    /// Seconds after that within which running uploads may go on, and the session may be finished. Raised: the same.
    pub grace_seconds: u32,
    /// Archives that are unpacked or packed at once; others wait. Each has a thread, another one for large files, and
    /// up to 64 MiB of memory in the worst case. One tenant has three quarters of them at most. Raised: more of both.
    pub streams: usize,
    /// Bytes per second that an archive must move while others wait for its turn; slower ones are cut. Less than slow
    /// lines have. Raised: peers on slow lines are cut when many come; lowered: trickling archives keep others waiting.
    pub min_rate: u64,
    /// The owners of the files: `keep` takes the numbers of the archive, which needs root; `ignore` takes the user who
    /// runs the server; `auto` keeps them where that user is root.
    pub owners: OwnersChoice,
    /// Whether set-user-ID and set-group-ID are kept. Kept: a user who runs a program of a volume gets its owner's
    /// rights.
    pub set_id: bool,
    /// Whether device nodes are accepted, which needs root. Accepted: a user who can open one reaches the machine's
    /// devices.
    pub devices: bool,
    /// Whether file capabilities are kept, which needs root. Kept: as with `set_id`.
    pub capabilities: bool,
}

/// Settings for transfers: uploads that survive cut lines and restarts.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TransferOptions {
    /// Seconds after the last activity within which one must go on. Raised: what nobody finishes holds disk and quota
    /// for longer.
    pub expire_seconds: u32,
    /// Bytes of a part after which what has come of it is made durable. Raised: fewer flushes, and a crash of the
    /// server repeats so much.
    pub checkpoint_bytes: Size,
    /// Seconds after which that happens to a slow part. Raised: the same.
    #[serde(rename = "checkpoint_seconds", deserialize_with = "seconds")]
    pub checkpoint_time: Duration,
}

/// Sources elsewhere that volumes may be filled from. A user who may initialise a volume makes this server connect to
/// them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RemoteSources {
    /// `http`, `https`, `git`; none turns it off. Plain HTTP and git can be changed on their way.
    #[serde(deserialize_with = "texts")]
    pub schemes: Vec<Scheme>,
    /// The ports. More: more services that can be probed from here.
    pub ports: Vec<u16>,
    /// Networks, as in `10.1.0.0/16`, that are allowed although they are not public. More: what is there can be read.
    #[serde(deserialize_with = "texts")]
    pub networks: Vec<Network>,
    /// The most bytes of a source, beside the volume's size. Raised: more disk and time for one source.
    pub max_bytes: Size,
    /// The longest time for a whole source. Raised: slow sources hold a turn for longer.
    #[serde(rename = "seconds", deserialize_with = "seconds")]
    pub time: Duration,
    /// The longest time for which a source may be silent.
    #[serde(rename = "stall_seconds", deserialize_with = "seconds")]
    pub stall: Duration,
    /// The most redirects that are followed.
    pub redirects: u32,
    /// Sources that are fetched at once; others wait. A repository of a million objects takes some 250 MiB of memory
    /// while it is fetched, and up to three times its bytes of the disk. Raised: more of both.
    pub at_once: usize,
    /// Whether files whose names end in `.tar`, `.tar.gz`, `.tgz` or `.tar.zst` are unpacked; else the volume holds
    /// the file.
    pub unpack: bool,
}

/// The owners of the files of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OwnersChoice {
    /// Keep them if the server runs as root.
    Auto,
    /// Keep them.
    Keep,
    /// Replace them.
    Ignore,
}

/// A tenant's quota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QuotaSettings {
    /// The most drives.
    pub drives: Option<u64>,
    /// The most bytes, by the drives' sizes.
    pub bytes: Option<Size>,
    /// The most backups. Without, their bytes alone bound them.
    pub backups: Option<u64>,
    /// The most bytes of backups, by the sizes of the drives that they are of; as many as `bytes` by default. Raised:
    /// a tenant can take more of the storage of backups.
    pub backup_bytes: Option<Size>,
    /// The most snapshots. Without, their bytes alone bound them.
    pub snapshots: Option<u64>,
    /// The most bytes of one volume. Without, only `limits` bound it.
    pub volume_bytes: Option<Size>,
}

/// Settings of the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// Text for people, JSON for machines; always on standard error.
    pub format: LogFormat,
    /// Which lines are logged.
    #[serde(deserialize_with = "text")]
    pub level: LogFilter,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./longshore-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8700)),
            direct: Endpoint::default(),
            control: Endpoint::default(),
            tls: TlsFiles::default(),
            proxy: ProxySettings::default(),
            cors: CorsSettings::default(),
            limits: LimitSettings::default(),
            memory: Memory::default(),
            io: Io::default(),
            digest: Digests::default(),
            scrub: Scrub::default(),
            recovery: RecoverySettings::default(),
            trees: Trees::default(),
            transfers: TransferOptions::default(),
            remote: RemoteSources::default(),
            block: Block::default(),
            keystone: None,
            backups: Backups::default(),
            hpc_ai: HpcAi::default(),
            auth: Auth::default(),
            quota: QuotaSettings::default(),
            log: Log::default(),
            file: None,
            crash_after: None,
            unknown_variables: Vec::new(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            min_drive: Size(ByteCount::mib(512)),
            // 64 TiB: above the largest ext4 file (16 TiB) and below what one `statvfs` can describe.
            max_drive: Size(ByteCount::mib(64 << 20)),
            idle: Duration::from_mins(1),
            min_rate: Size(ByteCount::new(1024).unwrap_or_default()),
            head: Duration::from_secs(30),
            drain: Duration::from_mins(1),
            connections: 4096,
            connections_per_address: None,
            ticket_seconds: 300,
            ticket_most_seconds: 24 * 60 * 60,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget: Size(ByteCount::mib(128)) }
    }
}

impl Default for Io {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            threads: 1,
            direct: DirectChoice::Auto,
            depth: 4,
            tap: true,
            reserve: Size(ByteCount::mib(64)),
            ballast: Size(ByteCount::mib(16)),
        }
    }
}

impl Default for Digests {
    fn default() -> Self {
        Self { sha256: When::Asked, seal: When::Asked }
    }
}

impl Default for Trees {
    fn default() -> Self {
        Self {
            default_size: Size(ByteCount::mib(10 << 10)),
            max_size: Size(ByteCount::mib(1000 << 10)),
            session_seconds: 30 * 60,
            grace_seconds: 10 * 60,
            streams: 16,
            min_rate: 64 << 10,
            owners: OwnersChoice::Auto,
            set_id: false,
            devices: false,
            capabilities: false,
        }
    }
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            expire_seconds: 24 * 60 * 60,
            checkpoint_bytes: Size(ByteCount::mib(64)),
            checkpoint_time: Duration::from_secs(5),
        }
    }
}

impl Default for RemoteSources {
    fn default() -> Self {
        Self {
            schemes: vec![Scheme::Http, Scheme::Https, Scheme::Git],
            ports: vec![80, 443, 9418],
            networks: Vec::new(),
            max_bytes: Size(ByteCount::mib(100 << 10)),
            time: Duration::from_mins(10),
            stall: Duration::from_secs(30),
            redirects: 5,
            at_once: 4,
            unpack: false,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: LogFilter::default() }
    }
}

/// Values of flags; each wins over environment and file.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
}

/// A failure to load the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file or the environment has a wrong syntax, key or value.
    #[error("{0} is not valid")]
    Parse(String, #[source] Box<toml::de::Error>),
    /// A value is out of range, or does not fit another one.
    #[error("{key}: {problem}")]
    Value {
        /// The key of the setting.
        key: &'static str,
        /// The reason for the refusal.
        problem: &'static str,
    },
}

impl Config {
    /// Reads file and environment, lets the flags win, and checks the result.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: Overrides,
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(path.to_owned(), e))?;
                text.parse().map_err(|e| ConfigError::Parse(path.display().to_string(), Box::new(e)))?
            }
        };
        let unknown_variables = environment::overlay(&mut table, environment);
        let mut config: Self = toml::Value::Table(table)
            .try_into()
            .map_err(|e| ConfigError::Parse("the configuration".to_owned(), Box::new(e)))?;
        config.file = file.map(Path::to_owned);
        config.data_dir = flags.data_dir.unwrap_or(config.data_dir);
        config.listen = flags.listen.unwrap_or(config.listen);
        config.unknown_variables = unknown_variables;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        self.check_listeners()?;
        if self.limits.min_drive.0 > self.limits.max_drive.0 {
            return wrong("limits.min_drive", "is above limits.max_drive");
        }
        if self.limits.ticket_most_seconds < self.limits.ticket_seconds {
            return wrong("limits.ticket_most_seconds", "is below limits.ticket_seconds");
        }
        if self.memory.budget.0 < ByteCount::mib(8) {
            return wrong("memory.budget", "must be 8 MiB or more");
        }
        if self.scrub.rate.0 == ByteCount::ZERO {
            return wrong("scrub.rate", "must be 1 byte or more; scrub.period_seconds = 0 turns it off");
        }
        if !(1..=64).contains(&self.io.threads) {
            return wrong("io.threads", "must be 1 to 64");
        }
        if !(1..=64).contains(&self.io.depth) {
            return wrong("io.depth", "must be 1 to 64");
        }
        if self.trees.default_size.0 == ByteCount::ZERO || self.trees.default_size.0 > self.trees.max_size.0 {
            return wrong("trees.default_size", "must be from 1 byte to trees.max_size");
        }
        if !(1..=30 * 24 * 60 * 60).contains(&self.transfers.expire_seconds) {
            return wrong("transfers.expire_seconds", "must be from a second to 30 days");
        }
        if self.transfers.checkpoint_bytes.0 < ByteCount::mib(1) {
            return wrong("transfers.checkpoint_bytes", "must be 1 MiB or more");
        }
        if self.transfers.checkpoint_time.is_zero() {
            return wrong("transfers.checkpoint_seconds", "must be 1 or more");
        }
        if !(1..=256).contains(&self.trees.streams) {
            return wrong("trees.streams", "must be 1 to 256");
        }
        if self.auth.token_seconds == 0 {
            return wrong("auth.token_seconds", "must be 1 or more");
        }
        if self.auth.region.is_empty() || self.auth.region.len() > 255 || self.auth.region.contains(char::is_control) {
            return wrong("auth.region", "must be a name of 1 to 255 bytes");
        }
        if self.remote.at_once == 0 {
            return wrong("remote.at_once", "must be 1 or more");
        }
        if self.hpc_ai.issuer.is_empty() || self.hpc_ai.audience.is_empty() {
            return wrong("hpc_ai", "issuer and audience must not be empty");
        }
        let types = &self.hpc_ai.volume_types;
        if types.is_empty() || !types.iter().all(|name| is_word(name) && name != cloud::TREES) {
            return wrong("hpc_ai.volume_types", "must be one or more texts of up to 255 characters, not filesystem");
        }
        if !self.hpc_ai.regions.iter().all(|region| is_word(&region.id)) {
            return wrong("hpc_ai.regions", "must have ids of 1 to 255 characters");
        }
        if self.block.zones.is_empty() {
            return wrong("block.zones", "must have one or more");
        }
        if self.block.default_type.as_ref().is_some_and(|name| !self.block.types.contains(name)) {
            return wrong("block.default_type", "is none of block.types");
        }
        if !LEVELS.contains(&self.backups.level) {
            return wrong("backups.level", "must be 1 to 19");
        }
        if self.backups.storage == BackupStorage::S3 && self.backups.bucket.is_none() {
            return wrong("backups.bucket", "is where backups in s3 are stored");
        }
        if self.backups.access_key_id.is_some() != self.backups.secret_access_key.is_some() {
            return wrong("backups", "access_key_id and secret_access_key go together");
        }
        if self.proxy.protocol && self.proxy.trusted.is_empty() {
            return wrong("proxy.protocol", "is for connections of proxy.trusted, which is empty");
        }
        if self.limits.connections == 0 {
            return wrong("limits.connections", "must be 1 or more");
        }
        if self.limits.connections_per_address.is_some_and(|share| share == 0 || share >= self.limits.connections) {
            return wrong("limits.connections_per_address", "must be 1 or more, and below limits.connections");
        }
        Ok(())
    }

    /// Returns the limits that clients are told.
    pub(crate) fn drive_limits(&self) -> Limits {
        Limits { min_drive: self.limits.min_drive.0, max_drive: self.limits.max_drive.0 }
    }

    /// Returns what HPC-AI's API offers.
    pub(crate) fn hpc_catalogue(&self) -> Catalogue {
        let mut regions = self.hpc_ai.regions.clone();
        if regions.is_empty() {
            regions.push(Region { id: DEFAULT_REGION.to_owned(), name: "default".to_owned() });
        }
        Catalogue { regions, drive_types: self.hpc_ai.volume_types.clone() }
    }

    /// Returns the quota of new tenants.
    pub(crate) fn default_quota(&self) -> Quota {
        let quota = &self.quota;
        Quota {
            volumes: quota.drives,
            bytes: quota.bytes.map(|size| size.0),
            backups: quota.backups,
            backup_bytes: quota.backup_bytes.map(|size| size.0),
            snapshots: quota.snapshots,
            volume_bytes: quota.volume_bytes.map(|size| size.0),
        }
    }
}

/// Whether a client can use this text as a name.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= 255 && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;

    pub(super) fn load(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        Config::load(Some(file.path()), env, Overrides::default())
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let config = load("listen = '127.0.0.1:1'\n[io]\ndepth = 2\n", &[("LONGSHORE_IO__DEPTH", "3")]).unwrap();
        assert_eq!((config.listen.port(), config.io.depth), (1, 3));
        let flags = Overrides { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9))), ..Overrides::default() };
        let config = Config::load(None, [("LONGSHORE_LISTEN".into(), "127.0.0.1:2".into())], flags).unwrap();
        assert_eq!(config.listen.port(), 9);
    }

    #[test]
    fn sizes_are_read_with_binary_units() {
        let config = load("[limits]\nmin_drive = '1MiB'\nmax_drive = 2097152\n", &[]).unwrap();
        assert_eq!(config.limits.min_drive.0, ByteCount::mib(1));
        assert_eq!(config.limits.max_drive.0, ByteCount::mib(2));
        assert!(load("[limits]\nmin_drive = '1MB'\n", &[]).is_err());
        assert!(load("[limits]\nmin_drive = '99999999TiB'\n", &[]).is_err());
    }

    #[test]
    fn a_key_that_does_not_exist_is_an_error() {
        assert!(load("lissten = '127.0.0.1:1'\n", &[]).is_err());
    }

    #[test]
    fn regions_and_types_are_those_of_the_file_or_one_of_each() {
        let catalogue = load("", &[]).unwrap().hpc_catalogue();
        assert_eq!((&*catalogue.regions[0].id, catalogue.regions.len()), (DEFAULT_REGION, 1));
        assert_eq!(catalogue.drive_types, ["highspeedstorage"]);
        let text = "[hpc_ai]\nregions = [{id = 'r1', name = 'one'}, {id = 'r2', name = 'two'}]\nvolume_types = ['a']\n";
        let catalogue = load(text, &[]).unwrap().hpc_catalogue();
        let ids: Vec<&str> = catalogue.regions.iter().map(|region| &*region.id).collect();
        assert_eq!((ids, catalogue.drive_types), (vec!["r1", "r2"], vec!["a".to_owned()]));
        let empty = "regions = [{id = '', name = 'x'}]";
        for wrong in ["volume_types = []", "volume_types = ['filesystem']", empty, "issuer = ''"] {
            assert!(load(&format!("[hpc_ai]\n{wrong}\n"), &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_live_for_a_time_and_the_region_has_a_name() {
        let auth = load("", &[]).unwrap().auth;
        assert_eq!((auth.token_seconds, auth.region.as_str()), (86_400, "RegionOne"));
        assert_eq!(load("", &[("LONGSHORE_AUTH__REGION", "north")]).unwrap().auth.region, "north");
        for wrong in ["token_seconds = 0", "token_seconds = -1", "region = ''", "region = \"a\\nb\""] {
            assert!(load(&format!("[auth]\n{wrong}\n"), &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_secret_of_the_object_storage_may_come_from_the_environment_and_is_not_printed() {
        let file = "[backups]\nstorage = 's3'\nbucket = 'b'\naccess_key_id = 'id'\n";
        assert!(load(file, &[]).is_err());
        assert!(load("[backups]\nstorage = 's3'\n", &[]).is_err());
        let config = load(file, &[("LONGSHORE_BACKUPS__SECRET_ACCESS_KEY", "very-secret")]).unwrap();
        assert_eq!(config.backups.secret_access_key.as_ref().map(Secret::reveal), Some("very-secret"));
        assert!(!format!("{config:?}").contains("very-secret"));
    }

    #[test]
    fn the_scrub_is_turned_off_by_its_period_and_not_by_its_rate() {
        let scrub = load("", &[]).unwrap().scrub;
        assert_eq!((scrub.period_seconds, scrub.rate.0), (2_592_000, ByteCount::mib(20)));
        assert_eq!(load("scrub = {period_seconds = 0}", &[]).unwrap().scrub.period_seconds, 0);
        assert!(load("scrub = {rate = 0}", &[]).is_err());
    }

    #[test]
    fn sources_are_schemes_and_networks_in_a_list_or_a_text() {
        let remote =
            load("[remote]\nschemes = ['git']\n", &[("LONGSHORE_REMOTE__NETWORKS", "10.0.0.0/8,::1")]).unwrap();
        assert_eq!((remote.remote.schemes, remote.remote.networks.len()), (vec![Scheme::Git], 2));
        assert!(load("remote = {schemes = []}", &[]).unwrap().remote.schemes.is_empty());
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        let origins = |list: &str| load(&format!("cors.origins = {list}\n"), &[]).map(|config| config.cors.origins);
        for right in ["https://portal.example.com", "http://127.0.0.1:3000", "https://[::1]:8443"] {
            assert_eq!(origins(&format!("['{right}']")).unwrap()[0].to_string(), right);
        }
        let from_environment = load("", &[("LONGSHORE_CORS__ORIGINS", "https://a, https://b")]).unwrap();
        assert_eq!(from_environment.cors.origins.len(), 2);
        for wrong in
            ["*", "null", "portal.example.com", "https://a/", "https://u@a", "ftp://a", "https://a:443", "https://"]
        {
            assert!(origins(&format!("['{wrong}']")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn proxies_are_networks_in_a_list_or_a_text() {
        let trusted = |toml: &str, env: &[(&str, &str)]| load(toml, env).map(|config| config.proxy.trusted.len());
        assert_eq!(trusted("", &[]).unwrap(), 0);
        assert_eq!(trusted("[proxy]\ntrusted = ['10.0.0.0/8', '::1']\nprotocol = true\n", &[]).unwrap(), 2);
        assert_eq!(trusted("", &[("LONGSHORE_PROXY__TRUSTED", "10.0.0.0/8, ::1")]).unwrap(), 2);
        for wrong in ["trusted = ['10.0.0.1/8']", "trusted = 'proxy.example.com'", "protocol = true"] {
            assert!(load(&format!("[proxy]\n{wrong}\n"), &[]).is_err(), "{wrong}");
        }
    }
}
