//! Volumes, snapshots, backups and the rest as clients of each version see them.
//!
//! Version 1 tells exactly what HP's document shows; the later ones tell more, under other names.

use std::fmt::Display;

use serde_json::{Map, Value, json};

use super::super::{Call, Places};
use super::body::in_gib;
use super::view::{Element, Field, Link, Namespace};
use super::{Version, status};
use crate::domain::{
    Attachment, Backup, BlockFields, BlockVolume, ByteCount, Quota, Usage, Volume, VolumeState, VolumeType,
};

/// The zone of what was made without one.
const ZONE: &str = "nova";

const ATOM: Namespace = ("xmlns:atom", "http://www.w3.org/2005/Atom");
const IMAGES: Namespace =
    ("xmlns:os-vol-image-meta", "http://docs.openstack.org/volume/ext/volume_image_metadata/api/v1");
const TENANTS: Namespace =
    ("xmlns:os-vol-tenant-attr", "http://docs.openstack.org/volume/ext/volume_tenant_attribute/api/v2");
const SNAPSHOTS: Namespace = (
    "xmlns:os-extended-snapshot-attributes",
    "http://docs.openstack.org/volume/ext/extended_snapshot_attributes/api/v1",
);
const BACKUPS: Namespace = ("xmlns:backups", "http://docs.openstack.org/volume/ext/backups/api/v1.1");

/// How much of a thing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// In a short list.
    Short,
    /// In a full list, or on its own.
    Full,
    /// As the answer to its making.
    Made,
}

/// What is needed to tell a thing to a caller.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) places: &'a Places,
    pub(super) version: Version,
}

/// The namespace of a version's own elements.
pub(super) const fn own_namespace(version: Version) -> Namespace {
    match version {
        Version::V1 => ("xmlns", "http://docs.openstack.org/volume/api/v1"),
        Version::V2 | Version::V3 => ("xmlns", "http://docs.openstack.org/api/openstack-block-storage/2.0/content"),
    }
}

/// What the root of volumes declares.
pub(super) fn volume_namespaces(version: Version, shape: Shape) -> Vec<Namespace> {
    let own = own_namespace(version);
    match (version, shape) {
        (_, Shape::Short) | (Version::V1, Shape::Made) => vec![own, ATOM],
        (Version::V1, Shape::Full) => vec![own, ATOM, IMAGES],
        (Version::V2 | Version::V3, _) => vec![own, ATOM, IMAGES, TENANTS],
    }
}

/// What the root of snapshots declares.
pub(super) fn snapshot_namespaces(shape: Shape) -> Vec<Namespace> {
    if shape == Shape::Full { vec![SNAPSHOTS] } else { Vec::new() }
}

/// What the root of backups declares.
pub(super) fn backup_namespaces() -> Vec<Namespace> {
    vec![BACKUPS]
}

