//! The one door to the metadata side: what a caller can want, and what comes of it.

use serde_json::{Map, Value};

use super::{
    Began, BlockCommand, BlockOutcome, ByteCount, Direction, Encoding, HpcCommand, HpcOutcome, IdentityOutcome, Media,
    Paged, Secret, Session, SessionCommand, Sha256, SortKey, TenantId, TreeCommand, Volume, VolumeId, VolumeState,
};

/// Metadata work on the caller's own volumes.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Some of the caller's drives.
    List {
        /// The filter that drives must match.
        filter: DriveFilter,
        /// Which part of the list.
        page: Page,
    },
    /// One drive.
    Show(VolumeId),
    /// Blank drives: all of them or none.
    Create(Vec<DriveSpec>),
    /// Changes one drive.
    Update {
        /// The volume.
        id: VolumeId,
        /// To what.
        patch: Patch,
    },
    /// Removes drives.
    Delete(Vec<VolumeId>),
    /// Starts a copy of a drive.
    Clone {
        /// The source.
        id: VolumeId,
        /// What the copy differs in.
        spec: CloneSpec,
    },
    /// Asks for a ticket to download a drive.
    OpenDownload(VolumeId),
    /// What this server allows, and where it is.
    Describe,
    /// Work on trees.
    Tree(TreeCommand),
    /// Work on sessions.
    Session(SessionCommand),
    /// Work on volumes, snapshots, backups and attachments as block storage has them.
    Block(BlockCommand),
    /// Work on volumes as HPC-AI's API has them.
    Hpc(HpcCommand),
    /// Work on what is another tenant's. For administrators.
    In {
        /// The tenant.
        tenant: TenantId,
        /// The command.
        command: Box<Command>,
    },
}

/// What came of a command or an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of [`Command::List`].
    Listing(Listing),
    /// One drive, found or changed.
    Drive(Box<Volume>),
    /// The drives that [`Command::Create`] made, in order.
    Created(Vec<Volume>),
    /// A job goes on; this is the drive it makes or changes.
    Started(Box<Volume>),
    /// Of [`Command::Delete`].
    Deleted,
    /// Of [`Command::OpenDownload`] and [`TreeCommand::OpenDownload`]: the secret text of the ticket.
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
    /// Of [`TreeCommand::List`].
    Trees(Listing),
    /// One tree, found or made.
    Tree(Box<Volume>),
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
    /// Of [`Command::Hpc`] and [`HpcLogin`](super::HpcLogin).
    Hpc(HpcOutcome),
    /// Of an [`IdentityCommand`](super::IdentityCommand) or an [`AnonymousCommand`](super::AnonymousCommand).
    Identity(IdentityOutcome),
    /// What is served here, which the dialect knows.
    Discovered,
}

impl Outcome {
    /// The list, where it may be longer than what is held of it at once.
    pub const fn listing_mut(&mut self) -> Option<&mut Listing> {
        match self {
            Self::Listing(listing) | Self::Trees(listing) => Some(listing),
            _ => None,
        }
    }
}

/// One page of the caller's drives, or their trees.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The page, or its start.
    pub drives: Vec<Volume>,
    /// What else is on it, in order: looked up when the start is told (I12).
    pub rest: Vec<VolumeId>,
    /// The page that was asked for.
    pub page: Page,
    /// How many match in all.
    pub total: u64,
}

/// Which drives to list. Empty means all.
#[derive(Clone, Debug, Default, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most this many; `None` is all.
    pub limit: Option<u32>,
    /// Passing over this many.
    pub offset: u64,
}

/// A drive to be made blank.
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

/// Changes to a drive; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq)]
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

/// What a clone differs in from its source; `None` takes the source's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CloneSpec {
    /// Its label.
    pub name: Option<String>,
    /// What the guest sees it as.
    pub media: Option<Media>,
    /// The owner's labels.
    pub meta: Option<Map<String, Value>>,
    /// Opaque fields to set over the source's.
    pub attributes: Map<String, Value>,
    /// Its size, never less than the source's. What is added reads as zero.
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
