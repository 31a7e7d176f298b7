//! The pids controller.

use crate::cgroup::{Cgroup, Home};
use crate::error::Result;
use crate::layout::Controller;
use oci_spec::runtime::LinuxPids;

/// Writes the limit on tasks: negative is none, 0 asks for nothing (it is
/// what older specs hold when the field was left out).
pub(crate) fn apply(cgroup: &Cgroup, pids: &LinuxPids) -> Result<()> {
    let limit = match pids.limit() {
        0 => return Ok(()),
        ..0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    let (Home::V1(directory) | Home::V2(directory)) = cgroup.require(Controller::Pids)?;
    directory.write("pids.max", &limit)
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder};

    fn resources(limit: i64) -> LinuxResources {
        let pids = LinuxPidsBuilder::default().limit(limit).build().unwrap();
        LinuxResourcesBuilder::default().pids(pids).build().unwrap()
    }

    #[test]
    fn the_limit_is_written_in_the_kernels_words() {
        let tree = FakeTree::v1(&["pids"]);
        let cgroup = tree.cgroup("/a");
        for (limit, expected) in [(100, "100"), (-1, "max"), (0, "unset")] {
            tree.put("pids/a", "pids.max", "unset");
            cgroup.apply(&resources(limit)).unwrap();
            assert_eq!(tree.get("pids/a", "pids.max"), expected);
        }
    }

    #[test]
    fn a_missing_controller_is_named() {
        let tree = FakeTree::v1(&["cpu"]);
        let error = tree.cgroup("/a").apply(&resources(5)).unwrap_err();
        assert!(matches!(
            error,
            Error::ControllerMissing {
                controller: "pids",
                ..
            }
        ));
        tree.cgroup("/a").apply(&resources(0)).unwrap();
    }
}
