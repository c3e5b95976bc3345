//! Requests into intents.

use serde_json::Value;

use super::super::{Call, query};
use super::records::Kind;
use super::{DOMAIN_ID, DOMAIN_NAME, Op, OpenOp, SUBJECT};
use crate::domain::{AnonymousCommand, Fault, FaultKind, IdentityCommand, Named, Proof, Secret, TenantId, UserId};

/// The most bytes of a region's id.
const LONGEST: usize = 255;

pub(super) fn decode(op: Op, call: &Call) -> Result<IdentityCommand, Fault> {
    Ok(match op {
        Op::ShowToken => IdentityCommand::ShowToken(subject(call)?),
        Op::Revoke => IdentityCommand::Revoke(subject(call)?),
        Op::Catalog => IdentityCommand::Catalog,
        Op::Records(kind) => {
            kind.check(call)?;
            IdentityCommand::Catalog
        }
        Op::Record(kind) => {
            let id = call.param("id");
            // The name of the region is known when this is carried out; the ids of the others are always the same.
            let may_be = if kind == Kind::Region { id.len() <= LONGEST } else { kind.one(id, "", "").is_some() };
            if !may_be {
                return Err(no_such(kind.name()));
            }
            IdentityCommand::Catalog
        }
        Op::OwnProjects | Op::OldProjects => IdentityCommand::OwnProjects { name: wanted_name(call)? },
        Op::ProjectsOf => IdentityCommand::ProjectsOf { user: user_in_path(call)?, name: wanted_name(call)? },
        Op::Project => {
            let id = TenantId::from_plain(call.param("project")).ok_or_else(|| no_such("project"))?;
            IdentityCommand::Project(id)
        }
        Op::Users => IdentityCommand::Users { name: wanted_name(call)? },
        Op::User => IdentityCommand::User(user_in_path(call)?),
    })
}

pub(super) fn decode_open(op: OpenOp, body: &[u8]) -> Result<AnonymousCommand, Fault> {
    match op {
        OpenOp::Issue => issue(body),
        OpenOp::OldVersion => Ok(AnonymousCommand::Describe),
        OpenOp::OldIssue => issue_by_old_version(body),
    }
}

/// Whether a token is to be told without the catalogue of services, which the parameter alone says.
pub(super) fn wants_no_catalog(call: &Call) -> bool {
    query::pairs(call.query).any(|(name, _)| name == "nocatalog")
}

/// The name that a list is narrowed to. All that is listed is in the one domain, enabled, and itself no domain; where
/// something else is asked for the answer is "none", as nothing has an empty name.
fn wanted_name(call: &Call) -> Result<Option<String>, Fault> {
    let (mut wanted, mut is_void) = (None, false);
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "name" => wanted = Some(value),
            "domain_id" | "parent_id" => is_void |= value != DOMAIN_ID,
            "enabled" => is_void |= !flag(&name, &value)?,
            "is_domain" => is_void |= flag(&name, &value)?,
            _ => return Err(query::unknown(&name)),
        }
    }
    Ok(if is_void { Some(String::new()) } else { wanted })
}

/// A flag of the query.
pub(super) fn flag(name: &str, value: &str) -> Result<bool, Fault> {
    match value.to_ascii_lowercase().as_str() {
        // The flag alone is as good as true.
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Fault::invalid(name, format!("{name} must be true or false"))),
    }
}

fn user_in_path(call: &Call) -> Result<UserId, Fault> {
    UserId::from_plain(call.param("user")).ok_or_else(|| no_such("user"))
}

pub(super) fn no_such(thing: &str) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no such {thing}"))
}

/// The token that a call is about.
fn subject(call: &Call) -> Result<Secret, Fault> {
    let token = call.headers.get(SUBJECT).and_then(|token| token.to_str().ok());
    token.map(Secret::new).ok_or_else(|| Fault::invalid("X-Subject-Token", "the X-Subject-Token field is missing"))
}

