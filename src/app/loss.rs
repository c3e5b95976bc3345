//! Data on the disk that the database does not know: whether to serve nevertheless, and its recovery.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::{claim_data_dir, has_installation, local_settings, open_meta, open_trees, pick_engine};
use crate::config::Config;
use crate::domain::{
    ByteCount, Clock, ContentId, CrashPoints, Digests, Named, Shortage, SystemClock, TenantId, UnixTime, Volume,
    VolumeId, VolumeKind, VolumeState,
};
use crate::meta::{Meta, MetaError};
use crate::store::{BlockStore, LocalStore, LocalTrees, LostImage, LostTree, Record, TreeStore};

/// Fewer unknown images are no reason to refuse: a power cut may leave as many uploads whole that were never answered.
const MANY: usize = 10;

/// Milliseconds by which unknown data must be newer than the last use of the database to show that this is an older
/// copy. Above the ten minutes after which a server records the use.
const MUCH_NEWER: i64 = 60 * 60 * 1_000;

const ADVICE: &str = "Nothing was changed. Put a backup of the database in its place, as the README says; or start with \
                      --accept-loss, which sets aside in lost/ what the database does not know, from where `longshore \
                      recover` brings it back";

/// Refuses to make a database where there are images but no database.
pub(super) fn check_presence(config: &Config, accept_loss: bool) -> anyhow::Result<()> {
    if accept_loss || has_installation(config)? {
        return Ok(());
    }
    let drives = LocalStore::count(&config.data_dir).context("cannot count the drives")?;
    let count = drives + LocalTrees::count(&config.data_dir).context("cannot count the trees")?;
    ensure!(count == 0, "the database is missing, and {count} drives and trees are there. {ADVICE}");
    Ok(())
}

/// Makes contents of what a version before contents had its jobs hold.
pub(super) async fn take_over(meta: &Meta, store: &LocalStore) -> anyhow::Result<()> {
    let known = meta.contents().await?;
    store.take_over_held(move |id| known.contains(&id)).await.context("cannot take over held/")
}

/// Refuses a database that does not know most of the stored data, or is older than it.
pub(super) async fn check_rows(
    meta: &Meta,
    store: &dyn BlockStore,
    trees: &dyn TreeStore,
    accept_loss: bool,
) -> anyhow::Result<()> {
    let known = meta.contents().await?;
    let images = store.images().await?;
    let contents = trees.contents().context("cannot read trees/")?;
    let total = images.len() + contents.len();
    let mut unknown = contents.iter().filter(|id| !known.contains(*id)).count();
    let mut newest = UnixTime(0);
    for id in images.into_iter().filter(|id| !known.contains(id)) {
        unknown += 1;
        newest = newest.max(store.stored_at(id).await?);
    }
    let seen = meta.last_seen().await?;
    let why = if unknown >= MANY && unknown > total - unknown {
        format!("the database knows {} of {total} drives and trees that are there", total - unknown)
    } else if seen.is_some_and(|seen| newest.0 - seen.0 > MUCH_NEWER) {
        format!("the database is older than the drives that are there: it does not know {unknown} of {total}")
    } else {
        return Ok(());
    };
    if !accept_loss {
        bail!("{why}. {ADVICE}");
    }
    tracing::warn!(why, "serving without what the database does not know");
    Ok(())
}

/// The action on data that the database does not know.
#[derive(Clone, Debug)]
pub(crate) enum Recovery {
    /// List it.
    List,
    /// Remove it.
    Remove,
    /// Make volumes of it again.
    TakeBack {
        /// The tenant that gets all of it; each item's former owner when absent.
        tenant: Option<String>,
    },
}

/// A drive or a tree that no row of the database knows.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The id of the drive, or of the tree's content.
    pub id: String,
    /// `drive` or `tree`.
    pub kind: &'static str,
    /// The size of the volume.
    pub size: ByteCount,
    /// The name of its tenant, as far as it is known.
    pub tenant: Option<String>,
    /// Its name.
    pub name: String,
    /// The result for this item.
    pub outcome: Recovered,
}

