//! Who makes the cgroups of pods and containers, and the names that follow from it.
//!
//! Records hold paths of the tree, whoever makes them: `/kubepods/pod1/<id>` by files,
//! `/kubepods.slice/kubepods-pod1.slice/berth-<id>.scope` by systemd. Specifications name a scope
//! in the form of the runtimes, `kubepods-pod1.slice:berth:<id>`.

use berth_cgroups::{CgroupPath, slice_path};

use crate::error::{Error, Result};

const FIELD: &str = "cgroup_parent";
const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";
const PREFIX: &str = "berth";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// The runtime, by directories.
    #[default]
    Cgroupfs,
    /// systemd: pods are slices and containers scopes.
    Systemd,
}

impl CgroupDriver {
    /// The cgroup of a pod that names no parent, below the default one.
    pub(crate) fn own_parent(self, default: &str, id: &str) -> Result<String> {
        let default = default.trim_end_matches('/');
        match self {
            Self::Cgroupfs => Ok(format!("{default}/{id}")),
            Self::Systemd => {
                let leaf = default.rsplit('/').next().unwrap_or(default);
                let name = leaf.strip_suffix(SLICE).unwrap_or(leaf);
                slice(&format!("{name}-{id}{SLICE}"))
            }
        }
    }

    /// The parent that a request names.
    pub(crate) fn parent(self, parent: &str) -> Result<String> {
        let is_slice = parent.ends_with(SLICE);
        match self {
            Self::Cgroupfs if is_slice => {
                let problem = format!(
                    "{parent:?} is a systemd slice and this daemon drives cgroupfs: \
                     set cgroup-driver to \"systemd\""
                );
                Err(Error::invalid(FIELD, problem))
            }
            Self::Cgroupfs => {
                let absolute = format!("/{}", parent.trim_matches('/'));
                match CgroupPath::parse(&absolute) {
                    Ok(_) => Ok(absolute),
                    Err(error) => Err(Error::invalid(FIELD, error.to_string())),
                }
            }
            // Clients give the slice alone or its whole path; the name says both.
            Self::Systemd if is_slice => slice(parent.rsplit('/').next().unwrap_or(parent)),
            Self::Systemd => {
                let problem = format!(
                    "{parent:?} is not a slice and this daemon leaves cgroups to systemd: \
                     name one such as \"pods.slice\", or set cgroup-driver to \"cgroupfs\""
                );
                Err(Error::invalid(FIELD, problem))
            }
        }
    }

    /// The cgroup of a container, or of a pod's init, in that of the pod.
    pub(crate) fn member(self, parent: &str, id: &str) -> String {
        let parent = parent.trim_end_matches('/');
        match self {
            Self::Cgroupfs => format!("{parent}/{id}"),
            Self::Systemd => format!("{parent}/{PREFIX}-{id}{SCOPE}"),
        }
    }
}

/// What a specification calls the cgroup that [`CgroupDriver::member`] named.
pub(crate) fn specified(path: &str) -> String {
    let scope = || {
        let (parent, leaf) = path.rsplit_once('/')?;
        let slice = parent.rsplit('/').next().filter(|it| it.ends_with(SLICE))?;
        let (prefix, id) = leaf.strip_suffix(SCOPE)?.split_once('-')?;
        Some(format!("{slice}:{prefix}:{id}"))
    };
    scope().unwrap_or_else(|| path.to_owned())
}

fn slice(name: &str) -> Result<String> {
    slice_path(name)
        .map(|path| path.to_string())
        .map_err(|error| Error::invalid(FIELD, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_driver() {
        let (files, systemd) = (CgroupDriver::Cgroupfs, CgroupDriver::Systemd);
        assert_eq!(files.own_parent("/berth", "p").unwrap(), "/berth/p");
        assert_eq!(
            systemd.own_parent("/berth", "p").unwrap(),
            "/berth.slice/berth-p.slice"
        );
        assert_eq!(files.parent("kubepods/pod1/").unwrap(), "/kubepods/pod1");
        for given in ["a-b.slice", "/a.slice/a-b.slice"] {
            assert_eq!(systemd.parent(given).unwrap(), "/a.slice/a-b.slice");
            assert!(files.parent(given).is_err());
        }
        for odd in ["/a/b", "a--b.slice", "-.slice", "a b.slice"] {
            assert!(systemd.parent(odd).is_err(), "{odd}");
        }
        assert!(files.parent("/a/../b").is_err());
    }

    #[test]
    fn a_scope_is_specified_as_runtimes_expect_it() {
        let path = CgroupDriver::Systemd.member("/a.slice/a-b.slice", "c1");
        assert_eq!(path, "/a.slice/a-b.slice/berth-c1.scope");
        assert_eq!(specified(&path), "a-b.slice:berth:c1");
        let path = CgroupDriver::Cgroupfs.member("/a/b/", "c1");
        assert_eq!(
            (path.as_str(), specified(&path).as_str()),
            ("/a/b/c1", "/a/b/c1")
        );
    }
}
