//! The query of a list: filters, order, and which page.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::super::{Call, Places, query};
use super::body::{checked_pairs, digits, flag_named};
use super::{Op, Version, status};
use crate::domain::{BackupRef, BlockQuery, Direction, Fault, FaultKind, ServerQuery, SortKey, TenantId};

/// The most things of a page, and how many it has when the client does not say.
const PAGE: u32 = 1000;

/// A list of parameters with those of every list of block storage.
macro_rules! with_pages {
    ($($name:literal),+) => {
        &[
            "all_tenants", "limit", "marker", "offset", "sort", "sort_dir", "sort_key",
            "display_name", "id", "name", "project_id", "status", "tenant_id", "user_id", $($name),+
        ]
    };
}

// With `encrypted`, `host` and the like as with what nothing here is or has: they are answered, with nothing or with
// all.

/// What a list of volumes takes.
pub(super) const VOLUMES: &[&str] = with_pages![
    "availability_zone",
    "bootable",
    "cluster_name",
    "consistencygroup_id",
    "description",
    "display_description",
    "encrypted",
    "glance_metadata",
    "group_id",
    "host",
    "metadata",
    "migration_status",
    "multiattach",
    "replication_status",
    "size",
    "snapshot_id",
    "source_volid",
    "volume_type",
    "volume_type_id"
];

/// What a list of snapshots takes.
pub(super) const SNAPSHOTS: &[&str] = with_pages![
    "availability_zone",
    "cgsnapshot_id",
    "description",
    "display_description",
    "group_snapshot_id",
    "metadata",
    "size",
    "volume_id",
    "volume_size"
];

/// What a list of backups takes.
pub(super) const BACKUPS: &[&str] = with_pages![
    "availability_zone",
    "description",
    "display_description",
    "host",
    "is_incremental",
    "parent_id",
    "size",
    "snapshot_id",
    "volume_id"
];

/// Which part of a list a call wants. That it has no other parameters is known.
///
/// Cinder removes the filters of callers who are no administrators, but a few, and answers with more than was asked
/// for. Here they are obeyed, with one exception: `all_tenants`, which clients send for everybody, is not heeded then.
pub(super) fn decode(op: Op, call: &Call) -> Result<BlockQuery, Fault> {
    let mut wanted = BlockQuery { limit: Some(PAGE), ..BlockQuery::default() };
    // A true question whose answer is "none": of a word that is no state, or an id that nothing can have.
    let mut is_void = false;
    let mut order = Order::default();
    let is_of_backups = matches!(op, Op::Backups | Op::BackupsDetail);
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "limit" => wanted.limit = Some(limit_named(&value)?),
            "offset" => wanted.offset = number(&name, &value)?,
            "marker" if value.is_empty() => {}
            "marker" if is_of_backups => wanted.backup_marker = Some(backup_marker(call, &value)?),
            "marker" => wanted.marker = Some(value.parse().map_err(|_| no_marker())?),
            "sort" => order.sort = Some(value),
            "sort_key" => order.keys.push(value),
            "sort_dir" => order.directions.push(direction_named(&value)?),
            "all_tenants" => wanted.all_tenants = flag(&name, &value)?,
            "name" | "display_name" => is_void |= !narrowed(&mut wanted.name, Some(value)),
            "description" | "display_description" => is_void |= !narrowed(&mut wanted.description, Some(value)),
            "status" => is_void |= !filter_by_status(op, &value, &mut wanted),
            "id" => is_void |= !narrowed(&mut wanted.id, value.parse().ok()),
            "project_id" | "tenant_id" => is_void |= !narrowed(&mut wanted.tenant, tenant_named(&value)),
            // Who made a backup is not known of it.
            "user_id" if is_of_backups => is_void = true,
            "user_id" => is_void |= !narrowed(&mut wanted.user, Some(value)),
            "size" | "volume_size" => is_void |= !narrowed(&mut wanted.gib, Some(number(&name, &value)?)),
            "volume_id" => is_void |= !narrowed(&mut wanted.volume, value.parse().ok()),
            "snapshot_id" => is_void |= !narrowed(&mut wanted.snapshot, value.parse().ok()),
            "source_volid" => is_void |= !narrowed(&mut wanted.source, value.parse().ok()),
            "volume_type" | "volume_type_id" => is_void |= !narrowed(&mut wanted.volume_type, Some(value)),
            "bootable" => is_void |= !narrowed(&mut wanted.bootable, Some(flag(&name, &value)?)),
            "availability_zone" => is_void |= !narrowed(&mut wanted.zone, Some(value)),
            "metadata" => wanted.metadata = pairs(&name, &value)?,
            "glance_metadata" => wanted.image = pairs(&name, &value)?,
            "migration_status" => is_void |= !narrowed(&mut wanted.migration, migration_wanted(&value)),
            // Nothing is so.
            "encrypted" | "multiattach" | "is_incremental" => is_void |= flag(&name, &value)?,
            // Nothing has one.
            "cgsnapshot_id"
            | "cluster_name"
            | "consistencygroup_id"
            | "group_id"
            | "group_snapshot_id"
            | "host"
            | "parent_id"
            | "replication_status" => is_void = true,
            _ => return Err(query::unknown(&name)),
        }
    }
    wanted.sort = order.read(op, call)?;
    if is_void {
        wanted.limit = Some(0);
    }
    Ok(wanted)
}

