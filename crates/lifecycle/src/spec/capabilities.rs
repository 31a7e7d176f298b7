//! What the processes of a container may do beyond any user's rights.

use std::collections::HashSet;
use std::fs;
use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::{Error, Result};
use crate::request::Security;

/// What a container may do unless told otherwise: the set that Docker made the convention.
const USUAL: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// All of them, each at the kernel's number for it.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What this process may hand on: what it has not in its own bounding set, no shim of it can give
/// to a container, and runtimes differ in whether they leave that out or fail.
pub fn to_give() -> Capabilities {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    in_status(&status).unwrap_or_else(|| ALL.into_iter().collect())
}

fn in_status(status: &str) -> Option<Capabilities> {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("CapBnd:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    let held = |(number, _): &(usize, Capability)| mask & (1 << number) != 0;
    let all = ALL.into_iter().enumerate();
    Some(all.filter(held).map(|(_, capability)| capability).collect())
}

/// What `security` asks for, as far as there is something `to_give`. Inheritable stays empty
/// (CVE-2022-24769) unless ambient capabilities, which need it, are asked for.
pub(super) fn of(security: &Security, to_give: &Capabilities) -> Result<LinuxCapabilities> {
    let mut set: Capabilities = if security.privileged {
        ALL.into_iter().collect()
    } else {
        USUAL.into_iter().collect()
    };
    if !security.privileged {
        let (add, drop) = (&security.add_capabilities, &security.drop_capabilities);
        adjust(&mut set, add, drop)?;
    }
    let field = "add_ambient_capabilities";
    let mut ambient = parse_all(&security.add_ambient_capabilities, field)?;
    set.extend(ambient.iter().copied());
    warn_of_missing(security, &set, to_give);
    set.retain(|capability| to_give.contains(capability));
    ambient.retain(|capability| to_give.contains(capability));
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?)
}

/// Whoever asks for all means all that there are; whoever names one would like to know.
fn warn_of_missing(security: &Security, set: &Capabilities, to_give: &Capabilities) {
    let all = security.privileged || names_all(&security.add_capabilities);
    let missing = || set.iter().filter(|wanted| !to_give.contains(wanted));
    if !all && missing().next().is_some() {
        let missing: Vec<String> = missing().map(ToString::to_string).collect();
        tracing::warn!(?missing, "capabilities that this daemon has not itself");
    }
}

fn names_all(names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("ALL"))
}

/// `ALL` first, then single names: "add ALL, drop X" and "drop ALL, add X" both mean what they say.
fn adjust(set: &mut Capabilities, add: &[String], drop: &[String]) -> Result<()> {
    if names_all(add) {
        set.extend(ALL);
    }
    if names_all(drop) {
        set.clear();
    }
    set.extend(parse_all(add, "add_capabilities")?);
    for dropped in parse_all(drop, "drop_capabilities")? {
        set.remove(&dropped);
    }
    Ok(())
}

fn parse_all(names: &[String], field: &'static str) -> Result<HashSet<Capability>> {
    names
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"))
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            Capability::from_str(bare)
                .map_err(|_| Error::invalid(field, format!("{name:?} is not a capability")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_read_by_the_kernel_s_numbers() {
        let set = in_status("Name:\tx\nCapEff:\t0\nCapBnd:\t0000010001000001\n").unwrap();
        let expected = [
            Capability::Chown,
            Capability::SysResource,
            Capability::CheckpointRestore,
        ];
        assert_eq!(set, expected.into());
        assert_eq!(in_status("CapEff:\t1\n"), None);
    }

    #[test]
    fn nobody_gets_what_there_is_not_to_give() {
        let to_give: Capabilities = [Capability::Chown, Capability::Kill].into();
        let privileged = Security {
            privileged: true,
            ..Security::default()
        };
        let all = Security {
            add_capabilities: vec!["all".into()],
            ..Security::default()
        };
        let ambient = Security {
            add_ambient_capabilities: vec!["KILL".into(), "SYS_TIME".into()],
            ..Security::default()
        };
        for security in [&privileged, &all, &ambient] {
            let sets = of(security, &to_give).unwrap();
            for set in [sets.bounding(), sets.permitted(), sets.effective()] {
                assert_eq!(set.as_ref(), Some(&to_give), "{security:?}");
            }
        }
        let sets = of(&ambient, &to_give).unwrap();
        for set in [sets.ambient(), sets.inheritable()] {
            assert_eq!(set.as_ref(), Some(&[Capability::Kill].into()));
        }
        assert_eq!(of(&all, &ALL.into()).unwrap().bounding(), &Some(ALL.into()));
    }
}