impl Scene<'_> {
    pub(super) fn volume(&self, told: &BlockVolume, shape: Shape) -> Element {
        let fields = match (self.version, shape) {
            (Version::V1, _) => volume_v1(told, shape),
            (Version::V2 | Version::V3, Shape::Short) => vec![
                ("id", text(told.volume.id)),
                ("links", self.links("volumes", &told.volume.id.to_string())),
                ("name", label(&told.volume)),
            ],
            (Version::V2 | Version::V3, Shape::Full | Shape::Made) => self.volume_v2(told),
        };
        Element { name: "volume", namespaces: volume_namespaces(self.version, shape), fields: sorted(fields) }
    }

    fn volume_v2(&self, told: &BlockVolume) -> Vec<(&'static str, Field)> {
        let volume = &told.volume;
        let block = BlockFields::of(volume);
        let mut fields = vec![
            ("attachments", Field::List(told.attachment.iter().map(|one| attachment_of(one, true)).collect())),
            ("availability_zone", Field::Text(Some(zone(&block)))),
            ("bootable", Field::Text(Some(block.bootable.to_string()))),
            ("created_at", Field::Time(volume.created)),
            ("description", Field::Text(block.description)),
            ("encrypted", Field::Json(false.into())),
            ("id", text(volume.id)),
            ("links", self.links("volumes", &volume.id.to_string())),
            ("metadata", Field::Pairs(volume.meta.clone())),
            ("multiattach", Field::Json(false.into())),
            ("name", label(volume)),
            ("os-vol-tenant-attr:tenant_id", Field::Text(Some(volume.tenant.plain()))),
            ("size", gib(volume.size)),
            ("snapshot_id", Field::Text(block.snapshot)),
            ("source_volid", Field::Text(block.volume)),
            ("status", Field::Text(Some(status::volume(volume.state).to_owned()))),
            ("updated_at", Field::Time(volume.updated)),
            ("user_id", Field::Text(block.user)),
            ("volume_type", Field::Text(block.volume_type)),
        ];
        if self.version == Version::V2 {
            let image = block.image.get("image_id").and_then(Value::as_str).map(str::to_owned);
            fields.push(("image_id", Field::Text(image)));
        }
        if !block.image.is_empty() {
            fields.push(("volume_image_metadata", Field::Pairs(block.image)));
        }
        fields
    }

    pub(super) fn snapshot(&self, snapshot: &Volume, shape: Shape) -> Element {
        let description = Field::Text(BlockFields::of(snapshot).description);
        let mut fields = vec![
            ("created_at", Field::Time(snapshot.created)),
            ("id", text(snapshot.id)),
            ("size", gib(snapshot.size)),
            ("status", Field::Text(Some(status::snapshot(snapshot.state).to_owned()))),
            ("volume_id", Field::Text(snapshot.source.clone())),
        ];
        if self.version == Version::V1 {
            fields.extend([("display_description", description), ("display_name", label(snapshot))]);
        } else {
            fields.extend([("description", description), ("name", label(snapshot))]);
        }
        if self.version != Version::V1 || !snapshot.meta.is_empty() {
            fields.push(("metadata", Field::Pairs(snapshot.meta.clone())));
        }
        if self.version != Version::V1 {
            fields.push(("updated_at", Field::Time(snapshot.updated)));
        }
        if shape == Shape::Full {
            let is_made = snapshot.state != VolumeState::CloningTarget;
            let progress = if is_made { "100%" } else { "0%" };
            fields.extend([
                ("os-extended-snapshot-attributes:progress", Field::Text(Some(progress.to_owned()))),
                ("os-extended-snapshot-attributes:project_id", Field::Text(Some(snapshot.tenant.plain()))),
            ]);
        }
        Element { name: "snapshot", namespaces: snapshot_namespaces(shape), fields: sorted(fields) }
    }

    pub(super) fn backup(&self, backup: &Backup, shape: Shape) -> Element {
        let state = Field::Text(Some(status::backup(backup.state).to_owned()));
        let fields = match (self.version, shape) {
            (Version::V1, Shape::Short) => vec![("id", Field::Number(Some(backup.number))), ("status", state)],
            (Version::V2 | Version::V3, Shape::Short) => vec![
                ("id", text(backup.id)),
                ("links", self.links("backups", &backup.id.to_string())),
                ("name", Field::Text(backup.name.clone())),
            ],
            (_, Shape::Full | Shape::Made) => {
                let mut fields = vec![
                    ("availability_zone", Field::Text(backup.zone.clone())),
                    ("container", Field::Text(backup.container.clone())),
                    ("created_at", Field::Time(backup.created)),
                    ("fail_reason", Field::Text(backup.reason.clone())),
                    ("object_count", Field::Number(backup.objects)),
                    ("size", gib(backup.size)),
                    ("status", state),
                    ("volume_id", text(backup.volume)),
                ];
                fields.extend(self.backup_names(backup));
                fields
            }
        };
        Element { name: "backup", namespaces: backup_namespaces(), fields: sorted(fields) }
    }

    fn backup_names(&self, backup: &Backup) -> Vec<(&'static str, Field)> {
        let (name, description) = (Field::Text(backup.name.clone()), Field::Text(backup.description.clone()));
        match self.version {
            Version::V1 => {
                let mut fields = vec![
                    ("display_description", description),
                    ("display_name", name.clone()),
                    ("id", Field::Number(Some(backup.number))),
                ];
                // The HP document has `display_name` only, and `cinder` reads `name` only.
                if backup.name.is_some() {
                    fields.push(("name", name));
                }
                fields
            }
            Version::V2 | Version::V3 => vec![
                ("description", description),
                ("has_dependent_backups", Field::Json(false.into())),
                ("id", text(backup.id)),
                ("is_incremental", Field::Json(false.into())),
                ("links", self.links("backups", &backup.id.to_string())),
                ("name", name),
                ("snapshot_id", Field::Text(backup.snapshot.map(|id| id.to_string()))),
                ("updated_at", Field::Time(backup.updated)),
            ],
        }
    }

    /// A restore that has begun.
    pub(super) fn restore(&self, backup: &Backup, volume: &BlockVolume) -> Element {
        let volume_id = text(volume.volume.id);
        let fields = match self.version {
            Version::V1 => vec![("backup_id", Field::Number(Some(backup.number))), ("volume_id", volume_id)],
            Version::V2 | Version::V3 => {
                vec![("backup_id", text(backup.id)), ("volume_id", volume_id), ("volume_name", label(&volume.volume))]
            }
        };
        Element { name: "restore", namespaces: backup_namespaces(), fields }
    }

    /// A server, of which nothing is known but what is attached to it.
    pub(super) fn server(&self, attachments: &[Attachment]) -> Element {
        let id = self.call.param("server");
        let volumes: Value = attachments.iter().map(|one| json!({"id": one.volume.to_string()})).collect();
        let fields = vec![
            ("id", Field::Text(Some(id.to_owned()))),
            ("links", self.links("servers", id)),
            ("name", Field::Text(Some(id.to_owned()))),
            ("os-extended-volumes:volumes_attached", Field::Json(volumes)),
            ("tenant_id", Field::Text(Some(self.call.param("tenant").to_owned()))),
        ];
        Element { name: "server", namespaces: Vec::new(), fields }
    }

    /// Where a thing is: under its version, and for ever.
    fn links(&self, kind: &str, id: &str) -> Field {
        let (base, tenant) = (&self.places.control, self.call.param("tenant"));
        let version = self.version.segment();
        Field::Links(vec![
            Link { rel: "self", href: format!("{base}/{version}/{tenant}/{kind}/{id}") },
            Link { rel: "bookmark", href: format!("{base}/{tenant}/{kind}/{id}") },
        ])
    }
}

