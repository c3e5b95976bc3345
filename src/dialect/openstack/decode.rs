//! Requests into intents.

use serde_json::{Map, Value};

use super::super::{Call, Work, query};
use super::body::{Body, Fields, digits, gib};
use super::listing::Part;
use super::{Acted, Kind, Op, Version, listing, status};
use crate::domain::{
    BackupRef, BlockCommand, BlockPatch, Carried, Command, Fault, FaultKind, MetadataChange, NewBackup, NewVolume,
    Principal, ResetStatus, Secret, TenantId, Thing, VolumeAction, VolumeId,
};

/// The most characters of a server's id; the compute service has UUIDs.
const MAX_SERVER: usize = 255;

/// What is asked for; and how it is answered, where the body says that.
pub(super) fn decode(
    op: Op,
    call: &Call,
    caller: &Principal,
    body: &[u8],
) -> Result<(Work, Option<&'static Acted>), Fault> {
    let tenant = tenant(call, caller)?;
    let mut acted = None;
    let command = match op {
        Op::Extensions | Op::DefaultQuota => return Ok((Work::Discover, None)),
        Op::Volumes | Op::VolumesDetail => BlockCommand::Volumes(Box::new(listing::decode(op, call)?)),
        Op::Volume => BlockCommand::Volume(id(call, Kind::Volume)?),
        Op::CreateVolume => BlockCommand::CreateVolume(Box::new(new_volume(call, body)?)),
        Op::UpdateVolume => {
            BlockCommand::UpdateVolume { id: id(call, Kind::Volume)?, patch: patch(call, body, "volume")? }
        }
        Op::DeleteVolume => BlockCommand::DeleteVolume {
            id: id(call, Kind::Volume)?,
            cascade: is_set(call, "cascade")?,
            force: is_set(call, "force")?,
        },
        Op::ActVolume => {
            let (command, how) = act_on_volume(call, body)?;
            acted = Some(how);
            command
        }
        Op::Snapshots | Op::SnapshotsDetail => BlockCommand::Snapshots(Box::new(listing::decode(op, call)?)),
        Op::Snapshot => BlockCommand::Snapshot(id(call, Kind::Snapshot)?),
        Op::CreateSnapshot => new_snapshot(call, body)?,
        Op::UpdateSnapshot => {
            BlockCommand::UpdateSnapshot { id: id(call, Kind::Snapshot)?, patch: patch(call, body, "snapshot")? }
        }
        Op::DeleteSnapshot => BlockCommand::DeleteSnapshot { id: id(call, Kind::Snapshot)? },
        Op::ActSnapshot => act_on_snapshot(call, body)?,
        Op::Metadata(kind)
        | Op::MergeMetadata(kind)
        | Op::ReplaceMetadata(kind)
        | Op::MetadataKey(kind)
        | Op::SetMetadataKey(kind)
        | Op::RemoveMetadataKey(kind) => metadata(op, kind, call, body)?,
        Op::Backups | Op::BackupsDetail => BlockCommand::Backups(Box::new(listing::decode(op, call)?)),
        Op::Backup => BlockCommand::Backup(backup(call)?),
        Op::CreateBackup => BlockCommand::CreateBackup(Box::new(new_backup(call, body)?)),
        Op::DeleteBackup => BlockCommand::DeleteBackup(backup(call)?),
        Op::Restore => restore(call, body)?,
        Op::Types => {
            listing::types(call)?;
            BlockCommand::Types
        }
        Op::Type => BlockCommand::Types,
        Op::Zones => BlockCommand::Zones,
        Op::Limits => BlockCommand::Quota { tenant: listing::limits(call)?.unwrap_or(tenant) },
        Op::Quota => {
            is_set(call, "usage")?;
            BlockCommand::Quota { tenant: target(call)? }
        }
        Op::SetQuota => set_quota(call, body)?,
        Op::Servers | Op::ServersDetail => BlockCommand::Servers(listing::servers(call)?),
        Op::Server => BlockCommand::Attachments { server: server(call)? },
        Op::Attachments => {
            Part::read(call)?;
            BlockCommand::Attachments { server: server(call)? }
        }
        Op::Attach => attach(call, body)?,
        Op::Attachment => BlockCommand::Attachment { server: server(call)?, volume: id(call, Kind::Volume)? },
        Op::Detach => BlockCommand::Detach { server: server(call)?, volume: id(call, Kind::Volume)? },
    };
    let command = Command::Block(command);
    let command = if tenant == caller.tenant { command } else { Command::In { tenant, command: Box::new(command) } };
    Ok((Work::Control(command), acted))
}