/// The part of a list that is known whole: of few things, which the server's own settings or one server bound.
#[derive(Debug)]
pub(super) struct Part {
    limit: usize,
    offset: usize,
    marker: Option<String>,
}

/// The first page.
impl Default for Part {
    fn default() -> Self {
        Self { limit: PAGE as usize, offset: 0, marker: None }
    }
}

impl Part {
    /// That which a query asks for.
    pub(super) fn read(call: &Call) -> Result<Self, Fault> {
        let mut part = Self::default();
        for (name, value) in query::pairs(call.query) {
            part.take(&name, &value)?;
        }
        Ok(part)
    }

    /// Heeds one parameter, if it is of a part.
    fn take(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        match name {
            "limit" => self.limit = limit_named(value)? as usize,
            "offset" => self.offset = usize::try_from(number::<u64>(name, value)?).unwrap_or(usize::MAX),
            "marker" => self.marker = Some(value.to_owned()).filter(|marker| !marker.is_empty()),
            _ => {}
        }
        Ok(())
    }

    /// These things of the list, and whether more follow them. Fails when the marker is none of them.
    pub(super) fn of<'t, T>(&self, all: &'t [T], id: impl Fn(&T) -> &str) -> Result<(&'t [T], bool), Fault> {
        let begin = match &self.marker {
            None => 0,
            Some(marker) => all.iter().position(|one| id(one) == marker).ok_or_else(no_marker)? + 1,
        };
        let rest = all.get(begin.saturating_add(self.offset)..).unwrap_or_default();
        Ok((&rest[..rest.len().min(self.limit)], rest.len() > self.limit))
    }
}

/// Which part of the list of types, all of which are public; none when others are asked for.
pub(super) fn types(call: &Call) -> Result<Part, Fault> {
    let (mut part, mut is_void) = (Part::default(), false);
    for (name, value) in query::pairs(call.query) {
        match (name.as_str(), value.as_str()) {
            // Of everybody's types.
            ("is_public", "None" | "none" | "") => {}
            ("is_public", value) => is_void = !flag(&name, value)?,
            ("all_tenants", value) => drop(flag(&name, value)?),
            (name, value) => part.take(name, value)?,
        }
    }
    if is_void {
        // Behind the end, where nothing follows.
        part.offset = usize::MAX;
    }
    Ok(part)
}

