//! OpenStack Block Storage, versions 1, 2 and 3, in JSON and XML; and of Compute the attachments of volumes.
//!
//! Follows HP's published document of version 1 and the one of version 2 for the creation of volumes, and what clients
//! of these versions send. A volume here is a drive; sizes are in GiB, and one that is no multiple is rounded up.
//!
//! - The three versions share their endpoints; the path tells which is spoken ([`Version::of`]).
//! - Both formats are read into the same fields and written from the same view, so that they cannot disagree. The
//!   suffix `.json` or `.xml` of a path wins over `Accept` ([`without_suffix`]).
//! - The tenant in the path must be the caller's; an administrator may name another, and then acts in that one.

mod body;
mod decode;
mod discovery;
mod encode;
mod fault;
#[cfg(test)]
mod fixture;
mod listing;
mod minor;
mod objects;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod xml;

use http::{HeaderMap, Method, header};

use super::{
    Anonymous, Answer, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Guard, KnownOperation, OpenOperation,
    Operation, Places, Reply, Route, Side, Work, keystone, lies_in,
};
use crate::domain::{Fault, Outcome, Principal};
use listing::Part;

#[cfg(test)]
pub(super) use fixture::{principal as fixture_principal, told as fixture_outcome};

pub(super) static DIALECT: Dialect = Dialect {
    name: "openstack",
    routes: ROUTES,
    has_path,
    fault: fault::fault,
    challenge: keystone,
    request_id_fields,
};

/// What every path begins with, beside the list of versions at `/`.
const BASES: [&str; 4] = ["/v1", "/v2", "/v3", "/v2.1"];

/// The most bytes of a body. It bounds what a caller can make us hold: parsed, JSON is up to a dozen times as large.
const MAX_BODY: usize = 64 << 10;

/// What an endpoint does that is open to anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenOp {
    Versions,
    Version,
}

/// What an endpoint of known callers does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Extensions,
    Volumes,
    VolumesDetail,
    Volume,
    CreateVolume,
    UpdateVolume,
    DeleteVolume,
    ActVolume,
    Snapshots,
    SnapshotsDetail,
    Snapshot,
    CreateSnapshot,
    UpdateSnapshot,
    DeleteSnapshot,
    ActSnapshot,
    Metadata(Kind),
    MergeMetadata(Kind),
    ReplaceMetadata(Kind),
    MetadataKey(Kind),
    SetMetadataKey(Kind),
    RemoveMetadataKey(Kind),
    Backups,
    BackupsDetail,
    Backup,
    CreateBackup,
    DeleteBackup,
    ActBackup,
    Restore,
    Types,
    Type,
    Zones,
    Limits,
    Quota,
    SetQuota,
    ResetQuota,
    DefaultQuota,
    QuotaClass,
    SetQuotaClass,
    Servers,
    ServersDetail,
    Server,
    Attachments,
    Attach,
    Attachment,
    Detach,
}

/// How an action on a volume is answered. The body names the action, and is read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acted {
    /// With the image metadata.
    Shown,
    /// As done.
    Done,
    /// As begun.
    Begun,
}

impl Operation for OpenOp {
    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::encode_open(*self, call, outcome, places)
    }
}

impl OpenOperation for OpenOp {
    fn decode(&'static self, _: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Discover, Answer::of(self)))
    }
}

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Volumes | Self::VolumesDetail => listing::VOLUMES,
            Self::Snapshots | Self::SnapshotsDetail => listing::SNAPSHOTS,
            Self::Backups | Self::BackupsDetail => listing::BACKUPS,
            Self::DeleteVolume => &["cascade", "force"],
            Self::Types => &["all_tenants", "is_public", "limit", "marker", "offset"],
            Self::Limits => &["project_id", "reserved", "tenant_id"],
            Self::Quota => &["usage"],
            Self::Servers | Self::ServersDetail => {
                &["all_projects", "all_tenants", "deleted", "limit", "marker", "project_id", "status", "tenant_id"]
            }
            Self::Attachments => &["limit", "offset"],
            _ => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        Asked { op: *self, wish: Wish::default() }.encode(call, outcome, places)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        minor::check(call)?;
        let (work, manner) = decode::decode(*self, call, caller, body)?;
        let answer = match manner {
            Manner::Usual => Answer::of(self),
            Manner::Acted(acted) => Answer::of(acted),
            Manner::Asked(wish) => Answer::asked(Asked { op: *self, wish }),
        };
        Ok((work, answer))
    }
}