/// The outcome for such a drive or tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// It was listed only.
    Listed,
    /// It is a volume again.
    Back,
    /// It was removed.
    Removed,
    /// It was left in place, for this reason.
    Left(String),
}

/// Handles all data that no row of the database knows. The server must not run.
pub(crate) async fn recover(config: &Config, what: &Recovery) -> anyhow::Result<Vec<Found>> {
    let _lock = claim_data_dir(&config.data_dir)?;
    let meta = open_meta(config).await?;
    let done = recover_all(config, &meta, what).await;
    meta.close().await;
    done
}

async fn recover_all(config: &Config, meta: &Meta, what: &Recovery) -> anyhow::Result<Vec<Found>> {
    let crash = CrashPoints::none();
    let settings = local_settings(config, Shortage::default(), crash.clone());
    let store = LocalStore::open(&config.data_dir, pick_engine(config)?, settings)?;
    let trees = open_trees(config, &store, crash)?;
    let all_to = match what {
        Recovery::TakeBack { tenant: Some(name) } => {
            let owner = meta.project(&Named::Name(name.clone())).await?;
            Some(owner.with_context(|| format!("there is no tenant {name}"))?.id)
        }
        _ => None,
    };
    set_aside(meta, &store, &trees).await?;
    let mut found = Vec::new();
    for lost in store.lost().await? {
        found.push(recover_image(meta, &store, lost, what, all_to).await?);
    }
    for lost in trees.lost()? {
        found.push(recover_tree(meta, &trees, lost, what, all_to).await?);
    }
    while matches!(what, Recovery::Remove) && !trees.empty_trash()? {}
    Ok(found)
}

/// Sets aside what a server would set aside at its start.
async fn set_aside(meta: &Meta, store: &dyn BlockStore, trees: &dyn TreeStore) -> anyhow::Result<()> {
    let known = Arc::new(meta.contents().await?);
    let (never, keep) = (UnixTime(i64::MIN), known.clone());
    store.sweep(Arc::new(move |id| keep.contains(&id)), Arc::new(|_| true), never).await?;
    let whole = trees.contents()?.into_iter().chain(trees.lost()?.into_iter().map(|lost| lost.id));
    let unknown: HashSet<ContentId> = whole.filter(|id| !known.contains(id)).collect();
    // Incomplete trees are left to the server.
    trees.sweep(&|id| !unknown.contains(&id), never)?;
    Ok(())
}

async fn recover_image(
    meta: &Meta,
    store: &dyn BlockStore,
    lost: LostImage,
    what: &Recovery,
    all_to: Option<TenantId>,
) -> anyhow::Result<Found> {
    let LostImage { id, size, record } = lost;
    let name = record.as_ref().map_or_else(|| id.to_string(), |Record { name, .. }| name.clone());
    let tenant = all_to.or(record.as_ref().map(|record| record.tenant));
    let outcome = match (what, tenant) {
        (Recovery::List, _) => Recovered::Listed,
        (Recovery::Remove, _) => {
            store.forget(id).await?;
            Recovered::Removed
        }
        (Recovery::TakeBack { .. }, None) => unknown_owner(),
        (Recovery::TakeBack { .. }, Some(tenant)) => {
            let (kind, state) = (VolumeKind::Drive, VolumeState::Available);
            let volume = Volume {
                id: record.map_or(VolumeId::from_bytes(*id.as_bytes()), |record| record.volume),
                content: Some(id),
                generation: 1,
                ..Volume::begun(tenant, kind, &name, size, state, SystemClock.now())
            };
            // Its bytes first: a row without them would be damage, and an image without its row is set aside again.
            match store.bring_back(id).await {
                Ok(()) => take_back(meta, store, volume).await?,
                Err(error) => Recovered::Left(format!("{:#}", anyhow::Error::from(error))),
            }
        }
    };
    let tenant = told_tenant(meta, tenant).await?;
    Ok(Found { id: id.to_string(), kind: "drive", size, tenant, name, outcome })
}

