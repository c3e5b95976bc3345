//! A volume and the steps of its life.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ByteCount, ContentId, DriveSpec, Sha256, TenantId, TreeSpec, UnixTime, VolumeId};

/// The shape of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// Raw bytes of an exact size.
    Drive,
    /// A directory. Its name is unique among its tenant's trees.
    Tree,
    /// The bytes that a drive had at one time. Its source is that drive's id.
    Snapshot,
}

/// What the guest sees a drive as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Media {
    /// A disk.
    Disk,
    /// An optical disc.
    Cdrom,
}

/// A volume as the metadata knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its identity, for ever.
    pub id: VolumeId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Drive, tree or snapshot.
    pub kind: VolumeKind,
    /// A label of a drive, on which nothing depends; of a tree the name that it is known by.
    pub name: String,
    /// What the guest sees a drive as.
    pub media: Media,
    /// The exact size of a drive, the most that a tree may hold, in bytes.
    pub size: ByteCount,
    /// How many bytes the tenant's quota is charged for it.
    pub charged: ByteCount,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Why it is unavailable, for a person.
    pub reason: Option<String>,
    /// Counts the changes of its bytes or size. With the id it names one content for ever, and makes the `ETag`.
    pub generation: u64,
    /// Counts the changes of this record; every write compares it.
    pub revision: u64,
    /// The time of its creation.
    pub created: UnixTime,
    /// When this record last changed.
    pub updated: UnixTime,
    /// The digest of all its bytes in this generation, once known. Of a drive.
    pub sha256: Option<Sha256>,
    /// What it holds, or is being filled with for the first time; of a tree none as long as it was never filled.
    pub content: Option<ContentId>,
    /// Where the content of a tree came from, as its owner named it.
    pub source: Option<String>,
    /// The owner's own labels.
    pub meta: Map<String, Value>,
    /// What a dialect lets the owner set and reads back, opaque to everything else.
    pub attributes: Map<String, Value>,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VolumeState {
    /// Its bytes are arriving.
    Uploading,
    /// It is being made blank.
    Creating,
    /// At rest, whole, readable.
    Available,
    /// It is being filled from another volume.
    CloningTarget,
    /// It is being filled from an image that is fetched.
    Downloading,
    /// Its size is changing.
    Resizing,
    /// Reserved for a server that will attach it.
    Attaching,
    /// Attached to a server.
    InUse,
    /// Its server is letting it go.
    Detaching,
    /// A backup is being written over it. Its bytes are the old ones until that is complete.
    Restoring,
    /// Its bytes must not be used; the reason says why.
    Unavailable,
    /// It could not be attached. Its bytes are good.
    ErrorAttaching,
    /// It could not be detached. Its bytes are good.
    ErrorDetaching,
    /// A backup could not be written over it. Its bytes, if it ever had any, are the old ones.
    ErrorRestoring,
    /// Its bytes are being removed, then its record. No caller sees it any more.
    Deleting,
}

/// What can happen to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeEvent {
    /// Its bytes are all here and durable: after an upload, a blank creation, or a copy.
    Completed,
    /// It has new content in place of what it held, good or damaged.
    Refilled,
    /// Its size begins to change.
    ResizeStarted,
    /// Its size has changed.
    ResizeEnded,
    /// It is reserved for a server.
    Reserved,
    /// The reservation is given up.
    Unreserved,
    /// It is attached.
    Attached,
    /// Its server begins to let it go.
    DetachStarted,
    /// Its server keeps it after all.
    DetachGivenUp,
    /// It is detached.
    Detached,
    /// A backup is to be written over it.
    RestoreStarted,
    /// A backup was written over it, whole.
    RestoreEnded,
    /// A backup could not be written over it.
    RestoreFailed,
    /// Its bytes cannot be trusted, or the work to make them failed.
    Spoiled,
    /// Its removal begins.
    DeleteStarted,
}

/// An event that cannot happen in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a volume that is {state:?}")]
pub struct IllegalStep {
    /// The state it is in.
    pub state: VolumeState,
    /// The event that the state does not permit.
    pub event: VolumeEvent,
}

