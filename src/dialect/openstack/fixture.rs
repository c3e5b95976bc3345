//! What the rest of the server would make of a command, for the golden files: the things of HP's document.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::golden;
use crate::domain::{
    AttachedServer, Attachment, Backup, BackupRef, BackupState, BlockCommand, BlockFields, BlockOutcome, BlockVolume,
    ByteCount, Command, Digests, NewBackup, Outcome, Paged, Principal, Quota, QuotaChange, TenantId, UnixTime, Usage,
    UserId, Volume, VolumeId, VolumeKind, VolumeQuery, VolumeRef, VolumeSource, VolumeSpec, VolumeState, VolumeType,
};

/// The tenant of the document's samples.
const TENANT: &str = "e56a97501ac64da4af7c7a6f4ecb7426";

/// The volume of the document that is attached and can be started from.
const ATTACHED: &str = "29b53979-c09d-4944-a170-5430aac864df";

/// A volume and a snapshot that have pairs of each kind.
const LABELLED: &str = "6f6b9bd9-4c2f-4c0e-8d3a-5b7f0a4f7c11";

/// Whose token came with a request.
pub(in super::super) fn principal(is_admin: bool) -> Principal {
    Principal {
        user: "alice".to_owned(),
        user_id: UserId::from_plain("360cdc8902e04d4482ab653082b5b5e4").unwrap(),
        tenant: TenantId::from_plain(TENANT).unwrap(),
        is_admin,
    }
}

/// Of a command on volumes or snapshots, where it is of this dialect.
pub(in super::super) fn told(command: &Command) -> Option<Outcome> {
    let told = match command {
        Command::List(VolumeQuery::Attached { kind, query }) => {
            let mut items = match kind {
                VolumeKind::Snapshot => vec![
                    snapshot("0500944b-1179-4b1c-9f31-b3f0da8e669c", "2013-01-30T16:44:13Z"),
                    snapshot("e45fed49-801d-4a61-8927-5c8005a1c584", "2013-01-30T16:41:58Z"),
                ],
                VolumeKind::Drive | VolumeKind::Tree => vec![blank(), attached(), copied()],
            };
            let has_more = query.limit.is_some_and(|limit| limit as usize == items.len());
            if query.limit == Some(0) {
                items.clear();
            }
            return Some(Outcome::Page(Paged { items, has_more }));
        }
        Command::Show(volume) => shown(volume)?,
        Command::Change { volume, patch } => {
            let mut volume = Volume::clone(&shown(volume)?.volume);
            // A pair that is to go need not be there.
            let _ = patch.clone().apply(&mut volume);
            volume.into()
        }
        Command::Create(specs) => {
            let [VolumeSpec { block: Some(_), .. }] = &specs[..] else { return None };
            return Some(Outcome::Created(vec![created(&specs[0], None)]));
        }
        Command::CreateFrom { source, spec } => return Some(Outcome::Created(vec![created(spec, Some(source))])),
        Command::Block(command) => return Some(Outcome::Block(outcome(command))),
        _ => return None,
    };
    Some(Outcome::Volume(Box::new(told)))
}

/// A volume or snapshot that requests of this dialect are about.
fn shown(volume: &VolumeRef) -> Option<BlockVolume> {
    let (id, told) = match volume {
        VolumeRef::Drive(id) if *id == golden::drive().id => return None,
        VolumeRef::Drive(id) if id.to_string() == ATTACHED => (id, attached()),
        VolumeRef::Drive(id) => (id, plain(*id)),
        VolumeRef::Snapshot(id) => (id, snapshot(&id.to_string(), "2013-01-30T17:37:06Z")),
        VolumeRef::Any(_) | VolumeRef::Tree(_) => return None,
    };
    if id.to_string() != LABELLED {
        return Some(told);
    }
    let image = map(json!({"image_name": "precise-server-cloudimg-i386"}));
    let meta = map(json!({"k": "v", "type": "gold"}));
    let fields = BlockFields { image, ..BlockFields::default() };
    Some(with(Volume { meta, ..Volume::clone(&told.volume) }, &fields))
}