/// Makes a row for a drive whose bytes are back. Where the drive is known by now, that is an earlier or a later content
/// of it: it becomes that of the drive if the one that it has is gone, else a drive of its own.
async fn take_back(meta: &Meta, store: &dyn BlockStore, volume: Volume) -> anyhow::Result<Recovered> {
    let told = name_of(volume.tenant);
    match meta.take_back(&volume, &told).await {
        Err(MetaError::Duplicate) => {}
        outcome => return outcome.map(|()| Recovered::Back).map_err(Into::into),
    }
    let there = meta.volume_any(volume.id).await?.context("a volume is there and is not found")?;
    let is_missing = there.tenant == volume.tenant && store.open(there.image()).await.is_err();
    if is_missing && matches!(there.state, VolumeState::Available | VolumeState::Unavailable) {
        let (content, size, state) = (volume.content, volume.size, VolumeState::Available);
        let mut whole = Volume { content, size, charged: size, state, reason: None, ..there };
        whole.renew(Digests::NONE);
        whole.updated = SystemClock.now();
        return match meta.update(whole).await {
            Err(error @ MetaError::QuotaExceeded) => Ok(Recovered::Left(format!("{error}"))),
            outcome => outcome.map(|_| Recovered::Back).map_err(Into::into),
        };
    }
    meta.take_back(&Volume { id: VolumeId::random(), ..volume }, &told).await?;
    Ok(Recovered::Back)
}

async fn recover_tree(
    meta: &Meta,
    trees: &dyn TreeStore,
    lost: LostTree,
    what: &Recovery,
    all_to: Option<TenantId>,
) -> anyhow::Result<Found> {
    let LostTree { id, record } = lost;
    let mut name = record.as_ref().map_or_else(|| id.to_string(), |record| record.name.clone());
    let size = record.as_ref().map_or(ByteCount::ZERO, |record| record.size);
    let tenant = all_to.or(record.map(|record| record.tenant));
    let outcome = match (what, tenant) {
        (Recovery::List, _) => Recovered::Listed,
        (Recovery::Remove, _) => {
            trees.forget(id)?;
            Recovered::Removed
        }
        (Recovery::TakeBack { .. }, None) => unknown_owner(),
        (Recovery::TakeBack { .. }, Some(tenant)) => {
            trees.bring_back(id)?;
            let now = SystemClock.now();
            let mut tree = Volume::begun(tenant, VolumeKind::Tree, &name, size, VolumeState::Available, now);
            tree.fill(id, "recovered", now)?;
            match meta.take_back(&tree, &name_of(tenant)).await {
                Err(MetaError::Duplicate) => {
                    // A tenant has one tree of a name, and this one may be an earlier content of that.
                    name = format!("{name}-{id}");
                    tree.name.clone_from(&name);
                    meta.take_back(&tree, &name_of(tenant)).await?;
                }
                outcome => outcome?,
            }
            Recovered::Back
        }
    };
    let tenant = told_tenant(meta, tenant).await?;
    Ok(Found { id: id.to_string(), kind: "tree", size, tenant, name, outcome })
}

fn unknown_owner() -> Recovered {
    Recovered::Left("nothing says whose it is; give it to somebody with --tenant".to_owned())
}

/// Returns the name of a tenant that is made again, since its former name is unknown.
fn name_of(tenant: TenantId) -> String {
    format!("recovered-{tenant}")
}

async fn told_tenant(meta: &Meta, tenant: Option<TenantId>) -> anyhow::Result<Option<String>> {
    let Some(id) = tenant else { return Ok(None) };
    Ok(Some(meta.tenant_name(id).await?.unwrap_or_else(|| id.to_string())))
}

/// Writes a copy of the database into a new file, which is there whole or not at all.
pub(super) async fn backup_database(meta: &Meta, file: &Path) -> anyhow::Result<()> {
    ensure!(!file.try_exists()?, "{} exists already", file.display());
    let mut draft = file.to_owned().into_os_string();
    draft.push(".part");
    let draft = Path::new(&draft);
    let write = async {
        // It has the digests of passwords and tokens.
        let copy = File::options().create(true).truncate(true).write(true).mode(0o600).open(draft)?;
        meta.copy_to(draft).await?;
        copy.sync_all()?;
        fs::rename(draft, file)?;
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        Ok(())
    };
    let written: anyhow::Result<()> = write.await;
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}