impl VolumeState {
    /// Every state.
    pub const ALL: [Self; 15] = [
        Self::Uploading,
        Self::Creating,
        Self::Available,
        Self::CloningTarget,
        Self::Downloading,
        Self::Resizing,
        Self::Attaching,
        Self::InUse,
        Self::Detaching,
        Self::Restoring,
        Self::Unavailable,
        Self::ErrorAttaching,
        Self::ErrorDetaching,
        Self::ErrorRestoring,
        Self::Deleting,
    ];

    /// The state after an event.
    #[expect(clippy::match_same_arms, reason = "one line per rule, in the order of a volume's life")]
    pub const fn step(self, event: VolumeEvent) -> Result<Self, IllegalStep> {
        use VolumeEvent as E;
        use VolumeState as S;
        Ok(match (self, event) {
            (S::Uploading | S::Creating | S::CloningTarget | S::Downloading, E::Completed) => S::Available,
            (S::Available | S::Unavailable, E::Refilled) => S::Available,
            (S::Available, E::ResizeStarted) => S::Resizing,
            (S::Resizing, E::ResizeEnded) => S::Available,
            (S::Available, E::Reserved) => S::Attaching,
            (S::Attaching, E::Unreserved) => S::Available,
            (S::Available | S::Attaching, E::Attached) => S::InUse,
            (S::InUse, E::DetachStarted) => S::Detaching,
            (S::Detaching, E::DetachGivenUp) => S::InUse,
            (S::InUse | S::Detaching | S::ErrorDetaching, E::Detached) => S::Available,
            (S::Available | S::ErrorRestoring, E::RestoreStarted) => S::Restoring,
            (S::Restoring, E::RestoreEnded) => S::Available,
            (S::Restoring, E::RestoreFailed) => S::ErrorRestoring,
            (
                S::Available
                | S::CloningTarget
                | S::Downloading
                | S::Resizing
                | S::Creating
                | S::InUse
                | S::Unavailable,
                E::Spoiled,
            ) => S::Unavailable,
            // The target of a running job is busy, and what is attached is its server's: those end first.
            (
                S::Uploading
                | S::Creating
                | S::Available
                | S::Unavailable
                | S::ErrorAttaching
                | S::ErrorDetaching
                | S::ErrorRestoring,
                E::DeleteStarted,
            ) => S::Deleting,
            (state, event) => return Err(IllegalStep { state, event }),
        })
    }

    /// Whether there is, or may be, a record of where it is attached.
    pub const fn is_attached(self) -> bool {
        matches!(self, Self::InUse | Self::Detaching | Self::ErrorDetaching)
    }

    /// Whether its bytes may be read.
    pub const fn is_readable(self) -> bool {
        matches!(
            self,
            Self::Available
                | Self::Attaching
                | Self::InUse
                | Self::Detaching
                | Self::ErrorAttaching
                | Self::ErrorDetaching
        )
    }
}

impl Volume {
    /// Whether it is a tree.
    pub fn is_tree(&self) -> bool {
        self.kind == VolumeKind::Tree
    }

    /// A new drive of a tenant, charged for its size, that has no content yet.
    pub fn begun(tenant: TenantId, spec: DriveSpec, state: VolumeState, now: UnixTime) -> Self {
        let id = VolumeId::random();
        Self {
            id,
            tenant,
            kind: VolumeKind::Drive,
            name: spec.name,
            media: spec.media,
            size: spec.size,
            charged: spec.size,
            state,
            reason: None,
            generation: 0,
            revision: 0,
            created: now,
            updated: now,
            sha256: None,
            content: Some(ContentId::first_of(id)),
            source: None,
            meta: spec.meta,
            attributes: spec.attributes,
        }
    }

    /// A new tree of a tenant, charged for its size, that is empty.
    pub fn tree(tenant: TenantId, spec: TreeSpec, state: VolumeState, now: UnixTime) -> Self {
        let drive = DriveSpec {
            name: spec.name,
            size: spec.size,
            media: Media::Disk,
            meta: spec.labels,
            attributes: Map::new(),
        };
        Self { kind: VolumeKind::Tree, content: None, ..Self::begun(tenant, drive, state, now) }
    }

