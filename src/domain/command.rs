//! Commands and their outcomes: the only way to the metadata.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Algorithms, BackupRef, Began, BlockCommand, BlockFields, BlockOutcome, BlockQuery, BlockVolume, ByteCount, Carried,
    DigestedPieces, Digests, Direction, Encoding, Extents, Had, IdentityOutcome, Media, Paged, Patch, PieceQuery,
    Placement, PublicKey, ReceiptOf, Secret, Session, SessionCommand, SignedReceipt, SortKey, TenantId,
    TransferCommand, TransferSeen, TreeFilter, Volume, VolumeId, VolumeKind, VolumeState,
};

/// Metadata work on the caller's own volumes. A command can be sent as JSON, secrets included, to the process that
/// executes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Lists volumes of the caller.
    List(VolumeQuery),
    /// Shows a volume.
    Show(VolumeRef),
    /// Creates blank volumes: all of them or none.
    Create(Vec<VolumeSpec>),
    /// Creates a drive from a source, or a snapshot of a drive.
    CreateFrom {
        /// The source.
        source: VolumeSource,
        /// The properties of the volume.
        spec: Box<VolumeSpec>,
    },
    /// Changes a volume.
    Change {
        /// The volume.
        volume: VolumeRef,
        /// The changes.
        patch: Patch,
    },
    /// Starts a copy of a drive.
    Clone {
        /// The source.
        id: VolumeId,
        /// The fields in which the copy differs. It is never smaller than the source; added bytes read as zero.
        patch: Patch,
    },
    /// Removes volumes. Of several drives, all or none are removed.
    Remove {
        /// The volumes.
        volumes: Vec<VolumeRef>,
        /// What else is removed or ended.
        reach: Reach,
    },
    /// Requests a ticket to download a volume.
    OpenDownload(VolumeRef),
    /// Asks for the limits of this server.
    Describe,
    /// Asks for the receipt of a drive.
    Receipt(ReceiptOf),
    /// Asks for the digests of a drive's pieces.
    Digest(PieceQuery),
    /// Work on sessions.
    Session(SessionCommand),
    /// Work on transfers.
    Transfer(TransferCommand),
    /// Work on backups and attachments, and the rest that only block storage has.
    Block(BlockCommand),
    /// Work in another tenant, for administrators.
    In {
        /// The tenant.
        tenant: TenantId,
        /// The command.
        command: Box<Command>,
    },
    /// Work in the tenant that owns a thing, for administrators; in the caller's own when there is no such thing.
    WithOwner {
        /// The thing.
        of: Owned,
        /// The command.
        command: Box<Command>,
    },
}

/// A thing that a tenant owns, and that its id alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owned {
    /// A volume of any kind.
    Volume(VolumeId),
    /// A backup.
    Backup(BackupRef),
}

/// A reference to a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRef {
    /// A drive.
    Drive(VolumeId),
    /// A snapshot.
    Snapshot(VolumeId),
    /// A tree, by its name, which is unique among the trees of its tenant.
    Tree(String),
    /// A drive or a tree, by its id.
    Any(VolumeId),
}

/// How far a removal reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent answers, each with a name")]
pub struct Reach {
    /// Whether trees that are being initialised are removed too, which ends the whole session.
    pub sessions: bool,
    /// Whether the snapshots of drives are removed too.
    pub snapshots: bool,
    /// Whether drives that have snapshots are refused.
    pub alone: bool,
    /// Whether drives that are attached are removed too, and detached for that; and what is reserved or marked. For
    /// administrators.
    pub attached: bool,
}

/// A query for volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VolumeQuery {
    /// Drives.
    Drives {
        /// The filter that drives must match.
        filter: DriveFilter,
        /// The requested page.
        page: Page,
    },
    /// Trees, in the order of their names.
    Trees(TreeFilter),
    /// Drives and trees with their placements, in the order of creation.
    All(Page),
    /// Drives or snapshots with their attachments.
    Attached {
        /// The kind: drives or snapshots.
        kind: VolumeKind,
        /// The filter, the order and the page.
        query: Box<BlockQuery>,
    },
}

/// A volume to be created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// A drive or a tree.
    pub kind: VolumeKind,
    /// Its name. That of a tree is unique among the trees of the caller; an empty one is replaced by a chosen name.
    pub name: String,
    /// Its size: of a tree the most that it may hold. When absent the size of its source, or the server's default for a
    /// blank tree.
    pub size: Option<ByteCount>,
    /// The device that the guest sees.
    pub media: Media,
    /// The owner's labels.
    pub meta: Map<String, Value>,
    /// The dialect's opaque fields.
    pub attributes: Map<String, Value>,
    /// Its placement. The names of volumes that have one are unique.
    pub placement: Option<Placement>,
    /// The terms of block storage: a description, a zone, and a type by its name or id.
    pub block: Option<BlockFields>,
}

/// The source of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A drive.
    Drive {
        /// The drive.
        id: VolumeId,
        /// Whether it may be attached.
        if_attached: bool,
    },
    /// A snapshot.
    Snapshot(VolumeId),
    /// An image: of the image service where there is one, else a drive that is marked as such.
    Image {
        /// The image.
        id: VolumeId,
        /// The caller's token, for the image service.
        token: Option<Carried>,
    },
}

