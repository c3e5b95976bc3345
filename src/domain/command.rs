//! The one door to the metadata side: what a caller can want, and what comes of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Began, BlockCommand, BlockOutcome, ByteCount, Direction, Encoding, IdentityOutcome, Media, Paged, Placement,
    Secret, Session, SessionCommand, Sha256, SortKey, TenantId, TreeFilter, Volume, VolumeId, VolumeKind, VolumeState,
};

/// Metadata work on the caller's own volumes. It can be sent as JSON to whoever executes it, with the secrets that it
/// carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Some of the caller's volumes.
    List(VolumeQuery),
    /// One.
    Show(VolumeRef),
    /// Makes some, blank: all of them or none.
    Create(Vec<VolumeSpec>),
    /// Changes a drive.
    Change {
        /// The drive.
        id: VolumeId,
        /// To what.
        patch: Patch,
    },
    /// Starts a copy of a drive.
    Clone {
        /// The source.
        id: VolumeId,
        /// What the copy differs in. The size is never less than the source's; what is added reads as zero.
        patch: Patch,
    },
    /// Removes volumes; of drives all or none.
    Remove {
        /// The volumes.
        volumes: Vec<VolumeRef>,
        /// Also trees that are being initialised, which ends the whole session.
        ends_sessions: bool,
    },
    /// Asks for a ticket to download one.
    OpenDownload(VolumeRef),
    /// What this server allows, and where it is.
    Describe,
    /// Work on sessions.
    Session(SessionCommand),
    /// Work on volumes, snapshots, backups and attachments as block storage has them.
    Block(BlockCommand),
    /// Work on what is another tenant's. For administrators.
    In {
        /// The tenant.
        tenant: TenantId,
        /// The command.
        command: Box<Command>,
    },
}

/// Which volume is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRef {
    /// A drive.
    Drive(VolumeId),
    /// A tree, by its name, which no other tree of its tenant has.
    Tree(String),
    /// A drive or a tree.
    Any(VolumeId),
}

/// Which volumes are listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VolumeQuery {
    /// Drives.
    Drives {
        /// The filter that they must match.
        filter: DriveFilter,
        /// Which part of the list.
        page: Page,
    },
    /// Trees, by name.
    Trees(TreeFilter),
    /// Drives and trees with their placements, in order of making.
    All(Page),
}

/// A volume to be made blank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// A drive or a tree.
    pub kind: VolumeKind,
    /// Its name. No other tree of the caller has that of a tree; when empty, one is chosen for it.
    pub name: String,
    /// Its size; of a tree the most that it may hold, the server's default when absent.
    pub size: Option<ByteCount>,
    /// What the guest sees it as.
    pub media: Media,
    /// The owner's labels.
    pub meta: Map<String, Value>,
    /// The dialect's opaque fields.
    pub attributes: Map<String, Value>,
    /// Where it is to be, of those whose name no other of them has.
    pub placement: Option<Placement>,
}

/// What came of a command or an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of [`Command::List`].
    Listing(Listing),
    /// One volume, found or changed, or what a job makes or changes.
    Volume(Box<Volume>),
    /// The volumes that [`Command::Create`] made, in order.
    Created(Vec<Volume>),
    /// Of [`Command::Remove`] and [`SessionCommand::Cancel`].
    Removed,
    /// Of [`Command::OpenDownload`]: the secret text of the ticket.
    Download {
        /// The volume that the ticket is for.
        id: VolumeId,
        /// The ticket.
        token: Secret,
    },
    /// Of [`Command::Describe`].
    Described(Limits),
    /// An upload is complete and durable.
    Uploaded {
        /// The drive it made.
        id: VolumeId,
        /// The digest of the bytes that came, when it was wanted or asserted.
        sha256: Option<Sha256>,
    },
    /// Of [`SessionCommand::Initialize`]; none when nothing is left to upload.
    Began(Option<Began>),
    /// An archive is unpacked and durable.
    Unpacked,
    /// Of [`SessionCommand::Finish`].
    Finished,
    /// Of [`SessionCommand::List`].
    Sessions(Paged<Session>),
    /// Of [`SessionCommand::Show`].
    Session(Box<Session>),
    /// Of [`Command::Block`].
    Block(BlockOutcome),
    /// Of a [`Login`](super::Login).
    LoggedIn {
        /// The token, told this once.
        token: Secret,
        /// For how long it is good.
        seconds: u32,
    },
    /// Of an [`IdentityCommand`](super::IdentityCommand) or an [`AnonymousCommand`](super::AnonymousCommand).
    Identity(IdentityOutcome),
    /// What is served here, which the dialect knows.
    Discovered,
}