fn outcome(command: &BlockCommand) -> BlockOutcome {
    match command {
        BlockCommand::Backups(query) => {
            let items = vec![backup(1, "2013-01-31T12:43:30Z"), backup(2, "2013-01-31T12:44:32Z")];
            BlockOutcome::Backups(Paged { items, has_more: query.limit == Some(2) })
        }
        BlockCommand::Backup(id) => BlockOutcome::Backup(Box::new(named(*id))),
        BlockCommand::CreateBackup(new) => BlockOutcome::Backup(Box::new(begun(new))),
        BlockCommand::Restore { backup, volume, .. } => BlockOutcome::Restoring {
            backup: Box::new(named(*backup)),
            volume: Box::new(plain(volume.unwrap_or_else(|| named(*backup).volume))),
        },
        BlockCommand::Servers(query) => {
            let volumes = vec!["795114e8-7489-40be-a978-83797f2c1dd3".parse().unwrap()];
            let id = "c31ae64f-03d4-4bc9-b2bf-06f80db0ff62".to_owned();
            let tenant = TenantId::from_plain(TENANT).unwrap();
            BlockOutcome::Servers(Paged {
                items: vec![AttachedServer { id, tenant, volumes }],
                has_more: query.limit == 1,
            })
        }
        BlockCommand::Attachments { server } => {
            let id = "795114e8-7489-40be-a978-83797f2c1dd3".parse().unwrap();
            BlockOutcome::Attachments(vec![attachment(id, server, "/dev/vdb")])
        }
        BlockCommand::Attachment { server, volume } => {
            BlockOutcome::Attachment(attachment(*volume, server, "/dev/vdc"))
        }
        BlockCommand::Attach { server, volume, device } => {
            let device = device.as_deref().unwrap_or("/dev/vdb");
            BlockOutcome::Attachment(attachment(*volume, server, device))
        }
        BlockCommand::Quota { tenant } => quota(*tenant, limits()),
        BlockCommand::SetQuota { tenant, change } => quota(*tenant, changed(*change)),
        BlockCommand::DefaultQuota => BlockOutcome::DefaultQuota(limits()),
        BlockCommand::SetDefaultQuota(change) => BlockOutcome::DefaultQuota(changed(*change)),
        BlockCommand::Types => BlockOutcome::Types(vec![VolumeType {
            id: "6685584b-1eac-4da6-b5c3-555430cf68ff".to_owned(),
            name: "standard".to_owned(),
            description: Some("files of the node's disk".to_owned()),
        }]),
        BlockCommand::Zones => BlockOutcome::Zones(vec!["nova".to_owned(), "az2".to_owned()]),
        BlockCommand::Extend { .. }
        | BlockCommand::Act { .. }
        | BlockCommand::Reset { .. }
        | BlockCommand::DeleteBackup(_)
        | BlockCommand::ForceDeleteBackup(_)
        | BlockCommand::ResetBackup { .. }
        | BlockCommand::ResetQuota { .. }
        | BlockCommand::Detach { .. } => BlockOutcome::Done,
    }
}

/// The volume of the document that has everything.
pub(super) fn attached() -> BlockVolume {
    let image = json!({
        "image_id": "62560ce2-ee31-4ee6-bc9b-81a98fd3d52b",
        "image_name": "precise-server-cloudimg-i386",
    });
    let fields = BlockFields { image: map(image), bootable: true, ..BlockFields::default() };
    let id = ATTACHED.parse().unwrap();
    let drive = drive(id, 5, VolumeState::InUse, "2013-01-21T16:36:19Z");
    let attachment = attachment(id, "c31ae64f-03d4-4bc9-b2bf-06f80db0ff62", "/dev/vdd");
    BlockVolume { attachment: Some(attachment), ..with(drive, &fields) }
}

/// The backup of the document with this number.
pub(super) fn backup(number: u64, created: &str) -> Backup {
    Backup {
        id: format!("2ef47aee-8844-490c-804d-{number:012}").parse().unwrap(),
        number,
        tenant: TenantId::from_plain(TENANT).unwrap(),
        volume: "795114e8-7489-40be-a978-83797f2c1dd3".parse().unwrap(),
        snapshot: None,
        name: None,
        description: None,
        container: Some("volumebackups".to_owned()),
        zone: Some("az1".to_owned()),
        size: gib(1),
        objects: Some(22),
        state: BackupState::Available,
        reason: None,
        origin: None,
        created: at(created),
        updated: at(created),
    }
}

/// A snapshot of the document.
pub(super) fn snapshot(id: &str, created: &str) -> BlockVolume {
    let drive = drive(id.parse().unwrap(), 1, VolumeState::Available, created);
    let source = Some("64f5d2fb-d836-4063-b7e2-544d5c1ff607".to_owned());
    Volume { kind: VolumeKind::Snapshot, source, ..drive }.into()
}

pub(super) fn attachment(volume: VolumeId, server: &str, device: &str) -> Attachment {
    Attachment {
        volume,
        server: Some(server.to_owned()),
        host: None,
        device: device.to_owned(),
        read_only: false,
        created: at("2013-01-21T16:40:00Z"),
    }
}

