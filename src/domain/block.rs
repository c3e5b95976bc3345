//! Drives as block storage has them: what a caller can want of volumes, snapshots, backups and attachments.
//!
//! The words are those of OpenStack Block Storage; every dialect of it decodes into these commands. A volume of block
//! storage is a drive, and a snapshot is a volume of its own kind, made as a clone is.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{BackupId, ByteCount, Carried, TenantId, UnixTime, Volume, VolumeId, VolumeKind, VolumeState};

/// What block storage knows of a drive or snapshot beyond what every dialect does. Kept among its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockFields {
    /// What its owner says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The availability zone; absent is the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The name of its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// The id of the user who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The snapshot that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The volume that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// What is known of the image that it was made from, by the image service's own names: `image_id`, `image_name`,
    /// ...
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub image: Map<String, Value>,
    /// Whether a machine can start from it.
    pub bootable: bool,
    /// Whether it may only be attached for reading.
    pub read_only: bool,
    /// Whether every tenant may make volumes of it as of an image. An operator says so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub public_image: bool,
}

impl BlockFields {
    /// The owner's label that makes a drive an image of their tenant, with this value.
    pub const IMAGE: (&str, &str) = ("image", "private");

    /// The zone of what was made without one.
    pub const ZONE: &str = "nova";

    /// The attribute that holds them.
    const KEY: &str = "block";

    /// Those of a volume. What another dialect made has none of them.
    pub fn of(volume: &Volume) -> Self {
        let fields = volume.attributes.get(Self::KEY);
        fields.and_then(|fields| Self::deserialize(fields).ok()).unwrap_or_default()
    }

    /// Whether a tenant may make volumes of a drive as of an image.
    pub fn is_image_for(volume: &Volume, tenant: TenantId) -> bool {
        (BlockView::is_private_image(volume) && volume.tenant == tenant) || BlockView::of(volume).is_public_image()
    }

    /// Sets those of a volume.
    pub fn put(&self, attributes: &mut Map<String, Value>) {
        // Strings, booleans and a map of JSON: there is nothing that it could refuse.
        attributes.insert(Self::KEY.to_owned(), serde_json::to_value(self).unwrap_or_default());
    }
}

/// [`BlockFields`] of a volume, read where they are kept: for those who only tell of them, many at a time.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a>(Option<&'a Map<String, Value>>);

impl<'a> BlockView<'a> {
    /// Those of a volume.
    pub fn of(volume: &'a Volume) -> Self {
        Self(volume.attributes.get(BlockFields::KEY).and_then(Value::as_object))
    }

    /// Whether a volume is a drive and an image, of its tenant or of everybody.
    pub fn is_image(volume: &Volume) -> bool {
        volume.kind == VolumeKind::Drive && (Self::is_private_image(volume) || BlockView::of(volume).is_public_image())
    }

    /// Whether its owner has labelled it as an image.
    fn is_private_image(volume: &Volume) -> bool {
        let (key, value) = BlockFields::IMAGE;
        volume.meta.get(key).is_some_and(|mark| mark == value)
    }

    /// [`BlockFields::public_image`].
    fn is_public_image(self) -> bool {
        self.field("public_image").and_then(Value::as_bool).unwrap_or(false)
    }

    fn field(self, name: &str) -> Option<&'a Value> {
        self.0.and_then(|fields| fields.get(name))
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.field(name).and_then(Value::as_str)
    }

    /// [`BlockFields::description`].
    pub fn description(self) -> Option<&'a str> {
        self.text("description")
    }

    /// [`BlockFields::zone`].
    pub fn zone(self) -> Option<&'a str> {
        self.text("zone")
    }

    /// [`BlockFields::volume_type`].
    pub fn volume_type(self) -> Option<&'a str> {
        self.text("volume_type")
    }

    /// [`BlockFields::user`].
    pub fn user(self) -> Option<&'a str> {
        self.text("user")
    }

    /// [`BlockFields::snapshot`].
    pub fn snapshot(self) -> Option<&'a str> {
        self.text("snapshot")
    }

    /// [`BlockFields::volume`].
    pub fn volume(self) -> Option<&'a str> {
        self.text("volume")
    }

    /// [`BlockFields::image`]; absent when empty.
    pub fn image(self) -> Option<&'a Map<String, Value>> {
        self.field("image").and_then(Value::as_object)
    }

    /// [`BlockFields::bootable`].
    pub fn is_bootable(self) -> bool {
        self.field("bootable").is_some_and(|flag| *flag == Value::Bool(true))
    }
}

