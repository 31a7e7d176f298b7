//! Which devices may be opened or made.
//!
//! Rules act in their order on top of what the parent cgroup permits, on both
//! versions: a list that is meant to be complete starts with "deny all".

use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::device_program::{DeviceInsn, device_program};
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Somebody who can load a v2 device program and attach it to a cgroup
/// (`BPF_PROG_TYPE_CGROUP_DEVICE`, `BPF_CGROUP_DEVICE`), replacing the one
/// that it attached before.
pub trait DevicePrograms {
    /// Loads and attaches `program` to the cgroup directory `cgroup`. The
    /// descriptor is opened with `O_RDONLY | O_DIRECTORY`.
    fn attach(&self, cgroup: BorrowedFd<'_>, program: &[DeviceInsn]) -> io::Result<()>;
}

/// Nobody: device rules on v2 are an error then.
pub(crate) struct NoPrograms;

impl DevicePrograms for NoPrograms {
    fn attach(&self, _: BorrowedFd<'_>, _: &[DeviceInsn]) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "no loader for device programs was given",
        ))
    }
}

pub(crate) fn apply(
    cgroup: &Cgroup,
    rules: &[LinuxDeviceCgroup],
    programs: &dyn DevicePrograms,
) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let rules = rules
        .iter()
        .map(DeviceRule::of)
        .collect::<Result<Vec<_>>>()?;
    if let Some(directory) = cgroup.v1(Controller::Devices) {
        return apply_v1(directory, &rules);
    }
    let Some(directory) = cgroup.unified() else {
        // Says which controller it is that the host lacks.
        let (Home::V1(directory) | Home::V2(directory)) = cgroup.require(Controller::Devices)?;
        return apply_v1(directory, &rules);
    };
    let attach = |source| Error::DeviceProgram {
        path: directory.path().to_owned(),
        source,
    };
    let fd = std::fs::File::open(directory.path()).map_err(attach)?;
    programs
        .attach(fd.as_fd(), &device_program(&rules))
        .map_err(attach)
}

fn apply_v1(directory: &ControlDir, rules: &[DeviceRule]) -> Result<()> {
    for rule in rules {
        let file = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        for line in rule.v1_lines() {
            directory.write(file, &line)?;
        }
    }
    Ok(())
}

/// Kinds of devices that a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Any,
    Block,
    Char,
}

pub(crate) const MKNOD: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const WRITE: u8 = 4;
pub(crate) const EVERYTHING: u8 = MKNOD | READ | WRITE;

/// A rule that has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub(crate) allow: bool,
    pub(crate) kind: DeviceKind,
    /// `None` for any.
    pub(crate) major: Option<i32>,
    pub(crate) minor: Option<i32>,
    /// Bits as in `BPF_DEVCG_ACC_*`: mknod 1, read 2, write 4.
    pub(crate) access: u8,
}

