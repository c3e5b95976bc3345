//! Faults into replies.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::{Call, Reply, query};
use super::objects::own_namespace;
use super::view::{Document, Namespace};
use super::xml::Node;
use super::{Version, minor, without_suffix};
use crate::domain::{Fault, FaultKind, Reason};

/// The namespace of the compute service's own elements.
const COMPUTE: Namespace = ("xmlns", "http://docs.openstack.org/compute/api/v1.1");

/// `{"badRequest": {"code": 400, "message": ...}}`, or the element with that name.
pub(super) fn fault(call: &Call, fault: &Fault) -> Reply {
    let marker = unknown_marker(call, fault);
    let (status, name) = spelling(if marker.is_some() { FaultKind::NotFound } else { fault.kind });
    let message = marker.unwrap_or_else(|| message(call, fault));
    let mut fields = Map::from_iter([
        ("code".to_owned(), Value::from(status.as_u16())),
        ("message".to_owned(), Value::from(message.as_str())),
    ]);
    let (namespace, uri) = namespace(call);
    let mut node = Node::new(name)
        .with("code", status.as_u16().to_string())
        .with(namespace, uri)
        .holding([Node::new("message").saying(message)]);
    if let Some(seconds) = retry_after(fault.kind) {
        fields.insert("retryAfter".to_owned(), seconds.into());
        node.children.push(Node::new("retryAfter").saying(seconds.to_string()));
    }
    minor::versioned(call, Document::Made { json: json!({name: fields}), xml: node }.reply(call, status))
}

/// The namespace of a fault: that of its version, or of the compute service, of which the attachments are.
fn namespace(call: &Call) -> Namespace {
    match without_suffix(call.path).0.split('/').nth(3) {
        Some("servers") => COMPUTE,
        _ => own_namespace(Version::of(call.path)),
    }
}

/// What is said of a marker that is nothing of its list: in this API it names a thing that is not there.
fn unknown_marker(call: &Call, fault: &Fault) -> Option<String> {
    if fault.kind != FaultKind::Invalid || fault.point.as_deref() != Some("marker") {
        return None;
    }
    let thing = match without_suffix(call.path).0.split('/').nth(3) {
        Some("volumes") => "Volume",
        Some("snapshots") => "Snapshot",
        Some("backups") => "Backup",
        Some("types") => "Volume type",
        _ => return None,
    };
    let (_, marker) = query::pairs(call.query).filter(|(name, _)| name == "marker").last()?;
    Some(format!("{thing} {marker} could not be found."))
}

/// The first words that clients look for, then the reason.
fn message(call: &Call, fault: &Fault) -> String {
    if let Some(words) = fault.reason.as_deref().and_then(|reason| worded(call, reason)) {
        return words;
    }
    let told = &fault.told;
    match fault.kind {
        FaultKind::Conflict => {
            let mut segments = without_suffix(call.path).0.split('/').filter(|segment| !segment.is_empty()).skip(2);
            match (segments.next(), segments.next()) {
                (Some("snapshots"), Some(_)) => format!("Invalid snapshot: {told}"),
                (Some("backups"), Some(_)) => format!("Invalid backup: {told}"),
                // What is made of a volume fails for the state of the volume.
                _ => format!("Invalid volume: {told}"),
            }
        }
        FaultKind::Throttled { .. } => "This request was rate-limited.".to_owned(),
        FaultKind::QuotaExceeded => {
            "VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed volume size quota".to_owned()
        }
        _ => told.clone(),
    }
}