fn issue(body: &[u8]) -> Result<AnonymousCommand, Fault> {
    let mut auth = auth(body)?;
    let mut identity = take_object(&mut auth, "identity")?;
    let proof = match &take(&mut identity, "methods") {
        Value::Array(methods) => match &methods[..] {
            [Value::String(method)] if method == "password" => {
                let mut method = take_object(&mut identity, "password")?;
                let mut user = take_object(&mut method, "user")?;
                nothing_left(&method, "password")?;
                let password = password(&mut user)?;
                Proof::Password { user: named_user(user)?, password }
            }
            [Value::String(method)] if method == "token" => token(take_object(&mut identity, "token")?)?,
            [Value::String(_)] => return Err(unauthenticated("the methods are password and token")),
            _ => return Err(Fault::invalid("methods", "methods must name one method")),
        },
        _ => return Err(Fault::invalid("methods", "methods must be a list of one method")),
    };
    nothing_left(&identity, "identity")?;
    let scope = match take(&mut auth, "scope") {
        Value::Null => None,
        Value::String(text) if text == "unscoped" => None,
        mut scope @ Value::Object(_) => match (take(&mut scope, "project"), take(&mut scope, "unscoped")) {
            (project @ Value::Object(_), Value::Null) => {
                nothing_left(&scope, "scope")?;
                Some(named_project(project)?)
            }
            // There are no tokens without a project: it is the user's own.
            (Value::Null, Value::Object(unscoped)) if unscoped.is_empty() => {
                nothing_left(&scope, "scope")?;
                None
            }
            (Value::Object(_), _) => return Err(Fault::invalid("scope", "a token is for one project, or unscoped")),
            (Value::Null, Value::Null) => {
                return Err(Fault::invalid("scope", "a token is for a project here, and for nothing else"));
            }
            (Value::Null, _) => return Err(Fault::invalid("unscoped", "unscoped must be an empty object")),
            _ => return Err(Fault::invalid("project", "project must be an object")),
        },
        _ => return Err(Fault::invalid("scope", "scope must be an object")),
    };
    nothing_left(&auth, "auth")?;
    Ok(AnonymousCommand::Issue { proof, scope })
}

fn issue_by_old_version(body: &[u8]) -> Result<AnonymousCommand, Fault> {
    let mut auth = auth(body)?;
    let proof = match take(&mut auth, "passwordCredentials") {
        Value::Null => token(take_object(&mut auth, "token")?)?,
        mut credentials @ Value::Object(_) => {
            let user = match (text(&mut credentials, "userId")?, text(&mut credentials, "username")?) {
                (Some(_), Some(_)) => return Err(named_twice("user")),
                (Some(id), None) => Named::Id(UserId::from_plain(&id).ok_or_else(|| unauthenticated(NO_SUCH_USER))?),
                (None, Some(name)) => Named::Name(name),
                (None, None) => return Err(Fault::invalid("username", "a username or userId is needed")),
            };
            let password = password(&mut credentials)?;
            nothing_left(&credentials, "passwordCredentials")?;
            Proof::Password { user, password }
        }
        _ => return Err(Fault::invalid("passwordCredentials", "passwordCredentials must be an object")),
    };
    let scope = match (text(&mut auth, "tenantId")?, text(&mut auth, "tenantName")?) {
        (Some(_), Some(_)) => return Err(named_twice("tenant")),
        (Some(id), None) => Some(project_id(&id)?),
        (None, Some(name)) => Some(Named::Name(name)),
        (None, None) => None,
    };
    nothing_left(&auth, "auth")?;
    Ok(AnonymousCommand::Issue { proof, scope })
}

/// As a wrong password is told: what looks like no id is told from one that nobody has by nothing.
const NO_SUCH_USER: &str = "a valid user name and password are needed";

fn unauthenticated(told: &str) -> Fault {
    Fault::new(FaultKind::Unauthenticated, told)
}

/// The object `auth`, which everything else is in. What is wrong with the body is told without any of it.
fn auth(body: &[u8]) -> Result<Value, Fault> {
    let mut body = serde_json::from_slice(body).map_err(|error: serde_json::Error| {
        let told = format!("the body is not JSON, at line {} column {}", error.line(), error.column());
        Fault::invalid("body", told)
    })?;
    let auth = take_object(&mut body, "auth")?;
    nothing_left(&body, "body")?;
    Ok(auth)
}

/// Refuses what is left when all that is known was taken: who asks for less than all of their rights, or to come in
/// another's name, is not to be given a token for more. What is null or an empty text was not asked for.
fn nothing_left(of: &Value, name: &str) -> Result<(), Fault> {
    let is_said = |value: &Value| !value.is_null() && value != "";
    match of.as_object().into_iter().flatten().find(|(_, value)| is_said(value)) {
        None => Ok(()),
        Some((left, _)) if left.len() <= LONGEST_NAME => {
            Err(Fault::invalid(left, format!("{name} takes no member {left:?}")))
        }
        Some(_) => Err(Fault::invalid(name, format!("{name} has a member that it does not take"))),
    }
}

