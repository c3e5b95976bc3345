//! Volumes, snapshots, backups and the rest as clients of each version see them.
//!
//! Version 1 tells exactly what HP's document shows; the later ones tell more, under other names.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::{Call, Places};
use super::view::{Element, Field, Link, Namespace};
use super::{Version, status};
use crate::domain::{
    AttachedServer, Attachment, Backup, BlockFields, BlockView, BlockVolume, ByteCount, Quota, Usage, Volume,
    VolumeState, VolumeType,
};

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
        (_, Shape::Short | Shape::Made) => vec![own, ATOM],
        (Version::V1, Shape::Full) => vec![own, ATOM, IMAGES],
        (Version::V2 | Version::V3, Shape::Full) => vec![own, ATOM, IMAGES, TENANTS],
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
    pub(super) fn volume<'t>(&self, told: &'t BlockVolume, shape: Shape) -> Element<'t> {
        let fields = match (self.version, shape) {
            (Version::V1, _) => volume_v1(told, shape),
            (Version::V2 | Version::V3, Shape::Short) => vec![
                ("id", id(told.volume.id.as_bytes())),
                ("links", self.links("volumes", &told.volume.id)),
                ("name", label(&told.volume)),
            ],
            (Version::V2 | Version::V3, Shape::Full | Shape::Made) => self.volume_v2(told, shape),
        };
        Element { name: "volume", namespaces: volume_namespaces(self.version, shape), fields: sorted(fields) }
    }

    fn volume_v2<'t>(&self, told: &'t BlockVolume, shape: Shape) -> Vec<(&'static str, Field<'t>)> {
        let volume: &Volume = &told.volume;
        let block = BlockView::of(volume);
        let mut fields = vec![
            ("attachments", Field::List(told.attachment.iter().map(|one| attachment_of(one, true)).collect())),
            ("availability_zone", word(block.zone().unwrap_or(BlockFields::ZONE))),
            ("bootable", word(if block.is_bootable() { "true" } else { "false" })),
            // Nothing is replicated here, and there are no groups.
            ("consistencygroup_id", words(None)),
            ("created_at", Field::Time(volume.created)),
            ("description", words(block.description())),
            ("encrypted", Field::Json(false.into())),
            ("id", id(volume.id.as_bytes())),
            ("links", self.links("volumes", &volume.id)),
            ("metadata", pairs_of(volume)),
            ("multiattach", Field::Json(false.into())),
            ("name", label(volume)),
            ("replication_status", words(None)),
            ("size", gib(volume.size)),
            ("snapshot_id", words(block.snapshot())),
            ("source_volid", words(block.volume())),
            ("status", word(status::of_volume(volume))),
            ("updated_at", Field::Time(volume.updated)),
            // Who made it by another API is not known, and clients want an id: that of whose it is.
            ("user_id", block.user().map_or_else(|| made(volume.tenant.plain()), word)),
            ("volume_type", words(block.volume_type())),
        ];
        // Version 2's document has it in the answer to a creation, and Cinder nowhere.
        if self.version == Version::V2 && shape == Shape::Made {
            let image = block.image().and_then(|image| image.get("image_id"));
            fields.push(("image_id", words(image.and_then(Value::as_str))));
        }
        if shape == Shape::Full {
            let migration = block.migration();
            fields.extend(migration.map(|migration| ("os-vol-mig-status-attr:migstat", word(migration))));
            fields.push(("os-vol-tenant-attr:tenant_id", made(volume.tenant.plain())));
            let image = block.image().map(|image| ("volume_image_metadata", Field::Pairs(Cow::Borrowed(image))));
            fields.extend(image);
        }
        fields
    }

    pub(super) fn snapshot<'t>(&self, snapshot: &'t Volume, shape: Shape) -> Element<'t> {
        let description = words(BlockView::of(snapshot).description());
        let mut fields = vec![
            ("created_at", Field::Time(snapshot.created)),
            ("id", id(snapshot.id.as_bytes())),
            ("size", gib(snapshot.size)),
            ("status", word(status::of_snapshot(snapshot))),
            ("volume_id", words(snapshot.source.as_deref())),
        ];
        if self.version == Version::V1 {
            fields.extend([("display_description", description), ("display_name", label(snapshot))]);
        } else {
            fields.extend([("description", description), ("name", label(snapshot))]);
        }
        if self.version != Version::V1 || !snapshot.meta.is_empty() {
            fields.push(("metadata", Field::Pairs(Cow::Borrowed(&snapshot.meta))));
        }
        if self.version != Version::V1 {
            fields.push(("updated_at", Field::Time(snapshot.updated)));
        }
        if shape == Shape::Full {
            let is_made = snapshot.state != VolumeState::CloningTarget;
            let progress = if is_made { "100%" } else { "0%" };
            fields.extend([
                ("os-extended-snapshot-attributes:progress", word(progress)),
                ("os-extended-snapshot-attributes:project_id", made(snapshot.tenant.plain())),
            ]);
        }
        Element { name: "snapshot", namespaces: snapshot_namespaces(shape), fields: sorted(fields) }
    }

    pub(super) fn backup<'t>(&self, backup: &'t Backup, shape: Shape) -> Element<'t> {
        let state = word(status::backup(backup.state));
        let fields = match (self.version, shape) {
            (Version::V1, Shape::Short) => vec![("id", Field::Number(Some(backup.number))), ("status", state)],
            (Version::V2 | Version::V3, Shape::Short | Shape::Made) => vec![
                ("id", id(backup.id.as_bytes())),
                ("links", self.links("backups", &backup.id)),
                ("name", words(backup.name.as_deref())),
            ],
            (Version::V1, Shape::Full | Shape::Made) | (_, Shape::Full) => {
                let objects = match self.version {
                    Version::V1 => backup.objects,
                    Version::V2 | Version::V3 => Some(backup.objects.unwrap_or_default()),
                };
                let mut fields = vec![
                    ("availability_zone", words(backup.zone.as_deref())),
                    ("container", words(backup.container.as_deref())),
                    ("created_at", Field::Time(backup.created)),
                    ("fail_reason", words(backup.reason.as_deref())),
                    ("object_count", Field::Number(objects)),
                    ("size", gib(backup.size)),
                    ("status", state),
                    ("volume_id", id(backup.volume.as_bytes())),
                ];
                fields.extend(self.backup_names(backup));
                fields
            }
        };
        Element { name: "backup", namespaces: backup_namespaces(), fields: sorted(fields) }
    }

    fn backup_names<'t>(&self, backup: &'t Backup) -> Vec<(&'static str, Field<'t>)> {
        let (name, description) = (words(backup.name.as_deref()), words(backup.description.as_deref()));
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
                // When a snapshot was made that may be gone by now is not known.
                ("data_timestamp", backup.snapshot.map_or(Field::Time(backup.created), |_| words(None))),
                ("description", description),
                ("has_dependent_backups", Field::Json(false.into())),
                ("id", id(backup.id.as_bytes())),
                ("is_incremental", Field::Json(false.into())),
                ("links", self.links("backups", &backup.id)),
                ("name", name),
                ("snapshot_id", backup.snapshot.map_or(words(None), |snapshot| id(snapshot.as_bytes()))),
                ("updated_at", Field::Time(backup.updated)),
            ],
        }
    }

    /// A restore that has begun.
    pub(super) fn restore<'t>(&self, backup: &Backup, volume: &'t BlockVolume) -> Element<'t> {
        let volume_id = id(volume.volume.id.as_bytes());
        let fields = match self.version {
            Version::V1 => vec![("backup_id", Field::Number(Some(backup.number))), ("volume_id", volume_id)],
            Version::V2 | Version::V3 => {
                vec![
                    ("backup_id", id(backup.id.as_bytes())),
                    ("volume_id", volume_id),
                    ("volume_name", word(&volume.volume.name)),
                ]
            }
        };
        Element { name: "restore", namespaces: backup_namespaces(), fields }
    }

    /// A server, of which nothing is known but what is attached to it.
    pub(super) fn server(&self, server: AttachedServer, shape: Shape) -> Element<'static> {
        let links = self.links("servers", &server.id);
        let mut fields = vec![("id", made(server.id.clone())), ("links", links), ("name", made(server.id))];
        if shape == Shape::Full {
            let volumes: Value = server.volumes.iter().map(|id| json!({"id": id.to_string()})).collect();
            fields.extend([
                ("os-extended-volumes:volumes_attached", Field::Json(volumes)),
                ("status", word(status::SERVER)),
                ("tenant_id", made(server.tenant.plain())),
            ]);
        }
        Element { name: "server", namespaces: Vec::new(), fields }
    }

    /// Where a thing is: under its version, and for ever.
    /// What the links of things have in common.
    pub(super) fn base(&self) -> String {
        format!("{}/{}/{}", self.places.control, self.version.segment(), self.call.param("tenant"))
    }

    fn links(&self, kind: &str, id: &dyn Display) -> Field<'static> {
        let (base, tenant) = (&self.places.control, self.call.param("tenant"));
        let version = self.version.segment();
        Field::Links(vec![
            Link { rel: "self", href: format!("{base}/{version}/{tenant}/{kind}/{id}") },
            Link { rel: "bookmark", href: format!("{base}/{tenant}/{kind}/{id}") },
        ])
    }
}

