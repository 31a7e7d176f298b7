//! The spec's `unified` map: files of the unified tree, by name.

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::layout::{Controller, Layout};
use std::collections::{BTreeMap, HashMap};

pub(crate) fn apply(cgroup: &Cgroup, files: &HashMap<String, String>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    check(cgroup.layout(), files)?;
    let Some(directory) = cgroup.unified() else {
        return Err(Error::Unsupported {
            setting: "unified",
            version: "v1",
        });
    };
    // In a fixed order, so that the same spec fails at the same file.
    for (name, value) in files.iter().collect::<BTreeMap<_, _>>() {
        if !directory.has(name)
            && let Some(controller) = controller_of(name)
        {
            cgroup.require(controller)?;
        }
        directory.write(name, value)?;
    }
    Ok(())
}

pub(crate) fn check(layout: Layout, files: &HashMap<String, String>) -> Result<()> {
    files.keys().try_for_each(|name| check_name(name))?;
    if layout == Layout::V1 && !files.is_empty() {
        return Err(Error::Unsupported {
            setting: "unified",
            version: "v1",
        });
    }
    Ok(())
}

/// A name of a control file, `controller.knob`, never a path, and none that
/// moves processes or hands controllers on: those decide who is in the cgroup
/// and belong to the runtime.
fn check_name(name: &str) -> Result<()> {
    let invalid = |problem| {
        Err(Error::InvalidResource {
            setting: "unified",
            value: name.chars().take(64).collect(),
            problem,
        })
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let dotted = name
        .split_once('.')
        .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
    if !dotted || !name.bytes().all(plain) {
        return invalid("is not the name of a control file");
    }
    match name {
        "cgroup.procs"
        | "cgroup.threads"
        | "cgroup.subtree_control"
        | "cgroup.type"
        | "cgroup.kill"
        | "cgroup.freeze" => invalid("is the runtime's own"),
        _ => Ok(()),
    }
}

fn controller_of(name: &str) -> Option<Controller> {
    let (prefix, _) = name.split_once('.')?;
    Controller::ALL.into_iter().find(|c| c.v2_name() == prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxResources, LinuxResourcesBuilder};

    fn resources(name: &str, value: &str) -> LinuxResources {
        LinuxResourcesBuilder::default()
            .unified(HashMap::from([(name.to_owned(), value.to_owned())]))
            .build()
            .unwrap()
    }

    #[test]
    fn files_of_the_unified_tree_are_written_by_name() {
        let v2 = FakeTree::v2("memory");
        let cgroup = v2.cgroup("/a");
        v2.put("a", "memory.high", "");
        cgroup.apply(&resources("memory.high", "12345")).unwrap();
        assert_eq!(v2.get("a", "memory.high"), "12345");
        let missing = cgroup.apply(&resources("io.cost", "1")).unwrap_err();
        assert!(matches!(
            missing,
            Error::ControllerMissing {
                controller: "blkio",
                ..
            }
        ));

        let hybrid = FakeTree::v1(&["memory"]).and_unified("hugetlb");
        let cgroup = hybrid.cgroup("/a");
        hybrid.put("unified/a", "hugetlb.2MB.max", "");
        cgroup.apply(&resources("hugetlb.2MB.max", "0")).unwrap();
        assert_eq!(hybrid.get("unified/a", "hugetlb.2MB.max"), "0");

        let v1 = FakeTree::v1(&["memory"])
            .cgroup("/a")
            .apply(&resources("memory.high", "1"));
        assert!(matches!(v1, Err(Error::Unsupported { version: "v1", .. })));
    }

    #[test]
    fn names_that_are_paths_or_the_runtimes_own_are_refused() {
        let cgroup = FakeTree::v2("memory").cgroup("/a");
        for name in [
            "",
            "memory",
            ".",
            "..",
            "../memory.max",
            "a/b.c",
            "memory.",
            ".max",
            "memory.max\n",
            "memory max.x",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
            "cgroup.kill",
            "cgroup.freeze",
            "cgroup.type",
        ] {
            let error = cgroup.apply(&resources(name, "1")).unwrap_err();
            assert!(matches!(error, Error::InvalidResource { .. }), "{name:?}");
        }
    }
}
