//! Objects in a local directory or an S3 bucket: each is whole if it exists, and durable when its put has returned.
//!
//! A local object is flushed before it gets its name, so that a later run can rely on the objects of an interrupted
//! one.
//!
//! # Cancellation
//! A put that has begun completes even if its caller is dropped: a local one cannot be stopped half-way, and one to S3
//! may have arrived. So a removal first waits until no put is pending ([`Objects::quiesce`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error as StoreError, GetOptions, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, RetryConfig,
};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::error::ArchiveError;
use super::local;
use super::place::Place;
use super::{Bucket, Storage};
use crate::domain::Shortage;

/// Time limit of one request, including the 50 MiB that it carries: 175 kB/s.
const REQUEST: Duration = Duration::from_mins(5);

/// Time limit for making a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a request that failed for a transient reason is retried, and for how long in total. The job that writes a
/// backup retries later, too.
const RETRIES: usize = 5;
const RETRYING: Duration = Duration::from_mins(1);

/// Bytes read from a local object at once.
const READ: u64 = 1 << 20;

/// Rounds of listing and removing the objects of a backup before it gives up.
const SWEEPS: usize = 5;

/// A place for objects. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The directory of a local storage.
    root: Option<Arc<PathBuf>>,
    /// Whether the storage can create an object only if it is missing.
    can_create: bool,
    /// Held for reading by each pending put.
    gate: Arc<RwLock<()>>,
    /// While this is on, nothing is put.
    shortage: Shortage,
    tracker: TaskTracker,
}

/// A pending put.
pub(super) type Put = JoinHandle<Result<Made, ArchiveError>>;

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// The object was stored and is durable.
    Yes,
    /// An object existed before, and stays.
    Existed,
}

/// Whether a put replaces an existing object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Replace,
    Create,
}

impl Objects {
    /// Opens the storage. Creates a missing local directory; a bucket must exist.
    pub(super) fn open(storage: &Storage, shortage: Shortage, tracker: TaskTracker) -> Result<Self, ArchiveError> {
        let (store, root, can_create): (Arc<dyn ObjectStore>, _, _) = match storage {
            Storage::Directory(root) => {
                local::make_root(root).map_err(ArchiveError::of_disk)?;
                let root = root.canonicalize().map_err(ArchiveError::of_disk)?;
                let store = LocalFileSystem::new_with_prefix(&root).map_err(ArchiveError::of_put)?.with_fsync(true);
                (Arc::new(store), Some(Arc::new(root)), true)
            }
            Storage::S3(bucket) => (s3(bucket)?, None, bucket.conditional_put),
        };
        Ok(Self { store, root, can_create, gate: Arc::default(), shortage, tracker })
    }

    /// Starts a put of an object of a backup.
    pub(super) async fn put(&self, place: &Place, key: Key, bytes: Vec<u8>, mode: Mode) -> Put {
        let turn = Arc::clone(&self.gate).read_owned().await;
        let (objects, place) = (self.clone(), place.clone());
        self.tracker.spawn(async move {
            let result = objects.put_now(&place, &key, bytes.into(), mode).await;
            drop(turn);
            result
        })
    }

