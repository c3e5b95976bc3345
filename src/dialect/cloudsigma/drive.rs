//! A drive as clients see it.

use serde_json::{Map, Value, json};

use super::BASE;
use crate::domain::{Media, Volume, VolumeId, VolumeState};

/// Every field that a drive can show.
pub(super) const FIELDS: [&str; 20] = [
    "affinities",
    "allow_multimount",
    "grantees",
    "jobs",
    "licenses",
    "media",
    "meta",
    "mounted_on",
    "name",
    "owner",
    "permissions",
    "resource_uri",
    "runtime",
    "size",
    "snapshots",
    "status",
    "status_reason",
    "storage_type",
    "tags",
    "uuid",
];

/// Lists of what no drive has here.
pub(super) const ALWAYS_EMPTY: [&str; 6] = ["grantees", "jobs", "licenses", "mounted_on", "permissions", "snapshots"];

/// The fields that a short list shows when none are asked for.
const SHORT: [&str; 5] = ["name", "owner", "resource_uri", "status", "uuid"];

/// The storage type of a drive whose owner named none, and the one whose limits the capabilities tell.
pub(super) const STORAGE_TYPE: &str = "dssd";

/// The vendor's statuses that are true of no drive here: a removed one is not shown, and one that is copied is not kept
/// from anything.
pub(super) const NEVER_HERE: [&str; 3] = ["deleting", "deleted", "cloning_src"];

/// The states that a status names; nobody sees a drive that is being deleted.
pub(super) fn states_named(word: &str) -> Vec<VolumeState> {
    let is_named = |state: &VolumeState| *state != VolumeState::Deleting && status(*state) == word;
    VolumeState::ALL.into_iter().filter(is_named).collect()
}

/// The medium with this name.
pub(super) fn media_named(name: &str) -> Option<Media> {
    match name {
        "disk" => Some(Media::Disk),
        "cdrom" => Some(Media::Cdrom),
        _ => None,
    }
}

/// The path of a drive's own resource.
pub(super) fn resource_uri(id: VolumeId) -> String {
    format!("{BASE}/drives/{id}/")
}

/// The whole drive. What this server does not have, it shows as the vendor shows none of it.
///
/// `status_reason` is ours: it tells a person why a drive is unavailable. Clients pass over what they do not know.
pub(super) fn object(drive: &Volume) -> Map<String, Value> {
    let owner = drive.tenant.to_string();
    let attribute = |name: &str, default: Value| drive.attributes.get(name).cloned().unwrap_or(default);
    let storage_type = attribute("storage_type", STORAGE_TYPE.into());
    let mut object = Map::new();
    for name in FIELDS {
        let value = match name {
            "affinities" | "tags" => attribute(name, json!([])),
            "allow_multimount" => attribute(name, false.into()),
            "media" => media(drive.media).into(),
            "meta" => Value::Object(drive.meta.clone()),
            "name" => drive.name.as_str().into(),
            "owner" => json!({"resource_uri": format!("{BASE}/user/{owner}/"), "uuid": owner}),
            "resource_uri" => resource_uri(drive.id).into(),
            "runtime" => json!({
                "is_downloadable": drive.state.is_readable(),
                "is_ephemeral": false,
                "is_snapshotable": false,
                "snapshots_allocated_size": 0,
                "storage_type": storage_type,
            }),
            "size" => drive.size.get().into(),
            "status" => status(drive.state).into(),
            "status_reason" => match &drive.reason {
                Some(reason) => reason.as_str().into(),
                None => continue,
            },
            "storage_type" => storage_type.clone(),
            "uuid" => drive.id.to_string().into(),
            // Those that are always empty.
            _ => json!([]),
        };
        object.insert(name.to_owned(), value);
    }
    object
}

/// The drive with only the fields that were asked for. Names of no field show nothing.
pub(super) fn with_fields(drive: &Volume, fields: Option<&[String]>) -> Value {
    let mut object = object(drive);
    if let Some(fields) = fields {
        object.retain(|name, _| fields.contains(name));
    }
    object.into()
}

/// The drive as a short list shows it.
pub(super) fn short(drive: &Volume) -> Value {
    let mut object = object(drive);
    object.retain(|name, _| SHORT.contains(&name.as_str()));
    object.into()
}

const fn media(media: Media) -> &'static str {
    match media {
        Media::Disk => "disk",
        Media::Cdrom => "cdrom",
    }
}

const fn status(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Uploading => "uploading",
        VolumeState::Creating | VolumeState::Downloading => "creating",
        VolumeState::Available => "unmounted",
        VolumeState::Attaching
        | VolumeState::InUse
        | VolumeState::Detaching
        | VolumeState::ErrorAttaching
        | VolumeState::ErrorDetaching => "mounted",
        VolumeState::CloningTarget | VolumeState::Restoring => "cloning_dst",
        VolumeState::Resizing => "resizing",
        VolumeState::Unavailable | VolumeState::ErrorRestoring | VolumeState::Marked => "unavailable",
        VolumeState::Deleting => "deleting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_filters_for_the_state_that_shows_it() {
        for state in VolumeState::ALL.into_iter().filter(|state| *state != VolumeState::Deleting) {
            assert!(states_named(status(state)).contains(&state), "{state:?}");
        }
        assert_eq!(states_named("uploading"), [VolumeState::Uploading]);
        assert_eq!(states_named("deleting"), []);
        assert_eq!(states_named("nonsense"), []);
    }
}
