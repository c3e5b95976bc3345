//! Outcomes and faults into replies.

use std::iter::once;

use http::header::{self, HeaderValue};
use http::{HeaderName, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::{Call, Reply, bare, direct, reply};
use super::catalog::{catalog, old_catalog};
use super::decode::no_such;
use super::records::{ADMIN, MEMBER, READER};
use super::{DOMAIN_ID, DOMAIN_NAME, Op, OpenOp, SUBJECT, Short};
use crate::domain::{Fault, IdentityOutcome, Project, Secret, Token, UnixTime, User};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, call: &Call, outcome: &IdentityOutcome, base: &str) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::ShowToken, IdentityOutcome::Token { token, region }) => {
            shown(call, token, Some(catalog(base, token.project.id, region)))?
        }
        (Op::Revoke, IdentityOutcome::Revoked) => bare(StatusCode::NO_CONTENT),
        (Op::Catalog, IdentityOutcome::Catalog { project, region }) => {
            let links = json!({"self": format!("{base}/v3/auth/catalog")});
            json_reply(StatusCode::OK, &json!({"catalog": catalog(base, *project, region), "links": links}))
        }
        (Op::Records(kind), IdentityOutcome::Catalog { region, .. }) => {
            list(kind.plural(), kind.listed(call, base, region), call, base)
        }
        (Op::Record(kind), IdentityOutcome::Catalog { region, .. }) => match kind.one(call.param("id"), base, region) {
            Some(record) => json_reply(StatusCode::OK, &json!({kind.name(): record})),
            None => fault(call, &no_such(kind.name())),
        },
        (Op::OwnProjects | Op::ProjectsOf, IdentityOutcome::Projects(projects)) => {
            let projects = projects.iter().map(|project| described(project, base)).collect();
            list("projects", projects, call, base)
        }
        (Op::Project, IdentityOutcome::Project(project)) => {
            json_reply(StatusCode::OK, &json!({"project": described(project, base)}))
        }
        (Op::Users, IdentityOutcome::Users(users)) => {
            list("users", users.iter().map(|user| account(user, base)).collect(), call, base)
        }
        (Op::User, IdentityOutcome::User(user)) => json_reply(StatusCode::OK, &json!({"user": account(user, base)})),
        (Op::OldProjects, IdentityOutcome::Projects(projects)) => {
            let tenants: Vec<Value> = projects.iter().map(tenant).collect();
            json_reply(StatusCode::OK, &json!({"tenants": tenants, "tenants_links": []}))
        }
        _ => return None,
    })
}

/// The same, where the operation is open to anyone.
pub(super) fn encode_open(op: OpenOp, outcome: &IdentityOutcome, base: &str) -> Option<Reply> {
    Some(match (op, outcome) {
        (OpenOp::Issue, IdentityOutcome::Issued { token, secret, region }) => {
            issued(token, secret, Some(catalog(base, token.project.id, region)))?
        }
        (OpenOp::OldVersion, IdentityOutcome::Described) => json_reply(StatusCode::OK, &old_version(base)),
        (OpenOp::OldIssue, IdentityOutcome::Issued { token, secret, region }) => {
            let mut reply = json_reply(StatusCode::OK, &access(token, secret.reveal(), base, region));
            reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            reply
        }
        _ => return None,
    })
}

/// The same, where a token is told without the catalogue.
pub(super) fn encode_short(short: Short, call: &Call, outcome: &IdentityOutcome) -> Option<Reply> {
    match (short, outcome) {
        (Short::Shown, IdentityOutcome::Token { token, .. }) => shown(call, token, None),
        (Short::Issued, IdentityOutcome::Issued { token, secret, .. }) => issued(token, secret, None),
        _ => None,
    }
}

fn shown(call: &Call, token: &Token, catalog: Option<Value>) -> Option<Reply> {
    let body = json!({"token": token_of_version_3(token, catalog)});
    Some(with_subject(json_reply(StatusCode::OK, &body), call.headers.get(SUBJECT)?.clone()))
}

fn issued(token: &Token, secret: &Secret, catalog: Option<Value>) -> Option<Reply> {
    let body = json!({"token": token_of_version_3(token, catalog)});
    Some(with_subject(json_reply(StatusCode::CREATED, &body), HeaderValue::try_from(secret.reveal()).ok()?))
}

