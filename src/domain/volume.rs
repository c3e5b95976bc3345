//! Volumes and their states.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ByteCount, ContentId, Digests, TenantId, UnixTime, VolumeId};

/// The shape of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// Raw bytes of an exact size.
    #[default]
    Drive,
    /// A directory. Its name is unique among its tenant's trees.
    Tree,
    /// The bytes of a drive at one time. Its source is the id of that drive.
    Snapshot,
}

/// The device that the guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Media {
    /// A disk.
    #[default]
    Disk,
    /// An optical disc.
    Cdrom,
}

/// The record of a volume in the metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// The permanent id.
    pub id: VolumeId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Its kind.
    pub kind: VolumeKind,
    /// The name: of a tree its key for clients, of a drive a mere label.
    pub name: String,
    /// The device that the guest sees in a drive.
    pub media: Media,
    /// The exact size of a drive, or the most that a tree may hold.
    pub size: ByteCount,
    /// The bytes that are charged to the quota of the tenant.
    pub charged: ByteCount,
    /// The present state.
    pub state: VolumeState,
    /// The reason why it is unavailable, for people.
    pub reason: Option<String>,
    /// The count of changes of its bytes or size. Together with the id it identifies its bytes, as in the `ETag`.
    pub generation: u64,
    /// The count of changes of this record, which every write compares.
    pub revision: u64,
    /// The time of its creation.
    pub created: UnixTime,
    /// The time of the last change of this record.
    pub updated: UnixTime,
    /// The digests of all bytes of a drive in this generation, as far as they are known.
    pub digests: Digests,
    /// Its content, even while that is still arriving for the first time; `None` of a tree that was never filled.
    pub content: Option<ContentId>,
    /// The source of a tree's content, in the words of its owner.
    pub source: Option<String>,
    /// The owner's labels.
    pub meta: Map<String, Value>,
    /// Fields that a dialect writes and reads back, opaque to everything else.
    pub attributes: Map<String, Value>,
}

/// The state of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VolumeState {
    /// Its bytes are arriving.
    Uploading,
    /// It is being created blank.
    Creating,
    /// It is at rest, whole and readable.
    Available,
    /// It is being filled from another volume.
    CloningTarget,
    /// It is being filled from an image that is fetched.
    Downloading,
    /// Its size is changing.
    Resizing,
    /// It is reserved for a server that will attach it.
    Attaching,
    /// It is attached to a server.
    InUse,
    /// Its server is detaching it.
    Detaching,
    /// It is being restored from a backup, and has its old bytes until that is complete.
    Restoring,
    /// It must not be read, for the reason in its record.
    Unavailable,
    /// It could not be attached. Its bytes are whole.
    ErrorAttaching,
    /// It could not be detached. Its bytes are whole.
    ErrorDetaching,
    /// It could not be restored from a backup. Its bytes, if it ever had any, are the old ones.
    ErrorRestoring,
    /// An administrator has marked it with a status that nothing here leads to: its fields of block storage have the
    /// word. It can be reset, and removed by force.
    Marked,
    /// Its bytes are being removed, and then its record. It is not visible to callers.
    Deleting,
}

/// An event in the life of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeEvent {
    /// Its bytes are complete and durable: after an upload, a blank creation or a copy.
    Completed,
    /// New content has replaced the old, which may have been damaged.
    Refilled,
    /// A change of its size begins.
    ResizeStarted,
    /// Its size has changed.
    ResizeEnded,
    /// It is reserved for a server.
    Reserved,
    /// Its reservation is cancelled.
    Unreserved,
    /// It is attached.
    Attached,
    /// Its server begins to detach it.
    DetachStarted,
    /// Its server cancels the detachment.
    DetachGivenUp,
    /// It is detached.
    Detached,
    /// A restore from a backup begins.
    RestoreStarted,
    /// The restore is complete.
    RestoreEnded,
    /// The restore has failed.
    RestoreFailed,
    /// Its bytes are damaged, or could not be produced.
    Spoiled,
    /// Its removal begins.
    DeleteStarted,
}

/// The error of an event that the state does not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a volume that is {state:?}")]
pub struct IllegalStep {
    /// The present state.
    pub state: VolumeState,
    /// The refused event.
    pub event: VolumeEvent,
}

impl VolumeState {
    /// Every state.
    pub const ALL: [Self; 16] = [
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
        Self::Marked,
        Self::Deleting,
    ];

    /// Returns the state after an event.
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
            // The job of a target, and the attachment to a server, must end first.
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

    /// Reports whether a record of its attachment exists, or may exist.
    pub const fn is_attached(self) -> bool {
        matches!(self, Self::InUse | Self::Detaching | Self::ErrorDetaching | Self::Marked)
    }

    /// Reports whether its bytes may be read.
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
    /// Reports whether it is a tree.
    pub fn is_tree(&self) -> bool {
        self.kind == VolumeKind::Tree
    }

    /// Returns a new volume of a tenant, charged for its size: a tree without content, or another whose content is
    /// still to come.
    pub fn begun(
        tenant: TenantId,
        kind: VolumeKind,
        name: impl Into<String>,
        size: ByteCount,
        state: VolumeState,
        now: UnixTime,
    ) -> Self {
        let id = VolumeId::random();
        Self {
            id,
            tenant,
            kind,
            name: name.into(),
            media: Media::Disk,
            size,
            charged: size,
            state,
            reason: None,
            generation: 0,
            revision: 0,
            created: now,
            updated: now,
            digests: Digests::NONE,
            content: (kind != VolumeKind::Tree).then_some(ContentId::first_of(id)),
            source: None,
            meta: Map::new(),
            attributes: Map::new(),
        }
    }

    /// Returns the content of a drive or snapshot.
    pub fn image(&self) -> ContentId {
        self.content.unwrap_or(ContentId::first_of(self.id))
    }

    /// Notes that a drive has other bytes or another size now, of which these digests are known.
    pub fn renew(&mut self, digests: Digests) {
        self.generation += 1;
        self.digests = digests;
    }

    /// Returns the digests of its bytes in a drive of this size, as far as they are known: what is added reads as zero,
    /// and has a part in them.
    pub fn digests_at(&self, size: ByteCount) -> Digests {
        if size == self.size { self.digests } else { Digests::NONE }
    }

    /// Gives a tree new content, which makes it available.
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

    /// Moves to the state after an event, or refuses the event.
    pub fn step(&mut self, event: VolumeEvent) -> Result<(), IllegalStep> {
        self.state = self.state.step(event)?;
        Ok(())
    }

    /// Returns the strong entity tag of its content, quotes included (RFC 9110 section 8.8.3).
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
