//! The path of a cgroup, as every hierarchy sees it.

use crate::error::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest path accepted; the kernel's PATH_MAX less room for the mount point
/// and the longest control file.
const MAX_BYTES: usize = 3800;
/// Longest component; NAME_MAX of kernfs.
const MAX_COMPONENT: usize = 255;

/// An absolute cgroup path below the root of the hierarchies, such as
/// `/kubepods/burstable/pod1/abc`. Never the root itself, never with `..`,
/// `.`, empty components or control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Checks `path`. A trailing slash is dropped, anything else unusual is
    /// [`Error::InvalidPath`].
    pub fn parse(path: &str) -> Result<Self> {
        let problem = |problem| {
            Err(Error::InvalidPath {
                path: path.chars().take(256).collect(),
                problem,
            })
        };
        if !path.starts_with('/') {
            return problem("is not absolute");
        }
        if path.len() > MAX_BYTES {
            return problem("is too long");
        }
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        if trimmed.is_empty() {
            return problem("names the root");
        }
        for component in trimmed.split('/').skip(1) {
            match component {
                "" => return problem("has an empty component"),
                "." | ".." => return problem("has a relative component"),
                long if long.len() > MAX_COMPONENT => return problem("has too long a component"),
                odd if odd.chars().any(char::is_control) => {
                    return problem("has a control character");
                }
                _ => {}
            }
        }
        Ok(Self(trimmed.to_owned()))
    }

    /// The path one level down.
    pub fn join(&self, name: &str) -> Result<Self> {
        if name.is_empty() || name.contains('/') {
            return Err(Error::InvalidPath {
                path: name.chars().take(256).collect(),
                problem: "is not a single component",
            });
        }
        Self::parse(&format!("{}/{name}", self.0))
    }

    /// The path one level up, unless that is the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rfind('/') {
            Some(0) | None => None,
            Some(at) => Some(Self(self.0[..at].to_owned())),
        }
    }

    /// The path and those above it, outermost first.
    #[must_use]
    pub fn levels(&self) -> Vec<Self> {
        let mut levels: Vec<_> = std::iter::successors(Some(self.clone()), Self::parent).collect();
        levels.reverse();
        levels
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }

    /// This path below the mount point of one hierarchy.
    #[must_use]
    pub fn below(&self, mount_point: &Path) -> PathBuf {
        mount_point.join(&self.0[1..])
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for CgroupPath {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self> {
        Self::parse(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_hierarchy_are_refused() {
        let long = format!("/{}", "a".repeat(256));
        let deep = "/a".repeat(2000);
        for (path, problem) in [
            ("", "is not absolute"),
            ("a/b", "is not absolute"),
            ("../a", "is not absolute"),
            ("/", "names the root"),
            ("//", "has an empty component"),
            ("//a", "has an empty component"),
            ("/a//b", "has an empty component"),
            ("/a//", "has an empty component"),
            ("/..", "has a relative component"),
            ("/a/../b", "has a relative component"),
            ("/a/..", "has a relative component"),
            ("/./a", "has a relative component"),
            ("/a\nb", "has a control character"),
            ("/a\0b", "has a control character"),
            (long.as_str(), "has too long a component"),
            (deep.as_str(), "is too long"),
        ] {
            match CgroupPath::parse(path) {
                Err(Error::InvalidPath { problem: found, .. }) => {
                    assert_eq!(found, problem, "{path:?}");
                }
                other => panic!("{path:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn parts_of_a_path_are_found() {
        let path = CgroupPath::parse("/kubepods/pod..1/c/").unwrap();
        assert_eq!(path.as_str(), "/kubepods/pod..1/c");
        assert_eq!(
            path.components().collect::<Vec<_>>(),
            ["kubepods", "pod..1", "c"]
        );
        assert_eq!(path.parent().unwrap().as_str(), "/kubepods/pod..1");
        assert!(CgroupPath::parse("/a").unwrap().parent().is_none());
        assert_eq!(
            path.below(Path::new("/sys/x")),
            Path::new("/sys/x/kubepods/pod..1/c")
        );
        assert_eq!(path.join("d").unwrap().as_str(), "/kubepods/pod..1/c/d");
        assert!(path.join("../d").is_err());
        assert!(path.join("..").is_err());
        assert!(path.join("").is_err());
    }
}