    async fn put_now(&self, place: &Place, key: &Key, bytes: Bytes, mode: Mode) -> Result<Made, ArchiveError> {
        if self.shortage.is_on() {
            return Err(ArchiveError::of_disk(std::io::ErrorKind::StorageFull.into()));
        }
        self.on_disk(place, local::make).await?;
        if mode == Mode::Create {
            // The objects that the manifest names are found only through the directories above them.
            self.on_disk(place, local::settle).await?;
        }
        let how = match mode {
            Mode::Create if self.can_create => PutMode::Create,
            Mode::Create if self.size_of(key).await?.is_some() => return Ok(Made::Existed),
            Mode::Create | Mode::Replace => PutMode::Overwrite,
        };
        match self.store.put_opts(key, bytes.into(), how.into()).await {
            Ok(_) => Ok(Made::Yes),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) if mode == Mode::Create => {
                Ok(Made::Existed)
            }
            Err(error) => Err(ArchiveError::of_put(error)),
        }
    }

    /// Waits until no put is pending, and removes the temporary files that interrupted puts left of this backup.
    pub(super) async fn quiesce(&self, place: &Place) -> Result<(), ArchiveError> {
        self.alone_on_disk(place, local::sweep).await
    }

    /// Reads a whole object, and refuses a longer one than `longest`; `None` if it is missing.
    pub(super) async fn read_whole(&self, key: &Key, longest: u64) -> Result<Option<Bytes>, ArchiveError> {
        let found = match self.store.get_opts(key, GetOptions::default()).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            found => found.map_err(ArchiveError::of_store)?,
        };
        if found.meta.size > longest {
            return Err(ArchiveError::Damaged("its manifest is longer than any"));
        }
        found.bytes().await.map(Some).map_err(ArchiveError::of_store)
    }

    /// Reads a range of an object; `None` if the object is missing.
    pub(super) async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, ArchiveError> {
        match self.store.get_range(key, range).await {
            Err(StoreError::NotFound { .. }) => Ok(None),
            result => result.map(Some).map_err(ArchiveError::of_store),
        }
    }

    /// Opens an object, and returns its length and a reader; `None` if it is missing.
    pub(super) async fn reader(&self, key: &Key) -> Result<Option<(u64, Reader)>, ArchiveError> {
        let found = match self.store.get_opts(key, GetOptions::default()).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            found => found.map_err(ArchiveError::of_store)?,
        };
        let reader = match found.payload {
            GetResultPayload::File(file, _) => Reader::File(Some(file)),
            GetResultPayload::Stream(stream) => Reader::Stream(stream),
        };
        Ok(Some((found.meta.size, reader)))
    }

    /// Returns the lengths of a backup's existing objects, by number.
    pub(super) async fn lengths(&self, place: &Place) -> Result<BTreeMap<u64, u64>, ArchiveError> {
        let mut found = BTreeMap::new();
        let mut list = self.store.list(Some(&place.prefix()));
        while let Some(object) = list.next().await {
            let object = object.map_err(ArchiveError::of_put)?;
            if let Some(number) = place.number_of(&object.location) {
                found.insert(number, object.size);
            }
        }
        Ok(found)
    }

    /// Lists all objects, in no order.
    pub(super) fn list(&self) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.store.list(None)
    }

    /// Removes the manifest of a backup, durably. No put to the backup may be pending.
    pub(super) async fn remove_manifest(&self, place: &Place) -> Result<(), ArchiveError> {
        match self.store.delete(&place.manifest()).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => self.on_disk(place, local::settle_entries).await,
            Err(error) => Err(ArchiveError::of_store(error)),
        }
    }

    /// Removes the objects of a backup, durably. No put to the backup may be pending.
    pub(super) async fn remove_objects(&self, place: &Place) -> Result<(), ArchiveError> {
        for _ in 0..SWEEPS {
            let owned = place.clone();
            let keys = self.store.list(Some(&place.prefix())).map_ok(|object| object.location);
            let keys = keys.try_filter(move |key| ready(owned.number_of(key).is_some())).boxed();
            let mut gone = self.store.delete_stream(keys);
            let mut count = 0;
            while let Some(result) = gone.next().await {
                match result {
                    Ok(_) | Err(StoreError::NotFound { .. }) => count += 1,
                    Err(error) => return Err(ArchiveError::of_store(error)),
                }
            }
            // A list that is read while its entries are removed may skip some.
            if count == 0 {
                return self.alone_on_disk(place, local::tidy).await;
            }
        }
        Err(ArchiveError::Refused("objects that were removed are there again".into()))
    }

    async fn size_of(&self, key: &Key) -> Result<Option<u64>, ArchiveError> {
        match self.store.head(key).await {
            Ok(object) => Ok(Some(object.size)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(ArchiveError::of_store(error)),
        }
    }

    /// Runs `work` on the local directory, if there is one, while no put is pending. Dropping the future does not stop
    /// work that has begun; no put starts until it has ended, as its files could be removed.
    async fn alone_on_disk(
        &self,
        place: &Place,
        work: fn(&std::path::Path, &Place) -> std::io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let alone = Arc::clone(&self.gate).write_owned().await;
        let Some(root) = self.root.clone() else { return Ok(()) };
        let place = place.clone();
        let work = move || {
            let result = work(&root, &place);
            drop(alone);
            result
        };
        blocking(work).await?.map_err(ArchiveError::of_disk)
    }

    /// Runs `work` on the local directory, if there is one.
    async fn on_disk(
        &self,
        place: &Place,
        work: fn(&std::path::Path, &Place) -> std::io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let place = place.clone();
        blocking(move || work(&root, &place)).await?.map_err(ArchiveError::of_disk)
    }
}

