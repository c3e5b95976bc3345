//! Which server has a drive. A record only: the server itself is another program's.
//!
//! # Invariants
//! - A drive is attached to one server at a time, and a device of a server has one drive: by keys of the database.

use std::sync::Arc;

use crate::control::race::{Race, unless_lost};
use crate::control::volumes::Volumes;
use crate::control::{busy, no_such_drive};
use crate::domain::{
    Attachment, BlockFields, BlockOutcome, Fault, FaultKind, Principal, Seen, Volume, VolumeEvent, VolumeId,
};
use crate::meta::{Batch, MetaError};

/// A drive is one of these at its server: the first disk is what the server started from.
const LETTERS: std::ops::RangeInclusive<u8> = b'b'..=b'z';

/// The most bytes of a server's id: that of OpenStack has 36.
const LONGEST_SERVER: usize = 64;

/// Attachments, and the states of drives on the way to them and back.
pub(in crate::control) struct Attachments {
    pub(super) volumes: Arc<Volumes>,
}

impl Attachments {
    /// Over these volumes.
    pub(in crate::control) fn new(volumes: Arc<Volumes>) -> Self {
        Self { volumes }
    }

    /// Where a drive is attached to this server.
    pub(super) async fn find(
        &self,
        principal: &Principal,
        server: &str,
        volume: VolumeId,
    ) -> Result<Attachment, Fault> {
        let attached = self.volumes.meta.attachments(principal.tenant, server).await?;
        let there = attached.into_iter().find(|attachment| attachment.volume == volume);
        there.ok_or_else(|| Fault::new(FaultKind::NotFound, "the volume is not attached to this server"))
    }

    pub(super) async fn attach(
        &self,
        principal: &Principal,
        server: String,
        volume: VolumeId,
        device: Option<String>,
    ) -> Result<BlockOutcome, Fault> {
        check_server(&server)?;
        let wish = Wish { server: Some(server), host: None, device, read_only: false };
        self.record(principal, volume, wish).await.map(BlockOutcome::Attachment)
    }

    /// Takes a drive that is at rest, or reserved, for a server.
    pub(super) async fn record(
        &self,
        principal: &Principal,
        volume: VolumeId,
        wish: Wish,
    ) -> Result<Attachment, Fault> {
        if let Some(device) = &wish.device {
            check_device(device)?;
        }
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let drive = self.volumes.find(principal.tenant, volume).await?;
            let device = match (&wish.device, &wish.server) {
                (Some(device), _) => device.clone(),
                (None, Some(server)) => self.free_device(principal, server).await?,
                (None, None) => return Err(Fault::invalid("device", "a host's volume has a mount point")),
            };
            let attachment = Attachment {
                volume,
                server: wish.server.clone(),
                host: wish.host.clone(),
                device,
                read_only: wish.read_only || BlockFields::of(&drive).read_only,
                created: self.volumes.clock.now(),
            };
            let attach = vec![(principal.tenant, attachment.clone())];
            match self.step_with(drive, VolumeEvent::Attached, Batch { attach, ..Batch::default() }).await {
                Err(MetaError::Conflict) => {}
                // The device was taken meanwhile; or it was before, and is the caller's own choice.
                Err(MetaError::Duplicate) if wish.device.is_none() => {}
                Err(MetaError::Duplicate) => {
                    let told = "this device of the server has another volume";
                    return Err(Fault::new(FaultKind::Conflict, told));
                }
                Err(error) => return Err(error.into()),
                Ok(step) => return step.map(|_| attachment),
            }
        }
    }

    /// Gives a drive back, whichever server has it.
    pub(in crate::control) async fn detach(&self, principal: &Principal, volume: VolumeId) -> Result<(), Fault> {
        let mut race = Race::of("the volume is");
        loop {
            race.round()?;
            let drive = self.volumes.find(principal.tenant, volume).await?;
            let batch = Batch { detach: vec![volume], ..Batch::default() };
            if let Some(step) = unless_lost(self.step_with(drive, VolumeEvent::Detached, batch).await)? {
                return step.map(drop);
            }
        }
    }

    /// One step of a drive together with the rest of a batch. The outer error may be tried again with the drive as it
    /// is then; the inner one is the caller's.
    async fn step_with(
        &self,
        mut drive: Volume,
        event: VolumeEvent,
        batch: Batch,
    ) -> Result<Result<Volume, Fault>, MetaError> {
        if let Err(step) = drive.step(event) {
            return Ok(Err(busy(step)));
        }
        drive.updated = self.volumes.clock.now();
        let id = drive.id;
        let mut updated = self.volumes.meta.apply(Batch { update: vec![drive], ..batch }).await?;
        Ok(updated.pop().ok_or_else(|| no_such_drive(id)))
    }

    async fn free_device(&self, principal: &Principal, server: &str) -> Result<String, Fault> {
        let taken = self.volumes.meta.attachments(principal.tenant, server).await?;
        let devices = LETTERS.map(|letter| format!("/dev/vd{}", char::from(letter)));
        let free = devices.into_iter().find(|device| taken.iter().all(|attachment| attachment.device != *device));
        free.ok_or_else(|| Fault::new(FaultKind::Conflict, "the server has no device left"))
    }

    /// Whether a drive's state says that it is attached, and to what.
    pub(super) async fn attached_to(&self, drive: Volume) -> Result<Option<Attachment>, Fault> {
        let told = self.volumes.meta.with_attachments(vec![Seen::new(drive)]).await?;
        Ok(told.into_iter().next().and_then(|told| told.attachment))
    }
}

/// An attachment that is wanted.
pub(super) struct Wish {
    pub(super) server: Option<String>,
    pub(super) host: Option<String>,
    /// The next free one when absent.
    pub(super) device: Option<String>,
    pub(super) read_only: bool,
}

/// Letters, digits and hyphens: it stands in URLs.
fn check_server(server: &str) -> Result<(), Fault> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if server.is_empty() || server.len() > LONGEST_SERVER || !server.bytes().all(is_good) {
        return Err(Fault::new(FaultKind::NotFound, "there is no such server"));
    }
    Ok(())
}

/// `/dev/` and a name, or just the name of a device: what OpenStack Compute takes.
fn check_device(device: &str) -> Result<(), Fault> {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte);
    if name.is_empty() || device.len() > 255 || !name.bytes().all(is_good) || name.contains("//") {
        return Err(Fault::invalid("device", "a device is /dev/ and a name, as in /dev/vdb"));
    }
    Ok(())
}
