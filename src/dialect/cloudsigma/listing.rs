//! The query of a list: paging, filters, and which fields to show.

use std::str::FromStr;

use super::super::query;
use super::drive;
use crate::domain::{Command, Direction, DriveFilter, Fault, NameMatch, Page, SortKey, VolumeQuery};

/// How many drives a page has when the client does not say.
const DEFAULT_LIMIT: u32 = 20;

/// What the query of a list may hold. A cache breaker asks for nothing but an answer of its own.
pub(super) const PARAMETERS: &[&str] = &[
    "_",
    "fields",
    "format",
    "limit",
    "media",
    "name",
    "name__contains",
    "name__icontains",
    "name__startswith",
    "offset",
    "order_by",
    "status",
    "status__in",
];

/// A list command from its query, and the fields that are shown. Filters on different parameters must all hold.
pub(super) fn decode(query: &str) -> Result<(Command, Option<Vec<String>>), Fault> {
    let (mut filter, mut fields) = (DriveFilter::default(), Vec::new());
    let mut page = Page { limit: Some(DEFAULT_LIMIT), offset: 0 };
    for (name, value) in query::pairs(query) {
        match name.as_str() {
            "limit" => page.limit = Some(number(&name, &value)?).filter(|limit| *limit > 0),
            "offset" => page.offset = number(&name, &value)?,
            "name" => filter.names.push(NameMatch::Is(single(&name, &value)?)),
            // The vendor documents "contains" as blind to case.
            "name__contains" | "name__icontains" => {
                filter.names.push(NameMatch::ContainsIgnoringCase(single(&name, &value)?));
            }
            "name__startswith" => filter.names.push(NameMatch::StartsWith(single(&name, &value)?)),
            "status" | "status__in" => one_of_states(&name, &value, &mut filter)?,
            "media" => {
                let unknown = || Fault::invalid("media", "media must be disk or cdrom");
                filter.media = Some(drive::media_named(&value).ok_or_else(unknown)?);
            }
            "order_by" => filter.order = keys(&value)?,
            "format" => check_format(&value)?,
            "fields" => fields.extend(names(&value)),
            "_" => {}
            other => return Err(query::unknown(other)),
        }
    }
    Ok((Command::List(VolumeQuery::Drives { filter, page }), named(fields)))
}

/// The fields of one drive that are shown.
pub(super) fn shown(query: &str) -> Result<Option<Vec<String>>, Fault> {
    let mut fields = Vec::new();
    for (name, value) in query::pairs(query) {
        match name.as_str() {
            "fields" => fields.extend(names(&value)),
            "format" => check_format(&value)?,
            other => return Err(query::unknown(other)),
        }
    }
    Ok(named(fields))
}

/// The page that is asked for of what there is one of, or an answer that has none.
pub(super) fn page(query: &str) -> Result<Page, Fault> {
    let mut page = Page { limit: None, offset: 0 };
    for (name, value) in query::pairs(query) {
        match name.as_str() {
            "limit" => page.limit = Some(number(&name, &value)?).filter(|limit| *limit > 0),
            "offset" => page.offset = number(&name, &value)?,
            "format" => check_format(&value)?,
            _ => {}
        }
    }
    Ok(page)
}

/// Answers have one format.
fn check_format(value: &str) -> Result<(), Fault> {
    if value == "json" { Ok(()) } else { Err(Fault::invalid("format", "answers are JSON: format=json")) }
}

/// Fields to sort by, the most important first; a sign before one turns it round.
fn keys(value: &str) -> Result<Vec<(SortKey, Direction)>, Fault> {
    let key = |word: &str| {
        let (word, direction) = match word.strip_prefix('-') {
            Some(word) => (word, Direction::Descending),
            None => (word, Direction::Ascending),
        };
        let key = match word {
            "name" => SortKey::Name,
            "size" => SortKey::Size,
            "uuid" => SortKey::Id,
            _ => {
                return Err(Fault::invalid(
                    "order_by",
                    format!("drives are sorted by name, size or uuid, not {word:?}"),
                ));
            }
        };
        Ok((key, direction))
    };
    // More of them would change nothing.
    let keys: Vec<_> = value.split(',').map(str::trim).take(4).map(key).collect::<Result<_, _>>()?;
    if keys.len() > 3 {
        return Err(Fault::invalid("order_by", "order_by names a field twice"));
    }
    Ok(keys)
}

/// The names in a list of them.
fn names(value: &str) -> impl Iterator<Item = String> {
    value.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned)
}