/// Whose limits are asked for, when that is said.
pub(super) fn limits(call: &Call) -> Result<Option<TenantId>, Fault> {
    let mut tenant = None;
    for (name, value) in query::pairs(call.query) {
        if name == "reserved" {
            // Compute's: whether to count what is reserved. Nothing is that is not used.
            flag(&name, &value)?;
            continue;
        }
        let told = || Fault::new(FaultKind::NotFound, format!("Project {value} could not be found."));
        let named = tenant_named(&value).ok_or_else(told)?;
        if !narrowed(&mut tenant, Some(named)) {
            return Err(Fault::invalid(name, "project_id and tenant_id name two projects"));
        }
    }
    Ok(tenant)
}

/// Which of the servers. Of these is known what is attached to them, and no more: no other filter could be obeyed.
pub(super) fn servers(call: &Call) -> Result<ServerQuery, Fault> {
    let mut wanted = ServerQuery { limit: PAGE, ..ServerQuery::default() };
    let mut is_void = false;
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "limit" => wanted.limit = limit_named(&value)?,
            "marker" => wanted.marker = Some(value).filter(|marker| !marker.is_empty()),
            "all_tenants" | "all_projects" => wanted.all_tenants |= flag(&name, &value)?,
            "project_id" | "tenant_id" => is_void |= !narrowed(&mut wanted.tenant, tenant_named(&value)),
            "status" => is_void |= !value.eq_ignore_ascii_case(status::SERVER),
            "deleted" => is_void |= flag(&name, &value)?,
            _ => return Err(query::unknown(&name)),
        }
    }
    if is_void {
        wanted.limit = 0;
    }
    Ok(wanted)
}

/// As many things as a page may have. With none asked for, the page is empty.
fn limit_named(text: &str) -> Result<u32, Fault> {
    number("limit", text).map(|limit: u32| limit.min(PAGE))
}

/// Whether one thing can still be what is wanted: a value, and the same as was wanted before.
fn narrowed<T: PartialEq>(wanted: &mut Option<T>, value: Option<T>) -> bool {
    let can_be = value.is_some() && (wanted.is_none() || *wanted == value);
    *wanted = value;
    can_be
}

fn no_marker() -> Fault {
    Fault::invalid("marker", "the marker is nothing of this list")
}

/// Version 1 counts its backups.
fn backup_marker(call: &Call, text: &str) -> Result<BackupRef, Fault> {
    let named = match Version::of(call.path) {
        Version::V1 => digits(text).map(BackupRef::Number),
        Version::V2 | Version::V3 => text.parse().ok().map(BackupRef::Id),
    };
    named.ok_or_else(no_marker)
}

/// A project, in either spelling of its id.
fn tenant_named(text: &str) -> Option<TenantId> {
    TenantId::from_plain(text).or_else(|| text.parse().ok())
}

/// Where the page after the one that ended with `last` is.
pub(super) fn next(call: &Call, places: &Places, last: &str) -> String {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let is_kept = |pair: &&str| !pair.is_empty() && !["marker", "offset"].contains(&name(pair).as_str());
    let mut pairs: Vec<String> = call.query.split('&').filter(is_kept).map(str::to_owned).collect();
    if !pairs.iter().any(|pair| name(pair) == "limit") {
        pairs.push(format!("limit={PAGE}"));
    }
    pairs.push(format!("marker={last}"));
    format!("{}{}?{}", places.control, call.path, pairs.join("&"))
}

/// The word for a migration that a volume can have.
fn migration_wanted(word: &str) -> Option<String> {
    status::migration_named(word).filter(|word| !word.is_empty())
}

/// Whether anything can have this status.
fn filter_by_status(op: Op, word: &str, wanted: &mut BlockQuery) -> bool {
    if matches!(op, Op::Backups | Op::BackupsDetail) {
        wanted.backup_state = status::backup_named(word);
        return wanted.backup_state.is_some();
    }
    let states = if matches!(op, Op::Volumes | Op::VolumesDetail) {
        wanted.mark = status::mark_of_volume(word);
        status::states_named(word, status::volume)
    } else {
        wanted.mark = status::mark_of_snapshot(word);
        status::states_named(word, status::snapshot)
    };
    let can_be = !states.is_empty() || wanted.mark.is_some();
    wanted.states = can_be.then_some(states);
    can_be
}