/// Metadata work as block storage has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BlockCommand {
    /// Some of the drives, as volumes.
    Volumes(Box<BlockQuery>),
    /// One.
    Volume(VolumeId),
    /// Makes one, blank or from exactly one source.
    CreateVolume(Box<NewVolume>),
    /// Renames or describes one.
    UpdateVolume {
        /// The volume.
        id: VolumeId,
        /// To what.
        patch: BlockPatch,
    },
    /// Removes one.
    DeleteVolume {
        /// The volume.
        id: VolumeId,
        /// Its snapshots too.
        cascade: bool,
        /// In an error state or attached, too. For administrators.
        force: bool,
    },
    /// Does something to one.
    Act {
        /// The volume.
        id: VolumeId,
        /// The action.
        action: VolumeAction,
    },
    /// Some of the snapshots.
    Snapshots(Box<BlockQuery>),
    /// One.
    Snapshot(VolumeId),
    /// Makes one.
    CreateSnapshot {
        /// Of this drive.
        volume: VolumeId,
        /// Its label.
        name: Option<String>,
        /// What its owner says of it.
        description: Option<String>,
        /// The owner's pairs.
        metadata: Map<String, Value>,
        /// Also of a drive that is attached.
        force: bool,
    },
    /// Renames or describes one.
    UpdateSnapshot {
        /// The volume.
        id: VolumeId,
        /// To what.
        patch: BlockPatch,
    },
    /// Removes one.
    DeleteSnapshot {
        /// The volume.
        id: VolumeId,
    },
    /// Puts a snapshot into a state by hand. For administrators.
    ResetSnapshot {
        /// The volume.
        id: VolumeId,
        /// Into which: `available` or `error`.
        status: ResetStatus,
    },
    /// Changes the owner's pairs of a drive or snapshot.
    Metadata {
        /// The volume or snapshot.
        of: Thing,
        /// The change.
        change: MetadataChange,
    },
    /// Some of the backups.
    Backups(Box<BlockQuery>),
    /// One.
    Backup(BackupRef),
    /// Makes one.
    CreateBackup(Box<NewBackup>),
    /// Removes one, and its objects.
    DeleteBackup(BackupRef),
    /// Writes one back.
    Restore {
        /// The backup.
        backup: BackupRef,
        /// Over this drive; a new one when absent.
        volume: Option<VolumeId>,
        /// The name of a new drive.
        name: Option<String>,
    },
    /// Puts a backup into a state by hand: available or error. For administrators.
    ResetBackup {
        /// The backup.
        backup: BackupRef,
        /// Into which.
        state: BackupState,
    },
    /// The servers that drives are attached to.
    Servers(ServerQuery),
    /// The drives that are attached to a server.
    Attachments {
        /// The server.
        server: String,
    },
    /// One of them.
    Attachment {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
    },
    /// Attaches a drive to a server.
    Attach {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
        /// The path at the server; the next free one when absent.
        device: Option<String>,
    },
    /// Detaches it.
    Detach {
        /// The server.
        server: String,
        /// The drive.
        volume: VolumeId,
    },
    /// What the tenant may hold, and what it holds.
    Quota {
        /// Whose; administrators may ask for others.
        tenant: TenantId,
    },
    /// Sets what a tenant may hold. For administrators.
    SetQuota {
        /// The tenant.
        tenant: TenantId,
        /// Volumes, then bytes; `None` leaves it, `Some(None)` lifts it.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
        volumes: Option<Option<u64>>,
        /// The sum of their sizes.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
        bytes: Option<Option<ByteCount>>,
        /// Backups.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
        backups: Option<Option<u64>>,
        /// The sum of the sizes of what was backed up.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
        backup_bytes: Option<Option<ByteCount>>,
    },
    /// The types of volumes.
    Types,
    /// The availability zones.
    Zones,
}

