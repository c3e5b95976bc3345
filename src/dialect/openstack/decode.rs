//! Requests into intents.

use serde_json::{Map, Value};

use super::super::{Call, Work, query};
use super::body::{Body, Fields, digits, gib};
use super::listing::Part;
use super::{Acted, Kind, Manner, Op, Version, Wish, listing, status};
use crate::domain::{
    BackupRef, BlockCommand, BlockFields, BlockPatch, Carried, Command, Fault, FaultKind, NewBackup, Owned,
    PairsChange, Patch, Principal, QuotaChange, Reach, Reset, ResetStatus, Secret, TenantId, VolumeAction, VolumeId,
    VolumeKind, VolumeQuery, VolumeRef, VolumeSource, VolumeSpec,
};

/// The class of quotas, of which there is one.
pub(super) const DEFAULT_CLASS: &str = "default";

/// The most characters of a server's id; the compute service has UUIDs.
const MAX_SERVER: usize = 255;

/// What is asked for, and how it is answered.
pub(super) fn decode(op: Op, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Work, Manner), Fault> {
    let tenant = tenant(call, caller)?;
    if call.path.ends_with('/') {
        // The router takes it for the vendors whose clients send it; here there is nothing at such a path.
        return Err(not_found("The resource could not be found."));
    }
    let mut manner = Manner::Usual;
    let volumes = |kind| -> Result<Command, Fault> {
        Ok(Command::List(VolumeQuery::Attached { kind, query: Box::new(listing::decode(op, call)?) }))
    };
    let change = |of, patch| -> Result<Command, Fault> { Ok(Command::Change { volume: volume(call, of)?, patch }) };
    let block = Command::Block;
    let command = match op {
        Op::Extensions => return Ok((Work::Discover, manner)),
        Op::Volumes | Op::VolumesDetail => volumes(VolumeKind::Drive)?,
        Op::Snapshots | Op::SnapshotsDetail => volumes(VolumeKind::Snapshot)?,
        Op::Volume => Command::Show(volume(call, Kind::Volume)?),
        Op::Snapshot => Command::Show(volume(call, Kind::Snapshot)?),
        Op::Metadata(of) | Op::MetadataKey(of) => Command::Show(volume(call, of)?),
        Op::CreateVolume => new_volume(call, body)?,
        Op::CreateSnapshot => new_snapshot(call, body)?,
        Op::UpdateVolume => change(Kind::Volume, patch(call, body, "volume")?)?,
        Op::UpdateSnapshot => change(Kind::Snapshot, patch(call, body, "snapshot")?)?,
        Op::MergeMetadata(of) => change(of, pairs(PairsChange::Merge(Body::read(call, body)?.pairs("metadata")?)))?,
        Op::ReplaceMetadata(of) => change(of, pairs(PairsChange::Replace(Body::read(call, body)?.pairs("metadata")?)))?,
        Op::SetMetadataKey(of) => change(of, pairs(PairsChange::Merge(one_pair(call, body)?)))?,
        Op::RemoveMetadataKey(of) => change(of, pairs(PairsChange::Remove(call.param("key").to_owned())))?,
        Op::DeleteVolume => {
            let (snapshots, attached) = (is_set(call, "cascade")?, is_set(call, "force")?);
            remove(volume(call, Kind::Volume)?, Reach { snapshots, attached, ..reach_of_drive(call, snapshots) })
        }
        Op::DeleteSnapshot => remove(volume(call, Kind::Snapshot)?, Reach::default()),
        Op::ActVolume => {
            let (command, how) = act_on_volume(call, body)?;
            manner = Manner::Acted(how);
            command
        }
        Op::ActSnapshot => {
            manner = Manner::Acted(&Acted::Begun);
            act_on_snapshot(call, body)?
        }
        Op::ActBackup => {
            manner = Manner::Acted(&Acted::Begun);
            block(act_on_backup(call, body)?)
        }
        Op::Backups | Op::BackupsDetail => block(BlockCommand::Backups(Box::new(listing::decode(op, call)?))),
        Op::Backup => block(BlockCommand::Backup(backup(call)?)),
        Op::CreateBackup => block(BlockCommand::CreateBackup(Box::new(new_backup(call, body)?))),
        Op::DeleteBackup => block(BlockCommand::DeleteBackup(backup(call)?)),
        Op::Restore => block(restore(call, body)?),
        Op::Types => {
            manner = Manner::Asked(Wish { part: listing::types(call)?, ..Wish::default() });
            block(BlockCommand::Types)
        }
        Op::Type => block(BlockCommand::Types),
        Op::Zones => block(BlockCommand::Zones),
        Op::Limits => block(BlockCommand::Quota { tenant: listing::limits(call)?.unwrap_or(tenant) }),
        Op::Quota => {
            manner = Manner::Asked(Wish { usage: is_set(call, "usage")?, ..Wish::default() });
            block(BlockCommand::Quota { tenant: target(call)? })
        }
        Op::SetQuota => block(BlockCommand::SetQuota { tenant: target(call)?, change: quota_change(call, body)? }),
        Op::ResetQuota => block(BlockCommand::ResetQuota { tenant: target(call)? }),
        Op::DefaultQuota => {
            target(call)?;
            block(BlockCommand::DefaultQuota)
        }
        Op::QuotaClass => {
            check_class(call)?;
            block(BlockCommand::DefaultQuota)
        }
        Op::SetQuotaClass => {
            check_class(call)?;
            block(BlockCommand::SetDefaultQuota(default_quota_change(call, body)?))
        }
        Op::Servers | Op::ServersDetail => block(BlockCommand::Servers(listing::servers(call)?)),
        Op::Server => block(BlockCommand::Attachments { server: server(call)? }),
        Op::Attachments => {
            manner = Manner::Asked(Wish { part: Part::read(call)?, ..Wish::default() });
            block(BlockCommand::Attachments { server: server(call)? })
        }
        Op::Attach => block(attach(call, body)?),
        Op::Attachment => block(BlockCommand::Attachment { server: server(call)?, volume: id(call, Kind::Volume)? }),
        Op::Detach => block(BlockCommand::Detach { server: server(call)?, volume: id(call, Kind::Volume)? }),
    };
    let command = if tenant != caller.tenant {
        Command::In { tenant, command: Box::new(command) }
    } else if let Some(of) = thing(op, call).filter(|_| caller.is_admin) {
        Command::WithOwner { of, command: Box::new(command) }
    } else {
        command
    };
    Ok((Work::Control(command), manner))
}