/// The sentences that clients of this API know.
fn worded(call: &Call, reason: &Reason) -> Option<String> {
    Some(match reason {
        Reason::TooManyVolumes(most) => {
            format!("VolumeLimitExceeded: Maximum number of volumes allowed ({most}) exceeded for quota 'volumes'")
        }
        Reason::TooManyBackups(most) => {
            format!("BackupLimitExceeded: Maximum number of backups allowed ({most}) exceeded")
        }
        Reason::TooManySnapshots(most) => {
            format!("SnapshotLimitExceeded: Maximum number of snapshots allowed ({most}) exceeded")
        }
        Reason::OverVolumeSize(most) => {
            let most = most.get() >> 30;
            format!("VolumeSizeExceedsLimit: Requested volume size is larger than maximum allowed limit {most}G.")
        }
        Reason::BackupBytes => {
            "VolumeBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota".to_owned()
        }
        Reason::NoSuchZone(zone) => format!("Availability zone '{zone}' is invalid"),
        Reason::NoSuchType { name, .. } => format!("Volume type {name} could not be found."),
        Reason::NoSuchImage(id) => format!("Image {id} could not be found."),
        Reason::ImageUnfit(id, why) => format!("Image {id} is unacceptable: {why}"),
        Reason::SmallerThanImage(least) => {
            format!("Size of specified image {} GB is larger than volume size", least.gib_up())
        }
        Reason::NoSuchSnapshot(id) => format!("Snapshot {id} could not be found."),
        Reason::NoSuchDrive(id) => format!("Volume {id} could not be found."),
        Reason::NoSuchBackup => format!("Backup {} could not be found.", call.param("id")),
        Reason::BackupNotAtRest => "Invalid backup: Backup status must be available or error".to_owned(),
        Reason::BackupNotWhole => "Invalid backup: Backup status must be available".to_owned(),
        Reason::NotLarger(there) => {
            format!("New size for extend must be greater than current size ({} GB)", there.gib_up())
        }
        Reason::SizeOutside { least, most } => {
            // What is given a size by an action is grown.
            let is_action = without_suffix(call.path).0.ends_with("/action");
            let field = if is_action { "new_size" } else { "size" };
            format!("{field} must be from {} to {} GB", least.gib_up().max(1), most.get() >> 30)
        }
        Reason::ReadOnly => "the volume may only be attached for reading: mode ro".to_owned(),
        Reason::NoSuchVolume
        | Reason::NameTaken
        | Reason::WrongOffset { .. }
        | Reason::InconsistentLength
        | Reason::TransferComplete
        | Reason::LargerThan(_) => return None,
    })
}

/// What a client is told in the body of when to come back; zero where waiting does not help.
const fn retry_after(kind: FaultKind) -> Option<u32> {
    match kind {
        FaultKind::QuotaExceeded => Some(0),
        FaultKind::Throttled { retry_after } => Some(retry_after),
        _ => None,
    }
}

