//! Resources as the cgroup wants them.

use crate::error::{Error, Result};
use berth_cgroups::{CgroupPath, DeviceInsn, DevicePrograms};
use berth_kernel::BpfInstruction;
use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Where containers go whose spec names no cgroup.
const DEFAULT_PARENT: &str = "/berth";

/// The cgroup of a container: the spec's, or one of its own by its id.
pub(crate) fn cgroup_path(id: &str, linux: Option<&Linux>) -> Result<CgroupPath> {
    let wanted = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let wanted = wanted.map(|path| path.to_string_lossy().into_owned());
    let path = match wanted.filter(|path| !path.is_empty()) {
        None => format!("{DEFAULT_PARENT}/{id}"),
        Some(path) if path.starts_with('/') => path,
        Some(path) if path.matches(':').count() == 2 => {
            return Err(Error::Unsupported {
                id: id.to_owned(),
                feature: "a systemd cgroup path",
            });
        }
        Some(path) => format!("/{path}"),
    };
    CgroupPath::parse(&path).map_err(|source| Error::Cgroup {
        id: id.to_owned(),
        operation: "use its cgroup path",
        source,
    })
}

/// The resources with device rules that hold: all devices are denied unless
/// the spec says otherwise, and those that every container has are allowed.
pub(crate) fn with_device_rules(resources: Option<&LinuxResources>) -> LinuxResources {
    let mut resources = resources.cloned().unwrap_or_default();
    let wanted = resources.devices().clone().unwrap_or_default();
    let rules = std::iter::once(rule(false, LinuxDeviceType::A, None, None, "rwm"))
        .chain(wanted)
        .chain(default_rules())
        .collect();
    resources.set_devices(Some(rules));
    resources
}

/// Nodes may be made but not opened; the default devices and terminals may be
/// used.
fn default_rules() -> impl Iterator<Item = LinuxDeviceCgroup> {
    const NUMBERS: [(i64, Option<i64>); 9] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        // tun and tap, which no capability but CAP_NET_ADMIN makes useful.
        (10, Some(200)),
        (136, None),
    ];
    let nodes = [LinuxDeviceType::C, LinuxDeviceType::B]
        .into_iter()
        .map(|kind| rule(true, kind, None, None, "m"));
    let used = NUMBERS
        .into_iter()
        .map(|(major, minor)| rule(true, LinuxDeviceType::C, Some(major), minor, "rwm"));
    nodes.chain(used)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Loads device programs on v2 hosts, each in place of the one before.
#[derive(Debug, Default)]
pub(crate) struct DeviceLoader {
    attached: RefCell<Option<OwnedFd>>,
}

impl DevicePrograms for DeviceLoader {
    fn attach(&self, cgroup: BorrowedFd<'_>, program: &[DeviceInsn]) -> io::Result<()> {
        let program: Vec<BpfInstruction> = program
            .iter()
            .map(|instruction| BpfInstruction {
                code: instruction.code,
                registers: instruction.registers,
                offset: instruction.offset,
                immediate: instruction.immediate,
            })
            .collect();
        let loaded = berth_kernel::load_device_program(&program)?;
        let mut attached = self.attached.borrow_mut();
        berth_kernel::attach_device_program(cgroup, &loaded, attached.as_ref())?;
        *attached = Some(loaded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_denied_unless_the_spec_allows_them() {
        let rules = with_device_rules(None).devices().clone().unwrap();
        assert!(!rules[0].allow());
        assert_eq!(rules[0].typ(), Some(LinuxDeviceType::A));
        assert!(rules[1..].iter().all(LinuxDeviceCgroup::allow));

        let mut privileged = LinuxResources::default();
        let all = rule(true, LinuxDeviceType::A, None, None, "rwm");
        privileged.set_devices(Some(vec![all.clone()]));
        let rules = with_device_rules(Some(&privileged))
            .devices()
            .clone()
            .unwrap();
        assert_eq!(rules[1], all);
    }

    #[test]
    fn a_cgroup_path_is_taken_from_the_spec_or_made_of_the_id() {
        let path = |path: &str| {
            let mut linux = Linux::default();
            linux.set_cgroups_path(Some(path.into()));
            cgroup_path("c1", Some(&linux))
        };
        assert_eq!(path("/a/b").unwrap().as_str(), "/a/b");
        assert_eq!(path("a").unwrap().as_str(), "/a");
        assert_eq!(path("").unwrap().as_str(), "/berth/c1");
        assert!(matches!(
            path("a.slice:b:c"),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(path("/a/../../b"), Err(Error::Cgroup { .. })));
    }
}
