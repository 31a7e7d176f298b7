//! A pod's sysctls: which ones may be set, and how. Only those that the kernel keeps per namespace
//! are taken, and only when the pod has that namespace for itself; any other would change the host.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The namespaces that a pod has for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// A sysctl whose name has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    pub name: String,
    pub value: String,
    /// Below `/proc/sys`.
    path: PathBuf,
    /// It belongs to an interface that exists only once the network is set up.
    pub deferred: bool,
}

const IPC_NAMES: &[&str] = &[
    "auto_msgmni",
    "msgmax",
    "msgmnb",
    "msgmni",
    "msg_next_id",
    "sem",
    "sem_next_id",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_next_id",
    "shm_rmid_forced",
];
const INTERFACES_OF_EVERY_NAMESPACE: &[&str] = &["all", "default", "lo"];

impl Sysctl {
    pub(crate) fn check(name: &str, value: &str, owned: Owned) -> Result<Self> {
        let refuse = |reason| Error::SysctlRefused {
            name: name.chars().take(128).collect(),
            reason,
        };
        let parts = components(name).ok_or_else(|| refuse("the name is malformed"))?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if value.contains(['\n', '\0']) {
            return Err(refuse("the value has more than one line"));
        }
        let allowed = match parts.as_slice() {
            ["net", _, ..] => owned.net,
            ["kernel", knob] if IPC_NAMES.contains(knob) => owned.ipc,
            ["fs", "mqueue", _] => owned.ipc,
            ["kernel", "domainname" | "hostname"] => owned.uts,
            _ => return Err(refuse("the kernel does not keep it per namespace")),
        };
        if !allowed {
            return Err(refuse("the pod shares that namespace with the host"));
        }
        let deferred = matches!(parts.as_slice(),
            ["net", "ipv4" | "ipv6", "conf" | "neigh", interface, ..]
                if !INTERFACES_OF_EVERY_NAMESPACE.contains(interface));
        let path = parts.iter().collect();
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
            path,
            deferred,
        })
    }

    /// Writes it in the namespaces of the calling thread.
    pub(crate) fn write(&self) -> Result<()> {
        let path = Path::new("/proc/sys").join(&self.path);
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(self.value.as_bytes()))
            .map_err(|source| Error::SysctlWrite {
                name: self.name.clone(),
                value: self.value.chars().take(128).collect(),
                source,
            })
    }
}

/// Splits a name into path components. Both customary forms are read: with dots (a slash then
/// stands for a dot inside a component) and with slashes (dots then stand for themselves).
fn components(name: &str) -> Option<Vec<String>> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let parts: Vec<String> = name
        .split(separator)
        .map(|part| {
            if separator == '.' {
                part.replace('/', ".")
            } else {
                part.to_owned()
            }
        })
        .collect();
    let good = |part: &String| {
        !matches!(part.as_str(), "" | "." | "..")
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.:@".contains(&b))
    };
    parts.iter().all(good).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Owned = Owned {
        net: true,
        ipc: true,
        uts: true,
    };

    #[test]
    fn namespaced_sysctls_find_their_files() {
        for (name, path, deferred) in [
            (
                "net.ipv4.ip_unprivileged_port_start",
                "net/ipv4/ip_unprivileged_port_start",
                false,
            ),
            (
                "net/ipv4/ping_group_range",
                "net/ipv4/ping_group_range",
                false,
            ),
            (
                "net.ipv4.conf.all.rp_filter",
                "net/ipv4/conf/all/rp_filter",
                false,
            ),
            (
                "net.ipv4.conf.eth0/1.rp_filter",
                "net/ipv4/conf/eth0.1/rp_filter",
                true,
            ),
            (
                "net/ipv6/conf/eth0.1/accept_ra",
                "net/ipv6/conf/eth0.1/accept_ra",
                true,
            ),
            ("kernel.shmmax", "kernel/shmmax", false),
            ("kernel.sem", "kernel/sem", false),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max", false),
            ("kernel.domainname", "kernel/domainname", false),
        ] {
            let sysctl = Sysctl::check(name, "1", ALL).unwrap();
            assert_eq!(
                (sysctl.path.to_str(), sysctl.deferred),
                (Some(path), deferred),
                "{name}"
            );
        }
    }

    #[test]
    fn sysctls_of_the_whole_host_are_refused() {
        for name in [
            "",
            "net",
            "net.",
            ".net",
            "kernel.core_pattern",
            "kernel.sysrq",
            "vm.swappiness",
            "net..core",
            "net.ipv4.../../kernel/core_pattern",
            "net/../kernel/core_pattern",
            "kernel.shmmax/../core_pattern",
            "fs.mqueue.a.b",
            "fs.file-max",
            "net.ipv4.\0",
            "kernel/shm*",
            "net/./x",
        ] {
            assert!(Sysctl::check(name, "1", ALL).is_err(), "{name:?} was taken");
        }
        assert!(Sysctl::check("net.core.somaxconn", "1\nx", ALL).is_err());
    }

    #[test]
    fn a_shared_namespace_takes_no_sysctls() {
        for (name, owned) in [
            ("net.core.somaxconn", Owned { net: false, ..ALL }),
            ("kernel.shmmax", Owned { ipc: false, ..ALL }),
            ("kernel.hostname", Owned { uts: false, ..ALL }),
        ] {
            assert!(Sysctl::check(name, "1", owned).is_err());
            assert!(Sysctl::check(name, "1", ALL).is_ok());
        }
    }
}