/// The tenant that the path names. Another than the caller's is there for administrators only.
fn tenant(call: &Call, principal: &Principal) -> Result<TenantId, Fault> {
    let named = TenantId::from_plain(call.param("tenant"));
    let served = named.filter(|tenant| *tenant == principal.tenant || principal.is_admin);
    served.ok_or_else(|| not_found("The resource could not be found."))
}

/// The tenant whose quota is meant.
fn target(call: &Call) -> Result<TenantId, Fault> {
    let unknown = || not_found(format!("Project {} could not be found.", call.param("target")));
    TenantId::from_plain(call.param("target")).ok_or_else(unknown)
}

fn not_found(told: impl Into<String>) -> Fault {
    Fault::new(FaultKind::NotFound, told)
}

fn no_such_volume(id: &str) -> Fault {
    not_found(format!("Volume {id} could not be found."))
}

fn no_such_snapshot(id: &str) -> Fault {
    not_found(format!("Snapshot {id} could not be found."))
}

/// The volume or snapshot that the path names. What cannot be an id is a thing that is not there.
fn id(call: &Call, kind: Kind) -> Result<VolumeId, Fault> {
    let text = call.param("id");
    text.parse().map_err(|_| match kind {
        Kind::Volume => no_such_volume(text),
        Kind::Snapshot => no_such_snapshot(text),
    })
}

/// The backup that the path names: by number in version 1, by id after it.
fn backup(call: &Call) -> Result<BackupRef, Fault> {
    let text = call.param("id");
    let named = match Version::of(call.path) {
        Version::V1 => digits(text).map(BackupRef::Number),
        Version::V2 | Version::V3 => text.parse().ok().map(BackupRef::Id),
    };
    named.ok_or_else(|| not_found(format!("Backup {text} could not be found.")))
}

fn server(call: &Call) -> Result<String, Fault> {
    let text = call.param("server");
    let is_id = !text.is_empty() && text.chars().count() <= MAX_SERVER && !text.chars().any(char::is_control);
    if is_id { Ok(text.to_owned()) } else { Err(not_found("Instance could not be found.")) }
}

fn is_set(call: &Call, name: &str) -> Result<bool, Fault> {
    let value = query::pairs(call.query).find(|(key, _)| key == name);
    value.map_or(Ok(false), |(_, value)| listing::flag(name, &value))
}

/// What names and descriptions are called: by their own version first, as clients of the others do after it.
fn labels(call: &Call) -> ([&'static str; 2], [&'static str; 2]) {
    match Version::of(call.path) {
        Version::V1 => (["display_name", "name"], ["display_description", "description"]),
        Version::V2 | Version::V3 => (["name", "display_name"], ["description", "display_description"]),
    }
}

/// Name and description of a thing to be made; empty is none.
fn label_and_description(call: &Call, fields: &Fields) -> Result<(Option<String>, Option<String>), Fault> {
    let (name, description) = labels(call);
    let filled = |text: &String| !text.is_empty();
    Ok((fields.label(name)?.filter(filled), fields.label(description)?.filter(filled)))
}

/// What a volume is made by. With the last four, clients of version 1 say what the service says in the end; they are
/// passed over.
const OF_NEW_VOLUME: &[&str] = &[
    "availability_zone",
    "description",
    "display_description",
    "display_name",
    "imageRef",
    "image_id",
    "metadata",
    "multiattach",
    "name",
    "size",
    "snapshot_id",
    "source_volid",
    "volume_type",
    "attach_status",
    "project_id",
    "status",
    "user_id",
];