/// Whose owner's pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thing {
    /// A drive.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(VolumeId),
}

/// A change of the owner's pairs. Values are text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetadataChange {
    /// Nothing: they are read.
    Read,
    /// These are set, others stay.
    Merge(Map<String, Value>),
    /// These are all there are.
    Replace(Map<String, Value>),
    /// This one goes; it must be there.
    Remove(String),
}

/// Which backup, as the caller names it: version 1 counts them, the later ones give ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupRef {
    /// By id.
    Id(BackupId),
    /// By number.
    Number(u64),
}

/// A drive to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NewVolume {
    /// Its label.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Its size; that of its source when absent.
    pub size: Option<ByteCount>,
    /// A snapshot, whose id is checked to be one.
    pub snapshot: Option<VolumeId>,
    /// A drive.
    pub volume: Option<VolumeId>,
    /// An image of the image service.
    pub image: Option<VolumeId>,
    /// The availability zone.
    pub zone: Option<String>,
    /// The name or id of its type.
    pub volume_type: Option<String>,
    /// The owner's pairs.
    pub metadata: Map<String, Value>,
    /// The caller's token, for an image service that is to be asked for the image.
    pub token: Option<Carried>,
    /// Version 1: a volume from a snapshot has the snapshot's size, whatever size is asked.
    pub takes_size_of_snapshot: bool,
}

/// A change of name or description; `None` leaves it, `Some(None)` clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPatch {
    /// The label.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub name: Option<Option<String>>,
    /// What its owner says of it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub description: Option<Option<String>>,
    /// All of the owner's pairs anew.
    pub metadata: Option<Map<String, Value>>,
}

/// What is there is set, also to nothing: absence alone leaves a thing as it is.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A backup to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBackup {
    /// Of this drive.
    pub volume: VolumeId,
    /// Of this state of it.
    pub snapshot: Option<VolumeId>,
    /// Its label.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Where in the object storage; `volumebackups` when absent.
    pub container: Option<String>,
    /// Also of a drive that is attached.
    pub force: bool,
}

/// What can be done to a drive beside the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeAction {
    /// Grows it.
    Extend(ByteCount),
    /// Reserves it for an attachment: attaching.
    Reserve,
    /// Gives the reservation up.
    Unreserve,
    /// Records that it is attached.
    Attach {
        /// To this server.
        server: Option<String>,
        /// Or to this host.
        host: Option<String>,
        /// At this path.
        device: String,
        /// For reading only.
        read_only: bool,
    },
    /// Begins a detachment: detaching.
    BeginDetaching,
    /// Gives it up.
    RollDetaching,
    /// Records that it is detached.
    Detach,
    /// Says whether a machine can start from it.
    SetBootable(bool),
    /// Says whether it may only be attached for reading.
    SetReadOnly(bool),
    /// Sets, reads or removes what is known of its image.
    SetImageMetadata(Map<String, Value>),
    /// Removes one of these.
    UnsetImageMetadata(String),
    /// Puts it into a state by hand. For administrators.
    Reset {
        /// Into which.
        status: ResetStatus,
        /// Forgets also where it is attached, which becoming available does anyway.
        detach: bool,
    },
    /// Removes it whatever its state. For administrators.
    ForceDelete,
}

/// A state that an administrator may put a volume or snapshot into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetStatus {
    /// At rest.
    Available,
    /// Not to be used.
    Error,
    /// Attached, as its record says.
    InUse,
    /// It could not be attached.
    ErrorAttaching,
    /// It could not be detached.
    ErrorDetaching,
    /// It could not be restored.
    ErrorRestoring,
}

