//! Filters for trees, their names, and the terms under which a tar stream arrives.

use super::{Secret, UploadId, Volume};
use serde::{Deserialize, Serialize};

/// A filter for trees. The empty one matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFilter {
    /// Parts of names, one of which the name must contain; any name when empty.
    pub names: Vec<String>,
    /// Labels, all of which the tree must have, and with the value where one is given.
    pub labels: Vec<(String, Option<String>)>,
    /// The size in GiB, rounded up.
    pub gib: Option<u64>,
    /// Whether no tree can match, whatever the other conditions say.
    pub is_void: bool,
}

impl TreeFilter {
    /// Reports whether a tree matches.
    pub fn takes(&self, tree: &Volume) -> bool {
        let is_named = || self.names.is_empty() || self.names.iter().any(|part| tree.name.contains(part.as_str()));
        let has = |(key, value): &(String, Option<String>)| {
            let label = tree.meta.get(key);
            label.is_some_and(|label| value.as_ref().is_none_or(|value| label.as_str() == Some(value)))
        };
        let is_large = |gib| tree.size.gib_up() == gib;
        !self.is_void && is_named() && self.gib.is_none_or(is_large) && self.labels.iter().all(has)
    }
}

/// The compression of a tar stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// No compression.
    #[default]
    Plain,
    /// Gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The terms of the upload of an archive, known before its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpackPlan {
    /// The part of a session that it fills.
    pub upload: UploadId,
    /// The cookie of the session, which permits the upload.
    pub cookie: Secret,
    /// The compression of the archive.
    pub encoding: Encoding,
}

/// Reports whether a tree may have this name: at most [`LONGEST_NAME`] letters, digits, `_`, `.` and `-`, of which the
/// first is a letter or digit. Such a name stands unescaped in a URL, a file name and a header.
pub fn is_tree_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() <= LONGEST_NAME
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The largest number of bytes in the name of a tree.
pub const LONGEST_NAME: usize = 128;

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::domain::{ByteCount, TenantId, UnixTime, VolumeKind, VolumeState};

    #[test]
    fn a_name_is_what_stands_everywhere_as_it_is() {
        for name in ["a", "vol1", "My_vol.2-x", "0", &"x".repeat(LONGEST_NAME)] {
            assert!(is_tree_name(name), "{name}");
        }
        for name in ["", ".", "..", "-x", "_x", "a/b", "a b", "a%2f", "\u{e9}", "a\n", &"x".repeat(LONGEST_NAME + 1)] {
            assert!(!is_tree_name(name), "{name}");
        }
    }

    #[test]
    fn a_filter_takes_what_all_of_it_is_true_of() {
        let labels = Map::from_iter([("k".to_owned(), "v".into()), ("l".to_owned(), "".into())]);
        let (size, state) = (ByteCount::mib(1025), VolumeState::Available);
        let tree = Volume::begun(TenantId::random(), VolumeKind::Tree, "vol1", size, state, UnixTime(1));
        let tree = Volume { meta: labels, ..tree };
        let text = |text: &str| text.to_owned();
        let all = TreeFilter::default();
        for taken in [
            all.clone(),
            TreeFilter { names: vec![text("x"), text("ol")], ..all.clone() },
            TreeFilter { labels: vec![(text("k"), Some(text("v"))), (text("l"), None)], ..all.clone() },
            TreeFilter { gib: Some(2), ..all.clone() },
        ] {
            assert!(taken.takes(&tree), "{taken:?}");
        }
        for other in [
            TreeFilter { names: vec![text("x")], ..all.clone() },
            TreeFilter { labels: vec![(text("k"), None), (text("m"), None)], ..all.clone() },
            TreeFilter { labels: vec![(text("k"), Some(text("w")))], ..all.clone() },
            TreeFilter { gib: Some(1), ..all.clone() },
            TreeFilter { is_void: true, ..all.clone() },
        ] {
            assert!(!other.takes(&tree), "{other:?}");
        }
    }
}