fn new_volume(call: &Call, body: &[u8]) -> Result<NewVolume, Fault> {
    let fields = Body::read(call, body)?.thing("volume")?;
    fields.only(OF_NEW_VOLUME)?;
    fields.not(&["multiattach"])?;
    let (name, description) = label_and_description(call, &fields)?;
    let not_a_source = |text: &str| Fault::invalid("source_volid", format!("{text:?} is not the id of a volume"));
    let snapshot = fields.id("snapshot_id", no_such_snapshot)?;
    let volume = fields.id("source_volid", not_a_source)?;
    let image = image(&fields)?;
    if [snapshot.is_some(), volume.is_some(), image.is_some()].into_iter().filter(|given| *given).count() > 1 {
        let told = "a volume is made from a snapshot, a volume or an image: snapshot_id, source_volid or imageRef";
        return Err(Fault::invalid("volume", told));
    }
    let size = fields.gib("size")?;
    if size.is_none() && snapshot.is_none() && volume.is_none() {
        return Err(Fields::missing("size"));
    }
    let token =
        call.headers.get("x-auth-token").and_then(|token| token.to_str().ok()).map(|token| Carried(Secret::new(token)));
    Ok(NewVolume {
        name,
        description,
        size,
        snapshot,
        volume,
        token: token.filter(|_| image.is_some()),
        image,
        zone: fields.filled("availability_zone")?,
        volume_type: fields.filled("volume_type")?,
        metadata: fields.pairs("metadata")?.unwrap_or_default(),
        takes_size_of_snapshot: Version::of(call.path) == Version::V1,
    })
}

/// The id of an image: a UUID, or the end of a URL of one.
fn image(fields: &Fields) -> Result<Option<VolumeId>, Fault> {
    let Some(text) = fields.filled("imageRef")?.or(fields.filled("image_id")?) else { return Ok(None) };
    let last = text.rsplit('/').next().unwrap_or_default();
    let told = "Invalid imageRef provided: it must be a UUID, or a URL that ends in one";
    last.parse().map(Some).map_err(|_| Fault::invalid("imageRef", told))
}

fn patch(call: &Call, body: &[u8], thing: &str) -> Result<BlockPatch, Fault> {
    let fields = Body::read(call, body)?.thing(thing)?;
    fields.only(&["description", "display_description", "display_name", "metadata", "name"])?;
    let (name, description) = labels(call);
    let filled = |text: &String| !text.is_empty();
    Ok(BlockPatch {
        // Empty text clears it.
        name: fields.label(name)?.map(|text| Some(text).filter(filled)),
        description: fields.label(description)?.map(|text| Some(text).filter(filled)),
        metadata: fields.pairs("metadata")?,
    })
}

fn act_on_volume(call: &Call, body: &[u8]) -> Result<(BlockCommand, &'static Acted), Fault> {
    let id = id(call, Kind::Volume)?;
    let (name, fields) = Body::read(call, body)?.action()?;
    let action = match name.as_str() {
        "os-extend" => VolumeAction::Extend(fields.gib("new_size")?.ok_or_else(|| Fields::missing("new_size"))?),
        "os-reserve" => VolumeAction::Reserve,
        "os-unreserve" => VolumeAction::Unreserve,
        "os-attach" => attachment_of(&fields)?,
        "os-begin_detaching" => VolumeAction::BeginDetaching,
        "os-roll_detaching" => VolumeAction::RollDetaching,
        "os-detach" => {
            // A volume has one attachment, whose id is its own.
            let wrong =
                |text: &str| Fault::invalid("attachment_id", format!("Attachment {text} is not of this volume."));
            if let Some(other) = fields.id("attachment_id", wrong)?.filter(|attachment| *attachment != id) {
                return Err(wrong(&other.to_string()));
            }
            VolumeAction::Detach
        }
        "os-set_bootable" => {
            VolumeAction::SetBootable(fields.flag("bootable")?.ok_or_else(|| Fields::missing("bootable"))?)
        }
        "os-update_readonly_flag" => {
            VolumeAction::SetReadOnly(fields.flag("readonly")?.ok_or_else(|| Fields::missing("readonly"))?)
        }
        "os-set_image_metadata" => {
            let pairs = fields.pairs("metadata")?.ok_or_else(|| Fields::missing("metadata"))?;
            VolumeAction::SetImageMetadata(pairs)
        }
        "os-unset_image_metadata" => {
            VolumeAction::UnsetImageMetadata(fields.filled("key")?.ok_or_else(|| Fields::missing("key"))?)
        }
        "os-show_image_metadata" => {
            fields.only(&[])?;
            return Ok((BlockCommand::Volume(id), &Acted::Shown));
        }
        "os-reset_status" => reset_of_volume(&fields)?,
        "os-force_delete" => VolumeAction::ForceDelete,
        other => return Err(no_such_action(other)),
    };
    fields.only(match name.as_str() {
        "os-extend" => &["new_size"],
        "os-attach" => &["host_name", "instance_uuid", "mode", "mountpoint"],
        "os-detach" => &["attachment_id"],
        "os-set_bootable" => &["bootable"],
        "os-update_readonly_flag" => &["readonly"],
        "os-set_image_metadata" => &["metadata"],
        "os-unset_image_metadata" => &["key"],
        "os-reset_status" => &["attach_status", "migration_status", "status"],
        _ => &[],
    })?;
    let acted = match action {
        VolumeAction::SetImageMetadata(_) => &Acted::Shown,
        VolumeAction::SetBootable(_) | VolumeAction::UnsetImageMetadata(_) => &Acted::Done,
        _ => &Acted::Begun,
    };
    Ok((BlockCommand::Act { id, action }, acted))
}