/// How each fault is told.
const fn spelling(kind: FaultKind) -> (StatusCode, &'static str) {
    match kind {
        // The service that this one is like answers 400, not 409, when a thing is in the wrong state for what is asked.
        FaultKind::Invalid
        | FaultKind::BadFraming
        | FaultKind::Empty
        | FaultKind::Conflict
        | FaultKind::DigestMismatch
        | FaultKind::BodyIncomplete => (StatusCode::BAD_REQUEST, "badRequest"),
        FaultKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
        FaultKind::TicketRefused | FaultKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        FaultKind::NotFound | FaultKind::Gone => (StatusCode::NOT_FOUND, "itemNotFound"),
        FaultKind::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "badMethod"),
        FaultKind::PeerTooSlow => (StatusCode::REQUEST_TIMEOUT, "badRequest"),
        FaultKind::Cancelled | FaultKind::Corrupt => (StatusCode::CONFLICT, "conflictingRequest"),
        FaultKind::TooLarge | FaultKind::QuotaExceeded | FaultKind::Throttled { .. } => {
            (StatusCode::PAYLOAD_TOO_LARGE, "overLimit")
        }
        FaultKind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "computeFault"),
        FaultKind::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "badMediaType"),
        FaultKind::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "badRequest"),
        // An image service that fails is told as our failure by the document of version 2.
        FaultKind::Upstream | FaultKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "computeFault"),
        // The service that this one is like has no answer for it: it takes the call, and the volume comes to nothing.
        // Clients tell an unknown number as it is, with the message, and none tries again by itself, as some do after
        // 500 or 503. The name is the one that is given to every number without a name of its own.
        FaultKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "computeFault"),
        FaultKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::super::resolve;
    use super::*;
    use crate::domain::{ByteCount, VolumeId};

    #[test]
    fn a_reason_is_told_in_the_words_of_this_api_and_not_in_those_of_the_fault() {
        let id: VolumeId = "29b53979-c09d-4944-a170-5430aac864df".parse().unwrap();
        let outside = |least| Reason::SizeOutside { least, most: ByteCount::mib(8 << 10) };
        for (path, kind, reason, words) in [
            (
                "/volumes",
                FaultKind::QuotaExceeded,
                Reason::TooManyVolumes(7),
                "VolumeLimitExceeded: Maximum number of volumes allowed (7) exceeded for quota 'volumes'",
            ),
            (
                "/backups",
                FaultKind::QuotaExceeded,
                Reason::TooManyBackups(7),
                "BackupLimitExceeded: Maximum number of backups allowed (7) exceeded",
            ),
            (
                "/backups",
                FaultKind::QuotaExceeded,
                Reason::BackupBytes,
                "VolumeBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota",
            ),
            ("/volumes", FaultKind::Invalid, Reason::NoSuchZone("z".to_owned()), "Availability zone 'z' is invalid"),
            (
                "/volumes",
                FaultKind::NotFound,
                Reason::NoSuchType { name: "t".to_owned(), known: Vec::new() },
                "Volume type t could not be found.",
            ),
            (
                "/volumes",
                FaultKind::NotFound,
                Reason::NoSuchImage(id),
                "Image 29b53979-c09d-4944-a170-5430aac864df could not be found.",
            ),
            (
                "/volumes",
                FaultKind::Invalid,
                Reason::ImageUnfit(id, "it is not active"),
                "Image 29b53979-c09d-4944-a170-5430aac864df is unacceptable: it is not active",
            ),
            (
                "/volumes",
                FaultKind::Invalid,
                Reason::SmallerThanImage(ByteCount::mib(1025)),
                "Size of specified image 2 GB is larger than volume size",
            ),
            (
                "/volumes",
                FaultKind::NotFound,
                Reason::NoSuchSnapshot(id),
                "Snapshot 29b53979-c09d-4944-a170-5430aac864df could not be found.",
            ),
            ("/backups/x", FaultKind::NotFound, Reason::NoSuchBackup, "Backup x could not be found."),
            (
                "/snapshots",
                FaultKind::NotFound,
                Reason::NoSuchDrive(id),
                "Volume 29b53979-c09d-4944-a170-5430aac864df could not be found.",
            ),
            (
                "/backups/x",
                FaultKind::Conflict,
                Reason::BackupNotAtRest,
                "Invalid backup: Backup status must be available or error",
            ),
            (
                "/backups/x/restore",
                FaultKind::Conflict,
                Reason::BackupNotWhole,
                "Invalid backup: Backup status must be available",
            ),
            (
                "/volumes/x/action",
                FaultKind::Invalid,
                Reason::NotLarger(ByteCount::mib(2048)),
                "New size for extend must be greater than current size (2 GB)",
            ),
            ("/volumes", FaultKind::Invalid, outside(ByteCount::mib(1025)), "size must be from 2 to 8 GB"),
            ("/volumes/x/action", FaultKind::Invalid, outside(ByteCount::ZERO), "new_size must be from 1 to 8 GB"),
            (
                "/volumes/x/action",
                FaultKind::Invalid,
                Reason::ReadOnly,
                "the volume may only be attached for reading: mode ro",
            ),
        ] {
            let (path, headers) = (format!("/v2/e56a97501ac64da4af7c7a6f4ecb7426{path}"), HeaderMap::new());
            let call = resolve(&Method::POST, &path, "", &headers, Some(0)).call;
            assert_eq!(message(&call, &Fault::new(kind, "other words").for_reason(reason)), words);
        }
    }

    #[test]
    fn what_is_over_a_limit_is_told_as_over_that_one() {
        let (path, headers) = ("/v2/e56a97501ac64da4af7c7a6f4ecb7426/snapshots", HeaderMap::new());
        let call = resolve(&Method::POST, path, "", &headers, Some(0)).call;
        for (reason, words) in [
            (Reason::TooManySnapshots(7), "SnapshotLimitExceeded: Maximum number of snapshots allowed (7) exceeded"),
            (
                Reason::OverVolumeSize(ByteCount::mib(2 << 10)),
                "VolumeSizeExceedsLimit: Requested volume size is larger than maximum allowed limit 2G.",
            ),
        ] {
            let fault = Fault::new(FaultKind::QuotaExceeded, "other words").for_reason(reason);
            assert_eq!(message(&call, &fault), words);
        }
    }
}
