//! The volumes that an image declares (`Volumes` of its config). They are the image's words: no
//! path of theirs may hide what the runtime mounts.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::request::MountRequest;

/// More than any honest image has; each costs a directory and a mount.
const MAX: usize = 128;
/// Filled by the runtime, whatever the image says.
const OURS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where anonymous volumes go, sorted. A mount of the request at the same place wins.
pub fn volumes<'a>(
    declared: impl Iterator<Item = &'a str>,
    mounts: &[MountRequest],
) -> Result<Vec<PathBuf>> {
    let taken: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| normal(Path::new(&mount.container_path)))
        .collect();
    let mut found: Vec<PathBuf> = declared
        .map(|path| normal(Path::new(path)))
        .filter(|path| !taken.contains(path))
        .filter(|path| {
            let refused = path == Path::new("/") || OURS.iter().any(|ours| path.starts_with(ours));
            if refused {
                tracing::warn!(path = %path.display(), "the image's volume is left out: the \
                    runtime has its own mounts there");
            }
            !refused
        })
        .collect();
    found.sort();
    found.dedup();
    if found.len() > MAX {
        let problem = format!("the image declares {} volumes, {MAX} at most", found.len());
        return Err(Error::invalid("image", problem));
    }
    Ok(found)
}

/// `path` from the root, with `.` and `..` taken out as text.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_cannot_hide_what_the_runtime_mounts() {
        let declared = [
            "/data/",
            "data",
            "/a/../../srv",
            "/",
            ".",
            "/proc/self",
            "/dev/shm",
            "/sys/../dev",
            "/system",
            "/cache",
        ];
        let mounts = [MountRequest {
            container_path: "/cache/".into(),
            ..MountRequest::default()
        }];
        let found = volumes(declared.into_iter(), &mounts).unwrap();
        let expected = ["/data", "/srv", "/system"].map(PathBuf::from);
        assert_eq!(found, expected);
    }

    #[test]
    fn too_many_volumes_are_refused() {
        let many: Vec<String> = (0..=MAX).map(|number| format!("/v{number}")).collect();
        assert!(volumes(many.iter().map(String::as_str), &[]).is_err());
        assert!(volumes(many[1..].iter().map(String::as_str), &[]).is_ok());
    }
}