/// The outcome of a command or an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of [`Command::List`].
    Listing(Listing),
    /// Of [`Command::List`], for a list with attachments.
    Page(Paged<BlockVolume>),
    /// A volume that was found or changed, or that a job creates or changes.
    Volume(Box<BlockVolume>),
    /// Of [`Command::Create`]: the new volumes, in the order of the request. Of [`Command::CreateFrom`]: the one
    /// volume, which a job fills.
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
    /// Of a [`SurveyPlan`].
    Survey(Survey),
    /// Of [`Command::Describe`].
    Described(Limits),
    /// An upload is complete and durable.
    Uploaded {
        /// The new drive.
        id: VolumeId,
        /// The digests of the received bytes that were requested or asserted.
        digests: Digests,
    },
    /// Of [`SessionCommand::Initialize`]; `None` when nothing is left to upload.
    Began(Option<Began>),
    /// An archive is unpacked and durable.
    Unpacked,
    /// Of [`SessionCommand::Finish`].
    Finished,
    /// Of [`SessionCommand::List`].
    Sessions(Paged<Session>),
    /// Of [`SessionCommand::Show`].
    Session(Box<Session>),
    /// Of [`TransferCommand::List`].
    Transfers(Paged<TransferSeen>),
    /// Of other work on transfers, and of a part.
    Transfer(Box<TransferSeen>),
    /// The transfer that somebody watches.
    Watched {
        /// The transfer.
        seen: Box<TransferSeen>,
        /// Whether they were told of it as it is, but for its rate.
        is_known: bool,
    },
    /// Of [`TransferAction::Have`](super::TransferAction::Have).
    Had(Box<Had>),
    /// Of [`Command::Digest`].
    Digested(Box<DigestedPieces>),
    /// Of [`TransferCommand::Fill`].
    Filling {
        /// The drive that is filled.
        drive: Box<Volume>,
        /// The transfer that fills it.
        transfer: Box<TransferSeen>,
    },
    /// Of [`TransferCommand::OpenChunk`]: the secret text of the link's ticket.
    ChunkLink(Secret),
    /// Of [`Command::Block`].
    Block(BlockOutcome),
    /// Of a [`Login`](super::Login).
    LoggedIn {
        /// The token, which is told only once.
        token: Secret,
        /// Its lifetime.
        seconds: u32,
    },
    /// Of an [`IdentityCommand`](super::IdentityCommand) or an [`AnonymousCommand`](super::AnonymousCommand).
    Identity(IdentityOutcome),
    /// Of [`Command::Receipt`].
    Receipt(Box<SignedReceipt>),
    /// The keys that check receipts.
    Keys(Vec<PublicKey>),
    /// The versions that are served here, which the dialect knows.
    Discovered,
}

impl Outcome {
    /// Returns the listing, of which no more than a part may be held at a time.
    pub const fn listing_mut(&mut self) -> Option<&mut Listing> {
        match self {
            Self::Listing(listing) => Some(listing),
            _ => None,
        }
    }
}

/// A page of the caller's volumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The page, or its start.
    pub volumes: Vec<Volume>,
    /// The other volumes of the page, in order: looked up after the start was sent (I12).
    pub rest: Vec<VolumeId>,
    /// The requested page.
    pub page: Page,
    /// The number of matches on all pages.
    pub total: u64,
}

/// A filter for drives. The empty one matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriveFilter {
    /// Conditions on the name, all of which must hold.
    pub names: Vec<NameMatch>,
    /// The states to match; any state when empty. The clone count of a source is ignored.
    pub states: Vec<VolumeState>,
    /// The media to match.
    pub media: Option<Media>,
    /// The order of the list, which is no condition: by the first key first, and last by the time of creation.
    pub order: Vec<(SortKey, Direction)>,
}

/// A condition on a drive's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NameMatch {
    /// The name equals this.
    Is(String),
    /// The name contains this.
    Contains(String),
    /// The name contains this, whatever the case of ASCII letters.
    ContainsIgnoringCase(String),
    /// The name starts with this.
    StartsWith(String),
}

/// A part of a list; by default all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The most volumes; `None` is all.
    pub limit: Option<u32>,
    /// The number of volumes before it.
    pub offset: u64,
}

/// The terms of an upload, known before its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivePlan {
    /// The label of the new drive.
    pub name: String,
    /// Its exact size; `None` of a chunked body, whose length becomes the size.
    pub length: Option<ByteCount>,
    /// The digests that the client asserts.
    pub asserted: Digests,
    /// The algorithms whose digests the client requests in the answer, or may assert behind the last byte.
    pub wanted: Algorithms,
}

/// The terms of a download.
#[derive(Clone, Debug, PartialEq)]
pub struct SendPlan {
    /// The text of the ticket.
    pub token: Secret,
    /// The volume in the URL, which must be that of the ticket.
    pub id: VolumeId,
    /// The compression of a tree's archive. A drive is sent as it is.
    pub encoding: Encoding,
    /// The algorithms whose digests of the drive the client requests.
    pub wanted: Algorithms,
}

/// A question about a volume that may be downloaded.
#[derive(Clone, Debug, PartialEq)]
pub struct SurveyPlan {
    /// The text of the ticket.
    pub token: Secret,
    /// The volume in the URL, which must be that of the ticket.
    pub id: VolumeId,
    /// Whether to tell where the drive has data.
    pub wants_data: bool,
}

/// A volume that may be downloaded, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The size of it.
    pub size: ByteCount,
    /// Whether it is sent as an archive.
    pub is_tree: bool,
    /// Where the drive has data, if that was asked for. All else of it reads as zero; some of this may, too.
    pub data: Extents,
}

/// The limits of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest drive: a smaller upload grows to this size, a smaller blank drive is refused.
    pub min_drive: ByteCount,
    /// The largest drive.
    pub max_drive: ByteCount,
}
