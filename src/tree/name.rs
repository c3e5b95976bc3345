//! Converts names in archives into paths that cannot leave the tree.

use super::error::{Budget, Rule, UnpackCause};

/// `PATH_MAX` without its zero byte: a longer path cannot be opened in one call, neither here nor by users of the tree.
pub(super) const LONGEST: usize = 4095;

/// `NAME_MAX` of every common file system.
const LONGEST_COMPONENT: usize = 255;

/// A path beneath the root: components other than `.` and `..`, with one slash between them. The root is the empty
/// path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// Parses and checks a name. The flag reports whether it is spelled as a directory: `a/` or `a/.`.
    pub(super) fn parse(name: &[u8], longest: usize, deepest: usize) -> Result<(Self, bool), UnpackCause> {
        if name.is_empty() {
            return Err(Rule::EmptyName.into());
        }
        if name.len() > longest.min(LONGEST) {
            return Err(Budget::Name.into());
        }
        if name[0] == b'/' {
            return Err(Rule::AbsoluteName.into());
        }
        if name.contains(&0) {
            return Err(Rule::ZeroByte.into());
        }
        let mut path = Vec::with_capacity(name.len());
        let (mut depth, mut as_directory) = (0, false);
        for component in name.split(|byte| *byte == b'/') {
            as_directory = matches!(component, b"" | b".");
            if as_directory {
                continue;
            }
            if component == b".." {
                return Err(Rule::ParentName.into());
            }
            if component.len() > LONGEST_COMPONENT {
                return Err(Budget::Name.into());
            }
            depth += 1;
            if depth > deepest {
                return Err(Budget::Depth.into());
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Ok((Self(path), as_directory))
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parent's path and the last component; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &[u8]) -> Result<(Vec<u8>, bool), UnpackCause> {
        TreePath::parse(name, LONGEST, 4).map(|(path, slash)| (path.0, slash))
    }

    #[test]
    fn dots_and_slashes_that_mean_nothing_are_dropped() {
        for (name, path, slash) in [
            ("a", "a", false),
            ("./a", "a", false),
            ("a//b", "a/b", false),
            ("a/./b", "a/b", false),
            ("a/b/", "a/b", true),
            ("a/.", "a", true),
            (".", "", true),
            ("./", "", true),
            ("...", "...", false),
            (".a", ".a", false),
            ("..a/b..", "..a/b..", false),
        ] {
            assert_eq!(parsed(name.as_bytes()).expect(name), (path.as_bytes().to_vec(), slash), "{name}");
        }
    }

    #[test]
    fn a_name_that_could_lead_out_is_refused() {
        for name in ["", "/", "/a", "..", "../a", "a/..", "a/../b", "./..", "a/b/..", "a\0b", "a/../../b", "//a"] {
            assert!(matches!(parsed(name.as_bytes()), Err(UnpackCause::Forbidden(_))), "{name:?}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        assert!(parsed(b"a/b/c/d").is_ok());
        assert!(matches!(parsed(b"a/b/c/d/e"), Err(UnpackCause::OverBudget(Budget::Depth))));
        assert!(parsed(&[b'a'; 255]).is_ok());
        assert!(matches!(parsed(&[b'a'; 256]), Err(UnpackCause::OverBudget(Budget::Name))));
        let dots = b"./".repeat(3000);
        assert!(matches!(TreePath::parse(&dots, usize::MAX, 4), Err(UnpackCause::OverBudget(Budget::Name))));
    }

    #[test]
    fn a_path_splits_into_parent_and_last_component() {
        let path = |name: &str| TreePath::parse(name.as_bytes(), LONGEST, 9).expect("a name").0;
        assert_eq!(path("a/b/c").split(), Some((b"a/b".as_slice(), b"c".as_slice())));
        assert_eq!(path("a").split(), Some((b"".as_slice(), b"a".as_slice())));
        assert_eq!(path(".").split(), None);
    }
}