/// How a list is to be sorted, as it is told: in one parameter or in two.
#[derive(Default)]
struct Order {
    sort: Option<String>,
    keys: Vec<String>,
    directions: Vec<Direction>,
}

impl Order {
    fn read(self, op: Op, call: &Call) -> Result<Vec<(SortKey, Direction)>, Fault> {
        let Self { sort, keys, directions } = self;
        if let Some(sort) = sort.filter(|sort| !sort.is_empty()) {
            if !keys.is_empty() || !directions.is_empty() {
                return Err(Fault::invalid("sort", "a list is sorted by sort, or by sort_key and sort_dir"));
            }
            let pair = |pair: &str| {
                let (key, direction) = pair.split_once(':').map_or((pair, None), |(key, word)| (key, Some(word)));
                Ok((key_named(key)?, direction.map(direction_named).transpose()?.unwrap_or_default()))
            };
            return sort.split(',').filter(|pair| !pair.is_empty()).map(pair).collect();
        }
        match (&keys[..], &directions[..]) {
            ([], []) => {
                // The document lists the latest first, but backups, which version 1 counts, as they were made.
                let counts = Version::of(call.path) == Version::V1 && matches!(op, Op::Backups | Op::BackupsDetail);
                let direction = if counts { Direction::Ascending } else { Direction::Descending };
                Ok(vec![(SortKey::Created, direction)])
            }
            ([], [direction]) => Ok(vec![(SortKey::Created, *direction)]),
            _ if directions.len() > keys.len() => {
                Err(Fault::invalid("sort_dir", "there are more of sort_dir than of sort_key"))
            }
            _ => {
                let directions = directions.into_iter().chain(std::iter::repeat_with(Direction::default));
                keys.iter().zip(directions).map(|(key, direction)| Ok((key_named(key)?, direction))).collect()
            }
        }
    }
}

fn key_named(word: &str) -> Result<SortKey, Fault> {
    Ok(match word {
        "created_at" => SortKey::Created,
        "id" => SortKey::Id,
        "name" | "display_name" => SortKey::Name,
        "size" => SortKey::Size,
        "status" => SortKey::State,
        "updated_at" => SortKey::Updated,
        other => return Err(Fault::invalid("sort", format!("a list cannot be sorted by {other:?}"))),
    })
}

