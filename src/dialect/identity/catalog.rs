//! Where the services are, as clients look them up: by type and interface.
//!
//! All of them are served by the control side, under paths of their own.

use serde_json::{Value, json};

use crate::domain::TenantId;

/// A service in the catalog.
struct Service {
    kind: &'static str,
    /// The common one of that type; libcloud takes no service of another.
    name: &'static str,
    path: &'static str,
    /// Whether the project's id follows the path.
    is_per_project: bool,
}

/// A volume service has a type for each version in old clients (`volume`, `volumev2`, `volumev3`) and one for all in
/// new ones (`block-storage`).
const SERVICES: [Service; 6] = [
    Service { kind: "volume", name: "cinder", path: "/v1", is_per_project: true },
    Service { kind: "volumev2", name: "cinderv2", path: "/v2", is_per_project: true },
    Service { kind: "volumev3", name: "cinderv3", path: "/v3", is_per_project: true },
    Service { kind: "block-storage", name: "cinder", path: "/v3", is_per_project: true },
    Service { kind: "compute", name: "nova", path: "/v2", is_per_project: true },
    Service { kind: "identity", name: "keystone", path: "/v3", is_per_project: false },
];

const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

impl Service {
    fn url(&self, base: &str, project: TenantId) -> String {
        let project = if self.is_per_project { format!("/{}", project.plain()) } else { String::new() };
        format!("{base}{}{project}", self.path)
    }
}

/// Ids that are the same in every run; 0 is of none.
fn id(number: usize) -> String {
    format!("{number:032x}")
}

/// The services as records.
pub(super) fn services() -> Vec<Value> {
    let service = |(at, service): (usize, &Service)| {
        json!({
            "id": id(at + 1), "type": service.kind, "name": service.name, "description": "", "enabled": true,
        })
    };
    SERVICES.iter().enumerate().map(service).collect()
}

/// The endpoints as records, whose URLs have a place for the id of a project.
pub(super) fn endpoints(base: &str, region: &str) -> Vec<Value> {
    let mut endpoints = Vec::new();
    for (at, service) in SERVICES.iter().enumerate() {
        let project = if service.is_per_project { "/$(project_id)s" } else { "" };
        for (place, interface) in INTERFACES.iter().enumerate() {
            endpoints.push(json!({
                "id": id(16 * (at + 1) + place),
                "interface": interface,
                "region": region,
                "region_id": region,
                "service_id": id(at + 1),
                "url": format!("{base}{}{project}", service.path),
                "enabled": true,
            }));
        }
    }
    endpoints
}

/// The catalog of version 3.
pub(super) fn catalog(base: &str, project: TenantId, region: &str) -> Value {
    let endpoints = |at: usize, service: &Service| -> Vec<Value> {
        let endpoint = |(place, interface): (usize, &&str)| {
            json!({
                "id": id(16 * (at + 1) + place),
                "interface": interface,
                "region": region,
                "region_id": region,
                "url": service.url(base, project),
            })
        };
        INTERFACES.iter().enumerate().map(endpoint).collect()
    };
    let service = |(at, service): (usize, &Service)| json!({"id": id(at + 1), "type": service.kind, "name": service.name, "endpoints": endpoints(at, service)});
    SERVICES.iter().enumerate().map(service).collect()
}

/// The catalog of version 2.0, which names the identity service of that version.
pub(super) fn old_catalog(base: &str, project: TenantId, region: &str) -> Value {
    let service = |(at, service): (usize, &Service)| {
        let url = if service.kind == "identity" { format!("{base}/v2.0") } else { service.url(base, project) };
        let endpoint = json!({
            "id": id(16 * (at + 1)), "region": region, "publicURL": url, "internalURL": url, "adminURL": url,
        });
        json!({"type": service.kind, "name": service.name, "endpoints": [endpoint], "endpoints_links": []})
    };
    SERVICES.iter().enumerate().map(service).collect()
}
