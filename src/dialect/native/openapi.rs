//! The description of this API, by OpenAPI 3.1: of every route in the table, with the schemas that stand beside the
//! code that writes and reads what they are of.
//!
//! Schemas are written as the JSON that they are, as the views beside them are. A crate that derives them wants a type
//! for each view; what holds the two together here is a test, which compares every answer with its schema.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::super::{
    Anonymous, Answer, Call, Endpoint, Entry, OpenOperation, Operation, Places, Reply, Route, reply, resumable,
};
use super::{ROUTES, body, pieces, receipts, sessions, transfers, view};
use crate::domain::{Fault, Outcome};

/// The document.
#[derive(Debug)]
pub(super) struct Document;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| format!("{:#}\n", document()).into());

impl Operation for Document {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Discovered = outcome else { return None };
        Some(reply(StatusCode::OK, "application/json", DOCUMENT.clone()))
    }

    fn described(&self) -> Option<Value> {
        let media = json!({"application/json": {"schema": {"type": "object"}}});
        Some(json!({
            "operationId": "describe",
            "responses": {"200": {"description": "This document.", "content": media}},
        }))
    }
}

impl OpenOperation for Document {
    fn decode(&'static self, _: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Discover, Answer::of(self)))
    }
}

const ABOUT: &str = "Uploads that survive (transfers), the state of sessions, and receipts of drives. Other things are \
    done by the dialects of other APIs, which are about the same drives.\n\nA query parameter or a member of a body \
    that a call does not know is refused with 400, and so is one that is there twice. `null` in a body is as good as \
    absent. Refusals are 400 for what is wrong in itself, 401 without a login, 403 over a quota, 404 also for what is \
    another tenant's, 409 for what does not fit the state, 410 for a transfer that has ended, 413 and 415 for a body \
    that is too large or of a wrong type, 422 for other bytes than those of an asserted digest, 429 and 503 with \
    `Retry-After`, and 507 without room on the disk.";

fn document() -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.pattern.to_owned(), path_item(route))).collect();
    json!({
        "openapi": "3.1.1",
        "info": {"title": "Longshore", "version": "1", "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": refusals(),
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Auth-Token",
                    "description": "A token of the identity service.",
                },
            },
        },
    })
}

/// Every schema by its name, each from beside the code that it is about.
fn schemas() -> Map<String, Value> {
    let of_transfers = [view::schemas(), transfers::schemas(), body::schemas(), pieces::schemas()];
    let all = of_transfers.into_iter().chain([sessions::schemas(), receipts::schemas()]);
    let all = all.flatten().chain([("Error", error()), ("Problem", resumable::schema())]);
    all.map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn path_item(route: &Route) -> Value {
    let mut item = Map::new();
    let id = json!({"type": "string", "format": "uuid"});
    let in_path = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": id});
    let parameters: Vec<Value> = parameters_of(route.pattern).map(in_path).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    for endpoint in route.endpoints {
        let operation = operation(endpoint);
        if endpoint.method == Method::GET {
            item.insert("head".to_owned(), without_content(operation.clone()));
        }
        item.insert(endpoint.method.as_str().to_ascii_lowercase(), operation);
    }
    item.into()
}

/// The names of the parameters in a pattern.
fn parameters_of(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = endpoint.op().described().unwrap_or_default();
    operation["summary"] = endpoint.summary.into();
    let refused = |name: &str| json!({"$ref": format!("#/components/responses/{name}")});
    let responses = &mut operation["responses"];
    for (status, name) in [("4XX", "Refused"), ("5XX", "Failed")] {
        if responses.get(status).is_none() {
            responses[status] = refused(name);
        }
    }
    if is_guarded(&endpoint.entry) {
        operation["responses"]["401"] = refused("Unknown");
        operation["security"] = json!([{"password": []}, {"token": []}]);
    } else {
        operation["security"] = json!([]);
    }
    operation
}

const fn is_guarded(entry: &Entry) -> bool {
    match entry {
        Entry::Known(_) | Entry::Receive(..) | Entry::Part(Some(_), _) | Entry::Form(..) => true,
        Entry::Anonymous(_) | Entry::Part(None, _) | Entry::Unpack(_) | Entry::Send(_) | Entry::Probe(_) => false,
    }
}

/// `HEAD` as it is answered where `GET` is this. An id is of one operation.
fn without_content(mut operation: Value) -> Value {
    let object = operation.as_object_mut();
    object.map(|object| object.remove("operationId"));
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        response.as_object_mut().map(|response| response.remove("content"));
    }
    operation
}