fn direction_named(word: &str) -> Result<Direction, Fault> {
    match word {
        "asc" => Ok(Direction::Ascending),
        "desc" => Ok(Direction::Descending),
        _ => Err(Fault::invalid("sort_dir", "a list is sorted asc or desc")),
    }
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, Fault> {
    let wrong = || Fault::invalid(name, format!("{name} must be a whole number, not below zero"));
    digits(text).and_then(|_| text.parse().ok()).ok_or_else(wrong)
}

/// True or false: what looks like neither may be meant as either.
pub(super) fn flag(name: &str, text: &str) -> Result<bool, Fault> {
    flag_named(text).ok_or_else(|| Fault::invalid(name, format!("{name} must be true or false")))
}

fn pairs(name: &str, text: &str) -> Result<Map<String, Value>, Fault> {
    let wrong = || Fault::invalid(name, format!("{name} must be pairs, as in {{'key': 'value'}}"));
    pairs_of(text).ok_or_else(wrong)
}

/// Pairs as JSON has them, or as Python's clients print them.
fn pairs_of(text: &str) -> Option<Map<String, Value>> {
    let pairs = match serde_json::from_str(text) {
        Ok(Value::Object(pairs)) => pairs,
        Ok(_) => return None,
        Err(_) => python_pairs(text)?,
    };
    checked_pairs(pairs, "metadata").ok()
}

fn python_pairs(text: &str) -> Option<Map<String, Value>> {
    let mut pairs = Map::new();
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    while !rest.is_empty() {
        let (key, after) = python_text(rest)?;
        let (value, after) = python_text(after.trim_start().strip_prefix(':')?.trim_start())?;
        pairs.insert(key, value.into());
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(pairs)
}

/// A string literal in either kind of quotes, and what follows it.
fn python_text(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('u').unwrap_or(text);
    let quote = text.chars().next().filter(|char| ['\'', '"'].contains(char))?;
    let mut read = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            char if char == quote => return Some((read, text.get(at + 1..)?)),
            '\\' => read.push(chars.next()?.1),
            other => read.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::domain::{BackupState, VolumeState};

    fn decoded(op: Op, query: &str) -> Result<BlockQuery, Fault> {
        with_call(query, |call| decode(op, call))
    }

    fn with_call<T>(query: &str, then: impl FnOnce(&Call) -> T) -> T {
        with_path("/v2/t/volumes/detail", query, then)
    }

    fn with_path<T>(path: &str, query: &str, then: impl FnOnce(&Call) -> T) -> T {
        let (method, headers) = (Method::GET, HeaderMap::new());
        then(&Call { method: &method, path, params: Vec::new(), query, headers: &headers, length: None })
    }

    fn volumes(query: &str) -> BlockQuery {
        decoded(Op::Volumes, query).unwrap()
    }

    #[test]
    fn a_page_is_bounded_whatever_is_asked() {
        assert_eq!(volumes("").limit, Some(PAGE));
        assert_eq!(volumes("limit=7&offset=2").limit, Some(7));
        assert_eq!(volumes("limit=7&offset=2").offset, 2);
        assert_eq!(volumes("limit=0").limit, Some(0));
        assert_eq!(volumes("limit=100000").limit, Some(PAGE));
        for wrong in ["limit=-1", "limit=x", "limit=", "limit=99999999999", "offset=-1", "offset=1.5", "marker=x"] {
            assert!(decoded(Op::Volumes, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_are_read() {
        let all = volumes("display_name=a+b&status=in-use&availability_zone=nova&all_tenants=1");
        assert_eq!(all.name.as_deref(), Some("a b"));
        assert_eq!(all.states, Some(vec![VolumeState::InUse]));
        assert_eq!(all.zone.as_deref(), Some("nova"));
        assert!(all.all_tenants);
        let backups = decoded(Op::BackupsDetail, "status=restoring&volume_id=01938c2e-7d10-7a42-9b51-3f0c5d2e8a77");
        let backups = backups.unwrap();
        assert_eq!(backups.backup_state, Some(BackupState::Restoring));
        assert!(backups.volume.is_some());
    }

    #[test]
    fn what_nothing_can_be_lists_nothing() {
        assert_eq!(volumes("status=nonsense").limit, Some(0));
        assert_eq!(decoded(Op::Backups, "status=in-use").unwrap().limit, Some(0));
        assert_eq!(decoded(Op::Snapshots, "volume_id=7").unwrap().limit, Some(0));
        let tenant = TenantId::random();
        for query in [
            "id=7",
            "project_id=x",
            "project_id=",
            "host=x",
            "host=",
            "migration_status=none",
            "group_id=x",
            "consistencygroup_id=x",
            "encrypted=True",
            "multiattach=1",
            "snapshot_id=x",
            "source_volid=",
            "name=a&display_name=b",
            &format!("project_id={tenant}&tenant_id={}", TenantId::random().plain()),
        ] {
            assert_eq!(volumes(query).limit, Some(0), "{query}");
        }
        for query in
            ["encrypted=False", "name=a&display_name=a", &format!("project_id={tenant}&tenant_id={}", tenant.plain())]
        {
            assert_eq!(volumes(query).limit, Some(PAGE), "{query}");
        }
        assert_eq!(decoded(Op::Backups, "user_id=x").unwrap().limit, Some(0));
    }

    #[test]
    fn each_parameter_of_a_list_changes_it_or_is_refused() {
        let id = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
        for (op, names) in [(Op::Volumes, VOLUMES), (Op::Snapshots, SNAPSHOTS), (Op::Backups, BACKUPS)] {
            let plain = decoded(op, "").unwrap();
            for name in names {
                let values = ["7", "x", "name", "True", "asc", id, "{'k': 'v'}", "migrating"];
                let heeded = |value: &&str| decoded(op, &format!("{name}={value}")).is_ok_and(|read| read != plain);
                assert!(values.iter().any(heeded), "{op:?} {name}");
            }
            assert!(decoded(op, "no_such=1").is_err());
        }
        for wrong in
            ["bootable=x", "size=x", "size=-1", "all_tenants=x", "encrypted=", "metadata=x", "glance_metadata=1"]
        {
            assert!(decoded(Op::Volumes, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_marker_of_backups_is_what_their_version_calls_them_by() {
        let marker = |query: &str| decoded(Op::Backups, query).map(|read| read.backup_marker).ok();
        let id = "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77";
        assert_eq!(marker(&format!("marker={id}")), Some(Some(BackupRef::Id(id.parse().unwrap()))));
        assert_eq!(marker("marker=3"), None);
        let first = with_path("/v1/t/backups", "marker=3", |call| decode(Op::Backups, call)).unwrap();
        assert_eq!(first.backup_marker, Some(BackupRef::Number(3)));
        assert_eq!(first.sort, [(SortKey::Created, Direction::Ascending)]);
    }

    #[test]
    fn metadata_is_read_as_python_and_json_print_it() {
        let expected = json!({"k": "v", "a b": "it's"}).as_object().cloned();
        for text in
            [r#"{"k": "v", "a b": "it's"}"#, r#"{'k': 'v', u"a b": u'it\'s'}"#, r#" { 'k':'v' ,'a b' : "it's", } "#]
        {
            assert_eq!(pairs_of(text), expected, "{text}");
        }
        assert_eq!(pairs_of("{}"), Some(Map::new()));
        for wrong in ["", "k=v", "{'k'}", "{'k': }", "{'k': 'v", "{'k': 'v'", "{k: v}", "{'k': 'v' 'b': 'c'}", "[1]"] {
            assert_eq!(pairs_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn order_is_read_in_both_spellings() {
        use Direction::{Ascending, Descending};
        assert_eq!(volumes("").sort, [(SortKey::Created, Descending)]);
        assert_eq!(
            volumes("sort=display_name:asc,size,id:desc").sort,
            [(SortKey::Name, Ascending), (SortKey::Size, Descending), (SortKey::Id, Descending)]
        );
        // Some clients send their parameters sorted.
        assert_eq!(
            volumes("sort_dir=asc&sort_key=name&sort_key=id").sort,
            [(SortKey::Name, Ascending), (SortKey::Id, Descending)]
        );
        assert_eq!(volumes("sort_key=name&sort_dir=asc").sort, [(SortKey::Name, Ascending)]);
        assert_eq!(volumes("sort_dir=asc").sort, [(SortKey::Created, Ascending)]);
        for wrong in [
            "sort=host",
            "sort=name:up",
            "sort_key=x",
            "sort_dir=x",
            "sort=id&sort_key=id",
            "sort_dir=asc&sort_dir=asc",
        ] {
            assert!(decoded(Op::Volumes, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_page_keeps_the_question() {
        let places = Places {
            control: "http://h".to_owned(),
            control_relative: true,
            direct: "http://h".to_owned(),
            direct_relative: true,
            identity: "http://h".to_owned(),
        };
        let link = |query| with_call(query, |call| next(call, &places, "id"));
        assert_eq!(link("limit=2&name=a%20b&marker=x"), "http://h/v2/t/volumes/detail?limit=2&name=a%20b&marker=id");
        assert_eq!(link(""), "http://h/v2/t/volumes/detail?limit=1000&marker=id");
    }
}
