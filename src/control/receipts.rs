//! Receipts of drives: what is stored, signed.

use std::sync::Arc;

use jiff::Timestamp;

use super::Parts;
use super::volumes::{Volumes, check_readable};
use crate::auth::Receipts;
use crate::domain::{
    BlockFields, Fault, FaultKind, Outcome, Placement, Principal, PublicKey, Receipt, ReceiptOf, TenantId, TransferId,
    TransferState, UnixTime, VolumeId,
};

/// Issues receipts.
pub(super) struct Receipting {
    volumes: Arc<Volumes>,
    receipts: Arc<Receipts>,
}

impl Receipting {
    /// Over these parts.
    pub(super) fn new(parts: &Parts, volumes: Arc<Volumes>) -> Self {
        Self { volumes, receipts: parts.receipts.clone() }
    }

    /// Issues a receipt of the caller's drive. The digests are those that are known.
    pub(super) async fn issue(&self, principal: &Principal, of: ReceiptOf) -> Result<Outcome, Fault> {
        let id = match of {
            ReceiptOf::Drive(id) => id,
            ReceiptOf::Transfer(id) => self.made_by(principal.tenant, id).await?,
        };
        let drive = self.volumes.find(principal.tenant, id).await?;
        check_readable(&drive)?;
        let image = self.volumes.open_as_recorded(&drive).await?;
        let blocks = |file: &std::fs::File| {
            use std::os::unix::fs::MetadataExt as _;
            file.metadata().map(|metadata| metadata.blocks().saturating_mul(512))
        };
        let now = self.volumes.clock.now();
        let checked = self.volumes.meta.last_checked(drive.id, drive.generation).await?;
        let transfer = self.volumes.meta.transfer_that_made(drive.tenant, drive.id).await?;
        let user = BlockFields::of(&drive).user.or_else(|| Placement::of(&drive.attributes).map(|placed| placed.user));
        let receipt = Receipt {
            issuer: self.receipts.issuer().to_owned(),
            issued: date(now),
            drive: drive.id,
            tenant: drive.tenant,
            user,
            transfer: transfer.map(|transfer| transfer.id),
            size: drive.size,
            allocated: image.file().and_then(|file| blocks(&file).ok()),
            digest: drive.digests.into(),
            created: date(drive.created),
            stored: image.written().map(date),
            checked: checked.map(|reading| date(reading.ended)),
            checked_from: checked.and_then(|reading| reading.began).map(date),
            name: drive.name,
        };
        Ok(Outcome::Receipt(Box::new(self.receipts.sign(receipt, now).await?)))
    }

    /// The drive that a transfer of the tenant has made.
    async fn made_by(&self, tenant: TenantId, id: TransferId) -> Result<VolumeId, Fault> {
        let transfer = self.volumes.meta.transfer(id).await?.filter(|transfer| transfer.tenant == tenant);
        let transfer = transfer.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such transfer"))?;
        match transfer.state {
            TransferState::Done => Ok(transfer.volume),
            state => {
                Err(Fault::new(FaultKind::Conflict, format!("the transfer is {}: it made no drive", state.word())))
            }
        }
    }

    /// Returns the keys that check receipts.
    pub(super) fn public_keys(&self) -> Vec<PublicKey> {
        self.receipts.public_keys(self.volumes.clock.now())
    }
}

fn date(time: UnixTime) -> String {
    Timestamp::from_millisecond(time.0).map(|time| time.to_string()).unwrap_or_default()
}