fn drive(id: VolumeId, size: u32, state: VolumeState, created: &str) -> Volume {
    Volume {
        id,
        tenant: TenantId::from_plain(TENANT).unwrap(),
        name: String::new(),
        size: gib(size),
        charged: gib(size),
        state,
        created: at(created),
        updated: at(created),
        digests: Digests::NONE,
        meta: Map::new(),
        attributes: Map::new(),
        ..golden::drive()
    }
}

fn with(mut volume: Volume, fields: &BlockFields) -> BlockVolume {
    fields.put(&mut volume.attributes);
    volume.into()
}

fn blank() -> BlockVolume {
    let id = "128a2078-0de3-4ff2-bf9f-d315e91fe3bb".parse().unwrap();
    with(drive(id, 200, VolumeState::Unavailable, "2013-01-23T11:25:03Z"), &BlockFields::default())
}

fn copied() -> BlockVolume {
    let id = "d9f5479a-a9af-4e96-b418-0d9a602a8b03".parse().unwrap();
    let snapshot = Some("2ee9a7ed-48f3-481c-a20e-6c53bf08c067".to_owned());
    let fields = BlockFields { snapshot, ..BlockFields::default() };
    with(drive(id, 2, VolumeState::Available, "2013-01-21T14:32:27Z"), &fields)
}

fn plain(id: VolumeId) -> BlockVolume {
    with(drive(id, 1, VolumeState::Available, "2013-01-17T11:39:56Z"), &BlockFields::default())
}

fn created(spec: &VolumeSpec, source: Option<&VolumeSource>) -> Volume {
    let wish = spec.block.clone().unwrap_or_default();
    let mut fields = BlockFields { user: Some("360cdc8902e04d4482ab653082b5b5e4".to_owned()), ..wish };
    let mut made = if spec.kind == VolumeKind::Snapshot {
        let made = snapshot("64f0946c-2863-4392-afe3-94f3f600f5e8", "2013-01-30T19:15:22.014Z");
        Volume { state: VolumeState::CloningTarget, ..Volume::clone(&made.volume) }
    } else {
        let id = "b6f6b5fb-ba09-44c9-a263-b4acbdbf1d38".parse().unwrap();
        drive(id, 1, VolumeState::Creating, "2013-01-30T13:38:50.411Z")
    };
    match source {
        Some(VolumeSource::Drive { id, .. }) if spec.kind == VolumeKind::Snapshot => made.source = Some(id.to_string()),
        Some(VolumeSource::Drive { id, .. }) => fields.volume = Some(id.to_string()),
        Some(VolumeSource::Snapshot(id)) => (fields.snapshot, made.size) = (Some(id.to_string()), gib(9)),
        Some(VolumeSource::Image { id, .. }) => {
            fields.image = map(json!({"image_id": id.to_string()}));
            fields.bootable = true;
        }
        None => {}
    }
    fields.put(&mut made.attributes);
    Volume { name: spec.name.clone(), meta: spec.meta.clone(), size: spec.size.unwrap_or(made.size), ..made }
}

fn named(which: BackupRef) -> Backup {
    let backup = backup(1, "2013-01-31T12:43:30Z");
    match which {
        BackupRef::Id(id) => Backup { id, ..backup },
        BackupRef::Number(number) => Backup { number, ..backup },
    }
}

fn begun(new: &NewBackup) -> Backup {
    Backup {
        number: 3,
        volume: new.volume,
        snapshot: new.snapshot,
        name: new.name.clone(),
        description: new.description.clone(),
        container: None,
        zone: None,
        objects: None,
        state: BackupState::Creating,
        ..backup(2, "2013-01-31T13:09:42.457Z")
    }
}

fn quota(tenant: TenantId, quota: Quota) -> BlockOutcome {
    BlockOutcome::Quota {
        tenant,
        quota,
        usage: Usage { volumes: 3, bytes: gib(207), backups: 2, backup_bytes: gib(30), snapshots: 1 },
    }
}

fn limits() -> Quota {
    Quota { volumes: Some(10), bytes: Some(gib(1000)), ..Quota::default() }
}

fn changed(change: QuotaChange) -> Quota {
    let old = limits();
    Quota {
        volumes: change.volumes.unwrap_or(old.volumes),
        bytes: change.bytes.unwrap_or(old.bytes),
        backups: change.backups.flatten(),
        backup_bytes: change.backup_bytes.map(|most| most.unwrap_or(ByteCount::MAX)),
        snapshots: change.snapshots.flatten(),
        volume_bytes: change.volume_bytes.flatten(),
    }
}

fn at(text: &str) -> UnixTime {
    UnixTime(text.parse::<Timestamp>().unwrap().as_millisecond())
}

fn gib(count: u32) -> ByteCount {
    ByteCount::mib(count << 10)
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