/// How a request is to be answered.
#[derive(Debug)]
enum Manner {
    /// As its operation always is.
    Usual,
    /// As its body says.
    Acted(&'static Acted),
    /// As its query says.
    Asked(Wish),
}

/// What a query says of the reply.
#[derive(Debug, Default)]
struct Wish {
    /// Which part of a list that is known whole.
    part: Part,
    /// With a quota, what is used of it.
    usage: bool,
}

/// An operation with what the query says of its reply.
#[derive(Debug)]
struct Asked {
    op: Op,
    wish: Wish,
}

impl Operation for Asked {
    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::encode(self.op, &self.wish, call, outcome, places)
    }
}

impl Operation for Acted {
    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode::acted(*self, call, outcome)
    }
}

/// What has metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Volume,
    Snapshot,
}

/// The version that a path speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
    V3,
}

impl Version {
    /// That of a path. Compute's 2.1 is told as its 2 is.
    fn of(path: &str) -> Self {
        if path.starts_with("/v1") {
            Self::V1
        } else if path.starts_with("/v2") {
            Self::V2
        } else {
            Self::V3
        }
    }

    /// The first segment of its paths.
    const fn segment(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }
}

/// How a reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Xml,
}

impl Format {
    /// What a call wants: what its path says, else what it accepts most, else JSON.
    fn of(call: &Call) -> Self {
        without_suffix(call.path).1.unwrap_or_else(|| Self::accepted(call.headers))
    }

    fn accepted(headers: &HeaderMap) -> Self {
        let (mut most, mut best) = (0.0_f32, Self::Json);
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/json" | "application/*" | "*/*" | "application/vnd.openstack.volume+json" => Self::Json,
                "application/xml" | "text/xml" | "application/vnd.openstack.volume+xml" => Self::Xml,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.parse().ok());
            if let Some(weight) = weight.filter(|weight| *weight > most) {
                (most, best) = (weight, format);
            }
        }
        best
    }
}

/// Whether an unknown path is answered as this API does.
fn has_path(path: &str) -> bool {
    BASES.into_iter().any(|base| lies_in(path, base))
}

/// A path without the suffix that names a format, and that format.
pub(super) fn without_suffix(path: &str) -> (&str, Option<Format>) {
    if has_path(path) {
        for (suffix, format) in [(".json", Format::Json), (".xml", Format::Xml)] {
            if let Some(rest) = path.strip_suffix(suffix).filter(|rest| !rest.ends_with('/')) {
                return (rest, Some(format));
            }
        }
    }
    (path, None)
}

/// The header fields in which a reply names its request, as clients of that version look for it.
fn request_id_fields(path: &str) -> &'static [&'static str] {
    match Version::of(path) {
        Version::V1 => &["x-compute-request-id"],
        Version::V2 | Version::V3 => &["x-compute-request-id", "x-openstack-request-id"],
    }
}