/// An attachment as the compute service tells it.
pub(super) fn volume_attachment(attachment: &Attachment) -> Element {
    let fields = vec![
        ("device", Field::Text(Some(attachment.device.clone()))),
        ("id", text(attachment.volume)),
        ("serverId", Field::Text(attachment.server.clone())),
        ("volumeId", text(attachment.volume)),
    ];
    Element { name: "volumeAttachment", namespaces: Vec::new(), fields }
}

/// A type of volumes.
pub(super) fn volume_type(one: &VolumeType) -> Element {
    let fields = vec![
        ("description", Field::Text(one.description.clone())),
        ("extra_specs", Field::Pairs(Map::new())),
        ("id", Field::Text(Some(one.id.clone()))),
        ("is_public", Field::Json(true.into())),
        ("name", Field::Text(Some(one.name.clone()))),
    ];
    Element { name: "volume_type", namespaces: Vec::new(), fields }
}

/// The limits of a quota set by name; -1 is none. Only volumes and their sizes are limited here.
pub(super) fn quota_limits(quota: &Quota) -> Vec<(&'static str, i64)> {
    let unlimited = |count: Option<u64>| count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
    vec![
        ("backup_gigabytes", -1),
        ("backups", -1),
        // Rounded down: what is said to fit does.
        ("gigabytes", unlimited(quota.bytes.map(|bytes| bytes.get() >> 30))),
        ("per_volume_gigabytes", -1),
        ("snapshots", -1),
        ("volumes", unlimited(quota.volumes)),
    ]
}

