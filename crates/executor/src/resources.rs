//! Resources as the cgroup wants them.

use crate::error::{Error, Result};
use berth_cgroups::{CgroupPath, DeviceInsn, DevicePrograms, Property, PropertyValue, Scope};
use berth_kernel::BpfInstruction;
use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};
use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Where containers go whose spec names no cgroup.
const DEFAULT_PARENT: &str = "/berth";

/// Begins the names of scopes whose spec names none.
const UNIT_PREFIX: &str = "berth";

/// Begins annotations that are properties of a unit, as for runc and crun.
const PROPERTY: &str = "org.systemd.property.";

/// Where the spec wants a container's cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CgroupPlace {
    /// Made by its directories.
    Path(CgroupPath),
    /// Made by systemd.
    Unit(Scope),
}

/// The cgroup of a container: the spec's, or one of its own by its id.
///
/// `slice:prefix:name` is a scope. With `only_units` it is the only form, and
/// what an empty path stands for.
pub(crate) fn cgroup_place(
    id: &str,
    linux: Option<&Linux>,
    only_units: bool,
) -> Result<CgroupPlace> {
    let invalid = |source| Error::Cgroup {
        id: id.to_owned(),
        operation: "use its cgroup path",
        source,
    };
    let wanted = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let wanted = wanted.map(|path| path.to_string_lossy().into_owned());
    let path = match wanted.filter(|path| !path.is_empty()) {
        None if only_units => format!(":{UNIT_PREFIX}:{id}"),
        None => format!("{DEFAULT_PARENT}/{id}"),
        Some(path) => path,
    };
    if only_units || Scope::is_one(&path) {
        return Scope::parse(&path).map(CgroupPlace::Unit).map_err(invalid);
    }
    let absolute = format!("/{}", path.trim_start_matches('/'));
    CgroupPath::parse(&absolute)
        .map(CgroupPlace::Path)
        .map_err(invalid)
}

/// Properties of the unit that the spec gives as annotations, such as
/// `org.systemd.property.TimeoutStopUSec` with `uint64 5000000`.
pub(crate) fn unit_properties(id: &str, spec: &Spec) -> Result<Vec<Property>> {
    let annotations = spec.annotations().iter().flatten();
    let mut properties = annotations
        .filter_map(|(name, value)| Some((name.strip_prefix(PROPERTY)?, value)))
        .map(|(name, value)| {
            PropertyValue::of_annotation(name, value).map_err(|source| Error::Cgroup {
                id: id.to_owned(),
                operation: "set properties of its unit",
                source,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(properties)
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
        let place = |path: &str, only_units| {
            let mut linux = Linux::default();
            linux.set_cgroups_path(Some(path.into()));
            match cgroup_place("c1", Some(&linux), only_units)? {
                CgroupPlace::Path(path) => Ok(path.to_string()),
                CgroupPlace::Unit(scope) => Ok(scope.unit().to_owned()),
            }
        };
        assert_eq!(place("/a/b", false).unwrap(), "/a/b");
        assert_eq!(place("a", false).unwrap(), "/a");
        assert_eq!(place("", false).unwrap(), "/berth/c1");
        assert_eq!(place("a.slice:b:c", false).unwrap(), "b-c.scope");
        assert_eq!(place("", true).unwrap(), "berth-c1.scope");
        assert_eq!(place("user.slice::c", true).unwrap(), "c.scope");
        for (path, only_units) in [("/a/../../b", false), ("/a/b", true), ("a:b:c", true)] {
            let refused: Result<String> = place(path, only_units);
            assert!(matches!(refused, Err(Error::Cgroup { .. })), "{path}");
        }
    }

    #[test]
    fn annotations_become_properties() {
        let annotations = [
            ("org.systemd.property.TimeoutStopUSec", "uint64 5"),
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("other", "odd"),
        ];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut spec = Spec::default();
        spec.set_annotations(Some(annotations.into()));
        assert_eq!(
            unit_properties("c1", &spec).unwrap(),
            [
                (
                    "CollectMode".to_owned(),
                    PropertyValue::Text("inactive-or-failed".to_owned())
                ),
                ("TimeoutStopUSec".to_owned(), PropertyValue::U64(5)),
            ]
        );
    }
}
