//! The cpuset controller, and v1's demand that parents are filled first.

use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::create::levels;
use crate::error::Result;
use crate::layout::Controller;
use crate::path::CgroupPath;
use oci_spec::runtime::LinuxCpu;
use std::path::Path;

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

pub(crate) fn apply(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    let values = [cpu.cpus().as_deref(), cpu.mems().as_deref()];
    let asked = |value: &Option<&str>| value.is_some_and(|value| !value.is_empty());
    if !values.iter().any(asked) {
        return Ok(());
    }
    let (Home::V1(directory) | Home::V2(directory)) = cgroup.require(Controller::Cpuset)?;
    for (file, value) in FILES.into_iter().zip(values) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            directory.write(file, value)?;
        }
    }
    Ok(())
}

/// Gives every empty cpuset on the way to `path` its parent's processors and
/// memory nodes. A v1 cpuset starts empty, and the kernel lets no process
/// into an empty one. Sets that hold something are left as they are.
pub(crate) fn seed(mount_point: &Path, path: &CgroupPath) -> Result<()> {
    let mut parent = ControlDir::new(mount_point.to_owned());
    for level in levels(mount_point, path) {
        let level = ControlDir::new(level);
        for file in FILES {
            if level.read(file)?.trim().is_empty() {
                let inherited = parent.read(file)?;
                level.write(file, inherited.trim())?;
            }
        }
        parent = level;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxResourcesBuilder};

    #[test]
    fn empty_cpusets_take_their_parents_and_filled_ones_stay() {
        let tree = FakeTree::v1(&["cpuset"]);
        let levels = [
            ("cpuset", "0-3", "0"),
            ("cpuset/a", "0-1", ""),
            ("cpuset/a/b", "", ""),
        ];
        for (directory, cpus, mems) in levels {
            tree.put(directory, "cpuset.cpus", cpus);
            tree.put(directory, "cpuset.mems", mems);
        }
        let path = CgroupPath::parse("/a/b").unwrap();
        seed(&tree.root().join("cpuset"), &path).unwrap();
        assert_eq!(tree.get("cpuset/a", "cpuset.cpus"), "0-1");
        assert_eq!(tree.get("cpuset/a", "cpuset.mems"), "0");
        assert_eq!(tree.get("cpuset/a/b", "cpuset.cpus"), "0-1");
        assert_eq!(tree.get("cpuset/a/b", "cpuset.mems"), "0");
    }

    #[test]
    fn empty_strings_do_not_ask_for_anything() {
        let tree = FakeTree::v2("cpuset");
        let cgroup = tree.cgroup("/a");
        tree.put("a", "cpuset.cpus", "unset");
        tree.put("a", "cpuset.mems", "unset");
        for (cpus, mems, expected) in [("", "", "unset"), ("1-2", "", "1-2")] {
            let cpu = LinuxCpuBuilder::default()
                .cpus(cpus)
                .mems(mems)
                .build()
                .unwrap();
            let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
            cgroup.apply(&resources).unwrap();
            assert_eq!(tree.get("a", "cpuset.cpus"), expected);
            assert_eq!(tree.get("a", "cpuset.mems"), "unset");
        }
    }
}