fn attachment_of(fields: &Fields) -> Result<VolumeAction, Fault> {
    let (server, host) = (fields.filled("instance_uuid")?, fields.filled("host_name")?);
    if server.is_some() == host.is_some() {
        let told = "a volume is attached to a server or to a host: instance_uuid or host_name";
        return Err(Fault::invalid("instance_uuid", told));
    }
    let read_only = match fields.filled("mode")?.as_deref() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(Fault::invalid("mode", "mode must be rw or ro")),
    };
    let device = fields.filled("mountpoint")?.ok_or_else(|| Fields::missing("mountpoint"))?;
    Ok(VolumeAction::Attach { server, host, device, read_only })
}

fn act_on_snapshot(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let id = id(call, Kind::Snapshot)?;
    let (name, fields) = Body::read(call, body)?.action()?;
    match name.as_str() {
        "os-reset_status" => match fields.only(&["status"]).and_then(|()| reset(&fields))? {
            status @ (ResetStatus::Available | ResetStatus::Error) => Ok(BlockCommand::ResetSnapshot { id, status }),
            _ => Err(Fault::invalid("status", "a snapshot can be set to available or error")),
        },
        other => Err(no_such_action(other)),
    }
}

fn reset_of_volume(fields: &Fields) -> Result<VolumeAction, Fault> {
    let status = reset(fields)?;
    let is_attached = matches!(status, ResetStatus::InUse | ResetStatus::ErrorDetaching);
    let detach = match fields.filled("attach_status")?.as_deref() {
        None => false,
        Some("detached") if !is_attached => true,
        Some(_) => {
            return Err(Fault::invalid(
                "attach_status",
                "attach_status can be set to detached, with the status of that",
            ));
        }
    };
    // Nothing migrates here.
    if fields.filled("migration_status")?.is_some_and(|word| !word.eq_ignore_ascii_case("none")) {
        return Err(Fault::invalid("migration_status", "migration_status is none here, and cannot be set"));
    }
    Ok(VolumeAction::Reset { status, detach })
}

fn reset(fields: &Fields) -> Result<ResetStatus, Fault> {
    let word = fields.filled("status")?.ok_or_else(|| Fields::missing("status"))?;
    status::reset_named(&word).ok_or_else(|| Fault::invalid("status", "this status cannot be set"))
}

fn no_such_action(name: &str) -> Fault {
    Fault::invalid("action", format!("There is no such action: {name}"))
}

fn new_snapshot(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let fields = Body::read(call, body)?.thing("snapshot")?;
    let named = &["description", "display_description", "display_name", "force", "metadata", "name", "volume_id"];
    fields.only(named)?;
    let (name, description) = label_and_description(call, &fields)?;
    Ok(BlockCommand::CreateSnapshot {
        volume: fields.id("volume_id", no_such_volume)?.ok_or_else(|| Fields::missing("volume_id"))?,
        name,
        description,
        metadata: fields.pairs("metadata")?.unwrap_or_default(),
        force: fields.flag("force")?.unwrap_or_default(),
    })
}

