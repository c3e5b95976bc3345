//! A bearer capability for one transfer. How it is spelled and signed is `auth`'s business.

use super::{TenantId, UnixTime, UserId, VolumeId};

/// What a ticket lets its bearer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read the whole volume, by GET or HEAD.
    Download,
}

/// Leave for one verb on one volume until a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The operation that it permits.
    pub verb: Verb,
    /// On which volume.
    pub volume: VolumeId,
    /// Whose volume that must still be when the ticket is used.
    pub tenant: TenantId,
    /// Who got it, where users are kept here. It ends with them, with their leave to work for the tenant, and with a
    /// new password.
    pub user: Option<UserId>,
    /// A transfer may start before this moment; one that runs may finish after it.
    pub expires: UnixTime,
}
