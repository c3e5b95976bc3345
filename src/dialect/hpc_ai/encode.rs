//! Outcomes and faults into replies.

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::super::{Call, Places, Reply, direct, reply};
use super::{COOKIE, FILESYSTEM, Op};
use crate::domain::{Fault, Listing, Outcome, Placement, Reason, Secret, Volume, VolumeState};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, outcome: &Outcome) -> Option<Reply> {
    Some(match (op, outcome) {
        // The vendor's answer to a creation tells it as pending; the first listing tells more.
        (Op::Create, Outcome::Created(made)) => ok(&json!({"volume": volume(made.first()?, PENDING)?})),
        (Op::List, Outcome::Listing(Listing { volumes, page, total, .. })) => {
            let volumes: Option<Vec<Value>> = volumes.iter().map(|one| volume(one, status(one.state))).collect();
            let size = page.limit?;
            ok(&json!({
                "volumeList": volumes?,
                "pager": {"currentPage": page.offset / u64::from(size) + 1, "pageSize": size, "total": total},
            }))
        }
        (Op::Delete, Outcome::Removed) => ok(&json!({})),
        _ => return None,
    })
}

/// `{"message": ...}`, as the vendor has it, with the same status numbers as the direct side.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    json_reply(direct::status(fault.kind), &json!({"message": message(fault)}))
}

/// As the vendor words it, where it has words; and with the names of its fields.
fn message(fault: &Fault) -> String {
    match fault.reason.as_deref() {
        Some(Reason::NoSuchVolume | Reason::NoSuchDrive(_)) => NOT_FOUND.to_owned(),
        Some(Reason::NameTaken) => "Volume already exists".to_owned(),
        Some(Reason::NoSuchType { known, .. }) => {
            format!("there is no such volumeType; there is {FILESYSTEM}, {}", known.join(", "))
        }
        Some(Reason::SizeOutside { least, most }) => {
            let (least, most) = (least.gib_up().max(1), most.get() >> 30);
            format!("sizeGB must be from {least} to {most} for this volumeType")
        }
        _ => fault.told.clone(),
    }
}

/// What is told of a volume that is not there.
pub(super) const NOT_FOUND: &str = "Volume not found";

/// The token in the body and as a cookie that no script reads, that other sites' forms do not carry (`SameSite`) and
/// that, where this server is reached by https, no other connection carries (RFC 6265 section 4.1.2).
pub(super) fn logged_in(token: &Secret, seconds: u32, places: &Places) -> Option<Reply> {
    let mut reply = ok(&json!({"accessToken": token.reveal()}));
    let is_secure = places.control.starts_with("https://");
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Lax; Path=/; Max-Age={seconds}{secure}", token.reveal());
    let mut cookie = HeaderValue::try_from(cookie).ok()?;
    cookie.set_sensitive(true);
    reply.headers_mut().insert(header::SET_COOKIE, cookie);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(reply)
}

const PENDING: &str = "Pending";

/// `None` of a volume without a placement, which is told nobody.
fn volume(volume: &Volume, status: &str) -> Option<Value> {
    let Placement { region, volume_type, user } = Placement::of(&volume.attributes)?;
    let volume_type = if volume.is_tree() { FILESYSTEM.to_owned() } else { volume_type };
    Some(json!({
        "id": volume.id.to_string(),
        "volumeName": volume.name,
        "region": region,
        "volumeType": volume_type,
        "sizeGB": volume.size.gib_up(),
        // What a volume takes of the disk is not among what is known of it.
        "usageGB": 0,
        "status": status,
        "username": user,
    }))
}

/// The vendor's documents name the first of these only.
const fn status(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Uploading | VolumeState::Creating | VolumeState::CloningTarget | VolumeState::Downloading => {
            PENDING
        }
        VolumeState::Available => "Available",
        VolumeState::Resizing => "Resizing",
        VolumeState::Attaching => "Attaching",
        VolumeState::InUse => "InUse",
        VolumeState::Detaching => "Detaching",
        VolumeState::Restoring => "Restoring",
        VolumeState::Unavailable
        | VolumeState::ErrorAttaching
        | VolumeState::ErrorDetaching
        | VolumeState::ErrorRestoring
        | VolumeState::Marked => "Error",
        VolumeState::Deleting => "Deleting",
    }
}

fn ok(value: &Value) -> Reply {
    json_reply(StatusCode::OK, value)
}

fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::super::super::golden::{drive, public_places, relative_places};
    use super::*;
    use crate::domain::ByteCount;

    #[test]
    fn the_cookie_is_secure_where_clients_come_by_https() {
        let cookie = |places: &Places| {
            let reply = logged_in(&Secret::new("a.b.c"), 86_400, places).unwrap();
            reply.headers()[header::SET_COOKIE].to_str().unwrap().to_owned()
        };
        let plain = "AccessToken=a.b.c; HttpOnly; SameSite=Lax; Path=/; Max-Age=86400";
        assert_eq!(cookie(&relative_places()), plain);
        assert_eq!(cookie(&public_places()), format!("{plain}; Secure"));
    }

    #[test]
    fn a_size_is_told_in_whole_gib_and_a_status_in_a_word() {
        let placement = Placement { region: "r".to_owned(), volume_type: "t".to_owned(), user: "u".to_owned() };
        for (size, told) in [(1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)] {
            let mut volume = Volume { size: ByteCount::new(size).unwrap(), ..drive() };
            assert_eq!(super::volume(&volume, PENDING), None);
            placement.put(&mut volume.attributes);
            assert_eq!(super::volume(&volume, PENDING).unwrap()["sizeGB"], json!(told));
        }
        for state in VolumeState::ALL {
            let word = status(state);
            assert!(word.starts_with(char::is_uppercase) && word.bytes().all(|byte| byte.is_ascii_alphabetic()));
        }
    }
}
