//! Requests into intents.

use http::header;

use super::super::{Call, digest_fields, media, query, resumable};
use super::fields::{self, Fields};
use super::{Op, Wish, chunks, listing};
use crate::domain::{
    BlockPatch, ByteCount, Command, Fault, FaultKind, Media, PairsChange, PartPlan, Patch, Reach, ReceivePlan,
    TransferCommand, VolumeId, VolumeRef, VolumeSpec,
};

pub(super) fn decode(op: Op, call: &Call, body: &[u8]) -> Result<(Command, Wish), Fault> {
    let mut wish = Wish::default();
    let command = match op {
        Op::Download => Command::OpenDownload(VolumeRef::Drive(call.volume_id()?)),
        Op::List | Op::ListDetail => {
            let (command, fields) = listing::decode(call.query)?;
            wish.fields = fields;
            command
        }
        Op::Show => {
            wish.fields = listing::shown(call.query)?;
            Command::Show(VolumeRef::Drive(call.volume_id()?))
        }
        Op::Create => create(body)?,
        Op::Update => {
            Command::Change { volume: VolumeRef::Drive(call.volume_id()?), patch: patch(&fields::one(body)?)? }
        }
        Op::Delete => remove([call.volume_id()?]),
        Op::DeleteMany => delete_many(body)?,
        Op::Act => act(call, body)?,
        Op::UploadOptions => Command::Describe,
        Op::Capabilities | Op::Locations => {
            wish.page = listing::page(call.query)?;
            Command::Describe
        }
    };
    Ok((command, wish))
}

/// The first part of an upload that can be resumed.
pub(super) fn resumable(call: &Call) -> Result<PartPlan, Fault> {
    check_form(call)?;
    resumable::creation(call, label(call.param("file_name")))
}

pub(super) fn upload(call: &Call) -> Result<ReceivePlan, Fault> {
    check_form(call)?;
    let length = match call.length {
        Some(0) => return Err(Fault::new(FaultKind::Empty, "the request has no body; the image goes there")),
        Some(bytes) => Some(ByteCount::new(bytes).ok_or_else(|| {
            Fault::new(FaultKind::TooLarge, format!("no drive can have more than {} bytes", ByteCount::MAX))
        })?),
        None => None,
    };
    Ok(ReceivePlan {
        name: label(call.param("file_name")),
        length,
        asserted: digest_fields::asserted(call.headers)?,
        wanted: digest_fields::wanted(call.headers).or(digest_fields::announced(call.headers)),
    })
}

pub(super) fn check_form(call: &Call) -> Result<(), Fault> {
    check_media_type(call)?;
    if call.headers.contains_key(header::CONTENT_RANGE) {
        // RFC 9110 section 14.5: to take a part for the whole would make a drive of the wrong bytes.
        return Err(Fault::invalid("content-range", "an upload is sent whole; a part of one cannot be taken"));
    }
    Ok(())
}

/// Only raw bytes are taken: a form or an encoding would become the drive's content, and nobody would notice.
fn check_media_type(call: &Call) -> Result<(), Fault> {
    let unsupported = |told: &str| Err(Fault::new(FaultKind::UnsupportedMediaType, told));
    if !media::may_be(call.headers, "application/octet-stream") {
        return unsupported("an image is sent as Content-Type: application/octet-stream");
    }
    if !media::is_uncoded(call.headers) {
        return unsupported("an image is sent raw, without a Content-Encoding");
    }
    Ok(())
}

/// The file name in the path means nothing to the vendor. It is a fair first label for the drive, so it becomes that
/// when it can be one.
fn label(file_name: &str) -> String {
    if fields::is_name(file_name) { file_name.to_owned() } else { "uploaded drive".to_owned() }
}

fn create(body: &[u8]) -> Result<Command, Fault> {
    let spec = |object: Fields| {
        Ok(VolumeSpec {
            name: object.name()?.ok_or_else(|| object.missing("name"))?,
            size: Some(object.size()?.ok_or_else(|| object.missing("size"))?),
            media: object.media()?.unwrap_or(Media::Disk),
            meta: object.meta()?.unwrap_or_default(),
            attributes: object.attributes()?,
            ..VolumeSpec::default()
        })
    };
    let specs: Result<_, Fault> = fields::objects(body)?.into_iter().map(spec).collect();
    specs.map(Command::Create)
}

fn patch(object: &Fields) -> Result<Patch, Fault> {
    Ok(Patch {
        name: object.name()?,
        media: object.media()?,
        meta: object.meta()?.map(PairsChange::Replace),
        attributes: object.attributes()?,
        size: object.size()?,
        block: BlockPatch::default(),
    })
}

fn remove(ids: impl IntoIterator<Item = VolumeId>) -> Command {
    Command::Remove { volumes: ids.into_iter().map(VolumeRef::Drive).collect(), reach: Reach::default() }
}

fn delete_many(body: &[u8]) -> Result<Command, Fault> {
    let mut ids: Vec<VolumeId> = Vec::new();
    for object in fields::objects(body)? {
        ids.push(object.uuid()?);
    }
    // A drive named twice is removed once.
    ids.sort_unstable();
    ids.dedup();
    Ok(remove(ids))
}

fn act(call: &Call, body: &[u8]) -> Result<Command, Fault> {
    let id = call.volume_id()?;
    let action = query::pairs(call.query).find(|(name, _)| name == "do").map(|(_, action)| action);
    match action.as_deref() {
        Some("clone") => {
            // The vendor lets the body of a clone be left out.
            let object = if body.trim_ascii().is_empty() { Fields::none() } else { fields::one(body)? };
            Ok(Command::Clone { id, patch: patch(&object)? })
        }
        Some("resize") => {
            // The vendor has a whole drive in the body, as for a change.
            let object = fields::one(body)?;
            object.size()?.ok_or_else(|| object.missing("size"))?;
            Ok(Command::Change { volume: VolumeRef::Drive(id), patch: patch(&object)? })
        }
        Some("upload_chunk") => Ok(Command::Transfer(TransferCommand::OpenChunk(id, chunks::chunk(body)?))),
        Some(_) | None => {
            Err(Fault::invalid("do", "the actions on a drive are do=clone, do=resize and do=upload_chunk"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::MAX_NAME;
    use super::*;

    #[test]
    fn a_file_name_becomes_the_label_when_it_can_be_one() {
        assert_eq!(label("disk.img"), "disk.img");
        assert_eq!(label(&"\u{e9}".repeat(MAX_NAME)), "\u{e9}".repeat(MAX_NAME));
        for unfit in ["", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(label(unfit), "uploaded drive");
        }
    }
}
