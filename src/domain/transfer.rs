//! Transfers: uploads that survive cut lines, restarts and days. Each fills one new drive, in parts that come in any
//! order.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Base, ByteCount, Checks, Chunk, Digests, Encoding, Extent, Extents, Have, Media, Secret, Sha256, TenantId,
    TransferId, UnixTime, UserId, VolumeId, VolumeSpec,
};

/// Work on transfers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TransferCommand {
    /// Begins a transfer.
    Create(Box<TransferSpec>),
    /// Begins a transfer that fills a new drive of these terms, of which the size is the number of bytes that will
    /// come, and shows both.
    Fill(Box<VolumeSpec>),
    /// Shows the transfer that fills a drive, or did. If no byte is missing, the drive is made first.
    Filling(VolumeId),
    /// Makes a link for a chunk of a drive that is filled, unless it has come already.
    OpenChunk(VolumeId, Chunk),
    /// Lists a page of the caller's transfers, newest first.
    List(TransferQuery),
    /// Work on one transfer.
    On(TransferId, TransferAction),
}

/// Work on one transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TransferAction {
    /// Shows it. What has come by then is durable before that is told.
    Show,
    /// Shows it to who goes on behind its last byte. Who does so already is ended first: their line is lost, and the
    /// offset that is told stays the one at which the next part begins.
    Resume,
    /// Makes the drive of what has come. It may be asked for again, and gives the same answer.
    Finish(Completion),
    /// Makes the drive if no byte is missing, and shows the transfer.
    FinishWhole,
    /// Ends it, and removes what has come.
    Cancel,
    /// Makes bytes zero, without moving any.
    Zero(Extent),
    /// Makes all durable that has come.
    Flush,
    /// Takes over what the client has and is here already, and tells what is to be sent.
    Have(Box<Have>),
}

/// What is asserted about a transfer at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The size of the drive, which must be that of the transfer if it has one.
    pub size: Option<ByteCount>,
    /// The digests of the drive's bytes.
    pub asserted: Digests,
}

/// The terms of a new transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferSpec {
    /// The name of the drive.
    pub name: String,
    /// The number of bytes that will come; `None` if that is not known yet. A smaller drive than the least is grown.
    pub size: Option<ByteCount>,
    /// How many of them are not zeros, as far as the client knows. Disk is set aside for these; `None` is for all.
    pub data: Option<ByteCount>,
    /// The device that the guest sees.
    pub media: Media,
    /// The owner's labels of the drive.
    pub meta: Map<String, Value>,
    /// The digests that the client asserts of all bytes.
    pub asserted: Digests,
    /// The client's own name for the transfer, by which it is found again.
    pub reference: Option<String>,
    /// The client's description of it, in its own form.
    pub metadata: Option<String>,
    /// The seconds that it lives after the last activity; `None` is the server's default.
    pub lifetime: Option<u32>,
    /// Where its bytes come from or go, beside the usual.
    pub origin: Option<Origin>,
}

/// Where the bytes of a transfer come from or go, where that is not from the client into a drive of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// No drive is made of it: it is a part of one that is put together from several.
    Partial,
    /// Each of these, which are partial and whole, has some of its bytes, in this order.
    PutTogether(Vec<TransferId>),
    /// This may have some of its bytes, and whoever has the transfer's URL may have it compared.
    Base(Base),
}

impl Origin {
    /// Returns the text of it in the database.
    pub fn text(&self) -> String {
        match self {
            Self::Partial => "partial".to_owned(),
            Self::PutTogether(parts) => parts.iter().fold("final".to_owned(), |text, part| format!("{text} {part}")),
            Self::Base(Base::Drive(id)) => format!("drive {id}"),
            Self::Base(Base::Snapshot(id)) => format!("snapshot {id}"),
            Self::Base(Base::Transfer(id)) => format!("transfer {id}"),
        }
    }