/// The bytes of an object.
pub(super) enum Reader {
    /// `None` only during a read, and after a cancelled one.
    File(Option<File>),
    Stream(BoxStream<'static, Result<Bytes, StoreError>>),
}

impl Reader {
    /// Returns the next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        match self {
            Self::Stream(stream) => stream.next().await.transpose().map_err(ArchiveError::of_store),
            Self::File(slot) => {
                let Some(mut file) = slot.take() else { return Ok(None) };
                let (file, read) = blocking(move || {
                    let mut bytes = Vec::with_capacity(READ as usize);
                    let read = file.by_ref().take(READ).read_to_end(&mut bytes);
                    (file, read.map(|_| bytes))
                })
                .await?;
                *slot = Some(file);
                let bytes = read.map_err(ArchiveError::of_disk)?;
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
        }
    }
}

/// Runs work that blocks or computes for long on the blocking pool. The work completes even if the future is dropped.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ArchiveError::Cut(error.into()))
}

fn s3(bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, ArchiveError> {
    let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRYING, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region)
        .with_virtual_hosted_style_request(bucket.virtual_host)
        .with_conditional_put(if bucket.conditional_put {
            S3ConditionalPut::ETagMatch
        } else {
            S3ConditionalPut::Disabled
        })
        .with_disable_bulk_delete(!bucket.bulk_delete)
        .with_client_options(client)
        .with_retry(retry);
    if bucket.checksum {
        // The storage verifies it. It replaces the SHA-256 of the body in the signature, which would keep a thread of
        // the runtime busy for 40 ms for each object.
        builder = builder.with_checksum_algorithm(Checksum::CRC64NVME).with_unsigned_payload(true);
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(&endpoint.text).with_allow_http(endpoint.is_plain);
    }
    match (&bucket.access_key_id, &bucket.secret_access_key) {
        (Some(id), Some(secret)) => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
        }
        (None, None) => {}
        _ => return Err(ArchiveError::Settings("access key id and secret go together")),
    }
    builder.build().map(|store| Arc::new(store) as _).map_err(|error| ArchiveError::Refused(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;

    /// On a busy machine, the sweep of a dropped run once removed files of the next one.
    #[test]
    fn no_put_begins_while_a_sweep_that_was_dropped_is_still_to_run() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let root = tempfile::tempdir().unwrap();
            let objects =
                Objects::open(&Storage::Directory(root.path().to_owned()), Shortage::default(), TaskTracker::new())
                    .unwrap();
            let place = crate::archive::testing::head(crate::domain::ByteCount::ZERO).place();
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            {
                let mut sweep = std::pin::pin!(objects.quiesce(&place));
                std::future::poll_fn(|context| {
                    assert!(sweep.as_mut().poll(context).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
            }
            assert!(objects.gate.try_read().is_err(), "a put could begin");
            go_on.send(()).unwrap();
            busy.await.unwrap().unwrap();
            drop(objects.gate.read().await);
        });
    }

    #[test]
    fn no_secret_is_in_what_is_printed() {
        let bucket = Bucket {
            secret_access_key: Some(Secret::new("very-secret")),
            access_key_id: Some("id".to_owned()),
            ..Bucket::new("b")
        };
        let settings = Storage::S3(Box::new(bucket));
        assert!(!format!("{settings:?}").contains("very-secret"));
        let objects = Objects::open(&settings, Shortage::default(), TaskTracker::new()).unwrap();
        assert!(!format!("{objects:?}").contains("very-secret"));
    }

    #[test]
    fn half_of_the_credentials_is_refused() {
        let bucket = Bucket { access_key_id: Some("id".to_owned()), ..Bucket::new("b") };
        let opened = Objects::open(&Storage::S3(Box::new(bucket)), Shortage::default(), TaskTracker::new());
        assert!(matches!(opened, Err(ArchiveError::Settings(_))));
    }
}
