//! What a client has of a drive, told by the digests of its pieces, and what of that is here already.

use serde::{Deserialize, Serialize};

use super::{Blake3, ByteCount, Extent, TransferId, VolumeId};

/// Consecutive pieces of a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceRun {
    /// So many pieces of zeros.
    Zeros(u64),
    /// Pieces with these digests, of which the last is of the bytes up to the end of the drive.
    Digests(Vec<Blake3>),
}

impl PieceRun {
    /// Returns the number of pieces.
    pub fn count(&self) -> u64 {
        match self {
            Self::Zeros(count) => *count,
            Self::Digests(digests) => digests.len() as u64,
        }
    }
}

/// Something that may have bytes of a drive already, at the same offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// A drive.
    Drive(VolumeId),
    /// A snapshot.
    Snapshot(VolumeId),
    /// A transfer: the drive that it made, or what has come of it.
    Transfer(TransferId),
}

/// What a client has of the drive that it is about to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// What may have these pieces already; `None` is what was named when the transfer began, if anything was.
    pub base: Option<Base>,
    /// The first piece.
    pub from: u64,
    /// The pieces from there on.
    pub pieces: Vec<PieceRun>,
    /// Whether the client is the owner, who may name any base of theirs, and not only the bearer of the URL.
    pub is_owner: bool,
}

/// What came of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Had {
    /// The bytes that are to be sent, of the pieces that were compared.
    pub missing: Vec<Extent>,
    /// How many bytes were taken over from the base.
    pub taken: u64,
    /// The first piece that was not compared yet; the client asks again from there on.
    pub next: Option<u64>,
}

/// A question for the digests of a drive's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceQuery {
    /// The drive.
    pub drive: VolumeId,
    /// The first piece.
    pub from: u64,
    /// The most digests.
    pub limit: u32,
}

/// The digests of some of a drive's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestedPieces {
    /// The drive.
    pub drive: VolumeId,
    /// Its size.
    pub size: ByteCount,
    /// The first piece.
    pub from: u64,
    /// The pieces from there on.
    pub pieces: Vec<PieceRun>,
    /// The first piece that is not among them, unless the drive ends there.
    pub next: Option<u64>,
}