/// Longer names of members are not repeated to the caller.
const LONGEST_NAME: usize = 64;

fn named_twice(thing: &str) -> Fault {
    Fault::invalid(thing, format!("a {thing} is named by its id or by its name, and not by both"))
}

fn named_user(user: Value) -> Result<Named<UserId>, Fault> {
    match named(user, "user")? {
        Named::Id(id) => UserId::from_plain(&id).map(Named::Id).ok_or_else(|| unauthenticated(NO_SUCH_USER)),
        Named::Name(name) => Ok(Named::Name(name)),
    }
}

fn named_project(project: Value) -> Result<Named<TenantId>, Fault> {
    match named(project, "project")? {
        Named::Id(id) => project_id(&id),
        Named::Name(name) => Ok(Named::Name(name)),
    }
}

/// What an object names in the one domain, and it says nothing else.
fn named(mut of: Value, thing: &str) -> Result<Named<String>, Fault> {
    let (id, name) = (text(&mut of, "id")?, text(&mut of, "name")?);
    check_domain(&mut of)?;
    nothing_left(&of, thing)?;
    match (id, name) {
        (Some(_), Some(_)) => Err(named_twice(thing)),
        (Some(id), None) => Ok(Named::Id(id)),
        (None, Some(name)) => Ok(Named::Name(name)),
        (None, None) => Err(Fault::invalid(thing, format!("a {thing} has a name or an id"))),
    }
}

fn project_id(text: &str) -> Result<Named<TenantId>, Fault> {
    let told = "there is no such project, or the user is not a member of it";
    TenantId::from_plain(text).map(Named::Id).ok_or_else(|| unauthenticated(told))
}

/// A name is of the one domain, which some clients leave out and others spell in small letters.
fn check_domain(of: &mut Value) -> Result<(), Fault> {
    let mut domain = match take(of, "domain") {
        Value::Null => return Ok(()),
        domain => domain,
    };
    let (id, name) = (text(&mut domain, "id")?, text(&mut domain, "name")?);
    nothing_left(&domain, "domain")?;
    if id.is_none() && name.is_none() {
        return Err(Fault::invalid("domain", "a domain has a name or an id"));
    }
    let is_ours = id.is_none_or(|id| id == DOMAIN_ID) && name.is_none_or(|name| name.eq_ignore_ascii_case(DOMAIN_NAME));
    if is_ours { Ok(()) } else { Err(unauthenticated("there is no such domain")) }
}

/// The password, out of the body, so that the one copy left is the one that is wiped.
fn password(of: &mut Value) -> Result<Secret, Fault> {
    match take(of, "password") {
        Value::String(password) => Ok(Secret::new(password)),
        _ => Err(Fault::invalid("password", "password must be text")),
    }
}

fn token(mut of: Value) -> Result<Proof, Fault> {
    match take(&mut of, "id") {
        Value::String(token) => {
            let token = Secret::new(token);
            nothing_left(&of, "token")?;
            Ok(Proof::Token(token))
        }
        _ => Err(Fault::invalid("token", "a token has an id, which is text")),
    }
}

/// A field of an object, taken out of it; null when it is not there.
fn take(from: &mut Value, name: &str) -> Value {
    from.get_mut(name).map(Value::take).unwrap_or_default()
}

fn take_object(from: &mut Value, name: &str) -> Result<Value, Fault> {
    match take(from, name) {
        object @ Value::Object(_) => Ok(object),
        Value::Null => Err(Fault::invalid(name, format!("{name} is missing"))),
        _ => Err(Fault::invalid(name, format!("{name} must be an object"))),
    }
}

