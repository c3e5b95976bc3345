//! Which trees a caller can want, and how a tar stream is said to come.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ByteCount, Secret, UploadId, Volume};

/// Which trees are wanted. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFilter {
    /// With one of these in the name, when there are any.
    pub names: Vec<String>,
    /// With all of these labels, and where one is given with that value.
    pub labels: Vec<(String, Option<String>)>,
    /// As large as this in GiB, rounded up.
    pub gib: Option<u64>,
    /// None: what is asked for is true of no tree.
    pub is_void: bool,
}

impl TreeFilter {
    /// Whether it is one of them.
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

/// A tree to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeSpec {
    /// Its name.
    pub name: String,
    /// The most that it may hold.
    pub size: ByteCount,
    /// The owner's labels.
    pub labels: Map<String, Value>,
}

/// How a tar stream is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What the upload of an archive says of itself before its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpackPlan {
    /// Which part of which session it is.
    pub upload: UploadId,
    /// What proves that the caller may.
    pub cookie: Secret,
    /// How it is compressed.
    pub encoding: Encoding,
}

/// Whether a tree may have this name: letters, digits, `_`, `.` and `-`, of which the first is a letter or digit, and
/// at most [`LONGEST_NAME`] of them. So a name stands in a URL, a file name and a header as it is.
pub fn is_tree_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() <= LONGEST_NAME
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The most bytes of a tree's name.
pub const LONGEST_NAME: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{TenantId, UnixTime, VolumeState};

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
        let spec = TreeSpec { name: "vol1".to_owned(), size: ByteCount::mib(1025), labels };
        let tree = Volume::tree(TenantId::random(), spec, VolumeState::Available, UnixTime(1));
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