fn metadata(op: Op, kind: Kind, call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let id = id(call, kind)?;
    let of = match kind {
        Kind::Volume => Thing::Volume(id),
        Kind::Snapshot => Thing::Snapshot(id),
    };
    let change = match op {
        Op::MergeMetadata(_) => MetadataChange::Merge(Body::read(call, body)?.pairs("metadata")?),
        Op::ReplaceMetadata(_) => MetadataChange::Replace(Body::read(call, body)?.pairs("metadata")?),
        Op::SetMetadataKey(_) => MetadataChange::Merge(one_pair(call, body)?),
        Op::RemoveMetadataKey(_) => MetadataChange::Remove(call.param("key").to_owned()),
        _ => MetadataChange::Read,
    };
    Ok(BlockCommand::Metadata { of, change })
}

/// The pair that is set by its key, which path and body must name alike.
fn one_pair(call: &Call, body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let pairs = Body::read(call, body)?.pairs("meta")?;
    if pairs.len() == 1 && pairs.contains_key(call.param("key")) {
        return Ok(pairs);
    }
    Err(Fault::invalid("meta", "the body must have the one key that the path names"))
}

fn new_backup(call: &Call, body: &[u8]) -> Result<NewBackup, Fault> {
    let fields = Body::read(call, body)?.thing("backup")?;
    fields.only(&[
        "container",
        "description",
        "display_description",
        "display_name",
        "force",
        "incremental",
        "name",
        "snapshot_id",
        "volume_id",
    ])?;
    fields.not(&["incremental"])?;
    let (name, description) = label_and_description(call, &fields)?;
    Ok(NewBackup {
        volume: fields.id("volume_id", no_such_volume)?.ok_or_else(|| Fields::missing("volume_id"))?,
        snapshot: fields.id("snapshot_id", no_such_snapshot)?,
        name,
        description,
        container: fields.filled("container")?,
        force: fields.flag("force")?.unwrap_or_default(),
    })
}

fn restore(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let backup = backup(call)?;
    let fields = Body::read(call, body)?.thing("restore")?;
    fields.only(&["display_name", "name", "volume_id"])?;
    let (name, _) = label_and_description(call, &fields)?;
    Ok(BlockCommand::Restore { backup, volume: fields.id("volume_id", no_such_volume)?, name })
}

fn set_quota(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let tenant = target(call)?;
    let fields = Body::read(call, body)?.thing("quota_set")?;
    fields.only(&[
        "backup_gigabytes",
        "backups",
        "gigabytes",
        "id",
        "per_volume_gigabytes",
        "snapshots",
        "tenant_id",
        "volumes",
    ])?;
    for name in ["id", "tenant_id"] {
        if fields.filled(name)?.is_some_and(|id| id != call.param("target")) {
            return Err(Fault::invalid(name, format!("{name} is not that of the path")));
        }
    }
    for name in ["per_volume_gigabytes", "snapshots"] {
        if fields.limit(name)?.is_some_and(|limit| limit != -1) {
            return Err(Fault::invalid(name, format!("{name} cannot be limited here: it is -1")));
        }
    }
    let bytes = |name: &'static str| {
        let too_large = || Fault::invalid(name, format!("{name} is too large a number"));
        let limit = fields.limit(name)?.map(u64::try_from);
        limit.map(|count| count.ok().map(|count| gib(count).ok_or_else(too_large)).transpose()).transpose()
    };
    let count = |name| fields.limit(name).map(|limit| limit.map(|count| u64::try_from(count).ok()));
    Ok(BlockCommand::SetQuota {
        tenant,
        volumes: count("volumes")?,
        bytes: bytes("gigabytes")?,
        backups: count("backups")?,
        backup_bytes: bytes("backup_gigabytes")?,
    })
}

fn attach(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let server = server(call)?;
    let fields = Body::read(call, body)?.thing("volumeAttachment")?;
    fields.only(&["device", "volumeId", "volume_id"])?;
    let wrong = |text: &str| Fault::invalid("volumeId", format!("Invalid input for volumeId: {text:?} is not a UUID"));
    // The document's sample in XML has the other name.
    let volume = match fields.id("volumeId", wrong)? {
        None => fields.id("volume_id", wrong)?,
        volume => volume,
    };
    let volume = volume.ok_or_else(|| Fields::missing("volumeId"))?;
    Ok(BlockCommand::Attach { server, volume, device: fields.filled("device")?.filter(|device| device != "auto") })
}
