//! Outcomes into replies.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::{Call, Places, Reply, bare, reply};
use super::decode::DEFAULT_CLASS;
use super::fault::fault;
use super::objects::{
    Scene, Shape, absolute_limits, backup_namespaces, quota_limits, quota_usage, snapshot_namespaces,
    volume_attachment, volume_namespaces, volume_type,
};
use super::view::{Document, Element, Namespace, joined, pairs_node, plain};
use super::xml::Node;
use super::{Acted, Format, Op, OpenOp, Version, Wish, discovery, listing, minor};
use crate::domain::{
    AttachedServer, BlockFields, BlockOutcome, BlockVolume, Fault, FaultKind, Outcome, Paged, Quota, TenantId, Usage,
    VolumeType,
};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, wish: &Wish, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
    let scene = Scene { call, places, version: Version::of(call.path) };
    let reply = match (op, outcome) {
        (Op::Extensions, Outcome::Discovered) => many("extensions", Vec::new(), Vec::new()).reply(call, StatusCode::OK),
        (op, Outcome::Block(outcome)) => block(op, wish, &scene, outcome)?,
        (op, outcome) => volume(op, &scene, outcome)?,
    };
    Some(minor::versioned(call, reply))
}

/// The same, where the operation is open to anyone.
pub(super) fn encode_open(op: OpenOp, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
    let Outcome::Discovered = outcome else { return None };
    Some(match op {
        OpenOp::Versions => discovery::every(call, places),
        OpenOp::Version => minor::versioned(call, discovery::one(call, Version::of(call.path), places)),
    })
}

/// What came of work on volumes and snapshots.
fn volume(op: Op, scene: &Scene, outcome: &Outcome) -> Option<Reply> {
    let call = scene.call;
    let told = |document: Document| document.reply(call, StatusCode::OK);
    Some(match (op, outcome) {
        (Op::VolumesDetail, Outcome::Page(page)) if Format::of(call) == Format::Json => detailed(scene, page),
        (Op::Volumes | Op::VolumesDetail | Op::Snapshots | Op::SnapshotsDetail, Outcome::Page(page)) => {
            told(volumes(op, scene, page))
        }
        (Op::Volume, Outcome::Volume(volume)) => told(Document::One(scene.volume(volume, Shape::Full))),
        (Op::UpdateVolume, Outcome::Volume(volume)) => {
            told(Document::One(scene.volume(volume, changed(scene.version))))
        }
        (Op::Snapshot, Outcome::Volume(snapshot)) => told(Document::One(scene.snapshot(&snapshot.volume, Shape::Full))),
        (Op::UpdateSnapshot, Outcome::Volume(snapshot)) => {
            told(Document::One(scene.snapshot(&snapshot.volume, changed(scene.version))))
        }
        (Op::CreateVolume, Outcome::Created(volumes)) => {
            let volume = volumes.first()?.clone().into();
            Document::One(scene.volume(&volume, Shape::Made)).reply(call, made(scene.version))
        }
        (Op::CreateSnapshot, Outcome::Created(snapshots)) => {
            Document::One(scene.snapshot(snapshots.first()?, Shape::Made)).reply(call, made(scene.version))
        }
        (Op::Metadata(_) | Op::MergeMetadata(_) | Op::ReplaceMetadata(_), Outcome::Volume(volume)) => {
            told(metadata(&volume.volume.meta))
        }
        (Op::MetadataKey(_) | Op::SetMetadataKey(_), Outcome::Volume(volume)) => one_pair(call, &volume.volume.meta),
        (Op::RemoveMetadataKey(_), Outcome::Volume(_)) => bare(StatusCode::OK),
        (Op::DeleteVolume | Op::DeleteSnapshot, Outcome::Removed) => bare(StatusCode::ACCEPTED),
        _ => return None,
    })
}

