//! What is the same for every deployment and is only listed and shown: roles, the domain, the region, the services and
//! their endpoints.
//!
//! Nothing of it is secret: a token tells its holder as much.

use serde_json::{Value, json};

use super::super::{Call, query};
use super::catalog;
use super::decode::flag;
use super::{DOMAIN_ID, DOMAIN_NAME};
use crate::domain::Fault;

/// The roles, with ids that are the same in every run.
pub(super) const ADMIN: (&str, &str) = ("00000000000000000000000000000a01", "admin");
pub(super) const MEMBER: (&str, &str) = ("00000000000000000000000000000a02", "member");
pub(super) const READER: (&str, &str) = ("00000000000000000000000000000a03", "reader");

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Role,
    Domain,
    /// There are none.
    Group,
    Region,
    Service,
    Endpoint,
}

impl Kind {
    /// One of it, as an object of a body and in faults.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Domain => "domain",
            Self::Group => "group",
            Self::Region => "region",
            Self::Service => "service",
            Self::Endpoint => "endpoint",
        }
    }

    /// Many of it, in a body and in the path.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::Domain => "domains",
            Self::Group => "groups",
            Self::Region => "regions",
            Self::Service => "services",
            Self::Endpoint => "endpoints",
        }
    }

    /// The members that a list can be narrowed by.
    pub(super) const fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Role | Self::Group => &["domain_id", "name"],
            Self::Domain => &["enabled", "name"],
            Self::Region => &["parent_region_id"],
            Self::Service => &["name", "type"],
            Self::Endpoint => &["interface", "region_id", "service_id"],
        }
    }

    /// All records, under this address of the service.
    pub(super) fn all(self, base: &str, region: &str) -> Vec<Value> {
        let mut records = match self {
            Self::Role => [ADMIN, MEMBER, READER].map(role).into(),
            Self::Domain => vec![json!({
                "id": DOMAIN_ID, "name": DOMAIN_NAME, "description": "", "enabled": true, "options": {},
            })],
            Self::Group => Vec::new(),
            Self::Region => vec![json!({"id": region, "description": "", "parent_region_id": null})],
            Self::Service => catalog::services(),
            Self::Endpoint => catalog::endpoints(base, region),
        };
        for record in &mut records {
            let link = format!("{base}/v3/{}/{}", self.plural(), record["id"].as_str().unwrap_or_default());
            record["links"] = json!({"self": link});
        }
        records
    }

    /// The record with this id.
    pub(super) fn one(self, id: &str, base: &str, region: &str) -> Option<Value> {
        self.all(base, region).into_iter().find(|record| record["id"] == id)
    }

    /// Those that a call asks for.
    pub(super) fn listed(self, call: &Call, base: &str, region: &str) -> Vec<Value> {
        let mut records = self.all(base, region);
        records.retain(|record| query::pairs(call.query).all(|(name, wanted)| is_like(record, &name, &wanted)));
        records
    }

    /// Whether a list can be narrowed as this call asks for.
    pub(super) fn check(self, call: &Call) -> Result<(), Fault> {
        for (name, value) in query::pairs(call.query) {
            if !self.filters().contains(&name.as_str()) {
                return Err(query::unknown(&name));
            }
            if name == "enabled" {
                flag(&name, &value)?;
            }
        }
        Ok(())
    }
}

fn role((id, name): (&str, &str)) -> Value {
    json!({"id": id, "name": name, "description": "", "domain_id": null, "options": {}})
}

fn is_like(record: &Value, name: &str, wanted: &str) -> bool {
    match &record[name] {
        Value::Bool(is_so) => flag(name, wanted).is_ok_and(|wanted| wanted == *is_so),
        Value::String(text) => text == wanted,
        _ => wanted.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    const KINDS: [Kind; 6] = [Kind::Role, Kind::Domain, Kind::Group, Kind::Region, Kind::Service, Kind::Endpoint];

    fn with_call<T>(query: &str, run: impl FnOnce(&Call) -> T) -> T {
        let (method, headers) = (Method::GET, HeaderMap::new());
        run(&Call { method: &method, path: "/v3/x", params: Vec::new(), query, headers: &headers, length: None })
    }

    #[test]
    fn a_list_is_narrowed_by_every_filter_of_its_kind_and_by_no_other() {
        let count = |kind: Kind, query: &str| {
            with_call(query, |call| kind.check(call).ok().map(|()| kind.listed(call, "http://h", "here").len()))
        };
        for (kind, query, found) in [
            (Kind::Role, "", 3),
            (Kind::Role, "name=reader", 1),
            (Kind::Role, "name=owner", 0),
            (Kind::Role, "domain_id=", 3),
            (Kind::Role, "domain_id=default", 0),
            (Kind::Domain, "name=Default&enabled=true", 1),
            (Kind::Domain, "enabled=0", 0),
            (Kind::Group, "", 0),
            (Kind::Region, "", 1),
            (Kind::Region, "parent_region_id=x", 0),
            (Kind::Service, "type=volumev3", 1),
            (Kind::Service, "type=volumev3&name=cinder", 0),
            (Kind::Endpoint, "", 18),
            (Kind::Endpoint, "interface=public", 6),
            (Kind::Endpoint, "region_id=there", 0),
            (Kind::Endpoint, "service_id=00000000000000000000000000000003&interface=admin", 1),
        ] {
            assert_eq!(count(kind, query), Some(found), "{kind:?} {query}");
        }
        assert_eq!(count(Kind::Domain, "enabled=x"), None);
        for kind in KINDS {
            assert_eq!(count(kind, "limit=1"), None, "{kind:?}");
        }
    }

    #[test]
    fn each_record_is_shown_by_the_id_that_its_list_tells() {
        for kind in KINDS {
            for record in kind.all("http://h", "here") {
                let id = record["id"].as_str().unwrap();
                assert_eq!(kind.one(id, "http://h", "here").as_ref(), Some(&record), "{kind:?}");
                assert_eq!(record["links"]["self"], format!("http://h/v3/{}/{id}", kind.plural()));
            }
            assert_eq!(kind.one("x", "http://h", "here"), None);
        }
    }
}