impl DeviceRule {
    /// Checks a rule of a spec. A type, number or access that is left out
    /// means all; −1 means any number.
    pub fn of(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let invalid = |value: String, problem| Error::InvalidResource {
            setting: "devices",
            value,
            problem,
        };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => DeviceKind::Any,
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
            Some(LinuxDeviceType::P) => {
                return Err(invalid(
                    "p".to_owned(),
                    "is not a device: pipes have no rules",
                ));
            }
        };
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => match i32::try_from(value) {
                Ok(number) if number >= 0 => Ok(Some(number)),
                _ => Err(invalid(value.to_string(), "is not a device number")),
            },
        };
        let mut access = 0;
        for letter in rule.access().iter().flat_map(|access| access.chars()) {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => return Err(invalid(other.to_string(), "is not one of r, w and m")),
            };
        }
        Ok(Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access: if access == 0 { EVERYTHING } else { access },
        })
    }

    /// True if it speaks of every access to every device.
    pub(crate) fn is_total(&self) -> bool {
        self.kind == DeviceKind::Any
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == EVERYTHING
    }

    /// The v1 wording. The kernel takes `a` for everything and ignores what
    /// follows it, so a narrower rule for both kinds becomes two.
    fn v1_lines(&self) -> Vec<String> {
        if self.is_total() {
            return vec!["a *:* rwm".to_owned()];
        }
        let kinds: &[char] = match self.kind {
            DeviceKind::Any => &['b', 'c'],
            DeviceKind::Block => &['b'],
            DeviceKind::Char => &['c'],
        };
        let number = |number: Option<i32>| number.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .into_iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        kinds
            .iter()
            .map(|kind| format!("{kind} {major}:{minor} {access}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxResources, LinuxResourcesBuilder};
    use std::cell::RefCell;

    fn rule(allow: bool) -> LinuxDeviceCgroupBuilder {
        LinuxDeviceCgroupBuilder::default().allow(allow)
    }

    fn resources(rules: Vec<LinuxDeviceCgroup>) -> LinuxResources {
        LinuxResourcesBuilder::default()
            .devices(rules)
            .build()
            .unwrap()
    }

    #[test]
    fn rules_are_worded_as_v1_reads_them() {
        use LinuxDeviceType::{A, B, C, U};
        for (rule, lines) in [
            (rule(false), vec!["a *:* rwm"]),
            (rule(false).typ(A).access("rwm"), vec!["a *:* rwm"]),
            (rule(true).typ(A).access("m"), vec!["b *:* m", "c *:* m"]),
            (
                rule(true).typ(A).major(1i64),
                vec!["b 1:* rwm", "c 1:* rwm"],
            ),
            (
                rule(true).typ(C).major(1i64).minor(3i64).access("wr"),
                vec!["c 1:3 rw"],
            ),
            (rule(true).typ(B).minor(0i64).access(""), vec!["b *:0 rwm"]),
            (rule(true).typ(U).major(-1i64).access("m"), vec!["c *:* m"]),
        ] {
            let rule = DeviceRule::of(&rule.build().unwrap()).unwrap();
            assert_eq!(rule.v1_lines(), lines);
        }
    }

    #[test]
    fn impossible_rules_are_refused_before_anything_is_written() {
        let tree = FakeTree::v1(&["devices"]);
        let cgroup = tree.cgroup("/a");
        tree.put("devices/a", "devices.deny", "untouched");
        for bad in [
            rule(true).access("rx"),
            rule(true).access("r w"),
            rule(true).major(-2i64),
            rule(true).minor(1i64 << 40),
            rule(true).typ(LinuxDeviceType::P),
        ] {
            let rules = vec![rule(false).build().unwrap(), bad.build().unwrap()];
            let error = cgroup.apply(&resources(rules)).unwrap_err();
            assert!(matches!(
                error,
                Error::InvalidResource {
                    setting: "devices",
                    ..
                }
            ));
            assert_eq!(tree.get("devices/a", "devices.deny"), "untouched");
        }
    }

    #[test]
    fn v2_needs_somebody_to_attach_the_program() {
        struct Seen(RefCell<Vec<usize>>);
        impl DevicePrograms for Seen {
            fn attach(&self, _: BorrowedFd<'_>, program: &[DeviceInsn]) -> io::Result<()> {
                self.0.borrow_mut().push(program.len());
                Ok(())
            }
        }
        let tree = FakeTree::v2("memory");
        let cgroup = tree.cgroup("/a");
        let denied = resources(vec![rule(false).build().unwrap()]);
        assert!(matches!(
            cgroup.apply(&denied),
            Err(Error::DeviceProgram { .. })
        ));
        cgroup.apply(&resources(Vec::new())).unwrap();

        let seen = Seen(RefCell::default());
        cgroup.apply_with(&denied, &seen).unwrap();
        assert_eq!(seen.0.borrow().len(), 1);
    }

    #[test]
    fn a_v1_devices_hierarchy_is_used_on_hybrid() {
        let tree = FakeTree::v1(&["devices"]).and_unified("hugetlb");
        let cgroup = tree.cgroup("/a");
        tree.put("devices/a", "devices.deny", "");
        cgroup
            .apply(&resources(vec![rule(false).build().unwrap()]))
            .unwrap();
        assert_eq!(tree.get("devices/a", "devices.deny"), "a *:* rwm");
    }
}