/// What came of the rest.
fn block(op: Op, wish: &Wish, scene: &Scene, outcome: &BlockOutcome) -> Option<Reply> {
    let call = scene.call;
    let told = |document: Document| document.reply(call, StatusCode::OK);
    Some(match (op, outcome) {
        (Op::DeleteBackup | Op::Detach, BlockOutcome::Done) => bare(StatusCode::ACCEPTED),
        (Op::Backups | Op::BackupsDetail, BlockOutcome::Backups(page)) => {
            let shape = if op == Op::Backups { Shape::Short } else { Shape::Full };
            let items = page.items.iter().map(|backup| scene.backup(backup, shape)).collect();
            let last = page.items.last().map(|backup| backup.id.to_string());
            told(paged(scene, ("backups", "backups_links"), backup_namespaces(), items, last.filter(|_| page.has_more)))
        }
        (Op::Backup, BlockOutcome::Backup(backup)) => told(Document::One(scene.backup(backup, Shape::Full))),
        (Op::CreateBackup, BlockOutcome::Backup(backup)) => {
            Document::One(scene.backup(backup, Shape::Made)).reply(call, made(scene.version))
        }
        (Op::Restore, BlockOutcome::Restoring { backup, volume }) => {
            Document::One(scene.restore(backup, volume)).reply(call, made(scene.version))
        }
        (Op::Types, BlockOutcome::Types(types)) => {
            let (types, has_more) = match wish.part.of(types, |one| &one.id) {
                Ok(part) => part,
                Err(unknown) => return Some(fault(call, &unknown)),
            };
            let last = types.last().map(|one| one.id.clone()).filter(|_| has_more);
            let items = types.iter().map(volume_type).collect();
            told(paged(scene, ("volume_types", "volume_type_links"), Vec::new(), items, last))
        }
        (Op::Type, BlockOutcome::Types(types)) => one_type(call, types),
        (Op::Zones, BlockOutcome::Zones(zones)) => told(availability(zones)),
        (Op::Limits, BlockOutcome::Quota { quota, usage, .. }) => told(limits(quota, usage)),
        (Op::Quota | Op::SetQuota, BlockOutcome::Quota { tenant, quota, usage }) => {
            let used = wish.usage.then(|| quota_usage(usage));
            told(quota_set("quota_set", Some(&tenant.plain()), quota, used.as_ref().map(|used| &used[..])))
        }
        (Op::ResetQuota, BlockOutcome::Done) => bare(StatusCode::OK),
        (Op::DefaultQuota, BlockOutcome::DefaultQuota(quota)) => {
            told(quota_set("quota_set", Some(call.param("target")), quota, None))
        }
        (Op::QuotaClass, BlockOutcome::DefaultQuota(quota)) => {
            told(quota_set("quota_class_set", Some(DEFAULT_CLASS), quota, None))
        }
        (Op::SetQuotaClass, BlockOutcome::DefaultQuota(quota)) => told(quota_set("quota_class_set", None, quota, None)),
        (Op::Servers | Op::ServersDetail, BlockOutcome::Servers(page)) => {
            let shape = if op == Op::Servers { Shape::Short } else { Shape::Full };
            let items = page.items.iter().map(|server| scene.server(server.clone(), shape)).collect();
            let last = page.items.last().map(|server| server.id.clone()).filter(|_| page.has_more);
            told(paged(scene, ("servers", "servers_links"), Vec::new(), items, last))
        }
        (Op::Server, BlockOutcome::Attachments(attachments)) => {
            let server = AttachedServer {
                id: call.param("server").to_owned(),
                tenant: TenantId::from_plain(call.param("tenant"))?,
                volumes: attachments.iter().map(|one| one.volume).collect(),
            };
            told(Document::One(scene.server(server, Shape::Full)))
        }
        (Op::Attachments, BlockOutcome::Attachments(attachments)) => {
            let (attachments, _) = match wish.part.of(attachments, |one| &one.device) {
                Ok(part) => part,
                Err(unknown) => return Some(fault(call, &unknown)),
            };
            told(many("volumeAttachments", Vec::new(), attachments.iter().map(volume_attachment).collect()))
        }
        (Op::Attach | Op::Attachment, BlockOutcome::Attachment(attachment)) => {
            told(Document::One(volume_attachment(attachment)))
        }
        _ => return None,
    })
}

/// How what was changed is told. The later versions tell it as they tell what was made.
const fn changed(version: Version) -> Shape {
    match version {
        Version::V1 => Shape::Full,
        Version::V2 | Version::V3 => Shape::Made,
    }
}

/// The status of what was made. Version 1 has it as done, the later ones as begun.
const fn made(version: Version) -> StatusCode {
    match version {
        Version::V1 => StatusCode::OK,
        Version::V2 | Version::V3 => StatusCode::ACCEPTED,
    }
}

fn volumes<'a>(op: Op, scene: &Scene, page: &'a Paged<BlockVolume>) -> Document<'a> {
    let last = page.items.last().map(|one| one.volume.id.to_string()).filter(|_| page.has_more);
    let shape = if matches!(op, Op::Volumes | Op::Snapshots) { Shape::Short } else { Shape::Full };
    if matches!(op, Op::Volumes | Op::VolumesDetail) {
        let items = page.items.iter().map(|one| scene.volume(one, shape)).collect();
        paged(scene, ("volumes", "volumes_links"), volume_namespaces(scene.version, shape), items, last)
    } else {
        let items = page.items.iter().map(|one| scene.snapshot(&one.volume, shape)).collect();
        paged(scene, ("snapshots", "snapshots_links"), snapshot_namespaces(shape), items, last)
    }
}

/// A page of volumes in JSON. What is told of each is kept with it: this is what clients poll.
fn detailed(scene: &Scene, page: &Paged<BlockVolume>) -> Reply {
    let key = scene.base();
    let told = |one| serde_json::to_string(&scene.volume(one, Shape::Full)).expect("text, numbers and maps of them");
    // Attachments have no part in a volume's revision.
    let items = page.items.iter().map(|one| match one.attachment {
        None => one.volume.told(&key, || told(one)),
        Some(_) => Cow::Owned(told(one)),
    });
    let last = page.items.last().map(|one| one.volume.id.to_string()).filter(|_| page.has_more);
    let next = next_of(scene, "volumes_links", last);
    reply(StatusCode::OK, "application/json", joined("volumes", items, next))
}

