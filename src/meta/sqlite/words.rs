//! What SQL for every engine cannot ask.
//!
//! `PostgreSQL` has each of these in words of its own: `string_agg` and `encode`, `jsonb` and its arrows.

use serde_json::Value;

use super::Sql;

/// What precedes the conditions of a page of volumes when only ids and revisions are wanted; a parenthesis must follow.
/// One text for all of them, since rows cost more than what is in them: each id in 32 hex digits with the revision
/// right behind it, and a space between two. A query within another that ends in LIMIT keeps its order.
pub(in crate::meta) const IDS_AND_REVISIONS: &str =
    "SELECT group_concat(hex(id) || revision, ' ') FROM (SELECT id, revision FROM volumes ";

/// A JSON object with pairs of a volume.
#[derive(Clone, Copy)]
pub(in crate::meta) enum Pairs {
    /// The owner's labels.
    Labels,
    /// What is known of the image that it was made from.
    Image,
}

/// Only volumes that have this text in a field of block storage's, or nothing there where that is what the text says.
pub(in crate::meta) fn push_block_text(sql: &mut Sql, field: &'static str, wanted: String) {
    sql.push(format!(" AND COALESCE(json_extract(attributes, '$.block.{field}'), '') = ")).push_bind(wanted);
}

/// Only volumes of the user with this id, which is told as that of the tenant where it is not known.
pub(in crate::meta) fn push_user(sql: &mut Sql, wanted: String) {
    sql.push(" AND COALESCE(json_extract(attributes, '$.block.user'), lower(hex(tenant))) = ").push_bind(wanted);
}

/// Only volumes that a machine can start from, or only others.
pub(in crate::meta) fn push_bootable(sql: &mut Sql, wanted: bool) {
    sql.push(" AND COALESCE(json_extract(attributes, '$.block.bootable'), 0) = ").push_bind(i64::from(wanted));
}

/// Only volumes that have this pair. The values of labels are text.
pub(in crate::meta) fn push_pair(sql: &mut Sql, of: Pairs, key: &str, value: &Value) {
    let object = match of {
        Pairs::Labels => "meta",
        Pairs::Image => "attributes, '$.block.image'",
    };
    sql.push(format!(" AND EXISTS (SELECT 1 FROM json_each(volumes.{object}) AS pair WHERE pair.key = "));
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    sql.push_bind(key.to_owned()).push(" AND CAST(pair.atom AS TEXT) = ").push_bind(text).push(")");
}
