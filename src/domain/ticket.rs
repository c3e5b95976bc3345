//! Tickets: bearer capabilities for one transfer each. Their spelling and signature belong to `auth`.

use super::{Chunk, TenantId, TransferId, UnixTime, UserId, VolumeId};

/// The operation that a ticket permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reading the whole volume, by GET or HEAD.
    Download,
}

/// Permission for one operation on one volume, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The permitted operation.
    pub verb: Verb,
    /// The volume.
    pub volume: VolumeId,
    /// The tenant that must still own the volume when the ticket is used.
    pub tenant: TenantId,
    /// The user that it was issued to, where users are kept here. It ends when they are removed, may no longer work for
    /// the tenant, or have a new password.
    pub user: Option<UserId>,
    /// The time of its expiry. A transfer must start before, and may end after it.
    pub expires: UnixTime,
}

/// Permission to send one chunk of a transfer, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkTicket {
    /// The transfer.
    pub transfer: TransferId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// As [`Ticket::user`].
    pub user: Option<UserId>,
    /// The chunk.
    pub chunk: Chunk,
    /// As [`Ticket::expires`].
    pub expires: UnixTime,
}