macro_rules! routes {
    (
        versions: [$($version:literal),+];
        block: { $($path:literal, $allow:literal, [$($endpoint:expr),+];)+ }
        compute: { $($server:literal, $takes:literal, [$($call:expr),+];)+ }
    ) => {
        &[
            Route {
                pattern: "/",
                allow: "GET, HEAD",
                endpoints: &[open(&OpenOp::Versions, "the versions of block storage that are spoken")],
            },
            $(Route {
                pattern: $version,
                allow: "GET, HEAD",
                endpoints: &[open(&OpenOp::Version, "one version of block storage")],
            },)+
            $(
                Route { pattern: concat!("/v1/{tenant}", $path), allow: $allow, endpoints: &[$($endpoint),+] },
                Route { pattern: concat!("/v2/{tenant}", $path), allow: $allow, endpoints: &[$($endpoint),+] },
                Route { pattern: concat!("/v3/{tenant}", $path), allow: $allow, endpoints: &[$($endpoint),+] },
            )+
            $(
                Route { pattern: concat!("/v2/{tenant}", $server), allow: $takes, endpoints: &[$($call),+] },
                Route { pattern: concat!("/v2.1/{tenant}", $server), allow: $takes, endpoints: &[$($call),+] },
            )+
        ]
    };
}