/// An attachment as the compute service tells it.
pub(super) fn volume_attachment(attachment: &Attachment) -> Element<'_> {
    let fields = vec![
        ("device", word(&attachment.device)),
        ("id", id(attachment.volume.as_bytes())),
        ("serverId", words(attachment.server.as_deref())),
        ("volumeId", id(attachment.volume.as_bytes())),
    ];
    Element { name: "volumeAttachment", namespaces: Vec::new(), fields }
}

/// A type of volumes.
pub(super) fn volume_type(one: &VolumeType) -> Element<'_> {
    let fields = vec![
        ("description", words(one.description.as_deref())),
        ("extra_specs", Field::Pairs(Cow::Owned(Map::new()))),
        ("id", word(&one.id)),
        ("is_public", Field::Json(true.into())),
        ("name", word(&one.name)),
    ];
    Element { name: "volume_type", namespaces: Vec::new(), fields }
}

/// The limits of a quota set by name; -1 is none.
pub(super) fn quota_limits(quota: &Quota) -> Vec<(&'static str, i64)> {
    let unlimited = |count: Option<u64>| count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
    let is_limit = |bytes: &ByteCount| *bytes < ByteCount::MAX;
    // Rounded down: what is said to fit does.
    let whole = |bytes: Option<ByteCount>| unlimited(bytes.map(|bytes| bytes.get() >> 30));
    vec![
        ("backup_gigabytes", whole(quota.backup_bytes.or(quota.bytes).filter(is_limit))),
        ("backups", unlimited(quota.backups)),
        ("gigabytes", whole(quota.bytes)),
        // There are none, and none can be made.
        ("groups", 0),
        ("per_volume_gigabytes", whole(quota.volume_bytes)),
        ("snapshots", unlimited(quota.snapshots)),
        ("volumes", unlimited(quota.volumes)),
    ]
}

