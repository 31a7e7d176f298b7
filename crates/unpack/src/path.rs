//! Paths of entries: what they name, and which of them are whiteouts. Pure.

use crate::error::Refusal;

/// Prefix of a name that removes the rest of the name from the layers beneath
/// (OCI image-spec, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Names with the prefix twice belong to the union filesystem that the format comes from.
const RESERVED: &[u8] = b".wh..wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's path asks for. Paths are relative to the root, without empty, `.` and `..`
/// components; the root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Make this.
    Path(Vec<u8>),
    /// Hide this path of the layers beneath.
    Whiteout(Vec<u8>),
    /// Hide everything in this directory of the layers beneath.
    Opaque(Vec<u8>),
    /// Nothing: bookkeeping of another union filesystem.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathFault {
    Refused(Refusal),
    TooLong,
    TooDeep,
}

/// Makes a path relative to the root and canonical. `..` is refused rather than resolved, since
/// what it means depends on links that the layer may have made.
pub(crate) fn normalise(
    raw: &[u8],
    max_bytes: usize,
    max_depth: usize,
) -> Result<Vec<u8>, PathFault> {
    if raw.is_empty() {
        return Err(PathFault::Refused(Refusal::EmptyPath));
    }
    if raw.len() > max_bytes {
        return Err(PathFault::TooLong);
    }
    if raw.contains(&0) {
        return Err(PathFault::Refused(Refusal::Nul));
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(PathFault::Refused(Refusal::ParentComponent)),
            _ => {}
        }
        depth += 1;
        if depth > max_depth {
            return Err(PathFault::TooDeep);
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(path)
}

/// Parent and last component. The parent of a name in the root is the empty path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Tells whiteouts from things to make.
pub(crate) fn classify(path: Vec<u8>) -> Result<Target, Refusal> {
    let (parent, name) = split(&path);
    for component in parent.split(|&b| b == b'/') {
        if component.starts_with(RESERVED) {
            return Ok(Target::Ignored);
        }
        if component.starts_with(WHITEOUT) {
            return Err(Refusal::BadWhiteout);
        }
    }
    if name == OPAQUE {
        return Ok(Target::Opaque(parent.to_vec()));
    }
    if name.starts_with(RESERVED) {
        return Ok(Target::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Target::Path(path)),
        Some(b"" | b"." | b"..") => Err(Refusal::BadWhiteout),
        Some(hidden) if parent.is_empty() => Ok(Target::Whiteout(hidden.to_vec())),
        Some(hidden) => Ok(Target::Whiteout([parent, b"/", hidden].concat())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(raw: &str) -> Result<Target, PathFault> {
        classify(normalise(raw.as_bytes(), 100, 5)?).map_err(PathFault::Refused)
    }

    #[test]
    fn paths_end_up_under_the_root() {
        for (raw, expected) in [
            ("a/b", "a/b"),
            ("/a/b", "a/b"),
            ("//a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("./", ""),
            ("/", ""),
            ("...", "..."),
            ("a..b", "a..b"),
        ] {
            assert_eq!(target(raw), Ok(Target::Path(expected.into())), "{raw}");
        }
        for raw in [
            "..",
            "../a",
            "a/..",
            "a/../b",
            "/../a",
            "./../a",
            "a/b/../../..",
        ] {
            assert_eq!(
                target(raw),
                Err(PathFault::Refused(Refusal::ParentComponent)),
                "{raw}"
            );
        }
        assert_eq!(target(""), Err(PathFault::Refused(Refusal::EmptyPath)));
        assert_eq!(target("a\0b"), Err(PathFault::Refused(Refusal::Nul)));
        assert_eq!(target("1/2/3/4/5/6"), Err(PathFault::TooDeep));
        assert_eq!(target(&"a".repeat(101)), Err(PathFault::TooLong));
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        let bad = Err(PathFault::Refused(Refusal::BadWhiteout));
        for (raw, expected) in [
            (".wh.a", Ok(Target::Whiteout("a".into()))),
            ("d/.wh.a", Ok(Target::Whiteout("d/a".into()))),
            ("d/.wh..a", Ok(Target::Whiteout("d/.a".into()))),
            ("d/.wh..wh..opq", Ok(Target::Opaque("d".into()))),
            (".wh..wh..opq", Ok(Target::Opaque("".into()))),
            (".wh..wh.plnk", Ok(Target::Ignored)),
            (".wh..wh.plnk/1.2", Ok(Target::Ignored)),
            (".wh.", bad.clone()),
            (".wh..", bad.clone()),
            (".wh...", bad.clone()),
            ("d/.wh.a/b", bad.clone()),
            ("a.wh.b", Ok(Target::Path("a.wh.b".into()))),
        ] {
            assert_eq!(target(raw), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(raw in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..60)) {
            if let Ok(path) = normalise(&raw, 4095, 1024) {
                let components: Vec<_> = path.split(|&b| b == b'/').collect();
                prop_assert!(path.is_empty() || components.iter().all(|c| !c.is_empty() && *c != b".." && *c != b"."));
                prop_assert!(!path.contains(&0));
            }
        }
    }
}