/// The status numbers are those of the direct side.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    let status = direct::status(fault.kind);
    let title = status.canonical_reason().unwrap_or_default();
    json_reply(status, &json!({"error": {"code": status.as_u16(), "title": title, "message": fault.told}}))
}

/// Names a token in the field for it; nothing may keep such an answer.
fn with_subject(mut reply: Reply, mut token: HeaderValue) -> Reply {
    token.set_sensitive(true);
    let headers = reply.headers_mut();
    headers.insert(HeaderName::from_static(SUBJECT), token);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    reply
}

fn token_of_version_3(token: &Token, catalog: Option<Value>) -> Value {
    let domain = json!({"id": DOMAIN_ID, "name": DOMAIN_NAME});
    let roles: Vec<Value> = roles(&token.user).iter().map(|(id, name)| json!({"id": id, "name": name})).collect();
    let mut body = json!({
        "methods": if token.chain.is_some() { json!(["token", "password"]) } else { json!(["password"]) },
        "user": {
            "id": token.user.id.plain(),
            "name": token.user.name,
            "domain": domain,
            "password_expires_at": null,
        },
        "audit_ids": audit_ids(token),
        "expires_at": date(token.expires),
        "issued_at": date(token.issued),
        "project": {"id": token.project.id.plain(), "name": token.project.name, "domain": domain},
        "is_domain": false,
        "roles": roles,
    });
    if let Some(catalog) = catalog {
        body["catalog"] = catalog;
    }
    body
}

/// Its own id, and that of the token that its chain began with.
fn audit_ids(token: &Token) -> Vec<String> {
    once(token.id).chain(token.chain).map(|id| id.plain()).collect()
}

const fn roles(user: &User) -> &'static [(&'static str, &'static str)] {
    if user.is_admin { &[ADMIN, MEMBER, READER] } else { &[MEMBER, READER] }
}

/// The answer of version 2.0.
fn access(token: &Token, secret: &str, base: &str, region: &str) -> Value {
    let (ids, names): (Vec<&str>, Vec<Value>) =
        roles(&token.user).iter().map(|(id, name)| (*id, json!({"name": name}))).unzip();
    json!({"access": {
        "token": {
            "id": secret,
            "issued_at": date(token.issued),
            // Clients of that time know no fractions here.
            "expires": timestamp(token.expires).map(|time| format!("{time:.0}")),
            "tenant": tenant(&token.project),
            "audit_ids": audit_ids(token),
        },
        "user": {
            "id": token.user.id.plain(),
            "name": token.user.name,
            "username": token.user.name,
            "roles": names,
            "roles_links": [],
        },
        "metadata": {"is_admin": u8::from(token.user.is_admin), "roles": ids},
        "serviceCatalog": old_catalog(base, token.project.id, region),
    }})
}

fn old_version(base: &str) -> Value {
    json!({"version": {
        "id": "v2.0",
        "status": "deprecated",
        "updated": "2016-08-04T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{base}/v2.0/")}],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.identity-v2.0+json"},
        ],
    }})
}

fn described(project: &Project, base: &str) -> Value {
    let id = project.id.plain();
    json!({
        "links": {"self": format!("{base}/v3/projects/{id}")},
        "id": id,
        "name": project.name,
        "description": "",
        "domain_id": DOMAIN_ID,
        "parent_id": DOMAIN_ID,
        "enabled": true,
        "is_domain": false,
        "tags": [],
        "options": {},
    })
}

fn tenant(project: &Project) -> Value {
    json!({"id": project.id.plain(), "name": project.name, "description": "", "enabled": true})
}

fn account(user: &User, base: &str) -> Value {
    let id = user.id.plain();
    json!({
        "links": {"self": format!("{base}/v3/users/{id}")},
        "id": id,
        "name": user.name,
        "domain_id": DOMAIN_ID,
        "default_project_id": user.project.plain(),
        "enabled": true,
        "password_expires_at": null,
        "options": {},
    })
}

/// All there are, on one page.
fn list(name: &str, things: Vec<Value>, call: &Call, base: &str) -> Reply {
    let mut body = Map::new();
    body.insert(name.to_owned(), things.into());
    body.insert("links".to_owned(), json!({"self": format!("{base}{}", call.path), "previous": null, "next": null}));
    json_reply(StatusCode::OK, &body.into())
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_millisecond(time.0).ok()
}

/// In the one form that the reference has, with microseconds.
fn date(time: UnixTime) -> Option<String> {
    timestamp(time).map(|time| format!("{time:.6}"))
}

fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}