static ROUTES: &[Route] = routes! {
    versions: ["/v1", "/v2", "/v3"];
    block: {
        "/extensions", "GET, HEAD", [read(&Op::Extensions, "the extensions of block storage: none")];
        "/volumes", "GET, HEAD, POST", [
            read(&Op::Volumes, "the volumes, in short"),
            write(Method::POST, &Op::CreateVolume, "makes a volume, blank or from a snapshot, volume or image")
        ];
        "/volumes/detail", "GET, HEAD", [read(&Op::VolumesDetail, "the volumes, in full")];
        "/volumes/{id}", "GET, HEAD, PUT, DELETE", [
            read(&Op::Volume, "one volume"),
            write(Method::PUT, &Op::UpdateVolume, "changes a volume's name, description or metadata"),
            remove(&Op::DeleteVolume, "removes a volume")
        ];
        "/volumes/{id}/action", "POST", [write(Method::POST, &Op::ActVolume, "os-extend, os-reset_status, ...")];
        "/volumes/{id}/metadata", "GET, HEAD, POST, PUT", [
            read(&Op::Metadata(Kind::Volume), "the metadata of a volume"),
            write(Method::POST, &Op::MergeMetadata(Kind::Volume), "adds to the metadata of a volume"),
            write(Method::PUT, &Op::ReplaceMetadata(Kind::Volume), "sets the metadata of a volume")
        ];
        "/volumes/{id}/metadata/{key}", "GET, HEAD, PUT, DELETE", [
            read(&Op::MetadataKey(Kind::Volume), "one value of a volume's metadata"),
            write(Method::PUT, &Op::SetMetadataKey(Kind::Volume), "sets one value of a volume's metadata"),
            remove(&Op::RemoveMetadataKey(Kind::Volume), "removes one value of a volume's metadata")
        ];
        "/snapshots", "GET, HEAD, POST", [
            read(&Op::Snapshots, "the snapshots, in short"),
            write(Method::POST, &Op::CreateSnapshot, "makes a snapshot of a volume")
        ];
        "/snapshots/detail", "GET, HEAD", [read(&Op::SnapshotsDetail, "the snapshots, in full")];
        "/snapshots/{id}", "GET, HEAD, PUT, DELETE", [
            read(&Op::Snapshot, "one snapshot"),
            write(Method::PUT, &Op::UpdateSnapshot, "changes a snapshot's name or description"),
            remove(&Op::DeleteSnapshot, "removes a snapshot")
        ];
        "/snapshots/{id}/action", "POST", [write(Method::POST, &Op::ActSnapshot, "os-reset_status, os-force_delete")];
        "/snapshots/{id}/metadata", "GET, HEAD, POST, PUT", [
            read(&Op::Metadata(Kind::Snapshot), "the metadata of a snapshot"),
            write(Method::POST, &Op::MergeMetadata(Kind::Snapshot), "adds to the metadata of a snapshot"),
            write(Method::PUT, &Op::ReplaceMetadata(Kind::Snapshot), "sets the metadata of a snapshot")
        ];
        "/snapshots/{id}/metadata/{key}", "GET, HEAD, PUT, DELETE", [
            read(&Op::MetadataKey(Kind::Snapshot), "one value of a snapshot's metadata"),
            write(Method::PUT, &Op::SetMetadataKey(Kind::Snapshot), "sets one value of a snapshot's metadata"),
            remove(&Op::RemoveMetadataKey(Kind::Snapshot), "removes one value of a snapshot's metadata")
        ];
        "/backups", "GET, HEAD, POST", [
            read(&Op::Backups, "the backups, in short"),
            write(Method::POST, &Op::CreateBackup, "makes a backup of a volume")
        ];
        "/backups/detail", "GET, HEAD", [read(&Op::BackupsDetail, "the backups, in full")];
        "/backups/{id}", "GET, HEAD, DELETE", [
            read(&Op::Backup, "one backup"),
            remove(&Op::DeleteBackup, "removes a backup")
        ];
        "/backups/{id}/action", "POST", [write(Method::POST, &Op::ActBackup, "os-reset_status, os-force_delete")];
        "/backups/{id}/restore", "POST", [write(Method::POST, &Op::Restore, "writes a backup into a volume")];
        "/types", "GET, HEAD", [read(&Op::Types, "the types of volumes")];
        "/types/{id}", "GET, HEAD", [read(&Op::Type, "one type of volumes")];
        "/os-availability-zone", "GET, HEAD", [read(&Op::Zones, "the availability zones")];
        "/limits", "GET, HEAD", [read(&Op::Limits, "what the tenant may hold, and what it holds")];
        "/os-quota-sets/{target}", "GET, HEAD, PUT, DELETE", [
            read(&Op::Quota, "what a tenant may hold"),
            write(Method::PUT, &Op::SetQuota, "sets what a tenant may hold"),
            remove(&Op::ResetQuota, "lets a tenant hold what a new one may")
        ];
        "/os-quota-sets/{target}/defaults", "GET, HEAD", [read(&Op::DefaultQuota, "what a new tenant may hold")];
        "/os-quota-class-sets/{class}", "GET, HEAD, PUT", [
            read(&Op::QuotaClass, "what a new tenant may hold, as the class default"),
            write(Method::PUT, &Op::SetQuotaClass, "sets what a new tenant may hold")
        ];
    }
    compute: {
        "/servers", "GET, HEAD", [read(&Op::Servers, "the servers that have volumes, in short")];
        "/servers/detail", "GET, HEAD", [read(&Op::ServersDetail, "the servers that have volumes, in full")];
        "/servers/{server}", "GET, HEAD", [read(&Op::Server, "a server, as far as its volumes go")];
        "/servers/{server}/os-volume_attachments", "GET, HEAD, POST", [
            read(&Op::Attachments, "the volumes that are attached to a server"),
            write(Method::POST, &Op::Attach, "attaches a volume to a server")
        ];
        "/servers/{server}/os-volume_attachments/{id}", "GET, HEAD, DELETE", [
            read(&Op::Attachment, "one volume that is attached to a server"),
            remove(&Op::Detach, "detaches a volume from a server")
        ];
    }
};

const fn open(op: &'static OpenOp, summary: &'static str) -> Endpoint {
    let entry = Entry::Anonymous(ForAnyone { body: None, op });
    Endpoint { method: Method::GET, media: None, side: Side::Control, summary, entry }
}

const fn read(op: &'static Op, summary: &'static str) -> Endpoint {
    known(Method::GET, op, None, summary)
}

const fn write(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    known(method, op, Some(MAX_BODY), summary)
}

const fn remove(op: &'static Op, summary: &'static str) -> Endpoint {
    known(Method::DELETE, op, None, summary)
}

const fn known(method: Method, op: &'static Op, body: Option<usize>, summary: &'static str) -> Endpoint {
    let entry = Entry::Known(ForKnown { guard: Guard::Token, body, op });
    Endpoint { method, media: None, side: Side::Control, summary, entry }
}
