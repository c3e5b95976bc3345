//! Outcomes and faults into replies.

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::super::{Call, Places, Reply, direct, reply};
use super::{COOKIE, Op};
use crate::domain::{Fault, HpcOutcome, HpcVolume, Secret, VolumeState};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, outcome: &HpcOutcome) -> Option<Reply> {
    Some(match (op, outcome) {
        // The vendor's answer to a creation tells it as pending; the first listing tells more.
        (Op::Create, HpcOutcome::Made(made)) => ok(&json!({"volume": volume(made, PENDING)})),
        (Op::List, HpcOutcome::Listed { volumes, page, size, total }) => {
            let volumes: Vec<Value> = volumes.iter().map(|one| volume(one, status(one.volume.state))).collect();
            ok(&json!({
                "volumeList": volumes,
                "pager": {"currentPage": page, "pageSize": size, "total": total},
            }))
        }
        (Op::Delete, HpcOutcome::Deleted) => ok(&json!({})),
        _ => return None,
    })
}

/// `{"message": ...}`, as the vendor has it, with the same status numbers as the direct side.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    json_reply(direct::status(fault.kind), &json!({"message": fault.told}))
}

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

fn volume(one: &HpcVolume, status: &str) -> Value {
    let HpcVolume { volume, fields } = one;
    json!({
        "id": volume.id.to_string(),
        "volumeName": volume.name,
        "region": fields.region,
        "volumeType": fields.volume_type,
        "sizeGB": volume.size.gib_up(),
        // What a volume takes of the disk is not among what is known of it.
        "usageGB": 0,
        "status": status,
        "username": fields.user,
    })
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
        | VolumeState::ErrorRestoring => "Error",
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
    use crate::domain::{ByteCount, HpcFields, Volume};

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
        let fields = HpcFields { region: "r".to_owned(), volume_type: "t".to_owned(), user: "u".to_owned() };
        for (size, told) in [(1, 1), (1 << 30, 1), ((1 << 30) + 1, 2)] {
            let volume = Volume { size: ByteCount::new(size).unwrap(), ..drive() };
            let told_of = super::volume(&HpcVolume { volume, fields: fields.clone() }, PENDING);
            assert_eq!(told_of["sizeGB"], json!(told));
        }
        for state in VolumeState::ALL {
            let word = status(state);
            assert!(word.starts_with(char::is_uppercase) && word.bytes().all(|byte| byte.is_ascii_alphabetic()));
        }
    }
}