/// A text; none when it is null or empty, as clients send for what they were not told.
fn text(from: &mut Value, name: &str) -> Result<Option<String>, Fault> {
    match take(from, name) {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        _ => Err(Fault::invalid(name, format!("{name} must be text"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "01938c2e7d107a429b513f0c5d2e8a77";

    fn asked(body: &Value) -> Result<(Proof, Option<Named<TenantId>>), FaultKind> {
        match issue(body.to_string().as_bytes()).map_err(|fault| fault.kind)? {
            AnonymousCommand::Issue { proof, scope } => Ok((proof, scope)),
            AnonymousCommand::Describe => panic!("it asks for a token"),
        }
    }

    fn with_user(user: &Value, scope: &Value) -> Value {
        json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}})
    }

    #[test]
    fn users_and_projects_are_named_by_id_or_by_name_in_the_one_domain() {
        let project = TenantId::from_plain(ID).unwrap();
        for (scope, read) in [
            (json!(null), None),
            (json!("unscoped"), None),
            (json!({"unscoped": {}}), None),
            (json!({"project": {"id": ID}}), Some(Named::Id(project))),
            (json!({"project": {"name": "red"}}), Some(Named::Name("red".to_owned()))),
            (json!({"project": {"name": "red", "domain": {"id": "default"}}}), Some(Named::Name("red".to_owned()))),
            (json!({"project": {"name": "red", "domain": {"name": "default"}}}), Some(Named::Name("red".to_owned()))),
        ] {
            let user = json!({"name": "alice", "domain": {"name": "Default"}, "password": "x"});
            let (proof, found) = asked(&with_user(&user, &scope)).unwrap();
            assert_eq!(found, read, "{scope}");
            let alice = Named::Name("alice".to_owned());
            assert_eq!(proof, Proof::Password { user: alice, password: Secret::new("x") });
        }
        let (proof, _) = asked(&with_user(&json!({"id": ID, "password": ""}), &Value::Null)).unwrap();
        let user = Named::Id(UserId::from_plain(ID).unwrap());
        assert_eq!(proof, Proof::Password { user, password: Secret::new("") });
    }

    #[test]
    fn what_is_no_request_for_a_token_is_refused_and_nothing_of_it_is_told() {
        let user = json!({"name": "alice", "password": "geheim"});
        let elsewhere = json!({"name": "alice", "password": "geheim", "domain": {"id": "other"}});
        let methods = |methods: Value| json!({"auth": {"identity": {"methods": methods, "password": {"user": user}}}});
        for (body, kind) in [
            (json!({}), FaultKind::Invalid),
            (json!({"auth": "geheim"}), FaultKind::Invalid),
            (json!({"auth": {"identity": "geheim"}}), FaultKind::Invalid),
            (methods(Value::Null), FaultKind::Invalid),
            (methods(json!([])), FaultKind::Invalid),
            (methods(json!(["password", "token"])), FaultKind::Invalid),
            (methods(json!(["totp"])), FaultKind::Unauthenticated),
            (methods(json!(["token"])), FaultKind::Invalid),
            (with_user(&json!("geheim"), &Value::Null), FaultKind::Invalid),
            (with_user(&json!({"name": "alice", "password": {"geheim": 1}}), &Value::Null), FaultKind::Invalid),
            (with_user(&json!({"password": "geheim"}), &Value::Null), FaultKind::Invalid),
            (with_user(&elsewhere, &Value::Null), FaultKind::Unauthenticated),
            (with_user(&user, &json!("geheim")), FaultKind::Invalid),
            (with_user(&user, &json!({"system": {"all": true}})), FaultKind::Invalid),
            (with_user(&user, &json!({"domain": {"id": "default"}})), FaultKind::Invalid),
            (with_user(&user, &json!({"project": "geheim"})), FaultKind::Invalid),
            (with_user(&user, &json!({"project": {}})), FaultKind::Invalid),
            (with_user(&user, &json!({"project": {"id": "geheim"}})), FaultKind::Unauthenticated),
        ] {
            let fault = issue(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(fault.kind, kind, "{body}");
            assert!(!format!("{fault:?}").contains("geheim"), "{fault:?}");
        }
        let fault = issue(b"{\"auth\": geheim}").unwrap_err();
        assert!(fault.told.contains("column") && !format!("{fault:?}").contains("geheim"), "{fault:?}");
    }

    #[test]
    fn what_is_not_known_is_refused_and_not_passed_over() {
        let body = || {
            let user = json!({"name": "alice", "password": "geheim", "domain": {"id": "default"}});
            with_user(&user, &json!({"project": {"name": "red", "domain": {"id": "default"}}}))
        };
        let project = "/auth/scope/project";
        for (at, name, value) in [
            ("", "trust_id", json!("geheim")),
            ("/auth", "trust_id", json!("geheim")),
            ("/auth/identity", "external", json!({"geheim": 1})),
            ("/auth/identity", "token", json!({"id": "geheim"})),
            ("/auth/identity/password", "passcode", json!(7)),
            ("/auth/identity/password/user", "passcode", json!("geheim")),
            ("/auth/identity/password/user", "id", json!(ID)),
            ("/auth/identity/password/user/domain", "geheim", json!(false)),
            ("/auth/scope", "OS-TRUST:trust", json!({"id": "geheim"})),
            ("/auth/scope", "system", json!({"all": true})),
            ("/auth/scope", "domain", json!({"id": "default"})),
            ("/auth/scope", "unscoped", json!({})),
            (project, "id", json!(ID)),
            (project, "is_domain", json!(true)),
            ("/auth/scope/project/domain", &"geheim".repeat(50), json!([])),
        ] {
            let mut more = body();
            more.pointer_mut(at).unwrap()[name] = value;
            let fault = issue(more.to_string().as_bytes()).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid, "{more}");
            let is_named = name == "geheim";
            assert!(is_named || !format!("{fault:?}").contains("geheim"), "{fault:?}");
        }
        // What is null or empty was not asked for.
        for (at, value) in [("/auth", Value::Null), ("/auth", json!("")), (project, Value::Null)] {
            let mut more = body();
            more.pointer_mut(at).unwrap()["trust_id"] = value;
            let (_, scope) = asked(&more).unwrap();
            assert_eq!(scope, Some(Named::Name("red".to_owned())));
        }
        for scope in [json!({"unscoped": {"all": true}}), json!({"unscoped": {}, "system": {"all": true}})] {
            assert_eq!(asked(&with_user(&json!({"name": "alice", "password": "x"}), &scope)), Err(FaultKind::Invalid));
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let wish = asked(&with_user(&json!({"name": "alice", "password": "geheim"}), &Value::Null)).unwrap();
        assert!(!format!("{wish:?}").contains("geheim"));
    }

    #[test]
    fn the_old_version_names_users_and_tenants_by_id_or_name() {
        let read = |auth: Value| issue_by_old_version(json!({"auth": auth}).to_string().as_bytes());
        let password = || json!({"username": "alice", "password": "x"});
        let proof = || Proof::Password { user: Named::Name("alice".to_owned()), password: Secret::new("x") };
        for (auth, scope) in [
            (json!({"passwordCredentials": password()}), None),
            (json!({"passwordCredentials": password(), "tenantName": "", "tenantId": null}), None),
            (json!({"passwordCredentials": password(), "tenantName": "red"}), Some(Named::Name("red".to_owned()))),
            (
                json!({"passwordCredentials": password(), "tenantId": ID}),
                Some(Named::Id(TenantId::from_plain(ID).unwrap())),
            ),
        ] {
            assert_eq!(read(auth).unwrap(), AnonymousCommand::Issue { proof: proof(), scope });
        }
        let token = AnonymousCommand::Issue { proof: Proof::Token(Secret::new("t")), scope: None };
        assert_eq!(read(json!({"token": {"id": "t"}})).unwrap(), token);
        let nothing = json!({"passwordCredentials": password(), "trust_id": null});
        assert_eq!(read(nothing).unwrap(), AnonymousCommand::Issue { proof: proof(), scope: None });
        for wrong in [
            json!({}),
            json!({"passwordCredentials": {"password": "x"}}),
            json!({"passwordCredentials": []}),
            json!({"passwordCredentials": password(), "trust_id": "t"}),
            json!({"passwordCredentials": password(), "token": {"id": "t"}}),
            json!({"passwordCredentials": password(), "tenantId": ID, "tenantName": "red"}),
            json!({"passwordCredentials": {"username": "alice", "userId": ID, "password": "x"}}),
            json!({"passwordCredentials": {"username": "alice", "password": "x", "passcode": "7"}}),
            json!({"token": {"id": "t"}, "RAX-KSKEY:apiKeyCredentials": {}}),
        ] {
            assert_eq!(read(wrong.clone()).unwrap_err().kind, FaultKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_list_is_narrowed_by_every_parameter_that_it_takes() {
        let (method, headers) = (http::Method::GET, http::HeaderMap::new());
        let wanted = |query: &str| {
            let params = Vec::new();
            let call = Call { method: &method, path: "/v3/projects", params, query, headers: &headers, length: None };
            wanted_name(&call).ok()
        };
        let none = Some(Some(String::new()));
        assert_eq!(wanted("name=red&domain_id=default&enabled=True&is_domain=false"), Some(Some("red".to_owned())));
        assert_eq!(wanted("parent_id=default"), Some(None));
        for other in ["domain_id=x&name=red", "enabled=0", "is_domain=1", "is_domain", "parent_id=x"] {
            assert_eq!(wanted(other), none, "{other}");
        }
        assert_eq!(wanted("enabled=x"), None);
    }
}