/// Which part of a list. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockQuery {
    /// With this name.
    pub name: Option<String>,
    /// In one of these states; empty is any. The clone count of a source is ignored.
    pub states: Option<Vec<VolumeState>>,
    /// Backups only: in this state.
    pub backup_state: Option<BackupState>,
    /// With this id.
    pub id: Option<VolumeId>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Made by this user. Not of backups, which do not know theirs.
    pub user: Option<String>,
    /// As large as this in GiB, rounded up.
    pub gib: Option<u64>,
    /// Described by exactly this.
    pub description: Option<String>,
    /// Snapshots and backups only: of this drive.
    pub volume: Option<VolumeId>,
    /// Made from this snapshot; of a backup, of that state of its drive.
    pub snapshot: Option<VolumeId>,
    /// Drives only: made from this drive.
    pub source: Option<VolumeId>,
    /// Drives only: of the type with this name or id.
    pub volume_type: Option<String>,
    /// Drives only: whether a machine can start from it.
    pub bootable: Option<bool>,
    /// In this zone.
    pub zone: Option<String>,
    /// With these pairs among the owner's. Not of backups, which have none.
    pub metadata: Map<String, Value>,
    /// Drives only: with these pairs among what is known of its image.
    pub image: Map<String, Value>,
    /// Of all tenants. For administrators; of others it is not heeded.
    pub all_tenants: bool,
    /// How it is sorted, first key first; ties by id.
    pub sort: Vec<(SortKey, Direction)>,
    /// At most this many.
    pub limit: Option<u32>,
    /// Those after this one.
    pub marker: Option<VolumeId>,
    /// Backups only: those after this one.
    pub backup_marker: Option<BackupRef>,
    /// Passing over this many.
    pub offset: u64,
}

/// Which servers that have drives, in order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerQuery {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of all tenants. For administrators; of others it is not heeded.
    pub all_tenants: bool,
    /// At most this many.
    pub limit: u32,
    /// Those after this one.
    pub marker: Option<String>,
}

/// A server as far as it is known: by what is attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedServer {
    /// Its id.
    pub id: String,
    /// Whose drives it has.
    pub tenant: TenantId,
    /// The drives.
    pub volumes: Vec<VolumeId>,
}

/// What a list can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortKey {
    /// Time of making.
    Created,
    /// Id.
    Id,
    /// Name.
    Name,
    /// Size.
    Size,
    /// State.
    State,
    /// Time of the last change.
    Updated,
}

/// Which end comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The least.
    Ascending,
    /// The greatest.
    #[default]
    Descending,
}

/// Where a drive is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The drive.
    pub volume: VolumeId,
    /// The server; absent for a bare host.
    pub server: Option<String>,
    /// The host, when it was told.
    pub host: Option<String>,
    /// The path at the server.
    pub device: String,
    /// For reading only.
    pub read_only: bool,
    /// When it was attached.
    pub created: UnixTime,
}

/// A volume as it is at one revision, and the answer that was made of it last: who polls asks for the same ones again.
#[derive(Debug)]
pub struct Seen {
    volume: Volume,
    told: OnceLock<(String, String)>,
    texts: usize,
}

impl Seen {
    /// A volume of which nothing was told yet.
    pub fn new(volume: Volume) -> Arc<Self> {
        Self::of_row(volume, 0)
    }

    /// The same, of a row whose texts have this length.
    pub fn of_row(volume: Volume, texts: usize) -> Arc<Self> {
        Arc::new(Self { volume, told: OnceLock::new(), texts })
    }

    /// How long the texts of its row are, where it was read from one.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// What `tell` makes of the volume. It is kept under the first key, which names all that it depends on beside the
    /// volume, and made anew for others.
    pub fn told(&self, key: &str, tell: impl Fn() -> String) -> Cow<'_, str> {
        let (known, text) = self.told.get_or_init(|| (key.to_owned(), tell()));
        if known == key { Cow::Borrowed(text) } else { Cow::Owned(tell()) }
    }
}

impl Deref for Seen {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.volume == other.volume
    }
}

/// A drive and where it is attached.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockVolume {
    /// The drive, or a snapshot.
    pub volume: Arc<Seen>,
    /// None, or one: a drive is attached to one server at a time.
    pub attachment: Option<Attachment>,
}

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupState {
    /// Its objects are being written.
    Creating,
    /// Whole.
    Available,
    /// Being written back.
    Restoring,
    /// Its objects are being removed.
    Deleting,
    /// It could not be made; the reason says why.
    Error,
}

