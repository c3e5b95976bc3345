//! Quota and space of a drive whose size is not known yet, taken as its bytes come.

use std::sync::Arc;

use crate::domain::{ByteCount, Fault, FaultKind, VolumeId};
use crate::meta::Meta;
use crate::store::Draft;

/// How much quota and space is taken at a time: few trips to the database, little taken that another could have had.
const STEP: ByteCount = ByteCount::mib(64);

/// What is taken already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// The offset up to which there is space.
    pub end: u64,
    /// The bytes that the tenant is charged for the drive.
    pub charged: ByteCount,
}

impl Room {
    /// Takes what bytes up to `end` need, and more where there is more, up to `most`. Returns the offset up to which
    /// bytes may come from now on.
    pub(super) async fn extend(
        &mut self,
        end: u64,
        most: ByteCount,
        (meta, volume): (&Meta, VolumeId),
        draft: &Arc<dyn Draft>,
    ) -> Result<u64, Fault> {
        if end <= self.end {
            return Ok(self.end);
        }
        let most = most.get();
        if end > most {
            return Err(Fault::new(FaultKind::TooLarge, format!("a drive has at most {most} bytes")));
        }
        let mut wish = end.max(self.end + STEP.get()).min(most);
        let count = |bytes| ByteCount::new(bytes).unwrap_or(ByteCount::MAX);
        if wish > self.charged.get() {
            let least = count(end.saturating_sub(self.charged.get()));
            let granted = meta.charge_upto(volume, count(wish - self.charged.get()), least).await?;
            self.charged = count(self.charged.get() + granted.get());
            wish = wish.min(self.charged.get());
        }
        if draft.reserve_more(count(wish - self.end)).is_err() {
            draft.reserve_more(count(end - self.end))?;
            wish = end;
        }
        self.end = wish;
        Ok(wish)
    }
}