/// What is used of the limits that are.
pub(super) fn quota_usage(usage: &Usage) -> [(&'static str, u64); 2] {
    [("gigabytes", in_gib(usage.bytes)), ("volumes", usage.volumes)]
}

/// The absolute limits of a tenant, and what it uses of them.
pub(super) fn absolute_limits(quota: &Quota, usage: &Usage) -> Vec<(&'static str, i64)> {
    let name = |field: &str| match field {
        "backup_gigabytes" => Some("maxTotalBackupGigabytes"),
        "backups" => Some("maxTotalBackups"),
        "gigabytes" => Some("maxTotalVolumeGigabytes"),
        "snapshots" => Some("maxTotalSnapshots"),
        "volumes" => Some("maxTotalVolumes"),
        _ => None,
    };
    let most = quota_limits(quota).into_iter().filter_map(|(field, count)| Some((name(field)?, count)));
    let used = quota_usage(usage).into_iter().map(|(field, count)| {
        let name = if field == "volumes" { "totalVolumesUsed" } else { "totalGigabytesUsed" };
        (name, i64::try_from(count).unwrap_or(i64::MAX))
    });
    most.chain(used).collect()
}

fn volume_v1(told: &BlockVolume, shape: Shape) -> Vec<(&'static str, Field)> {
    let volume = &told.volume;
    let block = BlockFields::of(volume);
    // Version 1 has this word for no type.
    let volume_type = block.volume_type.clone().unwrap_or_else(|| "None".to_owned());
    let mut fields = vec![
        ("attachments", Field::List(told.attachment.iter().map(|one| attachment_of(one, false)).collect())),
        ("availability_zone", Field::Text(Some(zone(&block)))),
        // A string, and none in XML.
        ("bootable", Field::Json(block.bootable.to_string().into())),
        ("created_at", Field::Time(volume.created)),
        ("display_description", Field::Text(block.description)),
        ("display_name", label(volume)),
        ("id", text(volume.id)),
        ("metadata", Field::Pairs(volume.meta.clone())),
        ("size", gib(volume.size)),
        ("snapshot_id", Field::Text(block.snapshot)),
        ("source_volid", Field::Text(block.volume)),
        ("status", Field::Text(Some(status::volume(volume.state).to_owned()))),
        ("volume_type", Field::Text(Some(volume_type))),
    ];
    if shape == Shape::Full && !block.image.is_empty() {
        fields.push(("volume_image_metadata", Field::Pairs(block.image)));
    }
    fields
}

/// Where a volume is attached. Its id is the volume's: there is one at most.
fn attachment_of(attachment: &Attachment, is_long: bool) -> Element {
    let mut fields = vec![
        ("device", Field::Text(Some(attachment.device.clone()))),
        ("id", text(attachment.volume)),
        ("server_id", Field::Text(attachment.server.clone())),
        ("volume_id", text(attachment.volume)),
    ];
    if is_long {
        fields.extend([
            ("attached_at", Field::Time(attachment.created)),
            ("attachment_id", text(attachment.volume)),
            ("host_name", Field::Text(attachment.host.clone())),
        ]);
    }
    Element { name: "attachment", namespaces: Vec::new(), fields: sorted(fields) }
}

fn sorted(mut fields: Vec<(&'static str, Field)>) -> Vec<(&'static str, Field)> {
    fields.sort_by_key(|(name, _)| *name);
    fields
}

fn zone(block: &BlockFields) -> String {
    block.zone.clone().unwrap_or_else(|| ZONE.to_owned())
}

fn label(volume: &Volume) -> Field {
    Field::Text(Some(volume.name.clone()).filter(|name| !name.is_empty()))
}

fn text(id: impl Display) -> Field {
    Field::Text(Some(id.to_string()))
}

fn gib(size: ByteCount) -> Field {
    Field::Number(Some(in_gib(size)))
}