/// A backup as the metadata knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its identity.
    pub id: BackupId,
    /// Its identity for those who count.
    pub number: u64,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The drive that it was made of, which may be gone.
    pub volume: VolumeId,
    /// The snapshot that it was made of.
    pub snapshot: Option<VolumeId>,
    /// Its label.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Where in the object storage; absent until its first object is written.
    pub container: Option<String>,
    /// The zone of the drive; likewise.
    pub zone: Option<String>,
    /// The size of the drive.
    pub size: ByteCount,
    /// How many objects hold its data; absent until all are written.
    pub objects: Option<u64>,
    /// Where it is in its life.
    pub state: BackupState,
    /// Why it failed, for a person.
    pub reason: Option<String>,
    /// Its number and tenant where it was made, if that was another installation: its objects are named by them.
    pub origin: Option<(u64, TenantId)>,
    /// When it was begun.
    pub created: UnixTime,
    /// When its record last changed.
    pub updated: UnixTime,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged<T> {
    /// The page.
    pub items: Vec<T>,
    /// Whether more follow it.
    pub has_more: bool,
}

/// A type of volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeType {
    /// Its id, made of its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is, for a person.
    pub description: Option<String>,
}

/// What came of a [`BlockCommand`].
#[derive(Clone, Debug, PartialEq)]
pub enum BlockOutcome {
    /// Volumes or snapshots.
    Volumes(Paged<BlockVolume>),
    /// One, found, made or changed.
    Volume(Box<BlockVolume>),
    /// Backups.
    Backups(Paged<Backup>),
    /// One.
    Backup(Box<Backup>),
    /// A restore has begun.
    Restoring {
        /// Of this backup.
        backup: Box<Backup>,
        /// Into this drive.
        volume: Box<BlockVolume>,
    },
    /// Servers.
    Servers(Paged<AttachedServer>),
    /// Attachments of one server.
    Attachments(Vec<Attachment>),
    /// One.
    Attachment(Attachment),
    /// The owner's pairs as they are now.
    Metadata(Map<String, Value>),
    /// What a tenant may hold, and what it holds.
    Quota {
        /// The tenant.
        tenant: TenantId,
        /// The most.
        quota: super::Quota,
        /// Its present usage.
        usage: super::Usage,
    },
    /// The types, the default one first.
    Types(Vec<VolumeType>),
    /// The zones.
    Zones(Vec<String>),
    /// It is done, or goes on as a job; there is nothing to tell.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DriveSpec, Media};

    fn volume(attributes: Map<String, Value>) -> Volume {
        let spec = DriveSpec {
            name: "a".to_owned(),
            size: ByteCount::mib(1),
            media: Media::Disk,
            meta: Map::new(),
            attributes,
        };
        Volume::begun(TenantId::random(), spec, VolumeState::Available, UnixTime(1))
    }

    #[test]
    fn fields_are_read_where_they_are_kept_as_they_are_when_taken_out() {
        let text = |text: &str| Some(text.to_owned());
        let fields = BlockFields {
            description: text("d"),
            zone: text("z"),
            volume_type: text("t"),
            user: text("u"),
            snapshot: text("s"),
            volume: text("v"),
            image: Map::from_iter([("image_id".to_owned(), "i".into())]),
            bootable: true,
            ..BlockFields::default()
        };
        for fields in [fields, BlockFields::default()] {
            let mut attributes = Map::new();
            fields.put(&mut attributes);
            let volume = volume(attributes);
            let view = BlockView::of(&volume);
            let read = BlockFields {
                description: view.description().map(str::to_owned),
                zone: view.zone().map(str::to_owned),
                volume_type: view.volume_type().map(str::to_owned),
                user: view.user().map(str::to_owned),
                snapshot: view.snapshot().map(str::to_owned),
                volume: view.volume().map(str::to_owned),
                image: view.image().cloned().unwrap_or_default(),
                bootable: view.is_bootable(),
                ..BlockFields::default()
            };
            assert_eq!(read, fields);
        }
    }

    #[test]
    fn what_was_told_of_a_volume_is_told_again_for_the_same_question_only() {
        let seen = Seen::new(volume(Map::new()));
        assert_eq!(seen.told("v2", || "two".to_owned()), "two");
        assert_eq!(seen.told("v2", || "another".to_owned()), "two");
        assert_eq!(seen.told("v3", || "three".to_owned()), "three");
    }
}