/// The fields that the client wants to see; `None` is all of them.
fn named(fields: Vec<String>) -> Option<Vec<String>> {
    (!fields.is_empty()).then_some(fields)
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, Fault> {
    let wrong = || Fault::invalid(name, format!("{name} must be a whole number, not below zero"));
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// The one text of a filter. The vendor separates alternatives by commas, and a backslash before a comma or before
/// another backslash makes it a plain one.
fn single(name: &str, value: &str) -> Result<String, Fault> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            ',' => return Err(Fault::invalid(name, format!("{name} takes one text; write a comma in it as \\,"))),
            '\\' => text.push(rest.next_if(|next| matches!(next, ',' | '\\')).unwrap_or('\\')),
            other => text.push(other),
        }
    }
    Ok(text)
}

fn one_of_states(name: &str, value: &str, filter: &mut DriveFilter) -> Result<(), Fault> {
    let before = filter.states.len();
    for word in value.split(',').map(str::trim) {
        let states = drive::states_named(word);
        if states.is_empty() && !drive::NEVER_HERE.contains(&word) {
            return Err(Fault::invalid(name, format!("{name} must be a status of drives, as in unmounted")));
        }
        filter.states.extend(states);
    }
    if filter.states.len() == before {
        // A true question whose answer is "none": no drive has an empty name.
        filter.names.push(NameMatch::Is(String::new()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Media, VolumeState};

    fn list(query: &str) -> (DriveFilter, Page) {
        match decode(query) {
            Ok((Command::List(VolumeQuery::Drives { filter, page }), _)) => (filter, page),
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn a_page_has_twenty_drives_unless_the_client_says_otherwise() {
        let page = |limit, offset| Page { limit, offset };
        assert_eq!(list("").1, page(Some(20), 0));
        assert_eq!(list("limit=0&offset=40").1, page(None, 40));
        assert_eq!(list("limit=7").1, page(Some(7), 0));
        for (query, point) in [
            ("limit=-1", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=99999999999", "limit"),
            ("offset=1.5", "offset"),
            ("offset=%2B1", "offset"),
        ] {
            assert_eq!(decode(query).expect_err(query).point.as_deref(), Some(point), "{query}");
        }
    }

    #[test]
    fn filters_are_read() {
        let (filter, _) =
            list("name=a%5C,b&name__contains=C&name__startswith=d&media=cdrom&status=unmounted,uploading");
        assert_eq!(
            filter.names,
            [
                NameMatch::Is("a,b".to_owned()),
                NameMatch::ContainsIgnoringCase("C".to_owned()),
                NameMatch::StartsWith("d".to_owned())
            ]
        );
        assert_eq!(filter.media, Some(Media::Cdrom));
        assert_eq!(filter.states, [VolumeState::Available, VolumeState::Uploading]);
    }

    #[test]
    fn a_status_that_no_drive_here_has_lists_none() {
        assert_eq!(list("status=deleted").0.names, [NameMatch::Is(String::new())]);
        assert_eq!(list("status=deleted,resizing").0.states, [VolumeState::Resizing]);
        assert!(decode("status=broken").is_err());
    }

    #[test]
    fn a_parameter_that_is_not_served_is_refused() {
        for query in
            ["size=1", "size__gt=1", "tag__name=x", "name=a,b", "name__regex=x", "media=tape", "format=xml", "x=1"]
        {
            assert!(decode(query).is_err(), "{query}");
        }
        assert_eq!(list("format=json&_=1").0, DriveFilter::default());
    }

    #[test]
    fn a_list_is_sorted_by_the_fields_that_it_names() {
        use Direction::{Ascending, Descending};
        let order = |query: &str| match decode(query) {
            Ok((Command::List(VolumeQuery::Drives { filter, .. }), _)) => Some(filter.order),
            _ => None,
        };
        assert_eq!(order(""), Some(vec![]));
        let both = vec![(SortKey::Size, Descending), (SortKey::Name, Ascending)];
        assert_eq!(order("order_by=-size,+name"), Some(both));
        assert_eq!(order("order_by=uuid"), Some(vec![(SortKey::Id, Ascending)]));
        for wrong in ["order_by=", "order_by=status", "order_by=--name", "order_by=name,name,name,name"] {
            assert_eq!(order(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fields_are_a_list() {
        let three = Some(["uuid", "name", "size"].map(str::to_owned).to_vec());
        for (query, expected) in [("", None), ("fields=", None), ("fields=uuid,+name&fields=size", three)] {
            assert_eq!(shown(query).unwrap(), expected, "{query}");
            assert_eq!(decode(query).unwrap().1, expected, "{query}");
        }
    }
}
