//! Whether a good ticket is still that of somebody who may have it.

use crate::domain::{Fault, FaultKind, Named, TenantId, UserId};
use crate::meta::{Meta, UserRecord};

/// Refuses a ticket with the words `told` if the user that it was issued to is not there any more, may no longer work
/// for the tenant, or has a new password, which `is_of` tells. Users of an identity service elsewhere are not kept
/// here: their tickets name none, and end by time only.
pub(super) async fn check_bearer(
    meta: &Meta,
    (user, tenant): (Option<UserId>, TenantId),
    is_of: impl Fn(&UserRecord) -> bool,
    told: &str,
) -> Result<(), Fault> {
    let Some(id) = user else { return Ok(()) };
    let user = meta.user_with_id(id).await?.filter(is_of);
    if let Some(user) = user
        && meta.project_of(&user.name, &Named::Id(tenant)).await?.is_some()
    {
        return Ok(());
    }
    Err(Fault::new(FaultKind::TicketRefused, told))
}