    /// The content of a drive or snapshot.
    pub fn image(&self) -> ContentId {
        self.content.unwrap_or(ContentId::first_of(self.id))
    }

    /// Gives a tree new content, which makes it whole.
    pub fn fill(&mut self, content: ContentId, source: &str, now: UnixTime) -> Result<(), IllegalStep> {
        let is_first = self.state == VolumeState::Uploading;
        self.step(if is_first { VolumeEvent::Completed } else { VolumeEvent::Refilled })?;
        self.reason = None;
        self.content = Some(content);
        self.source = Some(source.to_owned());
        self.generation += 1;
        self.updated = now;
        Ok(())
    }

    /// Moves to the state after `event`, or says why it cannot.
    pub fn step(&mut self, event: VolumeEvent) -> Result<(), IllegalStep> {
        self.state = self.state.step(event)?;
        Ok(())
    }

    /// The strong entity tag of its content, quotes included (RFC 9110 section 8.8.3).
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.id, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use VolumeEvent as E;
    use VolumeState as S;

    const EVENTS: [E; 15] = [
        E::Completed,
        E::Refilled,
        E::ResizeStarted,
        E::ResizeEnded,
        E::Reserved,
        E::Unreserved,
        E::Attached,
        E::DetachStarted,
        E::DetachGivenUp,
        E::Detached,
        E::RestoreStarted,
        E::RestoreEnded,
        E::RestoreFailed,
        E::Spoiled,
        E::DeleteStarted,
    ];

    /// The whole table, written out: a change of the rules must be made here too.
    #[test]
    fn every_state_and_event_steps_as_the_table_says() {
        let legal = [
            (S::Uploading, E::Completed, S::Available),
            (S::Uploading, E::DeleteStarted, S::Deleting),
            (S::Creating, E::Completed, S::Available),
            (S::Creating, E::Spoiled, S::Unavailable),
            (S::Creating, E::DeleteStarted, S::Deleting),
            (S::Available, E::ResizeStarted, S::Resizing),
            (S::Available, E::Refilled, S::Available),
            (S::Available, E::Spoiled, S::Unavailable),
            (S::Available, E::DeleteStarted, S::Deleting),
            (S::CloningTarget, E::Completed, S::Available),
            (S::CloningTarget, E::Spoiled, S::Unavailable),
            (S::Resizing, E::ResizeEnded, S::Available),
            (S::Resizing, E::Spoiled, S::Unavailable),
            (S::Downloading, E::Completed, S::Available),
            (S::Downloading, E::Spoiled, S::Unavailable),
            (S::Available, E::Reserved, S::Attaching),
            (S::Available, E::Attached, S::InUse),
            (S::Available, E::RestoreStarted, S::Restoring),
            (S::Attaching, E::Unreserved, S::Available),
            (S::Attaching, E::Attached, S::InUse),
            (S::InUse, E::DetachStarted, S::Detaching),
            (S::InUse, E::Detached, S::Available),
            (S::InUse, E::Spoiled, S::Unavailable),
            (S::Detaching, E::DetachGivenUp, S::InUse),
            (S::Detaching, E::Detached, S::Available),
            (S::Restoring, E::RestoreEnded, S::Available),
            (S::Restoring, E::RestoreFailed, S::ErrorRestoring),
            (S::ErrorAttaching, E::DeleteStarted, S::Deleting),
            (S::ErrorDetaching, E::Detached, S::Available),
            (S::ErrorDetaching, E::DeleteStarted, S::Deleting),
            (S::ErrorRestoring, E::RestoreStarted, S::Restoring),
            (S::ErrorRestoring, E::DeleteStarted, S::Deleting),
            (S::Unavailable, E::Refilled, S::Available),
            (S::Unavailable, E::Spoiled, S::Unavailable),
            (S::Unavailable, E::DeleteStarted, S::Deleting),
        ];
        for state in S::ALL {
            for event in EVENTS {
                let expected = legal.iter().find(|(s, e, _)| *s == state && *e == event).map(|(_, _, next)| *next);
                assert_eq!(state.step(event).ok(), expected, "{state:?} {event:?}");
            }
        }
    }
}