/// The thing that a path names by its id, where administrators reach also those of others by the path of their own
/// project. What is restored belongs to whoever restores it, and is of their own backups.
fn thing(op: Op, call: &Call) -> Option<Owned> {
    match op {
        Op::Volume | Op::UpdateVolume | Op::DeleteVolume | Op::ActVolume => Some(Kind::Volume),
        Op::Snapshot | Op::UpdateSnapshot | Op::DeleteSnapshot | Op::ActSnapshot => Some(Kind::Snapshot),
        Op::Metadata(kind)
        | Op::MergeMetadata(kind)
        | Op::ReplaceMetadata(kind)
        | Op::MetadataKey(kind)
        | Op::SetMetadataKey(kind)
        | Op::RemoveMetadataKey(kind) => Some(kind),
        Op::Backup | Op::DeleteBackup | Op::ActBackup => return backup(call).ok().map(Owned::Backup),
        _ => None,
    }
    .and_then(|kind| id(call, kind).ok().map(Owned::Volume))
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

fn volume(call: &Call, of: Kind) -> Result<VolumeRef, Fault> {
    let id = id(call, of)?;
    Ok(match of {
        Kind::Volume => VolumeRef::Drive(id),
        Kind::Snapshot => VolumeRef::Snapshot(id),
    })
}

/// How far the removal of a volume reaches. Version 1 leaves its snapshots, which the later ones do not have without it.
fn reach_of_drive(call: &Call, is_cascade: bool) -> Reach {
    Reach { alone: !is_cascade && Version::of(call.path) != Version::V1, ..Reach::default() }
}

fn remove(volume: VolumeRef, reach: Reach) -> Command {
    Command::Remove { volumes: vec![volume], reach }
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
    "consistencygroup_id",
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

fn new_volume(call: &Call, body: &[u8]) -> Result<Command, Fault> {
    let fields = Body::read(call, body)?.thing("volume")?;
    fields.only(OF_NEW_VOLUME)?;
    fields.not(&["multiattach"])?;
    if let Some(group) = fields.filled("consistencygroup_id")? {
        return Err(not_found(format!("ConsistencyGroup {group} could not be found.")));
    }
    let (name, description) = label_and_description(call, &fields)?;
    let source = source(call, &fields)?;
    let size = fields.gib("size")?;
    if size.is_none() && matches!(source, None | Some(VolumeSource::Image { .. })) {
        return Err(Fields::missing("size"));
    }
    // Version 1 makes a volume as large as its snapshot, whatever size is asked.
    let is_sized = Version::of(call.path) != Version::V1 || !matches!(source, Some(VolumeSource::Snapshot(_)));
    let (zone, volume_type) = (fields.filled("availability_zone")?, fields.filled("volume_type")?);
    // The document of version 1 has types that are not there passed over.
    let type_if_known = Version::of(call.path) == Version::V1 && volume_type.is_some();
    let spec = VolumeSpec {
        name: name.unwrap_or_default(),
        size: size.filter(|_| is_sized),
        meta: fields.pairs("metadata")?.unwrap_or_default(),
        block: Some(BlockFields { description, zone, volume_type, type_if_known, ..BlockFields::default() }),
        ..VolumeSpec::default()
    };
    Ok(match source {
        Some(source) => Command::CreateFrom { source, spec: Box::new(spec) },
        None => Command::Create(vec![spec]),
    })
}

/// The one thing that a volume is made from; none for a blank one.
fn source(call: &Call, fields: &Fields) -> Result<Option<VolumeSource>, Fault> {
    let not_a_source = |text: &str| Fault::invalid("source_volid", format!("{text:?} is not the id of a volume"));
    let snapshot = fields.id("snapshot_id", no_such_snapshot)?;
    let volume = fields.id("source_volid", not_a_source)?;
    Ok(match (snapshot, volume, image(fields)?) {
        (None, None, None) => None,
        (Some(id), None, None) => Some(VolumeSource::Snapshot(id)),
        (None, Some(id), None) => Some(VolumeSource::Drive { id, if_attached: true }),
        (None, None, Some(id)) => {
            let token = call.headers.get("x-auth-token").and_then(|token| token.to_str().ok());
            Some(VolumeSource::Image { id, token: token.map(|token| Carried(Secret::new(token))) })
        }
        _ => {
            let told = "a volume is made from a snapshot, a volume or an image: snapshot_id, source_volid or imageRef";
            return Err(Fault::invalid("volume", told));
        }
    })
}

/// The id of an image: a UUID, or the end of a URL of one.
fn image(fields: &Fields) -> Result<Option<VolumeId>, Fault> {
    let Some(text) = fields.filled("imageRef")?.or(fields.filled("image_id")?) else { return Ok(None) };
    let last = text.rsplit('/').next().unwrap_or_default();
    let told = "Invalid imageRef provided: it must be a UUID, or a URL that ends in one";
    last.parse().map(Some).map_err(|_| Fault::invalid("imageRef", told))
}

/// A change of name, description and metadata, where empty text and `null` clear the first two.
fn patch(call: &Call, body: &[u8], thing: &str) -> Result<Patch, Fault> {
    let fields = Body::read(call, body)?.thing(thing)?;
    fields.only(&["description", "display_description", "display_name", "metadata", "name"])?;
    let (name, description) = labels(call);
    let (name, description) = (fields.new_label(name)?, fields.new_label(description)?);
    let meta = fields.pairs("metadata")?.map(PairsChange::Replace);
    Ok(Patch { name, meta, ..of_block(BlockPatch { description, ..BlockPatch::default() }) })
}

fn of_block(block: BlockPatch) -> Patch {
    Patch { block, ..Patch::default() }
}

/// A change of the metadata.
fn pairs(change: PairsChange) -> Patch {
    Patch { meta: Some(change), ..Patch::default() }
}

fn act_on_volume(call: &Call, body: &[u8]) -> Result<(Command, &'static Acted), Fault> {
    let id = id(call, Kind::Volume)?;
    let volume = VolumeRef::Drive(id);
    let (name, fields) = Body::read(call, body)?.action()?;
    let act = |action| Command::Block(BlockCommand::Act { id, action });
    let change = |block| Command::Change { volume: volume.clone(), patch: of_block(block) };
    let image = |image| change(BlockPatch { image: Some(image), ..BlockPatch::default() });
    let (known, command, acted): (&[&str], _, _) = match name.as_str() {
        "os-extend" => {
            let size = fields.gib("new_size")?.ok_or_else(|| Fields::missing("new_size"))?;
            (&["new_size"], Command::Block(BlockCommand::Extend { id, size }), &Acted::Begun)
        }
        "os-reserve" => (&[], act(VolumeAction::Reserve), &Acted::Begun),
        "os-unreserve" => (&[], act(VolumeAction::Unreserve), &Acted::Begun),
        "os-attach" => {
            (&["host_name", "instance_uuid", "mode", "mountpoint"], act(attachment_of(&fields)?), &Acted::Begun)
        }
        "os-begin_detaching" => (&[], act(VolumeAction::BeginDetaching), &Acted::Begun),
        "os-roll_detaching" => (&[], act(VolumeAction::RollDetaching), &Acted::Begun),
        "os-detach" => {
            // A volume has one attachment, whose id is its own.
            let wrong =
                |text: &str| Fault::invalid("attachment_id", format!("Attachment {text} is not of this volume."));
            if let Some(other) = fields.id("attachment_id", wrong)?.filter(|attachment| *attachment != id) {
                return Err(wrong(&other.to_string()));
            }
            (&["attachment_id"], act(VolumeAction::Detach), &Acted::Begun)
        }
        "os-set_bootable" => {
            let bootable = Some(fields.flag("bootable")?.ok_or_else(|| Fields::missing("bootable"))?);
            (&["bootable"], change(BlockPatch { bootable, ..BlockPatch::default() }), &Acted::Done)
        }
        "os-update_readonly_flag" => {
            let read_only = Some(fields.flag("readonly")?.ok_or_else(|| Fields::missing("readonly"))?);
            (&["readonly"], change(BlockPatch { read_only, ..BlockPatch::default() }), &Acted::Begun)
        }
        "os-set_image_metadata" => {
            let pairs = fields.pairs("metadata")?.ok_or_else(|| Fields::missing("metadata"))?;
            (&["metadata"], image(PairsChange::Merge(pairs)), &Acted::Shown)
        }
        "os-unset_image_metadata" => {
            let key = fields.filled("key")?.ok_or_else(|| Fields::missing("key"))?;
            (&["key"], image(PairsChange::Remove(key)), &Acted::Done)
        }
        "os-show_image_metadata" => (&[], Command::Show(volume), &Acted::Shown),
        "os-reset_status" => (
            &["attach_status", "migration_status", "status"],
            Command::Block(reset_of_volume(volume, &fields)?),
            &Acted::Begun,
        ),
        "os-force_delete" => {
            (&[], remove(volume, Reach { attached: true, ..reach_of_drive(call, false) }), &Acted::Begun)
        }
        other => return Err(no_such_action(other)),
    };
    fields.only(known)?;
    Ok((command, acted))
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

fn act_on_snapshot(call: &Call, body: &[u8]) -> Result<Command, Fault> {
    let volume = volume(call, Kind::Snapshot)?;
    let (name, fields) = Body::read(call, body)?.action()?;
    match name.as_str() {
        "os-reset_status" => {
            fields.only(&["status"])?;
            let status = Some(reset(&fields, status::reset_of_snapshot)?.ok_or_else(|| Fields::missing("status"))?);
            Ok(Command::Block(BlockCommand::Reset { volume, reset: Reset { status, ..Reset::default() } }))
        }
        "os-force_delete" => {
            fields.only(&[])?;
            Ok(remove(volume, Reach { attached: true, ..Reach::default() }))
        }
        other => Err(no_such_action(other)),
    }
}

fn act_on_backup(call: &Call, body: &[u8]) -> Result<BlockCommand, Fault> {
    let backup = backup(call)?;
    let (name, fields) = Body::read(call, body)?.action()?;
    match name.as_str() {
        "os-reset_status" => {
            fields.only(&["status"])?;
            let is_available = match word(&fields, "status")?.as_deref() {
                Some("available") => true,
                Some("error") => false,
                Some(_) => return Err(Fault::invalid("status", "a backup can be set to available or error")),
                None => return Err(Fields::missing("status")),
            };
            Ok(BlockCommand::ResetBackup { backup, is_available })
        }
        "os-force_delete" => {
            fields.only(&[])?;
            Ok(BlockCommand::ForceDeleteBackup(backup))
        }
        other => Err(no_such_action(other)),
    }
}

fn reset_of_volume(volume: VolumeRef, fields: &Fields) -> Result<BlockCommand, Fault> {
    let status = reset(fields, status::reset_of_volume)?;
    let attached = match word(fields, "attach_status")?.as_deref() {
        None => None,
        Some("attached") => Some(true),
        Some("detached") => Some(false),
        Some(_) => return Err(Fault::invalid("attach_status", "attach_status can be set to attached or detached")),
    };
    let wrong = || Fault::invalid("migration_status", "this migration_status cannot be set");
    let migration = word(fields, "migration_status")?;
    let migration = migration.map(|word| status::migration_named(&word).ok_or_else(wrong)).transpose()?;
    if status.is_none() && attached.is_none() && migration.is_none() {
        let told = "Must specify 'status', 'attach_status' or 'migration_status' for update.";
        return Err(Fault::invalid("status", told));
    }
    Ok(BlockCommand::Reset { volume, reset: Reset { status, attached, migration } })
}

/// The status that is wanted, if it is one of these.
fn reset(fields: &Fields, named: fn(&str) -> Option<ResetStatus>) -> Result<Option<ResetStatus>, Fault> {
    let wrong = || Fault::invalid("status", "this status cannot be set");
    word(fields, "status")?.map(|word| named(&word).ok_or_else(wrong)).transpose()
}

/// A word of a status, which may be given in capitals.
fn word(fields: &Fields, name: &str) -> Result<Option<String>, Fault> {
    Ok(fields.filled(name)?.map(|word| word.to_ascii_lowercase()))
}

fn no_such_action(name: &str) -> Fault {
    Fault::invalid("action", format!("There is no such action: {name}"))
}

fn new_snapshot(call: &Call, body: &[u8]) -> Result<Command, Fault> {
    let fields = Body::read(call, body)?.thing("snapshot")?;
    let named = &["description", "display_description", "display_name", "force", "metadata", "name", "volume_id"];
    fields.only(named)?;
    let (name, description) = label_and_description(call, &fields)?;
    let id = volume_of(&fields)?;
    let spec = VolumeSpec {
        kind: VolumeKind::Snapshot,
        name: name.unwrap_or_default(),
        meta: fields.pairs("metadata")?.unwrap_or_default(),
        block: Some(BlockFields { description, ..BlockFields::default() }),
        ..VolumeSpec::default()
    };
    let if_attached = fields.flag("force")?.unwrap_or_default();
    Ok(Command::CreateFrom { source: VolumeSource::Drive { id, if_attached }, spec: Box::new(spec) })
}

/// The volume that something is made of. One that is `null` is not there.
fn volume_of(fields: &Fields) -> Result<VolumeId, Fault> {
    let name = "volume_id";
    let unnamed = || if fields.is_null(name) { no_such_volume("None") } else { Fields::missing(name) };
    fields.id(name, no_such_volume)?.ok_or_else(unnamed)
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
        volume: volume_of(&fields)?,
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

/// Refuses every class of quotas but the one that there is.
fn check_class(call: &Call) -> Result<(), Fault> {
    match call.param("class") {
        DEFAULT_CLASS => Ok(()),
        other => Err(not_found(format!("Quota class {other} could not be found."))),
    }
}

/// What a quota is made of, of tenants and of their class.
const OF_QUOTA: [&str; 7] =
    ["backup_gigabytes", "backups", "gigabytes", "groups", "per_volume_gigabytes", "snapshots", "volumes"];

fn quota_change(call: &Call, body: &[u8]) -> Result<QuotaChange, Fault> {
    let fields = Body::read(call, body)?.thing("quota_set")?;
    fields.only(&[&OF_QUOTA[..], &["id", "tenant_id"]].concat())?;
    limits_of(&fields, ["id", "tenant_id"], call.param("target"))
}

fn default_quota_change(call: &Call, body: &[u8]) -> Result<QuotaChange, Fault> {
    let fields = Body::read(call, body)?.thing("quota_class_set")?;
    fields.only(&[&OF_QUOTA[..], &["class_name", "id"]].concat())?;
    limits_of(&fields, ["class_name", "id"], DEFAULT_CLASS)
}

/// The limits that fields name, of what also these fields may name.
fn limits_of(fields: &Fields, names: [&str; 2], id: &str) -> Result<QuotaChange, Fault> {
    for name in names {
        if fields.filled(name)?.is_some_and(|named| named != id) {
            return Err(Fault::invalid(name, format!("{name} is not that of the path")));
        }
    }
    if fields.limit("groups")?.is_some_and(|limit| limit != 0) {
        return Err(Fault::invalid("groups", "groups cannot be made here: their limit is 0"));
    }
    let bytes = |name: &'static str| {
        let too_large = || Fault::invalid(name, format!("{name} is too large a number"));
        let limit = fields.limit(name)?.map(u64::try_from);
        limit.map(|count| count.ok().map(|count| gib(count).ok_or_else(too_large)).transpose()).transpose()
    };
    let count = |name| fields.limit(name).map(|limit| limit.map(|count| u64::try_from(count).ok()));
    Ok(QuotaChange {
        volumes: count("volumes")?,
        bytes: bytes("gigabytes")?,
        backups: count("backups")?,
        backup_bytes: bytes("backup_gigabytes")?,
        snapshots: count("snapshots")?,
        volume_bytes: bytes("per_volume_gigabytes")?,
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
