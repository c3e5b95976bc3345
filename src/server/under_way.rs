//! The shares that a request under way holds.

use std::net::IpAddr;
use std::sync::OnceLock;

use super::shares::Share;
use crate::domain::TenantId;

/// The shares that one request takes, held until its answer was sent.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    pub(super) tenant: OnceLock<Share<TenantId>>,
    pub(super) address: Option<Share<IpAddr>>,
}