fn refusals() -> Value {
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
    let text = json!({"schema": {"type": "string"}});
    let seconds = json!({"schema": {"type": "integer"}, "description": "The seconds after which to try again."});
    json!({
        "Refused": {
            "description": "The request was refused.",
            "headers": {"Allow": text, "Retry-After": seconds},
            "content": content,
        },
        "Unknown": {
            "description": "A login is needed.",
            "headers": {"WWW-Authenticate": text},
            "content": content,
        },
        "Failed": {
            "description": "The server cannot do it now.",
            "headers": {"Retry-After": seconds},
            "content": content,
        },
    })
}

/// What [`super::error`] writes.
fn error() -> Value {
    let message = json!({"type": "string", "description": "The reason, for people."});
    let field = json!({"type": ["string", "null"], "description": "What in the request is wrong."});
    object(&json!({"error": object(&json!({"message": message, "field": field}))}))
}

/// An object that has all of these members.
pub(super) fn object(properties: &Value) -> Value {
    let required: Vec<Value> = properties.as_object().into_iter().flat_map(Map::keys).map(|name| json!(name)).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// An object that has these members as well.
pub(super) fn with(mut schema: Value, more: &Value) -> Value {
    for (name, property) in more.as_object().into_iter().flatten() {
        schema["properties"][name] = property.clone();
        schema["required"].as_array_mut().into_iter().for_each(|required| required.push(json!(name)));
    }
    schema
}

/// The schema of this name.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An answer in JSON.
pub(super) fn json_answer(description: &str, schema: &str) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": reference(schema)}}})
}

/// An answer of one line of text.
pub(in crate::dialect) fn text_answer(description: &str) -> Value {
    json!({"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}})
}

/// A refusal that may be told as a problem (RFC 9457).
pub(in crate::dialect) fn problem() -> Value {
    json!({
        "description": "The request was refused.",
        "content": {
            "application/json": {"schema": reference("Error")},
            "application/problem+json": {"schema": reference("Problem")},
        },
    })
}

/// An answer without content.
pub(super) fn empty_answer(description: &str) -> Value {
    json!({"description": description})
}

/// A body in JSON.
pub(super) fn json_body(schema: &str, is_required: bool) -> Value {
    json!({"required": is_required, "content": {"application/json": {"schema": reference(schema)}}})
}

/// A parameter of the query.
pub(super) fn query(name: &str, schema: &Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "schema": schema, "description": description})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn operations() -> impl Iterator<Item = (&'static Route, &'static Endpoint)> {
        ROUTES.iter().flat_map(|route| route.endpoints.iter().map(move |endpoint| (route, endpoint)))
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            described.extend(methods.map(|method| (path.clone(), method.to_uppercase())));
        }
        let mut served = BTreeSet::new();
        for route in ROUTES {
            served.extend(route.allow.split(", ").map(|method| (route.pattern.to_owned(), method.to_owned())));
        }
        assert_eq!(described, served);
    }

    #[test]
    fn every_operation_tells_its_parameters_and_whether_it_takes_a_body() {
        let mut ids = BTreeSet::new();
        for (route, endpoint) in operations() {
            let told = endpoint.op().described().expect(route.pattern);
            assert!(ids.insert(told["operationId"].as_str().expect("an id").to_owned()), "{}", route.pattern);
            let parameters = told["parameters"].as_array().cloned().unwrap_or_default();
            let of_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            let names: BTreeSet<&str> = of_query.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            let taken: BTreeSet<&str> = endpoint.op().parameters().iter().copied().collect();
            assert_eq!(names, taken, "{} {}", endpoint.method, route.pattern);
            let takes_body = match &endpoint.entry {
                Entry::Anonymous(open) => open.body.is_some(),
                Entry::Known(known) => known.body.is_some(),
                _ => true,
            };
            assert_eq!(told["requestBody"].is_object(), takes_body, "{} {}", endpoint.method, route.pattern);
        }
    }

    #[test]
    fn every_reference_leads_to_something() {
        fn check(value: &Value, document: &Value) {
            if let Some(reference) = value.get("$ref") {
                let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{pointer}");
            }
            let children = value.as_object().map(|object| object.values().collect::<Vec<_>>());
            let children = children.or_else(|| value.as_array().map(|array| array.iter().collect()));
            children.into_iter().flatten().for_each(|child| check(child, document));
        }
        let document = document();
        check(&document, &document);
    }
}