/// A page of a list.
fn paged<'a>(
    scene: &Scene,
    (name, links): (&'static str, &'static str),
    namespaces: Vec<Namespace>,
    items: Vec<Element<'a>>,
    last: Option<String>,
) -> Document<'a> {
    Document::Many { name, namespaces, items, next: next_of(scene, links, last) }
}

/// The link to the page behind the thing with this id. Version 1 knows none; its clients ask by marker.
fn next_of(scene: &Scene, links: &'static str, last: Option<String>) -> Option<(&'static str, String)> {
    let last = last.filter(|_| scene.version != Version::V1);
    last.map(|last| (links, listing::next(scene.call, scene.places, &last)))
}

fn many<'a>(name: &'static str, namespaces: Vec<Namespace>, items: Vec<Element<'a>>) -> Document<'a> {
    Document::Many { name, namespaces, items, next: None }
}

/// What an action on a volume is answered with.
pub(super) fn acted(acted: Acted, call: &Call, outcome: &Outcome) -> Option<Reply> {
    let reply = match (acted, outcome) {
        (Acted::Shown, Outcome::Volume(told)) => {
            metadata(&BlockFields::of(&told.volume).image).reply(call, StatusCode::OK)
        }
        (Acted::Done, Outcome::Volume(_)) => bare(StatusCode::OK),
        (Acted::Begun, Outcome::Volume(_) | Outcome::Removed | Outcome::Block(BlockOutcome::Done)) => {
            bare(StatusCode::ACCEPTED)
        }
        _ => return None,
    };
    Some(minor::versioned(call, reply))
}

fn metadata(pairs: &Map<String, Value>) -> Document<'static> {
    Document::Made { json: json!({"metadata": pairs}), xml: pairs_node("metadata", pairs) }
}

fn one_pair(call: &Call, pairs: &Map<String, Value>) -> Reply {
    let key = call.param("key");
    let Some(value) = pairs.get(key) else {
        let told = format!("Metadata item was not found: there is no key {key:?}.");
        return fault(call, &Fault::new(FaultKind::NotFound, told));
    };
    let xml = Node::new("meta").with("key", key).saying(plain(value));
    Document::Made { json: json!({"meta": {key: value}}), xml }.reply(call, StatusCode::OK)
}

/// A type by id or name, or the default one.
fn one_type(call: &Call, types: &[VolumeType]) -> Reply {
    let id = call.param("id");
    let named = types.iter().find(|one| one.id == id || one.name == id);
    let Some(one) = named.or_else(|| types.first().filter(|_| id == "default")) else {
        return fault(call, &Fault::new(FaultKind::NotFound, format!("Volume type {id} could not be found.")));
    };
    Document::One(volume_type(one)).reply(call, StatusCode::OK)
}

fn availability(zones: &[String]) -> Document<'static> {
    let told = |zone: &String| json!({"zoneName": zone, "zoneState": {"available": true}});
    let node = |zone: &String| {
        Node::new("availabilityZone").with("name", zone).holding([Node::new("zoneState").with("available", "True")])
    };
    Document::Made {
        json: json!({"availabilityZoneInfo": zones.iter().map(told).collect::<Value>()}),
        xml: Node::new("availabilityZones").holding(zones.iter().map(node)),
    }
}

fn limits(quota: &Quota, usage: &Usage) -> Document<'static> {
    let counts = absolute_limits(quota, usage);
    let absolute: Map<String, Value> =
        counts.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect();
    let nodes =
        counts.iter().map(|(name, count)| Node::new("limit").with("name", *name).with("value", count.to_string()));
    Document::Made {
        json: json!({"limits": {"absolute": absolute, "rate": []}}),
        xml: Node::new("limits").holding([Node::new("rates"), Node::new("absolute").holding(nodes)]),
    }
}

/// Limits of a tenant or class, which Cinder does not name where a class was changed; with `used`, what is used of each.
fn quota_set(name: &'static str, id: Option<&str>, quota: &Quota, used: Option<&[(&str, u64)]>) -> Document<'static> {
    let mut fields: Map<String, Value> = id.map(|id| ("id".to_owned(), id.into())).into_iter().collect();
    let mut node = Node::new(name);
    if let Some(id) = id {
        node = node.with("id", id);
    }
    for (field, limit) in quota_limits(quota) {
        match used.map(|used| used.iter().find(|(of, _)| *of == field)) {
            None => {
                fields.insert(field.to_owned(), limit.into());
                node.children.push(Node::new(field).saying(limit.to_string()));
            }
            Some(Some((_, used))) => {
                fields.insert(field.to_owned(), json!({"limit": limit, "in_use": used, "reserved": 0}));
                let counted = Node::new(field).with("limit", limit.to_string()).with("in_use", used.to_string());
                node.children.push(counted.with("reserved", "0"));
            }
            // Of what is not counted no use is told.
            Some(None) => {}
        }
    }
    Document::Made { json: json!({name: fields}), xml: node }
}
