//! The query of a list: filters, order, and which page.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::super::{Call, Places, query};
use super::body::{checked_pairs, digits, flag_named};
use super::{Op, Version, status};
use crate::domain::{BlockQuery, Direction, Fault, SortKey};

/// The most things of a page, and how many it has when the client does not say.
const PAGE: u32 = 1000;

/// Which part of a list a call wants. Parameters that are not known are passed over.
pub(super) fn decode(op: Op, call: &Call) -> Result<BlockQuery, Fault> {
    let mut wanted = BlockQuery { limit: Some(PAGE), ..BlockQuery::default() };
    // A true question whose answer is "none": of a word that is no state, or an id that nothing can have.
    let mut is_void = false;
    let mut keys: Vec<(String, Option<Direction>)> = Vec::new();
    for (name, value) in query::pairs(call.query) {
        match name.as_str() {
            "limit" => {
                let limit: u32 = number(&name, &value)?;
                // Zero is what no limit is to the service that this one is like.
                wanted.limit = Some(if limit == 0 { PAGE } else { limit.min(PAGE) });
            }
            "offset" => wanted.offset = number(&name, &value)?,
            "marker" if !value.is_empty() => {
                let wrong = |_| Fault::invalid("marker", "marker must be the id of the last of the page before");
                wanted.marker = Some(value.parse().map_err(wrong)?);
            }
            "sort" => {
                for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                    let (key, direction) = pair.split_once(':').map_or((pair, None), |(key, word)| (key, Some(word)));
                    keys.push((key.to_owned(), direction.map(direction_named).transpose()?));
                }
            }
            "sort_key" => keys.push((value, None)),
            "sort_dir" => {
                let direction = direction_named(&value)?;
                match keys.iter_mut().find(|(_, direction)| direction.is_none()) {
                    Some(first) => first.1 = Some(direction),
                    None => keys.push((String::new(), Some(direction))),
                }
            }
            "name" | "display_name" => wanted.name = Some(value),
            "status" => is_void |= !filter_by_status(op, &value, &mut wanted),
            "volume_id" if !matches!(op, Op::Volumes | Op::VolumesDetail) => {
                wanted.volume = value.parse().ok();
                is_void |= wanted.volume.is_none();
            }
            "availability_zone" => wanted.zone = Some(value),
            "metadata" => {
                let wrong = || Fault::invalid("metadata", "metadata must be pairs, as in {'key': 'value'}");
                wanted.metadata = pairs(&value).ok_or_else(wrong)?;
            }
            "all_tenants" => wanted.all_tenants = flag_named(&value).unwrap_or_default(),
            _ => {}
        }
    }
    wanted.sort = order(op, call, keys)?;
    if is_void {
        wanted.limit = Some(0);
    }
    Ok(wanted)
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

/// Whether anything can have this status.
fn filter_by_status(op: Op, word: &str, wanted: &mut BlockQuery) -> bool {
    if matches!(op, Op::Backups | Op::BackupsDetail) {
        wanted.backup_state = status::backup_named(word);
        return wanted.backup_state.is_some();
    }
    let table = if matches!(op, Op::Volumes | Op::VolumesDetail) { status::volume } else { status::snapshot };
    let states = status::states_named(word, table);
    let can_be = !states.is_empty();
    wanted.states = can_be.then_some(states);
    can_be
}

fn order(op: Op, call: &Call, keys: Vec<(String, Option<Direction>)>) -> Result<Vec<(SortKey, Direction)>, Fault> {
    if keys.is_empty() {
        // The document lists the latest first, but backups, which version 1 counts, as they were made.
        let counts = Version::of(call.path) == Version::V1 && matches!(op, Op::Backups | Op::BackupsDetail);
        let direction = if counts { Direction::Ascending } else { Direction::Descending };
        return Ok(vec![(SortKey::Created, direction)]);
    }
    let pair = |(key, direction): (String, Option<Direction>)| {
        let key = match key.as_str() {
            // A direction without a key.
            "" | "created_at" => SortKey::Created,
            "id" => SortKey::Id,
            "name" | "display_name" => SortKey::Name,
            "size" => SortKey::Size,
            "status" => SortKey::State,
            "updated_at" => SortKey::Updated,
            other => return Err(Fault::invalid("sort", format!("a list cannot be sorted by {other:?}"))),
        };
        Ok((key, direction.unwrap_or_default()))
    };
    keys.into_iter().map(pair).collect()
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

/// Pairs as JSON has them, or as Python's clients print them.
fn pairs(text: &str) -> Option<Map<String, Value>> {
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
        let (method, headers) = (Method::GET, HeaderMap::new());
        then(&Call {
            method: &method,
            path: "/v2/t/volumes/detail",
            params: &[],
            query,
            headers: &headers,
            length: None,
            body: b"",
            principal: None,
        })
    }

    fn volumes(query: &str) -> BlockQuery {
        decoded(Op::Volumes, query).unwrap()
    }

    #[test]
    fn a_page_is_bounded_whatever_is_asked() {
        assert_eq!(volumes("").limit, Some(PAGE));
        assert_eq!(volumes("limit=7&offset=2").limit, Some(7));
        assert_eq!(volumes("limit=7&offset=2").offset, 2);
        assert_eq!(volumes("limit=0").limit, Some(PAGE));
        assert_eq!(volumes("limit=100000").limit, Some(PAGE));
        for wrong in ["limit=-1", "limit=x", "limit=", "limit=99999999999", "offset=-1", "offset=1.5", "marker=x"] {
            assert!(decoded(Op::Volumes, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_are_read() {
        let all = volumes("display_name=a+b&status=in-use&availability_zone=nova&all_tenants=1&x=y&is_public=None");
        assert_eq!(all.name.as_deref(), Some("a b"));
        assert_eq!(all.states, Some(vec![VolumeState::InUse { clones: 0 }]));
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
    }

    #[test]
    fn metadata_is_read_as_python_and_json_print_it() {
        let expected = json!({"k": "v", "a b": "it's"}).as_object().cloned();
        for text in
            [r#"{"k": "v", "a b": "it's"}"#, r#"{'k': 'v', u"a b": u'it\'s'}"#, r#" { 'k':'v' ,'a b' : "it's", } "#]
        {
            assert_eq!(pairs(text), expected, "{text}");
        }
        assert_eq!(pairs("{}"), Some(Map::new()));
        for wrong in ["", "k=v", "{'k'}", "{'k': }", "{'k': 'v", "{'k': 'v'", "{k: v}", "{'k': 'v' 'b': 'c'}", "[1]"] {
            assert_eq!(pairs(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn order_is_read_in_both_spellings() {
        use Direction::{Ascending, Descending};
        assert_eq!(volumes("").sort, [(SortKey::Created, Descending)]);
        assert_eq!(
            volumes("sort=display_name:asc,size&sort_key=id&sort_dir=asc").sort,
            [(SortKey::Name, Ascending), (SortKey::Size, Ascending), (SortKey::Id, Descending)]
        );
        assert_eq!(volumes("sort_key=name&sort_dir=asc").sort, [(SortKey::Name, Ascending)]);
        assert_eq!(volumes("sort_dir=asc").sort, [(SortKey::Created, Ascending)]);
        for wrong in ["sort=host", "sort=name:up", "sort_key=x", "sort_dir=x"] {
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
