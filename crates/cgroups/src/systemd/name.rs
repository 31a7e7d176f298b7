//! Names of units, and where systemd puts them in the tree.

use crate::error::{Error, Result};
use crate::path::CgroupPath;

const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";
/// Longest name of a unit (systemd.unit(5)).
const LONGEST: usize = 255;
/// Where containers go whose specification names no slice.
const DEFAULT_SLICE: &str = "system.slice";

/// A scope that is to be made, as runtimes are told it: `slice:prefix:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    unit: String,
    path: CgroupPath,
}

impl Scope {
    /// The scope `prefix-name.scope` in `slice`. An empty slice is
    /// `system.slice`, an empty prefix is left out.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid(text, "is not of the form slice:prefix:name"));
        };
        if name.is_empty() {
            return Err(invalid(text, "names no unit"));
        }
        let slice = if slice.is_empty() {
            DEFAULT_SLICE
        } else {
            slice
        };
        let unit = if prefix.is_empty() {
            format!("{name}{SCOPE}")
        } else {
            format!("{prefix}-{name}{SCOPE}")
        };
        check_unit(text, &unit)?;
        let path = slice_path(slice)?.join(&unit)?;
        Ok(Self {
            slice: slice.to_owned(),
            unit,
            path,
        })
    }

    /// True if `text` means a scope and not a path.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        let slice = text.split(':').next().unwrap_or_default();
        text.matches(':').count() == 2 && (slice.is_empty() || slice.ends_with(SLICE))
    }

    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    #[must_use]
    pub fn slice(&self) -> &str {
        &self.slice
    }

    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }
}

/// Where a slice is: `a-b.slice` is `/a.slice/a-b.slice`, each dash a level.
pub fn slice_path(slice: &str) -> Result<CgroupPath> {
    check_unit(slice, slice)?;
    let Some(name) = slice.strip_suffix(SLICE) else {
        return Err(invalid(slice, "is not the name of a slice"));
    };
    if name == "-" {
        return Err(invalid(slice, "is the root slice"));
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(invalid(slice, "has an empty part between dashes"));
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}{SLICE}"));
        prefix.push('-');
    }
    CgroupPath::parse(&path)
}

/// The slice or scope that a cgroup is, if it lies where systemd has it.
#[must_use]
pub(crate) fn unit_of(path: &CgroupPath) -> Option<&str> {
    let leaf = path.components().last()?;
    let is = |path: &CgroupPath| {
        let leaf = path.components().last()?;
        (slice_path(leaf).ok()? == *path).then_some(())
    };
    if leaf.ends_with(SLICE) {
        is(path)?;
    } else {
        leaf.strip_suffix(SCOPE)?;
        is(&path.parent()?)?;
    }
    Some(leaf)
}

/// True for a slice among the answers of [`unit_of`].
pub(crate) fn is_slice(unit: &str) -> bool {
    unit.ends_with(SLICE)
}

fn check_unit(text: &str, unit: &str) -> Result<()> {
    let taken = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
    };
    if unit.len() > LONGEST {
        return Err(invalid(text, "is too long for a unit"));
    }
    if !unit.bytes().all(taken) {
        return Err(invalid(text, "has characters that no unit has"));
    }
    Ok(())
}

fn invalid(text: &str, problem: &'static str) -> Error {
    Error::InvalidPath {
        path: text.chars().take(256).collect(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_lies_below_the_levels_of_its_slice() {
        for (text, unit, path) in [
            (
                "kubepods-burstable-pod1_2.slice:berth:c1",
                "berth-c1.scope",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/berth-c1.scope",
            ),
            ("::c1", "c1.scope", "/system.slice/c1.scope"),
            ("user.slice::c1", "c1.scope", "/user.slice/c1.scope"),
        ] {
            assert!(Scope::is_one(text));
            let scope = Scope::parse(text).unwrap();
            assert_eq!((scope.unit(), scope.path().as_str()), (unit, path));
            assert_eq!(unit_of(scope.path()), Some(unit));
        }
        for path in ["/a/b", "a:b:c", "a.slice:b", "a.slice:b:c:d"] {
            assert!(!Scope::is_one(path), "{path}");
        }
    }

    #[test]
    fn names_that_no_unit_has_are_refused() {
        let long = format!("a.slice:b:{}", "c".repeat(250));
        for text in [
            "a.slice:b:",
            "a:b:c",
            "-.slice:b:c",
            "a--b.slice:b:c",
            "-a.slice:b:c",
            "a/../b.slice:b:c",
            "a.slice:b:c/d",
            "a.slice:b:c d",
            long.as_str(),
        ] {
            assert!(Scope::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_lies_where_systemd_has_it_is_a_unit() {
        for (path, unit) in [
            ("/a.slice", Some("a.slice")),
            ("/a.slice/a-b.slice", Some("a-b.slice")),
            ("/a.slice/x.scope", Some("x.scope")),
            ("/b.slice/a-b.slice", None),
            ("/x.scope", None),
            ("/a.slice/x.scope/inner", None),
            ("/a.slice/x.service", None),
            ("/berth/c1", None),
        ] {
            let path = CgroupPath::parse(path).unwrap();
            assert_eq!(unit_of(&path), unit, "{path}");
        }
    }
}
