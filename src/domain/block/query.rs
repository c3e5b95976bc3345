//! Filters, order and pages of lists.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BackupRef, BackupState};
use crate::domain::{TenantId, VolumeId, VolumeState};

/// The filter, the order and the page of a list. Every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockQuery {
    /// The name.
    pub name: Option<String>,
    /// The states to match; any state when absent. The clone count of a source is ignored.
    pub states: Option<Vec<VolumeState>>,
    /// Also those that are marked with this word, beside `states`.
    pub mark: Option<String>,
    /// Drives only: the word for their migration.
    pub migration: Option<String>,
    /// Backups only: the state.
    pub backup_state: Option<BackupState>,
    /// The id.
    pub id: Option<VolumeId>,
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// The user who created it. Not of backups, whose records do not have it.
    pub user: Option<String>,
    /// The size in GiB, rounded up.
    pub gib: Option<u64>,
    /// The whole description.
    pub description: Option<String>,
    /// Snapshots and backups only: the drive.
    pub volume: Option<VolumeId>,
    /// The snapshot that a volume was created from, or of which a backup is.
    pub snapshot: Option<VolumeId>,
    /// Drives only: the drive that it was created from.
    pub source: Option<VolumeId>,
    /// Drives only: the name or id of its type.
    pub volume_type: Option<String>,
    /// Drives only: whether it is bootable.
    pub bootable: Option<bool>,
    /// The zone.
    pub zone: Option<String>,
    /// Pairs that must be among the owner's. Not of backups, which have none.
    pub metadata: Map<String, Value>,
    /// Drives only: pairs that must be among those of its image.
    pub image: Map<String, Value>,
    /// Whether all tenants are searched. For administrators; ignored for others.
    pub all_tenants: bool,
    /// The order: by the first key first, and last by id.
    pub sort: Vec<(SortKey, Direction)>,
    /// The most items.
    pub limit: Option<u32>,
    /// The last item of the page before.
    pub marker: Option<VolumeId>,
    /// Backups only: the last item of the page before.
    pub backup_marker: Option<BackupRef>,
    /// The number of items to skip.
    pub offset: u64,
}

/// A query for servers that have drives attached, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerQuery {
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// Whether all tenants are searched. For administrators; ignored for others.
    pub all_tenants: bool,
    /// The most servers.
    pub limit: u32,
    /// The last server of the page before.
    pub marker: Option<String>,
}

/// A key of the order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortKey {
    /// The time of creation.
    Created,
    /// The id.
    Id,
    /// The name.
    Name,
    /// The size.
    Size,
    /// The state.
    State,
    /// The time of the last change.
    Updated,
}

/// The direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The least first.
    Ascending,
    /// The greatest first.
    #[default]
    Descending,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged<T> {
    /// The items of the page.
    pub items: Vec<T>,
    /// Whether more items follow.
    pub has_more: bool,
}