impl Outcome {
    /// The list, where it may be longer than what is held of it at once.
    pub const fn listing_mut(&mut self) -> Option<&mut Listing> {
        match self {
            Self::Listing(listing) => Some(listing),
            _ => None,
        }
    }
}

/// One page of the caller's volumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The page, or its start.
    pub volumes: Vec<Volume>,
    /// What else is on it, in order: looked up when the start is told (I12).
    pub rest: Vec<VolumeId>,
    /// The page that was asked for.
    pub page: Page,
    /// How many match in all.
    pub total: u64,
}

/// Which drives to list. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriveFilter {
    /// Every one of these must hold.
    pub names: Vec<NameMatch>,
    /// Only in one of these states, when there are any. The clone count of a source is ignored.
    pub states: Vec<VolumeState>,
    /// Only seen as this.
    pub media: Option<Media>,
    /// Not which, but how they are sorted: first key first, and after that in order of making.
    pub order: Vec<(SortKey, Direction)>,
}

/// A condition on a drive's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NameMatch {
    /// The name is this.
    Is(String),
    /// The name holds this.
    Contains(String),
    /// The name holds this, whatever the case of ASCII letters.
    ContainsIgnoringCase(String),
    /// The name starts with this.
    StartsWith(String),
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// At most this many; `None` is all.
    pub limit: Option<u32>,
    /// Passing over this many.
    pub offset: u64,
}

/// What a drive is begun with.
#[derive(Clone, Debug, PartialEq)]
pub struct DriveSpec {
    /// Its label.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// What the guest sees it as.
    pub media: Media,
    /// The owner's labels.
    pub meta: Map<String, Value>,
    /// The dialect's opaque fields.
    pub attributes: Map<String, Value>,
}

/// Changes to a drive or its copy; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// A new label.
    pub name: Option<String>,
    /// Seen by the guest as this.
    pub media: Option<Media>,
    /// All of the owner's labels anew.
    pub meta: Option<Map<String, Value>>,
    /// Opaque fields to set; others stay.
    pub attributes: Map<String, Value>,
    /// A new size: starts a resize when it differs.
    pub size: Option<ByteCount>,
}

/// What an upload says of itself before its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivePlan {
    /// The label of the drive to be made.
    pub name: String,
    /// Its size to the byte; `None` when it comes chunked and the size is what arrives.
    pub length: Option<ByteCount>,
    /// The digest that the bytes must have, as the client asserts.
    pub expected: Option<Sha256>,
    /// Whether the client wants the digest in the answer.
    pub wants_sha256: bool,
}

/// What a download says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SendPlan {
    /// The ticket's text.
    pub token: Secret,
    /// The volume that the URL names; it must be the ticket's.
    pub id: VolumeId,
    /// How a tree's archive is to be compressed. A drive is sent as it is.
    pub encoding: Encoding,
    /// Whether the client wants the drive's digest.
    pub wants_sha256: bool,
}

/// What this server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A smaller upload is resized up to this; a smaller blank drive is refused.
    pub min_drive: ByteCount,
    /// Nothing larger is taken.
    pub max_drive: ByteCount,
}