/// What is used of each.
pub(super) fn quota_usage(usage: &Usage) -> [(&'static str, u64); 7] {
    [
        ("backup_gigabytes", usage.backup_bytes.gib_up()),
        ("backups", usage.backups),
        ("gigabytes", usage.bytes.gib_up()),
        ("groups", 0),
        // A limit of each volume, of which nothing is used.
        ("per_volume_gigabytes", 0),
        ("snapshots", usage.snapshots),
        ("volumes", usage.volumes),
    ]
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
    let used = quota_usage(usage).into_iter().filter_map(|(field, count)| {
        let name = match field {
            "backup_gigabytes" => "totalBackupGigabytesUsed",
            "backups" => "totalBackupsUsed",
            "gigabytes" => "totalGigabytesUsed",
            "snapshots" => "totalSnapshotsUsed",
            "volumes" => "totalVolumesUsed",
            _ => return None,
        };
        Some((name, i64::try_from(count).unwrap_or(i64::MAX)))
    });
    most.chain(used).collect()
}

fn volume_v1(told: &BlockVolume, shape: Shape) -> Vec<(&'static str, Field<'_>)> {
    let volume: &Volume = &told.volume;
    let block = BlockView::of(volume);
    let mut fields = vec![
        ("attachments", Field::List(told.attachment.iter().map(|one| attachment_of(one, false)).collect())),
        ("availability_zone", word(block.zone().unwrap_or(BlockFields::ZONE))),
        // A string, and none in XML.
        ("bootable", Field::Json(block.is_bootable().to_string().into())),
        ("created_at", Field::Time(volume.created)),
        ("display_description", words(block.description())),
        ("display_name", label(volume)),
        ("id", id(volume.id.as_bytes())),
        ("metadata", pairs_of(volume)),
        ("size", gib(volume.size)),
        ("snapshot_id", words(block.snapshot())),
        ("source_volid", words(block.volume())),
        ("status", word(status::of_volume(volume))),
        // Version 1 has this word for no type.
        ("volume_type", word(block.volume_type().unwrap_or("None"))),
    ];
    if let Some(image) = block.image().filter(|_| shape == Shape::Full) {
        fields.push(("volume_image_metadata", Field::Pairs(Cow::Borrowed(image))));
    }
    fields
}

/// The owner's pairs of a volume, and that it is for reading only, which clients look for among them.
fn pairs_of(volume: &Volume) -> Field<'_> {
    let mut pairs = Cow::Borrowed(&volume.meta);
    if BlockView::of(volume).is_read_only() && !pairs.contains_key("readonly") {
        pairs.to_mut().insert("readonly".to_owned(), "True".into());
    }
    Field::Pairs(pairs)
}