    /// Returns what has this text.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        if kind == "final" {
            return words.map(|id| id.parse().ok()).collect::<Option<_>>().map(Self::PutTogether);
        }
        let id = words.next();
        if words.next().is_some() {
            return None;
        }
        Some(match (kind, id) {
            ("partial", None) => Self::Partial,
            ("drive", Some(id)) => Self::Base(Base::Drive(id.parse().ok()?)),
            ("snapshot", Some(id)) => Self::Base(Base::Snapshot(id.parse().ok()?)),
            ("transfer", Some(id)) => Self::Base(Base::Transfer(id.parse().ok()?)),
            _ => return None,
        })
    }
}

/// A page of a tenant's transfers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferQuery {
    /// The reference to match, or the name where a transfer has no reference.
    pub reference: Option<String>,
    /// The state to match.
    pub state: Option<TransferState>,
    /// The size of the page.
    pub limit: u32,
    /// The last transfer of the page before.
    pub after: Option<TransferId>,
}

/// The state of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferState {
    /// It takes parts.
    Open,
    /// All bytes have come, and the drive is being made.
    Finishing,
    /// The drive is there.
    Done,
    /// The drive could not be made.
    Failed,
    /// Nothing came for too long.
    Expired,
    /// Its owner ended it.
    Cancelled,
}

impl TransferState {
    /// All states.
    pub const ALL: [Self; 6] = [Self::Open, Self::Finishing, Self::Done, Self::Failed, Self::Expired, Self::Cancelled];

    /// Returns the word for it in the database and in the native API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Finishing => "finishing",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns the state with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Reports whether the transfer has ended, and holds nothing any more.
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Open | Self::Finishing)
    }
}

/// A transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The permanent id.
    pub id: TransferId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The user who began it.
    pub user: UserId,
    /// The drive that it fills.
    pub volume: VolumeId,
    /// The name of the drive when the transfer began.
    pub name: String,
    /// The number of bytes that will come, once it is known.
    pub size: Option<ByteCount>,
    /// How many of them are not zeros, as its client told.
    pub data: Option<ByteCount>,
    /// The device that the guest sees of the drive.
    pub media: Media,
    /// The client's own name for it.
    pub reference: Option<String>,
    /// The client's description of it as it was sent, for clients that expect it back.
    pub metadata: Option<String>,
    /// The digests that the client asserts of all bytes.
    pub asserted: Digests,
    /// The digest of the secret in its URL.
    pub ticket: Sha256,
    /// How often a process has taken it up.
    pub epoch: u32,
    /// The present state.
    pub state: TransferState,
    /// The reason of its failure, for people.
    pub reason: Option<String>,
    /// The seconds that it lives after the last activity.
    pub lifetime: u32,
    /// The time of its creation.
    pub created: UnixTime,
    /// The time of the last activity, or of its end.
    pub updated: UnixTime,
    /// The digests of all bytes, as far as they were asserted.
    pub digests: Digests,
    /// Where its bytes come from or go, beside the usual.
    pub origin: Option<Origin>,
}

impl Transfer {
    /// Reports whether no drive is made of it.
    pub fn is_partial(&self) -> bool {
        self.origin == Some(Origin::Partial)
    }

    /// Reports whether it takes no parts, since its bytes are those of other transfers.
    pub const fn is_put_together(&self) -> bool {
        matches!(self.origin, Some(Origin::PutTogether(_)))
    }

    /// Returns the time after which it expires, if nothing comes before.
    pub const fn expires(&self) -> UnixTime {
        self.updated.plus_seconds(self.lifetime)
    }
}

/// A transfer as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferSeen {
    /// Its record.
    pub transfer: Transfer,
    /// The bytes that are durable.
    pub durable: Extents,
    /// The count of bytes that have come, durable or not.
    pub received: u64,
    /// The parts that come at present.
    pub parts: u32,
    /// The bytes per second of the parts that come, each since it began.
    pub rate: u64,
    /// What the parts wait for most, if any comes.
    pub limit: Option<Limiter>,
    /// The secret of its URL, which is told only once.
    pub ticket: Option<Secret>,
    /// The largest size of a drive.
    pub most: ByteCount,
    /// The seconds after which it expires, if nothing comes before.
    pub left: u32,
}

