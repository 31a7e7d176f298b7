//! Limits on RDMA handles and objects; the same file on both versions.

use crate::cgroup::{Cgroup, Home};
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::LinuxRdma;
use std::collections::HashMap;

pub(crate) fn apply(cgroup: &Cgroup, limits: &HashMap<String, LinuxRdma>) -> Result<()> {
    for (device, limit) in limits {
        if device.is_empty() || device.chars().any(char::is_whitespace) {
            return Err(Error::InvalidResource {
                setting: "rdma",
                value: device.chars().take(64).collect(),
                problem: "is not the name of a device",
            });
        }
        let mut line = device.clone();
        if let Some(handles) = limit.hca_handles() {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects() {
            line.push_str(&format!(" hca_object={objects}"));
        }
        if line.len() == device.len() {
            continue;
        }
        let (Home::V1(directory) | Home::V2(directory)) = cgroup.require(Controller::Rdma)?;
        directory.write("rdma.max", &line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxResources, LinuxResourcesBuilder};

    fn resources(json: &str) -> LinuxResources {
        LinuxResourcesBuilder::default()
            .rdma(serde_json::from_str::<std::collections::HashMap<_, _>>(json).unwrap())
            .build()
            .unwrap()
    }

    #[test]
    fn limits_are_written_per_device() {
        let tree = FakeTree::v2("rdma");
        let cgroup = tree.cgroup("/a");
        for (json, line) in [
            (
                r#"{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}"#,
                "mlx5_1 hca_handle=3 hca_object=10000",
            ),
            (r#"{"mlx4_0":{"hcaObjects":1}}"#, "mlx4_0 hca_object=1"),
            (r#"{"mlx4_0":{}}"#, "unset"),
        ] {
            tree.put("a", "rdma.max", "unset");
            cgroup.apply(&resources(json)).unwrap();
            assert_eq!(tree.get("a", "rdma.max"), line);
        }
        let error = cgroup
            .apply(&resources(r#"{"a b":{"hcaObjects":1}}"#))
            .unwrap_err();
        assert!(matches!(error, Error::InvalidResource { .. }));
    }
}
