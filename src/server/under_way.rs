//! The shares that a request in progress holds.

use std::net::IpAddr;
use std::sync::OnceLock;

use super::shares::Share;
use crate::domain::TenantId;

/// The shares of one request, held until its answer is sent.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    pub(super) tenant: OnceLock<Share<TenantId>>,
    pub(super) address: Option<Share<IpAddr>>,
    /// Of those that watch a transfer.
    pub(super) watching: OnceLock<Share<TenantId>>,
}
