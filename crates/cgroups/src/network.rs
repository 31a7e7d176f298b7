//! Class ids and priorities of packets: v1 only.

use crate::cgroup::{Cgroup, Home};
use crate::error::{Error, Result};
use crate::layout::{Controller, Layout};
use oci_spec::runtime::LinuxNetwork;

pub(crate) fn apply(cgroup: &Cgroup, network: &LinuxNetwork) -> Result<()> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        let (Home::V1(directory) | Home::V2(directory)) =
            v1_only(cgroup, Controller::NetCls, "net_cls.classid")?;
        directory.write("net_cls.classid", &class.to_string())?;
    }
    for priority in network.priorities().iter().flatten() {
        let name = priority.name();
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(Error::InvalidResource {
                setting: "network.priorities",
                value: name.chars().take(64).collect(),
                problem: "is not the name of an interface",
            });
        }
        let (Home::V1(directory) | Home::V2(directory)) =
            v1_only(cgroup, Controller::NetPrio, "net_prio.ifpriomap")?;
        let line = format!("{name} {}", priority.priority());
        directory.write("net_prio.ifpriomap", &line)?;
    }
    Ok(())
}

fn v1_only<'a>(
    cgroup: &'a Cgroup,
    controller: Controller,
    setting: &'static str,
) -> Result<Home<'a>> {
    if cgroup.layout() == Layout::V2 {
        return Err(Error::Unsupported {
            setting,
            version: "v2",
        });
    }
    cgroup.require(controller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{
        LinuxInterfacePriorityBuilder, LinuxNetworkBuilder, LinuxResources, LinuxResourcesBuilder,
    };

    fn resources(class: u32, interface: &str) -> LinuxResources {
        let priority = LinuxInterfacePriorityBuilder::default()
            .name(interface)
            .priority(5u32);
        let network = LinuxNetworkBuilder::default()
            .class_id(class)
            .priorities(vec![priority.build().unwrap()])
            .build()
            .unwrap();
        LinuxResourcesBuilder::default()
            .network(network)
            .build()
            .unwrap()
    }

    #[test]
    fn classes_and_priorities_are_written_on_v1_only() {
        let tree = FakeTree::v1(&["net_cls", "net_prio"]);
        let cgroup = tree.cgroup("/a");
        tree.put("net_cls/a", "net_cls.classid", "");
        tree.put("net_prio/a", "net_prio.ifpriomap", "");
        cgroup.apply(&resources(0x10_0001, "eth0")).unwrap();
        assert_eq!(tree.get("net_cls/a", "net_cls.classid"), "1048577");
        assert_eq!(tree.get("net_prio/a", "net_prio.ifpriomap"), "eth0 5");
        for name in ["", "a b", "a\nb 3"] {
            let error = cgroup.apply(&resources(0, name)).unwrap_err();
            assert!(matches!(error, Error::InvalidResource { .. }));
        }
        let v2 = FakeTree::v2("memory")
            .cgroup("/a")
            .apply(&resources(1, "eth0"))
            .unwrap_err();
        assert!(matches!(v2, Error::Unsupported { version: "v2", .. }));
    }
}
