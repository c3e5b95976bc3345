//! The query of a list: paging, filters, and which fields to show.

use std::str::FromStr;

use super::super::query;
use super::drive;
use crate::domain::{Command, DriveFilter, Fault, NameMatch, Page};

/// How many drives a page has when the client does not say.
const DEFAULT_LIMIT: u32 = 20;

/// A list command from its query.
///
/// Filters on different parameters must all hold. A parameter that is no field of a drive is passed over (`format`,
/// a cache breaker); a filter on a field that cannot be filtered by is refused, because to pass over it would list
/// drives that the client meant to leave out, and may be about to delete.
pub(super) fn decode(query: &str) -> Result<Command, Fault> {
    let mut filter = DriveFilter::default();
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
            "fields" => {}
            other => {
                let field = other.split("__").next().unwrap_or(other);
                if field == "tag" || drive::FIELDS.contains(&field) {
                    return Err(Fault::invalid(other, format!("drives cannot be filtered by {other}")));
                }
            }
        }
    }
    Ok(Command::List { filter, page })
}

/// The fields that the client wants to see; `None` is all of them.
pub(super) fn fields(query: &str) -> Option<Vec<String>> {
    let wanted: Vec<String> = query::pairs(query)
        .filter(|(name, _)| name == "fields")
        .flat_map(|(_, value)| value.split(',').map(|field| field.trim().to_owned()).collect::<Vec<_>>())
        .filter(|field| !field.is_empty())
        .collect();
    (!wanted.is_empty()).then_some(wanted)
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
            Ok(Command::List { filter, page }) => (filter, page),
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
        let unmounted = [VolumeState::Available, VolumeState::BackingUp { attached: false }];
        assert_eq!(filter.states, [&unmounted[..], &[VolumeState::Uploading]].concat());
    }

    #[test]
    fn a_status_that_no_drive_here_has_lists_none() {
        assert_eq!(list("status=deleted").0.names, [NameMatch::Is(String::new())]);
        assert_eq!(list("status=deleted,resizing").0.states, [VolumeState::Resizing]);
        assert!(decode("status=broken").is_err());
    }

    #[test]
    fn a_filter_that_is_not_served_is_refused_and_other_parameters_are_passed_over() {
        for query in ["size=1", "size__gt=1", "tag__name=x", "name=a,b", "name__regex=x", "media=tape"] {
            assert!(decode(query).is_err(), "{query}");
        }
        assert_eq!(list("format=json&_=1&order_by=x").0, DriveFilter::default());
    }

    #[test]
    fn fields_are_a_list() {
        assert_eq!(fields("limit=0"), None);
        assert_eq!(fields("fields="), None);
        assert_eq!(fields("fields=uuid,+name&fields=size"), Some(["uuid", "name", "size"].map(str::to_owned).to_vec()));
    }
}