/// Where a volume is attached. Its id is the volume's: there is one at most.
fn attachment_of(attachment: &Attachment, is_long: bool) -> Element<'_> {
    let mut fields = vec![
        ("device", word(&attachment.device)),
        ("id", id(attachment.volume.as_bytes())),
        ("server_id", words(attachment.server.as_deref())),
        ("volume_id", id(attachment.volume.as_bytes())),
    ];
    if is_long {
        fields.extend([
            ("attached_at", Field::Time(attachment.created)),
            ("attachment_id", id(attachment.volume.as_bytes())),
            ("host_name", words(attachment.host.as_deref())),
        ]);
    }
    Element { name: "attachment", namespaces: Vec::new(), fields: sorted(fields) }
}

fn sorted<'t>(mut fields: Vec<(&'static str, Field<'t>)>) -> Vec<(&'static str, Field<'t>)> {
    fields.sort_by_key(|(name, _)| *name);
    fields
}

fn label(volume: &Volume) -> Field<'_> {
    words(Some(&*volume.name).filter(|name| !name.is_empty()))
}

fn words(text: Option<&str>) -> Field<'_> {
    Field::Text(text.map(Cow::Borrowed))
}

fn word(text: &str) -> Field<'_> {
    words(Some(text))
}

fn made(text: String) -> Field<'static> {
    Field::Text(Some(Cow::Owned(text)))
}

fn id(bytes: &[u8; 16]) -> Field<'static> {
    Field::Id(Uuid::from_bytes(*bytes))
}

fn gib(size: ByteCount) -> Field<'static> {
    Field::Number(Some(size.gib_up()))
}