impl TransferSeen {
    /// Returns the count of bytes that are there from the first on, without a gap.
    pub fn offset(&self) -> u64 {
        self.durable.ranges().first().filter(|first| first.start == 0).map_or(0, |first| first.end)
    }

    /// Returns a text that is another once something else is told of the transfer, but for its rate and what limits it.
    pub fn mark(&self) -> String {
        let Transfer { state, epoch, updated, .. } = &self.transfer;
        format!("{}.{epoch}.{}.{}.{}.{}", state.word(), updated.0, self.durable.total(), self.received, self.parts)
    }

    /// Reports whether every byte has come of which it is known that there is one.
    pub fn is_complete(&self) -> bool {
        match self.transfer.state {
            TransferState::Done | TransferState::Finishing => true,
            _ => self.transfer.size.is_some_and(|size| self.durable.first_gap(0..size.get()).is_none()),
        }
    }
}

/// What a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// The peer and the network.
    Peer,
    /// The computation of a digest.
    Digest,
    /// The disk.
    Disk,
    /// Memory for blocks.
    Memory,
}

/// The terms of a part, known before its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct PartPlan {
    /// The transfer.
    pub target: PartTarget,
    /// The offset of the first byte in the drive.
    pub at: PartOffset,
    /// The number of bytes, when they are not compressed any more; `None` of a chunked body.
    pub length: Option<u64>,
    /// The compression of the body.
    pub encoding: Encoding,
    /// The number of bytes that will come in all, if the part tells it.
    pub size: Option<ByteCount>,
    /// The checksums of its bytes. One that has other bytes is refused whole.
    pub checks: Checks,
    /// The digests that the client asserts of all bytes.
    pub asserted: Digests,
    /// When the drive is made of what has come.
    pub finishes: Finishes,
}

/// When a part is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finishes {
    /// Never: it is asked for apart.
    Never,
    /// When no byte is missing after it.
    WhenWhole,
    /// Always: it brings the last byte of the drive.
    Here,
}

/// The transfer that a part belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum PartTarget {
    /// The one with this secret.
    Ticketed(TransferId, Secret),
    /// One of the caller.
    Own(TransferId),
    /// A new one of the caller.
    New(Box<TransferSpec>),
    /// The one that fills a drive, for a chunk of it. What has come of a chunk is not written over: the same bytes
    /// again are taken for a success, also when the drive is made, and others are refused.
    Chunk(ChunkSource, ChunkLength),
}

/// Where a chunk belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkSource {
    /// Where the link with this secret says, whatever the plan's offset is.
    Linked(Secret),
    /// In this drive of the caller, at the plan's offset.
    Drive(VolumeId),
}

/// When it is known that the bytes of a chunk are as many as they should be. What comes of a chunk is counted from then
/// on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkLength {
    /// Before its first byte: it is that of the body.
    Told,
    /// At its end, where the form ends in which it comes; but the length of the form fits.
    Framed,
    /// At its end.
    Unknown,
}

/// The place of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOffset {
    /// Anywhere.
    At(u64),
    /// At the end of what has come without a gap: any other offset is refused.
    End(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_comes_back_from_its_text_and_from_no_other() {
        let (volume, transfer) = (VolumeId::random(), TransferId::random());
        for origin in [
            Origin::Partial,
            Origin::PutTogether(vec![]),
            Origin::PutTogether(vec![transfer, TransferId::random(), transfer]),
            Origin::Base(Base::Drive(volume)),
            Origin::Base(Base::Snapshot(volume)),
            Origin::Base(Base::Transfer(transfer)),
        ] {
            assert_eq!(Origin::from_text(&origin.text()), Some(origin));
        }
        for text in ["", "partial x", "final x", "drive", "drive x", "tape 1", &format!("drive {volume} {volume}")] {
            assert_eq!(Origin::from_text(text), None, "{text}");
        }
    }
}
